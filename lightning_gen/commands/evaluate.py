"""lightning evaluate: score a checkpoint by samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from lightning_gen.callbacks.evaluation import draw_samples, set_references
from lightning_gen.commands.common import (
    add_model_options,
    load_generator,
    split_sampler_options,
)
from lightning_gen.commands.messages import CommandParser
from lightning_gen.describe import TRUSTED, build
from lightning_gen.errors import InputError
from lightning_gen.files import flat, write_json
from lightning_gen.metrics import Extractor, FeatureMetric, FrechetDistance, MetricSuite
from lightning_gen.models.base import CHECKPOINT_KEY
from lightning_gen.models.checkpoint import load_data


def run(args: Sequence[str]) -> None:
    """Score a model; ``lightning evaluate --help`` lists the options."""
    rest, sampler_options = split_sampler_options(args)
    parser = CommandParser(
        prog="lightning evaluate",
        description="Score samples of a checkpoint against the images it was trained on and a held-out part, with the "
        "extractor and metrics of its training run unless others are given. Data paths are those of the training run.",
    )
    add_model_options(parser)
    parser.add_argument("--n", type=PositiveInt, default=2000, help="Samples to draw.")
    parser.add_argument("--part", choices=("val", "test"), default="val", help="Held-out part to compare with, too.")
    parser.add_argument("--json", type=str | None, default=None, help="File for the figures, as one flat JSON object.")
    parser.add_argument("--extractor", type=Extractor | None, default=None, help="Extractor of features, by class.")
    parser.add_argument("--metrics", type=list[FeatureMetric] | None, default=None, help="Metrics, by class.")
    parser.add_argument("--cache", type=bool, default=True, help="Keep the features of real images on disk.")
    options = parser.parse_args(rest)
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise InputError(f"--json {options.json}: there is no folder {Path(options.json).parent}")
    given = parser.instantiate(options)
    model, checkpoint = load_generator(options, sampler_options)
    suite = choose_suite(checkpoint, given, options)
    set_references(suite.to(model.device), load_data(checkpoint[CHECKPOINT_KEY], options.trust), options.part)
    draw_samples(model, suite, options.n, options.batch_size, options.seed)
    figures = suite.compute()
    report = {
        **figures,
        **suite.description(),
        "heldout_part": options.part,
        "checkpoint": options.checkpoint,
        "images_seen": model.images_seen,
        "weights": options.weights,
        "seed": options.seed,
    }
    for name, value in figures.items():
        print(f"{name:<28} {value:.6g}")
    if options.json:
        write_json(Path(options.json), flat(report))


def choose_suite(checkpoint: dict[str, Any], given: Any, options: Any) -> MetricSuite:
    """Return the suite of the options, completed by what the training run used.

    Raises:
        InputError: where neither names an extractor.
    """
    stored = checkpoint.get("evaluation", {})
    trusted = (*TRUSTED, *options.trust)
    extractor = given.extractor
    if extractor is None:
        if not stored:
            raise InputError("the checkpoint's run had no evaluation: give --extractor, such as DigitsExtractor")
        extractor = build(stored["extractor"], Extractor, trusted, "extractor")
    metrics = given.metrics
    if metrics is None:
        metrics = build(stored["metrics"], list[FeatureMetric], trusted, "metrics") if stored else [FrechetDistance()]
    return MetricSuite(extractor, metrics, options.cache)
