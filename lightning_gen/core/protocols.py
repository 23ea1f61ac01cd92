"""What a model can do, as protocols: ``isinstance(model, HasLikelihood)`` asks, never a class or an attribute's name.

Each promises something that ``tests/models/test_contract.py`` checks for every model. An ability may depend on how a
model is configured: any of these methods may raise :class:`~lightning_gen.core.errors.Unavailable`.

What ``labels=None`` means is the same for every model that heeds labels (``model.conditional``); others ignore labels.

- Sampling draws the classes: by their shares of the training images where the model knows these, else uniformly.
- A likelihood is then :math:`\\log p(x) = \\log \\sum_y p(y)\\, p(x \\mid y)`, where the model can sum over classes;
  one that cannot asks for labels.
- Encoding takes the class that the model recognises, where it classifies; one that does not asks for labels.
- Completion leaves the class to be inferred from the known pixels.

A model that was trained with some labels dropped (``model.null_class``) has one class more, ``spec.num_classes``, which
stands for "class not given"; no label means that by accident.
"""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Likelihood(NamedTuple):
    """What a model says about images: ``nats`` (B,) of the discrete levels, and of which kind the figure is.

    Fields:
        nats: log-probabilities, one for each image.
        kind: ``exact``, ``dequantized``, ``bound`` or ``estimate``.
        num_samples: noises or latents behind each.
    """

    nats: Tensor
    kind: str
    num_samples: int = 1


@runtime_checkable
class CountsImages(Protocol):
    """A model that knows how many images training has seen over all ranks: what positions and curves go by."""

    images_seen: int


@runtime_checkable
class HasLikelihood(Protocol):
    """A model that gives log p(levels), or a bound or estimate of it, in nats.

    Probabilities of all images sum to 1, of a bound to at most 1 in expectation. The result is differentiable in the
    model's parameters: who wants the figure alone switches gradients off. All chance comes from ``generator``.
    """

    def likelihood(
        self, levels: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood: ...


@runtime_checkable
class HasImportanceSamples(HasLikelihood, Protocol):
    """A likelihood that is a bound by so many samples for each image, and in expectation rises with them."""

    importance_samples: int


@runtime_checkable
class Encodes(Protocol):
    """A model that finds latents (B, ...) of levels (B, C, H, W), the same each time; ``decode`` takes them."""

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Decodes(Protocol):
    """A model with a latent space.

    ``decode`` maps latents (B, ...) to levels (B, C, H, W) without chance, each by itself. ``draw_latents`` draws n of
    them from p(z), on the model's device, and ``latents`` says what that is: "normal", independent N(0, 1), between
    which likely latents lie on great circles; "continuous" of another density, where straight lines have to do; or
    "discrete", with nothing in between.
    """

    @property
    def latents(self) -> Literal["normal", "continuous", "discrete"]: ...

    def draw_latents(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor: ...

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Completes(Protocol):
    """A model that draws the pixels of levels (B, C, H, W) where the mask ``known`` is false, given the others.

    ``completion`` says whether draws are from the model's own conditional distribution ("exact"), or tend to it as some
    setting of the model grows ("asymptotic").
    """

    @property
    def completion(self) -> Literal["exact", "asymptotic"]: ...

    def complete(
        self,
        levels: Tensor,
        known: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor: ...


@runtime_checkable
class PredictsPixels(Protocol):
    """A model that predicts each pixel from those before it in some order.

    Log-probabilities (B, C, H, W, L) of all levels; those of the levels that are there sum to the likelihood.
    """

    def pixel_log_probs(self, levels: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Classifies(Protocol):
    """A model that recognises classes: log-probabilities (B, num_classes) of levels (B, C, H, W)."""

    def classify(self, levels: Tensor) -> Tensor: ...
