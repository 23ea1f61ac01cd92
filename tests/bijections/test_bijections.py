"""What every bijection keeps to, for events of any shape. A new one joins by a row in ROWS.

Log-determinants are compared with autograd's Jacobian in float64.
"""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from lightning_gen.bijections import AffineAutoregressive, Chain, ElementwiseAffine, Reverse
from lightning_gen.core.errors import InputError

CONTEXT = 3
EVENTS = [(1,), (5,), (2, 2, 3)]


def chain(event: tuple[int, ...], context_dim: int) -> Chain:
    first, second = (AffineAutoregressive(event, 16, context_dim) for _ in range(2))
    return Chain([first, Reverse(event), second])


# (event shape, length of the context) -> bijection.
ROWS = {
    "autoregressive": lambda event, context_dim: AffineAutoregressive(event, 16, context_dim),
    "autoregressive-narrow": lambda event, context_dim: AffineAutoregressive(event, 2, context_dim),
    "elementwise": lambda event, context_dim: ElementwiseAffine(event),
    "reverse": lambda event, context_dim: Reverse(event),
    "chain": chain,
}


def shaken(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Return the module in float64 with weights far from those of the start, where every map is nearly linear."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    for parameter in module.parameters():
        parameter.data += 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


@pytest.fixture(params=[(name, event, c) for name in ROWS for event in EVENTS for c in (0, CONTEXT)], ids=str)
def case(request):
    name, event, context_dim = request.param
    generator = torch.Generator().manual_seed(1)
    bijection = shaken(ROWS[name](event, context_dim))
    x = torch.randn(4, 6, *event, generator=generator, dtype=torch.float64)
    context = torch.randn(6, context_dim, generator=generator, dtype=torch.float64) if context_dim else None
    return bijection, x, context


def test_inverse_undoes_forward_and_negates_its_log_determinant(case):
    bijection, x, context = case
    y, log_det = bijection(x, context)
    assert log_det.shape == (4, 6)
    assert y.shape == (4, 6, *bijection.output_shape)
    assert math.prod(bijection.output_shape) == bijection.dims == x[0, 0].numel()
    back, inverse_log_det = bijection.inverse(y, context)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)
    forth, _ = bijection(bijection.inverse(y + 1e-3, context)[0], context)
    torch.testing.assert_close(forth, y + 1e-3, rtol=1e-9, atol=1e-9)


def test_log_determinants_are_those_of_autograds_jacobian(case):
    bijection, x, context = case
    for mapping in (bijection.forward, bijection.inverse):
        _, log_det = mapping(x, context)
        for k, b in ((0, 0), (3, 5)):
            own = None if context is None else context[b]
            full = jacobian(lambda event: mapping(event, own)[0], x[k, b])  # noqa: B023
            expected = torch.linalg.slogdet(full.reshape(bijection.dims, bijection.dims))[1]
            torch.testing.assert_close(log_det[k, b], expected, rtol=1e-9, atol=1e-9)


def test_events_do_not_see_each_other(case):
    bijection, x, context = case
    y, log_det = bijection(x, context)
    order = torch.randperm(4)
    mixed, mixed_log_det = bijection(x[order], context)
    torch.testing.assert_close(mixed, y[order])
    torch.testing.assert_close(mixed_log_det, log_det[order])
    alone, alone_log_det = bijection(x[2, 4], None if context is None else context[4])
    torch.testing.assert_close(alone, y[2, 4])
    torch.testing.assert_close(alone_log_det, log_det[2, 4])


@pytest.mark.parametrize("name", ROWS)
def test_events_of_another_shape_are_refused(name):
    with pytest.raises(InputError, match=r"events are \(2, 3\), got \(4, 3, 2\)"):
        ROWS[name]((2, 3), 0)(torch.zeros(4, 3, 2))
    with pytest.raises(InputError, match=r"event_shape\[1\] must be a positive integer, got 0"):
        ROWS[name]((2, 0), 0)


def test_a_chain_refuses_maps_that_do_not_fit():
    with pytest.raises(InputError, match=r"Chain: Reverse takes \(3,\), and ElementwiseAffine gives \(2,\)"):
        Chain([ElementwiseAffine(2), Reverse(3)])
    with pytest.raises(InputError, match="at least one map"):
        Chain([])


# --- the autoregressive map -------------------------------------------------------------------------------------------


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


def test_the_start_is_near_the_identity():
    y, log_det = AffineAutoregressive(6)(torch.zeros(6))
    assert float(y.detach().abs().max()) < 0.05
    assert float(log_det.detach()) == pytest.approx(-6 * math.log1p(math.exp(-2)), abs=0.05)


def test_what_cannot_be_is_refused():
    for arguments, name in (((0,), "event_shape"), ((2, 0), "width"), ((2, 4, -1), "context_dim")):
        with pytest.raises(InputError, match=f"AffineAutoregressive.{name}"):
            AffineAutoregressive(*arguments)
    with pytest.raises(InputError, match="expected a context of length 3"):
        AffineAutoregressive(2, 4, 3)(torch.zeros(1, 2))
