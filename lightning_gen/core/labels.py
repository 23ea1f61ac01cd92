"""What is given to a model beside images: labels, by the rule of :mod:`lightning_gen.core.protocols`, and masks."""

from typing import Any

import torch
from torch import Tensor

from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import categorical, uniform


def heeded_labels(model: Any, labels: Tensor | None, n: int) -> Tensor | None:
    """Return None for a model that heeds no labels, else those that were given, int64 (n,) on its device.

    Raises:
        InputError: for another number of them, or a class that the model does not have.
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
    """Return :func:`heeded_labels` of a model that cannot do without.

    Raises:
        InputError: where none are given to a class-conditional model.
    """
    if labels is None and model.conditional:
        raise InputError(f"{type(model).__name__}: this model is class-conditional: give labels")
    return heeded_labels(model, labels, n)


def drawn_labels(model: Any, labels: Tensor | None, n: int, generator: torch.Generator) -> Tensor | None:
    """Return :func:`heeded_labels`; where none are given, of classes drawn by ``model.class_shares``."""
    if labels is None and model.conditional:
        numbers = uniform(n, generator=generator)
        labels = categorical(model.class_shares.cpu().expand(n, -1), numbers.cpu())
    return heeded_labels(model, labels, n)


def check_mask(known: Tensor, levels: Tensor) -> Tensor:
    """Return ``known`` with the shape of levels (B, C, H, W), if it is a mask that can be broadcast to it.

    Raises:
        InputError: where it is not.
    """
    if known.dtype != torch.bool:
        raise InputError(f"known must be a mask of dtype bool, got {known.dtype}")
    try:
        return known.to(levels.device).expand(levels.shape)
    except RuntimeError as error:
        raise InputError(f"known of shape {tuple(known.shape)} does not fit images {tuple(levels.shape)}") from error
