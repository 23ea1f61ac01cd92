"""The table of figures: each is declared once, found by the names of logs, and travels with its run."""

import pytest

from lightning_gen import figures
from lightning_gen.core.figures import Figure, find_figure
from lightning_gen.metrics import likelihood
from lightning_gen.metrics.base import FeatureMetric, figure_name


def test_every_figure_is_declared_once():
    names = [figure.name for figure in figures.table()]
    assert len(names) == len(set(names)) > 50
    for figure in figures.table():
        assert figure.about
        assert not figure.about.endswith(".")
        assert (figure.kind is None) == (not figure.name.startswith("bpd"))


def test_every_kind_of_bits_per_dimension_is_a_figure_of_its_own():
    names = [figure.name for figure in likelihood.FIGURES]
    assert len(names) == 2 * len(likelihood.KINDS) == len(set(names))
    for kind, name in likelihood.KINDS.items():
        for given, ending in ((False, ""), (True, "_given_labels")):
            found = figures.figure_of(f"test/{likelihood.figure_of(kind, given)}")
            assert (found.name, found.kind, found.higher) == (f"{name}{ending}", kind, False)
            assert figures.figure_of(f"val/{found.name}_se").kind is None


def metrics(cls=FeatureMetric):
    for child in cls.__subclasses__():
        if child.__module__.startswith("lightning_gen"):
            yield child
        yield from metrics(child)


@pytest.mark.parametrize("extractor", ["inception", "digits"])
def test_figures_of_metrics_are_found_by_the_names_that_suites_give_them(extractor):
    declared = [figure for metric in metrics() for figure in metric.figures]
    assert len(declared) > 12
    for figure in declared:
        for key in (figure.name, f"{figure.name}/heldout"):
            assert figures.figure_of(f"val/{figure_name(key, extractor)}") == figure


def test_details_and_strangers_have_no_direction():
    for name in ("is_digits_std", "bpd_se", "copy_share_pixels_low", "fid_digits_class3", "kid_digits_heldout_stderr"):
        found = figures.figure_of(f"val/{name}")
        assert found.higher is None
        assert not found.leads
    for name in ("val/iso", "val/kidney", "else/fid", "fidelity"):
        assert figures.figure_of(name) is None


def test_extractors_may_be_called_by_numbers():
    for extractor in ("vit_b_16", "swin_v2_t", "resnet18", "vit_small_patch14_224"):
        for name in (f"val/fid_{extractor}", f"val/fid_{extractor}_heldout"):
            assert figures.figure_of(name) == figures.figure_of("val/fid")


def test_the_longest_name_that_fits_is_meant():
    assert figures.figure_of("val/kl_layer_3_on_train").name == "kl_layer"
    assert figures.figure_of("val/reconstruction_bpd").higher is False
    own = [Figure("fid_own", "another distance", higher=True)]
    assert find_figure("val/fid_own_digits", [*own, *figures.table()]) is own[0]


def test_what_a_run_says_of_its_figures_counts():
    known = {"val/fid": Figure("fid", "of another kind", higher=True).as_dict()}
    assert figures.figure_of("val/fid", known).higher is True
    assert figures.figure_of("val/kid", known).higher is False


def test_validation_comes_before_test_and_quality_before_the_rest():
    names = [
        "train/loss",
        "test/fid",
        "val/score_real",
        "val/copied_pixels",
        "val/bpd",
        "val/fid_digits",
        "val/is_digits",
    ]
    ordered = [
        "val/fid_digits",
        "val/is_digits",
        "val/bpd",
        "val/copied_pixels",
        "val/score_real",
        "test/fid",
        "train/loss",
    ]
    assert sorted(names, key=figures.place) == ordered
