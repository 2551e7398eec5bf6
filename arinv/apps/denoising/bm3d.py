"""BM3D, the reference that denoisers are compared with, from the package bm3d where a user has installed it.

Its licence allows non-commercial use only, so nothing here requires it.

Source: Dabov et al. 2007; Mäkinen et al. 2020, whose package it is.
"""

import importlib.util
from collections.abc import Callable
from importlib import metadata

import numpy as np

from arinv.errors import UserError, unknown

NAME = "BM3D"  # of its row in tables
USES = ("auto", "yes", "no")
_MISSING = "BM3D is left out: the package bm3d is not installed (pip install bm3d; its licence is non-commercial)"


def find(use: str) -> Callable[[np.ndarray, float], np.ndarray] | None:
    """Returns (noisy image [H, W, 3], sigma) -> denoised image in [0, 1]; None where it is not to be used.

    Args:
      use: "yes", "no", or "auto": where the package is installed.

    Raises:
      UserError: another word, or "yes" without the package.
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
    """Returns whether the package is there; it is not imported."""
    return importlib.util.find_spec("bm3d") is not None


def notice(use: str) -> str:
    """Returns what to tell where "auto" finds nothing; empty where there is nothing to tell."""
    return _MISSING if use == "auto" and not is_installed() else ""


def variant() -> str:
    """Returns the exact variant, for results."""
    try:
        version = metadata.version("bm3d")
    except metadata.PackageNotFoundError:  # installed by hand
        version = "of unknown version"
    return f"bm3d_rgb of the package bm3d {version}, told the true sigma, clipped to [0, 1]"
