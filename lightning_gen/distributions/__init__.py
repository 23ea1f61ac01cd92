"""Distributions of latents, pixels and images; log probabilities are in nats."""

from lightning_gen.distributions.categorical import CategoricalComponents
from lightning_gen.distributions.chow_liu import TreeComponents
from lightning_gen.distributions.components import Components
from lightning_gen.distributions.discretized_gaussian import DiscretizedGaussian
from lightning_gen.distributions.gaussian import (
    DiagonalGaussianComponents,
    FullGaussianComponents,
    LowRankGaussianComponents,
)
from lightning_gen.distributions.latents import (
    DiagonalPosterior,
    FlowPosterior,
    FlowPrior,
    FullPosterior,
    MixturePrior,
    Posterior,
    Prior,
    StandardNormal,
    VampPrior,
)
from lightning_gen.distributions.pixels import (
    BernoulliPixels,
    CategoricalPixels,
    GaussianPixels,
    LogisticPixels,
    PixelLikelihood,
)

__all__ = [
    "BernoulliPixels",
    "CategoricalComponents",
    "CategoricalPixels",
    "Components",
    "DiagonalGaussianComponents",
    "DiagonalPosterior",
    "DiscretizedGaussian",
    "FlowPosterior",
    "FlowPrior",
    "FullGaussianComponents",
    "FullPosterior",
    "GaussianPixels",
    "LogisticPixels",
    "LowRankGaussianComponents",
    "MixturePrior",
    "PixelLikelihood",
    "Posterior",
    "Prior",
    "StandardNormal",
    "TreeComponents",
    "VampPrior",
]
