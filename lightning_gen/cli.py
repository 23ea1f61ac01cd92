"""The console script: finds the verb, and imports only what that verb needs."""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from lightning_gen import __version__, shipped
from lightning_gen.commands.verbs import COMMANDS, TRAINING, fail
from lightning_gen.core import InputError
from lightning_gen.shipped import configs_folder
from lightning_gen.sweeps.trial import join

HELP = """\
lightning-gen {version}: train, score and use deep generative image models

usage: lightning VERB [options]

training (a config names the model and the data; any value in it can be given as --key value):
{training}

using a trained model:
{commands}

examples:
  lightning fit --config configs/quickstart.yaml
  lightning fit --config configs/quickstart.yaml --budget.images 100000 --model.critic_steps 2
  lightning fit --config configs/quickstart.yaml --ckpt_path last        go on with a run that was stopped
  lightning sample runs/quickstart/version_0/checkpoints/best.ckpt --n 64 --out samples

`lightning VERB --help` lists the options of a verb. Configs that come with the package: {configs}
Exit codes: 0 done, 1 failed, 2 bad input, 130 and 143 stopped by Ctrl-C or SIGTERM with everything saved.
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command line.

    Args:
        args: arguments without the program's name; None takes them from ``sys.argv``.

    Raises:
        SystemExit: with code 2 after one line on stderr for bad input, 1 for a run that failed, 130 or 143 for one
            that was stopped by Ctrl-C or SIGTERM.
    """
    args = list(sys.argv[1:] if args is None else args)
    if os.getcwd() not in sys.path:  # so that a config can name classes of a file beside it, as `python -m` allows
        sys.path.append(os.getcwd())
    try:
        verb = find_verb(args)
        if verb is None:
            return
        if verb in TRAINING:
            join()  # a sweep, if one started this process: from here on it does not outlive it
            args = find_configs(args)  # a missing file is reported before anything slow is imported
            import_module("lightning_gen.commands.training").run(verb, args)
        else:
            import_module(f"lightning_gen.commands.{verb}").run(args[1:])
    except InputError as error:
        fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def find_verb(args: Sequence[str]) -> str | None:
    """Return the verb, or None once help or the version is printed.

    Raises:
        InputError: for an unknown verb, naming the nearest one.
    """
    if not args or args[0] in ("-h", "--help", "help"):
        listed = {
            name: "\n".join(f"  {verb:<13}{text}" for verb, text in verbs.items())
            for name, verbs in {"training": TRAINING, "commands": COMMANDS}.items()
        }
        print(HELP.format(version=__version__, configs=configs_folder(), **listed), end="")
        return None
    if args[0] == "--version":
        print(f"lightning-gen {__version__}")
        return None
    verbs = [*TRAINING, *COMMANDS]
    if args[0] in verbs:
        return args[0]
    if args[0].startswith("-"):
        raise InputError(f"the verb comes first: lightning fit {' '.join(args)[:80]}")
    near = difflib.get_close_matches(args[0], verbs, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"verbs are {', '.join(verbs)}"
    raise InputError(f"unknown verb {args[0]!r}: {hint}")


def find_configs(args: Sequence[str]) -> list[str]:
    """Return ``args`` with every config file found: as given, or ``configs/...`` among those of the package.

    Raises:
        InputError: for a file that is in neither place.
    """
    found = list(args)
    for i, arg in enumerate(args):
        if arg in ("--config", "-c"):
            if i + 1 == len(args):
                raise InputError(f"{arg} needs a file")
            found[i + 1] = find_config(args[i + 1])
        elif arg.startswith("--config="):
            found[i] = "--config=" + find_config(arg.partition("=")[2])
    return found


def find_config(name: str) -> str:
    """Return the path of one config file; a config as JSON, as sweep agents pass it, stays as it is."""
    if not name or name.startswith("--"):
        raise InputError("--config needs a file" + (f", got {name}" if name else ""))
    return name if name.lstrip().startswith("{") else str(shipped.find_config(name))
