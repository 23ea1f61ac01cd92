"""What every family keeps to. A family joins by one row in ROWS; every adversarial loss meets every penalty.

Golden losses are the figures that the model tracks over the first three steps (in float64, so that they are the same
on every machine), stored in golden.json. After a change that is meant to alter them, write them anew and look at the
difference before committing it:

    LIGHTNING_GEN_REWRITE_GOLDEN=1 pytest tests/models/test_contract.py -k golden
"""

import copy
import inspect
import itertools
import json
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD, Adam

import lightning_gen
from lightning_gen import objectives
from lightning_gen.bijections import UniformDequantizer
from lightning_gen.core import (
    Classifies,
    Completes,
    Decodes,
    Encodes,
    HasImportanceSamples,
    HasLikelihood,
    ImageSpec,
    PredictsPixels,
    describe,
)
from lightning_gen.distributions import (
    FlowPosterior,
    FlowPrior,
    FullPosterior,
    GaussianPixels,
    LogisticPixels,
    MixturePrior,
    VampPrior,
)
from lightning_gen.models import (
    GAN,
    VAE,
    VQVAE,
    CategoricalMixture,
    ChowLiuMixture,
    GaussianMixture,
    GenerativeModule,
    HiddenMarkovModel,
    HierarchicalVAE,
    SemiSupervisedVAE,
    Uniform,
)
from lightning_gen.networks import (
    FSQ,
    ConvDecoder,
    ConvEncoder,
    DCGANDiscriminator,
    DCGANGenerator,
    DenseDiscriminator,
    DenseToConvGenerator,
    GridDecoder,
    GridEncoder,
    LadderNetwork,
    MLPDecoder,
    MLPDiscriminator,
    MLPEncoder,
    MLPGenerator,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDecoder,
    ResNetDiscriminator,
    ResNetEncoder,
    ResNetGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    VectorQuantizer,
)
from lightning_gen.objectives import (
    ADA,
    ELBO,
    IWAE,
    R1,
    R2,
    AdversarialLoss,
    AuxiliaryClassifier,
    BetaTCVAE,
    Consistency,
    DiffAugment,
    DReG,
    Hinge,
    InfoVAE,
    LeCam,
    Minimax,
    OrthogonalRegularisation,
    PathLength,
    Penalty,
    PixelComparison,
    Relativistic,
    RelativisticAverage,
)
from lightning_gen.samplers import PriorSampler

GOLDEN = Path(__file__).with_name("golden.json")
STEPS, BATCH = 3, 8
LOG_10 = math.log(10)

DIGITS = ImageSpec(channels=1, height=8, width=8, levels=17, num_classes=10)
PHOTOGRAPHS = ImageSpec(channels=3, height=16, width=16)
adam = partial(Adam, lr=1e-3, betas=(0.0, 0.99))


@dataclass(frozen=True)
class Row:
    """One model: its name, its images, and a function that makes it from them."""

    name: str
    spec: ImageSpec
    make: Callable[[ImageSpec], GenerativeModule]
    golden: bool = True
    gradients: bool = True  # else fitted by EM, whose parameters are no weights to be shaken or averaged
    steps: int = STEPS  # fewer where a model ends training by itself


ROWS = [
    Row(
        "gan-perceptron",
        DIGITS,
        partial(
            GAN,
            generator=partial(MLPGenerator, latent_dim=8, widths=(32, 32)),
            discriminator=partial(MLPDiscriminator, widths=(32, 32)),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
        ),
    ),
    Row(
        "gan-dcgan",
        PHOTOGRAPHS,
        partial(
            GAN,
            generator=partial(DCGANGenerator, latent_dim=8, width=8),
            discriminator=partial(DCGANDiscriminator, width=8),
            generator_optimizer=partial(Adam, lr=2e-4, betas=(0.5, 0.999)),
            discriminator_optimizer=partial(Adam, lr=2e-4, betas=(0.5, 0.999)),
        ),
    ),
    Row(
        "gan-relativistic-r1-r2",
        DIGITS,
        partial(
            GAN,
            generator=partial(MLPGenerator, latent_dim=8, widths=(32, 32)),
            discriminator=partial(MLPDiscriminator, widths=(32, 32)),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            loss=Relativistic(),
            penalties=[R1(0.2, every=2), R2(0.2, every=3)],
        ),
    ),
    Row(
        "gan-two-critic-steps",
        DIGITS,
        partial(
            GAN,
            generator=partial(MLPGenerator, latent_dim=8, widths=(32,)),
            discriminator=partial(MLPDiscriminator, widths=(32,)),
            generator_optimizer=partial(SGD, lr=0.1, momentum=0.5),
            discriminator_optimizer=partial(SGD, lr=0.1),
            critic_steps=2,
        ),
    ),
    Row(
        "gan-dense-conv",
        DIGITS,
        partial(
            GAN,
            generator=partial(DenseToConvGenerator, latent_dim=8, width=8),
            discriminator=partial(DenseDiscriminator, width=16, dropout=0.0),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            loss=Minimax(),
        ),
    ),
    Row(
        "gan-pixels",
        DIGITS,
        partial(
            GAN,
            generator=partial(DenseToConvGenerator, latent_dim=8, width=8),
            discriminator=partial(DenseDiscriminator, width=16, dropout=0.0),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            loss=PixelComparison(),
        ),
    ),
    Row(
        "gan-resnet-projection",
        DIGITS,
        partial(
            GAN,
            generator=partial(ResNetGenerator, latent_dim=8, width=8, conditional=True),
            discriminator=partial(ResNetDiscriminator, width=8, conditional=True),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            loss=Hinge(),
            generator_penalties=[OrthogonalRegularisation(0.01)],
        ),
    ),
    Row(
        "gan-resnet-auxiliary",
        DIGITS,
        partial(
            GAN,
            generator=partial(ResNetGenerator, latent_dim=8, width=8, conditional=True),
            discriminator=partial(ResNetDiscriminator, width=8, classifier=True),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            auxiliary=AuxiliaryClassifier(),
            generator_clip=0.5,
            discriminator_clip=0.5,
        ),
    ),
    Row(
        "gan-r3gan",
        PHOTOGRAPHS,
        partial(
            GAN,
            generator=partial(R3GANGenerator, latent_dim=8, width=4, max_width=8, blocks=1, group_size=4),
            discriminator=partial(R3GANDiscriminator, width=4, max_width=8, blocks=1, group_size=4),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            loss=Relativistic(),
            penalties=[R1(0.2), R2(0.2)],
        ),
    ),
    Row(
        "gan-stylegan2-path-length",
        DIGITS,
        partial(
            GAN,
            generator=partial(
                StyleGAN2Generator, style_dim=8, mapping_layers=2, width=4, max_width=8, conditional=True
            ),
            discriminator=partial(StyleGAN2Discriminator, width=4, max_width=8, conditional=True, mapping_layers=2),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            penalties=[R1(0.5, every=2)],
            generator_penalties=[PathLength(every=2)],
        ),
    ),
    Row(
        "gan-conditional-ada-lecam",
        DIGITS,
        partial(
            GAN,
            generator=partial(MLPGenerator, latent_dim=8, widths=(32,), conditional=True),
            discriminator=partial(MLPDiscriminator, widths=(32,), conditional=True, classifier=True),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            loss=RelativisticAverage(),
            penalties=[LeCam(0.3)],
            augmentation=ADA(initial=0.5, target=-0.9, adjust_images=100, interval=1),
            auxiliary=AuxiliaryClassifier(fake_weight=0.5),
        ),
    ),
    Row(
        "gan-diffaugment-consistency",
        PHOTOGRAPHS,
        partial(
            GAN,
            generator=partial(DCGANGenerator, latent_dim=8, width=4),
            discriminator=partial(DCGANDiscriminator, width=4, batch_norm=False),
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            penalties=[Consistency(every=2, fake_weight=1.0)],
            augmentation=DiffAugment(),
        ),
    ),
    Row("gaussian-mixture", DIGITS, partial(GaussianMixture, components=3), golden=False, gradients=False),
    Row(
        "gaussian-mixture-low-rank",
        PHOTOGRAPHS,
        partial(GaussianMixture, components=2, covariance="low_rank", rank=2, dequantizer=UniformDequantizer(2)),
        golden=False,
        gradients=False,
    ),
    Row("categorical-mixture", PHOTOGRAPHS, partial(CategoricalMixture, components=3), golden=False, gradients=False),
    Row("chow-liu-mixture", DIGITS, partial(ChowLiuMixture, components=2), golden=False, gradients=False),
    Row(
        "chow-liu-per-class",
        ImageSpec(channels=1, height=3, width=3, levels=4, num_classes=2),
        partial(ChowLiuMixture, components=1, conditional=True),
        golden=False,
        gradients=False,
    ),
    Row("hmm", DIGITS, partial(HiddenMarkovModel, states=3), golden=False, gradients=False),
    Row("uniform", DIGITS, Uniform, golden=False, gradients=False, steps=1),
    Row(
        "vqvae",
        DIGITS,
        partial(
            VQVAE,
            encoder=partial(GridEncoder, width=8, depth=1),
            decoder=partial(GridDecoder, width=8, depth=1),
            optimizer=adam,
            quantizer=partial(VectorQuantizer, codes=12, dim=4, half_life=16, revive_after=16),
        ),
    ),
    Row(
        "vqvae-fsq",
        PHOTOGRAPHS,
        partial(
            VQVAE,
            encoder=partial(GridEncoder, halvings=1, width=8, depth=0),
            decoder=partial(GridDecoder, halvings=1, width=8, depth=0),
            optimizer=adam,
            quantizer=partial(FSQ, levels=[5, 4]),
            likelihood=partial(LogisticPixels, components=2),
        ),
    ),
    Row(
        "vae-perceptron",
        DIGITS,
        partial(
            VAE,
            encoder=partial(MLPEncoder, widths=(32,)),
            decoder=partial(MLPDecoder, widths=(32,)),
            optimizer=adam,
            latent_dim=4,
            importance_samples=3,
        ),
    ),
    Row(
        "vae-conditional",
        DIGITS,
        partial(
            VAE,
            encoder=partial(ConvEncoder, width=4, conditional=True),
            decoder=partial(ConvDecoder, width=4, conditional=True),
            optimizer=adam,
            latent_dim=4,
            likelihood=partial(LogisticPixels, components=2),
            objective=InfoVAE(alpha=0.5, scale=10.0, warmup=100),
            importance_samples=3,
        ),
    ),
    Row(
        "vae-vamp-free-bits",
        PHOTOGRAPHS,
        partial(
            VAE,
            encoder=partial(ResNetEncoder, width=4, depth=1),
            decoder=partial(ResNetDecoder, width=4, depth=1),
            optimizer=adam,
            latent_dim=4,
            likelihood=partial(GaussianPixels, scale="shared"),
            prior=partial(VampPrior, components=3),
            objective=ELBO(free_bits=0.5, samples=2),
            importance_samples=3,
        ),
    ),
    Row(
        "vae-flows",
        DIGITS,
        partial(
            VAE,
            encoder=partial(MLPEncoder, widths=(16,)),
            decoder=partial(MLPDecoder, widths=(16,)),
            optimizer=adam,
            latent_dim=4,
            posterior=partial(FlowPosterior, width=8, context_dim=4),
            prior=partial(FlowPrior, steps=2, width=8),
            objective=IWAE(2),
            importance_samples=3,
        ),
    ),
    Row(
        "vae-dreg",
        DIGITS,
        partial(
            VAE,
            encoder=partial(MLPEncoder, widths=(16,)),
            decoder=partial(MLPDecoder, widths=(16,), conditional=True),
            optimizer=adam,
            latent_dim=3,
            posterior=FullPosterior,
            prior=partial(MixturePrior, components=3),
            objective=DReG(3),
            importance_samples=3,
        ),
    ),
    Row(
        "vae-beta-tc",
        DIGITS,
        partial(
            VAE,
            encoder=partial(MLPEncoder, widths=(16,)),
            decoder=partial(MLPDecoder, widths=(16,)),
            optimizer=adam,
            latent_dim=4,
            objective=BetaTCVAE(beta=4.0),
            importance_samples=3,
            sampler=PriorSampler(temperature=0.9),
        ),
    ),
    Row(
        "vae-hierarchical",
        DIGITS,
        partial(
            HierarchicalVAE,
            network=partial(LadderNetwork, depths=(1, 1, 1), width=(8, 12, 16), latent_channels=2),
            optimizer=adam,
            likelihood=partial(LogisticPixels, components=2),
            objective=ELBO(free_bits=0.1, warmup=100),
            importance_samples=3,
            largest_gradient=1e6,
        ),
    ),
    Row(
        "vae-semi-supervised",
        DIGITS,
        partial(
            SemiSupervisedVAE,
            encoder=partial(MLPEncoder, widths=(16,), conditional=True),
            decoder=partial(MLPDecoder, widths=(16,), conditional=True),
            optimizer=adam,
            classifier=partial(MLPEncoder, widths=(8,)),
            labelled=12,
            latent_dim=4,
            importance_samples=3,
        ),
    ),
]

# Every adversarial loss with every penalty on the critic.
LOSSES, PENALTIES = (
    [
        each
        for each in (getattr(objectives, name) for name in objectives.__all__)
        if inspect.isclass(each) and issubclass(each, base) and not inspect.isabstract(each)
    ]
    for base in (AdversarialLoss, Penalty)
)


class Track(Callback):
    """Write down what the model tracks, and its images seen, after each step."""

    def __init__(self):
        self.figures, self.images_seen = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.figures.append(pl_module.means.take())
        self.images_seen.append(pl_module.images_seen)


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def trained(request, tmp_path_factory, quiet_trainer, make_batches):
    """A model of each row after three steps under a plain Trainer. Shared: tests leave it as it is."""
    row = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        torch.manual_seed(0)
        model = row.make(row.spec)
    track = Track()
    batches = make_batches(row.spec, STEPS, BATCH)
    trainer = quiet_trainer(callbacks=[track])
    trainer.fit(model, batches)
    path = tmp_path_factory.mktemp("contract") / "model.ckpt"
    trainer.save_checkpoint(path)
    return SimpleNamespace(row=row, model=model, track=track, batches=batches, path=path)


@pytest.fixture
def untouched(trained):
    """Fail if the test leaves other modes, weights or global random states than it found."""
    model = trained.model
    for i, part in enumerate(model.modules()):
        part.training = i % 2 == 0  # neither all training nor all evaluating
    modes = [part.training for part in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [p.requires_grad for p in model.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    yield
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    model.train()


def draw(model: GenerativeModule, n: int = 16, seed: int = 0, labels=None) -> torch.Tensor:
    return model.sample(n, labels, generator=torch.Generator(model.device).manual_seed(seed))


def test_samples_are_levels(trained):
    spec = trained.row.spec
    for n in (1, 16):
        samples = draw(trained.model, n)
        assert samples.shape == (n, *spec.shape)
        assert samples.dtype == torch.uint8
        assert samples.device == trained.model.device
        assert not samples.requires_grad
        assert int(samples.max()) < spec.levels
    assert len(samples.unique(dim=0)) > 1  # of one draw, not all the same
    assert spec.check(samples) is samples


def test_samples_heed_labels_or_ignore_them(trained):
    spec, model = trained.row.spec, copy.deepcopy(trained.model)
    for parameter in model.parameters() if trained.row.gradients else ():
        # Some networks begin with what classes do at zero.
        parameter.data += 0.3 * torch.randn(parameter.shape)
    labels = torch.arange(16) % max(spec.num_classes, 1)
    samples = draw(model, 16, labels=labels)
    assert samples.shape == (16, *spec.shape)
    if model.conditional:
        assert not torch.equal(samples, draw(model, 16, labels=labels.flip(0)))
    else:
        assert torch.equal(samples, draw(model, 16))


@pytest.mark.usefixtures("untouched")
def test_a_generator_is_the_only_source_of_randomness(trained):
    first, again, other = draw(trained.model), draw(trained.model), draw(trained.model, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sampling_is_the_same_in_training_and_evaluation_mode(trained):
    trained.model.eval()
    evaluating = draw(trained.model)
    trained.model.train()
    assert torch.equal(draw(trained.model), evaluating)


def test_without_a_generator_torchs_global_one_decides(trained):
    torch.manual_seed(3)
    first, second = trained.model.sample(8), trained.model.sample(8)
    torch.manual_seed(3)
    assert torch.equal(trained.model.sample(8), first)
    assert not torch.equal(first, second)


def test_images_seen_advance_by_the_batch(trained):
    assert trained.track.images_seen == [BATCH * step for step in range(1, trained.row.steps + 1)]


def test_averaged_modules_belong_to_the_model(trained):
    averaged = trained.model.averaged_modules()
    assert bool(averaged) == trained.row.gradients
    own = {id(p) for p in trained.model.parameters()}
    for name, module in averaged.items():
        parameters = [id(p) for p in module.parameters()]
        assert parameters, name
        assert set(parameters) <= own, name
        assert trained.model.averaged_modules()[name] is module


@pytest.mark.usefixtures("untouched")
def test_diagnostics_are_finite_tensors(trained):
    for name, value in trained.model.diagnostics(trained.batches[0]).items():
        assert isinstance(value, torch.Tensor), name
        assert torch.isfinite(value).all(), name
        assert not value.requires_grad, name


PROTOCOLS = (HasLikelihood, HasImportanceSamples, Encodes, Decodes, Completes, PredictsPixels, Classifies)
ABILITIES = {
    GAN: {Decodes},
    VAE: {HasLikelihood, HasImportanceSamples, Encodes, Decodes},
    SemiSupervisedVAE: {HasLikelihood, HasImportanceSamples, Encodes, Decodes, Classifies},
    HierarchicalVAE: {HasLikelihood, HasImportanceSamples, Encodes, Decodes},
    VQVAE: {HasLikelihood, Encodes, Decodes},
    GaussianMixture: {HasLikelihood, Completes},
    CategoricalMixture: {HasLikelihood, Completes, PredictsPixels},
    ChowLiuMixture: {HasLikelihood, Completes},
    HiddenMarkovModel: {HasLikelihood, Completes},
    Uniform: {HasLikelihood, Completes, PredictsPixels},
}


def test_every_family_has_its_abilities(trained):
    """What the tests below would otherwise pass over."""
    assert {each for each in PROTOCOLS if isinstance(trained.model, each)} == ABILITIES[type(trained.model)]


@pytest.fixture
def able(trained):
    """Give a model in evaluation mode and its first batch if it has an ability; else there is nothing to test."""

    def ask(protocol: type) -> SimpleNamespace:
        if protocol not in ABILITIES[type(trained.model)]:
            pytest.skip(f"{trained.row.name} is not expected to be {protocol.__name__}")
        batch = trained.batches[0]
        return SimpleNamespace(model=trained.model.eval(), levels=batch.levels, labels=batch.labels, row=trained.row)

    state = torch.get_rng_state()
    yield ask
    assert torch.equal(torch.get_rng_state(), state), "what is given a generator must not draw elsewhere"
    trained.model.train()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_likelihood_has_no_other_chance_than_its_generator(able):
    it = able(HasLikelihood)
    first, again, other = (it.model.likelihood(it.levels, it.labels, generator=seeded(seed)) for seed in (0, 0, 1))
    assert first.nats.shape == (BATCH,)
    assert torch.equal(first.nats, again.nats)
    by_chance = first.kind not in ("exact", "bound") or isinstance(it.model, HasImportanceSamples)
    assert torch.equal(first.nats, other.nats) != by_chance
    assert first.num_samples >= 1


def test_a_likelihood_is_differentiable(able):
    it = able(HasLikelihood)
    if it.row.name == "uniform":
        pytest.skip("it has no parameters")
    nats = it.model.likelihood(it.levels, it.labels, generator=seeded()).nats
    parameters = dict(it.model.named_parameters())
    found = torch.autograd.grad(nats.sum(), parameters.values(), allow_unused=True, materialize_grads=True)
    moved = {name.partition(".")[0] for name, gradient in zip(parameters, found, strict=True) if gradient.any()}
    expected = {"network"} if isinstance(it.model, HierarchicalVAE) else {"encoder", "decoder"}
    assert moved >= (expected if it.row.gradients else {"density"})
    with torch.no_grad():
        assert not it.model.likelihood(it.levels, it.labels, generator=seeded()).nats.requires_grad


def test_more_importance_samples_raise_the_bound(able):
    it = able(HasImportanceSamples)
    model = copy.deepcopy(it.model)
    bounds = []
    for model.importance_samples in (1, 100):
        draws = [model.likelihood(it.levels, it.labels, generator=seeded(i)) for i in range(5)]
        assert {(draw.kind, draw.num_samples) for draw in draws} == {("bound", model.importance_samples)}
        bounds.append(torch.stack([draw.nats for draw in draws]).mean())
    assert bounds[0] < bounds[1]


def test_labels_that_are_not_given_are_summed_out(able):
    it = able(HasLikelihood)
    if not it.model.conditional:
        assert torch.equal(
            it.model.likelihood(it.levels, it.labels, generator=seeded()).nats,
            it.model.likelihood(it.levels, None, generator=seeded()).nats,
        )
        return
    generator, classes = seeded(), it.row.spec.num_classes
    each = [it.model.likelihood(it.levels, torch.full((BATCH,), y), generator=generator).nats for y in range(classes)]
    shares = it.model.density.log_class_shares if it.row.name.startswith("chow") else torch.full((classes,), -LOG_10)
    expected = torch.logsumexp(torch.stack(each, 1) + shares, 1)
    torch.testing.assert_close(it.model.likelihood(it.levels, generator=seeded()).nats, expected, check_dtype=False)


def test_latents_come_back_as_images_each_by_itself(able):
    it = able(Encodes)
    latent = it.model.encode(it.levels, it.labels)
    assert torch.equal(it.model.encode(it.levels, it.labels), latent)
    decoded = it.model.decode(latent, it.labels)
    assert it.row.spec.check(decoded).shape == it.levels.shape
    assert not decoded.requires_grad
    for function, given, whole in ((it.model.encode, it.levels, latent), (it.model.decode, latent, decoded)):
        part = function(given[2:5], None if it.labels is None else it.labels[2:5])
        torch.testing.assert_close(part.double(), whole[2:5].double(), rtol=1e-4, atol=1e-4)


def test_latents_are_distributed_as_the_model_says(able):
    it = able(Decodes)
    labels = None if it.labels is None else it.labels.repeat(250)
    latent = it.model.draw_latents(250 * BATCH, labels, generator=seeded())
    assert torch.equal(it.model.draw_latents(250 * BATCH, labels, generator=seeded()), latent)
    assert latent.dtype.is_floating_point == (it.model.latents != "discrete")
    if it.model.latents == "normal":
        flat = latent.flatten(1).double()
        assert flat.mean(0).abs().max() < 5 / len(flat) ** 0.5
        torch.testing.assert_close(torch.cov(flat.T), torch.eye(flat.shape[1]).double(), rtol=0, atol=0.15)
    else:
        assert it.model.latents == ("discrete" if isinstance(it.model, VQVAE) else "continuous")
        assert type(getattr(it.model, "prior", None)).__name__ != "StandardNormal"
    decoded = it.model.decode(latent[:4], None if labels is None else labels[:4])
    assert it.row.spec.check(decoded).shape == (4, *it.row.spec.shape)


def test_completions_keep_what_is_known_and_have_no_other_chance_than_the_generator(able):
    it = able(Completes)
    known = torch.rand(it.levels.shape, generator=seeded()) < 0.5
    first, again, other = (it.model.complete(it.levels, known, it.labels, generator=seeded(i)) for i in (3, 3, 4))
    assert it.row.spec.check(first) is first
    assert torch.equal(first[known], it.levels[known])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    hidden = torch.where(known, it.levels, 0)  # what stands where nothing is known must not matter
    assert torch.equal(it.model.complete(hidden, known, it.labels, generator=seeded(3)), first)
    all_known = torch.ones(1, dtype=torch.bool)
    assert torch.equal(it.model.complete(it.levels, all_known, it.labels, generator=seeded()), it.levels)


def test_predictions_of_pixels_sum_to_the_likelihood(able):
    it = able(PredictsPixels)
    predicted = it.model.pixel_log_probs(it.levels, it.labels)
    assert predicted.shape == (*it.levels.shape, it.row.spec.levels)
    torch.testing.assert_close(predicted.logsumexp(-1), torch.zeros(it.levels.shape).double())
    there = predicted.gather(-1, it.levels[..., None].long()).flatten(1).sum(1)
    torch.testing.assert_close(there, it.model.likelihood(it.levels, it.labels, generator=seeded()).nats)
    # Each pixel is predicted from those before it alone: a change of the last one moves no prediction.
    changed = it.levels.clone()
    changed[:, -1, -1, -1] = it.row.spec.levels - 1 - changed[:, -1, -1, -1]
    assert torch.equal(it.model.pixel_log_probs(changed, it.labels), predicted)


def test_classes_are_recognised_with_probabilities(able):
    it = able(Classifies)
    found = it.model.classify(it.levels)
    assert found.shape == (BATCH, it.row.spec.num_classes)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(BATCH))
    assert torch.equal(it.model.encode(it.levels), it.model.encode(it.levels, found.argmax(1)))


def test_the_description_is_plain_data(trained):
    description = describe(trained.model)
    assert json.loads(json.dumps(description)) == description


def test_checkpoints_of_a_plain_trainer_load_by_themselves(trained, tmp_path, quiet_trainer):
    model = trained.model
    loaded = lightning_gen.load(trained.path)
    assert type(loaded) is type(model)
    assert loaded.spec == model.spec
    assert not any(part.training for part in loaded.modules())
    assert (loaded.images_seen, loaded.seed) == (trained.row.steps * BATCH, model.seed)
    assert [getattr(loaded, name) for name in model.counters] == [getattr(model, name) for name in model.counters]
    assert describe(loaded) == describe(model)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert torch.equal(draw(loaded), draw(model))
    if loaded.state_dict():
        assert not torch.equal(draw(loaded), draw(trained.row.make(trained.row.spec)))  # it is the weights that count

    # What was loaded can be trained, stored and loaded again.
    trainer = quiet_trainer()
    trainer.fit(loaded, trained.batches)
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    again = lightning_gen.load(tmp_path / "again.ckpt")
    assert again.images_seen == 2 * trained.row.steps * BATCH
    assert torch.equal(draw(again), draw(loaded))


def test_training_is_repeatable(trained, quiet_trainer, monkeypatch):
    torch.manual_seed(0)
    model = trained.row.make(trained.row.spec)
    torch.manual_seed(999)  # noise is keyed on the run's seed, not drawn from the global generator
    quiet_trainer().fit(model, trained.batches)
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained.model.state_dict()[name]), name


def against_golden(name: str, measured: list[dict[str, float]]) -> None:
    """Compare figures of each step with those stored under ``name``, or store them where the environment says so."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("LIGHTNING_GEN_REWRITE_GOLDEN"):
        golden[name] = [{key: float(f"{value:.6g}") for key, value in step.items()} for step in measured]
        GOLDEN.write_text(json.dumps(dict(sorted(golden.items())), indent=2) + "\n", encoding="utf-8")
    assert name in golden, "no golden losses are stored: see the head of this file"
    assert len(measured) == len(golden[name])
    for step, (expected, found) in enumerate(zip(golden[name], measured, strict=True)):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7), f"step {step}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.golden], ids=lambda row: row.name)
def test_golden_losses(row, quiet_trainer, make_batches):
    track = Track()
    quiet_trainer(callbacks=[track], precision="64-true").fit(row.make(row.spec), make_batches(row.spec, STEPS, BATCH))
    assert len(track.figures) == STEPS
    against_golden(row.name, track.figures)


def two_steps(quiet_trainer, batches, loss: AdversarialLoss, penalties=()) -> SimpleNamespace:
    torch.manual_seed(0)
    model = GAN(
        DIGITS,
        generator=partial(MLPGenerator, latent_dim=4, widths=(8,)),
        discriminator=partial(MLPDiscriminator, widths=(8,)),
        generator_optimizer=partial(SGD, lr=0.1),
        discriminator_optimizer=partial(SGD, lr=0.1),
        loss=loss,
        penalties=penalties,
    )
    trainer = quiet_trainer(callbacks=[track := Track()], precision="64-true")
    trainer.fit(model, batches)
    critic = torch.cat([p.detach().flatten() for p in model.discriminator.parameters()])
    return SimpleNamespace(trainer=trainer, model=model, figures=track.figures, critic=critic)


@pytest.fixture(scope="module")
def without_penalty(quiet_trainer, make_batches):
    """The same two steps of each loss without any penalty."""
    return {loss: two_steps(quiet_trainer, make_batches(DIGITS, 2, BATCH), loss()) for loss in LOSSES}


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: penalty.__name__)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_every_loss_trains_with_every_penalty(loss, penalty, without_penalty, quiet_trainer, make_batches, tmp_path):
    pair = two_steps(quiet_trainer, make_batches(DIGITS, 2, BATCH), loss(), [penalty(weight=0.5)])
    model = pair.model
    assert model.guard.skipped_steps == 0
    assert (model.critic_steps_taken, model.generator_steps_taken) == (2, 2)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert not torch.equal(pair.critic, without_penalty[loss].critic)
    for step, plain in zip(pair.figures, without_penalty[loss].figures, strict=True):
        assert step.keys() == plain.keys() | {penalty.__name__.lower(), "gradient_norm_critic"}
        assert step[penalty.__name__.lower()] > 0
    # The loss that is logged is the loss alone.
    assert pair.figures[0]["loss_critic"] == pytest.approx(without_penalty[loss].figures[0]["loss_critic"])
    shown = ("loss_critic", "loss_generator", penalty.__name__.lower(), "gradient_norm_critic")
    against_golden(f"{loss.__name__}+{penalty.__name__}", [{key: step[key] for key in shown} for step in pair.figures])

    pair.trainer.save_checkpoint(tmp_path / "pair.ckpt")
    loaded = lightning_gen.load(tmp_path / "pair.ckpt").double()
    assert type(loaded.loss) is loss
    assert [type(each) for each in loaded.penalties] == [penalty]
    assert describe(loaded) == describe(model)
    assert torch.equal(draw(loaded), draw(model))
    arguments = describe(loaded)["init_args"]["penalties"][0]["init_args"]
    assert arguments["weight"] == 0.5
    assert arguments.keys() == set(inspect.signature(penalty).parameters)


def test_no_golden_losses_are_left_over():
    pairs = {f"{loss.__name__}+{penalty.__name__}" for loss, penalty in itertools.product(LOSSES, PENALTIES)}
    names = {row.name for row in ROWS if row.golden}
    assert json.loads(GOLDEN.read_text(encoding="utf-8")).keys() == names | pairs
