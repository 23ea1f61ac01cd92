"""Adversarial losses against their formulas and the identities between them."""

import math

import numpy as np
import pytest
import torch

from lightning_gen.objectives import NonSaturating, Relativistic

LOSSES = [NonSaturating(), Relativistic()]


def named(value):
    return type(value).__name__


def zeta(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


@pytest.fixture
def scores(generator):
    real, fake = 5 * torch.randn(2, 50, dtype=torch.float64, generator=generator)
    return real, fake


def test_non_saturating_is_its_formula(scores):
    real, fake = scores
    loss = NonSaturating()
    r, f = real.numpy(), fake.numpy()
    # torch's softplus is linear above 20: an error of at most e^-20.
    np.testing.assert_allclose(loss.critic(real, fake).numpy(), zeta(-r) + zeta(f), atol=5e-9, rtol=1e-12)
    np.testing.assert_allclose(loss.generator(None, fake).numpy(), zeta(-f), atol=5e-9, rtol=1e-12)
    # -log sigmoid(D(x)) - log(1 - sigmoid(D(G(z)))), as Goodfellow et al. write it
    sigmoid = 1 / (1 + np.exp(-np.stack([r, f])))
    written_out = -np.log(sigmoid[0]) - np.log(1 - sigmoid[1])
    np.testing.assert_allclose(loss.critic(real, fake).numpy(), written_out, rtol=1e-6)


def test_relativistic_is_its_formula(scores):
    real, fake = scores
    loss = Relativistic()
    r, f = real.numpy(), fake.numpy()
    np.testing.assert_allclose(loss.critic(real, fake).numpy(), zeta(f - r), atol=5e-9, rtol=1e-12)
    np.testing.assert_allclose(loss.generator(real, fake).numpy(), zeta(r - f), atol=5e-9, rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_losses_are_per_sample_and_commute_with_permutations(loss, scores, generator):
    real, fake = scores
    order = torch.randperm(len(real), generator=generator)
    for phase in (loss.critic, loss.generator):
        value = phase(real, fake)
        assert value.shape == real.shape
        assert torch.equal(phase(real[order], fake[order]), value[order])


def test_symmetries_of_non_saturating(scores):
    real, fake = scores
    loss = NonSaturating()
    # Exchanging the roles of real and generated images and the sign of the critic changes nothing.
    torch.testing.assert_close(loss.critic(real, fake), loss.critic(-fake, -real))
    # The generator wants its images judged real: the critic's term for real images.
    torch.testing.assert_close(loss.critic(real, fake), loss.generator(None, real) + loss.generator(None, -fake))
    torch.testing.assert_close(loss.generator(None, -fake) - loss.generator(None, fake), fake, atol=5e-9, rtol=1e-9)
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(loss.critic(zero, zero)) == pytest.approx(2 * math.log(2))


def test_symmetries_of_relativistic(scores):
    real, fake = scores
    loss = Relativistic()
    # The generator plays the critic's game with the roles exchanged.
    assert torch.equal(loss.generator(real, fake), loss.critic(fake, real))
    # Only differences of scores count.
    torch.testing.assert_close(loss.critic(real + 7, fake + 7), loss.critic(real, fake), atol=5e-9, rtol=1e-9)
    torch.testing.assert_close(loss.critic(real, fake) - loss.generator(real, fake), fake - real, atol=5e-9, rtol=1e-9)
    assert float(loss.critic(real, real)[0]) == pytest.approx(math.log(2))


def test_which_generator_needs_real_scores():
    assert not NonSaturating.generator_needs_real
    assert Relativistic.generator_needs_real


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_large_scores_stay_finite_with_finite_gradients(loss):
    for sign in (1, -1):
        real = torch.tensor([sign * 1e4], requires_grad=True)
        fake = torch.tensor([-sign * 1e4], requires_grad=True)
        (loss.critic(real, fake) + loss.generator(real, fake)).sum().backward()
        for scores in (real, fake):
            assert scores.grad is None or torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_the_critic_and_the_generator_pull_apart(loss):
    real, fake = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    by_real, by_fake = torch.autograd.grad(loss.critic(real, fake).sum(), (real, fake))
    assert by_real < 0 < by_fake  # the critic raises real scores and lowers fake ones
    (by_fake,) = torch.autograd.grad(loss.generator(real, fake).sum(), fake)
    assert by_fake < 0
