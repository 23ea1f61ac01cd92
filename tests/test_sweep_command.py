"""lightning sweep: what it runs and prints, and one line for everything that cannot work."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lightning_gen.cli import main
from lightning_gen.commands.sweep import SweepScreen, dashes_to_underscores, short
from lightning_gen.runs import RunFolder
from lightning_gen.sweeps.file import read_sweep
from lightning_gen.sweeps.study import SweepStudy

CONFIG = str(Path(__file__).parent / "conf" / "gan.yaml")
PROGRAM = """
import ast, sys
from lightning_gen.sweeps import trial
options = {key: ast.literal_eval(value) for key, value in (arg.lstrip("-").split("=", 1) for arg in sys.argv[1:])}
sweep = trial.join()
if options.get("fails"):
    sys.exit("error: no luck")
if options.get("other"):
    sweep.no_metric(["val/y", "val/xyz"])
    sys.exit(2)
sweep.report(100, 1, (options["x"] - 2) ** 2)
"""


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """Write a sweep over x = 0 .. 4 into the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("program.py").write_text(PROGRAM)

    def write(**changes):
        content = {
            "program": "program.py",
            "method": "grid",
            "metric": {"name": "val/x", "goal": "minimize"},
            "command": ["${env}", "${interpreter}", "${program}", "${args}"],
            "parameters": {"x": {"values": [0, 1, 2, 3, 4]}, "name": {"value": None}, **changes.pop("parameters", {})},
            **changes,
        }
        Path("s.yaml").write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return "s.yaml"

    return write


def fails(args: list[str], capsys, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *args])
    assert stop.value.code == code
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    lines = [line for line in captured.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, captured
    return lines[0]


# --- what it does -------------------------------------------------------------------------------------------------


def test_a_grid_runs_to_its_end_and_the_winner_is_told(sweep_file, capsys):
    main(["sweep", sweep_file(), "--jobs", "2"])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("trial ")]
    assert len(lines) == 5
    assert "trial 2 finished: val/x 0 (" in err
    assert "x 2" in err
    table = [line.split() for line in out.splitlines()[:6]]
    assert table[0] == ["trial", "val/x", "seconds", "x"], "constants, and states that all share, have no column"
    assert table[1][:2] == ["2", "0"]
    assert [float(row[1]) for row in table[1:]] == [0, 1, 1, 4, 4]
    assert "5 trials (5 finished) in runs/s" in out
    command = next(line.strip() for line in out.splitlines() if "program.py" in line)
    assert shlex.split(command) == ["python", "program.py", "--name=null", "--x=2"]
    assert "lightning sweep s.yaml --best-config best.yaml" in out
    assert yaml.safe_load(Path("runs/s/sweep.yaml").read_text()) == yaml.safe_load(Path("s.yaml").read_text())

    main(["sweep", "s.yaml"])
    again, err = capsys.readouterr()
    assert again == out
    assert "trial" not in err, "nothing runs again"


def test_count_seed_name_and_root_are_heeded(sweep_file, capsys):
    file = sweep_file(method="random", parameters={"x": {"min": 0.0, "max": 9.0}}, run_cap=2)
    drawn = {}
    for name, options in {
        "cap": [],
        "count": ["--count", "3"],
        "more": ["--count=5", "--jobs=3"],
        "seed": ["--count", "3", "--seed", "5"],
    }.items():
        main(["sweep", file, "--root", "there", "--name", name, *options])
        folders = sorted(Path("there", name).glob("version_*"))
        drawn[name] = [json.loads((folder / "trial.json").read_text())["parameters"]["x"] for folder in folders]
    out = capsys.readouterr().out
    assert [len(values) for values in drawn.values()] == [2, 3, 5, 3]
    assert drawn["cap"] == drawn["count"][:2]
    assert drawn["count"] == drawn["more"][:3]
    assert not set(drawn["seed"]) & set(drawn["more"])
    assert "--root there --name seed --best-config" in out


def test_failed_trials_are_told_and_counted(sweep_file, capsys):
    main(["sweep", sweep_file(parameters={"fails": {"values": [False, True]}, "x": {"values": [1, 2]}})])
    out, err = capsys.readouterr()
    assert "4 trials (2 finished, 2 failed)" in out
    assert "failed (" in err
    assert "no luck; with fails True, x 1" in err
    with pytest.raises(SystemExit) as stop:
        main(["sweep", sweep_file(parameters={"fails": {"value": True}, "x": {"value": 1}}), "--name", "none"])
    assert stop.value.code == 1
    assert "1 trials (1 failed)" in (out := capsys.readouterr().out)
    assert "there is no winner" in out


def test_another_metric_and_the_file_for_wandb_are_printed(sweep_file, capsys):
    file = sweep_file(metric={"name": "val/y", "goal": "maximize"})
    main(["sweep", file, "--print-sweep"])
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(Path(file).read_text())
    main(["sweep", file, "--print_sweep", "--metric", "val/z"])
    assert yaml.safe_load(capsys.readouterr().out)["metric"] == {"name": "val/z", "goal": "maximize"}
    assert not Path("runs").exists()


def test_workers_take_their_share_of_a_sweep_in_a_storage(sweep_file, capsys):
    file, storage = sweep_file(), ["--storage", "sqlite:///shared.db"]
    main(["sweep", file, "--count", "2", *storage])
    capsys.readouterr()
    main(["sweep", file, "--worker", *storage])
    out, err = capsys.readouterr()
    assert (out, err) == ("", ""), "the count is reached"
    main(["sweep", file, "--worker", "--count", "4", "--root", "elsewhere", *storage])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("finished") == 2
    assert sorted(path.name for path in Path("elsewhere/s").iterdir()) == ["version_2", "version_3"]


def test_a_terminal_shows_a_bar_with_the_best_value_so_far(sweep_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    main(["sweep", sweep_file()])
    err = capsys.readouterr().err
    assert "5/5" in err
    assert "best val/x 0 (trial 2)" in err
    assert "finished:" not in err, "the bar says it"


def test_a_bar_counts_what_other_workers_have_done(sweep_file, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    study = SweepStudy(read_sweep(sweep_file()), "runs", "s")
    study.finished(study.next(5), 3.0, 1.0)
    screen = SweepScreen(study, 5)
    study.failed(study.next(5), "x", [], 1.0)
    study.next(5)
    screen.refresh()
    assert (screen.bar.n, screen.bar.total) == (2, 5)
    assert screen.bar.postfix == "1 running, best val/x 3 (trial 0)"
    screen.close()


def test_options_have_dashes_or_underscores():
    assert dashes_to_underscores("--best-config") == "--best_config"
    assert dashes_to_underscores("--best_config=a-b") == "--best_config=a-b"
    assert dashes_to_underscores("my-file.yaml") == "my-file.yaml"
    assert dashes_to_underscores("--count") == "--count"


def test_long_values_are_cut_and_classes_named_shortly():
    assert short("lightning_gen.objectives.Hinge") == "Hinge"
    assert short(0.000123456) == "0.0001235"
    assert len(short(list(range(100)))) == 40
    assert short(None) == "None"
    one, two = (
        {"class_path": f"lightning_gen.objectives.{name}", "init_args": {"weight": 0.5}} for name in ("R1", "R2")
    )
    assert short(one) == "R1(weight=0.5)"
    assert short([one, two]) == "R1(weight=0.5) + R2(weight=0.5)"
    assert short({"class_path": "a.B"}) == "B"
    assert short({"covariance": "full", "rank": None}) == "{'covariance': 'full', 'rank': None}"


# --- bad input ----------------------------------------------------------------------------------------------------


def test_what_cannot_work_is_one_line_and_leaves_nothing(sweep_file, capsys, tmp_path):
    grid = sweep_file()
    Path("file").write_text("")
    Path("random.yaml").write_text(Path(grid).read_text().replace("grid", "random"))
    Path("figureless.yaml").write_text(
        "\n".join(
            line
            for line in Path(grid).read_text().splitlines()
            if "val/x" not in line and "goal" not in line and "metric" not in line
        )
    )
    Path("lost.yaml").write_text(Path(grid).read_text().replace("${interpreter}", "pithon"))
    before = sorted(path.name for path in tmp_path.iterdir())
    for args, message in (
        (["nope.yaml"], r"no sweep file nope.yaml"),
        ([], "error: FILE: is required"),
        ([grid, "--count", "0"], "--count: expected a whole number of at least 1"),
        ([grid, "--jobs", "0"], "--jobs: expected a whole number of at least 1"),
        ([grid, "--jobs", "two"], "--jobs: expected a whole number"),
        ([grid, "--seed=-1"], "--seed"),
        ([grid, "--conut", "3"], "--conut: no such option (did you mean 'count'?)"),
        (["random.yaml"], "how many runs? give --count N, or run_cap in random.yaml"),
        (["figureless.yaml"], "has no metric: which figure is optimised? give --metric NAME"),
        (["lost.yaml"], "the sweep's program 'pithon' is not to be found"),
        ([grid, "--worker"], "--worker needs --storage URL"),
        ([grid, "--worker", "--storage", "sqlite:///x.db"], "the storage has no sweep 's'"),
        ([grid, "--storage", "sqlite:////no/such/x.db"], "cannot be reached"),
        ([grid, "--storage", "x"], "--storage 'x' is not the URL of a database"),
        ([grid, "--root", "file"], "cannot make the sweep's folder file/s"),
        ([grid, "--name", "a/b"], "--name 'a/b' cannot be the name of a folder"),
        ([grid, "--best-config", "no/such/best.yaml"], "--best-config no/such/best.yaml: there is no folder no/such"),
        ([grid, "--best-config", "."], "--best-config .: give the name of a file"),
        ([grid, "--best-config", "best.yaml"], "there is no sweep 's' in runs: start it with --count N"),
    ):
        assert message in fails(args, capsys)
        left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("x.db"))
        assert left == before, args


def test_optuna_that_is_not_installed_is_told(sweep_file, capsys, monkeypatch):
    file = sweep_file()
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "lightning sweep needs Optuna: pip install 'lightning-gen[sweep]'" in fails([file], capsys)
    assert not Path("runs").exists()


def test_a_metric_that_no_run_logs_leaves_no_sweep_behind(sweep_file, capsys):
    line = fails([sweep_file(parameters={"other": {"value": True}})], capsys)
    assert "no figure is named 'val/x' (did you mean 'val/xyz'?)" in line
    assert "give --metric NAME" in line
    assert not Path("runs").exists()
    file = sweep_file()
    main(["sweep", file, "--count", "1"])
    assert "1 trials (1 finished)" in capsys.readouterr().out


def test_a_sweep_whose_first_trials_all_fail_ends_with_the_last_ones_reason(sweep_file, capsys):
    line = fails([sweep_file(parameters={"fails": {"value": True}, "x": {"values": list(range(9))}})], capsys, 1)
    assert "the first 5 trials have failed, the last one so: no luck" in line
    assert "once that is put right, start it again: lightning sweep s.yaml" in line
    Path("program.py").write_text(PROGRAM.replace('options.get("fails")', "False"))
    main(["sweep", "s.yaml"])
    out, err = capsys.readouterr()
    assert "9 trials (9 finished)" in out
    assert err.count("finished") == 9


def test_a_name_that_is_taken_by_another_sweep_needs_another_one(sweep_file, capsys):
    main(["sweep", sweep_file(), "--count", "1"])
    capsys.readouterr()
    other = sweep_file(parameters={"x": {"values": [7]}})
    assert "has another parameters than s.yaml: give --name NAME" in fails([other], capsys)
    main(["sweep", other, "--name", "t"])
    assert "1 trials" in capsys.readouterr().out


def test_a_sweep_inside_a_run_of_a_sweep_has_runs_of_its_own(sweep_file, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_SWEEP", "of the sweep around it")
    main(["sweep", sweep_file(), "--count", "1"])
    assert (Path("runs/s/version_0") / "trial.json").is_file()


# --- with real runs -----------------------------------------------------------------------------------------------


def real_sweep(folder: Path, **changes) -> Path:
    content = {
        "program": "lightning",
        "method": "random",
        "metric": {"name": "val/fid_digits_heldout", "goal": "minimize"},
        "command": ["${env}", "${program}", "fit", "--config", CONFIG, "${args}"],
        "parameters": {
            "model.generator_optimizer.lr": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2},
            "model.generator.widths": {"values": [[16], [32]]},
            "budget.images": {"value": 12800},
            "budget.minutes": {"value": None},
            "evaluation.every": {"value": 3200},
            "checkpoint.every": {"value": 640},
        },
        **changes,
    }
    (folder / "real.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "real.yaml"


@pytest.fixture
def sweep_process():
    """Start sweeps in processes of their own; none outlives the test."""
    started = []

    def start(folder: Path, file: Path, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "lightning_gen", "sweep", str(file), "--root", str(folder / "runs"), *options]
        with (folder / "log").open("a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_killed_in_the_middle_ends_as_one_that_was_not(tmp_path, sweep_process):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert sweep_process(whole, real_sweep(whole), "--count", "4", "--jobs", "2").wait(400) == 0
    sweep = sweep_process(killed, real_sweep(killed), "--count", "4", "--jobs", "2")
    runs = [RunFolder(killed / "runs" / "real" / f"version_{i}") for i in range(4)]

    def in_the_middle() -> bool:
        # A run of the second pair has only begun when its first checkpoint is there; the first pair may be ending.
        begun = any(run.last.is_file() and not run.is_finished() for run in runs[2:])
        return begun and any(run.is_finished() for run in runs)

    deadline = time.monotonic() + 400
    while not in_the_middle():
        assert sweep.poll() is None, (killed / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    deadline = time.monotonic() + 120
    while left := runs_alive(killed):
        assert time.monotonic() < deadline, f"a run outlived its sweep: {left}"
        time.sleep(0.05)
    begun = [run for run in runs if run.last.is_file() and not run.is_finished()]
    finished = {run.path.name: run.last.stat().st_mtime_ns for run in runs if run.is_finished()}
    assert begun
    assert finished
    parameters = {i: trial_of(run)["parameters"] for i, run in enumerate(runs) if (run.path / "trial.json").is_file()}
    assert sweep_process(killed, killed / "real.yaml", "--count", "4", "--jobs", "2").wait(400) == 0
    for i, run in enumerate(runs):
        same = RunFolder(whole / "runs" / "real" / f"version_{i}")
        assert trial_of(run)["state"] == "finished"
        assert trial_of(run)["parameters"] == trial_of(same)["parameters"]
        assert trial_of(run)["value"] == trial_of(same)["value"], "it went on from its checkpoint, bit for bit"
        assert parameters.get(i, trial_of(run)["parameters"]) == trial_of(run)["parameters"]
        if run.path.name in finished:
            assert run.last.stat().st_mtime_ns == finished[run.path.name], "a finished trial ran again"
    for run in begun:
        assert "continuing GAN" in (run.path / "log.txt").read_text()


def trial_of(run: RunFolder) -> dict:
    return json.loads((run.path / "trial.json").read_text())


def runs_alive(folder: Path) -> list[int]:
    """Numbers of processes whose sweep keeps its runs in ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"LIGHTNING_GEN_SWEEP" in (text := (process / "environ").read_bytes()) and str(folder).encode() in text:
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_early_termination_ends_real_runs_and_the_best_one_becomes_a_config(tmp_path, sweep_process, monkeypatch):
    monkeypatch.chdir(tmp_path)
    early = {"type": "hyperband", "min_iter": 1, "eta": 2}
    parameters = {
        "model.generator_optimizer.lr": {"values": [0.005, 1.0e-6]},
        "seed_everything": {"values": [0, 1]},
        "budget.images": {"value": 3840},
        "evaluation.every": {"value": 640},
    }
    file = real_sweep(tmp_path, method="grid", early_terminate=early, parameters=parameters)
    sweep = sweep_process(tmp_path, file, "--best-config", str(tmp_path / "best.yaml"), "--count", "4")
    assert sweep.wait(800) == 0, (tmp_path / "log").read_text()
    runs = [RunFolder(tmp_path / "runs" / "real" / f"version_{i}") for i in range(4)]
    states = [trial_of(run)["state"] for run in runs]
    assert states[0] == "finished"
    assert "pruned" in states
    for run, state in zip(runs, states, strict=True):
        assert run.summary()["status"] == state
        assert run.summary()["images_seen"] == (3840 if state == "finished" else run.summary()["images_seen"])
        assert trial_of(run)["value"] == run.summary()["last"]["val/fid_digits_heldout"]
        if state == "pruned":
            assert run.summary()["images_seen"] < 3840
            assert "pruned" in (tmp_path / "log").read_text()
    text = Path("best.yaml").read_text()
    best = min((run for run in runs if run.is_finished()), key=lambda run: trial_of(run)["value"])
    assert f"# Trial {best.path.name.removeprefix('version_')} of 4 of the sweep real" in text
    config, own = yaml.safe_load(text), yaml.safe_load((best.path / "config.yaml").read_text())
    assert (config.pop("run"), own.pop("run"))[0] == {**yaml.safe_load(text)["run"], "experiment": None, "root": "runs"}
    assert config == own
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "best.yaml", "--print_config"])
    assert stop.value.code == 0
    main(["sweep", str(file), "--root", str(tmp_path / "runs"), "--best_config", "again.yaml"])
    assert Path("again.yaml").read_text() == text.replace(f"{tmp_path}/best.yaml", "again.yaml")
