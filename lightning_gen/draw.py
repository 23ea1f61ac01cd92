"""Random numbers of a training step that depend neither on the number of ranks nor on the device."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Draw:
    """The random numbers of one global batch, of which a rank sees its own slice.

    They come from a CPU generator keyed on (seed, purpose, images seen), so an augmented batch depends neither on the
    number of ranks nor on the device, and resuming repeats it exactly.

    Args:
        seed: seed of the run.
        position: images seen when the step begins.
        batch_size: images B per rank.
        rank: this process.
        world_size: number of processes.
        device: where the numbers are wanted.
        purpose: keeps draws for different ends apart.
    """

    def __init__(
        self,
        seed: int,
        position: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        purpose: str = "augment",
    ) -> None:
        self.batch_size, self.rank, self.world_size, self.device = batch_size, rank, world_size, device
        key = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=8).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))

    def uniform(self, columns: int) -> Tensor:
        """Return the next (B, columns) numbers, float32 in [0, 1): this rank's rows of the global batch's."""
        # Not the default dtype, which a Trainer of precision 64-true changes: equal keys draw equal numbers.
        shape = self.world_size * self.batch_size, columns
        return self._own(torch.rand(shape, generator=self._generator, dtype=torch.float32))

    def normal(self, columns: int) -> Tensor:
        """Return the next (B, columns) standard normal numbers, float32: this rank's rows of the global batch's."""
        shape = self.world_size * self.batch_size, columns
        return self._own(torch.randn(shape, generator=self._generator, dtype=torch.float32))

    def _own(self, numbers: Tensor) -> Tensor:
        if self.world_size > 1:
            numbers = numbers[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
        return numbers.to(self.device)
