"""Models that expectation maximisation fits: a density of levels, or of levels with noise."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_gen.bijections import UniformDequantizer
from lightning_gen.core import (
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
    r"""A density :math:`p(x)` of an image's levels, or :math:`p(\ell + u)` of its levels with noise, fitted by EM.

    Training is :class:`~lightning_gen.models.classical.em.ExpectationMaximisation`. After each pass ``train/objective``
    is logged, in nats per image: the log likelihood with the log prior, as training sees it. With blur, or noise that
    dequantizes, it is an expectation over these, and no likelihood. Training ends by itself once a pass gains less than
    ``tolerance``.

    Args:
        spec: the images.
        make: called with the number of classes (1 where not conditional), makes the density.
        dequantizer: noise in the likelihood of a density of real numbers; None where levels are its data.
        conditional: fit one density per class.
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
        """Log the objective, and end training where the pass gained too little."""
        self.track(objective=torch.tensor(self.em.objective))
        # Without a tolerance even a loss, which is rounding, ends nothing.
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
        """Return what the density is of, (B, D): levels, or the middles of their bins about mid-range."""
        if self.dequantizer is None:
            return levels.to(torch.int64)
        return levels.to(torch.float64) + (self.dequantizer.mean - self.spec.levels / 2)

    def levels_of(self, x: Tensor) -> Tensor:
        """Return levels (B, C, H, W) of data (B, D), which need not be in range: bins are rounded down."""
        if self.dequantizer is not None:
            x = (x + self.spec.levels / 2).floor().clamp(0, self.spec.levels - 1)
        return x.to(self.spec.dtype).view(-1, *self.spec.shape)

    def checked(self, levels: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return images as rows (B, D) on this device, and the labels that the model heeds, checked."""
        self.spec.check(levels, f"{type(self).__name__}: images")
        return levels.flatten(1).to(self.device), heeded_labels(self, labels, len(levels))

    def chunks(self, levels: Tensor, labels: Tensor | None, times: int = 1) -> Iterator[slice]:
        """Yield slices of images of bounded cost, each image ``times`` at once; at least one, which may be empty."""
        size, n = rows_at_once(times * self.density.row_cost), len(levels)
        yield from watched([slice(start, min(start + size, n)) for start in range(0, max(n, 1), size)])

    @property
    def completion(self) -> str:
        return "exact" if self.dequantizer is None else "asymptotic"

    def draw(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw ``n`` images: ancestral sampling."""
        return self.levels_of(self.density.sample(n, labels, generator))

    def likelihood(
        self, levels: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return log p(levels), of dequantized models a bound by some noises; see :class:`HasLikelihood`.

        Without labels a class-conditional model is the mixture over classes by their shares of the training images.
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
        """Return log p(levels), or its bound, nats (B,), of levels (B, D)."""
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

        The draw is from the model's own conditional distribution: exactly, or where it is a density of dequantized
        levels, exactly as its number of noises grows.

        Args:
            levels: images; what they have at unknown pixels does not matter.
            known: bool, (B, C, H, W) or whatever can be broadcast to it.
            labels: classes (B,) for a class-conditional model; None leaves the class to be inferred.
            generator: source of all randomness; None draws a fresh one from torch's global generator.
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
        """Return data (B, D) of levels (B, D), of which the known ones count.

        Dequantization noise is drawn from its posterior given them, among as many as the likelihood takes.
        """
        x = self.data_of(levels)
        if self.dequantizer is None:
            return x
        noise = self.dequantizer.candidates(levels, generator) - self.dequantizer.mean
        # All noises at once: what depends on a mask alone, such as factors of covariances, is then computed once.
        count = len(noise)
        repeated = None if labels is None else labels.repeat(count)
        scores = self.density.known_log_prob((x + noise).flatten(0, 1), known.repeat(count, 1), repeated)
        chosen = categorical_of_logits(scores.view(count, -1).T, generator)
        return x + noise[chosen, torch.arange(len(x), device=x.device)]

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return the log likelihood of each image in nats: held-out images below training images are overfitting."""
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
        """Load as torch does; parameters of which some are missing are no start, so that one is chosen after all."""
        found = super().load_state_dict(state_dict, strict, assign)
        if found.missing_keys and self.started:
            rank_zero_warn(
                f"{type(self).__name__}: only some of its parameters were given: they will be chosen anew from the "
                "first images"
            )
            self.started.fill_(False)
        return found
