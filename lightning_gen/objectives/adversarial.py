"""Adversarial losses of critic and generator."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from lightning_gen.core import at_least_float32

Judgement = tuple[Tensor, Tensor | None]


def judge(critic: nn.Module, images: Tensor, labels: Tensor | None, classify: bool) -> Judgement:
    """Return scores (B,) of unit images and, if ``classify``, class logits (B, K), both at least in float32."""
    if not classify:
        return at_least_float32(critic(images, labels)), None
    scores, logits = critic.scores_and_logits(images, labels)
    return at_least_float32(scores), at_least_float32(logits)


class CriticTerms:
    r"""Scores of a critic D for B real images x and B generated ones G(z), computed on first use.

    Args:
        critic: network (unit images (B, C, H, W), labels) -> scores (B,).
        real, fake: unit images (B, C, H, W).
        labels: classes (B,) of both, or None.
        see: augmentation of the critic's input, the same for the i-th real and the i-th generated image; by default the
            identity.
        classify: whether the critic also returns class logits.
    """

    def __init__(
        self,
        critic: nn.Module,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None,
        see: Callable[[Tensor], Tensor] = lambda images: images,
        classify: bool = False,
    ):
        self.critic, self.labels, self.see, self.classify = critic, labels, see, classify
        self._images = real, fake

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self.critic

    @cached_property
    def real_images(self) -> Tensor:
        """Real unit images (B, C, H, W), augmented."""
        return self.see(self._images[0])

    @cached_property
    def fake_images(self) -> Tensor:
        """Generated unit images (B, C, H, W), augmented."""
        return self.see(self._images[1])

    @cached_property
    def real_judgement(self) -> Judgement:
        """Scores and logits of the real images."""
        return judge(self.critic, self.real_images, self.labels, self.classify)

    @cached_property
    def fake_judgement(self) -> Judgement:
        """Scores and logits of the generated images."""
        return judge(self.critic, self.fake_images, self.labels, self.classify)

    @property
    def real(self) -> Tensor:
        """D(x), (B,)."""
        return self.real_judgement[0]

    @property
    def fake(self) -> Tensor:
        """D(G(z)), (B,)."""
        return self.fake_judgement[0]


class GeneratorTerms(CriticTerms):
    """The same for a generator step: scores of real images are computed without gradient.

    Args:
        generator: network (latents (B, latent_dim), labels) -> unit images (B, C, H, W).
        latent: latents (B, latent_dim).

    Further arguments are those of :class:`CriticTerms`.
    """

    def __init__(self, generator: nn.Module, latent: Tensor, *of_critic, **options):
        super().__init__(*of_critic, **options)
        self.generator, self.latent = generator, latent

    @property
    def network(self) -> nn.Module:
        return self.generator

    @cached_property
    def real_judgement(self) -> Judgement:
        _ = self.fake_judgement  # fixes the order of passes, on which the power iteration of spectral norm depends
        with torch.no_grad():
            return judge(self.critic, self.real_images, self.labels, self.classify)


class AdversarialLoss(ABC):
    """A pair of losses (B,) as functions of the critic's scores, ``terms.real`` and ``terms.fake``.

    Scores are logits: the critic has no final sigmoid. A generator loss that uses ``terms.real`` costs another pass of
    the critic.
    """

    @abstractmethod
    def critic(self, terms: CriticTerms) -> Tensor:
        """Return the critic's loss (B,)."""

    @abstractmethod
    def generator(self, terms: GeneratorTerms) -> Tensor:
        """Return the generator's loss (B,)."""

    def realness(self, terms: CriticTerms) -> Tensor:
        """Return (B,), positive where the critic classifies a real image as real; its sign controls :class:`ADA`.

        By default the scores of the real images.
        """
        return terms.real


class NonSaturating(AdversarialLoss):
    r"""Non-saturating loss (Goodfellow et al. 2014), with :math:`\zeta` the softplus.

    .. math:: L_D = \zeta(-D(x)) + \zeta(D(G(z))), \qquad L_G = \zeta(-D(G(z)))
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return softplus(-terms.real) + softplus(terms.fake)

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return softplus(-terms.fake)


class Minimax(AdversarialLoss):
    r"""The zero-sum game (Goodfellow et al. 2014): the generator minimises :math:`\log(1 - \sigma(D(G(z))))`.

    .. math:: L_D = \zeta(-D(x)) + \zeta(D(G(z))), \qquad L_G = -\zeta(D(G(z)))

    The generator's gradient :math:`-\sigma(D(G(z)))\, \nabla D(G(z))` vanishes ("saturates") where the critic is
    certain that an image is generated, so a poor generator hardly learns. For study, not for use.
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return softplus(-terms.real) + softplus(terms.fake)

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return -softplus(terms.fake)


class LeastSquares(AdversarialLoss):
    r"""Least-squares loss (Mao et al. 2017) with targets 1 for real, 0 for generated, 1 for the generator.

    .. math::
        L_D = \tfrac12 (D(x) - 1)^2 + \tfrac12 D(G(z))^2, \qquad L_G = \tfrac12 (D(G(z)) - 1)^2

    The critic is undecided at 1/2, so :meth:`realness` is :math:`D(x) - 1/2`.
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return (terms.real - 1).square() / 2 + terms.fake.square() / 2

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return (terms.fake - 1).square() / 2

    def realness(self, terms: CriticTerms) -> Tensor:
        return terms.real - 0.5


class Wasserstein(AdversarialLoss):
    r"""Wasserstein loss (Arjovsky et al. 2017); the critic must be kept Lipschitz, for example by :class:`WGANGP`.

    .. math:: L_D = D(G(z)) - D(x), \qquad L_G = -D(G(z))

    Only differences of scores are meaningful, so :meth:`realness` is :math:`D(x) - D(G(z))`.
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return terms.fake - terms.real

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return -terms.fake

    def realness(self, terms: CriticTerms) -> Tensor:
        return terms.real - terms.fake


class Hinge(AdversarialLoss):
    r"""Hinge loss (Lim and Ye 2017, Miyato et al. 2018).

    .. math:: L_D = \max(0, 1 - D(x)) + \max(0, 1 + D(G(z))), \qquad L_G = -D(G(z))
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return relu(1 - terms.real) + relu(1 + terms.fake)

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return -terms.fake


class Relativistic(AdversarialLoss):
    r"""Relativistic pairing loss (Jolicoeur-Martineau 2019, Huang et al. 2024), with :math:`\zeta` the softplus.

    .. math:: L_D = \zeta(D(G(z)) - D(x)), \qquad L_G = \zeta(D(x) - D(G(z)))
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return softplus(terms.fake - terms.real)

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return softplus(terms.real - terms.fake)

    def realness(self, terms: CriticTerms) -> Tensor:
        return terms.real - terms.fake


class RelativisticAverage(AdversarialLoss):
    r"""Relativistic average loss (Jolicoeur-Martineau 2019), with :math:`\zeta` the softplus.

    .. math::
        L_D &= \zeta(\bar D_f - D(x)) + \zeta(D(G(z)) - \bar D_r) \\
        L_G &= \zeta(D(x) - \bar D_f) + \zeta(\bar D_r - D(G(z)))

    :math:`\bar D_r` and :math:`\bar D_f` are the mean scores of this rank's real and generated images, through which
    gradients flow; results therefore depend on how a batch is split over ranks.
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return softplus(terms.fake.mean() - terms.real) + softplus(terms.fake - terms.real.mean())

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return softplus(terms.real - terms.fake.mean()) + softplus(terms.real.mean() - terms.fake)

    def realness(self, terms: CriticTerms) -> Tensor:
        return terms.real - terms.fake.mean()


class PixelComparison(AdversarialLoss):
    r"""A common mistake: comparing a generated image with a real one pixel by pixel.

    .. math::
        L_D = \frac{1}{CHW} \sum_i (G(z)_i^2 - x_i^2)^2, \qquad L_G = \frac{1}{CHW} \sum_i (G(z)_i - x_i)^2

    For study only. The critic's loss contains no score, so the critic is never trained; and since z and x are
    independent, the generator's loss is minimised by the mean of the real images for every z: a single blurred image.
    :meth:`realness` is 0.
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return (terms.fake_images.square() - terms.real_images.square()).square().flatten(1).mean(1)

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return (terms.fake_images - terms.real_images).square().flatten(1).mean(1)

    def realness(self, terms: CriticTerms) -> Tensor:
        return torch.zeros_like(terms.real)
