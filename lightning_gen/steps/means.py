"""Means of the figures of training steps."""

import torch
from torch import Tensor

from lightning_gen.steps.fast import WINDOW


class RunningMeans:
    """Running means of named metrics, each value averaged over its elements.

    The figures of a step are noted while it goes on, and count once it is known to be taken.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Tensor] = {}
        self._means: dict[str, RunningMean] = {}

    def note(self, values: dict[str, Tensor]) -> None:
        """Note figures of the present step; they stay on the device."""
        for name, value in values.items():
            self._pending[name] = value.detach()

    def conclude(self, taken: bool) -> None:
        """Let the figures of the present step count, or drop them."""
        for name, value in self._pending.items() if taken else ():
            self._means.setdefault(name, RunningMean()).add(value)
        self._pending.clear()

    def take(self) -> dict[str, float]:
        """Return the means since the last call, and start anew."""
        means, self._means = self._means, {}
        return {name: mean.value() for name, mean in means.items()}


class RunningMean:
    """Mean of tensors, whose own means are taken for some steps at once."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        self.waiting: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        """Add the mean of ``value``."""
        self.waiting.append(value)
        if len(self.waiting) == WINDOW:
            self.value()

    def value(self) -> float:
        """Return the mean so far."""
        if self.waiting:
            if len({value.shape for value in self.waiting}) == 1:
                self.total += float(torch.stack(self.waiting).mean()) * len(self.waiting)
            else:
                self.total += float(torch.stack([value.mean() for value in self.waiting]).sum())
            self.count += len(self.waiting)
            self.waiting = []
        return self.total / self.count
