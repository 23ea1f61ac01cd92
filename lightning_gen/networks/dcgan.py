"""DCGAN's convolutional generator and discriminator for square images."""

import itertools

import torch
from torch import Tensor, nn

from lightning_gen.core import ImageSpec, InputError, check_positive
from lightning_gen.networks.conditional import FeatureDiscriminator, check_conditional, last_of, require_labels

SMALLEST = (3, 4, 5, 6, 7)
LARGEST = 256


def doublings(spec: ImageSpec, owner: object) -> tuple[int, int]:
    """Return (a, k) of a square image of size a * 2^k, with a in 3..7 and k >= 1.

    Raises:
        InputError: for another size; the message names the network and the sizes that it supports.
    """
    name = type(owner).__name__
    if spec.height != spec.width:
        raise InputError(f"{name} makes square images only, got {spec.height}x{spec.width}; an MLP takes any shape")
    side, k = spec.height, 0
    while side % 2 == 0 and (side > SMALLEST[-1] or (k == 0 and side // 2 in SMALLEST)):
        side, k = side // 2, k + 1
    if side not in SMALLEST or k < 1 or spec.height > LARGEST:
        raise InputError(
            f"{name} needs a side of a*2^k with a in 3..7 and k >= 1, at most {LARGEST} "
            f"(such as 8, 28, 32, 48, 64, 128, 256), got {spec.height}"
        )
    return side, k


def initialise(module: nn.Module) -> None:
    """Initialise weights with N(0, 0.02^2), batch norm gains with N(1, 0.02^2), biases with 0 (Radford et al. 2016)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)


class DCGANGenerator(nn.Module):
    """DCGAN: latent -> a x a map -> stride-2 transposed convolutions, batch norm, ReLU -> tanh (Radford et al. 2016).

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256; grey or RGB.
        latent_dim: latent dimension.
        width: channels before the last layer, doubled at each halving.
        max_width: upper bound on the channels.
        conditional: whether to append a learnt embedding of the class to the latent (Mirza and Osindero 2014), of the
            same dimension and initial distribution as the latent.

    Raises:
        InputError: for an unsupported image shape or width, or ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int = 100,
        width: int = 64,
        max_width: int = 512,
        conditional: bool = False,
    ):
        super().__init__()
        check_positive(self, latent_dim=latent_dim, width=width, max_width=max_width)
        side, k = doublings(spec, self)
        if conditional:
            check_conditional(self, spec)
        self.latent_dim = latent_dim
        self.conditional = conditional
        channels = [min(width * 2**i, max_width) for i in reversed(range(k))]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(2 * latent_dim if conditional else latent_dim, channels[0], side, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        ]
        for inputs, outputs in itertools.pairwise(channels):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(channels[-1], spec.channels, 4, stride=2, padding=1), nn.Tanh()]
        self.net = nn.Sequential(*layers).apply(initialise)
        self.embedding = nn.Embedding(spec.num_classes, latent_dim) if conditional else None

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim), of classes ``labels`` (B,) if conditional, to unit images (B, C, H, W)."""
        if self.embedding is not None:
            latent = torch.cat([latent, self.embedding(require_labels(self, labels))], 1)
        return self.net(latent[:, :, None, None])


class DCGANDiscriminator(FeatureDiscriminator):
    """DCGAN: stride-2 convolutions, batch norm and leaky ReLU, then one score per image (Radford et al. 2016).

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256; grey or RGB.
        width: channels after the first layer, doubled at each halving.
        max_width: upper bound on the channels.
        batch_norm: batch normalisation, as in the paper. Disable it with gradient penalties, which assume that a score
            depends on its own image only.
        conditional: whether scores depend on labels, by projection of the last feature map (Miyato and Koyama 2018).
        classifier: whether to add an auxiliary classifier on the last feature map, see :meth:`scores_and_logits`.

    Raises:
        InputError: for an unsupported image shape or width, or images without classes if these are needed.
    """

    def __init__(
        self,
        spec: ImageSpec,
        width: int = 64,
        max_width: int = 512,
        batch_norm: bool = True,
        conditional: bool = False,
        classifier: bool = False,
    ):
        super().__init__()
        check_positive(self, width=width, max_width=max_width)
        side, k = doublings(spec, self)
        layers: list[nn.Module] = []
        inputs = spec.channels
        for i in range(k):
            outputs = min(width * 2**i, max_width)
            normalise = batch_norm and i > 0
            layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=not normalise))
            if normalise:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            inputs = outputs
        self.net = nn.Sequential(*layers, nn.Conv2d(inputs, 1, side)).apply(initialise)
        self.add_heads(spec, inputs * side**2, conditional, classifier, prepare=lambda head: head.apply(initialise))

    def features_and_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, scores = last_of(self.net, images)
        return torch.flatten(features, 1), torch.flatten(scores)
