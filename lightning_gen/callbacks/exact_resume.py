"""Bit-exact resuming: every rank's random state is stored, and evaluation does not change it."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_gen.callbacks.evaluation import GenerativeEvaluation


def random_state() -> dict[str, Any]:
    """Return the state of the global generators of Python, NumPy and torch as plain data and tensors."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global one is what users draw from
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


class ExactResume(Callback):
    """Store every rank's random state in checkpoints, restore it on resume, and after each evaluation.

    A checkpoint also holds the optimizers' options, such as learning rates, and torch restores them with their state.
    The options of the config take precedence: they are set again.
    """

    def __init__(self) -> None:
        self._options: list[list[dict[str, Any]]] = []
        self._resumed: list[dict[str, Any]] | None = None
        self._kept: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Saved in the middle of an evaluation, the state that counts is the one that training will go on with.
        states = [self._kept or random_state()] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, states[0])
        checkpoint["random_states"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed = checkpoint.get("random_states")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._options = [
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed is None:
            return
        if not trainer.lr_scheduler_configs:  # a scheduler's learning rates are state, not options
            for optimizer, groups in zip(trainer.optimizers, self._options, strict=True):
                for group, options in zip(optimizer.param_groups, groups, strict=True):
                    group.update(options)
        if len(self._resumed) != trainer.world_size:
            rank_zero_warn(
                f"the run was on {len(self._resumed)} ranks and goes on with {trainer.world_size}: "
                "it goes on correctly, but not bit for bit"
            )
        set_random_state(self._resumed[trainer.global_rank % len(self._resumed)])
        self._resumed = None
        for callback in trainer.callbacks:
            if isinstance(callback, GenerativeEvaluation):
                callback.make_up(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._kept = random_state()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._kept is not None:
            set_random_state(self._kept)
            self._kept = None
