"""Evaluation: draw samples, score them against real images, log the figures."""

import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor

from lightning_gen.callbacks.grid import WritesPictures, picture, to_pixels
from lightning_gen.callbacks.interval import Interval
from lightning_gen.core import (
    Classifies,
    HasLikelihood,
    ImageSpec,
    InputError,
    ProgressLine,
    Ranks,
    Unavailable,
    check,
    check_at_least,
    describe,
    evaluating,
    heeded_labels,
    keyed_generator,
    watched,
    watching,
)
from lightning_gen.data import ImageDataModule, Images
from lightning_gen.metrics import BitsPerDimension, Extractor, FeatureMetric, MetricSuite, neighbour_picture
from lightning_gen.metrics.base import TRAIN, is_of_one_class
from lightning_gen.metrics.distances import nearest
from lightning_gen.metrics.likelihood import figure_of
from lightning_gen.models.base import GenerativeModule, ImageModule
from lightning_gen.models.reporting import report


def draw_samples(
    model: GenerativeModule,
    suite: MetricSuite,
    n: int,
    batch_size: int,
    seed: int,
    labels: Tensor | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor | None:
    """Draw ``n`` samples over all ranks, feed them to the suite, and return the first chunk's (on its rank, the first).

    Chunk c of ``batch_size`` samples is drawn from a generator keyed on (seed, c), whichever rank draws it, so the
    samples do not depend on the number of ranks.

    Args:
        model: what draws.
        suite: what scores.
        n: samples over all ranks.
        batch_size: samples drawn at once.
        seed: of the samples.
        labels: classes (n,) to draw, see :func:`sample_labels`; None for a model without classes.
        rank: this process.
        world_size: number of processes.
    """
    first = None
    for chunk in watched(range(rank, -(-n // batch_size), world_size)):
        index = torch.arange(chunk * batch_size, min(n, (chunk + 1) * batch_size), device=model.device)
        own = None if labels is None else labels.to(model.device)[index]
        levels = model.sample(len(index), own, generator=keyed_generator(seed, "evaluation", chunk))
        suite.update(levels, index, own)
        first = levels if chunk == 0 else first
    return first


def sample_labels(model: GenerativeModule, data: ImageDataModule, n: int) -> Tensor | None:
    """Return classes (n,) that occur as often as among the training images, or None for a model without classes.

    Distances to the training part mean something only where the classes are mixed as they are there.
    """
    if not model.conditional:
        return None
    labels = torch.as_tensor(data.images("train").labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return labels[order.repeat(-(-n // len(labels)))[:n]]


def choose_images(count: int, n: int | None) -> Tensor:
    """Return the places of ``n`` of ``count`` images, sorted and always the same; None or more than there are: all."""
    if n is None or n >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:n].sort().values


def score_likelihood(
    model: HasLikelihood,
    metric: BitsPerDimension,
    images: Images,
    places: Tensor,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """Feed the likelihoods of images to ``metric`` and return those of this rank's, float64 nats (B,), in order.

    Noise for chunk c of ``batch_size`` images is keyed on (seed, c), whichever rank has it, so the same images have the
    same figure every time.

    Args:
        model: what gives likelihoods; a class-conditional one is given the images' labels.
        metric: what sums them.
        images: all images of a part.
        places: those to score.
        batch_size: images at once.
        seed: of noise, where the model needs any.
        rank: this process.
        world_size: number of processes.

    Raises:
        InputError: for a model that gives anything but one likelihood for each image.
    """
    chunks = list(enumerate(places.split(batch_size)))[rank::world_size]
    found = []
    for chunk, rows in watched(chunks):
        levels, labels = tensors(model, images, rows)
        with evaluating(model):
            generator = keyed_generator(seed, "likelihood", chunk)
            nats, kind, num_samples = model.likelihood(levels, labels, generator=generator)
        if nats.shape != (len(rows),):
            raise InputError(
                f"{type(model).__name__}.likelihood gave nats {tuple(nats.shape)} for {len(rows)} images: it must give "
                "one number for each"
            )
        metric.update(nats, kind, num_samples)
        found.append(nats.to("cpu", torch.float64))
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def tensors(model: ImageModule, images: Images, places: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the images at these places on the model's device, with the labels that it heeds."""
    rows = places.numpy()
    labels = None if images.labels is None else torch.from_numpy(images.labels[rows])
    return torch.from_numpy(images.levels[rows]).to(model.device), heeded_labels(model, labels, len(rows))


def score_classes(model: Classifies, images: Images, places: Tensor, batch_size: int, ranks: Ranks) -> float:
    """Return the share of labelled images at these places that a model recognises as what they are, over all ranks."""
    right = torch.zeros((), dtype=torch.int64, device=model.device)
    for rows in watched(places[ranks.rank :: ranks.count].split(batch_size)):
        levels, labels = torch.from_numpy(images.levels[rows.numpy()]), torch.from_numpy(images.labels[rows.numpy()])
        right += (model.classify(levels.to(model.device)).argmax(1) == labels.to(model.device)).sum()
    return int(ranks.sum(right)) / len(places)


def neighbour_sheet(
    suite: MetricSuite, generated: Tensor, real: np.ndarray, spec: ImageSpec, rows: int = 16, smallest: int = 32
) -> Image.Image:
    """Return a picture of generated images, each beside its 5 nearest training images by the extractor's features.

    Args:
        suite: with the training part's features kept.
        generated: levels (N, C, H, W), of which the first ``rows`` are shown.
        real: levels of the training part.
        spec: what both are.
        rows: most images to show.
        smallest: shortest side of an image on the picture, in pixels.
    """
    features, reference = suite.extract(generated[:rows]).features, suite.references[TRAIN].rows()
    k = min(5, len(reference))
    chosen = np.unique(nearest(features, reference, k)[1].cpu().numpy())
    factor = max(1, -(-smallest // min(spec.height, spec.width)))

    def tiles(levels: Tensor) -> Tensor:
        pixels = torch.from_numpy(to_pixels(levels, spec)).permute(0, 3, 1, 2)
        return pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    beside = torch.from_numpy(np.array(real[chosen]))
    chosen_features = reference[torch.from_numpy(chosen).to(reference.device)]
    sheet = neighbour_picture(
        tiles(generated[:rows]), tiles(beside), features, chosen_features, k, border=max(1, factor // 3)
    )
    return picture(sheet.permute(1, 2, 0).numpy())


def set_references(suite: MetricSuite, data: ImageDataModule, held_out: str) -> None:
    """Make the training part and the held-out part of ``data`` the references of ``suite``."""
    check_data(data)
    for name, part in {"train": "train", "heldout": held_out}.items():
        images = data.images(part)
        labels = None if images.labels is None else torch.as_tensor(images.labels)
        suite.set_reference(name, images.levels, data.spec, data.source.fingerprint(part), labels)


def check_data(data: Any) -> None:
    """Raise InputError for data that give no reference images."""
    if not isinstance(data, ImageDataModule):
        raise InputError(
            f"samples are scored against an ImageDataModule's images, and the data are {type(data).__name__}: "
            "give your images as a Source to ImageDataModule, or remove evaluation.extractor and evaluation.metrics"
        )


class GenerativeEvaluation(WritesPictures, Callback):
    """Score a generative model by likelihood and samples, every so many images and in ``validate`` and ``test``.

    Figures are logged as ``val/<name>`` and ``test/<name>``; the test part is seen by ``test`` alone. A model that has
    a likelihood is scored by it on images of that part, in bits per dimension: ``val/bpd``, ``val/bpd_dequantized`` or
    whichever name says what kind of figure it is, and ``..._se``, its standard error over images. Samples are compared
    with the training part and that part. All of it uses the averaged weights where there is an
    :class:`~lightning_gen.callbacks.EMA`, and generators keyed on the seed: no randomness of training is used.

    Args:
        every: images between evaluations; rounded up to whole steps. One more follows the last step.
        n: samples to draw.
        extractor: maps images to features; None for evaluation without sample metrics. `lightning` takes the source's
            own where none is given.
        metrics: the figures wanted; likewise.
        likelihood: whether to score the likelihood of models that have one: true on all images of the part, a number on
            so many of them (always the same, or all there are), false not at all.
        batch_size: samples drawn and scored, and images whose likelihood is taken, at once.
        cache: keep the features of real images on disk.
        per_class: also score each class alone (``val/fid_digits_class3``); needs a class-conditional model.
        neighbours: write ``samples/<images seen>-neighbours.png``, samples beside their nearest training images.

    Raises:
        InputError: for a number below 1, fewer samples than a metric needs, figures per class of a model without
            classes, or images that the extractor cannot score.
    """

    def __init__(
        self,
        every: int = 100_000,
        n: int = 2_000,
        extractor: Extractor | None = None,
        metrics: Sequence[FeatureMetric] | None = None,
        batch_size: int = 500,
        cache: bool = True,
        per_class: bool = False,
        neighbours: bool = False,
        likelihood: bool | int = True,
    ):
        self.interval = Interval(every, "evaluation.every")
        check_at_least("evaluation", 1, n=n, batch_size=batch_size)
        if extractor is None and metrics:
            raise InputError("evaluation.metrics need features: give evaluation.extractor, such as DigitsExtractor")
        if extractor is not None and not metrics:
            raise InputError("evaluation.metrics is empty: name at least one, such as FrechetDistance")
        self.every = every
        self.n = n
        self.batch_size = batch_size
        if extractor is None and (per_class or neighbours):
            raise InputError("evaluation.per_class and neighbours need features: give evaluation.extractor")
        enough = isinstance(likelihood, bool) or likelihood >= 1
        check("evaluation", "likelihood", likelihood, enough, "true, false or at least 1 image")
        self.per_class = per_class
        self.neighbours = neighbours
        self.likelihood = likelihood
        self.likelihood_facts: dict[str, Any] = {}
        self.suite = None
        if extractor is not None:
            self.suite = MetricSuite(extractor, metrics, cache, per_class=per_class, keep_features=neighbours)
            for metric in metrics:
                check("evaluation", "n", n, n >= metric.least, f"at least {metric.least} for {type(metric).__name__}")
        self.results: dict[str, float] = {}
        self._references: str | None = None
        self._never: float = sys.maxsize
        self._never_told = True
        self._unfinished = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.suite is not None and not isinstance(pl_module, GenerativeModule):
            raise InputError(f"{type(pl_module).__name__} draws no images: remove evaluation.extractor")
        if self.suite is not None:
            check_data(trainer.datamodule)
            self.suite.extractor.check(trainer.datamodule.spec)
            if self.per_class:
                self._check_classes(trainer, pl_module)
        if self._scores_likelihood(pl_module) and not isinstance(trainer.datamodule, ImageDataModule):
            raise InputError(
                f"likelihoods are of an ImageDataModule's images, not of a {type(trainer.datamodule).__name__}'s: "
                "give your images as a Source to ImageDataModule, or set evaluation.likelihood to false"
            )
        super().setup(trainer, pl_module, stage)

    def _scores_likelihood(self, pl_module: LightningModule) -> bool:
        return self.likelihood is not False and isinstance(pl_module, HasLikelihood)

    def _check_classes(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        labels = sample_labels(pl_module, trainer.datamodule, self.n)
        if labels is None:
            raise InputError(f"evaluation.per_class: this {type(pl_module).__name__} is not class-conditional")
        count, label = torch.bincount(labels, minlength=pl_module.spec.num_classes).min(0)
        for metric in self.suite.metrics:
            if count < metric.least:
                raise InputError(
                    f"evaluation.per_class: of {self.n} samples, in the training part's proportions, {int(count)} are "
                    f"of class {int(label)}, and {type(metric).__name__} needs {metric.least}: raise evaluation.n"
                )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.suite is not None:  # so that `lightning evaluate` needs no config
            checkpoint["evaluation"] = {
                "extractor": describe(self.suite.extractor, "evaluation.extractor"),
                "metrics": describe(self.suite.metrics, "evaluation.metrics"),
            }

    def state_dict(self) -> dict[str, Any]:
        return {"unfinished": self._unfinished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._unfinished = state_dict["unfinished"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.interval.start(pl_module.images_seen)
        # Not infinity, which stands for an evaluation at the end of every epoch; a trial run has just that one.
        self._never = float("inf") if trainer.fast_dev_run else sys.maxsize
        trainer.val_check_batch = self._never

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        # Lightning counts batches; its loop is told after each step whether an evaluation is due now.
        due = self.interval.passed(pl_module.images_seen)
        trainer.val_check_batch = 1 if due else self._never

    def make_up(self, trainer: Trainer) -> None:
        """Run the evaluation that the last session was stopped in, if it was."""
        if self._unfinished:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._unfinished = True  # a run that is stopped meanwhile begins it anew
            self._evaluate(trainer, pl_module, "val")
            self._unfinished = False

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate(trainer, pl_module, "test")

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, part: str) -> None:
        figures: dict[str, float] = {}
        higher: dict[str, bool] = {}
        with watching(ProgressLine("evaluation", pl_module.print)):
            if self._scores_likelihood(pl_module):
                figures |= self._likelihood_figures(trainer, pl_module, part)
                higher |= {name: False for name in figures if not name.endswith("_se")}
            if self.suite is not None:
                figures |= self._sample_figures(trainer, pl_module, part)
                higher |= self.suite.higher_is_better(figures)
            if isinstance(pl_module, Classifies) and isinstance(trainer.datamodule, ImageDataModule):
                figures |= self._accuracy(trainer, pl_module, trainer.datamodule.images(part))
                higher["accuracy"] = True
        if not figures:
            return
        self.results = {f"{part}/{name}": value for name, value in figures.items()}
        of_classes = {name: value for name, value in self.results.items() if is_of_one_class(name)}
        report(
            pl_module,
            {name: value for name, value in self.results.items() if name not in of_classes},
            {f"{part}/{name}": better for name, better in higher.items() if name in figures},
        )
        if of_classes:
            report(pl_module, of_classes, detail=True)

    def _accuracy(self, trainer: Trainer, pl_module: LightningModule, images: Images) -> dict[str, float]:
        if images.labels is None:
            return {}
        places = choose_images(len(images.levels), 2 * self.batch_size if trainer.fast_dev_run else None)
        with suppress(Unavailable):
            return {"accuracy": score_classes(pl_module, images, places, self.batch_size, pl_module.ranks)}
        return {}

    def _likelihood_figures(self, trainer: Trainer, pl_module: LightningModule, part: str) -> dict[str, float]:
        images = trainer.datamodule.images(part)
        n = None if self.likelihood is True else self.likelihood
        if trainer.fast_dev_run:
            n = min(n or 2 * self.batch_size, 2 * self.batch_size)
        metric = BitsPerDimension(pl_module.spec, pl_module.conditional)
        if pl_module.device.type != "mps":  # which has no float64
            metric.to(pl_module.device)
        places = choose_images(len(images.levels), n)
        try:
            score_likelihood(pl_module, metric, images, places, self.batch_size, pl_module.seed, *pl_module.ranks)
        except Unavailable as reason:
            if trainer.state.fn != "fit" or self._never_told:
                rank_zero_warn(f"no likelihood: {reason}")
                self._never_told = False
            return {}
        with warnings.catch_warnings():
            # torchmetrics warns where this rank had no image of its own
            warnings.filterwarnings("ignore", ".*was called before the ``update`` method", UserWarning)
            try:
                figures = metric.compute()
            except InputError as error:
                if trainer.state.fn != "fit" or metric.kind is None:
                    raise
                rank_zero_warn(str(error))  # training goes on; a checkpoint with this figure is never the best
                figures = {figure_of(metric.kind): float("nan")}
        self.likelihood_facts = metric.facts
        return figures

    def _sample_figures(self, trainer: Trainer, pl_module: LightningModule, part: str) -> dict[str, float]:
        self.suite.to(pl_module.device)
        if self._references != part:
            set_references(self.suite, trainer.datamodule, part)
            self._references = part
        self.suite.reset()
        n = 2 * self.batch_size if trainer.fast_dev_run else self.n
        labels = sample_labels(pl_module, trainer.datamodule, n)
        first = draw_samples(pl_module, self.suite, n, self.batch_size, pl_module.seed, labels, *pl_module.ranks)
        figures = self.suite.compute()
        self.suite.reset()
        if self.neighbours and first is not None and self.folder is not None:
            sheet = neighbour_sheet(self.suite, first, trainer.datamodule.images("train").levels, pl_module.spec)
            self.write(sheet, f"{pl_module.images_seen:012d}-neighbours.png")
        return figures

    def description(self) -> dict[str, Any]:
        """What the last figures are of, as plain data for JSON."""
        facts = {} if self.suite is None else self.suite.description()
        return facts | ({"likelihood": self.likelihood_facts} if self.likelihood_facts else {})
