"""The pure functions against independent computations: SciPy, NumPy loops, torch-fidelity, torchmetrics."""

from itertools import combinations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.inception import InceptionScore as TorchmetricsInceptionScore
from torchmetrics.image.kid import poly_mmd

from lightning_gen.core.errors import InputError
from lightning_gen.metrics import (
    copy_test,
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    mean_pairwise_distance,
    neighbour_picture,
    precision_recall,
    vendi_score,
    wilson_interval,
)
from lightning_gen.metrics.base import fixed_permutation, moments_of
from lightning_gen.metrics.distances import nearest, neighbour_radii, squared_distance_blocks
from lightning_gen.metrics.kernel import kernel_distance_of_subsets


def normal(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale + shift


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that cuts between blocks are met."""
    monkeypatch.setattr("lightning_gen.metrics.distances.BLOCK", 1000)


# Fréchet distance


@pytest.mark.parametrize("shift", [0.0, 0.5, 300.0])
def test_frechet_distance_is_that_of_scipy_torch_fidelity_and_torchmetrics(shift):
    a, b = normal(400, 24, 0, shift), normal(300, 24, 1, shift + 0.2, 1.3) @ normal(24, 24, 2) / 5
    (m1, c1), (m2, c2) = moments_of(a), moments_of(b)
    ours = float(frechet_distance(m1, c1, m2, c2))

    root = scipy.linalg.sqrtm(c1.numpy() @ c2.numpy()).real
    by_scipy = float((m1 - m2).square().sum() + c1.trace() + c2.trace()) - 2 * np.trace(root)
    assert ours == pytest.approx(by_scipy, rel=1e-8)
    statistics = [fid_features_to_statistics(x) for x in (a, b)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert ours == pytest.approx(float(_compute_fid(m1, c1, m2, c2)), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(150, 200), (600, 200)], ids=["singular", "regular"])
def test_frechet_distance_of_rectified_features_is_that_of_both_libraries(n, d):
    """As Inception's: never negative, far from normal, and fewer images than features or more."""
    mixing = normal(d, d, 2) / d**0.5
    a, b = (normal(n, d, 0) @ mixing + 0.3).relu(), (normal(n, d, 1) @ mixing * 1.2 + 0.4).relu()
    ours = float(frechet_distance(*moments_of(a), *moments_of(b)))
    statistics = [fid_features_to_statistics(x) for x in (a, b)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert ours == pytest.approx(float(_compute_fid(*moments_of(a), *moments_of(b))), rel=1e-6)


def test_frechet_distance_of_commuting_covariances_is_the_closed_form():
    v1, v2, mean = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 1.0]), torch.tensor([1.0, 0.0, 2.0])
    ours = frechet_distance(torch.zeros(3), v1.diag(), mean, v2.diag())
    assert float(ours) == pytest.approx(float(mean.square().sum() + (v1.sqrt() - v2.sqrt()).square().sum()), rel=1e-12)


def test_frechet_distance_survives_singular_covariances_and_is_symmetric():
    a, b = moments_of(normal(10, 32, 0)), moments_of(normal(12, 32, 1))
    assert float(frechet_distance(*a, *a)) < 1e-6
    assert float(frechet_distance(*a, *b)) == pytest.approx(float(frechet_distance(*b, *a)), rel=1e-6)


def test_moments_of_float32_features_far_from_zero_keep_double_precision():
    rows = normal(500, 5, 0, 1e4, dtype=torch.float32)
    mean, cov = moments_of(rows)
    np.testing.assert_allclose(cov, np.cov(rows.double().numpy(), rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(mean, rows.double().mean(0), rtol=1e-14)


# Inception Score


def test_inception_score_is_that_of_torch_fidelity():
    logits = normal(203, 10, 0, scale=3.0)
    for splits in [1, 3, 10]:
        mean, std = inception_score(logits[fixed_permutation(203)], splits)
        theirs = isc_features_to_metric(logits, splits=splits)
        assert float(mean) == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
        assert float(std) == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save", "ignore:std")
def test_inception_score_of_one_split_is_that_of_torchmetrics():
    logits = normal(203, 10, 0, scale=3.0)
    theirs = TorchmetricsInceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(logits)
    assert float(inception_score(logits)[0]) == pytest.approx(float(theirs.compute()[0]), rel=1e-10)


def test_inception_score_is_1_without_variety_and_k_for_sure_and_even_classes():
    assert float(inception_score(torch.zeros(20, 7))[0]) == pytest.approx(1.0)
    sure = torch.full((70, 7), -torch.inf)
    sure[torch.arange(70), torch.arange(70) % 7] = 0.0
    assert float(inception_score(sure)[0]) == pytest.approx(7.0)


def test_inception_score_refuses_fewer_rows_than_splits():
    with pytest.raises(InputError, match="11 splits"):
        inception_score(torch.zeros(10, 3), 11)


# Neighbourhoods


def brute_distances(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return np.sqrt(((a.numpy()[:, None] - b.numpy()[None]) ** 2).sum(-1))


def brute_radii(a: torch.Tensor, k: int) -> np.ndarray:
    return np.sort(brute_distances(a, a), axis=1)[:, k]


def test_blocks_cover_all_distances(small_blocks):
    a, b = normal(57, 6, 0, 100.0), normal(91, 6, 1, 100.0)
    found = torch.cat([block for _, block in squared_distance_blocks(a, b)])
    np.testing.assert_allclose(found.sqrt(), brute_distances(a, b), rtol=1e-10)
    assert len(list(squared_distance_blocks(a, b))) > 3
    np.testing.assert_allclose(neighbour_radii(a, 4).sqrt(), brute_radii(a, 4), rtol=1e-10)
    values, index = nearest(a, b, 3)
    np.testing.assert_array_equal(index, np.argsort(brute_distances(a, b), axis=1)[:, :3])
    np.testing.assert_allclose(values.sqrt(), np.sort(brute_distances(a, b), axis=1)[:, :3], rtol=1e-10)


def test_radius_counts_duplicates_as_neighbours():
    rows = torch.tensor([[0.0], [0.0], [3.0], [5.0]])
    assert neighbour_radii(rows, 1).tolist() == pytest.approx([0.0, 0.0, 4.0, 4.0])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_are_those_of_torch_fidelity_and_of_a_loop(k, small_blocks):
    generated, real = normal(150, 4, 0, 0.3, 1.2), normal(150, 4, 1)
    precision, recall = precision_recall(generated, real, k)
    theirs = prc_features_to_metric(
        generated, real, prc_neighborhood=k, prc_batch_size=64, save_cpu_ram=False, verbose=False
    )
    assert precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert recall == pytest.approx(theirs["recall"], abs=1e-6)
    cross = brute_distances(generated, real)
    assert precision == pytest.approx((cross <= brute_radii(real, k)[None]).any(1).mean())
    assert recall == pytest.approx((cross <= brute_radii(generated, k)[:, None]).any(0).mean())
    assert 0.1 < precision < 1


@pytest.mark.parametrize("k", [1, 5])
def test_density_coverage_are_those_of_a_loop(k, small_blocks):
    generated, real = normal(120, 4, 0, 0.3, 0.8), normal(150, 4, 1)
    density, coverage = density_coverage(generated, real, k)
    within = brute_distances(generated, real) <= brute_radii(real, k)[None]
    assert density == pytest.approx(within.sum(1).mean() / k, rel=1e-12)
    assert coverage == pytest.approx(within.any(0).mean(), rel=1e-12)


def test_precision_and_recall_swap_with_the_sides_density_and_coverage_do_not():
    narrow, wide = normal(200, 3, 0, scale=0.4), normal(200, 3, 1)
    assert precision_recall(narrow, wide) == precision_recall(wide, narrow)[::-1]
    there, back = density_coverage(narrow, wide), density_coverage(wide, narrow)
    assert there != back
    assert there != back[::-1]


def test_neighbourhoods_refuse_too_few_images():
    with pytest.raises(InputError, match="3-th nearest"):
        precision_recall(normal(3, 2, 0), normal(9, 2, 1))
    with pytest.raises(InputError, match="5-th nearest"):
        density_coverage(normal(9, 2, 0), normal(5, 2, 1))


# Kernel distance


def brute_kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    d = a.shape[1]
    kernel = lambda x, y: float((x @ y) / d + 1) ** 3  # noqa: E731
    n, m = len(a), len(b)
    aa = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    bb = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    ab = sum(kernel(a[i], b[j]) for i in range(n) for j in range(m)) / (n * m)
    return aa + bb - 2 * ab


def test_kernel_distance_and_its_error_are_those_of_a_loop(small_blocks):
    a, b = normal(17, 5, 0, 0.2), normal(23, 5, 1)
    value, error = kernel_distance(a, b)
    assert float(value) == pytest.approx(brute_kernel_distance(a, b), abs=1e-11)
    without = lambda x, i: torch.cat([x[:i], x[i + 1 :]])  # noqa: E731
    jack_a = np.array([brute_kernel_distance(without(a, i), b) for i in range(17)])
    jack_b = np.array([brute_kernel_distance(a, without(b, i)) for i in range(23)])
    assert float(error) == pytest.approx(np.sqrt(jack_a.var() * 16 + jack_b.var() * 22), rel=1e-9)


def test_kernel_distance_over_subsets_is_that_of_torch_fidelity():
    a, b = normal(150, 8, 0, 0.2), normal(130, 8, 1)
    mean, std = kernel_distance_of_subsets(a, b, subsets=5, size=60)
    arguments = {"kid_subsets": 5, "kid_subset_size": 60, "kid_kernel": "poly", "rng_seed": 2020, "verbose": False}
    theirs = kid_features_to_metric(a, b, **arguments)
    assert float(mean) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert float(std) == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-7)
    full, error = kernel_distance(a, b)
    assert abs(float(full) - theirs["kernel_inception_distance_mean"]) < 3 * float(error)


def test_kernel_distance_is_that_of_torchmetrics():
    a, b = normal(150, 8, 0, 0.2), normal(150, 8, 1)
    assert float(kernel_distance(a, b)[0]) == pytest.approx(float(poly_mmd(b, a)), abs=1e-9)


def test_kernel_distance_of_equal_distributions_has_mean_zero_and_its_error_is_honest():
    results = [kernel_distance(normal(40, 6, 2 * s), normal(50, 6, 2 * s + 1)) for s in range(200)]
    values, errors = (np.array([float(r[i]) for r in results]) for i in (0, 1))
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(200)
    assert (values < 0).any()
    assert 0.9 < np.sqrt((errors**2).mean()) / values.std() < 1.7


def test_error_of_the_kernel_distance_between_different_distributions_matches_its_spread():
    results = [kernel_distance(normal(60, 6, 2 * s, 0.5), normal(60, 6, 2 * s + 1)) for s in range(150)]
    values, errors = (np.array([float(r[i]) for r in results]) for i in (0, 1))
    assert 0.8 < np.sqrt((errors**2).mean()) / values.std() < 1.3


def test_kernel_distance_refuses_too_few_images():
    with pytest.raises(InputError, match="at least 3 images"):
        kernel_distance(normal(2, 3, 0), normal(5, 3, 1))
    with pytest.raises(InputError, match="subsets of 1000"):
        kernel_distance_of_subsets(normal(20, 3, 0), normal(50, 3, 1), 2, 1000)


# Memorisation and diversity


def test_copy_test_knows_fresh_images_from_copies():
    train, heldout, fresh = normal(400, 6, 0), normal(400, 6, 1), normal(4000, 6, 2)
    test = copy_test(fresh, train, heldout)
    assert abs(test.share - 0.5) < 0.05
    assert abs(test.copied) < 3 * test.deviation
    assert copy_test(train, train, heldout)[:2] == (1.0, pytest.approx(1.0))
    assert copy_test(train + 0.05 * normal(400, 6, 3), train, heldout).share > 0.99


def test_copied_is_the_fraction_of_copies_whatever_part_of_the_training_images_is_compared_with():
    train, heldout, fresh = normal(2000, 6, 0), normal(200, 6, 1), normal(4000, 6, 2)
    mixed = torch.cat([fresh[:1400], train[:600]])
    for part, known in ((train, 1.0), (train[::2], 0.5)):
        base, test = copy_test(fresh, part, heldout, known), copy_test(mixed, part, heldout, known)
        assert abs(test.copied - 0.3 - 0.7 * base.copied) < 0.06
        assert abs(base.copied) < 3 * base.deviation


def test_deviation_of_the_copy_test_is_that_over_all_choices_of_the_held_out_images():
    pool, generated = normal(8, 2, 0).round(), normal(30, 2, 1).round()  # with ties
    found = []
    for heldout in combinations(range(8), 3):
        train = [i for i in range(8) if i not in heldout]
        found.append(copy_test(generated, pool[train], pool[list(heldout)]))
    copied = np.array([test.copied for test in found])
    assert copied.mean() == pytest.approx(0, abs=1e-12)
    assert [test.deviation for test in found] == pytest.approx([copied.std()] * len(found))


def test_the_copy_test_has_the_power_that_it_tells():
    heldout_count, draws = 60, 300
    found = {}
    for fraction in (0.0, None):
        rejected = []
        for seed in range(draws):
            train, heldout, fresh = (normal(n, 3, 10 * seed + i) for i, n in enumerate((300, heldout_count, 400)))
            detectable = (1.6449 + 0.8416) * copy_test(fresh, train, heldout).deviation
            copies = round(400 * (detectable if fraction is None else fraction))
            test = copy_test(torch.cat([fresh[copies:], train[:copies]]), train, heldout)
            rejected.append(test.copied > 1.6449 * test.deviation)
        found[fraction] = np.mean(rejected)
    assert 0.02 < found[0.0] < 0.09
    assert 0.75 < found[None] < 0.95


def test_copy_test_shares_ties_out_and_wants_enough_training_images():
    tied = copy_test(torch.zeros(1, 1), torch.ones(1, 1), -torch.ones(1, 1))
    assert tied[:2] == (0.5, 0.0)
    same = copy_test(torch.zeros(5, 1), torch.zeros(30, 1), torch.zeros(3, 1))
    assert same == (0.5, pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
    for train, heldout in ((1, 2), (0, 0), (1, 0)):
        with pytest.raises(InputError, match="at least as many training images"):
            copy_test(torch.zeros(1, 1), torch.ones(train, 1), torch.ones(heldout, 1))


def test_wilson_interval_against_statistics_tables():
    # Newcombe (1998), 81 of 263: 0.2553 to 0.3662
    low, high = wilson_interval(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0.0, 10)[0] == 0.0
    assert wilson_interval(1.0, 10)[1] == pytest.approx(1.0, abs=1e-12)


def test_pairwise_distance_and_vendi_score_against_loops(small_blocks):
    rows = normal(70, 4, 0, 1.0)
    brute = brute_distances(rows, rows)
    assert mean_pairwise_distance(rows) == pytest.approx(brute.sum() / (70 * 69), rel=1e-9)
    unit = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    values = np.linalg.eigvalsh(unit @ unit.T / 70)
    values = values[values > 1e-12]
    assert vendi_score(rows) == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-9)
    assert vendi_score(torch.eye(5)) == pytest.approx(5.0)
    assert vendi_score(torch.ones(5, 3)) == pytest.approx(1.0)


def test_picture_places_each_image_beside_its_nearest_ones():
    real = torch.arange(4, dtype=torch.uint8).mul(10).reshape(4, 1, 1, 1).expand(4, 1, 2, 3)
    generated = torch.tensor([29, 1], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 1, 2, 3)
    features = lambda images: images[:, :, 0, 0].double()  # noqa: E731
    picture = neighbour_picture(generated, real, features(generated), features(real), k=2, border=1)
    assert picture.dtype == torch.uint8
    assert picture.shape == (1, 7, 3 * 4 + 1 + 3)
    assert picture[0, 1, [1, 8, 12]].tolist() == [29, 30, 20]
    assert picture[0, 4, [1, 8, 12]].tolist() == [1, 0, 10]
    assert picture[0, 0].eq(255).all()
    assert picture[0, :, 4:8].eq(255).all()
    with pytest.raises(InputError, match="5 neighbours"):
        neighbour_picture(generated, real, features(generated), features(real), k=5)
