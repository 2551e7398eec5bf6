"""PGD: its contract under all options, steps by hand, best iterates, targets, restarts and losses."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from arinv import attacks
from arinv.errors import UserError

SHAPE = (8, 6, 6, 3)
CLASSES = 5
LABELS = np.array([0, 1, 2, 3, -1, 0, 1, -1], np.int32)
REAL = LABELS >= 0


class Row(NamedTuple):
    """PGD with options: (key, logits_fn, images, labels, eps=...) -> adversarial images."""

    attack: Callable
    norm: str
    eps: float
    random: bool  # depends on the key
    raises_loss: bool  # never returns less than the clean cross-entropy


def _pgd(**options):
    return functools.partial(attacks.pgd, num_steps=5, **options)


ATTACKS = {
    "pgd-l2": Row(_pgd(norm="l2"), "l2", 0.5, False, True),
    "pgd-linf": Row(_pgd(norm="linf"), "linf", 8 / 255, False, True),
    "pgd-l2-random": Row(_pgd(norm="l2", random_start=True), "l2", 0.5, True, False),
    "pgd-linf-random": Row(_pgd(norm="linf", random_start=True), "linf", 8 / 255, True, False),
    "pgd-l2-last": Row(_pgd(norm="l2", use_best=False, step_size=0.4), "l2", 0.5, False, False),
    "pgd-linf-restarts": Row(_pgd(norm="linf", random_start=True, num_restarts=3), "linf", 0.1, True, False),
    "pgd-l2-targeted": Row(_pgd(norm="l2", targets=np.full(8, 4, np.int32)), "l2", 2.0, False, False),
}
ORDERS = {"l2": 2, "linf": np.inf}

each_attack = pytest.mark.parametrize("row", ATTACKS.values(), ids=ATTACKS)
raising_attacks = {name: row for name, row in ATTACKS.items() if row.raises_loss}


def logits_fn(x):
    """A small smooth network with fixed weights."""
    rng = np.random.default_rng(7)
    hidden = rng.standard_normal((6 * 6 * 3, 16)).astype(np.float32) * 0.3
    out = rng.standard_normal((16, CLASSES)).astype(np.float32)
    return jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ hidden) @ out


def batch(seed=0):
    """Images that touch both ends of the range, so that the box matters as well as the ball."""
    x = np.random.default_rng(seed).random(SHAPE, dtype=np.float32)
    return np.clip(1.4 * x - 0.2, 0, 1).astype(np.float32)


def losses_of(x, labels=LABELS):
    log_probabilities = jax.nn.log_softmax(logits_fn(jnp.asarray(x)))
    return -np.asarray(log_probabilities)[np.arange(len(x)), labels]


def lengths(delta, norm):
    rows = np.asarray(delta, np.float64).reshape(len(delta), -1)
    return np.linalg.norm(rows, ord=ORDERS[norm], axis=1)


def name_of(row):
    return next(name for name, other in ATTACKS.items() if other is row)


@functools.cache
def compiled(name):
    attack = ATTACKS[name].attack
    return jax.jit(lambda key, x, labels, eps: attack(key, logits_fn, x, labels, eps=eps))


def run(row, key, x, labels=LABELS, eps=None):
    eps = row.eps if eps is None else eps
    return np.asarray(compiled(name_of(row))(key, x, labels, eps))


@each_attack
@pytest.mark.long
def test_pgd_stays_in_ball_and_box(key, row):
    x = batch()
    adversarial = run(row, key, x)
    assert adversarial.dtype == np.float32 and adversarial.shape == SHAPE
    assert np.all((adversarial >= 0) & (adversarial <= 1))
    moved = lengths(adversarial.astype(np.float64) - x, row.norm)
    assert np.all(moved <= row.eps + 1e-6)
    assert np.all(moved[REAL] > 0.1 * row.eps)  # it is an attack


@each_attack
def test_pgd_returns_padding_unchanged(key, row):
    x = batch()
    np.testing.assert_array_equal(run(row, key, x)[~REAL], x[~REAL])


@each_attack
def test_pgd_rows_do_not_depend_on_padding(key, row):
    x = batch()
    other = np.where(REAL[:, None, None, None], x, 0.5).astype(np.float32)
    np.testing.assert_array_equal(run(row, key, x)[REAL], run(row, key, other)[REAL])


@each_attack
def test_pgd_is_a_function_of_the_key(key, row):
    x = batch()
    first, again, other = (run(row, k, x) for k in (key, key, jax.random.key(1)))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) != row.random


@each_attack
def test_pgd_with_eps_zero_returns_the_images(key, row):
    x = batch()
    np.testing.assert_array_equal(run(row, key, x, eps=0.0), x)


@each_attack
@pytest.mark.long
def test_pgd_is_the_same_on_one_and_eight_devices(key, row):
    x = batch()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    sharded = compiled(name_of(row))(key, *jax.device_put((x, LABELS), sharding), row.eps)
    assert sharded.sharding.is_equivalent_to(sharding, sharded.ndim)
    np.testing.assert_allclose(sharded, run(row, key, x), atol=1e-5)


@each_attack
def test_pgd_does_not_compile_again_for_a_second_batch(key, row):
    first = run(row, key, batch(0))
    compilations = compiled(name_of(row))._cache_size()
    second = run(row, jax.random.key(1), batch(1), LABELS[::-1].copy())
    assert np.any(first != second)
    assert compiled(name_of(row))._cache_size() == compilations


@pytest.mark.parametrize("row", raising_attacks.values(), ids=raising_attacks)
def test_pgd_loss_is_not_below_the_clean_one(key, row):
    x = batch()
    clean, attacked = losses_of(x)[REAL], losses_of(run(row, key, x))[REAL]
    assert np.all(attacked > clean)


def pgd(key, x, labels, model=logits_fn, **options):
    """PGD, compiled: eagerly every operation would compile by itself."""
    attack = jax.jit(lambda key, x, labels: attacks.pgd(key, model, x, labels, **options))
    return np.asarray(attack(key, x, labels))


@pytest.mark.parametrize("norm", ("l2", "linf"))
@pytest.mark.long
def test_pgd_two_steps_on_a_linear_model_by_hand(key, norm):
    """Madry et al. 2018, section 2.1, in NumPy; the third step meets the ball and the box."""
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((12, 3)).astype(np.float32)
    x = rng.uniform(0.0, 0.9, (4, 2, 2, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0], np.int32)
    eps, step_size = {"l2": (0.5, 0.3), "linf": (0.1, 0.07)}[norm]

    def expected(num_steps):
        start = x.astype(np.float64).reshape(4, 12)
        current = start.copy()
        for _ in range(num_steps):
            scores = np.exp(current @ weights)
            residual = scores / scores.sum(1, keepdims=True) - np.eye(3)[labels]
            gradient = residual @ weights.T
            if norm == "l2":
                current += step_size * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
                delta = current - start
                length = np.linalg.norm(delta, axis=1, keepdims=True)
                delta *= np.minimum(1, eps / length)
            else:
                current += step_size * np.sign(gradient)
                delta = np.clip(current - start, -eps, eps)
            current = np.clip(start + delta, 0, 1)
        return current.reshape(x.shape)

    # The loss of a linear model rises at every step: the best iterate is the last.
    for num_steps, use_best in ((1, False), (2, False), (2, True), (3, True)):
        options = {"num_steps": num_steps, "use_best": use_best, "norm": norm}
        adversarial = pgd(
            key, x, labels, model=lambda z: z.reshape(4, 12) @ weights, eps=eps,
            step_size=step_size, **options,
        )  # fmt: skip
        np.testing.assert_allclose(adversarial, expected(num_steps), atol=2e-6)
    assert np.any(expected(3) == 0) or np.any(expected(3) == 1)  # the box was met


@pytest.mark.parametrize(
    "peak, num_steps, best, last",
    [(0.52, 1, 0.5, 0.7), (0.72, 2, 0.7, 0.9), (0.72, 1, 0.7, 0.7), (0.95, 2, 0.9, 0.9)],
    ids=["best is the first", "best is between", "best is the last", "never overshoots"],
)
def test_pgd_use_best_returns_the_worst_iterate(peak, num_steps, best, last):
    """Steps of 0.2 from 0.5 towards a loss that is highest at `peak`."""
    x = jnp.full((2, 1, 1, 1), 0.5)
    adversarial = [
        attacks.projected_ascent(
            lambda z: -jnp.square(z - peak).sum((1, 2, 3)), x, x, eps=0.4, step_size=0.2,
            num_steps=num_steps, norm="linf", use_best=use_best,
        )
        for use_best in (True, False)
    ]  # fmt: skip
    np.testing.assert_allclose(adversarial[0], np.full((2, 1, 1, 1), best), atol=1e-6)
    np.testing.assert_allclose(adversarial[1], np.full((2, 1, 1, 1), last), atol=1e-6)


def test_projected_ascent_takes_the_default_step():
    """Towards a loss that is highest between two steps, the end depends on their length."""
    x = jnp.full((2, 1, 1, 1), 0.5)
    options = {"eps": jnp.array([0.3, 0.4]), "num_steps": 7, "norm": "linf", "use_best": False}
    ends = [
        attacks.projected_ascent(
            lambda z: -jnp.square(z - 0.63).sum((1, 2, 3)), x, x, step_size=step_size, **options
        )
        for step_size in (None, attacks.default_step_size(options["eps"], num_steps=7), 2.5 * np.array([0.3, 0.4]) / 7)
    ]  # fmt: skip
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_allclose(ends[0], ends[2], rtol=1e-6)


def test_pgd_use_best_chooses_per_example():
    peaks = jnp.array([0.52, 0.95])
    x = jnp.full((2, 1, 1, 1), 0.5)
    adversarial = attacks.projected_ascent(
        lambda z: -jnp.square(z[:, 0, 0, 0] - peaks), x, x, eps=0.4, step_size=0.2, num_steps=1,
        norm="linf", use_best=True,
    )  # fmt: skip
    np.testing.assert_allclose(adversarial[:, 0, 0, 0], [0.5, 0.7], atol=1e-6)


@pytest.mark.parametrize("use_best", (False, True))
@pytest.mark.long
def test_pgd_step_costs_one_evaluation(key, use_best):
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return logits_fn(x)

    attacks.pgd(key, counted, batch(), LABELS, eps=0.5, num_steps=7, use_best=use_best)
    jax.effects_barrier()
    assert len(calls) == 7 + use_best


def test_pgd_approaches_targets(key):
    x, targets = batch(), np.full(8, 4, np.int32)
    adversarial = pgd(key, x, LABELS, eps=1.0, num_steps=10, targets=targets)
    assert np.all(losses_of(adversarial, targets)[REAL] < losses_of(x, targets)[REAL])
    np.testing.assert_array_equal(adversarial[~REAL], x[~REAL])
    padded = np.where(np.arange(8) == 0, -1, targets)
    np.testing.assert_array_equal(pgd(key, x, LABELS, eps=1.0, num_steps=2, targets=padded)[0], x[0])


@pytest.mark.parametrize("targeted", (False, True))
@pytest.mark.long
def test_pgd_restarts_keep_the_first_success_and_add_others(targeted):
    key, labels = jax.random.key(5), np.asarray(logits_fn(batch())).argmax(1).astype(np.int32)
    targets = ((labels + 1) % CLASSES).astype(np.int32)
    options = {"eps": 0.9, "num_steps": 1, "step_size": 0.3, "random_start": True}
    options["targets"] = targets if targeted else None

    def success(x):
        predictions = np.asarray(logits_fn(x)).argmax(1)
        return predictions == targets if targeted else predictions != labels

    once = pgd(key, batch(), labels, **options)
    often = pgd(key, batch(), labels, num_restarts=20, **options)
    kept = success(once) | ~success(often)  # succeeded at once, or never did
    np.testing.assert_array_equal(often[kept], once[kept])
    assert np.any(~kept)  # some needed another start
    assert np.all(success(often) >= success(once))


def test_pgd_accepts_a_traced_radius_per_example(key):
    x = batch()
    eps = np.linspace(0, 1, 8, dtype=np.float32)
    attack = jax.jit(lambda e: attacks.pgd(key, logits_fn, x, LABELS, eps=e, num_steps=3))
    adversarial = attack(eps)
    for i in np.flatnonzero(REAL):
        alike = attack(np.full(8, eps[i]))
        np.testing.assert_allclose(adversarial[i], alike[i], atol=1e-5)
    assert attack._cache_size() == 1  # a warm-up of eps does not compile again
    number = pgd(key, x, LABELS, eps=float(eps[5]), num_steps=3)
    np.testing.assert_allclose(adversarial[5], number[5], atol=1e-5)


def test_pgd_default_step_is_two_and_a_half_radii_over_the_steps(key):
    adversarial = pgd(key, batch(), LABELS, eps=0.5, num_steps=5)
    explicit = pgd(key, batch(), LABELS, eps=0.5, num_steps=5, step_size=0.25)
    np.testing.assert_allclose(adversarial, explicit, atol=1e-6)


def test_default_step_size_rejects_other_values():
    for num_steps in (0, -1, 2.5):
        with pytest.raises(UserError, match="^num_steps must be "):
            attacks.default_step_size(0.1, num_steps=num_steps)
    with pytest.raises(UserError, match="^eps must be an array of numbers"):
        attacks.default_step_size("8/255", num_steps=5)
    np.testing.assert_allclose(attacks.default_step_size([0.1, 0.2], num_steps=5), [0.05, 0.1])


def test_pgd_raises_another_loss_that_ignores_padding(key):
    seen = []

    def margin(logits, labels):
        jax.debug.callback(lambda labels: seen.append(np.asarray(labels)), labels)
        return -jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

    x = batch()
    adversarial = pgd(key, x, LABELS, eps=0.5, num_steps=5, loss_fn=margin)
    jax.effects_barrier()
    own = np.arange(8), np.maximum(LABELS, 0)
    np.testing.assert_array_equal(seen, [own[1]] * 6)  # 0 in place of -1, which would wrap around
    assert np.all(np.asarray(logits_fn(adversarial))[own][REAL] < np.asarray(logits_fn(x))[own][REAL])
    np.testing.assert_array_equal(adversarial[~REAL], x[~REAL])


def test_pgd_attacks_bfloat16_logits_in_float32(key):
    def bfloat16_logits(x):
        return logits_fn(x).astype(jnp.bfloat16)

    x = batch()
    adversarial = attacks.pgd(key, bfloat16_logits, x, LABELS, eps=0.5, num_steps=5)
    assert adversarial.dtype == jnp.float32
    assert np.all(losses_of(adversarial)[REAL] > losses_of(x)[REAL])


@pytest.mark.long
def test_pgd_result_has_no_gradient(key):
    def total(scale):
        def scaled(x):
            return scale * logits_fn(x)

        return attacks.pgd(key, scaled, batch(), LABELS, eps=0.5, num_steps=2).sum()

    assert jax.grad(total)(1.5) == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eps": -0.1}, "eps must be finite and at least 0; got -0.1"),
        ({"step_size": -1.0}, "step_size must be finite and at least 0"),
        ({"norm": "l1"}, 'steepest ascent is for l2 and linf; got "l1": use APGD'),
        ({"norm": "l7"}, "unknown norm 'l7'; known: l1, l2, linf"),
        ({"num_steps": 0}, "num_steps must be at least 1; got 0"),
        ({"num_restarts": 0}, "num_restarts must be at least 1"),
        ({"num_restarts": 2}, "needs random_start=True"),
        ({"loss_fn": "ce"}, "loss_fn must be a function of logits and labels; got str"),
        ({"loss_fn": lambda z, y: z.mean()}, "one number per example (8,); got ()"),
        ({"targets": np.zeros(3, np.int32)}, "targets must be integers, one per image (8,)"),
    ],
)
def test_pgd_rejects_invalid_options(key, options, message):
    with pytest.raises(UserError) as error:
        attacks.pgd(key, logits_fn, batch(), LABELS, **{"eps": 0.5, "num_steps": 1, **options})
    assert message in str(error.value)


def test_pgd_rejects_invalid_images_and_labels(key):
    options = {"eps": 0.5, "num_steps": 1}
    with pytest.raises(UserError, match="images"):
        attacks.pgd(key, logits_fn, batch() * 255, LABELS, **options)
    with pytest.raises(UserError, match="labels must be integers, one per image"):
        attacks.pgd(key, logits_fn, batch(), np.eye(8, CLASSES), **options)
