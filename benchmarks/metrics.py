"""What figures cost: our metrics against torch-fidelity and torchmetrics, and against the network's passes.

    python benchmarks/metrics.py > metrics.jsonl
    python benchmarks/metrics.py --markdown metrics.jsonl

Prints one JSON line per comparison. Sides take turns in one process, in an order that is reversed from round to round;
a ratio is the median over rounds, with the least and the greatest. Where two libraries compute the same figure, the run
stops unless they agree. Nothing is cached on disk, by anybody. The parts:

- ``fidelity``: all our metrics against torch-fidelity asked for FID, IS, KID and precision/recall, of 2,000 and 2,000
  images, by the shipped digits classifier on both sides. Ours also has 2,000 held-out images, for the copy share and
  the distances to them. torch-fidelity gets a data set in memory, the same batches and ``save_cpu_ram=True``, without
  which it would start worker processes.
- ``passes``: all our metrics in relation to the network's passes: 10,000 generated, training and held-out images each,
  of 28 x 28 pixels, 64 features, a network made on the spot to take 1 ms an image.
- ``wide``: where the time goes with 2,048 features of 10,000 images (and 32 x 32 colour thumbnails); no network.
- ``frechet``: the Frechet distance of 2,048 features of 10,000 images against torchmetrics and torch-fidelity.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: times are comparable on one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import dataclasses
import importlib.metadata
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
import torchmetrics
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

sys.path.insert(0, str(Path(__file__).parent))

from digits import cpu_model
from table import markdown

from lightning_gen.callbacks.recorder import git_commit, package_versions
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits
from lightning_gen.metrics import (
    CopyShare,
    DensityCoverage,
    DigitsExtractor,
    Diversity,
    Extractor,
    FeatureMetric,
    Features,
    FeatureSet,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    MetricSuite,
    ModuleExtractor,
    PrecisionRecall,
    frechet_distance,
)
from lightning_gen.metrics.base import moments_of
from lightning_gen.metrics.frechet import matrix_root

Line = dict[str, Any]
PARTS = ("fidelity", "passes", "wide", "frechet")
ROUNDS = {"fidelity": 7, "passes": 3, "wide": 1, "frechet": 5}
BATCH = 256
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def everything() -> list[FeatureMetric]:
    """All metrics, as they are by default."""
    return [
        FrechetDistance(),
        KernelDistance(),
        InceptionScore(),
        PrecisionRecall(),
        DensityCoverage(),
        CopyShare(),
        Diversity(),
    ]


# --- timing and lines -------------------------------------------------------------------------------------------------


def seconds_of(act: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that ``act`` takes, and what it returns."""
    started = clock()
    result = act()
    return clock() - started, result


def take_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each side in each round, after one round that does not count, and what each returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    for turn in range(-1, rounds):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            taken, results[name] = seconds_of(sides[name])
            if turn >= 0:
                seconds[name].append(taken)
    return seconds, results


def line(comparison: str, upper: Sequence[float], lower: Sequence[float], **more: Any) -> Line:
    """A comparison: ``upper`` / ``lower`` round by round, and what else is known of it."""
    ratios = [a / b for a, b in zip(upper, lower, strict=True)]
    return {
        "comparison": comparison,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "rounds": len(ratios),
        **more,
    }


def faster(
    comparison: str, ours: Sequence[float], theirs: Sequence[float], target: float | None, against: str, **more: Any
) -> Line:
    """How many times as long as we the other side takes, which should be at least ``target``."""
    one = line(comparison, theirs, ours, against=against, target=target, **more)
    one["met"] = None if target is None else one["ratio"] >= target
    return one | {"ours_seconds": statistics.median(ours), "their_seconds": statistics.median(theirs)}


def agree(pairs: dict[str, tuple[float, float]], tolerance: float) -> dict[str, list[float]]:
    """The pairs of figures, ours and theirs; SystemExit where one differs by more than ``tolerance`` of itself."""
    for name, (ours, theirs) in pairs.items():
        if not math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=1e-9):
            sys.exit(f"{name} is {ours!r} here and {theirs!r} there: what takes how long does not matter then")
    return {name: list(pair) for name, pair in pairs.items()}


# --- all metrics against torch-fidelity -------------------------------------------------------------------------------


class InMemory(torch.utils.data.Dataset):
    """Levels (N, C, H, W) as torch-fidelity wants them."""

    def __init__(self, levels: Tensor):
        self.levels = levels

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, index: int) -> Tensor:
        return self.levels[index]


class RegisteredDigits(FeatureExtractorBase):
    """The shipped digits classifier under torch-fidelity's protocol."""

    spec = Digits().spec

    def __init__(self, name: str, features_list: Sequence[str], **kwargs: Any):
        super().__init__(name, features_list)
        self.extractor = DigitsExtractor()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    def forward(self, levels: Tensor) -> tuple[Tensor, ...]:
        out = self.extractor(levels, self.spec)._asdict()
        return tuple(out[name] for name in self.features_list)


def noisy_digits(n: int, part: str, noise: int, seed: int) -> Tensor:
    """Digits (n, 1, 8, 8) drawn from a part with replacement, every pixel moved by at most ``noise`` levels."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.from_numpy(Digits().load(part).levels)
    levels = levels[torch.randint(len(levels), (n,), generator=generator)].int()
    return (levels + torch.randint(-noise, noise + 1, levels.shape, generator=generator)).clamp(0, 16).byte()


def fidelity(rounds: int, quick: bool) -> Iterator[Line]:
    """All metrics, cold and with the reference known, and torch-fidelity's four alone."""
    n, subsets, size = (150, 5, 60) if quick else (2000, 100, 1000)
    spec = Digits().spec
    parts = {"train": noisy_digits(n, "train", 1, 0), "heldout": noisy_digits(n, "test", 1, 1)}
    generated, index = noisy_digits(n, "train", 3, 2), torch.arange(n)

    def prepared(metrics: Sequence[FeatureMetric], *names: str) -> MetricSuite:
        suite = MetricSuite(DigitsExtractor(), metrics, cache=False, batch_size=BATCH)
        for name in names:
            suite.set_reference(name, parts[name], spec)
        return suite

    def figures(suite: MetricSuite) -> dict[str, float]:
        suite.reset()
        for start in range(0, n, BATCH):
            suite.update(generated[start : start + BATCH], index[start : start + BATCH])
        return suite.compute()

    def theirs() -> dict[str, float]:
        return torch_fidelity.calculate_metrics(
            input1=InMemory(generated),
            input2=InMemory(parts["train"]),
            feature_extractor="lightning-gen-digits",
            **dict.fromkeys(("fid", "isc", "kid", "prc"), True),
            kid_subsets=subsets,
            kid_subset_size=size,
            batch_size=BATCH,
            **dict.fromkeys(("cuda", "cache", "verbose"), False),
            save_cpu_ram=True,
        )

    four = lambda: [FrechetDistance(), KernelDistance(("train",), False, subsets, size), InceptionScore()]  # noqa: E731
    known = prepared(everything(), "train", "heldout")
    figures(known)
    if "lightning-gen-digits" not in torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY:
        torch_fidelity.register_feature_extractor("lightning-gen-digits", RegisteredDigits)
    seconds, results = take_turns(
        {
            "cold": lambda: figures(prepared(everything(), "train", "heldout")),
            "theirs": theirs,
            "known": lambda: figures(known),
            "four": lambda: figures(prepared([*four(), PrecisionRecall()], "train")),
        },
        rounds,
    )
    ours, other = results["four"], results["theirs"]
    pairs = {
        "fid": (ours["fid_digits"], other["frechet_inception_distance"]),
        "is": (ours["is_digits"], other["inception_score_mean"]),
        "kid": (ours["kid_digits_subsets"], other["kernel_inception_distance_mean"]),
        "precision": (ours["precision_digits"], other["precision"]),
        "recall": (ours["recall_digits"], other["recall"]),
    }
    # theirs are in float32: distances that equal a radius up to rounding may fall to either side
    same = agree({name: pair for name, pair in pairs.items() if name in ("fid", "is", "kid")}, 1e-3)
    same |= agree({name: pair for name, pair in pairs.items() if name in ("precision", "recall")}, 2 / n)
    what = {"n": n, "d": 64, "against": "torch-fidelity: FID, IS, KID, precision/recall"}
    for name, key, target in (
        ("all seven, with held-out images", "cold", 2.0),
        ("all seven, references known", "known", 2.0),
        (f"the same four, KID in {subsets} subsets of {size:,}", "four", None),
    ):
        yield faster(name, seconds[key], seconds["theirs"], target, figures=same, **what)


# --- all metrics in relation to the network's passes ------------------------------------------------------------------


class Network(nn.Module):
    """Residual 3x3 convolutions at 14 x 14 with random weights: grey 28 x 28 images to 64 features and 10 logits."""

    def __init__(self, depth: int, channels: int = 32):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.features, self.logits = nn.Linear(channels, 64), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images)
        for block in self.blocks:
            x = x + block(x.relu())
        features = self.features(x.relu().mean((2, 3)))
        return features, self.logits(features)


def calibrated(milliseconds: float) -> Network:
    """The network whose depth comes closest to that time an image."""

    def of_depth(depth: int) -> Network:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Network(depth).eval()

    @torch.no_grad()
    def cost(depth: int) -> float:
        network, images = of_depth(depth), torch.zeros(BATCH, 1, 28, 28)
        return min(seconds_of(lambda: network(images))[0] for _ in range(5)) / BATCH * 1e3

    base, step = cost(2), (cost(12) - cost(2)) / 10
    return of_depth(max(1, 2 + round((milliseconds - base) / step)))


class Timed(Extractor):
    """An extractor that knows how many seconds it has spent."""

    def __init__(self, extractor: Extractor):
        super().__init__()
        self.extractor, self.name, self.seconds = extractor, extractor.name, 0.0

    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        taken, out = seconds_of(lambda: self.extractor(levels, spec))
        self.seconds += taken
        return out


def pictures(n: int, spec: ImageSpec, seed: int, contrast: float = 50.0) -> Tensor:
    """Smooth noise with a little rough noise on it, uint8 (n, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, spec.channels, 4, 4, generator=generator) * contrast + 128
    smooth = nn.functional.interpolate(coarse, size=spec.shape[1:], mode="bilinear")
    return smooth.add_(torch.randn(smooth.shape, generator=generator), alpha=8).clamp_(0, 255).byte()


def fresh(features: FeatureSet) -> FeatureSet:
    """The same rows, with nothing computed of them yet."""
    return dataclasses.replace(features, cache={}, moments=None)


def score(metrics: Sequence[FeatureMetric], samples: FeatureSet) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each metric, and all figures."""
    seconds, figures = {}, {}
    for metric in metrics:
        seconds[type(metric).__name__], found = seconds_of(lambda: metric.score(samples))  # noqa: B023
        figures |= found
    return seconds, figures


def cold_and_warm(
    metrics: Sequence[FeatureMetric], references: dict[str, FeatureSet], samples: FeatureSet
) -> dict[str, dict[str, float]]:
    """Seconds of each metric when nothing is known of the references, and when everything is."""
    for part, reference in references.items():
        fresh_reference = fresh(reference)
        for metric in metrics:
            metric.set_reference(part, fresh_reference)
    return {state: score(metrics, fresh(samples))[0] for state in ("cold", "warm")}


def medians(splits: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each part."""
    return {name: statistics.median(split[name] for split in splits) for name in splits[0]}


def passes(rounds: int, quick: bool) -> Iterator[Line]:
    """What an evaluation takes, all its parts, over what its passes through the network take: cold and warm."""
    n, milliseconds = (120, 0.05) if quick else (10_000, 1.0)
    spec = ImageSpec(1, 28, 28, 256, 0)
    levels = {"train": pictures(n, spec, 0), "heldout": pictures(n, spec, 1), "generated": pictures(n, spec, 2, 55)}
    network = calibrated(milliseconds)
    readings: dict[tuple[bool, str], list[tuple[float, float, dict[str, float]]]] = {}
    for _ in range(rounds):
        extractor = Timed(ModuleExtractor(network, "calibrated"))
        suite = MetricSuite(extractor, everything(), cache=False, batch_size=BATCH)
        passed, whole = {}, {}
        for name, images in levels.items():
            extractor.seconds = 0.0
            if name != "generated":
                whole[name], _ = seconds_of(lambda: suite.set_reference(name, images, spec))  # noqa: B023
            else:
                whole[name], samples = seconds_of(lambda: collected(suite, images))  # noqa: B023
            passed[name] = extractor.seconds
        for heldout in (True, False):
            metrics = [metric for metric in everything() if heldout or not isinstance(metric, CopyShare)]
            references = {name: suite.references[name] for name in ("train", "heldout")[: 1 + heldout]}
            for state, split in cold_and_warm(metrics, references, samples).items():
                names = ["generated", *(references if state == "cold" else ())]
                through = sum(passed[name] for name in names)
                beside = sum(whole[name] for name in names) - through
                readings.setdefault((heldout, state), []).append((through, beside, split))
    for (heldout, state), found in readings.items():
        through = [one for one, _, _ in found]
        totals = [one + beside + sum(split.values()) for one, beside, split in found]
        sets = 1 + (1 + heldout) * (state == "cold")
        what = "references passed, too" if state == "cold" else "references known"
        one = line(f"{what}; {'with' if heldout else 'without'} held-out images", totals, through, target=1.5)
        yield one | {
            "met": one["ratio"] <= 1.5,
            "n": n,
            "d": 64,
            "against": f"{sets} passes of {n:,} images",
            "network": f"{len(network.blocks)} residual 3x3 convolutions of 32 channels at 14 x 14",
            "milliseconds_an_image": statistics.median(through) / sets / n * 1e3,
            "split": {"passes": statistics.median(through), "collecting": statistics.median(b for _, b, _ in found)}
            | medians([split for _, _, split in found]),
        }


def collected(suite: MetricSuite, levels: Tensor) -> FeatureSet:
    """What the suite keeps of generated images."""
    for start in range(0, len(levels), suite.batch_size):
        batch = levels[start : start + suite.batch_size]
        suite.update(batch, torch.arange(start, start + len(batch)))
    return suite.samples.compute()


# --- wide features ----------------------------------------------------------------------------------------------------


def wide_features(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    """Float32 features (n, d), correlated, none negative, with variances that fall over two decades."""
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(99)) / d**0.5
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.logspace(0, -2, d)
    return (rows @ mixing * scale + 0.3).abs()


def wide(rounds: int, quick: bool) -> Iterator[Line]:
    """Seconds of each metric with nothing but features, and of what the Frechet distance is made of."""
    n, d = (150, 40) if quick else (10_000, 2048)
    spec = ImageSpec(3, 8, 8, 256, 0) if quick else ImageSpec(3, 32, 32, 256, 0)
    sets = [
        FeatureSet(n, wide_features(n, d, seed, scale), torch.zeros(n, 10), None, pictures(n, spec, seed).flatten(1))
        for seed, scale in enumerate((1.0, 1.0, 1.05))
    ]
    references = {"train": sets[0], "heldout": sets[1]}
    splits: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(rounds):
        for state, split in cold_and_warm(everything(), references, sets[2]).items():
            moments, (_, cov) = seconds_of(lambda: moments_of(sets[2].features))
            root, _ = seconds_of(lambda: matrix_root(cov))  # noqa: B023
            splits[state].append(split | {"of FrechetDistance: statistics": moments, "a square root": root})
    for state, found in splits.items():
        metrics = [type(metric).__name__ for metric in everything()]
        yield {
            "comparison": "nothing known of the references" if state == "cold" else "references known",
            "n": n,
            "d": d,
            "rounds": rounds,
            "pixels": spec.channels * spec.height * spec.width,
            "split": medians([split | {"all": sum(split[name] for name in metrics)} for split in found]),
        }


# --- the Frechet distance ---------------------------------------------------------------------------------------------


class Given(nn.Identity):
    """What torchmetrics takes for a network: features as they are."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


def frechet(rounds: int, quick: bool) -> Iterator[Line]:
    """Statistics, the distance of statistics, and both, against either library."""
    n, d = (150, 40) if quick else (10_000, 2048)
    real, generated = wide_features(n, d, 0), wide_features(n, d, 1, 1.05)
    ours_real, ours_generated = moments_of(real), moments_of(generated)
    root = matrix_root(ours_real[1])
    tf_real, tf_generated = fid_features_to_statistics(real), fid_features_to_statistics(generated)

    def torchmetrics_of(*sides: tuple[Tensor, bool]) -> torchmetrics.image.FrechetInceptionDistance:
        metric = torchmetrics.image.FrechetInceptionDistance(feature=Given(d), reset_real_features=False)
        for rows, is_real in sides:
            metric.update(rows, real=is_real)
        return metric

    tm_known = torchmetrics_of((real, True))

    def torchmetrics_known() -> Tensor:
        tm_known.reset()
        tm_known.update(generated, real=False)
        return tm_known.compute()

    def tf_distance(first: dict, second: dict) -> float:
        return fid_statistics_to_metric(first, second, verbose=False)["frechet_inception_distance"]

    sides = {
        "statistics of one side": (
            lambda: moments_of(generated),
            lambda: torchmetrics_of((generated, False)),
            lambda: fid_features_to_statistics(generated),
        ),
        "distance of statistics, nothing known": (
            lambda: frechet_distance(*ours_real, *ours_generated),
            lambda: _compute_fid(*ours_real, *ours_generated),
            lambda: tf_distance(tf_generated, tf_real),
        ),
        "distance of statistics, root known": (
            lambda: frechet_distance(*ours_real, *ours_generated, root1=root),
            None,
            None,
        ),
        "from features, nothing known": (
            lambda: frechet_distance(*moments_of(real), *moments_of(generated)),
            lambda: torchmetrics_of((real, True), (generated, False)).compute(),
            lambda: tf_distance(fid_features_to_statistics(generated), fid_features_to_statistics(real)),
        ),
        "from features, reference known": (
            lambda: frechet_distance(*ours_real, *moments_of(generated), root1=root),
            torchmetrics_known,
            lambda: tf_distance(fid_features_to_statistics(generated), tf_real),
        ),
    }
    libraries = ("ours", "torchmetrics", "torch-fidelity")
    flat = {(name, library): act for name, acts in sides.items() for library, act in zip(libraries, acts, strict=True)}
    seconds, results = take_turns({key: act for key, act in flat.items() if act is not None}, rounds)
    for name in sides:
        for library in libraries[1:]:
            # neither library has a root to know: it has to do all of it
            key = (name if (name, library) in seconds else "distance of statistics, nothing known", library)
            pairs = {}
            if not name.startswith("statistics"):
                pairs = {"fid": (float(results[name, "ours"]), float(results[key]))}
            target = None if name.startswith("statistics") else 2.0
            same = agree(pairs, 1e-4)
            yield faster(name, seconds[name, "ours"], seconds[key], target, library, n=n, d=d, figures=same)


# --- command ----------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits, as they read best."""
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def table_of(part: str, lines: Sequence[Line]) -> str:
    """The Markdown table of a part's lines."""
    answers = {True: "yes", False: "**no**", None: "-"}
    ratio = lambda one: f"{number(one['ratio'])} ({' to '.join(map(number, one['ratio_range']))})"  # noqa: E731
    if part in ("fidelity", "frechet"):
        header = ["what", "against", "ours, s", "theirs, s", "times as fast (range)", "target", "met"]
        rows = [
            [
                one["comparison"],
                one["against"],
                number(one["ours_seconds"]),
                number(one["their_seconds"]),
                ratio(one),
                "-" if one["target"] is None else f"at least {one['target']:g}",
                answers[one["met"]],
            ]
            for one in lines
        ]
        return markdown(header, rows)
    names = list(dict.fromkeys(name for one in lines for name in one["split"]))
    seconds = markdown(
        ["seconds", *(one["comparison"] for one in lines)],
        [[name, *(number(one["split"][name]) if name in one["split"] else "-" for one in lines)] for name in names],
    )
    if part == "wide":
        return seconds
    header = ["what", "against", "ms an image", "all / passes (range)", "target", "met"]
    rows = [
        [
            one["comparison"],
            one["against"],
            number(one["milliseconds_an_image"]),
            ratio(one),
            f"at most {one['target']:g}",
            answers[one["met"]],
        ]
        for one in lines
    ]
    return markdown(header, rows) + "\n" + seconds


def tables(lines: Sequence[Line]) -> str:
    """The tables of all parts, and where they come from."""
    text = ""
    for part in PARTS:
        chosen = [one for one in lines if one["part"] == part]
        if chosen:
            first = chosen[0]
            text += f"{part}: n = {first['n']:,}, {first['d']:,} features, {first['rounds']} round(s)"
            text += f", network: {first['network']}" if "network" in first else ""
            text += f", thumbnails of {first['pixels']:,} pixels" if "pixels" in first else ""
            text += f"\n\n{table_of(part, chosen)}\n"
    first = lines[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    machine = f"{first['machine']}, {first['threads']} thread(s), {first['clock']} time"
    return f"{text}{machine}. {versions}. Commit {first['git_commit']}.\n"


def parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, help="an odd number; the default depends on the part")
    parser.add_argument("--threads", type=int, default=int(os.environ["OMP_NUM_THREADS"]))
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where the machine has other work")
    parser.add_argument("--quick", action="store_true", help="few images: to see that it runs, not what it takes")
    parser.add_argument("--markdown", metavar="FILE", help="print the tables of these lines, and measure nothing")
    options = parser.parse_args(args)
    if options.rounds is not None and (options.rounds < 1 or options.rounds % 2 == 0):
        parser.error("--rounds must be odd, so that the median is a round's")
    return options


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    options = parse(args)
    if options.markdown:
        with open(options.markdown, encoding="utf-8") as file:
            print(tables([json.loads(one) for one in file if one.strip()]), end="")
        return
    global clock
    clock = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    common = {
        "benchmark": "metrics",
        "clock": options.clock,
        "quick": options.quick,
        "command": " ".join(["python", "benchmarks/metrics.py", *args]),
        "machine": f"{cpu_model()}, {os.cpu_count()} cores",
        "threads": options.threads,
        "versions": package_versions() | {"scipy": importlib.metadata.version("scipy")},
        "git_commit": git_commit(),
    }
    measure = {"fidelity": fidelity, "passes": passes, "wide": wide, "frechet": frechet}
    for part in options.parts:
        for one in measure[part](options.rounds or ROUNDS[part], options.quick):
            print(json.dumps({"part": part, **one, **common}, allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
