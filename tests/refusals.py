"""What bad input is told, by a call and by a command line: so that many cases of one kind fit into one test."""

from collections.abc import Callable
from typing import Any

from lightning_gen.cli import main
from lightning_gen.core.errors import InputError


def refusal(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return the line that a call is refused with; "nothing" where it is accepted."""
    said = "nothing"
    try:
        call(*args, **kwargs)
    except InputError as error:
        said = str(error)
    assert "\n" not in said, said
    return said


def refused(capsys: Any, *arguments: str, alone: bool = True) -> str:
    """Return the line, without its "error: ", that a command ends with, and check that its code is 2.

    Args:
        capsys: the fixture.
        arguments: the command line.
        alone: whether that line must be all that is printed.
    """
    capsys.readouterr()
    code: Any = None
    try:
        main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert code == 2, (arguments, code, lines)
    assert len(errors) == 1, (arguments, lines)
    assert not alone or (len(lines), said.out) == (1, ""), (arguments, lines, said.out)
    assert not [line for line in lines if "Traceback" in line], arguments
    return errors[0].removeprefix("error: ")
