"""Bad input at the command line: one line that names the thing and the remedy, exit code 2, nothing left behind."""

import errno
import re

import pytest
import torch
from refusals import refused

from lightning_gen.runs import RunFolder

QUICKSTART = ["fit", "--config", "configs/quickstart.yaml", "--budget.images=64"]  # what is not refused costs little

# (arguments after the quickstart's config, what the one line must say)
FIT = [
    (["--model.generator.widht", "4"], r"model\.generator\.widht: no such option.*'widths'"),
    (["--model.generatr.width", "4"], r"model\.generatr\.width: no such option.*'generator'"),
    (["--modell.x", "4"], r"modell\.x: no such option.*'model'"),
    (["--data.batchsize", "4"], r"data\.batchsize: no such option.*'batch_size'"),
    (["--data.batch_size", "0"], r"batch_size must be at least 1, got 0"),
    (["--data.batch_size", "abc"], r"data\.batch_size: expected a whole number, got 'abc'"),
    (["--budget.images", "many"], r"budget\.images: expected a whole number or null, got 'many'"),
    (["--budget.images", "-5"], r"budget\.images must be above 0, got -5"),
    (["--budget.imgaes", "5"], r"budget\.imgaes: no such option.*'budget\.images'"),
    (["--budget.images", "null"], r"how long should the run last\? give --budget\.images"),
    (["--budget.images"], r"budget\.images: needs a value"),
    (["--budget", "5"], r"budget: stands for several options: give them one by one, as --budget\.KEY VALUE"),
    (["--budget", "{nope: 5}"], r"budget\.nope: no such option"),
    (["--budget.images.x", "5"], r"budget\.images\.x: no such option"),
    (["--seed_everything", "-1"], r"seed_everything must be from 0 to 4294967295, got -1"),
    (["--trainer.logger", "Nope"], r"trainer\.logger: expected a Logger, .* got 'Nope'"),
    (["--trainer.logger", "CometLogger"], r"a package is missing: .*comet-ml.*pip install"),
    (["--trainer.callbacks", "Nope"], r"trainer\.callbacks: there is no class 'Nope'"),
    (["--trainer.max_epochs", "3"], r"trainer\.max_epochs: .*--budget\.images"),
    (["--trainer.max_steps", "3"], r"trainer\.max_steps: .*--budget\.images"),
    (["--trainer.strategy", "ddp_spawn"], r"trainer\.strategy: spawned processes .*; use ddp"),
    (["--trainer.strategy", "ddp_notebook"], r"trainer\.strategy: spawned processes .*; use ddp"),
    (
        ["--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.every_n_train_steps", "-1"],
        r"every_n_train_steps=-1",
    ),
    (["--trainer.barebones", "true"], r"trainer: .*barebones"),
    (["more.yaml"], r"unexpected 'more\.yaml': give --config more\.yaml"),
    (["budget.images", "5"], r"unexpected 'budget\.images': options begin with --"),
    (["--budget.image", "5"], r"budget\.image: no such option.*'budget\.images'"),
    (["--seed", "5"], r"seed: no such option.*'seed_everything'"),
    (["--weights_only", "false"], r"weights_only: no such option"),
    (["--trainer.acelerator", "cpu"], r"trainer\.acelerator: no such option.*'trainer\.accelerator'"),
    (["--trainer.precision", "17"], r"trainer\.precision: expected .*bf16-mixed.*, got '17'"),
    (["--model.loss", "Hinge2"], r"model\.loss: 'Hinge2' is not the import path of an AdversarialLoss .*'Hinge'"),
    (
        ["--model.loss", "lightning_gen.objectives.Nope"],
        r"model\.loss: .*Nope' is not the import path of an Adversarial",
    ),
    (
        ["--model.loss", "torch.nn.Linear"],
        r"model\.loss: 'torch\.nn\.Linear' is not the import path of an AdversarialLoss",
    ),
    (["--model", "lightning_gen.models.GANN"], r"model: .*GANN' is not the import path .*'GAN'"),
    (
        ["--model.loss", "my_own.Loss"],
        r"model\.loss: there is no module 'my_own': install it, or run where my_own\.py lies",
    ),
    (["--model.generator", "torch.relu"], r"model\.generator: 'torch\.relu' is not the import path"),
    (["--model.generator_optimizer.lr", "fast"], r"model\.generator_optimizer\.lr: expected a number, got 'fast'"),
    (["--model.critic_steps", "0"], r"critic_steps must be at least 1, got 0"),
    (["--model.generator.widths", "[16, 0]"], r"MLPGenerator\.widths\[1\] must be a positive integer, got 0"),
    (["--data", "null"], r"^data: is required"),
    (["--data", "unwritten.Images"], r"data: unwritten\.py cannot be imported: .*line 1"),
    (["--data", "incomplete.Images"], r"data: incomplete cannot be imported: No module named 'nowhere_to_be_found'"),
    (["--data.source", "lightning_gen.data.ImageFolder"], r"data\.source\.root: is required"),
    (["--data.source", "Digitz"], r"data\.source: .*'Digitz'"),
    (
        ["--data.source", "ImageFolder", "--data.source.root", "nowhere", "--data.source.size", "8"],
        r"nowhere: no such folder",
    ),
    (["--ckpt_path", "nope.ckpt"], r"no checkpoint at nope\.ckpt"),
    (["--ckpt_path", "full"], r"no checkpoint at full \(it is a folder\)"),
    (["--init_from", ""], r"no checkpoint at"),
    (["--run.root", "text.ckpt"], r"cannot make a run folder in text\.ckpt/.*; choose another --run\.root"),
    (["", "5"], r"unexpected '': options begin with --"),
    (["--ckpt_path", "last"], r"--ckpt_path last: no unfinished run in runs/quickstart"),
    (["--ckpt_path", "last", "--init_from", "x"], r"--ckpt_path goes on with a run, --init_from starts a new one"),
    (["--ckpt_path", "text.ckpt"], r"text\.ckpt is not a checkpoint, or was cut short"),
    (["--init_from", "text.ckpt"], r"text\.ckpt is not a checkpoint, or was cut short"),
    (["--ema.half_life", "-1"], r"ema\.half_life must be at least 0 images"),
    (["--evaluation.n", "0"], r"evaluation\.n must be at least 1, got 0"),
    (["--evaluation.every", "0"], r"evaluation\.every must be at least 1 image, got 0"),
    (
        ["--checkpoint.monitor", "val/nope", "--budget.images", "64"],
        r"no figure named 'val/nope'; this run has: .*val/fid_digits",
    ),
    (["--config", "interpolation.yaml"], r"the config cannot be resolved: .*nothing\.here"),
    (["--config", "full"], r"full is a folder: give a config file"),
    (["--config", ""], r"--config needs a file"),
    (["--config", "--budget.images=5"], r"--config needs a file, got --budget\.images=5"),
    (["--run.threads", "0"], r"run\.threads must be at least 1"),
    (["--diagnostics.n", "-1"], r"diagnostics\.n must be at least 0, got -1"),
    (["--collapse.patience", "0"], r"collapse\.patience must be at least 1, got 0"),
    (["--collapse.diversity", "2"], r"collapse\.diversity must be in \[0, 1\], got 2"),
    (["--collapse.action", "explode"], r"collapse\.action: expected .*roll_back.*, got 'explode'"),
    (
        ["--collapse.action", "roll_back", "--checkpoint.monitor", "null"],
        r"collapse\.action roll_back needs a best checkpoint: give checkpoint\.monitor",
    ),
    (["--evaluation.n", "3"], r"evaluation\.n must be at least 10 for InceptionScore, got 3"),
    (["--evaluation.per_class", "true"], r"evaluation\.per_class: this GAN is not class-conditional"),
    (["--model.generator.conditional", "true"], r"MLPGenerator is class-conditional, but nothing teaches it"),
    (
        ["--data.source", "GaussianGrid", "--model.generator.conditional", "true"],
        r"MLPGenerator: conditional needs classes, but these images have none",
    ),
    (["--model.penalties", "[R11]"], r"model\.penalties: .*'R11'"),
    (["--model.penalties", "[3]"], r"model\.penalties: '3' is not the import path of a Penalty"),
    (
        ["--model.penalties.0.weight", "5"],
        r"model\.penalties is a list, which is given as a whole: --model\.penalties '",
    ),
    (
        ["--model.loss", "3.5"],
        r"model\.loss: '3\.5' is not the import path of an AdversarialLoss; known ones are Hinge",
    ),
    (["--model.generator.widths", "64"], r"model\.generator\.widths: expected a list, got '64'"),
    (["--model.generator_penalties", "[R1]"], r"model\.generator_penalties: .*'R1'"),
    (
        ["--model.generator_penalties", "[PathLength]"],
        r"PathLength: MLPGenerator has no styles, split\(\), styles\(\) and synthesise\(\)",
    ),
    (["--model.augmentation", "ADA", "--model.augmentation.target", "3"], r"ADA\.target must be in \[-1, 1\]"),
    (
        ["--model.augmentation", "DiffAugment", "--model.augmentation.policy", "[color]"],
        r"DiffAugment\.policy must be among colour, translation, cutout, got 'color'",
    ),
    (
        ["--model.auxiliary", "AuxiliaryClassifier"],
        r"judges classes .* make .* conditional",
    ),
    (
        ["--evaluation.metrics", "[lightning_gen.metrics.FrechetDistanc]"],
        r"there is no class 'lightning_gen\.metrics\.FrechetDistanc' \(did you mean 'FrechetDistance'\?\)",
    ),
]

OTHER = [
    (["fitt"], r"unknown verb 'fitt': did you mean 'fit'\?"),
    (["--config", "x"], r"the verb comes first"),
    (["fit"], r"which model and data\? give --config FILE"),
    (["fit", "--config"], r"--config needs a file"),
    (["fit", "--config", "nope.yaml"], r"no config file nope\.yaml"),
    (["fit", "--config", "configs/quickstar.yaml"], r"did you mean configs/quickstart\.yaml\?"),
    (["test", "--config", "configs/quickstart.yaml"], r"test what\? give --ckpt_path FILE"),
    (["validate", "--config", "configs/quickstart.yaml", "--ckpt_path", "last"], r"no run with a checkpoint in"),
    (["sample", "x.ckpt"], r"--out: is required"),
    (["sample"], r"^CKPT: is required \(and --out\)$"),
    (["evaluate", "text.ckpt", "--json", "/proc/x"], r"--json /proc/x: (cannot be written \(|there is no folder)"),
    (["sample", "nope.ckpt", "--out", "o"], r"no checkpoint at nope\.ckpt"),
    (["sample", "text.ckpt", "--n", "0", "--out", "o"], r"--n: expected a whole number of at least 1"),
    (["sample", "text.ckpt", "--m", "0", "--out", "o"], r"--m: no such option"),
    (["sample", "text.ckpt", "--weight", "live", "--out", "o"], r"--weight: no such option.*'weights'"),
    (["sample", "text.ckpt", "--out", "full"], r"--out full exists and is not an empty folder"),
    (["sample", "foreign.ckpt", "--out", "o"], r"foreign\.ckpt was not written by lightning-gen"),
    (["evaluate", "text.ckpt", "--n", "abc"], r"--n: expected a whole number of at least 1"),
    (["evaluate", "text.ckpt", "--json", "no/folder/x.json"], r"there is no folder no/folder"),
    (["evaluate", "nope.ckpt"], r"no checkpoint at nope\.ckpt"),
    (["interpolate", "nope.ckpt", "--out", "x.png"], r"no checkpoint at nope\.ckpt"),
    (["interpolate", "text.ckpt"], r"--out: is required"),
    (["animate", "full", "--out", "x.gif"], r"full: no sample grids in samples/"),
    (["sample", "text.ckpt", "--weights", "both", "--out", "o"], r"^--weights: invalid choice: 'both'"),
    (["evaluate", "text.ckpt", "--part", "train"], r"^--part: invalid choice: 'train' \(choose from"),
    (["animat"], r"unknown verb 'animat': did you mean 'animate'\?"),
]


# (what a further config holds, what the one line must say)
CONFIGS = [
    ("model: [unclosed\n", r"the config cannot be read: .*bad\.yaml.*line 1"),
    ("budget:\n\timages: 5\n", r"the config cannot be read: .*bad\.yaml.*line 2"),
    ("- a\n- b\n", r"bad\.yaml: a config must be a mapping of keys"),
    ("", r"bad\.yaml: a config must be a mapping of keys"),
    ("run: {experiment: Größe}\n".encode("latin-1"), r"bad\.yaml is no text in UTF-8"),
    (bytes(range(256)), r"the config cannot be read|bad\.yaml is no text in UTF-8"),
    ("budget: {images: 64}\nrun: {}\nbudget: {minutes: 1}\n", r"bad\.yaml: budget stands here twice \(line 3\)"),
    ("fit: {budget: {images: 64}}\n", r"keys stand at a config's top, with no fit: above them"),
    ("modell: {class_path: GAN}\n", r"modell(\.\w+)?: no such option \(did you mean 'model'\?\)"),
    ("budget:\n# images: 64\n", r"budget: stands for several options: give them under it, or leave it out"),
    ("budget: [64]\n", r"budget: stands for several options: give them under it, or leave it out"),
    ("trainer: 5\n", r"trainer: stands for several options: give them under it, or leave it out"),
    ("data: {class_path: ImageDataModule, init_args: [1]}\n", r"data: init_args must be a mapping of arguments"),
    ("data: {init_args: {source: [Digits]}}\n", r"data\.source: .*Digits.* is not the import path of a Source"),
]


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    (tmp_path / "unwritten.py").write_text("class Images(:\n")
    (tmp_path / "incomplete.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "interpolation.yaml").write_text("budget: {images: '${nothing.here}'}\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")


# In groups by the option's first word: a failure tells the arguments, and what else is wrong is still found.
GROUPS = sorted({arguments[0].lstrip("-").partition(".")[0] for arguments, _ in FIT})


@pytest.mark.parametrize("group", GROUPS)
def test_bad_fit(group, capsys, tmp_path):
    for arguments, expected in FIT:
        if arguments[0].lstrip("-").partition(".")[0] != group:
            continue
        line = refused(capsys, *QUICKSTART, *arguments, alone=False)
        assert re.search(expected, line), (arguments, line)
        if "--checkpoint.monitor" not in arguments:
            assert not (tmp_path / "runs").exists(), f"{arguments}: a run folder was left behind"


@pytest.mark.parametrize(("content", "expected"), CONFIGS, ids=[expected[:30] for _, expected in CONFIGS])
def test_bad_config(content, expected, capsys, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused(capsys, *QUICKSTART, "--config", "bad.yaml", alone=False)
    assert re.search(expected, line), line


def test_a_folder_of_somebody_else(capsys, monkeypatch):
    def refuses(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(RunFolder, "unfinished", lambda root, experiment: refuses(f"{root}/{experiment}"))
    line = refused(capsys, *QUICKSTART, "--ckpt_path", "last", alone=False)
    assert line == "Permission denied: 'runs/quickstart': choose another folder; no checkpoint was written"


@pytest.mark.parametrize("name", ["generator_clip", "discriminator_clip"])
def test_clipping_to_nothing_is_refused(name, capsys):
    line = refused(capsys, *QUICKSTART, f"--model.{name}", "0")
    assert line == f"GAN.{name} must be above 0, got 0.0"


def test_bad_command_line(capsys):
    for arguments, expected in OTHER:
        line = refused(capsys, *arguments)
        assert re.search(expected, line), (arguments, line)
