"""What only saves microseconds changes nothing else, and one switch takes it away."""

import os
import subprocess
import sys

import pytest
import torch

from lightning_gen.steps import fast

RUN = """
import hashlib, pathlib, sys
from lightning_gen.cli import main

main(sys.argv[2:])
import torch
from lightning_gen.steps import fast

(path,) = pathlib.Path(sys.argv[1]).rglob("last.ckpt")
stored = torch.load(path, weights_only=True)
digest = hashlib.sha256()
for name, value in sorted(stored["state_dict"].items()):
    digest.update(name.encode() + value.numpy().tobytes())
print("weights", fast.ON, digest.hexdigest())
"""


@pytest.mark.parametrize("on", [True, False])
def test_public_ways_and_short_ones_agree(on, monkeypatch):
    monkeypatch.setattr(fast, "ON", on)
    generator = torch.Generator().manual_seed(0)
    first, second = ([torch.randn(shape, generator=generator) for shape in ((3, 4), (5,), ())] for _ in range(2))
    together = torch.cat([each.flatten() for each in first])
    torch.testing.assert_close(fast.norm_of(first), together.norm())
    assert fast.norm_of([]) == 0
    for found, each in zip(fast.scaled(first, torch.tensor(0.5)), first, strict=True):
        torch.testing.assert_close(found, each / 2)
    moved = [each.clone() for each in first]
    fast.move_all(moved, second, 0.25)
    for found, a, b in zip(moved, first, second, strict=True):
        torch.testing.assert_close(found, 0.75 * a + 0.25 * b)
    fast.copy_all(moved, second)
    assert all(torch.equal(a, b) for a, b in zip(moved, second, strict=True))
    for nothing in (fast.copy_all, lambda a, b: fast.move_all(a, b, 0.5)):
        nothing([], [])
    assert bool(fast.fast_callbacks()) == on
    assert (fast.no_profiler() is not None) == on


def test_training_is_the_same_with_the_switch_off(tmp_path):
    weights = set()
    for switch in ("1", "0"):
        root = tmp_path / switch
        options = ["--budget.images", "640", "--evaluation.every", "320", "--evaluation.n", "50", "--run.root", root]
        arguments = [root, "fit", "--config", "configs/gan/relativistic-digits.yaml", *options]
        done = subprocess.run(
            [sys.executable, "-c", RUN, *map(str, arguments)],
            env={**os.environ, "LIGHTNING_GEN_FAST": switch},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        _, on, digest = done.stdout.splitlines()[-1].split()
        assert on == str(switch == "1")
        weights.add(digest)
    assert len(weights) == 1
