"""Finding the folders of runs, and noticing when one has changed."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lightning_gen.core import InputError

OF_A_RUN = ("summary.json", "trial.json", "metrics.csv")
FILES = (*OF_A_RUN, "config.yaml", "test.json", "validate.json")
NOT_ENTERED = ("checkpoints", "samples", "wandb", "__pycache__")

Stamp = tuple[tuple[str, int, int], ...]


def find_runs(roots: Sequence[Path]) -> dict[Path, str]:
    """Return the folder of every run below ``roots``, with the name to show it by: its path without what all share.

    A run is a folder with summary.json, trial.json or metrics.csv, or with a config.yaml and no run below it. Links to
    folders are followed, each folder once.

    Raises:
        InputError: for a root that is no folder.
    """
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    for root in roots:
        if not root.is_dir():
            what = "is a file: give the folder that runs lie in" if root.exists() else "no such folder"
            raise InputError(f"{root}: {what}")
        found += _walk(root, seen)
    whole = {folder: Path(os.path.abspath(folder)) for folder in found}
    # The experiment always stays part of the name: version_3 alone says nothing.
    base = os.path.commonpath([path.parent.parent for path in whole.values()]) if whole else ""
    names = {folder: path.relative_to(base).as_posix() for folder, path in whole.items()}
    return dict(sorted(names.items(), key=lambda item: natural(item[1])))


def stamp(folder: Path) -> Stamp:
    """Return what changes whenever a file of the run that the report reads does: names, times and sizes."""
    return tuple(sorted([*_files(folder, FILES), *_files(folder / "samples", None)]))


def natural(name: str) -> list[str | int]:
    """Return a key that puts version_10 after version_9."""
    return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split(r"([0-9]+)", name))]


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        about = folder.stat()
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError:  # it was removed or cannot be read: nothing of a run in it could be shown
        return
    if (about.st_dev, about.st_ino) in seen:
        return
    seen.add((about.st_dev, about.st_ino))
    names = {entry.name for entry in listed}
    if names & set(OF_A_RUN):
        yield folder
        return
    entered = [e.name for e in listed if not e.name.startswith(".") and e.name not in NOT_ENTERED and os.path.isdir(e)]
    below = [run for name in sorted(entered) for run in _walk(folder / name, seen)]
    yield from below
    if "config.yaml" in names and not below:
        yield folder


def _files(folder: Path, names: Sequence[str] | None) -> list[tuple[str, int, int]]:
    found = []
    with suppress(OSError), os.scandir(folder) as entries:  # there need be no such folder
        for entry in entries:
            if names is None or entry.name in names:
                with suppress(OSError):  # it went meanwhile
                    about = entry.stat()
                    found.append((entry.name, about.st_mtime_ns, about.st_size))
    return found
