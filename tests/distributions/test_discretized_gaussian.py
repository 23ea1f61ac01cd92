"""The discretized Gaussian: probabilities of levels by scipy, sums to 1, tails, gradients, draws."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import norm

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.distributions.discretized_gaussian import DiscretizedGaussian, LogGaussianMass
from lightning_gen.metrics import bits_per_dimension


def test_probabilities_are_differences_of_the_normal_cdf_and_sum_to_one():
    for levels, sigma in itertools.product((2, 17, 256), (0.02, 0.3, 5.0)):
        means = torch.linspace(-1.5, 1.5, 13, dtype=torch.float64)
        found = DiscretizedGaussian(ImageSpec(1, 1, 1, levels), sigma).log_prob(torch.arange(levels)[:, None], means)
        torch.testing.assert_close(found.exp().sum(0), torch.ones(13, dtype=torch.float64), rtol=0, atol=1e-12)
        ends = (2 * np.arange(levels - 1) + 1) / (levels - 1) - 1  # between neighbouring levels
        ends = np.concatenate([[-np.inf], ends, [np.inf]])
        expected = np.diff(norm.cdf((ends[:, None] - means.numpy()) / sigma), axis=0)
        np.testing.assert_allclose(found.exp().numpy(), expected, rtol=1e-9, atol=1e-14)


def test_tails_are_exact_where_probabilities_underflow():
    for dtype, error in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        a = torch.tensor([-60.0, -60.0, 59.5, 5.0, -0.5, -1e4], dtype=dtype, requires_grad=True)
        b = torch.tensor([-59.5, 70.0, 60.0, 5.001, 0.5, -9999.0], dtype=dtype, requires_grad=True)
        found = LogGaussianMass.apply(a, b)
        x, y = a.detach().double().numpy(), b.detach().double().numpy()
        flip = x + y > 0
        low, high = np.where(flip, -y, x), np.where(flip, -x, y)
        expected = norm.logcdf(high) + np.log1p(-np.exp(norm.logcdf(low) - norm.logcdf(high)))
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=error)
        found.sum().backward()
        assert torch.isfinite(a.grad).all()
        assert torch.isfinite(b.grad).all()


def test_gradients_are_those_of_finite_differences(generator):
    spec = ImageSpec(1, 1, 5, levels=17)
    mean = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    levels = torch.tensor([0, 3, 16, 8, 9])
    assert torch.autograd.gradcheck(lambda m, s: DiscretizedGaussian(spec, s).log_prob(levels, m), (mean, sigma))


def test_draws_have_these_probabilities(generator):
    noise = DiscretizedGaussian(ImageSpec(1, 1, 1, levels=9), 0.4)
    mean = torch.full((50_000,), 0.35)
    counts = torch.bincount(noise.sample(mean, generator).long(), minlength=9) / 50_000
    expected = noise.log_prob(torch.arange(9), mean[:1]).exp()
    deviation = (expected * (1 - expected) / 50_000).sqrt()
    assert ((counts - expected).abs() < 4 * deviation + 1e-4).all()


def test_images_of_a_known_gaussian_have_their_analytic_bits():
    # -log p over all levels of each pixel, weighted with p, against scipy's entropy of the same 17 probabilities.
    spec = ImageSpec(1, 2, 2, levels=17)
    mean, sigma = torch.tensor([-0.8, 0.0, 0.3, 2.0], dtype=torch.float64).view(1, 2, 2), 0.25
    noise = DiscretizedGaussian(spec, sigma)
    levels = torch.arange(17).view(-1, 1, 1, 1).expand(17, 1, 2, 2)
    log_probs = noise.log_prob(levels, mean)
    nats = (log_probs.exp() * log_probs).sum((0, 1, 2, 3))
    ends = np.concatenate([[-np.inf], (2 * np.arange(16) + 1) / 16 - 1, [np.inf]])
    probs = np.diff(norm.cdf((ends[:, None] - mean.numpy().ravel()) / sigma), axis=0)
    bits = -(probs * np.log2(np.clip(probs, 1e-300, None))).sum() / 4
    assert float(bits_per_dimension(nats, spec)) == pytest.approx(bits, abs=1e-6)


def test_noise_that_is_no_noise_is_refused():
    for sigma in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"sigma must be a finite number above 0, got {sigma}"):
            DiscretizedGaussian(ImageSpec(1, 2, 2), sigma)


def test_levels_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"levels must be 0 \.\. 16, got 3 \.\. 17"):
        DiscretizedGaussian(ImageSpec(1, 1, 2, levels=17), 0.1).log_prob(torch.tensor([3, 17]), torch.zeros(2))
