"""Gaussian components with full, diagonal, and low-rank plus diagonal covariance."""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from lightning_gen.core import InputError, check, check_above, check_at_least, normal
from lightning_gen.distributions.components import (
    MOST_BYTES,
    Components,
    Statistics,
    rows_by_component,
    rows_by_mask,
)

LOG_TWO_PI = math.log(2 * math.pi)
EMPTY = 1e-8  # smallest responsibility, in images, with which a component is updated


class GaussianComponents(Components):
    r"""K Gaussians, fitted to data with added independent noise of known variance.

    With noise e of mean 0 and variance s on each coordinate of x (s = 1/12 for uniform dequantization noise), training
    takes the exact expectation over the noise instead of sampling it: the E step uses

    .. math:: E_e \log N(x + e; \mu_k, \Sigma_k) = \log N(x; \mu_k, \Sigma_k) - \tfrac{s}{2} \mathrm{tr}\,\Sigma_k^{-1}

    and the M step adds s to second moments. With s = 0 this is ordinary EM.

    Covariances have an inverse Wishart prior of mode v M worth a images,
    :math:`\log p(\Sigma) = -\tfrac{a}{2} (\log|\Sigma| + v\, \mathrm{tr}\,M \Sigma^{-1})` up to a constant, where M is
    the covariance of the data given to :meth:`prepare`, or its diagonal; before that, the identity.

    Args:
        count: K.
        dims: D.
        noise_variance: s.
        prior_strength: a, in images.
        prior_variance: v, relative to the variance of the data.
        variance: initial variance of the components.

    Raises:
        InputError: for numbers out of range.
    """

    def __init__(
        self,
        count: int,
        dims: int,
        noise_variance: float = 0.0,
        prior_strength: float = 1.0,
        prior_variance: float = 1.0,
        variance: float = 1.0,
    ):
        super().__init__(count, dims)
        check_at_least(self, 0, noise_variance=noise_variance, prior_strength=prior_strength)
        check_above(self, 0, prior_variance=prior_variance)
        self.noise_variance = noise_variance
        self.prior_strength = prior_strength
        self.prior_variance = prior_variance
        self.register_buffer("prior", prior_variance * self._identity())
        self.hold("mean", torch.zeros(count, dims, dtype=torch.float64))
        self._begin(variance)

    def _identity(self) -> Tensor:
        """Return the initial M, (D, D) or its diagonal (D,)."""
        return torch.ones(self.dims, dtype=torch.float64)

    def _spread_of(self, x: Tensor) -> Tensor:
        """Return the covariance of x (N, D), (D, D), or its diagonal (D,)."""
        return x.var(0, correction=0)

    def prepare(self, x: Tensor) -> None:
        spread = self._spread_of(x)
        variances = spread.diagonal() if spread.dim() == 2 else spread
        # Keep the prior proper for pixels that never vary and have no noise.
        variances.add_(self.noise_variance).clamp_(min=1e-9)
        self.prior.copy_(self.prior_variance * spread)

    @abstractmethod
    def _begin(self, variance: float) -> None:
        """Create the parameters with this variance."""

    def expected_log_prob(self, x: Tensor) -> Tensor:
        return self.log_prob(x) - 0.5 * self.noise_variance * self._precision_trace()

    def log_prior(self) -> Tensor:
        return -0.5 * self.prior_strength * self._prior_terms().sum()

    @abstractmethod
    def _prior_terms(self) -> Tensor:
        """Return log|S| + v tr(M S^-1) of each covariance S, or of the part that has the prior."""

    @abstractmethod
    def _precision_trace(self, matrix: Tensor | None = None) -> Tensor:
        """Return the trace (K,) of each inverse covariance, optionally times a matrix (D, D) or a diagonal (D,)."""

    def known_log_prob(self, x: Tensor, known: Tensor) -> Tensor:
        out = x.new_empty(len(x), self.count)
        for mask, rows in rows_by_mask(known):
            out[rows] = self._known_log_prob(x[rows], mask)
        return out

    @abstractmethod
    def _known_log_prob(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return log p, nats (B, K), of the dimensions in one mask (D,)."""

    def complete(self, x: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        # All normal numbers at once, so that those of a row do not depend on the other rows.
        numbers = normal(len(x), self._normals, generator=generator, device=x.device, dtype=x.dtype)
        out = x.clone()
        for mask, rows in rows_by_mask(known):
            if bool(mask.all()):
                continue
            for k, among in rows_by_component(component[rows]):
                mine = rows[among]
                out[mine[:, None], torch.nonzero(~mask)[:, 0]] = self._missing(k, x[mine], mask, numbers[mine])
        return out

    @property
    def _normals(self) -> int:
        """Standard normal numbers per draw."""
        return self.dims

    @abstractmethod
    def _missing(self, k: int, x: Tensor, mask: Tensor, numbers: Tensor) -> Tensor:
        """Draw the unknown dimensions of x (B, D) from component k given those in the mask, by normal numbers."""


class FullGaussianComponents(GaussianComponents):
    r"""Gaussians with full covariances, stored as :math:`W_k = L_k^{-1}` with :math:`\Sigma_k = L_k L_k^T`.

    Arguments are those of :class:`GaussianComponents`.

    Raises:
        InputError: if the covariances would take more than 2 GiB.
    """

    def __init__(self, count: int, dims: int, **options: float):
        needed = 8 * count * dims**2
        if needed > MOST_BYTES:
            raise InputError(
                f"full covariances of {dims} pixels and {count} components need {needed / 2**30:,.1f} GiB, and 2 are "
                "allowed: take covariance low_rank or diagonal, fewer components, or smaller images"
            )
        super().__init__(count, dims, **options)

    def _begin(self, variance: float) -> None:
        eye = torch.eye(self.dims, dtype=torch.float64) / math.sqrt(variance)
        self.hold("whitening", eye.repeat(self.count, 1, 1))

    @property
    def free_parameters(self) -> int:
        return self.count * (self.dims + self.dims * (self.dims + 1) // 2)

    @property
    def row_cost(self) -> int:
        return self.count * self.dims

    def log_prob(self, x: Tensor) -> Tensor:
        white = (x @ self.whitening.view(-1, self.dims).T).view(len(x), self.count, self.dims)
        white = white - (self.whitening @ self.mean[:, :, None])[:, :, 0]
        return -0.5 * (white.square_().sum(2) + self._log_determinant() + self.dims * LOG_TWO_PI)

    def _prior_terms(self) -> Tensor:
        return self._log_determinant() + self._precision_trace(self.prior)

    def _log_determinant(self) -> Tensor:
        return -2 * self.whitening.diagonal(dim1=1, dim2=2).log().sum(1)

    def _identity(self) -> Tensor:
        return torch.eye(self.dims, dtype=torch.float64)

    def _spread_of(self, x: Tensor) -> Tensor:
        return x.T.cov(correction=0).view(self.dims, self.dims)

    def _precision_trace(self, matrix: Tensor | None = None) -> Tensor:
        moved = self.whitening if matrix is None else self.whitening @ matrix
        return (moved * self.whitening).sum((1, 2))

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        # One product per component: its factors fit into the cache.
        outer = torch.stack([(x * share[:, None]).T @ x for share in shares.T])
        return {"count": shares.sum(0), "sum": shares.T @ x, "outer": outer}

    def update(self, statistics: Statistics) -> None:
        count = statistics["count"].clamp(min=EMPTY)
        mean = statistics["sum"] / count[:, None]
        covariance = statistics["outer"] - (count[:, None] * mean)[:, :, None] * mean[:, None, :]
        covariance.diagonal(dim1=1, dim2=2).add_(count[:, None] * self.noise_variance)
        covariance += self.prior_strength * self.prior
        covariance /= (count + self.prior_strength)[:, None, None]
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if bool(failed.any()):
            raise InputError(
                f"the covariance of component {int(failed.nonzero()[0])} is singular: raise prior_strength, "
                "or take fewer components"
            )
        eye = torch.eye(self.dims, dtype=factor.dtype, device=factor.device)
        filled = statistics["count"] > EMPTY
        whitening = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        self.hold("mean", torch.where(filled[:, None], mean, self.mean))
        self.hold("whitening", torch.where(filled[:, None, None], whitening, self.whitening))

    def covariance(self) -> Tensor:
        """Return the covariances, (K, D, D)."""
        return torch.stack([self._factor(k) @ self._factor(k).T for k in range(self.count)])

    def _factor(self, k: int) -> Tensor:
        eye = torch.eye(self.dims, dtype=torch.float64, device=self.mean.device)
        return torch.linalg.solve_triangular(self.whitening[k], eye, upper=False)

    def sample(self, component: Tensor, generator: torch.Generator) -> Tensor:
        numbers = normal(len(component), self.dims, generator=generator, device=component.device, dtype=torch.float64)
        for k, rows in rows_by_component(component):
            numbers[rows] = (
                self.mean[k] + torch.linalg.solve_triangular(self.whitening[k], numbers[rows].T, upper=False).T
            )
        return numbers

    def _known_log_prob(self, x: Tensor, mask: Tensor) -> Tensor:
        columns = []
        for k in range(self.count):
            factor = self._factor(k)[mask]
            root = torch.linalg.cholesky(factor @ factor.T)
            white = torch.linalg.solve_triangular(root, (x - self.mean[k])[:, mask].T, upper=False)
            log_determinant = 2 * root.diagonal().log().sum()
            columns.append(-0.5 * (white.square().sum(0) + log_determinant + int(mask.sum()) * LOG_TWO_PI))
        return torch.stack(columns, 1)

    def _missing(self, k: int, x: Tensor, mask: Tensor, numbers: Tensor) -> Tensor:
        # With the precision P: mean m_m - P_mm^-1 P_mo (x_o - m_o), covariance P_mm^-1.
        precision = self.whitening[k].T @ self.whitening[k]
        root = torch.linalg.cholesky(precision[~mask][:, ~mask])
        pull = precision[~mask][:, mask] @ (x - self.mean[k])[:, mask].T
        noise = torch.linalg.solve_triangular(root.T, numbers[:, ~mask].T, upper=True)
        return self.mean[k, ~mask] + (noise - torch.cholesky_solve(pull, root)).T


class DiagonalGaussianComponents(GaussianComponents):
    """Gaussians with diagonal covariances; the prior is an inverse gamma on each variance.

    Arguments are those of :class:`GaussianComponents`.
    """

    def _begin(self, variance: float) -> None:
        self.hold("variance", torch.full((self.count, self.dims), variance, dtype=torch.float64))

    @property
    def free_parameters(self) -> int:
        return 2 * self.count * self.dims

    @property
    def row_cost(self) -> int:
        return self.count + 2 * self.dims

    def log_prob(self, x: Tensor) -> Tensor:
        return self._known_log_prob(x, torch.ones(self.dims, dtype=torch.bool, device=x.device))

    def _known_log_prob(self, x: Tensor, mask: Tensor) -> Tensor:
        x, mean, variance = x[:, mask], self.mean[:, mask], self.variance[:, mask]
        square = x.square() @ (1 / variance).T - 2 * x @ (mean / variance).T + (mean.square() / variance).sum(1)
        return -0.5 * (square + (variance.log() + LOG_TWO_PI).sum(1))

    def _prior_terms(self) -> Tensor:
        return self._log_determinant() + self._precision_trace(self.prior)

    def _log_determinant(self) -> Tensor:
        return self.variance.log().sum(1)

    def _precision_trace(self, matrix: Tensor | None = None) -> Tensor:
        return ((1.0 if matrix is None else matrix) / self.variance).sum(1)

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        return {"count": shares.sum(0), "sum": shares.T @ x, "square": shares.T @ x.square()}

    def update(self, statistics: Statistics) -> None:
        count = statistics["count"].clamp(min=EMPTY)[:, None]
        mean = statistics["sum"] / count
        spread = (statistics["square"] - count * mean.square()).clamp(min=0) + count * self.noise_variance
        variance = (spread + self.prior_strength * self.prior) / (count + self.prior_strength)
        if not bool((variance > 0).all()):
            raise InputError(
                f"a variance of component {int((variance <= 0).any(1).nonzero()[0])} is zero: raise prior_strength"
            )
        filled = statistics["count"][:, None] > EMPTY
        self.hold("mean", torch.where(filled, mean, self.mean))
        self.hold("variance", torch.where(filled, variance, self.variance))

    def sample(self, component: Tensor, generator: torch.Generator) -> Tensor:
        numbers = normal(len(component), self.dims, generator=generator, device=component.device, dtype=torch.float64)
        return self.mean[component] + self.variance[component].sqrt() * numbers

    def _missing(self, k: int, x: Tensor, mask: Tensor, numbers: Tensor) -> Tensor:
        return self.mean[k, ~mask] + self.variance[k, ~mask].sqrt() * numbers[:, ~mask]


class LowRankGaussianComponents(GaussianComponents):
    r"""Gaussians with :math:`\Sigma_k = W_k W_k^T + \mathrm{diag}(\psi_k)`, a mixture of factor analysers.

    Factors :math:`z \sim N(0, I)` of dimension q are latent variables of EM, :math:`x = \mu_k + W_k z + e` with
    :math:`e \sim N(0, \mathrm{diag}\, \psi_k)` (Ghahramani and Hinton 1996). Each :math:`\psi` has an inverse gamma
    prior.

    Args:
        rank: dimension q of the factors.

    Further arguments are those of :class:`GaussianComponents`.
    """

    def __init__(self, count: int, dims: int, rank: int, **options: float):
        check(self, "rank", rank, 1 <= rank < dims, f"1 .. {dims - 1} for {dims} dimensions")
        self._rank = rank
        super().__init__(count, dims, **options)

    def _begin(self, variance: float) -> None:
        self.rank = self._rank
        self.hold("psi", torch.full((self.count, self.dims), variance, dtype=torch.float64))
        self.hold("loading", torch.zeros(self.count, self.dims, self.rank, dtype=torch.float64))

    @property
    def free_parameters(self) -> int:
        # Loadings are identified up to a rotation of the factors.
        return self.count * (self.dims * (2 + self.rank) - self.rank * (self.rank - 1) // 2)

    @property
    def row_cost(self) -> int:
        return self.count * (self.rank + 1) + 2 * self.dims

    def _root(self, mask: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return the Cholesky factor C (K, q, q) of I + W^T psi^-1 W, and C^-1 W^T psi^-1 (K, q, D)."""
        loading = self.loading[:, mask]
        scaled = (loading / self.psi[:, mask, None]).transpose(1, 2)
        eye = torch.eye(self.rank, dtype=loading.dtype, device=loading.device)
        root = torch.linalg.cholesky(eye + scaled @ loading)
        return root, torch.linalg.solve_triangular(root, scaled, upper=False)

    def log_prob(self, x: Tensor) -> Tensor:
        return self._known_log_prob(x, slice(None))

    def _known_log_prob(self, x: Tensor, mask: Tensor | slice) -> Tensor:
        x, mean, psi = x[:, mask], self.mean[:, mask], self.psi[:, mask]
        root, gain = self._root(mask)
        square = x.square() @ (1 / psi).T - 2 * x @ (mean / psi).T + (mean.square() / psi).sum(1)
        explained = (x @ gain.flatten(0, 1).T).view(len(x), self.count, self.rank)
        explained = explained - (gain @ mean[:, :, None])[:, :, 0]
        log_determinant = psi.log().sum(1) + 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        return -0.5 * (square - explained.square_().sum(2) + log_determinant + x.shape[1] * LOG_TWO_PI)

    def _precision_trace(self, matrix: Tensor | None = None) -> Tensor:
        return (1 / self.psi).sum(1) - self._root()[1].square().sum((1, 2))

    def _prior_terms(self) -> Tensor:
        return self.psi.log() + self.prior / self.psi

    def statistics(self, x: Tensor, shares: Tensor) -> Statistics:
        root, gain = self._root()
        beta = torch.linalg.solve_triangular(root.transpose(1, 2), gain, upper=True)  # posterior mean of z per x - mu
        factors = (x @ beta.flatten(0, 1).T).view(len(x), self.count, self.rank)
        factors = factors - (beta @ self.mean[:, :, None])[:, :, 0]
        factors = torch.cat([factors, torch.ones_like(factors[:, :, :1])], 2)
        weighted = factors * shares[:, :, None]
        count = shares.sum(0)
        cross = (weighted.flatten(1).T @ x).view(self.count, self.rank + 1, self.dims)
        cross[:, :-1] += count[:, None, None] * self.noise_variance * beta
        second = torch.einsum("bki,bkj->kij", weighted, factors)
        second[:, :-1, :-1] += count[:, None, None] * (
            torch.cholesky_inverse(root) + self.noise_variance * beta @ beta.transpose(1, 2)
        )
        return {"count": count, "square": shares.T @ x.square(), "cross": cross, "second": second}

    def update(self, statistics: Statistics) -> None:
        filled = statistics["count"] > EMPTY
        count, square, cross, second = (statistics[name][filled] for name in ("count", "square", "cross", "second"))
        weights = torch.linalg.solve(second, cross)  # (W, mu)^T
        spread = (square - (weights * cross).sum(1)).clamp(min=0) + count[:, None] * self.noise_variance
        psi = (spread + self.prior_strength * self.prior) / (count + self.prior_strength)[:, None]
        if not bool((psi > 0).all()):
            raise InputError("a component's noise variance is zero: raise prior_strength, or take a lower rank")
        for name, value in {"mean": weights[:, -1], "loading": weights[:, :-1].transpose(1, 2), "psi": psi}.items():
            new = getattr(self, name).detach().clone()
            new[filled] = value
            self.hold(name, new)

    def start(self, x: Tensor, shares: Tensor) -> None:
        # Principal components of each cluster, shrunk as in probabilistic PCA.
        mean, psi, loading = (getattr(self, name).detach().clone() for name in ("mean", "psi", "loading"))
        a, floor = self.prior_strength, self.noise_variance + 1e-6
        for k, share in enumerate(shares.T):
            mine = x[share > 0]
            if not len(mine):
                continue
            mean[k] = mine.mean(0)
            centred = mine - mean[k]
            total = (centred.square().sum(0) + a * self.prior) / (len(mine) + a) + self.noise_variance
            _, singular, right = torch.linalg.svd(centred, full_matrices=False)
            q = min(self.rank, len(singular))
            loading[k] = 0
            # Half of each direction's variance; EM finds the rest.
            loading[k, :, :q] = right[:q].T * singular[:q] / math.sqrt(2 * (len(mine) + a))
            psi[k] = (total - loading[k].square().sum(1)).clamp(min=floor)
        for name, value in {"mean": mean, "psi": psi, "loading": loading}.items():
            self.hold(name, value)

    @property
    def _normals(self) -> int:
        return self.rank + self.dims

    def sample(self, component: Tensor, generator: torch.Generator) -> Tensor:
        shape = len(component), self._normals
        numbers = normal(*shape, generator=generator, device=component.device, dtype=torch.float64)
        factors, noise = numbers.split([self.rank, self.dims], 1)
        noise = self.mean[component] + self.psi[component].sqrt() * noise
        for k, rows in rows_by_component(component):
            noise[rows] += factors[rows] @ self.loading[k].T
        return noise

    def _missing(self, k: int, x: Tensor, mask: Tensor, numbers: Tensor) -> Tensor:
        # Draw the factors from their posterior; given them, the pixels are independent.
        loading, psi = self.loading[k], self.psi[k]
        scaled = (loading[mask] / psi[mask, None]).T
        eye = torch.eye(self.rank, dtype=loading.dtype, device=loading.device)
        root = torch.linalg.cholesky(eye + scaled @ loading[mask])
        mean = torch.cholesky_solve(scaled @ (x - self.mean[k])[:, mask].T, root)
        factors, noise = numbers.split([self.rank, self.dims], 1)
        drawn = mean + torch.linalg.solve_triangular(root.T, factors.T, upper=True)
        return self.mean[k, ~mask] + drawn.T @ loading[~mask].T + psi[~mask].sqrt() * noise[:, ~mask]
