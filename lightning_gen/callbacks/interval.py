"""Intervals counted in images."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.core import check


class Interval:
    """Tells when a multiple of ``every`` images was passed by the last step.

    Raises:
        InputError: naming ``name`` for an interval below 1.
    """

    def __init__(self, every: int, name: str):
        check(*name.rsplit(".", 1), every, every >= 1, "at least 1 image")
        self.every = every
        self._last = 0

    def start(self, images_seen: int) -> None:
        """Begin counting at ``images_seen``."""
        self._last = images_seen

    def passed(self, images_seen: int) -> bool:
        """Whether a multiple of the interval lies in (images at the last call, ``images_seen``]."""
        passed = images_seen // self.every > self._last // self.every
        self._last = images_seen
        return passed


class EvaluationSchedule(Callback):
    """Tell Lightning's loop, which counts batches, after each step whether an evaluation is due now.

    Args:
        every: images between evaluations.
    """

    def __init__(self, every: int):
        self.every = every
        self.interval = Interval(every, "evaluation.every")
        self._never: float = sys.maxsize

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.interval.start(pl_module.images_seen)
        # Not infinity, which stands for an evaluation at the end of every epoch; a trial run has just that one.
        self._never = float("inf") if trainer.fast_dev_run else sys.maxsize
        trainer.val_check_batch = self._never

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        trainer.val_check_batch = 1 if self.interval.passed(pl_module.images_seen) else self._never
