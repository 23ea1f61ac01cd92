"""The ladder network of hierarchical VAEs, whose inference shares the generative top-down path."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gen.core import ImageSpec, InputError, check, check_choice, check_positive, check_within
from lightning_gen.networks.conditional import check_conditional

WIDEST = 8.0  # bound of |log sigma|


class LadderPass(NamedTuple):
    """The result of one top-down pass for N latents.

    Fields:
        theta: parameters of the pixel likelihood, (N, out_channels, H, W).
        log_prior: :math:`\\log p(z)` of the latents of all layers, nats (N,).
        log_posterior: :math:`\\log q(z \\mid x)`, nats (N,); equal to ``log_prior`` in a pass without images.
        kl: KL divergence of each layer, nats (N, L); 0 without images.
        noise: the standard normal noise (N, Z) that the prior maps to these latents.
    """

    theta: Tensor
    log_prior: Tensor
    log_posterior: Tensor
    kl: Tensor
    noise: Tensor


class Bottleneck(nn.Module):
    """Bottleneck block: 1x1, 3x3, 3x3 and 1x1 convolutions, each after a GELU; optionally residual (Child 2021)."""

    def __init__(self, inputs: int, outputs: int, inner: int, side: int, residual: bool = False, dropout: float = 0.0):
        super().__init__()
        kernel = 3 if side > 2 else 1
        self.residual = residual
        self.layers = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(inputs, inner, 1),
            nn.GELU(),
            nn.Conv2d(inner, inner, kernel, padding=kernel // 2),
            nn.GELU(),
            nn.Conv2d(inner, inner, kernel, padding=kernel // 2),
            nn.GELU(),
            *([nn.Dropout(dropout)] if dropout else []),
            nn.Conv2d(inner, outputs, 1),
        )

    @property
    def last(self) -> nn.Conv2d:
        """The last convolution."""
        return self.layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class LadderLayer(nn.Module):
    """One layer of latents: prior given the path, posterior given path and image, and update of the path."""

    def __init__(self, width: int, inner: int, latent_channels: int, side: int, dropout: float):
        super().__init__()
        self.side = side
        self.latent_channels = latent_channels
        self.prior = Bottleneck(width, 2 * latent_channels + width, inner, side, dropout=dropout)
        self.posterior = Bottleneck(2 * width, 2 * latent_channels, inner, side, dropout=dropout)
        self.read = nn.Conv2d(latent_channels, width, 1)
        self.block = Bottleneck(width, width, inner, side, residual=True, dropout=dropout)
        # Initially the prior is N(0, I) and adds nothing to the path.
        nn.init.zeros_(self.prior.last.weight)
        nn.init.zeros_(self.prior.last.bias)

    @property
    def numbers(self) -> int:
        """Latent dimension of the layer."""
        return self.latent_channels * self.side**2

    def forward(self, path: Tensor, seen: Tensor | None, noise: Tensor) -> tuple[Tensor, ...]:
        """Return (path, log p, log q, KL, noise of the prior that gives the latent) for noise (N, numbers)."""
        c = self.latent_channels
        # Densities are computed in the precision of the noise, not that of the convolutions.
        mean, log_sigma, feature = self.prior(path).split((c, c, path.shape[1]), 1)
        mean, log_sigma = mean.to(noise.dtype), log_sigma.to(noise.dtype).clamp(-WIDEST, WIDEST)
        noise = noise.unflatten(1, (c, self.side, self.side))
        if seen is None:
            latent = mean + log_sigma.exp() * noise
            standard, own_nats = noise, None
        else:
            own_mean, own_log_sigma = self.posterior(torch.cat([path, seen], 1)).chunk(2, 1)
            own_mean, own_log_sigma = own_mean.to(noise.dtype), own_log_sigma.to(noise.dtype).clamp(-WIDEST, WIDEST)
            latent = own_mean + own_log_sigma.exp() * noise
            standard = (latent - mean) * (-log_sigma).exp()
            own_nats = _nats(noise, own_log_sigma)
        nats = _nats(standard, log_sigma)
        divergence = torch.zeros_like(nats)
        if seen is not None:
            ratio = (own_log_sigma - log_sigma).exp()
            shift = (own_mean - mean) * (-log_sigma).exp()
            each = 0.5 * (ratio.square() + shift.square() - 1) - (own_log_sigma - log_sigma)
            divergence = each.flatten(1).sum(1)
        path = self.block(path + feature + self.read(latent.to(path.dtype)))
        return path, nats, nats if own_nats is None else own_nats, divergence, standard.flatten(1)


def _nats(noise: Tensor, log_sigma: Tensor) -> Tensor:
    return -(0.5 * noise.square() + log_sigma + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


class LadderNetwork(nn.Module):
    r"""Encoder and decoder of a hierarchical VAE (Child 2021, after Sønderby et al. 2016).

    .. math:: p(z) = \prod_l p(z_l \mid z_{<l}), \qquad q(z \mid x) = \prod_l q(z_l \mid z_{<l}, x)

    Prior and posterior share one top-down path: each layer's prior depends on the path, its posterior also on features
    of a bottom-up residual network at the same resolution, and its latent is added to the path. Blocks have four
    convolutions without normalisation, the last one scaled by :math:`\sqrt{1 / N}` initially, with N layers. Child
    resamples by average pooling and nearest neighbours; here resampling is learnt by default, since in small networks
    coarse latents otherwise carry little information about position.

    Args:
        spec: square images of size at most 128.
        out_channels: number of output channels.
        resolutions: decreasing resolutions, beginning with that of the image.
        depths: layers of latents, and bottom-up blocks, at each resolution.
        width: channels of the path, or one number per resolution (with learned resampling).
        latent_channels: channels of each layer's latent, or one number per resolution.
        bottleneck: width of the inner convolutions relative to the path.
        dropout: dropout probability of inner units.
        resampling: "learned" uses strided (transposed) convolutions with kernel size equal to the stride, for
            resolutions that divide each other; "fixed" uses average pooling and nearest neighbours, for any.
        conditional: whether an embedding of the class is added at the beginning of the path.

    Raises:
        InputError: for resolutions that do not begin with the image's, do not decrease or, for learned resampling, do
            not divide each other, or a number out of range.
    """

    def __init__(
        self,
        spec: ImageSpec,
        out_channels: int,
        resolutions: Sequence[int] = (8, 4, 1),
        depths: Sequence[int] = (2, 2, 2),
        width: int | Sequence[int] = 64,
        latent_channels: int | Sequence[int] = 8,
        bottleneck: float = 0.5,
        dropout: float = 0.0,
        resampling: Literal["learned", "fixed"] = "learned",
        conditional: bool = False,
    ):
        super().__init__()
        widths = [width] * len(resolutions) if isinstance(width, int) else list(width)
        channels = [latent_channels] * len(resolutions) if isinstance(latent_channels, int) else list(latent_channels)
        check_positive(self, out_channels=out_channels)
        check_positive(self, **{f"width[{i}]": number for i, number in enumerate(widths)})
        check_positive(self, **{f"latent_channels[{i}]": number for i, number in enumerate(channels)})
        check_positive(self, **{f"resolutions[{i}]": side for i, side in enumerate(resolutions)})
        check_positive(self, **{f"depths[{i}]": depth for i, depth in enumerate(depths)})
        if spec.height != spec.width or spec.height > 128:
            raise InputError(f"LadderNetwork takes square images of at most 128, got {spec.height}x{spec.width}")
        given, steps = list(resolutions), list(itertools.pairwise(resolutions))
        falling = given[:1] == [spec.height] and all(a > b for a, b in steps)
        check(self, "resolutions", given, falling, f"decreasing from the image's {spec.height}")
        for name, values in {"depths": depths, "width": widths, "latent_channels": channels}.items():
            if len(values) != len(resolutions):
                raise InputError(f"LadderNetwork: {len(given)} resolutions need as many {name}, got {len(values)}")
        check_choice(self, ("learned", "fixed"), resampling=resampling)
        if resampling == "learned" and any(a % b for a, b in steps):
            raise InputError(
                f"LadderNetwork: resolutions {given} do not divide each other: choose others, or resampling fixed"
            )
        if resampling == "fixed" and len(set(widths)) > 1:
            raise InputError(f"LadderNetwork: resampling fixed keeps one width, got {widths}")
        check_within(self, "(0, 1]", bottleneck=bottleneck)
        check_within(self, "[0, 1)", dropout=dropout)
        if conditional:
            check_conditional(self, spec)
        self.conditional = conditional
        self.out_channels = out_channels
        self.resolutions = tuple(resolutions)
        inner = [max(1, round(number * bottleneck)) for number in widths]
        scales = list(zip(resolutions, depths, widths, inner, channels, strict=True))
        self.first = nn.Conv2d(spec.channels, widths[0], 3, padding=1)
        self.bottom_up = nn.ModuleList(
            nn.Sequential(*(Bottleneck(wide, wide, narrow, side, True, dropout) for _ in range(depth)))
            for side, depth, wide, narrow, _ in scales
        )
        self.top_down = nn.ModuleList(
            nn.ModuleList(LadderLayer(wide, narrow, latents, side, dropout) for _ in range(depth))
            for side, depth, wide, narrow, latents in scales[::-1]
        )
        steps = list(zip(steps, itertools.pairwise(widths), strict=True))
        steps = [(a // b, fine, coarse) for (a, b), (fine, coarse) in steps] if resampling == "learned" else []
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, ratio, ratio) for ratio, fine, coarse in steps)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, ratio, ratio) for ratio, fine, coarse in steps[::-1])
        for layer in self.grow:  # kernel size equals stride, so the fan-in is the number of channels
            nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
            nn.init.zeros_(layer.bias)
        self.beginnings = nn.ParameterList(
            nn.Parameter(torch.zeros(wide, side, side)) for side, _, wide, _, _ in scales[::-1]
        )
        self.of_class = nn.Embedding(spec.num_classes, widths[-1]) if conditional else None
        self.last = nn.Sequential(nn.GELU(), nn.Conv2d(widths[0], out_channels, 1))
        self._scale_by_depth(sum(depths))

    def _scale_by_depth(self, depth: int) -> None:
        for module in self.modules():
            if isinstance(module, Bottleneck) and module.residual:
                module.last.weight.data.mul_(math.sqrt(1 / depth))
            elif isinstance(module, LadderLayer):
                module.read.weight.data.mul_(math.sqrt(1 / depth))

    @property
    def layers(self) -> list[LadderLayer]:
        """All layers, from the top."""
        return [layer for group in self.top_down for layer in group]

    @property
    def latent_dim(self) -> int:
        """Latent dimension Z of all layers together."""
        return sum(layer.numbers for layer in self.layers)

    def look(self, images: Tensor) -> list[Tensor]:
        """Return the bottom-up features of unit images (B, C, H, W) at each resolution, from the coarsest."""
        hidden, seen = self.first(images), []
        for i, (side, blocks) in enumerate(zip(self.resolutions, self.bottom_up, strict=True)):
            if i:
                hidden = self.shrink[i - 1](hidden) if self.shrink else F.adaptive_avg_pool2d(hidden, side)
            hidden = blocks(hidden)
            seen.append(hidden)
        return seen[::-1]

    def forward(self, noise: Tensor, seen: Sequence[Tensor] | None = None, labels: Tensor | None = None) -> LadderPass:
        """Run the top-down pass, with latents from the posterior if ``seen`` is given, else from the prior.

        Args:
            noise: standard normal (N, Z).
            seen: result of :meth:`look` for B images, repeated for N = K B rows of noise.
            labels: classes (N,), if conditional.
        """
        n = len(noise)
        path = self.beginnings[0].new_zeros(n, *self.beginnings[0].shape)
        if self.of_class is not None:
            if labels is None:
                raise InputError("LadderNetwork is class-conditional: give labels")
            path = path + self.of_class(labels)[:, :, None, None].to(path.dtype)
        parts = iter(noise.split([layer.numbers for layer in self.layers], 1))
        log_prior = log_posterior = noise.new_zeros(n)
        divergences, standard = [], []
        for i, (group, beginning) in enumerate(zip(self.top_down, self.beginnings, strict=True)):
            if i:
                path = self.grow[i - 1](path) if self.grow else F.interpolate(path, size=beginning.shape[-1])
            path = path + beginning
            view = None if seen is None else seen[i].repeat(n // max(len(seen[i]), 1), 1, 1, 1)
            for layer in group:
                path, prior, posterior, divergence, own = layer(path, view, next(parts))
                log_prior, log_posterior = log_prior + prior, log_posterior + posterior
                divergences.append(divergence)
                standard.append(own)
        return LadderPass(
            self.last(path), log_prior, log_posterior, torch.stack(divergences, 1), torch.cat(standard, 1)
        )
