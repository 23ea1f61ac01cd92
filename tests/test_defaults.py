"""A config says only what is its own: the extractor and the metrics are the source's, and given keys win."""

import json
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import LightningDataModule

from lightning_gen.cli import main
from lightning_gen.commands.check_sweep import CommandCheck, ParsingCLI
from lightning_gen.core import InputError
from lightning_gen.data import CIFAR10, Digits, FashionMNIST, ImageFolder
from lightning_gen.models import read_checkpoint
from lightning_gen.runs import RunFolder
from lightning_gen.shipped import configs_folder

QUICKSTART = str(configs_folder() / "quickstart.yaml")
SAID_ELSEWHERE = "lightning_gen.metrics.CopyShare"
BARE = """
model: {class_path: lightning_gen.models.Uniform}
data: {source: lightning_gen.data.Digits}
"""
LONG = """
model:
  class_path: lightning_gen.models.Uniform
data:
  class_path: lightning_gen.data.ImageDataModule
  init_args:
    source:
      class_path: lightning_gen.data.Digits
evaluation:
  extractor:
    class_path: lightning_gen.metrics.DigitsExtractor
  metrics:
  - class_path: lightning_gen.metrics.FrechetDistance
  - class_path: lightning_gen.metrics.InceptionScore
  - class_path: lightning_gen.metrics.PrecisionRecall
  - class_path: lightning_gen.metrics.ClassCoverage
  - class_path: lightning_gen.metrics.CopyShare
"""


class Other(Digits):
    """A source of another package, which says nothing of its own."""

    extractor, metrics = None, ()


class Scored(Digits):
    """One that does."""

    extractor, metrics = "lightning_gen.metrics.PatchExtractor", ("lightning_gen.metrics.SlicedWasserstein",)


class Plain(LightningDataModule):
    """Data that are no ImageDataModule."""


@pytest.fixture(scope="module")
def cli():
    return ParsingCLI()


@pytest.fixture
def resolved(cli, tmp_path, monkeypatch):
    """Return the complete config of a command line that begins with a config of this text."""

    monkeypatch.chdir(tmp_path)

    def resolved(text: str, *options: str) -> dict:
        (tmp_path / "own.yaml").write_text(text)
        cli.parse(["fit", "--config", str(tmp_path / "own.yaml"), *options])
        return yaml.safe_load(cli.complete_config)

    return resolved


def scored_by(config: dict) -> tuple:
    """Return the import paths of the extractor and the metrics of a complete config."""
    extractor, metrics = (config["evaluation"][key] for key in ("extractor", "metrics"))
    return extractor and extractor["class_path"], metrics and tuple(metric["class_path"] for metric in metrics)


def own(source: type) -> tuple:
    return source.extractor, source.metrics


def test_a_short_config_is_the_long_one(resolved):
    assert scored_by(resolved(BARE)) == own(Digits)
    assert resolved(BARE) == resolved(LONG)


@pytest.mark.parametrize("source", [FashionMNIST, CIFAR10, ImageFolder], ids=lambda source: source.__name__)
@pytest.mark.parametrize("form", ["lightning_gen.data.{}", "{}"])
def test_the_source_that_counts_is_that_of_the_whole_command_line(source, form, resolved):
    options = ["--data.source", form.format(source.__name__)]
    options += ["--data.source.root", "."] if source is ImageFolder else []
    assert scored_by(resolved(BARE, *options)) == own(source)
    assert scored_by(resolved(BARE, *options, "--config", '{"data.source": "lightning_gen.data.Digits"}')) == own(
        Digits
    )


def test_given_keys_win(resolved):
    metrics = f"evaluation: {{metrics: [{SAID_ELSEWHERE}]}}"
    assert scored_by(resolved(BARE + metrics)) == (Digits.extractor, (SAID_ELSEWHERE,))
    assert scored_by(resolved(BARE, f"--evaluation.metrics=[{SAID_ELSEWHERE}]")) == (
        Digits.extractor,
        (SAID_ELSEWHERE,),
    )
    extractor = "evaluation: {extractor: lightning_gen.metrics.PatchExtractor}"
    assert scored_by(resolved(BARE + extractor)) == ("lightning_gen.metrics.PatchExtractor", Digits.metrics)
    kept = resolved(LONG, "--data.source=FashionMNIST")
    assert scored_by(kept) == own(Digits)


def test_what_the_source_has_can_be_changed_in_part(resolved):
    to_cifar = "--data.source=CIFAR10"
    for option in (["--evaluation.extractor.weights", "w.pt"], ["--evaluation.extractor.weights=w.pt"]):
        config = resolved(BARE, to_cifar, *option)
        assert scored_by(config) == own(CIFAR10)
        assert config["evaluation"]["extractor"]["init_args"]["weights"] == "w.pt"
    longer = resolved(BARE, to_cifar, "--evaluation.metrics+=CopyShare")
    assert scored_by(longer) == (CIFAR10.extractor, (*CIFAR10.metrics, SAID_ELSEWHERE))


@pytest.mark.parametrize("off", ["extractor: null", "metrics: null", "metrics: []", "extractor: null, metrics: []"])
def test_null_switches_sample_metrics_off(off, resolved):
    config = resolved(BARE + f"evaluation: {{{off}}}")
    assert config["evaluation"]["extractor"] is None
    assert not config["evaluation"]["metrics"]


def test_sources_of_other_packages_have_what_they_say(resolved):
    assert scored_by(resolved(BARE, f"--data.source={__name__}.Other")) == (None, None)
    assert scored_by(resolved(BARE, f"--data.source={__name__}.Scored")) == own(Scored)
    codes = ["--data.source=lightning_gen.models.Codes", "--data.source.checkpoint=none.ckpt"]
    assert scored_by(resolved(BARE, *codes)) == (None, None)


def test_models_that_draw_nothing_and_other_data_have_none(resolved):
    classifier = ["--model=Classifier", "--model.network=SmallClassifier", "--model.optimizer=torch.optim.Adam"]
    assert scored_by(resolved(BARE, *classifier)) == (None, None)
    assert scored_by(resolved(BARE.replace("{source: lightning_gen.data.Digits}", f"{__name__}.Plain"))) == (None, None)


def test_a_printed_config_is_complete_and_is_read_as_it_was(resolved, capsys):
    options = ["--evaluation.extractor=null"], ["--data.source=GaussianGrid"], ["--evaluation.metrics=[CopyShare]"], []
    for some in options:
        expected = resolved(BARE, *some)
        with pytest.raises(SystemExit) as end:
            main(["fit", f"--config={Path('own.yaml').resolve()}", *some, "--print_config"])
        printed = capsys.readouterr().out
        assert end.value.code == 0
        assert resolved(printed) == expected


def test_a_misspelled_source_is_told_in_one_line(capsys):
    for name in ("lightning_gen.data.Digitz", "Digitz"):
        with pytest.raises(SystemExit) as end:
            main(["fit", "--config", QUICKSTART, "--data.source", name])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: data.source: ")
        assert "Digitz" in line


def test_sweeps_know_the_keys_of_what_is_not_written(capsys):
    check = CommandCheck()
    args = ["fit", "--config", QUICKSTART]
    parsed = check.check([*args, "--data.source=CIFAR10", "--evaluation.extractor.resize=clean"])
    assert parsed.evaluation.extractor.init_args.resize == "clean"
    check.check([*args, "--evaluation.extractor=PatchExtractor", "--evaluation.extractor.patches=8"])
    with pytest.raises(InputError, match=r"evaluation\.extractor\.patchez.*no such option"):
        check.check([*args, "--evaluation.extractor=PatchExtractor", "--evaluation.extractor.patchez=8"])


def test_a_checkpoint_is_evaluated_as_its_run_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(BARE)
    main(["fit", "--config=own.yaml", "--budget.images=64", "--evaluation.n=50", "--trainer.accelerator=cpu"])
    last = RunFolder(tmp_path / "runs" / "own" / "version_0").last
    stored = read_checkpoint(last)["evaluation"]
    assert (stored["extractor"]["class_path"].rpartition(".")[2]) == Digits.extractor.rpartition(".")[2]
    assert len(stored["metrics"]) == len(Digits.metrics)
    main(["evaluate", str(last), "--n=50", "--json=out.json"])
    assert {"fid_digits_heldout", "is_digits", "copy_share_pixels"} <= json.loads(Path("out.json").read_text()).keys()
