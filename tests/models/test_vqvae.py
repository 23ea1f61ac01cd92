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

import lightning_gen
from lightning_gen.cli import main
from lightning_gen.data import Digits, ImageDataModule, Images, Source
from lightning_gen.distributions import CategoricalPixels, LogisticPixels
from lightning_gen.errors import InputError
from lightning_gen.models import VQVAE, CategoricalMixture, ChowLiuMixture, Codes, HasLatent, HasLikelihood
from lightning_gen.networks import FSQ, GridDecoder, GridEncoder, MLPDiscriminator, MLPGenerator, VectorQuantizer
from lightning_gen.runs import RunFolder
from lightning_gen.samplers import CodeSampler
from lightning_gen.spec import ImageSpec

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


@pytest.mark.parametrize("likelihood", [CategoricalPixels, partial(LogisticPixels, components=2)])
@pytest.mark.parametrize("quantizer", [partial(VectorQuantizer, codes=4, dim=3), partial(FSQ, levels=[3, 2])])
@pytest.mark.parametrize("halvings", [0, 1])
def test_bounds_of_all_images_come_to_at_most_one(quantizer, likelihood, halvings, quiet_trainer):
    model = tiny(quantizer, likelihood, halvings)
    quiet_trainer(max_steps=10).fit(model, ImageDataModule(TinyImages(), batch_size=32))
    found = model.likelihood(every_image())
    assert found.kind == "bound"
    total = float(found.nats.exp().sum())
    assert 0.01 < total <= 1 + 1e-9


def test_the_bound_is_below_the_sum_over_all_grids(tiny_pair):
    vq, prior = tiny_pair
    model = lightning_gen.load(vq, trust=("test_vqvae",))
    images = every_image()
    grids = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    for sampler in (CodeSampler(), CodeSampler(str(prior))):
        model.sampler = sampler
        with torch.no_grad():
            cost = model.code_likelihood(grids).nats.double()
            assert float(cost.exp().sum()) == pytest.approx(1, abs=1e-6)  # of grids of codes, an exact model
            values = model.quantizer.lookup(grids)
            joint = torch.stack([model.log_conditional(x.expand(81, 1, 2, 2), values).double() + cost for x in images])
        exact, bound = joint.logsumexp(1), model.likelihood(images).nats
        assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-6)
        assert (bound <= exact + 1e-9).all()
        assert float(bound.exp().sum()) <= 1
        own = (grids[:, None] == model.encode(images)[None]).flatten(2).all(2).T
        torch.testing.assert_close(bound, joint[own], rtol=0, atol=1e-6)


def test_a_fitted_prior_raises_the_bound_of_what_it_was_fitted_to(tiny_pair):
    vq, prior = tiny_pair
    model = lightning_gen.load(vq, trust=("test_vqvae",))
    levels = torch.from_numpy(TinyImages().load("train").levels)
    plain = model.likelihood(levels)
    model.sampler = CodeSampler(str(prior))
    fitted = model.likelihood(levels)
    assert fitted.kind == "bound"
    assert fitted.nats.mean() > plain.nats.mean() + 0.05
    # The first part is the same; the second is the prior's own.
    codes = model.encode(levels)
    of_prior = lightning_gen.load(prior).likelihood(codes[:, None].to(torch.uint8)).nats
    model.sampler = CodeSampler()
    of_histograms = model.code_likelihood(codes).nats
    torch.testing.assert_close(fitted.nats - of_prior, plain.nats - of_histograms)


def test_histograms_are_the_shares_of_codes_by_place(quiet_trainer):
    model = tiny(halvings=0)
    data = ImageDataModule(TinyImages(), batch_size=16)
    seen = []
    learn = model._learn_histogram
    model._learn_histogram = lambda indices: (seen.append(indices.clone()), learn(indices))[1]
    quiet_trainer(max_steps=5).fit(model, data)
    counts = np.zeros((4, 4))
    for indices in seen:
        counts *= 2 ** (-16 / 10_000)
        for place, k in itertools.product(range(4), range(4)):
            counts[place, k] += int((indices.flatten(1)[:, place] == k).sum())
    np.testing.assert_allclose(model.histogram.numpy(), counts, rtol=1e-5)
    shares = (counts + 0.5) / (counts + 0.5).sum(1, keepdims=True)
    codes = model.encode(every_image())
    expected = sum(np.log(shares[place, codes.flatten(1)[:, place]]) for place in range(4))
    np.testing.assert_allclose(model.code_likelihood(codes).nats.numpy(), expected, rtol=1e-5)


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_samples_follow_the_prior_and_the_decoder(tiny_pair):
    """Images of many draws against the probabilities that the model gives: a chi-square of the 81 images."""
    vq, prior = tiny_pair
    model = lightning_gen.load(vq, trust=("test_vqvae",))
    grids = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    for sampler in (CodeSampler(), CodeSampler(str(prior))):
        model.sampler = sampler
        with torch.no_grad():
            cost = model.code_likelihood(grids).nats.double()
            values = model.quantizer.lookup(grids)
            images = every_image()
            joint = torch.stack([model.log_conditional(x.expand(81, 1, 2, 2), values).double() + cost for x in images])
        expected = 20_000 * joint.logsumexp(1).exp()
        drawn = model.sample(20_000, generator=torch.Generator().manual_seed(0)).flatten(1).long()
        counts = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81).double()
        often = expected > 20
        chi_square = float(((counts - expected)[often].square() / expected[often]).sum())
        freedom = int(often.sum())
        assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_mean_pixels_are_the_decoded_codes():
    torch.manual_seed(0)
    model = tiny(sampler=CodeSampler(pixels="mean"))
    codes = model.draw_codes(5, None, torch.Generator().manual_seed(0))
    assert torch.equal(model.sample(5, generator=torch.Generator().manual_seed(0)), model.decode(codes))
    assert isinstance(model, HasLatent)
    assert isinstance(model, HasLikelihood)


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_reconstruction_and_the_commitment(quiet_trainer):
    model = tiny(partial(VectorQuantizer, codes=4, dim=3, commitment=0.5)).double()
    batch = next(iter(ImageDataModule(TinyImages(), batch_size=16).train_dataloader()))
    z = model.encode_to_map(batch.levels)
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


def test_a_step_that_is_skipped_leaves_codes_and_histograms_alone(quiet_trainer, make_batches):
    class Faulty(VQVAE):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if batch_idx == 1 else loss

    torch.manual_seed(0)
    networks = {"halvings": 1, "width": 8, "depth": 0}
    model = Faulty(
        TINY,
        partial(GridEncoder, **networks),
        partial(GridDecoder, **networks),
        adam,
        partial(VectorQuantizer, codes=4, dim=2),
    )
    states = []
    keep = model.on_train_batch_end = lambda *args: states.append({k: v.clone() for k, v in model.state_dict().items()})
    assert callable(keep)
    quiet_trainer().fit(model, make_batches(TINY, 3))
    assert model.skipped_steps == 1
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name
    assert not torch.equal(states[2]["histogram"], states[1]["histogram"])


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
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    images = Digits().load("val")
    levels, labels = torch.from_numpy(images.levels), torch.from_numpy(images.labels)
    codes = best.encode(levels)
    first = best.likelihood(levels).nats - best.code_likelihood(codes).nats
    second = model.likelihood(codes[:, None].to(torch.uint8), labels).nats
    bits = float(-(first + second).mean()) / (64 * np.log(2))
    assert float(shown["val/bpd_bound"]) == pytest.approx(bits, rel=1e-4)


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


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: tiny(halvings=2), "sides of 2x2 cannot be halved 2 times"),
        (lambda: tiny(partial(VectorQuantizer, codes=0)), "codes must be at least 2, got 0"),
        (lambda: CodeSampler(pixels="all"), "sampler.pixels must be sample or mean"),
        (
            lambda: VQVAE(DIGITS, partial(GridEncoder, halvings=1), partial(GridDecoder, halvings=2), adam),
            r"GridDecoder must give \(17, 8, 8\) for CategoricalPixels, and gave \(17, 16, 16\): as many halvings",
        ),
        (
            lambda: VQVAE(DIGITS, lightning_gen.networks.MLPEncoder, GridDecoder, adam),
            r"MLPEncoder must give \(32, h, w\) for VectorQuantizer, and gave \(32,\)",
        ),
        (
            lambda: VQVAE(DIGITS, partial(GridEncoder, halvings=1), lightning_gen.networks.MLPDecoder, adam),
            r"MLPDecoder cannot be called with \(2, 32, 4, 4\): .*shapes cannot be multiplied",
        ),
        (lambda: tiny(partial(FSQ, levels=[64] * 6)), "68,719,476,736 codes at 1x1 places are too many to count each"),
        (lambda: tiny(partial(VectorQuantizer, codes=257)).code_spec, "257 codes cannot be the levels of images"),
    ],
)
def test_parts_that_do_not_fit_are_refused_at_construction(make, problem):
    with pytest.raises(InputError, match=problem):
        make()


def test_histograms_in_half_precision_are_refused(quiet_trainer):
    trainer = quiet_trainer(max_steps=1, precision="bf16-true")
    with pytest.raises(InputError, match=r"in float32, which trainer\.precision bf16-true has not: use bf16-"):
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


def test_more_codes_than_levels_train_and_draw_without_a_fitted_prior(quiet_trainer):
    model = tiny(partial(FSQ, levels=[7, 7, 7]))
    quiet_trainer(max_steps=2).fit(model, ImageDataModule(TinyImages(), batch_size=8))
    assert model.sample(4).shape == (4, 1, 2, 2)
    assert model.likelihood(every_image()).nats.isfinite().all()


def test_the_chow_liu_prior_of_the_second_config_is_conditional(prior):
    loaded = lightning_gen.load(prior.last)
    assert isinstance(loaded, ChowLiuMixture)
    assert loaded.conditional
