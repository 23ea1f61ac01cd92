"""What reviewers found: each test is one report that came in with a reproducer."""

from pathlib import Path

import pytest
import torch
import yaml

from lightning_gen import ImageSpec, load
from lightning_gen.callbacks import EMA
from lightning_gen.cli import main
from lightning_gen.core.descriptions import describe
from lightning_gen.core.errors import InputError
from lightning_gen.models import GAN, ImageModule
from lightning_gen.networks import MLPDiscriminator, MLPGenerator

CONFIG = str(Path(__file__).parent / "conf" / "gan.yaml")


class PassingOn(GAN):
    """A subclass that names none of its base's arguments."""

    def __init__(self, *args, extra: int = 3, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = extra


def fit(folder, *options):
    main(["fit", "--config", CONFIG, "--budget.images", "640", "--run.root", str(folder), *options])
    (run,) = folder.glob("*/version_*")
    return run


def arguments():
    return {
        "generator": MLPGenerator,
        "discriminator": MLPDiscriminator,
        "generator_optimizer": torch.optim.Adam,
        "discriminator_optimizer": torch.optim.Adam,
    }


def test_options_that_help_leaves_out_are_kept_with_interpolation_and_in_config_yaml(tmp_path):
    (tmp_path / "same.yaml").write_text('evaluation: {n: "${budget.images}"}')
    extra = ["--config", str(tmp_path / "same.yaml"), "--trainer.limit_val_batches", "0"]
    run = fit(tmp_path / "runs", *extra)
    assert not list((run / "samples").glob("0*.png"))
    trainer = yaml.safe_load((run / "config.yaml").read_text())["trainer"]
    assert trainer["limit_val_batches"] == 0
    assert trainer["max_epochs"] == -1


def test_help_does_not_list_replaced_options(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = capsys.readouterr().out
    assert "--trainer.max_steps" not in text
    assert "--trainer.limit_val_batches" not in text
    assert "--trainer.devices" in text


def test_early_stopping_acts_after_an_evaluation(tmp_path):
    stop = {"class_path": "lightning.pytorch.callbacks.EarlyStopping"}
    stop["init_args"] = {"monitor": "val/fid_digits", "patience": 1, "min_delta": 1000.0}
    (tmp_path / "stop.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [stop]}}))
    run = fit(tmp_path / "runs", "--config", str(tmp_path / "stop.yaml"), "--evaluation.every", "64")
    assert sorted(int(path.stem) for path in (run / "samples").glob("0*.png")) == [64, 128]


def test_evaluations_are_counted_in_images_where_epochs_end(tmp_path):
    run = fit(tmp_path / "runs", "--trainer.limit_train_batches", "3", "--evaluation.every", "320")
    assert sorted(int(path.stem) for path in (run / "samples").glob("0*.png")) == [320, 640]


def test_data_without_reference_images_are_refused_before_training(tmp_path, capsys, monkeypatch):
    (tmp_path / "plain_data.py").write_text(
        "from lightning.pytorch import LightningDataModule\n"
        "from lightning_gen import ImageSpec\n"
        "class Plain(LightningDataModule):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.spec = ImageSpec(1, 8, 8, 17, 10)\n"
        "    def train_dataloader(self):\n"
        "        return []\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = yaml.safe_load(Path(CONFIG).read_text()) | {"data": {"class_path": "plain_data.Plain"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(tmp_path / "config.yaml"), "--run.root", str(tmp_path / "runs")])
    assert end.value.code == 2
    assert "the data are Plain" in capsys.readouterr().err


def test_predict_refuses_several_ranks(tmp_path, capsys):
    run = fit(tmp_path / "runs")
    last = str(run / "checkpoints" / "last.ckpt")
    with pytest.raises(SystemExit) as end:
        main(["predict", "--config", CONFIG, "--ckpt_path", last, "--trainer.devices", "2"])
    assert end.value.code == 2
    assert "one device" in capsys.readouterr().err


def test_a_grid_for_a_missing_folder_is_refused_before_drawing(tmp_path, capsys):
    run = fit(tmp_path / "runs")
    out, grid = tmp_path / "out", tmp_path / "none" / "grid.png"
    with pytest.raises(SystemExit) as end:
        main(["sample", str(run / "checkpoints" / "last.ckpt"), "--out", str(out), "--grid", str(grid)])
    assert end.value.code == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not out.exists()


def test_a_subclass_that_passes_positional_arguments_on_can_be_described(quiet_trainer, make_batches, tmp_path):
    spec = ImageSpec(1, 4, 4, levels=17)
    model = PassingOn(spec=spec, extra=5, **arguments())
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(model, make_batches(spec, 2))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = load(tmp_path / "model.ckpt", trust=(__name__.partition(".")[0],))
    assert (type(again), again.extra) == (PassingOn, 5)


def test_positional_arguments_that_nobody_can_name_are_refused_when_saving():
    model = PassingOn(ImageSpec(1, 4, 4), **arguments())
    with pytest.raises(InputError, match=r"\*args: use keywords"):
        describe(model)


class RunningMean(ImageModule):
    """A model without parameters and optimizer, as one fitted by EM is."""

    automatic_optimization = False

    def __init__(self, spec: ImageSpec):
        super().__init__(spec)
        self.register_buffer("mean", torch.zeros(spec.shape))

    def configure_optimizers(self):
        return None

    def training_step(self, batch, batch_idx):
        self.mean.lerp_(batch.levels.float().mean(0), 0.5)
        self.count_images(batch)


def test_a_model_of_buffers_alone_is_trained_with_an_average(quiet_trainer, make_batches):
    spec = ImageSpec(1, 4, 4, levels=17)
    model, ema = RunningMean(spec), EMA(half_life=10)
    quiet_trainer(callbacks=[ema]).fit(model, make_batches(spec, 3))
    assert model.images_seen == 24
    assert torch.equal(ema.averages["model"].mean, model.mean)
