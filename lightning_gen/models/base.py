"""Base classes of all models."""

import os
from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_gen.core import (
    Figure,
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
    """A LightningModule for images of one :class:`ImageSpec`.

    It counts images seen, seeds each step's random numbers with that count, averages tracked values and describes
    itself in checkpoints. A subclass calls :meth:`count_images` once at the end of its ``training_step``.

    Attributes:
        conditional: whether the model is class-conditional.
        null_class: whether it was trained with label dropout, see :mod:`lightning_gen.core.protocols`.
        counters: names of further integer attributes that exact resuming needs.
        class_shares: (num_classes,), class frequencies of the training images; uniform where they are not known.
        held_out: torchmetrics that ``validation_step`` updates, reported as ``val/<name>`` and ``test/<name>``.
        trained_on: description of the training data if the model was loaded from a checkpoint; else None.

    Args:
        spec: image format, given by the data module. A plain mapping is accepted too.
    """

    conditional = False
    null_class = False
    counters: ClassVar[tuple[str, ...]] = ()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("loss", "what training minimises"),
        Figure("gradient_norm", "norm of the gradient, before any clipping"),
        Figure("images_per_second", "speed of training since the last row"),
        Figure("large_gradients", "steps whose gradient was clipped"),
        Figure("skipped_steps", "training steps that were skipped, because something was not finite"),
    )

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
        """Training progress, and the source of the current step's random numbers."""
        return TrainingContext(self.seed, self.images_seen, self.num_images, self.ranks, self.device)

    def track(self, **values: Tensor) -> None:
        """Record values of this step; means over the steps that are taken are logged as ``train/<name>``."""
        self.means.note(values)

    def count_images(self, batch: Batch, taken: bool = True) -> None:
        """Advance ``images_seen`` by the global batch size; to be called once at the end of every training step.

        Args:
            batch: this rank's batch; all ranks have equally many images.
            taken: whether the step was taken; ignored under automatic optimization, which checks the gradients later.

        Raises:
            TrainingDiverged: after ten consecutive skipped steps.
        """
        self.images_seen += len(batch.levels) * self.ranks.count
        if not taken or not self.automatic_optimization:
            self.guard.conclude(self, taken)

    def averaged_modules(self) -> dict[str, nn.Module]:
        """Return the modules that an exponential moving average covers, by name; by default the whole model."""
        return {"model": self}

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return model-specific diagnostics of one batch, for callbacks that work with every model."""
        return {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update ``held_out``; does nothing by default."""

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as in Lightning, with ``images_seen`` as the step."""
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

    Sampling is delegated to ``self.sampler``, which can be replaced after :func:`lightning_gen.load`; the default calls
    the model's own ``draw(n, labels, generator)``. Further capabilities are the protocols of
    :mod:`lightning_gen.core.protocols`.
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
            n: number of images.
            labels: classes (n,) for a class-conditional model; None draws them from ``class_shares``.
            generator: source of all randomness; None takes a new one on the CPU, seeded by torch's global generator.
                Generators in equal states give equal images.

        Returns:
            Levels (n, C, H, W), of ``spec.dtype``, on the model's device.

        Raises:
            InputError: for a negative number of images, or labels that do not fit.
        """
        check_at_least(self, 0, n=n)
        generator = generator or fresh_generator()
        labels = drawn_labels(self, labels, n, generator)
        with evaluating(self):
            return self.sampler(self, n, labels, generator)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Draw as many images as the batch has, with its labels if the model is class-conditional."""
        generator = keyed_generator(self.seed, f"predict/{batch_idx}", self.images_seen)
        return self.sample(len(batch.levels), batch.labels, generator=generator)
