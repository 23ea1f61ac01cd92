"""Adversarial losses: what the critic and the generator minimise, per sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from lightning_gen.core import at_least_float32

Judgement = tuple[Tensor, Tensor | None]


def judge(critic: nn.Module, images: Tensor, labels: Tensor | None, classify: bool) -> Judgement:
    """Return scores (B,) of unit images and, where asked for, class logits (B, K), both at least in float32."""
    if not classify:
        return at_least_float32(critic(images, labels)), None
    scores, logits = critic.scores_and_logits(images, labels)
    return at_least_float32(scores), at_least_float32(logits)


class CriticTerms:
    r"""What a critic D says of B real images x and B generated ones G(z), each computed when it is first asked for.

    Args:
        critic: the network, (unit images (B, C, H, W), labels) -> scores (B,).
        real, fake: unit images (B, C, H, W).
        labels: classes (B,) of both, or None.
        see: makes of images what the critic sees: augmented ones, the i-th real and the i-th generated one in the same
            way; by default the images themselves.
        classify: whether the critic's class logits are wanted, too.
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
        """Real unit images (B, C, H, W) as the critic sees them."""
        return self.see(self._images[0])

    @cached_property
    def fake_images(self) -> Tensor:
        """Generated unit images (B, C, H, W) as the critic sees them."""
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
    """The same for a step of the generator: no gradient passes through what the critic says of real images.

    Args:
        generator: the network, (latents (B, latent_dim), labels) -> unit images (B, C, H, W).
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
        _ = self.fake_judgement  # first, whatever a loss asks first: critics with spectral norms remember what they saw
        with torch.no_grad():
            return judge(self.critic, self.real_images, self.labels, self.classify)


class AdversarialLoss(ABC):
    """A pair of losses (B,) of what the critic says: ``terms.real`` of real images, ``terms.fake`` of generated ones.

    These scores are logits: the critic has no sigmoid at its end. A loss that asks for the scores of real images in the
    generator's step costs another pass of the critic there.
    """

    @abstractmethod
    def critic(self, terms: CriticTerms) -> Tensor:
        """Return the critic's loss (B,)."""

    @abstractmethod
    def generator(self, terms: GeneratorTerms) -> Tensor:
        """Return the generator's loss (B,)."""

    def realness(self, terms: CriticTerms) -> Tensor:
        """Return (B,), positive where the critic takes a real image for real; its signs steer :class:`ADA`.

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

    The generator's gradient is :math:`-\sigma(D(G(z)))` times the score's: it vanishes ("saturates") where the critic
    is sure that an image is generated, so the generator hardly learns while it is bad. For study, not for use.
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return softplus(-terms.real) + softplus(terms.fake)

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return -softplus(terms.fake)


class LeastSquares(AdversarialLoss):
    r"""Least-squares loss (Mao et al. 2017) with targets 1 for real, 0 for generated, 1 for the generator.

    .. math::
        L_D = \tfrac12 (D(x) - 1)^2 + \tfrac12 D(G(z))^2, \qquad L_G = \tfrac12 (D(G(z)) - 1)^2

    The critic is undecided at 1/2, from which :meth:`realness` counts.
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return (terms.real - 1).square() / 2 + terms.fake.square() / 2

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return (terms.fake - 1).square() / 2

    def realness(self, terms: CriticTerms) -> Tensor:
        return terms.real - 0.5


class Wasserstein(AdversarialLoss):
    r"""Wasserstein loss (Arjovsky et al. 2017), for a critic that something keeps Lipschitz, such as :class:`WGANGP`.

    .. math:: L_D = D(G(z)) - D(x), \qquad L_G = -D(G(z))

    Only differences of scores mean anything, so :meth:`realness` is :math:`D(x) - D(G(z))`.
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

    :math:`\bar D_r` and :math:`\bar D_f` are the mean scores of this rank's batch of real and generated images, through
    which gradients flow: with several ranks a run is not the one on a single rank with the whole batch.
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return softplus(terms.fake.mean() - terms.real) + softplus(terms.fake - terms.real.mean())

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return softplus(terms.real - terms.fake.mean()) + softplus(terms.real.mean() - terms.fake)

    def realness(self, terms: CriticTerms) -> Tensor:
        return terms.real - terms.fake.mean()


class PixelComparison(AdversarialLoss):
    r"""What beginners write for a GAN: compare pixels of a generated image with those of a real one.

    .. math::
        L_D = \frac{1}{CHW} \sum_i (G(z)_i^2 - x_i^2)^2, \qquad L_G = \frac{1}{CHW} \sum_i (G(z)_i - x_i)^2

    Here to show why it fails. The critic's loss contains no score, so it has no gradient in the critic, which never
    learns; and as z and x are drawn independently, the generator's loss is least, whatever z, at the mean of the real
    images, which is the one blurred image it ends up with. It says nothing about realness: :meth:`realness` is 0.
    """

    def critic(self, terms: CriticTerms) -> Tensor:
        return (terms.fake_images.square() - terms.real_images.square()).square().flatten(1).mean(1)

    def generator(self, terms: GeneratorTerms) -> Tensor:
        return (terms.fake_images - terms.real_images).square().flatten(1).mean(1)

    def realness(self, terms: CriticTerms) -> Tensor:
        return torch.zeros_like(terms.real)
