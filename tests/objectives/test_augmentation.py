"""What the critic sees: every change against a loop in NumPy or SciPy, equal draws, ranks, and ADA's controller."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from lightning_gen.core.context import TrainingContext
from lightning_gen.core.errors import InputError
from lightning_gen.core.ranks import Ranks
from lightning_gen.core.spec import ImageSpec
from lightning_gen.objectives import ADA, CriticAugmentation, DiffAugment
from lightning_gen.objectives.augmentation import COLOUR, GEOMETRY, augmenter

EVERYTHING = GEOMETRY + COLOUR
ALONE = Ranks()


def unit_images(*shape, generator, dtype=torch.float64):
    return torch.rand(*shape, dtype=dtype, generator=generator) * 2 - 1


def draws_of(images, images_seen=0, ranks=ALONE):
    return TrainingContext(images_seen=images_seen, ranks=ranks).draws("test", len(images))


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


@pytest.fixture(params=AUGMENTATIONS)
def augmentation(request):
    return AUGMENTATIONS[request.param]()


# --- what all have in common --------------------------------------------------------------------------------------


def test_equal_draws_give_equal_changes_and_others_others(augmentation, generator):
    for shape in ((1, 8, 8), (3, 6, 10)):
        images = unit_images(7, *shape, generator=generator)
        kept = images.clone()
        once = augmentation(images, draws_of(images))
        assert torch.equal(once, augmentation(images, draws_of(images)))
        assert not torch.equal(once, augmentation(images, draws_of(images, images_seen=64)))
        assert torch.equal(images, kept)
        assert once.shape == images.shape


def test_images_do_not_decide_how_many_numbers_are_drawn(augmentation, generator):
    images = unit_images(7, 1, 8, 8, generator=generator)
    draws = [draws_of(images) for _ in range(3)]
    for own, content in zip(draws, (images, -images, torch.zeros_like(images)), strict=True):
        augmentation(content, own)
    following = [own.uniform(1) for own in draws]
    assert torch.equal(following[0], following[1])
    assert torch.equal(following[0], following[2])


def test_ranks_change_their_images_as_one_process_would(augmentation, generator):
    images = unit_images(12, 3, 8, 8, generator=generator)
    whole = augmentation(images, draws_of(images, 64))
    parts = [augmentation(part, draws_of(part, 64, Ranks(rank, 3))) for rank, part in enumerate(images.split(4))]
    assert torch.equal(torch.cat(parts), whole)


def test_images_do_not_see_each_other(augmentation, generator):
    images, others = (unit_images(5, 1, 8, 8, generator=generator) for _ in range(2))
    others[2] = images[2]
    own, other = (augmentation(each, draws_of(each))[2] for each in (images, others))
    assert torch.equal(own, other)


def test_gradients_in_the_images_against_finite_differences(augmentation, generator):
    for channels in (1, 3):
        images = unit_images(3, channels, 4, 4, generator=generator).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: augmentation(x, draws_of(x)), images)


def test_types_are_kept_and_autocast_changes_no_place(augmentation, generator):
    exact = unit_images(6, 3, 16, 16, generator=generator)
    for dtype, error in ((torch.float32, 2e-4), (torch.bfloat16, 0.05)):
        images = exact.to(dtype)
        plain = augmentation(images, draws_of(images))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = augmentation(images, draws_of(images))
        assert plain.dtype == inside.dtype == dtype
        assert torch.equal(plain, inside)
        reference = augmentation(images.double(), draws_of(images))
        torch.testing.assert_close(plain.double(), reference, rtol=0, atol=error)


def test_real_and_generated_images_are_changed_alike(generator):
    context, images = TrainingContext(images_seen=64), unit_images(7, 1, 8, 8, generator=generator)
    see = augmenter(always(), context, "augment-critic")
    assert torch.equal(see(images), see(images))
    assert torch.equal(see(images), always()(images, context.draws("augment-critic", 7)))
    assert not torch.equal(see(images), augmenter(always(), context, "augment-generator")(images))
    assert augmenter(None, context, "augment-critic")(images) is images


def test_the_base_observes_nothing():
    with pytest.raises(TypeError):
        CriticAugmentation()
    augmentation = DiffAugment()
    assert augmentation.observe(torch.zeros(3), ALONE) == {}
    assert not list(augmentation.buffers())


# --- DiffAugment --------------------------------------------------------------------------------------------------


def test_colour_is_its_formula(generator):
    images = unit_images(20, 3, 4, 5, generator=generator)
    numbers = draws_of(images).uniform(3).double().numpy()
    expected = []
    for x, (b, s, c) in zip(images.numpy(), numpy_rows(numbers), strict=True):
        x = x + b - 0.5
        x = (x - x.mean(0)) * 2 * s + x.mean(0)
        expected.append((x - x.mean()) * (c + 0.5) + x.mean())
    result = DiffAugment(policy=("colour",))(images, draws_of(images))
    np.testing.assert_allclose(result.numpy(), np.stack(expected), atol=1e-12)


def numpy_rows(numbers):
    return [tuple(row) for row in numbers]


def test_saturation_leaves_grey_images_alone(generator):
    images = unit_images(9, 1, 4, 4, generator=generator)
    results = [DiffAugment(policy=("colour",), saturation=s)(images, draws_of(images)) for s in (0.0, 1.0)]
    assert torch.equal(*results)


@pytest.mark.parametrize(("side", "share", "most"), [(8, 0.125, 1), (28, 0.125, 4), (10, 0.3, 3)])
def test_translation_moves_by_whole_pixels_in_every_direction(side, share, most, generator):
    images = unit_images(400, 1, side, side + 2, generator=generator)
    result = DiffAugment(policy=("translation",), translation=share, fill=-0.25)(images, draws_of(images))
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


def test_cutout_fills_a_rectangle_centred_in_the_image(generator):
    for height, width, share in ((8, 8, 0.5), (7, 10, 0.5), (9, 6, 0.34)):
        images = unit_images(500, 2, height, width, generator=generator)
        result = DiffAugment(policy=("cutout",), cutout=share, fill=-1.0)(images, draws_of(images))
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
    both, draws = DiffAugment(policy=("cutout", "colour")), draws_of(images)
    one_by_one = DiffAugment(policy=("colour",))(DiffAugment(policy=("cutout",))(images, draws), draws)
    assert torch.equal(both(images, draws_of(images)), one_by_one)
    assert not torch.equal(one_by_one, DiffAugment(policy=("colour", "cutout"))(images, draws_of(images)))


def test_bad_arguments_of_diffaugment_are_refused_by_name():
    for arguments, message in (
        ({"policy": ("color",)}, "policy must be among colour, translation, cutout, got 'color'"),
        ({"policy": ()}, "policy must be a list of some of colour, translation, cutout"),
        ({"policy": "colour"}, "policy must be a list of some of colour, translation, cutout, got 'colour'"),
        ({"policy": ("cutout", "cutout")}, "policy must be without repetitions"),
        ({"brightness": -0.1}, r"brightness must be in \[0, 2\], got -0.1"),
        ({"saturation": 1.1}, r"saturation must be in \[0, 1\], got 1.1"),
        ({"contrast": float("nan")}, r"contrast must be in \[0, 1\], got nan"),
        ({"fill": -1.5}, r"fill must be in \[-1, 1\], got -1.5"),
        ({"translation": 0}, "translation must be a share of the side above 0 and below 1, got 0"),
        ({"cutout": 1.0}, "cutout must be a share of the side above 0 and below 1, got 1.0"),
    ):
        with pytest.raises(InputError, match=rf"^DiffAugment\.{message}"):
            DiffAugment(**arguments)


def test_changes_below_one_pixel_are_refused():
    DiffAugment().check(ImageSpec(1, 8, 8))
    with pytest.raises(InputError, match=r"^DiffAugment: translation 0.125 is less than a pixel of 3x2 images"):
        DiffAugment().check(ImageSpec(1, 3, 2))
    DiffAugment(policy=("colour",)).check(ImageSpec(1, 3, 2))


# --- ADA's operations ---------------------------------------------------------------------------------------------


def test_ada_at_zero_changes_no_bit(generator):
    for channels in (1, 3):
        exact = unit_images(20, channels, 7, 9, generator=generator)
        for images in (exact, exact.float(), exact.bfloat16()):
            assert torch.equal(ADA()(images, draws_of(images)), images)


def test_every_operation_changes_images_at_one(generator):
    images = unit_images(40, 3, 8, 8, generator=generator)
    for operation in EVERYTHING:
        changed = (always(operation)(images, draws_of(images)) != images).flatten(1).any(1).double().mean()
        chance = {"flip": 1 / 2, "luma_flip": 1 / 2, "rotate90": 3 / 4, "translate": 3 / 4}.get(operation, 1)
        assert float(changed) == pytest.approx(chance, abs=0.2 if chance < 1 else 0), operation
    grey = images[:, :1]
    for operation in ("hue", "saturation"):
        assert torch.equal(always(operation)(grey, draws_of(grey)), grey)


def test_operations_fall_on_the_share_p_of_images(generator):
    images = unit_images(3000, 1, 4, 4, generator=generator)
    for operation in ("scale", "rotate", "brightness"):
        for p in (0.2, 0.7):
            augmentation = ADA(target=None, initial=p, operations=(operation,))
            changed = (augmentation(images, draws_of(images)) != images).flatten(1).any(1).double().mean()
            assert float(changed) == pytest.approx(p, abs=0.03), operation


def test_flips_and_quarter_turns_are_exact_and_all_occur(generator):
    images = unit_images(60, 2, 6, 6, generator=generator)
    for operation, candidates in (
        ("flip", [lambda x: x, lambda x: x[..., ::-1]]),
        ("rotate90", [lambda x, k=k: np.rot90(x, k, (1, 2)) for k in range(4)]),
    ):
        result = always(operation)(images, draws_of(images)).numpy()
        seen = []
        for changed, image in zip(result, images.numpy(), strict=True):
            close = [np.allclose(changed, f(image), atol=1e-6) for f in candidates]
            assert sum(close) == 1
            seen.append(close.index(True))
        assert set(seen) == set(range(len(candidates)))


def test_translation_reflects_at_the_edges(generator):
    images = unit_images(60, 1, 16, 24, generator=generator)
    result = always("translate")(images, draws_of(images)).numpy()
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
    result = always(*GEOMETRY)(images, draws_of(images)).numpy()
    draws = draws_of(images)
    uniform, normal = draws.uniform(21).double().numpy(), draws.normal(7).double().numpy()
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
    draws = draws_of(images)
    uniform, normal = draws.uniform(21).double().numpy(), draws.normal(7).double().numpy()
    grey = np.ones(3) / math.sqrt(3)
    of_grey = np.outer(grey, grey)
    result = always(*COLOUR)(images, draws_of(images)).numpy()
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
    as_grey = always()(images, draws_of(images))
    as_rgb = always()(images.expand(-1, 3, -1, -1), draws_of(images))
    torch.testing.assert_close(as_rgb, as_grey.expand(-1, 3, -1, -1), rtol=0, atol=1e-6)


def test_numbers_of_an_operation_do_not_depend_on_the_others_in_use(generator):
    images = unit_images(9, 3, 6, 6, generator=generator)
    together = always("flip", "saturation")(images, draws_of(images))
    in_turn = always("saturation")(always("flip")(images, draws_of(images)), draws_of(images))
    torch.testing.assert_close(together, in_turn)
    assert torch.equal(together, always("saturation", "flip")(images, draws_of(images)))


# --- ADA's controller ---------------------------------------------------------------------------------------------


def observed(ada, *realness, ranks=ALONE):
    """Return the strength that is reported after steps of such realness."""
    for each in realness:
        figures = ada.observe(each, ranks)
    assert figures.keys() == {"augmentation_strength"}
    assert float(figures["augmentation_strength"]) == float(ada.p)
    return float(ada.p)


def test_p_follows_the_signs_both_ways():
    ada = ADA(target=0.6, adjust_images=1000, interval=2, initial=0.5)
    sure, unsure = torch.ones(10), torch.tensor([1.0] * 7 + [-1.0] * 3)  # r_t = 1 and 0.4
    expected = 0.5
    for signs, direction in ((sure, 1), (unsure, -1), (unsure, -1), (sure, 1), (sure, 1)):
        assert observed(ada, 5 * signs) == pytest.approx(expected)  # only every second step
        expected += direction * 2 * 10 / 1000
        assert observed(ada, 0.1 * signs) == pytest.approx(expected)


def test_p_looks_at_the_mean_over_the_interval():
    ada = ADA(target=0.5, adjust_images=100, interval=3, initial=0.5)
    one = torch.ones(4)
    assert observed(ada, one, one, -one) == pytest.approx(0.5 - 12 / 100)  # mean sign 1/3 < 1/2
    assert observed(ada, one, one, torch.tensor([1.0, 1, 0, -1])) == pytest.approx(0.5)  # 3/4 > 1/2; 0 has no sign


def test_p_is_clamped_at_both_ends():
    ada = ADA(adjust_images=100, interval=1, maximum=0.8)
    assert observed(ada, *[torch.ones(30)] * 10) == pytest.approx(0.8)
    assert observed(ada, *[-torch.ones(30)] * 10) == 0


def test_without_target_p_stays():
    assert observed(ADA(target=None, initial=0.3, interval=1, adjust_images=1), torch.ones(30)) == pytest.approx(0.3)


def test_ranks_agree_on_p(given_ranks):
    parts = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1]])  # mean sign 1/2
    together = parts.sign().mean()
    found = []
    for rank, part in enumerate(parts):
        ada = ADA(target=0.4, interval=1, adjust_images=100)
        found.append(observed(ada, part, ranks=given_ranks(rank, 2, lambda mean: together)))
    one = observed(ADA(target=0.4, interval=1, adjust_images=100), parts.flatten())
    assert found[0] == found[1] == one == pytest.approx(8 / 100)


def test_the_state_is_in_buffers_that_change_in_place():
    torch.manual_seed(3)
    steps = [torch.randn(6) + 0.5 for _ in range(9)]
    whole, first, resumed = (ADA(interval=4, adjust_images=200, initial=0.2) for _ in range(3))
    places = [buffer.data_ptr() for buffer in first.buffers()]
    observed(whole, *steps)
    observed(first, *steps[:6])
    assert [buffer.data_ptr() for buffer in first.buffers()] == places
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    observed(resumed, *steps[6:])
    assert all(torch.equal(a, b) for a, b in zip(resumed.buffers(), whole.buffers(), strict=True))
    assert float(whole.p) != pytest.approx(0.2)


def test_a_reported_strength_does_not_change_later():
    ada = ADA(interval=1, adjust_images=100)
    before = ada.observe(-torch.ones(5), ALONE)["augmentation_strength"]
    observed(ada, torch.ones(50))
    assert float(before) == 0 < float(ada.p)


def test_p_moves_what_the_critic_sees(generator):
    images, ada = unit_images(50, 1, 8, 8, generator=generator), ADA(interval=1, adjust_images=100)
    assert torch.equal(ada(images, draws_of(images)), images)
    assert observed(ada, torch.ones(100)) == 1
    assert (ada(images, draws_of(images)) != images).flatten(1).any(1).all()


def test_bad_arguments_of_ada_are_refused_by_name():
    for arguments, message in (
        ({"operations": ("turn",)}, "operations must be among flip, rotate90, .*, got 'turn'"),
        ({"operations": ()}, "operations must be a list of some of flip"),
        (
            {"operations": ("flip", "hue", "flip")},
            r"operations must be without repetitions, got \['flip', 'hue', 'flip'\]",
        ),
        ({"target": 1.5}, r"target must be in \[-1, 1\] \(or null\), got 1.5"),
        ({"adjust_images": 0}, "adjust_images must be a positive integer, got 0"),
        ({"interval": 0.5}, "interval must be a positive integer, got 0.5"),
        ({"maximum": 1.2}, "maximum must be a probability between 0 and 1, got 1.2"),
        ({"initial": -0.1}, r"initial must be between 0 and maximum \(1.0\), got -0.1"),
        ({"initial": 0.9, "maximum": 0.8}, r"initial must be between 0 and maximum \(0.8\), got 0.9"),
    ):
        with pytest.raises(InputError, match=rf"^ADA\.{message}"):
            ADA(**arguments)


def test_colours_of_other_channels_are_refused():
    for channels in (1, 3):
        ADA().check(ImageSpec(channels, 8, 8))
    with pytest.raises(InputError, match=r"^ADA: colour operations \(brightness, .*\) need 1 or 3 channels, got 2"):
        ADA().check(ImageSpec(2, 8, 8))
    ADA(operations=GEOMETRY).check(ImageSpec(2, 8, 8))
