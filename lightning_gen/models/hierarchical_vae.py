"""Hierarchical (ladder) variational autoencoders."""

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lightning_gen.core import (
    Figure,
    ImageSpec,
    InputError,
    at_least_float32,
    check_above,
    evaluating,
    full_precision,
    required_labels,
)
from lightning_gen.data import Batch
from lightning_gen.distributions import CategoricalPixels, PixelLikelihood, StandardNormal
from lightning_gen.models.variational import VariationalModel, check_objective
from lightning_gen.networks import LadderNetwork
from lightning_gen.networks.ladder import LadderPass
from lightning_gen.objectives import Terms, VariationalObjective
from lightning_gen.samplers import PriorSampler

ACTIVE = 0.01  # smallest mean KL of an active layer, nats


class LadderTerms(Terms):
    """Terms of several layers of latents; ``kl`` (B, layers) is the mean over the K latents of each image.

    Args:
        found: output of the network for K latents of each of B images.
        count: K.
    """

    def __init__(self, found: LadderPass, count: int):
        self.latent = found.noise.unflatten(0, (count, -1))
        self.log_prior, self.log_posterior = (
            nats.unflatten(0, (count, -1)) for nats in (found.log_prior, found.log_posterior)
        )
        self.kl = found.kl.unflatten(0, (count, -1)).mean(0)

    def _of_one_layer(self, *args: object) -> None:
        raise InputError("it is of one layer of latents: take ELBO or IWAE")

    moments = detached_log_posterior = property(_of_one_layer)
    prior_draw = _of_one_layer


class HierarchicalVAE(VariationalModel):
    r"""VAE with several layers of latents, each given the ones above it (Sønderby et al. 2016; Child 2021).

    .. math:: \log p(x) \ge \mathbb E_q \log p(x \mid z)
        - \sum_l \mathbb E_q \mathrm{KL}(q(z_l \mid z_{<l}, x) \,\|\, p(z_l \mid z_{<l}))

    The latent of :meth:`encode`, :meth:`decode` and annealed importance sampling is the standard normal noise (B, Z)
    that the prior transforms into the latents of all layers, so its distribution is N(0, I).

    Args:
        spec: image format, given by the data module.
        network: factory of a :class:`~lightning_gen.networks.LadderNetwork` from the spec and the number of channels.
        optimizer: factory of the optimizer of all parameters.
        likelihood: factory of p(x | z) from the spec; categorical if not given.
        objective: training loss; the negative ELBO if not given. Free bits apply per layer.
        importance_samples: latents per image in :meth:`likelihood`.
        sampler: sampling method of :meth:`sample`; decodes latents of the prior if not given.
        largest_gradient: steps with a larger gradient norm are skipped and counted (Child 2021); None skips none.

    Raises:
        InputError: for numbers out of range, an objective that needs a diagonal posterior, or parts that do not fit.
    """

    figures = (
        *VariationalModel.figures,
        Figure("kl_layer", "divergence of a layer of latents, from the top, nats per image"),
        Figure("active_layers", "layers of latents that tell images apart"),
    )

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
        check_above(self, 0, largest_gradient=largest_gradient)
        self.guard.largest_gradient = largest_gradient
        self.network = network(self.spec, self.pixels.out_channels)
        self.latent_dim = self.network.latent_dim
        self.prior = StandardNormal(self.latent_dim)
        check_objective(self)

    @property
    def exact_dtype(self) -> torch.dtype:
        """Precision of latents and densities: that of the weights, but at least float32."""
        return torch.promote_types(self.dtype, torch.float32)

    def terms(self, levels: Tensor, labels: Tensor | None, noise: Tensor) -> Terms:
        count = len(noise)
        labels = labels.repeat(count) if self.conditional else None
        seen = self.network.look(self.spec.to_unit(levels, self.dtype))
        found = self.network(noise.flatten(0, 1).to(self.exact_dtype), seen, labels)
        terms = LadderTerms(found, count)
        with full_precision(self.device):
            nats = self.pixels.log_prob(levels.repeat(count, 1, 1, 1), at_least_float32(found.theta))
        terms.log_conditional = nats.unflatten(0, (count, -1))
        return terms

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        self.spec.check(levels)
        labels = required_labels(self, labels, len(levels))
        with evaluating(self):
            seen = self.network.look(self.spec.to_unit(levels, self.dtype))
            noise = torch.zeros(len(levels), self.latent_dim, device=self.device, dtype=self.exact_dtype)
            return self.network(noise, seen, labels).noise

    def pixel_parameters(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        return self.network(latent.to(self.exact_dtype), None, labels).theta

    @property
    def conditional(self) -> bool:
        return self.network.conditional

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return the two parts of the negative ELBO, nats (B,), the mean KL ``kl_layer_<l>`` of each layer from the
        top, and ``active_layers``: the number of layers whose KL exceeds 0.01 nats."""
        with evaluating(self):
            terms, figures = self.diagnosed_terms(batch)
            layers = terms.kl.mean(0)
            figures["active_layers"] = (layers > ACTIVE).sum()
            return figures | {f"kl_layer_{i}": value for i, value in enumerate(layers)}
