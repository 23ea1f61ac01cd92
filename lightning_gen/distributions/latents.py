"""Priors and approximate posteriors of latents, in nats."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gen.bijections import AffineAutoregressive, Bijection, Chain, ElementwiseAffine, Reverse
from lightning_gen.core import InputError, categorical, check_positive, normal, uniform

LOG_2PI = math.log(2 * math.pi)
WIDEST = 10.0  # bound of |log variance|, against overflow


def normal_nats(x: Tensor, mean: Tensor | float = 0.0, log_variance: Tensor | float = 0.0) -> Tensor:
    """Return the log density, nats (...), of independent normal coordinates x (..., D)."""
    log_variance = torch.as_tensor(log_variance, dtype=x.dtype, device=x.device)
    return -0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance + LOG_2PI).sum(-1)


def standard_normal_nats(x: Tensor) -> Tensor:
    """Return the log density of N(0, I), nats (...), of x (..., D)."""
    return -0.5 * (x.square().sum(-1) + x.shape[-1] * LOG_2PI)


class Posterior(nn.Module, ABC):
    r"""Approximate posterior :math:`q(z \mid x)`, parametrised by an encoder's output ``theta``.

    Args:
        latent_dim: latent dimension D.

    Raises:
        InputError: for a dimension below 1.
    """

    has_density = True
    """Whether :meth:`log_prob` takes one pass for any latent and depends on ``theta`` only."""

    def __init__(self, latent_dim: int):
        super().__init__()
        check_positive(self, latent_dim=latent_dim)
        self.latent_dim = latent_dim

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Size of ``theta`` per image."""

    @abstractmethod
    def draw(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return reparametrised latents (K, B, D) for ``theta`` (B, outputs) and standard normal noise (K, B, D), and a
        function that computes their log density, nats (K, B), when needed."""

    @abstractmethod
    def log_prob(self, theta: Tensor, latent: Tensor) -> Tensor:
        """Return log q(z | x), nats (K, B), of latents (K, B, D)."""

    @abstractmethod
    def mean(self, theta: Tensor) -> Tensor:
        """Return the mean (B, D); of a flow, the image of the base distribution's mean."""

    def kl_from_normal(self, theta: Tensor) -> Tensor | None:
        """Return KL(q || N(0, I)) per dimension given the preceding ones, nats (B, D); None without a closed form."""
        return None

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of independent normal coordinates, each (B, D).

        Raises:
            InputError: for a posterior of another form.
        """
        raise InputError(f"it needs a DiagonalPosterior, not a {type(self).__name__}")


class DiagonalPosterior(Posterior):
    r"""Independent normal coordinates (Kingma and Welling 2014).

    .. math:: q(z \mid x) = N(\mu, \mathrm{diag}\, \sigma^2), \qquad
        \mathrm{KL}_d = \tfrac12 (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2)
    """

    @property
    def outputs(self) -> int:
        return 2 * self.latent_dim

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = theta.chunk(2, -1)
        return mean, log_variance.clamp(-WIDEST, WIDEST)

    def draw(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        mean, log_variance = self.moments(theta)
        latent = mean + (0.5 * log_variance).exp() * noise
        return latent, lambda: standard_normal_nats(noise) - 0.5 * log_variance.sum(-1)

    def log_prob(self, theta: Tensor, latent: Tensor) -> Tensor:
        return normal_nats(latent, *self.moments(theta))

    def mean(self, theta: Tensor) -> Tensor:
        return self.moments(theta)[0]

    def kl_from_normal(self, theta: Tensor) -> Tensor:
        mean, log_variance = self.moments(theta)
        return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance)


class FullPosterior(Posterior):
    r"""Full-covariance normal: :math:`z = \mu + (\mathrm{diag}\, \sigma + S)\, \epsilon` with S strictly lower
    triangular (Kingma and Welling 2019, section 2.5.1).

    .. math:: \mathrm{KL}_d = \tfrac12 \big(\mu_d^2 + \sigma_d^2 + \textstyle\sum_{e < d} S_{de}^2 - 1
        - \log \sigma_d^2\big)
    """

    @property
    def outputs(self) -> int:
        return 2 * self.latent_dim + self.latent_dim * (self.latent_dim - 1) // 2

    def _parts(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d = self.latent_dim
        mean, log_variance, below = theta.split((d, d, d * (d - 1) // 2), -1)
        factor = torch.diag_embed((0.5 * log_variance.clamp(-WIDEST, WIDEST)).exp())
        rows, columns = torch.tril_indices(d, d, -1, device=theta.device)
        factor = factor.index_put((torch.arange(len(theta), device=theta.device)[:, None], rows, columns), below)
        return mean, factor, 0.5 * log_variance.clamp(-WIDEST, WIDEST).sum(-1)

    def draw(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        mean, factor, log_det = self._parts(theta)
        latent = mean + torch.einsum("bij,kbj->kbi", factor, noise)
        return latent, lambda: standard_normal_nats(noise) - log_det

    def log_prob(self, theta: Tensor, latent: Tensor) -> Tensor:
        mean, factor, log_det = self._parts(theta)
        # All latents of an image as columns of one system, so that its factor is not repeated K times.
        noise = torch.linalg.solve_triangular(factor, (latent - mean).permute(1, 2, 0), upper=False).permute(2, 0, 1)
        return standard_normal_nats(noise) - log_det

    def mean(self, theta: Tensor) -> Tensor:
        return theta[:, : self.latent_dim]

    def kl_from_normal(self, theta: Tensor) -> Tensor:
        mean, factor, _ = self._parts(theta)
        log_variance = 2 * factor.diagonal(dim1=-2, dim2=-1).log()
        return 0.5 * (mean.square() + factor.square().sum(-1) - 1 - log_variance)


class FlowPosterior(Posterior):
    r"""Diagonal normal transformed by an inverse autoregressive flow (Kingma et al. 2016).

    .. math:: z = f_T \circ \dots \circ f_1(z_0), \quad z_0 \sim N(\mu, \mathrm{diag}\, \sigma^2), \qquad
        \log q(z) = \log q_0(z_0) - \sum_t \log |\det J_t|

    Each step is conditioned on a context from the encoder; the coordinates are reversed between steps.

    Args:
        latent_dim: latent dimension D.
        steps: number T of autoregressive steps.
        width: width of their hidden layers.
        context_dim: size of the context.

    Raises:
        InputError: for a number below 1.
    """

    has_density = False

    def __init__(self, latent_dim: int, steps: int = 2, width: int = 128, context_dim: int = 32):
        super().__init__(latent_dim)
        check_positive(self, steps=steps, context_dim=context_dim)
        self.steps = steps
        self.context_dim = context_dim
        maps: list[Bijection] = []
        for step in range(steps):
            maps += [Reverse(latent_dim)] if step else []
            maps.append(AffineAutoregressive(latent_dim, width, context_dim))
        self.flow = Chain(maps)
        self.base = DiagonalPosterior(latent_dim)

    @property
    def outputs(self) -> int:
        return self.base.outputs + self.context_dim

    def draw(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        theta, context = theta.split((self.base.outputs, self.context_dim), -1)
        base, log_density = self.base.draw(theta, noise)
        latent, log_det = self.flow(base, context)
        return latent, lambda: log_density() - log_det

    def log_prob(self, theta: Tensor, latent: Tensor) -> Tensor:
        theta, context = theta.split((self.base.outputs, self.context_dim), -1)
        base, log_det = self.flow.inverse(latent, context)
        return self.base.log_prob(theta, base) + log_det

    def mean(self, theta: Tensor) -> Tensor:
        theta, context = theta.split((self.base.outputs, self.context_dim), -1)
        return self.flow(self.base.mean(theta), context)[0]


class Prior(nn.Module, ABC):
    """Distribution p(z) of latents.

    Args:
        latent_dim: latent dimension D.

    Raises:
        InputError: for a dimension below 1.
    """

    is_standard_normal = False
    encodes_images = False
    """Whether it depends on the model's encoder, see :meth:`attach`."""

    def __init__(self, latent_dim: int):
        super().__init__()
        check_positive(self, latent_dim=latent_dim)
        self.latent_dim = latent_dim

    def attach(self, posterior: Posterior, encode: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> None:
        """Receive the model's posterior and encoder, of images (B, *shape); does nothing by default."""

    @abstractmethod
    def log_prob(self, latent: Tensor) -> Tensor:
        """Return log p(z), nats (...), of latents (..., D)."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents (n, D), on the prior's device."""


class StandardNormal(Prior):
    """The standard normal prior N(0, I)."""

    is_standard_normal = True

    def __init__(self, latent_dim: int):
        super().__init__(latent_dim)
        self.register_buffer("where", torch.zeros(()), persistent=False)

    def log_prob(self, latent: Tensor) -> Tensor:
        return standard_normal_nats(latent)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return normal(n, self.latent_dim, generator=generator, device=self.where.device).to(self.where.dtype)


class MixturePrior(Prior):
    r"""Mixture of K diagonal normals with learnt parameters, :math:`p(z) = \sum_k \pi_k N(z; \mu_k, \sigma_k^2)`.

    Args:
        latent_dim: latent dimension D.
        components: number K.

    Raises:
        InputError: for a number below 1.
    """

    def __init__(self, latent_dim: int, components: int = 10):
        super().__init__(latent_dim)
        check_positive(self, components=components)
        self.components = components
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_variances = nn.Parameter(torch.zeros(components, latent_dim))

    def log_prob(self, latent: Tensor) -> Tensor:
        nats = normal_nats(latent[..., None, :], self.means, self.log_variances.clamp(-WIDEST, WIDEST))
        return torch.logsumexp(nats + torch.log_softmax(self.logits, 0), -1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        device = self.means.device
        chosen = categorical(self.logits.softmax(0).expand(n, -1), uniform(n, generator=generator, device=device))
        noise = normal(n, self.latent_dim, generator=generator, device=device).to(self.means.dtype)
        return self.means[chosen] + (0.5 * self.log_variances.clamp(-WIDEST, WIDEST)[chosen]).exp() * noise


class VampPrior(Prior):
    r"""Mixture of the approximate posteriors of K learnt pseudo-images, :math:`p(z) = \frac1K \sum_k q(z \mid u_k)`
    (Tomczak and Welling 2018).

    Args:
        latent_dim: latent dimension D.
        components: number K of pseudo-images.

    Raises:
        InputError: for a number below 1.
    """

    encodes_images = True

    def __init__(self, latent_dim: int, components: int = 50):
        super().__init__(latent_dim)
        check_positive(self, components=components)
        self.components = components
        self.images: nn.Parameter | None = None
        self._parts: tuple[Posterior, Callable[[Tensor], Tensor]] | None = None

    def attach(self, posterior: Posterior, encode: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> None:
        """Keep posterior and encoder, and create the pseudo-images of ``shape``.

        Raises:
            InputError: for a posterior whose density of given latents is not available in one pass.
        """
        if not posterior.has_density:
            name = type(posterior).__name__
            raise InputError(f"VampPrior needs the density of given latents in one pass, which {name} has not")
        self._parts = posterior, encode
        self.images = nn.Parameter(0.5 * torch.randn(self.components, *shape))

    def _theta(self) -> tuple[Posterior, Tensor]:
        posterior, encode = self._parts
        return posterior, encode(F.hardtanh(self.images))

    def log_prob(self, latent: Tensor) -> Tensor:
        posterior, theta = self._theta()
        flat = latent.reshape(-1, 1, self.latent_dim).expand(-1, self.components, -1)
        nats = torch.logsumexp(posterior.log_prob(theta, flat), -1) - math.log(self.components)
        return nats.view(latent.shape[:-1])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        posterior, theta = self._theta()
        chosen = torch.randint(self.components, (n,), generator=generator, device=generator.device).to(theta.device)
        noise = normal(1, n, self.latent_dim, generator=generator, device=theta.device).to(theta.dtype)
        return posterior.draw(theta[chosen], noise)[0][0]


class FlowPrior(Prior):
    r"""Normalising flow to a standard normal, an autoregressive prior (Chen et al. 2017).

    .. math:: \log p(z) = \log N(f(z); 0, I) + \log |\det \partial f / \partial z|

    With autoregressive steps, densities take one pass and samples D passes (Papamakarios et al. 2017). Their gates only
    contract, which makes p(z) wider than N(0, I); a learnt scale of each coordinate before them also allows narrower
    distributions.

    Args:
        latent_dim: latent dimension D.
        steps: number of autoregressive steps, with reversed coordinates between them.
        width: width of their hidden layers.

    Raises:
        InputError: for a number below 1.
    """

    def __init__(self, latent_dim: int, steps: int = 4, width: int = 128):
        super().__init__(latent_dim)
        check_positive(self, steps=steps)
        self.steps = steps
        maps: list[Bijection] = [ElementwiseAffine(latent_dim)]
        for step in range(steps):
            maps += [Reverse(latent_dim)] if step else []
            maps.append(AffineAutoregressive(latent_dim, width))
        self.flow = Chain(maps)

    def log_prob(self, latent: Tensor) -> Tensor:
        noise, log_det = self.flow(latent)
        return normal_nats(noise) + log_det

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        like = next(self.flow.parameters())
        noise = normal(n, self.latent_dim, generator=generator, device=like.device).to(like.dtype)
        with torch.no_grad():
            return self.flow.inverse(noise)[0]
