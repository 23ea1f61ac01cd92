"""A Gaussian around each pixel's mean, integrated over the bins of the discrete levels."""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_gen.core import ImageSpec, InputError, check, normal

OPEN = 1e6  # unit values; an infinite end would make the derivative by sigma NaN


class LogGaussianMass(torch.autograd.Function):
    r"""Elementwise :math:`\log(\Phi(b) - \Phi(a))` of the standard normal distribution, for :math:`a < b`.

    Stable far into both tails, where :math:`\Phi` underflows to 0 or rounds to 1. The gradients
    :math:`-\varphi(a) / (\Phi(b) - \Phi(a))` and :math:`\varphi(b) / (\Phi(b) - \Phi(a))` are also computed from
    logarithms, since autograd through the difference would divide 0 by 0 there.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        # By symmetry, move the interval to the lower tail.
        flip = a + b > 0
        low, high = torch.where(flip, -b, a), torch.where(flip, -a, b)
        # log Phi = log (Phi / phi) + log phi: in the tail, differences of log Phi itself would lose all digits.
        of_low, of_high = scaled_tail(low).log(), scaled_tail(high.clamp(max=0)).log()
        gap = 0.5 * (high - low) * (high + low)
        top = of_high - 0.5 * high.square() - 0.5 * math.log(2 * math.pi)
        top = torch.where(high < 0, top, torch.log1p(-0.5 * torch.special.erfc(high * math.sqrt(0.5))))
        hazard = torch.where(high < 0, -of_high, -0.5 * high.square() - 0.5 * math.log(2 * math.pi) - top)
        ratio = of_low + gap + hazard  # log (Phi(low) / Phi(high))
        log_rest = torch.where(ratio > -math.log(2), (-ratio.expm1()).log(), (-ratio.exp()).log1p())
        ctx.save_for_backward(hazard - log_rest, gap, flip)
        return top + log_rest

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        log_density, gap, flip = ctx.saved_tensors  # at high, over the mass
        of_high, of_low = log_density.exp(), (log_density + gap).exp()
        of_a, of_b = ctx.needs_input_grad
        return (
            -grad * torch.where(flip, of_high, of_low) if of_a else None,
            grad * torch.where(flip, of_low, of_high) if of_b else None,
        )


def scaled_tail(x: Tensor) -> Tensor:
    r"""Return :math:`\Phi(x) / \varphi(x)` for :math:`x \le 0`, which does not underflow where both factors do."""
    return math.sqrt(math.pi / 2) * torch.special.erfcx(x * -math.sqrt(0.5))


class DiscretizedGaussian:
    r"""Gaussian around a pixel's mean, integrated over the bins of the levels.

    .. math:: p(\ell) = \Phi\Big(\frac{u_\ell + \delta - \mu}{\sigma}\Big)
        - \Phi\Big(\frac{u_\ell - \delta - \mu}{\sigma}\Big), \qquad
        u_\ell = \frac{2 \ell}{L - 1} - 1, \quad \delta = \frac{1}{L - 1}

    The outermost bins are open, so that probabilities sum to 1 over the levels: this is the distribution of
    ``spec.to_levels(mean + sigma * noise)`` with standard normal noise.

    Args:
        spec: image format.
        sigma: standard deviation in unit values, above 0; a number or a tensor that broadcasts to images.

    Raises:
        InputError: for a standard deviation that is not a finite number above 0.
    """

    def __init__(self, spec: ImageSpec, sigma: float | Tensor):
        value = torch.as_tensor(sigma)
        check(self, "sigma", sigma, bool((torch.isfinite(value) & (value > 0)).all()), "a finite number above 0")
        self.spec = spec
        self.sigma = sigma

    def log_prob(self, levels: Tensor, mean: Tensor) -> Tensor:
        """Return log p, in nats, of each pixel, differentiable in the mean and in sigma.

        Args:
            levels: integers 0 .. L - 1, broadcastable with ``mean``.
            mean: unit values.

        Raises:
            InputError: for a level out of range.
        """
        top = self.spec.levels - 1
        if levels.numel() and not 0 <= int(levels.min()) <= int(levels.max()) <= top:
            raise InputError(f"levels must be 0 .. {top}, got {int(levels.min())} .. {int(levels.max())}")
        return self.log_prob_of_bins(*self.bins(levels, mean.dtype), mean)

    def bins(self, levels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the lower and upper ends of levels' bins in unit values; outermost ends are far beyond any mean."""
        top = self.spec.levels - 1
        centre = levels.to(dtype) * (2 / top) - 1
        low = (centre - 1 / top).masked_fill(levels == 0, -OPEN)
        return low, (centre + 1 / top).masked_fill(levels == top, OPEN)

    def log_prob_of_bins(self, low: Tensor, high: Tensor, mean: Tensor) -> Tensor:
        """Return log p, in nats, of each pixel, given its level's :meth:`bins`: cheaper for many means."""
        return LogGaussianMass.apply((low - mean) / self.sigma, (high - mean) / self.sigma)

    def sample(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        """Draw levels of the shape of ``mean``."""
        noise = normal(*mean.shape, generator=generator, device=mean.device)
        return self.spec.to_levels(mean + self.sigma * noise)
