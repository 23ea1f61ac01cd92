"""Image files written byte by byte, so that no fault of the reader under test can be in them as well."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def packed(samples, bits, order):
    """Return rows of samples (H, W) or (H, W, S) as bytes: below 8 bits and at 10 or 12 the highest bit first."""
    rows = np.asarray(samples).reshape(len(samples), -1)
    if bits in (8, 16, 32):
        return rows.astype(f"{order}{'f' if rows.dtype.kind == 'f' else 'u'}{bits // 8}").tobytes()
    ones = (rows[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1, dtype=np.uint32)) & 1
    return np.packbits(ones.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def tiff(samples, bits=8, order="<", photometric=1, compressed=False, planar=False, **more):
    """Return a TIFF file of samples (H, W) or (H, W, S); ``more`` are further tags, such as t274=6 for orientation 6."""
    samples = np.asarray(samples)
    height, width = samples.shape[:2]
    count = samples.shape[2] if samples.ndim == 3 else 1
    planes = list(np.moveaxis(samples, 2, 0)) if planar else [samples]
    strips = [packed(plane, bits, order) for plane in planes]
    strips = [zlib.compress(strip) if compressed else strip for strip in strips]
    offsets = np.cumsum([8, *map(len, strips)])
    tags = {256: width, 257: height, 258: [bits] * count, 259: 8 if compressed else 1, 262: photometric}
    tags |= {273: offsets[:-1], 277: count, 278: height, 279: list(map(len, strips)), 284: 2 if planar else 1}
    tags |= {int(name[1:]): value for name, value in more.items()}
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    entries, behind = b"", 8 + len(body) + 2 + 12 * len(tags) + 4
    tail = b""
    for tag in sorted(tags):
        if isinstance(tags[tag], bytes):
            kind, n, data = 7, len(tags[tag]), tags[tag]
        else:
            values = np.atleast_1d(tags[tag])
            kind, n, data = 4, len(values), values.astype(f"{order}u4").tobytes()
            if tag not in (273, 279):
                kind, data = 3, values.astype(f"{order}u2").tobytes()
        if len(data) > 4:
            place, tail = behind + len(tail), tail + data + b"\0" * (len(data) % 2)
            data = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, kind, n) + data.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + tail


def chunk(name, data):
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples, bits=8, kind=0, *chunks):
    """Return a PNG file of samples (H, W) or (H, W, S) of colour type ``kind``, with ``chunks`` (name, data)."""
    samples = np.asarray(samples)
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, kind, 0, 0, 0)
    rows = b"".join(b"\0" + packed(row[None], bits, ">") for row in samples)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def pnm(samples, top, plain=False):
    """Return a PGM or PPM file, binary or in words."""
    samples = np.asarray(samples)
    magic = (2 if samples.ndim == 2 else 3) + (0 if plain else 3)
    head = f"P{magic}\n{samples.shape[1]} {samples.shape[0]}\n{top}\n".encode()
    if plain:
        return head + b" ".join(str(value).encode() for value in samples.ravel()) + b"\n"
    return head + samples.astype(">u2" if top > 255 else np.uint8).tobytes()


def bmp(samples, bits, palette=()):
    """Return a BMP file: samples (H, W) are places in ``palette`` (n, 3), or pixels of 5 bits, or (H, W, 3 or 4)."""
    samples = np.asarray(samples)[::-1]  # the lowest row comes first
    colours = b"".join(bytes([*colour[::-1], 0]) for colour in palette)
    rows = []
    for row in samples:
        if bits == 16:
            data = packed(row[None] @ np.array([1024, 32, 1]), 16, "<")
        elif bits >= 24:
            data = row[:, [2, 1, 0, 3][: bits // 8]].astype(np.uint8).tobytes()
        else:
            data = packed(row[None], bits, "<")
        rows.append(data + bytes(-len(data) % 4))
    body, start = b"".join(rows), 54 + len(colours)
    info = struct.pack("<IiiHHIIiiII", 40, samples.shape[1], len(samples), 1, bits, 0, len(body), 0, 0, len(palette), 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + colours + body


def jp2(samples, bits):
    """Return a lossless JPEG 2000 file of values below 2^bits, from one that Pillow writes in 8 or 16 bits.

    The wavelets code differences to the middle of the range, so with these kept, other numbers of bits in both headers
    make a file of these.
    """
    samples = np.asarray(samples, int)
    written = 16 if samples.ndim == 2 and bits > 8 else 8
    shifted = samples - (1 << bits >> 1) + (1 << written >> 1)
    file = io.BytesIO()
    Image.fromarray(shifted.astype(f"u{written // 8}")).save(file, "JPEG2000", irreversible=False)
    data = bytearray(file.getvalue())
    data[data.index(b"ihdr") + 14] = bits - 1
    size = data.index(b"\xff\x51")
    for channel in range(1 if samples.ndim == 2 else samples.shape[2]):
        data[size + 40 + 3 * channel] = bits - 1
    return bytes(data)


BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50, D65 = np.array([0.9642, 1.0, 0.8249]), np.array([0.95047, 1.0, 1.08883])
TO_D50 = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ D65)) @ BRADFORD
PRIMARIES = {
    "sRGB": [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)],
    "Adobe RGB": [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)],
    "Display P3": [(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)],
}


def to_xyz(name):
    """Return the matrix from linear colours of these primaries and white D65 to XYZ."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in PRIMARIES[name]]).T
    return columns * np.linalg.solve(columns, D65)


def srgb_light(values):
    """Return the light 0 .. 1 of sRGB values 0 .. 1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_values(light):
    """Return the sRGB values 0 .. 1 of light, cut to 0 .. 1."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def icc(space, pcs=b"XYZ ", **tags):
    """Return an ICC profile (version 2) of a colour space with some tags."""
    tags = {"wtpt": xyz(D50), **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name.encode() + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(body), b"", 0x02400000, b"mntr", space, pcs, bytes(12), b"acsp")
    head = head.ljust(68, b"\0") + xyz(D50)[8:]
    return head.ljust(128, b"\0") + table + body


def xyz(values):
    """Return a tag of three numbers."""
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def curve(gamma):
    """Return a tag of a curve: a power, or for None that of sRGB in 1024 points."""
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    points = np.round(65535 * srgb_light(np.linspace(0, 1, 1024))).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + points.tobytes()


def rgb_profile(name, gamma=None):
    """Return the profile of a screen or camera: a matrix and a curve."""
    columns = (TO_D50 @ to_xyz(name)).T
    tags = {f"{letter}XYZ": xyz(column) for letter, column in zip("rgb", columns, strict=True)}
    return icc(b"RGB ", **tags, **{f"{letter}TRC": curve(gamma) for letter in "rgb"})


def cmyk_profile(labs):
    """Return the profile of a press by the Lab colours (2, 2, 2, 2, 3) without and with each of its inks."""
    plain = bytes(range(256))
    codes = np.round(np.asarray(labs) * [2.55, 1, 1] + [0, 128, 128]).astype(np.uint8)
    matrix = struct.pack(">9i", *(np.eye(3, dtype=int).ravel() * 65536).tolist())
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + 4 * plain + codes.tobytes() + 3 * plain
    return icc(b"CMYK", b"Lab ", A2B0=table)


def srgb_of_lab(labs):
    """Return sRGB values 0 .. 1 of Lab colours (..., 3) under D50."""
    labs = np.asarray(labs, float)
    y = (labs[..., 0] + 16) / 116
    f = np.stack([y + labs[..., 1] / 500, y, y - labs[..., 2] / 200], -1)
    light = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    return srgb_values(light @ np.linalg.inv(TO_D50 @ to_xyz("sRGB")).T)
