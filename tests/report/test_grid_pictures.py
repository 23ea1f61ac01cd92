"""Grids on the page: not one pixel is lost where they are small, equal ones are stored once, damaged ones are named."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lightning_gen.core.spec import ImageSpec
from lightning_gen.evaluation import grid_picture
from lightning_gen.report.pictures import LARGEST, find_grids, find_others, read_picture, shrink, spread


def decoded(picture):
    return Image.open(io.BytesIO(base64.b64decode(picture.data.partition(",")[2])))


@pytest.mark.parametrize(
    ("spec", "n", "columns"),
    [
        (ImageSpec(1, 8, 8, levels=17, num_classes=10), 64, 10),
        (ImageSpec(1, 28, 28), 20, None),
        (ImageSpec(3, 16, 24), 6, 3),
        (ImageSpec(3, 64, 64), 4, None),
    ],
)
def test_enlarged_grids_shrink_to_their_own_pixels(spec, n, columns, generator):
    import torch

    levels = torch.randint(spec.levels, (n, *spec.shape), generator=generator).to(torch.uint8)
    sheet = np.asarray(grid_picture(levels, spec, columns))
    once = np.asarray(grid_picture(levels, spec, columns, smallest=1))  # never enlarged
    np.testing.assert_array_equal(shrink(sheet), once)


def test_a_picture_that_is_no_grid_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(256, size=(50, 61, 3), dtype=np.uint8)
    np.testing.assert_array_equal(shrink(pixels), pixels)
    assert shrink(np.full((40, 40), 128, np.uint8)).size > 0


def test_small_grids_are_stored_without_loss_and_equal_ones_have_one_key(make_grid, tmp_path):
    make_grid(1).save(tmp_path / "a.png")
    make_grid(1).save(tmp_path / "b.png", compress_level=0)
    make_grid(2).save(tmp_path / "c.png")
    a, b, c = (read_picture(tmp_path / f"{name}.png") for name in "abc")
    assert a == b
    assert a.key != c.key
    pixels = np.asarray(decoded(a).convert("L"))
    np.testing.assert_array_equal(pixels, np.asarray(make_grid(1, factor=1)))
    assert (a.width, a.height) == (73, 73)


def test_large_pictures_are_bounded(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(900, 1800, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    picture = read_picture(tmp_path / "large.png")
    assert (picture.width, picture.height) == (LARGEST, LARGEST // 2)
    assert decoded(picture).size == (picture.width, picture.height)


def test_every_mode_of_png_can_be_shown(tmp_path):
    for mode in ("1", "L", "P", "RGB", "RGBA", "I;16"):
        Image.new(mode, (20, 10)).save(tmp_path / "a.png")
        assert decoded(read_picture(tmp_path / "a.png")).size[0] > 0, mode


def test_a_damaged_file_is_called_so(make_grid, tmp_path):
    make_grid().save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for keep in (0, 1, 8, 30, 200, len(content) // 2, int(0.95 * len(content))):
        (tmp_path / "a.png").write_bytes(content[:keep])
        with pytest.raises(ValueError, match="not a readable picture"):
            read_picture(tmp_path / "a.png")


def test_only_files_named_by_images_seen_are_grids(make_grid, tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("000000000200", "000000000100", "000000000200-neighbours", "best"):
        make_grid(rows=1, columns=1).save(tmp_path / "samples" / f"{name}.png")
    assert [(seen, file.name) for seen, file in find_grids(tmp_path)] == [
        (100, "000000000100.png"),
        (200, "000000000200.png"),
    ]


def test_fewer_grids_are_spread_over_training():
    grids = [(seen, None) for seen in range(100)]
    assert [seen for seen, _ in spread(grids, 4)] == [0, 33, 66, 99]
    assert [seen for seen, _ in spread(grids, 1)] == [99]
    assert spread(grids[:3], 5) == grids[:3]


def test_of_other_pictures_the_newest_of_each_kind_is_found(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("000000000010-neighbours", "000000000200-neighbours", "000000000030-x_y", "000000000200", "10-", "-a"):
        (tmp_path / "samples" / f"{name}.png").touch()
    assert {name: (seen, file.name) for name, (seen, file) in find_others(tmp_path).items()} == {
        "neighbours": (200, "000000000200-neighbours.png"),
        "x_y": (30, "000000000030-x_y.png"),
    }
    assert find_others(tmp_path / "nowhere") == {}
