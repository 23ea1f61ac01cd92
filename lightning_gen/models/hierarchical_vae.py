"""Hierarchical variational autoencoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lightning_gen.data import Batch
from lightning_gen.distributions import CategoricalPixels, PixelLikelihood, StandardNormal
from lightning_gen.errors import InputError
from lightning_gen.models.base import evaluating, full_precision, total_norm
from lightning_gen.models.variational import VariationalModel
from lightning_gen.networks import LadderNetwork
from lightning_gen.objectives import Terms, VariationalObjective
from lightning_gen.samplers import PriorSampler
from lightning_gen.spec import ImageSpec


class HierarchicalVAE(VariationalModel):
    r"""VAE with several layers of latents, each given the ones above it (Sønderby et al. 2016; Child 2021).

    .. math:: \log p(x) \ge \mathbb E_q \log p(x \mid z)
        - \sum_l \mathbb E_q \mathrm{KL}(q(z_l \mid z_{<l}, x) \,\|\, p(z_l \mid z_{<l}))

    As a latent, for :meth:`encode`, :meth:`decode` and annealed importance sampling, counts the standard normal noise
    (B, Z) from which the prior makes the layers' latents, so it is N(0, I) of known size.

    Args:
        spec: images, the data module's.
        network: factory of a :class:`~lightning_gen.networks.LadderNetwork` from the spec and the number of planes.
        optimizer: factory of the optimizer of everything.
        likelihood: factory of the pixels' distribution from the spec; categorical levels if not given.
        objective: what is minimised; the negative ELBO if not given. Its free bits are of each layer.
        importance_samples: latents for each image of the likelihood.
        sampler: how :meth:`sample` draws.
        largest_gradient: steps whose gradient is longer are left out and counted, as Child (2021) does; None for none.

    Raises:
        InputError: for numbers out of range, an objective that needs a diagonal posterior, or parts that do not fit.
    """

    def __init__(
        self,
        spec: ImageSpec,
        network: Callable[[ImageSpec, int], LadderNetwork],
        optimizer: OptimizerCallable,
        likelihood: Callable[[ImageSpec], PixelLikelihood] = CategoricalPixels,
        objective: VariationalObjective | None = None,
        importance_samples: int = 100,
        sampler: PriorSampler | None = None,
        largest_gradient: float | None = None,
    ):
        super().__init__(spec, optimizer, likelihood, objective, importance_samples, sampler)
        if largest_gradient is not None and not largest_gradient > 0:
            raise InputError(f"HierarchicalVAE: largest_gradient must be above 0, got {largest_gradient}")
        if self.objective.needs_moments or self.objective.detaches_density or self.objective.draws_prior:
            raise InputError(f"HierarchicalVAE: {type(self.objective).__name__} is of one layer: take ELBO or IWAE")
        self.network = network(self.spec, self.pixels.planes)
        self.latent_dim = self.network.latent_dim
        self.prior = StandardNormal(self.latent_dim)
        self.largest_gradient = largest_gradient
        self.large_gradients = 0

    @property
    def conditional(self) -> bool:
        return self.network.conditional

    def terms(self, levels: Tensor, labels: Tensor | None, noise: Tensor, exact_kl: bool = True) -> Terms:
        count, n = noise.shape[:2]
        labels = labels.repeat(count) if self.conditional else None
        seen = self.network.look(self.spec.to_unit(levels, self.dtype))
        found = self.network(noise.flatten(0, 1), seen, labels)
        with full_precision(self.device.type):
            nats = self.pixels.log_prob(levels.repeat(count, 1, 1, 1), found.planes.to(self.exact_dtype))
        return Terms(
            nats.view(count, n),
            found.log_prior.view(count, n),
            found.log_posterior.view(count, n),
            found.noise.view(count, n, -1),
            found.kl.view(count, n, -1).mean(0) if exact_kl else None,
            images_seen=self.images_seen,
            num_images=self.num_images,
            mean_over_ranks=self.mean_over_ranks,
        )

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        self.spec.check(levels)
        labels = self._checked(labels, len(levels))
        with evaluating(self):
            seen = self.network.look(self.spec.to_unit(levels, self.dtype))
            noise = torch.zeros(len(levels), self.latent_dim, device=self.device, dtype=self.exact_dtype)
            return self.network(noise, seen, labels).noise

    def planes_of(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        return self.network(latent.to(self.exact_dtype), None, labels).planes

    # --- large gradients ------------------------------------------------------------------------------------------

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = total_norm([p.grad for p in parameters])
        if self.largest_gradient is not None and torch.isfinite(norm) and norm > self.largest_gradient:
            self.large_gradients += 1
            for parameter in parameters:
                parameter.grad = None
            self.track(large_gradients=torch.tensor(float(self.large_gradients)))
            self._conclude_step(False)
            return
        super().on_before_optimizer_step(optimizer)

    def counters(self) -> dict[str, int]:
        return {"large_gradients": self.large_gradients}

    def load_counters(self, counters: dict[str, int]) -> None:
        self.large_gradients = counters["large_gradients"]

    # --- how it stands --------------------------------------------------------------------------------------------

    def diagnostics(self, batch: Batch) -> dict[str, Any]:
        """Return what :meth:`sides` returns, ``kl_layer_<l>`` from the top, and ``active_layers``: how many of them say
        more than a hundredth of a nat."""
        labels = batch.labels if self.conditional else None
        with evaluating(self):
            size = 1, len(batch.levels), self.latent_dim
            noise = torch.randn(size, generator=self.random("diagnostics"), dtype=torch.float32, device=self.device)
            terms = self.terms(batch.levels, labels, noise.to(self.exact_dtype))
            layers = terms.kl.mean(0)
            return {
                **self.sides(batch.levels, terms),
                "active_layers": (layers > 0.01).sum(),
                **{f"kl_layer_{i}": value for i, value in enumerate(layers)},
            }
