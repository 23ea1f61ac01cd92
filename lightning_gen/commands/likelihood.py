"""What `lightning evaluate CKPT --likelihood` does: bits per dimension of a part, and how they are distributed."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import Namespace

from lightning_gen.core import (
    HasLikelihood,
    InputError,
    PredictsPixels,
    ProgressLine,
    Unavailable,
    evaluating,
    watched,
    watching,
)
from lightning_gen.data import ImageDataModule, Images
from lightning_gen.evaluation import bits_of, save_png, tensors
from lightning_gen.evaluation.plots import heat_picture, histogram_picture, reliability_picture
from lightning_gen.metrics import Calibration, bits_per_dimension
from lightning_gen.metrics.likelihood import figure_of
from lightning_gen.models import GenerativeModule
from lightning_gen.samplers import is_decoder


def check_has_likelihood(model: Any, checkpoint: str) -> None:
    """Raise InputError, naming the measure that it does have, for a model without likelihood."""
    if isinstance(model, HasLikelihood):
        return
    name = type(model).__name__
    if is_decoder(model):
        raise InputError(
            f"--likelihood: this {name} has no likelihood of its own; annealed importance sampling bounds it: "
            f"lightning ais {checkpoint}"
        )
    raise InputError(
        f"--likelihood: this {name} has no likelihood; score its samples: lightning evaluate {checkpoint} --n 2000"
    )


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
    name = figure_of(facts["kind"], facts["given_labels"])
    return f"{name}: kind {facts['kind']}, num_samples {facts['num_samples']}, of {images}"


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
        o = self.options
        try:
            bits = bits_of(self.model, images, o.n, o.batch_size, o.seed)
        except Unavailable:
            raise
        except InputError as error:
            raise InputError(f"{error} ({name} images)") from error
        figures = bits.figures
        if held_out:
            self.facts |= bits.facts
        else:
            self.facts[f"n_{name}"] = bits.facts["n"]
            figures = {of_part(figure, name): value for figure, value in figures.items()}
        self.figures |= figures
        self.bits[name] = bits_per_dimension(bits.nats, self.model.spec).numpy()
        rows = bits.places.numpy()
        return Images(images.levels[rows], None if images.labels is None else images.labels[rows])

    def plot(self, folder: Path, images: Images) -> list[str]:
        """Write a histogram, and what the model's pixels allow, into ``folder``, which exists; return their names."""
        pictures = {"bits.png": histogram_picture(self.bits, "bits per dimension")}
        try:
            terms, calibration = self._pixels(images)
        except Unavailable as reason:
            terms = calibration = None
            print(f"no pictures of pixels: {reason}", file=sys.stderr)
        if terms is not None:
            total = next(iter(self.figures.values()))
            if abs(terms.mean() - total) > 1e-3 * (1 + abs(total)):
                raise InputError(
                    f"{type(self.model).__name__}: its pixels come to {terms.mean():.6g} bits per dimension and its "
                    f"likelihood to {total:.6g}: pixel_log_probs must sum to the likelihood"
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
        if not isinstance(model, PredictsPixels):
            return None, None
        calibration = Calibration()
        total = torch.zeros(spec.shape, dtype=torch.float64)
        # Predictions of a chunk have L numbers for each pixel: fewer images at once.
        for rows in torch.arange(len(images.levels)).split(max(1, self.options.batch_size // spec.levels)):
            levels, labels = tensors(model, images, rows)
            with evaluating(model):
                log_probs = model.pixel_log_probs(levels, labels)
            calibration.update(log_probs, levels)
            total += log_probs.gather(-1, levels.long()[..., None]).squeeze(-1).double().sum(0).cpu()
        return (-total / (len(images.levels) * np.log(2))).numpy(), calibration


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
    with watching(ProgressLine("taking likelihoods")):
        scored = {name: scores.score(name, parts[name], name == held_out) for name in watched(list(parts))}
    written = scores.plot(Path(options.plots), scored[held_out]) if options.plots else []
    return scores.figures, scores.facts, written
