"""TRADES, GAIRAT and GAIR-RST against their formulas in NumPy, and the single-step attack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import attacks, losses
from arinv.errors import UserError
from arinv.ops import norms

RNG = np.random.default_rng(0)
NATURAL, NEAR, FAR = RNG.normal(size=(3, 4, 5)).astype(np.float32) * 3
LABELS = np.array([2, 0, 4, -1], np.int32)
MASK = (LABELS >= 0).astype(np.float32)
KAPPA = np.array([0.0, 4.0, 10.0, 0.0], np.float32)


def softmax(logits):
    exp = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def entropy(logits):
    own = softmax(logits)[np.arange(4), np.maximum(LABELS, 0)]
    return -np.log(own) * MASK


def divergence(logits, others):
    p, q = softmax(logits), softmax(others)
    return (p * np.log(p / q)).sum(-1) * MASK


def test_trades_loss_equals_numpy():
    expected = entropy(NATURAL) + 6.0 * divergence(NATURAL, NEAR)
    np.testing.assert_allclose(losses.trades_loss(NATURAL, NEAR, LABELS, beta=6.0), expected, rtol=1e-5, atol=1e-6)


def test_trades_loss_has_gradients_of_both_logits():
    gradients = jax.grad(lambda a, b: losses.trades_loss(a, b, LABELS, beta=6.0).sum(), argnums=(0, 1))(NATURAL, NEAR)
    p, q = softmax(NATURAL), softmax(NEAR)
    np.testing.assert_allclose(gradients[1], 6.0 * (q - p) * MASK[:, None], rtol=1e-4, atol=1e-5)
    slope = p * (np.log(p / q) - (p * np.log(p / q)).sum(-1, keepdims=True))
    one_hot = np.eye(5)[np.maximum(LABELS, 0)]
    np.testing.assert_allclose(gradients[0], (p - one_hot + 6.0 * slope) * MASK[:, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", losses.WEIGHTINGS)
def test_geometry_weights_equals_numpy(kind):
    argument = -1.0 + 5 * (1 - 2 * KAPPA.astype(np.float64) / 10)
    raw = {
        "tanh": (1 + np.tanh(argument)) / 2,
        "sigmoid": 1 / (1 + np.exp(-argument)),
        "discrete": (11 - KAPPA) / 11,
    }[kind] * MASK
    weights = losses.geometry_weights(KAPPA, MASK, num_steps=10, kind=kind, offset=-1.0)
    np.testing.assert_allclose(weights, raw * 3 / raw.sum(), rtol=1e-4, atol=1e-6)
    assert weights[0] > weights[1] > weights[2] and weights[3] == 0
    np.testing.assert_allclose(weights.sum(), 3, rtol=1e-5)


def test_gair_rst_loss_equals_numpy():
    share = (1 + np.tanh(3 + 5 - KAPPA.astype(np.float64))) / 2
    got = losses.divergence_share(KAPPA, num_steps=10, offset=3.0)
    np.testing.assert_allclose(got, share, rtol=1e-5)
    expected = entropy(NATURAL) + 6 * (share * divergence(NATURAL, NEAR) + (1 - share) * divergence(NATURAL, FAR))
    loss = losses.gair_rst_loss(NATURAL, NEAR, FAR, LABELS, got, beta=6.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)


def test_margin_loss_equals_numpy():
    logits = np.array([[1.0, 4.0, 2.0], [60.0, 0.0, 1.0]], np.float32)
    np.testing.assert_allclose(losses.margin_loss(logits, np.array([1, 2])), [-(4 - 2 + 50), 0.0])
    np.testing.assert_allclose(losses.margin_loss(logits, np.array([0, 0]), confidence=0.0), [0.0, -59.0])


@pytest.mark.parametrize("confidence", [np.nan, None, "50", [1.0, 2.0]])
def test_margin_loss_rejects_a_confidence_that_is_no_number(confidence):
    with pytest.raises(UserError, match="^confidence must be a finite number"):
        losses.margin_loss(np.eye(2, dtype=np.float32), np.array([0, 1]), confidence=confidence)


def test_geometry_weights_lists_known_kinds():
    with pytest.raises(UserError, match="discrete, sigmoid, tanh"):
        losses.geometry_weights(KAPPA, MASK, num_steps=10, kind="linear", offset=0.0)


def linear(images):
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(4 * 4 * 3, 5)), jnp.float32)
    return images.reshape(images.shape[0], -1) @ weights


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("options", [{}, {"noise": 1.0, "step_size": 0.125}, {"noise": 2.0, "project": False}])
@pytest.mark.long
def test_fgsm_equals_numpy(key, norm, options):
    images = jax.random.uniform(key, (4, 4, 4, 3))
    attack = jax.jit(lambda key, x: attacks.fgsm(key, linear, x, LABELS, eps=0.1, norm=norm, **options))
    adversarial = attack(key, images)
    np.testing.assert_array_equal(adversarial, attack(key, images))
    np.testing.assert_array_equal(adversarial[3], images[3])
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    sizes = norms.norm(adversarial - images, norm)
    reach = 0.1 if options.get("project", True) else 0.3
    assert (sizes <= reach + 1e-6).all() and (sizes[:3] > 0.02).all()
    before, after = (losses.cross_entropy(linear(x), LABELS) for x in (images, adversarial))
    assert (after[:3] > before[:3]).all()


def test_fgsm_moves_every_pixel_by_eps_along_the_sign():
    images = jnp.full((4, 4, 4, 3), 0.5)
    slope = jax.grad(lambda x: losses.cross_entropy(linear(x), LABELS).sum())(images)
    got = attacks.fgsm(jax.random.key(0), linear, images, LABELS, eps=8 / 255)
    np.testing.assert_allclose(got, images + 8 / 255 * jnp.sign(slope), rtol=1e-6)
    with pytest.raises(UserError, match="noise"):
        attacks.fgsm(jax.random.key(0), linear, images, LABELS, eps=0.1, noise=-1.0)


def test_projected_ascent_counts_the_iterates_it_steps_from(key):
    images = jnp.full((2, 2, 2, 3), 0.5)

    def losses_fn(x):
        level = jnp.mean(x, axis=(1, 2, 3))
        return level, (level < 0.56).astype(jnp.float32)

    options = {"eps": 0.2, "step_size": 0.025, "num_steps": 6, "norm": "linf", "use_best": False}
    x, tallies = attacks.projected_ascent(losses_fn, images, images, has_aux=True, **options)
    np.testing.assert_allclose(x, 0.65, rtol=1e-6)  # from 0.5, 0.525 and 0.55 below the mark, then from 0.575 on above
    np.testing.assert_array_equal(tallies, [3.0, 3.0])


@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "discrete"])
@pytest.mark.parametrize("offset", [-30.0, -3.0, 0.0, 30.0])
def test_geometry_weights_have_mean_1_also_where_all_are_robust(kind, offset):
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])
    for kappa in ([10.0, 10, 10, 10], [0, 0, 0, 0], [10, 10, 9, 3]):
        weights = losses.geometry_weights(jnp.array(kappa), mask, num_steps=10, kind=kind, offset=offset)
        assert float(weights.sum()) == pytest.approx(3.0, rel=1e-5) and weights[3] == 0 and (weights >= 0).all()
    nothing = losses.geometry_weights(jnp.zeros(3), jnp.zeros(3), num_steps=10, kind=kind, offset=offset)
    assert (nothing == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kappa": [12.0, 1]}, "kappa must be numbers of steps from 0 to num_steps=10"),
        ({"kappa": [-1.0, 1]}, "kappa must be numbers of steps from 0"),
        ({"mask": [1.0, 2.0]}, "mask must be True or False"),
        ({"offset": np.nan}, "offset must be a finite number"),
        ({"num_steps": -4}, "num_steps must be at least 1"),
    ],
)
def test_geometry_weights_reject_what_they_cannot_mean(change, message):
    options = {"kappa": [0.0, 1], "mask": [1.0, 1.0], "num_steps": 10, "offset": 0.0, **change}
    kappa, mask = jnp.array(options.pop("kappa")), jnp.array(options.pop("mask"))
    with pytest.raises(UserError, match=message):
        losses.geometry_weights(kappa, mask, kind="tanh", **options)
    if "mask" not in change:
        with pytest.raises(UserError, match=message):
            losses.divergence_share(kappa, **options)


@pytest.mark.parametrize("others", [NEAR[:1], NEAR[:0], NEAR[:, :4]])
def test_logits_of_other_shapes_are_refused(others):
    with pytest.raises(UserError, match=r"must have one shape; got \(4, 5\) and"):
        losses.trades_loss(NATURAL, others, LABELS, beta=6.0)
    with pytest.raises(UserError, match=r"must have one shape; got \(4, 5\) and"):
        losses.gair_rst_loss(NATURAL, NEAR, others, LABELS, np.full(4, 0.5, np.float32), beta=6.0)


@pytest.mark.parametrize("compile_", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_margin_loss_of_padding_is_zero_without_gradient(compile_):
    logits, labels = jnp.array([[1.0, 3.0], [2.0, 0.0]]), np.array([0, -1])
    values = compile_(losses.margin_loss)(logits, labels)
    assert values[0] < 0 and values[1] == 0
    gradient = jax.grad(lambda x: losses.margin_loss(x, labels).sum())(logits)
    assert np.abs(gradient[0]).sum() > 0 and not np.abs(gradient[1]).any()


def test_kl_divergence_ignores_excluded_classes():
    """Classes with logits of -inf in both have probability 0."""
    logits, others = np.array([[0.3, -np.inf, 1.0]], np.float32), np.array([[1.0, -np.inf, 0.2]], np.float32)
    expected = losses.kl_divergence(logits[:, [0, 2]], others[:, [0, 2]])
    np.testing.assert_allclose(losses.kl_divergence(logits, others), expected, rtol=1e-6)
    gradients = jax.grad(lambda *x: losses.kl_divergence(*x).sum(), argnums=(0, 1))(logits, others)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
