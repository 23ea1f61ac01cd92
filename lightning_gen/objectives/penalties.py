"""Regularisation terms of critic and generator."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from lightning_gen.core import (
    Draws,
    ImageSpec,
    InputError,
    TrainingContext,
    at_least_float32,
    check_above,
    check_at_least,
    check_positive,
    check_within,
)
from lightning_gen.networks import HasStyles
from lightning_gen.objectives.adversarial import CriticTerms, GeneratorTerms
from lightning_gen.objectives.augmentation import CriticAugmentation, DiffAugment


class LazyPenalty(nn.Module, ABC):
    r"""A term of a loss that is added on every k-th step, multiplied by k.

    So its mean weight does not depend on k ("lazy regularisation", Karras et al. 2020). Gradients of penalties are
    computed in float32. All state is in buffers, which are only modified in place.

    Args:
        weight: factor of the penalty, at least 0.
        every: k, at least 1, in steps of the penalised network.

    Raises:
        InputError: for values outside these ranges.
    """

    differentiates_twice = False
    """Whether it contains a gradient of the network, so that training needs a double backward pass."""

    def __init__(self, weight: float = 1.0, every: int = 1):
        super().__init__()
        check_at_least(self, 0, weight=weight)
        check_positive(self, every=every)
        self.weight = weight
        self.every = every

    def is_due(self, step: int) -> bool:
        """Whether the penalty is added at this step (counted from 0) of the penalised network."""
        return step % self.every == 0

    def forward(self, terms: CriticTerms, context: TrainingContext) -> Tensor:
        """Return ``every * weight * value``, per sample (B,) or a scalar ()."""
        return self.every * self.weight * self.value(terms, context)

    @abstractmethod
    def value(self, terms: Any, context: TrainingContext) -> Tensor:
        """Return the unweighted penalty, per sample (B,) or, if it does not depend on samples, a scalar ().

        Args:
            terms: terms of this step, see :class:`CriticTerms`.
            context: training progress, random numbers and ranks.
        """

    def draws(self, context: TrainingContext, n: int) -> Draws:
        """Return this penalty's random numbers of the step, for ``n`` images."""
        return context.draws(f"penalties/{type(self).__name__}", n)

    def check(self, network: nn.Module, spec: ImageSpec) -> None:
        """Raise InputError if the penalty cannot be applied to this network and these images."""


class Penalty(LazyPenalty):
    """A term of the critic's loss.

    Gradient penalties differentiate the sum of the scores with respect to each image, which assumes that a score
    depends on its own image only. Batch norm in the critic violates this, but is not refused.
    """


class GeneratorPenalty(LazyPenalty):
    """A term of the generator's loss; its terms are :class:`GeneratorTerms`."""


class Penalties(nn.ModuleList):
    """The penalties of one network.

    Args:
        penalties: the penalties; copied, since some have state, which models must not share.
        named: penalties of the same model whose names are already in use. A name is the class name in lower case, with
            a number from the second of a class on.
    """

    def __init__(self, penalties: Sequence[LazyPenalty] = (), named: Sequence[LazyPenalty] = ()):
        super().__init__(copy.deepcopy(list(penalties)))
        kinds = [type(each).__name__.lower() for each in (*named, *penalties)]
        counts = [kinds[: i + 1].count(kind) for i, kind in enumerate(kinds)]
        names = [kind if count == 1 else f"{kind}_{count}" for kind, count in zip(kinds, counts, strict=True)]
        self.names = names[len(named) :]

    def due(self, terms: CriticTerms, context: TrainingContext, step: int) -> dict[str, Tensor]:
        """Return the terms of the loss that are due at this step (counted from 0): scalars by name."""
        pairs = zip(self.names, self, strict=True)
        return {name: penalty(terms, context).mean() for name, penalty in pairs if penalty.is_due(step)}

    @property
    def differentiates_twice(self) -> bool:
        """Whether any of them contains a gradient."""
        return any(penalty.differentiates_twice for penalty in self)

    def check(self, network: nn.Module, spec: ImageSpec) -> None:
        """Raise InputError if one of them cannot be applied to this network and these images."""
        for penalty in self:
            penalty.check(network, spec)


def image_gradient(critic: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    r"""Return :math:`\nabla_x D(x)` of each image, (B, C·H·W), differentiable, at least in float32 despite autocast.

    In bfloat16 the error of the double backward pass would be several per cent.
    """
    with torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        images = at_least_float32(images.detach()).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
    return gradient.flatten(1)


def norm(rows: Tensor) -> Tensor:
    """Return the Euclidean norm (B,) of rows (B, N); its derivative at 0 is 0, not nan."""
    return torch.linalg.vector_norm(rows, dim=1)


def check_double_backward(critic: nn.Module, images: Tensor, labels: Tensor | None) -> None:
    """Run a gradient penalty and its gradient on a copy of the critic in evaluation mode.

    The critic and the global random state are not changed.

    Args:
        critic: (unit images (B, C, H, W), labels) -> scores (B,).
        images: a few images, of any content.
        labels: their classes (B,), or None.

    Raises:
        InputError: for a critic that cannot be differentiated twice; the message names its class.
    """
    trial = copy.deepcopy(critic).eval()
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        images = at_least_float32(images.detach()).requires_grad_()
        scores = trial(images, labels)  # outside the try block: an error here is not about differentiation
        try:
            (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
            if any(weight.requires_grad for weight in trial.parameters()):
                # autograd.grad would skip branches that reach no weight, and with them their errors.
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

    def value(self, terms: CriticTerms, context: TrainingContext) -> Tensor:
        return image_gradient(terms.critic, terms.real_images, terms.labels).square().sum(1) / 2


class R2(Penalty):
    r"""Zero-centred gradient penalty on samples, :math:`\tfrac12 \|\nabla_x D(G(z))\|^2` (Mescheder et al. 2018)."""

    differentiates_twice = True

    def value(self, terms: CriticTerms, context: TrainingContext) -> Tensor:
        return image_gradient(terms.critic, terms.fake_images, terms.labels).square().sum(1) / 2


class WGANGP(Penalty):
    r"""Gradient penalty between real images and samples (WGAN-GP, Gulrajani et al. 2017).

    .. math::
        (\|\nabla_{\hat x} D(\hat x)\| - t)^2, \qquad \hat x = u \, x + (1 - u) \, G(z), \quad u \sim U[0, 1)

    with one u per pair of images.

    Args:
        weight: factor of the penalty.
        every: critic steps between penalties.
        target: t, the target norm, at least 0.

    Raises:
        InputError: for values outside these ranges.
    """

    differentiates_twice = True

    def __init__(self, weight: float = 10.0, every: int = 1, target: float = 1.0):
        super().__init__(weight, every)
        check_at_least(self, 0, target=target)
        self.target = target

    def value(self, terms: CriticTerms, context: TrainingContext) -> Tensor:
        real, fake = at_least_float32(terms.real_images), at_least_float32(terms.fake_images)
        share = self.draws(context, len(real)).uniform(1, 1, 1).to(real.dtype)
        between = share * real + (1 - share) * fake
        return (norm(image_gradient(terms.critic, between, terms.labels)) - self.target).square()


class DRAGAN(Penalty):
    r"""Gradient penalty around real images (DRAGAN, Kodali et al. 2017).

    .. math::
        (\|\nabla_x D(x + \delta)\| - t)^2, \qquad \delta \sim \mathcal N(0, s^2 I)

    This is the paper's equation, with Gaussian noise of fixed scale. Common implementations add one-sided uniform noise
    of up to half the standard deviation of the batch's pixels instead, which depends on how the batch is split over
    ranks.

    Args:
        weight: factor of the penalty.
        every: critic steps between penalties.
        target: t, the target norm, at least 0.
        std: s, standard deviation of the noise in units of unit images (range 2), above 0.

    Raises:
        InputError: for values outside these ranges.
    """

    differentiates_twice = True

    def __init__(self, weight: float = 10.0, every: int = 1, target: float = 1.0, std: float = 0.2):
        super().__init__(weight, every)
        check_at_least(self, 0, target=target)
        check_above(self, 0, std=std)
        self.target = target
        self.std = std

    def value(self, terms: CriticTerms, context: TrainingContext) -> Tensor:
        real = at_least_float32(terms.real_images)
        noise = self.draws(context, len(real)).normal(*real.shape[1:]).to(real.dtype)
        around = real + self.std * noise
        return (norm(image_gradient(terms.critic, around, terms.labels)) - self.target).square()


class LeCam(Penalty):
    r"""Regularisation of scores towards moving averages of the opposite scores (LeCam, Tseng et al. 2021).

    .. math::
        (D(x) - \alpha_F)^2 + (D(G(z)) - \alpha_R)^2, \qquad
        \alpha \leftarrow \gamma \alpha + (1 - \gamma) \overline{D}

    :math:`\alpha_R` and :math:`\alpha_F` are bias-corrected moving averages of the mean scores of real and of generated
    images over all ranks, updated before they are used. This is the paper's equation; the authors' code also clips both
    differences, :math:`D(x) - \alpha_F` and :math:`\alpha_R - D(G(z))`, at 0.

    Args:
        weight: factor of the penalty; suitable values depend on the scale of the scores.
        every: critic steps between penalties; averages are updated at these steps only.
        decay: :math:`\gamma`, at least 0 and below 1.

    Raises:
        InputError: for values outside these ranges.
    """

    def __init__(self, weight: float = 0.1, every: int = 1, decay: float = 0.99):
        super().__init__(weight, every)
        check_within(self, "[0, 1)", decay=decay)
        self.decay = decay
        # Moving averages of the mean real score, the mean fake score, and 1: the last one is the bias correction.
        self.register_buffer("averages", torch.zeros(3))

    def value(self, terms: CriticTerms, context: TrainingContext) -> Tensor:
        means = torch.stack([terms.real.detach().mean(), terms.fake.detach().mean()])
        means = context.ranks.mean(means).to(self.averages.dtype)
        self.averages.lerp_(torch.cat([means, means.new_ones(1)]), 1 - self.decay)
        real_anchor, fake_anchor = (self.averages[:2] / self.averages[2]).to(terms.real.dtype)
        return (terms.real - fake_anchor).square() + (terms.fake - real_anchor).square()


class Consistency(Penalty):
    r"""Consistency of scores under an augmentation T (CR-GAN, Zhang et al. 2020; bCR, Zhao et al. 2021).

    .. math:: (D(x) - D(T(x)))^2 + w_f \, (D(G(z)) - D(T(G(z))))^2

    with w_f = 0 in CR-GAN and 1 in balanced consistency regularisation (bCR). T should preserve realism: for digits, a
    small translation is suitable, a flip is not.

    Args:
        weight: factor of the penalty.
        every: critic steps between penalties.
        augmentation: T; None is a translation of up to 1/8 of height and width, with uncovered pixels -1.
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
        check_at_least(self, 0, fake_weight=fake_weight)
        self.augmentation = augmentation or DiffAugment(policy=("translation",), fill=-1.0)
        self.fake_weight = fake_weight

    def check(self, network: nn.Module, spec: ImageSpec) -> None:
        """Raise InputError for images that T cannot be applied to."""
        self.augmentation.check(spec)

    def value(self, terms: CriticTerms, context: TrainingContext) -> Tensor:
        draws = self.draws(context, len(terms.real))

        def change(images: Tensor, scores: Tensor) -> Tensor:
            changed = terms.critic(self.augmentation(images, draws), terms.labels)
            return (scores - changed.to(scores.dtype)).square()

        value = change(terms.real_images, terms.real)
        return value + self.fake_weight * change(terms.fake_images, terms.fake) if self.fake_weight else value


class OrthogonalRegularisation(Penalty, GeneratorPenalty):
    r"""Orthogonal regularisation of the filters of critic or generator (Brock et al. 2019).

    .. math:: \sum_W \| W W^\top \odot (1 - I) \|_F^2

    over all trainable weights W of two dimensions or more, each with one row per output (in the paper, one column per
    output). Norms of rows are not constrained. Embeddings are excluded: their rows are looked up, not multiplied. The
    value is a scalar.

    Args:
        weight: factor of the penalty; the default is the paper's.
        every: steps of the network between penalties.

    Raises:
        InputError: for values outside these ranges.
    """

    def __init__(self, weight: float = 1e-4, every: int = 1):
        super().__init__(weight, every)

    def check(self, network: nn.Module, spec: ImageSpec) -> None:
        """Raise InputError for a network without such weights."""
        if not weight_matrices(network):
            raise InputError(
                f"{type(self).__name__}: {type(network).__name__} has no weight matrices to make orthogonal"
            )

    def value(self, terms: CriticTerms, context: TrainingContext) -> Tensor:
        matrices = weight_matrices(terms.network)
        with torch.autocast(matrices[0].device.type, enabled=False):
            grams = [at_least_float32(matrix) @ at_least_float32(matrix).T for matrix in matrices]
            return torch.stack([(gram - gram.diagonal().diag()).square().sum() for gram in grams]).sum()


def weight_matrices(network: nn.Module) -> list[Tensor]:
    """Return the trainable weights with several outputs and inputs as matrices (outputs, inputs), each once."""
    found: dict[int, Tensor] = {}
    for part in network.modules():
        if isinstance(part, nn.Embedding | ParametrizationList):  # the latter are handled with their owner
            continue
        weights = list(part.parameters(recurse=False))
        if is_parametrized(part):  # spectral norm and the like train the original weights
            weights += [w for originals in part.parametrizations.values() for w in originals.parameters(recurse=False)]
        scaled = getattr(part, "applied_weight", None)  # layers with equalised learning rate
        for weight in weights:
            rows = scaled() if callable(scaled) and weight is part.weight else weight
            if isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) and weight.ndim > 2:
                rows = weight.transpose(0, 1)
            # Rows of one element are gains, such as weight norm's, not filters.
            if weight.requires_grad and weight.ndim > 1 and len(rows) > 1 and rows[0].numel() > 1:
                found[id(weight)] = rows.flatten(1)
    return list(found.values())


class PathLength(GeneratorPenalty):
    r"""Path length regularisation: steps of equal length in w change images equally (StyleGAN2, Karras et al. 2020).

    .. math::
        (\ell - a)^2, \qquad
        \ell = \sqrt{\tfrac1L \sum_{l=1}^L \| J_{w_l}^\top y \|^2}, \quad
        y \sim \mathcal N(0, \tfrac{1}{HW} I), \qquad
        a \leftarrow (1 - d) \, a + d \, \overline{\ell}

    where :math:`J_{w_l}` is the Jacobian of the image with respect to the style of layer l. The moving average a, over
    all ranks, starts at 0 and is updated before it is used.

    The generator needs three methods: ``split(latent) -> (z, noise)``, ``styles(z, labels) -> w`` (B, L, W), one style
    per layer, and ``synthesise(w, noise) -> images``.

    Args:
        weight: factor of the penalty.
        every: generator steps between penalties.
        decay: d, weight of the newest mean in a, above 0 and at most 1.

    Raises:
        InputError: for values outside these ranges.
    """

    differentiates_twice = True

    def __init__(self, weight: float = 2.0, every: int = 4, decay: float = 0.01):
        super().__init__(weight, every)
        check_within(self, "(0, 1]", decay=decay)
        self.decay = decay
        self.register_buffer("average", torch.zeros(()))

    def check(self, network: nn.Module, spec: ImageSpec) -> None:
        """Raise InputError for a generator without styles."""
        if not isinstance(network, HasStyles):
            raise InputError(
                f"PathLength: {type(network).__name__} has no styles, split(), styles() and synthesise(): it needs a "
                "generator that has, such as StyleGAN2Generator"
            )

    def value(self, terms: GeneratorTerms, context: TrainingContext) -> Tensor:
        latent = at_least_float32(terms.latent.detach())
        with torch.autocast(latent.device.type, enabled=False), torch.enable_grad():
            z, noise = terms.generator.split(latent)
            styles = terms.generator.styles(z, terms.labels)
            images = terms.generator.synthesise(styles, noise)
            direction = self.draws(context, len(images)).normal(*images.shape[1:]).to(images.dtype)
            direction = direction / math.sqrt(images.shape[2] * images.shape[3])
            (gradient,) = torch.autograd.grad((images * direction).sum(), styles, create_graph=True)
            lengths = norm(gradient.flatten(1)) / math.sqrt(styles.shape[1])
        self.average.lerp_(context.ranks.mean(lengths.detach().mean()).to(self.average.dtype), self.decay)
        return (lengths - self.average.to(lengths.dtype)).square()
