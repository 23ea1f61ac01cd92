"""The suite: names, independence of cuts, order, padding and ranks, the cache, and bad input."""

import json
import os
import random
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refusal
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.core.spec import ImageSpec
from lightning_gen.metrics import (
    CopyShare,
    DensityCoverage,
    Diversity,
    Extractor,
    FeatureMetric,
    Features,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    MetricSuite,
    PrecisionRecall,
    controls,
    floor,
    memoriser,
)
from lightning_gen.metrics.base import fixed_permutation

SPEC = ImageSpec(2, 5, 4, levels=200, num_classes=3)


class Projection(Extractor):
    """Float64 features without a batch-dependent rounding: a fixed matrix, image by image."""

    name = "projection"

    def __init__(self, dims: int = 6, classes: int = 3, constant: bool = False) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.register_buffer("matrix", torch.randn(40, dims + classes, generator=draw, dtype=torch.float64))
        self.dims, self.classes, self.constant = dims, classes, constant
        self.passes = 0

    def forward(self, levels, spec):
        self.passes += 1
        unit = spec.to_unit(levels, dtype=torch.float64).flatten(1)
        out = torch.stack([row @ self.matrix for row in unit])
        return Features(out[:, : self.dims], out[:, self.dims :] if self.classes else None)


def images(n: int, seed: int, spec: ImageSpec = SPEC) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    centre = torch.randint(spec.levels, (n, 1, 1, 1), generator=draw)
    noise = torch.randint(-40, 40, (n, *spec.shape), generator=draw)
    return (centre + noise).clamp(0, spec.levels - 1).to(torch.uint8)


def everything() -> list:
    return [
        FrechetDistance(),
        InceptionScore(splits=4),
        PrecisionRecall(),
        DensityCoverage(),
        CopyShare(),
        Diversity(),
        KernelDistance(subsets=3, subset_size=20),
    ]


def make(metrics=None, extractor=None, **kwargs) -> MetricSuite:
    suite = MetricSuite(extractor or Projection(), metrics or everything(), cache=False, **kwargs)
    suite.set_reference("train", images(70, 1), SPEC)
    suite.set_reference("heldout", images(50, 2), SPEC)
    return suite


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(tmp_path))
    return tmp_path / "features"


# Names and description


def test_names_say_extractor_reference_and_detail():
    suite = make()
    suite.update(images(60, 3), torch.arange(60))
    assert set(suite.compute()) == {
        *("fid_projection", "fid_projection_heldout", "is_projection", "is_projection_std"),
        *("precision_projection", "recall_projection", "density_projection", "coverage_projection"),
        *("copy_share_pixels", "copy_share_pixels_low", "copy_share_pixels_high"),
        *("copy_share_pixels_ceiling", "copied_pixels", "copied_pixels_low", "copied_pixels_high"),
        "copied_pixels_detectable",
        *("pairwise_distance_projection", "vendi_projection"),
        *("kid_projection", "kid_projection_stderr", "kid_projection_subsets", "kid_projection_subsets_std"),
        *("kid_projection_heldout", "kid_projection_heldout_stderr"),
        *("kid_projection_heldout_subsets", "kid_projection_heldout_subsets_std"),
    }
    description = suite.description()
    assert description["n"] == 60
    assert description["extractor"] == "projection"
    assert description["references"]["heldout"] == {"n": 50, "fingerprint": None}
    assert description["extractor_hash"] == suite.extractor.content_hash
    assert "transform" in description
    assert description["metrics"][2] == {
        "class_path": "lightning_gen.metrics.precision_recall.PrecisionRecall",
        "init_args": {"k": 3, "max_images": 10_000},
    }


def test_only_an_extractor_named_inception_gives_plain_names():
    extractor = Projection()
    extractor.name = "inception"
    suite = make([FrechetDistance(), InceptionScore(2)], extractor)
    suite.update(images(60, 3), torch.arange(60))
    assert set(suite.compute()) == {"fid", "fid_heldout", "is", "is_std"}


def test_floor_is_the_heldout_part_in_place_of_generated_images():
    suite = make()
    suite.update(images(50, 2), torch.arange(50))
    figures, real = suite.compute(), floor(suite)
    assert real["fid_projection"] > 0
    assert all(real[name] == pytest.approx(figures[name], rel=1e-12) for name in real if "heldout" not in name)
    assert not any("cop" in name for name in real)
    suite.reset()
    suite.update(images(70, 1), torch.arange(70))
    assert real["kid_projection_heldout"] == pytest.approx(suite.compute()["kid_projection_heldout"], rel=1e-12)
    assert controls(suite, 40)["floor"] == real


def test_controls_leave_out_what_real_images_are_too_few_for():
    suite = MetricSuite(Projection(), [FrechetDistance(), InceptionScore(splits=10)], cache=False)
    suite.set_reference("train", images(70, 1), SPEC)
    suite.set_reference("heldout", images(3, 2), SPEC)
    assert floor(suite).keys() == {"fid_projection", "fid_projection_heldout"}
    assert "is_projection" in memoriser(suite, 60)


def test_the_memoriser_draws_training_images_again():
    suite, train = make(), images(70, 1)
    drawn = torch.randint(70, (60,), generator=keyed_generator(0, "memoriser"))
    suite.update(train[drawn], torch.arange(60))
    figures, again = suite.compute(), memoriser(suite, 60)
    assert again == pytest.approx(figures, rel=1e-9)
    assert again["copied_pixels"] == pytest.approx(1)
    assert again["copy_share_pixels_ceiling"] == 0.5 + 50 / 140
    of_moments = make([FrechetDistance()])
    assert memoriser(of_moments, 60)["fid_projection"] == pytest.approx(0, abs=1e-9)
    alone = MetricSuite(Projection(), [FrechetDistance()], cache=False)
    with pytest.raises(InputError, match="training reference part"):
        memoriser(alone, 60)
    alone.set_reference("train", train, SPEC)
    assert controls(alone, 60) == {}


def test_figures_per_class_are_those_of_the_class_alone():
    labels, reference_labels = torch.arange(90) % 3, torch.arange(70) % 3
    whole = MetricSuite(Projection(), [FrechetDistance(), PrecisionRecall()], cache=False, per_class=True)
    whole.set_reference("train", images(70, 1), SPEC, labels=reference_labels)
    whole.update(images(90, 3), torch.arange(90), labels)
    figures = whole.compute()
    alone = MetricSuite(Projection(), [FrechetDistance(), PrecisionRecall()], cache=False)
    alone.set_reference("train", images(70, 1)[reference_labels == 2], SPEC)
    alone.update(images(90, 3)[labels == 2], torch.arange(30))
    for name, value in alone.compute().items():
        assert figures[f"{name}_class2"] == pytest.approx(value, rel=1e-9)
    assert "fid_projection" in figures
    whole.reset()
    whole.update(images(90, 3), torch.arange(90))
    with pytest.raises(InputError, match="generated images have none"):
        whole.compute()
    whole.reset()
    whole.update(images(90, 3), torch.arange(90), torch.arange(90).clamp(max=2))  # one image of class 0
    with pytest.raises(InputError, match=r"^class 0: "):
        whole.compute()


# Independence


@pytest.mark.parametrize("metrics", [everything, lambda: [FrechetDistance(), InceptionScore(4)]])
def test_figures_do_not_depend_on_cuts_order_or_padding(metrics):
    samples, suite = images(83, 3), make(metrics())
    suite.update(samples, torch.arange(83))
    expected = suite.compute()

    suite.reset()
    for start in range(0, 83, 7):
        suite.update(samples[start : start + 7], torch.arange(start, min(83, start + 7)))
    assert suite.compute() == pytest.approx(expected, rel=1e-10, abs=1e-13)

    suite.reset()
    order = torch.randperm(83, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([order, torch.full((5,), -1)])
    for index in padded.split(20):
        suite.update(samples[index.clamp(min=0)], index)
    suite.update(samples[:0], torch.arange(0))
    assert suite.compute() == pytest.approx(expected, rel=1e-10, abs=1e-13)


RANKS = textwrap.dedent(
    """
    import json, sys, torch, torch.distributed as dist
    sys.path[:0] = {folders!r}
    from test_suite import InputError, images, make, ranked_suites

    def work(rank, world, file, cuts):
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=world)
        samples, results = images(83, 3), []
        for suite in ranked_suites():
            mine = torch.arange(83).tensor_split(cuts)[rank].flip(0)
            for index in mine.split(11):
                suite.update(samples[index], index, index % 3)
            results.append(suite.compute())
        everyones = [None] * world
        dist.all_gather_object(everyones, results)
        suite = make()
        suite.update(samples[:20], torch.arange(20))  # every rank counts from 0
        try:
            message = str(suite.compute())
        except InputError as error:
            message = str(error)
        if rank == 0:
            print(json.dumps([everyones, message]))
        dist.destroy_process_group()

    if __name__ == "__main__":
        # forked after the imports, which cost more than the work
        for number, cuts in enumerate(json.loads(sys.argv[2])):
            arguments = (len(cuts) + 1, sys.argv[1] + str(number), cuts)
            torch.multiprocessing.start_processes(work, arguments, nprocs=len(cuts) + 1, start_method="fork")
    """
)


def ranked_suites() -> list[MetricSuite]:
    """All metrics, those that keep sums only, and figures per class."""
    per_class = MetricSuite(Projection(), [FrechetDistance(), PrecisionRecall()], cache=False, per_class=True)
    per_class.set_reference("train", images(70, 1), SPEC, labels=torch.arange(70) % 3)
    return [make(), make([FrechetDistance(), InceptionScore(4)]), per_class]


def test_figures_do_not_depend_on_ranks(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.format(folders=[str(Path(__file__).parents[i]) for i in range(2)]))
    # One rank; two and three whose counts do not divide; three of which the last has no image.
    cuts = [[], [40], [21, 50], [30, 83]]
    command = [sys.executable, str(script), str(tmp_path / "store"), json.dumps(cuts)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    expected = []
    for suite in ranked_suites():
        suite.update(images(83, 3), torch.arange(83), torch.arange(83) % 3)
        expected.append(suite.compute())
    assert len(lines) == len(cuts)
    for (everyones, message), ranks in zip(lines, cuts, strict=True):
        assert len(everyones) == len(ranks) + 1
        for results in everyones:
            for result, figures in zip(results, expected, strict=True):
                assert result == pytest.approx(figures, rel=1e-10, abs=1e-13)
        assert "sample index 0 arrived twice" in message or not ranks


def test_splits_and_subsets_are_of_the_sample_index_whatever_arrives_first():
    samples, train = images(83, 3), images(70, 1)
    suite = make([InceptionScore(4), KernelDistance(subsets=5, subset_size=30)])
    for index in torch.randperm(83, generator=torch.Generator().manual_seed(1)).split(9):
        suite.update(samples[index], index)
    figures = suite.compute()
    (features, logits), real = suite.extractor(samples, SPEC), suite.extractor(train, SPEC).features
    assert figures["is_projection"] == pytest.approx(
        isc_features_to_metric(logits, splits=4)["inception_score_mean"], rel=1e-10
    )
    arguments = {"kid_subsets": 5, "kid_subset_size": 30, "kid_kernel": "poly", "rng_seed": 2020, "verbose": False}
    theirs = kid_features_to_metric(features, real, **arguments)
    assert figures["kid_projection_subsets"] == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-9)
    assert figures["kid_projection_subsets_std"] == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-9)


def test_neighbourhoods_and_diversity_take_equal_n_by_the_fixed_permutation():
    metrics = [PrecisionRecall(), DensityCoverage(), Diversity()]
    suite = make(metrics)  # 70 training images
    suite.update(images(120, 3), torch.arange(120))
    larger = suite.compute()
    assert suite.description()["n"] == 120
    assert suite.description()["references"]["train"]["n"] == 70
    suite.reset()
    suite.update(images(120, 3)[fixed_permutation(120)[:70]], torch.arange(70))
    assert larger == pytest.approx(suite.compute(), rel=1e-10)
    capped = make([PrecisionRecall(max_images=30), DensityCoverage(max_images=30), Diversity(max_images=30)])
    capped.update(images(120, 3), torch.arange(120))
    small = MetricSuite(Projection(), metrics, cache=False)
    small.set_reference("train", images(70, 1)[fixed_permutation(70)[:30]], SPEC)
    small.update(images(120, 3)[fixed_permutation(120)[:30]], torch.arange(30))
    distances = ("precision_projection", "recall_projection", "density_projection", "coverage_projection")
    for name in (*distances, "pairwise_distance_projection"):
        assert capped.compute()[name] == pytest.approx(small.compute()[name], rel=1e-10), name


def test_scoring_consumes_no_global_randomness_and_ignores_autocast():
    suite = make()
    torch.manual_seed(3)
    random.seed(3)
    states = lambda: (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: E731, NPY002
    before = states()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        suite.update(images(60, 3), torch.arange(60))
    figures = suite.compute()
    assert states() == before
    plain = make()
    plain.update(images(60, 3), torch.arange(60))
    assert plain.compute() == figures


def test_reset_forgets_samples_and_keeps_references():
    suite = make()
    suite.update(images(60, 3), torch.arange(60))
    first = suite.compute()
    suite.reset()
    suite.update(images(60, 3), torch.arange(60))
    assert suite.compute() == first


def test_a_metric_alone_is_a_torchmetrics_metric():
    metric = FrechetDistance()
    features = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    metric.set_reference("train", features)
    metric.update(features[:30])
    metric.update(features[30:])
    assert metric.compute() == pytest.approx({"fid": 0.0}, abs=1e-6)
    metric.reset()
    metric.update(features[:30] + 1)
    assert metric.compute()["fid"] > 1


class Brightness(FeatureMetric):
    """A user's metric: mean pixel of generated images over that of the training part."""

    keeps = frozenset({"pixels"})

    def score(self, samples):
        return {"brightness@pixels": float(samples.rows("pixels").float().mean() / self._real().float().mean())}

    def _real(self):
        return self.reference("train").rows("pixels")


def test_a_metric_of_ones_own_joins_the_suite():
    suite = make([FrechetDistance(), Brightness()])
    suite.update(images(70, 1) // 2, torch.arange(70))
    assert suite.compute()["brightness_pixels"] == pytest.approx(0.5, abs=0.02)


# Cache


def test_references_are_read_from_the_cache_and_give_equal_figures(cache_folder):
    results, passes = [], []
    for _ in range(2):
        suite = MetricSuite(Projection(), everything())
        suite.set_reference("train", images(70, 1), SPEC, fingerprint="abc")
        suite.set_reference("heldout", images(50, 2).split(20), SPEC, fingerprint="def")
        passes.append(suite.extractor.passes)
        suite.update(images(60, 3), torch.arange(60))
        results.append(suite.compute())
    assert passes[0] > 0
    assert passes[1] == 0
    assert results[0] == results[1]
    assert len(list(cache_folder.iterdir())) == 2


@pytest.mark.parametrize("change", ["data", "extractor", "levels"])
def test_other_data_extractor_or_levels_are_other_entries(cache_folder, change):
    first = MetricSuite(Projection(), [FrechetDistance()])
    first.set_reference("train", images(70, 1), SPEC, fingerprint="abc")
    extractor = Projection()
    if change == "extractor":
        extractor.matrix[0, 0] += 1
    spec = ImageSpec(2, 5, 4, levels=256) if change == "levels" else SPEC
    second = MetricSuite(extractor, [FrechetDistance()])
    second.set_reference("train", images(70, 1), spec, fingerprint="xyz" if change == "data" else "abc")
    assert extractor.passes > 0
    assert len(list(cache_folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_entry_is_rebuilt_with_a_warning(cache_folder, caplog, damage):
    expected = MetricSuite(Projection(), [FrechetDistance()])
    expected.set_reference("train", images(70, 1), SPEC, fingerprint="abc")
    (file,) = cache_folder.iterdir()
    content = file.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    file.write_bytes({"cut": content[:-100], "flipped": flipped, "foreign": b"hello", "empty": b""}[damage])
    suite = MetricSuite(Projection(), [FrechetDistance()])
    suite.set_reference("train", images(70, 1), SPEC, fingerprint="abc")
    assert "computing them anew" in caplog.text
    assert torch.equal(suite.references["train"].mean, expected.references["train"].mean)
    again = MetricSuite(Projection(), [FrechetDistance()])
    again.set_reference("train", images(70, 1), SPEC, fingerprint="abc")
    assert again.extractor.passes == 0


def test_an_entry_of_another_number_of_images_is_stale(cache_folder, caplog):
    for n in (70, 60):
        suite = MetricSuite(Projection(), [FrechetDistance()])
        suite.set_reference("train", images(n, 1), SPEC, fingerprint="abc")
        assert suite.references["train"].count == n
    assert "not those of 60 images" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda levels: levels.float() * torch.nan, "'train' reference: expected levels of dtype uint8"),
        (lambda levels: levels[:, :1], r"expected shape \(B, 2, 5, 4\), got \(70, 1, 5, 4\)"),
    ],
    ids=["NaN", "channels"],
)
def test_images_beside_a_cached_entry_are_looked_at_too(cache_folder, change, message):
    MetricSuite(Projection(), everything()).set_reference("train", images(70, 1), SPEC, fingerprint="abc")
    with pytest.raises(InputError, match=message):
        MetricSuite(Projection(), everything()).set_reference("train", change(images(70, 1)), SPEC, fingerprint="abc")


def test_reference_features_are_release_where_no_metric_needs_them():
    suite = make([FrechetDistance(), InceptionScore(4)])
    assert suite.references["train"].features is None
    assert make().references["train"].features.shape == (70, 6)


def test_writers_at_once_leave_one_good_entry(cache_folder):
    def work(seed):
        suite = MetricSuite(Projection(), [FrechetDistance()])
        suite.set_reference("train", images(70, 1), SPEC, fingerprint="abc")
        return suite.references["train"].mean

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, range(12)))
    assert all(torch.equal(result, results[0]) for result in results)
    assert [file.suffix for file in cache_folder.iterdir()] == [".safetensors"]


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(tmp_path / "file"))
    suite = MetricSuite(Projection(), [FrechetDistance()])
    suite.set_reference("train", images(70, 1), SPEC, fingerprint="abc")
    assert "cannot be cached" in caplog.text
    assert suite.references["train"].count == 70


# Bad input


def bad(action):
    suite = make([FrechetDistance(), PrecisionRecall(), InceptionScore(4)])
    action(suite)
    suite.compute()


def test_bad_input_is_named():
    for action, message in [
        (lambda s: None, "no generated image arrived"),
        (lambda s: s.update(images(1, 3), torch.arange(1)), "FrechetDistance needs at least 2 generated images, got 1"),
        (lambda s: s.update(images(3, 3), torch.arange(3)), "PrecisionRecall needs at least 4 generated images, got 3"),
        (
            lambda s: s.update(images(6, 3)[:, :1], torch.arange(6)),
            r"expected shape \(B, 2, 5, 4\), got \(6, 1, 5, 4\)",
        ),
        (lambda s: s.update(images(6, 3).float(), torch.arange(6)), "dtype uint8"),
        (lambda s: s.update(images(6, 3).float() * torch.nan, torch.arange(6)), "dtype uint8, got torch.float32"),
        (lambda s: s.set_reference("x", images(9, 1).float() * torch.nan, SPEC), "dtype uint8, got torch.float32"),
        (lambda s: s.update(images(6, 3)[:, :, :3], torch.arange(6)), r"got \(6, 2, 3, 4\)"),
        (lambda s: s.update(images(6, 3)[:0], torch.arange(0)), "no generated image arrived"),
        (lambda s: s.set_reference("x", images(9, 1)[:0], SPEC), "has no images"),
        (lambda s: s.update(images(6, 3) + 100, torch.arange(6)), "outside 0 .. 199"),
        (lambda s: s.update(images(6, 3), torch.arange(5)), "5 sample indices came with 6 features"),
        (lambda s: s.update(images(6, 3), torch.tensor([0, 1, 2, 3, 4, 4])), "sample index 4 arrived twice"),
        (lambda s: s.set_reference("x", images(9, 1)[:, :, :3], ImageSpec(2, 3, 4, levels=200)), "cannot be compared"),
        (lambda s: s.set_reference("x", images(1, 1), SPEC), "needs at least 2 images, got 1"),
        (lambda s: s.set_reference("x", [], SPEC), "has no images"),
        (lambda s: s.set_reference("x", images(9, 1), SPEC, labels=torch.zeros(8)), "9 images but 8 labels"),
    ]:
        assert re.search(message, refusal(bad, action)), message


def test_features_that_are_not_finite_are_refused():
    extractor = Projection()
    suite = make([FrechetDistance()], extractor)
    extractor.matrix[0, 0] = torch.nan
    with pytest.raises(InputError, match="features of sample 7 are not finite"):
        suite.update(images(6, 3), torch.arange(7, 13))
    with pytest.raises(InputError, match="'train' reference are not finite"):
        make([FrechetDistance()], extractor)
    extractor = Projection()
    suite = make([InceptionScore(2)], extractor)
    extractor.matrix[:, -1] = torch.inf
    with pytest.raises(InputError, match="logits of sample 0 are not finite"):
        suite.update(images(6, 3), torch.arange(6))


def test_missing_parts_are_named():
    with pytest.raises(InputError, match=r"MetricSuite\.metrics is empty"):
        MetricSuite(Projection(), [])
    suite = MetricSuite(Projection(classes=0), [FrechetDistance()], cache=False)
    with pytest.raises(InputError, match="set_reference"):
        suite.update(images(5, 1), torch.arange(5))
    suite.set_reference("train", images(50, 1), SPEC)
    with pytest.raises(InputError, match="held-out"):
        floor(suite)
    for metric, message in ((InceptionScore(1), "gives features only"), (CopyShare(), "'heldout' reference part")):
        suite = MetricSuite(Projection(classes=0), [metric], cache=False)
        suite.set_reference("train", images(50, 1), SPEC)
        suite.update(images(50, 3), torch.arange(50))
        with pytest.raises(InputError, match=message):
            suite.compute()


def test_arguments_out_of_range_are_refused():
    said = {
        "InceptionScore": refusal(InceptionScore, 0),
        "PrecisionRecall": refusal(PrecisionRecall, k=0),
        "DensityCoverage": refusal(DensityCoverage, k=5, max_images=5),
        "CopyShare": refusal(CopyShare, max_images=0),
        "space": refusal(CopyShare, space="colours"),
        "Diversity": refusal(Diversity, max_images=1),
        "KernelDistance": refusal(KernelDistance, subset_size=2),
    }
    assert {name: name in line for name, line in said.items()} == dict.fromkeys(said, True), said


def test_constant_images_have_figures_that_say_so(caplog):
    suite = make()
    suite.update(torch.zeros(60, *SPEC.shape, dtype=torch.uint8), torch.arange(60))
    figures = suite.compute()
    assert figures["fid_projection"] > 1
    assert figures["is_projection"] == pytest.approx(1.0)
    assert figures["pairwise_distance_projection"] == pytest.approx(0.0, abs=1e-6)
    assert figures["recall_projection"] == 0.0
    assert "same features" in caplog.text


def test_constant_real_images_have_right_figures_or_a_clear_error():
    def against_constant(metric):
        suite = MetricSuite(Projection(), [metric], cache=False)
        suite.set_reference("train", torch.full((60, *SPEC.shape), 9, dtype=torch.uint8), SPEC)
        suite.update(images(60, 3), torch.arange(60))
        return suite.compute(), suite

    figures, suite = against_constant(FrechetDistance())
    features = suite.extractor(images(60, 3), SPEC).features
    constant = suite.extractor(torch.full((1, *SPEC.shape), 9, dtype=torch.uint8), SPEC).features
    # The distance to a point is the mean squared distance, with the unbiased variance.
    expected = (features.mean(0) - constant).square().sum() + features.var(0).sum()
    assert figures["fid_projection"] == pytest.approx(float(expected), rel=1e-9)
    figures, _ = against_constant(PrecisionRecall())
    assert figures["precision_projection"] == 0
    figures, _ = against_constant(KernelDistance(standardize=True))
    assert np.isfinite(figures["kid_projection"])
    with pytest.raises(InputError, match="all training images have the same features"):
        against_constant(Diversity())
