"""The same perceptron VAE in equal time: ``lightning fit``, pythae's trainer, and a bare loop.

    pip install --no-deps --target FOLDER pythae==0.1.2     # and FOLDER in PYTHONPATH
    python benchmarks/vae_pythae.py --minutes 5 --seeds 0 1 2 > vae_pythae.jsonl
    python benchmarks/vae_pythae.py --data digits --minutes 0.1      # a quick look

All sides train 784-1024-16 with its mirror (ours, made by the same classes from the same seeds) on the same images with
the same optimizer, Adam of one learning rate, in batches of 128, on one thread. Ours and the bare loop take PyTorch's
fused Adam, as our configs do; pythae is run as it comes, and once more told to take the fused one, which computes the
same faster. The loss is pythae's "mse",

    1/2 sum (x - tanh f(z))^2 + KL(q(z|x) || N(0, I)),

of unit values: up to a constant the ELBO of Gaussian pixels of standard deviation 1 that are not discretized, so it is
no bound on the probability of the levels. Ours gets it as the likelihood ``SquaredError`` of this file. The bare loop
keeps the images as floats and does nothing but the step.

With one seed all sides train in one process, each in a thread of its own, and take turns: one trains for a second while
the others wait, so that whatever else the machine does meets all of them. Seconds are those of a side's own turns, from
its first step on; images per second are over these. Ours has its progress bar and CSV log, pythae its progress bar,
none evaluates. What comes out is compared by the loss of held-out images, by one function, with the same noise. Prints
one JSON line per side (mean, sample standard deviation and value of each seed), then two per comparison: the ratio of
images per second, which against pythae as it comes is to be at least 1.1, and the difference of losses.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: times are comparable on one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import contextlib
import ctypes
import importlib.metadata
import importlib.util
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

from digits import printer, row, surroundings

from lightning_gen import cli
from lightning_gen.commands import training
from lightning_gen.core.errors import InputError
from lightning_gen.data import Digits, FashionMNIST, Source
from lightning_gen.distributions import PixelLikelihood
from lightning_gen.models import load
from lightning_gen.networks import MLPDecoder, MLPEncoder
from lightning_gen.runs import RunFolder

INSTALL = "pythae is not installed: pip install --no-deps --target FOLDER pythae==0.1.2, and FOLDER in PYTHONPATH"
WIDTH, LATENTS, BATCH = 1024, 16, 128
FAR = 1_000_000_000
FASTER = 1.1  # images per second of ours over pythae's, at least
NOISES = 10
TURN = 1.0  # seconds that a side trains before the next one does


class SquaredError(PixelLikelihood):
    """Half the squared distance to tanh of what the decoder gives, in unit values: pythae's "mse", no probability."""

    @property
    def out_channels(self) -> int:
        return self.spec.channels

    def squares(self, levels: Tensor, theta: Tensor) -> Tensor:
        return F.mse_loss(torch.tanh(theta), self.spec.to_unit(levels, theta.dtype), reduction="none")

    def log_prob_map(self, levels: Tensor, theta: Tensor) -> Tensor:
        return -0.5 * self.squares(levels, theta).sum(1)

    def log_prob(self, levels: Tensor, theta: Tensor) -> Tensor:
        return -0.5 * self.squares(levels, theta).flatten(1).sum(1)  # in one pass

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        return self.spec.to_levels(torch.tanh(theta))

    def mean(self, theta: Tensor) -> Tensor:
        return torch.tanh(theta)


class Turns:
    """Lets the sides train by turns: of their threads one runs, the others wait.

    Args:
        names: of the sides, in the order of their turns.
        seconds: of steps that each side has in all.
        turn: seconds of one turn.
    """

    def __init__(self, names: Sequence[str], seconds: float, turn: float = TURN):
        self.names = list(names)
        self.limit, self.turn = seconds, turn
        self.spent = dict.fromkeys(names, 0.0)
        self.since = 0.0
        self._changed = threading.Condition()

    def wait(self, name: str) -> None:
        """Return when it is this side's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self.names[0] == name)
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self.since = time.perf_counter()

    def over(self, name: str) -> bool:
        """Tell after a step whether the side's time is up; where only its turn is, let the others train meanwhile."""
        now = time.perf_counter()
        taken = now - self.since
        if up := self.spent[name] + taken >= self.limit:
            self.spent[name] += taken
        elif taken >= self.turn:
            self.spent[name] += taken
            with self._changed:
                self.names.append(self.names.pop(0))
                self._changed.notify_all()
            self.wait(name)
        return up

    def leave(self, name: str) -> None:
        """Take no further turns."""
        with self._changed:
            self.names.remove(name)
            self._changed.notify_all()


class Trained(NamedTuple):
    """What a side comes back with."""

    encoder: nn.Module
    decoder: nn.Module
    images_seen: int
    seconds: float


class Clock(NamedTuple):
    """One side's view of the turns: when steps begin, and after each of them whether the time is up."""

    turns: Turns
    name: str

    def begin(self) -> None:
        self.turns.begin()

    def over(self) -> bool:
        return self.turns.over(self.name)

    @property
    def seconds(self) -> float:
        return self.turns.spent[self.name]


class Task(NamedTuple):
    """What all sides are given."""

    source: Source
    levels: Tensor
    learning_rate: float

    def networks(self, seed: int) -> tuple[MLPEncoder, MLPDecoder]:
        """Return fresh networks."""
        torch.manual_seed(seed)
        spec = self.source.spec
        encoder = MLPEncoder(spec, 2 * LATENTS, widths=(WIDTH,))
        return encoder, MLPDecoder(spec, LATENTS, spec.channels, widths=(WIDTH,))


# --- sides ------------------------------------------------------------------------------------------------------------


class OurTurns(Callback):
    """Tells the clock of each step, and ends the run when the time is up."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.begin()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop |= self.clock.over()


def train_ours(task: Task, seed: int, clock: Clock) -> Trained:
    """Run `lightning fit` from a config file, as users do."""
    network = {"init_args": {"widths": [WIDTH]}}
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": task.learning_rate, "fused": True}}
    source = type(task.source)
    model = {
        "encoder": {"class_path": "lightning_gen.networks.MLPEncoder", **network},
        "decoder": {"class_path": "lightning_gen.networks.MLPDecoder", **network},
        "optimizer": adam,
        "latent_dim": LATENTS,
        "likelihood": "vae_pythae.SquaredError",
    }
    config = {
        "model": {"class_path": "lightning_gen.models.VAE", "init_args": model},
        "data": {
            "class_path": "lightning_gen.data.ImageDataModule",
            "init_args": {
                "source": {
                    "class_path": f"lightning_gen.data.{source.__name__}",
                    "init_args": {"root": task.source.root} if hasattr(task.source, "root") else {},
                },
                "batch_size": BATCH,
            },
        },
        "seed_everything": seed,
        "budget": {"images": FAR},
        "ema": {"half_life": 0},
        "evaluation": {"every": FAR, "likelihood": False},
        "checkpoint": {"every": FAR},
        "diagnostics": {"n": 0},
        "grid": {"n": 0},
        "run": {"threads": torch.get_num_threads()},
        "trainer": {"accelerator": "cpu", "devices": 1},
    }
    original = training.TrainingCLI._instantiate_trainer

    def with_turns(cli: Any, options: Any, callbacks: Any) -> Trainer:
        trainer = original(cli, options, callbacks)
        trainer.callbacks.append(OurTurns(clock))
        return trainer

    with tempfile.TemporaryDirectory(prefix="vae_pythae_") as folder:
        file = Path(folder) / "vae.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        with mock.patch.object(training.TrainingCLI, "_instantiate_trainer", with_turns):
            training.run("fit", ["fit", "--config", str(file), "--run.root", folder])
        run = RunFolder(Path(folder) / "vae" / "version_0")
        model = load(run.last, trust=("vae_pythae",))
        return Trained(model.encoder, model.decoder, model.images_seen, clock.seconds)


def train_pythae(task: Task, seed: int, clock: Clock, fused: bool = False) -> Trained:
    """Run pythae's trainer on its model with our networks, until the time is up."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Encoder(BaseEncoder):
        def __init__(self, network: nn.Module):
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> ModelOutput:
            mean, log_variance = self.network(x).chunk(2, 1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self, network: nn.Module):
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.tanh(self.network(z)))

    class TimeIsUp(Exception):
        pass

    class TheirTurns(TrainingCallback):
        steps = 0

        def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
            self.steps += 1
            if clock.over():
                raise TimeIsUp

        def on_train_begin(self, training_config: Any, **kwargs: Any) -> None:
            clock.begin()

    encoder, decoder = task.networks(seed)
    unit = task.source.spec.to_unit(task.levels)
    config = VAEConfig(input_dim=tuple(unit.shape[1:]), latent_dim=LATENTS, reconstruction_loss="mse")
    counter, passes = TheirTurns(), len(unit) / BATCH
    with tempfile.TemporaryDirectory(prefix="vae_pythae_") as folder:
        options = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=FAR,
            learning_rate=task.learning_rate,
            per_device_train_batch_size=BATCH,
            optimizer_cls="Adam",
            optimizer_params={"fused": True} if fused else None,
            no_cuda=True,
            seed=seed,
        )
        model = VAE(config, Encoder(encoder), Decoder(decoder))
        trainer = BaseTrainer(
            model, BaseDataset(unit, torch.zeros(len(unit))), training_config=options, callbacks=[counter]
        )
        with contextlib.suppress(TimeIsUp):
            trainer.train()
    # The last batch of a pass is smaller.
    whole, rest = divmod(counter.steps, math.ceil(passes))
    return Trained(encoder, decoder, whole * len(unit) + rest * BATCH, clock.seconds)


def train_bare(task: Task, seed: int, clock: Clock) -> Trained:
    """Take steps and nothing else."""
    encoder, decoder = task.networks(seed)
    unit = task.source.spec.to_unit(task.levels)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=task.learning_rate, fused=True)
    seen = 0
    clock.begin()
    while True:
        for rows in torch.randperm(len(unit)).split(BATCH):
            x = unit[rows]
            mean, log_variance = encoder(x).chunk(2, 1)
            latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            error = 0.5 * (x - torch.tanh(decoder(latent))).square().flatten(1).sum(1)
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
            optimizer.zero_grad()
            (error + kl).mean().backward()
            optimizer.step()
            seen += len(rows)
            if clock.over():
                return Trained(encoder, decoder, seen, clock.seconds)


SIDES: dict[str, Callable[[Task, int, Clock], Trained]] = {
    "lightning fit": train_ours,
    "pythae's trainer": train_pythae,
    "pythae's trainer, fused Adam": partial(train_pythae, fused=True),
    "bare loop": train_bare,
}


def train_all(task: Task, seed: int, minutes: float, names: Sequence[str]) -> dict[str, Trained]:
    """Train all sides by turns, the first of ``names`` first."""
    # Under glibc, which alone has this, further threads would get their memory in another way than the first.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(ctypes.c_int(-8), ctypes.c_int(1))  # M_ARENA_MAX
    turns = Turns(names, 60 * minutes)

    def train(name: str) -> Trained:
        turns.wait(name)
        try:
            return SIDES[name](task, seed, Clock(turns, name))
        finally:
            turns.leave(name)

    first, *others = SIDES  # ours, which handles signals and therefore wants the main thread
    with ThreadPoolExecutor(len(others)) as threads:
        waiting = {name: threads.submit(train, name) for name in others}
        return {first: train(first)} | {name: future.result() for name, future in waiting.items()}


# --- what comes out ---------------------------------------------------------------------------------------------------


def held_out_loss(trained: Trained, task: Task, part: str) -> float:
    """Return the mean loss of held-out images, nats up to a constant, over ten noises each."""
    unit = task.source.spec.to_unit(torch.from_numpy(task.source.load(part).levels))
    generator, losses = torch.Generator().manual_seed(0), []
    encoder, decoder = trained.encoder.eval(), trained.decoder.eval()
    with torch.no_grad():
        for x in unit.split(1000):
            mean, log_variance = encoder(x).chunk(2, 1)
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
            errors = []
            for _ in range(NOISES):
                latent = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=generator)
                errors.append(0.5 * (x - torch.tanh(decoder(latent))).square().flatten(1).sum(1))
            losses.append(torch.stack(errors).mean(0) + kl)
    return float(torch.cat(losses).double().mean())


def comparisons(rows: dict[str, dict]) -> list[dict[str, Any]]:
    """Return how ours stands to pythae and to the bare loop: speed as a ratio, losses as a difference."""
    ours, lines = rows["lightning fit"], []
    for other in rows.values():
        if other is ours:
            continue
        against_pythae = other["kind"] == "pythae"
        speeds, losses = (
            list(zip(ours[name]["values"], other[name]["values"], strict=True))
            for name in ("images_per_second", "held_out_loss")
        )
        ratio = ours["images_per_second"]["mean"] / other["images_per_second"]["mean"]
        pair = {"row": ours["row"], "against": other["row"]}
        lines.append(
            {
                "comparison": "images per second, ours / theirs",
                **pair,
                "ratio": ratio,
                "ratio_by_seed": [a / b for a, b in speeds],
                "at_least": FASTER if against_pythae else None,
                "met": ratio >= FASTER if against_pythae else None,
            }
        )
        apart = [a - b for a, b in losses]
        spread = ours["held_out_loss"]["std"], other["held_out_loss"]["std"]
        lines.append(
            {
                "comparison": "held-out loss, ours - theirs, nats",
                **pair,
                "difference": sum(apart) / len(apart),
                "difference_by_seed": apart,
                "spread": None if None in spread else math.hypot(*spread),
            }
        )
    return lines


def compare(options: argparse.Namespace, args: Sequence[str]) -> None:
    """Train every side with every seed, and print the lines."""
    source = Digits() if options.data == "digits" else FashionMNIST(options.root)
    levels = torch.from_numpy(source.load("train").levels)
    task = Task(source, levels, options.learning_rate)
    common = surroundings("vae_pythae", args) | {
        "data": options.data,
        "part": options.part,
        "minutes": options.minutes,
        "learning_rate": options.learning_rate,
        "batch_size": BATCH,
    }
    common["versions"]["pythae"] = importlib.metadata.version("pythae")
    found: dict[str, list[tuple[Trained, float]]] = {name: [] for name in SIDES}
    for turn, seed in enumerate(options.seeds):
        # Whoever comes first with one seed comes last with the next.
        names = list(SIDES)
        order = names[turn % len(names) :] + names[: turn % len(names)]
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for JSON alone
            trained = train_all(task, seed, options.minutes, order)
        for name in names:
            found[name].append((trained[name], held_out_loss(trained[name], task, options.part)))
    show, rows = printer(common), {}
    kinds = dict(zip(SIDES, ("config", "pythae", "pythae, fused", "bare"), strict=True))
    for name, runs in found.items():
        figures = [{"images_per_second": run.images_seen / run.seconds, "held_out_loss": loss} for run, loss in runs]
        seen = [run.images_seen for run, _ in runs]
        seconds = [run.seconds for run, _ in runs]
        rows[name] = show(row(name, kinds[name], options.seeds, figures, seconds, images_seen=seen))
    for line in comparisons(rows):
        show(line)


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of every side and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--data", choices=("fashion-mnist", "digits"), default="fashion-mnist")
    parser.add_argument("--root", default=None, help="folder of Fashion-MNIST's files")
    parser.add_argument("--part", choices=("val", "test"), default="val", help="the held-out part")
    options = parser.parse_args(args)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        if not options.minutes > 0:
            raise InputError(f"--minutes must be above 0, got {options.minutes}")
        if importlib.util.find_spec("pythae") is None:
            raise InputError(INSTALL)
        compare(options, args)
    except InputError as error:
        cli.fail(str(error))


if __name__ == "__main__":
    main()
