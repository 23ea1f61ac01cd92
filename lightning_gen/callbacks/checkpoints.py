"""Checkpoints: the last and the best, written so that a kill at any moment leaves a good one."""

import math
import os
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from lightning_gen.callbacks.interval import Interval
from lightning_gen.callbacks.signals import RunInterrupted
from lightning_gen.core import InputError, write_atomically


class Checkpoints(Checkpoint):
    """Write ``checkpoints/last.ckpt`` every so many images and at the end, and ``best.ckpt`` by a monitored figure.

    Args:
        every: images between checkpoints; rounded up to whole steps. One is written after each evaluation, too.
        monitor: name of the figure that decides which checkpoint is best, such as ``val/fid_digits_heldout``; None
            keeps the last only.
        mode: "min" or "max".

    Raises:
        InputError: for an interval below 1.
    """

    def __init__(self, every: int = 100_000, monitor: str | None = None, mode: Literal["min", "max"] = "min"):
        super().__init__()
        self.interval = Interval(every, "checkpoint.every")
        self.every = every
        self.monitor = monitor
        self.mode = mode
        self.best_value = math.inf if mode == "min" else -math.inf
        self.folder: Path | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value = state_dict["best_value"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not trainer.fast_dev_run:
            self.folder = Path(trainer.log_dir) / "checkpoints"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.interval.start(pl_module.images_seen)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.interval.passed(pl_module.images_seen):
            evaluation_follows = trainer.enable_validation and (trainer.should_stop or trainer.val_check_batch == 1)
            if not evaluation_follows:  # else the checkpoint is written with the figures in it
                self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        better = False
        if self.monitor is not None:
            value = trainer.callback_metrics.get(self.monitor)
            if value is None:
                self.save(trainer)  # the training until now is not lost
                known = ", ".join(sorted(map(str, trainer.callback_metrics))) or "none"
                raise InputError(f"checkpoint.monitor: no figure named {self.monitor!r}; this run has: {known}")
            value = float(value)
            better = value < self.best_value if self.mode == "min" else value > self.best_value
            if better:
                self.best_value = value
        self.save(trainer, better)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, RunInterrupted):
            self.save(trainer)

    def save(self, trainer: Trainer, best: bool = False) -> None:
        """Write last.ckpt, and make it best.ckpt too; every rank takes part."""
        if self.folder is None:
            return
        last = self.folder / "last.ckpt"
        if trainer.is_global_zero:
            last.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(last, lambda temporary: trainer.save_checkpoint(temporary, weights_only=False))
            if best:
                self._link(last, last.with_name("best.ckpt"))
        else:
            trainer.save_checkpoint(last, weights_only=False)

    @staticmethod
    def _link(last: Path, best: Path) -> None:
        # last.ckpt is only ever replaced, never written into, so a second name for today's file costs no disk.
        temporary = best.with_name(f".best.{os.getpid()}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            os.link(last, temporary)
            temporary.replace(best)
        except OSError:
            rank_zero_warn("the file system has no hard links: best.ckpt is a copy")
            write_atomically(best, lambda path: path.write_bytes(last.read_bytes()))
