"""Feature extractors: levels in, features and perhaps logits out, under a name and a content hash."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gen.errors import InputError
from lightning_gen.metrics.weights import fill, find_weights, load_state
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


def colour(levels: Tensor, spec: ImageSpec) -> Tensor:
    """Levels (B, C, H, W) as uint8 (B, 3, H, W) of 0 .. 255: grey is repeated, other numbers of levels scaled."""
    if spec.levels != 256:
        levels = ImageSpec(*spec.shape).to_levels(spec.to_unit(levels))
    return levels.expand(-1, 3, -1, -1) if spec.channels == 1 else levels


def check_colour(name: str, spec: ImageSpec) -> None:
    """Raise InputError for images that are neither grey nor of three channels."""
    if spec.channels not in (1, 3):
        raise InputError(f"the extractor {name!r} scores images of 1 or 3 channels, not {spec.channels}")


class InceptionExtractor(Extractor):
    """Inception-v3 of the literature: torch-fidelity's port of the TensorFlow graph, 2,048 features, 1,008 logits.

    Grey images become three equal channels; levels are scaled to 0 .. 255. With ``resize="tensorflow"`` images go to
    299 x 299 as in the original graph (bilinear, not antialiased) and figures have the plain names ``fid``, ``kid``,
    ``is``; with ``resize="clean"`` by an antialiased bicubic filter, rounded to 8 bits (after Parmar et al. 2022), and
    they are named ``fid_inception_clean`` and so on. Logits are without the bias, as the Inception Score takes them.

    Args:
        weights: torch-fidelity's file ``weights-inception-2015-12-05-6726825d.pth`` or a state_dict that fits it;
            without it the file is looked for in the caches of lightning-gen and torch.hub, else downloaded (96 MB).
        resize: ``tensorflow`` or ``clean``.

    Raises:
        InputError: where the weights can neither be found nor downloaded, or do not fit.
    """

    def __init__(self, weights: str | None = None, resize: Literal["tensorflow", "clean"] = "tensorflow") -> None:
        super().__init__()
        # torch-fidelity takes a fifth of a second to import: only those who use it wait for it.
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

        if resize not in ("tensorflow", "clean"):
            raise InputError(f"InceptionExtractor.resize must be 'tensorflow' or 'clean', got {resize!r}")
        self.weights, self.resize = weights, resize
        self.name = "inception" if resize == "tensorflow" else "inception_clean"
        remedy = "fetch it on another machine and give it as InceptionExtractor(weights=FILE)"
        path = find_weights(URL_INCEPTION_V3, remedy) if weights is None else weights
        # Its constructor unpickles the file it is given: it is given one that we wrote, of tensors that we loaded.
        trusted = io.BytesIO()
        torch.save(load_state(path), trusted)
        trusted.seek(0)
        try:
            self.network = FeatureExtractorInceptionV3(
                self.name, ["2048", "logits_unbiased"], feature_extractor_weights_path=trusted
            )
        except RuntimeError as error:
            raise InputError(f"{path} is not a weights file of torch-fidelity's Inception-v3") from error
        self.eval().requires_grad_(False)

    def check(self, spec: ImageSpec) -> None:
        check_colour(self.name, spec)

    def transform(self) -> str:
        return f"3 channels, 0 .. 255, resize {self.resize} to 299"

    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        images = colour(levels, spec)
        if self.resize == "clean" and images.shape[-2:] != (299, 299):
            images = nn.functional.interpolate(images.float(), size=(299, 299), mode="bicubic", antialias=True)
            images = images.round_().clamp_(0, 255).to(torch.uint8)
        features, logits = self.network(images)
        return Features(features, logits)


class TorchvisionExtractor(Extractor):
    """A node of a torchvision classifier, for images scaled to its size and ImageNet's mean and deviation.

    Args:
        architecture: name as in ``torchvision.models.list_models()``.
        weights: state_dict file; without it the architecture's default weights are found or downloaded.
        layer: node whose output, flattened, are the features (names as in
            ``torchvision.models.feature_extraction.get_graph_node_names``).
        size: height and width that images are resized to, antialiased bilinear.

    Raises:
        InputError: for an unknown architecture or layer, or weights that cannot be found or do not fit.
    """

    def __init__(self, architecture: str, weights: str | None = None, layer: str = "flatten", size: int = 224) -> None:
        super().__init__()
        from torchvision import models
        from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

        self.architecture, self.weights, self.layer, self.size = architecture, weights, layer, size
        self.name = architecture
        try:
            network = models.get_model(architecture, weights=None)
        except (ValueError, KeyError) as error:
            raise InputError(
                f"torchvision has no model {architecture!r}; see torchvision.models.list_models()"
            ) from error
        if weights is None:
            url = models.get_model_weights(architecture).DEFAULT.url
            weights = str(find_weights(url, "fetch it on another machine and give it as weights=FILE"))
        fill(network, load_state(weights), weights)
        nodes = get_graph_node_names(network.eval())[1]
        if layer not in nodes:
            raise InputError(f"{architecture} has no layer {layer!r}; its last ones are {', '.join(nodes[-6:])}")
        self.network = create_feature_extractor(network, {nodes[-1]: "logits"} | {layer: "features"})
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def check(self, spec: ImageSpec) -> None:
        check_colour(self.name, spec)

    def transform(self) -> str:
        return f"3 channels, ImageNet normalisation, antialiased to {self.size}, layer {self.layer}"

    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        images = colour(levels, spec).float().div_(255)
        images = nn.functional.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        out = self.network((images - self.mean) / self.deviation)
        return Features(out["features"].flatten(1), out.get("logits"))


class ModuleExtractor(Extractor):
    """Any module of yours: unit values (B, C, H, W) in, features (B, ...) or a pair of features and logits out.

    Args:
        module: the network.
        name: what figures are called after (``fid_<name>``).
        weights: state_dict file for it, if it does not load its own.

    Raises:
        InputError: for a name that is empty or the literature's, or weights that do not fit.
    """

    def __init__(self, module: nn.Module, name: str, weights: str | None = None) -> None:
        super().__init__()
        if not name or name.startswith("inception"):
            raise InputError(f"ModuleExtractor.name must be a name of its own, got {name!r}")
        self.module, self.name, self.weights = module, name, weights
        if weights is not None:
            fill(module, load_state(weights), weights)
        self.eval().requires_grad_(False)

    def transform(self) -> str:
        return f"{type(self.module).__module__}.{type(self.module).__qualname__}"

    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        out = self.module(spec.to_unit(levels))
        features, logits = out if isinstance(out, tuple) else (out, None)
        return Features(features.flatten(1), logits)


def _size(spec: ImageSpec) -> str:
    return " x ".join(map(str, spec.shape))
