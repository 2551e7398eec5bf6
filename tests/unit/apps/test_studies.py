"""Perturbations, samples and comparisons of the probes, by hand-made features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.apps.studies import Options, probes


def identity(x):
    return x


def images_of(count, side=8, seed=0):
    return jax.random.uniform(jax.random.key(seed), (count, side, side, 3))


def options(**given):
    return Options(**({"mean_distance": 1.0, "reference": images_of(6, seed=9)} | given))


def run(probe, encode=identity, decode=identity, images=None, **given):
    images = images_of(3) if images is None else images
    return probe(jax.random.key(0), encode, decode, images, options(**given))


def test_binarize_keeps_signs_zeros_and_the_norm():
    features = jnp.array([[3.0, -4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    expected = [[5 / 2**0.5, -5 / 2**0.5, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(probes.binarize(features), expected, rtol=1e-6)


def test_dropout_keeps_the_norm_and_half_of_the_entries(key):
    features = 1 + jax.random.uniform(key, (2, 10, 10, 10))
    dropped = probes.dropout(jax.random.key(1), features, rate=0.5)
    np.testing.assert_allclose(*(jnp.linalg.norm(x.reshape(2, -1), axis=1) for x in (dropped, features)), rtol=1e-5)
    assert np.abs(np.mean(dropped == 0) - 0.5) < 0.05
    ratios = (dropped / features)[dropped != 0]
    assert 1.3 < ratios.min() and ratios.max() < 1.5


def test_drop_smallest_counts_nonzero_entries_only():
    features = jnp.array([[0.0, 0.0, 1.0, -2.0, 3.0, -4.0], [0.0, 0.0, 0.0, 0.0, 0.0, 5.0]])
    dropped = probes.drop_smallest(features, share=0.5)
    np.testing.assert_array_equal(dropped, [[0, 0, 0, 0, 3, -4], [0, 0, 0, 0, 0, 5]])


@pytest.mark.long
def test_sample_histogram_has_the_zeros_and_the_values_of_the_data(key):
    reference = jax.nn.relu(jax.random.normal(key, (30, 5, 8)))
    reference = reference.at[:, 0, 0].set(0.0).at[:, 0, 1].set(7.0)
    sampled = probes.sample_histogram(jax.random.key(1), reference, count=200)
    counts = (reference.reshape(30, -1) != 0).sum(axis=1)
    assert set(np.asarray((sampled.reshape(200, -1) != 0).sum(axis=1))) <= set(np.asarray(counts))
    assert (sampled[:, 0, 0] == 0).all() and (sampled[:, 0, 1] == 7).mean() > 0.95
    for place in ((1, 2), (4, 7)):
        values = np.asarray(sampled[:, *place])
        assert set(values[values != 0]) <= set(np.asarray(reference[:, *place])) and len(set(values)) > 3


@pytest.mark.parametrize("shift", [-0.7, 0.0, 2.0])
@pytest.mark.long
def test_sample_gaussian_has_the_moments_of_the_data(key, shift):
    reference = jnp.maximum(0.0, 3 * (shift + jax.random.normal(key, (50, 400))))
    sampled = probes.sample_gaussian(jax.random.key(1), reference, count=50)
    np.testing.assert_allclose(sampled.mean(), reference.mean(), rtol=0.05)
    np.testing.assert_allclose((sampled**2).mean(), (reference**2).mean(), rtol=0.08)
    np.testing.assert_allclose((sampled == 0).mean(), (reference == 0).mean(), atol=0.02)


def test_sample_gaussian_of_signed_data_is_not_truncated(key):
    sampled = probes.sample_gaussian(key, jnp.array([[-3.0, 1.0], [-1.0, 3.0]]), count=5000)
    np.testing.assert_allclose([sampled.mean(), sampled.std()], [0.0, 5**0.5], atol=0.1)


@pytest.mark.long
def test_interpolate_ends_are_the_reconstructions_exactly():
    images = images_of(3)
    sheet = run(probes.interpolate, lambda x: jnp.sqrt(x) / 3, lambda x: jnp.square(3 * x), images)
    ends = jnp.square(3 * (jnp.sqrt(images) / 3))
    np.testing.assert_array_equal(sheet.rows["0%"], ends)
    np.testing.assert_array_equal(sheet.rows["100%"], jnp.roll(ends, -1, axis=0))
    curve = sheet.curves["error to the image"]
    assert (curve[1:] > curve[:-1]).all(), "the error grows along the way"


def test_hue_splits_a_vector_into_its_largest_entries_and_the_rest():
    seen = []

    def decode(vectors):
        seen.append(vectors)
        return jnp.zeros((len(vectors), 8, 8, 3))

    run(probes.hue, lambda x: x.mean(axis=(1, 3)), decode, hues=(), top=2)
    everything, largest, rest = seen
    np.testing.assert_allclose(largest + rest, everything)
    assert ((largest != 0).sum(axis=1) == 2).all() and (largest.max(axis=1) == everything.max(axis=1)).all()
    assert (rest.max(axis=1) < jnp.sort(everything, axis=1)[:, -2]).all()


def test_brightness_measures_the_invariance_of_the_features():
    invariant = run(probes.brightness, lambda x: x / x.mean(axis=(1, 2, 3), keepdims=True), lambda x: x / x.max())
    plain = run(probes.brightness, decode=lambda x: jnp.clip(x, 0, 1))
    for factor in ("x 0.1", "x 10"):
        changes = [sheet.numbers[f"change, {factor}"] for sheet in (invariant, plain)]
        assert (changes[0] < 1e-5).all() and (changes[1] > 0.3).all()


@pytest.mark.long
def test_objects_of_the_identity_are_where_and_as_they_were():
    sheet = run(probes.objects)
    assert all((values < 1e-5).all() for values in sheet.numbers.values())
    mirrored = run(probes.objects, decode=lambda x: x[:, :, ::-1])
    left = mirrored.numbers["offset, left"]
    assert (left > 0.3).all() and (left < 0.7).all(), "half a width from its place"


def test_neighbors_finds_copies_among_the_reference():
    images = images_of(3)
    reference = jnp.concatenate([images_of(4, seed=5), images[::-1]])
    sheet = run(probes.neighbors, images=images, reference=reference, layers={"mean": lambda x: x.mean(axis=(1, 2))})
    for place in ("pixels", "the feature", "mean"):
        np.testing.assert_array_equal(sheet.rows[f"nearest in {place}"], images)


def test_reencode_applies_the_pair_as_often_as_asked():
    sheet = run(probes.reencode, decode=lambda x: x / 2, iterations=(1, 3))
    np.testing.assert_allclose(sheet.rows["iteration 3"], sheet.rows["image"] / 8, rtol=1e-6)
    assert sheet.x == (1, 3) and (sheet.curves["drift"][0] == 0).all() and (sheet.curves["drift"][1] > 0).all()


def test_units_are_single_entries():
    seen = []

    def decode(features):
        seen.append(features)
        return jnp.clip(features, 0, 1)

    sheet = run(probes.units, decode=decode, num_units=2)
    for single in seen[2:]:
        assert ((single.reshape(3, -1) != 0).sum(axis=1) == 1).all()
    assert (sheet.numbers["value, unit 1"] > sheet.numbers["value, unit 2"]).all()
