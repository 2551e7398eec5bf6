"""Metrics against scikit-image, NumPy and SciPy, also for edge cases."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.metrics
from scipy.spatial.distance import pdist

from arinv import metrics
from arinv.errors import UserError


def images(seed, shape=(3, 24, 20, 3)):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def noisy(x, sigma):
    return np.clip(x + np.float32(sigma) * (images(9, x.shape) - 0.5), 0, 1)


def smooth(shape=(3, 24, 20, 3)):
    """Images with the structure of photographs: gradients and an edge."""
    b, h, w, c = shape
    rows, columns = np.linspace(0, 1, h)[:, None], np.linspace(0, 1, w)[None, :]
    x = 0.6 * rows * columns + 0.3 * (columns > 0.5)
    scale = np.linspace(0.3, 1.0, b * c).reshape(b, 1, 1, c)
    return (x[None, :, :, None] * scale).astype(np.float32)


PAIRS = {
    "noise on structure": (noisy(smooth(), 0.2), smooth()),
    "unrelated": (images(0), images(1)),
    "nearly equal": (noisy(smooth(), 1e-3), smooth()),
    "inverted": (1 - smooth(), smooth()),
}
each_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


@each_pair
def test_psnr_equals_scikit_image_with_a_floor(pair):
    for result, mse, x, y in zip(metrics.psnr(*pair), metrics.mean_squared_error(*pair), *pair, strict=True):
        expected_mse = skimage.metrics.mean_squared_error(x.astype(np.float64), y)
        np.testing.assert_allclose(mse, expected_mse, rtol=1e-5)
        np.testing.assert_allclose(result, -10 * np.log10(expected_mse + 1e-8), rtol=1e-5)
        if expected_mse > 1e-3:  # there the floor does not show
            plain = skimage.metrics.peak_signal_noise_ratio(x, y, data_range=1.0)
            np.testing.assert_allclose(result, plain, atol=1e-4)


@each_pair
def test_ssim_equals_scikit_image(pair):
    expected = [
        skimage.metrics.structural_similarity(
            x.astype(np.float64), y.astype(np.float64), win_size=11, gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=-1,
        )
        for x, y in zip(*pair, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(jax.jit(metrics.ssim)(*pair), expected, atol=1e-4)


@each_pair
def test_ssim_uniform7_equals_scikit_image_s_default(pair):
    expected = [
        skimage.metrics.structural_similarity(
            x.astype(np.float64), y.astype(np.float64), data_range=1.0, channel_axis=-1
        )
        for x, y in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(jax.jit(metrics.ssim_uniform7)(*pair), expected, atol=1e-4)


@pytest.mark.long
def test_equal_images_have_finite_metrics_and_gradients():
    x = images(0, (5, 12, 12, 3))
    x[:3] = np.array([0.0, 0.3, 1.0], np.float32)[:, None, None, None]
    x[3] = smooth((1, 12, 12, 3))
    np.testing.assert_allclose(metrics.psnr(x, x), 80.0, atol=1e-4)
    np.testing.assert_allclose(metrics.ssim(x, x), 1.0, atol=1e-5)
    np.testing.assert_allclose(metrics.euclidean_distance(x, x), 0.0)
    for metric in (metrics.psnr, metrics.ssim, metrics.euclidean_distance):
        gradient = jax.jit(jax.grad(lambda y, metric=metric: metric(y, x).sum()))(x)
        assert np.all(np.isfinite(gradient)), metric.__name__


@pytest.mark.long
def test_metrics_are_per_image_and_float32_from_bfloat16():
    x, y = PAIRS["noise on structure"]
    for metric in (metrics.psnr, metrics.ssim, metrics.mean_squared_error):
        together = metric(x, y)
        assert together.shape == (3,) and together.dtype == jnp.float32
        for i in range(3):
            alone = metric(x[i : i + 1], y[i : i + 1])
            np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-5)
        half = metric(jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16))
        assert half.dtype == jnp.float32
        np.testing.assert_allclose(half, together, rtol=0.05)


def test_ssim_rejects_images_below_its_window():
    assert metrics.ssim(images(0, (1, 11, 11, 1)), images(1, (1, 11, 11, 1))).shape == (1,)
    with pytest.raises(UserError, match="at least 11 x 11 pixels; got 11 x 10"):
        metrics.ssim(images(0, (1, 11, 10, 3)), images(1, (1, 11, 10, 3)))


@pytest.mark.parametrize(
    "metric",
    (metrics.psnr, metrics.ssim, metrics.mean_squared_error, metrics.euclidean_distance),
)
def test_image_metrics_name_both_shapes_of_a_mismatch(metric):
    with pytest.raises(UserError, match=r"\(3, 24, 20, 3\) with images \(3, 12, 20, 3\)"):
        metric(images(0), images(0)[:, ::2])
    with pytest.raises(UserError, match=r"\(1, 24, 20, 3\)"):
        metric(images(0)[:1], images(0))  # would broadcast


def test_correct_ignores_padding():
    logits = np.array([[2, 1, 0], [0, 1, 2], [0, 1, 2], [2, 1, 0], [np.nan, 1, 0]], np.float32)
    labels = np.array([0, 2, 1, -1, 0])
    result = metrics.correct(logits, labels)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, [1, 1, 0, 0, 0])


def test_euclidean_distance_runs_over_the_whole_image():
    x, y = images(0), images(1)
    expected = np.linalg.norm((x.astype(np.float64) - y).reshape(3, -1), axis=1)
    np.testing.assert_allclose(metrics.euclidean_distance(x, y), expected, rtol=1e-6)


@pytest.mark.parametrize("count, block", ((2, 1), (37, 8), (37, 37), (40, 8), (41, 1024)))
def test_mean_pairwise_distance_is_exact_in_any_blocks(monkeypatch, count, block):
    monkeypatch.setattr(metrics.image_quality, "_BLOCK_ROWS", block)
    x = images(0, (count, 5, 4, 3))
    expected = pdist(x.reshape(count, -1).astype(np.float64)).mean()
    np.testing.assert_allclose(metrics.mean_pairwise_distance(x), expected, rtol=1e-12)


def test_mean_pairwise_distance_of_nearly_equal_images():
    """Where a float32 Gram matrix would have lost every digit."""
    x = (0.9 + 1e-4 * images(0, (6, 16, 16, 3))).astype(np.float32)
    expected = pdist(x.reshape(6, -1).astype(np.float64)).mean()
    np.testing.assert_allclose(metrics.mean_pairwise_distance(x), expected, rtol=1e-6)
    assert metrics.mean_pairwise_distance(np.repeat(x[:1], 4, axis=0)) < 1e-5


def test_mean_pairwise_distance_memory_is_two_blocks(monkeypatch):
    monkeypatch.setattr(metrics.image_quality, "_BLOCK_VALUES", 2**15)
    x = images(0, (400, 16, 16, 3))
    tracemalloc.start()
    result = metrics.mean_pairwise_distance(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes  # all rows in float64 would be twice that
    expected = pdist(x.reshape(400, -1).astype(np.float64)).mean()
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_normalized_error_of_another_image_is_one_on_average():
    x = images(0, (4, 6, 6, 3))
    mean_distance = metrics.mean_pairwise_distance(x)
    errors = [
        metrics.normalized_error(metrics.euclidean_distance(np.roll(x, i, axis=0), x), mean_distance) for i in (1, 2, 3)
    ]
    np.testing.assert_allclose(np.mean(errors), 1.0, rtol=1e-5)
    np.testing.assert_allclose(metrics.normalized_error(np.array([1.0, 3.0]), 2.0), [0.5, 1.5])


def test_normalized_error_rejects_mistakes():
    with pytest.raises(UserError, match="at least two images; got 1"):
        metrics.mean_pairwise_distance(images(0, (1, 4, 4, 3)))
    with pytest.raises(UserError, match="must be above 0; got 0"):
        metrics.normalized_error(np.ones(2), 0.0)
    with pytest.raises(UserError, match="images"):
        metrics.mean_pairwise_distance(images(0) * 255)


def test_summary_is_float64_and_ignores_padding():
    values = np.array([1e8, 1e8 + 8, 7.0, np.nan], np.float32)
    result = metrics.summary(jnp.asarray(values), mask=np.array([1, 1, 0, 0], np.float32))
    assert result == {"mean": 1e8 + 4, "std": 4.0, "count": 2}  # float32 sums would round
    assert {type(v) for v in result.values()} == {float, int}
    assert metrics.summary(values[:3])["count"] == 3
    assert np.isnan(metrics.summary(values)["mean"])


def test_summary_of_nothing_is_nan():
    result = metrics.summary(np.ones(2), mask=np.zeros(2))
    assert result["count"] == 0 and np.isnan(result["mean"]) and np.isnan(result["std"])


def test_summary_rejects_wrong_shapes():
    with pytest.raises(UserError, match=r"mask \(2,\) must have the shape of the values \(3,\)"):
        metrics.summary(np.ones(3), mask=np.ones(2))
    with pytest.raises(UserError, match=r"one per example \[N\]; got shape \(3, 1\)"):
        metrics.summary(np.ones((3, 1)))
    with pytest.raises(UserError, match="mask must be True or False"):
        metrics.summary(np.ones(2), mask=[1.0, np.nan])
    with pytest.raises(UserError, match="mask must be True or False"):
        metrics.summary(np.ones(2), mask=[1.0, 0.5])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: (255 * x).astype(np.uint8), "got uint8.*to_float"),
        (lambda x: 255 * x, "divide by 255"),
        (lambda x: 2 * x - 1, "from_pm1"),
        (lambda x: np.moveaxis(x, -1, 1), "transpose"),
        (lambda x: x[0], "batch, height, width|both must be"),
    ],
)
def test_image_metrics_reject_other_ranges(change, message):
    def features_fn(x):
        return {"a": x}

    x = change(images(0, (2, 12, 12, 3)))
    for metric in (
        metrics.psnr,
        metrics.ssim,
        metrics.mean_squared_error,
        metrics.euclidean_distance,
        lambda x, y: metrics.mean_pairwise_distance(x),
        lambda x, y: metrics.lpips(features_fn, x, y, layers=("a",)),
        lambda x, y: metrics.gram_loss(features_fn, x, y, layers=("a",)),
        lambda x, y: metrics.feature_vectors(features_fn, x, layer="a"),
    ):
        with pytest.raises(UserError, match=message):
            metric(x, x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_image_metrics_of_non_finite_images_are_nan(value):
    x, y = images(0, (2, 12, 12, 3)), images(1, (2, 12, 12, 3))
    x[0, 0, 0, 0] = value
    gram = metrics.gram_loss(lambda x: {"a": x}, x, y, layers=("a",))
    assert np.isnan(gram[0]) and np.isfinite(gram[1])
    for metric in (metrics.psnr, metrics.ssim, metrics.mean_squared_error, metrics.euclidean_distance):
        result = np.asarray(metric(x, y))
        assert np.isnan(result[0]) and np.isfinite(result[1])


def test_mean_pairwise_distance_of_equal_images_is_zero():
    assert metrics.mean_pairwise_distance(np.repeat(images(0, (1, 8, 8, 3)), 3, axis=0)) == 0


def test_correct_rejects_labels_of_other_classes():
    logits = np.zeros((2, 3), np.float32)
    with pytest.raises(UserError, match="must be 0 to 2 for 3 classes; got 3"):
        metrics.correct(logits, np.array([1, 3]))
    with pytest.raises(UserError, match="must be one array .*tuple"):
        metrics.correct((logits, logits), np.array([1, 2]))
