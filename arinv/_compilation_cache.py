"""The directory in which compiled programs are kept for later runs: by default one per user, for all workdirs.

A program that was compiled before, by the same versions for the same kind of device, is loaded in a fraction of a
second. JAX_COMPILATION_CACHE_DIR names another directory, JAX_ENABLE_COMPILATION_CACHE=false disables it. JAX reads
its variables once, when it is imported.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import sys
from collections.abc import MutableMapping
from typing import Any

_DIRECTORY, _MIN_SECONDS = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_SECONDS = 0.5  # shortest compilation whose program is kept
_MAX_BYTES = 2 << 30  # in the default directory


def enable(environment: MutableMapping[str, str], config: Any = None) -> None:
    """Enables JAX's persistent compilation cache, in the default directory.

    Does nothing if the user names another directory, or if the default one cannot be written.

    Args:
      environment: os.environ.
      config: jax.config if JAX was imported before and has read its variables; else None.
    """
    if _DIRECTORY in environment or (config and config.jax_compilation_cache_dir):
        return
    folder = default_directory(environment)
    if not folder.is_absolute():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    remove_oldest(folder, max_bytes=_MAX_BYTES)
    environment[_DIRECTORY] = str(folder)
    environment.setdefault(_MIN_SECONDS, str(_SECONDS))
    if config:
        config.update(_DIRECTORY.lower(), str(folder))
        config.update(_MIN_SECONDS.lower(), float(environment[_MIN_SECONDS]))


def remove_oldest(folder: pathlib.Path, *, max_bytes: int) -> None:
    """Removes the least recently used files until the others fit.

    JAX's own limit is of no use for runs that may be killed: an entry that was cut short makes each later one fail.

    Args:
      folder: directory of compiled programs.
      max_bytes: largest total size of the files that are kept.
    """
    files = []
    for path in pathlib.Path(folder).rglob("*"):  # JAX keeps GPUs' autotuning in a folder below
        with contextlib.suppress(OSError):  # another process removes them too
            if path.is_file():
                files.append((path.stat().st_atime, path.stat().st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= max_bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size


def default_directory(environment: MutableMapping[str, str]) -> pathlib.Path:
    """Returns the user's directory for the programs of this kind.

    Args:
      environment: os.environ; XDG_CACHE_HOME and HOME are read.
    """
    home = environment.get("HOME") or os.path.expanduser("~")  # relative where there is none
    root = environment.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return pathlib.Path(root) / "arinv" / "programs" / kind()


def is_default(folder: str | None) -> bool:
    """Returns whether compiled programs are kept in the default directory, or nowhere."""
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


enable(os.environ, sys.modules["jax"].config if "jax" in sys.modules else None)
