"""The Square Attack: published windows, proposals, and searches in pieces."""

import functools

import attacked_model as model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import attacks
from arinv.attacks.square import (
    SquareSearch,
    _propose_linf,
    _window,
    patch,
    square_continue,
    square_start,
    stage,
    tiling,
    window_sides,
)
from arinv.errors import UserError

LABELS = model.ranked(model.images())[:, 0]


def test_window_sides_shrink_as_published():
    """For 32 px; up to query 10 a window is 0.8 of the area, and halves at the numbers of section 4.1."""
    bounds = (0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001, 9999)
    stages = [stage(query) for query in bounds]
    assert stages == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    np.testing.assert_array_equal(stage(np.array(bounds)), stages)
    assert window_sides(height=32, width=32, norm="linf").tolist() == [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    for norm in ("l1", "l2"):
        assert window_sides(height=32, width=32, norm=norm).tolist() == [29, 21, 15, 11, 7, 5, 5, 3, 3, 3]
    assert window_sides(height=6, width=4, norm="linf").tolist()[:2] == [4, 3]  # no larger than the image


@pytest.mark.parametrize("norm, power", [("l1", 4), ("l2", 2)])
def test_patch_is_two_hills_of_opposite_sign(norm, power):
    for side in (1, 3, 6, 15):
        hills = patch(side=side, norm=norm).astype(np.float64)
        np.testing.assert_allclose(np.linalg.norm(hills.reshape(-1), ord=model.ORDERS[norm]), 1, rtol=1e-6)
        assert np.all(hills[: side // 2] > 0) and np.all(hills[side // 2 :] < 0)
    lower = -patch(side=6, norm=norm)[3:]  # three rows: its top is in the middle of the second
    steps = [1 + 2**-power + 3**-power + 4**-power, 2**-power + 3**-power + 4**-power, 3**-power + 4**-power, 4**-power]
    np.testing.assert_allclose(lower[1] / lower[1, 3], np.array(steps)[[3, 2, 1, 0, 1, 2]] / steps[0], rtol=1e-5)
    np.testing.assert_allclose(lower[:, 3] / lower[1, 3], np.array(steps)[[1, 0, 1]] / steps[0], rtol=1e-5)


@pytest.mark.parametrize(
    "height, width, tiles",
    [(32, 32, (6, 5, 5, 1)), (224, 224, (44, 5, 5, 2)), (12, 12, (2, 5, 5, 1)), (4, 3, (1, 4, 3, 0))],
)
def test_tiling_fits_into_the_image(height, width, tiles):
    assert tiling(height=height, width=width) == tiles


@functools.cache
def pieces(norm):
    options = {"eps": model.EPS[norm] / 2, "norm": norm}

    def start(key, x, labels=LABELS):
        return square_start(key, model.logits_fn, x, labels, **options)

    def go_on(key, x, search, count, labels=LABELS):
        return square_continue(key, model.logits_fn, x, labels, search, num_queries=count, **options)

    return jax.jit(start), jax.jit(go_on)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.long
def test_square_continue_in_pieces_equals_one_search(key, norm):
    start, go_on = pieces(norm)
    x = model.images()
    whole = go_on(key, x, start(key, x), 50)
    search, margins = start(key, x), []
    assert search.query == 0
    for count in (1, 19, 30):
        margins.append(np.asarray(search.margins))
        search = go_on(key, x, search, count)
    assert search.query == 50
    for one, other in zip(whole, search, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.all(np.diff([*margins, search.margins], axis=0) <= 0)  # it never gets worse
    assert np.any(search.margins < margins[0])
    np.testing.assert_allclose(search.margins, model.margins(search.images, LABELS), atol=1e-5)


def test_square_continue_keeps_misclassified_rows_and_ends_with_the_last(key):
    start, go_on = pieces("linf")
    x = model.images()
    broken = np.arange(len(x)) % 2 == 0
    labels = np.where(broken, (LABELS + 1) % model.CLASSES, LABELS)
    search = start(key, x, labels)
    np.testing.assert_array_equal(search.margins < 0, broken)
    later = go_on(key, x, search, 20, labels)
    np.testing.assert_array_equal(later.images[broken], search.images[broken])
    assert np.any(later.images[~broken] != search.images[~broken])
    done = go_on(key, x, search._replace(margins=-jnp.ones(len(x))), 20)
    assert done.query == 0


def test_window_is_inside_the_image_at_the_drawn_place():
    u, v = np.array([0.0, 0.5, 0.999], np.float32), np.array([0.0, 0.999, 0.2], np.float32)
    window = _window(jnp.asarray(u), jnp.asarray(v), 3, 8, 6)
    inside = np.asarray(window.inside[..., 0])
    np.testing.assert_array_equal(inside.sum((1, 2)), 9)
    corners = [tuple(np.argwhere(mask).min(0)) for mask in inside]
    assert corners == [(0, 0), (2, 2), (4, 0)]  # of 5 by 3 places
    np.testing.assert_array_equal(np.asarray(window.rows)[1, :, 0], np.arange(8) - 2)


def test_propose_linf_changes_one_window_by_the_radius(key):
    x = np.full((8, 6, 6, 3), 0.5, np.float32)
    search = SquareSearch(x - 0.1, np.ones(8), np.int32(1001))  # a window of 1 px
    tried = jax.jit(_propose_linf)(jax.random.split(key, 8), search, x, 0.1)
    changed = np.abs(np.asarray(tried) - (x - 0.1)) > 1e-3
    assert np.all(changed.any(3).sum((1, 2)) <= 1) and changed.any()
    np.testing.assert_allclose(np.asarray(tried)[changed], 0.6, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [({"eps": -0.1}, "eps must be finite"), ({"norm": "l7"}, "unknown norm 'l7'; known: l1, l2, linf")],
)
def test_square_rejects_invalid_options(key, options, message):
    with pytest.raises(UserError) as error:
        attacks.square(key, model.logits_fn, model.images(), LABELS, **{"eps": 0.1, **options})
    assert message in str(error.value)


@pytest.mark.parametrize("norm", ("l1", "l2", "linf"))
@pytest.mark.parametrize("shape", ((2, 64, 10, 1), (1, 1, 1, 3), (1, 9, 2, 1), (1, 3, 40, 3)))
@pytest.mark.long
def test_square_takes_images_of_any_shape(key, norm, shape):
    x = np.random.default_rng(0).random(shape, dtype=np.float32)

    def logits_fn(x):
        value = jnp.mean(x, axis=(1, 2, 3))
        return jnp.stack([value, 1 - value], axis=1)

    labels = np.asarray(logits_fn(x)).argmax(axis=1)
    adversarial = jax.jit(lambda x: attacks.square(key, logits_fn, x, labels, eps=0.1, norm=norm, num_queries=3))(x)
    assert adversarial.shape == shape and np.isfinite(adversarial).all()
    assert np.all(model.lengths(np.asarray(adversarial) - x, norm) <= 0.1 + 1e-5)
