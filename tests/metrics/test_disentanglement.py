"""MIG and SAP: closed forms, invariances, and loops over counts and lines."""

import math
import re

import numpy as np
import pytest
from refusals import refusal
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mutual_info_score

from lightning_gen.core.errors import InputError
from lightning_gen.metrics import mutual_information_gap, separated_attribute_predictability

SCORES = (mutual_information_gap, separated_attribute_predictability)


def grid(values, factors):
    """Every combination once, (values^factors, factors)."""
    axes = np.meshgrid(*[np.arange(values)] * factors, indexing="ij")
    return np.stack([axis.ravel() for axis in axes], 1)


def random(n, dims, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dims))


@pytest.mark.parametrize("score", SCORES)
def test_a_coordinate_for_each_factor_alone_scores_one(score):
    factors = grid(5, 3)
    codes = np.concatenate([-2.0 * factors[:, ::-1] + 7, np.zeros((len(factors), 2))], 1)
    assert score(codes, factors) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_every_factor_twice_scores_zero(score):
    factors = grid(4, 2)
    assert score(np.concatenate([factors, -factors], 1), factors) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_codes_that_know_nothing_score_next_to_nothing(score):
    factors = np.random.default_rng(1).integers(6, size=(20_000, 3))
    assert 0 <= score(random(20_000, 5), factors) < 0.01


@pytest.mark.parametrize("score", SCORES)
def test_mixing_coordinates_by_a_rotation_is_punished(score):
    factors = grid(10, 2)
    codes = factors @ np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    assert score(codes, factors) == pytest.approx(0, abs=1e-9), "by 45 degrees both know equally much"
    angle = math.radians(20)
    turned = factors @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    assert 0.1 < score(turned, factors) < 0.8


def test_the_line_explains_cosine_squared_of_a_rotated_factor():
    angle = 0.3
    factors = grid(9, 2)
    turned = factors @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    expected = math.cos(angle) ** 2 - math.sin(angle) ** 2
    assert separated_attribute_predictability(turned, factors) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_neither_order_nor_sign_nor_unit_of_coordinates_matter(score):
    factors = np.random.default_rng(2).integers(5, size=(800, 3))
    codes = random(800, 4) + factors @ random(3, 4, seed=3)
    # Powers of two, so that no value moves over the edge of a bin by rounding.
    changed = codes[:, [2, 0, 3, 1]] * np.array([0.5, 64.0, 1.0, 2.0])
    assert score(changed, factors) == pytest.approx(score(codes, factors), rel=1e-9)
    order = np.random.default_rng(4).permutation(800)
    assert score(codes[order], factors[order]) == pytest.approx(score(codes, factors), rel=1e-9)
    assert separated_attribute_predictability(3 - codes, factors) == pytest.approx(
        separated_attribute_predictability(codes, factors), rel=1e-9
    )


def test_the_gap_of_information_is_that_of_a_loop_over_counts():
    random_numbers = np.random.default_rng(5)
    factors = random_numbers.integers([3, 6], size=(400, 2))
    codes = random(400, 3) + factors[:, [0, 1, 1]]
    gaps = []
    for v in factors.T:
        information = []
        for z in codes.T:
            edges = np.linspace(z.min(), z.max(), 8)
            place = np.clip(np.searchsorted(edges, z, side="right") - 1, 0, 6)
            total = 0.0
            for a in range(7):
                for b in set(v.tolist()):
                    joint = np.mean((place == a) & (v == b))
                    if joint:
                        total += joint * math.log(joint / (np.mean(place == a) * np.mean(v == b)))
            information.append(total)
        shares = [np.mean(v == b) for b in set(v.tolist())]
        entropy = -sum(share * math.log(share) for share in shares)
        *_, second, first = sorted(information)
        gaps.append((first - second) / entropy)
    assert mutual_information_gap(codes, factors, bins=7) == pytest.approx(np.mean(gaps), rel=1e-9)


def test_predictability_is_the_share_of_variance_that_a_line_explains():
    factors = np.random.default_rng(6).integers(7, size=(300, 2))
    codes = random(300, 4) + factors @ random(2, 4, seed=7)
    gaps = []
    for v in factors.T:
        *_, second, first = sorted(LinearRegression().fit(z[:, None], v).score(z[:, None], v) for z in codes.T)
        gaps.append(first - second)
    assert separated_attribute_predictability(codes, factors) == pytest.approx(np.mean(gaps), rel=1e-9)


def test_classes_are_predicted_by_a_threshold():
    # One coordinate tells two classes apart, another one is right for three in four of each: 1 - 3/4.
    classes = np.repeat([0, 1], 400)
    right = np.tile([1, 1, 1, -1], 200)
    codes = np.stack([5.0 * classes, right * (2 * classes - 1), np.full(800, 9.0)], 1)
    score = separated_attribute_predictability(codes, classes[:, None], ordered=False)
    assert score == pytest.approx(0.25, abs=1e-9)
    # Balanced: 3,000 more images of one class, of which as many are told right, change nothing.
    codes, classes = (
        np.concatenate([codes, np.tile(codes[:4], (750, 1))]),
        np.concatenate([classes, 0 * np.arange(3000)]),
    )
    score = separated_attribute_predictability(codes, classes[:, None], ordered=False)
    assert score == pytest.approx(0.25, abs=1e-9)


def test_a_coordinate_that_never_moves_knows_nothing():
    factors = grid(3, 2)
    codes = np.column_stack([factors[:, 0], np.full(9, 1e8), np.full(9, -0.1)])
    assert separated_attribute_predictability(codes, factors) == pytest.approx(0.5)
    assert mutual_information_gap(codes, factors) == pytest.approx(0.5)


def test_few_images_raise_all_informations_alike():
    factors = np.random.default_rng(8).integers(8, size=(500, 1))
    codes = random(500, 10)
    informations = [mutual_info_score(factors[:, 0], np.digitize(z, np.linspace(-2, 2, 19))) for z in codes.T]
    assert min(informations) > 0.05, "of coordinates that know nothing"
    assert mutual_information_gap(codes, factors) < 0.03


def test_what_does_not_fit_is_refused():
    for codes, factors, problem in [
        (np.zeros((4, 1)), grid(2, 2), r"D at least 2, and factors \(N, F\), got \(4, 1\) and \(4, 2\)"),
        (np.zeros((5, 2)), grid(2, 2), r"got \(5, 2\) and \(4, 2\)"),
        (random(4, 2), grid(2, 2)[:, 0], r"got \(4, 2\) and \(4,\)"),
        (random(4, 2), grid(2, 2) + 0.5, "factors must be integers, got float64"),
        (np.full((4, 2), np.inf), grid(2, 2), "codes must be finite"),
        (random(4, 2), np.zeros((4, 1), int), "each factor must have at least 2 values"),
        (random(0, 2), np.zeros((0, 1), int), "each factor must have at least 2 values"),
    ]:
        for score in SCORES:
            assert re.search(f"^{score.__name__}: .*{problem}", refusal(score, codes, factors)), problem


def test_one_bin_is_refused():
    with pytest.raises(InputError, match="bins must be at least 2, got 1"):
        mutual_information_gap(random(4, 2), grid(2, 2), bins=1)
