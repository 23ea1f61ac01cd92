"""Evaluation: which classes are drawn, who draws what, figures per class, pictures of neighbours, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.core import Ranks
from lightning_gen.core.errors import Unavailable
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, ImageDataModule
from lightning_gen.data.source import Images, Source
from lightning_gen.evaluation import draw_samples, neighbour_sheet, sample_labels, to_pixels
from lightning_gen.evaluation.costs import affordable
from lightning_gen.metrics import DigitsExtractor, FrechetDistance, MetricSuite
from lightning_gen.models import GenerativeModule, ImageModule
from lightning_gen.runs import RunFolder, read_metrics
from lightning_gen.shipped import configs_folder

CONFIG = str(Path(__file__).parents[1] / "conf" / "gan.yaml")
CONDITIONAL = ["--model.generator.conditional=true", "--model.discriminator.conditional=true"]


class Labelled(GenerativeModule):
    """Draws images all of whose pixels are the class, plus noise of the generator."""

    conditional = True

    def draw(self, n, labels, generator):
        labels = torch.zeros(n, dtype=torch.int64) if labels is None else labels
        noise = torch.randint(10, (n, *self.spec.shape), generator=generator)
        return (10 * labels.view(-1, 1, 1, 1) + noise).to(torch.uint8)


class Unlabelled(Labelled):
    conditional = False


class Uneven(Source):
    """A training part of a given number of images of each class."""

    name = "uneven"

    def __init__(self, counts):
        self.counts = list(counts)
        self.spec = ImageSpec(1, 2, 2, num_classes=len(self.counts))

    def read(self, part):
        labels = np.repeat(np.arange(len(self.counts)), self.counts)
        return Images(np.zeros((len(labels), *self.spec.shape), np.uint8), labels)


# Classes


def test_labels_are_those_of_the_training_part_over_and_over():
    data = ImageDataModule(Uneven([70, 20, 10]))
    model = Labelled(data.spec)
    for n in (100, 300):
        assert torch.bincount(sample_labels(model, data, n)).tolist() == [7 * n // 10, 2 * n // 10, n // 10]
    labels = sample_labels(model, data, 250)
    assert len(labels) == 250
    assert (torch.bincount(labels) >= torch.tensor([140, 40, 20])).all()
    assert (torch.bincount(labels) <= torch.tensor([210, 60, 30])).all()
    assert torch.equal(sample_labels(model, data, 40), labels[:40])  # always the same
    assert labels[:100].tolist() != sorted(labels[:100].tolist())  # any chunk has all classes


def test_fewer_labels_than_images_are_a_fair_draw():
    data = ImageDataModule(Uneven([7_000, 2_000, 1_000]))
    shares = torch.bincount(sample_labels(Labelled(data.spec), data, 1_000)) / 1_000
    deviations = np.sqrt(np.array([0.21, 0.16, 0.09]) / 1_000)
    assert (np.abs(shares.numpy() - [0.7, 0.2, 0.1]) < 4 * deviations).all()


def test_a_model_without_classes_has_no_labels():
    data = ImageDataModule(Uneven([5, 5]))
    assert sample_labels(Unlabelled(data.spec), data, 10) is None


class Notes:
    """In place of a suite: write down what arrives."""

    def __init__(self):
        self.images = {}

    def update(self, levels, index, labels=None):
        for i, place in enumerate(index.tolist()):
            assert place not in self.images
            self.images[place] = (levels[i], None if labels is None else int(labels[i]))


@pytest.mark.parametrize("model", [Labelled, Unlabelled])
def test_samples_depend_neither_on_ranks_nor_on_what_was_drawn_before(model):
    data = ImageDataModule(Uneven([70, 20, 10]))
    model = model(data.spec)
    labels = sample_labels(model, data, 47)
    kept = torch.get_rng_state()
    alone, together = Notes(), Notes()
    first = draw_samples(model, alone, 47, 10, 3, labels)
    assert torch.equal(first, torch.stack([alone.images[i][0] for i in range(10)]))
    for rank in (2, 0, 1):
        own = draw_samples(model, together, 47, 10, 3, labels, rank, 3)
        assert (own is None) == (rank != 0)
        if rank == 0:
            assert torch.equal(own, first)
    assert torch.equal(torch.get_rng_state(), kept)
    assert together.images.keys() == alone.images.keys() == set(range(47))
    for place, (levels, label) in alone.images.items():
        assert torch.equal(together.images[place][0], levels)
        assert together.images[place][1] == label
        if model.conditional:
            assert label == int(labels[place]) == int(levels.min()) // 10
    other = Notes()
    draw_samples(model, other, 47, 10, 4, labels)
    assert not torch.equal(other.images[0][0], alone.images[0][0])


# Figures per class, as users get them


@pytest.fixture(scope="module")
def conditional(tmp_path_factory) -> RunFolder:
    root = tmp_path_factory.mktemp("conditional")
    options = ["--budget.images=1600", "--evaluation.every=800", "--evaluation.per_class=true"]
    metrics = "--evaluation.metrics=[FrechetDistance, ClassCoverage]"
    pictures = ["--evaluation.neighbours=true", "--grid.n=30", "--diagnostics.n=0"]
    main(["fit", "--config", CONFIG, f"--run.root={root}", *CONDITIONAL, *options, metrics, *pictures])
    return RunFolder(root / "gan" / "version_0")


def test_fit_and_evaluate_give_the_same_figures_of_each_class(conditional, tmp_path, capsys):
    found = {}
    for row in read_metrics(conditional.path / "metrics.csv")[1]:
        if row["images_seen"] == "1600":
            found |= {name.removeprefix("val/"): float(x) for name, x in row.items() if x and name.startswith("val/")}
    for figure in ("fid_digits", "fid_digits_heldout", "classes_digits", "label_accuracy_digits"):
        assert {f"{figure}_class{label}" for label in range(10)} <= found.keys()
    options = ["--n", "200", "--per_class", "true", "--json", str(tmp_path / "out.json")]
    main(["evaluate", str(conditional.last), *options])
    report = json.loads((tmp_path / "out.json").read_text())
    assert {name: report[name] for name in found} == pytest.approx(found, rel=1e-6)
    assert "fid_digits_class9" in capsys.readouterr().out
    main(["evaluate", str(conditional.last), "--n", "200", "--json", str(tmp_path / "plain.json")])
    plain = json.loads((tmp_path / "plain.json").read_text())
    assert not [name for name in plain if "_digits_class" in name or name.endswith("_class")]
    assert plain["fid_digits"] == pytest.approx(report["fid_digits"])


def test_figures_of_classes_are_recorded_but_not_shown(tmp_path, capsys):
    options = [*CONDITIONAL, "--budget.images=320", "--evaluation.per_class=true", "--diagnostics.n=0"]
    monitor = "--checkpoint.monitor=val/fid_digits_heldout_class3"
    main(["fit", "--config", CONFIG, f"--run.root={tmp_path}", *options, monitor])
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if "fid_digits_heldout" in line and "done" not in line
    ]
    assert "_class" not in line
    run = RunFolder(tmp_path / "gan" / "version_0")
    last = run.summary()["last"]
    assert {f"val/fid_digits_class{label}" for label in range(10)} <= last.keys()
    assert (run.path / "checkpoints" / "best.ckpt").is_file()


def test_a_figure_of_a_class_is_that_of_its_samples_against_its_images(conditional):
    model = lightning_gen.load(conditional.last)
    data = ImageDataModule(Digits())
    labels, notes = sample_labels(model, data, 200), Notes()
    draw_samples(model, notes, 200, 500, 0, labels)
    drawn = torch.stack([notes.images[i][0] for i in range(200)])
    for label in (0, 7):
        real = data.images("train")
        suite = MetricSuite(DigitsExtractor(), [FrechetDistance()], cache=False)
        suite.set_reference("train", np.array(real.levels[real.labels == label]), data.spec)
        own = drawn[labels == label]
        suite.update(own, torch.arange(len(own)))
        found = conditional.summary()["last"][f"val/fid_digits_class{label}"]
        assert suite.compute()["fid_digits"] == pytest.approx(found, rel=1e-5)


def test_classes_are_columns_of_the_grid(conditional):
    """30 images of 10 classes: 10 columns and 3 rows."""
    grid = Image.open(conditional.path / "samples" / "000000001600.png")
    assert grid.width / grid.height == pytest.approx(10 / 3, rel=0.02)


def test_a_class_that_would_have_too_few_samples_is_refused_at_once(tmp_path, capsys):
    options = ["--evaluation.per_class=true", "--evaluation.n=15"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", CONFIG, f"--run.root={tmp_path}", *CONDITIONAL, *options])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "evaluation.per_class: of 15 samples, in the training part's proportions, 0 are of class" in error
    assert "and FrechetDistance needs 2: raise evaluation.n" in error
    assert not list(tmp_path.rglob("version_*"))


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory) -> RunFolder:
    root = tmp_path_factory.mktemp("unconditional")
    main(["fit", "--config", CONFIG, f"--run.root={root}", "--budget.images=320", "--diagnostics.n=0"])
    return RunFolder(root / "gan" / "version_0")


def test_figures_per_class_of_a_model_without_are_refused(unconditional, tmp_path, capsys):
    for arguments in (
        ["evaluate", str(unconditional.last), "--n", "200", "--per_class", "true"],
        ["fit", "--config", CONFIG, f"--run.root={tmp_path}", "--evaluation.per_class=true"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "per_class: this GAN is not class-conditional" in lines[0] or "need labels" in lines[0], lines
    assert not list(tmp_path.rglob("version_*"))


# Classes that the model recognises

CLASSIFIER = "configs/classifier/digits.yaml"
FEW = ["--budget.images=1280", "--evaluation.every=640", "--evaluation.batch_size=30", "--schedule.warm_up=320"]


def accuracy(run: RunFolder, part: str) -> float:
    images = Digits().load(part)
    logits = lightning_gen.load(run.last)(torch.from_numpy(images.levels))
    return float((logits.argmax(1).numpy() == images.labels).mean())


def test_the_accuracy_of_a_model_that_classifies_is_that_of_its_averaged_weights(tmp_path):
    main(["fit", "--config", CLASSIFIER, f"--run.root={tmp_path}", *FEW])
    run = RunFolder(tmp_path / "digits" / "version_0")
    rows = [row for row in read_metrics(run.path / "metrics.csv")[1] if row["val/accuracy"]]
    assert [row["images_seen"] for row in rows] == ["640", "1280"]
    assert float(rows[-1]["val/accuracy"]) == run.summary()["last"]["val/accuracy"] == accuracy(run, "val")
    assert 0.2 < accuracy(run, "val") < 1
    assert run.summary()["best"]["val/accuracy"] == max(float(row["val/accuracy"]) for row in rows)  # higher is better
    for verb, part in (("validate", "val"), ("test", "test")):
        main([verb, "--config", str(run.path / "config.yaml"), f"--ckpt_path={run.last}"])
        assert json.loads((run.path / f"{verb}.json").read_text())[f"{part}/accuracy"] == accuracy(run, part)


class Sure(ImageModule):
    """Takes every image for one of class 1."""

    def __init__(self, spec):
        super().__init__(spec)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)

    def training_step(self, batch, batch_idx):
        self.count_images(batch)
        return self.weight * 1.0

    def classify(self, levels):
        return torch.eye(self.spec.num_classes)[1].log().expand(len(levels), -1)


class Unsure(Sure):
    """Recognises nothing as it is configured."""

    def classify(self, levels):
        raise Unavailable("Unsure: it has no classifier: give one")


def fit_model(name: str, root: Path, *options: str) -> RunFolder:
    """Train a model of this module for four steps, with two evaluations."""
    source = {"class_path": "lightning_gen.data.ImageDataModule"}
    source["init_args"] = {"source": "lightning_gen.data.Digits", "batch_size": 32}
    trainer = {"accelerator": "cpu", "devices": 1}
    config = {"model": {"class_path": f"{__name__}.{name}"}, "data": source, "budget": {"images": 128}}
    (root / "own.yaml").write_text(json.dumps(config | {"evaluation": {"every": 64}, "trainer": trainer}))
    main(["fit", "--config", str(root / "own.yaml"), f"--run.root={root}", *options])
    return RunFolder(root / "own" / "version_0")


def test_the_accuracy_of_any_model_that_classifies_is_taken(tmp_path):
    share = float((Digits().load("val").labels == 1).mean())
    assert fit_model("Sure", tmp_path).summary()["last"] == {"val/accuracy": share}


def test_classes_that_a_configuration_does_not_recognise_end_no_run(tmp_path):
    assert fit_model("Unsure", tmp_path).is_finished()


def test_images_without_labels_have_no_accuracy(tmp_path):
    assert fit_model("Sure", tmp_path, "--data.source=GaussianGrid").summary()["last"] == {}


@pytest.mark.slow
def test_two_ranks_classify_each_image_once(tmp_path):
    command = [sys.executable, "-m", "lightning_gen", "fit", "--config", CLASSIFIER, f"--run.root={tmp_path}", *FEW]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, "--trainer.devices=2"], capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr
    run = RunFolder(tmp_path / "digits" / "version_0")
    assert run.summary()["ranks"] == 2
    assert run.summary()["last"]["val/accuracy"] == accuracy(run, "val")


# Neighbours


def test_neighbours_are_written_at_each_evaluation(conditional, unconditional):
    names = sorted(path.name for path in (conditional.path / "samples").iterdir())
    assert names == [
        "000000000800-neighbours.png",
        "000000000800.png",
        "000000001600-neighbours.png",
        "000000001600.png",
        "training.png",
    ]
    names = sorted(path.name for path in (unconditional.path / "samples").iterdir())
    assert names == ["000000000320.png", "training.png"]


def test_neighbours_of_training_images_begin_with_themselves():
    """Rows of (image, its nearest training images): those of training images are the images themselves."""
    digits = Digits()
    real = digits.load("train")
    suite = MetricSuite(DigitsExtractor(), [FrechetDistance()], cache=False, keep_features=True)
    suite.set_reference("train", real.levels, digits.spec)
    chosen = torch.from_numpy(np.array(real.levels[[3, 500, 1000, 77]]))
    sheet = np.asarray(neighbour_sheet(suite, chosen, real.levels, digits.spec).convert("L"))
    tiles = to_pixels(chosen, digits.spec)[..., 0].repeat(4, axis=1).repeat(4, axis=2)  # 8 pixels become 32
    for tile in tiles:
        window = np.lib.stride_tricks.sliding_window_view(sheet, (32, 32))
        places = np.argwhere((window == tile).all((2, 3)))
        assert len(places) >= 2  # the image, and itself as its nearest
        rows = {row for row, _ in places}
        assert any(sum(place[0] == row for place in places) >= 2 for row in rows)


def test_what_evaluation_needs_is_said_at_once(tmp_path, capsys):
    cases = {
        ("--evaluation.n=1",): "evaluation.n must be at least 2 for FrechetDistance, got 1",
        ("--evaluation.metrics=[PrecisionRecall]", "--evaluation.n=3"): "must be at least 4 for PrecisionRecall, got 3",
        ("--evaluation.extractor=null", "--evaluation.metrics=null", "--evaluation.neighbours=true"): "give evaluation.extractor",
        ("--evaluation.batch_size=0",): "evaluation.batch_size must be at least 1, got 0",
    }  # fmt: skip
    for arguments, message in cases.items():
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--config", CONFIG, f"--run.root={tmp_path}", *arguments])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("version_*"))


# What an evaluation may cost


def test_what_is_affordable_is_whole_chunks_and_at_least_one(monkeypatch):
    clock = iter(range(0, 1000, 3))  # a chunk takes three seconds
    monkeypatch.setattr("lightning_gen.evaluation.costs.time.monotonic", lambda: next(clock))
    done = []
    assert affordable(2000, 500, done.append, 1e9, Ranks(), torch.device("cpu")) == 2000
    assert affordable(2000, 500, done.append, 8, Ranks(), torch.device("cpu")) == 1000
    assert affordable(2000, 500, done.append, 1, Ranks(), torch.device("cpu")) == 500
    assert done == [500, 500, 500]
    assert affordable(500, 500, done.append, 1, Ranks(), torch.device("cpu")) == 500
    assert len(done) == 3, "one chunk is never too much, and needs no trial"


def test_a_slow_model_is_scored_on_fewer_images_and_says_so(tmp_path, capsys):
    config = str(configs_folder() / "vae" / "mlp-digits.yaml")
    options = ["--budget.images=256", "--evaluation.every=128", "--evaluation.n=200", "--evaluation.batch_size=60"]
    quick = ["--model.importance_samples=2", "--evaluation.minutes=1e-9", f"--run.root={tmp_path}"]
    main(["fit", "--config", config, *options, *quick])
    said = capsys.readouterr().err
    limit = "would take over 1e-09 minutes (evaluation.minutes)"
    assert said.count(f"note: samples of 60 images at each evaluation: 200 {limit}") == 1  # of two evaluations
    assert said.count(f"note: likelihoods of 60 images at each evaluation: 200 {limit}") == 1
    run = RunFolder.newest(str(tmp_path), "mlp-digits")
    assert run.summary()["likelihood"]["n"] == 60
    # another question on resuming has another answer
    more = ["--budget.images=384", "--ckpt_path", str(run.last)]
    main(["fit", "--config", config, *options, *quick, *more, "--evaluation.minutes=null"])
    assert run.summary()["likelihood"]["n"] == 200
    main(["validate", "--config", str(run.path / "config.yaml"), "--ckpt_path", str(run.last)])
    validated = json.loads((run.path / "validate.json").read_text())
    assert (validated["n"], validated["likelihood_n"]) == (200, 200)  # what was asked for by name is done in full
