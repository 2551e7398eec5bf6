"""Batch normalisation: Flax's, with the sums of its training fast on a CPU.

Source: Ioffe & Szegedy 2015.
"""

import flax.linen as nn
import jax.numpy as jnp

from arinv.ops.channels import normalize_batch
from arinv.ops.conv import use_rewrites
from arinv.types import Array


class BatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm` over all axes but the last, with its attributes and variables.

    Where `arinv.ops.conv` chooses the rewritten forms, statistics of a batch and their gradients come from
    `arinv.ops.channels`; axis_name, masks and missing scales or biases are not for it.
    """

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None) -> Array:
        """Returns x [..., C] normalised by the running statistics, or by its own, which go into them."""
        running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        if running or not use_rewrites():
            return super().__call__(x, use_running_average)
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        y, *batch = normalize_batch(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            for statistic, value in zip((mean, variance), batch, strict=True):
                statistic.value = self.momentum * statistic.value + (1 - self.momentum) * value
        return y.astype(self.dtype or x.dtype)
