"""Sample grids for the page: read, shrunk without loss where they were enlarged, and encoded once each."""

import base64
import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LARGEST = 640  # pixels of the longer side
LOSSLESS_BYTES = 24_000  # a lossless picture above it is encoded with losses instead


@dataclass(frozen=True)
class Picture:
    """An encoded picture.

    Attributes:
        key: the same for equal pictures.
        data: a ``data:`` address.
        width: in pixels.
        height: in pixels.
    """

    key: str
    data: str
    width: int
    height: int


def find_grids(run: Path) -> list[tuple[int, Path]]:
    """Return (images seen, file) of a run's sample grids, in that order; pictures of another name are none."""
    return sorted((int(match[1]), file) for match, file in _matching(run, r"([0-9]{1,18})\.png"))


def find_others(run: Path) -> dict[str, tuple[int, Path]]:
    """Return (images seen, file) of the newest of each further kind of picture, such as ``neighbours``, by its name."""
    found = [(match[2], int(match[1]), file) for match, file in _matching(run, r"([0-9]{1,18})-([\w-]+)\.png")]
    return {name: (seen, file) for name, seen, file in sorted(found)}


def _matching(run: Path, pattern: str) -> list[tuple[re.Match[str], Path]]:
    try:
        files = list((run / "samples").iterdir())
    except OSError:
        return []
    return [(match, file) for file in files if (match := re.fullmatch(pattern, file.name))]


def spread(grids: list[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    """Return at most so many of them, evenly over training, with the first and the newest; only that for one."""
    if len(grids) <= most:
        return grids
    places = np.linspace(0, len(grids) - 1, most).round().astype(int) if most > 1 else [len(grids) - 1]
    return [grids[place] for place in places]


def read_picture(file: Path) -> Picture:
    """Return a picture file, encoded for the page.

    Raises:
        ValueError: for a file that is no picture or was cut short, saying so.
    """
    try:
        with Image.open(file) as image:
            image.thumbnail((4096, 4096))  # beyond anything that a run writes: only so that memory is bounded
            pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError("is not a readable picture") from error
    small = Image.fromarray(shrink(pixels))
    if max(small.size) > LARGEST:
        small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    encoded = _webp(small, lossless=True, method=1, quality=20)
    if len(encoded) > LOSSLESS_BYTES:
        encoded = min(encoded, _webp(small, quality=72, method=2), key=len)
    key = hashlib.blake2s(encoded, digest_size=8).hexdigest()
    return Picture(key, "data:image/webp;base64," + base64.b64encode(encoded).decode(), *small.size)


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Return a sample grid (H, W) or (H, W, 3) as it was before small images in it were enlarged.

    Sample grids repeat each pixel f times and have borders of f // 3 pixels; here pixels come once and borders are one
    pixel wide. A picture that is no such grid is returned as it is.
    """
    rows = pixels.reshape(len(pixels), -1)
    columns = np.moveaxis(pixels, 1, 0).reshape(pixels.shape[1], -1)
    changes = [1 + np.flatnonzero((lines[1:] != lines[:-1]).any(axis=1)) for lines in (rows, columns)]
    thinnest = min((int(np.diff(change).min()) for change in changes if len(change) > 1), default=0)
    for factor in range(min(48, 3 * thinnest + 2), 1, -1):  # no border is wider than the thinnest line
        kept = [_kept(len(lines), change, factor) for lines, change in zip((rows, columns), changes, strict=True)]
        if all(places is not None for places in kept):
            return np.ascontiguousarray(pixels[kept[0]][:, kept[1]])
    return pixels


def _kept(length: int, changes: np.ndarray, factor: int) -> np.ndarray | None:
    """Return one place of each border and of each enlarged pixel along a side; None where they do not fit ``changes``.

    Args:
        length: of the side.
        changes: places that differ from the one before.
        factor: of the enlargement.
    """
    border = max(1, factor // 3)
    for count in range(1, (length - border) // (factor + border) + 1):
        period, left = divmod(length - border, count)
        if left or (period - border) % factor:
            continue
        offsets = np.concatenate([[0], np.arange(border, period, factor)])
        fits = np.zeros(period, dtype=bool)
        fits[offsets] = True
        if fits[changes % period].all():
            return np.append((period * np.arange(count)[:, None] + offsets).ravel(), length - border)
    return None


def _webp(image: Image.Image, **options: int | bool) -> bytes:
    file = io.BytesIO()
    image.save(file, format="WEBP", **options)
    return file.getvalue()
