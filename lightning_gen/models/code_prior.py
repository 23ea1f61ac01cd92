"""Prior distributions over the codes of a VQ-VAE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_gen.core import HasLikelihood, ImageSpec, InputError, Likelihood, Unavailable, evaluating
from lightning_gen.distributions.histograms import CodeHistograms
from lightning_gen.models.base import GenerativeModule
from lightning_gen.models.checkpoint import load
from lightning_gen.samplers import CodeSampler

if TYPE_CHECKING:
    from lightning_gen.models.vqvae import VQVAE


class CodePrior(ABC):
    """A distribution p(c) of codes (B, h, w).

    Attributes:
        conditional: whether it is class-conditional.
        evaluations: number of network evaluations of the last call of :meth:`sample`.
    """

    conditional = False
    evaluations = 0

    def check(self, model: VQVAE) -> None:  # noqa: B027 (histograms are the model's own)
        """Raise InputError if it was not fitted to codes of this model with its current weights."""

    @abstractmethod
    def likelihood(self, indices: Tensor, labels: Tensor | None, generator: torch.Generator | None) -> Likelihood:
        """Return log p(c), nats (B,), of codes (B, h, w)."""

    @abstractmethod
    def sample(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw codes, int64 (n, h, w)."""


class HistogramPrior(CodePrior):
    r"""Independent codes with the training frequencies of each position, :math:`p(c) = \prod_{ij} p_{ij}(c_{ij})`."""

    def __init__(self, histograms: CodeHistograms):
        self.histograms = histograms

    def likelihood(self, indices: Tensor, labels: Tensor | None, generator: torch.Generator | None) -> Likelihood:
        return Likelihood(self.histograms.log_prob(indices), "exact")

    def sample(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.histograms.sample(n, generator)


class FittedPrior(CodePrior):
    """A generative model of code grids, taken as images whose levels are the codes.

    Args:
        spec: format of the code grids as images.
        sampler: its ``prior`` is the model, or the path of the model's checkpoint.

    Raises:
        InputError: for a model of other images, or one that was not fitted to codes.
    """

    def __init__(self, spec: ImageSpec, sampler: CodeSampler):
        given = sampler.prior
        self.name = given if isinstance(given, str) else f"this {type(given).__name__}"
        self.model = load(given, trust=sampler.trust) if isinstance(given, str) else given
        if not isinstance(self.model, GenerativeModule):
            raise InputError(f"sampler.prior: {self.name} holds a {type(self.model).__name__}, which draws nothing")
        of = self.model.spec
        if (of.shape, of.levels) != (spec.shape, spec.levels):
            raise InputError(
                f"sampler.prior: {self.name} is of images {of.shape} with {of.levels} levels, and the codes are "
                f"{spec.shape} with {spec.levels}: fit a prior to the codes of this model"
            )
        source = (self.model.trained_on or {}).get("init_args", {}).get("source", {})
        self.fingerprint = source.get("init_args", {}).get("fingerprint_of_codes") if isinstance(source, dict) else None
        if self.fingerprint is None:
            raise InputError(
                f"sampler.prior: {self.name} was not fitted to codes: fit a model with data.source "
                "lightning_gen.models.Codes"
            )

    @property
    def conditional(self) -> bool:
        return self.model.conditional

    @property
    def evaluations(self) -> int:
        return self.model.sampler.evaluations

    def check(self, model: VQVAE) -> None:
        if self.fingerprint != model.fingerprint():
            raise InputError(
                f"sampler.prior: {self.name} was fitted to the codes of other weights than these: fit it to the codes "
                "of this checkpoint"
            )

    def likelihood(self, indices: Tensor, labels: Tensor | None, generator: torch.Generator | None) -> Likelihood:
        if not isinstance(self.model, HasLikelihood):
            raise Unavailable(
                f"sampler.prior: a {type(self.model).__name__} draws codes and does not say how likely they are: fit a "
                "prior that has a likelihood"
            )
        prior = self.model.to(indices.device)
        with evaluating(prior):
            return prior.likelihood(indices[:, None].to(prior.spec.dtype), labels, generator=generator)

    def sample(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.model.sample(n, labels, generator=generator)[:, 0].to(torch.int64)
