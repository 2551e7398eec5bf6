"""The directory in which compiled programs are kept for later runs: by default one of the user, for all workdirs.

A program that was compiled before, by the same versions for the same kind of device, is loaded in a fraction of a
second. JAX_COMPILATION_CACHE_DIR names another directory, JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. JAX reads
its variables once, when it is imported.
"""

import functools
import hashlib
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
_SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",  # of a program that is kept
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2 << 30),  # in bytes; those that were not used for longest go first
}


def keep(environment: MutableMapping[str, str]) -> None:
    """Sets JAX's variables to the default directory, unless the user names one or it cannot be written.

    Args:
      environment: os.environ.
    """
    if _DIRECTORY in environment:
        return
    folder = default_directory(environment)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        environment[_DIRECTORY] = str(folder)
        for name, value in _SETTINGS.items():
            environment.setdefault(name, value)


def apply(environment: Mapping[str, str], config: Any) -> None:
    """Applies the variables to a JAX that was imported before they were set, unless it has a directory.

    Args:
      environment: os.environ.
      config: jax.config.
    """
    if not config.jax_compilation_cache_dir and environment.get(_DIRECTORY):
        config.update(_DIRECTORY.lower(), environment[_DIRECTORY])
        for name in _SETTINGS:
            if name in environment:
                config.update(name.lower(), type(getattr(config, name.lower()))(environment[name]))


def default_directory(environment: MutableMapping[str, str]) -> pathlib.Path:
    """Returns the user's directory for the programs of this kind.

    Args:
      environment: os.environ; XDG_CACHE_HOME and HOME are read.
    """
    root = environment.get("XDG_CACHE_HOME") or pathlib.Path(environment.get("HOME") or pathlib.Path.home(), ".cache")
    return pathlib.Path(root) / "arinv" / "programs" / kind()


def is_default(folder: str | None) -> bool:
    """Whether compiled programs are kept in the default directory, or nowhere."""
    return not folder or pathlib.Path(folder) == default_directory(os.environ)


@functools.cache
def kind() -> str:
    """Returns a name for this Python and this kind of processor.

    Another Python may not read the entries, which JAX compresses by what the standard library offers; another
    processor, of a host that shares the directory, may lack instructions that a program uses.
    """
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:8]
    return f"{sys.implementation.cache_tag}-{platform.machine()}-{processor}"


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


keep(os.environ)
if "jax" in sys.modules:
    apply(os.environ, sys.modules["jax"].config)
