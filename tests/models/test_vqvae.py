"""VQ-VAE: what its figures mean, its two priors, and a run of it from a config, stopped and resumed, with a prior."""

import itertools
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, ImageDataModule, Images, Source
from lightning_gen.distributions import CategoricalPixels, LogisticPixels
from lightning_gen.models import VQVAE, CategoricalMixture, ChowLiuMixture, Codes
from lightning_gen.networks import FSQ, GridDecoder, GridEncoder, MLPDiscriminator, MLPGenerator, VectorQuantizer
from lightning_gen.runs import RunFolder
from lightning_gen.samplers import CodeSampler

DIGITS = Digits.spec
TINY = ImageSpec(channels=1, height=2, width=2, levels=3, num_classes=2)
adam = partial(torch.optim.Adam, lr=3e-3)

CONFIG = """
model:
  class_path: lightning_gen.models.VQVAE
  init_args:
    encoder: {class_path: lightning_gen.networks.GridEncoder, init_args: {halvings: 2, width: 8, depth: 1}}
    decoder: {class_path: lightning_gen.networks.GridDecoder, init_args: {halvings: 2, width: 8, depth: 1}}
    quantizer:
      class_path: lightning_gen.networks.VectorQuantizer
      init_args: {codes: 16, dim: 4, half_life: 300, revive_after: 200}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.003}}
    sampler: lightning_gen.samplers.CodeSampler
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args: {source: lightning_gen.data.Digits, batch_size: 32}
budget: {images: 1280}
ema: {half_life: 200}
evaluation:
  every: 640
  n: 100
  extractor: lightning_gen.metrics.DigitsExtractor
  metrics: [lightning_gen.metrics.FrechetDistance]
checkpoint: {monitor: val/reconstruction_bpd}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1, enable_progress_bar: false}
"""
PRIOR = """
model:
  class_path: lightning_gen.models.ChowLiuMixture
  init_args: {components: 2, conditional: true}
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args:
    source: {class_path: lightning_gen.models.Codes, init_args: {checkpoint: none.ckpt}}
    batch_size: 1097
budget: {images: 10970}
evaluation: {every: 1000000}
run: {threads: 1}
trainer: {accelerator: cpu, devices: 1, enable_progress_bar: false}
"""


class TinyImages(Source):
    """Every 2x2 image of three levels that is brighter above than below."""

    name = "tiny"
    spec = TINY

    def read(self, part):
        levels = np.array(list(itertools.product(range(3), repeat=4)), np.uint8).reshape(-1, 1, 2, 2)
        brighter = levels[:, 0, 0].sum(1) > levels[:, 0, 1].sum(1)
        chosen = np.repeat(levels[brighter], 8, axis=0)
        return Images(chosen, (chosen[:, 0, 0, 0] == 2).astype(np.int64))


FOUR_CODES = partial(VectorQuantizer, codes=4, dim=3)


def tiny(quantizer=FOUR_CODES, likelihood=CategoricalPixels, halvings=1, **options) -> VQVAE:
    networks = {"halvings": halvings, "width": 8, "depth": 1}
    encoder, decoder = partial(GridEncoder, **networks), partial(GridDecoder, **networks)
    return VQVAE(TINY, encoder, decoder, adam, quantizer, likelihood, **options)


def every_image() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)


def fit(config: Path, root: Path, *options: str) -> RunFolder:
    main(["fit", "--config", str(config), "--run.root", str(root), *options])
    return RunFolder(root / config.stem / "version_0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vq")
    (path / "vq.yaml").write_text(CONFIG)
    (path / "prior.yaml").write_text(PRIOR)
    return path


@pytest.fixture(scope="module")
def run(folder) -> RunFolder:
    return fit(folder / "vq.yaml", folder)


@pytest.fixture(scope="module")
def prior(folder, run) -> RunFolder:
    return fit(folder / "prior.yaml", folder, "--data.source.checkpoint", str(run.best))


@pytest.fixture(scope="module")
def tiny_pair(tmp_path_factory, quiet_trainer) -> tuple[Path, Path]:
    """Checkpoints of a model of the tiny images with a 2x2 grid, and of a prior over its codes."""
    path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    model = tiny(partial(VectorQuantizer, codes=3, dim=2), halvings=0)
    trainer = quiet_trainer(max_steps=60)
    trainer.fit(model, ImageDataModule(TinyImages(), batch_size=32))
    trainer.save_checkpoint(path / "vq.ckpt")
    codes = Codes(str(path / "vq.ckpt"), trust=["test_vqvae"])
    trainer = quiet_trainer(max_steps=6)
    trainer.fit(
        CategoricalMixture(codes.spec, components=3),
        ImageDataModule(codes, batch_size=len(TinyImages().load("train").levels)),
    )
    trainer.save_checkpoint(path / "prior.ckpt")
    return path / "vq.ckpt", path / "prior.ckpt"


# --- likelihood -------------------------------------------------------------------------------------------------------


def test_bounds_of_all_images_come_to_at_most_one(quiet_trainer):
    for quantizer, likelihood, halvings in itertools.product(
        (partial(VectorQuantizer, codes=4, dim=3), partial(FSQ, levels=[3, 2])),
        (CategoricalPixels, partial(LogisticPixels, components=2)),
        (0, 1),
    ):
        model = tiny(quantizer, likelihood, halvings)
        quiet_trainer(max_steps=10).fit(model, ImageDataModule(TinyImages(), batch_size=32))
        found = model.likelihood(every_image())
        assert found.kind == "bound"
        assert 0.01 < float(found.nats.exp().sum()) <= 1 + 1e-9


GRIDS = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)


def joint_nats(model) -> torch.Tensor:
    """Return log p(c) p(x | e_c) of all 81 images x with all 81 grids of codes c, (81, 81)."""
    with torch.no_grad():
        cost = model.prior.likelihood(GRIDS, None, None).nats.double()
        assert float(cost.exp().sum()) == pytest.approx(1, abs=1e-6)  # of grids of codes, an exact model
        values = model.quantizer.lookup(GRIDS)
        given = (model.log_conditional(x.expand(81, 1, 2, 2), values).double() for x in every_image())
        return torch.stack([nats + cost for nats in given])


@pytest.fixture(params=["histograms", "fitted"])
def with_prior(request, tiny_pair):
    """The model of the tiny images with either prior."""
    vq, prior = tiny_pair
    model = lightning_gen.load(vq, trust=("test_vqvae",))
    model.sampler = CodeSampler(str(prior) if request.param == "fitted" else None)
    return model


def test_the_bound_is_below_the_sum_over_all_grids(with_prior):
    images, joint = every_image(), joint_nats(with_prior)
    exact, bound = joint.logsumexp(1), with_prior.likelihood(images).nats.detach()
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-6)
    assert (bound <= exact + 1e-9).all()
    assert float(bound.exp().sum()) <= 1
    own = (GRIDS[:, None] == with_prior.encode(images)[None]).flatten(2).all(2).T
    torch.testing.assert_close(bound, joint[own], rtol=0, atol=1e-6)


def test_samples_follow_the_prior_and_the_decoder(with_prior):
    """Images of many draws against the probabilities that the model gives: a chi-square of the 81 images."""
    expected = 20_000 * joint_nats(with_prior).logsumexp(1).exp()
    drawn = with_prior.sample(20_000, generator=torch.Generator().manual_seed(0)).flatten(1).long()
    counts = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81).double()
    often = expected > 20
    chi_square = float(((counts - expected)[often].square() / expected[often]).sum())
    freedom = int(often.sum())
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_codes_are_drawn_as_often_as_they_are_probable(with_prior):
    n = 20_000
    drawn = with_prior.draw_latents(n, generator=torch.Generator().manual_seed(0)).flatten(1)
    assert drawn.dtype == torch.int64
    share = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81) / n
    chance = with_prior.prior.likelihood(GRIDS, None, None).nats.exp()
    assert ((share - chance).abs() < 5 * (chance / n).sqrt() + 3 / n).all()


def test_a_fitted_prior_raises_the_bound_of_what_it_was_fitted_to(tiny_pair):
    vq, prior = tiny_pair
    model = lightning_gen.load(vq, trust=("test_vqvae",))
    levels = torch.from_numpy(TinyImages().load("train").levels)
    plain, codes = model.likelihood(levels), model.encode(levels)
    of_histograms = model.prior.likelihood(codes, None, None).nats
    assert torch.equal(of_histograms, model.histograms.log_prob(codes))
    for given in (str(prior), lightning_gen.load(prior)):  # in Python also the model itself
        model.sampler = CodeSampler(given)
        fitted = model.likelihood(levels)
        assert fitted.kind == "bound"
        assert fitted.nats.mean() > plain.nats.mean() + 0.05
        # The first part is the same; the second is the prior's own.
        of_prior = lightning_gen.load(prior).likelihood(codes[:, None].to(torch.uint8)).nats
        torch.testing.assert_close(fitted.nats - of_prior, plain.nats - of_histograms)


def test_the_likelihood_is_differentiable():
    model = tiny()
    model.likelihood(every_image()).nats.sum().backward()
    assert all(parameter.grad is not None for parameter in [*model.encoder.parameters(), *model.decoder.parameters()])


def test_histograms_learn_the_codes_of_training(quiet_trainer):
    model, seen = tiny(halvings=0), []
    learn = model.histograms.learn
    model.histograms.learn = lambda indices, ranks: (seen.append(indices.clone()), learn(indices, ranks))[1]
    quiet_trainer(max_steps=5).fit(model, ImageDataModule(TinyImages(), batch_size=16))
    assert len(seen) == 5
    counts = np.zeros((4, 4))
    for indices in seen:
        counts *= 2 ** (-16 / 10_000)
        for place, k in itertools.product(range(4), range(4)):
            counts[place, k] += int((indices.flatten(1)[:, place] == k).sum())
    np.testing.assert_allclose(model.histograms.counts.numpy(), counts, rtol=1e-5)


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_reconstruction_and_the_commitment(quiet_trainer):
    model = tiny(partial(VectorQuantizer, codes=4, dim=3, commitment=0.5)).double()
    batch = next(iter(ImageDataModule(TinyImages(), batch_size=16).train_dataloader()))
    z = model.encoder_map(batch.levels)
    book = model.quantizer.codebook
    nearest = (z.movedim(1, -1)[..., None, :] - book).square().sum(-1).argmin(-1)
    values = book[nearest].movedim(-1, 1)
    # straight through: the decoder is given the codes, and its gradient at them goes to the map
    leaf = values.clone().requires_grad_()
    reconstruction = -model.log_conditional(batch.levels, leaf).mean()
    (at_codes,) = torch.autograd.grad(reconstruction, leaf)
    commitment = 0.5 * (z - values).square().sum((1, 2, 3)).mean()
    expected = torch.autograd.grad(commitment + (z * at_codes).sum(), list(model.encoder.parameters()))
    loss = model.training_step(batch, 0)
    assert loss.item() == pytest.approx((reconstruction + commitment).item())
    found = torch.autograd.grad(loss, list(model.encoder.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_training_uses_more_codes_than_were_near_at_first(run):
    last = run.summary()["last"]
    assert last["val/used_codes"] > 8
    assert 4 < last["val/perplexity"] <= last["val/used_codes"]


class Faulty(VQVAE):
    """Its loss is no number at the second step."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if batch_idx == 1 else loss


class States(Callback):
    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def test_a_step_that_is_skipped_leaves_codes_and_histograms_alone(quiet_trainer, make_batches):
    torch.manual_seed(0)
    networks = {"halvings": 1, "width": 8, "depth": 0}
    encoder, decoder = partial(GridEncoder, **networks), partial(GridDecoder, **networks)
    model, watch = Faulty(TINY, encoder, decoder, adam, partial(VectorQuantizer, codes=4, dim=2)), States()
    quiet_trainer(callbacks=[watch]).fit(model, make_batches(TINY, 3))
    assert model.guard.skipped_steps == 1
    first, second, third = watch.states
    for name, value in first.items():
        assert torch.equal(second[name], value), name
    assert not torch.equal(third["histograms.counts"], second["histograms.counts"])


# --- from a config ----------------------------------------------------------------------------------------------------


def test_figures_are_what_they_say(run):
    last = run.summary()["last"]
    assert {"val/reconstruction_bpd", "val/perplexity", "val/used_codes", "val/bpd_bound"} <= last.keys()
    assert "val/bpd" not in last
    model = lightning_gen.load(run.last)
    levels = torch.from_numpy(Digits().load("val").levels)
    codes = model.encode(levels)
    with torch.no_grad():
        nats = model.log_conditional(levels, model.quantizer.lookup(codes))
    assert last["val/reconstruction_bpd"] == pytest.approx(float(-nats.mean()) / (64 * np.log(2)), rel=1e-5)
    shares = np.bincount(codes.flatten().numpy(), minlength=16) / codes.numel()
    entropy = -sum(p * np.log(p) for p in shares if p)
    assert last["val/perplexity"] == pytest.approx(np.exp(entropy), rel=1e-6)
    assert last["val/used_codes"] == (shares > 0).sum()
    bound = -float(model.likelihood(levels).nats.mean()) / (64 * np.log(2))
    assert last["val/bpd_bound"] == pytest.approx(bound, rel=1e-6)
    assert bound > last["val/reconstruction_bpd"]


def test_a_run_that_was_stopped_goes_on_bit_for_bit(folder, run, tmp_path):
    half = fit(folder / "vq.yaml", tmp_path, "--budget.images", "640")
    fit(folder / "vq.yaml", tmp_path, "--ckpt_path", str(half.last))
    one, other = (torch.load(path, weights_only=True) for path in (run.last, half.last))
    assert one["lightning_gen"]["images_seen"] == other["lightning_gen"]["images_seen"] == 1280
    for part in ("state_dict", "ema"):
        a, b = one[part], other[part]
        a, b = (a["model"], b["model"]) if part == "ema" else (a, b)
        for name, value in a.items():
            assert torch.equal(b[name], value), f"{part}.{name}"


@pytest.mark.slow
def test_two_ranks_equal_one_rank_on_the_union_batch(folder, tmp_path):
    exact = ["--trainer.precision=64-true", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.003"]
    # 10 steps of 32 images; codes are revived in most of them
    common = [*exact, "--budget.images=320", "--model.quantizer.revive_after=64", "--evaluation.extractor=null"]
    common += ["--evaluation.metrics=[]", "--data.eval_batch_size=67"]
    ranks = ["--trainer.devices=2", "--data.batch_size=16", f"--run.root={tmp_path / 'two'}"]
    two = subprocess.run(
        [sys.executable, "-m", "lightning_gen", "fit", "--config", str(folder / "vq.yaml"), *common, *ranks],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert two.returncode == 0, two.stderr
    one, other = fit(folder / "vq.yaml", tmp_path / "one", *common), RunFolder(tmp_path / "two" / "vq" / "version_0")
    a, b = (torch.load(run.last, weights_only=True) for run in (one, other))
    assert b["lightning_gen"]["images_seen"] == 320
    for name, value in a["state_dict"].items():
        torch.testing.assert_close(b["state_dict"][name], value, rtol=0, atol=1e-9, msg=name)
    assert other.summary()["ranks"] == 2
    for name, value in one.summary()["last"].items():
        assert other.summary()["last"][name] == pytest.approx(value, rel=1e-6), name


def test_a_prior_is_fitted_by_a_second_config_and_the_pair_draws_and_bounds(folder, run, prior, tmp_path, capsys):
    best = lightning_gen.load(run.best)
    model = lightning_gen.load(prior.last)
    assert model.spec == best.code_spec
    # samples of the pair, of classes, decoded from the prior's codes
    out = ["--out", str(tmp_path / "drawn"), "--n", "20", "--labels", "[3]"]
    main(["sample", str(run.best), "--sampler.prior", str(prior.last), *out])
    drawn = np.load(tmp_path / "drawn" / "samples.npy")
    assert drawn.shape == (20, 1, 8, 8)
    assert (np.load(tmp_path / "drawn" / "labels.npy") == 3).all()
    main(
        ["evaluate", str(run.best), "--n", "50", "--sampler.prior", str(prior.last), "--json", str(tmp_path / "e.json")]
    )
    assert json.loads((tmp_path / "e.json").read_text())["fid_digits"] > 0
    # the two-part bound of the pair is the prior's part and the decoder's
    capsys.readouterr()
    at = ["--ckpt_path", str(run.best), "--run.root", str(folder)]
    main(["validate", "--config", str(folder / "vq.yaml"), *at, "--model.sampler.prior", str(prior.last)])
    shown = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:])
    images = Digits().load("val")
    levels, labels = torch.from_numpy(images.levels), torch.from_numpy(images.labels)
    codes = best.encode(levels)
    first = (best.likelihood(levels).nats - best.histograms.log_prob(codes)).detach()
    second = model.likelihood(codes[:, None].to(torch.uint8), labels).nats
    bits = float(-(first + second).mean()) / (64 * np.log(2))
    assert float(shown["val/bpd_bound_given_labels"]) == pytest.approx(bits, rel=1e-4)


def test_a_prior_of_other_weights_is_refused_in_one_line(folder, run, prior, tmp_path, capsys):
    other = fit(folder / "vq.yaml", tmp_path, "--budget.images", "320", "--seed_everything", "1")
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(other.last), "--sampler.prior", str(prior.last), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "was fitted to the codes of other weights than these" in error
    assert not (tmp_path / "out").exists()
    # nor do the live weights, where the codes are of the averaged ones
    with pytest.raises(SystemExit):
        main(
            [
                "sample",
                str(run.best),
                "--weights",
                "live",
                "--sampler.prior",
                str(prior.last),
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert "other weights" in capsys.readouterr().err


# --- bad input --------------------------------------------------------------------------------------------------------


def test_what_is_no_prior_is_refused_by_name(run, tiny_pair, tmp_path, quiet_trainer, make_batches):
    model = lightning_gen.load(run.best)
    for path, problem in {
        str(tmp_path / "none.ckpt"): "no checkpoint at",
        str(tiny_pair[1]): r"is of images \(1, 2, 2\) with 3 levels, and the codes are \(1, 2, 2\) with 16",
        str(run.best): r"is of images \(1, 8, 8\) with 17 levels",
    }.items():
        model.sampler = CodeSampler(path)
        with pytest.raises(InputError, match=problem):
            model.sample(2)
    # one of the right shape that never saw codes
    stranger = CategoricalMixture(model.code_spec, components=2)
    trainer = quiet_trainer()
    trainer.fit(stranger, make_batches(model.code_spec, 2))
    trainer.save_checkpoint(tmp_path / "stranger.ckpt")
    model.sampler = CodeSampler(str(tmp_path / "stranger.ckpt"))
    with pytest.raises(
        InputError, match=r"was not fitted to codes: fit a model with data.source lightning_gen.models.Codes"
    ):
        model.sample(2)


def test_a_prior_without_likelihood_draws_and_says_that_it_has_none(tiny_pair, tmp_path, quiet_trainer):
    vq, _ = tiny_pair
    codes = Codes(str(vq), trust=["test_vqvae"])
    gan = lightning_gen.models.GAN(
        codes.spec,
        partial(MLPGenerator, latent_dim=2, widths=(8,)),
        partial(MLPDiscriminator, widths=(8,)),
        adam,
        adam,
    )
    trainer = quiet_trainer(max_steps=2)
    trainer.fit(gan, ImageDataModule(codes, batch_size=8))
    trainer.save_checkpoint(tmp_path / "gan.ckpt")
    model = lightning_gen.load(vq, trust=("test_vqvae",))
    model.sampler = CodeSampler(str(tmp_path / "gan.ckpt"))
    assert model.sample(3).shape == (3, 1, 2, 2)
    with pytest.raises(InputError, match="a GAN draws codes and does not say how likely they are"):
        model.likelihood(every_image())


def test_training_with_a_fitted_prior_is_refused(folder, run, prior, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit(folder / "vq.yaml", tmp_path, "--model.sampler.prior", str(prior.last))
    assert "sampler.prior is fitted to the codes of a trained model" in capsys.readouterr().err


def test_parts_that_do_not_fit_are_refused_at_construction():
    mlp = lightning_gen.networks
    for make, problem in (
        (partial(tiny, halvings=2), "sides of 2x2 cannot be halved 2 times"),
        (partial(tiny, partial(VectorQuantizer, codes=0)), "codes must be at least 2, got 0"),
        (partial(CodeSampler, pixels="all"), r"sampler\.pixels must be sample or mean"),
        (
            partial(VQVAE, DIGITS, partial(GridEncoder, halvings=1), partial(GridDecoder, halvings=2), adam),
            r"VQVAE: GridDecoder must give pixels .*halvings.*\(B, 17, 8, 8\), and gave \(2, 17, 16, 16\)",
        ),
        (
            partial(VQVAE, DIGITS, mlp.MLPEncoder, GridDecoder, adam),
            r"VQVAE: MLPEncoder must give what is quantized, \(B, 32, any, any\), and gave \(2, 32\)",
        ),
        (
            partial(VQVAE, DIGITS, partial(GridEncoder, halvings=1), mlp.MLPDecoder, adam),
            r"VQVAE: MLPDecoder cannot be called with \(2, 32, 4, 4\): .*shapes cannot be multiplied",
        ),
        (partial(tiny, partial(FSQ, levels=[64] * 6)), "68,719,476,736 codes at 1x1 places are too many to count each"),
    ):
        with pytest.raises(InputError, match=problem):
            make()


def test_histograms_in_half_precision_are_refused(quiet_trainer):
    trainer = quiet_trainer(max_steps=1, precision="bf16-true")
    message = (
        r"VQVAE does not train with trainer\.precision bf16-true: uses of codes are averaged in float32: use bf16-mix"
    )
    with pytest.raises(InputError, match=message):
        trainer.fit(tiny(), ImageDataModule(TinyImages(), batch_size=8))


def test_codes_that_do_not_exist_are_refused():
    model = tiny()
    for codes, problem in {
        torch.zeros(2, 2, 2, dtype=torch.int64): r"codes are whole numbers \(B, 1, 1\)",
        torch.zeros(2, 1, 1): "got torch.float32",
        torch.full((2, 1, 1), 4): r"codes are 0 .. 3, got 4 .. 4",
    }.items():
        with pytest.raises(InputError, match=problem):
            model.decode(codes)
    with pytest.raises(InputError, match="expected shape"):
        model.likelihood(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


def test_more_codes_than_levels_of_photographs_are_levels_of_int16(quiet_trainer):
    model = tiny(partial(FSQ, levels=[7, 7, 7]))
    quiet_trainer(max_steps=2).fit(model, ImageDataModule(TinyImages(), batch_size=8))
    assert model.sample(4).shape == (4, 1, 2, 2)
    assert model.likelihood(every_image()).nats.isfinite().all()
    spec = model.code_spec
    assert (spec.shape, spec.levels, spec.dtype, spec.num_classes) == ((1, 1, 1), 343, torch.int16, 2)
    prior = CategoricalMixture(spec, 2)
    prior.trained_on = {"init_args": {"source": {"init_args": {"fingerprint_of_codes": model.fingerprint()}}}}
    model.sampler = CodeSampler(prior)
    assert model.sample(4).shape == (4, 1, 2, 2)
    assert model.likelihood(every_image()).nats.isfinite().all()
    # As a data set there may be more of them still than of any image's levels.
    many = tiny(partial(FSQ, levels=[40, 40, 40]))
    with pytest.raises(InputError, match=r"ImageSpec\.levels must be at most 32768, got 64000"):
        _ = many.code_spec


def test_the_chow_liu_prior_of_the_second_config_is_conditional(prior):
    loaded = lightning_gen.load(prior.last)
    assert isinstance(loaded, ChowLiuMixture)
    assert loaded.conditional
