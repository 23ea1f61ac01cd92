"""Deep generative image models as LightningModules: train, tune, score and use them behind one protocol."""

from importlib import import_module

__version__ = "0.1.0"

# Importing torch takes seconds; `lightning --help` and typing mistakes must answer before that.
_LAZY = {"ImageSpec": "lightning_gen.spec", "load": "lightning_gen.models.checkpoint"}

__all__ = ["ImageSpec", "__version__", "load"]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
