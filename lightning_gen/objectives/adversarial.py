"""Adversarial losses: what the critic and the generator minimise, per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.functional import softplus


class AdversarialLoss(ABC):
    """A pair of losses of the critic's scores; scores and results have shape (B,)."""

    generator_needs_real = False
    """Whether the generator's loss depends on the scores of real images."""

    @abstractmethod
    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the critic's loss (B,) from its scores of real and generated images."""

    @abstractmethod
    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return the generator's loss (B,); ``real`` is None unless :attr:`generator_needs_real`."""


class NonSaturating(AdversarialLoss):
    r"""Non-saturating loss (Goodfellow et al. 2014), with :math:`\zeta` the softplus.

    .. math:: L_D = \zeta(-D(x)) + \zeta(D(G(z))), \qquad L_G = \zeta(-D(G(z)))
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-real) + softplus(fake)

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return softplus(-fake)


class Relativistic(AdversarialLoss):
    r"""Relativistic pairing loss (Jolicoeur-Martineau 2019, Huang et al. 2024), with :math:`\zeta` the softplus.

    .. math:: L_D = \zeta(D(G(z)) - D(x)), \qquad L_G = \zeta(D(x) - D(G(z)))
    """

    generator_needs_real = True

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(fake - real)

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return softplus(real - fake)
