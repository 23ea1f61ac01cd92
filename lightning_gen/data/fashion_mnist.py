"""Fashion-MNIST, from its gzipped IDX files."""

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from lightning_gen.core import ImageSpec, InputError
from lightning_gen.data.download import download
from lightning_gen.data.source import METRICS_OF_CLASSES, Images, Source, cache_folder, part_of_published

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


class FashionMNIST(Source):
    """70,000 grey photographs of clothes, 28 x 28, 256 levels, 10 classes (Xiao, Rasul and Vollgraf 2017).

    60,000 training images, of which 5,000 are held out for validation by the permutation
    ``numpy.random.default_rng(0).permutation(60000)``, and 10,000 test images.

    Args:
        root: folder with the four files ``train-images-idx3-ubyte.gz`` ... (or without ``.gz``; torchvision's folder
            works too). None looks in ``/usr/share/datasets/fashion-mnist`` (Debian's package ``dataset-fashion-mnist``)
            and ``~/.cache/lightning_gen/fashion-mnist`` (see ``LIGHTNING_GEN_CACHE``), and downloads into the latter
            what is in neither.

    Raises:
        InputError: on loading, for a missing or broken file or a failed download.
    """

    name = "fashion_mnist"
    spec = ImageSpec(channels=1, height=28, width=28, num_classes=10)
    classes = (
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    extractor = "lightning_gen.metrics.FashionMNISTExtractor"
    metrics = METRICS_OF_CLASSES

    def __init__(self, root: str | None = None) -> None:
        self.root = None if root is None else os.path.abspath(Path(root).expanduser())

    def prepare(self) -> None:
        """Find or download the four files."""
        for part in ("train", "t10k"):
            self._file(f"{part}-images-idx3-ubyte")
            self._file(f"{part}-labels-idx1-ubyte")

    def read(self, part: str) -> Images:
        """Read one part from its two files."""
        prefix = "t10k" if part == "test" else "train"
        image_file, label_file = self._file(f"{prefix}-images-idx3-ubyte"), self._file(f"{prefix}-labels-idx1-ubyte")
        levels, labels = read_idx(image_file), read_idx(label_file)
        if levels.shape[1:] != (28, 28):
            raise InputError(f"{image_file}: expected images of 28 x 28, got {levels.shape[1:]}: not Fashion-MNIST")
        if labels.shape != levels.shape[:1]:
            raise InputError(f"{label_file}: labels of shape {labels.shape} for {len(levels)} images: a file is wrong")
        levels, labels = part_of_published(Images(levels, labels.astype(np.int64)), part, image_file)
        return Images(levels[:, None], labels)

    def _file(self, name: str) -> Path:
        cache = cache_folder() / "fashion-mnist"
        folders = [DEBIAN_FOLDER, cache] if self.root is None else [Path(self.root).expanduser()]
        if self.root is not None:
            folders += [folders[0] / "FashionMNIST" / "raw"]
            if not folders[0].is_dir():
                raise InputError(f"FashionMNIST.root: no folder {self.root}: give one, or leave root out to download")
        for folder in folders:
            for file in (folder / f"{name}.gz", folder / name):
                if file.is_file():
                    return file
        if self.root is not None:
            raise InputError(f"FashionMNIST.root: {self.root} has no {name}.gz: leave root out to download it")
        return self._download(f"{name}.gz", cache)

    def _download(self, name: str, cache: Path) -> Path:
        from torchvision.datasets import FashionMNIST as Published

        urls = [mirror + name for mirror in Published.mirrors]
        remedy = f"install Debian's dataset-fashion-mnist, or put {name} into {cache}, or give FashionMNIST.root"
        download(urls, dict(Published.resources)[name], cache / name, remedy)
        return cache / name


def read_idx(file: Path) -> np.ndarray:
    """Return the array (uint8, any shape) in an IDX file, gzipped if its name ends in ``.gz``.

    The format is two zero bytes, the type (8 for uint8), the number of dimensions, each of them as a big-endian 32-bit
    integer, and the values in C order.

    Raises:
        InputError: naming the file if it is broken.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read ({error}): replace or delete it") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise InputError(f"{file}: not an IDX file of bytes: replace or delete it")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if values.size != np.prod(shape, dtype=np.int64):
        raise InputError(f"{file}: {values.size} bytes for shape {shape}, so it is truncated: replace or delete it")
    return values.reshape(shape).copy()
