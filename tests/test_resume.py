"""A run killed at any moment and resumed ends with the same bits as one that was never stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from lightning_gen.callbacks import ExactResume
from lightning_gen.cli import main
from lightning_gen.core import ImageSpec
from lightning_gen.models import GenerativeModule
from lightning_gen.runs import RunFolder, read_metrics
from lightning_gen.steps.manual import count_step

CONFIG = str(Path(__file__).parent / "conf" / "gan.yaml")
FULL = str(Path(__file__).parent / "conf" / "full.yaml")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lightning_gen", "fit", "--config", CONFIG, *arguments]


def assert_same(a, b, where="checkpoint"):
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_run(one: Path, other: Path):
    """Weights, optimizers, averages, counters and random states are equal bit for bit."""
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    for key in ("state_dict", "optimizer_states", "ema", "random_states", "lightning_gen"):
        assert_same(a[key], b[key], key)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunFolder:
    folder = tmp_path_factory.mktemp("undisturbed")
    main(["fit", "--config", CONFIG, "--run.root", str(folder)])
    run = RunFolder(folder / "gan" / "version_0")
    assert run.is_finished()
    return run


@pytest.mark.parametrize("images", [3_500, pytest.param(9_000, marks=pytest.mark.slow)])
def test_sigkill_then_last_is_bit_exact(images, undisturbed, tmp_path):
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command("--run.root", str(tmp_path)), stdout=log, stderr=log)
        csv = tmp_path / "gan" / "version_0" / "metrics.csv"
        deadline = time.monotonic() + 120
        while not (csv.is_file() and (rows := read_metrics(csv)[1]) and float(rows[-1]["images_seen"]) >= images):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = RunFolder(tmp_path / "gan" / "version_0")
    assert run.summary()["status"] == "running"
    if not run.last.is_file():
        pytest.fail("killed before the first checkpoint")
    main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--ckpt_path", "last"])
    assert not (tmp_path / "gan" / "version_1").exists()
    assert run.is_finished()
    assert_same_run(run.last, undisturbed.last)
    seen = [float(row["images_seen"]) for row in read_metrics(csv)[1]]
    assert seen == sorted(seen)
    evaluations = [row for row in read_metrics(csv)[1] if row["val/fid_digits"]]
    expected = [row for row in read_metrics(undisturbed.path / "metrics.csv")[1] if row["val/fid_digits"]]
    assert [row["val/fid_digits"] for row in evaluations] == [row["val/fid_digits"] for row in expected]
    assert run.summary()["best"] == undisturbed.summary()["best"]
    assert {p.name for p in (run.path / "samples").iterdir()} == {
        p.name for p in (undisturbed.path / "samples").iterdir()
    }


@pytest.mark.parametrize(
    ("signum", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_signal_saves_and_ends(signum, code, undisturbed, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command("--run.root", str(tmp_path), "--checkpoint.every", "1000000", "--evaluation.every", "1000000"),
            stdout=file,
            stderr=file,
        )
        csv = tmp_path / "gan" / "version_0" / "metrics.csv"
        deadline = time.monotonic() + 120
        while not csv.is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signum)
        assert process.wait(60) == code, log.read_text()
    run = RunFolder(tmp_path / "gan" / "version_0")
    summary = run.summary()
    assert summary["status"] == "interrupted"
    assert 0 < summary["images_seen"] < 24_000
    assert torch.load(run.last, weights_only=True)["lightning_gen"]["images_seen"] == summary["images_seen"]
    line = log.read_text().splitlines()[-1]
    assert "everything is saved; to go on: lightning fit" in line
    assert line.endswith("--ckpt_path last")
    main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--ckpt_path", "last"])
    assert_same_run(run.last, undisturbed.last)


def test_evaluation_consumes_no_training_randomness(undisturbed, tmp_path):
    main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--evaluation.every", "1100", "--grid.n", "0"])
    assert_same_run(tmp_path / "gan" / "version_0" / "checkpoints" / "last.ckpt", undisturbed.last)


class Drawing(GenerativeModule):
    """Draws from the global generators, in training and in evaluation; keeps what training drew."""

    automatic_optimization = False

    def configure_optimizers(self):
        return []

    def numbers(self):
        return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002 - the global one is meant

    def training_step(self, batch, batch_idx):
        self.drawn = [*getattr(self, "drawn", []), self.numbers()]
        count_step(self)
        self.count_images(batch)

    def validation_step(self, batch, batch_idx):
        self.numbers()


def test_what_an_evaluation_draws_is_put_back(quiet_trainer, make_batches):
    spec, drawn = ImageSpec(1, 2, 2), []
    for evaluations in (0, 2):
        seed_everything(0, verbose=False)
        model = Drawing(spec)
        trainer = quiet_trainer(callbacks=[ExactResume()], val_check_interval=2, limit_val_batches=evaluations)
        trainer.fit(model, make_batches(spec, 6), make_batches(spec, 2))
        drawn.append(model.drawn)
    assert len(set(drawn[0])) == 6
    assert drawn[1] == drawn[0]


def test_same_config_same_bits_and_config_yaml_runs_again(undisturbed, tmp_path):
    main(["fit", "--config", str(undisturbed.path / "config.yaml"), "--run.root", str(tmp_path)])
    run = RunFolder(tmp_path / "gan" / "version_0")
    assert_same_run(run.last, undisturbed.last)
    old, new = ((folder.path / "config.yaml").read_text() for folder in (undisturbed, run))
    assert old.replace(str(undisturbed.path.parent.parent), str(tmp_path)) == new


def test_a_finished_run_goes_on_with_a_larger_budget(undisturbed, tmp_path, capsys):
    main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--budget.images", "9000"])
    run = RunFolder(tmp_path / "gan" / "version_0")
    with pytest.raises(SystemExit):
        main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--ckpt_path", "last"])
    assert "no unfinished run" in capsys.readouterr().err
    main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--ckpt_path", str(run.last)])
    assert_same_run(run.last, undisturbed.last)
    assert (run.path / "config.until-9024.yaml").is_file()


def test_a_run_with_everything_that_draws_or_remembers_goes_on_bit_for_bit(tmp_path):
    """At 992 images ADA is inside an interval, and the lazy penalties of both sides inside theirs."""
    main(["fit", "--config", FULL, "--run.root", str(tmp_path / "whole"), "--budget.images", "2016"])
    main(["fit", "--config", FULL, "--run.root", str(tmp_path / "half"), "--budget.images", "992"])
    whole, half = (RunFolder(tmp_path / name / "full" / "version_0") for name in ("whole", "half"))
    stored = torch.load(half.last, weights_only=True)["state_dict"]
    assert stored["augmentation.steps"] == 1
    assert stored["augmentation.p"] != pytest.approx(0.3)
    more = ["--budget.images", "2016", "--ckpt_path", str(half.last)]
    main(["fit", "--config", FULL, "--run.root", str(tmp_path / "half"), *more])
    assert_same_run(half.last, whole.last)


def test_what_differs_from_the_checkpoint_is_said_and_the_config_counts(tmp_path, capsys):
    main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--budget.images", "640"])
    last = tmp_path / "gan" / "version_0" / "checkpoints" / "last.ckpt"
    with pytest.raises(SystemExit) as stop:
        main(
            ["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--ckpt_path", str(last), "--budget.images", "640"]
        )
    assert stop.value.code == 2
    assert "has 640 images behind it: raise budget.images (640)" in capsys.readouterr().err
    changed = ["--model.generator_optimizer.lr", "0.5", "--budget.images", "1280"]
    main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--ckpt_path", str(last), *changed])
    assert "model.generator_optimizer.lr was 0.001 in the checkpoint and is 0.5" in capsys.readouterr().err
    saved = torch.load(last, weights_only=True)
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                "--config",
                CONFIG,
                "--run.root",
                str(tmp_path),
                "--ckpt_path",
                str(last),
                "--model.generator.widths",
                "[16]",
            ]
        )
    assert "do not fit" in capsys.readouterr().err


def test_two_runs_never_share_a_folder(tmp_path):
    folders = [RunFolder.new(str(tmp_path), "x") for _ in range(3)]
    assert [folder.path.name for folder in folders] == ["version_0", "version_1", "version_2"]


def test_a_run_that_is_alive_is_not_resumed(tmp_path, capsys):
    run = RunFolder.new(str(tmp_path), "gan")
    (run.path / "checkpoints").mkdir()
    main(["fit", "--config", CONFIG, "--run.root", str(tmp_path / "other"), "--budget.images", "64"])
    (tmp_path / "other" / "gan" / "version_0" / "checkpoints" / "last.ckpt").rename(run.last)
    import socket

    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # lightning"])
    try:
        run.write_summary({"status": "running", "host": socket.gethostname(), "pid": stranger.pid})
        with pytest.raises(SystemExit):
            main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--ckpt_path", "last"])
        assert f"still being written by process {stranger.pid}" in capsys.readouterr().err
    finally:
        stranger.kill()
        stranger.wait()
    assert json.loads((run.path / "summary.json").read_text())["status"] == "running"
    assert os.path.getsize(run.last) > 0
