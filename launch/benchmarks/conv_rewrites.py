"""The rewritten forms of arinv.ops.conv against the plain ones: which of them should a platform use?

Each case is an operation at a size that a training step has; the ratio is the speed of the rewritten form over
that of the plain one.
"""

import functools
from collections.abc import Callable

from launch.benchmarks.measurement import Benchmark, Options, Prepared

_ROUNDS = 8  # of the loop, as in an attack


def _conv(stride: int, padding: int) -> Callable:
    def apply(x, kernel):
        from arinv.ops import conv

        numbers = ("NHWC", "HWIO", "NHWC")
        pads = ((padding, padding),) * 2
        return conv.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=numbers)

    return apply


def _transposed(stride: int) -> Callable:
    def apply(x, kernel):
        from arinv.ops import conv

        return conv.conv_transpose(x, kernel, stride=stride, padding=1)

    return apply


def _pool(name: str, window: int, stride: int) -> Callable:
    def apply(x):
        from arinv.ops import pooling

        return getattr(pooling, name)(x, window, stride)

    return apply


# name -> (operation, image shape without batch, its kernel's shape)
_OPERATIONS = {
    "conv3": (_conv(1, 1), (16, 16, 128), (3, 3, 128, 128)),
    "conv3_32px": (_conv(1, 1), (32, 32, 64), (3, 3, 64, 64)),
    "conv3_8px": (_conv(1, 1), (8, 8, 256), (3, 3, 256, 256)),
    "conv3_4px": (_conv(1, 1), (4, 4, 512), (3, 3, 512, 512)),
    "conv3_stride2": (_conv(2, 1), (32, 32, 64), (3, 3, 64, 128)),
    "conv11_stride4": (_conv(4, 2), (224, 224, 3), (11, 11, 3, 64)),
    "transposed4_stride1": (_transposed(1), (13, 13, 192), (4, 4, 192, 192)),
    "transposed4_stride2": (_transposed(2), (32, 32, 64), (4, 4, 64, 64)),
    "max_pool2": (_pool("max_pool", 2, 2), (32, 32, 64), None),
    "max_pool3_stride2": (_pool("max_pool", 3, 2), (55, 55, 64), None),
    "avg_pool2": (_pool("avg_pool", 2, 2), (32, 32, 64), None),
}
_MODES = ("forward", "image_gradient", "image_gradient_in_loop", "kernel_gradient")
_BATCH = 32


def _function(operation: Callable, mode: str) -> Callable:
    """Returns the function of (x, *kernel) that a mode measures; the gradient is of half the squared norm."""
    import jax
    import jax.numpy as jnp

    def objective(x, *kernel):
        return jnp.sum(jnp.square(operation(x, *kernel).astype(jnp.float32))) / 2

    if mode == "forward":
        return operation
    if mode == "image_gradient":
        return jax.grad(objective)
    if mode == "kernel_gradient":
        return jax.grad(objective, argnums=1)

    def loop(x, *kernel):
        def step(_, x):
            return x - (1e-6 * jax.grad(objective)(x, *kernel)).astype(x.dtype)

        return jax.lax.fori_loop(0, _ROUNDS, step, x)

    return loop


def prepare(case: str, options: Options, *, rewritten: bool) -> Prepared:
    """Compiles one form of one case."""
    import jax
    import numpy as np

    from arinv.ops import conv
    from launch.benchmarks import jax_steps

    conv.set_rewrites(rewritten)
    name, mode = case.split("/")
    operation, image, kernel = _OPERATIONS[name]
    rng = np.random.default_rng(0)
    shapes = [(options.batch or _BATCH, *image)] + ([kernel] if kernel else [])
    arrays = [jax.numpy.asarray(rng.random(shape, np.float32) / 10, options.dtype) for shape in shapes]
    return jax_steps.prepare_call(_function(operation, mode), tuple(arrays), counted=bool(kernel) and not rewritten)


BENCHMARK = Benchmark(
    cases=tuple(
        f"{name}/{mode}"
        for name, (_, _, kernel) in _OPERATIONS.items()
        for mode in _MODES
        if kernel or mode != "kernel_gradient"
    ),
    variants={
        "rewritten": functools.partial(prepare, rewritten=True),
        "plain": functools.partial(prepare, rewritten=False),
    },
)
