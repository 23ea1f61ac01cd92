"""Neural networks, constructed from an ImageSpec."""

from lightning_gen.networks.autoencoder import (
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    ResNetDecoder,
    ResNetEncoder,
)
from lightning_gen.networks.classifier import SmallClassifier
from lightning_gen.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_gen.networks.dense_conv import DenseDiscriminator, DenseToConvGenerator
from lightning_gen.networks.ladder import LadderNetwork
from lightning_gen.networks.mlp import MLPDiscriminator, MLPGenerator
from lightning_gen.networks.quantize import FSQ, VectorQuantizer
from lightning_gen.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from lightning_gen.networks.resnet import ResNetDiscriminator, ResNetGenerator
from lightning_gen.networks.stylegan2 import HasStyles, StyleGAN2Discriminator, StyleGAN2Generator
from lightning_gen.networks.vq_autoencoder import GridDecoder, GridEncoder

__all__ = [
    "FSQ",
    "ConvDecoder",
    "ConvEncoder",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DenseDiscriminator",
    "DenseToConvGenerator",
    "GridDecoder",
    "GridEncoder",
    "HasStyles",
    "LadderNetwork",
    "MLPDecoder",
    "MLPDiscriminator",
    "MLPEncoder",
    "MLPGenerator",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "ResNetDecoder",
    "ResNetDiscriminator",
    "ResNetEncoder",
    "ResNetGenerator",
    "SmallClassifier",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "VectorQuantizer",
]
