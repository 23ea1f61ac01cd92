"""From image files of any size and kind to levels of one shape."""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lightning_gen.core import InputError, check

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
CHUNK_BYTES = 4 * 2**20


class Unreadable(InputError):
    """A file that is no readable image; what ``on_error: skip`` leaves out."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}: repair or remove it, or give on_error: skip")
        self.problem = problem


class Chunk(NamedTuple):
    """Some decoded images: levels (n, C, H, W), their n places in the list of files, and a message per broken one."""

    levels: np.ndarray
    places: list[int]
    broken: list[str]


@dataclass(frozen=True)
class Decoder:
    """Turns one image file into levels (C, H, W).

    Args:
        channels: 1 or 3.
        height: rows of the result.
        width: columns of the result.
        convert: True converts grey and colour images to ``channels``; False refuses the other kind.
        background: grey level put behind transparent pixels; None refuses images that have any.
    """

    channels: int
    height: int
    width: int
    convert: bool
    background: int | None

    def __call__(self, file: Path) -> np.ndarray:
        """Return uint8 (C, H, W).

        Raises:
            Unreadable: naming the file, if it is broken.
            InputError: naming the file, if it is sound but of a kind that was not asked for.
        """
        with _naming(file), Image.open(file) as image:
            # JPEG only: decode at a half, quarter or eighth where that leaves twice the resolution that is needed.
            image.draft(None, (2 * max(self.height, self.width),) * 2)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            grey = _is_grey(image)
            if not self.convert and grey != (self.channels == 1):
                kinds = ("a colour image", "grey") if self.channels == 1 else ("a grey image", "colour")
                raise InputError(f"{file}: {kinds[0]} among {kinds[1]} ones: give channels: 1 or 3 to convert all")
            image = self._opaque(_eight_bits(image), grey, file).convert("L" if self.channels == 1 else "RGB")
            pixels = np.asarray(self._resized(image))
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)

    def _opaque(self, image: Image.Image, grey: bool, file: Path) -> Image.Image:
        if not image.has_transparency_data:
            return image
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            if self.background is None:
                raise InputError(f"{file}: has transparent pixels: give background: 255 (white) ... 0 (black)")
            behind = Image.new("RGBA", image.size, (self.background,) * 3 + (255,))
            image = Image.alpha_composite(behind, image)
        return image.convert("L") if grey else image.convert("RGB")

    def _resized(self, image: Image.Image) -> Image.Image:
        scale = min(image.width / self.width, image.height / self.height)
        across, down = min(self.width * scale, image.width), min(self.height * scale, image.height)
        # Whole pixels, so that an image that needs cutting only is not resampled.
        left, top = int((image.width - across) / 2), int((image.height - down) / 2)
        box = (left, top, left + across, top + down)
        return image.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box)


def height_and_width(owner: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Return both sides of ``owner``'s argument ``size``, which is one number for both, or [height, width]."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    whole = len(sides) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in sides)
    check(owner, "size", size, whole, "a number of pixels or [height, width]")
    return sides


def channels_of(file: Path) -> int:
    """Return 1 for a grey image and 3 for any other, from its header; raises Unreadable."""
    with _naming(file), Image.open(file) as image:
        return 1 if _is_grey(image) else 3


def decode_all(files: Sequence[Path], decoder: Decoder, skip: bool) -> Iterator[Chunk]:
    """Decode ``files`` in several threads (Pillow works outside Python's lock) and yield them in order, chunk by chunk.

    Raises:
        InputError: for the first file that cannot be decoded; with ``skip`` broken files are left out.
    """
    threads = min(16, os.cpu_count() or 1)
    shape = (decoder.channels, decoder.height, decoder.width)
    at_once = min(64, max(1, CHUNK_BYTES // math.prod(shape)))

    def decode(first: int) -> Chunk:
        levels = np.empty((at_once, *shape), np.uint8)
        places, broken = [], []
        for place in range(first, min(first + at_once, len(files))):
            try:
                levels[len(places)] = decoder(files[place])
            except Unreadable as error:
                if not skip:
                    raise
                broken.append(error.problem)
            else:
                places.append(place)
        return Chunk(levels[: len(places)], places, broken)

    with ThreadPoolExecutor(threads) as pool:
        running = deque()
        try:
            for first in range(0, len(files), at_once):
                running.append(pool.submit(decode, first))
                # Bounded, so that a slow disk at the other end does not fill the memory.
                if len(running) > 2 * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


class _naming:
    """Context that turns what Pillow raises on a broken file into one line that names the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        # Pillow's decoders raise nearly anything: OSError, SyntaxError, ValueError, struct.error, zlib.error...
        if not isinstance(error, Exception) or isinstance(error, InputError | MemoryError):
            return
        if isinstance(error, FileNotFoundError):
            reason = "is gone"
        elif isinstance(error, PermissionError):
            reason = "may not be read (permissions)"
        elif self.file.stat().st_size == 0:
            reason = "is empty (0 bytes)"
        elif isinstance(error, Image.UnidentifiedImageError):
            reason = "is not an image"
        else:
            reason = f"is broken ({' '.join(str(error).split()) or type(error).__name__})"
        raise Unreadable(f"{self.file}: {reason}") from error


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16")


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no fixed range: convert it to 8 or 16 bits")
    if not image.mode.startswith("I;16"):
        return image
    if "transparency" in image.info:
        raise ValueError("16-bit pixels with a transparent level: convert it to 8 bits")
    # round(v * 255 / 65535), and 65535 = 255 * 257
    return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
