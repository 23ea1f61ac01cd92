"""Feature extractors: levels in, features and perhaps logits out, under a name and a content hash."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_gen.errors import InputError
from lightning_gen.networks.classifier import load_classifier
from lightning_gen.spec import ImageSpec

WEIGHTS = Path(__file__).parent.parent / "weights"


class Features(NamedTuple):
    """What an extractor gives: features (B, D) and, where the network classifies, logits (B, K)."""

    features: Tensor
    logits: Tensor | None = None


class Extractor(nn.Module, ABC):
    """A fixed network that maps levels to features; always in evaluation mode, never trained.

    A subclass sets ``name`` (it ends up in the names of figures: ``fid_<name>``) and writes :meth:`forward`; what else
    shapes its features than its class and weights (a resize, a file) it states in :meth:`transform`.
    """

    name: str

    @abstractmethod
    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        """Features (B, D) of levels (B, C, H, W), on the levels' device."""

    def check(self, spec: ImageSpec) -> None:
        """Raise InputError where images of this spec cannot be scored."""

    def transform(self) -> str:
        """What is done to images before the network, in words; part of the content hash."""
        return ""

    @property
    def content_hash(self) -> str:
        """Hash of class, name, transform and weights: equal hashes give equal features."""
        digest = hashlib.sha256(f"{type(self).__module__}.{type(self).__qualname__}|{self.name}|".encode())
        digest.update(self.transform().encode())
        for key, tensor in sorted(self.state_dict().items()):
            digest.update(f"|{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def train(self, mode: bool = True) -> Extractor:
        """Stay in evaluation mode, whatever the surrounding module does."""
        return super().train(False)


class ClassifierExtractor(Extractor):
    """Penultimate layer and logits of a :class:`~lightning_gen.networks.classifier.SmallClassifier` file.

    Args:
        weights: safetensors file that ``save_classifier`` wrote.
        name: name of the extractor in the names of figures; the file's stem if not given.

    Raises:
        InputError: for a missing or foreign file.
    """

    def __init__(self, weights: str, name: str | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.network = load_classifier(weights).requires_grad_(False)
        self.name = Path(weights).stem if name is None else name
        self.eval()

    def check(self, spec: ImageSpec) -> None:
        if spec.shape != self.network.spec.shape:
            raise InputError(
                f"the extractor {self.name!r} scores {_size(self.network.spec)} images, not {_size(spec)}; "
                "choose another extractor"
            )

    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        own = self.network.spec
        if spec.levels != own.levels:
            levels = own.to_levels(spec.to_unit(levels))
        features = self.network.features(levels)
        return Features(features, self.network.head(features))


class DigitsExtractor(ClassifierExtractor):
    """The shipped digits classifier, trained on the 1,097 training images alone: 64 features, 10 classes."""

    def __init__(self) -> None:
        super().__init__(str(WEIGHTS / "digits.safetensors"), "digits")


def _size(spec: ImageSpec) -> str:
    return " x ".join(map(str, spec.shape))
