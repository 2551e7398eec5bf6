"""Arrays and callables that the layers of arinv hand to each other.

Images are float32 [B, H, W, C] in [0, 1] unless a name says otherwise (`images_u8` is uint8 in 0..255,
`images_pm1` is in [-1, 1]).
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

Array = jax.Array
ArrayLike = jax.Array | np.ndarray

# {"image": [B, H, W, C] uint8 or float32, "label": int32 [B], -1 = padding, "mask": float32 [B], 0 = padding}
Batch = Mapping[str, ArrayLike]

# Flax variables: {"params": ..., "batch_stats": ..., ...}
Variables = Mapping[str, Any]

# images [B, H, W, C] in [0, 1] -> logits [B, K]; rows are independent.
LogitsFn = Callable[[Array], Array]

# images [B, H, W, C] in [0, 1] -> {"conv1": [B, h, w, c], ...}
FeaturesFn = Callable[[Array], Mapping[str, Array]]

# features [B, ...] -> images [B, H, W, C] in [0, 1]
DecodeFn = Callable[[Array], Array]

# What a train or evaluation step reports: name -> (sum over examples, number of examples).
Metrics = Mapping[str, tuple[Array, Array]]


class Network(Protocol):
    """What the layers above the models know of a Flax module."""

    def init(self, rngs: Any, *inputs: Any, **options: Any) -> Variables:
        """Returns new variables."""

    def apply(self, variables: Variables, *inputs: Any, **options: Any) -> Any:
        """Returns the output, with changed collections where they are asked for."""
