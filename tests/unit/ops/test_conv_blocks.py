"""Convolutions in blocks of rows and columns, and by products of positions, strips or tiles, against plain ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from arinv import _xla
from arinv.ops import conv
from arinv.ops.conv import LAYOUT, convolve


def _strides(x, w, strides, pads):
    equations = jax.make_jaxpr(lambda x, w: convolve(x, w, strides, pads))(x, w).eqns
    return [e.params["window_strides"] for e in equations if e.primitive.name == "conv_general_dilated"]


@pytest.mark.parametrize("size, kernel, strides, pads, channels, made_with", [
    ((6, 4), (5, 5), (1, 1), ((2, 2), (2, 2)), (3, 16), (2, 2)),
    ((6, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (16, 3), (2, 2)),
    ((7, 5), (2, 4), (1, 1), ((0, 0), (1, 1)), (1, 4), (2, 2)),
    ((8, 8), (4, 3), (1, 1), ((2, 1), (0, 0)), (3, 32), (2, 2)),
    ((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (3, 16), (1, 1)),  # an odd number of rows
    ((8, 8), (4, 4), (2, 2), ((1, 1), (1, 1)), (3, 32), (2, 4)),
    ((6, 9), (3, 4), (2, 2), ((0, 0), (1, 1)), (3, 8), (2, 4)),  # the last row is not read
    ((6, 6), (4, 4), (2, 2), ((1, 1), (1, 1)), (3, 32), (2, 2)),  # an odd number of columns
    ((9, 9), (3, 3), (3, 3), ((0, 0), (0, 0)), (3, 8), (3, 3)),
    ((6, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (17, 3), ()),  # by products
    ((5, 7), (5, 3), (1, 1), ((4, -1), (0, 2)), (32, 4), ()),
    ((256, 512), (4, 4), (1, 1), ((1, 2), (2, 1)), (17, 3), (2, 2)),  # products beyond the cache
    ((6, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (17, 5), (1, 1)),
    ((6, 6), (1, 1), (1, 1), ((0, 0), (0, 0)), (3, 3), (1, 1)),
])  # fmt: skip
@pytest.mark.long
def test_convolve_equals_lax(key, size, kernel, strides, pads, channels, made_with):
    x = jax.random.normal(key, (2, *size, channels[0]))
    w = jax.random.normal(jax.random.fold_in(key, 1), (*kernel, *channels))
    assert _strides(x, w, strides, pads) == ([made_with] if made_with else [])
    plain = lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=LAYOUT)
    # Processors without AVX-512 add in another order.
    np.testing.assert_allclose(convolve(x, w, strides, pads), plain, rtol=1e-5, atol=1e-6 * np.abs(plain).max())


def test_products_of_bfloat16_are_summed_in_float32(key):
    x, w = jax.random.normal(key, (1, 8, 8, 32)), jax.random.normal(jax.random.fold_in(key, 1), (5, 5, 32, 3))
    halves = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    result = convolve(*halves, (1, 1), ((2, 2), (2, 2)))
    exact = convolve(*(value.astype(jnp.float32) for value in halves), (1, 1), ((2, 2), (2, 2)))
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("size, kernel, strides, pads, channels, parts", [
    ((6, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (16, 24), []),
    ((9, 8), (3, 2), (2, 1), ((0, 2), (1, -1)), (17, 16), []),
    ((7, 7), (1, 1), (2, 2), ((0, 0), (0, 0)), (32, 16), []),
    ((224, 112), (3, 3), (1, 1), ((1, 1), (1, 1)), (16, 16), [7]),  # an image at a time
    ((100, 70), (3, 3), (1, 1), ((1, 1), (1, 1)), (24, 16), [2]),  # three at a time, and one
])  # fmt: skip
def test_strips_of_bfloat16_equal_float32_rounded_once(key, monkeypatch, size, kernel, strides, pads, channels, parts):
    monkeypatch.setattr(_xla, "has_bfloat16_products", lambda: True)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    x = jax.random.normal(key, (7, *size, channels[0]), jnp.bfloat16)
    w = jax.random.normal(jax.random.fold_in(key, 1), (*kernel, *channels), jnp.bfloat16)
    text = str(jaxpr := jax.make_jaxpr(lambda x, w: convolve(x, w, strides, pads))(x, w))
    assert [e.params["length"] for e in jaxpr.eqns if e.primitive.name == "scan"] == parts
    assert "dot_general" in text and "conv_general_dilated" not in text
    result = convolve(x, w, strides, pads)
    wide = (value.astype(jnp.float32) for value in (x, w))
    exact = lax.conv_general_dilated(*wide, strides, pads, dimension_numbers=LAYOUT)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result, np.float32), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("batch, size, pads, channels, parts", [
    (4, (12, 12), ((1, 1), (1, 1)), (64, 96), []),
    (5, (13, 9), ((0, 2), (1, -1)), (80, 64), []),
    (8, (41, 40), ((2, 2), (1, 1)), (64, 64), [2]),  # four of eight at a time
    (7, (53, 54), ((1, 1), (2, 0)), (72, 64), [2]),  # three at a time, and one
])  # fmt: skip
def test_transformed_tiles_equal_lax(key, monkeypatch, batch, size, pads, channels, parts):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(conv, "_MIN_FLOPS_OF_TILES", 0)
    x = jax.random.normal(key, (batch, *size, channels[0]))
    w = jax.random.normal(jax.random.fold_in(key, 1), (3, 3, *channels))
    jaxpr = jax.make_jaxpr(lambda x, w: convolve(x, w, (1, 1), pads))(x, w)
    assert [e.params["length"] for e in jaxpr.eqns if e.primitive.name == "scan"] == parts
    assert "dot_general" in str(jaxpr) and "conv_general_dilated" not in str(jaxpr)
    plain = lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=LAYOUT)
    np.testing.assert_allclose(convolve(x, w, (1, 1), pads), plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size, pads, channels", [
    ((12, 12), ((1, 1), (1, 1)), (64, 96)), ((9, 13), ((0, 2), (2, 1)), (80, 64)), ((3, 4), ((0, 0), (0, 0)), (64, 64)),
])  # fmt: skip
def test_gradients_of_transformed_tiles_equal_lax(key, monkeypatch, size, pads, channels):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(conv, "_MIN_FLOPS_OF_TILES", 0)
    x = jax.random.normal(key, (48, *size, channels[0]))
    w = jax.random.normal(jax.random.fold_in(key, 1), (3, 3, *channels)) / 10

    def gradients(convolution, x, w):
        def objective(x, w):
            return jnp.sum(convolution(x, w, (1, 1), pads, dimension_numbers=LAYOUT) ** 2) / 2

        return jax.grad(objective, argnums=(0, 1))(x, w)

    rewritten = functools.partial(gradients, conv.conv_general_dilated)
    plain = gradients(lax.conv_general_dilated, x, w)
    assert str(jax.make_jaxpr(rewritten)(x, w)).count("conv_general_dilated") == 1  # the gradient in w
    for gradient, expected in zip(rewritten(x, w), plain, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("num_devices, dtype, batch, size, kernel, strides, channels", [
    (8, "float32", 8, (16, 16), (3, 3), (1, 1), (128, 128)),  # parts would gather a batch that is split
    (1, "int32", 8, (16, 16), (3, 3), (1, 1), (128, 128)),
    (1, "float32", 8, (16, 16), (3, 3), (2, 2), (128, 128)),
    (1, "float32", 8, (16, 16), (3, 4), (1, 1), (128, 128)),
    (1, "float32", 64, (32, 32), (3, 3), (1, 1), (63, 128)),
    (1, "float32", 1, (16, 16), (3, 3), (1, 1), (128, 128)),  # little to compute
    (1, "float32", 8, (4, 4), (3, 3), (1, 1), (512, 512)),  # the kernel costs more than the images
    (1, "float32", 1, (224, 224), (3, 3), (1, 1), (64, 64)),  # an image beyond the cache
])  # fmt: skip
def test_other_convolutions_are_not_transformed(
    monkeypatch, num_devices, dtype, batch, size, kernel, strides, channels
):
    monkeypatch.setattr(jax, "device_count", lambda: num_devices)
    x, w = jnp.ones((batch, *size, channels[0]), dtype), jnp.ones((*kernel, *channels), dtype)
    assert _strides(x, w, strides, ((1, 1), (1, 1))) == [strides]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])
@pytest.mark.parametrize("shape", [(0, 4, 4, 16), (2, 0, 4, 16), (2, 2, 2, 16), (2, 1, 4, 16), (2, 1, 1, 16)])
def test_convolve_of_nothing_is_empty_and_of_any_type(monkeypatch, dtype, shape):
    monkeypatch.setattr(_xla, "has_bfloat16_products", lambda: True)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    arguments = jnp.ones(shape, dtype), jnp.ones((3, 3, 16, 16), dtype), (1, 1), ((0, 0), (0, 0))
    result, expected = convolve(*arguments), lax.conv_general_dilated(*arguments, dimension_numbers=LAYOUT)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)


def test_convolve_refuses_a_kernel_of_another_type():
    with pytest.raises(TypeError, match="same dtypes"):
        convolve(jnp.ones((1, 4, 4, 16), "bfloat16"), jnp.ones((3, 3, 16, 16)), (1, 1), ((1, 1), (1, 1)))


@pytest.mark.parametrize("has_products, num_devices, dtype, channels, size", [
    (False, 1, "bfloat16", (16, 16), (6, 6)),
    (True, 8, "bfloat16", (16, 16), (6, 6)),  # parts would gather a batch that is split
    (True, 1, "float16", (16, 16), (6, 6)),
    (True, 1, "float32", (16, 16), (6, 6)),
    (True, 1, "bfloat16", (3, 64), (6, 6)),
    (True, 1, "bfloat16", (64, 3), (6, 6)),
    (True, 1, "bfloat16", (64, 64), (224, 224)),  # strips beyond the cache
])  # fmt: skip
def test_other_convolutions_sum_float32(key, monkeypatch, has_products, num_devices, dtype, channels, size):
    monkeypatch.setattr(_xla, "has_bfloat16_products", lambda: has_products)
    monkeypatch.setattr(jax, "device_count", lambda: num_devices)
    x, w = jnp.ones((2, *size, channels[0]), dtype), jnp.ones((3, 3, *channels), dtype)
    jaxpr = jax.make_jaxpr(lambda x, w: convolve(x, w, (1, 1), ((1, 1), (1, 1))))(x, w)
    sums = [e for e in jaxpr.eqns if e.primitive.name in ("conv_general_dilated", "dot_general", "scan")]
    assert [(e.primitive.name == "scan", e.outvars[0].aval.dtype) for e in sums] == [(False, jnp.float32)]
    assert jaxpr.out_avals[0].dtype == dtype


@pytest.mark.parametrize(("flags", "expected"), [
    ("flags : fpu avx512_bf16 sse", True), ("flags : amx_bf16", True), ("flags : avx512f", False), (None, False),
])  # fmt: skip
def test_instructions_for_bfloat16_are_those_of_cpuinfo(monkeypatch, flags, expected):
    def read_text(path):
        assert str(path) == "/proc/cpuinfo"
        if flags is None:
            raise FileNotFoundError
        return flags

    monkeypatch.setattr(_xla.pathlib.Path, "read_text", read_text)
    assert _xla.has_bfloat16_products.__wrapped__() is expected
