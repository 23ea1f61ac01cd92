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

NOTHING = 2.0**-60  # negligible responsibility


def noise_channel(levels: int, blur: float, width: float, ends: float) -> Tensor:
    r"""Return the transition matrix (levels, levels) of a noisy channel: row b is S(a | b), and sums to 1.

    .. math:: S(a \mid b) = (1 - \epsilon_b)\,[a = b] + \epsilon_b\, e^{-|a - b| / h} \big/ \sum_c e^{-|c - b| / h}

    Args:
        levels: number of levels.
        blur: epsilon, probability of a draw from the kernel.
        width: h, in levels.
        ends: epsilon of the lowest and the highest level, which often mean background and ink.
    """
    line = torch.arange(levels, dtype=torch.float64)
    kernel = torch.exp(-(line[:, None] - line).abs() / width)
    share = torch.full((levels, 1), blur, dtype=torch.float64)
    share[[0, -1]] = ends
    return (1 - share) * torch.eye(levels, dtype=torch.float64) + share * kernel / kernel.sum(1, keepdim=True)


class CategoricalComponents(Components):
    r"""K products of independent categoricals over levels, :math:`p(x \mid k) = \prod_d \theta_{kd}(x_d)`.

    Training passes each level through the :func:`noise_channel` S and takes the exact expectation over it: the E step
    uses :math:`\sum_d \sum_a S(a \mid x_d) \log \theta_{kd}(a)`. The prior of each table is a Dirichlet distribution
    worth ``smoothing`` images spread evenly over levels and ``shared`` images distributed like the training images.

    Args:
        count: K.
        dims: D.
        levels: number of levels L.
        smoothing: pseudo-images spread evenly over levels; above 0.
        shared: pseudo-images distributed like the training images.
        blur: probability of a draw from the channel's kernel.
        blur_width: width of the kernel, in levels.
        blur_ends: the same probability for the lowest and the highest level.

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
        """Return these statistics of all rows of x with responsibility 1."""
        total: Statistics = {}
        for part in x.split(rows_at_once(self.row_cost)):
            found = self.statistics(part, x.new_ones(len(part), 1, dtype=torch.float64))
            add_statistics(total, {name: found[name][0] for name in names})
        return [total[name] for name in names]

    def _cells(self, x: Tensor) -> Tensor:
        """Return the index (B, D) of each level x (B, D) in a flattened table (D, L)."""
        return x + torch.arange(self.dims, device=x.device) * self.levels

    def log_prob(self, x: Tensor) -> Tensor:
        return self._look_up(self.table, x)

    def expected_log_prob(self, x: Tensor) -> Tensor:
        return self._look_up(self.blurred, x)

    def hold(self, name: str, value: Tensor) -> None:
        super().hold(name, value)
        self.blur_table()

    def blur_table(self) -> None:
        """Apply the channel to the table, once per M step: with many levels this dominates the cost."""
        self.register_buffer("blurred", self._through_channel(self.table.detach()), persistent=False)

    def _through_channel(self, table: Tensor) -> Tensor:
        return table @ self.channel.T

    def _look_up(self, table: Tensor, x: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the sum over pixels, (B, K), of the entries of a table (K, D, L) at levels x (B, D)."""
        cells, columns = self._cells(x), []
        for rows in table:  # one component at a time: its table fits into the cache
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
    """Return weighted counts (K, size) of cells, where row b adds its ``shares`` (B, K) to each of its ``cells``
    (B, M)."""
    counts = shares.new_zeros(shares.shape[1], size)
    for k, share in enumerate(shares.T):
        # Smaller shares are lost to rounding beside a share of 1; most images belong to one component.
        rows = torch.nonzero(share > NOTHING)[:, 0]
        counts[k].scatter_add_(0, cells[rows].view(-1), share[rows].repeat_interleave(cells.shape[1]))
    return counts


def quantile(probability: Tensor, numbers: Tensor) -> Tensor:
    """Return the quantiles (R, n) at uniform numbers (R, n) of the distributions with probabilities (R, L)."""
    ends = probability.cumsum(1)
    # Scaled by the total, which rounding may make different from 1.
    return torch.searchsorted(ends, (numbers * ends[:, -1:]).contiguous(), right=True).clamp_(max=ends.shape[1] - 1)
