"""What every generator and discriminator keeps to, and what all networks refuse. A network joins by a row in PAIRS."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks import (
    ConvDecoder,
    ConvEncoder,
    DCGANDiscriminator,
    DCGANGenerator,
    DenseDiscriminator,
    DenseToConvGenerator,
    GridDecoder,
    GridEncoder,
    LadderNetwork,
    MLPDecoder,
    MLPDiscriminator,
    MLPEncoder,
    MLPGenerator,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDecoder,
    ResNetDiscriminator,
    ResNetEncoder,
    ResNetGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)

DIGITS = ImageSpec(1, 8, 8, levels=17, num_classes=3)
SIZES = [ImageSpec(channels, size, size, num_classes=3) for size in (8, 28, 32, 64) for channels in (1, 3)]
SHAPES = [ImageSpec(*shape, num_classes=3) for shape in ((1, 8, 8), (3, 5, 11), (2, 1, 1), (4, 7, 2))]


@dataclass(frozen=True)
class Pair:
    """A generator, discriminators that go with it, each a function of the spec, and the images that all of them take."""

    generator: Callable[..., nn.Module]
    discriminators: tuple[Callable[..., nn.Module], ...]
    specs: tuple[ImageSpec, ...] = tuple(SIZES)
    is_bounded: bool = True
    """Whether generated images are within [-1, 1] whatever the weights."""
    can_be_conditional: bool = True


R3GAN = {"width": 4, "max_width": 8, "blocks": 1, "group_size": 4}
STYLEGAN2 = {"width": 4, "max_width": 8, "mapping_layers": 2}
PAIRS = {
    "perceptron": Pair(
        partial(MLPGenerator, latent_dim=6, widths=(12, 9)),
        (partial(MLPDiscriminator, widths=(12, 9)), partial(MLPDiscriminator, widths=())),
        tuple(SHAPES),
    ),
    "dcgan": Pair(
        partial(DCGANGenerator, latent_dim=6, width=4),
        (partial(DCGANDiscriminator, width=4), partial(DCGANDiscriminator, width=4, batch_norm=False)),
        (*SIZES, ImageSpec(1, 128, 128, num_classes=3)),
    ),
    "dense_conv": Pair(
        partial(DenseToConvGenerator, latent_dim=6, width=8),
        (partial(DenseDiscriminator, width=11),),
        can_be_conditional=False,
    ),
    "resnet": Pair(
        partial(ResNetGenerator, latent_dim=6, width=4),
        (partial(ResNetDiscriminator, width=4), partial(ResNetDiscriminator, width=4, spectral_norm=False)),
    ),
    "r3gan": Pair(
        partial(R3GANGenerator, latent_dim=6, **R3GAN), (partial(R3GANDiscriminator, **R3GAN),), is_bounded=False
    ),
    "stylegan2": Pair(
        partial(StyleGAN2Generator, style_dim=6, **STYLEGAN2),
        (
            partial(StyleGAN2Discriminator, **STYLEGAN2, minibatch_std=False),
            partial(StyleGAN2Discriminator, **STYLEGAN2),
        ),
        is_bounded=False,
    ),
}
CONDITIONAL = {name: pair for name, pair in PAIRS.items() if pair.can_be_conditional}


@pytest.fixture(params=PAIRS)
def pair(request):
    return PAIRS[request.param]


@pytest.fixture(params=CONDITIONAL)
def conditional_pair(request):
    return CONDITIONAL[request.param]


@torch.no_grad()
def perturbed(network: nn.Module) -> nn.Module:
    """Move every parameter: zeros at the start hide what does not work."""
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


def every_kind(pair: Pair):
    """Yield a generator and a discriminator of digits of every kind, with labels where they are conditional."""
    for conditional in (False, True) if pair.can_be_conditional else (False,):
        options = {"conditional": True} if conditional else {}
        labels = torch.tensor([0, 1, 2, 0]) if conditional else None
        for make in pair.discriminators:
            yield perturbed(pair.generator(DIGITS, **options)), perturbed(make(DIGITS, **options)), labels


def is_of_own_row(network: nn.Module, rows: torch.Tensor) -> None:
    """Check that what a network makes of a row does not depend on the other rows, in evaluation mode."""
    made = network(rows)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(made.detach().abs().max())}
    torch.testing.assert_close(network(rows.flip(0)), made.flip(0), **close)
    torch.testing.assert_close(network(rows[:1]), made[:1], **close)
    assert len(made.detach().unique(dim=0)) == len(rows)


def test_pairs_make_and_judge_images_of_every_size(pair):
    for spec in pair.specs:
        generator = perturbed(pair.generator(spec))
        latents = torch.randn(3, generator.latent_dim)
        images = generator(latents)
        assert images.shape == (3, *spec.shape)
        assert images.dtype == torch.float32
        # Every pixel depends on the latent, but for those behind rectifiers that may be dead.
        may_be_dead = any(isinstance(part, nn.ReLU) for part in generator.modules())
        assert (images.flatten(1).std(0) > 0).float().mean() >= (0.9 if may_be_dead else 1)
        is_of_own_row(generator.eval(), latents)
        if pair.is_bounded:
            assert images.abs().max() <= 1
            with torch.no_grad():
                for weight in generator.parameters():
                    weight.mul_(50)
            assert 0.9 < generator(latents).abs().max() <= 1  # large weights saturate, but stay inside
        unit = torch.rand(3, *spec.shape) * 2 - 1
        for make in pair.discriminators:
            discriminator = perturbed(make(spec)).eval()
            assert discriminator(unit).shape == (3,)
            if not getattr(discriminator, "minibatch_std", False):  # which compares the images of a batch
                is_of_own_row(discriminator, unit)


def test_the_gradient_of_a_gradient_penalty_agrees_with_finite_differences(pair, squared_gradient_norm):
    for _, network, labels in every_kind(pair):
        network.double()
        # Power iterations and dropout stand still in evaluation mode; batch norms are tried over the batch.
        network.train(not isinstance(network, ResNetDiscriminator | DenseDiscriminator))
        images = torch.rand(4, *DIGITS.shape, dtype=torch.float64) * 2 - 1

        def penalty(network=network, images=images, labels=labels) -> torch.Tensor:
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
            assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7), name
            moved += slope != 0
        assert moved >= 1 + (labels is not None)


def test_gradients_reach_every_parameter(pair):
    for generator, discriminator, labels in every_kind(pair):
        latents = torch.randn(4, generator.latent_dim)
        discriminator(generator(latents, labels), labels).square().sum().backward()
        for network in (generator, discriminator):
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.abs().max() > 0, name


def test_bfloat16_autocast_stays_near_full_precision(pair):
    for generator, discriminator, labels in every_kind(pair):
        generator.eval(), discriminator.eval()
        latents = torch.randn(4, generator.latent_dim)
        images = generator(latents, labels)
        scores = discriminator(images, labels)
        with torch.autocast("cpu", torch.bfloat16):
            rough = generator(latents, labels)
            rough_scores = discriminator(rough, labels)
        rough_scores.float().sum().backward()
        for low, full, bound in ((rough, images, 0.05), (rough_scores, scores, 0.2)):
            assert (low.float() - full).detach().std() < bound * full.detach().std()


def test_conditional_pairs_heed_the_class_of_each_image_alone(conditional_pair):
    for generator, discriminator, labels in every_kind(conditional_pair):
        if labels is None:
            continue
        generator.eval(), discriminator.eval()
        changed = torch.tensor([0, 1, 2, 1])
        alone = torch.tensor([False, False, False, True])
        latents, images = torch.randn(4, generator.latent_dim), torch.rand(4, *DIGITS.shape) * 2 - 1
        for network, given in ((generator, latents), (discriminator, images)):
            assert network.conditional
            difference = (network(given, labels) - network(given, changed)).abs().reshape(4, -1).amax(1)
            assert torch.equal(difference > 1e-5, alone)
            name = type(network).__name__
            with pytest.raises(InputError, match=f"^{name} is class-conditional: give labels$"):
                network(given)


def test_pairs_that_are_not_conditional_ignore_labels(pair):
    for generator, discriminator, labels in every_kind(pair):
        if labels is None:
            generator.eval(), discriminator.eval()
            latents, images = torch.randn(4, generator.latent_dim), torch.rand(4, *DIGITS.shape) * 2 - 1
            for network, given in ((generator, latents), (discriminator, images)):
                assert not getattr(network, "conditional", False)
                assert torch.equal(network(given, torch.tensor([0, 1, 2, 0])), network(given))


def test_a_copy_with_the_same_weights_does_the_same(pair):
    for generator, discriminator, labels in every_kind(pair):
        latents, images = torch.randn(4, generator.latent_dim), torch.rand(4, *DIGITS.shape)
        for network, given in ((generator, latents), (discriminator, images)):
            network(given, labels)  # moves batch statistics and power iterations
            twin = copy.deepcopy(network).eval()
            for parameter in twin.parameters():
                parameter.data.fill_(0.5)
            twin.load_state_dict(network.state_dict())
            assert torch.equal(twin(given, labels), network.eval()(given, labels))


# --- perceptrons and DCGAN --------------------------------------------------------------------------------------------


def test_dcgan_starts_from_the_largest_map_below_eight():
    for size, start in ((6, 3), (8, 4), (10, 5), (12, 6), (28, 7), (48, 6), (96, 6), (128, 4)):
        spec = ImageSpec(1, size, size)
        assert DCGANGenerator(spec, 5, width=4).net[0].kernel_size == (start, start)
        assert DCGANDiscriminator(spec, width=4).net[-1].kernel_size == (start, start)


def test_dcgan_widths_double_up_to_the_bound():
    spec = ImageSpec(1, 64, 64)
    convolutions = [m for m in DCGANDiscriminator(spec, 8, 20).modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [8, 16, 20, 20, 1]
    transposed = [m for m in DCGANGenerator(spec, 8, 8, 20).modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [m.out_channels for m in transposed] == [20, 20, 16, 8, 1]


def test_dcgan_discriminator_without_batch_norm_judges_each_image_alone_in_training():
    spec = ImageSpec(1, 32, 32)
    images = torch.rand(4, *spec.shape) * 2 - 1
    alone, together = DCGANDiscriminator(spec, 8, batch_norm=False), DCGANDiscriminator(spec, 8)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in alone.modules())
    torch.testing.assert_close(alone(images[:2]), alone(images)[:2], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(together(images[:2]), together(images)[:2], rtol=1e-3)


def test_dcgan_initialisation():
    generator = DCGANGenerator(ImageSpec(3, 64, 64))
    for module in generator.modules():
        if isinstance(module, nn.ConvTranspose2d):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert float(module.weight.detach().mean()) == pytest.approx(1, abs=0.01)
        if getattr(module, "bias", None) is not None:
            assert not module.bias.any()


def test_mlp_layers_are_the_arguments():
    spec = ImageSpec(1, 8, 8)
    linear = [m for m in MLPGenerator(spec).modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(64, 1024), (1024, 1024), (1024, 64)]
    linear = [m for m in MLPDiscriminator(spec).modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(64, 1024), (1024, 1024), (1024, 1)]
    slopes = [m.negative_slope for m in MLPGenerator(spec, negative_slope=0.3).modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.3, 0.3]
    normed = [type(m).__name__ for m in MLPGenerator(spec, 4, (8, 8), batch_norm=True).net]
    plain = [type(m).__name__ for m in MLPGenerator(spec, 4, (8, 8)).net]
    assert (normed.count("BatchNorm1d"), plain.count("BatchNorm1d")) == (2, 0)


def test_mlp_without_hidden_layers_is_linear():
    spec = ImageSpec(1, 2, 2)
    critic = MLPDiscriminator(spec, widths=()).double()
    x, y = torch.randn(2, 4, *spec.shape, dtype=torch.float64)
    torch.testing.assert_close(critic(x + y) - critic(y), critic(x) - critic(torch.zeros_like(x)))
    generator = MLPGenerator(spec, 3, widths=())
    assert generator(torch.randn(5, 3)).shape == (5, *spec.shape)


# --- bad input --------------------------------------------------------------------------------------------------------

SQUARE = [
    DCGANGenerator,
    DCGANDiscriminator,
    DenseToConvGenerator,
    ResNetGenerator,
    ResNetDiscriminator,
    R3GANGenerator,
    R3GANDiscriminator,
    StyleGAN2Generator,
    StyleGAN2Discriminator,
    partial(ConvEncoder, outputs=3),
    partial(ConvDecoder, latent_dim=3, out_channels=2),
    partial(ResNetEncoder, outputs=3),
    partial(ResNetDecoder, latent_dim=3, out_channels=2),
]


def name_of(network: Callable) -> str:
    return getattr(network, "func", network).__name__


def test_sizes_that_networks_cannot_halve_are_refused_by_name():
    for network in SQUARE:
        for (height, width), message in {
            (32, 28): "makes square images only, got 32x28; an MLP takes any shape",
            (7, 7): "got 7",
            (4, 4): "got 4",
            (1, 1): "got 1",
            (9, 9): r"needs a side of a\*2\^k .*got 9",
            (30, 30): "got 30",
            (36, 36): "got 36",
            (512, 512): "at most 256 .*got 512",
        }.items():
            with pytest.raises(InputError, match=f"^{name_of(network)} .*{message}"):
                network(ImageSpec(1, height, width))
    for side in (6, 14):
        with pytest.raises(InputError, match=rf"needs a side that is a multiple of 4 \(such as .*128\), got {side}"):
            DenseToConvGenerator(ImageSpec(1, side, side))


def test_classes_that_images_do_not_have_are_refused_by_name():
    asked = dict.fromkeys(
        (MLPGenerator, DCGANGenerator, ResNetGenerator, R3GANGenerator, R3GANDiscriminator), ("conditional",)
    )
    asked |= dict.fromkeys((StyleGAN2Generator, StyleGAN2Discriminator), ("conditional",))
    asked |= dict.fromkeys((MLPDiscriminator, DCGANDiscriminator, ResNetDiscriminator), ("conditional", "classifier"))
    asked |= {partial(make, outputs=3): ("conditional",) for make in (MLPEncoder, ConvEncoder, ResNetEncoder)}
    decoders = (MLPDecoder, ConvDecoder, ResNetDecoder)
    asked |= {partial(make, latent_dim=3, out_channels=2): ("conditional",) for make in decoders}
    asked |= {partial(LadderNetwork, out_channels=2): ("conditional",)}
    for network, arguments in asked.items():
        for argument in arguments:
            message = f"^{name_of(network)}: {argument} needs classes, .* take labelled images, or {argument}: false$"
            with pytest.raises(InputError, match=message):
                network(ImageSpec(1, 8, 8), **{argument: True})


def test_numbers_that_are_not_positive_integers_are_refused_by_name():
    decoder = {"latent_dim": 3, "out_channels": 2}
    for network, arguments, names in (
        (MLPGenerator, {}, ("latent_dim",)),
        (DCGANGenerator, {}, ("latent_dim", "width", "max_width")),
        (DCGANDiscriminator, {}, ("width", "max_width")),
        (DenseToConvGenerator, {}, ("latent_dim", "width")),
        (DenseDiscriminator, {}, ("width",)),
        (ResNetGenerator, {}, ("latent_dim", "width")),
        (ResNetDiscriminator, {}, ("width", "max_width")),
        (R3GANGenerator, {}, ("width", "blocks", "expansion", "group_size")),
        (R3GANDiscriminator, {}, ("width", "blocks", "expansion", "group_size")),
        (StyleGAN2Generator, {}, ("width", "max_width", "mapping_layers", "style_dim")),
        (StyleGAN2Discriminator, {}, ("width", "max_width", "mapping_layers")),
        (MLPEncoder, {}, ("outputs",)),
        (ConvEncoder, {"outputs": 3}, ("outputs", "width", "max_width")),
        (ResNetEncoder, {"outputs": 3}, ("outputs", "width", "depth")),
        (MLPDecoder, decoder, ("latent_dim", "out_channels")),
        (ConvDecoder, decoder, ("latent_dim", "out_channels", "width", "max_width")),
        (ResNetDecoder, decoder, ("latent_dim", "out_channels", "width", "depth")),
        (GridEncoder, {"outputs": 3}, ("outputs", "width")),
        (GridDecoder, {"inputs": 3, "out_channels": 2}, ("inputs", "out_channels", "width")),
        (LadderNetwork, {}, ("out_channels",)),
    ):
        for name in names:
            for value in (0, -4, 2.5, True):
                message = rf"^{name_of(network)}\.{name} must be a positive integer, got {value}$"
                with pytest.raises(InputError, match=message):
                    network(DIGITS, **{**arguments, name: value})
    for network in (MLPGenerator, MLPDiscriminator, partial(MLPEncoder, outputs=3), partial(MLPDecoder, **decoder)):
        with pytest.raises(InputError, match=rf"^{name_of(network)}\.widths\[1\] must be a positive integer, got 0$"):
            network(DIGITS, widths=(64, 0))


def test_shares_of_dropout_are_refused_by_name():
    for network in (
        DenseDiscriminator,
        partial(MLPEncoder, outputs=3),
        partial(MLPDecoder, latent_dim=3, out_channels=2),
        partial(GridEncoder, outputs=3),
        partial(GridDecoder, inputs=3, out_channels=2),
    ):
        for value in (1.0, -0.1, float("nan")):
            with pytest.raises(InputError, match=rf"^{name_of(network)}\.dropout must be in \[0, 1\), got {value}$"):
                network(DIGITS, dropout=value)
