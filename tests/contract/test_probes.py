"""What every probe of apps/studies keeps: shapes, finite values, reproducibility, its length; the config's defaults."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.apps import studies
from configs import study

COUNT, SIDE = 4, 8
SHARED = ("image", "x 1", "features", "reconstruction")


def pool(images):
    return images.reshape(len(images), 4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(2, 4))


def encode_map(images):
    return jax.nn.relu(pool(images) - 0.3)


def decode_map(features):
    return jnp.clip(jax.image.resize(features, (len(features), SIDE, SIDE, 3), "nearest") + 0.3, 0, 1)


def encode_vector(images):
    return pool(images).reshape(len(images), -1) - 0.5


def decode_vector(vectors):
    return decode_map(vectors.reshape(-1, 4, 4, 3) + 0.2)


PAIRS = {"map": (encode_map, decode_map), "vector": (encode_vector, decode_vector)}


@pytest.fixture(scope="module")
def setting():
    """Images and options of all probes."""
    images, reference = (jax.random.uniform(jax.random.key(i), (n, SIDE, SIDE, 3)) for i, n in ((1, COUNT), (2, 9)))
    options = studies.Options(
        mean_distance=2.0, reference=reference, logits=lambda x: x.mean(axis=(1, 2)), layers={"pooled": pool}
    )
    return images, options


def run(probe, pair, setting, seed=0):
    images, options = setting
    return studies.PROBES[probe].run(jax.random.key(seed), *PAIRS[pair], images, options)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("probe", studies.PROBES)
@pytest.mark.long
def test_probe_returns_finite_values_of_the_promised_shapes(probe, pair, setting):
    sheet = run(probe, pair, setting)
    assert sheet.rows and sheet.numbers
    for name, row in sheet.rows.items():
        assert row.shape == (COUNT, SIDE, SIDE, 3) and row.dtype == jnp.float32, name
        assert 0 <= row.min() and row.max() <= 1, name
    for name, values in sheet.numbers.items():
        assert values.shape == (COUNT,) and np.isfinite(values).all(), name
    for name, values in sheet.curves.items():
        assert values.shape == (len(sheet.x), COUNT) and np.isfinite(values).all(), name
    assert bool(sheet.x) == bool(sheet.curves) == bool(studies.PROBES[probe].x_label)
    assert all(isinstance(x, int) for x in sheet.x) and list(sheet.x) == sorted(set(sheet.x))
    for name, (classes, confidences) in sheet.predictions.items():
        assert name in sheet.rows and classes.shape == confidences.shape == (COUNT,)
        assert jnp.issubdtype(classes.dtype, jnp.integer) and 0 < confidences.min() and confidences.max() <= 1


@pytest.mark.parametrize("probe", studies.PROBES)
@pytest.mark.long
def test_probe_depends_on_its_key_alone(probe, setting):
    first, again, other = (run(probe, "map", setting, seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first.rows, again.rows)
    jax.tree.map(np.testing.assert_array_equal, first.numbers, again.numbers)
    differs = any((first.rows[name] != other.rows[name]).any() for name in first.rows)
    assert differs == (probe in ("perturb", "sample"))


@pytest.mark.parametrize("probe", studies.PROBES)
def test_probe_is_short(probe):
    assert len(inspect.getsource(studies.PROBES[probe].run).splitlines()) <= 40


def test_config_runs_every_probe_with_the_defaults_of_the_options():
    config = study.get_config()
    assert config.probes == tuple(studies.PROBES)
    options = studies.Options(mean_distance=1.0, reference=jnp.zeros((1, 1, 1, 3)))
    assert {name: getattr(options, name) for name in config.options} == config.options.to_dict()
