"""Training figures: running means, images per second, learning rates."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class TrainLog(Callback):
    """Log the running means that the model tracks as ``train/<name>``, every ``trainer.log_every_n_steps`` steps,
    averaged over ranks.

    Images per second (``train/images_per_second``) leave evaluation and checkpoints out.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._images = 0
        self._steps = 0
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._restart(pl_module)

    def _restart(self, pl_module: LightningModule) -> None:
        self._since, self._images, self._steps = time.perf_counter(), pl_module.images_seen, 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._steps += 1
        if self._steps < trainer.log_every_n_steps:
            return
        seconds = time.perf_counter() - self._since
        tracked = pl_module.means.take()
        if trainer.world_size > 1:  # equal names in equal order on all ranks, because all take the same steps
            means = torch.tensor(list(tracked.values()), dtype=torch.float64, device=pl_module.device)
            torch.distributed.all_reduce(means)
            tracked = dict(zip(tracked, (means / trainer.world_size).tolist(), strict=True))
        figures = {f"train/{name}": value for name, value in tracked.items()}
        figures["train/images_per_second"] = (pl_module.images_seen - self._images) / seconds
        if pl_module.guard.skipped_steps:
            figures["train/skipped_steps"] = float(pl_module.guard.skipped_steps)
        self.latest = figures
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=pl_module.images_seen)
        self._restart(pl_module)
