"""Tables, trees and noise against loops, brute force over all spanning trees, and enumeration."""

import itertools

import numpy as np
import pytest
import torch

from lightning_gen.core.errors import InputError
from lightning_gen.distributions import CategoricalComponents, TreeComponents
from lightning_gen.distributions.categorical import noise_channel, quantile
from lightning_gen.distributions.chow_liu import maximum_spanning_tree

K, D, L = 2, 4, 3
EVERY = torch.tensor(list(itertools.product(range(L), repeat=D)))
KINDS = [CategoricalComponents, TreeComponents]
OPTIONS = {"smoothing": 0.7, "shared": 1.5, "blur": 0.3, "blur_width": 0.8, "blur_ends": 0.1}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def data(n=50, seed=0):
    x = torch.randint(L, (n, D), generator=torch.Generator().manual_seed(seed))
    x[:, 2] = torch.where(torch.arange(n) % 3 > 0, x[:, 0], x[:, 2])  # something to depend on
    x[:, 1] = torch.where(torch.arange(n) % 4 > 0, x[:, 3], x[:, 1])
    return x


def shares_of(n=50, seed=1):
    return torch.rand(n, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(1)


def fitted(kind, **options):
    parts = kind(K, D, L, **options)
    parts.prepare(data())
    parts.update(parts.statistics(data(), shares_of()))
    return parts


def all_trees(n):
    """Yield the edges of every spanning tree of n nodes (there are n^(n-2))."""
    edges = list(itertools.combinations(range(n), 2))
    for tree in itertools.combinations(edges, n - 1):
        reached = {0}
        for _ in range(n):
            reached |= {a for a, b in tree if b in reached} | {b for a, b in tree if a in reached}
        if len(reached) == n:
            yield tree


def parents_along(tree):
    """Return the parent of each of D nodes of a tree that grows from node 0, -1 for that one."""
    parent, reached = torch.full((D,), -1), [0]
    while len(reached) < D:
        a, b = next((a, b) for edge in tree for a, b in (edge, edge[::-1]) if a in reached and b not in reached)
        parent[b] = a
        reached.append(b)
    return parent


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_images_sum_to_one(kind):
    for parts in (kind(K, D, L), fitted(kind), fitted(kind, **OPTIONS)):
        torch.testing.assert_close(parts.log_prob(EVERY).exp().sum(0), torch.ones(K).double(), rtol=1e-12, atol=0)


def test_smoothed_tables_are_counts_with_images_added():
    parts, x, shares = fitted(CategoricalComponents, smoothing=0.7), data(), shares_of()
    for k in range(K):
        counts = np.array([[shares[x[:, d] == a, k].sum() for a in range(L)] for d in range(D)]) + 0.7 / L
        np.testing.assert_allclose(parts.table[k].exp(), counts / counts.sum(1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_blur_is_the_mean_over_the_channel(kind):
    parts = fitted(kind, **OPTIONS)
    for x in data(3, 5):
        chance = torch.stack([parts.channel[x, moved].prod() for moved in EVERY])
        expected = chance @ parts.log_prob(EVERY)
        torch.testing.assert_close(parts.expected_log_prob(x[None])[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_blurred_and_smoothed_counts_are_those_of_the_blurred_images(kind):
    """One component fitted to images is the one fitted to all images with weights, once they stand for both."""
    x, n = data(), 50
    parts = fitted(kind, **OPTIONS)
    weights = torch.stack([torch.stack([parts.channel[row, moved].prod() for moved in EVERY]) for row in x])
    plain = kind(K, D, L, smoothing=1e-12)
    shares = (
        weights.T @ shares_of() + OPTIONS["smoothing"] / len(EVERY) + OPTIONS["shared"] / n * weights.sum(0)[:, None]
    )
    plain.update(plain.statistics(EVERY, shares))
    torch.testing.assert_close(parts.log_prob(EVERY), plain.log_prob(EVERY), rtol=1e-9, atol=1e-9)


def test_the_tree_is_the_best_of_all_spanning_trees():
    trees = list(all_trees(D))
    assert len(trees) == D ** (D - 2)
    x, shares = data(), shares_of()
    for options in ({"smoothing": 0.5}, OPTIONS):
        parts = fitted(TreeComponents, **options)
        found = (shares * parts.expected_log_prob(x)).sum() + parts.log_prior()
        objectives = []
        statistics = parts.statistics(x, shares)
        for pair in itertools.product(trees, repeat=K):  # each component with each tree, its tables the best for it
            for k, tree in enumerate(pair):
                parent = parents_along(tree)
                levels = statistics["levels"][k] @ parts.channel + parts.level_prior
                pairs = parts._blurred(statistics["pairs"][k]) + parts.prior
                parts.parent[k], parts.table[k] = parent, parts._conditionals(parent, pairs, levels)
            objectives.append(float((shares * parts.expected_log_prob(x)).sum() + parts.log_prior()))
        assert float(found) == pytest.approx(max(objectives), rel=1e-12)
        assert max(objectives) - min(objectives) > 1


def test_spanning_trees_against_brute_force(generator):
    for _ in range(5):
        weights = torch.rand(5, 5, generator=generator)
        weights = weights + weights.T
        best = max(sum(float(weights[edge]) for edge in tree) for tree in all_trees(5))
        order, parent = maximum_spanning_tree(weights)
        found = sum(float(weights[d, parent[d]]) for d in range(5) if parent[d] >= 0)
        assert found == pytest.approx(best)
        place = {int(d): i for i, d in enumerate(order)}
        assert all(place[int(parent[d])] < place[d] for d in range(1, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_parts_add_up_to_those_of_the_whole(kind):
    parts, x, shares = kind(K, D, L), data(), shares_of()
    whole = parts.statistics(x, shares)
    cuts = [parts.statistics(a, b) for a, b in zip(x.split([1, 0, 24, 25]), shares.split([1, 0, 24, 25]), strict=True)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(cut[name] for cut in cuts), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_known_pixels_and_completions_against_enumeration(kind, generator):
    parts, n = fitted(kind, **OPTIONS), 20_000
    known = torch.tensor([True, False, False, True])
    x = data(1, 4)
    fits = (EVERY[:, known] == x[:, known]).all(1)
    joint = parts.log_prob(EVERY[fits]).exp()
    masked = x.masked_fill(~known, 0)  # what stands at unknown pixels must not matter
    torch.testing.assert_close(parts.known_log_prob(masked, known[None])[0].exp(), joint.sum(0))
    for k in range(K):
        out = parts.complete(masked.repeat(n, 1), known.repeat(n, 1), torch.full((n,), k), generator)
        share = torch.stack([(out == image).all(1).double().mean() for image in EVERY[fits]])
        assert share.sum() == pytest.approx(1)
        chance = joint[:, k] / joint[:, k].sum()
        assert ((share - chance).abs() < 5 * (chance * (1 - chance) / n).sqrt() + 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_as_frequent_as_they_are_probable(kind, generator):
    parts, n = fitted(kind, **OPTIONS), 20_000
    out = parts.sample(torch.full((n,), 1), generator)
    cells = (out * L ** torch.arange(D - 1, -1, -1)).sum(1)
    share = torch.bincount(cells, minlength=L**D) / n
    chance = parts.log_prob(EVERY)[:, 1].exp()
    assert ((share - chance).abs() < 5 * (chance / n).sqrt()).all()


def test_the_channel_keeps_the_ends_and_sums_to_one():
    channel = noise_channel(5, 0.4, 1.0, 0.1)
    torch.testing.assert_close(channel.sum(1), torch.ones(5).double())
    kernel = np.exp(-np.abs(np.arange(5) - 2))
    np.testing.assert_allclose(channel[2], 0.6 * np.eye(5)[2] + 0.4 * kernel / kernel.sum())
    assert float(channel[0, 0]) > 0.9 > float(channel[2, 2])


def test_quantiles_never_leave_the_table():
    probability = torch.tensor([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]], dtype=torch.float64)
    uniform = torch.tensor([[0.0, 0.19, 0.21, 1 - 2**-53]], dtype=torch.float64).repeat(2, 1)
    assert quantile(probability, uniform).tolist() == [[0, 0, 2, 2], [0, 0, 0, 0]]


def test_trees_that_do_not_fit_memory_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"need 1,?\d+ GiB .* take fewer components, smaller images, or Categorical"):
        TreeComponents(1, 784, 256)


def test_numbers_out_of_range_are_refused():
    for options, message in (
        ({"smoothing": 0.0}, "smoothing must be above 0"),
        ({"shared": -1.0}, "shared must be at least 0"),
        ({"blur": 1.1}, r"blur must be in \[0, 1\]"),
        ({"blur_ends": -0.1}, r"blur_ends must be in \[0, 1\]"),
        ({"blur_width": 0.0}, "blur_width must be above 0"),
    ):
        for kind in KINDS:
            with pytest.raises(InputError, match=message):
                kind(K, D, L, **options)
