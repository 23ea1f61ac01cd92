"""Generative adversarial networks: one class; which GAN it is, is decided by what is injected."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_gen.data import Batch
from lightning_gen.draw import Draw
from lightning_gen.errors import InputError
from lightning_gen.models.base import GenerativeModule, evaluating
from lightning_gen.objectives import (
    AdversarialLoss,
    AuxiliaryClassifier,
    CriticAugmentation,
    CriticStep,
    GeneratorPenalty,
    GeneratorStep,
    NonSaturating,
    Penalty,
    check_double_backward,
)
from lightning_gen.objectives.precision import at_least_float32
from lightning_gen.samplers import LatentSampler
from lightning_gen.spec import ImageSpec

DIAGNOSED_AT_ONCE = 256  # images: memory must not grow with how many are asked for


class GAN(GenerativeModule):
    r"""Generative adversarial network, :math:`\min_G \max_D` of a pair of losses (Goodfellow et al. 2014).

    Which GAN it is, is decided by what is injected: ``loss``, ``penalties``, ``augmentation``, ``auxiliary`` and the
    networks. Each training step is one critic step, and on every ``critic_steps``-th of them also one generator step.
    Noise is drawn for the global batch. Class-conditional networks see the batch's own labels, with real and with
    generated images. What the critic sees of an augmented batch is made once: scores and penalties share it, and so do
    the i-th real and the i-th generated image, which losses of pairs compare.

    Args:
        spec: images, the data module's.
        generator: factory of a network (latent (B, latent_dim), labels) -> unit images (B, C, H, W) with an attribute
            ``latent_dim``.
        discriminator: factory of a network (unit images (B, C, H, W), labels) -> scores (B,).
        generator_optimizer: factory of the generator's optimizer.
        discriminator_optimizer: factory of the discriminator's optimizer; another learning rate than the generator's
            makes it two time-scales (Heusel et al. 2017).
        loss: adversarial loss; the non-saturating one if not given.
        penalties: terms added to the critic's loss when due.
        generator_penalties: terms added to the generator's loss when due.
        augmentation: random change of all images that the critic sees.
        auxiliary: losses of a classifier head on the discriminator, which must have ``scores_and_logits``.
        critic_steps: critic steps per generator step, at least 1.
        generator_clip: largest norm of the generator's gradient; longer ones are scaled down to it. None for no limit.
        discriminator_clip: the same of the discriminator's.
        sampler: draws the latents of :meth:`sample` (training always draws from N(0, I)).

    Raises:
        InputError: for numbers out of range, networks that do not fit the images or each other, and penalties that do
            not work with the networks.
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
        generator_penalties: Sequence[GeneratorPenalty] = (),
        augmentation: CriticAugmentation | None = None,
        auxiliary: AuxiliaryClassifier | None = None,
        critic_steps: int = 1,
        generator_clip: float | None = None,
        discriminator_clip: float | None = None,
        sampler: LatentSampler | None = None,
    ):
        super().__init__(spec)
        if critic_steps < 1:
            raise InputError(f"GAN: critic_steps must be at least 1, got {critic_steps}")
        for name, clip in {"generator_clip": generator_clip, "discriminator_clip": discriminator_clip}.items():
            if clip is not None and not clip > 0:
                raise InputError(f"GAN: {name} must be above 0, got {clip}")
        self.generator = generator(self.spec)
        self.discriminator = discriminator(self.spec)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.loss = loss or NonSaturating()
        # Copies: some keep running means, which belong to one model alone.
        self.penalties = nn.ModuleList(copy.deepcopy(list(penalties)))
        self.generator_penalties = nn.ModuleList(copy.deepcopy(list(generator_penalties)))
        self.augmentation = copy.deepcopy(augmentation)
        self.auxiliary = auxiliary
        self.critic_steps = critic_steps
        self.generator_clip = generator_clip
        self.discriminator_clip = discriminator_clip
        self.sampler = sampler or LatentSampler()
        self.training_latents = LatentSampler()
        self.critic_steps_taken = 0
        self.generator_steps_taken = 0
        self._penalty_names = names_of([*self.penalties, *self.generator_penalties])
        self._check_parts()

    def _check_parts(self) -> None:
        generator, critic = type(self.generator).__name__, type(self.discriminator).__name__
        if not isinstance(getattr(self.generator, "latent_dim", None), int):
            raise InputError(f"GAN: {generator} must say how long its latents are, in an attribute latent_dim")
        if self.auxiliary is not None:
            if not self.spec.num_classes:
                raise InputError("GAN: auxiliary needs labelled images, and these have no classes")
            if not hasattr(self.discriminator, "scores_and_logits"):
                raise InputError(
                    f"GAN: auxiliary needs a discriminator with a classifier head, and {critic} has none: "
                    "give it classifier: true, or take one that has"
                )
        judged = self.auxiliary is not None or getattr(self.discriminator, "conditional", False)
        if self.conditional and not judged:
            raise InputError(
                f"GAN: {generator} is class-conditional, but nothing teaches it its classes: make the discriminator "
                "conditional too, or give auxiliary"
            )
        of_samples = self.auxiliary is not None and (self.auxiliary.fake_weight or self.auxiliary.generator_weight)
        if not self.conditional and (of_samples or getattr(self.discriminator, "conditional", False)):
            raise InputError(
                f"GAN: {critic} judges classes of generated images, but {generator} draws them without: make the "
                "generator conditional"
            )
        if self.loss.compares_images and (self.auxiliary is not None or len(self.generator_penalties)):
            raise InputError(
                f"GAN: {type(self.loss).__name__} asks the critic nothing: leave auxiliary and generator_penalties out"
            )
        for owner in (self, *self.penalties):
            if getattr(owner, "augmentation", None) is not None:
                owner.augmentation.check(self.spec)
        for penalty in self.penalties:
            penalty.check(self.discriminator)
        for penalty in self.generator_penalties:
            penalty.check(self.generator)
        labels = torch.zeros(2, dtype=torch.int64) if self.spec.num_classes else None
        with evaluating(self):
            images = self.generator(torch.zeros(2, self.generator.latent_dim), labels)
            if images.shape != (2, *self.spec.shape):
                raise InputError(
                    f"GAN: {generator} makes images {tuple(images.shape[1:])}, the data's are {self.spec.shape}"
                )
            scores, logits = self.judge(images, labels)
            if scores.shape != (2,):
                raise InputError(f"GAN: {critic} must give one score per image, (2,), and gave {tuple(scores.shape)}")
            if logits is not None and logits.shape != (2, self.spec.num_classes):
                raise InputError(
                    f"GAN: {critic} must give one logit per class, (2, {self.spec.num_classes}), and gave "
                    f"{tuple(logits.shape)}"
                )
        if any(penalty.differentiates_twice for penalty in self.penalties):
            check_double_backward(self.discriminator, images, labels)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            self.generator_optimizer(self.generator.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]

    def on_fit_start(self) -> None:
        precision = str(self.trainer.precision)
        if precision in ("16-mixed", "16-true"):
            raise InputError(
                f"GAN does not train with trainer.precision {precision} (losses underflow): use bf16-mixed or 32-true"
            )
        twice = [type(p).__name__ for p in (*self.penalties, *self.generator_penalties) if p.differentiates_twice]
        if precision == "bf16-true" and twice:
            raise InputError(
                f"{twice[0]} needs weights in float32, which trainer.precision bf16-true has not: use bf16-mixed"
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
        real, fake = (self.seen_by_critic(images, "augment-critic") for images in (real, fake))
        (real_scores, real_logits), (fake_scores, fake_logits) = self.judge(real, labels), self.judge(fake, labels)
        compared = (real, fake) if self.loss.compares_images else (real_scores, fake_scores)
        loss = self.loss.critic(*compared).mean()
        self.track(loss_critic=loss, score_real=real_scores, score_fake=fake_scores)
        if self.auxiliary is not None:
            term = self.auxiliary.critic(real_logits, fake_logits, labels).mean()
            self.track(loss_classifier=term)
            loss = loss + term
        if due := [penalty for penalty in self.penalties if penalty.is_due(self.critic_steps_taken)]:
            draw = self.draw(len(real), "penalties")
            scores = real_scores, fake_scores
            step = CriticStep(self.discriminator, real, fake, labels, *scores, draw, self.mean_over_ranks)
            loss = self.penalised(loss, due, step)
        # The comparison of pixels does not involve the critic at all: there is nothing to descend, and it never learns.
        taken = not loss.requires_grad or self.descend(
            "critic", loss, self.critic_parameters, optimizer, self.discriminator_clip
        )
        self.critic_steps_taken += taken
        if taken and self.augmentation is not None:
            realness = self.loss.realness(real_scores, fake_scores).detach()
            self.augmentation.observe(realness, len(real) * self.ranks[1], self.mean_over_ranks)
            if (strength := self.augmentation.strength) is not None:
                self.track(augmentation_strength=torch.as_tensor(strength))
        return taken

    def generator_phase(self, real: Tensor, labels: Tensor | None, optimizer: torch.optim.Optimizer) -> bool:
        """Take one generator step; return whether it was taken. One that is not leaves the critic step before it."""
        latent = self.noise(len(real), "generator")
        fake = self.generator(latent, labels)
        if self.loss.compares_images:
            loss = self.loss.generator(real, fake).mean()
            self.track(loss_generator=loss)
        else:
            loss = self.adversarial_loss(real, fake, labels)
        if due := [penalty for penalty in self.generator_penalties if penalty.is_due(self.generator_steps_taken)]:
            draw = self.draw(len(real), "generator-penalties")
            step = GeneratorStep(self.generator, latent, labels, draw, self.mean_over_ranks)
            loss = self.penalised(loss, due, step)
        taken = self.descend("generator", loss, self.generator_parameters, optimizer, self.generator_clip)
        self.generator_steps_taken += taken
        return taken

    def penalised(
        self, loss: Tensor, due: Sequence[Penalty | GeneratorPenalty], step: CriticStep | GeneratorStep
    ) -> Tensor:
        """Return ``loss`` with the penalties that are due added; all of a step share its random numbers."""
        for penalty in due:
            term = penalty(step).mean()
            self.track(**{self._penalty_names[penalty]: term})
            loss = loss + term
        return loss

    def adversarial_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """Return the generator's loss, a scalar, from what the critic says of its images."""
        fake_scores, fake_logits = self.judge(self.seen_by_critic(fake, "augment-generator"), labels)
        real_scores = None
        if self.loss.generator_needs_real:
            with torch.no_grad():
                real_scores, _ = self.judge(self.seen_by_critic(real, "augment-generator"), labels)
        loss = self.loss.generator(real_scores, fake_scores).mean()
        self.track(loss_generator=loss)
        if self.auxiliary is not None:
            term = self.auxiliary.generator(fake_logits, labels).mean()
            self.track(loss_classifier_generator=term)
            loss = loss + term
        return loss

    def judge(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the critic's scores (B,) and, with ``auxiliary``, class logits (B, K), in full precision."""
        if self.auxiliary is None:
            return at_least_float32(self.discriminator(images, labels)), None
        scores, logits = self.discriminator.scores_and_logits(images, labels)
        return at_least_float32(scores), at_least_float32(logits)

    def seen_by_critic(self, images: Tensor, purpose: str) -> Tensor:
        """Return a batch as the critic is to see it; for one purpose, the i-th images share their augmentation."""
        if self.augmentation is None:
            return images
        return self.augmentation(images, self.draw(len(images), purpose))

    def draw(self, n: int, purpose: str) -> Draw:
        """Return this rank's ``n`` rows of the step's random numbers for ``purpose``."""
        return Draw(self.seed, self.images_seen, n, *self.ranks, self.device, purpose)

    def noise(self, n: int, purpose: str) -> Tensor:
        """Return this rank's ``n`` rows of the global batch's latents."""
        _, world = self.ranks
        latents = self.training_latents(n * world, self.generator.latent_dim, self.random(purpose), self.device)
        return latents[self.own_rows(n)].to(self.dtype)

    def counters(self) -> dict[str, int]:
        return {"critic_steps_taken": self.critic_steps_taken, "generator_steps_taken": self.generator_steps_taken}

    def load_counters(self, counters: dict[str, int]) -> None:
        self.critic_steps_taken = counters["critic_steps_taken"]
        # Only generator penalties count by it, and checkpoints from before there were any do not have it.
        self.generator_steps_taken = counters.get("generator_steps_taken", 0)

    # --- the protocol ---------------------------------------------------------------------------------------------

    @property
    def conditional(self) -> bool:
        return getattr(self.generator, "conditional", False)

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        r"""Return how critic and generator stand, on one batch and as many samples (with the batch's labels).

        ``score_real``, ``score_fake``: the critic's scores (B,). ``critic_accuracy``: the probability that a real image
        scores above a sample, :math:`P(D(x) > D(G(z)))` with ties counted half, 0.5 where the critic cannot tell them
        apart; it does not depend on a loss's offset or scale. ``diversity``: mean pixel distance between two samples
        over that between two images of the batch; near 0 where the generator ignores its latent. Of a class-conditional
        model only pairs of one class count: classes differ from each other however little the latent matters.
        """
        with evaluating(self):
            images = self.spec.to_unit(batch.levels, self.dtype)
            levels = self.sample(len(images), batch.labels, generator=self.random("diagnostics"))
            samples = self.spec.to_unit(levels, self.dtype)
            real, fake = self.scores(images, batch.labels), self.scores(samples, batch.labels)
            # Ties count half: a critic that gives one score to everything tells nothing apart.
            ordered = fake.sort().values
            below = (torch.searchsorted(ordered, real) + torch.searchsorted(ordered, real, right=True)) / 2
            figures = {"score_real": real, "score_fake": fake, "critic_accuracy": below.mean() / len(fake)}
            classes = batch.labels if self.conditional else torch.zeros(len(images), device=self.device)
            if len(classes) > len(classes.unique()):
                figures["diversity"] = spread(samples, classes) / spread(images, classes).clamp(min=1e-12)
            return figures

    def scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the critic's scores (B,) of any number of images, some hundred at a time."""
        chunks = images.split(DIAGNOSED_AT_ONCE)
        of_chunks = [None] * len(chunks) if labels is None else labels.split(DIAGNOSED_AT_ONCE)
        return torch.cat([self.judge(*chunk)[0] for chunk in zip(chunks, of_chunks, strict=True)])

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        generator = generator or self.fresh_generator()
        latent = self.draw_latents(n, generator)
        if labels is None and self.conditional:
            labels = torch.randint(self.spec.num_classes, (n,), generator=generator, device=self.device)
        return self.decode(latent, labels)

    def draw_latents(self, n: int, generator: torch.Generator) -> Tensor:
        """Return latents (n, latent_dim) as :meth:`sample` draws them."""
        return self.sampler(n, self.generator.latent_dim, generator, self.device)

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) to levels (B, C, H, W).

        Raises:
            InputError: for a class that the model does not have, or ``sampler.psi`` without styles.
        """
        if self.conditional and labels is not None:
            labels = self.check_labels(labels, len(latent))
        options = self.truncated_styles()
        with evaluating(self.generator):
            return self.spec.to_levels(self.generator(latent.to(self.dtype), labels, **options))

    def truncated_styles(self) -> dict[str, float]:
        """Return what the sampler asks of the generator beside latents: ``psi``, unless that is 1.

        Raises:
            InputError: for a generator without styles to truncate.
        """
        psi = getattr(self.sampler, "psi", 1.0)
        if psi == 1:
            return {}
        if not callable(getattr(self.generator, "styles", None)):
            raise InputError(
                f"sampler.psi truncates styles, and {type(self.generator).__name__} has none: "
                "give sampler.truncation or sampler.temperature"
            )
        return {"psi": psi}

    def normal_latents(self) -> int:
        """Return how many numbers a latent has.

        Raises:
            InputError: where the sampler's are not standard normal, or it truncates styles: only of standard normal
                latents, which training draws, is the density known.
        """
        sampler = self.sampler
        name = type(sampler).__name__
        if type(sampler) is not LatentSampler:
            raise InputError(f"GAN: latents of a {name} are not known to be standard normal: give a LatentSampler")
        for option, plain in {"temperature": 1, "truncation": None, "psi": 1}.items():
            if (value := getattr(sampler, option)) != plain:
                off = "null" if plain is None else plain
                raise InputError(
                    f"GAN: with sampler.{option} {value} samples are not of standard normal latents: give "
                    f"--sampler.{option} {off}"
                )
        return self.generator.latent_dim

    def pixel_mean(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) to unit images (B, C, H, W), differentiably and not rounded to levels."""
        if self.conditional and labels is not None:
            labels = self.check_labels(labels, len(latent))
        return self.generator(latent.to(self.dtype), labels)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Any:
        """Map latents (B, latent_dim) to levels (B, C, H, W); the same as :meth:`decode`."""
        return self.decode(latent, labels)


def names_of(penalties: Sequence[nn.Module]) -> dict[nn.Module, str]:
    """Return what each is called in logs: its class in small letters, from the second of a class on with a number."""
    names: dict[nn.Module, str] = {}
    for penalty in penalties:
        name = type(penalty).__name__.lower()
        same = sum(type(other) is type(penalty) for other in names)
        names[penalty] = f"{name}_{same + 1}" if same else name
    return names


def spread(images: Tensor, classes: Tensor) -> Tensor:
    """Return the mean Euclidean distance between two different images (B, C, H, W) of one class (B,), a scalar."""
    rows = images.flatten(1).float()
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return distances[(classes[:, None] == classes).triu(1)].mean()
