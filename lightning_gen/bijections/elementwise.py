"""Maps of each coordinate by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_gen.bijections.base import Bijection
from lightning_gen.errors import InputError


class ElementwiseAffine(Bijection):
    r"""Each coordinate has a scale and a shift, which are learnt; the identity at the start.

    .. math:: y_i = e^{a_i} x_i + b_i, \qquad \log |\det J| = \sum_i a_i

    Args:
        dims: number of coordinates D.

    Raises:
        InputError: for fewer than 1 coordinate.
    """

    def __init__(self, dims: int):
        super().__init__()
        if dims < 1:
            raise InputError(f"ElementwiseAffine: dims must be at least 1, got {dims}")
        self.dims = dims
        self.log_scale = nn.Parameter(torch.zeros(dims))
        self.shift = nn.Parameter(torch.zeros(dims))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._parts(x)
        return log_scale.exp() * x + shift, log_scale.sum().expand(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._parts(y)
        return (y - shift) * (-log_scale).exp(), -log_scale.sum().expand(y.shape[:-1])

    def _parts(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return both in the precision of ``like``: densities are in float32 where weights are kept in less."""
        return self.log_scale.to(like.dtype), self.shift.to(like.dtype)
