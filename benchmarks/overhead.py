"""Time per training step: ``lightning fit`` against a hand-written loop of the same step, interleaved in one process.

    python benchmarks/overhead.py --config configs/quickstart.yaml --limit 1.10
    python benchmarks/overhead.py --config configs/gan/dcgan-fashion-mnist.yaml --limit 1.03

Both sides have equal networks, optimizers, penalties and batches. The hand-written loop contains what a training loop
of this kind contains by definition: the same loader, the EMA, the check that loss and gradients are finite, the counter
of images. Ours has progress bar, CSV logging and all callbacks on. Segments of both alternate; the ratio is the median
over pairs of neighbouring segments. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from lightning.pytorch import Callback

from lightning_gen.callbacks.ema import copy_for_averaging, pair_up
from lightning_gen.commands import training
from lightning_gen.describe import build
from lightning_gen.models import GAN, ImageModule


class HandWritten:
    """The loop that an experienced user would write: one model, no framework."""

    def __init__(self, model: GAN, data, half_life: float, ramp_up: float):
        self.spec, self.loss, self.penalties = model.spec, model.loss, model.penalties
        self.generator, self.critic = model.generator, model.discriminator
        self.generator_optimizer, self.critic_optimizer = model.configure_optimizers()
        self.generator_parameters = list(self.generator.parameters())
        self.critic_parameters = list(self.critic.parameters())
        self.average = copy_for_averaging(self.generator)
        self.pairs = pair_up(self.generator, self.average)
        self.half_life, self.ramp_up = half_life, ramp_up
        self.batches = iter(data.train_dataloader())
        self.images_seen = self.steps = 0

    def finite(self, loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> bool:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        return bool(torch.isfinite(loss.detach() + norm))

    def step(self) -> None:
        batch = next(self.batches)
        real, n = self.spec.to_unit(batch.levels), len(batch.levels)
        self.critic.requires_grad_(True)
        with torch.no_grad():
            fake = self.generator(torch.randn(n, self.generator.latent_dim))
        loss = self.loss.critic(self.critic(real), self.critic(fake)).mean()
        for penalty in self.penalties:
            if self.steps % penalty.every == 0:
                loss = loss + penalty(self.critic, real, fake, None).mean()
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.finite(loss, self.critic_parameters):
            self.critic_optimizer.step()
        self.critic.requires_grad_(False)
        fake_scores = self.critic(self.generator(torch.randn(n, self.generator.latent_dim)))
        real_scores = None
        if self.loss.generator_needs_real:
            with torch.no_grad():
                real_scores = self.critic(real)
        loss = self.loss.generator(real_scores, fake_scores).mean()
        self.generator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.finite(loss, self.generator_parameters):
            self.generator_optimizer.step()
        self.steps += 1
        self.images_seen += n
        if self.half_life:
            share = 1 - 0.5 ** (n / min(self.half_life, self.ramp_up * self.images_seen))
            with torch.no_grad():
                averaged, live, copied_to, copied_from = self.pairs
                torch._foreach_lerp_(averaged, live, share)
                if copied_to:
                    torch._foreach_copy_(copied_to, copied_from)


class SilentTerminal:
    """A terminal that nobody looks at: the progress bar is drawn as for a user, but not on the JSON line's screen."""

    def __init__(self):
        self._file = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process

    def isatty(self) -> bool:
        return True

    def __getattr__(self, name):
        return getattr(self._file, name)


class Interleave(Callback):
    """Every ``segment`` steps of the trainer, run as many of the hand-written loop, and time both."""

    def __init__(self, segment: int, pairs: int, warm_up: int):
        self.segment, self.pairs, self.warm_up = segment, pairs, warm_up
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.steps = 0

    def on_train_start(self, trainer, pl_module) -> None:
        description = pl_module.description()
        twin = build(description, ImageModule, ("lightning_gen", "torch"), spec=pl_module.spec)
        ema = next(c for c in trainer.callbacks if type(c).__name__ == "EMA")
        self.hand = HandWritten(twin, trainer.datamodule, ema.half_life, ema.ramp_up)
        for _ in range(self.warm_up):
            self.hand.step()
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.steps += 1
        if self.steps % self.segment:
            return
        now = time.perf_counter()
        self.ours.append((now - self.started) / self.segment)
        for _ in range(self.segment):
            self.hand.step()
        self.started = time.perf_counter()
        self.theirs.append((self.started - now) / self.segment)
        if len(self.ours) > self.pairs:
            trainer.should_stop = True
            trainer.limit_val_batches = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--segment", type=int, default=200, help="steps of one side before the other's turn")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=None, help="the ratio that the project promises")
    options, overrides = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    interleave = Interleave(options.segment, options.pairs, warm_up=options.segment)
    original = training.TrainingCLI._instantiate_trainer

    def with_interleave(cli, config, callbacks):
        trainer = original(cli, config, callbacks)
        trainer.callbacks.append(interleave)
        return trainer

    training.TrainingCLI._instantiate_trainer = with_interleave
    with tempfile.TemporaryDirectory() as folder:
        fit = ["--config", options.config, "--run.root", folder, "--run.threads", str(options.threads)]
        far = ["--budget.images", "1000000000", "--evaluation.every", "1000000000", "--checkpoint.every", "1000000000"]
        screen, sys.stderr = sys.stderr, SilentTerminal()
        try:
            training.run("fit", ["fit", *fit, *far, *overrides])
        except SystemExit:
            print(f"the run failed; see what `lightning fit {' '.join(fit)}` says", file=screen)
            raise
        finally:
            sys.stderr = screen
    ours, theirs = interleave.ours[1:], interleave.theirs[1:]  # the first pair warms up
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    line = {
        "benchmark": "overhead",
        "config": options.config,
        "ratio": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(quartiles[0], 4), round(quartiles[2], 4)],
        "limit": options.limit,
        "ours_ms": round(1e3 * statistics.median(ours), 4),
        "hand_written_ms": round(1e3 * statistics.median(theirs), 4),
        "pairs": len(ratios),
        "segment": options.segment,
        "threads": options.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "commit": commit.strip() or None,
        "command": " ".join(sys.argv),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
