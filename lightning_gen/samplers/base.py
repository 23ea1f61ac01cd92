"""The base class of samplers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from lightning_gen.core import InputError, check_positive, watched

Noise: TypeAlias = Tensor | tuple[Tensor, ...]


class Sampler(ABC):
    """Draws images from a model, ``sampler(model, n, labels, generator) -> levels``; sampling options are arguments.

    All random numbers are drawn first, for all images (:meth:`noise`); images are then computed from them in chunks,
    deterministically (:meth:`draw`). So equal generators give equal images, whatever the chunk size.

    Samplers depend on protocols, not on model classes.

    Attributes:
        evaluations: number of network evaluations of the last call.
        neutral: values of the options with which samples follow the model's p(x); None if that is not known.
        needs: protocol that a model must satisfy.

    Args:
        chunk_size: images per chunk; None for all at once.

    Raises:
        InputError: for a chunk size below 1.
    """

    neutral: ClassVar[Mapping[str, Any] | None] = None
    needs: ClassVar[type] = object

    def __init__(self, chunk_size: int | None = None):
        if chunk_size is not None:
            check_positive("sampler", chunk_size=chunk_size)
        self.chunk_size = chunk_size
        self.evaluations = 0

    def __call__(self, model: Any, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return levels (n, C, H, W).

        Args:
            model: in evaluation mode, gradients off.
            n: number of images.
            labels: classes (n,) on the model's device, or None.
            generator: source of all randomness.
        """
        self.check(model)
        self.evaluations = 0
        if n == 0:
            return torch.empty(0, *model.spec.shape, dtype=model.spec.dtype, device=model.device)
        noise = self.noise(model, n, labels, generator)
        size = self.chunk_size or n
        chunks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
        return torch.cat(
            [
                self.draw(model, rows_of(noise, rows), None if labels is None else labels[rows])
                for rows in watched(chunks)
            ]
        )

    def check(self, model: Any) -> None:
        """Raise InputError for a model that this sampler, with its options, cannot draw from."""
        if not isinstance(model, self.needs):
            own, other = type(self).__name__, type(model).__name__
            raise InputError(f"sampler: {own} cannot draw from {other}, which is no {self.needs.__name__}")

    @abstractmethod
    def noise(self, model: Any, n: int, labels: Tensor | None, generator: torch.Generator) -> Noise:
        """Return all random numbers of n images: one tensor (n, ...), or a tuple of them."""

    @abstractmethod
    def draw(self, model: Any, noise: Noise, labels: Tensor | None) -> Tensor:
        """Return levels (B, C, H, W) computed from ``noise``."""

    def latents(self, model: Any, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw n latents of a model that satisfies :class:`~lightning_gen.core.protocols.Decodes`."""
        return model.draw_latents(n, labels, generator=generator)

    def decode(self, model: Any, latent: Tensor, labels: Tensor | None) -> Tensor:
        """Decode latents to levels (B, C, H, W)."""
        self.evaluations += 1
        return model.decode(latent, labels)


def rows_of(noise: Noise, rows: slice) -> Noise:
    """Return some rows of noise."""
    return tuple(part[rows] for part in noise) if isinstance(noise, tuple) else noise[rows]


@runtime_checkable
class DrawsItself(Protocol):
    """A model that draws levels (n, C, H, W) by itself."""

    def draw(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor: ...


class AncestralSampler(Sampler):
    """Ancestral sampling, each variable given its parents, by the model's ``draw(n, labels, generator)``."""

    neutral: ClassVar[Mapping[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()

    def noise(self, model: Any, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        if not isinstance(model, DrawsItself):
            raise InputError(f"sampler: AncestralSampler needs a method draw, which {type(model).__name__} has not")
        self.evaluations += 1
        return model.draw(n, labels, generator)

    def draw(self, model: Any, noise: Tensor, labels: Tensor | None) -> Tensor:
        return noise
