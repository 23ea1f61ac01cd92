"""Inception Score: how sure and how varied the classes of generated images are."""

import torch
from torch import Tensor

from lightning_gen.core import Figure, InputError, check_at_least
from lightning_gen.metrics.base import FeatureMetric, FeatureSet, fixed_permutation


def inception_score(logits: Tensor, splits: int = 1) -> tuple[Tensor, Tensor]:
    r"""Mean and population standard deviation over splits of
    :math:`\exp \mathbb{E}_x \mathrm{KL}(p(y|x) \,\|\, p(y))` (Salimans et al. 2016), float64 scalars in [1, K].

    The rows are cut into consecutive splits as they come: permute them first if their order means something.

    Args:
        logits: class scores (N, K) before the softmax.
        splits: number of splits, at most N.

    Raises:
        InputError: for fewer rows than splits.
    """
    if not 1 <= splits <= len(logits):
        raise InputError(f"inception_score: {splits} splits need at least as many images, got {len(logits)}")
    log_p = logits.double().log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = log_p[i * len(log_p) // splits : (i + 1) * len(log_p) // splits]
        p = part.exp()
        # xlogy: a class that never occurs contributes 0, not NaN
        marginal_entropy = -torch.special.xlogy(p.mean(0), p.mean(0)).sum()
        entropy = -(p * part).nan_to_num(0.0).sum(1).mean()
        scores.append((marginal_entropy - entropy).exp())
    stacked = torch.stack(scores)
    return stacked.mean(), stacked.std(correction=0)


class InceptionScore(FeatureMetric):
    """Inception Score of generated images by the extractor's own classes: ``is``, ``is/std`` (Salimans et al. 2016).

    Images are taken in the order of a fixed permutation of their sample index, so that the splits are the same
    whatever the order of arrival. The standard deviation is the population's, over splits.

    Args:
        splits: number of splits.
    """

    keeps = frozenset({"logits"})
    figures = (
        Figure("is", "Inception Score: how sure and how various the drawn classes are", higher=True, leads=True),
    )

    def __init__(self, splits: int = 10) -> None:
        super().__init__()
        check_at_least(self, 1, splits=splits)
        self.splits = self.least = splits

    def score(self, samples: FeatureSet) -> dict[str, float]:
        self.require_samples(samples)
        if samples.logits is None:
            raise InputError("InceptionScore needs an extractor that gives logits; this one gives features only")
        order = fixed_permutation(samples.count).to(samples.logits.device)
        mean, std = inception_score(samples.logits[order], self.splits)
        return {"is": float(mean), "is/std": float(std)}
