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
    r"""Mixture of Gaussians of dequantized levels :math:`x = \ell + u`, u uniform in [0, 1) (Theis et al. 2016).

    .. math:: p(x) = \sum_k \pi_k\, \mathcal N(x; \mu_k, \Sigma_k)

    Training integrates over u analytically in its lower bound (see
    :class:`~lightning_gen.distributions.gaussian.GaussianComponents`), so EM never lowers the objective. Covariances
    are MAP estimates under an inverse Wishart prior worth a images, :math:`\Sigma_k = (S_k + a v M) / (n_k + a)`, with
    M the covariance of the images that initialise the parameters. ``low_rank`` is a mixture of factor analysers, for
    many pixels (Ghahramani and Hinton 1996). Its prior is on the noise variance of each pixel, that of ``diagonal`` on
    each variance; both use the diagonal of M.

    The likelihood is the dequantizer's importance-weighted bound; samples are rounded down.

    Args:
        spec: image format.
        components: number of components K (per class if conditional).
        covariance: covariance structure of each component.
        rank: number of factors; for ``low_rank`` only.
        prior_strength: a, in images.
        prior_variance: v, relative to the variance of the training images.
        dequantizer: distribution of u; uniform, with 64 samples per image in the bound, if not given.
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
            variance=spec.levels**2 * dequantizer.variance,  # initially that of uniform levels
            **({} if rank is None else {"rank": rank}),
        )
        make = partial(Mixture, parts, components)
        super().__init__(spec, make, dequantizer, conditional, start_images, restarts, tolerance)


class TableMixture(ClassicalModel):
    """Mixture of components that are tables of level probabilities.

    Args:
        spec: image format.
        components: number of components K (per class if conditional).
        smoothing: pseudo-images per component, spread evenly over levels (Dirichlet prior); above 0.
        shared: pseudo-images per component, distributed like the training images (Dirichlet prior).
        blur: probability that training replaces a level by a nearby one, since levels are ordered.
        blur_width: width of that replacement, in levels.
        blur_ends: the same probability for the lowest and the highest level, such as background and ink.
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
    r"""Mixture of independent categoricals over levels, :math:`p(x) = \sum_k \pi_k \prod_d \theta_{kd}(x_d)`.

    Arguments are those of :class:`TableMixture`.
    """

    parts_class = CategoricalComponents

    def pixel_log_probs(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        r"""Return the autoregressive prediction of each pixel, in the order of the flattened levels (C, H, W).

        .. math:: \log p(x_d = l \mid x_{<d}) = \log \sum_k p(k \mid x_{<d})\, \theta_{kd}(l)

        By the chain rule, the entries at the observed levels sum to the log likelihood.

        Args:
            levels: images (B, C, H, W).
            labels: classes (B,) for a class-conditional model; None infers the class.

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
        joint = self.density.log_mixing(labels).expand(len(x), -1)  # log p(k, x_{<d})
        out = []
        for d in range(self.spec.dims):
            out.append((joint.softmax(1) @ table[:, d].exp()).log())
            joint = joint + table[:, d, x[:, d]].T
        return torch.stack(out, 1)


class ChowLiuMixture(TableMixture):
    r"""Mixture of maximum-likelihood trees (Chow and Liu 1968; Meila and Jordan 2000).

    .. math:: p(x) = \sum_k \pi_k \prod_d p_k(x_d \mid x_{\mathrm{pa}_k(d)})

    Each component learns its own tree. Memory grows as :math:`(D L)^2`; counts of more than 2 GiB are refused.
    Arguments are those of :class:`TableMixture`.
    """

    parts_class = TreeComponents
