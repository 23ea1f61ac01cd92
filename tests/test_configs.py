"""Every shipped config says how it is run, parses, and takes a step, on any machine."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lightning_gen.cli import configs_folder, main
from lightning_gen.core.descriptions import find_class
from lightning_gen.figures import figure_of
from lightning_gen.models import GenerativeModule, ImageModule
from lightning_gen.models.variational import VariationalModel
from lightning_gen.steps.means import RunningMeans

CONFIGS = sorted(configs_folder().rglob("*.yaml"))
IDS = [str(path.relative_to(configs_folder())) for path in CONFIGS]
DATA = ("warped-digits", "digits", "fashion-mnist", "cifar10", "folder", "gaussian-grid")
NEEDS_NO_FILES = ("lightning_gen.data.Digits", "lightning_gen.data.GaussianGrid", "lightning_gen.data.WarpedDigits")
UNSCORED = shlex.split("--evaluation.extractor null --evaluation.metrics [] --checkpoint.monitor null")


def command(path: Path) -> list[str]:
    """Return the arguments of the command in a config's first line."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# lightning "), f"{path}: the first line must be the very command"
    return shlex.split(first.removeprefix("# lightning "))


def content(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def source_of(path: Path) -> str:
    """Return the import path of a config's source."""
    source = content(path)["data"]["source"]
    return source if isinstance(source, str) else source["class_path"]


def paint(folder: Path, classes: int, channels: int) -> None:
    """Write six small pictures per class (or twenty without classes) into ``folder``."""
    for i in range(6 * classes or 20):
        place = folder / f"class{i % classes}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (40 + i, 36), (10 * i % 256, 90, (200 - 9 * i) % 256))
        (picture.convert("L") if channels == 1 else picture).save(place / f"{i}.png")


def on_this_machine(arguments: list[str], path: Path) -> list[str]:
    """Return options that put a few painted pictures in the place of files that this machine may lack."""
    config, name = content(path), source_of(path)
    if name in NEEDS_NO_FILES:
        return []
    if name == "lightning_gen.models.Codes":  # of a model that a config beside it trains, here for one step
        trained = path.with_name(path.name.replace("-prior", ""))
        short = ["--budget.images", "8", "--evaluation.n", "50", "--data.batch_size", "8", "--run.root", "trained"]
        painted = on_this_machine(command(trained), trained)
        main(["fit", "--config", str(trained), *short, *painted, "--trainer.accelerator", "cpu"])
        (checkpoint,) = Path("trained").rglob("last.ckpt")
        arguments[arguments.index("--data.source.checkpoint") + 1] = str(checkpoint)
        return []
    if name == "lightning_gen.data.ImageFolder":
        paint(Path(arguments[arguments.index("--data.source.root") + 1]), 0, 3)
        return []
    spec = find_class(name).spec
    paint(Path("painted"), spec.num_classes, spec.channels)
    given, source = config["evaluation"], find_class(name)
    extractor = given.get("extractor", source.extractor)
    metrics = json.dumps(given.get("metrics", source.metrics))
    own = ["--evaluation.extractor", extractor, "--evaluation.metrics", metrics]  # a folder has others
    if "Inception" in extractor:  # whose weights are a download
        own = UNSCORED
    if not issubclass(find_class(config["model"]["class_path"]), GenerativeModule):
        own = []
    return own + shlex.split(
        f"--data.source lightning_gen.data.ImageFolder --data.source.root painted --data.source.channels {spec.channels} "
        f"--data.source.size '[{spec.height}, {spec.width}]'"
    )


@pytest.fixture
def logged(monkeypatch) -> set[str]:
    """Names of all figures that are logged."""
    names: set[str] = set()
    log, note = ImageModule.log, RunningMeans.note

    def log_and_tell(model, name, *args, **kwargs):
        names.add(name)
        return log(model, name, *args, **kwargs)

    def note_and_tell(means, values):
        names.update(f"train/{name}" for name in values)
        return note(means, values)

    monkeypatch.setattr(ImageModule, "log", log_and_tell)
    monkeypatch.setattr(RunningMeans, "note", note_and_tell)
    return names


def test_there_are_configs():
    assert "quickstart.yaml" in IDS
    assert len(IDS) >= 5


def test_the_header_is_the_command():
    for path in CONFIGS:
        verb, option, name, *rest = command(path)
        assert (verb, option) == ("fit", "--config"), path
        assert name == f"configs/{path.relative_to(configs_folder()).as_posix()}"
        assert len(rest) % 2 == 0, path
        comments = path.read_text(encoding="utf-8").split("\n")[1:3]
        assert all(line.startswith("# ") for line in comments), f"{path}: then what it is, and where its figures are"


def test_the_name_says_family_variant_and_data():
    for path in CONFIGS:
        name = path.relative_to(configs_folder()).as_posix()
        family = rf"[a-z0-9-]+/([a-z0-9-]+-)?({'|'.join(DATA)})\.yaml"
        assert name == "quickstart.yaml" or re.fullmatch(family, name), name
        source = str(content(path)["data"]["source"]).lower()
        data = next((word for word in DATA if path.stem.endswith(word)), "digits")
        assert data.replace("-", "") in source.replace("-", ""), name


# Networks for larger images take their time, and are those of the configs for digits.
LARGE = ("fashion-mnist", "cifar10", "128", "256")
WITH_LARGE_ONES_SLOW = [
    pytest.param(path, marks=pytest.mark.slow) if any(word in path.name for word in LARGE) else path for path in CONFIGS
]


@pytest.mark.parametrize("path", WITH_LARGE_ONES_SLOW, ids=IDS)
def test_it_takes_a_step(path, tmp_path, monkeypatch, logged):
    monkeypatch.chdir(tmp_path)
    arguments = command(path)
    painted = on_this_machine(arguments, path)
    few, some = ("2", "2") if any(side in path.name for side in ("128", "256")) else ("4", "8")
    small = ["--data.batch_size", few, "--evaluation.batch_size", some, "--grid.n", few, "--run.threads", "1"]
    small += ["--pictures.n", "4", "--pictures.pairs", "1"]
    if issubclass(find_class(content(path)["model"]["class_path"]), VariationalModel):
        small += ["--model.importance_samples", "2"]
    main(
        [
            *arguments,
            *painted,
            *small,
            "--trainer.accelerator",
            "cpu",
            "--trainer.fast_dev_run",
            "true",
        ]
    )
    assert not Path("runs").exists()
    assert logged
    assert [name for name in sorted(logged) if figure_of(name) is None] == []


def test_every_key_is_written_once():
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path}: a key stands twice in line {node.start_mark.line + 1}"
            return super().construct_mapping(node, deep)

    for path in CONFIGS:
        yaml.load(path.read_text(encoding="utf-8"), Strict)


def test_what_is_the_default_anyway_is_not_said():
    for path in CONFIGS:
        config, source = content(path), find_class(source_of(path))
        assert "class_path" not in config["data"], path
        for key in ("extractor", "metrics"):
            given, own = config["evaluation"].get(key), getattr(source, key)
            assert given is None or given != (list(own) if key == "metrics" else own), f"{path}: evaluation.{key}"
        assert config["evaluation"].get("n") != 2000, path


def test_lines_are_of_120_columns():
    for path in CONFIGS:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert max(map(len, lines)) <= 120, path
