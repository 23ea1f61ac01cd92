"""Objectives of VAEs: against loops, hand-computed values, and a linear Gaussian model whose p(x) is known."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import distributions as D

from lightning_gen.core.context import TrainingContext
from lightning_gen.core.errors import InputError
from lightning_gen.core.ranks import Ranks
from lightning_gen.distributions import DiagonalPosterior, FlowPosterior, FullPosterior, MixturePrior, StandardNormal
from lightning_gen.objectives import ELBO, IWAE, BetaTCVAE, DReG, InfoVAE, Terms
from lightning_gen.objectives.variational import mean_discrepancy


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BEGINNING = TrainingContext()


class Given(Terms):
    """Terms whose numbers are given; those that are not are computed from them, where they can be."""

    moments = None

    def __init__(self, **given):
        self.given = given
        vars(self).update(given)

    def replace(self, **changes):
        return Given(**{**self.given, **changes})

    def prior_draw(self, context):
        return self.drawn


def random_terms(samples: int = 3, batch: int = 5, dims: int = 2, **given) -> Given:
    """Numbers that stand for no model; closed-form divergences are no estimates of the others."""
    parts = {
        "log_conditional": -20 + normal(samples, batch, seed=1),
        "log_prior": -3 + normal(samples, batch, seed=2),
        "log_posterior": -2 + normal(samples, batch, seed=3),
        "latent": normal(samples, batch, dims, seed=4),
        "kl": normal(batch, dims, seed=5).square(),
    }
    parts["detached_log_posterior"] = parts["log_posterior"]
    return Given(**{**parts, **given})


class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(W z, s^2 I) of three pixels: p(x) and p(z|x) are normal, too."""

    def __init__(self, dims: int = 2, sigma: float = 1.2):
        self.weight = normal(3, dims, seed=11)
        self.sigma = sigma
        self.x = torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64)

    def evidence(self) -> float:
        covariance = self.weight @ self.weight.T + self.sigma**2 * torch.eye(3, dtype=torch.float64)
        return float(D.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(self.x))

    def exact_posterior(self) -> D.MultivariateNormal:
        precision = torch.eye(self.weight.shape[1]) + self.weight.T @ self.weight / self.sigma**2
        mean = torch.linalg.solve(precision, self.weight.T @ self.x / self.sigma**2)
        return D.MultivariateNormal(mean, precision_matrix=precision)

    def expected_conditional(self, theta: torch.Tensor) -> torch.Tensor:
        """E log p(x|z) under a diagonal posterior, in closed form."""
        mean, log_variance = theta.chunk(2, -1)
        squares = (self.x - mean @ self.weight.T).square().sum(-1) + log_variance.exp() @ self.weight.square().sum(0)
        return -0.5 * squares / self.sigma**2 - 1.5 * math.log(2 * math.pi * self.sigma**2)

    def terms(self, theta, noise, posterior=None, weight=None) -> Terms:
        """What a VAE tells an objective; each row of theta is an image of its own."""
        dims = self.weight.shape[1]
        terms = Terms(posterior or DiagonalPosterior(dims), StandardNormal(dims), theta, noise)
        pixels = D.Normal(terms.latent @ (self.weight if weight is None else weight).T, self.sigma)
        terms.log_conditional = pixels.log_prob(self.x).sum(-1)
        return terms


def near_posterior() -> torch.Tensor:
    """An encoder's output that is not far from the posterior, and wider, so that no weight outweighs all others."""
    exact = LinearGaussian().exact_posterior()
    return torch.cat([exact.mean + 0.2, exact.variance.log() + 0.3])[None]


THETA = near_posterior()


# --- ELBO -------------------------------------------------------------------------------------------------------------


def test_the_elbo_is_that_of_a_loop():
    for terms in (random_terms(), random_terms(kl=None)):
        found = ELBO(beta=0.7)(terms, BEGINNING).numpy()
        for b in range(5):
            conditional = np.mean([float(terms.log_conditional[k, b]) for k in range(3)])
            if terms.kl is not None:
                divergence = sum(float(terms.kl[b, d]) for d in range(2))
            else:
                divergence = np.mean([float(terms.log_posterior[k, b] - terms.log_prior[k, b]) for k in range(3)])
            assert found[b] == pytest.approx(-conditional + 0.7 * divergence)


def test_the_elbo_is_the_evidence_less_the_posteriors_error():
    """log p(x) = ELBO + KL(q || p(z|x)), both of them in closed form."""
    model, posterior = LinearGaussian(), FullPosterior(2)
    theta = normal(1, posterior.outputs, seed=21)
    _, factor, _ = posterior._parts(theta)
    q = D.MultivariateNormal(posterior.mean(theta)[0], scale_tril=factor[0])
    expected = model.evidence() - float(D.kl_divergence(q, model.exact_posterior()))
    losses = ELBO()(model.terms(theta.expand(200_000, -1), normal(1, 200_000, 2), posterior), BEGINNING)
    assert float(-losses.mean()) == pytest.approx(expected, abs=4 * float(losses.std()) / math.sqrt(200_000))


def test_reparametrised_gradients_are_those_of_the_closed_form():
    model, rows = LinearGaussian(), 100_000
    exact = THETA.clone().requires_grad_()
    (
        ELBO().beta * DiagonalPosterior(2).kl_from_normal(exact).sum() - model.expected_conditional(exact).sum()
    ).backward()
    theta = THETA.expand(rows, -1).clone().requires_grad_()
    ELBO()(model.terms(theta, normal(1, rows, 2)), BEGINNING).sum().backward()
    error = theta.grad.std(0) / math.sqrt(rows)
    assert bool(((theta.grad.mean(0) - exact.grad[0]).abs() < 4 * error).all())


def test_an_estimated_divergence_has_the_closed_forms_mean():
    model, rows = LinearGaussian(), 100_000
    terms = model.terms(THETA.expand(rows, -1), normal(1, rows, 2))
    closed = float(terms.divergence[0])
    torch.testing.assert_close(terms.divergence, terms.kl.sum(-1))
    estimates = Given(kl=None, log_posterior=terms.log_posterior, log_prior=terms.log_prior).divergence
    error = float(estimates.std()) / math.sqrt(rows)
    assert float(estimates.mean()) == pytest.approx(closed, abs=4 * error)


def test_warmup_raises_the_divergences_weight_in_a_line():
    terms = random_terms()
    base, divergence = -terms.log_conditional.mean(0), terms.kl.sum(-1)
    for seen, share in ((0, 0.0), (250, 0.25), (999, 0.999), (1000, 1.0), (5000, 1.0)):
        found = ELBO(beta=2.0, warmup=1000)(terms, TrainingContext(images_seen=seen))
        torch.testing.assert_close(found, base + 2.0 * share * divergence)
    torch.testing.assert_close(ELBO()(terms, BEGINNING), base + divergence)


def test_free_bits_by_hand(given_ranks):
    kl = torch.tensor([[0.1, 2.0], [0.3, 1.0]], dtype=torch.float64, requires_grad=True)
    terms = random_terms(batch=2, kl=kl, log_conditional=torch.zeros(1, 2).double())
    loss = ELBO(free_bits=0.5)(terms, BEGINNING)
    torch.testing.assert_close(loss.detach(), torch.tensor([2.5, 1.5]).double())  # the first costs 0.5 in any case
    loss.mean().backward()
    torch.testing.assert_close(kl.grad, torch.tensor([[0.0, 0.5], [0.0, 0.5]]).double())
    # Below or above is asked of all ranks' images together.
    ranks = given_ranks(0, 2, lambda mean: mean + torch.tensor([1.0, -1.2]))
    found = ELBO(free_bits=0.5)(terms, TrainingContext(ranks=ranks)).detach()
    torch.testing.assert_close(found, torch.tensor([0.6, 0.8]).double())


def test_free_bits_of_an_estimated_divergence_are_of_all_dimensions_together():
    given = {"log_posterior": torch.tensor([[1.0, 2.0]]), "log_prior": torch.zeros(1, 2)}
    terms = random_terms(batch=2, kl=None, log_conditional=torch.zeros(1, 2), **given)
    torch.testing.assert_close(ELBO(free_bits=1.4)(terms, BEGINNING), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(ELBO(free_bits=1.6)(terms, BEGINNING), torch.tensor([1.6, 1.6]))


def test_capacity_by_hand():
    kl = torch.tensor([[1.0, 2.0], [5.0, 6.0]], dtype=torch.float64)
    terms = random_terms(batch=2, kl=kl, log_conditional=torch.zeros(1, 2).double())
    objective = ELBO(beta=10.0, capacity=8.0, capacity_images=100)
    for seen, expected in ((0, [30.0, 110.0]), (50, [10.0, 70.0]), (100, [50.0, 30.0]), (900, [50.0, 30.0])):
        found = objective(terms, TrainingContext(images_seen=seen))
        torch.testing.assert_close(found, torch.tensor(expected).double())
    torch.testing.assert_close(ELBO(capacity=4.0)(terms, BEGINNING), torch.tensor([1.0, 7.0]).double())


# --- beta-TCVAE -------------------------------------------------------------------------------------------------------


OF_1000 = TrainingContext(num_images=1000)


def coded(batch: int = 6, dims: int = 3) -> Terms:
    """Latents of a diagonal posterior."""
    theta = torch.cat([normal(batch, dims, seed=31), normal(batch, dims, seed=32)], -1)
    terms = Terms(DiagonalPosterior(dims), StandardNormal(dims), theta, normal(1, batch, dims, seed=33))
    terms.log_conditional = -20 + normal(1, batch, seed=34)
    return terms


def test_the_parts_of_the_divergence_add_up_to_the_elbo():
    terms = coded()
    one = BetaTCVAE(alpha=1, beta=1, gamma=1)(terms, OF_1000)
    torch.testing.assert_close(one, -terms.log_weights[0])


def test_the_parts_are_those_of_a_loop():
    terms = coded()
    z, (mean, log_variance) = terms.latent[0].numpy(), (part.numpy() for part in terms.moments)
    n, dims = z.shape
    log_q = np.empty((n, n, dims))  # of the i-th latent under the j-th image
    for i in range(n):
        for j in range(n):
            for d in range(dims):
                variance = math.exp(log_variance[j, d])
                log_q[i, j, d] = -0.5 * ((z[i, d] - mean[j, d]) ** 2 / variance + math.log(2 * math.pi * variance))
    parts = np.empty((n, 3))
    for i in range(n):
        aggregate = logsumexp([log_q[i, j].sum() for j in range(n)]) - math.log(n * 1000)
        product = sum(logsumexp(log_q[i, :, d]) - math.log(n * 1000) for d in range(dims))
        parts[i] = log_q[i, i].sum() - aggregate, aggregate - product, product - float(terms.log_prior[0, i])
    context = TrainingContext(num_images=1000, images_seen=100)
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.3, 6.0, 1.7)):
        found = BetaTCVAE(*weights, warmup=400)(terms, context)
        expected = -terms.log_conditional[0].numpy() + 0.25 * parts @ np.array(weights)
        np.testing.assert_allclose(found.numpy(), expected)


def test_total_correlation_sees_dimensions_that_say_the_same():
    """Two dimensions with one signal, against two with a signal each."""
    signals, zero = normal(400, 2, seed=41), torch.full((400, 2), -3.0).double()
    alone = BetaTCVAE(alpha=0, beta=1, gamma=0)
    values = {}
    for name, mean in (("same", signals[:, :1].expand(-1, 2)), ("apart", signals)):
        theta = torch.cat([mean, zero], -1)
        terms = Terms(DiagonalPosterior(2), StandardNormal(2), theta, normal(1, 400, 2, seed=42))
        terms.log_conditional = torch.zeros(1, 400).double()
        values[name] = float(alone(terms, BEGINNING).mean())
    assert values["same"] > values["apart"] + 1


# --- InfoVAE ----------------------------------------------------------------------------------------------------------


def test_the_discrepancy_is_that_of_a_loop():
    x, y = normal(5, 2, seed=51), normal(4, 2, seed=52)

    def kernel(a, b):
        square = sum((float(a[d]) - float(b[d])) ** 2 for d in range(2))
        return sum(2 * 2 * s / (2 * 2 * s + square) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))  # C / (C + |a - b|^2)

    within_x = sum(kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_y = sum(kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    across = sum(kernel(a, b) for a in x for b in y) / 20
    assert float(mean_discrepancy(x, y)) == pytest.approx(within_x + within_y - 2 * across)


def test_the_discrepancy_is_unbiased_and_tells_distributions_apart():
    draws = normal(500, 2, 8, 3, seed=53)
    equal = torch.stack([mean_discrepancy(x, y) for x, y in draws])
    assert float(equal.mean().abs()) < 4 * float(equal.std()) / math.sqrt(500)
    assert bool((equal < 0).any())
    shifted = torch.stack([mean_discrepancy(x + 1, y) for x, y in draws])
    assert float(shifted.mean()) > 20 * float(shifted.std()) / math.sqrt(500)


def test_info_vae_weighs_its_two_divergences():
    terms = random_terms(samples=1, drawn=normal(5, 2, seed=54))
    torch.testing.assert_close(InfoVAE(alpha=0, scale=1)(terms, BEGINNING), ELBO()(terms, BEGINNING))
    discrepancy = mean_discrepancy(terms.latent[0], terms.drawn)
    for alpha, scale in ((1.0, 10.0), (0.5, 100.0), (-0.5, 2.0)):
        cost = (1 - alpha) * terms.kl.sum(-1) + (alpha + scale - 1) * discrepancy
        found = InfoVAE(alpha, scale, warmup=60)(terms, TrainingContext(images_seen=30))
        torch.testing.assert_close(found, -terms.log_conditional[0] + 0.5 * cost)


# --- importance weights -----------------------------------------------------------------------------------------------


def test_iwae_is_that_of_a_loop_and_the_elbo_at_one_sample():
    terms = random_terms()
    found = IWAE(samples=3)(terms, BEGINNING).numpy()
    for b in range(5):
        weights = [
            float(terms.log_conditional[k, b] + terms.log_prior[k, b] - terms.log_posterior[k, b]) for k in range(3)
        ]
        assert found[b] == pytest.approx(-math.log(np.mean(np.exp(weights))))
    single = random_terms(samples=1, kl=None)
    torch.testing.assert_close(IWAE(samples=1)(single, BEGINNING), ELBO()(single, BEGINNING))
    torch.testing.assert_close(DReG(samples=3)(terms, BEGINNING), IWAE(samples=3)(terms, BEGINNING))


def test_the_bound_rises_with_samples_to_the_evidence():
    model, total = LinearGaussian(), 2**18
    noise = normal(total, 1, 2, seed=61)
    bounds = []
    for samples in (1, 2, 4, 16, 64, 1024, 2**14):
        objective = IWAE(samples)
        grouped = noise.view(total // samples, samples, 2).transpose(0, 1)
        losses = objective(model.terms(THETA.expand(total // samples, -1), grouped), BEGINNING)
        bounds.append(float(-losses.mean()))
    # Of one pool of draws this holds to the last digit, by Jensen's inequality.
    assert bounds == sorted(bounds)
    assert bounds[0] < model.evidence() - 0.05
    assert bounds[-1] == pytest.approx(model.evidence(), abs=0.005)


def gradients(objective, rows: int, samples: int, seed: int = 71) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients by the encoder's output, one for each row of draws, and by the decoder's weights, of their sum."""
    model = LinearGaussian()
    theta, weight = THETA.expand(rows, -1).clone().requires_grad_(), model.weight.clone().requires_grad_()
    terms = model.terms(theta, normal(samples, rows, 2, seed=seed), weight=weight)
    objective(terms, BEGINNING).sum().backward()
    return theta.grad, weight.grad


def test_dreg_has_iwaes_decoder_gradient_and_its_encoder_gradient_in_the_mean():
    rows = 40_000
    for samples in (1, 2, 8):
        plain, doubly = gradients(IWAE(samples), rows, samples), gradients(DReG(samples), rows, samples)
        torch.testing.assert_close(doubly[1], plain[1])
        difference = doubly[0] - plain[0]
        assert float(difference.abs().max()) > 1e-3
        assert bool((difference.mean(0).abs() < 4 * difference.std(0) / math.sqrt(rows)).all())


def test_dregs_signal_does_not_vanish_in_its_noise():
    """Its encoder gradients vary less at equal K, and relative to their mean ever less as K grows; IWAE's ever more."""
    quality = {}
    for cls in (IWAE, DReG):
        for samples in (2, 8, 64):
            gradient = gradients(cls(samples), 8000, samples)[0]
            quality[cls, samples] = gradient.mean(0).norm() / gradient.std(0).norm(), gradient.var(0).sum()
    for samples in (2, 8, 64):
        assert quality[DReG, samples][1] < quality[IWAE, samples][1]
    assert quality[DReG, 64][0] > 1.2 * quality[DReG, 2][0]
    assert quality[IWAE, 64][0] < 0.8 * quality[IWAE, 2][0]


def test_dreg_of_one_sample_is_sticking_the_landing():
    model, noise = LinearGaussian(), normal(1, 50, 2, seed=81)
    theta = THETA.expand(50, -1).clone().requires_grad_()
    mean, log_variance = theta.chunk(2, -1)
    latent = mean + (0.5 * log_variance).exp() * noise[0]
    q = D.Normal(mean.detach(), (0.5 * log_variance).exp().detach())
    joint = D.Normal(latent @ model.weight.T, model.sigma).log_prob(model.x).sum(-1) + D.Normal(0.0, 1.0).log_prob(
        latent
    ).sum(-1)
    (expected,) = torch.autograd.grad(-(joint - q.log_prob(latent).sum(-1)).sum(), theta)
    torch.testing.assert_close(gradients(DReG(1), 50, 1, seed=81)[0], expected)


def test_sticking_the_landing_has_no_noise_at_the_posterior():
    model = LinearGaussian()
    posterior, exact = FullPosterior(2), model.exact_posterior()
    factor = exact.scale_tril
    theta = torch.cat([exact.mean, 2 * factor.diagonal().log(), factor[1, :1]])[None].repeat(20, 1).requires_grad_()
    for objective, quiet in ((DReG(1), True), (DReG(4), True), (IWAE(1), False)):
        terms = model.terms(theta, normal(objective.samples, 20, 2), posterior)
        (gradient,) = torch.autograd.grad(objective(terms, BEGINNING).sum(), theta)
        assert (float(gradient.abs().max()) < 1e-9) is quiet


# --- terms ------------------------------------------------------------------------------------------------------------


def test_terms_are_those_of_the_posterior_and_the_prior():
    theta, noise = normal(5, 6, seed=31), normal(4, 5, 3, seed=33)
    posterior = DiagonalPosterior(3)
    q = D.Normal(theta[:, :3], (0.5 * theta[:, 3:]).exp())
    standard = Terms(posterior, StandardNormal(3), theta, noise)
    torch.testing.assert_close(standard.latent, q.mean + q.stddev * noise)
    torch.testing.assert_close(standard.log_posterior, q.log_prob(standard.latent).sum(-1))
    torch.testing.assert_close(standard.log_prior, D.Normal(0.0, 1.0).log_prob(standard.latent).sum(-1))
    torch.testing.assert_close(standard.kl, D.kl_divergence(q, D.Normal(torch.zeros(3).double(), 1.0)))
    torch.testing.assert_close(standard.divergence, standard.kl.sum(-1))
    torch.testing.assert_close(torch.cat(standard.moments, 1), theta)
    standard.log_conditional = normal(4, 5, seed=35)
    expected = standard.log_conditional + standard.log_prior - standard.log_posterior
    torch.testing.assert_close(standard.log_weights, expected)
    # Another prior has no closed form.
    mixture = Terms(posterior, MixturePrior(3).double(), theta, noise)
    assert mixture.kl is None
    torch.testing.assert_close(mixture.divergence, (mixture.log_posterior - mixture.log_prior).mean(0))


def test_the_detached_density_has_a_gradient_by_latents_alone():
    theta, noise = normal(5, 6, seed=31).requires_grad_(), normal(4, 5, 3, seed=33)
    terms = Terms(DiagonalPosterior(3), StandardNormal(3), theta, noise)
    torch.testing.assert_close(terms.detached_log_posterior, terms.log_posterior)
    (found,) = torch.autograd.grad(terms.detached_log_posterior.sum(), theta)
    latent = terms.latent.detach().requires_grad_()
    density = terms.posterior.log_prob(theta.detach(), latent).sum()
    (by_latent,) = torch.autograd.grad(density, latent)
    (expected,) = torch.autograd.grad((terms.posterior.draw(theta, noise)[0] * by_latent).sum(), theta)
    torch.testing.assert_close(found, expected)


def test_a_term_that_nobody_asks_for_is_not_computed():
    class Prior(StandardNormal):
        def log_prob(self, latent):
            raise AssertionError("an ELBO in closed form needs no density")

    class Posterior(DiagonalPosterior):
        def kl_from_normal(self, theta):
            raise AssertionError("importance weights need no divergence")

    for objective, posterior, prior in (
        (ELBO(), DiagonalPosterior(3), Prior(3)),
        (InfoVAE(), DiagonalPosterior(3), Prior(3)),
        (IWAE(2), Posterior(3), StandardNormal(3)),
        (DReG(2), Posterior(3), StandardNormal(3)),
        (BetaTCVAE(), Posterior(3), StandardNormal(3)),
    ):
        terms = Terms(posterior, prior, normal(5, 6), normal(objective.samples, 5, 3))
        terms.log_conditional = normal(objective.samples, 5)
        assert torch.isfinite(objective(terms, BEGINNING)).all()


def test_latents_of_the_prior_are_this_ranks_of_those_of_the_global_batch():
    theta, noise = normal(6, 6), normal(1, 6, 3)
    posterior, prior = DiagonalPosterior(3), MixturePrior(3).double()
    whole = Terms(posterior, prior, theta, noise).prior_draw(TrainingContext(seed=3, images_seen=64))
    assert whole.shape == (6, 3)
    assert whole.dtype == torch.float64
    assert not whole.requires_grad
    for rank in range(3):
        context = TrainingContext(seed=3, images_seen=64, ranks=Ranks(rank, 3))
        rows = context.ranks.rows(2)
        own = Terms(posterior, prior, theta[rows], noise[:, rows]).prior_draw(context)
        assert torch.equal(own, whole[rows])
    later = Terms(posterior, prior, theta, noise).prior_draw(TrainingContext(seed=3, images_seen=128))
    assert not torch.equal(later, whole)


def test_objectives_name_the_posterior_that_they_cannot_use():
    theta, noise = normal(4, FlowPosterior(3).outputs), normal(1, 4, 3)
    terms = Terms(FlowPosterior(3).double(), StandardNormal(3), theta, noise)
    terms.log_conditional = torch.zeros(1, 4).double()
    with pytest.raises(InputError, match="it needs a DiagonalPosterior, not a FlowPosterior"):
        BetaTCVAE()(terms, BEGINNING)
    with pytest.raises(InputError, match="needs the density of given latents in one pass, which FlowPosterior has not"):
        DReG(1)(terms, BEGINNING)


# --- all of them ------------------------------------------------------------------------------------------------------


def test_losses_are_of_each_image():
    """Constants of one image's likelihood change its own loss alone, by as much."""
    more = torch.arange(6, dtype=torch.float64)
    for objective in (ELBO(), ELBO(free_bits=0.1), BetaTCVAE(), InfoVAE(), IWAE(3), DReG(3)):
        noise = normal(objective.samples, 6, 3, seed=33)
        losses = []
        for added in (0, more):
            terms = Terms(DiagonalPosterior(3), StandardNormal(3), normal(6, 6, seed=31), noise)
            terms.log_conditional = -20 + normal(objective.samples, 6, seed=34) + added
            losses.append(objective(terms, OF_1000))
        torch.testing.assert_close(losses[1], losses[0] - more)


def test_numbers_out_of_range_are_refused():
    of_weights = r"InfoVAE: alpha must be at most 1, and alpha \+ scale at least 1, got"
    for make, message in (
        (partial(ELBO, beta=-1), "ELBO.beta must be at least 0, got -1"),
        (partial(ELBO, beta=math.nan), "ELBO.beta must be at least 0, got nan"),
        (partial(ELBO, beta=math.inf), "ELBO.beta must be at least 0 and finite, got inf"),
        (partial(ELBO, free_bits=-0.1), r"ELBO.free_bits must be at least 0, got -0\.1"),
        (partial(ELBO, capacity=-5.0), r"ELBO.capacity must be at least 0, got -5\.0"),
        (partial(ELBO, capacity=math.nan), "ELBO.capacity must be at least 0, got nan"),
        (partial(ELBO, capacity=5.0, capacity_images=-1), "ELBO.capacity_images must be at least 0, got -1"),
        (partial(ELBO, capacity=5.0, free_bits=0.5), "capacity and free_bits contradict each other"),
        (partial(ELBO, samples=0), "ELBO.samples must be at least 1, got 0"),
        (partial(ELBO, warmup=-1), "ELBO.warmup must be at least 0, got -1"),
        (partial(BetaTCVAE, beta=-6), "BetaTCVAE.beta must be at least 0, got -6"),
        (partial(BetaTCVAE, warmup=-6), "BetaTCVAE.warmup must be at least 0, got -6"),
        (partial(InfoVAE, alpha=1.5), f"{of_weights} 1.5 and 100.0"),
        (partial(InfoVAE, alpha=0, scale=0.5), f"{of_weights} 0 and 0.5"),
        (partial(InfoVAE, scale=math.inf), of_weights),
        (partial(InfoVAE, alpha=math.nan), of_weights),
        (partial(IWAE, samples=0), "IWAE.samples must be at least 1, got 0"),
        (partial(DReG, samples=0), "DReG.samples must be at least 1, got 0"),
        (partial(mean_discrepancy, torch.zeros(1, 2), torch.zeros(5, 2)), "give data.batch_size at least 2"),
    ):
        with pytest.raises(InputError, match=message):
            make()
