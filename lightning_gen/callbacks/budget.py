"""How long a run lasts."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.core import InputError, check

CLOCKS = {"seconds": time.monotonic, "processor_seconds": time.process_time}


class Budget(Callback):
    """End training after so many images seen or so many minutes, whichever comes first.

    Minutes count time spent in ``fit``, evaluation included, over all sessions of a resumed run. On several ranks the
    first rank's clock decides.

    Args:
        images: images seen by training over all ranks.
        minutes: wall-clock minutes.

    Raises:
        InputError: for a number that is not above 0, or neither given when training starts.
    """

    def __init__(self, images: int | None = None, minutes: float | None = None):
        for name, value in {"images": images, "minutes": minutes}.items():
            check("budget", name, value, value is None or not value <= 0, "above 0")
        self.images = images
        self.minutes = minutes
        self._spent = dict.fromkeys(CLOCKS, 0.0)
        self._since: dict[str, float] | None = None

    @property
    def seconds(self) -> float:
        """Seconds spent in training so far, over all sessions."""
        return self._so_far("seconds")

    @property
    def processor_seconds(self) -> float:
        """Seconds that this process (not its data workers) had a processor meanwhile, summed over threads."""
        return self._so_far("processor_seconds")

    def _so_far(self, name: str) -> float:
        return self._spent[name] + (0.0 if self._since is None else CLOCKS[name]() - self._since[name])

    def state_dict(self) -> dict[str, Any]:
        return {name: self._so_far(name) for name in CLOCKS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spent = {name: state_dict.get(name, 0.0) for name in CLOCKS}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.images is None and self.minutes is None and not trainer.fast_dev_run:
            raise InputError("how long should the run last? give --budget.images N or --budget.minutes M")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = {name: clock() for name, clock in CLOCKS.items()}
        self.on_train_batch_end(trainer, pl_module)  # a resumed run may have spent it all

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        spent = self.images is not None and pl_module.images_seen >= self.images
        if self.minutes is not None:
            late = self.seconds >= 60 * self.minutes
            spent |= late if trainer.world_size == 1 else trainer.strategy.broadcast(late)
        if spent:
            trainer.should_stop = True
