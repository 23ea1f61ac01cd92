"""Procedures that draw: what is between a model's noise and its images, and how likely images are under it."""

from lightning_gen.samplers.ais import AnnealedImportanceSampling, GaussianDecoder, LatentTarget, importance_sampling
from lightning_gen.samplers.latent import LatentSampler, slerp

__all__ = [
    "AnnealedImportanceSampling",
    "GaussianDecoder",
    "LatentSampler",
    "LatentTarget",
    "importance_sampling",
    "slerp",
]
