"""Everything that the report shows of one run, read from its folder; what cannot be read is listed as a problem."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from lightning_gen.core import Figure, finite
from lightning_gen.figures import figure_of
from lightning_gen.report.curves import pack
from lightning_gen.report.pictures import find_grids, find_others
from lightning_gen.report.tables import Table, read_table
from lightning_gen.runs import RUNNING, RunFolder
from lightning_gen.sweeps.command import shell_text, shown_command
from lightning_gen.sweeps.distributions import is_number

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML has libyaml

STATES = {"complete": "finished", "completed": "finished", "fail": "failed", "waiting": "running"}
"""Other words for the status of a run or trial."""

CONTROLS = ("floor", "memoriser")
"""What is scored in place of generated images, as :func:`lightning_gen.metrics.controls` calls it."""

MOST_KEYS = 5000  # of a config; a file with more is not a config of this package


@dataclass
class Run:
    """What one run's folder says.

    Attributes:
        folder: where it lies.
        problems: what is missing or damaged, in words.
        status: running, finished, interrupted, failed, pruned, or unknown.
        config: dotted key -> value as text, as on the command line.
        summary: summary.json, or {}.
        trial: trial.json of a run of a sweep, else {}.
        last: newest value of each validation and training figure.
        best: best value of those with a direction.
        scored: figures of ``lightning validate`` and ``lightning test``, by verb.
        figures: what its figures are, as those that computed them declare it; of older runs nothing.
        facts: kind, number of samples and of images behind bits per dimension, by the part or verb they are of.
        controls: what real images score, by the part or verb, then ``floor`` or ``memoriser``, then the figure.
        curves: packed, see :func:`lightning_gen.report.curves.pack`.
        logged: names of the figures with curves.
        grids: (images seen, file) of every sample grid.
        others: (images seen, file) of the newest of each further kind of picture, by its name.
    """

    folder: Path
    problems: list[str] = field(default_factory=list)
    status: str = "unknown"
    config: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    trial: dict[str, Any] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    scored: dict[str, dict[str, float]] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    controls: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    curves: str = ""
    logged: list[str] = field(default_factory=list)
    grids: list[tuple[int, Path]] = field(default_factory=list)
    others: dict[str, tuple[int, Path]] = field(default_factory=dict)

    def figure(self, name: str) -> Figure | None:
        """Return what a figure of this run is, or None."""
        return figure_of(name, self.figures)

    @property
    def family(self) -> str:
        """Class of the model, without its module."""
        return self.config.get("model", "").rpartition(".")[2]

    @property
    def data(self) -> str:
        """Class of the data source, with the name of its folder where it has one; else that of the data module."""
        source = self.config.get("data.source", self.config.get("data", "")).rpartition(".")[2]
        root = Path(self.config.get("data.source.root", "")).name
        return f"{source} {root}".strip() if root != "null" else source

    @property
    def config_file(self) -> str:
        """The config that its command line names, else the experiment."""
        words = self.words
        named = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--config", "-c")]
        named += [word.partition("=")[2] for word in words if word.startswith("--config=")]
        return " ".join(named) if "fit" in words[:3] and named else self.config.get("run.experiment", "")

    @property
    def words(self) -> list[str]:
        """The command line that started it, in words."""
        return [str(word) for word in _list(self.summary.get("command"))]

    @property
    def command(self) -> str:
        """The command line that started it, ready for a shell."""
        words = self.words or [str(word) for word in _list(self.trial.get("command"))]
        if words and words[0].endswith(("/lightning", "/lightning-gen", "/lightning_gen/__main__.py")):
            words[0] = "lightning"
        return shown_command(words) if self.trial else shell_text(words)

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of each part."""
        return {name: int(n) for name, n in as_dict(self.summary.get("parameters")).items() if is_number(n)}

    def number(self, name: str) -> float | None:
        """Return a number of summary.json, if it is one."""
        value = self.summary.get(name)
        return value if is_number(value) else None

    def is_lost(self) -> bool:
        """Whether it says that it runs, on this machine, but its process is gone."""
        return RunFolder(self.folder).is_lost()


def read_run(folder: Path) -> Run:
    """Read a run's folder; nothing in it raises."""
    run = Run(folder)
    run.summary = _read_json(run, "summary.json")
    run.trial = _read_json(run, "trial.json", needed=False)
    run.status = _status(run)
    run.config = _read_config(run)
    table = read_table(folder / "metrics.csv", running=run.status == RUNNING)
    run.problems += table.problems
    _take_figures(run, table)
    run.curves, run.logged = pack(table), [name for name in table.names if len(table.column(name)[1])]
    run.grids, run.others = find_grids(folder), find_others(folder)
    return run


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Return a config as dotted keys and texts, named as on the command line.

    >>> flatten({"model": {"class_path": "a.GAN", "init_args": {"widths": [8, 8], "loss": {"class_path": "a.Hinge"}}}})
    {'model': 'a.GAN', 'model.widths': '[8, 8]', 'model.loss': 'a.Hinge'}
    """
    flat: dict[str, str] = {}
    for key, text in _leaves(value, prefix, 0):
        flat[key] = text
        if len(flat) > MOST_KEYS:
            raise ValueError(f"more than {MOST_KEYS:,} keys")
    return flat


def as_text(value: Any) -> str:
    """Return a value of a config as one would type it."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _leaves(value: Any, key: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > 30:
        raise ValueError("nested too deeply")
    if isinstance(value, dict) and value:
        if "class_path" in value:
            yield key, as_text(value["class_path"])
            yield from _inside(as_dict(value.get("init_args")), key, depth)
            yield from _inside({k: v for k, v in value.items() if k not in ("class_path", "init_args")}, key, depth)
        else:
            yield from _inside(value, key, depth)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        yield from _inside(dict(enumerate(value)), key, depth)
    elif isinstance(value, list) and any(isinstance(item, list) for item in value) and depth > 20:
        raise ValueError("nested too deeply")
    else:
        yield key, as_text(value)


def _inside(value: dict[Any, Any], key: str, depth: int) -> Iterator[tuple[str, str]]:
    for name, item in value.items():
        yield from _leaves(item, f"{key}.{name}" if key else str(name), depth + 1)


def _read_json(run: Run, name: str, needed: bool = True) -> dict[str, Any]:
    try:
        value = json.loads((run.folder / name).read_bytes())
        if isinstance(value, dict):
            return finite(value)
        problem = "is not a JSON object"
    except FileNotFoundError:
        problem = "is missing: the run is just starting, or ended before it could be written" if needed else ""
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        problem = "is not JSON: half written, or damaged"
    if problem:
        run.problems.append(f"{name} {problem}")
    return {}


def _read_config(run: Run) -> dict[str, str]:
    flat: dict[str, str] = {}
    try:
        config = yaml.load((run.folder / "config.yaml").read_text(encoding="utf-8"), Loader)
        flat = flatten(config) if isinstance(config, dict) else {}
        problem = "" if "model" in flat else "names no model: half written, or of another program"
    except FileNotFoundError:
        problem = "" if run.trial else "is missing"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" from line {line + 1} on" if line is not None else ""
        problem = f"is not YAML{where}: half written, or damaged"
    if problem:
        run.problems.append(f"config.yaml {problem}")
    return flat


def _status(run: Run) -> str:
    own, swept = (str(source.get(key) or "").lower() for source, key in ((run.summary, "status"), (run.trial, "state")))
    own, swept = STATES.get(own, own), STATES.get(swept, swept)
    if swept in ("pruned", "failed"):  # the run itself does not know these
        return swept
    return own or swept or "unknown"


def _take_figures(run: Run, table: Table) -> None:
    from_table = {name: value for name, value in table.last().items() if not name.endswith("seconds")}
    run.last = from_table | _numbers(run.summary.get("last"))
    run.best = _numbers(run.summary.get("best"))
    run.figures = {name: one for name, one in as_dict(run.summary.get("figures")).items() if _is_figure(one)}
    for name in run.last:
        figure = run.figure(name)
        higher = None if figure is None else figure.higher
        if name not in run.best and higher is not None and name in table.names and name.startswith("val/"):
            _, values = table.column(name)
            if len(values):
                run.best[name] = float(values.max() if higher else values.min())
    run.facts["val"] = as_dict(run.summary.get("likelihood"))
    run.controls["val"] = {name: _numbers(figures) for name, figures in as_dict(run.summary.get("controls")).items()}
    for verb in ("validate", "test"):
        if not (run.folder / f"{verb}.json").exists():
            continue
        report = _read_json(run, f"{verb}.json")
        run.scored[verb] = _numbers({name: v for name, v in report.items() if name.startswith(("val/", "test/"))})
        inside = {name.removeprefix("likelihood_"): v for name, v in report.items() if name.startswith("likelihood_")}
        run.controls[verb] = {
            name: _numbers({key.removeprefix(f"{name}_"): v for key, v in report.items() if key.startswith(f"{name}_")})
            for name in CONTROLS
        }
        run.facts[verb] = inside | {key: report[key] for key in ("checkpoint", "images_seen", "n") if key in report}
    for where, figures in {"val": run.last, **run.scored}.items():
        kinds = {figure.kind for name in figures if (figure := run.figure(name)) is not None and figure.kind}
        told = run.facts.get(where, {}).get("kind")
        if told and kinds and told not in kinds:
            run.problems.append(f"bits per dimension are called {', '.join(sorted(kinds))}, but said to be {told}")


def _is_figure(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {field.name for field in fields(Figure)}


def _numbers(value: Any) -> dict[str, float]:
    return {str(name): number for name, number in as_dict(value).items() if is_number(number)}


def as_dict(value: Any) -> dict[Any, Any]:
    """Return a mapping as it is, and {} for anything else."""
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
