"""From jsonargparse's nested reports to one line that names the key and what is wrong with it."""

import difflib
import importlib.util
import inspect
import re
import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lightning_gen.core import InputError

# A nested parser's line travels through the reports of the parsers around it between these marks.
BEGIN, MIDDLE, END = "\u2063", "\u2064", "\u2062"
SPOKEN = {
    "NoneType": "null",
    "bool": "true, false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "Iterable": "a list",
    "list": "a list",
    "Sequence": "a list",
    "dict": "a mapping",
    "Mapping": "a mapping",
}
"""Types as messages name them."""
# What a report says of a key, and the line for it.
PLAIN = {
    r"Subcommand '(\w+)' does not accept option '\1\.": "keys stand at a config's top, with no {0}: above them",
    r"Unable to load config": "stands for several options: give them one by one, as --{key}.KEY VALUE",
    r"Unexpected config": "a config must be a mapping of keys, such as model: and data:",
    r"has no attribute 'keys'": "init_args must be a mapping of arguments",
    r"- (.* \((\w+)\.py, line \d+\))$": "{1}.py cannot be imported: {0}",
}
MARKED = re.compile(f"{BEGIN}(.*?){MIDDLE}(.*?){END}", re.DOTALL)


class OneLineErrors:
    """Mixin of parsers: an error is one line, raised as InputError, whichever parser inside found it."""

    shown = "{}"  # how a key is shown to the user

    def __init__(self, *args: Any, **kwargs: Any):
        # An option whose name was typed in part would else be taken for the one that begins so, and run.
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> None:
        key, text = condense(message, self)
        if self.exit_on_error:
            key, text = explain_list_item(key, text)
            key = self._as_typed(key) if key else ""
            raise InputError(f"{key}: {text}" if key else text)
        raise InputError(f"{BEGIN}{key}{MIDDLE}{text}{END}")

    def _as_typed(self, key: str) -> str:
        positional = (action for action in self._actions if action.dest == key and not action.option_strings)
        return next((str(action.metavar or key) for action in positional), self.shown.format(key))


class CommandParser(OneLineErrors, ArgumentParser):
    """A parser of one of the project's own verbs."""

    shown = "--{}"

    def instantiate(self, *args: Any, **kwargs: Any) -> Namespace:
        """Make the objects that options describe.

        Raises:
            InputError: what a constructor says of its arguments, which the base class would wrap.
        """
        try:
            return super().instantiate(*args, **kwargs)
        except ValueError as error:
            raise (input_error_behind(error) or error) from error


def input_error_behind(error: BaseException, *further: type[BaseException]) -> BaseException | None:
    """Return the InputError, or one of ``further``, that ``error`` is or was raised from: parsers wrap errors."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, (InputError, *further)):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def condense(message: str, parser: ArgumentParser) -> tuple[str, str]:
    """Return (key, what is wrong with it) from a report of jsonargparse.

    Args:
        message: the report, with nested reports inside.
        parser: who made it; its options are where near misses are looked for.
    """
    found = re.search(r'Parser key "([^"]+)"', message)
    key = found[1] if found else ""
    if nested := MARKED.search(message):
        return ".".join(part for part in (key, nested[1]) if part), nested[2]
    for pattern, text in PLAIN.items():
        if found := re.search(pattern, message, re.MULTILINE):
            return key, text.format(*found.groups(), key=key)
    unlisted = r"unrecognized arguments: --?([\w.\-]+)|Option '([\w.\-]+)' is not accepted|accept option '([\w.\-]+)'"
    if unknown := re.search(unlisted, message):
        name = unknown[unknown.lastindex]
        return ".".join(part for part in (key, name) if part), f"no such option{nearest_option(name, parser)}"
    if bare := re.search(r"unrecognized arguments: ((?!-)\S*)", message):
        is_config = bare[1].endswith((".yaml", ".yml")) and any(action.dest == "config" for action in parser._actions)
        return "", f"unexpected {bare[1]!r}: " + (f"give --config {bare[1]}" if is_config else "options begin with --")
    if missing := re.search(r"the following arguments are required: (.*)", message):
        names = [name for name in re.split(r",\s*", missing[1].strip()) if name]
        return ".".join(part for part in (key, names[0]) if part), "is required" + _also(names[1:], parser)
    if bare := re.search(r"argument --?([\w.\-]+): expected one argument", message):
        return bare[1], "needs a value"
    if configs := re.search(r"Problems parsing config: (.*)", message, re.DOTALL):
        return "", f"the config cannot be read: {' '.join(configs[1].split())}"
    if choice := re.search(r"argument (?:-\w, ?)?-*([\w.\-]+)[^:]*: (invalid choice: .*)", message, re.DOTALL):
        return ".".join(part for part in (key, choice[1]) if part), " ".join(choice[2].split())
    if (path := _class_path(message)) is not None:
        return key, no_class(path, message)
    if (expected := _expected(message)) and expected != "null":
        return key, f"expected {expected}, got {_given(message)!r}"
    if number := re.search(r"Not of type (\w+): (.*)", message):
        return key, {"PositiveInt": "expected a whole number of at least 1"}.get(number[1], number[2])
    lines = [line.strip(" -") for line in message.splitlines() if line.strip() and "Parser key" not in line]
    return key, " ".join(lines)[:400] if lines else "is not valid"


def explain_list_item(key: str, text: str) -> tuple[str, str]:
    """Return (key, what is wrong with it), with the remedy where the key is of a list's item, which is no option."""
    if nested := re.search(r"NestedArg\(key='([^']+)'", text):
        key, text = f"{key}.{nested[1]}", "no such option"
    if item := re.match(r"(.+?)\.\d+(?:\.|$)", key):
        text = f"{item[1]} is a list, which is given as a whole: --{item[1]} '[...]'"
    return key, text


def nearest_option(name: str, parser: ArgumentParser) -> str:
    """Return a hint at the option nearest to ``name``, or ''."""
    verbs = [verb for action in parser._actions if isinstance(action.choices, dict) for verb in action.choices.values()]
    actions = [action for parser in (verbs or [parser]) for action in parser._actions]
    known = sorted({str(action.dest) for action in actions if not str(action.dest).endswith("help")})
    begun = [option for option in known if option.startswith(name)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(name, known, 1, 0.6)
    head = name.partition(".")[0]
    if not near:
        near = difflib.get_close_matches(head, sorted({option.partition(".")[0] for option in known}), 1, 0.6)
    return f" (did you mean {near[0]!r}?)" if near and near[0] != name else ""


def no_class(path: str, message: str) -> str:
    """Say that ``path`` is no class of the expected kind, and which ones are."""
    base = _base_class(message)
    root = path.partition(".")[0]
    if "." in path and root.isidentifier() and root not in sys.modules and importlib.util.find_spec(root) is None:
        return f"there is no module {root!r}: install it, or run where {root}.py lies"
    if "." in path and root.isidentifier() and (failure := _import_failure(path.rpartition(".")[0])):
        return failure
    if base is None:  # of a list, whose report does not say which classes would do
        wanted = re.search(r"Not a valid subclass of (\w+)", message)
        if wanted or not re.fullmatch(r"[^\W\d][\w.]*", path):
            return f"{path!r} is not the import path of {_with_article(wanted[1] if wanted else 'class')}"
        module, _, name = path.rpartition(".")
        near = difflib.get_close_matches(name, vars(sys.modules[module]), 1) if module in sys.modules else []
        return f"there is no class {path!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
    known = sorted({cls.__name__ for cls in _subclasses(base) if not inspect.isabstract(cls) and cls is not base})
    near = difflib.get_close_matches(path.rpartition(".")[2], known, 1)
    text = f"{path!r} is not the import path of {_with_article(base.__name__)}"
    if near:
        return f"{text} (did you mean {near[0]!r}?)"
    return text + (f"; known ones are {', '.join(known)}" if 0 < len(known) <= 12 else "")


def _import_failure(module: str) -> str:
    """Say why a module that is there cannot be imported, or return ''."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        return "" if module.startswith(str(error.name)) else f"{module} cannot be imported: {error}"
    except Exception as error:  # whatever its code raises
        return f"{module} cannot be imported: {type(error).__name__}: {error}"
    return ""


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _also(names: list[str], parser: ArgumentParser) -> str:
    if getattr(parser, "exit_on_error", False) and isinstance(parser, OneLineErrors):
        names = [parser._as_typed(name) for name in names]
    return f" (and {', '.join(names)})" if names else ""


def _given(message: str) -> str | None:
    found = re.search(r"Given value: (.*)", message) or re.search(r"Got value: (.*)", message)
    return found[1].strip().rstrip(".") if found else None


def _class_path(message: str) -> str | None:
    patterns = (
        r"(?:Expected a dot import path string|Unexpected import path format): (\S+)",
        r"Problem with given class_path '([^']+)'",
        r"Expected '([^']+)' to be a function that returns",
        r"expects a function or a callable class: .*?Got value: (\S+)",
        r"Import path (\S+) does not correspond",
        r"class_path (?:\"|')?([\w.]+)",
    )
    if re.search(r"Expected a <class '(?:int|float|str|bool)'>", message) and "Problem with" not in message:
        return None
    given = _given(message) or ""
    named = re.match(r"(?:Namespace\(class_path=|\{'class_path': )'?([^',})]+)", given)
    if "does not correspond to a subclass" in message:
        return named[1] if named else given or None
    if "Not a valid subclass of" in message or re.search(
        r"Expected a dot import path string: *$", message, re.MULTILINE
    ):
        return given
    if named and "is not iterable" in message:  # a number for class_path
        return named[1]
    for pattern in patterns:
        if found := re.search(pattern, message):
            return found[1]
    return None


def _expected(message: str) -> str:
    names: list[str] = []
    for found in re.findall(r"Expected (?:a |(?=<class))(.*?)(?:\. Got value|$)", message, re.MULTILINE):
        if "path but" in found:
            continue
        if "dot import path" in found:
            base = _base_class(message)
            names += [] if base is None else [_with_article(base.__name__)]
        elif literal := re.match(r"typing\.Literal\[(.*)\]", found):
            names += [name.strip(" '\"") for name in literal[1].split(",")]
        elif cls := re.match(r"<class '([^']+)'>", found):
            name = cls[1].rpartition(".")[2]
            names.append(SPOKEN.get(name, name))
        else:
            names.append(found.strip())
    unique = list(dict.fromkeys(name for name in names if name != "Tensor"))
    return " or ".join([", ".join(unique[:-1]), unique[-1]] if len(unique) > 1 else unique)


def _base_class(message: str) -> type | None:
    found = (
        re.search(r"Subtypes: \[<class '([\w.]+)'>", message)
        or re.search(r"\], ([\w.]+)\] expects a", message)
        or re.search(r"subclass of <?(?:class )?'?([\w.]+)", message)
    )
    if not found:
        return None
    module, _, name = found[1].rpartition(".")
    try:
        base = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
    return base if inspect.isclass(base) else None


def _subclasses(base: type) -> list[type]:
    """Return the classes of this package among ``base`` and what is derived from it."""
    own = [base] if base.__module__.startswith("lightning_gen") else []
    return own + [found for cls in base.__subclasses__() for found in _subclasses(cls)]
