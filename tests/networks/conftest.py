"""What tests of networks share."""

import pytest
import torch


@pytest.fixture(scope="session")
def squared_gradient_norm():
    """Return what gradient penalties are made of: the squared norm of each image's gradient, in float32 at least."""

    def of(network, images, labels=None):
        images = images.detach().requires_grad_()
        with torch.autocast("cpu", enabled=False), torch.enable_grad():
            (gradient,) = torch.autograd.grad(network(images, labels).sum(), images, create_graph=True)
        return gradient.flatten(1).square().sum(1)

    return of
