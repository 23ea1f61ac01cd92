"""The trial of a gradient penalty: what it finds, and that it leaves no trace."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks import DCGANDiscriminator, MLPDiscriminator
from lightning_gen.objectives import check_double_backward

SPEC = ImageSpec(channels=1, height=8, width=8)
IMAGES = torch.linspace(-1, 1, 3 * 64).view(3, 1, 8, 8)


class Square(torch.autograd.Function):
    """x^2 with a backward that nobody can differentiate."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class CarelessSquare(Square):
    """x^2 with a backward that forgets its graph without an error."""

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * grad.detach()


class Critic(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.function = function

    def forward(self, images, labels=None):
        return self.linear(self.function(images.flatten(1))).sum(1)


class Reentrant(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.net, self.use_reentrant = MLPDiscriminator(SPEC, (5,)), use_reentrant

    def forward(self, images, labels=None):
        return checkpoint(self.net, images, use_reentrant=self.use_reentrant)


class FlashAttention(nn.Module):
    """Attention between the rows of an image, by the fused kernel, which has no second derivative."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, images, labels=None):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            q, k, v = self.project(images).chunk(3, -1)
            return nn.functional.scaled_dot_product_attention(q, k, v).flatten(1).sum(1)


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(3, 64)

    def forward(self, images, labels):
        return (images.flatten(1) * self.rows(labels)).sum(1)


class Noisy(nn.Module):
    """A critic that draws, counts and sums even in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.net = MLPDiscriminator(SPEC, (5,))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, images, labels=None):
        self.calls += 1
        return self.net(images + 0.1 * torch.randn_like(images))


def test_critics_that_allow_it_pass():
    spectral = Critic(nn.utils.parametrizations.spectral_norm(nn.Linear(64, 5)))
    spectral.linear = nn.Linear(5, 4)
    for critic in (
        Critic(torch.tanh),
        MLPDiscriminator(SPEC, (5,)),
        DCGANDiscriminator(SPEC, width=4),
        Reentrant(False),
        spectral,
        MLPDiscriminator(SPEC, (5,)).requires_grad_(False),
        MLPDiscriminator(SPEC, (5,)).double(),
    ):
        check_double_backward(critic, IMAGES.to(next(critic.parameters()).dtype), None)


def test_critics_that_forbid_it_are_refused_by_name():
    for critic in (Critic(Square.apply), Critic(CarelessSquare.apply), Reentrant(True), FlashAttention()):
        name = type(critic).__name__
        with pytest.raises(InputError, match=f"^{name} cannot be differentiated twice, which gradient") as caught:
            check_double_backward(critic, IMAGES, None)
        assert "\n" not in str(caught.value)


def test_labels_reach_the_critic():
    check_double_backward(Conditional(), IMAGES, torch.tensor([0, 1, 2]))


def test_errors_of_the_critic_itself_come_through():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        check_double_backward(MLPDiscriminator(ImageSpec(1, 4, 4), (5,)), IMAGES, None)


def test_nothing_is_left_behind():
    for critic in (Noisy(), Critic(Square.apply)):
        critic.extra = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()).train()
        critic.extra[1].eval()
        before, modes = copy.deepcopy(critic.state_dict()), [part.training for part in critic.modules()]
        chance, images = torch.get_rng_state(), IMAGES.clone()
        with pytest.raises(InputError) if isinstance(critic, Critic) else nullcontext():
            check_double_backward(critic, images, None)
        assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())
        assert [part.training for part in critic.modules()] == modes
        assert all(weight.grad is None for weight in critic.parameters())
        assert torch.equal(torch.get_rng_state(), chance)
        assert not images.requires_grad
        assert images.grad is None


def test_it_works_where_gradients_are_off_and_autocast_is_on():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        check_double_backward(MLPDiscriminator(SPEC, (5,)), IMAGES, None)


def test_batch_statistics_are_not_moved():
    critic = DCGANDiscriminator(SPEC, width=4)
    before = copy.deepcopy(critic.state_dict())
    check_double_backward(critic, IMAGES, None)
    assert critic.training
    assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())
