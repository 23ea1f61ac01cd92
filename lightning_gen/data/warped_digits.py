"""Digits moved, scaled and slanted by known amounts: the test of whether latents are disentangled."""

import numpy as np

from lightning_gen.core import ImageSpec, check
from lightning_gen.data.digits import Digits
from lightning_gen.data.source import Images, Source

SIDE = 16
FACTORS = {"x": (-2.5, 2.5), "y": (-2.5, 2.5), "scale": (0.8, 1.3), "slant": (-0.6, 0.6)}
HELD_OUT = {"val": 1 / 8, "test": 1 / 4}


class WarpedDigits(Source):
    r"""Every combination of position, scale and slant of one or a few handwritten digits: 16 x 16 pixels, 17 levels.

    The digits are ``writings`` training images g of one class of :class:`Digits`, whose pixels are one apart. Image
    coordinates u = (column, row), counted from the centre, show

    .. math:: \mathrm{round}\; g\bigl(A^{-1} (u - t)\bigr), \qquad
        A = s \begin{pmatrix} 1 & -h \\ 0 & 1 \end{pmatrix}, \quad t = (t_x, t_y),

    interpolated bilinearly. Each factor takes ``values`` evenly spaced values: x and y (the shift t) -2.5 to 2.5
    pixels, scale s 0.8 to 1.3, slant h -0.6 to 0.6; which writing it is, is left unnamed. All ``writings`` ·
    ``values``⁴ images are shuffled by a fixed permutation and cut: an eighth for validation, a quarter to test on, the
    rest to train on. Scores of disentanglement (such as
    :func:`~lightning_gen.metrics.mutual_information_gap`) need factors that are known and, as here, independent, as
    the grid of dSprites has them (Matthey et al. 2017).

    Args:
        digit: class, 0 to 9.
        values: of each factor, 2 to 16.
        writings: images of that class, 1 to 50.

    Raises:
        InputError: for numbers out of range.
    """

    name = "warped_digits"
    spec = ImageSpec(channels=1, height=SIDE, width=SIDE, levels=17)
    factor_names = tuple(FACTORS)

    def __init__(self, digit: int = 3, values: int = 8, writings: int = 1) -> None:
        given = {"digit": (digit, 0, 9), "values": (values, 2, 16), "writings": (writings, 1, 50)}
        for name, (value, low, high) in given.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            check(self, name, value, whole and low <= value <= high, f"a whole number of {low} to {high}")
        self.digit, self.values, self.writings = digit, values, writings

    def factors(self, part: str) -> np.ndarray:
        """Return which value each factor has, int64 (N, 4) of 0 .. values - 1, in the order of ``factor_names``.

        Raises:
            InputError: for an unknown part.
        """
        self.load(part)  # which knows the parts
        return self._combinations(part)[:, 1:]

    def read(self, part: str) -> Images:
        """Draw one part."""
        combinations = self._combinations(part)
        train = Digits().load("train")
        writings = train.levels[train.labels == self.digit][: self.writings, 0]
        shift_x, shift_y, scale, slant = (
            np.linspace(*ends, self.values)[column]
            for ends, column in zip(FACTORS.values(), combinations[:, 1:].T, strict=True)
        )
        levels = warp(writings[combinations[:, 0]], shift_x, shift_y, scale, slant)
        return Images(levels[:, None], None)

    def _combinations(self, part: str) -> np.ndarray:
        """Return rows (writing, x, y, scale, slant) of one part."""
        sizes = self.writings, *[self.values] * len(FACTORS)
        order = np.random.default_rng(2017).permutation(int(np.prod(sizes)))
        val, test = (int(len(order) * share) for share in HELD_OUT.values())
        cut = {"val": slice(val), "test": slice(val, val + test), "train": slice(val + test, None)}[part]
        return np.stack(np.unravel_index(order[cut], sizes), 1)


def warp(
    pictures: np.ndarray, shift_x: np.ndarray, shift_y: np.ndarray, scale: np.ndarray, slant: np.ndarray
) -> np.ndarray:
    """Return pictures (N, h, w) on 16 x 16 pixels, uint8; numbers (N,) as :class:`WarpedDigits` has them."""
    n, height, width = pictures.shape
    shift_x, shift_y, scale, slant = (numbers[:, None, None] for numbers in (shift_x, shift_y, scale, slant))
    place = np.arange(SIDE) - (SIDE - 1) / 2
    row = (place[None, :, None] - shift_y) / scale
    column = (place[None, None, :] - shift_x) / scale + slant * row
    # Beyond its edge a picture is 0: two pixels of margin, and coordinates that stop there.
    padded = np.pad(pictures.astype(np.float64), ((0, 0), (2, 2), (2, 2)))
    row = np.clip(row + (height - 1) / 2 + 2, 0, height + 2)
    column = np.clip(column + (width - 1) / 2 + 2, 0, width + 2)
    row, column = np.broadcast_arrays(row, column)
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    down, right, each = row - top, column - left, np.arange(n)[:, None, None]
    value = (
        (1 - down) * (1 - right) * padded[each, top, left]
        + (1 - down) * right * padded[each, top, left + 1]
        + down * (1 - right) * padded[each, top + 1, left]
        + down * right * padded[each, top + 1, left + 1]
    )
    return np.rint(value).astype(np.uint8)
