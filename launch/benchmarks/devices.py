"""Names of devices and processors, threads, peak memory, and the commit; peak rates are in arinv.train.accelerators."""

import ctypes
import datetime
import gc
import os
import pathlib
import platform
import resource
import subprocess
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


def cpu_threads() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Returns the processor's name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def reset_peak() -> None:
    """Releases freed memory to the system and resets the peak of this process, on Linux; does nothing elsewhere."""
    if platform.system() == "Linux":
        gc.collect()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Returns the peak memory of this process in bytes: on Linux since `reset_peak`, elsewhere since its start."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def provenance() -> dict[str, Any]:
    """Returns the date and the commit, with "+" for uncommitted changes."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
    }


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
