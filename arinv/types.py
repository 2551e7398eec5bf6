"""Types of arrays and callables shared by the layers of arinv.

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

# Metrics of a train or evaluation step: name -> (sum over examples, number of examples).
Metrics = Mapping[str, tuple[Array, Array]]


class Network(Protocol):
    """The interface of a Flax module that layers above the models use."""

    def init(self, rngs: Any, *inputs: Any, **options: Any) -> Variables:
        """Returns new variables."""

    def apply(self, variables: Variables, *inputs: Any, **options: Any) -> Any:
        """Returns the output, and updated collections with `mutable=`."""
