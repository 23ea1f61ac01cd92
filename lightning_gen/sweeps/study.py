"""A sweep's trials in an Optuna storage: which there are, who runs them, and what came out.

A *trial* of a sweep is one set of parameters and one run folder. Its *attempts* are trials of Optuna's: the first one,
and one more each time that a worker died or was stopped before the run's end and the run is to be continued. Trials are
numbered 0, 1, 2, ... by their first attempts, so that numbers, parameters and folders do not depend on how often a
sweep was interrupted.
"""

from __future__ import annotations

import binascii
import fcntl
import itertools
import json
import math
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lightning_gen.core import InputError, write_text
from lightning_gen.runs import versions
from lightning_gen.sweeps.distributions import Choices
from lightning_gen.sweeps.file import EarlyTermination, SweepFile, sweep_text

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
"""After so long without a heartbeat, a worker on another machine is taken for dead."""
FORGOTTEN = timedelta(hours=1)
"""After so long, a trial without owner or heartbeat was left by a worker that died while it took it."""
CONNECT_SECONDS = {"sqlite": {"timeout": 60}, "postgresql": {"connect_timeout": 10}, "mysql": {"connect_timeout": 10}}

# User attributes of attempts. Those that Optuna's own retries set as system attributes are set, too.
INDEX, PARAMETERS, OWNER, CONTINUED, SURPLUS = "index", "parameters", "owner", "continued", "surplus"
REASON, TAIL, SECONDS = "reason", "tail", "seconds"
FIRST_ATTEMPT, HISTORY = "failed_trial", "retry_history"

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Superseded(Exception):
    """Another worker took this trial over, because no heartbeat came for too long."""


@dataclass(frozen=True)
class Attempt:
    """A trial that this process is to run.

    Attributes:
        number: of Optuna's trial.
        index: of the sweep's trial.
        parameters: shown values by name.
        history: values by evaluation, as far as an earlier attempt came.
        continued: whether there was an earlier attempt.
    """

    number: int
    index: int
    parameters: dict[str, Any]
    history: dict[int, float]
    continued: bool

    @property
    def value(self) -> float | None:
        """The newest value in the history, or None."""
        return self.history[max(self.history)] if self.history else None


@dataclass(frozen=True)
class Result:
    """What is known of a trial.

    Attributes:
        index: its number in the sweep.
        state: finished, pruned, failed, running, or waiting to be continued.
        value: the metric at the last evaluation, or None.
        parameters: shown values by name; empty where they are not drawn yet.
        seconds: of the last attempt.
        reason: why it failed.
    """

    index: int
    state: str
    value: float | None
    parameters: dict[str, Any]
    seconds: float | None
    reason: str | None


# --- samplers -----------------------------------------------------------------------------------------------------


class SamplerPerTrial(BaseSampler):
    """Sampler that starts anew for every trial, so that what it draws does not depend on what was drawn before.

    Args:
        make: makes the sampler for the trial with some index.
        index_of: the index of a trial.
    """

    def __init__(self, make: Callable[[int], BaseSampler], index_of: Callable[[FrozenTrial], int]):
        self.make = make
        self.index_of = index_of
        self._inner: BaseSampler | None = None

    def before_trial(self, study: Any, trial: FrozenTrial) -> None:
        self._inner = self.make(self.index_of(trial))

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


def seed_of(seed: int, index: int) -> int:
    """Return the seed of one trial's sampler."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def grid_points(sweep: SweepFile) -> list[dict[str, Any]]:
    """Return every combination of a grid's values, in W&B's order: parameters by name, the first changing slowest."""
    names = sorted(sweep.parameters)
    values = [sweep.parameters[name].grid() for name in names]
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]


# --- early termination --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hyperband:
    r"""Decide at an evaluation whether a trial goes on, as Optuna's ``HyperbandPruner`` does (Li et al. 2018, 2020).

    Trials are dealt into brackets. In bracket b, the evaluations :math:`r \eta^b, r \eta^{b+1}, \dots` are rungs, and a
    trial goes on from a rung if it is among the best :math:`1 / \eta` of those of its bracket that came so far, or the
    best of them while they are fewer. What it knows is the trials' histories alone: an attempt that continues a trial
    stays in the trial's bracket and meets the same decisions, which Optuna's pruner, going by the numbers and records
    of attempts, does not grant. Unlike it, this one also compares with runs from before it knew how long runs are.

    Args:
        min_resource: r, the first evaluation at which trials are stopped.
        max_resource: number of evaluations of a whole run; None takes that of the longest finished one, and stops
            nothing before there is one.
        eta: the best 1 / eta go on.
        strict: judge by the value at the rung, not by the best so far.
        name: of the sweep, by which trials are dealt.
    """

    min_resource: int
    max_resource: int | None = None
    eta: float = 3
    strict: bool = True
    name: str = ""

    @classmethod
    def of(cls, early: EarlyTermination, name: str) -> Hyperband:
        """Return what a sweep file's ``early_terminate`` describes."""
        least = early.min_iter or max(1, int(early.max_iter // early.eta**early.s))
        return cls(least, early.max_iter, early.eta, early.strict, name)

    def stops(self, index: int, histories: Mapping[int, Mapping[int, float]], longest: int, sign: int = 1) -> bool:
        """Return whether the trial ``index`` is to be stopped now.

        Args:
            index: the trial, whose last evaluation is judged.
            histories: by trial, the values by evaluation of all trials so far, its own included.
            longest: number of evaluations of the longest finished trial; 0 where there is none.
            sign: 1 if small values are good, -1 if large ones are.
        """
        most = self.max_resource or (longest + 1 if longest else 0)
        # The small number lets an exact power have its own bracket whatever rounding does to the logarithm.
        brackets = math.floor(math.log(most / self.min_resource, self.eta) + 1e-12) + 1 if most else 0
        if brackets < 1:
            return False
        bracket = self.bracket(index, brackets)
        last = max(histories[index])
        rung = self.min_resource * self.eta**bracket
        while rung * self.eta <= last:
            rung *= self.eta
        value = self._at(histories[index], rung, sign, arriving=last)
        if value is None:
            return False
        if math.isnan(value):
            return True
        rivals = (
            self._at(history, rung, sign)
            for other, history in histories.items()
            if self.bracket(other, brackets) == bracket
        )
        come = sorted(rival for rival in rivals if rival is not None and not math.isnan(rival))
        return value > come[max(0, int(len(come) // self.eta) - 1)]

    def _at(self, history: Mapping[int, float], rung: float, sign: int, arriving: int | None = None) -> float | None:
        """Return a trial's value at a rung (times the sign), None before it came there (or, if that counts, after)."""
        reached = min((step for step in history if step >= rung), default=None)
        if reached is None or (arriving is not None and reached != arriving):
            return None
        if self.strict:
            return sign * history[reached]
        so_far = [sign * value for step, value in history.items() if step <= reached and not math.isnan(value)]
        return min(so_far, default=math.nan)

    def bracket(self, index: int, brackets: int) -> int:
        """Return a trial's bracket: of small ones, which stop early, there are more."""
        shares = [math.ceil(brackets * self.eta ** (brackets - 1 - b) / (brackets - b)) for b in range(brackets)]
        place = binascii.crc32(f"{self.name}_{index}".encode()) % sum(shares)
        return next(b for b, end in enumerate(itertools.accumulate(shares)) if place < end)


# --- who is alive -------------------------------------------------------------------------------------------------


def this_process() -> dict[str, Any]:
    """Return what names this process among all processes of all machines."""
    return {"machine": _machine(), "pid": os.getpid(), "start": _start_of(os.getpid())}


def is_gone(owner: Mapping[str, Any]) -> bool | None:
    """Return whether a process that :func:`this_process` named has ended; None where that cannot be seen from here."""
    if owner["machine"] != _machine():
        return None
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        pass
    return owner["start"] not in (None, _start_of(owner["pid"]))


def _machine() -> str:
    """Return a name of this machine since its last start, or of this container: process numbers are valid there."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _start_of(pid: int) -> str | None:
    """Return when a process started, in ticks, or None where the system does not tell, and for one that has ended."""
    try:  # the program's name, in brackets, may contain spaces and brackets
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else facts[18]
    except (OSError, ValueError, IndexError):
        return None


# --- the study ----------------------------------------------------------------------------------------------------


class SweepStudy:
    """The trials of a sweep, shared by all its workers.

    Args:
        sweep: the sweep file.
        root: folder of all runs; the sweep's own folder is ``root/name``.
        name: the sweep's name.
        storage: URL of an Optuna storage; None for ``sweep.db`` in the sweep's folder.
        seed: of the samplers; None for that of the sweep so far, or 0.
        create: whether a sweep that is not there yet is made.
        heartbeat: seconds between heartbeats.
        grace: seconds without one after which a worker on another machine is taken for dead.

    Raises:
        InputError: where the storage cannot be reached or the folder not be written, for a sweep that is not there, and
            for one of that name which was made from something else.
    """

    def __init__(
        self,
        sweep: SweepFile,
        root: str,
        name: str,
        storage: str | None = None,
        seed: int | None = None,
        create: bool = True,
        heartbeat: int = HEARTBEAT_SECONDS,
        grace: int = GRACE_SECONDS,
    ):
        if not name or "/" in name or name.startswith("."):
            raise InputError(f"--name {name!r} cannot be the name of a folder")
        if sweep.metric is None:
            raise InputError(f"{sweep.path} has no metric: which figure is optimised? give --metric NAME")
        self.sweep = sweep
        self.name = name
        self.folder = Path(root) / name
        self.heartbeat = heartbeat
        self.goal = sweep.goal
        self.sign = 1 if sweep.goal == "minimize" else -1
        self.metric = sweep.metric
        self.grid = grid_points(sweep) if sweep.method == "grid" else None
        self.parameters = {
            name: distribution if self.grid is None else Choices(name, "categorical", distribution.grid())
            for name, distribution in sweep.parameters.items()
        }
        self.hyperband = Hyperband.of(sweep.early_terminate, name) if sweep.early_terminate else None
        self.new = False
        self._lock_file: Path | None = None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        made = self._make_folder() if create else []
        try:
            self._open(storage, seed, create, grace)
        except InputError:
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()
            raise

    # --- opening ----------------------------------------------------------------------------------------------------

    def _make_folder(self) -> list[Path]:
        """Make the sweep's folder; return those that were not there before, the innermost first."""
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise InputError(
                f"cannot make the sweep's folder {self.folder}: {error.strerror}; choose another --root"
            ) from error
        return missing

    def _open(self, url: str | None, seed: int | None, create: bool, grace: int) -> None:
        database = self.folder / "sweep.db"
        if url is None:
            if not create and not database.is_file():
                raise InputError(f"there is no sweep {self.name!r} in {self.folder.parent}: start it with --count N")
            url = URL.create("sqlite", database=str(database)).render_as_string()
        self.storage = open_storage(url, self.heartbeat, grace)
        if self.storage.engine.url.get_backend_name() == "sqlite" and self.storage.engine.url.database:
            self._lock_file = Path(self.storage.engine.url.database + ".lock")
        with self.locked():
            names = [study.study_name for study in self.storage.get_all_studies()]
            if self.name not in names:
                if not create:
                    known = f"; it holds {', '.join(sorted(names))}" if names else ""
                    raise InputError(f"the storage has no sweep {self.name!r}{known}: start it without --worker first")
                if versions(self.folder):
                    raise InputError(f"{self.folder} holds other runs already: choose another --name for this sweep")
                optuna.create_study(storage=self.storage, study_name=self.name, direction=self.goal)
                self.new = True
            sampler = SamplerPerTrial(self._make_sampler, self._index_of)
            self.study = optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler)
            self._agree(seed)
        self.study_id = self.storage.get_study_id_from_name(self.name)

    def _agree(self, seed: int | None) -> None:
        """Keep what the sweep is made from, or see that it is the same as it was.

        Raises:
            InputError: naming what differs.
        """
        facts = {
            "parameters": self.sweep.raw["parameters"],
            "command": list(self.sweep.command),
            "program": self.sweep.program,
            "metric": self.metric,
            "goal": self.goal,
            "method": self.sweep.method,
        }
        own = json.loads(json.dumps(facts, default=str))  # as the storage will give it back
        if "sweep" not in self.study.user_attrs:
            self.study.set_user_attr("seed", seed or 0)
            self.study.set_user_attr("sweep", own)
        known = self.study.user_attrs
        for key, value in own.items():
            if known["sweep"].get(key) != value:
                raise InputError(
                    f"the sweep {self.name!r} in {self.folder.parent} has another {key} than {self.sweep.path}: "
                    "give --name NAME to start a new one"
                )
        self.seed = known["seed"]
        if seed is not None and seed != self.seed:
            raise InputError(
                f"the sweep {self.name!r} in {self.folder.parent} was started with --seed {self.seed}: leave --seed "
                "out to go on with it, or give --name NAME to start a new one"
            )

    def _make_sampler(self, index: int) -> BaseSampler:
        if self.grid is not None:
            point = self.grid[index % len(self.grid)]
            return PartialFixedSampler({name: json.dumps(value) for name, value in point.items()}, RandomSampler())
        if self.sweep.method == "random":
            return RandomSampler(seed=seed_of(self.seed, index))
        return TPESampler(seed=seed_of(self.seed, index), constant_liar=True)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions by parameter."""
        return {name: distribution.raw() for name, distribution in self.parameters.items()}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other workers from taking trials meanwhile.

        SQLite has no rows to lock, so that two workers could take the same trial; database servers have.
        """
        if self._lock_file is None:
            yield
            return
        with self._lock_file.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def write_file(self) -> None:
        """Write the sweep as it is run to ``sweep.yaml``."""
        write_text(self.folder / "sweep.yaml", sweep_text(self.sweep))

    def discard(self) -> None:
        """Remove the sweep and its folder: for one whose first trials showed that its file is wrong."""
        optuna.delete_study(study_name=self.name, storage=self.storage)
        self.storage.engine.dispose()
        for _, folder in versions(self.folder):
            if (folder.path / "trial.json").is_file():
                shutil.rmtree(folder.path, ignore_errors=True)
        (self.folder / "sweep.yaml").unlink(missing_ok=True)
        if self._lock_file == self.folder / "sweep.db.lock":
            (self.folder / "sweep.db").unlink(missing_ok=True)
            self._lock_file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()

    # --- what there is ----------------------------------------------------------------------------------------------

    def _attempts(self) -> list[FrozenTrial]:
        """Return all attempts in the order of their numbers, but for those that came too late to count."""
        return [t for t in self.study.get_trials(deepcopy=False) if SURPLUS not in t.user_attrs]

    def _index_of(self, attempt: FrozenTrial) -> int:
        if INDEX in attempt.user_attrs:
            return attempt.user_attrs[INDEX]
        return sum(t.number < attempt.number and FIRST_ATTEMPT not in t.system_attrs for t in self._attempts())

    def _newest(self) -> dict[int, FrozenTrial]:
        """Return the newest attempt at each trial, by index."""
        newest = {}
        first = 0
        for attempt in self._attempts():
            newest[attempt.user_attrs.get(INDEX, first)] = attempt
            first += FIRST_ATTEMPT not in attempt.system_attrs
        return dict(sorted(newest.items()))

    def results(self) -> list[Result]:
        """Return what is known of every trial, in the order of their numbers."""
        found = []
        for index, attempt in self._newest().items():
            lost = attempt.state == TrialState.FAIL and CONTINUED in attempt.user_attrs
            state = "waiting" if lost or attempt.state == TrialState.WAITING else STATES.get(attempt.state, "running")
            attrs = attempt.user_attrs
            value = attempt.value if state in ("finished", "pruned") else None
            found.append(Result(index, state, value, attrs.get(PARAMETERS, {}), attrs.get(SECONDS), attrs.get(REASON)))
        return found

    def best(self) -> Result | None:
        """Return the best of the trials that ran to their end, or None."""
        finished = [result for result in self.results() if result.state == "finished"]
        return min(finished, key=lambda result: self.sign * result.value, default=None)

    def target_is_reached(self) -> bool:
        """Whether some trial is as good as the sweep file's ``metric.target``."""
        best = self.best()
        return (
            self.sweep.target is not None
            and best is not None
            and self.sign * best.value <= self.sign * self.sweep.target
        )

    def has_value(self) -> bool:
        """Whether any trial reported its metric yet."""
        return any(attempt.intermediate_values or attempt.values for attempt in self._attempts())

    def is_open(self) -> bool:
        """Whether any trial is still to come to its end."""
        states = {result.state for result in self.results()}
        return "running" in states or ("waiting" in states and not self.target_is_reached())

    @property
    def count(self) -> int | None:
        """How many trials the sweep was last started for."""
        return self.study.user_attrs.get("count")

    @count.setter
    def count(self, count: int) -> None:
        self.study.set_user_attr("count", count)

    def limit(self, count: int) -> int:
        """Return the number of trials that ``count`` allows: of a grid no more than it has points."""
        return count if self.grid is None else min(count, len(self.grid))

    # --- taking a trial ---------------------------------------------------------------------------------------------

    def next(self, count: int) -> Attempt | None:
        """Take a trial: one to be continued if there is any, else a new one; None where ``count`` is reached."""
        with self.locked():
            self._take_over()
            trials = self._attempts()
            waiting = any(t.state == TrialState.WAITING for t in trials)
            begun = sum(FIRST_ATTEMPT not in t.system_attrs for t in trials)
            if self.target_is_reached() or (not waiting and begun >= self.limit(count)):
                return None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna warns that ask() sends no heartbeats: beat() does
                trial = self.study.ask(self.distributions)
            frozen = self.storage.get_trial(self._id(trial.number))
            continued = FIRST_ATTEMPT in frozen.system_attrs
            index = self._index_of(frozen)
            if not continued and index >= self.limit(count):  # without a lock, another worker may have been faster
                trial.set_user_attr(SURPLUS, True)
                self.study.tell(trial.number, state=TrialState.FAIL)
                return None
            self.storage.record_heartbeat(self._id(trial.number))
            trial.set_user_attr(OWNER, this_process())
            trial.set_user_attr(INDEX, index)
            parameters = frozen.user_attrs.get(PARAMETERS)
            if parameters is None:
                parameters = {name: given.shown(trial.params[name]) for name, given in self.parameters.items()}
                trial.set_user_attr(PARAMETERS, parameters)
            return Attempt(trial.number, index, parameters, dict(frozen.intermediate_values), continued)

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def _take_over(self) -> None:
        """Put trials whose workers are dead back into the queue."""
        attempts = self._attempts()
        silent = self.storage._get_stale_trial_ids(self.study_id)
        succeeded = {number for t in attempts for number in t.system_attrs.get(HISTORY, [])}
        for attempt in attempts:
            if attempt.state == TrialState.RUNNING:
                owner = attempt.user_attrs.get(OWNER)
                # Under the lock a trial without an owner was left by a worker that died while it took it.
                gone = is_gone(owner) if owner is not None else (True if self._lock_file is not None else None)
                if gone is None:
                    # The clock may be another machine's.
                    forgotten = owner is None and datetime.now() - attempt.datetime_start > FORGOTTEN
                    gone = forgotten or self._id(attempt.number) in silent
                if gone:
                    self._put_back(attempt)
            elif (
                attempt.state == TrialState.FAIL
                and CONTINUED in attempt.user_attrs
                and attempt.number not in succeeded
                and self._lock_file is not None
            ):
                self._enqueue(attempt)  # the worker that put it back died before it had queued it again

    def _put_back(self, attempt: FrozenTrial) -> None:
        trial_id = self._id(attempt.number)
        with suppress(UpdateFinishedTrialError):  # another worker was faster
            self.storage.set_trial_user_attr(trial_id, CONTINUED, True)
            if self.storage.set_trial_state_values(trial_id, TrialState.FAIL):
                self._enqueue(attempt)

    def _enqueue(self, attempt: FrozenTrial) -> None:
        kept = {INDEX: self._index_of(attempt)}
        params: dict[str, Any] = {}
        if PARAMETERS in attempt.user_attrs:  # otherwise not all were drawn, and all are drawn again
            kept[PARAMETERS] = attempt.user_attrs[PARAMETERS]
            params = attempt.params
        self.study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=params,
                distributions={name: attempt.distributions[name] for name in params},
                user_attrs=kept,
                system_attrs={
                    **attempt.system_attrs,
                    FIRST_ATTEMPT: attempt.system_attrs.get(FIRST_ATTEMPT, attempt.number),
                    HISTORY: [*attempt.system_attrs.get(HISTORY, []), attempt.number],
                },
                intermediate_values=attempt.intermediate_values,
            )
        )

    # --- while it runs ----------------------------------------------------------------------------------------------

    def beat(self, attempt: Attempt) -> None:
        """Say that the attempt's worker is alive.

        Raises:
            Superseded: where another worker thought otherwise.
        """
        trial_id = self._id(attempt.number)
        if self.storage.get_trial(trial_id).state != TrialState.RUNNING:
            raise Superseded
        self.storage.record_heartbeat(trial_id)

    def report(self, attempt: Attempt, count: int, value: float) -> bool:
        """Keep the value of an evaluation; return whether the run is to be stopped.

        Raises:
            Superseded: where another worker has the trial by now.
        """
        if count not in attempt.history:  # a session that died before it saved repeats its last evaluations
            attempt.history[count] = value
            try:
                self.storage.set_trial_intermediate_value(self._id(attempt.number), count, value)
            except UpdateFinishedTrialError:
                raise Superseded from None
        if self.hyperband is None:
            return False
        newest = self._newest()
        histories = {index: t.intermediate_values for index, t in newest.items() if t.intermediate_values}
        histories[attempt.index] = {k: v for k, v in attempt.history.items() if k <= count}
        longest = max(
            (max(t.intermediate_values, default=0) for t in newest.values() if t.state == TrialState.COMPLETE),
            default=0,
        )
        return self.hyperband.stops(attempt.index, histories, longest, self.sign)

    # --- how it ended -----------------------------------------------------------------------------------------------

    def finished(self, attempt: Attempt, value: float, seconds: float) -> None:
        """Keep a trial's value."""
        self._tell(attempt, TrialState.COMPLETE, value, {SECONDS: seconds})

    def pruned(self, attempt: Attempt, seconds: float) -> None:
        """Keep that a trial was stopped; its value is the last that was reported."""
        self._tell(attempt, TrialState.PRUNED, None, {SECONDS: seconds})

    def failed(self, attempt: Attempt, reason: str, tail: Sequence[str], seconds: float) -> None:
        """Keep that a trial failed, and the end of its log."""
        self._tell(attempt, TrialState.FAIL, None, {REASON: reason, TAIL: list(tail), SECONDS: seconds})

    def put_back(self, attempt: Attempt) -> None:
        """Let whoever comes next continue a trial that was interrupted."""
        with self.locked():
            frozen = self.storage.get_trial(self._id(attempt.number))
            if frozen.state == TrialState.RUNNING:
                self._put_back(frozen)

    def try_again(self, attempt: Attempt) -> None:
        """Let whoever comes next try a trial again that failed."""
        with self.locked():
            self._enqueue(self.storage.get_trial(self._id(attempt.number)))

    def _tell(self, attempt: Attempt, state: TrialState, value: float | None, attrs: dict[str, Any]) -> None:
        trial_id = self._id(attempt.number)
        try:
            for key, item in attrs.items():
                self.storage.set_trial_user_attr(trial_id, key, item)
            self.study.tell(attempt.number, value, state)
        except (UpdateFinishedTrialError, ValueError) as error:
            if self.storage.get_trial(trial_id).state == TrialState.RUNNING:
                raise
            raise Superseded from error


def open_storage(url: str, heartbeat: int, grace: int) -> RDBStorage:
    """Return the storage at a URL of SQLAlchemy's.

    Raises:
        InputError: where it cannot be reached.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        example = "sqlite:///sweeps.db, postgresql://user@host/database"
        raise InputError(f"--storage {url!r} is not the URL of a database, such as {example}") from error
    shown = parsed.render_as_string(hide_password=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are experimental
            return RDBStorage(
                url,
                {"connect_args": CONNECT_SECONDS.get(parsed.get_backend_name(), {})},
                heartbeat_interval=heartbeat,
                grace_period=grace,
            )
    except ImportError as error:
        raise InputError(f"--storage {shown}: its driver is not installed ({error})") from error
    except Exception as error:  # each database has its own errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the sweep's storage {shown} cannot be reached: {reason}") from error
