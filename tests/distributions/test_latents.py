"""Posteriors and priors of latents against torch.distributions, the change of variables, quadrature and Monte Carlo."""

import math
from functools import partial

import pytest
import scipy.interpolate
import scipy.stats
import torch
from torch import distributions as D
from torch.autograd.functional import jacobian

from lightning_gen.core.errors import InputError
from lightning_gen.distributions import (
    DiagonalPosterior,
    FlowPosterior,
    FlowPrior,
    FullPosterior,
    MixturePrior,
    StandardNormal,
    VampPrior,
)


def shaken(module: torch.nn.Module, scale: float = 0.3) -> torch.nn.Module:
    """Return the module in float64 with parameters away from those of the start, which are often special."""
    generator = torch.Generator().manual_seed(7)
    module.double()
    for parameter in module.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module.requires_grad_(False)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


POSTERIORS = {
    "diagonal": DiagonalPosterior,
    "full": FullPosterior,
    "flow": lambda dims: FlowPosterior(dims, steps=2, width=8, context_dim=3),
}


@pytest.fixture(params=POSTERIORS)
def posteriors(request):
    """One kind of posterior, of latents of one, two and five numbers."""
    return [shaken(POSTERIORS[request.param](dims)) for dims in (1, 2, 5)]


# --- posteriors -------------------------------------------------------------------------------------------------------


def test_draws_come_with_their_log_prob(posteriors):
    for posterior in posteriors:
        theta, noise = normal(4, posterior.outputs), normal(3, 4, posterior.latent_dim, seed=1)
        latent, log_density = posterior.draw(theta, noise)
        nats = log_density()
        assert latent.shape == noise.shape
        assert nats.shape == (3, 4)
        torch.testing.assert_close(posterior.log_prob(theta, latent), nats, rtol=1e-9, atol=1e-9)


def test_densities_follow_from_the_change_of_variables(posteriors):
    """The density of z(noise) is that of the noise over |det dz/dnoise|, by autograd's Jacobian."""
    for posterior in posteriors:
        theta, noise = normal(2, posterior.outputs), normal(3, 2, posterior.latent_dim, seed=1)
        nats = posterior.draw(theta, noise)[1]()
        for k, b in ((0, 0), (2, 1)):
            full = jacobian(lambda e: posterior.draw(theta[b : b + 1], e[None, None])[0][0, 0], noise[k, b])  # noqa: B023
            expected = D.Normal(0.0, 1.0).log_prob(noise[k, b]).sum() - torch.linalg.slogdet(full)[1]
            torch.testing.assert_close(nats[k, b], expected, rtol=1e-9, atol=1e-9)


def test_rows_of_a_batch_do_not_see_each_other(posteriors):
    order = torch.tensor([3, 1, 0, 2])
    for posterior in posteriors:
        theta, noise = normal(4, posterior.outputs), normal(2, 4, posterior.latent_dim, seed=1)
        latent, log_density = posterior.draw(theta, noise)
        ordered, of_ordered = posterior.draw(theta[order], noise[:, order])
        torch.testing.assert_close(ordered, latent[:, order])
        torch.testing.assert_close(of_ordered(), log_density()[:, order])


def test_gradients_of_draws_are_those_of_finite_differences(posteriors):
    for posterior in posteriors:
        theta, noise = normal(2, posterior.outputs).requires_grad_(), normal(2, 2, posterior.latent_dim, seed=1)

        def both(theta, posterior=posterior, noise=noise):
            latent, log_density = posterior.draw(theta, noise)
            return latent, log_density()

        assert torch.autograd.gradcheck(both, theta)
        latent = posterior.draw(theta, noise)[0].detach().requires_grad_()
        assert torch.autograd.gradcheck(posterior.log_prob, (theta, latent))


def test_the_mean_is_where_no_noise_leads_and_moments_are_of_the_diagonal_one_alone(posteriors):
    for posterior in posteriors:
        theta, nothing = normal(4, posterior.outputs), torch.zeros(1, 4, posterior.latent_dim).double()
        torch.testing.assert_close(posterior.mean(theta), posterior.draw(theta, nothing)[0][0])
        if isinstance(posterior, DiagonalPosterior):
            mean, log_variance = posterior.moments(theta)
            torch.testing.assert_close(torch.cat([mean, log_variance], 1), theta)
        else:
            with pytest.raises(InputError, match=f"it needs a DiagonalPosterior, not a {type(posterior).__name__}"):
                posterior.moments(theta)


def test_the_diagonal_one_is_torchs_normal():
    posterior, theta, latent = DiagonalPosterior(3), normal(4, 6), normal(5, 4, 3, seed=1)
    mean, log_variance = theta[:, :3], theta[:, 3:]
    reference = D.Independent(D.Normal(mean, (0.5 * log_variance).exp()), 1)
    torch.testing.assert_close(posterior.log_prob(theta, latent), reference.log_prob(latent))
    kl = D.kl_divergence(reference.base_dist, D.Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(posterior.kl_from_normal(theta), kl.double())
    torch.testing.assert_close(posterior.mean(theta), mean)


def full_reference(theta: torch.Tensor, dims: int) -> D.MultivariateNormal:
    """The factor written by a loop over its places, row by row."""
    factor = torch.zeros(len(theta), dims, dims, dtype=theta.dtype)
    place = 2 * dims
    for i in range(dims):
        factor[:, i, i] = (0.5 * theta[:, dims + i]).exp()
        for j in range(i):
            factor[:, i, j] = theta[:, place]
            place += 1
    return D.MultivariateNormal(theta[:, :dims], scale_tril=factor)


def test_the_full_one_is_torchs_multivariate_normal():
    for dims in (1, 2, 4):
        posterior = FullPosterior(dims)
        theta, latent = normal(4, posterior.outputs), normal(5, 4, dims, seed=1)
        reference = full_reference(theta, dims)
        torch.testing.assert_close(posterior.log_prob(theta, latent), reference.log_prob(latent))
        torch.testing.assert_close(posterior.mean(theta), reference.mean)
        standard = D.MultivariateNormal(torch.zeros(dims).double(), torch.eye(dims).double())
        torch.testing.assert_close(posterior.kl_from_normal(theta).sum(-1), D.kl_divergence(reference, standard))
        assert bool((posterior.kl_from_normal(theta) >= 0).all())


def test_the_full_ones_parts_are_of_each_coordinate_given_those_before_it():
    """KL of a chain rule: E KL(q(z_d | z_<d) || N(0, 1)), the conditionals by the Schur complement."""
    posterior, theta = FullPosterior(3), normal(1, 9)
    reference = full_reference(theta, 3)
    mean, covariance = reference.mean[0], reference.covariance_matrix[0]
    expected = []
    for d in range(3):
        before, across = covariance[:d, :d], covariance[d, :d]
        weights = torch.linalg.solve(before, across) if d else across
        variance = covariance[d, d] - weights @ across
        spread = covariance[d, d] - variance  # of the conditional's mean
        expected.append(0.5 * (mean[d] ** 2 + spread + variance - 1 - variance.log()))
    torch.testing.assert_close(posterior.kl_from_normal(theta)[0], torch.stack(expected))


def test_kl_formulas_are_what_monte_carlo_finds():
    for kind in ("diagonal", "full"):
        posterior = POSTERIORS[kind](3)
        theta = 0.7 * normal(4, posterior.outputs)
        latent, log_density = posterior.draw(theta, normal(40_000, 4, 3, seed=1))
        excess = log_density() - D.Normal(0.0, 1.0).log_prob(latent).sum(-1)
        error = excess.std(0) / math.sqrt(len(excess))
        assert bool(((excess.mean(0) - posterior.kl_from_normal(theta).sum(-1)).abs() < 4 * error).all())


def test_only_what_has_a_closed_form_says_so():
    posterior = FlowPosterior(2)
    assert posterior.kl_from_normal(torch.zeros(1, posterior.outputs)) is None


def test_extreme_outputs_of_an_encoder_stay_finite(posteriors):
    for posterior in posteriors:
        posterior.float()
        for value in (-1e4, 1e4):
            theta = torch.full((1, posterior.outputs), value, dtype=torch.float32).requires_grad_()
            latent, log_density = posterior.draw(theta, torch.randn(1, 1, posterior.latent_dim))
            nats = log_density()
            assert torch.isfinite(latent).all()
            assert torch.isfinite(nats).all()
            (gradient,) = torch.autograd.grad((latent.sum() + nats.sum()), theta)
            assert torch.isfinite(gradient).all()


# --- priors -----------------------------------------------------------------------------------------------------------


class TwoPixels(torch.nn.Linear):
    """Maps images (B, 1, 1, 2) to what a posterior is made of."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.flatten(1))


def vamp(posterior_class=DiagonalPosterior, dims: int = 2, components: int = 4) -> VampPrior:
    prior, posterior = VampPrior(dims, components), posterior_class(dims)
    encoder = shaken(TwoPixels(2, posterior.outputs), 0.8)
    encoder.bias.data[dims : 2 * dims] -= 1.5  # narrow, so that the components stand apart
    prior.attach(posterior, encoder, (1, 1, 2))
    prior.owner = torch.nn.ModuleList([posterior, encoder])  # a model's part: moved along with it
    return shaken(prior)


PRIORS = {
    "normal": lambda: StandardNormal(2),
    "mixture": lambda: shaken(MixturePrior(2, 4), 0.8),
    "vamp": vamp,
    "vamp-full": lambda: vamp(FullPosterior),
    "flow": lambda: shaken(FlowPrior(2, steps=3, width=8), 0.2),
}


@pytest.fixture(params=PRIORS)
def prior(request):
    return PRIORS[request.param]().double().requires_grad_(False)


def grid(reach: float = 16.0, points: int = 641) -> tuple[torch.Tensor, float]:
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


def test_priors_integrate_to_one(prior):
    latent, cell = grid()
    assert float(prior.log_prob(latent).exp().sum()) * cell == pytest.approx(1.0, abs=2e-4)


def test_samples_follow_the_density(prior):
    """Kolmogorov and Smirnov's test of projections, whose distribution functions are sums over a grid."""
    latent, cell = grid()
    mass = prior.log_prob(latent).exp() * cell
    drawn = prior.sample(4000, torch.Generator().manual_seed(3))
    assert drawn.shape == (4000, 2)
    for direction in ((1.0, 0.0), (0.0, 1.0), (0.6, 0.8), (0.8, -0.6)):
        along = torch.tensor(direction, dtype=torch.float64)
        places, order = (latent @ along).sort()
        cdf = scipy.interpolate.interp1d(places.numpy(), mass[order].cumsum(0).numpy())
        assert scipy.stats.kstest((drawn.double() @ along).numpy(), cdf).pvalue > 1e-3


def test_batch_dimensions_of_latents_are_kept(prior):
    latent = normal(3, 4, 2)
    nats = prior.log_prob(latent)
    assert nats.shape == (3, 4)
    torch.testing.assert_close(nats.flatten(), torch.stack([prior.log_prob(z) for z in latent.flatten(0, 1)]))


def test_equal_generators_draw_equal_latents_in_every_precision(prior):
    draws = [prior.to(dtype).sample(5, torch.Generator().manual_seed(1)) for dtype in (torch.float32, torch.float64)]
    if not isinstance(prior, MixturePrior):  # whose choice of a component depends on rounding
        torch.testing.assert_close(draws[0].double(), draws[1], rtol=1e-4, atol=1e-4)
    assert torch.equal(draws[1], prior.sample(5, torch.Generator().manual_seed(1)))
    assert not torch.equal(draws[1], prior.sample(5, torch.Generator().manual_seed(2)))


def test_the_standard_normal_is_torchs():
    latent = normal(6, 3)
    torch.testing.assert_close(StandardNormal(3).log_prob(latent), D.Normal(0.0, 1.0).log_prob(latent).sum(-1))


def test_the_mixture_is_torchs():
    prior, latent = PRIORS["mixture"](), normal(6, 2)
    reference = D.MixtureSameFamily(
        D.Categorical(logits=prior.logits),
        D.Independent(D.Normal(prior.means, (0.5 * prior.log_variances).exp()), 1),
    )
    torch.testing.assert_close(prior.log_prob(latent), reference.log_prob(latent))


def test_vamp_is_the_mixture_of_the_posteriors_of_its_images():
    latent = normal(6, 2)
    for posterior_class in (DiagonalPosterior, FullPosterior):
        prior = vamp(posterior_class)
        _, encode = prior._parts
        components = []
        for image in prior.images:
            theta = encode(image.clamp(-1, 1)[None])
            if posterior_class is FullPosterior:
                components.append(full_reference(theta, 2).log_prob(latent))
            else:
                components.append(D.Normal(theta[:, :2], (0.5 * theta[:, 2:]).exp()).log_prob(latent).sum(-1))
        expected = torch.stack(components).exp().mean(0).log()
        torch.testing.assert_close(prior.log_prob(latent), expected)


def test_a_flow_priors_density_follows_from_the_change_of_variables():
    prior, latent = shaken(FlowPrior(3, steps=3, width=8)), normal(2, 3)
    for z in latent:
        full = jacobian(lambda row: prior.flow(row)[0], z)
        expected = D.Normal(0.0, 1.0).log_prob(prior.flow(z)[0]).sum() + torch.linalg.slogdet(full)[1]
        torch.testing.assert_close(prior.log_prob(z), expected)


def test_priors_are_fitted_by_their_gradients():
    """Maximum likelihood finds a normal distribution that is none of N(0, I), be it wider or narrower."""
    for scale in (2.0, 0.4):
        data = 1.5 + scale * normal(2000, 1)
        for prior in (MixturePrior(1, 2).double(), FlowPrior(1, steps=1, width=4).double()):
            optimizer = torch.optim.Adam(prior.parameters(), 0.1)
            for _ in range(150):
                optimizer.zero_grad()
                (-prior.log_prob(data).mean()).backward()
                optimizer.step()
            best = D.Normal(data.mean(), data.std(correction=0)).log_prob(data).mean()
            assert float(prior.log_prob(data).mean().detach()) == pytest.approx(float(best), abs=0.01)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_numbers_out_of_range_are_refused_by_name():
    kinds = (DiagonalPosterior, FullPosterior, FlowPosterior, StandardNormal, MixturePrior, VampPrior, FlowPrior)
    for make, argument, value in (
        *((kind, "latent_dim", 0) for kind in kinds),
        (partial(FlowPosterior, 2), "steps", 0),
        (partial(FlowPosterior, 2), "context_dim", 0),
        (partial(FlowPrior, 2), "steps", 0),
        (partial(MixturePrior, 2), "components", 0),
        (partial(VampPrior, 2), "components", -1),
    ):
        name = getattr(make, "func", make).__name__
        with pytest.raises(InputError, match=rf"{name}\.{argument} must be a positive integer, got {value}"):
            make(**{argument: value})
    with pytest.raises(InputError, match="width must be a positive integer, got 0"):
        FlowPosterior(2, width=0)


def test_vamp_refuses_a_posterior_that_cannot_judge_other_latents():
    with pytest.raises(InputError, match="VampPrior needs the density of given latents in one pass, which FlowPost"):
        VampPrior(2).attach(FlowPosterior(2), torch.nn.Identity(), (1, 1, 2))
