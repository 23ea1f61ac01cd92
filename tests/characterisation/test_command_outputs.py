"""What the commands write: a tiny GAN, VAE and mixture of digits, trained, sampled and scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from stored import against_stored, levels_of

from lightning_gen.cli import main
from lightning_gen.runs import RunFolder, read_metrics

FILE, DRAWS = "command_outputs.json", "command_draws.json"
CONF = Path(__file__).parents[1] / "conf"
MIXTURE = """
model:
  class_path: lightning_gen.models.CategoricalMixture
  init_args: {components: 3}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {source: lightning_gen.data.Digits, batch_size: 300}
budget: {images: 3300}
evaluation: {extractor: null}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1, log_every_n_steps: 1}
"""
# In double precision other machines train the same models. Dropout draws other numbers where torch has no MKL.
SHORT = ["--budget.images=640", "--trainer.precision=64-true", "--trainer.log_every_n_steps=10"]
OPTIONS = {"gan": SHORT, "vae": [*SHORT, "--model.encoder.dropout=0.0"], "mixture": []}
# Paths, times, and hashes of what is compared by its figures.
UNSTEADY = {"checkpoint", "seconds", "metrics", "extractor_hash"}

each_model = pytest.mark.parametrize("name", OPTIONS)


# --- the calls, each in one place -------------------------------------------------------------------------------------


def fit(name: str, root: Path) -> RunFolder:
    config = CONF / f"{name}.yaml"
    if name == "mixture":
        config = root / "mixture.yaml"
        config.write_text(MIXTURE)
    main(["fit", "--config", str(config), "--run.root", str(root), *OPTIONS[name]])
    return RunFolder(root / name / "version_0")


def sample(run: RunFolder, out: Path, *options: str) -> None:
    main(["sample", str(run.last), "--n", "4", "--out", str(out), *options])


def evaluate(run: RunFolder, json_file: Path) -> None:
    metrics = "[FrechetDistance, KernelDistance, CopyShare]"
    options = ["--n", "60", "--extractor", "digits", "--metrics", metrics]
    main(["evaluate", str(run.last), *options, "--json", str(json_file)])


def evaluate_likelihood(run: RunFolder, json_file: Path) -> None:
    main(["evaluate", str(run.last), "--likelihood", "--json", str(json_file)])


def ais(run: RunFolder, json_file: Path, *options: str) -> None:
    few = ["--n", "4", "--steps", "6", "--chains", "2", "--simulated", "4"]
    main(["ais", str(run.last), *few, *options, "--json", str(json_file)])


def score(verb: str, run: RunFolder) -> Path:
    """Run ``validate`` or ``test``; return the file that it writes.

    In single precision: with averaged weights, 64-true stops with an error about types that differ.
    """
    config = ["--config", str(run.path / "config.yaml"), "--ckpt_path", str(run.last)]
    main([verb, *config, "--trainer.precision=32-true"])
    return run.path / f"{verb}.json"


# --- what they find ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, RunFolder]:
    root = tmp_path_factory.mktemp("runs")
    return {name: fit(name, root) for name in OPTIONS}


def report_of(file: Path) -> dict[str, object]:
    """Return what is stored of a flat JSON object: its keys, its numbers as ``figures``, and its texts as ``facts``."""
    report = json.loads(file.read_text())
    steady = {key: value for key, value in report.items() if key not in UNSTEADY and not key.endswith("fingerprint")}
    figures = {key: value for key, value in steady.items() if isinstance(value, float)}
    facts = {key: value for key, value in steady.items() if key not in figures}
    return {"keys": sorted(report), "figures": figures, "facts": facts}


@each_model
def test_the_folder_of_a_run(name, runs):
    run, summary = runs[name], runs[name].summary()
    columns, rows = read_metrics(run.path / "metrics.csv")
    found = {
        "files": sorted(path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()),
        "summary": sorted(summary),
        "columns": sorted(columns),
        "images seen": [int(float(row["images_seen"])) for row in rows],
        "training": {
            name: [float(row[name]) for row in rows if row[name]]
            for name in columns
            if name.startswith("train/") and name != "train/images_per_second"
        },
        "figures": summary["last"],
        "best": sorted(summary["best"]),
        "parameters": summary["parameters"],
        "versions": sorted(summary["versions"]),
        "likelihood": summary.get("likelihood"),
    }
    against_stored(FILE, f"fit, {name}", found)


@each_model
def test_sample(name, runs, tmp_path):
    found = {}
    for group, options in {"averaged": [], "live, seed 1": ["--weights", "live", "--seed", "1"]}.items():
        out = tmp_path / group
        sample(runs[name], out, *options)
        levels, labels = np.load(out / "samples.npy"), out / "labels.npy"
        found[group] = {
            "files": sorted(path.name for path in out.iterdir()),
            "shape": levels.shape,
            "dtype": str(levels.dtype),
            "levels": levels_of(levels),
            "labels": np.load(labels) if labels.exists() else None,
        }
    against_stored(DRAWS, f"sample, {name}", found)


@each_model
def test_evaluate(name, runs, tmp_path):
    evaluate(runs[name], tmp_path / "out.json")
    against_stored(DRAWS, f"evaluate, {name}", report_of(tmp_path / "out.json"))


@pytest.mark.parametrize("name", ["vae", "mixture"])
def test_evaluate_likelihood(name, runs, tmp_path):
    evaluate_likelihood(runs[name], tmp_path / "out.json")
    against_stored(FILE, f"evaluate --likelihood, {name}", report_of(tmp_path / "out.json"))


@pytest.mark.parametrize(("name", "options"), [("gan", ["--sigma", "0.8"]), ("vae", [])])
def test_ais(name, options, runs, tmp_path):
    ais(runs[name], tmp_path / "out.json", *options)
    against_stored(DRAWS, f"ais, {name}", report_of(tmp_path / "out.json"))


@pytest.mark.slow
def test_ais_with_noise_that_is_fitted(runs, tmp_path):
    ais(runs["gan"], tmp_path / "out.json")
    figures = report_of(tmp_path / "out.json")["figures"]
    names = "sigma", "bpd_ais", "simulated_bpd_ais", "simulated_bpd_ais_reverse"
    against_stored(FILE, "ais with fitted noise, gan", {"figures of a fit": {name: figures[name] for name in names}})


@pytest.mark.parametrize("verb", ["validate", "test"])
@each_model
def test_validate_and_test(verb, name, runs):
    against_stored(FILE, f"{verb}, {name}", report_of(score(verb, runs[name])))
