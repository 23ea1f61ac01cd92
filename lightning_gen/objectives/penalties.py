"""Penalties on the critic: lazy, scaled, and always in float32."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_gen.errors import InputError


class Penalty(ABC):
    r"""A term of the critic's loss that is due on every k-th critic step and then multiplied by k.

    So its expected weight does not depend on k ("lazy regularisation", Karras et al. 2020).

    Args:
        weight: factor of the penalty, at least 0.
        every: k, at least 1.

    Raises:
        InputError: for values outside these ranges.
    """

    def __init__(self, weight: float = 1.0, every: int = 1):
        if not weight >= 0:  # refuses nan, too
            raise InputError(f"{type(self).__name__}: weight must be at least 0, got {weight}")
        if every < 1:
            raise InputError(f"{type(self).__name__}: every must be at least 1 critic step, got {every}")
        self.weight = weight
        self.every = every

    def is_due(self, critic_step: int) -> bool:
        """Whether the critic step of this number (from 0) carries the penalty."""
        return critic_step % self.every == 0

    def __call__(self, critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return ``every * weight * value`` per sample (B,), for unit images (B, C, H, W)."""
        return self.every * self.weight * self.value(critic, real, fake, labels)

    @abstractmethod
    def value(self, critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the unweighted penalty (B,)."""


def squared_gradient_norm(critic: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    r"""Return :math:`\|\nabla_x D(x)\|_2^2` per image (B,), differentiable, in float32 whatever the autocast.

    In bfloat16 the double backward would be several per cent off.
    """
    with torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        images = (
            images.detach().float().requires_grad_()
            if images.dtype != torch.float64
            else images.detach().requires_grad_()
        )
        (gradient,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(1)


class R1(Penalty):
    r"""Zero-centred gradient penalty on real images, :math:`\tfrac12 \|\nabla_x D(x)\|^2` (Mescheder et al. 2018)."""

    def value(self, critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        return squared_gradient_norm(critic, real, labels) / 2


class R2(Penalty):
    r"""Zero-centred gradient penalty on samples, :math:`\tfrac12 \|\nabla_x D(G(z))\|^2` (Mescheder et al. 2018)."""

    def value(self, critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        return squared_gradient_norm(critic, fake, labels) / 2
