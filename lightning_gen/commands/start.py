"""Where a verb starts: the folder of its run, and the checkpoint that it goes on from or scores."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from lightning_gen.callbacks.wandb import agent_sweep
from lightning_gen.core import InputError
from lightning_gen.models import read_checkpoint
from lightning_gen.runs import CHILD_VARIABLE, RunFolder, run_of_checkpoint
from lightning_gen.sweeps import trial


@dataclass
class Start:
    """Where a verb starts.

    Attributes:
        folder: of the run that is trained; None where nothing is kept.
        resumed: whether that run was there before.
        path: of the checkpoint that is trained on or scored, if there is one.
        checkpoint: what it holds.
    """

    folder: RunFolder | None = None
    resumed: bool = False
    path: Path | None = None
    checkpoint: dict[str, Any] | None = None

    @property
    def own_folder(self) -> RunFolder | None:
        """The folder, in the process that writes into it."""
        return self.folder if rank_zero_only.rank == 0 else None


def config_files(options: Namespace) -> list[Path]:
    """Return the config files of the command line, without configs in JSON."""
    return [Path(str(file)) for file in options.get("config") or () if file is not None]


def experiment_of(options: Namespace) -> str:
    """Return the name of the folder of a run's versions."""
    sweep = agent_sweep()
    names = [file.stem for file in config_files(options)] or [options.model.class_path.rpartition(".")[2].lower()]
    return options.run.experiment or (f"sweep-{sweep}" if sweep else names[0])


def start_of_fit(options: Namespace, part: trial.Trial | None) -> Start:
    """Choose the folder and the checkpoint of a run, and write the latter into ``options.ckpt_path``.

    Args:
        options: of the command line.
        part: in a sweep, which chose the folder; None outside one.

    Raises:
        InputError: where no run can begin or go on there.
    """
    start, is_kept = Start(), not options.trainer.fast_dev_run
    if part is not None and is_kept:
        start.folder = RunFolder(part.folder)
        if start.folder.last.is_file():  # of an earlier attempt, which began as the options say
            start.resumed, options.ckpt_path, options.init_from = True, str(start.folder.last), None
        elif rank_zero_only.rank == 0:
            start.folder.clear(keep=trial.FILES)
    if options.ckpt_path is not None:
        if options.init_from is not None:
            raise InputError("--ckpt_path goes on with a run, --init_from starts a new one: give one of them")
        start.path, run = _to_train_on(options, part)
        if run is not None:
            start.folder, start.resumed = run, True
        start.checkpoint = read_checkpoint(start.path)
        options.ckpt_path = str(start.path)
    if is_kept and rank_zero_only.rank == 0:
        start.folder = start.folder or RunFolder.new(options.run.root, options.run.experiment)
        os.environ[CHILD_VARIABLE] = str(start.folder.path)
    elif is_kept and CHILD_VARIABLE in os.environ:  # started on this machine by the first rank, which chose
        start.folder = RunFolder(os.environ[CHILD_VARIABLE])
    return start


def start_of_scoring(verb: str, options: Namespace) -> Start:
    """Find the checkpoint that a verb other than fit is about, and write it into ``options.ckpt_path``.

    Raises:
        InputError: where there is none.
    """
    given = options.ckpt_path
    if given is None:
        raise InputError(f"{verb} what? give --ckpt_path FILE, or last or best (of the newest run)")
    path = Path(given)
    if given in ("last", "best"):
        run = _run_of_config(options) or RunFolder.newest(options.run.root, options.run.experiment)
        path = getattr(run, given)
        if not path.is_file():
            raise InputError(f"{run.path} has no {given} checkpoint: set checkpoint.monitor, or use last")
    options.ckpt_path = str(path)
    return Start(path=path, checkpoint=read_checkpoint(path))


def _to_train_on(options: Namespace, part: trial.Trial | None) -> tuple[Path, RunFolder | None]:
    """Return the checkpoint that training goes on from, and its run where that run is continued."""
    if options.ckpt_path == "best":
        raise InputError("--ckpt_path best: training goes on from last, or from a file")
    if options.ckpt_path == "last":
        own = _run_of_config(options)
        run = own.check_unfinished() if own else RunFolder.unfinished(options.run.root, options.run.experiment)
        return run.last, run
    path = Path(options.ckpt_path)
    run = run_of_checkpoint(path) if part is None and path.name == "last.ckpt" else None
    if run is not None:
        run.refuse_if_running()
    return path, run


def _run_of_config(options: Namespace) -> RunFolder | None:
    """Return the run whose own config.yaml was given as the first config, if it was."""
    files = config_files(options)
    is_own = files and files[0].name == "config.yaml" and (files[0].parent / "summary.json").is_file()
    return RunFolder(files[0].parent) if is_own else None
