"""R1 and R2 against closed forms and autograd; the lazy schedule; float32 under autocast."""

import copy

import pytest
import torch
from torch import nn

from lightning_gen.errors import InputError
from lightning_gen.networks import MLPDiscriminator
from lightning_gen.objectives import R1, R2, Penalty
from lightning_gen.spec import ImageSpec

SPEC = ImageSpec(channels=1, height=3, width=2)
PENALTIES = [R1, R2]


class Linear(nn.Module):
    """D(x) = w.x"""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, dtype=torch.float64))

    def forward(self, images, labels=None):
        return images.flatten(1) @ self.weight


class Quadratic(nn.Module):
    """D(x) = x.A x / 2 + b.x with a symmetric A"""

    def __init__(self):
        super().__init__()
        half = torch.randn(6, 6, dtype=torch.float64)
        self.a = nn.Parameter(half + half.T)
        self.b = nn.Parameter(torch.randn(6, dtype=torch.float64))

    def forward(self, images, labels=None):
        x = images.flatten(1)
        return torch.einsum("bi,ij,bj->b", x, self.a, x) / 2 + x @ self.b


class PerClass(nn.Module):
    """D(x, y) = w_y.x"""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, dtype=torch.float64))

    def forward(self, images, labels):
        return (images.flatten(1) * self.weight[labels]).sum(1)


@pytest.fixture
def images(generator):
    """Real and generated images, in float64."""
    return tuple(torch.randn(2, 5, *SPEC.shape, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_linear_critic(penalty, images):
    critic = Linear()
    value = penalty()(critic, *images, None)
    half_square = critic.weight.detach().square().sum() / 2
    torch.testing.assert_close(value.detach(), half_square.expand(5))
    (gradient,) = torch.autograd.grad(value.mean(), critic.weight)
    torch.testing.assert_close(gradient, critic.weight.detach())


@pytest.mark.parametrize(("penalty", "place"), [(R1, 0), (R2, 1)])
def test_quadratic_critic_is_judged_where_the_penalty_says(penalty, place, images):
    critic = Quadratic()
    x = images[place].flatten(1)
    slope = (x @ critic.a + critic.b).detach()
    value = penalty()(critic, *images, None)
    torch.testing.assert_close(value.detach(), slope.square().sum(1) / 2)
    # Through the double backward: d/db = A x + b, d/dA = (A x + b) x^T up to the symmetry of A.
    by_a, by_b = torch.autograd.grad(value.sum(), (critic.a, critic.b))
    torch.testing.assert_close(by_b, slope.sum(0))
    torch.testing.assert_close((by_a + by_a.T) / 2, (slope.T @ x + x.T @ slope) / 2)


@pytest.mark.parametrize(("penalty", "place"), [(R1, 0), (R2, 1)])
def test_perceptron_critic_against_the_jacobian_of_each_image(penalty, place, images):
    critic = MLPDiscriminator(SPEC, widths=(7, 5)).double()
    jacobian = torch.autograd.functional.jacobian(critic, images[place])  # (B, B, C, H, W)
    own = torch.stack([jacobian[i, i] for i in range(5)])
    torch.testing.assert_close(penalty()(critic, *images, None).detach(), own.flatten(1).square().sum(1) / 2)


def test_gradient_of_the_penalty_against_finite_differences(images):
    critic = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def penalty_of(*weights):
        named = dict(zip(dict(critic.named_parameters()), weights, strict=True))
        return R1()(lambda x, labels: torch.func.functional_call(critic, named, x).squeeze(1), *images, None).mean()

    weights = tuple(p.detach().clone().requires_grad_() for p in critic.parameters())
    assert torch.autograd.gradcheck(penalty_of, weights)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_labels_reach_the_critic(penalty, images):
    critic, labels = PerClass(), torch.tensor([0, 2, 1, 1, 0])
    expected = critic.weight.detach()[labels].square().sum(1) / 2
    torch.testing.assert_close(penalty()(critic, *images, labels).detach(), expected)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_weight_and_permutation(penalty, images):
    critic = Quadratic()
    one = penalty(weight=1.0)(critic, *images, None).detach()
    torch.testing.assert_close(penalty(weight=0.3)(critic, *images, None).detach(), 0.3 * one)
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = penalty()(critic, images[0][order], images[1][order], None).detach()
    torch.testing.assert_close(permuted, one[order])


@pytest.mark.parametrize("every", [1, 3, 16])
def test_lazy_penalty_has_the_eager_weight_on_average(every, images):
    critic, steps = Linear(), 48
    lazy, eager = R1(weight=0.7, every=every), R1(weight=0.7)
    assert lazy.is_due(0)
    total = sum(lazy(critic, *images, None).mean() for step in range(steps) if lazy.is_due(step))
    torch.testing.assert_close(total / steps, eager(critic, *images, None).mean())
    assert sum(lazy.is_due(step) for step in range(steps)) == steps // every


@pytest.mark.parametrize("penalty", PENALTIES)
def test_bfloat16_autocast_leaves_the_penalty_in_float32(penalty, images):
    critic = MLPDiscriminator(SPEC, widths=(64, 64))
    real, fake = (x.float() for x in images)
    exact = penalty()(critic, real, fake, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert critic(real).dtype == torch.bfloat16  # the autocast is really on
        inside = penalty()(critic, real, fake.bfloat16().float(), None)
        same_images = penalty()(critic, real, fake, None)
        of_half = penalty()(critic, real.bfloat16(), fake.bfloat16(), None)
    assert torch.equal(same_images, exact)
    in_double = penalty()(copy.deepcopy(critic).double(), real.double(), fake.double(), None)
    torch.testing.assert_close(exact.double(), in_double, rtol=1e-5, atol=0)
    assert inside.dtype == of_half.dtype == torch.float32
    weight = next(critic.parameters())
    assert torch.equal(*(torch.autograd.grad(value.mean(), weight)[0] for value in (exact, same_images)))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties_work_where_gradients_are_off_and_leave_images_alone(penalty, images):
    critic = Quadratic()
    expected = penalty()(critic, *images, None)
    with torch.no_grad():
        assert torch.equal(penalty()(critic, *images, None), expected)
    assert not any(x.requires_grad or x.grad is not None for x in images)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, "weight must be at least 0, got -0.1"),
        ({"weight": float("nan")}, "weight must be at least 0, got nan"),
        ({"every": 0}, "every must be at least 1 critic step, got 0"),
        ({"every": -2}, "every must be at least 1 critic step, got -2"),
    ],
)
def test_bad_arguments_are_refused_by_name(penalty, arguments, message):
    with pytest.raises(InputError, match=f"{penalty.__name__}: {message}"):
        penalty(**arguments)


def test_weight_zero_is_allowed_and_the_base_is_abstract(images):
    assert torch.equal(R1(weight=0.0)(Linear(), *images, None).detach(), torch.zeros(5, dtype=torch.float64))
    with pytest.raises(TypeError):
        Penalty()
