"""Convolution, transposed convolution and dense layers that can be spectrally normalised.

Flax's own layers serve the encoders. The generator and the discriminator need spectral normalisation in
the form of the original: one power iteration per training forward on the matrix [rest, output channels],
both singular vectors kept, so that PyTorch's checkpoints carry over. They are state, collection "spectral".

Source: Miyato et al. 2018, algorithm 1; initialisation of Rojas-Gomez et al. 2022, released code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.models.batch_norm import BatchNorm
from arinv.ops import conv as conv_ops
from arinv.ops.channels import add_bias
from arinv.types import Array

_INIT_POWER_ITERATIONS = 8  # so that the first forward already has a fair estimate

normal_002 = nn.initializers.normal(0.02)
# PyTorch's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Its fan for transposed convolutions counts the output channels.
torch_uniform_transposed = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)


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
        for _ in range(_INIT_POWER_ITERATIONS):
            u, v = _power_iteration(matrix, u)
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
    """Returns batch normalisation as the generators have it: scales begin at N(1, 0.02), biases at `bias`."""
    return BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        scale_init=lambda key, shape, dtype=jnp.float32: 1 + 0.02 * jax.random.normal(key, shape, dtype),
        bias_init=nn.initializers.constant(bias),
        dtype=dtype,
        name=name,
    )


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
    """4x4 transposed convolution, padding 1: a side of n becomes n + 1 (stride 1) or 2n (stride 2)."""

    features: int
    stride: int
    spectral_norm: bool = True
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = torch_uniform_transposed
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the transposed convolution of x [B, H, W, C]."""
        kernel, bias = _weights(self, (4, 4, x.shape[-1], self.features), train)
        y = conv_ops.conv_transpose(x.astype(self.dtype), kernel, stride=self.stride, padding=1)
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
