"""Drawing latents."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.errors import InputError


class LatentSampler:
    r"""Standard normal latents, :math:`z \sim \tau \, N(0, I)`, optionally truncated coordinate by coordinate.

    Args:
        temperature: :math:`\tau > 0`, the standard deviation; below 1 trades diversity for fidelity.
        truncation: t, or None. Coordinates beyond t (before the temperature) are drawn again (Brock et al. 2019).

    Raises:
        InputError: for a temperature or truncation that is not above 0.
    """

    def __init__(self, temperature: float = 1.0, truncation: float | None = None):
        if not temperature > 0:  # refuses nan, too
            raise InputError(f"sampler.temperature must be above 0, got {temperature}")
        if truncation is not None and not truncation > 0:
            raise InputError(f"sampler.truncation must be above 0, got {truncation}")
        self.temperature = temperature
        self.truncation = truncation

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
