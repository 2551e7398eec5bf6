"""Adversarially robust networks and their inversion into images, in JAX.

    robust = arinv.load("runs/quickstart/robust_inverter")
    reconstructions = robust.reconstruct(images)  # float32 [N, H, W, 3] in [0, 1]

Import it before the first computation of a program: it sets the XLA_FLAGS that the installed jaxlib needs on CPUs
(`arinv._xla`), and XLA reads them once. Compiled programs are kept for later runs (`arinv._compilation_cache`).
Everything else is imported when it is first used.
"""

import importlib
from typing import Any

from arinv import _compilation_cache, _xla  # noqa: F401

__version__ = "0.1.0"

_PACKAGES = ("apps", "attacks", "data", "losses", "metrics", "models", "zoo")
_NAMES = {"Trained": "arinv.experiment.trained", "load": "arinv.experiment.loading", "UserError": "arinv.errors"}

__all__ = ["__version__", *_PACKAGES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module("arinv." + name)
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'arinv' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
