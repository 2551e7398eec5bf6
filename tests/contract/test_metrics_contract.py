"""The contract of a metric: one table, the same checks for every row, and a new row for a toy metric."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import metrics, models
from arinv.apps.evaluation import evaluate
from arinv.apps.inversion import compare_inversion, high_resolution, invert_images
from arinv.errors import UserError
from arinv.experiment import measurement, report, trained
from arinv.experiment.run import Run
from arinv.metrics import METRICS, Metric
from configs import compare_inversion as compare_config
from configs import evaluate as evaluate_config
from configs import high_resolution as scales_config
from configs import invert as invert_config

SIZE = 16
EACH = pytest.mark.parametrize("name", METRICS)
LAYERS = {"layers": ("conv1", "conv2"), "style_layers": ("conv1",)}


def images(seed=0, count=4):
    return np.random.default_rng(seed).random((count, SIZE, SIZE, 3), dtype=np.float32)


def noisy(x, sigma):
    noise = np.random.default_rng(9).standard_normal(x.shape, dtype=np.float32)
    return np.clip(x + sigma * noise, 0, 1)


def features_fn(x):
    """Two features that depend on each image alone."""
    return {"conv1": x[:, ::2, ::2], "conv2": jnp.concatenate([x, jnp.square(x)], axis=-1)[:, ::4, ::4]}


def moments(x):
    moments = metrics.FeatureMoments()
    moments.update(metrics.feature_vectors(features_fn, x, layer="conv2"))
    return moments


def measure(name, reconstructions, x):
    """Returns the metric of each image [N], or of the set [1]."""
    row = METRICS[name]
    if row.of_set:
        return np.array([row.function(moments(reconstructions), moments(x))])
    if row.networks:
        return np.asarray(row.function(features_fn, reconstructions, x, layers=LAYERS[row.layers]))
    values = np.asarray(row.function(reconstructions, x))
    return row.finish(values, x) if row.finish else values


@EACH
def test_metric_is_one_finite_number_per_image_or_set(name):
    x = images(count=20)
    values = measure(name, noisy(x, 0.1), x)
    assert values.shape == ((1,) if METRICS[name].of_set else (20,)) and np.isfinite(values).all()


@EACH
def test_metric_gets_worse_with_noise(name):
    x, sign = images(count=20), 1 if METRICS[name].higher_is_better else -1
    equal, little, much = (sign * measure(name, noisy(x, sigma), x) for sigma in (0.0, 0.05, 0.3))
    assert (equal > little).all() and (little > much).all()


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if not row.needs_set])
@pytest.mark.long
def test_metric_of_an_image_does_not_depend_on_the_others(name):
    x, y = images(), noisy(images(), 0.1)
    np.testing.assert_allclose(measure(name, y, x)[1:2], measure(name, y[1:2], x[1:2]), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if not row.needs_set])
def test_metric_is_traced_and_float32(name):
    values = jax.eval_shape(lambda y, x: METRICS[name].function(*_functions(name), y, x, **_layers(name)), *_pair())
    assert (values.shape, values.dtype) == ((4,), jnp.float32)


def _pair():
    return jnp.asarray(noisy(images(), 0.1)), jnp.asarray(images())


def _functions(name):
    return (features_fn,) if METRICS[name].networks else ()


def _layers(name):
    return {"layers": LAYERS[METRICS[name].layers]} if METRICS[name].networks else {}


@EACH
def test_row_has_text_for_results_and_tables(name):
    row = METRICS[name]
    assert row.variant.startswith(f"{name}: ") and "\n" not in row.variant
    assert report.column(name)[1:] == (row.heading, row.format)
    assert float(row.format.format(0.5)) == pytest.approx(0.5)
    fields = _config(name).metric_networks
    assert set(row.networks) <= set(fields), "a field of config.metric_networks"


def test_headings_are_unique_and_in_order():
    headings = [row.heading for row in METRICS.values()]
    assert len(set(headings)) == len(headings)
    places = [report.column(name)[0] for name in ("clean_accuracy", "pgd_accuracy", *METRICS, "novelty")]
    assert places == sorted(places) and len(set(places)) == len(places)


def _config(names):
    return evaluate_config.get_config(
        f"checkpoint=somewhere,dataset=photos,encoder=alexnet_small,image_size={SIZE},eps=0,metrics={names}"
    )


def _own():
    module = models.build("alexnet_small", num_classes=3, width=2)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    return trained.Trained("classifier", module, variables, {"encoder": "alexnet_small"})


def _largest(reconstructions, images):
    return jnp.max(jnp.abs(reconstructions - images), axis=(1, 2, 3))


def _largest_feature(features_fn, reconstructions, images, *, layers):
    a, b = (features_fn(x)[layers[-1]] for x in (reconstructions, images))
    return jnp.max(jnp.abs(a - b), axis=(1, 2, 3))


def _shift_of_mean(a, b):
    return float(np.abs(a.mean - b.mean).max())


TOYS = {
    "pixels": Metric(_largest, "toy: largest difference", "largest"),
    "finished": Metric(_largest, "toy: largest difference", "largest", finish=lambda values, x: values / x.max()),
    "network": Metric(_largest_feature, "toy: largest difference", "largest", networks=("encoder",)),
    "set": Metric(_shift_of_mean, "toy: shift of the mean", "shift", networks=("encoder",), of_set=True),
}


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.long
def test_toy_metric_is_one_row(kind, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="unknown metric 'toy'; known: fid, gram, ") as error:
        evaluate.check(_config("psnr+toy"))
    assert "\n" not in str(error.value)

    monkeypatch.setitem(METRICS, "toy", TOYS[kind])
    config = _config("psnr+toy")
    evaluate.check(config)
    measured = measurement.Measurement(Run(config, tmp_path), _own())
    x, y, mask = images(), noisy(images(), 0.1), np.ones(4, np.float32)
    numbers = measured.accumulate(jax.jit(measured.measure)(measured.variables, y, x), mask)
    totals = measured.finish()
    key = {"network": "toy_alexnet_small", "set": "toy_alexnet_small_conv5_n4"}.get(kind, "toy")
    assert set(totals["variants"]) == {"psnr", key} and totals["variants"][key].startswith(f"{key}: ")
    values = totals[key] if kind == "set" else numbers[key]
    assert np.shape(values) == (() if kind == "set" else (4,)) and np.all(np.asarray(values) > 0)
    if kind in ("pixels", "finished"):
        np.testing.assert_allclose(values, _largest(y, x), rtol=1e-6)
    assert report.column(key)[1].startswith(TOYS[kind].heading)


@pytest.mark.parametrize("kind", ["finished", "set"])
def test_toy_metric_of_a_set_is_refused_where_each_image_counts_alone(kind, monkeypatch):
    monkeypatch.setitem(METRICS, "toy", TOYS[kind])
    pair = f"encoder=alexnet_small,image_size={SIZE},standard_inverter=a,robust_inverter=b,metrics=psnr+toy"
    invert = invert_config.get_config("images=photos,inverter=a")
    with invert.unlocked():
        invert.update({"metrics": "psnr+toy", "metric_networks": _config("psnr").metric_networks})
    for task, config, shown in (
        (compare_inversion, compare_config.get_config(pair).stages.comparison, "metric toy is not for this comparison"),
        (high_resolution, scales_config.get_config(pair).stages.scales, "unknown metric at several scales 'toy'"),
        (invert_images, invert, "metric toy is of a whole set of images"),
    ):
        with pytest.raises(UserError, match=shown):
            task.check(config)
