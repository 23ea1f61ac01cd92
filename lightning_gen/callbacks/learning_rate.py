"""Learning rates over a run, in images seen."""

import math
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.callbacks.budget import Budget
from lightning_gen.core import InputError, check, check_at_least, check_within


class LearningRate(Callback):
    r"""Scale every optimizer's learning rate by a factor of the images seen.

    With the warm-up w, the length T and :math:`s = (n - w) / (T - w)` at n images seen, the factor is

    .. math:: n / w \ \text{ for } n < w, \qquad f + (1 - f) \, g(s) \ \text{ after},

    where g is 1 ("none"), :math:`1 - s` ("linear") or :math:`\tfrac12 (1 + \cos \pi s)` ("cosine", Loshchilov and
    Hutter 2017), and f is ``final``.

    Args:
        warm_up: images w of linear growth from 0.
        decay: shape g of the decay after the warm-up.
        images: length T of the schedule; null takes budget.images.
        final: factor f at the end.

    Raises:
        InputError: for numbers out of range, or a decay without a length.
    """

    def __init__(
        self,
        warm_up: int = 0,
        decay: Literal["none", "linear", "cosine"] = "none",
        images: int | None = None,
        final: float = 0.0,
    ):
        check_at_least("schedule", 0, warm_up=warm_up)
        check_within("schedule", "[0, 1]", final=final)
        check("schedule", "images", images, images is None or images > warm_up, f"above schedule.warm_up ({warm_up})")
        self.warm_up = warm_up
        self.decay = decay
        self.images = images
        self.final = final
        self._rates: list[list[float]] = []
        self._length = images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.decay == "none" or self._length is not None:
            return
        self._length = next((c.images for c in trainer.callbacks if isinstance(c, Budget)), None)
        if self._length is None and not trainer.fast_dev_run:
            raise InputError(f"schedule.decay {self.decay} needs a length: give schedule.images, or budget.images")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before a checkpoint is restored: what the config says, not what the last session ended with.
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.warm_up == 0 and self.decay == "none":
            return
        factor = self.factor(pl_module.images_seen)
        for optimizer, rates in zip(trainer.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def factor(self, images_seen: int) -> float:
        """Return the factor at this many images seen."""
        if images_seen < self.warm_up:
            return images_seen / self.warm_up
        if self.decay == "none" or self._length is None:
            return 1.0
        s = min((images_seen - self.warm_up) / max(self._length - self.warm_up, 1), 1.0)
        shape = 1 - s if self.decay == "linear" else (1 + math.cos(math.pi * s)) / 2
        return self.final + (1 - self.final) * shape
