"""sample, evaluate, export, validate, test and predict, from a checkpoint alone, as users call them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.runs import RunFolder

CONFIG = str(Path(__file__).parent / "conf" / "gan.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    root = tmp_path_factory.mktemp("runs")
    main(["fit", "--config", CONFIG, "--run.root", str(root), "--budget.images", "6400", "--evaluation.every", "3200"])
    return RunFolder(root / "gan" / "version_0")


def sample(run: RunFolder, out: Path, *arguments: str) -> np.ndarray:
    main(["sample", str(run.last), "--out", str(out), *arguments])
    return np.load(out / "samples.npy")


def test_sample_writes_levels_and_pictures(run, tmp_path):
    levels = sample(run, tmp_path / "a", "--n", "13", "--grid", str(tmp_path / "grid.png"))
    assert levels.shape == (13, 1, 8, 8)
    assert levels.dtype == np.uint8
    assert levels.max() <= 16
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [*(f"{i:05d}.png" for i in range(13)), "samples.npy"]
    picture = Image.open(tmp_path / "a" / "00007.png")
    assert picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), np.round(levels[7, 0] * (255 / 16)).astype(np.uint8))
    assert min(Image.open(tmp_path / "grid.png").size) >= 4 * 48
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_samples_depend_on_the_seed_alone(run, tmp_path):
    first = sample(run, tmp_path / "a", "--n", "20")
    np.testing.assert_array_equal(first, sample(run, tmp_path / "b", "--n", "20"))
    assert not np.array_equal(first, sample(run, tmp_path / "c", "--n", "20", "--seed", "1"))


def test_sampler_options_and_live_weights_change_the_samples(run, tmp_path):
    plain = sample(run, tmp_path / "a", "--n", "50")
    cool = sample(run, tmp_path / "b", "--n", "50", "--sampler.temperature", "0.3")
    assert cool.std(axis=0).mean() < 0.8 * plain.std(axis=0).mean()
    truncated = sample(run, tmp_path / "c", "--n", "50", "--sampler.truncation=0.2")
    assert truncated.std(axis=0).mean() < 0.8 * plain.std(axis=0).mean()
    live = sample(run, tmp_path / "d", "--n", "50", "--weights", "live")
    assert not np.array_equal(live, plain)


def test_bad_sampling_options(run, tmp_path, capsys):
    for arguments, expected in [
        (["--sampler.temprature", "1"], "LatentSampler has no option 'temprature': did you mean 'temperature'?"),
        (["--sampler.xyz", "1"], "LatentSampler has no option 'xyz': it has temperature, truncation, chunk_size"),
        (["--sampler.temperature", "0"], "sampler.temperature must be above 0"),
        (["--sampler.temperature", "warm"], "--sampler.temperature: expected a number, got 'warm'"),
        (["--sampler.temperature"], "--sampler.temperature needs a value"),
        (["--sampler.chunk_size", "0"], "sampler.chunk_size must be a positive integer, got 0"),
        (["--sampler"], "--sampler needs a value"),
        (["--sampler", "StylSampler"], "--sampler StylSampler: no sampler of that name: did you mean 'StyleSampler'?"),
        (["--sampler=xyz"], "--sampler xyz: no sampler of that name: there are AncestralSampler, CodeSampler, Latent"),
        (
            ["--sampler", "lightning_gen.samplers.Nope"],
            "--sampler lightning_gen.samplers.Nope: no sampler of that name",
        ),
        (["--sampler", "no_such.Sampler"], "--sampler no_such.Sampler: no sampler of that name"),
        (["--sampler", "StyleSampler", "--sampler.ps", "1"], "StyleSampler has no option 'ps': did you mean 'psi'?"),
        (["--sampler", "StyleSampler", "--sampler.psi", ".inf"], "sampler.psi must be finite, got inf"),
        (["--sampler.psi", "0.5"], "LatentSampler has no option 'psi': it has temperature, truncation, chunk_size"),
        (["--labels", "[1]"], "is not class-conditional"),
        (["--device", "cuda:77"], "--device cuda:77"),
        (["--device", "gpux"], "--device gpux"),
    ]:
        line = refused(capsys, "sample", str(run.last), "--out", str(tmp_path / "x"), *arguments)
        assert expected in line, arguments
        assert not (tmp_path / "x").exists(), arguments


# Another sampler than the model's own


@pytest.fixture(scope="module")
def styles(tmp_path_factory) -> RunFolder:
    """A class-conditional generator with styles, which draws with a plain LatentSampler."""
    root = tmp_path_factory.mktemp("styles")
    options = ["--budget.images=64", "--grid.n=0", "--diagnostics.n=0", "--evaluation.extractor=null"]
    config = str(Path(__file__).parent / "conf" / "full.yaml")
    more = ["--evaluation.metrics=null", "--checkpoint.monitor=null"]
    main(["fit", "--config", config, f"--run.root={root}", *options, *more])
    return RunFolder(root / "full" / "version_0")


def test_a_sampler_with_its_options_is_given_on_the_command_line(styles, tmp_path):
    plain = sample(styles, tmp_path / "plain", "--n", "20")
    half = sample(styles, tmp_path / "half", "--n", "20", "--sampler", "StyleSampler", "--sampler.psi", "0.5")
    by_path = ["--sampler=lightning_gen.samplers.StyleSampler", "--sampler.psi=0.5", "--sampler.chunk_size=7"]
    np.testing.assert_array_equal(half, sample(styles, tmp_path / "path", "--n", "20", *by_path))
    np.testing.assert_array_equal(plain, sample(styles, tmp_path / "one", "--n", "20", "--sampler", "StyleSampler"))
    # by hand: styles half way to the mean of the image's class
    model = lightning_gen.load(styles.last)
    labels = torch.arange(10).repeat(2)
    latent = model.draw_latents(20, labels, generator=keyed_generator(0, "sample"))
    with torch.no_grad():
        z, noise = model.generator.split(latent)
        w = model.generator.styles(z, labels)
        mean = model.generator.styles(z, labels, psi=0.0)
        expected = model.spec.to_levels(model.generator.synthesise(mean + 0.5 * (w - mean), noise))
    np.testing.assert_array_equal(half, expected.numpy())
    assert not np.array_equal(half, plain)


@pytest.mark.parametrize("name", ["StyleSampler", "AncestralSampler", "PriorSampler", "CodeSampler"])
def test_a_sampler_that_is_not_for_the_model_ends_in_one_line(run, tmp_path, capsys, name):
    line = refused(capsys, "sample", str(run.last), "--out", str(tmp_path / "x"), "--sampler", name)
    assert name in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sampler.temperature", "a=b"], "--sampler.temperature: expected a number, got 'a=b'"),
        (["--sampler", "no.such.Sampler"], "--sampler no.such.Sampler: no sampler of that name"),
        (["--sampler", "lightning_gen.samplers.Sampler"], "--sampler lightning_gen.samplers.Sampler: "),
    ],
)
def test_further_mistakes_about_samplers_end_in_one_line(run, tmp_path, capsys, arguments, expected):
    assert refused(capsys, "sample", str(run.last), "--out", str(tmp_path / "x"), *arguments).startswith(expected)


def test_figures_say_how_samples_were_drawn(run, styles, tmp_path):
    out, name = tmp_path / "out.json", "lightning_gen.samplers.latent.LatentSampler"
    nested = {"class_path": name, "init_args": {"temperature": 1.0, "truncation": None, "chunk_size": None}}
    assert run.summary()["sampler"] == nested
    flat = {"sampler_class_path": name, "sampler_init_args_temperature": 1, "sampler_init_args_truncation": None}

    def sampler_of(file: Path) -> dict:
        return {key: value for key, value in json.loads(file.read_text()).items() if key in flat}

    main(["validate", "--config", str(run.path / "config.yaml"), "--ckpt_path", "last"])
    assert sampler_of(run.path / "validate.json") == flat
    main(["evaluate", str(run.last), "--n", "20", "--json", str(out)])
    assert sampler_of(out) == flat
    main(["evaluate", str(run.last), "--n", "20", "--json", str(out), "--sampler.truncation", "0.7"])
    assert sampler_of(out) == {**flat, "sampler_init_args_truncation": 0.7}
    other = ["--extractor", "digits", "--sampler", "StyleSampler", "--sampler.psi", "0.7"]
    main(["evaluate", str(styles.last), "--n", "20", "--json", str(out), *other])
    report = json.loads(out.read_text())
    assert report["sampler_class_path"] == "lightning_gen.samplers.latent.StyleSampler"
    assert report["sampler_init_args_psi"] == 0.7
    small = ["--n", "2", "--steps", "2", "--chains", "2", "--simulated", "0", "--sigma", "0.5"]
    main(["ais", str(run.last), *small, "--json", str(out)])
    assert sampler_of(out) == flat


def test_checkpoints_of_another_format_are_refused_in_one_line(run, tmp_path, capsys):
    checkpoint = torch.load(run.last, weights_only=True)
    config = ["--config", CONFIG, "--run.root", str(tmp_path / "runs")]
    for number, remedy in ((1, "train anew, or use the version that wrote it"), (3, "upgrade lightning-gen")):
        checkpoint["lightning_gen"] |= {"format": number, "version": "0.0.7"}
        file = tmp_path / f"format{number}.ckpt"
        torch.save(checkpoint, file)
        said = f"the checkpoint has format {number} (written by lightning-gen 0.0.7), this version reads 2: {remedy}"
        for arguments in (
            ["sample", str(file), "--out", str(tmp_path / "x")],
            ["evaluate", str(file)],
            ["interpolate", str(file), "--out", str(tmp_path / "x.png")],
            ["ais", str(file)],
            ["validate", *config, "--ckpt_path", str(file)],
            ["fit", *config, "--ckpt_path", str(file)],
            ["fit", *config, "--init_from", str(file)],
        ):
            assert refused(capsys, *arguments) == said, arguments
    assert not (tmp_path / "runs").exists()


def test_python_and_command_line_agree(run, tmp_path):
    model = lightning_gen.load(run.last)
    levels = model.sample(16, generator=keyed_generator(0, "sample"))
    np.testing.assert_array_equal(levels.numpy(), sample(run, tmp_path / "a", "--n", "16"))


def test_evaluate_repeats_the_figures_of_training(run, tmp_path, capsys):
    file = tmp_path / "out.json"
    main(["evaluate", str(run.last), "--n", "200", "--json", str(file)])
    report = json.loads(file.read_text())
    last = run.summary()["last"]
    assert report["fid_digits"] == pytest.approx(last["val/fid_digits"], rel=1e-9)
    assert report["fid_digits_heldout"] == pytest.approx(last["val/fid_digits_heldout"], rel=1e-9)
    assert report["n"] == 200
    assert report["extractor"] == "digits"
    assert report["checkpoint"] == str(run.last)
    assert report["references_train_n"] == 1097
    assert not any(isinstance(value, dict | list) for value in report.values())
    assert f"{report['fid_digits']:.6g}" in capsys.readouterr().out


def test_evaluate_means_over_sets_of_samples_and_can_leave_real_images_out(run, tmp_path, capsys):
    def report(*arguments):
        main(["evaluate", str(run.last), "--n", "200", "--json", str(tmp_path / "out.json"), *arguments])
        return json.loads((tmp_path / "out.json").read_text())

    single = [report("--seed", str(seed), "--controls", "false") for seed in (3, 4, 5)]
    assert not any(name.startswith(("floor", "memoriser", "spread")) for name in single[0])
    capsys.readouterr()
    together = report("--seed", "3", "--draws", "3")
    assert capsys.readouterr().out.splitlines()[0].split() == ["samples", "spread", "floor", "memoriser"]
    for name in ("fid_digits_heldout", "fid_digits"):
        values = [one[name] for one in single]
        assert together[name] == pytest.approx(np.mean(values), rel=1e-12)
        assert together[f"spread_{name}"] == pytest.approx(np.std(values, ddof=1), rel=1e-9)
    assert (together["n"], together["draws"]) == (200, 3)
    controls = run.summary()["controls"]
    assert together["memoriser_fid_digits"] == pytest.approx(controls["memoriser"]["val/fid_digits"], rel=1e-9)
    assert together["floor_fid_digits"] == pytest.approx(controls["floor"]["val/fid_digits"], rel=1e-9)


def test_evaluate_with_other_metrics_and_part(run, tmp_path):
    file = tmp_path / "out.json"
    metrics = "[PrecisionRecall, CopyShare]"
    main(["evaluate", str(run.last), "--n", "300", "--json", str(file), "--part", "test", "--metrics", metrics])
    report = json.loads(file.read_text())
    assert 0 <= report["precision_digits"] <= 1
    assert 0 <= report["copy_share_pixels"] <= 1
    assert "fid_digits" not in report
    assert report["heldout_part"] == "test"


def test_validate_and_test_print_and_write(run, capsys):
    main(["validate", "--config", str(run.path / "config.yaml"), "--ckpt_path", "last"])
    assert "val/fid_digits " in capsys.readouterr().out
    validated = json.loads((run.path / "validate.json").read_text())
    assert validated["val/fid_digits"] == pytest.approx(run.summary()["last"]["val/fid_digits"], rel=1e-9)
    main(["test", "--config", str(run.path / "config.yaml"), "--ckpt_path", "best"])
    tested = json.loads((run.path / "test.json").read_text())
    assert tested["test/fid_digits_heldout"] != validated["val/fid_digits_heldout"]
    assert tested["checkpoint"].endswith("best.ckpt")


def test_predict_writes_an_image_for_every_validation_image_and_over_nothing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["predict", "--config", str(run.path / "config.yaml"), "--ckpt_path", str(run.last.resolve())])
    assert np.load("predictions.npy").shape == (200, 1, 8, 8)
    before = Path("predictions.npy").read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--config", str(run.path / "config.yaml"), "--ckpt_path", "last"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(
        "error: predictions.npy exists: rename or remove it, or run predict in another folder\n"
    )
    assert Path("predictions.npy").read_bytes() == before


def test_init_from_takes_what_fits(run, tmp_path, capsys):
    wider = ["--model.generator.widths", "[40]", "--budget.images", "64", "--run.root", str(tmp_path)]
    main(["fit", "--config", CONFIG, "--init_from", str(run.last), *wider])
    said = capsys.readouterr().err
    assert "took 6 of 12 tensors" in said
    assert "left as initialised: generator.net.0.weight" in said
    assert "not used: generator.net.0.weight" in said
    summary = RunFolder(tmp_path / "gan" / "version_0").summary()
    assert summary["images_seen"] == 64


def test_classifier_trains_and_exports_an_extractor(tmp_path):
    config = "configs/classifier/digits.yaml"
    main(
        ["fit", "--config", config, "--run.root", str(tmp_path), "--budget.images", "8000", "--schedule.warm_up", "500"]
    )
    run = RunFolder(tmp_path / "digits" / "version_0")
    assert run.summary()["last"]["val/accuracy"] > 0.9
    weights = tmp_path / "mine.safetensors"
    main(["export", str(run.last), str(weights)])
    from lightning_gen.data import Digits
    from lightning_gen.metrics import ClassifierExtractor

    images = Digits().load("val")
    logits = ClassifierExtractor(str(weights))(torch.from_numpy(images.levels), Digits().spec).logits
    accuracy = (logits.argmax(1).numpy() == images.labels).mean()
    assert accuracy == pytest.approx(run.summary()["last"]["val/accuracy"], abs=1e-6)


def test_shipped_classifier_reaches_98_percent_on_the_test_part():
    from lightning_gen.data import Digits
    from lightning_gen.metrics import DigitsExtractor

    images = Digits().load("test")
    logits = DigitsExtractor()(torch.from_numpy(images.levels), Digits().spec).logits
    assert (logits.argmax(1).numpy() == images.labels).mean() >= 0.98


def test_rows_logged_by_lightning_itself_have_images_seen_as_x(tmp_path):
    from lightning.pytorch import Trainer

    from lightning_gen.callbacks import MetricsCSV
    from lightning_gen.data import Digits, ImageDataModule
    from lightning_gen.models import Classifier
    from lightning_gen.networks import SmallClassifier
    from lightning_gen.runs import read_metrics

    class Logging(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("mine", loss)
            return loss

    data = ImageDataModule(Digits(), batch_size=10)
    model = Logging(data.spec, SmallClassifier, lambda p: torch.optim.SGD(p, 0.1))
    folder = RunFolder.new(str(tmp_path), "x")
    trainer = Trainer(
        accelerator="cpu",
        max_steps=4,
        logger=MetricsCSV(folder),
        log_every_n_steps=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(model, data)
    rows = read_metrics(folder.path / "metrics.csv")[1]
    assert [row["images_seen"] for row in rows] == ["20", "40"]
