"""What an image is: channels, height, width, number of levels and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_gen.core.checks import check
from lightning_gen.core.errors import InputError


@dataclass(frozen=True)
class ImageSpec:
    r"""Size and range of the images of a data set; everything about sizes derives from it.

    Images are stored as *levels*: integers ``0 .. levels - 1`` of dtype ``spec.dtype`` and shape (B, C, H, W). Networks
    that want real numbers see *unit* values, :math:`x = 2 \ell / (L - 1) - 1 \in [-1, 1]`.

    Args:
        channels: number of channels C, at least 1.
        height: number of rows H, at least 1.
        width: number of columns W, at least 1.
        levels: number L of values that a pixel can take, at least 2 (256 for photographs, 17 for scikit-learn's
            digits); more than 256, at most 32768, are for grids of codes alone.
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
            whole = isinstance(value, int) and not isinstance(value, bool)
            check(self, name, value, whole and value >= low, f"an integer of at least {low}")
        check(self, "levels", self.levels, self.levels <= 2**15, f"at most {2**15}")

    @classmethod
    def of(cls, value: ImageSpec | Mapping[str, int]) -> ImageSpec:
        """Return ``value`` itself, or the spec that a plain mapping (as stored in checkpoints) describes."""
        return value if isinstance(value, ImageSpec) else cls(**value)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        return self.channels, self.height, self.width

    @property
    def dtype(self) -> torch.dtype:
        """Type of levels: uint8, or int16 where there are more than 256."""
        return torch.uint8 if self.levels <= 256 else torch.int16

    @property
    def array_dtype(self) -> np.dtype:
        """The same for NumPy arrays."""
        return np.dtype(str(self.dtype).removeprefix("torch."))

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
        """Map unit values to the nearest levels, same shape; values outside [-1, 1] are clamped.

        Exact inverse of :meth:`to_unit`: ``to_levels(to_unit(x)) == x``. Dequantized models do not round: they floor.
        """
        top = self.levels - 1
        return unit.float().add(1).mul_(top / 2).round_().clamp_(0, top).to(self.dtype)

    def check(self, levels: Tensor, what: str = "images") -> Tensor:
        """Return ``levels`` if they are (B, C, H, W) of this spec and its dtype, all below ``self.levels``.

        Raises:
            InputError: naming ``what`` and the difference.
        """
        if levels.dtype != self.dtype:
            raise InputError(f"{what}: expected levels of dtype {self.array_dtype}, got {levels.dtype}")
        if levels.ndim != 4 or tuple(levels.shape[1:]) != self.shape:
            raise InputError(
                f"{what}: expected shape (B, {', '.join(map(str, self.shape))}), got {tuple(levels.shape)}"
            )
        if self.levels < torch.iinfo(self.dtype).max + 1 and levels.numel():
            low, high = int(levels.min()), int(levels.max())
            if not 0 <= low <= high < self.levels:
                raise InputError(f"{what}: level {high if low >= 0 else low} is outside 0 .. {self.levels - 1}")
        return levels
