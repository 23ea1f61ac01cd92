"""The one data module: any source, training stream, evaluation loaders, augmentation on the device."""

import os
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_gen.core import CountsImages, Draws, ImageSpec, InputError, Ranks, check_at_least, keyed_generator
from lightning_gen.data.augment import Augmentation
from lightning_gen.data.source import Batch, Images, Source
from lightning_gen.data.stream import EvalLoader, TrainStream


class ImageDataModule(LightningDataModule):
    """Batches of a source's images, as levels, for training and evaluation.

    Training reads the endless :class:`TrainStream` from the module's ``images_seen`` on, which makes resuming exact;
    evaluation reads every image once, over all ranks, without padding. ``predict`` runs over the validation part.

    Args:
        source: where images come from.
        batch_size: training images per rank and step; it may exceed the data set.
        augment: random changes of training images, applied in this order on the device; none if not given.
        eval_batch_size: images per rank and evaluation batch.
        on_device: keep the training images on the device (as uint8), so that no batch is ever copied to it.
        seed: orders and augments training images; None takes the seed of ``seed_everything``, or 0 without one.

    Raises:
        InputError: for a number out of range, an augmentation that does not fit the source's images, an unknown part,
            and whatever the source finds wrong with its files.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 64,
        augment: Sequence[Augmentation] | None = None,
        eval_batch_size: int = 500,
        on_device: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least("data", 1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least("data", 0, seed=seed)
        for augmentation in augment or ():
            augmentation.check(source.spec)
        self.source = source
        self.batch_size = batch_size
        self.augment = tuple(augment or ())
        self.eval_batch_size = eval_batch_size
        self.on_device = on_device
        self.seed = seed
        # Position of the next batch to augment. Lightning fetches one batch ahead, so the stream itself is no guide.
        self._position = 0

    @property
    def spec(self) -> ImageSpec:
        """Size and range of the images."""
        return self.source.spec

    def images(self, part: str) -> Images:
        """Return all images of ``part`` ("train", "val" or "test")."""
        return self.source.load(part)

    def prepare_data(self) -> None:
        """Download and decode what the source needs, in one process per machine."""
        self.source.prepare()

    def train_dataloader(self) -> TrainStream:
        """Return the endless stream of this rank's training batches."""
        levels, labels = self._tensors("train")
        device = self._device()
        if self.on_device:
            levels, labels = levels.to(device), None if labels is None else labels.to(device)
        pin = device.type == "cuda" and not self.on_device
        return TrainStream(levels, labels, self.batch_size, self._seed(), *self._ranks(), self._begin, pin)

    def val_dataloader(self) -> EvalLoader:
        """Return this rank's share of the validation part."""
        return self._eval_loader("val")

    def test_dataloader(self) -> EvalLoader:
        """Return this rank's share of the test part."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> EvalLoader:
        """Return this rank's share of the validation part."""
        return self._eval_loader("val")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move ``batch`` to ``device``; free of cost where it lies there already."""
        if not isinstance(batch, Batch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        if batch.levels.device == device:
            return batch
        return Batch(*(None if field is None else field.to(device, non_blocking=True) for field in batch))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment ``batch`` if it is one for training."""
        if self.trainer is None or not self.trainer.training:
            return batch
        ranks, levels, position = self._ranks(), batch.levels, self._position
        self._position += ranks.count * len(levels)
        if not self.augment:
            return batch
        draws = Draws(keyed_generator(self._seed(), "augment", position), len(levels), ranks, levels.device)
        for augmentation in self.augment:
            levels = augmentation(levels, draws)
        return batch._replace(levels=levels)

    def _begin(self) -> int:
        """Position at which an iteration of the training stream begins: the model's images seen, if it counts them."""
        model = self.trainer.lightning_module if self.trainer is not None else None
        if isinstance(model, CountsImages):
            self._position = int(model.images_seen)
        return self._position

    def _eval_loader(self, part: str) -> EvalLoader:
        levels, labels = self._tensors(part)
        ranks = self._ranks()
        if len(levels) < ranks.count:
            raise InputError(f"the {part} part has {len(levels)} images for {ranks.count} processes: use fewer devices")
        return EvalLoader(levels, labels, self.eval_batch_size, *ranks, self._device().type == "cuda")

    def _tensors(self, part: str) -> tuple[Tensor, Tensor | None]:
        images = self.images(part)
        return _as_tensor(images.levels), None if images.labels is None else _as_tensor(images.labels)

    def _ranks(self) -> Ranks:
        return Ranks() if self.trainer is None else Ranks(self.trainer.global_rank, self.trainer.world_size)

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _seed(self) -> int:
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))


def _as_tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # A read-only memory map: nobody writes, batches are copies.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
