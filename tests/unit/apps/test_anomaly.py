"""Latent search, nearest neighbors, attacks on scores and heat maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from arinv.apps import anomaly
from arinv.errors import UserError
from arinv.models.generators.discriminator import fold_spectral_norm
from arinv.models.generators.mirror import Generator
from arinv.models.generators.plans import Plan, Step, up

SIDE, LATENT = 4, 5
PIXELS = SIDE * SIDE * 3
_RNG = np.random.default_rng(3)
DECODER = (0.05 * _RNG.standard_normal((LATENT, PIXELS))).astype(np.float32)
ENCODER = _RNG.standard_normal((PIXELS, 6)).astype(np.float32)
IMAGES = _RNG.random((5, SIDE, SIDE, 3), dtype=np.float32)
WEIGHTS = {"pixel_weight": 2e-2, "feature_weight": 1e-2}


def product(x, weights):
    """x @ weights, summed in the same order whatever the batch."""
    return jnp.sum(x[:, :, None] * weights[None], axis=1)


def linear_decode(latents):
    return (0.5 + product(latents, DECODER)).reshape(-1, SIDE, SIDE, 3)


def linear_features(images):
    return {"code": product(images.reshape(-1, PIXELS), ENCODER)}


def curved_decode(latents):
    return jax.nn.sigmoid(product(latents, 20 * DECODER)).reshape(-1, SIDE, SIDE, 3)


def curved_features(images):
    return {"code": jnp.tanh(product(images.reshape(-1, PIXELS), ENCODER))}


@jax.jit
def curved_scores(images):
    return anomaly.amortized_scores(
        lambda code: curved_decode(code[:, :LATENT]), curved_features, images, layer="code", **WEIGHTS
    )


@pytest.mark.parametrize(("end_inclusive", "second_rate"), [(True, 0.06), (False, 0.1 - 0.08 / 3)])
def test_latent_search_equals_numpy(key, end_inclusive, second_rate):
    """With the rate that ends at the last iteration, as in the paper, or behind it, as in the released code."""
    search = {"latent_shape": (LATENT,), "layer": "code", "learning_rate": 0.1, "end_learning_rate": 0.02, **WEIGHTS}
    search["end_inclusive"] = end_inclusive
    result = jax.jit(
        lambda images: anomaly.latent_search(key, linear_decode, linear_features, images, num_steps=3, **search)
    )(IMAGES)
    starts = [jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, i), 0), (LATENT,)) for i in range(5)]
    z, v = np.array(starts, np.float64), np.zeros((5, LATENT))
    images, history = IMAGES.reshape(5, -1).astype(np.float64), []
    for rate in (0.1, second_rate, None):
        outputs = 0.5 + z @ DECODER
        difference = (outputs - images) @ ENCODER
        pixel, feature = 2e-2 * np.abs(outputs - images).sum(axis=1), 1e-2 * np.square(difference).sum(axis=1)
        history.append(pixel + feature)
        if rate is not None:
            gradient = (2e-2 * np.sign(outputs - images) + 1e-2 * 2 * difference @ ENCODER.T) @ DECODER.T
            v = 0.9 * v + gradient
            z = z - rate * v
    np.testing.assert_allclose(result.latents, z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.pixel, pixel, rtol=1e-5)
    np.testing.assert_allclose(result.feature, feature, rtol=1e-5)
    np.testing.assert_allclose(result.history, history, rtol=1e-5)
    np.testing.assert_array_equal(result.scores, result.history[-1])
    np.testing.assert_allclose(result.reconstructions.reshape(5, -1), outputs, rtol=1e-5)
    assert (history[2] < history[0]).all()


@functools.cache
def curved_search(num_restarts):
    """A compiled search of images with indices."""
    options = {"latent_shape": (LATENT,), "layer": "code", "num_steps": 40, "num_restarts": num_restarts, **WEIGHTS}
    return jax.jit(
        lambda images, indices: anomaly.latent_search(
            jax.random.key(1), curved_decode, curved_features, images, indices=indices, **options
        )
    )


@pytest.mark.parametrize("num_restarts", [1, 3])
@pytest.mark.long
def test_latent_search_of_a_batch_equals_that_of_each_image(num_restarts):
    search = curved_search(num_restarts)
    whole = search(IMAGES, np.arange(5))
    assert whole.history.shape == (40, 5)
    for i in range(5):
        alone = search(IMAGES[i : i + 1], np.arange(i, i + 1))
        for name in ("latents", "reconstructions", "scores", "pixel", "feature"):
            np.testing.assert_allclose(getattr(alone, name)[0], getattr(whole, name)[i], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(alone.history[:, 0], whole.history[:, i], rtol=1e-5, atol=1e-5)


def test_latent_search_keeps_the_best_of_several_starts():
    many, one = (curved_search(n)(IMAGES, np.arange(5)) for n in (3, 1))
    assert (many.scores <= one.scores + 1e-6).all() and (many.scores < one.scores - 1e-6).any()
    np.testing.assert_array_equal(many.scores, many.history[-1])
    codes = [curved_features(x)["code"] for x in (many.reconstructions, IMAGES)]
    again = 1e-2 * jnp.sum(jnp.square(codes[0] - codes[1]), axis=1)
    np.testing.assert_allclose(many.feature, again, rtol=1e-4)
    np.testing.assert_allclose(many.reconstructions, curved_decode(many.latents), rtol=1e-5)


@pytest.mark.long
def test_latent_search_does_not_keep_a_start_that_diverges(key):
    def decode(latents):
        outputs = curved_decode(latents)
        return jnp.where(latents[:, :1].reshape(-1, *[1] * (outputs.ndim - 1)) > 0, jnp.nan, outputs)

    options = {"latent_shape": curved_search(1)(IMAGES, np.arange(5)).latents.shape[1:], "layer": "code"}
    weights = {"pixel_weight": 1.0, "feature_weight": 1e-2, "num_steps": 1, "num_restarts": 8}
    clean, broken = (
        anomaly.latent_search(key, decode_fn, curved_features, IMAGES, **options, **weights)
        for decode_fn in (curved_decode, decode)
    )
    assert np.isfinite(broken.scores).all() and (broken.scores >= clean.scores - 1e-6).all()


def test_latent_search_is_compiled_once_for_networks_of_other_weights(key):
    traces = []

    @jax.jit
    def search(decoder, pixel_weight):
        traces.append(1)
        return anomaly.latent_search(
            key, lambda z: product(z, decoder).reshape(-1, SIDE, SIDE, 3), linear_features, IMAGES, layer="code",
            latent_shape=(LATENT,), num_steps=2, pixel_weight=pixel_weight, feature_weight=1e-2,
        ).scores  # fmt: skip

    first, second = search(DECODER, 2e-3), search(2 * DECODER, 2e-6)
    assert len(traces) == 1 and not np.allclose(first, second)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"layer": "conv5"}, "unknown layer 'conv5'; known: code"),
        ({"num_steps": 0}, "must be at least 1"),
        ({"num_restarts": 0}, "must be at least 1"),
        ({"learning_rate": -0.1}, "learning_rate must be a finite number of at least 0; got -0.1"),
        ({"end_learning_rate": np.nan}, "end_learning_rate must be a finite number of at least 0; got nan"),
        ({"indices": np.arange(4)}, "one per image"),
        ({"latent_shape": 4}, "latent_shape must be whole numbers of 1 or more, .* got 4"),
        ({"latent_shape": (-1, 4)}, "latent_shape must be whole numbers of 1 or more"),
    ],
)
def test_latent_search_rejects_wrong_options(key, changes, shown):
    options = {"latent_shape": (LATENT,), "layer": "code", **WEIGHTS} | changes
    with pytest.raises(UserError, match=shown):
        anomaly.latent_search(key, linear_decode, linear_features, IMAGES, **options)


@pytest.mark.parametrize(("k", "block_size"), [(1, 7), (3, 16), (3, 1000), (5, 2)])
@pytest.mark.long
def test_nearest_neighbor_distances_equal_scikit_learn(k, block_size):
    rng = np.random.default_rng(0)
    references, rows = (rng.standard_normal((n, 9)).astype(np.float32) for n in (40, 11))
    expected = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(references).kneighbors(rows)[0].mean(axis=1)
    padded = np.concatenate([references, np.tile(rows[:1], (6, 1))])  # padding that would be nearest
    options = {"k": k, "block_size": block_size}
    result = jax.jit(lambda n: anomaly.nearest_neighbor_distances(rows, padded, num_references=n, **options))(40)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    more = anomaly.nearest_neighbor_distances(rows, references, num_references=50, **options)  # than there are
    np.testing.assert_allclose(more, expected, rtol=1e-5)


def test_nearest_neighbor_distances_of_almost_equal_rows_are_exact():
    references = np.full((3, 2000), 5.0, np.float32) + np.arange(3, dtype=np.float32)[:, None]
    rows = references[:2].copy()
    rows[1, 0] += 1e-3
    distances = jax.jit(lambda x: anomaly.nearest_neighbor_distances(x, references, k=1))(rows)
    np.testing.assert_allclose(distances, [0, 1e-3], rtol=1e-3)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(anomaly.nearest_neighbor_distances(x, references, k=1))))(rows)
    assert np.isfinite(gradient).all() and gradient[1, 0] > 0.9


def test_feature_rows_normalises_and_pools():
    features = np.random.default_rng(0).random((3, 2, 2, 4), dtype=np.float32)
    rows = anomaly.feature_rows(features)
    assert rows.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    pooled = anomaly.feature_rows(features, pooling="mean", normalize=False)
    np.testing.assert_allclose(pooled, features.mean(axis=(1, 2)), rtol=1e-6)
    assert not np.isnan(anomaly.feature_rows(np.zeros((1, 3)))).any()
    with pytest.raises(UserError, match="known: flat, mean"):
        anomaly.feature_rows(features, pooling="max")
    with pytest.raises(UserError, match="k=5 neighbors"):
        anomaly.nearest_neighbor_distances(rows, rows, k=5)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.3), ("linf", 0.05)])
@pytest.mark.long
def test_attack_scores_raises_normal_and_lowers_anomalous_scores_within_the_ball(key, norm, eps):
    anomalous = np.array([0, 1, 0, 1, -1])

    @jax.jit
    def attack(images, anomalous, indices):
        options = {"eps": eps, "norm": norm, "num_steps": 5, "indices": indices}
        return anomaly.attack_scores(key, curved_scores, images, anomalous, **options)

    adversarial = attack(IMAGES, anomalous, np.arange(5))
    before, after = curved_scores(IMAGES), curved_scores(adversarial)
    assert (after[::2][:2] > before[::2][:2]).all() and (after[1::2] < before[1::2]).all()
    np.testing.assert_array_equal(adversarial[4], IMAGES[4])
    change = np.asarray(adversarial - IMAGES, np.float64).reshape(5, -1)
    lengths = np.linalg.norm(change, ord={"l2": 2, "linf": np.inf}[norm], axis=1)
    assert (lengths <= eps * (1 + 1e-5)).all() and (lengths[:4] > 0.5 * eps).all()
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    alone = attack(IMAGES[2:3], anomalous[2:3], np.array([2]))
    np.testing.assert_allclose(alone[0], adversarial[2], atol=1e-5)


def test_attack_scores_returns_the_image_if_no_iterate_is_better(key):
    """With a random start on the sphere and steps of length 0."""
    anomalous = np.arange(5) % 2
    options = {"eps": 0.5, "num_steps": 1, "step_size": 0.0}
    attack = jax.jit(lambda x: anomaly.attack_scores(key, curved_scores, x, anomalous, **options))
    adversarial = attack(IMAGES)
    gains = np.where(anomalous, -1, 1) * (curved_scores(adversarial) - curved_scores(IMAGES))
    unchanged = [bool((a == b).all()) for a, b in zip(adversarial, IMAGES, strict=True)]
    assert gains.min() >= 0 and 0 < sum(unchanged) < 5


def test_held_scores_equal_those_of_the_search_without_gradient_in_reconstructions(key):
    options = {"layer": "code", **WEIGHTS}
    result = jax.jit(
        lambda x: anomaly.latent_search(
            key, curved_decode, curved_features, x, latent_shape=(LATENT,), num_steps=3, **options
        )
    )(IMAGES)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def held(reconstructions):
        scores = anomaly.fixed_reconstruction_scores(curved_features, IMAGES, reconstructions, **options)
        return jnp.sum(scores), scores

    (_, scores), gradient = held(result.reconstructions)
    np.testing.assert_allclose(scores, result.scores, rtol=1e-5)
    assert not np.any(gradient)


def test_heat_maps_peak_where_images_differ():
    images, other = np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 8, 8, 3), np.float32)
    other[0, 5, 2] = 0.6

    def features_fn(x):
        return {"quarter": x.reshape(-1, 4, 2, 4, 2, 3).sum(axis=(2, 4)), "vector": x.reshape(-1, 192)}

    heat_maps = jax.jit(functools.partial(anomaly.heat_maps, features_fn), static_argnames=("layer", "sigma"))
    maps = heat_maps(images, other, layer="quarter")
    for values in maps:
        assert values.shape == (1, 8, 8)
    assert np.unravel_index(np.argmax(maps.pixel), (1, 8, 8)) == (0, 5, 2)
    assert np.unravel_index(np.argmax(maps.feature), (1, 8, 8))[1] in (4, 5)
    assert not np.any(heat_maps(images, other, layer="vector").feature)
    even = heat_maps(images, images + 0.25, layer="quarter", sigma=2.0)
    np.testing.assert_allclose(even.pixel, 0.25, rtol=1e-5)  # also at the edges
    sharp = heat_maps(images, other, layer="quarter", sigma=0.0)
    assert sharp.pixel[0, 5, 2] == np.float32(0.6) and np.count_nonzero(sharp.pixel) == 1


def test_fold_spectral_norm_keeps_the_output(key):
    generator = Generator(Plan((Step("conv", 4), *up(3, 2))))
    code, rng = np.random.default_rng(0).standard_normal((2, 2, 2, 4), dtype=np.float32), np.random.default_rng(1)
    shapes = jax.eval_shape(generator.init, key, code)
    variables = jax.tree.map(lambda x: 0.1 + rng.random(x.shape, dtype=np.float32), shapes)
    plain, folded = fold_spectral_norm(generator, variables)
    assert not plain.spectral_norm and "spectral" not in folded
    expected = jax.jit(generator.apply)(variables, code)
    apply = jax.jit(plain.apply)
    np.testing.assert_allclose(apply(folded, code), expected, atol=1e-6)
    assert np.abs(apply({name: variables[name] for name in folded}, code) - expected).max() > 1e-3
    assert fold_spectral_norm(plain, folded) == (plain, folded)


@pytest.mark.parametrize("offsets, size", [((1000,), 1.0), ((-1000, 300, 1000), 1.0), ((0, 3), 1e25), ((0, 3), 1e-25)])
@pytest.mark.long
def test_nearest_neighbor_distances_are_exact_far_from_the_origin(offsets, size):
    """And among distant clusters."""
    rng = np.random.default_rng(0)
    references, rows = (
        (size * (rng.normal(size=(n, 16)) + rng.choice(offsets, (n, 1)))).astype(np.float32) for n in (300, 20)
    )
    exact = np.linalg.norm(rows[:, None].astype(np.float64) - references[None], axis=2)
    expected = np.sort(exact, axis=1)[:, :2].mean(axis=1)
    result = jax.jit(lambda rows: anomaly.nearest_neighbor_distances(rows, references, block_size=128))(rows)
    np.testing.assert_allclose(result, expected, rtol=1e-4)


@pytest.mark.long
def test_nearest_neighbor_distances_of_nan_are_nan():
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    rows[1, 2] = np.nan
    result = np.asarray(anomaly.nearest_neighbor_distances(rows, rows[[0, 2]], k=1))
    assert np.isnan(result[1]) and np.isfinite(result[[0, 2]]).all()
    assert np.isnan(anomaly.nearest_neighbor_distances(rows[:1], rows, k=1)).all()
    assert np.isfinite(anomaly.nearest_neighbor_distances(rows[:1], rows, k=1, num_references=1)).all()


@pytest.mark.long
def test_latent_search_starts_from_init_and_its_terms_add_up(key):
    init = np.random.default_rng(0).normal(size=(5, LATENT)).astype(np.float32)

    def search(init, num_restarts):
        options = {"latent_shape": (LATENT,), "layer": "code", "num_steps": 2, "num_restarts": num_restarts, **WEIGHTS}
        return anomaly.latent_search(key, linear_decode, linear_features, IMAGES, init=init, **options)

    result = jax.jit(search, static_argnums=1)(init, 1)
    decoded = linear_decode(init)
    expected = WEIGHTS["pixel_weight"] * np.abs(decoded - IMAGES).sum((1, 2, 3))
    np.testing.assert_allclose(result.pixel_history[0], expected, rtol=1e-4)
    np.testing.assert_allclose(result.pixel_history + result.feature_history, result.history, rtol=1e-5)
    np.testing.assert_allclose(result.pixel_history[-1], result.pixel, rtol=1e-5)
    several, noise = (jax.jit(search, static_argnums=1)(start, 3) for start in (init, None))
    assert np.all(several.scores <= result.scores + 1e-5) and np.any(several.scores != noise.scores)
    with pytest.raises(UserError, match=r"init must have the shape \(5, 5\); got \(1, 5\)"):
        search(init[:1], 1)


@pytest.mark.long
def test_latent_search_continues_after_a_gradient_that_is_not_finite(key):
    def features(images):
        return {"code": jnp.sqrt(jnp.sum(jnp.square(images - 0.5), axis=(1, 2, 3)))[:, None]}

    options = {"latent_shape": (LATENT,), "layer": "code", "num_steps": 3, "init": np.zeros((5, LATENT)), **WEIGHTS}
    result = anomaly.latent_search(key, linear_decode, features, IMAGES, **options)
    assert np.isfinite(result.latents).all() and np.isfinite(result.scores).all() and np.any(result.latents != 0)


@pytest.mark.parametrize("score_fn", [jnp.mean, lambda x: (x.sum((1, 2, 3)), x), lambda x: x.sum((1, 2, 3))[:1]])
def test_attack_scores_rejects_scores_that_are_not_one_per_image(key, score_fn):
    images = np.random.default_rng(0).random((4, 4, 4, 3), np.float32)
    with pytest.raises(UserError, match="what score_fn returns must be"):
        anomaly.attack_scores(key, score_fn, images, np.array([0, 1, 0, 1]), eps=1.0, num_steps=2)
