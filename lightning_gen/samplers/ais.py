"""Annealed importance sampling: how likely images are under a decoder of latents, bounded from both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_gen.distributions.discretized_gaussian import DiscretizedGaussian
from lightning_gen.errors import InputError
from lightning_gen.spec import ImageSpec

PILOT_CHAINS = 4
WARM_UP = 30  # transitions, of the pilot run before it starts to anneal
ADAPTATION = 0.2  # change of a log step size for an acceptance that is off by 1
JITTER = 0.2  # of step sizes, so that no trajectory is caught in a period of its target


@dataclass(frozen=True)
class LatentTarget:
    r"""A joint density :math:`p(z)\, p(x|z)` of latents and N given images, as functions.

    Args:
        draw_prior: (n, generator) -> latents (n, D) from :math:`p(z)`.
        log_prior: latents (C, N, D) -> :math:`\log p(z)`, (C, N) in nats.
        log_conditional: latents (C, N, D) -> :math:`\log p(x_n|z)`, (C, N) in nats, of the n-th image in column n.
        n: number of images N.
    """

    draw_prior: Callable[[int, torch.Generator], Tensor]
    log_prior: Callable[[Tensor], Tensor]
    log_conditional: Callable[[Tensor], Tensor]
    n: int

    def draw(self, chains: int, generator: torch.Generator) -> Tensor:
        """Return latents (C, N, D) from the prior."""
        return self.draw_prior(chains * self.n, generator).unflatten(0, (chains, self.n))


class State(NamedTuple):
    """Where chains are: latents (C, N, D), both log-densities (C, N), and their gradients (C, N, D)."""

    latent: Tensor
    prior: Tensor
    conditional: Tensor
    prior_gradient: Tensor
    conditional_gradient: Tensor

    @classmethod
    def at(cls, target: LatentTarget, latent: Tensor) -> State:
        """Evaluate the target at latents."""
        with torch.enable_grad():
            latent = latent.detach().requires_grad_()
            values = target.log_prior(latent), target.log_conditional(latent)
            gradients = [
                torch.autograd.grad(value.sum(), latent)[0] if value.requires_grad else torch.zeros_like(latent)
                for value in values
            ]
        return cls(latent.detach(), *(value.detach() for value in values), *gradients)

    def energy(self, beta: float) -> Tensor:
        r"""Return :math:`\log p(z) + \beta \log p(x|z)`, (C, N)."""
        return self.prior + beta * self.conditional

    def gradient(self, beta: float) -> Tensor:
        """Return the gradient of :meth:`energy`, (C, N, D)."""
        return self.prior_gradient + beta * self.conditional_gradient


def hamiltonian_transition(
    target: LatentTarget, state: State, beta: float, step_size: Tensor, leapfrog: int, generator: torch.Generator
) -> tuple[State, Tensor]:
    r"""One transition of Hamiltonian Monte Carlo that leaves :math:`p(z)\, p(x|z)^\beta` invariant (Neal 2011).

    Momenta are drawn anew, and each chain's step size is jittered by up to 20 % independently of where it is, so the
    transition is its own reverse.

    Args:
        target: the two factors.
        state: where chains are.
        beta: inverse temperature of :math:`p(x|z)`.
        step_size: (N,) or (C, N), above 0.
        leapfrog: leapfrog steps of one trajectory.
        generator: of momenta, jitter and acceptance, on the device of the latents.

    Returns:
        The next state, and the probability (C, N) with which each proposal was accepted: 0 where it was not finite.
    """
    momentum = torch.empty_like(state.latent).normal_(generator=generator)
    jitter, uniform = torch.empty_like(state.prior.expand(2, *state.prior.shape)).uniform_(generator=generator)
    step = (step_size * (1 + JITTER * (2 * jitter - 1)))[..., None].to(state.latent.dtype)
    start = state.energy(beta) - 0.5 * momentum.square().sum(-1)
    proposal = state
    momentum = momentum + 0.5 * step * proposal.gradient(beta)
    for i in range(leapfrog):
        proposal = State.at(target, proposal.latent + step * momentum)
        momentum = momentum + (step if i < leapfrog - 1 else 0.5 * step) * proposal.gradient(beta)
    log_ratio = proposal.energy(beta) - 0.5 * momentum.square().sum(-1) - start
    acceptance = log_ratio.clamp(max=0).exp().nan_to_num_(nan=0.0)
    accepted = uniform < acceptance
    chosen = (
        torch.where(accepted if new.dim() == 2 else accepted[..., None], new, old)
        for new, old in zip(proposal, state, strict=True)
    )
    return State(*chosen), acceptance


def temperatures(steps: int, schedule: Literal["sigmoid", "linear"] = "sigmoid") -> list[float]:
    r"""Return inverse temperatures :math:`0 = \beta_0 < \dots < \beta_T = 1`.

    ``linear`` is :math:`t / T`; ``sigmoid`` is a logistic curve over [-4, 4], scaled to reach both ends, whose steps
    are smallest there: near the prior densities change fastest, near the posterior they are sharpest (Grosse et al.
    2015).

    Raises:
        InputError: for no step, or another schedule.
    """
    if steps < 1:
        raise InputError(f"annealed importance sampling: steps must be at least 1, got {steps}")
    if schedule not in ("sigmoid", "linear"):
        raise InputError(f"annealed importance sampling: schedule must be sigmoid or linear, got {schedule!r}")
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if schedule == "sigmoid":
        curve = torch.sigmoid(8 * share - 4)
        share = (curve - curve[0]) / (curve[-1] - curve[0])
        share[-1] = 1
    return share.tolist()


class Annealed(NamedTuple):
    """What a run of chains found.

    Fields:
        log_weights: (C, N), in nats, summed in float64; of reverse chains, of the same path backwards.
        acceptance: (N,), mean over chains and transitions; not a number where there was no transition.
        is_reverse: whether chains went from the posterior to the prior.
    """

    log_weights: Tensor
    acceptance: Tensor
    is_reverse: bool

    @property
    def bound(self) -> Tensor:
        r"""Bound on :math:`\log p(x)` (N,) in nats: lower of forward chains, upper of reverse ones.

        Forward, :math:`\log \frac1C \sum_c w_c`, below in expectation because :math:`E w = p(x)`; reverse,
        :math:`-\log \frac1C \sum_c w_c^{-1}`, above because there :math:`E w^{-1} = p(x)^{-1}`.
        """
        sign = -1 if self.is_reverse else 1
        return sign * ((sign * self.log_weights).logsumexp(0) - math.log(len(self.log_weights)))

    @property
    def effective_sample_size(self) -> Tensor:
        r"""Kish's :math:`(\sum w)^2 / \sum w^2`, (N,), from 1 to C: as many equally weighted chains are these worth."""
        weights = -self.log_weights if self.is_reverse else self.log_weights
        return (2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp()


class AnnealedImportanceSampling:
    r"""Stochastic bounds on :math:`\log p(x) = \log \int p(z)\, p(x|z)\, dz` (Neal 2001; Wu et al. 2017).

    Chains go from the prior to the posterior through :math:`f_t(z) = p(z)\, p(x|z)^{\beta_t}`, the geometric path
    between prior and joint density, one Hamiltonian transition at each temperature, and collect
    :math:`\log w = \sum_t (\beta_t - \beta_{t-1}) \log p(x|z_{t-1})`. The forward bound holds in expectation whatever
    the transitions are worth. Where an exact posterior sample is known, because the image was simulated from the model
    together with its latent, the same path backwards bounds :math:`\log p(x)` from above, and the gap between the two
    bounds the error of either (bidirectional Monte Carlo; Grosse et al. 2015).

    Step sizes are fixed before the chains that count begin: a *pilot run* of at most four chains of its own for each
    image goes through the same temperatures, moves the image's log step size at each by
    :math:`0.2\,(\bar\alpha - \mathrm{acceptance})`, and writes it down. An image's chains, forward and reverse, all use
    what was written for it; so the transitions depend on nothing that these chains did, as the bounds demand. Adapting
    chains that count by their own past would break both.

    Args:
        steps: number T of temperatures; there are T - 1 transitions.
        chains: chains C for each image.
        leapfrog: gradient evaluations of one transition.
        schedule: of the temperatures, see :func:`temperatures`.
        acceptance: share of proposals that step sizes are adapted to.

    Raises:
        InputError: for numbers out of range.
    """

    def __init__(
        self,
        steps: int = 500,
        chains: int = 8,
        leapfrog: int = 3,
        schedule: Literal["sigmoid", "linear"] = "sigmoid",
        acceptance: float = 0.65,
    ):
        for name, value in {"chains": chains, "leapfrog": leapfrog}.items():
            if value < 1:
                raise InputError(f"annealed importance sampling: {name} must be at least 1, got {value}")
        if not 0 < acceptance < 1:
            raise InputError(f"annealed importance sampling: acceptance must be between 0 and 1, got {acceptance}")
        self.betas = temperatures(steps, schedule)
        self.steps, self.chains, self.leapfrog = steps, chains, leapfrog
        self.schedule, self.acceptance = schedule, acceptance

    def tune(self, target: LatentTarget, generator: torch.Generator) -> Tensor:
        """Return step sizes (T - 1, N) of all transitions, from a pilot run."""
        state = State.at(target, target.draw(min(self.chains, PILOT_CHAINS), generator))
        log_step = torch.full_like(state.prior[0], math.log(1 / self.leapfrog))
        found = []
        for t, beta in enumerate((*self.betas[1:2] * WARM_UP, *self.betas[1:-1])):
            state, rate = hamiltonian_transition(target, state, beta, log_step.exp(), self.leapfrog, generator)
            log_step = log_step + ADAPTATION * (rate.mean(0) - self.acceptance)
            if t >= WARM_UP:
                found.append(log_step.exp())
        return torch.stack(found) if found else log_step.new_empty(0, target.n)

    def forward(self, target: LatentTarget, step_sizes: Tensor, generator: torch.Generator) -> Annealed:
        """Return lower bounds, from chains that start at the prior.

        Args:
            target: the two factors and the images.
            step_sizes: of :meth:`tune`.
            generator: on the device of the latents.

        Raises:
            InputError: where a weight is not finite.
        """
        state = State.at(target, target.draw(self.chains, generator))
        return self._anneal(target, state, step_sizes, generator, is_reverse=False)

    def reverse(
        self, target: LatentTarget, step_sizes: Tensor, posterior: Tensor, generator: torch.Generator
    ) -> Annealed:
        """Return upper bounds, from chains that start at exact posterior samples.

        Args:
            target: the two factors and the images, which were simulated.
            step_sizes: of :meth:`tune`.
            posterior: latents (N, D) that the images were simulated from; all chains of an image start there.
            generator: on the device of the latents.

        Raises:
            InputError: where a weight is not finite.
        """
        state = State.at(target, posterior.expand(self.chains, *posterior.shape).contiguous())
        return self._anneal(target, state, step_sizes, generator, is_reverse=True)

    def _anneal(
        self, target: LatentTarget, state: State, step_sizes: Tensor, generator: torch.Generator, is_reverse: bool
    ) -> Annealed:
        wide = torch.float32 if state.prior.device.type == "mps" else torch.float64  # which Apple's GPUs have not
        log_weights = torch.zeros_like(state.prior, dtype=wide)
        rates = torch.zeros_like(state.prior[0])
        # Forward: weight t = 1, transition 1, weight 2, ... weight T. Reverse: the same backwards.
        order = range(self.steps, 0, -1) if is_reverse else range(1, self.steps + 1)
        for t in order:
            log_weights += (self.betas[t] - self.betas[t - 1]) * state.conditional.to(wide)
            next_transition = t - 1 if is_reverse else t
            if 1 <= next_transition < self.steps:
                state, rate = hamiltonian_transition(
                    target,
                    state,
                    self.betas[next_transition],
                    step_sizes[next_transition - 1],
                    self.leapfrog,
                    generator,
                )
                rates += rate.mean(0)
        if bad := int((~torch.isfinite(log_weights)).any(0).sum()):
            raise InputError(
                f"annealed importance sampling: weights of {bad} of {target.n} images are not finite: the decoder or "
                "its likelihood overflows"
            )
        acceptance = rates / (self.steps - 1) if self.steps > 1 else torch.full_like(rates, math.nan)
        return Annealed(log_weights, acceptance, is_reverse)


def importance_sampling(
    target: LatentTarget,
    num_samples: int,
    generator: torch.Generator,
    propose: Callable[[int, torch.Generator], tuple[Tensor, Tensor]] | None = None,
    chunk: int = 256,
) -> Tensor:
    r"""Importance-weighted lower bounds :math:`\log \frac1K \sum_k p(z_k)\, p(x|z_k) / q(z_k|x)` (Burda et al. 2016).

    Args:
        target: the two factors and N images.
        num_samples: K, samples for each image.
        generator: on the device of the latents.
        propose: (k, generator) -> latents (k, N, D) and :math:`\log q`, (k, N); the prior if not given.
        chunk: samples at once.

    Returns:
        float64 nats (N,).

    Raises:
        InputError: for no sample.
    """
    if num_samples < 1:
        raise InputError(f"importance sampling: num_samples must be at least 1, got {num_samples}")
    total = None
    with torch.no_grad():
        for start in range(0, num_samples, chunk):
            k = min(chunk, num_samples - start)
            if propose is None:
                weights = target.log_conditional(target.draw(k, generator))
            else:
                latent, log_q = propose(k, generator)
                weights = target.log_prior(latent) + target.log_conditional(latent) - log_q
            part = weights.double().logsumexp(0)
            total = part if total is None else torch.logaddexp(total, part)
    return total - math.log(num_samples)


class GaussianDecoder:
    r"""A decoder of standard normal latents as a distribution of levels, by Gaussian noise around its pixels.

    :math:`p(z) = N(0, I)`, and :math:`p(x|z)` is the :class:`~lightning_gen.distributions.DiscretizedGaussian` around
    :math:`G(z)`, one standard deviation for all pixels (Wu et al. 2017).

    Args:
        spec: of the images.
        latent_dim: length D of a latent.
        decode: (latents (B, D), labels (B,) or None) -> unit images (B, C, H, W), differentiable.
        sigma: standard deviation of the noise in unit values.

    Raises:
        InputError: for a standard deviation that is not a finite number above 0.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int,
        decode: Callable[[Tensor, Tensor | None], Tensor],
        sigma: float,
    ):
        self.spec, self.latent_dim, self.decode = spec, latent_dim, decode
        self.noise = DiscretizedGaussian(spec, sigma)

    def draw_prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents (n, D)."""
        return torch.empty(n, self.latent_dim, device=generator.device, dtype=torch.float32).normal_(
            generator=generator
        )

    def log_prior(self, latent: Tensor) -> Tensor:
        """Return nats of latents (..., D), of the shape before D."""
        return -0.5 * latent.square().sum(-1) - 0.5 * self.latent_dim * math.log(2 * math.pi)

    def means(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the decoder's images (C, N, C', H, W) of latents (C, N, D), where labels (N,) are of the images."""
        of_chains = None if labels is None else labels.repeat(len(latent))
        return self.decode(latent.flatten(0, 1), of_chains).unflatten(0, latent.shape[:2])

    def target(self, levels: Tensor, labels: Tensor | None = None) -> LatentTarget:
        """Return the joint density of latents and these images, levels (N, C, H, W)."""

        def log_conditional(latent: Tensor) -> Tensor:
            mean = self.means(latent, labels)
            low, high = ends[mean.dtype] if mean.dtype in ends else self.noise.bins(levels, mean.dtype)
            return self.noise.log_prob_of_bins(low, high, mean).flatten(2).sum(-1)

        ends = {torch.float32: self.noise.bins(levels, torch.float32)}
        return LatentTarget(self.draw_prior, self.log_prior, log_conditional, len(levels))

    def draw_levels(
        self, latent: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw levels (N, C, H, W) from :math:`p(x|z)` of latents (N, D)."""
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
        r"""Set the standard deviation to that under which images are most likely, and return it.

        Monte Carlo EM: chains at the posterior of each image take a few Hamiltonian transitions (whose step sizes adapt
        freely: no bound depends on them), then :math:`\sigma` maximises the mean of :math:`\log p(x|z)` over chains, at
        most by a factor of 1.35 from round to round. It begins at the residual of samples, so chains are annealed as it
        falls; the result is the geometric mean of the last third of the rounds.

        Args:
            levels: images (N, C, H, W), validation data.
            labels: (N,), or None.
            generator: on the device of the images.
            batch_size: most chains at once, or those of one image.
            chains: chains for each image.
            rounds: of EM.
            transitions: Hamiltonian transitions in a round.
            leapfrog: gradient evaluations of one.
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
        """Return the best log of sigma near the present one, by golden sections, of chunks of levels and means."""
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
        # Noise far below the width of a bin changes no level any more.
        return max((a + b) / 2, math.log(0.01 / self.spec.levels))
