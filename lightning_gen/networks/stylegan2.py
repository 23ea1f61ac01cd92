"""A small StyleGAN2: styles modulate the generator's convolutions; the discriminator is residual."""

import math
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gen.core import ImageSpec, check_positive, normal
from lightning_gen.networks.conditional import check_conditional, require_labels
from lightning_gen.networks.dcgan import doublings
from lightning_gen.networks.resampling import Resample, channels_of, filter_matrix

SLOPE = 0.2  # of every leaky rectifier
GAIN = math.sqrt(2)  # keeps the second moment of a rectified normal number
GROUP = 4  # images that share a minibatch standard deviation


def pixel_norm(x: Tensor) -> Tensor:
    r"""Return :math:`x / \sqrt{\tfrac1d \sum_i x_i^2 + 10^{-8}}`, rows (B, d) of mean square 1 (Karras et al. 2018)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class EqualisedLinear(nn.Module):
    r"""Linear layer of equalised learning rate (Karras et al. 2018).

    .. math:: y = g \, (\lambda W x / \sqrt{d} + \lambda b)

    W starts at :math:`N(0, 1 / \lambda^2)` whatever the number d of inputs: Adam's steps, all of one length, change
    every layer by the same share, times :math:`\lambda`.

    Args:
        inputs: d.
        outputs: number of outputs.
        rate: :math:`\lambda`, the multiplier of the learning rate.
        gain: g. A leaky rectifier is positively homogeneous: its gain may stand before it.
        bias: b at the start, times :math:`\lambda`.
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
    r"""Convolution of equalised learning rate, :math:`y = g \, (W * x / \sqrt{d} + b)` (Karras et al. 2018).

    d is the fan-in; W starts at N(0, 1).

    Args:
        inputs: channels of x.
        outputs: channels of y.
        kernel: side of the kernel.
        gain: g, see :class:`EqualisedLinear`.
        bias: whether there is one; it starts at zero.
        stride: of the convolution.
        padding: zeros on each side.
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
    r"""Mapping network from a latent and a class to a style: pixel norm, then leaky linear layers (Karras et al. 2019).

    Its learning rate is a hundredth of the others'. The class enters as a linear map of its one-hot code, pixel-normed
    and appended to the latent (Karras et al. 2020b, "Training generative adversarial networks with limited data").

    Args:
        latent_dim: size of the latent; 0 for a map of classes alone.
        num_classes: number of classes; 0 for a map of latents alone.
        width: of the hidden layers and of the style.
        layers: their number.
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
    r"""Convolve each image with its own, modulated weights; return the result before demodulation, and its factors.

    The paper's :math:`w'_{oik} = s_i w_{oik}` and :math:`w''_{oik} = w'_{oik} / \sqrt{\sum_{i,k} w'^2_{oik} + 10^{-8}}`
    need a weight per image. The same map with shared weights, which costs one plain convolution:

    .. math:: w'' * x = d \odot (w * (s \odot x)), \qquad
              d_o = \Big(\sum_i s_i^2 \sum_k w_{oik}^2 + 10^{-8}\Big)^{-1/2}

    (Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN").

    Args:
        x: maps (B, I, H, W).
        weight: w (O, I, 3, 3).
        style: s (B, I).
        blur: with it, the convolution is a transposed one of stride 2, then blurred: side 2H.

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
    r"""Modulated 3x3 convolution, demodulated, plus noise and bias, leaky: :math:`\sqrt2 \phi(w'' * x + \beta n + b)`.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        style_dim: size of the style, of which an affine map makes s (1 at the start, on average).
        side: side of the result.
        up: whether it is twice that of x.
        noise: whether there is noise n; its strength :math:`\beta` is learned and starts at zero.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, side: int, up: bool, noise: bool):
        super().__init__()
        self.side = side
        self.affine = EqualisedLinear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(())) if noise else None
        # A transposed convolution stands on zeros between the pixels: gain 2 per axis, and nothing outside.
        self.blur = Resample(filter_matrix(side + 1, side, -1, gain=2, extend=False)) if up else None

    def applied_weight(self) -> Tensor:
        """Return the weight before its modulation."""
        return self.weight / math.sqrt(self.weight[0].numel())

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """Map maps (B, I, H, W), styles (B, style_dim) and noise (B, side * side) to maps (B, O, side, side)."""
        y, factors = modulated_conv2d(x, self.applied_weight(), self.affine(style), self.blur)
        shift = GAIN * self.bias[:, None, None]
        if self.strength is not None:
            shift = shift + (GAIN * self.strength) * noise.view(len(x), 1, self.side, self.side)
        return F.leaky_relu(torch.addcmul(shift.to(y.dtype), y, GAIN * factors.to(y.dtype)), SLOPE, inplace=True)


class ToImage(nn.Module):
    """Modulated 1x1 convolution to image channels, not demodulated, plus a bias (Karras et al. 2020's tRGB)."""

    def __init__(self, inputs: int, channels: int, style_dim: int):
        super().__init__()
        self.affine = EqualisedLinear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs))
        self.bias = nn.Parameter(torch.zeros(channels))

    def applied_weight(self) -> Tensor:
        """Return the weight before its modulation."""
        return self.weight / math.sqrt(self.weight.shape[1])

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight = self.applied_weight() * self.affine(style)[:, None]  # (B, C, I): small, so per image
        return torch.matmul(weight, x.flatten(2)).unflatten(2, x.shape[2:]) + self.bias[:, None, None]


@runtime_checkable
class HasStyles(Protocol):
    """A generator of styles: images are ``synthesise(styles(z, labels), noise)`` with ``z, noise = split(latent)``.

    Styles are (B, L, W), one for each of L layers; with ``psi`` below 1 they are drawn towards their mean.
    """

    def split(self, latent: Tensor) -> tuple[Tensor, Tensor]: ...

    def styles(self, z: Tensor, labels: Tensor | None = None, psi: float = 1.0) -> Tensor: ...

    def synthesise(self, w: Tensor, noise: Tensor | None = None) -> Tensor: ...


class StyleGAN2Generator(nn.Module):
    r"""A constant map, doubled and convolved under styles, summed up as images (Karras et al. 2020, StyleGAN2).

    .. math:: w = f(z / \|z\|), \qquad x = \sum_i \text{up}^{k-i} \, \text{toImage}_i(h_i, w), \qquad
              h_i = \sqrt2 \phi(w''(w) * h_{i-1} + \beta_i n_i + b_i)

    All randomness comes through the latent: its first ``style_dim`` coordinates are z, the others are the noise maps n
    of all layers (``noise_dim`` of them, 0 without noise), so that :meth:`forward` is a pure function. It is
    ``synthesise(styles(z, labels), noise)``, the parts that a path-length penalty wants. Only the direction of z
    counts: a sampler's temperature acts on the noise alone, and a StyleSampler's ``psi`` truncates styles.

    Images are linear, without tanh, and may leave [-1, 1]. Learning rates are equalised (weights N(0, 1), scaled when
    used; the mapping network's rate times 0.01), so that one rate serves all: the paper takes Adam with 2e-3 and betas
    (0, 0.99). Styles are not mixed, as a mixed image is no function of one latent; whoever wants it concatenates rows
    of two :meth:`styles`.

    Sizes for one CPU core: ``width=32, max_width=64`` at 8x8, ``width=16, max_width=64`` at 28x28.

    Args:
        spec: square images of side a·2^k, a in 3..7, k >= 1, at most 128; any channels.
        style_dim: size of z and of the styles.
        mapping_layers: layers of the mapping network (the paper has 8).
        width: channels at full size; they double with each halving of the side.
        max_width: upper bound on the channels.
        noise: whether layers add noise of learned strength.
        conditional: whether the mapping network also sees the class.

    Raises:
        InputError: for an image shape or width that it cannot make, or ``conditional`` without classes.
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
        self.num_styles = len(self.layers) + 1  # each image but the last shares the style of the layer that follows

    def split(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Cut latents (B, latent_dim) into z (B, style_dim) and noise (B, noise_dim)."""
        return latent[:, : self.style_dim], latent[:, self.style_dim :]

    def styles(self, z: Tensor, labels: Tensor | None = None, psi: float = 1.0) -> Tensor:
        r"""Map z (B, style_dim) to styles (B, num_styles, style_dim), one row per layer, all equal.

        Args:
            z: any scale; only its direction counts.
            labels: (B,) where conditional.
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
        """Return the mean style of n fixed z, (num_classes, style_dim) where conditional, else (1, style_dim).

        Computed when asked for, in place of the moving average of the paper: it has no state that training could leave
        behind the weights, and an averaged copy of the network has the mean that is its own.
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
            noise: standard normal; unused, hence optional, in a network without.
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
    r"""Residual block of the discriminator, half the side: :math:`(F(x) + S x) / \sqrt2` (Karras et al. 2020).

    F is two leaky 3x3 convolutions, the second one blurred and of stride 2; S is a blurred 1x1 convolution of stride 2.
    """

    def __init__(self, inputs: int, outputs: int, side: int):
        super().__init__()
        self.first = EqualisedConv2d(inputs, inputs, 3, padding=1)
        self.blur = Resample(filter_matrix(side, side + 1, -2))
        # The gain sqrt(2) of the rectifier and the factor 1 / sqrt(2) of the sum cancel.
        self.second = EqualisedConv2d(inputs, outputs, 3, gain=1.0, stride=2)
        self.down = Resample.down(side)
        self.skip = EqualisedConv2d(inputs, outputs, 1, gain=math.sqrt(0.5), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.first(x), SLOPE, inplace=True)
        y = F.leaky_relu(self.second(self.blur(y)), SLOPE, inplace=True)
        return y + self.skip(self.down(x))


def minibatch_deviation(x: Tensor) -> Tensor:
    r"""Return maps (B, 1, H, W) of one figure per group: its standard deviation, averaged over features and pixels.

    .. math:: \frac{1}{CHW} \sum_{chw} \sqrt{\operatorname{Var}_{b \in \text{group}}(x_{bchw}) + 10^{-8}}

    (Karras et al. 2018.) Image b belongs to group b mod M with M = ceil(B / 4), so that groups have four images, or
    three and fewer where four does not divide B. The variance is the population's, over the images that are there.
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
    r"""Residual blocks down to a x a, minibatch standard deviation, a convolution and two linear layers.

    Equalised learning rates as in :class:`StyleGAN2Generator`. A conditional score is the projection of features on a
    mapping of the class, :math:`\langle \phi(x), f(y) \rangle / \sqrt d` (Karras et al. 2020 and 2020b).

    With ``minibatch_std``, as in the paper, a score also depends on the (up to three) other images of its group. That
    shows the critic a lack of variety, but then R1 and R2 are those of a group's summed scores rather than of each
    image's, scores depend on how a batch is cut (so runs depend a little on the number of ranks) and those of one image
    alone are off. Switch it off where a score must be its image's own: small batches, or comparisons of scores.

    Args:
        spec: square images of side a·2^k, a in 3..7, k >= 1, at most 128; any channels.
        width: channels at full size; they double with each halving of the side.
        max_width: upper bound on the channels.
        minibatch_std: whether the last maps get the standard deviation over each group of four images.
        conditional: whether scores are those of an image and its class.
        mapping_layers: layers of the classes' mapping network; unused unless conditional.

    Raises:
        InputError: for an image shape or width that it cannot take, or ``conditional`` without classes.
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
        """Map unit images (B, C, H, W), and labels (B,) where conditional, to scores (B,)."""
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
