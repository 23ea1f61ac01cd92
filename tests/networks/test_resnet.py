"""Residual networks, against the paper's order of operations written with plain functions."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_gen.callbacks.ema import copy_for_averaging
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks.resnet import ResNetDiscriminator, ResNetGenerator
from lightning_gen.networks.spectral import spectral_norms


def randomise(network: nn.Module) -> None:
    """Give every norm a gain, and every layer a bias, of its own."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 or ".gain." in name or ".bias." in name:
            nn.init.normal_(parameter, 0.5)


def twice(maps: torch.Tensor) -> torch.Tensor:
    """Repeat every pixel two by two."""
    return maps.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(maps: torch.Tensor) -> torch.Tensor:
    """Average every two by two pixels."""
    return (maps[..., ::2, ::2] + maps[..., 1::2, ::2] + maps[..., ::2, 1::2] + maps[..., 1::2, 1::2]) / 4


def normed(x: torch.Tensor, state: dict, name: str, labels: torch.Tensor | None) -> torch.Tensor:
    """Batch norm over this batch, with the gain and bias of each image's class if there are labels."""
    standard = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    if labels is None:
        return standard * state[f"{name}.weight"][None, :, None, None] + state[f"{name}.bias"][None, :, None, None]
    gains, biases = state[f"{name}.gain.weight"], state[f"{name}.bias.weight"]
    return torch.stack(
        [image * gains[y][:, None, None] + biases[y][:, None, None] for image, y in zip(standard, labels, strict=True)]
    )


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_the_generator_is_the_papers(size, conditional):
    spec = ImageSpec(3, size, size, num_classes=3)
    network = ResNetGenerator(spec, latent_dim=5, width=3, max_width=7, conditional=conditional).double()
    randomise(network)
    state = network.state_dict()
    latents, labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([2, 0, 1, 2])
    given = labels if conditional else None

    def conv(x, name):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    blocks = {8: 1, 28: 2, 32: 3, 64: 4}[size]
    side = size // 2**blocks
    x = (latents @ state["first.weight"].T + state["first.bias"]).reshape(4, -1, side, side)
    for i in range(blocks):
        hidden = conv(twice(normed(x, state, f"blocks.{i}.norm1", given).relu()), f"blocks.{i}.conv1")
        hidden = conv(normed(hidden, state, f"blocks.{i}.norm2", given).relu(), f"blocks.{i}.conv2")
        x = hidden + conv(twice(x), f"blocks.{i}.shortcut")
    expected = torch.tanh(conv(normed(x, state, "last.0", None).relu(), "last.2"))
    images = network(latents, given)
    torch.testing.assert_close(images, expected)
    assert images.shape == (4, *spec.shape)
    assert images.abs().max() <= 1
    assert network.latent_dim == 5


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_the_discriminator_is_the_papers(size, spectral_norm):
    spec = ImageSpec(3, size, size)
    network = ResNetDiscriminator(spec, width=4, max_width=6, spectral_norm=spectral_norm).double().eval()
    randomise(network)
    state = network.state_dict()

    def weight_of(name):
        if not spectral_norm:
            return state[f"{name}.weight"]
        kept = f"{name}.parametrizations.weight"
        weight = state[f"{kept}.original"]
        return weight / (state[f"{kept}.0._u"] @ weight.flatten(1) @ state[f"{kept}.0._v"])

    def conv(x, name):
        weight = weight_of(name)
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    halvings = {8: 1, 28: 2, 32: 2, 64: 3}[size]
    images = torch.rand(3, *spec.shape, dtype=torch.float64) * 2 - 1
    x = halved(conv(conv(images, "blocks.0.conv1").relu(), "blocks.0.conv2"))
    x = x + conv(halved(images), "blocks.0.shortcut")
    for i in range(1, halvings + 2):
        hidden = conv(conv(x.relu(), f"blocks.{i}.conv1").relu(), f"blocks.{i}.conv2")
        x = halved(hidden) + halved(conv(x, f"blocks.{i}.shortcut")) if i < halvings else hidden + x
    features = x.relu().sum((2, 3))
    scores = network(images)
    torch.testing.assert_close(scores, features @ weight_of("score")[0] + state["score.bias"])
    assert scores.shape == (3,)


def test_at_32x32_the_defaults_are_the_papers_networks_for_cifar10():
    spec = ImageSpec(3, 32, 32)
    dense, block, last = (
        128 * 4096 + 4096,
        2 * (256 * 256 * 9 + 256) + 256 * 256 + 256 + 4 * 256,
        2 * 256 + 2304 * 3 + 3,
    )
    generator = ResNetGenerator(spec)
    assert sum(p.numel() for p in generator.parameters()) == dense + 3 * block + last == 4_276_739
    conv, discriminator = 128 * 128 * 9 + 128, ResNetDiscriminator(spec)
    first = 3 * 128 * 9 + 128 + conv + 3 * 128 + 128
    assert sum(p.numel() for p in discriminator.parameters()) == first + 6 * conv + 128 * 128 + 128 + 128 + 1
    assert [block.halve for block in discriminator.blocks[:-1]] == [True, True, False, False]


def test_two_blocks_follow_those_that_halve_the_side_to_at_most_eight():
    for size, sides in {
        6: [3, 3, 3],
        8: [4, 4, 4],
        12: [6, 6, 6],
        16: [8, 8, 8],
        28: [14, 7, 7, 7],
        64: [32, 16, 8, 8, 8],
    }.items():
        network, seen = ResNetDiscriminator(ImageSpec(1, size, size), width=2), []
        for block in network.blocks[:-1]:
            block.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.shape[-1]))
        network(torch.zeros(1, 1, size, size))
        assert seen == sides


def test_widths_double_with_each_halving_up_to_the_bound():
    spec = ImageSpec(1, 64, 64)
    assert [b.conv2.out_channels for b in ResNetDiscriminator(spec, 8, 20).blocks[:-1]] == [8, 16, 20, 20, 20]
    assert [b.conv2.out_channels for b in ResNetDiscriminator(spec, 8).blocks[:-1]] == [8] * 5
    assert [b.conv1.in_channels for b in ResNetGenerator(spec, 8, 8, 50).blocks] == [50, 50, 32, 16]
    assert [b.conv1.in_channels for b in ResNetGenerator(spec, 8, 8).blocks] == [8] * 4


def test_initialisation_is_glorots_with_gain_root_two_in_residual_branches():
    for network in (ResNetGenerator(ImageSpec(3, 16, 16), 64, 32), ResNetDiscriminator(ImageSpec(3, 16, 16), 32)):
        network.eval()
        for name, module in network.named_modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            weight = module.parametrizations.weight.original if "parametrizations" in module._modules else module.weight
            gain = math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1.0
            bound = gain * math.sqrt(6 / (weight[:, 0].numel() + weight[0].numel()))
            assert 0.8 * bound < float(weight.detach().abs().max()) <= bound
            assert not module.bias.any()


def test_training_passes_bring_every_largest_singular_value_to_one(squared_gradient_norm):
    spec = ImageSpec(3, 16, 16, num_classes=4)
    network = ResNetDiscriminator(spec, width=6, conditional=True, classifier=True).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(torch.rand_like(parameter) * 5)  # as if optimizer steps had moved them
    images, labels = torch.rand(2, *spec.shape, dtype=torch.float64), torch.tensor([0, 3])
    assert any(abs(norm - 1) > 0.01 for norm in spectral_norms(network).values())
    for _ in range(300):
        network.scores_and_logits(images, labels)
    network.eval()
    weights = {
        name: module.weight.detach().flatten(1)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding)
    }
    assert len(weights) == 3 + 2 + 2 + 3  # blocks of 16x16, and the three heads
    for name, weight in weights.items():
        assert float(torch.linalg.svdvals(weight)[0]) == pytest.approx(1, abs=1e-3), name
    # There the power iteration stands still, so training mode has the gradients of evaluation mode.
    parameters = list(network.parameters())

    def gradients():
        penalty = squared_gradient_norm(network, images, labels).sum()
        return torch.autograd.grad(penalty, parameters, allow_unused=True)

    expected, found = gradients(), (network.train(), gradients())[1]
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_evaluation_leaves_the_power_iteration_and_training_moves_it_in_place():
    spec = ImageSpec(1, 8, 8)
    network = ResNetDiscriminator(spec, width=4)
    images = torch.rand(2, *spec.shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(torch.rand_like(parameter))
    before, buffers = copy.deepcopy(network.state_dict()), list(network.buffers())
    network.eval()
    assert torch.equal(network(images), network(images))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.train()
    network(images)
    moved = network.state_dict()
    assert any(not torch.equal(moved[name], before[name]) for name in before if name.endswith("._u"))
    # A skipped step puts back what the same buffers held.
    assert all(one is other for one, other in zip(network.buffers(), buffers, strict=True))
    for name, buffer in network.named_buffers():
        buffer.copy_(before[name])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_copies_and_stored_weights_score_alike():
    spec = ImageSpec(1, 8, 8, num_classes=3)
    network = ResNetDiscriminator(spec, width=4, conditional=True)
    images, labels = torch.rand(3, *spec.shape), torch.tensor([0, 1, 2])
    network(images, labels).sum().backward()
    loaded = ResNetDiscriminator(spec, width=4, conditional=True)
    loaded.load_state_dict(network.state_dict())
    copied, averaged = copy.deepcopy(network).eval(), copy_for_averaging(network)
    expected = network.eval()(images, labels)
    assert torch.equal(copied(images, labels), expected)
    assert torch.equal(averaged(images, labels), expected)
    assert torch.equal(loaded.eval()(images, labels), expected)
    with torch.no_grad():
        copied.score.parametrizations.weight.original.zero_().add_(1)
    assert torch.equal(network(images, labels), expected)


def test_one_graph_may_hold_two_training_passes(squared_gradient_norm):
    spec = ImageSpec(1, 8, 8)
    network = ResNetDiscriminator(spec, width=4).double()
    real, fake = torch.rand(2, 3, *spec.shape, dtype=torch.float64)
    loss = network(real).mean() - network(fake).mean() + squared_gradient_norm(network, real).mean()
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    used = [gradient for gradient in gradients if gradient is not None]
    assert len(used) >= len(gradients) - 1  # the last bias cancels
    assert all(torch.isfinite(gradient).all() for gradient in used)


def test_bfloat16_autocast_scores_nearly_as_float32_also_in_training(squared_gradient_norm):
    spec = ImageSpec(3, 32, 32, num_classes=3)
    for training in (False, True):
        network = ResNetDiscriminator(spec, width=8, conditional=True).train(training)
        images, labels = torch.rand(6, *spec.shape) * 2 - 1, torch.arange(6) % 3
        expected = network(images, labels)
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(images, labels)
            penalty = squared_gradient_norm(network, images, labels)
        torch.testing.assert_close(scores, expected, rtol=0, atol=0.05 * float(expected.detach().abs().max()))
        torch.testing.assert_close(penalty, squared_gradient_norm(network, images, labels), rtol=0.05, atol=0)
        assert all(buffer.dtype == torch.float32 for buffer in network.buffers())


def test_a_bound_below_the_width_is_refused():
    with pytest.raises(InputError, match=r"ResNetGenerator.max_width must be at least width \(256\), got 64"):
        ResNetGenerator(ImageSpec(1, 8, 8), max_width=64)
