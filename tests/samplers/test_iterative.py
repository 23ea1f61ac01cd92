"""Samplers that take many passes of a network, as families to come will write them: the base must carry them as it is."""

from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lightning_gen.core import ImageSpec, categorical, check_mask, normal, uniform, watched, watching
from lightning_gen.models import GenerativeModule
from lightning_gen.samplers import Sampler

SPEC = ImageSpec(1, 2, 2, levels=3)


# --- token by token, with an explicit cache -----------------------------------------------------------------------


class Cache(NamedTuple):
    """What was decoded so far, (B, t), and the sum over it that stands for keys and values, (B, L)."""

    tokens: Tensor
    memory: Tensor


class Tokens(GenerativeModule):
    """log p(x_t | x_<t) = log softmax(a_t + sum_{s<t} W_s[x_s])."""

    def __init__(self, spec: ImageSpec, sampler: Sampler | None = None):
        super().__init__(spec, sampler)
        generator = torch.Generator().manual_seed(0)
        self.start = torch.nn.Parameter(torch.randn(self.spec.dims, self.spec.levels, generator=generator))
        self.table = torch.nn.Parameter(torch.randn(self.spec.dims, spec.levels, spec.levels, generator=generator))

    def training_step(self, batch, batch_idx): ...

    def begin(self, n: int) -> Cache:
        return Cache(torch.zeros(n, 0, dtype=torch.int64), torch.zeros(n, self.spec.levels))

    def logits(self, cache: Cache) -> Tensor:
        return self.start[cache.tokens.shape[1]] + cache.memory

    def extend(self, cache: Cache, token: Tensor) -> Cache:
        place = cache.tokens.shape[1]
        return Cache(torch.cat([cache.tokens, token[:, None]], 1), cache.memory + self.table[place][token])

    def log_prob(self, tokens: Tensor) -> Tensor:
        cache, nats = self.begin(len(tokens)), 0.0
        for token in tokens.T:
            nats = nats + torch.log_softmax(self.logits(cache), 1).gather(1, token[:, None])[:, 0]
            cache = self.extend(cache, token)
        return nats


class TokenSampler(Sampler):
    """x_t ~ p(x_t | x_<t) at a temperature."""

    def __init__(self, temperature: float = 1.0, chunk_size: int | None = None):
        super().__init__(chunk_size)
        self.temperature = temperature

    def noise(self, model, n, labels, generator):
        return uniform(n, model.spec.dims, generator=generator)

    def draw(self, model, noise, labels):
        cache = model.begin(len(noise))
        for column in watched(noise.T):
            cache = self.step(model, cache, column)
        return cache.tokens.view(-1, *model.spec.shape).to(model.spec.dtype)

    def step(self, model: Tokens, cache: Cache, numbers: Tensor) -> Cache:
        self.evaluations += 1
        shares = (model.logits(cache) / self.temperature).softmax(1)
        return model.extend(cache, categorical(shares, numbers))


class TokenCompletion(TokenSampler):
    """Completes images from the top: where a pixel is known, it is taken instead of being drawn."""

    def __init__(self, levels: Tensor, known: Tensor):
        super().__init__()
        self.tokens, self.known = levels.flatten(1).long(), check_mask(known, levels).flatten(1)

    def step(self, model, cache, numbers):
        place = cache.tokens.shape[1]
        drawn = super().step(model, cache, numbers).tokens[:, -1]
        return model.extend(cache, torch.where(self.known[:, place], self.tokens[:, place], drawn))


# --- solvers ------------------------------------------------------------------------------------------------------


class Field(GenerativeModule):
    """v(x, t) = (target - x) / (1 - t): every path ends at the target, on a straight line."""

    target = 0.5

    def training_step(self, batch, batch_idx): ...

    def velocity(self, x: Tensor, t: float) -> Tensor:
        return (self.target - x) / (1 - t)


class ODESampler(Sampler):
    """x_{t+h} = x_t + h v(x_t, t), from noise at t = 0 to data at t = 1."""

    def __init__(self, steps: int = 4, chunk_size: int | None = None):
        super().__init__(chunk_size)
        self.steps = steps

    def noise(self, model, n, labels, generator):
        return normal(n, *model.spec.shape, generator=generator)

    def draw(self, model, noise, labels):
        x = noise
        for start, end in watched(list(pairwise(torch.linspace(0, 1, self.steps + 1).tolist()))):
            x = self.step(model, x, start, end)
        return model.spec.to_levels(x.clamp(-1, 1))

    def step(self, model: Field, x: Tensor, start: float, end: float) -> Tensor:
        self.evaluations += 1
        return x + (end - start) * model.velocity(x, start)


class StochasticSampler(ODESampler):
    """The same with fresh noise at every step: too many numbers to hold for all images, so each image has a seed."""

    def noise(self, model, n, labels, generator):
        return torch.randint(2**62, (n,), generator=generator)

    def draw(self, model, noise, labels):
        self.generators = [torch.Generator().manual_seed(seed) for seed in noise.tolist()]
        return super().draw(model, self.fresh(model), labels)

    def fresh(self, model) -> Tensor:
        return torch.stack([normal(*model.spec.shape, generator=each) for each in self.generators])

    def step(self, model, x, start, end):
        return super().step(model, x, start, end) + 0.3 * (1 - start) * self.fresh(model)


class ODECompletion(ODESampler):
    """Known pixels are put back on their own way from noise to data after every step."""

    def __init__(self, unit: Tensor, known: Tensor, noise: Tensor):
        super().__init__()
        self.unit, self.known, self.start = unit, known, noise

    def step(self, model, x, start, end):
        drawn = super().step(model, x, start, end)
        return torch.where(self.known, torch.lerp(self.start, self.unit, end), drawn)


def draw(model: GenerativeModule, n: int, seed: int = 0) -> Tensor:
    return model.sample(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("model", "sampler", "passes"),
    [(Tokens, TokenSampler, 4), (Field, ODESampler, 4), (Field, StochasticSampler, 4)],
)
def test_equal_generators_give_equal_images_whatever_the_chunks(model, sampler, passes):
    model = model(SPEC, sampler())
    whole = draw(model, 10)
    assert model.sampler.evaluations == passes
    assert (len(whole.unique(dim=0)) > 1) == (sampler is not ODESampler)  # that field leads everything to one image
    for size, chunks in ((1, 10), (3, 4), (10, 1), (64, 1)):
        model.sampler = sampler(chunk_size=size)
        assert torch.equal(draw(model, 10), whole)
        assert model.sampler.evaluations == passes * chunks
    assert draw(model, 0).shape == (0, *SPEC.shape)


def test_tokens_are_drawn_from_their_distribution():
    model = Tokens(SPEC, TokenSampler())
    every = torch.cartesian_prod(*[torch.arange(SPEC.levels)] * SPEC.dims)
    expected = model.log_prob(every).exp()
    assert float(expected.sum()) == pytest.approx(1)
    drawn = draw(model, 20_000).flatten(1).long()
    places = (drawn * SPEC.levels ** torch.arange(SPEC.dims - 1, -1, -1)).sum(1)
    found = torch.bincount(places, minlength=len(every)) / len(drawn)
    assert float((found - expected).abs().sum() / 2) < 0.03  # in total variation; 0.02 is what chance leaves


def test_a_completion_overrides_one_step():
    tokens = Tokens(SPEC)
    levels = draw(Tokens(SPEC, TokenSampler()), 5)
    known = torch.tensor([[True, False], [True, True]])
    tokens.sampler = TokenCompletion(levels, known)
    completed = draw(tokens, 5, seed=1)
    assert torch.equal(completed[:, :, known], levels[:, :, known])
    assert not torch.equal(completed, levels)

    field = Field(SPEC, ODESampler())
    generator = torch.Generator().manual_seed(0)
    noise = field.sampler.noise(field, 5, None, generator)
    field.sampler = ODECompletion(SPEC.to_unit(levels), known, noise)
    completed = draw(field, 5)
    assert torch.equal(completed[:, :, known], levels[:, :, known])
    assert (completed[:, :, ~known] == SPEC.to_levels(torch.tensor([0.5]))).all()


def test_slow_drawing_says_how_far_it_is_and_can_be_stopped():
    model, shares = Field(SPEC, ODESampler(steps=5, chunk_size=2)), []
    with watching(shares.append):
        draw(model, 6)
    within = [share for share in shares if share < 1]
    assert shares == sorted(shares)
    assert len(shares) == 3 * 5 + 3  # after each step, and after each chunk
    assert within[0] == pytest.approx(1 / 15)
    assert shares[-1] == 1

    def stop(share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with watching(stop), pytest.raises(KeyboardInterrupt):
        draw(model, 6)
    assert model.sampler.evaluations == 8  # 8 of 15 steps are just over a half
    shares.clear()
    draw(model, 6)
    assert shares == []  # nobody watches any more
