"""Which image files are read, and how each of them stores its pixels."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, TiffImagePlugin, features

# Formats that photographs and drawn samples come in, by Pillow's names. Left out on purpose: documents and vector
# drawings (PDF, EPS, WMF, SVG), icons, textures, films, and formats whose values have no fixed range (PFM, FITS).
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "QOI": (".qoi",),
    "DIB": (".dib",),
    "TGA": (".tga",),
}
# Pillow may be built without these.
CODECS = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
# Images (and arrays of images) that are known but not read, by the name of their kind.
OTHERS = {
    "HEIC": ".heic .heif .hif",
    "JPEG XL": ".jxl",
    "raw camera": ".3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2",
    "Photoshop": ".psd .psb",
    "GIMP": ".xcf",
    "vector": ".svg .svgz .eps .ps .pdf .ai .wmf .emf",
    "high dynamic range": ".exr .hdr .pfm",
    "scientific": ".fits .fit .dcm .nii .mat .h5 .hdf5",
    "array": ".npy .npz .pt",
    "icon": ".ico .icns .cur",
    "texture": ".dds .ktx .ktx2",
    "rarely used": ".pcx .sgi .rgb .ras .xbm .xpm .jxr .wdp .avifs .bpg .flif",
    "video": ".mp4 .mov .avi .mkv .webm .mpg .mpeg .m4v",
}
# What files begin with (a regular expression) whose names promise something else.
MAGIC = {
    rb"....ftyp(hei|hev|he[im]s|mif1|msf1)": "a HEIC image",
    rb"\xff\x0a|\x00\x00\x00\x0cJXL ": "a JPEG XL image",
    rb"8BPS": "a Photoshop image",
    rb"gimp xcf": "a GIMP image",
    rb"v/1\x01|#\?RADIANCE|#\?RGBE": "a high dynamic range image",
    rb"%PDF|%!PS|\xc5\xd0\xd3\xc6": "a PDF or PostScript document",
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg|<svg)": "an SVG drawing",
    rb"\x00\x00\x01\x00[^\x00]\x00": "an icon",
    rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ": "a video",
    rb"\x93NUMPY": "a NumPy array",
}


def readable_formats(codec: Callable[[str], bool] = features.check) -> tuple[str, ...]:
    """Return the names of the formats that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN and (name not in CODECS or codec(CODECS[name])))


READABLE = readable_formats()
SUFFIXES = tuple(suffix for name in READABLE for suffix in FORMATS[name])


def passed_over(name: str) -> str | None:
    """Return why a file that is an image by its name is not among those read ("HEIC files are not read"), else None.

    None is for names that end in one of ``SUFFIXES``, for files that are no images, and for ``labels.npy``.
    """
    suffix = os.path.splitext(name.lower())[1]
    if suffix in SUFFIXES or os.path.basename(name) == "labels.npy":
        return None
    for kind, suffixes in FORMATS.items():
        if suffix in suffixes:
            return f"this build of Pillow reads no {kind} images"
    for kind, suffixes in OTHERS.items():
        if suffix in suffixes.split():
            return f"{kind} files are not read"
    return None


class Unsupported(Exception):
    """A sound image of a kind that is refused; the text says why and what to do."""


def identify(file: Path, stream: BinaryIO) -> Image.Image:
    """Return the image, by its first bytes, not yet loaded.

    This is Image.open without its limit on pixels, which it has no argument for, and with the reason why a file cannot
    be opened, which it hides.
    """
    stream.seek(0)
    head = stream.read(512)
    for kind in FORMATS:
        make, accept = Image.OPEN.get(kind, (None, lambda _: False))
        # TGA files begin with anything. HEIC files may begin as AVIF files do, but name no AVIF brand.
        fits = accept(head[:16]) if accept else file.suffix.lower() == ".tga"
        if not fits or (kind == "AVIF" and b"avi" not in head[8:128]):
            continue
        if kind not in READABLE:
            raise Unsupported(f"this build of Pillow reads no {kind} images: convert it to PNG or JPEG")
        stream.seek(0)
        try:
            # Pillow maps some TIFF files of known names into memory, with height for width where they lie on the side.
            return make(stream, "" if kind == "TIFF" else os.fspath(file))
        except MemoryError as error:  # no pixels are made here: it is a damaged number in the header
            raise ValueError("its header asks for more than there is") from error
        except Exception as error:
            if kind == "TIFF" and (problem := _unopened_tiff(stream)):
                raise Unsupported(problem) from error
            raise
    for magic, name in MAGIC.items():
        if re.match(magic, head, re.DOTALL | re.IGNORECASE):
            raise Unsupported(f"is {name}, which is not read: convert it to PNG or JPEG, or remove it")
    raise Image.UnidentifiedImageError


class Stored(NamedTuple):
    """How the file stores its pixels."""

    grey: bool
    top: int = 255  # the value of white, as Pillow gives it
    inverted: bool = False  # whether 0 is white, and Pillow has not turned that round
    profile: bytes | None = None


def examine(image: Image.Image) -> Stored:
    """Return how an image that is not yet loaded is stored; raises Unsupported for what Pillow would get wrong."""
    layout = (image.tile[0][3] if image.tile else "") or ""
    layout = layout[0] if isinstance(layout, tuple) else layout
    deep = image.mode.startswith("I")
    # Pillow has no mode for 16-bit grey with alpha, and gives it as colour.
    grey = deep or image.mode in ("1", "L", "LA", "La") or layout == "LA;16B"
    top, inverted, profile = 65535 if deep else 255, False, image.info.get("icc_profile")
    if image.format == "TIFF":
        if problem := _tiff_problem(image.tag_v2, image.mode):
            raise Unsupported(problem)
        if deep:
            top = 2 ** image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0] - 1
            inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    elif image.format == "JPEG2000":
        top, profile = _examine_jpeg2000(image)
    elif image.format == "AVIF" and not profile:
        _refuse_wide_avif(image)
    elif image.mode == "F":
        raise Unsupported(_no_range("floating-point"))
    elif layout == "RGB;16B" and "transparency" in image.info:
        # Pillow compares the upper 8 bits of the pixels with all 16 of the transparent colour.
        raise Unsupported("has 16-bit colours of which one is transparent: convert it to 8 bits")
    if layout in DEEPENED and image.format == "PNG" and "transparency" in image.info:
        # Pillow scales the pixels to 0 .. 255 but not the transparent level.
        image.info["transparency"] = min(255, image.info["transparency"] * DEEPENED[layout])
    return Stored(grey, top, inverted, None if image.mode == "LAB" else profile)


DEEPENED = {"1": 255, "L;2": 85, "L;4": 17}


def _no_range(kind: str) -> str:
    return f"has {kind} pixels, which have no fixed range: convert it to 8 or 16 unsigned bits"


PHOTOMETRIC = {0: "grey (0 is white)", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
PHOTOMETRIC |= {9: "ICC Lab", 10: "ITU Lab", 32803: "raw sensor", 32844: "LogL", 32845: "LogLuv", 34892: "linear raw"}


def _tiff_problem(tags: TiffImagePlugin.ImageFileDirectory_v2, mode: str) -> str | None:
    """Return why a TIFF file of these tags is refused: what has no range, and what Pillow opens but would get wrong."""
    bits, numbers = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)), tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    kinds = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
    if max(numbers) in kinds or max(bits) > 16:
        return _no_range(kinds.get(max(numbers), f"{max(bits)}-bit"))
    photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    packed = tags.get(TiffImagePlugin.COMPRESSION, 1) != 1
    if photometric == 3 and 0 < max(tags.get(TiffImagePlugin.COLORMAP, (0,))) < 256:
        return "has a palette of 8 bits, where TIFF has 16: save it as PNG"
    if photometric == 5 and tags.get(332, 1) != 1:  # InkSet
        return "has inks other than cyan, magenta, yellow and black: convert it to RGB"
    planes = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    if planes and not packed and (max(bits) > 8 or photometric in (6, 8)):
        return "has its channels one after another, which Pillow misreads at this depth: save it as PNG"
    if photometric == 6 and not packed:
        pixels = tags[TiffImagePlugin.IMAGEWIDTH] * tags[TiffImagePlugin.IMAGELENGTH]
        # Older Pillow opens it as RGB.
        if mode == "RGB" or sum(tags.get(TiffImagePlugin.STRIPBYTECOUNTS, (0,))) != len(bits) * pixels:
            return "has YCbCr without compression, which Pillow misreads: save it as PNG"
    return None


def _unopened_tiff(stream: BinaryIO) -> str | None:
    """Return why Pillow does not open a TIFF file, by its tags, or None where these are broken."""
    try:
        stream.seek(0)
        head = stream.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(head + (stream.read(8) if 43 in head[2:4] else b""))
        stream.seek(tags.next)
        tags.load(stream)
        if not {TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH} <= set(tags):
            return None
        compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
        if compression not in TiffImagePlugin.COMPRESSION_INFO:
            return f"is a TIFF file of compression {compression}, which Pillow does not read: save it as PNG"
        bits = ", ".join(map(str, tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
        photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
        kind = PHOTOMETRIC.get(photometric, f"photometric {photometric}")
        order = "little" if head.startswith(b"II") else "big"
        kind = f"is a {order}-endian TIFF file of {kind} with {bits} bits, which Pillow does not read: "
        return _tiff_problem(tags, "") or kind + "save it as PNG of 8 or 16 bits"
    except Exception:
        return None


def _examine_jpeg2000(image: Image.Image) -> tuple[int, bytes | None]:
    """Return the value of white and the colour profile, neither of which Pillow tells."""
    stream, place = image.fp, image.fp.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(place)
    profile = None
    start, end = (0, 0) if data.startswith(b"\xff\x4f") else (0, len(data))
    while start + 8 <= end:
        length, name = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8]
        body = start + 8
        if length == 1:
            length, body = int.from_bytes(data[body : body + 8]), body + 8
        if name == b"jp2c":
            start = body
            break
        if name == b"colr" and data[body] == 1 and (space := int.from_bytes(data[body + 3 : body + 7])) not in SPACES:
            raise Unsupported(f"has JPEG 2000's colour space {space}, which Pillow does not read: convert it to sRGB")
        if name == b"colr" and data[body] in (2, 3):
            profile = data[body + 3 : start + length]
        # The boxes of the header are looked at one by one, others are left out.
        start = body if name == b"jp2h" else start + max(length, 8)
    # The size marker: two bytes each of markers, its length and its capabilities, eight sizes, the number of channels.
    channels = int.from_bytes(data[start + 40 : start + 42])
    depths = set(data[start + 42 : start + 42 + 3 * channels : 3])
    if not depths:
        raise ValueError("no codestream")
    bits = max(depths) + 1
    if len(depths) != 1 or bits > 16 or (bits < 8 and image.mode.startswith("P")):
        signed = bits > 128
        problem = _no_range("signed") if signed else "has depths that Pillow does not read: convert it to 8 or 16 bits"
        raise Unsupported(problem)
    # Pillow shifts values to the upper end of 8 or 16 bits, and deeper colour down to 8.
    width = 16 if image.mode.startswith("I") else 8
    return (2**bits - 1) << max(0, width - bits) if bits <= width else 255, profile


SPACES = (12, 16, 17, 18)  # CMYK, sRGB, grey and YCbCr, by JPEG 2000's numbers


def _refuse_wide_avif(image: Image.Image) -> None:
    """Refuse an AVIF file whose numbers mean other colours than sRGB's: Pillow does not tell."""
    stream, place = image.fp, image.fp.tell()
    stream.seek(0)
    _, found, codes = stream.read(2**16).partition(b"colrnclx")
    stream.seek(place)
    # Primaries and transfer by the numbers of ITU-T H.273: those of sRGB and BT.709, unspecified, and BT.601.
    primaries, transfer = int.from_bytes(codes[:2]), int.from_bytes(codes[2:4])
    if found and not (primaries in (1, 2, 5, 6) and transfer in (1, 2, 6, 13)):
        name = {9: "BT.2020", 12: "Display P3"}.get(primaries, f"primaries {primaries}")
        name += {16: " in high dynamic range (PQ)", 18: " in high dynamic range (HLG)"}.get(transfer, "")
        raise Unsupported(f"has colours of {name} without a profile: convert it to sRGB")
