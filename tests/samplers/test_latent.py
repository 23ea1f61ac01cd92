"""LatentSampler: moments, the truncated distribution, determinism, validation; ways between latents on great circles."""

import numpy as np
import pytest
import scipy.stats
import torch

from lightning_gen.errors import InputError
from lightning_gen.samplers import LatentSampler, slerp

CPU = torch.device("cpu")


def draw(sampler: LatentSampler, n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return sampler(n, dim, torch.Generator().manual_seed(seed), CPU)


def test_standard_normal():
    latents = draw(LatentSampler(), 5000, 20)
    assert latents.shape == (5000, 20)
    assert latents.dtype == torch.float32
    values = latents.double().numpy()
    assert scipy.stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    # 100,000 values: five standard errors
    assert abs(values.mean()) < 5 / np.sqrt(1e5)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / 1e5)
    correlation = np.corrcoef(values.T)
    assert np.abs(correlation - np.eye(20)).max() < 5 / np.sqrt(5000)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_is_a_factor(temperature):
    torch.testing.assert_close(
        draw(LatentSampler(temperature), 50, 7), temperature * draw(LatentSampler(), 50, 7), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("truncation", [0.04, 0.5, 1.0, 2.5, 6.0])
def test_truncation_against_scipy(truncation):
    values = draw(LatentSampler(truncation=truncation), 2000, 10).double().numpy().ravel()
    assert np.abs(values).max() <= truncation * (1 + 1e-6)
    reference = scipy.stats.truncnorm(-truncation, truncation)
    assert scipy.stats.kstest(values, reference.cdf).pvalue > 1e-3
    assert values.std() == pytest.approx(reference.std(), rel=0.03)


def test_an_untruncated_normal_fails_the_test_of_the_truncated_one():
    values = draw(LatentSampler(), 2000, 10).numpy().ravel()
    assert scipy.stats.kstest(values, scipy.stats.truncnorm(-2, 2).cdf).pvalue < 1e-3


def test_truncation_comes_before_the_temperature():
    plain = draw(LatentSampler(truncation=1.0), 100, 5)
    torch.testing.assert_close(draw(LatentSampler(0.3, truncation=1.0), 100, 5), 0.3 * plain)


@pytest.mark.parametrize("sampler", [LatentSampler(), LatentSampler(truncation=1.5)], ids=["normal", "truncated"])
def test_the_default_dtype_changes_nothing(sampler):
    expected = draw(sampler, 30, 4)
    torch.set_default_dtype(torch.float64)  # as a Trainer does in training with precision 64-true
    try:
        assert torch.equal(draw(sampler, 30, 4), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("sampler", [LatentSampler(), LatentSampler(truncation=1.5)], ids=["normal", "truncated"])
def test_the_generator_is_the_only_source_of_randomness(sampler):
    state = torch.get_rng_state()
    first, again, other = draw(sampler, 30, 4, seed=1), draw(sampler, 30, 4, seed=1), draw(sampler, 30, 4, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "sampler.temperature must be above 0 and finite, got 0"),
        ({"temperature": -1.0}, "sampler.temperature must be above 0 and finite, got -1.0"),
        ({"temperature": float("inf")}, "sampler.temperature must be above 0 and finite, got inf"),
        ({"temperature": float("nan")}, "sampler.temperature must be above 0 and finite, got nan"),
        ({"truncation": 0}, "sampler.truncation must be above 0, got 0"),
        ({"truncation": -0.5}, "sampler.truncation must be above 0, got -0.5"),
        ({"truncation": float("nan")}, "sampler.truncation must be above 0, got nan"),
        ({"psi": float("nan")}, "sampler.psi must be finite, got nan"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        LatentSampler(**arguments)


# Great circles


def pairs(n: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, dim, generator=random, dtype=torch.float64) for _ in range(2))


def slerp_by_hand(start: np.ndarray, end: np.ndarray, t: float) -> np.ndarray:
    """Turn the direction of ``start`` by t times the angle, in the plane of both, and give it the length between."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    across = b - a.dot(b) * a
    across /= np.linalg.norm(across)
    angle = t * np.arccos(a.dot(b))
    length = (1 - t) * np.linalg.norm(start) + t * np.linalg.norm(end)
    return length * (np.cos(angle) * a + np.sin(angle) * across)


@pytest.mark.parametrize("dim", [2, 3, 64])
def test_slerp_against_rotations(dim):
    start, end = pairs(20, dim)
    steps = 7
    found = slerp(start, end, steps)
    assert found.shape == (20, steps, dim)
    for i, row in enumerate(found.numpy()):
        for k, point in enumerate(row):
            expected = slerp_by_hand(start[i].numpy(), end[i].numpy(), k / (steps - 1))
            np.testing.assert_allclose(point, expected, rtol=1e-9, atol=1e-12)


def test_slerp_goes_in_equal_angles_from_one_length_to_the_other():
    start, end = pairs(50, 5)
    points = slerp(start, 3 * end, 11)
    torch.testing.assert_close(points[:, 0], start)
    torch.testing.assert_close(points[:, -1], 3 * end)
    directions = points / points.norm(dim=2, keepdim=True)
    angles = (directions[:, 1:] * directions[:, :-1]).sum(2).clamp(-1, 1).acos()
    torch.testing.assert_close(angles, angles.mean(1, keepdim=True).expand_as(angles), rtol=1e-6, atol=1e-9)
    norms = points.norm(dim=2)
    torch.testing.assert_close(norms.diff(dim=1), norms.diff(dim=1)[:, :1].expand(-1, 10), rtol=1e-6, atol=1e-9)


def test_points_between_normal_latents_are_as_long_as_they_are():
    random = torch.Generator().manual_seed(0)
    start, end = (torch.randn(500, 100, generator=random) for _ in range(2))
    middle = slerp(start, end, 3)[:, 1].norm(dim=1).mean()
    assert float(middle) == pytest.approx(float(start.norm(dim=1).mean()), rel=0.01)
    assert float(((start + end) / 2).norm(dim=1).mean()) < 0.75 * float(middle)  # a straight line's middle is not


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0, -0.4])
def test_parallel_and_opposite_latents_are_joined_by_a_straight_line(factor):
    start, _ = pairs(4, 6)
    start = start.float()
    points = slerp(start, factor * start, 5)
    t = torch.linspace(0, 1, 5)[None, :, None]
    torch.testing.assert_close(points, (1 - t + factor * t) * start[:, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-5, 1e-7, 0.0])
def test_nearly_parallel_and_nearly_opposite_latents_lose_no_digits(gap):
    start, other = (x.float() for x in pairs(30, 8))
    for end in (start + gap * other, -start + gap * other):
        points = slerp(start, end, 9)
        assert torch.isfinite(points).all()
        torch.testing.assert_close(points[:, 0], start)
        torch.testing.assert_close(points[:, -1], end)
    norms = slerp(start, start + gap * other, 9).norm(dim=2)
    between = torch.stack([start.norm(dim=1), (start + gap * other).norm(dim=1)])
    assert (norms >= between.amin(0)[:, None] * (1 - 1e-4)).all()
    assert (norms <= between.amax(0)[:, None] * (1 + 1e-4)).all()


def test_on_a_half_circle_norms_stay_where_it_is_not_quite_half():
    start, other = (x.float() for x in pairs(30, 8))
    end = -start + 1e-3 * other
    norms = slerp(start, end, 9).norm(dim=2)
    torch.testing.assert_close(norms, start.norm(dim=1, keepdim=True).expand(-1, 9), rtol=5e-3, atol=0)


def test_a_latent_of_zeros_is_no_division_by_zero():
    start, end = torch.zeros(1, 4), torch.ones(1, 4)
    for a, b in ((start, end), (end, start), (start, start)):
        points = slerp(a, b, 4)
        assert torch.isfinite(points).all()
        assert torch.equal(points[:, 0], a)
        assert torch.equal(points[:, -1], b)


def test_a_way_of_one_step_is_refused():
    with pytest.raises(InputError, match="slerp: steps must be at least 2, both ends, got 1"):
        slerp(torch.ones(1, 2), torch.ones(1, 2), 1)
