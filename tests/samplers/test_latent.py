"""Latents as samplers draw them: moments, the truncated distribution, options; ways between latents."""

import numpy as np
import pytest
import scipy.stats
import torch

from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import normal
from lightning_gen.samplers import LatentSampler, PriorSampler, StyleSampler, interpolate, slerp


class Model:
    """What a sampler asks of a model for latents."""

    device = torch.device("cpu")
    pixels = None
    latents = "normal"

    def __init__(self, dim):
        self.latent_shape = (dim,)

    def draw_latents(self, n, labels=None, *, generator):
        return normal(n, *self.latent_shape, generator=generator)

    def decode(self, latent, labels=None): ...

    def pixel_parameters(self, latent, labels): ...


def draw(sampler: LatentSampler, n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return sampler.latents(Model(dim), n, None, torch.Generator().manual_seed(seed))


def test_without_options_latents_are_the_models_own():
    latents = draw(LatentSampler(), 5000, 20)
    assert torch.equal(latents, normal(5000, 20, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(draw(PriorSampler(), 5000, 20), latents)
    values = latents.double().numpy()
    assert scipy.stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    # 100,000 values: five standard errors
    assert abs(values.mean()) < 5 / np.sqrt(1e5)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / 1e5)
    correlation = np.corrcoef(values.T)
    assert np.abs(correlation - np.eye(20)).max() < 5 / np.sqrt(5000)


def test_temperature_is_a_factor_that_comes_after_truncation():
    plain, truncated = draw(LatentSampler(), 50, 7), draw(LatentSampler(truncation=1.0), 50, 7)
    for temperature in (0.3, 2.0):
        for sampler, expected in (
            (LatentSampler(temperature), plain),
            (PriorSampler(temperature), plain),
            (LatentSampler(temperature, truncation=1.0), truncated),
            (StyleSampler(0.5, temperature, truncation=1.0), truncated),
        ):
            torch.testing.assert_close(draw(sampler, 50, 7), temperature * expected, rtol=1e-6, atol=0)


def test_truncation_against_scipy():
    for truncation in (0.04, 0.5, 1.0, 2.5, 6.0):
        values = draw(LatentSampler(truncation=truncation), 2000, 10).double().numpy().ravel()
        assert np.abs(values).max() <= truncation * (1 + 1e-6)
        reference = scipy.stats.truncnorm(-truncation, truncation)
        assert scipy.stats.kstest(values, reference.cdf).pvalue > 1e-3
        assert values.std() == pytest.approx(reference.std(), rel=0.03)
    # The test can fail: it tells what is not truncated.
    plain = draw(LatentSampler(), 2000, 10).numpy().ravel()
    assert scipy.stats.kstest(plain, scipy.stats.truncnorm(-2, 2).cdf).pvalue < 1e-3


def test_the_generator_alone_decides_and_the_default_dtype_changes_nothing():
    state = torch.get_rng_state()
    for sampler in (LatentSampler(), LatentSampler(truncation=1.5)):
        expected, other = draw(sampler, 30, 4, seed=1), draw(sampler, 30, 4, seed=2)
        assert expected.shape == (30, 4)
        assert expected.dtype == torch.float32
        assert torch.equal(draw(sampler, 30, 4, seed=1), expected)
        assert not torch.equal(other, expected)
        torch.set_default_dtype(torch.float64)  # as a Trainer does in training with precision 64-true
        try:
            assert torch.equal(draw(sampler, 30, 4, seed=1), expected)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_temperature_is_of_a_standard_normal_prior_alone():
    model = Model(3)
    model.latents = "continuous"
    with pytest.raises(InputError, match="is of a standard normal prior, which this Model has not: leave it at 1"):
        PriorSampler(0.5).check(model)
    assert PriorSampler().latents(model, 2, None, torch.Generator()).shape == (2, 3)


def test_bad_arguments_are_refused_by_name():
    nan, infinite = float("nan"), float("inf")
    for kind in (LatentSampler, StyleSampler, PriorSampler):
        for value, bound in ((0, "above 0"), (-1.0, "above 0"), (nan, "above 0"), (infinite, "above 0 and finite")):
            with pytest.raises(InputError, match=rf"sampler\.temperature must be {bound}, got {value}"):
                kind(temperature=value)
        for value in (0, -3, 2.5):
            with pytest.raises(InputError, match=rf"sampler\.chunk_size must be a positive integer, got {value}"):
                kind(chunk_size=value)
    for value in (0, -0.5, nan):
        with pytest.raises(InputError, match=rf"sampler\.truncation must be above 0, got {value}"):
            LatentSampler(truncation=value)
    for value in (nan, infinite):
        with pytest.raises(InputError, match=rf"sampler\.psi must be finite, got {value}"):
            StyleSampler(value)
    with pytest.raises(InputError, match=r"sampler\.pixels must be sample or mean, got 'mode'"):
        PriorSampler(pixels="mode")


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


def test_slerp_against_rotations():
    for dim in (2, 3, 64):
        start, end = pairs(20, dim)
        steps = 7
        found = slerp(start, end, steps)
        assert found.shape == (20, steps, dim)
        for i, row in enumerate(found.numpy()):
            for k, point in enumerate(row):
                expected = slerp_by_hand(start[i].numpy(), end[i].numpy(), k / (steps - 1))
                np.testing.assert_allclose(point, expected, rtol=1e-9, atol=1e-12)


def test_ways_lie_on_circles_between_normal_latents_and_on_straight_lines_between_others():
    start, end = pairs(20, 5)
    assert torch.equal(interpolate(start, end, 7, "normal"), slerp(start, end, 7))
    straight = interpolate(start, end, 7, "continuous")
    assert straight.shape == (20, 7, 5)
    for k in range(7):
        torch.testing.assert_close(straight[:, k], start + k / 6 * (end - start))


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


def test_parallel_and_opposite_latents_are_joined_by_a_straight_line():
    start = pairs(4, 6)[0].float()
    t = torch.linspace(0, 1, 5)[None, :, None]
    for factor in (1.0, 2.5, -1.0, -0.4):
        points = slerp(start, factor * start, 5)
        torch.testing.assert_close(points, (1 - t + factor * t) * start[:, None], rtol=1e-5, atol=1e-6)


def test_nearly_parallel_and_nearly_opposite_latents_lose_no_digits():
    start, other = (x.float() for x in pairs(30, 8))
    for gap in (1e-2, 1e-3, 1e-5, 1e-7, 0.0):
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
    with pytest.raises(InputError, match=r"slerp\.steps must be at least 2, both ends, got 1"):
        slerp(torch.ones(1, 2), torch.ones(1, 2), 1)
