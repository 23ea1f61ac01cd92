"""Folders and array files of images: order, sizes, labels, and every way in which they can be wrong."""

import logging
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
from PIL import Image
from refusals import refusal

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data.decode import Remedies
from lightning_gen.data.images import read_images


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_folder(folder, images):
    """Write images (N, H, W) or (N, H, W, C) as PNG files whose names are in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


def test_a_folder_is_read_in_the_order_of_its_names_whatever_the_order_of_writing(tmp_path):
    levels = pixels(70, 6, 5)
    for i in np.random.default_rng(1).permutation(70):
        Image.fromarray(levels[i]).save(tmp_path / f"{i:03d}.png")
    images, spec = read_images(tmp_path)
    np.testing.assert_array_equal(images.levels, levels[:, None])
    assert images.labels is None
    assert spec == ImageSpec(1, 6, 5)


def test_a_folder_is_searched_to_any_depth_and_other_files_are_passed_over(tmp_path):
    levels = pixels(3, 4, 4, 3)
    Image.fromarray(levels[0]).save(tmp_path / "z.png")
    (tmp_path / "a" / "b").mkdir(parents=True)
    Image.fromarray(levels[1]).save(tmp_path / "a" / "c.BMP")
    Image.fromarray(levels[2]).save(tmp_path / "a" / "b" / "d.png")
    (tmp_path / "notes.txt").write_text("not an image")
    Image.fromarray(levels[0]).save(tmp_path / ".hidden.png")
    images, spec = read_images(str(tmp_path))
    np.testing.assert_array_equal(images.levels, levels.transpose(0, 3, 1, 2))  # files before folders
    assert spec == ImageSpec(3, 4, 4)


def test_a_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "mine", pixels(2, 4, 4))
    assert len(read_images("~/mine")[0].levels) == 2


def test_files_are_brought_to_a_size_by_cutting_to_the_aspect_and_pillows_bicubic_filter(tmp_path):
    sizes = {"same": (6, 8), "wide": (6, 12), "large": (12, 16)}
    files = {name: pixels(*size, seed=seed) for seed, (name, size) in enumerate(sizes.items())}
    for i, file in enumerate(files.values()):
        Image.fromarray(file).save(tmp_path / f"{i}.png")
    levels = read_images(tmp_path, size=[6, 8])[0].levels[:, 0]
    np.testing.assert_array_equal(levels[0], files["same"])
    np.testing.assert_array_equal(levels[1], files["wide"][:, 2:10])
    smaller = Image.fromarray(files["large"]).resize((8, 6), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(levels[2], np.asarray(smaller))
    assert read_images(tmp_path, size=5)[1] == ImageSpec(1, 5, 5)


def test_files_that_are_turned_by_their_orientation_have_the_size_that_is_seen(tmp_path):
    levels = pixels(9, 4, 6)
    back = {1: 0, 3: 2, 6: 1, 8: 3}  # quarters to the left, from what is seen to what is stored
    for number, turns in back.items():
        exif = Image.Exif()
        exif[0x0112] = number
        stored = np.rot90(levels[number], turns)
        for kind in ("png", "tif"):
            Image.fromarray(stored).save(tmp_path / f"{number}.{kind}", exif=exif)
    found = read_images(tmp_path)[0].levels[:, 0]
    np.testing.assert_array_equal(found, levels[[number for number in back for _ in range(2)]])


def mixed_folder(folder):
    """Grey, colour, transparent, broken and larger files, in this order."""
    grey, colour = pixels(5, 5), pixels(5, 5, 3, seed=1)
    clear = np.dstack([colour, np.full((5, 5), 0, np.uint8)])
    for name, image in {"a": grey, "b": colour, "c": clear, "e": np.kron(grey, np.ones((2, 2), np.uint8))}.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "d.png").write_bytes((folder / "a.png").read_bytes()[:60])
    return grey, colour


def test_channels_background_and_skipping_mean_what_they_do_for_training(tmp_path, caplog):
    grey, colour = mixed_folder(tmp_path)
    np.save(tmp_path / "labels.npy", np.array([4, 3, 2, 1, 0], np.uint8))
    with caplog.at_level(logging.WARNING):
        images, spec = read_images(tmp_path, size=5, channels=3, background=77, on_error="skip")
    assert spec == ImageSpec(3, 5, 5, num_classes=5)
    np.testing.assert_array_equal(images.levels[0], np.stack([grey] * 3))
    np.testing.assert_array_equal(images.levels[1], colour.transpose(2, 0, 1))
    assert np.all(images.levels[2] == 77)
    np.testing.assert_array_equal(images.labels, [4, 3, 2, 0])
    assert images.labels.dtype == np.int64
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"skipped 1 of 5 images of {tmp_path}; the first: {tmp_path}/d.png: is broken (")
    (tmp_path / "labels.npy").unlink()
    assert read_images(tmp_path, size=5, channels=1, background=0, on_error="skip")[1] == ImageSpec(1, 5, 5)


def test_remedies_are_in_the_words_of_the_caller(tmp_path):
    mixed_folder(tmp_path)
    remedies = Remedies("give --channels", "give --background", "give --on_error skip", "give --size")
    for arguments, problem in [
        ({"size": 5}, "b.png: a colour image among grey ones: give --channels"),
        ({"size": 5, "channels": 3}, "c.png: has transparent pixels: give --background"),
        ({"size": 5, "channels": 3, "background": 0}, r"d.png: is broken .*: give --on_error skip"),
        ({"channels": 3, "background": 0, "on_error": "skip"}, "e.png: is 10 x 10 among images of 5 x 5: give --size"),
    ]:
        assert re.search(f"{problem}$", refusal(read_images, tmp_path, **arguments, remedies=remedies)), problem
        said = refusal(read_images, tmp_path, **arguments)
        assert re.search(r": (convert or remove it|repair or remove it|give a size to bring all to)$", said), said
    for name in "abce":
        (tmp_path / f"{name}.png").unlink()
    said = refusal(read_images, tmp_path, on_error="skip")
    assert "none of the 1 images can be read; the first: " in said
    for arguments, problem in [
        ({"channels": 2}, "channels must be None, 1 or 3, got 2"),
        ({"background": 256}, r"background must be in .0, 255., got 256"),
        ({"on_error": "ignore"}, "on_error must be raise or skip, got 'ignore'"),
    ]:
        assert re.search(problem, refusal(read_images, tmp_path, **arguments)), problem
    np.save(tmp_path / "x.npy", pixels(2, 1, 4, 4))
    assert "arrays are taken as they are: leave the channels out" in refusal(
        read_images, tmp_path / "x.npy", channels=3
    )


def test_a_file_beyond_a_limit_is_not_skipped(tmp_path):
    write_folder(tmp_path, pixels(2, 5, 5))
    Image.fromarray(np.zeros((5, 5), np.float32)).save(tmp_path / "zz.tif")
    said = refusal(read_images, tmp_path, on_error="skip")
    assert "zz.tif: has floating-point pixels, which have no fixed range: convert it to 8 or 16 unsigned bits" in said


def test_class_folders_are_numbered_in_natural_order(tmp_path):
    levels = pixels(6, 4, 4)
    for number, name in enumerate(["2/x", "10/b/y", "10/a", "1/z", "1/zz", "2/w"]):
        write_folder((tmp_path / name).parent, [])
        Image.fromarray(levels[number]).save(tmp_path / f"{name}.png")
    (tmp_path / ".cache").mkdir()
    images, spec = read_images(tmp_path, labels=True)
    np.testing.assert_array_equal(images.levels[:, 0], levels[[3, 4, 5, 0, 2, 1]])
    np.testing.assert_array_equal(images.labels, [0, 0, 1, 1, 2, 2])
    assert images.labels.dtype == np.int64
    assert spec == ImageSpec(1, 4, 4, num_classes=3)
    assert read_images(tmp_path)[0].labels is None
    flat = write_folder(tmp_path / "1", [])
    assert read_images(flat, labels=True)[0].labels is None
    # A class whose only image is left out is still one.
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / "x.png").write_bytes(b"")
    images, spec = read_images(tmp_path, labels=True, on_error="skip")
    assert (len(images.levels), spec.num_classes) == (6, 4)
    for make, problem in [
        (lambda: (tmp_path / "3").mkdir(), "/3: a class without images: fill or remove it"),
        (lambda: np.save(tmp_path / "labels.npy", [0]), r"labels.npy: there are class folders \(1/\) as well: remove"),
        (lambda: write_folder(tmp_path, levels[:1]), r"has images \(000.png\) beside class folders \(1/\): move them"),
    ]:
        make()
        assert re.search(problem, refusal(read_images, tmp_path, labels=True)), problem
        if (tmp_path / "3").exists():
            (tmp_path / "3").rmdir()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_npy_file_holds_channels_first(tmp_path, order):
    levels = pixels(5, 3, 4, 6)
    np.save(tmp_path / "x.npy", np.asarray(levels, order=order))
    images, spec = read_images(tmp_path / "x.npy")
    np.testing.assert_array_equal(images.levels, levels)
    assert spec == ImageSpec(3, 4, 6)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_npz_file_holds_channels_last_and_then_labels(tmp_path, save):
    levels, labels = pixels(5, 4, 6, 3), np.array([0, 3, 1, 0, 2], np.int32)
    save(tmp_path / "x.npz", levels)
    images, spec = read_images(tmp_path / "x.npz")
    np.testing.assert_array_equal(images.levels, np.stack([image.transpose(2, 0, 1) for image in levels]))
    assert images.levels.flags.c_contiguous
    assert (images.labels, spec) == (None, ImageSpec(3, 4, 6))
    save(tmp_path / "y.npz", levels, labels)
    images, spec = read_images(tmp_path / "y.npz")
    np.testing.assert_array_equal(images.labels, labels)
    assert images.labels.dtype == np.int64
    assert spec == ImageSpec(3, 4, 6, num_classes=4)


def test_labels_are_found_in_the_folder_and_beside_the_array(tmp_path):
    levels, labels = pixels(4, 5, 5), np.array([1, 0, 2, 1], np.uint8)
    write_folder(tmp_path, levels)
    np.save(tmp_path / "samples.npy", levels[:, None])
    np.save(tmp_path / "labels.npy", labels)
    for path in (tmp_path, tmp_path / "samples.npy"):
        images, spec = read_images(path)
        np.testing.assert_array_equal(images.labels, labels)
        assert spec.num_classes == 3
    np.savez(tmp_path / "x.npz", levels[..., None])
    assert read_images(tmp_path / "x.npz")[0].labels is None


class Opened:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "labels.npy"])
def test_pickled_objects_are_refused_unopened(tmp_path, name):
    trap = np.array([Opened(tmp_path / "opened")], dtype=object)
    if name == "labels.npy":
        write_folder(tmp_path, pixels(1, 4, 4))
        np.save(tmp_path / name, trap)
    else:
        (np.save if name == "x.npy" else np.savez)(tmp_path / name, trap)
    with pytest.raises(InputError, match=f"{name}: cannot be read as plain numbers: ") as error:
        read_images(tmp_path if name == "labels.npy" else tmp_path / name)
    assert "allow_pickle" not in str(error.value)
    assert not (tmp_path / "opened").exists()


def test_arrays_of_another_type_or_shape_are_named_as_they_are(tmp_path):
    for images, problem in [
        (pixels(5, 1, 4, 4).astype(np.float32), "must hold uint8 levels {order}.*, got float32 of shape .5, 1, 4, 4.:"),
        (pixels(5, 1, 4, 4).astype(np.int64), "got int64"),
        (pixels(5, 4, 4), "got uint8 of shape .5, 4, 4.: convert it"),
        (pixels(0, 3, 3, 3), "got uint8 of shape .0, 3, 3, 3.:"),
        (pixels(5, 8, 4, 8), "{order} of 1 to 4 channels, got uint8 of shape .5, 8, 4, 8.:"),
        (np.uint8(3), "got uint8 of shape ..:"),
    ]:
        np.save(tmp_path / "x.npy", images)
        assert re.search(
            "x.npy: .*" + problem.format(order=".N, C, H, W."), refusal(read_images, tmp_path / "x.npy")
        ), problem
        np.savez(tmp_path / "x.npz", images)
        assert re.search(
            "x.npz: .*" + problem.format(order=".N, H, W, C."), refusal(read_images, tmp_path / "x.npz")
        ), problem


def test_arrays_whose_channels_lie_at_the_wrong_place_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", pixels(5, 8, 8, 3))
    np.savez(tmp_path / "x.npz", pixels(5, 3, 8, 8))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InputError, match="1 to 4 channels"):
            read_images(tmp_path / name)


def test_bad_labels_are_told_with_their_file(tmp_path):
    write_folder(tmp_path, pixels(4, 5, 5))
    for labels, problem in [
        (np.arange(3), "labels must be 4 whole numbers, one per image, got int64 of shape .3,."),
        (np.arange(4)[:, None], "got int64 of shape .4, 1."),
        (np.arange(4.0), "got float64"),
        (np.arange(4) - 1, "from 0, got -1 .. 2"),
        (np.array([0, 0, 0, 2**63], np.uint64), "got 0 .. 9223372036854775808"),
    ]:
        np.save(tmp_path / "labels.npy", labels)
        assert re.search("labels.npy: .*" + problem, refusal(read_images, tmp_path)), problem
        np.savez(tmp_path / "x.npz", pixels(4, 5, 5, 1), labels)
        assert re.search("x.npz: .*" + problem, refusal(read_images, tmp_path / "x.npz")), problem


def empty(folder):
    return folder


def without_images(folder):
    (folder / "notes.txt").write_text("x")
    return folder


def missing(folder):
    return folder / "nowhere"


def foreign(folder):
    (folder / "x.pt").write_bytes(b"x")
    return folder / "x.pt"


def mixed_sizes(folder):
    Image.fromarray(pixels(4, 6)).save(folder / "zz.png")
    return write_folder(folder, pixels(2, 5, 5))


def colour_among_grey(folder):
    Image.fromarray(pixels(5, 5, 3)).save(folder / "zz.png")
    return write_folder(folder, pixels(2, 5, 5))


def grey_among_colour(folder):
    Image.fromarray(pixels(5, 5)).save(folder / "zz.png")
    return write_folder(folder, pixels(2, 5, 5, 3))


def transparent(folder):
    return write_folder(folder, np.zeros((2, 5, 5, 4), np.uint8))


def no_picture(folder):
    (write_folder(folder, pixels(2, 5, 5)) / "000.png").write_text("hello")
    return folder


def cut_header(folder):
    file = write_folder(folder, pixels(2, 5, 5)) / "001.png"
    file.write_bytes(file.read_bytes()[:20])
    return folder


def cut_pixels(folder):
    file = write_folder(folder, pixels(2, 50, 50)) / "001.png"
    file.write_bytes(file.read_bytes()[:500])
    return folder


def no_bytes(folder):
    (folder / "x.npy").touch()
    return folder / "x.npy"


def nothing_packed(folder):
    np.savez(folder / "x.npz")
    return folder / "x.npz"


def test_what_cannot_be_read_is_named_in_one_line_with_a_remedy(tmp_path):
    for make, problem in [
        (missing, "nowhere: no such folder or file: give a folder of images"),
        (empty, r"holds no images \(.png .*\): give the folder or array that does"),
        (without_images, "holds no images"),
        (foreign, "x.pt: is no array of images: give a folder of images, or a .npy or .npz file"),
        (mixed_sizes, "zz.png: is 4 x 6 among images of 5 x 5: give a size to bring all to"),
        (colour_among_grey, "zz.png: a colour image among grey ones: convert or remove it"),
        (grey_among_colour, "zz.png: a grey image among colour ones: convert or remove it"),
        (transparent, "000.png: has transparent pixels: convert or remove it"),
        (no_picture, "000.png: is not an image: repair or remove it"),
        (cut_header, r"001.png: is broken \(.*\): repair or remove it"),
        (cut_pixels, r"001.png: is broken \(.*\): repair or remove it"),
        (no_bytes, r"x.npy: cannot be read as plain numbers \(.*\): save it again or remove it"),
        (nothing_packed, "x.npz: must hold uint8 levels .*, got float64 of shape .0,."),
    ]:
        folder = tmp_path / make.__name__
        folder.mkdir()
        said = refusal(read_images, make(folder))
        assert re.search(problem, said), (make.__name__, said)
        assert said.startswith(str(folder))


def test_advice_about_broken_files_names_no_option_that_is_not_there(tmp_path):
    no_picture(tmp_path)
    with pytest.raises(InputError, match=r"000.png: is not an image: repair or remove it$"):
        read_images(tmp_path, size=5)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "x").mkdir(mode=0)
    with pytest.raises(InputError, match=r"x: cannot be read .*: check its permissions"):
        read_images(tmp_path / "x")


def test_a_size_that_is_none_is_refused(tmp_path):
    write_folder(tmp_path, pixels(2, 5, 5))
    for size in [0, -1, True, [4], [4, 0], [4, 5, 6], [4.0, 5.0]]:
        assert re.search(
            r"size must be a number of pixels or .height, width., got", refusal(read_images, tmp_path, size)
        ), size


def test_arrays_are_not_resized(tmp_path):
    np.save(tmp_path / "x.npy", pixels(2, 1, 5, 5))
    with pytest.raises(InputError, match=r"x.npy: arrays cannot be brought to another size: leave the size out"):
        read_images(tmp_path / "x.npy", 4)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "y.npz"])
def test_damaged_arrays_end_in_one_line_whatever_was_hit(tmp_path, name):
    random = np.random.default_rng(0)
    levels = pixels(3, 4, 4, 1)
    if name == "x.npy":
        np.save(tmp_path / name, levels.transpose(0, 3, 1, 2))
    else:
        (np.savez if name == "x.npz" else np.savez_compressed)(tmp_path / name, levels, np.arange(3))
    sound = (tmp_path / name).read_bytes()
    problems = []
    for _ in range(400):
        broken = bytearray(sound)
        for _ in range(random.integers(1, 4)):
            broken[random.integers(min(len(broken), 150))] = random.integers(256)
        (tmp_path / name).write_bytes(broken[: random.integers(1, len(broken))] if random.random() < 0.2 else broken)
        try:
            read_images(tmp_path / name)
        except InputError as error:
            problems.append(str(error))
    assert len(problems) > 200
    assert not [problem for problem in problems if name not in problem or "\n" in problem]


def test_a_npz_file_named_npy_is_read_as_what_it_is(tmp_path):
    np.savez(tmp_path / "x.npz", pixels(2, 5, 6, 3))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    assert zipfile.is_zipfile(tmp_path / "x.npy")
    assert read_images(tmp_path / "x.npy")[1] == ImageSpec(3, 5, 6)


def test_a_pickle_named_npy_is_not_opened(tmp_path):
    (tmp_path / "x.npy").write_bytes(pickle.dumps(Opened(tmp_path / "opened")))
    with pytest.raises(InputError, match=r"x.npy: cannot be read as plain numbers"):
        read_images(tmp_path / "x.npy")
    assert not (tmp_path / "opened").exists()
