"""A small StyleGAN2 (Karras et al. 2020)."""

import math
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.core import ImageSpec, check_positive, normal
from lightning_gen.networks.conditional import check_conditional, require_labels
from lightning_gen.networks.dcgan import doublings
from lightning_gen.networks.resampling import Resample, channels_of, filter_matrix

SLOPE = 0.2  # of every leaky ReLU
GAIN = math.sqrt(2)  # preserves the second moment through a ReLU (approximately through a leaky one)
GROUP = 4  # images that share a minibatch standard deviation


def pixel_norm(x: Tensor) -> Tensor:
    r"""Return :math:`x / \sqrt{\tfrac1d \sum_i x_i^2 + 10^{-8}}` for rows (B, d) (Karras et al. 2018)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class EqualisedLinear(nn.Module):
    r"""Linear layer with equalised learning rate (Karras et al. 2018).

    .. math:: y = g \, (\lambda W x / \sqrt{d} + \lambda b)

    W is initialised with :math:`N(0, 1 / \lambda^2)` for any number of inputs d, so that Adam's steps, which do not
    depend on the gradient's scale, change all layers at the same relative rate, times :math:`\lambda`.

    Args:
        inputs: d.
        outputs: number of outputs.
        rate: :math:`\lambda`, the multiplier of the learning rate.
        gain: g. A leaky ReLU is positively homogeneous, so its gain can be applied before it.
        bias: initial :math:`\lambda b`.
    """

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, gain: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.rate, self.gain = rate, gain
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))

    def applied_weight(self) -> Tensor:
        """Return the weight that x meets: penalties and spectral norms are of this one."""
        return self.weight * (self.gain * self.rate / math.sqrt(self.weight.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.applied_weight(), self.bias * (self.gain * self.rate))


class EqualisedConv2d(nn.Module):
    r"""Convolution with equalised learning rate, :math:`y = g \, (W * x / \sqrt{d} + b)` (Karras et al. 2018).

    d is the fan-in; W is initialised with N(0, 1).

    Args:
        inputs: channels of x.
        outputs: channels of y.
        kernel: kernel size.
        gain: g, see :class:`EqualisedLinear`.
        bias: whether to add b, initially 0.
        stride: stride of the convolution.
        padding: zero padding.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        gain: float = GAIN,
        bias: bool = True,
        stride: int = 1,
        padding: int = 0,
    ):
        super().__init__()
        self.gain, self.stride, self.padding = gain, stride, padding
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def applied_weight(self) -> Tensor:
        """Return the weight that x meets: penalties and spectral norms are of this one."""
        return self.weight * (self.gain / math.sqrt(self.weight[0].numel()))

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.gain
        return F.conv2d(x, self.applied_weight(), bias, self.stride, self.padding)


class Mapping(nn.Module):
    r"""Mapping network from latent and class to a style: pixel norm, then linear layers with leaky ReLU (Karras et al.
    2019).

    Its learning rate is multiplied by 0.01. The class is embedded linearly, pixel-normed and appended to the latent
    (Karras et al. 2020b, "Training generative adversarial networks with limited data").

    Args:
        latent_dim: latent dimension; 0 for a map of classes only.
        num_classes: number of classes; 0 for a map of latents only.
        width: width of the hidden layers and of the style.
        layers: number of layers.
    """

    RATE = 0.01

    def __init__(self, latent_dim: int, num_classes: int, width: int, layers: int):
        super().__init__()
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self.embedding = EqualisedLinear(num_classes, width) if num_classes else None
        first = latent_dim + (width if num_classes else 0)
        self.layers = nn.ModuleList(
            EqualisedLinear(width if i else first, width, self.RATE, GAIN) for i in range(layers)
        )

    def forward(self, z: Tensor | None, labels: Tensor | None) -> Tensor:
        """Map latents (B, latent_dim), if any, and labels (B,), if any, to styles (B, width)."""
        parts = [pixel_norm(z)] if self.latent_dim else []
        if self.num_classes:
            one_hot = F.one_hot(labels, self.num_classes).to(self.embedding.weight.dtype)
            parts.append(pixel_norm(self.embedding(one_hot)))
        x = torch.cat(parts, 1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
        return x


def modulated_conv2d(x: Tensor, weight: Tensor, style: Tensor, blur: Resample | None = None) -> tuple[Tensor, Tensor]:
    r"""Convolve each image with modulated weights; return the result before demodulation, and the demodulation factors.

    The paper's :math:`w'_{oik} = s_i w_{oik}` and :math:`w''_{oik} = w'_{oik} / \sqrt{\sum_{i,k} w'^2_{oik} + 10^{-8}}`
    need one weight per image. The equivalent form with shared weights costs one ordinary convolution:

    .. math:: w'' * x = d \odot (w * (s \odot x)), \qquad
              d_o = \Big(\sum_i s_i^2 \sum_k w_{oik}^2 + 10^{-8}\Big)^{-1/2}

    (Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN").

    Args:
        x: feature maps (B, I, H, W).
        weight: w (O, I, 3, 3).
        style: s (B, I).
        blur: if given, the convolution is a transposed one of stride 2, followed by this blur, with output size 2H.

    Returns:
        :math:`w * (s \odot x)` (B, O, H', W') and :math:`d` (B, O, 1, 1).
    """
    x = x * style[:, :, None, None]
    if blur is None:
        y = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    else:
        y = blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
    factors = (F.linear(style.square(), weight.square().sum((2, 3))) + 1e-8).rsqrt()
    return y, factors[:, :, None, None]


class StyledConv(nn.Module):
    r"""Modulated 3x3 convolution with noise, bias and leaky ReLU: :math:`\sqrt2 \phi(w'' * x + \beta n + b)`.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        style_dim: dimension of the style, of which s is an affine function (initially 1 on average).
        side: height and width of the result.
        up: whether to double the resolution.
        noise: whether to add noise n, with learnt strength :math:`\beta`, initially 0.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, side: int, up: bool, noise: bool):
        super().__init__()
        self.side = side
        self.affine = EqualisedLinear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(())) if noise else None
        # Gain 2 per axis compensates for the zeros that a transposed convolution inserts between pixels.
        self.blur = Resample(filter_matrix(side + 1, side, -1, gain=2, extend=False)) if up else None

    def applied_weight(self) -> Tensor:
        """Return the weight before its modulation."""
        return self.weight / math.sqrt(self.weight[0].numel())

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """Map feature maps (B, I, H, W), styles (B, style_dim) and noise (B, side^2) to maps (B, O, side, side)."""
        y, factors = modulated_conv2d(x, self.applied_weight(), self.affine(style), self.blur)
        shift = GAIN * self.bias[:, None, None]
        if self.strength is not None:
            shift = shift + (GAIN * self.strength) * noise.view(len(x), 1, self.side, self.side)
        return F.leaky_relu(torch.addcmul(shift.to(y.dtype), y, GAIN * factors.to(y.dtype)), SLOPE, inplace=True)


class ToImage(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation, plus a bias (tRGB in Karras et al. 2020)."""

    def __init__(self, inputs: int, channels: int, style_dim: int):
        super().__init__()
        self.affine = EqualisedLinear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs))
        self.bias = nn.Parameter(torch.zeros(channels))

    def applied_weight(self) -> Tensor:
        """Return the weight before its modulation."""
        return self.weight / math.sqrt(self.weight.shape[1])

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight = self.applied_weight() * self.affine(style)[:, None]  # (B, C, I): small enough for one weight per image
        return torch.matmul(weight, x.flatten(2)).unflatten(2, x.shape[2:]) + self.bias[:, None, None]


@runtime_checkable
class HasStyles(Protocol):
    """A style-based generator: ``synthesise(styles(z, labels), noise)`` with ``z, noise = split(latent)``.

    Styles are (B, L, W), one per layer; ``psi`` below 1 truncates them towards their mean.
    """

    def split(self, latent: Tensor) -> tuple[Tensor, Tensor]: ...

    def styles(self, z: Tensor, labels: Tensor | None = None, psi: float = 1.0) -> Tensor: ...

    def synthesise(self, w: Tensor, noise: Tensor | None = None) -> Tensor: ...


class StyleGAN2Generator(nn.Module):
    r"""StyleGAN2's generator with skip connections to the image (Karras et al. 2020).

    .. math:: w = f(z / \|z\|), \qquad x = \sum_i \text{up}^{k-i} \, \text{toImage}_i(h_i, w), \qquad
              h_i = \sqrt2 \phi(w''(w) * h_{i-1} + \beta_i n_i + b_i)

    The first ``style_dim`` coordinates of the latent are z, the others (``noise_dim``) the noise maps n of all layers,
    so that :meth:`forward` is deterministic: it is ``synthesise(styles(z, labels), noise)``. z is normalised, so a
    sampler's temperature affects the noise only; a StyleSampler's ``psi`` truncates styles.

    Images are linear, without tanh, and may exceed [-1, 1]. Learning rates are equalised (weights N(0, 1), scaled at
    run time; the mapping network's rate times 0.01); the paper uses Adam with 2e-3 and betas (0, 0.99). There is no
    style mixing, since a mixed image is not a function of one latent; concatenate rows of two :meth:`styles` for it.

    Sizes for one CPU core: ``width=32, max_width=64`` at 8x8, ``width=16, max_width=64`` at 28x28.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256; any channels.
        style_dim: dimension of z and of the styles.
        mapping_layers: layers of the mapping network (8 in the paper).
        width: channels at full resolution, doubled at each halving.
        max_width: upper bound on the channels.
        noise: whether layers add noise of learnt strength.
        conditional: whether the mapping network also depends on the class.

    Raises:
        InputError: for an unsupported image shape or width, or ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        style_dim: int = 64,
        mapping_layers: int = 4,
        width: int = 64,
        max_width: int = 512,
        noise: bool = True,
        conditional: bool = False,
    ):
        super().__init__()
        check_positive(self, style_dim=style_dim, mapping_layers=mapping_layers, width=width, max_width=max_width)
        a, k = doublings(spec, self)
        self.style_dim, self.conditional = style_dim, conditional
        if conditional:
            check_conditional(self, spec)
        self.mapping = Mapping(style_dim, spec.num_classes if conditional else 0, style_dim, mapping_layers)
        channels = channels_of(k, width, max_width)
        self.constant = nn.Parameter(torch.randn(channels[0], a, a))
        self.layers = nn.ModuleList([StyledConv(channels[0], channels[0], style_dim, a, up=False, noise=noise)])
        for i in range(1, k + 1):
            side = a * 2**i
            self.layers.append(StyledConv(channels[i - 1], channels[i], style_dim, side, up=True, noise=noise))
            self.layers.append(StyledConv(channels[i], channels[i], style_dim, side, up=False, noise=noise))
        self.to_image = nn.ModuleList(ToImage(c, spec.channels, style_dim) for c in channels)
        self.up = nn.ModuleList(Resample.up(a * 2**i) for i in range(k))
        self.noise_sizes = [layer.side**2 if noise else 0 for layer in self.layers]
        self.noise_dim = sum(self.noise_sizes)
        self.latent_dim = style_dim + self.noise_dim
        self.num_styles = len(self.layers) + 1  # tRGB layers share the style of the following convolution

    def split(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Split latents (B, latent_dim) into z (B, style_dim) and noise (B, noise_dim)."""
        return latent[:, : self.style_dim], latent[:, self.style_dim :]

    def styles(self, z: Tensor, labels: Tensor | None = None, psi: float = 1.0) -> Tensor:
        r"""Map z (B, style_dim) to styles (B, num_styles, style_dim), one row per layer, all equal.

        Args:
            z: (B, style_dim), of any scale: it is normalised.
            labels: classes (B,), if conditional.
            psi: truncation towards the (class's) mean style, :math:`\bar w + \psi (w - \bar w)`; 1 for none.

        Raises:
            InputError: for a conditional network without labels.
        """
        w = self.mapping(z, require_labels(self, labels) if self.conditional else None)
        if psi != 1:
            mean = self.mean_styles()
            w = torch.lerp(mean[labels] if self.conditional else mean, w, psi)
        return w[:, None].expand(-1, self.num_styles, -1)

    @torch.no_grad()
    def mean_styles(self, n: int = 4096) -> Tensor:
        """Return the mean style of n fixed z, (num_classes, style_dim) if conditional, else (1, style_dim).

        It replaces the paper's moving average during training: computed on demand, it always matches the weights, also
        those of an averaged copy of the network.
        """
        z = normal(n, self.style_dim, generator=torch.Generator().manual_seed(0)).to(self.constant)
        if not self.conditional:
            return self.mapping(z, None).mean(0, keepdim=True)
        classes = torch.arange(self.mapping.num_classes, device=z.device)
        return torch.stack([self.mapping(z, label.expand(n)).mean(0) for label in classes])

    def synthesise(self, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map styles (B, num_styles, style_dim) and noise (B, noise_dim) to unit images (B, C, H, W).

        Args:
            w: styles; rows may differ.
            noise: standard normal; optional for a network without noise.
        """
        maps = noise.split(self.noise_sizes, 1) if self.noise_dim else [None] * len(self.layers)
        x = self.constant.expand(len(w), -1, -1, -1)
        x = self.layers[0](x, w[:, 0], maps[0])
        image = self.to_image[0](x, w[:, 1])
        for i, up in enumerate(self.up):
            first = 2 * i + 1
            x = self.layers[first](x, w[:, first], maps[first])
            x = self.layers[first + 1](x, w[:, first + 1], maps[first + 1])
            image = up(image) + self.to_image[i + 1](x, w[:, first + 2])
        return image

    def forward(self, latent: Tensor, labels: Tensor | None = None, psi: float = 1.0) -> Tensor:
        """Map latents (B, latent_dim) to unit images (B, C, H, W), not clamped; ``psi`` as for :meth:`styles`."""
        z, noise = self.split(latent)
        return self.synthesise(self.styles(z, labels, psi), noise)


class ResidualDown(nn.Module):
    r"""Downsampling residual block of the discriminator, :math:`(F(x) + S x) / \sqrt2` (Karras et al. 2020).

    F is two 3x3 convolutions with leaky ReLU, the second with blur and stride 2; S is a 1x1 convolution with blur and
    stride 2.
    """

    def __init__(self, inputs: int, outputs: int, side: int):
        super().__init__()
        self.first = EqualisedConv2d(inputs, inputs, 3, padding=1)
        self.blur = Resample(filter_matrix(side, side + 1, -2))
        # The gain sqrt(2) of the leaky ReLU and the factor 1 / sqrt(2) of the sum cancel.
        self.second = EqualisedConv2d(inputs, outputs, 3, gain=1.0, stride=2)
        self.down = Resample.down(side)
        self.skip = EqualisedConv2d(inputs, outputs, 1, gain=math.sqrt(0.5), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.first(x), SLOPE, inplace=True)
        y = F.leaky_relu(self.second(self.blur(y)), SLOPE, inplace=True)
        return y + self.skip(self.down(x))


def minibatch_deviation(x: Tensor) -> Tensor:
    r"""Return maps (B, 1, H, W) with the standard deviation within each group, averaged over channels and pixels.

    .. math:: \frac{1}{CHW} \sum_{chw} \sqrt{\operatorname{Var}_{b \in \text{group}}(x_{bchw}) + 10^{-8}}

    (Karras et al. 2018.) Image b belongs to group b mod M with M = ceil(B / 4), so that groups have four images, or
    fewer if four does not divide B. The variance is that of the population.
    """
    n = len(x)
    groups = math.ceil(n / GROUP)
    rows = math.ceil(n / groups)
    y = F.pad(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, (0,) * 7 + (rows * groups - n,))
    y = y.flatten(1).unflatten(0, (rows, groups))
    there = (torch.arange(rows * groups, device=x.device) < n).to(y.dtype).view(rows, groups, 1)
    count = there.sum(0)
    variance = ((y - y.sum(0) / count) * there).square().sum(0) / count
    figure = (variance + 1e-8).sqrt().mean(1).repeat(rows)[:n]
    return figure.to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[2:])


class StyleGAN2Discriminator(nn.Module):
    r"""StyleGAN2's residual discriminator: blocks down to a x a, minibatch standard deviation, a convolution and two
    linear layers (Karras et al. 2020).

    Learning rates are equalised as in :class:`StyleGAN2Generator`. A conditional score is the projection of features on
    a mapping of the class, :math:`\langle \phi(x), f(y) \rangle / \sqrt d` (Karras et al. 2020b).

    With ``minibatch_std``, as in the paper, a score also depends on the (up to three) other images of its group. This
    helps to detect mode collapse, but R1 and R2 then penalise the summed scores of a group, and scores depend on how a
    batch is split into groups and over ranks. Disable it for small batches, or if scores of images are compared.

    Args:
        spec: square images of size a·2^k, a in 3..7, k >= 1, at most 256; any channels.
        width: channels at full resolution, doubled at each halving.
        max_width: upper bound on the channels.
        minibatch_std: whether to append the standard deviation within groups of four images to the last feature map.
        conditional: whether scores depend on labels.
        mapping_layers: layers of the mapping network of classes, if conditional.

    Raises:
        InputError: for an unsupported image shape or width, or ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        width: int = 64,
        max_width: int = 512,
        minibatch_std: bool = True,
        conditional: bool = False,
        mapping_layers: int = 4,
    ):
        super().__init__()
        check_positive(self, width=width, max_width=max_width, mapping_layers=mapping_layers)
        a, k = doublings(spec, self)
        self.conditional, self.minibatch_std = conditional, minibatch_std
        if conditional:
            check_conditional(self, spec)
        channels = channels_of(k, width, max_width)
        self.from_image = EqualisedConv2d(spec.channels, channels[k], 1)
        self.blocks = nn.Sequential(
            *(ResidualDown(channels[i], channels[i - 1], a * 2**i) for i in range(k, 0, -1)),
        )
        last = channels[0]
        self.mix = EqualisedConv2d(last + int(minibatch_std), last, 3, padding=1)
        self.dense = EqualisedLinear(last * a * a, last, gain=GAIN)
        self.score = EqualisedLinear(last, last if conditional else 1)
        self.mapping = Mapping(0, spec.num_classes, last, mapping_layers) if conditional else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map unit images (B, C, H, W), and labels (B,) if conditional, to scores (B,)."""
        if self.conditional:
            labels = require_labels(self, labels)
        x = self.blocks(F.leaky_relu(self.from_image(images), SLOPE, inplace=True))
        if self.minibatch_std:
            x = torch.cat([x, minibatch_deviation(x)], 1)
        x = F.leaky_relu(self.mix(x), SLOPE, inplace=True)
        x = F.leaky_relu(self.dense(x.flatten(1)), SLOPE)
        x = self.score(x)
        if self.conditional:
            return (x * self.mapping(None, labels)).sum(1) / math.sqrt(x.shape[1])
        return x.squeeze(1)
