"""How many images can be scored in the time that an evaluation may take."""

import time
from collections.abc import Callable

import torch

from lightning_gen.core import Ranks


def affordable(
    n: int, chunk: int, work: Callable[[int], object], seconds: float, ranks: Ranks, device: torch.device
) -> int:
    """Return how many of ``n`` images can be worked on in so many seconds, judged by the time that one chunk takes.

    Args:
        n: images wanted, over all processes.
        chunk: images at once.
        work: does the work of so many images; its results are not used.
        seconds: for all of it.
        ranks: the processes that share the work.
        device: of this process, on which processes agree.

    Returns:
        ``n``, or a whole number of chunks below it, at least one for each process; the same on every process.
    """
    if n <= chunk * ranks.count:
        return n
    started = time.monotonic()
    work(chunk)
    took = float(ranks.mean(torch.tensor(time.monotonic() - started, device=device)))
    return min(n, max(1, int(seconds / max(took, 1e-9))) * chunk * ranks.count)


class Allowance:
    """On how many images each kind of work is done, where it may take so many minutes: settled once, by a trial.

    Args:
        minutes: of each kind of work; None sets no limit.
        chunk: images at once.

    Attributes:
        settled: numbers of images, by what was asked for. A checkpoint keeps them; another question is settled anew.
    """

    def __init__(self, minutes: float | None, chunk: int):
        self.minutes, self.chunk = minutes, chunk
        self.settled: dict[str, int] = {}

    def of(self, what: str, n: int) -> int:
        """Return on how many of ``n`` images a kind of work is done: on all where nothing was settled."""
        return self.settled.get(self._question(what, n), n)

    def _question(self, what: str, n: int) -> str:
        return f"{n} {what} in {self.minutes} minutes"

    def settle(
        self,
        what: str,
        n: int,
        least: int,
        work: Callable[[int], object],
        ranks: Ranks,
        device: torch.device,
        tell: Callable[[str], object],
    ) -> None:
        """Settle the number of images of a kind of work, where it is not settled.

        Args:
            what: kind of work, in the plural.
            n: images wanted.
            least: images without which there is no figure.
            work, ranks, device: as of :func:`affordable`.
            tell: is told where it is below ``n``.
        """
        question = self._question(what, n)
        if question in self.settled or self.minutes is None:
            return
        found = max(least, affordable(n, self.chunk, work, 60 * self.minutes, ranks, device))
        self.settled[question] = found
        if found < n:
            limit = f"{self.minutes:g} minutes (evaluation.minutes)"
            tell(f"note: {what} of {found:,} images at each evaluation: {n:,} would take over {limit}")
