"""lightning sweep: tune a config by many runs, from a sweep file of W&B's, without an account or a network."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from lightning_gen.commands.messages import CommandParser
from lightning_gen.commands.verbs import fail
from lightning_gen.core import InputError, check_file, write_text
from lightning_gen.sweeps.check import check_commands, commands_to_check
from lightning_gen.sweeps.command import command_line, shown_command
from lightning_gen.sweeps.distributions import optuna
from lightning_gen.sweeps.file import SweepFile, read_sweep, sweep_text, with_config, with_metric
from lightning_gen.sweeps.trial import VARIABLE

if TYPE_CHECKING:
    from lightning_gen.sweeps.study import Attempt, Result, SweepStudy

DESCRIPTION = """Tune a config by many runs: the settings come from a sweep file in W&B's syntax, and each run is the
command that W&B's agent would start. Run the same command again to go on with a sweep that was stopped; a larger
--count adds runs. Runs, their settings and the sweep's storage are in ROOT/NAME.

examples:
  lightning sweep sweeps/gan.yaml --count 24 --jobs 2
  lightning sweep sweeps/gan.yaml --best-config best.yaml     the best settings so far, as a config
  lightning sweep sweeps/gan.yaml --count 96 --storage postgresql://me@host/sweeps            on one machine, and
  lightning sweep sweeps/gan.yaml --worker --storage postgresql://me@host/sweeps              on any number of others"""
BEST = 10
LETTERS = 40
"""Of a value in a line or a table."""


def run(args: Sequence[str]) -> None:
    """Run a sweep; ``lightning sweep --help`` lists the options."""
    os.environ.pop(VARIABLE, None)  # a sweep inside a run of another sweep has runs of its own
    options = make_parser().parse_args([dashes_to_underscores(arg) for arg in args])
    sweep = read_sweep(options.file)
    if options.config is not None:
        sweep = with_config(sweep, options.config, options.metric)
    sweep = with_metric(sweep, options.metric)
    if options.print_sweep:
        print(sweep_text(sweep), end="")
        return
    if options.worker and options.storage is None:
        raise InputError("--worker needs --storage URL: the storage of the sweep that it is to join")
    if options.best_config is not None:
        check_file("--best-config", options.best_config)
    optuna()  # an error where it is not installed
    from lightning_gen.sweeps.study import SweepStudy

    only_best = options.best_config is not None and options.count is None
    count = options.count if options.worker or only_best else choose_count(options.count, sweep)
    name = options.name or sweep.name
    if not (only_best or options.worker):
        check(sweep, lenient=options.config is not None)
    study = SweepStudy(
        sweep, options.root, name, options.storage, options.seed, create=not (options.worker or only_best)
    )
    if not only_best:
        go(study, options, count, args)
    if options.best_config is not None:
        write_best_config(study, Path(options.best_config))


def make_parser() -> CommandParser:
    """Return the parser of the verb."""
    parser = CommandParser(prog="lightning sweep", description=DESCRIPTION)
    parser.add_argument("file", type=str, metavar="FILE", help="Sweep file, such as sweeps/gan.yaml.")
    parser.add_argument(
        "--count",
        type=PositiveInt | None,
        default=None,
        help="Runs of the whole sweep, those so far included; without it run_cap of the file, or the size of a grid.",
    )
    parser.add_argument("--jobs", type=PositiveInt, default=1, help="Runs at a time.")
    parser.add_argument(
        "--seed", type=NonNegativeInt | None, default=None, help="Seed of the settings drawn; without it 0."
    )
    parser.add_argument("--config", type=str | None, default=None, help="Config in the place of the sweep file's.")
    parser.add_argument("--metric", type=str | None, default=None, help="Figure in the place of the sweep file's.")
    parser.add_argument("--root", type=str, default="runs", help="Folder of all runs.")
    parser.add_argument("--name", type=str | None, default=None, help="Name of the sweep; without it the file's.")
    parser.add_argument(
        "--storage",
        type=str | None,
        default=None,
        help="URL of a database in the place of ROOT/NAME/sweep.db, for workers on several machines.",
    )
    parser.add_argument(
        "--worker", action="store_true", help="Take runs of the sweep in --storage that was started elsewhere."
    )
    parser.add_argument(
        "--best_config",
        type=str | None,
        default=None,
        metavar="OUT",
        help="Write the best settings as a config; without --count that is all.",
    )
    parser.add_argument("--print_sweep", action="store_true", help="Print the sweep file, for `wandb sweep`, and end.")
    return parser


def dashes_to_underscores(arg: str) -> str:
    """Return an option's name as the parser has it: both ``--best-config`` and ``--best_config`` are understood."""
    name, equals, value = arg.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else arg


def choose_count(count: int | None, sweep: SweepFile) -> int:
    """Return how many trials there are to be.

    Raises:
        InputError: where neither the user nor the file says so.
    """
    count = count or sweep.run_cap
    if count is None and sweep.method == "grid":
        from lightning_gen.sweeps.study import grid_points

        count = len(grid_points(sweep))
    if count is None:
        raise InputError(f"how many runs? give --count N, or run_cap in {sweep.path}")
    return count


def check(sweep: SweepFile, lenient: bool) -> None:
    """Raise InputError for the first of the sweep's command lines that cannot be run.

    Args:
        sweep: whose lines.
        lenient: whether values that fit no model are noted alone, because the file was written for another config.
    """
    from lightning_gen.sweeps.runner import check_program

    with tempfile.TemporaryDirectory() as folder:
        commands = [
            command_line(sweep, parameters, Path(tempfile.mkdtemp(dir=folder)))  # each has a folder of its own
            for parameters in commands_to_check(sweep)
        ]
        check_program(commands[0])
        for note in check_commands(commands, lenient):
            print(note, file=sys.stderr)


def go(study: SweepStudy, options: Namespace, count: int | None, args: Sequence[str]) -> None:
    """Run trials, and say how it ended."""
    from lightning_gen.sweeps.runner import Runner, SweepFailed, SweepStopped

    if not options.worker:
        study.count = count
        study.write_file()
    again = f"lightning sweep {shlex.join(args)}"
    screen = SweepScreen(study, count)
    try:
        Runner(study, options.jobs, count, screen, options.worker).run()
    except SweepStopped as stop:
        screen.close()
        print(f"stopped by {stop}, everything is saved; to go on: {again}", file=sys.stderr)
        raise SystemExit(128 + stop.signum) from None
    except SweepFailed as error:
        screen.close()
        fail(f"{error}; once that is put right, start it again: {again}", 1)
    except InputError:
        if study.new and not study.has_value():
            study.discard()
        raise
    finally:
        screen.close()
    if not options.worker:
        print(table(study))
        print(conclusion(study))
        if study.best() is None:
            raise SystemExit(1)


class SweepScreen:
    """A progress bar over trials with the best value so far; where stderr is no terminal, a line for each trial."""

    def __init__(self, study: SweepStudy, count: int | None):
        self.study = study
        self.count = count
        self.bar: tqdm | None = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=study.limit(count or study.count or 0), unit="trial", file=sys.stderr)
        self.refresh()

    def refresh(self) -> None:
        """Show how the sweep stands, other workers' trials included."""
        if self.bar is None:
            return
        results = self.study.results()
        self.bar.n = sum(result.state in ("finished", "pruned", "failed") for result in results)
        running = sum(result.state == "running" for result in results)
        best = self.study.best()
        shown = "" if best is None else f", best {self.study.metric} {best.value:.5g} (trial {best.index})"
        self.bar.set_postfix_str(f"{running} running{shown}")

    def note(self, state: str, attempt: Attempt, value: float | None, seconds: float, reason: str | None) -> None:
        """Show that a trial has ended."""
        varying = ", ".join(f"{name} {short(attempt.parameters[name])}" for name in varying_parameters(self.study))
        figure = f" {self.study.metric} {value:.5g}" if value is not None else ""
        if state == "failed":
            self.say(f"trial {attempt.index} failed ({seconds:.0f} s): {reason}; with {varying}")
        elif self.bar is None:
            self.say(f"trial {attempt.index} {state}:{figure} ({seconds:.0f} s), {varying}")
        self.refresh()

    def say(self, line: str) -> None:
        """Print a line, above the bar."""
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.refresh()
            self.bar.close()
            self.bar = None


# --- what came out ------------------------------------------------------------------------------------------------


def short(value: Any) -> str:
    """Return a value in few letters, classes by their names."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value.rpartition(".")[2] if value.startswith("lightning_gen.") else value
    text = spoken(value)
    return text if len(text) <= LETTERS else text[: LETTERS - 3] + "..."


def spoken(value: Any) -> str:
    """Return a value with objects as calls of their classes, such as R1(weight=0.5), and lists of them as sums."""
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(f"{key}={spoken(item)}" for key, item in value.get("init_args", {}).items())
        return value["class_path"].rpartition(".")[2] + (f"({arguments})" if arguments else "")
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return " + ".join(map(spoken, value))
    return short(value) if isinstance(value, str | float) else str(value)


def varying_parameters(study: SweepStudy) -> list[str]:
    """Return the names of the parameters that have more than one value."""
    return [name for name, distribution in study.distributions.items() if not distribution.single()]


def ranked(study: SweepStudy) -> list[Result]:
    """Return the trials that have a value, the best first, and those that were stopped early after the others."""
    found = [result for result in study.results() if result.value is not None]
    return sorted(found, key=lambda result: (result.state == "pruned", study.sign * result.value))


def table(study: SweepStudy, rows: int = BEST) -> str:
    """Return the best trials, one a line."""
    names = varying_parameters(study)
    lines = [["trial", study.metric, "seconds", "", *names]]
    for result in ranked(study)[:rows]:
        seconds = "" if result.seconds is None else f"{result.seconds:.0f}"
        state = "" if result.state == "finished" else result.state
        values = [short(result.parameters.get(name)) for name in names]
        lines.append([str(result.index), f"{result.value:.5g}", seconds, state, *values])
    kept = [i for i in range(len(lines[0])) if lines[0][i] or any(line[i] for line in lines)]
    widths = {i: max(len(line[i]) for line in lines) for i in kept}
    return "\n".join("  ".join(line[i].rjust(widths[i]) for i in kept) for line in lines)


def conclusion(study: SweepStudy) -> str:
    """Return how many trials came to what end, the winner, and what to do with it."""
    results = study.results()
    counts = {state: sum(r.state == state for r in results) for state in ("finished", "pruned", "failed")}
    ends = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = ["", f"{len(results)} trials ({ends or 'none ended'}) in {study.folder}"]
    best = study.best()
    if best is None:
        return "\n".join([*lines, "no trial ran to its end: there is no winner"])
    lines += [
        f"best: trial {best.index}, {study.metric} {best.value:.5g} ({study.goal}); to run it again:",
        f"  {command_of(study, best)}",
        f"as a config: lightning sweep {shlex.quote(str(study.sweep.path))}{_where(study)} --best-config best.yaml",
        f"all of it on a page: lightning report {shlex.quote(str(study.folder.parent))} --out report.html",
    ]
    return "\n".join(lines)


def _where(study: SweepStudy) -> str:
    """Return the options that find this sweep again."""
    options = {"--root": (str(study.folder.parent), "runs"), "--name": (study.name, study.sweep.name)}
    return "".join(f" {key} {shlex.quote(value)}" for key, (value, default) in options.items() if value != default)


def command_of(study: SweepStudy, result: Result) -> str:
    """Return the command line of a trial as one types it."""
    from lightning_gen.sweeps.runner import read_trial

    folder = study.folder / f"version_{result.index}"
    command = read_trial(folder).get("command") or command_line(study.sweep, result.parameters, folder)
    return shown_command(command)


def write_best_config(study: SweepStudy, out: Path) -> None:
    """Write the winner's complete config.

    Raises:
        InputError: where there is no winner yet, or its folder is not here.
    """
    best = study.best()
    if best is None:
        raise InputError(f"the sweep {study.name!r} in {study.folder.parent} has no finished trial yet")
    path = study.folder / f"version_{best.index}" / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"trial {best.index} is the best, but its {path} cannot be read: {error}") from error
    if isinstance(config.get("run"), dict):
        config["run"] |= {"experiment": None, "root": "runs"}
    header = (
        f"# lightning fit --config {out}\n"
        f"# Trial {best.index} of {len(study.results())} of the sweep {study.name} ({study.sweep.path}):\n"
        f"# {study.metric} {best.value:.6g} ({study.goal}).\n"
        f"# The sweep ran it as: {command_of(study, best)}\n"
    )
    try:
        write_text(out, header + yaml.safe_dump(config, sort_keys=False, width=120))
    except OSError as error:
        raise InputError(f"--best-config {out}: {error.strerror}") from error
    print(f"trial {best.index} ({study.metric} {best.value:.5g}) written to {out}", file=sys.stderr)
