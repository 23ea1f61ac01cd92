"""Image files of every depth, interpretation, orientation and colour profile, against numbers computed apart from it."""

import errno
import io
import logging
import re
import struct
import threading
import warnings
import zlib
from itertools import product

import image_files as write
import numpy as np
import PIL
import pytest
from PIL import Image, PngImagePlugin, features

from lightning_gen.core.errors import InputError
from lightning_gen.data import decode, formats
from lightning_gen.data.decode import Decoder, Unreadable, channels_of, decode_all, natural_order, size_of
from lightning_gen.data.formats import OTHERS, SUFFIXES, passed_over, readable_formats

PILLOW = int(PIL.__version__.partition(".")[0])


@pytest.fixture
def levels(tmp_path):
    """A function from the bytes of a file to its levels (C, H, W), of its own size and channels."""

    def read(data, channels=None, background=None, name="x.png"):
        file = tmp_path / name
        file.write_bytes(data)
        own = channels_of(file)
        height, width = size_of(file)
        return Decoder(channels or own, height, width, channels is not None, background, resize=False)(file)

    return read


@pytest.fixture
def refusal(levels):
    """A function from the bytes of a file to the line that it is refused with, and whether that can be skipped."""

    def read(data, **arguments):
        try:
            levels(data, **arguments)
        except InputError as error:
            return str(error), isinstance(error, Unreadable)
        return "nothing", False

    return read


def grey_values(bits):
    """Values of all of the range, 5 x 5, so that rows of few bits do not end with a byte."""
    return np.linspace(0, 2**bits - 1, 25).round().astype(int).reshape(5, 5)


def scaled(values, top):
    return ((510 * np.asarray(values) + top) // (2 * top)).astype(int)


def saved(pixels, kind, **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
    image.save(file, kind, **options)
    return file.getvalue()


def grey_files():
    for bits, order, photometric, compressed in product([1, 2, 4, 8, 12, 16], "<>", [0, 1], [False, True]):
        # Pillow does not open these: see the test of what is refused.
        if (bits == 12 and (order, photometric) != ("<", 1)) or (bits == 16 and (order, photometric) == (">", 0)):
            continue
        top, values = 2**bits - 1, grey_values(bits)
        data = write.tiff(values, bits, order, photometric, compressed)
        name = f"TIFF {bits} {order} {photometric} {compressed}"
        yield name, data, scaled(values if photometric else top - values, top)
    for bits in (1, 2, 4, 8, 16):
        yield f"PNG {bits}", write.png(grey_values(bits), bits), scaled(grey_values(bits), 2**bits - 1)
    for top, plain in product([1, 7, 100, 255, 256, 1000, 1023, 4095, 16383, 65535], [False, True]):
        values = grey_values(16) * top // 65535
        yield f"PGM {top} {plain}", write.pnm(values, top, plain), scaled(values, top)
    if "JPEG2000" in formats.READABLE:
        for bits in (1, 2, 4, 7, 8, 10, 12, 16):
            yield f"JP2 {bits}", write.jp2(grey_values(bits), bits), scaled(grey_values(bits), 2**bits - 1)
    yield "BMP 1", write.bmp(grey_values(1), 1, [(0, 0, 0), (255, 255, 255)]), grey_values(1) * 255
    yield "BMP 8", write.bmp(grey_values(8), 8, [(n, n, n) for n in range(256)]), grey_values(8)


def test_grey_of_every_depth_byte_order_and_interpretation_is_scaled_by_its_own_white(levels):
    for name, data, expected in grey_files():
        found = levels(data)
        assert found.shape == (1, 5, 5), name
        assert np.abs(found[0] - expected).max() <= (name.startswith("PGM 100 ")), name  # ties are rounded to even


def colour_files():
    """Names, files, and colours 0 .. 1 (5, 5, 3) with the number of levels that they may be off."""
    random = np.random.default_rng(0)
    for bits, order, compressed, planar in product([8, 16], "<>", [False, True], [False, True]):
        if bits == 16 and planar and not compressed:
            continue
        values = random.integers(0, 2**bits, (5, 5, 3))
        name = f"TIFF {bits} {order} {compressed} {planar}"
        yield name, write.tiff(values, bits, order, 2, compressed, planar), values / (2**bits - 1), bits // 16
    for bits in (8, 16):
        values = random.integers(0, 2**bits, (5, 5, 3))
        yield f"PNG {bits}", write.png(values, bits, 2), values / (2**bits - 1), bits // 16
    for top, plain in product([1, 100, 255, 1023, 65535], [False, True]):
        values = random.integers(0, top + 1, (5, 5, 3))
        yield f"PPM {top} {plain}", write.pnm(values, top, plain), values / top, 0
    if "JPEG2000" in formats.READABLE:
        for bits in (1, 4, 8, 12):
            middle = 2**bits // 2
            values = random.integers(max(0, middle - 100), min(2**bits, middle + 100), (5, 5, 3))
            yield f"JP2 {bits}", write.jp2(values, bits), values / (2**bits - 1), bits // 12
    values = random.integers(0, 32, (5, 5, 3))
    yield "BMP 16", write.bmp(values, 16), values / 31, 1
    yield "GIF", saved(grey_values(8), "GIF"), np.repeat(grey_values(8)[..., None], 3, 2) / 255, 0
    values = grey_values(1)
    inverted = np.repeat(1 - values[..., None], 3, 2)  # no grey image, as it has a palette
    yield "BMP 1", write.bmp(values, 1, [(255, 255, 255), (0, 0, 0)]), inverted, 0
    for bits in (24, 32):
        values = random.integers(0, 256, (5, 5, bits // 8))
        yield f"BMP {bits}", write.bmp(values, bits), values[..., :3] / 255, 0
    palette = random.integers(0, 256, (16, 3))
    places = random.integers(0, 16, (5, 5))
    maps = np.zeros((3, 16)) + palette.T * 257
    for order, compressed in product("<>", [False, True]):
        data = write.tiff(places, 4, order, 3, compressed, t320=maps.ravel())
        yield f"TIFF palette {order} {compressed}", data, palette[places] / 255, 0
        inks = random.integers(0, 256, (5, 5, 4))
        data = write.tiff(inks, 8, order, 5, compressed)
        yield f"TIFF CMYK {order} {compressed}", data, (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255), 1
        deep = inks.astype(int) * 257
        data = write.tiff(deep, 16, order, 5, compressed)
        yield f"TIFF CMYK 16 {order} {compressed}", data, (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255), 1
        labs = np.stack([random.integers(30, 70, (5, 5)), *random.integers(-20, 20, (2, 5, 5))], -1)
        codes = np.round(labs * [2.55, 1, 1]).astype(int) % 256
        data = write.tiff(codes, 8, order, 8, compressed)
        yield f"TIFF Lab {order} {compressed}", data, write.srgb_of_lab(codes * [1 / 2.55, 0, 0] + labs * [0, 1, 1]), 2
        if not compressed and PILLOW < 13:  # refused
            continue
        luma = np.stack([random.integers(80, 170, (5, 5)), *random.integers(100, 156, (2, 5, 5))], -1)
        y, blue, red = np.moveaxis(luma - [0, 128, 128], -1, 0)
        rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], -1)
        yield f"TIFF YCbCr {order} {compressed}", write.tiff(luma, 8, order, 6, compressed, t530=[1, 1]), rgb / 255, 1
    data = write.png(places, 4, 3, (b"PLTE", palette.astype(np.uint8).tobytes()))
    yield "PNG palette", data, palette[places] / 255, 0


def test_colour_of_every_depth_byte_order_and_interpretation_is_that_of_the_file(levels):
    for name, data, expected, tolerance in colour_files():
        found = levels(data)
        assert found.shape == (3, 5, 5), name
        off = np.abs(found.transpose(1, 2, 0) - 255 * expected).max()
        assert off <= tolerance + 0.5 + 1e-9, (name, off)


def test_what_has_no_range_or_is_not_supported_is_refused_with_its_true_reason(refusal):
    grey, colour = grey_values(8), np.zeros((5, 5, 3), int)
    no_range = "has {} pixels, which have no fixed range: convert it to 8 or 16 unsigned bits"
    cases = [(write.tiff(grey, bits, "<", 1, t339=2), no_range.format("signed")) for bits in (8, 16, 32)]
    cases += [(write.tiff(grey, 32, order), no_range.format("32-bit")) for order in "<>"]
    cases += [(write.tiff(grey / 255, 32, order, t339=3), no_range.format("floating-point")) for order in "<>"]
    cases += [(write.tiff(colour / 255, 32, "<", 2, t339=[3, 3, 3]), no_range.format("floating-point"))]
    cases += [(b"Pf\n5 5\n-1.0\n" + bytes(100), no_range.format("floating-point"))]
    unread = "is a {}-endian TIFF file of {} bits, which Pillow does not read: save it as PNG of 8 or 16 bits"
    for bits, order, photometric in [(10, "<", 1), (10, ">", 0), (12, ">", 1), (12, "<", 0), (16, ">", 0)]:
        end, kind = ("little" if order == "<" else "big"), "grey" if photometric else "grey (0 is white)"
        cases += [(write.tiff(grey, bits, order, photometric), unread.format(end, f"{kind} with {bits}"))]
    cases += [(write.tiff(colour, 12, "<", 2), unread.format("little", "RGB with 12, 12, 12"))]
    cases += [(write.tiff(colour, 8, "<", 9), unread.format("little", "ICC Lab with 8, 8, 8"))]
    cases += [(write.tiff(grey, 8, ">", 32803), unread.format("big", "raw sensor with 8"))]
    cases += [
        (write.tiff(colour, 16, "<", 2, planar=True), "has its channels one after another, which Pillow misreads"),
        (
            write.tiff(np.zeros((4, 4, 4), int), 8, "<", 5, t332=2),
            "has inks other than cyan, magenta, yellow and black",
        ),
        (write.tiff(grey, 8, "<", 3, t320=np.arange(768) // 3), "has a palette of 8 bits, where TIFF has 16"),
        (subsampled(), "has YCbCr without compression, which Pillow misreads"),
        (write.tiff(grey, 8, t259=34887), "is a TIFF file of compression 34887, which Pillow does not read"),
        (write.bmp(grey // 64, 2, [(0, 0, 0)] * 4), r"does not read \(Unsupported BMP pixel depth"),
        (twelve_bit_jpeg(), r"is of a kind that Pillow does not read \(cannot handle 12-bit layers\): convert it to 8"),
        (
            write.png(colour, 16, 2, (b"tRNS", bytes(6))),
            "has 16-bit colours of which one is transparent: convert it to 8 bits",
        ),
    ]
    if "JPEG2000" in formats.READABLE:
        signed = bytearray(write.jp2(grey, 8))
        signed[signed.index(b"\xff\x51") + 40] |= 128
        wide = write.jp2(colour, 8).replace(b"colr\1\0\0\0\0\0\x10", b"colr\1\0\0\0\0\0\x15")
        cases += [(bytes(signed), no_range.format("signed")), (wide, "has JPEG 2000's colour space 21")]
    if "AVIF" in formats.READABLE:
        hdr = saved(colour, "AVIF").replace(b"colrnclx\0\1\0\x0d", b"colrnclx\0\x09\0\x10")
        cases += [(hdr, r"has colours of BT.2020 in high dynamic range \(PQ\) without a profile: convert it to sRGB")]
    for data, reason in cases:
        said, skippable = refusal(data)
        pattern = reason if "\\" in reason else re.escape(reason)
        assert re.search(r"x\.png: " + (".*" if "BMP" in reason else "") + pattern, said), (reason, said)
        assert not skippable, said
        assert "broken" not in said


def subsampled():
    """A TIFF of 4 x 4 pixels of YCbCr whose colours have half the resolution: 24 bytes."""
    return write.tiff(np.zeros((2, 4, 3), int), 8, "<", 6, t530=[2, 2], t257=4, t256=4)


def twelve_bit_jpeg():
    data = bytearray(saved(np.zeros((8, 8)), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


def test_transparency_of_every_depth_is_seen(levels):
    for bits in (1, 2, 4, 8, 16):
        values = grey_values(bits)
        expected = np.where(values == values[2, 3], 99, scaled(values, 2**bits - 1))
        data = write.png(values, bits, 0, (b"tRNS", struct.pack(">H", values[2, 3])))
        np.testing.assert_array_equal(levels(data, background=99)[0], expected, err_msg=str(bits))
    for bits in (8, 16):
        values = np.stack([grey_values(bits), np.where(grey_values(8) > 99, 2**bits - 1, 0)], -1)
        found = levels(write.png(values, bits, 4), background=99)
        expected = np.where(values[..., 1] == 0, 99, scaled(values[..., 0], 2**bits - 1))
        assert found.shape == (1, 5, 5)
        assert np.abs(found[0] - expected).max() <= bits // 16
    premultiplied = write.tiff(np.stack([np.full((5, 5), 50), np.full((5, 5), 255)], -1), 8, t338=1)
    assert PILLOW < 13 or np.all(levels(premultiplied) == 50)


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def test_all_orientations_of_all_formats_are_upright_once(levels):
    y, x = np.mgrid[:16, :24]
    pixels = np.stack([x * 10, y * 15, (x > 12) * 200], -1)
    for number, turned in TURNED.items():
        exif = Image.Exif()
        exif[0x0112] = number
        files = {
            "JPEG": saved(pixels, "JPEG", exif=exif, quality=100, subsampling=0),
            "PNG": saved(pixels, "PNG", exif=exif),
            "TIFF": write.tiff(pixels, 8, "<", 2, t274=number),
            "TIFF big-endian, compressed": write.tiff(pixels, 8, ">", 2, True, t274=number),
            "TIFF 16 bits": write.tiff(pixels * 257, 16, ">", 2, t274=number),
            "TIFF CMYK": write.tiff(np.dstack([255 - pixels, 0 * x]), 8, "<", 5, t274=number),
            "TIFF grey": write.tiff(pixels[..., 0], 8, "<", t274=number),
            "TIFF grey 16 bits": write.tiff(pixels[..., 0] * 257, 16, ">", t274=number),
            "TIFF palette": write.tiff(pixels[..., 0], 8, ">", 3, t274=number, t320=np.tile(np.arange(256) * 257, 3)),
        }
        for kind, options in {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.items():
            if kind in formats.READABLE:
                files[kind] = saved(pixels, kind, exif=exif, **options)
        for name, data in files.items():
            grey = "grey" in name or "palette" in name
            found, expected = levels(data).transpose(1, 2, 0), turned(pixels[..., :1] if grey else pixels)
            assert found.shape[:2] == expected.shape[:2], (name, number)
            assert np.abs(found - expected).max() <= (3 if name in ("JPEG", "AVIF") else 0), (name, number)


def test_a_broken_exif_block_does_not_matter(levels):
    exif = Image.Exif()
    exif[0x0112] = 6
    block, pixels = exif.tobytes(), np.full((8, 6), 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for end in range(6, len(block)):
            assert np.all(levels(saved(pixels, "JPEG", exif=block[:end], quality=100)) == 7)


def test_long_texts_in_png_files_are_no_fault_and_the_limits_are_as_before(levels):
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, Image.MAX_IMAGE_PIXELS
    text = b"notes\0\0" + zlib.compress(bytes(3_000_000))
    many = [(b"zTXt", b"notes\0\0" + zlib.compress(bytes(2**20)))] * 66
    pixels = grey_values(8)
    behind = write.png(pixels)
    behind = behind[:-12] + write.chunk(b"zTXt", text) + behind[-12:]
    for data in [write.png(pixels, 8, 0, (b"zTXt", text)), behind, write.png(pixels, 8, 0, *many)]:
        np.testing.assert_array_equal(levels(data)[0], pixels)
    assert before == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, Image.MAX_IMAGE_PIXELS)


def test_an_image_of_196_million_pixels_is_read_without_a_warning(tmp_path):
    head = struct.pack(">IIBBBBB", 14000, 14000, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", rows(14000)), (b"IEND", b"")]
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(write.chunk(*part) for part in parts))
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert channels_of(tmp_path / "x.png") == 1
        assert np.all(Decoder(1, 4, 4, False, None)(tmp_path / "x.png") == 255)
    assert before == Image.MAX_IMAGE_PIXELS


def rows(count):
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(b"\0" + b"\xff" * 1750) for _ in range(count)), packer.flush()])


def test_large_images_of_all_formats_are_read_by_many_threads_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(decode, "LARGE", 100)
    pixels = np.arange(400).reshape(20, 20) % 256
    files = [tmp_path / f"{number}" for number in range(200)]
    kinds = [kind for kind in ("PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF") if kind in formats.READABLE]
    for number, file in enumerate(files):
        options = {"lossless": True} if number % 6 == 3 else {}
        file.write_bytes(saved(pixels, kinds[number % len(kinds)], **options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chunks = list(decode_all(files, Decoder(1, 20, 20, True, None), skip=False))
    assert all(np.abs(image[0] - pixels).max() <= 1 for chunk in chunks for image in chunk.levels)
    assert Image.MAX_IMAGE_PIXELS == 100
    assert threading.active_count() < 50


def test_limits_and_the_machines_faults_are_named_and_not_skipped(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(write.png(grey_values(8)))

    def told(error):
        def fail(*_):
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(Image.Image, "has_transparency_data", property(fail))
            with pytest.raises(InputError, match=r"x\.png: ") as caught:
                list(decode_all([tmp_path / "x.png"], Decoder(1, 5, 5, False, None), skip=True))
        return str(caught.value)

    assert "does not fit into memory" in told(MemoryError())
    assert "cannot be read (Too many open files)" in told(OSError(errno.EMFILE, "Too many open files"))


def test_cut_files_are_broken_and_can_be_skipped(refusal):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    files = {kind: saved(pixels, kind) for kind in formats.READABLE if kind not in ("DIB", "GIF", "QOI", "TGA")}
    files |= {"grey TIFF": write.tiff(pixels[..., 0], 8, ">"), "16 bits": write.png(pixels * 257, 16, 2)}
    for name, data in files.items():
        said, skippable = refusal(data[: len(data) // 2])
        assert skippable, (name, said)
        assert "x.png: is broken (" in said, (name, said)


# Colour profiles.


def converted(values, name, gamma):
    """The sRGB levels of colours 0 .. 1 (..., 3) of a space of these primaries."""
    light = write.srgb_light(values) if gamma is None else values**gamma
    return 255 * write.srgb_values(light @ (np.linalg.inv(write.to_xyz("sRGB")) @ write.to_xyz(name)).T)


def test_adobe_rgb_and_display_p3_become_srgb(levels):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    for name, gamma in [("Adobe RGB", 563 / 256), ("Display P3", None)]:
        profile = write.rgb_profile(name, gamma)
        expected = converted(pixels / 255, name, gamma)
        assert np.abs(expected - pixels).mean() > 3
        files = [saved(pixels, kind, icc_profile=profile) for kind in ("PNG", "TIFF")]
        files += [write.tiff(pixels * 257, 16, "<", 2, t34675=profile)]
        if "WEBP" in formats.READABLE:
            files += [saved(pixels, "WEBP", lossless=True, icc_profile=profile)]
        if "JPEG2000" in formats.READABLE:
            box = b"colr\2\0\0" + profile
            plain, old = saved(pixels, "JPEG2000", irreversible=False), b"\0\0\0\x0fcolr\1\0\0\0\0\0\x10"
            header = struct.pack(">I", 45 - 15 + 4 + len(box)) + b"jp2h"
            new = plain.replace(old, struct.pack(">I", 4 + len(box)) + box)
            files += [new.replace(b"\0\0\0\x2djp2h", header)]
        for data in files:
            off = np.abs(levels(data).transpose(1, 2, 0) - expected)
            assert off.max() < 3, name
            assert off.mean() < 0.6, name
        smooth = np.repeat(np.repeat(pixels[:8, :8], 8, 0), 8, 1)
        found = levels(saved(smooth, "JPEG", quality=100, subsampling=0, icc_profile=profile))
        assert np.abs(found.transpose(1, 2, 0) - converted(smooth / 255, name, gamma)).mean() < 1.5
        clear = np.concatenate([pixels, np.where(pixels[..., :1] > 99, 255, 0)], -1)
        found = levels(saved(clear, "PNG", icc_profile=profile), background=9).transpose(1, 2, 0)
        assert np.abs(found - np.where(clear[..., 3:] == 0, 9, expected)).max() < 3


def test_grey_profiles_become_that_of_srgb(levels):
    ramp = np.arange(256).reshape(16, 16)
    for gamma in (1.0, 1.8, 2.2):
        expected = 255 * write.srgb_values((ramp / 255) ** gamma)
        # A grey image may have the profile of the colour image that it was made of.
        for profile in [write.icc(b"GRAY", kTRC=write.curve(gamma)), write.rgb_profile("Adobe RGB", gamma)]:
            for data in [
                saved(ramp, "PNG", icc_profile=profile),
                write.tiff(ramp * 257, 16, ">", 1, t34675=profile),
                write.png(np.stack([ramp, np.full_like(ramp, 255)], -1), 8, 4, iccp(profile)),
            ]:
                assert np.abs(levels(data)[0] - expected).max() < (1.5 if gamma > 1 else 2.5), gamma
    for profile in (write.icc(b"GRAY", kTRC=write.curve(None)), write.rgb_profile("sRGB")):
        np.testing.assert_array_equal(levels(saved(ramp, "PNG", icc_profile=profile))[0], ramp)


def iccp(profile):
    return b"iCCP", b"x\0\0" + zlib.compress(profile)


def test_inks_are_converted_by_their_profile(levels):
    corners = np.indices((2, 2, 2, 2)).reshape(4, 16).T
    # White paper and full black, as other ones would be moved there (lcms scales the black point).
    labs = np.array([100, 0, 0]) + corners @ np.array([[-30, -25, -30], [-30, 30, 0], [-5, -5, 40], [0, 0, 0]])
    labs[(corners[:, 3] == 1) | (corners[:, :3].sum(1) == 3)] = 0
    profile = write.cmyk_profile(labs.reshape(2, 2, 2, 2, 3))
    inks = np.repeat(np.repeat(255 * corners.reshape(4, 4, 4), 8, 0), 8, 1)
    expected = 255 * write.srgb_of_lab(np.round(labs * [2.55, 1, 1]) / [2.55, 1, 1]).reshape(4, 4, 3)
    expected = np.repeat(np.repeat(expected, 8, 0), 8, 1)
    jpeg = saved(Image.fromarray(inks.astype(np.uint8), "CMYK"), "JPEG", quality=100, icc_profile=profile)
    for data in (write.tiff(inks, 8, "<", 5, t34675=profile), jpeg):
        assert np.abs(levels(data).transpose(1, 2, 0) - expected).max() < 3


def test_srgb_profiles_change_nothing(levels):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4))
    pixels[..., 3] = 255
    profiles = [
        write.rgb_profile("sRGB"),
        decode.ImageCms.ImageCmsProfile(decode.ImageCms.createProfile("sRGB")).tobytes(),
    ]
    for profile, channels in product(profiles, (3, 4)):
        found = levels(saved(pixels[..., :channels], "PNG", icc_profile=profile))
        np.testing.assert_array_equal(found, pixels[..., :3].transpose(2, 0, 1))


def test_broken_and_foreign_profiles_are_ignored_with_one_line(tmp_path, caplog):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    good = write.rgb_profile("Adobe RGB", 2.2)
    bad = [b"no profile", good[:200], good[:128] + bytes(len(good) - 128), write.icc(b"GRAY", kTRC=write.curve(1.0))]
    for number, profile in enumerate(bad):
        files = [tmp_path / f"{number}{letter}.png" for letter in "ab"]
        for file in files:
            file.write_bytes(write.png(pixels, 8, 2, iccp(profile)))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for file in files:
                found = Decoder(3, 8, 8, False, None)(file)
                np.testing.assert_array_equal(found, pixels.transpose(2, 0, 1))
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 1, lines
        assert lines[0].startswith(f"{files[0]}: its colour profile is ignored ("), lines
        assert "\n" not in lines[0]


# Formats.


def test_the_suffixes_are_those_that_this_pillow_reads():
    assert {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".apng", ".tga"} <= set(SUFFIXES)
    registered = Image.registered_extensions()
    assert all(suffix in registered for suffix in SUFFIXES)
    assert (".avif" in SUFFIXES) == features.check("avif")
    assert (".jp2" in SUFFIXES) == features.check("jpg_2000")
    left = readable_formats(codec=lambda name: name not in ("webp", "jpg_2000"))
    assert set(readable_formats(codec=lambda _: True)) - set(left) == {"WEBP", "JPEG2000"}
    others = " ".join(OTHERS.values()).split()
    assert len(others) == len(set(others))
    assert not set(others) & set(SUFFIXES)


def test_images_that_are_not_read_are_known_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "SUFFIXES", tuple(suffix for suffix in SUFFIXES if suffix != ".avif"))
    for name, reason in {
        "a.png": None,
        "a/b.JPG": None,
        "notes.txt": None,
        "png": None,
        "a/labels.npy": None,
        "a/IMG_1.HEIC": "HEIC files are not read",
        "a.dng": "raw camera files are not read",
        "a.npy": "array files are not read",
        "x.avif": "this build of Pillow reads no AVIF images",
    }.items():
        assert passed_over(name) == reason, name
    monkeypatch.setattr(formats, "READABLE", ("PNG",))
    (tmp_path / "x.jpg").write_bytes(saved(np.zeros((8, 8)), "JPEG"))
    with pytest.raises(InputError, match=r"x\.jpg: this build of Pillow reads no JPEG images: convert it to PNG"):
        channels_of(tmp_path / "x.jpg")


def test_other_images_under_a_wrong_name_are_named_as_what_they_are(refusal):
    for head, name in {
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "a HEIC image",
        b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic": "a HEIC image",
        b"\xff\x0a\x12\x34": "a JPEG XL image",
        b"8BPS\0\1": "a Photoshop image",
        b"\0\0\1\0\1\0\x10\x10": "an icon",
        b"%PDF-1.7\n": "a PDF or PostScript document",
        b'<?xml version="1.0"?>\n<svg xmlns=""/>': "an SVG drawing",
        b"\0\0\0\x18ftypisom": "a video",
        b"\x93NUMPY\1\0": "a NumPy array",
    }.items():
        said, skippable = refusal(head + bytes(50))
        assert f"x.png: is {name}, which is not read: convert it to PNG or JPEG, or remove it" in said, (head, said)
        assert not skippable
    assert refusal(b"hello world") == (refusal(b"hello world")[0], True)
    assert "x.png: is not an image: " in refusal(b"hello world")[0]


def test_files_of_the_added_formats_are_read_whatever_their_name(levels):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    for kind, name in {"TGA": "x.tga", "DIB": "x.png", "QOI": "x.jpg", "PNG": "x.jpg", "MPO": "x.jpg"}.items():
        if kind not in Image.SAVE:
            continue
        options = {"quality": 100, "subsampling": 0} if kind == "MPO" else {}
        found = levels(saved(pixels, kind, **options), name=name).transpose(1, 2, 0)
        assert np.abs(found - pixels).max() <= (4 if kind == "MPO" else 0), kind


def test_numbers_in_names_are_put_in_order_by_value():
    names = ["10", "2", "02", "1", "a10b", "a2", "a", "b", "", "a10", "3d", "3"]
    expected = ["", "1", "02", "2", "3", "3d", "10", "a", "a2", "a10", "a10b", "b"]
    assert sorted(names, key=natural_order) == expected
