"""Likelihood: classical models on digits, EM against scikit-learn, annealing on a GAN, and known log-probabilities.

    python benchmarks/likelihood.py --config configs/classical/*-digits.yaml --jobs 2 --runs runs/likelihood \\
        --part test > likelihood.jsonl
    python benchmarks/likelihood.py --what em > likelihood_em.jsonl
    python benchmarks/likelihood.py --what ais --runs runs/likelihood --part test > likelihood_ais.jsonl
    python benchmarks/likelihood.py --what closed-form > likelihood_closed.jsonl
    python benchmarks/table.py likelihood*.jsonl

``configs`` trains each config by ``lightning fit`` once per seed (a finished run of it that lies in ``--runs`` is
scored as it is) and prints bits per dimension of all held-out images under the name of their kind, with the standard
error over images; those of the training images; free parameters and passes; and the figures of samples as digits.py has
them: mean, sample standard deviation and value of each seed. Held-out images are the validation part unless ``--part
test`` is given, which is for published tables only.

``em`` takes turns with scikit-learn's ``GaussianMixture`` in one process: equal images, equal start, no prior on either
side, each side going on from its own parameters; the log likelihoods of both at every iteration must agree.

``ais`` trains one run, of the first seed, of a GAN's config (``configs/quickstart.yaml`` if none is given) and asks
``lightning ais`` with each number of ``--steps``, everything else as it comes.

``closed-form`` compares every path of the code that gives a likelihood with what is known otherwise. Its decoder is
linear with Gaussian noise, so that log p(x) and the posterior are known: 4 latents, 64 dimensions, 64 chains.

Prints one JSON line per row. Seconds are those that a run, an iteration or a command had a processor, on one thread.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: times are comparable on one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import contextlib
import importlib.metadata
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

sys.path.insert(0, str(Path(__file__).parent))

from digits import (
    Scorer,
    add_draws_option,
    add_run_options,
    printer,
    row,
    run_script,
    scoring,
    surroundings,
    train_at_once,
    trained,
    with_budget,
)

from lightning_gen import cli
from lightning_gen.bijections import UniformDequantizer
from lightning_gen.core.errors import InputError
from lightning_gen.core.protocols import HasLikelihood
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, Images
from lightning_gen.distributions import DiscretizedGaussian
from lightning_gen.evaluation import bits_of
from lightning_gen.metrics import bits_per_dimension
from lightning_gen.models import (
    CategoricalMixture,
    ChowLiuMixture,
    GaussianMixture,
    GenerativeModule,
    HiddenMarkovModel,
    Uniform,
    load,
)
from lightning_gen.models.classical import ClassicalModel
from lightning_gen.samplers import AnnealedImportanceSampling, GaussianDecoder, LatentTarget, importance_sampling

QUICKSTART = "configs/quickstart.yaml"
UNIFORM = "configs/classical/uniform-digits.yaml"
OF_SAMPLES = ("fid_{}_heldout", "fid_{}", "copy_share_pixels", "copied_pixels")
# Bits per dimension of the test part to reach; those of which only the neighbourhood was stated have no limit.
TARGETS = {
    "uniform-digits": (math.log2(17), 1e-6),
    "independent-digits": (2.42, None),
    "gaussian-full-digits": (2.6, None),
    "gaussian-low-rank-digits": (2.6, None),
    "categorical-digits": (2.26, None),
    "chow-liu-digits": (2.14, 0.0),
}


# --- configs ----------------------------------------------------------------------------------------------------------


def bits(model: GenerativeModule, images: Images, seed: int = 0) -> tuple[dict[str, float], dict[str, Any]]:
    """Return bits per dimension of all images with their standard error, and what they are of; ``seed`` is noise's."""
    found = bits_of(model, images, None, 500, seed)
    return found.figures, found.facts


def of_samples(scorer: Scorer, model: GenerativeModule, n: int, seed: int) -> dict[str, float | None]:
    """Return those figures of ``n`` samples that stand beside likelihoods."""
    figures = scorer.model(model, n, seed)
    return {name: figures[name] for name in (name.format(scorer.suite.extractor.name) for name in OF_SAMPLES)}


def config_row(config: str, scorer: Scorer, options: argparse.Namespace) -> dict:
    """Return the row of a config, one run per seed.

    Raises:
        InputError: for a model without a likelihood.
    """
    figures, summaries, passes = [], [], []
    for seed in options.seeds:
        run = trained(config, seed, Path(options.runs), options.budget)
        model = load(run.last)
        if not isinstance(model, HasLikelihood):
            raise InputError(f"{config}: {type(model).__name__} has no likelihood: ask --what ais")
        found, facts = bits(model, scorer.data.images(options.part))
        training, _ = bits(model, scorer.data.images("train"))
        name = next(iter(found))
        figures.append(found | {f"{name}_train": training[name]} | of_samples(scorer, model, options.n, seed))
        summaries.append(run.summary() | {"run": str(run.path)})
        passes.append(model.em.passes if isinstance(model, ClassicalModel) else 0)
    target, slack = TARGETS.get(Path(config).stem, (None, None)) if options.part == "test" else (None, None)
    mean = statistics.fmean(each[name] for each in figures)
    return row(
        config,
        "config",
        options.seeds,
        figures,
        [summary["processor_seconds"] for summary in summaries],
        figure=name,
        likelihood=facts,
        target=target,
        met=None if slack is None else mean <= target + slack,
        met_by_every_seed=None if slack is None else max(each[name] for each in figures) <= target + slack,
        n=options.n,
        free_parameters=model.density.free_parameters if isinstance(model, ClassicalModel) else 0,
        passes=passes,
        images_seen=[summary["images_seen"] for summary in summaries],
        runs=[summary["run"] for summary in summaries],
        runs_git_commit=sorted({str(summary["git_commit"]) for summary in summaries}),
    )


def configs(options: argparse.Namespace) -> Iterator[dict]:
    """Yield the rows of all configs."""
    if options.jobs > 1:
        train_at_once(options.config, options.seeds, Path(options.runs), options.jobs, options.budget)
    scorer = Scorer(options.part, draws=options.draws)
    for config in options.config:
        yield config_row(config, scorer, options) | scoring(scorer, options.n)


# --- EM against scikit-learn ------------------------------------------------------------------------------------------


def noisy_digits(n: int) -> np.ndarray:
    """Return levels, uint8 (n, 1, 8, 8): training digits drawn with replacement, each pixel moved by at most one."""
    source, levels = np.random.default_rng(0), Digits().load("train").levels
    drawn = levels[source.integers(len(levels), size=n)].astype(np.int64)
    return np.clip(drawn + source.integers(-1, 2, size=drawn.shape), 0, 16).astype(np.uint8)


def equal_mixtures(levels: np.ndarray, components: int) -> tuple[GaussianMixture, SklearnMixture, np.ndarray]:
    """Return our mixture and scikit-learn's, at the same parameters and without a prior, and the latter's data."""
    ours = GaussianMixture(Digits().spec, components, prior_strength=0.0)
    parts = ours.density.parts
    ours.density.weight_prior = parts.noise_variance = 0.0
    x = ours.data_of(torch.from_numpy(levels).flatten(1))
    # Near each other: each begins with a share of all images, so none becomes singular within a few iterations.
    parts.hold("mean", x.mean(0) + 0.2 * (x[:components] - x.mean(0)))
    whitening = torch.linalg.inv(torch.linalg.cholesky(x.T.cov()))
    parts.hold("whitening", whitening.repeat(components, 1, 1))
    theirs = SklearnMixture(components, reg_covar=0.0)
    theirs.weights_, theirs.means_ = np.full(components, 1 / components), parts.mean.detach().numpy().copy()
    theirs.precisions_cholesky_ = np.ascontiguousarray(whitening.T.numpy()[None].repeat(components, 0))
    return ours, theirs, x.numpy()


def peak_memory(work: Callable[[], Any]) -> float | None:
    """Return by how many MiB ``work`` raised the memory of this process at most; None where Linux does not say."""

    def memory(name: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is that from here on
        before = memory("VmRSS")
        work()
        return memory("VmHWM") - before
    except OSError:
        work()
        return None


def em(options: argparse.Namespace) -> Iterator[dict]:
    """Yield the one row: seconds of an EM iteration of each side, in turn, and their ratio."""
    levels = noisy_digits(options.rows)
    ours, theirs, x = equal_mixtures(levels, options.components)
    images = torch.from_numpy(levels).flatten(1)
    heights: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
    seconds: dict[str, list[float]] = {"ours": [], "scikit-learn": []}

    @torch.no_grad()
    def our_step() -> None:
        heights["ours"].append(ours.em.step(images) / len(images))

    def their_step() -> None:
        mean, log_shares = theirs._e_step(x)
        theirs._m_step(x, log_shares)
        heights["scikit-learn"].append(float(theirs._compute_lower_bound(log_shares, mean)))

    sides = {"ours": our_step, "scikit-learn": their_step}
    memory = {side: peak_memory(step) for side, step in sides.items()}  # and both are warm
    for pair in range(options.pairs):
        for side in list(sides) if pair % 2 else list(sides)[::-1]:
            started = time.process_time()
            sides[side]()
            seconds[side].append(time.process_time() - started)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["scikit-learn"], strict=True)]
    off = max(abs(a / b - 1) for a, b in zip(heights["ours"], heights["scikit-learn"], strict=True))
    if not off < 1e-6:
        raise InputError(f"log likelihoods of both sides differ by {off:.2g} of their size: not the same work")
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    yield {
        "row": f"{options.rows:,} x {x.shape[1]}, {options.components} full covariances",
        "ours_seconds": medians["ours"],
        "sklearn_seconds": medians["scikit-learn"],
        "ratio": statistics.median(ratios),
        "ratio_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "pairs": options.pairs,
        "limit": 1.0,
        "met": statistics.median(ratios) <= 1.0,
        "log_likelihood_difference": off,
        "peak_memory_mib": memory,
    }


# --- annealing on a GAN -----------------------------------------------------------------------------------------------


def ais(options: argparse.Namespace) -> Iterator[dict]:
    """Yield one row for each number of steps, of one run."""
    seed = options.seeds[0]
    (config,) = options.config or [QUICKSTART]
    run = trained(config, seed, Path(options.runs), options.budget)
    scorer = Scorer(options.part, draws=options.draws)
    samples = of_samples(scorer, load(run.last), options.n, seed)
    for steps in options.steps:
        with tempfile.TemporaryDirectory(prefix="benchmark_ais_") as folder:
            out = Path(folder) / "ais.json"
            size = str(options.ais_images)
            asked = ["--part", options.part, "--n", size, "--simulated", size, "--steps", str(steps)]
            started = time.process_time()
            with contextlib.redirect_stdout(sys.stderr):
                cli.main(["ais", str(run.last), *asked, "--device", "cpu", "--json", str(out)])
            seconds = time.process_time() - started
            report = json.loads(out.read_text(encoding="utf-8"))
        limit = 300.0 if steps == 500 else None  # of the command as it comes
        yield {
            "row": config,
            **report,
            "seed": seed,
            "wall_seconds": report["seconds"],
            "seconds": seconds,
            "limit": limit,
            "met": None if limit is None else seconds <= limit,
            "checkpoint": str(run.last),
            "samples": samples | {"n": options.n},
            **scoring(scorer, options.n),
        }


# --- known log-probabilities ------------------------------------------------------------------------------------------


class LinearDecoder:
    r"""x = W z + b + s e of standard normal z and e: log p(x) = log N(x; b, W W^T + s^2 I), and p(z|x) is Gaussian.

    Args:
        latent_dim: of z.
        dims: of x.
        n: simulated x.
        sigma: s.
    """

    def __init__(self, latent_dim: int = 4, dims: int = 64, n: int = 10, sigma: float = 1.0):
        source = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=source, dtype=torch.float64)

        weight, bias = draw(dims, latent_dim) / math.sqrt(latent_dim), draw(dims)
        self.latent = draw(n, latent_dim)
        x = self.latent @ weight.T + bias + sigma * draw(n, dims)
        eye = torch.eye(dims, dtype=torch.float64)
        self.log_p = MultivariateNormal(bias, weight @ weight.T + sigma**2 * eye).log_prob(x)
        precision = torch.eye(latent_dim, dtype=torch.float64) + weight.T @ weight / sigma**2
        self.posterior_mean = torch.linalg.solve(precision, weight.T @ (x - bias).T / sigma**2).T
        self.posterior_covariance = torch.linalg.inv(precision)
        self.target = LatentTarget(
            lambda n, generator: torch.randn(n, latent_dim, generator=generator, dtype=torch.float64),
            lambda z: Normal(0.0, 1.0).log_prob(z).sum(-1),
            lambda z: Normal(z @ weight.T + bias, sigma).log_prob(x).sum(-1),
            n,
        )

    def propose(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw latents (k, N, D) and their log q (k, N), of independent normals with the posterior's moments.

        An encoder of a variational autoencoder is of this form; correlations are what it cannot know.
        """
        deviation = self.posterior_covariance.diagonal().sqrt()
        noise = torch.randn(k, *self.posterior_mean.shape, generator=generator, dtype=torch.float64)
        latent = self.posterior_mean + deviation * noise
        return latent, Normal(self.posterior_mean, deviation).log_prob(latent).sum(-1)


def check(name: str, path: str, error: float, limit: float | None, unit: str, **more) -> dict:
    """Return one row: how far a path of the code is from what is known."""
    return {
        "row": name,
        "path": path,
        "error": error,
        "limit": limit,
        "met": None if limit is None else error <= limit,
        "unit": unit,
        **more,
    }


def uniform_checks(options: argparse.Namespace) -> Iterator[dict]:
    """Yield a row for each path that a uniform model's likelihood can take: log2(levels) bits per dimension."""
    generator = torch.Generator().manual_seed(0)
    for spec in (Digits().spec, ImageSpec(3, 5, 4, levels=256)):
        name, expected = f"uniform, {spec.levels} levels", math.log2(spec.levels)
        levels = Uniform(spec).sample(30, generator=generator)
        # Untrained tables are uniform, so the sums over components, trees and paths must not change that.
        models = [Uniform(spec), CategoricalMixture(spec, 3), ChowLiuMixture(spec, 2), HiddenMarkovModel(spec, 3)]
        for model in models:
            (figure, _), facts = bits(model, Images(levels.numpy(), None))[0].values(), type(model).__name__
            yield check(name, facts, abs(figure - expected), 1e-6, "bits per dimension")
        # A decoder that heeds no latent.
        each = -spec.dims * math.log(spec.levels)
        target = LatentTarget(
            lambda n, generator: torch.randn(n, 4, generator=generator),
            lambda z: Normal(0.0, 1.0).log_prob(z).sum(-1),
            lambda z, each=each: torch.full(z.shape[:2], each, dtype=torch.float64),
            len(levels),
        )
        for path, nats in annealed(target, torch.zeros(len(levels), 4), generator).items():
            error = float((bits_per_dimension(nats, spec) - expected).abs().max())
            yield check(name, path, error, 1e-6, "bits per dimension")
        nats = importance_sampling(target, 100, generator)
        error = float((bits_per_dimension(nats, spec) - expected).abs().max())
        yield check(name, "importance sampling", error, 1e-6, "bits per dimension")
    run = trained(UNIFORM, 0, Path(options.runs), None)
    figures = {"fit": run.summary()["last"]["val/bpd"]}
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory(prefix="benchmark_uniform_") as folder:
        for verb, part in (("validate", "val"), ("test", "test")):
            last = ["--ckpt_path", str(run.last)]
            cli.main([verb, "--config", cli.find_config(UNIFORM), "--run.root", str(options.runs), *last])
            figures[verb] = json.loads((run.path / f"{verb}.json").read_text(encoding="utf-8"))[f"{part}/bpd"]
        out = Path(folder) / "out.json"
        cli.main(["evaluate", str(run.last), "--likelihood", "--device", "cpu", "--json", str(out)])
        figures["evaluate --likelihood"] = json.loads(out.read_text(encoding="utf-8"))["bpd"]
    for verb, figure in figures.items():
        error = abs(figure - math.log2(17))
        yield check("uniform, 17 levels", f"lightning {verb}", error, 1e-6, "bits per dimension")


def annealed(
    target: LatentTarget, posterior: Tensor, generator: torch.Generator, steps: int = 20, chains: int = 8
) -> dict[str, Tensor]:
    """Return forward and reverse bounds (N,) in nats."""
    method = AnnealedImportanceSampling(steps, chains)
    step_sizes = method.tune(target, generator)
    return {
        "AIS, forward": method.forward(target, step_sizes, generator).bound,
        "AIS, reverse": method.reverse(target, step_sizes, posterior, generator).bound,
    }


def discretized_checks() -> Iterator[dict]:
    """Yield rows of a known Gaussian on levels: differences of scipy's normal distribution function."""
    spec, sigma, generator = ImageSpec(1, 2, 2, levels=17), 0.25, torch.Generator().manual_seed(0)
    mean = torch.tensor([-0.8, 0.0, 0.3, 2.0], dtype=torch.float64).view(1, 2, 2)
    ends = np.concatenate([[-np.inf], (2 * np.arange(16) + 1) / 16 - 1, [np.inf]])
    a, b = ((side[:, None] - mean.numpy().ravel()) / sigma for side in (ends[:-1], ends[1:]))
    probs = np.where(a > 0, norm.sf(a) - norm.sf(b), norm.cdf(b) - norm.cdf(a))  # (17, 4)
    name = "discretized Gaussian, 17 levels"
    every = torch.arange(17).view(-1, 1, 1, 1).expand(17, 1, 2, 2)
    log_probs = DiscretizedGaussian(spec, sigma).log_prob(every, mean).flatten(1)
    entropy = -float((torch.from_numpy(probs) * log_probs).sum()) / (4 * math.log(2))
    error = abs(entropy + float((probs * np.log2(np.clip(probs, 1e-300, None))).sum()) / 4)
    yield check(name, "mean over all levels, against the entropy", error, 1e-6, "bits per dimension")
    decoder = GaussianDecoder(spec, 3, lambda z, labels: mean.expand(len(z), 1, 2, 2), sigma)
    levels = decoder.draw_levels(torch.zeros(50, 3), None, generator)
    rows = levels.flatten(1).numpy()
    known = torch.from_numpy(np.log(probs[rows, np.arange(4)]).sum(1))
    for path, nats in annealed(decoder.target(levels), torch.zeros(50, 3), generator).items():
        error = float(bits_per_dimension(nats - known, spec).abs().max())
        yield check(name, f"decoder that heeds no latent, {path}", error, 1e-6, "bits per dimension")
    yield from dequantized_checks()


def dequantized_checks() -> Iterator[dict]:
    """Yield rows of a density's bound on the probability of a bin, which more noises raise towards it."""
    spec, generator = ImageSpec(1, 4, 4, levels=17), torch.Generator().manual_seed(0)
    centre, deviation = torch.linspace(-3, 3, 16, dtype=torch.float64), 1.0
    for noises in (1, 16, 256):
        model = GaussianMixture(spec, 1, dequantizer=UniformDequantizer(noises))
        model.density.parts.hold("mean", centre[None])
        model.density.parts.hold("whitening", torch.eye(16, dtype=torch.float64)[None] / deviation)
        levels = model.sample(1000, generator=generator)
        middle = model.data_of(levels.flatten(1)) - centre
        known = (Normal(0.0, deviation).cdf(middle + 0.5) - Normal(0.0, deviation).cdf(middle - 0.5)).log().sum(1)
        with torch.no_grad():
            found = model.likelihood(levels, generator=generator).nats
        error = float(bits_per_dimension(found - known, spec).mean())
        yield check(
            "known Gaussian, dequantized",
            f"GaussianMixture, {noises} noises, mean of 1,000 images",
            error,
            None,
            "bits per dimension",
        )


def linear_checks() -> Iterator[dict]:
    """Yield rows of the linear decoder: both bounds, the gap between them, and importance sampling."""
    generator, decoder = torch.Generator().manual_seed(0), LinearDecoder()
    n, latent_dim = decoder.latent.shape
    name, worst = f"linear decoder, {latent_dim} latents", f"nats, worst of {n} images"
    for steps in (100, 500, 2000):
        lower, upper = annealed(decoder.target, decoder.latent, generator, steps, chains=64).values()
        for path, bound in (("forward", lower), ("reverse", upper)):
            error = float((bound - decoder.log_p).abs().max())
            yield check(name, f"AIS, {path}, {steps:,} steps", error, 0.1, worst)
        for of, gap in ((worst, (upper - lower).max()), (f"nats, mean of {n} images", (upper - lower).mean())):
            yield check(name, f"AIS, gap, {steps:,} steps", float(gap), 0.2, of)
    proposals = {"the prior": None, "normals with the posterior's moments": decoder.propose}
    for proposal, propose in proposals.items():
        nats = importance_sampling(decoder.target, 5000, generator, propose)
        error = float((nats - decoder.log_p).abs().max())
        limit = None if propose is None else 0.1
        yield check(name, f"IWAE-5000, proposing from {proposal}", error, limit, worst)
    constant = LatentTarget(
        decoder.target.draw_prior,
        decoder.target.log_prior,
        lambda z: decoder.log_p.expand(z.shape[:2]),
        len(decoder.log_p),
    )
    method = AnnealedImportanceSampling(20)
    found = method.forward(constant, method.tune(constant, generator), generator)
    spread = float(found.log_weights.std(0).max())
    yield check("posterior equal to the prior", "AIS, deviation of log weights", spread, 1e-9, worst)


def closed_form(options: argparse.Namespace) -> Iterator[dict]:
    """Yield the rows of everything that is known."""
    yield from uniform_checks(options)
    yield from discretized_checks()
    yield from linear_checks()


# --- command line -----------------------------------------------------------------------------------------------------

PARTS = {"configs": configs, "em": em, "ais": ais, "closed-form": closed_form}


def parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--what", choices=PARTS, default="configs", help="what is measured")
    parser.add_argument(
        "--config", action="extend", nargs="+", default=[], help="configs of `lightning fit`; of ais, a GAN's"
    )
    add_run_options(parser)
    add_draws_option(parser)
    parser.add_argument("--n", type=int, default=2000, help="samples that are scored beside likelihoods")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 250, 500, 1000], help="of ais")
    parser.add_argument("--ais_images", type=int, default=100, help="held-out, and as many simulated images, of ais")
    parser.add_argument("--rows", type=int, default=60_000, help="images of em")
    parser.add_argument("--components", type=int, default=50, help="of em")
    parser.add_argument("--pairs", type=int, default=5, help="iterations of each side of em, after one to warm up")
    options = with_budget(parser.parse_args(args))
    if options.what == "configs" and not options.config:
        parser.error("--what configs needs --config")
    if options.what == "ais" and len(options.config) > 1:
        parser.error("--what ais takes one --config")
    return options


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    options = parse(args)

    def work() -> None:
        common = surroundings("likelihood", args) | {"what": options.what}
        common["versions"]["scikit-learn"] = importlib.metadata.version("scikit-learn")
        show = printer(common)
        for line in PARTS[options.what](options):
            show(line)

    run_script(options, work)


if __name__ == "__main__":
    main()
