"""Mixtures against scikit-learn and enumeration; passes, cuts and resuming of models that EM fits."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Sklearn

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.commands.training import initialise_from
from lightning_gen.data import Digits, ImageDataModule, RandomShift
from lightning_gen.data.source import Images, Source
from lightning_gen.distributions import Components, FullGaussianComponents, components
from lightning_gen.errors import InputError
from lightning_gen.models import (
    CategoricalMixture,
    ChowLiuMixture,
    GaussianMixture,
    HasCompletion,
    HasLikelihood,
    HasPixelPredictions,
    HiddenMarkovModel,
    Uniform,
    em,
)
from lightning_gen.models.em import kmeans
from lightning_gen.models.hmm import GaussianEmission
from lightning_gen.runs import RunFolder, read_metrics
from lightning_gen.spec import ImageSpec

TINY = ImageSpec(channels=1, height=2, width=2, levels=3, num_classes=2)
EVERY = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
BLUR = {"blur": 0.3, "blur_ends": 0.1, "shared": 1.0}
EXACT = {
    "categorical": lambda spec=TINY, **more: CategoricalMixture(spec, 2, **BLUR, **more),
    "trees": lambda spec=TINY, **more: ChowLiuMixture(spec, 2, **BLUR, **more),
    "rows": lambda spec=TINY, **more: HiddenMarkovModel(spec, 2, "rows", **more),
    "pixels": lambda spec=TINY, **more: HiddenMarkovModel(spec, 3, "pixels", homogeneous=False, **more),
}
DENSITIES = {
    "full": lambda spec=TINY, **more: GaussianMixture(spec, 2, noises=4, **more),
    "diagonal": lambda spec=TINY, **more: GaussianMixture(spec, 3, "diagonal", noises=4, **more),
    "low_rank": lambda spec=TINY, **more: GaussianMixture(spec, 2, "low_rank", rank=2, noises=4, **more),
    "gaussian rows": lambda spec=TINY, **more: HiddenMarkovModel(spec, 2, "rows", GaussianEmission(noises=4), **more),
}
ALL = {**EXACT, **DENSITIES}
conditional = pytest.mark.parametrize("conditional", [False, True], ids=["one", "per class"])


class Tiny(Source):
    """Images of 2 x 2 with structure, and classes that differ."""

    name = "tiny"
    spec = TINY

    def read(self, part: str) -> Images:
        n = {"train": 60, "val": 20, "test": 20}[part]
        source = np.random.default_rng(n)
        labels = source.integers(2, size=n)
        levels = source.integers(3, size=(n, 4))
        levels[:, 1] = np.where(source.random(n) < 0.8, levels[:, 0], levels[:, 1])
        levels[:, 2] = np.where(source.random(n) < 0.7, 2 * labels, levels[:, 2])
        return Images(levels.reshape(-1, 1, 2, 2).astype(np.uint8), labels.astype(np.int64))


def images(part="train"):
    return [torch.from_numpy(array) for array in Tiny().read(part)]


def fitted(make, conditional=False, steps=5, **more):
    model = make(conditional=conditional, **more)
    levels, labels = images()
    labels = labels if conditional else None
    model.choose_start(levels, labels)
    for _ in range(steps):
        model.em_step(levels, labels)
    return model


def fit(model, quiet_trainer, batch_size, images_seen=None, passes=6, **options):
    """Train on the endless stream, a number of passes; or up to a number of images."""
    from lightning_gen.callbacks import Budget

    data = ImageDataModule(Tiny(), batch_size=batch_size)
    trainer = quiet_trainer(max_epochs=-1, callbacks=[Budget(images=images_seen or 60 * passes)], limit_val_batches=0)
    trainer.fit(model, datamodule=data, **options)
    return trainer


def states_equal(a, b, **tolerance):
    for (name, value), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, **tolerance, msg=name)


# --- mathematics ------------------------------------------------------------------------------------------------------


@conditional
@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_all_81_probabilities_sum_to_one(make, conditional):
    for model in (make(conditional=conditional), fitted(make, conditional)):
        total = model.likelihood(EVERY).nats.exp().sum()
        assert float(total) == pytest.approx(1, rel=1e-12)
        if conditional:
            for label in range(2):
                given = model.likelihood(EVERY, torch.full((81,), label)).nats.exp().sum()
                assert float(given) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("make", DENSITIES.values(), ids=DENSITIES)
def test_dequantized_bounds_sum_to_what_lies_inside_the_bins(make):
    """A mean of densities is an unbiased estimate of the integral over a bin, which quadrature gives."""
    model = fitted(make)
    likelihood = model.likelihood(EVERY)
    assert (likelihood.kind, likelihood.num_samples) == ("dequantized", 4)
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(6))
    line = torch.cat([nodes / 2 + middle for middle in (-1, 0, 1)])
    inside = torch.cartesian_prod(*[line] * 4)
    mass = torch.cartesian_prod(*[(weights / 2).repeat(3)] * 4).prod(1)
    with torch.no_grad():
        density = torch.cat([model.log_density(part, None).exp() for part in inside.split(20_000)])
    expected = float(density @ mass)
    model.noises = 25
    sums = torch.empty(30, dtype=torch.float64)
    for model.seed in range(30):
        sums[model.seed] = model.likelihood(EVERY).nats.exp().sum()
    error = float(sums.std()) / 30**0.5
    assert error < 0.01
    assert abs(float(sums.mean()) - expected) < 4 * error
    assert expected < 1


@conditional
@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_no_model_beats_the_entropy_of_independent_pixels(make, conditional):
    """Gibbs' inequality, of a model of images like these and of one of other images."""
    source = torch.Generator().manual_seed(1)
    chance = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]], dtype=torch.float64)
    entropy = -float((chance * chance.log()).sum())
    drawn = torch.multinomial(chance, 6_400, replacement=True, generator=source).T.to(torch.uint8).view(-1, 1, 2, 2)
    labels = torch.arange(6_400) % 2 if conditional else None
    alike, held_out = make(conditional=conditional), slice(400, None)
    alike.choose_start(drawn[:400], None if labels is None else labels[:400])
    for _ in range(10):
        alike.em_step(drawn[:400], None if labels is None else labels[:400])
    for model in (alike, fitted(make, conditional)):
        for given in (None, labels):
            nats = model.likelihood(drawn[held_out], None if given is None else given[held_out]).nats
            assert float(nats.mean()) < -entropy + 4 * float(nats.std()) / 6_000**0.5
    assert float(alike.likelihood(drawn[held_out]).nats.mean()) > -entropy - 0.1  # so near that the test can fail


@conditional
@pytest.mark.parametrize("smoothing", [1.0, 1e-3])
def test_pixel_predictions_are_the_models_conditionals_and_sum_to_the_likelihood(conditional, smoothing):
    model = fitted(lambda **more: CategoricalMixture(TINY, 3, smoothing=smoothing, **more), conditional)
    for labels in (None, torch.arange(81) % 2):
        found = model.pixel_log_probs(EVERY, labels)
        terms = found.gather(-1, EVERY.long()[..., None]).flatten(1).sum(1)
        torch.testing.assert_close(terms, model.likelihood(EVERY, labels).nats, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.logsumexp(-1), torch.zeros(81, 1, 2, 2).double(), rtol=0, atol=1e-12)
    # By sums over all images: of the third pixel, given the two before it.
    joint = model.likelihood(EVERY, torch.ones(81, dtype=torch.int64)).nats.exp().view(9, 3, 3).sum(2)
    expected = (joint / joint.sum(1, keepdim=True)).log().repeat_interleave(9, 0)
    found = model.pixel_log_probs(EVERY, torch.ones(81, dtype=torch.int64))[:, 0, 1, 0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_predictions_are_offered_by_models_whose_pixels_can_be_read_in_order():
    assert isinstance(CategoricalMixture(TINY), HasPixelPredictions)
    assert not any(isinstance(make(), HasPixelPredictions) for name, make in ALL.items() if name != "categorical")
    floor = Uniform(TINY)
    assert isinstance(floor, HasPixelPredictions)
    terms = floor.pixel_log_probs(EVERY).gather(-1, EVERY.long()[..., None]).flatten(1).sum(1)
    torch.testing.assert_close(terms, floor.likelihood(EVERY).nats)


@conditional
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_em_never_lowers_its_objective(make, conditional):
    model = make(conditional=conditional)
    levels, labels = images()
    labels = labels if conditional else None
    model.choose_start(levels, labels)
    objectives = [model.em_step(levels, labels) for _ in range(25)]
    assert min(b - a for a, b in itertools.pairwise(objectives)) > -1e-9
    assert objectives[-1] > objectives[0] + 1e-3


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_samples_are_as_frequent_as_they_are_probable(make):
    model, n = fitted(make), 20_000
    drawn = model.sample(n, generator=torch.Generator().manual_seed(0)).view(n, 4).long()
    share = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81) / n
    model.noises = 500
    chance = model.likelihood(EVERY).nats.exp()
    inside = torch.ones(81, dtype=torch.bool)
    if model.dequantized:  # what lies outside the range is drawn as the lowest or highest level
        inside = (EVERY == 1).view(81, 4).all(1)
    error = (chance / n).sqrt() + (0.02 * chance if model.dequantized else 0)
    assert ((share - chance).abs() < 5 * error)[inside].all()


@conditional
@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_completions_against_enumeration(make, conditional):
    model, n = fitted(make, conditional), 12_000
    known = torch.tensor([[True, False], [False, True]])
    labels = torch.ones(81, dtype=torch.int64) if conditional else None
    image = torch.tensor([[[2, 0], [1, 0]]], dtype=torch.uint8)
    fits = (EVERY[..., known] == image[..., known]).all(-1)[:, 0]
    chance = model.likelihood(EVERY, labels).nats[fits].softmax(0)
    given = None if labels is None else labels[:1].repeat(n)
    out = model.complete(image.repeat(n, 1, 1, 1), known, given, generator=torch.Generator().manual_seed(0))
    share = torch.stack([(out == one).flatten(1).all(1).double().mean() for one in EVERY[fits]])
    assert float(share.sum()) == pytest.approx(1)
    assert ((share - chance).abs() < 5 * (chance * (1 - chance) / n).sqrt()).all()


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_known_pixels_stay_and_a_full_mask_changes_nothing(make):
    model = fitted(make)
    source = torch.Generator().manual_seed(0)
    known = torch.rand(81, 1, 2, 2, generator=source) < 0.5
    out = model.complete(EVERY, known, generator=source)
    assert torch.equal(out[known], EVERY[known])
    assert not torch.equal(out, EVERY)
    assert torch.equal(model.complete(EVERY, torch.tensor(True)), EVERY)
    again = [model.complete(EVERY, known, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)


def test_completing_a_dequantized_image_tends_to_its_conditional():
    """Only the middle level has a bin of its own: 81 images, of which one pixel is asked for."""
    model = fitted(DENSITIES["full"])
    model.noises, n = 200, 3_000
    known = torch.tensor([[True, True], [True, False]])
    image = torch.ones(n, 1, 2, 2, dtype=torch.uint8)
    out = model.complete(image, known, generator=torch.Generator().manual_seed(0))
    # By a sum over a fine grid inside the bins: the chance of the middle level given the three others.
    grid = (torch.arange(9, dtype=torch.float64) + 0.5) / 9 - 0.5
    inside = torch.cartesian_prod(grid, grid, grid)
    known_mass, joint_mass = 0.0, 0.0
    with torch.no_grad():
        masks = known.view(1, 4).expand(len(inside), -1)
        x = torch.cat([inside, torch.zeros(len(inside), 1, dtype=torch.float64)], 1)
        known_mass = float(model.known_log_density(x, masks, None).exp().mean())
        for last in grid:
            x[:, 3] = last
            joint_mass += float(model.log_density(x, None).exp().mean()) / 9
    chance = joint_mass / known_mass
    share = float((out[:, 0, 1, 1] == 1).double().mean())
    assert abs(share - chance) < 5 * math.sqrt(chance / n) + 0.01


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_gaussian_mixture_equals_scikit_learns_at_the_same_parameters(covariance):
    model = fitted(DENSITIES[covariance])
    means = model.parts.mean.detach().numpy()
    oracle = Sklearn(len(means), covariance_type={"full": "full", "diagonal": "diag"}[covariance])
    oracle.weights_, oracle.means_ = model.log_weights.detach().exp()[0].numpy(), means
    if covariance == "full":
        oracle.precisions_cholesky_ = model.parts.whitening.detach().transpose(1, 2).numpy()
    else:
        oracle.precisions_cholesky_ = model.parts.variance.detach().rsqrt().numpy()
    x = model.data_of(EVERY) + 0.3
    np.testing.assert_allclose(model.log_density(x, None).detach(), oracle.score_samples(x.numpy()), rtol=1e-9)
    assert model.free_parameters == oracle._n_parameters()


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_one_em_step_equals_scikit_learns(covariance, monkeypatch):
    monkeypatch.setattr(GaussianMixture, "weight_prior", 0.0)
    model = GaussianMixture(TINY, 2, covariance, prior_strength=0.0)
    model.parts.noise_variance = 0.0
    levels, _ = images()
    x = model.data_of(levels).numpy()
    source = np.random.default_rng(0)
    start = {
        "weights_init": np.array([0.3, 0.7]),
        "means_init": source.normal(size=(2, 4)),
        "precisions_init": np.stack([np.eye(4), 2 * np.eye(4)]) if covariance == "full" else source.random((2, 4)) + 1,
    }
    kind = {"full": "full", "diagonal": "diag"}[covariance]
    oracle = Sklearn(2, covariance_type=kind, reg_covar=0.0, max_iter=1, **start)
    with pytest.warns(UserWarning, match="did not converge"):
        oracle.fit(x)
    model.log_weights.data[0] = torch.from_numpy(start["weights_init"]).log()
    model.parts.hold("mean", torch.from_numpy(start["means_init"]))
    precision = torch.from_numpy(start["precisions_init"])
    model.parts.hold(*(("whitening", precision.sqrt()) if covariance == "full" else ("variance", 1 / precision)))
    objective = model.em_step(levels)
    assert objective / len(levels) == pytest.approx(oracle.lower_bound_, rel=1e-9)
    np.testing.assert_allclose(model.log_weights.detach().exp()[0], oracle.weights_, rtol=1e-9)
    np.testing.assert_allclose(model.parts.mean.detach(), oracle.means_, rtol=1e-7)
    found = model.parts.covariance() if covariance == "full" else model.parts.variance
    np.testing.assert_allclose(found.detach(), oracle.covariances_, rtol=1e-7)


def printed_bic(out):
    [line] = [line for line in out.splitlines() if line.startswith("BIC ")]
    return float(line.split()[1].rstrip(":").replace(",", "")), line


def test_bic_is_scikit_learns():
    model = fitted(DENSITIES["full"])
    oracle = Sklearn(2)
    oracle.weights_, oracle.means_ = model.log_weights.detach().exp()[0].numpy(), model.parts.mean.detach().numpy()
    oracle.precisions_cholesky_ = model.parts.whitening.detach().transpose(1, 2).numpy()
    x = model.data_of(images()[0])
    with torch.no_grad():
        found = model.bic(float(model.log_density(x, None).sum()), 60)
    assert found == pytest.approx(oracle.bic(x.numpy()), rel=1e-9)


@conditional
@pytest.mark.parametrize("name", ["categorical", "trees", "full", "rows"])
def test_the_bic_printed_at_the_end_is_of_the_models_own_likelihood(name, conditional, quiet_trainer, capsys):
    """Neither of the blurred images that training assigns, nor of an expectation over noise."""
    model = ALL[name](conditional=conditional)
    fit(model, quiet_trainer, 60, passes=4)
    found, line = printed_bic(capsys.readouterr().out)
    levels, labels = images()
    nats = model.likelihood(levels, labels).nats  # of a class-conditional model, given labels
    alone = ALL[name]().free_parameters
    parameters = 2 * alone if conditional else alone  # a model for each of both classes
    assert model.free_parameters == parameters
    assert found == pytest.approx(-2 * float(nats.sum()) + parameters * math.log(60), abs=0.06)
    assert ("given labels" in line) == conditional
    assert ("dequantized" in line) == (name == "full")
    assert not {"bic", "log_likelihood"} & model.tracked().keys()


def test_bic_of_many_images_is_estimated_from_some(quiet_trainer, capsys, monkeypatch):
    monkeypatch.setattr(em, "BIC_EVALUATIONS", 80)
    model = DENSITIES["full"]()
    fit(model, quiet_trainer, 60, passes=2)
    found, line = printed_bic(capsys.readouterr().out)
    nats = model.likelihood(images()[0][::3]).nats
    assert found == pytest.approx(-6 * float(nats.sum()) + model.free_parameters * math.log(60), abs=0.06)
    assert "estimated from 20" in line


@pytest.mark.parametrize("make", DENSITIES.values(), ids=DENSITIES)
def test_more_noises_raise_the_bound_towards_the_probability(make):
    model = fitted(make)
    bounds = torch.zeros(3, 40, dtype=torch.float64)
    for number, model.noises in enumerate((1, 4, 16)):
        for model.seed in range(40):
            bounds[number, model.seed] = model.likelihood(EVERY).nats.mean()
    means, errors = bounds.mean(1), bounds.std(1) / 40**0.5
    assert means[0] + 3 * errors[0] < means[1] - 3 * errors[1]
    assert means[1] < means[2]


def test_the_likelihood_of_an_image_depends_on_nothing_but_the_image():
    model = fitted(DENSITIES["full"])
    nats = model.likelihood(EVERY).nats
    torch.manual_seed(5)
    order = torch.randperm(81)
    torch.testing.assert_close(model.likelihood(EVERY[order]).nats, nats[order], rtol=1e-13, atol=0)
    model.images_seen = 77
    torch.testing.assert_close(model.likelihood(EVERY[:3]).nats, nats[:3], rtol=1e-13, atol=0)


def test_without_labels_a_model_per_class_is_their_mixture():
    model = fitted(EXACT["trees"], conditional=True)
    _, labels = images()
    shares = (torch.bincount(labels) + 2) / (len(labels) + 4)  # two components' priors
    of_class = torch.stack([model.likelihood(EVERY, torch.full((81,), k)).nats for k in range(2)], 1)
    expected = (of_class + shares.log()).logsumexp(1)
    torch.testing.assert_close(model.likelihood(EVERY).nats, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_a_model_per_class_is_a_model_of_each_class_alone(make, monkeypatch):
    for kind in {type(part) for part in make().modules() if isinstance(part, Components)}:
        monkeypatch.setattr(kind, "prepare", lambda *_: None)  # priors like the average image are of all classes
    levels, labels = images()
    both = fitted(make, conditional=True, steps=3)
    alone = make(conditional=False)
    alone.choose_start(levels[labels == 1], None)
    for _ in range(3):
        alone.em_step(levels[labels == 1])
    if not both.dequantized:
        given = both.likelihood(EVERY, torch.ones(81, dtype=torch.int64)).nats
        torch.testing.assert_close(given, alone.likelihood(EVERY).nats, rtol=1e-9, atol=1e-9)
    x = both.data_of(EVERY)
    torch.testing.assert_close(
        both.log_density(x, torch.ones(81, dtype=torch.int64)), alone.log_density(x, None), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_uniform_is_exactly_log2_of_the_levels(levels):
    model = Uniform(ImageSpec(channels=3, height=5, width=4, levels=levels))
    batch = model.sample(6, generator=torch.Generator().manual_seed(0))
    assert int(batch.max()) < levels
    likelihood = model.likelihood(batch)
    assert likelihood.kind == "exact"
    np.testing.assert_allclose(-likelihood.nats / (60 * math.log(2)), math.log2(levels), rtol=1e-15)


def test_independent_pixels_are_a_mixture_of_one():
    model = fitted(lambda **more: CategoricalMixture(TINY, 1, smoothing=1e-9, **more), steps=1)
    levels, _ = images()
    counts = torch.stack([(levels.view(-1, 4) == a).double().mean(0) for a in range(3)], 1)
    expected = counts[torch.arange(4), EVERY.view(81, 4).long()].log().sum(1)
    torch.testing.assert_close(model.likelihood(EVERY).nats, expected, rtol=1e-6, atol=1e-6)


def test_restarts_take_the_best_start():
    levels, _ = images()
    objectives = []
    for seed in range(3):
        model = CategoricalMixture(TINY, 6, restarts=1)
        model.seed = seed
        model.start(levels, None, lightning_gen.models.base.keyed_seed(0, "start", seed) % 2**32)
        for _ in range(5):
            last = model.em_step(levels)
        objectives.append(last)
    chosen = CategoricalMixture(TINY, 6, restarts=3)
    chosen.choose_start(levels, None)
    best = CategoricalMixture(TINY, 6)
    best.start(levels, None, lightning_gen.models.base.keyed_seed(0, "start", int(np.argmax(objectives))) % 2**32)
    best.started.fill_(True)
    for _ in range(5):
        best.em_step(levels)
    states_equal(chosen, best)
    assert max(objectives) > min(objectives)


def test_kmeans_of_few_distinct_rows_gives_each_its_own():
    x = torch.tensor([[1.0], [3.0], [1.0], [2.0]])
    assert kmeans(x, 5, 0).tolist() == [0, 2, 0, 1]


@conditional
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_a_start_in_chunks_is_the_start_of_all_images(make, conditional, monkeypatch):
    levels, labels = images()
    labels = labels if conditional else None
    whole, cut = make(conditional=conditional), make(conditional=conditional)
    whole.choose_start(levels, labels)
    rows = []
    for kind in {type(part) for part in cut.modules() if isinstance(part, Components)}:

        def noting(self, x, shares, statistics=kind.statistics):
            rows.append(len(x))
            return statistics(self, x, shares)

        monkeypatch.setattr(kind, "statistics", noting)
    monkeypatch.setattr(components, "CHUNK", 7 * cut.row_cost)
    cut.choose_start(levels, labels)
    states_equal(whole, cut, rtol=1e-9, atol=1e-12)
    if not isinstance(cut, HiddenMarkovModel):  # whose statistics are of steps
        assert max(rows, default=0) <= 7


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_completions_are_drawn_in_chunks_of_bounded_cost(make, monkeypatch):
    model = fitted(make)
    rows, draw_missing = [], model.draw_missing
    model.draw_missing = lambda x, *more: (rows.append(len(x)), draw_missing(x, *more))[1]
    monkeypatch.setattr(components, "CHUNK", 5 * model.noises * model.row_cost)
    known = torch.rand(81, 1, 2, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    labels = torch.arange(81) % 2
    out = model.complete(EVERY, known, labels, generator=torch.Generator().manual_seed(0))
    assert rows == [5] * 16 + [1]
    assert torch.equal(out[known], EVERY[known])
    assert not torch.equal(out, EVERY)


def test_covariances_of_a_mask_are_factored_once_for_all_noises(monkeypatch):
    model = fitted(lambda **more: GaussianMixture(TINY, 2, noises=30, **more))
    calls, factor = [], FullGaussianComponents._factor
    monkeypatch.setattr(FullGaussianComponents, "_factor", lambda self, k: (calls.append(k), factor(self, k))[1])
    model.complete(EVERY, torch.tensor([[True, False], [True, False]]))
    assert sorted(calls) == [0, 0, 1, 1]  # to choose noises, and then components


# --- passes -----------------------------------------------------------------------------------------------------------


@conditional
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@pytest.mark.parametrize("batch_size", [7, 60, 150])
def test_passes_equal_whole_steps_however_batches_cut_them(make, conditional, batch_size, quiet_trainer):
    model = make(conditional=conditional, tolerance=0.0, start_images=41)
    fit(model, quiet_trainer, batch_size, passes=5)
    whole = make(conditional=conditional, start_images=41)
    levels, labels = images()
    order = torch.from_numpy(np.random.default_rng((0, 0)).permutation(60))[:41]
    labels = labels if conditional else None
    whole.choose_start(levels[order], None if labels is None else labels[order])
    for _ in range(model.passes):
        last = whole.em_step(levels, labels) / 60
    assert model.passes == {7: 301 // 60, 60: 5, 150: 5}[batch_size]
    assert float(model.objective) == pytest.approx(last, rel=1e-12)
    whole.objective.copy_(model.objective)
    states_equal(model, whole, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("at", [14, 35, 63, 77])
@pytest.mark.parametrize("make", [EXACT["trees"], DENSITIES["low_rank"], EXACT["rows"]], ids=["trees", "low", "rows"])
def test_resuming_is_exact(make, at, quiet_trainer, tmp_path):
    """Stopped while images are kept for the start, within the first pass, and within a later one."""
    options = {"tolerance": 0.0, "start_images": 20}
    unbroken = make(**options)
    fit(unbroken, quiet_trainer, 7, images_seen=210)
    broken = make(**options)
    fit(broken, quiet_trainer, 7, images_seen=at).save_checkpoint(tmp_path / "broken.ckpt")
    resumed = make(**options)
    fit(resumed, quiet_trainer, 7, images_seen=210, ckpt_path=tmp_path / "broken.ckpt", weights_only=True)
    assert resumed.images_seen == unbroken.images_seen == 210
    assert resumed.counters() == unbroken.counters() == {"passes": 3}
    states_equal(resumed, unbroken, rtol=0, atol=0)


def test_a_checkpoint_of_more_ranks_gives_its_sums_to_one(quiet_trainer, tmp_path):
    model = CategoricalMixture(TINY, 2, tolerance=0.0)
    trainer = fit(model, quiet_trainer, 7, images_seen=77)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    stored = torch.load(tmp_path / "one.ckpt", weights_only=True)
    own = stored["expectation_maximisation"][0]["statistics"]
    half = {name: value / 2 for name, value in own.items()}
    stored["expectation_maximisation"] = [{"kept": [], "statistics": half}] * 2
    other = CategoricalMixture(TINY, 2)
    other.load_state_dict(stored["state_dict"])
    other.on_load_checkpoint(stored)
    for name, value in own.items():
        torch.testing.assert_close(other._statistics[name], value)


def test_a_checkpoint_before_the_start_is_resumed_on_more_ranks(quiet_trainer, tmp_path, monkeypatch):
    """Saved on two ranks and resumed on three, whose parts are put together one by one, as at a start."""
    source = CategoricalMixture(TINY, 2, start_images=20)
    fit(source, quiet_trainer, 7, images_seen=14).save_checkpoint(tmp_path / "one.ckpt")
    stored = torch.load(tmp_path / "one.ckpt", weights_only=True)
    [own] = stored["expectation_maximisation"]
    assert [len(part[0]) for part in own["kept"]] == [7, 7]
    halves = [{"kept": [(part[0][cut], None) for part in own["kept"]], "statistics": {}} for cut in ([0, 1], [2, 3, 4])]
    stored["expectation_maximisation"] = halves
    kept = []
    for rank in range(3):
        monkeypatch.setattr(CategoricalMixture, "ranks", (rank, 3))
        other = CategoricalMixture(TINY, 2, start_images=20)
        other.on_load_checkpoint(stored)
        kept.append([part[0] for part in other._kept])
    together = torch.cat([part for cut in zip(*kept, strict=True) for part in cut])
    assert torch.equal(together, torch.cat([part[0][:5] for part in own["kept"]]))


@pytest.mark.parametrize("name", ["trees", "full", "rows"])
def test_training_from_given_parameters_begins_at_them(name, quiet_trainer, tmp_path, capsys):
    given = ALL[name](tolerance=0.0)
    fit(given, quiet_trainer, 60, passes=2).save_checkpoint(tmp_path / "given.ckpt")
    model = ALL[name](tolerance=0.0)
    initialise_from(model, tmp_path / "given.ckpt")
    fit(model, quiet_trainer, 60, passes=1)
    given.em_step(images()[0])
    model.objective.copy_(given.objective)
    states_equal(model, given, rtol=1e-9, atol=1e-9)


def test_parameters_of_which_some_do_not_fit_are_no_start(quiet_trainer, tmp_path):
    fit(CategoricalMixture(TINY, 2), quiet_trainer, 60, passes=2).save_checkpoint(tmp_path / "given.ckpt")
    model, plain = CategoricalMixture(TINY, 5, tolerance=0.0), CategoricalMixture(TINY, 5, tolerance=0.0)
    with pytest.warns(UserWarning, match="only some of its parameters were given: they will be chosen anew"):
        initialise_from(model, tmp_path / "given.ckpt")
    for each in (model, plain):
        fit(each, quiet_trainer, 60, passes=2)
    states_equal(model, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("images_seen", "match"),
    [
        (14, r"after 14 images, before its parameters were chosen from the first 20.* raise budget.images"),
        (49, "before one pass over all 60"),
    ],
)
def test_a_run_that_is_too_short_says_so(images_seen, match, quiet_trainer, capsys):
    with pytest.warns(UserWarning, match=match):
        fit(CategoricalMixture(TINY, 2, start_images=20), quiet_trainer, 7, images_seen=images_seen)
    assert "BIC" not in capsys.readouterr().out


def test_without_a_tolerance_rounding_ends_nothing(quiet_trainer):
    model = CategoricalMixture(TINY, 1, tolerance=0.0)  # at its best after one pass
    fit(model, quiet_trainer, 60, passes=9)
    assert model.passes == 9


def test_augmented_images_are_refused(quiet_trainer):
    data = ImageDataModule(Tiny(), batch_size=20, augment=[RandomShift(1)])
    with pytest.raises(InputError, match=r"leave data\.augment out"):
        quiet_trainer().fit(CategoricalMixture(TINY, 2), datamodule=data)


def test_training_stops_by_itself_when_a_pass_gains_too_little(quiet_trainer):
    model = CategoricalMixture(TINY, 2, tolerance=1e-2)
    fit(model, quiet_trainer, 60, passes=500)
    assert 2 <= model.passes < 100
    before = float(model.objective)
    levels, _ = images()
    gain = model.em_step(levels) / 60 - before
    assert 0 <= gain < 1e-2


@pytest.mark.parametrize("name", ["categorical", "trees", "low_rank", "rows"])
def test_a_loaded_model_is_the_same_model(name, quiet_trainer, tmp_path):
    model = ALL[name](conditional=True)
    fit(model, quiet_trainer, 60).save_checkpoint(tmp_path / "model.ckpt")
    loaded = lightning_gen.load(tmp_path / "model.ckpt")
    assert loaded.description() == model.description()
    labels = torch.arange(81) % 2
    assert torch.equal(loaded.likelihood(EVERY, labels).nats, model.likelihood(EVERY, labels).nats)
    draws = [each.sample(9, labels[:9], generator=torch.Generator().manual_seed(1)) for each in (loaded, model)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("make", [*ALL.values(), lambda: Uniform(TINY)], ids=[*ALL, "uniform"])
def test_all_have_a_likelihood_and_complete(make):
    assert isinstance(make(), HasLikelihood)
    assert isinstance(make(), HasCompletion)


# --- bad input --------------------------------------------------------------------------------------------------------

BAD_ARGUMENTS = [
    (lambda: CategoricalMixture(TINY, 0), "components must be a positive integer"),
    (lambda: CategoricalMixture(TINY, 2, restarts=0), "restarts must be a positive integer"),
    (lambda: CategoricalMixture(TINY, 2, start_images=0), "start_images must be a positive integer"),
    (lambda: CategoricalMixture(TINY, 2, tolerance=-1.0), "tolerance must be at least 0"),
    (lambda: CategoricalMixture(TINY, 2, tolerance=math.nan), "tolerance must be at least 0"),
    (lambda: CategoricalMixture(ImageSpec(1, 2, 2, 3), 2, conditional=True), "conditional needs labelled images"),
    (lambda: GaussianMixture(TINY, 2, "round"), "covariance must be full, diagonal or low_rank, got 'round'"),
    (lambda: GaussianMixture(TINY, 2, "low_rank"), "give both or none"),
    (lambda: GaussianMixture(TINY, 2, "full", rank=2), "give both or none"),
    (lambda: GaussianMixture(TINY, 2, noises=0), "noises must be a positive integer"),
    (lambda: HiddenMarkovModel(TINY, 0), "states must be a positive integer"),
    (lambda: HiddenMarkovModel(TINY, 2, "columns"), "scan must be rows or pixels, got 'columns'"),
]


@pytest.mark.parametrize(("make", "match"), BAD_ARGUMENTS, ids=[match for _, match in BAD_ARGUMENTS])
def test_bad_arguments_are_refused(make, match):
    with pytest.raises(InputError, match=match):
        make()


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_bad_images_are_refused(make):
    model = make()
    with pytest.raises(InputError, match=r"level 3 is outside 0 \.\. 2"):
        model.likelihood(torch.full((2, 1, 2, 2), 3, dtype=torch.uint8))
    with pytest.raises(InputError, match="expected levels of dtype uint8"):
        model.likelihood(torch.full((2, 1, 2, 2), math.nan))
    with pytest.raises(InputError, match="known must be a mask of dtype bool"):
        model.complete(EVERY, torch.ones(2, 2))
    with pytest.raises(InputError, match=r"known of shape \(3, 3\) does not fit"):
        model.complete(EVERY, torch.ones(3, 3).bool())


def test_labels_that_are_missing_or_wrong_are_refused():
    model = CategoricalMixture(TINY, 2, conditional=True)
    with pytest.raises(InputError, match="is trained with labels"):
        model.training_step(SimpleNamespace(levels=EVERY, labels=None), 0)
    with pytest.raises(InputError, match="there is no class 2"):
        model.likelihood(EVERY[:1], torch.tensor([2]))


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (lambda **more: CategoricalMixture(TINY, 61, **more), {}, "61 components are more than the 60 images to"),
        (lambda **more: CategoricalMixture(TINY, 21, **more), {"start_images": 20}, "raise start_images"),
        (lambda **more: CategoricalMixture(TINY, 50, conditional=True, **more), {}, "images of a class to start from"),
        (lambda **more: HiddenMarkovModel(TINY, 61, **more), {}, "61 states are more than the 60 images to"),
    ],
)
def test_more_components_than_images_are_refused(make, options, match, quiet_trainer):
    with pytest.raises(InputError, match=match):
        fit(make(**options), quiet_trainer, 60)


RANKS = """
model:
  class_path: lightning_gen.models.{model}
  init_args: {arguments}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {{source: lightning_gen.data.Digits, batch_size: {batch_size}}}
budget: {{images: 4000}}
trainer: {{accelerator: cpu, devices: {devices}, enable_progress_bar: false}}
"""


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path, monkeypatch):
    """Passes of 1,097 images end within steps of 140, on one rank or the other."""
    monkeypatch.chdir(tmp_path)
    arguments = "{states: 4, conditional: true, start_images: 500, tolerance: 0.0}"
    for devices, batch_size in ((1, 140), (2, 70)):
        text = RANKS.format(model="HiddenMarkovModel", arguments=arguments, devices=devices, batch_size=batch_size)
        Path(f"on{devices}.yaml").write_text(text)
    main(["fit", "--config", "on1.yaml"])
    done = subprocess.run(
        [sys.executable, "-m", "lightning_gen", "fit", "--config", "on2.yaml"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(RunFolder(Path(f"runs/on{n}/version_0")).last, weights_only=True) for n in (1, 2))
    assert two["lightning_gen"]["counters"] == one["lightning_gen"]["counters"] == {"passes": 3}
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-9, atol=1e-9)
    assert len(two["expectation_maximisation"]) == 2
    for name, value in one["expectation_maximisation"][0]["statistics"].items():
        both = sum(each["statistics"][name] for each in two["expectation_maximisation"])
        torch.testing.assert_close(both, value, rtol=1e-9, atol=1e-9)


def test_half_precision_is_refused(quiet_trainer):
    model = CategoricalMixture(TINY, 2)
    trainer = quiet_trainer(precision="bf16-true")
    with pytest.raises(InputError, match="is fitted in float64"):
        trainer.fit(model, datamodule=ImageDataModule(Tiny(), batch_size=20))


# --- the command line -------------------------------------------------------------------------------------------------

CONFIG = """
model:
  class_path: lightning_gen.models.{model}
  init_args: {arguments}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {{source: lightning_gen.data.Digits, batch_size: 300}}
budget: {{images: 200000}}
trainer: {{accelerator: cpu, devices: 1, log_every_n_steps: 1, enable_progress_bar: false}}
"""


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("CategoricalMixture", "{components: 3}"),
        ("GaussianMixture", "{components: 3, covariance: diagonal, noises: 2, conditional: true}"),
        ("Uniform", "{}"),
    ],
)
def test_fit_load_and_sample_by_the_command_line(model, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classical.yaml").write_text(CONFIG.format(model=model, arguments=arguments))
    main(["fit", "--config", "classical.yaml"])
    folder = RunFolder(tmp_path / "runs" / "classical" / "version_0")
    summary = folder.summary()
    assert summary["status"] == "finished"
    loaded = lightning_gen.load(folder.last)
    levels = torch.from_numpy(Digits().load("val").levels)
    nats = loaded.likelihood(levels).nats
    assert torch.isfinite(nats).all()
    if model == "Uniform":
        assert loaded.images_seen == 300
    else:
        assert loaded.images_seen < 200_000  # it has stopped by itself
        assert -float(nats.mean()) / 64 / math.log(2) < 3.2
        objectives = [
            float(row["train/objective"])
            for row in read_metrics(folder.path / "metrics.csv")[1]
            if row["train/objective"]
        ]
        assert objectives == sorted(objectives)
        assert len(objectives) == loaded.passes
    main(["sample", str(folder.last), "--n", "4", "--out", "drawn"])
    assert np.load("drawn/samples.npy").shape == (4, 1, 8, 8)
