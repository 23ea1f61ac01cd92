"""Serialisation of objects to plain data and back, which makes checkpoints self-describing.

An object is described by ``{"class_path": "package.Class", "init_args": {...}}``. Its init arguments are read from
attributes of the same names (scikit-learn's convention). A factory (``functools.partial(Class, ...)``, a class, or a
factory of jsonargparse) has the same description; the annotation of the parameter decides which of the two is built.
"""

import collections.abc
import functools
import importlib
import inspect
import os
import types
import typing
from typing import Any

import numpy as np

from lightning_gen.core.errors import InputError

PLAIN = (bool, int, float, str)
TRUSTED = ("lightning_gen", "torch")


def class_path(cls: type) -> str:
    """Return the import path of a class.

    Raises:
        InputError: for a class defined inside a function, which cannot be imported.
    """
    if "<locals>" in cls.__qualname__:
        raise InputError(f"{cls.__qualname__} is defined inside a function: move it to a module, so that load finds it")
    return f"{cls.__module__}.{cls.__qualname__}"


def describe(value: Any, where: str = "value") -> Any:
    """Return plain data (None, bool, int, float, str, list, dict) from which :func:`build` recreates ``value``.

    Raises:
        InputError: for a function, or an object whose init arguments cannot be read back; the message names ``where``.
    """
    if value is None:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    for plain in PLAIN:
        if isinstance(value, plain):
            return plain(value)  # torch.load refuses subclasses, such as NumPy's float
    if isinstance(value, os.PathLike):
        return os.fspath(value)
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
            f"{where}: the function {name} cannot be stored in a checkpoint; "
            "pass a class or functools.partial(Class, ...)"
        )
    return {"class_path": class_path(type(value)), "init_args": describe_arguments(value, where)}


def keeps_arguments(cls: type) -> type:
    """Class decorator: record the constructor's arguments of objects (also of subclasses) in ``init_arguments``.

    For classes that do not keep arguments as attributes of the same names, such as models. The argument ``spec`` is
    omitted from descriptions; pass it to :func:`build`.
    """

    def __new__(kind, *args, **kwargs):
        self = object.__new__(kind)
        signature = inspect.signature(kind.__init__)
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:  # copying calls __new__ without arguments; otherwise __init__ raises a clearer error
            return self
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:  # forwarded to the base class
                arguments |= arguments.pop(parameter.name)
            elif parameter.kind is parameter.VAR_POSITIONAL and not arguments[parameter.name]:
                del arguments[parameter.name]
        self.__dict__["init_arguments"] = arguments
        return self

    cls.__new__ = __new__  # type: ignore[method-assign, assignment]
    return cls


def _describe_kept(value: Any, where: str) -> dict[str, Any]:
    for name, parameter in inspect.signature(type(value).__init__).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL and name in value.init_arguments:
            raise InputError(f"{where}: a checkpoint cannot name what is given as *{name}: use keywords")
    given = {name: argument for name, argument in value.init_arguments.items() if name != "spec"}
    return {name: describe(argument, f"{where}.{name}") for name, argument in given.items()}


def describe_arguments(value: Any, where: str) -> dict[str, Any]:
    """Return the init arguments of an object, read from its attributes of the same names.

    Raises:
        InputError: for an argument without such an attribute, or a class that takes ``*args`` or ``**kwargs``, which
            cannot be read back; the message names ``where``.
    """
    cls = type(value)
    if "init_arguments" in getattr(value, "__dict__", ()):
        return _describe_kept(value, where if where != "value" else cls.__name__)
    if cls.__init__ is object.__init__ and cls.__new__ is object.__new__ and hasattr(value, "__dict__"):
        return {}  # types implemented in C, such as dtypes, have no __dict__ and must not pass here
    arguments = {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InputError(
                f"{where}: a checkpoint cannot describe a {cls.__name__}, whose arguments cannot be read back; "
                "name each argument of its __init__ and keep it as an attribute"
            )
        if not hasattr(value, name):
            raise InputError(
                f"{where}: {cls.__name__} does not keep its argument {name!r} as an attribute of that name, "
                "so a checkpoint cannot describe it"
            )
        arguments[name] = describe(getattr(value, name), f"{where}.{name}")
    return arguments


def _describe_factory(factory: functools.partial, where: str) -> dict[str, Any]:
    made: Any = factory.func
    positional = factory.args
    if getattr(made, "__module__", "").partition(".")[0] == "jsonargparse":
        # jsonargparse's factories are partial(<function>, <its instantiator>, Class, **init_args).
        made, positional = (positional[-1] if positional else None), ()
    if not inspect.isclass(made) or positional:
        raise InputError(f"{where}: a factory must be functools.partial(Class, name=value, ...), got {factory!r}")
    keywords = {name: describe(item, f"{where}.{name}") for name, item in factory.keywords.items()}
    return {"class_path": class_path(made), "init_args": keywords}


def parameters_of(cls: type) -> dict[str, Any]:
    """Return the annotation (or Any) of each init parameter; ``**kwargs`` are replaced by those of the base class."""
    annotations: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        try:
            hints = typing.get_type_hints(base.__init__)  # type: ignore[misc]  # of the class, not of an object
        except NameError:  # names imported for type checkers only
            hints = {}
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                annotations.setdefault(parameter.name, hints.get(parameter.name, Any))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return annotations


def find_class(path: str, trust: typing.Sequence[str] = TRUSTED) -> type:
    """Import the class at ``path`` if its package is trusted.

    Raises:
        InputError: for a package that is not trusted, or a class that does not exist.
    """
    roots = {name.partition(".")[0] for name in trust}
    if not isinstance(path, str):
        raise InputError(f"class_path must be the import path of a class, got {path!r}")
    module_name, _, _ = path.rpartition(".")
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
        except ImportError:
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
    """Build the object or factory of a ``description``: the inverse of :func:`describe`.

    Args:
        description: plain data.
        expected: annotation of the parameter that receives the result; only subclasses of it are built.
        trust: packages from which classes may be imported.
        where: name of the parameter, for error messages.
        extra: further keyword arguments of the outermost object (such as ``spec``).

    Raises:
        InputError: for a class that is not trusted or not of the expected type, or arguments that it does not take.
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
    if base is Any:
        raise InputError(f"{where}: no annotation says what this may be, so {description['class_path']} is not built")
    if not inspect.isclass(base) or not issubclass(cls, base):
        raise InputError(f"{where}: {description['class_path']} is not a {getattr(base, '__name__', base)}")
    known = parameters_of(cls)
    arguments = dict(extra)
    for name, item in description.get("init_args", {}).items():
        if name not in known:
            raise InputError(f"{where}: {cls.__name__} takes no argument {name!r} (another version wrote the file?)")
        arguments[name] = build(item, known[name], trust, f"{where}.{name}")
    if is_factory:
        return functools.partial(cls, **arguments)
    try:
        inspect.signature(cls.__init__).bind(None, **arguments)
    except TypeError as error:
        raise InputError(f"{where}: {cls.__name__}: {error} (another version wrote the file?)") from error
    return cls(**arguments)


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
