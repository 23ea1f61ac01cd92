"""Objectives of variational autoencoders: bounds on log p(x) and related losses."""

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from lightning_gen.core import InputError, TrainingContext, check_at_least
from lightning_gen.distributions import Posterior, Prior


class Terms:
    r"""The terms of variational objectives for B images, with K latents of dimension D each; computed on first use.

    Args:
        posterior: :math:`q(z \mid x)`.
        prior: :math:`p(z)`.
        theta: output of the encoder, (B, outputs).
        noise: standard normal (K, B, D), transformed into the latents (reparametrisation).

    Attributes:
        latent: :math:`z_k`, (K, B, D), through which the encoder's gradients pass.
        log_conditional: :math:`\log p(x \mid z_k)`, nats (K, B); set by the model.
    """

    log_conditional: Tensor

    def __init__(self, posterior: Posterior, prior: Prior, theta: Tensor, noise: Tensor):
        self.posterior, self.prior, self.theta = posterior, prior, theta
        self.latent, self._log_density = posterior.draw(theta, noise)

    @cached_property
    def log_prior(self) -> Tensor:
        r""":math:`\log p(z_k)`, nats (K, B)."""
        return self.prior.log_prob(self.latent)

    @cached_property
    def log_posterior(self) -> Tensor:
        r""":math:`\log q(z_k \mid x)`, nats (K, B)."""
        return self._log_density()

    @cached_property
    def detached_log_posterior(self) -> Tensor:
        """``log_posterior`` with the posterior's parameters detached: a gradient only through z (Roeder et al. 2017).

        Raises:
            InputError: for a posterior whose density of given latents is not available in one pass.
        """
        if not self.posterior.has_density:
            raise InputError(
                f"it needs the density of given latents in one pass, which {type(self.posterior).__name__} has not: "
                "take IWAE, or another posterior"
            )
        return self.posterior.log_prob(self.theta.detach(), self.latent)

    @cached_property
    def kl(self) -> Tensor | None:
        r""":math:`\mathrm{KL}(q(z_d \mid x) \,\|\, p(z_d))` in closed form, nats (B, D), or None without one."""
        return self.posterior.kl_from_normal(self.theta) if self.prior.is_standard_normal else None

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and log variance of a diagonal normal posterior, each (B, D).

        Raises:
            InputError: for another posterior.
        """
        return self.posterior.moments(self.theta)

    def prior_draw(self, context: TrainingContext) -> Tensor:
        """Draw latents (B, D) from the prior, without gradients."""
        n = self.latent.shape[1]
        with torch.no_grad():
            drawn = self.prior.sample(n * context.ranks.count, context.generator("prior"))
        return drawn[context.ranks.rows(n)].to(self.latent)

    @property
    def log_weights(self) -> Tensor:
        r""":math:`\log w_k = \log p(x, z_k) - \log q(z_k \mid x)`, nats (K, B)."""
        return self.log_conditional + self.log_prior - self.log_posterior

    @cached_property
    def divergence(self) -> Tensor:
        r""":math:`\mathrm{KL}(q(z \mid x) \,\|\, p(z))`, nats (B,): in closed form, or a Monte Carlo estimate."""
        return (self.log_posterior - self.log_prior).mean(0) if self.kl is None else self.kl.sum(-1)


class VariationalObjective(ABC):
    """The training loss of a VAE, nats (B,), as a function of a batch's :class:`Terms`.

    Args:
        samples: latents K per image.
        warmup: images over which the weight of the KL divergence rises linearly from 0 (Bowman et al. 2016).

    Raises:
        InputError: for fewer than 1 sample or a negative warm-up.
    """

    def __init__(self, samples: int = 1, warmup: int = 0):
        check_at_least(self, 1, samples=samples)
        check_at_least(self, 0, warmup=warmup)
        self.samples = samples
        self.warmup = warmup

    def warmup_factor(self, context: TrainingContext) -> float:
        """Return the current factor, 0 to 1, of the weight of the divergence."""
        return 1.0 if context.images_seen >= self.warmup else context.images_seen / self.warmup

    @abstractmethod
    def __call__(self, terms: Terms, context: TrainingContext) -> Tensor:
        """Return the loss of each image, nats (B,)."""


class ELBO(VariationalObjective):
    r"""Negative evidence lower bound (Kingma and Welling 2014), with its usual variants, all off by default.

    .. math:: -\frac1K \sum_k \log p(x \mid z_k) + \beta\, \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    Args:
        beta: weight of the divergence (beta-VAE: Higgins et al. 2017); the loss bounds -log p(x) only if at least 1.
        free_bits: nats per latent dimension (or in total, if the divergence is not known per dimension) below which the
            mean divergence over the batch is not reduced further (Kingma et al. 2016).
        capacity: if given, the divergence term is :math:`\beta\, |\mathrm{KL} - C|` per image, where C rises linearly
            from 0 to this value, in nats, over ``capacity_images`` (Burgess et al. 2018).
        capacity_images: see ``capacity``.
        samples: latents K per image.
        warmup: images over which the weight of the divergence rises linearly from 0.

    Raises:
        InputError: for a number that is negative or not finite, or a capacity together with free bits.
    """

    def __init__(
        self,
        beta: float = 1.0,
        free_bits: float = 0.0,
        capacity: float | None = None,
        capacity_images: int = 0,
        samples: int = 1,
        warmup: int = 0,
    ):
        super().__init__(samples, warmup)
        check_at_least(self, 0, beta=beta, free_bits=free_bits, capacity_images=capacity_images, capacity=capacity)
        if capacity is not None and free_bits:
            raise InputError("ELBO: capacity and free_bits contradict each other: give one of them")
        self.beta = beta
        self.free_bits = free_bits
        self.capacity = capacity
        self.capacity_images = capacity_images

    def __call__(self, terms: Terms, context: TrainingContext) -> Tensor:
        weight = self.beta * self.warmup_factor(context)
        return weight * self.cost(terms, context) - terms.log_conditional.mean(0)

    def cost(self, terms: Terms, context: TrainingContext) -> Tensor:
        """Return the divergence term before weighting, nats (B,)."""
        if self.capacity is not None:
            rise = 1.0 if not self.capacity_images else min(1.0, context.images_seen / self.capacity_images)
            return (terms.divergence - rise * self.capacity).abs()
        if not self.free_bits:
            return terms.divergence
        parts = terms.kl if terms.kl is not None else terms.divergence[:, None]
        free = context.ranks.mean(parts.detach().mean(0)) < self.free_bits
        return torch.where(free, self.free_bits, parts).sum(-1)


class BetaTCVAE(VariationalObjective):
    r"""Divergence decomposed into three weighted parts (beta-TCVAE, Chen et al. 2018).

    .. math:: -\log p(x \mid z) + \alpha \log \frac{q(z \mid x)}{q(z)} + \beta \log \frac{q(z)}{\prod_d q(z_d)}
        + \gamma \log \frac{\prod_d q(z_d)}{p(z)}

    the index-code mutual information, the total correlation, and the dimension-wise KL divergence. The aggregate
    posterior q(z) is estimated from the batch of this process by minibatch-weighted sampling.

    Args:
        alpha, beta, gamma: the weights; if all are 1, the loss is the negative ELBO.
        warmup: images over which all three weights rise linearly from 0.

    Raises:
        InputError: for a number that is negative or not finite.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 6.0, gamma: float = 1.0, warmup: int = 0):
        super().__init__(1, warmup)
        check_at_least(self, 0, alpha=alpha, beta=beta, gamma=gamma)
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    def __call__(self, terms: Terms, context: TrainingContext) -> Tensor:
        latent, (mean, log_variance) = terms.latent[0], terms.moments
        each = latent[:, None] - mean[None]  # (i, j, d): latent of image i minus posterior mean of image j
        nats = -0.5 * (each.square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))
        scale = math.log(len(latent) * context.num_images)
        aggregate = torch.logsumexp(nats.sum(-1), 1) - scale
        product = (torch.logsumexp(nats, 1) - scale).sum(-1)
        information = terms.log_posterior[0] - aggregate
        correlation = aggregate - product
        apart = product - terms.log_prior[0]
        cost = self.alpha * information + self.beta * correlation + self.gamma * apart
        return -terms.log_conditional[0] + self.warmup_factor(context) * cost


class InfoVAE(VariationalObjective):
    r"""Divergence of each posterior traded against that of the aggregate posterior (InfoVAE, Zhao et al. 2019).

    .. math:: -\log p(x \mid z) + (1 - \alpha)\, \mathrm{KL}(q(z \mid x) \,\|\, p(z))
        + (\alpha + \lambda - 1)\, \mathrm{MMD}^2(q(z), p(z))

    The squared maximum mean discrepancy is estimated without bias from the batch of this process, with the inverse
    multiquadric kernels :math:`\sum_s s D / (s D + \tfrac12 \|z - z'\|^2)`, s in 0.1, 0.2, 0.5, 1, 2, 5, 10
    (Tolstikhin et al. 2018).

    Args:
        alpha: 1 removes the divergence of each posterior (MMD-VAE), 0 keeps it in full.
        scale: weight :math:`\lambda`, at least :math:`1 - \alpha`.
        warmup: images over which both weights rise linearly from 0.

    Raises:
        InputError: for weights of the two terms that are negative, or not finite.
    """

    def __init__(self, alpha: float = 0.0, scale: float = 100.0, warmup: int = 0):
        super().__init__(1, warmup)
        if not (-math.inf < alpha <= 1 <= alpha + scale < math.inf):  # refuses nan, too
            raise InputError(f"InfoVAE: alpha must be at most 1, and alpha + scale at least 1, got {alpha} and {scale}")
        self.alpha = alpha
        self.scale = scale

    def __call__(self, terms: Terms, context: TrainingContext) -> Tensor:
        discrepancy = mean_discrepancy(terms.latent[0], terms.prior_draw(context))
        cost = (1 - self.alpha) * terms.divergence + (self.alpha + self.scale - 1) * discrepancy
        return -terms.log_conditional[0] + self.warmup_factor(context) * cost


def mean_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD^2 (a scalar) between rows (n, D) and (m, D); see :class:`InfoVAE`.

    Raises:
        InputError: for fewer than 2 rows.
    """
    if min(len(x), len(y)) < 2:
        raise InputError("InfoVAE compares the latents of a batch with each other: give data.batch_size at least 2")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = (a[:, None] - b[None]).square().sum(-1) / 2
        sizes = [s * x.shape[1] for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)]
        return sum(size / (size + squares) for size in sizes)

    def within(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


class IWAE(VariationalObjective):
    r"""Importance-weighted bound, :math:`-\log \frac1K \sum_k w_k`, which tightens with K (Burda et al. 2016).

    Args:
        samples: latents K per image; 1 is the ELBO.

    Raises:
        InputError: for fewer than 1 sample.
    """

    def __init__(self, samples: int = 5):
        super().__init__(samples)

    def __call__(self, terms: Terms, context: TrainingContext) -> Tensor:
        return math.log(self.samples) - torch.logsumexp(terms.log_weights, 0)


class DReG(IWAE):
    r"""The bound of :class:`IWAE` with the doubly reparametrised gradient for the encoder (Tucker et al. 2019).

    .. math:: \nabla_\phi = \mathbb E \sum_k \tilde w_k^2\, \frac{\partial \log w_k}{\partial z_k}
        \frac{\partial z_k}{\partial \phi}, \qquad \tilde w_k = \frac{w_k}{\sum_j w_j}

    It is unbiased and, unlike the standard estimator, its signal-to-noise ratio does not vanish as K grows. The value
    of the loss and the gradients of decoder and prior are those of :class:`IWAE`.

    Args:
        samples: latents K per image; with 1 it is sticking the landing (Roeder et al. 2017).

    Raises:
        InputError: for fewer than 1 sample.
    """

    def __call__(self, terms: Terms, context: TrainingContext) -> Tensor:
        log_weights = terms.log_conditional + terms.log_prior - terms.detached_log_posterior
        share = torch.softmax(log_weights.detach(), 0)
        if terms.latent.requires_grad:
            terms.latent.register_hook(lambda gradient: gradient * share[..., None])
        bound = math.log(self.samples) - torch.logsumexp(log_weights.detach(), 0)
        surrogate = -(share * log_weights).sum(0)
        return bound + surrogate - surrogate.detach()  # value of the bound, gradient of the surrogate
