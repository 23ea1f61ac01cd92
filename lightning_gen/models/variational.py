"""The base class of variational autoencoders with one or several layers of latents."""

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lightning_gen.core import (
    Figure,
    ImageSpec,
    InputError,
    Likelihood,
    TrainingContext,
    at_least_float32,
    check_at_least,
    evaluating,
    fresh_generator,
    full_precision,
    heeded_labels,
    keyed_generator,
    normal,
    required_labels,
    watched,
)
from lightning_gen.data import Batch
from lightning_gen.distributions import PixelLikelihood, Prior
from lightning_gen.models.base import GenerativeModule
from lightning_gen.objectives import ELBO, Terms, VariationalObjective
from lightning_gen.samplers import PriorSampler

ROWS_AT_ONCE = 8192  # decoded images per chunk: memory must not grow with the number of importance samples
NUMBERS_AT_ONCE = 2**26  # elements of one full-resolution feature map of a chunk
COMMON_WIDTH = 64  # assumed channels of a network's full-resolution feature maps


RECONSTRUCTION = Figure("reconstruction", "negative log-probability of the pixels given their latent, nats per image")


class VariationalModel(GenerativeModule):
    r"""A latent-variable model :math:`p(x, z) = p(z)\, p(x \mid z)`, z in R^D, with an approximate posterior q(z | x).

    A subclass sets ``latent_dim`` and ``prior`` and implements :meth:`terms`, :meth:`encode` and
    :meth:`pixel_parameters`; this class implements training, the importance-weighted bound and sampling.

    Args:
        spec, optimizer, likelihood, objective, importance_samples, sampler: as in :class:`lightning_gen.models.VAE`.

    Raises:
        InputError: for fewer than 1 importance sample.
    """

    latent_dim: int
    prior: Prior

    figures = (
        *GenerativeModule.figures,
        RECONSTRUCTION,
        Figure("kl", "divergence of the posterior from the prior, nats per image"),
        Figure("kl_per_dimension", "that of each coordinate of the latent"),
        Figure("active_units", "coordinates of the latent that tell images apart"),
    )

    def __init__(
        self,
        spec: ImageSpec,
        optimizer: OptimizerCallable,
        likelihood: Callable[[ImageSpec], PixelLikelihood],
        objective: VariationalObjective | None = None,
        importance_samples: int = 100,
        sampler: PriorSampler | None = None,
    ):
        super().__init__(spec, sampler or PriorSampler())
        check_at_least(self, 1, importance_samples=importance_samples)
        self.pixels = likelihood(self.spec)
        self.optimizer = optimizer
        self.objective = objective or ELBO()
        self.importance_samples = importance_samples

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        noise = self.context.normal("posterior", self.objective.samples, len(batch.levels), self.latent_dim, dim=1)
        terms = self.terms(batch.levels, batch.labels, noise)
        with full_precision(self.device):
            loss = self.objective(terms, self.context).mean()
            self.track(loss=loss, reconstruction=-terms.log_conditional, kl=terms.divergence)
        self.count_images(batch)
        return loss

    @abstractmethod
    def terms(self, levels: Tensor, labels: Tensor | None, noise: Tensor) -> Terms:
        """Return the ELBO's terms of levels (B, C, H, W), with latents sampled from N(0, I) noise (K, B, D)."""

    @abstractmethod
    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the posterior means (B, D) of levels (B, C, H, W)."""

    @abstractmethod
    def pixel_parameters(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        """Return the parameters (B, out_channels, H, W) of p(x | z) for latents (B, D)."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def log_conditional(self, levels: Tensor, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(x | z), nats (K, B), of levels (B, C, H, W) and latents (K, B, D), differentiably."""
        count, n = latent.shape[:2]
        if count > 1:
            levels, labels = levels.repeat(count, 1, 1, 1), None if labels is None else labels.repeat(count)
        theta = self.pixel_parameters(latent.flatten(0, 1), labels)
        with full_precision(self.device):
            return self.pixels.log_prob(levels, at_least_float32(theta)).view(count, n)

    @property
    def latents(self) -> str:
        return "normal" if self.prior.is_standard_normal else "continuous"

    @property
    def latent_shape(self) -> tuple[int]:
        return (self.latent_dim,)

    def draw_latents(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        with evaluating(self):
            return self.prior.sample(n, generator)

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, D) to levels (B, C, H, W), the expected values of the pixels."""
        if latent.ndim != 2 or latent.shape[1] != self.latent_dim:
            raise InputError(f"{type(self).__name__}: latents are (B, {self.latent_dim}), got {tuple(latent.shape)}")
        with evaluating(self):
            theta = self.pixel_parameters(latent, required_labels(self, labels, len(latent)))
            return self.spec.to_levels(self.pixels.mean(theta.float()))

    def likelihood(
        self, levels: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        r"""Return the importance-weighted bound :math:`\mathbb E \log \frac1K \sum_k w_k \le \log p(x)`, nats (B,).

        Of a class-conditional model it is that on :math:`\log p(x \mid y)`, or without labels, by one such bound for
        each class, on :math:`\log \sum_y p(y)\, p(x \mid y)` with the classes' training frequencies.
        """
        self.spec.check(levels)
        generator = generator or fresh_generator()
        if labels is None and self.conditional:
            classes = torch.arange(self.spec.num_classes, device=self.device)[:, None].expand(-1, len(levels))
            bounds = [self.likelihood(levels, own, generator=generator) for own in watched(classes)]
            nats = torch.stack([bound.nats for bound in bounds])
            return bounds[0]._replace(nats=(nats + self.class_shares.to(nats)[:, None].log()).logsumexp(0))
        labels = heeded_labels(self, labels, len(levels))
        rows = rows_at_once(self.spec, self.pixels.out_channels)
        parts = [slice(first, first + rows) for first in range(0, max(len(levels), 1), rows)]
        bounds = [
            importance_bound(self, levels[part], None if labels is None else labels[part], rows, generator)
            for part in watched(parts)
        ]
        return Likelihood(torch.cat(bounds), "bound", self.importance_samples)

    def posterior_noise(self, count: int, n: int, generator: torch.Generator) -> Tensor:
        """Draw the noise (K, B, D) of :meth:`terms`."""
        return normal(count, n, self.latent_dim, generator=generator, device=self.device)

    def diagnosed_terms(self, batch: Batch) -> tuple[Terms, dict[str, Tensor]]:
        r"""Return terms of a batch with one latent per image, and the two parts of the negative ELBO, nats (B,):
        ``kl`` and ``reconstruction``, :math:`-\log p(x \mid z)`."""
        labels = batch.labels if self.conditional else None
        generator = keyed_generator(self.seed, "diagnostics", self.images_seen)
        terms = self.terms(batch.levels, labels, self.posterior_noise(1, len(batch.levels), generator))
        return terms, {"kl": terms.divergence, "reconstruction": -terms.log_conditional[0]}


def importance_bound(
    model: VariationalModel, levels: Tensor, labels: Tensor | None, rows: int, generator: torch.Generator
) -> Tensor:
    r"""Return :math:`\log \frac1K \sum_k w_k`, float64 nats (B,), with about ``rows`` latents per decoder call."""
    found, size = [], max(1, rows // max(len(levels), 1))
    for first in range(0, model.importance_samples, size):
        count = min(size, model.importance_samples - first)
        terms = model.terms(levels, labels, model.posterior_noise(count, len(levels), generator))
        with full_precision(model.device):
            found.append(terms.log_weights.double())
    return torch.logsumexp(torch.cat(found), 0) - math.log(model.importance_samples)


def rows_at_once(spec: ImageSpec, channels: int) -> int:
    """Return how many images are decoded at once, given the decoder's number of output channels."""
    width = max(channels, COMMON_WIDTH)
    return max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // (width * spec.height * spec.width)))


def check_objective(model: VariationalModel) -> None:
    """Run networks and objective on two blank images.

    Raises:
        InputError: for an objective that does not work with the model's parts; the message names it.
    """
    spec, objective = model.spec, model.objective
    levels = torch.zeros(2, *spec.shape, dtype=spec.dtype)
    labels = torch.zeros(2, dtype=torch.int64) if spec.num_classes else None
    with evaluating(model):
        terms = model.terms(levels, labels, torch.zeros(objective.samples, 2, model.latent_dim))
        try:
            objective(terms, TrainingContext())
        except InputError as error:
            raise InputError(f"{type(model).__name__}: {type(objective).__name__}: {error}") from error
