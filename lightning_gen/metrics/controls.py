"""What real images score in place of generated ones: the figures that a model's own are to be read beside."""

from contextlib import suppress

import torch

from lightning_gen.core import InputError
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.metrics.base import HELD_OUT, TRAIN, FeatureMetric, FeatureSet
from lightning_gen.metrics.suite import MetricSuite


def floor(suite: MetricSuite) -> dict[str, float]:
    """Return figures of the held-out part against the training part: what perfect samples of that n would score.

    What compares with the held-out part is of the training part in place of samples. Figures that real images are too
    few for are left out.

    Raises:
        InputError: where a part was not set.
    """
    if HELD_OUT not in suite.references:
        raise InputError("metrics: the floor needs a held-out reference part, which was not set")
    found: dict[str, float] = {}
    for metric in suite.metrics:
        if metric.has_floor:
            for part in (HELD_OUT, TRAIN) if HELD_OUT in metric.against else (HELD_OUT,):
                figures = _figures(suite, metric, suite.references[part])
                found |= {k: v for k, v in figures.items() if (HELD_OUT in k.split("_")) == (part == TRAIN)}
    return found


def memoriser(suite: MetricSuite, n: int) -> dict[str, float]:
    """Return figures of a model that knows its training images by heart: n of them drawn again, with replacement.

    They are always the same. Where only moments of features were kept, figures of moments are of the whole part.

    Raises:
        InputError: where the training part was not set.
    """
    train = suite.references.get(TRAIN)
    if train is None:
        raise InputError("metrics: the memoriser needs a training reference part, which was not set")
    drawn = train.select(torch.randint(train.count, (n,), generator=keyed_generator(0, "memoriser")))
    if drawn.features is None:
        drawn.moments = train.moments
    return {name: value for metric in suite.metrics for name, value in _figures(suite, metric, drawn).items()}


def _figures(suite: MetricSuite, metric: FeatureMetric, samples: FeatureSet) -> dict[str, float]:
    with suppress(InputError):  # real images may be too few for a metric, whose samples are enough
        return suite.named(metric, samples)
    return {}


def controls(suite: MetricSuite, n: int, prefix: str = "") -> dict[str, dict[str, float]]:
    """Return :func:`floor` and :func:`memoriser` of n images by these names; nothing without a held-out part.

    Args:
        suite: with its references.
        n: samples that they stand beside.
        prefix: of the figures' names, such as ``val/``.
    """
    if HELD_OUT not in suite.references:
        return {}
    found = {"floor": floor(suite), "memoriser": memoriser(suite, n)}
    return {name: {f"{prefix}{key}": value for key, value in figures.items()} for name, figures in found.items()}
