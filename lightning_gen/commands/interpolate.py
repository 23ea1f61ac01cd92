"""lightning interpolate: a picture of images between random latents."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse.typing import PositiveInt

from lightning_gen.commands.common import add_model_options, load_generator, split_sampler_options
from lightning_gen.commands.messages import CommandParser
from lightning_gen.commands.sample import choose_labels
from lightning_gen.core import Decodes, InputError, check_file, evaluating, heeded_labels, keyed_generator
from lightning_gen.evaluation import grid_picture, save_png
from lightning_gen.models.checkpoint import class_names
from lightning_gen.samplers import interpolate


def run(args: Sequence[str]) -> None:
    """Draw a grid; ``lightning interpolate --help`` lists the options."""
    rest, sampler_options = split_sampler_options(args)
    parser = CommandParser(
        prog="lightning interpolate",
        description="Write a picture whose rows go from one random latent to another: where latents are standard "
        "normal along a great circle, so that every image between the two is as likely as they are, else straight. A "
        "smooth row says that the model learned more than its training images. Options of the model's sampler are "
        "--sampler.NAME, such as --sampler.truncation 1.",
    )
    add_model_options(parser)
    parser.add_argument("--out", type=str, required=True, help="File of the picture, such as between.png.")
    parser.add_argument("--rows", type=PositiveInt, default=8, help="Pairs of latents.")
    parser.add_argument("--steps", type=PositiveInt, default=10, help="Images in a row, both ends among them.")
    parser.add_argument("--labels", type=list[int | str] | None, default=None, help="Classes of the rows, in turn.")
    options = parser.parse_args(rest)
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: give a name that ends in .png")
    check_file("--out", out)
    if options.steps < 2:
        raise InputError("--steps must be at least 2: a row shows both of its ends")
    model, checkpoint = load_generator(options, sampler_options)
    if not isinstance(model, Decodes) or model.latents == "discrete":
        raise InputError(f"{type(model).__name__} draws its images without latents: there is nothing to interpolate")
    labels = choose_labels(model, options.rows, options.labels, class_names(checkpoint))
    of_ends = heeded_labels(model, None if labels is None else labels.repeat_interleave(2), 2 * options.rows)
    with evaluating(model):
        generator, sampler = keyed_generator(options.seed, "interpolate"), model.sampler
        ends = sampler.latents(model, 2 * options.rows, of_ends, generator)
        rows = interpolate(ends[0::2], ends[1::2], options.steps, model.latents).flatten(0, 1)
        labels = heeded_labels(model, None if labels is None else labels.repeat_interleave(options.steps), len(rows))
        batches = [
            sampler.decode(model, rows[part], None if labels is None else labels[part])
            for part in torch.arange(len(rows)).split(options.batch_size)
        ]
    save_png(grid_picture(torch.cat(batches), model.spec, options.steps), out)
    print(f"{options.rows} rows of {options.steps} images written to {out}", file=sys.stderr)
