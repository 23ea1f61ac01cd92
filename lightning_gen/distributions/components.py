"""What the components of a mixture have in common."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_gen.core import check_at_least

Statistics = dict[str, Tensor]

CHUNK = 2**21  # numbers, 16 MiB: what the work on one chunk of images takes at once
MOST_BYTES = 2 * 2**30  # of what grows with the square of the number of pixels


class Components(nn.Module, ABC):
    r"""K distributions :math:`p(x \mid k)` of vectors of D numbers, fitted by expectation maximisation.

    Parameters are float64 and not meant for gradient descent: :meth:`update` sets them. Statistics are sums over
    images, so those of batches and ranks add up to those of all images.

    Args:
        count: number K of components.
        dims: length D of a vector.

    Raises:
        InputError: for a number below 1.
    """

    def __init__(self, count: int, dims: int):
        super().__init__()
        check_at_least(self, 1, count=count, dims=dims)
        self.count = count
        self.dims = dims

    def hold(self, name: str, value: Tensor) -> None:
        """Make ``value`` the parameter ``name``, or set it where it is one already."""
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
        """Numbers that the work on one image takes at once: what the size of chunks is chosen by."""

    def prepare(self, x: Tensor) -> None:
        """Take from first data (N, D) what a prior needs, before any other method; by default nothing."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x | k) of data (B, D), (B, K)."""

    def expected_log_prob(self, x: Tensor) -> Tensor:
        """Return what training assigns images by, (B, K): log p(x | k), averaged over the noise that smooths data."""
        return self.log_prob(x)

    @abstractmethod
    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        """Return sufficient statistics of data (B, D) that belong to the components by ``shares`` (B, K)."""

    @abstractmethod
    def update(self, statistics: Statistics) -> None:
        """Set the parameters that maximise the penalised objective at these statistics (the M step)."""

    def start(self, x: Tensor, shares: Tensor) -> None:
        """Set first parameters from data (N, D) and their shares (N, K), each row all in one component."""
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
        """Draw one vector of each of the components (n,); (n, D)."""

    @abstractmethod
    def known_log_prob(self, x: Tensor, known: Tensor) -> Tensor:
        """Return log p of the dimensions where ``known`` (B, D) is true, the others summed out; (B, K)."""

    @abstractmethod
    def complete(self, x: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        """Return x (B, D) with the other dimensions drawn given the known ones and the component (B,) of each row."""


def rows_at_once(row_cost: int) -> int:
    """Return how many images of this cost make a chunk; at least one."""
    return max(1, CHUNK // row_cost)


def add_statistics(total: Statistics, more: Statistics) -> None:
    """Add ``more`` to ``total`` in place, which may be empty."""
    for name, value in more.items():
        if name in total:
            total[name] += value
        else:
            total[name] = value.clone()


def rows_by_component(component: Tensor) -> list[tuple[int, Tensor]]:
    """Return (k, rows) for each component k that occurs."""
    return [(int(k), torch.nonzero(component == k)[:, 0]) for k in component.unique()]


def rows_by_mask(known: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return (mask (D,), rows) for each row that occurs in ``known`` (B, D)."""
    masks, which = known.unique(dim=0, return_inverse=True)
    return [(mask, torch.nonzero(which == i)[:, 0]) for i, mask in enumerate(masks)]
