"""Independent histograms of codes at each position of a grid."""

import torch
from torch import Tensor, nn

from lightning_gen.core import InputError, Ranks, categorical, uniform

HALF_LIFE = 10_000  # images
UNSEEN = 0.5  # pseudo-count of each code (Krichevsky and Trofimov 1981)


class CodeHistograms(nn.Module):
    r"""Independent codes of a grid, :math:`p(c) = \prod_i p_i(c_i)`, with frequencies counted in training.

    Counts decay exponentially, with a half-life of 10,000 images.

    Args:
        grid: height and width of the grid.
        codes: number K.
    """

    counts: Tensor

    def __init__(self, grid: tuple[int, int], codes: int):
        super().__init__()
        self.grid = grid
        self.register_buffer("counts", torch.zeros(grid[0] * grid[1], codes))

    def check(self, indices: Tensor) -> None:
        """Raise InputError for codes that are not integers (B, h, w) in range."""
        height, width = self.grid
        if indices.shape[1:] != self.grid or indices.is_floating_point():
            found = f"{indices.dtype} {tuple(indices.shape)}"
            raise InputError(f"codes are whole numbers (B, {height}, {width}), got {found}")
        top = self.counts.shape[1] - 1
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) <= top:
            raise InputError(f"codes are 0 .. {top}, got {int(indices.min())} .. {int(indices.max())}")

    def learn(self, indices: Tensor, ranks: Ranks) -> Tensor:
        """Count the codes (B, h, w) of a batch; return the mean uses (K,) of each code per image, over all ranks."""
        places, codes = self.counts.shape
        cells = indices.flatten(1) + codes * torch.arange(places, device=indices.device)
        counts = torch.bincount(cells.flatten(), minlength=places * codes).view(places, codes)
        uses = ranks.mean(counts.to(self.counts.dtype) / len(indices))
        images = len(indices) * ranks.count
        self.counts.mul_(0.5 ** (images / HALF_LIFE)).add_(uses, alpha=images)
        return uses.sum(0)

    def log_shares(self) -> Tensor:
        """Return log p_i, float64 (h w, K)."""
        counts = self.counts.double() + UNSEEN
        return (counts / counts.sum(1, keepdim=True)).log()

    def log_prob(self, indices: Tensor) -> Tensor:
        """Return log p(c), float64 nats (B,), of codes (B, h, w)."""
        of_places = self.log_shares()[None].expand(len(indices), -1, -1)
        return of_places.gather(2, indices.flatten(1)[:, :, None]).flatten(1).sum(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw codes, int64 (n, h, w)."""
        shares = self.log_shares().exp()
        numbers = uniform(n, len(shares), generator=generator, device=shares.device)
        return categorical(shares.expand(n, -1, -1), numbers).view(n, *self.grid)
