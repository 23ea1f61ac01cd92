"""What samplers draw, and what annealed importance sampling finds, at fixed seeds."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stored import against_stored, levels_of
from torch import Tensor

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.core import ImageSpec, normal
from lightning_gen.models import GAN, VAE, VQVAE, GenerativeModule
from lightning_gen.runs import RunFolder
from lightning_gen.samplers import (
    AnnealedImportanceSampling,
    CodeSampler,
    GaussianDecoder,
    LatentSampler,
    LatentTarget,
    PriorSampler,
    StyleSampler,
    importance_sampling,
    slerp,
)

FILE, DRAWS = "sampler_outputs.json", "sampler_draws.json"
IMAGES = 4
VQVAE_CONFIG = """
model:
  class_path: lightning_gen.models.VQVAE
  init_args:
    encoder: {class_path: lightning_gen.networks.GridEncoder, init_args: {halvings: 2, width: 8, depth: 1}}
    decoder: {class_path: lightning_gen.networks.GridDecoder, init_args: {halvings: 2, width: 8, depth: 1}}
    quantizer:
      class_path: lightning_gen.networks.VectorQuantizer
      init_args: {codes: 16, dim: 4, half_life: 300, revive_after: 200}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.01}}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {source: lightning_gen.data.Digits, batch_size: 32}
budget: {images: 1920}
ema: {half_life: 200}
evaluation: {every: 1000000, likelihood: false, extractor: null}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1, precision: 64-true, enable_progress_bar: false}
"""
PRIOR_CONFIG = """
model:
  class_path: lightning_gen.models.CategoricalMixture
  init_args: {components: 5, smoothing: 0.5, shared: 3.0, restarts: 2}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args:
    source: {class_path: lightning_gen.models.Codes, init_args: {checkpoint: none.ckpt}}
    batch_size: 1097
budget: {images: 5485}
evaluation: {every: 1000000}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1, enable_progress_bar: false}
"""


# --- the calls, each in one place -------------------------------------------------------------------------------------


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def draw_latents(sampler: LatentSampler, n: int, latent_dim: int) -> Tensor:
    model = SimpleNamespace(
        latent_shape=(latent_dim,),
        device=torch.device("cpu"),
        draw_latents=lambda n, labels, *, generator: normal(n, latent_dim, generator=generator),
    )
    return sampler.latents(model, n, None, seeded())


def sample(model: GenerativeModule, sampler: object) -> Tensor:
    """Draw with another sampler than the model's own; the model stays as it is."""
    model = copy.copy(model)
    model.sampler = sampler
    labels = torch.arange(IMAGES) % model.spec.num_classes if model.conditional else None
    return model.sample(IMAGES, labels, generator=seeded())


def nats(model: VQVAE, sampler: CodeSampler, levels: Tensor) -> Tensor:
    model = copy.copy(model)
    model.sampler = sampler
    return model.likelihood(levels, generator=seeded()).nats


def between(start: Tensor, end: Tensor, steps: int) -> Tensor:
    return slerp(start, end, steps)


def target_of(weight: Tensor, images: Tensor, sigma: float) -> LatentTarget:
    """Return p(z) = N(0, I) and p(x|z) = N(W z, s^2 I) of images (N, M)."""

    def log_normal(x: Tensor, mean: Tensor | float, deviation: float) -> Tensor:
        return torch.distributions.Normal(mean, deviation).log_prob(x).sum(-1)

    return LatentTarget(
        lambda n, generator: torch.randn(n, weight.shape[1], generator=generator, dtype=torch.float64),
        lambda latent: log_normal(latent, torch.zeros((), dtype=torch.float64), 1.0),
        lambda latent: log_normal(images, latent @ weight.T, sigma),
        len(images),
    )


def anneal(method: AnnealedImportanceSampling, target: LatentTarget, posterior: Tensor) -> dict[str, object]:
    generator = seeded()
    step_sizes = method.tune(target, generator)
    forward = method.forward(target, step_sizes, generator)
    reverse = method.reverse(target, step_sizes, posterior, generator)
    return {"step sizes": step_sizes, "forward": forward, "reverse": reverse}


def importance_sampled(target: LatentTarget, num_samples: int, propose: Callable | None = None) -> Tensor:
    return importance_sampling(target, num_samples, seeded(), propose)


def simulate(decoder: GaussianDecoder, n: int) -> tuple[Tensor, Tensor]:
    """Return latents, and levels drawn from them."""
    latent = decoder.draw_prior(n, seeded())
    return latent, decoder.draw_levels(latent, None, seeded())


def nats_under(decoder: GaussianDecoder, levels: Tensor, latent: Tensor) -> dict[str, Tensor]:
    target = decoder.target(levels)
    return {"prior": target.log_prior(latent), "conditional": target.log_conditional(latent)}


def fit_noise(decoder: GaussianDecoder, levels: Tensor) -> float:
    return decoder.fit(levels, None, seeded(), chains=2, rounds=4, transitions=2)


# --- latents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("latents", LatentSampler()),
        ("latents, temperature 0.6", LatentSampler(temperature=0.6)),
        ("latents, truncation 0.8", LatentSampler(truncation=0.8)),
        ("latents, temperature 0.6, truncation 0.8", LatentSampler(temperature=0.6, truncation=0.8)),
    ],
)
def test_latents(name, sampler):
    against_stored(FILE, name, {"few": draw_latents(sampler, 2, 5), "many": draw_latents(sampler, 40, 5)[::13]})


def test_styles_are_drawn_towards_their_mean_by_psi(trained):
    model: GAN = trained("gan-stylegan2-path-length").model
    found = {f"psi {psi}": levels_of(sample(model, StyleSampler(psi=psi))) for psi in (1.0, 0.5, 0.0)}
    found["temperature 0.5"] = levels_of(sample(model, LatentSampler(temperature=0.5)))
    against_stored(FILE, "styles", found)


def test_slerp():
    source = torch.Generator().manual_seed(3)
    start, end = torch.randn(2, 2, 4, generator=source, dtype=torch.float64)
    against_stored(FILE, "slerp", {"points": between(start, 2 * end, 5), "opposite": between(start, -start, 3)})


def test_a_prior_sampler(trained):
    model: VAE = trained("vae-perceptron").model
    options = {
        "sample": {},
        "temperature 0.5": {"temperature": 0.5},
        "mean": {"pixels": "mean"},
        "mean, temperature 2": {"pixels": "mean", "temperature": 2.0},
    }
    against_stored(
        DRAWS, "prior", {name: levels_of(sample(model, PriorSampler(**each))) for name, each in options.items()}
    )


# --- codes ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """Checkpoints of a VQ-VAE of digits, and of a mixture that is fitted to its codes."""
    folder = tmp_path_factory.mktemp("codes")
    for name, config in {"vq": VQVAE_CONFIG, "prior": PRIOR_CONFIG}.items():
        (folder / f"{name}.yaml").write_text(config)
    found = {name: RunFolder(folder / name / "version_0").last for name in ("vq", "prior")}
    root = ["--run.root", str(folder)]
    main(["fit", "--config", str(folder / "vq.yaml"), *root])
    main(["fit", "--config", str(folder / "prior.yaml"), *root, "--data.source.checkpoint", str(found["vq"])])
    return found["vq"], found["prior"]


def samplers(prior: Path, **options: str) -> dict[str, CodeSampler]:
    return {"histograms": CodeSampler(**options), "fitted prior": CodeSampler(prior=str(prior), **options)}


def test_likelihoods_with_either_prior_of_codes(pair, trained):
    model, levels = lightning_gen.load(pair[0]), trained("gan-perceptron").batch.levels
    against_stored(FILE, "codes", {name: nats(model, each, levels) for name, each in samplers(pair[1]).items()})


@pytest.mark.parametrize("pixels", ["sample", "mean"])
def test_either_prior_draws_codes(pixels, pair):
    model = lightning_gen.load(pair[0])
    found = {name: levels_of(sample(model, each)) for name, each in samplers(pair[1], pixels=pixels).items()}
    against_stored(DRAWS, f"codes, pixels {pixels}", found)


# --- how likely images are under a decoder ----------------------------------------------------------------------------


@pytest.fixture
def linear() -> tuple[Tensor, Tensor, Tensor]:
    """Weights (3, 2) of a linear decoder, latents (4, 2), and images (4, 3) that were simulated from them."""
    source = torch.Generator().manual_seed(7)
    weight, latent, noise = (torch.randn(*size, generator=source).double() for size in ((3, 2), (4, 2), (4, 3)))
    return weight, latent, latent @ weight.T + 0.7 * noise


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_annealed_importance_sampling(schedule, linear):
    weight, latent, images = linear
    method = AnnealedImportanceSampling(steps=12, chains=3, leapfrog=2, schedule=schedule)
    found = anneal(method, target_of(weight, images, 0.7), latent)
    values = {"step sizes": found["step sizes"][::5]}
    for name in ("forward", "reverse"):
        run = found[name]
        values[name] = {
            "log weights": run.log_weights,
            "bound": run.bound,
            "acceptance": run.acceptance,
            "effective sample size": run.effective_sample_size,
        }
    against_stored(FILE, f"annealed, {schedule}", values)


def test_importance_sampling(linear):
    weight, latent, images = linear

    def propose(k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        near = torch.distributions.Normal(latent, 0.5)
        drawn = latent + 0.5 * torch.randn(k, *latent.shape, generator=generator).double()
        return drawn, near.log_prob(drawn).sum(-1)

    target = target_of(weight, images, 0.7)
    found = {"by the prior": importance_sampled(target, 300), "by a proposal": importance_sampled(target, 20, propose)}
    against_stored(FILE, "importance sampling", found)


def test_gaussian_noise_around_a_decoder():
    spec = ImageSpec(1, 2, 2, levels=5)
    weight = torch.tensor([[0.9, -0.2], [-0.5, 0.4], [0.1, 0.8], [0.3, -0.7]], dtype=torch.float64)

    def decode(latent: Tensor, labels: Tensor | None) -> Tensor:
        return (latent.double() @ weight.T).tanh().view(-1, *spec.shape)

    decoder = GaussianDecoder(spec, 2, decode, sigma=0.4)
    latent, levels = simulate(decoder, 6)
    found = {
        "nats": nats_under(decoder, levels, torch.stack([latent, latent.flip(0)]).double()),
        "samples": levels_of(levels),
        "figures of a fit": {"sigma": fit_noise(decoder, levels)},
    }
    against_stored(FILE, "gaussian decoder", found)
