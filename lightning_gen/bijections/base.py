"""What every invertible map promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Bijection(nn.Module, ABC):
    r"""Invertible map :math:`y = f(x)` of rows, with :math:`\log |\det \partial y / \partial x|` beside it.

    Rows may be preceded by any batch dimensions. ``context``, where a map heeds any, broadcasts with them.
    """

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y, of the shape of x, and log |det J| of each row (...,)."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det| of the *inverse's* Jacobian, the negative of the forward one's at x."""


class Chain(Bijection):
    """Maps one after the other; their log-determinants add up."""

    def __init__(self, maps: Sequence[Bijection]):
        super().__init__()
        self.maps = nn.ModuleList(maps)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[:-1])
        for step in self.maps:
            x, log_det = step(x, context)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = y.new_zeros(y.shape[:-1])
        for step in reversed(self.maps):
            y, log_det = step.inverse(y, context)
            total = total + log_det
        return y, total


class Reverse(Bijection):
    """The coordinates in reverse order, so that the next autoregressive map conditions the other way round."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flip(-1), x.new_zeros(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.flip(y, (-1,)), y.new_zeros(y.shape[:-1])
