"""The training stream and the evaluation loader."""

import re
from itertools import islice

import numpy as np
import pytest
import torch
from refusals import refusal

from lightning_gen.core.errors import InputError
from lightning_gen.data import EvalLoader, TrainStream


def numbered(total):
    """Images that show their own number, and labels that are a function of it."""
    numbers = torch.arange(total)
    levels = torch.stack([numbers // 256, numbers % 256], dim=1).to(torch.uint8).view(total, 1, 1, 2)
    return levels, numbers % 10


def elements(total, seed, count):
    """The stream's first elements, as its docstring defines them."""
    passes = range(-(-count // total))
    return np.concatenate([np.random.default_rng((seed, e)).permutation(total) for e in passes])[:count]


def indices(stream, batches):
    return torch.cat([batch.index for batch in islice(stream, batches)]).numpy()


def test_the_stream_is_the_permutations_one_after_the_other():
    for batch_size in [1, 7, 10, 23, 64]:
        levels, labels = numbered(23)
        stream = TrainStream(levels, labels, batch_size, seed=5)
        batches = -(-100 // batch_size)
        assert np.array_equal(indices(stream, batches), elements(23, 5, batches * batch_size)), batch_size
        assert not hasattr(stream, "__len__")


def test_batches_hold_the_images_and_labels_of_their_indices():
    levels, labels = numbered(300)
    for batch in islice(TrainStream(levels, labels, 64), 10):
        assert torch.equal(batch.levels, levels[batch.index])
        assert torch.equal(batch.labels, labels[batch.index])
        assert batch.levels.dtype == torch.uint8
        assert batch.labels.dtype == batch.index.dtype == torch.int64
        batch.levels.zero_()
        batch.index.zero_()
    assert torch.equal(levels, numbered(300)[0])
    assert next(iter(TrainStream(levels, None, 64))).labels is None


def test_starting_late_equals_skipping():
    for start in [0, 16, 5, 23, 46, 1001]:
        levels, labels = numbered(23)
        late = indices(TrainStream(levels, labels, 16, seed=3, start=start), 6)
        assert np.array_equal(late, elements(23, 3, start + 96)[start:]), start


def test_each_pass_and_each_seed_has_another_order():
    levels, labels = numbered(50)
    first, second = np.split(indices(TrainStream(levels, labels, 50), 2), 2)
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, indices(TrainStream(levels, labels, 50, seed=1), 1))


def test_the_ranks_together_take_what_one_takes_alone():
    for world_size, batch_size in [(2, 8), (4, 4), (2, 40)]:
        levels, labels = numbered(23)
        alone = TrainStream(levels, labels, world_size * batch_size, start=11)
        ranks = [TrainStream(levels, labels, batch_size, 0, rank, world_size, start=11) for rank in range(world_size)]
        for whole, *shares in islice(zip(alone, *ranks, strict=True), 10):
            for field, pieces in zip(whole, zip(*shares, strict=True), strict=True):
                assert torch.equal(field, torch.cat(pieces)), world_size


def test_every_iteration_asks_anew_where_to_start():
    levels, labels = numbered(23)
    seen = 0
    stream = TrainStream(levels, labels, 4, start=lambda: seen)
    first = indices(stream, 2)
    seen = 4
    assert np.array_equal(indices(stream, 1), first[4:])


def test_evaluation_takes_every_image_once():
    for world_size in [1, 2, 3]:
        for total, batch_size in [(23, 5), (24, 4), (3, 100)]:
            levels, labels = numbered(total)
            loaders = [EvalLoader(levels, labels, batch_size, rank, world_size) for rank in range(world_size)]
            batches = [list(loader) for loader in loaders]
            assert [len(loader) for loader in loaders] == [len(share) for share in batches]
            for rank, share in enumerate(batches):
                for batch in share:
                    assert len(batch.index) <= batch_size
                    assert torch.equal(batch.levels, levels[batch.index])
                    assert torch.equal(batch.labels, labels[batch.index])
                assert torch.cat([batch.index for batch in share]).tolist() == list(range(rank, total, world_size))


def test_a_rank_without_images_gets_no_batch():
    loader = EvalLoader(*numbered(2), batch_size=5, rank=2, world_size=3)
    assert len(loader) == 0
    assert list(loader) == []


def test_numbers_out_of_range_are_named():
    for arguments, message in [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, r"rank must be at least 0 and below world_size \(2\), got 2"),
        ({"batch_size": 1, "rank": -1}, r"rank must be at least 0 and below world_size \(1\), got -1"),
    ]:
        for kind in (TrainStream, EvalLoader):
            assert re.search(message, refusal(kind, *numbered(3), **arguments)), arguments


def test_no_images_negative_seeds_and_positions_are_refused():
    for kind in (TrainStream, EvalLoader):
        with pytest.raises(InputError, match="no images"):
            kind(*numbered(0), batch_size=1)
    with pytest.raises(InputError, match="seed must be at least 0, got -1"):
        TrainStream(*numbered(3), batch_size=1, seed=-1)
    with pytest.raises(InputError, match="position must be at least 0, got -4"):
        next(iter(TrainStream(*numbered(3), batch_size=1, start=-4)))
