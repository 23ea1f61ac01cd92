"""Components of independent categorical pixels."""

import torch
from torch import Tensor

from lightning_gen.core import check, check_within, uniform
from lightning_gen.distributions.components import (
    Components,
    Statistics,
    add_statistics,
    rows_at_once,
    rows_by_component,
)

NOTHING = 2.0**-60  # of an image


def noise_channel(levels: int, blur: float, width: float, ends: float) -> Tensor:
    r"""Return a channel (levels, levels) that moves a level to a neighbouring one: row b is S(a | b), and sums to 1.

    .. math:: S(a \mid b) = (1 - \epsilon_b)\,[a = b] + \epsilon_b\, e^{-|a - b| / h} \big/ \sum_c e^{-|c - b| / h}

    Args:
        levels: number of levels.
        blur: epsilon, probability of a draw from the kernel.
        width: h, in levels.
        ends: epsilon of the lowest and the highest level, which are more than one level among others where they stand
            for paper and ink.
    """
    line = torch.arange(levels, dtype=torch.float64)
    kernel = torch.exp(-(line[:, None] - line).abs() / width)
    share = torch.full((levels, 1), blur, dtype=torch.float64)
    share[[0, -1]] = ends
    return (1 - share) * torch.eye(levels, dtype=torch.float64) + share * kernel / kernel.sum(1, keepdim=True)


class CategoricalComponents(Components):
    r"""K products of independent categoricals over levels, :math:`p(x \mid k) = \prod_d \theta_{kd}(x_d)`.

    Tables are blurred and smoothed. Blur: training sees each level through the :func:`noise_channel` S, whose
    expectation is taken exactly; images are assigned by :math:`\sum_d \sum_a S(a \mid x_d) \log \theta_{kd}(a)`. The
    prior of each table is a Dirichlet distribution, as strong as ``smoothing`` images spread over all levels and
    ``shared`` images like the average training image.

    Args:
        count: K.
        dims: D.
        levels: number of levels L.
        smoothing: images that are added, spread evenly; above 0.
        shared: images that are added, distributed as all training images are.
        blur: share of draws from the channel's kernel.
        blur_width: of the kernel, in levels.
        blur_ends: share of draws from the kernel at the lowest and the highest level.

    Raises:
        InputError: for numbers out of range.
    """

    def __init__(
        self,
        count: int,
        dims: int,
        levels: int,
        smoothing: float = 1.0,
        shared: float = 0.0,
        blur: float = 0.0,
        blur_width: float = 1.0,
        blur_ends: float = 0.0,
    ):
        super().__init__(count, dims)
        check(self, "smoothing", smoothing, smoothing > 0, "above 0 images")
        check(self, "shared", shared, shared >= 0, "at least 0 images")
        check_within(self, "[0, 1]", blur=blur, blur_ends=blur_ends)
        check(self, "blur_width", blur_width, blur_width > 0, "above 0 levels")
        self.levels = levels
        self.smoothing = smoothing
        self.shared = shared
        self.register_load_state_dict_post_hook(lambda components, keys: components.blur_table())
        self.register_buffer("channel", noise_channel(levels, blur, blur_width, blur_ends))
        self._begin()

    def _begin(self) -> None:
        even = torch.full((self.dims, self.levels), 1 / self.levels, dtype=torch.float64)
        self.register_buffer("prior", self.smoothing * even)
        self.hold("table", even.log().repeat(self.count, 1, 1))

    @property
    def free_parameters(self) -> int:
        return self.count * self.dims * (self.levels - 1)

    @property
    def row_cost(self) -> int:
        return self.dims + self.count

    def prepare(self, x: Tensor) -> None:
        counts = self._counts_of(x, "levels")[0]
        self.prior.copy_(self.smoothing / self.levels + self.shared / len(x) * counts @ self.channel)

    def _counts_of(self, x: Tensor, *names: str) -> list[Tensor]:
        """Return these statistics of all rows of x, as of one component."""
        total: Statistics = {}
        for part in x.split(rows_at_once(self.row_cost)):
            found = self.statistics(part, x.new_ones(len(part), 1, dtype=torch.float64))
            add_statistics(total, {name: found[name][0] for name in names})
        return [total[name] for name in names]

    def _cells(self, x: Tensor) -> Tensor:
        """Return, for levels x (B, D), which of the D L cells of a table each pixel falls into."""
        return x + torch.arange(self.dims, device=x.device) * self.levels

    def log_prob(self, x: Tensor) -> Tensor:
        return self._look_up(self.table, x)

    def expected_log_prob(self, x: Tensor) -> Tensor:
        return self._look_up(self.blurred, x)

    def hold(self, name: str, value: Tensor) -> None:
        super().hold(name, value)
        self.blur_table()

    def blur_table(self) -> None:
        """Take the table through the channel, once for each M step: with many levels it costs more than all else."""
        self.register_buffer("blurred", self._through_channel(self.table.detach()), persistent=False)

    def _through_channel(self, table: Tensor) -> Tensor:
        return table @ self.channel.T

    def _look_up(self, table: Tensor, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the sum over pixels of what a table (K, D, L) holds for levels x (B, D), (B, K)."""
        cells, columns = self._cells(x), []
        for rows in table:  # one component's table stays in the cache, where all of them would not
            found = rows.reshape(-1)[cells]
            columns.append((found if known is None else found.masked_fill_(~known, 0.0)).sum(1))
        return torch.stack(columns, 1)

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        return {
            "count": shares.sum(0),
            "levels": count_cells(self._cells(x), shares, self.dims * self.levels).unflatten(1, (self.dims, -1)),
        }

    def update(self, statistics: Statistics) -> None:
        counts = statistics["levels"] @ self.channel + self.prior
        self.hold("table", (counts / counts.sum(2, keepdim=True)).log())

    def log_prior(self) -> Tensor:
        return (self.prior * self.table).sum()

    def sample(self, component: Tensor, generator: torch.Generator) -> Tensor:
        numbers = uniform(len(component), self.dims, generator=generator, device=component.device, dtype=torch.float64)
        out = torch.empty_like(numbers, dtype=torch.int64)
        for k, rows in rows_by_component(component):
            out[rows] = quantile(self.table[k].exp(), numbers[rows].T).T
        return out

    def known_log_prob(self, x: Tensor, known: Tensor) -> Tensor:
        return self._look_up(self.table, x, known)

    def complete(self, x: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        return torch.where(known, x, self.sample(component, generator))


def count_cells(cells: Tensor, shares: Tensor, size: int) -> Tensor:
    """Return how much falls into each of ``size`` cells, (K, size), where row b adds ``shares`` (B, K) to all of its
    ``cells`` (B, M)."""
    counts = shares.new_zeros(shares.shape[1], size)
    for k, share in enumerate(shares.T):
        # Less than this of an image is lost beside one whole image anyway, and most images are of one component.
        rows = torch.nonzero(share > NOTHING)[:, 0]
        counts[k].scatter_add_(0, cells[rows].view(-1), share[rows].repeat_interleave(cells.shape[1]))
    return counts


def quantile(probability: Tensor, numbers: Tensor) -> Tensor:
    """Return the level (R, n) that each uniform number (R, n) falls on, by probabilities (R, L) of each row."""
    ends = probability.cumsum(1)
    # Scaled, so that rounding never leaves a gap at the upper end.
    return torch.searchsorted(ends, (numbers * ends[:, -1:]).contiguous(), right=True).clamp_(max=ends.shape[1] - 1)
