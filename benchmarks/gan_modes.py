"""Mode coverage: GANs on the grid of 25 Gaussians, and real points for comparison.

    python benchmarks/gan_modes.py --config configs/gan/relativistic-gaussian-grid.yaml \\
        configs/gan/mlp-gaussian-grid.yaml --runs runs/modes --jobs 2 > gan_modes.jsonl
    python benchmarks/table.py gan_modes.jsonl

A config is trained by ``lightning fit --config FILE --seed_everything SEED --run.root RUNS``, in a process of its own
on one thread; a finished run of it that lies in ``--runs`` is scored as it is. From its averaged weights n points are
drawn. A mode is covered if a point lies within three deviations of its centre, and such points are of high quality.
Prints one JSON line for real points, of the validation part, and one for each config: both figures of every seed, and
whether every seed covers all modes with at least 95 % of high quality.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: models this small are fastest, and times comparable, on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from digits import finished_run, printer, run_script, source_of, spread, surroundings, train_at_once

from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.data import GaussianGrid
from lightning_gen.metrics import ModeCoverage
from lightning_gen.metrics.base import FeatureSet, figure_name
from lightning_gen.models import load
from lightning_gen.models.checkpoint import load_data, read_checkpoint

DEVIATIONS = 3  # radius of high quality
HIGH_QUALITY = 0.95


def coverage(source: GaussianGrid) -> ModeCoverage:
    """Return the metric of a source's modes."""
    return ModeCoverage(source.side, source.spacing, DEVIATIONS * source.deviation)


def figures(metric: ModeCoverage, levels: torch.Tensor) -> dict[str, float]:
    """Return ``modes_pixels`` and ``high_quality_pixels`` of points, uint8 (n, 2, 1, 1)."""
    found = metric.score(FeatureSet(len(levels), pixels=levels.flatten(1)))
    return {figure_name(key, ""): value for key, value in found.items()}


def row(name: str, kind: str, metric: ModeCoverage, seeds: Sequence[int], found: Sequence[dict], **more: Any) -> dict:
    """Return one row: figures over seeds, what they should be, and what only this row has."""
    modes = metric.side**2
    return {
        "row": name,
        "kind": kind,
        "seeds": list(seeds),
        **{figure: spread([one[figure] for one in found]) for figure in found[0]},
        "target": {"modes": modes, "high_quality": HIGH_QUALITY, "radius": metric.radius},
        "met_by_every_seed": all(
            one["modes_pixels"] == modes and one["high_quality_pixels"] >= HIGH_QUALITY for one in found
        ),
        **more,
    }


def real_row(source: GaussianGrid, n: int) -> dict:
    """Return the row of real points."""
    metric, levels = coverage(source), torch.from_numpy(source.load("val").levels)
    return row("real points", "floor", metric, [], [figures(metric, levels[:n])], n=min(n, len(levels)))


def check_data(config: str) -> None:
    """Raise InputError for a missing config, or one whose data are no grid of Gaussians."""
    name = source_of(config)["class_path"]
    if not name.endswith("GaussianGrid"):
        raise InputError(f"{config}: its data are {name}, not lightning_gen.data.GaussianGrid")


def config_row(config: str, options: argparse.Namespace) -> dict:
    """Return the row of a config, of one finished run per seed."""
    found, summaries = [], []
    for seed in options.seeds:
        run = finished_run(config, seed, Path(options.runs))
        checkpoint = read_checkpoint(run.last)
        model, source = load(run.last, checkpoint=checkpoint), load_data(checkpoint).source
        metric = coverage(source)
        generator = keyed_generator(seed, "modes")
        found.append(figures(metric, model.sample(options.n, generator=generator)))
        summaries.append(run.summary() | {"run": str(run.path)})
    return row(
        config,
        "config",
        metric,
        options.seeds,
        found,
        n=options.n,
        seconds=spread([summary["seconds"] for summary in summaries]),
        images_seen=[summary["images_seen"] for summary in summaries],
        parameters=summaries[0]["parameters"],
        runs=[summary["run"] for summary in summaries],
        runs_git_commit=sorted({str(summary["git_commit"]) for summary in summaries}),
    )


def parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action="extend", nargs="+", default=[], help="configs of `lightning fit`; may be repeated"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=2500, help="points drawn from every model")
    parser.add_argument("--runs", default=None, help="folder of runs, kept; a temporary one if not given")
    parser.add_argument("--jobs", type=int, default=1, help="runs to train at once, each on one thread")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    options = parse(args)

    def work() -> None:
        show = printer(surroundings("gan_modes", args))
        show(real_row(GaussianGrid(), options.n))
        for config in options.config:
            train_at_once([config], options.seeds, Path(options.runs), options.jobs)
            show(config_row(config, options))

    run_script(options, work, check_data)


if __name__ == "__main__":
    main()
