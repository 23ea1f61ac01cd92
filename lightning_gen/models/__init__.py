"""One LightningModule per family."""

from lightning_gen.models.base import GenerativeModule, ImageModule
from lightning_gen.models.checkpoint import load, read_checkpoint
from lightning_gen.models.classical import (
    CategoricalEmission,
    CategoricalMixture,
    ChowLiuMixture,
    GaussianEmission,
    GaussianMixture,
    HiddenMarkovModel,
    Uniform,
)
from lightning_gen.models.classifier import Classifier
from lightning_gen.models.codes import Codes
from lightning_gen.models.gan import GAN
from lightning_gen.models.hierarchical_vae import HierarchicalVAE
from lightning_gen.models.semi_supervised import SemiSupervisedVAE
from lightning_gen.models.vae import VAE
from lightning_gen.models.vqvae import VQVAE

__all__ = [
    "GAN",
    "VAE",
    "VQVAE",
    "CategoricalEmission",
    "CategoricalMixture",
    "ChowLiuMixture",
    "Classifier",
    "Codes",
    "GaussianEmission",
    "GaussianMixture",
    "GenerativeModule",
    "HiddenMarkovModel",
    "HierarchicalVAE",
    "ImageModule",
    "SemiSupervisedVAE",
    "Uniform",
    "load",
    "read_checkpoint",
]
