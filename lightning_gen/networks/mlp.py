"""Perceptron generator and discriminator: any image shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gen.errors import InputError
from lightning_gen.spec import ImageSpec


def check_positive(owner: object, **values: int) -> None:
    """Raise InputError unless every value is a positive integer."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{type(owner).__name__}: {name} must be a positive integer, got {value!r}")


def hidden_layers(
    inputs: int, widths: Sequence[int], negative_slope: float, batch_norm: bool = False
) -> list[nn.Module]:
    """Return Linear (-> BatchNorm) -> LeakyReLU blocks of the given widths."""
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(nn.Linear(inputs, width, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.LeakyReLU(negative_slope, inplace=True))
        inputs = width
    return layers


class MLPGenerator(nn.Module):
    r"""Perceptron from a latent to an image, :math:`x = \tanh(W_n \phi(\dots \phi(W_1 z)))` (Goodfellow et al. 2014).

    Args:
        spec: images to make; any shape.
        latent_dim: size of the latent z.
        widths: widths of the hidden layers; empty for a linear map.
        negative_slope: of the leaky rectifier :math:`\phi`.
        batch_norm: normalise hidden layers over the batch (Ioffe and Szegedy 2015), as tutorials do.

    Raises:
        InputError: for a width or latent size below 1.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int = 64,
        widths: Sequence[int] = (1024, 1024),
        negative_slope: float = 0.2,
        batch_norm: bool = False,
    ):
        super().__init__()
        check_positive(self, latent_dim=latent_dim, **{f"widths[{i}]": width for i, width in enumerate(widths)})
        self.latent_dim = latent_dim
        self.shape = spec.shape
        hidden = hidden_layers(latent_dim, widths, negative_slope, batch_norm)
        self.net = nn.Sequential(*hidden, nn.Linear([latent_dim, *widths][-1], spec.dims), nn.Tanh())

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) to unit images (B, C, H, W)."""
        return self.net(latent).unflatten(1, self.shape)


class MLPDiscriminator(nn.Module):
    r"""Perceptron from an image to one score per image (Goodfellow et al. 2014).

    Args:
        spec: images to judge; any shape.
        widths: widths of the hidden layers.
        negative_slope: of the leaky rectifier.

    Raises:
        InputError: for a width below 1.
    """

    def __init__(self, spec: ImageSpec, widths: Sequence[int] = (1024, 1024), negative_slope: float = 0.2):
        super().__init__()
        check_positive(self, **{f"widths[{i}]": width for i, width in enumerate(widths)})
        hidden = hidden_layers(spec.dims, widths, negative_slope)
        self.net = nn.Sequential(*hidden, nn.Linear([spec.dims, *widths][-1], 1))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map unit images (B, C, H, W) to scores (B,)."""
        return self.net(torch.flatten(images, 1)).squeeze(1)
