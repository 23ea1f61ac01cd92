"""Stored values: how they are rounded, how near they must be met, and how they are written anew.

A file holds ``{name: {group: values}}``. A change that is meant to alter some of them writes them anew, and its commit
shows which groups of which names it has altered, and no others:

    LIGHTNING_GEN_REWRITE_GOLDEN=1 pytest tests/characterisation

Values are rounded to six digits and compared with tolerances that other machines and other versions of torch keep to.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent
REWRITE = "LIGHTNING_GEN_REWRITE_GOLDEN"
RELATIVE, ABSOLUTE = 1e-4, 1e-6
WIDER = {
    "mean levels": (0.0, 0.05),
    "diagnostics/score_fake": (0.01, 0.03),
    "diagnostics/diversity": (0.01, 0.0),
    "figures of a fit": (0.02, 0.0),
    "figures": (1e-3, 1e-5),
}
"""Relative and absolute tolerance of values in these places. In a drawn image a pixel may be rounded to the next level,
which moves means and scores a little; figures of commands are of many such images, or of chains in single precision,
and what is fitted by long chains is not the same to many digits. The first place that fits counts."""
SHOWN = 12


def against_stored(file: str, name: str, found: Mapping[str, Any]) -> None:
    """Compare ``{group: values}`` with what ``file`` has under ``name``, or store them where the environment says so.

    Values are tensors, arrays, numbers, texts, None, and lists and dictionaries of them.
    """
    path, values = FOLDER / file, plain(found)
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if os.environ.get(REWRITE):
        stored[name] = values
        path.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert name in stored, f"{file} has nothing about {name}: see the head of stored.py"
    lines = list(differences(stored[name], values))
    more = f"\n... and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    assert not lines, f"{name} is not as {file} has it:\n" + "\n".join(lines[:SHOWN]) + more


def names_in(file: str) -> set[str]:
    """Return the names that a file has values of."""
    return set(json.loads((FOLDER / file).read_text(encoding="utf-8")))


def plain(value: Any) -> Any:
    """Return plain data, its numbers rounded to six digits."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def differences(stored: Any, found: Any, where: str = "") -> Iterator[str]:
    """Yield a line about each value that is another one, or missing on either side."""
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in sorted(stored.keys() | found.keys()):
            place = f"{where}/{key}" if where else key
            if key not in found:
                yield f"{place}: stored, and no longer there"
            elif key not in stored:
                yield f"{place}: not stored"
            else:
                yield from differences(stored[key], found[key], place)
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for i, (old, new) in enumerate(zip(stored, found, strict=True)):
            yield from differences(old, new, f"{where}[{i}]")
    elif not is_near(stored, found, where):
        yield f"{where}: {stored} stored, {found} found"


def is_near(stored: Any, found: Any, where: str) -> bool:
    """Whether two values agree, numbers within the tolerance of their place."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (stored, found)):
        return stored == found
    if math.isnan(stored) or math.isnan(found):
        return math.isnan(stored) and math.isnan(found)
    relative, absolute = next((WIDER[place] for place in WIDER if place in where), (RELATIVE, ABSOLUTE))
    return math.isclose(stored, found, rel_tol=relative, abs_tol=absolute)


def levels_of(images: Tensor | np.ndarray) -> dict[str, list[float]]:
    """Return what is stored of images, levels (N, C, H, W): mean levels of each, and of its upper and its left half."""
    levels = torch.as_tensor(images).double()
    _, _, height, width = levels.shape
    halves = {"": levels, " above": levels[:, :, : height // 2], " left": levels[..., : width // 2]}
    return {f"mean levels{name}": part.flatten(1).mean(1).tolist() for name, part in halves.items()}
