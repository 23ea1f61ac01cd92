"""Precision and recall, density and coverage: is what is generated real, and is all that is real generated?"""

import torch
from torch import Tensor

from lightning_gen.core import Figure, check, check_at_least
from lightning_gen.metrics.base import TRAIN, FeatureMetric, FeatureSet
from lightning_gen.metrics.distances import neighbour_distances, neighbour_radii, squared_distance_blocks


def precision_recall(
    generated: Tensor, real: Tensor, k: int = 3, real_radii: Tensor | None = None
) -> tuple[float, float]:
    r"""Improved precision and recall (Kynkäänniemi et al. 2019), both in [0, 1].

    Precision is the share of generated images inside the ball of some real image, whose radius is the distance to its
    k-th nearest other real image; recall the same with the sides swapped. Use equal n on both sides.

    Args:
        generated, real: features (N, D) and (M, D).
        k: which neighbour gives the radius.
        real_radii: ``neighbour_radii(real, k)`` if it is known already.

    Raises:
        InputError: for fewer than k + 1 images on either side.
    """
    real_radii = neighbour_radii(real, k) if real_radii is None else real_radii
    generated_radii = neighbour_radii(generated, k)
    inside = torch.zeros(len(generated), dtype=torch.bool, device=generated.device)
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, block in squared_distance_blocks(generated, real):
        inside[rows] = (block <= real_radii).any(dim=1)
        # whether any distance is within: the least difference is found in place, and faster
        covered |= block.sub_(generated_radii[rows, None]).amin(dim=0) <= 0
    return float(inside.double().mean()), float(covered.double().mean())


def density_coverage(
    generated: Tensor, real: Tensor, k: int = 5, real_radii: Tensor | None = None
) -> tuple[float, float]:
    r"""Density and coverage (Naeem et al. 2020), with balls around real images only.

    .. math:: \mathrm{density} = \frac{1}{kN} \sum_{j} \#\{i : g_j \in B_k(r_i)\}, \qquad
        \mathrm{coverage} = \frac{1}{M} \#\{i : \exists j : g_j \in B_k(r_i)\}

    Density may exceed 1; coverage is in [0, 1].

    Args:
        generated, real: features (N, D) and (M, D).
        k: which neighbour gives the radius.
        real_radii: ``neighbour_radii(real, k)`` if it is known already.

    Raises:
        InputError: for fewer than k + 1 real images.
    """
    real_radii = neighbour_radii(real, k) if real_radii is None else real_radii
    hits = 0
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for _, block in squared_distance_blocks(generated, real):
        hits += int((block <= real_radii).count_nonzero())
        covered |= block.amin(dim=0) <= real_radii
    return hits / (k * len(generated)), float(covered.double().mean())


class _Neighbourhoods(FeatureMetric):
    """Equal numbers of generated and real features, with the real side's radii computed once."""

    keeps = frozenset({"features"})

    def __init__(self, k: int, max_images: int) -> None:
        super().__init__()
        check_at_least(self, 1, k=k)
        check(self, "max_images", max_images, max_images > k, f"above k = {k}")
        self.k, self.max_images, self.least = k, max_images, k + 1

    def compared(self, samples: FeatureSet) -> tuple[Tensor, Tensor, Tensor]:
        """Generated features (n, D), real features (n, D) and the real radii (n,), n = min of both and max_images."""
        real = self.reference(TRAIN)
        self.require_samples(samples)
        self.require_samples(real)
        n = min(samples.count, real.count, self.max_images)
        rows = real.subset(n)
        # more neighbours than k cost nothing, and then serve the metrics with another k
        kept = min(max(self.k, 8), n - 1)
        distances = real.once(("neighbours", kept, n), lambda: neighbour_distances(rows, kept))
        return samples.subset(n), rows, distances[:, self.k - 1].contiguous()


class PrecisionRecall(_Neighbourhoods):
    """Precision and recall against the training part: ``precision``, ``recall`` (Kynkäänniemi et al. 2019).

    Equal n on both sides: the smaller count, at most ``max_images``, by a fixed permutation of each.

    Args:
        k: which neighbour gives a ball's radius.
        max_images: most images of either side.
    """

    figures = (
        Figure("precision", "share of generated images among real ones", higher=True, leads=True),
        Figure("recall", "share of real images among generated ones", higher=True, leads=True),
    )

    def __init__(self, k: int = 3, max_images: int = 10_000) -> None:
        super().__init__(k, max_images)

    def score(self, samples: FeatureSet) -> dict[str, float]:
        generated, real, radii = self.compared(samples)
        precision, recall = precision_recall(generated, real, self.k, radii)
        return {"precision": precision, "recall": recall}


class DensityCoverage(_Neighbourhoods):
    """Density and coverage against the training part: ``density``, ``coverage`` (Naeem et al. 2020).

    Equal n on both sides: the smaller count, at most ``max_images``, by a fixed permutation of each.

    Args:
        k: which neighbour gives a ball's radius.
        max_images: most images of either side.
    """

    figures = (
        Figure("density", "how densely generated images lie among real ones", higher=True, leads=True),
        Figure("coverage", "share of real images with a generated one near", higher=True, leads=True),
    )

    def __init__(self, k: int = 5, max_images: int = 10_000) -> None:
        super().__init__(k, max_images)

    def score(self, samples: FeatureSet) -> dict[str, float]:
        generated, real, radii = self.compared(samples)
        density, coverage = density_coverage(generated, real, self.k, radii)
        return {"density": density, "coverage": coverage}
