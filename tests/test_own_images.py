"""A folder of one's own images from the first run on: what is said of it, what is refused, and what it may do later."""

import os
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from lightning_gen.cli import main
from lightning_gen.data import ImageFolder
from lightning_gen.data.folder import PLACES, place_of
from lightning_gen.shipped import configs_folder

OPTIONS = ["--data.source", "ImageFolder", "--data.source.size", "8", "--data.source.channels", "1"]
OPTIONS += ["--checkpoint.monitor", "val/swd_patches"]  # what scores folders, where a config says nothing
SHORT = ["--data.batch_size", "16", "--evaluation.n", "50", "--trainer.accelerator", "cpu", "--checkpoint.every", "32"]
DIGITS = ["--extractor", "digits", "--metrics", "[FrechetDistance]", "--n", "64"]


def named(part, k, suffix=".png"):
    """The k-th number that a file of class ``cat`` may be called by to be in a part."""
    first, end = PLACES.get(part, (0.2, 1.0))
    numbers = (n for n in range(10**6) if first <= place_of(f"cat/{n}{suffix}") < end)
    return next(n for i, n in enumerate(numbers) if i == k)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with images and with a run on them."""
    place = tmp_path_factory.mktemp("own")
    for name in ("cat", "9", "10"):
        (place / "pictures" / name).mkdir(parents=True)
        for n in range(60):
            pixels = np.random.default_rng([n, len(name)]).integers(0, 200, (9, 8), np.uint8)
            Image.fromarray(pixels).save(place / "pictures" / name / f"{n}.png")
    for name in ("1.heic", "2.HEIC", "notes.txt"):
        (place / "pictures" / "cat" / name).write_bytes(b"x")
    before = os.getcwd()
    os.chdir(place)
    try:
        config = str(configs_folder() / "gan" / "cgan-digits.yaml")
        main(["fit", "--config", config, *OPTIONS, "--data.source.root", "pictures", *SHORT, "--budget.images", "64"])
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def place(begun, tmp_path, monkeypatch):
    """A copy of it, in which to work; the checkpoint's path is absolute, so data are looked for where they were."""
    shutil.copytree(begun / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def last(folder):
    (found,) = folder.rglob("last.ckpt")
    return str(found)


def refused(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_counts_and_what_was_passed_over_are_said(begun, capsys):
    capsys.readouterr()
    main(["evaluate", last(begun / "runs"), *DIGITS])
    said = capsys.readouterr().err
    trained = sum(place_of(f"{name}/{n}.png") >= 0.2 for name in ("9", "10", "cat") for n in range(60))
    assert said.startswith(f"data: {trained} train and ")
    assert "train, 3 classes: 9: " in said
    assert "note: 2 files were passed over (HEIC files are not read): convert them" in said
    assert "were split off (split_seed 0)" in said


def test_a_folder_with_one_held_out_image_is_refused_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few" / "cat").mkdir(parents=True)
    for part, count in (("val", 1), ("test", 2), ("train", 4)):
        for k in range(count):
            Image.new("L", (8, 8), 200).save(tmp_path / "few" / "cat" / f"{named(part, k)}.png")
    config = str(configs_folder() / "gan" / "mlp-digits.yaml")
    line = refused(capsys, "fit", "--config", config, *OPTIONS, "--data.source.root", "few", *SHORT)
    assert "the val part, and images of it there are 1: give more images" in line
    assert not list(tmp_path.rglob("*.ckpt"))


def test_training_images_are_shown_as_they_are_decoded(begun):
    (file,) = (begun / "runs").rglob("samples/training.png")
    sheet = np.asarray(Image.open(file))
    factor = 6  # 8 pixels are shown at 48 or more
    shown = sheet[2 : 2 + 8 * factor : factor, 2 : 2 + 8 * factor : factor]
    source = ImageFolder(str(begun / "pictures"), 8, channels=1)
    assert np.array_equal(shown, source.load("train").levels[0, 0])


def test_the_config_of_a_run_names_its_classes(begun):
    (file,) = begun.rglob("config.yaml")
    source = yaml.safe_load(file.read_text())["data"]["init_args"]["source"]
    assert source["init_args"]["class_names"] == ["9", "10", "cat"]


def test_classes_are_drawn_by_name(place, begun, capsys):
    main(["sample", last(place), "--n", "3", "--labels", "[cat, 10]", "--out", "drawn"])
    assert np.load("drawn/labels.npy").tolist() == [2, 1, 2]
    assert refused(capsys, "sample", last(place), "--labels", "[cta]", "--out", "x") == (
        "error: --labels cta: did you mean 'cat'?"
    )
    assert "--labels 0: classes are 9, 10, cat" in refused(
        capsys, "sample", last(place), "--labels", "[0]", "--out", "x"
    )


def test_data_that_moved_are_found_again(place, begun, capsys):
    shutil.copytree(begun / "pictures", place / "moved")
    os.rename(begun / "pictures", begun / "gone")
    try:
        assert "/pictures, the folder of the data, is not there: give --data_root DIR" in refused(
            capsys, "evaluate", last(place), *DIGITS
        )
        main(["evaluate", last(place), *DIGITS, "--data_root", "moved"])
    finally:
        os.rename(begun / "gone", begun / "pictures")


def test_an_image_that_was_trained_on_is_not_held_out(place, begun, capsys):
    shutil.copytree(begun / "pictures", place / "moved")
    trained = place / "moved" / "cat" / f"{named('train', 0)}.png"
    trained.rename(trained.with_name(f"{named('val', 20)}.png"))
    line = refused(capsys, "evaluate", last(place), *DIGITS, "--data_root", "moved")
    assert "this checkpoint was trained on 1 of the" in line
    assert "images of the val part" in line


def test_a_resumed_run_says_what_changed(place, begun, capsys, recwarn):
    shutil.copytree(begun / "pictures", place / "pictures")
    (place / "pictures" / "cat" / f"{named('train', 1)}.png").unlink()
    config = str(configs_folder() / "gan" / "cgan-digits.yaml")
    options = [*OPTIONS, "--data.source.root", "pictures", *SHORT, "--budget.images", "96"]
    main(["fit", "--config", config, *options, "--ckpt_path", last(place)])
    assert any("0 are new, 1 are gone" in str(warning.message) for warning in recwarn)
