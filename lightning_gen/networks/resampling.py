"""Resampling of square feature maps by the filter [1, 3, 3, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = (1, 3, 3, 1)


def channels_of(k: int, width: int, max_width: int) -> list[int]:
    """Return the channels at resolutions a, 2a, ..., a * 2^k: min(width * 2^(k - i), max_width) at a * 2^i."""
    return [min(width * 2 ** (k - i), max_width) for i in range(k + 1)]


def filter_matrix(
    inputs: int, outputs: int, first: int, *, up: int = 1, down: int = 1, gain: float = 1.0, extend: bool = True
) -> Tensor:
    r"""Return the matrix (outputs, inputs) that resamples a line by the filter [1, 3, 3, 1] / 8.

    .. math:: y_i = \text{up} \cdot \text{gain} \sum_{j=0}^{3} \tfrac{(1, 3, 3, 1)_j}{8} \,
              x^{\uparrow}_{\text{down} \cdot i + \text{first} + j}

    where :math:`x^{\uparrow}` is x with ``up - 1`` zeros after each value. Beyond the ends, x is extended by its first
    or last value (``extend``), else by zeros.
    """
    matrix = torch.zeros(outputs, inputs)
    for i in range(outputs):
        for j, tap in enumerate(TAPS):
            place, between = divmod(down * i + first + j, up)
            if between == 0 and (extend or 0 <= place < inputs):
                matrix[i, min(max(place, 0), inputs - 1)] += up * gain * tap / sum(TAPS)
    return matrix


class Resample(nn.Module):
    r"""Linear resampling of square maps by one matrix per axis, :math:`Y = R X R^\top`, (B, C, n, n) -> (B, C, m, m).

    On a CPU, matrix products are faster than depthwise convolutions under double differentiation, and they allow any
    boundary treatment. Small maps use a single product with the Kronecker square of R.

    Args:
        matrix: R (m, n).
    """

    LARGEST_FLAT = 9  # largest n for which the Kronecker square is faster

    def __init__(self, matrix: Tensor):
        super().__init__()
        self.outputs, inputs = matrix.shape
        self.flat = inputs <= self.LARGEST_FLAT
        # Determined by the architecture, so not stored in checkpoints.
        self.register_buffer("matrix", torch.kron(matrix, matrix) if self.flat else matrix, persistent=False)

    @classmethod
    def up(cls, side: int) -> Resample:
        """Return the doubling of size ``side``: bilinear interpolation between pixel centres."""
        return cls(filter_matrix(side, 2 * side, -2, up=2))

    @classmethod
    def down(cls, side: int) -> Resample:
        """Return the halving of size ``side``: every second value of the map blurred by [1, 3, 3, 1] / 8."""
        return cls(filter_matrix(side, side // 2, -1, down=2))

    def forward(self, maps: Tensor) -> Tensor:
        matrix = self.matrix.to(maps.dtype)
        if self.flat:
            return F.linear(maps.flatten(2), matrix).unflatten(2, (self.outputs, self.outputs))
        return (matrix @ maps) @ matrix.t()
