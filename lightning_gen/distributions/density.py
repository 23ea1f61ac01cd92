"""The interface of distributions fitted by expectation maximisation."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_gen.distributions.components import Statistics


class Density(nn.Module, ABC):
    """A distribution p(x) of data (B, D), or one per class, p(x | y), with class probabilities p(y).

    If ``labels`` (B,) are None, methods marginalise over classes; otherwise they condition on them. Parameters are
    float64 and set by :meth:`maximisation`; sufficient statistics are sums, additive over batches and ranks.

    Attributes:
        groups: number of classes G; 1 without classes.
    """

    groups: int

    @property
    @abstractmethod
    def free_parameters(self) -> int:
        """Number of free parameters of p(x), or of p(x | y) for all classes y."""

    @property
    @abstractmethod
    def clusters(self) -> tuple[int, str]:
        """Number of clusters that the initialisation needs per class, and the name of what they become."""

    @property
    @abstractmethod
    def row_cost(self) -> int:
        """Working memory per row, in numbers."""

    @abstractmethod
    def start(self, x: Tensor, levels: Tensor, labels: Tensor | None, seed: int) -> None:
        """Initialise the parameters from data x (N, D) of levels (N, D), at random given the seed."""

    @abstractmethod
    def expectation(self, x: Tensor, labels: Tensor | None) -> Statistics:
        """E step: return the sufficient statistics (sums over rows) for :meth:`maximisation`, and as
        ``log_likelihood`` the sum of the training objective without the prior."""

    @abstractmethod
    def maximisation(self, statistics: Statistics) -> None:
        """M step: set the parameters to their optimum for these statistics, in place."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """Return the log prior of the parameters, a scalar, up to a constant."""

    @abstractmethod
    def log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(x), nats (B,), of data (B, D)."""

    @abstractmethod
    def known_log_prob(self, x: Tensor, known: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p, nats (B,), of the dimensions where ``known`` (B, D) is true, marginalising over the others."""

    @abstractmethod
    def sample(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw data (n, D)."""

    @abstractmethod
    def complete(self, x: Tensor, known: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return x (B, D) with the unknown dimensions drawn from their conditional distribution."""
