"""Steps for penalties to look at."""

import pytest
import torch

from lightning_gen.draw import Draw
from lightning_gen.objectives import CriticStep


@pytest.fixture(scope="session")
def critic_step():
    """Make the step of a critic, images and labels, on one rank unless told otherwise."""

    def make(critic, real, fake, labels=None, draw=None, mean=lambda value: value):
        with torch.enable_grad():
            real_scores, fake_scores = critic(real, labels), critic(fake, labels)
        scores = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (real_scores, fake_scores))
        return CriticStep(critic, real, fake, labels, *scores, draw or Draw(0, 0, len(real)), mean)

    return make
