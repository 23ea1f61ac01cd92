"""What the verbs on trained models share."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jsonargparse.typing import PositiveInt

from lightning_gen.commands.messages import CommandParser
from lightning_gen.errors import InputError
from lightning_gen.models import GenerativeModule, load, read_checkpoint


def add_model_options(parser: CommandParser, optional: bool = False) -> None:
    """Add the options of every verb that reads a checkpoint of a generative model; ``optional`` where it need not."""
    may_miss = {"nargs": "?", "default": None} if optional else {}
    text = "Checkpoint file, such as runs/.../best.ckpt."
    parser.add_argument("checkpoint", type=str | None if optional else str, metavar="CKPT", help=text, **may_miss)
    parser.add_argument("--seed", type=int, default=0, help="Seed of samples and of a likelihood's noise.")
    parser.add_argument("--batch_size", type=PositiveInt, default=500, help="Images (or chains) at once.")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, mps, or auto.")
    parser.add_argument("--weights", choices=("averaged", "live"), default="averaged", help="Which weights to use.")
    parser.add_argument("--trust", nargs="*", default=[], help="Further packages to build classes from.")


def split_sampler_options(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (arguments without, arguments with) the ``--sampler.*`` options, which depend on the model."""
    rest, sampler = [], []
    i = 0
    while i < len(args):
        if args[i].startswith("--sampler."):
            width = 1 if "=" in args[i] else 2
            if i + width > len(args):
                raise InputError(f"{args[i]} needs a value")
            sampler += args[i : i + width]
            i += width
        else:
            rest.append(args[i])
            i += 1
    return rest, sampler


def find_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        InputError: for a device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def load_generator(options: Any, sampler_options: Sequence[str]) -> tuple[GenerativeModule, dict[str, Any]]:
    """Return the model of ``options.checkpoint``, with the sampler's options set, and the checkpoint's content."""
    checkpoint = read_checkpoint(options.checkpoint)
    average = options.weights == "averaged"
    model = load(options.checkpoint, trust=options.trust, average=average, checkpoint=checkpoint)
    if not isinstance(model, GenerativeModule):
        raise InputError(f"{options.checkpoint} holds a {type(model).__name__}, which draws no images")
    if sampler_options:
        model.sampler = changed_sampler(model, sampler_options)
    return model.to(find_device(options.device)), checkpoint


def changed_sampler(model: GenerativeModule, options: Sequence[str]) -> Any:
    """Return a sampler like the model's with some of its init arguments given anew.

    Raises:
        InputError: for an option that this model's sampler does not have, or a bad value.
    """
    sampler = getattr(model, "sampler", None)
    if sampler is None:
        raise InputError(f"{type(model).__name__} has no sampler, so {options[0]} means nothing")
    names = [name for name in inspect.signature(type(sampler).__init__).parameters if name != "self"]
    for option in options:
        name = option.removeprefix("--sampler.").partition("=")[0]
        if option.startswith("--sampler.") and name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
            raise InputError(f"{type(sampler).__name__} has no option {name!r}: {hint}")
    parser = CommandParser(prog="lightning")
    parser.add_class_arguments(type(sampler), "sampler")
    parser.set_defaults({f"sampler.{name}": getattr(sampler, name) for name in names})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return parser.instantiate(parser.parse_args(list(options))).sampler
