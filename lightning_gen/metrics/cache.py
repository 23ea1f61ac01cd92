"""Features of real images on disk, found again by what they depend on."""

import logging
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """The folder of what can be made again: ``$LIGHTNING_GEN_CACHE``, else ``~/.cache/lightning_gen``."""
    return Path(os.environ.get("LIGHTNING_GEN_CACHE") or "~/.cache/lightning_gen").expanduser()


def cached_tensors(key: str, compute: Callable[[], dict[str, Tensor]], count: int | None = None) -> dict[str, Tensor]:
    """The tensors stored under ``key``, or else computed and stored.

    A file is written under a temporary name and renamed: runs that write at once each write the same content, and no
    reader sees half of it. A cut, changed or foreign file is computed anew with a warning; a folder that cannot be
    written costs a warning, not the run.

    Args:
        key: hash of everything that the tensors depend on.
        compute: makes the tensors.
        count: number of rows that each must have; an entry with another is stale.
    """
    path = cache_root() / "features" / f"{key}.safetensors"
    stored = _read(path, key) if path.exists() else None
    if stored is not None and count is not None and any(len(rows) != count for rows in stored.values()):
        log.warning("cached features %s are not those of %d images; computing them anew", path, count)
        stored = None
    if stored is None:
        stored = compute()
        _write(path, key, stored)
    return stored


def _checksum(tensors: dict[str, Tensor]) -> str:
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].contiguous().numpy(), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError) as error:
        log.warning("cached features %s cannot be read (%s); computing them anew", path, error)
        return None
    if metadata.get("key") != key or metadata.get("checksum") != _checksum(tensors):
        log.warning("cached features %s are not what their name says; computing them anew", path)
        return None
    return tensors


def _write(path: Path, key: str, tensors: dict[str, Tensor]) -> None:
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(cpu, metadata={"key": key, "checksum": _checksum(cpu)})
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{key}", delete=False) as file:
            temporary = file.name
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        log.warning("features cannot be cached in %s (%s); set LIGHTNING_GEN_CACHE to a writable folder", path, error)
