"""What the training verbs say on stderr."""

import logging
import sys
import warnings

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from lightning_gen.callbacks import Recorder, count_parameters
from lightning_gen.commands.start import Start
from lightning_gen.models import ImageModule


@rank_zero_only
def say(message: str) -> None:
    """Print a line on stderr, once over all ranks."""
    print(message, file=sys.stderr, flush=True)


def quieten() -> None:
    """Hide messages of Lightning that tell a user of this package nothing."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in ("LeafSpec", "not have many workers", "Checkpoint directory .* exists", "Unable to serialize instance"):
        warnings.filterwarnings("ignore", message=f".*{text}.*")


def introduce(model: ImageModule, start: Start) -> None:
    """Say what is trained, and where it is kept."""
    sizes = ", ".join(f"{name} {count:,}" for name, count in count_parameters(model).items()) or "no"
    size = "x".join(map(str, model.spec.shape))
    verb = "continuing" if start.resumed else "training"
    where = f" in {start.folder.path}" if start.folder is not None else ""
    say(f"{verb} {type(model).__name__} ({sizes} parameters) on images of {size}{where}")


def conclude(model: ImageModule, trainer: Trainer, start: Start, seconds: float) -> None:
    """Say what came out, where it is kept."""
    if start.own_folder is None:
        return
    recorder = next(callback for callback in trainer.callbacks if isinstance(callback, Recorder))
    figures = [
        f", {name} {value:.4g}"
        for name, value in recorder.last.items()
        if name.startswith(("val/fid", "val/bpd")) and recorder.figures.get(name, {}).get("leads")
    ]
    say(
        f"done: {model.images_seen:,} images in {seconds:,.0f} s{''.join(figures)}; results are in "
        f"{start.folder.path} (samples/, metrics.csv, summary.json, checkpoints/)"
    )
