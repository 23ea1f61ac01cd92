"""The run's end of its link to the sweep that started it: it sends figures, and is answered whether to stop.

The environment variable ``LIGHTNING_GEN_SWEEP`` holds, as JSON, the run's folder, what the sweep asked for, and the
number of an open socket. Lines of JSON travel on it: ``{"images_seen": n, "count": k, "value": v}`` after each
evaluation, answered by ``go`` or ``stop``, or ``{"no_metric": name, "known": [...]}``. When the sweep dies, however it
dies, the socket closes, and the run ends itself: nothing needs to look after orphans.

Imports nothing slow, so that a run can join before it imports anything else. Any program may take part::

    from lightning_gen.sweeps import trial

    sweep = trial.join()
    for count in range(1, 11):
        ...
        if sweep is not None and sweep.report(images_seen, count, value):
            break
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_gen.core import InputError

VARIABLE = "LIGHTNING_GEN_SWEEP"
FILES = ("trial.json", "log.txt", "parameters.json")
"""What the sweep itself keeps in a run's folder."""
GRACE_SECONDS = 50.0
"""How long a run whose sweep has died may take to save and end before it is killed: other machines wait a little
longer before they take its trial over."""

_joined: tuple[str, Trial] | None = None


class Trial:
    """A run's part in a sweep.

    Attributes:
        folder: the run's folder.
        sweep: the sweep's name.
        number: the trial's number in it.
        metric: name of the figure that the sweep optimises.
        goal: minimize or maximize.
        parameters: the values that the sweep chose, by dotted name.
    """

    def __init__(self, facts: dict[str, Any], link: socket.socket | None = None):
        self.folder = Path(facts["folder"])
        self.sweep: str = facts["sweep"]
        self.number: int = facts["trial"]
        self.metric: str = facts["metric"]
        self.goal: str = facts["goal"]
        self.parameters: dict[str, Any] = facts["parameters"]
        self._grace: float = facts.get("grace", GRACE_SECONDS)
        self._link = link
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        if link is not None:
            threading.Thread(target=self._listen, name="sweep", daemon=True).start()
            self._lock = self._own_folder()

    def report(self, images_seen: int, count: int, value: float) -> bool:
        """Send the figure of an evaluation; return whether the sweep wants the run to stop now.

        Args:
            images_seen: images behind it.
            count: evaluations of this run so far, over all its sessions.
            value: the sweep's metric.
        """
        return self._ask({"images_seen": images_seen, "count": count, "value": float(value)}) == "stop"

    def no_metric(self, known: Sequence[str]) -> None:
        """Say that the sweep's metric is not among the figures of an evaluation, which are ``known``."""
        self._ask({"no_metric": self.metric, "known": list(known)})

    def _ask(self, message: dict[str, Any]) -> str:
        if self._link is None:
            return "go"
        try:
            self._link.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return "go"  # the sweep has died, and the signal to end is on its way
        return self._answers.get()

    def _listen(self) -> None:
        with suppress(OSError):
            for line in self._link.makefile("r"):
                self._answers.put(line.rstrip("\n"))
        self._answers.put("go")  # to whoever waits for an answer that will not come
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace)
        if os.getpgrp() == os.getpid():  # other ranks, and workers that load data
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _own_folder(self) -> int | None:
        """Wait until an earlier process of this trial, which may still be saving, has ended."""
        import fcntl  # not on every system, and sweeps alone need it

        try:
            folder = os.open(self.folder, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for an earlier process of this trial to end", file=sys.stderr, flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            os.close(folder)
            return None
        return folder


def join() -> Trial | None:
    """Return this process's part in the sweep that started it, or None where no sweep did.

    From then on the process ends when the sweep does. Processes that it starts (other ranks) learn which folder is
    theirs, but have no link of their own. Joining again returns the same object.

    Raises:
        InputError: where the environment variable holds something else.
    """
    global _joined
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    if _joined is None or _joined[0] != text:
        try:
            facts = json.loads(text)
            Trial(facts)
        except (ValueError, TypeError, KeyError):
            raise InputError(f"the environment variable {VARIABLE} is not what a sweep sets: unset it") from None
        link = _open_link(facts.pop("fd", None), facts.pop("inode", None))
        text = os.environ[VARIABLE] = json.dumps(facts)
        _joined = text, Trial(facts, link)
    return _joined[1]


def _open_link(fd: int | None, inode: int | None) -> socket.socket | None:
    """Return the socket that the sweep passed on, or None in a process that did not inherit it."""
    if fd is None:
        return None
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    if not stat.S_ISSOCK(status.st_mode) or status.st_ino != inode:  # the number is another file's here
        return None
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)
