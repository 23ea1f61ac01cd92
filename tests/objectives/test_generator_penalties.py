"""Path length against explicit Jacobians, orthogonality against loops, and both for the network they are given."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gen.draw import Draw
from lightning_gen.errors import InputError
from lightning_gen.networks import MLPDiscriminator, MLPGenerator
from lightning_gen.networks.stylegan2 import EqualisedLinear
from lightning_gen.objectives import (
    GeneratorPenalty,
    GeneratorStep,
    OrthogonalRegularisation,
    PathLength,
    Penalty,
)
from lightning_gen.spec import ImageSpec

SPEC = ImageSpec(channels=2, height=3, width=4)
LAYERS, WIDTH = 3, 5


class Styled(nn.Module):
    """Two latent numbers are z, the others noise; w = z through a matrix; x = f(sum over layers of A_l w_l) + noise."""

    latent_dim = 2 + 24

    def __init__(self, function=torch.tanh):
        super().__init__()
        self.function = function
        self.mapping = nn.Linear(2, LAYERS * WIDTH, dtype=torch.float64)
        self.layers = nn.Parameter(torch.randn(LAYERS, WIDTH, 24, dtype=torch.float64) / 3)

    def split(self, latent):
        return latent[:, :2], latent[:, 2:]

    def styles(self, z, labels):
        shift = 0 if labels is None else labels[:, None].to(z)
        return (self.mapping(z) + shift).unflatten(1, (LAYERS, WIDTH))

    def synthesise(self, w, noise):
        flat = self.function(torch.einsum("blw,lwp->bp", w, self.layers)) + 0.1 * noise
        return flat.unflatten(1, SPEC.shape)


def generator_step(network, latent, labels=None, draw=None, mean=lambda value: value):
    return GeneratorStep(network, latent, labels, draw or Draw(0, 0, len(latent)), mean)


@pytest.fixture
def latent(generator):
    return torch.randn(6, Styled.latent_dim, dtype=torch.float64, generator=generator)


def lengths_by_jacobian(network, latent, draw, labels=None):
    """The lengths (B,) from the whole Jacobian of every image with respect to its styles."""
    z, noise = network.split(latent)
    styles = network.styles(z, labels).detach()
    directions = draw.normal(SPEC.dims).double() / math.sqrt(SPEC.height * SPEC.width)
    lengths = []
    for i in range(len(latent)):
        jacobian = torch.autograd.functional.jacobian(
            lambda w, i=i: network.synthesise(w, noise[i : i + 1]), styles[i : i + 1]
        )
        product = torch.einsum("p,plw->lw", directions[i], jacobian.reshape(SPEC.dims, LAYERS, WIDTH))
        lengths.append(sum(float(row @ row) for row in product) / LAYERS)
    return torch.tensor(lengths, dtype=torch.float64).sqrt()


@pytest.mark.parametrize("labels", [None, torch.arange(6)])
def test_path_length_against_the_whole_jacobian(latent, labels):
    network, penalty = Styled(), PathLength(weight=1.0, every=1, decay=0.25)
    average = 0.0
    for position in (0, 64, 128):
        lengths = lengths_by_jacobian(network, latent, Draw(0, position, 6), labels)
        average += 0.25 * (float(lengths.mean()) - average)
        value = penalty(generator_step(network, latent, labels, Draw(0, position, 6)))
        torch.testing.assert_close(value.detach(), (lengths - average).square(), rtol=1e-5, atol=1e-8)
    assert float(penalty.average) == pytest.approx(average, rel=1e-5)


def test_path_length_of_a_linear_generator_is_the_length_of_its_matrix(latent):
    network = Styled(function=nn.Identity())
    penalty = PathLength(weight=1.0, every=1, decay=1.0)
    many = latent[:1].expand(20000, -1)
    penalty(generator_step(network, many))
    # E |J^T y|^2 = |J|_F^2 / (H W), averaged over layers; lengths hardly vary about their root mean square.
    expected = math.sqrt(float(network.layers.detach().square().sum()) / (SPEC.height * SPEC.width * LAYERS))
    with torch.no_grad():
        y = Draw(0, 0, 20000).normal(SPEC.dims).double() / math.sqrt(12)
        lengths = torch.einsum("lwp,bp->blw", network.layers, y).square().sum(2).mean(1).sqrt()
    assert float(lengths.square().mean().sqrt()) == pytest.approx(expected, rel=0.01)
    assert float(penalty.average) == pytest.approx(float(lengths.mean()), rel=1e-5)


def test_gradient_of_path_length_against_finite_differences(latent):
    network, names = Styled(), ("mapping.weight", "mapping.bias", "layers")

    def penalty_of(*weights):
        with torch.nn.utils.stateless._reparametrize_module(network, dict(zip(names, weights, strict=True))):
            penalty = PathLength(weight=2.0, every=1, decay=0.5).double()
            penalty.average.fill_(0.3)
            # The mean of the lengths is a constant: a fixed number stands for it.
            return penalty(generator_step(network, latent, mean=lambda value: torch.full_like(value, 0.9))).mean()

    weights = tuple(network.get_parameter(name).detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(penalty_of, weights)


def test_path_length_averages_over_ranks(latent):
    network = Styled()
    whole, halves = PathLength(), [PathLength(), PathLength()]
    value = whole(generator_step(network, latent, draw=Draw(0, 0, 6))).detach()
    means = []
    for rank, penalty in enumerate(copy.deepcopy(halves)):
        own = latent[3 * rank : 3 * rank + 3]
        penalty(generator_step(network, own, draw=Draw(0, 0, 3, rank, 2), mean=lambda m: means.append(m) or m))
    parts = [
        penalty(
            generator_step(
                network,
                latent[3 * rank : 3 * rank + 3],
                draw=Draw(0, 0, 3, rank, 2),
                mean=lambda m: torch.stack(means).mean(0),
            )
        ).detach()
        for rank, penalty in enumerate(halves)
    ]
    torch.testing.assert_close(torch.cat(parts), value)
    assert torch.equal(halves[0].average, halves[1].average)
    torch.testing.assert_close(halves[0].average, whole.average)


def test_path_length_stays_in_float32_under_autocast(latent):
    network = Styled().float()
    plain = PathLength()(generator_step(network, latent.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = PathLength()(generator_step(network, latent.float()))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)


def test_path_length_of_a_flat_generator_has_finite_gradients(latent):
    network = Styled()
    nn.init.zeros_(network.layers)
    (slope,) = torch.autograd.grad(PathLength()(generator_step(network, latent)).mean(), network.layers)
    assert torch.isfinite(slope).all()


def test_path_length_remembers_in_place_and_in_its_state(latent):
    network, old, new = Styled(), PathLength(), PathLength()
    place = old.average.data_ptr()
    old(generator_step(network, latent))
    assert old.average.data_ptr() == place
    assert float(old.average) > 0
    new.load_state_dict(old.state_dict())
    step = [generator_step(network, latent, draw=Draw(0, 64, 6)) for _ in range(2)]
    assert torch.equal(old(step[0]), new(step[1]))


def test_generators_without_styles_are_refused_by_name():
    PathLength().check(Styled())
    message = "^PathLength: MLPGenerator has no method split or styles or synthesise: it needs a generator with styles"
    with pytest.raises(InputError, match=message):
        PathLength().check(MLPGenerator(SPEC, latent_dim=3, widths=()))


# --- orthogonality ------------------------------------------------------------------------------------------------


def critic_of(network, critic_step):
    images = torch.zeros(2, *SPEC.shape)
    return critic_step(lambda x, labels: torch.zeros(2), images, images)._replace(critic=network)


def by_loops(*matrices):
    """Sum over pairs of different rows of their squared products."""
    return sum(
        float(a @ b) ** 2 for matrix in matrices for i, a in enumerate(matrix) for j, b in enumerate(matrix) if i != j
    )


def test_orthogonal_regularisation_is_its_formula(critic_step):
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(7, 5, bias=False)).double()
    rows = [network[0].weight.detach().flatten(1).numpy(), network[2].weight.detach().numpy()]
    value = OrthogonalRegularisation(weight=0.5)(critic_of(network, critic_step))
    assert value.shape == ()
    assert float(value.detach()) == pytest.approx(0.5 * by_loops(*rows), rel=1e-10)
    # The derivative that Brock et al. apply: 4 (W W^T o (1 - I)) W.
    for weight, matrix in zip((network[0].weight, network[2].weight), rows, strict=True):
        gram = matrix @ matrix.T
        expected = 0.5 * 4 * (gram - np.diag(np.diag(gram))) @ matrix
        (slope,) = torch.autograd.grad(value, weight, retain_graph=True)
        np.testing.assert_allclose(slope.flatten(1).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_orthogonal_weights_of_any_length_cost_nothing(critic_step):
    linear = nn.Linear(6, 4)
    nn.init.orthogonal_(linear.weight)
    with torch.no_grad():
        linear.weight *= torch.tensor([[1.0], [2.0], [0.0], [5.0]])
    value = OrthogonalRegularisation(weight=1.0)(critic_of(nn.Sequential(linear), critic_step))
    assert float(value.detach()) == pytest.approx(0, abs=1e-9)


def test_transposed_convolutions_have_their_outputs_in_the_second_dimension(critic_step):
    convolution = nn.ConvTranspose2d(3, 5, 2).double()
    rows = convolution.weight.detach().permute(1, 0, 2, 3).flatten(1).numpy()
    value = OrthogonalRegularisation(weight=1.0)(critic_of(nn.Sequential(convolution), critic_step))
    assert float(value.detach()) == pytest.approx(by_loops(rows), rel=1e-10)


@pytest.mark.parametrize("layer", [nn.Linear(3, 4), nn.ConvTranspose2d(3, 4, 2)], ids=["linear", "transposed"])
@pytest.mark.parametrize(
    "normalise",
    [
        nn.utils.parametrizations.spectral_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
    ],
    ids=["spectral", "old_spectral", "weight"],
)
def test_normalised_layers_are_judged_by_the_weights_that_are_trained(layer, normalise, critic_step):
    layer = copy.deepcopy(layer)
    raw = layer.weight.detach().clone()
    rows = raw.transpose(0, 1).flatten(1) if raw.ndim > 2 else raw
    network = nn.Sequential(normalise(layer))
    before = copy.deepcopy(network.state_dict())
    value = OrthogonalRegularisation(weight=1.0)(critic_of(network, critic_step))
    assert float(value.detach()) == pytest.approx(by_loops(rows.numpy()), rel=1e-4)
    assert all(torch.equal(state, before[name]) for name, state in network.state_dict().items())


def test_layers_of_equalised_learning_rate_are_judged_by_the_weights_that_they_apply(critic_step):
    torch.manual_seed(0)
    layer = EqualisedLinear(5, 3, rate=0.01, gain=2.0)
    plain = nn.Linear(5, 3)
    plain.weight.data = torch.stack([layer(row) - layer(torch.zeros(5)) for row in torch.eye(5)], 1).detach()
    penalty = OrthogonalRegularisation(1.0)
    values = [penalty(critic_of(nn.Sequential(network), critic_step)) for network in (layer, plain)]
    torch.testing.assert_close(*values)
    (gradient,) = torch.autograd.grad(values[0], [layer.weight])
    assert gradient.abs().max() > 0


def test_embeddings_frozen_and_repeated_weights_are_not_counted(critic_step):
    linear = nn.Linear(6, 4)
    more = nn.Sequential(
        linear, nn.Sequential(linear), nn.Embedding(5, 6), nn.Linear(6, 4).requires_grad_(False), nn.Linear(4, 1)
    )
    more.append(nn.utils.parametrizations.spectral_norm(nn.Embedding(5, 6)))
    value, alone = (OrthogonalRegularisation()(critic_of(net, critic_step)) for net in (more, nn.Sequential(linear)))
    assert torch.equal(value, alone)


def test_one_class_serves_the_critic_and_the_generator(critic_step):
    penalty = OrthogonalRegularisation(weight=0.3, every=2)
    assert isinstance(penalty, Penalty)
    assert isinstance(penalty, GeneratorPenalty)
    critic, generator = MLPDiscriminator(SPEC, (5,)), MLPGenerator(SPEC, 3, (5,))
    for network, step in (
        (critic, critic_of(critic, critic_step)),
        (generator, generator_step(generator, torch.zeros(2, 3))),
    ):
        rows = [weight.detach().double().numpy() for weight in network.parameters() if weight.ndim == 2]
        penalty.check(network)
        assert float(penalty(step).detach()) == pytest.approx(2 * 0.3 * by_loops(*rows), rel=1e-4)


def test_networks_without_weight_matrices_are_refused():
    with pytest.raises(InputError, match="OrthogonalRegularisation: Sequential has no weight matrices"):
        OrthogonalRegularisation().check(nn.Sequential(nn.Embedding(3, 2), nn.BatchNorm1d(2)))


def test_orthogonal_regularisation_stays_in_float32_under_autocast(critic_step):
    network = nn.Sequential(nn.Linear(64, 64))
    plain = OrthogonalRegularisation()(critic_of(network, critic_step))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(OrthogonalRegularisation()(critic_of(network, critic_step)), plain)
