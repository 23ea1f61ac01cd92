"""One LightningModule per family."""

from lightning_gen.models.base import (
    GenerativeModule,
    HasCompletion,
    HasLatent,
    HasLatentLikelihood,
    HasLikelihood,
    HasPixelMean,
    HasPixelPredictions,
    HasPixelTerms,
    ImageModule,
    Likelihood,
)
from lightning_gen.models.checkpoint import load, read_checkpoint
from lightning_gen.models.classifier import Classifier
from lightning_gen.models.codes import Codes
from lightning_gen.models.gan import GAN
from lightning_gen.models.hierarchical_vae import HierarchicalVAE
from lightning_gen.models.hmm import CategoricalEmission, GaussianEmission, HiddenMarkovModel
from lightning_gen.models.mixture import CategoricalMixture, ChowLiuMixture, GaussianMixture, Uniform
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
    "HasCompletion",
    "HasLatent",
    "HasLatentLikelihood",
    "HasLikelihood",
    "HasPixelMean",
    "HasPixelPredictions",
    "HasPixelTerms",
    "HiddenMarkovModel",
    "HierarchicalVAE",
    "ImageModule",
    "Likelihood",
    "SemiSupervisedVAE",
    "Uniform",
    "load",
    "read_checkpoint",
]
