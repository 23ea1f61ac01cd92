"""A run inside a sweep: it reports each evaluation, stops when told, and goes on in the folder that the sweep chose."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_gen.cli import main
from lightning_gen.runs import RunFolder, read_metrics
from lightning_gen.sweeps import trial
from lightning_gen.sweeps.trial import Trial

CONFIG = str(Path(__file__).parent.parent / "conf" / "gan.yaml")
METRIC = "val/fid_digits_heldout"
# Four evaluations of 640 images.
FIT = ["fit", "--config", CONFIG, "--budget.images=2560", "--evaluation.every=640", "--checkpoint.every=320"]


def facts(folder: Path, metric: str = METRIC) -> dict:
    parameters = {"budget.images": 2560}
    return {
        "folder": str(folder),
        "sweep": "s",
        "trial": 3,
        "metric": metric,
        "goal": "minimize",
        "parameters": parameters,
    }


class Told(Trial):
    """A sweep that says stop at one evaluation."""

    def __init__(self, folder: Path, stop_at: int | None = None, metric: str = METRIC):
        super().__init__(facts(folder, metric))
        self.stop_at, self.reports, self.known = stop_at, [], None

    def report(self, images_seen, count, value):
        self.reports.append((images_seen, count, value))
        return count == self.stop_at

    def no_metric(self, known):
        self.known = list(known)


@pytest.fixture
def in_sweep(tmp_path, monkeypatch):
    """Let the runs of this process be trial 3 of a sweep."""
    folder = tmp_path / "runs" / "s" / "version_3"
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text("{}")
    (folder / "log.txt").write_text("said before")

    def make(**options):
        told = Told(folder, **options)
        monkeypatch.setattr(trial, "join", lambda: told)
        return told, RunFolder(folder)

    return make


def evaluations(run: RunFolder) -> list[float]:
    return [float(row["images_seen"]) for row in read_metrics(run.path / "metrics.csv")[1] if row[METRIC]]


def test_a_run_that_is_told_to_stop_ends_with_that_evaluation_and_can_be_resumed(in_sweep, tmp_path):
    told, run = in_sweep(stop_at=2)
    main(FIT)
    figures = [float(row[METRIC]) for row in read_metrics(run.path / "metrics.csv")[1] if row[METRIC]]
    assert told.reports == [(640, 1, figures[0]), (1280, 2, figures[1])]
    assert evaluations(run) == [640, 1280]
    assert run.summary()["status"] == "pruned"
    assert run.summary()["last"][METRIC] == figures[1]
    assert not run.is_finished()
    assert torch.load(run.last, weights_only=True)["lightning_gen"]["images_seen"] == 1280
    assert [path.name for path in (tmp_path / "runs" / "s").iterdir()] == ["version_3"]

    told, run = in_sweep(stop_at=4)
    main(FIT)
    assert [(images, count) for images, count, _ in told.reports] == [(1920, 3), (2560, 4)]
    assert evaluations(run) == [640, 1280, 1920, 2560]
    assert run.summary()["status"] == "finished", "the last evaluation ends a run in any case"
    seconds = [float(row["seconds"]) for row in read_metrics(run.path / "metrics.csv")[1]]
    assert seconds == sorted(seconds), "the clock goes on from session to session"
    assert 0 < seconds[0] < seconds[-1] <= run.summary()["seconds"]


def test_what_an_attempt_without_a_checkpoint_left_is_cleared(in_sweep):
    _, run = in_sweep(stop_at=1)
    (run.path / "metrics.csv").write_text(f"images_seen,{METRIC}\n320,7.0\n")
    (run.path / "samples").mkdir()
    (run.path / "samples" / "000000000320.png").write_text("")
    main(FIT)
    assert evaluations(run) == [640]
    assert sorted(path.name for path in (run.path / "samples").iterdir()) == ["000000000640.png", "training.png"]
    assert (run.path / "trial.json").read_text() == "{}"
    assert (run.path / "log.txt").read_text() == "said before"


def test_the_sweep_decides_where_the_run_is_kept_and_how_it_goes_on(in_sweep, tmp_path):
    main([*FIT, "--run.root", str(tmp_path / "other"), "--budget.images=640"])
    first = RunFolder(tmp_path / "other" / "gan" / "version_0")
    before = first.last.read_bytes()
    in_sweep(stop_at=1)
    main([*FIT, "--run.root=elsewhere", "--run.experiment=x", "--init_from", str(first.last)])
    told, _ = in_sweep(stop_at=2)
    main([*FIT, "--run.root=elsewhere", "--run.experiment=x", "--init_from", str(first.last)])
    assert [count for _, count, _ in told.reports] == [2], "the second session went on from the first one's checkpoint"
    assert first.last.read_bytes() == before
    assert not Path("elsewhere").exists()


def test_a_checkpoint_of_another_run_starts_the_trial_in_its_own_folder(in_sweep, tmp_path):
    main([*FIT, "--run.root", str(tmp_path / "other"), "--budget.images=640"])
    other = RunFolder(tmp_path / "other" / "gan" / "version_0")
    rows = len(read_metrics(other.path / "metrics.csv")[1])
    told, run = in_sweep(stop_at=1)
    main([*FIT, "--ckpt_path", str(other.last)])
    assert [images for images, _, _ in told.reports] == [1280]
    assert evaluations(run) == [1280]
    assert len(read_metrics(other.path / "metrics.csv")[1]) == rows


def test_a_figure_that_the_run_does_not_have_is_told_to_the_sweep_and_to_the_user(in_sweep, capsys):
    told, run = in_sweep(metric="val/fid_digit")
    with pytest.raises(SystemExit) as stop:
        main(FIT)
    assert stop.value.code == 2
    assert {"val/fid_digits", METRIC} <= set(told.known)
    assert "step" not in told.known
    assert "the sweep wants 'val/fid_digit', and an evaluation gives val/fid_digits," in capsys.readouterr().err
    assert told.reports == []
    assert run.summary()["status"] == "failed"


def test_values_as_agents_write_them_are_read_in_a_sweep_alone(in_sweep, tmp_path, monkeypatch, capsys):
    told, run = in_sweep(stop_at=1)
    monkeypatch.setenv("LIGHTNING_GEN_SWEEP", json.dumps(facts(run.path)))
    main([*FIT, "--budget.minutes=None", "--model.generator.widths=[16,]"])
    assert len(told.reports) == 1
    monkeypatch.setattr(trial, "join", lambda: None)
    monkeypatch.delenv("LIGHTNING_GEN_SWEEP")
    with pytest.raises(SystemExit):
        main([*FIT, "--budget.minutes=None", f"--run.root={tmp_path / 'no'}"])
    assert "budget.minutes: expected a number or null, got 'None'" in capsys.readouterr().err


def test_a_variable_that_no_sweep_set_is_told(monkeypatch, capsys):
    for text in ("nonsense", "[]", "{}", "3"):
        monkeypatch.setenv("LIGHTNING_GEN_SWEEP", text)
        with pytest.raises(SystemExit) as stop:
            main(FIT)
        assert stop.value.code == 2
        assert "LIGHTNING_GEN_SWEEP is not what a sweep sets: unset it" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_process_of_its_own_is_stopped_through_its_link_on_all_ranks(ranks, tmp_path):
    folder = tmp_path / "runs" / "s" / "version_3"
    folder.mkdir(parents=True)
    ours, theirs = socket.socketpair()
    ours.settimeout(120)
    link = {"fd": theirs.fileno(), "inode": os.fstat(theirs.fileno()).st_ino, **facts(folder)}
    with ours, theirs, (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_gen", *FIT, f"--trainer.devices={ranks}"],
            env={**os.environ, "LIGHTNING_GEN_SWEEP": json.dumps(link)},
            pass_fds=(theirs.fileno(),),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        theirs.close()
        stream = ours.makefile("rw")
        for answer in ("go", "stop"):
            assert "value" in json.loads(stream.readline()), (tmp_path / "log").read_text()
            stream.write(f"{answer}\n")
            stream.flush()
        assert process.wait(120) == 0, (tmp_path / "log").read_text()
    run = RunFolder(folder)
    assert run.summary()["status"] == "pruned"
    assert run.summary()["ranks"] == ranks
    assert evaluations(run) == [640, 1280]


@pytest.mark.slow
@pytest.mark.parametrize("after", ["at once", "in training"])
def test_a_run_whose_sweep_dies_saves_and_ends(after, tmp_path):
    folder = tmp_path / "runs" / "s" / "version_3"
    folder.mkdir(parents=True)
    ours, theirs = socket.socketpair()
    link = {"fd": theirs.fileno(), "inode": os.fstat(theirs.fileno()).st_ino, **facts(folder)}
    with ours, theirs, (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_gen", *FIT, "--budget.images=100000000"],
            env={**os.environ, "LIGHTNING_GEN_SWEEP": json.dumps(link)},
            pass_fds=(theirs.fileno(),),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        theirs.close()
        if after == "in training":
            stream = ours.makefile("rw")
            stream.readline()
            stream.write("go\n")
            stream.flush()
            stream.close()
        ours.close()
        code = process.wait(120)
    run = RunFolder(folder)
    if after == "at once":
        assert code in (-15, 143)
        assert not run.last.exists()
    else:
        assert code == 143
        assert run.summary()["status"] == "interrupted"
        assert run.summary()["images_seen"] >= 640
        assert torch.load(run.last, weights_only=True)["sweep_evaluations"] >= 1
