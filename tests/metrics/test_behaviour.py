"""What figures mean, on real images: the digits, by the shipped extractor."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from lightning_gen.data.digits import Digits
from lightning_gen.metrics import (
    CopyShare,
    DensityCoverage,
    DigitsExtractor,
    Diversity,
    FrechetDistance,
    KernelDistance,
    MetricSuite,
    PrecisionRecall,
    copy_test,
    kernel_distance,
)

SOURCE = Digits()
SPEC = SOURCE.spec
TRAIN, VAL, TEST = (torch.from_numpy(SOURCE.load(part).levels) for part in ("train", "val", "test"))
HELD_OUT = torch.cat([VAL, TEST])
LABELS = torch.from_numpy(np.concatenate([SOURCE.load(part).labels for part in ("val", "test")]))


def scores(*metrics, train=TRAIN, heldout=HELD_OUT):
    """A function from images to figures."""
    suite = MetricSuite(DigitsExtractor(), metrics, cache=False)
    suite.set_reference("train", train, SPEC)
    suite.set_reference("heldout", heldout, SPEC)

    def score(samples):
        suite.reset()
        suite.update(samples, torch.arange(len(samples)))
        return suite.compute()

    return score


def falling(values: list[float]) -> bool:
    return all(a > b for a, b in pairwise(values))


def noisy(images: torch.Tensor, levels: int) -> torch.Tensor:
    """Images with noise of up to so many levels added."""
    noise = torch.randint(-levels, levels + 1, images.shape, generator=torch.Generator().manual_seed(levels))
    return (images.int() + noise).clamp(0, 16).to(torch.uint8)


def from_mixture(components: int, images: torch.Tensor, n: int = 1000) -> torch.Tensor:
    """Samples of a Gaussian mixture fitted to images."""
    mixture = GaussianMixture(components, reg_covar=1e-3, random_state=0).fit(images.flatten(1).double().numpy())
    samples = mixture.sample(n)[0].round().clip(0, 16).astype(np.uint8)
    return torch.from_numpy(samples).reshape(-1, 1, 8, 8)


@pytest.mark.parametrize("mixing", ["pixels", "images"])
def test_distances_fall_from_noise_to_real(mixing):
    score, draw = scores(FrechetDistance(), KernelDistance()), torch.Generator().manual_seed(0)
    noise = torch.randint(17, HELD_OUT.shape, generator=draw).to(torch.uint8)
    figures = []
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        shape = HELD_OUT.shape if mixing == "pixels" else (len(HELD_OUT), 1, 1, 1)
        figures.append(score(torch.where(torch.rand(shape, generator=draw) < share, noise, HELD_OUT)))
    for name in ("fid_digits", "kid_digits", "fid_digits_heldout", "kid_digits_heldout"):
        values = [f[name] for f in figures]
        assert falling(values), name
        assert values[0] > 20 * abs(values[-1])
    assert abs(figures[-1]["kid_digits"]) < 3 * figures[-1]["kid_digits_stderr"]


def test_precision_falls_with_quality():
    score = scores(PrecisionRecall(), DensityCoverage())
    figures = [score(noisy(HELD_OUT, levels)) for levels in (0, 2, 4, 6, 8)]
    for name in ("precision_digits", "density_digits"):
        values = [f[name] for f in figures]
        assert falling(values), name
        assert values[-1] < 0.3 * values[0]


def test_recall_falls_with_every_class_dropped_and_precision_does_not():
    score = scores(PrecisionRecall(), DensityCoverage(), Diversity())
    figures = [score(HELD_OUT[classes > LABELS]) for classes in (10, 7, 4, 1)]
    for name in ("recall_digits", "coverage_digits", "pairwise_distance_digits"):
        values = [f[name] for f in figures]
        assert falling(values), name
        assert values[-1] < 0.5 * values[0]
    assert min(f["precision_digits"] for f in figures) > 0.9 * figures[0]["precision_digits"]


def test_precision_and_recall_swap_with_the_sides_density_and_coverage_do_not():
    few = HELD_OUT[LABELS < 6]
    metrics = PrecisionRecall(), DensityCoverage()
    there, back = scores(*metrics, train=TRAIN[: len(few)])(few), scores(*metrics, train=few)(TRAIN[: len(few)])
    assert there["precision_digits"] == back["recall_digits"]
    assert there["recall_digits"] == back["precision_digits"]
    assert there["precision_digits"] > 1.2 * there["recall_digits"]
    assert there["density_digits"] != back["density_digits"]
    assert there["coverage_digits"] != pytest.approx(back["coverage_digits"], rel=0.1)
    assert (PrecisionRecall().k, DensityCoverage().k) == (3, 5)


def test_kernel_distance_of_disjoint_real_halves_has_mean_zero_and_is_negative_at_times():
    features = DigitsExtractor()(torch.cat([TRAIN, HELD_OUT]), SPEC).features
    values, errors = [], []
    for seed in range(60):
        order = torch.randperm(1600, generator=torch.Generator().manual_seed(seed))
        value, error = kernel_distance(features[order[:800]], features[order[800:]])
        values.append(float(value))
        errors.append(float(error))
    values = np.array(values)
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(60)
    assert 0.2 < (values < 0).mean() < 0.8
    assert (abs(values) < 3 * np.array(errors)).mean() > 0.95


# The copy test. m = 700 held-out images move a share by about 1 / (2 sqrt(m)) = 0.02, beside its interval.


def test_copy_test_gives_a_half_for_fresh_images_and_a_mixture_fitted_to_them():
    images = torch.cat([TRAIN, HELD_OUT])
    fresh, fitted = [], []
    for seed in range(6):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        train, heldout, third = images[order].split(599)
        rows = [part.flatten(1) for part in (train, heldout)]
        fresh.append(copy_test(third.flatten(1), *rows).share)
        fitted.append(copy_test(from_mixture(5, third).flatten(1), *rows).share)
    for shares in (fresh, fitted):
        assert abs(np.mean(shares) - 0.5) < 0.03
        assert max(abs(share - 0.5) for share in shares) < 0.1

    share = scores(CopyShare(), heldout=TEST)(VAL)
    assert share["copy_share_pixels_low"] < 0.5 < share["copy_share_pixels_high"]


def test_copy_test_is_below_a_half_for_averages_of_held_out_images():
    first, second = torch.randint(len(HELD_OUT), (2, 1000), generator=torch.Generator().manual_seed(0))
    averages = (HELD_OUT[first].int() + HELD_OUT[second].int()) // 2
    assert scores(CopyShare())(averages.to(torch.uint8))["copy_share_pixels_high"] < 0.45


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda: TRAIN, 0.8),
        (lambda: noisy(TRAIN, 1), 0.8),
        (lambda: from_mixture(50, TRAIN), 0.65),
    ],
    ids=["training images", "one level of noise", "mixture of 50"],
)
def test_copy_test_fires_on_memorised_images(make, least):
    # Only 700 of the 1,097 training images are compared with: a copy of another one counts as fresh.
    assert scores(CopyShare())(make())["copy_share_pixels_low"] > least


def test_copy_test_fires_more_the_more_components_a_mixture_has():
    score = scores(CopyShare())
    shares = [score(from_mixture(k, TRAIN))["copy_share_pixels"] for k in (1, 10, 50)]
    assert shares == sorted(shares)
    assert shares[0] < 0.6
