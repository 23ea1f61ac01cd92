"""Pictures of what an encoder keeps of held-out images, at each evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from lightning_gen.callbacks.evaluation import choose_images, own_randomness
from lightning_gen.callbacks.grid import GREY, grid_picture, pixel_grid, save_png, to_pixels
from lightning_gen.data import ImageDataModule, Images
from lightning_gen.errors import InputError
from lightning_gen.models.base import GenerativeModule, HasLatent, evaluating, keyed_seed
from lightning_gen.models.latents import path_between

STEPS = 8  # images between the two ends of a row


class LatentPictures(Callback):
    """Write ``samples/<images seen>-reconstructions.png`` and ``-interpolations.png`` at each evaluation of a model
    that encodes images and decodes latents; of any other model there are none.

    Reconstructions are decoded from the latents of held-out images: a row of images, below it what came back.
    Interpolations are decoded from latents between those of two held-out images, which stand at the ends of the row: on
    great circles where the latent is standard normal, else on straight lines, and for a class-conditional model between
    images of one class. Latents that are no real numbers, such as codes, have nothing between them. The images are
    always the same, so progress can be followed, and no randomness of training is used.

    Args:
        n: images to reconstruct, or as many as the held-out part has; 0 for none.
        pairs: pairs of images to interpolate, or as many as there are; 0 for none.

    Raises:
        InputError: for numbers below 0.
    """

    def __init__(self, n: int = 32, pairs: int = 8):
        if n < 0 or pairs < 0:
            raise InputError(f"pictures.n and pictures.pairs must be at least 0, got {n} and {pairs}")
        self.n = n
        self.pairs = pairs
        self.folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not trainer.fast_dev_run:
            self.folder = Path(trainer.log_dir) / "samples"

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wanted = trainer.state.fn == "fit" and trainer.is_global_zero and not trainer.sanity_checking
        if not wanted or not isinstance(pl_module, GenerativeModule) or not isinstance(pl_module, HasLatent):
            return
        if not isinstance(trainer.datamodule, ImageDataModule):
            return
        images = trainer.datamodule.images("val")
        seed = keyed_seed(pl_module.seed, "pictures")
        with evaluating(pl_module), own_randomness(seed, pl_module.device):
            sheets = {}
            if self.n:
                sheets["reconstructions"] = reconstructions(pl_module, images, self.n)
            if self.pairs and (sheet := interpolations(pl_module, images, self.pairs)) is not None:
                sheets["interpolations"] = sheet
        if self.folder is None:
            return
        for name, sheet in sheets.items():
            self.folder.mkdir(parents=True, exist_ok=True)
            save_png(sheet, self.folder / f"{pl_module.images_seen:012d}-{name}.png")


def _take(model: GenerativeModule, images: Images, places: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the images at these places on the model's device, with the labels that it heeds."""
    rows = places.numpy()
    labels = torch.from_numpy(images.labels[rows]).to(model.device) if model.conditional else None
    return torch.from_numpy(images.levels[rows]).to(model.device), labels


def reconstructions(model: GenerativeModule, images: Images, n: int) -> Image.Image:
    """Return a picture of ``n`` images, each above what the model decodes from its latent."""
    levels, labels = _take(model, images, choose_images(len(images.levels), n))
    decoded = model.decode(model.encode(levels, labels), labels)
    columns = math.ceil(math.sqrt(2 * len(levels)))
    rows = -(-len(levels) // columns)
    missing = rows * columns - len(levels)
    sides = []
    for side in (levels, decoded):
        pixels = to_pixels(side, model.spec)
        blank = np.full((missing, *pixels.shape[1:]), GREY, np.uint8)
        sides.append(np.concatenate([pixels, blank]).reshape(rows, columns, *pixels.shape[1:]))
    return pixel_grid(np.stack(sides, 1).reshape(-1, *sides[0].shape[2:]), columns)


def interpolations(model: GenerativeModule, images: Images, pairs: int) -> Image.Image | None:
    """Return a picture of ``pairs`` rows, each from one image to another through latents between theirs.

    None where there is nothing between latents, or no two images of a class.
    """
    places = choose_pairs(len(images.levels), images.labels if model.conditional else None, pairs)
    if not len(places):
        return None
    levels, labels = _take(model, images, places.flatten())
    latent = model.encode(levels, labels)
    if not latent.is_floating_point():
        return None
    ends = latent.flatten(1).to(torch.promote_types(latent.dtype, torch.float32))
    ways = path_between(model, ends[0::2], ends[1::2], STEPS)
    labels = None if labels is None else labels[0::2].repeat_interleave(STEPS)
    decoded = model.decode(ways.view(-1, *latent.shape[1:]).to(latent.dtype), labels)
    between = decoded.unflatten(0, (len(places), STEPS)).to(levels.device)
    rows = torch.cat([levels[0::2, None], between, levels[1::2, None]], 1)
    return grid_picture(rows.flatten(0, 1), model.spec, STEPS + 2)


def choose_pairs(count: int, labels: np.ndarray | None, pairs: int) -> Tensor:
    """Return the places (P, 2) of at most ``pairs`` pairs of ``count`` images, always the same, no image twice.

    Args:
        count: number of images.
        labels: classes (count,), for pairs of one class each.
        pairs: most pairs.
    """
    waiting: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for place in torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist():
        label = 0 if labels is None else int(labels[place])
        if label not in waiting:
            waiting[label] = place
        elif len(found) < pairs:
            found.append((waiting.pop(label), place))
        else:
            break
    return torch.tensor(found, dtype=torch.int64).view(-1, 2)
