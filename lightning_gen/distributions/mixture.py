"""Mixtures of components."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_gen.core import categorical_of_logits, check_positive
from lightning_gen.distributions.clusters import kmeans
from lightning_gen.distributions.components import Components, Statistics
from lightning_gen.distributions.density import Density


class Mixture(Density):
    r"""Mixture of K components, :math:`p(x) = \sum_k w_k\, p(x \mid k)`, fitted by EM (Dempster et al. 1977).

    With classes, each has its own K components, :math:`p(x \mid y) = \sum_k w_{yk}\, p(x \mid y, k)`. Weights have a
    Dirichlet prior worth one image per component. All components are evaluated, even given labels.

    Args:
        make: factory of the components from their total number.
        components: number of components K per class.
        groups: number of classes G.

    Raises:
        InputError: for no component.
    """

    weight_prior = 1.0

    def __init__(self, make: Callable[[int], Components], components: int, groups: int = 1):
        super().__init__()
        check_positive(self, components=components)
        self.components, self.groups = components, groups
        self.parts = make(groups * components)
        weights = torch.full((groups, components), -math.log(components), dtype=torch.float64)
        self.log_weights = torch.nn.Parameter(weights)
        self.log_class_shares = torch.nn.Parameter(torch.full((groups,), -math.log(groups), dtype=torch.float64))

    def log_mixing(self, labels: Tensor | None) -> Tensor:
        """Return the log probability of each component, (1, G K), or given labels (B, G K)."""
        if labels is None:
            return (self.log_class_shares[:, None] + self.log_weights).view(1, -1)
        own = torch.nn.functional.one_hot(labels, self.groups).bool()[:, :, None]
        return self.log_weights.expand(len(labels), -1, -1).masked_fill(~own, -torch.inf).flatten(1)

    def log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return (self.parts.log_prob(x) + self.log_mixing(labels)).logsumexp(1)

    def known_log_prob(self, x: Tensor, known: Tensor, labels: Tensor | None = None) -> Tensor:
        return (self.parts.known_log_prob(x, known) + self.log_mixing(labels)).logsumexp(1)

    def sample(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        component = categorical_of_logits(self.log_mixing(labels).expand(n, -1), generator)
        return self.parts.sample(component, generator)

    def complete(self, x: Tensor, known: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        # Draw the component from its posterior given the known dimensions, then the rest given both.
        joint = self.parts.known_log_prob(x, known) + self.log_mixing(labels)
        return self.parts.complete(x, known, categorical_of_logits(joint, generator), generator)

    def expectation(self, x: Tensor, labels: Tensor | None) -> Statistics:
        joint = self.parts.expected_log_prob(x) + self.log_mixing(labels)
        total = joint.logsumexp(1)
        shares = (joint - total[:, None]).exp()
        return {**self.parts.statistics(x, shares), "weight": shares.sum(0), "log_likelihood": total.sum()}

    def maximisation(self, statistics: Statistics) -> None:
        self.parts.update(statistics)
        self._set_weights(statistics["weight"])

    def _set_weights(self, counts: Tensor) -> None:
        counts = counts.view(self.groups, self.components) + self.weight_prior
        total = counts.sum(1, keepdim=True)
        self.log_weights.data.copy_((counts / total).log())
        self.log_class_shares.data.copy_((total[:, 0] / total.sum()).log())

    def log_prior(self) -> Tensor:
        return self.parts.log_prior() + self.weight_prior * self.log_weights.sum()

    def start(self, x: Tensor, levels: Tensor, labels: Tensor | None, seed: int) -> None:
        groups = torch.zeros(len(x), dtype=torch.int64, device=x.device) if labels is None else labels
        shares = torch.zeros(len(x), self.groups * self.components, dtype=torch.float64, device=x.device)
        for group in range(self.groups):
            rows = torch.nonzero(groups == group)[:, 0]
            cluster = kmeans(levels[rows].to(torch.float64), self.components, seed)
            shares[rows, group * self.components + cluster] = 1
        self.parts.prepare(x)
        self.parts.start(x, shares)
        self._set_weights(shares.sum(0))

    @property
    def free_parameters(self) -> int:
        return self.parts.free_parameters + self.groups * (self.components - 1)

    @property
    def row_cost(self) -> int:
        return self.parts.row_cost

    @property
    def clusters(self) -> tuple[int, str]:
        return self.components, "components"
