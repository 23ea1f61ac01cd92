"""From an exception to one line and an exit code."""

import errno
import re

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from lightning_gen.commands.messages import input_error_behind
from lightning_gen.runs import RunFolder
from lightning_gen.steps.guard import TrainingDiverged

NO_CHECKPOINT = "no checkpoint was written"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def explain(error: Exception, folder: RunFolder | None) -> tuple[str, int]:
    """Return one line for the user and the exit code, or '' for an error that is not the user's or the machine's.

    Args:
        error: what was raised.
        folder: of the run, which may hold a checkpoint to go on from.
    """
    text = str(error)
    if cause := input_error_behind(error, MisconfigurationException):
        return str(cause), 2
    if isinstance(error, OmegaConfBaseException):
        return f"the config cannot be resolved: {text.splitlines()[0]}", 2
    if needed := re.search(r"Requirement '.*' not met.*", text):
        return f"a package is missing: {needed[0]}", 2
    if isinstance(error, RuntimeError) and "Early stopping conditioned on metric" in text:
        return f"trainer.callbacks: {text}", 2
    if isinstance(error, TrainingDiverged):
        return f"training diverged: {text}", 1
    last = folder.last if folder is not None and folder.last.is_file() else None
    good = f"the last good checkpoint is {last}, go on from it with --ckpt_path last" if last else NO_CHECKPOINT
    if isinstance(error, PermissionError | NotADirectoryError):
        return f"{text.partition('] ')[2] or text}: choose another folder; {good}", 1 if last else 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.filename or 'while writing'}): free some space; {good}", 1
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(w in text.lower() for w in OUT_OF_MEMORY):
        remedy = "lower --data.batch_size or --evaluation.batch_size, or a network's width"
        return f"out of memory: {remedy}; {good}", 1
    return "", 1
