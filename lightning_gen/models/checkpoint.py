"""Loading models from checkpoints, without running code from the file."""

import copy
import os
import pickle
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lightning_gen.core import TRUSTED, ImageSpec, InputError, build
from lightning_gen.models.base import ImageModule
from lightning_gen.models.state import CHECKPOINT_KEY, check_format

# What torch's unpickler raises for a corrupt file.
DAMAGED = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, struct.error, zipfile.BadZipFile)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Return the content of a checkpoint of lightning-gen.

    Raises:
        InputError: for a file that is missing, truncated or not a checkpoint, that holds anything but plain data and
            tensors, or that was not written by this version's format of lightning-gen.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}" + (" (it is a folder)" if path.is_dir() else ""))
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: its permissions forbid it")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a checkpoint, or was cut short")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than plain data and tensors, so loading it could run code: refused "
            f"({_first_reason(error)})"
        ) from error
    except DAMAGED as error:
        raise InputError(
            f"{path} cannot be read as a checkpoint: {_one_line(error) or type(error).__name__}"
        ) from error
    state = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not {"format", "version", "model", "spec"} <= state.keys():
        raise InputError(f"{path} was not written by lightning-gen: it does not describe its model")
    check_format(state)
    return checkpoint


def _first_reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])[:160]


def load(
    path: str | Path,
    *,
    trust: Sequence[str] = (),
    map_location: Any = "cpu",
    average: bool = True,
    checkpoint: dict[str, Any] | None = None,
) -> ImageModule:
    """Return the model stored in a checkpoint, in eval mode.

    Args:
        path: file written by ``lightning fit`` or ``Trainer.save_checkpoint``.
        trust: further packages from which classes may be built, such as the one with your networks.
        map_location: device for the weights, as in ``torch.load``.
        average: whether to use the exponential moving average of the weights if the checkpoint has one.
        checkpoint: the result of :func:`read_checkpoint` for this path, to avoid reading it twice.

    Raises:
        InputError: as :func:`read_checkpoint`, and for classes of packages that are not trusted.
    """
    checkpoint = checkpoint or read_checkpoint(path, map_location)
    state = checkpoint[CHECKPOINT_KEY]
    model = build(state["model"], ImageModule, _trusted(trust), "model", spec=ImageSpec(**state["spec"]))
    try:
        model.load_state_dict(checkpoint["state_dict"])
        for name, module in model.averaged_modules().items():
            if average and "ema" in checkpoint:
                module.load_state_dict(checkpoint["ema"][name])
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: the weights do not fit the model that the file describes: {_one_line(error)}"
        ) from error
    model.on_load_checkpoint(checkpoint)
    return model.to(map_location if isinstance(map_location, str | torch.device) else "cpu").eval()


def load_data(checkpoint: dict[str, Any], trust: Sequence[str] = (), root: str | None = None) -> LightningDataModule:
    """Build the data module that a checkpoint describes; it knows on which images the model was trained.

    Args:
        checkpoint: what :func:`read_checkpoint` returned.
        trust: further packages from which classes may be built.
        root: folder in which the source's files are now, where they have moved since.

    Raises:
        InputError: where the checkpoint describes no data (a model saved by a plain Trainer without data module), they
            are not found, or their classes are others.
    """
    description = copy.deepcopy(checkpoint[CHECKPOINT_KEY]["data"])
    if description is None:
        raise InputError("the checkpoint does not say on which data its model was trained: give the data in a config")
    source = description["init_args"].get("source")
    arguments = source["init_args"] if isinstance(source, dict) else {}
    if root is not None:
        if "root" not in arguments:
            raise InputError("--data_root: the data of this checkpoint are in no folder of their own: leave it out")
        arguments["root"] = os.path.abspath(Path(root).expanduser())
    if arguments.get("root") is not None and not Path(arguments["root"]).exists():
        raise InputError(f"{arguments['root']}, the folder of the data, is not there: give --data_root DIR")
    data = build(description, LightningDataModule, _trusted(trust), "data")
    if state := checkpoint.get(type(data).__qualname__):  # where Lightning keeps it
        data.load_state_dict(state)
    return data


def class_names(checkpoint: dict[str, Any]) -> list[str]:
    """Return the names of the classes of a checkpoint's data, in the order of labels; none where it tells none."""
    _, _, data = (checkpoint[CHECKPOINT_KEY]["data"] or {}).get("class_path", "").rpartition(".")
    return checkpoint.get(data, {}).get("classes", [])


def _trusted(trust: Sequence[str]) -> tuple[str, ...]:
    return (*TRUSTED, *([trust] if isinstance(trust, str) else trust))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
