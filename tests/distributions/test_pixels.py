"""Pixel likelihoods: each is a distribution over the levels, its samples follow it, and its tails stay finite."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.distributions import (
    BernoulliPixels,
    CategoricalPixels,
    DiscretizedGaussian,
    GaussianPixels,
    LogisticPixels,
)

KINDS = {
    "bernoulli": (BernoulliPixels, {}, 2),
    "categorical": (CategoricalPixels, {}, 4),
    "gaussian": (GaussianPixels, {}, 5),
    "gaussian-shared": (GaussianPixels, {"scale": "shared"}, 5),
    "logistic": (LogisticPixels, {"components": 1}, 5),
    "logistic-mixture": (LogisticPixels, {"components": 3}, 4),
    "logistic-binary": (LogisticPixels, {"components": 2}, 2),
}


def make(kind: str, channels: int = 2, height: int = 1, width: int = 2):
    cls, options, levels = KINDS[kind]
    return cls(ImageSpec(channels, height, width, levels), **options)


def random_theta(pixels, n: int = 1, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = n, pixels.out_channels, pixels.spec.height, pixels.spec.width
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def draw(pixels, theta: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    noise = pixels.noise(n, torch.Generator().manual_seed(seed))
    return pixels.sample(theta.detach().expand(n, -1, -1, -1), noise)


def every_image(spec: ImageSpec) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(spec.levels), repeat=spec.dims)), dtype=torch.uint8).view(
        -1, *spec.shape
    )


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_images_sum_to_one(kind):
    pixels = make(kind)
    images = every_image(pixels.spec)
    for scale in (1.0, 4.0):
        theta = random_theta(pixels, scale=scale).expand(len(images), -1, -1, -1)
        nats = pixels.log_prob(images, theta)
        assert float(nats.exp().sum().detach()) == pytest.approx(1.0, abs=1e-12)
        places = pixels.log_prob_map(images, theta)
        assert places.shape == (len(images), 1, 2)
        torch.testing.assert_close(places.sum((1, 2)), nats)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_probabilities(kind):
    pixels = make(kind, width=1)
    images = every_image(pixels.spec)
    theta = random_theta(pixels, seed=1)
    expected = pixels.log_prob(images, theta.expand(len(images), -1, -1, -1)).exp().detach().numpy()
    n = 40_000
    drawn = draw(pixels, theta, n, seed=2)
    assert drawn.dtype == torch.uint8
    codes = (drawn.flatten(1).long() * torch.tensor([pixels.spec.levels, 1])).sum(1)
    counts = np.bincount(codes.numpy(), minlength=len(images))
    common = expected * n >= 5
    counts, expected = (
        np.append(counts[common], counts[~common].sum()),
        np.append(expected[common], expected[~common].sum()),
    )
    used = expected > 0
    assert scipy.stats.chisquare(counts[used], expected[used] / expected[used].sum() * n).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    pixels = make(kind).double()
    theta = random_theta(pixels, n=3, seed=3).requires_grad_()
    levels = every_image(pixels.spec)[[0, 5, -1]]
    assert torch.autograd.gradcheck(lambda t: pixels.log_prob(levels, t), theta)


@pytest.mark.parametrize("kind", ["gaussian", "gaussian-shared", "logistic", "logistic-mixture"])
def test_far_tails_are_finite_and_so_are_their_gradients(kind):
    pixels = make(kind)
    levels = every_image(pixels.spec)
    for value in (-60.0, 60.0):
        theta = torch.full((len(levels), pixels.out_channels, 1, 2), value, requires_grad=True)
        nats = pixels.log_prob(levels, theta)
        (gradient,) = torch.autograd.grad(nats.sum(), theta)
        assert torch.isfinite(nats).all()
        assert torch.isfinite(gradient).all()


def test_a_logistic_is_the_difference_of_scipys_distribution_functions():
    pixels = LogisticPixels(ImageSpec(1, 1, 1, 17), components=2)
    theta = random_theta(pixels, seed=4)
    logit, mean, log_scale = (part.numpy() for part in theta[0, :, 0, 0].split(2))
    edges = np.concatenate([[-np.inf], (np.arange(16) + 0.5) / 8 - 1, [np.inf]])
    shares = np.exp(logit) / np.exp(logit).sum()
    mass = [
        np.diff(scipy.stats.logistic.cdf(edges, mean[k] + [-1 / 3, 1 / 3][k], np.exp(log_scale[k]))) for k in (0, 1)
    ]
    expected = np.log(shares[0] * mass[0] + shares[1] * mass[1])
    levels = torch.arange(17, dtype=torch.uint8).view(-1, 1, 1, 1)
    found = pixels.log_prob(levels, theta.expand(17, -1, -1, -1))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_gaussian_pixels_of_one_scale_are_the_discretized_gaussian():
    spec = ImageSpec(1, 2, 2, 17)
    pixels = GaussianPixels(spec, scale="shared").double()
    theta = random_theta(pixels, n=5, seed=5)
    levels = torch.randint(17, (5, 1, 2, 2), generator=torch.Generator().manual_seed(6), dtype=torch.uint8)
    sigma = float(pixels.log_sigma.exp())
    expected = DiscretizedGaussian(spec, sigma).log_prob(levels, theta).flatten(1).sum(1)
    torch.testing.assert_close(pixels.log_prob(levels, theta), expected)


def test_coupled_channels_depend_on_the_levels_before_them():
    pixels = LogisticPixels(ImageSpec(3, 1, 1, 4), components=2)
    theta = random_theta(pixels, seed=7)
    images = every_image(pixels.spec)
    joint = pixels.log_prob(images, theta.expand(len(images), -1, -1, -1)).exp().view(4, 4, 4)
    assert float(joint.sum()) == pytest.approx(1.0, abs=1e-12)
    apart = joint.sum((1, 2))[:, None] * joint.sum((0, 2))[None]
    assert float((joint.sum(2) - apart).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_means_are_between_the_ends_and_near_those_of_samples(kind):
    pixels = make(kind)
    theta = random_theta(pixels, seed=8, scale=0.5)
    mean = pixels.mean(theta)
    assert mean.shape == (1, *pixels.spec.shape)
    assert float(mean.abs().max()) <= 1
    drawn = draw(pixels, theta, 20_000, seed=9)
    close = 0.02 if kind in ("bernoulli", "categorical") else 0.35  # the others' mean is before discretization
    assert float((pixels.spec.to_unit(drawn, torch.float64).mean(0) - mean[0]).abs().max()) < close


def test_means_of_coupled_channels_are_those_of_each_component():
    """Components apart, coupled one way each: the mean of a later channel is no function of the earlier one's mean."""
    pixels = LogisticPixels(ImageSpec(3, 1, 1, 256), components=2)
    logits, couplings = torch.tensor([0.3, -0.3]), torch.tensor([[2.0, -0.5, 0.4], [-2.0, 0.7, -1.0]])
    means = torch.tensor([[0.1, 0.1, -0.2], [-0.1, 0.2, 0.1]])
    theta = torch.cat([logits, means.flatten(), torch.full((6,), -5.0), couplings.flatten()]).double().view(1, -1, 1, 1)
    drawn = draw(pixels, theta, 40_000, seed=0)
    expected = pixels.spec.to_unit(drawn, torch.float64).mean(0)
    torch.testing.assert_close(pixels.mean(theta)[0], expected, rtol=0, atol=0.006)


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(InputError, match="2 levels, and these have 17"):
        BernoulliPixels(ImageSpec(1, 8, 8, 17))
    with pytest.raises(InputError, match="components must be at least 1"):
        LogisticPixels(ImageSpec(1, 8, 8, 17), components=0)
    with pytest.raises(InputError, match=r"smallest must be in \(0, 1\), got 0.0"):
        GaussianPixels(ImageSpec(1, 8, 8, 17), smallest=0.0)
    with pytest.raises(InputError, match=r"smallest must be in \(0, 1\), got inf"):
        LogisticPixels(ImageSpec(1, 8, 8, 17), smallest=float("inf"))
    with pytest.raises(InputError, match="scale must be pixel or shared"):
        GaussianPixels(ImageSpec(1, 8, 8, 17), scale="both")
    with pytest.raises(InputError, match="expected 1 out_channels, got 3"):
        BernoulliPixels(ImageSpec(1, 8, 8, 2)).log_prob(
            torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8)
        )
    with pytest.raises(InputError, match="expected 17 out_channels, got 3"):
        CategoricalPixels(ImageSpec(1, 8, 8, 17)).log_prob(
            torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8)
        )
