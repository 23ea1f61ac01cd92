"""What a run leaves behind: metrics.csv, config.yaml, summary.json and the last line on the screen."""

import csv
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

import lightning_gen
from lightning_gen.callbacks.budget import Budget
from lightning_gen.callbacks.evaluation import GenerativeEvaluation
from lightning_gen.callbacks.signals import RunInterrupted, StoppedAtOnce
from lightning_gen.callbacks.sweep import SweepTrial
from lightning_gen.core import Figure, describe, write_text
from lightning_gen.data import ImageDataModule
from lightning_gen.models import GenerativeModule
from lightning_gen.runs import FINISHED, PRUNED, RUNNING, RunFolder, read_metrics, write_metrics

SECONDS = "seconds"
"""Column of metrics.csv: time spent in ``fit`` so far, evaluation included, over all sessions."""


class MetricsCSV(Logger):
    """Append figures to metrics.csv of the run's folder, one row a call, by images seen.

    Attributes:
        clock: says how many seconds the run has spent so far, for a column of that name; None for no such column.
    """

    def __init__(self, folder: RunFolder | None):
        super().__init__()
        self.folder = folder
        self.clock: Callable[[], float] | None = None
        self._header: list[str] | None = None

    # Lightning's ModelCheckpoint joins save_dir, name and version: save_dir is the run's folder already.
    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str | None:
        return None if self.folder is None else str(self.folder.path)

    @property
    def log_dir(self) -> str | None:
        """The run's folder."""
        return self.save_dir

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.folder is None:
            return
        path = self.folder.path / "metrics.csv"
        clock = {} if self.clock is None else {SECONDS: round(self.clock(), 3)}
        row = {"images_seen": step, **clock, **{name: float(value) for name, value in metrics.items()}}
        if self._header is None:
            self._header, _ = read_metrics(path)
        missing = [name for name in row if name not in self._header]
        if missing or not path.is_file():
            _, rows = read_metrics(path)
            self._header += missing
            write_metrics(path, self._header, [*rows, row])
            return
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._header).writerow(row)


class Recorder(Callback):
    """Write config.yaml and summary.json into the run's folder, and cut metrics.csv back when a run is resumed.

    Args:
        folder: the run's folder, or None on other ranks and in trial runs.
        config: text of the complete config.
        resumed: whether the run goes on in a folder that was there before.
    """

    def __init__(self, folder: RunFolder | None, config: str, resumed: bool = False):
        self.folder = folder
        self.config = config
        self.resumed = resumed
        self.last: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.figures: dict[str, dict[str, Any]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "best": self.best, "figures": self.figures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last, self.best = dict(state_dict["last"]), dict(state_dict["best"])
        self.figures = dict(state_dict.get("figures", {}))

    def note_figures(self, figures: dict[str, float], about: dict[str, Figure]) -> None:
        """Keep what each figure is, its last value, and the best of those whose direction is known."""
        self.last |= figures
        self.figures |= {name: figure.as_dict() for name, figure in about.items()}
        for name, figure in about.items():
            value, known = figures[name], self.best.get(name)
            better = known is None or (value > known if figure.higher else value < known)
            if figure.higher is not None and value == value and better:
                self.best[name] = value

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.folder is None:
            return
        path = self.folder.path / "config.yaml"
        if self.resumed:
            self.folder.cut_metrics(pl_module.images_seen)
            if path.is_file() and path.read_text(encoding="utf-8") != self.config:
                path.replace(path.with_name(f"config.until-{pl_module.images_seen}.yaml"))
        write_text(path, self.config)
        self.write(trainer, pl_module, RUNNING)
        budget = _budget(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV) and budget is not None:
                logger.clock = lambda: budget.seconds

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.write(trainer, pl_module, RUNNING)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pruned = any(isinstance(callback, SweepTrial) and callback.pruned for callback in trainer.callbacks)
        self.write(trainer, pl_module, PRUNED if pruned else FINISHED)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        stopped = isinstance(exception, RunInterrupted | StoppedAtOnce | KeyboardInterrupt)
        if self.folder is not None and (self.folder.path / "summary.json").is_file():
            self.write(trainer, pl_module, "interrupted" if stopped else "failed")

    def write(self, trainer: Trainer, pl_module: LightningModule, status: str) -> None:
        """Write summary.json."""
        if self.folder is None:
            return
        budget = _budget(trainer)
        evaluation = next((c for c in trainer.callbacks if isinstance(c, GenerativeEvaluation)), None)
        facts, controls = ({}, {}) if evaluation is None else (evaluation.likelihood_facts, evaluation.controls)
        data = trainer.datamodule
        self.folder.write_summary(
            {
                "status": status,
                "last": self.last,
                "best": self.best,
                **({"likelihood": facts} if facts else {}),
                **({"controls": controls} if controls else {}),
                "figures": self.figures,
                **({"sampler": describe(pl_module.sampler)} if isinstance(pl_module, GenerativeModule) else {}),
                **({"data": data.facts()} if isinstance(data, ImageDataModule) else {}),
                "images_seen": pl_module.images_seen,
                "skipped_steps": pl_module.guard.skipped_steps,
                "seconds": None if budget is None else round(budget.seconds, 3),
                "processor_seconds": None if budget is None else round(budget.processor_seconds, 3),
                "parameters": count_parameters(pl_module),
                "seed": pl_module.seed,
                "ranks": trainer.world_size,
                "precision": str(trainer.precision),
                "device": device_name(pl_module.device),
                "versions": package_versions(),
                "git_commit": git_commit(),
                "command": sys.argv,
                "host": socket.gethostname(),
                "pid": os.getpid(),
            }
        )


def _budget(trainer: Trainer) -> Budget | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, Budget)), None)


def count_parameters(module: LightningModule) -> dict[str, int]:
    """Return the number of parameters of each part that has any."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}
    counts |= {name: parameter.numel() for name, parameter in module.named_parameters(recurse=False)}
    return {name: count for name, count in counts.items() if count}


def device_name(device: torch.device) -> str:
    """Return what the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def package_versions() -> dict[str, str]:
    """Return the versions that figures depend on."""
    names = ("torch", "lightning", "torchmetrics", "torchvision", "torch-fidelity", "numpy")
    return {
        "lightning-gen": lightning_gen.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def git_commit() -> str | None:
    """Return the commit of the working directory's repository, with ``+`` where files are changed; None outside one."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
