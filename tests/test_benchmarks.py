"""Scripts of benchmarks/: their lines are JSON with every key, and what they compare is comparable."""

import functools
import gzip
import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.mixture import GaussianMixture

from lightning_gen.core.errors import InputError
from lightning_gen.data import Digits, GaussianGrid, ImageDataModule, WarpedDigits
from lightning_gen.distributions import CategoricalPixels, GaussianPixels, LogisticPixels
from lightning_gen.metrics import DigitsExtractor, mutual_information_gap, separated_attribute_predictability
from lightning_gen.models import GAN, VAE, load
from lightning_gen.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    DenseDiscriminator,
    DenseToConvGenerator,
    MLPDecoder,
    MLPDiscriminator,
    MLPEncoder,
    MLPGenerator,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from lightning_gen.objectives import (
    ADA,
    DRAGAN,
    ELBO,
    IWAE,
    R1,
    R2,
    WGANGP,
    AuxiliaryClassifier,
    Consistency,
    DiffAugment,
    Hinge,
    LeastSquares,
    LeCam,
    Minimax,
    NonSaturating,
    OrthogonalRegularisation,
    PathLength,
    PixelComparison,
    Relativistic,
    RelativisticAverage,
    Wasserstein,
)

ROOT = Path(__file__).parent.parent
FIGURES = (
    "fid_digits_heldout",
    "fid_digits",
    "precision_digits",
    "recall_digits",
    "copy_share_pixels",
    "is_digits",
    "classes_digits",
    "class_distance_digits",
    "seconds",
)
PROVENANCE = (
    "command",
    "machine",
    "threads",
    "versions",
    "git_commit",
    "extractor",
    "extractor_hash",
    "references",
    "metrics",
)


def script(name):
    specification = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


digits, table, gan_steps = script("digits"), script("table"), script("gan_steps")


def lines(capsys, *args, of=digits):
    capsys.readouterr()
    of.main(args)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def config(tmp_path):
    """The quickstart's config with a budget of ten steps."""
    tiny = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    tiny["budget"] = {"images": 640}
    tiny["evaluation"] |= {"every": 640, "n": 50}
    tiny["checkpoint"]["every"] = 640
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny), encoding="utf-8")
    return path


def test_every_line_is_json_with_all_keys(capsys, config, tmp_path):
    few = ("--n", "100", "--seeds", "0", "1", "--mixtures", "1", "2")
    rows = lines(capsys, *few, "--bic", "1", "2", "--config", str(config), "--runs", str(tmp_path / "runs"))
    assert [row["kind"] for row in rows if "row" in row and "kind" in row] == [
        "floor",
        "memoriser",
        "bic",
        "mixture",
        "mixture",
        "config",
    ]
    assert all(key in row for row in rows for key in PROVENANCE)
    floor, memoriser, bic, _, _, gan, *criteria = rows
    for row in (bic, gan):
        assert row["seeds"] == [0, 1]
        assert row["n"] == 100
        for figure in FIGURES:
            assert len(row[figure]["values"]) == 2
            assert row[figure]["mean"] == pytest.approx(np.mean(row[figure]["values"]))
            assert row[figure]["std"] == pytest.approx(np.std(row[figure]["values"], ddof=1))
    assert gan["seconds"]["mean"] > 0
    assert gan["images_seen"] == [640, 640]
    assert floor["fid_digits_heldout"]["mean"] == pytest.approx(floor["fid_digits"]["mean"])
    assert floor["copy_share_pixels"] is None
    assert memoriser["copied_pixels"]["mean"] == pytest.approx(1)
    assert memoriser["n"] == 100
    assert rows[0]["references"]["heldout"] == rows[0]["references"]["heldout"] | {"part": "val", "n": 200}
    limits = [(line["against"], line["limit"]) for line in criteria]
    assert limits[:2] == [("mixture, components by BIC", 1.0), (floor["row"], 2.0)]
    for line, other in zip(criteria[:2], (bic, floor), strict=True):
        assert line["ratio"] == pytest.approx(gan["fid_digits_heldout"]["mean"] / other["fid_digits_heldout"]["mean"])
        assert line["met"] == (line["ratio"] <= line["limit"])
    text = table.tables(rows)
    assert "mixture, 2 components" in text
    assert "at most twice the floor" in text


def test_a_finished_run_is_scored_as_it_is(capsys, config, tmp_path):
    args = ("--n", "60", "--seeds", "3", "--mixtures", "--bic", "--config", str(config), "--runs", str(tmp_path / "r"))
    first, second = lines(capsys, *args), lines(capsys, *args)
    assert first[2]["runs"] == second[2]["runs"]
    assert first[2]["fid_digits_heldout"] == second[2]["fid_digits_heldout"]
    assert len(list((tmp_path / "r" / "tiny").iterdir())) == 1
    config.write_text(config.read_text(encoding="utf-8").replace("lr: 0.002", "lr: 0.003"), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        digits.main(args)
    assert stopped.value.code == 2
    assert "lr was 0.002 there and is 0.003" in capsys.readouterr().err


def test_components_are_those_of_the_lowest_bic():
    levels = Digits().load("train").levels
    mixtures, candidates = digits.Mixtures(levels, 16), [1, 2, 4]
    chosen, bics, _ = mixtures.choose(candidates, 0)
    x = levels.reshape(len(levels), -1).astype(float)
    expected = [
        GaussianMixture(k, covariance_type="full", reg_covar=1e-3, random_state=0).fit(x).bic(x) for k in candidates
    ]
    assert bics == pytest.approx(expected)
    assert chosen == candidates[int(np.argmin(expected))]
    samples = mixtures.sample(chosen, 0, 50)
    assert samples.shape == (50, 1, 8, 8)
    assert int(samples.max()) <= 16


def test_the_gans_on_digits_see_equally_many_images_and_the_tutorials_one_is_bare():
    configs = {
        path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob("configs/gan/*-digits.yaml")
    }
    assert len({config["budget"]["images"] for config in configs.values()}) == 1
    bare = configs["mlp-digits.yaml"]
    assert bare["ema"]["half_life"] == 0
    assert "penalties" not in bare["model"]["init_args"]


def test_metrics_lines_say_what_was_compared_and_make_tables(capsys):
    metrics = script("metrics")
    capsys.readouterr()
    metrics.main(["--quick", "--rounds", "1"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert list(dict.fromkeys(row["part"] for row in rows)) == list(metrics.PARTS)
    known = ("command", "machine", "threads", "versions", "git_commit", "n", "d", "rounds", "comparison", "clock")
    assert all(key in row for row in rows for key in known)
    for row in rows:
        if row["part"] in ("fidelity", "frechet"):
            assert row["ratio"] == pytest.approx(row["their_seconds"] / row["ours_seconds"])
            assert all(ours == pytest.approx(theirs, rel=0.02) for ours, theirs in row["figures"].values())
            assert row["met"] == (None if row["target"] is None else row["ratio"] >= row["target"])
        elif row["part"] == "passes":
            assert row["ratio"] == pytest.approx(sum(row["split"].values()) / row["split"]["passes"])
            assert row["met"] == (row["ratio"] <= row["target"])
            assert ("CopyShare" in row["split"]) == row["comparison"].endswith("with held-out images")
        else:
            names = [type(metric).__name__ for metric in metrics.everything()]
            assert sum(row["split"][name] for name in names) == pytest.approx(row["split"]["all"])
    assert all(row["figures"] for row in rows if row["part"] == "fidelity")
    text = metrics.tables(rows)
    assert all(row["comparison"] in text for row in rows)


def test_metrics_of_libraries_that_disagree_are_not_timed_and_rounds_are_odd():
    metrics = script("metrics")
    assert metrics.agree({"fid": (1.0, 1.0001)}, 1e-3) == {"fid": [1.0, 1.0001]}
    with pytest.raises(SystemExit, match=r"fid is 1\.0 here and 1\.1 there"):
        metrics.agree({"fid": (1.0, 1.1)}, 1e-3)
    with pytest.raises(SystemExit) as stopped:
        metrics.main(["--rounds", "4"])
    assert stopped.value.code == 2


# --- digits: classes, equal images, runs at once ----------------------------------------------------------------------


class Copier:
    """A "model" that gives training images of the class ``shift`` after the one that is asked for."""

    conditional, device = True, torch.device("cpu")

    def __init__(self, shift):
        images = Digits().load("train")
        self.levels, self.labels, self.shift = torch.from_numpy(images.levels), torch.from_numpy(images.labels), shift

    def sample(self, n, labels=None, *, generator):
        order = torch.randperm(len(self.labels), generator=generator)
        shuffled = self.labels[order]
        wanted = [(label + self.shift) % 10 for label in labels.tolist()]
        return torch.stack([self.levels[order][shuffled == label][0] for label in wanted])


def test_label_accuracy_is_the_share_of_images_recognised_as_the_class_that_was_asked_for():
    scorer = digits.Scorer("val")
    right, wrong = (scorer.model(Copier(shift), 120, 0) for shift in (0, 1))
    assert right["label_accuracy_digits"] > 0.95
    assert wrong["label_accuracy_digits"] < 0.05
    assert right["classes_digits"] == wrong["classes_digits"] == 10
    levels = torch.from_numpy(Digits().load("test").levels[:50])
    found = scorer.levels(levels)
    assert found["label_accuracy_digits"] is None
    logits = DigitsExtractor()(levels, Digits().spec).logits
    real = DigitsExtractor()(torch.from_numpy(Digits().load("train").levels), Digits().spec).logits
    p, q = (np.bincount(one.argmax(1).numpy(), minlength=10) / len(one) for one in (logits, real))
    assert found["class_distance_digits"] == pytest.approx(np.abs(p - q).sum() / 2)


@pytest.mark.slow
def test_all_configs_see_equally_many_images_in_runs_at_once(capsys, config, tmp_path):
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    given["model"]["init_args"]["generator"]["init_args"]["conditional"] = True
    given["model"]["init_args"]["discriminator"]["init_args"]["conditional"] = True
    given["budget"] = {"minutes": 5}
    del given["schedule"]
    other = tmp_path / "conditional.yaml"
    other.write_text(yaml.safe_dump(given), encoding="utf-8")
    args = ("--n", "60", "--seeds", "0", "--bic", "--mixtures", "1", "2", "--runs", str(tmp_path / "runs"))
    rows = lines(capsys, *args, "--config", str(config), str(other), "--images", "1280", "--jobs", "2")
    plain, conditional = (row for row in rows if row.get("kind") == "config")
    assert plain["images_seen"] == conditional["images_seen"] == [1280]
    assert plain["label_accuracy_digits"] is None
    assert 0 <= conditional["label_accuracy_digits"]["mean"] <= 1
    checks = [line for line in rows if "criterion" in line and line["row"] == str(other)]
    floor, _, first, second = rows[:4]
    best = min(first, second, key=lambda row: row["fid_digits_heldout"]["mean"])
    expected = {
        "at most twice the floor": (floor, "fid_digits_heldout", 2.0),
        "at most 1.4 times the floor": (floor, "fid_digits_heldout", 1.4),
        "at most the best mixture, chosen by this figure": (best, "fid_digits_heldout", 1.0),
        "copy share below the largest mixture's": (second, "copy_share_pixels", 1.0),
    }
    assert [line["criterion"] for line in checks] == list(expected)
    for line in checks:
        against, figure, limit = expected[line["criterion"]]
        assert (line["against"], line["limit"]) == (against["row"], limit)
        assert line["ratio"] == pytest.approx(conditional[figure]["mean"] / against[figure]["mean"])
    with pytest.raises(SystemExit):
        digits.main([*args, "--config", str(config), "--images", "640"])
    assert "budget.images was 1280 there and is 640" in capsys.readouterr().err
    wide = table.tables(rows, wide=True)
    assert wide.count(str(other)) == 3, "a row of figures, one of criteria, and the command"
    assert "Every config saw 1 thousand images" in wide


# --- step times -------------------------------------------------------------------------------------------------------

part = functools.partial
MLP = part(MLPGenerator, latent_dim=6, widths=[12]), part(MLPDiscriminator, widths=[12])
CONDITIONAL = tuple(part(network, conditional=True) for network in MLP)
CLASSIFYING = CONDITIONAL[0], part(MLP[1], classifier=True)
RESIDUAL = part(ResNetGenerator, latent_dim=4, width=4), part(ResNetDiscriminator, width=4)
STYLE = (
    part(StyleGAN2Generator, style_dim=4, mapping_layers=1, width=4),
    part(StyleGAN2Discriminator, width=4),
)
ORTHOGONAL = {
    "penalties": [OrthogonalRegularisation(0.1)],
    "generator_penalties": [OrthogonalRegularisation(0.1, every=2)],
}
STEPS = {
    "minimax": (MLP, {"loss": Minimax()}),
    "least squares": (MLP, {"loss": LeastSquares()}),
    "hinge with spectral norm": (RESIDUAL, {"loss": Hinge(), "critic_steps": 2}),
    "relativistic with R1 and R2": (MLP, {"loss": Relativistic(), "penalties": [R1(2.0, 2), R2(2.0, 3)]}),
    "relativistic average": (MLP, {"loss": RelativisticAverage()}),
    "WGAN-GP": (MLP, {"loss": Wasserstein(), "penalties": [WGANGP(target=0.5)], "critic_steps": 2}),
    "pixels and dropout": (
        (part(DenseToConvGenerator, width=8), part(DenseDiscriminator, width=8)),
        {"loss": PixelComparison()},
    ),
    "batch norm": ((part(DCGANGenerator, width=4), part(DCGANDiscriminator, width=4)), {"loss": NonSaturating()}),
    "DRAGAN and LeCam": (MLP, {"penalties": [DRAGAN(), LeCam()]}),
    "consistency": (MLP, {"penalties": [Consistency(fake_weight=0.5)]}),
    "orthogonal perceptrons": (MLP, ORTHOGONAL),
    "orthogonal convolutions": (RESIDUAL, ORTHOGONAL),
    "path length": (STYLE, {"penalties": [R1(1.0, 2)], "generator_penalties": [PathLength(2.0, 2)]}),
    "residual networks": (
        (part(R3GANGenerator, latent_dim=4, width=16), part(R3GANDiscriminator, width=16)),
        {"loss": Relativistic(), "penalties": [R2(1.0)]},
    ),
    "class-conditional": (CONDITIONAL, {"penalties": [R1(1.0)]}),
    "classifier head": (CLASSIFYING, {"auxiliary": AuxiliaryClassifier(0.7, 0.5, 0.3)}),
    "DiffAugment": (MLP, {"loss": Relativistic(), "augmentation": DiffAugment(fill=-1.0), "penalties": [R1(1.0)]}),
    "ADA": (MLP, {"augmentation": ADA(target=0.0, adjust_images=200, interval=2, initial=0.5)}),
    "clipped gradients": (MLP, {"generator_clip": 0.01, "discriminator_clip": 0.02}),
}


def gan_of(case):
    (generator, discriminator), options = STEPS[case]
    optimizer = part(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99))
    return lambda: GAN(Digits().spec, generator, discriminator, optimizer, optimizer, **options)


def same_steps(of, make, case):
    """Compare both sides of a case, whose name a failure tells."""
    try:
        same = of.compare_sides(make(case), ImageDataModule(Digits(), batch_size=8), 4)
    except InputError as error:
        pytest.fail(f"{case}: {error}")
    assert same["loss_difference"] < 1e-6, case
    assert same["weight_difference"] < 1e-6, case
    assert same["passes"]["layers"] > 0, case


def test_the_hand_written_loop_takes_the_same_steps():
    for case in STEPS:
        same_steps(gan_steps, gan_of, case)


def test_a_relativistic_generator_step_judges_generated_images_before_real_ones(monkeypatch):
    monkeypatch.setitem(STEPS, "relativistic with spectral norm", (RESIDUAL, {"loss": Relativistic()}))
    same_steps(gan_steps, gan_of, "relativistic with spectral norm")


def test_a_hand_written_loop_that_does_something_else_is_noticed(monkeypatch):
    data = ImageDataModule(Digits(), batch_size=8)
    right = gan_steps.PENALTIES["R1"]
    monkeypatch.setitem(gan_steps.PENALTIES, "R1", lambda *given: 1.001 * right(*given))
    with pytest.raises(InputError, match=r"r1 at step 0 is .* here and .* by hand"):
        gan_steps.compare_sides(gan_of("class-conditional"), data, 2)

    def twice(loop, options, seen, chance):
        loop.critic(seen.real, seen.labels)
        return right(loop, options, seen, chance)

    monkeypatch.setitem(gan_steps.PENALTIES, "R1", twice)
    with pytest.raises(InputError, match=r"takes .* passes here and .* in the hand-written loop"):
        gan_steps.compare_sides(gan_of("class-conditional"), data, 2)


def test_step_times_are_compared_side_by_side(capsys, config):
    args = ("--config", str(config), "--pairs", "2", "--seconds", "0.001", "--data.batch_size", "8")
    (steps,) = lines(capsys, *args, of=gan_steps)
    assert steps["limit"] == 1.10
    assert steps["segment"] % 4 == 0, "penalties are due every fourth step"
    assert steps["pairs"] == 2
    assert steps["ratio_quartiles"][0] <= steps["ratio"] <= steps["ratio_quartiles"][1]
    assert steps["same"]["steps"] == 5
    (conditional,) = lines(capsys, *args, "--part", "conditional", of=gan_steps)
    assert conditional["limit"] is None
    assert conditional["ours_ms"] > 0
    (skipped,) = lines(capsys, *args, "--model.generator.widht", "9", of=gan_steps)
    assert "widht" in skipped["skipped"]
    text = table.tables([steps, conditional, skipped])
    assert "| ours, ms | hand-written, ms |" in text
    assert "| conditional: false, ms | without the option, ms |" in text
    assert "was not measured" in text


# --- modes of a grid --------------------------------------------------------------------------------------------------


def test_modes_and_high_quality_are_those_of_a_loop_over_all_points():
    gan_modes = script("gan_modes")
    source = GaussianGrid(side=3, spacing=60.0, deviation=2.5)
    levels = torch.randint(256, (3000, 2, 1, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    levels[:200] = torch.from_numpy(source.load("val").levels[:200])
    centres = [(127.5 + 60 * (i - 1), 127.5 + 60 * (j - 1)) for i in range(3) for j in range(3)]
    covered, good = set(), 0
    for x, y in levels.flatten(1).tolist():
        hits = [mode for mode, (a, b) in enumerate(centres) if (x - a) ** 2 + (y - b) ** 2 <= 7.5**2]
        covered.update(hits)
        good += bool(hits)
    found = gan_modes.figures(gan_modes.coverage(source), levels)
    assert found == {"modes_pixels": len(covered), "high_quality_pixels": pytest.approx(good / 3000)}


@pytest.mark.slow
def test_modes_of_a_config_stand_beside_those_of_real_points(capsys, config, tmp_path):
    gan_modes = script("gan_modes")
    tiny = yaml.safe_load(config.read_text(encoding="utf-8"))
    tiny["data"]["source"] = "lightning_gen.data.GaussianGrid"
    tiny["evaluation"] = {"every": 640, "extractor": None}
    tiny["checkpoint"] = {"every": 640}
    path = tmp_path / "tiny-gaussian-grid.yaml"
    path.write_text(yaml.safe_dump(tiny), encoding="utf-8")
    args = ("--seeds", "0", "1", "--jobs", "2", "--n", "500", "--runs", str(tmp_path / "runs"))
    real, model = lines(capsys, "--config", str(path), *args, of=gan_modes)
    assert real["modes_pixels"]["values"] == [25.0]
    assert real["high_quality_pixels"]["mean"] > 0.97
    assert real["met_by_every_seed"] is True
    assert model["seeds"] == [0, 1]
    assert model["images_seen"] == [640, 640]
    assert model["met_by_every_seed"] is False, "after ten steps"
    assert (
        model["high_quality_pixels"]["values"]
        == lines(capsys, "--config", str(path), *args, of=gan_modes)[1]["high_quality_pixels"]["values"]
    )
    assert "| real points | 500 | 25 | " in table.tables([real, model])
    with pytest.raises(SystemExit):
        gan_modes.main(["--config", str(config), *args])
    assert "not lightning_gen.data.GaussianGrid" in capsys.readouterr().err


# --- against torchgan -------------------------------------------------------------------------------------------------


def write_idx(path, array):
    """Write a gzipped IDX file of bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), 1))


@pytest.fixture
def clothes(tmp_path):
    """A folder with a few noisy pictures in Fashion-MNIST's files: 120 to train on, 5,000 held out, 60 to test on."""
    random = np.random.default_rng(0)
    folder = tmp_path / "clothes"
    folder.mkdir()
    for prefix, n in (("train", 5120), ("t10k", 60)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", random.integers(0, 256, (n, 28, 28)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(n) % 10)
    return folder


def on_clothes(config, clothes, tmp_path, **changes):
    """Return a copy of a tiny config that reads ``clothes``, with other keys, and is evaluated at its end alone."""
    tiny = yaml.safe_load(config.read_text(encoding="utf-8"))
    source = {"class_path": "lightning_gen.data.FashionMNIST", "init_args": {"root": str(clothes)}}
    tiny["data"]["source"] = source
    del tiny["schedule"]
    tiny |= {"evaluation": {"every": 1_000_000, "extractor": None}, "checkpoint": {"every": 1_000_000}, **changes}
    path = tmp_path / "tiny-fashion-mnist.yaml"
    path.write_text(yaml.safe_dump(tiny), encoding="utf-8")
    return path


@pytest.mark.slow
def test_configs_on_clothes_stand_beside_the_floor(capsys, config, clothes, tmp_path):
    fashion_mnist = script("fashion_mnist")
    path = on_clothes(config, clothes, tmp_path)
    where = ["--root", str(clothes), "--runs", str(tmp_path / "runs"), "--part", "test", "--n", "100"]
    args = ["--config", str(path), "--images", "640", "--seeds", "0", "1", *where]
    floor, memoriser, row, beside = lines(capsys, *args, of=fashion_mnist)
    assert floor["n"] == [120, 60]
    assert row["images_seen"] == [640, 640]
    name = "fid_fashion_mnist_heldout"
    assert beside["ratio"] == pytest.approx(row[name]["mean"] / floor[name]["mean"])
    assert lines(capsys, *args, of=fashion_mnist)[2][name] == row[name]  # scored as it lies there
    assert memoriser["copied_pixels"]["mean"] == pytest.approx(1)
    assert "tiny-fashion-mnist" in table.tables([floor, memoriser, row, beside])
    assert len(lines(capsys, *where, of=fashion_mnist)) == 2  # of real images alone


def test_torchgan_must_be_installed(capsys, monkeypatch):
    gan_torchgan = script("gan_torchgan")
    monkeypatch.setattr(gan_torchgan.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        gan_torchgan.main(["--config", "configs/gan/dcgan-fashion-mnist.yaml"])
    assert stopped.value.code == 2
    assert "pip install --no-deps torchgan==0.1.0" in capsys.readouterr().err


def test_torchgan_and_a_config_get_equal_time(capsys, config, clothes, tmp_path):
    pytest.importorskip("torchgan", reason="torchgan is no dependency: pip install --no-deps torchgan==0.1.0")
    gan_torchgan = script("gan_torchgan")
    path = on_clothes(config, clothes, tmp_path, budget={"minutes": 20})
    args = (
        "--minutes",
        "0.02",
        "--n",
        "100",
        "--part",
        "test",
        "--root",
        str(clothes),
        "--runs",
        str(tmp_path / "runs"),
    )
    rows = lines(capsys, "--config", str(path), "--at_once", *args, of=gan_torchgan)
    floor, ours, theirs, against, beside = rows
    assert floor["n"] == [120, 60]
    for row in (ours, theirs):
        assert 1.2 <= row["seconds"]["mean"] < 4
        assert row["images_seen"][0] > 0
        assert row["fid_fashion_mnist_heldout"]["mean"] > 0
    assert against["ratio"] == pytest.approx(
        ours["fid_fashion_mnist_heldout"]["mean"] / theirs["fid_fashion_mnist_heldout"]["mean"]
    )
    assert (against["limit"], beside["against"]) == (1.0, floor["row"])
    again = lines(capsys, "--config", str(path), *args, of=gan_torchgan)
    assert again[2]["fid_fashion_mnist"] == theirs["fid_fashion_mnist"]
    assert "torchgan's DCGAN, paper" in table.tables(rows)


# --- likelihood -------------------------------------------------------------------------------------------------------

likelihood = script("likelihood")


def classical(tmp_path, name, model, **options):
    """Return the file of a config of a classical model that is fitted in a few passes."""
    path = tmp_path / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model": {"class_path": f"lightning_gen.models.{model}", "init_args": options},
                "data": {
                    "class_path": "lightning_gen.data.ImageDataModule",
                    "init_args": {"source": "lightning_gen.data.Digits", "batch_size": 1097},
                },
                "budget": {"images": 4 * 1097},
                "evaluation": {"every": 10_000},
                "checkpoint": {"every": 10_000},
                "run": {"threads": 1},
                "trainer": {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1},
            }
        ),
        encoding="utf-8",
    )
    return str(path)


def test_bits_per_dimension_stand_beside_figures_of_samples(capsys, tmp_path):
    noises = {"class_path": "lightning_gen.bijections.UniformDequantizer", "init_args": {"noises": 3}}
    configs = [
        classical(tmp_path, "independent-digits", "CategoricalMixture", components=1, smoothing=0.1),
        classical(tmp_path, "gaussian", "GaussianMixture", components=2, covariance="diagonal", dequantizer=noises),
    ]
    args = ["--config", *configs, "--seeds", "0", "1", "--n", "60", "--part", "test", "--runs", str(tmp_path / "runs")]
    independent, gaussian = lines(capsys, *args, of=likelihood)
    # Independent pixels by hand: counts of levels, each with a share of the smoothing.
    train, test = (Digits().load(part).levels.reshape(-1, 64) for part in ("train", "test"))
    counts = np.stack([np.bincount(pixel, minlength=17) for pixel in train.T]) + 0.1 / 17
    nats = np.log(counts / counts.sum(1, keepdims=True))[np.arange(64), test].sum(1)
    found = -nats / (64 * np.log(2))
    assert independent["bpd"]["values"] == pytest.approx([found.mean()] * 2, rel=1e-9)
    assert independent["bpd_se"]["mean"] == pytest.approx(found.std(ddof=1) / np.sqrt(500), rel=1e-9)
    assert (independent["free_parameters"], independent["target"], independent["met"]) == (64 * 16, 2.42, None)
    assert independent["likelihood"] == {"kind": "exact", "num_samples": 1, "n": 500, "given_labels": False}
    assert gaussian["figure"] == "bpd_dequantized"
    assert gaussian["likelihood"]["num_samples"] == 3
    assert gaussian["passes"] == [4, 4]
    assert gaussian["fid_digits_heldout"]["mean"] > 1
    assert independent["n"] == gaussian["n"] == 60
    text = table.tables([independent, gaussian])
    assert f"| {found.mean():.4f} ± 0.0000 |" in text
    assert "Held-out part: test, 500 images" in text


def test_a_config_without_a_likelihood_is_told_what_to_ask(capsys, config, tmp_path):
    with pytest.raises(SystemExit):
        likelihood.main(["--config", str(config), "--seeds", "0", "--runs", str(tmp_path / "runs")])
    assert "GAN has no likelihood: ask --what ais" in capsys.readouterr().err


def test_em_takes_turns_with_scikit_learn_at_the_same_work(capsys, monkeypatch):
    args = ("--what", "em", "--rows", "1500", "--components", "3", "--pairs", "2")
    (line,) = lines(capsys, *args, of=likelihood)
    assert line["log_likelihood_difference"] < 1e-9
    assert line["ratio_quartiles"][0] <= line["ratio"] <= line["ratio_quartiles"][1]
    assert "| 1,500 x 64, 3 full covariances |" in table.tables([line])
    same = likelihood.equal_mixtures

    def unequal(*given):
        ours, theirs, x = same(*given)
        ours.density.parts.noise_variance = 1 / 12
        return ours, theirs, x

    monkeypatch.setattr(likelihood, "equal_mixtures", unequal)
    with pytest.raises(SystemExit):
        likelihood.main(args)
    assert "not the same work" in capsys.readouterr().err


@pytest.mark.slow
def test_annealing_is_that_of_the_command(capsys, config, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_gen.commands.ais.FIT_IMAGES", 5)
    args = ("--what", "ais", "--config", str(config), "--steps", "3", "6", "--ais_images", "4", "--n", "60")
    three, six = lines(capsys, *args, "--runs", str(tmp_path / "runs"), of=likelihood)
    assert (three["steps"], six["steps"], six["n"], six["simulated"]) == (3, 6, 4, 4)
    assert three["sigma"] == six["sigma"]
    assert three["log_p"] == pytest.approx(-three["bpd_ais"] * 64 * np.log(2))
    assert three["seconds"] > 0
    assert three["samples"]["fid_digits_heldout"] > 1
    assert "validation images" in table.tables([three, six])


def test_the_linear_decoder_knows_its_posterior():
    # Bayes: p(z) p(x|z) / p(z|x) is p(x) for every z.
    decoder = likelihood.LinearDecoder(latent_dim=3, dims=5, n=4)
    latent = torch.randn(7, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior = torch.distributions.MultivariateNormal(decoder.posterior_mean, decoder.posterior_covariance)
    joint = decoder.target.log_prior(latent) + decoder.target.log_conditional(latent)
    torch.testing.assert_close(joint - posterior.log_prob(latent), decoder.log_p.expand(7, -1))


def test_known_log_probabilities_are_met_and_a_wrong_one_is_not(capsys, monkeypatch):
    rows = list(likelihood.discretized_checks())
    assert all(row["met"] for row in rows if row["limit"] is not None)
    bounds = [row["error"] for row in rows if row["limit"] is None]
    assert abs(bounds[2]) < bounds[1] < bounds[0]
    assert "| known Gaussian, dequantized |" in table.known([row | likelihood.surroundings("x", []) for row in rows])
    right = likelihood.DiscretizedGaussian
    monkeypatch.setattr(likelihood, "DiscretizedGaussian", lambda spec, sigma: right(spec, 1.01 * sigma))
    assert next(likelihood.discretized_checks())["met"] is False


# --- variational autoencoders -----------------------------------------------------------------------------------------

vae, vae_steps, vae_pythae = script("vae"), script("vae_steps"), script("vae_pythae")
NETWORKS = {
    "VAE": {
        "encoder": {"class_path": "lightning_gen.networks.MLPEncoder", "init_args": {"widths": [16]}},
        "decoder": {"class_path": "lightning_gen.networks.MLPDecoder", "init_args": {"widths": [16]}},
        "latent_dim": 3,
    },
    "HierarchicalVAE": {
        "network": {
            "class_path": "lightning_gen.networks.LadderNetwork",
            "init_args": {"resolutions": [8, 1], "depths": [1, 1], "width": 4, "latent_channels": 2},
        },
    },
}


def variational(folder, name, model="VAE", source="Digits", objective="ELBO", **options):
    """Return the file of a config of a small VAE that takes ten steps."""
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
    parts = NETWORKS[model] | {"optimizer": adam, "objective": f"lightning_gen.objectives.{objective}"} | options
    source = {"class_path": f"lightning_gen.data.{source}"} if isinstance(source, str) else source
    config = {
        "model": {"class_path": f"lightning_gen.models.{model}", "init_args": parts},
        "data": {
            "class_path": "lightning_gen.data.ImageDataModule",
            "init_args": {"source": source, "batch_size": 64},
        },
        "budget": {"images": 640},
        "evaluation": {"every": 640, "likelihood": 50},
        "checkpoint": {"every": 640, "monitor": "val/bpd_bound"},
        "grid": {"n": 0},
        "diagnostics": {"n": 0},
        "run": {"threads": 1},
        "trainer": {"accelerator": "cpu", "devices": 1},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_bounds_stand_beside_what_latents_say_and_both_kinds_of_samples(capsys, tmp_path):
    logistic = {"class_path": "lightning_gen.distributions.LogisticPixels", "init_args": {"components": 2}}
    configs = [
        variational(tmp_path, "flat", likelihood=logistic),
        variational(tmp_path, "ladder", "HierarchicalVAE", likelihood=logistic),
    ]
    few = ("--importance_samples", "5", "--train_samples", "2", "--diagnosed", "150", "--n", "60")
    args = ("--config", *configs, "--seeds", "0", "1", "--runs", str(tmp_path / "runs"), *few)
    flat, ladder, below = lines(capsys, *args, of=vae)
    assert (flat["model"], ladder["model"], flat["data"]) == ("VAE", "HierarchicalVAE", "digits")
    for row in (flat, ladder):
        assert row["likelihood"] == {"kind": "bound", "num_samples": 5, "n": 200, "given_labels": False}
        assert row["likelihood_train"] == {"kind": "bound", "num_samples": 2, "n": 200, "given_labels": False}
        assert row["diagnosed"] == 150
        # The two sides of the ELBO are it, up to noise and to which images are looked at.
        sides = (row["reconstruction"]["mean"] + row["kl"]["mean"]) / (64 * np.log(2))
        assert sides == pytest.approx(row["bpd_elbo"]["mean"], rel=0.02)
        assert row["bpd_bound"]["mean"] < row["bpd_elbo"]["mean"] + 1e-3
        assert row["bpd_elbo_train"]["values"] != row["bpd_elbo"]["values"]
        for figure in ("fid_digits_heldout", "fid_digits", "copy_share_pixels"):
            assert row[figure]["values"] != row[f"{figure}_mean"]["values"]
    assert flat["active_units"]["values"] == [int(value) for value in flat["active_units"]["values"]]
    assert ladder["active_layers"]["mean"] >= 0
    assert (below["criterion"], below["row"], below["against"]) == ("hierarchical below flat", *configs[::-1])
    pairs = zip(ladder["bpd_bound"]["values"], flat["bpd_bound"]["values"], strict=True)
    assert below["ratio_by_seed"] == pytest.approx([a / b for a, b in pairs])
    model = load(f"{flat['runs'][1]}/checkpoints/best.ckpt")
    model.importance_samples = 5
    found, _ = likelihood.bits(model, Digits().load("val"))
    assert (flat["bpd_bound"]["values"][1], flat["bpd_bound_se"]["values"][1]) == pytest.approx(tuple(found.values()))
    text = table.tables([flat, ladder, below])
    assert "(K = 5)" in text
    assert "units" in text
    assert "layers" in text
    assert f"| {configs[1]} | expected | " in text
    (again,) = lines(capsys, *args[:2], *args[3:], of=vae)
    assert again | {"command": flat["command"]} == flat, "scored as it lies there, with the same noise"


def test_a_bound_is_held_against_the_target_of_the_test_part_alone():
    def row(name, model, values, given_labels=False):
        spread = digits.spread(values)
        about = {"likelihood": {"given_labels": given_labels}, "figure": "bpd_bound", "bpd_bound": spread}
        return {"row": name, "model": model, "seeds": [0, 1], **about}

    rows = [
        row("a", "VAE", [1.87, 1.90]),
        row("b", "HierarchicalVAE", [1.86, 1.86]),
        row("c", "VAE", [1.5, 1.5], given_labels=True),
    ]
    first, second, below = vae.criteria(rows, 1.88)
    assert (first["criterion"], first["against"]) == ("at most 1.88 on digits", "1.88 bits per dimension")
    assert first["ratio_by_seed"] == pytest.approx([1.87 / 1.88, 1.90 / 1.88])
    assert (first["met"], first["met_by_every_seed"], second["met_by_every_seed"]) == (False, False, True)
    assert (below["met"], below["met_by_every_seed"]) == (True, True)
    assert [line["criterion"] for line in vae.criteria(rows, None)] == ["hierarchical below flat"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (("--data", "fashion_mnist"), "its images are lightning_gen.data.Digits's, and --data fashion_mnist scores"),
        (("--root", "x"), "--root is of fashion_mnist, not of digits"),
        (("--importance_samples", "0"), "must be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_told_before_anything_is_trained(changes, problem, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        vae.main(["--config", variational(tmp_path, "flat"), "--runs", str(tmp_path / "runs"), *changes])
    assert stopped.value.code == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_model_without_a_bound_is_refused(capsys, config, tmp_path):
    with pytest.raises(SystemExit):
        vae.main(["--config", str(config), "--seeds", "0", "--runs", str(tmp_path / "runs")])
    assert "GAN has no likelihood, and this is about bounds" in capsys.readouterr().err


@pytest.mark.slow
def test_scores_of_disentanglement_are_those_of_the_held_out_codes(capsys, tmp_path):
    disentanglement = script("disentanglement")
    source = {"class_path": "lightning_gen.data.WarpedDigits", "init_args": {"values": 4}}
    gaussian = {"class_path": "lightning_gen.distributions.GaussianPixels", "init_args": {"scale": "shared"}}
    configs = [
        variational(tmp_path, name, source=source, objective=objective, likelihood=gaussian, importance_samples=2)
        for name, objective in (("elbo", "ELBO"), ("tc", "BetaTCVAE"))
    ]
    args = ("--config", *configs, "--seeds", "0", "1", "--runs", str(tmp_path / "runs"))
    elbo, tc, *ratios = lines(capsys, *args, of=disentanglement)
    assert (elbo["objective"], tc["objective"]) == ("ELBO", "BetaTCVAE")
    assert (elbo["n"], elbo["likelihood"]["num_samples"]) == (32, 2)
    images = WarpedDigits(values=4)
    codes = load(f"{tc['runs'][1]}/checkpoints/last.ckpt").encode(torch.from_numpy(images.load("val").levels)).numpy()
    assert tc["mig"]["values"][1] == pytest.approx(mutual_information_gap(codes, images.factors("val")))
    assert tc["sap"]["values"][1] == pytest.approx(separated_attribute_predictability(codes, images.factors("val")))
    assert [(line["criterion"], line["row"]) for line in ratios] == [
        ("MIG below BetaTCVAE's", configs[0]),
        ("SAP below BetaTCVAE's", configs[0]),
    ]
    assert ratios[0]["ratio_by_seed"][0] == pytest.approx(elbo["mig"]["values"][0] / tc["mig"]["values"][0])
    text = table.tables([elbo, tc, *ratios])
    assert f"| {configs[1]} | BetaTCVAE | {tc['mig']['mean']:.3f} ± " in text
    assert "Factors x, y, scale, slant of 32 images, the val part" in text
    with pytest.raises(SystemExit):
        disentanglement.main(["--config", variational(tmp_path, "flat")])
    assert "lightning_gen.data.Digits is not a WarpedDigits" in capsys.readouterr().err


# --- variational autoencoders: steps, and pythae ----------------------------------------------------------------------

VAE_STEPS = {
    "ELBO with warm-up": {"objective": ELBO(beta=3.0, warmup=20), "likelihood": part(LogisticPixels, components=2)},
    "IWAE": {"objective": IWAE(4), "likelihood": CategoricalPixels},
    "two latents": {"objective": ELBO(samples=2), "likelihood": part(LogisticPixels, components=3)},
    "dropout and classes": {"objective": ELBO(), "conditional": True, "dropout": 0.3},
}


def vae_of(case):
    options = dict(VAE_STEPS[case])
    network = {"widths": [12], "conditional": options.pop("conditional", False), "dropout": options.pop("dropout", 0.0)}
    encoder, decoder = part(MLPEncoder, **network), part(MLPDecoder, **network)
    return lambda: VAE(Digits().spec, encoder, decoder, part(torch.optim.Adam, lr=1e-3), latent_dim=5, **options)


def test_the_hand_written_vae_takes_the_same_steps():
    for case in VAE_STEPS:
        same_steps(vae_steps, vae_of, case)


def test_a_hand_written_vae_that_does_something_else_is_noticed(monkeypatch):
    data, right = ImageDataModule(Digits(), batch_size=8), vae_steps.elbo
    monkeypatch.setitem(vae_steps.OBJECTIVES, "ELBO", lambda *given: 1.001 * right(*given))
    with pytest.raises(InputError, match=r"loss at step 0 is .* here and .* by hand"):
        vae_steps.compare_sides(vae_of("two latents"), data, 2)
    model = VAE(
        Digits().spec,
        *(part(network, widths=[4]) for network in (MLPEncoder, MLPDecoder)),
        torch.optim.Adam,
        2,
        likelihood=GaussianPixels,
    )
    with pytest.raises(InputError, match="there is no hand-written GaussianPixels here; known are CategoricalPixels"):
        vae_steps.HandWritten(model, data)


def test_step_times_of_vaes_are_compared_side_by_side(capsys, tmp_path):
    configs = [variational(tmp_path, "flat"), variational(tmp_path, "ladder", "HierarchicalVAE")]
    args = ("--config", *configs, "--pairs", "2", "--seconds", "0.001")
    steps, skipped = lines(capsys, *args, of=vae_steps)
    assert steps["limit"] == 1.05
    assert steps["ratio_quartiles"][0] <= steps["ratio"] <= steps["ratio_quartiles"][1]
    assert steps["same"]["loss_difference"] < 1e-6
    assert "HierarchicalVAE is no VAE" in skipped["skipped"]
    text = table.tables([steps, skipped])
    assert "| ours, ms | hand-written, ms |" in text
    assert f"{configs[1]} was not measured" in text


def test_pythae_must_be_installed(capsys, monkeypatch):
    monkeypatch.setattr(vae_pythae.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        vae_pythae.main([])
    assert stopped.value.code == 2
    assert "pip install --no-deps --target FOLDER pythae==0.1.2" in capsys.readouterr().err


def test_the_held_out_loss_of_networks_that_say_nothing_is_half_the_square():
    source = Digits()
    task = vae_pythae.Task(source, torch.from_numpy(source.load("train").levels), 1e-3)
    networks = task.networks(0)
    for network in networks:
        torch.nn.init.zeros_(network.head[-1].weight)
        torch.nn.init.zeros_(network.head[-1].bias)
    unit = source.load("val").levels / 8 - 1.0
    found = vae_pythae.held_out_loss(vae_pythae.Trained(*networks, 0, 0.0), task, "val")
    assert found == pytest.approx((unit**2).sum() / 2 / len(unit), rel=1e-5)


@pytest.mark.slow
def test_sides_get_equal_time_and_are_compared(capsys, monkeypatch):
    for name in vae_pythae.SIDES:
        if "pythae" in name:  # in its place another bare loop: it is no dependency
            monkeypatch.setitem(vae_pythae.SIDES, name, vae_pythae.train_bare)
    real = vae_pythae.importlib.metadata.version
    monkeypatch.setattr(vae_pythae.importlib.metadata, "version", lambda name: "0" if name == "pythae" else real(name))
    monkeypatch.setattr(
        vae_pythae.importlib.util, "find_spec", find_spec_of_pythae(vae_pythae.importlib.util.find_spec)
    )
    rows = lines(capsys, "--minutes", "0.01", "--data", "digits", "--seeds", "0", "1", of=vae_pythae)
    sides = {row["row"]: row for row in rows if "kind" in row}
    assert list(sides) == list(vae_pythae.SIDES)
    ours, theirs = sides["lightning fit"], sides["pythae's trainer"]
    checks = {(line["against"], "ratio" in line): line for line in rows if "comparison" in line}
    assert len(checks) == 2 * (len(sides) - 1)
    faster, loss, beside = (checks[key] for key in ((theirs["row"], True), (theirs["row"], False), ("bare loop", True)))
    for row in sides.values():
        assert 0.6 <= row["seconds"]["mean"] < 5
        rates = [seen / seconds for seen, seconds in zip(row["images_seen"], row["seconds"]["values"], strict=True)]
        assert row["images_per_second"]["values"] == pytest.approx(rates)
    assert faster["ratio"] == pytest.approx(ours["images_per_second"]["mean"] / theirs["images_per_second"]["mean"])
    assert (faster["at_least"], faster["met"]) == (1.1, faster["ratio"] >= 1.1)
    assert (beside["at_least"], beside["met"]) == (None, None)
    apart = [a - b for a, b in zip(ours["held_out_loss"]["values"], theirs["held_out_loss"]["values"], strict=True)]
    assert loss["difference_by_seed"] == pytest.approx(apart)
    assert loss["spread"] == pytest.approx(np.hypot(ours["held_out_loss"]["std"], theirs["held_out_loss"]["std"]))
    text = table.tables(rows)
    assert "| images per second, ours / theirs | pythae's trainer | " in text
    assert "| held-out loss, ours - theirs, nats | bare loop | " in text
    assert "digits, val part; 0.01 minutes for each side and seed" in text


def find_spec_of_pythae(real):
    """Return a search for modules that finds pythae, too."""
    return lambda name, *given: object() if name == "pythae" else real(name, *given)
