"""What is measured on: names, threads, the commit, and the speed that a device could reach at most."""

import datetime
import os
import pathlib
import platform
import subprocess
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Dense matrix products in 10^12 operations per second: (float32 as both libraries run it here, bfloat16).
# float32 is TF32 where the device has it. Sources: the makers' data sheets; the first name that fits counts.
_PEAKS = {
    "B200": (1125.0, 2250.0),
    "H200": (494.7, 989.4),
    "H100 PCIe": (378.0, 756.0),
    "H100 NVL": (417.5, 835.0),
    "H100": (494.7, 989.4),
    "A100": (156.0, 312.0),
    "L40S": (183.0, 362.0),
    "L4": (60.0, 121.0),
    "A10G": (35.0, 70.0),
    "A10": (62.5, 125.0),
    "V100": (15.7, None),
    "T4": (8.1, None),
    "RTX 4090": (82.6, 165.2),
    "RTX 3090": (35.6, 71.0),
    "TPU v6 lite": (None, 918.0),
    "TPU v5 lite": (None, 197.0),
    "TPU v5": (None, 459.0),
    "TPU v4": (None, 275.0),
}


def peak_flops(device: str, dtype: str) -> float | None:
    """Returns the operations per second that a device is made for; None where the table does not know.

    Args:
      device: its name, such as "NVIDIA H100 80GB HBM3".
      dtype: "float32" or "bfloat16".
    """
    words = f" {device} "
    for name, peaks in _PEAKS.items():
        if f" {name} " in words or f" {name}-" in words:
            peak = peaks[dtype == "bfloat16"]
            return peak and peak * 1e12
    return None


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


def provenance() -> dict[str, Any]:
    """Returns the date and the commit; "+" behind the commit tells of changes that it does not hold."""
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
