"""The base of every model: a LightningModule about images of one ImageSpec."""

import os
from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_gen.core import (
    ImageSpec,
    Ranks,
    TrainingContext,
    check_at_least,
    drawn_labels,
    evaluating,
    fresh_generator,
    keeps_arguments,
    keyed_generator,
)
from lightning_gen.data import Batch
from lightning_gen.models.reporting import HeldOutFigures
from lightning_gen.models.state import restore_state, save_state
from lightning_gen.samplers import AncestralSampler, Sampler
from lightning_gen.steps.fast import fast_attributes, fast_callbacks
from lightning_gen.steps.guard import StepGuard
from lightning_gen.steps.means import RunningMeans
from lightning_gen.steps.surroundings import Surroundings


@fast_attributes
@keeps_arguments
class ImageModule(LightningModule):
    """A LightningModule about images of one :class:`ImageSpec`.

    It counts images seen, gives each training step its random numbers by them, keeps means of what it is told to track,
    and describes itself in checkpoints. A family calls :meth:`count_images` once at the end of its ``training_step``.

    Attributes:
        conditional: whether the model heeds labels.
        null_class: whether it was trained with some labels dropped, see :mod:`lightning_gen.core.protocols`.
        counters: names of further integers of the model that exact resuming needs.
        class_shares: (num_classes,), of the training images; even where they are not known.
        held_out: torchmetrics that ``validation_step`` updates, reported as ``val/<name>`` and ``test/<name>``.
        trained_on: of a model from a checkpoint, the description of its data; else None.

    Args:
        spec: the images; the data module's. A plain mapping is accepted too.
    """

    conditional = False
    null_class = False
    counters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: ImageSpec):
        super().__init__()
        self.spec = ImageSpec.of(spec)
        self.images_seen = 0
        self.num_images = 1
        self.class_shares = torch.full((self.spec.num_classes,), 1 / max(1, self.spec.num_classes))
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        self.ranks = Ranks()
        self.guard = StepGuard()
        self.means = RunningMeans()
        self.held_out: MetricCollection | None = None
        self.trained_on: dict[str, Any] | None = None

    def configure_callbacks(self) -> Sequence[Callback]:
        return [Surroundings(), self.guard, HeldOutFigures(), *fast_callbacks()]

    @property
    def context(self) -> TrainingContext:
        """Where training stands, and the random numbers of the present step."""
        return TrainingContext(self.seed, self.images_seen, self.num_images, self.ranks, self.device)

    def track(self, **values: Tensor) -> None:
        """Note figures of this step, whose means are logged as ``train/<name>``; they count if the step is taken."""
        self.means.note(values)

    def count_images(self, batch: Batch, taken: bool = True) -> None:
        """Advance the images seen by the global batch; to be called once at the end of every training step.

        Args:
            batch: this rank's batch; all ranks have equally many images.
            taken: whether the step was taken; under automatic optimization the gradients, not known yet, decide.

        Raises:
            TrainingDiverged: after ten steps in a row that were not.
        """
        self.images_seen += len(batch.levels) * self.ranks.count
        if not taken or not self.automatic_optimization:
            self.guard.conclude(self, taken)

    def averaged_modules(self) -> dict[str, nn.Module]:
        """Return what an exponential moving average averages, by name; by default the whole model."""
        return {"model": self}

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return family-specific figures of one batch, for callbacks that know no family."""
        return {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update ``held_out``; by default there is nothing to update."""

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as Lightning does, with images seen as the x-axis."""
        super().log(name, value, *args, **kwargs)
        if kwargs.get("logger") is not False:
            kwargs = {key: item for key, item in kwargs.items() if key in ("on_step", "on_epoch", "batch_size")}
            super().log("step", torch.tensor(self.images_seen, dtype=torch.float64), **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        save_state(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_state(self, checkpoint)


class GenerativeModule(ImageModule, ABC):
    """A model that draws images.

    How it draws is up to ``self.sampler``, an injected object that can be replaced after :func:`lightning_gen.load`; by
    default one that calls the model's own ``draw(n, labels, generator)``. What else a model can do is told by the
    protocols of :mod:`lightning_gen.core.protocols`.
    """

    sampler: Sampler

    def __init__(self, spec: ImageSpec, sampler: Sampler | None = None):
        super().__init__(spec)
        self.sampler = sampler or AncestralSampler()

    def setup(self, stage: str) -> None:
        self.sampler.check(self)

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` images in evaluation mode.

        Args:
            n: how many.
            labels: classes (n,) for a class-conditional model; None draws them by ``class_shares``.
            generator: source of all randomness; None draws a fresh one on the CPU, from torch's global generator. Equal
                generators give equal images.

        Returns:
            levels (n, C, H, W), of ``spec.dtype``, on the model's device.

        Raises:
            InputError: for a negative number of images, or labels that do not fit.
        """
        check_at_least(self, 0, n=n)
        generator = generator or fresh_generator()
        labels = drawn_labels(self, labels, n, generator)
        with evaluating(self):
            return self.sampler(self, n, labels, generator)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Draw as many images as the batch has, with its labels where the model takes labels."""
        generator = keyed_generator(self.seed, f"predict/{batch_idx}", self.images_seen)
        return self.sample(len(batch.levels), batch.labels, generator=generator)
