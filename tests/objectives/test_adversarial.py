"""Adversarial losses against their formulas, the identities between them, what their gradients do, and their terms."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gen.objectives import (
    CriticTerms,
    GeneratorTerms,
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


@pytest.fixture(params=LOSSES, ids=lambda loss: type(loss).__name__)
def loss(request):
    return request.param


def terms(real=None, fake=None):
    """Scores alone; to ask for those that are None is an error."""
    return SimpleNamespace(**{name: value for name, value in (("real", real), ("fake", fake)) if value is not None})


@pytest.fixture
def scores(generator):
    real, fake = 5 * torch.randn(2, 50, dtype=torch.float64, generator=generator)
    return real, fake


def test_every_loss_is_its_formula(loss, scores):
    real, fake = scores
    results = (phase(terms(real, fake)) for phase in (loss.critic, loss.generator, loss.realness))
    for result, formula in zip(results, FORMULAS[type(loss)], strict=True):
        # torch's softplus is linear above 20: an error of at most e^-20.
        np.testing.assert_allclose(result.numpy(), formula(real.numpy(), fake.numpy()), atol=5e-9, rtol=1e-12)


def test_the_games_of_2014_are_written_out_in_probabilities(scores):
    real, fake = scores
    p_real, p_fake = (1 / (1 + np.exp(-x.numpy())) for x in (real, fake))
    for loss in (NonSaturating(), Minimax()):
        written_out = -np.log(p_real) - np.log(1 - p_fake)
        np.testing.assert_allclose(loss.critic(terms(real, fake)).numpy(), written_out, rtol=1e-6)
    np.testing.assert_allclose(NonSaturating().generator(terms(fake=fake)).numpy(), -np.log(p_fake), rtol=1e-6)
    np.testing.assert_allclose(Minimax().generator(terms(fake=fake)).numpy(), np.log(1 - p_fake), rtol=1e-6)


def test_losses_are_per_sample_and_commute_with_permutations(loss, scores, generator):
    real, fake = scores
    order = torch.randperm(len(real), generator=generator)
    for phase in (loss.critic, loss.generator, loss.realness):
        value = phase(terms(real, fake))
        assert value.shape == real.shape
        torch.testing.assert_close(phase(terms(real[order], fake[order])), value[order], rtol=1e-12, atol=1e-12)


def test_symmetries_of_non_saturating(scores):
    real, fake = scores
    loss = NonSaturating()
    # Exchanging the roles of real and generated images and the sign of the critic changes nothing.
    torch.testing.assert_close(loss.critic(terms(real, fake)), loss.critic(terms(-fake, -real)))
    # The generator wants its images judged real: the critic's term for real images.
    of_real, of_fake = loss.generator(terms(fake=real)), loss.generator(terms(fake=-fake))
    torch.testing.assert_close(loss.critic(terms(real, fake)), of_real + of_fake)
    torch.testing.assert_close(of_fake - loss.generator(terms(fake=fake)), fake, atol=5e-9, rtol=1e-9)
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(loss.critic(terms(zero, zero))) == pytest.approx(2 * math.log(2))


def test_symmetries_of_relativistic_losses(scores):
    real, fake = scores
    for loss in (Relativistic(), RelativisticAverage()):
        given, raised = terms(real, fake), terms(real + 7, fake + 7)
        # The generator plays the critic's game with the roles exchanged.
        torch.testing.assert_close(loss.generator(given), loss.critic(terms(fake, real)), rtol=1e-12, atol=0)
        # Only differences of scores count.
        torch.testing.assert_close(loss.critic(raised), loss.critic(given), atol=5e-9, rtol=1e-9)
        torch.testing.assert_close(loss.realness(raised), loss.realness(given))
    # Where scores do not vary, both agree.
    same = terms(torch.full((4,), 1.3), torch.full((4,), -0.4))
    for phase in ("critic", "generator"):
        average, pairing = (getattr(loss, phase)(same) for loss in (RelativisticAverage(), Relativistic()))
        torch.testing.assert_close(average, 2 * pairing)


def test_gradients_flow_through_the_means_of_relativistic_average(scores):
    real, fake = (x.requires_grad_() for x in scores)
    for phase in (RelativisticAverage().critic, RelativisticAverage().generator):
        assert torch.autograd.gradcheck(lambda r, f, phase=phase: phase(terms(r, f)), (real, fake))
    # A single real score moves the term of every fake one.
    (by_real,) = torch.autograd.grad(RelativisticAverage().critic(terms(real, fake))[0], real)
    assert (by_real != 0).all()


def test_large_scores_stay_finite_with_finite_gradients(loss):
    for sign in (1, -1):
        real = torch.tensor([sign * 1e4], requires_grad=True)
        fake = torch.tensor([-sign * 1e4], requires_grad=True)
        (loss.critic(terms(real, fake)) + loss.generator(terms(real, fake))).sum().backward()
        for scores in (real, fake):
            assert scores.grad is None or torch.isfinite(scores.grad).all()


def test_the_critic_and_the_generator_pull_apart(loss):
    real, fake = torch.full((1,), 0.4, requires_grad=True), torch.full((1,), 0.3, requires_grad=True)
    by_real, by_fake = torch.autograd.grad(loss.critic(terms(real, fake)).sum(), (real, fake))
    assert by_real < 0 < by_fake  # the critic raises real scores and lowers fake ones
    (by_fake,) = torch.autograd.grad(loss.generator(terms(real, fake)).sum(), fake)
    assert by_fake < 0


def test_the_best_critic_is_the_published_one():
    # Three places x where real images have probability p(x) and samples q(x): minimise the expected loss at each.
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.4, 0.5])
    grid = torch.linspace(-2.5, 2.5, 50001, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    for loss, best in (
        (NonSaturating(), np.log(p / q)),
        (Minimax(), np.log(p / q)),
        (LeastSquares(), p / (p + q)),
        (Hinge(), np.sign(p - q)),
    ):
        of_real = loss.critic(terms(grid, zero)) - loss.critic(terms(zero, zero))
        of_fake = loss.critic(terms(zero, grid)) - loss.critic(terms(zero, zero))
        minimum = [float(grid[(p_x * of_real + q_x * of_fake).argmin()]) for p_x, q_x in zip(p, q, strict=True)]
        np.testing.assert_allclose(minimum, best, atol=2e-4)


def test_minimax_saturates_where_the_critic_wins_and_non_saturating_does_not():
    fake = torch.tensor([-10.0, 0.0, 10.0], dtype=torch.float64, requires_grad=True)
    (saturating,) = torch.autograd.grad(Minimax().generator(terms(fake=fake)).sum(), fake)
    (lively,) = torch.autograd.grad(NonSaturating().generator(terms(fake=fake)).sum(), fake)
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
    sums = [loss.critic(terms(real, f)) + loss.generator(terms(fake=f)) for f in (fake, fake + 3)]
    torch.testing.assert_close(*sums)


def test_hinge_leaves_sure_scores_alone():
    real, fake = torch.tensor([1.5, 0.5], requires_grad=True), torch.tensor([-1.5, -0.5], requires_grad=True)
    by_real, by_fake = torch.autograd.grad(Hinge().critic(terms(real, fake)).sum(), (real, fake))
    assert by_real.tolist() == [0, -1]
    assert by_fake.tolist() == [0, 1]


def test_pixel_comparison_is_its_formula(generator):
    real, fake = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64, generator=generator)
    loss, critic, generated = PixelComparison(), [], []
    for x, g in zip(real.numpy(), fake.numpy(), strict=True):
        critic.append(sum((b**2 - a**2) ** 2 for a, b in zip(x.ravel(), g.ravel(), strict=True)) / 12)
        generated.append(sum((b - a) ** 2 for a, b in zip(x.ravel(), g.ravel(), strict=True)) / 12)
    given = SimpleNamespace(real_images=real, fake_images=fake, real=torch.ones(4))
    np.testing.assert_allclose(loss.critic(given).numpy(), critic, rtol=1e-12)
    np.testing.assert_allclose(loss.generator(given).numpy(), generated, rtol=1e-12)
    assert loss.realness(given).tolist() == [0, 0, 0, 0]


def test_pixel_comparison_is_least_at_the_mean_image(generator):
    images = torch.randn(40, 1, 2, 2, dtype=torch.float64, generator=generator)
    image = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    given = SimpleNamespace(real_images=images, fake_images=image.expand_as(images))
    (slope,) = torch.autograd.grad(PixelComparison().generator(given).mean(), image)
    # A quadratic with slope (0 - mean) * 2 / CHW at 0 and second derivative 2 / CHW is least at the mean.
    torch.testing.assert_close(-slope * 4 / 2, images.mean(0, keepdim=True))


# --- terms ------------------------------------------------------------------------------------------------------------


class Critic(nn.Module):
    """Scores and logits in half precision, which count what is asked for."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(3, 4))
        self.asked = []

    def forward(self, images, labels=None):
        return self.scores_and_logits(images, labels)[0]

    def scores_and_logits(self, images, labels=None):
        self.asked.append(images)
        logits = (images.flatten(1) @ self.rows.T).bfloat16()
        scores = logits.sum(1) if labels is None else logits.gather(1, labels[:, None])[:, 0]
        return scores, logits


def test_terms_ask_the_critic_once_and_for_nothing_that_no_loss_wants():
    real, fake = torch.randn(2, 5, 1, 2, 2)
    asked = {}
    for loss in [*LOSSES, PixelComparison()]:
        critic, generator = Critic(), nn.Linear(1, 1)
        of_critic = CriticTerms(critic, real, fake, None)
        loss.critic(of_critic), loss.critic(of_critic), loss.realness(of_critic)
        both = len(critic.asked)
        of_generator = GeneratorTerms(generator, torch.zeros(5, 1), critic, real, fake, None)
        loss.generator(of_generator), loss.generator(of_generator)
        asked[type(loss)] = both, len(critic.asked) - both
        assert of_critic.network is critic
        assert of_generator.network is generator
    once = dict.fromkeys((NonSaturating, Minimax, LeastSquares, Wasserstein, Hinge), (2, 1))
    # Realness of a comparison of pixels asks for real scores; its losses ask for none.
    assert asked == {**once, Relativistic: (2, 2), RelativisticAverage: (2, 2), PixelComparison: (1, 0)}


def test_terms_are_what_the_critic_says_of_what_it_sees_in_float32():
    critic, labels = Critic(), torch.tensor([0, 2, 1, 1, 0])
    real, fake = torch.randn(2, 5, 1, 2, 2)
    for classify in (False, True):
        terms = CriticTerms(critic, real, fake, labels, see=torch.neg, classify=classify)
        for images, seen, scores, judgement in (
            (real, terms.real_images, terms.real, terms.real_judgement),
            (fake, terms.fake_images, terms.fake, terms.fake_judgement),
        ):
            assert torch.equal(seen, -images)
            expected, logits = critic.scores_and_logits(-images, labels)
            assert scores.dtype == torch.float32
            assert torch.equal(scores, expected.float())
            assert judgement[0] is scores
            assert judgement[1] is None if not classify else torch.equal(judgement[1], logits.float())


def test_a_generators_step_has_no_gradient_by_way_of_real_images():
    critic, real = Critic(), torch.randn(5, 1, 2, 2)
    fake = torch.randn(5, 1, 2, 2, requires_grad=True)
    terms = GeneratorTerms(nn.Identity(), torch.zeros(5, 1), critic, real, fake, None)
    assert not terms.real.requires_grad
    assert terms.fake.requires_grad
    (slope,) = torch.autograd.grad(RelativisticAverage().generator(terms).sum(), fake)
    assert slope.abs().max() > 0
    assert CriticTerms(critic, real, fake, None).real.requires_grad
