"""Deep generative image models as LightningModules: train, tune, score and use them behind one protocol."""

from importlib import import_module

__version__ = "0.2.0"

# Importing torch takes seconds; `lightning --help` and typing mistakes must answer before that.
_LAZY = {
    "ImageSpec": "lightning_gen.core.spec",
    "InputError": "lightning_gen.core.errors",
    "load": "lightning_gen.models.checkpoint",
}

__all__ = ["ImageSpec", "InputError", "__version__", "load"]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
