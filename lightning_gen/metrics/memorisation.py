"""Does a model copy its training images? A copy test, and a picture of samples beside their nearest ones."""

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_gen.core import InputError, check, check_choice
from lightning_gen.metrics.base import HELD_OUT, TRAIN, FeatureMetric, FeatureSet
from lightning_gen.metrics.distances import nearest, nearest_distances


def copy_share(generated: Tensor, train: Tensor, heldout: Tensor) -> Tensor:
    r"""For each generated image 1 if its nearest training image is nearer than its nearest held-out one, 0 if farther.

    With as many training as held-out images, both drawn from the same distribution, a model that does not copy has a
    mean of 1/2, however typical its samples are; copies push it towards 1. A tie counts 1/2. (Comparing distances of
    samples with distances of held-out images instead would blame any model whose samples are typical.)

    Args:
        generated: features (N, D).
        train, heldout: features (M, D) each, the same M.

    Returns:
        float64 (N,) with values 0, 1/2, 1.

    Raises:
        InputError: for different numbers of training and held-out images, or none.
    """
    if len(train) != len(heldout) or not len(train):
        raise InputError(
            f"the copy test needs equally many training and held-out images, got {len(train)} and {len(heldout)}"
        )
    return (1 + torch.sign(nearest_distances(generated, heldout) - nearest_distances(generated, train))) / 2


def wilson_interval(share: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Interval of a share of n trials, 95 % by default, inside [0, 1] (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


class CopyShare(FeatureMetric):
    """Share of generated images nearer to training than to held-out images, with its 95 % interval.

    Figures: ``copy_share``, ``copy_share/low``, ``copy_share/high``, of all generated images and as many training as
    held-out images. About 1/2 without copying. The interval covers the choice of samples; that of m held-out images
    moves the share by about 1 / (2 sqrt(m)) more.

    Distances are taken between pixels (of thumbnails of at most 32 x 32), because a network that was trained on the
    training part places those images apart from fresh ones: with the digits classifier's features, poor samples that
    copy nothing score 0.26. Choose ``features`` for an extractor that has never seen the training part.

    Args:
        space: ``pixels`` or ``features``.
        max_images: most training and held-out images.
    """

    keeps = frozenset({"features", "pixels"})
    least = 1
    has_floor = False

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
        m = min(train.count, heldout.count, self.max_images)
        share = float(
            copy_share(samples.rows(self.space), train.subset(m, self.space), heldout.subset(m, self.space)).mean()
        )
        low, high = wilson_interval(share, samples.count)
        key = "copy_share@pixels" if self.space == "pixels" else "copy_share"
        return {key: share, f"{key}/low": low, f"{key}/high": high}


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
