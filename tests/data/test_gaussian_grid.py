"""The grid of Gaussians: each mode against its formula, the parts, and a run from a config that scores its modes."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from refusals import refusal

from lightning_gen.cli import main
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import GaussianGrid, ImageDataModule
from lightning_gen.metrics import MetricSuite, ModeCoverage, ModuleExtractor, floor
from lightning_gen.runs import RunFolder

CONFIG = """
model:
  class_path: lightning_gen.models.GAN
  init_args:
    generator: {class_path: lightning_gen.networks.MLPGenerator, init_args: {latent_dim: 4, widths: [16]}}
    discriminator: {class_path: lightning_gen.networks.MLPDiscriminator, init_args: {widths: [16]}}
    generator_optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.001, betas: [0.0, 0.99]}}
    discriminator_optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.001, betas: [0.0, 0.99]}}
    loss: lightning_gen.objectives.Relativistic
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args:
    source: {class_path: lightning_gen.data.GaussianGrid, init_args: {side: 3}}
    batch_size: 32
budget: {images: 320}
evaluation:
  every: 320
  n: 100
  extractor:
    class_path: lightning_gen.metrics.ModuleExtractor
    init_args: {module: torch.nn.Flatten, name: plane}
  metrics:
  - {class_path: lightning_gen.metrics.ModeCoverage, init_args: {side: 3}}
checkpoint: {monitor: val/high_quality_pixels}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1}
"""


def points(source, part="train"):
    """Coordinates (N, 2) in float64."""
    levels = source.load(part).levels
    assert levels.shape[1:] == (2, 1, 1)
    return levels[:, :, 0, 0].astype(np.float64)


@pytest.mark.parametrize(("side", "spacing", "deviation"), [(5, 50.0, 2.0), (4, 30.5, 3.0), (1, 9.0, 30.0)])
def test_every_mode_has_its_mean_covariance_and_share(side, spacing, deviation):
    chosen = points(GaussianGrid(side, spacing, deviation))
    counts = []
    for i in range(side):
        for j in range(side):
            centre = 127.5 + spacing * (np.array([i, j]) - (side - 1) / 2)
            # the points of its square, whose edge is five deviations away or more
            own = chosen[(np.abs(chosen - centre) < spacing / 2).all(1)] if side > 1 else chosen
            counts.append(len(own))
            error = deviation / np.sqrt(len(own))
            np.testing.assert_allclose(own.mean(0), centre, atol=5 * error)
            # rounding adds the variance of a uniform number
            expected = (deviation**2 + 1 / 12) * np.eye(2)
            np.testing.assert_allclose(np.cov(own.T), expected, atol=8 * deviation * error)
    mean = len(chosen) / side**2
    chi_square = sum((count - mean) ** 2 / mean for count in counts)
    assert chi_square < side**2 + 5 * np.sqrt(2 * side**2)


def test_parts_have_their_sizes_and_share_no_sequence():
    source = GaussianGrid()
    parts = {part: points(source, part) for part in source.parts}
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 50_000, "val": 5_000, "test": 5_000}
    assert source.spec == ImageSpec(2, 1, 1)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        equal = (parts[one][:5000] == parts[other][:5000]).all(1).mean()
        assert equal < 0.01  # some 1 / (25 * 4 pi * 4) by chance
    assert len({source.fingerprint(part) for part in source.parts}) == 3


def test_the_fingerprint_depends_on_the_arguments_alone():
    own = GaussianGrid().fingerprint("val")
    np.random.default_rng(3).random(10)
    assert GaussianGrid(5, 50, 2).fingerprint("val") == own
    assert pickle.loads(pickle.dumps(GaussianGrid())).fingerprint("val") == own
    others = [GaussianGrid(side=4), GaussianGrid(spacing=49.0), GaussianGrid(deviation=2.5)]
    assert len({own, *(other.fingerprint("val") for other in others)}) == 4


def test_a_grid_that_cannot_be_is_refused_at_construction():
    for arguments, problem in [
        ({"side": 0}, "side must be a positive integer, got 0"),
        ({"side": 2.5}, "side must be a positive integer, got 2.5"),
        ({"side": True}, "got True"),
        ({"spacing": 0.0}, "spacing must be above 0, got 0.0"),
        ({"spacing": float("nan")}, "spacing must be above 0, got nan"),
        ({"deviation": -1.0}, "deviation must be above 0, got -1.0"),
        ({"spacing": 60.0}, "5 x 5 modes, 60.0 apart and of deviation 2.0, do not fit into 0 .. 255: lower spacing"),
        ({"side": 1, "deviation": 32.0}, "do not fit into 0 .. 255: lower spacing or deviation"),
        ({"side": 1, "spacing": float("inf")}, "spacing must be above 0 and finite, got inf"),
    ]:
        assert re.search(f"^GaussianGrid.*{problem}", refusal(GaussianGrid, **arguments)), arguments


def test_the_widest_grid_that_fits_is_not_cut():
    rows = points(GaussianGrid(side=5, spacing=50.0, deviation=6.875))  # 100 + 4 * 6.875 = 127.5
    at_the_edge = ((rows == 0) | (rows == 255)).mean()
    assert at_the_edge < 1e-4


def test_the_data_module_makes_batches_of_points():
    source = GaussianGrid()
    data = ImageDataModule(source, batch_size=64)
    batch = next(iter(data.train_dataloader()))
    assert batch.labels is None
    np.testing.assert_array_equal(batch.levels.numpy(), source.load("train").levels[batch.index])
    rows = torch.cat([batch.levels for batch in data.val_dataloader()])
    np.testing.assert_array_equal(rows.numpy(), source.load("val").levels)


def test_real_points_meet_every_mode_and_are_of_high_quality():
    source = GaussianGrid()
    suite = MetricSuite(ModuleExtractor(torch.nn.Flatten(), "plane"), [ModeCoverage()], cache=False)
    suite.set_reference("train", source.load("train").levels, source.spec)
    suite.set_reference("heldout", source.load("val").levels, source.spec)
    suite.update(torch.from_numpy(source.load("test").levels), torch.arange(5000))
    figures = suite.compute()
    assert figures["modes_pixels"] == 25
    # 0.9875 by adding up the Gaussian over the rounded points within the circle; standard deviation 0.0016
    assert figures["high_quality_pixels"] == pytest.approx(0.9875, abs=0.006)
    assert figures["high_quality_pixels"] == pytest.approx(1 - np.exp(-4.5), abs=0.008)
    assert floor(suite)["modes_pixels"] == 25
    assert floor(suite)["high_quality_pixels"] == pytest.approx(0.9875, abs=0.006)


def test_a_config_trains_on_the_grid_and_scores_its_modes(tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(CONFIG)
    main(["fit", "--config", str(tmp_path / "grid.yaml"), "--run.root", str(tmp_path / "runs")])
    run = RunFolder(tmp_path / "runs" / "grid" / "version_0")
    last = run.summary()["last"]
    assert 0 <= last["val/modes_pixels"] <= 9
    assert 0 <= last["val/high_quality_pixels"] <= 1

    main(["evaluate", str(run.last), "--n", "100", "--json", str(tmp_path / "checkpoint.json")])
    report = json.loads((tmp_path / "checkpoint.json").read_text())
    assert report["high_quality_pixels"] == last["val/high_quality_pixels"]
    assert report["references_train_n"] == 50_000

    main(["sample", str(run.last), "--n", "150", "--out", str(tmp_path / "samples")])
    levels = np.load(tmp_path / "samples" / "samples.npy")
    plane = ["--extractor", "module", "--extractor.module", "torch.nn.Flatten", "--extractor.name", "plane"]
    modes = "[{class_path: ModeCoverage, init_args: {side: 3}}]"
    images = ["--generated", str(tmp_path / "samples" / "samples.npy"), "--real", "gaussian-grid", "--real.side", "3"]
    main(["evaluate", *images, *plane, "--metrics", modes, "--json", str(tmp_path / "images.json")])
    centres = 127.5 + 50.0 * (np.stack(np.meshgrid(range(3), range(3)), -1).reshape(-1, 2) - 1)
    distance = np.linalg.norm(levels.reshape(-1, 1, 2) - centres, axis=2)
    report = json.loads((tmp_path / "images.json").read_text())
    assert report["high_quality_pixels"] == (distance.min(1) <= 6).mean()
    assert report["modes_pixels"] == (distance <= 6).any(0).sum()
