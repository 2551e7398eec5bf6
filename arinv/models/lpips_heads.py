"""The learned channel weights of LPIPS, from the file inside of its authors' package.

Only the file is read: neither that package nor PyTorch is imported.

Source: Zhang et al. 2018, released weights, version 0.1.
"""

import importlib.util
import pathlib

import numpy as np

from arinv.errors import UserError, unknown
from arinv.models.pytorch.file import open_torch

LPIPS_VARIANTS = ("alex", "vgg")
_NUM_LAYERS = 5


def load_lpips_heads(variant: str) -> tuple[np.ndarray, ...]:
    """Returns the weights of the channels of each layer that LPIPS compares.

    Args:
      variant: "alex" or "vgg".

    Returns:
      For each of five layers float32 [K], 0 or more.

    Raises:
      UserError: unknown variant, the package lpips is not installed, or its file holds something else.
    """
    if variant not in LPIPS_VARIANTS:
        raise unknown("variant of LPIPS", variant, LPIPS_VARIANTS)
    package = importlib.util.find_spec("lpips")  # of a package by itself: finds it without running it
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "LPIPS needs the weights inside of the package lpips, which is not installed; "
            'pip install "arinv[lpips]", or measure robust_lpips, which needs none'
        )
    path = pathlib.Path(next(iter(package.submodule_search_locations))) / "weights" / "v0.1" / f"{variant}.pth"
    names = [f"lin{i}.model.1.weight" for i in range(_NUM_LAYERS)]
    with open_torch(path) as file:
        shapes = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in file.content.items()}
        if sorted(shapes) != names or any(shape[:1] + shape[2:] != (1, 1, 1) for shape in shapes.values()):
            raise UserError(f"{path} should hold {', '.join(names)}, each (1, K, 1, 1), but holds {shapes}")
        return tuple(file.array(file.content[name]).astype(np.float32).reshape(-1) for name in names)
