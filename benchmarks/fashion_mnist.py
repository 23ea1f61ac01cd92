"""Quality on Fashion-MNIST: configs beside the floor, all scored by the same suite of metrics.

    python benchmarks/fashion_mnist.py --config configs/gan/*-fashion-mnist.yaml --images 100000 --jobs 2 \\
        --runs runs/fashion --part test > gan_fashion.jsonl
    python benchmarks/table.py gan_fashion.jsonl

As digits.py does it: one JSON line per row, with mean, sample standard deviation and value of each seed; a config is
trained by ``lightning fit``, and a finished run of it that lies in ``--runs`` is scored as it is. Held-out images are
the 5,000 validation images unless ``--part test`` (10,000) is given, which is for published tables only. Seconds are
those that a run, evaluations included, had a processor, on one thread. The floor is the distance of the real training
part to the real held-out part; the memoriser draws training images again. Without ``--config`` these two are all.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: times are comparable on one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
    surroundings,
    train_at_once,
    with_budget,
)

from lightning_gen.data import FashionMNIST
from lightning_gen.metrics import FashionMNISTExtractor


def compare(options: argparse.Namespace, args: Sequence[str]) -> None:
    """Train whatever is not finished, and print the lines."""
    source = FashionMNIST(options.root)  # before anything is trained: missing files are told now
    source.load("train")
    train_at_once(options.config, options.seeds, Path(options.runs), options.jobs, options.budget)
    scorer = Scorer(options.part, source, FashionMNISTExtractor(), options.draws)
    common = surroundings("fashion_mnist", args) | scoring(scorer, options.n)
    show = printer(common)
    floor, _ = map(show, scorer.controls(options.n))
    for config in options.config:
        mine = show(config_row(config, scorer, options))
        show(criterion("beside the floor", mine, floor, None, scorer.figures[0]))


def parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="extend", nargs="+", default=[], help="configs of `lightning fit`")
    parser.add_argument("--root", default=None, help="folder of Fashion-MNIST's files")
    add_run_options(parser)
    add_draws_option(parser)
    add_checkpoint_option(parser)
    parser.add_argument("--n", type=int, default=10_000, help="samples of every row but the floor")
    return with_budget(parser.parse_args(args))


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    options = parse(args)
    run_script(options, lambda: compare(options, args))


if __name__ == "__main__":
    main()
