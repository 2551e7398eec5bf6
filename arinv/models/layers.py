"""Layers of networks: batch normalization as in PyTorch; convolutions and dense layers.

Convolutions and dense layers have optional spectral normalization.

Spectral normalization has the form of the original: one power iteration per training forward pass on the matrix
[rest, output channels], both singular vectors kept, so that PyTorch's checkpoints can be read. The vectors are state,
collection "spectral". Encoders, autoencoders and BEGAN have Flax's convolutions (`LinenConv`) and dense layers.

Source: Miyato et al. 2018, algorithm 1; initialization of Rojas-Gomez et al. 2022, released code.
"""

import ast
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.ops import conv as conv_ops
from arinv.ops.channels import add_bias, normalize_batch
from arinv.ops.conv import use_rewrites
from arinv.types import Array, Variables

# Errors of Flax for parameters that do not fit the inputs.
_MISFITS = (flax.errors.ScopeParamShapeError, flax.errors.ScopeParamNotFoundError)


class Misfit(NamedTuple):
    """A parameter that is missing, or of another shape than its network needs.

    Attributes:
      text: its name, and both shapes.
      needed: the shape in the network, for the inputs; empty where it is missing.
      given: its shape in the variables.
    """

    text: str
    needed: tuple[int, ...] = ()
    given: tuple[int, ...] = ()


def _misfit(error: flax.errors.FlaxError) -> Misfit:
    """Returns the parameter that an error of Flax names."""
    text = _flax_text(error)
    names, shapes = re.findall(r'"(.*?)"', text), re.findall(r"\(.*?\)", text)
    if len(names) != 2 or len(shapes) != 2:  # missing, or the text of another version of Flax
        return Misfit(text)
    needed, given = map(ast.literal_eval, shapes)
    return Misfit(f"{names[1].strip('/')}/{names[0]} has shape {given}, not {needed}", needed, given)


def _flax_text(error: flax.errors.FlaxError) -> str:
    return str(error).split(" (http")[0].rstrip(".")


class ShapeChecked(nn.Module):
    """A network whose weights fit inputs of certain shapes only."""

    @nn.nowrap
    def apply(self, variables: Variables, *inputs: Any, **options: Any) -> Any:
        """Returns what `nn.Module.apply` does.

        Args:
          variables: variables of the network.
          *inputs: inputs of the network.
          **options: other arguments of `nn.Module.apply`.

        Raises:
          UserError: inputs of a shape that does not fit the weights, or variables of another network.
        """
        try:
            return super().apply(variables, *inputs, **options)
        except _MISFITS as error:
            raise UserError(self.shape_error(_misfit(error), *inputs)) from error
        except flax.errors.ScopeCollectionNotFound as error:
            raise UserError(
                f"the variables are not those of this {type(self).__name__}; pass them as its `init` returns them, "
                f'{{"params": ...}}, and not the parameters alone: {_flax_text(error)}'
            ) from error

    @nn.nowrap
    def shape_error(self, misfit: Misfit, *inputs: Any) -> str:
        """Returns what does not fit, given the first parameter that does not and the inputs of `apply`."""
        shapes = ", ".join(str(jnp.shape(x)) for x in inputs if hasattr(x, "shape"))
        return (
            f"inputs of shape {shapes} do not fit the weights of this {type(self).__name__}, which are for another "
            f"input shape or width: {misfit.text}"
        )


class BatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm` over all axes but the last, with its attributes and variables.

    A batch is normalized by its own biased variance, the mean of squared deviations over the n images and positions of
    the global batch, whatever the number of devices. The running variance averages the unbiased one, n / (n - 1) times
    that, as in algorithm 2 of the paper and in PyTorch; `flax.linen.BatchNorm` averages the biased one. Padding
    rows count as well; training batches have none.

    Where `arinv.ops.conv` chooses the rewritten forms, statistics of a batch and their gradients come from
    `arinv.ops.channels`; axis_name, masks and missing scales or biases are not supported.
    """

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None) -> Array:
        """Returns x [..., C] normalized by the running statistics, or by its own, which then update them."""
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
        """Returns the output of Flax's layer in training, after rescaling the batch's share of the running variance."""
        before = self.get_variable("batch_stats", "var")
        y = super().__call__(x, use_running_average)
        if not self.is_initializing():
            kept = self.momentum * before
            after = self.get_variable("batch_stats", "var")
            self.put_variable("batch_stats", "var", kept + unbiased * (after - kept))
        return y


_INIT_POWER_ITERATIONS = 8  # for a good estimate at the first forward pass

normal_002 = nn.initializers.normal(0.02)
# PyTorch's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Its fan for transposed convolutions counts the output channels.
torch_uniform_transposed = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)


def rectified_normal(slope: float, *, scale: float = 1.0) -> nn.initializers.Initializer:
    """Returns He's initialization for a leaky rectifier, with the variance times `scale`.

    Args:
      slope: slope of the rectifier below 0; 0 is ReLU.
      scale: factor on the variance.

    Returns:
      A truncated normal initializer, of variance 2 scale / ((1 + slope^2) fan-in).
    """
    return nn.initializers.variance_scaling(2 * scale / (1 + slope**2), "fan_in", "truncated_normal")


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


def _power_iteration(matrix: Array, u: Array) -> tuple[Array, Array]:
    """Returns new left (output side) and right singular vectors of matrix [rest, out] from u [out]."""
    v = _unit(matrix @ u)
    return _unit(v @ matrix), v


def _spectrally_normalized(module: nn.Module, kernel: Array, train: bool) -> Array:
    """Divides a kernel by its largest singular value; updates the singular vectors when training."""
    matrix = kernel.reshape(-1, kernel.shape[-1])

    def initial():
        u = _unit(jnp.ones(matrix.shape[1], matrix.dtype))
        v = jnp.zeros(matrix.shape[0], matrix.dtype)
        # A loop, since the unrolled iterations of all layers would take most of the compilation of an initialization.
        u, v = jax.lax.fori_loop(0, _INIT_POWER_ITERATIONS, lambda _, uv: _power_iteration(matrix, uv[0]), (u, v))
        return {"u": u, "v": v}

    state = module.variable("spectral", "vectors", initial)
    u, v = state.value["u"], state.value["v"]
    if train and not module.is_initializing():
        u, v = _power_iteration(jax.lax.stop_gradient(matrix), u)
        state.value = {"u": u, "v": v}
    sigma = jnp.vdot(v, matrix @ u)  # the vectors are constants: the gradient runs through the matrix
    return kernel / sigma


def _weights(module: nn.Module, shape: tuple[int, ...], train: bool) -> tuple[Array, Array | None]:
    kernel = module.param("kernel", module.kernel_init, shape, jnp.float32)
    if module.spectral_norm:
        kernel = _spectrally_normalized(module, kernel, train)
    bias = None
    if module.use_bias:
        bias = module.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
        bias = bias.astype(module.dtype)
    return kernel.astype(module.dtype), bias


def batch_norm(name: str, *, train: bool, dtype: jax.typing.DTypeLike, bias: float = 0.0) -> BatchNorm:
    """Returns the generators' batch normalization: scales are initialized to N(1, 0.02), biases to `bias`.

    Args:
      name: name of the layer.
      train: whether to normalize by the statistics of the batch and to update the running ones.
      dtype: floating-point type of the computation.
      bias: initial value of the biases.

    Returns:
      A layer: [..., C] -> [..., C].
    """
    return BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        scale_init=lambda key, shape, dtype=jnp.float32: 1 + 0.02 * jax.random.normal(key, shape, dtype),
        bias_init=nn.initializers.constant(bias),
        dtype=dtype,
        name=name,
    )


class LinenConv(nn.Conv):
    """`flax.linen.Conv` in the form that XLA runs fast, see `ops.conv`."""

    conv_general_dilated: Callable[..., Array] = conv_ops.conv_general_dilated


class Conv(nn.Module):
    """Square convolution with PyTorch's symmetric integer padding."""

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    use_bias: bool = False
    spectral_norm: bool = True
    kernel_init: nn.initializers.Initializer = normal_002
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the convolution of x [B, H, W, C]."""
        kernel, bias = _weights(self, (self.size, self.size, x.shape[-1], self.features), train)
        y = conv_ops.conv_general_dilated(
            x.astype(self.dtype),
            kernel,
            (self.stride, self.stride),
            ((self.padding, self.padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y if bias is None else add_bias(y, bias)


class ConvTranspose(nn.Module):
    """Square transposed convolution: at stride 2 a side of n becomes 2n.

    At stride 1 it becomes n with an odd kernel, and n + 1 with an even one, as in PyTorch with 4x4 and padding 1.
    An odd kernel reads maps whose inserted zeros lie right of and below the values.
    """

    features: int
    stride: int
    size: int = 4
    spectral_norm: bool = True
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = torch_uniform_transposed
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the transposed convolution of x [B, H, W, C]."""
        kernel, bias = _weights(self, (self.size, self.size, x.shape[-1], self.features), train)
        y = conv_ops.conv_transpose(
            x.astype(self.dtype),
            kernel,
            stride=self.stride,
            padding=(self.size - 1) // 2,
            output_padding=(self.stride - 1) * (self.size % 2),
        )
        return y if bias is None else add_bias(y, bias)


class Dense(nn.Module):
    """Fully connected layer with bias."""

    features: int
    spectral_norm: bool = True
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = torch_uniform
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns x [B, K] times the kernel plus the bias."""
        kernel, bias = _weights(self, (x.shape[-1], self.features), train)
        y = x.astype(self.dtype) @ kernel
        return y if bias is None else y + bias[None, :]
