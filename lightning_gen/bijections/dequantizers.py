"""Dequantization of discrete levels, for continuous densities."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_gen.core import check_positive, uniform


class Dequantizer(nn.Module, ABC):
    r"""Noise on levels, :math:`x = \ell + u`, u in [0, 1), so that :math:`\ell = \lfloor x \rfloor`.

    A density p of x bounds the probability P of levels, with M noise samples (Theis et al. 2016, Burda et al. 2016):

    .. math:: \mathbb E \log \frac1M \sum_m \frac{p(\ell + u_m)}{q(u_m \mid \ell)} \le \log P(\ell)
        = \log \int p(\ell + u)\, du

    Args:
        noises: M.

    Raises:
        InputError: for fewer than 1 noise sample.
    """

    def __init__(self, noises: int = 64):
        super().__init__()
        check_positive(self, noises=noises)
        self.noises = noises

    @abstractmethod
    def draw(self, levels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return noise u of levels (B, D), float64 on their device, and its log density log q(u), nats (B,)."""

    def candidates(self, levels: Tensor, generator: torch.Generator) -> Tensor:
        """Return M noise samples (M, B, D) of levels (B, D)."""
        return torch.stack([self.draw(levels, generator)[0] for _ in range(self.noises)])

    def log_prob(self, levels: Tensor, log_density: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
        """Return the bound on log P of levels (B, D), nats (B,), given the log density of x (B, D)."""
        weights = []
        for _ in range(self.noises):
            noise, log_q = self.draw(levels, generator)
            weights.append(log_density(levels + noise) - log_q)
        return torch.stack(weights).logsumexp(0) - math.log(self.noises)


class UniformDequantizer(Dequantizer):
    """Uniform dequantization, q(u | l) = 1 on [0, 1) (Theis et al. 2016).

    Args:
        noises: M, see :class:`Dequantizer`.
    """

    mean = 0.5
    variance = 1 / 12

    def draw(self, levels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = uniform(*levels.shape, generator=generator, device=levels.device, dtype=torch.float64)
        return noise, torch.zeros(len(levels), dtype=torch.float64, device=levels.device)
