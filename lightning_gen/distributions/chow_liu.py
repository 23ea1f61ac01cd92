"""Tree-structured components (Chow-Liu trees)."""

import torch
from torch import Tensor

from lightning_gen.core import InputError, uniform
from lightning_gen.distributions.categorical import CategoricalComponents, count_cells, quantile
from lightning_gen.distributions.components import MOST_BYTES, Statistics, rows_by_component


class TreeComponents(CategoricalComponents):
    r"""K trees, :math:`p(x \mid k) = \prod_d \theta_{kd}(x_d \mid x_{\pi_k(d)})` with the parent :math:`\pi_k(d)` of d.

    The M step is exact: the spanning tree of maximum mutual information between pixels (Chow and Liu 1968), computed
    from weighted, blurred pair counts plus those of a decomposable prior (Meila and Jordan 2000). The prior is worth
    ``smoothing`` images of uniform levels and ``shared`` images distributed like the training images.

    The counts of all pairs of pixels take :math:`8 K L^2 D (D-1) / 2` bytes.

    Arguments are those of :class:`CategoricalComponents`.

    Raises:
        InputError: if the counts would take more than 2 GiB.
    """

    def _begin(self) -> None:
        i, j = torch.triu_indices(self.dims, self.dims, 1)
        needed = 8 * self.count * len(i) * self.levels**2
        if needed > MOST_BYTES:
            raise InputError(
                f"trees of {self.dims} pixels with {self.levels} levels and {self.count} components need "
                f"{needed / 2**30:,.0f} GiB for the counts of all pairs, and 2 are allowed: "
                "take fewer components, smaller images, or CategoricalMixture"
            )
        self.register_buffer("i", i, persistent=False)
        self.register_buffer("j", j, persistent=False)
        cells = self.levels**2
        self.register_buffer("prior", torch.full((len(i), cells), self.smoothing / cells, dtype=torch.float64))
        self.register_buffer("level_prior", torch.full((self.dims, self.levels), self.smoothing / self.levels).double())
        self.register_buffer("parent", torch.full((self.count, self.dims), -1))
        self.register_buffer("order", torch.arange(self.dims).repeat(self.count, 1))
        shape = (self.count, self.dims, self.levels, self.levels)
        self.hold("table", torch.full(shape, 1 / self.levels, dtype=torch.float64).log())

    @property
    def free_parameters(self) -> int:
        return self.count * (self.levels - 1) * (1 + (self.dims - 1) * self.levels)

    @property
    def row_cost(self) -> int:
        return len(self.i) + self.dims + self.count

    def prepare(self, x: Tensor) -> None:
        levels, pairs = self._counts_of(x, "levels", "pairs")
        weight = self.shared / len(x)
        self.level_prior.copy_(self.smoothing / self.levels + weight * levels @ self.channel)
        self.prior.copy_(self.smoothing / self.levels**2 + weight * self._blurred(pairs))

    def _blurred(self, pairs: Tensor) -> Tensor:
        """Apply the channel to counts (..., L L) of pairs of levels."""
        square = pairs.unflatten(-1, (self.levels, self.levels))
        return (self.channel.T @ square @ self.channel).flatten(-2)

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        out = super().statistics(x, shares)
        corners = torch.arange(len(self.i), device=x.device) * self.levels**2
        cells = x[:, self.i].mul_(self.levels).add_(x[:, self.j]).add_(corners)
        pairs = count_cells(cells, shares, len(self.i) * self.levels**2)
        return {**out, "pairs": pairs.unflatten(1, (len(self.i), -1))}

    def update(self, statistics: Statistics) -> None:
        table = torch.empty_like(self.table)
        for k in range(self.count):  # one at a time, since the counts are large
            levels = statistics["levels"][k] @ self.channel + self.level_prior
            pairs = self._blurred(statistics["pairs"][k]) + self.prior
            total = levels[0].sum()
            information = mutual_information(pairs / total, levels / total, self.i, self.j)
            weights = information.new_zeros(self.dims, self.dims)
            weights[self.i, self.j] = weights[self.j, self.i] = information
            self.order[k], self.parent[k] = maximum_spanning_tree(weights)
            table[k] = self._conditionals(self.parent[k], pairs, levels)
        self.hold("table", table)

    def _pair_number(self, i: Tensor, j: Tensor) -> Tensor:
        """Return the index of the pair (i, j), i < j, in the upper triangle."""
        return i * self.dims - i * (i + 1) // 2 + j - i - 1

    def _along(self, parent: Tensor, pairs: Tensor, levels: Tensor) -> Tensor:
        """Return the pair table (D, parent's L, L) of each pixel and its parent; the root uses the first row only."""
        out = levels.new_zeros(self.dims, self.levels, self.levels)
        child = torch.nonzero(parent >= 0)[:, 0]
        above = parent[child]
        table = pairs[self._pair_number(torch.minimum(child, above), torch.maximum(child, above))]
        table = table.view(-1, self.levels, self.levels)
        out[child] = torch.where((above < child)[:, None, None], table, table.transpose(1, 2))
        root = parent < 0
        out[root, 0] = levels[root]
        return out

    def _conditionals(self, parent: Tensor, pairs: Tensor, levels: Tensor) -> Tensor:
        table = self._along(parent, pairs, levels)
        table[parent < 0] = table[parent < 0, :1]  # the root has no parent: all rows are equal
        return (table / table.sum(2, keepdim=True)).log()

    def log_prior(self) -> Tensor:
        return sum(
            (self._along(parent, self.prior, self.level_prior) * table).sum()
            for parent, table in zip(self.parent, self.table, strict=True)
        )

    def _through_channel(self, table: Tensor) -> Tensor:
        return self.channel @ table @ self.channel.T

    def _look_up(self, table: Tensor, x: Tensor) -> Tensor:
        cells = torch.arange(self.dims, device=x.device) * self.levels**2 + x
        return torch.stack(
            [
                rows.reshape(-1)[cells + x[:, parent.clamp(min=0)] * self.levels].sum(1)
                for rows, parent in zip(table, self.parent, strict=True)
            ],
            1,
        )

    def sample(self, component: Tensor, generator: torch.Generator) -> Tensor:
        nothing = torch.zeros(len(component), self.dims, dtype=torch.int64, device=component.device)
        return self.complete(nothing, nothing.bool(), component, generator)

    def known_log_prob(self, x: Tensor, known: Tensor) -> Tensor:
        return torch.stack([self._messages(k, x, known)[1] for k in range(self.count)], 1)

    def _messages(self, k: int, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Upward pass: return the log evidence (D, B, L) of each pixel and its subtree, and the total (B,)."""
        evidence = x.new_zeros(self.dims, len(x), self.levels, dtype=torch.float64)
        possible = torch.nn.functional.one_hot(x, self.levels).bool() | ~known[:, :, None]
        evidence.masked_fill_(~possible.transpose(0, 1), -torch.inf)
        table, order, parent = self.table[k].exp(), self.order[k].tolist(), self.parent[k].tolist()
        for d in reversed(order):
            top = evidence[d].amax(1, keepdim=True)
            message = ((evidence[d] - top).exp() @ table[d].T).log() + top
            if parent[d] < 0:
                return evidence, message[:, 0]
            evidence[parent[d]] += message
        raise AssertionError("a tree has a root")

    def complete(self, x: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        numbers = uniform(*x.shape, generator=generator, device=x.device, dtype=torch.float64)
        out = x.clone()
        for k, rows in rows_by_component(component):
            mine, number = x[rows], numbers[rows]
            evidence, _ = self._messages(k, mine, known[rows])
            parent = self.parent[k].tolist()
            for d in self.order[k].tolist():
                above = mine[:, max(parent[d], 0)]
                scores = evidence[d] + self.table[k, d, above]
                chance = (scores - scores.amax(1, keepdim=True)).exp()
                mine[:, d] = quantile(chance, number[:, d : d + 1])[:, 0]
            out[rows] = mine
        return out


def mutual_information(pairs: Tensor, levels: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Return the mutual information (P,), in nats, of pairs (i, j) of pixels, from their joint distributions (P, L L)
    and the marginals (D, L)."""
    joint, own = (torch.xlogy(table, table).sum(-1) for table in (pairs, levels))
    return joint - own[i] - own[j]


def maximum_spanning_tree(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return (order (D,), parent (D,)) of the maximum spanning tree of weights (D, D) (Prim 1957).

    The root is 0, with parent -1; parents precede their children in ``order``.
    """
    weights = weights.cpu()
    dims = len(weights)
    order, parent = torch.zeros(dims, dtype=torch.int64), torch.zeros(dims, dtype=torch.int64)
    parent[0] = -1
    best = weights[0].clone()
    best[0] = -torch.inf
    for place in range(1, dims):
        new = int(best.argmax())
        order[place] = new
        best[new] = -torch.inf
        closer = (weights[new] > best) & (best > -torch.inf)
        best = torch.where(closer, weights[new], best)
        parent[closer] = new
    return order, parent
