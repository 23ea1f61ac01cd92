"""Skipping of training steps whose loss or gradient is not finite."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_gen.core import InputError
from lightning_gen.steps.fast import copy_all, norm_of
from lightning_gen.steps.surroundings import trainer_of

MOST_SKIPPED_IN_A_ROW = 10


class TrainingDiverged(RuntimeError):
    """Too many steps in a row met a loss or gradient that is not finite."""


class StepGuard(Callback):
    """Skip steps whose loss or gradient is not finite: weights, optimizers, averages and buffers stay the same.

    A model brings its guard to whichever trainer it meets. Under automatic optimization the gradients decide, which all
    ranks have averaged; under manual optimization the model says at the end of a step whether it was taken.

    Attributes:
        skipped_steps: steps left out so far.
        last_step_skipped: whether the last one was.
        largest_gradient: norm beyond which an automatic step is left out, too, and counted in ``large_gradients``: it
            is finite, so neither is it an error nor does a row of such steps end the run. None for no bound.
    """

    def __init__(self) -> None:
        self.skipped_steps = 0
        self.last_step_skipped = False
        self.largest_gradient: float | None = None
        self.large_gradients = 0
        self._in_a_row = 0
        self._reason = ""
        self._unfit = False  # the present step, by a gradient under manual optimization
        self._buffers: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._images_seen = -1  # when the last step began

    def state_dict(self) -> dict[str, Any]:
        return {
            "skipped_steps": self.skipped_steps,
            "in_a_row": self._in_a_row,
            "large_gradients": self.large_gradients,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped_steps, self._in_a_row = state_dict["skipped_steps"], state_dict["in_a_row"]
        self.large_gradients = state_dict["large_gradients"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images_seen = -1
        self._buffers = list(pl_module.buffers())
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if pl_module.images_seen == self._images_seen:
            raise InputError(
                f"{type(pl_module).__name__}.training_step did not count its images: let it end with "
                "self.count_images(batch)"
            )
        self._images_seen = pl_module.images_seen
        copy_all(self._kept, self._buffers)  # forward passes move batch statistics and spectral norms

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = norm_of([p.grad for p in parameters])
        finite = math.isfinite(norm)
        large = finite and self.largest_gradient is not None and norm > self.largest_gradient
        if large:
            self.large_gradients += 1
            pl_module.track(large_gradients=torch.tensor(float(self.large_gradients)))
        elif finite:
            pl_module.track(gradient_norm=norm)
        elif str(trainer.precision) == "16-mixed":
            finite = True  # its scaler leaves such steps out by itself
        else:
            self.report(pl_module, "the gradient of the loss")
        if large or not finite:
            for parameter in parameters:
                parameter.grad = None
        if pl_module.automatic_optimization:
            self.conclude(pl_module, taken=finite)
        else:
            self._unfit = self._unfit or not finite

    def conclude(self, module: LightningModule, taken: bool) -> None:
        """End a step; one that was not taken leaves nothing behind.

        Raises:
            TrainingDiverged: after ten such steps in a row.
        """
        taken, self._unfit = taken and not self._unfit, False
        self.last_step_skipped = not taken
        module.means.conclude(taken)
        if taken:
            self._in_a_row = 0
            return
        copy_all(self._buffers, self._kept)
        self.skipped_steps += 1
        self._in_a_row += 1
        if self._in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise TrainingDiverged(
                f"{MOST_SKIPPED_IN_A_ROW} steps in a row met a loss or gradient that is not finite ({self._reason}); "
                "lower the learning rate, add or strengthen a penalty, or use precision 32-true"
            )

    def report(self, module: LightningModule, what: str) -> None:
        """Remember what was not finite, and say so once per row of skipped steps."""
        where = f"at {module.images_seen:,} images seen"
        self._reason = f"the last was {what} {where}"
        if self._in_a_row == 0 and module.ranks.rank == 0:
            warning = f"warning: {what} is not finite {where}: step skipped, weights unchanged"
            (print if trainer_of(module) is None else module.print)(warning)
