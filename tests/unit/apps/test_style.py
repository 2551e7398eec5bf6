"""Style transfer with toy encoders: identity, order, alpha, batches, mixtures, regions, colors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.apps.style import Level, encode_style, stylize, stylize_with
from arinv.errors import UserError
from arinv.ops.wct import METHODS, color_moments, keep_chroma, match_colors


def random_images(seed, batch=3, height=8, width=8):
    """Smooth images with a color cast, away from 0 and 1."""
    rng = np.random.default_rng(seed)
    mixing = 0.15 * rng.normal(size=(3, 3))
    cast = rng.uniform(0.45, 0.55, size=(batch, 1, 1, 3))
    noise = rng.uniform(-1, 1, size=(batch, height, width, 3))
    return np.clip(cast + noise @ mixing, 0.1, 0.9).astype(np.float32)


def orthogonal(name, seed, *, loss=0.0, calls=None):
    """A level of 1x1 maps with an exact inverse, or one that loses contrast; appends its name to `calls`."""
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0].astype(np.float32)

    def features_fn(images):
        if calls is not None:
            calls.append(name)
        return {name: 2 * images @ matrix}

    return Level(name, features_fn, lambda features: (1 - loss) * (features @ matrix.T) / 2 + loss / 2)


def pooled(name, factor):
    """A level whose features are means over tiles, and whose generator repeats them."""

    def features_fn(images):
        b, h, w, c = images.shape
        return {name: images.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))}

    return Level(name, features_fn, lambda x: jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2))


LEVELS = (orthogonal("shallow", 0), orthogonal("deep", 1))
run = jax.jit(functools.partial(stylize, LEVELS), static_argnames=("variant", "method", "order"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", ["official", "ust"])
@pytest.mark.parametrize("order", ["official", "paper"])
@pytest.mark.long
def test_stylize_in_the_own_style_returns_the_content(variant, method, order):
    images = random_images(0)
    np.testing.assert_allclose(run(images, images, variant=variant, method=method, order=order), images, atol=1e-3)


def test_stylize_gives_the_mean_colors_of_the_style():
    content, style = random_images(0), random_images(1, height=6, width=9)
    got = np.asarray(run(content, style, variant="ust"))
    np.testing.assert_allclose(got.mean((1, 2)), style.mean((1, 2)), atol=2e-3)
    assert np.abs(content.mean((1, 2)) - style.mean((1, 2))).max() > 0.02


@pytest.mark.parametrize(("order", "expected"), [("official", ["deep", "shallow"]), ("paper", ["shallow", "deep"])])
@pytest.mark.long
def test_stylize_with_runs_levels_in_order(order, expected):
    calls = []
    levels = tuple(orthogonal(name, i, loss=0.2, calls=calls) for i, name in enumerate(("shallow", "deep")))
    content, style = random_images(0), random_images(1)
    code = jax.jit(functools.partial(encode_style, levels))(style)
    calls.clear()
    both = jax.jit(functools.partial(stylize_with, levels, order=order))(content, (code,))
    assert calls == expected
    images = content
    for name in expected:
        one = tuple(level for level in levels if level.layer == name)
        images = jax.jit(functools.partial(stylize, one))(images, style)
    np.testing.assert_allclose(both, images, atol=1e-6)


def test_stylize_with_alpha_0_encodes_and_decodes_the_content():
    levels = tuple(orthogonal(name, i, loss=0.3) for i, name in enumerate(("a", "b")))
    content = random_images(0)
    blend = jax.jit(lambda alpha: stylize(levels, content, random_images(1), alpha=alpha))
    np.testing.assert_allclose(blend(0.0), 0.5 + 0.7**2 * (content - 0.5), atol=1e-5)
    assert np.abs(blend(1.0) - blend(0.0)).max() > 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.long
def test_stylize_of_a_batch_equals_that_of_each_pair(method):
    content, style = random_images(0), random_images(1, height=6, width=10)
    together = run(content, style, method=method)
    for i in range(len(content)):
        one = run(content[i : i + 1], style[i : i + 1], method=method)
        np.testing.assert_allclose(one[0], together[i], atol=1e-5)


def test_stylize_with_a_mixture_of_one_style_equals_stylize():
    content, styles = random_images(0), [random_images(1), random_images(2)]
    codes = [jax.jit(functools.partial(encode_style, LEVELS))(style) for style in styles]
    mix = jax.jit(lambda weights: stylize_with(LEVELS, content, codes, weights=weights))
    for weights, style in (((1.0, 0.0), styles[0]), ((0.0, 1.0), styles[1])):
        np.testing.assert_allclose(mix(weights), run(content, style), atol=1e-5)
    half = mix((0.5, 0.5))
    assert min(np.abs(half - run(content, style)).max() for style in styles) > 1e-3


def test_stylize_gives_regions_the_style_of_their_label():
    height, width = 16, 32
    content, style = random_images(0, 2, height, width), random_images(1, 2, height, width)
    style[:, : height // 2] = np.clip(style[:, : height // 2] + np.float32([0.2, 0, -0.2]), 0, 1)
    content_labels = np.zeros((2, height, width), np.int32)
    content_labels[:, :, width // 2 :] = 1
    style_labels = np.zeros((2, height, width), np.int32)
    style_labels[:, height // 2 :] = 1
    labels = {"content_labels": content_labels, "style_labels": style_labels, "num_labels": 2}
    got = jax.jit(lambda: stylize((pooled("a", 2),), content, style, variant="ust", **labels))()
    got = np.asarray(got)
    halves = (got[:, :, : width // 2], style[:, : height // 2]), (got[:, :, width // 2 :], style[:, height // 2 :])
    for mine, theirs in halves:
        np.testing.assert_allclose(mine.mean((1, 2)), theirs.mean((1, 2)), atol=5e-3)
    difference = got[:, :, : width // 2].mean((1, 2)) - got[:, :, width // 2 :].mean((1, 2))
    assert (difference[:, 0] > 0.1).all() and (difference[:, 2] < -0.1).all()


def test_keep_chroma_keeps_the_chroma_of_the_content():
    stylized, content = random_images(0), random_images(1)
    got = np.asarray(keep_chroma(stylized, content))
    inside = ((got > 0) & (got < 1)).all(-1)
    assert inside.mean() > 0.9

    def chroma(x):
        return (x - x[..., :1])[..., 1:][inside]

    np.testing.assert_allclose(chroma(got), chroma(content), atol=1e-5)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose((got @ luma)[inside], (stylized @ luma)[inside], atol=1e-5)


def test_match_colors_gives_mean_and_covariance_of_the_content():
    style, content = random_images(0, height=12, width=12), random_images(1, height=9, width=7)
    style, content = 0.5 + 0.5 * (style - 0.5), 0.5 + 0.5 * (content - 0.5)  # far from where colors are clipped
    got = np.asarray(jax.jit(lambda style, content: match_colors(style, color_moments(content)))(style, content))
    for mine, theirs in zip(got.reshape(3, -1, 3), content.reshape(3, -1, 3), strict=True):
        np.testing.assert_allclose(mine.mean(0), theirs.mean(0), atol=1e-4)
        np.testing.assert_allclose(np.cov(mine.T), np.cov(theirs.T), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"order": "deep"}, "unknown order of levels 'deep'; known: official, paper"),
        ({"variant": "wct"}, "unknown WCT variant"),
        ({"levels": ()}, "at least one level"),
        ({"levels": (LEVELS[0]._replace(layer="conv9"),)}, "unknown layer 'conv9'; known: shallow"),
        ({"style": random_images(1, batch=2)}, "3 contents cannot be paired with 2 styles"),
        ({"content": 255 * random_images(0)}, "content must be in .*divide by 255"),
        ({"num_labels": 2}, "labels need all three"),
    ],
)
@pytest.mark.long
def test_stylize_reports_a_mistake_in_one_line(change, shown):
    given = {"levels": LEVELS, "content": random_images(0), "style": random_images(1)} | change
    with pytest.raises(UserError, match=shown) as error:
        stylize(given.pop("levels"), given.pop("content"), given.pop("style"), **given)
    assert "\n" not in str(error.value)


def test_stylize_with_rejects_codes_of_other_levels():
    code = encode_style(LEVELS[:1], random_images(1))
    with pytest.raises(UserError, match=r"for \[1\] levels; the transfer has 2"):
        stylize_with(LEVELS, random_images(0), (code,))


def test_stylize_with_rejects_one_thing_in_place_of_a_list():
    code = encode_style(LEVELS, random_images(1))
    for levels, codes, options, message in (
        (LEVELS[0], [code], {}, r"levels must be a list; got one level: write \[level\]"),
        (LEVELS, code, {}, r"must be a list of what encode_style returns; got one code: write \[code\]"),
        (LEVELS, [code], {"weights": 1.0}, r"weights of styles must be a tuple, such as \(0.5, 0.5\); got 1.0"),
    ):
        with pytest.raises(UserError, match=message):
            stylize_with(levels, random_images(0), codes, **options)


@pytest.mark.long
def test_stylize_rejects_sizes_that_a_level_does_not_return():
    def cropped(name):
        def features_fn(images):
            return {name: images[:, : images.shape[1] // 2 * 2 : 2, : images.shape[2] // 2 * 2 : 2]}

        return Level(name, features_fn, lambda x: jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))

    content = random_images(0, height=5, width=7)
    with pytest.raises(UserError, match="level deep turns images of 5 x 7 px into 4 x 6 px; pad or resize the content"):
        stylize([cropped("deep")], content, random_images(1))


@pytest.mark.parametrize("alpha", (2, -1, float("nan")))
def test_stylize_rejects_alpha_out_of_range(alpha):
    with pytest.raises(UserError, match="alpha must be a finite number from 0 to 1"):
        stylize(LEVELS, random_images(0), random_images(1), alpha=alpha)


def test_stylize_with_rejects_weights_that_do_not_sum_to_one():
    codes = [encode_style(LEVELS, random_images(seed)) for seed in (1, 2)]
    with pytest.raises(UserError, match=r"weights of styles must sum to 1; got \(1.0, 1.0\)"):
        stylize_with(LEVELS, random_images(0), codes, weights=(1.0, 1.0))
