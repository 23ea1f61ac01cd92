"""Procedures that draw: what is between a model's noise and its images, and how likely images are under it."""

from lightning_gen.samplers.ais import AnnealedImportanceSampling, GaussianDecoder, LatentTarget, importance_sampling
from lightning_gen.samplers.codes import CodeSampler
from lightning_gen.samplers.latent import LatentSampler, PriorSampler, slerp

__all__ = [
    "AnnealedImportanceSampling",
    "CodeSampler",
    "GaussianDecoder",
    "LatentSampler",
    "LatentTarget",
    "PriorSampler",
    "importance_sampling",
    "slerp",
]
