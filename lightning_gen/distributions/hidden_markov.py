"""Hidden Markov models of images read in steps."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_gen.core import categorical_of_logits, check_positive
from lightning_gen.distributions.clusters import kmeans
from lightning_gen.distributions.components import Components, Statistics, add_statistics, rows_at_once
from lightning_gen.distributions.density import Density

KMEANS_STEPS = 100_000  # most steps that k-means is fitted to


class Scan:
    """The order in which an image, flattened to a row of data (D,), is read.

    Args:
        shape: (C, H, W) of the image.
        by_rows: whether a step is a row of the image, from the top; else it is a pixel, in raster order.
    """

    def __init__(self, shape: tuple[int, int, int], by_rows: bool):
        channels, height, width = shape
        self.shape, self.by_rows = shape, by_rows
        self.steps = height if by_rows else height * width
        self.step_dims = channels * height * width // self.steps
        self.row = 1 if by_rows else width  # steps from a pixel to the one below it

    def split(self, x: Tensor) -> Tensor:
        """Return data (B, D) as steps (B, T, M)."""
        images = x.view(-1, *self.shape)
        if self.by_rows:
            return images.transpose(1, 2).reshape(-1, self.steps, self.step_dims)
        return images.flatten(2).transpose(1, 2)

    def join(self, steps: Tensor) -> Tensor:
        """Return data (B, D) of steps (B, T, M)."""
        channels, height, width = self.shape
        if self.by_rows:
            return steps.reshape(-1, height, channels, width).transpose(1, 2).flatten(1)
        return steps.transpose(1, 2).flatten(1)

    def surroundings(self, steps: Tensor, first: int = 0, stop: int | None = None) -> Tensor:
        """Return steps ``first`` to ``stop`` of (B, T, M), float64, each joined with its predecessors up to one image
        row back: a single pixel is too little to cluster by."""
        stop, back = self.steps if stop is None else stop, self.row
        padded = nn.functional.pad(steps, (0, 0, back, 0))
        lags = [padded[:, back - lag + first : back - lag + stop] for lag in range(back + 1)]
        return torch.cat(lags, 2).to(torch.float64)

    def cluster(self, steps: Tensor, count: int, seed: int, homogeneous: bool) -> Tensor:
        """Return the cluster (B, T) of each step (B, T, M), by its surroundings.

        If ``homogeneous``, k-means is fitted to the first 100,000 steps, and the rest is assigned to the nearest
        centre; else each position t is clustered by itself.
        """
        if not homogeneous:
            columns = [self.surroundings(steps, t, t + 1)[:, 0] for t in range(self.steps)]
            return torch.stack([kmeans(column, count, seed) for column in columns], 1)
        seen = max(1, KMEANS_STEPS // self.steps)
        first = self.surroundings(steps[:seen]).flatten(0, 1)
        cluster = kmeans(first, count, seed)
        if len(steps) <= seen:
            return cluster.view(len(steps), self.steps)
        # With few distinct steps, some clusters are empty and have no centre.
        centres = torch.stack([first[cluster == k].mean(0) for k in cluster.unique()])
        cost = self.steps * (first.shape[1] + len(centres))
        further = [
            torch.cdist(self.surroundings(part).flatten(0, 1), centres).argmin(1).view(-1, self.steps)
            for part in steps[seen:].split(rows_at_once(cost))
        ]
        return torch.cat([cluster.view(-1, self.steps), *further])


class HiddenMarkov(Density):
    r"""Hidden Markov model, :math:`p(x) = \sum_s \pi(s_1) \prod_t A_t(s_{t-1}, s_t) \prod_t p(x_t \mid s_t)` (Baum et
    al. 1970).

    Forward and backward passes are computed with logarithms, as log-sum-exp matrix products. A homogeneous model has
    one transition matrix and the same emissions at all steps; otherwise each step has its own. The initial distribution
    and the rows of transition matrices have Dirichlet priors worth one observation each.

    Args:
        make: factory of emissions from a number of states and the dimension of a step.
        states: number of states S per class.
        scan: how an image is read in steps x_t.
        homogeneous: whether all steps share their parameters.
        groups: number of classes G.

    Raises:
        InputError: for no state.
    """

    chain_prior = 1.0

    def __init__(
        self,
        make: Callable[[int, int], Components],
        states: int,
        scan: Scan,
        homogeneous: bool = True,
        groups: int = 1,
    ):
        super().__init__()
        check_positive(self, states=states)
        self.states, self.scan, self.steps = states, scan, scan.steps
        self.homogeneous, self.groups = homogeneous, groups
        kinds, changes = (1, 1) if homogeneous else (self.steps, self.steps - 1)
        self.parts = nn.ModuleList(make(groups * states, scan.step_dims) for _ in range(kinds))

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.full(shape, -math.log(shape[-1]), dtype=torch.float64))

        self.log_initial = uniform(groups, states)
        self.log_transition = uniform(changes, groups, states, states)
        self.log_class_shares = uniform(groups)

    def _emission_of(self, step: int) -> Components:
        return self.parts[0 if self.homogeneous else step]

    def _transition_to(self, step: int) -> Tensor:
        """Return the log transitions (G, S, S) from step - 1 to ``step``."""
        return self.log_transition[0 if self.homogeneous else step - 1]

    def _emissions(self, steps: Tensor, method: str, *more: Tensor) -> Tensor:
        """Return log p(x_t | s), (T, G, B, S), computed by a method of the components."""
        out = torch.stack(
            [
                getattr(self._emission_of(t), method)(steps[:, t], *(each[:, t] for each in more))
                for t in range(self.steps)
            ]
        )
        return out.view(self.steps, len(steps), self.groups, self.states).transpose(1, 2)

    @property
    def free_parameters(self) -> int:
        chain = self.states - 1 + self.log_transition.shape[0] * self.states * (self.states - 1)
        return sum(part.free_parameters for part in self.parts) + self.groups * chain

    @property
    def row_cost(self) -> int:
        return self.steps * (self.parts[0].row_cost + 4 * self.groups * self.states)

    def forward_pass(self, emissions: Tensor) -> Tensor:
        r"""Return :math:`\log p(x_1 \dots x_t, s_t)`, (T, G, B, S), from log emissions of the same shape."""
        alphas = [self.log_initial[:, None, :] + emissions[0]]
        for t in range(1, self.steps):
            alphas.append(log_product(alphas[-1], self._transition_to(t).exp()) + emissions[t])
        return torch.stack(alphas)

    def backward_pass(self, emissions: Tensor) -> Tensor:
        r"""Return :math:`\log p(x_{t+1} \dots x_T \mid s_t)`, (T, G, B, S)."""
        betas = [torch.zeros_like(emissions[0])]
        for t in range(self.steps - 1, 0, -1):
            betas.append(log_product(betas[-1] + emissions[t], self._transition_to(t).exp().transpose(1, 2)))
        return torch.stack(betas[::-1])

    def _class_log_prob(self, alphas: Tensor, labels: Tensor | None) -> Tensor:
        """Return log p(x, y) for each class, (G, B); given labels, log p(x | y) at the label and -inf elsewhere."""
        own = alphas[-1].logsumexp(2)
        if labels is None:
            return own + self.log_class_shares[:, None]
        return own.masked_fill(nn.functional.one_hot(labels, self.groups).T == 0, -torch.inf)

    def log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        alphas = self.forward_pass(self._emissions(self.scan.split(x), "log_prob"))
        return self._class_log_prob(alphas, labels).logsumexp(0)

    def known_log_prob(self, x: Tensor, known: Tensor, labels: Tensor | None = None) -> Tensor:
        alphas = self.forward_pass(self._emissions(self.scan.split(x), "known_log_prob", self.scan.split(known)))
        return self._class_log_prob(alphas, labels).logsumexp(0)

    @property
    def clusters(self) -> tuple[int, str]:
        return self.states, "states"

    def start(self, x: Tensor, levels: Tensor, labels: Tensor | None, seed: int) -> None:
        steps = self.scan.split(x)
        groups = torch.zeros(len(steps), dtype=torch.int64, device=steps.device) if labels is None else labels
        state = torch.zeros(len(steps), self.steps, dtype=torch.int64, device=steps.device)
        for group in range(self.groups):
            own = torch.nonzero(groups == group)[:, 0]
            state[own] = self.scan.cluster(self.scan.split(levels[own]), self.states, seed, self.homogeneous)
        for number, part in enumerate(self.parts):
            part.prepare(steps.flatten(0, 1) if self.homogeneous else steps[:, number])
        total: Statistics = {}
        rows = rows_at_once(self.row_cost)
        own = (groups[:, None] * self.states + state).split(rows)
        for part, labelled in zip(steps.split(rows), own, strict=True):
            shares = nn.functional.one_hot(labelled, self.groups * self.states).to(torch.float64)
            shares = shares.view(len(part), self.steps, self.groups, self.states)
            pairs = torch.einsum("btgi,btgj->tgij", shares[:, :-1], shares[:, 1:])
            add_statistics(total, self._sums(part, shares.permute(1, 2, 0, 3), pairs))
        self.maximisation(total)

    def _sums(self, steps: Tensor, shares: Tensor, pairs: Tensor) -> Statistics:
        """Return statistics from posteriors of states (T, G, B, S) and summed ones of transitions (T - 1, G, S, S)."""
        flat = shares.transpose(1, 2).flatten(2)
        if self.homogeneous:
            pairs = pairs.sum(0, keepdim=True)
            sums = [self.parts[0].statistics(steps.transpose(0, 1).flatten(0, 1), flat.flatten(0, 1))]
        else:
            sums = [part.statistics(steps[:, t], flat[t]) for t, part in enumerate(self.parts)]
        return {
            "initial": shares[0].sum(1),
            "transition": pairs,
            **{f"{number}/{name}": value for number, part in enumerate(sums) for name, value in part.items()},
        }

    def expectation(self, x: Tensor, labels: Tensor | None) -> Statistics:
        steps = self.scan.split(x)
        emissions = self._emissions(steps, "expected_log_prob")
        alphas, betas = self.forward_pass(emissions), self.backward_pass(emissions)
        classes = self._class_log_prob(alphas, labels)
        total = classes.logsumexp(0)
        of_class = alphas[-1].logsumexp(2)
        share = (classes - total).exp()  # of each class, (G, B)
        shares = (alphas + betas - of_class[:, :, None]).exp() * share[:, :, None]
        pairs = emissions.new_zeros(self.steps - 1, self.groups, self.states, self.states)
        for t in range(1, self.steps):
            before, after = alphas[t - 1], emissions[t] + betas[t]
            tops = before.amax(2, keepdim=True), after.amax(2, keepdim=True)
            weight = (tops[0] + tops[1] - of_class[:, :, None]).exp() * share[:, :, None]
            left, right = (before - tops[0]).exp() * weight, (after - tops[1]).exp()
            pairs[t - 1] = self._transition_to(t).exp() * (left.transpose(1, 2) @ right)
        return {**self._sums(steps, shares, pairs), "log_likelihood": total.sum()}

    def maximisation(self, statistics: Statistics) -> None:
        for number, part in enumerate(self.parts):
            prefix = f"{number}/"
            part.update({name.removeprefix(prefix): s for name, s in statistics.items() if name.startswith(prefix)})
        classes = statistics["initial"].sum(1) + 1
        self.log_class_shares.data.copy_((classes / classes.sum()).log())
        for name in ("initial", "transition"):
            counts = statistics[name] + self.chain_prior / self.states
            getattr(self, f"log_{name}").data.copy_((counts / counts.sum(-1, keepdim=True)).log())

    def log_prior(self) -> Tensor:
        chain = self.chain_prior / self.states * (self.log_initial.sum() + self.log_transition.sum())
        return chain + sum(part.log_prior() for part in self.parts)

    def sample(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        if labels is None:
            labels = categorical_of_logits(self.log_class_shares.expand(n, -1), generator)
        state = categorical_of_logits(self.log_initial[labels], generator)
        steps = []
        for t in range(self.steps):
            if t:
                state = categorical_of_logits(self._transition_to(t)[labels, state], generator)
            steps.append(self._emission_of(t).sample(labels * self.states + state, generator))
        return self.scan.join(torch.stack(steps, 1))

    def complete(self, x: Tensor, known: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        # Forward filtering, backward sampling of the states; then each step given its state.
        steps, mask = self.scan.split(x), self.scan.split(known)
        alphas = self.forward_pass(self._emissions(steps, "known_log_prob", mask))
        labels = categorical_of_logits(self._class_log_prob(alphas, labels).T, generator)
        rows = torch.arange(len(x), device=x.device)
        states = [categorical_of_logits(alphas[-1][labels, rows], generator)]
        for t in range(self.steps - 1, 0, -1):
            scores = alphas[t - 1][labels, rows] + self._transition_to(t)[labels, :, states[-1]]
            states.append(categorical_of_logits(scores, generator))
        states = [labels * self.states + state for state in states[::-1]]
        return self.scan.join(
            torch.stack(
                [
                    self._emission_of(t).complete(steps[:, t], mask[:, t], states[t], generator)
                    for t in range(self.steps)
                ],
                1,
            )
        )


def log_product(logs: Tensor, matrix: Tensor) -> Tensor:
    """Return log(exp(logs) @ matrix), shifted by the largest of each row against underflow."""
    top = logs.amax(-1, keepdim=True)
    return ((logs - top).exp() @ matrix).log() + top
