"""Bijections: inverses, log-determinants against autograd's Jacobian, and what each coordinate may depend on."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from lightning_gen.bijections import AffineAutoregressive, Chain, ElementwiseAffine, Reverse
from lightning_gen.errors import InputError

CONTEXT = 3


def shaken(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Return the module in float64 with weights far from those of the start, where every map is nearly linear."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    for parameter in module.parameters():
        parameter.data += 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def chain(dims: int, context_dim: int) -> Chain:
    first, second = (AffineAutoregressive(dims, 16, context_dim) for _ in range(2))
    return Chain([first, Reverse(), second])


KINDS = {
    "step": lambda dims, context_dim: AffineAutoregressive(dims, 16, context_dim),
    "narrow": lambda dims, context_dim: AffineAutoregressive(dims, 2, context_dim),
    "elementwise": lambda dims, context_dim: ElementwiseAffine(dims),
    "reverse": lambda dims, context_dim: Reverse(),
    "chain": chain,
}


@pytest.fixture(params=[(kind, dims, c) for kind in KINDS for dims in (1, 2, 5) for c in (0, CONTEXT)], ids=str)
def case(request):
    kind, dims, context_dim = request.param
    generator = torch.Generator().manual_seed(1)
    bijection = shaken(KINDS[kind](dims, context_dim))
    x = torch.randn(4, 6, dims, generator=generator, dtype=torch.float64)
    context = torch.randn(6, context_dim, generator=generator, dtype=torch.float64) if context_dim else None
    return bijection, x, context


def test_inverse_undoes_forward_and_negates_its_log_determinant(case):
    bijection, x, context = case
    y, log_det = bijection(x, context)
    assert log_det.shape == x.shape[:-1]
    back, inverse_log_det = bijection.inverse(y, context)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)
    forth, _ = bijection(bijection.inverse(x, context)[0], context)
    torch.testing.assert_close(forth, x, rtol=1e-9, atol=1e-9)


def test_log_determinants_are_those_of_autograds_jacobian(case):
    bijection, x, context = case
    for mapping in (bijection.forward, bijection.inverse):
        _, log_det = mapping(x, context)
        for k, b in ((0, 0), (3, 5)):
            row_context = None if context is None else context[b]
            full = jacobian(lambda row: mapping(row, row_context)[0], x[k, b])  # noqa: B023
            expected = torch.linalg.slogdet(full)[1]
            torch.testing.assert_close(log_det[k, b], expected, rtol=1e-9, atol=1e-9)


def test_gradients_reach_parameters_and_context_as_finite_differences_say():
    bijection = shaken(AffineAutoregressive(3, 4, CONTEXT))
    x, context = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, CONTEXT, dtype=torch.float64)
    x.requires_grad_(), context.requires_grad_()
    assert torch.autograd.gradcheck(bijection, (x, context))
    assert torch.autograd.gradcheck(bijection.inverse, (x, context))


@pytest.mark.parametrize("context_dim", [0, CONTEXT])
def test_a_coordinate_depends_on_itself_and_on_all_before_it(context_dim):
    bijection = shaken(AffineAutoregressive(5, 32, context_dim))
    context = torch.randn(context_dim, dtype=torch.float64) if context_dim else None
    full = jacobian(lambda row: bijection(row, context)[0], torch.randn(5, dtype=torch.float64))
    assert bool((full.triu(1) == 0).all())
    assert bool((full.tril()[torch.tril_indices(5, 5).unbind()] != 0).all())


@pytest.mark.parametrize("dims", [1, 4])
def test_every_coordinate_heeds_the_context(dims):
    bijection = shaken(AffineAutoregressive(dims, 8, CONTEXT))
    x, context = torch.randn(dims, dtype=torch.float64), torch.randn(CONTEXT, dtype=torch.float64)
    by_context = jacobian(lambda given: bijection(x, given)[0], context)
    assert bool((by_context != 0).all())


def test_the_map_is_the_gated_one_of_its_hidden_layer():
    """The equation of the class, coordinate by coordinate, with loops in place of masks."""
    bijection = shaken(AffineAutoregressive(3, 6, 0))
    x = torch.randn(3, dtype=torch.float64)
    first, last = bijection.first, bijection.last
    expected = []
    for i in range(3):
        shift, gate = last.bias[i], last.bias[3 + i]
        for h in range(6):
            degree = h % 2 + 1
            if degree <= i:
                inside = first.bias[h] + sum(first.weight[h, j] * x[j] for j in range(degree))
                unit = inside if inside > 0 else torch.expm1(inside)
                shift, gate = shift + last.weight[i, h] * unit, gate + last.weight[3 + i, h] * unit
        s = 1 / (1 + torch.exp(-gate))
        expected.append((s * x[i] + (1 - s) * shift, s.log()))
    y, log_det = bijection(x)
    torch.testing.assert_close(y, torch.stack([value for value, _ in expected]))
    torch.testing.assert_close(log_det, torch.stack([value for _, value in expected]).sum())


def test_a_chain_multiplies_jacobians_and_rows_do_not_see_each_other():
    bijection = shaken(chain(4, CONTEXT))
    x, context = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, CONTEXT, dtype=torch.float64)
    first, reverse, second = bijection.maps
    middle = reverse(first(x, context)[0], context)[0]
    torch.testing.assert_close(bijection(x, context)[0], second(middle, context)[0])
    product = jacobian(lambda r: second(r, context[0])[0], middle[0]) @ jacobian(
        lambda r: reverse(first(r, context[0])[0])[0], x[0]
    )
    torch.testing.assert_close(jacobian(lambda r: bijection(r, context[0])[0], x[0]), product)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(bijection(x[order], context[order])[0], bijection(x, context)[0][order])


def test_the_start_is_near_the_identity():
    y, log_det = AffineAutoregressive(6)(torch.zeros(6))
    assert float(y.detach().abs().max()) < 0.05
    assert float(log_det.detach()) == pytest.approx(-6 * math.log1p(math.exp(-2)), abs=0.05)


def test_what_cannot_be_is_refused():
    for arguments in ((0,), (2, 0), (2, 4, -1)):
        with pytest.raises(InputError, match="dims and width must be at least 1 and context_dim at least 0"):
            AffineAutoregressive(*arguments)
    with pytest.raises(InputError, match="expected a context of length 3"):
        AffineAutoregressive(2, 4, 3)(torch.zeros(1, 2))
