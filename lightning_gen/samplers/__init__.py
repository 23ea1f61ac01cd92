"""Procedures that draw."""

from lightning_gen.samplers.latent import LatentSampler

__all__ = ["LatentSampler"]
