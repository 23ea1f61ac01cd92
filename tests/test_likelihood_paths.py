"""Likelihood as users get it: fit, validate, test and evaluate agree, on any number of ranks; what is refused."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from PIL import Image
from refusals import refused

from lightning_gen.cli import main
from lightning_gen.commands.likelihood import LikelihoodScore
from lightning_gen.core.errors import InputError
from lightning_gen.core.protocols import Likelihood
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, Images
from lightning_gen.evaluation import choose_images, score_likelihood
from lightning_gen.evaluation.plots import colours, heat_picture, histogram_picture, ticks
from lightning_gen.metrics import BitsPerDimension
from lightning_gen.models import GenerativeModule
from lightning_gen.runs import RunFolder, read_metrics
from lightning_gen.shipped import configs_folder

MODELS = '''
import math, torch
from torch.optim import SGD
from lightning_gen.core import required_labels
from lightning_gen.core.errors import Unavailable
from lightning_gen.core.protocols import Likelihood
from lightning_gen.models import GenerativeModule


class Blind(GenerativeModule):
    """Has no likelihood; training draws from torch's global generator."""

    def __init__(self, spec, pixels_off: float = 0.0):
        super().__init__(spec)
        self.pixels_off = pixels_off
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def configure_optimizers(self):
        return SGD([self.weight], lr=0.1)

    def training_step(self, batch, batch_idx):
        self.count_images(batch)
        return self.weight * torch.randn(())

    def draw(self, n, labels, generator):
        return torch.randint(self.spec.levels, (n, *self.spec.shape), generator=generator).byte()


class Uniform(Blind):
    """Every level is equally likely."""

    def likelihood(self, levels, labels=None, *, generator=None):
        nats = torch.full((len(levels),), -self.spec.dims * math.log(self.spec.levels), dtype=torch.float64)
        return Likelihood(nats, "exact")

    def pixel_log_probs(self, levels, labels=None):
        each = self.pixels_off - math.log(self.spec.levels)
        return torch.full((*levels.shape, self.spec.levels), each, dtype=torch.float64)


class Noisy(Uniform):
    """Draws noise for its likelihood."""

    def likelihood(self, levels, labels=None, *, generator=None):
        nats = levels.double().flatten(1).mean(1) - torch.rand(len(levels), generator=generator) - 100
        return Likelihood(nats, "dequantized", 3)


class Keyed(Uniform):
    """Draws noise for its likelihood from a generator of its own, keyed on its seed."""

    def likelihood(self, levels, labels=None, *, generator=None):
        noise = torch.rand((), generator=torch.Generator().manual_seed(self.seed))
        return Likelihood(-100 - noise.expand(len(levels)), "dequantized", 3)


class Labelled(Uniform):
    """Its bits per dimension are the class of an image."""

    conditional = True

    def likelihood(self, levels, labels=None, *, generator=None):
        labels = required_labels(self, labels, len(levels))
        return Likelihood(-self.spec.dims * math.log(2) * labels.double(), "bound", 7)


class Broken(Uniform):
    """Rules out images whose class is 3 (and is not asked for the class otherwise)."""

    conditional = True

    def likelihood(self, levels, labels=None, *, generator=None):
        labels = required_labels(self, labels, len(levels))
        return Likelihood(torch.where(labels == 3, -math.inf, -1.0), "exact")


class Fickle(Uniform):
    """Has no likelihood as it is configured, and says so."""

    def likelihood(self, levels, labels=None, *, generator=None):
        raise Unavailable("Fickle: it has no likelihood without a prior: fit one")
'''
CONFIG = """
model: {class_path: likely.Uniform}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {source: lightning_gen.data.Digits, batch_size: 32}
budget: {images: 640}
evaluation: {every: 320, extractor: null}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1}
"""
UNIFORM = math.log2(17)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the models above and their config, from which modules are imported."""
    folder = tmp_path_factory.mktemp("likely")
    (folder / "likely.py").write_text(MODELS)
    (folder / "likely.yaml").write_text(CONFIG)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("likely", None)


def fit(place: Path, root: Path, *options: str) -> RunFolder:
    main(["fit", "--config", str(place / "likely.yaml"), f"--run.root={root}", *options])
    return RunFolder(root / "likely" / "version_0")


@pytest.fixture(scope="module")
def uniform(place, tmp_path_factory) -> RunFolder:
    return fit(place, tmp_path_factory.mktemp("uniform"), "--checkpoint.monitor=val/bpd")


def evaluate(run: RunFolder, *options: str) -> None:
    main(["evaluate", str(run.last), "--trust", "likely", "--likelihood", *options])


# One figure on every path


def test_a_uniform_model_has_the_same_bits_on_every_path(uniform, place, tmp_path, capsys):
    summary = uniform.summary()
    assert summary["last"] == pytest.approx({"val/bpd": UNIFORM, "val/bpd_se": 0}, abs=1e-14)
    assert summary["best"] == pytest.approx({"val/bpd": UNIFORM}, abs=1e-14)
    assert summary["likelihood"] == {"kind": "exact", "num_samples": 1, "n": 200, "given_labels": False}
    rows = read_metrics(uniform.path / "metrics.csv")[1]
    assert [float(row["val/bpd"]) for row in rows] == pytest.approx([UNIFORM] * 2, abs=1e-14)
    assert uniform.best.is_file()
    config = str(uniform.path / "config.yaml")
    for verb, part, n in (("validate", "val", 200), ("test", "test", 500)):
        capsys.readouterr()
        main([verb, "--config", config, f"--ckpt_path={uniform.last}"])
        assert f"{part}/bpd " in capsys.readouterr().out
        report = json.loads((uniform.path / f"{verb}.json").read_text())
        assert report[f"{part}/bpd"] == pytest.approx(UNIFORM, abs=1e-14)
        assert (report["likelihood_kind"], report["likelihood_num_samples"], report["likelihood_n"]) == ("exact", 1, n)
        out = tmp_path / f"{part}.json"
        evaluate(uniform, "--part", part, "--json", str(out))
        assert capsys.readouterr().out.splitlines()[0].split() == ["bpd", "4.08746"]
        report = json.loads(out.read_text())
        assert report["bpd"] == pytest.approx(UNIFORM, abs=1e-14)
        facts = {name: report[name] for name in ("kind", "num_samples", "n", "part", "given_labels", "images_seen")}
        assert facts == {
            "kind": "exact",
            "num_samples": 1,
            "n": n,
            "part": part,
            "given_labels": False,
            "images_seen": 640,
        }


def test_a_class_conditional_model_is_given_the_images_own_labels(place, tmp_path, capsys):
    run = fit(place, tmp_path, "--model=likely.Labelled")
    labels = Digits().load("val").labels
    assert run.summary()["last"]["val/bpd_bound_given_labels"] == pytest.approx(labels.mean(), rel=1e-12)
    assert run.summary()["last"]["val/bpd_bound_given_labels_se"] == pytest.approx(
        labels.std(ddof=1) / math.sqrt(200), rel=1e-12
    )
    assert run.summary()["likelihood"] == {"kind": "bound", "num_samples": 7, "n": 200, "given_labels": True}
    out = tmp_path / "out.json"
    capsys.readouterr()
    evaluate(run, "--part", "test", "--json", str(out))
    assert json.loads(out.read_text())["bpd_bound_given_labels"] == pytest.approx(
        Digits().load("test").labels.mean(), rel=1e-12
    )
    shown = capsys.readouterr().err.strip().splitlines()
    assert shown[0] == "data: 500 test images of digits"
    assert shown[-1] == "bpd_bound_given_labels: kind bound, num_samples 7, of 500 test images given their labels"


def test_the_marginal_over_classes_stands_beside_the_likelihood_given_labels(tmp_path):
    config = str(configs_folder() / "vae" / "conditional-digits.yaml")
    short = ["--budget.images=6400", "--evaluation.every=6400", "--model.importance_samples=3", "--evaluation.n=50"]
    main(["fit", "--config", config, *short, f"--run.root={tmp_path}"])
    run = RunFolder.newest(str(tmp_path), "conditional-digits")
    last, figures = run.summary()["last"], run.summary()["figures"]
    # p(y) p(x | y) <= p(x): the class costs log2(10) bits at most
    assert last["val/bpd_bound"] < last["val/bpd_bound_given_labels"] + math.log2(10) / 64 + 0.01
    assert last["val/bpd_bound"] != last["val/bpd_bound_given_labels"]
    assert figures["val/bpd_bound"]["about"] != figures["val/bpd_bound_given_labels"]["about"]
    assert {figures[name]["kind"] for name in ("val/bpd_bound", "val/bpd_bound_given_labels")} == {"bound"}
    out = tmp_path / "out.json"
    main(["evaluate", str(run.last), "--likelihood", "--json", str(out)])
    report = json.loads(out.read_text())
    for name in ("bpd_bound", "bpd_bound_given_labels"):
        assert report[name] == pytest.approx(last[f"val/{name}"], rel=1e-6)


def test_a_model_without_parameters_is_introduced_as_such(place, tmp_path, capsys):
    fit(place, tmp_path, "--model=lightning_gen.models.Uniform", "--budget.images=32")
    shown = capsys.readouterr()
    assert "training Uniform (no parameters) on images of 1x8x8" in shown.out + shown.err


def test_noise_is_the_same_twice_and_training_does_not_notice(place, tmp_path):
    runs = [
        fit(place, tmp_path / str(i), "--model=likely.Noisy", f"--evaluation.likelihood={on}")
        for i, on in enumerate(("true", "true", "false"))
    ]
    weights = [torch.load(run.last, weights_only=True)["state_dict"]["weight"] for run in runs]
    assert weights[0] == weights[1] == weights[2] != 0
    rows = read_metrics(runs[0].path / "metrics.csv")[1]
    figures = {row["val/bpd_dequantized"] for row in rows}
    assert len(rows) == 2
    assert len(figures) == 1
    assert runs[2].summary()["last"] == {}
    out = tmp_path / "out.json"
    evaluate(runs[0], "--json", str(out))
    assert json.loads(out.read_text())["bpd_dequantized"] == pytest.approx(float(figures.pop()), rel=1e-14)
    evaluate(runs[0], "--json", str(out), "--seed", "5")
    other = json.loads(out.read_text())
    assert other["bpd_dequantized"] != pytest.approx(runs[0].summary()["last"]["val/bpd_dequantized"], rel=1e-6)


def test_noise_of_a_model_that_keys_it_on_its_own_seed_follows_the_option(place, tmp_path):
    run = fit(place, tmp_path, "--model=likely.Keyed")
    out = tmp_path / "out.json"
    for seed in (0, 5):
        evaluate(run, "--json", str(out), "--seed", str(seed))
        noise = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
        report = json.loads(out.read_text())
        assert report["bpd_dequantized"] == pytest.approx((100 + noise) / (64 * math.log(2)), rel=1e-6)
        assert (report["seed"], report["batch_size"]) == (seed, 500)


def test_fewer_images_are_always_the_same(place, tmp_path):
    run = fit(place, tmp_path, "--model=likely.Labelled", "--evaluation.likelihood=50")
    labels = Digits().load("val").labels[choose_images(200, 50).numpy()]
    assert run.summary()["last"]["val/bpd_bound_given_labels"] == pytest.approx(labels.mean(), rel=1e-12)
    assert run.summary()["likelihood"]["n"] == 50
    out = tmp_path / "out.json"
    evaluate(run, "--n", "50", "--json", str(out))
    assert json.loads(out.read_text())["bpd_bound_given_labels"] == pytest.approx(labels.mean(), rel=1e-12)
    assert choose_images(7, 9).tolist() == choose_images(7, None).tolist() == list(range(7))


@pytest.mark.slow
def test_two_ranks_find_the_figure_of_one(place, tmp_path):
    # 200 images in chunks of 30: seven, of which one rank has four; the noise of each is its own.
    options = ["--model=likely.Noisy", "--evaluation.batch_size=30", "--budget.images=320"]
    one = fit(place, tmp_path / "one", *options, "--data.batch_size=32")
    command = [sys.executable, "-m", "lightning_gen", "fit", "--config", str(place / "likely.yaml")]
    ran = subprocess.run(
        [*command, *options, "--trainer.devices=2", "--data.batch_size=16", f"--run.root={tmp_path / 'two'}"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    two = RunFolder(tmp_path / "two" / "likely" / "version_0").summary()
    assert two["ranks"] == 2
    assert two["last"] == pytest.approx(one.summary()["last"], rel=1e-13)
    assert two["likelihood"] == one.summary()["likelihood"]


class Shy(GenerativeModule):
    """Gives log-probabilities that name the images, and a shape that can be wrong."""

    wrong = False

    def sample(self, n, labels=None, *, generator=None):
        pytest.fail("nobody asked for samples")

    def likelihood(self, levels, labels=None, *, generator=None):
        assert not torch.is_grad_enabled()
        assert not self.training
        assert labels is None
        nats = -levels.double().flatten(1).sum(1) - torch.rand((), generator=generator)
        return Likelihood(nats.sum() if self.wrong else nats, "estimate", 2)


def test_each_rank_scores_its_chunks_and_leaves_the_model_as_it_was(generator):
    images = Images(torch.randint(256, (23, 1, 2, 2), generator=generator).byte().numpy(), np.zeros(23, np.int64))
    model = Shy(ImageSpec(1, 2, 2, num_classes=3)).train()
    kept = torch.get_rng_state()
    places = torch.arange(23)
    alone = score_likelihood(model, BitsPerDimension(model.spec), images, places, 5, 0)
    parts = [score_likelihood(model, BitsPerDimension(model.spec), images, places, 5, 0, r, 3) for r in range(3)]
    assert torch.equal(torch.get_rng_state(), kept)
    assert model.training
    chunks = [part.split(5) for part in parts]
    assert torch.equal(torch.cat([chunks[i % 3][i // 3] for i in range(5)]), alone)
    model.wrong = True
    with pytest.raises(InputError, match=r"Shy.likelihood gave nats \(\) for 5 images"):
        score_likelihood(model, BitsPerDimension(model.spec), images, places, 5, 0)


# What cannot be scored


def test_a_likelihood_that_is_not_finite_stops_evaluation_but_not_training(place, tmp_path, capsys):
    count = int((Digits().load("val").labels == 3).sum())
    with pytest.warns(UserWarning, match=rf"{count} of 200 images have a log-probability that is not finite"):
        run = fit(place, tmp_path, "--model=likely.Broken")
    assert run.is_finished()
    assert run.summary()["last"] == {"val/bpd_given_labels": None}  # strict JSON has no word for it
    assert run.summary()["best"] == {}
    line = refused(capsys, "validate", "--config", str(run.path / "config.yaml"), f"--ckpt_path={run.last}")
    assert f"{count} of 200 images have a log-probability that is not finite" in line
    line = refused(capsys, "evaluate", str(run.last), "--trust", "likely", "--likelihood")
    assert f"{count} of 200 images have a log-probability that is not finite" in line
    assert line.endswith("(val images)")


def test_a_likelihood_that_a_configuration_does_not_have_ends_only_what_asks_for_it(place, tmp_path, capsys):
    reason = "Fickle: it has no likelihood without a prior: fit one"
    with pytest.warns(UserWarning, match=f"no likelihood: {reason}") as told:
        run = fit(place, tmp_path, "--model=likely.Fickle")
    assert [str(warning.message) for warning in told].count(f"no likelihood: {reason}") == 1  # of two evaluations
    assert run.is_finished()
    assert run.summary()["last"] == {}
    assert refused(capsys, "evaluate", str(run.last), "--trust", "likely", "--likelihood") == reason
    main(["sample", str(run.last), "--trust", "likely", "--n", "3", "--out", str(tmp_path / "samples")])


def test_validate_says_why_there_is_nothing_to_report(place, tmp_path, capsys):
    run = fit(place, tmp_path, "--model=likely.Fickle")
    command = ["validate", "--config", str(run.path / "config.yaml"), f"--ckpt_path={run.last}"]
    line = refused(capsys, *command, alone=False)
    assert line.startswith("nothing to report: ")
    assert "set evaluation.likelihood to true" not in line


def test_models_without_likelihood_are_told_which_measure_they_have(place, tmp_path, capsys):
    run = fit(place, tmp_path, "--model=likely.Blind")
    line = refused(capsys, "evaluate", str(run.last), "--trust", "likely", "--likelihood")
    assert f"this Blind has no likelihood; score its samples: lightning evaluate {run.last}" in line
    config = str(Path(__file__).parent / "conf" / "gan.yaml")
    off = ["--evaluation.extractor=null", "--evaluation.metrics=null", "--checkpoint.monitor=null"]
    main(["fit", "--config", config, f"--run.root={tmp_path}", "--budget.images=64", *off])
    gan = RunFolder(tmp_path / "gan" / "version_0").last
    line = refused(capsys, "evaluate", str(gan), "--likelihood")
    assert f"this GAN has no likelihood of its own; annealed importance sampling bounds it: lightning ais {gan}" in line
    assert "or --likelihood" not in refused(capsys, "evaluate", str(gan))


def test_options_that_contradict_each_other_are_refused(uniform, tmp_path, capsys):
    model = [str(uniform.last), "--trust", "likely"]
    cases = [
        (["--likelihood", "--extractor", "digits"], r"--extractor is about samples, and --likelihood draws none"),
        (["--likelihood", "--per_class", "true"], r"--per_class is about samples"),
        (["--likelihood", "--sampler.temperature", "2"], r"--sampler.temperature is about samples"),
        (["--plots", str(tmp_path)], r"--plots belongs to --likelihood"),
        (["--likelihood", "--other", "nowhere"], r"--other nowhere: no such folder or file"),
        (["--likelihood", "--plots", str(uniform.last)], r"--plots .*: give the name of a folder"),
        (["--likelihood", "--n", "0"], r"--n: expected a whole number of at least 1"),
        (["--likelihood", "--json", str(tmp_path / "no" / "a.json")], r"there is no folder"),
        ([], r"scored no samples: give --extractor, such as digits, or --likelihood"),
    ]
    for options, message in cases:
        line = refused(capsys, "evaluate", *model, *options)
        assert message.split(r".*")[-1] in line, line
    line = refused(capsys, "evaluate", "--generated", str(tmp_path), "--real", str(tmp_path), "--likelihood")
    assert "--likelihood belongs to a checkpoint" in line
    config = ["--config", str(uniform.path / "config.yaml"), f"--run.root={tmp_path}"]
    line = refused(capsys, "fit", *config, "--evaluation.likelihood=0")
    assert "evaluation.likelihood must be true, false or at least 1 image, got 0" in line
    line = refused(capsys, "validate", *config, f"--ckpt_path={uniform.last}", "--evaluation.likelihood=false")
    assert "give evaluation.extractor and evaluation.metrics, or set evaluation.likelihood to true" in line


# Pictures


def test_plots_show_the_parts_and_what_the_pixels_allow(uniform, place, tmp_path, capsys):
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 17, (30, 1, 8, 8)).astype(np.uint8))
    plots, out = tmp_path / "plots", tmp_path / "out.json"
    capsys.readouterr()
    evaluate(uniform, "--plots", str(plots), "--other", str(tmp_path / "noise.npy"), "--json", str(out))
    shown = capsys.readouterr().err
    assert "bpd: kind exact, num_samples 1, of 200 val images\n" in shown
    assert "8-bit" not in shown
    assert sorted(file.name for file in plots.iterdir()) == ["bits.png", "bits_per_pixel.png", "calibration.png"]
    report = json.loads(out.read_text())
    for name in ("bpd", "bpd_train", "bpd_other"):
        assert report[name] == pytest.approx(UNIFORM, abs=1e-14)
        assert report[f"{name}_se"] == pytest.approx(0, abs=1e-14)
    # Of equally probable levels the first is taken for the most probable one, 0.
    background = (Digits().load("val").levels == 0).mean()
    assert report["calibration_error"] == pytest.approx(background - 1 / 17, rel=1e-9)
    assert (report["n"], report["n_train"], report["n_other"]) == (200, 1097, 30)
    # A model whose pixels do not come to its likelihood is told so.
    line = refused(
        capsys,
        "evaluate",
        str(fit(place, tmp_path, "--model.pixels_off=0.1").last),
        *("--trust", "likely", "--likelihood", "--plots", str(plots)),
    )
    assert "Uniform: its pixels come to" in line


def test_arrays_that_are_taken_for_8_bit_pixels_are_said_to_be(uniform, tmp_path, capsys):
    np.save(tmp_path / "bright.npy", np.full((3, 1, 8, 8), 200, np.uint8))
    capsys.readouterr()
    evaluate(uniform, "--other", str(tmp_path / "bright.npy"))
    shown = capsys.readouterr().err
    assert (
        "bright.npy: its values go up to 200, so they are taken for 8-bit pixels and brought to the model's 17" in shown
    )


def test_pictures_that_cannot_be_written_are_refused_before_the_work(uniform, tmp_path, capsys, monkeypatch):
    def work(*args):
        raise AssertionError("the work had begun")

    command = ["evaluate", str(uniform.last), "--trust", "likely", "--likelihood", "--plots"]
    with monkeypatch.context() as patch:
        patch.setattr("lightning_gen.commands.likelihood.bits_of", work)
        for folder in (uniform.last / "plots", Path("/proc/plots")):
            line = refused(capsys, *command, str(folder))
            assert line.startswith(f"--plots {folder}: the folder cannot be made (")
    (tmp_path / "bits.png").mkdir()
    assert f"--plots {tmp_path / 'bits.png'}: cannot be written (" in refused(capsys, *command, str(tmp_path))


class Terms(GenerativeModule):
    """The further down a pixel and the higher its level, the less likely it is; nobody asks whether that sums to 1."""

    def sample(self, n, labels=None, *, generator=None):
        pytest.fail("nobody asked for samples")

    def pixel_log_probs(self, levels, labels=None):
        each = -(1.0 + torch.arange(2.0)[:, None, None]) * (1 + torch.arange(256) / 100)
        return each.expand(*levels.shape, 256)

    def likelihood(self, levels, labels=None, *, generator=None):
        return Likelihood(-((1.0 + torch.arange(2.0)[:, None]) * (1 + levels / 100)).flatten(1).sum(1), "exact")


def test_bits_of_pixels_are_means_over_images_however_they_are_cut(generator, tmp_path):
    spec = ImageSpec(1, 2, 3)
    images = Images(torch.randint(256, (17, *spec.shape), generator=generator).byte().numpy(), None)
    expected = ((1 + np.arange(2))[:, None] * (1 + images.levels / 100) / math.log(2)).mean(0)
    for size in (4, 500):
        options = Namespace(batch_size=size, seed=0, n=None)
        scores = LikelihoodScore(Terms(spec), options)
        terms, calibration = scores._pixels(scores.score("val", images, held_out=True))
        np.testing.assert_allclose(terms, expected, rtol=1e-6)
        assert scores.figures["bpd"] == pytest.approx(expected.mean(), rel=1e-6)
        assert calibration.curve()[0].tolist() == pytest.approx([math.exp(-2), math.exp(-1)], rel=1e-6)  # of level 0
        assert scores.plot(tmp_path, images) == ["bits.png", "bits_per_pixel.png", "calibration.png"]
    alone = LikelihoodScore(Shy(spec), options)  # which does not predict pixels
    alone.score("val", images, held_out=True)
    assert alone.plot(tmp_path, images) == ["bits.png"]


def test_a_heat_map_shows_each_pixel_by_its_value():
    values = np.array([[[0.0, 1.0], [2.0, 4.0]]])
    shown = np.asarray(heat_picture(values, "bits per pixel", width=20))
    corners = np.array([[shown[8 + 5, 8 + 5], shown[8 + 5, 8 + 15]], [shown[8 + 15, 8 + 5], shown[8 + 15, 8 + 15]]])
    np.testing.assert_array_equal(corners, colours(values[0] / 4))
    brightness = colours(np.linspace(0, 1, 30)) @ np.array([0.3, 0.59, 0.11])
    assert (np.diff(brightness) > 0).all()
    constant = heat_picture(np.full((3, 2, 2), 1.5), "bits", width=8)
    assert isinstance(constant, Image.Image)


def test_histograms_have_area_one_and_ticks_are_round():
    picture = np.asarray(histogram_picture({"a": np.zeros(10), "b": np.ones(500)}, "bits"))
    assert (picture == (0, 114, 178)).all(-1).any()
    assert (picture == (230, 159, 0)).all(-1).any()
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-3.7, 12.0) == [0.0, 5.0, 10.0]
    assert ticks(-3.7, 9.0) == [-2.0, 0.0, 2.0, 4.0, 6.0, 8.0]
    assert ticks(1e-4, 3.1e-4) == pytest.approx([1e-4, 1.5e-4, 2e-4, 2.5e-4, 3e-4])
