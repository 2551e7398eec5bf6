"""Results with jax_enable_x64 and with strict dtype promotion against those in float32."""

import attacked_model as model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import attacks, losses, metrics
from arinv.apps import anomaly
from arinv.apps.inversion import enlarging, representation_inversion
from arinv.apps.style import transfer
from arinv.ops import wct

IMAGES = np.random.default_rng(0).random((2, 12, 12, 3), dtype=np.float32)
OTHERS = np.clip(IMAGES + 0.1, 0, 1)
SMALL = model.images(4)
LABELS = model.ranked(SMALL)[:, 0]
TARGETS = model.ranked(SMALL)[:, 1]
KEY = jax.random.PRNGKey(0)
TERMS = {"layer": "a", "pixel_weight": 1.0, "feature_weight": 0.1}


def features_fn(images):
    return {"a": images[:, ::2, ::2] * 2.0, "v": jnp.mean(images, axis=(1, 2))}


def decode_fn(features):
    return jnp.clip(jnp.repeat(jnp.repeat(features / 2.0, 2, axis=1), 2, axis=2), 0.0, 1.0)


def attack(name, norm, **options):
    return getattr(attacks, name)(KEY, model.logits_fn, SMALL, LABELS, eps=0.1, norm=norm, **options)


RESULTS = {
    "pgd": lambda: attack("pgd", "l2", num_steps=2, random_start=True, num_restarts=2),
    "fgsm": lambda: attack("fgsm", "linf", noise=1.0),
    "apgd": lambda: attack("apgd", "l2", num_steps=4, num_restarts=2),
    "apgd-l1": lambda: attack("apgd", "l1", num_steps=4, large_radii=True),
    "fab": lambda: attack("fab", "linf", num_steps=2, num_restarts=2, targets=TARGETS),
    "square": lambda: attack("square", "l2", num_queries=3),
    "autoattack": lambda: attack("autoattack", "linf", num_steps=2, num_queries=4, num_targets=1).adversarial,
    "score": lambda: anomaly.attack_scores(
        KEY, lambda x: jnp.sum(x, axis=(1, 2, 3)), SMALL, np.array([0, 1, -1, 0]), eps=0.1, num_steps=2
    ),
    "ssim": lambda: metrics.ssim(IMAGES, OTHERS),
    "psnr": lambda: metrics.psnr(IMAGES.astype(np.float64), OTHERS),
    "lpips": lambda: metrics.lpips(features_fn, IMAGES, OTHERS, layers=("a", "v"), heads=[np.ones(3), np.ones(3)]),
    "gram": lambda: metrics.gram_loss(features_fn, IMAGES, OTHERS, layers=("a",)),
    "geometry": lambda: losses.geometry_weights(np.array([1, 2]), np.ones(2), num_steps=3, kind="tanh", offset=-1.0),
    "trades": lambda: losses.trades_loss(model.logits_fn(SMALL), model.logits_fn(1 - SMALL), LABELS, beta=6.0),
    "search": lambda: (
        anomaly.latent_search(
            KEY, decode_fn, features_fn, IMAGES, latent_shape=(6, 6, 3), num_steps=2, num_restarts=2, **TERMS
        ).scores
    ),
    "neighbors": lambda: anomaly.nearest_neighbor_distances(
        anomaly.feature_rows(IMAGES), OTHERS.reshape(2, -1).astype(np.float64)
    ),
    "heat": lambda: anomaly.heat_maps(features_fn, IMAGES, OTHERS, layer="a").pixel,
    "padded": lambda: enlarging.invert_padded(decode_fn, features_fn, IMAGES, layer="a", multiple=8, edge=2),
    "optimization": lambda: representation_inversion.invert_by_optimization(
        features_fn, IMAGES, features_fn(OTHERS)["a"], layer="a", num_steps=2
    ),
    "wct": lambda: wct.wct(IMAGES, OTHERS, variant="ct", alpha=0.5),
    "style": lambda: transfer.stylize(
        [transfer.Level("a", features_fn, decode_fn)], IMAGES, OTHERS, method="newton_schulz"
    ),
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.long
def test_results_are_the_same_with_x64_and_strict_promotion(name):
    compute = RESULTS[name] if name == "autoattack" else jax.jit(RESULTS[name])
    expected = np.asarray(compute())
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        results = np.asarray(compute())
    assert results.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(results, expected, atol=1e-4)
