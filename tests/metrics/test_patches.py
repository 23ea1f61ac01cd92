"""Sliced Wasserstein distance of patches: against SciPy and closed forms, and what it says of real images."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from scipy.stats import wasserstein_distance

from lightning_gen.core import ImageSpec, InputError, find_figure
from lightning_gen.data.digits import Digits
from lightning_gen.metrics import (
    CopyShare,
    DigitsExtractor,
    FrechetDistance,
    MetricSuite,
    PatchExtractor,
    SlicedWasserstein,
    sliced_wasserstein,
)
from lightning_gen.metrics.patches import pyramid, random_directions, sides


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(n: int, spec: ImageSpec, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(spec.levels, (n, *spec.shape), generator=draw, dtype=torch.int64).to(torch.uint8)


def by_scipy(a, b, directions) -> float:
    return float(np.mean([wasserstein_distance(a.numpy() @ d, b.numpy() @ d) for d in directions.numpy()]))


# The pure function


@pytest.mark.parametrize(("n", "m"), [(50, 50), (60, 40), (37, 101), (1, 5)])
def test_distance_is_scipy_s_on_every_line_symmetric_and_blind_to_order(n, m):
    a, b, directions = normal(n, 6, seed=0), 0.3 + 2 * normal(m, 6, seed=1), random_directions(20, 2, 3)
    ours = sliced_wasserstein(a, b, directions)
    assert float(ours) == pytest.approx(by_scipy(a, b, directions), rel=1e-12)
    assert float(ours) == pytest.approx(float(sliced_wasserstein(b, a, directions)), rel=1e-14)
    shuffled = a[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    assert float(sliced_wasserstein(shuffled, b, directions)) == pytest.approx(float(ours), rel=1e-14)
    assert float(sliced_wasserstein(a, shuffled, directions)) == pytest.approx(0, abs=1e-14)
    assert float(sliced_wasserstein(a, a.repeat(3, 1), directions)) == pytest.approx(0, abs=1e-14)


def test_distance_of_a_shift_is_its_mean_length_on_the_directions():
    a, shift, directions = normal(80, 5, seed=0), normal(5, seed=1), random_directions(4000, 1, 5)
    ours = float(sliced_wasserstein(a, a + shift, directions))
    assert ours == pytest.approx(float((directions @ shift).abs().mean()), rel=1e-12)
    # on the sphere in d dimensions the mean of |x_1| is Gamma(d/2) / (sqrt(pi) Gamma((d + 1)/2)), here 3/8
    assert ours == pytest.approx(float(shift.norm()) * 3 / 8, rel=0.03)


# The pyramid and its patches


def halved(x: np.ndarray) -> np.ndarray:
    """As in the code of Karras et al. (2018)."""
    return scipy.ndimage.convolve(x, FILTER, mode="mirror")[..., ::2, ::2]


def doubled(x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    wide = np.zeros((*x.shape[:2], *shape))
    wide[..., ::2, ::2] = x
    return scipy.ndimage.convolve(wide, 4 * FILTER, mode="mirror")


FILTER = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, None] / 256


@pytest.mark.parametrize(("height", "width", "count"), [(8, 8, 1), (27, 40, 2), (64, 64, 3), (30, 45, 2)])
def test_pyramid_is_that_of_the_paper_s_code(height, width, count):
    x = normal(2, 3, height, width, seed=0)
    levels, rest = pyramid(x.float()), x.numpy()
    assert [tuple(level.shape[2:]) for level in levels] == sides(height, width)
    assert len(levels) == count
    for level in levels[:-1]:
        small = halved(rest)
        np.testing.assert_allclose(level, rest - doubled(small, rest.shape[2:]), atol=2e-6)
        rest = small
    np.testing.assert_allclose(levels[-1], rest, atol=2e-6)
    assert all(float(level.abs().max()) < 1e-6 for level in pyramid(torch.ones(1, 1, height, width))[:-1])


SPECS = [ImageSpec(1, 8, 8, levels=17), ImageSpec(3, 7, 9), ImageSpec(1, 28, 28), ImageSpec(3, 96, 130)]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_patches_are_cut_from_the_levels_and_depend_on_the_image_alone(spec, monkeypatch):
    levels, extractor = images(6, spec), PatchExtractor(3)
    whole = extractor(levels, spec).features
    assert whole.shape[1] == sum(np.prod(shape) for shape in extractor.layout(spec).values())
    order = torch.tensor([4, 1, 5])
    monkeypatch.setattr("lightning_gen.metrics.patches.VALUES", 2 * spec.dims)
    torch.testing.assert_close(extractor(levels[order], spec).features, whole[order], rtol=0, atol=1e-5)
    finest = whole[:, : 3 * spec.channels * 49].view(6, 3, spec.channels, 7, 7)
    windows = pyramid(spec.to_unit(levels))[0].unfold(2, 7, 1).unfold(3, 7, 1)  # (B, C, rows, columns, 7, 7)
    for image, patches in zip(windows, finest, strict=True):
        gaps = (image.flatten(1, 2).movedim(1, 0)[None] - patches[:, None]).abs().amax((2, 3, 4))
        assert float(gaps.amin(1).max()) < 1e-5
    assert not torch.equal(PatchExtractor(3, seed=1)(levels, spec).features, whole)
    assert PatchExtractor(3, seed=1).content_hash != extractor.content_hash != PatchExtractor(4).content_hash


def test_images_smaller_than_a_patch_are_refused():
    with pytest.raises(InputError, match="patches of 7 x 7 pixels from images, which cannot be smaller, got 6 x 9"):
        PatchExtractor().check(ImageSpec(3, 6, 9))


# The metric


def test_metrics_that_take_a_row_for_one_point_are_refused():
    for metrics, options, what in [
        ([SlicedWasserstein(), FrechetDistance()], {}, "FrechetDistance"),
        ([CopyShare("features")], {}, "CopyShare"),
        ([SlicedWasserstein()], {"keep_features": True}, "a search for neighbours"),
    ]:
        with pytest.raises(InputError, match=f"^{what} takes an image's features for one point, .* 'patches' are many"):
            MetricSuite(PatchExtractor(), metrics, **options)
    MetricSuite(PatchExtractor(), [SlicedWasserstein(), CopyShare()], per_class=True)


def test_figures_are_those_of_patches_divided_by_the_real_ones_deviation():
    spec = ImageSpec(3, 28, 28)
    extractor = PatchExtractor(4)
    suite = MetricSuite(extractor, [SlicedWasserstein(directions=20)], cache=False)
    parts = {"train": images(9, spec, 1) // 2, "heldout": images(5, spec, 2)}
    for name, levels in parts.items():
        suite.set_reference(name, levels, spec)
    levels = images(7, spec, 3)
    suite.update(levels[3:], torch.arange(3, 7))
    suite.update(levels[:3], torch.arange(3))
    figures = suite.compute()
    for part, end in {"train": "", "heldout": "_heldout"}.items():
        for place, side in enumerate((28, 14)):
            real, own = (extractor(x, spec).features.view(-1, 2, 4, 3, 49)[:, place] for x in (parts[part], levels))
            mean, deviation = real.mean((0, 1, 3))[:, None], real.std((0, 1, 3), correction=0)[:, None]
            real, own = (((x - mean) / deviation).reshape(-1, 147).double() for x in (real, own))
            expected = 1000 * by_scipy(own, real, random_directions(20, 3, 49))
            assert figures[f"swd_patches{end}_side{side}"] == pytest.approx(expected, rel=1e-4)
        mean = (figures[f"swd_patches{end}_side28"] + figures[f"swd_patches{end}_side14"]) / 2
        assert figures[f"swd_patches{end}"] == pytest.approx(mean)
    assert len(figures) == 6
    assert [find_figure(name, suite.figures).higher for name in figures] == [False, None, None, False, None, None]


def test_other_features_are_a_point_a_row_and_at_most_max_images_are_looked_at():
    spec, (real, own) = Digits.spec, torch.from_numpy(Digits().load("train").levels[:90]).split(50)
    suite = MetricSuite(DigitsExtractor(), [SlicedWasserstein(("train",), 10)], cache=False)
    suite.set_reference("train", real, spec)
    suite.update(own, torch.arange(40))
    rows = [suite.extract(x).features for x in (own, real)]
    rows = [x.double() / rows[1].double().std(correction=0) for x in rows]
    figures = suite.compute()
    assert figures == {"swd_digits": pytest.approx(1000 * by_scipy(*rows, random_directions(10, 1, 64)), rel=1e-4)}
    few = MetricSuite(DigitsExtractor(), [SlicedWasserstein(("train",), 10, max_images=50)], cache=False)
    few.set_reference("train", real, spec)
    few.update(own, torch.arange(40))
    assert few.compute() == figures


def test_figures_rise_with_every_fault_of_real_images():
    train, heldout = (torch.from_numpy(Digits().load(part).levels) for part in ("train", "test"))
    suite = MetricSuite(PatchExtractor(4), [SlicedWasserstein(("train",))], cache=False)
    suite.set_reference("train", train, Digits.spec)

    def figure(levels) -> float:
        suite.reset()
        levels = torch.as_tensor(np.asarray(levels).round().clip(0, 16).astype(np.uint8))
        suite.update(levels, torch.arange(len(levels)))
        return suite.compute()["swd_patches"]

    x, draw = heldout.numpy().astype(float), np.random.default_rng(0)
    faults = {
        "blurred": [scipy.ndimage.gaussian_filter(x, (0, 0, s, s)) for s in (0.5, 1, 2)],
        "noisy": [x + draw.normal(0, s, x.shape) for s in (1, 3, 9)],
        "repeated": [x[np.arange(len(x)) % k] for k in (30, 8, 2)],
        "darker": [x - s for s in (1, 2, 4)],
    }
    for fault, versions in faults.items():
        values = [figure(levels) for levels in (x, *versions)]
        assert values == sorted(values), fault
        assert values[-1] > 4 * values[0], fault
