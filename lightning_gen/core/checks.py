"""Checks of what a constructor is given, each one line with a clear message.

Numbers may be None: an argument that was not given. Whether it may be left out is for its annotation to say.
"""

import math
import operator
from numbers import Integral
from typing import Any

from lightning_gen.core.errors import InputError

FINITE = " and finite"


def check(owner: object, name: str, value: Any, holds: bool, expected: str) -> None:
    """Raise InputError unless ``holds``: "Owner.name must be <expected>, got <value>".

    Args:
        owner: an object, named by its class, or the beginning of a key, such as ``ema`` on the command line; "" for a
            key that has none.
        name: of the argument.
        value: as it was given.
        holds: whether it will do.
        expected: what would do.
    """
    if not holds:
        where = owner if isinstance(owner, str) else type(owner).__name__
        raise InputError(f"{where}.{name} must be {expected}, got {value!r}".removeprefix("."))


def check_positive(owner: object, **values: int) -> None:
    """Raise InputError unless every value is a positive integer, which None is not."""
    for name, value in values.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        check(owner, name, value, whole and value >= 1, "a positive integer")


def check_at_least(owner: object, least: float, **values: float | None) -> None:
    """Raise InputError unless every value is a finite number of at least ``least``, or None."""
    for name, value in values.items():
        holds = value is None or least <= value < math.inf
        check(owner, name, value, holds, f"at least {least}{FINITE if value == math.inf else ''}")


def check_above(owner: object, bound: float, **values: float | None) -> None:
    """Raise InputError unless every value is a finite number above ``bound``, or None."""
    for name, value in values.items():
        holds = value is None or bound < value < math.inf
        check(owner, name, value, holds, f"above {bound}{FINITE if value == math.inf else ''}")


def check_within(owner: object, interval: str, **values: float | None) -> None:
    """Raise InputError unless every value lies in ``interval``, such as "[0, 1)" for 0 <= value < 1, or is None."""
    low, high = map(float, interval[1:-1].split(","))
    above = operator.ge if interval[0] == "[" else operator.gt
    below = operator.le if interval[-1] == "]" else operator.lt
    for name, value in values.items():
        check(owner, name, value, value is None or (above(value, low) and below(value, high)), f"in {interval}")


def check_choice(owner: object, choices: tuple, **values: Any) -> None:
    """Raise InputError unless every value is one of ``choices``."""
    *others, last = map(str, choices)
    for name, value in values.items():
        check(owner, name, value, value in choices, f"{', '.join(others)} or {last}")
