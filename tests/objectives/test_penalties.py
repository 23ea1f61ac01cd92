"""Penalties on the critic against closed forms and autograd; the lazy schedule; float32 under autocast; ranks."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gen.draw import Draw
from lightning_gen.errors import InputError
from lightning_gen.networks import MLPDiscriminator
from lightning_gen.objectives import (
    DRAGAN,
    R1,
    R2,
    WGANGP,
    Consistency,
    CriticAugmentation,
    DiffAugment,
    LeCam,
    OrthogonalRegularisation,
    PathLength,
    Penalty,
)
from lightning_gen.spec import ImageSpec

SPEC = ImageSpec(channels=1, height=3, width=2)
ZERO_CENTRED = [R1, R2]
ONE_CENTRED = [WGANGP, DRAGAN]
GRADIENT = ZERO_CENTRED + ONE_CENTRED


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


def places(penalty, real, fake, draw):
    """Where each gradient penalty looks, flat (B, 6), written without its code."""
    if isinstance(penalty, R1):
        return real.flatten(1)
    if isinstance(penalty, R2):
        return fake.flatten(1)
    if isinstance(penalty, WGANGP):
        share = draw.uniform(1).double()
        return share * real.flatten(1) + (1 - share) * fake.flatten(1)
    return real.flatten(1) + penalty.std * draw.normal(6).double()


@pytest.mark.parametrize("penalty", ZERO_CENTRED)
def test_zero_centred_penalties_of_a_linear_critic(penalty, images, critic_step):
    critic = Linear()
    value = penalty()(critic_step(critic, *images))
    half_square = critic.weight.detach().square().sum() / 2
    torch.testing.assert_close(value.detach(), half_square.expand(5))
    (gradient,) = torch.autograd.grad(value.mean(), critic.weight)
    torch.testing.assert_close(gradient, critic.weight.detach())


@pytest.mark.parametrize("penalty", ONE_CENTRED)
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_one_centred_penalties_of_a_linear_critic(penalty, target, images, critic_step):
    critic = Linear()
    value = penalty(weight=1.0, target=target)(critic_step(critic, *images))
    w = critic.weight.detach()
    torch.testing.assert_close(value.detach(), (w.norm() - target).square().expand(5))
    (gradient,) = torch.autograd.grad(value.mean(), critic.weight)
    torch.testing.assert_close(gradient, 2 * (w.norm() - target) * w / w.norm())


@pytest.mark.parametrize("penalty", ONE_CENTRED)
def test_one_centred_penalties_have_a_gradient_at_a_flat_critic(penalty, images, critic_step):
    critic = Linear()
    nn.init.zeros_(critic.weight)
    value = penalty(weight=1.0)(critic_step(critic, *images))
    torch.testing.assert_close(value.detach(), torch.ones(5, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.mean(), critic.weight)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("penalty", GRADIENT)
def test_quadratic_critic_is_judged_where_the_penalty_says(penalty, images, critic_step):
    critic, penalty = Quadratic(), penalty(weight=1.0)
    x = places(penalty, *images, Draw(0, 640, 5))
    slope = (x @ critic.a + critic.b).detach()
    value = penalty(critic_step(critic, *images, draw=Draw(0, 640, 5)))
    if type(penalty) in ZERO_CENTRED:
        expected, by_slope = slope.square().sum(1) / 2, slope
    else:
        length = slope.norm(dim=1)
        expected, by_slope = (length - 1).square(), slope * (2 * (length - 1) / length)[:, None]
    torch.testing.assert_close(value.detach(), expected)
    # Through the double backward: d slope / db = 1, and d slope / dA = x^T up to the symmetry of A.
    by_a, by_b = torch.autograd.grad(value.sum(), (critic.a, critic.b))
    torch.testing.assert_close(by_b, by_slope.sum(0))
    torch.testing.assert_close((by_a + by_a.T) / 2, (by_slope.T @ x + x.T @ by_slope) / 2)


@pytest.mark.parametrize("penalty", GRADIENT)
def test_perceptron_critic_against_the_jacobian_of_each_image(penalty, images, critic_step):
    critic, penalty = MLPDiscriminator(SPEC, widths=(7, 5)).double(), penalty(weight=1.0)
    x = places(penalty, *images, Draw(0, 0, 5)).view(5, *SPEC.shape)
    jacobian = torch.autograd.functional.jacobian(critic, x)  # (B, B, C, H, W)
    length = torch.stack([jacobian[i, i] for i in range(5)]).flatten(1).norm(dim=1)
    expected = length.square() / 2 if type(penalty) in ZERO_CENTRED else (length - 1).square()
    torch.testing.assert_close(penalty(critic_step(critic, *images)).detach(), expected)


@pytest.mark.parametrize("penalty", GRADIENT)
def test_gradient_of_the_penalty_against_finite_differences(penalty, images, critic_step):
    critic = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def penalty_of(*weights):
        named = dict(zip(dict(critic.named_parameters()), weights, strict=True))
        step = critic_step(lambda x, labels: torch.func.functional_call(critic, named, x).squeeze(1), *images)
        return penalty()(step).mean()

    weights = tuple(p.detach().clone().requires_grad_() for p in critic.parameters())
    assert torch.autograd.gradcheck(penalty_of, weights)


@pytest.mark.parametrize("penalty", GRADIENT)
def test_labels_reach_the_critic(penalty, images, critic_step):
    critic, labels = PerClass(), torch.tensor([0, 2, 1, 1, 0])
    length = critic.weight.detach()[labels].norm(dim=1)
    expected = length.square() / 2 if penalty in ZERO_CENTRED else (length - 1).square()
    torch.testing.assert_close(penalty(weight=1.0)(critic_step(critic, *images, labels)).detach(), expected)


@pytest.mark.parametrize("penalty", [*GRADIENT, LeCam, Consistency])
def test_weight_and_laziness_multiply(penalty, images, critic_step):
    critic = Quadratic()

    def value(**options):  # a new penalty and draw each time: LeCam remembers
        return penalty(**options)(critic_step(critic, *images)).detach()

    one = value(weight=1.0)
    assert one.shape == (5,)
    torch.testing.assert_close(value(weight=0.3), 0.3 * one)
    torch.testing.assert_close(value(weight=0.3, every=16), 16 * 0.3 * one)
    assert not value(weight=0.0).any()


@pytest.mark.parametrize("penalty", ZERO_CENTRED)
def test_permuting_images_permutes_the_penalty(penalty, images, critic_step):
    critic, order = Quadratic(), torch.tensor([3, 0, 4, 2, 1])
    one = penalty()(critic_step(critic, *images)).detach()
    permuted = penalty()(critic_step(critic, images[0][order], images[1][order])).detach()
    torch.testing.assert_close(permuted, one[order])


@pytest.mark.parametrize("every", [1, 3, 16])
def test_lazy_penalty_has_the_eager_weight_on_average(every, images, critic_step):
    step, steps = critic_step(Linear(), *images), 48
    lazy, eager = R1(weight=0.7, every=every), R1(weight=0.7)
    assert lazy.is_due(0)
    total = sum(lazy(step).mean() for number in range(steps) if lazy.is_due(number))
    torch.testing.assert_close(total / steps, eager(step).mean())
    assert sum(lazy.is_due(number) for number in range(steps)) == steps // every


@pytest.mark.parametrize("penalty", GRADIENT)
def test_bfloat16_autocast_leaves_the_penalty_in_float32(penalty, images, critic_step):
    critic, penalty = MLPDiscriminator(SPEC, widths=(64, 64)), penalty()
    real, fake = (x.float() for x in images)
    exact = penalty(critic_step(critic, real, fake))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert critic(real).dtype == torch.bfloat16  # the autocast is really on
        same_images = penalty(critic_step(critic, real, fake))
        of_half = penalty(critic_step(critic, real.bfloat16(), fake.bfloat16()))
    assert torch.equal(same_images, exact)
    in_double = penalty(critic_step(copy.deepcopy(critic).double(), real.double(), fake.double()))
    torch.testing.assert_close(exact.double(), in_double, rtol=1e-4, atol=1e-6)
    assert of_half.dtype == torch.float32
    torch.testing.assert_close(of_half, exact, rtol=0.05, atol=0.05)
    weight = next(critic.parameters())
    assert torch.equal(*(torch.autograd.grad(value.mean(), weight)[0] for value in (exact, same_images)))


@pytest.mark.parametrize("penalty", GRADIENT)
def test_penalties_work_where_gradients_are_off_and_leave_images_alone(penalty, images, critic_step):
    critic = Quadratic()
    expected = penalty()(critic_step(critic, *images))
    step = critic_step(critic, *images)
    with torch.no_grad():
        torch.testing.assert_close(penalty()(step).detach(), expected.detach())
    assert not any(x.requires_grad or x.grad is not None for x in images)
    assert all(weight.grad is None for weight in critic.parameters())


def of_ranks(penalty, critic, real, fake, critic_step, ranks):
    """The penalty's values (B,), with the batch cut in so many parts, after two steps."""
    penalties, size = [copy.deepcopy(penalty) for _ in range(ranks)], len(real) // ranks
    for position in (0, 64):
        rows = [slice(rank * size, (rank + 1) * size) for rank in range(ranks)]
        means = [torch.stack([critic(x[own]).float().mean().detach() for x in (real, fake)]) for own in rows]
        average = torch.stack(means).mean(0)
        values = [
            penalties[rank](
                critic_step(
                    critic,
                    real[own],
                    fake[own],
                    draw=Draw(0, position, size, rank, ranks),
                    mean=lambda value, average=average: average.to(value),
                )
            )
            for rank, own in enumerate(rows)
        ]
    buffers = [list(part.buffers()) for part in penalties]
    assert all(torch.equal(a, b) for own in buffers for a, b in zip(own, buffers[0], strict=True))
    return torch.cat(values).detach()


@pytest.mark.parametrize("penalty", [*GRADIENT, LeCam, Consistency])
def test_values_do_not_depend_on_how_ranks_cut_the_batch(penalty, critic_step, generator):
    real, fake = torch.randn(2, 8, 1, 8, 8, generator=generator)
    critic = MLPDiscriminator(ImageSpec(1, 8, 8), widths=(7, 5))
    whole, cut = (of_ranks(penalty(), critic, real, fake, critic_step, ranks) for ranks in (1, 4))
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-7)


def test_interpolates_lie_between_and_dragan_around(critic_step):
    spec = ImageSpec(1, 20, 20)
    real = torch.zeros(300, *spec.shape, dtype=torch.float64)
    seen = {}

    class Watching(nn.Module):
        def forward(self, images, labels):
            seen["images"] = images.detach()
            return images.flatten(1).square().sum(1)

    for penalty in (WGANGP(), DRAGAN(std=0.3)):
        penalty(critic_step(Watching(), real, real + 1))
        seen[type(penalty)] = seen["images"]
    shares = 1 - seen[WGANGP].flatten(1)
    assert torch.equal(shares.amin(1), shares.amax(1))  # one number for each image
    assert 0 <= shares.min() < 0.02 < 0.98 < shares.max() <= 1
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(seen[DRAGAN].std()) == pytest.approx(0.3, rel=0.01)
    assert float(seen[DRAGAN].mean()) == pytest.approx(0, abs=0.01)


def test_lecam_is_its_formula_with_averages_kept_by_hand(images, critic_step):
    penalty, gamma = LeCam(weight=0.5, decay=0.9), 0.9
    totals, weight = np.zeros(2), 0.0
    for number in range(4):
        torch.manual_seed(number)
        critic = Quadratic()
        real, fake = (critic(x).detach().numpy() for x in images)
        totals = gamma * totals + (1 - gamma) * np.array([real.mean(), fake.mean()])
        weight = gamma * weight + (1 - gamma)
        of_real, of_fake = totals / weight
        expected = 0.5 * ((real - of_fake) ** 2 + (fake - of_real) ** 2)
        value = penalty(critic_step(critic, *images))
        np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-5)
    # The anchors are constants: d/dD of (D - anchor)^2.
    (by_b,) = torch.autograd.grad(value.sum(), critic.b)
    slope = sum(
        (x.flatten(1).T * torch.from_numpy(scores - anchor)).sum(1)
        for x, scores, anchor in ((images[0], real, of_fake), (images[1], fake, of_real))
    )
    torch.testing.assert_close(by_b, slope, rtol=1e-5, atol=1e-6)


def test_lecam_starts_at_the_means_of_its_first_step(images, critic_step):
    critic = Linear()
    real, fake = (critic(x).detach() for x in images)
    value = LeCam(weight=1.0)(critic_step(critic, *images))
    expected = (real - fake.mean()).square() + (fake - real.mean()).square()
    torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-6)


def test_lecam_goes_on_where_its_state_says(images, critic_step):
    critic, old, new = Linear(), LeCam(), LeCam()
    buffers = list(old.buffers())
    old(critic_step(critic, *images))
    assert [b.data_ptr() for b in old.buffers()] == [b.data_ptr() for b in buffers]  # changed in place
    new.load_state_dict(old.state_dict())
    other = critic_step(critic, images[1], images[0])
    assert torch.equal(old(other), new(other))


class Sharpness(nn.Module):
    """A critic that brightness does not change: w times the squared differences of neighbours."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, images, labels=None):
        return self.weight * images.diff(dim=-1).flatten(1).square().sum(1)


class Negative(CriticAugmentation):
    def forward(self, images, draw):
        return -images


def test_consistency_is_zero_for_a_critic_that_does_not_mind(images, critic_step):
    brightness = DiffAugment(policy=("colour",), saturation=0.0, contrast=0.0)
    penalty = Consistency(augmentation=brightness, fake_weight=1.0)
    step = critic_step(Sharpness(), *images)
    torch.testing.assert_close(penalty(step).detach(), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (penalty(critic_step(Linear(), *images)) > 1e-4).all()


def test_consistency_of_a_linear_critic_in_closed_form(images, critic_step):
    critic = Linear()  # D(x) - D(-x) = 2 w.x
    real, fake = ((2 * critic(x).detach()).square() for x in images)
    one_sided = Consistency(weight=3.0, augmentation=Negative())(critic_step(critic, *images))
    balanced = Consistency(weight=3.0, augmentation=Negative(), fake_weight=0.5)(critic_step(critic, *images))
    torch.testing.assert_close(one_sided.detach(), 3 * real)
    torch.testing.assert_close(balanced.detach(), 3 * real + 1.5 * fake)
    (slope,) = torch.autograd.grad(one_sided.sum(), critic.weight)  # through both scores
    expected = 3 * 8 * (critic(images[0])[:, None] * images[0].flatten(1)).sum(0)
    torch.testing.assert_close(slope, expected.detach())


def test_consistency_moves_images_by_default(critic_step, generator):
    real = torch.rand(64, 1, 8, 8, generator=generator) * 2 - 1
    value = Consistency(weight=1.0)(critic_step(lambda x, labels: x[:, 0, 3, 3], real, real))
    # One pixel shows one of its nine neighbours (itself among them) after a move of at most a pixel each way.
    near = real[:, 0, 2:5, 2:5].reshape(64, 9)
    differences = (value.sqrt()[:, None] - (near - real[:, 0, 3, 3:4]).abs()).abs()
    assert (differences.amin(1) < 1e-6).all()
    assert (value > 0).float().mean() > 0.6


REFUSED = [
    *(
        (penalty, {"weight": -0.1}, "weight must be at least 0, got -0.1")
        for penalty in (*GRADIENT, LeCam, Consistency)
    ),
    (R1, {"weight": float("nan")}, "weight must be at least 0, got nan"),
    (R1, {"weight": float("inf")}, "weight must be at least 0, got inf"),
    (R1, {"every": 0}, "every must be a whole number of steps, at least 1, got 0"),
    (R2, {"every": -2}, "every must be a whole number of steps, at least 1, got -2"),
    (LeCam, {"every": 1.5}, "every must be a whole number of steps, at least 1, got 1.5"),
    (PathLength, {"every": True}, "every must be a whole number of steps, at least 1, got True"),
    (OrthogonalRegularisation, {"weight": -1}, "weight must be at least 0, got -1"),
    (WGANGP, {"target": -1}, "target must be at least 0, got -1"),
    (DRAGAN, {"target": float("nan")}, "target must be at least 0, got nan"),
    (DRAGAN, {"std": 0}, "std must be above 0, got 0"),
    (LeCam, {"decay": 1.0}, "decay must be at least 0 and below 1, got 1.0"),
    (LeCam, {"decay": -0.1}, "decay must be at least 0 and below 1, got -0.1"),
    (Consistency, {"fake_weight": -1}, "fake_weight must be at least 0, got -1"),
    (PathLength, {"decay": 0}, "decay must be above 0 and at most 1, got 0"),
    (PathLength, {"decay": 1.1}, "decay must be above 0 and at most 1, got 1.1"),
]


@pytest.mark.parametrize(("penalty", "arguments", "message"), REFUSED)
def test_bad_arguments_are_refused_by_name(penalty, arguments, message):
    with pytest.raises(InputError, match=f"^{penalty.__name__}: {message}$"):
        penalty(**arguments)


def test_the_base_is_abstract_and_gradient_penalties_say_what_they_are():
    with pytest.raises(TypeError):
        Penalty()
    twice = {
        penalty for penalty in (*GRADIENT, LeCam, Consistency, OrthogonalRegularisation) if penalty.differentiates_twice
    }
    assert twice == set(GRADIENT)
