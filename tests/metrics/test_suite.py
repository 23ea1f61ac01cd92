"""The suite: names, independence of cuts, order, padding and ranks, the cache, bad input, and what figures mean."""

import json
import os
import random
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from lightning_gen.data.digits import Digits
from lightning_gen.errors import InputError
from lightning_gen.metrics import (
    CopyShare,
    DensityCoverage,
    DigitsExtractor,
    Diversity,
    Extractor,
    FeatureMetric,
    Features,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    MetricSuite,
    PrecisionRecall,
)
from lightning_gen.spec import ImageSpec

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


@pytest.fixture(scope="module")
def digits():
    source = Digits()
    return source.spec, *(torch.from_numpy(source.load(part).levels) for part in ("train", "val", "test"))


# Names and description


def test_names_say_extractor_reference_and_detail():
    suite = make()
    suite.update(images(60, 3), torch.arange(60))
    assert set(suite.compute()) == {
        *("fid_projection", "fid_projection_heldout", "is_projection", "is_projection_std"),
        *("precision_projection", "recall_projection", "density_projection", "coverage_projection"),
        *("copy_share_pixels", "copy_share_pixels_low", "copy_share_pixels_high"),
        *("diversity_projection", "vendi_projection"),
        *("kid_projection", "kid_projection_stderr", "kid_projection_subsets", "kid_projection_subsets_std"),
        *("kid_projection_heldout", "kid_projection_heldout_stderr"),
        *("kid_projection_heldout_subsets", "kid_projection_heldout_subsets_std"),
    }
    description = suite.description()
    assert description["n"] == 60
    assert description["extractor"] == "projection"
    assert description["references"]["heldout"] == {"n": 50, "fingerprint": None}
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
    figures, floor = suite.compute(), suite.floor()
    assert floor["fid_projection"] > 0
    assert all(floor[name] == pytest.approx(figures[name], rel=1e-12) for name in floor)
    assert not any("heldout" in name or "copy" in name for name in floor)


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
    sys.path.insert(0, {folder!r})
    from test_suite import FrechetDistance, InceptionScore, everything, images, make

    def work(rank, world, file, cuts):
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=world)
        samples, results = images(83, 3), []
        for metrics in (everything(), [FrechetDistance(), InceptionScore(4)]):
            suite = make(metrics)
            mine = torch.arange(83).tensor_split(cuts)[rank].flip(0)
            for index in mine.split(11):
                suite.update(samples[index], index)
            results.append(suite.compute())
        everyones = [None] * world
        dist.all_gather_object(everyones, results)
        if rank == 0:
            print(json.dumps(everyones))

    if __name__ == "__main__":
        world, file, cuts = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
        # forked after the imports, which cost more than the work
        torch.multiprocessing.start_processes(work, (world, file, cuts), nprocs=world, start_method="fork")
    """
)


@pytest.mark.parametrize("cuts", [[40], [30, 83]], ids=["two", "three-one-empty"])
def test_figures_do_not_depend_on_ranks(tmp_path, cuts):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.format(folder=str(Path(__file__).parent)))
    command = [sys.executable, str(script), str(len(cuts) + 1), str(tmp_path / "store"), str(cuts)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    everyones = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(everyones) == len(cuts) + 1
    for i, metrics in enumerate((everything(), [FrechetDistance(), InceptionScore(4)])):
        suite = make(metrics)
        suite.update(images(83, 3), torch.arange(83))
        expected = suite.compute()
        for results in everyones:
            assert results[i] == pytest.approx(expected, rel=1e-10, abs=1e-13)


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


def test_reference_features_are_let_go_where_no_metric_needs_them():
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


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda s: None, "no generated image arrived"),
        (lambda s: s.update(images(1, 3), torch.arange(1)), "FrechetDistance needs at least 2 generated images, got 1"),
        (lambda s: s.update(images(3, 3), torch.arange(3)), "PrecisionRecall needs at least 4 generated images, got 3"),
        (
            lambda s: s.update(images(6, 3)[:, :1], torch.arange(6)),
            r"expected shape \(B, 2, 5, 4\), got \(6, 1, 5, 4\)",
        ),
        (lambda s: s.update(images(6, 3).float(), torch.arange(6)), "dtype uint8"),
        (lambda s: s.update(images(6, 3) + 100, torch.arange(6)), "outside 0 .. 199"),
        (lambda s: s.update(images(6, 3), torch.arange(5)), "5 sample indices came with 6 features"),
        (lambda s: s.update(images(6, 3), torch.tensor([0, 1, 2, 3, 4, 4])), "sample index 4 arrived twice"),
        (lambda s: s.set_reference("x", images(9, 1)[:, :, :3], ImageSpec(2, 3, 4, levels=200)), "cannot be compared"),
        (lambda s: s.set_reference("x", images(1, 1), SPEC), "needs at least 2 images, got 1"),
        (lambda s: s.set_reference("x", [], SPEC), "has no images"),
        (lambda s: s.set_reference("x", images(9, 1), SPEC, labels=torch.zeros(8)), "9 images but 8 labels"),
    ],
)
def test_bad_input_is_named(action, message):
    with pytest.raises(InputError, match=message):
        bad(action)


def test_features_that_are_not_finite_are_refused():
    extractor = Projection()
    suite = make([FrechetDistance()], extractor)
    extractor.matrix[0, 0] = torch.nan
    with pytest.raises(InputError, match="features of sample 7 are not finite"):
        suite.update(images(6, 3), torch.arange(7, 13))
    with pytest.raises(InputError, match="'train' reference are not finite"):
        make([FrechetDistance()], extractor)


def test_missing_parts_are_named():
    with pytest.raises(InputError, match=r"MetricSuite\.metrics is empty"):
        MetricSuite(Projection(), [])
    suite = MetricSuite(Projection(classes=0), [FrechetDistance()], cache=False)
    with pytest.raises(InputError, match="set_reference"):
        suite.update(images(5, 1), torch.arange(5))
    suite.set_reference("train", images(50, 1), SPEC)
    with pytest.raises(InputError, match="held-out"):
        suite.floor()
    for metric, message in ((InceptionScore(1), "gives features only"), (CopyShare(), "'heldout' reference part")):
        suite = MetricSuite(Projection(classes=0), [metric], cache=False)
        suite.set_reference("train", images(50, 1), SPEC)
        suite.update(images(50, 3), torch.arange(50))
        with pytest.raises(InputError, match=message):
            suite.compute()


@pytest.mark.parametrize(
    "make_metric",
    [
        lambda: InceptionScore(0),
        lambda: PrecisionRecall(k=0),
        lambda: DensityCoverage(k=5, max_images=5),
        lambda: CopyShare(max_images=0),
        lambda: CopyShare(space="colours"),
        lambda: Diversity(max_images=1),
        lambda: KernelDistance(subset_size=2),
    ],
)
def test_arguments_out_of_range_are_refused(make_metric):
    with pytest.raises(InputError):
        make_metric()


def test_constant_images_have_figures_that_say_so(caplog):
    suite = make()
    suite.update(torch.zeros(60, *SPEC.shape, dtype=torch.uint8), torch.arange(60))
    figures = suite.compute()
    assert figures["fid_projection"] > 1
    assert figures["is_projection"] == pytest.approx(1.0)
    assert figures["diversity_projection"] == pytest.approx(0.0, abs=1e-6)
    assert figures["recall_projection"] == 0.0
    assert "same features" in caplog.text


# What figures mean, on the digits


def digits_suite(digits, *metrics) -> MetricSuite:
    spec, train, val, test = digits
    suite = MetricSuite(DigitsExtractor(), metrics, cache=False)
    suite.set_reference("train", train, spec)
    suite.set_reference("heldout", torch.cat([val, test]), spec)
    return suite


def score(suite, samples):
    suite.reset()
    suite.update(samples, torch.arange(len(samples)))
    return suite.compute()


def test_distances_fall_from_noise_to_real(digits):
    spec, _, val, test = digits
    suite = digits_suite(digits, FrechetDistance(), KernelDistance())
    draw = torch.Generator().manual_seed(0)
    real = torch.cat([val, test])
    noise = torch.randint(spec.levels, real.shape, generator=draw)
    figures = []
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        replace = torch.rand(real.shape, generator=draw) < share
        figures.append(score(suite, torch.where(replace, noise, real).to(torch.uint8)))
    for name in ("fid_digits", "kid_digits"):
        values = [f[name] for f in figures]
        assert values == sorted(values, reverse=True)
        assert values[0] > 20 * abs(values[-1])
    assert abs(figures[-1]["kid_digits"]) < 3 * figures[-1]["kid_digits_stderr"]


def test_recall_falls_when_classes_are_missing_and_precision_with_quality(digits):
    _, _, val, test = digits
    source = Digits()
    labels = torch.from_numpy(np.concatenate([source.load(part).labels for part in ("val", "test")]))
    real = torch.cat([val, test])
    suite = digits_suite(digits, PrecisionRecall(), DensityCoverage(), Diversity())
    whole, half = score(suite, real), score(suite, real[labels < 5])
    assert half["recall_digits"] < 0.7 * whole["recall_digits"]
    assert half["coverage_digits"] < 0.7 * whole["coverage_digits"]
    assert half["precision_digits"] > 0.8 * whole["precision_digits"]
    noise = torch.randint(-5, 6, real.shape, generator=torch.Generator().manual_seed(0))
    noisy = score(suite, (real.int() + noise).clamp(0, 16).to(torch.uint8))
    assert noisy["precision_digits"] < 0.7 * whole["precision_digits"]
    assert noisy["density_digits"] < 0.7 * whole["density_digits"]


def test_copy_test_fires_on_copies_only(digits):
    spec, train, val, test = digits
    draw = torch.Generator().manual_seed(0)
    suite = digits_suite(digits, CopyShare())
    share = lambda samples: score(suite, samples)["copy_share_pixels"]  # noqa: E731
    mixture = lambda k, images: torch.from_numpy(  # noqa: E731
        GaussianMixture(k, reg_covar=1e-3, random_state=0)
        .fit(images.flatten(1).double().numpy())
        .sample(1000)[0]
        .round()
        .clip(0, 16)
        .astype(np.uint8)
    ).reshape(-1, 1, 8, 8)

    real = torch.cat([val, test])
    assert share(train) > 0.8
    one_level = torch.randint(-1, 2, train.shape, generator=draw)
    assert share((train.int() + one_level).clamp(0, 16).to(torch.uint8)) > 0.8
    assert share(mixture(50, train)) > 0.65
    pairs = torch.randint(len(real), (2, 1000), generator=draw)
    assert share(((real[pairs[0]].int() + real[pairs[1]].int()) // 2).to(torch.uint8)) < 0.45

    third = MetricSuite(DigitsExtractor(), [CopyShare()], cache=False)
    third.set_reference("train", train, spec)
    third.set_reference("heldout", test, spec)
    assert abs(score(third, val)["copy_share_pixels"] - 0.5) < 0.1
    assert abs(score(third, mixture(1, val))["copy_share_pixels"] - 0.5) < 0.1
