"""Likelihood as a figure: bits per dimension of the discrete levels, of one stated kind."""

import math
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gen.core import Figure, ImageSpec, InputError, check_at_least

Number = TypeVar("Number", float, Tensor)

KINDS = MappingProxyType(
    {
        "exact": "bpd",
        "dequantized": "bpd_dequantized",
        "bound": "bpd_bound",
        "ais": "bpd_ais",
        "estimate": "bpd_estimate",
    }
)
"""Name of the figure of each kind of likelihood: the log-probability itself (discrete models), a bound by uniform noise
added to the levels, a variational or importance-weighted bound, annealed importance sampling, any other estimate."""


FIGURES = tuple(
    Figure(name + ending, f"bits per dimension of the levels{given}: {about}", higher=False, kind=kind, leads=True)
    for ending, given in (("", ""), ("_given_labels", ", given the images' labels"))
    for (kind, name), about in zip(
        KINDS.items(),
        (
            "exact",
            "a bound by uniform noise added to them",
            "a variational or importance-weighted bound",
            "bounded in expectation by annealed importance sampling",
            "an estimate",
        ),
        strict=True,
    )
)


def figure_of(kind: str, given_labels: bool = False) -> str:
    """Return the name in logs of a likelihood of that kind, which is another one for images given their labels.

    Raises:
        InputError: for an unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"likelihood: there is no kind {kind!r}; kinds are {', '.join(KINDS)}")
    return KINDS[kind] + ("_given_labels" if given_labels else "")


def bits_per_dimension(nats: Number, spec: ImageSpec) -> Number:
    r"""Return bits per dimension, :math:`-\log p(x) / (\ln 2 \cdot C H W)`, of log-probabilities in nats.

    Args:
        nats: :math:`\log p(x)` of the discrete levels, any shape.
        spec: of the images.
    """
    return -nats / (math.log(2) * spec.dims)


class BitsPerDimension(Metric):
    r"""Mean over images of bits per dimension, and its standard error :math:`s / \sqrt{n}`.

    Sums are in float64 and of differences to a uniform model's :math:`\log_2 L`, so the figures depend neither on
    batches nor on the number of ranks beyond the last digits. ``compute`` names them by the kind of the likelihood:
    ``{"bpd": ..., "bpd_se": ...}``; the standard error of a single image is not a number. Afterwards ``facts`` says, as
    plain data, what they are of: kind, number of samples behind each likelihood, and number of images.

    Args:
        spec: of the images.
        given_labels: whether the likelihoods are of images given their class: figures are then called by it.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    def __init__(self, spec: ImageSpec, given_labels: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.given_labels = given_labels
        self.facts: dict[str, Any] = {}
        for name in ("total", "squares"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("count", "not_finite"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        # A rank that has no image learns of these from the others.
        for name in ("kind_index", "num_samples"):
            self.add_state(name, torch.tensor(-1), dist_reduce_fx="max")

    @property
    def kind(self) -> str | None:
        """What the likelihoods are; None before the first."""
        index = int(self.kind_index)
        return None if index < 0 else tuple(KINDS)[index]

    def update(self, nats: Tensor, kind: str, num_samples: int = 1) -> None:
        """Add log-probabilities (B,) in nats of the discrete levels.

        Args:
            nats: one for each image.
            kind: of all of them, see :data:`KINDS`.
            num_samples: noises, importance samples or chains behind each.

        Raises:
            InputError: for another kind or number of samples than before, or nats that are not one number per image.
        """
        figure_of(kind)
        if nats.ndim != 1 or not nats.is_floating_point():
            raise InputError(
                f"likelihood: expected nats (B,), one number for each image, got {nats.dtype} {tuple(nats.shape)}"
            )
        if self.kind is not None and (self.kind, int(self.num_samples)) != (kind, num_samples):
            raise InputError(
                f"likelihood: kinds must not be mixed in one figure, got {kind} of {num_samples} samples after "
                f"{self.kind} of {int(self.num_samples)}"
            )
        self.kind_index.fill_(tuple(KINDS).index(kind))
        self.num_samples.fill_(num_samples)
        wide = nats.detach().to(self.total.device, torch.float64)
        finite = torch.isfinite(wide)
        excess = bits_per_dimension(wide[finite], self.spec) - math.log2(self.spec.levels)
        self.total += excess.sum()
        self.squares += excess.square().sum()
        self.count += len(wide)
        self.not_finite += len(wide) - len(excess)

    def compute(self) -> dict[str, float]:
        """Return the figure and its standard error over the images of all ranks, by name.

        Raises:
            InputError: for no image at all, or where a likelihood is not finite, naming how many are not.
        """
        n, name = int(self.count), figure_of(self.kind or "exact", self.given_labels)
        if not n:
            raise InputError("likelihood: no image arrived: give at least one")
        if bad := int(self.not_finite):
            raise InputError(
                f"likelihood: {bad} of {n} images have a log-probability that is not finite, so there is no {name}: "
                "the model rules them out, or overflows"
            )
        self.facts = {
            "kind": self.kind,
            "num_samples": int(self.num_samples),
            "n": n,
            "given_labels": self.given_labels,
        }
        mean = float(self.total) / n
        variance = max(0.0, float(self.squares) - n * mean**2) / (n - 1) if n > 1 else math.nan
        return {name: math.log2(self.spec.levels) + mean, f"{name}_se": math.sqrt(variance / n)}


class Calibration(Metric):
    r"""How sure a model is of each pixel's most probable level, against how often that is the level (Guo et al. 2017).

    Predictions are sorted by their confidence :math:`c = \max_\ell p_\ell` into equal bins of [0, 1]; the figure is the
    expected calibration error :math:`\sum_b \frac{n_b}{N} |\overline{\mathrm{hit}}_b - \bar c_b|`, 0 where a level
    predicted with confidence c is right in a share c of all cases.

    Args:
        bins: number of bins.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    figures = (Figure("calibration_error", "how far confidence in the most probable level is from being right", False),)

    def __init__(self, bins: int = 15) -> None:
        super().__init__()
        check_at_least(self, 1, bins=bins)
        self.bins = bins
        for name in ("counts", "confidences", "hits"):
            self.add_state(name, torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_probs: Tensor, levels: Tensor) -> None:
        """Add log-probabilities (..., L) of the levels (...), integers."""
        confidence, level = log_probs.detach().to(self.counts.device).flatten(0, -2).max(-1)
        confidence = confidence.double().exp()
        hit = (level == levels.to(level).flatten()).double()
        place = (confidence * self.bins).long().clamp_(0, self.bins - 1)
        for state, weight in ((self.counts, torch.ones_like(hit)), (self.confidences, confidence), (self.hits, hit)):
            state.index_add_(0, place, weight)

    def compute(self) -> dict[str, float]:
        """Return the expected calibration error.

        Raises:
            InputError: for no prediction at all.
        """
        if not self.counts.sum():
            raise InputError("calibration: no prediction arrived: give at least one image")
        return {"calibration_error": float((self.hits - self.confidences).abs().sum() / self.counts.sum())}

    def curve(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean confidence, share of hits, and share of all predictions, of the bins that have any."""
        full = self.counts > 0
        counts = self.counts[full]
        return self.confidences[full] / counts, self.hits[full] / counts, counts / counts.sum()
