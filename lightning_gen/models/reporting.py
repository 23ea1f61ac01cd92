"""Reporting the results of an evaluation to loggers and callbacks."""

from collections.abc import Iterable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_gen.core import Figure, find_figure


def report(model: LightningModule, figures: dict[str, float], declared: Iterable[Figure] = ()) -> None:
    """Pass the results of an evaluation to loggers, to monitoring callbacks, and to the run's summary.

    Call it at the end of a validation or test epoch, on all ranks, with figures that are equal on all of them.

    Args:
        model: an ImageModule.
        figures: value by name, such as ``val/accuracy``.
        declared: what they are, beside those that the model itself declares. The best value is kept of those with a
            direction; the progress line shows those that lead, and those that nobody declared.
    """
    trainer, known = model.trainer, (*model.figures, *declared)
    about = {name: figure for name in figures if (figure := find_figure(name, known)) is not None}
    for name, value in figures.items():
        if value != value:
            rank_zero_warn(f"{name} is not a number at {model.images_seen:,} images seen")
        model.log(name, torch.tensor(value, dtype=torch.float64), logger=False, sync_dist=trainer.world_size > 1)
    if trainer.state.fn == "fit":
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=model.images_seen)
    for callback in trainer.callbacks:
        if note := getattr(callback, "note_figures", None):
            note(figures, about)


class HeldOutFigures(Callback):
    """Report the torchmetrics in a model's ``held_out`` after each validation and test epoch."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(pl_module, "test")

    @staticmethod
    def _report(model: LightningModule, part: str) -> None:
        if model.held_out is None:
            return
        own = {figure.name for figure in model.figures}
        further = [Figure(name, "", m.higher_is_better) for name, m in model.held_out.items() if name not in own]
        figures = {f"{part}/{name}": float(value) for name, value in model.held_out.compute().items()}
        model.held_out.reset()
        report(model, figures, further)
