"""Evaluation: draw samples, score them against real images, log the figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.callbacks.interval import Interval
from lightning_gen.data import ImageDataModule
from lightning_gen.describe import describe
from lightning_gen.errors import InputError
from lightning_gen.metrics import Extractor, FeatureMetric, MetricSuite
from lightning_gen.models.base import GenerativeModule, evaluating, keyed_seed


def draw_samples(
    model: GenerativeModule,
    suite: MetricSuite,
    n: int,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Draw ``n`` samples over all ranks and feed them to the suite.

    Chunk c of ``batch_size`` samples is drawn from a generator keyed on (seed, c), whichever rank draws it, so the
    samples do not depend on the number of ranks.
    """
    for chunk in range(rank, -(-n // batch_size), world_size):
        index = torch.arange(chunk * batch_size, min(n, (chunk + 1) * batch_size), device=model.device)
        generator = torch.Generator(model.device).manual_seed(keyed_seed(seed, "evaluation", chunk))
        suite.update(model.sample(len(index), generator=generator), index)


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


class GenerativeEvaluation(Callback):
    """Score a generative model by samples, every so many images and in ``validate`` and ``test``.

    Figures are logged as ``val/<name>`` (compared with the training and the validation part; the test part is never
    seen) and ``test/<name>`` (training and test part). Samples come from the averaged weights where there is an
    :class:`~lightning_gen.callbacks.EMA`, from generators keyed on the seed: no randomness of training is used.

    Args:
        every: images between evaluations; rounded up to whole steps. One more follows the last step.
        n: samples to draw.
        extractor: maps images to features; None for evaluation without sample metrics.
        metrics: the figures wanted.
        batch_size: samples drawn and scored at once.
        cache: keep the features of real images on disk.

    Raises:
        InputError: for a number below 1, or images that the extractor cannot score.
    """

    def __init__(
        self,
        every: int = 100_000,
        n: int = 2_000,
        extractor: Extractor | None = None,
        metrics: Sequence[FeatureMetric] | None = None,
        batch_size: int = 500,
        cache: bool = True,
    ):
        self.interval = Interval(every, "evaluation.every")
        for name, value in {"n": n, "batch_size": batch_size}.items():
            if value < 1:
                raise InputError(f"evaluation.{name} must be at least 1, got {value}")
        if extractor is None and metrics:
            raise InputError("evaluation.metrics need features: give evaluation.extractor, such as DigitsExtractor")
        if extractor is not None and not metrics:
            raise InputError("evaluation.metrics is empty: name at least one, such as FrechetDistance")
        self.every = every
        self.n = n
        self.batch_size = batch_size
        self.suite = None if extractor is None else MetricSuite(extractor, metrics, cache)
        self.results: dict[str, float] = {}
        self._references: str | None = None
        self._never: float = sys.maxsize

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.suite is not None and not isinstance(pl_module, GenerativeModule):
            raise InputError(f"{type(pl_module).__name__} draws no images: remove evaluation.extractor")
        if self.suite is not None:
            check_data(trainer.datamodule)
            self.suite.extractor.check(trainer.datamodule.spec)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.suite is not None:  # so that `lightning evaluate` needs no config
            checkpoint["evaluation"] = {
                "extractor": describe(self.suite.extractor, "evaluation.extractor"),
                "metrics": describe(self.suite.metrics, "evaluation.metrics"),
            }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.interval.start(pl_module.images_seen)
        # Not infinity, which stands for an evaluation at the end of every epoch; a trial run has just that one.
        self._never = float("inf") if trainer.fast_dev_run else sys.maxsize
        trainer.val_check_batch = self._never

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        # Lightning counts batches; its loop is told after each step whether an evaluation is due now.
        due = self.interval.passed(pl_module.images_seen)
        trainer.val_check_batch = 1 if due else self._never

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate(trainer, pl_module, "test")

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, part: str) -> None:
        if self.suite is None:
            return
        self.suite.to(pl_module.device)
        if self._references != part:
            self.suite.reset()
            set_references(self.suite, trainer.datamodule, part)
            self._references = part
        self.suite.reset()
        n = 2 * self.batch_size if trainer.fast_dev_run else self.n
        with evaluating(pl_module):
            draw_samples(
                pl_module, self.suite, n, self.batch_size, pl_module.seed, trainer.global_rank, trainer.world_size
            )
            figures = self.suite.compute()
        self.suite.reset()
        self.results = {f"{part}/{name}": value for name, value in figures.items()}
        higher = {f"{part}/{name}": better for name, better in self.suite.higher_is_better(figures).items()}
        pl_module.report(self.results, higher)
