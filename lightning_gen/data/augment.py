"""Random changes of training images, made in batch on the device where the batch lies."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gen.draw import Draw
from lightning_gen.errors import InputError
from lightning_gen.spec import ImageSpec


class Augmentation(ABC):
    """A random change of images that keeps their shape and range.

    Every argument of ``__init__`` is kept, as plain data, in an attribute of the same name.
    """

    @abstractmethod
    def __call__(self, levels: Tensor, draw: Draw) -> Tensor:
        """Return changed levels, uint8 (B, C, H, W) like ``levels``, which stay as they were; chance is in ``draw``."""

    def check(self, spec: ImageSpec) -> None:  # noqa: B027 (optional hook)
        """Raise InputError if this cannot be applied to images of ``spec``."""


class HorizontalFlip(Augmentation):
    """Mirror each image left to right with probability p.

    Args:
        p: probability, 0 to 1.

    Raises:
        InputError: for p outside [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise InputError(f"HorizontalFlip.p must be a probability between 0 and 1, got {p}")
        self.p = p

    def __call__(self, levels: Tensor, draw: Draw) -> Tensor:
        """Return ``levels`` with rows reversed where a uniform number falls below p."""
        flipped = draw.uniform(1).lt_(self.p).bool().view(-1, 1, 1, 1)
        return torch.where(flipped, levels.flip(-1), levels)


class RandomShift(Augmentation):
    r"""Move each image by whole pixels, (dy, dx) uniform on :math:`\{-p, ..., p\}^2`, and fill what is uncovered.

    Args:
        pixels: largest move p, at least 0 and below the image's height and width.
        fill: level of the uncovered pixels.

    Raises:
        InputError: for ``pixels`` or ``fill`` out of range.
    """

    def __init__(self, pixels: int = 1, fill: int = 0) -> None:
        if pixels < 0:
            raise InputError(f"RandomShift.pixels must not be negative, got {pixels}")
        if not 0 <= fill <= 255:
            raise InputError(f"RandomShift.fill must be a level between 0 and 255, got {fill}")
        self.pixels = pixels
        self.fill = fill

    def check(self, spec: ImageSpec) -> None:
        """Raise InputError where the move would empty images of ``spec``, or the fill is no level of theirs."""
        if self.pixels >= min(spec.height, spec.width):
            raise InputError(
                f"RandomShift.pixels must be below the image's {spec.height} x {spec.width} pixels, got {self.pixels}"
            )
        if self.fill >= spec.levels:
            raise InputError(f"RandomShift.fill must be a level 0 .. {spec.levels - 1}, got {self.fill}")

    def __call__(self, levels: Tensor, draw: Draw) -> Tensor:
        """Return the moved ``levels``."""
        # floor(u * n) is uniform on 0 .. n - 1: for odd n even the largest float32 u < 1 does not round up to n.
        down, right = draw.uniform(2).mul_(2 * self.pixels + 1).long().unbind(1)
        padded = F.pad(levels, (self.pixels,) * 4, value=self.fill)
        windows = padded.unfold(2, levels.shape[2], 1).unfold(3, levels.shape[3], 1)
        return windows[torch.arange(len(levels), device=levels.device), :, down, right]
