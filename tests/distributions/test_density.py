"""What every density that EM fits keeps to, by enumeration and quadrature; mixtures also against scikit-learn.

A density joins by a row in EXACT, if its data are levels, or in REAL.
"""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Sklearn

from lightning_gen.core.errors import InputError
from lightning_gen.distributions import (
    CategoricalComponents,
    Components,
    DiagonalGaussianComponents,
    FullGaussianComponents,
    LowRankGaussianComponents,
    TreeComponents,
    components,
)
from lightning_gen.distributions.clusters import kmeans
from lightning_gen.distributions.density import Density
from lightning_gen.distributions.hidden_markov import HiddenMarkov, Scan
from lightning_gen.distributions.mixture import Mixture

D, L, N = 4, 3, 60
SHAPE = (1, 2, 2)
BLUR = {"levels": L, "blur": 0.3, "blur_ends": 0.1, "shared": 1.0}
NOISE = {"noise_variance": 1 / 12, "prior_strength": 10.0, "prior_variance": 0.1}


def mixture(parts: type[Components], count: int, **options):
    return partial(Mixture, partial(parts, dims=D, **options), count)


def chain(parts: type[Components], states: int, by_rows: bool, homogeneous: bool, **options):
    return partial(HiddenMarkov, partial(parts, **options), states, Scan(SHAPE, by_rows), homogeneous)


EXACT = {
    "categorical": mixture(CategoricalComponents, 2, **BLUR),
    "trees": mixture(TreeComponents, 2, **BLUR),
    "rows": chain(CategoricalComponents, 2, True, True, levels=L),
    "pixels": chain(CategoricalComponents, 3, False, False, levels=L),
}
REAL = {
    "full": mixture(FullGaussianComponents, 2, **NOISE),
    "diagonal": mixture(DiagonalGaussianComponents, 3, **NOISE),
    "low_rank": mixture(LowRankGaussianComponents, 2, rank=2, **NOISE),
    "gaussian rows": chain(DiagonalGaussianComponents, 2, True, True, **NOISE),
}
ALL = {**EXACT, **REAL}


@pytest.fixture(params=ALL)
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def rows(n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    """Return levels (n, D) with structure, and classes that differ."""
    source = np.random.default_rng(n)
    labels = source.integers(2, size=n)
    levels = source.integers(L, size=(n, D))
    levels[:, 1] = np.where(source.random(n) < 0.8, levels[:, 0], levels[:, 1])
    levels[:, 2] = np.where(source.random(n) < 0.7, 2 * labels, levels[:, 2])
    return torch.from_numpy(levels), torch.from_numpy(labels)


def data_of(name: str, levels: torch.Tensor) -> torch.Tensor:
    """Return what the density is of: levels, or numbers about their middle."""
    return levels if name in EXACT else levels.double() - 1


def em_step(density: Density, x: torch.Tensor, labels: torch.Tensor | None) -> float:
    """Take a step, and return the penalised objective before it."""
    statistics = density.expectation(x, labels)
    objective = statistics["log_likelihood"] + density.log_prior()
    density.maximisation(statistics)
    return float(objective)


def fitted(name: str, groups: int = 1, steps: int = 5) -> Density:
    density, (levels, labels) = ALL[name](groups=groups), rows()
    labels = labels if groups > 1 else None
    x = data_of(name, levels)
    density.start(x, levels, labels, seed=0)
    for _ in range(steps):
        em_step(density, x, labels)
    return density


def kinds(name: str):
    """Yield fitted densities, and the label that they are given: of one class, of a mixture of two, of one of two."""
    yield fitted(name), None
    both = fitted(name, groups=2)
    yield both, None
    yield both, 1


def labels_of(label: int | None, n: int) -> torch.Tensor | None:
    return None if label is None else torch.full((n,), label)


def nodes(name: str, dims: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return points (P, dims), weights and cells of a quadrature over the L^dims unit cells around all levels; of
    levels, these themselves."""
    if name in EXACT:
        line, weights, levels = torch.arange(L), torch.ones(L, dtype=torch.float64), torch.arange(L)
    else:
        places, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(6))
        line = torch.cat([places / 2 + level - 1 for level in range(L)])
        weights, levels = (weights / 2).repeat(L), torch.arange(L).repeat_interleave(6)
    points, mass, cells = (torch.cartesian_prod(*[axis] * dims).view(-1, dims) for axis in (line, weights, levels))
    return points, mass.prod(1), cell_of(cells)


def cell_of(levels: torch.Tensor) -> torch.Tensor:
    return (levels * L ** torch.arange(levels.shape[1] - 1, -1, -1)).sum(1)


def shares_of_cells(name: str, drawn: torch.Tensor) -> torch.Tensor:
    """Return which share of drawn data (n, dims) falls into each cell."""
    if name in REAL:
        drawn = (drawn + 1.5).floor().long()
    inside = ((drawn >= 0) & (drawn < L)).all(1)
    return torch.bincount(cell_of(drawn[inside]), minlength=L ** drawn.shape[1]) / len(drawn)


def masses(name: str, log_prob, dims: int) -> torch.Tensor:
    """Return the probability of each cell by a log density of points (P, dims)."""
    points, weights, cells = nodes(name, dims)
    density = torch.cat([log_prob(part) for part in points.split(20_000)]).exp()
    return torch.zeros(L**dims, dtype=torch.float64).index_add_(0, cells, density * weights)


# --- distributions ----------------------------------------------------------------------------------------------------


def test_draws_are_as_frequent_as_they_are_probable(name):
    n = 20_000
    for density, label in kinds(name):
        drawn = density.sample(n, labels_of(label, n), torch.Generator().manual_seed(0))
        chance = masses(name, lambda x, d=density, y=label: d.log_prob(x, labels_of(y, len(x))), D)
        if name in EXACT:
            assert float(chance.sum()) == pytest.approx(1, rel=1e-12)
        share = shares_of_cells(name, drawn)
        assert ((share - chance).abs() < 5 * (chance * (1 - chance) / n).sqrt() + 1e-6).all()


def test_a_density_before_its_start_is_one_already(name):
    for groups in (1, 2):
        total = masses(name, ALL[name](groups=groups).log_prob, D).sum()
        assert 0 < float(total) < 1 + 1e-12
        assert name in REAL or float(total) == pytest.approx(1, rel=1e-12)


def test_known_numbers_have_the_marginal_density(name):
    known = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1]]).bool()
    x = data_of(name, rows()[0])[:2]
    if name in EXACT:
        line, weight = torch.arange(L), 1.0
    else:
        line, weight = torch.linspace(-7, 7, 281, dtype=torch.float64), 0.05
    for density, label in kinds(name):
        for row, mask in zip(x, known, strict=True):
            unknown = int((~mask).sum())
            points = row.repeat(len(line) ** unknown, 1)
            points[:, ~mask] = torch.cartesian_prod(*[line] * unknown).view(-1, unknown)
            labels = labels_of(label, len(points))
            expected = (density.log_prob(points, labels).exp() * weight**unknown).sum().log()
            masked = torch.where(mask, row, 0)  # what stands at unknown places must not matter
            found = density.known_log_prob(masked[None], mask[None], labels_of(label, 1))
            assert float(found) == pytest.approx(float(expected), rel=1e-6)
        every, labels = torch.ones_like(known), labels_of(label, 2)
        torch.testing.assert_close(density.known_log_prob(x, every, labels), density.log_prob(x, labels))
        nothing = density.known_log_prob(x, ~every, labels)
        torch.testing.assert_close(nothing, torch.zeros_like(nothing), rtol=0, atol=1e-12)


def test_completions_are_drawn_from_the_conditional(name):
    n, mask = 20_000, torch.tensor([True, False, False, True])
    x = data_of(name, torch.tensor([[2, 0, 1, 1]]))
    for density, label in kinds(name):

        def conditional(points, density=density, label=label):
            whole, labels = x.repeat(len(points), 1), labels_of(label, len(points))
            whole[:, ~mask] = points
            return density.log_prob(whole, labels) - density.known_log_prob(whole, mask.expand_as(whole), labels)

        given = torch.where(mask, x, 0).repeat(n, 1)
        labels, source = labels_of(label, n), torch.Generator().manual_seed(0)
        out = density.complete(given, mask.repeat(n, 1), labels, source)
        assert torch.equal(out[:, mask], x[:, mask].expand(n, -1))
        chance = masses(name, conditional, 2)
        share = shares_of_cells(name, out[:, ~mask])
        assert ((share - chance).abs() < 5 * (chance * (1 - chance) / n).sqrt() + 1e-6).all()
        assert float(chance.max()) < 0.9  # so uncertain that the test can fail


def test_without_labels_a_density_per_class_is_their_mixture(name):
    density, x = fitted(name, groups=2), data_of(name, rows()[0])
    of_class = torch.stack([density.log_prob(x, labels_of(k, N)) for k in range(2)], 1)
    torch.testing.assert_close(density.log_prob(x), (of_class + density.log_class_shares).logsumexp(1))
    counts = torch.bincount(rows()[1]).double()
    shares = (counts + (density.components if isinstance(density, Mixture) else 1)).log()  # and what the prior adds
    torch.testing.assert_close(density.log_class_shares, shares - shares.logsumexp(0))


def test_a_density_per_class_is_a_density_of_each_class_alone(name, monkeypatch):
    for kind in {type(part) for part in ALL[name]().modules() if isinstance(part, Components)}:
        monkeypatch.setattr(kind, "prepare", lambda *_: None)  # priors like the average row are of all classes
    levels, labels = rows()
    x, own = data_of(name, levels), labels == 1
    both, alone = fitted(name, groups=2, steps=3), ALL[name]()
    alone.start(x[own], levels[own], None, seed=0)
    for _ in range(3):
        em_step(alone, x[own], None)
    torch.testing.assert_close(both.log_prob(x, labels_of(1, N)), alone.log_prob(x), rtol=1e-9, atol=1e-9)
    assert both.free_parameters == 2 * alone.free_parameters


# --- fitting ----------------------------------------------------------------------------------------------------------


def test_em_never_lowers_its_objective(name):
    levels, labels = rows()
    x = data_of(name, levels)
    for groups in (1, 2):
        density, own = ALL[name](groups=groups), labels if groups > 1 else None
        density.start(x, levels, own, seed=0)
        objectives = [em_step(density, x, own) for _ in range(25)]
        assert min(b - a for a, b in itertools.pairwise(objectives)) > -1e-9
        assert objectives[-1] > objectives[0] + 1e-3


def test_statistics_of_parts_add_up_to_those_of_the_whole(name):
    levels, labels = rows()
    x, cuts = data_of(name, levels), [1, 0, 24, 35]
    for groups in (1, 2):
        density = fitted(name, groups, steps=1)
        own = labels if groups > 1 else None
        of_parts = [None] * 4 if own is None else own.split(cuts)
        parts = [density.expectation(part, y) for part, y in zip(x.split(cuts), of_parts, strict=True)]
        for key, value in density.expectation(x, own).items():
            torch.testing.assert_close(sum(part[key] for part in parts), value, rtol=1e-10, atol=1e-10)


def test_a_start_in_chunks_is_the_start_of_all_rows(name, monkeypatch):
    levels, labels = rows()
    x = data_of(name, levels)
    for groups in (1, 2):
        own = labels if groups > 1 else None
        whole, cut = ALL[name](groups=groups), ALL[name](groups=groups)
        whole.start(x, levels, own, seed=0)
        seen = []
        with monkeypatch.context() as patch:
            for kind in {type(part) for part in cut.modules() if isinstance(part, Components)}:

                def noting(self, x, shares, statistics=kind.statistics, seen=seen):
                    seen.append(len(x))
                    return statistics(self, x, shares)

                patch.setattr(kind, "statistics", noting)
            patch.setattr(components, "CHUNK", 7 * cut.row_cost)
            cut.start(x, levels, own, seed=0)
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(cut.state_dict()[key], value, rtol=1e-9, atol=1e-12, msg=key)
        if not isinstance(cut, HiddenMarkov):  # whose statistics are of steps
            assert max(seen, default=0) <= 7


def test_other_seeds_start_elsewhere(name):
    levels, _ = rows()
    # Of distinct rows only, so that no clustering stands out.
    levels = levels.unique(dim=0)
    x, starts = data_of(name, levels), []
    for seed in range(4):
        density = ALL[name]()
        density.start(x, levels, None, seed)
        starts.append(density.log_prob(x))
    assert any(not torch.allclose(start, starts[0]) for start in starts[1:])


def test_kmeans_of_few_distinct_rows_gives_each_its_own():
    assert kmeans(torch.tensor([[1.0], [3.0], [1.0], [2.0]]), 5, 0).tolist() == [0, 2, 0, 1]


# --- mixtures ---------------------------------------------------------------------------------------------------------


def test_a_gaussian_mixture_equals_scikit_learns_at_the_same_parameters():
    for name, kind in {"full": "full", "diagonal": "diag"}.items():
        density = fitted(name)
        means = density.parts.mean.numpy()
        oracle = Sklearn(len(means), covariance_type=kind)
        oracle.weights_, oracle.means_ = density.log_weights.exp()[0].numpy(), means
        if name == "full":
            oracle.precisions_cholesky_ = density.parts.whitening.transpose(1, 2).numpy()
        else:
            oracle.precisions_cholesky_ = density.parts.variance.rsqrt().numpy()
        x = data_of(name, rows()[0]) + 0.3
        np.testing.assert_allclose(density.log_prob(x), oracle.score_samples(x.numpy()), rtol=1e-9)
        assert density.free_parameters == oracle._n_parameters()


def test_one_em_step_equals_scikit_learns(monkeypatch):
    monkeypatch.setattr(Mixture, "weight_prior", 0.0)
    x, source = data_of("full", rows()[0]), np.random.default_rng(0)
    for name, kind in {"full": "full", "diagonal": "diag"}.items():
        parts = FullGaussianComponents if name == "full" else DiagonalGaussianComponents
        density = mixture(parts, 2, prior_strength=0.0)()
        start = {
            "weights_init": np.array([0.3, 0.7]),
            "means_init": source.normal(size=(2, 4)),
            "precisions_init": np.stack([np.eye(4), 2 * np.eye(4)]) if name == "full" else source.random((2, 4)) + 1,
        }
        oracle = Sklearn(2, covariance_type=kind, reg_covar=0.0, max_iter=1, **start)
        with pytest.warns(UserWarning, match="did not converge"):
            oracle.fit(x.numpy())
        density.log_weights.data[0] = torch.from_numpy(start["weights_init"]).log()
        density.parts.hold("mean", torch.from_numpy(start["means_init"]))
        precision = torch.from_numpy(start["precisions_init"])
        density.parts.hold(*(("whitening", precision.sqrt()) if name == "full" else ("variance", 1 / precision)))
        assert em_step(density, x, None) / N == pytest.approx(oracle.lower_bound_, rel=1e-9)
        np.testing.assert_allclose(density.log_weights.exp()[0], oracle.weights_, rtol=1e-9)
        np.testing.assert_allclose(density.parts.mean, oracle.means_, rtol=1e-7)
        found = density.parts.covariance() if name == "full" else density.parts.variance
        np.testing.assert_allclose(found, oracle.covariances_, rtol=1e-7)


def test_independent_pixels_are_a_mixture_of_one():
    density, (levels, _) = mixture(CategoricalComponents, 1, levels=L, smoothing=1e-9)(), rows()
    density.start(levels, levels, None, seed=0)
    counts = torch.stack([(levels == a).double().mean(0) for a in range(L)], 1)
    torch.testing.assert_close(density.log_prob(levels), counts[torch.arange(D), levels].log().sum(1))


def test_the_weights_have_one_row_in_each_component_beforehand():
    density, (levels, labels) = ALL["categorical"](groups=2), rows()
    shares = torch.zeros(N, 4, dtype=torch.float64)
    for group in range(2):
        own = torch.nonzero(labels == group)[:, 0]
        shares[own, 2 * group + kmeans(levels[own].double(), 2, 0)] = 1
    density.start(levels, levels, labels, seed=0)
    counts = shares.sum(0).view(2, 2) + 1
    torch.testing.assert_close(density.log_weights, (counts / counts.sum(1, keepdim=True)).log())
    uniform = ALL["categorical"]()
    assert float(uniform.log_prior() - uniform.parts.log_prior()) == pytest.approx(2 * math.log(0.5))


def test_a_mixture_without_components_is_refused():
    for name in ("categorical", "full"):
        with pytest.raises(InputError, match=r"Mixture\.components must be a positive integer, got 0"):
            Mixture(ALL[name].args[0], 0)
