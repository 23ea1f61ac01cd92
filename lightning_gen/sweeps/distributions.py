"""The distributions of W&B's sweep files, as Optuna samples them and as W&B's agents show them.

A *raw* value is what Optuna draws and stores; a *shown* one is what stands on a run's command line.
"""

from __future__ import annotations

import bisect
import difflib
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lightning_gen.core import InputError, check, check_above

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANGE, NORMAL, BETA = ("min", "max"), ("mu", "sigma"), ("a", "b")
KEYS = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": RANGE,
    "uniform": RANGE,
    "q_uniform": (*RANGE, "q"),
    "log_uniform": RANGE,
    "log_uniform_values": RANGE,
    "q_log_uniform": (*RANGE, "q"),
    "q_log_uniform_values": (*RANGE, "q"),
    "inv_log_uniform": RANGE,
    "inv_log_uniform_values": RANGE,
    "normal": NORMAL,
    "q_normal": (*NORMAL, "q"),
    "log_normal": NORMAL,
    "q_log_normal": (*NORMAL, "q"),
    "beta": BETA,
    "q_beta": (*BETA, "q"),
}
"""W&B's distributions, and the keys that each takes beside ``distribution``."""
DEFAULTS = {"q": 1.0, "mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0}
EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")
"""Those whose min and max are exponents of e, not values."""
LARGEST = 700
"""An exponent of e that is still a float."""
EDGE = 2.0**-20
"""Quantiles are drawn from [EDGE, 1 - EDGE]: samplers try the ends of a range, and those of a normal are infinite."""
USUAL = (0.05, 0.95)
"""Quantiles between which most values lie."""


@dataclass
class Distribution(ABC):
    """How one parameter of a sweep is drawn.

    Attributes:
        name: the parameter's dotted name.
        kind: W&B's name of the distribution, inferred as W&B does where the file names none.
    """

    name: str
    kind: str

    @abstractmethod
    def raw(self) -> BaseDistribution:
        """Return the Optuna distribution of raw values (imports Optuna; a constant has a single choice).

        Raises:
            InputError: where Optuna is not installed.
        """

    @abstractmethod
    def shown(self, raw: Any) -> Any:
        """Return the value that a raw one stands for: plain data as JSON has it, quantized as W&B does."""

    @abstractmethod
    def points(self) -> list[Any]:
        """Return shown values to try before a sweep: all of a list, ends of a range, usual ones where there is none."""

    def grid(self) -> list[Any]:
        """Return the shown values of W&B's grid search, in its order.

        Raises:
            InputError: for a distribution that W&B's grid search does not take.
        """
        remedy = "leave probabilities out" if self.kind.startswith("categorical") else "give values: [...]"
        raise InputError(f"parameters.{self.name}: method: grid cannot go through {self.kind}: {remedy}")


@dataclass
class Choices(Distribution):
    """``constant``, ``categorical`` and ``categorical_w_probabilities``.

    Equally likely values are choices of Optuna's by their JSON text, so that lists are choices, too, and 1 is not
    True. Unequally likely ones are drawn by their quantile, which Optuna can weigh.
    """

    values: list[Any]
    probabilities: list[float] | None = None

    def raw(self) -> BaseDistribution:
        if self.probabilities is None:
            return optuna().CategoricalDistribution([json.dumps(value) for value in self.values])
        return optuna().FloatDistribution(0.0, 1.0)

    def shown(self, raw: str | float) -> Any:
        if self.probabilities is None:
            return json.loads(raw)
        likely = [(value, p) for value, p in zip(self.values, self.probabilities, strict=True) if p]
        place = bisect.bisect(list(itertools.accumulate(p for _, p in likely)), raw)
        return likely[min(place, len(likely) - 1)][0]  # where raw is 1, or nearly, it may be above the sum

    def points(self) -> list[Any]:
        return list(self.values)

    def grid(self) -> list[Any]:
        return super().grid() if self.probabilities else list(self.values)


@dataclass
class Integers(Distribution):
    """``int_uniform``: every whole number from min to max."""

    low: int
    high: int

    def raw(self) -> BaseDistribution:
        return optuna().IntDistribution(self.low, self.high)

    def shown(self, raw: int) -> int:
        return int(raw)

    def points(self) -> list[int]:
        return [self.low, self.high]

    def grid(self) -> list[int]:
        return list(range(self.low, self.high + 1))


@dataclass
class Numbers(Distribution):
    r"""Continuous distributions, and those rounded to multiples of q, :math:`q \cdot \text{round}(x / q)`.

    As W&B has it, with x before rounding:

    - ``uniform``, ``q_uniform``: in [min, max];
    - ``log_uniform_values``, ``q_log_uniform_values``: log x uniform, in [min, max];
    - ``log_uniform``, ``q_log_uniform``: log x uniform in [min, max];
    - ``inv_log_uniform``: -log x uniform in [min, max];
    - ``inv_log_uniform_values``: the same as ``log_uniform_values``;
    - ``normal``, ``log_normal`` (log x is normal), ``beta``, and ``q_`` of each: Optuna draws their quantile.

    Rounding may leave [min, max], and the two ends are half as likely as the multiples between them, as with W&B. Where
    q is whole, so is the value.
    """

    arguments: dict[str, float]

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the raw values."""
        if "min" not in self.arguments:
            return EDGE, 1 - EDGE
        low, high = float(self.arguments["min"]), float(self.arguments["max"])
        return (-high, -low) if self.kind == "inv_log_uniform" else (low, high)

    def raw(self) -> BaseDistribution:
        low, high = self.ends
        return optuna().FloatDistribution(low, high, log=self.kind.endswith("_values"))

    def shown(self, raw: float) -> float | int:
        value, q = self._value(float(raw)), self.arguments.get("q")
        if q is None:
            return value
        # In decimals, so that the third multiple of 0.1 is 0.3 and not 0.30000000000000004.
        multiple = round(value / q) * Decimal(str(q))
        return int(multiple) if float(q).is_integer() else float(multiple)

    def _value(self, raw: float) -> float:
        if self.kind in EXPONENTS:
            return math.exp(raw)
        if "min" in self.arguments:
            return raw
        from scipy import special  # slow to import, and few sweeps need it

        if self.kind.endswith("beta"):
            return float(special.betaincinv(self.arguments["a"], self.arguments["b"], raw))
        x = self.arguments["mu"] + self.arguments["sigma"] * float(special.ndtri(raw))
        return math.exp(x) if self.kind.endswith("log_normal") else x

    def points(self) -> list[float | int]:
        # The ends of what is drawn by its quantile hardly ever come up, and may be out of all bounds.
        low, high = map(self.shown, self.ends if "min" in self.arguments else USUAL)
        return [low] if low == high else [low, high]

    def grid(self) -> list[float | int]:
        """Return min, min + q, min + 2 q ... below max for ``q_uniform``: W&B leaves max itself out."""
        if self.kind != "q_uniform":
            return super().grid()
        low, high, q = (Decimal(str(self.arguments[key])) for key in (*RANGE, "q"))
        values = [low + i * q for i in range(math.ceil((high - low) / q))]
        whole = all(float(self.arguments[key]).is_integer() for key in ("min", "q"))
        return [int(value) if whole else float(value) for value in values]


def optuna() -> ModuleType:
    """Return ``optuna.distributions``.

    Raises:
        InputError: where it is not installed.
    """
    try:
        from optuna import distributions
    except ImportError:
        raise InputError("lightning sweep needs Optuna: pip install 'lightning-gen[sweep]'") from None
    return distributions


def read_distribution(name: str, given: dict[str, Any]) -> Distribution:
    """Return the distribution that an entry of ``parameters`` describes.

    Args:
        name: the parameter's name, for messages.
        given: the entry, such as ``{"distribution": "uniform", "min": 0.0, "max": 1.0}``.

    Raises:
        InputError: for unknown or missing keys, and for values out of range.
    """
    where = f"parameters.{name}"
    if not isinstance(given, dict) or not given:
        key = "values" if isinstance(given, list) else "value"
        hint = f"write {{{key}: {given}}}" if given not in (None, {}) else "give value, values, or min and max"
        raise InputError(f"{where}: {hint}")
    arguments = {key: value for key, value in given.items() if key != "distribution"}
    if "parameters" in arguments:
        inner = arguments["parameters"]
        first = next(iter(inner), "KEY") if isinstance(inner, dict) else "KEY"
        raise InputError(f"{where}.parameters: nested parameters are not taken, write the dotted name {name}.{first}")
    every = sorted({key for keys in KEYS.values() for key in keys})
    for key in arguments:
        if key not in every:
            raise InputError(f"{where}.{key}: no such key{did_you_mean(key, [*every, 'distribution'], sure=True)}")
    kind = given["distribution"] if "distribution" in given else _inferred(where, arguments)
    choice(f"{where}.distribution", kind, list(KEYS))
    for key in arguments:
        if key not in KEYS[kind]:
            raise InputError(f"{where}.{key}: {kind} takes {_listed(KEYS[kind])}{_better(kind, key)}")
    for key in KEYS[kind]:
        if key not in arguments and key not in DEFAULTS:
            raise InputError(f"{where}: {kind} needs {_listed([k for k in KEYS[kind] if k not in DEFAULTS])}")
    if kind == "constant":
        _check_plain(f"{where}.value", arguments["value"])
        return Choices(name, kind, [arguments["value"]])
    if kind.startswith("categorical"):
        return _choices(name, kind, where, **arguments)
    return _numbers(name, kind, where, arguments)


def _inferred(where: str, arguments: dict[str, Any]) -> str:
    if "value" in arguments:
        return "constant"
    if "values" in arguments:
        return "categorical_w_probabilities" if "probabilities" in arguments else "categorical"
    if "min" in arguments and "max" in arguments:
        if "q" in arguments:
            raise InputError(f"{where}: which distribution? with q, write distribution: q_uniform or another q_ one")
        return "int_uniform" if all(isinstance(arguments[key], int) for key in RANGE) else "uniform"
    for end, other in (RANGE, RANGE[::-1]):
        if end in arguments:
            raise InputError(f"{where}: {end} needs {other}")
    fitting = [kind for kind, keys in KEYS.items() if arguments.keys() <= set(keys)]
    raise InputError(f"{where}: which distribution? give distribution: {' or '.join(fitting)}")


def _choices(name: str, kind: str, where: str, values: Any, probabilities: Any = None) -> Choices:
    check(where, "values", values, isinstance(values, list) and bool(values), "a list of at least one value")
    for i, value in enumerate(values):
        _check_plain(f"{where}.values[{i}]", value)
    texts = [json.dumps(value) for value in values]
    twice = next((value for value in texts if texts.count(value) > 1), None)
    if twice is not None:
        raise InputError(f"{where}.values: {twice} stands there twice; to draw it more often, give probabilities")
    if probabilities is None:
        return Choices(name, kind, values)
    if not isinstance(probabilities, list) or len(probabilities) != len(values):
        raise InputError(f"{where}.probabilities: expected a list of {len(values)} numbers, one for each value")
    for i, p in enumerate(probabilities):
        check(where, f"probabilities[{i}]", p, is_number(p) and p >= 0, "a number of at least 0")
    if abs(sum(probabilities) - 1) > 1e-5:
        raise InputError(f"{where}.probabilities: they sum to {sum(probabilities):.6g}, not to 1")
    return Choices(name, kind, values, probabilities)


def _numbers(name: str, kind: str, where: str, given: dict[str, Any]) -> Distribution:
    for key, value in given.items():
        check(where, key, value, is_number(value), "a number")
    arguments = {key: given.get(key, DEFAULTS.get(key)) for key in KEYS[kind]}
    check_above(where, 0, **{key: arguments[key] for key in ("q", "sigma", "a", "b") if key in arguments})
    if "min" in arguments:
        low, high = (arguments[key] for key in RANGE)
        if low >= high:
            hint = "; a constant is value: ..." if low == high else ""
            raise InputError(f"{where}: min ({low}) must be less than max ({high}){hint}")
        check(where, "min", low, low > 0 or not kind.endswith("_values"), f"above 0 for {kind}")
        if kind in EXPONENTS and max(abs(low), abs(high)) > LARGEST:
            raise InputError(f"{where}: min and max of {kind} are exponents of e; for values write {kind}_values")
        if kind == "int_uniform":
            if not (isinstance(low, int) and isinstance(high, int)):
                raise InputError(f"{where}: min and max of int_uniform must be whole numbers, got {low} and {high}")
            return Integers(name, kind, low, high)
    if kind.endswith("log_normal") and abs(arguments["mu"]) + 5 * arguments["sigma"] > LARGEST:
        raise InputError(f"{where}: mu and sigma of {kind} are those of the logarithm, and too large")
    return Numbers(name, kind, arguments)


def is_number(given: Any) -> bool:
    """Whether this is a finite number."""
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def _check_plain(where: str, value: Any) -> None:
    """Raise InputError unless ``value`` can be written as JSON and read back the same."""
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise InputError(f"{where}: {value!r} is not JSON: give null, a number, text, a list or a mapping")


def _better(kind: str, key: str) -> str:
    """Return a hint at the variant of ``kind`` that takes ``key``, or ''."""
    if key == "q" and f"q_{kind}" in KEYS:
        return f"; with q it is distribution: q_{kind}"
    return "; with probabilities it is distribution: categorical_w_probabilities" if key == "probabilities" else ""


def _listed(keys: Sequence[str]) -> str:
    return " and ".join([", ".join(keys[:-1]), keys[-1]] if len(keys) > 1 else keys)


def choice(where: str, given: Any, known: Sequence[str]) -> str:
    """Return ``given``, or raise InputError where it is none of the ``known`` names."""
    if given not in known:
        raise InputError(f"{where}: there is no {given!r}{did_you_mean(str(given), known, sure=True)}")
    return given


def did_you_mean(name: str, known: Sequence[str], sure: bool = False) -> str:
    """Return a hint at the nearest of ``known`` names, else '', or all of them where one is wanted for ``sure``."""
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f": {', '.join(sorted(known))}" if sure else ""
