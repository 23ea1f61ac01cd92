"""benchmarks/digits.py: its lines are JSON with every key, its choice by BIC is scikit-learn's, runs are used again."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.mixture import GaussianMixture

from lightning_gen.data import Digits

ROOT = Path(__file__).parent.parent
FIGURES = (
    "fid_digits_heldout",
    "fid_digits",
    "precision_digits",
    "recall_digits",
    "copy_share_pixels",
    "is_digits",
    "seconds",
)
PROVENANCE = (
    "command",
    "machine",
    "threads",
    "versions",
    "git_commit",
    "extractor",
    "extractor_hash",
    "references",
    "metrics",
)


def script(name):
    specification = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


digits, table = script("digits"), script("table")


def lines(capsys, *args):
    capsys.readouterr()
    digits.main(args)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def config(tmp_path):
    """The quickstart's config with a budget of ten steps."""
    tiny = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    tiny["budget"] = {"images": 640}
    tiny["evaluation"] |= {"every": 640, "n": 50}
    tiny["checkpoint"]["every"] = 640
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny), encoding="utf-8")
    return path


def test_every_line_is_json_with_all_keys(capsys, config, tmp_path):
    few = ("--n", "100", "--seeds", "0", "1", "--mixtures", "1", "2")
    rows = lines(capsys, *few, "--bic", "1", "2", "--config", str(config), "--runs", str(tmp_path / "runs"))
    assert [row["kind"] for row in rows if "row" in row and "kind" in row] == [
        "floor",
        "bic",
        "mixture",
        "mixture",
        "config",
    ]
    assert all(key in row for row in rows for key in PROVENANCE)
    floor, bic, _, _, gan, *criteria = rows
    for row in (bic, gan):
        assert row["seeds"] == [0, 1]
        assert row["n"] == 100
        for figure in FIGURES:
            assert len(row[figure]["values"]) == 2
            assert row[figure]["mean"] == pytest.approx(np.mean(row[figure]["values"]))
            assert row[figure]["std"] == pytest.approx(np.std(row[figure]["values"], ddof=1))
    assert gan["seconds"]["mean"] > 0
    assert gan["images_seen"] == [640, 640]
    assert floor["fid_digits_heldout"]["mean"] == pytest.approx(floor["fid_digits"]["mean"])
    assert floor["copy_share_pixels"] is None
    assert rows[0]["references"]["heldout"] == rows[0]["references"]["heldout"] | {"part": "val", "n": 200}
    limits = [(line["against"], line["limit"]) for line in criteria]
    assert limits[:2] == [("mixture, components by BIC", 1.0), (floor["row"], 2.0)]
    for line, other in zip(criteria[:2], (bic, floor), strict=True):
        assert line["ratio"] == pytest.approx(gan["fid_digits_heldout"]["mean"] / other["fid_digits_heldout"]["mean"])
        assert line["met"] == (line["ratio"] <= line["limit"])
    text = table.tables(rows)
    assert "mixture, 2 components" in text
    assert "at most twice the floor" in text


def test_a_finished_run_is_scored_as_it_is(capsys, config, tmp_path):
    args = ("--n", "60", "--seeds", "3", "--mixtures", "--bic", "--config", str(config), "--runs", str(tmp_path / "r"))
    first, second = lines(capsys, *args), lines(capsys, *args)
    assert first[1]["runs"] == second[1]["runs"]
    assert first[1]["fid_digits_heldout"] == second[1]["fid_digits_heldout"]
    assert len(list((tmp_path / "r" / "tiny").iterdir())) == 1
    config.write_text(config.read_text(encoding="utf-8").replace("lr: 0.002", "lr: 0.003"), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        digits.main(args)
    assert stopped.value.code == 2
    assert "lr was 0.002 there and is 0.003" in capsys.readouterr().err


def test_components_are_those_of_the_lowest_bic():
    levels = Digits().load("train").levels
    mixtures, candidates = digits.Mixtures(levels, 16), [1, 2, 4]
    chosen, bics, _ = mixtures.choose(candidates, 0)
    x = levels.reshape(len(levels), -1).astype(float)
    expected = [
        GaussianMixture(k, covariance_type="full", reg_covar=1e-3, random_state=0).fit(x).bic(x) for k in candidates
    ]
    assert bics == pytest.approx(expected)
    assert chosen == candidates[int(np.argmin(expected))]
    samples = mixtures.sample(chosen, 0, 50)
    assert samples.shape == (50, 1, 8, 8)
    assert int(samples.max()) <= 16


def test_the_tutorial_gan_has_the_quickstarts_budget():
    configs = [
        yaml.safe_load((ROOT / "configs" / name).read_text(encoding="utf-8"))
        for name in ("quickstart.yaml", "gan/mlp-digits.yaml")
    ]
    assert configs[0]["budget"] == configs[1]["budget"]
    assert configs[1]["ema"]["half_life"] == 0
    assert "penalties" not in configs[1]["model"]["init_args"]


def test_metrics_lines_say_what_was_compared_and_make_tables(capsys):
    metrics = script("metrics")
    capsys.readouterr()
    metrics.main(["--quick", "--rounds", "1"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert list(dict.fromkeys(row["part"] for row in rows)) == list(metrics.PARTS)
    known = ("command", "machine", "threads", "versions", "git_commit", "n", "d", "rounds", "comparison", "clock")
    assert all(key in row for row in rows for key in known)
    for row in rows:
        if row["part"] in ("fidelity", "frechet"):
            assert row["ratio"] == pytest.approx(row["their_seconds"] / row["ours_seconds"])
            assert all(ours == pytest.approx(theirs, rel=0.02) for ours, theirs in row["figures"].values())
            assert row["met"] == (None if row["target"] is None else row["ratio"] >= row["target"])
        elif row["part"] == "passes":
            assert row["ratio"] == pytest.approx(sum(row["split"].values()) / row["split"]["passes"])
            assert row["met"] == (row["ratio"] <= row["target"])
            assert ("CopyShare" in row["split"]) == row["comparison"].endswith("with held-out images")
        else:
            names = [type(metric).__name__ for metric in metrics.everything()]
            assert sum(row["split"][name] for name in names) == pytest.approx(row["split"]["all"])
    assert all(row["figures"] for row in rows if row["part"] == "fidelity")
    text = metrics.tables(rows)
    assert all(row["comparison"] in text for row in rows)


def test_metrics_of_libraries_that_disagree_are_not_timed_and_rounds_are_odd():
    metrics = script("metrics")
    assert metrics.agree({"fid": (1.0, 1.0001)}, 1e-3) == {"fid": [1.0, 1.0001]}
    with pytest.raises(SystemExit, match=r"fid is 1\.0 here and 1\.1 there"):
        metrics.agree({"fid": (1.0, 1.1)}, 1e-3)
    with pytest.raises(SystemExit) as stopped:
        metrics.main(["--rounds", "4"])
    assert stopped.value.code == 2
