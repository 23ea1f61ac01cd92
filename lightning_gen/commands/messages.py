"""From jsonargparse's nested reports to one line that names the key and what is wrong with it."""

from __future__ import annotations

import difflib
import re
from typing import Any

NOISE = re.compile(
    r"^(-\s*)?(Does not validate against any of the Union subtypes|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>"
    r"|Problem with given class_path|Got value|usage:|tip:)"
)


def condense(message: str, parser: Any = None) -> str:
    """Return the useful part of a parser's error message in one line."""
    key, useful = [], []
    for line in message.splitlines():
        stripped = line.strip()
        found = re.match(r"(?:- )?Parser key \"([^\"]+)\":?", stripped)
        if found:
            key.append(found[1])
            stripped = stripped[found.end() :].strip()
        if stripped and not NOISE.match(stripped):
            useful.append(re.sub(r"^- ", "", stripped))
    text = useful[0] if useful else " ".join(message.split())
    return ": ".join(part for part in (".".join(key), text) if part)[:600]


def nearest(word: str, known: list[str]) -> str:
    """Return a hint at the known word nearest to ``word``, or ''."""
    near = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
