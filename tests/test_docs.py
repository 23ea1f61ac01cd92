"""The documents tell what is true: their code runs as it stands, their commands work, their links lead somewhere."""

import doctest
import importlib
import json
import math
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image

import lightning_gen
from lightning_gen.cli import configs_folder, main

ROOT = Path(__file__).parent.parent
README, EXTENDING = ROOT / "README.md", ROOT / "docs" / "extending.md"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
MOST_LINES = 40  # of a block that adds something

# Appended to the README's training commands: later options win, and a test has no minutes.
SHORT = ["--budget.images", "640", "--evaluation.n", "50", "--evaluation.batch_size", "50", "--data.batch_size", "16"]


class Block(NamedTuple):
    """One fenced block of a Markdown file; ``file`` is the name in its first line, or ""."""

    language: str
    text: str
    file: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        named = re.match(r"# (\S+\.(?:py|yaml))\n", match[2])
        found.append(Block(match[1], match[2], named[1] if named else "", text[: match.start()].count("\n") + 1))
    return found


def commands(path: Path) -> list[list[str]]:
    """Return the arguments of every line of a console block that runs ``lightning``."""
    lines = [
        line.removeprefix("$ ")
        for block in blocks(path)
        if block.language == "console"
        for line in block.text.splitlines()
    ]
    return [shlex.split(line)[1:] for line in lines if line.startswith("lightning ")]


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # the page says: export PYTHONPATH=.
    return tmp_path


# --- docs/extending.md ----------------------------------------------------------------------------------------------


def test_the_page_on_extending_runs_from_top_to_bottom(workplace):
    for block in blocks(EXTENDING):
        place = f"{EXTENDING}:{block.line}"
        if block.file:
            (workplace / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, place, "exec"), {"__name__": "docs"})
        elif block.language == "console":
            for line in block.text.splitlines():
                program, *arguments = shlex.split(line.removeprefix("$ "))
                assert program in ("lightning", "export"), place
                if program == "lightning":
                    main(arguments)
        else:
            pytest.fail(f"{place}: a block of {block.language} that nobody runs")
    bpd = json.loads((workplace / "runs/independent-digits/version_0/summary.json").read_text())["best"]["val/bpd"]
    assert 2.2 < bpd < 2.6  # independent pixels fitted by counting have 2.4 bits; knowing nothing costs log2(17)
    assert len(list((workplace / "samples").glob("*.png"))) == 64


def test_the_example_family_knows_nothing_before_training(workplace):
    (source,) = [block.text for block in blocks(EXTENDING) if block.file == "my_models.py"]
    namespace = {"__name__": "docs_family"}
    exec(source, namespace)
    spec = lightning_gen.ImageSpec(1, 3, 5, levels=17)
    model = namespace["IndependentPixels"](spec, optimizer=None)
    levels = model.sample(6)
    spec.check(levels)
    nats = model.likelihood(levels).nats
    assert nats.tolist() == pytest.approx([-15 * math.log(17)] * 6)


@pytest.mark.parametrize("block", [block for block in blocks(EXTENDING) if block.file], ids=lambda block: block.file)
def test_examples_are_short_and_tidy(block, tmp_path):
    assert block.text.count("\n") <= MOST_LINES
    if block.file.endswith(".py"):
        (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=120", "--diff", block.file]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


# --- README.md ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> Path:
    """A folder in which the README's first command was run, only shorter, and where my_pictures lies."""
    folder = tmp_path_factory.mktemp("readme")
    for i in range(20):
        (folder / "my_pictures").mkdir(exist_ok=True)
        Image.new("RGB", (20 + i, 30), (12 * i, 100, 10)).save(folder / "my_pictures" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config", "configs/quickstart.yaml", *SHORT])
    return folder


def test_the_readme_begins_with_the_one_line():
    first = blocks(README)[0].text.strip()
    assert first == (
        "python -m venv .venv && . .venv/bin/activate && pip install -e . && lightning fit --config configs/quickstart.yaml"
    )


def test_the_readme_s_python_lines(quickstart, monkeypatch):
    monkeypatch.chdir(quickstart)
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted >= 4
    assert result.failed == 0


@pytest.mark.slow  # all together: each goes on with what those before it left
@pytest.mark.parametrize("arguments", commands(README), ids=" ".join)
def test_the_readme_s_commands(arguments, quickstart, monkeypatch):
    monkeypatch.chdir(quickstart)
    if arguments[0] == "fit":  # at 64x64 a step takes seconds
        arguments = [*arguments, *SHORT, "--budget.images", "16", "--data.batch_size", "8", "--grid.n", "4"]
    if "--importance_samples" in arguments:
        arguments = ["10" if value == "1000" else value for value in arguments]
    if arguments[0] == "ais":
        arguments = [*arguments, "--n", "2", "--simulated", "2", "--steps", "5"]
    if arguments[0] == "sweep":
        config = yaml.safe_load((configs_folder() / "gan" / "relativistic-digits.yaml").read_text(encoding="utf-8"))
        config["budget"]["images"], config["data"]["batch_size"] = 640, 16
        config["evaluation"] |= {"n": 50, "batch_size": 50}
        Path("short.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        arguments = ["1" if value == "24" else value for value in arguments]  # one run of the 24
        arguments += ["--config", "short.yaml"]
    main(arguments)


def rows_of_options() -> list[list[str]]:
    """Return the options of each row of the README's table about runs."""
    table = README.read_text(encoding="utf-8").partition("| wish | options |")[2].partition("\n\n")[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.count("|") == 3 and "---" not in line]
    rows = [
        [span for span in re.findall(r"`([^`]+)`", cell) if span.startswith("--") and " " in span] for cell in cells
    ]
    assert len(rows) >= 8
    return [shlex.split(" ".join(row)) for row in rows]


def row(options: list[str]):
    return pytest.param(
        options, marks=[pytest.mark.slow] if "--trainer.devices" in options else [], id=" ".join(options)
    )


@pytest.mark.parametrize("options", [row(options) for options in rows_of_options()])
def test_the_readme_s_options(options, quickstart, monkeypatch):
    monkeypatch.chdir(quickstart)
    arguments = ["fit", "--config", "configs/quickstart.yaml"]
    if "--ckpt_path" in options:
        summary = quickstart / "runs" / "quickstart" / "version_0" / "summary.json"
        summary.write_text(summary.read_text().replace('"finished"', '"interrupted"'))
    if "--trainer.devices" in options:  # starts its own command line again, so it must be one
        command = [sys.executable, "-m", "lightning_gen", *arguments, *options, *SHORT]
        subprocess.run(command, check=True, capture_output=True, timeout=200)
    else:
        main([*arguments, *options, *SHORT])


# --- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_names_of_the_package_exist(path):
    for name in sorted(set(re.findall(r"\blightning_gen(?:\.\w+)+", path.read_text(encoding="utf-8")))):
        assert pkgutil.resolve_name(name) is not None, name


@pytest.mark.parametrize(
    "name",
    sorted(m.name for m in pkgutil.walk_packages(lightning_gen.__path__, "lightning_gen.") if "__main__" not in m.name),
)
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
