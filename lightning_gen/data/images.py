"""All images of a folder or an array file: what other programs drew, or real images to compare with it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_gen.core import ImageSpec, InputError, check_choice, check_within
from lightning_gen.data.decode import (
    Decoder,
    Remedies,
    Unreadable,
    channels_of,
    decode_all,
    height_and_width,
    natural_order,
    size_of,
)
from lightning_gen.data.folder import images_below
from lightning_gen.data.formats import SUFFIXES
from lightning_gen.data.source import Images
from lightning_gen.data.store import decode_to_memory

log = logging.getLogger(__name__)

ARRAYS = (".npy", ".npz")


PLAIN = Remedies("convert or remove it", "convert or remove it", "repair or remove it")


def read_images(
    path: str | Path,
    size: int | Sequence[int] | None = None,
    channels: Literal[1, 3] | None = None,
    background: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    labels: bool = False,
    remedies: Remedies = PLAIN,
) -> tuple[Images, ImageSpec]:
    """Return every image of ``path`` and what they are.

    Args:
        path: a folder, searched to any depth for image files, whose order is that of their names; or a ``.npy`` file of
            levels, uint8 (N, C, H, W), as ``lightning sample`` writes it; or a ``.npz`` file whose first array is uint8
            (N, H, W, C), as published sample batches are (Dhariwal and Nichol 2021). Labels are read from a
            ``labels.npy`` in the folder, or beside the ``.npy`` file, or the second array of the ``.npz`` file.
        size: height and width that image files are brought to (cut to the aspect, antialiased bicubic); None wants
            them all of one size. Arrays are taken as they are: they want None here and for the next two.
        channels: 1 (grey) or 3 (RGB) converts all image files; None takes those of the first and refuses others.
        background: grey level 0 to 255 put behind transparent pixels; None refuses images that have any.
        on_error: "raise" stops at a broken file, "skip" leaves it out (with its label) and logs their number.
        labels: True takes the folders in ``path``, if there are any, for classes, numbered in natural order ("2" before
            "10"); images are then in the order of their classes.
        remedies: what messages advise: those with the names of these arguments, or of a command's options.

    Raises:
        InputError: naming the file or folder, where it is missing, empty, broken, or its images differ in size or kind.
    """
    check_choice("", (None, 1, 3), channels=channels)
    check_choice("", ("raise", "skip"), on_error=on_error)
    check_within("", "[0, 255]", background=background)
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path, size, channels, background, on_error == "skip", labels, remedies)
    if not path.exists():
        raise InputError(f"{path}: no such folder or file: give a folder of images, or a .npy or .npz file")
    if path.suffix.lower() not in ARRAYS:
        raise InputError(f"{path}: is no array of images: give a folder of images, or a .npy or .npz file")
    if size is not None:
        raise InputError(f"{path}: arrays cannot be brought to another size: leave the size out")
    if channels is not None or background is not None:
        name = "channels" if channels is not None else "background"
        raise InputError(f"{path}: arrays are taken as they are: leave the {name} out")
    return _read_array(path)


def _read_folder(
    folder: Path,
    size: int | Sequence[int] | None,
    channels: int | None,
    background: int | None,
    skip: bool,
    labels: bool,
    remedies: Remedies,
) -> tuple[Images, ImageSpec]:
    try:
        names = images_below(folder, folder)
        classes = class_folders(folder) if labels else []
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}): check its permissions") from error
    if not names:
        raise InputError(f"{folder}: holds no images ({' '.join(SUFFIXES)}): give the folder or array that does")
    labels_file = folder / "labels.npy"
    if classes:
        names, own = _by_class(folder, names, classes)
        if labels_file.exists():
            raise InputError(f"{labels_file}: there are class folders ({classes[0]}/) as well: remove it or move them")
    else:
        own = _read_labels(labels_file)
        _check_labels(own, len(names), labels_file)
        own = None if own is None else own.astype(np.int64)
    files = [folder / name for name in names]
    if channels is None:
        found = _first(files, channels_of, skip, remedies)
    height, width = _first(files, size_of, skip, remedies) if size is None else height_and_width("", size)
    decoder = Decoder(channels or found, height, width, channels is not None, background, size is not None, remedies)
    spec = ImageSpec(decoder.channels, height, width)
    decoded = decode_to_memory(decode_all(files, decoder, skip), spec, own, len(files))
    if decoded.skipped:
        log.warning(
            "skipped %d of %d images of %s; the first: %s", decoded.skipped, len(files), folder, decoded.first_skipped
        )
    if own is None:
        return decoded.images, spec
    return decoded.images, replace(spec, num_classes=len(classes) or int(own.max()) + 1)


def _first(files: Sequence[Path], question: Callable, skip: bool, remedies: Remedies) -> Any:
    """Return the answer to ``question`` for the first file that can be read."""
    problems = []
    for file in files:
        try:
            return question(file, remedies)
        except Unreadable as error:
            if not skip:
                raise
            problems.append(error.problem)
    raise InputError(f"none of the {len(files)} images can be read; the first: {problems[0]}")


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in natural order."""
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    return sorted((name for name in names if not name.startswith(".") and name != "__MACOSX"), key=natural_order)


def _by_class(folder: Path, names: Sequence[str], classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the names in the order of their classes, and int64 labels (N,)."""
    members = {name: [] for name in classes}
    for name in names:
        first, inside, _ = name.partition("/")
        if not inside:
            raise InputError(f"{folder}: has images ({name}) beside class folders ({classes[0]}/): move them")
        members[first].append(name)
    for name, held in members.items():
        if not held:
            raise InputError(f"{folder / name}: a class without images: fill or remove it")
    labels = np.repeat(np.arange(len(classes)), [len(held) for held in members.values()])
    return [name for held in members.values() for name in held], labels.astype(np.int64)


def _read_array(path: Path) -> tuple[Images, ImageSpec]:
    packed, arrays = _load(path)
    levels = arrays[0] if arrays else np.empty(0)
    order = "(N, H, W, C)" if packed else "(N, C, H, W)"
    channels = levels.shape[-1 if packed else 1] if levels.ndim == 4 else 0
    if levels.dtype != np.uint8 or 0 in levels.shape or not 1 <= channels <= 4:
        raise InputError(
            f"{path}: must hold uint8 levels {order} of 1 to 4 channels, got {levels.dtype} of shape {levels.shape}: "
            "convert it"
        )
    if not packed:
        labels_file = path.with_name("labels.npy")
        return _labelled(levels, _read_labels(labels_file), labels_file)
    # A copy: ascontiguousarray keeps the strides of one channel, and with them the network takes another path.
    return _labelled(np.moveaxis(levels, -1, 1).copy(), arrays[1] if len(arrays) > 1 else None, path)


def _load(path: Path) -> tuple[bool, list[np.ndarray]]:
    """Return whether ``path`` is a .npz file, by its content, and its first two arrays, or that of a .npy file."""
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                return False, [stored]
            return True, [stored[name] for name in stored.files[:2]]
    except Exception as error:  # NumPy's readers raise nearly anything on broken files, as Pillow's do
        # What NumPy says of pickles would lead people to run code.
        reason = "" if "pickle" in str(error) else f" ({' '.join(str(error).split()) or type(error).__name__})"
        raise InputError(f"{path}: cannot be read as plain numbers{reason}: save it again or remove it") from error


def _read_labels(file: Path) -> np.ndarray | None:
    if not file.is_file():
        return None
    arrays = _load(file)[1]
    return arrays[0] if arrays else np.empty(0)


def _labelled(levels: np.ndarray, labels: np.ndarray | None, file: Path) -> tuple[Images, ImageSpec]:
    _check_labels(labels, len(levels), file)
    if labels is None:
        return Images(levels, None), ImageSpec(*levels.shape[1:])
    return Images(levels, labels.astype(np.int64)), ImageSpec(*levels.shape[1:], num_classes=int(labels.max()) + 1)


def _check_labels(labels: np.ndarray | None, count: int, file: Path) -> None:
    if labels is None:
        return
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{file}: labels must be {count} whole numbers, one per image, got {labels.dtype} of shape "
            f"{labels.shape}: repair or remove them"
        )
    if labels.min() < 0 or labels.max() >= 2**31:
        raise InputError(f"{file}: labels must be numbers of classes from 0, got {labels.min()} .. {labels.max()}")
