"""Quality on digits: GANs, scikit-learn's mixtures and the floor, all scored by the same suite of metrics.

    python benchmarks/digits.py --config configs/quickstart.yaml --config configs/gan/mlp-digits.yaml \\
        --runs runs/benchmark --part test > digits.jsonl
    python benchmarks/table.py digits.jsonl
    python benchmarks/digits.py --config configs/quickstart.yaml configs/gan/*-digits.yaml --images 1000000 --jobs 2 \\
        --runs runs/benchmark --part test > gan_digits.jsonl

Prints one JSON line per row: mean, sample standard deviation and value of each seed, of n samples; then one line per
criterion, the ratio of two rows' figures. Everything is fitted to the 1,097 training images. Held-out images are the
validation part unless ``--part test`` is given, which is for published tables only. ``--images`` gives all configs the
same number of images seen. Class-conditional models are asked for as many samples of each class as there are training
images of it. Seconds are those that a run, evaluations included, or a fit had a processor, on one thread.

Mixtures are ``sklearn.mixture.GaussianMixture`` with full covariances and ``reg_covar=1e-3``, fitted to levels 0 .. 16
as they are, with the seed as ``random_state``; their samples are rounded and clipped to levels. A config is trained by
``lightning fit --config FILE --seed_everything SEED --run.root RUNS``; a finished run of it that lies in ``--runs`` is
scored as it is (its budget must be the one asked for). The floor is the distance of the real training part to the real
held-out part; its precision, recall and Inception Score are of the held-out images in place of samples, so few that
they compare only roughly. The memoriser draws its training images again: what its copy share is, is the ceiling of all.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: models this small are fastest, and times comparable, on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import contextlib
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import yaml
from sklearn.mixture import GaussianMixture

from lightning_gen import cli
from lightning_gen.callbacks.recorder import git_commit, package_versions
from lightning_gen.commands.resume import differences
from lightning_gen.core.errors import InputError
from lightning_gen.core.files import finite
from lightning_gen.data import Digits, ImageDataModule, Source
from lightning_gen.evaluation import draw_samples, sample_labels, set_references
from lightning_gen.metrics import (
    ClassCoverage,
    CopyShare,
    DigitsExtractor,
    Extractor,
    FrechetDistance,
    InceptionScore,
    MetricSuite,
    PrecisionRecall,
    floor,
    memoriser,
)
from lightning_gen.models import GenerativeModule, load
from lightning_gen.runs import RunFolder, versions

HELD_OUT, TRAINING, COPIES, COPIED = "fid_digits_heldout", "fid_digits", "copy_share_pixels", "copied_pixels"
FIGURES = (
    "fid_{}_heldout",
    "fid_{}",
    "precision_{}",
    "recall_{}",
    COPIES,
    COPIED,
    "is_{}",
    "classes_{}",
    "class_distance_{}",
    "label_accuracy_{}",  # of class-conditional models alone
)
ROWS, BIC_LIST = (1, 5, 10, 20, 50), (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50)
FIT = {"covariance_type": "full", "reg_covar": 1e-3}


# --- what is compared -------------------------------------------------------------------------------------------------


class Mixtures:
    """Gaussian mixtures of levels, each fitted once.

    Args:
        levels: training images, uint8 (N, C, H, W).
        top: the highest level.
    """

    def __init__(self, levels: np.ndarray, top: int):
        self.shape, self.top = levels.shape[1:], top
        self.rows = levels.reshape(len(levels), -1).astype(np.float64)
        self.fitted: dict[tuple[int, int], tuple[GaussianMixture, float]] = {}

    def fit(self, components: int, seed: int) -> tuple[GaussianMixture, float]:
        """Return the mixture and the seconds that fitting took."""
        if (components, seed) not in self.fitted:
            started = time.process_time()
            mixture = GaussianMixture(components, random_state=seed, **FIT).fit(self.rows)
            self.fitted[components, seed] = mixture, time.process_time() - started
        return self.fitted[components, seed]

    def choose(self, candidates: Sequence[int], seed: int) -> tuple[int, list[float], float]:
        """Return the number of components with the lowest BIC (Schwarz 1978), all BICs, and seconds of all fits."""
        fits = [self.fit(components, seed) for components in candidates]
        bics = [float(mixture.bic(self.rows)) for mixture, _ in fits]
        return candidates[int(np.argmin(bics))], bics, sum(seconds for _, seconds in fits)

    def sample(self, components: int, seed: int, n: int) -> torch.Tensor:
        """Draw levels, uint8 (n, C, H, W)."""
        rows = self.fit(components, seed)[0].sample(n)[0]
        return torch.from_numpy(np.rint(rows).clip(0, self.top).astype(np.uint8).reshape(n, *self.shape))


class Scorer:
    """The one suite that every row goes through: references are the training part and the held-out part.

    Args:
        part: the held-out part.
        source: real images; digits if not given.
        extractor: of features; the shipped one of digits if not given.
        draws: sets of samples of each model, whose figures are averaged: distances of single ones scatter.
    """

    def __init__(self, part: str, source: Source | None = None, extractor: Extractor | None = None, draws: int = 1):
        self.part, self.draws = part, draws
        self.data = ImageDataModule(source or Digits())
        metrics = [FrechetDistance(), PrecisionRecall(), CopyShare(), InceptionScore(), ClassCoverage()]
        self.suite = MetricSuite(extractor or DigitsExtractor(), metrics)
        self.figures = tuple(figure.format(self.suite.extractor.name) for figure in FIGURES)
        set_references(self.suite, self.data, part)

    def levels(self, levels: torch.Tensor) -> dict[str, float | None]:
        """Return the figures of samples, uint8 (n, C, H, W)."""
        return self.samples(lambda: self.suite.update(levels, torch.arange(len(levels))))

    def model(self, model: GenerativeModule, n: int, seed: int) -> dict[str, float | None]:
        """Return the figures of ``n`` samples of a model, of classes as they are among the training images."""
        labels = sample_labels(model, self.data, n)
        drawn = [
            self.samples(lambda own=seed + 1000 * draw: draw_samples(model, self.suite, n, 500, own, labels))
            for draw in range(self.draws)
        ]
        return {name: None if value is None else mean(one[name] for one in drawn) for name, value in drawn[0].items()}

    def samples(self, feed: Callable[[], None]) -> dict[str, float | None]:
        """Return the figures of what ``feed`` gives to the suite; None for those that it has not."""
        self.suite.reset()
        feed()
        figures = self.suite.compute()
        return {name: figures.get(name) for name in self.figures}

    def controls(self, n: int) -> tuple[dict, dict]:
        """Return the rows of real images: the floor, held-out ones in place of samples, and n training ones again.

        The copy test has no floor but what it expects without copying: a share of 1/2, and no copies.
        """
        real, copies = floor(self.suite), memoriser(self.suite, n)
        fresh, again = ({name: of.get(name) for name in self.figures} for of in (real, copies))
        sizes = [reference.count for reference in self.suite.references.values()]
        return (
            row("floor: real training part against held-out part", "floor", [], [fresh], [0.0], n=sizes),
            row("memoriser: training images drawn again", "memoriser", [], [again], [0.0], n=n),
        )


@contextlib.contextmanager
def runs_folder(options: argparse.Namespace) -> Iterator[None]:
    """Make ``options.runs`` a temporary folder for a while, unless one is given, whose runs are kept."""
    if options.runs is not None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="benchmark_runs_") as options.runs:
        yield
    options.runs = None


def run_script(
    options: argparse.Namespace, work: Callable[[], None], check: Callable[[str], Any] = cli.find_config
) -> None:
    """Do a script's work on one thread, with a folder of runs; bad input is one line and exit code 2.

    Args:
        options: ``config`` and ``runs`` among them.
        work: what is to be done.
        check: called with each config before: a misspelt file is told before anything is trained.
    """
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        for config in options.config:
            check(config)
        with runs_folder(options):
            work()
    except InputError as error:
        cli.fail(str(error))


def printer(common: Mapping[str, Any]) -> Callable[[dict], dict]:
    """Return a function that prints a line with what all lines carry, as soon as it is known, and returns it."""

    def show(line: dict) -> dict:
        print(json.dumps(finite({**line, **common}), allow_nan=False), flush=True)
        return line

    return show


# --- runs -------------------------------------------------------------------------------------------------------------


def source_of(config: str) -> dict[str, Any]:
    """Return the source that a config's images are of, ``{class_path: ..., init_args: ...}``."""
    return content(cli.find_config(config))["data"]["init_args"]["source"]


def content(config: str | Path) -> dict[str, Any]:
    """Return a config file with every class in the long form, ``{class_path: a.B}`` for ``a.B``."""
    given = in_full(yaml.safe_load(Path(config).read_text(encoding="utf-8")))
    data = given["data"]
    if "class_path" not in data:
        given["data"] = {"class_path": "lightning_gen.data.ImageDataModule", "init_args": data.get("init_args", data)}
    return given


def finished_run(config: str, seed: int, root: Path, budget: Mapping[str, Any] | None = None) -> RunFolder | None:
    """Return the newest finished run of a config and seed in ``root``, or None.

    Args:
        config: file.
        seed: of the run.
        root: folder of runs.
        budget: what was given in place of the config's own images or minutes; None is no limit.

    Raises:
        InputError: where that run was made with other values than the config has now.
    """
    config = cli.find_config(config)
    runs = [run for _, run in versions(root / Path(config).stem) if run.is_finished() and run.summary()["seed"] == seed]
    if not runs:
        return None
    run = runs[-1]
    used, given = content(run.path / "config.yaml"), content(config)
    given.pop("run", None)  # where it lies was the command's choice
    given["budget"] = given.get("budget", {}) | dict(budget or {})
    changed = differences(used, given, "config")
    if changed:
        change = changed[0].replace(" in the checkpoint", " there")
        raise InputError(f"{run.path} is of another config ({change}): remove it, or give another --runs folder")
    return run


def fit_arguments(config: str, seed: int, root: Path, budget: Mapping[str, Any] | None = None) -> list[str]:
    """Return the command line that trains a config; arguments as of :func:`finished_run`."""
    given = {f"--budget.{key}": "null" if value is None else str(value) for key, value in (budget or {}).items()}
    command = {"--config": cli.find_config(config), "--seed_everything": str(seed), "--run.root": str(root), **given}
    return ["fit", *(word for option in command.items() for word in option)]


def trained(config: str, seed: int, root: Path, budget: Mapping[str, Any] | None = None) -> RunFolder:
    """Return the newest finished run of a config and seed in ``root``, training it if there is none.

    Raises:
        InputError: where the run that is there was made with other values than the config has now.
    """
    run = finished_run(config, seed, root, budget)
    if run is None:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for JSON alone
            cli.main(fit_arguments(config, seed, root, budget))
        run = finished_run(config, seed, root, budget)
    return run


def fit_apart(arguments: Sequence[str]) -> None:
    """Run `lightning` in a process of its own, on one thread.

    Raises:
        InputError: with the last line that it said, where it fails.
    """
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "lightning_gen", *arguments, "--run.threads", "1"]
    command += ["--trainer.enable_progress_bar", "false"]  # of several at once it would be unreadable
    done = subprocess.run(command, env=os.environ | one_thread, capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode:
        raise InputError(f"`lightning {' '.join(arguments)}` failed: {last}")
    print(last, file=sys.stderr)


def train_at_once(
    configs: Sequence[str], seeds: Sequence[int], root: Path, jobs: int, budget: Mapping[str, Any] | None = None
) -> None:
    """Train every config and seed that has no finished run in ``root``, ``jobs`` at once."""
    missing = [(config, seed) for config in configs for seed in seeds if not finished_run(config, seed, root, budget)]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda job: fit_apart(fit_arguments(*job, root, budget)), missing))


def in_full(value: Any) -> Any:
    """Return config data with every class in the long form, ``{class_path: a.B}`` for ``a.B``."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not (key == "init_args" and not item)}
        return {key: item if key == "class_path" else in_full(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [in_full(item) for item in value]
    is_class = isinstance(value, str) and value.startswith(("lightning_gen.", "torch."))
    return {"class_path": value} if is_class else value


# --- rows -------------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for one value) and the values themselves."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def row(name: str, kind: str, seeds: Sequence[int], figures: Sequence[dict], seconds: Sequence[float], **more) -> dict:
    """Return one row: figures over seeds, and what only this row has."""
    known = {figure: [one[figure] for one in figures] for figure in figures[0]}
    spreads = {figure: None if None in values else spread(values) for figure, values in known.items()}
    return {"row": name, "kind": kind, "seeds": list(seeds), **spreads, "seconds": spread(seconds), **more}


def mixture_row(components: int, mixtures: Mixtures, scorer: Scorer, options: argparse.Namespace) -> dict:
    """Return the row of mixtures with so many components."""
    figures = [scorer.levels(mixtures.sample(components, seed, options.n)) for seed in options.seeds]
    seconds = [mixtures.fit(components, seed)[1] for seed in options.seeds]
    name = f"mixture, {components} component" + "s" * (components > 1)
    return row(name, "mixture", options.seeds, figures, seconds, n=options.n, components=components)


def bic_row(mixtures: Mixtures, scorer: Scorer, options: argparse.Namespace) -> dict:
    """Return the row of mixtures whose components BIC chose for each seed; seconds are those of all candidates."""
    chosen = [mixtures.choose(options.bic, seed) for seed in options.seeds]
    components = [best for best, _, _ in chosen]
    if max(components) == max(options.bic) > 1:
        print(f"note: BIC chose the longest of {options.bic}: lengthen --bic", file=sys.stderr)
    figures = [
        scorer.levels(mixtures.sample(best, seed, options.n))
        for best, seed in zip(components, options.seeds, strict=True)
    ]
    return row(
        "mixture, components by BIC",
        "bic",
        options.seeds,
        figures,
        [seconds for _, _, seconds in chosen],
        n=options.n,
        components=components,
        candidates=list(options.bic),
        bic=[[round(bic, 1) for bic in bics] for _, bics, _ in chosen],
    )


def config_row(config: str, scorer: Scorer, options: argparse.Namespace, clock: str = "processor_seconds") -> dict:
    """Return the row of a config, one run per seed, whose seconds are those of a clock in its summary."""
    figures, summaries = [], []
    for seed in options.seeds:
        run = trained(config, seed, Path(options.runs), options.budget)
        model = load(getattr(run, options.checkpoint))
        figures.append(scorer.model(model, options.n, seed))
        summaries.append(run.summary() | {"run": str(run.path), "samples_from": model.images_seen})
    return row(
        config,
        "config",
        options.seeds,
        figures,
        [summary[clock] for summary in summaries],
        n=options.n,
        checkpoint=options.checkpoint,
        checkpoint_images_seen=[summary["samples_from"] for summary in summaries],
        images_seen=[summary["images_seen"] for summary in summaries],
        parameters=summaries[0]["parameters"],
        runs=[summary["run"] for summary in summaries],
        runs_git_commit=sorted({str(summary["git_commit"]) for summary in summaries}),
    )


def criterion(name: str, mine: dict, other: dict, limit: float | None, figure: str = HELD_OUT) -> dict[str, Any]:
    """Return the ratio of two rows' figures: of their means, and seed by seed (against one value where it has one)."""
    theirs = other[figure]["values"]
    theirs = theirs * len(mine["seeds"]) if len(theirs) == 1 else theirs
    ratios = [a / b for a, b in zip(mine[figure]["values"], theirs, strict=True)]
    ratio = mine[figure]["mean"] / other[figure]["mean"]
    return {
        "criterion": name,
        "row": mine["row"],
        "against": other["row"],
        "figure": figure,
        "ratio": ratio,
        "ratio_by_seed": ratios,
        "limit": limit,
        "met": None if limit is None else ratio <= limit,
        "met_by_every_seed": None if limit is None else max(ratios) <= limit,
    }


def criteria(rows: Sequence[dict]) -> list[dict]:
    """Return the ratios of every config to mixtures and to the floor: of held-out distances, and of copy shares."""
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("config", "bic", "mixture", "floor")}
    best = sorted(by_kind["mixture"], key=lambda row: row[HELD_OUT]["mean"])[:1]
    largest = sorted(by_kind["mixture"], key=lambda row: row["components"])[-1:]
    lines = []
    for mine in by_kind["config"]:
        lines += [criterion("below the mixture of BIC", mine, other, 1.0) for other in by_kind["bic"]]
        lines += [criterion("at most twice the floor", mine, other, 2.0) for other in by_kind["floor"]]
        lines += [criterion("at most 1.4 times the floor", mine, other, 1.4) for other in by_kind["floor"]]
        lines += [criterion("at most the best mixture, chosen by this figure", mine, other, 1.0) for other in best]
        lines += [criterion("copy share below the largest mixture's", mine, other, 1.0, COPIES) for other in largest]
    return lines


def surroundings(script: str, args: Sequence[str]) -> dict[str, Any]:
    """Return what every line of every benchmark carries: its name, command, machine, versions, commit."""
    return {
        "benchmark": script,
        "command": " ".join(["python", f"benchmarks/{script}.py", *args]),
        "machine": f"{cpu_model()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
        "git_commit": git_commit(),
    }


def scoring(scorer: Scorer, n: int) -> dict[str, Any]:
    """Return how n samples are scored: metrics, extractor, the parts of real images, and what a memoriser scores."""
    about = scorer.suite.description()
    parts = {"train": "train", "heldout": scorer.part}
    return {
        "references": {key: {"part": parts[key], **value} for key, value in about["references"].items()},
        "extractor": about["extractor"],
        "extractor_hash": about["extractor_hash"],
        "metrics": about["metrics"],
        "memoriser": memoriser(scorer.suite, n),
    }


def provenance(scorer: Scorer, n: int, args: Sequence[str]) -> dict[str, Any]:
    """Return what every line of this script carries."""
    where = surroundings("digits", args)
    where["versions"]["scikit-learn"] = importlib.metadata.version("scikit-learn")
    return where | scoring(scorer, n)


def cpu_model() -> str:
    """Return what the processor is called."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action="extend", nargs="+", default=[], help="configs of `lightning fit`; may be repeated"
    )
    add_run_options(parser)
    add_draws_option(parser)
    parser.add_argument("--n", type=int, default=2000, help="samples of every row but the floor")
    parser.add_argument("--mixtures", type=int, nargs="*", default=list(ROWS), help="components, each a row; or none")
    parser.add_argument("--bic", type=int, nargs="*", default=list(BIC_LIST), help="candidates of BIC; or none")
    add_checkpoint_option(parser)
    return with_budget(parser.parse_args(args))


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every script that trains configs and scores their runs."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", choices=("val", "test"), default="val", help="the held-out part")
    parser.add_argument("--runs", default=None, help="folder of runs, kept; a temporary one if not given")
    parser.add_argument("--images", type=int, default=None, help="images seen by every config, in place of its budget")
    parser.add_argument("--jobs", type=int, default=1, help="runs to train at once, each on one thread")


def add_draws_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of every script that scores samples of its runs."""
    parser.add_argument("--draws", type=int, default=1, help="sets of samples of each run, averaged")


def add_checkpoint_option(parser: argparse.ArgumentParser, default: str = "last") -> None:
    """Add the option that says which checkpoint of a run is scored."""
    text = "of a run; best was chosen on the validation part"
    parser.add_argument("--checkpoint", choices=("last", "best"), default=default, help=text)


def with_budget(options: argparse.Namespace) -> argparse.Namespace:
    """Return options with ``budget``, what ``--images`` puts in the place of a config's own."""
    options.budget = None if options.images is None else {"images": options.images, "minutes": None}
    return options


def compare(options: argparse.Namespace, args: Sequence[str]) -> None:
    """Print the lines, each as soon as it is known."""
    if options.jobs > 1:  # before anything else, so that nothing but runs takes their time
        train_at_once(options.config, options.seeds, Path(options.runs), options.jobs, options.budget)
    scorer = Scorer(options.part, draws=options.draws)
    mixtures = Mixtures(scorer.data.images("train").levels, scorer.data.spec.levels - 1)
    common = provenance(scorer, options.n, args)
    show, rows = printer(common), []

    def add(one: dict) -> None:
        rows.append(show(one))

    for control in scorer.controls(options.n):
        add(control)
    if options.bic:
        add(bic_row(mixtures, scorer, options))
    for components in options.mixtures:
        add(mixture_row(components, mixtures, scorer, options))
    for config in options.config:
        add(config_row(config, scorer, options))
    for line in criteria(rows):
        show(line)


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    options = parse(args)
    run_script(options, lambda: compare(options, args))


if __name__ == "__main__":
    main()
