"""The classification losses of AC-GAN."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gen.core import ImageSpec, InputError, at_least_float32, check_at_least, evaluating
from lightning_gen.objectives.adversarial import CriticTerms, GeneratorTerms


class AuxiliaryClassifier:
    r"""Classification losses of critic and generator (AC-GAN, Odena et al. 2017).

    .. math::
        L_D = w \, H(y, C(x)) + w_f \, H(y, C(G(z, y))), \qquad L_G = w_g \, H(y, C(G(z, y)))

    with the cross-entropy :math:`H(y, C) = -\log \mathrm{softmax}(C)_y` in nats, added to the adversarial losses. In
    the paper all three weights are 1. With w_f = 0 the classifier is trained on real images only, so that poor samples
    do not mislead it. A large :math:`w_g` reduces diversity, since it favours images that are easy to classify.

    Args:
        weight: w, weight of real images in the critic's loss, at least 0.
        generator_weight: :math:`w_g`, weight of generated images in the generator's loss, at least 0.
        fake_weight: :math:`w_f`, weight of generated images in the critic's loss, at least 0.

    Raises:
        InputError: for a weight below 0.
    """

    def __init__(self, weight: float = 1.0, generator_weight: float = 1.0, fake_weight: float = 1.0):
        check_at_least(self, 0, weight=weight, generator_weight=generator_weight, fake_weight=fake_weight)
        self.weight = weight
        self.generator_weight = generator_weight
        self.fake_weight = fake_weight

    def check(self, spec: ImageSpec, critic: nn.Module, conditional: bool) -> None:
        """Raise InputError for unlabelled images, a critic without classifier, or an unconditional generator."""
        name = type(critic).__name__
        if not spec.num_classes:
            raise InputError("AuxiliaryClassifier needs labelled images, and these have no classes")
        if not hasattr(critic, "scores_and_logits"):
            raise InputError(
                f"AuxiliaryClassifier needs a discriminator with a classifier head, and {name} has none: give it "
                "classifier: true, or take one that has"
            )
        if not conditional and (self.fake_weight or self.generator_weight):
            raise InputError(
                "AuxiliaryClassifier judges classes of generated images, which the generator draws without: make it "
                "conditional, or set fake_weight and generator_weight to 0"
            )
        with evaluating(critic):
            _, logits = critic.scores_and_logits(torch.zeros(2, *spec.shape), torch.zeros(2, dtype=torch.int64))
        if logits.shape != (2, spec.num_classes):
            raise InputError(
                f"{name} must give one logit per class, (B, {spec.num_classes}), and gave {tuple(logits.shape)}"
            )

    def critic(self, terms: CriticTerms) -> Tensor:
        """Return the term (B,) of the critic's loss."""
        (_, real), (_, fake) = terms.real_judgement, terms.fake_judgement
        return self.weight * nats(real, terms.labels) + self.fake_weight * nats(fake, terms.labels)

    def generator(self, terms: GeneratorTerms) -> Tensor:
        """Return the term (B,) of the generator's loss."""
        return self.generator_weight * nats(terms.fake_judgement[1], terms.labels)


def nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy (B,) in nats, at least in float32."""
    return cross_entropy(at_least_float32(logits), labels, reduction="none")
