"""What a distribution is that expectation maximisation fits."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_gen.distributions.components import Statistics


class Density(nn.Module, ABC):
    """A distribution p(x) of rows of data (B, D), or one for each of G classes, p(x | y), with their shares p(y).

    Where ``labels`` (B,) are None, classes are summed out; otherwise everything is given the class. Parameters are
    float64 and set by :meth:`maximisation`; statistics are sums over rows, so those of batches and ranks add up.

    Attributes:
        groups: number of classes G; 1 where there are none.
    """

    groups: int

    @property
    @abstractmethod
    def free_parameters(self) -> int:
        """Number of free parameters; of several classes those of p(x | y), not the classes' shares."""

    @property
    @abstractmethod
    def clusters(self) -> tuple[int, str]:
        """How many clusters a start needs, in each class, and what they become."""

    @property
    @abstractmethod
    def row_cost(self) -> int:
        """Numbers that the work on one row takes at once."""

    @abstractmethod
    def start(self, x: Tensor, levels: Tensor, labels: Tensor | None, seed: int) -> None:
        """Choose first parameters from data x (N, D), which are of levels (N, D); other ones for another seed."""

    @abstractmethod
    def expectation(self, x: Tensor, labels: Tensor | None) -> Statistics:
        """Return the sums over rows that :meth:`maximisation` needs, and that of their log likelihoods as
        ``log_likelihood`` (as training sees it, without the prior)."""

    @abstractmethod
    def maximisation(self, statistics: Statistics) -> None:
        """Set the parameters that are best at these statistics, in place."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """Return the log prior of the parameters, a scalar, up to a constant."""

    @abstractmethod
    def log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p, nats (B,)."""

    @abstractmethod
    def known_log_prob(self, x: Tensor, known: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p (B,) of the numbers where ``known`` (B, D) is true, the others summed out."""

    @abstractmethod
    def sample(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw data (n, D)."""

    @abstractmethod
    def complete(self, x: Tensor, known: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return x (B, D) with the numbers that are not known drawn given the others."""
