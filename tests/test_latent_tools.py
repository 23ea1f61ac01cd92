"""interpolate and animate as users call them: what their pictures show, and what is refused."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from torch.optim import SGD

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.core.spec import ImageSpec
from lightning_gen.distributions import FlowPrior, MixturePrior, StandardNormal
from lightning_gen.evaluation import grid_picture, to_pixels
from lightning_gen.models import GAN, VAE, Classifier, GenerativeModule
from lightning_gen.networks import MLPDecoder, MLPDiscriminator, MLPEncoder, MLPGenerator
from lightning_gen.networks.classifier import SmallClassifier

DIGITS = ImageSpec(1, 8, 8, levels=17, num_classes=10)
COLOURS = ImageSpec(3, 16, 24)


class Blind(GenerativeModule):
    """Draws without latents."""

    def __init__(self, spec: ImageSpec):
        super().__init__(spec)
        self.level = torch.nn.Parameter(torch.zeros(()))

    def configure_optimizers(self):
        return SGD([self.level], lr=0.1)

    def training_step(self, batch, batch_idx):
        self.count_images(batch)
        return self.level.square()

    def sample(self, n, labels=None, *, generator=None):
        return torch.zeros(n, *self.spec.shape, dtype=torch.uint8)


def gan(spec: ImageSpec, conditional: bool = False) -> GAN:
    return GAN(
        spec,
        partial(MLPGenerator, latent_dim=6, widths=(32,), conditional=conditional),
        partial(MLPDiscriminator, widths=(8,), conditional=conditional),
        partial(SGD, lr=0.1),
        partial(SGD, lr=0.1),
    )


def vae(prior: type) -> VAE:
    parts = {"encoder": partial(MLPEncoder, widths=(8,)), "decoder": partial(MLPDecoder, widths=(8,))}
    return VAE(DIGITS, **parts, optimizer=partial(SGD, lr=0.1), latent_dim=4, prior=prior)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, quiet_trainer, make_batches) -> dict[str, str]:
    """One checkpoint of each kind of model."""
    torch.manual_seed(0)
    models = {
        "digits": gan(DIGITS),
        "conditional": gan(DIGITS, conditional=True),
        "colours": gan(COLOURS),
        **{prior.__name__: vae(prior) for prior in (StandardNormal, MixturePrior, FlowPrior)},
        "blind": Blind(DIGITS),
        "classifier": Classifier(DIGITS, SmallClassifier, partial(SGD, lr=0.1)),
    }
    for prior in (StandardNormal, MixturePrior, FlowPrior):
        models[prior.__name__].decoder.head[-1].weight.data.mul_(30)
    for parameter in (p for name in ("digits", "conditional", "colours") for p in models[name].generator.parameters()):
        parameter.data.mul_(4)  # images with some contrast
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, model in models.items():
        trainer = quiet_trainer()
        trainer.fit(model, make_batches(model.spec, 1, 8))
        trainer.save_checkpoint(folder / f"{name}.ckpt")
    return {name: str(folder / f"{name}.ckpt") for name in models}


# interpolate


def tiles(picture: Path, rows: int, columns: int, size: int) -> np.ndarray:
    """Cut a grid whose borders are a third of a pixel's factor wide into (rows, columns, size, size) tiles."""
    pixels = np.asarray(Image.open(picture))
    border = (pixels.shape[1] - columns * size) // (columns + 1)
    assert pixels.shape[:2] == tuple(n * (size + border) + border for n in (rows, columns))
    return np.array(
        [
            [
                pixels[top : top + size, left : left + size]
                for left in range(border, pixels.shape[1] - border, size + border)
            ]
            for top in range(border, pixels.shape[0] - border, size + border)
        ]
    )


def test_rows_lead_from_latent_to_latent(checkpoints, tmp_path, capsys):
    out = tmp_path / "between.png"
    main(["interpolate", checkpoints["digits"], "--out", str(out), "--rows", "5", "--steps", "7"])
    assert capsys.readouterr().err.strip() == f"5 rows of 7 images written to {out}"
    drawn = tiles(out, 5, 7, 48)[:, :, 3::6, 3::6].astype(float)  # 8 pixels were enlarged to 48
    neighbours = np.abs(np.diff(drawn, axis=1)).mean((2, 3))
    ends = np.abs(drawn[:, -1] - drawn[:, 0]).mean((1, 2))
    assert (ends > 10).all()  # each row leads somewhere else
    assert (neighbours.max(1) < ends).all()  # in smaller steps
    starts = drawn[:, 0].reshape(5, -1)
    assert len(np.unique(starts, axis=0)) == 5


def test_pictures_do_not_depend_on_how_they_are_cut_into_batches(checkpoints, tmp_path):
    pictures = []
    for size in ("1", "4", "500"):
        out = tmp_path / f"{size}.png"
        main(["interpolate", checkpoints["conditional"], "--out", str(out), "--rows", "3", "--batch_size", size])
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] == pictures[2]
    main(["interpolate", checkpoints["conditional"], "--out", str(out), "--rows", "3", "--seed", "1"])
    assert out.read_bytes() != pictures[0]


def test_labels_are_those_of_the_rows_in_turn(checkpoints, tmp_path):
    out = tmp_path / "between.png"
    main(
        [
            "interpolate",
            checkpoints["conditional"],
            "--out",
            str(out),
            "--rows",
            "3",
            "--steps",
            "2",
            "--labels",
            "[7, 2]",
        ]
    )
    model = lightning_gen.load(checkpoints["conditional"])
    generator = keyed_generator(0, "interpolate")
    latents = model.draw_latents(6, generator=generator)
    expected = model.decode(latents, torch.tensor([7, 7, 2, 2, 7, 7]))
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(grid_picture(expected, DIGITS, 2)))


@pytest.mark.parametrize("prior", [StandardNormal, MixturePrior, FlowPrior])
def test_ways_are_straight_unless_latents_are_standard_normal(checkpoints, prior, tmp_path):
    out = tmp_path / "between.png"
    main(["interpolate", checkpoints[prior.__name__], "--out", str(out), "--rows", "6", "--steps", "3"])
    model = lightning_gen.load(checkpoints[prior.__name__])
    generator = keyed_generator(0, "interpolate")
    start, end = model.draw_latents(12, generator=generator).view(6, 2, 4).unbind(1)
    middle = (start + end) / 2
    if prior is StandardNormal:  # of mean length, in the direction of the sum of directions
        direction = start / start.norm(dim=1, keepdim=True) + end / end.norm(dim=1, keepdim=True)
        length = (start.norm(dim=1, keepdim=True) + end.norm(dim=1, keepdim=True)) / 2
        middle = length * direction / direction.norm(dim=1, keepdim=True)
    shown = np.asarray(Image.open(out)).astype(int)

    def differing(middle: torch.Tensor) -> float:
        decoded = model.decode(torch.stack([start, middle, end], 1).flatten(0, 1))
        return float((shown != np.asarray(grid_picture(decoded, DIGITS, 3))).mean())

    assert differing(middle) < 1e-3  # where rounding has it otherwise
    assert differing(middle + 1) > 0.02


def test_colours_and_sampler_options(checkpoints, tmp_path):
    out = tmp_path / "between.PNG"
    main(["interpolate", checkpoints["colours"], "--out", str(out)])
    plain = np.asarray(Image.open(out)).astype(float)
    assert plain.shape[2] == 3
    main(["interpolate", checkpoints["colours"], "--out", str(out), "--sampler.temperature", "1e-6"])
    cold = np.asarray(Image.open(out)).astype(float)
    assert cold.shape == plain.shape
    rows = cold[1:].reshape(8, -1, *cold.shape[1:])  # without the border at the top
    assert np.abs(rows - rows[:1]).max() <= 1  # all rows are the mean image
    assert np.abs(cold - plain).max() > 50


def test_bad_interpolations(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, arguments, message in [
        ("digits", ["--steps", "1"], "--steps must be at least 2: a row shows both of its ends"),
        ("digits", ["--steps", "0"], "--steps: expected a whole number of at least 1"),
        ("digits", ["--rows", "none"], "--rows: expected a whole number of at least 1"),
        ("digits", ["--labels", "[1]"], "this GAN is not class-conditional: leave --labels out"),
        ("conditional", ["--labels", "[3, 10]"], "--labels 10: classes are 0 .. 9"),
        ("digits", ["--sampler.temprature", "1"], "LatentSampler has no option 'temprature': did you mean 'temperature'?"),
        ("digits", ["--out", "no/folder/x.png"], "--out no/folder/x.png: there is no folder no/folder"),
        ("digits", ["--out", "x.jpg"], "--out x.jpg: give a name that ends in .png"),
        ("digits", ["--out", "x"], "--out x: give a name that ends in .png"),
        ("blind", ["--trust", "test_latent_tools"], "Blind draws its images without latents: there is nothing to interpolate"),
        ("classifier", [], "holds a Classifier, which draws no images"),
    ]:  # fmt: skip
        out = [] if "--out" in arguments else ["--out", "x.png"]
        assert message in refused(capsys, "interpolate", checkpoints[name], *out, *arguments), arguments
        assert not any(tmp_path.iterdir()), arguments


# animate


@pytest.fixture
def run(tmp_path):
    """A run's folder with three grids, brighter from one to the next, beside other pictures."""
    folder = tmp_path / "version_0"
    (folder / "samples").mkdir(parents=True)
    for seen in (400, 1000, 20_000):  # names in another order than that of their letters
        levels = torch.full((4, *DIGITS.shape), {400: 0, 1000: 8, 20_000: 16}[seen], dtype=torch.uint8)
        grid_picture(levels, DIGITS).save(folder / "samples" / f"{seen}.png")
    grid_picture(levels[:1], DIGITS).save(folder / "samples" / "000000020000-neighbours.png")
    (folder / "samples" / "notes.txt").touch()
    return folder


def frames(file: Path) -> tuple[list[np.ndarray], list[int]]:
    """Return the pictures (grey) and how long each stays, in milliseconds."""
    pictures, durations = [], []
    with Image.open(file) as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(round(image.info["duration"]))
            pictures.append(np.asarray(image.convert("L")))
        assert image.info["loop"] == 0  # for ever
    return pictures, durations


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".GIF"])
def test_grids_are_joined_in_the_order_of_images_seen(run, tmp_path, capsys, suffix):
    out = tmp_path / f"run{suffix}"
    main(["animate", str(run), "--out", str(out), "--seconds", "3"])
    assert capsys.readouterr().err.strip() == f"3 pictures joined in {out}"
    pictures, durations = frames(out)
    assert [int(picture[24, 24]) for picture in pictures] == pytest.approx([0, 128, 255], abs=2)
    assert durations == [1000, 1000, 2000]  # the last one stays
    grid = Image.open(run / "samples" / "400.png")
    for picture in pictures:
        assert picture.shape == (grid.height + 16, grid.width)
        caption = picture[grid.height :]
        assert caption[:, -1].min() > 250  # black text on white
        assert caption.min() < 50
    assert not np.array_equal(pictures[0][grid.height :], pictures[1][grid.height :])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, "version_0"])


def test_a_run_that_was_evaluated_once_stands_still(run, tmp_path):
    for name in ("400.png", "1000.png"):
        (run / "samples" / name).unlink()
    main(["animate", str(run), "--out", str(tmp_path / "run.gif")])
    assert Image.open(tmp_path / "run.gif").n_frames == 1


def test_many_grids_are_shown_at_least_a_fiftieth_of_a_second_each(run, tmp_path):
    for seen in range(100):
        levels = torch.full((4, *DIGITS.shape), seen % 17, dtype=torch.uint8)
        grid_picture(levels, DIGITS).save(run / "samples" / f"{seen}.png")
    main(["animate", str(run), "--out", str(tmp_path / "run.gif"), "--seconds", "1"])
    pictures, durations = frames(tmp_path / "run.gif")
    assert len(pictures) == 103
    assert set(durations[:-1]) == {20}


def test_what_a_fit_leaves_can_be_animated(tmp_path):
    config = str(Path(__file__).parent / "conf" / "gan.yaml")
    options = ["--budget.images=960", "--evaluation.every=320", "--evaluation.neighbours=true", "--diagnostics.n=0"]
    main(["fit", "--config", config, f"--run.root={tmp_path}", *options])
    main(["animate", str(tmp_path / "gan" / "version_0"), "--out", str(tmp_path / "run.gif")])
    assert Image.open(tmp_path / "run.gif").n_frames == 3


def test_runs_of_other_settings_are_not_mixed(run, capsys, tmp_path):
    grid_picture(torch.zeros(9, *DIGITS.shape, dtype=torch.uint8), DIGITS).save(run / "samples" / "500.png")
    line = refused(capsys, "animate", str(run), "--out", str(tmp_path / "run.gif"))
    assert "samples: the grids differ in size" in line


def test_a_broken_grid_is_named(run, capsys, tmp_path):
    whole = (run / "samples" / "1000.png").read_bytes()
    for content in (b"", b"no picture", whole[: len(whole) // 2]):
        (run / "samples" / "1000.png").write_bytes(content)
        line = refused(capsys, "animate", str(run), "--out", str(tmp_path / "run.gif"))
        assert line.endswith("samples/1000.png: is not a readable picture: remove it")
    assert not (tmp_path / "run.gif").exists()


def test_bad_animations(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        (["nowhere", "--out", "x.gif"], "nowhere: no such folder: give that of a run, such as runs/quickstart/version_0"),
        (["empty", "--out", "x.gif"], "empty: no sample grids in samples/: give the folder of a run with grid.n above 0"),
        (["version_0", "--out", "x.mp4"], "--out x.mp4: give a name that ends in .gif, .webp or .png"),
        (["version_0", "--out", "x"], "--out x: give a name that ends in .gif, .webp or .png"),
        (["version_0", "--out", "no/x.gif"], "--out no/x.gif: there is no folder no"),
        (["version_0", "--out", "x.gif", "--seconds", "0"], "--seconds: expected a whole number of at least 1"),
        (["version_0"], "--out: is required"),
        (["version_0", "--out", "x.gif", "--fps", "3"], "--fps: no such option"),
    ]:  # fmt: skip
        assert message in refused(capsys, "animate", *arguments), arguments
        assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "version_0"], arguments


def test_pixels_of_a_grid_are_those_of_its_images():
    """What the tests above rely on."""
    levels = torch.randint(17, (1, *DIGITS.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    sheet = np.asarray(grid_picture(levels, DIGITS))
    assert np.array_equal(sheet[2:50, 2:50][3::6, 3::6], to_pixels(levels, DIGITS)[0, ..., 0])
