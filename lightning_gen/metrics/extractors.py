"""Feature extractors: levels in, features and perhaps logits out, under a name and a content hash."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gen.core import ImageSpec, InputError, check, check_choice, check_positive
from lightning_gen.metrics.weights import fill, find_weights, first_line, load_state
from lightning_gen.networks.classifier import load_classifier

WEIGHTS = Path(__file__).parent.parent / "weights"
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
    whole: bool = True  # whether a row of features is one point, and not several that :meth:`layout` tells apart

    @abstractmethod
    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        """Features (B, D) of levels (B, C, H, W), on the levels' device."""

    def check(self, spec: ImageSpec) -> None:
        """Raise InputError where images of this spec cannot be scored."""

    def transform(self) -> str:
        """What is done to images before the network, in words; part of the content hash."""
        return ""

    def layout(self, spec: ImageSpec) -> dict[str, tuple[int, int, int]]:
        """What a row that is not ``whole`` consists of, in order: (points, channels, values of each) by name."""
        return {}

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
        InputError: for a missing or foreign file, or the name of the literature's extractor.
    """

    def __init__(self, weights: str, name: str | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.network = load_classifier(weights).requires_grad_(False)
        self.name = _own_name(self, Path(weights).stem if name is None else name)
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


class FashionMNISTExtractor(ClassifierExtractor):
    """The shipped Fashion-MNIST classifier, trained on the 55,000 training images alone: 64 features, 10 classes."""

    def __init__(self) -> None:
        super().__init__(str(WEIGHTS / "fashion_mnist.safetensors"), "fashion_mnist")


def colour(levels: Tensor, spec: ImageSpec) -> Tensor:
    """Levels (B, C, H, W) as uint8 (B, 3, H, W) of 0 .. 255: grey is repeated, other numbers of levels scaled."""
    if spec.levels != 256:
        levels = ImageSpec(*spec.shape).to_levels(spec.to_unit(levels))
    return levels.expand(-1, 3, -1, -1) if spec.channels == 1 else levels


class _ColourExtractor(Extractor):
    """A network for images of three channels, which grey ones are made into."""

    def check(self, spec: ImageSpec) -> None:
        if spec.channels not in (1, 3):
            raise InputError(f"the extractor {self.name!r} scores images of 1 or 3 channels, not {spec.channels}")


class InceptionExtractor(_ColourExtractor):
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

        check_choice(self, ("tensorflow", "clean"), resize=resize)
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

    def transform(self) -> str:
        return f"3 channels, 0 .. 255, resize {self.resize} to 299"

    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        images = colour(levels, spec)
        if self.resize == "clean" and images.shape[-2:] != (299, 299):
            images = nn.functional.interpolate(images.float(), size=(299, 299), mode="bicubic", antialias=True)
            images = images.round_().clamp_(0, 255).to(torch.uint8)
        features, logits = self.network(images)
        return Features(features, logits)


class _PictureExtractor(_ColourExtractor):
    """A network for photographs: three channels, one square size, each channel's mean and deviation taken out."""

    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    size: int

    def normalise(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """Keep the mean and deviation (3 numbers each, of pixels in 0 .. 1) that :meth:`pictures` takes out."""
        self.register_buffer("mean", torch.tensor(list(mean)).reshape(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(list(deviation)).reshape(3, 1, 1), persistent=False)

    def pictures(self, levels: Tensor, spec: ImageSpec) -> Tensor:
        """What the network takes (B, 3, size, size), of levels (B, C, H, W)."""
        images = colour(levels, spec).float().div_(255)
        if images.shape[-2:] != (self.size, self.size):
            images = nn.functional.interpolate(
                images, size=(self.size, self.size), mode=self.interpolation, antialias=True
            )
        # the bicubic filter overshoots
        return images.clamp_(0, 1).sub_(self.mean).div_(self.deviation)

    def _preparation(self) -> str:
        numbers = [
            ",".join(f"{value:g}" for value in values.flatten().tolist()) for values in (self.mean, self.deviation)
        ]
        return f"3 channels, {self.interpolation} antialiased to {self.size}, mean {numbers[0]}, deviation {numbers[1]}"


class TorchvisionExtractor(_PictureExtractor):
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

    interpolation = "bilinear"

    def __init__(self, architecture: str, weights: str | None = None, layer: str = "flatten", size: int = 224) -> None:
        super().__init__()
        from torchvision import models
        from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

        check_positive(self, size=size)
        self.architecture, self.weights, self.layer, self.size = architecture, weights, layer, size
        self.name = _architecture_name("torchvision", architecture)
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
        self.normalise(IMAGENET_MEAN, IMAGENET_DEVIATION)
        self.eval().requires_grad_(False)

    def transform(self) -> str:
        return f"3 channels, ImageNet normalisation, antialiased to {self.size}, layer {self.layer}"

    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        out = self.network(self.pictures(levels, spec))
        return Features(out["features"].flatten(1), out.get("logits"))


class TimmExtractor(_PictureExtractor):
    """Pooled features (a vision transformer's class token) of a timm model from a local file, DINOv2's for instance.

    What Stein et al. (2023) found closest to people's judgement of images is the class token of DINOv2 (Oquab et al.
    2023) at 224 x 224: ``TimmExtractor("vit_large_patch14_dinov2", "model.safetensors")``. Nothing is downloaded.
    Images are resized by an antialiased bicubic filter, and the mean and deviation of timm's entry for the
    architecture are taken out: name its tag (``vit_base_patch16_224.dino``) where trainings differ in them. Position
    embeddings of another size are resampled as timm does it. A classifier in the file is left out: there are no logits.

    Args:
        architecture: name as in ``timm.list_models()``, perhaps with a tag (``timm.list_pretrained()``).
        weights: state_dict file that fits it (``model.safetensors`` or ``.pth``), as timm or its authors publish it.
        size: height and width that images are resized to.
        name: name of the extractor in the names of figures; the architecture if not given.

    Raises:
        InputError: without timm, for an unknown architecture, a size that it cannot take, or weights that do not fit.
    """

    def __init__(self, architecture: str, weights: str, size: int = 224, name: str | None = None) -> None:
        super().__init__()
        timm = _extra("timm", self)
        check_positive(self, size=size)
        self.architecture, self.weights, self.size = architecture, weights, size
        self.name = _architecture_name("timm", architecture) if name is None else _own_name(self, name)
        self.network = _timm_network(timm, architecture, size)
        patch_embedding = getattr(self.network, "patch_embed", None)
        _check_patches(self, getattr(patch_embedding, "patch_size", None))
        state = self._converted(load_state(weights))
        config = self.network.pretrained_cfg
        # Not every file has its classifier, and what CLIP's entries name so gives no class scores.
        heads = config.get("classifier") or ()
        prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        self.network.reset_classifier(0)
        fill(self.network, {key: rows for key, rows in state.items() if not key.startswith(prefixes)}, weights)
        self.normalise(config["mean"], config["std"])
        self.eval().requires_grad_(False)

    def _converted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        # Each family's module in timm has a function of this name where published files need it.
        convert = getattr(sys.modules[type(self.network).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            return state
        try:
            return convert(state, self.network)
        except Exception as error:
            raise InputError(f"{self.weights} does not fit {self.architecture}: {first_line(error)}") from error

    def transform(self) -> str:
        return f"timm {self.architecture}, {self._preparation()}"

    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        out = self.network.forward_features(self.pictures(levels, spec))
        return Features(self.network.forward_head(out, pre_logits=True).flatten(1))


class TransformersExtractor(_PictureExtractor):
    """Pooled output or class token of an image model in a local folder of Hugging Face's transformers.

    The folder is one that ``AutoModel.from_pretrained`` reads (``config.json``, ``model.safetensors``), such as a
    download of ``facebook/dinov2-base`` (Oquab et al. 2023). Nothing is downloaded, no code from the folder runs, and
    weights are read from safetensors only. Images are resized by an antialiased bicubic filter; mean and deviation are
    those of ``preprocessor_config.json``, else ImageNet's. Features are the model's pooled output if it has one and its
    weights are in the file, else the class token of the last layer; there are no logits.

    Args:
        path: the folder.
        size: height and width that images are resized to.
        name: name of the extractor in the names of figures; the folder's if not given.

    Raises:
        InputError: without transformers, for a folder that holds no such model, lacks some of its weights or needs
            code of its own, for a model of something else than images, or a size that it cannot take.
    """

    def __init__(self, path: str, size: int = 224, name: str | None = None) -> None:
        super().__init__()
        transformers = _extra("transformers", self)
        check_positive(self, size=size)
        self.path, self.size = path, size
        folder = Path(path).expanduser()
        if not (folder / "config.json").is_file():
            raise InputError(f"TransformersExtractor.path: {path} is no folder with a config.json; give a local model")
        self.name = _own_name(self, re.sub(r"\W+", "_", folder.resolve().name) if name is None else name)
        self.network = _transformers_network(transformers, folder)
        _check_patches(self, getattr(self.network.config, "patch_size", None))
        takes = inspect.signature(self.network.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        self.normalise(*_published_normalisation(folder))
        self.eval().requires_grad_(False)

    def transform(self) -> str:
        return f"transformers {self.network.config.model_type}, {self._preparation()}"

    def forward(self, levels: Tensor, spec: ImageSpec) -> Features:
        out = self.network(pixel_values=self.pictures(levels, spec), **self._options)
        pooled = getattr(out, "pooler_output", None)
        return Features((out.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1))


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
        self.module, self.name, self.weights = module, _own_name(self, name), weights
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


def _own_name(extractor: Extractor, name: str) -> str:
    """``name``, unless it cannot stand in a figure's name or would pass for the literature's Inception."""
    check(extractor, "name", name, bool(re.fullmatch(r"(?!inception)[^\s/]+", name)), "a name of its own")
    return name


def _architecture_name(library: str, architecture: str) -> str:
    """An architecture as extractor's name; another library's Inception must not pass for the literature's."""
    name = architecture.replace(".", "_")
    return f"{library}_{name}" if name.startswith("inception") else name


def _extra(package: str, extractor: Extractor) -> ModuleType:
    """An optional package, or InputError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{type(extractor).__name__} needs {package}: pip install 'lightning-gen[extractors]'"
        ) from error


def _check_patches(extractor: _PictureExtractor, patch: int | Sequence[int] | None) -> None:
    """Raise InputError where patches do not tile the image: convolutions would drop its edge without a word."""
    for side in patch if isinstance(patch, Sequence) else [patch]:
        expected = f"a multiple of the {side} pixels of {extractor.name}'s patches"
        check(extractor, "size", extractor.size, not side or extractor.size % side == 0, expected)


def _timm_network(timm: ModuleType, architecture: str, size: int) -> nn.Module:
    if not timm.is_model(architecture.partition(".")[0]):
        raise InputError(f"timm has no model {architecture!r}; see timm.list_models()")
    try:
        try:
            return timm.create_model(architecture, img_size=size)
        except TypeError as error:  # most convolutional networks take any size and have no such argument
            if "img_size" not in str(error):
                raise
            return timm.create_model(architecture)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(f"timm cannot make {architecture} of size {size}: {first_line(error)}") from error


def _transformers_network(transformers: ModuleType, folder: Path) -> nn.Module:
    """The model in ``folder`` in float32, with all weights that its features depend on."""
    report = transformers.utils.logging
    bars, verbosity = report.is_progress_bar_enabled(), report.get_verbosity()
    report.disable_progress_bar()
    report.set_verbosity_error()  # what it warns of (weights made up at random) is refused below
    try:
        network, found = transformers.AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below, as weights that are missing are
        )
    except Exception as error:
        raise InputError(
            f"transformers cannot read a model with safetensors weights in {folder}: {first_line(error)}"
        ) from error
    finally:
        report.set_verbosity(verbosity)
        if bars:
            report.enable_progress_bar()
    kind = type(network).__name__
    if network.main_input_name != "pixel_values":
        raise InputError(f"{folder} holds a {kind}, which does not take images alone; save its vision part by itself")
    if hasattr(network.config, "mask_ratio"):
        raise InputError(f"{folder} holds a {kind}, which hides parts of images at random; choose another model")
    missing = sorted(found["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        network.pooler, missing = None, []  # its weights are random: the class token serves
    if missing or found["mismatched_keys"]:
        wrong = missing[0] if missing else sorted(found["mismatched_keys"])[0][0]
        raise InputError(f"the weights in {folder} do not fit its config.json: {wrong} is missing or of another shape")
    return network


def _published_normalisation(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    try:
        config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        if not config.get("do_normalize", True):
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        return config["image_mean"], config["image_std"]
    except FileNotFoundError:
        return IMAGENET_MEAN, IMAGENET_DEVIATION
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'preprocessor_config.json'} does not give image_mean and image_std") from error
