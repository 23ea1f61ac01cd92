"""What W&B and TensorBoard are given beside figures: pictures, precision over recall, configs with final figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image, ImageDraw, ImageFont

from lightning_gen.callbacks.recorder import SECONDS, Recorder, count_parameters
from lightning_gen.callbacks.wandb import AXIS, WandbRun
from lightning_gen.core import Figure, is_of_one_class
from lightning_gen.runs import RunFolder, read_metrics

SIDE, MARGIN = 420, 44  # of the precision-recall picture, in pixels
INK, PAPER, FAINT = (32, 32, 32), (255, 255, 255), (208, 208, 208)
EARLY, LATE = np.array([200, 215, 235]), np.array([0, 60, 130])


class Dashboards(Callback):
    """Give W&B and TensorBoard the pictures of each evaluation, at its number of images seen.

    Every ``samples/<images seen>*.png`` that an evaluation writes is shown: the grid as ``samples``, others by what
    their name adds, such as ``neighbours``. Where precision and recall are among the figures, ``precision_recall`` is a
    picture of their way through training. TensorBoard gets the config and the final figures as hyperparameters; of a
    resumed run it shows those of the first session.

    Args:
        folder: the run's folder.
        config: the complete config, nested.
    """

    def __init__(self, folder: RunFolder, config: Mapping[str, Any]):
        self.folder = folder
        self.config = config
        self._loggers: Sequence[Logger] = ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._loggers = trainer.loggers

    def _own_runs(self) -> list[WandbRun]:
        return [logger for logger in self._loggers if isinstance(logger, WandbRun)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for run in self._own_runs():
            if (written := run.written()) is not None:
                self._log_again(run, written, pl_module.images_seen)
            run.experiment.summary["parameters"] = count_parameters(pl_module)

    def _log_again(self, run: WandbRun, written: int, images_seen: int) -> None:
        """Log what an earlier session has on disk and W&B does not, because the session was killed."""
        for row in read_metrics(self.folder.path / "metrics.csv")[1]:
            at = int(float(row["images_seen"]))
            if written < at <= images_seen:
                figures = {name: float(value) for name, value in row.items() if value and name not in (AXIS, SECONDS)}
                run.log_metrics(figures, at)
                if any(name.startswith("val/") and value for name, value in row.items()):
                    for name, path in evaluation_pictures(self.folder, at).items():
                        show(run, name, path, at)
        run.commit()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            for run in self._own_runs():
                run.begin_row(pl_module.images_seen)

    def note_figures(self, figures: dict[str, float], about: dict[str, Figure]) -> None:
        """Tell W&B which figures have a best value."""
        directions = {name: figure.higher for name, figure in about.items() if figure.higher is not None}
        for run in self._own_runs():
            run.define(directions)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        images_seen = pl_module.images_seen
        pictures: dict[str, Path | Image.Image] = evaluation_pictures(self.folder, images_seen)
        for name, way in precision_recall_ways(self.folder).items():
            if way[-1][0] == images_seen:
                pictures[name] = precision_recall_picture(way)
        for logger in self._loggers:
            for name, picture in pictures.items():
                show(logger, name, picture, images_seen)
        recorder = next((callback for callback in trainer.callbacks if isinstance(callback, Recorder)), None)
        for run in self._own_runs():
            run.commit()
            if recorder is not None:
                run.restore_best(recorder.best, recorder.last)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let TensorBoard's table of runs show this one: its config, and the last value of each figure."""
        recorder = next((callback for callback in trainer.callbacks if isinstance(callback, Recorder)), None)
        figures = {} if recorder is None else recorder.last
        for logger in self._loggers:
            if isinstance(logger, TensorBoardLogger):
                from torch.utils.tensorboard.summary import hparams

                writer = logger.experiment._get_file_writer()
                for summary in hparams(flat_config(self.config), figures):
                    writer.add_summary(summary)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)


def show(logger: Logger, name: str, picture: Path | Image.Image, images_seen: int) -> None:
    """Give a picture to W&B or TensorBoard; any other logger takes none."""
    if isinstance(logger, WandbLogger):
        shown = str(picture) if isinstance(picture, Path) else picture  # a file is taken over as it is
        logger.log_image(name, [shown], step=images_seen, caption=[f"{images_seen:,} images seen"])
    elif isinstance(logger, TensorBoardLogger):
        opened = Image.open(picture) if isinstance(picture, Path) else picture
        logger.experiment.add_image(name, np.asarray(opened.convert("RGB")), images_seen, dataformats="HWC")


def evaluation_pictures(folder: RunFolder, images_seen: int) -> dict[str, Path]:
    """Return the pictures that the evaluation at so many images has written, by name."""
    stem = f"{images_seen:012d}"
    found = sorted((folder.path / "samples").glob(f"{stem}*.png"))
    return {path.stem.removeprefix(stem).removeprefix("-") or "samples": path for path in found}


def precision_recall_ways(folder: RunFolder) -> dict[str, list[tuple[int, float, float]]]:
    """Return (images seen, recall, precision) of every evaluation, by the name of the picture."""
    header, rows = read_metrics(folder.path / "metrics.csv")
    ways = {}
    for precision in header:
        recall = precision.replace("val/precision", "val/recall")
        if not precision.startswith("val/precision") or recall not in header or is_of_one_class(precision):
            continue
        found = [
            (int(float(row["images_seen"])), float(row[recall]), float(row[precision]))
            for row in rows
            if row.get(recall) and row.get(precision)
        ]
        if found:
            ways["precision_recall" + precision.removeprefix("val/precision")] = found
    return ways


def precision_recall_picture(way: Sequence[tuple[int, float, float]]) -> Image.Image:
    """Return a picture of how precision and recall moved through training: dark and large is now.

    Args:
        way: (images seen, recall, precision) in order.
    """
    picture = Image.new("RGB", (SIDE + 2 * MARGIN, SIDE + 2 * MARGIN), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()

    def place(recall: float, precision: float) -> tuple[float, float]:
        return MARGIN + recall * SIDE, MARGIN + (1 - precision) * SIDE

    for value in (0, 0.25, 0.5, 0.75, 1):
        draw.line([place(value, 0), place(value, 1)], FAINT)
        draw.line([place(0, value), place(1, value)], FAINT)
        across, down = place(value, 0), place(0, value)
        draw.text((across[0], across[1] + 6), f"{value:g}", INK, font, anchor="ma")
        draw.text((down[0] - 6, down[1]), f"{value:g}", INK, font, anchor="rm")
    draw.rectangle([*place(0, 1), *place(1, 0)], outline=INK)
    draw.text(
        (MARGIN + SIDE / 2, SIDE + 2 * MARGIN - 8), "recall: share of real images that are covered", INK, font, "ms"
    )
    draw.text((MARGIN, MARGIN - 8), "precision: share of samples that look real", INK, font, "ls")

    way = [point for point in way if np.isfinite(point[1:]).all()]
    shades = [tuple(np.round(EARLY + (LATE - EARLY) * t).astype(int).tolist()) for t in np.linspace(0, 1, len(way))]
    places = [place(recall, precision) for _, recall, precision in way]
    for start, end, shade in zip(places, places[1:], shades[1:], strict=False):
        draw.line([start, end], shade, 2)
    for (right, down), shade in zip(places, shades, strict=True):
        size = 7 if (right, down) == places[-1] else 3
        draw.ellipse([right - size, down - size, right + size, down + size], shade)
    if way:
        images_seen, recall, precision = way[-1]
        text = f"{images_seen:,} images: precision {precision:.3f}, recall {recall:.3f}"
        draw.text((MARGIN + SIDE, MARGIN - 24), text, INK, font, anchor="rs")
    return picture


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return a nested config with dotted keys and plain values, as TensorBoard's hyperparameters must be."""
    plain: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            plain |= flat_config(value, f"{prefix}{key}.")
        else:
            plain[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return plain
