"""Whether each factor of variation, where factors are known, has a coordinate of the latent to itself."""

import numpy as np

from lightning_gen.core import InputError, check_at_least


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    r"""Return the mutual information gap, MIG (Chen et al. 2018, equation 6), 0 to 1.

    .. math:: \frac1F \sum_f \frac{I(\hat z_{d(f)}; v_f) - \max_{d \ne d(f)} I(\hat z_d; v_f)}{H(v_f)}, \qquad
        d(f) = \arg\max_d I(\hat z_d; v_f)

    where :math:`\hat z_d` is the number of the bin, of equal widths from its least to its greatest value, in which
    coordinate d of the code lies, and informations are those of the table of counts (as Locatello et al. 2019 measure
    it; Chen et al. integrate over the posterior instead). It is 1 where a factor is known from one coordinate, and
    nothing of it from any other. Tables of few images overestimate all informations alike, more so of more bins.

    Args:
        codes: (N, D), such as the means of a posterior; D at least 2.
        factors: which value each factor v has, integers (N, F); each has at least 2.
        bins: of each coordinate, at least 2.

    Raises:
        InputError: for shapes and numbers that do not fit.
    """
    from sklearn.metrics import mutual_info_score  # slow to import

    codes, factors = _checked("mutual_information_gap", codes, factors)
    check_at_least("mutual_information_gap", 2, bins=bins)
    low, high = codes.min(0), codes.max(0)
    places = (codes - low) / np.where(high > low, high - low, 1.0)
    binned = np.minimum((bins * places).astype(np.int64), bins - 1)
    information = np.array([[mutual_info_score(v, z) for z in binned.T] for v in factors.T])
    entropy = np.array([mutual_info_score(v, v) for v in factors.T])
    return _mean_gap(information / entropy[:, None])


def separated_attribute_predictability(codes: np.ndarray, factors: np.ndarray, ordered: bool = True) -> float:
    r"""Return the separated attribute predictability, SAP (Kumar et al. 2018, section 3), 0 to 1.

    .. math:: \frac1F \sum_f \big(S_{d(f) f} - \max_{d \ne d(f)} S_{d f}\big), \qquad d(f) = \arg\max_d S_{d f}

    where :math:`S_{d f}` says how well coordinate d of the code alone predicts factor f: the share of variance that a
    line explains, :math:`\mathrm{cov}(z_d, v_f)^2 / (\mathrm{var}(z_d)\, \mathrm{var}(v_f))`, for factors whose values
    are ordered and evenly spaced; else the balanced accuracy, on the same images, of a linear support vector machine of
    the standardised coordinate. A coordinate that never changes predicts nothing, S = 0.

    Args:
        codes: (N, D), such as the means of a posterior; D at least 2.
        factors: which value each factor v has, integers (N, F); each has at least 2.
        ordered: whether the factors' values are ordered; else they are classes.

    Raises:
        InputError: for shapes that do not fit.
    """
    codes, factors = _checked("separated_attribute_predictability", codes, factors)
    deviation = codes.std(0)
    moves = deviation > 1e-12 * np.abs(codes).max(0)
    scores = np.zeros((factors.shape[1], codes.shape[1]))
    standard = (codes - codes.mean(0))[:, moves] / deviation[moves]
    if ordered:
        centred = factors - factors.mean(0)
        scores[:, moves] = (centred.T @ standard / len(codes)) ** 2 / centred.var(0)[:, None]
    else:
        scores[:, moves] = [[_accuracy(z, v) for z in standard.T] for v in factors.T]
    return _mean_gap(scores)


def _accuracy(coordinate: np.ndarray, classes: np.ndarray) -> float:
    """Return the balanced accuracy of classes (N,) predicted from one coordinate (N,)."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.svm import LinearSVC

    rows = coordinate[:, None]
    machine = LinearSVC(C=0.01, class_weight="balanced", dual=False).fit(rows, classes)
    return float(balanced_accuracy_score(classes, machine.predict(rows)))


def _mean_gap(scores: np.ndarray) -> float:
    """Return the mean over factors of the gap between the two highest scores of each row (F, D)."""
    second, first = np.sort(scores, 1)[:, -2:].T
    return float((first - second).mean())


def _checked(name: str, codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes, factors = np.asarray(codes, np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or codes.shape[1] < 2:
        raise InputError(
            f"{name}: codes must be (N, D) with D at least 2, and factors (N, F), got {codes.shape} and {factors.shape}"
        )
    if factors.dtype.kind not in "iu":
        raise InputError(f"{name}: factors must be integers, got {factors.dtype}")
    if not np.isfinite(codes).all():
        raise InputError(f"{name}: codes must be finite")
    if len(codes) == 0 or (factors == factors[:1]).all(0).any():
        raise InputError(f"{name}: each factor must have at least 2 values among the images")
    return codes, factors
