"""What an image is: channels, height, width, number of levels and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lightning_gen.errors import InputError


@dataclass(frozen=True)
class ImageSpec:
    r"""Size and range of the images of a data set; everything about sizes derives from it.

    Images are stored as *levels*: integers ``0 .. levels - 1`` of dtype uint8 and shape (B, C, H, W). Networks that
    want real numbers see *unit* values, :math:`x = 2 \ell / (L - 1) - 1 \in [-1, 1]`.

    Args:
        channels: number of channels C, at least 1.
        height: number of rows H, at least 1.
        width: number of columns W, at least 1.
        levels: number L of values that a pixel can take, 2 to 256 (256 for photographs, 17 for scikit-learn's digits).
        num_classes: number of classes; 0 where images have no labels.

    Raises:
        InputError: for a value outside these ranges.
    """

    channels: int
    height: int
    width: int
    levels: int = 256
    num_classes: int = 0

    def __post_init__(self) -> None:
        lowest = {"channels": 1, "height": 1, "width": 1, "levels": 2, "num_classes": 0}
        for name, low in lowest.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"ImageSpec.{name} must be an integer of at least {low}, got {value!r}")
        if self.levels > 256:
            raise InputError(f"ImageSpec.levels must be at most 256 (levels are stored as uint8), got {self.levels}")

    @classmethod
    def of(cls, value: ImageSpec | Mapping[str, int]) -> ImageSpec:
        """Return ``value`` itself, or the spec that a plain mapping (as stored in checkpoints) describes."""
        return value if isinstance(value, cls) else cls(**value)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        return self.channels, self.height, self.width

    @property
    def dims(self) -> int:
        """Number of dimensions C·H·W, by which bits per dimension are divided."""
        return self.channels * self.height * self.width

    def as_dict(self) -> dict[str, int]:
        """Plain data for checkpoints and JSON."""
        return asdict(self)

    def to_unit(self, levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map levels (integers) to unit values in [-1, 1], same shape."""
        return levels.to(dtype).mul_(2 / (self.levels - 1)).sub_(1)

    def to_levels(self, unit: Tensor) -> Tensor:
        """Map unit values to the nearest levels (uint8), same shape; values outside [-1, 1] are clamped.

        Exact inverse of :meth:`to_unit`: ``to_levels(to_unit(x)) == x``. Dequantized models do not round: they floor.
        """
        top = self.levels - 1
        return unit.float().add(1).mul_(top / 2).round_().clamp_(0, top).to(torch.uint8)

    def check(self, levels: Tensor, what: str = "images") -> Tensor:
        """Return ``levels`` if they are uint8 (B, C, H, W) of this spec, all below ``self.levels``.

        Raises:
            InputError: naming ``what`` and the difference.
        """
        if levels.dtype != torch.uint8:
            raise InputError(f"{what}: expected levels of dtype uint8, got {levels.dtype}")
        if levels.ndim != 4 or tuple(levels.shape[1:]) != self.shape:
            raise InputError(
                f"{what}: expected shape (B, {', '.join(map(str, self.shape))}), got {tuple(levels.shape)}"
            )
        if self.levels < 256 and levels.numel() and int(levels.max()) >= self.levels:
            raise InputError(f"{what}: level {int(levels.max())} is outside 0 .. {self.levels - 1}")
        return levels
