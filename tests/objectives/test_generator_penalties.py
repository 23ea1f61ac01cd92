"""Path length against explicit Jacobians, orthogonality against loops, and both for the network they are given."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gen.core.context import TrainingContext
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks import MLPDiscriminator, MLPGenerator
from lightning_gen.networks.stylegan2 import EqualisedLinear
from lightning_gen.objectives import (
    CriticTerms,
    GeneratorPenalty,
    GeneratorTerms,
    OrthogonalRegularisation,
    PathLength,
    Penalty,
)

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

    def styles(self, z, labels=None, psi=1.0):
        shift = 0 if labels is None else labels[:, None].to(z)
        return (self.mapping(z) + shift).unflatten(1, (LAYERS, WIDTH))

    def synthesise(self, w, noise=None):
        flat = self.function(torch.einsum("blw,lwp->bp", w, self.layers)) + 0.1 * noise
        return flat.unflatten(1, SPEC.shape)


def terms(network, latent, labels=None):
    return GeneratorTerms(network, latent, None, None, None, labels)


BEGINNING = TrainingContext()


@pytest.fixture
def latent(generator):
    return torch.randn(6, Styled.latent_dim, dtype=torch.float64, generator=generator)


def lengths_by_jacobian(network, latent, draws, labels=None):
    """The lengths (B,) from the whole Jacobian of every image with respect to its styles."""
    z, noise = network.split(latent)
    styles = network.styles(z, labels).detach()
    directions = draws.normal(SPEC.dims).double() / math.sqrt(SPEC.height * SPEC.width)
    lengths = []
    for i in range(len(latent)):
        jacobian = torch.autograd.functional.jacobian(
            lambda w, i=i: network.synthesise(w, noise[i : i + 1]), styles[i : i + 1]
        )
        product = torch.einsum("p,plw->lw", directions[i], jacobian.reshape(SPEC.dims, LAYERS, WIDTH))
        lengths.append(sum(float(row @ row) for row in product) / LAYERS)
    return torch.tensor(lengths, dtype=torch.float64).sqrt()


def test_path_length_against_the_whole_jacobian(latent):
    for labels in (None, torch.arange(6)):
        network, penalty = Styled(), PathLength(weight=1.0, every=1, decay=0.25)
        average = 0.0
        for images_seen in (0, 64, 128):
            context = TrainingContext(images_seen=images_seen)
            lengths = lengths_by_jacobian(network, latent, penalty.draws(context, 6), labels)
            average += 0.25 * (float(lengths.mean()) - average)
            value = penalty(terms(network, latent, labels), context)
            torch.testing.assert_close(value.detach(), (lengths - average).square(), rtol=1e-5, atol=1e-8)
        assert float(penalty.average) == pytest.approx(average, rel=1e-5)


def test_path_length_of_a_linear_generator_is_the_length_of_its_matrix(latent):
    network = Styled(function=nn.Identity())
    penalty = PathLength(weight=1.0, every=1, decay=1.0)
    penalty(terms(network, latent[:1].expand(20000, -1)), BEGINNING)
    # E |J^T y|^2 = |J|_F^2 / (H W), averaged over layers; lengths hardly vary about their root mean square.
    expected = math.sqrt(float(network.layers.detach().square().sum()) / (SPEC.height * SPEC.width * LAYERS))
    with torch.no_grad():
        y = penalty.draws(BEGINNING, 20000).normal(SPEC.dims).double() / math.sqrt(12)
        lengths = torch.einsum("lwp,bp->blw", network.layers, y).square().sum(2).mean(1).sqrt()
    assert float(lengths.square().mean().sqrt()) == pytest.approx(expected, rel=0.01)
    assert float(penalty.average) == pytest.approx(float(lengths.mean()), rel=1e-5)


def test_gradient_of_path_length_against_finite_differences(latent, given_ranks):
    network, names = Styled(), ("mapping.weight", "mapping.bias", "layers")
    # The mean of the lengths is a constant: a fixed number stands for it.
    context = TrainingContext(ranks=given_ranks(0, 1, lambda mean: torch.full_like(mean, 0.9)))

    def penalty_of(*weights):
        with torch.nn.utils.stateless._reparametrize_module(network, dict(zip(names, weights, strict=True))):
            penalty = PathLength(weight=2.0, every=1, decay=0.5).double()
            penalty.average.fill_(0.3)
            return penalty(terms(network, latent), context).mean()

    weights = tuple(network.get_parameter(name).detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(penalty_of, weights)


def test_path_length_averages_over_ranks(latent, given_ranks):
    network, whole = Styled(), PathLength()
    value = whole(terms(network, latent), BEGINNING).detach()
    lengths = lengths_by_jacobian(network, latent, whole.draws(BEGINNING, 6))
    parts = []
    for rank in range(2):
        own, penalty = [], PathLength()

        def average(mean, own=own):
            own.append(float(mean))
            return lengths.mean()

        context = TrainingContext(ranks=given_ranks(rank, 2, average))
        rows = context.ranks.rows(3)
        parts.append(penalty(terms(network, latent[rows]), context).detach())
        assert own == [pytest.approx(float(lengths[rows].mean()))]
        torch.testing.assert_close(penalty.average, whole.average)
    torch.testing.assert_close(torch.cat(parts), value, rtol=1e-5, atol=1e-8)


def test_path_length_stays_in_float32_under_autocast(latent):
    network = Styled().float()
    plain = PathLength()(terms(network, latent.float()), BEGINNING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = PathLength()(terms(network, latent.float()), BEGINNING)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)


def test_path_length_of_a_flat_generator_has_finite_gradients(latent):
    network = Styled()
    nn.init.zeros_(network.layers)
    (slope,) = torch.autograd.grad(PathLength()(terms(network, latent), BEGINNING).mean(), network.layers)
    assert torch.isfinite(slope).all()


def test_path_length_remembers_in_place_and_in_its_state(latent):
    network, old, new = Styled(), PathLength(), PathLength()
    place = old.average.data_ptr()
    old(terms(network, latent), BEGINNING)
    assert old.average.data_ptr() == place
    assert float(old.average) > 0
    new.load_state_dict(old.state_dict())
    later = TrainingContext(images_seen=64)
    assert torch.equal(old(terms(network, latent), later), new(terms(network, latent), later))


def test_generators_without_styles_are_refused_by_name():
    PathLength().check(Styled(), SPEC)
    with pytest.raises(InputError, match=r"^PathLength: MLPGenerator has no styles, split\(\), styles\(\) and synth"):
        PathLength().check(MLPGenerator(SPEC, latent_dim=3, widths=()), SPEC)


# --- orthogonality ------------------------------------------------------------------------------------------------


def of_network(network, **options):
    """The penalty of a critic."""
    return OrthogonalRegularisation(**options)(CriticTerms(network, None, None, None), BEGINNING)


def by_loops(*matrices):
    """Sum over pairs of different rows of their squared products."""
    return sum(
        float(a @ b) ** 2 for matrix in matrices for i, a in enumerate(matrix) for j, b in enumerate(matrix) if i != j
    )


def test_orthogonal_regularisation_is_its_formula():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(7, 5, bias=False)).double()
    rows = [network[0].weight.detach().flatten(1).numpy(), network[2].weight.detach().numpy()]
    value = of_network(network, weight=0.5)
    assert value.shape == ()
    assert float(value.detach()) == pytest.approx(0.5 * by_loops(*rows), rel=1e-10)
    # The derivative that Brock et al. apply: 4 (W W^T o (1 - I)) W.
    for weight, matrix in zip((network[0].weight, network[2].weight), rows, strict=True):
        gram = matrix @ matrix.T
        expected = 0.5 * 4 * (gram - np.diag(np.diag(gram))) @ matrix
        (slope,) = torch.autograd.grad(value, weight, retain_graph=True)
        np.testing.assert_allclose(slope.flatten(1).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_orthogonal_weights_of_any_length_cost_nothing():
    linear = nn.Linear(6, 4)
    nn.init.orthogonal_(linear.weight)
    with torch.no_grad():
        linear.weight *= torch.tensor([[1.0], [2.0], [0.0], [5.0]])
    value = of_network(nn.Sequential(linear), weight=1.0)
    assert float(value.detach()) == pytest.approx(0, abs=1e-9)


def test_transposed_convolutions_have_their_outputs_in_the_second_dimension():
    convolution = nn.ConvTranspose2d(3, 5, 2).double()
    rows = convolution.weight.detach().permute(1, 0, 2, 3).flatten(1).numpy()
    value = of_network(nn.Sequential(convolution), weight=1.0)
    assert float(value.detach()) == pytest.approx(by_loops(rows), rel=1e-10)


def test_normalised_layers_are_judged_by_the_weights_that_are_trained():
    for layer in (nn.Linear(3, 4), nn.ConvTranspose2d(3, 4, 2)):
        raw = layer.weight.detach().clone()
        rows = raw.transpose(0, 1).flatten(1) if raw.ndim > 2 else raw
        for normalise in (
            nn.utils.parametrizations.spectral_norm,
            nn.utils.spectral_norm,
            nn.utils.parametrizations.weight_norm,
        ):
            network = nn.Sequential(normalise(copy.deepcopy(layer)))
            before = copy.deepcopy(network.state_dict())
            value = of_network(network, weight=1.0)
            assert float(value.detach()) == pytest.approx(by_loops(rows.numpy()), rel=1e-4)
            assert all(torch.equal(state, before[name]) for name, state in network.state_dict().items())


def test_layers_of_equalised_learning_rate_are_judged_by_the_weights_that_they_apply():
    torch.manual_seed(0)
    layer = EqualisedLinear(5, 3, rate=0.01, gain=2.0)
    plain = nn.Linear(5, 3)
    plain.weight.data = torch.stack([layer(row) - layer(torch.zeros(5)) for row in torch.eye(5)], 1).detach()
    values = [of_network(nn.Sequential(network), weight=1.0) for network in (layer, plain)]
    torch.testing.assert_close(*values)
    (gradient,) = torch.autograd.grad(values[0], [layer.weight])
    assert gradient.abs().max() > 0


def test_embeddings_frozen_and_repeated_weights_are_not_counted():
    linear = nn.Linear(6, 4)
    more = nn.Sequential(
        linear, nn.Sequential(linear), nn.Embedding(5, 6), nn.Linear(6, 4).requires_grad_(False), nn.Linear(4, 1)
    )
    more.append(nn.utils.parametrizations.spectral_norm(nn.Embedding(5, 6)))
    value, alone = (of_network(net) for net in (more, nn.Sequential(linear)))
    assert torch.equal(value, alone)


def test_one_class_serves_the_critic_and_the_generator():
    penalty = OrthogonalRegularisation(weight=0.3, every=2)
    assert isinstance(penalty, Penalty)
    assert isinstance(penalty, GeneratorPenalty)
    critic, generator = MLPDiscriminator(SPEC, (5,)), MLPGenerator(SPEC, 3, (5,))
    for given in (
        CriticTerms(critic, None, None, None),
        GeneratorTerms(generator, torch.zeros(2, 3), critic, None, None, None),
    ):
        rows = [weight.detach().double().numpy() for weight in given.network.parameters() if weight.ndim == 2]
        penalty.check(given.network, SPEC)
        assert float(penalty(given, BEGINNING).detach()) == pytest.approx(2 * 0.3 * by_loops(*rows), rel=1e-4)


def test_networks_without_weight_matrices_are_refused():
    with pytest.raises(InputError, match="OrthogonalRegularisation: Sequential has no weight matrices"):
        OrthogonalRegularisation().check(nn.Sequential(nn.Embedding(3, 2), nn.BatchNorm1d(2)), SPEC)


def test_orthogonal_regularisation_stays_in_float32_under_autocast():
    network = nn.Sequential(nn.Linear(64, 64))
    plain = of_network(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(of_network(network), plain)
