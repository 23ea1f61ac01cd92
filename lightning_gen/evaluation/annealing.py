"""Likelihoods of models that decode latents, by annealed importance sampling."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_gen.core import keyed_generator
from lightning_gen.data import Images
from lightning_gen.evaluation.likelihoods import tensors
from lightning_gen.metrics import BitsPerDimension, bits_per_dimension
from lightning_gen.models import GenerativeModule
from lightning_gen.samplers import AnnealedImportanceSampling
from lightning_gen.samplers.decoders import LatentDecoder

LOW_ACCEPTANCE = 0.2


def score_annealed(
    decoder: LatentDecoder,
    method: AnnealedImportanceSampling,
    model: GenerativeModule,
    images: Images,
    batch_size: int,
    seed: int,
    tell: Callable[[str], object],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the figures of held-out images, and what they are of.

    Args:
        decoder: of the model's latents, with its observation model.
        method: how chains go from the prior to the posterior.
        model: whose latents these are; a class-conditional one is given the images' labels.
        images: all of which are scored.
        batch_size: chains at once.
        seed: of noise.
        tell: is told how far it is, and why a bound is loose.
    """
    levels, labels = tensors(model, images, torch.arange(len(images.levels)))
    found = []
    for chunk, rows in enumerate(_chunks(len(levels), batch_size, method)):
        generator = keyed_generator(seed, "ais", f"held-out/{chunk}")
        target = decoder.target(levels[rows], None if labels is None else labels[rows])
        found.append(method.forward(target, method.tune(target, generator), generator))
        tell(f"held-out images: {rows.stop} of {len(levels)}")
    bound = torch.cat([forward.bound for forward in found])
    ess = torch.cat([forward.effective_sample_size for forward in found])
    rates = torch.cat([forward.acceptance for forward in found])
    metric = BitsPerDimension(model.spec, model.conditional)
    metric.update(bound, "ais", method.chains)
    figures = metric.compute()
    for line in doubts(ess, rates, method.chains):
        tell(line)
    return {
        **figures,
        "log_p": float(bound.mean()),
        "log_p_se": standard_error(bound),
        "effective_sample_size": float(ess.mean()),
        "effective_sample_size_lowest": float(ess.min()),
        "acceptance": float(rates.mean()),
        "acceptance_lowest": float(rates.min()),
    }, metric.facts


def score_simulated(
    decoder: LatentDecoder,
    method: AnnealedImportanceSampling,
    model: GenerativeModule,
    n: int,
    batch_size: int,
    seed: int,
    tell: Callable[[str], object],
) -> dict[str, float]:
    """Return both bounds of ``n`` images simulated from the model, and the gap; see :func:`score_annealed`."""
    found = []
    for chunk, rows in enumerate(_chunks(n, batch_size, method)):
        generator = keyed_generator(seed, "ais", f"simulated/{chunk}")
        places = torch.arange(rows.start, rows.stop, device=model.device)
        labels = places % model.spec.num_classes if model.conditional else None
        latent = decoder.draw_prior(len(places), generator)
        levels = decoder.draw_levels(latent, labels, generator)
        target = decoder.target(levels, labels)
        step_sizes = method.tune(target, generator)
        forward = method.forward(target, step_sizes, generator)
        reverse = method.reverse(target, step_sizes, latent, generator)
        found.append(torch.stack([forward.bound, reverse.bound]))
        tell(f"simulated images: {rows.stop} of {n}")
    lower, upper = torch.cat(found, 1)
    gap = upper - lower
    return {
        "simulated_bpd_ais": float(bits_per_dimension(lower.mean(), model.spec)),
        "simulated_bpd_ais_reverse": float(bits_per_dimension(upper.mean(), model.spec)),
        "gap_nats": float(gap.mean()),
        "gap_nats_se": standard_error(gap),
        "gap_nats_largest": float(gap.max()),
        "gap_bpd": -float(bits_per_dimension(gap.mean(), model.spec)),
    }


def doubts(ess: Tensor, acceptance: Tensor, chains: int) -> list[str]:
    """Return lines that say why the bound of images is loose.

    Args:
        ess: effective sample sizes (N,).
        acceptance: of proposals, (N,); not a number where there were none.
        chains: for each image.
    """
    found = []
    # Few chains have a small effective sample size even where they agree.
    if chains > 1 and ess.mean() < min(1.5, 1 + 0.2 * (chains - 1)):
        found.append(f"chains disagree: {chains} are worth {ess.mean():.2g} on average: raise --steps")
    if acceptance.mean() < LOW_ACCEPTANCE:
        found.append(f"chains hardly move: {acceptance.mean():.2g} of proposals are accepted: raise --steps")
    return found


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of values (n,); not a number for a single one."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _chunks(n: int, batch_size: int, method: AnnealedImportanceSampling) -> list[slice]:
    """Return slices of ``n`` images, so many at once that their chains are at most ``batch_size``."""
    size = max(1, batch_size // method.chains)
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]
