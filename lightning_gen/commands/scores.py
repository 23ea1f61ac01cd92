"""What validate, test and predict write."""

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lightning_gen.callbacks import GenerativeEvaluation
from lightning_gen.commands.common import print_figures
from lightning_gen.commands.screen import say
from lightning_gen.core import HasLikelihood, InputError, check_file, describe, flat, write_json
from lightning_gen.data import ImageDataModule
from lightning_gen.models import GenerativeModule, ImageModule
from lightning_gen.runs import run_of_checkpoint

PARTS = {"validate": "val", "test": "test"}
PREDICTIONS = Path("predictions.npy")


@rank_zero_only
def report(verb: str, trainer: Trainer, model: ImageModule, data: LightningDataModule, checkpoint: Path) -> None:
    """Print what ``validate`` or ``test`` found, and write it into the checkpoint's run.

    Raises:
        InputError: where nothing was asked for.
    """
    results = {name: float(value) for name, value in trainer.callback_metrics.items()}
    evaluation = next(callback for callback in trainer.callbacks if isinstance(callback, GenerativeEvaluation))
    if not results:
        able = isinstance(model, HasLikelihood) and evaluation.likelihood is False
        off = ", or set evaluation.likelihood to true" if able else ""
        raise InputError(f"nothing to report: give evaluation.extractor and evaluation.metrics{off}")
    if isinstance(data, ImageDataModule):
        say("\n".join(data.counts(PARTS[verb])))
    print_figures(results, evaluation.controls)
    folder = run_of_checkpoint(checkpoint)
    if folder is not None:
        facts = {"checkpoint": str(checkpoint), "images_seen": model.images_seen} | evaluation.description()
        sampler = {"sampler": describe(model.sampler)} if isinstance(model, GenerativeModule) else {}
        path = folder.path / f"{verb}.json"
        write_json(path, flat(results | facts | sampler))
        say(f"written to {path}")


def check_predictions(trainer: Trainer) -> None:
    """Raise InputError where ``predict`` could not write what it draws."""
    if trainer.world_size > 1:
        raise InputError("predict draws on one device: give --trainer.devices 1")
    if PREDICTIONS.exists():
        raise InputError(f"{PREDICTIONS} exists: rename or remove it, or run predict in another folder")
    check_file("predict:", PREDICTIONS)


def write_predictions(drawn: list[torch.Tensor] | None) -> None:
    """Write what ``predict`` drew; nothing where Lightning gives nothing back."""
    if drawn:
        np.save(PREDICTIONS, torch.cat(drawn).cpu().numpy())
        say(f"{sum(map(len, drawn))} images written to {PREDICTIONS}")
