"""Likelihoods of images, and how many images a model recognises."""

import torch
from torch import Tensor

from lightning_gen.core import (
    Classifies,
    HasLikelihood,
    InputError,
    Ranks,
    evaluating,
    heeded_labels,
    keyed_generator,
    watched,
)
from lightning_gen.data import Images
from lightning_gen.metrics import BitsPerDimension
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
    model: HasLikelihood,
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
        model: what gives likelihoods; a class-conditional one is given the images' labels.
        metric: what sums them.
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
            nats, kind, num_samples = model.likelihood(levels, labels, generator=generator)
        if nats.shape != (len(rows),):
            raise InputError(
                f"{type(model).__name__}.likelihood gave nats {tuple(nats.shape)} for {len(rows)} images: it must give "
                "one number for each"
            )
        metric.update(nats, kind, num_samples)
        found.append(nats.to("cpu", torch.float64))
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def score_classes(model: Classifies, images: Images, places: Tensor, batch_size: int, ranks: Ranks) -> float:
    """Return the share of labelled images at these places that a model recognises as what they are, over all ranks."""
    right = torch.zeros((), dtype=torch.int64, device=model.device)
    for rows in watched(places[ranks.rank :: ranks.count].split(batch_size)):
        levels, labels = torch.from_numpy(images.levels[rows.numpy()]), torch.from_numpy(images.labels[rows.numpy()])
        right += (model.classify(levels.to(model.device)).argmax(1) == labels.to(model.device)).sum()
    return int(ranks.sum(right)) / len(places)
