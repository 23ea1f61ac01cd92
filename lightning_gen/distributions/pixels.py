"""Pixel likelihoods: normalised distributions over the levels of a pixel, given a decoder's output."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gen.core import ImageSpec, InputError, categorical, check_at_least, check_choice, check_within, uniform
from lightning_gen.distributions.discretized_gaussian import LogGaussianMass

OPEN = 1e6  # unit values; an infinite end would make the derivative by the scale NaN


class PixelLikelihood(nn.Module, ABC):
    r"""Distribution :math:`p(x \mid \theta)` of an image's levels, with independent pixels given :math:`\theta`.

    :math:`\theta`, (B, out_channels, H, W), is the output of a decoder. The channels of one pixel may be dependent.

    Args:
        spec: image format.
    """

    def __init__(self, spec: ImageSpec):
        super().__init__()
        self.spec = ImageSpec.of(spec)

    @property
    @abstractmethod
    def out_channels(self) -> int:
        """Channels of the decoder's output."""

    @abstractmethod
    def log_prob_map(self, levels: Tensor, theta: Tensor) -> Tensor:
        """Return log p of each pixel, summed over channels: nats (B, H, W) of levels (B, C, H, W)."""

    def log_prob(self, levels: Tensor, theta: Tensor) -> Tensor:
        """Return log p(x), nats (B,), of levels (B, C, H, W), differentiable in ``theta`` (B, out_channels, H, W)."""
        return self.log_prob_map(levels, theta).flatten(1).sum(1)

    @property
    def noise_channels(self) -> int:
        """Random numbers per pixel."""
        return self.spec.channels

    def noise(self, n: int, generator: torch.Generator, device: torch.device | None = None) -> Tensor:
        """Draw the random numbers of n images for :meth:`sample`, uniform (n, noise_channels, H, W)."""
        return uniform(n, self.noise_channels, *self.spec.shape[1:], generator=generator, device=device)

    @abstractmethod
    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """Return levels (B, C, H, W) by inversion of the distribution function at uniform ``noise`` in [0, 1),
        (B, noise_channels, H, W)."""

    @abstractmethod
    def mean(self, theta: Tensor) -> Tensor:
        """Return expected unit values (B, C, H, W), for display; of the continuous distribution if it is binned."""

    def _grouped(self, theta: Tensor, *sizes: int) -> list[Tensor]:
        """Split the out_channels into groups of these sizes."""
        if theta.shape[1] != self.out_channels:
            raise InputError(f"{type(self).__name__}: expected {self.out_channels} out_channels, got {theta.shape[1]}")
        return list(theta.split(sizes, 1))


class BernoulliPixels(PixelLikelihood):
    r"""Independent Bernoulli pixels, :math:`p(x = 1) = \sigma(\theta)`, for images of two levels.

    On images of more levels, where it is often misused, the result is not a likelihood.

    Raises:
        InputError: for images of more than two levels.
    """

    def __init__(self, spec: ImageSpec):
        super().__init__(spec)
        if self.spec.levels != 2:
            raise InputError(
                f"BernoulliPixels is a probability of images of 2 levels, and these have {self.spec.levels}: give "
                "CategoricalPixels or LogisticPixels"
            )

    @property
    def out_channels(self) -> int:
        return self.spec.channels

    def log_prob_map(self, levels: Tensor, theta: Tensor) -> Tensor:
        (theta,) = self._grouped(theta, self.out_channels)
        return -F.binary_cross_entropy_with_logits(theta, levels.to(theta.dtype), reduction="none").sum(1)

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        return (noise < torch.sigmoid(theta)).to(self.spec.dtype)

    def mean(self, theta: Tensor) -> Tensor:
        return 2 * torch.sigmoid(theta) - 1


class CategoricalPixels(PixelLikelihood):
    r"""Independent categorical levels with L logits each, :math:`p(x = \ell) = \mathrm{softmax}(\theta)_\ell`."""

    @property
    def out_channels(self) -> int:
        return self.spec.channels * self.spec.levels

    def _logits(self, theta: Tensor) -> Tensor:
        (theta,) = self._grouped(theta, self.out_channels)
        return theta.unflatten(1, (self.spec.channels, self.spec.levels)).movedim(2, -1)

    def log_prob_map(self, levels: Tensor, theta: Tensor) -> Tensor:
        log_probs = torch.log_softmax(self._logits(theta), -1)
        return log_probs.gather(-1, levels.to(torch.int64)[..., None])[..., 0].sum(1)

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        return categorical(torch.softmax(self._logits(theta), -1), noise).to(self.spec.dtype)

    def mean(self, theta: Tensor) -> Tensor:
        values = self.spec.to_unit(torch.arange(self.spec.levels, device=theta.device), theta.dtype)
        return torch.softmax(self._logits(theta), -1) @ values


class BinnedPixels(PixelLikelihood):
    """A continuous distribution integrated over bins, one per level.

    The bin of a level has width 2 / (L - 1) around its unit value; the outermost bins are open.
    """

    @property
    def half_bin(self) -> float:
        """Half the width of a level's bin, in unit values."""
        return 1 / (self.spec.levels - 1)

    def ends(self, levels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the lower and upper ends of levels' bins, in unit values."""
        centre = self.spec.to_unit(levels, dtype)
        low = (centre - self.half_bin).masked_fill(levels == 0, -OPEN)
        return low, (centre + self.half_bin).masked_fill(levels == self.spec.levels - 1, OPEN)


class GaussianPixels(BinnedPixels):
    r"""Gaussians with learnt mean and scale, integrated over the bins of the levels.

    .. math:: p(\ell) = \Phi\Big(\frac{u_\ell + \delta - \mu}{\sigma}\Big)
        - \Phi\Big(\frac{u_\ell - \delta - \mu}{\sigma}\Big)

    with the unit value :math:`u_\ell` of a level and half the width :math:`\delta = 1 / (L - 1)` of its bin.

    Args:
        spec: image format.
        scale: "pixel" takes :math:`\log \sigma` of each pixel from the decoder; "shared" learns one parameter for all
            pixels (sigma-VAE: Rybkin et al. 2021).
        smallest: lower bound of :math:`\sigma`, in unit values; a fraction of a bin is small enough.

    Raises:
        InputError: for another scale, or a bound outside (0, 1).
    """

    def __init__(self, spec: ImageSpec, scale: str = "pixel", smallest: float = 1e-3):
        super().__init__(spec)
        check_choice(self, ("pixel", "shared"), scale=scale)
        check_within(self, "(0, 1)", smallest=smallest)
        self.scale = scale
        self.smallest = smallest
        self.log_sigma = nn.Parameter(torch.tensor(-1.0)) if scale == "shared" else None

    @property
    def out_channels(self) -> int:
        return self.spec.channels * (2 if self.scale == "pixel" else 1)

    def _parts(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations, each broadcastable to (B, C, H, W)."""
        if self.log_sigma is not None:
            (mean,) = self._grouped(theta, self.out_channels)
            log_sigma = self.log_sigma
        else:
            mean, log_sigma = self._grouped(theta, self.spec.channels, self.spec.channels)
        return mean, log_sigma.clamp(min=math.log(self.smallest), max=5.0).exp()

    def log_prob_map(self, levels: Tensor, theta: Tensor) -> Tensor:
        mean, sigma = self._parts(theta)
        low, high = self.ends(levels, theta.dtype)
        return LogGaussianMass.apply((low - mean) / sigma, (high - mean) / sigma).sum(1)

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        mean, sigma = self._parts(theta)
        return self.spec.to_levels(mean + sigma * torch.special.ndtri(noise))

    def mean(self, theta: Tensor) -> Tensor:
        return self._parts(theta)[0].clamp(-1, 1)


class LogisticPixels(BinnedPixels):
    r"""Mixture of K logistic distributions, integrated over the bins of the levels (Salimans et al. 2017, PixelCNN++).

    .. math:: p(x) = \sum_k \pi_k \prod_c \Big[\varsigma\Big(\frac{x_c + \delta - \mu_{kc}(x_{<c})}{s_{kc}}\Big)
        - \varsigma\Big(\frac{x_c - \delta - \mu_{kc}(x_{<c})}{s_{kc}}\Big)\Big], \qquad
        \mu_{kc}(x_{<c}) = m_{kc} + \sum_{d < c} \tanh(a_{kcd})\, x_d

    with x in unit values and half the width :math:`\delta = 1 / (L - 1)` of a bin. The channels of a pixel share their
    component, and the mean of each depends on the preceding channels. The mass of a bin with standardised ends
    :math:`a < b` is computed without cancellation as :math:`\varsigma(b)\, \varsigma(-a)\, (1 - e^{a - b})`.

    Args:
        spec: image format.
        components: number K; 1 is the discretized logistic (Kingma et al. 2016).
        smallest: lower bound of the scales s, in unit values.

    Raises:
        InputError: for fewer than 1 component, or a bound outside (0, 1).
    """

    def __init__(self, spec: ImageSpec, components: int = 5, smallest: float = 1e-3):
        super().__init__(spec)
        check_at_least(self, 1, components=components)
        check_within(self, "(0, 1)", smallest=smallest)
        self.components = components
        self.smallest = smallest

    @property
    def _pairs(self) -> int:
        return self.spec.channels * (self.spec.channels - 1) // 2

    @property
    def out_channels(self) -> int:
        return self.components * (1 + 2 * self.spec.channels + self._pairs)

    @property
    def noise_channels(self) -> int:
        return 1 + self.spec.channels

    def _parts(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return logits (B, K, H, W), means and log scales (B, K, C, H, W), and couplings (B, K, pairs, H, W)."""
        k, c = self.components, self.spec.channels
        logits, means, log_scales, couplings = self._grouped(theta, k, k * c, k * c, k * self._pairs)
        log_scales = log_scales.clamp(min=math.log(self.smallest), max=5.0)
        # Different initial means: components that start equal would stay equal.
        offsets = torch.linspace(-1, 1, k + 2, dtype=theta.dtype, device=theta.device)[1:-1]
        means = means.unflatten(1, (k, c)) + offsets.view(k, 1, 1, 1)
        return logits, means, log_scales.unflatten(1, (k, c)), torch.tanh(couplings.unflatten(1, (k, self._pairs)))

    def _coupled(self, means: Tensor, couplings: Tensor, before: Tensor, c: int) -> Tensor:
        """Return means (B, K, H, W) of channel ``c``, given unit values (B, 1 or K, C, H, W) of the channels before."""
        mean = means[:, :, c]
        for d in range(c):
            mean = mean + couplings[:, :, c * (c - 1) // 2 + d] * before[:, :, d]
        return mean

    def log_prob_map(self, levels: Tensor, theta: Tensor) -> Tensor:
        logits, means, log_scales, couplings = self._parts(theta)
        unit = self.spec.to_unit(levels, theta.dtype)
        lowest, highest = self.ends(levels, theta.dtype)
        step = lowest - highest
        nats = torch.log_softmax(logits, 1)
        for c in range(self.spec.channels):
            inverse = (-log_scales[:, :, c]).exp()
            mean = self._coupled(means, couplings, unit[:, None], c)
            above, below = (highest[:, None, c] - mean) * inverse, (mean - lowest[:, None, c]) * inverse
            # An open end is so far away that its terms and their gradients are 0.
            mass = torch.log(-torch.expm1(step[:, None, c] * inverse))
            nats = nats + F.logsigmoid(above) + F.logsigmoid(below) + mass
        return torch.logsumexp(nats, 1)

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        logits, means, log_scales, couplings = self._parts(theta)
        chosen = categorical(torch.softmax(logits, 1).movedim(1, -1), noise[:, 0])[:, None]
        levels = []
        unit = torch.empty(len(theta), 0, *theta.shape[2:], dtype=theta.dtype, device=theta.device)
        for c in range(self.spec.channels):
            quantile = torch.logit(noise[:, c + 1, None].to(theta.dtype).clamp(1e-6, 1 - 1e-6))
            mean = self._coupled(means, couplings, unit[:, None], c).gather(1, chosen)
            scale = log_scales[:, :, c].gather(1, chosen).exp()
            levels.append(self.spec.to_levels(mean + scale * quantile))
            unit = torch.cat([unit, self.spec.to_unit(levels[-1], theta.dtype)], 1)
        return torch.cat(levels, 1)

    def mean(self, theta: Tensor) -> Tensor:
        logits, means, _, couplings = self._parts(theta)
        each = means[:, :, :0]  # per component, since channels are coupled within a component
        for c in range(self.spec.channels):
            mean = self._coupled(means, couplings, each, c)
            each = torch.cat([each, mean[:, :, None].clamp(-1, 1)], 2)
        return (torch.softmax(logits, 1)[:, :, None] * each).sum(1)
