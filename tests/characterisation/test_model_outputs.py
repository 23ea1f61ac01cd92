"""What each model of the contract tests says and draws after its three training steps, through its public methods."""

import pytest
import torch
from stored import against_stored, levels_of, names_in
from test_contract import ROWS
from torch import Tensor

from lightning_gen.core import (
    Classifies,
    Completes,
    Decodes,
    Encodes,
    HasLikelihood,
    InputError,
    PredictsPixels,
)
from lightning_gen.data import Batch
from lightning_gen.models import GenerativeModule
from lightning_gen.models.classical.base import ClassicalModel

SAYS, DRAWS = "model_outputs.json", "model_draws.json"
IMAGES = 4
each_row = pytest.mark.parametrize("name", [row.name for row in ROWS])


# --- the calls, each in one place -------------------------------------------------------------------------------------


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def sample(model: GenerativeModule, labels: Tensor | None) -> Tensor:
    return model.sample(IMAGES, labels, generator=seeded())


def complete(model: Completes, levels: Tensor, known: Tensor, labels: Tensor | None) -> Tensor:
    return model.complete(levels, known, labels, generator=seeded())


def likelihood(model: HasLikelihood, levels: Tensor, labels: Tensor | None) -> dict[str, object]:
    found = model.likelihood(levels, labels, generator=seeded())
    return {"nats": found.nats, "kind": found.kind, "num_samples": found.num_samples}


def latents(model: GenerativeModule, levels: Tensor, labels: Tensor | None) -> Tensor:
    """Return latents of images, or those that a model without an encoder draws."""
    if isinstance(model, Encodes):
        return model.encode(levels, labels)
    return model.draw_latents(IMAGES, labels, generator=seeded())


def decode(model: GenerativeModule, latent: Tensor, labels: Tensor | None) -> Tensor:
    return model.decode(latent, labels)


def pixel_log_probs(model: PredictsPixels, levels: Tensor, labels: Tensor | None) -> Tensor:
    return model.pixel_log_probs(levels, labels)


def classify(model: Classifies, levels: Tensor) -> Tensor:
    return model.classify(levels)


def diagnostics(model: GenerativeModule, batch: Batch) -> dict[str, Tensor]:
    return model.diagnostics(batch)


def fitted(model: ClassicalModel) -> dict[str, object]:
    """Return how the fit went, of which there are no golden losses."""
    return {"objective": model.em.objective, "passes": model.em.passes}


# --- what they find ---------------------------------------------------------------------------------------------------


def likelihood_without_labels(model: HasLikelihood, levels: Tensor) -> dict[str, object] | str:
    try:
        return likelihood(model, levels, None)
    except InputError:
        return "refused"


def predictions(log_probs: Tensor, levels: Tensor) -> dict[str, Tensor]:
    """Return what is stored of predictions (B, C, H, W, L): of each image its nats, and the pixels' mean entropy."""
    terms = log_probs.gather(-1, levels.long()[..., None]).flatten(1)
    return {"nats": terms.sum(1), "entropy": torch.special.entr(log_probs.exp()).sum(-1).flatten(1).mean(1)}


@each_row
def test_a_trained_model_says_what_is_stored(name, trained):
    model, batch = trained(name)
    labels, rows = (batch.labels if model.conditional else None), slice(IMAGES)
    levels, own = batch.levels[rows], None if labels is None else labels[rows]
    found = {"diagnostics": diagnostics(model, batch)}
    if isinstance(model, HasLikelihood):
        found["likelihood"] = likelihood(model, batch.levels, labels)
        if model.conditional:
            found["likelihood without labels"] = likelihood_without_labels(model, batch.levels)
    if isinstance(model, Decodes):
        latent = latents(model, levels, own)
        found |= {"latents": latent, "decoded": levels_of(decode(model, latent, own))}
    if isinstance(model, PredictsPixels):
        found["pixel predictions"] = predictions(pixel_log_probs(model, levels, own), levels)
    if isinstance(model, Classifies):
        found["classes"] = classify(model, levels)
    if isinstance(model, ClassicalModel):
        found["fit"] = fitted(model)
    against_stored(SAYS, name, found)


@each_row
def test_a_trained_model_draws_what_is_stored(name, trained):
    model, batch = trained(name)
    classes = torch.arange(IMAGES) % model.spec.num_classes if model.conditional else None
    found = {"samples": levels_of(sample(model, classes))}
    if isinstance(model, Completes):
        levels, known = batch.levels[:IMAGES], torch.ones(batch.levels[:IMAGES].shape, dtype=torch.bool)
        known[..., known.shape[3] // 2 :] = False  # the right half, and of the left one two rows
        known[..., :2, :] = False
        completed = complete(model, levels, known, classes)
        assert torch.equal(completed[known], levels[known])
        missing = [image[~mask].double().mean() for image, mask in zip(completed, known, strict=True)]
        found["completions"] = {"mean levels": torch.stack(missing)}
    against_stored(DRAWS, name, found)


@pytest.mark.parametrize("file", [SAYS, DRAWS])
def test_nothing_is_stored_of_models_that_are_gone(file):
    assert names_in(file) == {row.name for row in ROWS}
