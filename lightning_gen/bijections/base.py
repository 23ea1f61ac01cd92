"""What every invertible map promises."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gen.core import InputError, check_positive


class Bijection(nn.Module, ABC):
    r"""Invertible map :math:`y = f(x)` of events, with :math:`\log |\det \partial y / \partial x|` beside it.

    An event is what belongs together, such as a row (D,) or an image (C, H, W); any batch dimensions may precede it.
    ``context``, where a map heeds any, is (..., length) and broadcasts with these.

    Args:
        event_shape: of x; a number D stands for rows (D,).

    Raises:
        InputError: for a side below 1.
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
        """Numbers D of an event."""
        return math.prod(self.event_shape)

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y (..., *output_shape) of x (..., *event_shape), and log |det J| of each event (...,)."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det| of the *inverse's* Jacobian, the negative of the forward one's at x."""

    def batch_shape(self, x: Tensor) -> torch.Size:
        """Return what precedes the event's dimensions.

        Raises:
            InputError: for events of another shape.
        """
        rank = len(self.event_shape)
        if tuple(x.shape[x.ndim - rank :]) != self.event_shape:
            raise InputError(f"{type(self).__name__}: events are {self.event_shape}, got {tuple(x.shape)}")
        return x.shape[: x.ndim - rank]


class Chain(Bijection):
    """Maps one after the other; their log-determinants add up.

    Args:
        maps: at least one, each of which takes what the one before gives.

    Raises:
        InputError: for no map, or maps of other events than the ones before give.
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
    """The numbers of an event in reverse order, so that the next autoregressive map conditions the other way round.

    Args:
        event_shape: of the events.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flip(tuple(range(-len(self.event_shape), 0))), x.new_zeros(self.batch_shape(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self(y)
