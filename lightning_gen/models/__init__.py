"""One LightningModule per family."""

from lightning_gen.models.base import GenerativeModule, HasCompletion, HasLatent, HasLikelihood, ImageModule, Likelihood
from lightning_gen.models.checkpoint import load, read_checkpoint
from lightning_gen.models.classifier import Classifier
from lightning_gen.models.gan import GAN

__all__ = [
    "GAN",
    "Classifier",
    "GenerativeModule",
    "HasCompletion",
    "HasLatent",
    "HasLikelihood",
    "ImageModule",
    "Likelihood",
    "load",
    "read_checkpoint",
]
