"""BM3D, a classical denoiser for comparison, from the optional package bm3d.

The license of the package allows non-commercial use only, so that arinv does not require it.

Source: Dabov et al. 2007; Mäkinen et al. 2020, whose package it is.
"""

import importlib.util
from collections.abc import Callable
from importlib import metadata

import numpy as np

from arinv.errors import UserError, unknown

NAME = "BM3D"  # of its row in tables
USES = ("auto", "yes", "no")
_MISSING = "BM3D is skipped: the package bm3d is not installed (pip install bm3d; its license is non-commercial)"


def find(use: str) -> Callable[[np.ndarray, float], np.ndarray] | None:
    """Returns (noisy image [H, W, 3], sigma) -> denoised image in [0, 1]; None where BM3D is skipped.

    Args:
      use: "yes", "no", or "auto": if the package is installed.

    Raises:
      UserError: another value, or "yes" without the package.
    """
    if use not in USES:
        raise unknown("bm3d", use, USES)
    if use == "no" or (use == "auto" and not is_installed()):
        return None
    if not is_installed():
        raise UserError(f"bm3d=yes, but {_MISSING}; or set bm3d=no")
    from bm3d import bm3d_rgb

    return lambda noisy, sigma: np.clip(bm3d_rgb(noisy, sigma), 0.0, 1.0).astype(np.float32)


def is_installed() -> bool:
    """Returns whether the package is installed, without importing it."""
    return importlib.util.find_spec("bm3d") is not None


def notice(use: str) -> str:
    """Returns the line to report if "auto" skips BM3D; empty if it does not."""
    return _MISSING if use == "auto" and not is_installed() else ""


def variant() -> str:
    """Returns the exact variant, for results."""
    try:
        version = metadata.version("bm3d")
    except metadata.PackageNotFoundError:  # installed by hand
        version = "of unknown version"
    return f"bm3d_rgb of the package bm3d {version}, with the true sigma, clipped to [0, 1]"
