"""Mixtures of Gaussians, of independent categoricals and of Chow-Liu trees, and the floor below them all."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from lightning_gen.data import Batch
from lightning_gen.distributions import (
    CategoricalComponents,
    Components,
    DiagonalGaussianComponents,
    FullGaussianComponents,
    LowRankGaussianComponents,
    TreeComponents,
)
from lightning_gen.distributions.components import Statistics
from lightning_gen.errors import InputError
from lightning_gen.models.base import GenerativeModule, Likelihood
from lightning_gen.models.em import ExpectationMaximisation, check_mask, draw_rows, kmeans
from lightning_gen.networks.mlp import check_positive
from lightning_gen.spec import ImageSpec


class Mixture(ExpectationMaximisation):
    r"""Mixture of K components, :math:`p(x) = \sum_k w_k\, p(x \mid k)`, fitted by EM (Dempster et al. 1977).

    A class-conditional one has K components of each class's own, :math:`p(x \mid y) = \sum_k w_{yk}\, p(x \mid y, k)`.
    Weights have a Dirichlet prior as strong as one image in each component. Even given labels, all components of all
    classes are evaluated.

    Args:
        spec: the images.
        make: called with the number of all components, makes them.
        components: K, for each class where conditional.
        conditional, start_images, restarts, tolerance: as in :class:`ExpectationMaximisation`.

    Raises:
        InputError: for numbers out of range; at the start of training for more components than images.
    """

    weight_prior = 1.0

    def __init__(self, spec: ImageSpec, components: int, **options):
        super().__init__(spec, **options)
        check_positive(self, components=components)
        self.components = components
        self.parts = self.make_parts(self.groups * components)
        weights = torch.full((self.groups, components), -math.log(components), dtype=torch.float64)
        self.log_weights = torch.nn.Parameter(weights)
        shares = torch.full((self.groups,), -math.log(self.groups), dtype=torch.float64)
        self.log_class_shares = torch.nn.Parameter(shares)

    @abstractmethod
    def make_parts(self, count: int) -> Components:
        """Return ``count`` components."""

    @property
    def free_parameters(self) -> int:
        return self.parts.free_parameters + self.groups * (self.components - 1)

    @property
    def row_cost(self) -> int:
        return self.parts.row_cost

    def log_mixing(self, labels: Tensor | None) -> Tensor:
        """Return the log probability of each component, (1, all) or given labels (B, all)."""
        if labels is None:
            return (self.log_class_shares[:, None] + self.log_weights).view(1, -1)
        own = torch.nn.functional.one_hot(labels, self.groups).bool()[:, :, None]
        return self.log_weights.expand(len(labels), -1, -1).masked_fill(~own, -torch.inf).flatten(1)

    # --- training -------------------------------------------------------------------------------------------------

    @property
    def clusters(self) -> tuple[int, str]:
        return self.components, "components"

    def start(self, levels: Tensor, labels: Tensor | None, seed: int) -> None:
        x = self.data_of(levels)
        flat = levels.flatten(1).to(torch.float64)
        groups = torch.zeros(len(x), dtype=torch.int64, device=x.device) if labels is None else labels
        shares = torch.zeros(len(x), self.groups * self.components, dtype=torch.float64, device=x.device)
        for group in range(self.groups):
            rows = torch.nonzero(groups == group)[:, 0]
            cluster = kmeans(flat[rows], self.components, seed)
            shares[rows, group * self.components + cluster] = 1
        self.parts.prepare(x)
        self.parts.start(x, shares)
        self._set_weights(shares.sum(0))

    def expectation(self, levels: Tensor, labels: Tensor | None) -> Statistics:
        x = self.data_of(levels)
        joint = self.parts.expected_log_prob(x) + self.log_mixing(labels)
        total = joint.logsumexp(1)
        shares = (joint - total[:, None]).exp()
        return {
            **self.parts.statistics(x, shares),
            "weight": shares.sum(0),
            "log_likelihood": total.sum(),
        }

    def maximisation(self, statistics: Statistics) -> None:
        self.parts.update(statistics)
        self._set_weights(statistics["weight"])

    def _set_weights(self, counts: Tensor) -> None:
        counts = counts.view(self.groups, self.components) + self.weight_prior
        total = counts.sum(1, keepdim=True)
        self.log_weights.data.copy_((counts / total).log())
        self.log_class_shares.data.copy_((total[:, 0] / total.sum()).log())

    def log_prior(self) -> Tensor:
        return self.parts.log_prior() + self.weight_prior * self.log_weights.sum()

    # --- the protocol ---------------------------------------------------------------------------------------------

    def log_density(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return (self.parts.log_prob(x) + self.log_mixing(labels)).logsumexp(1)

    def known_log_density(self, x: Tensor, known: Tensor, labels: Tensor | None) -> Tensor:
        return (self.parts.known_log_prob(x, known) + self.log_mixing(labels)).logsumexp(1)

    def draw(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        component = draw_rows(self.log_mixing(labels).expand(n, -1), generator)
        return self.parts.sample(component, generator)

    def draw_missing(self, x: Tensor, known: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        # A component from its posterior given the known pixels, then the rest given both.
        joint = self.parts.known_log_prob(x, known) + self.log_mixing(labels)
        return self.parts.complete(x, known, draw_rows(joint, generator), generator)


class GaussianMixture(Mixture):
    r"""Mixture of Gaussians of dequantized levels, :math:`x = \ell + u`, u uniform in [0, 1) (Theis et al. 2016).

    Training integrates the noise exactly in its lower bound (see
    :class:`~lightning_gen.distributions.gaussian.GaussianComponents`), draws none, and so never lowers its objective.
    Covariances are the mode of their posterior under an inverse Wishart prior that counts for a images like all of the
    training part, shrunk: :math:`\Sigma_k = (S_k + a v M) / (n_k + a)`, with M the covariance of all first images.
    ``low_rank`` is a mixture of factor analysers, for many pixels (Ghahramani and Hinton 1996); its prior, with M's
    diagonal, is on the noise of each pixel, and that of ``diagonal`` on each variance.

    The likelihood is the importance-weighted bound :math:`\log \frac{1}{M} \sum_m p(\ell + u_m)` of M noises, of the
    discrete levels; in mean over noises it is at most :math:`\log P(\ell)` and grows with M (Burda et al. 2016). An
    image's noises depend on the image and the seed alone. Samples are rounded down.

    Args:
        spec: the images.
        components: K, for each class where conditional.
        covariance: of each component.
        rank: number of factors, of ``low_rank`` only.
        prior_strength: a, in images.
        prior_variance: v, as a share of the variance of all training images.
        noises: M.
        conditional, start_images, restarts, tolerance: as in :class:`ExpectationMaximisation`.

    Raises:
        InputError: for numbers out of range.
    """

    dequantized = True

    def __init__(
        self,
        spec: ImageSpec,
        components: int = 10,
        covariance: Literal["full", "diagonal", "low_rank"] = "full",
        rank: int | None = None,
        prior_strength: float = 10.0,
        prior_variance: float = 0.1,
        noises: int = 64,
        conditional: bool = False,
        start_images: int = 10_000,
        restarts: int = 1,
        tolerance: float = 1e-3,
    ):
        if covariance not in ("full", "diagonal", "low_rank"):
            raise InputError(f"GaussianMixture: covariance must be full, diagonal or low_rank, got {covariance!r}")
        if (covariance == "low_rank") != (rank is not None):
            raise InputError("GaussianMixture: rank is the number of factors of covariance low_rank: give both or none")
        self._priors = {"prior_strength": prior_strength, "prior_variance": prior_variance}
        self._covariance = covariance, rank
        super().__init__(
            spec, components, conditional=conditional, start_images=start_images, restarts=restarts, tolerance=tolerance
        )
        check_positive(self, noises=noises)
        self.noises = noises

    def make_parts(self, count: int) -> Components:
        covariance, rank = self._covariance
        # Without training: as wide as uniform levels.
        options = {"noise_variance": 1 / 12, "variance": self.spec.levels**2 / 12, **self._priors}
        if covariance == "low_rank":
            return LowRankGaussianComponents(count, self.spec.dims, rank, **options)
        kind = {"full": FullGaussianComponents, "diagonal": DiagonalGaussianComponents}[covariance]
        return kind(count, self.spec.dims, **options)


class TableMixture(Mixture):
    """Mixture of components that keep tables of levels.

    Args:
        spec: the images.
        components: K, for each class where conditional.
        smoothing: images added to each component, spread evenly over levels (Dirichlet prior); above 0.
        shared: images added to each component that are like the average training image.
        blur: probability that training sees a level moved to a neighbouring one: levels are ordered.
        blur_width: how far they are moved, in levels.
        blur_ends: that probability for the lowest and the highest level, such as paper and ink.
        conditional, start_images, restarts, tolerance: as in :class:`ExpectationMaximisation`.

    Raises:
        InputError: for numbers out of range.
    """

    parts_class: type[CategoricalComponents]

    def __init__(
        self,
        spec: ImageSpec,
        components: int = 10,
        smoothing: float = 1.0,
        shared: float = 0.0,
        blur: float = 0.0,
        blur_width: float = 1.0,
        blur_ends: float = 0.0,
        conditional: bool = False,
        start_images: int = 10_000,
        restarts: int = 1,
        tolerance: float = 1e-3,
    ):
        self._tables = {
            "smoothing": smoothing,
            "shared": shared,
            "blur": blur,
            "blur_width": blur_width,
            "blur_ends": blur_ends,
        }
        super().__init__(
            spec, components, conditional=conditional, start_images=start_images, restarts=restarts, tolerance=tolerance
        )

    def make_parts(self, count: int) -> Components:
        return self.parts_class(count, self.spec.dims, self.spec.levels, **self._tables)


class CategoricalMixture(TableMixture):
    """Mixture of products of independent categoricals over levels; with one component, independent pixels.

    Arguments are those of :class:`TableMixture`.
    """

    parts_class = CategoricalComponents

    @torch.no_grad()
    def pixel_log_probs(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        r"""Return predictions of each pixel from those before it, in the order of levels (C, H, W), channels first.

        .. math:: \log p(x_d = l \mid x_{<d}) = \log \sum_k p(k \mid x_{<d})\, \theta_{kd}(l)

        By the chain rule, those of the levels that are there sum to the likelihood.

        Args:
            levels: images (B, C, H, W).
            labels: classes (B,) for a class-conditional model; None leaves the class to be inferred.

        Returns:
            Log probabilities of all levels, float64 (B, C, H, W, L).
        """
        levels, labels = self.check_images(levels), self.known_labels(labels, len(levels))
        parts = [self._predict(*chunk) for chunk in self.chunks(levels, labels)]
        return torch.cat(parts).view(*levels.shape, self.spec.levels)

    def _predict(self, levels: Tensor, labels: Tensor | None) -> Tensor:
        x, table = self.data_of(levels), self.parts.table
        joint = self.log_mixing(labels).expand(len(x), -1)  # of the component and the pixels so far
        out = joint.new_empty(len(x), self.spec.dims, self.spec.levels)
        for d in range(self.spec.dims):
            out[:, d] = (joint.softmax(1) @ table[:, d].exp()).log()
            joint = joint + table[:, d, x[:, d]].T
        return out


class ChowLiuMixture(TableMixture):
    """Mixture of trees, each the best for its images (Chow and Liu 1968, Meila and Jordan 2000).

    Every pixel depends on one other; which, each component learns. Memory grows with the square of pixels times levels:
    sizes whose counts would take more than 2 GiB are refused. Arguments are those of :class:`TableMixture`.
    """

    parts_class = TreeComponents


class Uniform(GenerativeModule):
    r"""Every image is equally likely: exactly :math:`\log_2 L` bits per dimension. The floor; nothing is learned."""

    automatic_optimization = False

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def averaged_modules(self) -> dict[str, torch.nn.Module]:
        return {}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.spec.check(batch.levels)
        self.count_step()
        self.count_images(batch)
        if self.attached_trainer is not None:
            self.trainer.should_stop = True

    def likelihood(self, levels: Tensor, labels: Tensor | None = None) -> Likelihood:
        """Return -D log L for every image."""
        levels = self.spec.check(levels)
        nats = torch.full((len(levels),), -self.spec.dims * math.log(self.spec.levels), dtype=torch.float64)
        return Likelihood(nats.to(levels.device), "exact")

    def pixel_log_probs(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return -log L for each level of each pixel, float64 (B, C, H, W, L)."""
        levels = self.spec.check(levels)
        shape = (*levels.shape, self.spec.levels)
        return torch.full(shape, -math.log(self.spec.levels), dtype=torch.float64, device=levels.device)

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` images of independent, uniform levels; labels do not matter."""
        generator = generator or self.fresh_generator()
        return torch.randint(
            self.spec.levels, (n, *self.spec.shape), generator=generator, device=self.device, dtype=torch.uint8
        )

    def complete(
        self, levels: Tensor, known: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the pixels where the mask ``known``, which can be broadcast to levels, is false, uniformly."""
        levels = self.spec.check(levels)
        mask = check_mask(known, levels).view_as(levels)
        return torch.where(mask, levels, self.sample(len(levels), generator=generator))
