"""Every distribution of W&B's sweeps against scipy's, drawn as a sweep draws it; and the mistakes in describing one."""

import json
import math

import numpy as np
import optuna
import pytest
from refusals import refusal
from scipy import stats

from lightning_gen.core.errors import InputError
from lightning_gen.sweeps.distributions import KEYS, read_distribution

DRAWS = 1500

# The values before rounding, as scipy has them.
LAWS = {
    "uniform": ({"min": -1.0, "max": 2.5}, stats.uniform(-1, 3.5)),
    "log_uniform": ({"min": -3, "max": 2}, stats.loguniform(math.exp(-3), math.exp(2))),
    "log_uniform_values": ({"min": 1e-4, "max": 0.3}, stats.loguniform(1e-4, 0.3)),
    "inv_log_uniform": ({"min": -1, "max": 2}, stats.loguniform(math.exp(-2), math.exp(1))),
    "inv_log_uniform_values": ({"min": 0.1, "max": 5}, stats.loguniform(0.1, 5)),
    "normal": ({"mu": 1, "sigma": 2}, stats.norm(1, 2)),
    "log_normal": ({"mu": -1, "sigma": 0.5}, stats.lognorm(0.5, scale=math.exp(-1))),
    "beta": ({"a": 2, "b": 3.5}, stats.beta(2, 3.5)),
}
STEPS = {
    "q_uniform": ({"min": 0.3, "max": 7.1, "q": 0.5}, stats.uniform(0.3, 6.8)),
    "q_log_uniform": ({"min": 0, "max": 3.0, "q": 2}, stats.loguniform(1, math.exp(3))),
    "q_log_uniform_values": ({"min": 1, "max": 60, "q": 3.0}, stats.loguniform(1, 60)),
    "q_normal": ({"mu": 1, "sigma": 2, "q": 0.25}, stats.norm(1, 2)),
    "q_log_normal": ({"mu": 2, "sigma": 0.5}, stats.lognorm(0.5, scale=math.exp(2))),
    "q_beta": ({"a": 2, "b": 5, "q": 0.1}, stats.beta(2, 5)),
}


def draw(distribution, seed: int = 0) -> list:
    """Draw as a sweep does: raw values of Optuna's, shown."""
    sampler = optuna.samplers.RandomSampler(seed=seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    raw = distribution.raw()
    return [distribution.shown(sampler.sample_independent(study, trial, "x", raw)) for _ in range(DRAWS)]


def agree_by_chi_square(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Compare counts with their expectations, rare ones together."""
    often = expected >= 5
    counts = [*counts[often], counts[~often].sum()]
    expected = [*expected[often], max(expected[~often].sum(), 1e-9)]
    if expected[-1] < 5:
        counts, expected = counts[:-1], expected[:-1]
    scale = sum(counts) / sum(expected)
    return stats.chisquare(counts, np.array(expected) * scale).pvalue > 1e-3


def test_draws_follow_scipys_distribution():
    for kind, (arguments, law) in LAWS.items():
        distribution = read_distribution("x", {"distribution": kind, **arguments})
        assert stats.kstest(draw(distribution), law.cdf).pvalue > 1e-3, kind


def test_rounded_draws_follow_scipys_distribution_between_the_multiples():
    for kind, (arguments, law) in STEPS.items():
        q = arguments.get("q", 1.0)
        values = draw(read_distribution("x", {"distribution": kind, **arguments}))
        multiples = np.array(values) / q
        assert np.allclose(multiples, np.round(multiples), atol=1e-9), kind
        steps = np.arange(np.round(multiples).min(), np.round(multiples).max() + 1)
        expected = DRAWS * (law.cdf((steps + 0.5) * q) - law.cdf((steps - 0.5) * q))
        counts = np.array([(np.round(multiples) == step).sum() for step in steps])
        assert agree_by_chi_square(counts, expected), kind
        assert all(isinstance(value, int) == float(q).is_integer() for value in values), kind


def test_the_middle_is_scipys_median():
    for kind, (arguments, law) in (LAWS | STEPS).items():
        distribution = read_distribution("x", {"distribution": kind, **arguments})
        raw = distribution.raw()
        middle = math.sqrt(raw.low * raw.high) if raw.log else (raw.low + raw.high) / 2
        q = arguments.get("q", 1.0) if kind in STEPS else 0
        expected = round(law.median() / q) * q if q else law.median()
        assert distribution.shown(middle) == pytest.approx(expected, rel=1e-12), kind


def test_all_of_wandbs_distributions_are_tested():
    assert {*LAWS, *STEPS, "constant", "categorical", "categorical_w_probabilities", "int_uniform"} == set(KEYS)


def test_whole_numbers_are_equally_likely():
    values = draw(read_distribution("x", {"min": 3, "max": 8}))
    counts = np.bincount(values, minlength=9)[3:]
    assert len(counts) == 6
    assert agree_by_chi_square(counts, np.full(6, DRAWS / 6))


def test_choices_are_equally_likely_and_keep_their_types():
    choices = [1, True, 1.0, "1", None, [1, [2.5]], {"class_path": "a.B", "init_args": {"c": False}}]
    values = [json.dumps(value) for value in draw(read_distribution("x", {"values": choices}))]
    counts = np.array([values.count(json.dumps(choice)) for choice in choices])
    assert counts.sum() == DRAWS
    assert agree_by_chi_square(counts, np.full(7, DRAWS / 7))


def test_probabilities_are_kept():
    given = {"values": ["a", "b", "c", "d"], "probabilities": [0.1, 0.0, 0.65, 0.25]}
    distribution = read_distribution("x", given)
    values = draw(distribution)
    assert "b" not in values
    counts = np.array([values.count(choice) for choice in "acd"])
    assert agree_by_chi_square(counts, DRAWS * np.array([0.1, 0.65, 0.25]))
    raw = distribution.raw()
    assert [distribution.shown(raw.low), distribution.shown(raw.high)] == ["a", "d"]


def test_a_zero_probability_at_the_end_is_never_drawn():
    distribution = read_distribution("x", {"values": ["a", "b"], "probabilities": [1.0, 0.0]})
    assert distribution.shown(1.0) == "a"


def test_a_constant_has_one_value():
    distribution = read_distribution("x", {"value": [0.5, None]})
    assert draw(distribution) == [[0.5, None]] * DRAWS
    assert distribution.grid() == distribution.points() == [[0.5, None]]


def test_distributions_are_inferred_as_wandb_does():
    cases = [
        ({"value": 3}, "constant"),
        ({"values": [3]}, "categorical"),
        ({"values": [3, 4], "probabilities": [0.5, 0.5]}, "categorical_w_probabilities"),
        ({"min": 1, "max": 3}, "int_uniform"),
        ({"min": 1.0, "max": 3}, "uniform"),
        ({"min": 1, "max": 3.5}, "uniform"),
    ]
    assert [(given, read_distribution("x", given).kind) for given, _ in cases] == cases


def test_multiples_are_short_decimals():
    distribution = read_distribution("x", {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1})
    assert [distribution.shown(raw) for raw in (0.31, 0.7, 0.04, 1.0)] == [0.3, 0.7, 0.0, 1.0]


def test_halves_are_rounded_to_even_and_may_leave_the_range_as_with_wandb():
    distribution = read_distribution("x", {"distribution": "q_uniform", "min": 1, "max": 10, "q": 4})
    assert [distribution.shown(raw) for raw in (1.0, 2.0, 6.0, 10.0)] == [0, 0, 8, 8]


def test_points_are_both_ends_or_usual_values_where_there_are_none():
    assert read_distribution("x", {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1}).points() == [
        1e-4,
        0.1,
    ]
    assert read_distribution("x", {"min": 2, "max": 7}).points() == [2, 7]
    assert read_distribution("x", {"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 1}).points() == [0]
    low, high = read_distribution("x", {"distribution": "normal", "mu": 1.0}).points()
    assert low == pytest.approx(1 - stats.norm.isf(0.05))
    assert high == pytest.approx(1 + stats.norm.isf(0.05))


def test_grids_are_those_of_wandb():
    # As wandb's own engine goes through them (package sweeps 0.3.0, numpy.arange): q_uniform leaves max out.
    cases = [
        ({"min": 1, "max": 4}, [1, 2, 3, 4]),
        ({"distribution": "q_uniform", "min": 0, "max": 10, "q": 2}, [0, 2, 4, 6, 8]),
        ({"distribution": "q_uniform", "min": 0, "max": 9, "q": 2}, [0, 2, 4, 6, 8]),
        ({"distribution": "q_uniform", "min": 0.1, "max": 1, "q": 0.3}, [0.1, 0.4, 0.7]),
        ({"values": ["a", [1, 2]]}, ["a", [1, 2]]),
    ]
    assert [(given, read_distribution("x", given).grid()) for given, _ in cases] == cases


def test_grids_of_other_distributions_are_refused():
    for given in [
        {"min": 0.0, "max": 1.0},
        {"distribution": "q_normal"},
        {"distribution": "q_log_uniform_values", "min": 1, "max": 9},
        {"values": [1, 2], "probabilities": [0.5, 0.5]},
    ]:
        with pytest.raises(InputError, match=r"^parameters\.a\.b: method: grid cannot go through "):
            read_distribution("a.b", given).grid()


def test_mistakes_are_one_line_with_the_key_and_the_remedy():
    for given, words in [
        (0.1, "parameters.lr: write {value: 0.1}"),
        ([1, 2], "parameters.lr: write {values: [1, 2]}"),
        (None, "parameters.lr: give value, values, or min and max"),
        ({}, "parameters.lr: give value, values, or min and max"),
        ({"parameters": {"b": {"value": 1}}}, "parameters.lr.parameters: nested parameters are not taken, write the dotted name lr.b"),
        ({"vlaues": [1]}, "parameters.lr.vlaues: no such key (did you mean 'values'?)"),
        ({"distrbution": "normal"}, "parameters.lr.distrbution: no such key (did you mean 'distribution'?)"),
        ({"distribution": "log_unifrom_values", "min": 1, "max": 2}, "there is no 'log_unifrom_values' (did you mean 'log_uniform_values'?)"),
        ({"distribution": ["normal"]}, "parameters.lr.distribution: there is no ['normal']"),
        ({"distribution": "normal", "min": 0, "max": 1}, "parameters.lr.min: normal takes mu and sigma"),
        ({"distribution": "uniform", "min": 0, "max": 1, "q": 1}, "uniform takes min and max; with q it is distribution: q_uniform"),
        ({"distribution": "categorical", "values": [1], "probabilities": [1]}, "with probabilities it is distribution: categorical_w_probabilities"),
        ({"distribution": "uniform", "min": 0}, "parameters.lr: uniform needs min and max"),
        ({"distribution": "constant"}, "parameters.lr: constant needs value"),
        ({"min": 0}, "parameters.lr: min needs max"),
        ({"max": 0}, "parameters.lr: max needs min"),
        ({"min": 0, "max": 9, "q": 1}, "with q, write distribution: q_uniform"),
        ({"mu": 0}, "give distribution: normal or q_normal or log_normal or q_log_normal"),
        ({"min": 2, "max": 1}, "min (2) must be less than max (1)"),
        ({"min": 1, "max": 1}, "min (1) must be less than max (1); a constant is value: ..."),
        ({"min": "1e-4", "max": 1}, "parameters.lr.min must be a number, got '1e-4'"),
        ({"min": True, "max": 2}, "parameters.lr.min must be a number, got True"),
        ({"min": 0.0, "max": math.inf}, "parameters.lr.max must be a number, got inf"),
        ({"distribution": "int_uniform", "min": 1.0, "max": 2}, "int_uniform must be whole numbers, got 1.0 and 2"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "min must be above 0 for log_uniform_values, got 0"),
        ({"distribution": "log_uniform", "min": 1, "max": 1000}, "are exponents of e; for values write log_uniform_values"),
        ({"distribution": "normal", "sigma": 0}, "parameters.lr.sigma must be above 0, got 0"),
        ({"distribution": "q_normal", "q": -1}, "parameters.lr.q must be above 0, got -1"),
        ({"distribution": "log_normal", "mu": 1000}, "those of the logarithm, and too large"),
        ({"values": []}, "parameters.lr.values must be a list of at least one value, got []"),
        ({"values": "ab"}, "parameters.lr.values must be a list of at least one value, got 'ab'"),
        ({"values": [1, 2, 1]}, "parameters.lr.values: 1 stands there twice"),
        ({"values": [1, math.nan]}, "parameters.lr.values[1]: nan is not JSON"),
        ({"value": {1: 2}}, "parameters.lr.value: {1: 2} is not JSON"),
        ({"values": [1, 2], "probabilities": [0.5]}, "probabilities: expected a list of 2 numbers"),
        ({"values": [1, 2], "probabilities": [0.5, 0.4]}, "probabilities: they sum to 0.9, not to 1"),
        ({"values": [1, 2], "probabilities": [1.5, -0.5]}, "probabilities[1] must be a number of at least 0, got -0.5"),
    ]:  # fmt: skip
        said = refusal(read_distribution, "lr", given)
        assert words in said, given
        assert said.startswith("parameters.lr"), given
