"""Encoders and decoders of latent-variable models: perceptrons, convolutional and residual networks."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gen.core import ImageSpec, InputError, check_positive, check_within
from lightning_gen.networks.conditional import check_conditional
from lightning_gen.networks.dcgan import doublings


class LabelledRows(nn.Module):
    """Concatenates rows (B, n) with their one-hot classes if a network is conditional, else returns them unchanged.

    Args:
        owner: the network, named in messages.
        spec: image format.
        conditional: whether the network is class-conditional.
    """

    def __init__(self, owner: nn.Module, spec: ImageSpec, conditional: bool):
        super().__init__()
        if conditional:
            check_conditional(owner, spec)
        self.columns = spec.num_classes if conditional else 0
        self.owner = type(owner).__name__

    def forward(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        if not self.columns:
            return rows
        if labels is None:
            raise InputError(f"{self.owner} is class-conditional: give labels")
        return torch.cat([rows, F.one_hot(labels.to(torch.int64), self.columns).to(rows.dtype)], 1)


class Encoder(nn.Module):
    """Base class of encoders, ``head(join(body(images), labels))``; subclasses define ``body`` and ``head``.

    Args:
        spec: image format.
        conditional: whether one-hot labels are appended to the output of ``body`` (Sohn et al. 2015).

    Raises:
        InputError: for ``conditional`` without classes.
    """

    body: nn.Module
    head: nn.Module

    def __init__(self, spec: ImageSpec, conditional: bool):
        super().__init__()
        self.conditional = conditional
        self.join = LabelledRows(self, spec, conditional)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map unit images (B, C, H, W) to (B, outputs)."""
        return self.head(self.join(self.body(images), labels))


class Decoder(nn.Module):
    """Base class of decoders, ``body(head(join(latent, labels)))``; subclasses define ``head`` and ``body``.

    Args:
        spec: image format.
        shape: (channels, height, width) to which the output of ``head`` is reshaped for ``body``.
        conditional: whether one-hot labels are appended to the latent.

    Raises:
        InputError: for ``conditional`` without classes.
    """

    head: nn.Module
    body: nn.Module

    def __init__(self, spec: ImageSpec, shape: tuple[int, int, int], conditional: bool):
        super().__init__()
        self.conditional, self.shape = conditional, shape
        self.join = LabelledRows(self, spec, conditional)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) to (B, out_channels, H, W)."""
        return self.body(self.head(self.join(latent, labels)).unflatten(1, self.shape))


def perceptron(inputs: int, widths: Sequence[int], outputs: int, dropout: float) -> nn.Sequential:
    """Return Linear -> SiLU (-> dropout) layers of these widths, and a final Linear."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.SiLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def check_perceptron(owner: nn.Module, widths: Sequence[int], dropout: float, **sizes: int) -> None:
    """Raise InputError for a size below 1, or a dropout out of range."""
    check_positive(owner, **sizes, **{f"widths[{i}]": width for i, width in enumerate(widths)})
    check_within(owner, "[0, 1)", dropout=dropout)


class MLPEncoder(Encoder):
    """Perceptron from an image of any shape to the parameters of a posterior (Kingma and Welling 2014).

    Args:
        spec: image format.
        outputs: number of outputs.
        widths: widths of the hidden layers.
        dropout: dropout probability of hidden units (Srivastava et al. 2014).
        conditional: whether one-hot labels are appended to the image (Sohn et al. 2015).

    Raises:
        InputError: for a number out of range, or ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        outputs: int,
        widths: Sequence[int] = (1024,),
        dropout: float = 0.0,
        conditional: bool = False,
    ):
        check_perceptron(self, widths, dropout, outputs=outputs)
        super().__init__(spec, conditional)
        self.body = nn.Flatten()
        self.head = perceptron(spec.dims + self.join.columns, widths, outputs, dropout)


class MLPDecoder(Decoder):
    """Perceptron from a latent to the parameters of a pixel likelihood, for images of any shape.

    Args:
        spec: image format.
        latent_dim: latent dimension.
        out_channels: number of output channels.
        widths: widths of the hidden layers; empty for a linear decoder.
        dropout: dropout probability of hidden units.
        conditional: whether one-hot labels are appended to the latent.

    Raises:
        InputError: for a number out of range, or ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int,
        out_channels: int,
        widths: Sequence[int] = (1024,),
        dropout: float = 0.0,
        conditional: bool = False,
    ):
        check_perceptron(self, widths, dropout, latent_dim=latent_dim, out_channels=out_channels)
        super().__init__(spec, (out_channels, spec.height, spec.width), conditional)
        self.head = perceptron(latent_dim + self.join.columns, widths, out_channels * spec.height * spec.width, dropout)
        self.body = nn.Identity()


class ConvEncoder(Encoder):
    """Stride-2 convolutions that halve the resolution k times to a x a, then one linear layer.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256.
        outputs: number of outputs.
        width: channels at full resolution, doubled at each halving.
        max_width: upper bound on the channels.
        conditional: whether labels are joined, one-hot, before the linear map.

    Raises:
        InputError: for an unsupported image shape or width, or ``conditional`` without classes.
    """

    def __init__(self, spec: ImageSpec, outputs: int, width: int = 32, max_width: int = 256, conditional: bool = False):
        check_positive(self, outputs=outputs, width=width, max_width=max_width)
        side, k = doublings(spec, self)
        super().__init__(spec, conditional)
        channels = [min(width * 2**i, max_width) for i in range(k + 1)]
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, channels[0], 3, padding=1), nn.SiLU()]
        for inputs, size in itertools.pairwise(channels):
            layers += [nn.Conv2d(inputs, size, 4, stride=2, padding=1), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(channels[-1] * side**2 + self.join.columns, outputs)


class ConvDecoder(Decoder):
    """Mirror of :class:`ConvEncoder`: a linear layer to a x a, then stride-2 transposed convolutions.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256.
        latent_dim: latent dimension.
        out_channels: number of output channels.
        width: channels at full resolution, doubled at each halving.
        max_width: upper bound on the channels.
        conditional: whether labels are joined to the latent, one-hot.

    Raises:
        InputError: for an unsupported image shape or width, or ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int,
        out_channels: int,
        width: int = 32,
        max_width: int = 256,
        conditional: bool = False,
    ):
        check_positive(self, latent_dim=latent_dim, out_channels=out_channels, width=width, max_width=max_width)
        side, k = doublings(spec, self)
        channels = [min(width * 2**i, max_width) for i in reversed(range(k + 1))]
        super().__init__(spec, (channels[0], side, side), conditional)
        self.head = nn.Linear(latent_dim + self.join.columns, channels[0] * side**2)
        layers: list[nn.Module] = [nn.SiLU()]
        for inputs, size in itertools.pairwise(channels):
            layers += [nn.ConvTranspose2d(inputs, size, 4, stride=2, padding=1), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(channels[-1], out_channels, 3, padding=1))


class ResidualUnit(nn.Module):
    r"""Residual unit :math:`x + W_2 * \phi(W_1 * \phi(x))` of 3x3 convolutions and SiLU; initially the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class ResNetEncoder(Encoder):
    """Residual units without normalisation, average pooling between resolutions, then one linear layer.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256.
        outputs: number of outputs.
        width: channels of all feature maps.
        depth: residual units at each resolution.
        conditional: whether labels are joined, one-hot, before the linear map.

    Raises:
        InputError: for an unsupported image shape or width, or ``conditional`` without classes.
    """

    def __init__(self, spec: ImageSpec, outputs: int, width: int = 64, depth: int = 2, conditional: bool = False):
        check_positive(self, outputs=outputs, width=width, depth=depth)
        side, k = doublings(spec, self)
        super().__init__(spec, conditional)
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, width, 3, padding=1)]
        for level in range(k + 1):
            layers += [nn.AvgPool2d(2)] if level else []
            layers += [ResidualUnit(width) for _ in range(depth)]
        self.body = nn.Sequential(*layers, nn.SiLU(), nn.Flatten())
        self.head = nn.Linear(width * side**2 + self.join.columns, outputs)


class ResNetDecoder(Decoder):
    """Mirror of :class:`ResNetEncoder`: a linear layer to a x a, residual units, nearest-neighbour upsampling.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256.
        latent_dim: latent dimension.
        out_channels: number of output channels.
        width: channels of all feature maps.
        depth: residual units at each resolution.
        conditional: whether labels are joined to the latent, one-hot.

    Raises:
        InputError: for an unsupported image shape or width, or ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int,
        out_channels: int,
        width: int = 64,
        depth: int = 2,
        conditional: bool = False,
    ):
        check_positive(self, latent_dim=latent_dim, out_channels=out_channels, width=width, depth=depth)
        side, k = doublings(spec, self)
        super().__init__(spec, (width, side, side), conditional)
        self.head = nn.Linear(latent_dim + self.join.columns, width * side**2)
        layers: list[nn.Module] = []
        for level in range(k + 1):
            layers += [nn.Upsample(scale_factor=2)] if level else []
            layers += [ResidualUnit(width) for _ in range(depth)]
        self.body = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))
