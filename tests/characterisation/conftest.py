"""Models to characterise: those of the contract tests, trained for three steps and read back from a checkpoint."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from test_contract import BATCH, ROWS, STEPS

import lightning_gen
from lightning_gen.data import Batch
from lightning_gen.models import GenerativeModule

SHAKEN = 0.2


class Trained(NamedTuple):
    """A trained model, in float64 and in evaluation mode, and the first batch that it was trained on."""

    model: GenerativeModule
    batch: Batch


@pytest.fixture(scope="session")
def trained(quiet_trainer, make_batches, tmp_path_factory):
    """Return the trained model of a row, by its name. It is shared: tests leave it as it is.

    Weights are moved at random after the training: after three steps some layers are still next to the zeros that they
    began with, and classes or latents hardly matter.
    """
    folder, rows = tmp_path_factory.mktemp("trained"), {row.name: row for row in ROWS}

    @cache
    def train(name: str) -> Trained:
        row, path = rows[name], folder / f"{name}.ckpt"
        torch.manual_seed(0)
        batches, trainer = make_batches(row.spec, STEPS, BATCH), quiet_trainer(precision="64-true")
        trainer.fit(row.make(row.spec), batches)
        trainer.save_checkpoint(path)
        model, source = lightning_gen.load(path).double(), torch.Generator().manual_seed(1)
        for parameter in model.parameters() if row.gradients else ():
            parameter.data += SHAKEN * torch.randn(parameter.shape, generator=source)
        return Trained(model, batches[0])

    return train
