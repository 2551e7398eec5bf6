"""Channel sums, biases and batch normalization against NumPy and Flax, with gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal_dtypes

from arinv.models.layers import BatchNorm
from arinv.ops import channels, conv

SHAPE = (6, 5, 7, 3)


@pytest.fixture(params=[True, False], ids=["rewritten", "plain"])
def form(request):
    conv.set_rewrites(request.param)
    yield request.param
    conv.set_rewrites(None)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x(rng):
    return rng.normal(2.0, 3.0, SHAPE).astype(np.float32)


@pytest.mark.parametrize("shape", [SHAPE, (9, 4)])
@pytest.mark.long
def test_channel_sums_equals_numpy(form, rng, shape):
    x = rng.normal(size=shape).astype(np.float32)
    expected = x.astype(np.float64).sum(tuple(range(x.ndim - 1)))
    np.testing.assert_allclose(channels.channel_sums(x), expected, rtol=1e-5, atol=1e-5)


def test_add_bias_has_gradients_of_numpy(form, x, rng):
    bias, weights = rng.normal(size=3).astype(np.float32), rng.normal(size=SHAPE).astype(np.float32)

    def loss(x, bias):
        return jnp.sum(weights * channels.add_bias(x, bias) ** 2)

    np.testing.assert_allclose(channels.add_bias(x, bias), x + bias[None, None, None], rtol=1e-6)
    result, expected = jax.grad(loss, (0, 1))(x, bias), 2 * weights * (x + bias[None, None, None])
    np.testing.assert_allclose(result[0], expected, rtol=1e-5)
    np.testing.assert_allclose(result[1], expected.sum((0, 1, 2)), rtol=1e-4)


@pytest.fixture
def variables(rng):
    draw = lambda low, high: rng.uniform(low, high, 3).astype(np.float32)  # noqa: E731
    return {
        "params": {"scale": draw(0.5, 2), "bias": draw(-1, 1)},
        "batch_stats": {"mean": draw(-1, 1), "var": draw(0.5, 2)},
    }


def outcome(module, variables, x, weights, train):
    """Returns the output, the new statistics, and the gradients of a loss in the parameters and the input."""

    def loss(params, x):
        options = {"use_running_average": not train, "mutable": ["batch_stats"]}
        y, state = module.apply({**variables, "params": params}, x, **options)
        return jnp.sum(weights * jnp.sin(y.astype(jnp.float32))), (y, state)

    (_, aux), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables["params"], x)
    return *aux, gradients


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 2e-2)])
@pytest.mark.long
def test_batch_norm_equals_flax(form, x, rng, variables, train, dtype, tolerance):
    weights = rng.normal(size=SHAPE).astype(np.float32)
    result, expected = (
        outcome(module(momentum=0.9, dtype=jnp.dtype(dtype)), variables, jnp.asarray(x, dtype), weights, train)
        for module in (BatchNorm, nn.BatchNorm)
    )
    if train:  # Flax's running variance takes up the biased variance
        count, statistics = np.prod(SHAPE[:-1]), expected[1]["batch_stats"]
        kept = 0.9 * variables["batch_stats"]["var"]
        statistics["var"] = kept + (statistics["var"] - kept) * count / (count - 1)
    assert_trees_all_close(result, expected, rtol=tolerance, atol=tolerance)
    assert_trees_all_equal_dtypes(result, expected)


@pytest.mark.parametrize("shape", [(2, 6, 6, 3), (1, 1, 1, 3)])
def test_batch_norm_stores_unbiased_variance(form, rng, variables, shape):
    """n / (n - 1) times the biased one over images and positions, also of a batch split over devices."""
    x = rng.normal(1.0, 2.0, shape).astype(np.float32)
    whole, split = (jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data"))
    mesh = jax.make_mesh((shape[0],), ("data",), devices=jax.devices()[: shape[0]])
    rows = x.reshape(-1, 3).astype(np.float64)
    variance = rows.var(0, ddof=1) if len(rows) > 1 else np.zeros(3)
    apply = jax.jit(lambda x: BatchNorm(momentum=0.9).apply(variables, x, False, mutable=["batch_stats"])[1])
    for spec in (whole, split):
        result = apply(jax.device_put(x, jax.sharding.NamedSharding(mesh, spec)))["batch_stats"]
        np.testing.assert_allclose(result["var"], 0.9 * variables["batch_stats"]["var"] + 0.1 * variance, rtol=1e-5)
        mean = 0.9 * variables["batch_stats"]["mean"] + 0.1 * rows.mean(0)
        np.testing.assert_allclose(result["mean"], mean, rtol=1e-4)


@pytest.mark.long
def test_batch_norm_init_equals_flax(form, x, key):
    options = {"use_running_average": False, "scale_init": nn.initializers.normal(0.1)}
    result, expected = (module(**options).init(key, x) for module in (BatchNorm, nn.BatchNorm))
    assert_trees_all_close(result, expected, rtol=0, atol=0)


@pytest.mark.long
def test_normalize_batch_without_variance_is_finite(form):
    ones = jnp.ones((4, 2, 2, 3))
    gradient = jax.grad(lambda x: jnp.sum(channels.normalize_batch(x, jnp.ones(3), jnp.zeros(3), 1e-5)[0] ** 2))(ones)
    assert np.isfinite(gradient).all()
