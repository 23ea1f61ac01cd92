"""Digits, Fashion-MNIST, CIFAR-10, and what every source has."""

import gzip
import os
import pickle
import re
import struct
import urllib.error

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from refusals import refusal

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import CIFAR10, Digits, FashionMNIST, Images, Source, fashion_mnist
from lightning_gen.data.source import hold_out


def rows(levels):
    return {row.tobytes() for row in levels.reshape(len(levels), -1)}


def test_digits_are_cut_into_three_disjoint_parts_of_real_digits():
    from sklearn.datasets import load_digits

    source = Digits()
    parts = {part: source.load(part) for part in source.parts}
    assert {part: len(images.levels) for part, images in parts.items()} == {"train": 1097, "val": 200, "test": 500}
    assert source.spec == ImageSpec(1, 8, 8, levels=17, num_classes=10)
    together = np.concatenate([images.levels for images in parts.values()])
    assert together.dtype == np.uint8
    assert together.shape == (1797, 1, 8, 8)
    original = load_digits()
    # No two digits are equal, so the parts are disjoint exactly if together they give all of them.
    assert rows(together) == rows(original.data.astype(np.uint8))
    label_of = dict(zip([row.astype(np.uint8).tobytes() for row in original.data], original.target, strict=True))
    for levels, labels in parts.values():
        assert [label_of[image.tobytes()] for image in levels] == labels.tolist()


def test_the_split_of_the_digits_never_changes():
    # Published figures and the shipped feature extractor depend on it.
    assert {part: Digits().fingerprint(part) for part in Digits.parts} == {
        "train": "792d1fc965ab40b28393277517536ea5",
        "val": "f766923bede1a908b520e4dceef3135d",
        "test": "727fead709cb06888705e20ea5891211",
    }


def test_a_part_is_decoded_once_and_not_pickled():
    source = Digits()
    assert source.load("val") is source.load("val")
    assert len(pickle.dumps(source)) < 2000
    assert pickle.loads(pickle.dumps(source)).fingerprint("val") == source.fingerprint("val")


def test_an_unknown_part_is_named():
    with pytest.raises(InputError, match=r"Digits has no part 'valid': choose one of train, val, test"):
        Digits().load("valid")


class Made(Source):
    """Whatever the test says."""

    name, parts, spec = "made", ("train",), ImageSpec(1, 2, 2, levels=4, num_classes=2)

    def __init__(self, levels, labels):
        self.images = Images(levels, labels)

    def read(self, part):
        return self.images


def test_what_a_source_reads_is_checked():
    for levels, labels, message in [
        (np.zeros((3, 1, 2, 2)), np.zeros(3, int), r"must give uint8 \(N, 1, 2, 2\), got float64"),
        (np.zeros((3, 2, 2), np.uint8), np.zeros(3, int), r"must give uint8 \(N, 1, 2, 2\), got uint8 \(3, 2, 2\)"),
        (np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, int), "holds no images"),
        (np.full((3, 1, 2, 2), 4, np.uint8), np.zeros(3, int), r"level 4 is outside 0 \.\. 3"),
        (np.zeros((3, 1, 2, 2), np.uint8), None, "labels must be given exactly where"),
        (np.zeros((3, 1, 2, 2), np.uint8), np.zeros(2, int), r"labels must be int64 \(3,\)"),
        (np.zeros((3, 1, 2, 2), np.uint8), np.array([0, 1, 2]), r"labels 0 \.\. 2 are outside 0 \.\. 1"),
    ]:
        assert re.search(message, refusal(Made(levels, labels).load, "train")), message


def test_the_fingerprint_sees_levels_labels_and_spec():
    levels, labels = np.zeros((5000, 1, 2, 2), np.uint8), np.zeros(5000, int)
    prints = {Made(levels, labels).fingerprint("train")}
    assert Made(levels.copy(), labels.copy()).fingerprint("train") in prints
    changed = levels.copy()
    changed[4999, 0, 1, 1] = 1
    relabelled = labels.copy()
    relabelled[4999] = 1
    other = Made(levels, labels)
    other.spec = ImageSpec(1, 2, 2, levels=8, num_classes=2)
    prints |= {Made(changed, labels).fingerprint("train"), Made(levels, relabelled).fingerprint("train")}
    prints |= {other.fingerprint("train")}
    assert len(prints) == 4


def test_held_out_images_are_a_fixed_choice():
    kept, held_out = hold_out(100, 10, "file")
    assert len(kept) == 90
    assert sorted([*kept, *held_out]) == list(range(100))
    assert held_out.tolist() == sorted(np.random.default_rng(0).permutation(100)[:10].tolist())


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def clothes():
    """Numbered images: 5,100 for training and 30 for test."""
    rng = np.random.default_rng(1)
    made = {}
    for prefix, total in (("train", 5100), ("t10k", 30)):
        images = np.zeros((total, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(total), 256)
        made[prefix] = images, rng.integers(0, 10, total).astype(np.uint8)
    return made


def write_clothes(folder, clothes, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, (images, labels) in clothes.items():
        for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), 1))
            else:
                (folder / name).write_bytes(idx(array))


@pytest.mark.parametrize(("below", "packed"), [(".", True), ("FashionMNIST/raw", False)])
def test_fashion_mnist_reads_idx_files(tmp_path, clothes, below, packed):
    write_clothes(tmp_path / below, clothes, packed)
    source = FashionMNIST(str(tmp_path))
    source.prepare()
    parts = {part: source.load(part) for part in source.parts}
    assert {part: len(images.levels) for part, images in parts.items()} == {"train": 100, "val": 5000, "test": 30}
    numbers = {
        part: images.levels[:, 0, 0, 0].astype(int) * 256 + images.levels[:, 0, 0, 1] for part, images in parts.items()
    }
    assert sorted([*numbers["train"], *numbers["val"]]) == list(range(5100))
    for part in ("train", "val"):
        assert np.array_equal(parts[part].labels, clothes["train"][1][numbers[part]])
    assert np.array_equal(parts["test"].levels[:, 0], clothes["t10k"][0])


def test_fashion_mnist_names_wrong_files(tmp_path, clothes):
    with pytest.raises(InputError, match=r"no folder .*nowhere: give one, or leave root out"):
        FashionMNIST(str(tmp_path / "nowhere")).load("test")
    with pytest.raises(InputError, match=r"has no t10k-images-idx3-ubyte\.gz: leave root out to download it"):
        FashionMNIST(str(tmp_path)).load("test")
    write_clothes(tmp_path, clothes)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = gzip.decompress(file.read_bytes())
    for content, message in [
        (file.read_bytes()[:-20], r"t10k-images-idx3-ubyte\.gz: cannot be read"),
        (b"<html>not found</html>", r"cannot be read .*: replace or delete it"),
        (gzip.compress(whole[:-1]), r"so it is truncated: replace or delete it"),
        (gzip.compress(b"hello"), r"not an IDX file of bytes"),
        (gzip.compress(idx(np.zeros((30, 8, 8), np.uint8))), r"expected images of 28 x 28, got \(8, 8\)"),
        (gzip.compress(idx(np.zeros((29, 28, 28), np.uint8))), r"t10k-labels.* labels of shape \(30,\) for 29 images"),
    ]:
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            FashionMNIST(str(tmp_path)).load("test")
    write_clothes(tmp_path, {"train": (np.zeros((40, 28, 28), np.uint8), np.zeros(40, np.uint8))})
    with pytest.raises(InputError, match="40 training images are too few to hold out 5000"):
        FashionMNIST(str(tmp_path)).load("train")


def test_fashion_mnist_looks_into_debians_folder_then_the_cache_then_downloads(tmp_path, clothes, monkeypatch):
    debian, cache = tmp_path / "debian", tmp_path / "cache"
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", debian)
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(cache))
    asked = []

    def refuse(url, *_):
        asked.append(url)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    with pytest.raises(InputError, match=r"download failed .*no network.*; install Debian's") as caught:
        FashionMNIST().prepare()
    assert "\n" not in str(caught.value)
    assert asked[0].endswith("/train-images-idx3-ubyte.gz")
    assert os.listdir(cache / "fashion-mnist") == []

    write_clothes(tmp_path / "mirror", clothes)

    def fetch(url, folder, name, md5):
        (tmp_path / "mirror" / name).rename(f"{folder}/{name}")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    FashionMNIST().prepare()
    assert len(FashionMNIST().load("test").levels) == 30
    write_clothes(debian, {"t10k": (clothes["t10k"][0][:7], clothes["t10k"][1][:7])})
    assert len(FashionMNIST().load("test").levels) == 7


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_of_debian():
    source = FashionMNIST()
    parts = {part: source.load(part) for part in source.parts}
    assert [len(images.levels) for images in parts.values()] == [55000, 5000, 10000]
    assert np.bincount(parts["test"].labels).tolist() == [1000] * 10
    assert np.bincount(np.concatenate([parts["train"].labels, parts["val"].labels])).tolist() == [6000] * 10
    assert source.spec.num_classes == 10


def write_photographs(folder, per_batch=1010):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    images = {}
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        data = np.zeros((per_batch, 3072), np.uint8)
        data[:, :4] = rng.integers(0, 256, (per_batch, 4))
        labels = rng.integers(0, 10, per_batch).tolist()
        images[name] = data.reshape(-1, 3, 32, 32), labels
        content = {b"data": data, b"labels": labels, b"batch_label": b"batch", b"filenames": [b"a.png"] * per_batch}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return images


def test_cifar10_reads_batch_files(tmp_path):
    images = write_photographs(tmp_path / "cifar-10-batches-py")
    source = CIFAR10(str(tmp_path))
    source.prepare()
    parts = {part: source.load(part) for part in source.parts}
    assert [len(part.levels) for part in parts.values()] == [50, 5000, 1010]
    assert source.spec == ImageSpec(3, 32, 32, num_classes=10)
    assert np.array_equal(parts["test"].levels, images["test_batch"][0])
    assert parts["test"].labels.tolist() == images["test_batch"][1]
    everything = np.concatenate([images[f"data_batch_{k}"][0] for k in range(1, 6)])
    kept, held_out = hold_out(5050, 5000, "file")
    assert np.array_equal(parts["train"].levels, everything[kept])
    assert np.array_equal(parts["val"].levels, everything[held_out])
    assert len(CIFAR10(str(tmp_path / "cifar-10-batches-py")).load("test").levels) == 1010


class Payload:
    """Runs code when it is unpickled by an ordinary unpickler."""

    def __reduce__(self):
        return os.mkdir, ("code-has-run",)


def test_cifar10_names_wrong_files_and_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no cifar-10-batches-py/data_batch_1 in .*: leave root out to download it"):
        CIFAR10(str(tmp_path)).load("test")
    folder = tmp_path / "cifar-10-batches-py"
    write_photographs(folder, per_batch=3)
    for content, message in [
        (pickle.dumps({"data": Payload()}), r"test_batch: cannot be read .*it asks for posix\.mkdir"),
        (b"<html>", r"test_batch: cannot be read as a CIFAR-10 batch"),
        ((folder / "test_batch").read_bytes()[:2000], r"test_batch: cannot be read"),
        (pickle.dumps([1, 2]), r"test_batch: not a batch of CIFAR-10"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, 2), "not a batch of CIFAR-10"),
    ]:
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(InputError, match=message):
            CIFAR10(str(tmp_path)).load("test")
    assert not (tmp_path / "code-has-run").exists()
    (folder / "test_batch").unlink()
    with pytest.raises(InputError, match="test_batch is missing: replace it"):
        CIFAR10(str(tmp_path)).load("test")


def test_cifar10_downloads_into_the_cache(tmp_path, monkeypatch):
    import tarfile

    write_photographs(tmp_path / "made" / "cifar-10-batches-py", per_batch=3)
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(tmp_path / "cache"))

    def fetch(url, folder, name, md5):
        with tarfile.open(f"{folder}/{name}", "w:gz") as archive:
            archive.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    CIFAR10().prepare()
    assert os.listdir(tmp_path / "cache" / "cifar10") == ["cifar-10-batches-py"]
    assert len(CIFAR10().load("test").levels) == 3


def test_a_config_can_name_the_source():
    for name in ["Digits", "FashionMNIST", "CIFAR10"]:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(Source, "source")
        config = parser.parse_args([f"--source=lightning_gen.data.{name}"])
        assert parser.instantiate(config).source.spec.num_classes == 10, name
