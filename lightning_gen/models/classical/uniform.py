"""The uniform distribution over images, a baseline for every model."""

import math

import torch
from torch import Tensor, nn

from lightning_gen.core import Likelihood, check_mask, fresh_generator
from lightning_gen.data import Batch
from lightning_gen.models.base import GenerativeModule
from lightning_gen.steps.manual import count_step
from lightning_gen.steps.surroundings import trainer_of


class Uniform(GenerativeModule):
    r"""Uniform distribution over images, :math:`p(x) = L^{-D}`, or :math:`\log_2 L` bits per dimension; not trained."""

    automatic_optimization = False
    completion = "exact"

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.spec.check(batch.levels)
        count_step(self)
        self.count_images(batch)
        if (trainer := trainer_of(self)) is not None:
            trainer.should_stop = True

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {}

    def draw(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw ``n`` images of independent, uniform levels."""
        shape = (n, *self.spec.shape)
        drawn = torch.randint(self.spec.levels, shape, generator=generator, device=generator.device)
        return drawn.to(self.device, self.spec.dtype)

    def likelihood(
        self, levels: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return -D log L, nats (B,), for every image."""
        nats = -self.spec.dims * math.log(self.spec.levels)
        return Likelihood(self.spec.check(levels).new_full((len(levels),), nats, dtype=torch.float64), "exact")

    def pixel_log_probs(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return -log L for each level of each pixel, float64 (B, C, H, W, L)."""
        shape = (*self.spec.check(levels).shape, self.spec.levels)
        return levels.new_full(shape, -math.log(self.spec.levels), dtype=torch.float64)

    def complete(
        self,
        levels: Tensor,
        known: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw the pixels where the mask ``known``, which can be broadcast to levels, is false."""
        mask = check_mask(known, self.spec.check(levels))
        return torch.where(mask, levels, self.draw(len(levels), None, generator or fresh_generator()).to(levels))
