"""Reporting the results of an evaluation to loggers and callbacks."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn


def report(
    model: LightningModule,
    figures: dict[str, float],
    higher_is_better: dict[str, bool] | None = None,
    detail: bool = False,
) -> None:
    """Pass the results of an evaluation to loggers, to monitoring callbacks, and to the run's summary.

    Call it at the end of a validation or test epoch, on all ranks, with figures that are equal on all of them.

    Args:
        model: an ImageModule.
        figures: value by name, such as ``val/accuracy``.
        higher_is_better: direction by name, for the figures whose best value is kept.
        detail: whether to leave the figures out of the progress line.
    """
    trainer = model.trainer
    for name, value in figures.items():
        if value != value:
            rank_zero_warn(f"{name} is not a number at {model.images_seen:,} images seen")
        model.log(name, torch.tensor(value, dtype=torch.float64), logger=False, sync_dist=trainer.world_size > 1)
    if trainer.state.fn == "fit":
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=model.images_seen)
    for callback in trainer.callbacks:
        if note := getattr(callback, "note_details" if detail else "note_figures", None):
            note(figures, higher_is_better or {})


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
        better = {name: metric.higher_is_better for name, metric in model.held_out.items()}
        figures = {f"{part}/{name}": float(value) for name, value in model.held_out.compute().items()}
        model.held_out.reset()
        report(model, figures, {f"{part}/{name}": value for name, value in better.items() if value is not None})
