"""Held-out images stay held out: what a checkpoint knows of its training images, and what is refused because of it."""

import numpy as np
import pytest
import torch

from lightning_gen.core import ImageSpec, InputError
from lightning_gen.data import ImageDataModule, Images, Source
from lightning_gen.data.source import hashes_of


class Parts(Source):
    """Parts given by the levels of 1 x 1 images."""

    name = "parts"
    classes = ("a", "b")

    def __init__(self, train, val=(200, 201), classes=("a", "b")):
        self.given = {"train": train, "val": val, "test": (210, 211)}
        self.spec = ImageSpec(1, 1, 1, num_classes=2)
        self.classes = classes

    def read(self, part):
        levels = np.array(self.given[part], np.uint8)[:, None, None, None]
        return Images(levels, np.arange(len(levels)) % 2)


def after(state, *arguments, **options):
    data = ImageDataModule(Parts(*arguments, **options))
    data.load_state_dict(state)
    return data


STATE = ImageDataModule(Parts(range(10))).state_dict()


def test_a_hash_is_of_one_image():
    levels = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), np.uint8)
    levels[4] = levels[1]
    hashes = hashes_of(levels)
    assert hashes.dtype == np.uint64
    assert hashes[4] == hashes[1]
    assert len(set(hashes.tolist())) == 5
    order = [3, 0, 5, 1]
    assert np.array_equal(hashes_of(levels[order]), hashes[order])


def test_a_state_is_plain_data_and_tensors():
    assert STATE["images"] == {"train": 10, "val": 2}
    assert STATE["classes"] == ["a", "b"]
    assert STATE["trained_on"].dtype == torch.int64
    assert len(STATE["trained_on"]) == 10


def test_equal_data_are_taken_in_any_order():
    data = after(STATE, range(9, -1, -1))
    assert data.changes() is None
    assert data.images("val").levels.ravel().tolist() == [200, 201]


def test_what_changed_is_said():
    data = after(STATE, range(3, 11))
    assert data.changes() == "the training images are not those of the checkpoint: 1 are new, 3 are gone"
    data.images("val")


def test_held_out_images_that_were_trained_on_are_refused():
    data = after(STATE, range(9), val=(9, 200, 201, 202))
    with pytest.raises(InputError, match="this checkpoint was trained on 1 of the 4 images of the val part"):
        data.images("val")
    data.images("test")
    data.images("train")


def test_a_duplicate_in_the_data_is_no_image_that_changed_its_part():
    assert len(after(STATE, range(10), val=(9, 200)).images("val").levels) == 2


def test_images_that_were_trained_on_once_are_remembered():
    second = after(STATE, range(5, 15)).state_dict()
    assert len(second["trained_on"]) == 15
    with pytest.raises(InputError, match="trained on 2 of the 2 images"):
        after(second, range(5, 15), val=(0, 1)).images("val")


@pytest.mark.parametrize(
    ("classes", "message"),
    [(("b", "a"), "class 0 was a when .* and is b: name"), (("a", "b", "c"), "class 2 was None when .* and is c")],
)
def test_other_classes_are_refused(classes, message):
    with pytest.raises(InputError, match=message):
        after(STATE, range(10), classes=classes)
