"""R3GAN: blocks that start as the identity, groups, bases, and two derivatives."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks.r3gan import R3Block, R3GANDiscriminator, R3GANGenerator

GREY = ImageSpec(1, 8, 8)
DIGITS = ImageSpec(1, 8, 8, 17, num_classes=3)
SMALL = {"width": 4, "max_width": 8, "blocks": 1, "group_size": 4}


def pair(spec=GREY, conditional=False, **options):
    options = {**SMALL, "conditional": conditional, **options}
    return R3GANGenerator(spec, 6, **options), R3GANDiscriminator(spec, **options)


def residual_blocks(network: nn.Module) -> list[R3Block]:
    return [module for module in network.modules() if isinstance(module, R3Block)]


@torch.no_grad()
def perturb(network: nn.Module) -> nn.Module:
    """Move every parameter: the zeros at the start hide what does not work."""
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


def test_a_new_block_is_the_identity():
    for network in pair(ImageSpec(3, 28, 28), blocks=2):
        blocks = residual_blocks(network)
        assert len(blocks) == 2 * 3  # at sides 7, 14 and 28
        for block in blocks:
            x = torch.randn(2, block.widen.in_channels, 6, 6)
            assert torch.equal(block(x), x)
            assert not torch.equal(perturb(block)(x), x)


def test_fix_up_scales_the_other_convolutions_by_depth():
    for network in pair(GREY, width=64, max_width=64, group_size=16, blocks=8):
        blocks = residual_blocks(network)
        assert len(blocks) == 16
        gain = math.sqrt(2 / 1.04) * 16 ** (-1 / 4)
        for block in blocks:
            for convolution, fan_in in ((block.widen, 64), (block.mix, 16 * 9)):
                weights = convolution.weight.detach()
                assert float(weights.std()) == pytest.approx(gain / math.sqrt(fan_in), rel=0.1)
                assert not convolution.bias.any()
            assert block.narrow.bias is None


def test_the_power_of_activations_stays_bounded_through_depth():
    spec = ImageSpec(3, 64, 64)
    for network in pair(spec, width=32, max_width=128, group_size=16, blocks=3):
        outputs = []
        for block in residual_blocks(network):
            block.register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[-1].detach()))
        # Smooth images: white noise would be averaged away by any resampling.
        smooth = F.interpolate(torch.randn(4, 3, 4, 4), 64, mode="bilinear")
        last = network(torch.randn(4, 6) if isinstance(network, R3GANGenerator) else smooth / smooth.std())
        assert len(outputs) == 15
        assert all(0.1 < float(output.square().mean()) < 4 for output in outputs)
        assert 0.1 < float(last.detach().square().mean()) < 4


def test_the_first_layers_of_blocks_keep_power_up_to_the_depth_scaling():
    block = R3Block(64, expansion=2, group_size=16, depth=16)
    outputs = []
    block.mix.register_forward_hook(lambda *call: outputs.append(call[-1].detach().clone()))
    x = torch.randn(8, 64, 16, 16)
    block(x)
    inside = outputs[0][:, :, 1:-1, 1:-1]
    # Two layers, each with half the power by L^(-1/4) squared, and He's gain before a rectifier that takes it back.
    expected = (16**-0.5 * 2 / 1.04) * (16**-0.5)
    assert float(inside.square().mean()) == pytest.approx(expected, rel=0.1)


def test_convolutions_of_blocks_have_the_groups_they_should():
    for expansion, group_size in ((1, 4), (2, 8), (3, 24), (2, 1)):
        for network in pair(ImageSpec(1, 16, 16), width=8, max_width=16, expansion=expansion, group_size=group_size):
            assert len(residual_blocks(network)) == 3
            for block in residual_blocks(network):
                inner = block.widen.in_channels * expansion
                assert block.mix.groups * group_size == inner
                # A change in one channel inside moves those of its own group alone.
                x = torch.randn(1, inner, 5, 5)
                other = x.clone()
                other[:, 0] += 1
                moved = (block.mix(x) - block.mix(other)).abs().amax((0, 2, 3)) > 1e-6
                assert moved[:group_size].all()
                assert not moved[group_size:].any()


def test_a_block_is_the_inverted_bottleneck_of_the_paper():
    block = perturb(R3Block(3, expansion=2, group_size=2, depth=4)).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)

    def pointwise(weight, maps):
        return torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], maps)

    y = pointwise(block.widen.weight, x) + block.widen.bias.view(1, -1, 1, 1)
    y = torch.where(y > 0, y, 0.2 * y)
    groups = [
        F.conv2d(y[:, i : i + 2], block.mix.weight[i : i + 2], padding=1) + block.mix.bias[i : i + 2].view(1, -1, 1, 1)
        for i in (0, 2, 4)
    ]
    y = torch.cat(groups, 1)
    y = torch.where(y > 0, y, 0.2 * y)
    torch.testing.assert_close(block(x), x + pointwise(block.narrow.weight, y))


def test_a_new_pair_is_linear_up_to_its_ends():
    """Identity blocks leave bases, 1x1 convolutions and bilinear doublings: written out here."""
    generator, discriminator = (network.double() for network in pair(ImageSpec(3, 16, 16), width=4, max_width=16))
    latent = torch.randn(2, 6, dtype=torch.float64)
    x = torch.einsum("chw,cz,bz->bchw", generator.basis, generator.modulate.weight, latent)
    for stage in generator.stages:
        if isinstance(stage, nn.Conv2d):
            x = torch.einsum("oi,bihw->bohw", stage.weight[:, :, 0, 0], x)
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
    x = torch.einsum("oi,bihw->bohw", generator.to_image.weight[:, :, 0, 0], x)
    images = generator(latent)
    torch.testing.assert_close(images, x)
    torch.testing.assert_close(generator(-3 * latent), -3 * images)  # no tanh at the end, either

    x = torch.einsum("oi,bihw->bohw", discriminator.from_image.weight[:, :, 0, 0], images)
    line = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    for stage in discriminator.stages:
        if isinstance(stage, nn.Conv2d):
            kernel = torch.outer(line, line).expand(x.shape[1], 1, 4, 4)
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=x.shape[1])
            x = torch.einsum("oi,bihw->bohw", stage.weight[:, :, 0, 0], x)
    # A depthwise convolution of full size, then a linear layer.
    filtered = F.conv2d(x, discriminator.basis[:, None], groups=x.shape[1])
    torch.testing.assert_close(discriminator(images), (filtered.flatten(1) @ discriminator.score.weight.T).squeeze(1))


def test_a_conditional_score_is_the_projection_on_the_embedded_class():
    discriminator = pair(DIGITS, conditional=True)[1]
    scores = []
    discriminator.score.register_forward_hook(lambda *call: scores.append(call[-1].detach().numpy()))
    labels = torch.tensor([2, 0, 2])
    result = discriminator(torch.randn(3, 1, 8, 8), labels).detach().numpy()
    np.testing.assert_allclose(
        result, (scores[0] * discriminator.embedding.weight[labels].detach().numpy()).sum(1), rtol=1e-4, atol=1e-6
    )


def test_conditional_scores_are_as_large_as_unconditional_ones():
    images = torch.randn(400, 1, 8, 8)
    labels = torch.randint(3, (400,))
    powers = {
        conditional: np.mean(
            [
                float(pair(DIGITS, conditional, width=16, max_width=32)[1](images, labels).detach().square().mean())
                for _ in range(20)
            ]
        )
        for conditional in (False, True)
    }
    assert 0.5 < powers[True] / powers[False] < 2


def test_groups_that_do_not_divide_the_channels_are_refused_by_name():
    for network in (R3GANGenerator, R3GANDiscriminator):
        for options, message in (
            ({"group_size": 12}, r"group_size 12 must divide .* got 128 \* 2; change width"),
            ({"width": 4, "max_width": 12}, r"group_size 16 must divide .* got 4 \* 2"),
        ):
            with pytest.raises(InputError, match=f"{network.__name__}.*{message}"):
                network(GREY, **options)
