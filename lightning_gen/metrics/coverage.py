"""Which of the modes that are known beforehand are generated: classes of a classifier, or points of a grid."""

import torch
from torch import Tensor

from lightning_gen.core import Figure, InputError, check_within
from lightning_gen.metrics.base import TRAIN, FeatureMetric, FeatureSet


class ClassCoverage(FeatureMetric):
    r"""Classes that the extractor's classifier finds among generated images.

    Figures: ``classes``, the number of classes whose share is at least ``least_share`` of their share among the
    training images (both as the classifier sees them); ``class_distance``, the total variation distance
    :math:`\tfrac12 \sum_k |p_k - q_k|` of the two histograms, 0 for equal mixtures; and, where classes were asked for
    (a class-conditional model), ``label_accuracy``, the share of images recognised as the class that was asked for.

    Args:
        least_share: in (0, 1].

    Raises:
        InputError: for a share out of range; on scoring, for an extractor without logits.
    """

    keeps = frozenset({"logits"})
    figures = (
        Figure("classes", "classes that are drawn", higher=True),
        Figure("class_distance", "total variation between the shares of generated and real classes", higher=False),
        Figure("label_accuracy", "share of generated images recognised as the class that was asked for", higher=True),
    )

    def __init__(self, least_share: float = 0.1) -> None:
        super().__init__()
        check_within(self, "(0, 1]", least_share=least_share)
        self.least_share = least_share

    def score(self, samples: FeatureSet) -> dict[str, float]:
        self.require_samples(samples)
        real = self.reference(TRAIN)
        self.require_samples(real)
        if samples.logits is None or real.logits is None:
            raise InputError("ClassCoverage needs an extractor that gives logits; this one gives features only")
        found = samples.logits.argmax(1)
        p, q = shares(found, samples.logits.shape[1]), shares(real.logits.argmax(1), samples.logits.shape[1])
        figures = {
            "classes": float(((p >= self.least_share * q) & (q > 0)).sum()),
            "class_distance": float((p - q).abs().sum() / 2),
        }
        if samples.labels is not None:
            figures["label_accuracy"] = float((found == samples.labels).double().mean())
        return figures


def shares(classes: Tensor, num_classes: int) -> Tensor:
    """Share (K,) of each class among ``classes`` (N,), float64."""
    return torch.bincount(classes, minlength=num_classes).double() / len(classes)


class ModeCoverage(FeatureMetric):
    r"""Modes of a :class:`lightning_gen.data.GaussianGrid` that are generated, by distance in levels.

    Figures: ``modes_pixels``, the number of modes with a sample within ``radius`` of their centre, and
    ``high_quality_pixels``, the share of samples that lie within ``radius`` of some centre (Srivastava et al. 2017). A
    perfect model's share is that of a circle of the Gaussian, :math:`1 - e^{-r^2 / 2\sigma^2}`: 0.989 at three
    deviations, and 0.987 on the default grid, whose coordinates are rounded. Read both: noise all over the plane
    meets every mode.

    Args:
        side: modes in a row, as the source's.
        spacing: distance between neighbouring modes in levels, as the source's.
        radius: quality radius in levels; three of the source's deviations.

    Raises:
        InputError: for numbers out of range; on scoring, for images that are no points of two coordinates.
    """

    keeps = frozenset({"pixels"})
    figures = (
        Figure("modes", "modes of the grid that are drawn", higher=True, leads=True),
        Figure("high_quality", "share of samples near a mode of the grid", higher=True, leads=True),
    )
    least = 1

    def __init__(self, side: int = 5, spacing: float = 50.0, radius: float = 6.0) -> None:
        super().__init__()
        if isinstance(side, bool) or not isinstance(side, int) or side < 1 or not spacing > 0 or not radius > 0:
            raise InputError(
                f"ModeCoverage: side must be a whole number of at least 1, spacing and radius above 0, got {side}, "
                f"{spacing}, {radius}"
            )
        self.side, self.spacing, self.radius = side, spacing, radius

    def score(self, samples: FeatureSet) -> dict[str, float]:
        self.require_samples(samples)
        points = samples.rows("pixels").double()
        if points.shape[1] != 2:
            raise InputError(f"ModeCoverage scores points of two coordinates, not images of {points.shape[1]} pixels")
        steps = torch.arange(self.side, dtype=torch.float64, device=points.device) - (self.side - 1) / 2
        places = 127.5 + self.spacing * steps
        centres = torch.cartesian_prod(places, places)
        distance, nearest = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        good = distance <= self.radius
        return {
            "modes@pixels": float(nearest[good].unique().numel()),
            "high_quality@pixels": float(good.double().mean()),
        }
