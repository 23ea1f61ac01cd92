"""The callbacks of every run, and the order in which Lightning calls them."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback

from lightning_gen.callbacks import (
    EMA,
    Budget,
    Checkpoints,
    CollapseMonitor,
    Diagnostics,
    ExactResume,
    GenerativeEvaluation,
    GracefulStop,
    HeldOutPictures,
    ImagesProgressBar,
    LearningRate,
    Recorder,
    SampleGrid,
    SweepTrial,
    TrainLog,
)
from lightning_gen.callbacks.wandb import WandbArtifacts
from lightning_gen.core import InputError
from lightning_gen.sweeps.trial import Trial

# By the group of their options.
CALLBACKS = {
    "budget": Budget,
    "schedule": LearningRate,
    "ema": EMA,
    "evaluation": GenerativeEvaluation,
    "diagnostics": Diagnostics,
    "collapse": CollapseMonitor,
    "checkpoint": Checkpoints,
    "grid": SampleGrid,
    "pictures": HeldOutPictures,
}


def in_order(
    made: Sequence[Callback],
    dashboards: Sequence[Callback],
    recorder: Recorder,
    part: Trial | None,
    trainer: dict[str, Any],
) -> list[Callback]:
    """Return a run's callbacks in the order of their calls; those of the config come before.

    Args:
        made: those of :data:`CALLBACKS`.
        dashboards: what W&B and TensorBoard need.
        recorder: of the run.
        part: in a sweep.
        trainer: options of the trainer, which leave some out.

    Raises:
        InputError: where checkpoints are to be uploaded and none are written.
    """
    saves = trainer.get("enable_checkpointing") is not False
    if not saves and any(isinstance(callback, WandbArtifacts) for callback in dashboards):
        raise InputError("wandb.artifacts: this run writes no checkpoints (trainer.enable_checkpointing)")
    shows_progress = trainer.get("enable_progress_bar") in (None, True)
    averages = [callback for callback in made if isinstance(callback, EMA)]
    others = [c for c in made if c not in averages and (saves or not isinstance(c, Checkpoints))]
    return [
        *averages,  # before all that looks at the model, so that it sees averaged weights in an evaluation
        TrainLog(),
        *others,
        *dashboards,
        recorder,  # after all that finds figures
        ExactResume(),
        *([ImagesProgressBar()] if shows_progress else []),
        *([SweepTrial(part)] if part is not None else []),  # when the figures of an evaluation are complete
        GracefulStop(),  # all state is settled then; checkpoints come later still: Lightning puts them at the end
    ]
