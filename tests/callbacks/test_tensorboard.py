"""TensorBoard has the figures, pictures and hyperparameters of a run, also of one that was resumed."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lightning_gen.callbacks.dashboards import flat_config, precision_recall_ways
from lightning_gen.cli import main
from lightning_gen.runs import RunFolder, read_metrics

CONFIG = str(Path(__file__).parents[1] / "conf" / "gan.yaml")
# As a config made for Lightning alone has them: both become options of a run.
FURTHER = """
evaluation:
  every: 320
  n: 200
  metrics: [lightning_gen.metrics.FrechetDistance, lightning_gen.metrics.PrecisionRecall]
trainer:
  log_every_n_steps: 5
  logger:
  - {class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {save_dir: .}}
  - {class_path: lightning.pytorch.loggers.WandbLogger, init_args: {project: elsewhere, tags: [a]}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """Train, go back to an earlier checkpoint as after a kill, and train on."""
    root = tmp_path_factory.mktemp("tensorboard")
    (root / "further.yaml").write_text(FURTHER)
    fit = ["fit", "--config", CONFIG, "--config", str(root / "further.yaml"), "--run.root", str(root)]
    main([*fit, "--budget.images=640"])
    folder = RunFolder(root / "gan" / "version_0")
    earlier = folder.last.read_bytes()
    main([*fit, "--budget.images=960", "--ckpt_path", str(folder.last)])
    folder.last.write_bytes(earlier)
    main([*fit, "--budget.images=1280", "--ckpt_path", str(folder.last)])
    return folder


@pytest.fixture(scope="module")
def events(run) -> EventAccumulator:
    everything = {"scalars": 0, "images": 0, "histograms": 0}
    return EventAccumulator(str(run.path / "tensorboard"), size_guidance=everything).Reload()


def test_every_figure_is_there_once(run, events):
    header, rows = read_metrics(run.path / "metrics.csv")
    for name in header:
        if name in ("images_seen", "seconds"):  # TensorBoard has clocks of its own
            continue
        expected = [(int(row["images_seen"]), np.float32(row[name])) for row in rows if row[name]]
        found = [(event.step, np.float32(event.value)) for event in events.Scalars(name)]
        assert found == expected, name
    assert len(events.Scalars("val/fid_digits")) == 4


def test_pictures_are_those_on_disk(run, events):
    shown = events.Images("samples")
    assert [event.step for event in shown] == [320, 640, 960, 1280]
    for event in shown:
        pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        expected = Image.open(run.path / "samples" / f"{event.step:012d}.png").convert("RGB")
        assert np.array_equal(pixels, np.asarray(expected))
    assert [event.step for event in events.Images("precision_recall_digits")] == [320, 640, 960, 1280]
    way = precision_recall_ways(run)["precision_recall_digits"]
    assert way == [
        (recall.step, pytest.approx(recall.value), pytest.approx(precision.value))
        for recall, precision in zip(
            events.Scalars("val/recall_digits"), events.Scalars("val/precision_digits"), strict=True
        )
    ]


def test_hyperparameters_are_the_config_beside_the_figures(run, events):
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    expected = flat_config(yaml.safe_load((run.path / "config.yaml").read_text()))
    assert found.keys() == expected.keys()
    assert found["budget.images"].number_value == 640  # TensorBoard keeps what it sees first: of the first session
    assert found["model.init_args.generator.init_args.latent_dim"].number_value == 8
    assert found["model.init_args.generator.init_args.batch_norm"].number_value == 1
    assert json.loads(found["model.init_args.generator.init_args.widths"].string_value) == [32]
    metrics = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/experiment").plugin_data.content)
    assert {info.name.tag for info in metrics.experiment.metric_infos} == run.summary()["last"].keys()


def test_loggers_of_a_config_for_lightning_became_options(run):
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["trainer"]["logger"] is None
    assert config["run"]["tensorboard"] is config["run"]["wandb"] is True
    assert {key: config["wandb"][key] for key in ("project", "tags")} == {"project": "elsewhere", "tags": ["a"]}
    assert json.loads((run.path / "wandb.json").read_text())["project"] == "elsewhere"
