"""Checks of labels, by the rules of :mod:`lightning_gen.core.protocols`, and of masks."""

from typing import Any

import torch
from torch import Tensor

from lightning_gen.core.errors import InputError, Unavailable
from lightning_gen.core.randomness import categorical, uniform


def heeded_labels(model: Any, labels: Tensor | None, n: int) -> Tensor | None:
    """Return the labels that a model uses: int64 (n,) on its device, or None if it is unconditional or none are given.

    Raises:
        InputError: for another number of labels, or a class out of range.
    """
    if labels is None or not model.conditional:
        return None
    classes = model.spec.num_classes + model.null_class
    if labels.shape != (n,) or labels.dtype.is_floating_point:
        raise InputError(f"labels: expected {n} whole numbers, got {labels.dtype} of shape {tuple(labels.shape)}")
    if n and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise InputError(f"labels: there is no class {int(wrong)}: classes are 0 .. {classes - 1}")
    return labels.to(model.device, torch.int64)


def required_labels(model: Any, labels: Tensor | None, n: int) -> Tensor | None:
    """Return :func:`heeded_labels`, with labels required if the model is class-conditional.

    Raises:
        Unavailable: for a class-conditional model without labels.
        InputError: as :func:`heeded_labels`.
    """
    if labels is None and model.conditional:
        raise Unavailable(f"{type(model).__name__}: this model is class-conditional: give labels")
    return heeded_labels(model, labels, n)


def drawn_labels(model: Any, labels: Tensor | None, n: int, generator: torch.Generator) -> Tensor | None:
    """Return :func:`heeded_labels`; if none are given, classes are drawn from ``model.class_shares``."""
    if labels is None and model.conditional:
        numbers = uniform(n, generator=generator)
        labels = categorical(model.class_shares.cpu().expand(n, -1), numbers.cpu())
    return heeded_labels(model, labels, n)


def check_mask(known: Tensor, levels: Tensor) -> Tensor:
    """Return the mask ``known`` broadcast to the shape of levels (B, C, H, W), on their device.

    Raises:
        InputError: for a mask that is not boolean or cannot be broadcast.
    """
    if known.dtype != torch.bool:
        raise InputError(f"known must be a mask of dtype bool, got {known.dtype}")
    try:
        return known.to(levels.device).expand(levels.shape)
    except RuntimeError as error:
        raise InputError(f"known of shape {tuple(known.shape)} does not fit images {tuple(levels.shape)}") from error
