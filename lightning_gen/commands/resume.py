"""From a checkpoint into a model: what fits, and what is not as it was."""

from pathlib import Path
from typing import Any

import torch

from lightning_gen.commands.screen import say
from lightning_gen.commands.start import Start
from lightning_gen.core import InputError, describe
from lightning_gen.models import ImageModule, read_checkpoint
from lightning_gen.models.state import CHECKPOINT_KEY


def check_resumed(model: ImageModule, start: Start, budget: int | None) -> None:
    """Say what of the config is not as it was when the checkpoint was written.

    Args:
        model: of the config.
        start: with a checkpoint.
        budget: images that the run may see.

    Raises:
        InputError: where the checkpoint does not fit the model, or has used the budget up.
    """
    check_fit(model, start.checkpoint["state_dict"], start.path)
    stored = start.checkpoint[CHECKPOINT_KEY]
    killed = start.resumed and not start.folder.is_finished()  # it may just be concluded
    if not killed and budget is not None and stored["images_seen"] >= budget:
        raise InputError(
            f"{start.path} has {stored['images_seen']:,} images behind it: raise budget.images ({budget:,})"
        )
    for line in differences(stored["model"], describe(model), "model"):
        say(f"note: {line} (the config counts, not the checkpoint)")
    if stored["seed"] != model.seed:
        say(f"note: the run began with seed {stored['seed']} and keeps it for its noise")


def check_fit(model: ImageModule, stored: dict[str, torch.Tensor], path: Path) -> None:
    """Raise InputError, naming one tensor, if stored weights do not fit the model of the config."""
    own = model.state_dict()
    for name in [*own, *stored]:
        here, there = (tuple(side[name].shape) if name in side else None for side in (own, stored))
        if here != there:
            raise InputError(
                f"the weights in {path} do not fit the config's model: {name} is {there or 'missing'} there and "
                f"{here or 'missing'} here; to take what fits into a new run, use --init_from"
            )


def differences(old: Any, new: Any, where: str) -> list[str]:
    """Return one line per value that differs between two descriptions."""
    if isinstance(old, dict) and isinstance(new, dict):
        # What one side alone writes out is a default, as a config's factories hold every argument.
        shared = {key: where if key == "init_args" else f"{where}.{key}" for key in new if key in old}
        return [line for key, name in shared.items() for line in differences(old[key], new[key], name)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, (a, b) in enumerate(zip(old, new, strict=True)) for line in differences(a, b, f"{where}[{i}]")
        ]
    return [] if old == new else [f"{where} was {old} in the checkpoint and is {new}"]


def initialise_from(model: ImageModule, path: Path) -> None:
    """Take from a checkpoint the (averaged) weights whose names and shapes fit, and say what could not be used.

    Raises:
        InputError: where nothing fits.
    """
    checkpoint = read_checkpoint(path)
    stored = dict(checkpoint["state_dict"])
    for name, average in checkpoint.get("ema", {}).items():
        stored |= {(key if name == "model" else f"{name}.{key}"): value for key, value in average.items()}
    own = model.state_dict()
    fitting = {name: value for name, value in stored.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise InputError(f"--init_from {path}: no weight in it fits this model")
    model.load_state_dict(fitting, strict=False)
    say(f"took {len(fitting)} of {len(own)} tensors from {path}")
    for what, tensors in {"left as initialised": own, "not used": stored}.items():
        if names := [name for name in tensors if name not in fitting]:
            say(f"{what}: {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else ""))
