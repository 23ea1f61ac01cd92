"""The base class of models fitted by expectation maximisation."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_gen.bijections import UniformDequantizer
from lightning_gen.core import (
    Figure,
    ImageSpec,
    InputError,
    Likelihood,
    categorical_of_logits,
    check_at_least,
    check_mask,
    check_positive,
    evaluating,
    fresh_generator,
    heeded_labels,
    keyed_generator,
    watched,
)
from lightning_gen.data import Batch
from lightning_gen.distributions.components import rows_at_once
from lightning_gen.distributions.density import Density
from lightning_gen.models.base import GenerativeModule
from lightning_gen.models.classical.em import ExpectationMaximisation
from lightning_gen.models.classical.passes import PassesOverData
from lightning_gen.steps.manual import count_step
from lightning_gen.steps.surroundings import trainer_of


class ClassicalModel(GenerativeModule):
    r"""A density :math:`p(x)` of an image's levels, or :math:`p(\ell + u)` of its dequantized levels, fitted by EM.

    Training is :class:`~lightning_gen.models.classical.em.ExpectationMaximisation`. After each pass it logs
    ``train/objective``, the log likelihood plus log prior in nats per image; with blur or dequantization this is an
    expectation over that noise, not a likelihood. Training stops once a pass gains less than ``tolerance``.

    Args:
        spec: image format.
        make: factory of the density from the number of classes (1 if not conditional).
        dequantizer: dequantization noise of a continuous density; None for a density of discrete levels.
        conditional: fit one density per class.
        start_images: number of images that initialise the parameters; at most one pass.
        restarts: number of initialisations, of which the best is kept.
        tolerance: smallest gain of a pass in nats per image; 0 trains until the budget is spent.

    Raises:
        InputError: for numbers out of range, or class-conditional models of unlabelled images.
    """

    automatic_optimization = False

    figures = (
        *GenerativeModule.figures,
        Figure("nats", "log-probability of images"),
        Figure("objective", "what EM raises: log-probability of the training images, with the prior's"),
    )

    def __init__(
        self,
        spec: ImageSpec,
        make: Callable[[int], Density],
        dequantizer: UniformDequantizer | None = None,
        conditional: bool = False,
        start_images: int = 10_000,
        restarts: int = 1,
        tolerance: float = 1e-3,
    ):
        super().__init__(spec)
        check_positive(self, start_images=start_images, restarts=restarts)
        check_at_least(self, 0, tolerance=tolerance)
        if conditional and not self.spec.num_classes:
            raise InputError(f"{type(self).__name__}: conditional needs labelled images, and these have no classes")
        self.conditional = conditional
        self.tolerance = tolerance
        self.dequantizer = dequantizer
        self.density = make(self.spec.num_classes if conditional else 1)
        self.register_buffer("started", torch.tensor(False))
        self.em = ExpectationMaximisation(self, self.density, self.data_of, start_images, restarts)

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        levels, labels = self.checked(batch.levels, batch.labels)
        if self.conditional and labels is None:
            raise InputError(f"{type(self).__name__}: a class-conditional model is trained with labels: give labels")
        if self.em.take(levels, labels, self.images_seen, self.ranks, self.seed):
            self.end_pass()
        count_step(self)
        self.count_images(batch)

    def end_pass(self) -> None:
        """Log the objective, and stop training if the pass gained too little."""
        self.track(objective=torch.tensor(self.em.objective))
        # A tolerance of 0 must not stop training when rounding makes the gain negative.
        trainer = trainer_of(self)
        if self.em.passes > 1 and self.tolerance and self.em.gain < self.tolerance and trainer is not None:
            trainer.should_stop = True

    def configure_callbacks(self) -> Sequence[Callback]:
        return [*super().configure_callbacks(), PassesOverData()]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {}

    def data_of(self, levels: Tensor) -> Tensor:
        """Return the density's argument (B, D): int64 levels, or bin centres minus L / 2 for a continuous density."""
        if self.dequantizer is None:
            return levels.to(torch.int64)
        return levels.to(torch.float64) + (self.dequantizer.mean - self.spec.levels / 2)

    def levels_of(self, x: Tensor) -> Tensor:
        """Invert :meth:`data_of`: return levels (B, C, H, W) of data (B, D), rounded down and clamped to the range."""
        if self.dequantizer is not None:
            x = (x + self.spec.levels / 2).floor().clamp(0, self.spec.levels - 1)
        return x.to(self.spec.dtype).view(-1, *self.spec.shape)

    def checked(self, levels: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Check images and labels; return images as rows (B, D) on this device, and the labels that the model uses."""
        self.spec.check(levels, f"{type(self).__name__}: images")
        return levels.flatten(1).to(self.device), heeded_labels(self, labels, len(levels))

    def chunks(self, levels: Tensor, labels: Tensor | None, times: int = 1) -> Iterator[slice]:
        """Yield slices of bounded memory, for images repeated ``times`` each; at least one, which may be empty."""
        size, n = rows_at_once(times * self.density.row_cost), len(levels)
        yield from watched([slice(start, min(start + size, n)) for start in range(0, max(n, 1), size)])

    @property
    def completion(self) -> str:
        return "exact" if self.dequantizer is None else "asymptotic"

    def draw(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw ``n`` images by ancestral sampling."""
        return self.levels_of(self.density.sample(n, labels, generator))

    def likelihood(
        self, levels: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return log p(levels), or its importance-weighted bound if dequantized; see :class:`HasLikelihood`.

        Without labels a class-conditional model is a mixture over classes, weighted by their training frequencies.
        """
        levels, labels = self.checked(levels, labels)
        generator, nats = generator or fresh_generator(), []
        for rows in self.chunks(levels, labels):
            own = None if labels is None else labels[rows]
            nats.append(self.log_prob(levels[rows], own, generator))
        if self.dequantizer is None:
            return Likelihood(torch.cat(nats), "exact")
        return Likelihood(torch.cat(nats), "dequantized", self.dequantizer.noises)

    def log_prob(self, levels: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return log p(levels) or its bound, nats (B,), of levels (B, D)."""
        if self.dequantizer is None:
            return self.density.log_prob(self.data_of(levels), labels)
        middle = self.spec.levels / 2
        return self.dequantizer.log_prob(levels, lambda x: self.density.log_prob(x - middle, labels), generator)

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

        The draw is from the model's conditional distribution: exact for discrete levels, asymptotically exact in the
        number of noise samples for dequantized ones.

        Args:
            levels: images; values at unknown pixels are ignored.
            known: bool, (B, C, H, W) or broadcastable to it.
            labels: classes (B,) for a class-conditional model; None infers the class.
            generator: source of all randomness; None takes a new one, seeded by torch's global generator.
        """
        generator, drawn = generator or fresh_generator(), []
        mask = check_mask(known, levels).flatten(1).to(self.device)
        rows_of, labels = self.checked(levels, labels)
        for rows in self.chunks(rows_of, labels, 1 if self.dequantizer is None else self.dequantizer.noises):
            own = None if labels is None else labels[rows]
            x = self.observed(rows_of[rows], mask[rows], own, generator)
            drawn.append(self.levels_of(self.density.complete(x, mask[rows], own, generator)))
        return torch.where(mask.view_as(levels), levels.to(self.device), torch.cat(drawn))

    def observed(self, levels: Tensor, known: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return data (B, D) of levels (B, D).

        Dequantization noise is drawn from its posterior given the known levels, by resampling the likelihood's number
        of candidates (sampling importance resampling, Rubin 1987).
        """
        x = self.data_of(levels)
        if self.dequantizer is None:
            return x
        noise = self.dequantizer.candidates(levels, generator) - self.dequantizer.mean
        # All candidates in one call, so that work that depends on the mask alone (covariance factors) is done once.
        count = len(noise)
        repeated = None if labels is None else labels.repeat(count)
        scores = self.density.known_log_prob((x + noise).flatten(0, 1), known.repeat(count, 1), repeated)
        chosen = categorical_of_logits(scores.view(count, -1).T, generator)
        return x + noise[chosen, torch.arange(len(x), device=x.device)]

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``nats`` (B,), the log likelihood of each image; lower values on held-out images mean overfitting."""
        generator = keyed_generator(self.seed, "diagnostics", self.images_seen)
        with evaluating(self):
            return {"nats": self.likelihood(batch.levels, batch.labels, generator=generator).nats}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["expectation_maximisation"] = self.em.state(self.ranks)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.em.load_state(checkpoint["expectation_maximisation"], self.ranks)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as in torch; if some parameters are missing, all are initialised again when training starts."""
        found = super().load_state_dict(state_dict, strict, assign)
        if found.missing_keys and self.started:
            rank_zero_warn(
                f"{type(self).__name__}: only some of its parameters were given: they will be chosen anew from the "
                "first images"
            )
            self.started.fill_(False)
        return found
