"""The tutorial's pair, against the same computation written differently."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_gen.errors import InputError
from lightning_gen.networks.dense_conv import DenseDiscriminator, DenseToConvGenerator
from lightning_gen.spec import ImageSpec


def squared_gradient_norm(network: nn.Module, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """What gradient penalties are made of, per image, in float32 at least."""
    images = images.detach().requires_grad_()
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        (gradient,) = torch.autograd.grad(network(images, labels).sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def transposed(maps: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """Transposed 5x5 convolution to ``stride`` times the side: zeros between the pixels, then a plain convolution."""
    n, channels, side, _ = maps.shape
    spread = torch.zeros(n, channels, stride * side, stride * side, dtype=maps.dtype)
    spread[:, :, ::stride, ::stride] = maps
    return F.conv2d(spread, weight.transpose(0, 1).flip(2, 3), padding=2)


def rectified(maps: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """Batch norm over all but the channels, and a leaky rectifier of slope 0.3."""
    over = [i for i in range(maps.ndim) if i != 1]
    shape = [-1 if i == 1 else 1 for i in range(maps.ndim)]
    mean, variance = maps.mean(over, keepdim=True), maps.var(over, correction=0, keepdim=True)
    maps = (maps - mean) / (variance + 1e-5).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)
    return torch.where(maps > 0, maps, 0.3 * maps)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_the_generator_is_the_tutorials(size, channels):
    spec = ImageSpec(channels, size, size)
    network = DenseToConvGenerator(spec, 5, width=8).double()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    dense, *convolutions = [m.weight for m in network.modules() if isinstance(m, nn.Linear | nn.ConvTranspose2d)]
    latents = torch.randn(4, 5, dtype=torch.float64)
    hidden = rectified(latents @ dense.T, norms[0]).reshape(4, 8, size // 4, size // 4)
    hidden = rectified(transposed(hidden, convolutions[0], 1), norms[1])
    hidden = rectified(transposed(hidden, convolutions[1], 2), norms[2])
    images = network(latents)
    torch.testing.assert_close(images, torch.tanh(transposed(hidden, convolutions[2], 2)))
    assert images.shape == (4, *spec.shape)
    assert images.abs().max() <= 1
    assert network.latent_dim == 5


def test_the_generator_of_28x28_has_the_tutorials_parameters():
    network = DenseToConvGenerator(ImageSpec(1, 28, 28))
    assert sum(p.numel() for p in network.parameters()) == 2_305_472  # as the tutorial prints them
    assert [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)] == [128, 64]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (1, 32, 32), (3, 64, 64), (2, 5, 3), (1, 1, 1)])
def test_the_discriminator_and_its_gradient_penalty_have_closed_forms(shape):
    network = DenseDiscriminator(ImageSpec(*shape), width=11, negative_slope=0.1).double().eval()
    first, last = network.net[0], network.net[-1]
    nn.init.normal_(first.bias)
    nn.init.normal_(last.bias)
    images = torch.rand(4, *shape, dtype=torch.float64) * 2 - 1
    hidden = images.reshape(4, -1) @ first.weight.T + first.bias
    slopes = torch.where(hidden > 0, 1.0, 0.1).double()
    torch.testing.assert_close(network(images), (slopes * hidden) @ last.weight[0] + last.bias)
    # The score's gradient in x is W^T (slopes * w), and the penalty's in W and w follows from that.
    expected = ((slopes * last.weight[0]) @ first.weight).square().sum(1)
    penalty = squared_gradient_norm(network, images, None)
    torch.testing.assert_close(penalty, expected)
    weights = [first.weight, last.weight]
    for found, wanted in zip(
        torch.autograd.grad(penalty.sum(), weights), torch.autograd.grad(expected.sum(), weights), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_dropout_scales_what_it_keeps_and_draws_from_the_global_generator():
    network = DenseDiscriminator(ImageSpec(1, 8, 8), width=64, dropout=0.25)
    images = torch.rand(3, 1, 8, 8)
    torch.manual_seed(1)
    scores = network(images)
    torch.manual_seed(1)
    kept = F.dropout(torch.ones(3, 64), 0.25)  # 0 or 4/3
    hidden = network.net[1](network.net[0](images.flatten(1)))
    torch.testing.assert_close(scores, network.net[-1](hidden * kept).squeeze(1))
    assert not torch.equal(network(images), scores)
    network.eval()
    assert torch.equal(network(images), network(images))


def test_weights_begin_in_glorots_bounds():
    for module in DenseToConvGenerator(ImageSpec(1, 28, 28), 50, width=32).modules():
        if isinstance(module, nn.Linear | nn.ConvTranspose2d):
            fans = module.weight[:, 0].numel() + module.weight[0].numel()
            assert float(module.weight.detach().std()) == pytest.approx((2 / fans) ** 0.5, rel=0.15)
            assert float(module.weight.detach().abs().max()) <= (6 / fans) ** 0.5
    assert not DenseDiscriminator(ImageSpec(1, 8, 8)).net[0].bias.any()


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (6, 6, r"needs a side that is a multiple of 4 \(such as 8, 12, 28, 32, 64, 128\), got 6"),
        (14, 14, "multiple of 4 .*got 14"),
        (4, 4, "got 4"),
        (36, 36, "got 36"),
        (256, 256, "at most 128 .*got 256"),
        (32, 28, "makes square images only, got 32x28"),
    ],
)
def test_other_sizes_are_refused_by_name(height, width, message):
    with pytest.raises(InputError, match=f"^DenseToConvGenerator .*{message}"):
        DenseToConvGenerator(ImageSpec(1, height, width))


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (DenseToConvGenerator, {"width": 10}, "DenseToConvGenerator: width must be a multiple of 4, got 10"),
        (DenseToConvGenerator, {"latent_dim": 0}, "DenseToConvGenerator: latent_dim must be a positive integer, got 0"),
        (DenseDiscriminator, {"width": 0}, "DenseDiscriminator: width must be a positive integer, got 0"),
        (DenseDiscriminator, {"dropout": 1.0}, r"DenseDiscriminator: dropout must be in \[0, 1\), got 1.0"),
        (DenseDiscriminator, {"dropout": -0.1}, r"DenseDiscriminator: dropout must be in \[0, 1\), got -0.1"),
        (DenseDiscriminator, {"dropout": float("nan")}, "DenseDiscriminator: dropout must be in .* got nan"),
    ],
)
def test_bad_arguments_are_refused_by_name(network, arguments, message):
    with pytest.raises(InputError, match=message):
        network(ImageSpec(1, 8, 8), **arguments)
