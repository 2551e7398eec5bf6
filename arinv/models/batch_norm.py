"""Batch normalisation: Flax's, with the running variance of PyTorch and the sums of its training fast on a CPU.

Source: Ioffe & Szegedy 2015, algorithms 1 and 2; `torch.nn.BatchNorm2d`.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from arinv.ops.channels import normalize_batch
from arinv.ops.conv import use_rewrites
from arinv.types import Array


class BatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm` over all axes but the last, with its attributes and variables.

    A batch is normalised by its own biased variance, the mean of squared deviations over the n images and positions of
    the global batch, whatever the number of devices. The running variance takes up the unbiased one, n / (n - 1) times
    that, as algorithm 2 of the paper and PyTorch have it; `flax.linen.BatchNorm` takes up the biased one. Every row
    counts, also one of padding: training batches have none.

    Where `arinv.ops.conv` chooses the rewritten forms, statistics of a batch and their gradients come from
    `arinv.ops.channels`; axis_name, masks and missing scales or biases are not for it.
    """

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None) -> Array:
        """Returns x [..., C] normalised by the running statistics, or by its own, which go into them."""
        running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        if running:
            return super().__call__(x, use_running_average)
        count = math.prod(x.shape[:-1])
        unbiased = count / max(count - 1, 1)
        if not use_rewrites():
            return self._with_unbiased_variance(x, use_running_average, unbiased)
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        y, batch_mean, batch_variance = normalize_batch(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            for statistic, value in ((mean, batch_mean), (variance, unbiased * batch_variance)):
                statistic.value = self.momentum * statistic.value + (1 - self.momentum) * value
        return y.astype(self.dtype or x.dtype)

    def _with_unbiased_variance(self, x: Array, use_running_average: bool | None, unbiased: float) -> Array:
        """Returns what Flax's layer does in training; the share of the batch in the running variance is rescaled."""
        before = self.get_variable("batch_stats", "var")
        y = super().__call__(x, use_running_average)
        if not self.is_initializing():
            kept = self.momentum * before
            after = self.get_variable("batch_stats", "var")
            self.put_variable("batch_stats", "var", kept + unbiased * (after - kept))
        return y
