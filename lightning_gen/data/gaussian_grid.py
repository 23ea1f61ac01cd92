"""A grid of Gaussians in the plane: the test of how many modes a model covers."""

from typing import ClassVar

import numpy as np

from lightning_gen.core import ImageSpec, InputError, check_above, check_positive
from lightning_gen.data.source import Images, Source

PART_SIZES = {"train": 50_000, "val": 5_000, "test": 5_000}


class GaussianGrid(Source):
    r"""Points of ``side``² equally likely Gaussians on a square grid, as "images" of two channels and one pixel.

    Coordinates are levels 0 .. 255, rounded: mode (i, j) is
    :math:`N\bigl((127.5 + s\,(i - (k-1)/2),\; 127.5 + s\,(j - (k-1)/2)),\; \sigma^2 I\bigr)` with k = ``side`` and s =
    ``spacing``. Mode coverage on such grids is how GANs' mode collapse is measured since Srivastava et al. (2017) and
    Lin et al. (2018); score it with :class:`lightning_gen.metrics.ModeCoverage`. Drawn with a fixed seed: 50,000
    training, 5,000 validation and 5,000 test points.

    Args:
        side: modes in a row, at least 1.
        spacing: distance s between neighbouring modes, in levels.
        deviation: standard deviation :math:`\sigma` of a mode, in levels.

    Raises:
        InputError: for numbers out of range, or a grid that does not fit into 0 .. 255 with four deviations around it.
    """

    name = "gaussian_grid"
    spec = ImageSpec(channels=2, height=1, width=1)
    extractor: ClassVar = {
        "class_path": "lightning_gen.metrics.ModuleExtractor",
        "init_args": {"module": "torch.nn.Flatten", "name": "plane"},
    }
    metrics = ("lightning_gen.metrics.ModeCoverage", "lightning_gen.metrics.FrechetDistance")

    def __init__(self, side: int = 5, spacing: float = 50.0, deviation: float = 2.0) -> None:
        check_positive(self, side=side)
        check_above(self, 0, spacing=spacing, deviation=deviation)
        if not spacing * (side - 1) / 2 + 4 * deviation <= 127.5:  # not even where the sum is no number
            raise InputError(
                f"GaussianGrid: {side} x {side} modes, {spacing} apart and of deviation {deviation}, do not fit into "
                "0 .. 255: lower spacing or deviation"
            )
        self.side, self.spacing, self.deviation = side, spacing, deviation

    def read(self, part: str) -> Images:
        """Draw one part."""
        random = np.random.default_rng([2017, self.parts.index(part)])
        modes = random.integers(self.side, size=(PART_SIZES[part], 2))
        centres = 127.5 + self.spacing * (modes - (self.side - 1) / 2)
        points = np.rint(random.normal(centres, self.deviation)).clip(0, 255)
        return Images(points.astype(np.uint8)[:, :, None, None], None)
