"""Everything that only saves microseconds: a step of a small model takes a thousand of them.

``LIGHTNING_GEN_FAST=0`` in the environment switches all of it off; nothing but time changes.
"""

import inspect
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor

ON = os.environ.get("LIGHTNING_GEN_FAST", "1") != "0"

WINDOW = 64 if ON else 1
"""Steps whose figures wait on the device before their mean is taken."""


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all tensors together, a scalar; zero for none."""
    if not tensors:
        return torch.zeros(())
    if not ON:
        return torch.nn.utils.get_total_norm(tensors)
    # The public function sorts tensors by device and type first.
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, in place."""
    if ON and targets:
        torch._foreach_copy_(targets, sources)
        return
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def move_all(targets: Sequence[Tensor], sources: Sequence[Tensor], share: float) -> None:
    """Move each target by ``share`` of the way to its source, in place."""
    if ON and targets:
        torch._foreach_lerp_(targets, sources, share)
        return
    for target, source in zip(targets, sources, strict=True):
        target.lerp_(source, share)


def scaled(tensors: Sequence[Tensor], factor: Tensor) -> Sequence[Tensor]:
    """Return all tensors times a scalar."""
    return torch._foreach_mul(tensors, factor) if ON else [tensor * factor for tensor in tensors]


def fast_attributes(cls: type[LightningModule]) -> type[LightningModule]:
    """Speed up the assignment of plain values to a module's existing attributes.

    Lightning assigns the name of every hook that it calls, and ``nn.Module`` first tests for modules and parameters.
    """
    if not ON:
        return cls
    set_any = cls.__setattr__

    def set_plain(self: LightningModule, name: str, value: Any) -> None:
        if type(value) in PLAIN and name in self.__dict__:
            self.__dict__[name] = value
        else:
            set_any(self, name, value)

    cls.__setattr__ = set_plain
    return cls


PLAIN = (str, int, float, bool, type(None))
STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def zero_grad(epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
    """Drop gradients, without ``Optimizer.zero_grad``'s entry in a profile."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


class FastHooks(Callback):
    """Shortcuts for the hooks that Lightning calls at every step."""

    def __init__(self) -> None:
        self.left_out: list[tuple[object, str]] = []

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        while self.left_out:
            delattr(*self.left_out.pop())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, kind = pl_module, type(pl_module)
        for part, base in [(module, LightningModule), *((callback, Callback) for callback in trainer.callbacks)]:
            for hook in STEP_HOOKS:
                if hook not in vars(part) and getattr(type(part), hook) is getattr(base, hook):
                    setattr(part, hook, None)  # Lightning leaves out what is not callable
                    self.left_out.append((part, hook))
        if inspect.isfunction(kind.training_step):  # else Lightning works it out at every step
            kind.training_step.__signature__ = inspect.signature(kind.training_step)
        if kind.optimizer_zero_grad is LightningModule.optimizer_zero_grad:
            module.optimizer_zero_grad = zero_grad
        if kind.configure_gradient_clipping is LightningModule.configure_gradient_clipping:
            module.__dict__.pop("configure_gradient_clipping", None)
            if trainer.gradient_clip_val is None:  # Lightning looks for several ways of clipping before it does nothing
                module.configure_gradient_clipping = nothing


def nothing(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""


def fast_callbacks() -> list[Callback]:
    """Return the callback that a module brings with it."""
    return [FastHooks()] if ON else []


class NoProfiler(PassThroughProfiler):
    """Lightning's own makes and unwinds a generator at each of some hundred hooks a step."""

    NOTHING = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager:
        return self.NOTHING


def no_profiler() -> PassThroughProfiler | None:
    """Return the profiler of a run that asks for none."""
    return NoProfiler() if ON else None


def look_for_no_gpu() -> None:
    """Spare every optimizer step a search for a GPU's driver library where there is no GPU (0.1 ms of Adam's)."""
    if ON and not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # which importing lightning sets to 1
