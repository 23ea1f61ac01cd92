"""What happens around training: averaging, evaluation, records, checkpoints."""

from lightning_gen.callbacks.budget import Budget
from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.callbacks.dashboards import Dashboards
from lightning_gen.callbacks.diagnostics import CollapseMonitor, Diagnostics
from lightning_gen.callbacks.ema import EMA
from lightning_gen.callbacks.evaluation import GenerativeEvaluation
from lightning_gen.callbacks.exact_resume import ExactResume
from lightning_gen.callbacks.grid import SampleGrid
from lightning_gen.callbacks.learning_rate import LearningRate
from lightning_gen.callbacks.pictures import HeldOutPictures
from lightning_gen.callbacks.progress import ImagesProgressBar
from lightning_gen.callbacks.recorder import MetricsCSV, Recorder, count_parameters
from lightning_gen.callbacks.signals import GracefulStop, RunInterrupted, StoppedAtOnce
from lightning_gen.callbacks.sweep import SweepTrial
from lightning_gen.callbacks.train_log import TrainLog
from lightning_gen.callbacks.wandb import WandbOptions, WandbRun

__all__ = [
    "EMA",
    "Budget",
    "Checkpoints",
    "CollapseMonitor",
    "Dashboards",
    "Diagnostics",
    "ExactResume",
    "GenerativeEvaluation",
    "GracefulStop",
    "HeldOutPictures",
    "ImagesProgressBar",
    "LearningRate",
    "MetricsCSV",
    "Recorder",
    "RunInterrupted",
    "SampleGrid",
    "StoppedAtOnce",
    "SweepTrial",
    "TrainLog",
    "WandbOptions",
    "WandbRun",
    "count_parameters",
]
