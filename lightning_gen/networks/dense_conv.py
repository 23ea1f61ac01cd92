"""A convolutional generator and a perceptron discriminator, after TensorFlow's DCGAN tutorial."""

import torch
from torch import Tensor, nn

from lightning_gen.core import ImageSpec, InputError, check, check_positive, check_within
from lightning_gen.networks.dcgan import doublings


def initialise_glorot(module: nn.Module) -> None:
    """Initialise weights uniformly (Glorot and Bengio 2010), and biases with 0."""
    if isinstance(module, nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DenseToConvGenerator(nn.Module):
    r"""Latent -> linear layer to (width, H/4, W/4) -> 5x5 transposed convolutions of strides 1, 2 and 2 -> tanh.

    The generator of TensorFlow's DCGAN tutorial: batch norm and leaky ReLU after every layer but the last, channels
    ``width``, ``width / 2``, ``width / 4``, C, and no biases. The linear layer grows with the image size, whereas DCGAN
    grows in depth.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256, and a multiple of 4.
        latent_dim: latent dimension.
        width: channels after the linear layer, a multiple of 4.
        negative_slope: slope of the leaky ReLU (the tutorial's is 0.3).

    Raises:
        InputError: for an unsupported image shape or width.
    """

    def __init__(self, spec: ImageSpec, latent_dim: int = 100, width: int = 256, negative_slope: float = 0.3):
        super().__init__()
        check_positive(self, latent_dim=latent_dim, width=width)
        doublings(spec, self)
        if spec.height % 4:
            raise InputError(
                f"DenseToConvGenerator needs a side that is a multiple of 4 (such as 8, 12, 28, 32, 64, 128), "
                f"got {spec.height}"
            )
        check(self, "width", width, width % 4 == 0, "a multiple of 4")
        self.latent_dim = latent_dim
        side = spec.height // 4
        self.net = nn.Sequential(
            nn.Linear(latent_dim, width * side**2, bias=False),
            nn.BatchNorm1d(width * side**2),
            nn.LeakyReLU(negative_slope, inplace=True),
            nn.Unflatten(1, (width, side, side)),
            nn.ConvTranspose2d(width, width // 2, 5, padding=2, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.LeakyReLU(negative_slope, inplace=True),
            nn.ConvTranspose2d(width // 2, width // 4, 5, stride=2, padding=2, output_padding=1, bias=False),
            nn.BatchNorm2d(width // 4),
            nn.LeakyReLU(negative_slope, inplace=True),
            nn.ConvTranspose2d(width // 4, spec.channels, 5, stride=2, padding=2, output_padding=1, bias=False),
            nn.Tanh(),
        ).apply(initialise_glorot)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim) to unit images (B, C, H, W)."""
        return self.net(latent)


class DenseDiscriminator(nn.Module):
    """Perceptron with one hidden layer and dropout (Srivastava et al. 2014), from an image to one score.

    Dropout uses torch's global generator: training is reproducible and resumes exactly, but depends on the number of
    ranks unless ``dropout`` is 0.

    Args:
        spec: image format; any shape.
        width: width of the hidden layer.
        dropout: dropout probability of hidden units, in [0, 1).
        negative_slope: slope of the leaky ReLU.

    Raises:
        InputError: for a width below 1, or a probability outside [0, 1).
    """

    def __init__(self, spec: ImageSpec, width: int = 256, dropout: float = 0.3, negative_slope: float = 0.3):
        super().__init__()
        check_positive(self, width=width)
        check_within(self, "[0, 1)", dropout=dropout)
        self.net = nn.Sequential(
            nn.Linear(spec.dims, width),
            nn.LeakyReLU(negative_slope, inplace=True),
            nn.Dropout(dropout),
            nn.Linear(width, 1),
        ).apply(initialise_glorot)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map unit images (B, C, H, W) to scores (B,)."""
        return self.net(torch.flatten(images, 1)).squeeze(1)
