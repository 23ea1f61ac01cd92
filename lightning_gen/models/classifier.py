"""An image classifier, as a feature extractor for metrics on data sets other than photographs."""

from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gen.core import ImageSpec, InputError, Unavailable, at_least_float32, check_within, evaluating
from lightning_gen.data import Batch
from lightning_gen.models.base import ImageModule
from lightning_gen.networks.classifier import SmallClassifier, save_classifier


class Classifier(ImageModule):
    r"""Classifier trained by cross-entropy, :math:`-\log p(y \mid x)`.

    It is not generative: its use is as a feature extractor. ``lightning export CKPT FILE.safetensors`` writes the file
    that :class:`lightning_gen.metrics.ClassifierExtractor` reads.

    Args:
        spec: image format, given by the data module; must have classes.
        network: factory of a network from levels (B, C, H, W) to logits (B, num_classes).
        optimizer: factory of the optimizer.
        label_smoothing: target probability that is spread evenly over all classes, in [0, 1) (Szegedy et al. 2016).

    Raises:
        InputError: for unlabelled images or a label smoothing out of range.
    """

    def __init__(
        self,
        spec: ImageSpec,
        network: Callable[[ImageSpec], nn.Module],
        optimizer: OptimizerCallable,
        label_smoothing: float = 0.0,
    ):
        super().__init__(spec)
        if not self.spec.num_classes:
            raise InputError("Classifier: these images have no labels")
        check_within(self, "[0, 1)", label_smoothing=label_smoothing)
        self.network = network(self.spec)
        self.optimizer = optimizer
        self.label_smoothing = label_smoothing

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = cross_entropy(self.network(batch.levels), batch.labels, label_smoothing=self.label_smoothing)
        self.track(loss=loss)
        self.count_images(batch)
        return loss

    def classify(self, levels: Tensor) -> Tensor:
        """Return log p(y | x), (B, num_classes), of levels (B, C, H, W)."""
        with evaluating(self):
            return torch.log_softmax(at_least_float32(self.network(levels)), 1)

    def forward(self, levels: Tensor) -> Tensor:
        """Return logits (B, num_classes) of levels (B, C, H, W)."""
        return self.network(levels)


def export_network(model: ImageModule, file: Path) -> None:
    """Write the network of a classifier to a safetensors file, for use as a feature extractor.

    Raises:
        Unavailable: for a model that is not a :class:`Classifier` of a SmallClassifier.
    """
    if not isinstance(model, Classifier) or not isinstance(model.network, SmallClassifier):
        raise Unavailable("holds no Classifier of a SmallClassifier")
    save_classifier(model.network, file)
