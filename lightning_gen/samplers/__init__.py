"""Procedures that draw: what is between a model's noise and its images."""

from lightning_gen.samplers.latent import LatentSampler, slerp

__all__ = ["LatentSampler", "slerp"]
