"""FAB: the nearest boundary of models where it is known, the published steps, cost and restarts."""

import functools

import attacked_model as model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import attacks
from arinv.errors import UserError

WEIGHTS = np.random.default_rng(4).standard_normal(12).astype(np.float32)
DUALS = {"l1": np.inf, "l2": 2, "linf": 1}
LABELS = np.zeros(6, np.int32)
TARGETS = np.ones(6, np.int32)


def linear(x):
    """Class 1 beyond a plane; class 2 never."""
    height = x.reshape(x.shape[0], -1) @ WEIGHTS - WEIGHTS.sum() / 2
    return jnp.stack([-height - 0.2, height, jnp.full_like(height, -9.0)], axis=1)


@functools.cache
def images():
    """Around the middle, on the side of class 0, so that only the plane is in the way and not the box."""
    x = np.random.default_rng(2).uniform(0.45, 0.55, (60, 2, 2, 3)).astype(np.float32)
    return x[np.asarray(linear(x)).argmax(1) == 0][:6]


def distances(norm):
    difference = np.asarray(linear(images()))[:, 0] - np.asarray(linear(images()))[:, 1]
    return difference / np.linalg.norm(2 * WEIGHTS, ord=DUALS[norm])


@functools.cache
def compiled(norm):
    return jax.jit(
        lambda key, x, eps: attacks.fab(key, linear, x, LABELS, eps=eps, targets=TARGETS, norm=norm, num_steps=20)
    )


@pytest.mark.parametrize("norm", DUALS)
@pytest.mark.long
def test_fab_returns_the_nearest_point_behind_a_plane(key, norm):
    adversarial = compiled(norm)(key, images(), np.ones(6, np.float32))
    assert np.all(np.asarray(linear(adversarial)).argmax(1) == 1)
    moved = model.lengths(np.asarray(adversarial) - images(), norm)
    assert np.all(moved >= distances(norm)) and np.all(moved <= 1.06 * distances(norm) + 1e-6)


@pytest.mark.parametrize("norm", DUALS)
def test_fab_moves_only_images_with_a_boundary_within_eps(key, norm):
    near = distances(norm)
    eps = np.where(np.arange(6) % 2, 1.1 * near, 0.9 * near).astype(np.float32)
    adversarial = np.asarray(compiled(norm)(key, images(), eps))
    unmoved = np.all(adversarial == images(), axis=(1, 2, 3))
    np.testing.assert_array_equal(unmoved, np.arange(6) % 2 == 0)


@pytest.mark.long
def test_fab_without_targets_approaches_the_runner_up(key):
    x = model.images()
    ranked = model.ranked(x)
    options = {"eps": 0.3, "norm": "l2", "num_steps": 5}
    attack = jax.jit(lambda targets: attacks.fab(key, model.logits_fn, x, ranked[:, 0], targets=targets, **options))
    np.testing.assert_array_equal(attack(None), attack(ranked[:, 1]))


HIDDEN, OUT = (np.random.default_rng(6).standard_normal(shape).astype(np.float32) for shape in ((12, 8), (8, 2)))


def bent(x):
    """Two classes with a curved boundary between them."""
    return jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ HIDDEN) @ OUT


def plain_fab(image, num_steps, max_bias, overshoot, backward_step):
    """Algorithm 1 of Croce & Hein 2020 (FAB) for l2 in float64, where the box is out of reach."""

    def difference(x):
        hidden = np.tanh((x - 0.5) @ HIDDEN)
        return hidden @ (OUT[:, 1] - OUT[:, 0]), (1 - hidden**2) * (OUT[:, 1] - OUT[:, 0]) @ HIDDEN.T

    x, best, distance = image, image, np.inf
    for _ in range(num_steps):
        value, w = difference(x)
        here, there = (-(value + w @ (point - x)) * w / (w @ w) for point in (x, image))
        lengths = [max(np.linalg.norm(move), 1e-8) for move in (here, there)]
        bias = min(lengths[0] / sum(lengths), max_bias)
        x = (1 - bias) * (x + overshoot * here) + bias * (image + overshoot * there)
        if difference(x)[0] > 0:
            if np.linalg.norm(x - image) < distance:
                best, distance = x, np.linalg.norm(x - image)
            x = image + backward_step * (x - image)
    return best


def test_fab_follows_the_published_algorithm(key):
    x = np.random.default_rng(3).uniform(0.4, 0.6, (30, 2, 2, 3)).astype(np.float32)
    logits = np.asarray(bent(x))
    x = x[logits[:, 0] > logits[:, 1]][:6]
    constants = {"max_bias": 0.5, "overshoot": 1.05, "backward_step": 0.9}
    options = {"eps": 9.0, "targets": TARGETS, "norm": "l2", "num_steps": 6, **constants}
    adversarial = jax.jit(lambda x: attacks.fab(key, bent, x, LABELS, **options))(x)
    for i in range(len(x)):
        expected = plain_fab(x[i].reshape(-1).astype(np.float64), 6, **constants)
        np.testing.assert_allclose(adversarial[i].reshape(-1), expected, atol=1e-5)


def test_fab_step_costs_two_forward_passes_and_one_backward(key):
    passes = []

    @jax.custom_vjp
    def watched(x):
        return x

    def forward(x):
        return x, None

    def backward(_, g):
        jax.debug.callback(lambda: passes.append("backward"))
        return (g,)

    watched.defvjp(forward, backward)

    def counted(x):
        jax.debug.callback(lambda: passes.append("forward"))
        return linear(watched(x))

    options = {"eps": 1.0, "targets": TARGETS, "num_steps": 3}
    jax.block_until_ready(jax.jit(lambda x: attacks.fab(key, counted, x, LABELS, **options))(images()))
    jax.effects_barrier()
    assert sorted(passes) == ["backward"] * 3 + ["forward"] * 6


def test_fab_restarts_at_other_points_within_the_radius(key):
    """Close to an image the logits are flat: a gradient from there leads nowhere."""
    middle = images()

    def hidden(x):
        walled = jnp.max(jnp.abs(x - middle), axis=(1, 2, 3)) < 0.01
        logits = linear(x)
        return jnp.where(walled[:, None], jax.lax.stop_gradient(logits), logits)

    def run(num_restarts):
        options = {"eps": 0.4, "targets": TARGETS, "num_steps": 10, "num_restarts": num_restarts}
        return np.asarray(jax.jit(lambda x: attacks.fab(key, hidden, x, LABELS, **options))(middle))

    np.testing.assert_array_equal(run(1), middle)
    adversarial = run(2)
    assert np.all(np.asarray(linear(adversarial)).argmax(1) == 1)
    assert np.all(np.abs(adversarial - middle) <= 0.4 + 1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eps": -0.1}, "eps must be finite and at least 0; got -0.1"),
        ({"norm": "l7"}, "unknown norm 'l7'; known: l1, l2, linf"),
        ({"num_steps": 0}, "num_steps must be at least 1; got 0"),
        ({"num_restarts": 0}, "num_restarts must be at least 1"),
        ({"targets": np.zeros(3, np.int32)}, "targets must be integers, one per image (6,)"),
    ],
)
def test_fab_rejects_invalid_options(key, options, message):
    with pytest.raises(UserError) as error:
        attacks.fab(key, linear, images(), LABELS, **{"eps": 0.1, "targets": TARGETS, **options})
    assert message in str(error.value)
