"""Which models can be annealed, and that their adaptors are the models' own densities and draws."""

from functools import partial

import pytest
import torch
from torch.distributions import Normal
from torch.optim import Adam

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.distributions import MixturePrior
from lightning_gen.models import GAN, VAE, VQVAE, CategoricalMixture, HierarchicalVAE, Uniform
from lightning_gen.networks import (
    FSQ,
    GridDecoder,
    GridEncoder,
    LadderNetwork,
    MLPDecoder,
    MLPDiscriminator,
    MLPEncoder,
    MLPGenerator,
)
from lightning_gen.samplers import GaussianDecoder, LatentSampler, Sampler, decoder_of, is_decoder
from lightning_gen.samplers.decoders import ModelDecoder

SPEC = ImageSpec(1, 4, 4, levels=5, num_classes=3)
adam = partial(Adam, lr=1e-3)


def gan(**options):
    return GAN(
        SPEC,
        partial(MLPGenerator, latent_dim=3, widths=(8,), conditional=True),
        partial(MLPDiscriminator, widths=(8,), conditional=True),
        adam,
        adam,
        **options,
    ).eval()


def vae(**options):
    encoder, decoder = partial(MLPEncoder, widths=(8,)), partial(MLPDecoder, widths=(8,), conditional=True)
    return VAE(SPEC, encoder, decoder, adam, latent_dim=3, **options).eval()


def ladder():
    network = partial(LadderNetwork, resolutions=(4, 1), depths=(1, 1), width=8, latent_channels=2, conditional=True)
    return HierarchicalVAE(SPEC, network, adam).eval()


def vqvae():
    encoder, decoder = (partial(make, halvings=1, width=4, depth=0) for make in (GridEncoder, GridDecoder))
    return VQVAE(SPEC, encoder, decoder, adam, partial(FSQ, levels=(3, 3)))


def levels_of(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    levels = torch.randint(SPEC.levels, (n, *SPEC.shape), generator=source).to(torch.uint8)
    return levels, torch.arange(n) % SPEC.num_classes


def test_models_with_a_density_of_continuous_latents_are_decoders():
    assert all(is_decoder(model) for model in (gan(), vae(), vae(prior=MixturePrior), ladder()))
    assert not any(is_decoder(model) for model in (vqvae(), Uniform(SPEC), CategoricalMixture(SPEC, 2), None))


def test_a_vae_is_annealed_by_its_own_densities():
    levels, labels = levels_of(4)
    for model in (vae(), vae(prior=MixturePrior), ladder()):
        decoder = decoder_of(model)
        assert isinstance(decoder, ModelDecoder)
        latent = torch.randn(2, 4, model.latent_dim, requires_grad=True)
        target = decoder.target(levels, labels)
        assert target.n == 4
        torch.testing.assert_close(target.log_prior(latent), model.prior.log_prob(latent))
        found = target.log_conditional(latent)
        for k in range(2):
            theta = model.pixel_parameters(latent[k], labels)
            torch.testing.assert_close(found[k], model.pixels.log_prob(levels, theta))
        assert torch.autograd.grad(found.sum(), latent)[0].abs().max() > 0
        seeds = (torch.Generator().manual_seed(3) for _ in range(2))
        drawn, again = (target.draw(2, generator) for generator in seeds)
        assert drawn.shape == (2, 4, model.latent_dim)
        assert torch.equal(drawn, again)
        assert not drawn.requires_grad


def test_levels_of_a_vae_are_drawn_as_often_as_they_are_probable(generator):
    model, n = vae(), 20_000
    latent, labels = torch.randn(1, 3).expand(n, -1), torch.ones(n, dtype=torch.int64)
    drawn = decoder_of(model).draw_levels(latent, labels, generator)
    assert drawn.dtype == torch.uint8
    probabilities = model.pixel_parameters(latent[:1], labels[:1]).detach().view(SPEC.levels, -1).softmax(0)
    shares = torch.stack([(drawn == level).float().mean(0).flatten() for level in range(SPEC.levels)])
    error = (probabilities * (1 - probabilities) / n).sqrt()
    assert ((shares - probabilities).abs() < 5 * error).all()


def test_a_gan_is_annealed_with_gaussian_noise_around_its_images(generator):
    model, (levels, labels) = gan(), levels_of(4)
    decoder = decoder_of(model, sigma=0.3)
    assert isinstance(decoder, GaussianDecoder)
    latent = torch.randn(2, 4, 3)
    target = decoder.target(levels, labels)
    torch.testing.assert_close(target.log_prior(latent), Normal(0.0, 1.0).log_prob(latent).sum(-1))
    half = 1 / (SPEC.levels - 1)
    for k in range(2):
        noise = Normal(model.generator(latent[k], labels), 0.3)
        unit = SPEC.to_unit(levels)
        above = torch.where(levels == SPEC.levels - 1, 1.0, noise.cdf(unit + half))
        mass = above - torch.where(levels == 0, 0.0, noise.cdf(unit - half))
        expected = mass.log().flatten(1).sum(1)
        torch.testing.assert_close(target.log_conditional(latent)[k], expected, rtol=1e-4, atol=1e-4)
    drawn = decoder.draw_levels(latent[0], labels, generator)
    assert SPEC.check(drawn) is drawn
    assert decoder.draw_prior(5, generator).shape == (5, 3)


def test_options_of_drawing_that_leave_the_standard_normal_are_refused_by_name():
    class Unknown(Sampler):
        def noise(self, model, n, labels, generator):
            pytest.fail("options are refused before anything is drawn")

        draw = noise

    decoder_of(gan(sampler=LatentSampler(chunk_size=2)))  # which changes nothing
    for sampler, message in (
        (LatentSampler(0.7), r"GAN: with sampler\.temperature 0\.7 .* give --sampler\.temperature 1$"),
        (LatentSampler(truncation=2.0), r"GAN: with sampler\.truncation 2\.0 .* give --sampler\.truncation null$"),
        (Unknown(), "GAN: latents of a Unknown are not known to be standard normal: give a LatentSampler"),
    ):
        with pytest.raises(InputError, match=message):
            decoder_of(gan(sampler=sampler))
    for sigma in (0.0, float("nan")):
        with pytest.raises(InputError, match="sigma must be a finite number above 0"):
            decoder_of(gan(), sigma)
