"""Annealed importance sampling against closed forms: linear Gaussian decoders, known targets, brute force."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.samplers import AnnealedImportanceSampling, LatentTarget, importance_sampling
from lightning_gen.samplers.ais import Annealed, State, hamiltonian_transition, temperatures
from lightning_gen.samplers.decoders import GaussianDecoder


def normal_nats(x, mean, sigma):
    return (-0.5 * ((x - mean) / sigma).square() - math.log(sigma) - 0.5 * math.log(2 * math.pi)).sum(-1)


class Linear:
    """x = W z + b + sigma e: log p(x) is known, and the posterior is narrow and correlated."""

    def __init__(self, latent_dim=3, dims=6, n=5, sigma=0.4, seed=0):
        source = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=source, dtype=torch.float64)  # noqa: E731
        self.weight, self.bias, self.sigma = draw(dims, latent_dim), draw(dims), sigma
        self.latent = draw(n, latent_dim)
        self.x = self.latent @ self.weight.T + self.bias + sigma * draw(n, dims)
        cov = self.weight @ self.weight.T + sigma**2 * torch.eye(dims)
        self.log_p = MultivariateNormal(self.bias, cov).log_prob(self.x)
        self.target = LatentTarget(
            lambda n, g: torch.randn(n, latent_dim, generator=g, dtype=torch.float64),
            lambda z: normal_nats(z, 0.0, 1.0),
            lambda z: normal_nats(self.x, z @ self.weight.T + self.bias, sigma),
            n,
        )

    def posterior(self):
        precision = torch.eye(self.weight.shape[1]) + self.weight.T @ self.weight / self.sigma**2
        mean = torch.linalg.solve(precision, self.weight.T @ (self.x - self.bias).T / self.sigma**2).T
        return mean, torch.linalg.inv(precision)


def test_both_bounds_of_a_linear_gaussian_decoder_meet_its_log_likelihood(generator):
    model = Linear()
    cov = model.posterior()[1]
    assert cov.diagonal().sqrt().max() < 0.4  # not the prior,
    assert (cov / cov.diagonal().outer(cov.diagonal()).sqrt()).tril(-1).abs().max() > 0.3  # and not isotropic
    method = AnnealedImportanceSampling(steps=300, chains=500, leapfrog=4)
    step_sizes = method.tune(model.target, generator)
    forward = method.forward(model.target, step_sizes, generator)
    reverse = method.reverse(model.target, step_sizes, model.latent, generator)
    assert (forward.bound - model.log_p).abs().max() < 0.1
    assert (reverse.bound - model.log_p).abs().max() < 0.1
    assert (reverse.bound - forward.bound).abs().mean() < 0.2
    assert 0.5 < forward.acceptance.min() <= forward.acceptance.max() < 0.8
    assert forward.effective_sample_size.min() > 100


def test_the_gap_shrinks_as_steps_grow(generator):
    model = Linear(n=8)
    gaps = []
    for steps in (10, 40, 160):
        method = AnnealedImportanceSampling(steps, chains=32, leapfrog=5)
        step_sizes = method.tune(model.target, generator)
        lower = method.forward(model.target, step_sizes, generator).bound
        gaps.append(float((method.reverse(model.target, step_sizes, model.latent, generator).bound - lower).mean()))
    assert gaps[0] > 1.5 * gaps[1]
    assert gaps[1] > 3 * gaps[2]


def test_weights_are_unbiased_at_any_number_of_steps(generator):
    # E w = p(x) holds exactly, with however bad transitions: here 3 temperatures.
    model = Linear(latent_dim=1, dims=2, n=2, sigma=1.5)
    method = AnnealedImportanceSampling(3, chains=20_000, leapfrog=2)
    step_sizes = torch.full((2, 2), 1.2, dtype=torch.float64)
    weights = (method.forward(model.target, step_sizes, generator).log_weights - model.log_p).exp()
    deviation = weights.std(0) / math.sqrt(len(weights))
    assert ((weights.mean(0) - 1).abs() < 4 * deviation).all()
    assert deviation.max() < 0.05
    mean, cov = model.posterior()
    exact = mean + cov.sqrt() * torch.randn(20_000, 2, 1, generator=generator, dtype=torch.float64)
    state = State.at(model.target, exact)
    inverse = (model.log_p - method._anneal(model.target, state, step_sizes, generator, True).log_weights).exp()
    deviation = inverse.std(0) / math.sqrt(len(inverse))
    assert ((inverse.mean(0) - 1).abs() < 4 * deviation).all()
    assert deviation.max() < 0.05


def test_no_variance_where_the_posterior_is_the_prior(generator):
    target = LatentTarget(
        lambda n, g: torch.randn(n, 4, generator=g),
        lambda z: normal_nats(z, 0.0, 1.0),
        lambda z: torch.tensor([-3.0, -70.0, -0.5]).expand(z.shape[:2]),
        3,
    )
    method = AnnealedImportanceSampling(20, chains=4)
    step_sizes = method.tune(target, generator)
    for found in (
        method.forward(target, step_sizes, generator),
        method.reverse(target, step_sizes, torch.zeros(3, 4), generator),
    ):
        torch.testing.assert_close(found.bound, torch.tensor([-3.0, -70.0, -0.5], dtype=torch.float64))
        assert found.log_weights.std(0).max() < 1e-12
        torch.testing.assert_close(found.effective_sample_size, torch.full((3,), 4.0, dtype=torch.float64))


def test_importance_sampling_with_5000_samples_is_close_where_the_prior_reaches(generator):
    model = Linear(latent_dim=2, dims=3, n=6, sigma=1.0, seed=1)
    bound = importance_sampling(model.target, 5_000, generator)
    assert (bound - model.log_p).abs().max() < 0.1
    mean, cov = model.posterior()
    posterior = MultivariateNormal(mean, cov)

    def propose(k, generator):
        latent = (
            mean + torch.randn(k, *mean.shape, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(cov).T
        )
        return latent, posterior.log_prob(latent)

    # With the exact posterior as proposal one sample is enough.
    torch.testing.assert_close(importance_sampling(model.target, 1, generator, propose), model.log_p)
    torch.testing.assert_close(importance_sampling(model.target, 700, generator, propose), model.log_p)
    with pytest.raises(InputError, match="num_samples must be at least 1, got 0"):
        importance_sampling(model.target, 0, generator)


def test_transitions_leave_their_target_invariant(generator):
    # Chains that start at the target stay there: of p(z) p(x|z)^beta, a Gaussian, mean and covariance are known.
    model = Linear(latent_dim=2, dims=3, n=1, sigma=0.8)
    for beta, step in ((0.0, 1.4), (0.3, 0.7), (1.0, 0.35)):
        precision = torch.eye(2) + beta * model.weight.T @ model.weight / 0.64
        mean = torch.linalg.solve(precision, beta * model.weight.T @ (model.x[0] - model.bias) / 0.64)
        cov = torch.linalg.inv(precision)
        noise = torch.randn(20_000, 1, 2, generator=generator, dtype=torch.float64)
        state = State.at(model.target, mean + noise @ torch.linalg.cholesky(cov).T)
        start = state.latent
        for _ in range(5):
            state, rate = hamiltonian_transition(model.target, state, beta, torch.tensor([step]), 3, generator)
        assert 0.4 < rate.mean() < 0.98  # rejections matter here
        found = state.latent[:, 0]
        assert (found - start[:, 0]).norm(dim=1).mean() > 0.3  # and they did move
        deviation = cov.diagonal().sqrt() / math.sqrt(20_000)
        assert ((found.mean(0) - mean).abs() < 4 * deviation).all()
        torch.testing.assert_close(found.T.cov(), cov, rtol=0.05, atol=0.01)


def test_a_proposal_that_is_not_finite_is_rejected(generator):
    target = LatentTarget(
        lambda n, g: torch.randn(n, 1, generator=g), lambda z: (1 - z.abs()).log().sum(-1), lambda z: 0 * z.sum(-1), 1
    )
    state = State.at(target, torch.linspace(-0.9, 0.9, 50).view(50, 1, 1))
    moved, rate = hamiltonian_transition(target, state, 1.0, torch.tensor([3.0]), 1, generator)
    assert torch.isfinite(rate).all()
    assert (moved.latent.abs() < 1).all()
    assert torch.isfinite(moved.prior).all()


def test_step_sizes_follow_each_image_and_temperature(generator):
    model = Linear(n=2)
    tight = LatentTarget(
        model.target.draw_prior,
        model.target.log_prior,
        lambda z: torch.stack([normal_nats(z[:, 0], 0.5, 0.02), normal_nats(z[:, 1], 0.5, 1.0)], 1),
        2,
    )
    step_sizes = AnnealedImportanceSampling(200, chains=4).tune(tight, generator)
    assert step_sizes.shape == (199, 2)
    assert step_sizes[-1, 0] < 0.2 * step_sizes[-1, 1]
    assert step_sizes[-1, 0] < 0.2 * step_sizes[0, 0]


def test_equal_generators_give_equal_bounds():
    model = Linear()
    method = AnnealedImportanceSampling(10, chains=3)

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return method.forward(model.target, method.tune(model.target, generator), generator).bound

    kept = torch.get_rng_state()
    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
    assert torch.equal(torch.get_rng_state(), kept)


def test_bounds_and_effective_sample_size_by_hand():
    weights = torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64)
    forward = Annealed(weights.log(), torch.ones(2), False)
    reverse = Annealed(weights.log(), torch.ones(2), True)
    torch.testing.assert_close(forward.bound.exp(), torch.tensor([2.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(reverse.bound.exp(), torch.tensor([1.5, 2.0], dtype=torch.float64))  # harmonic mean
    torch.testing.assert_close(forward.effective_sample_size, torch.tensor([1.6, 2.0], dtype=torch.float64))


def test_temperatures_rise_from_zero_to_one():
    for schedule in ("sigmoid", "linear"):
        betas = torch.tensor(temperatures(40, schedule), dtype=torch.float64)
        assert (betas[0], betas[-1], len(betas)) == (0, 1, 41)
        steps = betas.diff()
        assert (steps > 0).all()
        torch.testing.assert_close(steps, steps.flip(0))
        if schedule == "linear":
            torch.testing.assert_close(steps, torch.full_like(steps, 1 / 40))
        else:
            assert steps[0] < 0.2 * steps[20]
        assert temperatures(1, schedule) == [0.0, 1.0]


# Gaussian noise around a decoder


def test_noise_of_a_linear_decoder_is_found(generator):
    # 255 levels of 0.008: the discretized likelihood is as good as continuous, and the data were made with noise 0.12.
    spec = ImageSpec(1, 5, 6, levels=256)
    weight = 0.25 * torch.randn(30, 3, generator=generator)
    decoder = GaussianDecoder(spec, 3, lambda z, labels: (z @ weight.T).view(-1, 1, 5, 6), 0.12)
    levels = decoder.draw_levels(decoder.draw_prior(80, generator), None, generator)
    sizes = []

    def decode(latent, labels):
        sizes.append(len(latent))
        return decoder.decode(latent, labels)

    for batch_size, most in ((500, 320), (160, 160)):
        sizes.clear()
        other = GaussianDecoder(spec, 3, decode, 1.0)
        assert other.fit(levels, None, generator, batch_size, rounds=18) == pytest.approx(0.12, rel=0.04)
        assert max(sizes) == most


def test_discrete_images_of_a_decoder_sum_to_one(generator):
    # Of 2 x 1 images of 3 levels there are 9: their log p by long importance sampling, and by annealing.
    spec = ImageSpec(1, 2, 1, levels=3)
    weight = torch.tensor([[0.9], [-0.5]])
    decoder = GaussianDecoder(spec, 1, lambda z, labels: (z @ weight.T).tanh().view(-1, 1, 2, 1), 0.4)
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3)).view(9, 1, 2, 1).byte()
    target = decoder.target(every)
    grid = torch.linspace(-8, 8, 4001).view(-1, 1, 1).expand(-1, 9, 1)
    log_p = (decoder.log_prior(grid) + target.log_conditional(grid)).double().logsumexp(0) + math.log(16 / 4000)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    method = AnnealedImportanceSampling(60, chains=1_000)
    found = method.forward(target, method.tune(target, generator), generator)
    assert (found.bound - log_p).abs().max() < 0.05
    assert (importance_sampling(target, 20_000, generator) - log_p).abs().max() < 0.05


def test_labels_are_those_of_the_images(generator):
    spec = ImageSpec(1, 1, 2, levels=17, num_classes=3)
    shift = torch.tensor([-0.8, 0.0, 0.8])
    decoder = GaussianDecoder(spec, 2, lambda z, labels: (0.01 * z + shift[labels][:, None]).view(-1, 1, 1, 2), 0.1)
    labels = torch.tensor([2, 0, 1, 2])
    levels = decoder.draw_levels(torch.zeros(4, 2), labels, generator)
    nats = decoder.target(levels, labels).log_conditional(torch.zeros(5, 4, 2))
    assert nats.shape == (5, 4)
    assert nats.min() > -20
    wrong = decoder.target(levels, labels.roll(1)).log_conditional(torch.zeros(5, 4, 2))
    assert (wrong[:, 1:] < -20).all()


# What is refused


def test_numbers_out_of_range_are_refused():
    for options, message in (
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"chains": 0}, "chains must be a positive integer, got 0"),
        ({"leapfrog": 0}, "leapfrog must be a positive integer, got 0"),
        ({"acceptance": 1.0}, r"acceptance must be in \(0, 1\), got 1\.0"),
        ({"schedule": "cosine"}, "schedule must be sigmoid or linear, got 'cosine'"),
    ):
        with pytest.raises(InputError, match=message):
            AnnealedImportanceSampling(**options)


def test_weights_that_are_not_finite_are_refused(generator):
    target = LatentTarget(
        lambda n, g: torch.randn(n, 1, generator=g),
        lambda z: normal_nats(z, 0.0, 1.0),
        lambda z: torch.tensor([0.0, float("-inf"), 0.0]).expand(z.shape[:2]),
        3,
    )
    method = AnnealedImportanceSampling(4, chains=2)
    with pytest.raises(InputError, match="weights of 1 of 3 images are not finite"):
        method.forward(target, method.tune(target, generator), generator)
