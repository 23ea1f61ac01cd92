"""Bits per dimension: the one conversion, names by kind, sums that depend on nothing but the images, calibration."""

import math

import numpy as np
import pytest
import torch

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.metrics import BitsPerDimension, Calibration, bits_per_dimension
from lightning_gen.metrics.likelihood import KINDS, figure_of

DIGITS = ImageSpec(1, 8, 8, levels=17)


def test_a_uniform_model_has_log2_of_the_levels():
    for spec in (DIGITS, ImageSpec(3, 5, 7), ImageSpec(1, 1, 1, levels=2)):
        nats = torch.full((6,), -spec.dims * math.log(spec.levels), dtype=torch.float64)
        torch.testing.assert_close(
            bits_per_dimension(nats, spec), torch.full_like(nats, math.log2(spec.levels)), rtol=0, atol=1e-14
        )
        metric = BitsPerDimension(spec)
        metric.update(nats, "exact")
        figures = metric.compute()
        assert figures["bpd"] == pytest.approx(math.log2(spec.levels), abs=1e-14)
        assert figures["bpd_se"] == pytest.approx(0, abs=1e-15)


def test_every_kind_has_its_own_name():
    assert dict(KINDS) == {
        "exact": "bpd",
        "dequantized": "bpd_dequantized",
        "bound": "bpd_bound",
        "ais": "bpd_ais",
        "estimate": "bpd_estimate",
    }
    with pytest.raises(InputError, match=r"no kind 'elbo'; kinds are exact, dequantized, bound, ais, estimate"):
        figure_of("elbo")


def test_mean_and_standard_error_are_numpys_however_the_images_are_cut(generator):
    nats = (torch.randn(101, generator=generator, dtype=torch.float64) * 40 - 150).float()
    bits = -nats.double().numpy() / (math.log(2) * DIGITS.dims)
    whole, cut = BitsPerDimension(DIGITS), BitsPerDimension(DIGITS)
    whole.update(nats, "bound", 64)
    for part in nats[torch.randperm(101, generator=generator)].split([1, 60, 40]):
        cut.update(part, "bound", 64)
    for metric in (whole, cut):
        figures = metric.compute()
        assert figures.keys() == {"bpd_bound", "bpd_bound_se"}
        assert figures["bpd_bound"] == pytest.approx(bits.mean(), rel=1e-13)
        assert figures["bpd_bound_se"] == pytest.approx(bits.std(ddof=1) / math.sqrt(101), rel=1e-12)
        assert metric.facts == {"kind": "bound", "num_samples": 64, "n": 101, "given_labels": False}


def test_sums_stay_accurate_on_large_images_that_differ_little():
    spec = ImageSpec(3, 64, 64)
    nats = torch.tensor([-40_000.0, -40_001.0], dtype=torch.float64).repeat(5_000)
    metric = BitsPerDimension(spec)
    metric.update(nats, "exact")
    bits = nats.numpy() / (-math.log(2) * spec.dims)
    assert metric.compute()["bpd_se"] == pytest.approx(bits.std(ddof=1) / 100, rel=1e-6)


def test_the_states_of_ranks_add_up_to_those_of_one(generator):
    nats = torch.randn(30, generator=generator, dtype=torch.float64) * 9 - 100
    alone = BitsPerDimension(DIGITS)
    alone.update(nats, "dequantized", 4)
    ranks = [BitsPerDimension(DIGITS) for _ in range(3)]  # the last has no image of its own
    ranks[0].update(nats[::2], "dequantized", 4)
    ranks[1].update(nats[1::2], "dequantized", 4)
    together = ranks[2]
    for name, reduce in together._reductions.items():
        setattr(together, name, reduce(torch.stack([getattr(rank, name) for rank in ranks])))
    together._update_count = 1
    assert together.compute() == pytest.approx(alone.compute(), rel=1e-14)
    assert together.facts == alone.facts


def test_one_image_has_no_standard_error():
    metric = BitsPerDimension(DIGITS)
    metric.update(torch.tensor([-100.0]), "exact")
    assert math.isnan(metric.compute()["bpd_se"])


def test_what_is_not_finite_is_counted_and_refused():
    metric = BitsPerDimension(DIGITS)
    metric.update(torch.tensor([-1.0, float("-inf"), -2.0]), "exact")
    metric.update(torch.tensor([float("nan"), -1.0]), "exact")
    with pytest.raises(InputError, match=r"2 of 5 images have a log-probability that is not finite, .* no bpd"):
        metric.compute()


def test_bad_input_is_refused():
    metric = BitsPerDimension(DIGITS)
    with pytest.raises(InputError, match="no image arrived"), pytest.warns(UserWarning, match="before the ``update``"):
        metric.compute()
    with pytest.raises(InputError, match=r"expected nats \(B,\).* \(3, 2\)"):
        metric.update(torch.zeros(3, 2), "exact")
    with pytest.raises(InputError, match=r"expected nats \(B,\).*int64"):
        metric.update(torch.zeros(3, dtype=torch.int64), "exact")
    metric.update(torch.zeros(3), "bound", 5)
    with pytest.raises(InputError, match="must not be mixed in one figure, got exact of 1 samples after bound of 5"):
        metric.update(torch.zeros(3), "exact")
    with pytest.raises(InputError, match="must not be mixed in one figure, got bound of 6"):
        metric.update(torch.zeros(3), "bound", 6)


# Calibration


def test_calibration_error_is_a_loop_over_bins(generator):
    log_probs = (torch.randn(40, 2, 3, 3, 4, generator=generator, dtype=torch.float64) * 2).log_softmax(-1)
    levels = torch.randint(4, (40, 2, 3, 3), generator=generator)
    metric = Calibration(bins=6)
    for part in torch.arange(40).split(13):
        metric.update(log_probs[part], levels[part].byte())
    probs = log_probs.exp().numpy().reshape(-1, 4)
    confidence, hit = probs.max(1), probs.argmax(1) == levels.numpy().ravel()
    error, curve = 0.0, []
    for i in range(6):
        own = (confidence >= i / 6) & (confidence < (i + 1) / 6)
        if own.any():
            error += own.mean() * abs(hit[own].mean() - confidence[own].mean())
            curve.append((confidence[own].mean(), hit[own].mean(), own.mean()))
    assert metric.compute()["calibration_error"] == pytest.approx(error, rel=1e-10)
    np.testing.assert_allclose(torch.stack(metric.curve(), 1).numpy(), curve, rtol=1e-10)


def test_levels_drawn_from_the_predictions_are_calibrated(generator):
    log_probs = (torch.randn(40_000, 5, generator=generator) * 2).log_softmax(-1)
    levels = torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0]
    fair, sure = Calibration(), Calibration()
    fair.update(log_probs, levels)
    sure.update((4 * log_probs).log_softmax(-1), levels)
    assert fair.compute()["calibration_error"] < 0.01
    assert sure.compute()["calibration_error"] > 0.1


def test_calibration_refuses_nothing_and_no_bins():
    with pytest.raises(InputError, match="bins must be at least 1, got 0"):
        Calibration(bins=0)
    with pytest.raises(InputError, match="no prediction arrived"), pytest.warns(UserWarning, match="before the"):
        Calibration().compute()
