"""A run's command line, as W&B's agents build it."""

import ast
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_gen.core import InputError
from lightning_gen.sweeps.file import ENVIRONMENT_MACRO, SweepFile

PARAMETERS_FILE = "parameters.json"


def command_line(sweep: SweepFile, parameters: Mapping[str, Any], folder: Path | str) -> list[str]:
    """Return the command of a run, item by item what W&B's agent runs, ``/usr/bin/env`` included.

    So that ``lightning`` and ``python`` are those of this environment, the caller puts the folder of
    ``sys.executable`` first in PATH.

    Args:
        sweep: whose ``command`` is filled in.
        parameters: shown values by name.
        folder: where ``${args_json_file}`` is written, as ``parameters.json``; not touched without that macro.

    Raises:
        InputError: for ``${envvar:X}`` where X is not set.
    """
    flags = [f"{name}={value}" for name, value in parameters.items()]
    macros = {
        "env": [] if sys.platform == "win32" else ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [sweep.program],
        "args": [f"--{flag}" for flag in flags],
        "args_no_equals": [item for name, value in parameters.items() for item in (f"--{name}", str(value))],
        "args_no_hyphens": flags,
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in parameters.items()
            if value is not False
        ],
        "args_json": [json.dumps(dict(parameters))],
        "args_json_file": [str(Path(folder) / PARAMETERS_FILE)],
        "args_append_hydra": [f"+{flag}" for flag in flags],
        "args_override_hydra": [f"++{flag}" for flag in flags],
    }
    if "${args_json_file}" in sweep.command:
        Path(folder, PARAMETERS_FILE).write_text(macros["args_json"][0], encoding="utf-8")
    command = []
    for item in sweep.command:
        item = ENVIRONMENT_MACRO.sub(lambda match: _variable(match[1], sweep), item)
        command += macros.get(item[2:-1], [item]) if item.startswith("${") and item.endswith("}") else [item]
    return command


def _variable(name: str, sweep: SweepFile) -> str:
    # W&B's agent would put the variable's name in the place of its value.
    if name not in os.environ:
        raise InputError(f"{sweep.path}: command wants ${{envvar:{name}}}, but the variable {name} is not set")
    return os.environ[name]


def plain_values(args: Sequence[str]) -> list[str]:
    """Return ``args`` with values as YAML has them where an agent wrote them as Python does.

    ``--key=None`` becomes ``--key=null``; lists and dictionaries such as ``--key=[None, 'a']`` become JSON. Text stays
    as it is, so that the text None cannot be passed in this form.
    For :mod:`lightning_gen.commands.training`, where a sweep runs it.
    """
    return [_plain(arg) for arg in args]


def _plain(arg: str) -> str:
    key, equals, value = arg.partition("=")
    if not key.startswith("--") or not equals:
        return arg
    if value == "None":
        return f"{key}=null"
    if value[:1] not in ("[", "{"):
        return arg
    try:
        return f"{key}={json.dumps(ast.literal_eval(value), allow_nan=False)}"
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # YAML, or text
        return arg


def shown_command(command: Sequence[str]) -> str:
    """Return a command line as one types it: what runs a trial outside its sweep.

    >>> shown_command(["/usr/bin/env", "lightning", "fit", "--model.loss=None", "--model.widths=[8, 8]"])
    "lightning fit --model.loss=null --model.widths='[8, 8]'"
    """
    starts_with_env = bool(command) and Path(command[0]).name == "env"
    return shell_text(plain_values(command[1:] if starts_with_env else command))


def shell_text(words: Sequence[str]) -> str:
    """Return words as a shell wants them; of an option its value alone is quoted."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    key, equals, value = word.partition("=")
    if equals and key.startswith("--") and shlex.quote(key) == key:
        return f"{key}={shlex.quote(value)}"
    return shlex.quote(word)
