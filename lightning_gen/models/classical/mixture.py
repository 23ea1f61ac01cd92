"""Mixtures of Gaussians, of independent categoricals and of Chow-Liu trees."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lightning_gen.bijections import UniformDequantizer
from lightning_gen.core import ImageSpec, InputError, check_choice
from lightning_gen.distributions import (
    CategoricalComponents,
    DiagonalGaussianComponents,
    FullGaussianComponents,
    LowRankGaussianComponents,
    TreeComponents,
)
from lightning_gen.distributions.mixture import Mixture
from lightning_gen.models.classical.base import ClassicalModel

COVARIANCES = {
    "full": FullGaussianComponents,
    "diagonal": DiagonalGaussianComponents,
    "low_rank": LowRankGaussianComponents,
}


class GaussianMixture(ClassicalModel):
    r"""Mixture of Gaussians of dequantized levels, :math:`x = \ell + u`, u uniform in [0, 1) (Theis et al. 2016).

    Training integrates the noise exactly in its lower bound (see
    :class:`~lightning_gen.distributions.gaussian.GaussianComponents`), draws none, and so never lowers its objective.
    Covariances are the mode of their posterior under an inverse Wishart prior that counts for a images like all of the
    training part, shrunk: :math:`\Sigma_k = (S_k + a v M) / (n_k + a)`, with M the covariance of all first images.
    ``low_rank`` is a mixture of factor analysers, for many pixels (Ghahramani and Hinton 1996); its prior, with M's
    diagonal, is on the noise of each pixel, and that of ``diagonal`` on each variance.

    The likelihood is the dequantizer's importance-weighted bound; samples are rounded down.

    Args:
        spec: the images.
        components: K, for each class where conditional.
        covariance: of each component.
        rank: number of factors, of ``low_rank`` only.
        prior_strength: a, in images.
        prior_variance: v, as a share of the variance of all training images.
        dequantizer: the noise u, uniform and 64 times for each image if not given.
        conditional, start_images, restarts, tolerance: as in :class:`ClassicalModel`.

    Raises:
        InputError: for numbers out of range; at the start of training for more components than images.
    """

    def __init__(
        self,
        spec: ImageSpec,
        components: int = 10,
        covariance: Literal["full", "diagonal", "low_rank"] = "full",
        rank: int | None = None,
        prior_strength: float = 10.0,
        prior_variance: float = 0.1,
        dequantizer: UniformDequantizer | None = None,
        conditional: bool = False,
        start_images: int = 10_000,
        restarts: int = 1,
        tolerance: float = 1e-3,
    ):
        spec, dequantizer = ImageSpec.of(spec), dequantizer or UniformDequantizer()
        check_choice(self, tuple(COVARIANCES), covariance=covariance)
        if (covariance == "low_rank") != (rank is not None):
            raise InputError("GaussianMixture: rank is the number of factors of covariance low_rank: give both or none")
        parts = partial(
            COVARIANCES[covariance],
            dims=spec.dims,
            noise_variance=dequantizer.variance,
            prior_strength=prior_strength,
            prior_variance=prior_variance,
            variance=spec.levels**2 * dequantizer.variance,  # before training, as wide as uniform levels
            **({} if rank is None else {"rank": rank}),
        )
        make = partial(Mixture, parts, components)
        super().__init__(spec, make, dequantizer, conditional, start_images, restarts, tolerance)


class TableMixture(ClassicalModel):
    """Mixture of components that keep tables of levels.

    Args:
        spec: the images.
        components: K, for each class where conditional.
        smoothing: images added to each component, spread evenly over levels (Dirichlet prior); above 0.
        shared: images added to each component that are like the average training image.
        blur: probability that training sees a level moved to a neighbouring one: levels are ordered.
        blur_width: how far they are moved, in levels.
        blur_ends: that probability for the lowest and the highest level, such as paper and ink.
        conditional, start_images, restarts, tolerance: as in :class:`ClassicalModel`.

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
        spec = ImageSpec.of(spec)
        tables = {"smoothing": smoothing, "shared": shared, "blur": blur, "blur_width": blur_width}
        parts = partial(self.parts_class, dims=spec.dims, levels=spec.levels, blur_ends=blur_ends, **tables)
        make = partial(Mixture, parts, components)
        super().__init__(spec, make, None, conditional, start_images, restarts, tolerance)


class CategoricalMixture(TableMixture):
    """Mixture of products of independent categoricals over levels; with one component, independent pixels.

    Arguments are those of :class:`TableMixture`.
    """

    parts_class = CategoricalComponents

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
        rows, labels = self.checked(levels, labels)
        parts = [
            self._predict(self.data_of(rows[chunk]), None if labels is None else labels[chunk])
            for chunk in self.chunks(rows, labels)
        ]
        return torch.cat(parts).view(*levels.shape, self.spec.levels)

    def _predict(self, x: Tensor, labels: Tensor | None) -> Tensor:
        table = self.density.parts.table
        joint = self.density.log_mixing(labels).expand(len(x), -1)  # of the component and the pixels so far
        out = []
        for d in range(self.spec.dims):
            out.append((joint.softmax(1) @ table[:, d].exp()).log())
            joint = joint + table[:, d, x[:, d]].T
        return torch.stack(out, 1)


class ChowLiuMixture(TableMixture):
    """Mixture of trees, each the best for its images (Chow and Liu 1968, Meila and Jordan 2000).

    Every pixel depends on one other; which, each component learns. Memory grows with the square of pixels times levels:
    sizes whose counts would take more than 2 GiB are refused. Arguments are those of :class:`TableMixture`.
    """

    parts_class = TreeComponents
