"""What samplers make of models: chunks change nothing, passes are counted, and options do what they say."""

from functools import partial

import pytest
import torch
from torch.optim import Adam

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.distributions import FlowPrior, LogisticPixels, MixturePrior, VampPrior
from lightning_gen.models import GAN, VAE, VQVAE, CategoricalMixture, GaussianMixture, HierarchicalVAE, Uniform
from lightning_gen.networks import (
    FSQ,
    DCGANDiscriminator,
    DCGANGenerator,
    GridDecoder,
    GridEncoder,
    LadderNetwork,
    MLPDecoder,
    MLPDiscriminator,
    MLPEncoder,
    MLPGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from lightning_gen.samplers import AncestralSampler, CodeSampler, LatentSampler, PriorSampler, StyleSampler

SPEC = ImageSpec(1, 8, 8, levels=17, num_classes=3)
adam = partial(Adam, lr=1e-3)


def gan(generator, discriminator, **options):
    return GAN(SPEC, generator, discriminator, adam, adam, **options)


def perceptrons():
    return gan(
        partial(MLPGenerator, latent_dim=4, widths=(16,), conditional=True),
        partial(MLPDiscriminator, widths=(16,), conditional=True),
    )


def styles():
    return gan(
        partial(StyleGAN2Generator, style_dim=4, mapping_layers=1, width=4, max_width=4),
        partial(StyleGAN2Discriminator, width=4, max_width=4),
    )


def vae(spec=SPEC, conditional=False, **options):
    encoder = partial(MLPEncoder, widths=(16,))
    decoder = partial(MLPDecoder, widths=(16,), conditional=conditional)
    return VAE(spec, encoder, decoder, adam, latent_dim=4, **options)


def vqvae():
    encoder, decoder = (partial(make, halvings=1, width=4, depth=0) for make in (GridEncoder, GridDecoder))
    model = VQVAE(SPEC, encoder, decoder, adam, partial(FSQ, levels=(4, 3)))
    model.histograms.counts.uniform_(0, 50)
    return model


def fitted_to(model, prior):
    """Let a model of codes pass for one that was fitted to those of ``model``."""
    source = {"class_path": "Codes", "init_args": {"fingerprint_of_codes": model.fingerprint()}}
    prior.trained_on = {"class_path": "ImageDataModule", "init_args": {"source": source}}
    return prior


# Each model with the samplers that suit it, as functions of the size of chunks, and the networks that it draws with.
MODELS = {
    "gan": (perceptrons, (LatentSampler, partial(LatentSampler, 0.7, 1.5)), lambda model: [model.generator]),
    "gan-convolutions": (
        lambda: gan(partial(DCGANGenerator, latent_dim=4, width=4), partial(DCGANDiscriminator, width=4)),
        (LatentSampler,),
        lambda model: [model.generator],
    ),
    "gan-styles": (styles, (LatentSampler, partial(StyleSampler, 0.5)), lambda model: [model.generator]),
    "vae": (
        partial(vae, conditional=True),
        (PriorSampler, partial(PriorSampler, pixels="mean"), partial(PriorSampler, 0.5)),
        lambda model: [model.decoder],
    ),
    "vae-mixture": (
        partial(vae, prior=MixturePrior, likelihood=LogisticPixels),
        (PriorSampler,),
        lambda model: [model.decoder],
    ),
    "vae-flow": (partial(vae, prior=partial(FlowPrior, width=8)), (PriorSampler,), lambda model: [model.decoder]),
    "hierarchical-vae": (
        lambda: HierarchicalVAE(SPEC, partial(LadderNetwork, resolutions=(8, 1), depths=(1, 1), width=8), adam),
        (PriorSampler,),
        lambda model: [model.network],
    ),
    "vqvae": (vqvae, (CodeSampler, partial(CodeSampler, pixels="mean")), lambda model: [model.decoder]),
}


def with_prior(chunk_size=None, **options):
    """A quantized autoencoder with a prior that was fitted to its codes, itself a VAE that draws chunk by chunk."""
    model = vqvae()
    prior = fitted_to(model, vae(model.code_spec, conditional=True))
    prior.sampler.chunk_size = 3
    model.sampler = CodeSampler(prior, chunk_size=chunk_size, **options)
    return model


@pytest.fixture(params=MODELS)
def case(request):
    """A model, its samplers, and the networks that draw."""
    make, samplers, networks = MODELS[request.param]
    model = make()
    for network in networks(model):
        for parameter in network.parameters():  # networks begin with images that hardly differ
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model, samplers, networks(model)


def passes_of(networks) -> list:
    """Return a list that grows by each pass of one of these networks."""
    passes = []
    for network in networks:
        network.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    return passes


def draw(model, n=10, seed=0):
    return model.sample(n, generator=torch.Generator().manual_seed(seed))


def test_equal_generators_give_equal_images_whatever_the_chunk_size(case):
    model, samplers, _ = case
    for make in samplers:
        model.sampler = make()
        whole = draw(model)
        assert SPEC.check(whole) is whole
        assert len(whole.unique(dim=0)) == 10
        for chunk_size in (1, 3, 10, 1000):
            model.sampler = make(chunk_size=chunk_size)
            assert torch.equal(draw(model), whole)
            assert not torch.equal(draw(model, seed=1), whole)


def test_evaluations_are_the_passes_of_the_network_that_the_last_call_took(case):
    model, samplers, networks = case
    passes = passes_of(networks)
    for make in samplers:
        for chunk_size, expected in ((None, 1), (3, 4), (1, 10)):
            model.sampler = make(chunk_size=chunk_size)
            for _ in range(2):  # counted anew for each call
                passes.clear()
                draw(model)
                assert model.sampler.evaluations == len(passes) == expected


def test_codes_of_a_fitted_prior_are_drawn_chunk_by_chunk_too():
    model = with_prior()
    passes = passes_of([model.decoder, model.sampler.prior.decoder])
    whole = draw(model)
    assert model.sampler.evaluations == len(passes) == 1 + 4
    prior = model.sampler.prior
    for chunk_size, expected in ((5, 2 + 4), (1, 10 + 4)):
        model.sampler = CodeSampler(prior, chunk_size=chunk_size)
        passes.clear()
        assert torch.equal(draw(model), whole)
        assert model.sampler.evaluations == len(passes) == expected
    model.sampler = CodeSampler(prior)
    labels = torch.arange(10) % 3
    drawn = model.sample(10, labels, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(drawn, model.sample(10, labels.flip(0), generator=torch.Generator().manual_seed(0)))


def test_models_without_a_network_draw_at_once():
    for model in (Uniform(SPEC), CategoricalMixture(SPEC, 2), GaussianMixture(SPEC, 2)):
        assert isinstance(model.sampler, AncestralSampler)
        draw(model)
        assert model.sampler.evaluations == 1


def test_no_images_are_images_too(case):
    model, samplers, _ = case
    for make in samplers:
        for chunk_size in (None, 3):
            model.sampler = make(chunk_size=chunk_size)
            assert draw(model, 0).shape == (0, *SPEC.shape)
            assert draw(model, 0).dtype == torch.uint8


def test_labels_stay_with_their_images():
    model = perceptrons()
    seen = []
    model.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    labels = torch.tensor([2, 0, 1, 1, 2, 0, 0])
    for chunk_size in (None, 2):
        model.sampler = LatentSampler(chunk_size=chunk_size)
        seen.clear()
        model.sample(7, labels)
        assert torch.equal(torch.cat(seen), labels)


def test_mean_pixels_are_decoded_latents():
    for model in (vae(), vqvae()):
        model.sampler = type(model.sampler)(pixels="mean")
        latent = model.draw_latents(6, generator=torch.Generator().manual_seed(0))
        assert torch.equal(draw(model, 6), model.decode(latent))
        model.sampler = type(model.sampler)(pixels="sample")
        assert not torch.equal(draw(model, 6), model.decode(latent))


def test_a_prior_with_images_of_its_own_is_sampled():
    model = vae(prior=partial(VampPrior, components=3))
    whole = draw(model)
    model.sampler = PriorSampler(chunk_size=4)
    assert torch.equal(draw(model), whole)


def test_psi_draws_styles_towards_their_mean():
    model = styles()
    latent = torch.randn(6, model.generator.latent_dim, generator=torch.Generator().manual_seed(0))
    z, noise = model.generator.split(latent)
    with torch.no_grad():
        w = model.generator.mapping(z, None)
        far = model.generator.mapping(torch.randn(20_000, 4, generator=torch.Generator().manual_seed(1)), None)
        near = (far.mean(0) + 0.3 * (w - far.mean(0)))[:, None].expand(-1, model.generator.num_styles, -1)
        expected = SPEC.to_levels(model.generator.synthesise(near, noise)).float()
    found = StyleSampler(0.3).decode(model, latent, None).float()
    assert (found - expected).abs().mean() < 0.1  # of 17 levels: their means are of other latents
    assert (model.decode(latent).float() - expected).abs().mean() > 0.3
    assert torch.equal(StyleSampler().decode(model, latent, None), model.decode(latent))


def test_psi_without_styles_is_refused():
    model = perceptrons()
    model.sampler = StyleSampler(0.5)
    with pytest.raises(InputError, match="StyleSampler truncates styles, and MLPGenerator has none"):
        draw(model)
