"""Annealed importance sampling: lower and upper bounds on the log likelihood of a decoder of latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_gen.core import InputError, check_at_least, check_choice, check_positive, check_within, normal, uniform

PILOT_CHAINS = 4
WARM_UP = 30  # transitions, of the pilot run before it starts to anneal
ADAPTATION = 0.2  # gain of the log step size per unit of deviation from the target acceptance
JITTER = 0.2  # relative jitter of step sizes, which avoids periodic trajectories (Neal 2011)


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
    """State of the chains: latents (C, N, D), both log-densities (C, N), and their gradients (C, N, D)."""

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
        r"""Return the negative energy :math:`\log p(z) + \beta \log p(x|z)`, nats (C, N)."""
        return self.prior + beta * self.conditional

    def gradient(self, beta: float) -> Tensor:
        """Return the gradient of :meth:`energy`, (C, N, D)."""
        return self.prior_gradient + beta * self.conditional_gradient


def hamiltonian_transition(
    target: LatentTarget, state: State, beta: float, step_size: Tensor, leapfrog: int, generator: torch.Generator
) -> tuple[State, Tensor]:
    r"""One transition of Hamiltonian Monte Carlo that leaves :math:`p(z)\, p(x|z)^\beta` invariant (Neal 2011).

    Momenta are resampled, and each chain's step size is jittered by up to 20 % independently of its state, so that the
    transition is reversible.

    Args:
        target: the two factors.
        state: current state of the chains.
        beta: inverse temperature of :math:`p(x|z)`.
        step_size: (N,) or (C, N), above 0.
        leapfrog: leapfrog steps of one trajectory.
        generator: source of momenta, jitter and acceptance decisions.

    Returns:
        The next state, and the acceptance probability (C, N) of each proposal: 0 where the proposal is not finite.
    """
    latent, device = state.latent, state.latent.device
    momentum = normal(*latent.shape, generator=generator, device=device, dtype=latent.dtype)
    jitter, chance = uniform(2, *latent.shape[:2], generator=generator, device=device, dtype=state.prior.dtype)
    step = (step_size * (1 + JITTER * (2 * jitter - 1)))[..., None].to(state.latent.dtype)
    start = state.energy(beta) - 0.5 * momentum.square().sum(-1)
    proposal = state
    momentum = momentum + 0.5 * step * proposal.gradient(beta)
    for i in range(leapfrog):
        proposal = State.at(target, proposal.latent + step * momentum)
        momentum = momentum + (step if i < leapfrog - 1 else 0.5 * step) * proposal.gradient(beta)
    log_ratio = proposal.energy(beta) - 0.5 * momentum.square().sum(-1) - start
    acceptance = log_ratio.clamp(max=0).exp().nan_to_num_(nan=0.0)
    accepted = chance < acceptance
    chosen = (
        torch.where(accepted if new.dim() == 2 else accepted[..., None], new, old)
        for new, old in zip(proposal, state, strict=True)
    )
    return State(*chosen), acceptance


def temperatures(steps: int, schedule: Literal["sigmoid", "linear"] = "sigmoid") -> list[float]:
    r"""Return inverse temperatures :math:`0 = \beta_0 < \dots < \beta_T = 1`.

    ``linear`` is :math:`\beta_t = t / T`. ``sigmoid`` is :math:`\beta_t = (s_t - s_0) / (s_T - s_0)` with the logistic
    function :math:`s_t` of :math:`8 t / T - 4`; its steps are smallest near prior and posterior (Grosse et al. 2015).

    Raises:
        InputError: for less than one step, or another schedule.
    """
    check_at_least("AnnealedImportanceSampling", 1, steps=steps)
    check_choice("AnnealedImportanceSampling", ("sigmoid", "linear"), schedule=schedule)
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if schedule == "sigmoid":
        curve = torch.sigmoid(8 * share - 4)
        share = (curve - curve[0]) / (curve[-1] - curve[0])
        share[-1] = 1
    return share.tolist()


class Annealed(NamedTuple):
    """The result of a run of chains.

    Fields:
        log_weights: (C, N), in nats, summed in float64; those of reverse chains are of the corresponding forward path.
        acceptance: (N,), mean over chains and transitions; NaN without transitions.
        is_reverse: whether chains ran from the posterior to the prior.
    """

    log_weights: Tensor
    acceptance: Tensor
    is_reverse: bool

    @property
    def bound(self) -> Tensor:
        r"""Bound on :math:`\log p(x)` in expectation, nats (N,): lower for forward chains, upper for reverse ones.

        Forward it is :math:`\log \frac1C \sum_c w_c`, where :math:`E w = p(x)`; reverse it is
        :math:`-\log \frac1C \sum_c w_c^{-1}`, where :math:`E w^{-1} = p(x)^{-1}`.
        """
        sign = -1 if self.is_reverse else 1
        return sign * ((sign * self.log_weights).logsumexp(0) - math.log(len(self.log_weights)))

    @property
    def effective_sample_size(self) -> Tensor:
        r"""Kish's effective number of chains :math:`(\sum w)^2 / \sum w^2`, (N,), from 1 to C."""
        weights = -self.log_weights if self.is_reverse else self.log_weights
        return (2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp()


class AnnealedImportanceSampling:
    r"""Stochastic bounds on :math:`\log p(x) = \log \int p(z)\, p(x|z)\, dz` (Neal 2001; Wu et al. 2017).

    Chains move from the prior to the posterior along the geometric path :math:`f_t(z) = p(z)\, p(x|z)^{\beta_t}`, with
    one Hamiltonian transition per temperature, and accumulate
    :math:`\log w = \sum_t (\beta_t - \beta_{t-1}) \log p(x|z_{t-1})`. The forward bound is valid in expectation for any
    quality of the transitions. For an image simulated from the model, whose latent is an exact posterior sample, the
    reverse path gives an upper bound, and the gap between the two bounds the error of either (bidirectional Monte
    Carlo; Grosse et al. 2015).

    Both bounds need transitions that are independent of the chains, so step sizes must not adapt to them. A separate
    *pilot run* of at most four chains per image passes through the same temperatures, changes the image's log step size
    at each by :math:`0.2\,(\bar\alpha - \mathrm{acceptance})`, with the observed mean acceptance :math:`\bar\alpha`,
    and records it; all forward and reverse chains of the image use these step sizes.

    Args:
        steps: number T of temperatures; there are T - 1 transitions.
        chains: chains C per image.
        leapfrog: gradient evaluations per transition.
        schedule: schedule of the temperatures, see :func:`temperatures`.
        acceptance: target acceptance rate of the step sizes.

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
        check_positive(self, chains=chains, leapfrog=leapfrog)
        check_within(self, "(0, 1)", acceptance=acceptance)
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
            step_sizes: result of :meth:`tune`.
            generator: source of all randomness.

        Raises:
            InputError: for weights that are not finite.
        """
        state = State.at(target, target.draw(self.chains, generator))
        return self._anneal(target, state, step_sizes, generator, is_reverse=False)

    def reverse(
        self, target: LatentTarget, step_sizes: Tensor, posterior: Tensor, generator: torch.Generator
    ) -> Annealed:
        """Return upper bounds, from chains that start at exact posterior samples.

        Args:
            target: the two factors and the images, which were simulated from them.
            step_sizes: result of :meth:`tune`.
            posterior: latents (N, D) that the images were simulated from; all chains of an image start there.
            generator: source of all randomness.

        Raises:
            InputError: for weights that are not finite.
        """
        state = State.at(target, posterior.expand(self.chains, *posterior.shape).contiguous())
        return self._anneal(target, state, step_sizes, generator, is_reverse=True)

    def _anneal(
        self, target: LatentTarget, state: State, step_sizes: Tensor, generator: torch.Generator, is_reverse: bool
    ) -> Annealed:
        wide = torch.float32 if state.prior.device.type == "mps" else torch.float64  # MPS has no float64
        log_weights = torch.zeros_like(state.prior, dtype=wide)
        rates = torch.zeros_like(state.prior[0])
        # Forward: weight 1, transition 1, weight 2, ..., weight T. Reverse: the same sequence backwards.
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
        num_samples: samples K per image.
        generator: source of all randomness.
        propose: (k, generator) -> latents (k, N, D) and :math:`\log q`, (k, N); the prior if not given.
        chunk: samples per evaluation.

    Returns:
        float64 nats (N,).

    Raises:
        InputError: for less than one sample.
    """
    check_at_least("importance_sampling", 1, num_samples=num_samples)
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
    return total - math.log(num_samples)  # type: ignore[operator]  # there is at least one part
