"""Variational autoencoders, composed of networks, prior, posterior, pixel likelihood and objective."""

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_gen.core import (
    ImageSpec,
    InputError,
    at_least_float32,
    check_output,
    evaluating,
    full_precision,
    required_labels,
)
from lightning_gen.data import Batch
from lightning_gen.distributions import (
    CategoricalPixels,
    DiagonalPosterior,
    PixelLikelihood,
    Posterior,
    Prior,
    StandardNormal,
)
from lightning_gen.models.variational import VariationalModel, check_objective
from lightning_gen.objectives import Terms, VariationalObjective
from lightning_gen.samplers import PriorSampler

ACTIVE = 0.01  # smallest variance over images of an active unit's posterior mean (Burda et al. 2016)


class VAE(VariationalModel):
    r"""Variational autoencoder, :math:`\max \mathbb E_{q(z|x)} \log p(x \mid z) - \mathrm{KL}(q(z|x) \,\|\, p(z))`
    (Kingma and Welling 2014; Rezende et al. 2014).

    The prior, posterior, pixel likelihood, objective and networks are injected. The likelihood is the
    importance-weighted lower bound with ``importance_samples`` latents per image (Burda et al. 2016); with 1 it is the
    ELBO.

    Args:
        spec: image format, given by the data module.
        encoder: factory of a network from the spec and the number of outputs, (unit images (B, C, H, W), labels) ->
            (B, outputs).
        decoder: factory of a network from the spec, D and the number of channels, (latents (B, D), labels) ->
            (B, out_channels, H, W).
        optimizer: factory of the optimizer of all parameters.
        latent_dim: latent dimension D.
        likelihood: factory of p(x | z) from the spec; categorical if not given.
        posterior: factory of q(z | x) from D; diagonal normal if not given.
        prior: factory of p(z) from D; standard normal if not given.
        objective: training loss; the negative ELBO if not given.
        importance_samples: latents per image in :meth:`likelihood`.
        sampler: sampling method of :meth:`sample`; decodes latents of the prior if not given.

    Raises:
        InputError: for numbers out of range, and for parts that do not fit the images or each other.
    """

    terms_class = Terms

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
        self.decoder = decoder(self.spec, latent_dim, self.pixels.out_channels)
        self.prior.attach(self.posterior, self.encoder, self.spec.shape)
        self.check_parts()

    def terms(self, levels: Tensor, labels: Tensor | None, noise: Tensor) -> Terms:
        theta = self.posterior_parameters(levels, labels)
        with full_precision(self.device):
            terms = self.terms_class(self.posterior, self.prior, theta, noise.to(theta))
        terms.log_conditional = self.log_conditional(levels, terms.latent, labels)
        return terms

    def posterior_parameters(self, levels: Tensor, labels: Tensor | None) -> Tensor:
        """Return the parameters of q(z | x), (B, outputs), of levels (B, C, H, W)."""
        return at_least_float32(self.encoder(self.spec.to_unit(levels, self.dtype), labels))

    def pixel_parameters(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        return self.decoder(latent.to(self.dtype), labels)

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        self.spec.check(levels)
        with evaluating(self):
            return self.posterior.mean(self.posterior_parameters(levels, required_labels(self, labels, len(levels))))

    @property
    def conditional(self) -> bool:
        return getattr(self.decoder, "conditional", False)

    def check_parts(self) -> None:
        """Raise InputError for networks, posterior, prior and objective that do not fit the images or each other."""
        encodes = getattr(self.encoder, "conditional", False)
        if encodes and not self.conditional:
            raise InputError("VAE: the encoder is class-conditional and the decoder, where labels belong, is not")
        if encodes and self.prior.encodes_images:
            raise InputError(f"VAE: {type(self.prior).__name__} encodes pseudo-images, which have no classes")
        labels = torch.zeros(2, dtype=torch.int64) if self.spec.num_classes else None
        images, latent = torch.zeros(2, *self.spec.shape), torch.zeros(2, self.latent_dim)
        outputs, channels = self.posterior.outputs, self.pixels.out_channels
        check_output(self, self.encoder, images, labels, shape=(outputs,), meaning="the posterior's parameters")
        maps = (channels, *self.spec.shape[1:])
        check_output(self, self.decoder, latent, labels, shape=maps, meaning="the pixels' parameters")
        check_objective(self)

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return the two parts of the negative ELBO, nats (B,), ``kl_per_dimension`` (D,), and ``active_units``: the
        number of coordinates whose posterior mean varies over images, 0 in complete posterior collapse."""
        with evaluating(self):
            terms, figures = self.diagnosed_terms(batch)
            means = self.posterior.mean(terms.theta)
            figures["active_units"] = (means.var(0, correction=0) > ACTIVE).sum()
            return figures if terms.kl is None else {**figures, "kl_per_dimension": terms.kl.mean(0)}
