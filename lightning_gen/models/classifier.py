"""An image classifier: what metrics on other data sets than photographs take their features from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from lightning_gen.data import Batch
from lightning_gen.errors import InputError
from lightning_gen.models.base import ImageModule
from lightning_gen.spec import ImageSpec


class Classifier(ImageModule):
    r"""Classifier trained by cross-entropy, :math:`-\log p(y \mid x)`; reports accuracy on held-out images.

    It draws nothing. Its use here is to be an extractor of features: ``lightning export CKPT FILE.safetensors`` writes
    what :class:`lightning_gen.metrics.ClassifierExtractor` reads.

    Args:
        spec: images, the data module's; must have classes.
        network: factory of a network from levels (B, C, H, W) to logits (B, num_classes).
        optimizer: factory of the optimizer.
        label_smoothing: share of the target that is spread over all classes, in [0, 1) (Szegedy et al. 2016).

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
        if not 0 <= label_smoothing < 1:
            raise InputError(f"Classifier: label_smoothing must be in [0, 1), got {label_smoothing}")
        self.network = network(self.spec)
        self.optimizer = optimizer
        self.label_smoothing = label_smoothing
        self.accuracy = MulticlassAccuracy(self.spec.num_classes, average="micro")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = cross_entropy(self.network(batch.levels), batch.labels, label_smoothing=self.label_smoothing)
        self.track(loss=loss)
        self.count_images(batch)
        return loss

    def take_in(self, batch: Batch) -> None:
        self.accuracy.update(self.network(batch.levels), batch.labels)

    def own_figures(self) -> tuple[dict[str, float], dict[str, bool]]:
        """Return the share of images that are recognised as what they are."""
        accuracy = float(self.accuracy.compute())
        self.accuracy.reset()
        return {"accuracy": accuracy}, {"accuracy": True}

    def forward(self, levels: Tensor) -> Tensor:
        """Return logits (B, num_classes) of levels (B, C, H, W)."""
        return self.network(levels)
