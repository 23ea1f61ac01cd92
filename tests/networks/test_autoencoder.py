"""Encoders and decoders of latent variable models."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks import (
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    ResNetDecoder,
    ResNetEncoder,
)
from lightning_gen.networks.autoencoder import ResidualUnit

DIGITS = ImageSpec(1, 8, 8, 17, num_classes=10)
FAMILIES = {
    "mlp": (partial(MLPEncoder, widths=(24,)), partial(MLPDecoder, widths=(24,))),
    "conv": (partial(ConvEncoder, width=4), partial(ConvDecoder, width=4)),
    "resnet": (partial(ResNetEncoder, width=4, depth=1), partial(ResNetDecoder, width=4, depth=1)),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def images(spec: ImageSpec, n: int = 3, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(n, *spec.shape, generator=torch.Generator().manual_seed(seed)) - 1


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """Some layers begin at 0, and what they see would not show."""
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def test_every_output_depends_on_every_input(family):
    for spec in [ImageSpec(channels, side, side) for side in (8, 28, 32, 64) for channels in (1, 3)]:
        encoder, decoder = shaken(family[0](spec, 5)), shaken(family[1](spec, 4, 3))
        x = images(spec, 1).requires_grad_()
        code = encoder(x)
        assert code.shape == (1, 5)
        (gradient,) = torch.autograd.grad(code.square().sum(), x)
        # All pixels count, but for those at the margin that pooling and padding may leave with next to nothing.
        assert float((gradient != 0).double().mean()) > 0.99
        z = torch.randn(1, 4, requires_grad=True)
        theta = decoder(z)
        assert theta.shape == (1, 3, spec.height, spec.width)
        direction = torch.randn(theta.shape)
        (gradient,) = torch.autograd.grad((theta * direction).sum(), z)
        assert bool((gradient != 0).all())
        moved = decoder(z + torch.eye(4)[:1])
        assert bool((moved != theta).all())


def test_images_of_a_batch_do_not_see_each_other(family):
    encoder, decoder = (shaken(make(DIGITS, 6, *rest)) for make, rest in zip(family, ((), (2,)), strict=True))
    x, z = images(DIGITS, 4), torch.randn(4, 6)
    order = torch.tensor([2, 0, 3, 1])
    for network, given in ((encoder, x), (decoder, z)):
        torch.testing.assert_close(network(given[order]), network(given)[order])
        torch.testing.assert_close(network(given[:1]), network(given)[:1])


def test_a_pair_learns_to_give_images_back(family):
    torch.manual_seed(0)
    encoder, decoder = family[0](DIGITS, 8), family[1](DIGITS, 8, 1)
    x = images(DIGITS, 6)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 5e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.mse_loss(decoder(encoder(x)), x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    best_constant = float((x - x.mean(0)).square().mean())
    assert losses[-1] < 0.3 * best_constant
    for network in (encoder, decoder):
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_perceptrons_are_those_of_numpy():
    encoder, decoder = MLPEncoder(DIGITS, 5, widths=(7, 6)).double(), MLPDecoder(DIGITS, 4, 2, widths=(9,)).double()
    silu = lambda a: a / (1 + np.exp(-a))  # noqa: E731

    def by_hand(network, rows):
        weights = [p.detach().numpy() for p in network.parameters()]
        for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            rows = silu(rows @ weight.T + bias)
        return rows @ weights[-2].T + weights[-1]

    x, z = images(DIGITS, 3).double(), torch.randn(3, 4, dtype=torch.float64)
    np.testing.assert_allclose(encoder(x).detach().numpy(), by_hand(encoder, x.reshape(3, 64).numpy()))
    expected = by_hand(decoder, z.numpy()).reshape(3, 2, 8, 8)
    np.testing.assert_allclose(decoder(z).detach().numpy(), expected)


def test_without_hidden_layers_a_decoder_is_linear():
    decoder = MLPDecoder(DIGITS, 4, 2, widths=()).double()
    a, b = torch.randn(2, 3, 4, dtype=torch.float64)
    nothing = decoder(torch.zeros(3, 4).double())
    torch.testing.assert_close(decoder(2 * a - b) - nothing, 2 * (decoder(a) - nothing) - (decoder(b) - nothing))


def test_residual_units_begin_as_nothing():
    unit, x = ResidualUnit(3), torch.randn(2, 3, 4, 4)
    assert torch.equal(unit(x), x)
    assert not torch.equal(shaken(unit)(x), x)


def test_only_training_drops_out():
    for network, given in (
        (MLPEncoder(DIGITS, 5, widths=(16,), dropout=0.5), images(DIGITS)),
        (MLPDecoder(DIGITS, 5, 1, widths=(16,), dropout=0.5), torch.randn(3, 5)),
    ):
        assert not torch.equal(network(given), network(given))
        network.eval()
        assert torch.equal(network(given), network(given))


# --- classes ----------------------------------------------------------------------------------------------------------


def test_conditional_networks_heed_labels_and_others_do_not(family):
    labels = torch.tensor([0, 3, 9])
    for make, given, rest in ((family[0], images(DIGITS), ()), (family[1], torch.randn(3, 6), (2,))):
        network = shaken(make(DIGITS, 6, *rest, conditional=True))
        assert network.conditional
        assert bool((network(given, labels) != network(given, labels.roll(1))).flatten(1).any(1).all())
        torch.testing.assert_close(network(given, labels.to(torch.uint8)), network(given, labels))
        with pytest.raises(InputError, match=f"{type(network).__name__} is class-conditional: give labels"):
            network(given)
        plain = make(DIGITS, 6, *rest)
        assert not plain.conditional
        assert torch.equal(plain(given, labels), plain(given))


def test_a_label_is_a_one_hot_column():
    encoder = MLPEncoder(DIGITS, 5, widths=(), conditional=True).double()
    x = images(DIGITS, 2).double()
    weight, bias = (p.detach() for p in encoder.parameters())
    expected = x.flatten(1) @ weight[:, :64].T + bias + weight[:, [64 + 3, 64 + 9]].T
    torch.testing.assert_close(encoder(x, torch.tensor([3, 9])), expected)


def test_perceptrons_take_any_shape():
    spec = ImageSpec(2, 1, 3)
    assert MLPDecoder(spec, 4, 6, widths=(5,))(MLPEncoder(spec, 4, widths=(5,))(images(spec))).shape == (3, 6, 1, 3)
