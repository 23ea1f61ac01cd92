"""Weights & Biases and TensorBoard: whether they are on, their loggers, and a run's beginning and end there."""

import inspect
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lightning_gen.callbacks import Dashboards, WandbOptions, WandbRun
from lightning_gen.callbacks.wandb import agent_sweep, note_agent_trial, options_of
from lightning_gen.commands.start import Start
from lightning_gen.core import InputError
from lightning_gen.models.state import CHECKPOINT_KEY
from lightning_gen.runs import RunFolder

OWN = {cls.__name__: cls for cls in (WandbLogger, TensorBoardLogger)}


def switch_on(options: Namespace, arguments: Sequence[str]) -> None:
    """Settle whether W&B and TensorBoard are on, so that one place decides about names and folders.

    A logger of the trainer for which the project has options of its own is replaced by these options.

    Args:
        options: of the command line, which are changed.
        arguments: the command line itself.

    Raises:
        InputError: for options of W&B where it is off, and arguments of its logger that have no counterpart.
    """
    left = [logger for logger in listed(options.trainer.logger) if not _is_replaced(logger, options)]
    if isinstance(options.trainer.logger, Namespace | list):
        options.trainer.logger = left or None
    options.run.wandb = options.run.wandb or agent_sweep() is not None
    given = [argument.partition("=")[0] for argument in arguments if argument.startswith("--wandb.")]
    if given and not options.run.wandb:
        raise InputError(f"{given[0]}: W&B is off: add --run.wandb true")


def listed(logger: Any) -> list[Any]:
    """Return the loggers that an option names, which may be one, several, or only whether there is one."""
    loggers = logger if isinstance(logger, list) else [logger]
    return [item for item in loggers if not isinstance(item, bool | None)]


def _is_replaced(logger: Namespace, options: Namespace) -> bool:
    """Whether a logger of the config is Lightning's for W&B or TensorBoard, and the project's options now say so."""
    root, _, name = logger.class_path.rpartition(".")
    if name not in OWN or root.partition(".")[0] != "lightning":
        return False
    arguments = _changed_arguments(logger, OWN[name])
    if name == "TensorBoardLogger":
        is_plain = set(arguments) == {"save_dir"} and arguments["save_dir"] in (".", "")
        options.run.tensorboard = options.run.tensorboard or is_plain
        return is_plain
    options.run.wandb = True
    unset = inspect.signature(WandbOptions).parameters
    for key, value in options_of(arguments, dict(logger.get("dict_kwargs") or {})).items():
        if options.wandb[key] == unset[key].default:
            options.wandb[key] = value
    return True


def _changed_arguments(logger: Namespace, cls: type) -> dict[str, Any]:
    """Return the arguments of a logger of the config that are not its class's defaults."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "logger")  # which knows what the class passes on, too
    defaults = parser.get_defaults().logger.as_dict()
    return {name: value for name, value in logger.init_args.as_dict().items() if value != defaults.get(name)}


def dashboards(run: Namespace, wandb: WandbOptions, start: Start, config: str) -> list[Logger]:
    """Return the loggers that are on.

    Args:
        run: options of its group.
        wandb: options of its group.
        start: with the run's folder.
        config: the complete config.

    Raises:
        InputError: for TensorBoard where it is not installed.
    """
    folder, loggers = start.own_folder, []
    if folder is not None and run.wandb:
        name = f"{run.experiment}/{folder.path.name}"
        loggers.append(WandbRun(folder, wandb, name, yaml.safe_load(config), start.resumed))
    if folder is not None and run.tensorboard:
        if not find_spec("tensorboard"):
            raise InputError("run.tensorboard needs TensorBoard: pip install 'lightning-gen[tensorboard]'")
        # What an earlier session logged after the checkpoint is logged again.
        purge = start.checkpoint[CHECKPOINT_KEY]["images_seen"] + 1 if start.resumed else None
        where = {"save_dir": str(folder.path), "name": "", "version": "tensorboard"}
        loggers.append(TensorBoardLogger(**where, default_hp_metric=False, purge_step=purge))
    return loggers


def callbacks_of(loggers: Sequence[Logger], folder: RunFolder | None, config: str) -> list[Callback]:
    """Return what W&B and TensorBoard need of callbacks, where one of them is on."""
    if folder is None or not any(isinstance(logger, WandbLogger | TensorBoardLogger) for logger in loggers):
        return []
    further = [callback for run in loggers if isinstance(run, WandbRun) for callback in run.callbacks()]
    return [Dashboards(folder, yaml.safe_load(config)), *further]


def begin(loggers: Sequence[Logger], folder: RunFolder | None) -> None:
    """Open W&B's run: before other ranks are started, so that they do not wait for one that is refused."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.start()
    if folder is not None:
        note_agent_trial(folder, "running")


def finish(trainer: Trainer, folder: RunFolder | None) -> None:
    """Close W&B's run, with an exit code, however training ended."""
    code = int(trainer.state.status != "finished")
    for logger in trainer.loggers:
        if isinstance(logger, WandbRun):
            logger.finish(code)
        elif isinstance(logger, WandbLogger) and logger._experiment is not None:  # one that a user made
            logger._experiment.finish(exit_code=code)
    if folder is not None:
        note_agent_trial(folder, folder.summary().get("status", "failed"))
