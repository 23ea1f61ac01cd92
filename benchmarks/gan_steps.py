"""Time per training step of GANs: ``lightning fit`` against a hand-written loop of the same step, in one process.

    python benchmarks/gan_steps.py > gan_steps.jsonl
    python benchmarks/gan_steps.py --config configs/quickstart.yaml --data.batch_size 64
    python benchmarks/gan_steps.py --part conditional --config configs/quickstart.yaml
    python benchmarks/table.py gan_steps.jsonl

The hand-written side is plain PyTorch: every loss, penalty and augmentation is written out below, by its formula. Both
sides have equal networks, optimizers, batches, schedule and EMA, and both look whether loss and gradients are finite.
Ours has progress bar, CSV logging and all callbacks on. Segments of both take turns, each of as many steps as carry the
penalties equally often; the ratio is the median over pairs of neighbouring segments, with quartiles. Seconds are those
of a clock on the wall, or with ``--clock cpu`` those that this process had a processor, for busy machines.

Before the clock starts both sides take a few steps in float64 from equal weights with equal random numbers. The run
stops unless their losses, gradients' norms and weights agree, and unless both make equally many passes through layers
and through autograd. ``--part conditional`` compares networks with ``conditional: false`` to the same layers without
that option instead, both in the hand-written loop. Options that this script does not know go to ``lightning fit``.

Prints one JSON line per config; one that cannot be measured (such as for want of its data) says why.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: times are comparable on one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import contextlib
import io
import json
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

from digits import surroundings

from lightning_gen import cli
from lightning_gen.callbacks import EMA, LearningRate
from lightning_gen.commands import training
from lightning_gen.core.descriptions import build, describe
from lightning_gen.core.errors import InputError
from lightning_gen.core.files import finite
from lightning_gen.data import ImageDataModule
from lightning_gen.models import GAN, ImageModule
from lightning_gen.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator

FAR = 1_000_000_000  # images until the run's end, its evaluations and checkpoints
LIMITS = {"convolutional": 1.05, "perceptrons": 1.10}
TOLERANCE = 1e-6  # of figures in float64
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PARTS = {"steps": "ours / hand-written", "conditional": "conditional: false / without the option"}


# --- losses, written out ----------------------------------------------------------------------------------------------


class Loss(NamedTuple):
    """Means over a batch, of scores (B,) of real and generated images (of the images themselves for pixels)."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor | None, Tensor], Tensor]
    realness: Callable[[Tensor, Tensor], Tensor]
    needs_real: bool = False


LOSSES = {
    "NonSaturating": Loss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda real, fake: F.softplus(-fake).mean(),
        lambda real, fake: real,
    ),
    "Minimax": Loss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda real, fake: -F.softplus(fake).mean(),
        lambda real, fake: real,
    ),
    "LeastSquares": Loss(
        lambda real, fake: 0.5 * ((real - 1) ** 2).mean() + 0.5 * (fake**2).mean(),
        lambda real, fake: 0.5 * ((fake - 1) ** 2).mean(),
        lambda real, fake: real - 0.5,
    ),
    "Wasserstein": Loss(
        lambda real, fake: fake.mean() - real.mean(),
        lambda real, fake: -fake.mean(),
        lambda real, fake: real - fake,
    ),
    "Hinge": Loss(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda real, fake: -fake.mean(),
        lambda real, fake: real,
    ),
    "Relativistic": Loss(
        lambda real, fake: F.softplus(fake - real).mean(),
        lambda real, fake: F.softplus(real - fake).mean(),
        lambda real, fake: real - fake,
        needs_real=True,
    ),
    "RelativisticAverage": Loss(
        lambda real, fake: F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean(),
        lambda real, fake: F.softplus(real - fake.mean()).mean() + F.softplus(real.mean() - fake).mean(),
        lambda real, fake: real - fake.mean(),
        needs_real=True,
    ),
    "PixelComparison": Loss(
        lambda real, fake: F.mse_loss(fake**2, real**2),
        lambda real, fake: F.mse_loss(fake, real),
        lambda real, fake: torch.zeros(len(real)),
    ),
}


# --- augmentations, written out ---------------------------------------------------------------------------------------


class Chance:
    """Fresh random numbers for a batch, from torch's global generator."""

    def __init__(self, n: int):
        self.n = n

    def uniform(self, columns: int) -> Tensor:
        return torch.rand(self.n, columns)

    def normal(self, columns: int) -> Tensor:
        return torch.randn(self.n, columns)


def diff_augment(options: Any, chance: Any) -> Callable[[Tensor], Tensor]:
    """Draw one change for each image of a batch: colour, translation, cutout (Zhao et al. 2020)."""
    numbers = [(name, chance.uniform(3 if name == "colour" else 2)) for name in options.policy]

    def change(x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        for name, u in numbers:
            if name == "colour":
                u = (2 * u.to(x.dtype) - 1).view(n, 3, 1, 1, 1)
                x = x + options.brightness * u[:, 0]
                if channels > 1:
                    grey = x.mean(1, keepdim=True)
                    x = grey + (1 + options.saturation * u[:, 1]) * (x - grey)
                mean = x.mean((1, 2, 3), keepdim=True)
                x = mean + (1 + options.contrast * u[:, 2]) * (x - mean)
            elif name == "translation":
                most = torch.tensor([int(options.translation * height + 0.5), int(options.translation * width + 0.5)])
                shift = (u * (2 * most + 1)).long() - most
                # A frame of one pixel stands for everything outside.
                rows = (torch.arange(height) - shift[:, :1]).clamp(-1, height) + 1
                columns = (torch.arange(width) - shift[:, 1:]).clamp(-1, width) + 1
                framed = F.pad(x, (1, 1, 1, 1), value=options.fill).permute(0, 2, 3, 1)
                x = framed[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
            else:
                hole = torch.ones((), dtype=torch.bool)
                for axis, side in ((0, height), (1, width)):
                    size = int(options.cutout * side + 0.5)
                    centre = (u[:, axis] * (side + 1 - size % 2)).long()
                    place = torch.arange(side) - centre[:, None] + size // 2
                    hole = hole & ((place >= 0) & (place < size)).view(
                        (n, 1, side, 1) if axis == 0 else (n, 1, 1, side)
                    )
                x = torch.where(hole, options.fill, x)
        return x

    return change


def affine(n: int, entries: Sequence[Sequence[Any]]) -> Tensor:
    """A batch (n, 3, 3) of maps of the plane, from the first two rows."""
    rows = [torch.stack([torch.as_tensor(entry).expand(n) for entry in row], -1) for row in (*entries, (0.0, 0.0, 1.0))]
    return torch.stack(rows, 1)


def ada(options: Any, p: Tensor, chance: Any) -> Callable[[Tensor], Tensor]:
    """Draw one change for each image of a batch, of every operation with probability p (Karras et al. 2020)."""
    u, z = iter(chance.uniform(21).unbind(1)), iter(chance.normal(7).unbind(1))
    n, once = chance.n, 1 - (1 - p).sqrt()

    def some(name: str, chosen: Tensor, value: Tensor, neutral: float, probability: Tensor = p) -> Tensor:
        wanted = (chosen < probability) & (name in options.operations)
        return torch.where(wanted, value, neutral)

    def turn(angle: Tensor) -> Tensor:
        return affine(n, [(angle.cos(), -angle.sin(), 0.0), (angle.sin(), angle.cos(), 0.0)])

    flip = some("flip", next(u), 1 - 2 * (2 * next(u)).floor(), 1.0)
    quarters = some("rotate90", next(u), (4 * next(u)).floor(), 0.0)
    chosen = next(u)
    right, down = (some("translate", chosen, (2 * next(u) - 1) / 8, 0.0) for _ in range(2))
    size = some("scale", next(u), torch.exp2(0.2 * next(z)), 1.0)
    before = some("rotate", next(u), math.pi * (2 * next(u) - 1), 0.0, once)
    stretch = some("stretch", next(u), torch.exp2(0.2 * next(z)), 1.0)
    after = some("rotate", next(u), math.pi * (2 * next(u) - 1), 0.0, once)
    chosen = next(u)
    further_right, further_down = (some("shift", chosen, next(z) / 8, 0.0) for _ in range(2))
    brightness = some("brightness", next(u), 0.2 * next(z), 0.0)
    contrast = some("contrast", next(u), torch.exp2(0.5 * next(z)), 1.0)
    mirror = some("luma_flip", next(u), 1 - 2 * (2 * next(u)).floor(), 1.0)
    hue = some("hue", next(u), math.pi * (2 * next(u) - 1), 0.0)
    saturation = some("saturation", next(u), torch.exp2(next(z)), 1.0)

    def change(x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        inverse = affine(n, [(flip, 0.0, 0.0), (0.0, 1.0, 0.0)])
        inverse = inverse @ turn(-math.pi / 2 * quarters)
        inverse = inverse @ affine(n, [(1.0, 0.0, -(right * width).round()), (0.0, 1.0, -(down * height).round())])
        inverse = inverse @ affine(n, [(1 / size, 0.0, 0.0), (0.0, 1 / size, 0.0)]) @ turn(-before)
        inverse = inverse @ affine(n, [(1 / stretch, 0.0, 0.0), (0.0, stretch, 0.0)]) @ turn(-after)
        inverse = inverse @ affine(n, [(1.0, 0.0, -further_right * width), (0.0, 1.0, -further_down * height)])
        # From pixels to half sides, the coordinates of affine_grid.
        half = torch.tensor([width / 2, height / 2, 1.0])
        theta = (inverse * half / half[:, None])[:, :2].to(x.dtype)
        moved = F.grid_sample(
            x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="reflection", align_corners=False
        )
        touched = (inverse != torch.eye(3)).flatten(1).any(1).view(-1, 1, 1, 1)
        x = torch.where(touched, moved, x)
        gain = (contrast * mirror).to(x.dtype).view(-1, 1, 1, 1)
        offset = gain * brightness.to(x.dtype).view(-1, 1, 1, 1)
        if x.shape[1] == 1:
            return gain * x + offset
        grey = x.mean(1, keepdim=True)
        rest = x - grey
        across = (rest.roll(1, 1) - rest.roll(-1, 1)) / math.sqrt(3)
        colour = (contrast * saturation).to(x.dtype).view(-1, 1, 1, 1)
        angle = hue.to(x.dtype).view(-1, 1, 1, 1)
        return gain * grey + offset + colour * (angle.cos() * rest + angle.sin() * across)

    return change


# --- penalties, written out -------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What penalties on the critic are about."""

    real: Tensor
    fake: Tensor
    labels: Tensor | None
    real_scores: Tensor
    fake_scores: Tensor


def gradient(critic: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    """The gradient of each score with respect to its image, (B, N)."""
    images = images.detach().requires_grad_()
    (found,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
    return found.flatten(1)


def r1(loop: HandWritten, options: Any, seen: Seen, chance: Any) -> Tensor:
    return gradient(loop.critic, seen.real, seen.labels).square().sum(1).mean() / 2


def r2(loop: HandWritten, options: Any, seen: Seen, chance: Any) -> Tensor:
    return gradient(loop.critic, seen.fake, seen.labels).square().sum(1).mean() / 2


def wgan_gp(loop: HandWritten, options: Any, seen: Seen, chance: Any) -> Tensor:
    u = chance.uniform(1).to(seen.real.dtype).view(-1, 1, 1, 1)
    between = u * seen.real + (1 - u) * seen.fake
    return (gradient(loop.critic, between, seen.labels).norm(dim=1) - options.target).square().mean()


def dragan(loop: HandWritten, options: Any, seen: Seen, chance: Any) -> Tensor:
    noise = chance.normal(seen.real[0].numel()).to(seen.real.dtype).view_as(seen.real)
    around = seen.real + options.std * noise
    return (gradient(loop.critic, around, seen.labels).norm(dim=1) - options.target).square().mean()


def lecam(loop: HandWritten, options: Any, seen: Seen, chance: Any) -> Tensor:
    if loop.anchors is None:
        loop.anchors = torch.zeros(3, dtype=seen.real.dtype)
    means = torch.stack([seen.real_scores.detach().mean(), seen.fake_scores.detach().mean(), torch.ones(())])
    loop.anchors.lerp_(means.to(loop.anchors.dtype), 1 - options.decay)
    real, fake = loop.anchors[:2] / loop.anchors[2]
    return (seen.real_scores - fake).square().mean() + (seen.fake_scores - real).square().mean()


def consistency(loop: HandWritten, options: Any, seen: Seen, chance: Any) -> Tensor:
    changed = diff_augment(options.augmentation, chance)(seen.real)
    value = (seen.real_scores - loop.critic(changed, seen.labels)).square().mean()
    if options.fake_weight:
        changed = diff_augment(options.augmentation, chance)(seen.fake)
        value = value + options.fake_weight * (seen.fake_scores - loop.critic(changed, seen.labels)).square().mean()
    return value


def filters(network: nn.Module) -> list[Callable[[], Tensor]]:
    """The trained weights of linear and convolutional layers, one row per output; rows of one number are left out."""
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            spectral = "parametrizations" in layer._modules
            weight = layer.parametrizations.weight.original if spectral else layer.weight
            transposed = isinstance(layer, nn.ConvTranspose2d)
            rows = lambda w=weight, t=transposed: (w.transpose(0, 1) if t else w).flatten(1)  # noqa: E731
            if len(rows()) > 1 and rows()[0].numel() > 1:
                found.append(rows)
    return found


def orthogonal(weights: Sequence[Callable[[], Tensor]]) -> Tensor:
    value = 0.0
    for rows in weights:
        w = rows()
        gram = w @ w.T
        value = value + (gram - torch.diag(gram.diagonal())).square().sum()
    return value


def path_length(loop: HandWritten, options: Any, latent: Tensor, labels: Tensor | None, chance: Any) -> Tensor:
    z, noise = loop.generator.split(latent)
    styles = loop.generator.styles(z, labels)
    images = loop.generator.synthesise(styles, noise)
    direction = chance.normal(images[0].numel()).to(images.dtype).view_as(images)
    direction = direction / math.sqrt(images.shape[2] * images.shape[3])
    (found,) = torch.autograd.grad((images * direction).sum(), styles, create_graph=True)
    lengths = (found.square().sum(2).mean(1)).sqrt()
    loop.path = loop.path + options.decay * (lengths.detach().mean() - loop.path)
    return (lengths - loop.path).square().mean()


PENALTIES = {
    "R1": r1,
    "R2": r2,
    "WGANGP": wgan_gp,
    "DRAGAN": dragan,
    "LeCam": lecam,
    "Consistency": consistency,
    "OrthogonalRegularisation": lambda loop, *_: orthogonal(loop.critic_filters),
}
GENERATOR_PENALTIES = {
    "PathLength": path_length,
    "OrthogonalRegularisation": lambda loop, *_: orthogonal(loop.generator_filters),
}


# --- the loop ---------------------------------------------------------------------------------------------------------


class HandWritten:
    """The loop that an experienced user would write for one GAN, without a framework.

    Args:
        model: gives networks, optimizers and numbers; none of its methods that train are called.
        data: gives batches.
        ema: gives the half-life.
        schedule: gives the learning rates' factor.

    Raises:
        InputError: for an objective that is not written out here.
    """

    def __init__(self, model: GAN, data: ImageDataModule, ema: EMA | None = None, schedule: LearningRate | None = None):
        def named(table: dict[str, Any], part: Any) -> Any:
            name = type(part).__name__
            if name not in table:
                raise InputError(f"there is no hand-written {name} here; known are {', '.join(table)}")
            return table[name]

        self.spec, self.dtype, self.augment = model.spec, model.dtype, data.augment
        self.generator, self.critic = model.generator, model.discriminator
        self.generator_optimizer, self.critic_optimizer = model.configure_optimizers()
        self.generator_clip, self.critic_clip = model.generator_clip, model.discriminator_clip
        self.critic_steps, self.auxiliary = model.critic_steps, model.auxiliary
        self.generator_parameters = list(self.generator.parameters())
        self.critic_parameters = list(self.critic.parameters())
        self.loss, self.pixels = named(LOSSES, model.loss), type(model.loss).__name__ == "PixelComparison"
        self.penalties = [(named(PENALTIES, penalty), penalty) for penalty in model.penalties]
        self.generator_penalties = [(named(GENERATOR_PENALTIES, p), p) for p in model.generator_penalties]
        self.names: dict[int, str] = {}  # of penalties' figures: the second of a class has a number
        for _, penalty in (*self.penalties, *self.generator_penalties):
            name = type(penalty).__name__.lower()
            same = sum(known.partition("_")[0] == name for known in self.names.values())
            self.names[id(penalty)] = f"{name}_{same + 1}" if same else name
        self.critic_filters, self.generator_filters = filters(self.critic), filters(self.generator)
        self.augmentation = model.augmentation
        if self.augmentation is not None:
            self.draw_change = named({"DiffAugment": diff_augment, "ADA": self.draw_ada}, self.augmentation)
        self.p = torch.tensor(getattr(self.augmentation, "initial", 0.0), dtype=self.dtype)
        self.signs: list[Tensor] = []
        self.anchors: Tensor | None = None
        self.path = torch.zeros((), dtype=self.dtype)
        self.schedule = None if schedule is None or (schedule.decay, schedule.warm_up) == ("none", 0) else schedule
        groups = [*self.generator_optimizer.param_groups, *self.critic_optimizer.param_groups]
        self.rates = [(group, group["lr"]) for group in groups]
        self.half_life, self.ramp_up = (ema.half_life, ema.ramp_up) if ema is not None else (0, None)
        if self.half_life:
            self.average = {name: value.detach().clone() for name, value in self.generator.state_dict().items()}
            moving = [(a, b) for a, b in self.state_pairs() if a.is_floating_point()]
            still = [(a, b) for a, b in self.state_pairs() if not a.is_floating_point()]
            self.moving, self.still = ([list(side) for side in zip(*pairs, strict=True)] for pairs in (moving, still))
        self.stream = data.train_dataloader()
        self.batches = iter(self.stream)
        self.images_seen = self.critic_steps_taken = self.generator_steps_taken = 0
        self.figures: dict[str, Tensor] = {}

    def state_pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The average's tensors and the generator's."""
        return zip(self.average.values(), self.generator.state_dict().values(), strict=True)

    def latents(self, n: int, purpose: str) -> Tensor:
        return torch.randn(n, self.generator.latent_dim)

    def chance(self, n: int, purpose: str) -> Any:
        return Chance(n)

    def chance_of(self, penalty: Any, n: int) -> Any:
        return self.chance(n, f"penalties/{type(penalty).__name__}")

    def draw_ada(self, options: Any, chance: Any) -> Callable[[Tensor], Tensor]:
        return ada(options, self.p, chance)

    def step(self) -> None:
        batch = next(self.batches)
        levels, n = batch.levels, len(batch.levels)
        for augmentation in self.augment:
            levels = augmentation(levels, self.chance(n, "augment"))
        real = self.spec.to_unit(levels, self.dtype)
        if self.schedule is not None:
            factor = self.schedule.factor(self.images_seen)
            for group, rate in self.rates:
                group["lr"] = rate * factor
        if self.critic_step(real, batch.labels) and self.critic_steps_taken % self.critic_steps == 0:
            self.generator_step(real, batch.labels)
        self.images_seen += n
        if self.half_life:
            half_life = min(self.half_life, (self.ramp_up or math.inf) * self.images_seen)
            with torch.no_grad():
                torch._foreach_lerp_(*self.moving, 1 - 0.5 ** (n / half_life))
                if self.still:
                    torch._foreach_copy_(*self.still)

    def critic_step(self, real: Tensor, labels: Tensor | None) -> bool:
        n = len(real)
        self.critic.requires_grad_(True)
        with torch.no_grad():
            fake = self.generator(self.latents(n, "critic"), labels)
        if self.augmentation is not None:
            change = self.draw_change(self.augmentation, self.chance(n, "augment-critic"))
            real, fake = change(real), change(fake)
        if self.auxiliary is None:
            real_scores, fake_scores = self.critic(real, labels), self.critic(fake, labels)
        else:
            real_scores, real_logits = self.critic.scores_and_logits(real, labels)
            fake_scores, fake_logits = self.critic.scores_and_logits(fake, labels)
        if self.pixels:  # as in the tutorial, the critic looks at the images and nobody asks what it says
            self.figures["loss_critic"] = self.loss.critic(real, fake)
            self.critic_steps_taken += 1
            return True
        loss = self.loss.critic(real_scores, fake_scores)
        self.figures["loss_critic"] = loss.detach()
        if self.auxiliary is not None:
            term = self.auxiliary.weight * F.cross_entropy(real_logits, labels)
            term = term + self.auxiliary.fake_weight * F.cross_entropy(fake_logits, labels)
            self.figures["loss_classifier"] = term.detach()
            loss = loss + term
        seen = None
        for value, options in self.penalties:
            if self.critic_steps_taken % options.every == 0:
                seen = seen or Seen(real, fake, labels, real_scores, fake_scores)
                term = options.every * options.weight * value(self, options, seen, self.chance_of(options, n))
                self.figures[self.names[id(options)]] = term.detach()
                loss = loss + term
        if not self.descend("critic", loss, self.critic_parameters, self.critic_optimizer, self.critic_clip):
            return False
        self.critic_steps_taken += 1
        if getattr(self.augmentation, "target", None) is not None:
            self.adapt(self.loss.realness(real_scores, fake_scores).detach(), n)
        return True

    def generator_step(self, real: Tensor, labels: Tensor | None) -> None:
        n = len(real)
        self.critic.requires_grad_(False)
        latent = self.latents(n, "generator")
        fake = self.generator(latent, labels)
        if self.pixels:
            loss = self.loss.generator(real, fake)
        else:
            seen = fake
            if self.augmentation is not None:
                change = self.draw_change(self.augmentation, self.chance(n, "augment-generator"))
                seen = change(fake)
                real = change(real) if self.loss.needs_real else real
            if self.auxiliary is None:
                scores = self.critic(seen, labels)
            else:
                scores, logits = self.critic.scores_and_logits(seen, labels)
            real_scores = None
            if self.loss.needs_real:
                with torch.no_grad():
                    real_scores = self.critic(real, labels)
            loss = self.loss.generator(real_scores, scores)
        self.figures["loss_generator"] = loss.detach()
        if self.auxiliary is not None:
            term = self.auxiliary.generator_weight * F.cross_entropy(logits, labels)
            self.figures["loss_classifier_generator"] = term.detach()
            loss = loss + term
        for value, options in self.generator_penalties:
            if self.generator_steps_taken % options.every == 0:
                term = value(self, options, latent, labels, self.chance_of(options, n))
                term = options.every * options.weight * term
                self.figures[self.names[id(options)]] = term.detach()
                loss = loss + term
        if self.descend("generator", loss, self.generator_parameters, self.generator_optimizer, self.generator_clip):
            self.generator_steps_taken += 1

    def descend(
        self,
        name: str,
        loss: Tensor,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        clip: float | None,
    ) -> bool:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.figures[f"gradient_norm_{name}"] = norm
        if not torch.isfinite(loss.detach() + norm):
            return False
        if clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        optimizer.step()
        return True

    def adapt(self, realness: Tensor, n: int) -> None:
        """Move ADA's probability."""
        self.signs.append(realness.sign().mean())
        if len(self.signs) == self.augmentation.interval:
            move = (torch.stack(self.signs).mean() - self.augmentation.target).sign()
            move = move * n * len(self.signs) / self.augmentation.adjust_images
            self.p = (self.p + move).clamp(0, self.augmentation.maximum)
            self.signs = []


# --- whether both sides do the same -----------------------------------------------------------------------------------


class WithTheirNumbers(HandWritten):
    """The hand-written loop with the random numbers that our side draws."""

    def __init__(self, model: GAN, data: ImageDataModule):
        super().__init__(model, data)
        self.numbers = model

    def latents(self, n: int, purpose: str) -> Tensor:
        self.numbers.images_seen = self.images_seen
        return self.numbers.training_latents(purpose, n)

    def chance(self, n: int, purpose: str) -> Any:
        self.numbers.images_seen = self.images_seen
        return self.numbers.context.draws(purpose, n)


@contextlib.contextmanager
def count_passes(*networks: nn.Module) -> Iterator[Counter]:
    """Count passes through the innermost modules of networks, and calls of autograd."""
    passes: Counter = Counter()
    backward, grad = torch.autograd.backward, torch.autograd.grad

    def counting(name: str, function: Callable) -> Callable:
        def counted(*args: Any, **kwargs: Any) -> Any:
            passes[name] += 1
            return function(*args, **kwargs)

        return counted

    handles = [
        part.register_forward_hook(lambda *_: passes.update(["layers"]))
        for network in networks
        for part in network.modules()
        if not list(part.children())
    ]
    torch.autograd.backward, torch.autograd.grad = (counting("autograd", f) for f in (backward, grad))
    try:
        yield passes
    finally:
        torch.autograd.backward, torch.autograd.grad = backward, grad
        for handle in handles:
            handle.remove()


def compare_sides(make: Callable[[], GAN], data: ImageDataModule, steps: int) -> dict[str, Any]:
    """Take steps on both sides in float64 with equal weights and random numbers, and return how far they differ.

    Raises:
        InputError: where they are not the same up to rounding, or make different numbers of passes.
    """
    ours, twin = make().double(), make().double()
    twin.load_state_dict(ours.state_dict())
    optimizers = ours.configure_optimizers()
    ours.optimizers = lambda use_pl_optimizer: optimizers
    return compare_steps(
        ours, ours.training_step, twin, WithTheirNumbers(twin, data), ("generator", "discriminator"), steps
    )


def compare_steps(
    ours: ImageModule,
    step_of_ours: Callable[[Any, int], Any],
    twin: ImageModule,
    hand: Any,
    networks: Sequence[str],
    steps: int,
) -> dict[str, Any]:
    """Take steps on both sides with equal random numbers, and return how far they differ.

    Args:
        ours: model in float64.
        step_of_ours: takes a batch and its number.
        twin: model of equal weights, which the hand-written loop trains.
        hand: the loop, which draws its random numbers as ours does.
        networks: attributes of both models, whose passes are counted.
        steps: how many.

    Raises:
        InputError: where they are not the same up to rounding, or make different numbers of passes.
    """
    hand.augment = ()  # the module's, of which both sides would only draw the same
    losses, passes = 0.0, []
    for step in range(steps):
        batch = hand.stream.at(ours.images_seen)
        hand.batches, hand.figures = iter([batch]), {}
        for side, model in ((lambda: step_of_ours(batch, step), ours), (hand.step, twin)):  # noqa: B023
            torch.manual_seed(step)  # dropout draws from the global generator
            with count_passes(*(getattr(model, name) for name in networks)) as counted:
                side()
            passes.append(dict(counted))
        figures = ours.means.take()
        if passes[-2] != passes[-1]:
            raise InputError(f"step {step} takes {passes[-2]} passes here and {passes[-1]} in the hand-written loop")
        for name, value in hand.figures.items():
            difference = abs(figures[name] - float(value)) / max(abs(float(value)), 1e-3)
            losses = max(losses, difference)
            if not difference < TOLERANCE:
                raise InputError(f"{name} at step {step} is {figures[name]} here and {float(value)} by hand")
    pairs = zip(ours.parameters(), twin.parameters(), strict=True)
    weights = max(float((a - b).detach().abs().max()) for a, b in pairs)
    if not weights < TOLERANCE:
        raise InputError(f"weights differ by {weights} after {steps} steps from those of the hand-written loop")
    total = sum((Counter(counted) for counted in passes[::2]), Counter())
    return {"steps": steps, "loss_difference": losses, "weight_difference": weights, "passes": dict(total)}


# --- timing -----------------------------------------------------------------------------------------------------------


def factory(model: GAN) -> Callable[[], GAN]:
    """Return what makes further models like this one."""
    description = describe(model)
    return lambda: build(description, ImageModule, ("lightning_gen", "torch"), spec=model.spec)


def period(model: GAN) -> int:
    """Return the number of critic steps after which penalties and generator steps repeat themselves."""
    every = [penalty.every * model.critic_steps for penalty in model.generator_penalties]
    return math.lcm(model.critic_steps, *(penalty.every for penalty in model.penalties), *every)


def callback_of(trainer: Trainer, kind: type) -> Any:
    """Return the trainer's callback of that class, or None."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)


class Terminal(io.StringIO):
    """A terminal that nobody looks at: the progress bar is drawn as for a user."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def without_lightning() -> Iterator[None]:
    """Undo what importing Lightning does to a plain loop.

    It asks torch to look for GPUs through the driver's library, and every step of Adam asks torch whether there is one:
    on a machine without, the library is then searched for at every step.
    """
    kept = os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = kept


class Meter(Callback):
    """Milliseconds of a step of both sides, segment by segment; the first pair warms up.

    Args:
        pairs: of segments that count.
        seconds: length of a segment.
        clock: of seconds.
    """

    def __init__(self, pairs: int, seconds: float, clock: Callable[[], float] = time.perf_counter):
        self.pairs, self.seconds, self.clock = pairs, seconds, clock
        self.segment = 0
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.about: dict[str, Any] = {}

    def segment_of(self, hand: HandWritten, repeats: int) -> int:
        """Return a multiple of ``repeats`` steps that take about the wanted time; this also warms up."""
        self.segment = repeats * math.ceil(10 / repeats)
        self.time(hand)
        return repeats * max(1, round(1e3 * self.seconds / self.time(hand) / repeats))

    def time(self, hand: HandWritten) -> float:
        """Return the milliseconds of a step, over one segment."""
        with without_lightning():
            started = self.clock()
            for _ in range(self.segment):
                hand.step()
            return 1e3 * (self.clock() - started) / self.segment

    def stop(self, trainer: Trainer) -> None:
        """End the run without a last evaluation."""
        trainer.should_stop = True
        trainer.limit_val_batches = 0

    def figures(self) -> dict[str, Any]:
        """Return medians and their ratio."""
        ours, theirs = self.ours[1:], self.theirs[1:]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        return {
            "ratio": round(statistics.median(ratios), 4),
            "ratio_quartiles": [round(low, 4), round(high, 4)],
            "ours_ms": round(statistics.median(ours), 4),
            "hand_written_ms": round(statistics.median(theirs), 4),
            "pairs": len(ratios),
            "segment": self.segment,
            **self.about,
        }


class AgainstByHand(Meter):
    """Compare both sides, then let segments of the trainer and of the hand-written loop take turns."""

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        if not isinstance(pl_module, GAN):
            raise InputError(f"{type(pl_module).__name__} is no GAN")
        make, data = factory(pl_module), trainer.datamodule
        interval = getattr(pl_module.augmentation, "interval", 1)
        self.about["same"] = compare_sides(make, data, steps=max(4, period(pl_module), interval) + 1)
        torch.manual_seed(0)
        self.hand = HandWritten(make(), data, callback_of(trainer, EMA), callback_of(trainer, LearningRate))
        self.segment = self.segment_of(self.hand, period(pl_module))
        parts = [*pl_module.generator.modules(), *pl_module.discriminator.modules()]
        convolutional = any("conv" in type(part).__name__.lower() for part in parts)
        self.about["limit"] = LIMITS["convolutional" if convolutional else "perceptrons"]
        self.steps, self.started = 0, self.clock()

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, *args: Any) -> None:
        self.steps += 1
        if self.steps % self.segment:
            return
        self.ours.append(1e3 * (self.clock() - self.started) / self.segment)
        self.theirs.append(self.time(self.hand))
        if len(self.ours) > self.pairs:
            self.stop(trainer)
        self.started = self.clock()


class PlainGenerator(nn.Module):
    """A generator's layers without the option to be conditional."""

    def __init__(self, network: MLPGenerator | DCGANGenerator, shape: tuple[int, int, int]):
        super().__init__()
        self.net, self.latent_dim, self.shape = network.net, network.latent_dim, shape
        self.maps = isinstance(network, DCGANGenerator)

    def forward(self, latent: Tensor, labels: None = None) -> Tensor:
        return self.net(latent[:, :, None, None]) if self.maps else self.net(latent).unflatten(1, self.shape)


class PlainDiscriminator(nn.Module):
    """A discriminator's layers without the option to be conditional."""

    def __init__(self, network: MLPDiscriminator | DCGANDiscriminator):
        super().__init__()
        self.net, self.maps = network.net, isinstance(network, DCGANDiscriminator)

    def forward(self, images: Tensor, labels: None = None) -> Tensor:
        return torch.flatten(self.net(images)) if self.maps else self.net(torch.flatten(images, 1)).squeeze(1)


class AgainstPlain(Meter):
    """Let the hand-written loop take turns with networks that could be conditional, and with others that could not."""

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        known = isinstance(pl_module.generator, MLPGenerator | DCGANGenerator)
        if not known or not isinstance(pl_module.discriminator, MLPDiscriminator | DCGANDiscriminator):
            raise InputError("only perceptrons and DCGAN's networks are known without their option")
        if pl_module.conditional or pl_module.auxiliary is not None:
            raise InputError("its networks are conditional")
        make, data = factory(pl_module), trainer.datamodule
        plain = make()
        plain.generator = PlainGenerator(plain.generator, plain.spec.shape)
        plain.discriminator = PlainDiscriminator(plain.discriminator)
        sides = [HandWritten(model, data) for model in (make(), plain)]
        self.segment, _ = (self.segment_of(side, period(pl_module)) for side in sides)
        self.about["limit"] = None
        for turn in range(self.pairs + 1):
            # Whoever comes first is first in every other pair only.
            for side, times in list(zip(sides, (self.ours, self.theirs), strict=True))[:: 1 if turn % 2 else -1]:
                times.append(self.time(side))
        self.stop(trainer)


def measure(config: str, options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """Run `lightning fit` with the measuring callback, and return its line."""
    kinds = {"steps": AgainstByHand, "conditional": AgainstPlain}
    meter = kinds[options.part](options.pairs, options.seconds, CLOCKS[options.clock])
    original = training.TrainingCLI._instantiate_trainer

    def with_meter(cli: Any, config: Any, callbacks: Any) -> Trainer:
        trainer = original(cli, config, callbacks)
        trainer.callbacks.append(meter)
        return trainer

    training.TrainingCLI._instantiate_trainer = with_meter
    far = {"--budget.images": FAR, "--budget.minutes": "null", "--evaluation.every": FAR, "--checkpoint.every": FAR}
    screen, sys.stderr = sys.stderr, Terminal()
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            given = {"--config": config, "--run.root": folder, "--run.threads": torch.get_num_threads(), **far}
            given |= {"--trainer.accelerator": "cpu", "--trainer.devices": 1}
            training.run("fit", ["fit", *(str(word) for item in given.items() for word in item), *overrides])
    except SystemExit:
        said = sys.stderr.getvalue().strip().splitlines()
        return {"skipped": (said[-1] if said else "no reason given").removeprefix("error: ")}
    finally:
        sys.stderr = screen
        training.TrainingCLI._instantiate_trainer = original
    line = meter.figures()
    if options.limit is not None:
        line["limit"] = options.limit
    return line | {"met": None if line["limit"] is None else line["ratio"] <= line["limit"]}


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="extend", nargs="+", default=[], help="all GANs that ship if none is given")
    parser.add_argument("--part", choices=PARTS, default="steps")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a segment")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--limit", type=float, default=None, help="1.10 for perceptrons, else 1.05, if not given")
    options, overrides = parser.parse_known_args(args)
    if options.pairs < 2:
        parser.error("quartiles need --pairs of at least 2")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder = cli.configs_folder()
    shipped = [folder / "quickstart.yaml", *sorted((folder / "gan").glob("*.yaml"))]
    configs = options.config or [str(path.relative_to(folder.parent)) for path in shipped]
    try:
        found = [cli.find_config(config) for config in configs]
    except InputError as error:
        cli.fail(str(error))
    common = surroundings("gan_steps", args) | {"comparison": PARTS[options.part], "clock": options.clock}
    for config, file in zip(configs, found, strict=True):
        line = common | {"config": config} | measure(file, options, overrides)
        print(json.dumps(finite(line), allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
