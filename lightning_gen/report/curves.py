"""Curves thinned to what an eye can see, and packed for the page."""

import base64
import functools
import gzip
import json
import re
from typing import Any

import numpy as np

from lightning_gen.report.tables import AXIS, Table

BUCKETS = 96  # of equally many rows each
EARLY = 24  # more of them, ever wider from the first row on, for a logarithmic axis


@functools.lru_cache(maxsize=64)  # the curves of a run, and of its kin, have the same number of rows
def edges(count: int) -> np.ndarray:
    """Return where buckets of ``count`` rows begin, and the end: equal ones, and fine ones at the start."""
    even = np.linspace(0, count, BUCKETS + 1)
    early = np.geomspace(1, count, EARLY)
    return np.unique(np.concatenate([even, early, [0, count]]).astype(int))


def thin(values: np.ndarray) -> np.ndarray:
    """Return the rows to keep of ``values`` (R,), in order: the lowest and the highest of each bucket, first and last.

    A curve of few rows stays whole. What is left has the outline of the whole at the width of a screen, and its
    extremes exactly.
    """
    count = len(values)
    if count <= 2 * (BUCKETS + EARLY):
        return np.arange(count)
    bounds = edges(count)
    bucket = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    kept = [np.array([0, count - 1])]
    for extreme in (np.minimum, np.maximum):
        found = np.flatnonzero(values == extreme.reduceat(values, bounds[:-1])[bucket])
        kept.append(found[np.append(True, np.diff(bucket[found]) > 0)])  # the first of each bucket
    return np.unique(np.concatenate(kept))


def middles(values: np.ndarray) -> np.ndarray:
    """Return the mean of each bucket of ``values`` (R,): what smoothing works on.

    The lowest and highest alone would be smoothed to the middle of the noise's range, not to its mean.
    """
    bounds = edges(len(values))
    return np.add.reduceat(values, bounds[:-1]) / np.diff(bounds)


def pack(table: Table) -> str:
    """Return the curves of a run as text for the page: JSON, compressed with gzip, in base64.

    ``{"axes": {name: [numbers]}, "curves": {figure: {"rows": [...], "y": [...], "mean": {name: [...], "y": [...]}}}}``.
    Axes hold the rows that any curve keeps; ``rows`` are places in them, each as the difference to the one before.
    """
    # Time spent, over which curves can be drawn, too.
    clocks = [name for name in table.names if name.rpartition("/")[2] in ("seconds", "processor_seconds")]
    columns: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for name in table.names:
        values = table.values[:, table.names.index(name)]
        rows = np.flatnonzero(np.isfinite(values))
        if len(rows) and name not in clocks:
            columns[name] = (rows, rows[thin(values[rows])], values)
    used = np.unique(np.concatenate([kept for _, kept, _ in columns.values()])) if columns else np.empty(0, int)
    axes = {AXIS: table.seen, **{name: table.values[:, table.names.index(name)] for name in clocks}}
    curves = {}
    for name, (rows, kept, values) in columns.items():
        steps = np.diff(np.searchsorted(used, kept), prepend=0)
        curve = {"rows": f"[{_whole(steps)}]", "y": f"[{_short(values[kept])}]"}
        if len(kept) < len(rows):
            lines = {axis: x[rows] for axis, x in axes.items()} | {"y": values[rows]}
            curve["mean"] = _object({name: f"[{_short(middles(line), 4)}]" for name, line in lines.items()})
        curves[name] = _object(curve)
    shown = {axis: f"[{_whole(x[used]) if axis == AXIS else _short(x[used])}]" for axis, x in axes.items()}
    text = _object({"axes": _object(shown), "curves": _object(curves)})
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def unpack(packed: str) -> dict[str, Any]:
    """Return what :func:`pack` was given, as plain data; the page does the same."""
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def _whole(numbers: np.ndarray) -> str:
    return ",".join(map(str, numbers.astype(np.int64).tolist()))


def _short(numbers: np.ndarray, digits: int = 5) -> str:
    """Return numbers with as many digits as a plot can show; null for what is not finite."""
    text = (f"%.{digits}g," * len(numbers) % tuple(numbers.tolist()))[:-1]
    return text if np.isfinite(numbers).all() else re.sub(r"-?(nan|inf)", "null", text)


def _object(parts: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in parts.items()) + "}"
