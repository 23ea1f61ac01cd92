"""The markdown tables of JSON lines that benchmarks/digits.py printed.

python benchmarks/table.py digits.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

COLUMNS = {
    "fid_digits_heldout": ("to held-out", 2),
    "fid_digits": ("to training", 2),
    "precision_digits": ("precision", 3),
    "recall_digits": ("recall", 3),
    "copy_share_pixels": ("copy share (pixels)", 3),
    "is_digits": ("IS", 2),
    "seconds": ("seconds", 1),
}


def cell(figure: dict[str, Any] | None, digits: int) -> str:
    """``mean ± std``, or the one value, or a dash."""
    if figure is None:
        return "-"
    spread = "" if figure["std"] is None else f" ± {figure['std']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{spread}"


def count(n: int | list[int]) -> str:
    """Number of samples; of the floor the numbers of real images on both sides."""
    return " / ".join(f"{number:,}" for number in (n if isinstance(n, list) else [n]))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tables(lines: Sequence[dict[str, Any]]) -> str:
    """Return the table of rows, that of criteria, and where they come from."""
    rows = [line for line in lines if "criterion" not in line]
    checks = [line for line in lines if "criterion" in line]
    text = markdown(
        ["model", "n", *(title for title, _ in COLUMNS.values())],
        (
            [line["row"], count(line["n"]), *(cell(line[name], digits) for name, (_, digits) in COLUMNS.items())]
            for line in rows
        ),
    )
    if checks:
        answers = {True: "yes", False: "no", None: "-"}
        text += "\n" + markdown(
            ["criterion", "row", "ratio", "by seed", "limit", "met", "by every seed"],
            (
                [
                    f"{line['criterion']} ({line['against']})",
                    line["row"],
                    f"{line['ratio']:.2f}",
                    ", ".join(f"{ratio:.2f}" for ratio in line["ratio_by_seed"]),
                    "-" if line["limit"] is None else f"{line['limit']:g}",
                    answers[line["met"]],
                    answers[line["met_by_every_seed"]],
                ]
                for line in checks
            ),
        )
    first = lines[0]
    heldout = first["references"]["heldout"]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    return text + (
        f"\nHeld-out part: {heldout['part']}, {heldout['n']} images. Extractor {first['extractor']} "
        f"{first['extractor_hash']}. {first['machine']}, {first['threads']} thread(s). {versions}. "
        f"Commit {first['git_commit']}.\n\n    {first['command']}\n"
    )


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    if len(args) != 1:
        sys.exit("usage: python benchmarks/table.py FILE.jsonl")
    with open(args[0], encoding="utf-8") as file:
        print(tables([json.loads(line) for line in file if line.strip()]), end="")


if __name__ == "__main__":
    main()
