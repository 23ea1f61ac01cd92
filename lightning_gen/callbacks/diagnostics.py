"""Figures of a model's own diagnostics at each evaluation, and a monitor that warns when training collapses."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.callbacks.ema import EMA
from lightning_gen.core import (
    Figure,
    ImageSpec,
    InputError,
    check,
    check_at_least,
    check_within,
    evaluating,
    is_of_one_class,
)
from lightning_gen.data import Batch, ImageDataModule
from lightning_gen.distributions import CategoricalComponents
from lightning_gen.evaluation import FIGURES
from lightning_gen.metrics import bits_per_dimension
from lightning_gen.models import ImageModule, read_checkpoint
from lightning_gen.models.reporting import report
from lightning_gen.models.state import CHECKPOINT_KEY
from lightning_gen.networks.spectral import spectral_norms

OF_POSTERIORS = ("val/active_units", "val/active_layers", "val/margin_over_independent")
MOST_PIXELS = 2**26  # that independent pixels are fitted to: a few seconds, once
AT_WORK = 0.05  # bits per dimension that pixels gain from latents which are not ignored


class Diagnostics(Callback):
    """Report what the model's ``diagnostics`` say of held-out and of training images, at each evaluation.

    A figure per image is reported by its mean, ``val/<name>``, and standard deviation, ``val/<name>_std``, and goes to
    W&B and TensorBoard as a histogram; a scalar as it is. Of training images they are called ``val/<name>_on_train``
    (left out for samples, which are the same unless labels differ): a critic that is surer of training than of held-out
    images has learned them by heart (Karras et al. 2020). The images are always the same, equally many of either part.
    Weights of several ranks are equal, but their batch statistics are not: the figures are the first rank's.

    Where the figures have the two sides of an ELBO, ``kl`` and ``reconstruction`` in nats, ``margin_over_independent``
    is reported, too: by how many bits per dimension the ELBO is better than independent pixels, each with the shares of
    its levels in the training part. It is zero where a decoder knows the images' mean alone (posterior collapse).

    Args:
        n: images of either part, or as many as the smaller one has; 0 for no diagnostics.
        spectral_norms: also report the largest singular value over each network's weights,
            ``val/spectral_norm_<network>``.

    Raises:
        InputError: for a number below 0.
    """

    def __init__(self, n: int = 500, spectral_norms: bool = False):
        check_at_least("diagnostics", 0, n=n)
        self.n = n
        self.spectral_norms = spectral_norms
        self.independent: CategoricalComponents | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.independent = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        if trainer.state.fn != "fit" or trainer.sanity_checking or not isinstance(pl_module, ImageModule):
            return
        figures: dict[str, float] = {}
        if self.n and isinstance(data, ImageDataModule):
            n = min(self.n, *(len(data.images(part).levels) for part in ("val", "train")))
            held_out = self.diagnose(pl_module, data, "val", n)
            on_train = self.diagnose(pl_module, data, "train", n) if held_out else {}
            for name, value in held_out.items():
                figures |= summary(f"val/{name}", value)
                if name in on_train and (value.ndim == 0 or not torch.equal(on_train[name], value)):
                    figures |= summary(f"val/{name}_on_train", on_train[name])
            self._log_histograms(trainer, pl_module, held_out)
        if self.spectral_norms:
            figures |= {
                f"val/spectral_norm_{name}": max(norms.values())
                for name, part in pl_module.named_children()
                if (norms := spectral_norms(part))
            }
        if figures := trainer.strategy.broadcast(figures):
            report(pl_module, figures, FIGURES)

    def diagnose(self, pl_module: ImageModule, data: ImageDataModule, part: str, n: int) -> dict[str, Tensor]:
        """Return the model's diagnostics of ``n`` images of one part."""
        images = data.images(part)
        order = torch.randperm(len(images.levels), generator=torch.Generator().manual_seed(0))[:n].sort().values
        levels, labels = (
            None if array is None else torch.from_numpy(array[order.numpy()]).to(pl_module.device) for array in images
        )
        with evaluating(pl_module):
            found = pl_module.diagnostics(Batch(levels, labels, order))
            if {"kl", "reconstruction"} <= found.keys():
                self.independent = self.independent or independent_pixels(data.images("train").levels, pl_module.spec)
                gain = (
                    -(found["kl"] + found["reconstruction"]).mean()
                    - self.independent.log_prob(levels.flatten(1).cpu()).mean()
                )
                found["margin_over_independent"] = -bits_per_dimension(gain, pl_module.spec)
        return found

    @staticmethod
    def _log_histograms(trainer: Trainer, pl_module: ImageModule, values: dict[str, Tensor]) -> None:
        arrays = {name: value.float().cpu().numpy() for name, value in values.items() if value.ndim}
        for logger in trainer.loggers:
            for name, array in arrays.items():
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_histogram(f"val/{name}", array, pl_module.images_seen)
                elif isinstance(logger, WandbLogger):
                    import wandb

                    logger.experiment.log({f"val/{name}_histogram": wandb.Histogram(array)}, commit=False)


def independent_pixels(levels: np.ndarray, spec: ImageSpec) -> CategoricalComponents:
    """Return pixels that take each level as often as in these images, smoothed by one even image.

    Args:
        levels: (N, C, H, W), of which at most 2**26 pixels are counted, in images spread evenly over them.
        spec: what they are.
    """
    rows = torch.from_numpy(np.array(levels[:: -(-len(levels) * spec.dims // MOST_PIXELS)])).flatten(1)
    pixels = CategoricalComponents(1, spec.dims, spec.levels)
    pixels.start(rows, torch.ones(len(rows), 1, dtype=torch.float64))
    return pixels


def summary(name: str, value: Tensor) -> dict[str, float]:
    """Return a scalar under ``name``, or mean and standard deviation of several values."""
    value = value.double()
    if value.ndim == 0:
        return {name: float(value)}
    return {name: float(value.mean()), f"{name}_std": float(value.std(correction=0))}


class CollapseMonitor(Callback):
    """Warn, once, when the figures of an evaluation say that training collapses; stop or go back on request.

    It reads figures alone and knows no family: those of the model's diagnostics, and ``val/classes_...`` from
    :class:`lightning_gen.metrics.ClassCoverage` where that is among the metrics. The signs are: samples that differ
    less than ``diversity`` times as much as real images do (``val/diversity``), fewer than ``classes`` of the classes,
    or a critic that tells real images from samples nearly without error (``val/critic_accuracy``), so that the
    generator learns nothing; of posterior collapse (Bowman et al. 2016) no ``val/active_units``, no
    ``val/active_layers``, or a ``val/margin_over_independent`` pixels of at most 0 where the latent does nothing for
    the pixels either (in a warm-up it does, and only its divergence ``val/kl`` costs too much). A sign counts when it
    shows at ``patience`` evaluations in a row.

    Args:
        action: "warn"; "stop" ends training, too; "roll_back" loads weights, averages and optimizers of
            ``checkpoints/best.ckpt``, once, and goes on from there (images seen, random numbers and the optimizers'
            options go on as they are); "off" says nothing.
        diversity: smallest relative diversity of samples.
        classes: smallest share of the classes.
        critic_accuracy: largest probability that a real image scores above a sample.
        patience: evaluations in a row that must show a sign.
        after: images before which nothing is judged: at its very beginning every generator looks collapsed.

    Raises:
        InputError: for numbers out of range; at the start of training for "roll_back" without checkpoint.monitor.
    """

    def __init__(
        self,
        action: Literal["warn", "stop", "roll_back", "off"] = "warn",
        diversity: float = 0.3,
        classes: float = 0.5,
        critic_accuracy: float = 0.999,
        patience: int = 2,
        after: int = 20_000,
    ):
        check_within("collapse", "[0, 1]", diversity=diversity, classes=classes, critic_accuracy=critic_accuracy)
        check("collapse", "patience", patience, patience >= 1, "at least 1")
        check("collapse", "after", after, after >= 0, "at least 0 images")
        self.action = action
        self.diversity = diversity
        self.classes = classes
        self.critic_accuracy = critic_accuracy
        self.patience = patience
        self.after = after
        self.told = False
        self.going_back = False
        self.in_a_row: dict[str, int] = {}
        self._figures: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"told": self.told, "going_back": self.going_back, "in_a_row": dict(self.in_a_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.told, self.going_back = state_dict["told"], state_dict["going_back"]
        self.in_a_row = dict(state_dict["in_a_row"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        has_best = any(isinstance(callback, Checkpoints) and callback.monitor for callback in trainer.callbacks)
        if self.action == "roll_back" and not has_best and not trainer.fast_dev_run:
            raise InputError("collapse.action roll_back needs a best checkpoint: give checkpoint.monitor")

    def note_figures(self, figures: dict[str, float], about: dict[str, Figure]) -> None:
        """Take note of what an evaluation reports."""
        self._figures |= figures

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        figures, self._figures = self._figures, {}
        training = trainer.state.fn == "fit" and not trainer.sanity_checking
        if self.action == "off" or self.told or not training or pl_module.images_seen < self.after:
            return
        found = self.signs(figures, pl_module.spec)
        self.in_a_row = {name: self.in_a_row.get(name, 0) + 1 for name in found}
        lasting = [found[name] for name, count in self.in_a_row.items() if count >= self.patience]
        if not lasting:
            return
        self.told = True
        remedies = OF_POSTERIOR_COLLAPSE if figures.keys() & set(OF_POSTERIORS) else REMEDIES
        message = (
            f"warning: training looks collapsed at {pl_module.images_seen:,} images: {' and '.join(lasting)}. "
            f"{remedies}"
        )
        if self.action == "stop":
            trainer.should_stop = True
            message += ". Stopping (collapse.action)"
        elif self.action == "roll_back":
            # Not yet: this evaluation's checkpoint is still to be written, and it may be the best one.
            self.going_back = True
            message += ". Going back to the best checkpoint (collapse.action)"
        pl_module.print(message)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.going_back:
            self.going_back = False
            self._roll_back(trainer, pl_module)

    def signs(self, figures: dict[str, float], spec: ImageSpec) -> dict[str, str]:
        """Return the signs of collapse in these figures of images: what is seen, by name."""
        found = posterior_signs(figures, spec)
        if (diversity := figures.get("val/diversity", 1.0)) < self.diversity:
            found["diversity"] = f"samples differ {diversity:.2f} times as much as real images do"
        if (accuracy := figures.get("val/critic_accuracy", 0.5)) > self.critic_accuracy:
            found["critic_accuracy"] = f"the critic ranks a real image above a sample with probability {accuracy:.4f}"
        for name, value in figures.items():
            of_all = name.startswith("val/classes_") and not is_of_one_class(name)
            if of_all and spec.num_classes and value < self.classes * spec.num_classes:
                found["classes"] = f"{value:.0f} of {spec.num_classes} classes are drawn"
        return found

    @staticmethod
    def _roll_back(trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.log_dir) / "checkpoints" / "best.ckpt"
        trainer.strategy.barrier()
        if not path.is_file():
            pl_module.print("there is no best checkpoint to go back to: going on as it is")
            return
        stored = read_checkpoint(path, pl_module.device)
        pl_module.load_state_dict(stored["state_dict"])
        for optimizer, state in zip(trainer.optimizers, stored["optimizer_states"], strict=True):
            # What the config says (or a schedule, by now) counts, not what the checkpoint was made with.
            options = [
                {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
            ]
            optimizer.load_state_dict(state)
            for group, kept in zip(optimizer.param_groups, options, strict=True):
                group.update(kept)
        for callback in trainer.callbacks:
            if isinstance(callback, EMA):
                callback.on_load_checkpoint(trainer, pl_module, stored)
        pl_module.print(f"going on from the weights of {path} ({stored[CHECKPOINT_KEY]['images_seen']:,} images)")


REMEDIES = (
    "Usual remedies: a gradient penalty (R1 and R2, or WGANGP) or a larger weight of it, a lower learning rate of both "
    "networks, the Relativistic loss, critic augmentation where data are few, a longer EMA"
)
OF_POSTERIOR_COLLAPSE = (
    "Usual remedies: a KL warm-up (model.objective.warmup), free bits (model.objective.free_bits), a smaller "
    "model.objective.beta, a weaker decoder (narrower, with fewer layers), a lower learning rate"
)


def posterior_signs(figures: dict[str, float], spec: ImageSpec) -> dict[str, str]:
    """Return the signs in these figures that a decoder ignores its latent: what is seen, by name."""
    found = {}
    for part in ("unit", "layer"):
        if figures.get(f"val/active_{part}s", 1.0) == 0:
            found[f"active_{part}s"] = f"no {part} of the latent tells images apart"
    margin = figures.get("val/margin_over_independent", 1.0)
    spent = figures.get("val/kl", 0.0) / (math.log(2) * spec.dims)
    if margin <= 0 and margin + spent <= AT_WORK:
        found["margin"] = f"the bound is no better than independent pixels ({margin:+.3f} bits per dimension)"
    return found
