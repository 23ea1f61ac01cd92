"""What tests of objectives share."""

from collections.abc import Callable

import pytest
import torch

from lightning_gen.core.ranks import Ranks


class GivenRanks(Ranks):
    """A process among others, of which nothing is known but the means that they come to together."""

    average: Callable[[torch.Tensor], torch.Tensor]

    def mean(self, value):
        return self.average(value).to(value)


@pytest.fixture(scope="session")
def given_ranks():
    """Make ranks of which a function gives each mean over all."""

    def make(rank, count, average):
        ranks = GivenRanks(rank, count)
        ranks.average = average
        return ranks

    return make
