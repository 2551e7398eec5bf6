"""Rewritten convolutions, pooling and upsampling against their plain forms, with gradients."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from arinv.errors import UserError
from arinv.ops import conv, pooling

LAYOUT = ("NHWC", "HWIO", "NHWC")

# size, kernel, stride, padding, channels
CONVOLUTIONS = {
    "3x3/1": ((7, 9), 3, 1, ((1, 1), (1, 1)), 3),
    "3x3/1 valid, 65 channels": (5, 3, 1, "VALID", 65),
    "4x3/2, 16 channels": ((9, 8), (4, 3), 2, ((1, 2), (1, 1)), 16),
    "4x4/1 uneven": (6, 4, 1, ((1, 2), (2, 1)), 3),
    "3x3/2 even": (8, 3, 2, ((1, 1), (1, 1)), 3),
    "3x3/2 odd and even": ((9, 8), 3, 2, "SAME", 3),
    "1x1/2": ((7, 8), 1, 2, "VALID", 3),
    "2x2/3": (11, 2, 3, "VALID", 3),
    "7x7/4": (23, 7, 4, ((1, 1), (1, 1)), 3),
    "11x11/4": (35, 11, 4, ((2, 2), (2, 2)), 3),
    "3x2/(2, 1)": (8, (3, 2), (2, 1), "SAME", 3),
    "3x3/1 of a smaller map": (2, 3, 1, ((1, 1), (1, 1)), 3),
    "5x5/2 of a smaller map": ((4, 3), 5, 2, ((2, 2), (2, 2)), 3),
    "padding wider than the kernel": (5, 3, 1, ((4, 3), (0, 3)), 3),
}


@pytest.fixture(autouse=True)
def rewritten():
    conv.set_rewrites(True)
    yield
    conv.set_rewrites(None)


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def assert_close(actual, expected, tolerance=1e-4):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        a, e = np.asarray(a, np.float32), np.asarray(e, np.float32)
        atol = tolerance * max(np.abs(e).max(), 1e-6)
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=atol)


def with_gradients(function, *args):
    """Returns the value and its gradients for a cotangent that differs everywhere."""
    out, pullback = jax.vjp(function, *args)
    cotangent = np.sin(np.arange(out.size)).reshape(out.shape).astype(out.dtype)
    return out, pullback(jnp.asarray(cotangent))


def both_forms(function, *args):
    """Returns what the rewritten and the plain form of a function return, from one compilation."""

    def traced(*args):
        conv.set_rewrites(True)
        rewritten = function(*args)
        conv.set_rewrites(False)
        plain = function(*args)
        conv.set_rewrites(True)
        return rewritten, plain

    return jax.jit(traced)(*args)


def normal(key, *shape):
    return jax.random.normal(key, shape)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.long
def test_conv_general_dilated_and_gradients_equal_lax(key, name):
    size, kernel, stride, padding, channels = CONVOLUTIONS[name]
    x = normal(key, 2, *pair(size), channels)
    w = normal(jax.random.fold_in(key, 1), *pair(kernel), channels, 4)

    @jax.jit
    def all_of(x, w):
        options = dict(window_strides=pair(stride), padding=padding, dimension_numbers=LAYOUT)
        forms = (conv.conv_general_dilated, lax.conv_general_dilated)
        return [with_gradients(lambda x, w, f=f: f(x, w, **options), x, w) for f in forms]

    assert_close(*all_of(x, w))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size, kernel", [(1, 3), (2, 3), (4, 5)])
def test_a_kernel_that_is_larger_than_the_map_stays_the_kernel(key, size, kernel, stride):
    if jax.default_backend() != "cpu":
        pytest.skip("the exchange is one of XLA's on CPUs")
    x, w = normal(key, 2, size, size, 8), normal(key, kernel, kernel, 8, 8)
    padding = ((kernel // 2, kernel // 2),) * 2

    def loss(convolution, x, w):
        return jnp.sum(convolution(x, w, (stride, stride), padding, dimension_numbers=LAYOUT) ** 2)

    def layouts(convolution):
        gradient = jax.grad(functools.partial(loss, convolution), (0, 1))
        text = jax.jit(gradient).lower(x, w).compile({"xla_backend_optimization_level": 3}).as_text()
        return set(re.findall("dim_labels=([^, ]*)", text))

    assert layouts(conv.conv_general_dilated) == {"b01f_01io->b01f"}
    assert layouts(lax.conv_general_dilated) - {"b01f_01io->b01f"}  # what it is for, in this version of XLA


@pytest.mark.parametrize("k, stride, padding, extra", [
    (4, 1, 1, 0), (4, 2, 1, 0), (5, 2, 2, 1), (3, 1, 0, 0), (2, 3, 0, 1),
])  # fmt: skip
@pytest.mark.long
def test_conv_transpose_and_gradients_equal_lax(key, k, stride, padding, extra):
    x, w = normal(key, 2, 5, 6, 3), normal(jax.random.fold_in(key, 1), k, k, 3, 4)

    def function(x, w):
        return conv.conv_transpose(x, w, stride=stride, padding=padding, output_padding=extra)

    rewritten, plain = both_forms(lambda x, w: with_gradients(function, x, w), x, w)
    assert rewritten[0].shape[1] == 4 * stride + k - 2 * padding + extra
    assert_close(rewritten, plain)


@pytest.mark.parametrize("stride, size", [(1, 6), (2, 10)])
@pytest.mark.parametrize("rewrites", [True, False])
@pytest.mark.long
def test_conv_transpose_equals_linen(key, stride, size, rewrites):
    x = normal(key, 2, 5, 5, 3)
    layer = nn.ConvTranspose(4, (4, 4), (stride, stride), ((2, 2), (2, 2)), use_bias=False)
    variables = layer.init(key, x)
    conv.set_rewrites(rewrites)
    out = conv.conv_transpose(x, variables["params"]["kernel"], stride=stride)
    assert out.shape == (2, size, size, 4)
    assert_close(out, layer.apply(variables, x))


def test_conv_transpose_names_the_mistake(key):
    x, w = normal(key, 1, 4, 4, 2), normal(key, 4, 4, 2, 2)
    with pytest.raises(UserError, match="stride of conv_transpose must be 1 to inf; got 0"):
        conv.conv_transpose(x, w, stride=0)
    with pytest.raises(UserError, match="padding of conv_transpose must be 0 to 3; got 4"):
        conv.conv_transpose(x, w, stride=2, padding=4)
    with pytest.raises(UserError, match="output_padding of conv_transpose must be 0 to 1; got 2"):
        conv.conv_transpose(x, w, stride=2, output_padding=2)


@pytest.mark.parametrize("options", [
    dict(kernel_size=(3, 3)),
    dict(kernel_size=(3, 3), strides=2, padding=1),
    dict(kernel_size=(3, 3), kernel_dilation=2),
    dict(kernel_size=(3, 3), feature_group_count=2),
    dict(kernel_size=(3,)),
    dict(kernel_size=(3, 3), dtype=jnp.bfloat16),
])  # fmt: skip
@pytest.mark.long
def test_conv_general_dilated_fits_linen_conv(key, options):
    x = normal(key, 2, 8, *([8] * (len(options["kernel_size"]) - 1)), 4)
    layer = nn.Conv(6, **options)
    hooked = nn.Conv(6, **options, conv_general_dilated=conv.conv_general_dilated)
    variables = layer.init(key, x)
    assert_close(hooked.init(key, x), variables)

    @jax.jit
    def both(variables, x):
        return [with_gradients(form.apply, variables, x) for form in (hooked, layer)]

    assert_close(*both(variables, x), 2e-2 if "dtype" in options else 1e-4)


@pytest.mark.parametrize(("groups", "expected"), [(1, 1), (2, 1), (4, 4)])
def test_two_groups_are_convolved_one_by_one(key, groups, expected):
    x, w = normal(key, 2, 8, 8, 4), normal(key, 3, 3, 4 // groups, 8)
    conv.set_rewrites(True)
    options = {"dimension_numbers": LAYOUT, "feature_group_count": groups}
    text = str(jax.make_jaxpr(lambda x, w: conv.conv_general_dilated(x, w, (1, 1), "SAME", **options))(x, w))
    assert set(re.findall(r"feature_group_count=(\d+)", text)) == {str(expected)}


def test_conv_general_dilated_channels_first_is_plain(key):
    x, w = normal(key, 2, 3, 8, 8), normal(key, 4, 3, 3, 3)
    expected = lax.conv_general_dilated(x, w, (1, 1), "SAME")
    assert_close(conv.conv_general_dilated(x, w, (1, 1), "SAME"), expected)


def steps_in_a_loop(x, w, stem):
    """Signed gradient steps on x through a strided stem, a 3x3 and a transposed convolution."""

    def loss(x):
        y = conv.conv_general_dilated(x, stem, (4, 4), "VALID", dimension_numbers=LAYOUT)
        y = conv.conv_general_dilated(jnp.tanh(y), w, (2, 2), "SAME", dimension_numbers=LAYOUT)
        return jnp.sum(jnp.square(conv.conv_transpose(jnp.tanh(y), w, stride=1)))

    return lax.fori_loop(0, 3, lambda _, x: x - 1e-3 * jax.grad(loss)(x), x)


def test_conv_image_gradient_in_a_loop(key):
    args = normal(key, 2, 35, 35, 3), 0.3 * normal(key, 3, 3, 4, 4), 0.1 * normal(key, 11, 11, 3, 4)
    assert_close(*both_forms(steps_in_a_loop, *args))


def test_conv_kernel_gradient_in_a_loop(key):
    x, w = normal(key, 2, 8, 8, 3), 0.3 * normal(jax.random.fold_in(key, 1), 4, 4, 3, 3)

    def train(x, w):
        def loss(w):
            y = conv.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=LAYOUT)
            return jnp.mean(jnp.square(conv.conv_transpose(jnp.tanh(y), w, stride=2) - x))

        return lax.scan(lambda w, _: (w - 0.1 * jax.grad(loss)(w), loss(w)), w, length=3)

    assert_close(*both_forms(train, x, w))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.long
def test_conv_second_gradient_equals_lax(key, stride):
    x, w = normal(key, 2, 6, 6, 3), 0.3 * normal(jax.random.fold_in(key, 1), 4, 4, 3, 3)

    def penalty(x, w):
        def value(x, w):
            y = conv.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=LAYOUT)
            return jnp.sum(jnp.tanh(conv.conv_transpose(jnp.tanh(y), w, stride=stride)))

        return sum(jnp.sum(jnp.square(g)) for g in jax.grad(value, (0, 1))(x, w))

    gradients = jax.grad(penalty, (0, 1))
    assert_close(*both_forms(gradients, x, w))


@pytest.mark.parametrize("axes, channels", [((0, 0), 3), ((0, None), 16)])
@pytest.mark.long
def test_conv_vmap_over_images_and_kernels(key, axes, channels):
    x = normal(key, 3, 2, 7, 7, channels)
    w = normal(jax.random.fold_in(key, 1), *([3] if axes[1] == 0 else []), 4, 4, channels, channels)

    def function(x, w):
        y = conv.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=LAYOUT)
        return conv.conv_transpose(y, w, stride=2)

    mapped = jax.vmap(lambda x, w: with_gradients(function, x, w), axes)
    assert_close(*both_forms(mapped, x, w))


def test_conv_of_sharded_batch_compiles_once(key):
    x, w = normal(key, 16, 8, 8, 16), 0.1 * normal(jax.random.fold_in(key, 1), 4, 4, 16, 16)

    def function(x, w):
        y = conv.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=LAYOUT)
        y = pooling.max_pool(jax.nn.relu(conv.conv_transpose(y, w, stride=2)), 3, 2)
        return conv.conv_general_dilated(y, w, (1, 1), "SAME", dimension_numbers=LAYOUT)

    expected = jax.jit(lambda x, w: with_gradients(function, x, w))(x, w)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    sharded = jax.jit(lambda x, w: with_gradients(function, x, w))
    for _ in range(2):
        out, (x_gradient, w_gradient) = sharded(jax.device_put(x, rows), jax.device_put(w, whole))
    assert sharded._cache_size() == 1
    assert x_gradient.sharding.is_equivalent_to(rows, 4)
    assert_close((out, (x_gradient, w_gradient)), expected)


POOLINGS = {
    "max 2/2": lambda x: pooling.max_pool(x, 2, 2),
    "max 3/2": lambda x: pooling.max_pool(x, 3, 2),
    "max 3/3": lambda x: pooling.max_pool(x, 3, 3),
    "max 2/1": lambda x: pooling.max_pool(x, 2, 1),
    "max 4/3": lambda x: pooling.max_pool(x, 4, 3),
    "avg 2/2": lambda x: pooling.avg_pool(x, 2, 2),
    "avg 3/2": lambda x: pooling.avg_pool(x, 3, 2),
    "avg 4/4": lambda x: pooling.avg_pool(x, 4, 4),
}


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.long
def test_pooling_and_gradient_equal_linen(key, name):
    x = normal(key, 2, 7, 10, 3)
    kind, window, stride = name[:3], int(name[4]), int(name[6])
    pool = {"max": nn.max_pool, "avg": nn.avg_pool}[kind]

    def reference(x):
        return pool(x, (window, window), (stride, stride), "VALID")

    def all_of(x):
        return with_gradients(POOLINGS[name], x), with_gradients(reference, x)

    for result, expected in both_forms(all_of, x):
        assert_close(result, expected)


def test_max_pool_with_padding_and_gradient_equal_linen(key):
    x = normal(key, 2, 7, 10, 3) - 4.0  # below zero, which a padding with zeros would return

    def all_of(x):
        padded = with_gradients(lambda x: pooling.max_pool(x, 3, 2, padding=1), x)
        return padded, with_gradients(lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), x)

    for result, expected in both_forms(all_of, x):
        assert_close(result, expected)


@pytest.mark.parametrize(
    ("flags", "scatters"),
    [
        ("", True),
        ("--xla_gpu_deterministic_ops=true", False),
        ("--xla_cpu_x=1 --xla_gpu_exclude_nondeterministic_ops", False),
        ("--xla_gpu_deterministic_ops=false", True),
    ],
)
def test_max_pool_has_a_deterministic_gradient_where_xla_s_flags_ask_for_it(monkeypatch, flags, scatters):
    """As on a GPU, whose compiler refuses select-and-scatter then."""
    monkeypatch.setattr(conv, "use_rewrites", lambda: False)
    monkeypatch.setattr(pooling, "use_rewrites", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", flags)
    gradient = jax.grad(lambda x: jnp.sum(pooling.max_pool(x, 3, 2)))
    assert ("select_and_scatter" in str(jax.make_jaxpr(gradient)(jnp.ones((1, 7, 7, 2))))) == scatters


@pytest.mark.parametrize("window", [2, 3])
def test_max_pool_after_relu_has_plain_gradient(key, window):
    x = normal(key, 2, 9, 9, 4) - 1.0  # most windows hold several zeros after the ReLU

    def function(x):
        return pooling.max_pool(jax.nn.relu(x), window, 2)

    assert_close(*both_forms(lambda x: with_gradients(function, x), x))


@pytest.mark.parametrize("window, stride", [(2, 2), (3, 2), (3, 1), (4, 3)])
@pytest.mark.long
def test_max_pool_gradient_of_ties_goes_to_the_first(key, window, stride):
    x = jax.random.randint(key, (2, 9, 10, 3), 0, 3).astype(jnp.float32)

    def function(x):
        return pooling.max_pool(x, window, stride)

    assert_close(*both_forms(lambda x: with_gradients(function, x), x))


def test_max_pool_accepts_integers(key):
    x = jax.random.randint(key, (1, 6, 6, 2), 0, 255).astype(jnp.uint8)
    np.testing.assert_array_equal(*both_forms(lambda x: pooling.max_pool(x, 3, 2), x))


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.long
def test_upsample_nearest_repeats_pixels(key, factor):
    x = normal(key, 2, 3, 4, 2)
    result = jax.jit(lambda x: with_gradients(lambda x: pooling.upsample_nearest(x, factor), x))(x)
    expected = with_gradients(lambda x: x.repeat(factor, 1).repeat(factor, 2), x)
    assert_close(result, expected)


def test_convolutions_and_pools_keep_bfloat16(key):
    x, w = normal(key, 2, 9, 9, 3), normal(key, 4, 4, 3, 3)

    def function(x, w):
        y = conv.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=LAYOUT)
        y = conv.conv_general_dilated(y, w, (1, 1), "SAME", dimension_numbers=LAYOUT)
        y = pooling.upsample_nearest(pooling.avg_pool(conv.conv_transpose(y, w, stride=2), 2, 2))
        return pooling.max_pool(pooling.max_pool(y, 3, 2), 2, 2)

    low = [a.astype(jnp.bfloat16) for a in (x, w)]
    low = jax.jit(lambda x, w: with_gradients(function, x, w))(*low)
    assert all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(low))
    assert_close(low[0].astype(jnp.float32), jax.jit(function)(x, w), 5e-2)


def test_use_rewrites_depends_on_platform(monkeypatch):
    conv.set_rewrites(None)
    assert conv.use_rewrites()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not conv.use_rewrites()
    conv.set_rewrites(True)
    assert conv.use_rewrites()
