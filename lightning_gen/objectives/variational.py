"""Objectives of latent variable models with an encoder: bounds on log p(x), and what is trained in their place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_gen.errors import InputError


@dataclass(eq=False)
class Terms:
    r"""What an encoder and a decoder say of a batch of B images, with K latents of D dimensions each.

    Args:
        log_conditional: :math:`\log p(x \mid z_k)`, nats (K, B).
        log_prior: :math:`\log p(z_k)`, nats (K, B), or None where nobody asked for densities, since ``kl`` is known.
        log_posterior: :math:`\log q(z_k \mid x)`, nats (K, B), or None with ``log_prior``.
        latent: :math:`z_k`, (K, B, D), on the path of all gradients.
        kl: :math:`\mathrm{KL}(q(z_d \mid x) \,\|\, p(z_d))` in closed form, (B, D), or None where there is none.
        moments: mean and log variance of a diagonal :math:`q(z \mid x)`, each (B, D), if the objective asked for them.
        images_seen: when the step began.
        num_images: size of the training part.
        prior_draw: latents (B, D) of the prior, if the objective asked for them.
        mean_over_ranks: averages a detached tensor over all processes.
    """

    log_conditional: Tensor
    log_prior: Tensor | None
    log_posterior: Tensor | None
    latent: Tensor
    kl: Tensor | None = None
    moments: tuple[Tensor, Tensor] | None = None
    images_seen: int = 0
    num_images: int = 1
    prior_draw: Tensor | None = None
    mean_over_ranks: Callable[[Tensor], Tensor] = lambda value: value

    @cached_property
    def log_weights(self) -> Tensor:
        r""":math:`\log w_k = \log p(x, z_k) - \log q(z_k \mid x)`, nats (K, B)."""
        return self.log_conditional + self.log_prior - self.log_posterior

    @cached_property
    def divergence(self) -> Tensor:
        r""":math:`\mathrm{KL}(q(z \mid x) \,\|\, p(z))`, nats (B,): in closed form, or estimated by the latents."""
        if self.kl is not None:
            return self.kl.sum(-1)
        return (self.log_posterior - self.log_prior).mean(0)


class VariationalObjective(ABC):
    """What a VAE minimises: a loss (B,) of a batch's :class:`Terms`, in nats.

    Args:
        samples: latents K drawn for each image.
        warmup: images over which the weight of the divergence rises from 0 to its value (Bowman et al. 2016).

    Raises:
        InputError: for fewer than 1 sample or a negative warm-up.
    """

    needs_densities = True
    """Whether :attr:`Terms.log_prior` and :attr:`Terms.log_posterior` are used even where the divergence is known in
    closed form; where they are not, a small step is noticeably faster without them."""
    detaches_density = False
    """Whether log q is to be computed with the encoder's output detached (Roeder et al. 2017)."""
    needs_moments = False
    """Whether :attr:`Terms.moments` is used, so that only diagonal posteriors will do."""
    draws_prior = False
    """Whether :attr:`Terms.prior_draw` is used."""

    def __init__(self, samples: int = 1, warmup: int = 0):
        if samples < 1:
            raise InputError(f"{type(self).__name__}: samples must be at least 1, got {samples}")
        if warmup < 0:
            raise InputError(f"{type(self).__name__}: warmup must be at least 0 images, got {warmup}")
        self.samples = samples
        self.warmup = warmup

    def risen(self, images_seen: int) -> float:
        """Return the share, 0 to 1, of its weight that the divergence has by now."""
        return 1.0 if images_seen >= self.warmup else images_seen / self.warmup

    @abstractmethod
    def __call__(self, terms: Terms) -> Tensor:
        """Return the loss of each image, nats (B,)."""


def check_weights(owner: object, **values: float) -> None:
    """Raise InputError unless every value is a finite number of at least 0."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            finite = " and finite" if value == math.inf else ""
            raise InputError(f"{type(owner).__name__}: {name} must be at least 0{finite}, got {value}")


class ELBO(VariationalObjective):
    r"""Negative evidence lower bound (Kingma and Welling 2014), with its usual changes, all off by default.

    .. math:: -\frac1K \sum_k \log p(x \mid z_k) + \beta\, \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    Args:
        beta: weight of the divergence (beta-VAE: Higgins et al. 2017); only at 1 is the loss a bound on -log p(x).
        free_bits: nats of each latent dimension (where the divergence is known for each; else of all together) that
            cost nothing, as a mean over the batch: below it the dimension is not pushed further (Kingma et al. 2016).
        capacity: where given, each image's divergence is held at C nats, :math:`\beta\, |\mathrm{KL} - C|`, and C rises
            from 0 to this over ``capacity_images`` (Burgess et al. 2018).
        capacity_images: see ``capacity``.
        samples: latents K drawn for each image.
        warmup: images over which the weight of the divergence rises from 0.

    Raises:
        InputError: for a number that is negative or not finite, or a capacity together with free bits.
    """

    needs_densities = False

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
        check_weights(self, beta=beta, free_bits=free_bits, capacity_images=capacity_images)
        if capacity is not None:
            check_weights(self, capacity=capacity)
        if capacity is not None and free_bits:
            raise InputError("ELBO: capacity and free_bits contradict each other: give one of them")
        self.beta = beta
        self.free_bits = free_bits
        self.capacity = capacity
        self.capacity_images = capacity_images

    def __call__(self, terms: Terms) -> Tensor:
        weight = self.beta * self.risen(terms.images_seen)
        return weight * self._cost(terms) - terms.log_conditional.mean(0)

    def _cost(self, terms: Terms) -> Tensor:
        if self.capacity is not None:
            rise = 1.0 if not self.capacity_images else min(1.0, terms.images_seen / self.capacity_images)
            return (terms.divergence - rise * self.capacity).abs()
        if not self.free_bits:
            return terms.divergence
        parts = terms.kl if terms.kl is not None else terms.divergence[:, None]
        free = terms.mean_over_ranks(parts.detach().mean(0)) < self.free_bits
        return torch.where(free, self.free_bits, parts).sum(-1)


class BetaTCVAE(VariationalObjective):
    r"""Divergence in three parts, each with its weight (Chen et al. 2018).

    .. math:: -\log p(x \mid z) + \alpha \log \frac{q(z \mid x)}{q(z)} + \beta \log \frac{q(z)}{\prod_d q(z_d)}
        + \gamma \log \frac{\prod_d q(z_d)}{p(z)}

    the mutual information of index and code, the total correlation, and the divergence of each dimension. The
    aggregate q(z) is estimated from the batch of this process by minibatch-weighted sampling, equation 10 there.

    Args:
        alpha, beta, gamma: the weights; all 1 is the ELBO, up to the estimate.
        warmup: images over which all three rise from 0.

    Raises:
        InputError: for a number that is negative or not finite.
    """

    needs_moments = True

    def __init__(self, alpha: float = 1.0, beta: float = 6.0, gamma: float = 1.0, warmup: int = 0):
        super().__init__(1, warmup)
        check_weights(self, alpha=alpha, beta=beta, gamma=gamma)
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    def __call__(self, terms: Terms) -> Tensor:
        latent, (mean, log_variance) = terms.latent[0], terms.moments
        each = latent[:, None] - mean[None]  # what image j says of the latent of image i, dimension by dimension
        nats = -0.5 * (each.square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))
        scale = math.log(len(latent) * terms.num_images)
        aggregate = torch.logsumexp(nats.sum(-1), 1) - scale
        product = (torch.logsumexp(nats, 1) - scale).sum(-1)
        information = terms.log_posterior[0] - aggregate
        correlation = aggregate - product
        apart = product - terms.log_prior[0]
        cost = self.alpha * information + self.beta * correlation + self.gamma * apart
        return -terms.log_conditional[0] + self.risen(terms.images_seen) * cost


class InfoVAE(VariationalObjective):
    r"""Divergence of each image's posterior against that of the aggregate (Zhao et al. 2019).

    .. math:: -\log p(x \mid z) + (1 - \alpha)\, \mathrm{KL}(q(z \mid x) \,\|\, p(z))
        + (\alpha + \lambda - 1)\, \mathrm{MMD}^2(q(z), p(z))

    The maximum mean discrepancy is the unbiased one of this process's batch, with the sum of inverse multiquadratic
    kernels :math:`\sum_s s D / (s D + \tfrac12 \|z - z'\|^2)`, s in 0.1, 0.2, 0.5, 1, 2, 5, 10 (as in Tolstikhin et
    al. 2018).

    Args:
        alpha: 1 leaves the images' own divergence out (MMD-VAE), 0 keeps all of it.
        scale: weight :math:`\lambda`, at least :math:`1 - \alpha`.
        warmup: images over which both divergences rise from 0.

    Raises:
        InputError: for weights that are negative in sum, or not finite.
    """

    needs_densities = False
    draws_prior = True

    def __init__(self, alpha: float = 0.0, scale: float = 100.0, warmup: int = 0):
        super().__init__(1, warmup)
        if not (-math.inf < alpha <= 1 <= alpha + scale < math.inf):  # refuses nan, too
            raise InputError(f"InfoVAE: alpha must be at most 1, and alpha + scale at least 1, got {alpha} and {scale}")
        self.alpha = alpha
        self.scale = scale

    def __call__(self, terms: Terms) -> Tensor:
        discrepancy = mean_discrepancy(terms.latent[0], terms.prior_draw)
        cost = (1 - self.alpha) * terms.divergence + (self.alpha + self.scale - 1) * discrepancy
        return -terms.log_conditional[0] + self.risen(terms.images_seen) * cost


def mean_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased squared maximum mean discrepancy of rows (n, D) and (m, D), a scalar; see InfoVAE.

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
        samples: latents K drawn for each image; 1 is the ELBO.

    Raises:
        InputError: for fewer than 1 sample.
    """

    def __init__(self, samples: int = 5):
        super().__init__(samples)

    def __call__(self, terms: Terms) -> Tensor:
        return math.log(self.samples) - torch.logsumexp(terms.log_weights, 0)


class DReG(IWAE):
    r"""The same bound with the doubly reparametrised gradient for the encoder (Tucker et al. 2019).

    .. math:: \nabla_\phi = \mathbb E \sum_k \tilde w_k^2\, \frac{\partial \log w_k}{\partial z_k}
        \frac{\partial z_k}{\partial \phi}, \qquad \tilde w_k = \frac{w_k}{\sum_j w_j}

    It is unbiased and, unlike the plain one, its signal does not vanish in its noise as K grows. The decoder's and the
    prior's gradients are those of :class:`IWAE`. The value of the loss is the same.

    Args:
        samples: latents K drawn for each image; with 1 it is sticking the landing (Roeder et al. 2017).

    Raises:
        InputError: for fewer than 1 sample.
    """

    detaches_density = True

    def __call__(self, terms: Terms) -> Tensor:
        log_weights = terms.log_weights
        share = torch.softmax(log_weights.detach(), 0)
        if terms.latent.requires_grad:
            terms.latent.register_hook(lambda gradient: gradient * share[..., None])
        bound = math.log(self.samples) - torch.logsumexp(log_weights.detach(), 0)
        surrogate = -(share * log_weights).sum(0)
        return bound + surrogate - surrogate.detach()  # the value of one, the gradient of the other
