"""Generative adversarial networks: one class; which GAN it is, is decided by what is injected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_gen.data import Batch
from lightning_gen.errors import InputError
from lightning_gen.models.base import GenerativeModule, evaluating
from lightning_gen.objectives import AdversarialLoss, NonSaturating, Penalty
from lightning_gen.samplers import LatentSampler
from lightning_gen.spec import ImageSpec


class GAN(GenerativeModule):
    r"""Generative adversarial network, :math:`\min_G \max_D` of a pair of losses (Goodfellow et al. 2014).

    Which GAN it is, is decided by what is injected: ``loss``, ``penalties`` and the networks. Each training step is one
    critic step, and on every ``critic_steps``-th of them also one generator step. Noise is drawn for the global batch.

    Args:
        spec: images, the data module's.
        generator: factory of a network (latent (B, latent_dim), labels) -> unit images (B, C, H, W) with an attribute
            ``latent_dim``.
        discriminator: factory of a network (unit images (B, C, H, W), labels) -> scores (B,).
        generator_optimizer: factory of the generator's optimizer.
        discriminator_optimizer: factory of the discriminator's optimizer.
        loss: adversarial loss.
        penalties: terms added to the critic's loss when due.
        critic_steps: critic steps per generator step, at least 1.
        sampler: draws the latents of :meth:`sample` (training always draws from N(0, I)).

    Raises:
        InputError: for critic_steps below 1, or a network that cannot make images of this spec.
    """

    automatic_optimization = False

    def __init__(
        self,
        spec: ImageSpec,
        generator: Callable[[ImageSpec], nn.Module],
        discriminator: Callable[[ImageSpec], nn.Module],
        generator_optimizer: OptimizerCallable,
        discriminator_optimizer: OptimizerCallable,
        loss: AdversarialLoss | None = None,
        penalties: Sequence[Penalty] = (),
        critic_steps: int = 1,
        sampler: LatentSampler | None = None,
    ):
        super().__init__(spec)
        if critic_steps < 1:
            raise InputError(f"GAN: critic_steps must be at least 1, got {critic_steps}")
        self.generator = generator(self.spec)
        self.discriminator = discriminator(self.spec)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.loss = loss or NonSaturating()
        self.penalties = tuple(penalties)
        self.critic_steps = critic_steps
        self.sampler = sampler or LatentSampler()
        self.training_latents = LatentSampler()
        self.critic_steps_taken = 0

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            self.generator_optimizer(self.generator.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]

    def on_fit_start(self) -> None:
        if self.trainer.precision == "16-mixed":
            raise InputError(
                "GAN does not train with trainer.precision 16-mixed (losses underflow): use bf16-mixed or 32-true"
            )
        self.generator_parameters = [p for p in self.generator.parameters() if p.requires_grad]
        self.critic_parameters = [p for p in self.discriminator.parameters() if p.requires_grad]

    # --- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        generator_optimizer, critic_optimizer = self.optimizers(use_pl_optimizer=False)
        real = self.spec.to_unit(batch.levels, self.dtype)
        taken = self.critic_phase(real, batch.labels, critic_optimizer)
        if taken and self.critic_steps_taken % self.critic_steps == 0:
            taken = self.generator_phase(real, batch.labels, generator_optimizer)
        self.count_images(batch, skipped=not taken)

    def critic_phase(self, real: Tensor, labels: Tensor | None, optimizer: torch.optim.Optimizer) -> bool:
        """Take one critic step; return whether it was taken."""
        with torch.no_grad():
            fake = self.generator(self.noise(len(real), "critic"), labels)
        real_scores = self.discriminator(real, labels)
        fake_scores = self.discriminator(fake, labels)
        loss = self.loss.critic(real_scores.float(), fake_scores.float()).mean()
        self.track(loss_critic=loss, score_real=real_scores, score_fake=fake_scores)
        for penalty in self.penalties:
            if penalty.is_due(self.critic_steps_taken):
                term = penalty(self.discriminator, real, fake, labels).mean()
                self.track(**{type(penalty).__name__.lower(): term})
                loss = loss + term
        taken = self.descend("critic", loss, self.critic_parameters, optimizer)
        self.critic_steps_taken += taken
        return taken

    def generator_phase(self, real: Tensor, labels: Tensor | None, optimizer: torch.optim.Optimizer) -> bool:
        """Take one generator step; return whether it was taken. One that is not leaves the critic step before it."""
        fake_scores = self.discriminator(self.generator(self.noise(len(real), "generator"), labels), labels)
        real_scores = None
        if self.loss.generator_needs_real:
            with torch.no_grad():
                real_scores = self.discriminator(real, labels).float()
        loss = self.loss.generator(real_scores, fake_scores.float()).mean()
        self.track(loss_generator=loss)
        return self.descend("generator", loss, self.generator_parameters, optimizer)

    def noise(self, n: int, purpose: str) -> Tensor:
        """Return this rank's ``n`` rows of the global batch's latents."""
        _, world = self.ranks
        latents = self.training_latents(n * world, self.generator.latent_dim, self.random(purpose), self.device)
        return latents[self.own_rows(n)].to(self.dtype)

    def counters(self) -> dict[str, int]:
        return {"critic_steps_taken": self.critic_steps_taken}

    def load_counters(self, counters: dict[str, int]) -> None:
        self.critic_steps_taken = counters["critic_steps_taken"]

    # --- the protocol ---------------------------------------------------------------------------------------------

    @property
    def conditional(self) -> bool:
        return getattr(self.generator, "conditional", False)

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return the critic's scores (B,) of the batch and of as many samples: ``score_real``, ``score_fake``."""
        with evaluating(self):
            real = self.discriminator(self.spec.to_unit(batch.levels, self.dtype), batch.labels)
            fake = self.sample(len(batch.levels), batch.labels, generator=self.random("diagnostics"))
            return {
                "score_real": real,
                "score_fake": self.discriminator(self.spec.to_unit(fake, self.dtype), batch.labels),
            }

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        generator = generator or self.fresh_generator()
        latent = self.sampler(n, self.generator.latent_dim, generator, self.device)
        return self.decode(latent, labels)

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) to levels (B, C, H, W)."""
        with evaluating(self.generator):
            return self.spec.to_levels(self.generator(latent.to(self.dtype), labels))

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Any:
        """Map latents (B, latent_dim) to levels (B, C, H, W); the same as :meth:`decode`."""
        return self.decode(latent, labels)
