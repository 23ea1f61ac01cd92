"""Real images that samples are compared with."""

from typing import Any

import torch

from lightning_gen.core import InputError
from lightning_gen.data import ImageDataModule
from lightning_gen.metrics import MetricSuite


def set_references(suite: MetricSuite, data: ImageDataModule, held_out: str) -> None:
    """Make the training part and the held-out part of ``data`` the references of ``suite``."""
    check_data(data)
    for name, part in {"train": "train", "heldout": held_out}.items():
        images = data.images(part)
        labels = None if images.labels is None else torch.as_tensor(images.labels)
        suite.set_reference(name, images.levels, data.spec, data.source.fingerprint(part), labels)


def check_data(data: Any) -> None:
    """Raise InputError for data that give no reference images."""
    if not isinstance(data, ImageDataModule):
        raise InputError(
            f"samples are scored against an ImageDataModule's images, and the data are {type(data).__name__}: "
            "give your images as a Source to ImageDataModule, or remove evaluation.extractor and evaluation.metrics"
        )


def check_enough(data: ImageDataModule, part: str) -> None:
    """Raise InputError where a part has too few images to compare samples with: said before training, not after it."""
    if (count := len(data.images(part).levels)) < 2:
        raise InputError(
            f"samples are compared with the {part} part, and images of it there are {count}: give more images, or set "
            "evaluation.extractor and evaluation.metrics to null"
        )
