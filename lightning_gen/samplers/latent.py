"""Drawing latents."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_gen.errors import InputError


class LatentSampler:
    r"""Standard normal latents, :math:`z \sim \tau \, N(0, I)`, optionally truncated coordinate by coordinate.

    Args:
        temperature: :math:`\tau > 0`, the standard deviation; below 1 trades diversity for fidelity.
        truncation: t, or None. Coordinates beyond t (before the temperature) are drawn again (Brock et al. 2019).
        psi: :math:`\psi`, for generators with styles w: they are drawn towards their mean,
            :math:`\bar w + \psi (w - \bar w)` (Karras et al. 2019); 1 for none.

    Raises:
        InputError: for a temperature or truncation that is not above 0, or a temperature or psi that is not finite.
    """

    def __init__(self, temperature: float = 1.0, truncation: float | None = None, psi: float = 1.0):
        if not 0 < temperature < math.inf:  # refuses nan, too
            raise InputError(f"sampler.temperature must be above 0 and finite, got {temperature}")
        if truncation is not None and not truncation > 0:
            raise InputError(f"sampler.truncation must be above 0, got {truncation}")
        if not math.isfinite(psi):
            raise InputError(f"sampler.psi must be finite, got {psi}")
        self.temperature = temperature
        self.truncation = truncation
        self.psi = psi

    def __call__(self, n: int, latent_dim: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Return float32 latents (n, latent_dim) on ``device``, drawn with ``generator``."""
        # Not the default dtype, which a Trainer of precision 64-true changes: equal generators draw equal latents.
        latent = torch.empty(n, latent_dim, dtype=torch.float32, device=device)
        if self.truncation is None:
            latent.normal_(generator=generator)
        else:
            # Inverse CDF of the truncated normal: one draw each, however small the truncation.
            edge = torch.special.ndtr(torch.tensor(self.truncation, dtype=torch.float64))
            uniform = torch.empty(n, latent_dim, dtype=torch.float64, device=device).uniform_(generator=generator)
            latent = torch.special.ndtri(uniform * (2 * edge.item() - 1) + (1 - edge.item())).float()
        return latent.mul_(self.temperature)


class PriorSampler:
    r"""How a model with a prior and a pixel likelihood draws: :math:`z \sim p(z)`, then pixels given z.

    Args:
        temperature: factor of a standard normal prior's latents, above 0.
        pixels: "sample" draws pixels from their distribution, as the model's p(x) has it; "mean" takes their expected
            values, the pictures usually shown, which are smoother than p(x).

    Raises:
        InputError: for a temperature that is not above 0 and finite, or other pixels.
    """

    def __init__(self, temperature: float = 1.0, pixels: Literal["sample", "mean"] = "sample"):
        if not 0 < temperature < math.inf:
            raise InputError(f"sampler.temperature must be above 0 and finite, got {temperature}")
        if pixels not in ("sample", "mean"):
            raise InputError(f"sampler.pixels must be sample or mean, got {pixels!r}")
        self.temperature = temperature
        self.pixels = pixels


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    r"""Points on the great circles from ``start`` to ``end``, in equal angles (Shoemake 1985).

    .. math:: z_t = r_t \, \frac{\sin((1 - t)\,\omega)\, u_0 + \sin(t\,\omega)\, u_1}{\sin \omega}, \qquad
        r_t = (1 - t) \|z_0\| + t \|z_1\|, \quad t = 0, \tfrac1{n-1}, ..., 1

    with the directions :math:`u_i = z_i / \|z_i\|` and the angle :math:`\omega` between them. Straight lines between
    normal latents pass through the middle, where there are next to none; these do not (White 2016). Latents that point
    the same or opposite ways (no great circle, or no one in particular) are joined by a straight line.

    Args:
        start, end: latents (N, D).
        steps: points n on each way, both ends among them, at least 2.

    Returns:
        latents (N, n, D).

    Raises:
        InputError: for fewer steps.
    """
    if steps < 2:
        raise InputError(f"slerp: steps must be at least 2, both ends, got {steps}")
    t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[None, :, None]
    norms = [latent.norm(dim=1, keepdim=True) for latent in (start, end)]
    a, b = (latent / norm.clamp(min=1e-12) for latent, norm in zip((start, end), norms, strict=True))
    # Not the arc cosine, which loses half of the digits near 0 and pi.
    angle = 2 * torch.atan2((b - a).norm(dim=1), (a + b).norm(dim=1))[:, None, None]
    sine = angle.sin()
    straight = sine < 1e-4
    on_circle = (((1 - t) * angle).sin() * a[:, None] + (t * angle).sin() * b[:, None]) / sine.where(~straight, 1)
    length = torch.lerp(norms[0][:, None], norms[1][:, None], t)
    return torch.where(straight, torch.lerp(start[:, None], end[:, None], t), length * on_circle)
