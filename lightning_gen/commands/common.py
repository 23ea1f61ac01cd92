"""What the verbs on trained models share."""

import difflib
import importlib
import inspect
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
from jsonargparse.typing import PositiveInt

from lightning_gen import samplers
from lightning_gen.commands.messages import CommandParser
from lightning_gen.core import InputError
from lightning_gen.models import GenerativeModule, load, read_checkpoint
from lightning_gen.samplers import Sampler


def add_model_options(parser: CommandParser, optional: bool = False) -> None:
    """Add the options of every verb that reads a checkpoint of a generative model; ``optional`` where it need not."""
    may_miss = {"nargs": "?", "default": None} if optional else {}
    text = "Checkpoint file, such as runs/.../best.ckpt."
    parser.add_argument("checkpoint", type=str | None if optional else str, metavar="CKPT", help=text, **may_miss)
    parser.add_argument("--seed", type=int, default=0, help="Seed of samples and of a likelihood's noise.")
    parser.add_argument(
        "--batch_size", type=PositiveInt, default=500, help="Images (or chains) at once; another number draws others."
    )
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, mps, or auto.")
    parser.add_argument("--weights", choices=("averaged", "live"), default="averaged", help="Which weights to use.")
    parser.add_argument(
        "--data_root",
        type=str | None,
        default=None,
        help="Folder in which the data of the checkpoint's run are now, where they have moved since.",
    )
    parser.add_argument("--trust", nargs="*", action="extend", default=[], help="Further packages of classes.")


def split_sampler_options(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return arguments without ``--sampler`` and ``--sampler.*``, and those, which the model judges, as name=value."""
    rest, sampler = [], []
    i = 0
    while i < len(args):
        name, equals, _ = args[i].partition("=")
        if name == "--sampler" or name.startswith("--sampler."):
            if not equals and i + 1 == len(args):
                raise InputError(f"{name} needs a value")
            sampler.append(args[i] if equals else f"{name}={args[i + 1]}")
            i += 1 if equals else 2
        else:
            rest.append(args[i])
            i += 1
    return rest, sampler


def print_figures(figures: dict[str, float], beside: dict[str, dict[str, float]] | None = None) -> None:
    """Print one line for each figure, and in columns of their own what stands beside it, such as the floor."""
    width = max(28, *map(len, figures))
    if beside:
        print(f"{'':<{width}} {'samples':<12}" + "".join(f" {title:<12}" for title in beside).rstrip())
    for name, value in figures.items():
        line = f"{name:<{width}} {value:<12.6g}"
        for column in (beside or {}).values():
            line += f" {column[name]:<12.6g}" if name in column else f" {'-':<12}"
        print(line.rstrip())


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
    model = load(options.checkpoint, trust=options.trust, average=options.weights == "averaged", checkpoint=checkpoint)
    if not isinstance(model, GenerativeModule):
        raise InputError(f"{options.checkpoint} holds a {type(model).__name__}, which draws no images")
    if sampler_options:
        model.sampler = changed_sampler(model, sampler_options)
    model.sampler.check(model)
    return model.to(find_device(options.device)), checkpoint


def changed_sampler(model: GenerativeModule, options: Sequence[str]) -> Sampler:
    """Return a sampler like the model's with some of its init arguments given anew, or one of another class.

    Raises:
        InputError: for a class or an option that there is not, or a bad value.
    """
    given = dict(option.split("=", 1) for option in options)
    same = "--sampler" not in given
    cls = type(model.sampler) if same else find_sampler(given.pop("--sampler"))
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    for option in given:
        name = option.removeprefix("--sampler.")
        if name not in names:
            hint = nearest_of(name, names, f"it has {', '.join(names) or 'none'}")
            raise InputError(f"{cls.__name__} has no option {name!r}: {hint}")
    parser = CommandParser(prog="lightning")
    parser.add_class_arguments(cls, "sampler")
    if same:
        parser.set_defaults({f"sampler.{name}": getattr(model.sampler, name) for name in names})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return parser.instantiate(parser.parse_args([f"{name}={value}" for name, value in given.items()])).sampler


def find_sampler(name: str) -> type[Sampler]:
    """Return the sampler's class of that name, or import path.

    Raises:
        InputError: where there is none, naming the nearest.
    """
    known = {
        key: value
        for key, value in vars(samplers).items()
        if inspect.isclass(value) and issubclass(value, Sampler) and not inspect.isabstract(value)
    }
    if "." in name:
        module, _, last = name.rpartition(".")
        with suppress(ImportError):
            found = getattr(importlib.import_module(module), last, None)
            if inspect.isclass(found) and issubclass(found, Sampler) and not inspect.isabstract(found):
                return found
    elif name in known:
        return known[name]
    hint = nearest_of(name, known, f"there are {', '.join(sorted(known))}")
    raise InputError(f"--sampler {name}: no sampler of that name: {hint}")


def nearest_of(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint at the known name nearest to ``name``, or ``otherwise`` where none is near."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else otherwise
