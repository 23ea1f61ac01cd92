"""The interface of invertible maps, and their composition."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gen.core import InputError, check_positive


class Bijection(nn.Module, ABC):
    r"""Invertible map :math:`y = f(x)`, with :math:`\log |\det \partial y / \partial x|`.

    It acts on events, such as vectors (D,) or images (C, H, W), with any batch dimensions before them. ``context``, for
    conditional maps, is (..., length), broadcastable with the batch dimensions.

    Args:
        event_shape: shape of an event x; a number D means (D,).

    Raises:
        InputError: for a dimension below 1.
    """

    def __init__(self, event_shape: int | Sequence[int]):
        super().__init__()
        self.event_shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        check_positive(self, **{f"event_shape[{i}]": side for i, side in enumerate(self.event_shape)})

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an event of y."""
        return self.event_shape

    @property
    def dims(self) -> int:
        """Dimension D of an event."""
        return math.prod(self.event_shape)

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y (..., *output_shape) of x (..., *event_shape), and log |det J| of each event (...,)."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x, and log |det| of the Jacobian of the *inverse*: the negative of the forward one at x."""

    def batch_shape(self, x: Tensor) -> torch.Size:
        """Return the batch dimensions, which precede those of an event.

        Raises:
            InputError: for events of another shape.
        """
        rank = len(self.event_shape)
        if tuple(x.shape[x.ndim - rank :]) != self.event_shape:
            raise InputError(f"{type(self).__name__}: events are {self.event_shape}, got {tuple(x.shape)}")
        return x.shape[: x.ndim - rank]


class Chain(Bijection):
    r"""Composition of maps :math:`f_n \circ \dots \circ f_1`, whose log-determinants add up.

    Args:
        maps: at least one, in the order of application.

    Raises:
        InputError: for no map, or a map whose events do not have the shape that its predecessor returns.
    """

    def __init__(self, maps: Sequence[Bijection]):
        if not maps:
            raise InputError("Chain: give at least one map")
        super().__init__(maps[0].event_shape)
        for before, after in itertools.pairwise(maps):
            if before.output_shape != after.event_shape:
                raise InputError(
                    f"Chain: {type(after).__name__} takes {after.event_shape}, and {type(before).__name__} gives "
                    f"{before.output_shape}"
                )
        self.maps = nn.ModuleList(maps)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.maps[-1].output_shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(self.batch_shape(x))
        for step in self.maps:
            x, log_det = step(x, context)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = 0.0
        for step in reversed(self.maps):
            y, log_det = step.inverse(y, context)
            total = total + log_det
        return y, total


class Reverse(Bijection):
    """Reversal of an event's coordinates, so that the next autoregressive map has the opposite order.

    Args:
        event_shape: shape of an event.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flip(tuple(range(-len(self.event_shape), 0))), x.new_zeros(self.batch_shape(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self(y)
