"""Elementwise maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gen.bijections.base import Bijection


class ElementwiseAffine(Bijection):
    r"""Learnt scale and shift of each coordinate, initialised as the identity.

    .. math:: y_i = e^{a_i} x_i + b_i, \qquad \log |\det J| = \sum_i a_i

    Args:
        event_shape: shape of an event.

    Raises:
        InputError: for a dimension below 1.
    """

    def __init__(self, event_shape: int | Sequence[int]):
        super().__init__(event_shape)
        self.log_scale = nn.Parameter(torch.zeros(self.event_shape))
        self.shift = nn.Parameter(torch.zeros(self.event_shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, (log_scale, shift) = self.batch_shape(x), self._parts(x)
        return log_scale.exp() * x + shift, log_scale.sum().expand(batch)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, (log_scale, shift) = self.batch_shape(y), self._parts(y)
        return (y - shift) * (-log_scale).exp(), -log_scale.sum().expand(batch)

    def _parts(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return both in the precision of ``like``: densities are in float32 even if weights are in less."""
        return self.log_scale.to(like.dtype), self.shift.to(like.dtype)
