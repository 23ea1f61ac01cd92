"""When the machine fails: one line that says what to lower or free, and the last good checkpoint intact."""

import errno
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.models import GAN
from lightning_gen.runs import RunFolder, read_metrics

CONFIG = str(Path(__file__).parent / "conf" / "gan.yaml")
FIT = [
    "fit",
    "--config",
    CONFIG,
    "--evaluation.every",
    "1000000",
    "--checkpoint.every",
    "640",
    "--budget.images",
    "3200",
]


def fails(args, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    captured = capsys.readouterr().err
    lines = [line for line in captured.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured
    return lines[0]


def is_whole(run: RunFolder, images: int) -> None:
    assert lightning_gen.load(run.last).images_seen == images
    assert [path.name for path in run.last.parent.iterdir()] == ["last.ckpt"], "a temporary file was left"
    assert run.summary()["status"] == "failed"


def test_disk_full_while_saving(tmp_path, capsys, monkeypatch):
    save, calls = Trainer.save_checkpoint, []

    def full_at_the_third(self, path, *args, **kwargs):
        calls.append(path)
        if len(calls) >= 3:
            Path(path).write_bytes(b"half of a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(Trainer, "save_checkpoint", full_at_the_third)
    line = fails([*FIT, "--run.root", str(tmp_path)], capsys)
    assert "the disk is full" in line
    assert "free some space" in line
    run = RunFolder(tmp_path / "gan" / "version_0")
    assert str(run.last) in line
    is_whole(run, 1280)
    monkeypatch.undo()
    main([*FIT, "--run.root", str(tmp_path), "--ckpt_path", "last"])
    assert run.summary()["images_seen"] == 3200


def test_out_of_memory(tmp_path, capsys, monkeypatch):
    step = GAN.training_step

    def too_large(self, batch, batch_idx):
        if self.images_seen >= 1600:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(GAN, "training_step", too_large)
    line = fails([*FIT, "--run.root", str(tmp_path)], capsys)
    assert "out of memory" in line
    assert "--data.batch_size" in line
    is_whole(RunFolder(tmp_path / "gan" / "version_0"), 1280)


def test_evaluation_that_fails_gives_the_live_weights_back(tmp_path, monkeypatch):
    from lightning_gen.callbacks import GenerativeEvaluation

    seen = {}

    def broken(self, trainer, model, part):
        seen["in evaluation"] = [p.clone() for p in model.generator.parameters()]
        seen["model"] = model
        raise RuntimeError("broken metric")

    monkeypatch.setattr(GenerativeEvaluation, "_evaluate", broken)
    with pytest.raises(RuntimeError, match="broken metric"):
        main([*FIT, "--run.root", str(tmp_path)])
    after = list(seen["model"].generator.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(seen["in evaluation"], after, strict=True))
    saved = torch.load(RunFolder(tmp_path / "gan" / "version_0").last, weights_only=True)
    assert saved["lightning_gen"]["images_seen"] == 2560


def test_metrics_csv_cut_in_the_middle_of_a_row_is_read(tmp_path):
    main([*FIT, "--run.root", str(tmp_path)])
    path = tmp_path / "gan" / "version_0" / "metrics.csv"
    header, rows = read_metrics(path)
    path.write_text(path.read_text()[:-20])
    cut_header, cut_rows = read_metrics(path)
    assert cut_header == header
    assert cut_rows == rows[:-1]


def test_bf16_trains_with_penalties_in_float32(tmp_path):
    main([*FIT, "--run.root", str(tmp_path), "--trainer.precision", "bf16-mixed"])
    run = RunFolder(tmp_path / "gan" / "version_0")
    assert run.summary()["precision"] == "bf16-mixed"
    saved = torch.load(run.last, weights_only=True)
    assert all(torch.isfinite(value).all() and value.dtype != torch.bfloat16 for value in saved["state_dict"].values())


def test_loggers_of_the_config_write_into_the_run(tmp_path):
    main([*FIT, "--run.root", str(tmp_path), "--run.tensorboard", "true", "--run.wandb", "true"])
    run = RunFolder(tmp_path / "gan" / "version_0").path
    assert list((run / "tensorboard").glob("events.out.*"))
    assert list((run / "wandb").glob("offline-run-*/run-*.wandb"))
    import wandb

    assert wandb.run is None, "a second run in this process would go on in the first one's W&B run"


def test_a_run_without_checkpoints_and_a_fast_run_leave_none(tmp_path):
    main([*FIT, "--run.root", str(tmp_path), "--trainer.enable_checkpointing", "false"])
    assert not (tmp_path / "gan" / "version_0" / "checkpoints").exists()
    main([*FIT, "--run.root", str(tmp_path / "fast"), "--trainer.fast_dev_run", "true"])
    assert not (tmp_path / "fast").exists()
