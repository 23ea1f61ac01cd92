"""Where images come from: the record types and the base class of every source."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lightning_gen.core import ImageSpec, InputError


class Batch(NamedTuple):
    """What every data loader yields.

    Fields:
        levels: (B, C, H, W), of ``spec.dtype``: uint8, for grids of more than 256 codes int16.
        labels: int64 (B,), or None where images have no classes.
        index: int64 (B,), the place of each image in its source's part.
    """

    levels: Tensor
    labels: Tensor | None
    index: Tensor


class Images(NamedTuple):
    """All images of one part of a source.

    Fields:
        levels: (N, C, H, W), of the same type, in memory or a read-only ``np.memmap``. Shared by all callers: do not
            write into it.
        labels: int64 (N,), or None where images have no classes.
    """

    levels: np.ndarray
    labels: np.ndarray | None


METRICS_OF_CLASSES = tuple(
    f"lightning_gen.metrics.{name}"
    for name in ("FrechetDistance", "InceptionScore", "PrecisionRecall", "ClassCoverage", "CopyShare")
)
"""What samples are scored by where an extractor is at hand that knows the classes."""


class Source(ABC):
    """A data set of images of one size, cut into named parts.

    A subclass sets ``spec`` (known after construction, without download or decoding), ``name``, and ``classes`` where
    these have names, and defines :meth:`read`. Every argument of its ``__init__`` is kept, as plain data, in an
    attribute of the same name: checkpoints describe a source by reading these back. ``extractor`` and ``metrics``,
    import paths (or dicts of class_path and init_args), are what runs score samples by whose configs name none.
    """

    name: str
    spec: ImageSpec
    parts: tuple[str, ...] = ("train", "val", "test")
    classes: tuple[str, ...] = ()
    extractor: str | dict[str, Any] | None = None
    metrics: tuple[str | dict[str, Any], ...] = ()

    @abstractmethod
    def read(self, part: str) -> Images:
        """Decode ``part`` (one of ``parts``); :meth:`load` calls this once and keeps the result."""

    def prepare(self) -> None:  # noqa: B027 (optional hook)
        """Download, or decode to disk, what :meth:`load` needs; one process per machine calls this before the rest."""

    def load(self, part: str) -> Images:
        """Return the images of ``part``, decoded at the first call and kept.

        Raises:
            InputError: for an unknown part, and whatever the source finds wrong with its files.
        """
        if part not in self.parts:
            raise InputError(f"{type(self).__name__} has no part {part!r}: choose one of {', '.join(self.parts)}")
        loaded = self.__dict__.setdefault("_loaded", {})
        if part not in loaded:
            loaded[part] = self._checked(part, self.read(part))
        return loaded[part]

    def fingerprint(self, part: str) -> str:
        """Return a hash (32 hexadecimal digits) of the levels, labels and spec of ``part``, to key caches by."""
        hashes = self.__dict__.setdefault("_fingerprints", {})
        if part not in hashes:
            images = self.load(part)
            digest = ContentHash(self.spec)
            for first in range(0, len(images.levels), 4096):
                digest.add(images.levels[first : first + 4096])
            hashes[part] = digest.finish(images.labels)
        return hashes[part]

    def hashes(self, part: str) -> np.ndarray:
        """Return a hash of the levels of each image of ``part``, uint64 (N,): equal images have equal ones."""
        kept = self.__dict__.setdefault("_hashes", {})
        if part not in kept:
            kept[part] = hashes_of(self.load(part).levels)
        return kept[part]

    def count(self, part: str) -> np.ndarray:
        """Return how many images of each class ``part`` has, int64 (num_classes,); without classes (1,), of all."""
        images = self.load(part)
        if images.labels is None:
            return np.array([len(images.levels)])
        return np.bincount(images.labels, minlength=self.spec.num_classes)

    def notes(self) -> list[str]:
        """Return what a user should know of the files, a line each, such as which were passed over."""
        return []

    def __getstate__(self) -> dict:
        # Workers of other processes decode for themselves: pickling must not carry the images.
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}

    def _checked(self, part: str, images: Images) -> Images:
        where = f"{type(self).__name__}, part {part!r}"
        levels, labels = images
        if levels.dtype != self.spec.array_dtype or levels.shape[1:] != self.spec.shape:
            shape = ", ".join(map(str, self.spec.shape))
            raise InputError(
                f"{where}: read() must give {self.spec.array_dtype} (N, {shape}), got {levels.dtype} {levels.shape}"
            )
        if len(levels) == 0:
            raise InputError(f"{where} holds no images")
        if levels.max() >= self.spec.levels or levels.min() < 0:
            raise InputError(f"{where}: level {levels.max()} is outside 0 .. {self.spec.levels - 1}")
        if (labels is None) != (self.spec.num_classes == 0):
            raise InputError(f"{where}: labels must be given exactly where the spec has classes")
        if labels is not None and (labels.dtype != np.int64 or labels.shape != levels.shape[:1]):
            raise InputError(f"{where}: labels must be int64 ({len(levels)},), got {labels.dtype} {labels.shape}")
        if labels is not None and not 0 <= labels.min() <= labels.max() < self.spec.num_classes:
            raise InputError(
                f"{where}: labels {labels.min()} .. {labels.max()} are outside 0 .. {self.spec.num_classes - 1}"
            )
        return images


def hashes_of(levels: np.ndarray) -> np.ndarray:
    """Return 64 bits of BLAKE2b of each image of levels (N, C, H, W), uint64 (N,)."""
    rows = (hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in levels)
    return np.fromiter((int.from_bytes(row, "little") for row in rows), np.uint64, len(levels))


class ContentHash:
    """Running hash of images, the same whether they are hashed at once or chunk by chunk."""

    def __init__(self, spec: ImageSpec) -> None:
        self._digest = hashlib.blake2b(repr(sorted(spec.as_dict().items())).encode(), digest_size=16)

    def add(self, levels: np.ndarray) -> None:
        """Take in levels (N, C, H, W), the next ones in order."""
        self._digest.update(np.ascontiguousarray(levels).data)

    def finish(self, labels: np.ndarray | None) -> str:
        """Take in the labels of all images and return the hash."""
        if labels is not None:
            self._digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return self._digest.hexdigest()


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for downloads and decoded images: ``LIGHTNING_GEN_CACHE``, or ``~/.cache/lightning_gen``."""
    return Path(environment.get("LIGHTNING_GEN_CACHE") or "~/.cache/lightning_gen").expanduser()


def hold_out(total: int, held_out: int, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``range(total)`` into (kept, held out) by the fixed permutation ``default_rng(0)``, each in rising order."""
    if total <= held_out:
        raise InputError(f"{file}: {total} training images are too few to hold out {held_out}: use the full data set")
    order = np.random.default_rng(0).permutation(total)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def part_of_published(images: Images, part: str, file: Path) -> Images:
    """Return the images of ``part`` among the published ones: 5,000 training images are held out for validation.

    Args:
        images: all published test images for the part ``test``, else all published training images.
        part: ``train``, ``val`` or ``test``.
        file: where they are from, for messages.
    """
    if part == "test":
        return images
    kept, held_out = hold_out(len(images.levels), 5000, file)
    chosen = kept if part == "train" else held_out
    return Images(images.levels[chosen], images.labels[chosen])
