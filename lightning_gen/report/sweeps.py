"""The trials of a sweep: its parameters, how it went, its winner, and what decided."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gen.report.folders import natural
from lightning_gen.report.fronts import front
from lightning_gen.report.importance import FEWEST, Column, forest_importance, ranks, spearman
from lightning_gen.report.run import Run, as_dict, as_text
from lightning_gen.runs import RUNNING
from lightning_gen.sweeps.command import shown_command
from lightning_gen.sweeps.distributions import is_number

LOG_SPREAD = 50  # highest / lowest of a positive parameter from which on its axis is logarithmic
COSTS = ("seconds", "parameters", "images_seen")


def describe_sweeps(runs: Sequence[Run], ids: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return every sweep among the runs as plain data for the page.

    Runs belong to one sweep if their trial.json names it and they lie in the same folder.

    Args:
        runs: all runs.
        ids: by which the page knows each.
        names: by which it shows each.
    """
    together: dict[tuple[Path, str], list[int]] = {}
    for place, run in enumerate(runs):
        if "sweep" in run.trial:
            together.setdefault((run.folder.parent, as_text(run.trial["sweep"])), []).append(place)
    titles = [name for _, name in together]
    return [
        {
            "id": ids[places[0]],
            "name": name if titles.count(name) == 1 else f"{name} ({Path(names[places[0]]).parent})",
            **describe_sweep([runs[place] for place in places], [ids[place] for place in places]),
        }
        for (_, name), places in together.items()
    ]


def describe_sweep(runs: Sequence[Run], ids: Sequence[str]) -> dict[str, Any]:
    """Return one sweep as plain data: trials in order, parameters, history, winner, importance, Pareto fronts."""
    order = sorted(range(len(runs)), key=lambda place: (trial_number(runs[place]), place))
    runs, ids = [runs[place] for place in order], [ids[place] for place in order]
    goals = [str(run.trial.get("goal", "")) for run in runs]
    higher = max(set(goals), key=goals.count).startswith("max")
    metrics = [as_text(run.trial.get("metric") or "") for run in runs]
    metric = max(set(metrics), key=metrics.count)
    values = [value_of(run) for run in runs]
    final = [value if run.status == "finished" else None for run, value in zip(runs, values, strict=True)]
    parameters, constant = _parameters(runs)
    best = best_so_far(final, higher)
    winner = final.index(best[-1]) if best and best[-1] is not None else None
    costs = {cost: [cost_of(run, cost) for run in runs] for cost in COSTS}
    return {
        "metric": metric,
        "higher": higher,
        "trials": [
            {
                "run": ids[i],
                "number": trial_number(run),
                "state": run.status,
                "value": values[i],
                "best": best[i],
                "reason": as_text(run.trial.get("reason") or ""),
                "parameters": [column["values"][i] for column in parameters],
            }
            for i, run in enumerate(runs)
        ],
        "parameters": [{key: column[key] for key in ("name", "kind", "log", "choices")} for column in parameters],
        "constant": constant,
        "winner": winner,
        "command": "" if winner is None else winner_command(runs[winner]),
        "importance": importance(parameters, final, higher),
        "costs": {cost: known for cost, known in costs.items() if any(value is not None for value in known)},
        "fronts": {cost: front(final, known, higher) for cost, known in costs.items()},
    }


def trial_number(run: Run) -> int:
    """Return the number of the trial; 0 where trial.json has none."""
    number = run.trial.get("trial")
    return number if isinstance(number, int) else 0


def value_of(run: Run) -> float | None:
    """Return what the trial reached: the value in trial.json; while it still runs, the newest one of the metric."""
    value = run.trial.get("value")
    if is_number(value):
        return float(value)
    return run.last.get(str(run.trial.get("metric"))) if run.status == RUNNING else None


def cost_of(run: Run, cost: str) -> float | None:
    """Return seconds, number of parameters, or images seen of a run, where known."""
    return (sum(run.parameters.values()) or None) if cost == "parameters" else run.number(cost)


def best_so_far(values: Sequence[float | None], higher: bool) -> list[float | None]:
    """Return the best of the values up to each place; None before the first."""
    best: list[float | None] = []
    for value in values:
        known = [v for v in (value, best[-1] if best else None) if v is not None]
        best.append((max if higher else min)(known) if known else None)
    return best


def winner_command(run: Run) -> str:
    """Return the command line that runs the trial again."""
    words = run.trial.get("command")
    return shown_command([str(word) for word in words]) if isinstance(words, list) and words else run.command


def importance(parameters: Sequence[dict[str, Any]], final: Sequence[float | None], higher: bool) -> dict[str, Any]:
    """Return what decides the value, over the trials that finished; or why that cannot be said.

    Args:
        parameters: those that vary, with their values.
        final: value of each trial that finished, else None.
        higher: whether a higher value is a better one.
    """
    kept = [i for i, value in enumerate(final) if value is not None]
    values = np.array([final[i] for i in kept], dtype=np.float64)
    varying = [column for column in (_column(p, kept) for p in parameters) if len(set(column.choices)) > 1]
    if len(kept) < FEWEST:
        return {
            "trials": len(kept),
            "why_not": f"Importance needs at least {FEWEST} finished trials with a value; there are {len(kept)}.",
        }
    # No importance can be computed of choices that never repeat, such as the files of a grid over configs.
    used = [column for column in varying if column.numbers is not None or len(set(column.choices)) < len(kept)]
    if not used or len(set(values.tolist())) < 2:
        without = "no value occurs twice" if varying else "no parameter varies"
        same = "all of them reached the same value" if used else without
        return {"trials": len(kept), "why_not": f"Importance cannot be told: {same} among the finished trials."}
    lost, explained = forest_importance(used, values)
    rows = [
        {"name": column.name, "importance": float(share), **_direction(column, values, higher)}
        for column, share in zip(used, lost, strict=True)
    ]
    return {"trials": len(kept), "explained": explained, "rows": sorted(rows, key=lambda row: -row["importance"])}


def _direction(column: Column, values: np.ndarray, higher: bool) -> dict[str, Any]:
    """Return where a parameter does well.

    Of numbers Spearman's correlation with the value, and lowest and highest in the best quarter of the trials; of
    choices the one with the best median.
    """
    if column.numbers is not None:
        best = np.argsort(-values if higher else values, kind="stable")[: max(3, len(values) // 4)]
        near = [float(column.numbers[best].min()), float(column.numbers[best].max())]
        return {"correlation": spearman(column.numbers, values), "near": near}
    order = ranks(values)
    medians = {
        choice: float(np.median(order[[own == choice for own in column.choices]])) for choice in set(column.choices)
    }
    return {"best": sorted(medians, key=lambda choice: (-medians[choice] if higher else medians[choice], choice))[0]}


def _column(parameter: dict[str, Any], kept: Sequence[int]) -> Column:
    values = [parameter["values"][i] for i in kept]
    if parameter["kind"] == "number" and None not in values:
        return Column(parameter["name"], np.array(values, dtype=np.float64), tuple(map(str, values)))
    names = ["" if v is None else (parameter["choices"][v] if parameter["choices"] else str(v)) for v in values]
    return Column(parameter["name"], None, tuple(names))


def _parameters(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the parameters that vary, with the value in every trial, and those that do not."""
    dicts = [as_dict(run.trial.get("parameters")) for run in runs]
    names = list(dict.fromkeys(name for one in dicts for name in one))
    varying, constant = [], {}
    for name in names:
        values = [one.get(name) for one in dicts]
        texts = [as_text(value) if name in one else None for value, one in zip(values, dicts, strict=True)]
        if len({text for text in texts if text is not None}) < 2:
            constant[name] = next((text for text in texts if text is not None), "")
            continue
        numbers = [float(value) if is_number(value) else None for value in values]
        present = [number for number, text in zip(numbers, texts, strict=True) if text is not None]
        if None not in present:
            positive = min(present) > 0 and max(present) / min(present) >= LOG_SPREAD
            varying.append({"name": name, "kind": "number", "log": positive, "choices": [], "values": numbers})
        else:
            choices = sorted({text for text in texts if text is not None}, key=natural)
            places = [None if text is None else choices.index(text) for text in texts]
            varying.append({"name": name, "kind": "choice", "log": False, "choices": choices, "values": places})
    return varying, constant
