"""The processes that train together."""

from typing import NamedTuple

import torch
from torch import Tensor


class Ranks(NamedTuple):
    """This process among those that train together.

    Fields:
        rank: of this process, 0 to ``count - 1``.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1  # type: ignore[assignment]  # tuples have a method of that name

    def rows(self, n: int) -> slice:
        """Return this rank's rows of a global batch in which each rank has ``n``."""
        return slice(self.rank * n, (self.rank + 1) * n)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a detached tensor over all ranks, equal on each; every rank must call it equally often."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a detached tensor over all ranks; see :meth:`sum`."""
        return value if self.count == 1 else self.sum(value) / self.count
