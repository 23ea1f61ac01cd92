"""The precision that losses and densities are computed in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lightning_gen.core.errors import InputError


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float32, or in float64 if it is: in bfloat16 a loss would lose what it compares."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def full_precision(device: torch.device) -> AbstractContextManager:
    """Switch autocast off, where it is on: entering it for nothing costs as much as a small layer."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def refuse_precision(module: Any, refused: tuple[str, ...], reason: str) -> None:
    """Raise InputError where a module's trainer has one of these precisions; ``reason`` ends in a remedy."""
    precision = str(module.trainer.precision)
    if precision in refused:
        raise InputError(f"{type(module).__name__} does not train with trainer.precision {precision}: {reason}")
