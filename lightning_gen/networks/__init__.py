"""Pure networks, made from an ImageSpec."""

from lightning_gen.networks.classifier import SmallClassifier
from lightning_gen.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_gen.networks.dense_conv import DenseDiscriminator, DenseToConvGenerator
from lightning_gen.networks.mlp import MLPDiscriminator, MLPGenerator
from lightning_gen.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from lightning_gen.networks.resnet import ResNetDiscriminator, ResNetGenerator
from lightning_gen.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator

__all__ = [
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DenseDiscriminator",
    "DenseToConvGenerator",
    "MLPDiscriminator",
    "MLPGenerator",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "SmallClassifier",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
]
