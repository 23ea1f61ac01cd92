"""What the name of a figure tells: the part it is of, its direction, the kind of a likelihood."""

import re
from types import MappingProxyType
from typing import Any

PARTS = MappingProxyType({"val": "Validation", "test": "Test", "train": "Training"})

KINDS = MappingProxyType(
    {
        "bpd": "exact",
        "bpd_dequantized": "dequantized",
        "bpd_bound": "bound",
        "bpd_ais": "ais",
        "bpd_estimate": "estimate",
    }
)
"""Kind of each figure of bits per dimension; two kinds never share a column."""

HIGHER_IS_BETTER = MappingProxyType(
    {
        "fid": False,
        "kid": False,
        "is": True,
        "precision": True,
        "recall": True,
        "density": True,
        "coverage": True,
        **dict.fromkeys(KINDS, False),
        "classes": True,
        "class_distance": False,
        "label_accuracy": True,
        "modes": True,
        "high_quality": True,
        "accuracy": True,
        "swd": False,
    }
)
"""Direction of the figures that have one, by the beginning of their name, in the order in which they are shown."""

MAIN = ("fid", "kid", "is", "precision", "recall", "density", "coverage", "swd", *KINDS, "copy_share", "copied")
SIDE = re.compile(r"_(std|se|low|high|ceiling|detectable|on_train|on_train_std|class\d+)$")


def part_of(name: str) -> str:
    """Return ``val``, ``test`` or ``train`` of ``val/fid_digits``; '' for a name without a part."""
    part, slash, _ = name.partition("/")
    return part if slash and part in PARTS else ""


def base_of(name: str) -> str:
    """Return ``fid`` of ``val/fid_digits_heldout``; the name without its part where it is no known figure.

    >>> base_of("val/fid_digits_heldout"), base_of("test/bpd_bound"), base_of("val/issue")
    ('fid', 'bpd_bound', 'issue')
    """
    plain = name.partition("/")[2] if part_of(name) else name
    found = [key for key in (*HIGHER_IS_BETTER, *MAIN) if f"{plain}_".startswith(f"{key}_")]
    return max(found, key=len, default=plain)


def higher_is_better(name: str) -> bool | None:
    """Return whether a higher value is a better one; None for a figure without a direction, such as a spread."""
    return None if SIDE.search(name) else HIGHER_IS_BETTER.get(base_of(name))


def kind_of(name: str) -> str | None:
    """Return the kind of likelihood behind a figure of bits per dimension; None for any other figure.

    >>> kind_of("val/bpd"), kind_of("test/bpd_bound"), kind_of("val/bpd_se"), kind_of("val/fid")
    ('exact', 'bound', None, None)
    """
    return None if SIDE.search(name) else KINDS.get(base_of(name))


def is_main(name: str) -> bool:
    """Whether the figure belongs on a leaderboard that nobody has adjusted."""
    return base_of(name) in MAIN and not SIDE.search(name)


def place(name: str) -> tuple[int, int, str]:
    """Return a key that sorts figures: validation before test before training, quality before the rest."""
    parts, order = (*PARTS, ""), (*MAIN, *HIGHER_IS_BETTER)
    base = base_of(name)
    return parts.index(part_of(name)), order.index(base) if base in order else len(order), name


def describe(name: str) -> dict[str, Any]:
    """Return what the page needs to know about a figure, as plain data."""
    return {
        "name": name,
        "part": part_of(name),
        "plain": name.partition("/")[2] if part_of(name) else name,
        "higher": higher_is_better(name),
        "kind": kind_of(name),
        "main": is_main(name),
    }
