"""lightning ais as users call it: figures of GANs and of models with their own p(x|z), and what is refused."""

import json
import math
import sys
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from refusals import refused

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.commands.ais import choose
from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, Images
from lightning_gen.evaluation.annealing import doubts
from lightning_gen.models import GAN
from lightning_gen.runs import RunFolder
from lightning_gen.samplers import AnnealedImportanceSampling, GaussianDecoder, LatentSampler, is_decoder
from lightning_gen.samplers.decoders import HasPixelLikelihood, HasUnitImages

CONFIG = str(Path(__file__).parent / "conf" / "gan.yaml")
OFF = ["--evaluation.extractor=null", "--evaluation.metrics=null", "--checkpoint.monitor=null", "--budget.images=64"]
SMALL = ["--n", "6", "--steps", "8", "--chains", "3", "--simulated", "5"]
MODELS = '''
import torch
from torch.distributions import Binomial
from torch.optim import SGD
from lightning_gen.core.protocols import Likelihood
from lightning_gen.distributions import PixelLikelihood, StandardNormal
from lightning_gen.models import GenerativeModule
from lightning_gen.samplers import PriorSampler


class BinomialPixels(PixelLikelihood):
    out_channels = 1

    def log_prob_map(self, levels, theta):
        return Binomial(self.spec.levels - 1, logits=theta).log_prob(levels.to(theta.dtype)).sum(1)

    def sample(self, theta, noise):
        levels = torch.arange(self.spec.levels).view(-1, 1, 1, 1, 1).to(theta.dtype)
        ends = Binomial(self.spec.levels - 1, logits=theta).log_prob(levels).exp().cumsum(0)
        return (noise >= ends[:-1]).sum(0).to(self.spec.dtype)

    def mean(self, theta):
        return 2 * torch.sigmoid(theta) - 1


class Coin(GenerativeModule):
    """All pixels Binomial around one normal latent: p(x) is a one-dimensional integral."""

    latents = "normal"

    def __init__(self, spec):
        super().__init__(spec, PriorSampler())
        self.prior, self.pixels = StandardNormal(1), BinomialPixels(self.spec)
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def configure_optimizers(self):
        return SGD([self.scale], lr=0.0)

    def training_step(self, batch, batch_idx):
        self.count_images(batch)
        return self.scale.square()

    def pixel_parameters(self, latent, labels):
        assert labels is None
        return (self.scale * latent - 1)[:, :, None, None].expand(-1, *self.spec.shape)

    def log_conditional(self, levels, latent, labels=None):
        theta = self.pixel_parameters(latent.flatten(0, 1), labels)
        return self.pixels.log_prob(levels.repeat(len(latent), 1, 1, 1), theta).view(latent.shape[:2])

    def draw_latents(self, n, labels=None, *, generator):
        return self.prior.sample(n, generator)

    def decode(self, latent, labels=None):
        return self.spec.to_levels(self.pixels.mean(self.pixel_parameters(latent, labels)))


class Exact(GenerativeModule):
    """Gives its likelihood itself."""

    def __init__(self, spec):
        super().__init__(spec)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def configure_optimizers(self):
        return SGD([self.weight], lr=0.0)

    def training_step(self, batch, batch_idx):
        self.count_images(batch)
        return self.weight.square()

    def likelihood(self, levels, labels=None, *, generator=None):
        return Likelihood(torch.full((len(levels),), -1.0), "exact")

    def draw(self, n, labels, generator):
        return torch.zeros(n, *self.spec.shape, dtype=torch.uint8)
'''


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """One checkpoint of each kind of model, trained for two steps."""
    root = tmp_path_factory.mktemp("ais")
    (root / "latent_models.py").write_text(MODELS)
    sys.path.insert(0, str(root))
    conditional = ["--model.generator.conditional=true", "--model.discriminator.conditional=true"]
    kinds = {
        "gan": [],
        "conditional": conditional,
        "truncated": ["--model.sampler=LatentSampler", "--model.sampler.truncation=1"],
    }
    for name, options in kinds.items():
        main(["fit", "--config", CONFIG, f"--run.root={root}", f"--run.experiment={name}", *OFF, *options])
    plain = root / "plain.yaml"
    plain.write_text(
        "data: {class_path: lightning_gen.data.ImageDataModule, init_args: {source: lightning_gen.data.Digits}}\n"
        "budget: {images: 64}\nevaluation: {extractor: null}\ntrainer: {accelerator: cpu}\n"
    )
    for name in ("Coin", "Exact"):
        options = [f"--model=latent_models.{name}", f"--run.root={root}", f"--run.experiment={name.lower()}"]
        main(["fit", "--config", str(plain), *options])
    yield {name: str(RunFolder(root / name / "version_0").last) for name in (*kinds, "coin", "exact")}
    sys.path.remove(str(root))
    sys.modules.pop("latent_models", None)


def fit_shortly(monkeypatch, images: int) -> None:
    """Let noise be fitted on few images, in few rounds."""
    monkeypatch.setattr("lightning_gen.commands.ais.FIT_IMAGES", images)
    monkeypatch.setattr(GaussianDecoder, "fit", partialmethod(GaussianDecoder.fit, rounds=4))


def test_a_gan_gets_a_likelihood(checkpoints, tmp_path, capsys, monkeypatch):
    fit_shortly(monkeypatch, 10)
    out = tmp_path / "out.json"
    command = ["ais", checkpoints["gan"], *SMALL, "--part", "test", "--json", str(out), "--leapfrog", "2"]
    main(command)
    printed = capsys.readouterr()
    report = json.loads(out.read_text())
    figures = dict(line.split() for line in printed.out.splitlines())
    assert list(figures)[:3] == ["bpd_ais", "bpd_ais_se", "log_p"]
    assert all(float(value) == pytest.approx(report[name], rel=1e-5) for name, value in figures.items())
    assert "held-out images: 6 of 6" in printed.err
    assert "bpd_ais: kind ais, num_samples 3, of 6 test images\n" in printed.err
    expected = {"kind": "ais", "n": 6, "part": "test", "chains": 3, "num_samples": 3, "steps": 8, "leapfrog": 2}
    expected |= {
        "batch_size": 500,
        "simulated": 5,
        "sigma_images": 10,
        "observation": "discretized Gaussian",
        "given_labels": False,
        "sampler_class_path": "lightning_gen.samplers.latent.LatentSampler",
        "sampler_init_args_temperature": 1,
        "sampler_init_args_truncation": None,
    }
    assert {name: report[name] for name in expected} == expected
    assert report["bpd_ais"] == pytest.approx(-report["log_p"] / (64 * math.log(2)), rel=1e-9)
    assert report["gap_nats"] == pytest.approx(
        64 * math.log(2) * (report["simulated_bpd_ais"] - report["simulated_bpd_ais_reverse"]), rel=1e-6
    )
    assert 1 <= report["effective_sample_size_lowest"] <= report["effective_sample_size"] <= 3
    assert 0 < report["acceptance_lowest"] <= report["acceptance"] <= 1
    main(command)
    again = json.loads(out.read_text())
    assert {**again, "seconds": 0} == {**report, "seconds": 0}  # the same figures twice
    main([*command, "--seed", "1", "--sigma", str(report["sigma"])])
    assert json.loads(out.read_text())["bpd_ais"] != report["bpd_ais"]


def test_the_figure_is_that_of_the_averaged_generator_on_the_same_images(checkpoints, tmp_path):
    out = tmp_path / "out.json"
    main(["ais", checkpoints["gan"], *SMALL, "--sigma", "0.5", "--json", str(out)])
    report = json.loads(out.read_text())
    assert (report["sigma"], report["sigma_images"]) == (0.5, 0)
    model = lightning_gen.load(checkpoints["gan"])  # averaged weights
    images = Digits().load("val").levels
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:6].sort().values
    target = GaussianDecoder(model.spec, 8, model.unit_images, 0.5).target(torch.from_numpy(images[rows.numpy()]))
    generator = keyed_generator(0, "ais", "held-out/0")
    method = AnnealedImportanceSampling(8, 3)
    found = method.forward(target, method.tune(target, generator), generator)
    assert report["log_p"] == pytest.approx(float(found.bound.mean()), rel=1e-6)


def test_a_class_conditional_gan_is_given_the_images_labels(checkpoints, tmp_path, capsys):
    out = tmp_path / "out.json"
    main(["ais", checkpoints["conditional"], *SMALL, "--sigma", "0.5", "--json", str(out)])
    assert json.loads(out.read_text())["given_labels"] is True
    assert "of 6 val images given their labels" in capsys.readouterr().err


class Numbered:
    """Images whose first pixel is their number."""

    def __init__(self, **counts):
        self.counts = counts

    def images(self, part):
        levels = np.zeros((self.counts[part], 1, 2, 2), np.int64)
        levels[:, 0, 0, 0] = np.arange(self.counts[part])
        return Images(levels, None)


def numbers(images) -> set[int]:
    return set(images.levels[:, 0, 0, 0].tolist())


def test_noise_is_never_fitted_on_images_that_are_scored():
    data = Numbered(val=200, test=300)
    decodes = {"unit_images": None, "latent_shape": (1,), "sampler": LatentSampler()}
    model = Namespace(conditional=False, spec=ImageSpec(1, 2, 2), device=torch.device("cpu"), **decodes)
    for part, n, fitted in (("val", 100, 100), ("val", 150, 50), ("val", 180, 20), ("test", 250, 100)):
        chosen, fitting = choose(data, model, Namespace(part=part, n=n, sigma=None))
        assert (len(numbers(chosen)), len(numbers(fitting))) == (n, fitted)
        assert part == "test" or not numbers(chosen) & numbers(fitting)
    for n in (181, 1000):
        with pytest.raises(
            InputError,
            match=r"leaves (19|0) of 200 validation images to fit the noise on.*: lower --n, give --part test, or give",
        ):
            choose(data, model, Namespace(part="val", n=n, sigma=None))
    chosen, fitting = choose(data, model, Namespace(part="val", n=1000, sigma=0.5))
    assert (len(numbers(chosen)), fitting) == (200, None)


def test_no_more_chains_are_decoded_at_once_than_the_batch_size(checkpoints, monkeypatch):
    sizes = []
    decode = GAN.unit_images

    def counted(self, latent, labels=None):
        sizes.append(len(latent))
        return decode(self, latent, labels)

    monkeypatch.setattr(GAN, "unit_images", counted)
    fit_shortly(monkeypatch, 8)
    main(["ais", checkpoints["gan"], *SMALL, "--batch_size", "12"])
    assert max(sizes) == 12


def test_loose_bounds_are_said_to_be():
    fine, bad, none = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 1.3]), torch.full((2,), math.nan)
    moves, stuck = torch.tensor([0.6, 0.7]), torch.tensor([0.0, 0.3])
    assert doubts(fine, moves, 8) == doubts(torch.ones(2), moves, 1) == doubts(fine, none, 8) == []
    assert doubts(bad, moves, 8) == ["chains disagree: 8 are worth 1.1 on average: raise --steps"]
    assert doubts(fine, stuck, 8) == ["chains hardly move: 0.15 of proposals are accepted: raise --steps"]


def test_chains_that_disagree_are_reported_on_the_terminal(checkpoints, capsys):
    options = ["--n", "4", "--steps", "2", "--chains", "8", "--simulated", "0", "--sigma", "0.02"]
    main(["ais", checkpoints["gan"], *options])
    assert "chains disagree: 8 are worth 1" in capsys.readouterr().err


def test_a_model_with_its_own_pixel_likelihood_meets_its_integral(checkpoints, tmp_path):
    out = tmp_path / "out.json"
    options = ["--n", "10", "--steps", "40", "--chains", "100", "--batch_size", "1000", "--simulated", "10"]
    main(["ais", checkpoints["coin"], "--trust", "latent_models", *options, "--json", str(out)])
    report = json.loads(out.read_text())
    assert report["observation"] == "the model's own"
    assert "sigma" not in report
    model = lightning_gen.load(checkpoints["coin"], trust=("latent_models",))
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:10].sort().values
    levels = torch.from_numpy(Digits().load("val").levels[rows.numpy()])
    grid = torch.linspace(-9, 9, 3001).view(-1, 1)
    with torch.no_grad():
        joint = [
            model.prior.log_prob(grid) + model.log_conditional(image[None], grid[:, None])[:, 0] for image in levels
        ]
        log_p = [each.double().logsumexp(0) for each in joint]
    exact = float(torch.stack(log_p).mean()) + math.log(18 / 3000)
    assert report["log_p"] == pytest.approx(exact, abs=0.1)
    assert abs(report["gap_nats"]) < 0.2


def test_models_answer_to_their_protocols(checkpoints):
    gan = lightning_gen.load(checkpoints["gan"])
    coin = lightning_gen.load(checkpoints["coin"], trust=("latent_models",))
    exact = lightning_gen.load(checkpoints["exact"], trust=("latent_models",))
    assert [is_decoder(model) for model in (gan, coin, exact)] == [True, True, False]
    assert [isinstance(model, HasUnitImages) for model in (gan, coin)] == [True, False]
    assert [isinstance(model, HasPixelLikelihood) for model in (gan, coin)] == [False, True]
    latent = torch.randn(4, *gan.latent_shape, requires_grad=True)
    images = gan.unit_images(latent)
    assert torch.equal(gan.spec.to_levels(images.detach()), gan.decode(latent.detach()))
    assert torch.autograd.grad(images.sum(), latent)[0].abs().sum() > 0


def test_bad_input_ends_in_one_line(checkpoints, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, options, message in [
        ("gan", ["--n", "0"], "--n: expected a whole number of at least 1"),
        ("gan", ["--chains", "0"], "--chains: expected a whole number of at least 1"),
        ("gan", ["--steps", "-3"], "--steps: expected a whole number of at least 1"),
        ("gan", ["--simulated", "-1"], "--simulated must be at least 0, got -1"),
        ("gan", ["--sigma", "nan"], "--sigma: expected a number or null, got 'nan'"),
        ("gan", ["--sigma", ".nan"], "--sigma must be a finite number above 0, got nan"),
        ("gan", ["--sigma", ".inf"], "--sigma must be a finite number above 0, got inf"),
        ("gan", ["--sigma", "0"], "--sigma must be a finite number above 0, got 0"),
        ("gan", ["--schedule", "cosine"], "--schedule"),
        ("gan", ["--part", "train"], "--part: invalid choice: 'train'"),
        ("gan", ["--n", "181"], "--n 181 leaves 19 of 200 validation images to fit the noise on"),
        ("gan", ["--json", "nowhere/out.json"], "--json nowhere/out.json: there is no folder nowhere"),
        ("gan", ["--sampler.temperature", "0.5"], "with sampler.temperature 0.5 samples are not of standard normal"),
        ("gan", ["--sampler.psi", "0.5"], "LatentSampler has no option 'psi': it has temperature, truncation"),
        (
            "gan",
            ["--sampler", "StyleSampler", "--sampler.psi", "0.5"],
            "sampler: StyleSampler truncates styles, and MLPGenerator has none: take LatentSampler",
        ),
        ("gan", ["--sampler", "StylSampler"], "--sampler StylSampler: no sampler of that name: did you mean 'StyleS"),
        (
            "truncated",
            [],
            "with sampler.truncation 1.0 samples are not of standard normal latents: give --sampler.trun",
        ),
        ("coin", ["--sigma", "1", "--trust", "latent_models"], "--sigma: this Coin says itself how likely pixels are"),
        ("exact", ["--trust", "latent_models"], "this Exact gives its likelihood itself: lightning evaluate"),
    ]:
        assert message in refused(capsys, "ais", checkpoints[kind], *options), options
        assert not list(tmp_path.iterdir()), options


def test_a_truncated_gan_can_be_asked_without_its_truncation(checkpoints):
    main(["ais", checkpoints["truncated"], *SMALL, "--sigma", "0.5", "--sampler.truncation", "null"])
