"""The folder of a run: runs/<experiment>/version_<k>, and finding the one to resume."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lightning_gen.core import InputError, write_atomically, write_json

CHILD_VARIABLE = "LIGHTNING_GEN_RUN_FOLDER"
FINISHED, RUNNING, PRUNED = "finished", "running", "pruned"


class RunFolder:
    """Paths inside ``runs/<experiment>/version_<k>`` and what is written there."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @classmethod
    def new(cls, root: str, experiment: str) -> RunFolder:
        """Make the next free ``version_<k>``; safe when several runs start at once.

        Raises:
            InputError: where the folder cannot be made.
        """
        parent = Path(root) / experiment
        try:
            parent.mkdir(parents=True, exist_ok=True)
            version = 1 + max((number for number, _ in versions(parent)), default=-1)
            while True:
                try:
                    (parent / f"version_{version}").mkdir()
                    return cls(parent / f"version_{version}")
                except FileExistsError:
                    version += 1
        except OSError as error:
            raise InputError(
                f"cannot make a run folder in {parent}: {error.strerror}; choose another --run.root"
            ) from error

    @classmethod
    def unfinished(cls, root: str, experiment: str) -> RunFolder:
        """Return the newest run of the experiment that has not finished.

        Raises:
            InputError: where there is none, it has no checkpoint yet, or is still running.
        """
        parent = Path(root) / experiment
        found = [folder for _, folder in versions(parent) if not folder.is_finished()]
        if not found:
            finished = [folder for _, folder in versions(parent)]
            hint = f"; to go on with a finished run, give its file: --ckpt_path {finished[-1].last}" if finished else ""
            raise InputError(f"--ckpt_path last: no unfinished run in {parent}{hint}")
        with_checkpoint = [folder for folder in found if folder.last.is_file()]
        return (with_checkpoint or found)[-1].check_unfinished()

    def check_unfinished(self) -> RunFolder:
        """Return this folder if its run can go on.

        Raises:
            InputError: where it has finished, has no checkpoint yet, or is still running.
        """
        if self.is_finished():
            raise InputError(f"--ckpt_path last: {self.path} has finished; to go on, give its file: {self.last}")
        if not self.last.is_file():
            raise InputError(f"--ckpt_path last: {self.path} ended before its first checkpoint: start it anew")
        self.refuse_if_running()
        return self

    @classmethod
    def newest(cls, root: str, experiment: str) -> RunFolder:
        """Return the newest run of the experiment that has a checkpoint, finished or not.

        Raises:
            InputError: where there is none.
        """
        found = [folder for _, folder in versions(Path(root) / experiment) if folder.last.is_file()]
        if not found:
            raise InputError(f"no run with a checkpoint in {Path(root) / experiment}")
        return found[-1]

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best monitored figure."""
        return self.path / "checkpoints" / "best.ckpt"

    def summary(self) -> dict[str, Any]:
        """Return summary.json, or {} where there is none (yet)."""
        return self.read("summary.json")

    def read(self, name: str) -> dict[str, Any]:
        """Return what a JSON file of the folder holds, or {} where it cannot be read."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}

    def is_finished(self) -> bool:
        """Whether the run reached its budget."""
        return self.summary().get("status") == FINISHED

    def is_lost(self) -> bool:
        """Whether its summary says that a process of this machine is writing it, and that process has ended."""
        pid = self._writer()
        return pid is not None and not self._is_alive(pid)

    def refuse_if_running(self) -> None:
        """Raise InputError if the process that writes this folder is alive on this machine."""
        pid = self._writer()
        if pid is not None and self._is_alive(pid):
            raise InputError(f"{self.path} is still being written by process {pid}: stop it first, or start a new run")

    def _writer(self) -> int | None:
        """Return the process of this machine, other than this one, that is writing the folder as its summary says.

        The process may have ended since; None where the summary says nothing of the kind.
        """
        summary = self.summary()
        is_here = summary.get("status") == RUNNING and summary.get("host") == socket.gethostname()
        pid = summary.get("pid")
        return pid if is_here and isinstance(pid, int) and pid not in (os.getpid(), os.getppid()) else None

    @staticmethod
    def _is_alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
            command = Path(f"/proc/{pid}/cmdline")
            return not command.exists() or b"lightning" in command.read_bytes()  # the number may be another's by now
        except OSError:
            return False

    def cut_metrics(self, images_seen: int) -> None:
        """Drop the rows of metrics.csv after ``images_seen``: the resumed run writes them again."""
        header, rows = read_metrics(self.path / "metrics.csv")
        kept = [row for row in rows if row.get("images_seen") and float(row["images_seen"]) <= images_seen]
        if len(kept) < len(rows):
            write_metrics(self.path / "metrics.csv", header, kept)

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove what a run that is to begin anew would find of its first attempt, but for the files to keep."""
        for path in [path for path in self.path.iterdir() if path.name not in keep]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def discard_if_empty(self) -> None:
        """Remove the folder (and its parents) if nothing was written."""
        with contextlib.suppress(OSError):  # a folder with something in it stays
            self.path.rmdir()
            self.path.parent.rmdir()
            self.path.parent.parent.rmdir()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json atomically."""
        write_json(self.path / "summary.json", summary)


def versions(parent: Path) -> list[tuple[int, RunFolder]]:
    """Return (k, folder) of every version_k in ``parent``, in the order of k."""
    if not parent.is_dir():
        return []
    numbered = [(re.fullmatch(r"version_(\d+)", path.name), path) for path in parent.iterdir() if path.is_dir()]
    return sorted(((int(match[1]), RunFolder(path)) for match, path in numbered if match), key=lambda item: item[0])


def run_of_checkpoint(path: Path) -> RunFolder | None:
    """Return the run folder that a checkpoint lies in, if it does."""
    folder = path.resolve().parent.parent
    inside = path.resolve().parent.name == "checkpoints" and (folder / "config.yaml").is_file()
    return RunFolder(path.parent.parent) if inside else None


def read_metrics(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows of a metrics.csv; a last row that was cut short is left out."""
    if not path.is_file():
        return ["images_seen"], []
    with path.open(newline="", encoding="utf-8") as file:
        text = file.read()
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return list(reader.fieldnames or ["images_seen"]), list(reader)


def write_metrics(path: Path, header: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a whole metrics.csv atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)
