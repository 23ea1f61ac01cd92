"""M2: its objective against enumeration, labels that are hidden, and what few labels are worth."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.core.context import TrainingContext
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Batch, Digits, ImageDataModule, Images
from lightning_gen.distributions import CategoricalPixels
from lightning_gen.models import SemiSupervisedVAE
from lightning_gen.networks import ConvEncoder, MLPDecoder, MLPEncoder
from lightning_gen.objectives import ELBO, IWAE, BetaTCVAE, DReG, InfoVAE
from lightning_gen.runs import RunFolder

TINY = ImageSpec(channels=1, height=2, width=2, levels=3, num_classes=3)
CONFIG = """
model:
  class_path: lightning_gen.models.SemiSupervisedVAE
  init_args:
    encoder: {class_path: lightning_gen.networks.MLPEncoder, init_args: {widths: [32], conditional: true}}
    decoder: {class_path: lightning_gen.networks.MLPDecoder, init_args: {widths: [32], conditional: true}}
    classifier: {class_path: lightning_gen.networks.MLPEncoder, init_args: {widths: [32]}}
    labelled: 60
    latent_dim: 4
    importance_samples: 2
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.003}}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {source: lightning_gen.data.Digits, batch_size: 32}
budget: {images: 640}
ema: {half_life: 200}
evaluation: {every: 320, extractor: null}
checkpoint: {monitor: val/accuracy, mode: max}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1, enable_progress_bar: false}
"""


def small(spec=TINY, encoder=None, decoder=None, classifier=None, **options) -> SemiSupervisedVAE:
    return SemiSupervisedVAE(
        spec,
        encoder or partial(MLPEncoder, widths=(8,), conditional=True),
        decoder or partial(MLPDecoder, widths=(8,), conditional=True),
        partial(torch.optim.Adam, lr=0.01),
        classifier or partial(MLPEncoder, widths=()),
        likelihood=CategoricalPixels,
        **{"latent_dim": 2, "labelled": 3, **options},
    )


def batch_of(spec, n=6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(spec.levels, (n, *spec.shape), generator=generator).to(torch.uint8)
    return Batch(levels, torch.randint(spec.num_classes, (n,), generator=generator), torch.arange(n))


def test_the_loss_is_that_of_every_class_added_up_by_hand():
    torch.manual_seed(0)
    model = small(alpha=0.7).double()
    batch = batch_of(TINY)
    noise = model.context.normal("posterior", 1, 6, 2, dim=1).double()
    expected = []
    with torch.no_grad():
        log_q = torch.log_softmax(model.classifier(TINY.to_unit(batch.levels, torch.float64)), 1)
        for i in range(6):
            x = batch.levels[i : i + 1]
            costs = []
            for y in range(3):
                theta = model.posterior_parameters(x, torch.tensor([y]))
                mean, log_variance = theta.chunk(2, 1)
                z = mean + (0.5 * log_variance).exp() * noise[:, i]
                kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
                pixels = model.decoder(z, torch.tensor([y]))
                costs.append(-float(model.pixels.log_prob(x, pixels)) + float(kl) + math.log(3))
            q = log_q[i].exp().numpy()
            if i < 3:  # labelled: without a data module, the first ones
                label = int(batch.labels[i])
                expected.append(costs[label] - 0.7 * float(log_q[i, label]))
            else:
                expected.append(float((q * (np.array(costs) + np.log(q))).sum()))
    assert model.training_step(batch, 0).item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_an_unlabelled_image_costs_at_least_the_bound_on_its_marginal():
    """U(x) is minimal in q where q is the posterior of classes, and there it is minus the log of their sum."""
    torch.manual_seed(0)
    model = small(labelled=1, alpha=0.0).double()
    batch = batch_of(TINY)._replace(index=torch.arange(6) + 1)
    noise = model.context.normal("posterior", 1, 6, 2, dim=1).double()
    costs = []
    with torch.no_grad():
        for y in range(3):
            terms = model.terms(batch.levels, torch.full((6,), y), noise)
            costs.append(model.objective(terms, TrainingContext()) + math.log(3))
        costs = torch.stack(costs, 1)
        best = -torch.logsumexp(-costs, 1)
        assert model.training_step(batch, 0) > best.mean()
        posterior = torch.log_softmax(-costs, 1)
        model.images_seen = 0  # to which the noise is keyed
        model.classifier.forward = lambda images, labels: posterior
        assert model.training_step(batch, 0).item() == pytest.approx(best.mean().item())


def test_without_labels_the_likelihood_is_the_mixture_over_classes():
    torch.manual_seed(0)
    model = small(importance_samples=400).double()
    every = torch.tensor([[a, b, c, d] for a in range(3) for b in range(3) for c in range(3) for d in range(3)])
    levels = every.to(torch.uint8).view(-1, 1, 2, 2)
    with torch.no_grad():
        marginal = model.likelihood(levels, generator=torch.Generator().manual_seed(1))
    assert (marginal.kind, marginal.num_samples) == ("bound", 400)
    total = float(marginal.nats.exp().sum())
    assert 0.97 < total < 1.01  # a bound of many samples: nearly all of 1
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        each = torch.stack([model.likelihood(levels, torch.full((81,), y), generator=source).nats for y in range(3)])
    torch.testing.assert_close(marginal.nats, each.logsumexp(0) - math.log(3))


def test_codes_without_labels_are_those_of_the_classifiers_class():
    torch.manual_seed(0)
    model = small()
    levels = batch_of(TINY).levels
    said = model.classify(levels).argmax(1)
    assert torch.equal(model.encode(levels), model.encode(levels, said))
    assert not torch.equal(model.encode(levels), model.encode(levels, (said + 1) % 3))


# --- which labels -----------------------------------------------------------------------------------------------------


class Mislabelled(Digits):
    """Digits whose training labels are changed at some places."""

    def __init__(self, places=()):
        self.places = list(places)

    def read(self, part):
        levels, labels = super().read(part)
        if part == "train":
            labels = labels.copy()
            labels[self.places] = (labels[self.places] + 1) % 10
        return Images(levels, labels)


def trained_on(source, quiet_trainer, **options) -> SemiSupervisedVAE:
    torch.manual_seed(0)
    model = small(Digits.spec, **{"labelled": 60, **options})
    quiet_trainer(max_steps=12).fit(model, ImageDataModule(source, batch_size=64))
    return model


def test_hidden_labels_never_influence_training(quiet_trainer):
    plain = trained_on(Mislabelled(), quiet_trainer)
    shown = torch.nonzero(plain.labelled_images.among(torch.arange(1097)))[:, 0]
    assert len(shown) == 60
    hidden = sorted(set(range(1097)) - set(shown.tolist()))
    other = trained_on(Mislabelled(hidden), quiet_trainer)
    for name, value in plain.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    third = trained_on(Mislabelled(shown[:5].tolist()), quiet_trainer)
    assert not all(torch.equal(third.state_dict()[name], value) for name, value in plain.state_dict().items())


def test_the_seed_of_the_labels_alone_says_which_they_are(quiet_trainer):
    places = [
        trained_on(Digits(), quiet_trainer, label_seed=seed).labelled_images.among(torch.arange(1097))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(places[0], places[1])
    assert int((places[0] & places[2]).sum()) < 20  # 60 of 1097 each: some 3 by chance


# --- from a config ----------------------------------------------------------------------------------------------------


def test_a_run_reports_accuracy_and_draws_classes_and_goes_on_bit_for_bit(tmp_path):
    config = tmp_path / "m2.yaml"
    config.write_text(CONFIG)
    main(["fit", "--config", str(config), "--run.root", str(tmp_path / "whole")])
    main(["fit", "--config", str(config), "--run.root", str(tmp_path / "half"), "--budget.images", "320"])
    whole, half = (RunFolder(tmp_path / name / "m2" / "version_0") for name in ("whole", "half"))
    main(["fit", "--config", str(config), "--run.root", str(tmp_path / "half"), "--ckpt_path", str(half.last)])
    one, other = (torch.load(run.last, weights_only=True) for run in (whole, half))
    for name, value in one["state_dict"].items():
        assert torch.equal(other["state_dict"][name], value), name
    last = whole.summary()["last"]
    model = lightning_gen.load(whole.last)
    images = Digits().load("val")
    said = model.classify(torch.from_numpy(images.levels)).argmax(1).numpy()
    assert last["val/accuracy"] == pytest.approx((said == images.labels).mean())
    assert last["val/bpd_bound"] > 0
    main(["sample", str(whole.last), "--n", "6", "--labels", "[1, 7]", "--out", str(tmp_path / "drawn")])
    assert np.load(tmp_path / "drawn" / "labels.npy").tolist() == [1, 7] * 3


def test_what_cannot_be_is_refused_at_construction():
    plain = {"decoder": partial(MLPDecoder, widths=(8,)), "encoder": partial(MLPEncoder, widths=(8,))}
    for options, problem in (
        ({"labelled": 0}, "SemiSupervisedVAE.labelled must be a positive integer, got 0"),
        ({"alpha": -1.0}, r"SemiSupervisedVAE.alpha must be at least 0, got -1\.0"),
        (plain, "the decoder must be class-conditional"),
        ({"objective": BetaTCVAE()}, "SemiSupervisedVAE: BetaTCVAE: it looks at a batch as a whole"),
        ({"objective": InfoVAE()}, "SemiSupervisedVAE: InfoVAE: it looks at a batch as a whole"),
        ({"spec": ImageSpec(1, 2, 2, 3)}, "conditional needs classes"),
    ):
        with pytest.raises(InputError, match=problem):
            small(**options)
    with pytest.raises(InputError, match=r"SemiSupervisedVAE: MLPEncoder must give a number for each class, \(B, 3\)"):
        small(classifier=lambda spec, classes: MLPEncoder(spec, classes + 1))


def test_labels_that_cannot_be_are_refused_at_the_start_of_training(quiet_trainer):
    for labelled, problem in (
        (1098, "labelled is 1098 of 1097 training images"),
        (5, r"none of the 5 labelled images is of class \d: raise labelled"),
    ):
        with pytest.raises(InputError, match=problem):
            trained_on(Digits(), quiet_trainer, labelled=labelled)


def test_free_bits_and_importance_weights_are_taken(quiet_trainer):
    for objective in (ELBO(free_bits=0.1, warmup=100), IWAE(3), DReG(2)):
        model = trained_on(Digits(), quiet_trainer, objective=objective)
        assert model.guard.skipped_steps == 0


def test_an_encoder_need_not_know_the_class():
    torch.manual_seed(0)
    model = SemiSupervisedVAE(
        Digits.spec,
        partial(MLPEncoder, widths=(8,)),
        partial(MLPDecoder, widths=(8,), conditional=True),
        partial(torch.optim.Adam, lr=0.01),
        partial(ConvEncoder, width=4),
    )
    found = model.classify(torch.from_numpy(Digits().load("val").levels)).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(200))
