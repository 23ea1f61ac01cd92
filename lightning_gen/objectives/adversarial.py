"""Adversarial losses: what the critic and the generator minimise, per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus


class AdversarialLoss(ABC):
    """A pair of losses of the critic's scores; scores and results have shape (B,).

    Scores are logits: the critic has no sigmoid at its end. Real and generated images come in equal numbers.
    """

    generator_needs_real = False
    """Whether the generator's loss depends on the scores of real images."""

    compares_images = False
    """Whether both losses are of the unit images (B, C, H, W) themselves, which they get in place of scores."""

    @abstractmethod
    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the critic's loss (B,) from its scores of real and generated images."""

    @abstractmethod
    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """Return the generator's loss (B,); ``real`` is None unless :attr:`generator_needs_real`."""

    def realness(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return (B,), positive where the critic takes a real image for real; its signs steer :class:`ADA`.

        By default the scores of the real images.
        """
        return real


class NonSaturating(AdversarialLoss):
    r"""Non-saturating loss (Goodfellow et al. 2014), with :math:`\zeta` the softplus.

    .. math:: L_D = \zeta(-D(x)) + \zeta(D(G(z))), \qquad L_G = \zeta(-D(G(z)))
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-real) + softplus(fake)

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return softplus(-fake)


class Minimax(AdversarialLoss):
    r"""The zero-sum game (Goodfellow et al. 2014): the generator minimises :math:`\log(1 - \sigma(D(G(z))))`.

    .. math:: L_D = \zeta(-D(x)) + \zeta(D(G(z))), \qquad L_G = -\zeta(D(G(z)))

    The generator's gradient is :math:`-\sigma(D(G(z)))` times the score's: it vanishes ("saturates") where the critic
    is sure that an image is generated, so the generator hardly learns while it is bad. For study, not for use.
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-real) + softplus(fake)

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -softplus(fake)


class LeastSquares(AdversarialLoss):
    r"""Least-squares loss (Mao et al. 2017) with targets 1 for real, 0 for generated, 1 for the generator.

    .. math::
        L_D = \tfrac12 (D(x) - 1)^2 + \tfrac12 D(G(z))^2, \qquad L_G = \tfrac12 (D(G(z)) - 1)^2

    The critic is undecided at 1/2, from which :meth:`realness` counts.
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return (real - 1).square() / 2 + fake.square() / 2

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return (fake - 1).square() / 2

    def realness(self, real: Tensor, fake: Tensor) -> Tensor:
        return real - 0.5


class Wasserstein(AdversarialLoss):
    r"""Wasserstein loss (Arjovsky et al. 2017), for a critic that something keeps Lipschitz, such as :class:`WGANGP`.

    .. math:: L_D = D(G(z)) - D(x), \qquad L_G = -D(G(z))

    Only differences of scores mean anything, so :meth:`realness` is :math:`D(x) - D(G(z))`.
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake - real

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake

    def realness(self, real: Tensor, fake: Tensor) -> Tensor:
        return real - fake


class Hinge(AdversarialLoss):
    r"""Hinge loss (Lim and Ye 2017, Miyato et al. 2018).

    .. math:: L_D = \max(0, 1 - D(x)) + \max(0, 1 + D(G(z))), \qquad L_G = -D(G(z))
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return relu(1 - real) + relu(1 + fake)

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake


class Relativistic(AdversarialLoss):
    r"""Relativistic pairing loss (Jolicoeur-Martineau 2019, Huang et al. 2024), with :math:`\zeta` the softplus.

    .. math:: L_D = \zeta(D(G(z)) - D(x)), \qquad L_G = \zeta(D(x) - D(G(z)))
    """

    generator_needs_real = True

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(fake - real)

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return softplus(real - fake)

    def realness(self, real: Tensor, fake: Tensor) -> Tensor:
        return real - fake


class RelativisticAverage(AdversarialLoss):
    r"""Relativistic average loss (Jolicoeur-Martineau 2019), with :math:`\zeta` the softplus.

    .. math::
        L_D &= \zeta(\bar D_f - D(x)) + \zeta(D(G(z)) - \bar D_r) \\
        L_G &= \zeta(D(x) - \bar D_f) + \zeta(\bar D_r - D(G(z)))

    :math:`\bar D_r` and :math:`\bar D_f` are the mean scores of this rank's batch of real and generated images, through
    which gradients flow: with several ranks a run is not the one on a single rank with the whole batch.
    """

    generator_needs_real = True

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(fake.mean() - real) + softplus(fake - real.mean())

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return softplus(real - fake.mean()) + softplus(real.mean() - fake)

    def realness(self, real: Tensor, fake: Tensor) -> Tensor:
        return real - fake.mean()


class PixelComparison(AdversarialLoss):
    r"""What beginners write for a GAN: compare pixels of a generated image with those of a real one.

    .. math::
        L_D = \frac{1}{CHW} \sum_i (G(z)_i^2 - x_i^2)^2, \qquad L_G = \frac{1}{CHW} \sum_i (G(z)_i - x_i)^2

    Here to show why it fails. The critic's loss contains no score, so it has no gradient in the critic, which never
    learns; and as z and x are drawn independently, the generator's loss is least, whatever z, at the mean of the real
    images, which is the one blurred image it ends up with. It says nothing about realness: :meth:`realness` is 0.
    """

    generator_needs_real = True
    compares_images = True

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return (fake.square() - real.square()).square().flatten(1).mean(1)

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return (fake - real).square().flatten(1).mean(1)

    def realness(self, real: Tensor, fake: Tensor) -> Tensor:
        return torch.zeros(len(real), device=real.device)
