"""Figures of how training stands, against direct computation; the collapse monitor: when it speaks, and what it does."""

import contextlib
import copy
import io
import itertools
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import Adam

import lightning_gen
from lightning_gen.callbacks import (
    EMA,
    Checkpoints,
    CollapseMonitor,
    Diagnostics,
    GenerativeEvaluation,
    MetricsCSV,
    Recorder,
)
from lightning_gen.callbacks.diagnostics import summary
from lightning_gen.cli import main
from lightning_gen.core.errors import InputError
from lightning_gen.core.randomness import keyed_generator
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Batch, Digits, ImageDataModule
from lightning_gen.distributions import LogisticPixels
from lightning_gen.models import GAN, VAE, HierarchicalVAE
from lightning_gen.models.reporting import report
from lightning_gen.networks import LadderNetwork, MLPDecoder, MLPDiscriminator, MLPEncoder, MLPGenerator
from lightning_gen.objectives import ELBO
from lightning_gen.runs import RunFolder, read_metrics

CONFIG = str(Path(__file__).parents[1] / "conf" / "gan.yaml")
FULL = str(Path(__file__).parents[1] / "conf" / "full.yaml")
EVERY = 320  # images between evaluations


def fit(root: Path, *arguments: str, config: str = CONFIG) -> RunFolder:
    main(["fit", "--config", config, "--run.root", str(root), *arguments])
    return RunFolder(root / Path(config).stem / "version_0")


def evaluations(run: RunFolder, figure: str = "val/critic_accuracy") -> list[dict[str, float]]:
    """Return the figures of every evaluation that has ``figure``, by name."""
    rows = [row for row in read_metrics(run.path / "metrics.csv")[1] if row.get(figure)]
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


# Diagnostics


@pytest.mark.parametrize("config", [CONFIG, FULL], ids=["unconditional", "conditional"])
def test_figures_against_direct_computation(config, tmp_path):
    run = fit(tmp_path, "--budget.images=640", "--diagnostics.n=90", "--diagnostics.spectral_norms=true", config=config)
    (found,) = evaluations(run)
    found = {name: value for name, value in found.items() if "_digits" not in name and name.startswith("val/")}

    model = lightning_gen.load(run.last)  # the averaged generator, as evaluations have it
    expected = {}
    for part, suffix in {"val": "", "train": "_on_train"}.items():
        levels, labels = Digits().load(part)
        order = np.sort(torch.randperm(len(levels), generator=torch.Generator().manual_seed(0))[:90].numpy())
        levels, labels = torch.from_numpy(levels[order]), torch.from_numpy(labels[order])
        real, noise = model.spec.to_unit(levels), keyed_generator(model.seed, "diagnostics", model.images_seen)
        fake = model.spec.to_unit(model.sample(90, labels, generator=noise))
        with torch.no_grad():
            scores = {"real": model.discriminator(real, labels), "fake": model.discriminator(fake, labels)}
        for name, value in scores.items():
            expected[f"val/score_{name}{suffix}"] = value.double().numpy().mean()
            expected[f"val/score_{name}{suffix}_std"] = value.double().numpy().std()
        pairs = list(itertools.product(scores["real"].tolist(), scores["fake"].tolist()))
        expected[f"val/critic_accuracy{suffix}"] = np.mean([(r > f) + 0.5 * (r == f) for r, f in pairs])
        alike = [
            (a, b) for a, b in itertools.combinations(range(90), 2) if not model.conditional or labels[a] == labels[b]
        ]
        rows = [images.flatten(1).tolist() for images in (fake, real)]
        spreads = [np.mean([math.dist(x[a], x[b]) for a, b in alike]) for x in rows]
        expected[f"val/diversity{suffix}"] = spreads[0] / spreads[1]
    if not model.conditional:  # the same samples: nothing to tell
        del expected["val/score_fake_on_train"], expected["val/score_fake_on_train_std"]
    for name in ("generator", "discriminator"):
        largest = 0.0
        for module in getattr(model, name).modules():
            weight = getattr(module, "weight", None)  # the normalised one, where there is a spectral norm
            weight = module.applied_weight() if hasattr(module, "applied_weight") else weight
            if isinstance(weight, torch.Tensor) and weight.ndim > 1:
                largest = max(largest, np.linalg.norm(weight.detach().double().flatten(1).numpy(), 2))
        expected[f"val/spectral_norm_{name}"] = largest
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert {name: run.summary()["last"][name] for name in found} == found  # they can be monitored and read


def test_evaluations_leave_training_alone(tmp_path):
    """Also where training draws from the global generators, as dropout does."""
    common = ["--model.discriminator=DenseDiscriminator", "--model.discriminator.width=8", "--budget.images=960"]
    states = []
    for name, n in (("none", 0), ("many", 500)):
        run = fit(tmp_path / name, *common, f"--evaluation.every={EVERY}", f"--diagnostics.n={n}")
        states.append(torch.load(run.last, weights_only=True))
        names = read_metrics(run.path / "metrics.csv")[0]
        assert ("val/critic_accuracy" in names) == (n > 0)
        assert not any(name.startswith("val/spectral_norm") for name in names)
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(states[1]["state_dict"][name], value), name


def test_histograms_go_to_wandb_and_tensorboard(tmp_path, monkeypatch):
    import wandb
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = []
    histogram = wandb.Histogram
    monkeypatch.setattr(wandb, "Histogram", lambda values: made.append(values) or histogram(values))
    run = fit(tmp_path, "--budget.images=640", "--diagnostics.n=90", "--run.wandb=true", "--run.tensorboard=true")
    (figures,) = evaluations(run)
    assert [len(values) for values in made] == [90, 90]
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    for name, values in zip(("val/score_real", "val/score_fake"), made, strict=True):
        assert values.mean() == pytest.approx(figures[name], rel=1e-5)
        (event,) = events.Histograms(name)
        assert event.step == figures["images_seen"] == 640
        assert event.histogram_value.num == 90
        assert event.histogram_value.sum == pytest.approx(90 * figures[name], rel=1e-5)


def test_a_summary_is_mean_and_population_deviation():
    assert summary("x", torch.tensor(2.5)) == {"x": 2.5}
    values = [1.0, 2.0, 4.0]
    assert summary("x", torch.tensor(values)) == pytest.approx({"x": np.mean(values), "x_std": np.std(values)})
    assert summary("x", torch.tensor([3.0]))["x_std"] == 0


# A small run under a plain Trainer, with evaluations whose figures are given


class Script(Callback):
    """Report the next of these figures at each evaluation."""

    def __init__(self, rows):
        self.rows = iter(rows)

    def on_validation_epoch_end(self, trainer, pl_module):
        report(pl_module, next(self.rows))


class Watch(Callback):
    """Keep what training begins each step with."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_start(self, trainer, pl_module, *args):
        ema = next(callback for callback in trainer.callbacks if isinstance(callback, EMA))
        self.seen[pl_module.images_seen] = copy.deepcopy(
            {
                "state_dict": dict(pl_module.state_dict()),
                "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
                "ema": {name: dict(average.state_dict()) for name, average in ema.averages.items()},
            }
        )


class Stop(Callback):
    """End training at so many images."""

    def __init__(self, images):
        self.images = images

    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop |= pl_module.images_seen >= self.images


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def model_of(spec: ImageSpec, **options) -> GAN:
    adam = partial(Adam, lr=1e-3, betas=(0.0, 0.99))
    arguments = {
        "generator": partial(MLPGenerator, latent_dim=4, widths=(8,)),
        "discriminator": partial(MLPDiscriminator, widths=(8,)),
        "generator_optimizer": adam,
        "discriminator_optimizer": adam,
    }
    return GAN(spec, **{**arguments, **options})


def train(
    root: Path,
    rows,
    images: int,
    *callbacks: Callback,
    monitor: str | None = None,
    resume: bool = False,
    build=model_of,
    **options,
):
    """Train with scripted evaluations every 320 images; return the run's folder and what Watch saw."""
    folder = RunFolder(root / "run" / "version_0") if resume else RunFolder.new(str(root), "run")
    watch = Watch()
    everything = [
        EMA(500),
        GenerativeEvaluation(EVERY),
        Script(rows),
        *callbacks,
        watch,
        Stop(images),
        Recorder(folder, ""),
        Checkpoints(1_000_000, monitor),
    ]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        num_sanity_val_steps=0,
        logger=MetricsCSV(folder),
        callbacks=everything,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.check_val_every_n_epoch = None
    torch.manual_seed(0)
    model = build(Digits().spec, **options)
    path = {"ckpt_path": str(folder.last), "weights_only": True} if resume else {}
    trainer.fit(model, datamodule=ImageDataModule(Digits(), 32), **path)
    return folder, watch.seen


def scripted(*values: float, name: str = "val/diversity") -> list[dict[str, float]]:
    return [{name: value} for value in values]


def said(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "collapsed" in line or line.startswith("going")]


GOOD, BAD = 0.9, 0.1
Collapse = partial(CollapseMonitor, after=0)


def told(monitor: CollapseMonitor, *rows: dict[str, float]) -> list[str]:
    """Let a monitor see evaluations with these figures, every 320 images; return what it prints."""
    lines = []
    model = SimpleNamespace(spec=Digits().spec, images_seen=0, print=lines.append)
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), sanity_checking=False, should_stop=False)
    for row in rows:
        model.images_seen += EVERY
        monitor.note_figures(row, {})
        monitor.on_validation_end(trainer, model)
    return lines


def test_it_warns_once_when_a_sign_lasts():
    for patience, diversities, at in [
        (1, [BAD, BAD, BAD], 320),
        (2, [BAD, BAD, BAD, BAD], 640),
        (2, [BAD, GOOD, BAD, GOOD, BAD], None),
        (2, [BAD, GOOD, BAD, BAD, BAD], 1280),
        (3, [BAD, BAD, GOOD, BAD, BAD, BAD, BAD], 1920),
        (1, [GOOD, GOOD, math.nan], None),
    ]:
        lines = told(Collapse(patience=patience), *scripted(*diversities))
        assert len(lines) == (at is not None), diversities
        if at:
            assert lines[0].startswith(
                f"warning: training looks collapsed at {at:,} images: samples differ 0.10 times as much as real images "
                "do. Usual remedies: a gradient penalty"
            ), diversities


def test_the_beginning_is_not_judged_and_off_says_nothing():
    (line,) = told(CollapseMonitor(after=900), *scripted(BAD, BAD, BAD, BAD))
    assert "at 1,280 images" in line  # the second one that counts
    assert told(Collapse("off"), *scripted(BAD, BAD, BAD)) == []


def test_stop_ends_the_run_with_everything_saved(tmp_path, capsys):
    folder, _ = train(tmp_path, scripted(*[BAD] * 9), 9 * EVERY, Collapse("stop"))
    assert said(capsys)[0].endswith(". Stopping (collapse.action)")
    assert len(evaluations(folder, "val/diversity")) == 2
    saved = torch.load(folder.last, weights_only=True)
    assert saved["lightning_gen"]["images_seen"] == folder.summary()["images_seen"] == 640
    assert folder.summary()["status"] == "finished"


def monitored(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"val/diversity": diversity, "val/figure": figure} for diversity, figure in pairs]


class Steps(Callback):
    """A schedule that sets another learning rate at each step."""

    def on_train_batch_start(self, trainer, pl_module, *args):
        for optimizer in trainer.optimizers:
            optimizer.param_groups[0]["lr"] = 1e-3 / (1 + pl_module.images_seen)


def test_roll_back_goes_on_from_the_best_weights(tmp_path, capsys):
    rows = monitored((GOOD, 3.0), (GOOD, 1.0), (BAD, 4.0), (GOOD, 5.0))
    collapse = Collapse("roll_back", patience=1)
    folder, seen = train(tmp_path, rows, 4 * EVERY, Steps(), collapse, monitor="val/figure")
    lines = said(capsys)
    assert len(lines) == 2
    assert lines[0].endswith(". Going back to the best checkpoint (collapse.action)")
    best = folder.path / "checkpoints" / "best.ckpt"
    assert lines[1] == f"going on from the weights of {best} (640 images)"
    stored = torch.load(best, weights_only=True)
    assert stored["lightning_gen"]["images_seen"] == 640
    now = seen[960]
    assert same(now["state_dict"], dict(stored["state_dict"]))
    assert same(now["ema"], {name: dict(average) for name, average in stored["ema"].items()})
    for mine, theirs in zip(now["optimizer_states"], stored["optimizer_states"], strict=True):
        assert same(mine["state"], theirs["state"])
        assert mine["param_groups"][0]["lr"] == 1e-3 / 961  # the schedule's, not the checkpoint's
    assert not same(seen[640 + 32]["state_dict"], now["state_dict"])
    assert not same(seen[960 + 32]["state_dict"], seen[640 + 32]["state_dict"])  # other images, other noise
    last = torch.load(folder.last, weights_only=True)
    assert last["lightning_gen"]["images_seen"] == 1280
    assert last["lightning_gen"]["counters"]["critic_steps_taken"] == 40


def test_a_best_figure_at_a_collapse_is_still_that_evaluations(tmp_path):
    """The checkpoint of this evaluation is written before going back; it is the best one, so nothing changes."""
    rows = monitored((GOOD, 3.0), (BAD, 1.0), (GOOD, 2.0))
    folder, seen = train(tmp_path, rows, 3 * EVERY, Collapse("roll_back", patience=1), monitor="val/figure")
    _, plain = train(tmp_path / "plain", rows, 3 * EVERY, monitor="val/figure")
    stored = torch.load(folder.path / "checkpoints" / "best.ckpt", weights_only=True)
    assert stored["lightning_gen"]["images_seen"] == 640
    assert same(seen[640]["state_dict"], dict(stored["state_dict"]))
    assert all(same(seen[images], plain[images]) for images in seen)


def test_going_back_without_a_best_checkpoint_says_so(tmp_path, capsys):
    rows = monitored((BAD, math.nan), (GOOD, 1.0))
    train(tmp_path, rows, 2 * EVERY, Collapse("roll_back", patience=1), monitor="val/figure")
    assert "there is no best checkpoint to go back to: going on as it is" in capsys.readouterr().out


def test_a_run_stopped_before_it_went_back_goes_back_when_resumed(tmp_path, capsys):
    collapse = partial(Collapse, "roll_back", patience=1)
    folder, _ = train(tmp_path, monitored((GOOD, 1.0), (BAD, 2.0)), 640, collapse(), monitor="val/figure")
    best = torch.load(folder.path / "checkpoints" / "best.ckpt", weights_only=True)
    assert not same(dict(torch.load(folder.last, weights_only=True)["state_dict"]), dict(best["state_dict"]))
    assert len(said(capsys)) == 1
    _, seen = train(tmp_path, monitored((BAD, 3.0)), 960, collapse(), monitor="val/figure", resume=True)
    assert same(seen[640]["state_dict"], dict(best["state_dict"]))
    assert len(said(capsys)) == 1  # went back, once


def test_what_was_seen_before_a_stop_counts_after_it(tmp_path, capsys):
    train(tmp_path, scripted(BAD), 320, Collapse())
    assert said(capsys) == []
    train(tmp_path, scripted(BAD), 640, Collapse(), resume=True)
    assert len(said(capsys)) == 1
    train(tmp_path, scripted(BAD, BAD), 1280, Collapse(), resume=True)
    assert said(capsys) == []  # told already


def test_roll_back_needs_a_monitored_figure(tmp_path):
    with pytest.raises(InputError, match=r"collapse.action roll_back needs a best checkpoint: give checkpoint.monitor"):
        train(tmp_path, [], 320, CollapseMonitor("roll_back"))


# What counts as a sign


def signs(figures: dict[str, float], spec: ImageSpec = Digits.spec) -> dict[str, str]:
    return CollapseMonitor().signs(figures, spec)


def test_signs():
    for figures, expected in [
        ({}, {}),
        ({"val/diversity": 0.3, "val/critic_accuracy": 0.999, "val/classes_digits": 5.0}, {}),
        ({"val/diversity": 0.29}, {"diversity": "samples differ 0.29 times as much as real images do"}),
        (
            {"val/critic_accuracy": 0.9991},
            {"critic_accuracy": "the critic ranks a real image above a sample with probability 0.9991"},
        ),
        ({"val/classes_digits": 4.0}, {"classes": "4 of 10 classes are drawn"}),
        ({"val/classes_digits_class7": 1.0}, {}),  # a figure of one class alone
        ({"val/class_distance_digits": 0.1, "val/classes": 1.0}, {}),
        ({"val/critic_accuracy_on_train": 1.0, "val/diversity_on_train": 0.0}, {}),  # overfitting is no collapse
        ({"test/diversity": 0.0, "val/diversity": math.nan}, {}),
    ]:
        assert signs(figures) == expected, figures
    assert signs({"val/classes_digits": 0.0}, ImageSpec(1, 8, 8, 17)) == {}  # of images without labels


NAT = 1 / (64 * math.log(2))  # in bits per dimension of digits


def test_signs_of_posterior_collapse():
    for figures, expected in [
        ({"val/active_units": 0.0}, {"active_units": "no unit of the latent tells images apart"}),
        ({"val/active_layers": 0.0}, {"active_layers": "no layer of the latent tells images apart"}),
        ({"val/active_units": 1.0, "val/active_layers": 1.0, "val/margin_over_independent": 0.001}, {}),
        ({"val/active_units_on_train": 0.0, "test/active_units": 0.0}, {}),
        (
            {"val/margin_over_independent": -0.0125},
            {"margin": "the bound is no better than independent pixels (-0.013 bits per dimension)"},
        ),
        (
            {"val/margin_over_independent": 0.0, "val/kl": 0.03 / NAT},
            {"margin": "the bound is no better than independent pixels (+0.000 bits per dimension)"},
        ),
        # Latents that pixels gain from, at a price that a warm-up leaves out of the loss.
        ({"val/margin_over_independent": -1.4, "val/kl": 2.0 / NAT}, {}),
        ({"val/margin_over_independent": -1.4, "val/kl": 1.4 / NAT}, {"margin": None}),
        ({"val/margin_over_independent": math.nan, "val/active_units": math.nan}, {}),
    ]:
        found = signs(figures)
        assert found.keys() == expected.keys(), figures
        assert all(text in (None, found[name]) for name, text in expected.items()), figures


def test_remedies_are_those_of_what_is_trained():
    rows = [{"val/active_units": 0.0, "val/margin_over_independent": -0.01}] * 2
    (line,) = told(Collapse(), *rows)
    assert "no unit of the latent tells images apart and the bound is no better than independent pixels" in line
    for word in ("KL warm-up", "free bits", "smaller model.objective.beta", "weaker decoder"):
        assert word in line.partition(". Usual remedies: ")[2]
    assert "critic" not in line.lower()
    # Also where another sign is all there is: no critic is to be told what to do
    (line,) = told(Collapse(), *[{"val/active_units": 3.0, "val/classes_digits": 1.0}] * 2)
    assert "1 of 10 classes are drawn. Usual remedies: a KL warm-up" in line
    # Two signs are told together.
    (line,) = told(Collapse(), *[{"val/diversity": BAD, "val/critic_accuracy": 1.0}] * 2)
    assert "real images do and the critic ranks a real image above a sample with probability 1.0000." in line


def test_bad_arguments_are_refused_by_name():
    for arguments, message in [
        ({"diversity": -0.1}, r"collapse.diversity must be in \[0, 1\], got -0.1"),
        ({"classes": 1.5}, r"collapse.classes must be in \[0, 1\], got 1.5"),
        ({"critic_accuracy": math.nan}, r"collapse.critic_accuracy must be in \[0, 1\], got nan"),
        ({"patience": 0}, "collapse.patience must be at least 1, got 0"),
        ({"after": -1}, "collapse.after must be at least 0 images, got -1"),
    ]:
        with pytest.raises(InputError, match=message):
            CollapseMonitor(**arguments)
    with pytest.raises(InputError, match=r"diagnostics\.n must be at least 0, got -1"):
        Diagnostics(-1)


# Real figures


class Stuck(MLPGenerator):
    """Draws one image, whatever its latent."""

    def forward(self, latent, labels=None):
        return super().forward(latent * 0, labels)


def test_a_generator_that_ignores_its_latent_is_noticed(tmp_path, capsys):
    stuck = partial(Stuck, latent_dim=4, widths=(8,))
    callbacks = [Diagnostics(100), Collapse()]
    folder, _ = train(tmp_path, [{}] * 3, 960, *callbacks, generator=stuck)
    assert [row["val/diversity"] for row in evaluations(folder)] == [0, 0, 0]
    (line,) = said(capsys)
    assert "at 640 images: samples differ 0.00 times as much as real images do" in line


class Deaf(MLPDecoder):
    """Makes its pixels without looking at the latent."""

    def forward(self, latent, labels=None):
        return super().forward(latent * 0, labels)


def vae_of(spec: ImageSpec, decoder: type = MLPDecoder, **options) -> VAE:
    parts = {"encoder": partial(MLPEncoder, widths=(64,)), "decoder": partial(decoder, widths=(64,))}
    arguments = {"likelihood": LogisticPixels, "latent_dim": 8, "importance_samples": 1}
    return VAE(spec, **parts, optimizer=partial(Adam, lr=1e-2), **{**arguments, **options})


def ladder_of(spec: ImageSpec, **options) -> HierarchicalVAE:
    network = partial(LadderNetwork, resolutions=(8, 4), depths=(1, 1), width=8, latent_channels=2)
    return HierarchicalVAE(spec, network, optimizer=partial(Adam, lr=1e-2), importance_samples=1, **options)


@pytest.mark.parametrize("build", [vae_of, ladder_of])
def test_the_margin_is_that_over_the_shares_of_levels_in_the_training_part(build, tmp_path):
    folder, _ = train(tmp_path, [{}], 320, Diagnostics(90), build=build)
    (found,) = evaluations(folder, "val/reconstruction")
    levels = {part: Digits().load(part).levels.reshape(-1, 64) for part in ("train", "val")}
    shares = np.stack([(levels["train"] == level).sum(0) + 1 / 17 for level in range(17)]) / (1097 + 1)
    for part, suffix in {"val": "", "train": "_on_train"}.items():
        order = torch.randperm(len(levels[part]), generator=torch.Generator().manual_seed(0))[:90].numpy()
        independent = -np.log2(shares[levels[part][order], np.arange(64)]).mean()
        elbo = NAT * (found[f"val/reconstruction{suffix}"] + found[f"val/kl{suffix}"])
        assert found[f"val/margin_over_independent{suffix}"] == pytest.approx(independent - elbo, rel=1e-5)
    saved = torch.load(folder.last, weights_only=True)
    own = build(Digits().spec).state_dict()
    assert saved["state_dict"].keys() == own.keys()  # what it is compared with is no part of it


@pytest.fixture(scope="module")
def autoencoders(tmp_path_factory) -> dict[str, tuple[dict[str, float], list[str]]]:
    """The last figures of three runs and what the monitor said: of a decoder that ignores its latent, of a good one,
    and of one in a warm-up, whose latents cost too much."""
    found = {}
    kinds = {"deaf": {"decoder": Deaf}, "good": {}, "warm-up": {"objective": ELBO(warmup=1_000_000)}}
    for name, options in kinds.items():
        callbacks, output = [Diagnostics(200), CollapseMonitor(after=3000)], io.StringIO()
        with contextlib.redirect_stdout(output):
            root = tmp_path_factory.mktemp(name)
            folder, _ = train(root, [{}] * 12, 12 * EVERY, *callbacks, build=vae_of, **options)
        lines = [line for line in output.getvalue().splitlines() if "collapsed" in line]
        found[name] = evaluations(folder, "val/active_units")[-1], lines
    return found


def test_a_decoder_that_ignores_its_latent_is_noticed_and_others_are_not_suspected(autoencoders):
    assert {name: len(lines) for name, (_, lines) in autoencoders.items()} == {"deaf": 1, "good": 0, "warm-up": 0}
    (line,) = autoencoders["deaf"][1]
    assert "no unit of the latent tells images apart" in line
    assert "Usual remedies: a KL warm-up" in line
    assert autoencoders["deaf"][0]["val/active_units"] == 0
    assert autoencoders["good"][0]["val/active_units"] >= 3
    assert autoencoders["warm-up"][0]["val/kl"] * NAT > 0.5


def test_the_margin_tells_decoders_apart(autoencoders):
    margins = {name: row["val/margin_over_independent"] for name, (row, _) in autoencoders.items()}
    assert abs(margins["deaf"]) < 0.06  # a smooth fit is a little better than counting
    assert margins["good"] > 0.15
    assert margins["warm-up"] < 0


@pytest.mark.parametrize("name", ["quickstart", pytest.param("gan/mlp-digits", marks=pytest.mark.slow)])
def test_configs_that_learn_are_not_suspected(name, tmp_path, capsys):
    config = str(Path(__file__).parents[2] / "configs" / f"{name}.yaml")
    arguments = ["--budget.images=30000", "--evaluation.every=5000", "--evaluation.n=200", "--schedule.images=1000000"]
    coverage = ["--evaluation.metrics=[FrechetDistance, ClassCoverage]", "--checkpoint.every=1000000"]
    run = fit(tmp_path, *arguments, *coverage, config=config)
    classes, others = evaluations(run, "val/classes_digits"), evaluations(run)
    assert len(classes) == len(others) >= 6
    assert said(capsys) == []
    assert classes[-1]["val/classes_digits"] >= 8
    assert 0.5 < others[-1]["val/critic_accuracy"] < 0.99
    assert 0.7 < others[-1]["val/diversity"] < 1.2


def test_figures_are_the_first_ranks(tmp_path, monkeypatch):
    """Other ranks take them over, whatever their own batch statistics say."""
    from lightning.pytorch.strategies import SingleDeviceStrategy

    def broadcast(self, value, src=0):
        return {"val/critic_accuracy": 0.123} if isinstance(value, dict) and value else value

    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", broadcast)
    folder, _ = train(tmp_path, [{}], 320, Diagnostics(50))
    assert folder.summary()["last"] == {"val/critic_accuracy": 0.123}


def test_equally_many_images_of_either_part(tmp_path, monkeypatch):
    counts = []
    original = GAN.diagnostics

    def counting(self, batch: Batch):
        counts.append(len(batch.levels))
        return original(self, batch)

    monkeypatch.setattr(GAN, "diagnostics", counting)
    train(tmp_path, [{}], 320, Diagnostics(500))
    assert counts == [200, 200]  # the validation part has no more
