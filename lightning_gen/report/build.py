"""From folders of runs to the text of one page, reading again only what has changed."""

import base64
import datetime
import functools
import gzip
import hashlib
import html
import importlib.util
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lightning_gen import __version__
from lightning_gen.core import InputError, finite
from lightning_gen.figures import describe, figure_of, part_of, place
from lightning_gen.report.folders import Stamp, find_runs, stamp
from lightning_gen.report.fronts import front
from lightning_gen.report.pictures import Picture, read_picture, spread
from lightning_gen.report.run import Run, read_run
from lightning_gen.report.sweeps import COSTS, cost_of, describe_sweeps

SCRIPTS = ("base", "state", "plots", "table", "details", "curves", "samples", "configs", "fronts", "sweeps", "main")
PICTURE_BYTES = 8_000_000  # of all pictures on the page; beyond, fewer sample grids of each run are shown
OTHER_BYTES = 160_000  # of one picture that is no sample grid
GRIDS, FEWEST_GRIDS, MOST_GRIDS = 1200, 6, 48  # on the page; of one run


class Report:
    """The page of all runs below some folders.

    Args:
        roots: a run, an experiment, or a root of many.
        title: of the page; None for one made of the folders' names.

    Attributes:
        marked: number of runs with something wrong, as of the last page.

    Raises:
        InputError: for a missing folder, one without runs, or Plotly not installed.
    """

    def __init__(self, roots: Sequence[Path], title: str | None = None):
        self.roots = list(roots)
        self.title = title or "Runs in " + ", ".join(dict.fromkeys(root.absolute().name or "/" for root in self.roots))
        self.plotly = plotly_source()
        self._runs: dict[Path, Run] = {}
        self._stamps: dict[Path, Stamp] = {}
        self._names: dict[Path, str] = {}
        self._lost: set[Path] = set()
        self._pictures: dict[tuple[Path, int, int], Picture | str] = {}
        self.marked = 0

    def scan(self) -> bool:
        """Read what has changed since the last scan; return whether anything has.

        Raises:
            InputError: where there are no runs.
        """
        names = find_runs(self.roots)
        if not names:
            raise InputError(
                f"{', '.join(map(str, self.roots))}: no runs in it, which are folders with config.yaml and "
                "summary.json: give a folder that `lightning fit` wrote to, such as runs"
            )
        stamps, runs = {}, {}
        for folder in names:
            stamps[folder] = stamp(folder)
            is_known = stamps[folder] == self._stamps.get(folder)
            runs[folder] = self._runs[folder] if is_known else read_run(folder)
        lost = {folder for folder, run in runs.items() if run.is_lost()}
        changed = (names, stamps, lost) != (self._names, self._stamps, self._lost)
        self._names, self._stamps, self._runs, self._lost = names, stamps, runs, lost
        return changed

    def __len__(self) -> int:
        """Number of runs."""
        return len(self._runs)

    def page(self, live: float | None = None) -> str:
        """Return the page of what the last scan read.

        Args:
            live: seconds after which the page loads itself again; None for one that stays as it is.
        """
        runs = list(self._runs.values())
        ids = make_ids(list(self._runs))
        grids, others, pictures = self._choose_pictures(runs)
        names = [self._names[run.folder] for run in runs]
        sweeps = describe_sweeps(runs, ids, names)
        sweep_of = {trial["run"]: sweep["id"] for sweep in sweeps for trial in sweep["trials"]}
        records = [
            {
                **describe_run(run, run.folder in self._lost),
                "id": run_id,
                "name": name,
                "sweep": sweep_of.get(run_id),
                "grids": [[seen, picture] for seen, picture in own],
                "allGrids": len(run.grids),
                "others": further,
                "problems": [*problems_of(run, run.folder in self._lost), *unreadable],
            }
            for run, run_id, name, (own, unreadable), further in zip(runs, ids, names, grids, others, strict=True)
        ]
        self.marked = sum(bool(record["problems"]) for record in records)
        figures = sorted({name for record in records for name in [*record["last"], *record["logged"]]}, key=place)
        scored = sorted({n for r in records for figures in r["scored"].values() for n in figures}, key=place)
        known = {name: about for run in runs for name, about in run.figures.items()}
        data = {
            "title": self.title,
            "roots": [str(root) for root in self.roots],
            "version": __version__,
            "built": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "live": live,
            "figures": {name: describe(name, figure_of(name, known)) for name in [*figures, *scored]},
            "runs": records,
            "configs": varying_keys(runs, ids),
            "sweeps": sweeps,
            "fronts": fronts(records, runs),
        }
        return assemble(self.title, data, pictures, dict(zip(ids, runs, strict=True)), self.plotly)

    def _choose_pictures(
        self, runs: Sequence[Run]
    ) -> tuple[list[tuple[list[tuple[int, str]], list[str]]], list[list[tuple[str, int, str]]], dict[str, Picture]]:
        """Return what the page shows of each run, and all pictures by key.

        Returns:
            For each run its sample grids as (images seen, key) and what is wrong with them; for each run its further
            pictures as (name, images seen, key), the key empty where there was no room; the pictures.
        """
        most = max(FEWEST_GRIDS, min(MOST_GRIDS, GRIDS // max(1, sum(bool(run.grids) for run in runs))))
        while True:
            used: set[tuple[Path, int, int]] = set()
            pictures: dict[str, Picture] = {}
            chosen = []
            for run in runs:
                own, unreadable = [], []
                for seen, file in spread(run.grids, most):
                    picture = self._picture(file, used)
                    if isinstance(picture, str):
                        unreadable.append(f"samples/{file.name} {picture}")
                    else:
                        pictures[picture.key] = picture
                        own.append((seen, picture.key))
                chosen.append((own, unreadable))
            size = sum(len(picture.data) for picture in pictures.values())
            if most == 1 or size <= PICTURE_BYTES:
                others = self._choose_others(runs, pictures, PICTURE_BYTES - size, used)
                self._pictures = {key: picture for key, picture in self._pictures.items() if key in used}
                return chosen, others, pictures
            most = max(1, most * 2 // 3)

    def _choose_others(
        self, runs: Sequence[Run], pictures: dict[str, Picture], room: int, used: set[tuple[Path, int, int]]
    ) -> list[list[tuple[str, int, str]]]:
        """Add pictures that are no sample grids as long as there is room, and return those of each run."""
        chosen = []
        for run in runs:
            own = []
            for name, (seen, file) in run.others.items():
                picture = self._picture(file, used) if room > 0 else ""
                size = 0 if isinstance(picture, str) else len(picture.data)
                fits = 0 < size <= min(room, OTHER_BYTES)
                if fits:
                    pictures[picture.key] = picture
                    room -= size
                own.append((name, seen, picture.key if fits else ""))
            chosen.append(own)
        return chosen

    def _picture(self, file: Path, used: set[tuple[Path, int, int]]) -> Picture | str:
        """Return a picture, encoded once however often the page is built, or what is wrong with its file."""
        try:
            about = file.stat()
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        key = (file, about.st_mtime_ns, about.st_size)
        used.add(key)
        if key not in self._pictures:
            try:
                self._pictures[key] = read_picture(file)
            except ValueError as error:
                self._pictures[key] = str(error)
        return self._pictures[key]


def describe_run(run: Run, lost: bool) -> dict[str, Any]:
    """Return what the page shows of a run, as plain data."""
    seconds, seen = run.number("seconds"), run.number("images_seen")
    versions = run.summary.get("versions")
    return {
        "family": run.family,
        "data": run.data,
        "config": run.config_file,
        "status": "lost" if lost else run.status,
        "trial": run.trial.get("trial"),
        "seed": run.summary.get("seed"),
        "seconds": seconds,
        "images_seen": seen,
        "rate": seen / seconds if seen and seconds else None,
        "parameters": sum(run.parameters.values()) or None,
        "parts": run.parameters,
        "last": run.last,
        "best": run.best,
        "scored": run.scored,
        "facts": run.facts,
        "controls": run.controls,
        "logged": run.logged,
        "command": run.command,
        "folder": str(run.folder),
        "about": {
            key: str(run.summary[key])
            for key in ("device", "precision", "ranks", "git_commit", "skipped_steps", "host")
            if run.summary.get(key) is not None
        }
        | ({"versions": ", ".join(f"{k} {v}" for k, v in versions.items())} if isinstance(versions, dict) else {}),
    }


def problems_of(run: Run, lost: bool) -> list[str]:
    """Return descriptions of what is wrong with a run: with its files, and with how it ended."""
    problems = list(run.problems)
    if lost:
        problems.append("says that it runs, but its process is gone: --ckpt_path last goes on with it")
    reason = run.trial.get("reason")
    if reason and run.status == "failed":
        problems.append(" ".join(str(reason).split())[:300])
    return problems


def make_ids(folders: Sequence[Path]) -> list[str]:
    """Return a short name for each folder that stays the same when others come and go."""
    ids: list[str] = []
    for folder in folders:
        digest = hashlib.blake2s(str(folder.absolute()).encode("utf-8", "surrogatepass")).hexdigest()
        ids.append(next(digest[:n] for n in range(6, len(digest)) if digest[:n] not in ids))
    return ids


def varying_keys(runs: Sequence[Run], ids: Sequence[str]) -> dict[str, Any]:
    """Return the keys of the configs whose values are not the same in all runs, each text once."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    differing = [key for key in keys if len({run.config.get(key) for run in runs if run.config}) > 1]
    texts: dict[str, int] = {}
    values = {
        run_id: {
            number: texts.setdefault(run.config[key], len(texts))
            for number, key in enumerate(differing)
            if key in run.config
        }
        for run, run_id in zip(runs, ids, strict=True)
        if run.config
    }
    return {"keys": differing, "texts": list(texts), "runs": values}


def fronts(records: Sequence[dict[str, Any]], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the Pareto front of every figure with a direction against every cost, for each data set by itself."""
    found = []
    for data in dict.fromkeys(record["data"] for record in records):
        own = [i for i, record in enumerate(records) if record["data"] == data]
        validated = {name for i in own for name in records[i]["last"] if part_of(name) == "val"}
        directions = {name: figure.higher for i in own for name in validated if (figure := runs[i].figure(name))}
        for name in sorted((name for name in directions if directions[name] is not None), key=place):
            for which in ("last", "best"):
                values = [records[i][which].get(name) for i in own]
                for cost in COSTS:
                    places = front(values, [cost_of(runs[i], cost) for i in own], directions[name])
                    ids = [records[own[i]]["id"] for i in places]
                    found.append({"data": data, "figure": name, "which": which, "cost": cost, "runs": ids})
    return found


def embedded(value: Any) -> str:
    """Return JSON that may stand inside a script element: nothing in it can end the element or open a comment.

    >>> embedded({"name": "</script><!--"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)  # all beyond ASCII is escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def assemble(
    title: str, data: dict[str, Any], pictures: dict[str, Picture], runs: dict[str, Run], plotly: bytes
) -> str:
    """Return the page.

    Its policy allows the two scripts in it, by their hashes, and nothing from anywhere else: text from users' folders
    could not run even if it were taken for markup.
    """
    script = "\n".join(["(() => {", '"use strict";', *(asset(f"{name}.js") for name in SCRIPTS), "})();"])
    policy = (
        f"default-src 'none'; script-src '{fingerprint(script.encode())}' '{fingerprint(plotly)}'; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(title.encode("utf-8", "replace").decode()),
        "STYLE": asset("page.css"),
        "DATA": embedded(data),
        "PICTURES": embedded({key: [shown.data, shown.width, shown.height] for key, shown in pictures.items()}),
        "CURVES": "\n".join(
            f'<script type="text/plain" id="curves-{run_id}">{run.curves}</script>' for run_id, run in runs.items()
        ),
        "PLOTLY": compressed(plotly),
        "SCRIPT": script,
    }
    pieces = re.split(r"\{\{([A-Z]+)\}\}", asset("page.html"))  # once, so that nothing put in is looked at again
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


@functools.cache
def asset(name: str) -> str:
    """Return a file of the page."""
    return resources.files("lightning_gen.report").joinpath("page", name).read_text(encoding="utf-8")


@functools.cache
def plotly_source() -> bytes:
    """Return Plotly's script, from the Python package, which itself is not imported.

    Raises:
        InputError: where it is not installed.
    """
    found = importlib.util.find_spec("plotly")
    for folder in (found.submodule_search_locations or []) if found else []:
        file = Path(folder) / "package_data" / "plotly.min.js"
        if file.is_file():
            return file.read_bytes()
    raise InputError("lightning report needs Plotly: pip install 'lightning-gen[report]'")


@functools.cache
def compressed(content: bytes) -> str:
    """Return content compressed with gzip, in base64."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def fingerprint(script: bytes) -> str:
    """Return how a content security policy names a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script).digest()).decode()
