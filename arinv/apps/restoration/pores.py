"""Pores of a volume and of one that was restored slice by slice: porosity, and what was invented and lost.

Pores are dark: voxels below a threshold.

Source: Generative Encoder, section 5.3 and Figure 12, where pores that invertGAN adds are shown without numbers.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from arinv.errors import UserError
from arinv.ops.inputs import as_array, as_images, check_count, check_number, on_host
from arinv.types import ArrayLike


class Pores(NamedTuple):
    """The pores of a restored volume beside those of the true one.

    Attributes:
      porosity: share of voxels that are pores, in the restored volume.
      true_porosity: in the true one.
      invented: voxels that are pores in the restored volume alone.
      lost: voxels that are pores in the true volume alone.
      voxels: number of voxels of the volume.
      invented_pores: connected pores of the restored volume without a voxel that is a pore in the true one.
      lost_pores: connected pores of the true volume without a voxel that is a pore in the restored one.
    """

    porosity: float
    true_porosity: float
    invented: int
    lost: int
    voxels: int
    invented_pores: int
    lost_pores: int

    @property
    def error(self) -> float:
        """The porosity less the true one."""
        return self.porosity - self.true_porosity


def compare_pores(restored: ArrayLike, volume: ArrayLike, *, threshold: float = 0.5) -> Pores:
    """Returns the pores of a restored volume beside those of the true one.

    Args:
      restored: [D, H, W] in [0, 1].
      volume: [D, H, W] in [0, 1], the true one.
      threshold: voxels below it are pores.

    Returns:
      A `Pores`: porosities, and counts of invented and lost voxels and pores.

    Raises:
      UserError: volumes of different shapes or outside [0, 1], or a threshold outside [0, 1].
    """
    check_number(threshold, "threshold", minimum=0.0, maximum=1.0)
    restored, volume = _pair(restored, volume)
    own, true = restored < threshold, volume < threshold
    return Pores(
        porosity=float(own.mean()),
        true_porosity=float(true.mean()),
        invented=int((own & ~true).sum()),
        lost=int((true & ~own).sum()),
        voxels=volume.size,
        invented_pores=_apart(own, true),
        lost_pores=_apart(true, own),
    )


def _pair(restored: ArrayLike, volume: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns two stacks of grey images as float32.

    Raises:
      UserError: of different shapes, without voxels, or outside [0, 1].
    """
    restored, volume = as_array(restored, "the restored volume"), as_array(volume, "the true volume")
    if restored.shape != volume.shape or volume.ndim != 3 or not volume.size:
        raise UserError(f"volumes must be of one shape [D, H, W]; got {restored.shape} and {volume.shape}")
    pairs = (("the restored volume", restored), ("the true volume", volume))
    return tuple(on_host(as_images(values[..., None], name), name)[..., 0] for name, values in pairs)


def _apart(pores: np.ndarray, others: np.ndarray) -> int:
    """Returns the number of connected pores (faces of voxels touch) that no voxel of the others belongs to."""
    labels, count = ndimage.label(pores)
    return count - len(np.setdiff1d(labels[others], 0))


def cut(volume: ArrayLike, *, axis: int, count: int) -> np.ndarray:
    """Returns cuts of a volume across an axis, evenly spread.

    Args:
      volume: [D, H, W].
      axis: 0, 1 or 2.
      count: number of the cuts, at most as many as the volume has voxels on the axis.

    Returns:
      [N, h, w].

    Raises:
      UserError: another axis, or a count below 1.
    """
    check_count(count, "count")
    if axis not in (0, 1, 2):
        raise UserError(f"axis={axis!r} must be 0, 1 or 2")
    volume = np.moveaxis(np.asarray(volume), axis, 0)
    count = min(count, len(volume))
    return volume[[(2 * i + 1) * len(volume) // (2 * count) for i in range(count)]]


def mark(restored: ArrayLike, volume: ArrayLike, *, threshold: float = 0.5) -> np.ndarray:
    """Returns cuts in RGB in which invented pores are red and lost pores blue.

    Args:
      restored: [N, h, w] in [0, 1].
      volume: likewise, the true one.
      threshold: see `compare_pores`.

    Returns:
      float32 [N, h, w, 3] in [0, 1].

    Raises:
      UserError: as `compare_pores`.
    """
    restored, volume = _pair(restored, volume)
    colors = np.repeat(restored[..., None], 3, axis=-1).astype(np.float32)
    own, true = restored < threshold, volume < threshold
    colors[own & ~true] = (0.9, 0.1, 0.1)
    colors[true & ~own] = (0.1, 0.3, 0.9)
    return colors
