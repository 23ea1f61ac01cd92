"""What all packages build on: images, errors, random numbers, precision, checks, plain data, and the protocols.

Submodules are imported lazily, so that an error message does not wait seconds for the import of torch.
"""

# ruff: noqa: F401 -- the imports are for type checkers and editors
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_gen.core.checks import (
        check,
        check_above,
        check_at_least,
        check_choice,
        check_positive,
        check_within,
    )
    from lightning_gen.core.context import TrainingContext
    from lightning_gen.core.descriptions import TRUSTED, build, class_path, describe, keeps_arguments
    from lightning_gen.core.errors import InputError, Unavailable
    from lightning_gen.core.figures import Figure, find_figure, is_of_one_class
    from lightning_gen.core.files import check_file, finite, flat, write_atomically, write_json, write_text
    from lightning_gen.core.labels import check_mask, drawn_labels, heeded_labels, required_labels
    from lightning_gen.core.modes import check_output, evaluating
    from lightning_gen.core.precision import at_least_float32, full_precision, refuse_precision
    from lightning_gen.core.progress import ProgressLine, watched, watching
    from lightning_gen.core.protocols import (
        Classifies,
        Completes,
        CountsImages,
        Decodes,
        Encodes,
        HasImportanceSamples,
        HasLikelihood,
        Likelihood,
        PredictsPixels,
    )
    from lightning_gen.core.randomness import (
        Draws,
        categorical,
        categorical_of_logits,
        fresh_generator,
        keyed_generator,
        keyed_seed,
        normal,
        uniform,
    )
    from lightning_gen.core.ranks import Ranks
    from lightning_gen.core.spec import ImageSpec

CONTENTS = {
    "checks": (
        "check",
        "check_above",
        "check_at_least",
        "check_choice",
        "check_positive",
        "check_within",
    ),
    "context": ("TrainingContext",),
    "descriptions": ("TRUSTED", "build", "class_path", "describe", "keeps_arguments"),
    "errors": ("InputError", "Unavailable"),
    "figures": ("Figure", "find_figure", "is_of_one_class"),
    "files": ("check_file", "finite", "flat", "write_atomically", "write_json", "write_text"),
    "labels": ("check_mask", "drawn_labels", "heeded_labels", "required_labels"),
    "modes": ("check_output", "evaluating"),
    "precision": ("at_least_float32", "full_precision", "refuse_precision"),
    "progress": ("ProgressLine", "watched", "watching"),
    "protocols": (
        "Classifies",
        "Completes",
        "CountsImages",
        "Decodes",
        "Encodes",
        "HasImportanceSamples",
        "HasLikelihood",
        "Likelihood",
        "PredictsPixels",
    ),
    "randomness": (
        "Draws",
        "categorical",
        "categorical_of_logits",
        "fresh_generator",
        "keyed_generator",
        "keyed_seed",
        "normal",
        "uniform",
    ),
    "ranks": ("Ranks",),
    "spec": ("ImageSpec",),
}
MODULE_OF = {name: module for module, names in CONTENTS.items() for name in names}

__all__ = [*MODULE_OF]


def __getattr__(name: str):
    if name in MODULE_OF:
        return getattr(import_module(f"{__name__}.{MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
