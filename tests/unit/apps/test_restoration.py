"""The search of the Generative Encoder on linear generators and encoders, whose solution is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.apps.restoration.solver import solve
from arinv.errors import UserError
from arinv.ops.degradations import OPERATORS, build_operator, image_keys
from arinv.ops.latents import draw_starts

SHAPE, LATENT = (4, 4, 1), 3
rng = np.random.default_rng(0)
GENERATOR = rng.standard_normal((LATENT, 16)).astype(np.float32)
ENCODER = rng.standard_normal((16, 8)).astype(np.float32) / 4
MASK = (rng.random(16) > 0.4).astype(np.float32)


def decode(latents):
    return (latents @ GENERATOR).reshape(-1, *SHAPE)


def encode(images):
    return images.reshape(images.shape[0], -1) @ ENCODER


def mask(images):
    return images * MASK.reshape(1, *SHAPE)


@pytest.fixture
def images(key):
    return jax.random.normal(key, (3, *SHAPE))


def closed_form(degraded, matrix, penalty=0.0):
    codes = np.asarray(encode(degraded))
    return np.linalg.solve(matrix @ matrix.T + penalty * np.eye(LATENT), matrix @ codes.T).T


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.long
def test_solve_reaches_the_closed_form(images, penalty):
    starts = np.ones((3, LATENT), np.float32)
    solution = solve(decode, encode, images, starts, num_steps=1000, learning_rate=0.05, penalty=penalty)
    np.testing.assert_allclose(solution.latents, closed_form(images, GENERATOR @ ENCODER, penalty), atol=1e-4)
    assert solution.history.shape == (1001, 3) and np.isnan(solution.errors).all()
    np.testing.assert_array_equal(solution.num_steps, [1000] * 3)


@pytest.mark.parametrize("truth", [False, True])
def test_solve_returns_float32_with_x64(images, truth):
    with jax.enable_x64(True):
        options = {"num_steps": 1, "truth": images if truth else None}
        solution = solve(decode, encode, images, np.ones((3, LATENT)), **options)
    assert {leaf.dtype for leaf in solution[:-1]} == {np.dtype(np.float32)}


def test_solve_compares_projected_images(images):
    starts = np.ones((3, LATENT), np.float32)
    options = {"num_steps": 1000, "learning_rate": 0.05}
    degraded = mask(images)
    solution = solve(decode, encode, degraded, starts, project_fn=mask, **options)
    expected = closed_form(degraded, (GENERATOR * MASK) @ ENCODER)
    np.testing.assert_allclose(solution.latents, expected, atol=1e-4)
    without = solve(decode, encode, degraded, starts, **options)
    assert np.abs(without.latents - solution.latents).max() > 0.01


@pytest.mark.long
def test_solve_gives_a_batch_what_its_images_give_alone(images, key):
    starts = draw_starts(key, jnp.array([3, 5, 9]), latent_size=LATENT, prior="normal")[:, 0]
    whole = solve(decode, encode, images, starts, num_steps=20, truth=images)
    alone = solve(decode, encode, images[1:2], starts[1:2], num_steps=20, truth=images[1:2])
    np.testing.assert_allclose(whole.latents[1:2], alone.latents, atol=1e-6)
    np.testing.assert_allclose(whole.errors[:, 1:2], alone.errors, atol=1e-6)
    clipped = np.clip(whole.images, 0, 1)
    np.testing.assert_allclose(whole.errors[-1], np.mean((clipped - images) ** 2, axis=(1, 2, 3)), rtol=1e-5)


def test_solve_freezes_images_below_the_threshold(images):
    reachable, starts = decode(closed_form(images, GENERATOR @ ENCODER)), np.zeros((3, LATENT))
    solution = solve(decode, encode, reachable, starts, num_steps=300)
    threshold = 0.01
    frozen = solve(decode, encode, reachable, starts, num_steps=300, threshold=threshold)
    below = np.argmax(np.asarray(solution.history) < threshold, axis=0)
    np.testing.assert_array_equal(frozen.num_steps, below)
    for row, step in enumerate(below):
        assert (np.asarray(frozen.history)[step:, row] == frozen.history[step, row]).all() and step > 0


def test_solve_starts_from_the_best_of_several_starts(images):
    best = closed_form(images, GENERATOR @ ENCODER).astype(np.float32)
    starts = np.stack([best + 1, best, best - 2], axis=1)
    solution, alone = (solve(decode, encode, images, start, num_steps=1) for start in (starts, best))
    np.testing.assert_allclose(solution.history[0], alone.history[0], rtol=1e-5)


def test_draw_starts_depend_on_the_number_of_an_image_only(key):
    options = {"latent_size": 4, "prior": "uniform", "num_starts": 2}
    whole = draw_starts(key, jnp.array([7, 2, 11]), **options)
    np.testing.assert_array_equal(whole[1:2], draw_starts(key, jnp.array([2]), **options))
    assert whole.shape == (3, 2, 4) and np.abs(whole).max() <= 1 and len(np.unique(whole)) == 24
    with pytest.raises(UserError, match="'cauchy'"):
        draw_starts(key, jnp.arange(2), latent_size=4, prior="cauchy")


def test_solve_rejects_starts_of_another_batch(images):
    with pytest.raises(UserError, match=r"starts must be .* got \(2, 3\) for \(3, 4, 4, 1\)"):
        solve(decode, encode, images, np.zeros((2, LATENT)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"degraded": np.full((3, *SHAPE), np.nan, np.float32)}, "degraded images must be in .* not finite"),
        ({"degraded": np.zeros((3, *SHAPE), np.uint8)}, "degraded images must be floating point .*; got uint8"),
        ({"degraded": np.full((3, *SHAPE), 255.0, np.float32)}, "degraded images must be in .0, 1.; got 255"),
        (
            {"degraded": np.zeros((3, 4, 4, 3), np.float32)},
            r"the generated images have the shape \(3, 4, 4, 1\), the degraded ones \(3, 4, 4, 3\)",
        ),
        ({"starts": np.full((3, LATENT), np.inf)}, "starts must be finite"),
        ({"starts": np.zeros((3, 0, LATENT))}, "of one image or more"),
        ({"truth": np.zeros((2, *SHAPE), np.float32)}, "truth must have the shape"),
        ({"project_fn": 3}, "project_fn must be a function; got int"),
    ],
)
def test_solve_rejects_inputs_in_one_line(changes, message):
    arguments = {"degraded": np.zeros((3, *SHAPE), np.float32), "starts": np.zeros((3, LATENT)), "num_steps": 1}
    with pytest.raises(UserError, match=message) as error:
        solve(decode_fn=decode, encode_fn=lambda images: images, **arguments | changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_reject_images_and_keys_in_one_line(name, key):
    operator, x = build_operator(name), np.full((2, 16, 16, 1), 0.5, np.float32)
    keys = image_keys(key, np.arange(2))
    cases = [
        (keys, (255 * x).astype(np.uint8), "got uint8"),
        (keys, x * np.nan, "not finite"),
        (keys, x[0], "must be .batch, height, width, channels."),
        (keys[:1], x, "one per image"),
        (0, x, "must be a PRNG key"),
    ]
    for given, images, message in cases:
        for function in (operator.degrade, operator.project):
            with pytest.raises(UserError, match=message):
                function(given, images)
    with pytest.raises(UserError, match="indices must be integers"):
        image_keys(key, np.ones(2))


def test_solve_rejects_codes_of_another_shape(images):
    def encode_by_size(x):
        return x[:, :2] if isinstance(x, jax.core.Tracer) else x

    with pytest.raises(UserError, match="the generated codes have the shape"):
        jax.jit(lambda starts: solve(decode, encode_by_size, images, starts, num_steps=1))(np.zeros((3, LATENT)))


@pytest.mark.parametrize(
    ("encode_fn", "message"),
    [
        (lambda x: encode(x)[:1], r"one for each of the 3 images; got \(1, 8\)"),
        (lambda x: encode(x).mean(0), r"got \(8,\)"),
        (lambda x: {"conv5": encode(x)}, "got a dict; take one feature, such as `lambda x: features_fn"),
        (lambda x: (encode(x), x), "got a tuple"),
    ],
)
def test_solve_rejects_codes_that_are_not_one_row_for_each_image(images, encode_fn, message):
    with pytest.raises(UserError, match=message):
        solve(decode, encode_fn, images, np.zeros((3, LATENT), np.float32), num_steps=2)


@pytest.mark.parametrize("indices", [3, None, [0.5]])
def test_draw_starts_names_indices_that_are_no_integers(key, indices):
    with pytest.raises(UserError, match="indices must be"):
        draw_starts(key, indices, latent_size=2, prior="normal")
    with pytest.raises(UserError, match="indices must be"):
        image_keys(key, indices)
