"""Convolutional encoders and decoders of VQ-VAEs."""

from torch import Tensor, nn

from lightning_gen.core import ImageSpec, InputError, check_at_least, check_positive, check_within
from lightning_gen.networks.autoencoder import ResidualUnit


def check_grid(owner: nn.Module, spec: ImageSpec, halvings: int, depth: int, dropout: float) -> None:
    """Raise InputError for numbers out of range, or image sizes not divisible by 2^halvings."""
    check_at_least(owner, 0, halvings=halvings, depth=depth)
    check_within(owner, "[0, 1)", dropout=dropout)
    if spec.height % 2**halvings or spec.width % 2**halvings:
        raise InputError(
            f"{type(owner).__name__}: sides of {spec.height}x{spec.width} cannot be halved {halvings} times: give "
            "fewer halvings"
        )


class GridEncoder(nn.Module):
    """Stride-2 convolutions, then residual units at the final resolution (van den Oord et al. 2017).

    Args:
        spec: image format; height and width must be divisible by 2^halvings.
        outputs: number of output channels.
        halvings: number of stride-2 convolutions; 0 keeps the resolution.
        width: channels of all feature maps.
        depth: number of residual units; 0 for plain convolutions.
        dropout: dropout probability before the last convolution.

    Raises:
        InputError: for numbers out of range, or image sizes not divisible by 2^halvings.
    """

    def __init__(
        self,
        spec: ImageSpec,
        outputs: int,
        halvings: int = 2,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_positive(self, outputs=outputs, width=width)
        check_grid(self, spec, halvings, depth, dropout)
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, width, 3, padding=1)]
        for _ in range(halvings):
            layers += [nn.SiLU(inplace=True), nn.Conv2d(width, width, 4, stride=2, padding=1)]
        layers += [ResidualUnit(width) for _ in range(depth)]
        layers += [nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(width, outputs, 1)]
        self.net = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Map unit images (B, C, H, W) to (B, outputs, h, w)."""
        return self.net(images)


class GridDecoder(nn.Module):
    """Mirror of :class:`GridEncoder`: residual units, then stride-2 transposed convolutions.

    Args:
        spec: image format; height and width must be divisible by 2^halvings.
        inputs: number of input channels.
        out_channels: number of output channels.
        halvings: number of transposed convolutions.
        width: channels of all feature maps.
        depth: number of residual units; 0 for plain convolutions.
        dropout: dropout probability after the first convolution.

    Raises:
        InputError: for numbers out of range, or image sizes not divisible by 2^halvings.
    """

    def __init__(
        self,
        spec: ImageSpec,
        inputs: int,
        out_channels: int,
        halvings: int = 2,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_positive(self, inputs=inputs, out_channels=out_channels, width=width)
        check_grid(self, spec, halvings, depth, dropout)
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1), nn.Dropout(dropout)]
        layers += [ResidualUnit(width) for _ in range(depth)]
        for _ in range(halvings):
            layers += [nn.SiLU(), nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)]
        self.net = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(self, grid: Tensor) -> Tensor:
        """Map a grid (B, inputs, h, w) to (B, out_channels, H, W)."""
        return self.net(grid)
