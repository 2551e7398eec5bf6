"""Applications, a package each: algorithms over callables (`features_fn`, `decode_fn`) and the tasks that run them.

Each package exports its algorithm, such as `apps.anomaly.latent_search`; tasks are started by configs.
"""

import importlib
from types import ModuleType

__all__ = ["anomaly", "datasets", "denoising", "evaluation", "inversion", "restoration", "studies", "style", "weights"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module("arinv.apps." + name)
    raise AttributeError(f"module 'arinv.apps' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
