"""Samplers of latent-variable models, and interpolation of latents."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lightning_gen.core import Decodes, InputError, check, check_above, check_at_least, check_choice, uniform
from lightning_gen.distributions import PixelLikelihood
from lightning_gen.networks import HasStyles
from lightning_gen.samplers.base import Noise, Sampler


@runtime_checkable
class HasGenerator(Decodes, Protocol):
    """A model whose latents are decoded by the network ``generator``."""

    generator: nn.Module


@runtime_checkable
class HasPixels(Decodes, Protocol):
    """A model with a distribution ``pixels`` of pixels, whose parameters are ``pixel_parameters`` of the latents."""

    pixels: PixelLikelihood

    def pixel_parameters(self, latent: Tensor, labels: Tensor | None) -> Tensor: ...


@runtime_checkable
class HasCodes(HasPixels, Protocol):
    """A model whose latents are grids of a quantizer's codes, with a prior over them."""

    quantizer: nn.Module
    prior: Any


class LatentSampler(Sampler):
    r"""Normal latents, :math:`z = \tau \epsilon, \epsilon \sim N(0, I)`, each coordinate optionally truncated.

    Args:
        temperature: :math:`\tau > 0`, the standard deviation; below 1 trades diversity for fidelity.
        truncation: t, or None. Coordinates of :math:`\epsilon` are drawn from N(0, 1) truncated to [-t, t] (Brock et
            al. 2019).
        chunk_size: images per chunk; None for all at once.

    Raises:
        InputError: for a temperature or truncation that is not above 0, or a temperature that is not finite.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"temperature": 1, "truncation": None}
    needs = Decodes

    def __init__(self, temperature: float = 1.0, truncation: float | None = None, chunk_size: int | None = None):
        super().__init__(chunk_size)
        check_above("sampler", 0, temperature=temperature)
        check("sampler", "truncation", truncation, truncation is None or truncation > 0, "above 0")
        self.temperature = temperature
        self.truncation = truncation

    def noise(self, model: Any, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.latents(model, n, labels, generator)

    def draw(self, model: Any, noise: Tensor, labels: Tensor | None) -> Tensor:
        return self.decode(model, noise, labels)

    def latents(self, model: Any, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        if self.truncation is None:
            return model.draw_latents(n, labels, generator=generator) * self.temperature
        # Inverse CDF: rejection sampling would need more draws the smaller the truncation.
        edge = torch.special.ndtr(torch.tensor(self.truncation, dtype=torch.float64)).item()
        numbers = uniform(n, *model.latent_shape, generator=generator, dtype=torch.float64)
        latent = torch.special.ndtri(numbers * (2 * edge - 1) + (1 - edge)).float()
        return latent.mul_(self.temperature).to(model.device)


class StyleSampler(LatentSampler):
    r"""Truncation of the styles w of a generator towards their mean (Karras et al. 2019).

    .. math:: w' = \bar w + \psi (w - \bar w)

    Args:
        psi: :math:`\psi`; 1 for no truncation, smaller values trade diversity for fidelity.
        temperature, truncation, chunk_size: as in :class:`LatentSampler`.

    Raises:
        InputError: for a psi that is not finite, and as :class:`LatentSampler`; for a generator without styles.
    """

    neutral: ClassVar[Mapping[str, Any]] = {**LatentSampler.neutral, "psi": 1}
    needs = HasGenerator

    def __init__(
        self,
        psi: float = 1.0,
        temperature: float = 1.0,
        truncation: float | None = None,
        chunk_size: int | None = None,
    ):
        super().__init__(temperature, truncation, chunk_size)
        check("sampler", "psi", psi, math.isfinite(psi), "finite")
        self.psi = psi

    def check(self, model: Any) -> None:
        super().check(model)
        if not isinstance(model.generator, HasStyles):
            name = type(model.generator).__name__
            raise InputError(f"sampler: StyleSampler truncates styles, and {name} has none: take LatentSampler")

    def decode(self, model: Any, latent: Tensor, labels: Tensor | None) -> Tensor:
        self.evaluations += 1
        return model.decode(latent, labels, psi=self.psi)


class PixelSampler(Sampler):
    r"""Latents of a model with a pixel likelihood, :math:`z \sim p(z)`, then pixels given them, :math:`x \sim p(x|z)`.

    Args:
        pixels: "sample" draws from p(x | z), so that images follow the model's p(x); "mean" takes the expected values,
            which are smoother and are what is usually shown.
        chunk_size: images per chunk; None for all at once.

    Raises:
        InputError: for another value of ``pixels``.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"pixels": "sample"}
    needs = HasPixels

    def __init__(self, pixels: Literal["sample", "mean"] = "sample", chunk_size: int | None = None):
        super().__init__(chunk_size)
        check_choice("sampler", ("sample", "mean"), pixels=pixels)
        self.pixels = pixels

    def noise(self, model: Any, n: int, labels: Tensor | None, generator: torch.Generator) -> Noise:
        latent = self.latents(model, n, labels, generator)
        return (latent,) if self.pixels == "mean" else (latent, model.pixels.noise(n, generator, model.device))

    def draw(self, model: Any, noise: Noise, labels: Tensor | None) -> Tensor:
        if self.pixels == "mean":
            return self.decode(model, noise[0], labels)
        self.evaluations += 1
        latent, pixels = noise
        return model.pixels.sample(model.pixel_parameters(latent, labels).float(), pixels)


class PriorSampler(PixelSampler):
    r"""Latents of a VAE's prior, scaled by a temperature, :math:`z = \tau \epsilon, \epsilon \sim p`; then pixels.

    Args:
        temperature: :math:`\tau > 0`; other than 1 for standard normal priors only.
        pixels, chunk_size: as in :class:`PixelSampler`.

    Raises:
        InputError: for a temperature that is not above 0 and finite, or another value of ``pixels``; for a model with
            another prior, if the temperature is not 1.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"temperature": 1, **PixelSampler.neutral}

    def __init__(
        self,
        temperature: float = 1.0,
        pixels: Literal["sample", "mean"] = "sample",
        chunk_size: int | None = None,
    ):
        super().__init__(pixels, chunk_size)
        check_above("sampler", 0, temperature=temperature)
        self.temperature = temperature

    def check(self, model: Any) -> None:
        super().check(model)
        if self.temperature != 1 and model.latents != "normal":
            raise InputError(
                f"sampler.temperature is of a standard normal prior, which this {type(model).__name__} has not: leave "
                "it at 1"
            )

    def latents(self, model: Any, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        return model.draw_latents(n, labels, generator=generator) * self.temperature


class CodeSampler(PixelSampler):
    r"""Grids of codes, :math:`c \sim p(c)`, then pixels, :math:`x \sim p(x \mid e_c)`, of the code vectors.

    Args:
        prior: checkpoint of a model that was fitted to the codes (:class:`lightning_gen.models.Codes`), or in Python
            the model itself; None for independent codes with the training frequencies of each position.
        pixels, chunk_size: as in :class:`PixelSampler`.
        trust: further packages from which the prior's classes may be built.

    Raises:
        InputError: for another value of ``pixels``.
    """

    needs = HasCodes

    def __init__(
        self,
        prior: str | None = None,
        pixels: Literal["sample", "mean"] = "sample",
        trust: Sequence[str] = (),
        chunk_size: int | None = None,
    ):
        super().__init__(pixels, chunk_size)
        self.prior = prior
        self.trust = tuple(trust)

    def latents(self, model: Any, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        codes = super().latents(model, n, labels, generator)
        self.evaluations += model.prior.evaluations
        return codes


def interpolate(start: Tensor, end: Tensor, count: int, latents: str) -> Tensor:
    """Interpolate between pairs of latents: spherically if their distribution is normal, else linearly.

    Args:
        start, end: latents (N, D).
        count: number of points n including both ends, at least 2.
        latents: their distribution, see :class:`~lightning_gen.core.protocols.Decodes`; "normal" uses :func:`slerp`.

    Returns:
        Latents (N, n, D).
    """
    check_at_least("interpolate", 2, count=count)
    if latents == "normal":
        return slerp(start, end, count)
    share = torch.linspace(0, 1, count, dtype=start.dtype, device=start.device)[None, :, None]
    return torch.lerp(start[:, None], end[:, None], share)


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    r"""Spherical linear interpolation from ``start`` to ``end``, in equal angles (Shoemake 1985).

    .. math:: z_t = r_t \, \frac{\sin((1 - t)\,\omega)\, u_0 + \sin(t\,\omega)\, u_1}{\sin \omega}, \qquad
        r_t = (1 - t) \|z_0\| + t \|z_1\|, \quad t = 0, \tfrac1{n-1}, ..., 1

    with the directions :math:`u_i = z_i / \|z_i\|` and the angle :math:`\omega` between them. Linear interpolation
    between normal latents passes through norms that are improbable under the prior; this one does not (White 2016).
    Parallel or opposite latents, which have no unique great circle, are interpolated linearly.

    Args:
        start, end: latents (N, D).
        steps: number of points n including both ends, at least 2.

    Returns:
        Latents (N, n, D).

    Raises:
        InputError: for fewer steps.
    """
    check("slerp", "steps", steps, steps >= 2, "at least 2, both ends")
    t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[None, :, None]
    norms = [latent.norm(dim=1, keepdim=True) for latent in (start, end)]
    a, b = (latent / norm.clamp(min=1e-12) for latent, norm in zip((start, end), norms, strict=True))
    # The arc cosine would lose half of the digits near 0 and pi.
    angle = 2 * torch.atan2((b - a).norm(dim=1), (a + b).norm(dim=1))[:, None, None]
    sine = angle.sin()
    straight = sine < 1e-4
    on_circle = (((1 - t) * angle).sin() * a[:, None] + (t * angle).sin() * b[:, None]) / sine.where(~straight, 1)
    length = torch.lerp(norms[0][:, None], norms[1][:, None], t)
    return torch.where(straight, torch.lerp(start[:, None], end[:, None], t), length * on_circle)
