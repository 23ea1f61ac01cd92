"""How different generated images are from each other."""

import torch
from torch import Tensor

from lightning_gen.core import Figure, InputError, check
from lightning_gen.metrics.base import TRAIN, FeatureMetric, FeatureSet
from lightning_gen.metrics.distances import squared_distance_blocks


def mean_pairwise_distance(features: Tensor) -> float:
    r"""Mean Euclidean distance over all pairs of different rows (N, D), N >= 2.

    Raises:
        InputError: for fewer than two rows.
    """
    n = len(features)
    if n < 2:
        raise InputError(f"pairwise distances need at least 2 images, got {n}")
    total = 0.0
    for _, block in squared_distance_blocks(features):
        block.sqrt_()
        # the square in front has each of its pairs twice, the rest stands for its transpose, too
        total += 2 * float(block.sum()) - float(block[:, : len(block)].sum())
    return total / (n * (n - 1))


def vendi_score(features: Tensor) -> float:
    r"""Effective number of different images, :math:`\exp(-\sum_i \lambda_i \ln \lambda_i)` (Friedman and Dieng 2023).

    The eigenvalues are those of :math:`K / N` with the cosine kernel of the rows (N, D); they equal those of a D x D
    matrix, so that the cost is linear in N. The figure lies between 1 and min(N, D).

    Raises:
        InputError: for no row, or a row of zeros, which has no direction.
    """
    rows = features.double()
    norms = rows.norm(dim=1, keepdim=True)
    if not len(rows) or bool((norms == 0).any()):
        raise InputError("the Vendi score needs at least one image, and features that are not all zero")
    rows = rows / norms
    values = torch.linalg.eigvalsh(rows.mT @ rows / len(rows)).clamp(min=0)
    return float(torch.special.entr(values).sum().exp())


class Diversity(FeatureMetric):
    """Mean distance between two generated images over that between two training images, and the Vendi score.

    Figures: ``pairwise_distance`` (1: as varied as the real ones; towards 0: collapse) and ``vendi`` (Friedman and
    Dieng 2023), of features relative to the training part's mean. Equal n on both sides: the smaller count, at most
    ``max_images``.

    Args:
        max_images: most images of either side.
    """

    keeps = frozenset({"features"})
    figures = (
        Figure("pairwise_distance", "mean distance of two generated images over that of two real ones"),
        Figure("vendi", "Vendi score: how many different images the generated ones amount to"),
    )

    def __init__(self, max_images: int = 10_000) -> None:
        super().__init__()
        check(self, "max_images", max_images, max_images >= 2, "at least 2")
        self.max_images = max_images

    def score(self, samples: FeatureSet) -> dict[str, float]:
        real = self.reference(TRAIN)
        self.require_samples(samples)
        n = min(samples.count, real.count, self.max_images)
        rows = real.subset(n)
        scale = real.once(("pairwise", n), lambda: torch.tensor(mean_pairwise_distance(rows), dtype=torch.float64))
        if float(scale) == 0:
            raise InputError("Diversity: all training images have the same features; nothing to compare with")
        generated = samples.subset(n)
        return {
            "pairwise_distance": mean_pairwise_distance(generated) / float(scale),
            "vendi": vendi_score(generated.double() - real.mean),
        }
