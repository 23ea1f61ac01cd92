"""Progress of long computations, reported to watchers, which may stop the work by raising."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Watcher = Callable[[float], None]

_WATCHERS: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())
_LOOPS: ContextVar[tuple[list[int], ...]] = ContextVar("loops", default=())


def watched(parts: Sequence[T]) -> Iterator[T]:
    """Yield parts of about equally long work, and tell watchers after each which share of all is done.

    Loops may be nested: the parts of an inner loop are shares of the outer one's present part.
    """
    loop = [0, len(parts)]
    token = _LOOPS.set((*_LOOPS.get(), loop))
    try:
        for part in parts:
            yield part
            loop[0] += 1
            share = 0.0
            for done, total in reversed(_LOOPS.get()):
                share = (done + share) / total
            for watcher in _WATCHERS.get():
                watcher(share)
    finally:
        _LOOPS.reset(token)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` be told the share of work that is done, 0 to 1, for a while; it may raise to end the work."""
    token = _WATCHERS.set((*_WATCHERS.get(), watcher))
    try:
        yield
    finally:
        _WATCHERS.reset(token)


class ProgressLine:
    """A watcher that prints how long work will take: at once if that is more than a minute, then every ten seconds.

    Args:
        what: the work, such as "drawing 2,000 samples".
        write: prints a line; on stderr if not given.
    """

    LONG = 60.0
    INTERVAL = 10.0

    def __init__(self, what: str, write: Callable[[str], None] | None = None):
        self.what = what
        self.write = write or (lambda line: print(line, file=sys.stderr, flush=True))
        self.started = time.monotonic()
        self.told: float | None = None

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        left = (now - self.started) * (1 / share - 1)
        due = now - self.started > self.INTERVAL if self.told is None else now - self.told > self.INTERVAL
        if share < 1 and (due or (self.told is None and left > self.LONG)):
            self.told = now
            self.write(f"{self.what}: {share:.0%} done, about {in_words(left)} left")


def in_words(seconds: float) -> str:
    """Return a length of time, rounded: ``40 s``, ``5 min``, ``1.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
