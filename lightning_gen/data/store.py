"""Decoded images: in memory, or in a file on disk that is mapped and found again by the next run."""

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_gen.core import ImageSpec, InputError
from lightning_gen.data.decode import Chunk
from lightning_gen.data.source import ContentHash, Images

log = logging.getLogger(__name__)


class Decoded(NamedTuple):
    """Decoded images, the number of broken files left out, and the message of the first of them (or "")."""

    images: Images
    skipped: int
    first_skipped: str


def key_of(identity: object) -> str:
    """Return the name of the store of decoded images that were made from ``identity`` (plain data)."""
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()


def decode_to_memory(chunks: Iterable[Chunk], spec: ImageSpec, labels: np.ndarray | None, total: int) -> Decoded:
    """Gather ``chunks`` of ``total`` files (with their ``labels``) into one array."""
    levels = np.empty((total, *spec.shape), np.uint8)
    kept, broken = [], []
    for chunk in chunks:
        levels[len(kept) : len(kept) + len(chunk.places)] = chunk.levels
        kept += chunk.places
        broken += chunk.broken
    _refuse_nothing(kept, broken)
    images = Images(levels[: len(kept)], None if labels is None else labels[kept])
    return Decoded(images, len(broken), broken[0] if broken else "")


def decode_to_disk(chunks: Iterable[Chunk], spec: ImageSpec, labels: np.ndarray | None, folder: Path) -> None:
    """Write ``chunks`` into ``folder``, which appears under its name only when it is complete.

    Two processes may do this at once: the second to finish finds the folder there, equal to its own, and leaves it.
    """
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        kept, broken, digest = [], [], ContentHash(spec)
        with open(temporary / "levels.bin", "wb") as out:
            for chunk in chunks:
                out.write(np.ascontiguousarray(chunk.levels).data)
                digest.add(chunk.levels)
                kept += chunk.places
                broken += chunk.broken
        _refuse_nothing(kept, broken)
        if labels is not None:
            np.save(temporary / "labels.npy", labels[kept])
        about = {
            "images": len(kept),
            "skipped": len(broken),
            "first_skipped": broken[0] if broken else "",
            "fingerprint": digest.finish(None if labels is None else labels[kept]),
        }
        (temporary / "about.json").write_text(json.dumps(about))
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_store(folder: Path, spec: ImageSpec) -> tuple[Decoded, str] | None:
    """Map what :func:`decode_to_disk` wrote; returns it and its fingerprint, or None where it is missing or damaged."""
    try:
        about = json.loads((folder / "about.json").read_text())
        shape = (about["images"], *spec.shape)
        if (folder / "levels.bin").stat().st_size != np.prod(shape, dtype=np.int64):
            raise ValueError("levels.bin has the wrong size")
        levels = np.memmap(folder / "levels.bin", np.uint8, "r", shape=shape)
        labels = np.load(folder / "labels.npy") if spec.num_classes else None
        return Decoded(Images(levels, labels), about["skipped"], about["first_skipped"]), about["fingerprint"]
    except FileNotFoundError:
        if not folder.is_dir():
            return None
        reason = "a file is missing"
    except (ValueError, KeyError, EOFError) as error:
        reason = str(error)
    log.warning("the cache of decoded images %s is damaged (%s): decoding again", folder, reason)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _refuse_nothing(kept: list[int], broken: list[str]) -> None:
    if not kept:
        raise InputError(f"none of the {len(broken)} images can be read; the first: {broken[0]}")
