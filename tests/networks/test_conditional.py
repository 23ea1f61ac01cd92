"""Labels in networks: conditional batch norm, projection, classifier heads, and what stays as it was without them."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks.conditional import ConditionalBatchNorm2d
from lightning_gen.networks.dcgan import DCGANDiscriminator, DCGANGenerator, initialise
from lightning_gen.networks.mlp import MLPDiscriminator, MLPGenerator
from lightning_gen.networks.resnet import ResNetDiscriminator, ResNetGenerator

DIGITS = ImageSpec(1, 8, 8, levels=17, num_classes=5)
DISCRIMINATORS = {
    "perceptron": partial(MLPDiscriminator, widths=(12, 7)),
    "linear": partial(MLPDiscriminator, widths=()),
    "dcgan": partial(DCGANDiscriminator, width=4),
    "dcgan without batch norm": partial(DCGANDiscriminator, width=4, batch_norm=False),
    "residual": partial(ResNetDiscriminator, width=4),
    "residual without spectral norm": partial(ResNetDiscriminator, width=4, spectral_norm=False),
}
GENERATORS = {
    "perceptron": partial(MLPGenerator, latent_dim=6, widths=(12, 7)),
    "dcgan": partial(DCGANGenerator, latent_dim=6, width=4),
    "residual": partial(ResNetGenerator, latent_dim=6, width=4),
}
every_discriminator = pytest.mark.parametrize("make", DISCRIMINATORS.values(), ids=DISCRIMINATORS)
every_generator = pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
SPECS = [ImageSpec(channels, size, size, num_classes=5) for size in (8, 28, 32, 64) for channels in (1, 3)]


def last_layer(network: nn.Module) -> nn.Module:
    """Return the layer that makes the unconditional score."""
    return network.score if isinstance(network, ResNetDiscriminator) else network.net[-1]


def images_of(spec: ImageSpec, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, *spec.shape, dtype=torch.float64) * 2 - 1, torch.randint(spec.num_classes, (n,))


@every_discriminator
def test_scores_are_those_of_one_linear_map_per_class(make):
    for spec in SPECS:
        network = make(spec, conditional=True).double().eval()
        seen = []
        layer = last_layer(network)
        layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs[0].flatten(1)))
        images, labels = images_of(spec, 4)
        scores = network(images, labels)
        (features,) = seen
        shared, of_class = layer.weight.flatten(), network.embedding.weight  # w and v
        expected = torch.stack([f @ (shared + of_class[y]) for f, y in zip(features, labels, strict=True)]) + layer.bias
        torch.testing.assert_close(scores, expected)
        assert not torch.allclose(scores, network(images, (labels + 1) % 5))
        # Its embedding is all that a conditional discriminator adds.
        assert sum(p.numel() for p in network.parameters()) == (
            sum(p.numel() for p in make(spec).parameters()) + 5 * features.shape[1]
        )


@every_discriminator
def test_scores_and_logits_come_from_one_pass_of_the_trunk(make):
    for conditional in (False, True):
        network = make(DIGITS, conditional=conditional, classifier=True).double().eval()
        images, labels = images_of(DIGITS, 4)
        expected = network(images, labels)
        seen = []
        last_layer(network).register_forward_hook(lambda *call, seen=seen: seen.append(call[1][0].flatten(1)))
        scores, logits = network.scores_and_logits(images, labels)
        assert len(seen) == 1
        torch.testing.assert_close(scores, expected)
        torch.testing.assert_close(logits, seen[0] @ network.classifier.weight.T + network.classifier.bias)
        assert logits.shape == (4, 5)
        if not conditional:
            torch.testing.assert_close(network.scores_and_logits(images)[0], expected)
    network = make(DIGITS)
    assert network.classifier is None
    with pytest.raises(InputError, match=f"{type(network).__name__} has no classifier: give it classifier: true"):
        network.scores_and_logits(images, labels)


@every_generator
def test_conditional_generators_make_unit_images_of_their_classes(make):
    for spec in SPECS:
        network = make(spec, conditional=True).eval()
        if isinstance(network, ResNetGenerator):  # classes are all alike at the start
            for module in network.modules():
                if isinstance(module, nn.Embedding):
                    nn.init.normal_(module.weight)
        latents, labels = torch.randn(4, network.latent_dim), torch.tensor([0, 1, 2, 3])
        images = network(latents, labels)
        assert images.shape == (4, *spec.shape)
        assert images.abs().max() <= 1
        # Each image depends on its own label alone.
        changed = (network(latents, torch.tensor([0, 1, 2, 4])) - images).abs().amax((1, 2, 3))
        assert torch.equal(changed > 1e-5, torch.tensor([False, False, False, True]))
        # Large weights saturate, but stay inside.
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(50)
        assert 0.9 < network(latents, labels).abs().max() <= 1


def test_a_class_enters_as_further_coordinates_of_the_latent():
    for make in (GENERATORS["perceptron"], GENERATORS["dcgan"]):
        network = make(DIGITS, conditional=True).eval()
        latents, labels = torch.randn(5, 6), torch.tensor([4, 0, 0, 3, 1])
        joined = torch.cat([latents, torch.stack([network.embedding.weight[y] for y in labels])], dim=1)
        made = network.net(joined if isinstance(network, MLPGenerator) else joined[:, :, None, None])
        torch.testing.assert_close(network(latents, labels), made.reshape(5, *DIGITS.shape))
        assert network.embedding.weight.shape == (5, 6)


def test_conditional_batch_norm_is_a_plain_one_with_the_gain_and_bias_of_each_class():
    for training in (True, False):
        norm = ConditionalBatchNorm2d(3, num_classes=4).double()
        nn.init.normal_(norm.gain.weight)
        nn.init.normal_(norm.bias.weight)
        norm.norm.running_mean.normal_()
        norm.norm.running_var.uniform_(0.5, 2)
        mean, variance = norm.norm.running_mean.clone(), norm.norm.running_var.clone()
        norm.train(training)
        maps, labels = torch.randn(12, 3, 5, 4, dtype=torch.float64), torch.arange(12) % 4
        out = norm(maps, labels)
        for y in range(4):
            expected = F.batch_norm(
                maps, mean.clone(), variance.clone(), norm.gain.weight[y], norm.bias.weight[y], training=training
            )
            torch.testing.assert_close(out[labels == y], expected[labels == y])
        # Statistics are of all classes together.
        F.batch_norm(maps, mean, variance, training=training)
        torch.testing.assert_close(norm.norm.running_mean, mean)
        torch.testing.assert_close(norm.norm.running_var, variance)


def test_conditional_batch_norm_begins_as_a_plain_one():
    norm, plain = ConditionalBatchNorm2d(3, 4), nn.BatchNorm2d(3)
    maps = torch.randn(6, 3, 4, 4) * 3 + 1
    assert torch.equal(norm(maps, torch.arange(6) % 4), plain(maps))


def plain_stacks():
    """Yield functions that make a network without labels, and one that makes the same stack of layers by hand."""
    slope, rgb = 0.2, ImageSpec(3, 16, 16, num_classes=5)
    yield (
        partial(MLPGenerator, DIGITS, 6, (12, 7)),
        lambda: nn.Sequential(
            *(nn.Linear(6, 12), nn.LeakyReLU(slope), nn.Linear(12, 7), nn.LeakyReLU(slope), nn.Linear(7, 64), nn.Tanh())
        ),
    )
    yield (
        partial(MLPDiscriminator, DIGITS, (12, 7)),
        lambda: nn.Sequential(
            *(nn.Linear(64, 12), nn.LeakyReLU(slope), nn.Linear(12, 7), nn.LeakyReLU(slope), nn.Linear(7, 1))
        ),
    )
    yield (
        partial(DCGANGenerator, rgb, 6, 4),
        lambda: nn.Sequential(
            *(nn.ConvTranspose2d(6, 8, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Tanh()),
        ).apply(initialise),
    )
    yield (
        partial(DCGANDiscriminator, rgb, 4),
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(slope)),
            *(nn.Conv2d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(slope)),
            nn.Conv2d(8, 1, 4),
        ).apply(initialise),
    )


def test_an_unconditional_network_is_the_plain_stack_with_the_same_weights():
    for make, by_hand in plain_stacks():
        torch.manual_seed(3)
        network = make()
        state_after = torch.get_rng_state()
        torch.manual_seed(3)
        expected = by_hand()
        assert torch.equal(state_after, torch.get_rng_state())  # nothing further was drawn
        weights = {f"net.{name}": value for name, value in expected.state_dict().items()}
        assert list(network.state_dict()) == list(weights)
        assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
        is_mlp = isinstance(network, MLPGenerator | MLPDiscriminator)
        if isinstance(network, MLPGenerator | DCGANGenerator):
            latents = torch.randn(4, 6)
            out = expected(latents if is_mlp else latents[:, :, None, None])
            assert torch.equal(network(latents), out.view_as(network(latents)))
        else:
            images = torch.randn(4, 64).view(4, 1, 8, 8) if is_mlp else torch.randn(4, 3, 16, 16)
            assert torch.equal(network(images), expected(images.flatten(1) if is_mlp else images).flatten())
