"""One LightningModule per family."""

from lightning_gen.models.base import GenerativeModule, HasCompletion, HasLatent, HasLikelihood, ImageModule, Likelihood
from lightning_gen.models.checkpoint import load, read_checkpoint
from lightning_gen.models.gan import GAN

__all__ = [
    "GAN",
    "GenerativeModule",
    "HasCompletion",
    "HasLatent",
    "HasLikelihood",
    "ImageModule",
    "Likelihood",
    "load",
    "read_checkpoint",
]
