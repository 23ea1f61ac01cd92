"""Objects as plain data and back: what makes a checkpoint describe itself.

An object is described by ``{"class_path": "package.Class", "init_args": {...}}``. Its init arguments are read back from
attributes of the same names (scikit-learn's convention), so a class joins by storing what it was given. A factory
(``functools.partial(Class, ...)``, the class itself, or what jsonargparse makes of a config) is described in the same
way; whether a description stands for an object or a factory is told by the annotation of the parameter it is for.
"""

from __future__ import annotations

import collections.abc
import functools
import importlib
import inspect
import types
import typing
from typing import Any

from lightning_gen.errors import InputError

PLAIN = (type(None), bool, int, float, str)
TRUSTED = ("lightning_gen", "torch")


def class_path(cls: type) -> str:
    """Return the import path of a class.

    Raises:
        InputError: for a class defined inside a function, which no other process can import.
    """
    if "<locals>" in cls.__qualname__:
        raise InputError(f"{cls.__qualname__} is defined inside a function: move it to a module, so that load finds it")
    return f"{cls.__module__}.{cls.__qualname__}"


def describe(value: Any, where: str = "value") -> Any:
    """Return plain data (None, bool, int, float, str, list, dict) from which :func:`build` makes ``value`` again.

    Raises:
        InputError: naming ``where`` for a lambda or function, or for an object whose init arguments cannot be read back.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [describe(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): describe(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, functools.partial):
        return _describe_factory(value, where)
    if inspect.isclass(value):
        return {"class_path": class_path(value), "init_args": {}}
    if inspect.isroutine(value):
        name = getattr(value, "__qualname__", repr(value))
        raise InputError(
            f"{where}: the function {name} cannot be stored in a checkpoint; pass a class or functools.partial(Class, ...)"
        )
    return {"class_path": class_path(type(value)), "init_args": describe_arguments(value, where)}


def describe_arguments(value: Any, where: str) -> dict[str, Any]:
    """Return the init arguments of an object, read from its attributes of the same names."""
    arguments = {}
    for name, parameter in inspect.signature(type(value).__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(value, name):
            raise InputError(
                f"{where}: {type(value).__name__} does not keep its argument {name!r} as an attribute of that name, "
                "so a checkpoint cannot describe it"
            )
        arguments[name] = describe(getattr(value, name), f"{where}.{name}")
    return arguments


def _describe_factory(factory: functools.partial, where: str) -> dict[str, Any]:
    # jsonargparse's factories are partial(<its instantiator>, Class, **init_args); a user's are partial(Class, ...).
    made = [item for item in (factory.func, *factory.args) if inspect.isclass(item)]
    positional = [item for item in factory.args if not inspect.isclass(item) and not callable(item)]
    if len(made) != 1 or positional:
        raise InputError(f"{where}: a factory must be functools.partial(Class, name=value, ...), got {factory!r}")
    keywords = {name: describe(item, f"{where}.{name}") for name, item in factory.keywords.items()}
    return {"class_path": class_path(made[0]), "init_args": keywords}


def find_class(path: str, trust: typing.Sequence[str] = TRUSTED) -> type:
    """Import the class at ``path`` if its package is trusted.

    Raises:
        InputError: for a package that is not trusted, or where there is no such class.
    """
    module_name, _, _ = path.rpartition(".")
    roots = {name.partition(".")[0] for name in trust}
    if not module_name or path.partition(".")[0] not in roots:
        raise InputError(
            f"{path} is not from a trusted package ({', '.join(sorted(roots))}): "
            f'if you trust it, load with trust=("{path.partition(".")[0]}",) or --trust {path.partition(".")[0]}'
        )
    target: Any = None
    while module_name:  # nested classes have qualified names: import the longest prefix that is a module
        try:
            target = importlib.import_module(module_name)
            break
        except ModuleNotFoundError:
            module_name = module_name.rpartition(".")[0]
    if target is not None:
        for name in path[len(module_name) + 1 :].split("."):
            target = getattr(target, name, None)
    if not inspect.isclass(target):
        raise InputError(f"there is no class {path}: is the package of the version that wrote the file installed?")
    if target.__module__.partition(".")[0] not in roots:
        raise InputError(
            f"{path} leads to {target.__module__}.{target.__qualname__}, which is not from a trusted package"
        )
    return target


def build(description: Any, expected: Any, trust: typing.Sequence[str] = TRUSTED, where: str = "value", **extra: Any):
    """Make the object, or factory, that ``description`` stands for; the inverse of :func:`describe`.

    Args:
        description: plain data.
        expected: the annotation of the parameter that the result is for. Only subclasses of what it names are built.
        trust: packages from which classes may be imported.
        where: name of the place, for error messages.
        extra: further keyword arguments of the outermost object (such as ``spec``).

    Raises:
        InputError: for a class that is not trusted or not of the expected type, or arguments it does not take.
    """
    origin = typing.get_origin(expected)
    if origin in (typing.Union, types.UnionType):
        return _build_union(description, expected, trust, where)
    if isinstance(description, list):
        inner = [a for a in typing.get_args(expected) if a is not Ellipsis] or [Any]
        return [
            build(item, inner[min(i, len(inner) - 1)], trust, f"{where}[{i}]") for i, item in enumerate(description)
        ]
    if not (isinstance(description, dict) and "class_path" in description):
        return description
    is_factory = origin is collections.abc.Callable
    base = typing.get_args(expected)[-1] if is_factory else expected
    cls = find_class(description["class_path"], trust)
    base = typing.get_origin(base) or base
    if not inspect.isclass(base) or not issubclass(cls, base):
        raise InputError(f"{where}: {description['class_path']} is not a {getattr(base, '__name__', base)}")
    hints = typing.get_type_hints(cls.__init__)
    known = inspect.signature(cls.__init__).parameters
    arguments = dict(extra)
    for name, item in description.get("init_args", {}).items():
        if name not in known:
            raise InputError(f"{where}: {cls.__name__} takes no argument {name!r} (another version wrote the file?)")
        arguments[name] = build(item, hints.get(name, Any), trust, f"{where}.{name}")
    return functools.partial(cls, **arguments) if is_factory else cls(**arguments)


def _build_union(description: Any, expected: Any, trust: typing.Sequence[str], where: str) -> Any:
    alternatives = [a for a in typing.get_args(expected) if a is not type(None)]
    failure: InputError | None = None
    for alternative in alternatives:
        try:
            return build(description, alternative, trust, where)
        except InputError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return description
