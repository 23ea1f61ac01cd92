"""Class and mode coverage: their formulas against loops in NumPy, their names in a suite, and bad input."""

import math
import re

import numpy as np
import pytest
import torch
from refusals import refusal

from lightning_gen.core import find_figure
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.metrics import ClassCoverage, DigitsExtractor, Extractor, Features, MetricSuite, ModeCoverage, floor

SPEC = ImageSpec(1, 1, 2, num_classes=6)
PLANE = ImageSpec(2, 1, 1)


class FirstPixel(Extractor):
    """Recognises the class that the first pixel says; the second one only moves the features."""

    name = "first"

    def __init__(self, logits=True):
        super().__init__()
        self.logits = logits

    def forward(self, levels, spec):
        values = levels.flatten(1).float()
        logits = torch.nn.functional.one_hot(values[:, 0].long(), 6).float()
        return Features(values, logits if self.logits else None)


def images_of(classes):
    """Images whose first pixel is the class."""
    classes = torch.as_tensor(classes)
    return torch.stack([classes, torch.arange(len(classes)) % 256], 1).to(torch.uint8).reshape(-1, 1, 1, 2)


def score_classes(generated, real, labels=None, extractor=None, held_out=None, **arguments):
    suite = MetricSuite(extractor or FirstPixel(), [ClassCoverage(**arguments)], cache=False)
    suite.set_reference("train", images_of(real), SPEC)
    if held_out is not None:
        suite.set_reference("heldout", images_of(held_out[0]), SPEC, labels=held_out[1])
    asked = None if labels is None else torch.as_tensor(labels)
    suite.update(images_of(generated), torch.arange(len(generated)), asked)
    return suite, suite.compute()


def test_class_coverage_agrees_with_a_loop():
    random = np.random.default_rng(0)
    real = random.choice(6, 400, p=[0.3, 0.3, 0.2, 0.15, 0.05, 0.0])
    generated = random.choice(6, 300, p=[0.6, 0.03, 0.012, 0.3, 0.0, 0.058])
    asked = random.integers(6, size=300)
    found, distance = 0, 0.0
    for k in range(6):
        p, q = (generated == k).mean(), (real == k).mean()
        found += q > 0 and p >= 0.1 * q
        distance += abs(p - q) / 2
    figures = score_classes(generated, real, asked)[1]
    assert 0 < found < 5
    assert figures == pytest.approx(
        {
            "classes_first": found,
            "class_distance_first": distance,
            "label_accuracy_first": (generated == asked).mean(),
        }
    )


def test_equal_mixtures_have_all_classes_and_no_distance():
    real = np.arange(60) % 5
    figures = score_classes(np.repeat(np.arange(5), 7), real)[1]
    assert figures == {"classes_first": 5, "class_distance_first": pytest.approx(0)}


def test_disjoint_mixtures_have_no_class_and_distance_one():
    figures = score_classes([3, 4, 5, 3], [0, 1, 2, 0, 1])[1]
    assert figures == {"classes_first": 0, "class_distance_first": pytest.approx(1)}


def test_a_class_counts_from_its_least_share_on():
    generated = [0] * 9 + [1]  # a tenth, and half of the real ones: a share of 0.2
    for least_share, expected in [(0.1, 2), (0.2, 2), (0.21, 1), (1.0, 1)]:
        figures = score_classes(generated, [0, 1] * 10, least_share=least_share)[1]
        assert figures["classes_first"] == expected, least_share


def test_class_figures_do_not_depend_on_cuts_or_order():
    random = np.random.default_rng(1)
    real, generated, labels = random.integers(6, size=(3, 50))
    suite, whole = score_classes(generated, real, labels)
    suite.reset()
    order = torch.from_numpy(random.permutation(50))
    for rows in order.split(7):
        suite.update(images_of(generated)[rows], rows, torch.from_numpy(labels)[rows])
    assert suite.compute() == whole


def test_class_figures_have_a_floor_and_directions():
    real, held_out = np.arange(40) % 6, np.array([0, 1, 2, 3, 4, 5, 0, 1])
    labels = np.array([0, 1, 2, 3, 4, 5, 5, 5])
    suite, figures = score_classes([0, 0, 1], real, [0, 1, 1], held_out=(held_out, labels))
    p = np.bincount(held_out, minlength=6) / 8
    q = np.bincount(real, minlength=6) / 40
    assert floor(suite) == pytest.approx(
        {"classes_first": 6, "class_distance_first": np.abs(p - q).sum() / 2, "label_accuracy_first": 0.75}
    )
    directions = {name: find_figure(name, suite.figures).higher for name in figures}
    assert directions == {"classes_first": True, "class_distance_first": False, "label_accuracy_first": True}


def test_class_coverage_works_class_by_class():
    suite = MetricSuite(FirstPixel(), [ClassCoverage()], cache=False, per_class=True)
    real = np.arange(60) % 6
    suite.set_reference("train", images_of(real), SPEC, labels=real)
    asked = np.arange(30) % 6
    drawn = np.where(asked == 2, 3, asked)
    suite.update(images_of(drawn), torch.arange(30), torch.from_numpy(asked))
    figures = suite.compute()
    assert figures["label_accuracy_first_class2"] == 0
    assert figures["label_accuracy_first_class3"] == 1
    assert figures["class_distance_first_class2"] == 1
    assert figures["classes_first"] == 5


def test_real_digits_have_ten_classes_that_are_mostly_recognised():
    from lightning_gen.data import Digits

    source = Digits()
    suite = MetricSuite(DigitsExtractor(), [ClassCoverage()], cache=False)
    suite.set_reference("train", source.load("train").levels, source.spec)
    images = source.load("val")
    suite.update(torch.from_numpy(images.levels), torch.arange(200), torch.from_numpy(images.labels))
    figures = suite.compute()
    assert figures["classes_digits"] == 10
    assert figures["class_distance_digits"] < 0.15  # 200 images of ten classes: 0.09 by chance
    assert figures["label_accuracy_digits"] > 0.95


def test_a_least_share_out_of_range_is_refused():
    for share in [0.0, -0.1, 1.01, math.nan]:
        assert re.search(r"ClassCoverage.least_share must be in \(0, 1\], got", refusal(ClassCoverage, share)), share


def test_class_coverage_without_logits_is_refused():
    with pytest.raises(InputError, match="ClassCoverage needs an extractor that gives logits"):
        score_classes([0, 1], [0, 1], extractor=FirstPixel(logits=False))


def test_class_coverage_wants_a_reference_and_two_images():
    with pytest.raises(InputError, match="ClassCoverage needs at least 2 generated images, got 1"):
        score_classes([0], [0, 1])
    suite = MetricSuite(FirstPixel(), [ClassCoverage()], cache=False)
    suite.set_spec(SPEC)
    suite.update(images_of([0, 1]), torch.arange(2))
    with pytest.raises(InputError, match="compares with the 'train' reference part, which was not set"):
        suite.compute()


def score_points(points, spec=PLANE, **arguments):
    class Plane(FirstPixel):
        name = "plane"

        def forward(self, levels, spec):
            return Features(levels.flatten(1).float())

    suite = MetricSuite(Plane(), [ModeCoverage(**arguments)], cache=False)
    levels = torch.as_tensor(np.array(points), dtype=torch.uint8).reshape(-1, *spec.shape)
    suite.set_reference("train", levels[:2].repeat(2, 1, 1, 1), spec)
    if len(levels) > 1:
        suite.set_reference("heldout", levels, spec)
    suite.update(levels, torch.arange(len(levels)))
    return suite, suite.compute()


def test_mode_coverage_agrees_with_a_loop():
    points = np.random.default_rng(0).integers(256, size=(150, 2))
    for side, spacing, radius in [(5, 50.0, 6.0), (3, 20.5, 4.0), (4, 33.3, 25.0), (1, 9.0, 40.0)]:
        met, good = set(), 0
        for x, y in points:
            distances = {}
            for i in range(side):
                for j in range(side):
                    centre = 127.5 + spacing * (i - (side - 1) / 2), 127.5 + spacing * (j - (side - 1) / 2)
                    distances[i, j] = math.hypot(x - centre[0], y - centre[1])
            nearest = min(distances, key=distances.get)
            if distances[nearest] <= radius:
                met.add(nearest)
                good += 1
        figures = score_points(points, side=side, spacing=spacing, radius=radius)[1]
        assert figures == {"modes_pixels": len(met), "high_quality_pixels": pytest.approx(good / 150)}
        assert 0 < good < 150


def test_a_point_on_the_circle_counts_and_one_outside_does_not():
    # one mode at (127.5, 127.5): (131, 127) is sqrt(12.5) away
    circle = {"side": 1, "spacing": 1.0}
    assert score_points([[131, 127]] * 2, radius=math.sqrt(12.5), **circle)[1]["modes_pixels"] == 1
    outside = score_points([[131, 127]] * 2, radius=math.sqrt(12.5) - 1e-9, **circle)[1]
    assert outside == {"modes_pixels": 0, "high_quality_pixels": 0}


def test_one_point_is_enough_for_mode_coverage():
    assert score_points([[127, 128]])[1] == {"modes_pixels": 1, "high_quality_pixels": 1}


def test_mode_figures_have_a_floor_and_directions():
    suite, figures = score_points([[27, 28], [28, 27], [60, 60], [228, 77]])
    assert figures == floor(suite) == {"modes_pixels": 2, "high_quality_pixels": 0.75}
    assert all(find_figure(name, suite.figures).higher for name in figures)


def test_numbers_of_modes_out_of_range_are_refused():
    for arguments, given in [
        ({"side": 0}, "0, 50.0, 6.0"),
        ({"side": 1.5}, "1.5, 50.0, 6.0"),
        ({"spacing": 0.0}, "5, 0.0, 6.0"),
        ({"radius": -1.0}, "5, 50.0, -1.0"),
        ({"radius": math.nan}, "5, 50.0, nan"),
    ]:
        assert re.search(
            f"^ModeCoverage: side must be a whole number of at least 1.*got {given}", refusal(ModeCoverage, **arguments)
        ), arguments


def test_images_that_are_no_points_are_refused():
    with pytest.raises(InputError, match="points of two coordinates, not images of 4 pixels"):
        score_points(np.zeros((3, 4)), spec=ImageSpec(1, 2, 2))
