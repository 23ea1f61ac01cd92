"""Reading a metrics.csv that may be half written, cut short or damaged, without losing its good rows."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

AXIS = "images_seen"


@dataclass
class Table:
    """Figures by images seen.

    Attributes:
        names: of the columns of ``values``, without images seen.
        seen: images seen (R,), never falling.
        values: figures (R, columns), not a number where a row has none.
        problems: what is wrong with the file, in words.
    """

    names: list[str] = field(default_factory=list)
    seen: np.ndarray = field(default_factory=lambda: np.empty(0))
    values: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    problems: list[str] = field(default_factory=list)

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return images seen and values of the rows where the figure is a finite number."""
        values = self.values[:, self.names.index(name)]
        kept = np.isfinite(values)
        return self.seen[kept], values[kept]

    def last(self) -> dict[str, float]:
        """Return the newest finite value of every figure."""
        newest = {name: self.column(name)[1] for name in self.names}
        return {name: float(values[-1]) for name, values in newest.items() if len(values)}


def read_table(path: Path, running: bool = False) -> Table:
    """Read a metrics.csv.

    Args:
        path: the file; one that does not exist is a table without rows.
        running: whether the run still writes it, so that an unfinished last row is no problem.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
    except FileNotFoundError:
        return Table()
    except OSError as error:
        return Table(problems=[f"metrics.csv cannot be read: {error.strerror}"])
    whole, _, rest = text.rpartition("\n")
    problems = ["metrics.csv: its last row was cut short and is left out"] if rest and not running else []
    header, *rows = whole.split("\n")
    try:
        names = next(csv.reader([header]), [])
    except csv.Error:
        names = []
    if AXIS not in names:
        if running and not whole.strip():  # its first row is on its way
            return Table()
        why = f"has no column {AXIS}" if whole.strip() else "was cut short" if rest.strip() else "is empty"
        return Table(problems=[f"metrics.csv {why}, so there are no curves"])
    values, wrong = _numbers(rows, len(names))
    axis = names.index(AXIS)
    known = np.isfinite(values[:, axis])
    if wrong or not known.all():
        good = np.setdiff1d(np.arange(2, len(rows) + 2), wrong)  # numbers of the lines that became rows of values
        lines = sorted([*wrong, *good[~known].tolist()])
        problems.append(f"metrics.csv: {_listed(lines)} left out: not {len(names)} numbers with {AXIS}")
    values = values[known]
    values = values[np.argsort(values[:, axis], kind="stable")]
    others = [i for i in range(len(names)) if i != axis]
    return Table([names[i] for i in others], values[:, axis], values[:, others], problems)


def _numbers(rows: Sequence[str], width: int) -> tuple[np.ndarray, list[int]]:
    """Return the good rows as numbers (R, width), and the numbers of the lines that are none."""
    filled = "\n".join(rows)
    for _ in range(2):  # neighbours share a comma
        filled = filled.replace(",,", ",nan,")
    filled = filled.replace(",\n", ",nan\n").replace("\n,", "\nnan,")
    filled = ("nan" if filled.startswith(",") else "") + filled + ("nan" if filled.endswith(",") else "")
    try:
        values = np.loadtxt(filled.split("\n"), delimiter=",", comments=None, ndmin=2) if rows else np.empty((0, width))
        if values.shape == (len(rows), width):
            return values, []
    except ValueError:  # somewhere in there; find out where
        pass
    good, wrong = [], []
    for line, row in enumerate(rows, start=2):
        try:
            numbers = [float(cell) if cell.strip() else np.nan for cell in row.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == width:
            good.append(numbers)
        else:
            wrong.append(line)
    return np.array(good, dtype=np.float64).reshape(-1, width), wrong


def _listed(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:5])) + (", ..." if len(lines) > 5 else "")
    return f"{len(lines)} row{'s'[: len(lines) != 1]} (line {shown})"
