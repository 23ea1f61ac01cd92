"""Which parameters of a sweep decide its figure: a random forest's permutation importance, and rank correlation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 10  # finished trials
TREES = 300


@dataclass(frozen=True)
class Column:
    """One parameter over all trials.

    Attributes:
        name: dotted.
        numbers: its values (n,) where all are numbers, else None.
        choices: its values (n,) as text.
    """

    name: str
    numbers: np.ndarray | None
    choices: tuple[str, ...]

    def encoded(self) -> np.ndarray:
        """Return what a forest sees, (n, 1) or, of choices without an order, (n, number of choices)."""
        if self.numbers is not None:
            return self.numbers[:, None]
        kinds = sorted(set(self.choices))
        return np.array([[float(choice == kind) for kind in kinds] for choice in self.choices])


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks 1 .. n of values (n,); equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Spearman's rank correlation of x and y (n,); None where one of them does not vary."""
    x, y = ranks(x) - (len(x) + 1) / 2, ranks(y) - (len(y) + 1) / 2
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale else None


def forest_importance(columns: Sequence[Column], values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    r"""Return the importance of each parameter and the R² of the forest, both out of bag.

    A regression forest predicts the rank of the value, so that one diverged trial does not decide everything. With
    :math:`E` its squared error on trials that a tree has not seen, and :math:`E_p` that error once the values of
    parameter p are permuted among them, the importance is :math:`(E_p - E) / \mathrm{Var}`: the share of the ranks'
    variance that is lost without p (Breiman, 2001). Choices are permuted as a whole, not indicator by indicator.

    Args:
        columns: parameters of the n trials.
        values: what the trials reached, (n,).
        seed: of trees and permutations.
    """
    from sklearn.ensemble import RandomForestRegressor  # seconds to import, and not every report has a sweep

    blocks = [column.encoded() for column in columns]
    inputs = np.concatenate(blocks, axis=1).astype(np.float32)
    owner = np.repeat(np.arange(len(blocks)), [block.shape[1] for block in blocks])
    target = ranks(values)
    forest = RandomForestRegressor(TREES, min_samples_leaf=2, max_features=0.5, oob_score=True, random_state=seed)
    forest.fit(inputs, target)
    source = np.random.default_rng(seed)
    lost, count = np.zeros(len(blocks)), 0
    for tree, drawn in zip(forest.estimators_, forest.estimators_samples_, strict=True):
        unseen = np.setdiff1d(np.arange(len(target)), drawn)
        if not len(unseen):
            continue
        tried = np.repeat(inputs[unseen][None], len(blocks) + 1, axis=0)  # as they are, then each parameter permuted
        for p in range(len(blocks)):
            tried[p + 1][:, owner == p] = inputs[source.permutation(unseen)][:, owner == p]
        predicted = tree.predict(tried.reshape(-1, inputs.shape[1])).reshape(len(tried), -1)
        errors = np.square(predicted - target[unseen]).sum(axis=1)
        lost += errors[1:] - errors[0]
        count += len(unseen)
    return lost / (count * target.var()), float(forest.oob_score_)
