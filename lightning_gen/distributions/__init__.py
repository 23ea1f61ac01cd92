"""Priors, components and noise: distributions as pure modules, in nats."""

from lightning_gen.distributions.categorical import CategoricalComponents
from lightning_gen.distributions.chow_liu import TreeComponents
from lightning_gen.distributions.components import Components
from lightning_gen.distributions.discretized_gaussian import DiscretizedGaussian
from lightning_gen.distributions.gaussian import (
    DiagonalGaussianComponents,
    FullGaussianComponents,
    LowRankGaussianComponents,
)
from lightning_gen.distributions.noise import dequantization_noise

__all__ = [
    "CategoricalComponents",
    "Components",
    "DiagonalGaussianComponents",
    "DiscretizedGaussian",
    "FullGaussianComponents",
    "LowRankGaussianComponents",
    "TreeComponents",
    "dequantization_noise",
]
