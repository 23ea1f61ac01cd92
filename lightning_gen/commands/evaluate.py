"""lightning evaluate: score a checkpoint by samples, or images that anything drew."""

import argparse
import importlib.util
import inspect
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jsonargparse import DefaultHelpFormatter, Namespace
from jsonargparse.typing import PositiveInt
from torch import Tensor

import lightning_gen.data as sources
import lightning_gen.metrics as metrics
from lightning_gen.commands.common import (
    add_model_options,
    find_device,
    load_generator,
    nearest_of,
    print_figures,
    split_sampler_options,
)
from lightning_gen.commands.likelihood import check_has_likelihood, check_images, meaning, score_parts
from lightning_gen.commands.messages import CommandParser
from lightning_gen.core import (
    TRUSTED,
    HasImportanceSamples,
    HasLikelihood,
    ImageSpec,
    InputError,
    ProgressLine,
    build,
    check_file,
    class_path,
    describe,
    flat,
    watched,
    watching,
    write_json,
)
from lightning_gen.data import Images, Source
from lightning_gen.data.decode import Remedies
from lightning_gen.data.images import ARRAYS, class_folders, read_images
from lightning_gen.data.source import ContentHash
from lightning_gen.evaluation import (
    choose_images,
    draw_samples,
    neighbour_sheet,
    sample_labels,
    save_png,
    set_references,
)
from lightning_gen.metrics import Extractor, FeatureMetric, FrechetDistance, InceptionExtractor, MetricSuite
from lightning_gen.metrics.base import HELD_OUT, TRAIN
from lightning_gen.models import GenerativeModule
from lightning_gen.models.checkpoint import load_data

log = logging.getLogger(__name__)

DESCRIPTION = """\
Score images by the metrics of an extractor's features.

A checkpoint:
  lightning evaluate CKPT --n 2000 --json out.json
draws samples and compares them with the images that the model was trained on,
and with a held-out part, by the extractor and the metrics of its training run
unless others are given. Data are looked for where they were then.
  lightning evaluate CKPT --likelihood --json out.json
takes the likelihood of the held-out images instead, in bits per dimension, of
a model that has one; --plots DIR shows how it is distributed. A bound may take
more --importance_samples K, and that of a VQVAE a prior of its codes:
  lightning evaluate CKPT --likelihood --sampler.prior CKPT_OF_THE_PRIOR

Images that any program drew, without a model:
  lightning evaluate --generated DIR --real DIR
  lightning evaluate --generated DIR --real digits --extractor digits
  lightning evaluate --generated FILE.npz --real imagefolder --real.root DIR \\
    --real.size 64 --metrics '[PrecisionRecall, KernelDistance]'
A folder is searched to any depth for image files, all of one size or brought
to --size. A .npy file holds uint8 (N, C, H, W), as `lightning sample` writes
it, a .npz file uint8 (N, H, W, C). Classes are read from a labels.npy in the
folder or beside the .npy file, or from the second array of the .npz file, or
are the folders in the folder (--class_folders true). The
extractor is inception unless another is given, and the metrics are all common
ones that it and the real images allow. Most figures depend on the number of
images: compare those of equal n only.
"""

# Options that mean something to one of the ways of scoring alone.
OF_FILES = ("size", "channels", "background", "on_error", "class_folders")
OF_IMAGES = ("real", "real_part", "heldout", *OF_FILES)
OF_LIKELIHOOD = ("plots", "other", "importance_samples")
OF_CHECKPOINTS = ("seed", "draws", "weights", "trust", "data_root", "likelihood", *OF_LIKELIHOOD)
# And options of either that the likelihood of a checkpoint has no use for.
OF_FEATURES = ("extractor", "metrics", "per_class", "neighbours", "cache", "draws", "controls")
SHOWN = 16  # images of a picture of neighbours
# What messages advise where images are read.
TYPED = Remedies(
    "give --channels 1 or 3 to convert all",
    "give --background 255 (white) ... 0 (black)",
    "repair or remove it, or give --on_error skip",
    "give a --size to bring all to",
)
# The sampler's options that say what the model is, not only how it draws: a prior over the codes of a VQVAE.
OF_MODELS = ("--sampler.prior", "--sampler.trust")


class Scored(NamedTuple):
    """Result of one way of scoring: the suite, its figures and what stands beside them, facts, images for a picture."""

    suite: MetricSuite
    figures: dict[str, float]
    beside: dict[str, dict[str, float]]
    facts: dict[str, Any]
    generated: Tensor
    real: np.ndarray
    spec: ImageSpec


class _Paragraphs(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help whose description keeps its lines."""


def run(args: Sequence[str]) -> None:
    """Score a model or images; ``lightning evaluate --help`` lists the options."""
    rest, sampler_options = split_sampler_options(args)
    rest, real_path = split_names(rest)
    parser = make_parser()
    options = parser.parse_args(rest)
    check_files(options)
    check_mode(options, parser, sampler_options, real_path)
    if options.likelihood:
        score_likelihoods(options, sampler_options)
        return
    given = parser.instantiate(options)
    if options.generated is None:
        scored = score_checkpoint(options, given, sampler_options)
    else:
        scored = score_images(options, given, given.real if real_path is None else real_path)
    print_figures(scored.figures, scored.beside)
    if options.neighbours:
        sheet = neighbour_sheet(scored.suite, scored.generated, scored.real, scored.spec, smallest=64)
        save_png(sheet, Path(options.neighbours))
    if options.json:
        report = scored.figures | scored.suite.description() | scored.beside | scored.facts
        write_json(Path(options.json), flat(report))


def make_parser() -> CommandParser:
    """Return the parser of this verb."""
    parser = CommandParser(prog="lightning evaluate", description=DESCRIPTION, formatter_class=_Paragraphs)
    add_model_options(parser, optional=True)
    parser.add_argument(
        "--n",
        type=PositiveInt | None,
        default=None,
        help="Of a checkpoint: samples to draw, 2000 unless given; with --likelihood: images to take it of, all unless "
        "given. Of images: how many of the generated ones, chosen at random and always the same; all unless given.",
    )
    parser.add_argument(
        "--part",
        choices=("val", "test"),
        default="val",
        help="Part of the data set whose images are the held-out ones.",
    )
    parser.add_argument("--json", type=str | None, default=None, help="File for the figures, as one flat JSON object.")
    parser.add_argument(
        "--extractor",
        type=Extractor | None,
        default=None,
        help="Network whose features are compared: digits, fashion-mnist, inception, or an import path with its "
        "arguments as --extractor.NAME.",
    )
    parser.add_argument(
        "--metrics",
        type=list[FeatureMetric] | None,
        default=None,
        help="Metrics by class, such as '[CopyShare]'.",
    )
    parser.add_argument(
        "--per_class", type=bool, default=False, help="Also score each class alone; needs labels on both sides."
    )
    parser.add_argument(
        "--neighbours",
        type=str | None,
        default=None,
        help=f"PNG file for a picture of {SHOWN} of the images, each beside its nearest real ones.",
    )
    parser.add_argument("--cache", type=bool, default=True, help="Keep the features of real images on disk.")
    parser.add_argument(
        "--draws",
        type=PositiveInt,
        default=1,
        help="Sets of n samples of a checkpoint, with seeds --seed and the next ones; figures are then means, beside "
        "their standard deviation.",
    )
    parser.add_argument(
        "--controls",
        type=bool,
        default=True,
        help="Score real images, too: the floor (the held-out part in place of samples) and a memoriser (training "
        "images drawn again).",
    )
    likelihood = parser.add_argument_group("to take the likelihood of images instead of scoring samples")
    likelihood.add_argument(
        "--likelihood", action="store_true", help="Bits per dimension of the images of --part; --n takes fewer of them."
    )
    likelihood.add_argument(
        "--plots",
        type=str | None,
        default=None,
        help="Folder for pictures: histogram of the bits of training, held-out and --other images, bits per pixel and "
        "calibration where the model predicts pixels.",
    )
    likelihood.add_argument(
        "--other",
        type=str | None,
        default=None,
        help="Folder, .npy or .npz file of further images to take the likelihood of, such as samples or other data; "
        "image files are brought to the model's size.",
    )
    likelihood.add_argument(
        "--importance_samples",
        type=PositiveInt | None,
        default=None,
        help="Latents drawn for each image where the likelihood is a bound that tightens with them, as many as the "
        "model was made with unless given. (For validate and test: --model.importance_samples.)",
    )
    images = parser.add_argument_group("to score images instead of a checkpoint")
    images.add_argument("--generated", type=str | None, default=None, help="The images: a folder, .npy or .npz file.")
    images.add_argument(
        "--real",
        type=Source | None,
        default=None,
        help="Real images to compare with: a folder, .npy or .npz file, or else a data set, such as digits or cifar10, "
        "or an import path with its arguments as --real.NAME.",
    )
    images.add_argument(
        "--real_part",
        choices=("train", "val", "test"),
        default="train",
        help="Part of that data set to compare with.",
    )
    images.add_argument(
        "--heldout",
        type=str | None,
        default=None,
        help="Folder, .npy or .npz file of further real images, which the images' model was not trained on.",
    )
    images.add_argument(
        "--size",
        type=PositiveInt | None,
        default=None,
        help="Height and width that image files in folders are brought to; arrays and data sets stay as they are.",
    )
    images.add_argument(
        "--channels", choices=(1, 3), type=int | None, default=None, help="Convert image files to grey (1) or RGB (3)."
    )
    images.add_argument(
        "--background",
        type=int | None,
        default=None,
        help="Grey level, 0 to 255, put behind transparent pixels of image files.",
    )
    images.add_argument(
        "--on_error",
        choices=("raise", "skip"),
        default="raise",
        help="Whether broken image files end it or are left out.",
    )
    images.add_argument(
        "--class_folders", type=bool, default=False, help="Folders in the folders of images are classes, by name."
    )
    return parser


def check_files(options: Namespace) -> None:
    """Raise InputError where a file that is to be written cannot be: found out before the work, not after it."""
    for name in ("json", "neighbours"):
        if options[name] is not None:
            check_file(f"--{name}", options[name])
    if options.plots is not None and (not options.plots or Path(options.plots).is_file()):
        raise InputError(f"--plots {options.plots}: give the name of a folder")
    if options.neighbours and Path(options.neighbours).suffix.lower() != ".png":
        raise InputError(f"--neighbours {options.neighbours}: give a name that ends in .png")


def check_mode(
    options: Namespace, parser: CommandParser, sampler_options: Sequence[str], real_path: str | None
) -> None:
    """Raise InputError for options that contradict each other, before anything is built or downloaded."""
    checkpoint, generated = options.checkpoint, options.generated
    if (checkpoint is None) == (generated is None):
        raise InputError("evaluate scores either a checkpoint, CKPT, or images, --generated DIR --real DIR: give one")
    if generated is None:
        given = [name for name in OF_IMAGES if options[name] != parser.get_default(name)]
        if given or real_path is not None:
            name = given[0] if given else "real"
            raise InputError(f"--{name} belongs to --generated: a checkpoint is compared with the data of its run")
        if Path(checkpoint).is_dir() or Path(checkpoint).suffix.lower() in ARRAYS:
            raise InputError(f"{checkpoint} is no checkpoint file; images are given as --generated {checkpoint}")
        check_likelihood(options, parser, sampler_options)
        return
    given = [f"--{name}" for name in OF_CHECKPOINTS if options[name] != parser.get_default(name)]
    given += [option.partition("=")[0] for option in sampler_options[:1]]
    if given:
        raise InputError(f"{given[0]} belongs to a checkpoint, and --generated are images: leave it out")
    if options.real is None and real_path is None:
        raise InputError("--generated needs real images to compare with: give --real DIR, or a data set such as digits")
    for name in ("generated", "heldout"):
        path = options[name]
        if path is not None and not (path and Path(path).expanduser().exists()):
            raise InputError(f"--{name} {path}: no such folder or file of images: check the path")
    for name in ("part", "real_part"):
        if real_path is not None and options[name] != parser.get_default(name):
            raise InputError(f"--{name} belongs to a data set, and {real_path} is none: leave it out")
    if options.heldout is not None and options.part != parser.get_default("part"):
        raise InputError("--part and --heldout both say what the held-out images are: give one")
    if options.part == options.real_part == "test":
        raise InputError("--part and --real_part are the same images: give another --real_part")
    paths = [path for path in (generated, real_path, options.heldout) if path is not None]
    given = [name for name in OF_FILES if options[name] != parser.get_default(name)]
    if given and not any(Path(path).expanduser().is_dir() for path in paths):
        raise InputError(f"--{given[0]} is about image files in folders alone, and none is given: leave it out")


def check_likelihood(options: Namespace, parser: CommandParser, sampler_options: Sequence[str]) -> None:
    """Raise InputError for options that mean nothing with --likelihood, or nothing without it."""
    if not options.likelihood:
        given = [name for name in OF_LIKELIHOOD if options[name] is not None]
        if given:
            raise InputError(f"--{given[0]} belongs to --likelihood: give that, too")
        return
    given = [f"--{name}" for name in OF_FEATURES if options[name] != parser.get_default(name)]
    named = [option.partition("=")[0] for option in sampler_options if option.startswith("--sampler")]
    given += [name for name in named if name not in OF_MODELS]
    if given:
        raise InputError(f"{given[0]} is about samples, and --likelihood draws none: leave it out")
    if options.other is not None and not (options.other and Path(options.other).expanduser().exists()):
        raise InputError(f"--other {options.other}: no such folder or file of images: check the path")


def score_likelihoods(options: Namespace, sampler_options: Sequence[str]) -> None:
    """Take the likelihood of held-out images, and with --plots or --other that of further ones."""
    model, checkpoint = load_generator(options, sampler_options)
    check_has_likelihood(model, options.checkpoint)
    if options.importance_samples is not None:
        if not isinstance(model, HasImportanceSamples):
            raise InputError(
                f"--importance_samples: the likelihood of this {type(model).__name__} takes no importance samples: "
                "leave it out"
            )
        model.importance_samples = options.importance_samples
    model.seed = options.seed  # of noise that a model keys on its own seed
    data = load_data(checkpoint, options.trust, options.data_root)
    check_images(data)
    parts = {options.part: data.images(options.part)}
    if options.plots:
        parts["train"] = data.images("train")
    if options.other:
        other, own = read(options.other, options, (model.spec.height, model.spec.width))
        brightest, count = other.levels.max(), model.spec.levels
        if is_array(options.other) and count <= brightest and count < 256:
            print(
                f"{options.other}: its values go up to {brightest}, so they are taken for 8-bit pixels and brought to "
                f"the model's {count} levels",
                file=sys.stderr,
            )
        parts["other"] = Images(to_reference(other.levels, own, model.spec, options.other), other.labels)
    figures, facts, pictures = score_parts(model, parts, options.part, options)
    print("\n".join(data.counts(options.part)), file=sys.stderr)
    print_figures(figures)
    print(meaning(facts, options.part), file=sys.stderr)
    for picture in pictures:
        print(f"written to {Path(options.plots) / picture}", file=sys.stderr)
    if options.json:
        settings = {
            "part": options.part,
            "checkpoint": options.checkpoint,
            "images_seen": model.images_seen,
            "weights": options.weights,
            "seed": options.seed,
            "batch_size": options.batch_size,
            "sampler": describe(model.sampler),
        }
        write_json(Path(options.json), flat(figures | facts | settings))


def score_checkpoint(options: Namespace, given: Namespace, sampler_options: Sequence[str]) -> Scored:
    """Score samples of a checkpoint."""
    n = options.n or 2000
    model, checkpoint = load_generator(options, sampler_options)
    if options.per_class and not model.conditional:
        raise InputError(f"--per_class: this {type(model).__name__} is not class-conditional: leave it out")
    suite = choose_suite(model, checkpoint, given, options)
    check_metrics(suite.metrics, n, True, gives_logits(suite.extractor, model.spec, model.device))
    data = load_data(checkpoint, options.trust, options.data_root)
    labels = sample_labels(model, data, n)
    if options.per_class:
        check_classes({f"the {n} samples": labels.numpy()}, model.spec, suite.metrics)
    set_references(suite.to(model.device), data, options.part)
    drawn, shown = [], []
    with watching(ProgressLine(f"drawing {n * options.draws:,} samples")):
        for draw in watched(range(options.draws)):
            suite.reset()
            shown.append(draw_samples(model, suite, n, options.batch_size, options.seed + draw, labels))
            drawn.append(suite.compute())
    figures, beside = mean_and_spread(drawn)
    beside |= of_real_images(suite, n, options)
    facts = {
        "reference_part": "train",
        "heldout_part": options.part,
        "checkpoint": options.checkpoint,
        "images_seen": model.images_seen,
        "weights": options.weights,
        "seed": options.seed,
        "draws": options.draws,
        "batch_size": options.batch_size,
        "sampler": describe(model.sampler),
    }
    print("\n".join(data.counts("train", options.part)), file=sys.stderr)
    return Scored(suite, figures, beside, facts, shown[0], data.images("train").levels, model.spec)


def mean_and_spread(drawn: Sequence[dict[str, float]]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return each figure's mean over several sets of samples, and their standard deviations as a column ``spread``."""
    values = {name: np.array([figures[name] for figures in drawn]) for name in drawn[0]}
    spread = {"spread": {name: float(value.std(ddof=1)) for name, value in values.items()}} if len(drawn) > 1 else {}
    return {name: float(value.mean()) for name, value in values.items()}, spread


def of_real_images(suite: MetricSuite, n: int, options: Namespace) -> dict[str, dict[str, float]]:
    """Return what real images score, unless the options leave that out."""
    return metrics.controls(suite, n) if options.controls else {}


def score_images(options: Namespace, given: Namespace, real: Source | str) -> Scored:
    """Score a folder or an array of images against a data set, or another folder or array."""
    device = find_device(options.device)
    extractor = InceptionExtractor() if given.extractor is None else given.extractor
    if options.class_folders:
        check_names(options, real)
    names = real.classes if isinstance(real, Source) else ()
    generated, own = read(options.generated, options, names=names)
    images, spec = (None, real.spec) if isinstance(real, Source) else read_real(real, options)
    levels = to_reference(generated.levels, own, spec, options.generated)
    n = options.n or len(levels)
    if n > len(levels):
        raise InputError(f"--n {n}: {options.generated} holds {len(levels)} images: lower n")
    chosen = choose_images(len(levels), n).numpy()
    levels, labels = levels[chosen], None if generated.labels is None else generated.labels[chosen]
    held_out = options.heldout or (options.part if images is None and options.part != options.real_part else None)
    logits = gives_logits(extractor, spec, device)
    wanted = given.metrics
    if wanted is None:
        wanted = default_metrics(held_out is not None, logits) if extractor.whole else [metrics.SlicedWasserstein()]
    suite = make_suite(extractor, wanted, options).to(device)
    check_metrics(wanted, n, held_out is not None, logits)
    parts = real_parts(options, real, images, spec, held_out)
    if options.per_class:
        sides = {options.generated: labels} | {where: part.labels for where, part, _ in parts.values()}
        check_classes(sides, spec, wanted)
    for name, (_, part, fingerprint) in parts.items():
        suite.set_reference(name, part.levels, spec, fingerprint, part.labels)
    for start in range(0, n, options.batch_size):
        rows = slice(start, min(start + options.batch_size, n))
        own_labels = None if labels is None else torch.from_numpy(labels[rows])
        suite.update(torch.from_numpy(levels[rows]), torch.arange(rows.start, rows.stop), own_labels)
    facts = {
        "generated": options.generated,
        "real": real.name if images is None else real,
        "reference_part": options.real_part if images is None else "all",
        "heldout_part": held_out,
        **{name: options[name] for name in OF_FILES},
    }
    if images is None:
        facts["real_source"] = options.real.as_dict() | {"class_path": class_path(type(real))}
    figures, beside = suite.compute(), of_real_images(suite, n, options)
    # not the first ones: in the order of names they may all be of one class
    shown = torch.from_numpy(levels[choose_images(n, SHOWN).numpy()])
    return Scored(suite, figures, beside, facts, shown, parts[TRAIN][1].levels, spec)


def read(
    path: str, options: Namespace, size: Sequence[int] | None = None, names: Sequence[str] = ()
) -> tuple[Images, ImageSpec]:
    """Return images and spec of a folder, read as the options say, or of an array, as it is.

    Args:
        path: of the folder or array.
        options: of the command line.
        size: height and width in place of the options'.
        names: of the classes of a data set, by whose order class folders are numbered; else it is their own.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return read_images(path)
    given = options.channels, options.background, options.on_error, options.class_folders
    images, spec = read_images(path, size or options.size, *given, TYPED)
    if options.class_folders and names:
        order = np.array([names.index(name) for name in class_folders(folder)])
        images = Images(images.levels, order[images.labels])
    return images, spec


def check_names(options: Namespace, real: Source | str) -> None:
    """Raise InputError where class folders are not called the same on all sides."""
    paths = [Path(path).expanduser() for path in (options.generated, real, options.heldout) if isinstance(path, str)]
    names = {str(path): class_folders(path) for path in paths if path.is_dir()}
    names |= {real.name: list(real.classes)} if isinstance(real, Source) else {}
    (first, expected), *others = names.items()
    for where, found in others:
        if different := sorted(set(expected) ^ set(found)):
            lacking = first if different[0] in found else where
            raise InputError(f"--class_folders: {lacking} has no class {different[0]}: name the folders the same")


def read_real(path: str, options: Namespace) -> tuple[Images, ImageSpec]:
    """Return real images and their spec, whose pixels must be 0 .. 255: no data set says what their levels are."""
    images, spec = read(path, options)
    if is_array(path) and images.levels.max() < 128:
        raise InputError(
            f"{path}: no pixel is above {images.levels.max()}, as if these were levels of a data set that has fewer "
            "than 256: give that data set as --real, or 8-bit pixels"
        )
    return images, spec


def is_array(path: str) -> bool:
    """Whether ``path`` is the name of an array file."""
    return Path(path).suffix.lower() in ARRAYS


def to_reference(levels: np.ndarray, own: ImageSpec, spec: ImageSpec, path: str) -> np.ndarray:
    """Return images as levels of the real images' spec.

    8-bit pixels become the nearest of fewer levels; an array whose values are below that number is levels already.

    Raises:
        InputError: for another size or number of channels.
    """
    if own.shape != spec.shape:
        sizes = " x ".join(map(str, own.shape)), " x ".join(map(str, spec.shape))
        remedy = "convert them" if is_array(path) else "bring them to one --size"
        if own.channels != spec.channels and not is_array(path):
            remedy = f"give --channels {spec.channels}"
        raise InputError(
            f"{path}: images are {sizes[0]} and the real ones {sizes[1]} (channels x height x width): {remedy}"
        )
    brightest = levels.max()
    if spec.levels == 256 and is_array(path) and brightest < 128:
        log.warning("%s: no pixel is above %d: are these levels of a data set that has fewer?", path, brightest)
    if spec.levels == 256 or (is_array(path) and brightest < spec.levels):
        return levels
    return spec.to_levels(ImageSpec(*own.shape).to_unit(torch.from_numpy(levels))).numpy()


def real_parts(
    options: Namespace, real: Source | str, images: Images | None, spec: ImageSpec, held_out: str | None
) -> dict[str, tuple[str, Images, str]]:
    """Return where they are from, the images, and their content hash, of the reference and the held-out part.

    Args:
        options: of the command line.
        real: a data set, or the path of ``images``.
        images: the real images if they come from no data set.
        spec: what the real images are.
        held_out: path, or part of the data set; None for no held-out images.
    """
    if images is None:
        real.prepare()
        wanted = {TRAIN: options.real_part} | ({HELD_OUT: held_out} if held_out and not options.heldout else {})
        parts = {name: (real.name, real.load(part), real.fingerprint(part)) for name, part in wanted.items()}
    else:
        parts = {TRAIN: (real, images, content_hash(images, spec))}
    if options.heldout:
        further, own = read(options.heldout, options, names=() if images else real.classes)
        further = Images(to_reference(further.levels, own, spec, options.heldout), further.labels)
        parts[HELD_OUT] = options.heldout, further, content_hash(further, spec)
    return parts


def content_hash(images: Images, spec: ImageSpec) -> str:
    """Return the content hash of images that come from no source."""
    digest = ContentHash(spec)
    digest.add(images.levels)
    return digest.finish(images.labels)


def gives_logits(extractor: Extractor, spec: ImageSpec, device: torch.device) -> bool:
    """Whether the extractor, once moved to ``device``, gives logits for such images.

    Raises:
        InputError: where it cannot take them.
    """
    extractor.to(device).eval().check(spec)
    try:
        with torch.no_grad():
            return extractor(torch.zeros(2, *spec.shape, dtype=torch.uint8, device=device), spec).logits is not None
    except RuntimeError as error:
        size, reason = " x ".join(map(str, spec.shape)), str(error).partition("\n")[0]
        raise InputError(f"the extractor {extractor.name!r} cannot take images of {size}: {reason}") from error


def default_metrics(held_out: bool, logits: bool) -> list[FeatureMetric]:
    """Return the metrics that need no choice, as far as the references and the extractor allow them."""
    return [
        FrechetDistance(),
        metrics.KernelDistance(),
        metrics.PrecisionRecall(),
        metrics.DensityCoverage(),
        metrics.Diversity(),
        *([metrics.InceptionScore()] if logits else []),
        *([metrics.CopyShare()] if held_out else []),
    ]


def check_metrics(wanted: Sequence[FeatureMetric], n: int, held_out: bool, logits: bool) -> None:
    """Raise InputError for a metric that will have no figure, before features are extracted for hours."""
    for metric in wanted:
        name = type(metric).__name__
        if n < metric.least:
            raise InputError(f"{name} needs at least {metric.least} images, got {n}: raise n or choose other --metrics")
        if "logits" in metric.keeps and not logits:
            raise InputError(f"{name} needs logits, and this extractor gives features only: choose another --extractor")
        if not held_out and HELD_OUT in metric.required:
            raise InputError(f"{name} compares with held-out images: give --heldout DIR")


def check_classes(sides: dict[str, np.ndarray | None], spec: ImageSpec, wanted: Sequence[FeatureMetric]) -> None:
    """Raise InputError where figures per class lack labels, or images of a class.

    Args:
        sides: labels (n,), by where they are from.
        spec: what the real images are.
        wanted: the metrics.
    """
    for where, labels in sides.items():
        if labels is None:
            raise InputError(f"--per_class needs labels: {where} has none (labels.npy in the folder)")
    least = max(metric.least for metric in wanted)
    for where, labels in sides.items():
        found = dict(zip(*np.unique(labels, return_counts=True), strict=True))
        if (last := max(found)) >= spec.num_classes:
            raise InputError(f"--per_class: {where} has class {last}, real classes are 0 .. {spec.num_classes - 1}")
        for label in range(spec.num_classes):
            if (count := found.get(label, 0)) < least:
                raise InputError(
                    f"--per_class: class {label} has {count} images in {where}, and the metrics need {least}: give "
                    "more, or choose other --metrics"
                )


def split_names(args: Sequence[str]) -> tuple[list[str], str | None]:
    """Return ``args`` with short names (``digits``) made class paths and without --real PATH, and that path or None.

    A folder or file comes before a data set of its name.

    Raises:
        InputError: for what is neither, naming the nearest.
    """
    tables = {"--extractor": ("extractor", metrics, Extractor), "--real": ("data set", sources, Source)}
    rest: list[str] = []
    classes: dict[str, str] = {}
    real_path = None
    pending = iter(args)
    for argument in pending:
        option, equals, value = argument.partition("=")
        owner = option.partition(".")[0]
        if owner in tables and owner != option and not option.endswith(".help") and owner not in classes:
            raise InputError(f"{option} is an argument of {owner}: name its class with {owner} before it")
        if option not in tables:
            rest.append(argument)
            continue
        value = value if equals else next(pending, "")
        if not value or value.startswith("--"):
            raise InputError(f"{option} needs a value")
        if option == "--real" and Path(value).expanduser().exists():
            real_path = value
            continue
        real_path = None if option == "--real" else real_path
        classes[option] = find_class_path(option, value, *tables[option])
        rest.append(f"{option}={classes[option]}")
    return rest, real_path


def find_class_path(option: str, name: str, kind: str, module: Any, base: type) -> str:
    """Return the import path of the class that a short name, or an import path, stands for."""
    known = {
        bare(cls.__name__, base): f"{cls.__module__}.{cls.__qualname__}"
        for cls in map(vars(module).get, module.__all__)
        if inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)
    }
    if (short := bare(name, base)) in known:
        return known[short]
    missing = "no such folder or file, and " if base is Source else ""
    root = name.partition(".")[0]
    importable = re.fullmatch(r"\w+(\.\w+)+", name) and not is_array(name) and importlib.util.find_spec(root)
    if importable or name.startswith("{"):
        return name
    hint = nearest_of(short, known, f"there are {', '.join(sorted(known))}, or give an import path")
    raise InputError(f"{option} {name}: {missing}no {kind} of that name: {hint}")


def bare(name: str, base: type) -> str:
    """Return a name without what tells its spellings apart: DigitsExtractor, digits; fashion-mnist, FashionMNIST."""
    return re.sub(r"[-_]", "", name).lower().removesuffix(base.__name__.lower())


def choose_suite(model: GenerativeModule, checkpoint: dict[str, Any], given: Any, options: Any) -> MetricSuite:
    """Return the suite of the options, completed by what the model's training run used.

    Raises:
        InputError: where neither names an extractor.
    """
    stored = checkpoint.get("evaluation", {})
    trusted = (*TRUSTED, *options.trust)
    extractor = given.extractor
    if extractor is None:
        if not stored:
            instead = ", or --likelihood" if isinstance(model, HasLikelihood) else ""
            raise InputError(f"the checkpoint's run scored no samples: give --extractor, such as digits{instead}")
        extractor = build(stored["extractor"], Extractor, trusted, "extractor")
    wanted = given.metrics
    if wanted is None:
        wanted = build(stored["metrics"], list[FeatureMetric], trusted, "metrics") if stored else [FrechetDistance()]
    return make_suite(extractor, wanted, options)


def make_suite(extractor: Extractor, wanted: Sequence[FeatureMetric], options: Namespace) -> MetricSuite:
    """Return a suite as the options want it."""
    return MetricSuite(
        extractor, wanted, options.cache, per_class=options.per_class, keep_features=bool(options.neighbours)
    )
