"""The state of training that a step depends on beside its batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.core.randomness import Draws, keyed_generator, normal
from lightning_gen.core.ranks import Ranks


class TrainingContext(NamedTuple):
    """The state of training at the beginning of a step: models have it as ``self.context``, objectives are given it.

    Fields:
        seed: of the run.
        images_seen: by all ranks so far.
        num_images: size of the training part; 1 where it is not known.
        ranks: this process among those that train together.
        device: of the model.
    """

    seed: int = 0
    images_seen: int = 0
    num_images: int = 1
    ranks: Ranks = Ranks()
    device: torch.device = torch.device("cpu")

    def generator(self, purpose: str) -> torch.Generator:
        """Return the generator of this step for ``purpose``, on the device, equal on all ranks."""
        return keyed_generator(self.seed, purpose, self.images_seen, device=self.device)

    def normal(self, purpose: str, *shape: int, dim: int = 0) -> Tensor:
        """Return standard normal numbers of ``shape``: along ``dim``, this rank's rows of those of the global batch."""
        own = shape[dim]
        whole = [*shape]
        whole[dim] *= self.ranks.count
        numbers = normal(*whole, generator=self.generator(purpose))
        return numbers.narrow(dim, self.ranks.rank * own, own)

    def draws(self, purpose: str, n: int) -> Draws:
        """Return this step's random numbers for ``purpose``, of ``n`` images on each rank, drawn on the CPU."""
        return Draws(keyed_generator(self.seed, purpose, self.images_seen), n, self.ranks, self.device)
