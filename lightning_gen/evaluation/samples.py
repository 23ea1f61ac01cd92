"""Drawing samples: to be scored, over all ranks, and to be kept."""

import torch
from torch import Tensor

from lightning_gen.core import ProgressLine, keyed_generator, watched, watching
from lightning_gen.data import ImageDataModule
from lightning_gen.metrics import MetricSuite
from lightning_gen.models import GenerativeModule


def draw_samples(
    model: GenerativeModule,
    suite: MetricSuite,
    n: int,
    batch_size: int,
    seed: int,
    labels: Tensor | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor | None:
    """Draw ``n`` samples over all ranks, feed them to the suite, and return the first chunk's (on its rank, the first).

    Chunk c of ``batch_size`` samples is drawn from a generator keyed on (seed, c), whichever rank draws it, so the
    samples do not depend on the number of ranks.

    Args:
        model: what draws.
        suite: what scores.
        n: samples over all ranks.
        batch_size: samples drawn at once.
        seed: of the samples.
        labels: classes (n,) to draw, see :func:`sample_labels`; None for a model without classes.
        rank: this process.
        world_size: number of processes.
    """
    first = None
    for chunk in watched(range(rank, -(-n // batch_size), world_size)):
        index = torch.arange(chunk * batch_size, min(n, (chunk + 1) * batch_size), device=model.device)
        own = None if labels is None else labels.to(model.device)[index]
        levels = model.sample(len(index), own, generator=keyed_generator(seed, "evaluation", chunk))
        suite.update(levels, index, own)
        first = levels if chunk == 0 else first
    return first


def sample_labels(model: GenerativeModule, data: ImageDataModule, n: int) -> Tensor | None:
    """Return classes (n,) that occur as often as among the training images, or None for a model without classes.

    Distances to the training part mean something only where the classes are mixed as they are there.
    """
    if not model.conditional:
        return None
    labels = torch.as_tensor(data.images("train").labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return labels[order.repeat(-(-n // len(labels)))[:n]]


def draw(model: GenerativeModule, n: int, labels: Tensor | None, batch_size: int, seed: int) -> Tensor:
    """Return levels (n, C, H, W) on the CPU."""
    generator, batches = keyed_generator(seed, "sample"), []
    with watching(ProgressLine(f"drawing {n:,} images")):
        for rows in watched(torch.arange(n).split(batch_size)):
            own = None if labels is None else labels[rows].to(model.device)
            batches.append(model.sample(len(rows), own, generator=generator).cpu())
    return torch.cat(batches)
