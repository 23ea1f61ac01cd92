"""Dequantization noise that depends on the image and a seed alone."""

from __future__ import annotations

import torch
from torch import Tensor

# The constants of splitmix64 (Steele et al. 2014), as signed integers; int64 arithmetic wraps.
GOLDEN, FIRST, SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(counters: Tensor) -> Tensor:
    """Return 64 well mixed bits for each int64 counter: the output function of splitmix64 (Steele et al. 2014)."""
    bits = (counters ^ _shift(counters, 30)) * FIRST
    bits = (bits ^ _shift(bits, 27)) * SECOND
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, places: int) -> Tensor:
    return (bits >> places) & ((1 << (64 - places)) - 1)  # a shift of int64 repeats the sign


def dequantization_noise(levels: Tensor, count: int, seed: int, first: int = 0) -> Tensor:
    """Return uniform noise in [0, 1), float64 (count, B, D), for images levels (B, ...) of D dimensions.

    The noises numbered ``first`` to ``first + count - 1`` of an image depend on its levels and the seed alone: not on
    the batch it comes in, nor on the device. Equal images get equal noise.
    """
    flat = levels.reshape(len(levels), -1).to(torch.int64)
    dims = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    image = mix((mix(dims * GOLDEN) | 1).mul(flat + 1).sum(1) + seed)
    numbers = torch.arange(first, first + count, device=flat.device)
    streams = mix(image + (numbers[:, None] + 1) * GOLDEN)
    return _shift(mix(streams[:, :, None] + dims * GOLDEN), 11).to(torch.float64) * 2.0**-53
