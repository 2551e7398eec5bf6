"""Whitening and coloring against float64 NumPy, its moments, both methods, regions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from arinv.errors import UserError
from arinv.ops import wct as wct_module
from arinv.ops.wct import METHODS, VARIANTS, StyleMoments, style_moments, transfer, wct

transform = jax.jit(wct, static_argnames=("variant", "method", "num_labels"))
SIZES = [(64, 6), (64, 12), (192, 13), (256, 6), (256, 17)]  # channels, side: fewer positions than channels, and more


def features(seed, side, channels, batch=2):
    """Rectified and correlated, as an encoder's are."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) / np.sqrt(channels)
    x = rng.normal(size=(batch, side, side, channels)) @ mixing + 0.3
    return np.maximum(2 * x, 0).astype(np.float32)


def reference(content, style, variant):
    """One image at a time in float64, written from the formulas."""
    result = []
    for c, s in zip(content.astype(np.float64), style.astype(np.float64), strict=True):
        rows, others = c.reshape(-1, c.shape[-1]), s.reshape(-1, s.shape[-1])
        centered, style_centered = rows - rows.mean(0), others - others.mean(0)
        covariance = centered.T @ centered / (len(rows) - 1)
        style_covariance = style_centered.T @ style_centered / (len(others) - 1)
        if variant in ("official", "ct"):
            covariance += np.eye(len(covariance))
        if variant == "official":
            style_covariance += np.eye(len(covariance))
        values, vectors = np.linalg.eigh(covariance)
        kept = values > 1e-5
        whitening = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
        values, vectors = np.linalg.eigh(style_covariance)
        kept = values > 1e-5
        coloring = (vectors[:, kept] * np.sqrt(values[kept])) @ vectors[:, kept].T
        out = centered @ whitening @ coloring + others.mean(0)
        result.append((np.clip(out, c.min(), c.max()) if variant == "official" else out).reshape(c.shape))
    return np.stack(result)


@pytest.mark.parametrize(("channels", "side"), SIZES)
@pytest.mark.long
def test_wct_official_equals_float64(channels, side):
    """With more positions than channels, and with fewer, where the covariance is singular."""
    content, style = features(0, side, channels, batch=1), features(1, side + 1, channels, batch=1)
    expected = reference(content, style, "official")
    exact = transform(content, style)
    np.testing.assert_allclose(exact, expected, atol=1e-4)
    fast = transform(content, style, method="newton_schulz")
    np.testing.assert_allclose(fast, expected, atol=1e-3)
    np.testing.assert_allclose(fast, exact, atol=1e-3)


@pytest.mark.parametrize("variant", ["ust", "ct"])
def test_wct_other_variants_equal_float64_for_regular_covariances(variant):
    content, style = features(0, 14, 16), features(1, 12, 16)
    expected = reference(content, style, variant)
    for method in METHODS:
        np.testing.assert_allclose(transform(content, style, variant=variant, method=method), expected, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.long
def test_wct_ust_ignores_covariance_below_threshold(method):
    """Content, or style, of variance 1e-8: rounding would be whitened to noise."""
    flat, style = 0.5 + 1e-4 * np.random.default_rng(0).normal(size=(2, 8, 8, 8)), features(1, 9, 8)
    flat = flat.astype(np.float32)
    mean = np.broadcast_to(style.mean((1, 2))[:, None, None], flat.shape)
    np.testing.assert_allclose(transform(flat, style, variant="ust", method=method), mean, atol=1e-5)
    np.testing.assert_allclose(transform(features(2, 8, 8), flat, variant="ust", method=method), 0.5, atol=1e-4)
    above = 0.5 + 100 * (flat - 0.5)  # of variance 1e-4
    got = np.asarray(transform(above, style, variant="ust", method=method))
    np.testing.assert_allclose(got.std((1, 2)), style.std((1, 2)), rtol=0.02)


def test_wct_methods_agree_up_to_variances_of_1e4():
    content, style = (100 * features(seed, 12, 64, batch=1) for seed in (0, 1))
    exact, fast = (transform(content, style, method=method) for method in METHODS)
    assert 1e4 < np.linalg.eigvalsh(np.cov(style.reshape(-1, 64).T)).max() < 2e5
    assert np.abs(exact - fast).max() < 1e-3 * style.std()


@pytest.mark.parametrize("variant", ["official", "ust"])  # "ct" whitens with the identity added, colors without
def test_wct_of_content_with_itself_is_identity(variant):
    content = features(0, 14, 16)
    style = np.roll(content, 3, axis=1)  # the same pixels elsewhere
    np.testing.assert_allclose(transform(content, style, variant=variant), content, atol=2e-3)


@pytest.mark.parametrize(("channels", "side"), [(64, 12), (192, 13), (256, 6)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.long
def test_wct_of_content_with_itself_is_identity_at_sizes_of_alexnet(channels, side, method):
    content = features(0, side, channels, batch=1)
    np.testing.assert_allclose(transform(content, content, method=method), content, atol=1e-3)


def test_wct_of_content_with_itself_is_identity_for_singular_covariance():
    content = features(0, 6, 64)
    np.testing.assert_allclose(transform(content, content, variant="ust"), content, atol=2e-3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.long
def test_wct_has_mean_of_the_style(variant, method):
    """Before the clamp, which acts nowhere here: the content's range is wider than that of the result."""
    content, style = features(0, 12, 64), features(1, 9, 64)
    content[:, 0, 0], content[:, 0, 1] = 40.0, -40.0
    got = np.asarray(transform(content, style, variant=variant, method=method), np.float64)
    assert np.abs(got).max() < 40
    np.testing.assert_allclose(got.mean((1, 2)), style.astype(np.float64).mean((1, 2)), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_style_moments_equal_numpy(method):
    content, style = features(0, 14, 16), features(1, 12, 16)
    got = np.asarray(transform(content, style, variant="ust", method=method), np.float64).reshape(2, -1, 16)
    flat = style.astype(np.float64).reshape(2, -1, 16)
    np.testing.assert_allclose(got.mean(1), flat.mean(1), atol=1e-4)
    for a, b in zip(got, flat, strict=True):
        np.testing.assert_allclose(np.cov(a.T), np.cov(b.T), atol=5e-3 * np.abs(np.cov(b.T)).max())


def test_wct_alpha_blends_and_images_are_independent():
    content, style = features(0, 8, 8), features(1, 8, 8)
    whole, half = transform(content, style), transform(content, style, alpha=0.5)
    np.testing.assert_allclose(half, (np.asarray(whole) + content) / 2, atol=1e-5)
    np.testing.assert_allclose(transform(content[1:], style[1:]), whole[1:], atol=1e-5)


@pytest.mark.parametrize("channels", [8, 80])  # fewer than positions, and more
@pytest.mark.long
def test_wct_regions_use_style_of_their_label(channels):
    content, style = features(0, 8, channels), features(1, 8, channels)
    left = jnp.broadcast_to((jnp.arange(8) < 4)[None, None, :], (2, 8, 8)).astype(jnp.int32)
    label = functools.partial(transform, content_labels=left, num_labels=3)
    got = np.asarray(label(content, style, style_labels=left))
    for half in (slice(0, 4), slice(4, 8)):
        expected = transform(content[:, :, half], style[:, :, half])
        np.testing.assert_allclose(got[:, :, half], expected, atol=1e-4)
    without = np.asarray(label(content, style, style_labels=jnp.ones((2, 8, 8), jnp.int32)))
    np.testing.assert_allclose(without[:, :, 4:], content[:, :, 4:], atol=1e-6)
    assert np.abs(without[:, :, :4] - content[:, :, :4]).max() > 0.1


def test_transfer_reuses_moments_and_mixes_styles():
    content, styles = features(0, 8, 8), [features(1, 8, 8), features(2, 7, 8)]
    moments = [jax.jit(style_moments)(style) for style in styles]
    alone = [np.asarray(transform(content, style)) for style in styles]
    mix = jax.jit(lambda weights: transfer(content, moments, weights=weights))
    for i, weights in enumerate(np.eye(2, dtype=np.float32)):
        np.testing.assert_allclose(mix(tuple(weights)), alone[i], atol=1e-5)
    np.testing.assert_allclose(mix((0.25, 0.75)), 0.25 * alone[0] + 0.75 * alone[1], atol=1e-5)
    with pytest.raises(UserError, match="2 styles need as many weights; got 1"):
        transfer(content, moments)
    with pytest.raises(UserError, match="one layer"):
        transfer(features(0, 8, 9), moments[:1])
    with pytest.raises(UserError, match="num_labels"):
        transfer(content, moments[:1], num_labels=2)
    with pytest.raises(UserError, match="moments of the variant 'official', not 'ct': give both the same variant="):
        transfer(content, moments[:1], variant="ct")


@pytest.mark.parametrize("num_labels", ["2", 1.5, -1])
def test_style_moments_rejects_numbers_of_labels(num_labels):
    with pytest.raises(UserError, match="^num_labels must be "):
        style_moments(np.ones((1, 2, 2, 3)), labels=np.zeros((1, 2, 2), np.int32), num_labels=num_labels)


def test_transfer_rejects_moments_of_other_labels():
    content, labels = features(0, 8, 8), np.zeros((2, 8, 8), np.int32)
    whole, regions = (
        StyleMoments(np.zeros((2, n, 8)), np.zeros((2, n, 8, 8)), np.zeros((2, n)), "official") for n in (1, 2)
    )
    for moments, options, message in (
        (whole, {"labels": labels, "num_labels": 2}, r"of 1 region\(s\), not 2: .* num_labels=2"),
        (regions, {}, r"of 2 region\(s\), not 1: .* num_labels=0"),
        (regions, {"labels": labels, "num_labels": 1}, r"of 2 region\(s\), not 1: .* num_labels=1"),
    ):
        with pytest.raises(UserError, match=message):
            transfer(content, (moments,), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "wct2"}, "official"),
        ({"method": "svd"}, "newton_schulz"),
        ({"num_labels": 2}, "all three"),
    ],
)
def test_wct_names_the_mistake(options, message):
    with pytest.raises(UserError, match=message):
        wct(features(0, 4, 4), features(1, 4, 4), **options)
    with pytest.raises(UserError, match="one layer"):
        wct(features(0, 4, 4), features(1, 4, 5))
    with pytest.raises(UserError, match="none of them 0"):
        wct(features(0, 4, 4)[:, :0], features(1, 4, 4))
    content, style = features(0, 4, 4), features(1, 4, 4)
    for label in (-1, 2):
        labels = np.full(content.shape[:3], label)
        with pytest.raises(UserError, match=f"labels must be 0 to 1, .*; got {label} to {label}"):
            wct(content, style, content_labels=labels, style_labels=np.zeros(style.shape[:3], int), num_labels=2)


def _eigendecomposed(jaxpr):
    """Yields the shapes of all matrices that are decomposed."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "eigh":
            yield equation.invars[0].aval.shape
        for inner in jaxprs_in_params(equation.params):
            yield from _eigendecomposed(inner)


def test_matrix_function_decomposes_one_matrix_at_a_time(key):
    """On two cores two batched decompositions waited for each other for ever."""
    content, style = (jax.random.uniform(k, (4, 9, 9, 8)) for k in jax.random.split(key))
    shapes = list(_eigendecomposed(jax.make_jaxpr(wct)(content, style).jaxpr))
    assert len(shapes) == 2 and set(shapes) <= {(8, 8), (1, 8, 8)}


@pytest.mark.parametrize(("variant", "sides"), [("official", [25, 40]), ("ct", [25, 40]), ("ust", [40, 40])])
def test_wct_decomposes_the_smaller_matrix(key, variant, sides):
    """Content and style each by itself; without the identity there is no such form."""
    content, style = (jax.random.uniform(k, (4, n, n, 40)) for k, n in zip(jax.random.split(key), (5, 9), strict=True))
    jaxpr = jax.make_jaxpr(functools.partial(wct, variant=variant))(content, style).jaxpr
    assert sorted(shape[-1] for shape in _eigendecomposed(jaxpr)) == sides


def dead_and_constant():
    content, style = features(0, 6, 5), features(1, 7, 5)
    content[..., 1] = style[..., 2] = 0.0  # dead channels
    content[1] = 0.5  # constant
    return content, style


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.long
def test_wct_gradient_is_finite_for_dead_channels(variant, method):
    content, style = dead_and_constant()

    def total(content, style):
        return jnp.sum(jnp.square(wct(content, style, variant=variant, method=method)))

    for x in (content, np.zeros_like(content), features(2, 2, 5)):  # fewer positions than channels too
        for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(x, style):
            assert np.isfinite(gradient).all()


def test_wct_gradient_equals_finite_differences():
    content, style = features(0, 4, 4, batch=1), features(1, 5, 4, batch=1)
    direction = np.random.default_rng(2).normal(size=content.shape).astype(np.float32)

    def total(content):
        return jnp.sum(jnp.sin(wct(content, style, variant="ct")))

    slope = jnp.sum(jax.jit(jax.grad(total))(content) * direction)
    with jax.enable_x64(True):
        before, after = (reference(content + sign * 1e-4 * direction, style, "ct") for sign in (-1, 1))
    np.testing.assert_allclose(slope, (np.sin(after).sum() - np.sin(before).sum()) / 2e-4, rtol=2e-3)


@pytest.mark.parametrize("deviations", [(0.1, 1, 10), (1, 5, 100)])
@pytest.mark.parametrize(
    ("variant", "height"), [("ust", 8), ("ct", 8), ("ct", 2)]
)  # 2 positions are fewer than channels
def test_wct_gradient_of_unlike_channels_equals_finite_differences(variant, height, deviations):
    rng = np.random.default_rng(0)
    content, style = (rng.normal(size=(1, height, 1, 3)) * scales for scales in (deviations, (1, 2, 3)))
    style = np.concatenate([style, 2 * style[:, ::-1], rng.normal(size=style.shape)], axis=1)
    weight = rng.normal(size=content.shape)

    def total(content):
        return (weight * reference(content, style, variant)).sum()

    gradient = jax.grad(lambda x: jnp.sum(weight * wct(x, style.astype(np.float32), variant=variant)))
    exact = np.zeros(content.shape)
    for index in np.ndindex(content.shape):
        step = np.zeros(content.shape)
        step[index] = 1e-5 * deviations[index[-1]]
        exact[index] = (total(content + step) - total(content - step)) / (2 * step[index])
    scale = np.abs(exact).max(axis=(0, 1, 2))
    found = np.asarray(gradient(content.astype(np.float32)))
    np.testing.assert_allclose(found / scale, exact / scale, atol=0.02)


@pytest.mark.parametrize("spectrum", [(1e-4, 1e-2, 1, 100), (2, 5, 26, 1e4), (1, 1, 1 + 1e-6, 3)])
@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (wct_module._ROOT, np.sqrt),
        (wct_module._INVERSE_ROOT, lambda x: 1 / np.sqrt(x)),
        (wct_module._ROOT_OF_FEW, lambda x: 1 / (np.sqrt(x) + 1)),
        (wct_module._INVERSE_ROOT_OF_FEW, lambda x: -1 / (x + np.sqrt(x))),
    ],
)
def test_divided_differences_are_exact_for_any_spectrum(spectrum, function, exact):
    a, b = np.meshgrid(spectrum, spectrum)
    if exact(1.0) in (0.5, -0.5):  # of eigenvalues of I + S S^T
        a, b = np.maximum(a, 1), np.maximum(b, 1)
    quotients = function.quotient(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    h = 1e-6 * a
    slopes = (exact(a + h) - exact(a - h)) / (2 * h)
    expected = np.where(np.abs(a - b) < 1e-4, slopes, (exact(a) - exact(b)) / np.where(a == b, 1, a - b))
    np.testing.assert_allclose(quotients, expected, rtol=1e-4)


@pytest.mark.parametrize("options", [{"alpha": 2.0}, {"alpha": -1.0}, {"alpha": np.nan}, {"weights": (2.0,)}])
@pytest.mark.long
def test_transfer_rejects_weights_out_of_range(options):
    x = features(0, 3, 3)
    moments = style_moments(x)
    with pytest.raises(UserError, match="alpha must be a finite number from 0 to 1|weights of styles must sum to 1"):
        transfer(x, (moments,), **options)
