"""What a model is told about its run: rank, size of the training set, class frequencies."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.core import Ranks
from lightning_gen.data import ImageDataModule


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the trainer of a module, or None before one has it, where Lightning's ``trainer`` raises."""
    try:
        return module.trainer
    except RuntimeError:
        return None


class Surroundings(Callback):
    """Tell a model its rank, and in training how many images there are and how often each class occurs among them."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.ranks = Ranks(trainer.global_rank, trainer.world_size)
        if stage != "fit" or not isinstance(trainer.datamodule, ImageDataModule):
            return
        levels, labels = trainer.datamodule.images("train")
        pl_module.num_images = len(levels)
        if labels is not None and pl_module.spec.num_classes:
            counts = torch.bincount(torch.as_tensor(labels), minlength=pl_module.spec.num_classes)
            pl_module.class_shares = counts / counts.sum()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.ranks = Ranks()
