"""Folders of images: splits, classes, decoding, the disk cache, and what is refused."""

import hashlib
import logging
import multiprocessing
import os
import pickle
import re
from itertools import chain, count

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from PIL import Image
from refusals import refusal

from lightning_gen.core import build, describe
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import ImageFolder, Source
from lightning_gen.data.decode import Chunk
from lightning_gen.data.folder import PLACES, place_of
from lightning_gen.data.store import decode_to_disk, open_store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(folder))
    return folder


def save(file, pixels=None, **options):
    """Save pixels (H, W) or (H, W, 3 or 4); without them noise that the file's name decides."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(sum(file.as_posix().encode())).integers(0, 256, (8, 8), np.uint8)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
    image.save(file, **options)


def numbered(folder, total, first=0):
    """8 x 8 grey images whose first pixel is their number."""
    for number in range(first, first + total):
        pixels = np.full((8, 8), 7)
        pixels[0, 0] = number
        save(folder / f"{number:03d}.png", pixels)


def numbers(source, part):
    return source.load(part).levels[:, 0, 0, 0].tolist()


def one(folder, **arguments):
    """The levels of the first image of a folder that holds one image three times (the least that can be split)."""
    return ImageFolder(str(folder), **arguments).load("train").levels[0]


def thrice(folder, pixels, suffix="png", **options):
    """Save an image under three names, of which each part gets one."""
    for first, end in [(0.2, 1), *PLACES.values()]:
        names = (f"{n}.{suffix}" for n in count())
        save(folder / next(name for name in names if first <= place_of(name) < end), pixels, **options)
    return folder


def part_of(name, seed=0):
    """The part of an image that no folder decides, from the definition: a tenth of all 64-bit hashes each."""
    number = int(hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=8).hexdigest(), 16)
    return {0: "test", 1: "val"}.get(number * 10 >> 64, "train")


def test_a_flat_folder_is_split_by_names_and_its_seed(tmp_path):
    numbered(tmp_path / "in", 200)
    for seed in (0, 1):
        source = ImageFolder(str(tmp_path / "in"), 8, split_seed=seed)
        assert source.spec == ImageSpec(1, 8, 8)
        assert source.classes == ()
        for part in source.parts:
            assert numbers(source, part) == [n for n in range(200) if part_of(f"{n:03d}.png", seed) == part]
            assert source.count(part) == len(source.load(part).levels)
        assert source.load("train").labels is None
        assert 0.7 < len(source.load("train").levels) / 200 < 0.9


def test_adding_and_removing_images_moves_no_other(tmp_path):
    numbered(tmp_path / "in" / "a", 60)
    numbered(tmp_path / "in" / "b", 60, first=100)
    before = {part: set(numbers(ImageFolder(str(tmp_path / "in"), 8), part)) for part in ImageFolder.parts}
    gone = set(range(0, 60, 7))
    for number in gone:
        (tmp_path / "in" / "a" / f"{number:03d}.png").unlink()
    numbered(tmp_path / "in" / "a", 30, first=200)
    numbered(tmp_path / "in" / "aa", 30, first=60)
    after = ImageFolder(str(tmp_path / "in"), 8)
    for part, kept in before.items():
        new = set(range(60, 90)) | set(range(200, 230))
        assert set(numbers(after, part)) - new == kept - gone


def test_names_that_only_unicode_tells_apart_are_one():
    assert place_of("Z\u00fcrich.png", 3) == place_of("Zu\u0308rich.png", 3) != place_of("Zurich.png", 3)


def test_a_split_that_leaves_something_empty_names_a_seed_that_does_not(tmp_path):
    numbered(tmp_path / "few", 3)
    with pytest.raises(
        InputError, match=r"/few: split_seed 0 leaves none of 3 images for (test|val): give split_seed: "
    ) as e:
        ImageFolder(str(tmp_path / "few"), 8)
    seed = int(str(e.value).rpartition(" ")[2])
    source = ImageFolder(str(tmp_path / "few"), 8, split_seed=seed)
    assert all(len(source.load(part).levels) for part in source.parts)
    for number in range(30):
        numbered(tmp_path / "many" / f"class{number}", 1, first=number)
    with pytest.raises(
        InputError,
        match=r"leaves none of the 1 images in class\d+/ for train: add images, or sort them into train/ and test/ and "
        r"val/",
    ):
        ImageFolder(str(tmp_path / "many"), 8)


def test_class_folders_give_labels(tmp_path):
    numbered(tmp_path / "in" / "cat", 40)
    numbered(tmp_path / "in" / "ant", 30, first=100)
    numbered(tmp_path / "in" / "ant" / "deep" / "er", 10, first=140)
    (tmp_path / "in" / ".cache").mkdir()
    save(tmp_path / "in" / "cat" / "._000.png")
    (tmp_path / "in" / "cat" / "notes.txt").write_text("not an image")
    source = ImageFolder(str(tmp_path / "in"), 8)
    assert source.classes == ("ant", "cat")
    assert source.spec.num_classes == 2
    for part in source.parts:
        images = source.load(part)
        assert images.labels.tolist() == [int(n < 100) for n in numbers(source, part)]
        assert source.count(part).tolist() == np.bincount(images.labels).tolist()
    assert sum(source.count(part).sum() for part in source.parts) == 80
    plain = ImageFolder(str(tmp_path / "in"), 8, labels=False)
    assert plain.spec.num_classes == 0
    assert [numbers(plain, part) for part in plain.parts] == [numbers(source, part) for part in source.parts]


def test_class_names_fix_the_numbers_of_the_classes(tmp_path):
    for name in ("2", "10", "cat"):
        numbered(tmp_path / name, 20)
    found = ImageFolder(str(tmp_path), 8)
    assert found.class_names == ["2", "10", "cat"]
    assert build(describe(found), Source).classes == found.classes  # as a checkpoint has them
    turned = ImageFolder(tmp_path, 8, class_names=["cat", "2", "10"])
    assert turned.classes == ("cat", "2", "10")
    for part in turned.parts:
        order = np.argsort(turned.read(part).labels, kind="stable")
        kept = np.array([2, 0, 1])[turned.read(part).labels[order]]  # as the natural order has them
        assert sorted(kept) == found.read(part).labels.tolist()
    (tmp_path / "new").mkdir()
    for names, message in (
        (["2", "10", "cat"], "new/ is not among the class names: move it, or give other class_names"),
        (["2", "10", "cat", "new", "old"], "old/ is one of the class names: add it"),
        (["2", "10", "cat", "new", "new"], "new/ is"),
    ):
        with pytest.raises(InputError, match=message):
            ImageFolder(tmp_path, 8, class_names=names)
    with pytest.raises(InputError, match="class_names: labels is false"):
        ImageFolder(tmp_path, 8, labels=False, class_names=["2"])


def test_split_folders(tmp_path):
    for classes in [("",), ("a", "b")]:
        for folders in [("train", "val", "test"), ("train", "test"), ("train", "val"), ("train",)]:
            root = tmp_path / f"{'-'.join(folders)}{len(classes)}"
            for k, folder in enumerate(folders):
                for j, name in enumerate(classes):
                    numbered(root / folder / name, 60 // len(classes), first=80 * k + 40 * j)
            source = ImageFolder(str(root), 8)
            for part in source.parts:
                home = folders.index(part) if part in folders else 0
                assert all(80 * home <= n < 80 * home + 80 for n in numbers(source, part)), root
                if len(classes) == 2:
                    assert source.load(part).labels.tolist() == [n % 80 // 40 for n in numbers(source, part)], root
            found = sorted(chain(*(numbers(source, part) for part in source.parts)))
            assert len(set(found)) == len(found) == 60 * len(folders), root


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    for shape in [(8, 8), (8, 8, 3)]:
        for suffix in ["png", "bmp", "tif", "PNG"]:
            pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            expected = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            folder = thrice(tmp_path / f"{suffix}{len(shape)}", pixels, suffix)
            assert np.array_equal(one(folder, size=8), expected), folder


def test_cutting_takes_the_centre_without_resampling(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 8), np.uint8)
    folder = thrice(tmp_path / "in", pixels)
    assert np.array_equal(one(folder, size=[8, 8])[0], pixels[1:9])
    assert np.array_equal(one(folder, size=[11, 4])[0], pixels[:, 2:6])


def test_resizing_is_pillows_antialiased_bicubic(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    folder = thrice(tmp_path / "in", pixels)
    small = np.asarray(Image.fromarray(pixels).resize((12, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(one(folder, size=[8, 12]), small)
    assert np.array_equal(one(folder, size=8), small[:, :, 2:10])
    assert one(folder, size=[5, 9]).shape == (3, 5, 9)
    assert one(folder, size=[80, 120]).shape == (3, 80, 120)
    stripes = np.tile(np.array([0, 255], np.uint8), (40, 20))
    grey = one(thrice(tmp_path / "stripes", stripes), size=8)
    assert np.all(np.abs(grey[0, 1:-1, 1:-1].astype(int) - 127) < 12)


def test_a_large_photograph_shrinks_to_nearly_the_same(tmp_path):
    # JPEG files are decoded at a fraction of their size.
    y, x = np.mgrid[:600, :600]
    smooth = np.stack([x / 600, y / 600, (x + y) / 1200], axis=-1) * 255
    folder = thrice(tmp_path / "in", smooth, "jpg", quality=95)
    expected = Image.fromarray(smooth.astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
    found = one(folder, size=32).transpose(1, 2, 0).astype(int)
    assert np.abs(found - np.asarray(expected).astype(int)).max() <= 4


def test_exif_turns_the_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = thrice(tmp_path / "in", pixels, exif=exif.tobytes())
    assert np.array_equal(one(folder, size=[6, 4])[0], np.rot90(pixels, -1))


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    values = np.array([[0, 1, 128, 129], [257, 32767, 65406, 65535]], np.uint16)
    folder = thrice(tmp_path / "in", Image.fromarray(values))
    expected = np.round(values / 65535 * 255)
    assert np.array_equal(one(folder, size=[2, 4])[0], expected)


def test_palettes_count_as_colour(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = (250, 10, 20)
    folder = thrice(tmp_path / "in", Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=4))
    assert np.array_equal(one(folder, size=8), pixels.transpose(2, 0, 1))


def test_animations_give_their_first_frame_and_bilevel_images_black_and_white(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (10, 200)]
    folder = thrice(tmp_path / "in", frames[0], "gif", save_all=True, append_images=frames[1:])
    assert np.all(one(folder, size=8, channels=1) == 10)
    bilevel = np.random.default_rng(0).integers(0, 2, (8, 8)) * 255
    folder = thrice(tmp_path / "bilevel", Image.fromarray(bilevel.astype(np.uint8)).convert("1"))
    assert np.array_equal(one(folder, size=8)[0], bilevel)


def test_channels_converts(tmp_path):
    save(tmp_path / "in" / "train" / "a.png", np.full((8, 8), 50))
    save(tmp_path / "in" / "val" / "b.png", np.full((8, 8, 3), 50))
    save(tmp_path / "in" / "test" / "c.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 205)), quality=100)
    for channels in (1, 3):
        source = ImageFolder(str(tmp_path / "in"), 8, channels=channels)
        assert source.spec.channels == channels
        for part in source.parts:
            assert np.abs(source.load(part).levels.astype(int) - 50).max() <= 2


def test_transparent_pixels_are_refused_or_get_a_background(tmp_path):
    for mode in ["RGBA", "LA", "P", "L"]:
        image = Image.new("RGBA", (8, 8), (60, 60, 60, 255))
        image.paste((0, 0, 0, 0), (0, 0, 8, 4))
        if mode == "L":
            folder = thrice(tmp_path / mode, image.convert("L"), transparency=0)
        else:
            folder = thrice(tmp_path / mode, image.convert(mode))
        with pytest.raises(InputError, match=rf"{mode}/.\.png: has transparent pixels: give background: 255 \(white\)"):
            one(folder, size=8, on_error="skip")
        levels = one(folder, size=8, background=200)
        assert len(levels) == (1 if mode in ("LA", "L") else 3), mode
        assert np.all(levels[:, :4] == 200), mode
        assert np.all(levels[:, 4:] == 60), mode


def test_an_opaque_alpha_channel_is_dropped(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    pixels[..., 3] = 255
    assert np.array_equal(one(thrice(tmp_path / "in", pixels), size=8), pixels[..., :3].transpose(2, 0, 1))


def broken_files(folder):
    numbered(folder, 30)
    (folder / "003.png").write_bytes(b"")
    (folder / "011.png").write_bytes(b"hello")
    whole = (folder / "017.png").read_bytes()
    (folder / "017.png").write_bytes(whole[:45])
    for part in ("val", "test"):
        numbered(folder.parent / part, 1, first=200)
    return str(folder.parent)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("003", r"is empty \(0 bytes\)"), ("011", "is not an image"), ("017", r"is broken \(")],
)
def test_a_broken_image_is_named(tmp_path, name, reason):
    root = broken_files(tmp_path / "in" / "train")
    for other in {"003", "011", "017"} - {name}:
        (tmp_path / "in" / "train" / f"{other}.png").unlink()
    with pytest.raises(
        InputError, match=rf"train/{name}\.png: {reason}.*: repair or remove it, or give on_error"
    ) as caught:
        ImageFolder(root, 8).load("train")
    assert "\n" not in str(caught.value)


def test_the_first_broken_image_is_the_one_named(tmp_path):
    with pytest.raises(InputError, match=r"003\.png"):
        ImageFolder(broken_files(tmp_path / "in" / "train"), 8).load("train")


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_broken_images_are_skipped_and_counted(tmp_path, caplog, where):
    root = broken_files(tmp_path / "in" / "train")
    expected = [n for n in range(30) if n not in (3, 11, 17)]
    for _ in range(2):
        caplog.clear()
        source = ImageFolder(root, 8, on_error="skip", cache=where)
        with caplog.at_level(logging.WARNING):
            assert numbers(source, "train") == expected
            assert numbers(source, "val") == [200]
        assert source.skipped == {"train": 3, "val": 0}
        assert [record.getMessage() for record in caplog.records] == [
            f"skipped 3 of 30 images of {root} (train); the first: {root}/train/003.png: is empty (0 bytes)"
        ]


def test_skipping_everything_is_an_error(tmp_path):
    thrice(tmp_path, np.zeros((8, 8)))
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="none of its 3 images can be read"):
        ImageFolder(str(tmp_path), 8, on_error="skip")
    for where in ("memory", "disk"):
        with pytest.raises(InputError, match=r"none of the 1 images can be read; the first: .*\.png: is empty"):
            ImageFolder(str(tmp_path), 8, channels=1, on_error="skip", cache=where).load("train")


def test_the_first_image_may_be_broken_when_skipping(tmp_path):
    numbered(tmp_path, 20)
    (tmp_path / "000.png").write_bytes(b"")
    assert ImageFolder(str(tmp_path), 8, on_error="skip").spec.channels == 1
    with pytest.raises(InputError, match=r"000\.png: is empty"):
        chain(*(numbers(ImageFolder(str(tmp_path), 8, channels=1), part) for part in ImageFolder.parts))


@pytest.mark.parametrize("first", ["grey", "colour"])
def test_mixed_channels_are_named(tmp_path, first):
    grey, colour = np.full((8, 8), 1), np.full((8, 8, 3), 1)
    for name in "abcd":
        save(tmp_path / "train" / f"{name}.png", grey if first == "grey" else colour)
    save(tmp_path / "train" / "x.png", colour if first == "grey" else grey)
    for part in ("val", "test"):
        save(tmp_path / part / "a.png", grey)
    found = "a colour image among grey ones" if first == "grey" else "a grey image among colour ones"
    with pytest.raises(InputError, match=rf"train/x\.png: {found}: give channels: 1 or 3 to convert all"):
        ImageFolder(str(tmp_path), 8, on_error="skip").load("train")


def test_pixels_without_a_range_are_refused(tmp_path):
    for mode, kind in [("F", "floating-point"), ("I", "signed")]:
        folder = thrice(tmp_path / mode, Image.new(mode, (8, 8)), "tif")
        said = refusal(one, folder, size=8, channels=1, on_error="skip")
        assert f"tif: has {kind} pixels, which have no fixed range: convert it to 8 or 16 unsigned bits" in said


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"ImageFolder\.root: .*nowhere: no such folder: give the folder that"):
        ImageFolder(str(tmp_path / "nowhere"), 8)
    save(tmp_path / "file.png")
    with pytest.raises(InputError, match=r"file\.png: is a file, not a folder"):
        ImageFolder(str(tmp_path / "file.png"), 8)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"/empty: holds no images \(\.png .*\): put some there"):
        ImageFolder(str(tmp_path / "empty"), 8)
    numbered(tmp_path / "two", 2)
    with pytest.raises(
        InputError, match=r"/two: .* leaves none of 2 images for .*: add images, or sort them into train/"
    ):
        ImageFolder(str(tmp_path / "two"), 8)


def test_wrong_class_folders_are_named(tmp_path):
    numbered(tmp_path / "cat", 5)
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match=r"/dog: a class without images: fill or remove it, or give labels: false"):
        ImageFolder(str(tmp_path), 8)
    numbered(tmp_path / "dog", 1)
    numbered(tmp_path, 1)
    numbered(tmp_path / "dog", 20)
    with pytest.raises(InputError, match=r"has images \(000\.png\) beside class folders \(cat/\): move them"):
        ImageFolder(str(tmp_path), 8)
    assert sum(len(ImageFolder(str(tmp_path), 8, labels=False).load(part).levels) for part in ImageFolder.parts) == 26


def test_wrong_split_folders_are_named(tmp_path):
    for files, message in [
        (("train/a/1", "train/b/1", "test/a/1"), r"train/ and test/ differ: b/ is only in train/: make them the same"),
        (("train/a/1", "test/a/1", "test/c/1"), r"train/ and test/ differ: c/ is only in test/"),
        (("train/a/1", "train/a/2", "val/1"), r"train/ and val/ differ: a/ is only in train/"),
        (
            ("train/1", "valid/1"),
            r"has a split folder, but also holds valid/: split folders are train/, val/",
        ),
        (("train/1", "car/1"), r"has a split folder, but also holds car/"),
        (("train/1", "1"), r"has a split folder, but also holds 1\.png"),
        (("test/1", "val/1"), r"has a split folder, but has no train/"),
        (("Train/1", "Test/1"), r"has a split folder, but also holds Test/"),
    ]:
        folder = tmp_path / "-".join(files).replace("/", "_")
        for file in files:
            save(folder / f"{file}.png")
        assert re.search(message, refusal(ImageFolder, str(folder), 8)), files


def test_wrong_arguments_are_named(tmp_path):
    numbered(tmp_path, 3)
    for arguments, message in [
        ({}, r"ImageFolder\.size is not given: give the size to bring images to, such as 64 or \[48, 64\]"),
        ({"size": 0}, r"ImageFolder\.size must be a number of pixels or \[height, width\], got 0"),
        ({"size": [8]}, r"ImageFolder\.size must be .* got \[8\]"),
        ({"size": [8, 8.5]}, r"ImageFolder\.size must be .* got \[8, 8.5\]"),
        ({"size": 8, "channels": 2}, r"ImageFolder\.channels must be None, 1 or 3, got 2"),
        ({"size": 8, "on_error": "ignore"}, r"ImageFolder\.on_error must be raise or skip, got 'ignore'"),
        ({"size": 8, "cache": "ram"}, r"ImageFolder\.cache must be "),
        ({"size": 8, "background": 256}, r"ImageFolder\.background must be in \[0, 255\], got 256"),
        ({"size": 8, "split_seed": -1}, r"ImageFolder\.split_seed must be at least 0, got -1"),
    ]:
        assert re.search(message, refusal(ImageFolder, str(tmp_path), **arguments)), arguments


def stores(cache):
    return sorted(os.listdir(cache / "folders")) if (cache / "folders").exists() else []


def test_the_disk_cache_equals_memory_and_is_found_again(tmp_path, cache, monkeypatch):
    for name in "ab":
        numbered(tmp_path / "in" / name, 100)
    root = str(tmp_path / "in")
    memory, disk = ImageFolder(root, 8, cache="memory"), ImageFolder(root, 8, cache="disk")
    memory.prepare()
    assert stores(cache) == []
    disk.prepare()
    assert len(stores(cache)) == 3
    for part in disk.parts:
        expected, found = memory.load(part), disk.load(part)
        assert isinstance(found.levels, np.memmap)
        assert not found.levels.flags.writeable
        assert np.array_equal(found.levels, expected.levels)
        assert np.array_equal(found.labels, expected.labels)
        assert disk.fingerprint(part) == memory.fingerprint(part)

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr("lightning_gen.data.folder.decode_all", refuse)
    assert numbers(ImageFolder(root, 8, cache="disk"), "val") == numbers(memory, "val")
    assert len(pickle.loads(pickle.dumps(disk)).load("val").levels) == disk.count("val").sum()


def test_the_cache_goes_to_disk_by_itself_when_the_images_are_many(tmp_path, cache, monkeypatch):
    numbered(tmp_path / "in", 20)
    ImageFolder(str(tmp_path / "in"), 8).load("train")
    assert stores(cache) == []
    monkeypatch.setattr("lightning_gen.data.folder.MEMORY_LIMIT", 20 * 64 - 1)
    ImageFolder(str(tmp_path / "in"), 8).load("train")
    assert len(stores(cache)) == 1


def test_the_disk_cache_sees_changes(tmp_path, cache):
    root = tmp_path / "in"
    numbered(root, 50)
    ImageFolder(str(root), 8, cache="disk").load("train")
    for arguments in (
        {"size": 4},
        {"size": 8, "channels": 1},
        {"size": 8, "background": 0},
        {"size": 8, "split_seed": 1},
    ):
        before = stores(cache)
        ImageFolder(str(root), **arguments, cache="disk").load("train")
        assert len(stores(cache)) == len(before) + 1
    first = ImageFolder(str(root), 8, cache="disk")
    name = f"{numbers(first, 'train')[0]:03d}.png"
    before = stores(cache)
    save(root / name, np.full((8, 8), 99))
    assert 99 in numbers(ImageFolder(str(root), 8, cache="disk"), "train")
    assert len(stores(cache)) == len(before) + 1


@pytest.mark.parametrize("damage", ["levels.bin", "about.json", "gone"])
def test_a_damaged_disk_cache_is_made_again(tmp_path, cache, caplog, damage):
    numbered(tmp_path / "in", 20)
    source = ImageFolder(str(tmp_path / "in"), 8, cache="disk")
    expected = numbers(source, "train")
    (store,) = (cache / "folders").iterdir()
    if damage == "gone":
        (store / "levels.bin").unlink()
    else:
        (store / damage).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert numbers(ImageFolder(str(tmp_path / "in"), 8, cache="disk"), "train") == expected
    assert "is damaged" in caplog.text


def chunks_of(levels, meanwhile=lambda: None):
    yield Chunk(levels[:1], [0], [])
    meanwhile()
    yield Chunk(levels[1:], list(range(1, len(levels))), [])


def test_a_second_writer_that_finishes_first_does_no_harm(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (5, 1, 2, 2), np.uint8)
    spec, labels = ImageSpec(1, 2, 2, num_classes=3), np.array([0, 1, 2, 1, 0])
    store = tmp_path / "folders" / "key"

    def meanwhile():
        decode_to_disk(chunks_of(levels), spec, labels, store)

    decode_to_disk(chunks_of(levels, meanwhile), spec, labels, store)
    found, _ = open_store(store, spec)
    assert np.array_equal(found.images.levels, levels)
    assert np.array_equal(found.images.labels, labels)
    assert os.listdir(tmp_path / "folders") == ["key"]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        decode_to_disk(
            chunks_of(np.zeros((2, 1, 2, 2), np.uint8), fail), ImageSpec(1, 2, 2), None, tmp_path / "a" / "key"
        )
    assert os.listdir(tmp_path / "a") == []


def load_in_child(root, start, answers):
    source = ImageFolder(root, 8, cache="disk")
    start.wait()
    images = source.load("train")
    answers.put((int(images.levels.astype(int).sum()), source.fingerprint("train")))


def test_two_processes_decode_at_once(tmp_path, cache):
    numbered(tmp_path / "in", 200)
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(2), context.Queue()
    children = [context.Process(target=load_in_child, args=(str(tmp_path / "in"), start, answers)) for _ in range(2)]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    memory = ImageFolder(str(tmp_path / "in"), 8, cache="memory")
    expected = int(memory.load("train").levels.astype(int).sum()), memory.fingerprint("train")
    assert found == [expected, expected]
    assert len(stores(cache)) == 1


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    numbered(tmp_path / "elsewhere", 20, first=100)
    numbered(tmp_path / "in" / "a", 20)
    (tmp_path / "in" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "a" / "circle").symlink_to(tmp_path / "in" / "a")
    source = ImageFolder(str(tmp_path / "in"), 8)
    assert source.classes == ("a", "b")
    assert sorted(chain(*(numbers(source, part) for part in source.parts))) == [*range(20), *range(100, 120)]


def test_arguments_can_be_read_back_and_the_source_named_in_a_config(tmp_path):
    numbered(tmp_path, 50)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Source, "source")
    given = {"size": [4, 6], "channels": 3, "labels": False, "background": 9, "on_error": "skip", "cache": "memory"}
    given |= {"root": str(tmp_path), "split_seed": 2}
    config = parser.parse_object({"source": {"class_path": "ImageFolder", "init_args": given}})
    source = parser.instantiate(config).source
    assert {name: getattr(source, name) for name in given} == given
    typed = parser.parse_args(["--source=ImageFolder", f"--source.root={tmp_path}", "--source.size=8"])
    assert parser.instantiate(typed).source.spec == ImageSpec(1, 8, 8)
