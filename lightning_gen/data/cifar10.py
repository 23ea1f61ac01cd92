"""CIFAR-10, from the files of its "python version"."""

import contextlib
import os
import pickle
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gen.core import ImageSpec, InputError
from lightning_gen.data.download import download
from lightning_gen.data.source import Images, Source, cache_folder, part_of_published

FOLDER = "cifar-10-batches-py"


class CIFAR10(Source):
    """60,000 colour photographs, 32 x 32, 256 levels, 10 classes (Krizhevsky 2009).

    50,000 training images, of which 5,000 are held out for validation by the permutation
    ``numpy.random.default_rng(0).permutation(50000)``, and 10,000 test images. The published files are pickles;
    torchvision unpickles them as they are, this class with an unpickler that builds NumPy arrays and nothing else, so a
    forged file cannot run code.

    Args:
        root: folder that holds ``cifar-10-batches-py`` (as torchvision leaves it), or that folder itself. None takes
            ``~/.cache/lightning_gen/cifar10`` (see ``LIGHTNING_GEN_CACHE``), and downloads into it what is missing.

    Raises:
        InputError: on loading, for a missing or broken file or a failed download.
    """

    name = "cifar10"
    spec = ImageSpec(channels=3, height=32, width=32, num_classes=10)
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    extractor = "lightning_gen.metrics.InceptionExtractor"
    metrics = (
        "lightning_gen.metrics.FrechetDistance",
        "lightning_gen.metrics.InceptionScore",
        "lightning_gen.metrics.PrecisionRecall",
    )

    def __init__(self, root: str | None = None) -> None:
        self.root = None if root is None else os.path.abspath(Path(root).expanduser())

    def prepare(self) -> None:
        """Find or download the files."""
        self._folder()

    def read(self, part: str) -> Images:
        """Read one part from its batch files."""
        folder = self._folder()
        names = ["test_batch"] if part == "test" else [f"data_batch_{k}" for k in range(1, 6)]
        batches = [read_batch(folder / name) for name in names]
        levels, labels = map(np.concatenate, zip(*batches, strict=True))
        return part_of_published(Images(levels, labels), part, folder)

    def _folder(self) -> Path:
        root = cache_folder() / "cifar10" if self.root is None else Path(self.root).expanduser()
        for folder in (root / FOLDER, root):
            if (folder / "data_batch_1").is_file():
                return folder
        if self.root is not None:
            raise InputError(f"CIFAR10.root: no {FOLDER}/data_batch_1 in {self.root}: leave root out to download it")
        return self._download(root)

    def _download(self, root: Path) -> Path:
        from torchvision.datasets import CIFAR10 as Published

        remedy = f"fetch it elsewhere and unpack it into {root}, or give CIFAR10.root"
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
            archive = Path(temporary, Published.filename)
            download([Published.url], Published.tgz_md5, archive, remedy)
            with tarfile.open(archive) as files:
                unpack(files, Path(temporary, FOLDER))
            # Fails if another process was faster, and then its files are as good.
            with contextlib.suppress(OSError):
                os.rename(Path(temporary, FOLDER), root / FOLDER)
        return root / FOLDER


def unpack(files: tarfile.TarFile, folder: Path) -> None:
    """Write the plain files of an archive's folder of that name into ``folder``, and nothing else of it.

    ``extractall`` has its filter against files that lead elsewhere from Python 3.11.4 on only.
    """
    folder.mkdir()
    for member in files:
        place, _, name = member.name.rpartition("/")
        if member.isfile() and place == folder.name:
            with files.extractfile(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers, strings, numbers and NumPy arrays; refuses every other class or function."""

    # NumPy 2 moved its internals; _codecs.encode is how Python 3 writes bytes in the protocol of these files.
    allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few harmless constructors."""
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (levels uint8 (N, 3, 32, 32), labels int64 (N,)) of one batch file.

    Raises:
        InputError: naming the file if it is missing, broken, or holds anything but arrays and plain data.
    """
    remedy = "replace it, or delete its folder to download it again"
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="bytes").load()
    except FileNotFoundError:
        raise InputError(f"{file} is missing: {remedy}") from None
    except Exception as error:
        raise InputError(f"{file}: cannot be read as a CIFAR-10 batch ({error}): {remedy}") from error
    if isinstance(content, dict):
        content = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        data, labels = content.get("data"), content.get("labels")
        if isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (3072,):
            labels = np.asarray(labels)
            if labels.shape == data.shape[:1] and labels.dtype.kind in "iu":
                return data.reshape(-1, 3, 32, 32), labels.astype(np.int64)
    raise InputError(f"{file}: not a batch of CIFAR-10 (data uint8 (N, 3072), labels (N,)): {remedy}")
