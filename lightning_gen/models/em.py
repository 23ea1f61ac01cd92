"""Expectation maximisation on the endless training stream: passes, statistics, starts and stops of classical models.

Libraries were looked at first. scikit-learn's mixtures and hmmlearn take all data at once and have no prior on full
covariances; pomegranate has streaming sums, in float32, without priors, trees, ranks or resume. k-means++ is
scikit-learn's; it and hmmlearn are what the tests compare with.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_gen.data import Batch
from lightning_gen.distributions import dequantization_noise
from lightning_gen.distributions.components import Statistics, add_statistics, rows_at_once
from lightning_gen.errors import InputError
from lightning_gen.models.base import GenerativeModule, Likelihood, keyed_seed
from lightning_gen.networks.mlp import check_positive
from lightning_gen.spec import ImageSpec

RESTART_STEPS = 5
BIC_EVALUATIONS = 2**17  # of images, each as often as the likelihood takes noises


class ExpectationMaximisation(GenerativeModule):
    r"""A model trained by EM: one M step for each *pass*, which is the whole training part once.

    The training stream is a concatenation of permutations of the N training images, so a pass is N consecutive images
    of it; a batch that runs over the end of a pass is cut there. Batches add sufficient statistics (float64 sums), and
    ranks add theirs up once a pass. So neither the batch size nor the number of ranks changes anything beyond rounding,
    and a run that is stopped within a pass is resumed exactly. Where a loader ends by itself, a pass is an epoch.

    The first ``start_images`` of the stream are kept until parameters are chosen from them: each restart begins from
    another k-means++ clustering (Arthur and Vassilvitskii 2007); of several, each takes five EM steps on these images,
    and the one with the best penalised objective stays. Parameters that a run was given (``--init_from``) are a start
    themselves, with their priors; none is chosen then.

    After each pass ``train/objective`` is logged, in nats per image: the log likelihood with the log prior, as training
    sees it, which raises it and never lowers it. With blur, or noise that dequantizes, it is an expectation over these,
    and no likelihood. Training ends by itself once a pass gains less than ``tolerance``; at its end :meth:`bic` is
    printed. Changed (augmented) images are refused: passes over them would not be of the same images.

    Args:
        spec: the images.
        conditional: fit one model per class.
        start_images: images that the start is chosen by; at most one pass.
        restarts: starts to choose from.
        tolerance: smallest gain of a pass in nats per image; 0 goes on until the budget is spent.

    Raises:
        InputError: for numbers out of range, or class-conditional models of unlabelled images.
    """

    automatic_optimization = False

    def __init__(
        self,
        spec: ImageSpec,
        conditional: bool = False,
        start_images: int = 10_000,
        restarts: int = 1,
        tolerance: float = 1e-3,
    ):
        super().__init__(spec)
        check_positive(self, start_images=start_images, restarts=restarts)
        if not tolerance >= 0:
            raise InputError(f"{type(self).__name__}: tolerance must be at least 0 nats, got {tolerance}")
        if conditional and not self.spec.num_classes:
            raise InputError(f"{type(self).__name__}: conditional needs labelled images, and these have no classes")
        self.groups = self.spec.num_classes if conditional else 1
        self.start_images = start_images
        self.restarts = restarts
        self.tolerance = tolerance
        self.passes = 0
        self.pass_images: int | None = None
        self.register_buffer("objective", torch.tensor(-torch.inf, dtype=torch.float64))
        self.register_buffer("started", torch.tensor(False))  # stored with the parameters: whoever has them has a start
        self._statistics: Statistics = {}
        self._kept: list[tuple[Tensor, Tensor | None]] = []

    # --- what a family gives --------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def free_parameters(self) -> int:
        """Number of free parameters; of a class-conditional model those of p(x | class), not the classes' shares."""

    @property
    @abstractmethod
    def clusters(self) -> tuple[int, str]:
        """How many clusters a start needs, in each class where conditional, and what they become."""

    @property
    @abstractmethod
    def row_cost(self) -> int:
        """Numbers that the work on one image takes at once."""

    @abstractmethod
    def start(self, levels: Tensor, labels: Tensor | None, seed: int) -> None:
        """Choose first parameters from levels (N, C, H, W); other ones for another seed."""

    @abstractmethod
    def expectation(self, levels: Tensor, labels: Tensor | None) -> Statistics:
        """Return the sums over these images that :meth:`maximisation` needs, and that of their log likelihoods as
        ``log_likelihood`` (as training sees it, without the prior)."""

    @abstractmethod
    def maximisation(self, statistics: Statistics) -> None:
        """Set the parameters that are best at these statistics, in place."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """Return the log prior of the parameters, a scalar, up to a constant."""

    @abstractmethod
    def log_density(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Return log p in nats (B,) of a chunk of data (B, D), see :meth:`data_of`."""

    @abstractmethod
    def known_log_density(self, x: Tensor, known: Tensor, labels: Tensor | None) -> Tensor:
        """Return log p (B,) of the pixels where ``known`` (B, D) is true, the others summed out."""

    @abstractmethod
    def draw(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw data (n, D)."""

    @abstractmethod
    def draw_missing(self, x: Tensor, known: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return data (B, D) with the pixels that are not known drawn given the others."""

    # --- levels and data ------------------------------------------------------------------------------------------

    dequantized = False  # whether the model is a density of levels + uniform noise
    noises = 1

    def data_of(self, levels: Tensor) -> Tensor:
        """Return what the model is fitted to, (B, D): integers, or the middles of levels' bins about mid-range."""
        flat = levels.flatten(1)
        return flat.to(torch.float64) + (0.5 - self.spec.levels / 2) if self.dequantized else flat.to(torch.int64)

    def levels_of(self, x: Tensor) -> Tensor:
        """Return levels (B, C, H, W) of data (B, D), which need not be in range: bins are rounded down."""
        if self.dequantized:
            x = (x + self.spec.levels / 2).floor().clamp(0, self.spec.levels - 1)
        return x.to(torch.uint8).view(-1, *self.spec.shape)

    def log_prob(self, levels: Tensor, labels: Tensor | None) -> Tensor:
        """Return log p(levels) in nats (B,) of a chunk of images, or its bound by ``noises`` noises."""
        x = self.data_of(levels)
        if not self.dequantized:
            return self.log_density(x, labels)
        seed = keyed_seed(self.seed, "dequantization")
        bounds = [
            self.log_density(x + dequantization_noise(levels, 1, seed, number)[0] - 0.5, labels)
            for number in range(self.noises)
        ]
        return torch.stack(bounds).logsumexp(0) - math.log(self.noises)

    def observed(self, levels: Tensor, known: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return data (B, D) of a chunk of images, of which the known pixels count.

        Dequantization noise is drawn from its posterior given them, among as many as the likelihood takes.
        """
        x = self.data_of(levels)
        if not self.dequantized:
            return x
        noises = torch.rand(self.noises, *x.shape, dtype=x.dtype, device=x.device, generator=generator) - 0.5
        # All noises at once: what depends on a mask alone, such as factors of covariances, is then computed once.
        repeated = None if labels is None else labels.repeat(self.noises)
        scores = self.known_log_density((x + noises).flatten(0, 1), known.repeat(self.noises, 1), repeated)
        chosen = draw_rows(scores.view(self.noises, -1).T, generator)
        return x + noises[chosen, torch.arange(len(x), device=x.device)]

    # --- the protocol ---------------------------------------------------------------------------------------------

    @property
    def conditional(self) -> bool:
        return self.groups > 1

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def averaged_modules(self) -> dict[str, torch.nn.Module]:
        return {}

    @torch.no_grad()
    def likelihood(self, levels: Tensor, labels: Tensor | None = None) -> Likelihood:
        """Return log p(levels), or log p(levels | labels) of a class-conditional model that is given labels.

        Without labels a class-conditional model is the mixture over classes by their shares of the training images.
        """
        levels, labels = self.check_images(levels), self.known_labels(labels, len(levels))
        chunks = [self.log_prob(*chunk) for chunk in self.chunks(levels, labels)]
        kind = "dequantized" if self.dequantized else "exact"
        return Likelihood(torch.cat(chunks), kind, self.noises)

    @torch.no_grad()
    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` images; a class-conditional model without labels draws classes by their shares in training."""
        return self.levels_of(self.draw(n, self.known_labels(labels, n), generator or self.fresh_generator()))

    @torch.no_grad()
    def complete(
        self,
        levels: Tensor,
        known: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw the pixels of levels (B, C, H, W) where the mask ``known`` is false, given the others.

        The draw is from the model's own conditional distribution: exactly, or where it is a density of dequantized
        levels, exactly as its number of noises grows.

        Args:
            levels: images; what they have at unknown pixels does not matter.
            known: bool, (B, C, H, W) or whatever can be broadcast to it.
            labels: classes (B,) for a class-conditional model; None leaves the class to be inferred.
            generator: source of all randomness; None draws a fresh one from torch's global generator.
        """
        generator = generator or self.fresh_generator()
        levels, labels = self.check_images(levels), self.known_labels(labels, len(levels))
        mask = check_mask(known, levels)
        drawn, masks = [], iter(mask.split(self._rows(self.noises)))
        for chunk, own in self.chunks(levels, labels, self.noises):
            part = next(masks)
            x = self.observed(chunk, part, own, generator)
            drawn.append(self.levels_of(self.draw_missing(x, part, own, generator)))
        return torch.where(mask.view_as(levels), levels, torch.cat(drawn))

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return the log likelihood of each image in nats: held-out images below training images are overfitting."""
        return {"nats": self.likelihood(batch.levels, batch.labels).nats}

    def check_images(self, levels: Tensor) -> Tensor:
        """Return levels on this device if they are images of this model's spec."""
        return self.spec.check(levels, f"{type(self).__name__}: images").to(self.device)

    def known_labels(self, labels: Tensor | None, n: int) -> Tensor | None:
        """Return checked labels where the model heeds them, else None."""
        return None if labels is None or not self.conditional else self.check_labels(labels, n)

    def _rows(self, times: int = 1) -> int:
        return rows_at_once(times * self.row_cost)

    def chunks(self, levels: Tensor, labels: Tensor | None, times: int = 1) -> list[tuple[Tensor, Tensor | None]]:
        """Cut images into chunks of bounded cost, each image ``times`` at once; at least one, which may be empty."""
        rows = self._rows(times)
        return list(
            zip(
                levels.split(rows),
                [None] * max(1, -(-len(levels) // rows)) if labels is None else labels.split(rows),
                strict=True,
            )
        )

    # --- training -------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        precision = str(self.trainer.precision)
        if precision.endswith("-true") and precision not in ("32-true", "64-true"):
            raise InputError(f"{type(self).__name__} is fitted in float64: use trainer.precision 32-true")
        data = getattr(self.trainer, "datamodule", None)
        if getattr(data, "augment", ()):
            raise InputError(
                f"{type(self).__name__}: EM goes over the same images again and again: leave data.augment out"
            )
        self.pass_images = len(data.images("train").levels) if hasattr(data, "images") else None
        if self.pass_images is not None and not self.trainer.fast_dev_run:  # which never gets as far as the start
            self.check_enough(self.pass_images)

    def check_enough(self, images: int) -> None:
        """Raise InputError where there are fewer images (of one class) than the model needs to start."""
        count, name = self.clusters
        if images < count:
            of = "images of a class" if self.conditional else "images"
            raise InputError(
                f"{type(self).__name__}: {count} {name} are more than the {images} {of} to start from: "
                f"take fewer {name}" + (", or raise start_images" if self.start_images <= images else "")
            )

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        levels, labels = self.check_images(batch.levels), self.known_labels(batch.labels, len(batch.levels))
        if self.conditional and labels is None:
            raise InputError(f"{type(self).__name__}: a class-conditional model is trained with labels: give labels")
        rank, world = self.ranks
        first = self.images_seen + rank * len(levels)
        position, end = self.images_seen, self.images_seen + world * len(levels)
        while position < end:
            stop = min(end, self._next_cut(position))
            rows = slice(max(position - first, 0), max(stop - first, 0))  # none, where they are other ranks'
            self._take(levels[rows], None if labels is None else labels[rows])
            position = stop
            if not self.started and position == self._start_ends():
                self._start()
            if self.pass_images is not None and position % self.pass_images == 0:
                self._conclude_pass(self.pass_images)
        self.count_step()
        self.count_images(batch)

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.trainer.fast_dev_run or not self.images_seen:
            return
        name = type(self).__name__
        if not self.started:
            rank_zero_warn(
                f"{name}: training ended after {self.images_seen:,} images, before its parameters were chosen from the "
                f"first {self._start_ends():,}: they are untouched; raise budget.images, or lower start_images"
            )
        elif not self.passes:
            rank_zero_warn(
                f"{name}: training ended after {self.images_seen:,} images, before one pass over all "
                f"{self.pass_images:,}: parameters are those it started from; raise budget.images"
            )
        elif self.pass_images is not None:
            self._print_bic(self.trainer.datamodule.images("train"))

    def _print_bic(self, images: Any) -> None:
        count = min(len(images.levels), max(1, BIC_EVALUATIONS // self.noises))
        rows = (torch.arange(count) * len(images.levels) // count).numpy()
        rank, world = self.ranks
        own = rows[rank::world]
        labels = torch.from_numpy(images.labels[own]) if self.conditional else None
        total = self.likelihood(torch.from_numpy(images.levels[own]), labels).nats.sum()
        if world > 1:
            torch.distributed.all_reduce(total)
        value = self.bic(float(total) * len(images.levels) / count, len(images.levels))
        kind = "dequantized" if self.dequantized else "exact"
        self.print(
            f"BIC {value:,.1f}: {kind} log likelihood{' given labels' * self.conditional} of "
            f"{len(images.levels):,} training images" + f" (estimated from {count:,})" * (count < len(images.levels))
        )

    def bic(self, log_likelihood: float, images: int) -> float:
        r"""Return :math:`-2 \log L + p \log N` (Schwarz 1978), of the model's own likelihood: lower is better.

        Where it is class-conditional, that is the likelihood given labels. A bound in its place (of dequantized levels)
        raises the figure.

        Args:
            log_likelihood: log L, in nats, of all training images.
            images: their number N.
        """
        return -2 * log_likelihood + self.free_parameters * math.log(images)

    def _start_ends(self) -> int:
        return min(self.start_images, self.pass_images or self.start_images)

    def _next_cut(self, position: int) -> int:
        cuts = [] if self.pass_images is None else [(position // self.pass_images + 1) * self.pass_images]
        if not self.started:
            cuts.append(self._start_ends())
        return min(cuts, default=position + 2**62)

    def on_train_epoch_end(self) -> None:
        if self.pass_images is None:  # the loader has ended, and with it the pass
            if not self.started:
                self._start()
            self._conclude_pass(None)

    def _take(self, levels: Tensor, labels: Tensor | None) -> None:
        if not self.started:
            self._kept.append((levels.clone(), None if labels is None else labels.clone()))
            return
        for chunk in self.chunks(levels, labels):
            add_statistics(self._statistics, self._expectation(*chunk))

    def _expectation(self, levels: Tensor, labels: Tensor | None) -> Statistics:
        images = torch.tensor(len(levels), dtype=torch.float64, device=self.device)
        return {**self.expectation(levels, labels), "images": images}

    @torch.no_grad()
    def _start(self) -> None:
        rank, world = self.ranks
        parts = [self._kept]
        if world > 1:
            parts = [None] * world
            torch.distributed.all_gather_object(parts, [tuple(_to(part, "cpu")) for part in self._kept])
        # In the order of the stream: ranks' rows of one cut lie next to each other.
        ordered = [_to(part, self.device) for cut in zip(*parts, strict=True) for part in cut]
        levels = torch.cat([part[0] for part in ordered])
        labels = None if ordered[0][1] is None else torch.cat([part[1] for part in ordered])
        if rank == 0:
            self.choose_start(levels, labels)
        if world > 1:  # threads of k-means may add up in another order on another rank
            for value in [*self.parameters(), *self.buffers()]:
                torch.distributed.broadcast(value.data, src=0)
        kept, self._kept = self._kept, []
        for part in kept:
            self._take(*part)

    @torch.no_grad()
    def choose_start(self, levels: Tensor, labels: Tensor | None) -> None:
        """Set first parameters from these images: the best of ``restarts`` starts.

        Raises:
            InputError: for fewer images than components.
        """
        self.check_enough(len(levels) if labels is None else int(torch.bincount(labels, minlength=self.groups).min()))
        best, best_state = -math.inf, None
        for restart in range(self.restarts):
            self.start(levels, labels, keyed_seed(self.seed, "start", restart) % 2**32)
            if self.restarts == 1:
                break
            for _ in range(RESTART_STEPS):
                objective = self.em_step(levels, labels)
            if objective > best:
                best, best_state = objective, {name: value.clone() for name, value in self.state_dict().items()}
        if best_state is not None:
            self.load_state_dict(best_state)
        self.started.fill_(True)

    @torch.no_grad()
    def em_step(self, levels: Tensor, labels: Tensor | None = None) -> float:
        """Take one EM step on all of these images, and return the penalised objective (nats) *before* it."""
        statistics: Statistics = {}
        for chunk in self.chunks(levels, labels):
            add_statistics(statistics, self._expectation(*chunk))
        objective = statistics["log_likelihood"] + self.log_prior()
        self.maximisation(statistics)
        return float(objective)

    @torch.no_grad()
    def _conclude_pass(self, expected: int | None) -> None:
        statistics, self._statistics = self._statistics, {}
        _, world = self.ranks
        if world > 1:
            flat = torch.cat([value.reshape(-1) for value in statistics.values()])
            torch.distributed.all_reduce(flat)
            parts = flat.split([value.numel() for value in statistics.values()])
            statistics = {
                name: part.view_as(value) for (name, value), part in zip(statistics.items(), parts, strict=True)
            }
        images = float(statistics["images"])
        objective = (statistics["log_likelihood"] + self.log_prior()) / images
        if not torch.isfinite(objective):
            raise InputError(f"{type(self).__name__}: the log likelihood is not finite: raise the prior's strength")
        self.maximisation(statistics)
        gain = float(objective - self.objective)
        self.objective.copy_(objective)
        self.passes += 1
        self.track(objective=objective)
        # Without a tolerance even a loss, which is rounding, ends nothing.
        if self.passes > 1 and self.tolerance and gain < self.tolerance and self.attached_trainer is not None:
            self.trainer.should_stop = True

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        return {"passes": self.passes}

    def load_counters(self, counters: dict[str, int]) -> None:
        self.passes = counters["passes"]

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as torch does; parameters of which some are missing are no start, so that one is chosen after all."""
        found = super().load_state_dict(state_dict, strict, assign)
        if found.missing_keys and self.started:
            rank_zero_warn(
                f"{type(self).__name__}: only some of its parameters were given: they will be chosen anew from the "
                "first images"
            )
            self.started.fill_(False)
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        own = {"kept": self._kept, "statistics": self._statistics}
        _, world = self.ranks
        everyones = [own]
        if world > 1:
            everyones = [None] * world
            torch.distributed.all_gather_object(everyones, own)
        checkpoint["expectation_maximisation"] = everyones

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        everyones = checkpoint["expectation_maximisation"]
        rank, world = self.ranks
        if len(everyones) == world:
            own = everyones[rank]
        elif rank == 0:  # sums are sums, whoever adds them
            own = {"kept": [], "statistics": {}}
            for each in everyones:
                add_statistics(own["statistics"], each["statistics"])
            own["kept"] = [part for cut in zip(*(each["kept"] for each in everyones), strict=True) for part in cut]
        else:
            own = {
                # As many as the first rank has now: parts of all ranks are put together one by one.
                "kept": [_to(part, "cpu", 0) for each in everyones for part in each["kept"]],
                "statistics": {name: torch.zeros_like(value) for name, value in everyones[0]["statistics"].items()},
            }
        self._kept = [_to(part, self.device) for part in own["kept"]]
        self._statistics = {name: value.to(self.device) for name, value in own["statistics"].items()}


def _to(part: tuple[Tensor, Tensor | None], device: Any, rows: int | None = None) -> tuple[Tensor, Tensor | None]:
    return tuple(None if value is None else value[:rows].to(device) for value in part)


def check_mask(known: Tensor, levels: Tensor) -> Tensor:
    """Return ``known`` as (B, D), if it is a mask that can be broadcast to levels (B, C, H, W).

    Raises:
        InputError: where it is not.
    """
    if known.dtype != torch.bool:
        raise InputError(f"known must be a mask of dtype bool, got {known.dtype}")
    try:
        return known.to(levels.device).expand(levels.shape).flatten(1)
    except RuntimeError as error:
        raise InputError(f"known of shape {tuple(known.shape)} does not fit images {tuple(levels.shape)}") from error


def draw_rows(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return one index (B,) by each row of unnormalised log probabilities (B, K)."""
    chance = (logits - logits.amax(1, keepdim=True)).exp()
    return torch.multinomial(chance, 1, generator=generator)[:, 0]


def kmeans(x: Tensor, count: int, seed: int) -> Tensor:
    """Return the cluster (N,) of each row of x (N, D), by scikit-learn's k-means from a k-means++ start."""
    import numpy as np
    from sklearn.cluster import KMeans

    rows = x.cpu().numpy()
    if len(np.unique(rows, axis=0)) <= count:  # k-means would warn; every distinct row is a cluster of its own
        _, own = np.unique(rows, axis=0, return_inverse=True)
        return torch.from_numpy(own.reshape(-1)).to(x.device)
    fitted = KMeans(count, init="k-means++", n_init=1, max_iter=50, random_state=seed).fit(rows)
    return torch.from_numpy(fitted.labels_.astype(np.int64)).to(x.device)
