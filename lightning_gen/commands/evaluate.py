"""lightning evaluate: score a checkpoint by samples, or images that anything drew."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse.typing import PositiveInt

import lightning_gen.data as sources
import lightning_gen.metrics as metrics
from lightning_gen.callbacks.evaluation import draw_samples, neighbour_sheet, sample_labels, set_references
from lightning_gen.callbacks.grid import save_png
from lightning_gen.commands.common import add_model_options, find_device, load_generator, split_sampler_options
from lightning_gen.commands.messages import CommandParser
from lightning_gen.data import Images, Source
from lightning_gen.data.images import read_images
from lightning_gen.data.source import ContentHash
from lightning_gen.describe import TRUSTED, build
from lightning_gen.errors import InputError
from lightning_gen.files import flat, write_json
from lightning_gen.metrics import Extractor, FeatureMetric, FrechetDistance, MetricSuite
from lightning_gen.models.base import CHECKPOINT_KEY
from lightning_gen.models.checkpoint import load_data
from lightning_gen.spec import ImageSpec

DESCRIPTION = """Score images by the metrics of an extractor's features.

Of a checkpoint: "lightning evaluate CKPT" draws samples and compares them with the images it was trained on and a
held-out part, with the extractor and metrics of its training run unless others are given. Data paths are those of the
training run.

Of images that anything drew: "lightning evaluate --generated DIR --real DIR --extractor inception" compares two folders
of image files (or .npy, .npz files), or a folder with a data set: "--real digits", or any Source by import path with
its arguments as --real.NAME.
"""


def run(args: Sequence[str]) -> None:
    """Score a model or images; ``lightning evaluate --help`` lists the options."""
    rest, sampler_options = split_sampler_options(args)
    parser = CommandParser(prog="lightning evaluate", description=DESCRIPTION)
    add_model_options(parser, optional=True)
    parser.add_argument(
        "--generated", type=str | None, default=None, help="Folder, .npy or .npz file to score instead of a checkpoint."
    )
    parser.add_argument(
        "--real", type=Source | str | None, default=None, help="Real images for it: folder, .npy, .npz or data set."
    )
    parser.add_argument(
        "--real_part", choices=("train", "val", "test"), default="train", help="Part of a data set to compare with."
    )
    parser.add_argument("--heldout", type=str | None, default=None, help="Further real images, never trained on.")
    parser.add_argument("--size", type=PositiveInt | None, default=None, help="Bring image files of folders to this.")
    parser.add_argument("--n", type=PositiveInt | None, default=None, help="Images to score: 2000 samples, all files.")
    parser.add_argument(
        "--part", choices=("val", "test"), default="val", help="Held-out part of a data set to compare with, too."
    )
    parser.add_argument("--json", type=str | None, default=None, help="File for the figures, as one flat JSON object.")
    parser.add_argument(
        "--extractor", type=Extractor | None, default=None, help="Extractor of features: digits, inception, or a class."
    )
    parser.add_argument("--metrics", type=list[FeatureMetric] | None, default=None, help="Metrics, by class.")
    parser.add_argument("--per_class", type=bool, default=False, help="Also score each class alone.")
    parser.add_argument(
        "--neighbours", type=str | None, default=None, help="Write images beside their nearest training images here."
    )
    parser.add_argument("--cache", type=bool, default=True, help="Keep the features of real images on disk.")
    options = parser.parse_args(class_names(rest))
    for name in ("json", "neighbours"):
        file = options[name]
        if file and not Path(file).absolute().parent.is_dir():
            raise InputError(f"--{name} {file}: there is no folder {Path(file).parent}")
    given = parser.instantiate(options)
    if (options.checkpoint is None) == (options.generated is None):
        raise InputError("evaluate scores either a checkpoint, CKPT, or images, --generated DIR with --real: give one")
    score = score_checkpoint if options.generated is None else score_images
    suite, figures, facts, pictures = score(options, given, sampler_options)
    report = {**figures, **suite.description(), **facts}
    width = max(28, *map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}} {value:.6g}")
    if options.neighbours:
        save_png(neighbour_sheet(suite, *pictures), Path(options.neighbours))
    if options.json:
        write_json(Path(options.json), flat(report))


def score_checkpoint(options: Any, given: Any, sampler_options: Sequence[str]) -> tuple[Any, ...]:
    """Score samples of a checkpoint."""
    for name in ("real", "heldout", "size"):
        if options[name] is not None:
            raise InputError(f"--{name} belongs to --generated: a checkpoint is compared with the data of its run")
    if options.real_part != "train":
        raise InputError("--real_part belongs to --generated: a checkpoint is compared with its training part")
    model, checkpoint = load_generator(options, sampler_options)
    suite = choose_suite(checkpoint, given, options)
    data = load_data(checkpoint[CHECKPOINT_KEY], options.trust)
    set_references(suite.to(model.device), data, options.part)
    labels = sample_labels(model, data, options.n or 2000)
    first = draw_samples(model, suite, options.n or 2000, options.batch_size, options.seed, labels)
    figures = suite.compute()
    facts = {
        "reference_part": "train",
        "heldout_part": options.part,
        "checkpoint": options.checkpoint,
        "images_seen": model.images_seen,
        "weights": options.weights,
        "seed": options.seed,
    }
    return suite, figures, facts, (first, data.images("train").levels, model.spec)


def score_images(options: Any, given: Any, sampler_options: Sequence[str]) -> tuple[Any, ...]:
    """Score a folder or an array of images."""
    if sampler_options:
        raise InputError(f"{sampler_options[0]} belongs to a checkpoint, and --generated are images")
    if options.real is None:
        raise InputError("--generated needs real images to compare with: give --real DIR, or a data set such as digits")
    parts, spec = real_parts(options, given.real)
    generated, own = read_images(options.generated, options.size if Path(options.generated).is_dir() else None)
    levels = to_reference(generated.levels, own, spec, options.generated)
    n = options.n or len(levels)
    if n > len(levels):
        raise InputError(f"--n {n}: {options.generated} holds {len(levels)} images")
    extractor = given.extractor or metrics.InceptionExtractor()
    wanted = given.metrics or default_metrics("heldout" in parts, extractor, spec)
    suite = MetricSuite(
        extractor, wanted, options.cache, per_class=options.per_class, keep_features=bool(options.neighbours)
    )
    suite.to(find_device(options.device))
    for name, (images, fingerprint) in parts.items():
        labels = None if images.labels is None else torch.as_tensor(images.labels)
        suite.set_reference(name, images.levels, spec, fingerprint, labels)
    labels = None if generated.labels is None else torch.as_tensor(generated.labels)
    for start in range(0, n, options.batch_size):
        rows = slice(start, min(start + options.batch_size, n))
        index = torch.arange(rows.start, rows.stop)
        suite.update(torch.from_numpy(levels[rows]), index, None if labels is None else labels[rows])
    figures = suite.compute()
    dataset = isinstance(given.real, Source)
    facts = {
        "generated": options.generated,
        "real": given.real.name if dataset else options.real,
        "reference_part": options.real_part if dataset else "all",
        "heldout_part": options.heldout or (options.part if "heldout" in parts else None),
        "size": options.size,
    }
    return suite, figures, facts, (torch.from_numpy(levels[: options.batch_size]), parts["train"][0].levels, spec)


def real_parts(options: Any, real: Source | str) -> tuple[dict[str, tuple[Images, str]], ImageSpec]:
    """Return images and content hash of the reference and, where there is one, of the held-out part."""
    parts: dict[str, tuple[Images, str]] = {}
    if isinstance(real, Source):
        if options.size is not None:
            raise InputError("--size brings folders of image files to one size: it does not change a data set")
        real.prepare()
        spec = real.spec
        wanted = {"train": options.real_part, "heldout": options.part}
        if options.heldout or options.part == options.real_part:
            del wanted["heldout"]
        parts = {name: (real.load(part), real.fingerprint(part)) for name, part in wanted.items()}
    else:
        images, spec = read_images(real, options.size if Path(real).is_dir() else None)
        parts["train"] = images, content_hash(images, spec)
    if options.heldout:
        images, own = read_images(options.heldout, options.size if Path(options.heldout).is_dir() else None)
        images = Images(to_reference(images.levels, own, spec, options.heldout), images.labels)
        parts["heldout"] = images, content_hash(images, spec)
    return parts, spec


def content_hash(images: Images, spec: ImageSpec) -> str:
    """Return the content hash of images that come from no source."""
    digest = ContentHash(spec)
    digest.add(images.levels)
    return digest.finish(images.labels)


def to_reference(levels: np.ndarray, own: ImageSpec, spec: ImageSpec, path: str) -> np.ndarray:
    """Return images as levels of the real images' spec.

    8-bit pixels become the nearest of fewer levels; an array whose values are below that number is levels already.

    Raises:
        InputError: for another size or number of channels.
    """
    if own.shape != spec.shape:
        sizes = " x ".join(map(str, own.shape)), " x ".join(map(str, spec.shape))
        raise InputError(f"{path}: images are {sizes[0]} and the real ones {sizes[1]} (channels x height x width)")
    if spec.levels == 256 or (path.endswith(".npy") and levels.max() < spec.levels):
        return levels
    return spec.to_levels(ImageSpec(*own.shape).to_unit(torch.from_numpy(levels))).numpy()


def default_metrics(held_out: bool, extractor: Extractor, spec: ImageSpec) -> list[FeatureMetric]:
    """Return every metric that the references and the extractor allow."""
    probe = extractor(torch.zeros(2, *spec.shape, dtype=torch.uint8), spec)
    chosen = [FrechetDistance(), metrics.KernelDistance(), metrics.PrecisionRecall(), metrics.DensityCoverage()]
    chosen += [metrics.Diversity()] + ([] if probe.logits is None else [metrics.InceptionScore()])
    return chosen + ([metrics.CopyShare()] if held_out else [])


def class_names(args: Sequence[str]) -> list[str]:
    """Return ``args`` with short names of extractors and data sets (``digits``) made class paths."""
    changed = list(args)
    tables = {"--extractor": ("Extractor", named(metrics, Extractor)), "--real": ("", named(sources, Source))}
    for i, argument in enumerate(args):
        option, equals, value = argument.partition("=")
        if option not in tables or (not equals and i + 1 == len(args)):
            continue
        suffix, known = tables[option]
        name = value if equals else args[i + 1]
        if Path(name).exists():
            continue
        path = known.get(_bare(name, suffix))
        if path and equals:
            changed[i] = f"{option}={path}"
        elif path:
            changed[i + 1] = path
        elif option == "--real" and re.fullmatch(r"[\w./~-]+", name) and "." not in name:
            near = ", ".join(sorted(known))
            raise InputError(f"--real {name}: no such folder or file, and data sets are {near}")
    return changed


def named(module: Any, base: type) -> dict[str, str]:
    """Return the class paths of what a module exports, by bare name."""
    classes = [getattr(module, name) for name in module.__all__]
    return {
        _bare(cls.__name__, base.__name__): f"{cls.__module__}.{cls.__qualname__}"
        for cls in classes
        if inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)
    }


def _bare(name: str, suffix: str) -> str:
    return re.sub(r"[-_]", "", name).lower().removesuffix(suffix.lower() or "\0")


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
            raise InputError("the checkpoint's run had no evaluation: give --extractor, such as digits")
        extractor = build(stored["extractor"], Extractor, trusted, "extractor")
    wanted = given.metrics
    if wanted is None:
        wanted = build(stored["metrics"], list[FeatureMetric], trusted, "metrics") if stored else [FrechetDistance()]
    return MetricSuite(
        extractor, wanted, options.cache, per_class=options.per_class, keep_features=bool(options.neighbours)
    )
