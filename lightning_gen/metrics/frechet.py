"""Fréchet distance between Gaussians fitted to features (FID where the features are Inception's)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gen.core import Figure
from lightning_gen.metrics.base import FeatureMetric, FeatureSet


def matrix_root(cov: Tensor) -> Tensor:
    r"""Lower triangular :math:`L` (D, D), float64, with :math:`L L^T = \Sigma`, of a positive semi-definite matrix.

    Cholesky's factor, in a tenth of the time of a symmetric root; where the matrix is singular, so that there may be
    none, that of a QR decomposition of the symmetric root, in which negative rounding errors count as 0.
    """
    root, failed = torch.linalg.cholesky_ex(cov.double())
    if int(failed):
        values, vectors = torch.linalg.eigh(cov.double())
        root = torch.linalg.qr(values.clamp(min=0).sqrt()[:, None] * vectors.mT, mode="r").R.mT
    return root


def congruence(root: Tensor, cov: Tensor, columns: int = 256) -> Tensor:
    r"""Lower triangle of the symmetric :math:`L^T \Sigma L`, for lower triangular L; what stands above it is no result.

    Column by column, without the zeros of L and what symmetry gives: under a half of two full products' work.
    """
    product = torch.zeros_like(cov)
    for j in range(0, len(cov), columns):
        right = cov[j:, j:] @ root[j:, j : j + columns]
        product[j:, j : j + columns] = root[j:, j:].mT @ right
    return product


def frechet_distance(
    mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor, *, root1: Tensor | None = None
) -> Tensor:
    r"""Squared 2-Wasserstein distance of two Gaussians, a float64 scalar (Heusel et al. 2017).

    .. math:: \|\mu_1 - \mu_2\|^2
        + \operatorname{tr}\Sigma_1 + \operatorname{tr}\Sigma_2
        - 2 \operatorname{tr} (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}

    With :math:`L L^T = \Sigma_1` the product under the root has the eigenvalues of :math:`L^T \Sigma_2 L`, which is
    symmetric, so that the trace follows from real eigenvalues; computed in float64, because float32 is wrong by per
    cents. Rounding below zero is clamped.

    Args:
        mean1, mean2: means (D,).
        cov1, cov2: covariances (D, D).
        root1: ``matrix_root(cov1)`` if it is known already (a fixed reference).
    """
    mean1, cov1, mean2, cov2 = (t.double() for t in (mean1, cov1, mean2, cov2))
    root1 = matrix_root(cov1) if root1 is None else root1
    cross = torch.linalg.eigvalsh(congruence(root1, cov2)).clamp(min=0).sqrt().sum()
    return ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross).clamp(min=0)


class FrechetDistance(FeatureMetric):
    """Fréchet distance of generated features to each reference part: ``fid``, ``fid/heldout`` (Heusel et al. 2017).

    Only float64 sums over the generated images are kept. The figure is biased by n: compare at equal n only.

    Args:
        against: names of the reference parts; the first must be there, the others are left out where they are not set.
    """

    keeps = frozenset({"moments"})
    figures = (Figure("fid", "Frechet distance of generated to real images' features", higher=False, leads=True),)

    def __init__(self, against: Sequence[str] = ("train", "heldout")) -> None:
        super().__init__()
        self.against = tuple(against)

    def score(self, samples: FeatureSet) -> dict[str, float]:
        self.require_samples(samples)
        return {
            key: float(frechet_distance(real.mean, real.cov, samples.mean, samples.cov, root1=self._root(real)))
            for key, real in self.each_reference("fid")
        }

    @staticmethod
    def _root(real: FeatureSet) -> Tensor:
        return real.once("root", lambda: matrix_root(real.cov))
