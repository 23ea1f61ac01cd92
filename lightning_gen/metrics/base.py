"""What metrics share: feature sets, the accumulator that every rank fills, and the base class of metrics."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from lightning_gen.core import Figure, InputError

ROWS = ("features", "logits", "labels", "pixels")
PADDING = -1  # sample index of rows that only fill up a batch
HELD_OUT = "heldout"
TRAIN = "train"


def fixed_permutation(n: int) -> Tensor:
    """The permutation (n,) that splits and subsets of n samples are taken from; always the same for the same n.

    It is torch-fidelity's (NumPy's legacy generator with seed 2020), so that Inception Scores over splits can be
    compared figure by figure. No global random state is touched.
    """
    return torch.from_numpy(np.random.RandomState(2020).permutation(n))


@dataclass
class FeatureSet:
    """Features of a set of images in the order of their index, or the moments that stand for them.

    Args:
        count: number of images n.
        features: (n, D), or None where only moments were kept.
        logits: (n, K) or None.
        labels: int64 (n,) or None.
        pixels: uint8 thumbnails (n, P), see :func:`thumbnails`, or None.
        moments: mean (D,) and unbiased covariance (D, D) in float64, or None to compute them from ``features``.
        name: what it is, for messages.
    """

    count: int
    features: Tensor | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None
    pixels: Tensor | None = None
    moments: tuple[Tensor, Tensor] | None = None
    name: str = "generated"
    cache: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    def _moments(self) -> tuple[Tensor, Tensor]:
        if self.moments is None:
            if self.features is None:
                raise InputError(f"{self.name} images: neither features nor their moments were kept")
            if self.count < 2:
                raise InputError(f"{self.name} images: a covariance needs at least 2 images, got {self.count}")
            self.moments = moments_of(self.features)
        return self.moments

    def to(self, device: torch.device | str) -> FeatureSet:
        """Move all tensors to ``device``, in place."""
        move = lambda t: None if t is None else t.to(device)  # noqa: E731
        for rows in ROWS:
            setattr(self, rows, move(getattr(self, rows)))
        self.moments = None if self.moments is None else (move(self.moments[0]), move(self.moments[1]))
        self.cache = {key: value.to(device) for key, value in self.cache.items()}
        return self

    @property
    def mean(self) -> Tensor:
        """Mean (D,), float64."""
        return self._moments()[0]

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance (D, D), float64."""
        return self._moments()[1]

    @property
    def is_constant(self) -> bool:
        """Whether more than one image was given and, up to rounding, all have the same features."""
        if self.count < 2 or (self.features is None and self.moments is None):
            return False
        if self.features is not None:
            first = self.features[:1]
            return bool((self.features - first).abs().max() <= 1e-6 * (1 + first.abs().max()))
        return bool(self.cov.trace() <= 1e-12 * (1 + self.mean.square().sum()))

    def once(self, key: Any, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor stored under ``key``, computed at the first call: what costs something and depends on this set."""
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]

    def rows(self, space: str = "features") -> Tensor:
        """Features (n, D), or the pixels (n, P) of thumbnails.

        Raises:
            InputError: where they were not kept.
        """
        rows = getattr(self, space)
        if rows is None:
            raise InputError(f"{self.name} images: {space} were not kept; the metric must say keeps = {{{space!r}}}")
        return rows

    def subset(self, size: int, space: str = "features") -> Tensor:
        """``size`` rows (size, D) of the features (or pixels), chosen by the fixed permutation of all n."""
        rows = self.rows(space)
        return rows if size == self.count else rows[fixed_permutation(self.count)[:size].to(rows.device)]

    def select(self, rows: Tensor) -> FeatureSet:
        """The feature set of these rows: a mask (n,), or their places (k,), which may repeat."""
        places = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        own = {name: getattr(self, name) for name in ROWS}
        kept = {name: value[places.to(value.device)] for name, value in own.items() if value is not None}
        return FeatureSet(len(places), **kept, name=self.name)


def thumbnails(levels: Tensor, size: int = 32) -> Tensor:
    """Rows (B, P) of uint8 pixels of levels (B, C, H, W), averaged over areas to at most ``size`` x ``size``.

    What pixel distances are taken between: memory is then at most 1,024 C bytes an image, whatever its size.
    """
    height, width = levels.shape[-2:]
    if max(height, width) > size:
        small = torch.nn.functional.adaptive_avg_pool2d(levels.float(), (min(height, size), min(width, size)))
        levels = small.round_().to(torch.uint8)
    return levels.flatten(1)


def moments_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of rows (n, D) in float64, n >= 2; summed in blocks of 1,024 rows."""
    n, mean = len(features), features.mean(0, dtype=torch.float64)
    outer = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for block in features.split(1024):
        centred = block.double() - mean
        for j in range(0, len(mean), 256):  # symmetric: little above the diagonal is computed
            outer[j : j + 256, : j + 256].addmm_(centred[:, j : j + 256].mT, centred[:, : j + 256])
    return mean, (outer.tril() + outer.tril(-1).mT) / (n - 1)


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """Rows of every rank, in the order of ranks, without padding; ranks may hold different counts, also none."""
    shapes: list[tuple[torch.Size, torch.dtype]] = [None] * dist.get_world_size(group)  # type: ignore[list-item]
    dist.all_gather_object(shapes, (rows.shape, rows.dtype), group=group)
    like = next(((shape, dtype) for shape, dtype in shapes if shape[0] > 0), None)
    if like is None:
        return [rows for _ in shapes]
    tail, dtype = like[0][1:], like[1]
    counts = [shape[0] for shape, _ in shapes]
    padded = torch.zeros(max(counts), *tail, dtype=dtype, device=rows.device)
    if len(rows):
        padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded, group=group)
    return [part[:count] for part, count in zip(gathered, counts, strict=True)]


class Accumulator(Metric):
    """Everything that metrics keep of the generated images, collected once for all of them and over all ranks.

    ``keeps`` picks: ``moments`` (float64 sums, D² + D numbers whatever n is), ``features`` (n·D floats, on every rank
    once gathered), ``logits`` (n·K floats) and ``pixels`` (thumbnails, n·P bytes). With features the moments come from
    the ordered features, so that they do not depend on how batches were cut at all; from sums they agree to rounding.
    """

    full_state_update = False
    is_differentiable = False
    total: Any
    outer: Any

    def __init__(self, keeps: frozenset[str]) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        if not keeps <= {"moments", "features", "logits", "pixels"}:
            raise InputError(f"metrics can keep moments, features, logits and pixels, not {', '.join(sorted(keeps))}")
        self.keeps = keeps
        for state in ("index", *ROWS, "total", "outer"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self,
        features: Tensor,
        logits: Tensor | None = None,
        index: Tensor | None = None,
        labels: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> None:
        """Add features (B, D), logits (B, K), sample index (B,) (negative: padding, dropped), labels (B,), pixels."""
        if index is None:
            start = sum(map(len, self.index))
            index = torch.arange(start, start + len(features))
        index = index.to(features.device)
        rows = {"features": features, "logits": logits, "labels": labels, "pixels": pixels}
        rows = {name: value.to(features.device) for name, value in rows.items() if value is not None}
        for name, value in rows.items():
            if len(value) != len(index):
                raise InputError(f"metrics: {len(index)} sample indices came with {len(value)} {name}")
        real = index >= 0
        if not bool(real.all()):
            index, rows = index[real], {name: value[real] for name, value in rows.items()}
        if not len(index):
            return
        for name in ("features", "logits"):
            if name in rows and not bool((finite := torch.isfinite(rows[name]).all(dim=1)).all()):
                sample = int(index[~finite][0])
                raise InputError(f"metrics: {name} of sample {sample} are not finite; look at extractor and images")
        self.index.append(index)
        for name in rows.keys() & (self.keeps | {"labels"}):
            getattr(self, name).append(rows[name])
        if "moments" in self.keeps and "features" not in self.keeps:
            wide = rows["features"].double()
            total, outer = wide.sum(0, keepdim=True), (wide.mT @ wide)[None]
            self.total = [self.total[0] + total] if self.total else [total]
            self.outer = [self.outer[0] + outer] if self.outer else [outer]

    def compute(self) -> FeatureSet:
        """The feature set of all samples of all ranks, ordered by sample index.

        Raises:
            InputError: for no sample at all, or two samples with the same index.
        """
        joined = {name: _joined(getattr(self, name)) for name in ("index", *ROWS)}
        index = joined.pop("index")
        if index is None:
            raise InputError("metrics: no generated image arrived; ask for at least n = 2 samples")
        order = index.argsort()
        index = index[order]
        twice = index[1:] == index[:-1]
        if bool(twice.any()):
            raise InputError(
                f"metrics: sample index {int(index[1:][twice][0])} arrived twice; give every generated image its own "
                f"index, and padding the index {PADDING}"
            )
        for name, rows in joined.items():
            if rows is not None and len(rows) != len(index):
                raise InputError(f"metrics: {len(rows)} {name} for {len(index)} images; give them always or never")
        ordered: dict[str, Any] = {name: None if rows is None else rows[order] for name, rows in joined.items()}
        return FeatureSet(len(index), **ordered, moments=self._moments(len(index)))

    def _moments(self, n: int) -> tuple[Tensor, Tensor] | None:
        if "moments" not in self.keeps or "features" in self.keeps or n < 2:
            return None
        mean = _joined(self.total).sum(0) / n
        return mean, (_joined(self.outer).sum(0) - n * torch.outer(mean, mean)) / (n - 1)


def _joined(state: list[Tensor] | Tensor) -> Any:
    """Rows of a list state, which torchmetrics leaves as a tensor once it is gathered; None where it is empty."""
    if isinstance(state, Tensor):
        return state if len(state) else None
    return torch.cat(state) if state else None


class FeatureMetric(Metric, ABC):
    """A figure of the features of generated images, most often against features of real ones.

    A subclass says what it ``keeps`` and writes :meth:`score`, from a :class:`FeatureSet` of all generated images to
    named figures. Inside a :class:`~lightning_gen.metrics.MetricSuite` all metrics share one accumulator and one pass
    of the extractor; alone it is an ordinary torchmetrics metric, updated with features.

    The names that :meth:`score` returns are ``figure``, ``figure/reference`` or ``figure/detail``; the suite makes
    ``figure_extractor``, ``figure_extractor_reference`` of them. A name with ``@space`` (``copy_share@pixels``) is of
    another space than the extractor's and gets that in its place.
    """

    full_state_update = False
    is_differentiable = False

    keeps: frozenset[str] = frozenset({"features"})
    figures: tuple[Figure, ...] = ()  # what :meth:`score` returns, by the names before any ``/``
    against: tuple[str, ...] = (TRAIN,)
    least: int = 2  # generated images without which there is no figure
    takes_parts: bool = False  # whether rows of features may be more than one point, as ``layout`` says
    has_floor: bool = True  # whether real held-out images in place of generated ones give a figure to compare with

    def __init__(self) -> None:
        super().__init__()
        self.references: dict[str, FeatureSet] = {}
        self.layout: dict[str, tuple[int, int, int]] = {}  # the extractor's, of a row of features
        self.samples = Accumulator(self.keeps)

    @abstractmethod
    def score(self, samples: FeatureSet) -> dict[str, float]:
        """Figures of the generated images, given ``self.references``.

        Raises:
            InputError: for fewer images than the metric needs, or a missing reference part.
        """

    def set_reference(self, part: str, reference: FeatureSet | Tensor) -> None:
        """Compare with ``reference``: a feature set or features (n, D)."""
        if isinstance(reference, Tensor):
            reference = FeatureSet(len(reference), reference)
        reference.name = part
        self.references[part] = reference

    def update(
        self,
        features: Tensor,
        logits: Tensor | None = None,
        index: Tensor | None = None,
        labels: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> None:
        """Add features (B, D), logits (B, K), sample indices (B,), labels (B,) and thumbnails (B, P)."""
        self.samples.update(features, logits, index, labels, pixels)

    def compute(self) -> dict[str, float]:
        """Figures of all images of all ranks."""
        return {figure_name(key, "inception"): value for key, value in self.score(self.samples.compute()).items()}

    def reset(self) -> None:
        """Forget the generated images; the references stay."""
        super().reset()
        self.samples.reset()

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the reference parts without which there is no figure."""
        return self.against[:1]

    def each_reference(self, figure: str) -> Iterator[tuple[str, FeatureSet]]:
        """Name of the figure and reference set, for each part of ``against`` that is set; the first must be."""
        for place, part in enumerate(self.against):
            if part in self.references:
                yield figure if place == 0 else f"{figure}/{part}", self.references[part]
            elif place == 0:
                self.reference(part)

    def reference(self, part: str) -> FeatureSet:
        """The reference set of that name.

        Raises:
            InputError: where it was not set.
        """
        if part not in self.references:
            raise InputError(f"{type(self).__name__} compares with the {part!r} reference part, which was not set")
        return self.references[part]

    def require_samples(self, samples: FeatureSet) -> None:
        """Raise InputError for fewer images than :attr:`least`."""
        if samples.count < self.least:
            raise InputError(
                f"{type(self).__name__} needs at least {self.least} {samples.name} images, got {samples.count}; raise n"
            )


def figure_name(key: str, extractor: str) -> str:
    """The name in logs: ``fid/heldout`` -> ``fid_digits_heldout``, with the extractor ``inception`` ``fid_heldout``.

    >>> figure_name("is/std", "digits"), figure_name("is/std", "inception"), figure_name("copy_share@pixels", "digits")
    ('is_digits_std', 'is_std', 'copy_share_pixels')
    """
    figure, *rest = key.split("/")
    figure, _, space = figure.partition("@")
    space = space or ("" if extractor == "inception" else extractor)
    return "_".join([figure, *([space] if space else []), *rest])


def describe(metric: FeatureMetric) -> dict[str, Any]:
    """Class and init arguments of a metric, as plain data for JSON."""
    arguments = {name: getattr(metric, name) for name in list(inspect.signature(type(metric).__init__).parameters)[1:]}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    return {"class_path": f"{type(metric).__module__}.{type(metric).__qualname__}", "init_args": plain}
