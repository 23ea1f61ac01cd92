"""How a critic and a generator stand against each other."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_gen.core import at_least_float32

AT_ONCE = 256  # images: memory must not grow with how many are asked for


def ranking_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    r"""Return the probability that a real image scores above a generated one, :math:`P(D(x) > D(G(z)))`, a scalar.

    Ties count half: a critic that gives one score to everything tells nothing apart, 1/2. It does not depend on the
    offset or scale of the scores (N,) and (M,).
    """
    ordered = fake.sort().values
    below = (torch.searchsorted(ordered, real) + torch.searchsorted(ordered, real, right=True)) / 2
    return below.mean() / len(fake)


def relative_spread(samples: Tensor, images: Tensor, classes: Tensor) -> Tensor | None:
    """Return the mean pixel distance between two samples over that between two images (N, C, H, W), a scalar.

    Near 0 where a generator ignores its latent. Only pairs of one class (N,) count: classes differ from each other
    however little the latent matters. None where there is no such pair.
    """
    pairs = (classes[:, None] == classes).triu(1)
    if not pairs.any():
        return None

    def spread(batch: Tensor) -> Tensor:
        rows = batch.flatten(1).float()
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")[pairs].mean()

    return spread(samples) / spread(images).clamp(min=1e-12)


def figures_of_scores(
    critic: Callable[[Tensor, Tensor | None], Tensor],
    images: Tensor,
    samples: Tensor,
    labels: Tensor | None,
    classes: Tensor,
) -> dict[str, Tensor]:
    """Return ``score_real`` and ``score_fake`` (B,), ``critic_accuracy``, and ``diversity`` where there are pairs.

    Args:
        critic: (unit images, labels) -> scores; asked for some hundred images at a time.
        images, samples: unit images (B, C, H, W).
        labels: classes (B,) that the critic is told, or None.
        classes: (B,), within which samples are compared with each other.
    """
    chunks = torch.arange(len(images), device=images.device).split(AT_ONCE)
    real, fake = (
        at_least_float32(torch.cat([critic(side[rows], None if labels is None else labels[rows]) for rows in chunks]))
        for side in (images, samples)
    )
    figures = {"score_real": real, "score_fake": fake, "critic_accuracy": ranking_accuracy(real, fake)}
    spread = relative_spread(samples, images, classes)
    return figures if spread is None else {**figures, "diversity": spread}
