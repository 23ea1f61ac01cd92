"""Plain iterables of batches: the endless training stream and the finite pass for evaluation."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from lightning_gen.core import InputError, check, check_at_least
from lightning_gen.data.source import Batch


class TrainStream:
    r"""The endless stream of training images, whose k-th element depends only on (seed, k).

    With N images, element :math:`k = e N + i` is image :math:`\pi_e(i)`, where the permutation :math:`\pi_e` of pass e
    is ``numpy.random.default_rng((seed, e)).permutation(N)``. Batches run on over the end of a pass. Step t takes the
    ``world_size * batch_size`` elements from ``start + t * world_size * batch_size`` on, and rank r the r-th contiguous
    slice of them, so the images of a step do not depend on the number of ranks. Each ``iter()`` begins at ``start``.

    Args:
        levels: (N, C, H, W), on any device; batches are made there.
        labels: int64 (N,) on the same device, or None.
        batch_size: images per rank and step; may exceed N (a batch then holds images more than once).
        seed: non-negative integer.
        rank: this process, 0 to ``world_size - 1``.
        world_size: number of processes.
        start: position of the first element (images seen so far by all ranks), or a callable that gives it whenever an
            iteration begins; it need not be a multiple of the batch.
        pin: copy batches to page-locked memory, from which they reach a GPU without waiting.

    Raises:
        InputError: for a number out of range.
    """

    def __init__(
        self,
        levels: Tensor,
        labels: Tensor | None,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: int | Callable[[], int] = 0,
        pin: bool = False,
    ) -> None:
        _check_numbers(self, levels, batch_size, rank, world_size)
        check_at_least(self, 0, seed=seed)
        self.levels, self.labels = levels, labels
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.start, self.pin = start, pin
        self._pass, self._order = -1, torch.empty(0)

    def __iter__(self) -> Iterator[Batch]:
        position = self.start() if callable(self.start) else self.start
        while True:
            yield self.at(position)
            position += self.world_size * self.batch_size

    def at(self, position: int) -> Batch:
        """Return this rank's batch of the step that begins at ``position`` images seen."""
        check_at_least(self, 0, position=position)
        number, offset = divmod(position + self.rank * self.batch_size, len(self.levels))
        index = self._order_of(number)[offset : offset + self.batch_size]
        while len(index) < self.batch_size:  # over the end of the pass
            number += 1
            index = torch.cat([index, self._order_of(number)[: self.batch_size - len(index)]])
        return _take(self.levels, self.labels, index, self.pin)

    def _order_of(self, number: int) -> Tensor:
        if number != self._pass:
            order = np.random.default_rng((self.seed, number)).permutation(len(self.levels))
            self._pass, self._order = number, torch.from_numpy(order).to(self.levels.device)
        return self._order


class EvalLoader:
    """One pass over all images in order; rank r gets images r, r + world_size, ... without padding.

    Together the ranks yield every image exactly once, so their numbers of images, and of batches, may differ by one.

    Args:
        levels: (N, C, H, W).
        labels: int64 (N,), or None.
        batch_size: images per batch; the last one may be smaller.
        rank: this process, 0 to ``world_size - 1``.
        world_size: number of processes.
        pin: copy batches to page-locked memory, from which they reach a GPU without waiting.

    Raises:
        InputError: for a number out of range.
    """

    def __init__(
        self,
        levels: Tensor,
        labels: Tensor | None,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        pin: bool = False,
    ) -> None:
        _check_numbers(self, levels, batch_size, rank, world_size)
        self.levels, self.labels = levels, labels
        self.batch_size, self.rank, self.world_size, self.pin = batch_size, rank, world_size, pin

    def __len__(self) -> int:
        images = len(range(self.rank, len(self.levels), self.world_size))
        return -(-images // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        mine = torch.arange(self.rank, len(self.levels), self.world_size, device=self.levels.device)
        for index in mine.split(self.batch_size) if len(mine) else ():
            yield _take(self.levels, self.labels, index, self.pin)


def _take(levels: Tensor, labels: Tensor | None, index: Tensor, pin: bool) -> Batch:
    # clone: a view would hold the permutation of the whole pass, and let a consumer write into it.
    if not pin:
        return Batch(
            levels.index_select(0, index), None if labels is None else labels.index_select(0, index), index.clone()
        )
    out = torch.empty((len(index), *levels.shape[1:]), dtype=levels.dtype, pin_memory=True)
    torch.index_select(levels, 0, index, out=out)
    return Batch(out, None if labels is None else labels.index_select(0, index).pin_memory(), index.pin_memory())


def _check_numbers(owner: object, levels: Tensor, batch_size: int, rank: int, world_size: int) -> None:
    if len(levels) == 0:
        raise InputError("there are no images to make batches of")
    check_at_least(owner, 1, batch_size=batch_size)
    check(owner, "rank", rank, 0 <= rank < world_size, f"at least 0 and below world_size ({world_size})")
