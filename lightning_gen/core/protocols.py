"""The capabilities of models, as protocols: test them with ``isinstance(model, HasLikelihood)``, not by class.

``tests/models/test_contract.py`` checks the contract of each protocol for every model. A capability may depend on a
model's configuration: any of these methods may raise :class:`~lightning_gen.core.errors.Unavailable`.

Unconditional models ignore labels. For class-conditional ones (``model.conditional``), ``labels=None`` means:

- Sampling draws classes, from their training frequencies if these are known, else uniformly.
- The likelihood is :math:`\\log p(x) = \\log \\sum_y p(y)\\, p(x \\mid y)` if the model can sum over classes, else
  it raises :class:`~lightning_gen.core.errors.Unavailable`: labels are required.
- Encoding uses the class that the model predicts if it is a classifier, else labels are required.
- Completion infers the class from the known pixels.

A model trained with label dropout (``model.null_class``) has an additional class ``spec.num_classes`` for "no class
given", which must be passed explicitly.
"""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Likelihood(NamedTuple):
    """Log-probabilities of the discrete levels of images.

    Fields:
        nats: (B,), one per image.
        kind: ``exact``, ``dequantized`` (a bound), ``bound`` or ``estimate``.
        num_samples: Monte Carlo samples (noise or latents) per image.
    """

    nats: Tensor
    kind: str
    num_samples: int = 1


@runtime_checkable
class CountsImages(Protocol):
    """A model that counts the images seen in training, over all ranks."""

    images_seen: int


@runtime_checkable
class HasLikelihood(Protocol):
    """A model that computes log p(levels), or a bound or estimate of it, in nats.

    Probabilities of all images sum to 1, those of a bound to at most 1 in expectation. The result is differentiable in
    the model's parameters; use ``torch.no_grad()`` if gradients are not needed. Randomness comes from ``generator``.
    """

    def likelihood(
        self, levels: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood: ...


@runtime_checkable
class HasImportanceSamples(HasLikelihood, Protocol):
    """A likelihood bound with ``importance_samples`` samples per image, which tightens in expectation with them."""

    importance_samples: int


@runtime_checkable
class Encodes(Protocol):
    """A model with a deterministic encoder from levels (B, C, H, W) to latents (B, ...) as ``decode`` takes them."""

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Decodes(Protocol):
    """A model with a latent space.

    ``decode`` maps latents (B, ...) to levels (B, C, H, W), deterministically and independently of each other.
    ``draw_latents`` draws n latents from p(z), on the model's device. ``latents`` is the kind of p(z): "normal" for
    N(0, I), whose latents are interpolated spherically; "continuous" for another density, interpolated linearly;
    "discrete" for codes, which are not interpolated.
    """

    @property
    def latents(self) -> Literal["normal", "continuous", "discrete"]: ...

    def draw_latents(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor: ...

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Completes(Protocol):
    """A model that draws the pixels of levels (B, C, H, W) where the mask ``known`` is false, given the others.

    ``completion`` is "exact" if draws follow the model's conditional distribution, or "asymptotic" if they converge to
    it with some setting of the model, such as a number of samples.
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
    """A model that predicts each pixel from the preceding ones in some order.

    ``pixel_log_probs`` returns log-probabilities (B, C, H, W, L) of all levels, in nats; those of the observed levels
    sum to the log likelihood.
    """

    def pixel_log_probs(self, levels: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Classifies(Protocol):
    """A classifier: ``classify`` returns log p(y | x), (B, num_classes), of levels (B, C, H, W)."""

    def classify(self, levels: Tensor) -> Tensor: ...
