"""Quantizers: maps of real numbers become grids of codes, and gradients pass straight through."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gen.core import TrainingContext, check, check_above, check_at_least, check_positive

EDGE = 2.0  # of what FSQ bounds: tanh is within 0.04 of its ends, far into the outermost rounding


class Quantized(NamedTuple):
    """Output of a quantizer for a feature map (B, D, h, w).

    Args:
        values: of the codes, (B, D, h, w); their gradient is taken for that of the map.
        indices: the codes, int64 (B, h, w).
        loss: what the map pays for its distance to them, nats (B,).
    """

    values: Tensor
    indices: Tensor
    loss: Tensor


class Quantizer(nn.Module, ABC):
    """Maps each place of a map to one of finitely many codes.

    A subclass sets ``codes``, how many there are, and ``dim``, the numbers D that each place and code has.
    """

    codes: int
    dim: int

    @abstractmethod
    def forward(self, z: Tensor) -> Quantized:
        """Quantize a map (B, D, h, w)."""

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """Return the values (B, D, h, w) of codes (B, h, w)."""

    def learn(self, z: Tensor, indices: Tensor, context: TrainingContext) -> None:
        """Adapt the codes to a training batch, in place and without gradients; nothing where none are learnt.

        Args:
            z: this rank's map (B, D, h, w), of which all ranks have equally many images.
            indices: its codes.
            context: where training stands.
        """


def perplexity(counts: Tensor) -> Tensor:
    r"""Return how many codes are in use, weighing them by their shares: :math:`\exp(-\sum_k p_k \log p_k)`.

    Args:
        counts: uses of each code (K,), in any unit.
    """
    shares = counts / counts.sum()
    return torch.special.entr(shares).sum().exp()


class VectorQuantizer(Quantizer):
    r"""The nearest vector of a codebook (van den Oord et al. 2017).

    .. math:: k = \arg\min_j \|z - e_j\|^2, \qquad \text{loss} = \beta \sum_{\text{places}} \|z - e_k\|^2

    The codebook follows the encoder without gradients (their appendix A.1): with the share n of places of a global
    batch of b images that chose a code, and the sum s of their vectors over the number of places,

    .. math:: N \leftarrow \gamma N + (1 - \gamma)\, n, \qquad N e \leftarrow \gamma N e + (1 - \gamma)\, s, \qquad
        \gamma = 2^{-b / h}

    A code that ``revive_after`` images left unused is put where a random place of the batch is (Dhariwal et al. 2020),
    with an even share 1/K. Before its first use a code counts as left unused, so the first batch places the codebook.

    Args:
        codes: number K.
        dim: numbers D of each.
        commitment: :math:`\beta`; as the loss is added to nats of the image, :math:`1 / 2\beta` is the variance of the
            Gaussian that it stands for.
        half_life: h, images after which a batch counts half.
        revive_after: images without a use after which a code is revived.

    Raises:
        InputError: for numbers out of range.
    """

    codebook: Tensor
    share: Tensor
    unused: Tensor

    def __init__(
        self,
        codes: int = 256,
        dim: int = 32,
        commitment: float = 0.25,
        half_life: float = 5_000,
        revive_after: int = 5_000,
    ):
        super().__init__()
        check_positive(self, dim=dim, revive_after=revive_after)
        check_at_least(self, 2, codes=codes)
        check_at_least(self, 0, commitment=commitment)
        check_above(self, 0, half_life=half_life)
        self.codes = codes
        self.dim = dim
        self.commitment = commitment
        self.half_life = half_life
        self.revive_after = revive_after
        self.register_buffer("codebook", torch.randn(codes, dim))
        self.register_buffer("share", torch.full((codes,), 1 / codes))
        self.register_buffer("unused", torch.full((codes,), revive_after))  # images since each code's last use

    def forward(self, z: Tensor) -> Quantized:
        rows = z.detach().movedim(1, -1).flatten(0, -2)
        distances = self.codebook.square().sum(1) - 2 * rows @ self.codebook.T  # but for the squares of rows
        indices = distances.argmin(1).view(len(z), *z.shape[2:])
        values = self.lookup(indices)
        loss = self.commitment * (z - values).square().flatten(1).sum(1)
        return Quantized(z + (values - z).detach(), indices, loss)

    def lookup(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def learn(self, z: Tensor, indices: Tensor, context: TrainingContext) -> None:
        rows = z.movedim(1, -1).flatten(0, -2)
        chosen = rows.new_zeros(len(rows), self.codes).scatter_(1, indices.reshape(-1, 1), 1.0)
        # A product, not index_add_, whose order of sums on a GPU is another each time.
        statistics = context.ranks.mean(chosen.T @ torch.cat([rows, rows.new_ones(len(rows), 1)], 1) / len(rows))
        sums, uses = statistics[:, :-1], statistics[:, -1]
        images = len(z) * context.ranks.count
        keep = 0.5 ** (images / self.half_life)
        share = keep * self.share + (1 - keep) * uses
        moved = (keep * self.share[:, None] * self.codebook + (1 - keep) * sums) / share[:, None]
        self.codebook.copy_(torch.where(uses[:, None] > 0, moved, self.codebook))
        self.share.copy_(share)
        self.unused.add_(images).masked_fill_(uses > 0, 0)
        self._revive(rows, context)

    def _revive(self, rows: Tensor, context: TrainingContext) -> None:
        dead = torch.nonzero(self.unused >= self.revive_after)[:, 0]
        if not len(dead):  # on all ranks alike
            return
        generator, ranks = context.generator("revival"), context.ranks
        places = torch.randperm(ranks.count * len(rows), generator=generator, device=generator.device)[: len(dead)]
        dead = dead[: len(places)]
        own = places - ranks.rank * len(rows)
        is_own = (own >= 0) & (own < len(rows))
        vectors = rows[own.clamp(0, len(rows) - 1)] * is_own[:, None]
        self.codebook[dead] = ranks.sum(vectors)
        self.share[dead] = 1 / self.codes
        self.unused[dead] = 0


class FSQ(Quantizer):
    r"""Finite scalar quantization: each coordinate is rounded to one of few levels (Mentzer et al. 2024).

    .. math:: d_i = \mathrm{round}\Big(\frac{L_i - 1}{2} (1 + \tanh z_i)\Big) \in 0 .. L_i - 1, \qquad
        \text{value}_i = \frac{2 d_i}{L_i - 1} - 1, \qquad k = \sum_i d_i \prod_{j < i} L_j

    There is no codebook to learn or to lose. Values of an even L_i lie half a step off the middle in the paper; here
    they are symmetric, too. Beyond :math:`|z_i| = 2` a map pays :math:`\beta (|z_i| - 2)^2`, which the paper does not
    have: tanh is flat there, optimizers that normalise gradients drive on all the same, and the encoder ends where
    every image has the same code.

    Args:
        levels: :math:`L_i` of each coordinate, which are as many as places have numbers; the codes are their product.
        commitment: :math:`\beta`.

    Raises:
        InputError: for no coordinate, a coordinate of fewer than 2 levels, or a negative commitment.
    """

    tops: Tensor
    radices: Tensor

    def __init__(self, levels: Sequence[int] = (8, 5, 5), commitment: float = 0.25):
        super().__init__()
        check(
            self, "levels", list(levels), min(levels, default=0) >= 2, "at least 2 for each of at least one coordinate"
        )
        check_at_least(self, 0, commitment=commitment)
        self.levels = tuple(levels)
        self.commitment = commitment
        self.dim = len(self.levels)
        self.codes = math.prod(self.levels)
        tops = torch.tensor(self.levels, dtype=torch.float32)[:, None, None] - 1
        radices = torch.tensor([math.prod(self.levels[:i]) for i in range(self.dim)])[:, None, None]
        self.register_buffer("tops", tops, persistent=False)
        self.register_buffer("radices", radices, persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        bounded = torch.tanh(z)
        digits = ((1 + bounded.detach()) * self.tops / 2).round()
        indices = (digits.to(torch.int64) * self.radices).sum(1).clamp(0, self.codes - 1)  # also where z is not finite
        values = 2 * digits / self.tops - 1
        loss = self.commitment * (z.abs() - EDGE).relu().square().flatten(1).sum(1)
        return Quantized(bounded + (values - bounded).detach(), indices, loss)

    def lookup(self, indices: Tensor) -> Tensor:
        sizes = self.tops.to(torch.int64) + 1
        return 2 * (indices[:, None] // self.radices % sizes).to(self.tops.dtype) / self.tops - 1
