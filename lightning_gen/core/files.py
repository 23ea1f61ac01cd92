"""Writing files so that a reader never sees half of one."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_gen.core.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make the file under a temporary name in the same folder, then rename it to ``path``.

    On any error the temporary file is removed and ``path`` stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_file(option: str, name: str | Path) -> Path:
    """Return the path of a file that is to be written: what is wrong is found out before the work, not after it.

    Args:
        option: what gave the name, for messages.
        name: as it was given.

    Raises:
        InputError: for a name that no file can be written to.
    """
    file = Path(name)
    try:
        if not str(name) or file.is_dir():
            raise InputError(f"{option} {name}: give the name of a file")
        if not file.absolute().parent.is_dir():
            raise InputError(f"{option} {file}: there is no folder {file.parent}")
        # Permissions do not tell: some folders, such as those of /proc, refuse whoever asks.
        tempfile.NamedTemporaryFile(prefix=f".{file.name}.", dir=file.absolute().parent).close()
    except OSError as error:
        raise InputError(f"{option} {file}: cannot be written ({error.strerror}): give another name") from error
    return file


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically; figures that are not finite become null."""
    write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def flat(report: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``report`` without nesting: ``{"references": {"train": {"n": 3}}}`` becomes ``references_train_n``."""
    result: dict[str, Any] = {}
    for key, value in report.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}_")
        else:
            result[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | tuple) else value
    return result


def finite(value: Any) -> Any:
    """Return ``value`` with every float that is not finite replaced by None, which strict JSON can hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
