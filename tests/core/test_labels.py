"""What labels that are given, and labels that are not, mean."""

from types import SimpleNamespace

import pytest
import torch

from lightning_gen.core import ImageSpec, InputError, drawn_labels, heeded_labels, required_labels

SPEC = ImageSpec(1, 2, 2, levels=3, num_classes=3)
SHARES = torch.tensor([0.2, 0.0, 0.8])


def model(conditional: bool = True, null_class: bool = False) -> SimpleNamespace:
    traits = {"conditional": conditional, "null_class": null_class, "class_shares": SHARES}
    return SimpleNamespace(spec=SPEC, device=torch.device("cpu"), **traits)


def draw(model: SimpleNamespace, labels: torch.Tensor | None, n: int, seed: int = 0) -> torch.Tensor | None:
    return drawn_labels(model, labels, n, torch.Generator().manual_seed(seed))


def test_drawn_classes_have_the_shares_of_the_training_images():
    labels = draw(model(), None, 10_000)
    found = torch.bincount(labels, minlength=3) / len(labels)
    torch.testing.assert_close(found, SHARES, rtol=0, atol=0.02)
    assert found[1] == 0
    assert torch.equal(draw(model(), None, 10_000), labels)
    assert not torch.equal(draw(model(), None, 10_000, seed=1), labels)


def test_a_null_class_is_asked_for_by_its_number_and_never_meant_by_accident():
    dropped = model(null_class=True)
    null = torch.tensor([3, 0])
    assert torch.equal(heeded_labels(dropped, null, 2), null)
    assert torch.equal(draw(dropped, null, 2), null)
    assert int(draw(dropped, None, 1000).max()) == 2  # no label draws one of the real classes
    assert heeded_labels(dropped, None, 2) is None
    with pytest.raises(InputError, match=r"there is no class 3: classes are 0 \.\. 2"):
        heeded_labels(model(), null, 2)


def test_a_model_without_classes_ignores_labels_and_draws_none():
    for function in (heeded_labels, required_labels, draw):
        assert function(model(conditional=False), torch.tensor([7]), 1) is None
        assert function(model(conditional=False), None, 1) is None


def test_a_model_that_cannot_do_without_labels_asks_for_them():
    with pytest.raises(InputError, match="SimpleNamespace: this model is class-conditional: give labels"):
        required_labels(model(), None, 2)
    assert required_labels(model(), torch.tensor([1, 2], dtype=torch.uint8), 2).dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"expected 2 whole numbers, got torch.int64 of shape \(3,\)"),
        ([0.0, 1.0], r"expected 2 whole numbers, got torch.float32 of shape \(2,\)"),
        ([0, 3], "there is no class 3: classes are 0 .. 2"),
        ([-1, 0], "there is no class -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(InputError, match=f"labels: {message}"):
        heeded_labels(model(), torch.tensor(labels), 2)
