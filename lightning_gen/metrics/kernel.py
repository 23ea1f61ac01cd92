"""Kernel distance between feature sets (KID where the features are Inception's)."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lightning_gen.core import Figure, InputError, check_at_least
from lightning_gen.metrics.base import FeatureMetric, FeatureSet
from lightning_gen.metrics.distances import block_slices


def kernel_sums(a: Tensor, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Sums over columns (N,) and over rows (M,) of :math:`k(a_i, b_j) = (a_i \cdot b_j / D + 1)^3`, float64.

    Without ``b`` the kernel is that of ``a`` with itself, and the diagonal is left out; both sums are then equal.

    Args:
        a: features (N, D).
        b: features (M, D).
    """
    left = a.double()
    right = left if b is None else b.double()
    over_columns = torch.zeros(len(left), dtype=torch.float64, device=left.device)
    over_rows = over_columns if b is None else torch.zeros(len(right), dtype=torch.float64, device=left.device)
    one = left.new_ones(())
    for rows in block_slices(len(left), len(right), left.device):
        # symmetric: the columns before these rows were met as rows
        first = rows.start if b is None else 0
        block = torch.addmm(one, left[rows], right[first:].mT, alpha=1 / left.shape[1]).pow_(3)
        if b is None:
            block.diagonal().zero_()
        over_columns[rows] += block.sum(1)
        if b is None:
            block = block[:, len(block) :]
            first = rows.stop
        over_rows[first:] += block.sum(0)
    return over_columns, over_rows


def kernel_distance(
    generated: Tensor, real: Tensor, real_sums: Tensor | None = None, generated_sums: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Unbiased squared MMD with a cubic kernel (Bińkowski et al. 2018), and its standard error; float64 scalars.

    .. math:: \frac{\sum_{i \neq j} k(g_i, g_j)}{N(N-1)} + \frac{\sum_{i \neq j} k(r_i, r_j)}{M(M-1)}
        - \frac{2 \sum_{ij} k(g_i, r_j)}{NM}

    Unbiased, so it may be negative where the sets agree: it is never clamped. The standard error is the two-sample
    jackknife's, exact in leave-one-out figures; it is up to :math:`\sqrt{2}` too large where the distributions agree.

    Args:
        generated, real: features (N, D) and (M, D).
        real_sums, generated_sums: first result of ``kernel_sums`` of either side if it is known already.

    Raises:
        InputError: for fewer than three images on either side.
    """
    n, m = len(generated), len(real)
    if min(n, m) < 3:
        raise InputError(f"the kernel distance needs at least 3 images on either side, got {n} and {m}")
    gg = kernel_sums(generated)[0] if generated_sums is None else generated_sums
    rr = kernel_sums(real)[0] if real_sums is None else real_sums
    gr, rg = kernel_sums(generated, real)
    within_g, within_r, between = gg.sum(), rr.sum(), gr.sum()
    value = within_g / (n * (n - 1)) + within_r / (m * (m - 1)) - 2 * between / (n * m)
    without_g = (within_g - 2 * gg) / ((n - 1) * (n - 2)) - 2 * (between - gr) / ((n - 1) * m)
    without_r = (within_r - 2 * rr) / ((m - 1) * (m - 2)) - 2 * (between - rg) / (n * (m - 1))
    variance = without_g.var(correction=0) * (n - 1) + without_r.var(correction=0) * (m - 1)
    return value, variance.sqrt()


def kernel_distance_of_subsets(generated: Tensor, real: Tensor, subsets: int, size: int) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of the distance over random subsets, as the literature prints it.

    The subsets are torch-fidelity's (NumPy's legacy generator with seed 2020).

    Raises:
        InputError: for sets smaller than a subset.
    """
    if min(len(generated), len(real)) < size:
        raise InputError(
            f"KID subsets of {size} images need as many on either side, got {len(generated)} and {len(real)}; "
            "lower subset_size or raise n"
        )
    random = np.random.RandomState(2020)
    values = []
    for _ in range(subsets):
        pick_g = torch.from_numpy(random.choice(len(generated), size, replace=False)).to(generated.device)
        pick_r = torch.from_numpy(random.choice(len(real), size, replace=False)).to(real.device)
        values.append(kernel_distance(generated[pick_g], real[pick_r])[0])
    stacked = torch.stack(values)
    return stacked.mean(), stacked.std(correction=0)


def _own_sum(rows: Tensor) -> Tensor:
    return kernel_sums(rows)[0]


class KernelDistance(FeatureMetric):
    """Kernel distance to each reference part: ``kid``, ``kid/stderr``, ``kid/heldout`` and so on.

    Over all images, unbiased, with a standard error. With ``subsets`` also ``kid/subsets`` and ``kid/subsets_std``,
    the literature's mean over random subsets (Bińkowski et al. 2018).

    Args:
        against: names of the reference parts; the first must be there, the others are left out where they are not set.
        standardize: first divide each feature by its standard deviation over the reference, after taking its mean
            away; for networks whose features have no fixed scale. The shipped classifiers' features have one.
        subsets: number of random subsets, 0 for none (the literature: 100).
        subset_size: images in a subset.
    """

    keeps = frozenset({"features"})
    figures = (
        Figure("kid", "squared kernel distance of generated to real images' features", higher=False, leads=True),
    )

    def __init__(
        self,
        against: Sequence[str] = ("train", "heldout"),
        standardize: bool = False,
        subsets: int = 0,
        subset_size: int = 1000,
    ) -> None:
        super().__init__()
        check_at_least(self, 0, subsets=subsets)
        check_at_least(self, 3, subset_size=subset_size)
        self.against, self.standardize = tuple(against), standardize
        self.subsets, self.subset_size = subsets, subset_size
        self.least = max(3, subset_size if subsets else 0)

    def score(self, samples: FeatureSet) -> dict[str, float]:
        self.require_samples(samples)
        figures: dict[str, float] = {}
        for key, real in self.each_reference("kid"):
            self.require_samples(real)
            generated, rows = self._scaled(samples, real), self._scaled(real, real)
            sums = real.once(("kernel", self.standardize), partial(_own_sum, rows))
            own = None  # standardized features differ from reference to reference
            if not self.standardize:
                own = samples.once(("kernel", False), partial(_own_sum, generated))
            value, error = kernel_distance(generated, rows, sums, own)
            figures |= {key: float(value), f"{key}/stderr": float(error)}
            if self.subsets:
                mean, std = kernel_distance_of_subsets(generated, rows, self.subsets, self.subset_size)
                figures |= {f"{key}/subsets": float(mean), f"{key}/subsets_std": float(std)}
        return figures

    def _scaled(self, features: FeatureSet, real: FeatureSet) -> Tensor:
        if not self.standardize:
            return features.rows()
        deviation = real.cov.diagonal().sqrt()
        # a feature that is constant over the reference has no scale: it is only centred
        return (features.rows().double() - real.mean) / torch.where(deviation > 0, deviation, 1.0)
