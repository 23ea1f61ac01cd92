r"""Random numbers: one scheme for everything that draws.

Numbers come from a generator keyed on (seed, purpose, position): the seed of the run, what the numbers are for, and how
many images were seen when they are drawn. They do not depend on what was drawn before, so a run that was stopped goes
on with the numbers that it would have had. In training they are drawn for the *global* batch, and each rank keeps its
own rows: the number of ranks changes nothing.

Evaluation and sampling draw on the CPU, wherever the model is, so that figures do not depend on the device. A training
step draws latents and noise on the device; what an augmentation or a penalty draws comes from the CPU.

Two things are not keyed: initial weights and dropout, for which torch has its global generator. Its state is stored in
checkpoints, so resuming is exact all the same, but masks of dropout do depend on the number of ranks.
"""

import hashlib
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_gen.core.ranks import Ranks

Device: TypeAlias = torch.device | str


def keyed_seed(*key: int | str) -> int:
    """Return a 63-bit seed that depends only on ``key``, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def keyed_generator(*key: int | str, device: Device = "cpu") -> torch.Generator:
    """Return a generator on ``device`` whose numbers depend only on ``key``."""
    return torch.Generator(device).manual_seed(keyed_seed(*key))


def fresh_generator() -> torch.Generator:
    """Return a generator on the CPU, seeded from torch's global one."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


# By name, because a Trainer of precision 64-true changes torch's default: equal generators are to give equal numbers.
def normal(
    *shape: int, generator: torch.Generator, device: Device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return standard normal numbers of ``shape``, drawn where ``generator`` is and moved to ``device``."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype).to(device)


def uniform(
    *shape: int, generator: torch.Generator, device: Device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return numbers in [0, 1) of ``shape``, drawn where ``generator`` is and moved to ``device``."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=dtype).to(device)


def categorical(weights: Tensor, uniform: Tensor) -> Tensor:
    r"""Return the index :math:`\min \{k : u \sum_j w_j < \sum_{j \le k} w_j\}` that each number falls on.

    Args:
        weights: (..., K), at least 0, not all of them 0; they need not sum to 1.
        uniform: numbers u in [0, 1), (...).

    Returns:
        int64 (...).
    """
    ends = weights.cumsum(-1)
    # Rounding must not take the product to the total itself, behind which there is no index.
    total = ends[..., -1:]
    place = torch.minimum(uniform.to(ends.dtype)[..., None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(ends, place, right=True)[..., 0]


def categorical_of_logits(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return an index (B,) drawn by each row of unnormalised log probabilities (B, K)."""
    weights = (logits - logits.amax(1, keepdim=True)).exp()
    return categorical(weights, uniform(len(logits), generator=generator, device=logits.device))


ONE_RANK = Ranks()


class Draws:
    """The random numbers of one batch, one call after the other: this rank's rows of those of the global batch.

    Args:
        generator: keyed for this batch, equal on all ranks.
        n: images B of each rank's batch.
        ranks: this process among the others.
        device: where the numbers are wanted.
    """

    def __init__(self, generator: torch.Generator, n: int, ranks: Ranks = ONE_RANK, device: Device | None = None):
        self.generator, self.n, self.ranks, self.device = generator, n, ranks, device

    def normal(self, *shape: int) -> Tensor:
        """Return the next standard normal numbers, float32 (B, *shape)."""
        return self._own(normal(self.n * self.ranks.count, *shape, generator=self.generator))

    def uniform(self, *shape: int) -> Tensor:
        """Return the next numbers in [0, 1), float32 (B, *shape)."""
        return self._own(uniform(self.n * self.ranks.count, *shape, generator=self.generator))

    def _own(self, numbers: Tensor) -> Tensor:
        return numbers[self.ranks.rows(self.n)].to(self.device)
