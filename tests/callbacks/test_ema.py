"""The moving average: its half-life, what it averages, and that evaluation borrows it and gives it back."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim import SGD

import lightning_gen
from lightning_gen.callbacks import EMA
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.models import GAN, GenerativeModule
from lightning_gen.networks import MLPDiscriminator, MLPGenerator

SPEC = ImageSpec(1, 4, 4)
BATCH = 8


class Toy(GenerativeModule):
    """A regression with every kind of buffer; writes down the weights it is evaluated with."""

    def __init__(self, spec: ImageSpec, fail_at: int = -1):
        super().__init__(spec)
        self.fail_at = fail_at
        self.net = nn.Sequential(nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.register_buffer("scale", torch.tensor([1.0, 2.0]))
        self.evaluated = []

    def configure_optimizers(self):
        return SGD(self.net.parameters(), lr=0.05, momentum=0.9)

    def training_step(self, batch, batch_idx):
        loss = self.net(self.spec.to_unit(batch.levels, self.dtype).flatten(1)).square().mean() + self.net[0].bias.sum()
        self.count_images(batch)
        return loss

    def look(self):
        if len(self.evaluated) == self.fail_at:
            raise ZeroDivisionError("in the middle of an evaluation")
        self.evaluated.append(copy_of(self.net))

    def validation_step(self, batch, batch_idx):
        self.look()

    def test_step(self, batch, batch_idx):
        self.look()

    def predict_step(self, batch, batch_idx):
        self.look()

    def sample(self, n, labels=None, *, generator=None):
        return torch.zeros(n, *self.spec.shape, dtype=torch.uint8)


def copy_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Watch(Callback):
    """Keep the live and the averaged weights after each training step (listed after the EMA)."""

    def __init__(self, ema):
        self.ema, self.live, self.average = ema, [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.live.append(copy_of(pl_module.net))
        self.average.append(copy_of(self.ema.averages["model"].net))


def started(ema: EMA, model: GenerativeModule) -> EMA:
    """Bring an EMA to the first step, as a Trainer does."""
    ema.setup(None, model, "fit")
    ema.on_fit_start(None, model)
    return ema


def fill(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(value)


# The average itself


def test_after_a_half_life_a_new_weight_counts_half_whatever_the_batch_size():
    for steps in ([1000], [500, 500], [1] * 1000, [64] * 15 + [40], [999, 1]):
        model = Toy(SPEC).double()
        fill(model.net, 3.0)
        ema = started(EMA(half_life=1000, ramp_up=None), model)
        fill(model.net, 5.0)
        for expected in (4.0, 4.5, 4.75):
            for images in steps:
                model.images_seen += images
                ema.on_train_batch_end(None, model)
            for average in ema.averages["model"].net.parameters():
                torch.testing.assert_close(average, torch.full_like(average, expected), rtol=1e-12, atol=0)


def test_ramp_up_bounds_the_half_life_by_a_share_of_the_images_seen():
    model = Toy(SPEC).double()
    fill(model.net, 0.0)
    ema = started(EMA(half_life=100, ramp_up=0.1), model)
    expected = 0.0
    for step in range(1, 200):
        fill(model.net, float(step))
        model.images_seen += 8
        ema.on_train_batch_end(None, model)
        beta = 2 ** (-8 / min(100, 0.1 * 8 * step))
        expected = beta * expected + (1 - beta) * step
        assert float(ema.averages["model"].net[0].bias[0]) == pytest.approx(expected, rel=1e-12)


def test_the_first_step_is_nearly_all_that_counts_at_first():
    model = Toy(SPEC).double()
    fill(model.net, 0.0)
    ema = started(EMA(half_life=10_000, ramp_up=0.05), model)
    fill(model.net, 1.0)
    model.images_seen += 64
    ema.on_train_batch_end(None, model)
    assert float(ema.averages["model"].net[0].bias[0]) == pytest.approx(1 - 2**-20)


def test_batch_statistics_are_averaged_and_other_buffers_copied():
    model = Toy(SPEC).double()
    fill(model, 0.0)
    ema = started(EMA(half_life=8, ramp_up=None), model)
    fill(model, 2.0)
    model.images_seen += 8
    ema.on_train_batch_end(None, model)
    average = ema.averages["model"]
    assert average.net[1].running_mean.tolist() == [1.0] * 3
    assert average.net[1].running_var.tolist() == [1.0] * 3
    assert average.net[1].weight.tolist() == [1.0] * 3
    assert average.net[1].num_batches_tracked.dtype == torch.int64
    assert int(average.net[1].num_batches_tracked) == 2
    assert average.scale.tolist() == [2.0, 2.0]


def test_the_average_takes_no_part_in_training():
    model = Toy(SPEC)
    average = started(EMA(), model).averages["model"]
    assert not any(p.requires_grad for p in average.parameters())
    assert not any(part.training for part in average.modules())
    theirs = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert not theirs & {t.data_ptr() for t in (*average.parameters(), *average.buffers())}


def test_only_what_the_model_names_is_averaged():
    model = gan()
    assert started(EMA(), model).averages.keys() == {"generator"}


def test_a_skipped_step_leaves_the_average_alone_and_its_images_out(make_batches):
    model = Toy(SPEC).double()
    model.automatic_optimization = False  # count_images then says at once whether the step was taken
    fill(model.net, 0.0)
    ema = started(EMA(half_life=8, ramp_up=None), model)
    fill(model.net, 1.0)
    first, second = make_batches(SPEC, 2, BATCH)
    model.count_images(first, taken=False)
    ema.on_train_batch_end(None, model)
    assert not any(p.any() for p in ema.averages["model"].net.parameters())
    model.count_images(second)
    ema.on_train_batch_end(None, model)
    assert ema.averages["model"].net[0].bias.tolist() == [0.5] * 3


def test_weights_that_come_after_setup_are_where_the_average_starts():
    model, ema = Toy(SPEC), EMA()
    ema.setup(None, model, "fit")
    fill(model.net, 7.0)  # as --init_from does
    ema.on_fit_start(None, model)
    assert ema.averages["model"].net[0].bias.tolist() == [7.0] * 3


# Evaluation


@pytest.fixture
def toy_run(quiet_trainer, make_batches):
    """Train a Toy for four steps with an evaluation after every second one."""

    def run(ema, callbacks=(), **model_options):
        torch.manual_seed(0)
        model, watch = Toy(SPEC, **model_options), Watch(ema)
        trainer = quiet_trainer(callbacks=[ema, watch, *callbacks], val_check_interval=2)
        batches = make_batches(SPEC, 4, BATCH)
        return model, watch, trainer, lambda: trainer.fit(model, batches, make_batches(SPEC, 1, BATCH, seed=1))

    return run


def test_validation_sees_the_average_and_training_the_live_weights(toy_run):
    ema = EMA(half_life=20)
    model, watch, _, fit = toy_run(ema)
    fit()
    assert len(model.evaluated) == 2
    for seen, step in zip(model.evaluated, (1, 3), strict=True):
        assert equal(seen, watch.average[step])
        assert not equal(seen, watch.live[step])
    assert equal(copy_of(model.net), watch.live[-1])
    assert equal(copy_of(ema.averages["model"].net), watch.average[-1])


def test_evaluation_changes_nothing_of_training(toy_run, quiet_trainer, make_batches):
    with_ema, _, _, fit = toy_run(EMA(half_life=20))
    fit()
    torch.manual_seed(0)
    plain = Toy(SPEC)
    quiet_trainer().fit(plain, make_batches(SPEC, 4, BATCH))
    assert equal(copy_of(with_ema.net), copy_of(plain.net))


@pytest.mark.parametrize("fail_at", [0, 1])
def test_an_exception_in_an_evaluation_gives_the_live_weights_back(toy_run, fail_at):
    ema = EMA(half_life=20)
    model, watch, _, fit = toy_run(ema, fail_at=fail_at)
    with pytest.raises(ZeroDivisionError):
        fit()
    assert len(watch.live) == 2 * (fail_at + 1)
    assert equal(copy_of(model.net), watch.live[-1])
    assert equal(copy_of(ema.averages["model"].net), watch.average[-1])
    assert all(p.requires_grad for p in model.parameters())


def test_after_an_exception_in_an_evaluation_training_can_go_on(toy_run, quiet_trainer, make_batches):
    ema = EMA(half_life=20)
    model, watch, _, fit = toy_run(ema, fail_at=0)
    with pytest.raises(ZeroDivisionError):
        fit()
    model.fail_at = -1
    before = copy_of(model.net)
    quiet_trainer(callbacks=[ema, watch]).fit(model, make_batches(SPEC, 1, BATCH))
    assert not equal(copy_of(model.net), before)
    assert equal(copy_of(model.net), watch.live[-1])


VERBS = ("validate", "test", "predict")


def test_the_other_verbs_use_the_average_too_and_give_the_live_weights_back(toy_run, make_batches):
    model, watch, trainer, fit = toy_run(EMA(half_life=20))
    fit()
    for verb in VERBS:
        model.evaluated.clear()
        getattr(trainer, verb)(model, make_batches(SPEC, 1, BATCH))
        assert equal(model.evaluated[0], watch.average[-1]), verb
        assert equal(copy_of(model.net), watch.live[-1]), verb


@pytest.mark.parametrize("verb", VERBS)
def test_a_failing_verb_gives_the_live_weights_back(toy_run, make_batches, verb):
    model, watch, trainer, fit = toy_run(EMA(half_life=20))
    fit()
    model.fail_at = len(model.evaluated)
    with pytest.raises(ZeroDivisionError):
        getattr(trainer, verb)(model, make_batches(SPEC, 1, BATCH))
    assert equal(copy_of(model.net), watch.live[-1])


# Checkpoints


class SaveDuringValidation(Callback):
    def __init__(self, path):
        self.path = path

    def on_validation_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


def net_of(state: dict) -> dict[str, torch.Tensor]:
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}


def test_a_checkpoint_holds_both(toy_run, tmp_path):
    _, watch, trainer, fit = toy_run(EMA(half_life=20))
    fit()
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert equal(net_of(content["state_dict"]), watch.live[-1])
    assert equal(net_of(content["ema"]["model"]), watch.average[-1])


def test_a_checkpoint_written_during_an_evaluation_holds_both(toy_run, tmp_path):
    ema = EMA(half_life=20)
    model, watch, _, fit = toy_run(ema, [SaveDuringValidation(tmp_path / "a.ckpt")])
    fit()
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert equal(net_of(content["state_dict"]), watch.live[-1])
    assert equal(net_of(content["ema"]["model"]), watch.average[-1])
    assert equal(copy_of(model.net), watch.live[-1])
    assert equal(copy_of(ema.averages["model"].net), watch.average[-1])


def test_a_new_process_evaluates_the_average_of_a_checkpoint(toy_run, tmp_path, quiet_trainer, make_batches):
    _, watch, trainer, fit = toy_run(EMA(half_life=20))
    fit()
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    for verb in VERBS:
        model = Toy(SPEC)
        fresh = quiet_trainer(callbacks=[EMA(half_life=20)])
        getattr(fresh, verb)(model, make_batches(SPEC, 1, BATCH), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
        assert equal(model.evaluated[0], watch.average[-1]), verb
        assert equal(copy_of(model.net), watch.live[-1]), verb


def test_a_resumed_average_goes_on_exactly(toy_run, tmp_path, quiet_trainer, make_batches):
    _, watch, _, fit = toy_run(EMA(half_life=20))
    fit()
    batches = make_batches(SPEC, 4, BATCH)
    torch.manual_seed(0)
    first = quiet_trainer(callbacks=[EMA(half_life=20)])
    first.fit(Toy(SPEC), type(batches)(batches[:2]))
    first.save_checkpoint(tmp_path / "a.ckpt")
    ema, model = EMA(half_life=20), Toy(SPEC)
    second = quiet_trainer(callbacks=[ema], max_epochs=2)
    second.fit(model, type(batches)(batches[2:]), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert model.images_seen == 4 * BATCH
    assert equal(copy_of(model.net), watch.live[-1])
    assert equal(copy_of(ema.averages["model"].net), watch.average[-1])


def gan() -> GAN:
    return GAN(
        SPEC,
        generator=partial(MLPGenerator, latent_dim=2, widths=(8,)),
        discriminator=partial(MLPDiscriminator, widths=(8,)),
        generator_optimizer=partial(SGD, lr=0.5),
        discriminator_optimizer=partial(SGD, lr=0.5),
    )


def test_load_gives_the_average_unless_asked_for_the_live_weights(tmp_path, quiet_trainer, make_batches):
    model, ema = gan(), EMA(half_life=50)
    trainer = quiet_trainer(callbacks=[ema])
    trainer.fit(model, make_batches(SPEC, 4, BATCH))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    average = copy_of(ema.averages["generator"])
    assert not equal(average, copy_of(model.generator))
    averaged, live = lightning_gen.load(tmp_path / "a.ckpt"), lightning_gen.load(tmp_path / "a.ckpt", average=False)
    assert equal(copy_of(averaged.generator), average)
    assert equal(copy_of(live.generator), copy_of(model.generator))
    for loaded in (averaged, live):  # the critic has no average
        assert equal(copy_of(loaded.discriminator), copy_of(model.discriminator))
    # No second copy of the critic: only the generator is stored twice.
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert content["ema"].keys() == {"generator"}


# Switched off, and bad input


def test_half_life_zero_switches_it_off(toy_run, tmp_path, quiet_trainer, make_batches):
    ema = EMA(half_life=0)
    torch.manual_seed(0)
    model = Toy(SPEC)
    trainer = quiet_trainer(callbacks=[ema])
    trainer.fit(model, make_batches(SPEC, 2, BATCH), make_batches(SPEC, 1, BATCH))
    assert not ema.averages
    assert equal(model.evaluated[-1], copy_of(model.net))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert "ema" not in content
    with pytest.raises(InputError, match=r"no averaged weights: add --ema.half_life 0, or start with --init_from"):
        quiet_trainer(callbacks=[EMA()]).fit(
            Toy(SPEC), make_batches(SPEC, 1, BATCH), ckpt_path=tmp_path / "a.ckpt", weights_only=True
        )
    again = quiet_trainer(callbacks=[EMA(half_life=0)], max_epochs=2)
    again.fit(Toy(SPEC), make_batches(SPEC, 1, BATCH), ckpt_path=tmp_path / "a.ckpt", weights_only=True)


def test_bad_arguments_are_refused_by_name():
    for arguments, message in [
        ({"half_life": -1}, "ema.half_life must be at least 0 images, got -1"),
        ({"half_life": float("nan")}, "ema.half_life must be at least 0 images, got nan"),
        ({"ramp_up": 0}, r"ema.ramp_up must be above 0 \(or null\), got 0"),
        ({"ramp_up": -0.5}, r"ema.ramp_up must be above 0 \(or null\), got -0.5"),
        ({"ramp_up": float("nan")}, r"ema.ramp_up must be above 0 \(or null\), got nan"),
    ]:
        with pytest.raises(InputError, match=message):
            EMA(**arguments)
