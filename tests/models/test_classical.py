"""Classical models as models: likelihoods, completions, passes over the stream, cuts, resuming, and what they refuse.

What their densities are is checked in tests/distributions.
"""

import itertools
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Sklearn

import lightning_gen
from lightning_gen.bijections import UniformDequantizer
from lightning_gen.callbacks import Budget
from lightning_gen.cli import main
from lightning_gen.commands.resume import initialise_from
from lightning_gen.core.descriptions import describe
from lightning_gen.core.errors import InputError
from lightning_gen.core.protocols import Completes, HasLikelihood, PredictsPixels
from lightning_gen.core.randomness import keyed_generator, keyed_seed
from lightning_gen.core.ranks import Ranks
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, ImageDataModule, RandomShift
from lightning_gen.data.source import Images, Source
from lightning_gen.distributions import FullGaussianComponents, components
from lightning_gen.models import CategoricalMixture, ChowLiuMixture, GaussianMixture, HiddenMarkovModel, Uniform
from lightning_gen.models.classical import GaussianEmission, passes
from lightning_gen.runs import RunFolder, read_metrics

TINY = ImageSpec(channels=1, height=2, width=2, levels=3, num_classes=2)
EVERY = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
BLUR = {"blur": 0.3, "blur_ends": 0.1, "shared": 1.0}


def few_noises() -> UniformDequantizer:
    return UniformDequantizer(4)


EXACT = {
    "categorical": lambda spec=TINY, **more: CategoricalMixture(spec, 2, **BLUR, **more),
    "trees": lambda spec=TINY, **more: ChowLiuMixture(spec, 2, **BLUR, **more),
    "rows": lambda spec=TINY, **more: HiddenMarkovModel(spec, 2, "rows", **more),
    "pixels": lambda spec=TINY, **more: HiddenMarkovModel(spec, 3, "pixels", homogeneous=False, **more),
}
DEQUANTIZED = {
    "full": lambda spec=TINY, **more: GaussianMixture(spec, 2, dequantizer=few_noises(), **more),
    "diagonal": lambda spec=TINY, **more: GaussianMixture(spec, 3, "diagonal", dequantizer=few_noises(), **more),
    "low_rank": lambda spec=TINY, **more: GaussianMixture(
        spec, 2, "low_rank", rank=2, dequantizer=few_noises(), **more
    ),
    "gaussian rows": lambda spec=TINY, **more: HiddenMarkovModel(
        spec, 2, "rows", GaussianEmission(dequantizer=few_noises()), **more
    ),
}
ALL = {**EXACT, **DEQUANTIZED}


@pytest.fixture(params=ALL)
def make(request):
    return ALL[request.param]


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


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def start(model, levels, labels=None, steps=0):
    """Choose a start from images (N, C, H, W), and take EM steps on all of them; return the last objective."""
    objective = None
    model.em.choose_start(levels.flatten(1), labels, model.seed)
    model.started.fill_(True)
    for _ in range(steps):
        objective = model.em.step(levels.flatten(1), labels)
    return objective


def fitted(make, conditional=False, steps=5, **more):
    model = make(conditional=conditional, **more)
    levels, labels = images()
    start(model, levels, labels if conditional else None, steps)
    return model


@torch.no_grad()
def nats(model, levels=EVERY, labels=None, seed: int = 0) -> torch.Tensor:
    return model.likelihood(levels, labels, generator=seeded(seed)).nats


def fit(model, quiet_trainer, batch_size, images_seen=None, passes=6, **options):
    """Train on the endless stream, a number of passes; or up to a number of images."""
    data = ImageDataModule(Tiny(), batch_size=batch_size)
    trainer = quiet_trainer(max_epochs=-1, callbacks=[Budget(images=images_seen or 60 * passes)], limit_val_batches=0)
    trainer.fit(model, datamodule=data, **options)
    return trainer


def states_equal(a, b, **tolerance):
    for (name, value), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, **tolerance, msg=name)


# --- likelihoods ------------------------------------------------------------------------------------------------------


def test_all_81_probabilities_sum_to_one():
    for make, conditional in itertools.product(EXACT.values(), (False, True)):
        for model in (make(conditional=conditional), fitted(make, conditional)):
            likelihood = model.likelihood(EVERY)
            assert (likelihood.kind, likelihood.num_samples) == ("exact", 1)
            for label in (None, 0, 1) if conditional else (None,):
                labels = None if label is None else torch.full((81,), label)
                assert float(nats(model, labels=labels).exp().sum()) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("name", DEQUANTIZED)
def test_dequantized_bounds_sum_to_what_lies_inside_the_bins(name):
    """A mean of densities is an unbiased estimate of the integral over a bin, which quadrature gives."""
    model = fitted(DEQUANTIZED[name])
    likelihood = model.likelihood(EVERY)
    assert (likelihood.kind, likelihood.num_samples) == ("dequantized", 4)
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(6))
    line = torch.cat([nodes / 2 + middle for middle in (-1, 0, 1)])
    inside = torch.cartesian_prod(*[line] * 4)
    mass = torch.cartesian_prod(*[(weights / 2).repeat(3)] * 4).prod(1)
    with torch.no_grad():
        density = torch.cat([model.density.log_prob(part).exp() for part in inside.split(20_000)])
    expected = float(density @ mass)
    model.dequantizer.noises = 25
    sums = torch.stack([nats(model, seed=seed).exp().sum() for seed in range(30)])
    error = float(sums.std()) / 30**0.5
    assert error < 0.01
    assert abs(float(sums.mean()) - expected) < 4 * error
    assert expected < 1


def test_more_noises_raise_the_bound_towards_the_probability():
    model, bounds = fitted(DEQUANTIZED["diagonal"]), torch.zeros(3, 40, dtype=torch.float64)
    for number, model.dequantizer.noises in enumerate((1, 4, 16)):
        for seed in range(40):
            bounds[number, seed] = nats(model, seed=seed).mean()
    means, errors = bounds.mean(1), bounds.std(1) / 40**0.5
    assert means[0] + 3 * errors[0] < means[1] - 3 * errors[1]
    assert means[1] < means[2]


def test_the_generator_alone_decides_a_bound():
    model = fitted(DEQUANTIZED["full"])
    found, kept = nats(model), torch.get_rng_state()
    model.images_seen, model.seed = 77, 5
    assert torch.equal(nats(model), found)
    assert not torch.equal(nats(model, seed=1), found)
    assert torch.equal(torch.get_rng_state(), kept)
    assert not torch.equal(model.likelihood(EVERY).nats, found)  # without one, a fresh one


def test_no_model_beats_the_entropy_of_independent_pixels():
    """Gibbs' inequality, of a model of images like these and of one of other images."""
    chance = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]], dtype=torch.float64)
    entropy = -float((chance * chance.log()).sum())
    drawn = torch.multinomial(chance, 6_400, replacement=True, generator=seeded(1)).T.to(torch.uint8)
    drawn, held_out = drawn.view(-1, 1, 2, 2), slice(400, None)
    for make, conditional in itertools.product(EXACT.values(), (False, True)):
        labels = torch.arange(6_400) % 2 if conditional else None
        alike = make(conditional=conditional)
        start(alike, drawn[:400], None if labels is None else labels[:400], steps=10)
        for model in (alike, fitted(make, conditional)):
            for given in (None, labels):
                found = nats(model, drawn[held_out], None if given is None else given[held_out])
                assert float(found.mean()) < -entropy + 4 * float(found.std()) / 6_000**0.5
        assert float(nats(alike, drawn[held_out]).mean()) > -entropy - 0.1  # so near that the test can fail


def test_pixel_predictions_are_the_models_conditionals_and_sum_to_the_likelihood():
    for smoothing, conditional in itertools.product((1.0, 1e-3), (False, True)):
        model = fitted(lambda s=smoothing, **more: CategoricalMixture(TINY, 3, smoothing=s, **more), conditional)
        for labels in (None, torch.arange(81) % 2):
            found = model.pixel_log_probs(EVERY, labels)
            terms = found.gather(-1, EVERY.long()[..., None]).flatten(1).sum(1)
            torch.testing.assert_close(terms, nats(model, labels=labels), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found.logsumexp(-1), torch.zeros(81, 1, 2, 2).double(), rtol=0, atol=1e-12)
        # By sums over all images: of the third pixel, given the two before it.
        ones = torch.ones(81, dtype=torch.int64)
        joint = nats(model, labels=ones).exp().view(9, 3, 3).sum(2)
        expected = (joint / joint.sum(1, keepdim=True)).log().repeat_interleave(9, 0)
        found = model.pixel_log_probs(EVERY, ones)[:, 0, 1, 0]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_all_have_a_likelihood_and_complete_and_some_predict_pixels():
    models = {**{name: make() for name, make in ALL.items()}, "uniform": Uniform(TINY)}
    assert all(isinstance(model, HasLikelihood) for model in models.values())
    assert all(isinstance(model, Completes) for model in models.values())
    assert {name for name, model in models.items() if isinstance(model, PredictsPixels)} == {"categorical", "uniform"}
    exact = {name for name, model in models.items() if model.completion == "exact"}
    assert exact == {*EXACT, "uniform"}
    floor = models["uniform"]
    terms = floor.pixel_log_probs(EVERY).gather(-1, EVERY.long()[..., None]).flatten(1).sum(1)
    torch.testing.assert_close(terms, nats(floor))


def test_diagnostics_are_the_log_likelihood_of_each_image(make):
    model = fitted(make, conditional=True)
    levels, labels = images("val")
    batch = SimpleNamespace(levels=levels, labels=labels)
    figures = model.diagnostics(batch)
    assert figures.keys() == {"nats"}
    assert not figures["nats"].requires_grad
    generator = keyed_generator(model.seed, "diagnostics", model.images_seen)
    assert torch.equal(figures["nats"], model.likelihood(levels, labels, generator=generator).nats)


def test_data_are_levels_or_the_middles_of_their_bins_about_mid_range():
    levels = EVERY.flatten(1)
    for make in EXACT.values():
        model = make()
        assert torch.equal(model.data_of(levels), levels.long())
        assert torch.equal(model.levels_of(model.data_of(levels)), EVERY)
    for make in DEQUANTIZED.values():
        model = make()
        assert torch.equal(model.data_of(levels), levels.double() - 1)
        # Bins are rounded down, and what is beyond the ends belongs to them.
        x = torch.tensor([[-1.4, -0.6, -0.4, 0.4], [0.6, 1.4, -7.0, 7.0]], dtype=torch.float64)
        assert model.levels_of(x).flatten(1).tolist() == [[0, 0, 1, 1], [2, 2, 0, 2]]


def test_training_sees_the_mean_over_the_noise_of_the_likelihood():
    for name, make in DEQUANTIZED.items():
        model = fitted(make)
        found = [part for part in model.density.modules() if isinstance(part, components.Components)]
        assert found
        for parts in found:
            x = model.data_of(EVERY[::9].flatten(1))[:, : parts.dims]
            noise = torch.rand(20_000, *x.shape, generator=seeded(), dtype=torch.float64) - 0.5  # over a whole bin
            with torch.no_grad():
                drawn = parts.log_prob((x + noise).flatten(0, 1)).view(20_000, len(x), -1)
                error = drawn.std(0) / math.sqrt(20_000)
                assert ((drawn.mean(0) - parts.expected_log_prob(x)).abs() < 5 * error).all(), name


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_samples_are_as_frequent_as_they_are_probable(make):
    model, n = fitted(make), 20_000
    drawn = model.sample(n, generator=seeded()).view(n, 4).long()
    share = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81) / n
    inside, slack = torch.ones(81, dtype=torch.bool), 0.0
    if model.dequantizer is not None:  # what lies outside the range is drawn as the lowest or highest level
        model.dequantizer.noises, slack = 500, 0.02
        inside = (EVERY == 1).view(81, 4).all(1)
    chance = nats(model).exp()
    assert ((share - chance).abs() < 5 * (chance / n).sqrt() + slack * chance)[inside].all()


def test_completions_against_enumeration():
    n, known = 12_000, torch.tensor([[True, False], [False, True]])
    image = torch.tensor([[[2, 0], [1, 0]]], dtype=torch.uint8)
    fits = (EVERY[..., known] == image[..., known]).all(-1)[:, 0]
    for make, conditional in itertools.product(EXACT.values(), (False, True)):
        model = fitted(make, conditional)
        labels = torch.ones(81, dtype=torch.int64) if conditional else None
        chance = nats(model, labels=labels)[fits].softmax(0)
        given = None if labels is None else labels[:1].repeat(n)
        out = model.complete(image.repeat(n, 1, 1, 1), known, given, generator=seeded())
        share = torch.stack([(out == one).flatten(1).all(1).double().mean() for one in EVERY[fits]])
        assert float(share.sum()) == pytest.approx(1)
        assert ((share - chance).abs() < 5 * (chance * (1 - chance) / n).sqrt()).all()


def test_known_pixels_stay_and_a_full_mask_changes_nothing(make):
    model = fitted(make)
    known = torch.rand(81, 1, 2, 2, generator=seeded()) < 0.5
    out, again = (model.complete(EVERY, known, generator=seeded(3)) for _ in range(2))
    assert torch.equal(out[known], EVERY[known])
    assert not torch.equal(out, EVERY)
    assert torch.equal(out, again)
    assert torch.equal(model.complete(EVERY, torch.tensor(True)), EVERY)


def test_completing_a_dequantized_image_tends_to_its_conditional():
    """Only the middle level has a bin of its own: 81 images, of which one pixel is asked for."""
    model = fitted(DEQUANTIZED["full"])
    model.dequantizer.noises, n = 200, 3_000
    known = torch.tensor([[True, True], [True, False]])
    out = model.complete(torch.ones(n, 1, 2, 2, dtype=torch.uint8), known, generator=seeded())
    # By a sum over a fine grid inside the bins: the chance of the middle level given the three others.
    grid = (torch.arange(9, dtype=torch.float64) + 0.5) / 9 - 0.5
    inside = torch.cartesian_prod(grid, grid, grid)
    joint_mass = 0.0
    with torch.no_grad():
        masks = known.view(1, 4).expand(len(inside), -1)
        x = torch.cat([inside, torch.zeros(len(inside), 1, dtype=torch.float64)], 1)
        known_mass = float(model.density.known_log_prob(x, masks).exp().mean())
        for last in grid:
            x[:, 3] = last
            joint_mass += float(model.density.log_prob(x).exp().mean()) / 9
    chance = joint_mass / known_mass
    share = float((out[:, 0, 1, 1] == 1).double().mean())
    assert abs(share - chance) < 5 * math.sqrt(chance / n) + 0.01


def test_completions_are_drawn_in_chunks_of_bounded_cost(make, monkeypatch):
    model = fitted(make)
    rows, complete = [], model.density.complete
    model.density.complete = lambda x, *more: (rows.append(len(x)), complete(x, *more))[1]
    noises = 1 if model.dequantizer is None else model.dequantizer.noises
    monkeypatch.setattr(components, "CHUNK", 5 * noises * model.density.row_cost)
    known = torch.rand(81, 1, 2, 2, generator=seeded()) < 0.5
    out = model.complete(EVERY, known, torch.arange(81) % 2, generator=seeded())
    assert rows == [5] * 16 + [1]
    assert torch.equal(out[known], EVERY[known])
    assert not torch.equal(out, EVERY)


def test_covariances_of_a_mask_are_factored_once_for_all_noises(monkeypatch):
    model = fitted(lambda **more: GaussianMixture(TINY, 2, dequantizer=UniformDequantizer(30), **more))
    calls, factor = [], FullGaussianComponents._factor
    monkeypatch.setattr(FullGaussianComponents, "_factor", lambda self, k: (calls.append(k), factor(self, k))[1])
    model.complete(EVERY, torch.tensor([[True, False], [True, False]]))
    assert sorted(calls) == [0, 0, 1, 1]  # to choose noises, and then components


def test_uniform_is_exactly_log2_of_the_levels():
    for levels in (2, 17, 256):
        model = Uniform(ImageSpec(channels=3, height=5, width=4, levels=levels))
        batch = model.sample(6, generator=seeded())
        assert int(batch.max()) < levels
        likelihood = model.likelihood(batch)
        assert likelihood.kind == "exact"
        np.testing.assert_allclose(-likelihood.nats / (60 * math.log(2)), math.log2(levels), rtol=1e-15)


# --- the start --------------------------------------------------------------------------------------------------------


def test_restarts_take_the_best_start():
    levels = images()[0].flatten(1)

    def started(seed):
        model = CategoricalMixture(TINY, 6)
        model.density.start(levels.long(), levels, None, keyed_seed(0, "start", seed) % 2**32)
        for _ in range(5):
            objective = model.em.step(levels)
        return objective, model

    starts = [started(seed) for seed in range(3)]
    chosen = CategoricalMixture(TINY, 6, restarts=3)
    chosen.em.choose_start(levels, None, 0)
    objectives = [objective for objective, _ in starts]
    states_equal(chosen, starts[objectives.index(max(objectives))][1])
    assert max(objectives) > min(objectives)


def test_a_step_in_chunks_is_the_step_of_all_images(make, monkeypatch):
    levels, labels = images()
    whole, cut = (fitted(make, conditional=True, steps=1) for _ in range(2))
    objective = start(whole, levels, labels, steps=2)
    monkeypatch.setattr(components, "CHUNK", 7 * cut.density.row_cost)
    assert start(cut, levels, labels, steps=2) == pytest.approx(objective, rel=1e-10)
    states_equal(whole, cut, rtol=1e-9, atol=1e-12)


# --- passes -----------------------------------------------------------------------------------------------------------


def test_passes_equal_whole_steps_however_batches_cut_them(make, quiet_trainer):
    levels, labels = images()
    order = torch.from_numpy(np.random.default_rng((0, 0)).permutation(60))[:41]
    for batch_size, conditional, expected in ((7, False, 301 // 60), (60, True, 5), (150, False, 5), (150, True, 5)):
        model = make(conditional=conditional, tolerance=0.0, start_images=41)
        fit(model, quiet_trainer, batch_size, passes=5)
        whole, own = make(conditional=conditional), labels if conditional else None
        start(whole, levels[order], None if own is None else own[order])
        for _ in range(expected):
            last = whole.em.step(levels.flatten(1), own) / 60
        assert model.em.passes == expected
        assert model.em.objective == pytest.approx(last, rel=1e-12)
        assert model.means.take()["objective"] < model.em.objective  # the mean over passes, which rises
        states_equal(model, whole, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["trees", "low_rank", "rows"])
def test_resuming_is_exact(name, quiet_trainer, tmp_path):
    """Stopped while images are kept for the start, within the first pass, and within a later one."""
    new = partial(ALL[name], tolerance=0.0, start_images=20)
    unbroken = new()
    fit(unbroken, quiet_trainer, 7, images_seen=210)
    for at in (14, 35, 63, 77):
        fit(new(), quiet_trainer, 7, images_seen=at).save_checkpoint(tmp_path / "broken.ckpt")
        resumed = new()
        fit(resumed, quiet_trainer, 7, images_seen=210, ckpt_path=tmp_path / "broken.ckpt", weights_only=True)
        assert resumed.images_seen == unbroken.images_seen == 210
        assert resumed.em.passes == unbroken.em.passes == 3
        assert (resumed.em.objective, resumed.em.gain) == (unbroken.em.objective, unbroken.em.gain)
        states_equal(resumed, unbroken, rtol=0, atol=0)


def test_a_checkpoint_of_more_ranks_gives_its_sums_to_one(quiet_trainer, tmp_path):
    model = CategoricalMixture(TINY, 2, tolerance=0.0)
    fit(model, quiet_trainer, 7, images_seen=77).save_checkpoint(tmp_path / "one.ckpt")
    stored = torch.load(tmp_path / "one.ckpt", weights_only=True)
    [own] = stored["expectation_maximisation"]
    half = {name: value / 2 for name, value in own["statistics"].items()}
    stored["expectation_maximisation"] = [{**own, "statistics": half}] * 2
    other = CategoricalMixture(TINY, 2)
    other.load_state_dict(stored["state_dict"])
    other.on_load_checkpoint(stored)
    assert other.em.passes == model.em.passes == 1
    for name, value in own["statistics"].items():
        torch.testing.assert_close(other.em.statistics[name], value)


def test_a_checkpoint_before_the_start_is_resumed_on_more_ranks(quiet_trainer, tmp_path):
    """Saved on two ranks and resumed on three, whose parts are put together one by one, as at a start."""
    source = CategoricalMixture(TINY, 2, start_images=20)
    fit(source, quiet_trainer, 7, images_seen=14).save_checkpoint(tmp_path / "one.ckpt")
    stored = torch.load(tmp_path / "one.ckpt", weights_only=True)
    [own] = stored["expectation_maximisation"]
    assert [len(part[0]) for part in own["kept"]] == [7, 7]
    stored["expectation_maximisation"] = [
        {**own, "kept": [(part[0][cut], None) for part in own["kept"]]} for cut in ([0, 1], [2, 3, 4])
    ]
    kept = []
    for rank in range(3):
        other = CategoricalMixture(TINY, 2, start_images=20)
        other.ranks = Ranks(rank, 3)
        other.on_load_checkpoint(stored)
        kept.append([part[0] for part in other.em.kept])
    together = torch.cat([part for cut in zip(*kept, strict=True) for part in cut])
    assert torch.equal(together, torch.cat([part[0][:5] for part in own["kept"]]))


def test_training_from_given_parameters_begins_at_them(quiet_trainer, tmp_path):
    for name in ("trees", "full", "rows"):
        given = ALL[name](tolerance=0.0)
        fit(given, quiet_trainer, 60, passes=2).save_checkpoint(tmp_path / "given.ckpt")
        model = ALL[name](tolerance=0.0)
        initialise_from(model, tmp_path / "given.ckpt")
        fit(model, quiet_trainer, 60, passes=1)
        given.em.step(images()[0].flatten(1))
        states_equal(model, given, rtol=1e-9, atol=1e-9)


def test_parameters_of_which_some_do_not_fit_are_no_start(quiet_trainer, tmp_path):
    fit(CategoricalMixture(TINY, 2), quiet_trainer, 60, passes=2).save_checkpoint(tmp_path / "given.ckpt")
    model, plain = CategoricalMixture(TINY, 5, tolerance=0.0), CategoricalMixture(TINY, 5, tolerance=0.0)
    with pytest.warns(UserWarning, match="only some of its parameters were given: they will be chosen anew"):
        initialise_from(model, tmp_path / "given.ckpt")
    for each in (model, plain):
        fit(each, quiet_trainer, 60, passes=2)
    states_equal(model, plain, rtol=1e-9, atol=1e-9)


def test_a_run_that_is_too_short_says_so(quiet_trainer, capsys):
    before_start = r"after 14 images, before its parameters were chosen from the first 20.* raise budget\.images"
    for images_seen, match in ((14, before_start), (49, "before one pass over all 60")):
        with pytest.warns(UserWarning, match=match):
            fit(CategoricalMixture(TINY, 2, start_images=20), quiet_trainer, 7, images_seen=images_seen)
        assert "BIC" not in capsys.readouterr().out


def test_without_a_tolerance_rounding_ends_nothing(quiet_trainer):
    model = CategoricalMixture(TINY, 1, tolerance=0.0)  # at its best after one pass
    fit(model, quiet_trainer, 60, passes=9)
    assert model.em.passes == 9


def test_training_stops_by_itself_when_a_pass_gains_too_little(quiet_trainer):
    model = CategoricalMixture(TINY, 2, tolerance=1e-2)
    fit(model, quiet_trainer, 60, passes=500)
    assert 2 <= model.em.passes < 100
    before = model.em.objective
    assert model.em.gain < 1e-2
    assert 0 <= model.em.step(images()[0].flatten(1)) / 60 - before < 1e-2


def test_a_loader_that_ends_is_a_pass(quiet_trainer, make_batches):
    model, batches = CategoricalMixture(TINY, 2, tolerance=0.0), make_batches(TINY, 5, 12)
    quiet_trainer(max_epochs=3).fit(model, batches)
    assert model.em.passes == 3
    whole, levels = CategoricalMixture(TINY, 2), torch.cat([batch.levels for batch in batches])
    last = start(whole, levels, steps=3)
    assert model.em.objective == pytest.approx(last / 60, rel=1e-12)
    states_equal(model, whole, rtol=1e-9, atol=1e-9)


def test_a_loaded_model_is_the_same_model(quiet_trainer, tmp_path):
    labels = torch.arange(81) % 2
    for name in ("categorical", "trees", "low_rank", "rows"):
        model = ALL[name](conditional=True)
        fit(model, quiet_trainer, 60).save_checkpoint(tmp_path / "model.ckpt")
        loaded = lightning_gen.load(tmp_path / "model.ckpt")
        assert describe(loaded) == describe(model)
        assert torch.equal(nats(loaded, labels=labels), nats(model, labels=labels))
        assert torch.equal(*(each.sample(9, labels[:9], generator=seeded(1)) for each in (loaded, model)))


# --- the criterion ----------------------------------------------------------------------------------------------------


def printed_bic(out):
    [line] = [line for line in out.splitlines() if line.startswith("BIC ")]
    return float(line.split()[1].rstrip(":").replace(",", "")), line


def test_bic_is_scikit_learns():
    density = fitted(DEQUANTIZED["full"]).density
    oracle = Sklearn(2)
    oracle.weights_, oracle.means_ = density.log_weights.detach().exp()[0].numpy(), density.parts.mean.detach().numpy()
    oracle.precisions_cholesky_ = density.parts.whitening.detach().transpose(1, 2).numpy()
    x = images()[0].flatten(1).double() - 1
    with torch.no_grad():
        found = passes.bic(float(density.log_prob(x).sum()), density.free_parameters, 60)
    assert found == pytest.approx(oracle.bic(x.numpy()), rel=1e-9)


def test_the_bic_printed_at_the_end_is_of_the_models_own_likelihood(quiet_trainer, capsys):
    """Neither of the blurred images that training assigns, nor of an expectation over noise."""
    levels, labels = images()
    for name, conditional in itertools.product(("categorical", "trees", "full", "rows"), (False, True)):
        model = ALL[name](conditional=conditional)
        fit(model, quiet_trainer, 60, passes=4)
        found, line = printed_bic(capsys.readouterr().out)
        given = labels if conditional else None  # of a class-conditional model, given labels
        with torch.no_grad():
            total = model.likelihood(levels, given, generator=keyed_generator(model.seed, "bic", 0)).nats.sum()
        parameters = (1 + conditional) * ALL[name]().density.free_parameters  # a model for each of both classes
        assert model.density.free_parameters == parameters
        assert found == pytest.approx(-2 * float(total) + parameters * math.log(60), abs=0.06)
        assert ("given labels" in line) == conditional
        assert ("dequantized" in line) == (name == "full")
        assert model.means.take().keys() == {"objective"}


def test_bic_of_many_images_is_estimated_from_some(quiet_trainer, capsys, monkeypatch):
    monkeypatch.setattr(passes, "BIC_EVALUATIONS", 80)
    model = DEQUANTIZED["full"]()
    fit(model, quiet_trainer, 60, passes=2)
    found, line = printed_bic(capsys.readouterr().out)
    with torch.no_grad():
        own = model.likelihood(images()[0][::3], generator=keyed_generator(model.seed, "bic", 0)).nats
    expected = -6 * float(own.sum()) + model.density.free_parameters * math.log(60)
    assert found == pytest.approx(expected, abs=0.06)
    assert "estimated from 20" in line


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused():
    for new, match in (
        (partial(CategoricalMixture, TINY, 0), "components must be a positive integer, got 0"),
        (partial(CategoricalMixture, TINY, restarts=0), "CategoricalMixture.restarts must be a positive integer"),
        (partial(CategoricalMixture, TINY, start_images=0), "CategoricalMixture.start_images must be a positive"),
        (partial(CategoricalMixture, TINY, tolerance=-1.0), r"tolerance must be at least 0, got -1\.0"),
        (partial(CategoricalMixture, TINY, tolerance=math.nan), "tolerance must be at least 0, got nan"),
        (partial(CategoricalMixture, ImageSpec(1, 2, 2, 3), conditional=True), "conditional needs labelled images"),
        (partial(GaussianMixture, TINY, 2, "round"), "covariance must be full, diagonal or low_rank, got 'round'"),
        (partial(GaussianMixture, TINY, 2, "low_rank"), "give both or none"),
        (partial(GaussianMixture, TINY, 2, "full", rank=2), "give both or none"),
        (partial(HiddenMarkovModel, TINY, 0), "states must be a positive integer"),
        (partial(HiddenMarkovModel, TINY, 2, "columns"), "scan must be rows or pixels, got 'columns'"),
    ):
        with pytest.raises(InputError, match=match):
            new()


def test_bad_images_are_refused():
    for make in (*ALL.values(), Uniform):
        model = make(TINY)
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


def test_more_components_than_images_are_refused(quiet_trainer):
    for model, match in (
        (CategoricalMixture(TINY, 61), "61 components are more than the 60 images to"),
        (CategoricalMixture(TINY, 21, start_images=20), "raise start_images"),
        (CategoricalMixture(TINY, 50, conditional=True), "images of a class to start from"),
        (HiddenMarkovModel(TINY, 61), "61 states are more than the 60 images to"),
    ):
        with pytest.raises(InputError, match=match):
            fit(model, quiet_trainer, 60)


def test_augmented_images_and_half_precision_are_refused(quiet_trainer):
    augmented = ImageDataModule(Tiny(), batch_size=20, augment=[RandomShift(1)])
    with pytest.raises(InputError, match=r"leave data\.augment out"):
        quiet_trainer().fit(CategoricalMixture(TINY, 2), datamodule=augmented)
    trainer = quiet_trainer(precision="bf16-true")
    with pytest.raises(InputError, match=r"CategoricalMixture does not train with trainer\.precision bf16-true: it is"):
        trainer.fit(CategoricalMixture(TINY, 2), datamodule=ImageDataModule(Tiny(), batch_size=20))


# --- ranks and the command line ---------------------------------------------------------------------------------------

RANKS = """
model:
  class_path: lightning_gen.models.{model}
  init_args: {arguments}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {{source: lightning_gen.data.Digits, batch_size: {batch_size}}}
budget: {{images: 4000}}
evaluation: {{extractor: null}}
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
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-9, atol=1e-9)
    [alone], both = one["expectation_maximisation"], two["expectation_maximisation"]
    assert [each["passes"] for each in (alone, *both)] == [3, 3, 3]
    for name, value in alone["statistics"].items():
        torch.testing.assert_close(sum(each["statistics"][name] for each in both), value, rtol=1e-9, atol=1e-9)


CONFIG = """
model:
  class_path: lightning_gen.models.{model}
  init_args: {arguments}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {{source: lightning_gen.data.Digits, batch_size: 300}}
budget: {{images: 200000}}
evaluation: {{extractor: null}}
trainer: {{accelerator: cpu, devices: 1, log_every_n_steps: 1, enable_progress_bar: false}}
"""


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("CategoricalMixture", "{components: 3}"),
        (
            "GaussianMixture",
            "{components: 3, covariance: diagonal, conditional: true, "
            "dequantizer: {class_path: lightning_gen.bijections.UniformDequantizer, init_args: {noises: 2}}}",
        ),
        ("Uniform", "{}"),
    ],
)
def test_fit_load_and_sample_by_the_command_line(model, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classical.yaml").write_text(CONFIG.format(model=model, arguments=arguments))
    main(["fit", "--config", "classical.yaml"])
    folder = RunFolder(tmp_path / "runs" / "classical" / "version_0")
    assert folder.summary()["status"] == "finished"
    loaded = lightning_gen.load(folder.last)
    found = nats(loaded, torch.from_numpy(Digits().load("val").levels))
    assert torch.isfinite(found).all()
    if model == "Uniform":
        assert loaded.images_seen == 300
    else:
        assert loaded.images_seen < 200_000  # it has stopped by itself
        assert -float(found.mean()) / 64 / math.log(2) < 3.2
        rows = read_metrics(folder.path / "metrics.csv")[1]
        objectives = [float(row["train/objective"]) for row in rows if row["train/objective"]]
        assert objectives == sorted(objectives)
        assert len(objectives) == loaded.em.passes
    main(["sample", str(folder.last), "--n", "4", "--out", "drawn"])
    assert np.load("drawn/samples.npy").shape == (4, 1, 8, 8)
