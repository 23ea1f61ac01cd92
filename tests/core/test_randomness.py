"""One scheme for everything that draws."""

import ast
from pathlib import Path

import pytest
import torch
from scipy import stats

import lightning_gen
from lightning_gen.core import (
    Draws,
    Ranks,
    TrainingContext,
    categorical,
    categorical_of_logits,
    keyed_generator,
    keyed_seed,
    normal,
    uniform,
)

DRAWING = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal", "rand_like", "randn_like"}
# Draws on the CPU, or where the generator is; the rest goes through normal() and uniform().
ALLOWED = {"randint", "randperm"}
INITIAL = {f"networks/{name}.py" for name in ("quantize", "r3gan", "stylegan2")} | {
    "distributions/latents.py"
}  # weights


def test_keys_are_what_they_have_always_been():
    """Runs of earlier versions are repeated by them."""
    assert keyed_seed(0, "generator", 1280) == 9151866039052278062
    assert keyed_seed("0", "generator", "1280") == keyed_seed(0, "generator", 1280)
    assert keyed_generator(3, "x").initial_seed() == keyed_seed(3, "x")


def test_everything_draws_by_the_scheme():
    """Nothing but initial weights comes from torch's global generator, and nothing draws where its generator is not."""
    found = []
    root = Path(lightning_gen.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, name = ast.unparse(node.func.value), node.func.attr
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if owner != "torch" or name not in DRAWING or path.name == "randomness.py":
                continue
            if "generator" in given and (name not in ALLOWED or given.get("device") not in (None, "generator.device")):
                found.append(f"{path.relative_to(root)}:{node.lineno}")
            if "generator" not in given and str(path.relative_to(root)) not in INITIAL:
                found.append(f"{path.relative_to(root)}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("count", [1, 2, 4])
def test_ranks_together_draw_what_one_does(count):
    whole = TrainingContext(5, 640).normal("noise", 8, 3)
    along = TrainingContext(5, 640).normal("noise", 2, 8, 3, dim=1)
    batch = TrainingContext(5, 640).draws("augment", 8)
    numbers = batch.uniform(2), batch.normal()
    size = 8 // count
    for rank in range(count):
        context = TrainingContext(5, 640, ranks=Ranks(rank, count))
        rows = context.ranks.rows(size)
        assert torch.equal(context.normal("noise", size, 3), whole[rows])
        assert torch.equal(context.normal("noise", 2, size, 3, dim=1), along[:, rows])
        draws = context.draws("augment", size)
        assert torch.equal(draws.uniform(2), numbers[0][rows])
        assert torch.equal(draws.normal(), numbers[1][rows])


def test_purposes_and_positions_have_their_own_numbers():
    contexts = [TrainingContext(seed, seen) for seed in (0, 1) for seen in (0, 64)]
    drawn = {tuple(each.normal(purpose, 4).tolist()) for each in contexts for purpose in ("a", "b")}
    assert len(drawn) == 8


def test_numbers_are_what_they_say():
    generator = keyed_generator("shape")
    assert stats.kstest(normal(5000, generator=generator).numpy(), "norm").pvalue > 0.01
    numbers = uniform(5000, generator=generator)
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 0.01
    assert normal(2, generator=generator, dtype=torch.float64).dtype == torch.float64
    assert Draws(generator, 3).normal(2, 2).shape == (3, 2, 2)


def test_categories_are_drawn_by_their_weights():
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0])
    generator = keyed_generator("weights")
    drawn = categorical(weights.expand(4000, -1), uniform(4000, generator=generator))
    assert stats.chisquare(torch.bincount(drawn, minlength=5)[[1, 3]].numpy(), [3000, 1000]).pvalue > 0.01
    assert set(drawn.tolist()) == {1, 3}
    by_logits = categorical_of_logits(weights.log().expand(4000, -1) - 1000, generator)
    assert stats.chisquare(torch.bincount(by_logits, minlength=5)[[1, 3]].numpy(), [3000, 1000]).pvalue > 0.01


def test_the_ends_of_the_interval_fall_on_what_has_weight():
    weights = torch.tensor([0.0, 0.1, 0.2, 0.7, 0.0])
    highest = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    assert categorical(weights.expand(2, -1), torch.stack([torch.tensor(0.0), highest])).tolist() == [1, 3]
    many = torch.full((7, 1000), 1e-3)  # whose running sum is not exactly 1
    assert int(categorical(many, highest.expand(7)).max()) == 999
