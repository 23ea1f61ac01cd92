"""Imports point one way, and the package and its console script import neither torch nor lightning by themselves."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_gen
from lightning_gen import core

ROOT = Path(lightning_gen.__file__).parent

# Each may import those before it, and modules of its own line.
ORDER = (
    ("core",),
    ("runs", "shipped"),
    ("networks",),
    ("bijections",),
    ("distributions",),
    ("objectives",),
    ("samplers",),
    ("metrics",),
    ("data",),
    ("steps",),
    ("models",),
    ("evaluation",),
    ("figures",),
    ("sweeps", "report"),
    ("callbacks",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

# These two stand apart: metrics and data know nothing of models, nor of each other.
ONLY = {"metrics": {"core", "networks"}, "data": {"core"}}

# Pure mathematics and networks: usable without a trainer.
PURE = {"core", "runs", "networks", "distributions", "bijections", "objectives", "samplers"}


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name inside the package; "" is the package itself."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, module: str, is_package: bool) -> set[str]:
    """Return the absolute names that a module of lightning_gen imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["lightning_gen", *module.split(".")] if module else ["lightning_gen"]
                package = package[: len(package) - node.level + is_package]
                base = ".".join([*package, base] if base else package)
            # `from lightning_gen import models` names a module as well as `import lightning_gen.models` does.
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= names if base == "lightning_gen" else {base}
    return found


def layer(name: str) -> str | None:
    """Return the layer of an absolute name, None outside the package and for the package's own attributes."""
    package, _, rest = name.partition(".")
    top = rest.partition(".")[0]
    return top if package == "lightning_gen" and top in RANK else None


def wrong_arrows(source: str, module: str, is_package: bool = False) -> list[str]:
    own = module.partition(".")[0]
    wrong = []
    for name in sorted(imports(source, module, is_package)):
        target = layer(name)
        if target is not None and target != own:
            allowed = target in ONLY[own] if own in ONLY else RANK[target] <= RANK[own]
            if not allowed:
                wrong.append(f"{module} imports {name}: {own} may not know {target}")
        if own in PURE and name.partition(".")[0] in ("lightning", "pytorch_lightning"):
            wrong.append(f"{module} imports {name}: {own} stays free of lightning")
    return wrong


def drawn_arrows() -> dict[str, set[str]]:
    """Return which rooms each room imports, as docs/architecture.md says."""
    text = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| ([\w, -]+) \|$", text.partition("## Rooms")[2], re.MULTILINE)
    return {room: set(others.split(", ")) - {"-"} for room, others in rows if room in RANK}


def test_the_page_on_architecture_draws_the_arrows_that_there_are():
    found: dict[str, set[str]] = {name: set() for name in RANK if name != "__main__"}
    for module, path in modules().items():
        own = module.partition(".")[0]
        names = imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
        if own in found:
            found[own] |= {target for target in map(layer, names) if target not in (None, own)}
    assert drawn_arrows() == found
    assert list(drawn_arrows()) == [name for names in ORDER for name in names if name in found]


def test_only_the_training_command_imports_callbacks():
    commands = [name for name in modules() if name.startswith("commands.")]
    texts = {name: modules()[name].read_text(encoding="utf-8") for name in commands}
    importers = {name for name in commands if "lightning_gen.callbacks" in imports(texts[name], name, False)}
    own = {"commands.training", "commands.callbacks", "commands.loggers", "commands.scores", "commands.screen"}
    assert importers <= own


def test_every_module_has_its_layer():
    tops = {name.partition(".")[0] for name in modules()} - {""}
    assert tops <= RANK.keys(), f"give {tops - RANK.keys()} a place in ORDER"


@pytest.mark.parametrize("module", sorted(modules().keys() - {""}))
def test_imports_point_one_way(module):
    path = modules()[module]
    assert not wrong_arrows(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("networks.mlp", "import lightning_gen.models"),
        ("networks.mlp", "def f():\n    from lightning_gen import models"),
        ("networks.mlp", "from lightning.pytorch import LightningModule"),
        ("networks.mlp", "import lightning as L"),
        ("networks.mlp", "from ..models.gan import GAN"),
        ("networks", "from .. import callbacks"),
        ("objectives.elbo", "from lightning_gen.samplers import LatentSampler"),
        ("metrics.kid", "from lightning_gen.objectives import R1"),
        ("metrics.kid", "import lightning_gen.data.digits"),
        ("data.digits", "from lightning_gen.networks import MLPGenerator"),
        ("models.gan", "if True:\n    from lightning_gen.callbacks.ema import EMA"),
        ("callbacks.ema", "from lightning_gen.cli import main"),
        ("commands.sample", "from lightning_gen.cli import fail"),
        ("core.spec", "from lightning_gen.models import load"),
        ("steps.guard", "from lightning_gen.models.base import ImageModule"),
    ],
)
def test_wrong_arrows_are_found(module, source):
    assert len(wrong_arrows(source, module, is_package="." not in module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.gan", "from lightning_gen.networks import MLPGenerator\nfrom .base import ImageModule"),
        ("models.base", "import lightning_gen\nfrom lightning_gen import __version__"),
        ("metrics.kid", "from lightning_gen.networks.mlp import MLPGenerator\nfrom lightning_gen.metrics import base"),
        ("data", "from .digits import Digits"),
        ("callbacks.ema", "from lightning.pytorch import Callback"),
    ],
)
def test_right_arrows_are_left_alone(module, source):
    assert wrong_arrows(source, module, is_package="." not in module) == []


@pytest.mark.parametrize(
    "statement", ["import lightning_gen", "import lightning_gen.cli", "import lightning_gen.core.errors"]
)
def test_light_modules_stay_light(statement):
    code = (
        f"import sys; {statement}; "
        "print(*sorted({'torch', 'lightning', 'torchmetrics', 'torchvision', 'numpy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_package_offers_what_it_lists():
    assert {name for name in lightning_gen.__all__ if getattr(lightning_gen, name) is not None} == {
        "ImageSpec",
        "InputError",
        "__version__",
        "load",
    }
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lightning_gen.nothing


def test_core_offers_what_its_modules_hold_and_tells_editors_the_same():
    names = core.MODULE_OF
    assert all(getattr(core, name).__module__.startswith("lightning_gen.core") for name in names if name != "TRUSTED")
    tree = ast.parse(Path(core.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module.rpartition(".")[2] for node in block.body for alias in node.names}
    assert told == names
