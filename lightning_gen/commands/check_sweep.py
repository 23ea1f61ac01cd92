"""Parsing the command lines of a sweep, all in one process: ``python -m lightning_gen.commands.check_sweep``.

Reads ``{"lines": argument lists from fit on, "lenient": bool}`` as JSON, and prints ``{"error": text or null, "notes":
[texts]}``. Once all lines parse, the objects that they describe are made, too: parts may be right each and not fit each
other.
"""

from __future__ import annotations

import difflib
import itertools
import json
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import Namespace
from omegaconf.errors import OmegaConfBaseException

from lightning_gen.commands.messages import input_error_behind
from lightning_gen.commands.screen import quieten
from lightning_gen.commands.training import TrainingCLI
from lightning_gen.core import InputError
from lightning_gen.shipped import find_config
from lightning_gen.sweeps.command import plain_values

EXAMPLE_LETTERS = 300
BUILD_SECONDS = 2.0
"""How long all models of a check may take to be made; those beyond are left to their own runs."""
MOST_TRIED = 8
"""Number of other combinations in which a value is tried before the error names it."""


class _Built(Exception):
    """The parser is there, and nothing else is wanted."""


class ParsingCLI(TrainingCLI):
    """The parser of ``fit`` for one command line after the other; makes no folder and no object."""

    def __init__(self):
        quieten()
        super().__init__("fit", ["fit"])
        with suppress(_Built):
            self.run()

    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise _Built

    def parse(self, args: Sequence[str]) -> Namespace:
        """Return the values that ``args``, from ``fit`` on, give to all options.

        Raises:
            InputError: one line, as ``fit`` says it.
        """
        self.arguments = list(args)
        try:
            super().parse_arguments(self.parser, self.arguments)
        except SystemExit as stop:
            raise InputError(f"{' '.join(args)} trains nothing") from stop
        except OmegaConfBaseException as error:
            raise InputError(f"the config cannot be resolved: {str(error).splitlines()[0]}") from error
        except Exception as error:
            raise (input_error_behind(error) or error) from error
        return self.options

    def build(self, options: Namespace) -> None:
        """Make what a run with these options makes before it trains, but for the trainer itself; nothing is written.

        Raises:
            InputError: one line, as the run would say it.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = self._parser("fit").instantiate(options)
        except Exception as error:  # whatever constructors raise, a user's own among them
            raise (input_error_behind(error) or InputError(f"{type(error).__name__}: {error}")) from error
        try:
            made.model.configure_optimizers()
        except ValueError as error:  # others may want a trainer
            raise (input_error_behind(error) or InputError(str(error))) from error


class Option(NamedTuple):
    """An option of a command line."""

    key: str
    value: Any
    items: tuple[str, ...]
    """As it stood there."""

    @property
    def is_config(self) -> bool:
        return self.key in ("config", "c")

    @property
    def parameters(self) -> dict[str, Any] | None:
        """What a config in JSON holds, as sweeps hand their parameters over, or None for any other option."""
        if not self.is_config or self.value is None:
            return None
        if self.value.lstrip().startswith("{"):
            return json.loads(self.value)
        return json.loads(Path(self.value).read_text(encoding="utf-8")) if self.value.endswith(".json") else None


class Trial:
    """The options of one command line of a sweep, and the values that they give."""

    def __init__(self, options: Sequence[Option]):
        self.options = list(options)
        self.values = values_of(options)

    @property
    def configs(self) -> list[str]:
        """Its config files."""
        return [option.value for option in self.options if option.is_config and option.parameters is None]

    def with_value(self, key: str, value: Any) -> Trial:
        """Return the same with another value."""
        return Trial([*self.options, Option(key, value, (flag(key, value),))])


class CommandCheck:
    """Parses command lines, and finds the key that makes one fail."""

    def __init__(self):
        self.cli = ParsingCLI()

    def check(self, args: Sequence[str]) -> Namespace:
        """Parse ``args``, from ``fit`` on.

        Returns:
            The values of all options.

        Raises:
            InputError: one line that begins with the key, for the first thing wrong with them.
        """
        options = found_options(args)
        args = arguments(options)
        given = values_of(options)
        try:
            parsed = self.cli.parse(args)
        except InputError as error:
            self._blame(options, given)
            # Not of one key alone: parts of a class beside the class itself want their init_args in JSON.
            json_alone = any(option.parameters for option in options)
            raise InputError(f"{error}; with ${{args}} it would work" if json_alone else str(error)) from None
        for key in full_names(given):
            check_value(
                key, given[key], node_at(parsed, key), [other for other in given if other.startswith(f"{key}.")]
            )
        unchecked = {key for key, value in given.items() if value is None or "." not in key}
        if unchecked:  # a config in JSON may put null where none is allowed, and anything in the place of a group
            try:
                self.cli.parse([*_configs(options), *(flag(key, value) for key, value in given.items())])
            except InputError:
                self._blame(options, given, unchecked)
        return parsed

    def build(
        self,
        lines: Sequence[Sequence[str]],
        parsed: Sequence[Namespace],
        lenient: bool = False,
        seconds: float = BUILD_SECONDS,
    ) -> list[str]:
        """Make the models of command lines, as many as can be made in so many ``seconds``.

        Args:
            lines: command lines from ``fit`` on.
            parsed: what :meth:`check` returned for each.
            lenient: note a value that works with nothing, too: for a sweep whose file was written for other images.
            seconds: after so many no further one is begun.

        Returns:
            A note for each combination that fails although each of its values works with others: a sweep may well have
            such ones, and only their runs fail.

        Raises:
            InputError: one line, for a value that works with nothing, and where no combination works.
        """
        trials = [Trial(found_options(line)) for line in lines]
        works, fails, deadline = [], [], time.monotonic() + seconds
        for trial, options in zip(trials, parsed, strict=True):
            try:
                self.cli.build(options)
                works.append(trial)
            except InputError as error:
                fails.append((trial, str(error)))
            if time.monotonic() > deadline:
                break
        if fails and not works:
            works = next(([near] for near in self._neighbours(fails[0][0], trials) if not self._problem(near)), [])
            if not works:
                raise InputError(fails[0][1])
        varying = [key for key, value in trials[0].values.items() if any(t.values.get(key) != value for t in trials)]
        notes = []
        for trial, problem in fails:
            alone = self._value_at_fault(trial, works, trials)
            if not varying:  # config files alone do
                alone = f"{' '.join(trial.configs)} fails: {problem}"
            if alone and not lenient:
                raise InputError(alone)
            shown = ", ".join(f"{key} {trial.values.get(key)}" for key in varying)
            notes.append(f"note: {alone or f'{shown}: such a run fails: {problem}'}")
        return notes

    def _value_at_fault(self, trial: Trial, works: Sequence[Trial], trials: Sequence[Trial]) -> str | None:
        """Say which value of ``trial`` works neither in what works nor beside other values, if one does."""
        for key, value in trial.values.items():
            others = [other for other in works if key in other.values]
            if not others or any(other.values[key] == value for other in others):
                continue
            tried = [*(other.with_value(key, value) for other in others), *self._neighbours(trial, trials, key)]
            problems = list(itertools.takewhile(bool, map(self._problem, tried[:MOST_TRIED])))
            if len(problems) == min(len(tried), MOST_TRIED):
                return problems[0] if problems[0].startswith(key) else f"{key}: {value} fails: {problems[0]}"
        return None

    def _neighbours(self, trial: Trial, trials: Sequence[Trial], kept: str | None = None) -> Iterator[Trial]:
        """Yield ``trial`` with one value (not that of ``kept``) replaced by one of another trial."""
        seen = {(key, repr(value)) for key, value in trial.values.items()}
        for other in trials:
            for key, value in other.values.items():
                if key != kept and (key, repr(value)) not in seen:
                    seen.add((key, repr(value)))
                    yield trial.with_value(key, value)

    def _problem(self, trial: Trial) -> str:
        """Return why a trial fails, or ''."""
        try:
            self.cli.build(self.cli.parse(arguments(trial.options)))
        except InputError as error:
            return str(error)
        return ""

    def _blame(self, options: Sequence[Option], given: dict[str, Any], only: set[str] | None = None) -> None:
        """Raise InputError for the first key (of ``only`` those) that cannot follow the ones before it."""
        args, full = _configs(options), full_names(given)
        parsed = self.cli.parse(args)
        for key, value in given.items():
            longer = [*args, flag(key, value)]
            if key not in full:  # what is appended to a list may be complete only with the keys after it
                args = longer
                continue
            try:
                parsed, args = self.cli.parse(longer), longer
                node_at(parsed, key)
            except InputError as error:
                if only is not None and key not in only:
                    continue
                node_at(parsed, key)
                text = str(error)
                raise InputError(text if text.startswith(key) else f"{key}: {text}") from None


def found_options(args: Sequence[str]) -> list[Option]:
    """Return the options of ``args``, from ``fit`` on, as a run of a sweep understands them."""
    return [_found(option) for option in split(plain_values(args))]


def arguments(options: Sequence[Option]) -> list[str]:
    """Return a command line of options, from ``fit`` on."""
    return ["fit", *(item for option in options for item in option.items)]


def values_of(options: Sequence[Option]) -> dict[str, Any]:
    """Return the values that options give beside config files, by name.

    Raises:
        InputError: for a config file that is named inside another one.
    """
    given: dict[str, Any] = {}
    for option in options:
        own = option.parameters
        if own and "config" in own:
            raise InputError("config: a config file cannot name another one: pass it by ${args}, not as JSON")
        given |= own if own is not None else {} if option.is_config else {option.key: option.value}
    return given


def _configs(options: Sequence[Option]) -> list[str]:
    """Return a command line of the config files alone."""
    return arguments([option for option in options if option.is_config and option.parameters is None])


def flag(key: str, value: Any) -> str:
    """Return an option that gives ``value``."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def split(args: Sequence[str]) -> Iterator[Option]:
    """Yield the options of ``args``, from ``fit`` on.

    Raises:
        InputError: for something that is no option.
    """
    items = list(args[1:])
    while items:
        item = items.pop(0)
        key, equals, value = item.partition("=")
        if not item.startswith("-"):
            raise InputError(f"{item}: options begin with two hyphens: put ${{args}} into command")
        if not equals and items and not items[0].startswith("--"):
            yield Option(key.lstrip("-"), items[0], (item, items.pop(0)))
        else:
            yield Option(key.lstrip("-"), value if equals else None, (item,))


def _found(option: Option) -> Option:
    """Return the option with ``configs/...`` of the package where it lies."""
    if not option.is_config or option.value is None or option.parameters is not None:
        return option
    path = str(find_config(option.value))
    return Option("config", path, ("--config", path))


def full_names(given: Iterable[str]) -> list[str]:
    """Return the keys without those that append to a list, and change what was appended."""
    appended = tuple(key[:-1] for key in given if key.endswith("+"))
    return [
        key for key in given if not key.endswith("+") and not key.startswith(tuple(f"{name}." for name in appended))
    ]


def node_at(parsed: Namespace, key: str) -> Any:
    """Return what ``parsed`` has at a dotted name; init_args need not be written.

    Raises:
        InputError: where there is nothing of that full name, naming the nearest one.
    """
    node, parts = parsed, parts_of(key)
    for i, part in enumerate(parts):
        if isinstance(node, list):
            name = ".".join(parts[:i])
            raise InputError(
                f"{key}: {name} is a list, which is given as a whole: {name}: {{values: [{example(node)}]}}"
            )
        known = names(node)
        if part not in known:
            raise InputError(f"{key}: no such option{nearest(parsed, key)}")
        node = known[part]
    return node


def example(items: list[Any]) -> str:
    """Return a list as a sweep file would give it; only its brackets where that is too long for a message."""
    text = json.dumps([item.as_dict() if isinstance(item, Namespace) else item for item in items], default=str)
    return text if len(text) <= EXAMPLE_LETTERS else "[...]"


def parts_of(key: str) -> list[str]:
    """Return the parts of a dotted name, without init_args."""
    return [part for part in key.split(".") if part != "init_args"]


def names(node: Any) -> dict[str, Any]:
    """Return what a key can go on with below ``node``."""
    if not isinstance(node, Namespace | dict):
        return {}
    inside = dict(vars(node)) if isinstance(node, Namespace) else dict(node)
    return inside | names(inside.pop("init_args", None)) | names(inside.pop("dict_kwargs", None))


def nearest(parsed: Namespace, key: str) -> str:
    """Return a hint at the existing key nearest to ``key``, each part compared with what stands at its place."""
    node, found = parsed, []
    for part in parts_of(key):
        known = names(node)
        near = [part] if part in known else difflib.get_close_matches(part, known, 1, 0.6)
        if not near:
            known = [name for name in known if name != "class_path"]
            return f": {'.'.join(found)} has {', '.join(known) or 'no options'}" if found else ""
        found.append(near[0])
        node = known[near[0]]
    return f" (did you mean {'.'.join(found)!r}?)"


def check_value(key: str, given: Any, parsed: Any, inside: Sequence[str]) -> None:
    """Raise InputError where a value was lost on its way, as one before a later ``--config`` is.

    Args:
        key: its name.
        given: the value that was given, text for one of a command line.
        parsed: the value that the run would have.
        inside: further keys that change parts of it.
    """
    if not inside and not same(given, parsed):
        found = parsed.as_dict() if isinstance(parsed, Namespace) else parsed
        raise InputError(f"{key}: the run would have {found} instead of {given}: does a later --config replace it?")


def same(given: Any, parsed: Any) -> bool:
    """Whether a value is what was given, as far as can be told: classes by their names, numbers by their value."""
    if isinstance(given, str) and not isinstance(parsed, str):
        with suppress(yaml.YAMLError):
            given = yaml.safe_load(given)
    if isinstance(parsed, Namespace) and "class_path" in parsed:
        if not isinstance(given, dict):
            given = {"class_path": given}
        path = str(given.get("class_path", parsed.class_path))
        everything = given | (given.get("init_args") or {})
        arguments = {key: value for key, value in everything.items() if key not in ("class_path", "init_args")}
        same_class = path.rpartition(".")[2] == parsed.class_path.rpartition(".")[2]
        return same_class and same(arguments, parsed.get("init_args", {}))
    if isinstance(parsed, Namespace | dict):
        known = names(parsed)
        return isinstance(given, dict) and all(key in known and same(value, known[key]) for key, value in given.items())
    if isinstance(parsed, list | tuple):
        return isinstance(given, list) and len(given) == len(parsed) and all(map(same, given, parsed))
    if isinstance(parsed, int | float) and not isinstance(parsed, bool):
        with suppress(TypeError, ValueError):
            return float(given) == float(parsed)
        return False
    if parsed is None or isinstance(parsed, bool):
        return given is parsed
    return str(given) == str(parsed) if isinstance(parsed, str) else True


def main() -> None:
    answer: dict[str, Any] = {"error": None, "notes": []}
    try:
        check, wanted = CommandCheck(), json.load(sys.stdin)
        parsed = [check.check(args) for args in wanted["lines"]]
        answer["notes"] = [one_line(note) for note in check.build(wanted["lines"], parsed, wanted["lenient"])]
    except InputError as error:
        answer["error"] = one_line(str(error))
    print(json.dumps(answer))


def one_line(text: str) -> str:
    """Return a text without line ends."""
    return " ".join(text.split())


if __name__ == "__main__":
    main()
