"""The tutorial's pair, against the same computation written differently."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks.dense_conv import DenseDiscriminator, DenseToConvGenerator


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


def test_the_generator_is_the_tutorials():
    for size, channels in itertools.product((8, 28, 32, 64), (1, 3)):
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
        torch.testing.assert_close(network(latents), torch.tanh(transposed(hidden, convolutions[2], 2)))
        assert network.latent_dim == 5


def test_the_generator_of_28x28_has_the_tutorials_parameters():
    network = DenseToConvGenerator(ImageSpec(1, 28, 28))
    assert sum(p.numel() for p in network.parameters()) == 2_305_472  # as the tutorial prints them
    assert [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)] == [128, 64]


def test_the_discriminator_and_its_gradient_penalty_have_closed_forms(squared_gradient_norm):
    for shape in ((1, 8, 8), (3, 28, 28), (3, 64, 64), (2, 5, 3), (1, 1, 1)):
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
        penalty = squared_gradient_norm(network, images)
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


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match=r"DenseToConvGenerator\.width must be a multiple of 4, got 10"):
        DenseToConvGenerator(ImageSpec(1, 8, 8), width=10)
