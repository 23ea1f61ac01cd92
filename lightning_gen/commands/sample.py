"""lightning sample: draw images from a checkpoint."""

import difflib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jsonargparse.typing import PositiveInt

from lightning_gen.commands.common import (
    add_model_options,
    load_generator,
    split_sampler_options,
)
from lightning_gen.commands.messages import CommandParser
from lightning_gen.core import InputError, check_file
from lightning_gen.evaluation import draw, grid_picture, picture, save_png, to_pixels
from lightning_gen.models import GenerativeModule
from lightning_gen.models.checkpoint import class_names

MOST_NAMED = 20  # classes in a message


def run(args: Sequence[str]) -> None:
    """Draw images; ``lightning sample --help`` lists the options."""
    rest, sampler_options = split_sampler_options(args)
    parser = CommandParser(
        prog="lightning sample",
        description="Draw images from a checkpoint: DIR/00000.png ..., DIR/samples.npy (uint8 levels (N, C, H, W)) "
        "and, where the model takes labels, DIR/labels.npy. Options of the model's sampler are --sampler.NAME, such as "
        "--sampler.temperature 0.8.",
    )
    add_model_options(parser)
    parser.add_argument("--n", type=PositiveInt, default=64, help="How many images.")
    parser.add_argument("--out", type=str, required=True, help="Folder to make; must be empty or not exist.")
    parser.add_argument(
        "--labels",
        type=list[int | str] | None,
        default=None,
        help="Classes to draw, by name or number, repeated in turn, such as '[cat, dog]'.",
    )
    parser.add_argument(
        "--grid", type=str | None, default=None, help="Also write all images as one picture to this file."
    )
    options = parser.parse_args(rest)
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} exists and is not an empty folder: choose another")
    if options.grid:
        check_file("--grid", options.grid)
    model, checkpoint = load_generator(options, sampler_options)
    labels = choose_labels(model, options.n, options.labels, class_names(checkpoint))
    levels = draw(model, options.n, labels, options.batch_size, options.seed)
    write_samples(levels, labels if model.conditional else None, model, out)
    if options.grid:
        save_png(grid_picture(levels, model.spec), Path(options.grid))
    print(f"{options.n} images written to {out}", file=sys.stderr)


def choose_labels(
    model: GenerativeModule, n: int, wanted: Sequence[int | str] | None, names: Sequence[str] = ()
) -> torch.Tensor | None:
    """Return labels (n,): the wanted classes in turn, else every class in turn; None for a model without labels.

    Args:
        model: what draws.
        n: how many labels.
        wanted: names of classes, or their numbers where no name is a number.
        names: of all classes, where they are known.

    Raises:
        InputError: for classes that the model does not have.
    """
    if not model.conditional:
        if wanted:
            raise InputError(f"this {type(model).__name__} is not class-conditional: leave --labels out")
        return None
    count = model.spec.num_classes
    known = {str(name): label for label, name in enumerate(names)}
    if not any(name.isdecimal() for name in known):
        known |= {str(label): label for label in range(count)}
    for item in wanted or ():
        if str(item) not in known:
            there = ", ".join(names) if 0 < len(names) <= MOST_NAMED else f"0 .. {count - 1}"
            near = difflib.get_close_matches(item, known, 1) if isinstance(item, str) else []
            raise InputError(f"--labels {item}: " + (f"did you mean {near[0]!r}?" if near else f"classes are {there}"))
    classes = [known[str(item)] for item in wanted] if wanted else range(count)
    return torch.tensor(list(classes)).repeat(-(-n // len(classes)))[:n]


def write_samples(levels: torch.Tensor, labels: torch.Tensor | None, model: GenerativeModule, out: Path) -> None:
    """Write PNGs and arrays into ``out``, which appears only when everything is in it."""
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        width = max(5, len(str(len(levels) - 1)))
        for i, pixels in enumerate(to_pixels(levels, model.spec)):
            picture(pixels).save(unfinished / f"{i:0{width}d}.png")
        np.save(unfinished / "samples.npy", levels.numpy())
        if labels is not None:
            np.save(unfinished / "labels.npy", labels.numpy())
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
