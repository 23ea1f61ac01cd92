"""lightning report: one page of all runs."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_gen.commands.messages import CommandParser
from lightning_gen.core import InputError, check_file, write_text
from lightning_gen.report import Report

WATCH = 10.0  # seconds between two looks at the folders
SHARE = 20  # of the time that a build took: the shortest pause after it, so that watching costs 5 % of one core at most


def run(args: Sequence[str]) -> None:
    """Write the page; ``lightning report --help`` lists the options."""
    parser = CommandParser(
        prog="lightning report",
        description="Make one page of all runs below some folders: leaderboard, curves, sample grids, what differs "
        "between configs, quality against cost, and what each sweep found. It opens from disk, needs neither server "
        "nor network, and holds everything in one file. Runs that are damaged or still being written are marked.",
    )
    parser.add_argument("folders", type=str, nargs="+", metavar="DIR", help="A run, an experiment, or a root of many.")
    parser.add_argument("--out", type=str, default="report.html", help="File to write.")
    parser.add_argument("--title", type=str | None, default=None, help="Title of the page.")
    parser.add_argument(
        "--watch",
        type=str | None,
        nargs="?",
        const=str(WATCH),
        default=None,
        metavar="SECONDS",
        help=f"Build the page again whenever something changed, until Ctrl-C; looks every {WATCH:g} s, or as given.",
    )
    options = parser.parse_args(list(args))
    out = Path(options.out)
    if os.path.isdir(out):  # which takes a name that is too long, where Path.is_dir fails
        raise InputError(f"--out {out} is a folder: give the name of a file, such as {out / 'report.html'}")
    check_file("--out", out)
    every = None if options.watch is None else read_seconds(options.watch)
    report = Report([Path(folder) for folder in options.folders], options.title)
    try:
        report.scan()
        build(report, out, every)
        if every is not None:
            watch(report, out, every)
    except KeyboardInterrupt:
        if every is not None and len(report):
            build(report, out, None, quiet=True)  # the open page then stops to follow
        print(f"stopped; {out} stays as it is" if out.exists() else "stopped", file=sys.stderr)
        raise SystemExit(130) from None


def read_seconds(text: str) -> float:
    """Return the seconds that ``--watch`` was given.

    Raises:
        InputError: for anything but a number from 0.1 to a day.
    """
    try:
        seconds = float(text)
    except ValueError:
        raise InputError(
            f"--watch {text}: expected seconds; folders come first: lightning report DIR --watch"
        ) from None
    if not 0.1 <= seconds <= 86400:
        raise InputError(f"--watch {text}: expected seconds from 0.1 to 86400")
    return seconds


def build(report: Report, out: Path, every: float | None, quiet: bool = False) -> None:
    """Write the page of what was read last.

    Raises:
        InputError: where the file cannot be written.
    """
    page = report.page(live=every)
    try:
        write_text(out, page)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from error
    if not quiet:
        print(
            f"{len(report)} run{'s'[: len(report) != 1]} in {out} ({len(page) / 1e6:.1f} MB)"
            + (f", {report.marked} marked with what is wrong" if report.marked else "")
            + (f"; again whenever something changes, Ctrl-C ends: {time.strftime('%H:%M:%S')}" if every else ""),
            file=sys.stderr,
        )


def watch(report: Report, out: Path, every: float) -> None:
    """Build the page again whenever something changed; ends with KeyboardInterrupt alone."""
    spent, told = 0.0, False
    while True:
        time.sleep(max(every, SHARE * spent))
        started = time.perf_counter()
        try:
            changed = report.scan()
            told = False
        except InputError as error:  # somebody moved the folders: they may come back
            if not told:
                print(f"waiting: {error}", file=sys.stderr)
            changed, told = False, True
        if changed:
            build(report, out, every)
        spent = time.perf_counter() - started
