"""Pictures of held-out images, reconstructed, interpolated and completed by a model."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_gen.core import keyed_generator
from lightning_gen.data import Images
from lightning_gen.evaluation.likelihoods import choose_images, tensors
from lightning_gen.evaluation.pictures import GREY, grid_picture, pixel_grid, to_pixels
from lightning_gen.models import GenerativeModule
from lightning_gen.samplers import interpolate

STEPS = 8  # images between the two ends of a row
DRAWS = 6  # completions of each image


def reconstructions(model: GenerativeModule, images: Images, n: int) -> Image.Image:
    """Return a picture of ``n`` images, each above what the model decodes from its latent."""
    levels, labels = tensors(model, images, choose_images(len(images.levels), n))
    decoded = model.decode(model.encode(levels, labels), labels)
    columns = math.ceil(math.sqrt(2 * len(levels)))
    rows = -(-len(levels) // columns)
    missing = rows * columns - len(levels)
    pixels = np.stack([to_pixels(side, model.spec) for side in (levels, decoded)])
    pixels = np.pad(pixels, [(0, 0), (0, missing), (0, 0), (0, 0), (0, 0)], constant_values=GREY)
    in_rows = pixels.reshape(2, rows, columns, *pixels.shape[2:]).swapaxes(0, 1)
    return pixel_grid(in_rows.reshape(-1, *pixels.shape[2:]), columns)


def interpolations(model: GenerativeModule, images: Images, pairs: int) -> Image.Image | None:
    """Return a picture of ``pairs`` rows, each from one image to another through latents between theirs.

    None where there is nothing between latents, or no two images of a class.
    """
    if model.latents == "discrete":
        return None
    places = choose_pairs(len(images.levels), images.labels if model.conditional else None, pairs)
    if not len(places):
        return None
    levels, labels = tensors(model, images, places.flatten())
    latent = model.encode(levels, labels)
    ends = latent.flatten(1).to(torch.promote_types(latent.dtype, torch.float32))
    ways = interpolate(ends[0::2], ends[1::2], STEPS, model.latents)
    labels = None if labels is None else labels[0::2].repeat_interleave(STEPS)
    decoded = model.decode(ways.view(-1, *latent.shape[1:]).to(latent.dtype), labels)
    between = decoded.unflatten(0, (len(places), STEPS)).to(levels.device)
    rows = torch.cat([levels[0::2, None], between, levels[1::2, None]], 1)
    return grid_picture(rows.flatten(0, 1), model.spec, STEPS + 2)


def completions(model: GenerativeModule, images: Images, n: int) -> Image.Image:
    """Return a picture of ``n`` rows: an image, its upper half, and what the model draws below that."""
    levels, labels = tensors(model, images, choose_images(len(images.levels), n))
    known = torch.zeros(levels.shape[2:], dtype=torch.bool)
    known[: len(known) // 2] = True
    generator = keyed_generator(model.seed, "completions")
    drawn = [model.complete(levels, known, labels, generator=generator) for _ in range(DRAWS)]
    pixels = [to_pixels(each, model.spec) for each in (levels, levels, *drawn)]
    pixels[1] = np.where(known[..., None].numpy(), pixels[1], GREY).astype(np.uint8)
    return pixel_grid(np.stack(pixels, 1).reshape(-1, *pixels[0].shape[1:]), len(pixels))


def choose_pairs(count: int, labels: np.ndarray | None, pairs: int) -> Tensor:
    """Return the places (P, 2) of at most ``pairs`` pairs of ``count`` images, always the same, no image twice.

    Args:
        count: number of images.
        labels: classes (count,), for pairs of one class each.
        pairs: most pairs.
    """
    waiting: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for place in torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist():
        label = 0 if labels is None else int(labels[place])
        if label not in waiting:
            waiting[label] = place
        elif len(found) < pairs:
            found.append((waiting.pop(label), place))
        else:
            break
    return torch.tensor(found, dtype=torch.int64).view(-1, 2)
