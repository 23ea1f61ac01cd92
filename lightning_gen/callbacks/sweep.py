"""A run inside a sweep: it reports the sweep's metric at each evaluation, and stops when the sweep asks for it."""

import difflib
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.core import CountsImages, InputError
from lightning_gen.sweeps.trial import Trial


class SweepTrial(Callback):
    """Report the metric of the sweep that started this run after each evaluation; end the run if the sweep says so.

    A run that is told to stop ends with the evaluation that it was told after, with everything saved, on all ranks, and
    its status is "pruned". Evaluations are counted over all sessions of a resumed run.

    Args:
        trial: this run's part in the sweep.

    Attributes:
        count: evaluations so far.
        pruned: whether the run was told to stop before its budget was spent.
    """

    KEY = "sweep_evaluations"

    def __init__(self, trial: Trial):
        self.trial = trial
        self.count = 0
        self.pruned = False

    # Not state_dict: whoever resumes the run outside the sweep, without this callback, would be warned of its absence.
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[self.KEY] = self.count

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.count = checkpoint.get(self.KEY, 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self.count += 1
        figures = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        figures.pop("step", None)
        metric = self.trial.metric
        if metric not in figures:
            self.trial.no_metric(sorted(figures))
            near = difflib.get_close_matches(metric, figures, max(1, len(figures)), 0)
            raise InputError(f"the sweep wants {metric!r}, and an evaluation gives {', '.join(near) or 'no figure'}")
        images = pl_module.images_seen if isinstance(pl_module, CountsImages) else trainer.global_step
        # The other ranks have no link to the sweep, and are told here.
        stop = trainer.strategy.broadcast(self.trial.report(images, self.count, figures[metric]))
        if stop and not trainer.should_stop:  # else this was the last evaluation anyway
            self.pruned = True
            trainer.should_stop = True
