"""Penalties on the critic against closed forms and autograd; the lazy schedule; float32 under autocast; ranks."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gen.core.context import TrainingContext
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks import MLPDiscriminator
from lightning_gen.objectives import (
    DRAGAN,
    R1,
    R2,
    WGANGP,
    Consistency,
    CriticAugmentation,
    CriticTerms,
    DiffAugment,
    LeCam,
    OrthogonalRegularisation,
    PathLength,
    Penalties,
    Penalty,
)

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


def terms(critic, real, fake, labels=None):
    return CriticTerms(critic, real, fake, labels)


BEGINNING = TrainingContext()


def places(penalty, real, fake, context):
    """Where each gradient penalty looks, flat (B, 6), written without its code."""
    draws = penalty.draws(context, len(real))
    if isinstance(penalty, R1):
        return real.flatten(1)
    if isinstance(penalty, R2):
        return fake.flatten(1)
    if isinstance(penalty, WGANGP):
        share = draws.uniform(1).double()
        return share * real.flatten(1) + (1 - share) * fake.flatten(1)
    return real.flatten(1) + penalty.std * draws.normal(6).double()


@pytest.fixture(params=GRADIENT, ids=lambda penalty: penalty.__name__)
def penalty(request):
    """A gradient penalty, of weight 1."""
    return request.param(weight=1.0)


def of_length(penalty, length):
    """The penalty of gradients of a length."""
    return length.square() / 2 if type(penalty) in ZERO_CENTRED else (length - penalty.target).square()


def test_penalties_of_a_linear_critic_have_closed_forms(penalty, images):
    critic = Linear()
    w = critic.weight.detach()
    for target in (0.0, 0.5, 1.0):
        if type(penalty) in ONE_CENTRED:
            penalty.target = target
        value = penalty(terms(critic, *images), BEGINNING)
        torch.testing.assert_close(value.detach(), of_length(penalty, w.norm()).expand(5))
        (gradient,) = torch.autograd.grad(value.mean(), critic.weight)
        expected = w if type(penalty) in ZERO_CENTRED else 2 * (w.norm() - target) * w / w.norm()
        torch.testing.assert_close(gradient, expected)


def test_one_centred_penalties_have_a_gradient_at_a_flat_critic(images):
    for kind in ONE_CENTRED:
        critic = Linear()
        nn.init.zeros_(critic.weight)
        value = kind(weight=1.0)(terms(critic, *images), BEGINNING)
        torch.testing.assert_close(value.detach(), torch.ones(5, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(value.mean(), critic.weight)
        assert torch.isfinite(gradient).all()


def test_a_quadratic_critic_is_judged_where_the_penalty_says(penalty, images):
    critic, context = Quadratic(), TrainingContext(images_seen=640)
    x = places(penalty, *images, context)
    slope = (x @ critic.a + critic.b).detach()
    value = penalty(terms(critic, *images), context)
    length = slope.norm(dim=1)
    by_slope = slope if type(penalty) in ZERO_CENTRED else slope * (2 * (length - 1) / length)[:, None]
    torch.testing.assert_close(value.detach(), of_length(penalty, length))
    # Through the double backward: d slope / db = 1, and d slope / dA = x^T up to the symmetry of A.
    by_a, by_b = torch.autograd.grad(value.sum(), (critic.a, critic.b))
    torch.testing.assert_close(by_b, by_slope.sum(0))
    torch.testing.assert_close((by_a + by_a.T) / 2, (by_slope.T @ x + x.T @ by_slope) / 2)


def test_a_perceptron_against_the_jacobian_of_each_image(penalty, images):
    critic = MLPDiscriminator(SPEC, widths=(7, 5)).double()
    x = places(penalty, *images, BEGINNING).view(5, *SPEC.shape)
    jacobian = torch.autograd.functional.jacobian(critic, x)  # (B, B, C, H, W)
    length = torch.stack([jacobian[i, i] for i in range(5)]).flatten(1).norm(dim=1)
    value = penalty(terms(critic, *images), BEGINNING)
    torch.testing.assert_close(value.detach(), of_length(penalty, length))


def test_gradient_of_the_penalty_against_finite_differences(penalty, images):
    critic = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def penalty_of(*weights):
        named = dict(zip(dict(critic.named_parameters()), weights, strict=True))
        moved = lambda x, labels: torch.func.functional_call(critic, named, x).squeeze(1)  # noqa: E731
        return penalty(terms(moved, *images), BEGINNING).mean()

    weights = tuple(p.detach().clone().requires_grad_() for p in critic.parameters())
    assert torch.autograd.gradcheck(penalty_of, weights)


def test_labels_reach_the_critic(penalty, images):
    critic, labels = PerClass(), torch.tensor([0, 2, 1, 1, 0])
    expected = of_length(penalty, critic.weight.detach()[labels].norm(dim=1))
    torch.testing.assert_close(penalty(terms(critic, *images, labels), BEGINNING).detach(), expected)


@pytest.mark.parametrize("kind", [*GRADIENT, LeCam, Consistency], ids=lambda kind: kind.__name__)
def test_weight_and_laziness_multiply(kind, images):
    critic = Quadratic()

    def value(**options):  # a new penalty each time: LeCam remembers
        return kind(**options)(terms(critic, *images), BEGINNING).detach()

    one = value(weight=1.0)
    assert one.shape == (5,)
    torch.testing.assert_close(value(weight=0.3), 0.3 * one)
    torch.testing.assert_close(value(weight=0.3, every=16), 16 * 0.3 * one)
    torch.testing.assert_close(kind(weight=0.3, every=16).value(terms(critic, *images), BEGINNING).detach(), one)
    assert not value(weight=0.0).any()


def test_permuting_images_permutes_the_penalty(images):
    critic, order = Quadratic(), torch.tensor([3, 0, 4, 2, 1])
    for kind in ZERO_CENTRED:
        one = kind()(terms(critic, *images), BEGINNING).detach()
        permuted = kind()(terms(critic, images[0][order], images[1][order]), BEGINNING).detach()
        torch.testing.assert_close(permuted, one[order])


def test_lazy_penalty_has_the_eager_weight_on_average(images):
    given, steps = terms(Linear(), *images), 48
    for every in (1, 3, 16):
        lazy, eager = R1(weight=0.7, every=every), R1(weight=0.7)
        assert lazy.is_due(0)
        total = sum(lazy(given, BEGINNING).mean() for number in range(steps) if lazy.is_due(number))
        torch.testing.assert_close(total / steps, eager(given, BEGINNING).mean())
        assert sum(lazy.is_due(number) for number in range(steps)) == steps // every


def test_bfloat16_autocast_leaves_the_penalty_in_float32(penalty, images):
    critic = MLPDiscriminator(SPEC, widths=(64, 64))
    real, fake = (x.float() for x in images)
    exact = penalty(terms(critic, real, fake), BEGINNING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert critic(real).dtype == torch.bfloat16  # the autocast is really on
        same_images = penalty(terms(critic, real, fake), BEGINNING)
        of_half = penalty(terms(critic, real.bfloat16(), fake.bfloat16()), BEGINNING)
    assert torch.equal(same_images, exact)
    in_double = penalty(terms(copy.deepcopy(critic).double(), real.double(), fake.double()), BEGINNING)
    torch.testing.assert_close(exact.double(), in_double, rtol=1e-4, atol=1e-6)
    assert of_half.dtype == torch.float32
    torch.testing.assert_close(of_half, exact, rtol=0.05, atol=0.05)
    weight = next(critic.parameters())
    assert torch.equal(*(torch.autograd.grad(value.mean(), weight)[0] for value in (exact, same_images)))


def test_penalties_work_where_gradients_are_off_and_leave_images_alone(penalty, images):
    critic = Quadratic()
    expected = penalty(terms(critic, *images), BEGINNING)
    with torch.no_grad():
        torch.testing.assert_close(penalty(terms(critic, *images), BEGINNING).detach(), expected.detach())
    assert not any(x.requires_grad or x.grad is not None for x in images)
    assert all(weight.grad is None for weight in critic.parameters())


def test_the_critic_is_penalised_at_what_it_sees(images):
    critic = Quadratic()
    seen = CriticTerms(critic, *images, None, see=lambda x: 2 * x)
    plain = terms(critic, 2 * images[0], 2 * images[1])
    for kind in (*GRADIENT, LeCam, Consistency):
        torch.testing.assert_close(kind()(seen, BEGINNING), kind()(plain, BEGINNING))


def of_ranks(penalty, critic, real, fake, given_ranks, count):
    """The penalty's values (B,), with the batch cut in so many parts, after two steps."""
    penalties, size = [copy.deepcopy(penalty) for _ in range(count)], len(real) // count
    rows = [slice(rank * size, (rank + 1) * size) for rank in range(count)]
    means = [torch.stack([critic(x[own]).float().mean().detach() for x in (real, fake)]) for own in rows]
    average = torch.stack(means).mean(0)
    for images_seen in (0, 64):
        values = []
        for rank, own in enumerate(rows):
            context = TrainingContext(images_seen=images_seen, ranks=given_ranks(rank, count, lambda value: average))
            values.append(penalties[rank](terms(critic, real[own], fake[own]), context))
    buffers = [list(part.buffers()) for part in penalties]
    assert all(torch.equal(a, b) for own in buffers for a, b in zip(own, buffers[0], strict=True))
    return torch.cat(values).detach()


def test_values_do_not_depend_on_how_ranks_cut_the_batch(given_ranks, generator):
    real, fake = torch.randn(2, 8, 1, 8, 8, generator=generator)
    critic = MLPDiscriminator(ImageSpec(1, 8, 8), widths=(7, 5))
    for kind in (*GRADIENT, LeCam, Consistency):
        whole, cut = (of_ranks(kind(), critic, real, fake, given_ranks, count) for count in (1, 4))
        torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-7)


def test_interpolates_lie_between_and_dragan_around():
    spec = ImageSpec(1, 20, 20)
    real = torch.zeros(300, *spec.shape, dtype=torch.float64)
    seen = {}

    def watching(images, labels):
        seen["images"] = images.detach()
        return images.flatten(1).square().sum(1)

    for penalty in (WGANGP(), DRAGAN(std=0.3)):
        penalty(terms(watching, real, real + 1), BEGINNING)
        seen[type(penalty)] = seen["images"]
    shares = 1 - seen[WGANGP].flatten(1)
    assert torch.equal(shares.amin(1), shares.amax(1))  # one number for each image
    assert 0 <= shares.min() < 0.02 < 0.98 < shares.max() <= 1
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(seen[DRAGAN].std()) == pytest.approx(0.3, rel=0.01)
    assert float(seen[DRAGAN].mean()) == pytest.approx(0, abs=0.01)


def test_lecam_is_its_formula_with_averages_kept_by_hand(images):
    penalty, gamma = LeCam(weight=0.5, decay=0.9), 0.9
    totals, weight = np.zeros(2), 0.0
    for number in range(4):
        torch.manual_seed(number)
        critic = Quadratic()
        real, fake = (critic(x).detach().numpy() for x in images)
        totals = gamma * totals + (1 - gamma) * np.array([real.mean(), fake.mean()])
        weight = gamma * weight + (1 - gamma)
        of_real, of_fake = totals / weight  # at the first step the means themselves
        expected = 0.5 * ((real - of_fake) ** 2 + (fake - of_real) ** 2)
        value = penalty(terms(critic, *images), BEGINNING)
        np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-5)
    # The anchors are constants: d/dD of (D - anchor)^2.
    (by_b,) = torch.autograd.grad(value.sum(), critic.b)
    slope = sum(
        (x.flatten(1).T * torch.from_numpy(scores - anchor)).sum(1)
        for x, scores, anchor in ((images[0], real, of_fake), (images[1], fake, of_real))
    )
    torch.testing.assert_close(by_b, slope, rtol=1e-5, atol=1e-6)


def test_lecam_goes_on_where_its_state_says(images):
    critic, old, new = Linear(), LeCam(), LeCam()
    buffers = list(old.buffers())
    old(terms(critic, *images), BEGINNING)
    assert [b.data_ptr() for b in old.buffers()] == [b.data_ptr() for b in buffers]  # changed in place
    new.load_state_dict(old.state_dict())
    other = terms(critic, images[1], images[0])
    assert torch.equal(old(other, BEGINNING), new(other, BEGINNING))


class Sharpness(nn.Module):
    """A critic that brightness does not change: w times the squared differences of neighbours."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, images, labels=None):
        return self.weight * images.diff(dim=-1).flatten(1).square().sum(1)


class Negative(CriticAugmentation):
    def forward(self, images, draws):
        return -images


def test_consistency_is_zero_for_a_critic_that_does_not_mind(images):
    brightness = DiffAugment(policy=("colour",), saturation=0.0, contrast=0.0)
    penalty = Consistency(augmentation=brightness, fake_weight=1.0)
    value = penalty(terms(Sharpness(), *images), BEGINNING)
    torch.testing.assert_close(value.detach(), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (penalty(terms(Linear(), *images), BEGINNING) > 1e-4).all()


def test_consistency_of_a_linear_critic_in_closed_form(images):
    critic = Linear()  # D(x) - D(-x) = 2 w.x
    real, fake = ((2 * critic(x).detach()).square() for x in images)
    one_sided, balanced = (
        Consistency(weight=3.0, augmentation=Negative(), fake_weight=share)(terms(critic, *images), BEGINNING)
        for share in (0.0, 0.5)
    )
    torch.testing.assert_close(one_sided.detach(), 3 * real)
    torch.testing.assert_close(balanced.detach(), 3 * real + 1.5 * fake)
    (slope,) = torch.autograd.grad(one_sided.sum(), critic.weight)  # through both scores
    expected = 3 * 8 * (critic(images[0])[:, None] * images[0].flatten(1)).sum(0)
    torch.testing.assert_close(slope, expected.detach())


def test_consistency_moves_images_by_default(generator):
    real = torch.rand(64, 1, 8, 8, generator=generator) * 2 - 1
    value = Consistency(weight=1.0)(terms(lambda x, labels: x[:, 0, 3, 3], real, real), BEGINNING)
    # One pixel shows one of its nine neighbours (itself among them) after a move of at most a pixel each way.
    near = real[:, 0, 2:5, 2:5].reshape(64, 9)
    differences = (value.sqrt()[:, None] - (near - real[:, 0, 3, 3:4]).abs()).abs()
    assert (differences.amin(1) < 1e-6).all()
    assert (value > 0).float().mean() > 0.6


# --- the penalties of a network ---------------------------------------------------------------------------------------


def test_penalties_of_a_network_are_due_by_name(images):
    critic, given = Linear(), [R1(0.3), R2(0.2, every=2), R1(0.1, every=3), LeCam()]
    penalties = Penalties(given)
    assert penalties.names == ["r1", "r2", "r1_2", "lecam"]
    assert Penalties([R1(), OrthogonalRegularisation()], named=given).names == ["r1_3", "orthogonalregularisation"]
    for step, names in enumerate((["r1", "r2", "r1_2", "lecam"], ["r1", "lecam"], ["r1", "r2", "lecam"])):
        due = penalties.due(terms(critic, *images), BEGINNING, step)
        assert list(due) == names
        for name, value in due.items():
            assert value.shape == ()
            if name != "lecam":
                own = given[penalties.names.index(name)](terms(critic, *images), BEGINNING).mean()
                torch.testing.assert_close(value, own)
    assert penalties.differentiates_twice
    assert not Penalties([LeCam(), Consistency()]).differentiates_twice
    assert not Penalties().due(terms(critic, *images), BEGINNING, 0)


def test_penalties_of_a_network_are_copies(images):
    given = LeCam()
    penalties = Penalties([given])
    penalties.due(terms(Linear(), *images), BEGINNING, 0)
    assert not given.averages.any()
    assert penalties[0].averages.any()
    assert "0.averages" in penalties.state_dict()


def test_the_first_penalty_that_does_not_fit_is_named():
    critic = MLPDiscriminator(SPEC, widths=(4,))
    Penalties([R1(), OrthogonalRegularisation()]).check(critic, SPEC)
    with pytest.raises(InputError, match=r"DiffAugment: translation 0\.125 is less than a pixel of 3x2 images"):
        Penalties([R1(), Consistency()]).check(critic, SPEC)
    with pytest.raises(InputError, match="OrthogonalRegularisation: Identity has no weight matrices"):
        Penalties([OrthogonalRegularisation()]).check(nn.Identity(), SPEC)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused_by_name():
    nan, infinite = float("nan"), float("inf")
    every_kind = (*GRADIENT, LeCam, Consistency, OrthogonalRegularisation, PathLength)
    weights = (("at least 0", -0.1), ("at least 0", nan), ("at least 0 and finite", infinite))
    of_all = [
        *(("weight", value, bound) for bound, value in weights),
        *(("every", value, "a positive integer") for value in (0, -2, 1.5, True)),
    ]
    for kind, (name, value, expected) in (
        *itertools.product(every_kind, of_all),
        (WGANGP, ("target", -1, "at least 0")),
        (DRAGAN, ("target", nan, "at least 0")),
        (DRAGAN, ("std", 0, "above 0")),
        (LeCam, ("decay", 1.0, r"in \[0, 1\)")),
        (LeCam, ("decay", -0.1, r"in \[0, 1\)")),
        (Consistency, ("fake_weight", -1, "at least 0")),
        (PathLength, ("decay", 0, r"in \(0, 1\]")),
        (PathLength, ("decay", 1.1, r"in \(0, 1\]")),
    ):
        with pytest.raises(InputError, match=rf"^{kind.__name__}\.{name} must be {expected}, got {value}$"):
            kind(**{name: value})


def test_the_base_is_abstract_and_gradient_penalties_say_what_they_are():
    with pytest.raises(TypeError):
        Penalty()
    kinds = (*GRADIENT, LeCam, Consistency, OrthogonalRegularisation)
    assert {kind for kind in kinds if kind.differentiates_twice} == set(GRADIENT)
