"""What `lightning evaluate CKPT --likelihood` does: bits per dimension of a part, and how they are distributed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor

from lightning_gen.callbacks.evaluation import choose_images, own_randomness, score_likelihood
from lightning_gen.callbacks.grid import save_png
from lightning_gen.commands.plots import heat_picture, histogram_picture, reliability_picture
from lightning_gen.data import ImageDataModule, Images
from lightning_gen.errors import InputError
from lightning_gen.metrics import BitsPerDimension, Calibration, bits_per_dimension
from lightning_gen.metrics.likelihood import figure_of
from lightning_gen.models import GenerativeModule, HasLikelihood
from lightning_gen.models.base import (
    HasLatentLikelihood,
    HasPixelMean,
    HasPixelPredictions,
    HasPixelTerms,
    evaluating,
    keyed_seed,
)


def other_measure(model: Any, checkpoint: str) -> str:
    """Return one line that says which measure a model without a likelihood has."""
    name = type(model).__name__
    if isinstance(model, HasPixelMean | HasLatentLikelihood):
        return (
            f"this {name} has no likelihood of its own; annealed importance sampling bounds it: lightning ais "
            f"{checkpoint}"
        )
    return f"this {name} has no likelihood; score its samples: lightning evaluate {checkpoint} --n 2000"


def check_has_likelihood(model: Any, checkpoint: str) -> None:
    """Raise InputError, naming the measure that it does have, for a model without likelihood."""
    if not isinstance(model, HasLikelihood):
        raise InputError(f"--likelihood: {other_measure(model, checkpoint)}")


def check_images(data: Any) -> None:
    """Raise InputError for data whose parts cannot be asked for."""
    if not isinstance(data, ImageDataModule):
        raise InputError(
            f"likelihoods are of an ImageDataModule's images, and the model was trained on a {type(data).__name__}'s"
        )


def make_folder(option: str, folder: Path) -> None:
    """Make a folder that pictures are to be written to, before the work.

    Raises:
        InputError: where that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{option} {folder}: the folder cannot be made ({error.strerror}): give another name"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{option} {folder}: nothing can be written there: check its permissions")


def meaning(facts: dict[str, Any], part: str) -> str:
    """Return one line that says what a figure is: kind, samples, images, and whether they are given labels.

    Args:
        facts: of :class:`~lightning_gen.metrics.BitsPerDimension`.
        part: whose images they are.
    """
    images = f"{facts['n']} {part} images" + (" given their labels" if facts["given_labels"] else "")
    return f"{figure_of(facts['kind'])}: kind {facts['kind']}, num_samples {facts['num_samples']}, of {images}"


def of_part(figure: str, part: str) -> str:
    """Return the name of a figure of another part than the held-out one: ``bpd_se`` -> ``bpd_train_se``."""
    plain = figure.removesuffix("_se")
    return f"{plain}_{part}{figure[len(plain) :]}"


class LikelihoodScore:
    """The likelihood of a model on sets of images: figures, and pictures of what is behind them.

    Args:
        model: what gives likelihoods.
        options: batch_size, seed, n.
    """

    def __init__(self, model: GenerativeModule, options: Namespace):
        self.model = model
        self.options = options
        self.figures: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.bits: dict[str, np.ndarray] = {}

    def score(self, name: str, images: Images, held_out: bool) -> Images:
        """Score images called ``name``; return those that were scored. The held-out ones' figure has the plain name.

        Raises:
            InputError: for images without the labels that a class-conditional model needs.
        """
        if self.model.conditional and images.labels is None:
            raise InputError(f"this {type(self.model).__name__} is class-conditional, and {name} has no labels")
        metric = BitsPerDimension(self.model.spec, self.model.conditional)
        places = choose_images(len(images.levels), self.options.n)
        nats = score_likelihood(self.model, metric, images, places, self.options.batch_size, self.options.seed)
        try:
            figures = metric.compute()
        except InputError as error:
            raise InputError(f"{error} ({name} images)") from error
        if held_out:
            self.facts |= metric.facts
        else:
            self.facts[f"n_{name}"] = metric.facts["n"]
            figures = {of_part(figure, name): value for figure, value in figures.items()}
        self.figures |= figures
        self.bits[name] = bits_per_dimension(nats, self.model.spec).numpy()
        rows = places.numpy()
        return Images(images.levels[rows], None if images.labels is None else images.labels[rows])

    def plot(self, folder: Path, images: Images) -> list[str]:
        """Write a histogram, and what the model's pixels allow, into ``folder``, which exists; return their names."""
        pictures = {"bits.png": histogram_picture(self.bits, "bits per dimension")}
        terms, calibration = self._pixels(images)
        if terms is not None:
            total = next(iter(self.figures.values()))
            if abs(terms.mean() - total) > 1e-3 * (1 + abs(total)):
                raise InputError(
                    f"{type(self.model).__name__}: its pixels come to {terms.mean():.6g} bits per dimension and its "
                    f"likelihood to {total:.6g}: pixel_nats and pixel_log_probs must sum to the likelihood"
                )
            pictures["bits_per_pixel.png"] = heat_picture(terms, "bits per pixel")
        if calibration is not None:
            self.figures |= calibration.compute()
            curve = [part.numpy() for part in calibration.curve()]
            pictures["calibration.png"] = reliability_picture(*curve, self.figures["calibration_error"])
        for name, picture in pictures.items():
            try:
                save_png(picture, folder / name)
            except OSError as error:
                raise InputError(f"--plots {folder / name}: cannot be written ({error.strerror or error})") from error
        return list(pictures)

    def _pixels(self, images: Images) -> tuple[np.ndarray | None, Calibration | None]:
        """Return mean bits of each pixel (C, H, W) and the calibration, each None where the model does not give it."""
        model, spec = self.model, self.model.spec
        predicts = isinstance(model, HasPixelPredictions)
        if not predicts and not isinstance(model, HasPixelTerms):
            return None, None
        calibration = Calibration() if predicts else None
        total = torch.zeros(spec.shape, dtype=torch.float64)
        # Predictions of a chunk have L numbers for each pixel: fewer images at once.
        size = max(1, self.options.batch_size // (spec.levels if predicts else 1))
        for chunk, rows in enumerate(torch.arange(len(images.levels)).split(size)):
            levels = torch.from_numpy(images.levels[rows.numpy()]).to(model.device)
            labels = torch.from_numpy(images.labels[rows.numpy()]).to(model.device) if model.conditional else None
            seed = keyed_seed(self.options.seed, "pixels", chunk)
            with evaluating(model), own_randomness(seed, model.device):
                terms = self._terms(levels, labels, calibration)
            total += terms.double().sum(0).cpu()
        return (-total / (len(images.levels) * np.log(2))).numpy(), calibration

    def _terms(self, levels: Tensor, labels: Tensor | None, calibration: Calibration | None) -> Tensor:
        if calibration is None:
            return self.model.pixel_nats(levels, labels)
        log_probs = self.model.pixel_log_probs(levels, labels)
        calibration.update(log_probs, levels)
        return log_probs.gather(-1, levels.long()[..., None]).squeeze(-1)


def score_parts(
    model: GenerativeModule, parts: dict[str, Images], held_out: str, options: Namespace
) -> tuple[dict[str, float], dict[str, Any], Sequence[str]]:
    """Return figures, facts and names of written pictures.

    Args:
        model: what gives likelihoods.
        parts: images by name; the held-out part's figure has the plain name.
        held_out: which of them that is.
        options: of the command line.

    Raises:
        InputError: where the folder of pictures cannot be made, before any likelihood is taken.
    """
    if options.plots:
        make_folder("--plots", Path(options.plots))
    scores = LikelihoodScore(model, options)
    scored = {name: scores.score(name, images, name == held_out) for name, images in parts.items()}
    written = scores.plot(Path(options.plots), scored[held_out]) if options.plots else []
    return scores.figures, scores.facts, written
