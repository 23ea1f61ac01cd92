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
from lightning_gen.models.gan import GAN
from lightning_gen.models.hmm import CategoricalEmission, GaussianEmission, HiddenMarkovModel
from lightning_gen.models.mixture import CategoricalMixture, ChowLiuMixture, GaussianMixture, Uniform

__all__ = [
    "GAN",
    "CategoricalEmission",
    "CategoricalMixture",
    "ChowLiuMixture",
    "Classifier",
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
    "ImageModule",
    "Likelihood",
    "Uniform",
    "load",
    "read_checkpoint",
]
