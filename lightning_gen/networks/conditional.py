"""Parts of class-conditional networks: checks of labels, conditional batch norm, projection and classifier heads."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from lightning_gen.core import ImageSpec, InputError


def check_conditional(owner: object, spec: ImageSpec, argument: str = "conditional") -> None:
    """Raise InputError if images have no classes for ``owner`` to be conditional on.

    Args:
        owner: the network, named in the message.
        spec: image format.
        argument: the argument that needs classes, named in the message.
    """
    if spec.num_classes == 0:
        raise InputError(
            f"{type(owner).__name__}: {argument} needs classes, but these images have none: "
            f"take labelled images, or {argument}: false"
        )


def require_labels(owner: object, labels: Tensor | None) -> Tensor:
    """Return ``labels`` (B,).

    Raises:
        InputError: if they are None; the message names ``owner``.
    """
    if labels is None:
        raise InputError(f"{type(owner).__name__} is class-conditional: give labels")
    return labels


def latent_dim_of(owner: object, generator: nn.Module) -> int:
    """Return a generator's latent dimension; raise InputError if it has no attribute ``latent_dim``."""
    if not hasattr(generator, "latent_dim"):
        raise InputError(
            f"{type(owner).__name__}: {type(generator).__name__} must say how long latents are: latent_dim"
        )
    return generator.latent_dim


def check_pair(owner: object, generator: nn.Module, critic: nn.Module, has_auxiliary: bool) -> None:
    """Raise InputError for a generator and a critic of which only one uses classes."""
    names = type(owner).__name__, type(generator).__name__, type(critic).__name__
    draws_classes, judges_classes = (getattr(network, "conditional", False) for network in (generator, critic))
    if draws_classes and not (judges_classes or has_auxiliary):
        raise InputError(
            f"{names[0]}: {names[1]} is class-conditional, but nothing teaches it its classes: make the discriminator "
            "conditional too, or give auxiliary"
        )
    if judges_classes and not draws_classes:
        raise InputError(
            f"{names[0]}: {names[2]} judges classes of generated images, but {names[1]} draws them without: make the "
            "generator conditional"
        )


class ConditionalBatchNorm2d(nn.Module):
    r"""Batch norm with a gain and a bias per class, :math:`\gamma_y \hat x + \beta_y` (Dumoulin et al. 2017).

    :math:`\hat x` is normalised over the whole batch, not per class. Gains are initially 1 and biases 0, as in ordinary
    batch norm.

    Args:
        num_features: channels C of the maps.
        num_classes: number of classes.
    """

    def __init__(self, num_features: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, affine=False)
        self.gain = nn.Embedding(num_classes, num_features)
        self.bias = nn.Embedding(num_classes, num_features)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Normalise feature maps (B, C, H, W) of classes ``labels`` (B,)."""
        return self.norm(x) * self.gain(labels)[:, :, None, None] + self.bias(labels)[:, :, None, None]


def initialise_as_linear(head: nn.Module) -> nn.Module:
    """Initialise weights with U(-1/sqrt(D), 1/sqrt(D)), torch's default for a linear layer; return ``head``."""
    nn.init.kaiming_uniform_(head.weight, a=math.sqrt(5))
    return head


class FeatureDiscriminator(nn.Module, ABC):
    r"""Discriminator whose outputs are linear in a feature vector :math:`\phi(x)` of dimension D.

    The score is :math:`w^\top \phi(x) + b`. A conditional discriminator adds the projection :math:`v_y^\top \phi(x)`
    with an embedding v of the classes (Miyato and Koyama 2018); one with a classifier also gives the logits
    :math:`U \phi(x) + c` of an auxiliary head (Odena et al. 2017). A subclass constructs its trunk and score, then
    calls :meth:`add_heads`.
    """

    def add_heads(
        self,
        spec: ImageSpec,
        num_features: int,
        conditional: bool,
        classifier: bool,
        prepare: Callable[[nn.Module], nn.Module] = initialise_as_linear,
    ) -> None:
        """Add ``embedding`` and ``classifier``, each None unless requested.

        Args:
            spec: image format.
            num_features: D.
            conditional: whether scores depend on labels.
            classifier: whether to add an auxiliary head.
            prepare: initialises a head (weight (num_classes, D)) and returns it, possibly wrapped.

        Raises:
            InputError: if either is requested and images have no classes.
        """
        self.conditional = conditional
        self.embedding = self.classifier = None
        if conditional:
            check_conditional(self, spec)
            self.embedding = prepare(nn.Embedding(spec.num_classes, num_features))
        if classifier:
            check_conditional(self, spec, "classifier")
            self.classifier = prepare(nn.Linear(num_features, spec.num_classes))

    @abstractmethod
    def features_and_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and unconditional scores (B,) of unit images (B, C, H, W)."""

    def _judge(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.embedding is None:
            return self.features_and_scores(images)
        labels = require_labels(self, labels)
        features, scores = self.features_and_scores(images)
        return features, scores + (self.embedding(labels) * features).sum(1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map unit images (B, C, H, W), of classes ``labels`` (B,) if conditional, to scores (B,)."""
        return self._judge(images, labels)[1]

    def scores_and_logits(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return scores (B,) and the classifier's logits (B, num_classes), from one pass of the trunk.

        Raises:
            InputError: if there is no classifier, or labels are missing.
        """
        if self.classifier is None:
            raise InputError(f"{type(self).__name__} has no classifier: give it classifier: true")
        features, scores = self._judge(images, labels)
        return scores, self.classifier(features)


def last_of(net: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input and the output of the last layer of ``net`` for input ``x``."""
    *trunk, last = net
    for layer in trunk:
        x = layer(x)
    return x, last(x)
