"""Hidden Markov models against hmmlearn, and against sums over all paths."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hmmlearn.hmm import CategoricalHMM, GaussianHMM

from lightning_gen.core.errors import InputError
from lightning_gen.distributions import CategoricalComponents, DiagonalGaussianComponents, hidden_markov
from lightning_gen.distributions.clusters import kmeans
from lightning_gen.distributions.hidden_markov import HiddenMarkov, Scan

S, L, N = 3, 4, 40
SHAPE = (1, 3, 2)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def rows(n=N, shape=SHAPE, seed=0):
    levels = torch.randint(L, (n, *shape), generator=torch.Generator().manual_seed(seed))
    levels[:, :, 1:] = torch.where(levels[:, :, :-1] > 1, levels[:, :, :-1], levels[:, :, 1:])
    return levels.flatten(1)


def fitted(make, by_rows=True, homogeneous=True, groups=1, steps=3, is_real=False):
    density, levels = HiddenMarkov(make, S, Scan(SHAPE, by_rows), homogeneous, groups), rows()
    x = levels.double() if is_real else levels
    labels = torch.arange(N) % 2 if groups > 1 else None
    density.start(x, levels, labels, seed=0)
    for _ in range(steps):
        density.maximisation(density.expectation(x, labels))
    return density, x


def like_hmmlearn(density, x):
    """Return hmmlearn's model with the parameters of a homogeneous one, and its observations of rows of data."""
    flat = density.scan.split(x).flatten(0, 1)
    if x.is_floating_point():
        oracle = GaussianHMM(
            S, covariance_type="diag", min_covar=0.0, covars_prior=0.0, covars_weight=0.0, init_params=""
        )
        oracle.means_ = density.parts[0].mean.numpy().copy()
        oracle.covars_ = density.parts[0].variance.numpy().copy()
    else:
        oracle = CategoricalHMM(S, init_params="")
        oracle.emissionprob_ = density.parts[0].table.exp().numpy()[:, 0]
        oracle.n_features = L
    oracle.startprob_ = density.log_initial.exp()[0].numpy()
    oracle.transmat_ = density.log_transition.exp()[0, 0].numpy()
    return oracle, flat.numpy(), [density.steps] * len(x)


tables = partial(CategoricalComponents, levels=L)
KINDS = {
    "categorical pixels": partial(fitted, partial(tables, smoothing=1e-9), by_rows=False),
    "gaussian rows": partial(fitted, partial(DiagonalGaussianComponents, prior_strength=0.0), is_real=True),
    "gaussian pixels": partial(
        fitted, partial(DiagonalGaussianComponents, prior_strength=0.0), by_rows=False, is_real=True
    ),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_likelihoods_and_one_step_of_baum_welch_equal_hmmlearns(make, monkeypatch):
    monkeypatch.setattr(HiddenMarkov, "chain_prior", 1e-12)
    density, x = make()
    oracle, flat, lengths = like_hmmlearn(density, x)
    expected = [oracle.score(each) for each in np.split(flat, len(lengths))]
    np.testing.assert_allclose(density.log_prob(x), expected, rtol=1e-9)
    oracle.n_iter = 1
    oracle.fit(flat, lengths)
    density.maximisation(density.expectation(x, None))
    np.testing.assert_allclose(density.log_initial.exp()[0], oracle.startprob_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(density.log_transition.exp()[0, 0], oracle.transmat_, rtol=1e-6, atol=1e-9)
    if x.is_floating_point():
        np.testing.assert_allclose(density.parts[0].mean, oracle.means_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(torch.diag_embed(density.parts[0].variance), oracle.covars_, rtol=1e-6, atol=1e-9)
    else:
        np.testing.assert_allclose(density.parts[0].table.exp()[:, 0], oracle.emissionprob_, rtol=1e-6, atol=1e-8)


def test_statistics_are_the_posterior_sums_over_all_paths():
    for by_rows, homogeneous in itertools.product((True, False), repeat=2):
        density, _ = fitted(tables, by_rows, homogeneous)
        x = rows(5, seed=3)
        statistics = density.expectation(x, None)
        emissions = density._emissions(density.scan.split(x), "log_prob")[:, 0]
        initial = torch.zeros(S, dtype=torch.float64)
        moves = torch.zeros(density.steps - 1, S, S, dtype=torch.float64)
        total = 0.0
        paths = torch.tensor(list(itertools.product(range(S), repeat=density.steps)))
        for b in range(len(x)):
            logs = density.log_initial[0][paths[:, 0]] + emissions[0, b][paths[:, 0]]
            for t in range(1, density.steps):
                logs = logs + density._transition_to(t)[0][paths[:, t - 1], paths[:, t]] + emissions[t, b][paths[:, t]]
            total += float(logs.logsumexp(0))
            share = logs.softmax(0)
            initial.index_add_(0, paths[:, 0], share)
            for t in range(1, density.steps):
                moves[t - 1].view(-1).index_add_(0, paths[:, t - 1] * S + paths[:, t], share)
        assert float(statistics["log_likelihood"]) == pytest.approx(total, rel=1e-10)
        torch.testing.assert_close(statistics["initial"][0], initial)
        expected = moves.sum(0, keepdim=True) if homogeneous else moves
        torch.testing.assert_close(statistics["transition"][:, 0], expected)


def test_steps_are_rows_and_pixels_in_raster_order_and_come_back():
    shape = (3, 4, 5)
    x = torch.arange(2 * 60).view(2, 60)
    image = x[1].view(shape)
    by_rows, by_pixels = Scan(shape, True), Scan(shape, False)
    assert (by_rows.steps, by_rows.step_dims) == (4, 15)
    assert (by_pixels.steps, by_pixels.step_dims) == (20, 3)
    assert torch.equal(by_rows.split(x)[1, 2], image[:, 2].flatten())
    assert torch.equal(by_pixels.split(x)[1, 7], image[:, 1, 2])
    for scan in (by_rows, by_pixels):
        assert torch.equal(scan.join(scan.split(x)), x)


def test_extreme_evidence_neither_overflows_nor_underflows():
    density = HiddenMarkov(DiagonalGaussianComponents, 2, Scan((1, 40, 40), True), True)
    density.parts[0].hold("variance", torch.full((2, 40), 1e-4, dtype=torch.float64))
    x = torch.randint(256, (3, 1600), generator=torch.Generator().manual_seed(0)).double()
    nats = density.log_prob(x)
    assert torch.isfinite(nats).all()
    assert float(nats.max()) < -1e9
    assert all(torch.isfinite(value).all() for value in density.expectation(x, None).values())


def test_states_of_a_class_never_leave_it():
    density, _ = fitted(tables, groups=2)
    statistics = density.expectation(rows(6, seed=5), torch.tensor([0, 1, 0, 1, 1, 1]))
    torch.testing.assert_close(statistics["initial"].sum(1), torch.tensor([2.0, 4.0]).double())
    torch.testing.assert_close(statistics["transition"].sum((0, 2, 3)), torch.tensor([4.0, 8.0]).double())


def test_k_means_sees_some_steps_and_the_others_go_to_the_nearest_centre(monkeypatch):
    for by_rows, back in ((True, 1), (False, SHAPE[2])):
        scan, seen = Scan(SHAPE, by_rows), []
        plain = scan.split(rows())
        with monkeypatch.context() as patch:
            patch.setattr(hidden_markov, "kmeans", lambda x, *more, seen=seen: (seen.append(x), kmeans(x, *more))[1])
            patch.setattr(hidden_markov, "KMEANS_STEPS", 15 * scan.steps)
            found = scan.cluster(plain, S, 0, homogeneous=True)
        [first] = seen
        # Each step with those before it, one by one.
        zero = torch.zeros(plain.shape[2])
        around = torch.stack(
            [
                torch.cat([row[t - lag] if t >= lag else zero for lag in range(back + 1)])
                for row in plain
                for t in range(scan.steps)
            ]
        ).double()
        assert torch.equal(first, around[: 15 * scan.steps])
        cluster = kmeans(first, S, 0).numpy()
        centres = np.stack([first.numpy()[cluster == k].mean(0) for k in range(S)])
        others = around[len(first) :].numpy()
        distance = ((others[:, None] - centres) ** 2).sum(2)
        chosen = found.flatten()[len(first) :].numpy()
        np.testing.assert_array_equal(found.flatten()[: len(first)], cluster)
        np.testing.assert_allclose(distance[np.arange(len(others)), chosen], distance.min(1), atol=1e-9)


def test_steps_that_share_nothing_are_clustered_each_by_itself():
    scan = Scan(SHAPE, True)
    steps = scan.split(rows())
    found = scan.cluster(steps, S, 0, homogeneous=False)
    for t in range(scan.steps):
        before = torch.zeros(N, scan.step_dims) if t == 0 else steps[:, t - 1]
        assert torch.equal(found[:, t], kmeans(torch.cat([steps[:, t], before], 1).double(), S, 0))


def test_a_chain_without_states_is_refused():
    with pytest.raises(InputError, match=r"HiddenMarkov\.states must be a positive integer, got 0"):
        HiddenMarkov(tables, 0, Scan(SHAPE, True), True)
