"""Variational autoencoders: bounds in bits per dimension, what the latents say, and what samples score.

    python benchmarks/vae.py --config configs/vae/mlp-digits.yaml configs/vae/hierarchical-digits.yaml --data digits \\
        --jobs 2 --runs runs/vae --part test > vae_digits.jsonl
    python benchmarks/vae.py --config configs/vae/*-fashion-mnist.yaml --data fashion_mnist --importance_samples 100 \\
        --runs runs/vae --part test > vae_fashion.jsonl
    python benchmarks/table.py vae_digits.jsonl vae_fashion.jsonl

Trains each config by ``lightning fit`` once per seed (a finished run of it that lies in ``--runs`` is scored as it is)
and prints one JSON line: mean, sample standard deviation and value of each seed. Held-out images are the validation
part unless ``--part test`` is given, which is for published tables only.

Likelihoods are bounds (``bpd_bound``), so the true figures are at most these: of all held-out images with
``--importance_samples`` latents each, and the standard error over images; of as many training images with at most
``--train_samples``; and of both with one latent (``bpd_elbo``, ``bpd_elbo_train``: means over ``--noises``), which tell
overfitting apart from the number of latents. What classical models get is in likelihood.md.

``reconstruction`` and ``kl`` are nats of an image, the two sides of the ELBO (for quantized codes ``kl`` is what the
codes cost), and active units or layers are counted as the model's ``diagnostics`` do: all of at most ``--diagnosed``
held-out images. Samples are scored as digits.py does it, twice: pixels drawn from p(x | z), as p(x) has them, and the
expected pixels (``..._mean``), since the noise of pixels takes samples far from held-out images.

Then one line per criterion, ratios of bounds, seed by seed: digits' test part at most 1.88 bits per dimension, and
hierarchical models below flat ones. Seconds are those that a run, evaluations included, had a processor, on one thread.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: times are comparable on one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from digits import (
    Scorer,
    add_checkpoint_option,
    add_draws_option,
    add_run_options,
    config_row,
    criterion,
    printer,
    run_script,
    scoring,
    source_of,
    spread,
    surroundings,
    train_at_once,
    with_budget,
)
from likelihood import bits, of_samples

from lightning_gen.callbacks import Diagnostics
from lightning_gen.core.errors import InputError
from lightning_gen.core.protocols import HasImportanceSamples, HasLikelihood
from lightning_gen.data import Digits, FashionMNIST, Images
from lightning_gen.evaluation import choose_images
from lightning_gen.metrics import DigitsExtractor, FashionMNISTExtractor
from lightning_gen.models import GenerativeModule

DATA = {"digits": (Digits, DigitsExtractor), "fashion_mnist": (FashionMNIST, FashionMNISTExtractor)}
TARGETS = {"digits": 1.88}  # bits per dimension of the test part


def some(images: Images, n: int) -> Images:
    """Return so many of the images, always the same."""
    rows = choose_images(len(images.levels), n).numpy()
    return Images(images.levels[rows], None if images.labels is None else images.labels[rows])


def bound(model: GenerativeModule, images: Images, samples: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Return bits per dimension of all images, with so many latents where the model has that choice, and of what."""
    if isinstance(model, HasImportanceSamples):
        model.importance_samples = samples
    return bits(model, images)


def elbo(model: GenerativeModule, images: Images, noises: int) -> float:
    """Return bits per dimension with one latent for each image, the mean over so many noises."""
    if not isinstance(model, HasImportanceSamples):
        return next(iter(bits(model, images)[0].values()))
    model.importance_samples = 1
    return statistics.fmean(next(iter(bits(model, images, seed)[0].values())) for seed in range(noises))


def standing(found: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Return of a model's diagnostics both sides of the ELBO, nats of an image, and active units or layers."""
    figures = {"reconstruction": found["reconstruction"], "kl": found["kl"] if "kl" in found else found["code_cost"]}
    figures |= {name: found[name] for name in ("active_units", "active_layers") if name in found}
    return {name: float(value.double().mean()) for name, value in figures.items()}


class BoundScorer:
    """What every run's model goes through.

    Args:
        scorer: of samples.
        options: of the command line.
    """

    def __init__(self, scorer: Scorer, options: argparse.Namespace):
        self.scorer, self.options = scorer, options
        self.held_out = scorer.data.images(options.part)
        self.training = some(scorer.data.images("train"), len(self.held_out.levels))
        self.facts: dict[str, Any] = {}

    def model(self, model: GenerativeModule, n: int, seed: int) -> dict[str, float | None]:
        """Return the figures of a model, and keep in ``facts`` what they are of.

        Raises:
            InputError: for a model without a likelihood.
        """
        if not isinstance(model, HasLikelihood):
            raise InputError(f"{type(model).__name__} has no likelihood, and this is about bounds")
        model.seed = seed  # the diagnostics' noise is keyed on it
        samples = self.options.importance_samples
        figures, about = bound(model, self.held_out, samples)
        name = next(iter(figures))
        training, about_training = bound(model, self.training, min(samples, self.options.train_samples))
        figures |= {
            f"{name}_train": training[name],
            "bpd_elbo": elbo(model, self.held_out, self.options.noises),
            "bpd_elbo_train": elbo(model, self.training, self.options.noises),
            **standing(Diagnostics().diagnose(model, self.scorer.data, self.options.part, self.options.diagnosed)),
        }
        self.facts = {
            "figure": name,
            "likelihood": about,
            "likelihood_train": about_training,
            "diagnosed": min(self.options.diagnosed, len(self.held_out.levels)),
            "model": type(model).__name__,
        }
        for pixels, ending in (("sample", ""), ("mean", "_mean")):
            model.sampler.pixels = pixels
            figures |= {f"{key}{ending}": value for key, value in of_samples(self.scorer, model, n, seed).items()}
        return figures


def criteria(rows: Sequence[dict], target: float | None) -> list[dict]:
    """Return the ratios of bounds: to the target, and of hierarchical models to flat ones, in pairs of equal seed.

    Bounds given labels are of another thing, log p(x | y), and left out.
    """
    rows = [row for row in rows if not row["likelihood"]["given_labels"]]
    lines = []
    for mine in rows:
        figure = mine["figure"]
        if target is not None:
            goal = {"row": f"{target:g} bits per dimension", figure: spread([target])}
            lines.append(criterion(f"at most {target:g} on digits", mine, goal, 1.0, figure))
    for mine in (row for row in rows if row["model"] == "HierarchicalVAE"):
        flat = [row for row in rows if row["model"] == "VAE"]
        lines += [criterion("hierarchical below flat", mine, other, 1.0, mine["figure"]) for other in flat]
    return lines


def compare(options: argparse.Namespace, args: Sequence[str]) -> None:
    """Train whatever is not finished, and print the lines."""
    source, extractor = DATA[options.data]
    source = source() if options.root is None else source(options.root)
    source.load("train")  # before anything is trained: missing files are told now
    if options.jobs > 1:
        train_at_once(options.config, options.seeds, Path(options.runs), options.jobs, options.budget)
    scorer = Scorer(options.part, source, extractor(), options.draws)
    bounds = BoundScorer(scorer, options)
    show = printer(surroundings("vae", args) | scoring(scorer, options.n) | {"data": options.data})
    rows = [show(config_row(config, bounds, options) | bounds.facts) for config in options.config]
    for line in criteria(rows, TARGETS.get(options.data) if options.part == "test" else None):
        show(line)


def check(config: str, data: str) -> None:
    """Raise InputError for a missing config, or one of other images."""
    wanted, found = DATA[data][0].__name__, source_of(config)["class_path"]
    if found.rpartition(".")[2] != wanted:
        raise InputError(f"{config}: its images are {found}'s, and --data {data} scores lightning_gen.data.{wanted}'s")


def parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="extend", nargs="+", required=True, help="configs of `lightning fit`")
    parser.add_argument("--data", choices=DATA, default="digits", help="what all configs are trained on")
    parser.add_argument("--root", default=None, help="folder of Fashion-MNIST's files")
    add_run_options(parser)
    add_draws_option(parser)
    add_checkpoint_option(parser, "best")
    parser.add_argument("--n", type=int, default=2000, help="samples that are scored, of either kind")
    parser.add_argument("--importance_samples", type=int, default=1000, help="latents for each held-out image")
    parser.add_argument("--train_samples", type=int, default=100, help="most latents for each training image")
    parser.add_argument("--noises", type=int, default=10, help="of bounds with one latent, which are averaged")
    parser.add_argument("--diagnosed", type=int, default=1000, help="most images whose latents are looked at")
    options = with_budget(parser.parse_args(args))
    if options.root is not None and options.data != "fashion_mnist":
        parser.error(f"--root is of fashion_mnist, not of {options.data}")
    numbers = ("importance_samples", "train_samples", "noises", "diagnosed")
    if wrong := [f"--{name}" for name in numbers if getattr(options, name) < 1]:
        parser.error(f"{' and '.join(wrong)} must be at least 1")
    return options


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    options = parse(args)
    run_script(options, lambda: compare(options, args), lambda config: check(config, options.data))


if __name__ == "__main__":
    main()
