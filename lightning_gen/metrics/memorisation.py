"""Does a model copy its training images? A copy test, and a picture of samples beside their nearest ones."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_gen.core import Figure, InputError, check, check_choice
from lightning_gen.metrics.base import HELD_OUT, TRAIN, FeatureMetric, FeatureSet, fixed_permutation
from lightning_gen.metrics.distances import nearest, squared_distance_blocks

# Quantiles of the normal distribution: an interval of 95 %, a test at the 5 % level, and its power of 80 %.
TWO_SIDED, ONE_SIDED, POWER = 1.959963984540054, 1.6448536269514722, 0.8416212335729143


class CopyTest(NamedTuple):
    """What :func:`copy_test` finds.

    Args:
        share: share of generated images nearer to a training than to a held-out image, equally many of both.
        copied: the fraction q of the generated images that would be copies, were the rest fresh: 0 without copying, 1
            for a model that draws its training images again. It may be negative by chance.
        deviation: standard deviation of ``copied`` for a model that knows no training image.
    """

    share: float
    copied: float
    deviation: float


def copy_test(generated: Tensor, train: Tensor, heldout: Tensor, known: float = 1.0) -> CopyTest:
    r"""Are generated images nearer to training images than to held-out images, which the model has never seen?

    Nearness is only ever compared between training and held-out images. (Comparing distances of samples with those of
    held-out images instead would blame any model whose samples are typical.) The *share* takes as many training as
    held-out images, m: 1/2 without copying. But a model that draws its N training images again is nearer to one of m
    of them only if it draws that one: it reaches no more than :math:`1/2 + m / 2N`, and on small held-out parts the
    share sees little.

    So *copied* takes all. Of a model that does not know which of the N + m images it was trained on, the share p of
    samples whose nearest one is a training image has the expectation :math:`p_0 = N / (N + m)`, and a copy has 1:

    .. math:: q = \frac{p - p_0}{1 - p_0}, \qquad
        \mathrm{var}\, p = \frac{N m}{(N + m)(N + m - 1)} \sum_j \Big(c_j - \frac{1}{N + m}\Big)^2,

    where :math:`c_j` is the share of samples nearest to image j. The variance is exact: it is that over all choices of
    which m of these images are called held out, a permutation test (Fisher 1935) of the nearest-neighbour statistic
    of Schilling (1986). An image equally near to several counts for each of them in equal parts.

    Args:
        generated: features (n, D).
        train: features (N, D); the share takes the first m.
        heldout: features (m, D), m <= N.
        known: the part of all training images that ``train`` is, 0 < known <= 1: copies of others count as fresh.

    Raises:
        InputError: for fewer training than held-out images, or none.
    """
    if not 1 <= len(heldout) <= len(train):
        raise InputError(
            f"the copy test needs held-out images and at least as many training images, got {len(heldout)} and "
            f"{len(train)}"
        )
    big, m = len(train), len(heldout)
    nearer = torch.zeros((), dtype=torch.float64, device=generated.device)
    credit = torch.zeros(big + m, dtype=torch.float64, device=generated.device)
    for _, block in squared_distance_blocks(generated, torch.cat([train, heldout])):
        nearer += (1 + torch.sign(block[:, big:].amin(1) - block[:, :m].amin(1))).sum() / 2
        nearest_ones = (block == block.amin(1, keepdim=True)).double()
        credit += nearest_ones.div_(nearest_ones.sum(1, keepdim=True)).sum(0)
    credit /= len(generated)
    expected = big / (big + m)
    variance = expected * m / (big + m - 1) * (credit - 1 / (big + m)).square().sum()
    scale = known * (1 - expected)
    copied = (float(credit[:big].sum()) - expected) / scale
    return CopyTest(float(nearer) / len(generated), copied, math.sqrt(float(variance)) / scale)


def wilson_interval(share: float, n: int, z: float = TWO_SIDED) -> tuple[float, float]:
    """Interval of a share of n trials, 95 % by default, inside [0, 1] (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


class CopyShare(FeatureMetric):
    r"""How far generated images lean on training images: the copy share, and the fraction that would be copies.

    Figures (see :func:`copy_test`):

    - ``copy_share`` with its 95 % interval ``/low`` and ``/high``: the share of generated images nearer to a training
      than to a held-out image, equally many of both. 1/2 without copying; ``/ceiling`` is what a model reaches that
      draws its training images again, :math:`1/2 + m / 2N`. The interval covers the choice of samples; that of m
      held-out images moves the share by about 1 / (2 sqrt(m)) more.
    - ``copied`` with ``/low`` and ``/high``: 0 without copying, 1 for that model. The interval covers both choices.
      ``/detectable`` is the power: the least fraction that a test at the 5 % level finds in 4 of 5 cases or more.

    Distances are taken between pixels (of thumbnails of at most 32 x 32), because a network that was trained on the
    training part places those images apart from fresh ones: with the digits classifier's features, poor samples that
    copy nothing have a share of 0.26. Choose ``features`` for an extractor that has never seen the training part.

    Args:
        space: ``pixels`` or ``features``.
        max_images: most training and held-out images. More have more power, at a cost proportional to their number.
    """

    keeps = frozenset({"features", "pixels"})
    least = 1
    has_floor = False
    figures = (
        Figure("copy_share", "share of samples nearer to a training than to a held-out image", leads=True),
        Figure("copied", "fraction of samples that would be copies, were the rest fresh", leads=True),
    )

    def __init__(self, space: Literal["pixels", "features"] = "pixels", max_images: int = 10_000) -> None:
        check_choice(self, ("pixels", "features"), space=space)
        check(self, "max_images", max_images, max_images >= 1, "at least 1")
        self.keeps = frozenset({space})
        super().__init__()
        self.space, self.max_images = space, max_images

    @property
    def required(self) -> tuple[str, ...]:
        return TRAIN, HELD_OUT

    def score(self, samples: FeatureSet) -> dict[str, float]:
        train, heldout = self.reference(TRAIN), self.reference(HELD_OUT)
        self.require_samples(samples)
        compared = min(train.count, self.max_images)
        m = min(compared, heldout.count)
        rows = train.rows(self.space)
        chosen = fixed_permutation(train.count)[:compared].to(rows.device)
        test = copy_test(
            samples.rows(self.space), rows[chosen], heldout.subset(m, self.space), known=compared / train.count
        )
        low, high = wilson_interval(test.share, samples.count)
        share, copied = (f"{name}@pixels" if self.space == "pixels" else name for name in ("copy_share", "copied"))
        return {
            share: test.share,
            f"{share}/low": low,
            f"{share}/high": high,
            f"{share}/ceiling": 0.5 + m / (2 * train.count),
            copied: test.copied,
            f"{copied}/low": test.copied - TWO_SIDED * test.deviation,
            f"{copied}/high": test.copied + TWO_SIDED * test.deviation,
            f"{copied}/detectable": (ONE_SIDED + POWER) * test.deviation,
        }


def neighbour_picture(
    generated: Tensor, real: Tensor, generated_features: Tensor, real_features: Tensor, k: int = 5, border: int = 1
) -> Tensor:
    """One picture, a row for each generated image: itself, a gap, then its k nearest real images, nearest first.

    Args:
        generated: uint8 images (N, C, H, W), levels already scaled to 0 .. 255.
        real: uint8 images (M, C, H, W) of the same size.
        generated_features, real_features: their features (N, D) and (M, D).
        k: number of real images in a row.
        border: white pixels between images; the gap is three times as wide.

    Returns:
        uint8 (C, height, width).

    Raises:
        InputError: for sizes that differ, or fewer than k real images.
    """
    if generated.shape[1:] != real.shape[1:]:
        raise InputError(f"images of {tuple(generated.shape[1:])} and {tuple(real.shape[1:])} do not fit one picture")
    if not 1 <= k <= len(real) or not len(generated):
        raise InputError(f"{k} neighbours of {len(generated)} images were asked for among {len(real)} real ones")
    _, found = nearest(generated_features, real_features, k)
    _, channels, height, width = generated.shape
    gap = 3 * border
    picture = torch.full(
        (channels, len(generated) * (height + border) + border, (k + 1) * (width + border) + border + gap),
        255,
        dtype=torch.uint8,
    )
    for row, (image, neighbours) in enumerate(zip(generated.cpu(), found.cpu(), strict=True)):
        top = border + row * (height + border)
        for column, tile in enumerate([image, *real[neighbours].cpu()]):
            left = border + column * (width + border) + (gap if column else 0)
            picture[:, top : top + height, left : left + width] = tile
    return picture
