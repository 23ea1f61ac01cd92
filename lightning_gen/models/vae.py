"""Variational autoencoders: one class; which VAE it is, is decided by what is injected."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_gen.data import Batch, ImageDataModule
from lightning_gen.distributions import (
    CategoricalPixels,
    DiagonalPosterior,
    PixelLikelihood,
    Posterior,
    Prior,
    StandardNormal,
)
from lightning_gen.errors import InputError
from lightning_gen.models.base import GenerativeModule, Likelihood, evaluating, full_precision
from lightning_gen.objectives import ELBO, Terms, VariationalObjective
from lightning_gen.samplers import PriorSampler
from lightning_gen.spec import ImageSpec

ROWS_AT_ONCE = 8192  # decoded images: a bound of many importance samples must not take memory in proportion
ACTIVE = 0.01  # variance of a latent's posterior mean over images, as Burda et al. (2016) count active units


class VAE(GenerativeModule):
    r"""Variational autoencoder, :math:`\max \mathbb E_{q(z|x)} \log p(x \mid z) - \mathrm{KL}(q(z|x) \,\|\, p(z))`
    (Kingma and Welling 2014; Rezende et al. 2014).

    Which VAE it is, is decided by what is injected: the prior, the posterior, the pixel likelihood, the objective and
    the networks. Its likelihood is a lower bound, the importance-weighted one with ``importance_samples`` latents for
    each image (Burda et al. 2016); with 1 it is the ELBO. Noise is drawn for the global batch.

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
        super().__init__(spec)
        if importance_samples < 1:
            raise InputError(f"VAE: importance_samples must be at least 1, got {importance_samples}")
        self.latent_dim = latent_dim
        self.pixels = likelihood(self.spec)
        self.posterior = posterior(latent_dim)
        self.prior = prior(latent_dim)
        self.encoder = encoder(self.spec, self.posterior.outputs)
        self.decoder = decoder(self.spec, latent_dim, self.pixels.planes)
        self.optimizer = optimizer
        self.objective = objective or ELBO()
        self.importance_samples = importance_samples
        self.sampler = sampler or PriorSampler()
        self.num_images = 1
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
        with evaluating(self):
            theta = self.encoder(torch.zeros(2, *self.spec.shape), labels)
            if theta.shape != (2, self.posterior.outputs):
                raise InputError(
                    f"VAE: {names['encoder']} must give {self.posterior.outputs} numbers for {names['posterior']}, and "
                    f"gave {tuple(theta.shape[1:])}"
                )
            planes = self.decoder(torch.zeros(2, self.latent_dim), labels)
            expected = self.pixels.planes, self.spec.height, self.spec.width
            if planes.shape != (2, *expected):
                raise InputError(
                    f"VAE: {names['decoder']} must give {expected} for {names['pixels']}, and gave "
                    f"{tuple(planes.shape[1:])}"
                )

    def _check_temperature(self) -> None:
        if self.sampler.temperature != 1 and not isinstance(self.prior, StandardNormal):
            name = type(self.prior).__name__
            raise InputError(f"VAE: sampler.temperature is of a standard normal prior, not of a {name}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule
        if isinstance(data, ImageDataModule):
            self.num_images = len(data.images("train").levels)

    # --- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self.terms(batch.levels, batch.labels, self._noise(self.objective.samples, len(batch.levels)))
        loss = self.objective(terms).mean()
        self.track(loss=loss, reconstruction=-terms.log_conditional.mean(), kl=terms.divergence.mean())
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

    def terms(self, levels: Tensor, labels: Tensor | None, noise: Tensor, exact_kl: bool = True) -> Terms:
        """Return what encoder and decoder say of levels (B, C, H, W), with latents made of ``noise`` (K, B, D)."""
        theta = self.encode_to_theta(levels, labels)
        with full_precision(self.device.type):
            latent, log_posterior = self.posterior.draw(theta, noise)
        log_conditional = self.log_conditional_of_many(levels, latent, labels)
        with full_precision(self.device.type):
            if self.objective.detaches_density and torch.is_grad_enabled():
                log_posterior = self.posterior.log_prob(theta.detach(), latent)
            closed = exact_kl and isinstance(self.prior, StandardNormal)
            prior_draw = None
            if self.objective.draws_prior and torch.is_grad_enabled():
                drawn = self.prior.sample(len(levels) * self.ranks[1], self.random("prior"))
                prior_draw = drawn[self.own_rows(len(levels))].detach()
            return Terms(
                log_conditional,
                self.prior.log_prob(latent),
                log_posterior,
                latent,
                self.posterior.kl_from_normal(theta) if closed else None,
                self.posterior.parts(theta) if self.objective.needs_moments else None,
                self.images_seen,
                self.num_images,
                prior_draw,
                self.mean_over_ranks,
            )

    def encode_to_theta(self, levels: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the posterior of levels (B, C, H, W) is made of, (B, outputs)."""
        return self.encoder(self.spec.to_unit(levels, self.dtype), labels).to(self.exact_dtype)

    def log_conditional_of_many(self, levels: Tensor, latent: Tensor, labels: Tensor | None) -> Tensor:
        """Return log p(x | z), nats (K, B), of levels (B, C, H, W) and latents (K, B, D)."""
        count = len(latent)
        n = len(levels)
        if count > 1:
            levels, labels = levels.repeat(count, 1, 1, 1), None if labels is None else labels.repeat(count)
        planes = self.decoder(latent.flatten(0, 1).to(self.dtype), labels)
        with full_precision(self.device.type):
            nats = self.pixels.log_prob(levels, planes.to(self.exact_dtype))
        return nats.view(count, n)

    # --- the protocol ---------------------------------------------------------------------------------------------

    @property
    def conditional(self) -> bool:
        return getattr(self.decoder, "conditional", False)

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
        count = self.importance_samples
        at_once = max(1, ROWS_AT_ONCE // max(1, len(levels)))
        found = []
        with evaluating(self):
            for first in range(0, count, at_once):
                size = min(at_once, count - first), len(levels), self.latent_dim
                noise = torch.randn(size, device=self.device, dtype=torch.float32).to(self.exact_dtype)
                found.append(self.terms(levels, labels, noise, exact_kl=False).log_weights.double())
        nats = torch.logsumexp(torch.cat(found), 0) - math.log(count)
        return Likelihood(nats, "bound", count)

    def _checked(self, labels: Tensor | None, n: int) -> Tensor | None:
        if not self.conditional:
            return None
        if labels is None:
            raise InputError("VAE: this model is class-conditional: give labels")
        return self.check_labels(labels, n)

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return posterior means (B, D) of levels (B, C, H, W)."""
        self.spec.check(levels)
        with evaluating(self):
            return self.posterior.mean(self.encode_to_theta(levels, self._checked(labels, len(levels))))

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, D) to levels (B, C, H, W), the expected values of the pixels."""
        with evaluating(self):
            return self.spec.to_levels(self.pixels.mean(self._planes(latent, labels)))

    def _planes(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        if latent.ndim != 2 or latent.shape[1] != self.latent_dim:
            raise InputError(f"VAE: latents are (B, {self.latent_dim}), got {tuple(latent.shape)}")
        return self.decoder(latent.to(self.dtype), self._checked(labels, len(latent))).float()

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

    # HasLatentLikelihood, by which annealed importance sampling checks the bound

    def draw_prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents (n, D) from p(z)."""
        with evaluating(self):
            return self.prior.sample(n, generator)

    def log_prior(self, latent: Tensor) -> Tensor:
        """Return log p(z), nats (B,), differentiably."""
        return self.prior.log_prob(latent)

    def log_conditional(self, levels: Tensor, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(x | z), nats (B,), of levels (B, C, H, W) and latents (B, D), differentiably in the latter."""
        return self.log_conditional_of_many(levels, latent[None], self._checked(labels, len(latent)))[0]

    def draw_levels(
        self, latent: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw levels (B, C, H, W) from p(x | z)."""
        with evaluating(self):
            return self.pixels.sample(self._planes(latent, labels), generator)

    # --- how it stands --------------------------------------------------------------------------------------------

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        r"""Return how encoder and decoder stand on one batch.

        ``kl`` and ``reconstruction`` (B,), nats of each image: the two sides of the ELBO. ``kl_per_dimension`` (D,).
        ``active_units``: how many coordinates of the posterior's mean vary over images, with a variance above 0.01
        (Burda et al. 2016); 0 where the decoder ignores the latent (posterior collapse).
        """
        labels = batch.labels if self.conditional else None
        with evaluating(self):
            size = 1, len(batch.levels), self.latent_dim
            noise = torch.randn(size, generator=self.random("diagnostics"), dtype=torch.float32, device=self.device)
            terms = self.terms(batch.levels, labels, noise.to(self.exact_dtype))
            means = self.posterior.mean(self.encode_to_theta(batch.levels, labels))
            figures = {
                "kl": terms.divergence,
                "reconstruction": -terms.log_conditional[0],
                "active_units": (means.var(0, correction=0) > ACTIVE).sum(),
            }
            if terms.kl is not None:
                figures["kl_per_dimension"] = terms.kl.mean(0)
            return figures
