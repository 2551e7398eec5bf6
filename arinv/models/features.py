"""What an encoder says about its named features, so that a mirror generator can be derived from it."""

import dataclasses
from typing import NamedTuple


class Stage(NamedTuple):
    """One resolution on the way from the image to a feature.

    Attributes:
      stride: image pixels per feature pixel along one side.
      width: channels of the last activation at that resolution.
    """

    stride: int
    width: int


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """Where a named feature lies in its encoder.

    Attributes:
      stages: from full resolution to the feature itself (for a vector: to the last spatial feature
        before it). Strides grow by factors of two, or stay for one more layer of another width.
      offset: side of the feature = image side / stride - offset (1 in AlexNet, whose pools round down).
      is_vector: whether the feature is [B, K] behind a fully connected layer.
    """

    stages: tuple[Stage, ...]
    offset: int = 0
    is_vector: bool = False

    def side(self, image_size: int) -> int:
        """Returns the side of the last spatial feature for square images of `image_size` pixels."""
        return image_size // self.stages[-1].stride - self.offset
