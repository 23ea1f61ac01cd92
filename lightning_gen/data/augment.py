"""Random changes of training images, made in batch on the device where the batch lies."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gen.core import Draws, ImageSpec, check, check_at_least


class Augmentation(ABC):
    """A random change of images that keeps their shape and range.

    Every argument of ``__init__`` is kept, as plain data, in an attribute of the same name.
    """

    @abstractmethod
    def __call__(self, levels: Tensor, draws: Draws) -> Tensor:
        """Return changed levels (B, C, H, W), like ``levels``, which stay as they were; chance is in ``draws``."""

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
        check(self, "p", p, 0 <= p <= 1, "a probability between 0 and 1")
        self.p = p

    def __call__(self, levels: Tensor, draws: Draws) -> Tensor:
        """Return ``levels`` with rows reversed where a uniform number falls below p."""
        flipped = draws.uniform(1).lt_(self.p).bool().view(-1, 1, 1, 1)
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
        check_at_least(self, 0, pixels=pixels)
        check(self, "fill", fill, 0 <= fill <= 255, "a level between 0 and 255")
        self.pixels = pixels
        self.fill = fill

    def check(self, spec: ImageSpec) -> None:
        """Raise InputError where the move would empty images of ``spec``, or the fill is no level of theirs."""
        below = f"below the image's {spec.height} x {spec.width} pixels"
        check(self, "pixels", self.pixels, self.pixels < min(spec.height, spec.width), below)
        check(self, "fill", self.fill, self.fill < spec.levels, f"a level 0 .. {spec.levels - 1}")

    def __call__(self, levels: Tensor, draws: Draws) -> Tensor:
        """Return the moved ``levels``."""
        # floor(u * n) is uniform on 0 .. n - 1: for odd n even the largest float32 u < 1 does not round up to n.
        down, right = draws.uniform(2).mul_(2 * self.pixels + 1).long().unbind(1)
        padded = F.pad(levels, (self.pixels,) * 4, value=self.fill)
        windows = padded.unfold(2, levels.shape[2], 1).unfold(3, levels.shape[3], 1)
        return windows[torch.arange(len(levels), device=levels.device), :, down, right]
