"""Labels in networks: conditional batch norm, projection, classifier heads, and what stays as it was without them."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_gen.errors import InputError
from lightning_gen.networks.conditional import ConditionalBatchNorm2d
from lightning_gen.networks.dcgan import DCGANDiscriminator, DCGANGenerator, initialise
from lightning_gen.networks.mlp import MLPDiscriminator, MLPGenerator
from lightning_gen.networks.resnet import ResNetDiscriminator, ResNetGenerator
from lightning_gen.spec import ImageSpec

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


def squared_gradient_norm(network: nn.Module, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """What gradient penalties are made of, per image, in float32 at least."""
    images = images.detach().requires_grad_()
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        (gradient,) = torch.autograd.grad(network(images, labels).sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def last_layer(network: nn.Module) -> nn.Module:
    """Return the layer that makes the unconditional score."""
    return network.score if isinstance(network, ResNetDiscriminator) else network.net[-1]


def images_of(spec: ImageSpec, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, *spec.shape, dtype=torch.float64) * 2 - 1, torch.randint(spec.num_classes, (n,))


@every_discriminator
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_scores_are_those_of_one_linear_map_per_class(make, size, channels):
    spec = ImageSpec(channels, size, size, num_classes=5)
    network = make(spec, conditional=True).double().eval()
    seen = []
    layer = last_layer(network)
    layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].flatten(1)))
    images, labels = images_of(spec, 4)
    scores = network(images, labels)
    (features,) = seen
    shared, of_class = layer.weight.flatten(), network.embedding.weight  # w and v
    expected = torch.stack([f @ (shared + of_class[y]) for f, y in zip(features, labels, strict=True)]) + layer.bias
    assert scores.shape == (4,)
    torch.testing.assert_close(scores, expected)
    assert not torch.allclose(scores, network(images, (labels + 1) % 5))
    # Its embedding is all that a conditional discriminator adds.
    assert sum(p.numel() for p in network.parameters()) == (
        sum(p.numel() for p in make(spec).parameters()) + 5 * features.shape[1]
    )


@every_discriminator
@pytest.mark.parametrize("conditional", [False, True])
def test_scores_and_logits_come_from_one_pass_of_the_trunk(make, conditional):
    network = make(DIGITS, conditional=conditional, classifier=True).double().eval()
    images, labels = images_of(DIGITS, 4)
    expected = network(images, labels)
    seen = []
    last_layer(network).register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].flatten(1)))
    scores, logits = network.scores_and_logits(images, labels)
    assert len(seen) == 1
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(logits, seen[0] @ network.classifier.weight.T + network.classifier.bias)
    assert logits.shape == (4, 5)
    if not conditional:
        torch.testing.assert_close(network.scores_and_logits(images)[0], expected)


@every_discriminator
def test_the_gradient_of_a_gradient_penalty_agrees_with_finite_differences(make):
    network = make(DIGITS, conditional=True).double()
    # Power iterations stand still in evaluation mode; batch norms are tried over the batch, as in training.
    network.train(not isinstance(network, ResNetDiscriminator))
    images, labels = images_of(DIGITS, 3)

    def penalty() -> torch.Tensor:
        return squared_gradient_norm(network, images, labels).mean()

    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(penalty(), list(parameters.values()), allow_unused=True)
    step, moved = 1e-6, 0
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        with torch.no_grad():
            parameter += step * direction
            above = penalty()
            parameter -= 2 * step * direction
            below = penalty()
            parameter += step * direction
        slope = float((above - below) / (2 * step))
        expected = 0.0 if gradient is None else float((gradient * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-8), name
        moved += slope != 0
    assert moved >= 2


@every_discriminator
def test_an_unconditional_discriminator_ignores_labels(make):
    network = make(DIGITS).double().eval()
    images, labels = images_of(DIGITS, 4)
    assert torch.equal(network(images, labels), network(images))
    assert not network.conditional
    assert network.classifier is None
    with pytest.raises(InputError, match=f"{type(network).__name__} has no classifier: give it classifier: true"):
        network.scores_and_logits(images, labels)


@every_generator
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_conditional_generators_make_unit_images_of_their_classes(make, size, channels):
    spec = ImageSpec(channels, size, size, num_classes=5)
    network = make(spec, conditional=True).eval()
    if isinstance(network, ResNetGenerator):  # classes are all alike at the start
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
    assert network.conditional
    assert network.latent_dim == 6
    latents, labels = torch.randn(4, 6), torch.tensor([0, 1, 2, 3])
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


@pytest.mark.parametrize("make", [GENERATORS["perceptron"], GENERATORS["dcgan"]], ids=["perceptron", "dcgan"])
def test_a_class_enters_as_further_coordinates_of_the_latent(make):
    network = make(DIGITS, conditional=True).eval()
    latents, labels = torch.randn(5, 6), torch.tensor([4, 0, 0, 3, 1])
    joined = torch.cat([latents, torch.stack([network.embedding.weight[y] for y in labels])], dim=1)
    made = network.net(joined if isinstance(network, MLPGenerator) else joined[:, :, None, None])
    torch.testing.assert_close(network(latents, labels), made.reshape(5, *DIGITS.shape))
    assert network.embedding.weight.shape == (5, 6)


@pytest.mark.parametrize("training", [True, False])
def test_conditional_batch_norm_is_a_plain_one_with_the_gain_and_bias_of_each_class(training):
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


def perceptron(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def dcgan(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).apply(initialise)


SLOPE = 0.2
BY_HAND = {
    "MLPGenerator": (
        partial(MLPGenerator, DIGITS, 6, (12, 7)),
        lambda: perceptron(
            *(nn.Linear(6, 12), nn.LeakyReLU(SLOPE), nn.Linear(12, 7), nn.LeakyReLU(SLOPE), nn.Linear(7, 64), nn.Tanh())
        ),
    ),
    "MLPDiscriminator": (
        partial(MLPDiscriminator, DIGITS, (12, 7)),
        lambda: perceptron(
            *(nn.Linear(64, 12), nn.LeakyReLU(SLOPE), nn.Linear(12, 7), nn.LeakyReLU(SLOPE), nn.Linear(7, 1))
        ),
    ),
    "DCGANGenerator": (
        partial(DCGANGenerator, ImageSpec(3, 16, 16, num_classes=5), 6, 4),
        lambda: dcgan(
            *(nn.ConvTranspose2d(6, 8, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Tanh()),
        ),
    ),
    "DCGANDiscriminator": (
        partial(DCGANDiscriminator, ImageSpec(3, 16, 16, num_classes=5), 4),
        lambda: dcgan(
            *(nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(SLOPE)),
            *(nn.Conv2d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(SLOPE)),
            nn.Conv2d(8, 1, 4),
        ),
    ),
}


@pytest.mark.parametrize(("make", "by_hand"), BY_HAND.values(), ids=BY_HAND)
def test_an_unconditional_network_is_the_plain_stack_with_the_same_weights(make, by_hand):
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


@pytest.mark.parametrize("make", [*DISCRIMINATORS.values(), *GENERATORS.values()], ids=lambda made: made.func.__name__)
def test_missing_labels_and_classes_are_refused_by_name(make):
    name = make.func.__name__
    network = make(DIGITS, conditional=True)
    given = torch.zeros(2, 6) if name.endswith("Generator") else torch.zeros(2, 1, 8, 8)
    with pytest.raises(InputError, match=f"^{name} is class-conditional: give labels$"):
        network(given)
    arguments = ["conditional"] if name.endswith("Generator") else ["conditional", "classifier"]
    for argument in arguments:
        with pytest.raises(
            InputError, match=f"^{name}: {argument} needs classes, .* take labelled images, or {argument}: false$"
        ):
            make(ImageSpec(1, 8, 8), **{argument: True})
