"""The callback that fits a model by EM within a Trainer run."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_gen.core import InputError, keyed_generator, refuse_precision

BIC_EVALUATIONS = 2**17  # density evaluations: images times noise samples of the likelihood


class PassesOverData(Callback):
    """Set the length of a pass of EM, and print the Bayesian information criterion at the end.

    Augmentation is refused, since every pass must see the same images.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_precision(pl_module, ("bf16-true", "16-true"), "it is fitted in float64: use 32-true")
        data = getattr(trainer, "datamodule", None)
        if getattr(data, "augment", ()):
            raise InputError(
                f"{type(pl_module).__name__}: EM goes over the same images again and again: leave data.augment out"
            )
        em = pl_module.em
        em.pass_images = len(data.images("train").levels) if hasattr(data, "images") else None
        if em.pass_images is not None and not trainer.fast_dev_run:  # which ends before the initialisation
            em.check_enough(em.pass_images)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        em = pl_module.em
        if em.pass_images is None:  # the loader has ended, and with it the pass
            if not em.started:
                em.start(pl_module.ranks, pl_module.seed)
            em.conclude(pl_module.ranks)
            pl_module.end_pass()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        em, seen = pl_module.em, pl_module.images_seen
        if trainer.fast_dev_run or not seen:
            return
        ended = f"{type(pl_module).__name__}: training ended after {seen:,} images"
        if not em.started:
            rank_zero_warn(
                f"{ended}, before its parameters were chosen from the first {em.start_ends:,}: they are untouched; "
                "raise budget.images, or lower start_images"
            )
        elif not em.passes:
            rank_zero_warn(
                f"{ended}, before one pass over all {em.pass_images:,}: parameters are those it started from; raise "
                "budget.images"
            )
        elif em.pass_images is not None:
            pl_module.print(report_bic(pl_module, trainer.datamodule.images("train")))


@torch.no_grad()
def report_bic(model: LightningModule, images: Any) -> str:
    """Return a line with the BIC of a model on the training images, estimated from a subset if there are many."""
    n, noises = len(images.levels), 1 if model.dequantizer is None else model.dequantizer.noises
    count = min(n, max(1, BIC_EVALUATIONS // noises))
    own = (torch.arange(count) * n // count)[model.ranks.rank :: model.ranks.count].numpy()
    labels = torch.from_numpy(images.labels[own]) if model.conditional else None
    generator = keyed_generator(model.seed, "bic", model.ranks.rank)
    likelihood = model.likelihood(torch.from_numpy(images.levels[own]), labels, generator=generator)
    total = float(model.ranks.sum(likelihood.nats.sum())) * n / count
    value = bic(total, model.density.free_parameters, n)
    given, estimated = " given labels" * model.conditional, f" (estimated from {count:,})" * (count < n)
    return f"BIC {value:,.1f}: {likelihood.kind} log likelihood{given} of {n:,} training images{estimated}"


def bic(log_likelihood: float, free_parameters: int, images: int) -> float:
    r"""Return the Bayesian information criterion :math:`-2 \log L + p \log N` (Schwarz 1978); lower is better.

    With a lower bound in place of the likelihood (of dequantized levels) it is an upper bound.

    Args:
        log_likelihood: log L, in nats, of all training images; given labels for a class-conditional model.
        free_parameters: p.
        images: N.
    """
    return -2 * log_likelihood + free_parameters * math.log(images)
