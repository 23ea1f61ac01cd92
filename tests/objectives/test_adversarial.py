"""Adversarial losses against their formulas, the identities between them, and what their gradients do."""

import math

import numpy as np
import pytest
import torch

from lightning_gen.objectives import (
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    PixelComparison,
    Relativistic,
    RelativisticAverage,
    Wasserstein,
)


def zeta(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def above(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0)


# critic's loss, generator's loss and realness, of the scores r of real and f of generated images
FORMULAS = {
    NonSaturating: (lambda r, f: zeta(-r) + zeta(f), lambda r, f: zeta(-f), lambda r, f: r),
    Minimax: (lambda r, f: zeta(-r) + zeta(f), lambda r, f: -zeta(f), lambda r, f: r),
    LeastSquares: (lambda r, f: ((r - 1) ** 2 + f**2) / 2, lambda r, f: (f - 1) ** 2 / 2, lambda r, f: r - 0.5),
    Wasserstein: (lambda r, f: f - r, lambda r, f: -f, lambda r, f: r - f),
    Hinge: (lambda r, f: above(1 - r) + above(1 + f), lambda r, f: -f, lambda r, f: r),
    Relativistic: (lambda r, f: zeta(f - r), lambda r, f: zeta(r - f), lambda r, f: r - f),
    RelativisticAverage: (
        lambda r, f: zeta(f.mean() - r) + zeta(f - r.mean()),
        lambda r, f: zeta(r - f.mean()) + zeta(r.mean() - f),
        lambda r, f: r - f.mean(),
    ),
}
LOSSES = [cls() for cls in FORMULAS]


def named(value):
    return type(value).__name__


def of_generator(loss, real, fake):
    return loss.generator(real if loss.generator_needs_real else None, fake)


@pytest.fixture
def scores(generator):
    real, fake = 5 * torch.randn(2, 50, dtype=torch.float64, generator=generator)
    return real, fake


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_every_loss_is_its_formula(loss, scores):
    real, fake = scores
    results = loss.critic(real, fake), of_generator(loss, real, fake), loss.realness(real, fake)
    for result, formula in zip(results, FORMULAS[type(loss)], strict=True):
        # torch's softplus is linear above 20: an error of at most e^-20.
        np.testing.assert_allclose(result.numpy(), formula(real.numpy(), fake.numpy()), atol=5e-9, rtol=1e-12)


def test_the_games_of_2014_are_written_out_in_probabilities(scores):
    real, fake = scores
    p_real, p_fake = (1 / (1 + np.exp(-x.numpy())) for x in (real, fake))
    for loss in (NonSaturating(), Minimax()):
        written_out = -np.log(p_real) - np.log(1 - p_fake)
        np.testing.assert_allclose(loss.critic(real, fake).numpy(), written_out, rtol=1e-6)
    np.testing.assert_allclose(NonSaturating().generator(None, fake).numpy(), -np.log(p_fake), rtol=1e-6)
    np.testing.assert_allclose(Minimax().generator(None, fake).numpy(), np.log(1 - p_fake), rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_losses_are_per_sample_and_commute_with_permutations(loss, scores, generator):
    real, fake = scores
    order = torch.randperm(len(real), generator=generator)
    for phase in (loss.critic, loss.generator, loss.realness):
        value = phase(real, fake)
        assert value.shape == real.shape
        torch.testing.assert_close(phase(real[order], fake[order]), value[order], rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize("loss", [Relativistic(), RelativisticAverage()], ids=named)
def test_symmetries_of_relativistic_losses(loss, scores):
    real, fake = scores
    # The generator plays the critic's game with the roles exchanged.
    torch.testing.assert_close(loss.generator(real, fake), loss.critic(fake, real), rtol=1e-12, atol=0)
    # Only differences of scores count.
    torch.testing.assert_close(loss.critic(real + 7, fake + 7), loss.critic(real, fake), atol=5e-9, rtol=1e-9)
    torch.testing.assert_close(loss.realness(real + 7, fake + 7), loss.realness(real, fake))


def test_the_two_relativistic_losses_agree_where_scores_do_not_vary():
    real, fake = torch.full((4,), 1.3), torch.full((4,), -0.4)
    for phase in ("critic", "generator"):
        average, pairing = (getattr(loss, phase)(real, fake) for loss in (RelativisticAverage(), Relativistic()))
        torch.testing.assert_close(average, 2 * pairing)


def test_gradients_flow_through_the_means_of_relativistic_average(scores):
    real, fake = scores
    assert torch.autograd.gradcheck(RelativisticAverage().critic, (real.requires_grad_(), fake.requires_grad_()))
    assert torch.autograd.gradcheck(RelativisticAverage().generator, (real, fake))
    # A single real score moves the term of every fake one.
    (by_real,) = torch.autograd.grad(RelativisticAverage().critic(real, fake)[0], real)
    assert (by_real != 0).all()


def test_which_generator_needs_real_scores_and_who_compares_images():
    needy = {type(loss) for loss in [*LOSSES, PixelComparison()] if loss.generator_needs_real}
    assert needy == {Relativistic, RelativisticAverage, PixelComparison}
    assert [type(loss) for loss in [*LOSSES, PixelComparison()] if loss.compares_images] == [PixelComparison]


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_large_scores_stay_finite_with_finite_gradients(loss):
    for sign in (1, -1):
        real = torch.tensor([sign * 1e4], requires_grad=True)
        fake = torch.tensor([-sign * 1e4], requires_grad=True)
        (loss.critic(real, fake) + of_generator(loss, real, fake)).sum().backward()
        for scores in (real, fake):
            assert scores.grad is None or torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_the_critic_and_the_generator_pull_apart(loss):
    real, fake = torch.full((1,), 0.4, requires_grad=True), torch.full((1,), 0.3, requires_grad=True)
    by_real, by_fake = torch.autograd.grad(loss.critic(real, fake).sum(), (real, fake))
    assert by_real < 0 < by_fake  # the critic raises real scores and lowers fake ones
    (by_fake,) = torch.autograd.grad(of_generator(loss, real, fake).sum(), fake)
    assert by_fake < 0


@pytest.mark.parametrize(
    ("loss", "best"),
    [
        (NonSaturating(), lambda p, q: np.log(p / q)),
        (Minimax(), lambda p, q: np.log(p / q)),
        (LeastSquares(), lambda p, q: p / (p + q)),
        (Hinge(), lambda p, q: np.sign(p - q)),
    ],
    ids=named,
)
def test_the_best_critic_is_the_published_one(loss, best):
    # Three places x where real images have probability p(x) and samples q(x): minimise the expected loss at each.
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.4, 0.5])
    grid = torch.linspace(-2.5, 2.5, 50001, dtype=torch.float64)
    at_zero = torch.zeros(1, dtype=torch.float64)
    of_real = loss.critic(grid, at_zero) - loss.critic(at_zero, at_zero)
    of_fake = loss.critic(at_zero, grid) - loss.critic(at_zero, at_zero)
    minimum = [float(grid[(p_x * of_real + q_x * of_fake).argmin()]) for p_x, q_x in zip(p, q, strict=True)]
    np.testing.assert_allclose(minimum, best(p, q), atol=2e-4)


def test_minimax_saturates_where_the_critic_wins_and_non_saturating_does_not():
    fake = torch.tensor([-10.0, 0.0, 10.0], dtype=torch.float64, requires_grad=True)
    (saturating,) = torch.autograd.grad(Minimax().generator(None, fake).sum(), fake)
    (lively,) = torch.autograd.grad(NonSaturating().generator(None, fake).sum(), fake)
    sigmoid = torch.sigmoid(fake.detach())
    torch.testing.assert_close(saturating, -sigmoid)  # vanishes at -10, where the critic is sure
    torch.testing.assert_close(lively, sigmoid - 1)
    # Both directions are the same, and at a critic that cannot tell also the lengths.
    assert float(saturating[0]) > -1e-4
    assert float(lively[0]) < -0.999
    assert float(saturating[1]) == float(lively[1]) == -0.5


def test_minimax_is_zero_sum_up_to_the_real_term(scores):
    real, fake = scores
    loss = Minimax()
    constant = loss.critic(real, fake) + loss.generator(None, fake)
    torch.testing.assert_close(constant, loss.critic(real, fake + 3) + loss.generator(None, fake + 3))


def test_hinge_leaves_sure_scores_alone():
    real, fake = torch.tensor([1.5, 0.5], requires_grad=True), torch.tensor([-1.5, -0.5], requires_grad=True)
    by_real, by_fake = torch.autograd.grad(Hinge().critic(real, fake).sum(), (real, fake))
    assert by_real.tolist() == [0, -1]
    assert by_fake.tolist() == [0, 1]


def test_pixel_comparison_is_its_formula(generator):
    real, fake = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64, generator=generator)
    loss, critic, generated = PixelComparison(), [], []
    for x, g in zip(real.numpy(), fake.numpy(), strict=True):
        critic.append(sum((b**2 - a**2) ** 2 for a, b in zip(x.ravel(), g.ravel(), strict=True)) / 12)
        generated.append(sum((b - a) ** 2 for a, b in zip(x.ravel(), g.ravel(), strict=True)) / 12)
    np.testing.assert_allclose(loss.critic(real, fake).numpy(), critic, rtol=1e-12)
    np.testing.assert_allclose(loss.generator(real, fake).numpy(), generated, rtol=1e-12)
    assert loss.realness(real, fake).tolist() == [0, 0, 0, 0]


def test_pixel_comparison_is_least_at_the_mean_image(generator):
    images = torch.randn(40, 1, 2, 2, dtype=torch.float64, generator=generator)
    image = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    expected = PixelComparison().generator(images, image.expand_as(images)).mean()
    (slope,) = torch.autograd.grad(expected, image)
    # A quadratic with slope (0 - mean) * 2 / CHW at 0 and second derivative 2 / CHW is least at the mean.
    torch.testing.assert_close(-slope * 4 / 2, images.mean(0, keepdim=True))
