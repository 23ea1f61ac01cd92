"""Warped digits: pixels against scipy, factors against moments of the ink, and parts that are a grid cut in three."""

import itertools
import pickle
import re

import numpy as np
import pytest
from refusals import refusal
from scipy.ndimage import affine_transform

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, WarpedDigits
from lightning_gen.data.warped_digits import FACTORS, HELD_OUT, warp


def of_all_parts(source):
    """Levels (N, 16, 16) and factors (N, 4) of the parts together."""
    return (
        np.concatenate([source.load(part).levels[:, 0] for part in source.parts]),
        np.concatenate([source.factors(part) for part in source.parts]),
    )


def test_pixels_are_those_of_scipy():
    source = WarpedDigits(digit=5, values=3)
    train = Digits().load("train")
    picture = np.pad(train.levels[train.labels == 5][0, 0].astype(np.float64), 10)
    levels, factors = source.load("val").levels[:, 0], source.factors("val")
    for image, places in zip(levels, factors, strict=True):
        x, y, scale, slant = (
            np.linspace(*ends, 3)[place] for ends, place in zip(FACTORS.values(), places, strict=True)
        )
        inverse = np.linalg.inv(scale * np.array([[1.0, 0.0], [-slant, 1.0]]))  # (row, column)
        offset = (np.array(picture.shape) - 1) / 2 - inverse @ np.array([7.5 + y, 7.5 + x])
        expected = affine_transform(picture, inverse, offset, (16, 16), order=1, mode="constant")
        assert np.abs(image - expected).max() <= 0.5 + 1e-9


def test_the_picture_itself_stands_in_the_middle():
    picture = Digits().load("train").levels[:1, 0]
    still = np.zeros(1)
    expected = np.zeros((16, 16))
    expected[4:12, 4:12] = picture[0]
    np.testing.assert_array_equal(warp(picture, still, still, still + 1, still)[0], expected)
    moved = warp(picture, still + 2, still - 3, still + 1, still)[0]
    np.testing.assert_array_equal(moved, np.roll(expected, (-3, 2), (0, 1)))


def test_factors_are_where_the_ink_is():
    levels, factors = of_all_parts(WarpedDigits(values=4))
    place = np.arange(16) - 7.5
    ink = levels.sum((1, 2))
    row, column = (levels.sum(2) @ place) / ink, (levels.sum(1) @ place) / ink
    height, width = (place[:, None] - row).T, (place[:, None] - column).T
    rows, both = ((levels.sum(2) * height**2).sum(1)) / ink, np.einsum("nij,ni,nj->n", levels, height, width) / ink
    # Half a pixel beyond rounding: what is cut off at the edge, and smeared by interpolation.
    for found, factor in ((column, 0), (row, 1)):
        means = np.array([found[factors[:, factor] == value].mean() for value in range(4)])
        np.testing.assert_allclose(np.diff(means), 5 / 3, atol=0.2)
    sizes = np.array([np.sqrt(rows[factors[:, 2] == value].mean()) for value in range(4)])
    np.testing.assert_allclose(sizes / sizes[0], np.linspace(0.8, 1.3, 4) / 0.8, rtol=0.05)
    slants = np.array([(both / rows)[factors[:, 3] == value].mean() for value in range(4)])
    np.testing.assert_allclose(np.diff(slants), -0.4, atol=0.1)


def test_parts_are_a_whole_grid_cut_in_three():
    source = WarpedDigits(values=4, writings=3)
    sizes = {part: len(source.load(part).levels) for part in source.parts}
    total = 3 * 4**4
    assert sizes == {"val": total * HELD_OUT["val"], "test": total * HELD_OUT["test"], "train": total * 5 / 8}
    levels, factors = of_all_parts(source)
    assert source.factor_names == ("x", "y", "scale", "slant")
    assert factors.dtype == np.int64
    rows, counts = np.unique(factors, axis=0, return_counts=True)
    assert [tuple(row) for row in rows.tolist()] == list(itertools.product(range(4), repeat=4))
    assert set(counts) == {3}, "each combination once of each writing"
    assert len({image.tobytes() for image in levels}) > 0.99 * total
    held_out = {image.tobytes() for image in source.load("test").levels}
    assert not held_out & {image.tobytes() for image in source.load("train").levels}


def test_images_depend_on_the_arguments_alone():
    own = WarpedDigits(values=3).fingerprint("val")
    np.random.default_rng(3).random(10)
    assert WarpedDigits(3, 3, 1).fingerprint("val") == own
    assert pickle.loads(pickle.dumps(WarpedDigits(values=3))).fingerprint("val") == own
    others = [WarpedDigits(4, 3), WarpedDigits(values=4), WarpedDigits(values=3, writings=2)]
    assert len({own, *(other.fingerprint("val") for other in others)}) == 4
    assert WarpedDigits().spec == ImageSpec(1, 16, 16, levels=17)


def test_numbers_out_of_range_are_refused_at_construction():
    for arguments, problem in [
        ({"digit": 10}, "digit must be a whole number of 0 to 9, got 10"),
        ({"digit": True}, "got True"),
        ({"values": 1}, "values must be a whole number of 2 to 16, got 1"),
        ({"values": 4.0}, "got 4.0"),
        ({"writings": 0}, "writings must be a whole number of 1 to 50, got 0"),
    ]:
        assert re.search(f"^WarpedDigits..*{problem}", refusal(WarpedDigits, **arguments)), arguments


def test_an_unknown_part_has_no_factors():
    with pytest.raises(InputError, match="WarpedDigits has no part 'all': choose one of train, val, test"):
        WarpedDigits().factors("all")


def test_every_class_has_that_many_writings():
    assert np.bincount(Digits().load("train").labels).min() >= 50
