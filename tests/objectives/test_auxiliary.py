"""Class terms of AC-GAN against the cross-entropy written out."""

import numpy as np
import pytest
import torch

from lightning_gen.errors import InputError
from lightning_gen.objectives import AuxiliaryClassifier


def cross_entropy(logits, labels):
    values = []
    for row, label in zip(logits.numpy(), labels.tolist(), strict=True):
        values.append(np.log(sum(np.exp(x - row.max()) for x in row)) + row.max() - row[label])
    return np.array(values)


@pytest.fixture
def batch(generator):
    real, fake = 3 * torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    return real, fake, torch.tensor([0, 1, 2, 3, 3, 0])


def test_terms_are_weighted_cross_entropies(batch):
    real, fake, labels = batch
    terms = AuxiliaryClassifier(weight=0.5, generator_weight=0.1, fake_weight=2.0)
    of_real, of_fake = cross_entropy(real, labels), cross_entropy(fake, labels)
    np.testing.assert_allclose(terms.critic(real, fake, labels).numpy(), 0.5 * of_real + 2 * of_fake, rtol=1e-12)
    np.testing.assert_allclose(terms.generator(fake, labels).numpy(), 0.1 * of_fake, rtol=1e-12)


def test_the_paper_weighs_all_terms_alike(batch):
    real, fake, labels = batch
    terms = AuxiliaryClassifier()
    both = terms.generator(real, labels) + terms.generator(fake, labels)
    torch.testing.assert_close(terms.critic(real, fake, labels), both)


def test_without_fake_weight_the_critic_learns_nothing_from_samples(batch):
    real, fake, labels = batch
    fake.requires_grad_()
    value = AuxiliaryClassifier(fake_weight=0.0).critic(real, fake, labels)
    (slope,) = torch.autograd.grad(value.sum(), fake)
    assert not slope.any()


def test_half_precision_logits_are_judged_in_float32(batch):
    real, _, labels = batch
    half = real.bfloat16()
    torch.testing.assert_close(
        AuxiliaryClassifier().generator(half, labels),
        AuxiliaryClassifier().generator(half.float(), labels),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("name", ["weight", "generator_weight", "fake_weight"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_bad_weights_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"AuxiliaryClassifier: {name} must be at least 0, got {value}"):
        AuxiliaryClassifier(**{name: value})
