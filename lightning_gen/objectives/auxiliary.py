"""The class term of a critic that also classifies."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gen.errors import InputError
from lightning_gen.objectives.precision import at_least_float32


class AuxiliaryClassifier:
    r"""Class terms of AC-GAN (Odena et al. 2017): critic and generator both want images classified as what they are.

    .. math::
        L_D = w \, H(y, C(x)) + w_f \, H(y, C(G(z, y))), \qquad L_G = w_g \, H(y, C(G(z, y)))

    with the cross-entropy :math:`H(y, C) = -\log \mathrm{softmax}(C)_y` in nats. They are added to the adversarial
    losses. The paper has all three weights 1. A classifier trained on samples of a bad generator learns wrong classes;
    w_f = 0 trains it on real images alone. Large :math:`w_g` costs diversity: what is easily classified pays.

    Args:
        weight: w, of real images in the critic's loss, at least 0.
        generator_weight: :math:`w_g`, of generated images in the generator's loss, at least 0.
        fake_weight: :math:`w_f`, of generated images in the critic's loss, at least 0.

    Raises:
        InputError: for a weight below 0.
    """

    def __init__(self, weight: float = 1.0, generator_weight: float = 1.0, fake_weight: float = 1.0):
        for name, value in (("weight", weight), ("generator_weight", generator_weight), ("fake_weight", fake_weight)):
            if not 0 <= value < float("inf"):  # refuses nan, too
                raise InputError(f"AuxiliaryClassifier: {name} must be at least 0, got {value}")
        self.weight = weight
        self.generator_weight = generator_weight
        self.fake_weight = fake_weight

    def critic(self, real_logits: Tensor, fake_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the term (B,) of the critic's loss, from logits (B, K) of real and generated images of ``labels``."""
        return self.weight * nats(real_logits, labels) + self.fake_weight * nats(fake_logits, labels)

    def generator(self, fake_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the term (B,) of the generator's loss, from logits (B, K) of images generated for ``labels``."""
        return self.generator_weight * nats(fake_logits, labels)


def nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy (B,) in nats, at least in float32."""
    return cross_entropy(at_least_float32(logits), labels, reduction="none")
