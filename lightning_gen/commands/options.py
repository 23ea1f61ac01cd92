"""Options of the training verbs that are no class's own, and those that mean nothing, which the parser lets through."""

import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from lightning_gen.core import InputError, check

# Options of Lightning's Trainer whose place is taken by the project's own: refused, with the key to use, never ignored.
LENGTH = "a run's length is in images or minutes: --budget.images N, --budget.minutes M"
INTERVAL = "evaluations are counted in images: --evaluation.every N"
REPLACED = {
    **dict.fromkeys(("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps"), LENGTH),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), INTERVAL),
    "default_root_dir": "runs are kept in --run.root DIR",
}
UNSET = {"check_val_every_n_epoch": 1}


@dataclass
class RunOptions:
    """Where a run is kept, and how many threads it uses.

    Args:
        root: folder of all runs.
        experiment: name of the folder of this run's versions; null takes the name of the first config file, or
            sweep-ID where an agent of a W&B sweep starts the run.
        threads: CPU threads of torch in each process; null leaves torch's choice. Small models are fastest with 1.
        wandb: log to Weights & Biases, too: online if you have logged in, else offline into the run's folder. Agents of
            W&B's sweeps need not ask for it.
        tensorboard: log to TensorBoard, too, into the run's folder.
    """

    root: str = "runs"
    experiment: str | None = None
    threads: int | None = None
    wandb: bool = False
    tensorboard: bool = False


def check_options(options: Namespace, groups: Iterable[str]) -> None:
    """Refuse what the parser lets through.

    Args:
        options: of the command line.
        groups: names of those that stand for several.

    Raises:
        InputError: where a config gives a group something else than its options, for a seed that is none, and for
            options of Lightning's Trainer whose place is taken here, or that cannot work.
    """
    for group in groups:
        if not isinstance(options[group], Namespace):
            raise InputError(f"{group}: stands for several options: give them under it, or leave it out")
    check("", "seed_everything", options.seed_everything, 0 <= options.seed_everything < 2**32, "from 0 to 4294967295")
    for key, remedy in REPLACED.items():
        if options.trainer[key] not in (None, -1, UNSET.get(key)):
            raise InputError(f"trainer.{key}: {remedy}")
    if any(way in str(options.trainer.strategy) for way in ("spawn", "fork", "notebook")):
        raise InputError("trainer.strategy: spawned processes give no results back; use ddp")


def refuse_nulls(key: str, given: Any) -> None:
    """Refuse null for an argument that means nothing by it, which the parser lets through.

    Args:
        key: of what is given.
        given: a class and its arguments; anything else is passed over.

    Raises:
        InputError: naming the argument.
    """
    if isinstance(given, list):
        for i, item in enumerate(given):
            refuse_nulls(f"{key}.{i}", item)
    if not isinstance(given, Namespace) or "class_path" not in given or not isinstance(given.class_path, str):
        return
    module, _, name = given.class_path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    for argument, value in vars(given.get("init_args") or Namespace()).items():
        is_linked = key == "model" and argument == "spec"  # which the data will give
        if value is None and not is_linked and inspect.isclass(cls) and not _may_be_null(cls, argument):
            raise InputError(f"{key}.{argument}: must not be null: give a value, or leave it out")
        refuse_nulls(f"{key}.{argument}", value)


def _may_be_null(cls: type, argument: str) -> bool:
    """Whether a class says, or does not say otherwise, that an argument may be None; a base may have it, too."""
    functions = [vars(owner).get("__init__") for owner in cls.__mro__]
    for function in filter(inspect.isfunction, functions):
        parameter = inspect.signature(function).parameters.get(argument)
        if parameter is None:
            continue
        try:
            kind = get_type_hints(function).get(argument, Any)
        except NameError:  # a hint that is for type checkers alone
            return True
        return parameter.default is None or kind in (Any, object, None) or type(None) in get_args(kind)
    return True
