"""Convolution and transposed convolution in the forms that XLA runs fast.

Every function returns the same as its plain XLA form up to rounding, for the same weights. On a CPU it uses operations
that XLA has fast kernels for, forward and backward, also inside loops, where plain gradients are several times slower
than outside. Other platforms use the plain forms. `set_rewrites` overrides the choice.

Layout: features [B, H, W, C], kernels [kh, kw, in, out]; any value range.

Source: the gradients of a convolution are those of Dumoulin & Visin 2016, sections 4.4 to 4.6; the
rearrangement of a strided convolution's transpose is the sub-pixel convolution of Shi et al. 2016;
fewer products by transformed tiles are those of Winograd, Lavin & Gray 2016, section 4.1.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arinv import _xla
from arinv.errors import UserError
from arinv.types import Array

LAYOUT = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC
# Blocks pay off for kernels from few channels to a limited number, and for those to few; measured.
_FEW_CHANNELS, _MAX_OUTPUTS = 4, 32
# For kernels from more channels than the first to few, products at each position do, where they fit into the cache.
_MIN_INPUTS_OF_PRODUCTS, _MAX_BYTES_OF_PRODUCTS = 17, 16 * 2**20
# Products of bfloat16 pay for kernels from and to this many channels, in parts that stay in the cache; measured.
_MIN_CHANNELS_OF_STRIPS, _BYTES_OF_STRIPS, _MAX_BYTES_OF_STRIPS = 16, 3 * 2**20, 6 * 2**20
# Transformed tiles pay for 3x3 kernels from and to this many channels, where there is enough to compute, in parts that
# stay in the cache, and where there are more tiles than half the channels, since kernels are transformed too; measured.
_MIN_CHANNELS_OF_TILES, _MIN_FLOPS_OF_TILES = 64, 500e6
_BYTES_OF_TILES, _MAX_BYTES_OF_TILES = 10 * 2**20, 16 * 2**20
# Two groups one by one take a fifth to a twelfth of the time of XLA's grouped convolution, forward and backward.
_MAX_GROUPS = 2

Pads = tuple[tuple[int, int], tuple[int, int]]
# Strides -> rows and columns that are computed together; measured.
_BLOCKS = {(1, 1): (2, 2), (2, 2): (1, 2)}

_override: bool | None = None  # of the choice by platform


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    **kwargs: Any,
) -> Array:
    """Returns `lax.conv_general_dilated` of the arguments, with a gradient that is fast inside loops.

    Fits the `conv_general_dilated` argument of `flax.linen.Conv`. Two-dimensional convolutions of
    [B, H, W, C] with [kh, kw, in, out], undilated, in few groups, use the rewritten gradient, one
    group after another; everything else is the plain function. The rewritten form has no
    forward-mode derivative.

    Args:
      lhs: [B, H, W, in].
      rhs: [kh, kw, in, out].
      window_strides: the two strides.
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).
      lhs_dilation: as in lax.
      rhs_dilation: as in lax.
      dimension_numbers: as in lax; None means [B, C, H, W], which is not rewritten.
      feature_group_count: as in lax.
      batch_group_count: as in lax.
      precision: as in lax; anything but None is not rewritten.
      **kwargs: other arguments of lax, likewise.

    Returns:
      [B, H', W', out], of the dtype of `lhs`.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    undilated = all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    has_few_groups = feature_group_count <= _MAX_GROUPS and batch_group_count == 1
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    has_options = precision is not None or bool(kwargs)
    if use_rewrites() and numbers == LAYOUT and undilated and has_few_groups and not has_options:
        strides, kernel, size = tuple(window_strides), rhs.shape[:2], lhs.shape[1:3]
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(size, kernel, strides, padding)
        pads = tuple((int(low), int(high)) for low, high in padding)
        if all(0 <= pad < k for pair, k in zip(pads, kernel, strict=True) for pad in pair):
            geometry = _Geometry(strides, pads, kernel, size)
            if feature_group_count == 1:
                return _down(geometry, lhs, rhs)
            groups = (jnp.split(x, feature_group_count, axis=-1) for x in (lhs, rhs))
            return jnp.concatenate([_down(geometry, x, w) for x, w in zip(*groups, strict=True)], axis=-1)
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
        feature_group_count, batch_group_count, precision, **kwargs,
    )  # fmt: skip


def conv_transpose(
    inputs: Array,
    kernel: Array,
    *,
    stride: int,
    padding: int = 1,
    output_padding: int = 0,
) -> Array:
    """Returns the transposed convolution with equal strides and paddings of both axes.

    Size n becomes (n - 1) * stride + k - 2 * padding + output_padding: a 4x4 kernel with padding 1
    maps n to n + 1 at stride 1 and to 2n at stride 2, and then equals
    `flax.linen.ConvTranspose((4, 4), strides=stride, padding=((2, 2), (2, 2)))`. PyTorch's
    ConvTranspose2d of the same stride and padding equals this with its weight [in, out, kh, kw]
    transposed to [kh, kw, in, out] and flipped along both spatial axes.

    Args:
      inputs: [B, H, W, in].
      kernel: [kh, kw, in, out].
      stride: stride along both axes, at least 1.
      padding: rows and columns removed from each side of the full result; smaller than the kernel.
      output_padding: rows and columns added at the bottom and right; smaller than the stride.

    Returns:
      [B, H', W', out], of the dtype of `inputs`.

    Raises:
      UserError: a stride, padding or output padding out of range.

    Source: Dumoulin & Visin 2016, section 4.
    """
    smallest = min(kernel.shape[:2])
    for name, value, low, high in [
        ("stride", stride, 1, math.inf),
        ("padding", padding, 0, smallest - 1),
        ("output_padding", output_padding, 0, stride - 1),
    ]:
        if not low <= value <= high:
            raise UserError(f"{name} of conv_transpose must be {low} to {high}; got {value}")
    if not use_rewrites():
        pads = [(k - 1 - padding, k - 1 - padding + output_padding) for k in kernel.shape[:2]]
        dilation = (stride, stride)
        return lax.conv_general_dilated(inputs, kernel, (1, 1), pads, lhs_dilation=dilation, dimension_numbers=LAYOUT)
    size = tuple(
        (n - 1) * stride + k - 2 * padding + output_padding
        for n, k in zip(inputs.shape[1:3], kernel.shape[:2], strict=True)
    )
    pads = ((padding, padding),) * 2
    geometry = _Geometry((stride, stride), pads, kernel.shape[:2], size)
    return _up(geometry, inputs, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))


def set_rewrites(value: bool | None) -> None:
    """Chooses between the rewritten and the plain forms, for tests and benchmarks.

    The choice is made while a function is traced, so JAX's caches are cleared.

    Args:
      value: True for the rewritten forms, False for the plain ones, None to choose by platform.
    """
    global _override
    if value is not _override:
        jax.clear_caches()  # cached loop bodies would keep the other form
    _override = value


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """Uses the plain forms, those of accelerators, within a `with` statement.

    Returns:
      The context manager.
    """
    if not use_rewrites():
        yield
        return
    before = _override
    set_rewrites(False)
    try:
        yield
    finally:
        set_rewrites(before)


def use_rewrites() -> bool:
    """Returns whether the rewritten forms are used: on a CPU, unless `set_rewrites` overrides it.

    Returns:
      True for the rewritten forms, False for the plain ones.
    """
    return jax.default_backend() == "cpu" if _override is None else _override


class _Geometry(NamedTuple):
    """The static parameters of a convolution of features of `size`; pairs are (height, width)."""

    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    kernel: tuple[int, int]
    size: tuple[int, int]


# The three bilinear maps below are each other's gradients. With w: [kh, kw, in, out], x of `size`
# with `in` channels and y of `out_size` with `out` channels,
#   <y, down(x, w)> = <x, up(y, w)> = <w, correlate(x, y)>,
# so each rule uses the other two maps, and derivatives of any order stay in fast forms.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _down(geometry: _Geometry, x: Array, w: Array) -> Array:
    """Returns the convolution."""
    return convolve(x, w, geometry.strides, geometry.pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _up(geometry: _Geometry, y: Array, w: Array) -> Array:
    """Returns the transpose of the convolution in x: its image gradient, or a transposed convolution."""
    axes = [_phases(geometry, axis, y.shape[1 + axis]) for axis in (0, 1)]
    (s_h, s_w), (k_h, k_w) = geometry.strides, geometry.kernel
    (taps_h, m_h, first_h, pads_h), (taps_w, m_w, first_w, pads_w) = axes
    c_in, c_out = w.shape[2:]
    num_images = _num_images_of_tiles(y, w, geometry.size) if geometry.strides == (1, 1) else 0
    if num_images:
        return _convolve_tiles(y, w[::-1, ::-1], (pads_h, pads_w), geometry.size, num_images, terms="hwo,io->hwi")
    # One stride-1 convolution computes the s_h * s_w phases of the result as channels ...
    w = jnp.pad(w, ((0, m_h * taps_h - k_h), (0, m_w * taps_w - k_w), (0, 0), (0, 0)))
    w = jnp.flip(w.reshape(taps_h, m_h, taps_w, m_w, c_in, c_out), (0, 2))
    w = w.transpose(0, 2, 5, 1, 3, 4).reshape(taps_h, taps_w, c_out, m_h * m_w * c_in)
    z = convolve(y, w, (1, 1), (pads_h, pads_w))
    if (s_h, s_w) == (1, 1):
        return z
    # ... which are then interleaved. Where the kernel is smaller than the stride, some are zero.
    b, rows, columns = z.shape[:3]
    z = z.reshape(b, rows, columns, m_h, m_w, c_in)
    z = jnp.pad(z, ((0, 0), (0, 0), (0, 0), (0, s_h - m_h), (0, s_w - m_w), (0, 0)))
    z = z.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * s_h, columns * s_w, c_in)
    return z[:, first_h : first_h + geometry.size[0], first_w : first_w + geometry.size[1]]


def _phases(geometry, axis, out_size):
    """Returns the taps of a phase, the number of phases with taps, the first row to keep, and the padding.

    Row h of the padded x sums the rows o of y and k of the kernel with h = stride * o + k, so
    phase h % stride uses kernel rows phase, phase + stride, ...: a stride-1 convolution of y.
    """
    stride, pad, kernel = geometry.strides[axis], geometry.pads[axis][0], geometry.kernel[axis]
    taps = -(-kernel // stride)
    skipped = pad // stride  # rows of all phases within the padding
    rows = -(-(geometry.size[axis] + pad) // stride)
    pads = (taps - 1 - skipped, rows - out_size)
    return taps, min(kernel, stride), pad - skipped * stride, pads


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _correlate(geometry: _Geometry, x: Array, y: Array) -> Array:
    """Returns the transpose of the convolution in w: its kernel gradient.

    This is a convolution of x with y whose batches and channels are exchanged by transposing, not by dimension numbers:
    as fast inside a loop as outside, where lax's own gradient takes 45 to 220 times as long.
    """
    if geometry.kernel == (1, 1):
        return _correlate_points(geometry, x, y)
    spans = [(n - 1) * s + 1 for n, s in zip(y.shape[1:3], geometry.strides, strict=True)]
    low = [pair[0] for pair in geometry.pads]
    sizes = zip(geometry.kernel, spans, geometry.size, low, strict=True)
    high = [kernel - 1 + span - size - pad for kernel, span, size, pad in sizes]
    images, kernel, pads = x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3), tuple(zip(low, high, strict=True))
    w = _convolve_lax(images, kernel, (1, 1), pads, rhs_dilation=geometry.strides)
    return w.transpose(1, 2, 0, 3)


def _correlate_points(geometry, x, y):
    """Returns the kernel gradient of a 1x1 convolution: one matrix product."""
    stride_h, stride_w = geometry.strides
    contract = (((0, 1, 2), (0, 1, 2)), ((), ()))
    return lax.dot_general(x[:, ::stride_h, ::stride_w], y, contract)[None, None]


def _down_fwd(geometry, x, w):
    return _down(geometry, x, w), (x, w)


def _down_bwd(geometry, saved, y):
    x, w = saved
    return _up(geometry, y, w), _correlate(geometry, x, y)


def _up_fwd(geometry, y, w):
    return _up(geometry, y, w), (y, w)


def _up_bwd(geometry, saved, x):
    y, w = saved
    return _down(geometry, x, w), _correlate(geometry, x, y)


def _correlate_fwd(geometry, x, y):
    return _correlate(geometry, x, y), (x, y)


def _correlate_bwd(geometry, saved, w):
    x, y = saved
    return _up(geometry, y, w), _down(geometry, x, w)


_down.defvjp(_down_fwd, _down_bwd)
_up.defvjp(_up_fwd, _up_bwd)
_correlate.defvjp(_correlate_fwd, _correlate_bwd)


def convolve(x: Array, w: Array, strides: tuple[int, int], pads: Pads) -> Array:
    """Returns the convolution of x with w, in the form that is fastest on a CPU.

    XLA converts 16-bit numbers to float32 for its convolutions, slowly. Here they are converted before, or multiplied
    as they are where the processor has instructions for that; sums are float32.

    Args:
      x: [B, H, W, in].
      w: [kh, kw, in, out].
      strides: strides along rows and columns.
      pads: ((top, bottom), (left, right)).

    Returns:
      [B, H', W', out], of the dtype of `x`.
    """
    axes = zip(x.shape[1:3], pads, w.shape[:2], strides, strict=True)
    outputs = [(n + sum(pair) - k) // stride + 1 for n, pair, k, stride in axes]
    if x.dtype == w.dtype and x.dtype in (jnp.bfloat16, jnp.float16):
        if num_images := _num_images_of_strips(x, w, outputs):
            return _convolve_strips(x, w, strides, pads, outputs, num_images)
        wide = convolve(x.astype(jnp.float32), w.astype(jnp.float32), strides, pads)
        return wide.astype(x.dtype)
    if strides == (1, 1) and (num_images := _num_images_of_tiles(x, w, outputs)):
        return _convolve_tiles(x, w, pads, outputs, num_images)
    if strides == (1, 1) and _is_from_many_to_few(x, w):
        return _convolve_products(x, w, pads, outputs)
    block = _BLOCKS.get(strides)
    if block and _is_narrow(w) and all(n % size == 0 for n, size in zip(outputs, block, strict=True)):
        return _convolve_blocks(x, w, strides, pads, block)
    return _convolve_lax(x, w, strides, pads)


def _convolve_lax(x, w, strides, pads, rhs_dilation=None):
    """Returns lax's convolution, of a map that is not smaller than the kernel.

    XLA exchanges a map and a kernel of more rows and columns and then uses a plain loop, 100 times as slow. A map that
    is padded by an operation of its own is larger; the barrier keeps XLA from moving the padding back.
    """
    if math.prod(w.shape[:2]) > math.prod(x.shape[1:3]):
        around = ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0))
        x, pads = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), around)), ((0, 0), (0, 0))
    return lax.conv_general_dilated(x, w, strides, pads, rhs_dilation=rhs_dilation, dimension_numbers=LAYOUT)


def _is_narrow(w):
    """Returns whether a kernel reads or writes an image, or has as few channels."""
    c_in, c_out = w.shape[2:]
    from_image, to_image = c_in <= _FEW_CHANNELS, c_out <= _FEW_CHANNELS
    return min(w.shape[:2]) > 1 and (from_image and c_out <= _MAX_OUTPUTS or to_image)


def _is_from_many_to_few(x, w):
    """Returns whether a kernel writes an image, and its products at each position fit into the cache."""
    kh, kw, c_in, c_out = w.shape
    num_bytes = 4 * math.prod(x.shape[:3]) * kh * kw * c_out
    is_narrow = min(kh, kw) > 1 and c_out <= _FEW_CHANNELS and c_in >= _MIN_INPUTS_OF_PRODUCTS
    return is_narrow and num_bytes <= _MAX_BYTES_OF_PRODUCTS


def _convolve_products(x, w, pads, outputs):
    """Returns the convolution as one matrix product of all positions and taps, whose results are shifted and added."""
    kh, kw, c_in, c_out = w.shape
    taps = w.transpose(2, 0, 1, 3).reshape(c_in, -1)
    products = lax.dot_general(x, taps, (((3,), (0,)), ((), ())))
    products = products.reshape(*x.shape[:3], kh, kw, c_out)
    around = ((0, 0, 0), *((low, high, 0) for low, high in pads), *[(0, 0, 0)] * 3)
    products = lax.pad(products, jnp.zeros((), products.dtype), around)  # pads may be negative
    rows, columns = outputs
    terms = [products[:, i : i + rows, j : j + columns, i, j] for i in range(kh) for j in range(kw)]
    return functools.reduce(jnp.add, terms)


def _num_images_of_strips(x, w, outputs):
    """Returns the number of images whose strips are multiplied together, or 0 where another form is used.

    With several devices it is 0: a loop over parts of a batch that is split among them would gather it.
    """
    one = 2 * x.shape[1] * outputs[1] * w.shape[1] * x.shape[3]  # bytes, but for the padding
    is_wide = min(w.shape[2:]) >= _MIN_CHANNELS_OF_STRIPS and x.dtype == jnp.bfloat16
    fits = min(*outputs, one) > 0 and one <= _MAX_BYTES_OF_STRIPS
    if not (is_wide and fits and _xla.has_bfloat16_products() and jax.device_count() == 1):
        return 0
    return max(1, _BYTES_OF_STRIPS // one)


def _convolve_strips(x, w, strides, pads, outputs, num_images):
    """Returns the convolution of bfloat16: for `num_images` at a time, one matrix product for each row of the kernel.

    The inputs of a row's columns are side by side in the channels.
    """
    (stride_h, stride_w), (rows, columns), (kh, kw, _, c_out) = strides, outputs, w.shape
    kernels = w.reshape(kh, -1, c_out)
    height, width = (rows - 1) * stride_h + 1, (columns - 1) * stride_w + 1
    around = (*((low, high, 0) for low, high in pads), (0, 0, 0))

    def convolve_image(x):
        x = lax.pad(x, jnp.zeros((), x.dtype), around)
        x = jnp.concatenate([x[:, j : j + width : stride_w] for j in range(kw)], -1)
        strips = (x[i : i + height : stride_h] for i in range(kh))
        terms = [
            jnp.matmul(strip, w, preferred_element_type=jnp.float32) for strip, w in zip(strips, kernels, strict=True)
        ]
        return functools.reduce(jnp.add, terms).astype(x.dtype)

    return lax.map(convolve_image, x, batch_size=num_images)


def _num_images_of_tiles(x, w, outputs):
    """Returns the number of images whose tiles are multiplied together, or 0 where another form is used.

    With several devices it is 0, see `_num_images_of_strips`.
    """
    kh, kw, c_in, c_out = w.shape
    is_wide = (kh, kw) == (3, 3) and min(c_in, c_out) >= _MIN_CHANNELS_OF_TILES
    if not (is_wide and x.dtype == w.dtype == jnp.float32 and min(outputs) > 0 and jax.device_count() == 1):
        return 0
    tiles, channels = math.prod(-(-n // 2) for n in outputs), max(c_in, c_out)  # tiles of one image
    one, flops = 64 * tiles * channels, 2 * len(x) * math.prod(outputs) * w.size  # 64 bytes: 16 products
    if one > _MAX_BYTES_OF_TILES or flops < _MIN_FLOPS_OF_TILES or 2 * len(x) * tiles < channels:
        return 0
    most = max(1, _BYTES_OF_TILES // one)
    return next((n for n in range(most, most // 2, -1) if len(x) % n == 0), most)  # equal parts compile once


def _convolve_tiles(x, w, pads, outputs, num_images, *, terms="hwi,io->hwo"):
    """Returns the convolution with a 3x3 kernel by Winograd's F(2x2, 3x3), for `num_images` at a time.

    Tiles of 4 x 4 and the kernel are transformed, and multiplied entry by entry for 2 x 2 outputs: 16 products in place
    of 36. Rounding is up to twice that of the plain form, also of outputs whose own inputs are zero. `terms` are the
    sums over channels, from inputs or, for the transpose, from outputs.
    """
    rows, columns = (-(-n // 2) for n in outputs)
    sides = zip(pads, (rows, columns), x.shape[1:3], strict=True)
    around = (*((low, 2 * n + 2 - low - size, 0) for (low, _), n, size in sides), (0, 0, 0))

    def transform(a, b, c):
        return a, (a + b + c) / 2, (a - b + c) / 2, c

    kernels = [transform(*row) for row in zip(*(transform(*column) for column in w.swapaxes(0, 1)), strict=True)]

    def split(x, axis, count):
        a, b, c, d = (lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(4))
        return a - c, b + c, c - b, b - d

    def join(a, b, c, d):
        return a + b + c, b - c - d

    def convolve_image(x):
        # The barrier keeps XLA from computing the sums of rows again in every sum of columns.
        strips = lax.optimization_barrier(split(lax.pad(x, jnp.zeros((), x.dtype), around), 0, rows))
        products = [
            [jnp.einsum(terms, tile, kernel) for tile, kernel in zip(split(strip, 1, columns), row, strict=True)]
            for strip, row in zip(strips, kernels, strict=True)
        ]
        pairs = zip(*(join(*column) for column in zip(*products, strict=True)), strict=True)
        y = jnp.stack([jnp.stack(join(*row), 2) for row in pairs], 1)
        return y.reshape(2 * rows, 2 * columns, -1)

    y = lax.map(convolve_image, x, batch_size=num_images)
    return y[:, : outputs[0], : outputs[1]]


def _convolve_blocks(x, w, strides, pads, block):
    """Returns the convolution, computed in blocks of rows and columns."""
    sides = zip(strides, block, strict=True)
    rows, columns = ([(i * stride, (size - 1 - i) * stride) for i in range(size)] for stride, size in sides)
    w = jnp.stack([jnp.pad(w, (row, column, (0, 0), (0, 0))) for row in rows for column in columns], -2)
    w = w.reshape(*w.shape[:3], -1)
    steps = tuple(stride * size for stride, size in zip(strides, block, strict=True))
    y = _convolve_lax(x, w, steps, pads)
    b, rows, columns, channels = y.shape
    y = y.reshape(b, rows, columns, *block, channels // math.prod(block)).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, block[0] * rows, block[1] * columns, channels // math.prod(block))
