"""Thinned curves: the outline and the extremes of the whole, in a fraction of the points."""

from itertools import pairwise

import numpy as np

from lightning_gen.report.curves import BUCKETS, EARLY, edges, middles, pack, thin, unpack
from lightning_gen.report.tables import Table

MOST = 2 * (BUCKETS + EARLY) + 2


def test_extremes_first_and_last_are_kept():
    for count in (1, 2, 5, 200, 240, 241, 1000, 12345):
        values = np.random.default_rng(count).standard_cauchy(count)
        kept = thin(values)
        assert {0, count - 1, int(values.argmin()), int(values.argmax())} <= set(kept.tolist()), count
        assert (np.diff(kept) > 0).all(), count
        assert len(kept) <= min(count, MOST), count


def test_each_bucket_keeps_its_lowest_and_highest():
    values = np.random.default_rng(0).integers(0, 5, 3000).astype(float)  # with many ties
    kept = set(thin(values).tolist())
    bounds = edges(len(values))
    for start, end in pairwise(bounds):
        inside = values[[row for row in range(start, end) if row in kept]]
        assert (inside.min(), inside.max()) == (values[start:end].min(), values[start:end].max())


def test_a_single_spike_survives():
    values = np.zeros(100_000)
    values[77_777] = 1.0
    assert values[thin(values)].max() == 1.0


def test_the_start_is_finer_for_a_logarithmic_axis():
    sizes = np.diff(edges(100_000))
    assert sizes[:5].max() < 10
    assert sizes.max() <= -(-100_000 // BUCKETS)


def test_means_of_buckets_are_means_of_their_rows():
    values = np.random.default_rng(1).normal(size=1000)
    bounds = edges(1000)
    expected = [values[a:b].mean() for a, b in pairwise(bounds)]
    np.testing.assert_allclose(middles(values), expected)


def test_what_is_packed_can_be_unpacked_to_the_same_points():
    source = np.random.default_rng(2)
    loss = np.where(source.random(2000) < 0.2, np.nan, source.normal(size=2000))
    fid = np.full(2000, np.nan)
    fid[::500] = [4, 3, np.inf, 1]
    clock = np.linspace(0, 60, 2000)
    table = Table(["train/loss", "val/fid", "seconds"], 64.0 * np.arange(2000), np.stack([loss, fid, clock], axis=1))
    packed = unpack(pack(table))
    assert set(packed["curves"]) == {"train/loss", "val/fid"}  # time is an axis
    for name, column in (("train/loss", loss), ("val/fid", fid)):
        curve = packed["curves"][name]
        rows = np.cumsum(curve["rows"])
        whole = np.flatnonzero(np.isfinite(column))
        expected = whole[thin(column[whole])]
        assert np.array(packed["axes"]["images_seen"])[rows].tolist() == (64 * expected).tolist()
        np.testing.assert_allclose(curve["y"], column[expected], rtol=1e-4)
        np.testing.assert_allclose(np.array(packed["axes"]["seconds"])[rows], clock[expected], rtol=1e-4)
    assert "mean" not in packed["curves"]["val/fid"]
    mean = packed["curves"]["train/loss"]["mean"]
    assert len(mean["y"]) == len(mean["images_seen"]) == len(mean["seconds"])


def test_a_run_without_figures_packs_to_nothing():
    assert unpack(pack(Table()))["curves"] == {}
