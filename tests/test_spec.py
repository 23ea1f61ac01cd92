"""ImageSpec: levels to unit values and back, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec


def spec_with(levels: int) -> ImageSpec:
    return ImageSpec(channels=1, height=1, width=1, levels=levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_comes_back_exactly(dtype):
    for count in (2, 3, 17, 255, 256, 257, 1024, 2**15):
        spec = spec_with(count)
        levels = torch.arange(count).to(spec.dtype).reshape(-1, 1, 1, 1)
        unit = spec.to_unit(levels, dtype)
        assert unit.dtype == dtype
        assert unit.shape == levels.shape
        back = spec.to_levels(unit)
        assert back.dtype == (torch.uint8 if count <= 256 else torch.int16)
        assert torch.equal(back, levels), count


def test_unit_values_are_evenly_spaced_from_minus_one_to_one():
    for count in (2, 17, 256):
        unit = spec_with(count).to_unit(torch.arange(count).to(torch.uint8), torch.float64)
        np.testing.assert_allclose(unit.numpy(), np.linspace(-1, 1, count), atol=1e-15)


def test_to_levels_takes_the_nearest_level_and_clamps():
    for count in (2, 17, 256):
        unit = torch.linspace(-1.5, 1.5, 4001)
        grid = np.linspace(-1, 1, count)
        nearest = np.abs(unit.numpy()[:, None].astype(np.float64) - grid).argmin(1)
        at_a_border = np.abs((unit.numpy().astype(np.float64) + 1) * (count - 1) / 2 % 1 - 0.5) < 1e-4
        assert at_a_border.mean() < 0.2, count
        found = spec_with(count).to_levels(unit).numpy()
        np.testing.assert_array_equal(found[~at_a_border], nearest[~at_a_border])


def test_neither_direction_changes_its_input():
    spec = spec_with(17)
    levels, unit = torch.arange(17).to(torch.uint8), torch.linspace(-2, 2, 9)
    kept_levels, kept_unit = levels.clone(), unit.clone()
    spec.to_unit(levels)
    spec.to_levels(unit)
    assert torch.equal(levels, kept_levels)
    assert torch.equal(unit, kept_unit)


def test_derived_sizes_and_plain_data():
    spec = ImageSpec(channels=3, height=4, width=5, levels=17, num_classes=10)
    assert spec.shape == (3, 4, 5)
    assert spec.dims == 60
    assert spec.as_dict() == {"channels": 3, "height": 4, "width": 5, "levels": 17, "num_classes": 10}
    assert ImageSpec.of(spec.as_dict()) == spec
    assert ImageSpec.of(spec) is spec
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.levels = 5


def test_impossible_specs_are_refused_by_name():
    for changed, message in [
        ({"channels": 0}, "ImageSpec.channels must be an integer of at least 1, got 0"),
        ({"height": -3}, "ImageSpec.height must be an integer of at least 1, got -3"),
        ({"width": 2.0}, "ImageSpec.width must be an integer of at least 1, got 2.0"),
        ({"width": True}, "ImageSpec.width must be an integer of at least 1, got True"),
        ({"levels": 1}, "ImageSpec.levels must be an integer of at least 2, got 1"),
        ({"levels": 2**15 + 1}, "ImageSpec.levels must be at most 32768, got 32769"),
        ({"num_classes": -1}, "ImageSpec.num_classes must be an integer of at least 0, got -1"),
    ]:
        with pytest.raises(InputError, match=message):
            ImageSpec(**{"channels": 1, "height": 8, "width": 8, **changed})


def test_check_names_what_is_wrong():
    for levels, message in [
        (torch.zeros(2, 1, 8, 8), "pictures: expected levels of dtype uint8, got torch.float32"),
        (torch.zeros(2, 1, 8, 9, dtype=torch.uint8), r"pictures: expected shape \(B, 1, 8, 8\), got \(2, 1, 8, 9\)"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"pictures: expected shape \(B, 1, 8, 8\), got \(1, 8, 8\)"),
        (torch.full((2, 1, 8, 8), 17, dtype=torch.uint8), "pictures: level 17 is outside 0 .. 16"),
    ]:
        with pytest.raises(InputError, match=message):
            ImageSpec(1, 8, 8, levels=17).check(levels, "pictures")


def test_check_returns_what_fits():
    spec = ImageSpec(1, 8, 8, levels=17)
    for levels in (torch.full((2, 1, 8, 8), 16, dtype=torch.uint8), torch.empty(0, 1, 8, 8, dtype=torch.uint8)):
        assert spec.check(levels) is levels
