"""Residual generator and discriminator of SNGAN, for square images."""

import itertools
import math

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lightning_gen.core import ImageSpec, check, check_positive
from lightning_gen.networks.conditional import (
    ConditionalBatchNorm2d,
    FeatureDiscriminator,
    check_conditional,
    require_labels,
)
from lightning_gen.networks.dcgan import doublings

LARGEST_LAST_MAP = 8
PLAIN_BLOCKS = 2


def check_widths(owner: object, width: int, max_width: int | None) -> int:
    """Return the bound on the channels: ``max_width``, or ``width`` if that is None.

    Raises:
        InputError: for a width below 1, or a bound below the width.
    """
    bound = width if max_width is None else max_width
    check_positive(owner, width=width, max_width=bound)
    check(owner, "max_width", max_width, bound >= width, f"at least width ({width})")
    return bound


def glorot(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """Initialise weights uniformly (Glorot and Bengio 2010) with ``gain``, biases with 0; return ``layer``."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)
    return layer


def normalised(layer: nn.Module) -> nn.Module:
    """Return ``layer`` with spectral normalisation: its weight W becomes W / sigma(W) (Miyato et al. 2018).

    Each pass in training mode takes one step of power iteration, whose vectors are buffers.
    """
    return parametrizations.spectral_norm(layer)


class UpBlock(nn.Module):
    """Upsampling residual block: twice batch norm, ReLU and 3x3 convolution, with upsampling before the first one."""

    def __init__(self, inputs: int, outputs: int, num_classes: int):
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(inputs, num_classes) if num_classes else nn.BatchNorm2d(inputs)
        self.norm2 = ConditionalBatchNorm2d(outputs, num_classes) if num_classes else nn.BatchNorm2d(outputs)
        self.conv1 = glorot(nn.Conv2d(inputs, outputs, 3, padding=1), math.sqrt(2))
        self.conv2 = glorot(nn.Conv2d(outputs, outputs, 3, padding=1), math.sqrt(2))
        self.shortcut = glorot(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        given = () if labels is None else (labels,)
        hidden = F.relu(self.norm1(x, *given), inplace=True)
        hidden = self.conv1(F.interpolate(hidden, scale_factor=2))
        hidden = self.conv2(F.relu(self.norm2(hidden, *given), inplace=True))
        # A 1x1 convolution and nearest upsampling commute; this order costs a quarter.
        return hidden + F.interpolate(self.shortcut(x), scale_factor=2)


class ResNetGenerator(nn.Module):
    r"""SNGAN: latent -> linear layer to a x a -> upsampling residual blocks -> batch norm, ReLU, convolution, tanh.

    There are k blocks for images of size a·2^k (Miyato et al. 2018). At 32x32 the defaults are the paper's network for
    CIFAR-10; ``width=64, max_width=1024`` is its network for larger images. If conditional, the blocks' batch norms
    have a gain and a bias per class (Dumoulin et al. 2017), as in Miyato and Koyama (2018).

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256.
        latent_dim: latent dimension.
        width: channels at full resolution.
        max_width: channels double at each halving, up to this bound; None for ``width`` everywhere.
        conditional: whether images depend on labels.

    Raises:
        InputError: for an unsupported image shape or width, or ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int = 128,
        width: int = 256,
        max_width: int | None = None,
        conditional: bool = False,
    ):
        super().__init__()
        bound = check_widths(self, width, max_width)
        check_positive(self, latent_dim=latent_dim)
        self.side, k = doublings(spec, self)
        if conditional:
            check_conditional(self, spec)
        self.latent_dim = latent_dim
        self.conditional = conditional
        channels = [min(width * 2**i, bound) for i in reversed(range(k + 1))]
        num_classes = spec.num_classes if conditional else 0
        self.first = glorot(nn.Linear(latent_dim, channels[0] * self.side**2))
        self.blocks = nn.ModuleList(
            UpBlock(inputs, outputs, num_classes) for inputs, outputs in itertools.pairwise(channels)
        )
        self.last = nn.Sequential(
            nn.BatchNorm2d(channels[-1]),
            nn.ReLU(inplace=True),
            glorot(nn.Conv2d(channels[-1], spec.channels, 3, padding=1)),
            nn.Tanh(),
        )

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim), of classes ``labels`` (B,) if conditional, to unit images (B, C, H, W)."""
        labels = require_labels(self, labels) if self.conditional else None
        hidden = self.first(latent).unflatten(1, (-1, self.side, self.side))
        for block in self.blocks:
            hidden = block(hidden, labels)
        return self.last(hidden)


class DownBlock(nn.Module):
    """Residual block of two 3x3 convolutions, each after a ReLU, optionally followed by average pooling.

    The first block of a network has no ReLU before its first convolution ("optimised block").
    """

    def __init__(self, inputs: int, outputs: int, halve: bool, first: bool, spectral_norm: bool):
        super().__init__()
        wrap = normalised if spectral_norm else nn.Identity()
        self.halve, self.first = halve, first
        hidden = outputs if first else inputs
        self.conv1 = wrap(glorot(nn.Conv2d(inputs, hidden, 3, padding=1), math.sqrt(2)))
        self.conv2 = wrap(glorot(nn.Conv2d(hidden, outputs, 3, padding=1), math.sqrt(2)))
        learnt = halve or inputs != outputs
        self.shortcut = wrap(glorot(nn.Conv2d(inputs, outputs, 1))) if learnt else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(x if self.first else F.relu(x))
        hidden = self.conv2(F.relu(hidden, inplace=True))
        if self.halve:
            # A 1x1 convolution and average pooling commute; this order costs a quarter.
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        return hidden + self.shortcut(x)


class ResNetDiscriminator(FeatureDiscriminator):
    r"""SNGAN: residual blocks, ReLU, sum over positions, and a score :math:`w^\top \phi(x) + b` (Miyato et al. 2018).

    Blocks halve the resolution until it is at most 8, at least once, followed by two blocks that keep it. At 32x32
    these are the paper's four blocks for CIFAR-10; 8x8 has three blocks (to 4x4), 28x28 four (to 7x7), 64x64 five (to
    8x8), 128x128 six. A conditional discriminator adds the projection :math:`v_y^\top \phi(x)` (Miyato and Koyama
    2018); ``classifier`` adds an auxiliary head (Odena et al. 2017). Heads are spectrally normalised, too.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256.
        width: channels of the first block.
        max_width: channels double at each halving, up to this bound; None for ``width`` everywhere (in the paper, 128
            for CIFAR-10; 64 up to 1024 for larger images).
        conditional: whether scores depend on labels.
        classifier: whether to add an auxiliary classifier, see :meth:`scores_and_logits`.
        spectral_norm: whether weights are spectrally normalised.

    Raises:
        InputError: for an unsupported image shape or width, or images without classes if these are needed.
    """

    def __init__(
        self,
        spec: ImageSpec,
        width: int = 128,
        max_width: int | None = None,
        conditional: bool = False,
        classifier: bool = False,
        spectral_norm: bool = True,
    ):
        super().__init__()
        bound = check_widths(self, width, max_width)
        doublings(spec, self)
        halvings = 1
        while spec.height >> halvings > LARGEST_LAST_MAP:
            halvings += 1
        channels = [min(width * 2**i, bound) for i in range(halvings)]
        channels += PLAIN_BLOCKS * channels[-1:]
        self.blocks = nn.Sequential(
            *(
                DownBlock(inputs, outputs, halve=i < halvings, first=i == 0, spectral_norm=spectral_norm)
                for i, (inputs, outputs) in enumerate(itertools.pairwise([spec.channels, *channels]))
            ),
            nn.ReLU(inplace=True),
        )
        wrap = normalised if spectral_norm else nn.Identity()
        self.score = wrap(glorot(nn.Linear(channels[-1], 1)))
        self.add_heads(spec, channels[-1], conditional, classifier, prepare=lambda head: wrap(glorot(head)))

    def features_and_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(images).sum((2, 3))
        return features, self.score(features).squeeze(1)
