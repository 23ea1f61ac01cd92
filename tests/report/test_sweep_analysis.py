"""Sweeps: the parameter that decides is found, fronts are those of brute force, history and goals are right."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from lightning_gen.report.folders import find_runs
from lightning_gen.report.fronts import front
from lightning_gen.report.importance import FEWEST, Column, forest_importance, ranks, spearman
from lightning_gen.report.run import Run, read_run
from lightning_gen.report.sweeps import best_so_far, describe_sweep, describe_sweeps


def read(folder):
    return [read_run(run) for run in find_runs([folder])]


def described(runs):
    return describe_sweep(runs, [str(i) for i in range(len(runs))])


def trials(values, parameters, goal="minimize", states=None):
    """Make trials without folders."""
    return [
        Run(
            None,
            status=(states or {}).get(i, "finished"),
            trial={"sweep": "s", "trial": i, "metric": "m", "goal": goal, "parameters": one, "value": value},
        )
        for i, (value, one) in enumerate(zip(values, parameters, strict=True))
    ]


@pytest.mark.parametrize("higher", [False, True])
def test_the_front_is_that_of_brute_force(higher):
    sign = -1 if higher else 1

    def beaten(i, values, costs):
        return any(
            values[j] is not None
            and costs[j] is not None
            and sign * values[j] <= sign * values[i]
            and costs[j] <= costs[i]
            and (values[j], costs[j]) != (values[i], costs[i])
            for j in range(30)
        )

    for seed in range(20):
        source = np.random.default_rng(seed)
        values = [None if source.random() < 0.1 else int(v) for v in source.integers(0, 8, 30)]  # with many ties
        costs = [None if source.random() < 0.1 else int(c) for c in source.integers(0, 8, 30)]
        known = [i for i in range(30) if values[i] is not None and costs[i] is not None]
        expected = {i for i in known if not beaten(i, values, costs)}
        found = front(values, costs, higher)
        assert set(found) == expected, seed
        assert len(found) == len(expected), seed
        assert [costs[i] for i in found] == sorted(costs[i] for i in found), seed


def test_ranks_and_correlation_are_scipys():
    source = np.random.default_rng(0)
    x, y = source.integers(0, 5, 40).astype(float), source.normal(size=40)
    np.testing.assert_allclose(ranks(x), rankdata(x))
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert spearman(np.ones(40), y) is None


@pytest.mark.parametrize("seed", range(3))
def test_the_parameter_that_matters_is_found(make_sweep, tmp_path, seed):
    sweep = described(read(make_sweep(tmp_path / "gan", 40, seed)))
    found = sweep["importance"]
    assert found["trials"] == sum(trial["state"] == "finished" for trial in sweep["trials"])
    assert found["rows"][0]["name"] == "model.generator_optimizer.lr"
    assert found["rows"][0]["importance"] > 3 * max(abs(row["importance"]) for row in found["rows"][2:])
    assert found["explained"] > 0.3
    low, high = found["rows"][0]["near"]
    assert low < 1e-3 < high  # its optimum
    assert sweep["constant"] == {"data.batch_size": "64"}
    assert {parameter["name"]: parameter["log"] for parameter in sweep["parameters"]}["model.generator_optimizer.lr"]


def test_choices_without_an_order_are_shuffled_as_a_whole():
    source = np.random.default_rng(0)
    choices = source.choice(list("abcdef"), 120)
    effect = dict(zip("abcdef", source.permutation(6), strict=True))
    noise = source.normal(size=120)
    values = np.array([effect[choice] for choice in choices]) + 0.1 * source.normal(size=120)
    columns = [Column("choice", None, tuple(choices)), Column("noise", noise, tuple(map(str, noise)))]
    lost, explained = forest_importance(columns, values)
    assert explained > 0.8
    assert lost[0] > 0.8
    assert abs(lost[1]) < 0.1


def test_noise_alone_is_called_noise():
    source = np.random.default_rng(1)
    columns = [Column(str(i), x, tuple(map(str, x))) for i, x in enumerate(source.normal(size=(4, 30)))]
    lost, explained = forest_importance(columns, source.normal(size=30))
    assert explained < 0.1
    assert np.abs(lost).max() < 0.3


def test_the_sign_says_which_way_is_better():
    rates = [10.0**-i for i in range(12)]
    falling = described(trials([math.log(rate) for rate in rates], [{"lr": rate} for rate in rates]))
    assert falling["importance"]["rows"][0]["correlation"] == pytest.approx(1)
    choices = ["good", "bad"] * 6
    rows = described(
        trials(
            [{"good": 9, "bad": 1}[c] + i / 100 for i, c in enumerate(choices)], [{"c": c} for c in choices], "maximize"
        )
    )
    assert rows["importance"]["rows"][0]["best"] == "good"


def test_importance_that_cannot_be_told_says_why():
    for values, parameters, said in [
        (
            [1.0] * (FEWEST - 1),
            [{"a": i} for i in range(FEWEST - 1)],
            f"at least {FEWEST} finished trials with a value; there are {FEWEST - 1}",
        ),
        ([1.0] * 20, [{"a": i} for i in range(20)], "same value"),
        ([float(i) for i in range(20)], [{"a": 1}] * 20, "no parameter varies"),
        ([None] * 20, [{"a": i} for i in range(20)], "there are 0"),
        ([float(i) for i in range(20)], [{"config": f"{i}.yaml"} for i in range(20)], "no value occurs twice"),
    ]:
        assert said in described(trials(values, parameters))["importance"]["why_not"]


def test_only_finished_trials_win_and_decide():
    sweep = described(trials([3.0, 0.1, 2.0, None], [{"a": i} for i in range(4)], states={1: "pruned", 3: "failed"}))
    assert sweep["winner"] == 2
    assert [trial["best"] for trial in sweep["trials"]] == [3.0, 3.0, 2.0, 2.0]
    assert sweep["importance"]["trials"] == 2


@pytest.mark.parametrize("higher", [False, True])
def test_best_so_far_is_that_of_every_beginning(higher):
    values = [None, 3.0, None, 1.0, 5.0, 2.0]
    best = best_so_far(values, higher)
    pick = max if higher else min
    for end, value in enumerate(best):
        known = [v for v in values[: end + 1] if v is not None]
        assert value == (pick(known) if known else None)


def test_parameters_of_mixed_types_are_choices_and_missing_ones_stay_missing():
    given = [{"a": 1, "b": None, "c": [64, 64]}, {"a": 2, "b": 0.5, "c": [128]}, {"a": 3, "c": [64, 64]}]
    sweep = described(trials([1.0, 2.0, 3.0], given))
    kinds = {parameter["name"]: (parameter["kind"], parameter["choices"]) for parameter in sweep["parameters"]}
    assert kinds == {"a": ("number", []), "b": ("choice", ["0.5", "null"]), "c": ("choice", ["[64, 64]", "[128]"])}
    assert [trial["parameters"] for trial in sweep["trials"]] == [[1, 1, 0], [2, 0, 1], [3, None, 0]]


def test_sweeps_are_told_apart_by_folder_and_name(make_sweep, tmp_path):
    for folder, name in (("x/gan", "gan"), ("y/gan", "gan"), ("other", "vae")):
        make_sweep(tmp_path / folder, 3, name=name)
    runs = find_runs([tmp_path])
    sweeps = describe_sweeps([read_run(run) for run in runs], [str(i) for i in range(len(runs))], list(runs.values()))
    assert sorted(sweep["name"] for sweep in sweeps) == ["gan (x/gan)", "gan (y/gan)", "vae"]
    assert all(len(sweep["trials"]) == 3 for sweep in sweeps)
    everyone = itertools.chain.from_iterable((trial["run"] for trial in sweep["trials"]) for sweep in sweeps)
    assert sorted(everyone, key=int) == [str(i) for i in range(9)]


def test_a_trial_with_next_to_nothing_in_it_is_still_a_trial():
    for trial in ({}, {"parameters": []}, {"trial": "x", "goal": 3, "value": "high", "metric": None}):
        sweep = described([Run(None, trial={"sweep": ["odd"], **trial})] * 2)
        assert len(sweep["trials"]) == 2, trial
        json.dumps(sweep, allow_nan=False)


def test_the_winner_can_be_run_again(make_sweep, tmp_path):
    sweep = described(read(make_sweep(tmp_path / "gan", 5)))
    assert sweep["command"].startswith("lightning fit --config configs/gan/some.yaml --model.loss=")
    words = ["/usr/bin/env", "lightning", "fit", "--model.widths=[64, 64]", "--budget.minutes=None"]
    run = Run(None, status="finished", trial={"sweep": "s", "value": 1.0, "parameters": {}, "command": words})
    assert described([run])["command"] == "lightning fit --model.widths='[64, 64]' --budget.minutes=null"
