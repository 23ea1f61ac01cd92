"""Time per training step of VAEs: ``lightning fit`` against a hand-written loop of the same step, in one process.

    python benchmarks/vae_steps.py > vae_steps.jsonl
    python benchmarks/vae_steps.py --config configs/vae/mlp-digits.yaml --data.batch_size 64
    python benchmarks/table.py vae_steps.jsonl

The hand-written side is plain PyTorch: posterior, pixel likelihood and objective are written out below, by their
formulas. Both sides have equal networks, optimizers, batches, schedule and EMA, and both look whether gradients are
finite. Ours has progress bar, CSV logging and all callbacks on. How they take turns is told in gan_steps.py.

Before the clock starts both sides take a few steps in float64 from equal weights with equal random numbers. The run
stops unless their losses, gradients' norms and weights agree, and unless both make equally many passes through layers
and through autograd. Options that this script does not know go to ``lightning fit``.

Prints one JSON line per config; one that cannot be measured (such as for want of its data) says why.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: times are comparable on one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

import gan_steps
from digits import surroundings
from gan_steps import CLOCKS, PARTS, callback_of, compare_steps, factory

from lightning_gen import cli
from lightning_gen.callbacks import EMA, LearningRate
from lightning_gen.core.errors import InputError
from lightning_gen.core.files import finite
from lightning_gen.data import ImageDataModule
from lightning_gen.models import VAE

LIMIT = 1.05
STEPS = 4  # of the comparison in float64


# --- pixel likelihoods, written out -----------------------------------------------------------------------------------


def categorical(options: Any, levels: Tensor, theta: Tensor) -> Tensor:
    n, channels, height, width = levels.shape
    logits = theta.view(n, channels, -1, height, width).transpose(1, 2)
    return -F.cross_entropy(logits, levels.long(), reduction="none").flatten(1).sum(1)


def bernoulli(options: Any, levels: Tensor, theta: Tensor) -> Tensor:
    return -F.binary_cross_entropy_with_logits(theta, levels.to(theta.dtype), reduction="none").flatten(1).sum(1)


def logistic(options: Any, levels: Tensor, theta: Tensor) -> Tensor:
    """The mixture of PixelCNN++ for grey images."""
    if levels.shape[1] > 1:
        raise InputError("there are no hand-written LogisticPixels of colours here")
    k, top = options.components, options.spec.levels - 1
    logits, means, log_scales = theta.split(k, 1)
    log_scales = log_scales.clamp(math.log(options.smallest), 5.0)
    means = means + torch.linspace(-1, 1, k + 2, dtype=theta.dtype)[1:-1].view(k, 1, 1)
    inverse = torch.exp(-log_scales)
    centred = levels.to(theta.dtype) * (2 / top) - 1 - means
    low, high = (centred - 1 / top) * inverse, (centred + 1 / top) * inverse
    lowest, highest = levels == 0, levels == top
    # The mass of a bin between low and high is sigmoid(high) sigmoid(-low) (1 - exp(low - high)).
    nats = F.logsigmoid(high).masked_fill(highest, 0.0) + F.logsigmoid(-low).masked_fill(lowest, 0.0)
    nats = nats + torch.log(-torch.expm1(-2 / top * inverse)).masked_fill(lowest | highest, 0.0)
    return torch.logsumexp(nats + torch.log_softmax(logits, 1), 1).flatten(1).sum(1)


PIXELS = {"CategoricalPixels": categorical, "BernoulliPixels": bernoulli, "LogisticPixels": logistic}


# --- objectives, written out ------------------------------------------------------------------------------------------


def normal(x: Tensor, mean: Tensor | float, log_variance: Tensor | float) -> Tensor:
    log_variance = torch.as_tensor(log_variance, dtype=x.dtype)
    return -0.5 * ((x - mean) ** 2 * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi)).sum(-1)


def elbo(options: Any, conditional: Tensor, latent: Tensor, noise: Tensor, moments: tuple[Tensor, Tensor], seen: int):
    if options.free_bits or options.capacity is not None:
        raise InputError("there are no hand-written free bits or capacity here")
    mean, log_variance = moments
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    weight = options.beta * (1.0 if seen >= options.warmup else seen / options.warmup)
    return -conditional.mean(0) + weight * kl


def iwae(options: Any, conditional: Tensor, latent: Tensor, noise: Tensor, moments: tuple[Tensor, Tensor], seen: int):
    posterior = -0.5 * (noise**2 + moments[1] + math.log(2 * math.pi)).sum(-1)
    weights = conditional + normal(latent, 0.0, 0.0) - posterior
    return math.log(options.samples) - torch.logsumexp(weights, 0)


OBJECTIVES = {"ELBO": elbo, "IWAE": iwae}


# --- the loop ---------------------------------------------------------------------------------------------------------


class HandWritten:
    """The loop that an experienced user would write for one VAE, without a framework.

    Args:
        model: gives networks, optimizer and numbers; none of its methods that train are called.
        data: gives batches.
        ema: gives the half-life.
        schedule: gives the learning rate's factor.

    Raises:
        InputError: for a part that is not written out here.
    """

    def __init__(self, model: VAE, data: ImageDataModule, ema: EMA | None = None, schedule: LearningRate | None = None):
        def named(table: dict[str, Any], part: Any) -> Any:
            name = type(part).__name__
            if name not in table:
                raise InputError(f"there is no hand-written {name} here; known are {', '.join(table)}")
            return table[name]

        named({"DiagonalPosterior": None}, model.posterior)
        named({"StandardNormal": None}, model.prior)
        self.pixels, self.pixel_options = named(PIXELS, model.pixels), model.pixels
        self.objective, self.options = named(OBJECTIVES, model.objective), model.objective
        self.spec, self.dtype, self.latent_dim, self.augment = model.spec, model.dtype, model.latent_dim, data.augment
        self.encoder, self.decoder = model.encoder, model.decoder
        self.parameters = list(model.parameters())
        self.optimizer = model.configure_optimizers()
        self.schedule = None if schedule is None or (schedule.decay, schedule.warm_up) == ("none", 0) else schedule
        self.rates = [(group, group["lr"]) for group in self.optimizer.param_groups]
        self.half_life, self.ramp_up = (ema.half_life, ema.ramp_up) if ema is not None else (0, None)
        if self.half_life:
            self.average = [value.detach().clone() for value in self.parameters]
        self.stream = data.train_dataloader()
        self.batches = iter(self.stream)
        self.images_seen = 0
        self.figures: dict[str, Tensor] = {}

    def noise(self, samples: int, n: int) -> Tensor:
        return torch.randn(samples, n, self.latent_dim)

    def step(self) -> None:
        levels, labels, _ = next(self.batches)
        n, samples = len(levels), self.options.samples
        for augmentation in self.augment:
            levels = augmentation(levels, gan_steps.Chance(n))
        if self.schedule is not None:
            factor = self.schedule.factor(self.images_seen)
            for group, rate in self.rates:
                group["lr"] = rate * factor
        mean, log_variance = self.encoder(self.spec.to_unit(levels, self.dtype), labels).chunk(2, 1)
        log_variance = log_variance.clamp(-10, 10)
        noise = self.noise(samples, n)
        latent = mean + torch.exp(0.5 * log_variance) * noise
        if samples > 1:
            levels = levels.repeat(samples, 1, 1, 1)
            labels = None if labels is None else labels.repeat(samples)
        theta = self.decoder(latent.flatten(0, 1), labels)
        conditional = self.pixels(self.pixel_options, levels, theta).view(samples, n)
        moments = mean, log_variance
        loss = self.objective(self.options, conditional, latent, noise, moments, self.images_seen).mean()
        self.figures = {"loss": loss.detach(), "reconstruction": -conditional.detach().mean()}
        self.descend(loss)
        self.images_seen += n
        if self.half_life:
            half_life = min(self.half_life, (self.ramp_up or math.inf) * self.images_seen)
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - 0.5 ** (n / half_life))

    def descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.figures["gradient_norm"] = norm
        if torch.isfinite(norm):
            self.optimizer.step()


# --- whether both sides do the same -----------------------------------------------------------------------------------


class WithTheirNumbers(HandWritten):
    """The hand-written loop with the random numbers that our side draws."""

    def __init__(self, model: VAE, data: ImageDataModule):
        super().__init__(model, data)
        self.numbers = model

    def noise(self, samples: int, n: int) -> Tensor:
        self.numbers.images_seen = self.images_seen
        return self.numbers.context.normal("posterior", samples, n, self.latent_dim, dim=1).to(self.dtype)


def compare_sides(make: Callable[[], VAE], data: ImageDataModule, steps: int = STEPS) -> dict[str, Any]:
    """Take steps on both sides in float64 with equal weights and random numbers, and return how far they differ.

    Raises:
        InputError: where they are not the same up to rounding, or make different numbers of passes.
    """
    ours, twin = make().double(), make().double()
    twin.load_state_dict(ours.state_dict())
    optimizer = ours.configure_optimizers()

    def step_of_ours(batch: Any, number: int) -> None:  # what Lightning does around a training step
        loss = ours.training_step(batch, number)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ours.guard.on_before_optimizer_step(SimpleNamespace(precision="64-true"), ours, optimizer)
        optimizer.step()

    return compare_steps(ours, step_of_ours, twin, WithTheirNumbers(twin, data), ("encoder", "decoder"), steps)


# --- timing -----------------------------------------------------------------------------------------------------------


class AgainstByHand(gan_steps.AgainstByHand):
    """Compare both sides, then let segments of the trainer and of the hand-written loop take turns."""

    def on_train_start(self, trainer: Trainer, pl_module: VAE) -> None:
        if type(pl_module) is not VAE:
            raise InputError(f"{type(pl_module).__name__} is no VAE")
        make, data = factory(pl_module), trainer.datamodule
        self.about["same"] = compare_sides(make, data)
        self.about["limit"] = LIMIT
        torch.manual_seed(0)
        self.hand = HandWritten(make(), data, callback_of(trainer, EMA), callback_of(trainer, LearningRate))
        self.segment = self.segment_of(self.hand, 1)
        self.steps, self.started = 0, self.clock()


def measure(config: str, options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """Run `lightning fit` with the measuring callback, and return its line."""
    with mock.patch.object(gan_steps, "AgainstByHand", AgainstByHand):
        return gan_steps.measure(config, options, overrides)


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="extend", nargs="+", default=[], help="all VAEs that ship if none is given")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a segment")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--limit", type=float, default=None, help=f"{LIMIT} if not given")
    options, overrides = parser.parse_known_args(args)
    options.part = "steps"
    if options.pairs < 2:
        parser.error("quartiles need --pairs of at least 2")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder = cli.configs_folder()
    configs = options.config or [
        str(path.relative_to(folder.parent)) for path in sorted((folder / "vae").glob("*.yaml"))
    ]
    try:
        found = [cli.find_config(config) for config in configs]
    except InputError as error:
        cli.fail(str(error))
    common = surroundings("vae_steps", args) | {"comparison": PARTS["steps"], "clock": options.clock}
    for config, file in zip(configs, found, strict=True):
        line = common | {"config": config} | measure(file, options, overrides)
        print(json.dumps(finite(line), allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
