"""A folder of image files of any size."""

import hashlib
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lightning_gen.core import ImageSpec, InputError, check_at_least, check_choice, check_within
from lightning_gen.data.decode import (
    Chunk,
    Decoder,
    Unreadable,
    channels_of,
    decode_all,
    height_and_width,
    natural_order,
)
from lightning_gen.data.formats import SUFFIXES, passed_over
from lightning_gen.data.source import Images, Source, cache_folder
from lightning_gen.data.store import Decoded, decode_to_disk, decode_to_memory, key_of, open_store

log = logging.getLogger(__name__)

MEMORY_LIMIT = 2 * 2**30
PARTS = ("train", "val", "test")
# Where an image must lie in [0, 1) to be in a part that has no folder of its own; the others are for training.
PLACES = {"test": (0.0, 0.1), "val": (0.1, 0.2)}
SEEDS_TRIED = 1000  # for one that splits a small folder so that nothing is empty
# Names that mean a split folder; as class folders they would be a mistake that nobody notices.
SPLIT_LIKE = {"train", "training", "val", "valid", "validation", "test", "testing"}
# Part of the key of the disk cache: raise it when decoding gives other pixels.
DECODING = 2


class ImageFolder(Source):
    """Image files in a folder, brought to one size.

    ``root`` holds either the images themselves (no labels), or one folder per class, searched to any depth, or split
    folders ``train/`` and perhaps ``val/`` and ``test/`` that do. Classes are numbered in the natural order of their
    names, "2" before "10".
    A part without a folder is split off the training images, about 10 % of them for test and 10 % for val, by
    :func:`place_of`: it depends on nothing but an image's own name below ``root``, folders included, and the seed, so
    that adding and removing images moves no other from one part to another.

    An image is turned upright (EXIF), converted to the wanted channels, cut around its centre to the aspect of
    ``size``, and resized by Pillow's antialiased bicubic filter; one of that very size keeps its pixels. 16-bit pixels
    are rounded to 8 bits, palettes count as colour, animations give their first frame, and names that begin with a dot
    are passed over.

    Args:
        root: the folder.
        size: height and width of the result: one number, or [height, width].
        channels: 1 (grey) or 3 (RGB) converts all images; None takes those of the first image and refuses others.
        labels: False takes subfolders for mere folders, and the images as unlabelled.
        background: grey level 0 to 255 put behind transparent pixels; None refuses images that have any.
        on_error: "raise" stops at a broken image, "skip" leaves it out and reports their number in one log line.
        cache: where decoded images live: "memory", "disk" (a memory-mapped file under ``~/.cache/lightning_gen``, see
            ``LIGHTNING_GEN_CACHE``, that the next run finds again), or "auto": memory up to 2 GiB for all parts.
        split_seed: seed of the split.
        class_names: names of the class folders in the order of their numbers, for a folder that has these and no
            others; None takes those that are there. A run's config and checkpoints have them.

    Raises:
        InputError: naming file or folder and remedy. At construction: ``root`` missing or without images, a class
            without images, images beside class folders, ``size`` not given, classes that differ between the split
            folders or from ``class_names``, a part or a class that the split leaves without images. On loading: a
            broken image, one of other channels than the first, or a transparent one.
    """

    name = "folder"
    extractor = "lightning_gen.metrics.PatchExtractor"
    metrics = ("lightning_gen.metrics.SlicedWasserstein", "lightning_gen.metrics.CopyShare")

    def __init__(
        self,
        root: str,
        size: int | Sequence[int] | None = None,
        channels: Literal[1, 3] | None = None,
        labels: bool = True,
        background: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        cache: Literal["auto", "memory", "disk"] = "auto",
        split_seed: int = 0,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if size is None:
            raise InputError("ImageFolder.size is not given: give the size to bring images to, such as 64 or [48, 64]")
        height, width = height_and_width("ImageFolder", size)
        check_choice(self, (None, 1, 3), channels=channels)
        check_choice(self, ("raise", "skip"), on_error=on_error)
        check_choice(self, ("auto", "memory", "disk"), cache=cache)
        check_within(self, "[0, 255]", background=background)
        check_at_least(self, 0, split_seed=split_seed)
        self.root = os.path.abspath(Path(root).expanduser())  # for checkpoints, which are read from other folders
        self.size = size if isinstance(size, int) else [height, width]
        self.channels = channels
        self.labels = labels
        self.background = background
        self.on_error = on_error
        self.cache = cache
        self.split_seed = split_seed
        self.skipped: dict[str, int] = {}
        self._base = Path(self.root)
        if class_names and not labels:
            raise InputError("ImageFolder.class_names: labels is false, so there are no classes: leave one of them out")
        self.classes, self._files = _scan(self._base, labels, class_names, split_seed)
        self.class_names = list(self.classes) or None
        self._decoder = Decoder(
            channels or self._channels_of_first(), height, width, convert=channels is not None, background=background
        )
        self.spec = ImageSpec(self._decoder.channels, height, width, num_classes=len(self.classes))

    def prepare(self) -> None:
        """Decode to disk, where that is the place of the decoded images."""
        for part in self.parts if self._on_disk else ():
            self.load(part)

    def read(self, part: str) -> Images:
        """Decode one part, or map it from the disk cache."""
        files = self._files[part]
        labels = np.array([file.label for file in files], np.int64) if self.classes else None
        if self._on_disk:
            decoded = self._read_disk(part, labels)
        else:
            log.info("decoding %d images of %s (%s)", len(files), self.root, part)
            decoded = decode_to_memory(self._chunks(part), self.spec, labels, len(files))
        self.skipped[part] = decoded.skipped
        if decoded.skipped:
            shares = (decoded.skipped, len(files), self.root, part, decoded.first_skipped)
            log.warning("skipped %d of %d images of %s (%s); the first: %s", *shares)
        return decoded.images

    def count(self, part: str) -> np.ndarray:
        """Return how many files of each class ``part`` has, int64 (num_classes,); without classes (1,), of all."""
        return np.bincount([file.label for file in self._files[part]], minlength=self.spec.num_classes or 1)

    def notes(self) -> list[str]:
        """Return which files are no images that can be read, and what was split off the training images."""
        names = (name for _, _, names in os.walk(self._base) for name in names if not name.startswith("."))
        reasons = Counter(filter(None, map(passed_over, names)))
        lines = [f"{n:,} files were passed over ({reason}): convert them" for reason, n in reasons.items()]
        split_off = [part for part in PLACES if not (self._base / part).is_dir()]
        if split_off:
            total = sum(map(len, self._files.values()))
            shares = " and ".join(f"{len(self._files[part]) / total:.1%} for {part}" for part in split_off)
            lines.append(f"by their names, {shares} were split off (split_seed {self.split_seed})")
        return lines

    def _read_disk(self, part: str, labels: np.ndarray | None) -> Decoded:
        place = cache_folder() / "folders" / key_of(self._identity(part))
        found = open_store(place, self.spec)
        if found is None:
            log.info("decoding %d images of %s (%s) into %s", len(self._files[part]), self.root, part, place)
            decode_to_disk(self._chunks(part), self.spec, labels, place)
            found = open_store(place, self.spec)
        if found is None:
            raise InputError(f"the cache of decoded images {place} vanished while it was opened: try again")
        decoded, self.__dict__.setdefault("_fingerprints", {})[part] = found
        return decoded

    def _chunks(self, part: str) -> Iterator[Chunk]:
        files = [self._base / file.name for file in self._files[part]]
        return decode_all(files, self._decoder, skip=self.on_error == "skip")

    def _identity(self, part: str) -> dict:
        """Everything that decides the pixels and labels of ``part``, as plain data."""
        stats = [_size_and_time(self._base / file.name) for file in self._files[part]]
        return {
            "decoding": DECODING,
            "root": os.path.realpath(self._base),
            "files": [[*file, *stat] for file, stat in zip(self._files[part], stats, strict=True)],
            "spec": self.spec.as_dict(),
            "arguments": [self.channels, self.background, self.on_error],
        }

    def _channels_of_first(self) -> int:
        files = [self._base / file.name for part in self.parts for file in self._files[part]]
        for file in files:
            try:
                return channels_of(file)
            except Unreadable:
                if self.on_error == "raise":
                    raise
        raise InputError(f"{self._base}: none of its {len(files)} images can be read")

    @property
    def _on_disk(self) -> bool:
        total = sum(map(len, self._files.values())) * self.spec.dims
        return self.cache == "disk" or (self.cache == "auto" and total > MEMORY_LIMIT)


class _File(NamedTuple):
    name: str  # relative to the root, with "/"
    label: int


_Found = tuple[tuple[str, ...], dict[str, list[_File]]]


def _scan(root: Path, labels: bool, names: Sequence[str] | None, split_seed: int) -> _Found:
    """Return the names of the classes and the files of each part."""
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "no such folder"
        raise InputError(f"ImageFolder.root: {root}: {problem}: give the folder that holds the images")
    try:
        return _scan_existing(root, labels, names, split_seed)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}): check its permissions") from error


def _scan_existing(root: Path, labels: bool, names: Sequence[str] | None, split_seed: int) -> _Found:
    images, folders = _entries(root)
    if not any(folder.lower() in SPLIT_LIKE for folder in folders):
        classes, files = _files_of(root, root, labels, names)
        return classes, _with_split({"train": files}, root, split_seed)
    others = [folder + "/" for folder in folders if folder not in PARTS] + images
    if others or "train" not in folders:
        problem = f"also holds {others[0]}" if others else "has no train/"
        raise InputError(f"{root}: has a split folder, but {problem}: split folders are train/, val/ and test/ alone")
    files, classes = {}, {}
    for part in PARTS:
        if part in folders:
            classes[part], files[part] = _files_of(root / part, root, labels, names)
    for part in files:
        if classes[part] != classes["train"]:
            different = sorted(set(classes[part]) ^ set(classes["train"]))[0]
            where = part if different in classes[part] else "train"
            raise InputError(
                f"{root}: classes of train/ and {part}/ differ: {different}/ is only in {where}/: make them the same"
            )
    return classes["train"], _with_split(files, root, split_seed)


def _files_of(
    folder: Path, root: Path, labels: bool, names: Sequence[str] | None
) -> tuple[tuple[str, ...], list[_File]]:
    images, folders = _entries(folder)
    if names:
        if different := Counter(folders) - Counter(names) or Counter(names) - Counter(folders):
            name = min(different, key=natural_order)
            problem = (
                "is not among the class names: move it" if name in folders else "is one of the class names: add it"
            )
            raise InputError(f"{folder}: {name}/ {problem}, or give other class_names")
        folders = list(names)
    if not folders or not labels:
        found = images_below(folder, root)
        if not found:
            raise InputError(f"{folder}: holds no images ({' '.join(SUFFIXES)}): put some there")
        return (), [_File(name, 0) for name in found]
    if images:
        raise InputError(
            f"{folder}: has images ({images[0]}) beside class folders ({folders[0]}/): move them, or give labels: false"
        )
    files = []
    for label, name in enumerate(folders):
        found = images_below(folder / name, root)
        if not found:
            raise InputError(f"{folder / name}: a class without images: fill or remove it, or give labels: false")
        files += [_File(name, label) for name in found]
    return tuple(folders), files


def _with_split(files: dict[str, list[_File]], root: Path, split_seed: int) -> dict[str, list[_File]]:
    """Split missing parts off the training images.

    Raises:
        InputError: where a part, or a class in training, is left empty; it says which seed leaves none.
    """
    problem = _problem(found := _split(files, split_seed), files["train"])
    if problem is None:
        return found
    seeds = (seed for seed in range(SEEDS_TRIED) if _problem(_split(files, seed), files["train"]) is None)
    seed = next(seeds, None)
    folders = " and ".join(f"{part}/" for part in ("train", *(part for part in PLACES if part not in files)))
    remedy = f"give split_seed: {seed}" if seed is not None else f"add images, or sort them into {folders}"
    raise InputError(f"{root}: split_seed {split_seed} {problem}: {remedy}")


def _split(files: dict[str, list[_File]], split_seed: int) -> dict[str, list[_File]]:
    places = {file: place_of(file.name, split_seed) for file in files["train"]}
    split = dict(files)
    for part, (first, end) in PLACES.items():
        if part not in files:
            split[part] = [file for file, place in places.items() if first <= place < end]
            split["train"] = [file for file in split["train"] if not first <= places[file] < end]
    return split


def _problem(split: dict[str, list[_File]], all_files: Sequence[_File]) -> str | None:
    """Say what a split leaves without images."""
    for part, found in split.items():
        if not found:
            return f"leaves none of {len(all_files)} images for {part}"
    without = {file.label for file in all_files} - {file.label for file in split["train"]}
    if without:
        of_class = [file for file in all_files if file.label == min(without)]
        folder = of_class[0].name.rpartition("/")[0]
        return f"leaves none of the {len(of_class)} images in {folder}/ for train"
    return None


def place_of(name: str, seed: int = 0) -> float:
    """Return the number in [0, 1) by which an image is put into a part: 64 bits of BLAKE2b of ``"seed|name"``.

    Args:
        name: of the file below the root, with "/" between folders; in the normal form C of Unicode, because macOS and
            Linux spell the same name differently.
        seed: of the split.
    """
    text = f"{seed}|{unicodedata.normalize('NFC', name)}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the images and of the folders in ``folder``, in natural order ("2" before "10")."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                images.append(entry.name)
    return sorted(images, key=natural_order), sorted(folders, key=natural_order)


def images_below(folder: Path, root: Path, above: frozenset[str] = frozenset()) -> list[str]:
    """Return the images in ``folder`` and below, by names relative to ``root``; linked folders are followed once."""
    images, folders = _entries(folder)
    above |= {os.path.realpath(folder)}
    names = [(folder / image).relative_to(root).as_posix() for image in images]
    for name in folders:
        if os.path.realpath(folder / name) not in above:
            names += images_below(folder / name, root, above)
    return names


def _size_and_time(file: Path) -> list[int]:
    try:
        stat = file.stat()
    except OSError:
        return [-1, -1]
    return [stat.st_size, stat.st_mtime_ns]
