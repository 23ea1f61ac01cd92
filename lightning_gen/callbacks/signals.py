"""Ctrl-C and SIGTERM: finish the step, save, and end."""

from __future__ import annotations

import signal
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class RunInterrupted(Exception):
    """Training was asked to end by a signal; everything is saved."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class GracefulStop(Callback):
    """On SIGINT or SIGTERM all ranks end after the same step, with everything saved; a second one ends at once.

    Lightning's own handler of SIGTERM starts a collective inside the signal handler, which can meet another one in
    flight: this callback takes its place while training runs.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[signum] = signal.signal(signum, self._note)
            except ValueError:  # not the main thread, as in some notebooks and tests: the default handling stays
                return

    def _note(self, signum: int, frame: Any) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum  # the other ranks learn of it at the end of the step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        signum = self.signum
        if trainer.world_size > 1:
            agreed = torch.tensor(signum, device=pl_module.device)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
            signum = int(agreed)
        if signum:
            self.signum = signum
            raise RunInterrupted(signum)

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()
