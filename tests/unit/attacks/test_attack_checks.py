"""Checks of a robust accuracy: messages for models and images with a defect, none for others."""

import functools

import attacked_model as model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.attacks.autoattack import checks
from arinv.attacks.autoattack.host_batches import make_buckets, margins

EPS = 0.03


@functools.cache
def batch():
    x = model.images()
    labels = model.ranked(x)[:, 0].copy()
    labels[3] = -1
    return x, labels


def batch_statistics(x):
    logits = model.logits_fn(x)
    return logits - logits.mean(axis=0, keepdims=True)


def make_drawn_anew():
    rng = np.random.default_rng(0)

    def logits_fn(x):
        return model.logits_fn(x) + rng.standard_normal((x.shape[0], 1)).astype(np.float32)

    return logits_fn


def make_called_back():
    rng = np.random.default_rng(0)

    def logits_fn(x):
        noise = jax.pure_callback(
            lambda: rng.standard_normal((x.shape[0], 1)).astype(np.float32),
            jax.ShapeDtypeStruct((x.shape[0], 1), jnp.float32),
            vmap_method="sequential",
        )
        return model.logits_fn(x) + jax.lax.stop_gradient(noise)

    return logits_fn


MODELS = {
    "sound": (model.logits_fn, ""),
    "random when traced": (make_drawn_anew(), "randomized"),
    "random when run": (make_called_back(), "randomized"),
    "rows depend on one another": (batch_statistics, "change with the other images of its batch"),
    "probabilities": (lambda x: jax.nn.softmax(model.logits_fn(x)), "probabilities"),
    "rounded images": (lambda x: model.logits_fn(jnp.round(x * 4) / 4), "7 of 8 images is exactly zero"),
    "not finite": (lambda x: jnp.log(model.logits_fn(x) - 100), "not finite"),
}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e37])
def test_inspect_model_finds_nothing_in_images_that_are_misclassified(rank, size):
    x = batch()[0]
    assert not checks.inspect_model(lambda images: size * model.logits_fn(images), x, model.ranked(x)[:, rank])


@pytest.mark.parametrize("logits_fn, message", MODELS.values(), ids=MODELS)
@pytest.mark.long
def test_inspect_model_reports_models_that_mislead_attacks(logits_fn, message):
    result = checks.inspect_model(logits_fn, *batch())
    assert len(result) == bool(message)
    assert message in " ".join(result)


def test_square_gain_is_reported():
    gradients = {"apgd-ce": 0.6, "apgd-t": 0.5, "fab-t": 0.5}
    assert checks.check_square_gain(gradients) == checks.check_square_gain({"square": 0.1}) == []
    assert checks.check_square_gain({**gradients, "square": 0.4985}) == []
    (message,) = checks.check_square_gain({**gradients, "square": 0.4975})
    assert "by 0.25 points" in message


def test_check_radius_zero_reports_an_attack_that_moves(key, monkeypatch):
    def still(key, logits_fn, x, labels, **options):
        assert options["eps"] == 0 and options["norm"] == "linf"
        return x

    for name in ("apgd", "fab", "square"):
        monkeypatch.setattr(checks, name, still)
    assert checks.check_radius_zero(key, model.logits_fn, *batch(), norm="linf") == []
    monkeypatch.setattr(checks, "square", lambda key, logits_fn, x, labels, **options: x + 1e-6)
    result = checks.check_radius_zero(key, model.logits_fn, *batch(), norm="linf")
    assert result == ["Square Attack in linf moved an image within a radius of 0."]


def reclassify(adversarial, logits_fn=model.logits_fn):
    x, labels = batch()
    return checks.reclassify(
        logits_fn, x, adversarial.astype(np.float32), labels, eps=EPS, norm="linf", buckets=make_buckets(batch_size=8)
    )


def test_rescore_counts_images_as_they_are_and_rounded():
    x, labels = batch()
    result = reclassify(x)
    np.testing.assert_array_equal(result.correct, labels >= 0)
    assert result.messages == [] and not np.any(result.distances)

    def between_levels(x):  # class 1 where the first value is no multiple of 1/255
        off = jnp.abs(x[:, 0, 0, 0] * 255 - jnp.round(x[:, 0, 0, 0] * 255)) > 0.1
        logits = [0.5 * jnp.ones(x.shape[0]), off.astype(jnp.float32), *jnp.zeros((3, x.shape[0]))]
        return jnp.stack(logits, axis=1)

    moved = np.round(x * 255) / 255
    moved[0, 0, 0, 0] = 100.4 / 255
    result = reclassify(moved, between_levels)
    expected = labels == np.where(np.arange(8) == 0, 1, 0)
    np.testing.assert_array_equal(result.correct, expected)
    np.testing.assert_array_equal(result.correct_8bit, labels == 0)


def test_margins_of_any_number_of_images_equal_those_of_one_batch():
    x, labels = batch()
    result = margins(model.logits_fn, x[:5], labels[:5], make_buckets(batch_size=4, smallest_batch=2))
    np.testing.assert_allclose(result[[0, 1, 2, 4]], model.margins(x, labels)[[0, 1, 2, 4]], atol=1e-5)
    assert result.shape == (5,)


@pytest.mark.parametrize(
    "change, message",
    [(0.04, "is 0.04 from its original, more than 0.03"), (np.nan, "not finite"), (-0.01, "outside the range 0 to 1")],
)
def test_rescore_reports_invalid_images(change, message):
    x, _ = batch()
    adversarial = x.copy()
    value = x.min() if change < 0 else 0.5
    place = np.argwhere(x == value)[0] if change < 0 else np.argwhere(np.abs(x - 0.5) < 0.3)[0]
    adversarial[tuple(place)] += change
    (result,) = reclassify(adversarial).messages
    assert message in result
