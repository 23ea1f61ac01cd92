"""The precision that losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float32, or in float64 if it is: in bfloat16 a loss would lose what it compares."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
