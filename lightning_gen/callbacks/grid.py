"""Pictures of samples from fixed latents, at each evaluation."""

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from lightning_gen.core import check_at_least, keyed_generator
from lightning_gen.data import ImageDataModule
from lightning_gen.evaluation import grid_picture, save_png
from lightning_gen.models.base import GenerativeModule


class WritesPictures:
    """Mixin of callbacks that write pictures into ``samples/`` of the run; a trial run writes none.

    Every rank draws them, since a model's parameters may be spread over all of them; the first one writes them.
    """

    folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not trainer.fast_dev_run:
            folder = Path(trainer.log_dir) / "samples"  # which all ranks must ask for together
            self.folder = folder if trainer.is_global_zero else None

    def write(self, image: Image.Image, name: str) -> None:
        """Write a picture under a name, where there is a folder."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_png(image, self.folder / name)


class SampleGrid(WritesPictures, Callback):
    """Write ``samples/<images seen>.png`` at each evaluation: always the same latents, so progress can be followed.

    Beside them, ``samples/training.png`` shows training images as they are decoded: cropping, turning and brightness.

    Args:
        n: images in the grid; 0 for none.
        columns: images per row; null for a class per column, or the squarest grid without classes.

    Raises:
        InputError: for numbers out of range.
    """

    def __init__(self, n: int = 64, columns: int | None = None):
        check_at_least("grid", 0, n=n)
        check_at_least("grid", 1, columns=columns)
        self.n = n
        self.columns = columns

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.n or not trainer.is_global_zero or not isinstance(trainer.datamodule, ImageDataModule):
            return
        levels = trainer.datamodule.images("train").levels
        places = np.linspace(0, len(levels) - 1, min(self.n, len(levels))).astype(int)  # over all classes
        self.write(grid_picture(torch.from_numpy(levels[places]), trainer.datamodule.spec), "training.png")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wanted = self.n and trainer.state.fn == "fit" and not trainer.sanity_checking
        if not wanted or not isinstance(pl_module, GenerativeModule):
            return
        labels, columns = None, self.columns
        if pl_module.conditional:
            labels = torch.arange(self.n, device=pl_module.device) % pl_module.spec.num_classes
            columns = columns or min(pl_module.spec.num_classes, self.n)  # a class per column
        levels = pl_module.sample(self.n, labels, generator=keyed_generator(pl_module.seed, "grid"))
        self.write(grid_picture(levels, pl_module.spec, columns), f"{pl_module.images_seen:012d}.png")
