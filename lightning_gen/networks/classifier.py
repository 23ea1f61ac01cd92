"""A small convolutional classifier whose penultimate layer serves as a feature space for metrics."""

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from lightning_gen.core import ImageSpec, InputError, write_atomically


class SmallClassifier(nn.Module):
    r"""Classifier of levels: stages of two 3x3 convolutions, then ``num_features`` standardised features, then logits.

    Each stage after the first begins with 2x2 max pooling. With the convolutional trunk t, the features are
    :math:`\phi(x) = \mathrm{norm}(W\,t(x) + b)` and the logits :math:`V\,\mathrm{relu}(\phi(x)) + c`. The normalisation
    is a batch norm without affine parameters, so that in evaluation mode each feature has mean 0 and variance 1 over
    the training images, approximately, and distances between features need no further scaling.

    Args:
        spec: image format; ``num_classes`` must be at least 2.
        widths: channels of each stage.
        num_features: number of features D.
        dropout: dropout probability of trunk outputs.

    Raises:
        InputError: for unlabelled images, or images too small for so many stages.
    """

    def __init__(
        self, spec: ImageSpec, widths: Sequence[int] = (32, 64), num_features: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if spec.num_classes < 2:
            raise InputError(f"SmallClassifier needs labelled images of at least 2 classes, got {spec.num_classes}")
        halvings = len(widths) - 1
        height, width = spec.height >> halvings, spec.width >> halvings
        if not widths or min(height, width) < 1:
            raise InputError(
                f"SmallClassifier: {len(widths)} stages do not fit {spec.height} x {spec.width} images; shorten widths"
            )
        self.spec, self.widths, self.num_features, self.dropout = spec, tuple(widths), num_features, dropout

        layers: list[nn.Module] = []
        before = spec.channels
        for stage, width_now in enumerate(widths):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(2):
                layers += [nn.Conv2d(before, width_now, 3, padding=1, bias=False), nn.BatchNorm2d(width_now), nn.ReLU()]
                before = width_now
        self.trunk = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(before * height * width, num_features),
            nn.BatchNorm1d(num_features, affine=False),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(num_features, spec.num_classes))

    def features(self, levels: Tensor) -> Tensor:
        """Features (B, D) of levels (B, C, H, W); deterministic in evaluation mode."""
        return self.trunk(self.spec.to_unit(levels, dtype=self.head[1].weight.dtype))

    def forward(self, levels: Tensor) -> Tensor:
        """Logits (B, K) of levels (B, C, H, W)."""
        return self.head(self.features(levels))


def save_classifier(network: SmallClassifier, path: str | Path) -> None:
    """Write weights, image spec and architecture to one safetensors file, atomically; see :func:`load_classifier`."""
    path = Path(path)
    arguments = {"widths": list(network.widths), "num_features": network.num_features, "dropout": network.dropout}
    metadata = {"format": "1", "spec": json.dumps(network.spec.as_dict()), "arguments": json.dumps(arguments)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # save_file would create a file that only its owner can read.
    write_atomically(path, lambda temporary: temporary.write_bytes(safetensors.torch.save(tensors, metadata)))


def load_classifier(path: str | Path) -> SmallClassifier:
    """Return the classifier, in evaluation mode, that :func:`save_classifier` wrote.

    Raises:
        InputError: for a missing file, or one not written by :func:`save_classifier`.
    """
    if not Path(path).is_file():
        raise InputError(f"classifier weights {path} do not exist; train them with the classifier's config")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        network = SmallClassifier(ImageSpec(**json.loads(metadata["spec"])), **json.loads(metadata["arguments"]))
        network.load_state_dict(tensors)
    except (safetensors.SafetensorError, KeyError, TypeError, json.JSONDecodeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is not a classifier file of lightning-gen ({type(error).__name__}: {reason})"
        ) from error
    return network.eval()
