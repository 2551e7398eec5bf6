"""What each attack of AutoAttack promises, in each norm: one table, the same checks."""

import functools
from typing import NamedTuple

import attacked_model as model
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from arinv import attacks

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
