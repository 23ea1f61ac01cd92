"""What the critic sees: every change against a loop in NumPy or SciPy, equal draws, ranks, and ADA's controller."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from lightning_gen.draw import Draw
from lightning_gen.errors import InputError
from lightning_gen.objectives import ADA, CriticAugmentation, DiffAugment
from lightning_gen.objectives.augmentation import COLOUR, GEOMETRY
from lightning_gen.spec import ImageSpec

EVERYTHING = GEOMETRY + COLOUR


def unit_images(*shape, generator, dtype=torch.float64):
    return torch.rand(*shape, dtype=dtype, generator=generator) * 2 - 1


def draw_of(images, position=0):
    return Draw(0, position, len(images))


def always(*operations):
    """ADA that applies its operations to every image."""
    return ADA(target=None, initial=1.0, operations=operations or EVERYTHING)


AUGMENTATIONS = {
    "colour": lambda: DiffAugment(policy=("colour",)),
    "translation": lambda: DiffAugment(policy=("translation",)),
    "cutout": lambda: DiffAugment(policy=("cutout",)),
    "diffaugment": lambda: DiffAugment(),
    "ada": lambda: always(),
    "ada_half": lambda: ADA(target=None, initial=0.5),
}
each_augmentation = pytest.mark.parametrize("make", AUGMENTATIONS.values(), ids=AUGMENTATIONS)


# --- what all have in common --------------------------------------------------------------------------------------


@each_augmentation
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 10)])
def test_equal_draws_give_equal_changes_and_others_others(make, shape, generator):
    augmentation, images = make(), unit_images(7, *shape, generator=generator)
    kept = images.clone()
    once = augmentation(images, draw_of(images))
    assert torch.equal(once, augmentation(images, draw_of(images)))
    assert not torch.equal(once, augmentation(images, draw_of(images, position=64)))
    assert torch.equal(images, kept)
    assert once.shape == images.shape


@each_augmentation
def test_images_do_not_decide_how_many_numbers_are_drawn(make, generator):
    augmentation, images = make(), unit_images(7, 1, 8, 8, generator=generator)
    draws = [draw_of(images) for _ in range(3)]
    for draw, content in zip(draws, (images, -images, torch.zeros_like(images)), strict=True):
        augmentation(content, draw)
    following = [draw.uniform(1) for draw in draws]
    assert torch.equal(following[0], following[1])
    assert torch.equal(following[0], following[2])


@each_augmentation
def test_ranks_change_their_images_as_one_process_would(make, generator):
    augmentation, images = make(), unit_images(12, 3, 8, 8, generator=generator)
    whole = augmentation(images, Draw(5, 64, 12))
    parts = [augmentation(images[4 * r : 4 * r + 4], Draw(5, 64, 4, r, 3)) for r in range(3)]
    assert torch.equal(torch.cat(parts), whole)


@each_augmentation
def test_images_do_not_see_each_other(make, generator):
    augmentation, images = make(), unit_images(5, 1, 8, 8, generator=generator)
    others = unit_images(5, 1, 8, 8, generator=generator)
    others[2] = images[2]
    torch.testing.assert_close(
        augmentation(images, draw_of(images))[2], augmentation(others, draw_of(images))[2], rtol=0, atol=0
    )


@each_augmentation
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_in_the_images_against_finite_differences(make, channels, generator):
    augmentation, images = make(), unit_images(3, channels, 4, 4, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augmentation(x, draw_of(x)), images)


@each_augmentation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_are_kept_and_autocast_changes_no_place(make, dtype, generator):
    augmentation, exact = make(), unit_images(6, 3, 16, 16, generator=generator)
    images = exact.to(dtype)
    plain = augmentation(images, draw_of(images))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augmentation(images, draw_of(images))
    assert plain.dtype == inside.dtype == dtype
    assert torch.equal(plain, inside)
    reference = augmentation(images.double(), draw_of(images))
    torch.testing.assert_close(plain.double(), reference, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 2e-4)


def test_the_base_observes_nothing_and_has_no_strength():
    with pytest.raises(TypeError):
        CriticAugmentation()
    augmentation = DiffAugment()
    augmentation.observe(torch.zeros(3), 3, lambda value: value)
    assert augmentation.strength is None
    assert not list(augmentation.buffers())


# --- DiffAugment --------------------------------------------------------------------------------------------------


def test_colour_is_its_formula(generator):
    images = unit_images(20, 3, 4, 5, generator=generator)
    numbers = draw_of(images).uniform(3).double().numpy()
    expected = []
    for x, (b, s, c) in zip(images.numpy(), numpy_rows(numbers), strict=True):
        x = x + b - 0.5
        x = (x - x.mean(0)) * 2 * s + x.mean(0)
        expected.append((x - x.mean()) * (c + 0.5) + x.mean())
    result = DiffAugment(policy=("colour",))(images, draw_of(images))
    np.testing.assert_allclose(result.numpy(), np.stack(expected), atol=1e-12)


def numpy_rows(numbers):
    return [tuple(row) for row in numbers]


def test_saturation_leaves_grey_images_alone(generator):
    images = unit_images(9, 1, 4, 4, generator=generator)
    results = [DiffAugment(policy=("colour",), saturation=s)(images, draw_of(images)) for s in (0.0, 1.0)]
    assert torch.equal(*results)


@pytest.mark.parametrize(("side", "share", "most"), [(8, 0.125, 1), (28, 0.125, 4), (12, 0.125, 2), (10, 0.3, 3)])
def test_translation_moves_by_whole_pixels_in_every_direction(side, share, most, generator):
    images = unit_images(400, 1, side, side + 2, generator=generator)
    result = DiffAugment(policy=("translation",), translation=share, fill=-0.25)(images, draw_of(images))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (most, most), (most + 3, most + 3)), constant_values=-0.25)
    across = int(share * (side + 2) + 0.5)
    seen = set()
    for changed, whole in zip(result.numpy(), padded, strict=True):
        found = [
            (down, right)
            for down in range(-most, most + 1)
            for right in range(-across, across + 1)
            if (
                changed[0] == whole[0, most - down : most - down + side, most + 3 - right : most + 3 - right + side + 2]
            ).all()
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 0.8 * (2 * most + 1) * (2 * across + 1)
    assert {down for down, _ in seen} == set(range(-most, most + 1))
    assert {right for _, right in seen} == set(range(-across, across + 1))


@pytest.mark.parametrize(("height", "width", "share"), [(8, 8, 0.5), (7, 10, 0.5), (9, 6, 0.34)])
def test_cutout_fills_a_rectangle_centred_in_the_image(height, width, share, generator):
    images = unit_images(500, 2, height, width, generator=generator)
    result = DiffAugment(policy=("cutout",), cutout=share, fill=-1.0)(images, draw_of(images))
    tall, wide = int(share * height + 0.5), int(share * width + 0.5)
    areas, tops = set(), set()
    for changed, image in zip(result.numpy(), images.numpy(), strict=True):
        hole = (changed == -1).all(0)
        assert (changed[:, ~hole] == image[:, ~hole]).all()
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert hole.sum() == len(rows) * len(columns)
        # Cut at the image's edges, but never more than half of it.
        assert tall // 2 <= len(rows) <= tall
        assert wide // 2 <= len(columns) <= wide
        areas.add((len(rows), len(columns)))
        tops.add(rows[0])
    assert (tall, wide) in areas
    assert min(tops) == 0
    assert max(tops) == height - tall // 2 - tall % 2


def test_the_policy_is_followed_in_its_order(generator):
    images = unit_images(9, 1, 8, 8, generator=generator)
    both, draw = DiffAugment(policy=("cutout", "colour")), draw_of(images)
    one_by_one = DiffAugment(policy=("colour",))(DiffAugment(policy=("cutout",))(images, draw), draw)
    assert torch.equal(both(images, draw_of(images)), one_by_one)
    assert not torch.equal(one_by_one, DiffAugment(policy=("colour", "cutout"))(images, draw_of(images)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": ("color",)}, "policy must be among colour, translation, cutout, got 'color'"),
        ({"policy": ()}, "policy must list some of colour, translation, cutout"),
        ({"policy": "colour"}, "policy must list some of colour, translation, cutout, got 'colour'"),
        ({"policy": ("cutout", "cutout")}, "policy must name each only once"),
        ({"brightness": -0.1}, "brightness must be 0 to 2, got -0.1"),
        ({"saturation": 1.1}, "saturation must be 0 to 1, got 1.1"),
        ({"contrast": float("nan")}, "contrast must be 0 to 1, got nan"),
        ({"fill": -1.5}, "fill must be -1 to 1, got -1.5"),
        ({"translation": 0}, "translation must be a share of the side above 0 and below 1, got 0"),
        ({"cutout": 1.0}, "cutout must be a share of the side above 0 and below 1, got 1.0"),
    ],
)
def test_bad_arguments_of_diffaugment_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=f"^DiffAugment: {message}"):
        DiffAugment(**arguments)


def test_changes_below_one_pixel_are_refused():
    DiffAugment().check(ImageSpec(1, 8, 8))
    with pytest.raises(InputError, match=r"^DiffAugment: translation 0.125 is less than a pixel of 3x2 images"):
        DiffAugment().check(ImageSpec(1, 3, 2))
    DiffAugment(policy=("colour",)).check(ImageSpec(1, 3, 2))


# --- ADA's operations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_ada_at_zero_changes_no_bit(dtype, channels, generator):
    images = unit_images(20, channels, 7, 9, generator=generator, dtype=torch.float64).to(dtype)
    assert torch.equal(ADA()(images, draw_of(images)), images)


@pytest.mark.parametrize("operation", EVERYTHING)
def test_every_operation_changes_images_at_one(operation, generator):
    images = unit_images(40, 3, 8, 8, generator=generator)
    changed = (always(operation)(images, draw_of(images)) != images).flatten(1).any(1).double().mean()
    chance = {"flip": 1 / 2, "luma_flip": 1 / 2, "rotate90": 3 / 4, "translate": 3 / 4}.get(operation, 1)
    assert float(changed) == pytest.approx(chance, abs=0.2 if chance < 1 else 0)


@pytest.mark.parametrize("operation", ["hue", "saturation"])
def test_operations_on_colours_leave_grey_images_alone(operation, generator):
    images = unit_images(9, 1, 4, 4, generator=generator)
    assert torch.equal(always(operation)(images, draw_of(images)), images)


@pytest.mark.parametrize("p", [0.2, 0.7])
@pytest.mark.parametrize("operation", ["scale", "rotate", "brightness"])
def test_operations_fall_on_the_share_p_of_images(operation, p, generator):
    images = unit_images(3000, 1, 4, 4, generator=generator)
    augmentation = ADA(target=None, initial=p, operations=(operation,))
    changed = (augmentation(images, draw_of(images)) != images).flatten(1).any(1).double().mean()
    assert float(changed) == pytest.approx(p, abs=0.03)


def test_flips_and_quarter_turns_are_exact_and_all_occur(generator):
    images = unit_images(60, 2, 6, 6, generator=generator)
    for operation, candidates in (
        ("flip", [lambda x: x, lambda x: x[..., ::-1]]),
        ("rotate90", [lambda x, k=k: np.rot90(x, k, (1, 2)) for k in range(4)]),
    ):
        result = always(operation)(images, draw_of(images)).numpy()
        seen = []
        for changed, image in zip(result, images.numpy(), strict=True):
            close = [np.allclose(changed, f(image), atol=1e-6) for f in candidates]
            assert sum(close) == 1
            seen.append(close.index(True))
        assert set(seen) == set(range(len(candidates)))


def test_translation_reflects_at_the_edges(generator):
    images = unit_images(60, 1, 16, 24, generator=generator)
    result = always("translate")(images, draw_of(images)).numpy()
    seen = set()
    for changed, image in zip(result, images.numpy(), strict=True):
        padded = np.pad(image[0], ((2, 2), (3, 3)), mode="symmetric")
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-3, 4)
            if np.allclose(changed[0], padded[2 - down : 18 - down, 3 - right : 27 - right], atol=1e-5)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {down for down, _ in seen} == {-2, -1, 0, 1, 2}
    assert {right for _, right in seen} == {-3, -2, -1, 0, 1, 2, 3}


def affine(matrix=((1, 0), (0, 1)), move=(0, 0)):
    return np.block([[np.array(matrix, float), np.array(move, float)[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


def turn(angle):
    return affine([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def test_geometry_is_the_composition_of_its_operations_in_order(generator):
    height, width, count = 9, 12, 40
    images = unit_images(count, 1, height, width, generator=generator)
    result = always(*GEOMETRY)(images, draw_of(images)).numpy()
    draw = draw_of(images)
    uniform, normal = draw.uniform(21).double().numpy(), draw.normal(7).double().numpy()
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    for image, changed, u, n in zip(images.numpy(), result, uniform, normal, strict=True):
        s = 2 * u - 1
        steps = [  # of (right, down), in pixels from the centre
            affine([[1 if u[1] < 0.5 else -1, 0], [0, 1]]),
            turn(math.pi / 2 * math.floor(4 * u[3])),
            affine(move=(round(s[5] * width / 8), round(s[6] * height / 8))),
            affine(np.eye(2) * 2 ** (0.2 * n[0])),
            turn(math.pi * s[9]),
            affine([[2 ** (0.2 * n[1]), 0], [0, 2 ** (-0.2 * n[1])]]),
            turn(math.pi * s[12]),
            affine(move=(n[2] * width / 8, n[3] * height / 8)),
        ]
        forward = np.eye(3)
        for step in steps:
            forward = step @ forward
        inverse = np.linalg.inv(forward)
        rows = inverse[[1, 0]][:, [1, 0]]  # scipy counts (down, right)
        offset = centre - rows @ centre + inverse[[1, 0], 2]
        expected = ndimage.affine_transform(image[0], rows, offset, order=1, mode="reflect")
        np.testing.assert_allclose(changed[0], expected, atol=1e-4)


def test_colours_are_the_composition_of_their_matrices_in_order(generator):
    images = unit_images(30, 3, 2, 2, generator=generator)
    draw = draw_of(images)
    uniform, normal = draw.uniform(21).double().numpy(), draw.normal(7).double().numpy()
    grey = np.ones(3) / math.sqrt(3)
    of_grey = np.outer(grey, grey)
    result = always(*COLOUR)(images, draw_of(images)).numpy()
    for image, changed, u, n in zip(images.numpy(), result, uniform, normal, strict=True):
        angle = math.pi * (2 * u[19] - 1)
        cross = np.cross(np.eye(3), -grey).T  # cross @ x = x's cross product with -grey = grey x x
        rotation = of_grey + math.cos(angle) * (np.eye(3) - of_grey) + math.sin(angle) * cross
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        pixels = image.reshape(3, -1) + 0.2 * n[4]
        pixels = 2 ** (0.5 * n[5]) * pixels
        pixels = pixels - 2 * math.floor(2 * u[17]) * of_grey @ pixels
        pixels = rotation @ pixels
        pixels = (of_grey + (np.eye(3) - of_grey) * 2 ** n[6]) @ pixels
        np.testing.assert_allclose(changed.reshape(3, -1), pixels, atol=1e-5)


def test_a_grey_image_is_treated_like_an_rgb_image_without_colour(generator):
    images = unit_images(30, 1, 5, 5, generator=generator)
    as_grey = always()(images, draw_of(images))
    as_rgb = always()(images.expand(-1, 3, -1, -1), draw_of(images))
    torch.testing.assert_close(as_rgb, as_grey.expand(-1, 3, -1, -1), rtol=0, atol=1e-6)


def test_numbers_of_an_operation_do_not_depend_on_the_others_in_use(generator):
    images = unit_images(9, 3, 6, 6, generator=generator)
    together = always("flip", "saturation")(images, draw_of(images))
    in_turn = always("saturation")(always("flip")(images, draw_of(images)), draw_of(images))
    torch.testing.assert_close(together, in_turn)
    assert torch.equal(together, always("saturation", "flip")(images, draw_of(images)))


# --- ADA's controller ---------------------------------------------------------------------------------------------


def alone(value):
    return value


def test_p_follows_the_signs_both_ways():
    ada = ADA(target=0.6, adjust_images=1000, interval=2, initial=0.5)
    sure, unsure = torch.ones(10), torch.tensor([1.0] * 7 + [-1.0] * 3)  # r_t = 1 and 0.4
    expected = 0.5
    for signs, direction in ((sure, 1), (unsure, -1), (unsure, -1), (sure, 1), (sure, 1)):
        ada.observe(5 * signs, 20, alone)
        assert float(ada.p) == pytest.approx(expected)  # only every second step
        ada.observe(0.1 * signs, 20, alone)
        expected += direction * 2 * 20 / 1000
        assert float(ada.p) == pytest.approx(expected)
    assert float(ada.strength) == pytest.approx(expected)


def test_p_looks_at_the_mean_over_the_interval():
    ada = ADA(target=0.5, adjust_images=100, interval=3, initial=0.5)
    for realness in (torch.ones(4), torch.ones(4), -torch.ones(4)):  # mean sign 1/3 < 1/2
        ada.observe(realness, 4, alone)
    assert float(ada.p) == pytest.approx(0.5 - 12 / 100)
    for realness in (torch.ones(4), torch.ones(4), torch.tensor([1.0, 1, 0, -1])):  # 3/4 > 1/2; 0 has no sign
        ada.observe(realness, 4, alone)
    assert float(ada.p) == pytest.approx(0.5)


def test_p_is_clamped_at_both_ends():
    ada = ADA(adjust_images=100, interval=1, maximum=0.8)
    for _ in range(10):
        ada.observe(torch.ones(5), 30, alone)
    assert float(ada.p) == pytest.approx(0.8)
    for _ in range(10):
        ada.observe(-torch.ones(5), 30, alone)
    assert float(ada.p) == 0


def test_without_target_p_stays():
    ada = ADA(target=None, initial=0.3, interval=1, adjust_images=1)
    ada.observe(torch.ones(5), 30, alone)
    assert float(ada.strength) == pytest.approx(0.3)


def test_ranks_agree_on_p():
    parts = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1]])  # mean sign 1/2
    together = torch.stack([part.sign().mean() for part in parts]).mean()
    ranks = [ADA(target=0.4, interval=1, adjust_images=100) for _ in parts]
    for ada, part in zip(ranks, parts, strict=True):
        ada.observe(part, 8, lambda value: together.to(value))
    one = ADA(target=0.4, interval=1, adjust_images=100)
    one.observe(parts.flatten(), 8, alone)
    assert float(ranks[0].p) == float(ranks[1].p) == float(one.p) > 0


def test_the_state_is_in_buffers_that_change_in_place():
    torch.manual_seed(3)
    steps = [torch.randn(6) + 0.5 for _ in range(9)]
    whole, first = (ADA(interval=4, adjust_images=200, initial=0.2) for _ in range(2))
    places = [buffer.data_ptr() for buffer in first.buffers()]
    for realness in steps:
        whole.observe(realness, 6, alone)
    for realness in steps[:6]:
        first.observe(realness, 6, alone)
    assert [buffer.data_ptr() for buffer in first.buffers()] == places
    resumed = ADA(interval=4, adjust_images=200, initial=0.2)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    for realness in steps[6:]:
        resumed.observe(realness, 6, alone)
    assert all(torch.equal(a, b) for a, b in zip(resumed.buffers(), whole.buffers(), strict=True))
    assert float(whole.p) != pytest.approx(0.2)


def test_a_reported_strength_does_not_change_later():
    ada = ADA(interval=1, adjust_images=100)
    before = ada.strength
    ada.observe(torch.ones(5), 50, alone)
    assert float(before) == 0 < float(ada.strength)


def test_p_moves_what_the_critic_sees(generator):
    images, ada = unit_images(50, 1, 8, 8, generator=generator), ADA(interval=1, adjust_images=100)
    assert torch.equal(ada(images, draw_of(images)), images)
    ada.observe(torch.ones(5), 100, alone)
    assert (ada(images, draw_of(images)) != images).flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operations": ("turn",)}, "operations must be among flip, rotate90, .*, got 'turn'"),
        ({"operations": ()}, "operations must list some of flip"),
        ({"operations": ("flip", "hue", "flip")}, "operations must name each only once, got flip, hue, flip"),
        ({"target": 1.5}, r"target must be -1 to 1 \(or null\), got 1.5"),
        ({"adjust_images": 0}, "adjust_images must be a positive integer, got 0"),
        ({"interval": 0.5}, "interval must be a positive integer, got 0.5"),
        ({"maximum": 1.2}, "maximum must be a probability between 0 and 1, got 1.2"),
        ({"initial": -0.1}, r"initial must be between 0 and maximum \(1.0\), got -0.1"),
        ({"initial": 0.9, "maximum": 0.8}, r"initial must be between 0 and maximum \(0.8\), got 0.9"),
    ],
)
def test_bad_arguments_of_ada_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=f"^ADA: {message}"):
        ADA(**arguments)


def test_colours_of_other_channels_are_refused():
    for channels in (1, 3):
        ADA().check(ImageSpec(channels, 8, 8))
    with pytest.raises(InputError, match=r"^ADA: colour operations \(brightness, .*\) need 1 or 3 channels, got 2"):
        ADA().check(ImageSpec(2, 8, 8))
    ADA(operations=GEOMETRY).check(ImageSpec(2, 8, 8))
