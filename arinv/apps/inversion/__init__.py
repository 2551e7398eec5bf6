"""Inversion of features into images, by a generator at any image size or by optimization of the pixels.

Images are float32 [B, H, W, C] in [0, 1]; the networks are the callables `features_fn` (images -> named features) and
`decode_fn` (a feature -> images). Source: Rojas-Gomez et al. 2022, sections 3 and 4.3; Engstrom et al. 2019.
"""

from arinv.apps.inversion.enlarging import (
    COMPARISONS,
    ScaledInversion,
    enlarge,
    invert,
    invert_padded,
    invert_scaled,
)
from arinv.apps.inversion.representation_inversion import invert_by_optimization, relative_distance, start_images

__all__ = [
    "COMPARISONS",
    "ScaledInversion",
    "enlarge",
    "invert",
    "invert_by_optimization",
    "invert_padded",
    "invert_scaled",
    "relative_distance",
    "start_images",
]
