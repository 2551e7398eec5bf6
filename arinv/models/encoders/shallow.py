"""Encoders without weights: HOG, LBP and sparse SIFT features of grey images.

Images NHWC in [0, 1] -> (empty logits, {"hog": ...}, {"lbp": ...} or {"sift": ...}). They have no classes, so
num_classes is 0, and nothing to train.

Source: Dosovitskiy & Brox 2016a, section 4.
"""

import numpy as np

from arinv.errors import UserError
from arinv.models.encoders.base import Encoder, FeatureSpec, Normalization, Stage
from arinv.ops import hog, lbp, sift
from arinv.types import Array


class ShallowEncoder(Encoder):
    """An encoder that is a fixed function of the image, with one named feature.

    Attributes:
      num_classes: 0, there are no classes.
      normalization: "none".
      dtype: type of the images; features are computed in float32.
    """

    num_classes: int = 0
    normalization: Normalization = "none"

    image_size = 256
    has_weights = False

    def _features(self, images: Array) -> Array:
        raise NotImplementedError

    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, 0] and the feature of images [B, H, W, 3] in [0, 1].

        Raises:
          UserError: images too small for it, classes, or another normalization.
        """
        if self.num_classes or self.normalization != "none":
            raise UserError(
                f"{type(self).__name__} has no weights: num_classes must be 0 and normalization 'none'; got "
                f"{self.num_classes} and {self.normalization!r}"
            )
        x = self.normalize(images).astype("float32")
        return x[:, 0, 0, :0], {self.default_layer: self._features(x)}


class Hog(ShallowEncoder):
    """UoCTTI HOG: 31 values for each cell of 8 x 8 px."""

    smallest_side = 4
    default_layer = "hog"
    style_layers = ("hog",)

    def _features(self, images: Array) -> Array:
        return hog.hog(images)

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of the feature."""
        stages = (Stage(1, 64), Stage(2, 128), Stage(4, 256), Stage(hog.CELL, hog.DIMENSIONS))
        return {"hog": FeatureSpec(stages)}


class Lbp(ShallowEncoder):
    """Uniform local binary patterns: 58 values for each cell of 16 x 16 px; without a gradient."""

    smallest_side = 16
    default_layer = "lbp"
    style_layers = ("lbp",)

    def _features(self, images: Array) -> Array:
        return lbp.lbp(images)

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of the feature."""
        stages = (Stage(1, 32), Stage(2, 64), Stage(4, 128), Stage(8, 256), Stage(lbp.CELL, lbp.DIMENSIONS))
        return {"lbp": FeatureSpec(stages)}


class Sift(ShallowEncoder):
    """Sparse SIFT: 133 values for each cell of 4 x 4 px, of one keypoint or 0; from the host, without a gradient.

    Attributes:
      library: library that finds the keypoints, "vlsift" or "skimage"; a generator for one cannot read the other.
      first_octave: 0 for the image itself, -1 for twice its size, which finds smaller keypoints.
    """

    library: str = "vlsift"
    first_octave: int = 0

    has_host_features = True
    smallest_side = 16
    default_layer = "sift"
    style_layers = ("sift",)

    def _features(self, images: Array) -> Array:
        return sift.sift(images, library=self.library, first_octave=self.first_octave)

    def host_features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the features that come with a batch of images uint8 [B, H, W, 3], and each image's "keypoints"."""
        options = {"library": self.library, "first_octave": self.first_octave}
        cells = sift.sift_cells(images.astype(np.float32) / 255, **options)
        keypoints = cells.num_keypoints.astype(np.float32)
        return {"features": cells.vectors, "places": cells.places, "keypoints": keypoints}

    def check_installed(self) -> None:
        """Checks that the library is installed.

        Raises:
          UserError: it is not, or there is no such first octave.
        """
        sift.check_library(self.library, self.first_octave)

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of the feature."""
        return {"sift": FeatureSpec((Stage(1, 64), Stage(2, 128), Stage(sift.CELL, sift.DIMENSIONS)))}
