"""Random changes of training images."""

import re

import numpy as np
import pytest
import torch
from refusals import refusal

from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import ONE_RANK, Draws, keyed_generator
from lightning_gen.core.ranks import Ranks
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import HorizontalFlip, RandomShift


def drawn(seed, position, n, ranks=ONE_RANK, purpose="augment"):
    return Draws(keyed_generator(seed, purpose, position), n, ranks)


def images(batch=40, channels=3, height=6, width=9):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 200, (batch, channels, height, width), np.uint8))


def test_the_flip_equals_a_loop_over_images():
    levels = images()
    mirrored = drawn(1, 64, len(levels)).uniform(1)[:, 0] < 0.5
    expected = torch.stack([x.flip(-1) if m else x for x, m in zip(levels, mirrored, strict=True)])
    assert torch.equal(HorizontalFlip()(levels, drawn(1, 64, len(levels))), expected)
    assert 5 < mirrored.sum() < 35
    assert torch.equal(HorizontalFlip(0.0)(levels, drawn(1, 64, 40)), levels)
    assert torch.equal(HorizontalFlip(1.0)(levels, drawn(1, 64, 40)), levels.flip(-1))


def test_the_shift_equals_a_loop_over_images():
    levels = images()
    for pixels, fill in [(0, 0), (1, 0), (2, 7), (5, 255)]:
        moves = (drawn(1, 64, len(levels)).uniform(2) * (2 * pixels + 1)).long() - pixels
        expected = torch.full_like(levels, fill)
        for result, image, (down, right) in zip(expected, levels, moves.tolist(), strict=True):
            for y in range(image.shape[1]):
                for x in range(image.shape[2]):
                    if 0 <= y + down < image.shape[1] and 0 <= x + right < image.shape[2]:
                        result[:, y, x] = image[:, y + down, x + right]
        before = levels.clone()
        assert torch.equal(RandomShift(pixels, fill)(levels, drawn(1, 64, len(levels))), expected), pixels
        assert torch.equal(levels, before)


def test_every_move_is_equally_likely():
    levels = torch.zeros(9000, 1, 5, 5, dtype=torch.uint8)
    levels[:, :, 2, 2] = 1
    moved = RandomShift(1)(levels, drawn(0, 0, 9000))
    counts = moved.long().sum(0)[0, 1:4, 1:4]
    assert counts.sum() == 9000
    assert (counts - 1000).abs().max() < 150


@pytest.mark.parametrize("augmentation", [HorizontalFlip(), RandomShift(2)])
def test_ranks_together_draw_what_one_draws_alone(augmentation):
    levels = images(40)
    alone = augmentation(levels, drawn(3, 128, 40))
    shares = [augmentation(levels[r * 20 : (r + 1) * 20], drawn(3, 128, 20, Ranks(r, 2))) for r in range(2)]
    assert torch.equal(torch.cat(shares), alone)


def test_a_draw_depends_on_seed_position_purpose_and_nothing_else():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    draws = [
        drawn(*key, 8, purpose=p).uniform(2) for key, p in [((0, 0), "a"), ((0, 8), "a"), ((1, 0), "a"), ((0, 0), "b")]
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn(0, 0, 8, purpose="a").uniform(2), draws[0])
    assert all(not torch.equal(draws[0], other) for other in draws[1:])
    twice = drawn(0, 0, 8)
    assert not torch.equal(twice.uniform(2), twice.uniform(2))


def test_a_wrong_probability_is_named():
    for wrong in [-0.1, 1.5]:
        assert re.search(
            rf"HorizontalFlip\.p must be a probability between 0 and 1, got {wrong}", refusal(HorizontalFlip, wrong)
        ), wrong


def test_a_wrong_shift_is_named():
    with pytest.raises(InputError, match=r"RandomShift\.pixels must be at least 0, got -1"):
        RandomShift(-1)
    with pytest.raises(InputError, match=r"RandomShift\.fill must be a level between 0 and 255, got 256"):
        RandomShift(fill=256)
    digits = ImageSpec(1, 8, 8, levels=17)
    with pytest.raises(InputError, match=r"RandomShift\.pixels must be below the image's 8 x 8 pixels, got 8"):
        RandomShift(8).check(digits)
    with pytest.raises(InputError, match=r"RandomShift\.fill must be a level 0 \.\. 16, got 17"):
        RandomShift(fill=17).check(digits)
