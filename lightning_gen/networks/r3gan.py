"""R3GAN's residual generator and discriminator without normalisation (Huang et al. 2024)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.core import ImageSpec, InputError, check_positive
from lightning_gen.networks.conditional import check_conditional, require_labels
from lightning_gen.networks.dcgan import doublings
from lightning_gen.networks.resampling import Resample, channels_of

SLOPE = 0.2  # of every leaky ReLU
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # preserves the second moment through the leaky ReLU


def scaled(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    r"""Initialise weights with :math:`N(0, g^2 / \text{fan-in})` (He et al. 2015), biases with 0; return ``layer``."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(fan_in)) if gain else nn.init.zeros_(layer.weight)
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)
    return layer


class R3Block(nn.Module):
    r"""Inverted bottleneck, :math:`x + W_3 \phi(W_2 * \phi(W_1 x + b_1) + b_2)` (Huang et al. 2024).

    W_1 and W_3 are 1x1 convolutions to and from ``expansion`` times the channels, W_2 is a 3x3 convolution in groups of
    ``group_size`` channels. The initialisation is Fixup (Zhang et al. 2019): W_3 is 0, so that a block is the identity,
    and the other two have He's scale times :math:`L^{-1 / (2m - 2)} = L^{-1/4}`, for m = 3 layers in each of L blocks.

    Args:
        channels: channels of x.
        expansion: ratio of inner to outer channels.
        group_size: channels per group; divides the inner channels.
        depth: L, residual blocks of the whole network.
    """

    def __init__(self, channels: int, expansion: int, group_size: int, depth: int):
        super().__init__()
        inner = channels * expansion
        gain = GAIN * depth**-0.25
        self.widen = scaled(nn.Conv2d(channels, inner, 1), gain)
        self.mix = scaled(nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group_size), gain)
        self.narrow = scaled(nn.Conv2d(inner, channels, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.widen(x), SLOPE, inplace=True)
        y = F.leaky_relu(self.mix(y), SLOPE, inplace=True)
        return x + self.narrow(y)


def blocks_of(
    owner: nn.Module, channels: list[int], blocks: int, expansion: int, group_size: int
) -> list[nn.Sequential]:
    """Return a sequence of ``blocks`` residual blocks for each number of channels.

    Raises:
        InputError: for channels that ``group_size`` does not divide.
    """
    for width in channels:
        if width * expansion % group_size:
            raise InputError(
                f"{type(owner).__name__}: group_size {group_size} must divide all channels times expansion, "
                f"got {width} * {expansion}; change width, max_width, expansion or group_size"
            )
    depth = blocks * len(channels)
    return [nn.Sequential(*(R3Block(width, expansion, group_size, depth) for _ in range(blocks))) for width in channels]


def change_channels(inputs: int, outputs: int) -> nn.Module:
    """Return a 1x1 convolution, or the identity if the numbers of channels are equal."""
    return nn.Identity() if inputs == outputs else scaled(nn.Conv2d(inputs, outputs, 1, bias=False))


class R3GANGenerator(nn.Module):
    r"""R3GAN's generator: a learnt a x a basis modulated by the latent, then residual blocks at each resolution.

    .. math:: h_0 = B \odot (A z), \qquad h_i = \text{blocks}_i(\text{up}(C_i h_{i-1})), \qquad x = C h_k

    with one a x a map B per channel, 1x1 convolutions C, and bilinear upsampling (Huang, Gokaslan, Kuleshov and Tompkin
    2024, "The GAN is dead; long live the GAN! A modern GAN baseline"). There is no normalisation; blocks are initially
    the identity (:class:`R3Block`). Images are linear, without tanh, as in the paper, and may exceed [-1, 1].

    A conditional generator appends an embedding of the class to the latent. The paper trains with the relativistic
    loss, R1, R2, and Adam without momentum.

    Sizes for one CPU core: ``width=32, max_width=64, blocks=1, group_size=8`` at 8x8, and half that width at 28x28.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256; any channels.
        latent_dim: latent dimension.
        width: channels at full resolution, doubled at each halving.
        max_width: upper bound on the channels.
        blocks: residual blocks per resolution, at k + 1 resolutions.
        expansion: factor between the channels inside and outside a block.
        group_size: channels in each group of the 3x3 convolutions.
        conditional: whether images depend on labels.

    Raises:
        InputError: for an unsupported image shape or width, channels that ``group_size`` does not divide, or
            ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int = 64,
        width: int = 64,
        max_width: int = 512,
        blocks: int = 2,
        expansion: int = 2,
        group_size: int = 16,
        conditional: bool = False,
    ):
        super().__init__()
        check_positive(
            self,
            latent_dim=latent_dim,
            width=width,
            max_width=max_width,
            blocks=blocks,
            expansion=expansion,
            group_size=group_size,
        )
        a, k = doublings(spec, self)
        self.latent_dim, self.conditional = latent_dim, conditional
        self.embedding = None
        if conditional:
            check_conditional(self, spec)
            self.embedding = nn.Embedding(spec.num_classes, latent_dim)  # N(0, 1), as the latent
        channels = channels_of(k, width, max_width)
        self.basis = nn.Parameter(torch.randn(channels[0], a, a))
        self.modulate = scaled(nn.Linear(latent_dim * (1 + int(conditional)), channels[0], bias=False))
        first, *others = blocks_of(self, channels, blocks, expansion, group_size)
        stages = [first]
        for i, stage in enumerate(others):
            stages += [change_channels(channels[i], channels[i + 1]), Resample.up(a * 2**i), stage]
        self.stages = nn.Sequential(*stages)
        self.to_image = scaled(nn.Conv2d(channels[k], spec.channels, 1, bias=False))

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim), of classes ``labels`` (B,) if conditional, to unit images (B, C, H, W)."""
        if self.embedding is not None:
            latent = torch.cat([latent, self.embedding(require_labels(self, labels))], 1)
        return self.to_image(self.stages(self.basis * self.modulate(latent)[:, :, None, None]))


class R3GANDiscriminator(nn.Module):
    r"""R3GAN's discriminator: residual blocks at each resolution down to a x a, one filter per channel, a linear layer.

    .. math:: h_k = \text{blocks}_k(C x), \qquad h_{i-1} = \text{blocks}_{i-1}(C_i \, \text{down}(h_i)), \qquad
              D(x) = A \, \textstyle\sum_{hw} (B \odot h_0)_{hw}

    (Huang et al. 2024.) There is no normalisation, so a score depends on its own image only; blocks are initially the
    identity (:class:`R3Block`). A conditional score is the inner product of A's outputs with an embedding of the class.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256; any channels.
        width: channels at full resolution, doubled at each halving.
        max_width: upper bound on the channels.
        blocks: residual blocks per resolution, at k + 1 resolutions.
        expansion: factor between the channels inside and outside a block.
        group_size: channels in each group of the 3x3 convolutions.
        conditional: whether scores depend on labels.
        embedding_dim: dimension of the class embedding, if conditional.

    Raises:
        InputError: for an unsupported image shape or width, channels that ``group_size`` does not divide, or
            ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        width: int = 64,
        max_width: int = 512,
        blocks: int = 2,
        expansion: int = 2,
        group_size: int = 16,
        conditional: bool = False,
        embedding_dim: int = 64,
    ):
        super().__init__()
        check_positive(
            self,
            width=width,
            max_width=max_width,
            blocks=blocks,
            expansion=expansion,
            group_size=group_size,
            embedding_dim=embedding_dim,
        )
        a, k = doublings(spec, self)
        self.conditional = conditional
        self.embedding = None
        if conditional:
            check_conditional(self, spec)
            # This scale gives scores of the same size as those of an unconditional critic.
            self.embedding = nn.Embedding(spec.num_classes, embedding_dim)
            nn.init.normal_(self.embedding.weight, 0.0, embedding_dim**-0.5)
        channels = channels_of(k, width, max_width)
        self.from_image = scaled(nn.Conv2d(spec.channels, channels[k], 1, bias=False))
        sequences = blocks_of(self, channels, blocks, expansion, group_size)
        stages = [sequences[k]]
        for i in range(k, 0, -1):
            stages += [Resample.down(a * 2**i), change_channels(channels[i], channels[i - 1]), sequences[i - 1]]
        self.stages = nn.Sequential(*stages)
        self.basis = nn.Parameter(torch.randn(channels[0], a, a) / a)  # fan-in a * a
        self.score = scaled(nn.Linear(channels[0], embedding_dim if conditional else 1, bias=False))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map unit images (B, C, H, W), of classes ``labels`` (B,) if conditional, to scores (B,)."""
        if self.embedding is not None:
            labels = require_labels(self, labels)
        features = (self.stages(self.from_image(images)) * self.basis).sum((2, 3))
        scores = self.score(features)
        return scores.squeeze(1) if self.embedding is None else (scores * self.embedding(labels)).sum(1)
