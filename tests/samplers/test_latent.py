"""LatentSampler: moments, the truncated distribution, determinism, validation."""

import numpy as np
import pytest
import scipy.stats
import torch

from lightning_gen.errors import InputError
from lightning_gen.samplers import LatentSampler

CPU = torch.device("cpu")


def draw(sampler: LatentSampler, n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return sampler(n, dim, torch.Generator().manual_seed(seed), CPU)


def test_standard_normal():
    latents = draw(LatentSampler(), 5000, 20)
    assert latents.shape == (5000, 20)
    assert latents.dtype == torch.float32
    values = latents.double().numpy()
    assert scipy.stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    # 100,000 values: five standard errors
    assert abs(values.mean()) < 5 / np.sqrt(1e5)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / 1e5)
    correlation = np.corrcoef(values.T)
    assert np.abs(correlation - np.eye(20)).max() < 5 / np.sqrt(5000)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_is_a_factor(temperature):
    torch.testing.assert_close(
        draw(LatentSampler(temperature), 50, 7), temperature * draw(LatentSampler(), 50, 7), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("truncation", [0.04, 0.5, 1.0, 2.5, 6.0])
def test_truncation_against_scipy(truncation):
    values = draw(LatentSampler(truncation=truncation), 2000, 10).double().numpy().ravel()
    assert np.abs(values).max() <= truncation * (1 + 1e-6)
    reference = scipy.stats.truncnorm(-truncation, truncation)
    assert scipy.stats.kstest(values, reference.cdf).pvalue > 1e-3
    assert values.std() == pytest.approx(reference.std(), rel=0.03)


def test_an_untruncated_normal_fails_the_test_of_the_truncated_one():
    values = draw(LatentSampler(), 2000, 10).numpy().ravel()
    assert scipy.stats.kstest(values, scipy.stats.truncnorm(-2, 2).cdf).pvalue < 1e-3


def test_truncation_comes_before_the_temperature():
    plain = draw(LatentSampler(truncation=1.0), 100, 5)
    torch.testing.assert_close(draw(LatentSampler(0.3, truncation=1.0), 100, 5), 0.3 * plain)


@pytest.mark.parametrize("sampler", [LatentSampler(), LatentSampler(truncation=1.5)], ids=["normal", "truncated"])
def test_the_default_dtype_changes_nothing(sampler):
    expected = draw(sampler, 30, 4)
    torch.set_default_dtype(torch.float64)  # as a Trainer does in training with precision 64-true
    try:
        assert torch.equal(draw(sampler, 30, 4), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("sampler", [LatentSampler(), LatentSampler(truncation=1.5)], ids=["normal", "truncated"])
def test_the_generator_is_the_only_source_of_randomness(sampler):
    state = torch.get_rng_state()
    first, again, other = draw(sampler, 30, 4, seed=1), draw(sampler, 30, 4, seed=1), draw(sampler, 30, 4, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "sampler.temperature must be above 0, got 0"),
        ({"temperature": -1.0}, "sampler.temperature must be above 0, got -1.0"),
        ({"temperature": float("nan")}, "sampler.temperature must be above 0, got nan"),
        ({"truncation": 0}, "sampler.truncation must be above 0, got 0"),
        ({"truncation": -0.5}, "sampler.truncation must be above 0, got -0.5"),
        ({"truncation": float("nan")}, "sampler.truncation must be above 0, got nan"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        LatentSampler(**arguments)
