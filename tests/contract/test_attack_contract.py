"""What each attack of AutoAttack promises, in each norm: one table, the same checks."""

import functools
from typing import NamedTuple

import attacked_model as model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from arinv import attacks
from arinv.errors import UserError

RANKED = model.ranked(model.images())
REAL = np.arange(model.SHAPE[0]) % 4 != 3
LABELS = np.where(REAL, RANKED[:, 0], -1).astype(np.int32)
RUNNERS_UP = RANKED[:, 1]


class Row(NamedTuple):
    """An attack under test."""

    function: str
    norm: str
    options: dict
    random: bool = True  # depends on the key
    sharded: bool = False  # also run on eight devices, which compiles once more


ATTACKS = {
    "apgd-l1": Row("apgd", "l1", {"num_steps": 10, "large_radii": True}, sharded=True),
    "apgd-l2": Row("apgd", "l2", {"num_steps": 10}),
    "apgd-linf-targeted": Row("apgd", "linf", {"num_steps": 10, "loss": "dlr_targeted", "num_restarts": 2}),
    "fab-l1": Row("fab", "l1", {"num_steps": 10}, random=False),
    "fab-l2": Row("fab", "l2", {"num_steps": 10}, random=False),
    "fab-linf": Row("fab", "linf", {"num_steps": 10}, random=False, sharded=True),
    "square-l1": Row("square", "l1", {"num_queries": 60}),
    "square-l2": Row("square", "l2", {"num_queries": 60}, sharded=True),
    "square-linf": Row("square", "linf", {"num_queries": 60}),
}

each_attack = pytest.mark.parametrize("name", ATTACKS)


@functools.cache
def compiled(name):
    row = ATTACKS[name]
    targeted = row.function == "fab" or row.options.get("loss") == "dlr_targeted"

    def attack(key, x, labels, targets, eps):
        options = row.options | ({"targets": targets} if targeted else {})
        return getattr(attacks, row.function)(key, model.logits_fn, x, labels, eps=eps, norm=row.norm, **options)

    return jax.jit(attack)


def run(name, key, x, labels=LABELS, targets=RUNNERS_UP, eps=None):
    eps = model.EPS[ATTACKS[name].norm] if eps is None else eps
    keys = key if key.shape else jax.random.split(key, len(x))  # one for each row
    return np.asarray(compiled(name)(keys, x, labels, targets, eps))


@each_attack
def test_result_is_nearer_to_another_class_and_inside_ball_and_box(key, name):
    x = model.images()
    found = run(name, key, x)
    assert found.dtype == np.float32 and found.shape == x.shape
    assert np.all((found >= 0) & (found <= 1))
    moved = model.lengths(found.astype(np.float64) - x, ATTACKS[name].norm)
    assert np.all(moved <= model.EPS[ATTACKS[name].norm] + 1e-6)
    np.testing.assert_array_equal(found[~REAL], x[~REAL])
    before, after = (model.margins(images, np.maximum(LABELS, 0))[REAL] for images in (x, found))
    assert np.all(after <= before)
    assert np.sum(after < 0) >= 2  # it is an attack


@each_attack
def test_result_is_a_function_of_the_key(key, name):
    first, again, other = (run(name, k, model.images()) for k in (key, key, jax.random.key(1)))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) != ATTACKS[name].random


@each_attack
def test_eps_zero_is_the_identity(key, name):
    np.testing.assert_array_equal(run(name, key, model.images(), eps=0.0), model.images())


@each_attack
def test_other_images_targets_and_radii_do_not_compile_again(key, name):
    run(name, key, model.images())
    compilations = compiled(name)._cache_size()
    first, second = (run(name, key, model.images(seed=1), targets=RANKED[:, n], eps=0.2) for n in (1, 2))
    assert compiled(name)._cache_size() == compilations
    if name in ("apgd-linf-targeted", "fab-l2"):
        assert np.any(first != second)


@pytest.mark.parametrize("name", [name for name, row in ATTACKS.items() if row.sharded])
def test_same_result_on_one_and_eight_devices(key, name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    x = model.images()
    eps = model.EPS[ATTACKS[name].norm]
    keys = jax.random.split(key, len(x))
    sharded = compiled(name)(*jax.device_put((keys, x, LABELS, RUNNERS_UP), sharding), eps)
    assert sharded.sharding.is_equivalent_to(sharding, sharded.ndim)
    np.testing.assert_allclose(sharded, run(name, key, x), atol=1e-5)


@each_attack
def test_a_row_does_not_depend_on_its_place(key, name):
    keys, order = jax.random.split(key, len(REAL)), np.arange(len(REAL))[::-1].copy()
    x = model.images()
    straight = run(name, keys, x)
    turned = run(name, keys[order], x[order], LABELS[order], RUNNERS_UP[order])
    np.testing.assert_array_equal(turned, straight[order])


def test_autoattack_never_counts_an_image_that_is_not_finite(key):
    """A gradient that is infinite at black; the worst value of this model within the radius is known."""

    def logits_fn(x):
        value = 20 * (jnp.mean(x ** (1 / 2.2), axis=(1, 2, 3)) - 0.5)
        return jnp.stack([value, -value, value * 0 - 50, value * 0 - 60], axis=1)

    x = np.zeros((2, 4, 4, 3), np.float32)
    x[:, :2] = 0.5
    labels, options = np.array([1, 1]), {"eps": 0.01, "num_steps": 5, "num_queries": 5, "num_targets": 1}
    result = attacks.autoattack(key, logits_fn, x, labels, **options)
    assert result.robust.all() and np.isfinite(result.adversarial).all()
    assert any("is not finite" in message for message in result.messages)

    def undefined_fn(x):
        return logits_fn(x) * jnp.where(x[:, :1, 0, 0] > 0.505, jnp.nan, 1.0)

    undefined = attacks.autoattack(key, undefined_fn, x, labels, attacks="square", **options)
    assert not undefined.robust.any() and np.isfinite(undefined.adversarial).all()  # NaN predicts no class


UNDEFINED = {
    "root": lambda x: x ** (1 / 2.2),  # infinite at 0
    "length": lambda x: x + jnp.sqrt(jnp.sum(jnp.square(x - 0.5), axis=(1, 2, 3), keepdims=True)),  # NaN at grey
}


@pytest.mark.parametrize("model_name", UNDEFINED)
@pytest.mark.parametrize("norm", ("l2", "linf"))
def test_an_undefined_gradient_does_not_stop_an_attack(key, norm, model_name):
    """At its start; without random starts too."""

    def logits_fn(x):
        value = 100 * jnp.mean(UNDEFINED[model_name](x), axis=(1, 2, 3))
        limit = 100 * jnp.mean(UNDEFINED[model_name](start), axis=(1, 2, 3)) + 1
        return jnp.stack([limit - value, value - limit], axis=1)

    start = jnp.asarray(np.full((1, 4, 4, 3), {"root": 0.0, "length": 0.5}[model_name], np.float32))
    labels, eps = np.array([0]), {"l2": 1.0, "linf": 0.1}[norm]
    for found in (
        jax.jit(lambda x: attacks.pgd(key, logits_fn, x, labels, eps=eps, num_steps=10, norm=norm))(start),
        jax.jit(lambda x: attacks.apgd(key, logits_fn, x, labels, eps=eps, num_steps=10, norm=norm))(start),
    ):
        assert np.isfinite(found).all() and np.argmax(logits_fn(found), axis=1).tolist() == [1]
    step = attacks.fgsm(key, logits_fn, start, labels, eps=eps, norm=norm)
    assert np.isfinite(step).all() and np.any(step != start)


@pytest.mark.parametrize("norm", ("l2", "linf"))
def test_pgd_follows_gradients_of_any_length(key, norm):
    """The model is so confident that a gradient has a length of 1e-17."""

    def logits_fn(x):
        value = 100 * (jnp.mean(x, axis=(1, 2, 3)) - 0.5)
        return jnp.stack([value, -value], axis=1)

    x, eps = np.full((1, 8, 8, 3), 0.7, np.float32), {"l2": 2.9, "linf": 0.21}[norm]
    found = jax.jit(lambda x: attacks.pgd(key, logits_fn, x, np.array([0]), eps=eps, num_steps=10, norm=norm))(x)
    assert np.argmax(logits_fn(found), axis=1).tolist() == [1]


def test_labels_that_the_model_does_not_have_are_refused(key):
    x, wrong = model.images(2), np.array([0, model.CLASSES], np.int32)
    calls = {
        "pgd": lambda: attacks.pgd(key, model.logits_fn, x, wrong, eps=0.1, num_steps=1),
        "fgsm": lambda: attacks.fgsm(key, model.logits_fn, x, wrong, eps=0.1),
        "apgd": lambda: attacks.apgd(key, model.logits_fn, x, wrong, eps=0.1, num_steps=1),
        "fab": lambda: attacks.fab(key, model.logits_fn, x, wrong * 0, eps=0.1, num_steps=1, targets=wrong),
        "square": lambda: attacks.square(key, model.logits_fn, x, wrong, eps=0.1, num_queries=1),
        "autoattack": lambda: attacks.autoattack(key, model.logits_fn, x, wrong, eps=0.1),
        "margins": lambda: attacks.margins(model.logits_fn, x, wrong, attacks.make_buckets(batch_size=2)),
    }
    for call in calls.values():
        with pytest.raises(UserError, match=r"(labels|targets) go up to 5, and there are 5 classes, 0 to 4"):
            call()


def test_results_keep_to_the_range_where_images_leave_it_by_rounding(key):
    x = model.images(4)
    x[0] = 1 + 1e-7
    labels = np.array([-1, 0, 1, 2])
    for found in (
        attacks.pgd(key, model.logits_fn, x, labels, eps=0.0, num_steps=1),
        attacks.autoattack(key, model.logits_fn, x, labels, eps=0.1, num_steps=1, attacks="apgd-ce").adversarial,
    ):
        assert found.max() <= 1
