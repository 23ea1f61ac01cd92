"""StyleGAN2: modulation, equalised rates, noise, skips and minibatch deviation, each against something independent."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d
from torch import nn

from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks.resampling import Resample, filter_matrix
from lightning_gen.networks.stylegan2 import (
    EqualisedConv2d,
    EqualisedLinear,
    ResidualDown,
    StyledConv,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    ToImage,
    minibatch_deviation,
    modulated_conv2d,
    pixel_norm,
)

GREY = ImageSpec(1, 8, 8)
DIGITS = ImageSpec(1, 8, 8, 17, num_classes=3)


def small_generator(spec=GREY, **options):
    return StyleGAN2Generator(spec, **{"style_dim": 6, "mapping_layers": 2, "width": 4, "max_width": 8, **options})


def small_discriminator(spec=GREY, **options):
    return StyleGAN2Discriminator(spec, **{"width": 4, "max_width": 8, **options})


def latents(generator, n, dtype=torch.float32):
    return torch.randn(n, generator.latent_dim, dtype=dtype)


def blur_kernel(channels: int) -> torch.Tensor:
    """Return the depthwise kernel of the filter [1, 3, 3, 1] / 8 in both directions."""
    line = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    return torch.outer(line, line).expand(channels, 1, 4, 4)


@torch.no_grad()
def perturb(network: nn.Module) -> nn.Module:
    """Move every parameter: zeros at the start hide what does not work."""
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


def directional_derivatives(value, network: nn.Module) -> tuple[float, float]:
    """Return the derivative of ``value()`` along one random direction of parameters: autograd's, and by differences."""
    parameters = list(network.parameters())
    direction = [torch.randn_like(p) for p in parameters]
    gradients = torch.autograd.grad(value(), parameters, allow_unused=True)
    exact = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step * d)
        there = value().detach()
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(step * d)
        return there

    step = 1e-6
    return float(exact), float((moved(step) - moved(-step)) / (2 * step))


def test_every_layer_has_its_noise_and_style_and_images_are_neither_faint_nor_glaring():
    for size, start in {8: 4, 28: 7, 32: 4, 64: 4}.items():
        generator, discriminator = (make(ImageSpec(3, size, size)) for make in (small_generator, small_discriminator))
        sides, side = [start], start
        while side < size:
            side *= 2
            sides += [side, side]
        assert generator.latent_dim == 6 + sum(s * s for s in sides)
        assert generator.num_styles == len(sides) + 1
        images = generator(latents(generator, 5))
        assert 0.01 < images.std() < 10
        assert discriminator(images).unique().numel() == 5  # images of one group share the deviation, not the score


@pytest.mark.parametrize("up", [False, True])
def test_modulated_convolution_is_a_convolution_with_weights_of_each_image(up):
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    style = torch.randn(3, 4, dtype=torch.float64)
    blur = Resample(filter_matrix(11, 10, -1, gain=2, extend=False)).double() if up else None
    y, factors = modulated_conv2d(x, weight, style, blur)
    for image, s, result in zip(x.numpy(), style.numpy(), (y * factors).numpy(), strict=True):
        modulated = weight.numpy() * s[None, :, None, None]
        demodulated = modulated / np.sqrt((modulated**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        for output, expected in zip(demodulated, result, strict=True):
            total = 0
            for plane, kernel in zip(image, output, strict=True):
                if up:
                    spread = np.zeros((9, 9))
                    spread[::2, ::2] = plane
                    full = convolve2d(spread, kernel)  # 11 x 11
                    line = np.array([1, 3, 3, 1]) / 4
                    total = total + convolve2d(full, np.outer(line, line))[2:12, 2:12]
                else:
                    total = total + convolve2d(plane, kernel[::-1, ::-1], mode="same")
            np.testing.assert_allclose(expected, total, rtol=1e-10, atol=1e-10)


def test_demodulated_maps_have_unit_variance_whatever_the_style():
    x = torch.randn(2, 64, 32, 32)
    style = torch.rand(2, 64) * torch.tensor([[0.01], [100.0]])
    y, factors = modulated_conv2d(x, torch.randn(32, 64, 3, 3), style)
    inner = (y * factors)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner.var((1, 2, 3)), torch.ones(2), rtol=0.05, atol=0)


@pytest.mark.parametrize("up", [False, True])
def test_a_styled_layer_adds_noise_and_bias_before_the_leaky_rectifier(up):
    layer = perturb(StyledConv(3, 4, 5, side=6, up=up, noise=True)).double()
    x = torch.randn(2, 3, *((3, 3) if up else (6, 6)), dtype=torch.float64)
    style, noise = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 36, dtype=torch.float64)
    affine = layer.affine(style)
    weights = layer.weight * affine[:, None, :, None, None]
    weights = weights / (weights / math.sqrt(27)).square().sum((2, 3, 4), keepdim=True).add(1e-8).sqrt() / math.sqrt(27)
    for image, weight, n, result in zip(x, weights, noise, layer(x, style, noise), strict=True):
        if up:
            spread = F.conv_transpose2d(image[None], weight.transpose(0, 1), stride=2)
            y = F.conv2d(spread, blur_kernel(4) * 4, padding=1, groups=4)[0]
        else:
            y = F.conv2d(image[None], weight, padding=1)[0]
        y = y + layer.strength * n.view(6, 6) + layer.bias.view(4, 1, 1)
        torch.testing.assert_close(result, math.sqrt(2) * F.leaky_relu(y, 0.2))


def test_an_image_layer_is_a_convolution_with_weights_of_each_image_not_demodulated():
    layer = perturb(ToImage(4, 3, 5)).double()
    x, style = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    for image, s, result in zip(x, layer.affine(style), layer(x, style), strict=True):
        weight = layer.weight * s / 2  # the root of four inputs
        torch.testing.assert_close(result, F.conv2d(image[None], weight[:, :, None, None], layer.bias)[0])


def test_a_residual_block_is_that_of_the_paper():
    block = perturb(ResidualDown(3, 5, 8)).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    y = F.conv2d(x, block.first.weight / math.sqrt(27), block.first.bias, padding=1)
    y = math.sqrt(2) * F.leaky_relu(y, 0.2)
    y = F.conv2d(F.pad(y, (2, 2, 2, 2), mode="replicate"), blur_kernel(3), groups=3)
    y = F.conv2d(y, block.second.weight / math.sqrt(27), block.second.bias, stride=2)
    y = math.sqrt(2) * F.leaky_relu(y, 0.2)
    skip = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), blur_kernel(3), stride=2, groups=3)
    skip = F.conv2d(skip, block.skip.weight / math.sqrt(3))
    torch.testing.assert_close(block(x), (y + skip) / math.sqrt(2))


def test_the_mapping_network_learns_at_a_hundredth_of_the_rate():
    for network in (small_generator(DIGITS, width=16, conditional=True), small_discriminator(DIGITS, conditional=True)):
        for layer in network.mapping.layers:
            assert layer.weight.std().item() == pytest.approx(100, rel=0.3)
        assert network.mapping.embedding.weight.std().item() == pytest.approx(1, rel=0.5)


def test_doubling_is_bilinear_interpolation_and_halving_a_blur_and_every_second_pixel():
    for side in (4, 8, 14):
        x = torch.randn(2, 3, side, side, dtype=torch.float64)
        torch.testing.assert_close(
            Resample.up(side).double()(x), F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        )
        blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), blur_kernel(3), stride=2, groups=3)
        torch.testing.assert_close(Resample.down(side).double()(x), blurred)


def test_resampling_keeps_constants_and_is_not_stored():
    for resample, side, result in (
        (Resample.up(7), 7, 14),
        (Resample.down(14), 14, 7),
        (Resample(filter_matrix(14, 15, -2)), 14, 15),
    ):
        torch.testing.assert_close(resample(torch.ones(1, 1, side, side)), torch.ones(1, 1, result, result))
        assert not resample.state_dict()


def test_equalised_layers_keep_variance_whatever_the_fan_in():
    for inputs in (4, 256):
        for rate in (1.0, 0.01):
            linear = EqualisedLinear(inputs, 2000, rate)
            assert float(linear.weight.detach().std()) == pytest.approx(1 / rate, rel=0.05)
            assert float(linear(torch.randn(500, inputs)).detach().std()) == pytest.approx(1, rel=0.1)
        convolution = EqualisedConv2d(inputs, 64, 3, gain=1.0)
        assert float(convolution.weight.detach().std()) == pytest.approx(1, rel=0.05)
        assert float(convolution(torch.randn(20, inputs, 12, 12)).detach().std()) == pytest.approx(1, rel=0.1)


def test_one_step_of_adam_changes_equalised_weights_by_the_same_share():
    for inputs, rate in itertools.product((4, 256), (1.0, 0.01)):
        linear = EqualisedLinear(inputs, 64, rate).double()
        eye = torch.eye(inputs, dtype=torch.float64)
        before = (linear(eye) - linear(torch.zeros_like(eye))).detach()
        optimizer = torch.optim.Adam(linear.parameters(), lr=1e-3)
        (linear(eye) * torch.randn(inputs, 64, dtype=torch.float64)).sum().backward()
        optimizer.step()
        after = (linear(eye) - linear(torch.zeros_like(eye))).detach()
        share = (after - before).abs().mean() / before.std()  # Adam's first step is lr times the sign of the gradient
        assert float(share) == pytest.approx(1e-3 * rate, rel=0.1)


def test_a_constant_bias_is_not_scaled_away():
    linear = EqualisedLinear(3, 2, rate=0.01, bias=1.0)
    torch.testing.assert_close(linear(torch.zeros(1, 3)), torch.ones(1, 2))


def test_pixel_norm_gives_rows_of_mean_square_one_and_ignores_scale():
    x = torch.randn(5, 7, dtype=torch.float64) * 3
    rows = pixel_norm(x).numpy()
    np.testing.assert_allclose(rows, x / (np.linalg.norm(x, axis=1, keepdims=True) / math.sqrt(7)), rtol=1e-6)
    torch.testing.assert_close(pixel_norm(x * 100), pixel_norm(x), rtol=1e-6, atol=1e-8)
    assert not pixel_norm(torch.zeros(2, 3)).any()


def test_only_the_direction_of_z_counts():
    generator = small_generator(noise=False)
    z = latents(generator, 3)
    torch.testing.assert_close(generator(z), generator(5 * z), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(generator(z), generator(-z), rtol=1e-2)


def test_forward_is_a_pure_function_of_the_latent():
    generator = perturb(small_generator())
    latent = latents(generator, 4)
    state = torch.get_rng_state()
    first = generator(latent)
    generator.eval()
    assert torch.equal(generator(latent), first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(generator(latent.flip(0)).flip(0), first)  # each image is of its own latent


def test_noise_counts_only_with_a_strength():
    generator = small_generator()
    latent = latents(generator, 2)
    other = torch.cat([latent[:, :6], torch.randn(2, generator.noise_dim)], 1)
    assert torch.equal(generator(latent), generator(other))  # strengths start at zero
    places = latent[:1].repeat(len(generator.layers), 1)
    with torch.no_grad():
        for layer in generator.layers:
            layer.strength.fill_(0.5)
    assert not torch.allclose(generator(latent), generator(other), atol=1e-3)
    # The noise of every layer is used, and that of the last one acts near its own pixel alone.
    first = generator.style_dim
    for row, size in enumerate(generator.noise_sizes):
        places[row, first] += 1
        first += size
    assert first == generator.latent_dim
    changes = (generator(places) - generator(latent[:1])).abs().flatten(1).amax(1)
    assert (changes > 1e-4).all()
    latent[0, -1] += 1
    changed = (generator(latent) - generator(torch.cat([latent[:, :-1], latent[:, -1:] - 1], 1)))[0, 0].abs() > 1e-6
    assert changed[-1, -1]
    assert changed.sum() == 1


def test_without_noise_the_latent_is_z_alone():
    generator = small_generator(noise=False)
    assert generator.latent_dim == 6
    z, noise = generator.split(latents(generator, 3))
    assert z.shape == (3, 6)
    assert noise.shape == (3, 0)
    assert not any("strength" in name for name, _ in generator.named_parameters())
    w = generator.styles(z)
    assert torch.equal(generator.synthesise(w), generator.synthesise(w, noise))


def test_forward_is_the_composition_of_its_parts():
    for labels in (None, torch.tensor([0, 1, 2, 0])):
        generator = perturb(small_generator(DIGITS, conditional=labels is not None))
        latent = latents(generator, 4)
        z, noise = generator.split(latent)
        w = generator.styles(z, labels)
        assert w.shape == (4, generator.num_styles, 6)
        assert torch.equal(w, w[:, :1].expand_as(w))
        assert torch.equal(generator.synthesise(w, noise), generator(latent, labels))


def test_rows_of_styles_are_those_of_layers():
    """Changing row l changes no layer before l: what style mixing by rows would want."""
    generator = small_generator(ImageSpec(1, 16, 16), noise=False)
    w = generator.styles(latents(generator, 1)).clone()
    seen = []
    parts = [*generator.layers, *generator.to_image]
    for part in parts:
        part.register_forward_hook(lambda _, inputs, output: seen.append((inputs[1], output.detach().clone())))
    generator.synthesise(w)
    before, seen[:] = [output for _, output in seen], []
    for row in range(generator.num_styles):
        changed = w.clone()
        changed[:, row] += 1
        generator.synthesise(changed)
        used = [torch.equal(style, changed[:, row]) for style, _ in seen]
        different = [not torch.equal(output, old) for (_, output), old in zip(seen, before, strict=True)]
        assert any(used)
        assert different.index(True) == used.index(True)
        seen.clear()


def test_the_image_is_the_sum_of_every_resolution_doubled_up():
    generator = perturb(small_generator(ImageSpec(3, 28, 28))).double()
    parts = []
    for to_image in generator.to_image:
        to_image.register_forward_hook(lambda *call: parts.append(call[-1]))
    images = generator(latents(generator, 2, torch.float64))
    total = 0
    for part in parts:
        while part.shape[-1] < 28:
            part = F.interpolate(part, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + part
    assert len(parts) == 3
    torch.testing.assert_close(images, total)


@pytest.mark.parametrize("conditional", [False, True])
def test_truncation_moves_styles_towards_their_mean(conditional):
    generator = small_generator(DIGITS, conditional=conditional)
    z = torch.randn(20_000, 6)
    labels = torch.full((20_000,), 2) if conditional else None
    state = torch.get_rng_state()
    w = generator.styles(z, labels).detach()
    mean = generator.styles(z, labels, psi=0.0).detach()
    half = generator.styles(z, labels, psi=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(mean[0], w.mean(0), rtol=0, atol=0.05 * float(w.std()))
    torch.testing.assert_close(half, (mean + w) / 2)
    if conditional:
        others = generator.styles(z[:1], torch.tensor([0]), psi=0.0)
        assert not torch.allclose(others[0], mean[0], atol=0.1 * float(w.std()))
    latent = latents(generator, 3)
    labels = None if labels is None else labels[:3]
    z, noise = generator.split(latent)
    assert torch.equal(
        generator(latent, labels, psi=0.7), generator.synthesise(generator.styles(z, labels, 0.7), noise)
    )


def test_a_conditional_score_is_the_scaled_projection_on_the_mapped_class():
    discriminator = small_discriminator(DIGITS, conditional=True)
    outputs = []
    discriminator.score.register_forward_hook(lambda *call: outputs.append(call[-1]))
    discriminator.mapping.register_forward_hook(lambda *call: outputs.append(call[-1]))
    scores = discriminator(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 1, 2]))
    features, classes = (output.detach().numpy() for output in outputs)
    np.testing.assert_allclose(scores.detach(), (features * classes).sum(1) / math.sqrt(8), rtol=1e-4, atol=1e-6)


def test_minibatch_deviation_is_that_of_each_group():
    for n in (1, 2, 4, 5, 8, 10):
        x = torch.randn(n, 3, 2, 2, dtype=torch.float64)
        groups = -(-n // 4)
        expected = np.empty(n)
        for group in range(groups):
            members = list(range(group, n, groups))
            assert len(members) <= 4
            variances = x[members].numpy().reshape(len(members), -1).var(0)
            expected[members] = np.sqrt(variances + 1e-8).mean()
        result = minibatch_deviation(x).numpy()
        np.testing.assert_allclose(result, np.broadcast_to(expected[:, None, None, None], (n, 1, 2, 2)), rtol=1e-9)


def test_scores_are_of_the_image_alone_only_without_minibatch_deviation():
    images = torch.randn(4, 1, 8, 8)
    alone, together = small_discriminator(minibatch_std=False), small_discriminator()
    torch.testing.assert_close(alone(images[:1]), alone(images)[:1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(together(images[:1]), together(images)[:1], rtol=1e-3)
    torch.testing.assert_close(together(images.flip(0)).flip(0), together(images), rtol=1e-4, atol=1e-6)
    twins = images[:1].expand(4, -1, -1, -1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(together(twins).sum(), twins)
    assert torch.isfinite(gradient).all()  # the root of a variance of zero


def test_a_residual_block_keeps_the_power_of_smooth_maps():
    block = ResidualDown(256, 256, 16)
    x = torch.randn(8, 256, 1, 1).expand(-1, -1, 16, 16)  # blurring does nothing to it
    inside = block(x)[:, :, 3:-3, 3:-3]  # away from the zeros around the convolutions
    leak = 1 + 0.2**2  # of each rectifier, on top of what the gain sqrt(2) restores
    assert float(inside.detach().square().mean()) == pytest.approx((1 + leak**2) / 2, rel=0.05)


def test_the_generator_can_be_differentiated_twice_by_its_styles():
    generator = perturb(small_generator()).double()
    z, noise = generator.split(latents(generator, 2, torch.float64))
    direction = torch.randn(2, 1, 8, 8, dtype=torch.float64)

    def path_length():
        w = generator.styles(z)
        (gradient,) = torch.autograd.grad((generator.synthesise(w, noise) * direction).sum(), w, create_graph=True)
        return gradient.square().sum()

    exact, differences = directional_derivatives(path_length, generator)
    assert exact == pytest.approx(differences, rel=1e-4)
