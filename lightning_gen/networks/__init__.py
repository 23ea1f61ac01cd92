"""Pure networks, made from an ImageSpec."""

from lightning_gen.networks.classifier import SmallClassifier
from lightning_gen.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_gen.networks.mlp import MLPDiscriminator, MLPGenerator

__all__ = ["DCGANDiscriminator", "DCGANGenerator", "MLPDiscriminator", "MLPGenerator", "SmallClassifier"]
