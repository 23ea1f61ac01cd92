"""What all variational autoencoders share, however many layers of latents they have."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lightning_gen.data import Batch, ImageDataModule
from lightning_gen.distributions import CategoricalComponents, PixelLikelihood, Prior, StandardNormal
from lightning_gen.distributions.components import add_statistics, rows_at_once
from lightning_gen.errors import InputError
from lightning_gen.metrics import bits_per_dimension
from lightning_gen.models.base import GenerativeModule, Likelihood, evaluating, full_precision
from lightning_gen.objectives import ELBO, Terms, VariationalObjective
from lightning_gen.samplers import PriorSampler
from lightning_gen.spec import ImageSpec

ROWS_AT_ONCE = 8192  # decoded images: a bound of many importance samples must not take memory in proportion
NUMBERS_AT_ONCE = 2**26  # of one map of theirs: large images are decoded fewer at once
COMMON_WIDTH = 64  # of a network's largest map, where the likelihood does not need more
MOST_PIXELS = 2**26  # that independent pixels are fitted to: a few seconds, once


class VariationalModel(GenerativeModule):
    r"""A model with latents z of D numbers, p(x, z) = p(z) p(x | z), trained with an approximate posterior q(z | x).

    A subclass sets ``latent_dim`` and ``prior``, and implements :meth:`terms`, :meth:`encode`, :meth:`planes_of` and
    ``diagnostics``; training, the importance-weighted bound and sampling are here. Noise is drawn for the global batch.

    Args:
        spec: images, the data module's.
        optimizer: factory of the optimizer of everything.
        likelihood: factory of the pixels' distribution from the spec.
        objective: what is minimised; the negative ELBO if not given.
        importance_samples: latents for each image of the likelihood.
        sampler: how :meth:`sample` draws.

    Raises:
        InputError: for fewer than 1 importance sample, and what does not fit the images.
    """

    latent_dim: int
    prior: Prior

    def __init__(
        self,
        spec: ImageSpec,
        optimizer: OptimizerCallable,
        likelihood: Callable[[ImageSpec], PixelLikelihood],
        objective: VariationalObjective | None = None,
        importance_samples: int = 100,
        sampler: PriorSampler | None = None,
    ):
        super().__init__(spec)
        if importance_samples < 1:
            raise InputError(f"{self._name}: importance_samples must be at least 1, got {importance_samples}")
        self.pixels = likelihood(self.spec)
        self.optimizer = optimizer
        self.objective = objective or ELBO()
        self.importance_samples = importance_samples
        self.sampler = sampler or PriorSampler()
        self.num_images = 1
        self._independent: tuple[CategoricalComponents, ...] = ()  # no part of this model: a tuple hides it from torch

    @property
    def _name(self) -> str:
        return type(self).__name__

    # --- what a subclass is ---------------------------------------------------------------------------------------

    @abstractmethod
    def terms(self, levels: Tensor, labels: Tensor | None, noise: Tensor, exact_kl: bool = True) -> Terms:
        """Return what the model says of levels (B, C, H, W), with latents made of ``noise`` (K, B, D).

        Args:
            levels: images.
            labels: classes (B,), or None.
            noise: standard normal.
            exact_kl: whether the divergence is wanted in closed form, where there is one.
        """

    @abstractmethod
    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the latents (B, D) at which the posterior of levels (B, C, H, W) is centred."""

    @abstractmethod
    def planes_of(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the pixel likelihood is made of, (B, planes, H, W), given latents (B, D), differentiably."""

    @property
    @abstractmethod
    def conditional(self) -> bool: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule
        self._independent = ()
        if isinstance(data, ImageDataModule):
            self.num_images = len(data.images("train").levels)

    # --- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self.terms(batch.levels, batch.labels, self._noise(self.objective.samples, len(batch.levels)))
        loss = self.objective(terms).mean()
        self.track(loss=loss, reconstruction=-terms.log_conditional.detach(), kl=terms.divergence)
        self.count_images(batch)
        return loss

    def _noise(self, samples: int, n: int) -> Tensor:
        """Return this rank's rows of the global batch's noise (samples, n, D)."""
        size = samples, n * self.ranks[1], self.latent_dim
        noise = torch.randn(size, generator=self.random("posterior"), dtype=torch.float32, device=self.device)
        return noise[:, self.own_rows(n)].to(self.exact_dtype)

    @property
    def exact_dtype(self) -> torch.dtype:
        """That of densities: of the weights, or float32 where these are kept in less."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def log_conditional_of_many(self, levels: Tensor, latent: Tensor, labels: Tensor | None) -> Tensor:
        """Return log p(x | z), nats (K, B), of levels (B, C, H, W) and latents (K, B, D)."""
        count = len(latent)
        n = len(levels)
        if count > 1:
            levels, labels = levels.repeat(count, 1, 1, 1), None if labels is None else labels.repeat(count)
        planes = self.planes_of(latent.flatten(0, 1), labels)
        with full_precision(self.device.type):
            nats = self.pixels.log_prob(levels, planes.to(self.exact_dtype))
        return nats.view(count, n)

    # --- how it stands --------------------------------------------------------------------------------------------

    def sides(self, levels: Tensor, terms: Terms) -> dict[str, Tensor]:
        r"""Return diagnostics of levels (B, C, H, W) that every such model has, of terms with one latent for each.

        ``kl`` and ``reconstruction`` (B,), nats of each image: the two sides of the ELBO. While training on an
        ImageDataModule also ``margin_over_independent``, by how many bits per dimension the ELBO is better than
        independent pixels, each with the shares of its levels in the training part: zero where the decoder knows the
        average image alone (posterior collapse), below where the latents cost more than they are good for.
        """
        found = {"kl": terms.divergence, "reconstruction": -terms.log_conditional[0]}
        if (independent := self._independent_pixels()) is not None:
            rows = levels.flatten(1).cpu().split(rows_at_once(independent.row_cost))
            nats = torch.cat([independent.log_prob(part.long()) for part in rows]).mean()
            elbo = (terms.log_conditional[0] - terms.divergence).cpu().double().mean()
            found["margin_over_independent"] = bits_per_dimension(nats - elbo, self.spec)
        return found

    def _independent_pixels(self) -> CategoricalComponents | None:
        """Return the model of independent pixels, fitted when it is asked for first; None without a training part."""
        data = getattr(self.attached_trainer, "datamodule", None)
        if not self._independent and isinstance(data, ImageDataModule):
            self._independent = (fit_independent_pixels(data.images("train").levels, self.spec),)
        return self._independent[0] if self._independent else None

    # --- the protocol ---------------------------------------------------------------------------------------------

    def likelihood(self, levels: Tensor, labels: Tensor | None = None) -> Likelihood:
        r"""Return the importance-weighted bound :math:`\log \frac1K \sum_k w_k \le \log p(x)` in expectation.

        Its noise comes from torch's global generator.

        Args:
            levels: (B, C, H, W).
            labels: classes (B,), for a class-conditional model.

        Raises:
            InputError: for images of another size, or labels missing or unknown.
        """
        self.spec.check(levels)
        labels = self._checked(labels, len(levels))
        place = max(self.pixels.planes, COMMON_WIDTH)
        rows = max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // (place * self.spec.height * self.spec.width)))
        with evaluating(self):
            parts = [
                self._bound(levels[i : i + rows], None if labels is None else labels[i : i + rows], rows)
                for i in range(0, len(levels), rows)
            ]
        nats = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=self.device)
        return Likelihood(nats, "bound", self.importance_samples)

    def _bound(self, levels: Tensor, labels: Tensor | None, rows: int) -> Tensor:
        """Return the importance-weighted bound, float64 nats (B,), decoding about ``rows`` latents at once."""
        count, found = self.importance_samples, []
        at_once = max(1, rows // len(levels))
        for first in range(0, count, at_once):
            size = min(at_once, count - first), len(levels), self.latent_dim
            noise = torch.randn(size, device=self.device, dtype=torch.float32).to(self.exact_dtype)
            found.append(self.terms(levels, labels, noise, exact_kl=False).log_weights.double())
        return torch.logsumexp(torch.cat(found), 0) - math.log(count)

    def _checked(self, labels: Tensor | None, n: int) -> Tensor | None:
        if not self.conditional:
            return None
        if labels is None:
            raise InputError(f"{self._name}: this model is class-conditional: give labels")
        return self.check_labels(labels, n)

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, D) to levels (B, C, H, W), the expected values of the pixels."""
        with evaluating(self):
            return self.spec.to_levels(self.pixels.mean(self._planes(latent, labels)))

    def _check_latent(self, latent: Tensor) -> None:
        if latent.ndim != 2 or latent.shape[1] != self.latent_dim:
            raise InputError(f"{self._name}: latents are (B, {self.latent_dim}), got {tuple(latent.shape)}")

    def _planes(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        self._check_latent(latent)
        return self.planes_of(latent, self._checked(labels, len(latent))).float()

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        generator = generator or self.fresh_generator()
        latent = self.draw_latents(n, generator)
        if labels is None and self.conditional:
            labels = torch.randint(self.spec.num_classes, (n,), generator=generator, device=self.device)
        if self.sampler.pixels == "mean":
            return self.decode(latent, labels)
        return self.draw_levels(latent, labels, generator=generator)

    def draw_latents(self, n: int, generator: torch.Generator) -> Tensor:
        """Return latents (n, D) as :meth:`sample` draws them."""
        self._check_temperature()  # samplers are replaced after loading
        return self.draw_prior(n, generator) * self.sampler.temperature

    def _check_temperature(self) -> None:
        if self.sampler.temperature != 1 and not isinstance(self.prior, StandardNormal):
            name = type(self.prior).__name__
            raise InputError(f"{self._name}: sampler.temperature is of a standard normal prior, not of a {name}")

    # HasLatentLikelihood, by which annealed importance sampling checks the bound

    def draw_prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents (n, D) from p(z)."""
        with evaluating(self):
            return self.prior.sample(n, generator)

    def log_prior(self, latent: Tensor) -> Tensor:
        """Return log p(z), nats (B,), of latents (B, D), differentiably."""
        self._check_latent(latent)
        return self.prior.log_prob(latent)

    def log_conditional(self, levels: Tensor, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(x | z), nats (B,), of levels (B, C, H, W) and latents (B, D), differentiably in the latter."""
        self._check_latent(latent)
        if len(latent) != len(levels):
            raise InputError(f"{self._name}: each image needs one latent, got {len(latent)} of {len(levels)} images")
        return self.log_conditional_of_many(levels, latent[None], self._checked(labels, len(latent)))[0]

    def draw_levels(
        self, latent: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw levels (B, C, H, W) from p(x | z)."""
        with evaluating(self):
            return self.pixels.sample(self._planes(latent, labels), generator)


def fit_independent_pixels(levels: np.ndarray, spec: ImageSpec) -> CategoricalComponents:
    """Return a model in which each pixel takes each level as often as it does in images, smoothed by one even image.

    Args:
        levels: uint8 (N, C, H, W), of which at most 2**26 pixels are counted, in images spread evenly over them.
        spec: what they are.
    """
    model = CategoricalComponents(1, spec.dims, spec.levels).requires_grad_(False)
    chosen = levels[:: -(-len(levels) * spec.dims // MOST_PIXELS)]
    total: dict[str, Tensor] = {}
    size = rows_at_once(model.row_cost)
    for first in range(0, len(chosen), size):
        rows = torch.from_numpy(np.array(chosen[first : first + size], np.int64)).flatten(1)
        add_statistics(total, model.statistics(rows, torch.ones(len(rows), 1, dtype=torch.float64)))
    model.update(total)
    return model
