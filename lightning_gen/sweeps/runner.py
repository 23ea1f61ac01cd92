"""Running a sweep's trials: each is a process of its own, which reports its figures and is told to go on or to stop."""

import difflib
import json
import math
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lightning_gen.core import InputError, write_json
from lightning_gen.runs import CHILD_VARIABLE, FINISHED, PRUNED, RunFolder
from lightning_gen.sweeps import trial as link
from lightning_gen.sweeps.command import command_line
from lightning_gen.sweeps.study import Attempt, Superseded, SweepStudy

TICK_SECONDS = 0.1
LOOK_SECONDS = 2.0
"""How often to look for trials to take over while there is nothing else to start."""
STOP_SECONDS = 120.0
"""How long runs that are asked to end may take to save."""
MOST_FAILURES = 5
ENDED_BY_SIGNAL = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of runs that a batch system stopped together with their sweep."""
TAIL_LINES = 20


class SweepFailed(Exception):
    """The sweep cannot continue."""


class SweepStopped(Exception):
    """The sweep was stopped by a signal; its trials can be continued."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Screen(Protocol):
    """Where a sweep is watched."""

    def note(self, state: str, attempt: Attempt, value: float | None, seconds: float, reason: str | None) -> None:
        """Show that a trial has ended."""

    def refresh(self) -> None:
        """Show how the sweep stands."""

    def say(self, line: str) -> None:
        """Print a line."""


@dataclass
class Run:
    """A trial that runs."""

    attempt: Attempt
    slot: int
    folder: Path
    command: list[str]
    process: subprocess.Popen
    socket: socket.socket
    log: BinaryIO
    log_start: int
    started: float = field(default_factory=time.monotonic)
    unread: bytes = b""
    value: float | None = None
    told_to_stop: bool = False
    asked_to_end: bool = False
    lacks_metric: bool = False
    superseded: bool = False

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def signal(self, signum: int) -> None:
        """Send a signal to the run's first process, which tells its others; SIGKILL to all of them."""
        self.asked_to_end = True
        with suppress(ProcessLookupError):
            send = os.killpg if signum == signal.SIGKILL else os.kill
            send(self.process.pid, signum)

    def has_ended(self) -> bool:
        """Whether the run's first process has ended; it stays a zombie, so that its number is still its own."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> int:
        """Clear away what an ended run left behind, and return its exit code."""
        self.signal(signal.SIGKILL)  # to whatever else is in its session
        self.socket.close()
        self.log.close()
        return self.process.wait()


class Runner:
    """Run trials, ``jobs`` at a time, until ``count`` is reached.

    Args:
        study: the sweep's trials.
        jobs: runs at a time.
        count: trials of the whole sweep, those that other workers run included; None looks it up in the study.
        screen: what shows how it goes.
        worker: leave when there is nothing to start, instead of waiting for what others run.
    """

    def __init__(self, study: SweepStudy, jobs: int, count: int | None, screen: Screen, worker: bool = False):
        self.study = study
        self.jobs = jobs
        self.wanted = count
        self.screen = screen
        self.worker = worker
        self.runs: list[Run] = []
        self.works = any(result.state in ("finished", "pruned") for result in study.results())
        self.failures: list[Attempt] = []
        self.stopped_by = 0
        self.error: Exception | None = None
        self.environment = environment_of_runs(jobs)
        self.devices = visible_devices() if jobs > 1 else []
        self._selector = selectors.DefaultSelector()
        self._next_look = 0.0
        self._next_beat = 0.0
        self._deadline = math.inf
        self._hurry = False

    @property
    def count(self) -> int:
        """Trials of the whole sweep."""
        return (self.study.count or 0) if self.wanted is None else self.wanted

    @property
    def stopping(self) -> bool:
        """Whether no trial is to be started any more."""
        return bool(self.stopped_by or self.error)

    def run(self) -> None:
        """Run the sweep.

        Raises:
            SweepStopped: after SIGINT or SIGTERM, when all runs have ended.
            SweepFailed: where the first trials fail one after the other.
            InputError: where the runs do not log the sweep's metric.
        """
        previous = {}
        for signum in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not the main thread: default handling stays
                previous[signum] = signal.signal(signum, self._note_signal)
        try:
            while self._go_on():
                self._listen()
        finally:
            self._end_all()
            for signum, handler in previous.items():
                signal.signal(signum, handler)
        if self.error is not None:
            raise self.error
        if self.stopped_by:
            raise SweepStopped(self.stopped_by)

    def _note_signal(self, signum: int, frame: Any) -> None:
        self._hurry = bool(self.stopped_by)
        self.stopped_by = signum

    def _go_on(self) -> bool:
        """Do what is due; return whether there is anything left to wait for."""
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + self.study.heartbeat
            self._beat()
        if self.stopping:
            self._stop_runs(now)
            return bool(self.runs)
        while len(self.runs) < self.jobs and now >= self._next_look and not self.stopping:
            attempt = self.study.next(self.count)
            if attempt is None:
                self._next_look = now + LOOK_SECONDS
            else:
                self._start(attempt)
        if self.runs or self.stopping or now >= self._next_look:
            return True
        return not self.worker and self.study.is_open()

    def _beat(self) -> None:
        for run in self.runs:
            try:
                self.study.beat(run.attempt)
            except Superseded:
                self._drop(run)
        self.screen.refresh()

    def _drop(self, run: Run) -> None:
        self.screen.say(f"trial {run.attempt.index} was taken over by another worker: ending it here")
        run.superseded = True
        run.signal(signal.SIGKILL)  # without saving, because the other worker's run saves in the same folder

    # --- starting ---------------------------------------------------------------------------------------------------

    def _start(self, attempt: Attempt) -> None:
        folder = self.study.folder / f"version_{attempt.index}"
        started = time.monotonic()
        try:
            self._take_folder(folder, attempt)
            if attempt.continued and self._conclude_finished(folder, attempt):
                return
            command = command_line(self.study.sweep, attempt.parameters, folder)
            self._write(folder, attempt, command, "running")
            self.runs.append(self._launch(folder, attempt, command))
        except InputError as error:
            self.study.put_back(attempt)
            self.error = error
        except OSError as error:
            self._tell_failed(folder, attempt, f"cannot be started: {error}", [], time.monotonic() - started)

    def _take_folder(self, folder: Path, attempt: Attempt) -> None:
        """Make the trial's folder, or go on in it; a folder of anything else is left alone."""
        folder.mkdir(parents=True, exist_ok=True)
        known = read_trial(folder)
        own = known.get("sweep") == self.study.name and known.get("trial") == attempt.index
        if (known and not (own and attempt.continued)) or (not known and any(folder.iterdir())):
            raise InputError(f"{folder} is in the way of trial {attempt.index}: it holds something else; move it away")

    def _launch(self, folder: Path, attempt: Attempt, command: list[str]) -> Run:
        slot = min(set(range(self.jobs)) - {run.slot for run in self.runs})
        ours, theirs = socket.socketpair()
        facts = {
            "fd": theirs.fileno(),
            "inode": os.fstat(theirs.fileno()).st_ino,
            "folder": str(folder),
            "sweep": self.study.name,
            "trial": attempt.index,
            "metric": self.study.metric,
            "goal": self.study.goal,
            "parameters": attempt.parameters,
        }
        environment = {**self.environment, link.VARIABLE: json.dumps(facts)}
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        log = (folder / "log.txt").open("ab")
        log_start = log.tell()
        with theirs:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        ours.setblocking(False)
        run = Run(attempt, slot, folder, command, process, ours, log, log_start, value=attempt.value)
        self._selector.register(ours, selectors.EVENT_READ, run)
        return run

    # --- listening --------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        for key, _ in self._selector.select(TICK_SECONDS):
            self._read(key.data)
        for run in [run for run in self.runs if run.has_ended()]:
            self._read(run)
            self._finish(run)

    def _read(self, run: Run) -> None:
        while True:
            try:
                received = run.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                received = b""
            if not received:
                with suppress(KeyError):
                    self._selector.unregister(run.socket)
                return
            *lines, run.unread = (run.unread + received).split(b"\n")
            for line in lines:
                self._answer(run, line)

    def _answer(self, run: Run, line: bytes) -> None:
        stop = False
        known, report = understand(line)
        if known is not None:
            run.lacks_metric = True
            self._no_metric(run, known)
        elif report is not None:
            count, run.value = report
            try:
                stop = self.study.report(run.attempt, count, run.value)
            except Superseded:
                self._drop(run)
            run.told_to_stop |= stop
        else:
            self.screen.say(f"trial {run.attempt.index} sent {line[:80]!r}, which is not understood")
        with suppress(OSError):
            run.socket.sendall(b"stop\n" if stop else b"go\n")

    def _no_metric(self, run: Run, known: Sequence[str]) -> None:
        if self.error is not None or self.study.has_value():
            return  # other trials have the figure: only this trial fails
        near = difflib.get_close_matches(self.study.metric, known, max(1, len(known)), 0)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        self.error = InputError(
            f"no figure is named {self.study.metric!r}{hint}: an evaluation of trial {run.attempt.index} gives "
            f"{', '.join(near) or 'none'}; correct metric.name, or give --metric NAME"
        )

    # --- ending -----------------------------------------------------------------------------------------------------

    def _finish(self, run: Run) -> None:
        """Take note of how a run has ended."""
        with suppress(KeyError):
            self._selector.unregister(run.socket)
        asked, code = run.asked_to_end, run.end()
        self.runs.remove(run)
        self._next_look = 0.0
        if run.superseded:
            return
        summary = RunFolder(run.folder).summary()
        status = summary.get("status")
        if code == 0 and (status in (FINISHED, PRUNED) or (status is None and not asked)):
            pruned = status == PRUNED or (status is None and run.told_to_stop)
            value = run.value if run.value is not None else last_figure(summary, self.study.metric)
            self._conclude(run.folder, run.attempt, value, pruned, run.seconds, run.command)
        elif (asked or (self.stopped_by and code in ENDED_BY_SIGNAL)) and not run.lacks_metric:
            self._put_back(run)
        else:
            reason, tail = what_went_wrong(run, code)
            self._tell_failed(run.folder, run.attempt, reason, tail, run.seconds, run.command)

    def _put_back(self, run: Run) -> None:
        self._write(run.folder, run.attempt, run.command, "interrupted")
        self.study.put_back(run.attempt)

    def _conclude_finished(self, folder: Path, attempt: Attempt) -> bool:
        """Record the result of a run that ended while its sweep was not running; return whether it did."""
        summary = RunFolder(folder).summary()
        if summary.get("status") not in (FINISHED, PRUNED):
            return False
        value = last_figure(summary, self.study.metric)
        if value is None:
            value = attempt.value
        command = read_trial(folder).get("command", [])
        seconds = float(summary.get("seconds") or 0.0)
        self._conclude(folder, attempt, value, summary["status"] == PRUNED, seconds, command)
        return True

    def _conclude(
        self, folder: Path, attempt: Attempt, value: float | None, pruned: bool, seconds: float, command: list[str]
    ) -> None:
        if value is None or not math.isfinite(value):
            missing = f"it reported no {self.study.metric}: a run needs at least one evaluation"
            reason = missing if value is None else f"its last {self.study.metric} is {value}"
            self._tell_failed(folder, attempt, reason, [], seconds, command)
            return
        state = "pruned" if pruned else "finished"
        try:
            self.study.beat(attempt)  # the folder may be another worker's by now
            # Before the study knows: a sweep that dies between the two finds the trial in the study, and ends it again.
            self._write(folder, attempt, command, state, value)
            if pruned:
                self.study.pruned(attempt, seconds)
            else:
                self.study.finished(attempt, value, seconds)
        except Superseded:
            return
        self.works = True
        self.screen.note(state, attempt, value, seconds, None)

    def _tell_failed(
        self,
        folder: Path,
        attempt: Attempt,
        reason: str,
        tail: Sequence[str],
        seconds: float,
        command: Sequence[str] = (),
    ) -> None:
        try:
            self.study.beat(attempt)
            with suppress(OSError):  # a folder that cannot be written may be why it failed
                self._write(folder, attempt, command, "failed", reason=reason)
            self.study.failed(attempt, reason, tail, seconds)
        except Superseded:
            return
        self.screen.note("failed", attempt, None, seconds, reason)
        self.failures.append(attempt)
        if not self.works and len(self.failures) >= MOST_FAILURES and self.error is None:
            self.error = SweepFailed(
                f"the first {len(self.failures)} trials have failed, the last one so: {reason} "
                f"(all of it in {folder / 'log.txt'})"
            )
            for failure in self.failures:  # the cause is outside the trials, so they are tried again
                self.study.try_again(failure)

    def _write(
        self,
        folder: Path,
        attempt: Attempt,
        command: Sequence[str],
        state: str,
        value: float | None = None,
        reason: str | None = None,
    ) -> None:
        write_json(
            folder / "trial.json",
            {
                "sweep": self.study.name,
                "trial": attempt.index,
                "metric": self.study.metric,
                "goal": self.study.goal,
                "parameters": attempt.parameters,
                "command": list(command),
                "state": state,
                "value": value,
                "reason": reason,
            },
        )

    def _stop_runs(self, now: float) -> None:
        """Ask all runs to save and end, and see that they do."""
        if self._deadline == math.inf:
            self._deadline = now + STOP_SECONDS
            for run in self.runs:
                run.signal(signal.SIGTERM)
            if self.runs and self.stopped_by:
                self.screen.say(f"{len(self.runs)} runs save and end (press Ctrl-C again to end them at once)")
        if self._hurry or now > self._deadline:
            for run in self.runs:
                run.signal(signal.SIGKILL)

    def _end_all(self) -> None:
        """End all runs, whatever ended the sweep: with their link closed they save and end."""
        deadline = time.monotonic() + STOP_SECONDS
        for run in self.runs:
            run.socket.close()
        for run in self.runs:
            while not run.has_ended():
                if self._hurry or time.monotonic() > deadline:
                    run.signal(signal.SIGKILL)
                time.sleep(TICK_SECONDS)
            run.end()
            with suppress(Exception):  # what ended the sweep may be the storage itself
                self._put_back(run)
        self._selector.close()


# --- what runs are given, and what they leave ---------------------------------------------------------------------


def environment_of_runs(jobs: int) -> dict[str, str]:
    """Return the environment of runs: this Python first in PATH, cores shared out, no run around the sweep."""
    environment = {key: value for key, value in os.environ.items() if key not in (CHILD_VARIABLE, link.VARIABLE)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    return environment


def visible_devices() -> list[str]:
    """Return the names of the GPUs that runs may use, if there are several; found without importing torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        devices = [name.strip() for name in given.split(",") if name.strip()]
    else:
        try:
            done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.SubprocessError):  # such as where there is no such program
            return []
        devices = [str(i) for i in range(sum(line.startswith("GPU ") for line in done.stdout.splitlines()))]
    return devices if len(devices) > 1 else []


def check_program(command: Sequence[str]) -> None:
    """Raise InputError where a command's program is not to be found."""
    program = next((word for word in command if Path(word).name != "env" and "=" not in word), None)
    if program is not None and shutil.which(program, path=environment_of_runs(1)["PATH"]) is None:
        raise InputError(f"the sweep's program {program!r} is not to be found: correct program or command")


def understand(line: bytes) -> tuple[list[str] | None, tuple[int, float] | None]:
    """Return a run's message: the names of its figures where the metric is not one, or (number of evaluations, value).

    Both are None for a line that is no such message.
    """
    try:
        message = json.loads(line)
        if "no_metric" in message:
            return [str(name) for name in message["known"]], None
        return None, (int(message["count"]), float(message["value"]))
    except (ValueError, TypeError, KeyError):
        return None, None


def read_trial(folder: Path) -> dict[str, Any]:
    """Return what trial.json says, or {} where there is none."""
    return RunFolder(folder).read("trial.json")


def last_figure(summary: dict[str, Any], name: str) -> float | None:
    """Return a figure of a run's last evaluation."""
    last = summary.get("last") or {}
    if name in last and last[name] is None:  # write_json writes NaN as null
        return math.nan
    return last.get(name)


def what_went_wrong(run: Run, code: int) -> tuple[str, list[str]]:
    """Return why a run failed, in one line, and the last lines of its log."""
    with (run.folder / "log.txt").open("rb") as file:
        file.seek(max(run.log_start, file.seek(0, os.SEEK_END) - 16384))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    tail = lines[-TAIL_LINES:]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1].removeprefix("error: "), tail
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}  # real-time ones have none
        name = names.get(-code, f"signal {-code}")
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"it was ended by {name}{hint}", tail
    return f"it ended with exit code {code}" + (f": {tail[-1]}" if tail else " without a word"), tail
