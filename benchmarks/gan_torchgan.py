"""Fashion-MNIST in equal time: a config of ours against torchgan's DCGAN, scored by the same code.

    pip install --no-deps torchgan==0.1.0        # perhaps with --target FOLDER, and FOLDER in PYTHONPATH
    python benchmarks/gan_torchgan.py --config configs/gan/dcgan-fashion-mnist.yaml --minutes 20 --runs runs/torchgan \\
        --part test > gan_torchgan.jsonl
    python benchmarks/table.py gan_torchgan.jsonl

Ours is ``lightning fit --config FILE --budget.minutes M``, evaluations and checkpoints included, sampled from the
averaged weights. torchgan's trainer stops at the end of its first epoch with current torchvision, so its networks and
losses run in a bare loop, generator first as there, which spends its time on nothing else. Images are padded to 32 x 32
for its networks, and samples are cropped to 28 x 28. Its recipes, all with Adam of betas 0.5 and 0.999:

- ``paper``: 32 channels, learning rates 2e-4 (as in DCGAN's paper and torchgan's starter example), batch 64, minimax;
- ``starter``: torchgan's starter example, 16 channels, learning rates 2e-4, batch 128, minimax;
- ``tutorial``: torchgan's tutorial on grey images, 32 channels, learning rates 1e-4 and 3e-4, batch 64, least squares.

Every run is a process of its own on one thread; they come one after the other, or with ``--at_once`` side by side. Our
minutes are of the clock, theirs of the processor: where other programs want the same cores, it is ours that are cut.
What lies finished in ``--runs`` is scored as it is. Held-out images are the validation part unless ``--part test`` is
given, which is for published tables only. Prints one JSON line per row (mean,
sample standard deviation and value of each seed), and the ratio of our to each of torchgan's held-out distances.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: times are comparable on one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import importlib.metadata
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

from digits import (
    Scorer,
    config_row,
    criterion,
    finished_run,
    fit_apart,
    fit_arguments,
    printer,
    row,
    run_script,
    scoring,
    surroundings,
)

from lightning_gen.core.errors import InputError
from lightning_gen.core.files import write_atomically
from lightning_gen.data import FashionMNIST
from lightning_gen.data.stream import TrainStream
from lightning_gen.metrics import FashionMNISTExtractor

INSTALL = "torchgan is not installed: pip install --no-deps torchgan==0.1.0"
RECIPES = {
    "paper": {"channels": 32, "rates": (2e-4, 2e-4), "batch_size": 64, "loss": "Minimax"},
    "starter": {"channels": 16, "rates": (2e-4, 2e-4), "batch_size": 128, "loss": "Minimax"},
    "tutorial": {"channels": 32, "rates": (1e-4, 3e-4), "batch_size": 64, "loss": "LeastSquares"},
}
LATENTS, PADDING = 100, 2


# --- torchgan's side --------------------------------------------------------------------------------------------------


def torchgan_generator(channels: int) -> torch.nn.Module:
    """Return torchgan's generator of grey images of 32 x 32."""
    from torchgan.models import DCGANGenerator

    return DCGANGenerator(encoding_dims=LATENTS, out_size=32, out_channels=1, step_channels=channels)


def train_torchgan(recipe: str, seed: int, minutes: float, levels: Tensor, to_unit: Callable[[Tensor], Tensor]) -> dict:
    """Train torchgan's DCGAN for so many minutes.

    Args:
        recipe: name of its settings.
        seed: of weights, noise and the order of images.
        minutes: of the loop alone, in processor time.
        levels: training images (N, 1, 28, 28).
        to_unit: maps them to [-1, 1].

    Returns:
        the generator's state, images seen, seconds and numbers of parameters.
    """
    from torchgan import losses
    from torchgan.models import DCGANDiscriminator

    options = RECIPES[recipe]
    torch.manual_seed(seed)
    generator = torchgan_generator(options["channels"])
    critic = DCGANDiscriminator(in_size=32, in_channels=1, step_channels=options["channels"])
    generator_loss = getattr(losses, f"{options['loss']}GeneratorLoss")()
    critic_loss = getattr(losses, f"{options['loss']}DiscriminatorLoss")()
    generator_optimizer, critic_optimizer = (
        torch.optim.Adam(network.parameters(), lr=rate, betas=(0.5, 0.999), fused=True)
        for network, rate in zip((generator, critic), options["rates"], strict=True)
    )
    batches, seen, n = iter(TrainStream(levels, None, options["batch_size"], seed)), 0, options["batch_size"]
    started, begun = time.monotonic(), time.process_time()
    while time.process_time() - begun < 60 * minutes:  # of its own, which other programs on the machine do not shorten
        real = F.pad(to_unit(next(batches).levels), (PADDING,) * 4, value=-1.0)
        critic.requires_grad_(False)
        generator_optimizer.zero_grad()
        generator_loss(critic(generator(torch.randn(n, LATENTS)))).backward()
        generator_optimizer.step()
        critic.requires_grad_(True)
        critic_optimizer.zero_grad()
        with torch.no_grad():
            fake = generator(torch.randn(n, LATENTS))
        critic_loss(critic(real), critic(fake)).backward()
        critic_optimizer.step()
        seen += n
    return {
        "generator": generator.state_dict(),
        "images_seen": seen,
        "seconds": time.monotonic() - started,
        "processor_seconds": time.process_time() - begun,
        "parameters": {
            name: sum(p.numel() for p in network.parameters())
            for name, network in (("generator", generator), ("discriminator", critic))
        },
    }


def sample_torchgan(generator: torch.nn.Module, n: int, seed: int, to_levels: Callable[[Tensor], Tensor]) -> Tensor:
    """Draw levels (n, 1, 28, 28) from a generator in evaluation mode."""
    random = torch.Generator().manual_seed(seed)
    inside = slice(PADDING, -PADDING)
    with torch.no_grad():
        latents = torch.randn(n, LATENTS, generator=random).split(500)
        return torch.cat([to_levels(generator.eval()(latent)[:, :, inside, inside]) for latent in latents])


def torchgan_file(recipe: str, seed: int, options: argparse.Namespace) -> Path:
    """Return where the finished run of a recipe lies."""
    return Path(options.runs) / "torchgan" / f"{recipe}-seed{seed}-{options.minutes:g}min.pt"


def train_apart(recipe: str, seed: int, options: argparse.Namespace) -> None:
    """Train a recipe in a process of its own, where it is not finished yet.

    Raises:
        InputError: with the last line that it said, where it fails.
    """
    file = torchgan_file(recipe, seed, options)
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--train", str(file), "--recipe", recipe, "--seeds", str(seed)]
    command += ["--minutes", str(options.minutes), *(["--root", options.root] if options.root else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise InputError(f"torchgan's recipe {recipe} failed: {last}")
    print(f"done: torchgan, {recipe}, seed {seed}", file=sys.stderr)


# --- both sides -------------------------------------------------------------------------------------------------------


def torchgan_row(recipe: str, scorer: Scorer, options: argparse.Namespace) -> dict:
    """Return the row of a recipe, one run per seed."""
    runs = [torch.load(torchgan_file(recipe, seed, options), weights_only=True) for seed in options.seeds]
    figures = []
    for seed, run in zip(options.seeds, runs, strict=True):
        generator = torchgan_generator(RECIPES[recipe]["channels"])
        generator.load_state_dict(run["generator"])
        figures.append(scorer.levels(sample_torchgan(generator, options.n, seed, scorer.data.spec.to_levels)))
    return row(
        f"torchgan's DCGAN, {recipe}",
        "torchgan",
        options.seeds,
        figures,
        [run["seconds"] for run in runs],
        n=options.n,
        recipe=RECIPES[recipe],
        images_seen=[run["images_seen"] for run in runs],
        processor_seconds=[run["processor_seconds"] for run in runs],
        parameters=runs[0]["parameters"],
    )


def train_ours(config: str, seed: int, options: argparse.Namespace) -> None:
    """Train a config for so many minutes in a process of its own, where it is not finished yet."""
    where = config, seed, Path(options.runs), options.budget
    if finished_run(*where) is None:
        fit_apart(fit_arguments(*where))


def compare(options: argparse.Namespace, args: Sequence[str]) -> None:
    """Train whatever is not finished, and print the lines."""
    jobs = [(train_ours, config, seed) for seed in options.seeds for config in options.config]
    jobs += [(train_apart, recipe, seed) for seed in options.seeds for recipe in options.recipe]
    with ThreadPoolExecutor(os.cpu_count() if options.at_once else 1) as pool:
        list(pool.map(lambda job: job[0](*job[1:], options), jobs))
    scorer = Scorer(options.part, FashionMNIST(options.root), FashionMNISTExtractor())
    common = surroundings("gan_torchgan", args) | scoring(scorer, options.n)
    common |= {"minutes": options.minutes, "at_once": options.at_once}
    common["versions"]["torchgan"] = importlib.metadata.version("torchgan")
    show = printer(common)
    floor, _ = map(show, scorer.controls(options.n))
    ours = [show(config_row(config, scorer, options, "seconds")) for config in options.config]
    theirs = [show(torchgan_row(recipe, scorer, options)) for recipe in options.recipe]
    for mine in ours:
        for other in theirs:
            show(criterion("below torchgan in equal time", mine, other, 1.0, scorer.figures[0]))
        show(criterion("beside the floor", mine, floor, None, scorer.figures[0]))


def parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action="extend", nargs="+", default=[], help="configs of `lightning fit`; may be repeated"
    )
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=["paper"], help="of torchgan")
    parser.add_argument("--minutes", type=float, default=20.0, help="of every run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n", type=int, default=10_000, help="samples of every row but the floor")
    parser.add_argument("--part", choices=("val", "test"), default="val", help="the held-out part")
    parser.add_argument("--root", default=None, help="folder of Fashion-MNIST's files")
    parser.add_argument("--runs", default=None, help="folder of runs, kept; a temporary one if not given")
    parser.add_argument("--at_once", action="store_true", help="as many runs at once as there are cores")
    parser.add_argument("--train", default=None, help=argparse.SUPPRESS)  # a process that trains one recipe, to a file
    options = parser.parse_args(args)
    options.budget = {"minutes": options.minutes}
    options.checkpoint = "last"
    return options


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    options = parse(args)

    def work() -> None:
        if importlib.util.find_spec("torchgan") is None:
            raise InputError(INSTALL)
        if options.train is None:
            compare(options, args)
            return
        source = FashionMNIST(options.root)
        levels = torch.from_numpy(source.load("train").levels)
        trained = train_torchgan(options.recipe[0], options.seeds[0], options.minutes, levels, source.spec.to_unit)
        write_atomically(Path(options.train), lambda temporary: torch.save(trained, temporary))

    run_script(options, work)


if __name__ == "__main__":
    main()
