"""Pictures of reconstructions and interpolations: pixel by pixel, what is left out, and that training does not notice."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gen.callbacks import HeldOutPictures
from lightning_gen.callbacks.dashboards import evaluation_pictures
from lightning_gen.cli import main
from lightning_gen.commands.animate import find_grids as grids_to_animate
from lightning_gen.core.errors import InputError, Unavailable
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import ImageDataModule, Images, Source
from lightning_gen.evaluation import choose_images
from lightning_gen.evaluation.held_out import choose_pairs, interpolations, reconstructions
from lightning_gen.models import GenerativeModule
from lightning_gen.report.pictures import find_grids as grids_to_report
from lightning_gen.runs import RunFolder

CONF = Path(__file__).parents[1] / "conf"
SPEC = ImageSpec(1, 48, 50, num_classes=3)  # as large as pictures show images at least, so that none is enlarged
OFF = ["--pictures.n=0", "--pictures.pairs=0"]


class Decoding(GenerativeModule):
    """Decodes latents, pixels in [-1, 1], to negatives, and encodes nothing."""

    latents = "continuous"

    def draw_latents(self, n, labels=None, *, generator):
        pytest.fail("nobody asked for samples")

    def decode(self, latent, labels=None):
        self.decoded_with = labels
        return self.spec.to_levels(-latent.view(-1, *self.spec.shape))


class Negative(Decoding):
    """Encodes images, too."""

    calls = 0

    def encode(self, levels, labels=None):
        assert (labels is not None) == self.conditional
        self.calls += 1
        return self.spec.to_unit(levels).flatten(1)


class Labelled(Negative):
    """Heeds labels."""

    conditional = True


class Coded(Negative):
    """Its latents are whole numbers."""

    latents = "discrete"

    def encode(self, levels, labels=None):
        return levels.to(torch.int64)

    def decode(self, latent, labels=None):
        return (255 - latent).to(torch.uint8)


class Absent(Negative):
    """Has no codes as it is configured."""

    def encode(self, levels, labels=None):
        raise Unavailable("Absent: it has no encoder: give one")


class Held(Source):
    """A few random images."""

    name = "held"
    spec = SPEC

    def __init__(self, count: int = 9):
        self.count = count

    def read(self, part):
        if part != "val":
            pytest.fail(f"pictures are of held-out images, not of the {part} part")
        return images_of(self.count)


def images_of(count: int) -> Images:
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (count, *SPEC.shape)).astype(np.uint8)
    return Images(levels, generator.integers(0, 3, count))


def tiles(sheet: Image.Image, columns: int, border: int = 1) -> np.ndarray:
    """Return the images of a sheet, (rows, columns, H, W)."""
    pixels = np.asarray(sheet)
    height, width = SPEC.height + border, SPEC.width + border
    rows = (len(pixels) - border) // height
    assert pixels.shape == (rows * height + border, columns * width + border)
    cut = pixels[border:, border:].reshape(rows, height, columns, width)
    return cut[:, :-border, :, :-border].transpose(0, 2, 1, 3)


def show(model: GenerativeModule, folder: Path, callback: HeldOutPictures | None = None, **changes) -> list[str]:
    """Let the callback see the end of an evaluation; return the names of the pictures."""
    callback = callback or HeldOutPictures(5, 2)
    trainer = {
        "state": SimpleNamespace(fn="fit"),
        "is_global_zero": True,
        "sanity_checking": False,
        "fast_dev_run": False,
        "log_dir": str(folder),
        "datamodule": ImageDataModule(Held()),
    }
    trainer = SimpleNamespace(**{**trainer, **changes})
    callback.setup(trainer, model, "fit")
    callback.on_validation_epoch_end(trainer, model)
    return sorted(path.name for path in (folder / "samples").glob("*"))


# Pixels


@pytest.mark.parametrize(("n", "columns"), [(8, 4), (5, 4), (1, 2)])
def test_each_row_of_images_stands_above_its_reconstructions(n, columns):
    images = images_of(20)
    with torch.no_grad():
        found = tiles(reconstructions(Negative(SPEC).eval(), images, n), columns)
    chosen = images.levels[choose_images(20, n).numpy(), 0]
    for i, image in enumerate(chosen):
        row, column = 2 * (i // columns), i % columns
        np.testing.assert_array_equal(found[row, column], image)
        np.testing.assert_array_equal(found[row + 1, column], 255 - image)
    assert len(found) == 2 * -(-n // columns)
    assert (found[-2:, (n - 1) % columns + 1 :] == 128).all()


def great_circle(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    angle = np.arccos(a @ b / np.prod(lengths))
    direction = (np.sin((1 - t) * angle) * a / lengths[0] + np.sin(t * angle) * b / lengths[1]) / np.sin(angle)
    return ((1 - t) * lengths[0] + t * lengths[1]) * direction


def straight(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    return (1 - t) * a + t * b


@pytest.mark.parametrize("way", [great_circle, straight])
def test_rows_go_from_image_to_image_as_the_prior_says(way):
    model = Negative(SPEC).eval()
    model.latents = "normal" if way is great_circle else "continuous"
    images = images_of(20)
    with torch.no_grad():
        found = tiles(interpolations(model, images, 3), 10)
    pairs = choose_pairs(20, None, 3).numpy()
    for row, pair in zip(found, pairs, strict=True):
        start, end = images.levels[pair, 0]
        np.testing.assert_array_equal(row[0], start)
        np.testing.assert_array_equal(row[-1], end)
        latents = [image.astype(np.float64).ravel() / 127.5 - 1 for image in (start, end)]
        for i, shown in enumerate(row[1:-1]):
            expected = 127.5 * (1 - way(*latents, i / 7)).reshape(shown.shape)
            assert np.abs(shown - np.clip(expected, 0, 255)).max() < 0.51
    middle = found[:, 4].astype(float).std() / found[:, 0].astype(float).std()
    assert middle == pytest.approx(1 if way is great_circle else 0.75, abs=0.1)  # lines pass through what is grey


def test_a_class_conditional_model_is_shown_between_images_of_one_class_and_told_which():
    model = Labelled(SPEC).eval()
    images = images_of(20)
    with torch.no_grad():
        found = tiles(interpolations(model, images, 4), 10)
        pairs = choose_pairs(20, images.labels, 4).numpy()
        assert (images.labels[pairs[:, 0]] == images.labels[pairs[:, 1]]).all()
        assert model.decoded_with.view(4, 8).eq(torch.from_numpy(images.labels[pairs[:, :1]])).all()
        np.testing.assert_array_equal(found[:, [0, -1]], images.levels[pairs, 0])
        reconstructions(model, images, 6)
    assert model.decoded_with.tolist() == images.labels[choose_images(20, 6).numpy()].tolist()


def test_pairs_have_no_image_twice_and_are_always_the_same():
    labels = images_of(40).labels
    for given in (None, labels):
        pairs = choose_pairs(40, given, 9)
        assert pairs.shape == (9, 2)
        assert len(set(pairs.flatten().tolist())) == 18
        assert torch.equal(choose_pairs(40, given, 9), pairs)
        assert torch.equal(choose_pairs(40, given, 4), pairs[:4])  # more of them leave these as they are
    assert choose_pairs(7, None, 9).shape == (3, 2)
    assert choose_pairs(3, np.array([0, 1, 2]), 9).shape == choose_pairs(1, None, 9).shape == (0, 2)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# What has none


def test_models_without_an_encoder_other_ranks_and_other_loops_have_no_pictures(tmp_path):
    assert show(Decoding(SPEC), tmp_path) == []
    model = Negative(SPEC)
    for change in (
        {"sanity_checking": True},
        {"state": SimpleNamespace(fn="validate")},
        {"datamodule": None},
    ):
        assert show(model, tmp_path, **change) == []
    assert show(model, tmp_path, HeldOutPictures(0, 0)) == []
    assert model.calls == 0
    # every rank draws, since parameters may be spread over all of them, and the first one writes
    for change in ({"fast_dev_run": True}, {"is_global_zero": False}):
        before = model.calls
        assert show(model, tmp_path, **change) == []
        assert model.calls == before + 2


def test_codes_are_reconstructed_and_have_nothing_between_them(tmp_path):
    assert show(Coded(SPEC), tmp_path) == ["000000000000-reconstructions.png"]


def test_codes_that_a_configuration_does_not_have_end_no_run(tmp_path):
    assert show(Absent(SPEC), tmp_path) == []


def test_one_kind_of_picture_can_be_had_alone(tmp_path):
    assert show(Negative(SPEC), tmp_path / "a", HeldOutPictures(3, 0)) == ["000000000000-reconstructions.png"]
    assert show(Negative(SPEC), tmp_path / "b", HeldOutPictures(0, 3)) == ["000000000000-interpolations.png"]
    # a held-out part of one image has no pairs
    alone = {"datamodule": ImageDataModule(Held(1))}
    assert show(Negative(SPEC), tmp_path / "c", **alone) == ["000000000000-reconstructions.png"]


def test_the_model_and_all_randomness_are_as_before(tmp_path):
    model = Negative(SPEC).train()
    kept = torch.get_rng_state()
    assert len(show(model, tmp_path)) == 2
    assert torch.equal(torch.get_rng_state(), kept)
    assert model.training


@pytest.mark.parametrize(("numbers", "name"), [((-1, 8), "n"), ((32, -1), "pairs")])
def test_negative_numbers_are_refused_by_name(numbers, name):
    with pytest.raises(InputError, match=rf"pictures\.{name} must be at least 0, got -1"):
        HeldOutPictures(*numbers)


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    root = tmp_path_factory.mktemp("pictures")
    main(["fit", "--config", str(CONF / "vae.yaml"), f"--run.root={root}", "--run.tensorboard=true"])
    return RunFolder(root / "vae" / "version_0")


def test_every_evaluation_of_a_vae_has_its_pictures_beside_the_grid(run):
    names = {path.name for path in (run.path / "samples").iterdir()}
    kinds = ("", "-reconstructions", "-interpolations")
    assert names == {f"{images:012d}{kind}.png" for images in (640, 1280) for kind in kinds} | {"training.png"}
    grids = [(images, run.path / "samples" / f"{images:012d}.png") for images in (640, 1280)]
    assert grids_to_report(run.path) == grids_to_animate(run.path) == grids
    shown = evaluation_pictures(run, 640)
    assert sorted(shown) == ["interpolations", "reconstructions", "samples"]
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0}).Reload()
    for name, path in shown.items():
        assert [event.step for event in events.Images(name)] == [640, 1280]
        pixels = Image.open(io.BytesIO(events.Images(name)[0].encoded_image_string))
        assert np.array_equal(np.asarray(pixels), np.asarray(Image.open(path).convert("RGB")))


def test_training_does_not_notice_the_pictures(run, tmp_path):
    main(["fit", "--config", str(CONF / "vae.yaml"), f"--run.root={tmp_path}", *OFF])
    other = RunFolder(tmp_path / "vae" / "version_0")
    assert not [path for path in (other.path / "samples").iterdir() if "-" in path.name]
    one, two = (torch.load(folder.last, weights_only=True) for folder in (run, other))
    for key in ("state_dict", "ema", "optimizer_states", "random_states"):
        assert same(one[key], two[key]), key
    assert run.summary()["last"] == other.summary()["last"]


def test_a_gan_has_none(tmp_path):
    main(["fit", "--config", str(CONF / "gan.yaml"), f"--run.root={tmp_path}", "--budget.images=640"])
    names = [path.name for path in (tmp_path / "gan" / "version_0" / "samples").iterdir()]
    assert sorted(names) == ["000000000640.png", "training.png"]
