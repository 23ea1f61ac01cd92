"""Every command line of a sweep is parsed, and its model made, before the first run."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_gen.core import InputError
from lightning_gen.sweeps.file import SweepFile

MODULE = "lightning_gen.commands.check_sweep"


def commands_to_check(sweep: SweepFile) -> list[dict[str, Any]]:
    """Return sets of parameters in which every listed value and both ends of every range occur at least once.

    As many sets as the longest list of points; pass each to :func:`lightning_gen.sweeps.command.command_line`.
    """
    points = {name: distribution.points() for name, distribution in sweep.parameters.items()}
    count = max(map(len, points.values()))
    return [{name: values[i % len(values)] for name, values in points.items()} for i in range(count)]


def check_commands(commands: Sequence[Sequence[str]], lenient: bool = False) -> list[str]:
    """Parse command lines of this package's ``fit`` in one process of its own, and make their models.

    Nothing is trained. Command lines of other programs are left alone. Most of its time is the import of Lightning,
    some 5 s.

    Args:
        commands: as :func:`lightning_gen.sweeps.command.command_line` makes them.
        lenient: whether a value that no model can be made with is no error: for a sweep file written for other images.

    Returns:
        What else the user should know, a line each.

    Raises:
        InputError: the first error, in one line that names the sweep's key, and the nearest one there is.
    """
    own = [args for args in map(fit_arguments, commands) if args is not None]
    if not own:
        return []
    done = subprocess.run(
        [sys.executable, "-m", MODULE],
        input=json.dumps({"lines": own, "lenient": lenient}),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the check of the command lines failed: {last}") from None
    if answer["error"] is not None:
        raise InputError(answer["error"])
    return answer["notes"]


def fit_arguments(command: Sequence[str]) -> list[str] | None:
    """Return the arguments from ``fit`` on of a command line of this package, or None for any other."""
    items = [item for item in command if item != "/usr/bin/env"]
    if items and Path(items[0]).name in ("lightning", "lightning-gen"):
        items = items[1:]
    elif items[1:3] == ["-m", "lightning_gen"]:
        items = items[3:]
    else:
        return None
    return items if items[:1] == ["fit"] else None
