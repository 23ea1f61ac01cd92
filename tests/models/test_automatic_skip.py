"""Under automatic optimization too, a step that meets something not finite leaves everything as it was."""

import copy
import math

import pytest
import torch
from lightning.pytorch import Callback

from lightning_gen.callbacks import EMA
from lightning_gen.core import InputError
from lightning_gen.data import Digits, ImageDataModule
from lightning_gen.models import Classifier
from lightning_gen.networks import SmallClassifier
from lightning_gen.steps.guard import TrainingDiverged


class Faulty(Classifier):
    """Its loss is not a number on the steps listed in ``bad``."""

    bad: tuple[int, ...] = ()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * math.nan if batch_idx in self.bad else loss


class States(Callback):
    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        optimizer = trainer.optimizers[0].state_dict()["state"]
        average = next(c for c in trainer.callbacks if isinstance(c, EMA)).averages["network"].state_dict()
        figures = pl_module.means.take()
        self.states.append(copy.deepcopy((dict(pl_module.state_dict()), optimizer, dict(average), figures)))


def train(quiet_trainer, bad, steps):
    torch.manual_seed(0)
    data = ImageDataModule(Digits(), batch_size=16)
    model = Faulty(data.spec, SmallClassifier, lambda parameters: torch.optim.Adam(parameters, 1e-3))
    model.bad = bad
    states = States()
    quiet_trainer(max_steps=steps, callbacks=[EMA(half_life=100), states]).fit(model, data)
    return model, states.states


def flat(value):
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in flat(item)]
    return [value]


def test_a_skipped_step_changes_nothing(quiet_trainer, capsys):
    model, states = train(quiet_trainer, bad=(2,), steps=4)
    for kind in range(3):  # weights and batch statistics, optimizer, average
        before, after, later = (flat(states[step][kind]) for step in (1, 2, 3))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(after, later, strict=True))
    assert states[2][3] == {}
    assert math.isfinite(states[3][3]["loss"])
    assert model.images_seen == 64
    assert model.guard.skipped_steps == 1
    assert "the gradient of the loss is not finite at 48 images seen" in capsys.readouterr().out


def test_ten_in_a_row_end_the_run(quiet_trainer):
    with pytest.raises(TrainingDiverged, match="10 steps in a row"):
        train(quiet_trainer, bad=tuple(range(1, 30)), steps=30)


class Uncounted(Classifier):
    def count_images(self, batch, taken=True):
        pass


def test_a_family_that_does_not_count_its_images_is_told_so(quiet_trainer):
    data = ImageDataModule(Digits(), batch_size=16)
    model = Uncounted(data.spec, SmallClassifier, lambda parameters: torch.optim.Adam(parameters, 1e-3))
    with pytest.raises(InputError, match=r"Uncounted\.training_step did not count its images: let it end with self\."):
        quiet_trainer(max_steps=5).fit(model, data)


def test_a_hook_that_is_given_to_one_model_is_called(quiet_trainer):
    data = ImageDataModule(Digits(), batch_size=16)
    model, called = Faulty(data.spec, SmallClassifier, lambda parameters: torch.optim.Adam(parameters, 1e-3)), []
    model.on_train_batch_end = lambda *args: called.append(args)
    quiet_trainer(max_steps=2).fit(model, data)
    assert len(called) == 2
