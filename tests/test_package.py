"""What is installed: a wheel with configs and weights in it, quick answers, and one version number."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import lightning_gen
from lightning_gen.cli import configs_folder

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SLOW_TO_IMPORT = {"torch", "lightning", "torchmetrics", "torchvision", "numpy", "sklearn", "jsonargparse", "wandb"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    """Build the source archive, and the wheel from what is in it; return both."""
    for name in ("build", "hatchling"):
        assert importlib.util.find_spec(name), f'{name} is missing: pip install -e ".[dev]"'
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory) -> Path:
    """Install the wheel, without its requirements, into a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("uv") or "", "pip"]
    if not pip[0]:
        pytest.skip("neither pip nor uv is here to install with")
    command = [*pip, "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(archives[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def python(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def files_below(folder: Path, patterns: tuple[str, ...]) -> set[str]:
    return {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.rglob(pattern)}


def test_the_wheel_holds_code_configs_weights_and_licence(archives):
    names = set(zipfile.ZipFile(archives[1]).namelist())
    assert {
        f"lightning_gen/{name}"
        for name in files_below(ROOT / "lightning_gen", ("*.py", "*.safetensors", "*.html", "*.css", "*.js"))
    } <= names
    assert {f"lightning_gen/configs/{name}" for name in files_below(ROOT / "configs", ("*.yaml",))} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (scripts,) = (name for name in names if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(archives[1]).read(scripts).decode()
    for script in ("lightning", "lightning-gen"):
        assert re.search(rf"^{script} = lightning_gen\.cli:main$", text, re.MULTILINE)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"lightning_gen"}
    assert archives[1].stat().st_size < 4e6


def test_the_source_archive_is_complete(archives):
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "docs/extending.md", "tests/conftest.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("runs/")]


def test_an_installed_copy_finds_its_configs(installed, tmp_path):
    shown = python("-m", "lightning_gen", "--help", cwd=tmp_path, path=installed)
    assert shown.returncode == 0, shown.stderr
    assert str(installed / "lightning_gen" / "configs") in shown.stdout
    code = "from lightning_gen.cli import find_config; print(find_config('configs/quickstart.yaml'))"
    found = python("-c", code, cwd=tmp_path, path=installed)
    assert found.stdout.strip() == str(installed / "lightning_gen" / "configs" / "quickstart.yaml")
    missing = python(
        "-m", "lightning_gen", "fit", "--config", "configs/gan/dcgan-digit.yaml", cwd=tmp_path, path=installed
    )
    assert missing.returncode == 2
    assert "did you mean configs/gan/dcgan-digits.yaml?" in missing.stderr


@pytest.mark.slow
def test_an_installed_copy_trains_and_scores(installed, tmp_path):
    run = ["fit", "--config", "configs/quickstart.yaml", "--budget.images", "640", "--evaluation.n", "100"]
    done = python("-m", "lightning_gen", *run, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / "quickstart" / "version_0" / "summary.json").read_text())
    assert summary["last"]["val/fid_digits_heldout"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "usage: lightning VERB"),
        ([], 0, "usage: lightning VERB"),
        (["--version"], 0, f"lightning-gen {lightning_gen.__version__}"),
        (["fitt"], 2, "did you mean 'fit'?"),
        (["fit", "--config", "nope.yaml"], 2, "no config file nope.yaml"),
        (["validate", "--config=configs/quickstar.yaml"], 2, "did you mean configs/quickstart.yaml?"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else None,
)
def test_quick_answers_import_nothing_slow(arguments, code, said, tmp_path):
    program = (
        "import sys\nfrom lightning_gen.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print('imported:', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = python("-c", program, *arguments, cwd=tmp_path, path=ROOT)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    imported = set(done.stdout.partition("imported:")[2].split())
    assert "lightning_gen" in imported
    assert not imported & SLOW_TO_IMPORT


def test_there_is_one_version_number():
    assert PROJECT["version"] == lightning_gen.__version__
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_requirement_has_a_lower_bound():
    optional = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    assert [name for name in (*PROJECT["dependencies"], *optional) if ">=" not in name] == []


def test_a_checkout_finds_its_configs():
    assert (configs_folder() / "quickstart.yaml").is_file()


def test_the_script_of_the_pipeline_is_sound():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
