"""All images of a folder or an array file: what other programs drew, or real images to compare with it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from lightning_gen.core import ImageSpec, InputError
from lightning_gen.data.decode import SUFFIXES, Decoder, Unreadable, channels_of, decode_all, height_and_width
from lightning_gen.data.folder import images_below
from lightning_gen.data.source import Images

ARRAYS = (".npy", ".npz")


def read_images(path: str | Path, size: int | Sequence[int] | None = None) -> tuple[Images, ImageSpec]:
    """Return every image of ``path`` and what they are.

    Args:
        path: a folder, searched to any depth for image files, whose order is that of their names; or a ``.npy`` file of
            levels, uint8 (N, C, H, W), as ``lightning sample`` writes it; or a ``.npz`` file whose first array is uint8
            (N, H, W, C), as published sample batches are (Dhariwal and Nichol 2021). Labels are read from a
            ``labels.npy`` in the folder, or beside the ``.npy`` file, or the second array of the ``.npz`` file.
        size: height and width that image files are brought to (cut to the aspect, antialiased bicubic); None wants
            them all of one size. Arrays are taken as they are.

    Raises:
        InputError: naming the file or folder, where it is missing, empty, broken, or its images differ in size or kind.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path, size)
    if not path.exists():
        raise InputError(f"{path}: no such folder or file: give a folder of images, or a .npy or .npz file")
    if path.suffix.lower() not in ARRAYS:
        raise InputError(f"{path}: is no array of images: give a folder of images, or a .npy or .npz file")
    if size is not None:
        raise InputError(f"{path}: arrays cannot be brought to another size: leave the size out")
    return _read_array(path)


def _read_folder(folder: Path, size: int | Sequence[int] | None) -> tuple[Images, ImageSpec]:
    try:
        files = [folder / name for name in images_below(folder, folder)]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}): check its permissions") from error
    if not files:
        raise InputError(f"{folder}: holds no images ({' '.join(SUFFIXES)}): give the folder or array that does")
    height, width = _common_size(files) if size is None else height_and_width("", size)
    try:
        decoder = Decoder(channels_of(files[0]), height, width, convert=False, background=None)
        levels = np.empty((len(files), decoder.channels, height, width), np.uint8)
        for chunk in decode_all(files, decoder, skip=False):
            levels[chunk.places] = chunk.levels
    except Unreadable as error:
        raise InputError(f"{error.problem}: repair or remove it") from error
    except InputError as error:  # what it advises is an argument of ImageFolder
        raise InputError(f"{str(error).partition(': give ')[0]}: convert or remove it") from error
    return _labelled(levels, _read_labels(folder / "labels.npy"), folder / "labels.npy")


def _common_size(files: Sequence[Path]) -> tuple[int, int]:
    """Return the height and width that all files say they have, turned upright."""
    first = None
    for file in files:
        try:
            with Image.open(file) as image:
                size = image.size[::-1]
                # Square ones are not asked: finding the orientation of a PNG decodes it.
                if size[0] != size[1] and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:
                    size = size[::-1]
        except Exception as error:
            raise InputError(f"{file}: is no readable image: repair or remove it") from error
        first = first or size
        if size != first:
            raise InputError(
                f"{file}: is {size[0]} x {size[1]} among images of {first[0]} x {first[1]}: give a size to bring all to"
            )
    return first


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
    if labels is None:
        return Images(levels, None), ImageSpec(*levels.shape[1:])
    if labels.shape != levels.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{file}: labels must be {len(levels)} whole numbers, one per image, got {labels.dtype} of shape "
            f"{labels.shape}: repair or remove them"
        )
    if labels.min() < 0 or labels.max() >= 2**31:
        raise InputError(f"{file}: labels must be numbers of classes from 0, got {labels.min()} .. {labels.max()}")
    return Images(levels, labels.astype(np.int64)), ImageSpec(*levels.shape[1:], num_classes=int(labels.max()) + 1)
