"""Affine autoregressive maps with masked perceptrons (MADE)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gen.bijections.base import Bijection
from lightning_gen.core import InputError, check_at_least, check_positive


class MaskedLinear(nn.Linear):
    """Linear layer with a fixed mask (outputs, inputs) on its weights."""

    def __init__(self, mask: Tensor):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # In the precision of x: densities are computed in float32 even if weights are in less.
        return F.linear(x, (self.weight * self.mask).to(x.dtype), self.bias.to(x.dtype))


class AffineAutoregressive(Bijection):
    r"""Affine map of each coordinate, with shift and scale a function of the preceding coordinates.

    .. math:: y_i = s_i\, x_i + (1 - s_i)\, m_i, \qquad s_i = \varsigma(a_i), \qquad (m_i, a_i) = f_i(x_{<i}, c), \qquad
        \log |\det J| = \sum_i \log s_i

    This is the gated, numerically stable form of inverse autoregressive flow (Kingma et al. 2016). f is a masked
    perceptron (MADE: Germain et al. 2015) with one hidden layer and a context c; its coordinates are those of the
    flattened event. ``forward`` takes one pass, ``inverse`` one per coordinate.

    Args:
        event_shape: shape of an event.
        width: width of the hidden layer.
        context_dim: size of the context, 0 for none.

    Raises:
        InputError: for fewer than 1 coordinate or hidden unit, or a negative context.
    """

    def __init__(self, event_shape: int | Sequence[int], width: int = 128, context_dim: int = 0):
        super().__init__(event_shape)
        check_positive(self, width=width)
        check_at_least(self, 0, context_dim=context_dim)
        self.context_dim, dims = context_dim, self.dims
        # Hidden unit h depends on coordinates up to degree[h], and coordinate i on hidden units of degree below i.
        # Units of degree 0 depend on the context only, and so does the first coordinate.
        place = torch.arange(1, dims + 1)
        degree = torch.arange(width) % dims if context_dim else torch.arange(width) % max(1, dims - 1) + 1
        self.first = MaskedLinear(degree[:, None] >= place[None])
        self.last = MaskedLinear((place[:, None] > degree[None]).repeat(2, 1))
        self.from_context = nn.Linear(context_dim, width, bias=False) if context_dim else None
        nn.init.normal_(self.last.weight, std=1e-3)
        nn.init.zeros_(self.last.bias)
        with torch.no_grad():
            self.last.bias[dims:] = 2.0  # nearly the identity at the start

    def _shift_and_gate(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = self.first(x)
        if self.from_context is not None:
            if context is None:
                raise InputError(f"AffineAutoregressive: expected a context of length {self.context_dim}")
            hidden = hidden + F.linear(context, self.from_context.weight.to(x.dtype))
        shift, gate = self.last(F.elu(hidden)).chunk(2, -1)
        return shift, gate

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows = x.reshape(*self.batch_shape(x), self.dims)
        shift, gate = self._shift_and_gate(rows, context)
        scale = torch.sigmoid(gate)
        return (scale * rows + (1 - scale) * shift).view(x.shape), F.logsigmoid(gate).sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows = y.reshape(*self.batch_shape(y), self.dims)
        x = torch.zeros_like(rows)
        for i in range(self.dims):
            shift, gate = self._shift_and_gate(x, context)
            scale = torch.sigmoid(gate[..., i])
            x = x.clone()
            x[..., i] = (rows[..., i] - (1 - scale) * shift[..., i]) / scale
        _, gate = self._shift_and_gate(x, context)
        return x.view(y.shape), -F.logsigmoid(gate).sum(-1)
