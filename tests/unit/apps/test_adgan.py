"""ADGAN's search: a batch equals its images one by one, weights are restored, the descent is Adam's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv.apps import anomaly
from arinv.errors import UserError
from arinv.ops.descent import descend

SIDE, LATENT, SEEDS = 4, 3, 5
IMAGES = np.random.default_rng(1).random((3, SIDE, SIDE, 3), dtype=np.float32)
WEIGHTS = {"w": 0.3 * np.random.default_rng(2).standard_normal((LATENT, SIDE * SIDE * 3), dtype=np.float32)}


def generate(weights, latents):
    product = jnp.sum(latents[:, :, None] * weights["w"][None], axis=1)
    return jax.nn.sigmoid(product).reshape(-1, SIDE, SIDE, 3)


def sample(key, count):
    return jax.random.normal(key, (count, LATENT))


@functools.partial(jax.jit, static_argnames=("num_steps", "chunk_size", "weight_rate"))
def search(key, images, indices=None, *, num_steps=4, chunk_size=1, weight_rate=0.05):
    return anomaly.adgan_search(
        key, generate, jax.tree.map(jnp.asarray, WEIGHTS), images, sample_fn=sample, num_seeds=SEEDS,
        num_steps=num_steps, chunk_size=chunk_size, weight_rate=weight_rate, indices=indices,
    )  # fmt: skip


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
@pytest.mark.long
def test_batch_equals_images_one_by_one(key, chunk_size):
    """Each starts from the same weights, whatever was searched for before."""
    together = search(key, IMAGES, jnp.array([4, 0, 7]), chunk_size=chunk_size)
    for row, index in enumerate((4, 0, 7)):
        single = search(key, IMAGES[row : row + 1], jnp.array([index]))
        for one, many in zip(single, together, strict=True):
            np.testing.assert_allclose(many[row], one[0], rtol=2e-5, atol=1e-6)
    assert np.ptp(together.scores) > 1e-4, "rows differ"


@pytest.mark.long
def test_search_equals_a_loop_of_adam(key):
    result = search(key, IMAGES[:1])
    z = sample(jax.random.fold_in(key, 0), SEEDS)
    variables = (z, jax.tree.map(jnp.asarray, WEIGHTS))
    optimizers = optax.adam(0.25), optax.adam(0.05)
    states = [optimizer.init(part) for optimizer, part in zip(optimizers, variables, strict=True)]

    def loss(z, weights):
        return jnp.sum(jnp.mean((generate(weights, z) - IMAGES[:1]) ** 2, axis=(1, 2, 3)))

    for _ in range(4):
        gradients, parts = jax.grad(loss, argnums=(0, 1))(*variables), []
        for i, optimizer in enumerate(optimizers):
            updates, states[i] = optimizer.update(gradients[i], states[i])
            parts.append(optax.apply_updates(variables[i], updates))
        variables = tuple(parts)
    errors = jnp.mean((generate(variables[1], variables[0]) - IMAGES[:1]) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(result.errors[0], errors, rtol=1e-4)
    np.testing.assert_allclose(result.scores[0], errors.mean(), rtol=1e-4)
    best = generate(variables[1], variables[0])[jnp.argmin(errors)]
    np.testing.assert_allclose(result.reconstructions[0], best, atol=1e-4)


@pytest.mark.long
def test_adapted_weights_and_more_steps_lower_the_score(key):
    scores = {(steps, rate): search(key, IMAGES, num_steps=steps, weight_rate=rate).scores.mean()
              for steps, rate in ((1, 0.0), (4, 0.0), (4, 0.05))}  # fmt: skip
    assert scores[4, 0.05] < scores[4, 0.0] < scores[1, 0.0]


def test_descend_returns_the_history_before_each_update():
    def loss(x):
        return jnp.sum(x**2), x

    x, history = descend(loss, jnp.array([8.0]), optax.sgd(0.25), num_steps=3)
    np.testing.assert_allclose(history[:, 0], [8, 4, 2])
    assert x == 1
    unchanged, history = descend(loss, jnp.array([8.0]), optax.sgd(0.25), num_steps=0)
    assert unchanged == 8 and history.shape == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_seeds": 0}, "num_seeds"),
        ({"weight_rate": -1.0}, "weight_rate"),
        ({"sample_fn": None}, "sample_fn must be a function"),
        ({"indices": jnp.zeros(2, jnp.int32)}, r"one per image \(3,\)"),
    ],
)
def test_mistakes(key, options, message):
    with pytest.raises(UserError, match=message):
        anomaly.adgan_search(key, generate, WEIGHTS, IMAGES, **{"sample_fn": sample, **options})


@pytest.mark.parametrize(
    "wrong", [lambda weights, latents: generate(weights, latents)[..., :1], lambda weights, latents: (1, 2)]
)
def test_a_generator_of_other_images_is_refused(key, wrong):
    with pytest.raises(UserError, match=r"generate_fn must return images of the shape \(5, 4, 4, 3\); got"):
        anomaly.adgan_search(
            key, wrong, jax.tree.map(jnp.asarray, WEIGHTS), IMAGES, sample_fn=sample, num_seeds=SEEDS
        )  # fmt: skip
