"""The interface of mixture components."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_gen.core import check_at_least

Statistics = dict[str, Tensor]

CHUNK = 2**21  # float64 numbers (16 MiB): working memory of one chunk of images
MOST_BYTES = 2 * 2**30  # limit of arrays that grow with the square of the number of pixels


class Components(nn.Module, ABC):
    r"""K distributions :math:`p(x \mid k)` of vectors x of dimension D, fitted by expectation maximisation.

    Parameters are float64 and set by :meth:`update`, not by gradient descent. Sufficient statistics are sums over
    images, additive over batches and ranks.

    Args:
        count: number of components K.
        dims: dimension D.

    Raises:
        InputError: for a number below 1.
    """

    def __init__(self, count: int, dims: int):
        super().__init__()
        check_at_least(self, 1, count=count, dims=dims)
        self.count = count
        self.dims = dims

    def hold(self, name: str, value: Tensor) -> None:
        """Set the parameter ``name`` to ``value``, creating it if necessary."""
        if hasattr(self, name):
            with torch.no_grad():
                getattr(self, name).copy_(value)
        else:
            self.register_parameter(name, nn.Parameter(value.to(torch.float64)))

    @property
    @abstractmethod
    def free_parameters(self) -> int:
        """Number of free parameters of all components together."""

    @property
    @abstractmethod
    def row_cost(self) -> int:
        """Working memory per image, in numbers, which determines the size of chunks."""

    def prepare(self, x: Tensor) -> None:
        """Set data-dependent priors from the first data (N, D), before initialisation; does nothing by default."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x | k), nats (B, K), of data (B, D)."""

    def expected_log_prob(self, x: Tensor) -> Tensor:
        """Return the expectation of log p(x | k) over the noise added in training, nats (B, K); used by the E step."""
        return self.log_prob(x)

    @abstractmethod
    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        """Return sufficient statistics of data (B, D), weighted by the responsibilities ``shares`` (B, K)."""

    @abstractmethod
    def update(self, statistics: Statistics) -> None:
        """M step: set the parameters that maximise the penalised objective for these statistics."""

    def start(self, x: Tensor, shares: Tensor) -> None:
        """Initialise the parameters from data (N, D) and a hard assignment ``shares`` (N, K)."""
        total: Statistics = {}
        rows = rows_at_once(self.row_cost)
        for part, share in zip(x.split(rows), shares.split(rows), strict=True):
            add_statistics(total, self.statistics(part, share))
        self.update(total)

    @abstractmethod
    def log_prior(self) -> Tensor:
        """Return the log prior of all parameters, a scalar, up to a constant."""

    @abstractmethod
    def sample(self, component: Tensor, generator: torch.Generator) -> Tensor:
        """Draw vectors (n, D), one from each of the given components (n,)."""

    @abstractmethod
    def known_log_prob(self, x: Tensor, known: Tensor) -> Tensor:
        """Return the marginal log p, nats (B, K), of the dimensions where ``known`` (B, D) is true."""

    @abstractmethod
    def complete(self, x: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        """Return x (B, D) with unknown dimensions drawn given the known ones and the component (B,) of each row."""


def rows_at_once(row_cost: int) -> int:
    """Return the number of images of a chunk, given :attr:`Components.row_cost`; at least one."""
    return max(1, CHUNK // row_cost)


def add_statistics(total: Statistics, more: Statistics) -> None:
    """Add ``more`` in place to ``total``, which may be empty."""
    for name, value in more.items():
        if name in total:
            total[name] += value
        else:
            total[name] = value.clone()


def rows_by_component(component: Tensor) -> list[tuple[int, Tensor]]:
    """Return (k, rows) for each component k that occurs."""
    return [(int(k), torch.nonzero(component == k)[:, 0]) for k in component.unique()]


def rows_by_mask(known: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return (mask (D,), rows) for each distinct row of ``known`` (B, D)."""
    masks, which = known.unique(dim=0, return_inverse=True)
    return [(mask, torch.nonzero(which == i)[:, 0]) for i, mask in enumerate(masks)]
