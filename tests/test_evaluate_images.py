"""lightning evaluate of images without a model: equal figures by every way in, and one line for every mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

import lightning_gen.commands.evaluate as evaluate
from lightning_gen.cli import main
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, FashionMNIST, ImageFolder
from lightning_gen.data.images import read_images
from lightning_gen.evaluation import choose_images, to_pixels
from lightning_gen.metrics import (
    ClassCoverage,
    CopyShare,
    DensityCoverage,
    DigitsExtractor,
    Diversity,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    MetricSuite,
    PrecisionRecall,
)

CONFIG = str(Path(__file__).parent / "conf" / "gan.yaml")
DIGITS = ("--extractor", "digits")
FID = ("--metrics", "[FrechetDistance]")
SPEC = Digits.spec


def write_folder(folder, levels, spec, labels=None):
    """Write levels (N, 1, H, W) as 8-bit PNG files."""
    folder.mkdir(parents=True)
    for i, image in enumerate(to_pixels(torch.from_numpy(levels), spec)[..., 0]):
        Image.fromarray(image).save(folder / f"{i:05d}.png")
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint, 120 samples of it, and real digits as image files."""
    root = tmp_path_factory.mktemp("images")
    short = ["--budget.images", "6400", "--evaluation.every", "6400"]
    main(["fit", "--config", CONFIG, "--run.root", str(root / "runs"), *short])
    (root / "last.ckpt").symlink_to(root / "runs" / "gan" / "version_0" / "checkpoints" / "last.ckpt")
    main(["sample", str(root / "last.ckpt"), "--n", "120", "--out", str(root / "drawn")])
    for part in ("train", "val"):
        images = Digits().load(part)
        write_folder(root / part, images.levels, SPEC, images.labels)
    return root


@pytest.fixture
def score(place, tmp_path):
    """Call the verb with --generated (relative to ``place``), and return the report of its JSON file."""

    def call(generated, real, *arguments):
        file = tmp_path / "out.json"
        main(["evaluate", "--generated", str(place / generated), "--real", str(real), *arguments, "--json", str(file)])
        return json.loads(file.read_text())

    return call


def figures(report):
    """What a report has in front of ``n``."""
    names = list(report)
    return {name: report[name] for name in names[: names.index("n")]}


def by_hand(levels, references, metrics, labels=None, per_class=False, extractor=None):
    """Figures of a suite called in Python: ``references`` are Images with their spec, by name."""
    suite = MetricSuite(extractor or DigitsExtractor(), metrics, cache=False, per_class=per_class)
    for name, (images, spec) in references.items():
        suite.set_reference(name, images.levels, spec, labels=images.labels)
    suite.update(torch.from_numpy(levels), torch.arange(len(levels)), labels)
    return suite.compute()


def everything():
    metrics = [FrechetDistance(), KernelDistance(), PrecisionRecall(), DensityCoverage(), Diversity()]
    return [*metrics, InceptionScore(), CopyShare()]


def digits(*parts):
    return {name: (Digits().load(part), SPEC) for name, part in zip(("train", "heldout"), parts, strict=False)}


def test_files_array_and_python_give_equal_figures(place, score):
    files = figures(score("drawn", "digits", *DIGITS))
    array = figures(score("drawn/samples.npy", "digits", *DIGITS))
    levels = np.load(place / "drawn" / "samples.npy")
    assert files == array == by_hand(levels, digits("train", "val"), everything())
    assert {"fid_digits", "fid_digits_heldout", "precision_digits", "is_digits", "copy_share_pixels"} <= files.keys()


def test_levels_of_digits_come_back_from_png_files(place):
    images, own = read_images(place / "drawn")
    assert own == ImageSpec(1, 8, 8)
    levels = evaluate.to_reference(images.levels, own, SPEC, str(place / "drawn"))
    np.testing.assert_array_equal(levels, np.load(place / "drawn" / "samples.npy"))


def test_any_number_of_levels_comes_back_from_8_bits():
    for count in (2, 3, 17, 100, 128, 200, 255, 256):
        spec = ImageSpec(1, 16, 16, levels=count)
        levels = (torch.arange(256) % count).to(torch.uint8).reshape(1, 1, 16, 16)
        pixels = to_pixels(levels, spec).transpose(0, 3, 1, 2)
        again = evaluate.to_reference(pixels, ImageSpec(1, 16, 16), spec, "folder")
        np.testing.assert_array_equal(again, levels.numpy())


def test_a_npz_file_gives_the_figures_of_the_array(place, score, tmp_path):
    levels = np.load(place / "drawn" / "samples.npy")
    np.savez(tmp_path / "levels.npz", levels.transpose(0, 2, 3, 1))
    np.savez(tmp_path / "pixels.npz", to_pixels(torch.from_numpy(levels), SPEC))
    expected = figures(score("drawn", "digits", *DIGITS, *FID))
    for name in ("levels.npz", "pixels.npz"):
        assert figures(score(tmp_path / name, "digits", *DIGITS, *FID)) == expected


def test_a_data_set_is_known_by_its_name_and_its_import_path_and_options_may_have_an_equals_sign(
    place, score, tmp_path
):
    expected = score("drawn", "digits", *DIGITS, *FID)
    for name in ("Digits", "DIGITS", "lightning_gen.data.Digits", "lightning_gen.data.digits.Digits"):
        assert score("drawn", name, *DIGITS, *FID) == expected, name
    file = tmp_path / "equals.json"
    main(["evaluate", f"--generated={place / 'drawn'}", "--real=digits", "--extractor=digits", *FID, f"--json={file}"])
    assert json.loads(file.read_text()) == expected


def test_a_folder_of_real_images_gives_the_figures_of_the_data_set(place, score):
    # its pixels are 8-bit, and the extractor brings both to the 17 levels it knows
    report = score("drawn", place / "train", *DIGITS, "--metrics", "[FrechetDistance, KernelDistance]")
    expected = score("drawn", "digits", *DIGITS, "--metrics", "[FrechetDistance, KernelDistance]")
    own = {name: value for name, value in figures(expected).items() if "heldout" not in name}
    assert figures(report) == pytest.approx(own, rel=1e-9)
    assert (report["reference_part"], report["heldout_part"]) == ("all", None)


def test_heldout_images_may_be_a_folder(place, score):
    levels = np.load(place / "drawn" / "samples.npy")
    report = score("drawn", "digits", *DIGITS, "--heldout", str(place / "val"))
    assert figures(report) == by_hand(levels, digits("train", "val"), everything())
    assert report["heldout_part"] == str(place / "val")
    report = score("drawn", place / "train", *DIGITS, "--heldout", str(place / "val"), *FID)
    assert figures(report) == pytest.approx(by_hand(levels, digits("train", "val"), [FrechetDistance()]), rel=1e-9)


def test_parts_of_the_data_set_can_be_chosen(place, score):
    levels = np.load(place / "drawn" / "samples.npy")
    report = score("drawn", "digits", *DIGITS, *FID, "--real_part", "val", "--part", "test")
    assert figures(report) == by_hand(levels, digits("val", "test"), [FrechetDistance()])
    assert (report["reference_part"], report["references_train_n"]) == ("val", 200)
    assert (report["heldout_part"], report["references_heldout_n"]) == ("test", 500)
    report = score("drawn", "digits", *DIGITS, *FID, "--real_part", "val")  # which is the held-out part otherwise
    assert figures(report) == by_hand(levels, digits("val"), [FrechetDistance()])
    assert report["heldout_part"] is None


def test_a_data_set_takes_its_arguments(place, score, tmp_path):
    root = write_folder(tmp_path / "root", Digits().load("test").levels, SPEC)
    source = ImageFolder(str(root), size=8)
    parts = {"train": (source.load("train"), source.spec), "heldout": (source.load("val"), source.spec)}
    expected = by_hand(read_images(place / "drawn")[0].levels, parts, [FrechetDistance()])
    for name in ("imagefolder", "image-folder", "ImageFolder", "lightning_gen.data.ImageFolder"):
        report = score("drawn", name, "--real.root", str(root), "--real.size=8", *DIGITS, *FID)
        assert figures(report) == expected, name
        assert report["references_train_fingerprint"] == source.fingerprint("train")
        assert report["real_source_init_args_root"] == str(root)


def test_a_source_of_yours_is_found_beside_you(score, tmp_path, monkeypatch):
    (tmp_path / "my_digits.py").write_text(
        "from lightning_gen.data import Digits\n"
        "class Few(Digits):\n"
        "    name = 'few'\n"
        "    parts = ('train', 'test')\n"
        "    def __init__(self, n: int):\n"
        "        self.n = n\n"
        "    def read(self, part):\n"
        "        images = super().read(part)\n"
        "        return type(images)(images.levels[:self.n], images.labels[:self.n])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    report = score("drawn", "my_digits.Few", "--real.n", "90", "--part", "test", *DIGITS, *FID)
    assert (report["real"], report["references_train_n"], report["references_heldout_n"]) == ("few", 90, 90)


def test_a_folder_comes_before_a_data_set_of_its_name(place, score, tmp_path, monkeypatch):
    (tmp_path / "digits").symlink_to(place / "val")
    monkeypatch.chdir(tmp_path)
    report = score("drawn", "digits", *DIGITS, *FID)
    assert (report["real"], report["reference_part"], report["references_train_n"]) == ("digits", "all", 200)
    assert report["extractor"] == "digits"


def test_the_report_is_flat_and_says_what_was_compared(place, score, capsys):
    report = score("drawn", "digits", *DIGITS)
    assert not any(isinstance(value, dict | list) for value in report.values())
    expected = {
        "n": 120,
        "extractor": "digits",
        "transform": "none",
        "references_train_n": 1097,
        "references_train_fingerprint": Digits().fingerprint("train"),
        "references_heldout_n": 200,
        "generated": str(place / "drawn"),
        "real": "digits",
        "real_source_class_path": "lightning_gen.data.digits.Digits",
        "reference_part": "train",
        "heldout_part": "val",
        "size": None,
    }
    assert {name: report[name] for name in expected} == expected
    assert "checkpoint" not in report
    header, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == ["samples", "floor", "memoriser"]
    beside = ("", "floor_", "memoriser_")
    told = {name: [report.get(f"{column}{name}") for column in beside] for name in figures(report)}
    assert rows == [[name, *("-" if v is None else f"{v:.6g}" for v in values)] for name, values in told.items()]
    assert report["memoriser_copied_pixels"] == pytest.approx(1)
    assert report["floor_fid_digits_heldout"] == pytest.approx(report["floor_fid_digits"])


def test_the_batch_size_changes_no_figure(score):
    expected = figures(score("drawn", "digits", *DIGITS))
    for size in ("1", "7", "1000"):
        found = figures(score("drawn", "digits", *DIGITS, "--batch_size", size))
        assert found == pytest.approx(expected, rel=1e-6), size


def test_n_takes_a_subset_that_no_order_of_names_decides(place, score, tmp_path):
    chosen = choose_images(len(np.load(place / "drawn" / "samples.npy")), 50)
    np.save(tmp_path / "some.npy", np.load(place / "drawn" / "samples.npy")[chosen])
    report = score("drawn", "digits", *DIGITS, "--n", "50", "--batch_size", "40")
    assert report["n"] == 50
    assert figures(report) == pytest.approx(figures(score(tmp_path / "some.npy", "digits", *DIGITS)), rel=1e-6)
    of_each_class = torch.bincount(choose_images(1000, 100) // 100, minlength=10)  # ten classes, one after the other
    assert of_each_class.min() >= 4


def test_a_subset_of_images_sorted_by_class_is_near_to_all_of_them(score, tmp_path, monkeypatch, capsys):
    levels, labels = Digits().load("train")
    for label in range(10):
        write_folder(tmp_path / "sorted" / str(label), levels[labels == label], SPEC)
    options = ("--class_folders", "true", *DIGITS, *FID)
    whole, some = (score(tmp_path / "sorted", "digits", *options, *n) for n in ((), ("--n", "300")))
    assert whole["fid_digits"] < 0.01
    assert some["fid_digits"] < 1.5  # 30 of the first class alone: above 100
    named = score(tmp_path / "sorted", "digits", "--per_class", "true", *options, "--n", "600")
    assert named["fid_digits_class3"] < 5
    monkeypatch.setattr(Digits, "classes", tuple("9876543210"))  # a data set whose classes are in another order
    turned = score(tmp_path / "sorted", "digits", "--per_class", "true", *options)
    assert turned["fid_digits_class3"] > 20  # the sixes, which are the third class of that set
    (tmp_path / "sorted" / "3").rename(tmp_path / "sorted" / "three")
    with pytest.raises(SystemExit):
        score(tmp_path / "sorted", "digits", *options)
    assert "sorted has no class 3: name the folders the same" in capsys.readouterr().err


def test_image_files_are_brought_to_a_size_and_arrays_are_not(place, score, tmp_path):
    levels = np.load(place / "drawn" / "samples.npy")
    doubled = write_folder(tmp_path / "doubled", levels.repeat(2, axis=2).repeat(2, axis=3), SPEC)
    real = write_folder(tmp_path / "real", Digits().load("val").levels.repeat(2, axis=2).repeat(2, axis=3), SPEC)
    report = score(doubled, "digits", "--size", "8", *DIGITS, *FID)
    pixels = read_images(doubled, size=8)
    assert figures(report) == by_hand(
        evaluate.to_reference(pixels[0].levels, pixels[1], SPEC, ""), digits("train", "val"), [FrechetDistance()]
    )
    assert report["size"] == 8
    np.save(tmp_path / "array.npy", read_images(place / "drawn")[0].levels)
    report = score(tmp_path / "array.npy", real, "--size", "8", *DIGITS, *FID)
    expected = by_hand(
        read_images(place / "drawn")[0].levels, {"train": read_images(real, size=8)}, [FrechetDistance()]
    )
    assert figures(report) == expected


def test_figures_per_class_are_those_of_each_class_alone(score):
    report = figures(score("val", "digits", *DIGITS, *FID, "--per_class", "true", "--part", "test"))
    generated, references = Digits().load("val"), digits("train", "test")
    for label in range(10):
        own = {
            name: (images._replace(levels=images.levels[images.labels == label], labels=None), SPEC)
            for name, (images, _) in references.items()
        }
        alone = by_hand(generated.levels[generated.labels == label], own, [FrechetDistance()])
        assert report[f"fid_digits_class{label}"] == pytest.approx(alone["fid_digits"], rel=1e-6)
        assert report[f"fid_digits_heldout_class{label}"] == pytest.approx(alone["fid_digits_heldout"], rel=1e-6)
    assert len(report) == 22


def test_samples_of_a_conditional_model_are_scored_per_class_from_checkpoint_and_folder(tmp_path, score, capsys):
    text = Path(CONFIG).read_text().replace("batch_norm: true", "conditional: true")
    (tmp_path / "classes.yaml").write_text(
        text.replace("init_args: {widths: [32]}", "init_args: {widths: [32], conditional: true}")
    )
    main(["fit", "--config", str(tmp_path / "classes.yaml"), "--run.root", str(tmp_path), "--budget.images", "64"])
    checkpoint = str(tmp_path / "classes" / "version_0" / "checkpoints" / "last.ckpt")
    main(["evaluate", checkpoint, "--n", "200", "--per_class", "true", "--json", str(tmp_path / "out.json")])
    names = figures(json.loads((tmp_path / "out.json").read_text())).keys()
    assert {f"fid_digits_class{label}" for label in range(10)} <= names
    main(["sample", checkpoint, "--n", "30", "--out", str(tmp_path / "drawn")])
    assert figures(score(tmp_path / "drawn", "digits", *DIGITS, *FID, "--per_class", "true")).keys() == names
    with pytest.raises(SystemExit):
        main(["evaluate", checkpoint, "--n", "11", "--per_class", "true"])
    assert "images in the 11 samples, and the metrics need 2" in capsys.readouterr().err


def test_labels_of_images_give_their_accuracy(score):
    report = figures(score("val", "digits", *DIGITS, "--metrics", "[ClassCoverage]"))
    images = Digits().load("val")
    labels = torch.from_numpy(images.labels)
    assert report == by_hand(images.levels, digits("train"), [ClassCoverage()], labels=labels)
    assert report["label_accuracy_digits"] > 0.9
    assert "label_accuracy_digits" not in score("drawn", "digits", *DIGITS, "--metrics", "[ClassCoverage]")


def test_real_images_score_as_real(score):
    report = score("val", "digits", *DIGITS)
    assert report["fid_digits_heldout"] == pytest.approx(0, abs=1e-6)
    assert report["is_digits"] > 5
    assert score("train", "digits", *DIGITS, *FID)["fid_digits"] == pytest.approx(0, abs=1e-6)


def test_inception_is_the_extractor_unless_another_is_given(score, monkeypatch):
    monkeypatch.setattr(evaluate, "InceptionExtractor", DigitsExtractor)
    assert score("drawn", "digits", *FID)["extractor"] == "digits"


def test_neighbours_show_each_image_beside_its_nearest(place, score, tmp_path):
    file = tmp_path / "beside.png"
    score("drawn", "digits", *DIGITS, *FID, "--neighbours", str(file), "--n", "9")
    sheet = np.asarray(Image.open(file))
    drawn, real = np.load(place / "drawn" / "samples.npy"), Digits().load("train").levels
    levels = drawn[choose_images(len(drawn), 9)][choose_images(9, 16)]
    extractor = DigitsExtractor()
    own, theirs = (extractor(torch.from_numpy(x), SPEC).features.double().numpy() for x in (levels, real))
    distance = np.linalg.norm(own[:, None] - theirs[None], axis=2)
    # tiles of 64 pixels, a border of 2, and three times that after the first column
    assert sheet.shape == (9 * 66 + 2, 6 * 66 + 2 + 6)
    for row in range(9):
        shown = [levels[row], *real[np.argsort(distance[row])[:5]]]
        for column, image in enumerate(shown):
            left = 2 + 66 * column + (6 if column else 0)
            tile = sheet[2 + 66 * row : 66 + 66 * row, left : left + 64]
            np.testing.assert_array_equal(tile, np.kron(np.round(image[0] * (255 / 16)), np.ones((8, 8))))


def test_arrays_of_fewer_levels_are_not_taken_for_dark_pixels(place, score, capsys, caplog):
    drawn = place / "drawn" / "samples.npy"
    with pytest.raises(SystemExit):
        score("drawn", drawn, *DIGITS, *FID)
    said = capsys.readouterr().err
    assert "samples.npy: no pixel is above 1" in said
    assert "give that data set as --real, or 8-bit pixels" in said
    score("drawn/samples.npy", place / "train", *DIGITS, *FID)
    assert "samples.npy: no pixel is above 1" in caplog.text
    caplog.clear()
    score("drawn/samples.npy", "digits", *DIGITS, *FID)
    assert not caplog.text


def test_nothing_is_downloaded_for_images_of_another_size(place, capsys, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "prepare", lambda self: pytest.fail("downloads"))
    with pytest.raises(SystemExit):
        main(["evaluate", "--generated", str(place / "drawn"), "--real", "fashion-mnist", *DIGITS])
    assert "images are 1 x 8 x 8 and the real ones 1 x 28 x 28" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bad(place):
    """A folder of every kind of image that cannot be scored."""
    root = place / "bad"
    root.mkdir()
    (root / "empty").mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
    eight = ImageSpec(1, 8, 8)
    write_folder(root / "grey", levels, eight)
    write_folder(root / "wide", levels.repeat(2, axis=3), ImageSpec(1, 8, 16))
    mixed = write_folder(root / "mixed", levels, eight)
    Image.fromarray(levels[0, 0, :6]).save(mixed / "zz.png")
    broken = write_folder(root / "broken", levels, eight)
    (broken / "00004.png").write_bytes((broken / "00004.png").read_bytes()[:30])
    (root / "colour").mkdir()
    for i in range(12):
        Image.fromarray(levels[i, 0][..., None].repeat(3, -1)).save(root / "colour" / f"{i}.png")
    write_folder(root / "labelled", levels, eight, np.arange(12) % 10)
    write_folder(root / "many", levels, eight, np.arange(12))
    write_folder(root / "mislabelled", levels, eight, np.arange(11))
    np.save(root / "grey.npy", levels)
    np.save(root / "float.npy", levels / 255)
    np.save(root / "flat.npy", levels[:, 0])
    np.save(root / "object.npy", np.array([{}], dtype=object))
    np.savez(root / "nchw.npz", levels.repeat(3, axis=1))
    (root / "notes.txt").write_text("x")
    return root


def snapshot(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def refuse(arguments, bad, tmp_path, capsys, monkeypatch):
    """Call the verb beside ``bad`` and return its line, after checking that there is one, and that nothing is left."""
    monkeypatch.chdir(bad)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    before = snapshot(bad)
    filled = [argument.replace("OUT", str(out)).replace("CKPT", "../last.ckpt") for argument in arguments]
    line = refused(capsys, "evaluate", *filled)
    assert snapshot(bad) == before, arguments
    assert snapshot(out) == [], arguments
    return line


@pytest.mark.parametrize("side", ["generated", "heldout"])
def test_images_that_cannot_be_scored(bad, tmp_path, capsys, monkeypatch, side):
    for path, expected in [
        ("nowhere", "--generated nowhere: no such folder or file of images: check the path"),
        ("", "--generated : no such folder or file of images: check the path"),
        ("empty", "empty: holds no images"),
        ("notes.txt", "notes.txt: is no array of images: give a folder of images, or a .npy or .npz file"),
        ("mixed", "mixed/zz.png: is 6 x 8 among images of 8 x 8: give a --size to bring all to"),
        ("broken", "broken/00004.png: is broken ("),
        ("wide", "wide: images are 1 x 8 x 16 and the real ones 1 x 8 x 8 (channels x height x width): bring them to"),
        (
            "colour",
            "colour: images are 3 x 8 x 8 and the real ones 1 x 8 x 8 (channels x height x width): give --channels 1",
        ),
        ("mislabelled", "mislabelled/labels.npy: labels must be 12 whole numbers"),
        ("float.npy", "float.npy: must hold uint8 levels (N, C, H, W) of 1 to 4 channels, got float64"),
        ("flat.npy", "flat.npy: must hold uint8 levels (N, C, H, W) of 1 to 4 channels, got uint8 of shape (12, 8, 8)"),
        ("object.npy", "object.npy: cannot be read as plain numbers: save it again"),
        ("nchw.npz", "nchw.npz: must hold uint8 levels (N, H, W, C) of 1 to 4 channels, got uint8 of shape (12, 3, 8"),
    ]:
        images = {"generated": "grey", side: path}
        arguments = [item for option in images.items() for item in (f"--{option[0]}", option[1])]
        arguments += ["--real", "digits", *DIGITS, "--json", "OUT/x.json", "--neighbours", "OUT/x.png"]
        line = refuse(arguments, bad, tmp_path, capsys, monkeypatch)
        assert line.startswith(expected.replace("--generated", f"--{side}")), path


def test_real_images_that_there_are_not(bad, tmp_path, capsys, monkeypatch):
    for real, expected in [
        (
            "nowhere",
            "--real nowhere: no such folder or file, and no data set of that name: there are cifar10, digits, ",
        ),
        ("no/where.npy", "--real no/where.npy: no such folder or file, and no data set of that name: there are"),
        ("nowhere.npz", "--real nowhere.npz: no such folder or file, and no data set of that name: there are"),
        ("digit", "--real digit: no such folder or file, and no data set of that name: did you mean 'digits'?"),
        ("Fashion-MNST", "no data set of that name: did you mean 'fashionmnist'?"),
        ("lightning_gen.data.Digit", "'lightning_gen.data.Digit' is not the import path of a Source (did you mean"),
        ("lightning_gen.data.ImageDataModule", "is not the import path of a Source"),
        ("no_such_package.Data", "--real no_such_package.Data: no such folder or file, and no data set of that name"),
        ("empty", "empty: holds no images"),
        ("mixed", "mixed/zz.png: is 6 x 8 among images of 8 x 8"),
        ("wide", "grey: images are 1 x 8 x 8 and the real ones 1 x 8 x 16"),
        ("colour", "grey: images are 1 x 8 x 8 and the real ones 3 x 8 x 8"),
        ("float.npy", "float.npy: must hold uint8 levels"),
        ("", "--real needs a value"),
    ]:
        arguments = ["--generated", "grey", "--real", real, *DIGITS, "--json", "OUT/x.json"]
        assert expected in refuse(arguments, bad, tmp_path, capsys, monkeypatch), real


IMAGES = ("--generated", "grey", "--real", "grey")
PLANE = ("--extractor", "module", "--extractor.module", "torch.nn.Flatten", "--extractor.name", "plane")


def test_options_that_cannot_be(bad, tmp_path, capsys, monkeypatch):
    # none of these may get as far as building the extractor that has to be downloaded
    monkeypatch.setattr(evaluate, "InceptionExtractor", DigitsExtractor)
    for arguments, expected in [
        ((), "evaluate scores either a checkpoint, CKPT, or images, --generated DIR --real DIR: give one"),
        (("CKPT", *IMAGES), "evaluate scores either a checkpoint, CKPT, or images"),
        (("--generated", "grey"), "--generated needs real images to compare with: give --real DIR, or a data set"),
        (("grey",), "grey is no checkpoint file; images are given as --generated grey"),
        (("grey.npy",), "grey.npy is no checkpoint file; images are given as --generated grey.npy"),
        (
            ("CKPT", "--real", "grey"),
            "--real belongs to --generated: a checkpoint is compared with the data of its run",
        ),
        (("CKPT", "--real", "digits"), "--real belongs to --generated"),
        (("CKPT", "--heldout", "grey"), "--heldout belongs to --generated"),
        (("CKPT", "--size", "8"), "--size belongs to --generated"),
        (("CKPT", "--real_part", "test"), "--real_part belongs to --generated"),
        (("CKPT", "--per_class", "true"), "--per_class: this GAN is not class-conditional: leave it out"),
        (("CKPT", "--n", "1"), "FrechetDistance needs at least 2 images, got 1: raise n"),
        (("CKPT", "--metrics", "[InceptionScore]", *PLANE), "InceptionScore needs logits"),
        ((*IMAGES, "--sampler.temperature", "0.5"), "--sampler.temperature belongs to a checkpoint"),
        ((*IMAGES, "--seed", "1"), "--seed belongs to a checkpoint, and --generated are images: leave it out"),
        ((*IMAGES, "--weights", "live"), "--weights belongs to a checkpoint"),
        ((*IMAGES, "--draws", "3"), "--draws belongs to a checkpoint, and --generated are images: leave it out"),
        (("CKPT", "--draws", "0"), "draws"),
        (("CKPT", "--likelihood", "--draws", "3"), "--draws is about samples, and --likelihood draws none"),
        (("CKPT", "--likelihood", "--controls", "false"), "--controls is about samples"),
        ((*IMAGES, "--trust", "my_models"), "--trust belongs to a checkpoint"),
        ((*IMAGES, "--part", "test"), "--part belongs to a data set, and grey is none: leave it out"),
        ((*IMAGES, "--real_part", "val"), "--real_part belongs to a data set, and grey is none"),
        (
            ("--generated", "grey", "--real", "digits", "--heldout", "grey", "--part", "test"),
            "--part and --heldout both",
        ),
        (("--generated", "grey", "--real", "digits", "--real_part", "test", "--part", "test"), "are the same images"),
        ((*IMAGES, "--n", "13"), "--n 13: grey holds 12 images: lower n"),
        ((*IMAGES, "--n", "0"), "--n: expected a whole number of at least 1"),
        ((*IMAGES, *DIGITS, "--n", "9"), "InceptionScore needs at least 10 images, got 9: raise n or choose other"),
        ((*IMAGES, *DIGITS, "--n", "5"), "DensityCoverage needs at least 6 images, got 5: raise n or choose other"),
        ((*IMAGES, *DIGITS, *FID, "--n", "1"), "FrechetDistance needs at least 2 images, got 1"),
        ((*IMAGES, "--batch_size", "0"), "--batch_size: expected a whole number of at least 1"),
        (
            ("--generated", "grey.npy", "--real", "grey.npy", "--size", "8"),
            "--size is about image files in folders alone",
        ),
        (
            ("--generated", "grey.npy", "--real", "digits", "--size", "8"),
            "--size is about image files in folders alone",
        ),
        (
            ("--generated", "grey.npy", "--real", "grey", "--size", "4", *DIGITS),
            "grey.npy: images are 1 x 8 x 8 and the",
        ),
        ((*IMAGES, "--size", "0"), "--size: expected a whole number of at least 1"),
        (
            ("--generated", "wide", "--real", "wide", *DIGITS),
            "the extractor 'digits' scores 1 x 8 x 8 images, not 1 x 8 x",
        ),
        ((*IMAGES, "--extractor", "digit"), "--extractor digit: no extractor of that name: did you mean 'digits'?"),
        ((*IMAGES, "--extractor", "xyz"), "--extractor xyz: no extractor of that name: there are classifier, digits, "),
        ((*IMAGES, "--extractor", "lightning_gen.metrics.Xyz"), "is not the import path of an Extractor"),
        ((*IMAGES, "--extractor"), "--extractor needs a value"),
        ((*IMAGES, "--real", "--extractor", "digits"), "--real needs a value"),
        ((*IMAGES, "--extractor.weights", "x"), "--extractor.weights is an argument of --extractor: name its class"),
        ((*IMAGES, "--extractor", "classifier", "--extractor.weights", "nowhere"), "classifier weights nowhere do not"),
        ((*IMAGES, "--real.root", "x"), "--real.root is an argument of --real: name its class with --real before it"),
        (("--generated", "grey", "--real", "imagefolder"), "--real.root: is required"),
        (
            ("--generated", "grey", "--real", "imagefolder", "--real.root", "nowhere", "--real.size", "8"),
            "no such folder",
        ),
        (("--generated", "grey", "--real", "imagefolder", "--real.root", "grey"), "ImageFolder.size is not given"),
        (("--generated", "grey", "--real", "digits", "--real.root", "grey"), "--real.root: no such option"),
        ((*IMAGES, *PLANE, "--metrics", "[InceptionScore]"), "InceptionScore needs logits, and this extractor gives"),
        ((*IMAGES, *PLANE, "--metrics", "[ClassCoverage]"), "ClassCoverage needs logits"),
        ((*IMAGES, *DIGITS, "--metrics", "[CopyShare]"), "CopyShare compares with held-out images: give --heldout DIR"),
        (
            (*IMAGES, *DIGITS, "--metrics", "[{class_path: FrechetDistance, init_args: {against: [heldout]}}]"),
            "--heldout",
        ),
        ((*IMAGES, *DIGITS, "--metrics", "[]"), "metrics is empty; name at least one"),
        ((*IMAGES, *DIGITS, "--metrics", "[ModeCoverage]"), "points of two coordinates, not images of 64 pixels"),
        ((*IMAGES, "--device", "gpux"), "--device gpux"),
        ((*IMAGES, *DIGITS, *FID, "--per_class", "true"), "--per_class needs labels: grey has none (labels.npy"),
        (("--generated", "labelled", "--real", "grey", *DIGITS, "--per_class", "true"), "needs labels: grey has none"),
        (("--generated", "grey", "--real", "labelled", *DIGITS, "--per_class", "true"), "needs labels: grey has none"),
        (
            ("--generated", "labelled", "--real", "digits", "--heldout", "grey", *DIGITS, "--per_class", "true"),
            "--per_class needs labels: grey has none",
        ),
        (
            ("--generated", "many", "--real", "digits", *DIGITS, *FID, "--per_class", "true"),
            "--per_class: many has class 11, real classes are 0 .. 9",
        ),
        (
            ("--generated", "labelled", "--real", "digits", *DIGITS, *FID, "--per_class", "true"),
            "--per_class: class 2 has 1 images in labelled, and the metrics need 2: give more, or choose other --metrics",
        ),
        (
            ("--generated", "labelled", "--real", "digits", "--n", "9", *DIGITS, *FID, "--per_class", "true"),
            "class 1 has 0 images in labelled",
        ),
        ((*IMAGES, "--json", "nowhere/x.json"), "--json nowhere/x.json: there is no folder nowhere"),
        ((*IMAGES, "--json", "empty"), "--json empty: give the name of a file"),
        ((*IMAGES, "--neighbours", "nowhere/x.png"), "--neighbours nowhere/x.png: there is no folder nowhere"),
        ((*IMAGES, "--neighbours", "empty"), "--neighbours empty: give the name of a file"),
        ((*IMAGES, "--neighbours", "OUT/x.jpg"), "give a name that ends in .png"),
        (("--genrated", "grey"), "--genrated: no such option (did you mean 'generated'?)"),
    ]:
        assert expected in refuse(arguments, bad, tmp_path, capsys, monkeypatch), arguments


def test_places_of_results_are_looked_at_before_the_work(bad, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "read_images", lambda *_: pytest.fail("works"))
    for option in ("--json", "--neighbours"):
        refuse([*IMAGES, *DIGITS, option, "nowhere/x.png"], bad, tmp_path, capsys, monkeypatch)


def test_options_of_the_other_mode_are_refused_before_anything_is_built(bad, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise AssertionError("builds")

    monkeypatch.setattr(DigitsExtractor, "__init__", fail)
    refuse(["CKPT", "--heldout", "grey", *DIGITS], bad, tmp_path, capsys, monkeypatch)


def test_a_module_that_cannot_take_the_images_is_named(bad, tmp_path, capsys, monkeypatch):
    linear = "{class_path: torch.nn.Linear, init_args: {in_features: 3, out_features: 2}}"
    extractor = ["--extractor", "module", "--extractor.module", linear, "--extractor.name", "mine"]
    line = refuse([*IMAGES, *extractor], bad, tmp_path, capsys, monkeypatch)
    assert line.startswith("the extractor 'mine' cannot take images of 1 x 8 x 8: ")


def test_the_help_shows_both_ways(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "\n  lightning evaluate CKPT --n 2000 --json out.json\n" in said
    assert "\n  lightning evaluate --generated DIR --real digits --extractor digits\n" in said
    assert "\nto score images instead of a checkpoint:\n" in said


def test_conversion_of_levels_names_what_differs():
    levels = np.zeros((2, 1, 4, 4), np.uint8)
    with pytest.raises(InputError, match=r"^here: images are 1 x 4 x 4 and the real ones 1 x 4 x 5 \(.*--size$"):
        evaluate.to_reference(levels, ImageSpec(1, 4, 4), ImageSpec(1, 4, 5), "here")


def test_images_of_all_kinds_are_scored_with_the_options_that_messages_name(score, tmp_path, capsys):
    folder, levels = tmp_path / "kinds", Digits().load("val").levels[:40, 0] * 15
    folder.mkdir()
    for i, pixels in enumerate(levels):
        Image.fromarray(pixels).convert(("L", "RGB", "RGBA", "L")[i % 4]).save(folder / f"{i}.png")
    half = Image.fromarray(levels[0]).convert("RGBA")
    half.putalpha(Image.fromarray(np.full((8, 8), 128, np.uint8)))
    half.save(folder / "40.png")
    (folder / "41.png").write_bytes(b"no image")
    options = [*DIGITS, *FID]
    for option, value in (("--channels", "1"), ("--background", "0"), ("--on_error", "skip")):
        with pytest.raises(SystemExit):
            score(folder, "digits", *options)
        assert f"give {option} " in capsys.readouterr().err
        options += [option, value]
    report = score(folder, "digits", *options)
    assert report["n"] == 41
    assert report["channels"] == 1


def test_patches_are_compared_by_their_own_metric(score, tmp_path):
    folder = write_folder(tmp_path / "some", Digits().load("val").levels, SPEC)
    report = score(folder, "digits", "--extractor", "PatchExtractor")
    assert 0 < report["swd_patches"] < 100
