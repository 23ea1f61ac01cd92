"""Distances between feature sets, block by block, so that memory does not grow with n².

A block holds at most ``BLOCK`` float64 distances (16 MiB; 256 MiB on an accelerator), a few of which live at a time.
Blocks are worked on in place: fresh memory for every intermediate result costs more than the arithmetic.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_gen.core import InputError

BLOCK = 2**21
BLOCK_ON_ACCELERATOR = 2**25


def block_slices(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Slices of ``rows`` such that a slice times ``columns`` is one block."""
    size = max(1, (BLOCK if device.type == "cpu" else BLOCK_ON_ACCELERATOR) // max(1, columns))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def squared_distance_blocks(a: Tensor, b: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    r"""Pairs of a slice of rows of ``a`` and :math:`\|a_i - b_j\|^2` for them, float64 (rows, M).

    Uses :math:`\|a\|^2 + \|b\|^2 - 2 a b^T` on features centred by the mean of ``b``, which keeps rounding near 1e-16
    of the features' variance; negative rounding is clamped. Pixels (uint8) are centred by 128 instead: their distances
    are integers, and exact.

    Args:
        a: features (N, D).
        b: features (M, D). Without it the distances are those of ``a`` to itself, each pair once: a block (rows,
            N - first row) leaves out the columns before its first row, so that its diagonal is zero.
    """
    own = b is None
    b = a if b is None else b
    centre = b.mean(0, dtype=torch.float64) if b.is_floating_point() else 128.0
    b = b.double() - centre
    b_norm = b.square().sum(1)
    for rows in block_slices(len(a), len(b), b.device):
        part = b[rows] if own else a[rows].double() - centre
        first = rows.start if own else 0
        block = torch.addmm(b_norm[first:], part, b[first:].mT, alpha=-2).add_(part.square().sum(1, keepdim=True))
        block.clamp_(min=0)
        if own:
            block.diagonal().zero_()
        yield rows, block


def neighbour_distances(features: Tensor, k: int) -> Tensor:
    """Squared distances (N, k), float64, from each row of ``features`` (N, D) to its k nearest other rows, in order.

    Raises:
        InputError: for k < 1 or fewer than k + 1 rows.
    """
    if not 1 <= k < len(features):
        raise InputError(f"the {k}-th nearest neighbour needs k >= 1 and at least k + 1 images, got {len(features)}")
    found = torch.empty(len(features), k, dtype=torch.float64, device=features.device)
    for rows, block in squared_distance_blocks(features, features):
        block.diagonal(rows.start).fill_(-1.0)  # oneself comes first, whatever the rounding
        found[rows] = block.topk(k + 1, dim=1, largest=False, sorted=True).values[:, 1:]
    return found


def neighbour_radii(features: Tensor, k: int) -> Tensor:
    """Squared distance (N,), float64, from each row of ``features`` (N, D) to its k-th nearest other row.

    Raises:
        InputError: for k < 1 or fewer than k + 1 rows.
    """
    return neighbour_distances(features, k)[:, -1]


def nearest(a: Tensor, b: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Squared distances and indices (N, k) of the k rows of ``b`` nearest to each row of ``a``, nearest first."""
    found = [block.topk(k, dim=1, largest=False, sorted=True) for _, block in squared_distance_blocks(a, b)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
