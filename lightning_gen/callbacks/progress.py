"""The progress bar: images seen, images per second, time left, losses and figures."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from lightning_gen.callbacks.budget import Budget
from lightning_gen.callbacks.train_log import TrainLog
from lightning_gen.core import Figure
from lightning_gen.core.progress import in_words
from lightning_gen.data import ImageDataModule

REDRAW_SECONDS = 0.2
ESTIMATE_SECONDS = 5.0  # of training, from which its length is estimated
LONG_SECONDS = 120.0


class ImagesProgressBar(ProgressBar):
    """One bar over the budget, in images or minutes; a plain line per evaluation where the output is no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._enabled = True
        self._next = 0.0
        self._timed = False
        self._began: tuple[float, int] | None = None
        self._results: dict[str, float] = {}

    def note_figures(self, figures: dict[str, float], about: dict[str, Figure]) -> None:
        """Show those of these figures that lead, and those that nobody declared, from now on."""
        shown = {name: value for name, value in figures.items() if name not in about or about[name].leads}
        self._results |= {name.removeprefix("val/"): value for name, value in shown.items()}

    @property
    def is_enabled(self) -> bool:
        """Whether lines are printed through the bar."""
        return self._enabled

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._budget = next((callback for callback in trainer.callbacks if isinstance(callback, Budget)), None)
        self._train_log = next((c for c in trainer.callbacks if isinstance(c, TrainLog)), None)
        data = trainer.datamodule
        if self._enabled and stage == "fit" and isinstance(data, ImageDataModule) and not trainer.fast_dev_run:
            print("\n".join(data.counts("train", "val")), file=sys.stderr, flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic(), pl_module.images_seen
        if not self._enabled or self._budget is None or not sys.stderr.isatty():
            return
        self._timed = self._budget.images is None and self._budget.minutes is not None
        total = 60 * self._budget.minutes if self._timed else self._budget.images
        done = self._budget.seconds if self._timed else pl_module.images_seen
        self._bar = tqdm(
            total=total,
            initial=round(done),
            unit="s" if self._timed else " img",
            unit_scale=not self._timed,
            bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}{postfix}]",
            dynamic_ncols=True,
            leave=True,
            file=sys.stderr,
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._began is not None:
            self._estimate(pl_module)
        if self._bar is None or (now := time.monotonic()) < self._next:
            return
        self._next = now + REDRAW_SECONDS
        self._draw(pl_module)

    def _estimate(self, pl_module: LightningModule) -> None:
        """Say once, after some seconds, how long training will take if that is long."""
        began, images = self._began
        if (seconds := time.monotonic() - began) < ESTIMATE_SECONDS:
            return
        self._began = None
        speed = (pl_module.images_seen - images) / seconds
        total = self._budget.images if self._enabled and self._budget is not None else None
        if total is not None and (left := (total - pl_module.images_seen) / speed) > LONG_SECONDS:
            self.print(f"{total:,} images take about {in_words(left)} at {speed:,.0f} a second, without evaluations")

    def _draw(self, pl_module: LightningModule) -> None:
        done = self._budget.seconds if self._timed else pl_module.images_seen
        self._bar.n = min(round(done), self._bar.total)
        self._bar.set_postfix_str(self._figures(), refresh=True)

    def _figures(self) -> str:
        latest = {} if self._train_log is None else self._train_log.latest
        speed = [f"img/s {value:,.0f}" for name, value in latest.items() if name == "train/images_per_second"]
        losses = {name.removeprefix("train/"): value for name, value in latest.items() if name.startswith("train/loss")}
        scores = {name: value for name, value in self._results.items() if name.startswith("fid")}
        shown = losses | (scores or dict(list(self._results.items())[:2]))
        return ", ".join([*speed, *(f"{name} {value:.3g}" for name, value in shown.items())])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str("evaluating ...", refresh=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self._enabled or not self._results:
            return
        line = f"{pl_module.images_seen:>12,} images  " + "  ".join(
            f"{name} {value:.4g}" for name, value in self._results.items()
        )
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)
            self._draw(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._draw(pl_module)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
