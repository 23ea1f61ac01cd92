"""Reading a sweep file in W&B's syntax, with one line for every mistake in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from lightning_gen.core import InputError, check, check_positive
from lightning_gen.figures import figure_of
from lightning_gen.shipped import configs_folder, find_config, find_sweep
from lightning_gen.sweeps.distributions import Distribution, choice, did_you_mean, is_number, read_distribution

METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
TEXTS = ("name", "description", "program", "project", "entity")
KEYS = ("method", "metric", "parameters", "command", "early_terminate", "run_cap", *TEXTS)
# Keys of W&B's own services: known, so that the answer is not a near miss.
ELSEWHERE = ("apiVersion", "kind", "controller", "job", "image_uri", "scheduler", "metrics", "impute")

ARGUMENT_MACROS = (
    "args",
    "args_no_equals",
    "args_no_hyphens",
    "args_no_boolean_flags",
    "args_json",
    "args_json_file",
    "args_append_hydra",
    "args_override_hydra",
)
MACROS = ("env", "interpreter", "program", *ARGUMENT_MACROS)
ENVIRONMENT_MACRO = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
CONFIG = ("--config", "-c")


@dataclass(frozen=True)
class EarlyTermination:
    """Hyperband as W&B's ``early_terminate`` gives it; an iteration is one evaluation that reports the metric.

    Attributes:
        min_iter: the first iteration at which runs are stopped, or None.
        max_iter: the last one, where ``min_iter`` is None.
        s: how many times runs are stopped, counted back from ``max_iter``.
        eta: the best 1 / eta go on each time; each time is eta times as late as the one before.
        strict: judge by the value at that iteration instead of by the best so far.
    """

    min_iter: int | None = None
    max_iter: int | None = None
    s: int | None = None
    eta: float = 3.0
    strict: bool = True


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says.

    Attributes:
        path: the file.
        name: the sweep's name: of the file's key, else of the file itself.
        method: grid, random or bayes.
        metric: the figure to be optimised, or None (random and grid alone).
        goal: minimize or maximize.
        target: the sweep is over when a run reaches it, or None.
        parameters: distributions by dotted name, in the order of names as W&B has it.
        command: items of each run's command, with macros.
        program: what ``${program}`` stands for, or None.
        early_terminate: Hyperband, or None.
        run_cap: most runs, or None.
        raw: the file as read.
    """

    path: Path
    name: str
    method: str
    metric: str | None
    goal: str
    target: float | None
    parameters: dict[str, Distribution]
    command: tuple[str, ...]
    program: str | None
    early_terminate: EarlyTermination | None
    run_cap: int | None
    raw: dict[str, Any]


def read_sweep(path: Path | str) -> SweepFile:
    """Read a sweep file; ``sweeps/...`` is also looked for among those of the package.

    Raises:
        InputError: one line for whatever is wrong, naming the key and the remedy.
    """
    path = find_sweep(str(path))
    try:
        return _sweep(path, _load(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


# --- the file -----------------------------------------------------------------------------------------------------


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        _check_node(yaml.compose(text, yaml.SafeLoader), "")
        raw = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError("cannot be read: it is not a text file") from error
    except yaml.YAMLError as error:
        raise InputError(f"cannot be read: {_problem(error)}") from error
    except RecursionError as error:
        raise InputError("cannot be read: it is nested too deeply") from error
    if not isinstance(raw, dict) or not raw:
        raise InputError("a sweep file is a mapping of keys: method, metric, parameters, command")
    return raw


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    lines = (mark.buffer or "").rstrip("\0").split("\n")
    macro = "${" in (lines[mark.line] if mark.line < len(lines) else "")
    return f"line {mark.line + 1}: {error.problem}" + ("; macros stand in quotes: '${args}'" if macro else "")


def _check_node(node: yaml.Node | None, where: str) -> None:
    """Raise InputError where YAML would silently give something else than what stands there; None is an empty file."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = str(key.value)
            inner = f"{where}.{name}" if where else name
            if name in seen:
                raise InputError(f"{inner} stands twice in line {key.start_mark.line + 1}")
            seen.add(name)
            _check_node(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _check_node(item, f"{where}[{i}]")
    elif _is_text_by_accident(node) and where.startswith(("parameters.", "metric.", "early_terminate.", "run_cap")):
        mantissa, exponent = node.value.lower().split("e")
        number = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"
        raise InputError(f"{where}: YAML reads {node.value} as text: write {number}, or '{node.value}' for text")


def _is_text_by_accident(node: yaml.Node | None) -> bool:
    """Whether YAML 1.1 reads text where people read a number: an exponent without a point or a sign."""
    return (
        node is not None
        and node.tag == "tag:yaml.org,2002:str"
        and node.style is None
        and bool(NUMBER.fullmatch(node.value))
    )


# --- its keys -----------------------------------------------------------------------------------------------------


def _sweep(path: Path, raw: dict[str, Any]) -> SweepFile:
    _check_keys(raw, KEYS, "")
    for key in TEXTS:
        check("", key, raw.get(key), isinstance(raw.get(key), str | None), "text")
    name = raw.get("name") or path.stem
    if "/" in name or "\0" in name or name.startswith("."):
        raise InputError(f"name: {name!r} cannot be the folder of the runs: leave out / and leading dots")
    if "method" not in raw:
        raise InputError("method is missing: grid, random or bayes")
    method = choice("method", raw["method"], METHODS)
    metric = _metric(raw)
    early = _early_termination(raw)
    for key, given in (("method: bayes", method == "bayes"), ("early_terminate", early)):
        if given and metric["name"] is None:
            raise InputError(f"{key} needs metric: {{name: ..., goal: minimize}}")
    parameters = _parameters(raw)
    if method == "grid":
        for distribution in parameters.values():
            distribution.grid()
    if raw.get("run_cap") is not None:
        check_positive("", run_cap=raw["run_cap"])
    return SweepFile(
        path=path,
        name=name,
        method=method,
        metric=metric["name"],
        goal=metric["goal"],
        target=metric["target"],
        parameters=parameters,
        command=_command(raw),
        program=raw.get("program"),
        early_terminate=early,
        run_cap=raw.get("run_cap"),
        raw=raw,
    )


def _metric(raw: dict[str, Any]) -> dict[str, Any]:
    given = raw.get("metric")
    if given is None:
        return {"name": None, "goal": "minimize", "target": None}
    check("", "metric", given, isinstance(given, dict), "a mapping such as {name: ..., goal: minimize}")
    _check_keys(given, ("name", "goal", "target"), "metric.")
    name, target = given.get("name"), given.get("target")
    if not isinstance(name, str) or not name:
        raise InputError("metric.name is missing: the name of a figure, such as val/fid_digits_heldout")
    check("metric", "target", target, target is None or is_number(target), "a number")
    return {"name": name, "goal": choice("metric.goal", given.get("goal", "minimize"), GOALS), "target": target}


def _early_termination(raw: dict[str, Any]) -> EarlyTermination | None:
    given = raw.get("early_terminate")
    if given is None:
        return None
    check("", "early_terminate", given, isinstance(given, dict), "a mapping such as {type: hyperband, min_iter: ...}")
    _check_keys(given, ("type", "min_iter", "max_iter", "s", "eta", "strict"), "early_terminate.")
    choice("early_terminate.type", given.get("type"), ("hyperband",))
    numbers = {key: given[key] for key in ("min_iter", "max_iter", "s") if key in given}
    check_positive("early_terminate", **numbers)
    if ("min_iter" in numbers) == ("max_iter" in numbers) or ("max_iter" in numbers) != ("s" in numbers):
        raise InputError("early_terminate: give min_iter, or max_iter and s")
    eta = given.get("eta", 3)
    check("early_terminate", "eta", eta, is_number(eta) and eta > 1, "a number above 1")
    strict = given.get("strict", True)
    check("early_terminate", "strict", strict, isinstance(strict, bool), "true or false")
    return EarlyTermination(**numbers, eta=float(eta), strict=strict)


def _parameters(raw: dict[str, Any]) -> dict[str, Distribution]:
    given = raw.get("parameters")
    if not isinstance(given, dict) or not given:
        raise InputError("parameters is missing: a mapping from dotted names, such as ema.half_life, to distributions")
    for name in given:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            hint = f": write {name.lstrip('-')}" if str(name).startswith("--") else ""
            raise InputError(f"parameters: {name!r} is not a dotted name{hint}")
    return {name: read_distribution(name, given[name]) for name in sorted(given)}


def _command(raw: dict[str, Any]) -> tuple[str, ...]:
    given = raw.get("command")
    if given is None:
        if raw.get("program") in ("lightning", "lightning-gen"):
            example = "['${env}', '${program}', fit, --config, FILE, '${args}']"
            raise InputError(f"command is missing: for program: {raw['program']} write command: {example}")
        given = list(DEFAULT_COMMAND)
    check(
        owner="",
        name="command",
        value=given,
        holds=isinstance(given, list) and bool(given),
        expected="a list of items, such as ['${env}', '${program}', fit, '${args}']",
    )
    for i, item in enumerate(given):
        is_text = isinstance(item, str | int | float) and not isinstance(item, bool)
        check("", f"command[{i}]", item, is_text, "text (macros in quotes)")
        _check_macros(f"command[{i}]", str(item))
    command = tuple(str(item) for item in given)
    if not any(f"${{{macro}}}" in command for macro in ARGUMENT_MACROS):
        raise InputError("command: no ${args} or ${args_json_file} among its items, so no run would get its parameters")
    if "${program}" in command and not raw.get("program"):
        raise InputError("program is missing: ${program} in command stands for it")
    return command


def _check_macros(where: str, item: str) -> None:
    rest = ENVIRONMENT_MACRO.sub("", item)
    name = rest[2:-1] if rest.startswith("${") and rest.endswith("}") else None
    if name in MACROS and rest == item:
        return
    for macro in MACROS:
        if f"${{{macro}}}" in rest:
            raise InputError(f"{where}: {item}: a macro must be a whole item of the list: write '${{{macro}}}' apart")
    if name is not None and name.startswith("envvar:"):
        raise InputError(f"{where}: {item}: environment variables have capital letters, digits and _")
    if name is not None:  # W&B's agent takes it for a macro, and drops unknown ones
        raise InputError(f"{where}: there is no macro {item}{did_you_mean(name, [*MACROS, 'envvar:NAME'], sure=True)}")


def _check_keys(given: dict[Any, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key in ELSEWHERE:
            raise InputError(f"{where}{key}: a part of W&B's own services, which lightning sweep does not have")
        if key not in known:
            raise InputError(f"{where}{key}: no such key{did_you_mean(str(key), known, sure=True)}")


# --- another config -----------------------------------------------------------------------------------------------


def with_config(sweep: SweepFile, config: str, metric: str | None = None) -> SweepFile:
    """Return the sweep over another config file: the single ``--config FILE`` of its command is replaced.

    In a sweep over config files, ``config`` is a pattern such as ``configs/gan/*-fashion-mnist.yaml``, whose files take
    the place of all. Where ``metric`` is None and the sweep's is the ``checkpoint.monitor`` of old configs, that of the
    new ones takes its place: of those in the same folders, if there are any, because a family of models may watch a
    figure of its own.

    Raises:
        InputError: where there is no config to replace, or not exactly one, or the metric cannot be told.
    """
    if "config" in sweep.parameters:
        old = sweep.parameters["config"].points()
        new = _matching(config)
        raw = {**sweep.raw, "parameters": {**sweep.raw["parameters"], "config": {"values": new}}}
    else:
        at, prefix, file = _config_place(sweep)
        find_config(config)
        old, new = [file], [config]
        raw = {**sweep.raw, "command": [*sweep.command[:at], prefix + config, *sweep.command[at + 1 :]]}
    watching = {Path(file).parent.name for file in old if _monitor(file) == sweep.metric}
    if metric is None and sweep.metric is not None and watching:
        kin = [file for file in new if Path(file).parent.name in watching]
        monitors = {_monitor(file) for file in kin or new}
        if None in monitors or len(monitors) > 1:
            raise InputError(f"{config}: which figure is optimised? its checkpoint.monitor does not say: --metric NAME")
        metric = monitors.pop()
    return with_metric(_sweep(sweep.path, raw), metric)


def with_metric(sweep: SweepFile, metric: str | None) -> SweepFile:
    """Return the sweep with another figure to optimise, in that figure's own direction where it is known.

    A target is of the figure that it was given for, and goes with it. None leaves the sweep as it is.
    """
    if metric is None or metric == sweep.metric:
        return sweep
    known = figure_of(metric)
    goal = sweep.goal if known is None or known.higher is None else GOALS[known.higher]
    return _sweep(sweep.path, {**sweep.raw, "metric": {"name": metric, "goal": goal}})


def _matching(pattern: str) -> list[str]:
    """Return the config files that ``pattern`` matches, here or, for ``configs/...``, among those of the package."""
    found = sorted(glob(pattern, recursive=True))
    if not found and Path(pattern).parts[:1] == ("configs",):
        folder = configs_folder()
        inside = sorted(glob(str(folder.joinpath(*Path(pattern).parts[1:])), recursive=True))
        found = [f"configs/{Path(path).relative_to(folder).as_posix()}" for path in inside]
    return found or [str(find_config(pattern))]


def _config_place(sweep: SweepFile) -> tuple[int, str, str]:
    """Return where in the command its config stands, what stands before it in the same item, and the config."""
    places = []
    for i, item in enumerate(sweep.command):
        if item in CONFIG and i + 1 < len(sweep.command) and not sweep.command[i + 1].startswith("${"):
            places.append((i + 1, "", sweep.command[i + 1]))
        elif item.startswith("--config="):
            places.append((i, "--config=", item.partition("=")[2]))
    if len(places) != 1:
        raise InputError(f"{sweep.path}: its command has {len(places) or 'no'} --config FILE, of which one is replaced")
    return places[0]


def _monitor(config: str) -> str | None:
    path = find_config(config)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    checkpoint = raw.get("checkpoint") if isinstance(raw, dict) else None
    return checkpoint.get("monitor") if isinstance(checkpoint, dict) else None


class _Dumper(yaml.SafeDumper):
    """Writes text that looks like a number in quotes, which :func:`read_sweep` asks for."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if NUMBER.fullmatch(text) else None)


_Dumper.add_representer(str, _text)


def sweep_text(sweep: SweepFile) -> str:
    """Return the sweep file's text, for ``wandb sweep``, with what :func:`with_config` replaced."""
    return yaml.dump(sweep.raw, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
