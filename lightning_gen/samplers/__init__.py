"""Sampling procedures, and likelihood estimation by importance sampling."""

from lightning_gen.samplers.ais import AnnealedImportanceSampling, LatentTarget, importance_sampling
from lightning_gen.samplers.base import AncestralSampler, Sampler
from lightning_gen.samplers.decoders import GaussianDecoder, decoder_of, is_decoder
from lightning_gen.samplers.latent import CodeSampler, LatentSampler, PriorSampler, StyleSampler, interpolate, slerp

__all__ = [
    "AncestralSampler",
    "AnnealedImportanceSampling",
    "CodeSampler",
    "GaussianDecoder",
    "LatentSampler",
    "LatentTarget",
    "PriorSampler",
    "Sampler",
    "StyleSampler",
    "decoder_of",
    "importance_sampling",
    "interpolate",
    "is_decoder",
    "slerp",
]
