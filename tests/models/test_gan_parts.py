"""What is injected into a GAN: critic augmentation, clipping, penalties of either side, labels, the loss of pixels."""

import itertools
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

import lightning_gen
from lightning_gen.core.context import TrainingContext
from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.core.ranks import Ranks
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Batch
from lightning_gen.models import GAN
from lightning_gen.networks import (
    DCGANDiscriminator,
    MLPDiscriminator,
    MLPGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from lightning_gen.objectives import (
    ADA,
    R1,
    AuxiliaryClassifier,
    CriticAugmentation,
    DiffAugment,
    GeneratorPenalty,
    LeastSquares,
    LeCam,
    NonSaturating,
    OrthogonalRegularisation,
    PathLength,
    Penalty,
    PixelComparison,
    Relativistic,
    Wasserstein,
)
from lightning_gen.samplers import LatentSampler

GREY = ImageSpec(1, 8, 8)
DIGITS = ImageSpec(1, 8, 8, levels=17, num_classes=4)
BATCH = 8


def gan(spec=GREY, conditional=False, **options) -> GAN:
    arguments = {
        "generator": partial(MLPGenerator, latent_dim=4, widths=(8,), conditional=conditional),
        "discriminator": partial(MLPDiscriminator, widths=(8,), conditional=conditional),
        "generator_optimizer": partial(SGD, lr=0.1),
        "discriminator_optimizer": partial(SGD, lr=0.1),
    }
    return GAN(spec, **{**arguments, **options})


def loader(batches) -> DataLoader:
    """Lightning would take a bare list for several loaders."""
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


def weights(*networks: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()])


class Watch(Callback):
    """After each step, keep what a function of the model returns; before the first, too."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_train_start(self, trainer, pl_module):
        self.seen.append(self.look(pl_module))

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.seen.append(self.look(pl_module))


@pytest.fixture
def fit(quiet_trainer, make_batches):
    """Train for so many steps under a plain Trainer; return what ``look`` saw before the first and after each."""

    def run(model, steps, look=lambda model: None, **options):
        watch = Watch(look)
        trainer = quiet_trainer(callbacks=[watch], **options)
        trainer.fit(model, make_batches(model.spec, steps, BATCH))
        return watch.seen

    return run


# What the critic sees


class Spy(CriticAugmentation):
    """Adds a constant to each image; writes down what it is given, draws, and makes."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images, draws):
        shift = draws.uniform(1).view(-1, 1, 1, 1)
        changed = images + shift
        self.calls.append(SimpleNamespace(images=images, shift=shift, changed=changed))
        return changed

    def __deepcopy__(self, memo):
        return self


class SpyPenalty(Penalty):
    def __init__(self, every=1):
        super().__init__(every=every)
        self.given = []

    def value(self, terms, context):
        self.given.append((terms, context))
        return terms.real.square()

    def __deepcopy__(self, memo):
        return self


def record_inputs(network: nn.Module) -> list[torch.Tensor]:
    """Return a list that grows by each batch of images a network is asked about from now on."""
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return seen


def test_real_and_generated_images_of_a_phase_share_their_augmentation(fit):
    spy = Spy()
    model = gan(loss=Relativistic(), augmentation=spy)
    judged = record_inputs(model.discriminator)
    fit(model, 2)
    steps = [spy.calls[:4], spy.calls[4:]]  # real and fake ones of the critic, then of the generator
    shifts = []
    for calls in steps:
        assert torch.equal(calls[0].shift, calls[1].shift)
        assert torch.equal(calls[2].shift, calls[3].shift)
        assert torch.equal(calls[0].images, calls[3].images)  # both phases have the same real images
        assert not torch.equal(calls[1].images, calls[2].images)  # and other latents
        shifts += [calls[0].shift, calls[2].shift]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(shifts, 2))
    assert len(judged) == 8
    for call, images in zip(spy.calls, judged, strict=True):
        assert images is call.changed


def test_the_generator_learns_through_the_augmentation(fit):
    class Darkness(Spy):
        def forward(self, images, draws):
            return images * 0

    model = gan(augmentation=Darkness())
    before, after = fit(model, 1, lambda model: (weights(model.generator), weights(model.discriminator)))
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_real_images_are_augmented_for_the_generator_only_where_its_loss_asks_for_them(fit):
    spy = Spy()
    fit(gan(loss=NonSaturating(), augmentation=spy), 1)
    assert len(spy.calls) == 3


def test_penalties_see_what_the_scores_are_of(fit):
    spy, penalty = Spy(), SpyPenalty()
    model = gan(loss=NonSaturating(), augmentation=spy, penalties=[penalty])
    critic = []
    model.discriminator.register_forward_hook(lambda module, inputs, scores: critic.append((inputs[0], scores)))
    fit(model, 1)
    ((terms, context),) = penalty.given
    assert context == TrainingContext(model.seed, 0, 1, Ranks(), model.device)
    assert terms.real_images is spy.calls[0].changed
    assert terms.fake_images is spy.calls[1].changed
    assert not terms.fake_images.requires_grad
    assert terms.critic is model.discriminator
    for images, scores, (seen, said) in zip(
        (terms.real_images, terms.fake_images), (terms.real, terms.fake), critic[:2], strict=True
    ):
        assert seen is images
        assert torch.equal(scores, said)
        assert scores.requires_grad
    assert len(critic) == 3  # and one for the generator: no pass is made twice


def test_diffaugment_has_no_strength_to_log(fit):
    tracked = fit(gan(augmentation=DiffAugment()), 2, lambda model: model.means.take())
    assert "augmentation_strength" not in tracked[-1]
    assert "loss_critic" in tracked[-1]


# ADA's controller


class Sure(NonSaturating):
    """A loss that takes the critic to be sure of every real image."""

    def realness(self, terms):
        return torch.ones_like(terms.real)


def ada(**options) -> ADA:
    return ADA(**{"interval": 2, "adjust_images": 100, "operations": ("brightness",), **options})


def test_adas_probability_moves_and_is_logged(fit):
    model = gan(loss=Sure(), augmentation=ada())
    seen = fit(model, 5, lambda model: (float(model.augmentation.p), model.means.take()))
    moves = [0.0, 0.0, 0.16, 0.16, 0.32, 0.32]  # after every second step, by the 16 images of two
    assert [p for p, _ in seen] == pytest.approx(moves)
    assert [figures["augmentation_strength"] for _, figures in seen[1:]] == pytest.approx(moves[1:])


def test_ada_hears_what_the_loss_calls_realness(fit):
    heard = []

    class Listening(ADA):
        def observe(self, realness, ranks):
            assert not realness.requires_grad
            heard.append((realness, ranks))
            return {"heard": realness.mean()}

    class Odd(LeastSquares):
        def realness(self, terms):
            return terms.real - 7 * terms.fake

    model = gan(loss=Odd(), augmentation=Listening())
    scores = []
    model.discriminator.register_forward_hook(lambda module, inputs, said: scores.append(said.detach()))
    (_, tracked) = fit(model, 1, lambda model: model.means.take())
    [(realness, ranks)] = heard
    assert ranks == Ranks()
    assert torch.equal(realness, scores[0] - 7 * scores[1])
    assert tracked["heard"] == pytest.approx(float(realness.mean()))


def test_adas_state_is_in_checkpoints_and_training_goes_on_with_it(fit, quiet_trainer, make_batches, tmp_path):
    options = {"loss": Relativistic(), "augmentation": ada(interval=3, target=-0.5), "penalties": [LeCam()]}
    torch.manual_seed(1)
    whole = gan(**options)
    torch.manual_seed(1)
    half = gan(**options)
    batches = make_batches(GREY, 8, BATCH)
    quiet_trainer().fit(whole, batches)
    trainer = quiet_trainer()
    trainer.fit(half, loader(batches[:4]))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    loaded = lightning_gen.load(tmp_path / "half.ckpt")
    for name, value in half.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.augmentation.p > 0
    assert loaded.augmentation.steps == 1  # in the middle of an interval
    assert loaded.penalties[0].averages[2] > 0
    quiet_trainer().fit(loaded, loader(batches[4:]))
    for name, value in whole.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


class Poisoned(Sure):
    """A loss that is no number at the second call of one phase."""

    def __init__(self, phase):
        self.phase, self.calls = phase, 0

    def poison(self, phase, loss):
        self.calls += phase == self.phase
        return loss * math.nan if phase == self.phase and self.calls == 2 else loss

    def critic(self, terms):
        return self.poison("critic", super().critic(terms))

    def generator(self, terms):
        return self.poison("generator", super().generator(terms))


def test_a_skipped_step_leaves_controllers_and_anchors_as_they_were(fit):
    for phase in ("critic", "generator"):
        model = gan(loss=Poisoned(phase), augmentation=ada(interval=1), penalties=[LeCam()])
        states = fit(model, 3, lambda model: {name: value.clone() for name, value in model.named_buffers()})
        assert {name.partition(".")[0] for name in states[0]} == {"augmentation", "penalties"}
        assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])
        assert [float(state["augmentation.p"]) for state in states] == pytest.approx([0, 0.08, 0.08, 0.16])
        assert not torch.equal(states[2]["penalties.0.averages"], states[3]["penalties.0.averages"])
        assert model.guard.skipped_steps == 1


def test_a_model_has_its_own_augmentation_and_penalties():
    augmentation, penalty = ada(), LeCam()
    first, second = (gan(augmentation=augmentation, penalties=[penalty]) for _ in range(2))
    first.augmentation.p.fill_(0.5)
    first.penalties[0].averages.fill_(1.0)
    assert second.augmentation.p == augmentation.p == 0
    assert not second.penalties[0].averages.any()
    assert not penalty.averages.any()


# Clipping


class Steep(Wasserstein):
    """Losses a thousand times as large: every gradient is long."""

    def critic(self, terms):
        return 1000 * super().critic(terms)

    def generator(self, terms):
        return 1000 * super().generator(terms)


def test_clipping_bounds_the_norm_of_the_whole_update(fit):
    sgd = partial(SGD, lr=1.0)
    for clips in ((0.5, None), (None, 0.02), (0.01, 0.3)):
        model = gan(
            loss=Steep(),
            generator_optimizer=sgd,
            discriminator_optimizer=sgd,
            generator_clip=clips[0],
            discriminator_clip=clips[1],
        )
        before, after = fit(
            model, 1, lambda model: (weights(model.generator), weights(model.discriminator), model.means.take())
        )
        for a, b, clip, name in zip(before[:2], after[:2], clips, ("generator", "critic"), strict=True):
            gradient = after[2][f"gradient_norm_{name}"]  # before it is clipped
            moved = float((b - a).double().norm())
            assert gradient > 1
            assert moved == pytest.approx(gradient if clip is None else clip, rel=1e-4)


def test_clipping_keeps_the_direction_and_leaves_short_gradients_alone(fit):
    def update(**options):
        torch.manual_seed(3)
        model = gan(loss=Wasserstein(), **options)
        before, after = fit(model, 1, lambda model: weights(model.discriminator))
        return after - before

    plain = update()
    assert torch.equal(update(discriminator_clip=1e6, generator_clip=1e6), plain)
    clipped = update(discriminator_clip=1e-3)
    assert float(torch.cosine_similarity(plain, clipped, dim=0)) == pytest.approx(1, abs=1e-4)


# Penalties of the generator


class Darken(GeneratorPenalty):
    """The mean image; writes down when it is asked."""

    def __init__(self, every=1, weight=1.0):
        super().__init__(weight, every)
        self.latents = []

    def value(self, terms, context):
        self.latents.append(terms.latent)
        return terms.generator(terms.latent, terms.labels).flatten(1).mean(1)

    def __deepcopy__(self, memo):
        return self


def test_penalties_of_the_generator_are_lazy_by_its_own_steps(fit):
    penalty = Darken(every=2)
    model = gan(generator_penalties=[penalty], critic_steps=3)
    counts = fit(model, 15, lambda model: (model.generator_steps_taken, len(penalty.latents)))
    assert [count for count, _ in counts] == [step // 3 for step in range(16)]
    assert [asked for _, asked in counts] == [math.ceil((step // 3) / 2) for step in range(16)]


def test_a_due_penalty_of_the_generator_counts_every_times_its_weight(fit):
    class Nothing(Wasserstein):
        def generator(self, terms):
            return 0 * terms.fake

    def update(**options):
        torch.manual_seed(3)
        penalty = Darken(**options)
        model = gan(loss=Nothing(), generator_penalties=[penalty])
        latent = model.training_latents("generator", BATCH)
        before, after = fit(model, 1, lambda model: (weights(model.generator), model.means.take()))
        assert torch.equal(penalty.latents[0], latent)  # those of the step's own images
        return after[0] - before[0], after[1]["darken"]

    once, tracked = update()
    lazily, tracked_lazily = update(every=3, weight=0.5)
    torch.testing.assert_close(lazily, 1.5 * once, rtol=1e-4, atol=1e-7)
    assert tracked_lazily == pytest.approx(1.5 * tracked)


def test_one_penalty_may_be_of_both_sides(fit):
    model = gan(penalties=[OrthogonalRegularisation(1.0)], generator_penalties=[OrthogonalRegularisation(1.0)])
    before, after = fit(model, 1, lambda model: (weights(model.generator), weights(model.discriminator)))
    assert not torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


# Labels


class Labels(Callback):
    """Write down the labels that each network is given."""

    def __init__(self, model):
        self.seen = {"generator": [], "discriminator": []}
        for name, given in self.seen.items():
            getattr(model, name).register_forward_pre_hook(lambda module, inputs, given=given: given.append(inputs[1]))


def test_both_networks_get_the_batchs_own_labels(fit, make_batches):
    model = gan(DIGITS, conditional=True, loss=Relativistic(), penalties=[R1()])
    labels = Labels(model)
    fit(model, 2)
    batches = make_batches(DIGITS, 2, BATCH)
    for network, passes in {"generator": 2, "discriminator": 5}.items():
        given = labels.seen[network]
        assert len(given) == 2 * passes
        for step, batch in enumerate(batches):
            assert all(torch.equal(each, batch.labels) for each in given[step * passes : (step + 1) * passes])


def test_a_conditional_model_learns_its_classes(quiet_trainer):
    """Two classes, black and white: samples of a class have its colour."""
    spec = ImageSpec(1, 2, 2, num_classes=2)
    adam = partial(Adam, lr=1e-2, betas=(0.0, 0.9))
    model = gan(
        spec,
        conditional=True,
        loss=Relativistic(),
        penalties=[R1(0.1)],
        generator_optimizer=adam,
        discriminator_optimizer=adam,
    )
    labels = torch.arange(16) % 2
    levels = (255 * labels).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).to(torch.uint8)
    quiet_trainer().fit(model, loader([Batch(levels, labels, torch.arange(16))] * 250))
    drawn = model.sample(64, torch.arange(64) % 2, generator=torch.Generator().manual_seed(0)).float()
    assert drawn[::2].mean() < 60
    assert drawn[1::2].mean() > 195


def test_the_auxiliary_classifier_adds_its_terms_to_both_losses(fit, make_batches):
    """One SGD step by hand: D - lr d(L_D + w H(real) + w_f H(fake)), then G - lr d(L_G + w_g H(fake))."""
    terms = AuxiliaryClassifier(weight=2.0, generator_weight=0.7, fake_weight=0.4)
    model = gan(
        DIGITS,
        generator=partial(MLPGenerator, latent_dim=4, widths=(8,), conditional=True),
        discriminator=partial(MLPDiscriminator, widths=(8,), classifier=True),
        auxiliary=terms,
    )
    torch.manual_seed(0)
    g, d = MLPGenerator(DIGITS, 4, (8,), conditional=True), MLPDiscriminator(DIGITS, (8,), classifier=True)
    g.load_state_dict(model.generator.state_dict())
    d.load_state_dict(model.discriminator.state_dict())
    latents = {phase: model.training_latents(phase, BATCH) for phase in ("critic", "generator")}
    fit(model, 1)

    batch = make_batches(DIGITS, 1, BATCH)[0]
    real, labels = DIGITS.to_unit(batch.levels), batch.labels
    softplus, nll = nn.functional.softplus, lambda logits: nn.functional.cross_entropy(logits, labels)
    fake = g(latents["critic"], labels).detach()
    (real_scores, real_logits), (fake_scores, fake_logits) = (d.scores_and_logits(x, labels) for x in (real, fake))
    loss = (
        softplus(-real_scores).mean() + softplus(fake_scores).mean() + 2.0 * nll(real_logits) + 0.4 * nll(fake_logits)
    )
    for p, gradient in zip(d.parameters(), torch.autograd.grad(loss, list(d.parameters())), strict=True):
        p.data -= 0.1 * gradient
    scores, logits = d.scores_and_logits(g(latents["generator"], labels), labels)
    loss = softplus(-scores).mean() + 0.7 * nll(logits)
    for p, gradient in zip(g.parameters(), torch.autograd.grad(loss, list(g.parameters())), strict=True):
        p.data -= 0.1 * gradient
    for ours, theirs in ((model.generator, g), (model.discriminator, d)):
        torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)


def test_without_labels_all_classes_are_drawn_from_the_given_generator_alone(generator):
    model = gan(DIGITS, conditional=True)
    labels = Labels(model)
    kept = torch.get_rng_state()
    first = model.sample(200, generator=generator)
    assert torch.equal(torch.get_rng_state(), kept)
    torch.manual_seed(77)
    assert torch.equal(model.sample(200, generator=torch.Generator().manual_seed(0)), first)
    drawn, again = labels.seen["generator"]
    assert torch.equal(drawn, again)
    counts = torch.bincount(drawn, minlength=4)
    assert len(counts) == 4
    assert counts.min() > 25  # 50 each; a share of 1/8 would be over five deviations away
    other = model.sample(200, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(labels.seen["generator"][-1], drawn)
    assert not torch.equal(other, first)


def test_samples_are_of_the_classes_asked_for():
    styled = partial(StyleGAN2Generator, style_dim=4, width=4, max_width=4, conditional=True)
    model = gan(DIGITS, conditional=True, generator=styled)
    labels = Labels(model)
    latents = model.draw_latents(9, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.int64, torch.int32, torch.uint8):
        wanted = (torch.arange(9) % 4).to(dtype)
        drawn = model.sample(9, wanted, generator=torch.Generator().manual_seed(0))
        assert torch.equal(labels.seen["generator"][-1], wanted.long())
        assert torch.equal(model.decode(latents, wanted), drawn)
        assert not torch.equal(model.decode(latents, 3 - wanted), drawn)


def test_classes_are_drawn_as_often_as_they_occurred_in_training():
    model = gan(DIGITS, conditional=True)
    labels = Labels(model)
    model.class_shares = torch.tensor([0.5, 0.0, 0.3, 0.2])
    model.sample(4000, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(labels.seen["generator"][0], minlength=4) / 4000
    assert ((shares - model.class_shares).abs() <= 5 * (model.class_shares / 4000).sqrt()).all()


def test_bad_labels_are_refused_by_name():
    model = gan(DIGITS, conditional=True)
    for labels, message in (
        (torch.tensor([0, 4]), "there is no class 4: classes are 0 .. 3"),
        (torch.tensor([-1, 0]), "there is no class -1: classes are 0 .. 3"),
        (torch.tensor([0, 1, 2]), r"expected 2 whole numbers, got torch.int64 of shape \(3,\)"),
        (torch.tensor([0.0, 1.0]), r"expected 2 whole numbers, got torch.float32 of shape \(2,\)"),
        (torch.tensor([[0], [1]]), r"expected 2 whole numbers, got torch.int64 of shape \(2, 1\)"),
    ):
        for use in (model.sample, lambda n, labels: model.decode(torch.zeros(n, 4), labels)):
            with pytest.raises(InputError, match=f"labels: {message}"):
                use(2, labels)


def test_a_conditional_model_does_not_decode_without_labels():
    with pytest.raises(InputError, match="MLPGenerator is class-conditional: give labels"):
        gan(DIGITS, conditional=True).decode(torch.zeros(2, 4))


def test_an_unconditional_model_ignores_labels(generator):
    model = gan(DIGITS)
    drawn = model.sample(8, torch.arange(8), generator=generator)
    assert torch.equal(model.sample(8, generator=torch.Generator().manual_seed(0)), drawn)


# What is refused


class Wrong(nn.Module):
    """A network of the user's whose output has a shape of its own."""

    latent_dim = 3

    def __init__(self, spec, shape):
        super().__init__()
        self.shape, self.weight = shape, nn.Parameter(torch.ones(()))

    def forward(self, x, labels=None):
        return self.weight * x.flatten(1).mean() * torch.ones(len(x), *self.shape)

    def scores_and_logits(self, x, labels=None):
        return self(x)[:, 0], self(x)


class OnceOnly(MLPDiscriminator):
    """A critic with an operation that cannot be differentiated twice."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * 2 * ctx.saved_tensors[0]

    def forward(self, images, labels=None):
        return super().forward(self.Once.apply(images), labels)


conditional_generator = partial(MLPGenerator, latent_dim=4, conditional=True)
conditional_critic = partial(MLPDiscriminator, conditional=True)
classifying = partial(MLPDiscriminator, classifier=True)

REFUSED = {
    "conditional generator, unlabelled images": (
        {"spec": GREY, "generator": conditional_generator, "discriminator": conditional_critic},
        "MLPGenerator: conditional needs classes, but these images have none",
    ),
    "conditional critic, unlabelled images": (
        {"spec": GREY, "discriminator": conditional_critic},
        "MLPDiscriminator: conditional needs classes, but these images have none",
    ),
    "auxiliary, unlabelled images": (
        {"spec": GREY, "auxiliary": AuxiliaryClassifier()},
        "AuxiliaryClassifier needs labelled images, and these have no classes",
    ),
    "conditional generator, unconditional critic": (
        {"generator": conditional_generator},
        "GAN: MLPGenerator is class-conditional, but nothing teaches it its classes: make the discriminator",
    ),
    "conditional critic, unconditional generator": (
        {"discriminator": conditional_critic},
        "GAN: MLPDiscriminator judges classes of generated images, but MLPGenerator draws them without: make the",
    ),
    "auxiliary, unconditional generator": (
        {"discriminator": classifying, "auxiliary": AuxiliaryClassifier()},
        "AuxiliaryClassifier judges classes of generated images, which the generator draws without: make it",
    ),
    "auxiliary without a head": (
        {"generator": conditional_generator, "auxiliary": AuxiliaryClassifier()},
        "MLPDiscriminator has no classifier: give it classifier: true",
    ),
    "auxiliary with a critic that cannot have a head": (
        {
            "generator": conditional_generator,
            "discriminator": partial(StyleGAN2Discriminator, width=4, max_width=4),
            "auxiliary": AuxiliaryClassifier(),
        },
        "AuxiliaryClassifier needs a discriminator with a classifier head, and StyleGAN2Discriminator has none",
    ),
    "images of another size": (
        {"generator": partial(Wrong, shape=(1, 8, 9))},
        r"GAN: Wrong must give images, \(B, 1, 8, 8\), and gave \(2, 1, 8, 9\)",
    ),
    "a map of scores": (
        {"discriminator": partial(Wrong, shape=(2, 2))},
        r"GAN: Wrong must give one score for each image, .*, and gave \(2, 2, 2\)",
    ),
    "a column of scores": (
        {"discriminator": partial(Wrong, shape=(1,))},
        r"GAN: Wrong must give one score for each image, .*, and gave \(2, 1\)",
    ),
    "logits of other classes": (
        {
            "generator": conditional_generator,
            "discriminator": partial(Wrong, shape=(3,)),
            "auxiliary": AuxiliaryClassifier(),
        },
        r"Wrong must give one logit per class, \(B, 4\), and gave \(2, 3\)",
    ),
    "gradient penalty, no double backward": (
        {"discriminator": OnceOnly, "penalties": [R1()]},
        "OnceOnly cannot be differentiated twice, which gradient penalties need",
    ),
    "path length, no styles": (
        {"generator_penalties": [PathLength()]},
        r"PathLength: MLPGenerator has no styles, split\(\), styles\(\) and synthesise\(\)",
    ),
    "augmentation below a pixel": (
        {"spec": ImageSpec(1, 2, 2, num_classes=4), "augmentation": DiffAugment(["translation"])},
        "DiffAugment: translation 0.125 is less than a pixel of 2x2 images",
    ),
    "ADA's colours on two channels": (
        {"spec": ImageSpec(2, 1, 1), "augmentation": ADA()},
        "ADA: colour operations .* need 1 or 3 channels, got 2",
    ),
}


def test_what_does_not_fit_is_refused_at_construction():
    for options, message in REFUSED.values():
        with pytest.raises(InputError, match=message):
            gan(**{"spec": DIGITS, **options})


def test_a_generator_that_does_not_say_how_long_its_latents_are_is_refused():
    with pytest.raises(InputError, match="MLPDiscriminator must say how long latents are: latent_dim"):
        gan(DIGITS, generator=MLPDiscriminator)


def test_what_fits_trains(fit):
    pixels = {"loss": PixelComparison(), "generator": conditional_generator, "discriminator": classifying}
    for options in (
        {"discriminator": OnceOnly},  # no penalty that would differentiate twice
        {"discriminator": OnceOnly, "penalties": [LeCam()]},
        {"discriminator": classifying, "auxiliary": AuxiliaryClassifier(1.0, 0.0, 0.0)},  # classes of real images alone
        {"generator": conditional_generator, "discriminator": classifying, "auxiliary": AuxiliaryClassifier()},
        {**pixels, "auxiliary": AuxiliaryClassifier(), "generator_penalties": [Darken()]},
    ):
        model = gan(DIGITS, **options)
        seen = fit(model, 2, lambda model: (weights(model.generator), weights(model.discriminator)))
        assert model.guard.skipped_steps == 0
        for before, after in zip(seen[0], seen[2], strict=True):
            assert not torch.equal(before, after)


def test_looking_at_the_parts_leaves_them_and_global_randomness_alone():
    torch.manual_seed(5)
    networks = ResNetGenerator(DIGITS, 4, 8, conditional=True), ResNetDiscriminator(DIGITS, 8, conditional=True)
    kept, modes = torch.get_rng_state(), [part.training for network in networks for part in network.modules()]
    states = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    gan(DIGITS, generator=lambda spec: networks[0], discriminator=lambda spec: networks[1], penalties=[R1()])
    assert torch.equal(torch.get_rng_state(), kept)
    assert [part.training for network in networks for part in network.modules()] == modes
    for network, state in zip(networks, states, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())


# The comparison of pixels


def test_comparing_pixels_never_moves_the_critic_and_ends_at_the_mean_image(quiet_trainer):
    """Data of three images: whatever the latent, the generator draws their mean."""
    random = torch.Generator().manual_seed(0)
    spec = ImageSpec(1, 3, 3)
    three = torch.randint(256, (3, *spec.shape), generator=random).to(torch.uint8)
    batches = []
    for _ in range(40):
        levels = three[torch.randint(3, (64,), generator=random)]
        batches.append(Batch(levels, None, torch.arange(64)))
    adam = partial(Adam, lr=3e-3)
    model = gan(
        spec,
        generator=partial(MLPGenerator, latent_dim=4, widths=(32,)),
        loss=PixelComparison(),
        generator_optimizer=adam,
        discriminator_optimizer=adam,
        critic_steps=1,
    )
    critic = {name: value.clone() for name, value in model.discriminator.state_dict().items()}
    quiet_trainer(max_epochs=12).fit(model, loader(batches))
    for name, value in model.discriminator.state_dict().items():
        assert torch.equal(value, critic[name]), name
    assert (model.critic_steps_taken, model.generator_steps_taken) == (480, 480)
    assert model.guard.skipped_steps == 0
    model.sampler = LatentSampler(0.7)
    drawn = model.sample(200, generator=random).float()
    mean = three.float().mean(0)
    # The images themselves are 50 to 100 levels from their mean.
    assert (three.float() - mean).square().mean().sqrt() > 50
    assert (drawn - mean).square().mean().sqrt() < 12


def test_a_penalty_may_move_the_critic_of_a_comparison_of_pixels(fit):
    model = gan(loss=PixelComparison(), penalties=[R1()])
    before, after = fit(model, 1, lambda model: weights(model.discriminator))
    assert not torch.equal(before, after)


def test_batch_norm_in_a_critic_of_pixels_is_not_needed(fit):
    model = gan(loss=PixelComparison(), discriminator=partial(DCGANDiscriminator, width=4))
    before, after = fit(model, 1, lambda model: weights(model.discriminator))
    assert torch.equal(before, after)


# Diagnostics and names


def test_a_generator_that_knows_its_class_but_not_its_latent_has_no_diversity():
    model = gan(DIGITS, conditional=True)
    with torch.no_grad():
        model.generator.net[0].weight[:, : model.generator.latent_dim] = 0
    levels = torch.randint(17, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(40) % 4
    batch = Batch(levels, labels, torch.arange(40))
    drawn = model.sample(40, labels)
    assert len(drawn.flatten(1).unique(dim=0)) == 4
    assert float(model.diagnostics(batch)["diversity"]) == 0


def test_diversity_of_a_conditional_generator_is_of_pairs_of_one_class():
    model = gan(DIGITS, conditional=True)
    levels = torch.randint(17, (12, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 0])
    drawn = model.sample(12, labels, generator=keyed_generator(model.seed, "diagnostics", 0))
    means = []
    for images in (drawn, levels):
        rows = DIGITS.to_unit(images).flatten(1)
        pairs = [(a, b) for a, b in itertools.combinations(range(12), 2) if labels[a] == labels[b]]
        means.append(sum(float((rows[a] - rows[b]).norm()) for a, b in pairs) / len(pairs))
    figures = model.diagnostics(Batch(levels, labels, torch.arange(12)))
    assert float(figures["diversity"]) == pytest.approx(means[0] / means[1], rel=1e-5)


def test_two_penalties_of_one_class_are_told_apart_in_logs(fit):
    model = gan(penalties=[R1(every=1), R1(weight=3.0, every=1)])
    fit(model, 1)
    figures = model.means.take()
    assert figures["r1"] > 0
    assert figures["r1_2"] == pytest.approx(3 * figures["r1"] / model.penalties[0].weight)
