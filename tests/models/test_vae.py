"""VAEs: against probabilistic PCA, quadrature and enumeration, and as users run them."""

import itertools
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.core.context import TrainingContext
from lightning_gen.core.errors import InputError
from lightning_gen.core.protocols import HasImportanceSamples
from lightning_gen.core.ranks import Ranks
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Batch, Digits, ImageDataModule
from lightning_gen.distributions import (
    BernoulliPixels,
    CategoricalPixels,
    DiagonalPosterior,
    FlowPosterior,
    FlowPrior,
    FullPosterior,
    GaussianPixels,
    LogisticPixels,
    MixturePrior,
    VampPrior,
)
from lightning_gen.models import VAE
from lightning_gen.networks import ConvDecoder, ConvEncoder, GridEncoder, MLPDecoder, MLPEncoder
from lightning_gen.objectives import ELBO, IWAE, BetaTCVAE, DReG, InfoVAE
from lightning_gen.runs import RunFolder
from lightning_gen.samplers import AnnealedImportanceSampling, PriorSampler, decoder_of

CONFIG = str(Path(__file__).parents[1] / "conf" / "vae.yaml")
DIGITS = ImageSpec(1, 8, 8, 17, num_classes=10)
TINY = ImageSpec(1, 2, 2, 3)  # has 81 images
CONDITIONAL = {
    "encoder": partial(MLPEncoder, widths=(32,), conditional=True),
    "decoder": partial(MLPDecoder, widths=(32,), conditional=True),
}
adam = partial(torch.optim.Adam, lr=1e-2)


def make(spec: ImageSpec = DIGITS, widths=(32,), seed: int = 0, **options) -> VAE:
    torch.manual_seed(seed)
    given = {
        "encoder": partial(MLPEncoder, widths=widths),
        "decoder": partial(MLPDecoder, widths=widths),
        "optimizer": adam,
        "latent_dim": 3,
        **options,
    }
    return VAE(spec, **given)


def random_levels(spec: ImageSpec, n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randint(spec.levels, (n, *spec.shape), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def digits(n: int, part: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    images = Digits().load(part)
    return torch.from_numpy(images.levels[:n]), torch.from_numpy(images.labels[:n])


def train(model: VAE, levels: torch.Tensor, steps: int, rate: float = 1e-2, labels=None, seed: int = 0) -> VAE:
    """Descend on all images at once, with a learning rate that falls to 0."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    size = model.objective.samples, len(levels), model.latent_dim
    for _ in range(steps):
        noise = torch.randn(size, generator=generator, dtype=model.dtype)
        optimizer.zero_grad()
        model.objective(model.terms(levels, labels, noise), TrainingContext()).mean().backward()
        optimizer.step()
        schedule.step()
    return model


# --- the terms --------------------------------------------------------------------------------------------------------


def test_terms_are_those_of_the_parts_one_latent_at_a_time():
    options = {"posterior": FullPosterior, "prior": partial(MixturePrior, components=3), **CONDITIONAL}
    model = shaken(make(likelihood=LogisticPixels, **options))
    levels, noise, labels = random_levels(DIGITS, 4), torch.randn(5, 4, 3, dtype=torch.float64), torch.arange(4)
    terms = model.terms(levels, labels, noise)
    assert terms.kl is None
    for k, b in itertools.product(range(5), range(4)):
        theta = model.encoder(model.spec.to_unit(levels[b : b + 1], torch.float64), labels[b : b + 1])
        latent, log_density = model.posterior.draw(theta, noise[k, b][None, None])
        pixels = model.decoder(latent[0], labels[b : b + 1])
        torch.testing.assert_close(terms.latent[k, b], latent[0, 0])
        torch.testing.assert_close(terms.log_posterior[k, b], log_density()[0, 0])
        torch.testing.assert_close(terms.log_prior[k, b], model.prior.log_prob(latent)[0, 0])
        torch.testing.assert_close(terms.log_conditional[k, b], model.pixels.log_prob(levels[b : b + 1], pixels)[0])


def shaken(model: VAE, scale: float = 0.3) -> VAE:
    """Return the model in float64, with parameters away from those of the start."""
    generator = torch.Generator().manual_seed(5)
    model.double()
    for parameter in model.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def test_the_encoder_is_given_the_gradient_of_importance_weights():
    levels, noise = random_levels(DIGITS, 4), torch.randn(4, 4, 3, dtype=torch.float64)
    for objective in (DReG(4), IWAE(4)):
        model = shaken(make(objective=objective))
        theta = model.posterior_parameters(levels, None).detach().requires_grad_()
        model.posterior_parameters = lambda levels, labels, theta=theta: theta
        loss = objective(model.terms(levels, None, noise), TrainingContext()).sum()
        (found,) = torch.autograd.grad(loss, theta)
        # Tucker et al. (2019), equation 8: the squared normalised weights times the path derivative.
        mean, log_variance = theta.chunk(2, -1)
        latent = mean + (0.5 * log_variance).exp() * noise
        fixed = theta.detach() if isinstance(objective, DReG) else theta
        conditional = model.log_conditional(levels, latent, None)
        log_weights = conditional + model.prior.log_prob(latent) - model.posterior.log_prob(fixed, latent)
        share = torch.softmax(log_weights.detach(), 0)
        surrogate = (share.square() if isinstance(objective, DReG) else share) * log_weights
        (expected,) = torch.autograd.grad(-surrogate.sum(), theta)
        torch.testing.assert_close(found, expected)


def test_ranks_take_slices_of_one_noise_so_that_their_mean_gradient_is_one_ranks():
    levels, labels = digits(8)
    options = {"objective": ELBO(samples=2), "prior": partial(MixturePrior, components=2)}

    def gradients(model, ranks):
        model.ranks, rows = ranks, ranks.rows(8 // ranks.count)
        model.training_step(Batch(levels[rows], labels[rows], None), 0).backward()
        assert model.images_seen == 8
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    one = gradients(make(**options).double(), Ranks())
    two = [gradients(make(**options).double(), Ranks(rank, 2)) for rank in (0, 1)]
    torch.testing.assert_close(sum(two) / 2, one)


def test_training_counts_images_after_the_step_and_warms_up_by_them(quiet_trainer, make_batches):
    seen = []

    class Watched(ELBO):
        def __call__(self, terms, context):
            if context.device == torch.device("cpu") and terms.latent.requires_grad:  # not of the trial
                seen.append((context.images_seen, context.num_images))
            return super().__call__(terms, context)

    model = make(objective=Watched(warmup=100))
    quiet_trainer().fit(model, make_batches(DIGITS, 3, 8))
    assert seen == [(0, 1), (8, 1), (16, 1)]
    seen.clear()
    data = ImageDataModule(Digits(), batch_size=16)
    quiet_trainer(max_steps=2, max_epochs=None).fit(make(objective=Watched()), data)
    assert seen == [(0, 1097), (16, 1097)]


def test_figures_of_a_step_are_the_loss_and_both_sides_of_the_bound(make_batches):
    model = make(objective=ELBO(beta=0.5))
    batch = make_batches(DIGITS, 1, 8)[0]
    noise = model.context.normal("posterior", 1, 8, 3, dim=1)
    loss = model.training_step(batch, 0)
    terms = model.terms(batch.levels, batch.labels, noise)
    model.means.conclude(taken=True)
    figures = model.means.take()
    assert figures.keys() == {"loss", "reconstruction", "kl"}
    assert figures["loss"] == pytest.approx(loss.item())
    assert figures["kl"] == pytest.approx(float(terms.kl.sum(1).mean()), rel=1e-5)
    assert figures["reconstruction"] == pytest.approx(-float(terms.log_conditional.mean()), rel=1e-5)
    assert figures["loss"] == pytest.approx(figures["reconstruction"] + 0.5 * figures["kl"], rel=1e-5)


def test_the_trainer_clips_gradients(quiet_trainer, make_batches):
    for options, longest in (
        ({}, None),
        ({"gradient_clip_val": 1e-3}, 2),
        ({"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}, math.inf),
    ):
        model = make(optimizer=partial(torch.optim.SGD, lr=1.0))
        before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        quiet_trainer(**options).fit(model, make_batches(DIGITS, 1, 8))
        moved = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before  # by the gradient
        if longest is None:
            assert float(moved.norm()) > 0.1
        else:
            assert float(torch.linalg.vector_norm(moved, longest)) == pytest.approx(1e-3, rel=0.01)


# --- likelihoods ------------------------------------------------------------------------------------------------------


def exact_nats(model: VAE, levels: torch.Tensor, reach: float = 10.0, points: int = 1001) -> torch.Tensor:
    """log p of images under a model of one latent, by the trapezoidal rule (exact beyond all digits shown)."""
    z = torch.linspace(-reach, reach, points, dtype=torch.float64)
    with torch.no_grad():
        conditional = model.log_conditional(levels, z[:, None, None].expand(-1, len(levels), -1))
        joint = conditional + model.prior.log_prob(z[:, None])[:, None]
    return torch.logsumexp(joint, 0) + math.log(z[1] - z[0])


def every_image(spec: ImageSpec) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(spec.levels), repeat=spec.dims)), dtype=torch.uint8).view(
        -1, *spec.shape
    )


ONE_LATENT = {
    "standard": {},
    "full-mixture": {"posterior": FullPosterior, "prior": partial(MixturePrior, components=3)},
    "flows": {
        "posterior": partial(FlowPosterior, width=8, context_dim=3),
        "prior": partial(FlowPrior, steps=2, width=8),
        "likelihood": GaussianPixels,
    },
    "vamp": {"prior": partial(VampPrior, components=3), "likelihood": LogisticPixels},
}


@pytest.mark.parametrize("kind", ONE_LATENT)
def test_probabilities_of_all_images(kind):
    """The likelihood sums to 1, and what bounds it from below to less: ever less for fewer importance samples."""
    images = every_image(TINY)
    model = shaken(make(TINY, widths=(8,), latent_dim=1, **ONE_LATENT[kind]), 0.2).eval()
    noise = torch.randn(1024, 81, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for steps in (0, 60):
        train(model, images[[0, 13, 26, 40, 80]], steps)
        exact = exact_nats(model, images)
        assert float(exact.exp().sum()) == pytest.approx(1.0, abs=1e-4)
        with torch.no_grad():
            log_weights = model.terms(images, None, noise).log_weights
        sums = []
        for samples in (1, 8, 64):
            grouped = log_weights.view(samples, -1, 81)
            bounds = torch.logsumexp(grouped, 0) - math.log(samples)
            sums.append(float(bounds.mean(0).exp().sum()))
        assert sums[0] < sums[1] < sums[2] < 1.01  # the last is all but exact, up to its noise
        assert sums[1] < 1
        assert sums[2] > 0.9


@pytest.mark.parametrize("kind", ONE_LATENT)
def test_the_likelihood_converges_on_the_exact_one(kind, monkeypatch, generator):
    images = every_image(TINY)[::5]
    model = shaken(make(TINY, widths=(8,), latent_dim=1, importance_samples=8000, **ONE_LATENT[kind]), 0.2)
    train(model, images, 60)  # or the encoder looks where the posterior is not
    monkeypatch.setattr("lightning_gen.models.variational.ROWS_AT_ONCE", 50_000)  # several chunks, the last one smaller
    with torch.no_grad():
        found = model.likelihood(images, generator=generator)
    assert (found.kind, found.num_samples) == ("bound", 8000)
    torch.testing.assert_close(found.nats, exact_nats(model, images), rtol=0, atol=0.04)


def test_the_likelihood_is_the_bound_of_its_generators_noise_in_chunks(monkeypatch):
    """Of 24 latents for each of four images, in chunks of at most seven."""
    levels, classes = random_levels(DIGITS, 4), torch.tensor([3, 1, 4, 0])
    monkeypatch.setattr("lightning_gen.models.variational.ROWS_AT_ONCE", 28)
    for options, labels in (({}, None), (CONDITIONAL, classes)):
        model = shaken(make(importance_samples=24, **options))
        kept = torch.get_rng_state()
        found = model.likelihood(levels, labels, generator=torch.Generator().manual_seed(0)).nats
        source = torch.Generator().manual_seed(0)
        noise = torch.cat([torch.randn(count, 4, 3, generator=source) for count in (7, 7, 7, 3)])
        terms = model.terms(levels, labels, noise.double())
        expected = np.log(np.exp(terms.log_weights.detach().numpy()).mean(0))
        np.testing.assert_allclose(found.detach().numpy(), expected)
        assert torch.equal(torch.get_rng_state(), kept)
        again, other = (
            model.likelihood(levels, labels, generator=torch.Generator().manual_seed(seed)).nats for seed in (0, 1)
        )
        assert torch.equal(again, found)
        assert not torch.equal(other, found)


def test_the_likelihood_is_differentiable_in_all_parameters(generator):
    model = shaken(make(importance_samples=3, prior=MixturePrior))
    assert isinstance(model, HasImportanceSamples)
    model.likelihood(random_levels(DIGITS, 4), generator=generator).nats.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


# --- probabilistic PCA ------------------------------------------------------------------------------------------------


def pca_images() -> tuple[ImageSpec, torch.Tensor, float]:
    """Images of two factors in noise, and their mean log-likelihood under the best probabilistic PCA of two factors.

    Tipping and Bishop (1999): the variance of the noise is the mean of the smallest eigenvalues of the covariance.
    Bins are a twelfth of the noise wide, so the probability of a level is density times width.
    """
    spec, generator = ImageSpec(1, 2, 3, 256), np.random.default_rng(0)
    loadings = 0.12 * generator.standard_normal((2, 6))
    rows = generator.standard_normal((400, 2)) @ loadings + 0.1 * generator.standard_normal((400, 6)) - 0.1
    levels = spec.to_levels(torch.from_numpy(rows)).view(-1, 1, 2, 3)
    assert int(levels.min()) > 0
    assert int(levels.max()) < 255
    unit = spec.to_unit(levels, torch.float64).flatten(1).numpy()
    covariance = np.cov(unit.T, bias=True)
    values = np.linalg.eigvalsh(covariance)[::-1]
    noise = values[2:].mean()
    log_det = np.log(values[:2]).sum() + 4 * np.log(noise)
    nats = -0.5 * (6 * math.log(2 * math.pi) + log_det + 2 + values[2:].sum() / noise)
    return spec, levels, nats + 6 * math.log(2 / 255)


def test_a_linear_vae_reaches_probabilistic_pca():
    spec, levels, exact = pca_images()
    for posterior in (DiagonalPosterior, FullPosterior):
        model = make(
            spec,
            widths=(),
            latent_dim=2,
            posterior=posterior,
            likelihood=partial(GaussianPixels, scale="shared"),
            objective=ELBO(),
            importance_samples=200,
        ).double()
        train(model, levels, steps=300, rate=0.3)
        noise = torch.randn(300, len(levels), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        with torch.no_grad():
            terms = model.terms(levels, None, noise)
            bound = model.likelihood(levels, generator=torch.Generator().manual_seed(2)).nats.mean()
        elbo = float((terms.log_conditional.mean(0) - terms.divergence).mean())
        assert exact - 0.05 < elbo < exact + 0.005
        assert exact - 0.05 < float(bound) < exact + 0.005


# --- latents ----------------------------------------------------------------------------------------------------------


def test_a_model_that_knows_four_images_by_heart_gives_them_back():
    levels, _ = digits(4)
    model = make(widths=(64,), likelihood=LogisticPixels, objective=ELBO(beta=0.01))
    train(model, levels, steps=200)
    back = model.decode(model.encode(levels))
    error = (back.int() - levels.int()).abs().float().mean()
    apart = (levels[:1].int() - levels[1:].int()).abs().float().mean()
    assert error < 0.5 < 2 < apart


def test_samplers_change_latents_and_pixels(generator):
    model = shaken(make(), 0.1).float()
    assert (model.latents, model.latent_shape) == ("normal", (3,))
    assert make(prior=MixturePrior).latents == "continuous"
    latent = model.draw_latents(4000, generator=generator)
    assert latent.shape == (4000, 3)
    assert float(latent.std()) == pytest.approx(1, abs=0.05)
    model.sampler = PriorSampler(temperature=0.5, pixels="mean")
    drawn = model.sample(5, generator=torch.Generator().manual_seed(1))
    expected = model.draw_latents(5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn, model.decode(0.5 * expected))


def test_samples_leave_nothing_out_in_training_mode():
    for pixels in ("sample", "mean"):
        model = shaken(
            make(decoder=partial(MLPDecoder, widths=(16,), dropout=0.5), sampler=PriorSampler(pixels=pixels))
        )
        expected = model.eval().sample(20, generator=torch.Generator().manual_seed(0))
        assert torch.equal(model.train().sample(20, generator=torch.Generator().manual_seed(0)), expected)
        assert all(part.training for part in model.modules())
        latent = model.draw_latents(20, generator=torch.Generator().manual_seed(0)).double()
        assert not torch.equal(*(model.pixel_parameters(latent, None) for _ in range(2)))  # training does leave out


def test_samples_follow_the_likelihood():
    """Counts of the 81 images against their probabilities."""
    import scipy.stats

    model = shaken(make(TINY, widths=(8,), latent_dim=1, prior=partial(MixturePrior, components=2)), 0.8)
    images = every_image(TINY)
    drawn = model.sample(20_000, generator=torch.Generator().manual_seed(0))
    codes = (drawn.flatten(1).long() * torch.tensor([27, 9, 3, 1])).sum(1)
    counts = torch.bincount(codes, minlength=81).double().numpy()
    expected = 20_000 * exact_nats(model, images).exp().numpy()
    common = expected >= 5
    merge = lambda values: np.append(values[common], values[~common].sum())  # noqa: E731
    assert scipy.stats.chisquare(merge(counts), merge(expected) / expected.sum() * 20_000).pvalue > 1e-3


def test_classes_are_heeded_by_what_is_conditional():
    levels, labels = digits(60)
    model = make(**CONDITIONAL, likelihood=LogisticPixels, importance_samples=50)
    assert model.conditional
    train(model, levels, steps=150, labels=labels)
    right, *wrong = (
        float(model.likelihood(levels, (labels + k) % 10, generator=torch.Generator().manual_seed(0)).nats.mean())
        for k in range(10)
    )
    assert right > max(wrong) + 5
    latent = model.encode(levels, labels)
    assert not torch.equal(latent, model.encode(levels, labels.flip(0)))
    assert not torch.equal(model.decode(latent, labels), model.decode(latent, labels.flip(0)))
    torch.manual_seed(0)
    drawn = model.sample(64)  # classes are drawn, too
    assert drawn.shape == (64, 1, 8, 8)
    for call in (lambda: model.decode(latent), lambda: model.encode(levels)):
        with pytest.raises(InputError, match="this model is class-conditional: give labels"):
            call()
    with pytest.raises(InputError, match="there is no class 10"):
        model.likelihood(levels, labels + 1)
    with pytest.raises(InputError, match="expected 60 whole numbers"):
        model.likelihood(levels, labels[:5])
    # A decoder alone may be: then q(z | x) leaves the class to be said by the image.
    alone = make(decoder=CONDITIONAL["decoder"], prior=VampPrior)
    assert alone.conditional
    assert torch.equal(alone.encode(levels, labels), alone.encode(levels, labels.flip(0)))


def test_pseudo_images_are_learnt_and_follow_the_encoder():
    model = make(prior=partial(VampPrior, components=5), likelihood=LogisticPixels)
    before = model.prior.images.detach().clone()
    levels, _ = digits(50)
    train(model, levels, steps=20)
    assert not torch.equal(model.prior.images, before)
    encoded = model.encoder(model.prior.images.clamp(-1, 1))
    latent = torch.randn(6, 3)
    each = model.posterior.log_prob(encoded, latent[:, None].expand(-1, 5, -1))
    expected = torch.logsumexp(each, 1) - math.log(5)
    torch.testing.assert_close(model.prior.log_prob(latent), expected)


# --- diagnostics ------------------------------------------------------------------------------------------------------


class DeafDecoder(MLPDecoder):
    """Makes its pixels without looking at the latent."""

    def forward(self, latent, labels=None):
        return super().forward(latent * 0, labels)


def test_diagnostics_are_the_two_sides_of_the_elbo():
    model = make(likelihood=LogisticPixels)
    levels, labels = digits(40)
    batch = Batch(levels, labels, None)
    found, again = model.diagnostics(batch), model.diagnostics(batch)
    assert all(torch.equal(found[name], again[name]) for name in found)
    theta = model.encoder(model.spec.to_unit(levels)).detach()
    torch.testing.assert_close(found["kl"], model.posterior.kl_from_normal(theta).sum(1))
    torch.testing.assert_close(found["kl_per_dimension"], model.posterior.kl_from_normal(theta).mean(0))
    assert found["reconstruction"].shape == (40,)
    alone = model.diagnostics(Batch(levels[:1], None, None))
    assert all(bool(torch.isfinite(value).all()) for value in alone.values())
    assert int(alone["active_units"]) == 0


def test_active_units_tell_a_collapsed_model_from_a_good_one():
    levels, labels = digits(100)
    found = {}
    for decoder in (MLPDecoder, DeafDecoder):
        model = make(decoder=partial(decoder, widths=(32,)), likelihood=LogisticPixels)
        train(model, levels, steps=120)
        found[decoder] = model.diagnostics(Batch(levels, labels, None))
    assert int(found[MLPDecoder]["active_units"]) == 3
    assert int(found[DeafDecoder]["active_units"]) == 0
    assert float(found[DeafDecoder]["kl"].mean()) < 0.05 < 3 < float(found[MLPDecoder]["kl"].mean())


# --- annealed importance sampling -------------------------------------------------------------------------------------


def test_annealed_importance_sampling_agrees_with_many_importance_samples():
    levels = digits(100)[0][:, :, 2:5, 2:5].contiguous()
    spec = ImageSpec(1, 3, 3, 17)
    options = {"likelihood": partial(LogisticPixels, components=1), "prior": partial(MixturePrior, components=2)}
    model = make(spec, latent_dim=2, importance_samples=2000, **options)
    train(model, levels, steps=150)
    model.requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    target = decoder_of(model).target(levels[:12])
    method = AnnealedImportanceSampling(steps=120, chains=8)
    annealed = method.forward(target, method.tune(target, generator), generator)
    error = (annealed.log_weights - annealed.bound).exp().std(0) / math.sqrt(8)
    difference = annealed.bound - model.likelihood(levels[:12], generator=generator).nats
    assert bool((difference.abs() < 4 * error + 0.02).all())
    assert float(difference.mean().abs()) < 4 * float(error.square().mean().sqrt()) / math.sqrt(12) + 0.02


# --- precision --------------------------------------------------------------------------------------------------------


class Watching:
    """An objective that writes down in what precision it is given its terms."""

    def __init__(self, objective, dtypes):
        self.objective, self.dtypes = objective, dtypes

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def __call__(self, terms, context):
        given = (terms.latent, terms.log_prior, terms.log_posterior, terms.log_conditional)
        self.dtypes |= {(each.dtype, torch.is_autocast_enabled("cpu")) for each in given}
        return self.objective(terms, context)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_is_of_the_networks_alone(precision, quiet_trainer, make_batches, monkeypatch):
    for options in (
        {"likelihood": LogisticPixels, "objective": DReG(3), "posterior": FullPosterior, "prior": MixturePrior},
        {"likelihood": GaussianPixels, "posterior": FlowPosterior, "prior": FlowPrior, "objective": InfoVAE()},
        {"likelihood": CategoricalPixels, "prior": VampPrior, "objective": ELBO(free_bits=0.1)},
    ):
        dtypes, model = set(), make(**options)
        log_prob = model.pixels.log_prob

        def watching(levels, theta, log_prob=log_prob, dtypes=dtypes):
            nats = log_prob(levels, theta)
            dtypes |= {(each.dtype, torch.is_autocast_enabled("cpu")) for each in (theta, nats)}
            return nats

        model.pixels.log_prob = watching
        objective, model.objective = model.objective, Watching(model.objective, dtypes)
        quiet_trainer(precision=precision).fit(model, make_batches(DIGITS, 3, 8))
        model.objective = objective
        assert dtypes == {(torch.float32, False)}
        assert model.guard.skipped_steps == 0
        assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
        assert bool(torch.isfinite(model.likelihood(random_levels(DIGITS)).nats).all())
        assert model.sample(3, generator=torch.Generator().manual_seed(0)).shape == (3, 1, 8, 8)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_parts_that_do_not_fit_are_refused_when_the_model_is_made():
    for options, message in (
        ({"likelihood": BernoulliPixels}, "BernoulliPixels is a probability of images of 2 levels, and these"),
        ({"importance_samples": 0}, "VAE.importance_samples must be at least 1, got 0"),
        ({"latent_dim": 0}, "DiagonalPosterior.latent_dim must be a positive integer, got 0"),
        ({"spec": TINY, **CONDITIONAL}, "MLPEncoder: conditional needs classes, but these images have none"),
        (
            {"encoder": CONDITIONAL["encoder"]},
            "VAE: the encoder is class-conditional and the decoder, where labels belong, is not",
        ),
        ({"prior": VampPrior, **CONDITIONAL}, "VampPrior encodes pseudo-images, which have no classes"),
        ({"prior": VampPrior, "posterior": FlowPosterior}, "VampPrior needs the density of given latents"),
        (
            {"posterior": FlowPosterior, "objective": DReG()},
            "VAE: DReG: it needs the density of given latents in one pass, which FlowPosterior has not: take IWAE",
        ),
        (
            {"posterior": FlowPosterior, "objective": BetaTCVAE()},
            "VAE: BetaTCVAE: it needs a DiagonalPosterior, not a FlowPosterior",
        ),
        (
            {"posterior": FullPosterior, "objective": BetaTCVAE()},
            "VAE: BetaTCVAE: it needs a DiagonalPosterior, not a FullPosterior",
        ),
        (
            {"encoder": lambda spec, outputs: MLPEncoder(spec, outputs - 1)},
            r"VAE: MLPEncoder must give the posterior's parameters, \(B, 6\), and gave \(2, 5\)",
        ),
        (
            {"decoder": lambda spec, dims, channels: MLPDecoder(spec, dims, 4)},
            r"VAE: MLPDecoder must give the pixels' parameters, \(B, 17, 8, 8\), and gave \(2, 4, 8, 8\)",
        ),
        ({"encoder": GridEncoder}, r"VAE: GridEncoder cannot be called with \(2, 1, 8, 8\), labels: .*takes 2"),
        (
            {"spec": ImageSpec(1, 8, 12, 17), "encoder": ConvEncoder, "decoder": ConvDecoder},
            "ConvEncoder makes square images only, got 8x12",
        ),
    ):
        with pytest.raises(InputError, match=message):
            make(**options)


def test_what_does_not_fit_is_refused_when_it_is_given():
    model = make()
    for call, message in (
        (lambda: model.likelihood(random_levels(ImageSpec(1, 9, 8, 17))), r"expected shape \(B, 1, 8, 8\)"),
        (lambda: model.encode(random_levels(ImageSpec(3, 8, 8, 17))), r"expected shape \(B, 1, 8, 8\)"),
        (lambda: model.likelihood(random_levels(DIGITS).float()), "expected levels of dtype uint8"),
        (lambda: model.likelihood(random_levels(DIGITS) + 1), r"level 17 is outside 0 \.\. 16"),
        (lambda: model.decode(torch.zeros(2, 4)), r"latents are \(B, 3\), got \(2, 4\)"),
        (lambda: model.decode(torch.zeros(3)), r"latents are \(B, 3\), got \(3,\)"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    model = make(prior=FlowPrior)
    model.sampler = PriorSampler(temperature=0.5)  # as `lightning sample --sampler.temperature` does
    with pytest.raises(InputError, match="temperature is of a standard normal prior, which this VAE has not"):
        model.sample(2)


def test_bad_input_at_the_command_line_is_one_line_and_exit_code_2(tmp_path, capsys):
    for arguments, message in (
        (["--model.likelihood=BernoulliPixels"], "BernoulliPixels is a probability of images of 2 levels"),
        (["--model.objective.beta=-1"], "ELBO.beta must be at least 0, got -1"),
        (["--model.objective=IWAE", "--model.objective.samples=0"], "IWAE.samples must be at least 1, got 0"),
        (["--data.source=GaussianGrid", "--data.augment=[]"], "MLPDecoder: conditional needs classes"),
        (["--data.source=GaussianGrid", "--data.augment=null"], "MLPDecoder: conditional needs classes"),
        (["--model.latent_dim=null"], "model.latent_dim: must not be null: give a value, or leave it out"),
        (["--model.prior.components=null"], "model.prior.components"),
        (["--data.batch_size=null"], "data.batch_size: must not be null"),
        (["--model.decoder=GridDecoder"], "VAE: GridDecoder cannot be called with (2, 4), labels: "),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--config", CONFIG, f"--run.root={tmp_path}", *arguments])
        assert stop.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert message in lines[0]


# --- runs -------------------------------------------------------------------------------------------------------------


def states(folder: Path, experiment: str = "vae") -> dict:
    path = folder / experiment / "version_0" / "checkpoints" / "last.ckpt"
    found = torch.load(path, weights_only=True)
    return {key: found[key] for key in ("state_dict", "optimizer_states", "ema", "random_states", "lightning_gen")}


def assert_same(a, b, where: str = "checkpoint") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict | list | tuple):
        keys = list(a) if isinstance(a, dict) else list(range(len(a)))
        assert keys == (list(b) if isinstance(b, dict) else list(range(len(b)))), where
        for key in keys:
            assert_same(a[key], b[key], f"{where}.{key}")
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    main(["fit", "--config", CONFIG, f"--run.root={folder}"])
    return folder


def test_a_run_that_was_stopped_goes_on_bit_for_bit(whole, tmp_path):
    main(["fit", "--config", CONFIG, f"--run.root={tmp_path}", "--budget.images=704"])
    last = RunFolder(tmp_path / "vae" / "version_0").last
    main(["fit", "--config", CONFIG, f"--run.root={tmp_path}", "--ckpt_path", str(last)])
    assert_same(states(tmp_path), states(whole))
    one, other = (RunFolder(folder / "vae" / "version_0").summary() for folder in (whole, tmp_path))
    assert other["last"] == one["last"]
    assert {"val/bpd_bound", "val/active_units", "val/kl", "val/reconstruction"} <= one["last"].keys()


def test_two_fits_are_equal_bit_for_bit(whole, tmp_path):
    main(["fit", "--config", str(whole / "vae" / "version_0" / "config.yaml"), f"--run.root={tmp_path}"])
    assert_same(states(tmp_path), states(whole))


def test_lightning_ais_scores_the_same_images_as_the_bound(whole, tmp_path, capsys):
    last = str(RunFolder(whole / "vae" / "version_0").last)
    out = tmp_path / "out.json"
    main(["ais", last, "--n", "5", "--steps", "40", "--chains", "5", "--simulated", "5", "--json", str(out)])
    report = json.loads(out.read_text())
    assert report["observation"] == "the model's own"
    model = lightning_gen.load(last)
    model.importance_samples = 2000
    images = Digits().load("val")
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:5].sort().values.numpy()
    given = torch.from_numpy(images.levels[rows]), torch.from_numpy(images.labels[rows])
    bound = model.likelihood(*given, generator=torch.Generator().manual_seed(0)).nats
    assert report["log_p"] == pytest.approx(float(bound.mean()), abs=0.5)
    assert -0.1 < report["gap_nats"] < 0.5
    with pytest.raises(SystemExit):
        main(["ais", last, "--sigma", "0.1"])
    assert "this VAE says itself how likely pixels are" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_equal_one_rank_on_the_union_batch(tmp_path):
    common = ["--trainer.precision=64-true", "--model.encoder.dropout=0", "--budget.images=640"]
    common += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.001"]
    command = [sys.executable, "-m", "lightning_gen", "fit", "--config", CONFIG, f"--run.root={tmp_path / 'two'}"]
    two = subprocess.run(
        [*command, *common, "--trainer.devices=2", "--data.batch_size=16"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert two.returncode == 0, two.stderr
    main(["fit", "--config", CONFIG, f"--run.root={tmp_path / 'one'}", *common, "--data.batch_size=32"])
    a, b = states(tmp_path / "one"), states(tmp_path / "two")
    assert b["lightning_gen"]["images_seen"] == 640
    for name, value in a["state_dict"].items():
        torch.testing.assert_close(b["state_dict"][name], value, rtol=0, atol=1e-10)
    one, other = (RunFolder(tmp_path / which / "vae" / "version_0").summary() for which in ("one", "two"))
    assert other["last"]["val/bpd_bound"] == pytest.approx(one["last"]["val/bpd_bound"], rel=1e-9)
