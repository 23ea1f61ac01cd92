"""Exponential moving average of a model's weights, counted in images."""

import copy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_gen.core import InputError, check
from lightning_gen.models.base import ImageModule
from lightning_gen.steps.fast import copy_all, move_all


class EMA(Callback):
    r"""Average the weights of ``averaged_modules()`` over training; evaluation and sampling use the average.

    After a step of b images at n images seen,

    .. math:: \bar\theta \leftarrow \beta \bar\theta + (1 - \beta) \theta, \qquad \beta = 2^{-b / \min(h, r n)}

    with the half-life h and the ramp-up r in images (Karras et al. 2020 and 2024), so the average does not depend on
    the batch size and forgets the first steps quickly. Running statistics of batch norms are averaged in the same way;
    every other buffer (counters, spectral norms' vectors) is copied, because an average of it means nothing.

    Args:
        half_life: h: images after which a weight counts half; 0 switches averaging off.
        ramp_up: r, bound on the half-life as a fraction of the images seen; None for no bound.

    Raises:
        InputError: for a negative half-life or ramp-up.
    """

    def __init__(self, half_life: float = 10_000, ramp_up: float | None = 0.05):
        check("ema", "half_life", half_life, half_life >= 0, "at least 0 images")
        check("ema", "ramp_up", ramp_up, ramp_up is None or ramp_up > 0, "above 0 (or null)")
        self.half_life = half_life
        self.ramp_up = ramp_up
        self.averages: dict[str, nn.Module] = {}
        self._pending: dict[str, dict[str, Tensor]] | None = None
        self._swapped = False
        self._seen = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.half_life and isinstance(pl_module, ImageModule) and not self.averages:
            self.averages = {name: copy_for_averaging(part) for name, part in pl_module.averaged_modules().items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.averages and "ema" not in checkpoint:
            raise InputError("the checkpoint has no averaged weights: add --ema.half_life 0, or start with --init_from")
        for name, average in self.averages.items():
            average.load_state_dict(checkpoint["ema"][name])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.averages:
            source = pl_module.averaged_modules() if self._swapped else self.averages
            checkpoint["ema"] = {name: module.state_dict() for name, module in source.items()}
            if self._swapped:  # then the live module holds the average, and the average the live weights
                checkpoint["state_dict"] = self._state_with_live_weights(pl_module)

    def _state_with_live_weights(self, pl_module: LightningModule) -> dict[str, Tensor]:
        self._swap(pl_module)
        try:
            return {name: value.clone() for name, value in pl_module.state_dict().items()}
        finally:
            self._swap(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        dtype = pl_module.dtype
        if self.averages and dtype in (torch.bfloat16, torch.float16):
            raise InputError(
                f"ema: weights in {dtype} are too coarse to average: "
                "use trainer.precision bf16-mixed, or ema.half_life 0"
            )
        for average in self.averages.values():
            average.to(pl_module.device, dtype)
        if self.averages and pl_module.images_seen == 0:  # weights may have come from --init_from since setup
            for name, module in pl_module.averaged_modules().items():
                self.averages[name].load_state_dict(module.state_dict())
        self._seen = pl_module.images_seen
        self._pairs = [pair_up(pl_module.averaged_modules()[name], average) for name, average in self.averages.items()]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        images, self._seen = pl_module.images_seen - self._seen, pl_module.images_seen
        if not self.averages or pl_module.guard.last_step_skipped:
            return
        half_life = self.half_life
        if self.ramp_up is not None:
            half_life = min(half_life, self.ramp_up * pl_module.images_seen)
        share = 1 - 0.5 ** (images / max(half_life, 1e-8))
        with torch.no_grad():
            for averaged, live, copied_to, copied_from in self._pairs:
                move_all(averaged, live, share)
                copy_all(copied_to, copied_from)

    # --- evaluation uses the average, and gives the live weights back whatever happens -----------------------------

    def _swap(self, pl_module: LightningModule) -> None:
        for name, average in self.averages.items():
            live = pl_module.averaged_modules()[name]
            for mine, theirs in zip(_tensors(average), _tensors(live), strict=True):
                mine.data, theirs.data = theirs.data, mine.data
        self._swapped = not self._swapped

    def _enter(self, pl_module: LightningModule) -> None:
        if self.averages and not self._swapped:
            for average in self.averages.values():
                average.to(pl_module.device, pl_module.dtype)
            self._swap(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 and trainer.state.fn == "fit":
            # Batch statistics are each rank's own; what is scored and saved is the first rank's.
            for average in self.averages.values():
                for buffer in average.buffers():
                    torch.distributed.broadcast(buffer, src=0)
        self._enter(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter(pl_module)

    on_predict_start = on_test_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._swapped:
            self._swap(pl_module)

    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)


def copy_for_averaging(module: nn.Module) -> nn.Module:
    """Return a copy that takes no part in training."""
    return copy.deepcopy(module).requires_grad_(False).eval()  # without a trainer, which Lightning does not copy


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def is_running_statistic(name: str) -> bool:
    """Whether a buffer of this name is a mean or variance that torch's normalisation layers keep of their inputs."""
    return name.rpartition(".")[2] in ("running_mean", "running_var")


def pair_up(live: nn.Module, average: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Return (averaged, its live counterparts, copied, its live counterparts) among parameters and buffers."""
    averaged, averaged_live = list(average.parameters()), list(live.parameters())
    copied, copied_live = [], []
    for (name, mine), theirs in zip(average.named_buffers(), live.buffers(), strict=True):
        (averaged if is_running_statistic(name) else copied).append(mine)
        (averaged_live if is_running_statistic(name) else copied_live).append(theirs)
    return averaged, averaged_live, copied, copied_live
