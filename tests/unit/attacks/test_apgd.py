"""APGD: published step sizes, losses by hand, cost, restarts and keys."""

import attacked_model as model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import attacks
from arinv.attacks import objectives, rows
from arinv.attacks.apgd import _evaluation, _run, _sparse_direction, checkpoints, momentum_rule, sparse_rule
from arinv.errors import UserError
from arinv.ops import keys as ops_keys

LOGITS = np.array([[3.0, 1.0, 2.0, -1.0, 0.5], [0.0, 5.0, 4.0, 4.5, -2.0]], np.float32)


@pytest.mark.parametrize(
    "num_steps, places",
    [
        (100, (22, 41, 57, 70, 80, 87, 93, 99)),  # as published
        (50, (11, 21, 30, 38, 45)),
        (10, (2, 3, 4, 5, 6, 7, 8, 9, 10)),
        (1, (1,)),
    ],
)
def test_checkpoints_are_as_published(num_steps, places):
    result = checkpoints(num_steps=num_steps)
    assert result[: len(places)] == places and (num_steps == 50 or result == places)


def test_objectives_equal_values_by_hand():
    labels, targets = np.array([0, 2], np.int32), np.array([1, 0], np.int32)

    @jax.jit
    def losses(z):
        functions = (objectives.margin, objectives.dlr, objectives.cross_entropy)
        return [*(f(z, labels) for f in functions), objectives.targeted_dlr(z, labels, targets)]

    margin, dlr, cross_entropy, targeted_dlr = losses(LOGITS)
    np.testing.assert_allclose(margin, [3 - 2, 4 - 5])
    np.testing.assert_allclose(dlr, [-(3 - 2) / (3 - 1), -(4 - 5) / (5 - 4)], rtol=1e-6)
    expected = [-(3 - 1) / (3 - (1 + 0.5) / 2), -(4 - 0) / (5 - (4 + 0) / 2)]
    np.testing.assert_allclose(targeted_dlr, expected, rtol=1e-6)
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(2), labels])
    np.testing.assert_allclose(cross_entropy, expected, rtol=1e-6)
    np.testing.assert_allclose(losses(7 * LOGITS - 3)[1], dlr, rtol=1e-5)  # invariant to shift and scale
    np.testing.assert_array_equal(losses(0 * LOGITS)[1], 0)


def test_objectives_of_bfloat16_logits_are_float32():
    labels = np.array([0, 2], np.int32)
    for loss in (objectives.margin, objectives.dlr, objectives.cross_entropy):
        assert jax.eval_shape(loss, jnp.asarray(LOGITS, jnp.bfloat16), labels).dtype == jnp.float32


def test_objectives_reject_too_few_classes():
    labels = np.zeros(2, np.int32)
    with pytest.raises(UserError, match="the DLR loss needs at least 3 classes; got 2"):
        objectives.dlr(LOGITS[:, :2], labels)
    with pytest.raises(UserError, match="the targeted DLR loss needs at least 4 classes; got 3"):
        objectives.targeted_dlr(LOGITS[:, :3], labels, labels)


HIDDEN, OUT = (np.random.default_rng(5).standard_normal(shape).astype(np.float32) for shape in ((12, 8), (8, 3)))


def small_logits(x):
    return jnp.tanh(x.reshape(x.shape[0], -1) @ HIDDEN) @ OUT


def loss_and_gradient(x, label):
    hidden = np.tanh(x @ HIDDEN)
    scores = np.exp(hidden @ OUT)
    probabilities = scores / scores.sum()
    back = (probabilities - np.eye(3)[label]) @ OUT.T * (1 - hidden**2)
    return -np.log(probabilities[label]), back @ HIDDEN.T


def plain_apgd(x, start, label, eps, norm, num_steps, reviews):
    """One image, written from algorithm 1 of Croce & Hein 2020, in float64."""

    def inside(z):
        delta = z - x
        if norm == "l2":
            delta = delta * min(1, eps / max(np.linalg.norm(delta), 1e-30))
        else:
            delta = np.clip(delta, -eps, eps)
        return np.clip(x + delta, 0, 1)

    def direction(g):
        return g / np.linalg.norm(g) if norm == "l2" else np.sign(g)

    step, current, previous = 2 * eps, start, start
    loss, gradient = loss_and_gradient(current, label)
    best, best_loss, best_gradient = current, loss, gradient
    history, last_best, last_review, halved = [0.0], loss, 0, True
    for i in range(1, num_steps + 1):
        weight = 0.75 if i > 1 else 1.0
        moved = inside(current + step * direction(gradient))
        moved = inside(current + weight * (moved - current) + (1 - weight) * (current - previous))
        previous, current = current, moved
        loss, gradient = loss_and_gradient(current, label)
        history.append(loss)
        if loss > best_loss:
            best, best_loss, best_gradient = current, loss, gradient
        if i in reviews:
            rises = sum(history[j] > history[j - 1] for j in range(last_review + 1, i + 1))
            few = rises <= 0.75 * (i - last_review)
            halved = few or (not halved and last_best >= best_loss)
            if halved:
                step, current, gradient = step / 2, best, best_gradient
            last_best, last_review = best_loss, i
    return best, best_loss, step


@pytest.mark.parametrize("norm, eps", [("l2", 0.4), ("linf", 0.15)])
@pytest.mark.long
def test_momentum_rule_follows_the_published_algorithm(norm, eps):
    rng, steps, taken = np.random.default_rng(1), 40, 22  # further on, rounding decides whether a loss rises
    x = np.clip(1.4 * rng.random((6, 2, 2, 3)) - 0.2, 0, 1).astype(np.float32)
    start = np.clip(x + rng.uniform(-0.05, 0.05, x.shape), 0, 1).astype(np.float32)
    labels = np.arange(6, dtype=np.int32) % 3
    batch = rows.prepare(small_logits, x, labels, eps=eps, norm=norm)
    rule = momentum_rule(batch.images, eps=eps, norm=norm, num_steps=steps)
    evaluate = _evaluation("ce", batch)
    run = jax.jit(lambda start: _run(evaluate, rule, start, taken))(start)
    reviews = checkpoints(num_steps=steps)
    assert sum(review <= taken for review in reviews) == 3
    halvings = []
    for i in range(6):
        flat = (a[i].reshape(-1).astype(np.float64) for a in (x, start))
        best, loss, step = plain_apgd(*flat, labels[i], eps, norm, taken, reviews)
        np.testing.assert_allclose(run.best_loss[i], loss, atol=1e-4)
        np.testing.assert_allclose(run.state.step_size[i], step, rtol=1e-6)
        np.testing.assert_allclose(run.best_x[i].reshape(-1), best, atol=2e-3)
        halvings.append(round(np.log2(2 * eps / step)))
    assert norm == "linf" or len(set(halvings)) > 1  # each row adapts its own step


def test_momentum_rule_compares_the_first_step_with_a_loss_of_zero():
    """As in the authors' code; it matters for losses below zero, such as the DLR."""
    rule = momentum_rule(jnp.zeros((2, 1, 1, 1)), eps=0.1, norm="linf", num_steps=100)
    known, losses = rule.begin(jnp.zeros((2, 1, 1, 1))), [[-5.0, 5.0], [-4.0, 6.0], [-3.0, 7.0]]
    rises = []
    for i, values in enumerate(losses):
        known, _ = rule.review(i, known, np.float32(values), np.float32(values), None)
        rises.append(known.rises.tolist())
    assert rises == [[0, 0], [0, 1], [1, 2]]


def test_sparse_rule_steps_along_the_largest_values():
    gradient = np.array([[0.5, -3.0, 2.0, 0.0], [1.0, -1.0, 0.1, 0.2]], np.float32).reshape(2, 2, 2, 1)
    direction = jax.jit(_sparse_direction)
    result = direction(gradient, np.array([0.5, 0.25], np.float32))
    expected = np.array([[0, -0.5, 0.5, 0], [0.5, -0.5, 0, 0]]).reshape(2, 2, 2, 1)  # equal values go together
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert not np.any(direction(0 * gradient, np.array([0.5, 1.0], np.float32)))


def test_sparse_rule_resets_the_step_where_fewer_values_change_and_shrinks_it_elsewhere():
    images = np.full((2, 2, 2, 1), 0.5, np.float32)
    best = images + np.array([[[0.1, 0], [0, 0]], [[0.1] * 2] * 2], np.float32)[..., None]  # changes 1 and 4 of 4
    rule = sparse_rule(images, eps=3.0, period=2, warm=False)

    @jax.jit
    def review(i, step_size):
        known = rule.begin(images)._replace(step_size=step_size)
        return rule.review(i, known, jnp.zeros(2), jnp.zeros(2), best)

    same, back = review(1, np.ones(2, np.float32))
    assert not np.any(back) and np.all(same.step_size == 1.0)
    reviewed, back = review(2, np.ones(2, np.float32))
    np.testing.assert_array_equal(back, [True, False])
    np.testing.assert_allclose(reviewed.step_size, [3.0, 1 / 1.5], rtol=1e-6)
    np.testing.assert_allclose(reviewed.fraction, [1 / 4 / 1.5, 1 / 1.5], rtol=1e-6)
    smallest, _ = review(2, np.full(2, 0.3, np.float32))
    np.testing.assert_allclose(smallest.step_size, [3.0, 0.3], rtol=1e-6)


@pytest.mark.long
def test_apgd_evaluates_once_a_step_and_once_a_radius(key):
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return small_logits(x)

    x, labels = np.full((2, 2, 2, 3), 0.5, np.float32), np.zeros(2, np.int32)
    options = {"eps": 0.5, "norm": "l1", "num_steps": 7, "large_radii": True}
    jax.block_until_ready(jax.jit(lambda x: attacks.apgd(key, counted, x, labels, **options))(x))
    jax.effects_barrier()
    assert len(calls) == 7 + 3


def test_first_success_keeps_the_first_restart_that_succeeds():
    images, tries = jnp.zeros((3, 1, 1, 1)), []

    def attack(i):
        jax.debug.callback(lambda i: tries.append(int(i)), i)
        candidates = jnp.full((3, 1, 1, 1), 10.0) + i
        return candidates, jnp.stack([i >= 0, i >= 2, i >= 9])

    result = rows.first_success(attack, images, num_restarts=4)
    np.testing.assert_array_equal(result[:, 0, 0, 0], [10.0, 12.0, 10.0])  # the last never succeeded
    tries.clear()
    rows.first_success(lambda i: (attack(i)[0], i >= jnp.zeros(3, int)), images, num_restarts=4)
    jax.effects_barrier()
    assert tries == [0]  # all have succeeded


def test_row_keys_accepts_one_key_or_one_per_row(key):
    keys = ops_keys.row_keys(key, batch_size=3)
    assert keys.shape == (3,) and len({tuple(data) for data in np.asarray(jax.random.key_data(keys))}) == 3
    assert ops_keys.row_keys(keys, batch_size=3) is keys
    with pytest.raises(UserError, match=r"one per image \(4,\); got shape \(3,\)"):
        ops_keys.row_keys(keys, batch_size=4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eps": -0.1}, "eps must be finite and at least 0; got -0.1"),
        ({"norm": "l7"}, "unknown norm 'l7'; known: l1, l2, linf"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; known: ce, dlr, dlr_targeted"),
        ({"num_steps": 0}, "num_steps must be at least 1; got 0"),
        ({"num_restarts": 0}, "num_restarts must be at least 1"),
        ({"loss": "dlr_targeted"}, "targets go with"),
        ({"targets": np.zeros(8, np.int32)}, "targets go with"),
        ({"large_radii": True}, 'large_radii is for norm "l1"; got "linf"'),
        ({"loss": "dlr_targeted", "targets": np.zeros(3, np.int32)}, "targets must be integers, one per image (8,)"),
    ],
)
def test_apgd_rejects_invalid_options(key, options, message):
    labels = np.zeros(8, np.int32)
    with pytest.raises(UserError) as error:
        attacks.apgd(key, model.logits_fn, model.images(), labels, **{"eps": 0.1, **options})
    assert message in str(error.value)


@pytest.mark.long
def test_apgd_starts_at_init(key):
    """With losses of the iterates: at least that of the start, which is brought into the ball."""
    x = model.images()
    labels = model.ranked(x)[:, 0]

    def attack(init, norm):
        options = {"eps": model.EPS[norm], "norm": norm, "num_steps": 1, "init": init, "return_losses": True}
        return attacks.apgd(key, model.logits_fn, x, labels, **options)

    for norm in ("l1", "l2", "linf"):
        result, losses = jax.jit(attack, static_argnums=1)(1 - x, norm)
        other, _ = jax.jit(attack, static_argnums=1)(x, norm)
        assert np.any(result != other)
        assert np.all(model.lengths(np.asarray(result) - x, norm) <= model.EPS[norm] + 1e-6)
        at_images = objectives.cross_entropy(model.logits_fn(x), labels)
        _, from_images = jax.jit(attack, static_argnums=1)(x, norm)
        assert losses.shape == (len(x),) and np.all(from_images >= at_images - 1e-6)
    with pytest.raises(UserError, match="init must have the shape of the images"):
        attack(x[:1], "l2")
