"""What names of figures tell agrees with the metrics that log them."""

from lightning_gen import figures
from lightning_gen.metrics import likelihood
from lightning_gen.metrics.base import FeatureMetric, figure_name, is_of_one_class


def test_kinds_of_likelihood_are_those_that_are_logged():
    assert {name: kind for kind, name in likelihood.KINDS.items()} == dict(figures.KINDS)


def metrics(cls=FeatureMetric):
    for child in cls.__subclasses__():
        if child.__module__.startswith("lightning_gen"):
            yield child
        yield from metrics(child)


def test_directions_are_those_of_the_metrics():
    for extractor in ["inception", "digits"]:
        directions = {
            figure_name(key, extractor): better for metric in metrics() for key, better in metric.better.items()
        }
        assert len(directions) > 8
        for name, better in directions.items():
            assert figures.higher_is_better(f"val/{name}") is better, name
            assert figures.higher_is_better(f"val/{name}_heldout") is better, name


def test_spreads_and_strangers_have_no_direction():
    for name in [
        "val/is_digits_std",
        "val/bpd_se",
        "val/copy_share_pixels_low",
        "val/fid_digits_class3",
        "val/iso",
        "val/kidney",
    ]:
        assert figures.higher_is_better(name) is None
        assert not figures.is_main(name)


def test_figures_of_one_class_are_told_as_elsewhere():
    for name in ("val/fid_digits_class3", "val/fid_digits", "val/classes_digits"):
        assert bool(figures.SIDE.search(name)) == is_of_one_class(name)


def test_every_kind_of_bits_per_dimension_is_a_figure_of_its_own():
    names = [f"val/{name}" for name in figures.KINDS]
    assert [figures.kind_of(name) for name in names] == ["exact", "dequantized", "bound", "ais", "estimate"]
    assert all(figures.higher_is_better(name) is False for name in names)
    assert {figures.kind_of(f"{name}_se") for name in names} == {None}


def test_validation_comes_before_test_and_quality_before_the_rest():
    names = ["train/loss", "test/fid", "val/score_real", "val/bpd", "val/fid_digits", "val/is_digits"]
    ordered = ["val/fid_digits", "val/is_digits", "val/bpd", "val/score_real", "test/fid", "train/loss"]
    assert sorted(names, key=figures.place) == ordered
