"""`lightning evaluate --likelihood`: importance samples of a bound, and the prior of a model of codes."""

import json
import math
from pathlib import Path

import pytest
import torch
from refusals import refused

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.data import Digits
from lightning_gen.runs import RunFolder

VAE = str(Path(__file__).parent / "conf" / "vae.yaml")
VQ = """
model:
  class_path: lightning_gen.models.VQVAE
  init_args:
    encoder: {class_path: lightning_gen.networks.GridEncoder, init_args: {halvings: 2, width: 8, depth: 1}}
    decoder: {class_path: lightning_gen.networks.GridDecoder, init_args: {halvings: 2, width: 8, depth: 1}}
    quantizer: {class_path: lightning_gen.networks.VectorQuantizer, init_args: {codes: 16, dim: 4, half_life: 300}}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.003}}
    sampler: lightning_gen.samplers.CodeSampler
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {source: lightning_gen.data.Digits, batch_size: 32}
budget: {images: 640}
evaluation: {every: 640, extractor: null}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1, enable_progress_bar: false}
"""
PRIOR = """
model: {class_path: lightning_gen.models.ChowLiuMixture, init_args: {components: 2, conditional: true}}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args:
    source: {class_path: lightning_gen.models.Codes, init_args: {checkpoint: none.ckpt}}
    batch_size: 1097
budget: {images: 10970}
evaluation: {every: 1000000}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1, enable_progress_bar: false}
"""


def fit(root: Path, name: str, config: str, *options: str) -> RunFolder:
    file = root / f"{name}.yaml"
    file.write_text(config)
    main(["fit", "--config", str(file), f"--run.root={root}", *options])
    return RunFolder(root / name / "version_0")


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> RunFolder:
    return fit(tmp_path_factory.mktemp("vae"), "vae", Path(VAE).read_text(), "--budget.images=640")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[RunFolder, RunFolder]:
    root = tmp_path_factory.mktemp("pair")
    run = fit(root, "vq", VQ)
    return run, fit(root, "prior", PRIOR, "--data.source.checkpoint", str(run.last))


def report_of(tmp_path: Path, run: RunFolder, *options: str) -> dict:
    out = tmp_path / "out.json"
    main(["evaluate", str(run.last), "--likelihood", "--json", str(out), *options])
    return json.loads(out.read_text())


def validated(run: RunFolder, *options: str) -> dict:
    main(["validate", "--config", str(run.path / "config.yaml"), "--ckpt_path", str(run.last), *options])
    return json.loads((run.path / "validate.json").read_text())


def test_a_bound_takes_as_many_importance_samples_as_are_asked_for(vae, tmp_path, capsys):
    found = {count: report_of(tmp_path, vae, "--importance_samples", str(count)) for count in (1, 40)}
    assert {count: report["num_samples"] for count, report in found.items()} == {1: 1, 40: 40}
    assert (
        "bpd_bound_given_labels: kind bound, num_samples 40, of 200 val images given their labels"
        in capsys.readouterr().err
    )
    # by hand, with the noise of the only chunk
    model = lightning_gen.load(vae.last)
    images = Digits().load("val")
    levels, labels = torch.from_numpy(images.levels), torch.from_numpy(images.labels)
    noise = torch.randn(40, 200, model.latent_dim, generator=keyed_generator(0, "likelihood", 0))
    with torch.no_grad():
        weights = model.eval().terms(levels, labels, noise).log_weights
    nats = weights.double().logsumexp(0) - math.log(40)
    assert found[40]["bpd_bound_given_labels"] == pytest.approx(-float(nats.mean()) / (64 * math.log(2)), rel=1e-6)
    assert found[40]["bpd_bound_given_labels"] < found[1]["bpd_bound_given_labels"]
    # the number of the model's own, and the other way to give one
    assert report_of(tmp_path, vae)["num_samples"] == 5
    other = validated(vae, "--model.importance_samples=40")
    assert other["val/bpd_bound_given_labels"] == pytest.approx(found[40]["bpd_bound_given_labels"], rel=1e-12)
    assert other["likelihood_num_samples"] == 40


def test_the_prior_of_codes_is_given_as_to_samples(pair, tmp_path):
    run, prior = pair
    alone, both = report_of(tmp_path, run), report_of(tmp_path, run, "--sampler.prior", str(prior.last))
    assert alone["sampler_class_path"] == both["sampler_class_path"] == "lightning_gen.samplers.latent.CodeSampler"
    assert alone["sampler_init_args_prior"] is None
    assert both["sampler_init_args_prior"] == str(prior.last)
    assert (alone["given_labels"], both["given_labels"]) == (False, True)
    assert both["bpd_bound"] < alone["bpd_bound"] - 0.01
    other = validated(run, "--model.sampler.prior", str(prior.last))
    assert other["val/bpd_bound"] == pytest.approx(both["bpd_bound"], rel=1e-12)
    assert other["sampler_init_args_prior"] == str(prior.last)
    assert validated(run)["val/bpd_bound"] == pytest.approx(alone["bpd_bound"], rel=1e-12)
    trusting = report_of(tmp_path, run, f"--sampler.prior={prior.last}", "--sampler.trust=[my_package]")
    assert trusting["bpd_bound"] == both["bpd_bound"]


def test_what_does_not_fit_is_refused_in_one_line(vae, pair, tmp_path, capsys):
    run, prior = pair
    bound = ["evaluate", str(vae.last), "--likelihood"]
    for arguments, message in (
        ([*bound, "--importance_samples", "0"], "--importance_samples: expected a whole number of at least 1"),
        ([*bound, "--importance_samples", "many"], "--importance_samples: expected"),
        (["evaluate", str(vae.last), "--importance_samples", "9"], "--importance_samples belongs to --likelihood"),
        (
            ["evaluate", "--generated", str(tmp_path), "--real", "digits", "--importance_samples", "9"],
            "--importance_samples belongs to a checkpoint",
        ),
        (
            ["evaluate", str(run.last), "--likelihood", "--importance_samples", "9"],
            "--importance_samples: the likelihood of this VQVAE takes no importance samples: leave it out",
        ),
        ([*bound, "--sampler.prior", str(prior.last)], "PriorSampler has no option 'prior': it has temperature"),
        ([*bound, "--sampler.pixels", "mean"], "--sampler.pixels is about samples, and --likelihood draws none"),
        (
            ["evaluate", str(run.last), "--likelihood", "--sampler.prior=a.ckpt", "--sampler.pixels=mean"],
            "--sampler.pixels is about samples",
        ),
        (["evaluate", str(run.last), "--likelihood", "--sampler.prior", "none.ckpt"], "none.ckpt"),
        (
            ["evaluate", str(run.last), "--likelihood", "--sampler.prior", str(vae.last)],
            f"sampler.prior: {vae.last} is of images (1, 8, 8) with 17 levels, and the codes are (1, 2, 2) with 16",
        ),
        (["evaluate", str(run.last), "--likelihood", "--sampler.prior"], "--sampler.prior needs a value"),
    ):
        assert message in refused(capsys, *arguments), arguments


def test_help_tells_what_validate_and_test_call_it(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "(For validate and test: --model.importance_samples.)" in shown
    assert "lightning evaluate CKPT --likelihood --sampler.prior CKPT_OF_THE_PRIOR" in shown
