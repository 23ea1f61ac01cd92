"""The data module, by itself and under a trainer."""

import inspect

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import Draws, keyed_generator
from lightning_gen.core.ranks import Ranks
from lightning_gen.data import Batch, Digits, HorizontalFlip, ImageDataModule, RandomShift, Source, TrainStream


@pytest.fixture(scope="module")
def digits():
    return Digits()


class Recorder(pl.LightningModule):
    """Learns nothing and writes down what it is given."""

    def __init__(self, images_seen=0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        if images_seen is not None:
            self.register_buffer("images_seen", torch.tensor(images_seen))
        self.trained, self.evaluated = [], []

    def training_step(self, batch, _):
        self.trained.append(batch)
        if hasattr(self, "images_seen"):
            self.images_seen += len(batch.levels)
        return self.weight * 1.0

    def validation_step(self, batch, _):
        self.evaluated.append(batch)

    test_step = validation_step

    def predict_step(self, batch, _):
        self.evaluated.append(batch)
        return batch.index

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=2, **quiet, **options)


def order(batches):
    return torch.cat([batch.index for batch in batches])


def test_without_a_trainer_it_yields_plain_batches(digits):
    data = ImageDataModule(digits, batch_size=32, augment=[RandomShift()], eval_batch_size=90)
    assert data.spec == digits.spec
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, Batch)
    assert np.array_equal(batch.levels, digits.load("train").levels[batch.index])
    assert [len(data.train_dataloader().levels), len(data.val_dataloader()), len(data.test_dataloader())] == [
        1097,
        3,
        6,
    ]
    assert torch.equal(order(data.predict_dataloader()), torch.arange(200))
    assert data.on_after_batch_transfer(batch, 0) is batch
    assert data.images("test") is digits.load("test")


@pytest.mark.parametrize("start", [0, 640, 1000])
def test_training_starts_at_the_images_seen_and_augments_by_them(digits, start):
    module = Recorder(start)
    data = ImageDataModule(digits, batch_size=32, augment=[HorizontalFlip(), RandomShift()], seed=4)
    trainer(max_epochs=3, limit_train_batches=5, val_check_interval=2).fit(module, data)
    levels, labels = (torch.from_numpy(array) for array in digits.load("train"))
    stream = TrainStream(levels, labels, 32, seed=4, start=start)
    assert len(module.trained) == 15
    for step, (found, expected) in enumerate(zip(module.trained, stream, strict=False)):
        draws = Draws(keyed_generator(4, "augment", start + 32 * step), 32)
        assert torch.equal(found.index, expected.index)
        assert torch.equal(found.levels, RandomShift()(HorizontalFlip()(expected.levels, draws), draws))
        assert torch.equal(found.labels, expected.labels)
    for batch in module.evaluated:
        assert np.array_equal(batch.levels, digits.load("val").levels[batch.index])


def test_a_module_that_does_not_count_gets_each_image_of_the_stream_once(digits):
    module = Recorder(images_seen=None)
    trainer(max_epochs=3, limit_train_batches=5, limit_val_batches=0).fit(module, ImageDataModule(digits, 32, seed=0))
    expected = [batch.index for batch, _ in zip(TrainStream(torch.zeros(1097, 1), None, 32), range(15), strict=False)]
    assert torch.equal(order(module.trained), torch.cat(expected))


def test_evaluation_is_never_augmented_and_sees_each_image_once(digits):
    data = ImageDataModule(digits, augment=[HorizontalFlip(1.0)])
    for verb, part in {"validate": "val", "test": "test", "predict": "val"}.items():
        module = Recorder()
        getattr(trainer(), verb)(module, datamodule=data)
        levels = torch.cat([batch.levels for batch in module.evaluated])
        assert np.array_equal(levels, digits.load(part).levels)


def test_the_seed_is_the_runs_seed_unless_given(digits, monkeypatch):
    def first(**arguments):
        return next(iter(ImageDataModule(digits, **arguments).train_dataloader())).index

    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert torch.equal(first(), first(seed=0))
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert torch.equal(first(), first(seed=7))
    assert not torch.equal(first(), first(seed=0))


def test_a_batch_may_exceed_the_data(digits):
    batch = next(iter(ImageDataModule(digits, batch_size=2500).train_dataloader()))
    assert torch.bincount(batch.index).min() == 2


def test_the_training_images_can_live_on_the_device(digits, monkeypatch):
    data = ImageDataModule(digits, on_device=True)
    monkeypatch.setattr(data, "_device", lambda: torch.device("meta"))
    batch = next(iter(data.train_dataloader()))
    assert {field.device.type for field in batch} == {"meta"}
    assert data.transfer_batch_to_device(batch, torch.device("meta"), 0) is batch
    assert {field.device.type for field in next(iter(data.val_dataloader()))} == {"cpu"}
    moved = data.transfer_batch_to_device(next(iter(data.val_dataloader())), torch.device("meta"), 0)
    assert {field.device.type for field in moved} == {"meta"}


def test_bad_arguments_are_named(digits):
    for arguments, message in [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"eval_batch_size": -1}, "eval_batch_size must be at least 1, got -1"),
        ({"seed": -1}, "data.seed must be at least 0, got -1"),
        ({"augment": [RandomShift(fill=20)]}, r"RandomShift\.fill must be a level 0 \.\. 16, got 20"),
    ]:
        with pytest.raises(InputError, match=message):
            ImageDataModule(digits, **arguments)
    with pytest.raises(InputError, match="Digits has no part 'all': choose one of train, val, test"):
        ImageDataModule(digits).images("all")


def test_more_processes_than_images_to_evaluate_are_refused(digits, monkeypatch):
    data = ImageDataModule(digits)
    monkeypatch.setattr(data, "_ranks", lambda: Ranks(0, 201))
    with pytest.raises(InputError, match="the val part has 200 images for 201 processes: use fewer devices"):
        data.val_dataloader()


def test_every_argument_can_be_read_back(digits):
    given = {"source": digits, "batch_size": 3, "augment": (HorizontalFlip(0.1), RandomShift(2, 3))}
    given |= {"eval_batch_size": 4, "on_device": True, "seed": 5}
    data = ImageDataModule(**given)
    assert {name: getattr(data, name) for name in given} == given
    for thing in (data, *data.augment, digits):
        for name in inspect.signature(type(thing).__init__).parameters:
            assert name in ("self", "args", "kwargs") or hasattr(thing, name)


def test_a_config_builds_it():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ImageDataModule, "data")
    augment = [{"class_path": "HorizontalFlip"}, {"class_path": "RandomShift", "init_args": {"pixels": 2}}]
    config = parser.parse_object({"data": {"source": {"class_path": "Digits"}, "augment": augment, "batch_size": 8}})
    data = parser.instantiate(config).data
    assert isinstance(data.source, Source)
    assert [type(a).__name__ for a in data.augment] == ["HorizontalFlip", "RandomShift"]
    assert data.augment[1].pixels == 2
    assert data.batch_size == 8
