"""What a run's config need not say: the data module, and the extractor and the metrics, which its source knows."""

import inspect
import json
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from pydoc import locate

from jsonargparse import ArgumentParser, Namespace

from lightning_gen.data import ImageDataModule
from lightning_gen.models import GenerativeModule

OF_THE_SOURCE = ("extractor", "metrics")


def set_defaults(parser: ArgumentParser) -> None:
    """Give the parser of a verb the default data module, and options that are there only where they are given."""
    parser.set_defaults({"data": "lightning_gen.data.ImageDataModule"})
    parser.set_defaults({f"evaluation.{key}": SUPPRESS for key in OF_THE_SOURCE})


def config_of_source(parser: ArgumentParser, args: Sequence[str]) -> str:
    """Return a config, in JSON, to be read before those of ``args``: the extractor and the metrics of their source.

    Both are null where ``args`` switch one of them off, and for a model that draws no images.

    Args:
        parser: of all verbs.
        args: command line, from the verb on.

    Raises:
        InputError: for a command line that cannot be parsed, and for a config that gives arguments of an extractor and
            no class.
    """
    options = parser.parse_args(list(_without_details(args)))[args[0]]
    chosen = dict.fromkeys(OF_THE_SOURCE)
    if all(options.evaluation.get(key, True) for key in OF_THE_SOURCE) and _draws_images(options):
        source = locate(options.data.init_args.source.class_path)
        chosen = {key: getattr(source, key, None) or None for key in OF_THE_SOURCE}
    return json.dumps({"evaluation": chosen})


def _without_details(args: Sequence[str]) -> Iterator[str]:
    """Yield the items of a command line but for what would end parsing, and arguments of an extractor not yet known."""
    items = iter(args)
    for item in items:
        if item.startswith("--evaluation.extractor."):
            if "=" not in item:
                next(items, None)
        elif not item.startswith("--print_config"):
            yield item


def _draws_images(options: Namespace) -> bool:
    return _is_a(options.get("model"), GenerativeModule) and _is_a(options.data, ImageDataModule)


def _is_a(given: Namespace | None, base: type) -> bool:
    cls = given and locate(given.class_path)
    return inspect.isclass(cls) and issubclass(cls, base)
