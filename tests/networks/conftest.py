"""What tests of generators and discriminators share."""

import pytest
import torch


@pytest.fixture
def error_in_bfloat16():
    """Measure how far images and scores under bfloat16 autocast, differentiated, are from those in full precision."""

    def measure(generator, discriminator, latent):
        images = generator(latent)
        scores = discriminator(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = generator(latent)
            rough_scores = discriminator(rough)
        rough_scores.float().sum().backward()
        pairs = ((rough, images), (rough_scores, scores))
        return [((low.float() - full).std() / full.std()).item() for low, full in pairs]

    return measure
