"""The table of all figures that this package computes, gathered from the classes that declare them."""

import inspect
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

from lightning_gen.core.figures import PARTS, Figure, find_figure, part_of, plain_name


@cache
def table() -> tuple[Figure, ...]:
    """Return every figure that a metric, penalty, family or evaluation of this package declares, each once.

    The order is the one in which they are shown: likelihoods and metrics of samples first.
    """
    from torchmetrics import Metric

    from lightning_gen import evaluation, metrics, models, objectives  # not before they are needed: they take seconds

    declared = [
        *(figure for cls in _classes(metrics) if issubclass(cls, Metric) for figure in vars(cls).get("figures", ())),
        *evaluation.FIGURES,
        *(figure for cls in _lines(models) for figure in vars(cls).get("figures", ())),
        *(Figure(cls.__name__.lower(), _first_line(cls)) for cls in _classes(objectives) if _is_penalty(cls)),
    ]
    return tuple(sorted(dict.fromkeys(declared), key=lambda figure: (not figure.leads, figure.higher is None)))


def _classes(module: ModuleType) -> list[type]:
    return [cls for cls in map(vars(module).get, module.__all__) if inspect.isclass(cls)]


def _lines(module: ModuleType) -> Iterator[type]:
    """Yield the classes of a module and what they descend from in this package, each once, the oldest first."""
    found = dict.fromkeys(cls for public in _classes(module) for cls in reversed(public.__mro__))
    yield from (cls for cls in found if cls.__module__.startswith("lightning_gen"))


def _is_penalty(cls: type) -> bool:
    from lightning_gen.objectives.penalties import LazyPenalty

    return issubclass(cls, LazyPenalty) and not inspect.isabstract(cls)


def _first_line(cls: type) -> str:
    return inspect.getdoc(cls).partition("\n")[0].rstrip(".")


def figure_of(name: str, known: dict[str, Any] | None = None) -> Figure | None:
    """Return what a name in logs stands for: as a run's summary has it, else as this package declares it, or None."""
    if known and name in known:
        return Figure(**known[name])
    return find_figure(name, table())


def place(name: str) -> tuple[int, int, str]:
    """Return a key that sorts figures: validation before test before training, those that lead before the rest."""
    parts, names = (*PARTS, ""), [figure.name for figure in table()]
    found = find_figure(name, table())
    return parts.index(part_of(name)), len(names) if found is None else names.index(found.name), name


def describe(name: str, figure: Figure | None) -> dict[str, Any]:
    """Return what the report's page needs to know about a figure, as plain data."""
    return {
        "name": name,
        "part": part_of(name),
        "plain": plain_name(name),
        "about": "" if figure is None else figure.about,
        "higher": None if figure is None else figure.higher,
        "kind": None if figure is None else figure.kind,
        "main": figure is not None and figure.leads,
    }
