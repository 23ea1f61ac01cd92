"""Class terms of AC-GAN against the cross-entropy written out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks import MLPDiscriminator
from lightning_gen.objectives import AuxiliaryClassifier


def cross_entropy(logits, labels):
    values = []
    for row, label in zip(logits.numpy(), labels.tolist(), strict=True):
        values.append(np.log(sum(np.exp(x - row.max()) for x in row)) + row.max() - row[label])
    return np.array(values)


def terms(real, fake, labels):
    """Logits alone."""
    return SimpleNamespace(real_judgement=(None, real), fake_judgement=(None, fake), labels=labels)


@pytest.fixture
def batch(generator):
    real, fake = 3 * torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    return real, fake, torch.tensor([0, 1, 2, 3, 3, 0])


def test_terms_are_weighted_cross_entropies(batch):
    real, fake, labels = batch
    auxiliary = AuxiliaryClassifier(weight=0.5, generator_weight=0.1, fake_weight=2.0)
    of_real, of_fake = cross_entropy(real, labels), cross_entropy(fake, labels)
    np.testing.assert_allclose(auxiliary.critic(terms(*batch)).numpy(), 0.5 * of_real + 2 * of_fake, rtol=1e-12)
    np.testing.assert_allclose(auxiliary.generator(terms(*batch)).numpy(), 0.1 * of_fake, rtol=1e-12)
    # The paper weighs all terms alike.
    np.testing.assert_allclose(AuxiliaryClassifier().critic(terms(*batch)).numpy(), of_real + of_fake, rtol=1e-12)
    np.testing.assert_allclose(AuxiliaryClassifier().generator(terms(*batch)).numpy(), of_fake, rtol=1e-12)


def test_without_fake_weight_the_critic_learns_nothing_from_samples(batch):
    real, fake, labels = batch
    fake.requires_grad_()
    value = AuxiliaryClassifier(fake_weight=0.0).critic(terms(real, fake, labels))
    (slope,) = torch.autograd.grad(value.sum(), fake)
    assert not slope.any()


def test_half_precision_logits_are_judged_in_float32(batch):
    real, _, labels = batch
    half = real.bfloat16()
    inside, plain = (AuxiliaryClassifier().generator(terms(None, each, labels)) for each in (half, half.float()))
    assert torch.equal(inside, plain)


def test_what_does_not_fit_is_refused():
    spec, other = (ImageSpec(1, 2, 2, num_classes=classes) for classes in (4, 3))
    critic = MLPDiscriminator(spec, (5,), classifier=True)
    AuxiliaryClassifier().check(spec, critic, conditional=True)
    AuxiliaryClassifier(fake_weight=0.0, generator_weight=0.0).check(spec, critic, conditional=False)
    for wrong, network, conditional, message in (
        (ImageSpec(1, 2, 2), critic, True, "needs labelled images, and these have no classes"),
        (spec, nn.Identity(), True, "needs a discriminator with a classifier head, and Identity has none"),
        (spec, critic, False, "judges classes of generated images, which the generator draws without"),
        (other, critic, True, r"must give one logit per class, \(B, 3\), and gave \(2, 4\)"),
    ):
        with pytest.raises(InputError, match=message):
            AuxiliaryClassifier().check(wrong, network, conditional)
    for name in ("weight", "generator_weight", "fake_weight"):
        for value, bound in ((-1.0, "0"), (float("nan"), "0"), (float("inf"), "0 and finite")):
            with pytest.raises(InputError, match=rf"AuxiliaryClassifier\.{name} must be at least {bound}, got {value}"):
                AuxiliaryClassifier(**{name: value})
