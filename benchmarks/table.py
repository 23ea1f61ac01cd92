"""The markdown tables of JSON lines that digits.py, gan_modes.py, gan_torchgan.py or gan_steps.py printed.

    python benchmarks/table.py digits.jsonl

``--wide`` puts criteria into one row per model, for files of many models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import Any

Line = dict[str, Any]
COLUMNS = {
    "fid_{}_heldout": ("to held-out", 2),
    "fid_{}": ("to training", 2),
    "precision_{}": ("precision", 3),
    "recall_{}": ("recall", 3),
    "copy_share_pixels": ("copy share (pixels)", 3),
    "is_{}": ("IS", 2),
    "classes_{}": ("classes", 1),
    "class_distance_{}": ("class distance", 3),
    "label_accuracy_{}": ("label accuracy", 3),
    "seconds": ("seconds", 1),
}
ANSWERS = {True: "yes", False: "no", None: "-"}


def cell(figure: dict[str, Any] | None, digits: int) -> str:
    """``mean ± std``, or the one value, or a dash."""
    if figure is None:
        return "-"
    spread = "" if figure["std"] is None else f" ± {figure['std']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{spread}"


def count(n: int | list[int]) -> str:
    """Number of samples; of the floor the numbers of real images on both sides."""
    return " / ".join(f"{number:,}" for number in (n if isinstance(n, list) else [n]))


def values(figure: dict[str, Any], digits: int) -> str:
    """The value of every seed."""
    return ", ".join(f"{value:.{digits}f}" for value in figure["values"])


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def origin(line: Line, *more: str) -> str:
    """Where lines come from: what only they know, then machine, versions, commit and command."""
    versions = line.get("versions", {"torch": line.get("torch")})
    facts = [
        *more,
        f"{line['machine']}, {line['threads']} thread(s)",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"Commit {line.get('git_commit', line.get('commit'))}",
    ]
    return f"\n{'. '.join(facts)}.\n\n    {line['command']}\n"


# --- samples and their figures ----------------------------------------------------------------------------------------


def images_seen(line: Line) -> str:
    """Images that a model was trained on, in thousands: the least to the most of its seeds."""
    seen = sorted({round(images / 1000) for images in line.get("images_seen", [])})
    return "-" if not seen else " to ".join(f"{images:,}" for images in dict.fromkeys((seen[0], seen[-1])))


def samples(lines: Sequence[Line], wide: bool) -> str:
    """Rows of models, their criteria, and where they come from."""
    rows = [line for line in lines if "criterion" not in line]
    checks = [line for line in lines if "criterion" in line]
    known = {name.format(lines[0]["extractor"]): column for name, column in COLUMNS.items()}
    columns = {name: column for name, column in known.items() if any(line.get(name) for line in rows)}
    trained = {images_seen(line) for line in rows} - {"-"}
    several = len(trained) > 1
    text = markdown(
        ["model", "n", *(["thousand images seen"] if several else []), *(title for title, _ in columns.values())],
        (
            [
                line["row"],
                count(line["n"]),
                *([images_seen(line)] if several else []),
                *(cell(line.get(name), digits) for name, (_, digits) in columns.items()),
            ]
            for line in rows
        ),
    )
    if checks:
        text += "\n" + (wide_criteria(checks) if wide else criteria(checks))
    heldout = lines[0]["references"]["heldout"]
    facts = [
        f"Held-out part: {heldout['part']}, {heldout['n']} images",
        f"Extractor {lines[0]['extractor']} {lines[0]['extractor_hash']}",
    ]
    if len(trained) == 1:
        facts.append(f"Every config saw {trained.pop()} thousand images")
    return text + origin(lines[0], *facts)


def criteria(checks: Sequence[Line]) -> str:
    """One row per criterion and model."""
    return markdown(
        ["criterion", "row", "ratio", "by seed", "limit", "met", "by every seed"],
        (
            [
                f"{line['criterion']} ({line['against']})",
                line["row"],
                f"{line['ratio']:.2f}",
                ", ".join(f"{ratio:.2f}" for ratio in line["ratio_by_seed"]),
                "-" if line["limit"] is None else f"{line['limit']:g}",
                ANSWERS[line["met"]],
                ANSWERS[line["met_by_every_seed"]],
            ]
            for line in checks
        ),
    )


def wide_criteria(checks: Sequence[Line]) -> str:
    """One row per model: the ratio of each criterion and whether its limit is kept."""
    header = list(dict.fromkeys(f"{line['criterion']} ({line['against']})" for line in checks))
    rows: dict[str, dict[str, str]] = {}
    for line in checks:
        answer = "" if line["met"] is None else f": {ANSWERS[line['met']]}"
        name = f"{line['criterion']} ({line['against']})"
        rows.setdefault(line["row"], {})[name] = f"{line['ratio']:.2f}{answer}"
    return markdown(
        ["row", *header], ([row, *(cells.get(name, "-") for name in header)] for row, cells in rows.items())
    )


# --- modes of a grid --------------------------------------------------------------------------------------------------


def modes(lines: Sequence[Line], wide: bool) -> str:
    """Rows of models: modes covered and shares of high quality, by seed."""
    target = lines[0]["target"]
    wanted = f"all {target['modes']} modes, {100 * target['high_quality']:g} % high quality, every seed"
    text = markdown(
        ["model", "n", f"modes of {target['modes']}, by seed", "high quality, by seed", "seconds", wanted],
        (
            [
                line["row"],
                count(line["n"]),
                values(line["modes_pixels"], 0),
                values(line["high_quality_pixels"], 3),
                cell(line["seconds"], 1) if line["kind"] == "config" else "-",
                ANSWERS[line["met_by_every_seed"]],
            ]
            for line in lines
        ),
    )
    return text + origin(lines[0], f"High quality: within {target['radius']:g} levels of a mode's centre")


# --- step times -------------------------------------------------------------------------------------------------------


def steps(lines: Sequence[Line], wide: bool) -> str:
    """Ratios of step times; a config that could not be measured says why."""
    measured = [line for line in lines if "ratio" in line]
    groups = dict.fromkeys(line.get("comparison", "ours / hand-written") for line in measured)
    tables = []
    for group in groups:
        rows = [line for line in measured if line.get("comparison", "ours / hand-written") == group]
        upper, lower = group.split(" / ")
        tables.append(
            markdown(
                ["step", f"{upper}, ms", f"{lower}, ms", "ratio (quartiles)", "limit", "met", "difference in losses"],
                (
                    [
                        line["config"],
                        f"{line['ours_ms']:.2f}",
                        f"{line['hand_written_ms']:.2f}",
                        f"{line['ratio']:.3f} ({' to '.join(f'{edge:.3f}' for edge in line['ratio_quartiles'])})",
                        "-" if line["limit"] is None else f"{line['limit']:.2f}",
                        ANSWERS[line.get("met")],
                        f"{line['same']['loss_difference']:.1g}" if "same" in line else "-",
                    ]
                    for line in rows
                ),
            )
        )
    notes = [f"\n{line['config']} was not measured: {line['skipped']}.\n" for line in lines if "skipped" in line]
    first = (measured or lines)[0]
    facts = [f"Medians over {first['pairs']} pairs of segments that take turns"] if measured else []
    return "\n".join(tables) + "".join(notes) + origin(first, *facts)


TABLES = {
    "digits": samples,
    "gan_torchgan": samples,
    "fashion_mnist": samples,
    "gan_modes": modes,
    "gan_steps": steps,
}


def tables(lines: Sequence[Line], wide: bool = False) -> str:
    """Return the tables of each benchmark's lines, in the order of their first ones, and where they come from."""
    benchmarks = dict.fromkeys(line["benchmark"] for line in lines)
    return "\n".join(TABLES[name]([line for line in lines if line["benchmark"] == name], wide) for name in benchmarks)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("file", nargs="+", help="JSON lines")
    parser.add_argument("--wide", action="store_true", help="one row per model for all its criteria")
    options = parser.parse_args(args)
    lines = []
    for name in options.file:
        with open(name, encoding="utf-8") as file:
            lines += [json.loads(line) for line in file if line.strip()]
    print(tables(lines, options.wide), end="")


if __name__ == "__main__":
    main()
