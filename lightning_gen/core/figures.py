"""What figures are: a record for each, declared once by what computes it, and found by the names that logs use."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

PARTS = ("val", "test", "train")

# What follows a figure's name where a number only says something about the figure: it has no direction.
DETAIL = re.compile(r"_(std|se|stderr|subsets|low|high|ceiling|detectable|on_train|class\d+|side\d+(x\d+)?)$")


@dataclass(frozen=True)
class Figure:
    """What a figure is.

    Args:
        name: in logs, without the part before it and without extractor, reference part or class behind it: ``fid`` for
            ``val/fid_digits_heldout``.
        about: what it is, in one sentence without a full stop.
        higher: whether a higher value is a better one; None for a figure without a direction.
        kind: of a likelihood: exact, dequantized, bound, ais or estimate. Two kinds never share a column.
        leads: whether it stands on a leaderboard and in the progress line; the others are details.
    """

    name: str
    about: str
    higher: bool | None = None
    kind: str | None = None
    leads: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def part_of(name: str) -> str:
    """Return ``val``, ``test`` or ``train`` of ``val/fid_digits``; '' for a name without a part."""
    part, slash, _ = name.partition("/")
    return part if slash and part in PARTS else ""


def plain_name(name: str) -> str:
    """Return a name without its part: ``fid_digits`` of ``val/fid_digits``."""
    return name.partition("/")[2] if part_of(name) else name


def find_figure(name: str, declared: Iterable[Figure]) -> Figure | None:
    """Return what a name in logs stands for: the declared figure with the longest name that it begins with, or None.

    A detail of a figure, such as its spread, has no direction and no kind.

    >>> fid, bound = Figure("fid", "distance", higher=False), Figure("bpd_bound", "bits", higher=False, kind="bound")
    >>> find_figure("val/fid_digits_heldout", [fid, bound]) is fid, find_figure("val/fidelity", [fid])
    (True, None)
    >>> find_figure("test/bpd_bound_se", [fid, bound])
    Figure(name='bpd_bound', about='bits', higher=None, kind=None, leads=False)
    """
    plain = plain_name(name)
    fitting = [figure for figure in declared if f"{plain}_".startswith(f"{figure.name}_")]
    found = max(fitting, key=lambda figure: len(figure.name), default=None)
    if found is not None and DETAIL.search(plain):
        return replace(found, higher=None, kind=None, leads=False)
    return found


def is_of_one_class(name: str) -> bool:
    """Whether a figure is of one class alone, such as ``val/fid_digits_class3``: there are as many as classes."""
    return re.search(r"_class\d+$", name) is not None
