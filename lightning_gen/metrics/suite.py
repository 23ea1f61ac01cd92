"""All metrics of generated images from one pass of one extractor."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gen.core import Figure, ImageSpec, InputError
from lightning_gen.metrics.base import (
    Accumulator,
    FeatureMetric,
    FeatureSet,
    describe,
    figure_name,
    moments_of,
    thumbnails,
)
from lightning_gen.metrics.cache import cached_tensors
from lightning_gen.metrics.extractors import Extractor, Features

log = logging.getLogger(__name__)


class MetricSuite:
    """Scores generated images against reference parts with several metrics and one pass of one extractor.

    Set the references once, feed batches in any order and from any rank, each image with its own sample index, then
    ``compute``: figures do not depend on how batches are cut, on the order of arrival or on the number of ranks. The
    references' features are kept on disk under the hash of data, extractor and transform. No global random state is
    touched. Every rank must call ``compute``, also one that had no image.

    Args:
        extractor: maps levels to features.
        metrics: the figures wanted.
        cache: keep the references' features on disk (``$LIGHTNING_GEN_CACHE``, else ``~/.cache/lightning_gen``).
        batch_size: images per pass of the extractor over a reference.
        per_class: also score each class alone (``fid_digits_class3``), against the reference's images of that class;
            needs labels on both sides.
        keep_features: keep features for :func:`neighbour_picture` also where no metric needs them.

    Example:
        >>> import torch
        >>> from lightning_gen.metrics import DigitsExtractor, FrechetDistance, MetricSuite
        >>> from lightning_gen.core.spec import ImageSpec
        >>> suite = MetricSuite(DigitsExtractor(), [FrechetDistance()], cache=False)
        >>> real = torch.randint(17, (100, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> suite.set_reference("train", real, ImageSpec(1, 8, 8, 17, 10))
        >>> suite.update(real, index=torch.arange(100))
        >>> {name: round(value, 6) for name, value in suite.compute().items()}
        {'fid_digits': 0.0}
    """

    def __init__(
        self,
        extractor: Extractor,
        metrics: Sequence[FeatureMetric],
        cache: bool = True,
        batch_size: int = 256,
        per_class: bool = False,
        keep_features: bool = False,
    ) -> None:
        if not metrics:
            raise InputError("MetricSuite.metrics is empty; name at least one, such as FrechetDistance")
        wrong = [] if extractor.whole else [type(metric).__name__ for metric in metrics if _takes_points(metric)]
        if wrong or (keep_features and not extractor.whole):
            raise InputError(
                f"{wrong[0] if wrong else 'a search for neighbours'} takes an image's features for one point, and "
                f"those of the extractor {extractor.name!r} are many: use SlicedWasserstein or another extractor"
            )
        self.extractor, self.metrics, self.cache, self.batch_size = extractor, list(metrics), cache, batch_size
        self.per_class = per_class
        self.spec: ImageSpec | None = None
        self.references: dict[str, FeatureSet] = {}
        self.fingerprints: dict[str, str | None] = {}
        self.device = torch.device("cpu")
        self.keeps = frozenset({"features"} if per_class or keep_features else ()).union(
            *(metric.keeps for metric in self.metrics)
        )
        self.samples = Accumulator(self.keeps)
        self.extractor.eval().requires_grad_(False)
        self.count = 0

    def to(self, device: torch.device | str) -> MetricSuite:
        """Move extractor and references to ``device``."""
        self.device = torch.device(device)
        self.extractor.to(self.device)
        self.samples.to(self._statistics_device)
        for reference in self.references.values():
            reference.to(self._statistics_device)
        return self

    @property
    def _statistics_device(self) -> torch.device:
        # Apple's GPUs have no float64
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def set_spec(self, spec: ImageSpec) -> None:
        """Say what the images are; :meth:`set_reference` does so too.

        Raises:
            InputError: where the extractor cannot score such images, or references are of another shape.
        """
        if self.spec is not None and (self.spec.shape, self.spec.levels) != (spec.shape, spec.levels):
            raise InputError(
                f"metrics: images of {spec.shape} with {spec.levels} levels cannot be compared with the reference's "
                f"{self.spec.shape} with {self.spec.levels} levels"
            )
        self.extractor.check(spec)
        self.spec = spec
        for metric in self.metrics:
            metric.layout = self.extractor.layout(spec)

    def set_reference(
        self,
        part: str,
        levels: Tensor | np.ndarray | Iterable[Tensor],
        spec: ImageSpec,
        fingerprint: str | None = None,
        labels: Tensor | np.ndarray | None = None,
    ) -> None:
        """Compare with these real images from now on.

        Args:
            part: ``train``, ``heldout`` or another name that a metric asks for.
            levels: uint8 (N, C, H, W), or batches of it.
            spec: what the images are.
            fingerprint: content hash of the images; without it their features are not kept on disk.
            labels: int64 (N,) classes, for figures per class.

        Raises:
            InputError: for images of another shape, or fewer than two.
        """
        self.set_spec(spec)
        labels = None if labels is None else torch.as_tensor(np.array(labels))
        pixels: list[Tensor] = []

        def compute() -> dict[str, Tensor]:
            passes = []
            for batch in self._batches(levels):
                passes.append(self.extract(batch))
                pixels.extend(self._pixels(batch))
            if not passes:
                raise InputError(f"metrics: the {part!r} reference has no images")
            tensors = {"features": torch.cat([p.features.cpu() for p in passes])}
            if passes[0].logits is not None:
                tensors["logits"] = torch.cat([p.logits.cpu() for p in passes])
            return tensors

        if fingerprint is None or not self.cache:
            tensors = compute()
        else:
            identity = f"1|{fingerprint}|{self.extractor.content_hash}|{spec.shape}|{spec.levels}"
            key = hashlib.sha256(identity.encode()).hexdigest()[:40]
            tensors = cached_tensors(key, compute, len(levels) if isinstance(levels, Tensor | np.ndarray) else None)
        features = tensors["features"]
        if len(features) < 2:
            raise InputError(f"metrics: the {part!r} reference needs at least 2 images, got {len(features)}")
        if not bool(torch.isfinite(features).all()):
            raise InputError(f"metrics: features of the {part!r} reference are not finite; look at the extractor")
        if not pixels:
            # their features came from the cache: nobody has looked at these images yet
            for batch in self._batches(levels):
                pixels.extend(self._pixels(spec.check(batch, f"the {part!r} reference")))
        reference = FeatureSet(
            len(features), features, tensors.get("logits"), labels, torch.cat(pixels) if pixels else None, name=part
        )
        for name, rows in (("labels", labels), ("pixels", reference.pixels)):
            if rows is not None and len(rows) != len(features):
                raise InputError(f"metrics: the {part!r} reference has {len(features)} images but {len(rows)} {name}")
        reference.to(self._statistics_device)
        if "features" not in self.keeps:
            if "moments" in self.keeps:
                reference.moments = moments_of(reference.features)
            reference.features = None
        self.references[part] = reference
        self.fingerprints[part] = fingerprint
        for metric in self.metrics:
            metric.set_reference(part, reference)

    def _batches(self, levels: Tensor | np.ndarray | Iterable[Tensor]) -> Iterator[Tensor]:
        batches: Iterable[Any] = [levels] if isinstance(levels, Tensor | np.ndarray) else levels
        for batch in batches:
            for start in range(0, len(batch), self.batch_size):
                part = batch[start : start + self.batch_size]
                yield part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))

    def _pixels(self, levels: Tensor) -> list[Tensor]:
        return [thumbnails(levels.to(self._statistics_device))] if "pixels" in self.keeps else []

    @torch.no_grad()
    def extract(self, levels: Tensor) -> Features:
        """Features of levels (B, C, H, W), in full precision whatever the surrounding autocast says."""
        if self.spec is None:
            raise InputError("metrics: set_reference (or set_spec) must be called before images arrive")
        self.spec.check(levels, "images to score")
        with torch.autocast(self.device.type, enabled=False):
            features, logits = self.extractor(levels.to(self.device), self.spec)
        if features.ndim != 2 or len(features) != len(levels):
            raise InputError(
                f"extractor {self.extractor.name!r} gave features of shape {tuple(features.shape)} for {len(levels)} "
                "images; expected (B, D)"
            )
        to = self._statistics_device
        keep = lambda t: None if t is None else (t if t.dtype == torch.float64 else t.float()).to(to)  # noqa: E731
        return Features(keep(features), keep(logits))

    def update(self, levels: Tensor, index: Tensor, labels: Tensor | None = None) -> None:
        """Add generated images.

        Args:
            levels: uint8 (B, C, H, W).
            index: int64 (B,), each image's own place among all generated images of all ranks; negative for padding.
            labels: int64 (B,) classes that were asked for.

        Raises:
            InputError: for images of another shape than the reference's, or features that are not finite.
        """
        if len(levels):
            features, logits = self.extract(levels)
            self.samples.update(features, logits, index, labels, *self._pixels(levels))

    def compute(self) -> dict[str, float]:
        """All figures, by the names that logs use, over the images of all ranks.

        Raises:
            InputError: for fewer images than a metric needs, a missing reference, or a sample index given twice.
        """
        with warnings.catch_warnings():
            # torchmetrics warns where this rank had no image of its own
            warnings.filterwarnings("ignore", ".*was called before the ``update`` method", UserWarning)
            samples = self.samples.compute()
        return self.score(samples)

    def score(self, samples: FeatureSet) -> dict[str, float]:
        """Figures of a feature set that was extracted already."""
        self.count = samples.count
        if samples.is_constant:
            log.warning("metrics: all %d generated images have the same features", samples.count)
        figures: dict[str, float] = {}
        for metric in self.metrics:
            figures |= self.named(metric, samples)
        if self.per_class:
            figures |= self._class_figures(samples)
        return figures

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What the figures are, as their metrics declare them."""
        return tuple(figure for metric in self.metrics for figure in metric.figures)

    def named(self, metric: FeatureMetric, samples: FeatureSet) -> dict[str, float]:
        """One metric's figures of a feature set, by the names that logs use."""
        return {figure_name(key, self.extractor.name): value for key, value in metric.score(samples).items()}

    def _class_figures(self, samples: FeatureSet) -> dict[str, float]:
        unlabelled = [part.name for part in (samples, *self.references.values()) if part.labels is None]
        if unlabelled:
            raise InputError(f"figures per class need labels; the {unlabelled[0]} images have none")
        figures: dict[str, float] = {}
        for label in range(self.spec.num_classes):  # type: ignore[union-attr]  # the references have set it
            parts = {name: part.select(part.labels == label) for name, part in self.references.items()}
            own = samples.select(samples.labels == label)
            for metric in self.metrics:
                whole, metric.references = metric.references, parts
                try:
                    figures |= {f"{name}_class{label}": value for name, value in self.named(metric, own).items()}
                except InputError as error:
                    raise InputError(f"class {label}: {error}") from error
                finally:
                    metric.references = whole
        return figures

    def reset(self) -> None:
        """Forget the generated images; the references stay."""
        self.samples.reset()

    def description(self) -> dict[str, Any]:
        """What the last figures are of, as plain data: n, extractor, transform, references, metrics' arguments."""
        return {
            "n": self.count,
            "extractor": self.extractor.name,
            "extractor_hash": self.extractor.content_hash,
            "transform": self.extractor.transform() or "none",
            "references": {
                part: {"n": reference.count, "fingerprint": self.fingerprints[part]}
                for part, reference in self.references.items()
            },
            "metrics": [describe(metric) for metric in self.metrics],
        }


def _takes_points(metric: FeatureMetric) -> bool:
    return not metric.takes_parts and bool(metric.keeps & {"features", "moments"})
