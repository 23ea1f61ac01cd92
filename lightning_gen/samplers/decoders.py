"""The joint densities of latents and levels that annealed importance sampling evaluates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_gen.core import Decodes, ImageSpec, InputError, normal
from lightning_gen.distributions import Prior
from lightning_gen.distributions.discretized_gaussian import DiscretizedGaussian
from lightning_gen.samplers.ais import ADAPTATION, LatentTarget, State, hamiltonian_transition
from lightning_gen.samplers.latent import HasPixels


@runtime_checkable
class HasPixelLikelihood(HasPixels, Protocol):
    """A model with a prior of latents and a distribution of pixels given them.

    ``log_conditional`` returns log p(x | z), nats (K, B), of levels (B, C, H, W) and latents (K, B, D).
    """

    prior: Prior

    def log_conditional(self, levels: Tensor, latent: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasUnitImages(Protocol):
    """A model without pixel likelihood that maps latents (B, D) differentiably to unit images (B, C, H, W)."""

    def unit_images(self, latent: Tensor, labels: Tensor | None = None) -> Tensor: ...


def is_decoder(model: Any) -> bool:
    """Whether a model decodes continuous latents, so that annealed importance sampling applies."""
    able = isinstance(model, HasPixelLikelihood | HasUnitImages)
    return able and isinstance(model, Decodes) and model.latents != "discrete"


def decoder_of(model: Any, sigma: float = 1.0) -> LatentDecoder:
    """Return the joint density of a model for which :func:`is_decoder` is true.

    Args:
        model: in evaluation mode.
        sigma: standard deviation of the pixel noise, for a model without pixel likelihood.

    Raises:
        InputError: if the model's sampler does not draw standard normal latents, so that p(z) is not known.
    """
    if isinstance(model, HasPixelLikelihood):
        return ModelDecoder(model)
    name, sampler = type(model).__name__, model.sampler
    if sampler.neutral is None:
        raise InputError(
            f"{name}: latents of a {type(sampler).__name__} are not known to be standard normal: give a LatentSampler"
        )
    for option, plain in sampler.neutral.items():
        if (value := getattr(sampler, option)) != plain:
            off = "null" if plain is None else plain
            raise InputError(
                f"{name}: with sampler.{option} {value} samples are not of standard normal latents: give "
                f"--sampler.{option} {off}"
            )
    return GaussianDecoder(model.spec, model.latent_shape[0], model.unit_images, sigma, model.device)


class LatentDecoder(ABC):
    """A joint distribution of latents (B, D) and levels (B, C, H, W)."""

    @abstractmethod
    def draw_prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents (n, D) from :math:`p(z)`."""

    @abstractmethod
    def draw_levels(self, latent: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw levels (N, C, H, W) from :math:`p(x|z)` of latents (N, D)."""

    @abstractmethod
    def target(self, levels: Tensor, labels: Tensor | None = None) -> LatentTarget:
        """Return the joint density :math:`p(z)\\, p(x|z)` for the given levels (N, C, H, W)."""


class ModelDecoder(LatentDecoder):
    """A model's own prior and pixel likelihood."""

    def __init__(self, model: HasPixelLikelihood):
        self.model = model

    def draw_prior(self, n: int, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            return self.model.prior.sample(n, generator)

    def draw_levels(self, latent: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        pixels = self.model.pixels
        with torch.no_grad():
            theta = self.model.pixel_parameters(latent, labels).float()
            return pixels.sample(theta, pixels.noise(len(latent), generator, latent.device))

    def target(self, levels: Tensor, labels: Tensor | None = None) -> LatentTarget:
        def log_conditional(latent: Tensor) -> Tensor:
            return self.model.log_conditional(levels, latent, labels)

        return LatentTarget(self.draw_prior, self.model.prior.log_prob, log_conditional, len(levels))


class GaussianDecoder(LatentDecoder):
    r"""A decoder of standard normal latents, made a distribution of levels by Gaussian noise on its pixels.

    :math:`p(z) = N(0, I)`, and :math:`p(x|z)` is the :class:`~lightning_gen.distributions.DiscretizedGaussian` around
    :math:`G(z)`, with the same standard deviation for all pixels (Wu et al. 2017).

    Args:
        spec: image format.
        latent_dim: latent dimension D.
        decode: (latents (B, D), labels (B,) or None) -> unit images (B, C, H, W), differentiable.
        sigma: standard deviation of the noise, in units of unit images.
        device: device of the decoder.

    Raises:
        InputError: for a standard deviation that is not a finite number above 0.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int,
        decode: Callable[[Tensor, Tensor | None], Tensor],
        sigma: float,
        device: torch.device | str = "cpu",
    ):
        self.spec, self.latent_dim, self.decode, self.device = spec, latent_dim, decode, device
        self.noise = DiscretizedGaussian(spec, sigma)

    def draw_prior(self, n: int, generator: torch.Generator) -> Tensor:
        return normal(n, self.latent_dim, generator=generator, device=self.device)

    def log_prior(self, latent: Tensor) -> Tensor:
        """Return log p(z), nats (...), of latents (..., D)."""
        return -0.5 * latent.square().sum(-1) - 0.5 * self.latent_dim * math.log(2 * math.pi)

    def means(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the decoder's unit images (C, N, C', H, W) of latents (C, N, D), with labels (N,) of the images."""
        of_chains = None if labels is None else labels.repeat(len(latent))
        return self.decode(latent.flatten(0, 1), of_chains).unflatten(0, latent.shape[:2])

    def target(self, levels: Tensor, labels: Tensor | None = None) -> LatentTarget:
        def log_conditional(latent: Tensor) -> Tensor:
            mean = self.means(latent, labels)
            low, high = ends[mean.dtype] if mean.dtype in ends else self.noise.bins(levels, mean.dtype)
            return self.noise.log_prob_of_bins(low, high, mean).flatten(2).sum(-1)

        ends = {torch.float32: self.noise.bins(levels, torch.float32)}
        return LatentTarget(self.draw_prior, self.log_prior, log_conditional, len(levels))

    def draw_levels(self, latent: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            return self.noise.sample(self.decode(latent, labels), generator)

    def fit(
        self,
        levels: Tensor,
        labels: Tensor | None,
        generator: torch.Generator,
        batch_size: int = 500,
        chains: int = 4,
        rounds: int = 60,
        transitions: int = 5,
        leapfrog: int = 3,
    ) -> float:
        r"""Set the standard deviation to its maximum likelihood estimate, and return it.

        Monte Carlo EM (Wei and Tanner 1990). E step: the chains of each image take a few Hamiltonian transitions that
        leave its posterior invariant, with adaptive step sizes, since no bound depends on them. M step: :math:`\sigma`
        maximises the mean of :math:`\log p(x|z)` over chains, changing by at most a factor of 1.35. The initial value
        is the residual of prior samples, so that the posterior is annealed as :math:`\sigma` decreases. The result is
        the geometric mean over the last third of the rounds.

        Args:
            levels: images (N, C, H, W), validation data.
            labels: (N,), or None.
            generator: source of all randomness.
            batch_size: most chains per evaluation, but at least those of one image.
            chains: chains per image.
            rounds: rounds of EM.
            transitions: Hamiltonian transitions per round.
            leapfrog: gradient evaluations per transition.
        """
        latents = self.draw_prior(chains * len(levels), generator).unflatten(0, (chains, len(levels)))
        size = max(1, batch_size // chains)
        latents, images = list(latents.split(size, 1)), levels.split(size)
        classes = [None] * len(images) if labels is None else labels.split(size)
        log_steps = [torch.full((len(part),), math.log(1 / leapfrog), device=levels.device) for part in images]
        with torch.no_grad():
            squares = [
                (self.spec.to_unit(part) - self.means(latent, own)).square().sum()
                for part, own, latent in zip(images, classes, latents, strict=True)
            ]
        residual = math.sqrt(float(torch.stack(squares).sum()) / (chains * levels.numel()))
        self._set(max(residual, 1 / self.spec.levels))
        found = []
        for _ in range(rounds):
            means = []
            for i, (part, own) in enumerate(zip(images, classes, strict=True)):
                target = self.target(part, own)
                state = State.at(target, latents[i])
                for _ in range(transitions):
                    step_size = log_steps[i].exp()
                    state, rate = hamiltonian_transition(target, state, 1.0, step_size, leapfrog, generator)
                    log_steps[i] = log_steps[i] + ADAPTATION * (rate.mean(0) - 0.65)
                latents[i] = state.latent
                with torch.no_grad():
                    means.append(self.means(state.latent, own))
            found.append(self._most_likely_noise(images, means))
            self._set(math.exp(found[-1]))
        last = found[-max(1, rounds // 3) :]
        self._set(math.exp(sum(last) / len(last)))
        return float(self.noise.sigma)

    def _set(self, sigma: float) -> None:
        self.noise = DiscretizedGaussian(self.spec, sigma)

    def _most_likely_noise(self, images: Sequence[Tensor], means: Sequence[Tensor]) -> float:
        """Return the best log sigma near the current one, by golden-section search over chunks of levels and means."""
        chunks = [(*self.noise.bins(levels, mean.dtype), mean) for levels, mean in zip(images, means, strict=True)]

        def nats(log_sigma: float) -> float:
            noise = DiscretizedGaussian(self.spec, math.exp(log_sigma))
            return sum(float(noise.log_prob_of_bins(*chunk).mean()) * chunk[-1].numel() for chunk in chunks)

        golden = (math.sqrt(5) - 1) / 2
        middle = math.log(self.noise.sigma)
        a, b = middle - 0.3, middle + 0.3
        while b - a > 0.01:
            left, right = b - golden * (b - a), a + golden * (b - a)
            a, b = (a, right) if nats(left) > nats(right) else (left, b)
        # Noise far below the bin width never changes a level.
        return max((a + b) / 2, math.log(0.01 / self.spec.levels))
