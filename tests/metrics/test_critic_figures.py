"""How a critic and a generator stand: ranks against all pairs, distances against loops."""

import itertools

import numpy as np
import pytest
import torch

from lightning_gen.metrics import adversarial
from lightning_gen.metrics.adversarial import figures_of_scores, ranking_accuracy, relative_spread


def images(n: int = 12, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(n, 1, 3, 2, generator=torch.Generator().manual_seed(seed)) - 1


def test_accuracy_is_the_share_of_pairs_in_which_ties_count_half(generator):
    for real in ([1.0], [3.0], [2.0], [1.0, 2.0, 2.0, 3.0], torch.randn(9, generator=generator).tolist()):
        fake = [2.0, 2.0, 1.5, 2.0, -1.0]
        pairs = itertools.product(real, fake)
        expected = sum((r > f) + 0.5 * (r == f) for r, f in pairs) / (len(real) * len(fake))
        assert float(ranking_accuracy(torch.tensor(real), torch.tensor(fake))) == pytest.approx(expected)
    scores, others = torch.randn(2, 50, generator=generator)
    # The sides exchange, and neither offset nor scale of all scores matters.
    assert float(ranking_accuracy(scores, others) + ranking_accuracy(others, scores)) == pytest.approx(1)
    moved = ranking_accuracy(3 * scores + 7, 3 * others + 7)
    assert float(moved) == pytest.approx(float(ranking_accuracy(scores, others)))
    assert float(ranking_accuracy(torch.zeros(7), torch.zeros(5))) == 0.5


def test_spread_is_the_ratio_of_mean_distances_of_pairs_of_one_class():
    drawn, real = images(), images(seed=1)
    for classes in (torch.zeros(12), torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 0])):
        means = []
        for batch in (drawn, real):
            rows = batch.flatten(1).double().numpy()
            pairs = [(a, b) for a, b in itertools.combinations(range(12), 2) if classes[a] == classes[b]]
            means.append(np.mean([np.linalg.norm(rows[a] - rows[b]) for a, b in pairs]))
        assert float(relative_spread(drawn, real, classes)) == pytest.approx(means[0] / means[1], rel=1e-5)
    assert relative_spread(drawn, real, torch.arange(12)) is None
    assert float(relative_spread(real[:1].expand(12, -1, -1, -1), real, torch.zeros(12))) == 0
    # Of images that are all the same nothing can be said, but no infinity either.
    assert torch.isfinite(relative_spread(drawn, real[:1].expand(12, -1, -1, -1), torch.zeros(12)))


def test_figures_are_of_the_critics_scores_however_many_it_judges_at_once(monkeypatch):
    real, drawn, labels = images(), images(seed=1), torch.arange(12) % 3
    asked = []

    def critic(batch, own):
        asked.append(len(batch))
        return (batch.flatten(1).sum(1) + (0 if own is None else own)).bfloat16()

    for own in (None, labels):
        expected = [critic(batch, own).float() for batch in (real, drawn)]
        for at_once, calls in ((256, [12, 12]), (5, [5, 5, 2] * 2)):
            monkeypatch.setattr(adversarial, "AT_ONCE", at_once)
            asked.clear()
            figures = figures_of_scores(critic, real, drawn, own, labels)
            assert asked == calls
            assert list(figures) == ["score_real", "score_fake", "critic_accuracy", "diversity"]
            assert torch.equal(figures["score_real"], expected[0])
            assert torch.equal(figures["score_fake"], expected[1])
            assert torch.equal(figures["critic_accuracy"], ranking_accuracy(*expected))
            assert torch.equal(figures["diversity"], relative_spread(drawn, real, labels))
    assert "diversity" not in figures_of_scores(critic, real, drawn, None, torch.arange(12))
