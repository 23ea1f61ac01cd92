"""Variational autoencoders: one class; which VAE it is, is decided by what is injected."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_gen.data import Batch
from lightning_gen.distributions import (
    CategoricalPixels,
    DiagonalPosterior,
    PixelLikelihood,
    Posterior,
    Prior,
    StandardNormal,
)
from lightning_gen.errors import InputError
from lightning_gen.models.base import evaluating, full_precision, probe
from lightning_gen.models.variational import VariationalModel
from lightning_gen.objectives import Terms, VariationalObjective
from lightning_gen.samplers import PriorSampler
from lightning_gen.spec import ImageSpec

ACTIVE = 0.01  # variance of a latent's posterior mean over images, as Burda et al. (2016) count active units


class VAE(VariationalModel):
    r"""Variational autoencoder, :math:`\max \mathbb E_{q(z|x)} \log p(x \mid z) - \mathrm{KL}(q(z|x) \,\|\, p(z))`
    (Kingma and Welling 2014; Rezende et al. 2014).

    Which VAE it is, is decided by what is injected: the prior, the posterior, the pixel likelihood, the objective and
    the networks. Its likelihood is a lower bound, the importance-weighted one with ``importance_samples`` latents for
    each image (Burda et al. 2016); with 1 it is the ELBO.

    Args:
        spec: images, the data module's.
        encoder: factory of a network from the spec and the number of outputs, (unit images (B, C, H, W), labels) ->
            (B, outputs).
        decoder: factory of a network from the spec, the latent's size and the number of planes, (latents (B, D),
            labels) -> (B, planes, H, W).
        optimizer: factory of the optimizer of everything.
        latent_dim: size D of the latent.
        likelihood: factory of the pixels' distribution from the spec; categorical levels if not given.
        posterior: factory of q(z | x) from D; diagonal normal if not given.
        prior: factory of p(z) from D; standard normal if not given.
        objective: what is minimised; the negative ELBO if not given.
        importance_samples: latents for each image of the likelihood.
        sampler: how :meth:`sample` draws.

    Raises:
        InputError: for numbers out of range, and parts that do not fit the images or each other.
    """

    def __init__(
        self,
        spec: ImageSpec,
        encoder: Callable[[ImageSpec, int], nn.Module],
        decoder: Callable[[ImageSpec, int, int], nn.Module],
        optimizer: OptimizerCallable,
        latent_dim: int = 32,
        likelihood: Callable[[ImageSpec], PixelLikelihood] = CategoricalPixels,
        posterior: Callable[[int], Posterior] = DiagonalPosterior,
        prior: Callable[[int], Prior] = StandardNormal,
        objective: VariationalObjective | None = None,
        importance_samples: int = 100,
        sampler: PriorSampler | None = None,
    ):
        super().__init__(spec, optimizer, likelihood, objective, importance_samples, sampler)
        self.latent_dim = latent_dim
        self.posterior = posterior(latent_dim)
        self.prior = prior(latent_dim)
        self.encoder = encoder(self.spec, self.posterior.outputs)
        self.decoder = decoder(self.spec, latent_dim, self.pixels.planes)
        self._check_parts()

    def _check_parts(self) -> None:
        names = {name: type(part).__name__ for name, part in self.named_children()}
        encodes, decodes = (getattr(part, "conditional", False) for part in (self.encoder, self.decoder))
        if encodes and not decodes:
            raise InputError(
                f"VAE: {names['encoder']} is class-conditional and {names['decoder']} is not: labels belong to the "
                "decoder at least"
            )
        if self.prior.needs_encoder:
            if encodes:
                raise InputError(f"VAE: {names['prior']} encodes pseudo-images, which have no classes")
            self.prior.attach(self.posterior, self.encoder, self.spec.shape)
        if self.objective.detaches_density and not self.posterior.has_density:
            raise InputError(
                f"VAE: {type(self.objective).__name__} needs the density of given latents in one pass, which "
                f"{names['posterior']} has not: take IWAE, or another posterior"
            )
        if self.objective.needs_moments and not isinstance(self.posterior, DiagonalPosterior):
            raise InputError(
                f"VAE: {type(self.objective).__name__} needs a DiagonalPosterior, not a {names['posterior']}"
            )
        self._check_temperature()
        labels = torch.zeros(2, dtype=torch.int64) if self.spec.num_classes else None
        theta = probe(self, self.encoder, torch.zeros(2, *self.spec.shape), labels)
        if theta.shape != (2, self.posterior.outputs):
            raise InputError(
                f"VAE: {names['encoder']} must give {self.posterior.outputs} numbers for {names['posterior']}, and "
                f"gave {tuple(theta.shape[1:])}"
            )
        planes = probe(self, self.decoder, torch.zeros(2, self.latent_dim), labels)
        expected = self.pixels.planes, self.spec.height, self.spec.width
        if planes.shape != (2, *expected):
            raise InputError(
                f"VAE: {names['decoder']} must give {expected} for {names['pixels']}, and gave "
                f"{tuple(planes.shape[1:])}"
            )

    @property
    def conditional(self) -> bool:
        return getattr(self.decoder, "conditional", False)

    # --- the model ------------------------------------------------------------------------------------------------

    def terms(self, levels: Tensor, labels: Tensor | None, noise: Tensor, exact_kl: bool = True) -> Terms:
        theta = self.encode_to_theta(levels, labels)
        kl = log_prior = log_posterior = None
        with full_precision(self.device.type):
            if exact_kl and isinstance(self.prior, StandardNormal):
                kl = self.posterior.kl_from_normal(theta)
            densities = kl is None or self.objective.needs_densities
            if densities:
                latent, log_posterior = self.posterior.draw(theta, noise)
            else:
                latent = self.posterior.latents(theta, noise)
        log_conditional = self.log_conditional_of_many(levels, latent, labels)
        with full_precision(self.device.type):
            if densities:
                log_prior = self.prior.log_prob(latent)
                if self.objective.detaches_density and torch.is_grad_enabled():
                    log_posterior = self.posterior.log_prob(theta.detach(), latent)
            prior_draw = None
            if self.objective.draws_prior and torch.is_grad_enabled():
                drawn = self.prior.sample(len(levels) * self.ranks[1], self.random("prior"))
                prior_draw = drawn[self.own_rows(len(levels))].detach()
            return Terms(
                log_conditional,
                log_prior,
                log_posterior,
                latent,
                kl,
                self.posterior.parts(theta) if self.objective.needs_moments else None,
                self.images_seen,
                self.num_images,
                prior_draw,
                self.mean_over_ranks,
            )

    def encode_to_theta(self, levels: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the posterior of levels (B, C, H, W) is made of, (B, outputs)."""
        return self.encoder(self.spec.to_unit(levels, self.dtype), labels).to(self.exact_dtype)

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        self.spec.check(levels)
        with evaluating(self):
            return self.posterior.mean(self.encode_to_theta(levels, self._checked(labels, len(levels))))

    def planes_of(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        return self.decoder(latent.to(self.dtype), labels)

    # --- how it stands --------------------------------------------------------------------------------------------

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        r"""Return how encoder and decoder stand on one batch.

        What :meth:`sides` returns, ``kl_per_dimension`` (D,), and ``active_units``: how many coordinates of the
        posterior's mean vary over images, with a variance above 0.01 (Burda et al. 2016); 0 where the decoder ignores
        the latent (posterior collapse).
        """
        labels = batch.labels if self.conditional else None
        with evaluating(self):
            size = 1, len(batch.levels), self.latent_dim
            noise = torch.randn(size, generator=self.random("diagnostics"), dtype=torch.float32, device=self.device)
            terms = self.terms(batch.levels, labels, noise.to(self.exact_dtype))
            means = self.posterior.mean(self.encode_to_theta(batch.levels, labels))
            figures = self.sides(batch.levels, terms)
            figures["active_units"] = (means.var(0, correction=0) > ACTIVE).sum()
            if terms.kl is not None:
                figures["kl_per_dimension"] = terms.kl.mean(0)
            return figures
