"""The plain data that a checkpoint stores beside the weights, from which its model can be rebuilt."""

import hashlib
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

import lightning_gen
from lightning_gen.core import ImageSpec, InputError, describe
from lightning_gen.steps.surroundings import trainer_of

CHECKPOINT_FORMAT = 2
CHECKPOINT_KEY = "lightning_gen"


def save_state(model: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Write the description of an ImageModule, of its data and of its training progress into ``checkpoint``."""
    datamodule = getattr(trainer_of(model), "datamodule", None)
    data = None
    if datamodule is not None:
        try:
            data = describe(datamodule, type(datamodule).__name__)
        except InputError as error:  # training on it is fine; only `lightning evaluate` will need a config
            rank_zero_warn(f"the checkpoint does not describe its data: {error}")
    checkpoint[CHECKPOINT_KEY] = {
        "format": CHECKPOINT_FORMAT,
        "version": lightning_gen.__version__,
        "model": describe(model, type(model).__name__),
        "data": data,
        "spec": model.spec.as_dict(),
        "images_seen": model.images_seen,
        "seed": model.seed,
        "class_shares": model.class_shares.tolist(),
        "counters": {name: getattr(model, name) for name in model.counters},
    }


def restore_state(model: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Restore what :func:`save_state` wrote.

    Raises:
        InputError: for a checkpoint of other images, of another format, or not written by lightning-gen.
    """
    state = checkpoint.get(CHECKPOINT_KEY)
    if state is None:
        raise InputError("this checkpoint was not written by lightning-gen (it does not describe its model)")
    check_format(state)
    if ImageSpec.of(state["spec"]) != model.spec:
        raise InputError(f"the checkpoint is of images {state['spec']}, the data are {model.spec.as_dict()}")
    model.images_seen = state["images_seen"]
    model.seed = state["seed"]
    model.trained_on = state["data"]
    model.class_shares = torch.tensor(state["class_shares"])
    for name, value in state["counters"].items():
        setattr(model, name, value)


def fingerprint(*modules: nn.Module) -> str:
    """Return a hash (32 hexadecimal digits) of the weights of modules, converted to float32."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name}|{tuple(value.shape)}|".encode())
            digest.update(value.cpu().float().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_format(state: dict[str, Any]) -> None:
    """Raise InputError for a checkpoint of another format."""
    written = f"the checkpoint has format {state['format']} (written by lightning-gen {state['version']})"
    if state["format"] > CHECKPOINT_FORMAT:
        raise InputError(f"{written}, this version reads {CHECKPOINT_FORMAT}: upgrade lightning-gen")
    if state["format"] < CHECKPOINT_FORMAT:
        raise InputError(
            f"{written}, this version reads {CHECKPOINT_FORMAT}: train anew, or use the version that wrote it"
        )
