"""Noise in place of bins: what a density of reals says of levels."""

import math

import pytest
import torch

from lightning_gen.bijections import Dequantizer, UniformDequantizer
from lightning_gen.core.errors import InputError

LEVELS = torch.arange(6).view(3, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logistic(x: torch.Tensor) -> torch.Tensor:
    """Log density of independent logistic numbers around 2, (B,)."""
    z = x - 2
    return (-z - 2 * torch.nn.functional.softplus(-z)).sum(1)


def test_noise_fills_the_bin_and_has_its_moments():
    noise, log_q = UniformDequantizer().draw(LEVELS.repeat(20_000, 1), generator())
    assert noise.dtype == torch.float64
    assert noise.shape == (60_000, 2)
    assert float(noise.min()) >= 0
    assert float(noise.max()) < 1
    assert float(noise.mean()) == pytest.approx(UniformDequantizer.mean, abs=0.005)
    assert float(noise.var()) == pytest.approx(UniformDequantizer.variance, abs=0.001)
    assert torch.equal(log_q, torch.zeros(60_000, dtype=torch.float64))


def test_the_bound_rises_to_the_probability_of_the_bins():
    exact = (torch.sigmoid(LEVELS + 1.0 - 2) - torch.sigmoid(LEVELS - 2.0)).log().sum(1)
    means = []
    for noises in (1, 8, 64):
        repeated = LEVELS.repeat(3000, 1)
        bound = UniformDequantizer(noises).log_prob(repeated, logistic, generator())
        means.append(bound.view(3000, 3).mean(0))
    gaps = [float((exact - mean).mean()) for mean in means]
    assert gaps[0] > 4 * gaps[1] > 0
    assert abs(gaps[2]) < 0.1 * gaps[1]


class Slanted(Dequantizer):
    """Noise of density 2u: dense at the upper end of the bin."""

    def draw(self, levels, generator):
        noise = torch.rand(levels.shape, generator=generator, dtype=torch.float64).sqrt()
        return noise, (2 * noise).log().sum(1)


def test_noise_of_another_density_is_weighed_by_it():
    exact = (torch.sigmoid(LEVELS + 1.0 - 2) - torch.sigmoid(LEVELS - 2.0)).log().sum(1)
    bound = Slanted(4000).log_prob(LEVELS, logistic, generator())
    torch.testing.assert_close(bound, exact.double(), rtol=0, atol=0.1)


def test_bounds_repeat_with_their_generator_and_are_differentiable():
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    bound = UniformDequantizer(4)
    first = bound.log_prob(LEVELS, lambda x: logistic(x * scale), generator())
    assert torch.equal(first, bound.log_prob(LEVELS, lambda x: logistic(x * scale), generator()))
    assert not torch.equal(first, bound.log_prob(LEVELS, lambda x: logistic(x * scale), generator(1)))
    assert float(torch.autograd.grad(first.sum(), scale)[0]) != 0
    assert bound.candidates(LEVELS, generator()).shape == (4, 3, 2)
    assert math.isfinite(float(first.sum()))


def test_no_noise_is_refused():
    with pytest.raises(InputError, match=r"UniformDequantizer\.noises must be a positive integer, got 0"):
        UniformDequantizer(0)
