"""Likelihoods of images, and how many images a model recognises."""

import math
import warnings
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_gen.core import (
    InputError,
    Ranks,
    Unavailable,
    evaluating,
    heeded_labels,
    keyed_generator,
    watched,
)
from lightning_gen.data import Images
from lightning_gen.metrics import BitsPerDimension
from lightning_gen.metrics.likelihood import figure_of
from lightning_gen.models import ImageModule


def choose_images(count: int, n: int | None) -> Tensor:
    """Return the places of ``n`` of ``count`` images, sorted and always the same; None or more than there are: all."""
    if n is None or n >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:n].sort().values


def tensors(model: ImageModule, images: Images, places: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the images at these places on the model's device, with the labels that it heeds."""
    rows = places.numpy()
    labels = None if images.labels is None else torch.from_numpy(images.labels[rows])
    return torch.from_numpy(images.levels[rows]).to(model.device), heeded_labels(model, labels, len(rows))


def score_likelihood(
    model: ImageModule,
    metric: BitsPerDimension,
    images: Images,
    places: Tensor,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """Feed the likelihoods of images to ``metric`` and return those of this rank's, float64 nats (B,), in order.

    Noise for chunk c of ``batch_size`` images is keyed on (seed, c), whichever rank has it, so the same images have the
    same figure every time.

    Args:
        model: one that has a likelihood.
        metric: what sums them; it says whether a class-conditional model is given the images' labels.
        images: all images of a part.
        places: those to score.
        batch_size: images at once.
        seed: of noise, where the model needs any.
        rank: this process.
        world_size: number of processes.

    Raises:
        InputError: for a model that gives anything but one likelihood for each image.
    """
    chunks = list(enumerate(places.split(batch_size)))[rank::world_size]
    found = []
    for chunk, rows in watched(chunks):
        levels, labels = tensors(model, images, rows)
        with evaluating(model):
            generator = keyed_generator(seed, "likelihood", chunk)
            own = labels if metric.given_labels else None
            nats, kind, num_samples = model.likelihood(levels, own, generator=generator)
        if nats.shape != (len(rows),):
            raise InputError(
                f"{type(model).__name__}.likelihood gave nats {tuple(nats.shape)} for {len(rows)} images: it must give "
                "one number for each"
            )
        metric.update(nats, kind, num_samples)
        found.append(nats.to("cpu", torch.float64))
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


class Bits(NamedTuple):
    """Bits per dimension of images.

    Args:
        figures: by the names that logs use.
        facts: what the first one is of, see :class:`~lightning_gen.metrics.BitsPerDimension`.
        nats: log-probabilities behind it, float64 (B,): this rank's.
        places: int64 (N,), those of the images.
    """

    figures: dict[str, float]
    facts: dict[str, Any]
    nats: Tensor
    places: Tensor


def bits_of(
    model: ImageModule,
    images: Images,
    n: int | None,
    batch_size: int,
    seed: int,
    ranks: Ranks | None = None,
    tolerant: bool = False,
) -> Bits:
    r"""Return bits per dimension of ``n`` images, always the same ones.

    Those of a class-conditional model are given the images' labels, :math:`\log p(x \mid y)`, which is worth up to
    :math:`\log_2(C) / (C H W)` of C classes; the marginal over the classes, which compares with other models', stands
    beside them where the model has one.

    Args:
        model: one that has a likelihood.
        images: all images of a part.
        n: how many of them; None takes all.
        batch_size: images at once.
        seed: of noise, where the model needs any.
        ranks: the processes, each of which takes its share; this one alone unless given.
        tolerant: whether a likelihood that is not finite gives a figure that is not a number, and a warning.

    Raises:
        InputError: for likelihoods that are no numbers, and labels that a model needs and these images lack.
    """
    ranks = ranks or Ranks()
    places = choose_images(len(images.levels), n)
    given_labels = [True, False] if model.conditional and images.labels is not None else [False]
    found: list[Bits] = []
    for given in given_labels:
        metric = BitsPerDimension(model.spec, given)
        if model.device.type != "mps":  # which has no float64
            metric.to(model.device)
        missing = None
        try:
            nats = score_likelihood(model, metric, images, places, batch_size, seed, *ranks)
        except Unavailable as reason:
            missing = reason
        if ranks.sum(torch.tensor(int(missing is not None), device=model.device)):
            if not found:
                raise missing or Unavailable("another process has no likelihood of its images")
            break  # no marginal over classes
        found.append(Bits(*_figures(metric, tolerant), nats, places))
    return found[0]._replace(figures={name: value for bits in found for name, value in bits.figures.items()})


def _figures(metric: BitsPerDimension, tolerant: bool) -> tuple[dict[str, float], dict[str, Any]]:
    with warnings.catch_warnings():
        # torchmetrics warns where this rank had no image of its own
        warnings.filterwarnings("ignore", ".*was called before the ``update`` method", UserWarning)
        try:
            return metric.compute(), metric.facts
        except InputError as error:
            if not tolerant or metric.kind is None:
                raise
            rank_zero_warn(str(error))
            return {figure_of(metric.kind, metric.given_labels): math.nan}, metric.facts


def score_classes(model: ImageModule, images: Images, places: Tensor, batch_size: int, ranks: Ranks) -> float:
    """Return the share of labelled images at these places that a classifier recognises, over all ranks.

    Raises:
        InputError: for images without labels.
    """
    if images.labels is None:
        raise InputError("without labels there are no classes to recognise: give labelled images")
    right = torch.zeros((), dtype=torch.int64, device=model.device)
    for rows in watched(places[ranks.rank :: ranks.count].split(batch_size)):
        levels, labels = torch.from_numpy(images.levels[rows.numpy()]), torch.from_numpy(images.labels[rows.numpy()])
        right += (model.classify(levels.to(model.device)).argmax(1) == labels.to(model.device)).sum()
    return int(ranks.sum(right)) / len(places)
