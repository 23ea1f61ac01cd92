"""One run's folder in any state: everything readable is read, everything else is said in words."""

import json
import os
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from lightning_gen.report.curves import unpack
from lightning_gen.report.run import MOST_KEYS, flatten, read_run


def test_a_sound_run_is_read_without_a_problem(make_run, tmp_path):
    run = read_run(make_run(tmp_path / "quick" / "version_0", seed=3))
    assert run.problems == []
    assert (run.status, run.family, run.data, run.config_file) == ("finished", "GAN", "Digits", "configs/gan/some.yaml")
    assert run.config["model.generator.widths"] == "[67, 64]"
    assert run.parameters == {"generator": 4000, "discriminator": 500}
    assert run.command == "lightning fit --config configs/gan/some.yaml"
    assert set(run.best) == {"val/fid_digits", "val/fid_digits_heldout", "val/precision_digits"}
    assert [seen for seen, _ in run.grids] == [10_000, 20_000, 30_000, 40_000]
    assert set(run.logged) == set(unpack(run.curves)["curves"])


def test_a_config_is_flattened_to_names_of_the_command_line():
    flat = flatten(
        {
            "model": {
                "class_path": "a.GAN",
                "init_args": {
                    "penalties": [{"class_path": "a.R1", "init_args": {"weight": 0.1}}, {"class_path": "a.R2"}],
                    "betas": [0.0, 0.99],
                    "loss": None,
                },
                "dict_kwargs": {"extra": {}},
            },
            "plain": {"a": {"b": True}},
        }
    )
    assert flat == {
        "model": "a.GAN",
        "model.penalties.0": "a.R1",
        "model.penalties.0.weight": "0.1",
        "model.penalties.1": "a.R2",
        "model.betas": "[0.0, 0.99]",
        "model.loss": "null",
        "model.dict_kwargs.extra": "{}",
        "plain.a.b": "true",
    }


def test_a_damaged_file_is_named_and_the_others_still_count(make_run, tmp_path):
    damages = [
        ("summary.json", None, "summary.json is missing"),
        ("summary.json", b"", "summary.json is not JSON"),
        ("summary.json", b'{"status": "finished", "last": {"val/fid', "summary.json is not JSON"),
        ("summary.json", b"[1, 2]", "summary.json is not a JSON object"),
        ("summary.json", bytes(range(256)), "summary.json is not JSON"),
        ("summary.json", b"[" * 100_000, "summary.json is not JSON"),
        ("config.yaml", None, "config.yaml is missing"),
        ("config.yaml", b"model:\n  class_path: [", "config.yaml is not YAML from line "),
        ("config.yaml", b"\xff\xfe\x00", "config.yaml is not YAML"),
        ("config.yaml", b"seed_everything: 1\n", "config.yaml names no model"),
        ("config.yaml", b"just text", "config.yaml names no model"),
        ("config.yaml", b"model: !!python/object/apply:os.system [echo]", "config.yaml is not YAML"),
        ("config.yaml", b"model: &a [*a]", "config.yaml is not YAML"),
        ("test.json", b'{"test/fid": 1', "test.json is not JSON"),
        ("trial.json", b"half", "trial.json is not JSON"),
    ]
    for i, (name, content, said) in enumerate(damages):
        folder = make_run(tmp_path / f"version_{i}", grids=False)
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
        run = read_run(folder)
        assert any(said in problem for problem in run.problems), (damages[i], run.problems)
        assert run.last["val/fid_digits"] > 0, damages[i]  # of summary.json or metrics.csv, whichever is whole
        assert "val/fid_digits" in run.best, damages[i]
        assert "val/fid_digits" in run.logged, damages[i]


def test_aliases_that_multiply_are_stopped(make_run, tmp_path):
    folder = make_run(tmp_path / "version_0", grids=False)
    lines = ["a0: &a0 {x: 1, y: 2, z: 3}"]
    lines += [f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}, z: *a{i - 1}}}" for i in range(1, 25)]
    (folder / "config.yaml").write_text("\n".join(lines))
    assert any("config.yaml is not" in problem for problem in read_run(folder).problems)
    with pytest.raises(ValueError, match="keys"):
        flatten({str(i): i for i in range(MOST_KEYS + 1)})


def damaged(folder: Path, seed: int) -> Path:
    """Cut bytes off three of a trial's files, overwrite some, or exchange them for other values."""
    source = random.Random(seed)
    (folder / "test.json").write_text(json.dumps({"test/fid": 1.0, "n": 2000, "likelihood_kind": "exact"}))
    for name in source.sample(["summary.json", "trial.json", "config.yaml", "metrics.csv", "test.json"], 3):
        content = bytearray((folder / name).read_bytes())
        what = source.choice(["cut", "noise", "values"])
        if what == "cut":
            content = content[: source.randrange(len(content))]
        elif what == "noise":
            for _ in range(20):
                content[source.randrange(len(content))] = source.randrange(256)
        else:
            other = source.choice([b"null", b"[]", b"{}", b'"text"', b"-1e400", b"1e999", b"true"])
            content = bytearray(
                b"".join(other if source.random() < 0.3 else p for p in content.split(b": ")[:1])
            ) + b"".join(
                b": " + (other + b"," if source.random() < 0.3 else piece) for piece in bytes(content).split(b": ")[1:]
            )
        (folder / name).write_bytes(content)
    return folder


def test_no_damage_raises(make_sweep, tmp_path):
    """The run is still a row."""
    for seed in range(40):
        run = read_run(damaged(make_sweep(tmp_path / f"sweep{seed}", trials=1, seed=seed) / "version_0", seed))
        assert isinstance(run.status, str), seed
        told = [run.last, run.best, run.scored, run.config, run.problems, run.parameters, run.command]
        json.dumps(told, allow_nan=False)


def test_values_of_another_type_are_no_reason_to_fail(make_run, tmp_path):
    folder = make_run(tmp_path / "version_0", grids=False)
    sound = json.loads((folder / "summary.json").read_text())
    for replaced in ("status", "last", "best", "parameters", "seconds", "seed", "command", "likelihood"):
        for value in (None, [], {}, "text", 7, True, {"a": "b"}, [["x"]]):
            (folder / "summary.json").write_text(json.dumps({**sound, replaced: value}))
            run = read_run(folder)
            assert run.last["val/fid_digits"] > 0, (replaced, value)
            assert isinstance(run.command + run.status + run.family, str), (replaced, value)
            assert run.number("images_seen") == 40_000, (replaced, value)


def test_a_folder_without_permission_is_a_marked_row(make_run, tmp_path):
    folder = make_run(tmp_path / "version_0", grids=False)
    shutil.rmtree(folder / "samples", ignore_errors=True)
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()  # root may read everything, but no folder as a file
    (folder / "samples").write_text("no folder")
    run = read_run(folder)
    assert any("summary.json cannot be read" in problem for problem in run.problems)
    assert run.grids == []


def test_figures_without_a_summary_come_from_the_rows(make_run, tmp_path):
    folder = make_run(tmp_path / "version_0", grids=False)
    whole = read_run(folder)
    (folder / "summary.json").unlink()
    rows = read_run(folder)
    assert rows.last["val/fid_digits"] == whole.last["val/fid_digits"]
    assert rows.best["val/fid_digits"] == whole.best["val/fid_digits"]
    assert rows.status == "unknown"


def test_validation_and_test_are_kept_apart(make_run, tmp_path):
    folder = make_run(tmp_path / "version_0", grids=False)
    test = {"test/bpd_bound": 2.0, "test/bpd_bound_se": 0.01, "likelihood_kind": "bound", "likelihood_num_samples": 100}
    (folder / "test.json").write_text(json.dumps(test | {"n": 2000, "extractor": "digits"}))
    (folder / "validate.json").write_text(json.dumps({"val/fid_digits": 3.0}))
    run = read_run(folder)
    assert run.scored == {
        "validate": {"val/fid_digits": 3.0},
        "test": {"test/bpd_bound": 2.0, "test/bpd_bound_se": 0.01},
    }
    assert run.facts["test"] == {"kind": "bound", "num_samples": 100, "n": 2000}
    assert not any(name.startswith("test/") for name in run.last)
    assert run.problems == []


def test_a_name_that_contradicts_the_kind_is_said(make_run, tmp_path):
    figures = {"last": {"val/bpd": 2.0}, "likelihood": {"kind": "bound", "num_samples": 1}}
    (problem,) = read_run(make_run(tmp_path / "version_0", grids=False, summary=figures)).problems
    assert "exact" in problem
    assert "bound" in problem


def test_status_is_the_runs_word_unless_the_sweep_knows_better(make_run, tmp_path):
    for i, (summary, trial, status) in enumerate(
        [
            ("finished", "COMPLETE", "finished"),
            ("finished", "pruned", "pruned"),
            ("running", "failed", "failed"),
            ("interrupted", "running", "interrupted"),
            (None, "running", "running"),
            (None, None, "unknown"),
        ]
    ):
        folder = make_run(tmp_path / f"version_{i}", grids=False, summary={"status": summary})
        (folder / "trial.json").write_text(json.dumps({"sweep": "s", "state": trial}))
        assert read_run(folder).status == status, (summary, trial)


def test_a_run_whose_process_is_gone_is_lost(make_run, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    going = subprocess.Popen(["lightning fit", "30"], executable=shutil.which("sleep"))
    while b"lightning" not in Path(f"/proc/{going.pid}/cmdline").read_bytes():  # exec takes its time
        time.sleep(0.01)
    here = {"host": socket.gethostname(), "status": "running"}
    gone = make_run(tmp_path / "version_0", grids=False, summary={**here, "pid": ended.pid})
    alive = make_run(tmp_path / "version_1", grids=False, summary={**here, "pid": going.pid})
    own = make_run(tmp_path / "version_3", grids=False, summary={**here, "pid": os.getpid()})
    elsewhere = make_run(tmp_path / "version_2", grids=False, status="running", summary={"pid": ended.pid})
    try:
        lost = [read_run(folder).is_lost() for folder in (gone, alive, own, elsewhere)]
    finally:
        going.kill()
        going.wait()
    assert lost == [True, False, False, False]


def test_images_of_a_folder_are_named_with_it(make_run, tmp_path):
    source = {"class_path": "lightning_gen.data.ImageFolder", "init_args": {"root": "/data/my pictures/"}}
    data = {"class_path": "lightning_gen.data.ImageDataModule", "init_args": {"source": source}}
    run = read_run(make_run(tmp_path / "version_0", grids=False, config=yaml.safe_load(json.dumps({"data": data}))))
    assert run.data == "ImageFolder my pictures"
