"""From image files of any size and kind to levels of one shape."""

import io
import logging
import math
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from lightning_gen.core import InputError, check
from lightning_gen.data.formats import Stored, Unsupported, examine, identify

log = logging.getLogger(__name__)

CHUNK_BYTES = 4 * 2**20
# Images of more pixels are loaded one at a time, with Pillow's limits lifted (see _limits_lifted).
LARGE = 2**26


def natural_order(name: str) -> tuple:
    """Return a key to sort names by in which numbers count as numbers: "2" before "10", then "02" before "2"."""
    # The pieces alternate: text, number, text ...; so two keys never compare a text with a number.
    pieces = re.split(r"([0-9]+)", name)
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(pieces)), name


class Remedies(NamedTuple):
    """What messages advise: each caller says it in words that can be typed where its messages appear."""

    channels: str = "give channels: 1 or 3 to convert all"
    background: str = "give background: 255 (white) ... 0 (black)"
    broken: str = "repair or remove it, or give on_error: skip"
    size: str = "give a size to bring all to"


ARGUMENTS = Remedies()


class Unreadable(InputError):
    """A file that is no readable image; what ``on_error: skip`` leaves out."""

    def __init__(self, problem: str, remedy: str = ARGUMENTS.broken) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem


class Chunk(NamedTuple):
    """Some decoded images: levels (n, C, H, W), their n places in the list of files, and a message per broken one."""

    levels: np.ndarray
    places: list[int]
    broken: list[str]


@dataclass(frozen=True)
class Decoder:
    """Turns one image file into levels (C, H, W), the same way for training and for evaluation.

    An image is turned upright (EXIF or TIFF orientation), scaled so that its file's own white is 255, converted to
    sRGB, put before the background, converted to the wanted channels, cut around its centre to the aspect and resized.

    Depth: 1 to 16 bits; level round(255 * value / top), where top is 2^bits - 1 or the maxval of a PGM file. Colour of
    5 or of more than 8 bits comes from Pillow in 8, at most one level off. What has no fixed range (floating-point,
    signed, more than 16 bits) is refused, as is what Pillow does not read or would get wrong. TIFF files may be grey,
    with 0 for black or white, RGB, YCbCr, CMYK, Lab, or have a palette. Palettes count as colour.

    Colour: pixels with an embedded ICC profile are converted to sRGB with perceptual intent, which is what browsers do
    (they take a profile's perceptual table; profiles of a matrix and curves, as cameras and screens have, give the same
    in all intents). Profiles within one level of sRGB change nothing. Broken ones, and those for another kind of
    pixels, are ignored, with one line in the log for each profile. Without a profile pixels are taken for sRGB: PNG's
    gAMA, cHRM and cICP chunks, the colour space in EXIF, and calibration in BMP headers are not applied.

    Args:
        channels: 1 or 3.
        height: rows of the result.
        width: columns of the result.
        convert: True converts grey and colour images to ``channels``; False refuses the other kind.
        background: grey level put behind transparent pixels; None refuses images that have any.
        resize: False refuses images of another size than height and width, once they are upright.
        remedies: what messages advise.
    """

    channels: int
    height: int
    width: int
    convert: bool
    background: int | None
    resize: bool = True
    remedies: Remedies = ARGUMENTS

    def __call__(self, file: Path) -> np.ndarray:
        """Return uint8 (C, H, W).

        Raises:
            Unreadable: naming the file, if it is broken.
            InputError: naming the file, if it is sound but not of a kind that was asked for, or of one that is not
                supported, or beyond a limit.
        """
        return _read(file, self.remedies, self._levels)

    def _levels(self, file: Path, image: Image.Image) -> np.ndarray:
        stored = examine(image)
        if not self.convert and stored.grey != (self.channels == 1):
            kinds = "a colour image among grey" if self.channels == 1 else "a grey image among colour"
            raise InputError(f"{file}: {kinds} ones: {self.remedies.channels}")
        if self.resize:
            # JPEG only: decode at a half, quarter or eighth where that leaves twice the resolution that is needed.
            image.draft(None, (2 * max(self.height, self.width),) * 2)
        image = _upright(image)
        if not self.resize and image.size != (self.width, self.height):
            sizes = f"{image.height} x {image.width} among images of {self.height} x {self.width}"
            raise InputError(f"{file}: is {sizes}: {self.remedies.size}")
        image = _to_srgb(_eight_bits(image, stored), stored, file)
        image = self._opaque(image, file).convert("L" if self.channels == 1 else "RGB")
        pixels = np.asarray(self._resized(image))
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)

    def _opaque(self, image: Image.Image, file: Path) -> Image.Image:
        if image.mode != "RGBA" or image.getchannel("A").getextrema()[0] == 255:
            return image
        if self.background is None:
            raise InputError(f"{file}: has transparent pixels: {self.remedies.background}")
        behind = Image.new("RGBA", image.size, (self.background,) * 3 + (255,))
        return Image.alpha_composite(behind, image)

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


def channels_of(file: Path, remedies: Remedies = ARGUMENTS) -> int:
    """Return 1 for a grey image and 3 for any other, from its header; raises what a Decoder does."""
    return _read(file, remedies, lambda _, image: 1 if examine(image).grey else 3)


def size_of(file: Path, remedies: Remedies = ARGUMENTS) -> tuple[int, int]:
    """Return height and width of the decoded image, upright; raises what a Decoder does."""
    return _read(file, remedies, lambda _, image: _upright(image).size[::-1])


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


def _read(file: Path, remedies: Remedies, use: Callable[[Path, Image.Image], object]) -> object:
    """Return what ``use`` makes of the opened image; raises Unreadable or InputError, naming the file."""
    try:
        with open(file, "rb") as stream:
            try:
                return use(file, identify(file, stream))
            except (ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                if isinstance(error, ValueError) and "MAX_TEXT_" not in str(error):
                    raise
            with _limits_lifted():
                return use(file, identify(file, stream))
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything: OSError, SyntaxError, ValueError, KeyError...
        raise _named(file, error, remedies) from error


def _named(file: Path, error: Exception, remedies: Remedies) -> InputError:
    """Return one line that names the file; Unreadable only where the file itself is at fault."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Unsupported):
        return InputError(f"{file}: {text}")
    if isinstance(error, MemoryError):
        return InputError(f"{file}: does not fit into memory: make it smaller, or give a machine that has more")
    if isinstance(error, FileNotFoundError):
        reason = "is gone"
    elif isinstance(error, PermissionError):
        reason = "may not be read (permissions)"
    elif isinstance(error, OSError) and error.errno:  # of the machine: too many open files, a failing disk
        return InputError(f"{file}: cannot be read ({error.strerror}): try again")
    elif file.stat().st_size == 0:
        reason = "is empty (0 bytes)"
    elif isinstance(error, Image.UnidentifiedImageError):
        reason = "is not an image"
    elif re.match(r"[Uu]nsupported|unknown TGA|cannot handle|unable to determine", text):
        return InputError(f"{file}: is of a kind that Pillow does not read ({text}): convert it to 8-bit PNG")
    else:
        reason = f"is broken ({text})"
    return Unreadable(f"{file}: {reason}", remedies.broken)


_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def _limits_lifted() -> Iterator[None]:
    """Lift Pillow's limits on pixels and on text in PNG files.

    They guard servers against strangers' files that are small and unpack to gigabytes. Here the files are the user's
    own, and a scan of 196 million pixels or 3 MB of notes are nothing odd. The limits are variables of Pillow's
    modules, so they are lifted for the whole process, but only while a file that needs it is read. Such files wait for
    each other, so that the limits are put back as they were, and large images do not fill the memory together.
    """
    with _ONE_AT_A_TIME:
        before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = None, *[sys.maxsize] * 2
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = before


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """Load and turn as the orientation tells."""
    if image.width * image.height > LARGE:
        with _limits_lifted():
            image.load()
    else:
        image.load()
    # After loading, as Pillow turns TIFF images there and drops their orientation.
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # sound pixels whose camera or editor wrote a broken EXIF block
        turn = None
    return image if turn is None else image.transpose(turn)


@lru_cache(maxsize=16)
def _levels_of(top: int, inverted: bool) -> np.ndarray:
    """Return the level of every value from 0 to ``top`` and, as 255, those that are above."""
    values = np.minimum(np.arange(max(256, top + 1)), top)
    levels = ((values * 510 + top) // (2 * top)).astype(np.uint8)
    return 255 - levels if inverted else levels


def _eight_bits(image: Image.Image, stored: Stored) -> Image.Image:
    """Return the image in mode L, RGB, RGBA (where it may have transparent pixels) or CMYK."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        levels = Image.fromarray(_levels_of(stored.top, stored.inverted)[values])
        if "transparency" not in image.info:
            return levels
        opaque = Image.fromarray(values != image.info["transparency"]).convert("L")
        return Image.merge("RGBA", (levels, levels, levels, opaque))
    if stored.top != 255:
        image = image.point(_levels_of(stored.top, False).tolist() * len(image.getbands()))
    if image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_srgb())
    if image.has_transparency_data:
        return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("L" if stored.grey else "RGB")


# For grey and Lab lcms' optimisation is a table of few points, in dark colours ten levels off.
EXACTLY = ImageCms.Flags.NOOPTIMIZE


@lru_cache(maxsize=1)
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB", flags=EXACTLY)


_ignored: dict[bytes, Path] = {}


def _to_srgb(image: Image.Image, stored: Stored, file: Path) -> Image.Image:
    """Convert an image of mode L, RGB, RGBA or CMYK by the embedded profile, if there is one."""
    if not stored.profile:
        return image
    try:
        change = _transform(bytes(stored.profile), "L" if stored.grey else image.mode)
    except Exception as error:
        key = bytes(stored.profile)
        if _ignored.setdefault(key, file) is file:
            reason = " ".join(str(error).split())
            log.warning("%s: its colour profile is ignored (%s); this is said once for each profile", file, reason)
        return image
    if change is None:
        return image
    if isinstance(change, list):
        alpha = list(range(256)) if image.mode == "RGBA" else []
        return image.point(change * (1 if image.mode == "L" else 3) + alpha)
    return ImageCms.applyTransform(image, change)


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | list[int] | None:
    """Return what takes pixels to sRGB: a table of 256 levels for grey ones, None where the profile is that of sRGB.

    Raises:
        Exception: ImageCms' own, for a profile that is broken or for pixels of another kind.
    """
    own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    space = own.profile.xcolor_space.strip()
    if mode == "L":
        # Many grey images have the profile of the colour images that they were made of.
        ramp = Image.frombytes("L", (256, 1), bytes(range(256))).convert("L" if space == "GRAY" else "RGB")
        ramp = ImageCms.profileToProfile(ramp, own, srgb, ImageCms.Intent.PERCEPTUAL, "RGB", flags=EXACTLY)
        table = np.asarray(ramp)[0, :, 1].astype(int)
        return None if np.abs(table - np.arange(256)).max() <= 1 else table.tolist()
    if space != mode.removesuffix("A"):
        raise ValueError(f"it is for {space} pixels, these are {mode}")
    change = ImageCms.buildTransform(own, srgb, mode, "RGB" if mode == "CMYK" else mode, ImageCms.Intent.PERCEPTUAL)
    if mode != "CMYK":
        grid = np.stack(np.meshgrid(*[np.linspace(0, 255, 18).astype(np.uint8)] * 3), -1).reshape(1, -1, 3)
        colours = Image.fromarray(grid).convert(mode)
        if np.abs(np.asarray(ImageCms.applyTransform(colours, change)).astype(int) - np.asarray(colours)).max() <= 1:
            return None
    return change
