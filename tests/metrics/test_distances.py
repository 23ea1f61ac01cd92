"""What makes distances fast changes no figure: halves of symmetric matrices, triangular roots."""

import numpy as np
import pytest
import torch

from lightning_gen.metrics import copy_test, frechet_distance, mean_pairwise_distance
from lightning_gen.metrics import distances as module
from lightning_gen.metrics.base import FeatureSet
from lightning_gen.metrics.distances import nearest, neighbour_distances, squared_distance_blocks
from lightning_gen.metrics.frechet import congruence, matrix_root
from lightning_gen.metrics.kernel import KernelDistance, kernel_sums


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pixels(n: int, p: int, seed: int, levels: int = 256) -> torch.Tensor:
    return torch.randint(levels, (n, p), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def integer_distances(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    a, b = a.numpy().astype(np.int64), b.numpy().astype(np.int64)
    return ((a[:, None] - b[None]) ** 2).sum(-1)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that cuts between blocks are met."""
    monkeypatch.setattr(module, "BLOCK", 400)


@pytest.mark.parametrize("p", [1, 64, 3072])
def test_distances_of_pixels_are_exact_integers(small_blocks, p):
    a, b = pixels(37, p, 0), pixels(61, p, 1)
    a[0], b[0], a[1], b[1] = 0, 255, 255, 0
    assert nearest(a, b)[0].flatten().tolist() == integer_distances(a, b).min(1).tolist()
    assert nearest(a[:1], b[:1])[0].flatten().tolist() == [255**2 * p]


def test_equally_near_pixels_are_a_tie():
    generated, train, heldout = (pixels(300, 9, seed, levels=4) for seed in range(3))
    to_train, to_heldout = (integer_distances(generated, side).min(1) for side in (train, heldout))
    expected = np.where(to_train < to_heldout, 1.0, np.where(to_train > to_heldout, 0.0, 0.5))
    assert 0.1 < (expected == 0.5).mean() < 0.9
    assert copy_test(generated, train, heldout).share == pytest.approx(expected.mean(), rel=1e-12)


def test_own_distances_come_once_for_each_pair(small_blocks):
    rows = normal(53, 4, 0) + 100
    expected = (rows[:, None] - rows[None]).square().sum(-1)
    cuts = list(squared_distance_blocks(rows))
    assert len(cuts) > 3
    for part, block in cuts:
        torch.testing.assert_close(block, expected[part, part.start :], rtol=1e-9, atol=1e-9)
        assert block.diagonal().eq(0).all()
    assert mean_pairwise_distance(rows) == pytest.approx(float(expected.sqrt().sum()) / (53 * 52), rel=1e-9)


def test_neighbour_distances_are_sorted_and_leave_oneself_out(small_blocks):
    rows = normal(41, 3, 0)
    rows[7] = rows[3]
    expected = (rows[:, None] - rows[None]).square().sum(-1).fill_diagonal_(torch.inf).sort(1).values[:, :6]
    torch.testing.assert_close(neighbour_distances(rows, 6), expected, rtol=1e-9, atol=1e-12)


def test_kernel_sums_of_a_set_with_itself_are_those_of_the_whole_matrix(small_blocks):
    rows = normal(45, 5, 0)
    kernel = ((rows @ rows.mT / 5 + 1) ** 3).fill_diagonal_(0)
    for sums in kernel_sums(rows):
        torch.testing.assert_close(sums, kernel.sum(1), rtol=1e-12, atol=0)
    kernel = (rows[:20] @ rows.mT / 5 + 1) ** 3
    for sums, expected in zip(kernel_sums(rows[:20], rows), (kernel.sum(1), kernel.sum(0)), strict=True):
        torch.testing.assert_close(sums, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("standardize", [False, True])
def test_each_reference_gets_the_kernel_distance_that_it_gets_alone(standardize):
    parts = {"train": normal(50, 4, 0), "heldout": normal(40, 4, 1) * torch.tensor([1.0, 2.0, 3.0, 4.0])}
    samples = normal(60, 4, 2) + 0.3
    both = KernelDistance(standardize=standardize)
    for part, rows in parts.items():
        both.set_reference(part, rows)
    figures = both.score(FeatureSet(60, samples))
    for part, key in (("train", "kid"), ("heldout", "kid/heldout")):
        alone = KernelDistance((part,), standardize=standardize)
        alone.set_reference(part, parts[part])
        expected = alone.score(FeatureSet(60, samples))
        assert figures[key] == pytest.approx(expected["kid"], rel=1e-12)
        assert figures[f"{key}/stderr"] == pytest.approx(expected["kid/stderr"], rel=1e-12)


def test_root_is_lower_triangular_also_of_a_singular_matrix():
    for rank in [30, 12]:
        factor = normal(30, rank, 0)
        cov = factor @ factor.mT
        root = matrix_root(cov)
        assert root.triu(1).eq(0).all()
        torch.testing.assert_close(root @ root.mT, cov, rtol=1e-10, atol=1e-10)


def test_congruence_is_the_full_product_below_the_diagonal():
    root, factor = normal(30, 30, 0).tril(), normal(30, 30, 1)
    expected = root.mT @ (factor @ factor.mT) @ root
    for columns in [1, 7, 30, 64]:
        torch.testing.assert_close(
            congruence(root, factor @ factor.mT, columns).tril(), expected.tril(), rtol=1e-11, atol=0
        )


@pytest.mark.parametrize("decades", [2, 12, 30])
def test_frechet_distance_is_the_closed_form_over_many_decades_of_variance(decades):
    basis = torch.linalg.qr(normal(40, 40, 0)).Q
    v1, v2 = (10 ** -torch.linspace(0, span, 40, dtype=torch.float64) for span in (decades, decades / 2))
    cov1, cov2 = ((basis * v) @ basis.mT for v in (v1, v2))
    ours = float(frechet_distance(torch.zeros(40), cov1, torch.zeros(40), 2 * cov2))
    assert ours == pytest.approx(float((v1.sqrt() - (2 * v2).sqrt()).square().sum()), rel=1e-9)
