"""Real images that samples are compared with."""

from typing import Any

import torch

from lightning_gen.core import InputError
from lightning_gen.data import ImageDataModule
from lightning_gen.metrics import MetricSuite
from lightning_gen.models import GenerativeModule


def set_references(suite: MetricSuite, data: ImageDataModule, held_out: str) -> None:
    """Make the training part and the held-out part of ``data`` the references of ``suite``."""
    check_data(data)
    for name, part in {"train": "train", "heldout": held_out}.items():
        images = data.images(part)
        labels = None if images.labels is None else torch.as_tensor(images.labels)
        suite.set_reference(name, images.levels, data.spec, data.source.fingerprint(part), labels)


def check_data(
    data: Any,
    what: str = "samples are scored against",
    otherwise: str = "remove evaluation.extractor and evaluation.metrics",
) -> None:
    """Raise InputError for data that have no parts.

    Args:
        data: of a run.
        what: needs them.
        otherwise: how to do without.
    """
    if not isinstance(data, ImageDataModule):
        raise InputError(
            f"{what} an ImageDataModule's images, and the data are {type(data).__name__}: give your images as a Source "
            f"to ImageDataModule, or {otherwise}"
        )


def check_drawn_classes(suite: MetricSuite, labels: torch.Tensor | None, model: GenerativeModule) -> None:
    """Raise InputError where ``labels`` (n,), those to draw, are too few of a class for figures of each class."""
    if labels is None:
        raise InputError(f"evaluation.per_class: this {type(model).__name__} is not class-conditional")
    count, label = torch.bincount(labels, minlength=model.spec.num_classes).min(0)
    for metric in suite.metrics:
        if count < metric.least:
            raise InputError(
                f"evaluation.per_class: of {len(labels)} samples, in the training part's proportions, {int(count)} are "
                f"of class {int(label)}, and {type(metric).__name__} needs {metric.least}: raise evaluation.n"
            )


def check_enough(data: ImageDataModule, part: str) -> None:
    """Raise InputError where a part has too few images to compare samples with: said before training, not after it."""
    if (count := len(data.images(part).levels)) < 2:
        raise InputError(
            f"samples are compared with the {part} part, and images of it there are {count}: give more images, or set "
            "evaluation.extractor and evaluation.metrics to null"
        )
