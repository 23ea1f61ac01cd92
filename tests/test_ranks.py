"""Two gloo ranks: the same run as one rank with the union of their batches; nothing hangs; files are written once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_gen.cli import main
from lightning_gen.runs import RunFolder, read_metrics

CONFIG = str(Path(__file__).parent / "conf" / "gan.yaml")
FULL = str(Path(__file__).parent / "conf" / "full.yaml")
# float64, no batch norm, SGD: nothing that depends on the order of sums beyond rounding, nothing per rank.
EXACT = [
    "--trainer.precision=64-true",
    "--model.generator_optimizer=torch.optim.SGD",
    "--model.generator_optimizer.lr=0.05",
    "--model.discriminator_optimizer=torch.optim.SGD",
    "--model.discriminator_optimizer.lr=0.05",
]


def fit(folder: Path, *arguments: str, config: str = CONFIG) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "lightning_gen",
            "fit",
            "--config",
            config,
            "--trainer.devices=2",
            f"--run.root={folder}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        check=False,
    )


def checkpoint(folder: Path, experiment: str = "gan") -> dict:
    return torch.load(folder / experiment / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)


def test_two_ranks_equal_one_rank_on_the_union_batch(tmp_path):
    # 20 steps of 32 images; n = 200 samples in chunks of 30 do not divide by ranks, nor do 200 validation images by 3.
    common = [
        *EXACT,
        "--model.generator.batch_norm=false",
        "--budget.images=640",
        "--evaluation.batch_size=30",
        "--data.eval_batch_size=67",
    ]
    two = fit(tmp_path / "two", *common, "--data.batch_size=16")
    assert two.returncode == 0, two.stderr
    main(["fit", "--config", CONFIG, f"--run.root={tmp_path / 'one'}", *common, "--data.batch_size=32"])
    a, b = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert b["lightning_gen"]["images_seen"] == 640
    assert b["lightning_gen"]["counters"] == {"critic_steps_taken": 20, "generator_steps_taken": 10}
    for name, value in a["state_dict"].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(b["state_dict"][name], value, rtol=0, atol=1e-10)
    for name, value in a["ema"]["generator"].items():
        torch.testing.assert_close(b["ema"]["generator"][name], value, rtol=0, atol=1e-10)
    one, other = (RunFolder(tmp_path / which / "gan" / "version_0").summary() for which in ("one", "two"))
    assert other["ranks"] == 2
    for name, value in one["last"].items():
        assert other["last"][name] == pytest.approx(value, rel=1e-9)
    rows = [read_metrics(tmp_path / which / "gan" / "version_0" / "metrics.csv")[1] for which in ("one", "two")]
    assert [row["images_seen"] for row in rows[0]] == [row["images_seen"] for row in rows[1]]
    assert not (tmp_path / "two" / "gan" / "version_1").exists()
    assert len(list((tmp_path / "two" / "gan" / "version_0" / "samples").glob("0*.png"))) == 1


def test_two_ranks_equal_one_rank_with_everything_that_draws_or_remembers(tmp_path):
    common = [
        *EXACT,
        "--budget.images=384",
        "--evaluation.n=60",
        "--evaluation.per_class=true",
        "--evaluation.neighbours=true",
    ]
    two = fit(tmp_path / "two", *common, "--data.batch_size=16", config=FULL)
    assert two.returncode == 0, two.stderr
    main(["fit", "--config", FULL, f"--run.root={tmp_path / 'one'}", *common, "--data.batch_size=32"])
    a, b = checkpoint(tmp_path / "one", "full"), checkpoint(tmp_path / "two", "full")
    assert b["lightning_gen"]["counters"] == {"critic_steps_taken": 12, "generator_steps_taken": 6}
    remembered = {name for name in a["state_dict"] if name.startswith(("augmentation.", "penalties.", "generator_pen"))}
    assert {"augmentation.p", "penalties.1.averages", "generator_penalties.0.average"} <= remembered
    assert a["state_dict"]["augmentation.p"] != pytest.approx(0.3)
    for name, value in a["state_dict"].items():
        difference = (b["state_dict"][name] - value).abs().max()
        assert difference < 1e-9, name
    for name, value in a["ema"]["generator"].items():
        torch.testing.assert_close(b["ema"]["generator"][name], value, rtol=0, atol=1e-9)
    one, other = (RunFolder(tmp_path / which / "full" / "version_0").summary() for which in ("one", "two"))
    assert "val/classes_digits_class9" in one["last"]
    assert other["last"] == pytest.approx(one["last"], rel=1e-6, abs=1e-9)


COLLAPSED = """
from lightning_gen.networks import MLPGenerator

class Stuck(MLPGenerator):
    '''Draws one image, whatever its latent.'''
    def forward(self, latent, labels=None):
        return super().forward(latent * 0, labels)
"""


@pytest.mark.slow
def test_all_ranks_stop_when_training_collapses(tmp_path):
    (tmp_path / "collapsed.py").write_text(COLLAPSED)
    run = fit(
        tmp_path,
        "--model.generator=collapsed.Stuck",
        "--model.generator.latent_dim=8",
        # Of a critic with batch norm each rank has its own statistics, hence its own opinion.
        "--model.discriminator=DCGANDiscriminator",
        "--model.discriminator.width=4",
        "--ema.half_life=0",
        "--evaluation.every=320",
        "--data.batch_size=16",
        "--collapse.action=stop",
        "--collapse.after=0",
    )
    assert run.returncode == 0, run.stderr
    output = run.stdout + run.stderr
    assert output.count("training looks collapsed at 640 images: samples differ 0.00 times") == 1, output
    assert checkpoint(tmp_path)["lightning_gen"]["images_seen"] == 640
    assert RunFolder(tmp_path / "gan" / "version_0").summary()["status"] == "finished"


LOSS = """
import os, torch
from lightning_gen.objectives import Relativistic

class SometimesNan(Relativistic):
    '''The loss of rank 1 alone is not a number on critic steps first .. last.'''
    def __init__(self, first: int = 3, last: int = 5):
        self.first, self.last, self.calls = first, last, 0
    def critic(self, terms):
        self.calls += 1
        loss = super().critic(terms)
        bad = self.first <= self.calls <= self.last and os.environ.get("LOCAL_RANK") == "1"
        return loss * float("nan") if bad else loss
"""


def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_by_all(tmp_path):
    (tmp_path / "bad_loss.py").write_text(LOSS)
    run = fit(
        tmp_path,
        "--model.loss=bad_loss.SometimesNan",
        "--budget.images=640",
        "--data.batch_size=16",
        "--trainer.log_every_n_steps=1",
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("the critic loss (nan) is not finite at 64 images seen") == 1
    saved = checkpoint(tmp_path)
    assert saved["callbacks"]["StepGuard"]["skipped_steps"] == 3
    assert saved["lightning_gen"]["images_seen"] == 640
    assert saved["lightning_gen"]["counters"] == {"critic_steps_taken": 17, "generator_steps_taken": 8}
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())
    rows = read_metrics(tmp_path / "gan" / "version_0" / "metrics.csv")[1]
    assert [row for row in rows if row["train/skipped_steps"]][-1]["train/skipped_steps"] == "3.0"
    assert RunFolder(tmp_path / "gan" / "version_0").summary()["skipped_steps"] == 3


@pytest.mark.slow
def test_ten_in_a_row_end_the_run_on_all_ranks(tmp_path):
    (tmp_path / "bad_loss.py").write_text(LOSS)
    arguments = ["--model.loss=bad_loss.SometimesNan", "--model.loss.last=99", "--data.batch_size=16"]
    run = fit(tmp_path, *arguments)
    assert run.returncode == 1, run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, run.stderr
    assert "training diverged: 10 steps in a row" in lines[0]
    assert "critic loss (nan) at 352 images seen" in lines[0]
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_ctrl_c_ends_both_ranks_after_the_same_step(tmp_path):
    log = tmp_path / "log"
    arguments = ["--data.batch_size=16", "--budget.images=10000000", f"--run.root={tmp_path}", "--trainer.devices=2"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_gen", "fit", "--config", CONFIG, *arguments],
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        csv = tmp_path / "gan" / "version_0" / "metrics.csv"
        deadline = time.monotonic() + 120
        while not csv.is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to both ranks
        assert process.wait(60) == 130, log.read_text()
    summary = RunFolder(tmp_path / "gan" / "version_0").summary()
    assert summary["status"] == "interrupted"
    assert checkpoint(tmp_path)["lightning_gen"]["images_seen"] == summary["images_seen"]
    resumed = fit(
        tmp_path, "--ckpt_path=last", "--data.batch_size=16", f"--budget.images={summary['images_seen'] + 320}"
    )
    assert resumed.returncode == 0, resumed.stderr
    assert checkpoint(tmp_path)["lightning_gen"]["images_seen"] == summary["images_seen"] + 320
