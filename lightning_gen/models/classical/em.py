"""Expectation maximisation on an endless training stream.

Why not a library: scikit-learn's mixtures and hmmlearn need all data in memory and have no prior on full covariances;
pomegranate streams, but in float32 and without priors, trees, distributed training or resuming. Initialisation uses
scikit-learn's k-means++; tests compare with scikit-learn and hmmlearn.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_gen.core import InputError, Ranks, keyed_seed
from lightning_gen.distributions.components import Statistics, add_statistics, rows_at_once
from lightning_gen.distributions.density import Density

RESTART_STEPS = 5

Part = tuple[Tensor, Tensor | None]
"""Levels (N, D) and labels (N,) or None of consecutive images of the stream."""


class ExpectationMaximisation:
    r"""Fits a density by batch EM (Dempster et al. 1977), with one M step per *pass* over the training images.

    The training stream is a concatenation of permutations of the N training images, so a pass is N consecutive images
    of it; a batch that crosses the end of a pass is split there. Sufficient statistics (float64 sums) are accumulated
    over batches and reduced over ranks at the end of a pass. The result therefore depends on batch size and number of
    ranks only through rounding, and a run interrupted within a pass resumes exactly. With a finite loader, a pass is an
    epoch.

    Parameters are initialised from the first ``start_images`` of the stream, by clustering. Of several restarts, each
    takes five EM steps on these images, and the one with the best penalised objective is kept. Parameters given to a
    run (``--init_from``) replace this initialisation.

    Args:
        owner: the model, whose buffer ``started`` is set, and which is named in messages.
        density: the density to fit.
        data_of: maps levels (B, D) to the density's data (B, D).
        start_images: number of images that initialise the parameters; at most one pass.
        restarts: number of initialisations, of which the best is kept.

    Attributes:
        pass_images: images of a pass; None with a finite loader.
        passes: M steps taken.
        objective: log likelihood plus log prior of the last pass, nats per image, which EM never lowers.
        gain: increase of the objective over the pass before.
    """

    def __init__(
        self, owner: Any, density: Density, data_of: Callable[[Tensor], Tensor], start_images: int, restarts: int
    ):
        self.owner, self.density, self.data_of = owner, density, data_of
        self.start_images, self.restarts = start_images, restarts
        self.pass_images: int | None = None
        self.passes = 0
        self.objective = -math.inf
        self.gain = math.inf
        self.statistics: Statistics = {}
        self.kept: list[Part] = []

    @property
    def started(self) -> bool:
        """Whether the parameters are initialised; a buffer of the model, so that it is stored together with them."""
        return bool(self.owner.started)

    def take(self, levels: Tensor, labels: Tensor | None, position: int, ranks: Ranks, seed: int) -> bool:
        """Add this rank's batch, of the step that begins at ``position`` images seen; return whether a pass ended."""
        first, end = position + ranks.rank * len(levels), position + ranks.count * len(levels)
        ended = False
        while position < end:
            stop = min(end, self._next_cut(position))
            rows = slice(max(position - first, 0), max(stop - first, 0))  # empty if they are on other ranks
            self._add((levels[rows], None if labels is None else labels[rows]))
            position = stop
            if not self.started and position == self.start_ends:
                self.start(ranks, seed)
            if self.pass_images is not None and position % self.pass_images == 0:
                self.conclude(ranks)
                ended = True
        return ended

    @property
    def start_ends(self) -> int:
        """Number of images that initialise the parameters."""
        return min(self.start_images, self.pass_images or self.start_images)

    def _next_cut(self, position: int) -> int:
        cuts = [] if self.pass_images is None else [(position // self.pass_images + 1) * self.pass_images]
        if not self.started:
            cuts.append(self.start_ends)
        return min(cuts, default=position + 2**62)

    def _add(self, part: Part) -> None:
        if self.started:
            self._sum(part, self.statistics)
        else:
            self.kept.append(tuple(None if value is None else value.clone() for value in part))

    def _sum(self, part: Part, total: Statistics) -> Statistics:
        """Add the E step of some images to ``total``, chunk by chunk."""
        levels, labels = part
        rows = rows_at_once(self.density.row_cost)
        of_labels = [None] * max(1, -(-len(levels) // rows)) if labels is None else labels.split(rows)
        for chunk, own in zip(levels.split(rows), of_labels, strict=True):
            images = torch.tensor(len(chunk), dtype=torch.float64, device=chunk.device)
            add_statistics(total, {**self.density.expectation(self.data_of(chunk), own), "images": images})
        return total

    def conclude(self, ranks: Ranks) -> None:
        """Take the M step that ends a pass.

        Raises:
            InputError: for an objective that is not finite.
        """
        statistics, self.statistics = self.statistics, {}
        statistics = {name: ranks.sum(value) for name, value in statistics.items()}
        objective = float((statistics["log_likelihood"] + self.density.log_prior()) / statistics["images"])
        if not math.isfinite(objective):
            raise InputError(
                f"{type(self.owner).__name__}: the log likelihood is not finite: raise the prior's strength"
            )
        self.density.maximisation(statistics)
        self.gain, self.objective = objective - self.objective, objective
        self.passes += 1

    def start(self, ranks: Ranks, seed: int) -> None:
        """Initialise the parameters from the images that all ranks kept, then add these to the statistics."""
        parts, device = [self.kept], next(self.density.parameters()).device
        if ranks.count > 1:
            parts = [None] * ranks.count
            torch.distributed.all_gather_object(parts, [to(part, "cpu") for part in self.kept])
        # Restore the order of the stream: within each part, rank by rank.
        ordered = [to(part, device) for cut in zip(*parts, strict=True) for part in cut]
        levels = torch.cat([part[0] for part in ordered])
        labels = None if ordered[0][1] is None else torch.cat([part[1] for part in ordered])
        if ranks.rank == 0:
            self.choose_start(levels, labels, seed)
        if ranks.count > 1:  # multithreaded k-means is not deterministic to the last bit
            for value in [*self.density.parameters(), *self.density.buffers()]:
                torch.distributed.broadcast(value.data, src=0)
        self.owner.started.fill_(True)
        kept, self.kept = self.kept, []
        for part in kept:
            self._add(part)

    def choose_start(self, levels: Tensor, labels: Tensor | None, seed: int) -> None:
        """Set the parameters to the best of ``restarts`` initialisations from these images.

        Raises:
            InputError: for fewer images than clusters.
        """
        groups = self.density.groups
        self.check_enough(len(levels) if labels is None else int(torch.bincount(labels, minlength=groups).min()))
        best, best_state = -math.inf, None
        for restart in range(self.restarts):
            own = keyed_seed(seed, "start", restart) % 2**32
            self.density.start(self.data_of(levels), levels, labels, own)
            if self.restarts == 1:
                return
            for _ in range(RESTART_STEPS):
                objective = self.step(levels, labels)
            if objective > best:
                best, best_state = objective, {name: value.clone() for name, value in self.density.state_dict().items()}
        self.density.load_state_dict(best_state)

    def step(self, levels: Tensor, labels: Tensor | None = None) -> float:
        """Take one EM step on these images; return the total penalised objective (nats) *before* it."""
        statistics = self._sum((levels, labels), {})
        objective = statistics["log_likelihood"] + self.density.log_prior()
        self.density.maximisation(statistics)
        return float(objective)

    def check_enough(self, images: int) -> None:
        """Raise InputError for fewer images (of one class) than clusters to initialise."""
        count, name = self.density.clusters
        if images < count:
            of = "images of a class" if self.density.groups > 1 else "images"
            raise InputError(
                f"{type(self.owner).__name__}: {count} {name} are more than the {images} {of} to start from: take "
                f"fewer {name}" + (", or raise start_images" if self.start_images <= images else "")
            )

    def state(self, ranks: Ranks) -> list[dict[str, Any]]:
        """Return the progress and each rank's statistics since the last M step, as plain data and tensors."""
        names = ("kept", "statistics", "passes", "objective", "gain")
        own = {name: getattr(self, name) for name in names}
        everyones = [own] * ranks.count
        if ranks.count > 1:
            torch.distributed.all_gather_object(everyones, own)
        return everyones

    def load_state(self, everyones: list[dict[str, Any]], ranks: Ranks) -> None:
        """Restore what :meth:`state` returned, possibly on another number of ranks."""
        device = next(self.density.parameters()).device
        for name in ("passes", "objective", "gain"):
            setattr(self, name, everyones[0][name])
        if len(everyones) == ranks.count:
            kept, statistics = everyones[ranks.rank]["kept"], everyones[ranks.rank]["statistics"]
        else:  # rank 0 takes everything; the others get as many parts, empty, since :meth:`start` zips them
            kept = [part for cut in zip(*(each["kept"] for each in everyones), strict=True) for part in cut]
            statistics = {}
            for each in everyones:
                add_statistics(statistics, each["statistics"])
            if ranks.rank:
                kept = [to(part, device, 0) for part in kept]
                statistics = {name: torch.zeros_like(value) for name, value in statistics.items()}
        self.kept = [to(part, device) for part in kept]
        self.statistics = {name: value.to(device) for name, value in statistics.items()}


def to(part: Part, device: Any, rows: int | None = None) -> Part:
    """Return some images on a device, or the first ``rows`` of them."""
    return tuple(None if value is None else value[:rows].to(device) for value in part)
