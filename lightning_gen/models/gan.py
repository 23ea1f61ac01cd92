"""Generative adversarial networks, composed of networks, loss, penalties and augmentation."""

import copy
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_gen.core import (
    Figure,
    ImageSpec,
    check_above,
    check_at_least,
    check_output,
    evaluating,
    heeded_labels,
    keyed_generator,
    normal,
    refuse_precision,
)
from lightning_gen.data import Batch
from lightning_gen.metrics.adversarial import figures_of_scores
from lightning_gen.models.base import GenerativeModule
from lightning_gen.networks.conditional import check_pair, latent_dim_of
from lightning_gen.objectives.adversarial import AdversarialLoss, CriticTerms, GeneratorTerms, NonSaturating
from lightning_gen.objectives.augmentation import CriticAugmentation, augmenter
from lightning_gen.objectives.auxiliary import AuxiliaryClassifier
from lightning_gen.objectives.penalties import GeneratorPenalty, Penalties, Penalty, check_double_backward
from lightning_gen.samplers import LatentSampler
from lightning_gen.steps.manual import descend


class GAN(GenerativeModule):
    r"""Generative adversarial network: alternating :math:`\min_D L_D`, :math:`\min_G L_G` (Goodfellow et al. 2014).

    The ``loss``, ``penalties``, ``augmentation``, ``auxiliary`` classifier and networks are injected. Each training
    step is one critic step; every ``critic_steps``-th is followed by one generator step. Latents are drawn for the
    global batch. Class-conditional networks use the batch's labels, for real and generated images alike. Methods and
    logged figures call the discriminator the critic.

    Args:
        spec: image format, given by the data module.
        generator: factory of a network (latent (B, latent_dim), labels) -> unit images (B, C, H, W) with an attribute
            ``latent_dim``.
        discriminator: factory of a network (unit images (B, C, H, W), labels) -> scores (B,).
        generator_optimizer: factory of the generator's optimizer.
        discriminator_optimizer: factory of the discriminator's optimizer; with another learning rate this is the
            two time-scale update rule (Heusel et al. 2017).
        loss: adversarial loss; the non-saturating one if not given.
        penalties: regularisers of the critic, each added to its loss at its own interval.
        generator_penalties: regularisers of the generator, likewise.
        augmentation: random augmentation of all images that the critic sees.
        auxiliary: losses of a classifier head on the discriminator, which must have ``scores_and_logits``.
        critic_steps: critic steps per generator step, at least 1.
        generator_clip, discriminator_clip: largest gradient norm of each network; larger gradients are scaled down.
        sampler: draws the latents of :meth:`sample` (training always draws from N(0, I)).

    Raises:
        InputError: for numbers out of range, and networks or penalties that do not fit the images or each other.
    """

    automatic_optimization = False
    counters = ("critic_steps_taken", "generator_steps_taken")
    figures = (
        *GenerativeModule.figures,
        Figure("loss_critic", "what the critic minimises, without penalties"),
        Figure("loss_generator", "what the generator minimises, without penalties"),
        Figure("loss_classifier", "what the classifier head adds to the critic's loss"),
        Figure("loss_classifier_generator", "what the classifier head adds to the generator's loss"),
        Figure("augmentation_strength", "probability with which the adaptive augmentation is applied"),
        Figure("score_real", "the critic's score of real images"),
        Figure("score_fake", "the critic's score of samples"),
        Figure("critic_accuracy", "probability that the critic ranks a real image above a sample"),
        Figure("diversity", "mean distance of two samples' pixels over that of two real images'"),
    )

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
        super().__init__(spec, sampler or LatentSampler())
        self.generator = generator(self.spec)
        self.discriminator = discriminator(self.spec)
        self.latent_shape = (latent_dim_of(self, self.generator),)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.loss = loss or NonSaturating()
        self.penalties = Penalties(penalties)
        self.generator_penalties = Penalties(generator_penalties, named=penalties)
        self.augmentation = copy.deepcopy(augmentation)  # it has state, which models must not share
        self.auxiliary = auxiliary
        self.critic_steps = critic_steps
        self.generator_clip = generator_clip
        self.discriminator_clip = discriminator_clip
        self.critic_steps_taken = 0
        self.generator_steps_taken = 0
        self.check_parts()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        real, labels = self.spec.to_unit(batch.levels, self.dtype), batch.labels
        taken = self.critic_phase(real, labels)
        if taken and self.critic_steps_taken % self.critic_steps == 0:
            taken = self.generator_phase(real, labels)
        self.count_images(batch, taken)

    def critic_phase(self, real: Tensor, labels: Tensor | None) -> bool:
        """Take one critic step; return whether it was taken."""
        with torch.no_grad():
            fake = self.generator(self.training_latents("critic", len(real)), labels)
        see = augmenter(self.augmentation, self.context, "augment-critic")
        terms = CriticTerms(self.discriminator, real, fake, labels, see, self.auxiliary is not None)
        self.track(score_real=terms.real, score_fake=terms.fake)
        losses = {"loss_critic": self.loss.critic(terms).mean()}
        if self.auxiliary is not None:
            losses["loss_classifier"] = self.auxiliary.critic(terms).mean()
        losses |= self.penalties.due(terms, self.context, self.critic_steps_taken)
        taken = descend(self, "critic", losses, self.optimizers(False)[1], self.discriminator_clip)
        self.critic_steps_taken += taken
        if taken and self.augmentation is not None:
            self.track(**self.augmentation.observe(self.loss.realness(terms).detach(), self.ranks))
        return taken

    def generator_phase(self, real: Tensor, labels: Tensor | None) -> bool:
        """Take one generator step; return whether it was taken. If not, the critic step before it is kept."""
        latent = self.training_latents("generator", len(real))
        fake = self.generator(latent, labels)
        see = augmenter(self.augmentation, self.context, "augment-generator")
        seen = self.discriminator, real, fake, labels, see, self.auxiliary is not None
        terms = GeneratorTerms(self.generator, latent, *seen)
        losses = {"loss_generator": self.loss.generator(terms).mean()}
        if self.auxiliary is not None:
            losses["loss_classifier_generator"] = self.auxiliary.generator(terms).mean()
        losses |= self.generator_penalties.due(terms, self.context, self.generator_steps_taken)
        taken = descend(self, "generator", losses, self.optimizers(False)[0], self.generator_clip)
        self.generator_steps_taken += taken
        return taken

    def training_latents(self, purpose: str, n: int) -> Tensor:
        """Return this rank's latents (n, latent_dim) of the global batch, from N(0, I)."""
        return self.context.normal(purpose, n, *self.latent_shape).to(self.dtype)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        parts = self.generator.parameters(), self.discriminator.parameters()
        return [self.generator_optimizer(parts[0]), self.discriminator_optimizer(parts[1])]

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}

    latents = "normal"

    @property
    def conditional(self) -> bool:
        return getattr(self.generator, "conditional", False)

    def draw_latents(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        return normal(n, *self.latent_shape, generator=generator, device=self.device)

    def decode(self, latent: Tensor, labels: Tensor | None = None, **options: float) -> Tensor:
        """Map latents (B, latent_dim) to levels (B, C, H, W); options such as ``psi`` are passed to the generator."""
        with evaluating(self.generator):
            return self.spec.to_levels(self.unit_images(latent, labels, **options))

    def unit_images(self, latent: Tensor, labels: Tensor | None = None, **options: float) -> Tensor:
        """Map latents (B, latent_dim) to unit images (B, C, H, W): differentiable, not rounded to levels."""
        return self.generator(latent.to(self.dtype), heeded_labels(self, labels, len(latent)), **options)

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return :func:`figures_of_scores` of a batch and as many samples with its labels."""
        generator = keyed_generator(self.seed, "diagnostics", self.images_seen)
        levels, labels, n = batch.levels, batch.labels, len(batch.levels)
        with evaluating(self):
            samples = self.sample(n, labels, generator=generator)
            images, samples = (self.spec.to_unit(each, self.dtype) for each in (levels, samples))
            classes = labels if self.conditional else torch.zeros(n, device=self.device)
            return figures_of_scores(self.discriminator, images, samples, labels, classes)

    def check_parts(self) -> None:
        """Raise InputError for numbers out of range, and parts that do not fit the images or each other."""
        check_at_least(self, 1, critic_steps=self.critic_steps)
        check_above(self, 0, generator_clip=self.generator_clip, discriminator_clip=self.discriminator_clip)
        check_pair(self, self.generator, self.discriminator, self.auxiliary is not None)
        if self.auxiliary is not None:
            self.auxiliary.check(self.spec, self.discriminator, self.conditional)
        if self.augmentation is not None:
            self.augmentation.check(self.spec)
        self.penalties.check(self.discriminator, self.spec)
        self.generator_penalties.check(self.generator, self.spec)
        labels = torch.zeros(2, dtype=torch.int64) if self.spec.num_classes else None
        latent = torch.zeros(2, *self.latent_shape)
        images = check_output(self, self.generator, latent, labels, shape=self.spec.shape, meaning="images")
        check_output(self, self.discriminator, images, labels, shape=(), meaning="one score for each image")
        if self.penalties.differentiates_twice:
            check_double_backward(self.discriminator, images, labels)

    def on_fit_start(self) -> None:
        refuse_precision(self, ("16-mixed", "16-true"), "losses underflow: use bf16-mixed or 32-true")
        if self.penalties.differentiates_twice or self.generator_penalties.differentiates_twice:
            refuse_precision(self, ("bf16-true",), "gradient penalties need weights in float32: use bf16-mixed")
