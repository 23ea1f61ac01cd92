"""Evaluation: draw samples, score them against real images, log the figures."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_gen.callbacks.grid import WritesPictures
from lightning_gen.callbacks.interval import EvaluationSchedule
from lightning_gen.core import (
    Classifies,
    HasLikelihood,
    InputError,
    ProgressLine,
    Unavailable,
    check,
    check_above,
    check_at_least,
    describe,
    keyed_generator,
    watching,
)
from lightning_gen.data import ImageDataModule, Images
from lightning_gen.evaluation import (
    FIGURES,
    Allowance,
    bits_of,
    check_data,
    check_drawn_classes,
    check_enough,
    choose_images,
    draw_samples,
    neighbour_sheet,
    sample_labels,
    score_classes,
    set_references,
)
from lightning_gen.metrics import Extractor, FeatureMetric, MetricSuite, controls
from lightning_gen.models.base import GenerativeModule
from lightning_gen.models.reporting import report


class GenerativeEvaluation(WritesPictures, EvaluationSchedule):
    """Score a generative model by likelihood and samples, every so many images and in ``validate`` and ``test``.

    Figures are logged as ``val/<name>`` and ``test/<name>``; the test part is seen by ``test`` alone. A model that has
    a likelihood is scored by it on images of that part, in bits per dimension: ``val/bpd``, ``val/bpd_dequantized`` or
    whichever name says what kind of figure it is, and ``..._se``, its standard error over images. Samples are compared
    with the training part and that part; ``controls`` are what real images score in their place, see
    :func:`~lightning_gen.metrics.controls`. All of it uses the averaged weights where there is an
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
        minutes: of drawing samples, and of taking likelihoods, in each evaluation of a training run; a model that is
            slower is scored on fewer images, as many at each evaluation, and the run says so. None sets no limit.

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
        minutes: float | None = 5.0,
    ):
        super().__init__(every)
        check_at_least("evaluation", 1, n=n, batch_size=batch_size)
        check_above("evaluation", 0, minutes=minutes)
        if extractor is None and metrics:
            raise InputError("evaluation.metrics need features: give evaluation.extractor, such as DigitsExtractor")
        if extractor is not None and not metrics:
            raise InputError("evaluation.metrics is empty: name at least one, such as FrechetDistance")
        self.n = n
        self.batch_size = batch_size
        if extractor is None and (per_class or neighbours):
            raise InputError("evaluation.per_class and neighbours need features: give evaluation.extractor")
        enough = isinstance(likelihood, bool) or likelihood >= 1
        check("evaluation", "likelihood", likelihood, enough, "true, false or at least 1 image")
        self.per_class = per_class
        self.neighbours = neighbours
        self.likelihood = likelihood
        self.allowance = Allowance(minutes, batch_size)
        self.likelihood_facts: dict[str, Any] = {}
        self.suite = None
        if extractor is not None:
            self.suite = MetricSuite(extractor, metrics, cache, per_class=per_class, keep_features=neighbours)
            for metric in metrics:
                check("evaluation", "n", n, n >= metric.least, f"at least {metric.least} for {type(metric).__name__}")
        self.controls: dict[str, dict[str, float]] = {}
        self._compared: tuple[str, int] | None = None  # part and n that references and controls are of
        self._never_told = True
        self._unfinished = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.suite is not None:
            if not isinstance(pl_module, GenerativeModule):
                raise InputError(f"{type(pl_module).__name__} draws no images: remove evaluation.extractor")
            check_data(trainer.datamodule)
            self.suite.extractor.check(trainer.datamodule.spec)
            if stage != "predict":
                check_enough(trainer.datamodule, "test" if stage == "test" else "val")
            if self.per_class:
                check_drawn_classes(self.suite, sample_labels(pl_module, trainer.datamodule, self.n), pl_module)
        if self._scores_likelihood(pl_module):
            check_data(trainer.datamodule, "likelihoods are of", "set evaluation.likelihood to false")
        super().setup(trainer, pl_module, stage)

    def _scores_likelihood(self, pl_module: LightningModule) -> bool:
        return self.likelihood is not False and isinstance(pl_module, HasLikelihood)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.suite is not None:  # so that `lightning evaluate` needs no config
            checkpoint["evaluation"] = {
                "extractor": describe(self.suite.extractor, "evaluation.extractor"),
                "metrics": describe(self.suite.metrics, "evaluation.metrics"),
            }

    def state_dict(self) -> dict[str, Any]:
        return {"unfinished": self._unfinished, "settled": self.allowance.settled}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._unfinished = state_dict["unfinished"]
        self.allowance.settled = dict(state_dict.get("settled", {}))

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
        if trainer.state.fn == "fit" and not trainer.fast_dev_run:
            self._settle_numbers(trainer, pl_module, part)
        with watching(ProgressLine("evaluation", pl_module.print)):
            if self._scores_likelihood(pl_module):
                figures |= self._likelihood_figures(trainer, pl_module, part)
            if self.suite is not None:
                figures |= self._sample_figures(trainer, pl_module, part)
            if isinstance(pl_module, Classifies) and isinstance(trainer.datamodule, ImageDataModule):
                figures |= self._accuracy(trainer, pl_module, trainer.datamodule.images(part))
        if not figures:
            return
        named = {f"{part}/{name}": value for name, value in figures.items()}
        report(pl_module, named, (*FIGURES, *(() if self.suite is None else self.suite.figures)))

    def _settle_numbers(self, trainer: Trainer, pl_module: LightningModule, part: str) -> None:
        """Find out, once in a run, how many images can be scored in the minutes given."""
        how = pl_module.ranks, pl_module.device, pl_module.print
        if self._scores_likelihood(pl_module):
            images = trainer.datamodule.images(part)
            work = partial(bits_of, pl_module, images, batch_size=self.batch_size, seed=pl_module.seed)
            with suppress(InputError):  # which the evaluation itself meets
                self.allowance.settle("likelihoods", self._wanted(images), 1, work, *how)
        if self.suite is not None:
            least = self.n if self.per_class else max(metric.least for metric in self.suite.metrics)
            draw = partial(pl_module.sample, generator=keyed_generator(pl_module.seed, "evaluation", 0))
            self.allowance.settle("samples", self.n, least, draw, *how)

    def _number(self, trainer: Trainer, what: str, n: int) -> int:
        """Return how many of ``n`` images are scored: fewer in a trial run, and where all would take too long."""
        if trainer.fast_dev_run:
            return min(n, 2 * self.batch_size)
        return self.allowance.of(what, n) if trainer.state.fn == "fit" else n

    def _wanted(self, images: Images) -> int:
        return len(images.levels) if self.likelihood is True else min(self.likelihood, len(images.levels))

    def _accuracy(self, trainer: Trainer, pl_module: LightningModule, images: Images) -> dict[str, float]:
        if images.labels is None:
            return {}
        places = choose_images(len(images.levels), self._number(trainer, "classes", len(images.levels)))
        with suppress(Unavailable):
            return {"accuracy": score_classes(pl_module, images, places, self.batch_size, pl_module.ranks)}
        return {}

    def _likelihood_figures(self, trainer: Trainer, pl_module: LightningModule, part: str) -> dict[str, float]:
        images = trainer.datamodule.images(part)
        in_training = trainer.state.fn == "fit"
        n = self._number(trainer, "likelihoods", self._wanted(images))
        try:
            # In training a figure that is no number ends nothing; a checkpoint with it is never the best.
            bits = bits_of(pl_module, images, n, self.batch_size, pl_module.seed, pl_module.ranks, tolerant=in_training)
        except Unavailable as reason:
            if not in_training or self._never_told:
                rank_zero_warn(f"no likelihood: {reason}")
                self._never_told = False
            return {}
        self.likelihood_facts = bits.facts
        return bits.figures

    def _sample_figures(self, trainer: Trainer, pl_module: LightningModule, part: str) -> dict[str, float]:
        self.suite.to(pl_module.device)
        if self._compared is None or self._compared[0] != part:
            set_references(self.suite, trainer.datamodule, part)
        self.suite.reset()
        n = 2 * self.batch_size if trainer.fast_dev_run else self._number(trainer, "samples", self.n)
        labels = sample_labels(pl_module, trainer.datamodule, n)
        first = draw_samples(pl_module, self.suite, n, self.batch_size, pl_module.seed, labels, *pl_module.ranks)
        figures = self.suite.compute()
        if self._compared != (part, n):
            self.controls, self._compared = controls(self.suite, n, f"{part}/"), (part, n)
        self.suite.reset()
        if self.neighbours and first is not None and self.folder is not None:
            sheet = neighbour_sheet(self.suite, first, trainer.datamodule.images("train").levels, pl_module.spec)
            self.write(sheet, f"{pl_module.images_seen:012d}-neighbours.png")
        return figures

    def description(self) -> dict[str, Any]:
        """What the last figures are of, as plain data for JSON."""
        facts = {} if self.suite is None else self.suite.description() | self.controls
        return facts | ({"likelihood": self.likelihood_facts} if self.likelihood_facts else {})
