"""Hidden Markov models against hmmlearn, and against sums over all paths."""

import itertools

import numpy as np
import pytest
import torch
from hmmlearn.hmm import CategoricalHMM, GaussianHMM

from lightning_gen.models import HiddenMarkovModel, hmm
from lightning_gen.models.em import kmeans
from lightning_gen.models.hmm import CategoricalEmission, GaussianEmission
from lightning_gen.spec import ImageSpec

S = 3
SPEC = ImageSpec(channels=1, height=3, width=2, levels=4, num_classes=2)


def images(n=40, spec=SPEC, seed=0):
    levels = torch.randint(spec.levels, (n, *spec.shape), generator=torch.Generator().manual_seed(seed))
    levels[:, :, 1:] = torch.where(levels[:, :, :-1] > 1, levels[:, :, :-1], levels[:, :, 1:])
    return levels.to(torch.uint8)


def fitted(*arguments, spec=SPEC, steps=3, **options):
    model = HiddenMarkovModel(spec, S, *arguments, **options)
    levels = images(spec=spec)
    labels = torch.arange(len(levels)) % 2 if model.conditional else None
    model.choose_start(levels, labels)
    for _ in range(steps):
        model.em_step(levels, labels)
    return model


def like_hmmlearn(model):
    """Return hmmlearn's model with the parameters of a homogeneous one, and its observations of images."""
    levels = images()
    steps = model.to_steps(model.data_of(levels))
    lengths = [steps.shape[1]] * len(steps)
    flat = steps.flatten(0, 1)
    if model.dequantized:
        oracle = GaussianHMM(
            S, covariance_type="diag", min_covar=0.0, covars_prior=0.0, covars_weight=0.0, init_params=""
        )
        oracle.means_ = model.parts[0].mean.detach().numpy().copy()
        oracle.covars_ = model.parts[0].variance.detach().numpy().copy()
    else:
        oracle = CategoricalHMM(S, init_params="")
        oracle.emissionprob_ = model.parts[0].table.detach().exp().numpy()[:, 0]
        oracle.n_features = model.spec.levels
    oracle.startprob_ = model.log_initial.detach().exp()[0].numpy()
    oracle.transmat_ = model.log_transition.detach().exp()[0, 0].numpy()
    return oracle, flat.numpy(), lengths, levels


KINDS = {
    "categorical pixels": lambda: fitted("pixels", CategoricalEmission(smoothing=1e-9)),
    "gaussian rows": lambda: fitted("rows", GaussianEmission(prior_strength=0.0)),
    "gaussian pixels": lambda: fitted("pixels", GaussianEmission(prior_strength=0.0)),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_likelihoods_equal_hmmlearns_at_the_same_parameters(make):
    model = make()
    oracle, flat, lengths, levels = like_hmmlearn(model)
    found = model.log_density(model.data_of(levels), None).detach()
    expected = [oracle.score(each) for each in np.split(flat, len(lengths))]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_one_step_of_baum_welch_equals_hmmlearns(make, monkeypatch):
    monkeypatch.setattr(HiddenMarkovModel, "chain_prior", 1e-12)
    model = make()
    for part in model.parts:
        part.noise_variance = 0.0
    oracle, flat, lengths, levels = like_hmmlearn(model)
    oracle.n_iter = 1
    oracle.fit(flat, lengths)
    model.em_step(levels)
    np.testing.assert_allclose(model.log_initial.detach().exp()[0], oracle.startprob_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.log_transition.detach().exp()[0, 0], oracle.transmat_, rtol=1e-6, atol=1e-9)
    if model.dequantized:
        np.testing.assert_allclose(model.parts[0].mean.detach(), oracle.means_, rtol=1e-6, atol=1e-9)
        found = torch.diag_embed(model.parts[0].variance.detach())
        np.testing.assert_allclose(found, oracle.covars_, rtol=1e-6, atol=1e-9)
    else:
        np.testing.assert_allclose(
            model.parts[0].table.detach().exp()[:, 0], oracle.emissionprob_, rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("scan", ["rows", "pixels"])
def test_statistics_are_the_posterior_sums_over_all_paths(scan, homogeneous):
    model = fitted(scan, homogeneous=homogeneous)
    levels = images(5, seed=3)
    steps = model.to_steps(model.data_of(levels))
    with torch.no_grad():
        statistics = model.expectation(levels, None)
        emissions = model._emissions(steps, "log_prob")[:, 0]
        initial = torch.zeros(S, dtype=torch.float64)
        moves = torch.zeros(model.steps - 1, S, S, dtype=torch.float64)
        total = 0.0
        for b in range(len(levels)):
            paths = torch.tensor(list(itertools.product(range(S), repeat=model.steps)))
            logs = model.log_initial[0][paths[:, 0]] + emissions[0, b][paths[:, 0]]
            for t in range(1, model.steps):
                logs = logs + model._transition_to(t)[0][paths[:, t - 1], paths[:, t]] + emissions[t, b][paths[:, t]]
            total += float(logs.logsumexp(0))
            share = logs.softmax(0)
            initial.index_add_(0, paths[:, 0], share)
            for t in range(1, model.steps):
                moves[t - 1].view(-1).index_add_(0, paths[:, t - 1] * S + paths[:, t], share)
    assert float(statistics["log_likelihood"]) == pytest.approx(total, rel=1e-10)
    torch.testing.assert_close(statistics["initial"][0], initial)
    expected = moves.sum(0, keepdim=True) if homogeneous else moves
    torch.testing.assert_close(statistics["transition"][:, 0], expected)


@pytest.mark.parametrize("scan", ["rows", "pixels"])
def test_steps_are_rows_and_pixels_in_raster_order_and_come_back(scan):
    spec = ImageSpec(channels=3, height=4, width=5, levels=256)
    model = HiddenMarkovModel(spec, 2, scan)
    x = torch.arange(2 * spec.dims).view(2, spec.dims)
    steps, image = model.to_steps(x), x[1].view(spec.shape)
    if scan == "rows":
        assert torch.equal(steps[1, 2], image[:, 2].flatten())
    else:
        assert torch.equal(steps[1, 7], image[:, 1, 2])
    assert torch.equal(model.from_steps(steps), x)


def test_extreme_evidence_neither_overflows_nor_underflows():
    spec = ImageSpec(channels=1, height=40, width=40, levels=256)
    model = HiddenMarkovModel(spec, 2, emission=GaussianEmission(noises=1))
    model.parts[0].hold("variance", torch.full((2, 40), 1e-4, dtype=torch.float64))
    levels = torch.randint(256, (3, *spec.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    nats = model.likelihood(levels).nats
    assert torch.isfinite(nats).all()
    assert float(nats.max()) < -1e9
    with torch.no_grad():
        assert all(torch.isfinite(value).all() for value in model.expectation(levels, None).values())


def test_conditional_states_never_leave_their_class():
    model = fitted("rows", conditional=True)
    levels = images(6, seed=5)
    labels = torch.tensor([0, 1, 0, 1, 1, 1])
    with torch.no_grad():
        statistics = model.expectation(levels, labels)
    torch.testing.assert_close(statistics["initial"].sum(1), torch.tensor([2.0, 4.0]).double())
    torch.testing.assert_close(statistics["transition"].sum((0, 2, 3)), torch.tensor([4.0, 8.0]).double())


@pytest.mark.parametrize("scan", ["rows", "pixels"])
def test_k_means_sees_some_steps_and_the_others_go_to_the_nearest_centre(scan, monkeypatch):
    model = HiddenMarkovModel(SPEC, S, scan)
    plain = model.to_steps(images(40).flatten(1))
    seen = []
    monkeypatch.setattr(hmm, "kmeans", lambda x, *more: (seen.append(x), kmeans(x, *more))[1])
    monkeypatch.setattr(hmm, "KMEANS_STEPS", 15 * model.steps)
    found = model._cluster(plain, 0)
    [first] = seen
    # Each step with those before it, one by one.
    back = 1 if scan == "rows" else SPEC.width
    zero = torch.zeros(plain.shape[2])
    around = torch.stack(
        [
            torch.cat([image[t - lag] if t >= lag else zero for lag in range(back + 1)])
            for image in plain
            for t in range(model.steps)
        ]
    ).double()
    assert torch.equal(first, around[: 15 * model.steps])
    cluster = kmeans(first, S, 0).numpy()
    centres = np.stack([first.numpy()[cluster == k].mean(0) for k in range(S)])
    others = around[len(first) :].numpy()
    distance = ((others[:, None] - centres) ** 2).sum(2)
    chosen = found.flatten()[len(first) :].numpy()
    np.testing.assert_array_equal(found.flatten()[: len(first)], cluster)
    np.testing.assert_allclose(distance[np.arange(len(others)), chosen], distance.min(1), atol=1e-9)
