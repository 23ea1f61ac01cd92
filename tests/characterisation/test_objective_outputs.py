"""Objectives at fixed inputs, one number per sample, with the options that the golden losses leave at their defaults."""

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from stored import against_stored, names_in
from test_contract import LOSSES, PENALTIES
from torch import Tensor, nn

from lightning_gen import objectives
from lightning_gen.core import ImageSpec, TrainingContext
from lightning_gen.networks import MLPDiscriminator, StyleGAN2Generator
from lightning_gen.objectives import (
    DRAGAN,
    ELBO,
    IWAE,
    R1,
    R2,
    WGANGP,
    AdversarialLoss,
    AuxiliaryClassifier,
    BetaTCVAE,
    Consistency,
    CriticTerms,
    DReG,
    GeneratorPenalty,
    GeneratorTerms,
    InfoVAE,
    LeCam,
    OrthogonalRegularisation,
    PathLength,
    Penalty,
    PixelComparison,
    Terms,
    VariationalObjective,
)

FILE = "objective_outputs.json"
SPEC = ImageSpec(channels=1, height=8, width=8, levels=17, num_classes=3)
LABELS = torch.tensor([0, 2, 1, 1])


def normal(*size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).double()


# --- the calls, each in one place -------------------------------------------------------------------------------------


def adversarial(loss: AdversarialLoss, terms: object) -> dict[str, Tensor]:
    return {"critic": loss.critic(terms), "generator": loss.generator(terms), "realness": loss.realness(terms)}


def penalise_critic(penalty: Penalty, critic: nn.Module, real: Tensor, fake: Tensor, step: int) -> Tensor:
    """Return the penalty of the critic step that begins at ``step`` images seen."""
    return penalty(CriticTerms(critic, real, fake, LABELS), TrainingContext(images_seen=step))


def penalise_generator(penalty: GeneratorPenalty, generator: nn.Module, latent: Tensor, step: int) -> Tensor:
    terms = GeneratorTerms(generator, latent, None, None, generator(latent, LABELS), LABELS)
    return penalty(terms, TrainingContext(images_seen=step))


def classify(auxiliary: AuxiliaryClassifier, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    terms = SimpleNamespace(real_judgement=(None, real), fake_judgement=(None, fake), labels=LABELS)
    return {"critic": auxiliary.critic(terms), "generator": auxiliary.generator(terms)}


class GivenTerms(Terms):
    """Terms that stand for no model."""

    moments = None

    def __init__(self, given: dict[str, object]):
        vars(self).update(given)

    def prior_draw(self, context: TrainingContext) -> Tensor:
        return self.drawn


def make_terms(samples: int, batch: int = 4, dims: int = 3) -> dict[str, object]:
    return {
        "log_conditional": -20 + normal(samples, batch, seed=1),
        "log_prior": -3 + normal(samples, batch, seed=2),
        "log_posterior": -2 + normal(samples, batch, seed=3),
        "latent": normal(samples, batch, dims, seed=4),
        "kl": normal(batch, dims, seed=5).square(),
        "moments": (normal(batch, dims, seed=6), normal(batch, dims, seed=7)),
        "drawn": normal(batch, dims, seed=8),
    }


def minimised(objective: VariationalObjective, terms: dict[str, object]) -> dict[str, Tensor]:
    """Return the loss of each image at 250 of 1,000, and its gradient by what decoder and encoder say, and by latents."""
    leaves = {name: terms[name].requires_grad_() for name in ("log_conditional", "log_posterior", "latent")}
    log_prior = terms["log_prior"] - leaves["latent"].square().sum(-1)
    given = {**terms, **leaves, "log_prior": log_prior, "detached_log_posterior": leaves["log_posterior"]}
    loss = objective(GivenTerms(given), TrainingContext(images_seen=250, num_images=1000))
    gradients = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    by = {f"gradient by {name}": value for name, value in zip(leaves, gradients, strict=True) if value is not None}
    return {"loss": loss, **by}


# --- the objectives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_adversarial_losses(loss):
    images = 2 * normal(2, 4, 1, 2, 2, seed=11)
    scores = images.flatten(2).sum(2) if loss is PixelComparison else 2 * normal(2, 4, seed=11)
    terms = SimpleNamespace(real=scores[0], fake=scores[1], real_images=images[0], fake_images=images[1])
    against_stored(FILE, loss.__name__, adversarial(loss(), terms))


CRITIC_PENALTIES = [
    R1(weight=0.7, every=3),
    R2(weight=0.7, every=3),
    WGANGP(weight=2.0, target=0.3),
    DRAGAN(weight=2.0, target=0.3, std=0.5),
    LeCam(weight=0.4, decay=0.8),
    Consistency(weight=2.0, fake_weight=0.5),
    OrthogonalRegularisation(weight=0.2, every=4),
]


def of_two_steps(penalise: Callable[[int], Tensor]) -> dict[str, Tensor]:
    """Return what a penalty is at two steps: some remember the first."""
    return {f"step {number}": penalise(number).detach() for number in (0, 1)}


def name_of(penalty: nn.Module) -> str:
    return type(penalty).__name__


@pytest.mark.parametrize("penalty", CRITIC_PENALTIES, ids=name_of)
def test_penalties_on_the_critic(penalty):
    torch.manual_seed(0)
    critic = MLPDiscriminator(SPEC, widths=(6,), conditional=True).double()
    images = normal(2, 2, 4, *SPEC.shape, seed=12).clamp(-1, 1)
    own = copy.deepcopy(penalty)  # which may remember steps
    against_stored(FILE, name_of(own), of_two_steps(lambda i: penalise_critic(own, critic, *images[i], 4 * i)))


@pytest.mark.parametrize(
    "penalty", [PathLength(weight=0.5, every=2, decay=0.1), OrthogonalRegularisation(0.2)], ids=name_of
)
def test_penalties_on_the_generator(penalty):
    torch.manual_seed(0)
    generator = StyleGAN2Generator(SPEC, style_dim=4, mapping_layers=2, width=4, max_width=4, conditional=True).double()
    latents = normal(2, 4, generator.latent_dim, seed=13)
    own, name = copy.deepcopy(penalty), f"{name_of(penalty)} on the generator"
    against_stored(FILE, name, of_two_steps(lambda i: penalise_generator(own, generator, latents[i], 4 * i)))


def test_auxiliary_classifier():
    real, fake = normal(2, 4, SPEC.num_classes, seed=14)
    auxiliary = AuxiliaryClassifier(weight=0.5, generator_weight=0.3, fake_weight=0.2)
    against_stored(FILE, "AuxiliaryClassifier", classify(auxiliary, real, fake))


VARIATIONAL = {
    "ELBO": (ELBO(beta=2.0, samples=2, warmup=1000), {}),
    "ELBO without closed form": (ELBO(beta=2.0, samples=2), {"kl": None}),
    "ELBO, free bits": (ELBO(free_bits=0.5), {}),
    "ELBO, free bits without closed form": (ELBO(free_bits=2.0, samples=2), {"kl": None}),
    "ELBO, capacity": (ELBO(beta=3.0, capacity=8.0, capacity_images=500), {}),
    "BetaTCVAE": (BetaTCVAE(alpha=0.5, beta=4.0, gamma=2.0, warmup=500), {}),
    "InfoVAE": (InfoVAE(alpha=0.3, scale=5.0, warmup=500), {}),
    "IWAE": (IWAE(samples=3), {}),
    "DReG": (DReG(samples=3), {}),
}


@pytest.mark.parametrize("name", VARIATIONAL)
def test_variational_objectives(name):
    objective, given = VARIATIONAL[name]
    against_stored(FILE, name, minimised(objective, make_terms(objective.samples) | given))


def test_every_objective_is_there():
    stored = names_in(FILE)
    named = {name.partition(" on ")[0].partition(" without ")[0].partition(",")[0] for name in stored}
    bases = AdversarialLoss, Penalty, GeneratorPenalty, VariationalObjective, AuxiliaryClassifier
    classes = {name: getattr(objectives, name) for name in objectives.__all__}
    assert named == {
        name
        for name, each in classes.items()
        if isinstance(each, type) and issubclass(each, bases) and each not in bases[:-1]
    }
    assert {penalty.__name__ for penalty in PENALTIES} <= stored
