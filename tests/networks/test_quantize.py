"""Quantizers against loops and closed forms; networks onto a grid and back."""

import itertools
import math
import threading
from functools import partial

import numpy as np
import pytest
import torch

from lightning_gen.core.context import TrainingContext
from lightning_gen.core.errors import InputError
from lightning_gen.core.ranks import Ranks
from lightning_gen.core.spec import ImageSpec
from lightning_gen.networks import FSQ, GridDecoder, GridEncoder, VectorQuantizer
from lightning_gen.networks.quantize import perplexity

DIGITS = ImageSpec(channels=1, height=8, width=8, levels=17, num_classes=10)


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def map_of(quantizer, n=3, side=2, seed=0):
    return torch.randn(n, quantizer.dim, side, side, generator=fresh(seed), dtype=torch.float64).requires_grad_()


# --- forward ----------------------------------------------------------------------------------------------------------


def test_codes_are_the_nearest_vectors():
    quantizer = VectorQuantizer(codes=7, dim=3).double()
    z = map_of(quantizer)
    quantized = quantizer(z)
    book = quantizer.codebook.numpy()
    for b, i, j in itertools.product(range(3), range(2), range(2)):
        distances = ((book - z.detach().numpy()[b, :, i, j]) ** 2).sum(1)
        assert int(quantized.indices[b, i, j]) == distances.argmin()
        np.testing.assert_allclose(quantized.values.detach().numpy()[b, :, i, j], book[distances.argmin()], atol=1e-14)
    torch.testing.assert_close(quantizer.lookup(quantized.indices), quantized.values.detach(), rtol=0, atol=1e-14)


def test_the_gradient_of_the_values_is_that_of_the_map():
    quantizer = VectorQuantizer(codes=5, dim=2).double()
    z = map_of(quantizer)
    weights = torch.randn(z.shape, generator=fresh(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((quantizer(z).values * weights).sum(), z)
    assert torch.equal(gradient, weights)


def test_the_commitment_pulls_the_map_to_its_code_and_leaves_the_code():
    quantizer = VectorQuantizer(codes=5, dim=2, commitment=0.7).double()
    z = map_of(quantizer)
    quantized = quantizer(z)
    apart = z.detach() - quantizer.lookup(quantized.indices)
    torch.testing.assert_close(quantized.loss.detach(), 0.7 * apart.square().sum((1, 2, 3)))
    (gradient,) = torch.autograd.grad(quantized.loss.sum(), z)
    torch.testing.assert_close(gradient, 2 * 0.7 * apart)
    assert not list(quantizer.parameters())


def test_fsq_passes_the_gradient_of_the_bound_through():
    quantizer = FSQ([4, 3]).double()
    z = map_of(quantizer)
    (gradient,) = torch.autograd.grad(quantizer(z).values.sum(), z)
    torch.testing.assert_close(gradient, 1 - z.detach().tanh().square())


def test_fsq_pulls_back_what_tanh_cannot():
    quantizer = FSQ([4, 3], commitment=0.5).double()
    z = torch.tensor([1.9, -2.0, 3.0, -30.0], dtype=torch.float64).view(2, 2, 1, 1).requires_grad_()
    loss = quantizer(z).loss
    assert loss.tolist() == pytest.approx([0, 0.5 * (1 + 28**2)])
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert gradient.flatten().tolist() == pytest.approx([0, 0, 1, -28])


def test_every_code_of_fsq_is_reached_and_comes_back():
    for levels in ((2,), (3, 2), (8, 5, 5), (4, 4, 4, 4), (7, 2, 3)):
        quantizer = FSQ(levels)
        assert quantizer.codes == math.prod(levels)
        codes = torch.arange(quantizer.codes)[:, None, None]
        values = quantizer.lookup(codes)
        assert values.shape == (quantizer.codes, len(levels), 1, 1)
        assert len(values.flatten(1).unique(dim=0)) == quantizer.codes
        # each coordinate has its levels, evenly spread over [-1, 1]
        for i, count in enumerate(levels):
            np.testing.assert_allclose(values[:, i].unique().numpy(), np.linspace(-1, 1, count), atol=1e-6)
        # a map that lies on the values keeps them
        back = quantizer(torch.atanh(values.clamp(-1 + 1e-6, 1 - 1e-6)))
        assert torch.equal(back.indices, codes)
        torch.testing.assert_close(back.values, values, rtol=0, atol=1e-6)
        far = quantizer(torch.full((1, len(levels), 1, 1), 1e4))
        assert int(far.indices) == quantizer.codes - 1


def test_fsq_rounds_to_the_nearest_value():
    quantizer = FSQ([5, 4]).double()
    z = map_of(quantizer, n=50)
    values = quantizer.lookup(torch.arange(20)[:, None, None]).flatten(1).numpy()
    quantized = quantizer(z)
    bounded = np.tanh(z.detach().numpy()).transpose(0, 2, 3, 1).reshape(-1, 2)
    nearest = ((bounded[:, None] - values[None]) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(quantized.indices.flatten().numpy(), nearest)


# --- the codebook follows ---------------------------------------------------------------------------------------------


def test_the_codebook_follows_as_a_loop_has_it():
    quantizer = VectorQuantizer(codes=6, dim=2, half_life=20.0, revive_after=10**6).double()
    quantizer.unused.zero_()
    book, share = quantizer.codebook.numpy().copy(), quantizer.share.numpy().copy()
    for step in range(4):
        z = map_of(quantizer, n=5, seed=step).detach()
        indices = quantizer(z).indices
        quantizer.learn(z, indices, TrainingContext())
        rows = z.numpy().transpose(0, 2, 3, 1).reshape(-1, 2)
        keep = 2 ** (-5 / 20)
        for k in range(6):
            mine = rows[indices.flatten().numpy() == k]
            uses, total = len(mine) / len(rows), mine.sum(0) / len(rows)
            new = keep * share[k] + (1 - keep) * uses
            if len(mine):
                book[k] = (keep * share[k] * book[k] + (1 - keep) * total) / new
            share[k] = new
        np.testing.assert_allclose(quantizer.codebook.numpy(), book, rtol=1e-12)
        np.testing.assert_allclose(quantizer.share.numpy(), share, rtol=1e-12)


def test_the_codebook_settles_on_the_means_of_its_places():
    quantizer = VectorQuantizer(codes=2, dim=1, half_life=8.0, revive_after=10**6).double()
    quantizer.codebook.copy_(torch.tensor([[-1.0], [1.0]]))
    z = torch.tensor([-3.0, -2.0, 0.5, 4.0, 6.0, 1.5]).double()[:, None, None, None]
    for _ in range(300):
        quantizer.learn(z, quantizer(z).indices, TrainingContext())
    torch.testing.assert_close(quantizer.codebook.flatten(), torch.tensor([-2.5, 3.0]).double())
    torch.testing.assert_close(quantizer.share, torch.tensor([2 / 6, 4 / 6]).double())


def test_the_first_batch_places_the_codebook():
    quantizer = VectorQuantizer(codes=8, dim=2)
    quantizer.codebook.fill_(1e3)  # far from everything: one code takes all places, the others none
    quantizer.codebook[0] = 0.0
    z = map_of(quantizer, n=10).detach().float()
    quantizer.learn(z, quantizer(z).indices, TrainingContext())
    rows = {tuple(row) for row in z.movedim(1, -1).reshape(-1, 2).tolist()}
    revived = [tuple(row) for row in quantizer.codebook[1:].tolist()]
    assert set(revived) <= rows
    assert len(set(revived)) == 7


def test_a_code_is_revived_when_it_was_unused_for_so_many_images():
    quantizer = VectorQuantizer(codes=3, dim=1, revive_after=12)
    quantizer.unused.zero_()
    quantizer.codebook.copy_(torch.tensor([[0.0], [1.0], [50.0]]))
    near = torch.tensor([0.1, 0.9, 0.2, 1.2])[:, None, None, None]
    for unused in (4, 8):
        quantizer.learn(near, quantizer(near).indices, TrainingContext())
        assert quantizer.unused.tolist() == [0, 0, unused]
        assert quantizer.codebook[2] == 50
    before = quantizer.codebook.clone()
    quantizer.learn(near, quantizer(near).indices, TrainingContext(seed=3))
    assert float(quantizer.codebook[2]) in near.flatten().tolist()
    assert quantizer.unused.tolist() == [0, 0, 0]
    assert quantizer.share[2] == pytest.approx(1 / 3)
    assert (quantizer.codebook[:2] - before[:2]).abs().max() < 0.1
    # which place it is, is up to the seed
    found = set()
    for seed in range(20):
        quantizer.unused.copy_(torch.tensor([0, 0, 8]))
        quantizer.codebook[2] = 50
        quantizer.learn(near, quantizer(near).indices, TrainingContext(seed=seed))
        found.add(round(float(quantizer.codebook[2]), 4))
    assert found == {0.1, 0.9, 0.2, 1.2}


def test_more_dead_codes_than_places_wait_their_turn():
    quantizer = VectorQuantizer(codes=9, dim=2)
    z = map_of(quantizer, n=1).detach().float()  # four places
    quantizer.codebook.fill_(100.0)
    quantizer.codebook[0] = 0.0
    quantizer.learn(z, quantizer(z).indices, TrainingContext())
    assert int((quantizer.codebook == 100).all(1).sum()) == 4
    assert int((quantizer.unused >= quantizer.revive_after).sum()) == 4


class Threads(Ranks):
    """Ranks that are threads of this process, each of which waits for the others at every exchange."""

    given: dict
    barrier: threading.Barrier

    def sum(self, value):
        self.given[self.rank] = value
        self.barrier.wait()
        total = sum(self.given[rank] for rank in range(self.count))
        self.barrier.wait()
        return total


def test_three_ranks_learn_what_one_process_does():
    z = torch.randn(6, 2, 2, 2, generator=fresh(), dtype=torch.float64)
    torch.manual_seed(1)
    one = VectorQuantizer(codes=8, dim=2, half_life=10.0).double()
    copies = [VectorQuantizer(codes=8, dim=2, half_life=10.0).double() for _ in range(3)]
    for quantizer in copies:
        quantizer.load_state_dict(one.state_dict())
    one.learn(z, one(z).indices, TrainingContext(seed=5))
    Threads.given, Threads.barrier = {}, threading.Barrier(3)

    def work(rank):
        own = z[2 * rank : 2 * rank + 2]
        context = TrainingContext(seed=5, ranks=Threads(rank, 3))
        copies[rank].learn(own, copies[rank](own).indices, context)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for quantizer in copies:
        for name, value in one.state_dict().items():
            torch.testing.assert_close(quantizer.state_dict()[name], value, rtol=0, atol=1e-12)


def test_fsq_has_nothing_to_learn():
    quantizer = FSQ([3, 3])
    assert not list(quantizer.parameters())
    assert not quantizer.state_dict()
    z = map_of(quantizer).detach().float()
    before = quantizer(z).indices
    quantizer.learn(z, before, TrainingContext())
    assert torch.equal(quantizer(z).indices, before)


# --- perplexity -------------------------------------------------------------------------------------------------------


def test_perplexity_of_even_use_is_the_number_of_codes():
    assert float(perplexity(torch.full((12,), 3.0))) == pytest.approx(12)
    assert float(perplexity(torch.tensor([5.0, 0.0, 0.0]))) == pytest.approx(1)
    # p = (1/2, 1/4, 1/4): entropy 3/2 ln 2
    assert float(perplexity(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(2**1.5)


# --- bad numbers ------------------------------------------------------------------------------------------------------


def test_numbers_that_cannot_be_are_refused():
    nan, infinite = float("nan"), float("inf")
    for make, message in (
        (partial(VectorQuantizer, codes=0), "VectorQuantizer.codes must be at least 2, got 0"),
        (partial(VectorQuantizer, dim=0), "dim must be a positive integer, got 0"),
        (partial(VectorQuantizer, commitment=-0.1), "commitment must be at least 0, got -0.1"),
        (partial(VectorQuantizer, commitment=nan), "commitment must be at least 0, got nan"),
        (partial(VectorQuantizer, commitment=infinite), "commitment must be at least 0 and finite, got inf"),
        (partial(VectorQuantizer, half_life=0.0), "half_life must be above 0, got 0.0"),
        (partial(VectorQuantizer, revive_after=0), "revive_after must be a positive integer, got 0"),
        (partial(FSQ, []), "at least one coordinate"),
        (partial(FSQ, [5, 1]), r"FSQ.levels must be at least 2 .* got \[5, 1\]"),
        (partial(FSQ, [5], commitment=-1.0), "FSQ.commitment must be at least 0, got -1.0"),
        (partial(GridEncoder, DIGITS, 4, halvings=4), "sides of 8x8 cannot be halved 4 times: give fewer halvings"),
        (partial(GridDecoder, DIGITS, 4, 4, halvings=-1), "GridDecoder.halvings must be at least 0, got -1"),
    ):
        with pytest.raises(InputError, match=message):
            make()


# --- networks ---------------------------------------------------------------------------------------------------------


def test_any_sides_that_halve_become_a_grid_and_come_back():
    for height, width, halvings in ((8, 8, 0), (8, 8, 3), (28, 28, 2), (12, 20, 2), (6, 2, 1)):
        for channels in (1, 3):
            spec = ImageSpec(channels, height, width)
            encoder = GridEncoder(spec, 5, halvings=halvings, width=8, depth=1)
            decoder = GridDecoder(spec, 5, 7, halvings=halvings, width=8, depth=1)
            grid = encoder(torch.randn(2, *spec.shape))
            assert grid.shape == (2, 5, height >> halvings, width >> halvings)
            assert decoder(grid).shape == (2, 7, height, width)


def test_each_place_of_the_grid_sees_the_image_around_it():
    """The grid lies over the image as the pixels do: the gradient of a corner of it is largest at that corner."""
    torch.manual_seed(0)
    spec = ImageSpec(1, 32, 32)
    encoder = GridEncoder(spec, 4, halvings=2, width=16, depth=0)
    image = torch.randn(1, 1, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(image)[0, :, 0, 7].sum(), image)
    touched = torch.nonzero(gradient[0, 0])
    assert touched[:, 0].max() < 12
    assert touched[:, 1].min() > 20
