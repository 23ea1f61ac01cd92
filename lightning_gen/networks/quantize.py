"""Quantizers of feature maps, with straight-through gradients."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gen.core import TrainingContext, check, check_above, check_at_least, check_positive

EDGE = 2.0  # |z| above which FSQ's loss applies; there tanh is within 0.04 of its limits


class Quantized(NamedTuple):
    """Output of a quantizer for a feature map (B, D, h, w).

    Fields:
        values: code vectors (B, D, h, w), with straight-through gradients to the feature map.
        indices: codes, int64 (B, h, w).
        loss: commitment loss, nats (B,).
    """

    values: Tensor
    indices: Tensor
    loss: Tensor


class Quantizer(nn.Module, ABC):
    """Maps the vector at each position of a feature map to one of finitely many codes.

    A subclass sets ``codes``, the number of codes K, and ``dim``, the dimension D of the vectors.
    """

    codes: int
    dim: int

    @abstractmethod
    def forward(self, z: Tensor) -> Quantized:
        """Quantize a feature map (B, D, h, w)."""

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """Return the vectors (B, D, h, w) of codes (B, h, w)."""

    def learn(self, z: Tensor, indices: Tensor, context: TrainingContext) -> None:
        """Update the codebook from a training batch, in place and without gradients; does nothing by default.

        Args:
            z: this rank's feature map (B, D, h, w), with the same B on all ranks.
            indices: its codes (B, h, w).
            context: training progress, random numbers and ranks.
        """


def perplexity(counts: Tensor) -> Tensor:
    r"""Return the perplexity :math:`\exp(-\sum_k p_k \log p_k)`, the effective number of codes in use.

    Args:
        counts: uses of each code (K,), up to a factor.
    """
    shares = counts / counts.sum()
    return torch.special.entr(shares).sum().exp()


class VectorQuantizer(Quantizer):
    r"""Vector quantization: the nearest vector of a codebook (van den Oord et al. 2017).

    .. math:: k = \arg\min_j \|z - e_j\|^2, \qquad \text{loss} = \beta \sum_{\text{positions}} \|z - e_k\|^2

    The codebook is an exponential moving average (appendix A.1 there). With the fraction n of positions in a global
    batch of b images that are assigned to a code, and the sum s of their vectors divided by the number of positions,

    .. math:: N \leftarrow \gamma N + (1 - \gamma)\, n, \qquad N e \leftarrow \gamma N e + (1 - \gamma)\, s, \qquad
        \gamma = 2^{-b / h}

    A code that was not used for ``revive_after`` images is replaced by a random vector of the batch (Dhariwal et al.
    2020), with N = 1/K. This also initialises the codebook from the first batch, since all codes start as unused.

    Args:
        codes: number of codes K.
        dim: dimension D of the vectors.
        commitment: :math:`\beta`. Since the loss is added to nats, it corresponds to a Gaussian of variance
            :math:`1 / (2\beta)`.
        half_life: h, half-life of the moving average in images.
        revive_after: images without use after which a code is replaced.

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
        distances = self.codebook.square().sum(1) - 2 * rows @ self.codebook.T  # omitting the squared norms of rows
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
        # A matrix product, since index_add_ is not deterministic on a GPU.
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

    There is no codebook that could collapse. Unlike in the paper, values are symmetric also for even L_i. The loss
    :math:`\beta \sum (|z_i| - 2)_+^2` is not in the paper either: without it, optimizers that normalise gradients can
    drive z far into the flat part of tanh, until all images have the same code.

    Args:
        levels: :math:`L_i` of each coordinate; D is their number, and K their product.
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
        indices = (digits.to(torch.int64) * self.radices).sum(1).clamp(0, self.codes - 1)  # even if z is not finite
        values = 2 * digits / self.tops - 1
        loss = self.commitment * (z.abs() - EDGE).relu().square().flatten(1).sum(1)
        return Quantized(bounded + (values - bounded).detach(), indices, loss)

    def lookup(self, indices: Tensor) -> Tensor:
        sizes = self.tops.to(torch.int64) + 1
        return 2 * (indices[:, None] // self.radices % sizes).to(self.tops.dtype) / self.tops - 1
