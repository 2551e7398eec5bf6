"""Local response normalisation across channels.

Layout: [..., C]; any value range. Source: Krizhevsky et al. 2012, section 3.3, with Caffe's scaling by the window.
"""

import jax.numpy as jnp

from arinv.types import Array


def local_response_normalization(
    inputs: Array, *, window: int = 5, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Array:
    """Returns inputs / (bias + alpha / window * sum of squares over neighbouring channels) ** beta.

    Args:
      inputs: floating point [..., C].
      window: channels in the sum, odd, centred on the one that is divided; beyond the ends it counts zeros.
      alpha: weight of the mean square.
      beta: exponent.
      bias: what keeps the denominator from zero.

    Returns:
      [..., C], of the dtype of `inputs`; the sum is taken in float32.
    """
    half = window // 2
    squares = jnp.square(inputs.astype(jnp.float32))
    padded = jnp.pad(squares, [(0, 0)] * (inputs.ndim - 1) + [(half, half)])
    channels = inputs.shape[-1]
    total = sum(padded[..., i : i + channels] for i in range(window))
    return (inputs / (bias + alpha / window * total) ** beta).astype(inputs.dtype)
