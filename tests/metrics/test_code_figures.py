"""Figures of codes against closed forms: batches and ranks add up."""

import math

import numpy as np
import pytest
import torch

from lightning_gen.core.spec import ImageSpec
from lightning_gen.metrics.codes import CodePerplexity, ReconstructionBits, UsedCodes

SPEC = ImageSpec(1, 4, 3, levels=256)


def test_reconstruction_bits_are_the_mean_cost_of_a_pixel(generator):
    nats = -50 * torch.rand(10, generator=generator)
    metric = ReconstructionBits(SPEC)
    for part in nats.split([1, 4, 5]):
        metric.update(part)
    expected = -float(nats.double().mean()) / (12 * math.log(2))
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-12)
    # What is exactly as likely as eight coins for each pixel costs eight bits.
    metric.reset()
    metric.update(torch.full((3,), -12 * 8 * math.log(2), dtype=torch.float64))
    assert float(metric.compute()) == pytest.approx(8, rel=1e-12)


def test_perplexity_and_used_codes_are_of_all_codes_together(generator):
    codes = torch.randint(5, (8, 2, 3), generator=generator)
    perplexity, used = CodePerplexity(7), UsedCodes(7)
    for part in codes.split([1, 7]):
        perplexity.update(part)
        used.update(part)
    shares = np.bincount(codes.flatten(), minlength=7) / codes.numel()
    shares = shares[shares > 0]
    assert float(perplexity.compute()) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert int(used.compute()) == len(shares)
    perplexity.reset(), used.reset()
    every = torch.arange(7).repeat(3)
    perplexity.update(every), used.update(every)
    assert float(perplexity.compute()) == pytest.approx(7)
    assert int(used.compute()) == 7


def test_states_of_ranks_add_up(generator):
    codes, nats = torch.randint(5, (8, 6), generator=generator), torch.randn(8, generator=generator)
    for make, given in ((lambda: ReconstructionBits(SPEC), nats), (lambda: CodePerplexity(7), codes)):
        whole, first, second = make(), make(), make()
        whole.update(given), first.update(given[:3]), second.update(given[3:])
        for name, value in whole.metric_state.items():
            torch.testing.assert_close(first.metric_state[name] + second.metric_state[name], value)
