"""Hierarchical VAEs: one path for prior and posterior, divergences in closed form, a bound that is one."""

import itertools
from functools import partial

import pytest
import torch

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Batch
from lightning_gen.distributions import CategoricalPixels, LogisticPixels
from lightning_gen.models import HierarchicalVAE, variational
from lightning_gen.networks import LadderNetwork
from lightning_gen.objectives import BetaTCVAE, DReG, InfoVAE

SMALL = {"resolutions": (4, 2, 1), "depths": (1, 2, 1), "width": 8, "latent_channels": 2}


def make(spec=None, seed=0, network=None, **options) -> HierarchicalVAE:
    torch.manual_seed(seed)
    spec = spec or ImageSpec(1, 4, 4, 5, num_classes=3)
    factory = partial(LadderNetwork, **(network or SMALL))
    model = HierarchicalVAE(
        spec, network=factory, optimizer=partial(torch.optim.Adam, lr=1e-2), likelihood=CategoricalPixels, **options
    )
    with torch.no_grad():  # else prior and posterior begin as one
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def levels_of(model: HierarchicalVAE, n: int = 6) -> torch.Tensor:
    size = n, *model.spec.shape
    return torch.randint(model.spec.levels, size, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_posterior_s_latents_are_the_prior_s_noise():
    model = make()
    assert (model.latents, model.latent_dim) == ("normal", 2 * (16 + 2 * 4 + 1))
    levels = levels_of(model)
    seen = model.network.look(model.spec.to_unit(levels, torch.float64))
    noise = torch.randn(6, model.latent_dim, dtype=torch.float64)
    up = model.network(noise, seen)
    down = model.network(up.noise)
    torch.testing.assert_close(down.theta, up.theta)
    torch.testing.assert_close(down.log_prior, up.log_prior)
    # What encode returns, decode takes: the posterior without noise, and the pixels that it leads to.
    still = model.network(torch.zeros(6, model.latent_dim, dtype=torch.float64), seen)
    torch.testing.assert_close(model.encode(levels), still.noise)
    assert torch.equal(model.decode(still.noise), model.spec.to_levels(model.pixels.mean(still.theta.float())))


def test_divergences_are_the_mean_of_the_log_ratio():
    model = make()
    levels = levels_of(model, 2)
    noise = torch.randn(8_000, 2, model.latent_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        terms = model.terms(levels, None, noise)
    ratio = terms.log_posterior - terms.log_prior
    error = ratio.std(0) / len(noise) ** 0.5
    assert ((ratio.mean(0) - terms.kl.sum(1)).abs() < 5 * error + 1e-9).all()
    assert (terms.kl > 0).all()


def test_the_density_of_the_path_is_that_of_its_noise():
    # log p(z) dz = N(noise) dnoise: what the layers' scales make of volumes is the difference.
    model = make()
    noise = torch.randn(1, model.latent_dim, dtype=torch.float64)
    found = model.network(noise)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum()
    scales = []
    handles = [
        layer.prior.register_forward_hook(
            lambda _, __, out: scales.append(out[:, 2:4].clamp(-8, 8).sum())  # log sigma of the two channels
        )
        for layer in model.network.layers
    ]
    model.network(noise)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found.log_prior[0], normal - sum(scales))


def test_probabilities_of_all_images_sum_to_at_most_one():
    spec = ImageSpec(1, 2, 2, 3)
    model = make(spec, network={"resolutions": (2, 1), "depths": (1, 1), "width": 8, "latent_channels": 1})
    images = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
    with torch.no_grad():  # a proposal so near the prior that weights vary little
        for layer in model.network.layers:
            for part in (layer.posterior.last, layer.prior.last):
                part.weight.mul_(0.3)
                part.bias.mul_(0.3)
    generator, totals = torch.Generator().manual_seed(3), []
    for count in (1, 10, 200):
        model.importance_samples = count
        with torch.no_grad():
            bounds = [model.likelihood(images, generator=generator).nats for _ in range(20 if count < 200 else 1)]
        totals.append(float(torch.stack(bounds).mean(0).exp().sum()))
    assert totals[0] < totals[1] < totals[2] < 1
    # The weights themselves are unbiased.
    noise = torch.randn(1_000, 81, model.latent_dim, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        weights = model.terms(images, None, noise).log_weights.exp()
    error = float(weights.var(0).sum().sqrt()) / 1_000**0.5
    assert abs(float(weights.mean(0).sum()) - 1) < 5 * error
    assert error < 0.03


def test_large_images_are_decoded_few_at_a_time(monkeypatch):
    """Neither many importance samples nor many images at once take memory in proportion; the bound is the same."""
    model = make(importance_samples=7)
    levels, rows = levels_of(model, 10), []
    monkeypatch.setattr(variational, "normal", lambda *shape, **options: torch.zeros(shape))
    whole = model.likelihood(levels)
    model.network.register_forward_hook(lambda network, inputs, found: rows.append(len(inputs[0])))
    for name, most in {"NUMBERS_AT_ONCE": 4 * 64 * 16 + 1, "ROWS_AT_ONCE": 6}.items():
        with monkeypatch.context() as patch:
            patch.setattr(variational, name, most)
            rows.clear()
            found = model.likelihood(levels)
        assert whole.kind == found.kind == "bound"
        torch.testing.assert_close(found.nats, whole.nats)
        assert max(rows) == min(most, 4 if name == "NUMBERS_AT_ONCE" else 6)
        assert sum(rows) == 7 * 10


def test_no_images_have_no_bounds():
    model = make(importance_samples=2)
    assert model.likelihood(levels_of(model, 2)[:0]).nats.shape == (0,)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_is_of_the_convolutions_alone(precision, quiet_trainer, make_batches):
    model, seen = make().float(), []
    model.network.register_forward_hook(lambda network, inputs, found: seen.append(found))
    quiet_trainer(precision=precision).fit(model, make_batches(model.spec, 3, 8))
    assert model.guard.skipped_steps == 0
    assert len(seen) == 3
    for found in seen:
        assert (
            found.kl.dtype == found.log_prior.dtype == found.log_posterior.dtype == found.noise.dtype == torch.float32
        )
    levels = levels_of(model, 4)
    assert bool(model.likelihood(levels).nats.isfinite().all())
    assert model.decode(model.encode(levels)).shape == levels.shape


def test_labels_choose_where_the_path_begins():
    model = make(network={**SMALL, "conditional": True})
    assert model.conditional
    with torch.no_grad():
        model.network.of_class.weight.mul_(10)
    latent = torch.zeros(2, model.latent_dim, dtype=torch.float64)
    theta = model.pixel_parameters(latent, torch.tensor([0, 1])).detach()
    assert float((theta[0] - theta[1]).abs().max()) > 1e-3
    with pytest.raises(InputError, match="give labels"):
        model.decode(latent)
    assert model.sample(3, torch.tensor([0, 1, 2])).shape == (3, 1, 4, 4)


def test_large_gradients_are_left_out_and_counted(quiet_trainer, make_batches):
    model = make(largest_gradient=1e-6).float()
    before = [p.clone() for p in model.parameters()]
    quiet_trainer().fit(model, make_batches(model.spec, 3, 6))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.guard.large_gradients == 3
    assert model.guard.skipped_steps == 0  # nor is a row of them an end
    assert model.images_seen == 18
    assert model.means.take()["large_gradients"] == 2  # the mean of 1, 2 and 3
    model.guard.largest_gradient = 1e6
    quiet_trainer().fit(model, make_batches(model.spec, 1, 6))
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.guard.large_gradients == 3
    other = make()
    other.guard.load_state_dict(model.guard.state_dict())
    assert other.guard.large_gradients == 3


def test_learned_resampling_tells_a_coarse_latent_where_things_are_and_fixed_does_not():
    # Moving an image's content around within what one coarse place covers changes nothing that averages can see.
    spec = ImageSpec(1, 4, 4, 5)
    images = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    moved = images.flatten(2)[..., torch.randperm(16, generator=torch.Generator().manual_seed(3))].view_as(images)
    for resampling in ("fixed", "learned"):
        options = {**SMALL, "resolutions": (4, 1), "depths": (1, 1), "resampling": resampling}
        network = make(spec, network=options).network
        network.first = torch.nn.Conv2d(1, 8, 1).double()
        network.bottom_up[0] = torch.nn.Identity()
        change = float((network.look(images)[0] - network.look(moved)[0]).abs().max())
        assert (change < 1e-12) == (resampling == "fixed")


def test_each_side_can_have_its_own_width_and_latents():
    options = {**SMALL, "width": (4, 8, 16), "latent_channels": (1, 2, 3)}
    model = make(network=options)
    assert [(layer.side, layer.latent_channels) for layer in model.network.layers] == [(1, 3), (2, 2), (2, 2), (4, 1)]
    assert model.latent_dim == 3 + 2 * 2 * 4 + 16
    levels = levels_of(model)
    torch.testing.assert_close(model.decode(model.encode(levels)), model.decode(model.encode(levels)))
    assert torch.isfinite(model.likelihood(levels).nats).all()


def test_sides_that_do_not_divide_each_other_are_resampled_by_averages():
    model = make(network={**SMALL, "resolutions": (4, 3, 1), "resampling": "fixed"})
    assert model.sample(2).shape == (2, 1, 4, 4)


def test_a_collapsed_layer_is_seen():
    model = make()
    batch = Batch(levels_of(model), None, torch.arange(6))
    assert int(model.diagnostics(batch)["active_layers"]) == 4
    with torch.no_grad():
        for layer in model.network.layers:
            layer.prior.last.weight.zero_()
            layer.prior.last.bias.zero_()
            layer.posterior.last.weight.zero_()
            layer.posterior.last.bias.zero_()
    figures = model.diagnostics(batch)
    assert int(figures["active_layers"]) == 0
    assert float(figures["kl"].abs().max()) < 1e-12


def test_networks_that_cannot_be_are_refused():
    for options, words in (
        ({"resolutions": (8, 4)}, "resolutions must be decreasing from the image's 4"),
        ({"resolutions": (4, 4, 1)}, "resolutions must be decreasing"),
        ({"depths": (1, 1)}, "3 resolutions need as many depths, got 2"),
        ({"latent_channels": (1, 2)}, "3 resolutions need as many latent_channels, got 2"),
        ({"resolutions": (4, 3, 1)}, "do not divide each other: choose others, or resampling fixed"),
        ({"resampling": "bilinear"}, "resampling must be learned or fixed, got 'bilinear'"),
        ({"width": (8, 8, 4), "resampling": "fixed"}, "resampling fixed keeps one width"),
        ({"width": 0}, "width.0. must be a positive integer"),
        ({"width": (8, 0, 8)}, "width.1. must be a positive integer"),
        ({"dropout": 1.0}, "dropout must be in"),
    ):
        with pytest.raises(InputError, match=words):
            make(network={**SMALL, **options})


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="importance_samples must be at least 1"):
        make(importance_samples=0)
    with pytest.raises(InputError, match="largest_gradient must be above 0"):
        make(largest_gradient=0.0)
    for objective in (DReG(), InfoVAE(), BetaTCVAE()):
        name = type(objective).__name__
        with pytest.raises(InputError, match=f"HierarchicalVAE: {name}: it is of one layer of latents: take ELBO or"):
            make(objective=objective)
    with pytest.raises(InputError, match="square images"):
        make(ImageSpec(1, 4, 6, 5))
    with pytest.raises(InputError, match="needs classes"):
        make(ImageSpec(1, 4, 4, 5), network={**SMALL, "conditional": True})
    model = make()
    with pytest.raises(InputError, match="latents are"):
        model.decode(torch.zeros(2, 3))
    with pytest.raises(InputError, match="expected shape"):
        model.encode(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


def test_logistic_pixels_fit_it_too():
    torch.manual_seed(0)
    model = HierarchicalVAE(
        ImageSpec(3, 8, 8, 256),
        network=partial(LadderNetwork, width=8, depths=(1, 1, 1), latent_channels=2),
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        likelihood=partial(LogisticPixels, components=2),
        importance_samples=2,
    )
    assert torch.isfinite(model.likelihood(levels_of(model, 2)).nats).all()
    assert model.sample(2).shape == (2, 3, 8, 8)
