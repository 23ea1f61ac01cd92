"""Distances between feature sets, block by block, so that memory does not grow with n².

A block holds at most ``BLOCK`` float64 distances (16 MiB; 256 MiB on an accelerator), a few of which live at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_gen.errors import InputError

BLOCK = 2**21
BLOCK_ON_ACCELERATOR = 2**25


def block_slices(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Slices of ``rows`` such that a slice times ``columns`` is one block."""
    size = max(1, (BLOCK if device.type == "cpu" else BLOCK_ON_ACCELERATOR) // max(1, columns))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def squared_distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    r"""Pairs of a slice of rows of ``a`` and :math:`\|a_i - b_j\|^2` for them, float64 (rows, M).

    Uses :math:`\|a\|^2 + \|b\|^2 - 2 a b^T` on features centred by the mean of ``b``, which keeps rounding near 1e-16
    of the features' variance; negative rounding is clamped.

    Args:
        a: features (N, D).
        b: features (M, D).
    """
    centre = b.mean(0, dtype=torch.float64)
    b = b.double() - centre
    b_norm = b.square().sum(1)
    for rows in block_slices(len(a), len(b), b.device):
        part = a[rows].double() - centre
        block = torch.addmm(b_norm, part, b.mT, alpha=-2).add_(part.square().sum(1, keepdim=True))
        yield rows, block.clamp_(min=0)


def neighbour_radii(features: Tensor, k: int) -> Tensor:
    """Squared distance (N,), float64, from each row of ``features`` (N, D) to its k-th nearest other row.

    Raises:
        InputError: for k < 1 or fewer than k + 1 rows.
    """
    if not 1 <= k < len(features):
        raise InputError(f"the {k}-th nearest neighbour needs k >= 1 and at least k + 1 images, got {len(features)}")
    radii = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for rows, block in squared_distance_blocks(features, features):
        block[torch.arange(len(block)), torch.arange(rows.start, rows.stop)] = -1.0  # oneself, whatever the rounding
        radii[rows] = block.topk(k + 1, dim=1, largest=False, sorted=True).values[:, k]
    return radii


def nearest(a: Tensor, b: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Squared distances and indices (N, k) of the k rows of ``b`` nearest to each row of ``a``, nearest first."""
    found = [block.topk(k, dim=1, largest=False, sorted=True) for _, block in squared_distance_blocks(a, b)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
