"""The configs and sweep files that come with the package; imports nothing slow."""

import difflib
from pathlib import Path

from lightning_gen.core import InputError


def configs_folder() -> Path:
    """Return the folder of the configs: in a wheel inside the package, in a checkout beside it."""
    return _folder("configs", "configs")


def sweeps_folder() -> Path:
    """Return the folder of the sweep files: in a wheel inside the package, in a checkout beside it."""
    return _folder("sweep_files", "sweeps")


def find_config(name: str) -> Path:
    """Return the path of a config file: as given, or ``configs/...`` among those of the package.

    Raises:
        InputError: for a file that is in neither place, naming the nearest one, or that is no config.
    """
    path = _find(name, "configs", configs_folder(), "config file")
    check_config(path)
    return path


def check_config(path: Path) -> None:
    """Raise InputError unless a file holds a mapping, as YAML in UTF-8, without a key that hides another."""
    import yaml  # which the general help does without

    try:
        with path.open(encoding="utf-8") as file:
            root = yaml.compose(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8: give a config, saved as UTF-8") from None
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"the config cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: a config must be a mapping of keys, such as model: and data:")
    nodes: list[yaml.Node] = [root]
    for node in nodes:  # which become more on the way
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [key.value for key, _ in pairs]
        for i, (key, _) in enumerate(pairs):
            if key.value in keys[:i] and key.value != "<<":
                line = key.start_mark.line + 1
                raise InputError(f"{path}: {key.value} stands here twice (line {line}), and the last alone would count")
        inside = node.value if isinstance(node, yaml.SequenceNode) else [value for _, value in pairs]
        nodes += [child for child in inside if child not in nodes]


def find_sweep(name: str) -> Path:
    """Return the path of a sweep file: as given, or ``sweeps/...`` among those of the package.

    Raises:
        InputError: for a file that is in neither place, naming the nearest one.
    """
    return _find(name, "sweeps", sweeps_folder(), "sweep file")


def _folder(inside: str, beside: str) -> Path:
    package = Path(__file__).parent
    return package / inside if (package / inside).is_dir() else package.parent / beside


def _find(name: str, prefix: str, folder: Path, what: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    parts = Path(name).parts
    if parts and parts[0] == prefix and (shipped := folder.joinpath(*parts[1:])).is_file():
        return shipped
    if Path(name).is_dir():
        raise InputError(f"{name} is a folder: give a {what}")
    known = sorted(f"{prefix}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.yaml"))
    near = difflib.get_close_matches(name, known, 1)
    raise InputError(f"no {what} {name}" + (f": did you mean {near[0]}?" if near else ""))
