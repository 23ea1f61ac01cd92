"""Generators and discriminators: shapes, ranges, and what they refuse."""

import pytest
import torch
from torch import nn

from lightning_gen.errors import InputError
from lightning_gen.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from lightning_gen.spec import ImageSpec


def check_pair(spec: ImageSpec, generator: nn.Module, discriminator: nn.Module, latent_dim: int) -> None:
    """What every pair of networks of a GAN keeps to."""
    assert generator.latent_dim == latent_dim
    latents = torch.randn(3, latent_dim)
    images = generator(latents)
    assert images.shape == (3, *spec.shape)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.std() > 0
    with torch.no_grad():
        for weight in generator.parameters():
            weight.mul_(50)
    assert 0.9 < generator(latents).abs().max() <= 1  # large weights saturate, but stay inside
    generator.eval(), discriminator.eval()
    assert generator(latents[:1]).shape == (1, *spec.shape)
    unit = torch.rand(3, *spec.shape) * 2 - 1
    scores = discriminator(unit)
    assert scores.shape == (3,)
    assert discriminator(unit[:1]).shape == (1,)
    # One score per image, of that image alone.
    torch.testing.assert_close(discriminator(unit.flip(0)), scores.flip(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(discriminator(unit[:1])[0], scores[0], rtol=1e-4, atol=1e-5)
    assert scores.unique().numel() == 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 64, 128])
def test_dcgan(size, channels):
    spec = ImageSpec(channels, size, size)
    check_pair(spec, DCGANGenerator(spec, 10, width=4), DCGANDiscriminator(spec, width=4), latent_dim=10)


@pytest.mark.parametrize(("size", "start"), [(6, 3), (8, 4), (10, 5), (12, 6), (28, 7), (48, 6), (96, 6), (128, 4)])
def test_dcgan_starts_from_the_largest_map_below_eight(size, start):
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


@pytest.mark.parametrize("network", [DCGANGenerator, DCGANDiscriminator])
@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (32, 28, "makes square images only, got 32x28; an MLP takes any shape"),
        (7, 7, "got 7"),
        (4, 4, "got 4"),
        (1, 1, "got 1"),
        (9, 9, "got 9"),
        (30, 30, "got 30"),
        (256, 256, "at most 128 .*got 256"),
    ],
)
def test_dcgan_refuses_other_sizes_by_name(network, height, width, message):
    with pytest.raises(InputError, match=f"{network.__name__} .*{message}"):
        network(ImageSpec(1, height, width))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 11), (2, 1, 1), (4, 7, 2)])
@pytest.mark.parametrize("widths", [(16,), (12, 9)])
def test_mlp_takes_any_shape(shape, widths):
    spec = ImageSpec(*shape)
    check_pair(spec, MLPGenerator(spec, 6, widths), MLPDiscriminator(spec, widths), latent_dim=6)


def test_mlp_layers_are_the_arguments():
    spec = ImageSpec(1, 8, 8)
    linear = [m for m in MLPGenerator(spec).modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(64, 1024), (1024, 1024), (1024, 64)]
    linear = [m for m in MLPDiscriminator(spec).modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(64, 1024), (1024, 1024), (1024, 1)]
    slopes = [m.negative_slope for m in MLPGenerator(spec, negative_slope=0.3).modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.3, 0.3]


def test_mlp_without_hidden_layers_is_linear():
    spec = ImageSpec(1, 2, 2)
    critic = MLPDiscriminator(spec, widths=()).double()
    x, y = torch.randn(2, 4, *spec.shape, dtype=torch.float64)
    torch.testing.assert_close(critic(x + y) - critic(y), critic(x) - critic(torch.zeros_like(x)))
    generator = MLPGenerator(spec, 3, widths=())
    assert generator(torch.randn(5, 3)).shape == (5, *spec.shape)


def test_mlp_generator_normalises_over_the_batch_when_asked():
    spec = ImageSpec(1, 4, 4)
    names = [type(m).__name__ for m in MLPGenerator(spec, 4, (8, 8), batch_norm=True).net]
    assert names.count("BatchNorm1d") == 2
    assert "BatchNorm1d" not in [type(m).__name__ for m in MLPGenerator(spec, 4, (8, 8)).net]


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (MLPGenerator, {"latent_dim": 0}, "MLPGenerator: latent_dim must be a positive integer, got 0"),
        (MLPGenerator, {"widths": (64, 0)}, r"MLPGenerator: widths\[1\] must be a positive integer, got 0"),
        (MLPDiscriminator, {"widths": (2.5,)}, r"MLPDiscriminator: widths\[0\] must be a positive integer, got 2.5"),
        (DCGANGenerator, {"latent_dim": -1}, "DCGANGenerator: latent_dim must be a positive integer, got -1"),
        (DCGANGenerator, {"width": 0}, "DCGANGenerator: width must be a positive integer, got 0"),
        (DCGANDiscriminator, {"max_width": 0}, "DCGANDiscriminator: max_width must be a positive integer, got 0"),
        (DCGANDiscriminator, {"width": True}, "DCGANDiscriminator: width must be a positive integer, got True"),
    ],
)
def test_bad_widths_are_refused_by_name(network, arguments, message):
    with pytest.raises(InputError, match=message):
        network(ImageSpec(1, 8, 8), **arguments)
