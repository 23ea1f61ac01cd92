"""How many images can be scored in the time that an evaluation may take."""

import time
from collections.abc import Callable

import torch

from lightning_gen.core import Ranks


def affordable(n: int, chunk: int, work: Callable[[int], object], seconds: float, ranks: Ranks | None = None) -> int:
    """Return how many of ``n`` images can be worked on in so many seconds, judged by the time that one chunk takes.

    Args:
        n: images wanted, over all processes.
        chunk: images at once.
        work: does the work of so many images; its results are not used.
        seconds: for all of it.
        ranks: the processes that share the work; this one alone unless given.

    Returns:
        ``n``, or a whole number of chunks below it, at least one for each process; the same on every process.
    """
    ranks = ranks or Ranks()
    if n <= chunk * ranks.count:
        return n
    started = time.monotonic()
    work(chunk)
    took = float(ranks.mean(torch.tensor(time.monotonic() - started)))
    return min(n, max(1, int(seconds / max(took, 1e-9))) * chunk * ranks.count)
