"""Penalties on the critic and on the generator: lazy, scaled, and gradients always in float32."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from lightning_gen.draw import Draw
from lightning_gen.errors import InputError
from lightning_gen.objectives.augmentation import CriticAugmentation, DiffAugment
from lightning_gen.objectives.precision import at_least_float32


class CriticStep(NamedTuple):
    """What a penalty on the critic may look at: one critic step, on one rank."""

    critic: nn.Module
    """(unit images (B, C, H, W), labels) -> scores (B,)."""
    real: Tensor
    """Real unit images (B, C, H, W) as the critic saw them, augmented."""
    fake: Tensor
    """Generated unit images (B, C, H, W) as the critic saw them, detached from the generator."""
    labels: Tensor | None
    """Classes (B,) of both."""
    real_scores: Tensor
    """Scores (B,) of ``real``, float32, attached to the critic's graph."""
    fake_scores: Tensor
    """Scores (B,) of ``fake``, float32, attached to the critic's graph."""
    draw: Draw
    """This step's chance."""
    mean: Callable[[Tensor], Tensor]
    """Average of a detached tensor over ranks; every rank must call it equally often."""

    @property
    def network(self) -> nn.Module:
        """The network that is penalised."""
        return self.critic


class GeneratorStep(NamedTuple):
    """What a penalty on the generator may look at: one generator step, on one rank."""

    generator: nn.Module
    """(latent (B, latent_dim), labels) -> unit images (B, C, H, W)."""
    latent: Tensor
    """Latents (B, latent_dim)."""
    labels: Tensor | None
    """Classes (B,)."""
    draw: Draw
    """This step's chance."""
    mean: Callable[[Tensor], Tensor]
    """Average of a detached tensor over ranks; every rank must call it equally often."""

    @property
    def network(self) -> nn.Module:
        """The network that is penalised."""
        return self.generator


class LazyPenalty(nn.Module, ABC):
    r"""A term of a loss that is due on every k-th step and then multiplied by k.

    So its expected weight does not depend on k ("lazy regularisation", Karras et al. 2020). What a penalty remembers
    is in buffers, which are only ever changed in place.

    Args:
        weight: factor of the penalty, at least 0.
        every: k, at least 1, in steps of the penalised network.

    Raises:
        InputError: for values outside these ranges.
    """

    differentiates_twice = False
    """Whether it contains a gradient of the network, which the optimizer's step then differentiates once more."""

    def __init__(self, weight: float = 1.0, every: int = 1):
        super().__init__()
        self.refuse(not 0 <= weight < math.inf, f"weight must be at least 0, got {weight}")  # nan, too
        whole = isinstance(every, int) and not isinstance(every, bool)
        self.refuse(not whole or every < 1, f"every must be a whole number of steps, at least 1, got {every!r}")
        self.weight = weight
        self.every = every

    def refuse(self, condition: bool, reason: str) -> None:
        """Raise InputError with the penalty's name and ``reason`` where ``condition`` holds."""
        if condition:
            raise InputError(f"{type(self).__name__}: {reason}")

    def is_due(self, step: int) -> bool:
        """Whether the step of this number (from 0) of the penalised network carries the penalty."""
        return step % self.every == 0

    def forward(self, step: CriticStep | GeneratorStep) -> Tensor:
        """Return ``every * weight * value``, per sample (B,) or a scalar ()."""
        return self.every * self.weight * self.value(step)

    @abstractmethod
    def value(self, step: CriticStep | GeneratorStep) -> Tensor:
        """Return the unweighted penalty, per sample (B,) or, where it is not about samples, a scalar ()."""

    def check(self, network: nn.Module) -> None:
        """Raise InputError if this cannot work with that network."""


class Penalty(LazyPenalty):
    """A term of the critic's loss; :meth:`value` gets a :class:`CriticStep`.

    Gradient penalties take the gradient of the sum of the scores with respect to each image, which is each image's own
    only where a score depends on its own image alone. Batch norm in the critic breaks that; it is not refused.
    """


class GeneratorPenalty(LazyPenalty):
    """A term of the generator's loss; :meth:`value` gets a :class:`GeneratorStep`."""


def image_gradient(critic: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    r"""Return :math:`\nabla_x D(x)` of each image, flat (B, C·H·W), differentiable, in float32 whatever the autocast.

    In bfloat16 the double backward would be several per cent off. float64 stays float64.
    """
    with torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        images = at_least_float32(images.detach()).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
    return gradient.flatten(1)


def norm(rows: Tensor) -> Tensor:
    """Return the Euclidean norm (B,) of rows (B, N); its derivative at 0 is 0, not nan."""
    return torch.linalg.vector_norm(rows, dim=1)


def check_double_backward(critic: nn.Module, images: Tensor, labels: Tensor | None) -> None:
    """Try a gradient penalty and its gradient on a copy of the critic in evaluation mode.

    The critic itself and the global randomness stay untouched.

    Args:
        critic: (unit images (B, C, H, W), labels) -> scores (B,).
        images: a few images, of any content.
        labels: their classes (B,), or None.

    Raises:
        InputError: naming the critic's class, where its operations cannot be differentiated twice.
    """
    trial = copy.deepcopy(critic).eval()
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        images = at_least_float32(images.detach()).requires_grad_()
        scores = trial(images, labels)  # what fails here is no matter of differentiation
        try:
            (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
            if any(weight.requires_grad for weight in trial.parameters()):
                # Not autograd.grad, which leaves out what no weight is reached through, errors among them.
                gradient.square().sum().backward()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{type(critic).__name__} cannot be differentiated twice, which gradient penalties need: replace the "
                f"operation, or use penalties without gradients ({reason})"
            ) from error


class R1(Penalty):
    r"""Zero-centred gradient penalty on real images, :math:`\tfrac12 \|\nabla_x D(x)\|^2` (Mescheder et al. 2018)."""

    differentiates_twice = True

    def value(self, step: CriticStep) -> Tensor:
        return image_gradient(step.critic, step.real, step.labels).square().sum(1) / 2


class R2(Penalty):
    r"""Zero-centred gradient penalty on samples, :math:`\tfrac12 \|\nabla_x D(G(z))\|^2` (Mescheder et al. 2018)."""

    differentiates_twice = True

    def value(self, step: CriticStep) -> Tensor:
        return image_gradient(step.critic, step.fake, step.labels).square().sum(1) / 2


class WGANGP(Penalty):
    r"""Gradient penalty between real images and samples (Gulrajani et al. 2017).

    .. math::
        (\|\nabla_{\hat x} D(\hat x)\| - t)^2, \qquad \hat x = u \, x + (1 - u) \, G(z), \quad u \sim U[0, 1)

    with one u per pair of images.

    Args:
        weight: factor of the penalty.
        every: critic steps from one to the next.
        target: t, the norm aimed at, at least 0.

    Raises:
        InputError: for values outside these ranges.
    """

    differentiates_twice = True

    def __init__(self, weight: float = 10.0, every: int = 1, target: float = 1.0):
        super().__init__(weight, every)
        self.refuse(not 0 <= target < math.inf, f"target must be at least 0, got {target}")
        self.target = target

    def value(self, step: CriticStep) -> Tensor:
        real, fake = at_least_float32(step.real), at_least_float32(step.fake)
        share = step.draw.uniform(1).to(real.dtype).view(-1, 1, 1, 1)
        between = share * real + (1 - share) * fake
        return (norm(image_gradient(step.critic, between, step.labels)) - self.target).square()


class DRAGAN(Penalty):
    r"""Gradient penalty around real images (Kodali et al. 2017).

    .. math::
        (\|\nabla_x D(x + \delta)\| - t)^2, \qquad \delta \sim \mathcal N(0, s^2 I)

    This is the form of the paper's equation, with Gaussian noise of fixed scale. Code in circulation adds uniform noise
    instead, of up to half the standard deviation of the batch's pixels, on one side of x; the result would then depend
    on how ranks cut the batch.

    Args:
        weight: factor of the penalty.
        every: critic steps from one to the next.
        target: t, the norm aimed at, at least 0.
        std: s, standard deviation of the noise in unit values (images span 2), above 0.

    Raises:
        InputError: for values outside these ranges.
    """

    differentiates_twice = True

    def __init__(self, weight: float = 10.0, every: int = 1, target: float = 1.0, std: float = 0.2):
        super().__init__(weight, every)
        self.refuse(not 0 <= target < math.inf, f"target must be at least 0, got {target}")
        self.refuse(not 0 < std < math.inf, f"std must be above 0, got {std}")
        self.target = target
        self.std = std

    def value(self, step: CriticStep) -> Tensor:
        real = at_least_float32(step.real)
        noise = step.draw.normal(real[0].numel()).to(real.dtype).view_as(real)
        around = real + self.std * noise
        return (norm(image_gradient(step.critic, around, step.labels)) - self.target).square()


class LeCam(Penalty):
    r"""Penalty on scores far from where those of the other side used to be, against overfitting (Tseng et al. 2021).

    .. math::
        (D(x) - \alpha_F)^2 + (D(G(z)) - \alpha_R)^2, \qquad
        \alpha \leftarrow \gamma \alpha + (1 - \gamma) \overline{D}

    :math:`\alpha_R` and :math:`\alpha_F` are moving averages of the mean scores of real and of generated images over
    all ranks, bias-corrected (so at the first step they are its means), and moved before they are used. The authors'
    code clips both differences, :math:`D(x) - \alpha_F` and :math:`\alpha_R - D(G(z))`, at 0; the paper's equation,
    which this is, does not.

    Args:
        weight: factor of the penalty; what suits it depends on the scale of the scores.
        every: critic steps from one to the next; anchors move at these steps only.
        decay: :math:`\gamma`, at least 0 and below 1.

    Raises:
        InputError: for values outside these ranges.
    """

    def __init__(self, weight: float = 0.1, every: int = 1, decay: float = 0.99):
        super().__init__(weight, every)
        self.refuse(not 0 <= decay < 1, f"decay must be at least 0 and below 1, got {decay}")
        self.decay = decay
        # Averages, from 0, of the mean real score, the mean fake score, and 1 (which the others are divided by).
        self.register_buffer("averages", torch.zeros(3))

    def value(self, step: CriticStep) -> Tensor:
        means = torch.stack([step.real_scores.detach().mean(), step.fake_scores.detach().mean()])
        means = step.mean(means).to(self.averages.dtype)
        self.averages.lerp_(torch.cat([means, means.new_ones(1)]), 1 - self.decay)
        real_anchor, fake_anchor = (self.averages[:2] / self.averages[2]).to(step.real_scores.dtype)
        return (step.real_scores - fake_anchor).square() + (step.fake_scores - real_anchor).square()


class Consistency(Penalty):
    r"""Penalty on scores that an augmentation T changes (CR-GAN, Zhang et al. 2020; bCR, Zhao et al. 2021).

    .. math:: (D(x) - D(T(x)))^2 + w_f \, (D(G(z)) - D(T(G(z))))^2

    with w_f = 0 in CR-GAN and 1 in balanced consistency regularisation (bCR). T should keep an image as real as it
    was: a small translation suits digits, which a flip does not.

    Args:
        weight: factor of the penalty.
        every: critic steps from one to the next.
        augmentation: T; None is a translation of up to 1/8 of the side, uncovered pixels being -1.
        fake_weight: w_f, at least 0.

    Raises:
        InputError: for values outside these ranges.
    """

    def __init__(
        self,
        weight: float = 10.0,
        every: int = 1,
        augmentation: CriticAugmentation | None = None,
        fake_weight: float = 0.0,
    ):
        super().__init__(weight, every)
        self.refuse(not 0 <= fake_weight < math.inf, f"fake_weight must be at least 0, got {fake_weight}")
        self.augmentation = augmentation or DiffAugment(policy=("translation",), fill=-1.0)
        self.fake_weight = fake_weight

    def value(self, step: CriticStep) -> Tensor:
        value = self.change(step, step.real, step.real_scores)
        if self.fake_weight:
            value = value + self.fake_weight * self.change(step, step.fake, step.fake_scores)
        return value

    def change(self, step: CriticStep, images: Tensor, scores: Tensor) -> Tensor:
        """Return the squared change (B,) of the ``scores`` of ``images``."""
        return (scores - step.critic(self.augmentation(images, step.draw), step.labels).to(scores.dtype)).square()


class OrthogonalRegularisation(Penalty, GeneratorPenalty):
    r"""Penalty on filters that are not orthogonal to each other (Brock et al. 2019), for the critic or the generator.

    .. math:: \sum_W \| W W^\top \odot (1 - I) \|_F^2

    over all trainable weights W of two dimensions or more, each with one row per output (the paper writes outputs as
    columns). Norms of rows are free. Embeddings are left out: their rows are looked up, not multiplied. The value is a
    scalar; the paper's weight is 1e-4.

    Args:
        weight: factor of the penalty.
        every: steps of the network from one to the next.

    Raises:
        InputError: for values outside these ranges.
    """

    def __init__(self, weight: float = 1e-4, every: int = 1):
        super().__init__(weight, every)

    def check(self, network: nn.Module) -> None:
        """Raise InputError for a network without such weights."""
        self.refuse(not weight_matrices(network), f"{type(network).__name__} has no weight matrices to make orthogonal")

    def value(self, step: CriticStep | GeneratorStep) -> Tensor:
        matrices = weight_matrices(step.network)
        with torch.autocast(matrices[0].device.type, enabled=False):
            grams = [at_least_float32(matrix) @ at_least_float32(matrix).T for matrix in matrices]
            return torch.stack([(gram - gram.diagonal().diag()).square().sum() for gram in grams]).sum()


def weight_matrices(network: nn.Module) -> list[Tensor]:
    """Return the trainable weights of several outputs and inputs as matrices (outputs, inputs), each once."""
    found: dict[int, Tensor] = {}
    for part in network.modules():
        if isinstance(part, nn.Embedding | ParametrizationList):  # the latter belong to the part that owns them
            continue
        weights = list(part.parameters(recurse=False))
        if is_parametrized(part):  # spectral norm and the like: what is trained are the raw weights
            weights += [w for originals in part.parametrizations.values() for w in originals.parameters(recurse=False)]
        scaled = getattr(part, "applied_weight", None)  # of layers of equalised learning rate
        for weight in weights:
            rows = scaled() if callable(scaled) and weight is part.weight else weight
            if isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) and weight.ndim > 2:
                rows = weight.transpose(0, 1)
            # Rows of one number cannot be orthogonal: gains, such as weight norm's, are no filters.
            if weight.requires_grad and weight.ndim > 1 and len(rows) > 1 and rows[0].numel() > 1:
                found[id(weight)] = rows.flatten(1)
    return list(found.values())


class PathLength(GeneratorPenalty):
    r"""Path length regularisation: equal steps of style should change images equally (StyleGAN2, Karras et al. 2020).

    .. math::
        (\ell - a)^2, \qquad
        \ell = \sqrt{\tfrac1L \sum_{l=1}^L \| J_{w_l}^\top y \|^2}, \quad
        y \sim \mathcal N(0, \tfrac{1}{HW} I), \qquad
        a \leftarrow (1 - d) \, a + d \, \overline{\ell}

    where :math:`J_{w_l}` is the Jacobian of the image with respect to the style of layer l. The running mean a, over
    all ranks, starts at 0 and moves before it is used.

    The generator needs three methods: ``split(latent) -> (z, noise)``, ``styles(z, labels) -> w`` (B, L, W), one style
    for each layer, and ``synthesise(w, noise) -> images``.

    Args:
        weight: factor of the penalty.
        every: generator steps from one to the next.
        decay: d, share of the newest mean in a, above 0 and at most 1.

    Raises:
        InputError: for values outside these ranges.
    """

    differentiates_twice = True

    def __init__(self, weight: float = 2.0, every: int = 4, decay: float = 0.01):
        super().__init__(weight, every)
        self.refuse(not 0 < decay <= 1, f"decay must be above 0 and at most 1, got {decay}")
        self.decay = decay
        self.register_buffer("average", torch.zeros(()))

    def check(self, generator: nn.Module) -> None:
        """Raise InputError for a generator without styles."""
        missing = [name for name in ("split", "styles", "synthesise") if not callable(getattr(generator, name, None))]
        self.refuse(
            bool(missing),
            f"{type(generator).__name__} has no method {' or '.join(missing)}: it needs a generator with styles, "
            "such as StyleGAN2Generator",
        )

    def value(self, step: GeneratorStep) -> Tensor:
        latent = at_least_float32(step.latent.detach())
        with torch.autocast(latent.device.type, enabled=False), torch.enable_grad():
            z, noise = step.generator.split(latent)
            styles = step.generator.styles(z, step.labels)
            images = step.generator.synthesise(styles, noise)
            direction = step.draw.normal(images[0].numel()).to(images.dtype).view_as(images)
            direction = direction / math.sqrt(images.shape[2] * images.shape[3])
            (gradient,) = torch.autograd.grad((images * direction).sum(), styles, create_graph=True)
            lengths = norm(gradient.flatten(1)) / math.sqrt(styles.shape[1])
        self.average.lerp_(step.mean(lengths.detach().mean()).to(self.average.dtype), self.decay)
        return (lengths - self.average.to(lengths.dtype)).square()
