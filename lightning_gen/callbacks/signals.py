"""Ctrl-C and SIGTERM: finish the step, save, and end."""

import signal
import time
from contextlib import ExitStack, suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.core import watching

GRACE = 10.0  # seconds that an evaluation may go on after a signal


class _Stopped(BaseException):
    """A signal ended training."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class RunInterrupted(_Stopped, Exception):
    """Training was asked to end by a signal; everything is saved."""


class StoppedAtOnce(_Stopped):
    """A second signal ended training where it stood; the last checkpoint is as it was.

    Not a KeyboardInterrupt, on which Lightning itself ends the process.
    """


class GracefulStop(Callback):
    """On SIGINT or SIGTERM all ranks end after the same step, with everything saved; a second one ends at once.

    A signal in the middle of an evaluation lets it go on for ten seconds; then a single process leaves it, and the
    resumed run begins it anew (several processes would wait for each other).

    Lightning's own handler of SIGTERM starts a collective inside the signal handler, which can meet another one in
    flight: this callback takes its place while training runs.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.since = 0.0
        self._previous: dict[int, Any] = {}
        self._watch = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with suppress(ValueError):  # not the main thread, as in some notebooks and tests: the default handling stays
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)

    def _note(self, signum: int, frame: Any) -> None:
        if self.signum:
            raise StoppedAtOnce(signum)
        self.signum = signum  # the other ranks learn of it at the end of the step
        self.since = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1 and trainer.state.fn == "fit":
            self._watch.enter_context(watching(self._leave_long_work))

    def _leave_long_work(self, share: float) -> None:
        if self.signum and share < 1 and time.monotonic() - self.since > GRACE:
            raise RunInterrupted(self.signum)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch.close()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        signum = self.signum
        if trainer.world_size > 1:
            agreed = torch.tensor(signum, device=pl_module.device)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
            signum = int(agreed)
        if signum:
            self.signum = signum
            raise RunInterrupted(signum)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._watch.close()
        self.on_train_end(trainer, pl_module)
