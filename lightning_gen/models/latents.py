"""Ways between a model's latents."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.distributions import StandardNormal
from lightning_gen.models.base import GenerativeModule
from lightning_gen.samplers import LatentSampler, slerp


def path_between(model: GenerativeModule, start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return the ways that pictures take from latents to others: where likely latents lie between them.

    On great circles (:func:`~lightning_gen.samplers.slerp`) where the model's latents are standard normal, by its prior
    or its sampler; else on straight lines, as nothing is known of how latents are distributed.

    Args:
        model: whose latents they are.
        start, end: latents (N, D).
        steps: points n on each way, both ends among them, at least 2.

    Returns:
        latents (N, n, D).
    """
    normal = isinstance(getattr(model, "prior", None), StandardNormal)
    if normal or isinstance(getattr(model, "sampler", None), LatentSampler):
        return slerp(start, end, steps)
    share = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[None, :, None]
    return torch.lerp(start[:, None], end[:, None], share)
