"""lightning ais: bits per dimension of a model that decodes latents, by annealed importance sampling."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from torch import Tensor

from lightning_gen.commands.common import add_model_options, load_generator, print_figures, split_sampler_options
from lightning_gen.commands.likelihood import check_images, meaning
from lightning_gen.commands.messages import CommandParser
from lightning_gen.core import (
    HasLikelihood,
    InputError,
    check,
    check_file,
    describe,
    evaluating,
    flat,
    keyed_generator,
    write_json,
)
from lightning_gen.data import ImageDataModule, Images
from lightning_gen.evaluation import choose_images, tensors
from lightning_gen.evaluation.annealing import score_annealed, score_simulated
from lightning_gen.models import GenerativeModule
from lightning_gen.models.checkpoint import load_data
from lightning_gen.samplers import AnnealedImportanceSampling, GaussianDecoder, decoder_of, is_decoder
from lightning_gen.samplers.decoders import LatentDecoder

DESCRIPTION = """Bound the likelihood of held-out images under a model that decodes latents, such as a GAN, by annealed
importance sampling. A decoder without a likelihood of its own gets Gaussian noise around its pixels, whose standard
deviation is fitted on validation images, integrated over the levels. In expectation bpd_ais is at least the bits per
dimension of the model: log p is bounded from below. Of images simulated from the model it is bounded from the other
side, too: the gap between the two says how far the figure can be trusted, and shrinks as --steps grow. Noise is drawn
for --batch_size chains at once, so figures are the same twice for the same --seed and --batch_size."""
FIT_IMAGES = 100
LEAST_FIT_IMAGES = 20


def run(args: Sequence[str]) -> None:
    """Bound a likelihood; ``lightning ais --help`` lists the options."""
    rest, sampler_options = split_sampler_options(args)
    options = make_parser().parse_args(rest)
    check_options(options)
    method = AnnealedImportanceSampling(options.steps, options.chains, options.leapfrog, options.schedule)
    model, checkpoint = load_generator(options, sampler_options)
    check_model(model, options)
    data = load_data(checkpoint, options.trust, options.data_root)
    check_images(data)
    chosen, fitting = choose(data, model, options)
    started = time.monotonic()
    model.requires_grad_(False)  # only latents are differentiated by
    with evaluating(model):
        decoder, facts = observe(model, fitting, options)
        how = {"batch_size": options.batch_size, "seed": options.seed, "tell": say}
        report, about = score_annealed(decoder, method, model, chosen, **how)
        say(meaning(about, options.part))
        if options.simulated:
            report |= score_simulated(decoder, method, model, options.simulated, **how)
    print_figures(report)
    if options.json:
        report |= facts | {
            "kind": "ais",
            "bound": "upper, in expectation",
            "n": len(chosen.levels),
            "part": options.part,
            "given_labels": model.conditional,
            "num_samples": options.chains,
            **{name: options[name] for name in ("chains", "steps", "leapfrog", "schedule", "simulated")},
            **{name: options[name] for name in ("seed", "batch_size", "weights")},
            "sampler": describe(model.sampler),
            "checkpoint": options.checkpoint,
            "images_seen": model.images_seen,
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(Path(options.json), flat(report))


def make_parser() -> CommandParser:
    """Return the parser of this verb."""
    parser = CommandParser(prog="lightning ais", description=DESCRIPTION)
    add_model_options(parser)
    parser.add_argument("--n", type=PositiveInt, default=100, help="Held-out images, or as many as there are.")
    parser.add_argument("--part", choices=("val", "test"), default="val", help="Part of the data they are from.")
    parser.add_argument("--chains", type=PositiveInt, default=8, help="Chains for each image.")
    parser.add_argument("--steps", type=PositiveInt, default=500, help="Temperatures between prior and posterior.")
    parser.add_argument("--leapfrog", type=PositiveInt, default=3, help="Gradient evaluations at each temperature.")
    parser.add_argument("--schedule", choices=("sigmoid", "linear"), default="sigmoid", help="Of the temperatures.")
    parser.add_argument(
        "--simulated", type=int, default=100, help="Images to simulate for the gap between the two bounds; 0 for none."
    )
    parser.add_argument(
        "--sigma",
        type=float | None,
        default=None,
        help="Standard deviation of the noise around a decoder's pixels, in units of [-1, 1]; fitted on validation "
        "images unless given.",
    )
    parser.add_argument("--json", type=str | None, default=None, help="File for the figures, as one flat JSON object.")
    return parser


def check_options(options: Namespace) -> None:
    """Raise InputError for options out of range, before the work."""
    simulated, sigma = options.simulated, options.sigma
    check("", "--simulated", simulated, simulated >= 0, "at least 0")
    check("", "--sigma", sigma, sigma is None or 0 < sigma < math.inf, "a finite number above 0")
    if options.json is not None:
        check_file("--json", options.json)


def check_model(model: GenerativeModule, options: Namespace) -> None:
    """Raise InputError for a model without latents, naming the measure that it does have."""
    name = type(model).__name__
    if is_decoder(model):
        if options.sigma is not None and not isinstance(decoder_of(model), GaussianDecoder):
            raise InputError(f"--sigma: this {name} says itself how likely pixels are: leave it out")
    elif isinstance(model, HasLikelihood):
        raise InputError(
            f"this {name} gives its likelihood itself: lightning evaluate {options.checkpoint} --likelihood"
        )
    else:
        raise InputError(f"{name} draws its images without latents: there is nothing to anneal")


def choose(data: ImageDataModule, model: GenerativeModule, options: Namespace) -> tuple[Images, Images | None]:
    """Return the images to score, and the validation images to fit the noise on: none of those; None without a fit.

    Raises:
        InputError: where the images to score leave too few validation images.
    """

    def take(images: Images, rows: Tensor) -> Images:
        places = rows.numpy()
        return Images(images.levels[places], images.labels[places] if model.conditional else None)

    held_out = data.images(options.part)
    rows = choose_images(len(held_out.levels), options.n)
    if not isinstance(decoder_of(model), GaussianDecoder) or options.sigma is not None:
        return take(held_out, rows), None
    validation = data.images("val")
    free = torch.ones(len(validation.levels), dtype=torch.bool)
    if options.part == "val":
        free[rows] = False
        if (left := int(free.sum())) < LEAST_FIT_IMAGES:
            raise InputError(
                f"--n {options.n} leaves {left} of {len(free)} validation images to fit the noise on, and at least "
                f"{LEAST_FIT_IMAGES} are needed: lower --n, give --part test, or give --sigma"
            )
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(0))
    return take(held_out, rows), take(validation, order[free[order]][-FIT_IMAGES:].sort().values)


def observe(
    model: GenerativeModule, fitting: Images | None, options: Namespace
) -> tuple[LatentDecoder, dict[str, Any]]:
    """Return the model with its observation model, and facts about that."""
    decoder = decoder_of(model, options.sigma or 1.0)
    if not isinstance(decoder, GaussianDecoder):
        return decoder, {"observation": "the model's own"}
    facts = {"observation": "discretized Gaussian", "sigma_images": 0}
    if fitting is not None:
        say(f"fitting the noise on {len(fitting.levels)} validation images ...")
        facts["sigma_images"] = len(fitting.levels)
        levels, labels = tensors(model, fitting, torch.arange(len(fitting.levels)))
        decoder.fit(levels, labels, keyed_generator(options.seed, "ais", "fit"), options.batch_size)
    return decoder, {"sigma": decoder.noise.sigma, **facts}


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)
