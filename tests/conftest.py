"""What all tests share: one thread, a fresh cache, the same randomness for each, and no network."""

import os
import random
import socket
import tempfile

# Before anything imports torch: idle OpenMP threads that spin make small tests many times slower.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

_cache = tempfile.TemporaryDirectory(prefix="lightning_gen_cache_")
os.environ["LIGHTNING_GEN_CACHE"] = _cache.name  # children inherit it, too
os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    """Start every test from the same global random state, whatever ran before it."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # left behind by seed_everything
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global one is what careless code would draw from
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Let connections leave this machine for no test; local ones (other ranks, test servers) are fine."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests use no network, but one wants to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


@pytest.fixture
def generator():
    """A seeded source of randomness."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def quiet_trainer():
    """Make a plain Lightning Trainer on one CPU process that prints and writes nothing."""
    from lightning.pytorch import Trainer

    def make(**options):
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "max_epochs": 1,
        }
        return Trainer(accelerator="cpu", devices=1, **{**quiet, **options})

    return make


class Batches:
    """A finite loader; Lightning would take a bare list for several loaders."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

    def __getitem__(self, number):
        return self.batches[number]


@pytest.fixture(scope="session")
def make_batches():
    """Make a loader of a few batches of random levels (and labels, where the spec has classes)."""
    from lightning_gen.data import Batch

    def make(spec, count, size=8, seed=0):
        source = torch.Generator().manual_seed(seed)
        batches = []
        for number in range(count):
            levels = torch.randint(spec.levels, (size, *spec.shape), generator=source).to(torch.uint8)
            labels = torch.randint(spec.num_classes, (size,), generator=source) if spec.num_classes else None
            batches.append(Batch(levels, labels, torch.arange(size) + number * size))
        return Batches(batches)

    return make
