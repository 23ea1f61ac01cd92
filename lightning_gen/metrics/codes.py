"""Figures of quantized autoencoders: what reconstructions cost, and how many codes are in use."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gen.core import ImageSpec
from lightning_gen.metrics.likelihood import bits_per_dimension
from lightning_gen.networks.quantize import perplexity


class ReconstructionBits(Metric):
    r"""Mean of :math:`-\log p(x \mid e)` of images given their codes, in bits per dimension: no likelihood, as it does
    not count the bits of the codes."""

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = spec
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nats: Tensor) -> None:
        """Add log-probabilities (B,) in nats."""
        self.total += nats.double().sum()
        self.count += len(nats)

    def compute(self) -> Tensor:
        """Return the figure."""
        return bits_per_dimension(self.total / self.count, self.spec)


class CodePerplexity(Metric):
    """How many of the codes are in use, weighed by their shares: their perplexity."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.add_state("uses", torch.zeros(codes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """Add codes, int64 of any shape."""
        self.uses += torch.bincount(indices.flatten(), minlength=len(self.uses))

    def compute(self) -> Tensor:
        """Return the figure."""
        return perplexity(self.uses)


class UsedCodes(CodePerplexity):
    """How many of the codes are in use at all."""

    def compute(self) -> Tensor:
        """Return the figure."""
        return (self.uses > 0).sum()
