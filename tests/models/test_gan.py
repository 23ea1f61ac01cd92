"""The GAN's training step: who moves when, what the critic sees, what a step that is not finite leaves behind, labels,
the noise of the ranks, and what is refused."""

import copy
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD, Adam

import lightning_gen
from lightning_gen.callbacks import EMA
from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.core.ranks import Ranks
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Batch
from lightning_gen.models import GAN
from lightning_gen.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from lightning_gen.objectives import R1, R2, NonSaturating, Relativistic
from lightning_gen.samplers import LatentSampler
from lightning_gen.steps.guard import TrainingDiverged
from lightning_gen.steps.manual import descend

SPEC = ImageSpec(1, 16, 16)
BATCH = 8
NETWORKS = ("generator", "discriminator")


class Poisoned(NonSaturating):
    """A loss that is not finite on chosen calls of one phase.

    ``how`` is the value added to the loss, or "gradient" for a finite loss whose gradient is infinite.
    """

    def __init__(self, phase="critic", calls=(), how=math.nan):
        self.phase, self.calls, self.how = phase, calls, how
        self.count = {"critic": 0, "generator": 0}

    def poison(self, phase, loss, scores):
        call = self.count[phase]
        self.count[phase] += 1
        if phase != self.phase or call not in self.calls:
            return loss
        if self.how == "gradient":
            return loss + torch.sqrt(scores - scores.detach())
        return loss + self.how

    def critic(self, terms):
        return self.poison("critic", super().critic(terms), terms.real)

    def generator(self, terms):
        return self.poison("generator", super().generator(terms), terms.fake)


class NeedsReal(Poisoned):
    """One that asks for the scores of real images in the generator's step, too."""

    def generator(self, terms):
        return super().generator(terms) + 0 * terms.real


def convolutional(loss=None, **options) -> GAN:
    """A GAN with batch norm in both networks, and momenta in both optimizers."""
    return GAN(
        SPEC,
        generator=partial(DCGANGenerator, latent_dim=4, width=4),
        discriminator=partial(DCGANDiscriminator, width=4),
        generator_optimizer=partial(Adam, lr=1e-3, betas=(0.5, 0.9)),
        discriminator_optimizer=partial(Adam, lr=1e-3, betas=(0.5, 0.9)),
        loss=loss,
        **options,
    )


def perceptrons(**options) -> GAN:
    return GAN(
        SPEC,
        generator=partial(MLPGenerator, latent_dim=4, widths=(8,)),
        discriminator=partial(MLPDiscriminator, widths=(8,)),
        generator_optimizer=partial(SGD, lr=0.1),
        discriminator_optimizer=partial(SGD, lr=0.1),
        **options,
    )


class Watch(Callback):
    """Keep everything that a step may move, before the first step and after each."""

    def __init__(self):
        self.states, self.images_seen = [], []

    def keep(self, trainer, model):
        averages = [c.averages for c in trainer.callbacks if isinstance(c, EMA)]
        generator, discriminator = (copy.deepcopy(o.state_dict()) for o in trainer.optimizers)
        state = {
            "generator": copy.deepcopy(model.generator.state_dict()),
            "discriminator": copy.deepcopy(model.discriminator.state_dict()),
            "generator_optimizer": generator,
            "discriminator_optimizer": discriminator,
            "ema": {name: copy.deepcopy(m.state_dict()) for each in averages for name, m in each.items()},
        }
        self.states.append(state)
        self.images_seen.append(model.images_seen)

    def on_train_start(self, trainer, pl_module):
        self.keep(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.keep(trainer, pl_module)


def same(a, b) -> bool:
    """Whether two nested states are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def fit(quiet_trainer, make_batches):
    """Train a model for so many steps under a plain Trainer; return what Watch saw."""

    def run(model, steps, callbacks=()):
        watch = Watch()
        quiet_trainer(callbacks=[*callbacks, watch]).fit(model, make_batches(model.spec, steps, BATCH))
        return watch

    return run


# Who moves when


class Phases(Callback):
    """At each optimizer's step, look at the other network."""

    def __init__(self):
        self.stepped = []

    def on_train_start(self, trainer, pl_module):
        for name, other, optimizer in zip(NETWORKS, NETWORKS[::-1], trainer.optimizers, strict=True):
            optimizer.register_step_pre_hook(partial(self.before, pl_module, name, other))
            optimizer.register_step_post_hook(partial(self.after, pl_module, name, other))

    def before(self, model, name, other, *args):
        own, others = (list(getattr(model, network).parameters()) for network in (name, other))
        assert all(p.grad is not None for p in own)
        assert any(p.grad.any() for p in own)
        assert all(p.grad is None for p in others)
        self.kept = copy.deepcopy([getattr(model, network).state_dict() for network in (name, other)])

    def after(self, model, name, other, *args):
        assert not same(getattr(model, name).state_dict(), self.kept[0])
        assert same(getattr(model, other).state_dict(), self.kept[1])
        self.stepped.append(name)


def test_each_step_moves_its_own_network_and_leaves_the_others_gradients_none(fit):
    for loss in (NonSaturating(), Relativistic()):
        model, phases = convolutional(loss, penalties=[R1(0.1), R2(0.1, every=2)]), Phases()
        fit(model, 3, [phases])
        assert phases.stepped == ["discriminator", "generator"] * 3
        assert all(p.grad is None for p in model.parameters())


def test_gradients_that_others_left_are_not_touched(fit):
    class Sentinel(Callback):
        def on_train_start(self, trainer, pl_module):
            pl_module.loss = Watcher(pl_module)

    class Watcher(NonSaturating):
        """At the start of the generator's phase, leave a mark in the critic's gradients."""

        def __init__(self, model):
            self.critic_parameters = list(model.discriminator.parameters())

        def generator(self, terms):
            for parameter in self.critic_parameters:
                parameter.grad = torch.full_like(parameter, 7.0)
            return super().generator(terms)

    model = perceptrons()
    fit(model, 1, [Sentinel()])
    assert all(torch.equal(p.grad, torch.full_like(p, 7.0)) for p in model.discriminator.parameters())


def test_critic_steps_per_generator_step(fit):
    for critic_steps in (1, 2, 3):
        model = perceptrons(critic_steps=critic_steps)
        states = fit(model, 6).states
        moved = {name: [not same(a[name], b[name]) for a, b in itertools.pairwise(states)] for name in NETWORKS}
        assert moved["discriminator"] == [True] * 6
        assert moved["generator"] == [(step + 1) % critic_steps == 0 for step in range(6)]
        assert (model.critic_steps_taken, model.generator_steps_taken) == (6, 6 // critic_steps)


def test_turns_and_lazy_penalties_go_on_after_a_checkpoint(fit, tmp_path, quiet_trainer, make_batches):
    model = perceptrons(critic_steps=2)
    trainer = quiet_trainer()
    trainer.fit(model, make_batches(SPEC, 3, BATCH))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = lightning_gen.load(tmp_path / "a.ckpt")
    assert loaded.critic_steps_taken == 3
    states = fit(loaded, 1).states
    assert not same(states[0]["generator"], states[1]["generator"])  # the fourth critic step is the generator's turn


def test_frozen_parameters_stay(fit):
    model = perceptrons()
    model.generator.net[0].weight.requires_grad_(False)
    states = fit(model, 2).states
    frozen, moving = "net.0.weight", "net.0.bias"
    assert torch.equal(states[0]["generator"][frozen], states[-1]["generator"][frozen])
    assert not torch.equal(states[0]["generator"][moving], states[-1]["generator"][moving])


def test_one_step_is_what_a_plain_loop_does(fit, make_batches):
    """SGD by hand on the same noise: D - lr dL_D, then G - lr dL_G with the new D, the lazy penalty times k."""
    model = perceptrons(penalties=[R1(0.3, every=4)])
    by_hand = copy.deepcopy(model)
    batch = make_batches(SPEC, 1, BATCH)[0]
    fit(model, 1)

    g, d = by_hand.generator, by_hand.discriminator
    real = batch.levels.float() / 127.5 - 1
    images = real.clone().requires_grad_()
    fake = g(by_hand.training_latents("critic", BATCH)).detach()
    softplus = torch.nn.functional.softplus
    loss = softplus(-d(real)).mean() + softplus(d(fake)).mean()
    slope = torch.autograd.grad(d(images).sum(), images, create_graph=True)[0]
    loss = loss + 4 * 0.3 * 0.5 * slope.flatten(1).square().sum(1).mean()
    for p, gradient in zip(d.parameters(), torch.autograd.grad(loss, list(d.parameters())), strict=True):
        p.data -= 0.1 * gradient
    loss = softplus(-d(g(by_hand.training_latents("generator", BATCH)))).mean()
    for p, gradient in zip(g.parameters(), torch.autograd.grad(loss, list(g.parameters())), strict=True):
        p.data -= 0.1 * gradient
    for (name, ours), theirs in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)


# Steps that are not finite


@pytest.mark.parametrize("how", [math.nan, -math.inf, "gradient"])
def test_a_critic_loss_that_is_not_finite_leaves_everything_as_it_was(fit, how, capsys):
    model = convolutional(Poisoned("critic", calls={2}, how=how))
    watch = fit(model, 4, [EMA(half_life=20)])
    before, after = watch.states[2:4]
    for part in before:
        assert same(before[part], after[part]), part
    for one, next_one in ((0, 1), (1, 2), (3, 4)):  # the steps around it moved everything
        for part in before:
            assert not same(watch.states[one][part], watch.states[next_one][part]), part
    assert watch.images_seen == [0, 8, 16, 24, 32]
    assert model.guard.skipped_steps == 1
    what = "the gradient of the critic loss" if how == "gradient" else f"the critic loss ({float(how)})"
    assert f"warning: {what} is not finite at 16 images seen: step skipped" in capsys.readouterr().out


@pytest.mark.parametrize("loss", [Poisoned, NeedsReal])
@pytest.mark.parametrize("how", [math.inf, "gradient"])
def test_a_generator_loss_that_is_not_finite_leaves_the_generator_as_it_was(fit, how, loss, capsys):
    model = convolutional(loss("generator", calls={2}, how=how))
    watch = fit(model, 4, [EMA(half_life=20)])
    before, after = watch.states[2:4]
    for part in ("generator", "generator_optimizer", "ema"):
        assert same(before[part], after[part]), part
    for name, _ in model.discriminator.named_buffers():
        assert torch.equal(before["discriminator"][name], after["discriminator"][name]), name
    assert not same(after["generator"], watch.states[4]["generator"])
    assert watch.images_seen == [0, 8, 16, 24, 32]
    assert model.guard.skipped_steps == 1
    assert "generator loss" in capsys.readouterr().out


def test_a_penalty_that_is_not_finite_skips_the_step(fit):
    class Broken(R1):
        def value(self, terms, context):
            return super().value(terms, context) * math.nan

    model = convolutional(penalties=[Broken(every=2)])
    watch = fit(model, 2)
    assert same(watch.states[0], watch.states[1])
    assert same(watch.states[1], watch.states[2])  # due again: the critic step that it was due on was not taken
    assert model.guard.skipped_steps == 2


def test_noise_of_a_skipped_step_is_not_drawn_again(fit):
    model = convolutional(Poisoned("critic", calls={0}))
    first = model.training_latents("critic", 3)
    fit(model, 1)
    assert not torch.equal(model.training_latents("critic", 3), first)


def test_ten_in_a_row_end_the_run(fit):
    for phase, how in itertools.product(("critic", "generator"), (math.nan, math.inf, "gradient")):
        model = perceptrons(loss=Poisoned(phase, calls=range(3, 100), how=how))
        what = f"the gradient of the {phase} loss" if how == "gradient" else rf"the {phase} loss \({how}\)"
        message = f"^10 steps in a row met a loss or gradient that is not finite .*{what} at 96 images seen.*lower the"
        with pytest.raises(TrainingDiverged, match=message):
            fit(model, 30)
        assert model.guard.skipped_steps == 10
        assert model.images_seen == 13 * BATCH
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_one_finite_step_in_between_resets_the_count(fit, capsys):
    model = perceptrons(loss=Poisoned("critic", calls={*range(9), *range(10, 19)}))
    fit(model, 20)
    assert model.guard.skipped_steps == 18
    assert model.images_seen == 20 * BATCH
    assert capsys.readouterr().out.count("warning:") == 2  # once for each run of skipped steps


def test_skipped_steps_are_counted_over_a_checkpoint(fit, tmp_path, quiet_trainer, make_batches):
    model = perceptrons(loss=Poisoned("critic", calls=range(6)))
    model.loss.calls = list(model.loss.calls)  # plain data, as a checkpoint needs it
    trainer = quiet_trainer()
    trainer.fit(model, make_batches(SPEC, 6, BATCH))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = perceptrons(loss=Poisoned("critic", calls=range(100)))
    again.guard.load_state_dict(torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["StepGuard"])
    with pytest.raises(TrainingDiverged):
        fit(again, 4)
    assert again.guard.skipped_steps == 10


def batch_of(n: int) -> Batch:
    return Batch(torch.zeros(n, *SPEC.shape, dtype=torch.uint8), None, torch.arange(n))


def test_descend_works_without_a_trainer(capsys):
    model = perceptrons()
    optimizer = SGD(model.generator.parameters(), lr=0.1)
    latents = torch.randn(5, 4)
    kept = copy.deepcopy(model.state_dict())

    def losses():
        images = model.generator(latents)
        return {"square": images.square().mean(), "sum": 0.1 * images.mean()}

    assert not descend(model, "toy", {**losses(), "wrong": losses()["square"] * math.nan}, optimizer)
    assert same(kept, dict(model.state_dict()))
    assert "the toy loss (nan) is not finite at 0 images seen" in capsys.readouterr().out
    model.count_images(batch_of(5), taken=False)
    given = losses()
    gradients = torch.autograd.grad(sum(losses().values()), list(model.generator.parameters()))
    assert descend(model, "toy", given, optimizer)
    for (name, parameter), gradient in zip(model.generator.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter, kept[f"generator.{name}"] - 0.1 * gradient)
        assert parameter.grad is None
    model.count_images(batch_of(5))
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    expected = {name: float(value) for name, value in given.items()} | {"gradient_norm_toy": norm}
    assert model.means.take() == pytest.approx(expected)
    assert model.means.take() == {}


def test_a_loss_without_parameters_has_nothing_to_descend():
    model = perceptrons()
    kept = copy.deepcopy(model.state_dict())
    optimizer = Adam(model.discriminator.parameters())
    assert descend(model, "toy", {"constant": torch.tensor(2.0)}, optimizer)
    assert same(kept, dict(model.state_dict()))
    assert not optimizer.state


def test_a_loss_of_another_optimizers_parameters_is_refused():
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(InputError, match="GAN: the toy loss depends on no parameter of its optimizer"):
        descend(perceptrons(), "toy", {"sum": a.sum()}, SGD([b], lr=1.0))


def test_gradients_that_share_their_memory_are_scaled_once():
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    loss = 10 * (a + b).sum()  # autograd gives both the same tensor
    assert descend(perceptrons(), "toy", {"sum": loss}, SGD([a, b], lr=1.0), clip=2.0)
    torch.testing.assert_close(torch.cat([a, b]).detach(), torch.full((4,), -1.0))


def test_a_gradient_of_zero_is_not_clipped_to_nan():
    a = torch.nn.Parameter(torch.ones(2))
    assert descend(perceptrons(), "toy", {"zero": (0 * a).sum()}, SGD([a], lr=1.0), clip=1.0)
    assert torch.equal(a, torch.ones(2))


def test_figures_of_a_skipped_step_stay_out_of_the_means():
    model = perceptrons()
    for value, taken in ((1.0, True), (math.nan, False), (3.0, True)):
        model.track(loss=torch.tensor(value))
        model.count_images(batch_of(5), taken)
    assert model.means.take() == {"loss": 2.0}


# Noise, ranks, sampling, arguments


def test_the_ranks_noises_together_are_one_ranks_noise():
    model = perceptrons()
    for count, images_seen in itertools.product((2, 3), (0, 24)):
        model.images_seen, model.ranks = images_seen, Ranks()
        whole = model.training_latents("critic", 4 * count)
        slices = []
        for rank in range(count):
            model.ranks = Ranks(rank, count)
            slices.append(model.training_latents("critic", 4))
        assert torch.equal(torch.cat(slices), whole)
        assert whole.unique(dim=0).shape == whole.shape  # no rank sees another's


def test_noise_depends_on_seed_purpose_and_images_seen_alone():
    model, other = perceptrons(), perceptrons(sampler=LatentSampler(temperature=0.1))
    kept = torch.get_rng_state()
    noise = model.training_latents("critic", 6)
    assert torch.equal(torch.get_rng_state(), kept)
    torch.manual_seed(99)
    assert torch.equal(model.training_latents("critic", 6), noise)
    assert torch.equal(other.training_latents("critic", 6), noise)  # the sampler's temperature is not for training
    assert not torch.equal(model.training_latents("generator", 6), noise)
    model.images_seen = 1
    assert not torch.equal(model.training_latents("critic", 6), noise)
    model.images_seen, model.seed = 0, 1
    assert not torch.equal(model.training_latents("critic", 6), noise)


def test_the_seed_of_a_run_is_seed_everythings(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert perceptrons().seed == 5


def test_images_are_counted_over_all_ranks(make_batches):
    for count in (1, 2, 3):
        model = perceptrons()
        model.ranks = Ranks(count - 1, count)
        for batch in make_batches(SPEC, 2, BATCH):
            model.count_images(batch)
        assert model.images_seen == 2 * BATCH * count


def test_the_sampler_can_be_replaced():
    model = perceptrons()
    model.sampler = LatentSampler(temperature=1e-6)
    assert len(model.sample(8).unique(dim=0)) == 1  # all at the mean
    model.sampler = LatentSampler(truncation=0.5)
    seen = []
    model.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.sample(8)
    assert seen[0].abs().max() <= 0.5


def test_decoded_latents_are_what_samples_are_made_of(generator):
    model = convolutional()
    latents = model.draw_latents(5, generator=torch.Generator().manual_seed(0))
    assert latents.shape == (5, *model.latent_shape)
    assert torch.equal(model.decode(latents), model.sample(5, generator=generator))
    assert all(part.training for part in model.modules())
    model.eval()
    unit = model.unit_images(latents.requires_grad_())
    assert torch.equal(SPEC.to_levels(unit), model.decode(latents))
    assert torch.autograd.grad(unit.sum(), latents)[0].abs().max() > 0


def test_predict_draws_one_sample_per_image(quiet_trainer, make_batches):
    model = perceptrons()
    drawn = quiet_trainer().predict(model, make_batches(SPEC, 2, 5))
    assert [tuple(d.shape) for d in drawn] == [(5, *SPEC.shape)] * 2
    assert not torch.equal(*drawn)


def test_diagnostics_against_loops_over_all_pairs(make_batches):
    model = perceptrons()
    batch = make_batches(SPEC, 1, BATCH)[0]
    model.images_seen = 24
    figures = model.diagnostics(batch)
    assert figures.keys() == {"score_real", "score_fake", "critic_accuracy", "diversity"}
    real = SPEC.to_unit(batch.levels)
    fake = SPEC.to_unit(model.sample(BATCH, generator=keyed_generator(model.seed, "diagnostics", 24)))
    torch.testing.assert_close(figures["score_real"], model.discriminator(real).detach())
    torch.testing.assert_close(figures["score_fake"], model.discriminator(fake).detach())
    pairs = list(itertools.product(figures["score_real"].tolist(), figures["score_fake"].tolist()))
    accuracy = sum((r > f) + 0.5 * (r == f) for r, f in pairs) / len(pairs)
    assert 0 < accuracy < 1
    assert float(figures["critic_accuracy"]) == pytest.approx(accuracy)
    distances = [
        np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(images.flatten(1).double().numpy(), 2)])
        for images in (fake, real)
    ]
    assert float(figures["diversity"]) == pytest.approx(distances[0] / distances[1], rel=1e-5)


def test_a_critic_of_one_opinion_and_a_generator_of_one_image_are_seen(make_batches):
    model = perceptrons()
    for network in (model.generator, model.discriminator):
        for layer in network.net[::2]:
            layer.weight.data.zero_()
    figures = model.diagnostics(make_batches(SPEC, 1, BATCH)[0])
    assert float(figures["critic_accuracy"]) == 0.5
    assert float(figures["diversity"]) == 0


def test_a_plain_mapping_is_accepted_as_spec():
    model = GAN(
        SPEC.as_dict(),
        partial(MLPGenerator, latent_dim=2),
        MLPDiscriminator,
        partial(SGD, lr=0.1),
        partial(SGD, lr=0.1),
    )
    assert model.spec == SPEC


def test_numbers_out_of_range_are_refused_by_name():
    for critic_steps in (0, -1):
        with pytest.raises(InputError, match=f"GAN.critic_steps must be at least 1, got {critic_steps}"):
            perceptrons(critic_steps=critic_steps)
    for name, value in itertools.product(("generator_clip", "discriminator_clip"), (-1.0, math.nan)):
        with pytest.raises(InputError, match=rf"GAN\.{name} must be above 0, got {value}"):
            perceptrons(**{name: value})


def test_a_clip_of_zero_is_refused():
    for name in ("generator_clip", "discriminator_clip"):
        with pytest.raises(InputError, match=rf"GAN\.{name} must be above 0, got 0"):
            perceptrons(**{name: 0})


def test_networks_that_cannot_make_the_images_are_refused_by_name():
    with pytest.raises(InputError, match="DCGANGenerator makes square images only, got 8x9"):
        GAN(ImageSpec(1, 8, 9), DCGANGenerator, DCGANDiscriminator, partial(SGD, lr=0.1), partial(SGD, lr=0.1))


def test_half_precision_is_refused_by_name(quiet_trainer, make_batches, monkeypatch):
    for precision in ("16-mixed", "16-true"):
        monkeypatch.setattr(Trainer, "precision", property(lambda self, own=precision: own))  # the real one needs a GPU
        message = (
            rf"GAN does not train with trainer\.precision {precision}: losses underflow: use bf16-mixed or 32-true"
        )
        with pytest.raises(InputError, match=message):
            quiet_trainer().fit(perceptrons(), make_batches(SPEC, 1, BATCH))


def test_weights_in_bfloat16_train_without_gradient_penalties(quiet_trainer, make_batches):
    with pytest.raises(InputError, match="bf16-true: gradient penalties need weights in float32: use bf16-mixed"):
        quiet_trainer(precision="bf16-true").fit(perceptrons(penalties=[R1()]), make_batches(SPEC, 1, BATCH))
    model = perceptrons(loss=Relativistic())
    quiet_trainer(precision="bf16-true").fit(model, make_batches(SPEC, 2, BATCH))
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert model.guard.skipped_steps == 0
    figures = model.diagnostics(make_batches(SPEC, 1, BATCH)[0])
    assert figures["score_real"].dtype == torch.float32
    assert torch.isfinite(figures["diversity"])


def test_bfloat16_trains_with_losses_and_penalties_in_float32(quiet_trainer, make_batches):
    seen = []

    class Looking(NonSaturating):
        def critic(self, terms):
            seen.append(terms.real.dtype)
            return super().critic(terms)

    class LookingR1(R1):
        def value(self, terms, context):
            value = super().value(terms, context)
            seen.extend([value.dtype, terms.real.dtype, terms.fake.dtype])
            return value

    model = perceptrons(loss=Looking(), penalties=[LookingR1()])
    quiet_trainer(precision="bf16-mixed").fit(model, make_batches(SPEC, 2, BATCH))
    assert set(seen) == {torch.float32}
    assert model.guard.skipped_steps == 0
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_fused_optimizers_get_gradients_in_the_layout_of_their_weights(quiet_trainer, make_batches):
    spec, weights = ImageSpec(1, 28, 28), []
    for fused in (False, True):
        torch.manual_seed(0)
        model = GAN(
            spec,
            generator=partial(DCGANGenerator, latent_dim=4, width=8),
            discriminator=partial(DCGANDiscriminator, width=8, batch_norm=False),
            generator_optimizer=partial(Adam, lr=1e-3, betas=(0.0, 0.99), fused=fused),
            discriminator_optimizer=partial(Adam, lr=1e-3, betas=(0.0, 0.99), fused=fused),
            penalties=[R1(1.0), R2(1.0)],
        )
        quiet_trainer(precision="64-true").fit(model, make_batches(spec, 3, 8))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-9, atol=1e-12)
