"""Histograms of codes against loops, enumeration and closed forms."""

import itertools

import numpy as np
import pytest
import torch

from lightning_gen.core.ranks import Ranks
from lightning_gen.distributions.histograms import HALF_LIFE, UNSEEN, CodeHistograms

GRID, CODES = (2, 1), 3
EVERY = torch.tensor(list(itertools.product(range(CODES), repeat=2))).view(-1, *GRID)


def batches(count: int, n: int) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randint(CODES, (n, *GRID), generator=source).clamp_(max=1) for _ in range(count)]


def learnt(n: int = 50) -> CodeHistograms:
    histograms = CodeHistograms(GRID, CODES)
    for batch in batches(4, n):
        histograms.learn(batch, Ranks())
    return histograms


def test_counts_are_those_of_a_loop_whose_images_fade():
    histograms, counts = CodeHistograms(GRID, CODES), np.zeros((2, CODES))
    for batch in batches(5, 700):
        uses = histograms.learn(batch, Ranks())
        counts *= 0.5 ** (700 / HALF_LIFE)
        for place, code in itertools.product(range(2), range(CODES)):
            counts[place, code] += int((batch.flatten(1)[:, place] == code).sum())
        np.testing.assert_allclose(histograms.counts.numpy(), counts, rtol=1e-5)
        # In mean over images, of all places together: what a perplexity is taken of.
        np.testing.assert_allclose(uses.numpy(), np.bincount(batch.flatten(), minlength=CODES) / 700, rtol=1e-6)


def test_an_image_counts_half_after_the_half_life():
    histograms = CodeHistograms((1, 1), 2)
    histograms.learn(torch.zeros(1, 1, 1, dtype=torch.int64), Ranks())
    for _ in range(10):
        histograms.learn(torch.ones(HALF_LIFE // 10, 1, 1, dtype=torch.int64), Ranks())
    assert float(histograms.counts[0, 0]) == pytest.approx(0.5, rel=1e-5)


def test_probabilities_are_products_of_shares_with_half_a_use_each_beforehand():
    histograms = learnt()
    assert float(histograms.log_prob(EVERY).exp().sum()) == pytest.approx(1, rel=1e-12)
    counts = histograms.counts.double().numpy() + UNSEEN
    shares = counts / counts.sum(1, keepdims=True)
    expected = [shares[0, a] * shares[1, b] for a, b in EVERY.flatten(1).tolist()]
    np.testing.assert_allclose(histograms.log_prob(EVERY).exp(), expected, rtol=1e-12)
    assert histograms.log_prob(EVERY).dtype == torch.float64
    assert shares[:, 2].min() > 0  # a code that was never seen
    untrained = CodeHistograms(GRID, CODES).log_prob(EVERY)
    np.testing.assert_allclose(untrained, np.full(9, -2 * np.log(3)), rtol=1e-12)


def test_draws_are_as_frequent_as_they_are_probable(generator):
    histograms, n = learnt(), 20_000
    drawn = histograms.sample(n, generator)
    assert drawn.shape == (n, *GRID)
    assert drawn.dtype == torch.int64
    share = torch.bincount(CODES * drawn[:, 0, 0] + drawn[:, 1, 0], minlength=9) / n
    chance = histograms.log_prob(EVERY).exp()
    assert ((share - chance).abs() < 5 * (chance / n).sqrt()).all()
    again = torch.Generator().manual_seed(0)
    assert torch.equal(histograms.sample(n, again), drawn)


def test_ranks_learn_what_one_process_does():
    class Two(Ranks):
        """A rank of two, whose sum is known beforehand."""

        total: torch.Tensor

        def sum(self, value):
            return self.total

    whole = CodeHistograms(GRID, CODES)
    [batch] = batches(1, 60)
    uses = whole.learn(batch, Ranks())
    parts = batch.split(30)
    counts = sum(torch.nn.functional.one_hot(part.flatten(1), CODES).sum(0) for part in parts).float()
    for rank in range(2):
        own, ranks = CodeHistograms(GRID, CODES), Two(rank, 2)
        ranks.total = counts / 30
        torch.testing.assert_close(own.learn(parts[rank], ranks), uses)
        torch.testing.assert_close(own.counts, whole.counts)


def test_counts_are_stored_with_a_model():
    histograms = learnt()
    loaded = CodeHistograms(GRID, CODES)
    loaded.load_state_dict(histograms.state_dict())
    assert torch.equal(loaded.log_shares(), histograms.log_shares())
