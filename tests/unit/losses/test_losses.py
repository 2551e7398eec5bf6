"""Losses against NumPy: sums, padding and precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import losses
from arinv.errors import UserError


def random_logits(shape=(5, 7), scale=3.0):
    return (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)


LABELS = np.array([0, 6, -1, 3, 3], np.int32)


def test_cross_entropy_is_minus_log_probability():
    logits = random_logits()
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(5), LABELS])
    expected[2] = 0.0
    result = losses.cross_entropy(logits, LABELS)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.long
def test_cross_entropy_gradient_is_softmax_minus_one_hot_and_zero_for_padding():
    logits = random_logits()
    gradient = jax.grad(lambda z: losses.cross_entropy(z, LABELS).sum())(jnp.asarray(logits))
    expected = np.asarray(jax.nn.softmax(logits)) - np.eye(7, dtype=np.float32)[LABELS]
    expected[2] = 0.0
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert not np.any(gradient[2])


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32():
    logits = jnp.asarray(random_logits(scale=0.01), jnp.bfloat16)
    result = losses.cross_entropy(logits, LABELS)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, losses.cross_entropy(logits.astype(jnp.float32), LABELS))
    assert len(np.unique(np.asarray(result))) == 5  # bfloat16 would round them all to 1.945


def test_cross_entropy_of_large_logits_is_finite_and_of_bad_labels_nan():
    logits = np.array([[1e4, 0.0], [1e4, 0.0]], np.float32)
    np.testing.assert_allclose(losses.cross_entropy(logits, np.array([0, 1])), [0.0, 1e4])
    assert np.all(np.isnan(jax.jit(losses.cross_entropy)(logits, np.array([2, 9]))))
    with pytest.raises(UserError, match="labels must be 0 to 1 for 2 classes; got 9"):
        losses.cross_entropy(logits, np.array([2, 9]))


def images(seed, shape=(3, 4, 4, 3)):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def test_pixel_loss_sums_over_each_image():
    x, y = images(0), images(1)
    difference = np.abs(x.astype(np.float64) - y)
    np.testing.assert_allclose(losses.pixel_loss(x, y), difference.sum((1, 2, 3)), rtol=1e-5)
    squared = losses.pixel_loss(x, y, order=2)
    np.testing.assert_allclose(squared, (difference**2).sum((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("shape", ((3, 2, 2, 5), (3, 11)))
def test_feature_loss_is_the_squared_distance_without_a_half(shape):
    x, y = images(0, shape) * 9, images(1, shape) * 9
    expected = (np.square(x.astype(np.float64) - y)).reshape(3, -1).sum(1)
    np.testing.assert_allclose(losses.feature_loss(x, y), expected, rtol=1e-5)


def test_feature_loss_does_not_detach_its_target():
    x, y = jnp.asarray(images(0)), jnp.asarray(images(1))
    gradient = jax.grad(lambda target: losses.feature_loss(x, target).sum())(y)
    np.testing.assert_allclose(gradient, 2 * (y - x), rtol=1e-5)


def test_reconstruction_losses_are_float32_from_bfloat16():
    x, y = (jnp.asarray(images(i), jnp.bfloat16) for i in (0, 1))
    for function in (losses.pixel_loss, losses.feature_loss):
        result = function(x, y)
        assert result.dtype == jnp.float32
        expected = function(x.astype(jnp.float32), y.astype(jnp.float32))
        np.testing.assert_array_equal(result, expected)


def test_an_element_mean_needs_the_number_of_elements_as_weight():
    """Rojas-Gomez et al. 2022 weigh sums: 2e-6 at 224 px would be 0.301056 for a mean."""
    x, y = (jnp.asarray(images(seed, (2, 224, 224, 3))) for seed in (0, 1))
    of_sum = jax.grad(lambda z: jnp.mean(2e-6 * losses.pixel_loss(z, y)))(x)
    of_mean = jax.grad(lambda z: 0.301056 * jnp.mean(jnp.abs(z - y)))(x)
    np.testing.assert_allclose(of_sum, of_mean, rtol=1e-5)


def bce(logits, target):
    """PyTorch's binary cross-entropy, in float64: each log is at least -100."""
    with np.errstate(divide="ignore", over="ignore"):
        p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
        log_p, log_q = np.maximum(np.log(p), -100), np.maximum(np.log1p(-p), -100)
    return -target * log_p - (1 - target) * log_q


def test_adversarial_losses_are_binary_cross_entropies():
    real, fake = random_logits((20,), 5.0), random_logits((40,), 5.0)[20:]
    np.testing.assert_allclose(losses.generator_loss(fake), bce(fake, 1), rtol=1e-4, atol=1e-6)
    expected = bce(real, 1) + bce(fake, 0)
    result = losses.discriminator_loss(real, fake)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_discriminator_loss_at_chance_is_log_two_per_image():
    zeros = np.zeros(3, np.float32)
    np.testing.assert_allclose(losses.generator_loss(zeros), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(losses.discriminator_loss(zeros, zeros), np.log(4), rtol=1e-6)


def test_adversarial_losses_clip_logs_at_minus_100():
    logits = np.array([-1e4, -101.0, -99.0, 1e4], np.float32)
    np.testing.assert_allclose(losses.generator_loss(logits), [100, 100, 99, 0], rtol=1e-6)
    np.testing.assert_allclose(losses.generator_loss(logits[:2]), bce([-1e4, -101.0], 1))
    result = losses.discriminator_loss(logits, -logits)
    np.testing.assert_allclose(result, [200, 200, 198, 0], rtol=1e-6)
    gradient = jax.grad(lambda z: losses.generator_loss(z).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(gradient, [0, 0, -1, 0], atol=1e-6)


@pytest.mark.long
def test_losses_of_a_repeated_batch_have_the_same_mean():
    logits, x, y = random_logits(), images(0), images(1)
    adversarial, margin = logits[:2] + 0.3, logits[:2][:, ::-1]
    trades = functools.partial(losses.trades_loss, beta=6.0)
    gair_rst = functools.partial(losses.gair_rst_loss, beta=6.0)
    geometry = functools.partial(losses.geometry_weights, num_steps=10, kind="tanh", offset=-1.0)
    kappa = np.array([2.0, 7.0], np.float32)
    penalty = functools.partial(losses.gradient_penalty, lambda x: jnp.sum(jnp.square(x), axis=(1, 2, 3)))
    calls = {
        "kl_divergence": (losses.kl_divergence, logits[:2], margin),
        "margin_loss": (losses.margin_loss, logits[:2], LABELS[:2]),
        "trades_loss": (trades, logits[:2], adversarial, LABELS[:2]),
        "gair_rst_loss": (gair_rst, logits[:2], adversarial, margin, LABELS[:2], kappa / 10),
        "geometry_weights": (geometry, kappa, np.ones(2, np.float32)),
        "divergence_share": (functools.partial(losses.divergence_share, num_steps=10, offset=3.0), kappa),
        "cross_entropy": (losses.cross_entropy, logits[:2], LABELS[:2]),
        "pixel_loss": (losses.pixel_loss, x, y),
        "feature_loss": (losses.feature_loss, x, y),
        "generator_loss": (losses.generator_loss, logits[0]),
        "discriminator_loss": (losses.discriminator_loss, logits[0], logits[1]),
        "gaussian_divergence": (losses.gaussian_divergence, logits[:2], adversarial),
        "wasserstein_loss": (losses.wasserstein_loss, logits[0], logits[1]),
        "equilibrium_loss": (functools.partial(losses.equilibrium_loss, balance=0.3), logits[0] ** 2, logits[1] ** 2),
        "gradient_penalty": (penalty, x, y, np.linspace(0, 1, len(x), dtype=np.float32)),
    }
    assert set(calls) == set(losses.__all__) - {"WEIGHTINGS", "update_balance"}
    for name, (function, *arguments) in calls.items():
        once = function(*arguments)
        twice = function(*(np.concatenate([a, a]) for a in arguments))
        assert once.shape == (len(arguments[0]),), name
        np.testing.assert_allclose(np.mean(twice), np.mean(once), rtol=1e-6, err_msg=name)


def test_losses_name_both_shapes_of_a_mismatch():
    x = images(0)
    with pytest.raises(UserError, match=r"\(3, 4, 4, 3\) with images \(3, 4, 4, 1\)"):
        losses.pixel_loss(x, x[..., :1])
    with pytest.raises(UserError, match=r"\(3, 4, 4, 3\) and \(1, 4, 4, 3\)"):
        losses.feature_loss(x, x[:1])
    with pytest.raises(UserError, match="order must be 1"):
        losses.pixel_loss(x, x, order=3)
    with pytest.raises(UserError, match=r"one per image; got \(3, 1\)"):
        losses.generator_loss(np.zeros((3, 1)))
    with pytest.raises(UserError, match=r"\(3,\) and fake logits \(2,\)"):
        losses.discriminator_loss(np.zeros(3), np.zeros(2))


def test_gaussian_divergence_is_the_integral():
    means, deviation, x = np.array([[0.5, -1.0]]), np.array([0.7, 1.0]), np.linspace(-12, 12, 20_001)
    p, q = (
        np.exp(-(((x[:, None] - m) / s) ** 2) / 2) / (s * np.sqrt(2 * np.pi)) for m, s in ((means, deviation), (0, 1))
    )
    expected = (p * np.log(np.maximum(p, 1e-300) / q)).sum() * (x[1] - x[0])
    result = losses.gaussian_divergence(means.astype(np.float32), 2 * np.log(deviation[None]).astype(np.float32))
    np.testing.assert_allclose(result, [expected], rtol=1e-4)


def test_padding_has_no_gradient_whatever_its_logits_are():
    logits, labels = jnp.array([[jnp.nan, 1.0, jnp.inf], [0.0, 1.0, 2.0]]), np.array([-1, 0])
    for total in (
        lambda x: losses.cross_entropy(x, labels).sum(),
        lambda x: losses.trades_loss(x, 2 * x, labels, beta=6.0).sum(),
        lambda x: losses.gair_rst_loss(x, 2 * x, 3 * x, labels, np.full(2, 0.5), beta=6.0).sum(),
    ):
        gradient = np.asarray(jax.grad(total)(logits))
        assert (gradient[0] == 0).all() and (gradient[1] != 0).any()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: losses.feature_loss(None, x),
        lambda x: losses.feature_loss(x + 1j, x),
        lambda x: losses.discriminator_loss(x[:, 0], x[:, 0] > 0),
        lambda x: losses.equilibrium_loss(x[:, 0], x[:, 0], np.ones((3, 4))),
        lambda x: losses.equilibrium_loss(x[:, 0], x[:, 0], None),
        lambda x: losses.update_balance(None, 1.0, 1.0, ratio=0.5, rate=0.1),
    ],
)
def test_losses_refuse_what_is_no_array_of_numbers(call):
    with pytest.raises(UserError):
        call(np.ones((4, 5), np.float32))
