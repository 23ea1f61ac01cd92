"""Models fitted by expectation maximisation, and the uniform baseline."""

from lightning_gen.models.classical.base import ClassicalModel
from lightning_gen.models.classical.hmm import CategoricalEmission, GaussianEmission, HiddenMarkovModel
from lightning_gen.models.classical.mixture import CategoricalMixture, ChowLiuMixture, GaussianMixture
from lightning_gen.models.classical.uniform import Uniform

__all__ = [
    "CategoricalEmission",
    "CategoricalMixture",
    "ChowLiuMixture",
    "ClassicalModel",
    "GaussianEmission",
    "GaussianMixture",
    "HiddenMarkovModel",
    "Uniform",
]
