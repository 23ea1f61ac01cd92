"""Spectral norms of weights, against singular values."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lightning_gen.networks.spectral import spectral_norms
from lightning_gen.networks.stylegan2 import EqualisedLinear


def test_spectral_norms_are_the_largest_singular_values_of_the_flattened_weights():
    network = nn.Sequential(
        nn.Linear(7, 5),
        nn.Conv2d(3, 6, 3),
        nn.ConvTranspose2d(4, 6, 3),
        nn.Sequential(nn.BatchNorm2d(6), nn.Embedding(9, 4)),
        nn.MultiheadAttention(4, 2),
    )
    expected = {
        "0.weight": network[0].weight,
        "1.weight": network[1].weight.reshape(6, 27),
        "2.weight": torch.stack([network[2].weight[:, i].flatten() for i in range(6)]),  # outputs come second there
        "3.1.weight": network[3][1].weight,
        "4.in_proj_weight": network[4].in_proj_weight,
        "4.out_proj.weight": network[4].out_proj.weight,
    }
    norms = spectral_norms(network)
    assert norms.keys() == expected.keys()
    for name, weight in expected.items():
        assert norms[name] == pytest.approx(float(torch.linalg.svdvals(weight.detach().double())[0]), rel=1e-9)
    assert spectral_norms(nn.Linear(3, 2)).keys() == {"weight"}


def test_a_weight_of_zeros_has_norm_zero():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert spectral_norms(layer) == {"weight": 0.0}


def test_reading_a_normalised_weight_sees_it_normalised_and_leaves_the_network_as_it_was():
    network = nn.Sequential(parametrizations.spectral_norm(nn.Linear(40, 30)), nn.Dropout(0.5))
    network[1].eval()
    with torch.no_grad():
        network[0].parametrizations.weight.original.mul_(torch.rand(30, 40))  # the power iteration is behind
    before = {name: value.clone() for name, value in network.state_dict().items()}
    norms = spectral_norms(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network] == [True, False]
    network.eval()
    assert norms == {"0.weight": pytest.approx(float(torch.linalg.svdvals(network[0].weight.detach())[0]), rel=1e-5)}
    assert norms["0.weight"] > 1.001  # what the estimate is behind by can be read


def test_weights_of_equalised_learning_rate_are_seen_as_they_are_applied():
    torch.manual_seed(0)
    layer = EqualisedLinear(6, 4, rate=0.01, gain=1.5)
    applied = torch.stack([layer(row) - layer(torch.zeros(6)) for row in torch.eye(6)], 1).detach()
    assert spectral_norms(layer) == {"weight": pytest.approx(float(torch.linalg.svdvals(applied)[0]), rel=1e-5)}
