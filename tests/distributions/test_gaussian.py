"""Gaussian components against scipy, scikit-learn and numbers drawn at random."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture as Sklearn

from lightning_gen.core.errors import InputError
from lightning_gen.distributions import (
    DiagonalGaussianComponents,
    FullGaussianComponents,
    LowRankGaussianComponents,
)
from lightning_gen.distributions.gaussian import GaussianComponents

K, D = 3, 5
KINDS = {
    "full": FullGaussianComponents,
    "diagonal": DiagonalGaussianComponents,
    "low_rank": lambda count, dims, **options: LowRankGaussianComponents(count, dims, rank=2, **options),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def data(n=60, seed=0):
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=source, dtype=torch.float64)
    return x @ torch.randn(D, D, generator=source, dtype=torch.float64) + 3 * torch.arange(D)


def shares_of(n=60, seed=1):
    return torch.rand(n, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(1)


def fitted(kind, **options) -> GaussianComponents:
    parts = KINDS[kind](K, D, **options)
    parts.prepare(data())
    hard = torch.nn.functional.one_hot(torch.arange(60) % K, K).double()
    parts.start(data(), hard)
    for _ in range(3):
        parts.update(parts.statistics(data(), shares_of()))
    return parts


def covariance(parts) -> torch.Tensor:
    if isinstance(parts, FullGaussianComponents):
        return parts.covariance()
    if isinstance(parts, DiagonalGaussianComponents):
        return torch.diag_embed(parts.variance)
    return parts.loading @ parts.loading.transpose(1, 2) + torch.diag_embed(parts.psi)


def test_densities_equal_scipys(kind):
    parts, x = fitted(kind), data(20, 7)
    for k in range(K):
        expected = multivariate_normal(parts.mean[k], covariance(parts)[k]).logpdf(x)
        np.testing.assert_allclose(parts.log_prob(x)[:, k], expected, rtol=1e-9)


def test_training_sees_the_mean_over_the_noise(kind):
    parts, x = fitted(kind, noise_variance=1 / 12), data(4, 7)
    noise = torch.rand(20_000, 4, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    drawn = parts.log_prob((x + noise).view(-1, D)).view(-1, 4, K)
    error = drawn.std(0) / math.sqrt(len(noise))
    assert ((drawn.mean(0) - parts.expected_log_prob(x)).abs() < 5 * error).all()


def test_an_update_is_where_the_penalised_objective_is_largest(kind):
    x, shares = data(), shares_of()
    for noise in (0.0, 0.25):
        parts = fitted(kind, noise_variance=noise, prior_strength=2.0, prior_variance=0.7)
        for _ in range(300 if kind == "low_rank" else 1):  # whose update holds the factors' posterior fixed
            parts.update(parts.statistics(x, shares))
        with torch.enable_grad():
            parameters = dict(parts.named_parameters())
            objective = (shares * parts.expected_log_prob(x)).sum() + parts.log_prior()
            gradients = dict(zip(parameters, torch.autograd.grad(objective, list(parameters.values())), strict=True))
        if "whitening" in gradients:
            gradients["whitening"] = gradients["whitening"].tril()
        largest = max(float(g.abs().max()) for g in gradients.values())
        assert largest < (1e-2 if kind == "low_rank" else 1e-7)


def test_the_prior_counts_as_images_like_all_of_them(kind):
    """Of a component without images of its own only the prior is left, and its mode is a share of the covariance."""
    parts = fitted(kind, noise_variance=0.25, prior_strength=3.0, prior_variance=0.4)
    x = data()
    shares = torch.zeros(60, K).double()
    shares[0] = 1e-6
    parts.update(parts.statistics(x, shares))
    mode = 0.4 * (x.T.cov(correction=0) + 0.25 * torch.eye(D))
    found = torch.diag_embed(parts.psi) if kind == "low_rank" else covariance(parts)
    expected = mode if kind == "full" else mode.diagonal().diag()
    torch.testing.assert_close(found, expected.expand(K, D, D), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("covariance_type", ["full", "diagonal"])
def test_one_step_equals_scikit_learns(covariance_type):
    x, shares = data(), shares_of()
    oracle = Sklearn(K, covariance_type={"full": "full", "diagonal": "diag"}[covariance_type], reg_covar=0.0)
    oracle._initialize(x.numpy(), shares.numpy())
    parts = KINDS[covariance_type](K, D, prior_strength=0.0)
    parts.update(parts.statistics(x, shares))
    np.testing.assert_allclose(parts.mean, oracle.means_, rtol=1e-9)
    expected = oracle.covariances_ if covariance_type == "full" else oracle.covariances_[:, :, None] * np.eye(D)
    np.testing.assert_allclose(covariance(parts), expected, rtol=1e-7, atol=1e-9)
    joint = parts.log_prob(x) + torch.from_numpy(oracle.weights_).log()
    np.testing.assert_allclose(joint.logsumexp(1), oracle.score_samples(x.numpy()), rtol=1e-9)


def test_factor_analysis_of_one_component_equals_scikit_learns():
    from sklearn.decomposition import FactorAnalysis

    x = data(400, 3)
    oracle = FactorAnalysis(2, tol=1e-12, max_iter=5000, svd_method="lapack").fit(x.numpy())
    parts = LowRankGaussianComponents(1, D, rank=2, prior_strength=0.0)
    parts.start(x, torch.ones(400, 1, dtype=torch.float64))
    for _ in range(1500):
        parts.update(parts.statistics(x, torch.ones(400, 1, dtype=torch.float64)))
    assert float(parts.log_prob(x).mean()) == pytest.approx(oracle.score(x.numpy()), rel=1e-5)


def test_statistics_of_parts_add_up_to_those_of_the_whole(kind):
    parts, x, shares = fitted(kind, noise_variance=1 / 12), data(), shares_of()
    whole = parts.statistics(x, shares)
    cuts = [parts.statistics(a, b) for a, b in zip(x.split([1, 0, 24, 35]), shares.split([1, 0, 24, 35]), strict=True)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(cut[name] for cut in cuts), value, rtol=1e-12, atol=1e-10)


def test_known_dimensions_have_the_marginal_density(kind):
    parts, x = fitted(kind), data(6, 7)
    known = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]] * 2).bool()
    out = parts.known_log_prob(x, known)
    for row, mask in enumerate(known.numpy()):
        for k in range(K):
            marginal = multivariate_normal(parts.mean[k][mask], covariance(parts)[k][mask][:, mask])
            assert float(out[row, k]) == pytest.approx(marginal.logpdf(x[row][mask]), rel=1e-9)


def test_nothing_known_has_probability_one(kind):
    parts, x = fitted(kind), data(2)
    torch.testing.assert_close(parts.known_log_prob(x, torch.zeros(2, D).bool()), torch.zeros(2, K).double())


def test_draws_have_the_moments_of_their_component(kind):
    parts = fitted(kind)
    drawn = parts.sample(torch.full((40_000,), 1), torch.Generator().manual_seed(0))
    expected = covariance(parts)[1]
    scale = expected.diagonal().sqrt()
    assert ((drawn.mean(0) - parts.mean[1]) / scale).abs().max() < 0.03
    assert ((drawn.T.cov() - expected) / scale / scale[:, None]).abs().max() < 0.04


def test_completions_have_the_conditional_moments(kind):
    parts, n = fitted(kind), 40_000
    mask = torch.tensor([True, False, True, False, False])
    x = data(1, 9).repeat(n, 1)
    out = parts.complete(x, mask.repeat(n, 1), torch.full((n,), 2), torch.Generator().manual_seed(0))
    assert torch.equal(out[:, mask], x[:, mask])
    sigma = covariance(parts)[2]
    gain = sigma[~mask][:, mask] @ torch.linalg.inv(sigma[mask][:, mask])
    mean = parts.mean[2][~mask] + gain @ (x[0] - parts.mean[2])[mask]
    expected = sigma[~mask][:, ~mask] - gain @ sigma[mask][:, ~mask]
    scale = expected.diagonal().sqrt()
    assert ((out[:, ~mask].mean(0) - mean) / scale).abs().max() < 0.03
    assert ((out[:, ~mask].T.cov() - expected) / scale / scale[:, None]).abs().max() < 0.04


def test_an_empty_component_keeps_its_parameters(kind):
    parts = fitted(kind)
    before = covariance(parts)[1].clone(), parts.mean[1].clone()
    shares = shares_of() * torch.tensor([1, 0, 1])
    parts.update(parts.statistics(data(), shares))
    torch.testing.assert_close((covariance(parts)[1], parts.mean[1]), before)


def test_a_singular_covariance_is_refused():
    parts = FullGaussianComponents(1, D, prior_strength=0.0)
    x = data(2)
    with pytest.raises(InputError, match="component 0 is singular: raise prior_strength"):
        parts.update(parts.statistics(x, torch.ones(2, 1, dtype=torch.float64)))


def test_numbers_out_of_range_are_refused():
    for make in KINDS.values():
        for name, values in {
            "prior_strength": (-1.0, math.nan, math.inf),
            "prior_variance": (0.0, math.nan, math.inf),
            "noise_variance": (-1, math.nan, math.inf),
        }.items():
            for value in values:
                with pytest.raises(InputError, match=f"{name} must be .*got {value}"):
                    make(K, D, **{name: value})
    for rank in (0, D):
        with pytest.raises(InputError, match=rf"rank must be 1 \.\. 4 for 5 dimensions, got {rank}"):
            LowRankGaussianComponents(K, D, rank=rank)
    for count, dims in ((0, 3), (3, 0)):
        with pytest.raises(InputError, match=f"must be at least 1, got {min(count, dims)}"):
            FullGaussianComponents(count, dims)


def test_covariances_that_do_not_fit_memory_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"need 18\.0 GiB, and 2 are allowed: take covariance low_rank or diagonal"):
        FullGaussianComponents(1, 49_152)
    for make in (KINDS["low_rank"], DiagonalGaussianComponents):  # which keep nothing of that size
        parts = make(1, 49_152)
        parts.prepare(torch.zeros(2, 49_152, dtype=torch.float64))
        assert parts.prior.shape == (49_152,)
