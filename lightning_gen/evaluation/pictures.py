"""Pictures of images: in a grid, and beside their nearest real ones."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_gen.core import ImageSpec, write_atomically
from lightning_gen.metrics import MetricSuite, neighbour_picture
from lightning_gen.metrics.base import TRAIN
from lightning_gen.metrics.distances import nearest

GREY = 128  # of borders, and of places without an image


def to_pixels(levels: Tensor, spec: ImageSpec) -> np.ndarray:
    """Return 8-bit pixels (N, H, W, C) of levels (N, C, H, W): level 0 is black, the highest 255."""
    scaled = (levels.cpu().float() * (255 / (spec.levels - 1))).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).numpy()


def picture(pixels: np.ndarray) -> Image.Image:
    """Return 8-bit pixels (H, W, C) as a grey (C = 1) or colour (C = 3) picture; other C side by side in grey."""
    if pixels.shape[-1] not in (1, 3):
        pixels = np.concatenate(np.split(pixels, pixels.shape[-1], axis=-1), axis=1)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def grid_picture(levels: Tensor, spec: ImageSpec, columns: int | None = None, smallest: int = 48) -> Image.Image:
    """Return images (N, C, H, W) in a grid with a one-pixel border, small ones enlarged by a whole factor.

    Args:
        levels: the images.
        spec: what they are.
        columns: images per row; None for the squarest grid.
        smallest: shortest side of an image on the picture, in pixels.
    """
    return pixel_grid(to_pixels(levels, spec), columns, smallest)


def pixel_grid(pixels: np.ndarray, columns: int | None = None, smallest: int = 48) -> Image.Image:
    """Return 8-bit pixels (N, H, W, C) in a grid; see :func:`grid_picture`."""
    n, height, width, channels = pixels.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    factor = max(1, -(-smallest // min(height, width)))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width, border = height * factor, width * factor, max(1, factor // 3)
    sheet = np.full((rows * (height + border) + border, columns * (width + border) + border, channels), GREY, np.uint8)
    for i, image in enumerate(pixels):
        top = border + (i // columns) * (height + border)
        left = border + (i % columns) * (width + border)
        sheet[top : top + height, left : left + width] = image
    return picture(sheet)


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))


def neighbour_sheet(
    suite: MetricSuite, generated: Tensor, real: np.ndarray, spec: ImageSpec, rows: int = 16, smallest: int = 32
) -> Image.Image:
    """Return a picture of generated images, each beside its 5 nearest training images by the extractor's features.

    Args:
        suite: with the training part's features kept.
        generated: levels (N, C, H, W), of which the first ``rows`` are shown.
        real: levels of the training part.
        spec: what both are.
        rows: most images to show.
        smallest: shortest side of an image on the picture, in pixels.
    """
    features, reference = suite.extract(generated[:rows]).features, suite.references[TRAIN].rows()
    k = min(5, len(reference))
    chosen = np.unique(nearest(features, reference, k)[1].cpu().numpy())
    factor = max(1, -(-smallest // min(spec.height, spec.width)))

    def tiles(levels: Tensor) -> Tensor:
        pixels = torch.from_numpy(to_pixels(levels, spec)).permute(0, 3, 1, 2)
        return pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    beside = torch.from_numpy(np.array(real[chosen]))
    chosen_features = reference[torch.from_numpy(chosen).to(reference.device)]
    sheet = neighbour_picture(
        tiles(generated[:rows]), tiles(beside), features, chosen_features, k, border=max(1, factor // 3)
    )
    return picture(sheet.permute(1, 2, 0).numpy())
