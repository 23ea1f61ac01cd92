"""The one data module: any source, training stream, evaluation loaders, augmentation on the device."""

import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_gen.core import CountsImages, Draws, ImageSpec, InputError, Ranks, check_at_least, keyed_generator
from lightning_gen.data.augment import Augmentation
from lightning_gen.data.source import Batch, Images, Source
from lightning_gen.data.stream import EvalLoader, TrainStream

FEW_TO_TRAIN, FEW_TO_SCORE, FEW_OF_A_CLASS = 100, 50, 10  # images, fewer of which are worth a note
MOST_SHOWN = 20  # classes
LOOKED_AT = 4096  # training images, for the brightest level


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
        self._trained_on = np.empty(0, np.uint64)  # hashes of images, of a checkpoint
        self._held_out: set[str] = set()  # parts that were found to have none of them
        # Position of the next batch to augment. Lightning fetches one batch ahead, so the stream itself is no guide.
        self._position = 0

    @property
    def spec(self) -> ImageSpec:
        """Size and range of the images."""
        return self.source.spec

    def images(self, part: str) -> Images:
        """Return all images of ``part`` ("train", "val" or "test").

        Raises:
            InputError: for held-out images on which the model of a checkpoint was trained, see :meth:`load_state_dict`.
        """
        images = self.source.load(part)
        if part != "train" and part not in self._held_out and len(self._trained_on):
            self._refuse_trained_on(part)
        return images

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the data: its facts, and a hash of each image that was trained on."""
        trained_on = np.union1d(self._trained_on, self.source.hashes("train"))
        return {**self.facts(), "trained_on": torch.from_numpy(trained_on.view(np.int64))}

    def facts(self) -> dict[str, Any]:
        """Return how many images the parts of training have, and the names of the classes, as plain data."""
        parts = [part for part in ("train", "val") if part in self.source.parts]
        counts = {part: int(self.source.count(part).sum()) for part in parts}
        return {"images": counts, "classes": list(self.source.classes)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over from a checkpoint which images its model was trained on: none of them counts as held out here.

        Raises:
            InputError: where the classes were others.
        """
        for place, (then, now) in enumerate(zip_longest(state_dict["classes"], self.source.classes)):
            if then != now:
                raise InputError(
                    f"class {place} was {then} when the checkpoint was written and is {now}: name the classes as then"
                )
        self._trained_on = state_dict["trained_on"].cpu().numpy().view(np.uint64)
        self._held_out = set()

    def changes(self) -> str | None:
        """Say how the training images differ from those on which the model of a checkpoint was trained, or None."""
        if not len(self._trained_on):
            return None
        now = self.source.hashes("train")
        new, gone = (~np.isin(now, self._trained_on)).sum(), (~np.isin(self._trained_on, now)).sum()
        return (
            None
            if not new + gone
            else f"the training images are not those of the checkpoint: {new:,} are new, {gone:,} are gone"
        )

    def _refuse_trained_on(self, part: str) -> None:
        hashes = self.source.hashes(part)
        seen = np.isin(hashes, self._trained_on)
        if seen.any():  # an image that is in both parts today is a duplicate; others have changed their part
            seen &= ~np.isin(hashes, self.source.hashes("train"))
        if seen.any():
            raise InputError(
                f"this checkpoint was trained on {seen.sum():,} of the {len(hashes):,} images of the {part} part, so "
                "figures of these would not be of held-out images: give the data and their split as they were"
            )
        self._held_out.add(part)

    def counts(self, *parts: str) -> list[str]:
        """Say how many images ``parts`` have, of which classes, and what is noteworthy about them, a line each."""
        found = {part: self.source.count(part) for part in parts if part in self.source.parts}
        sizes = {part: int(count.sum()) for part, count in found.items()}
        lines = [f"data: {' and '.join(f'{n:,} {part}' for part, n in sizes.items())} images of {self.source.name}"]
        few = [part for part, n in sizes.items() if n < (FEW_TO_TRAIN if part == "train" else FEW_TO_SCORE)]
        notes = [f"{sizes[part]:,} images are few to {'train on' if part == 'train' else 'score by'}" for part in few]
        if self.spec.num_classes:
            names = [str(name) for name in self.source.classes or range(self.spec.num_classes)]
            for part, count in found.items():
                classes = [f"{name}: {n:,}" for name, n in zip(names, count, strict=True)]
                if len(classes) > MOST_SHOWN:
                    classes = [classes[0], classes[1], f"... ({count.min():,} to {count.max():,} each)", classes[-1]]
                lines.append(f"      {part}, {len(names)} classes: {', '.join(classes)}")
            rare = [name for name, n in zip(names, found.get("train", ()), strict=False) if n < FEW_OF_A_CLASS]
            if rare:
                notes.append(f"fewer than {FEW_OF_A_CLASS} training images of {len(rare)} classes, such as {rare[0]}")
        some = self.images("train").levels[:: max(1, sizes["train"] // LOOKED_AT)] if "train" in found else np.zeros(1)
        if 0 < some.max() < (self.spec.levels - 1) / 2:
            notes.append(
                f"no pixel is above {some.max()} of {self.spec.levels - 1}: were these stored with fewer bits than "
                "their files say?"
            )
        for part in sizes.keys() - {"train"} if "train" in found else ():
            if same := int(np.isin(self.source.hashes(part), self.source.hashes("train")).sum()):
                notes.append(f"{same:,} of the {sizes[part]:,} {part} images are equal to a training image")
        return lines + [f"note: {note}" for note in (*notes, *self.source.notes())]

    def prepare_data(self) -> None:
        """Download and decode what the source needs, in one process per machine."""
        self.source.prepare()

    def train_dataloader(self) -> TrainStream:
        """Return the endless stream of this rank's training batches."""
        if changes := self.changes():
            rank_zero_warn(changes)
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
