"""AutoAttack: rounds, counts and accuracies, independence of batches, resumption and rejected inputs."""

import functools
import itertools

import attacked_model as model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import attacks
from arinv.attacks.autoattack.host_batches import make_buckets, rank
from arinv.attacks.autoattack.standard import count_rounds as rounds_of
from arinv.errors import UserError

COUNT = 22
EPS = 0.03
SMALL = {"num_steps": 6, "num_targets": 2, "num_queries": 30, "queries_per_round": 10}


def logits_fn(x):
    """Of some images the logits are so large that cross-entropy is flat, of some there is no gradient at all."""
    large, flat = (x[:, 0, 0, i : i + 1] > 0.7 for i in range(2))
    logits = model.logits_fn(x)
    logits = jnp.where(flat, jax.lax.stop_gradient(logits), logits)
    return jnp.where(large, 300.0, 1.0) * logits


def classes(x):
    return np.asarray(logits_fn(jnp.asarray(x))).argmax(axis=1).astype(np.int32)


@functools.cache
def batch():
    """Images of which two are padding and two are labeled wrongly."""
    x = model.images(COUNT, seed=3)
    labels = classes(x)
    labels[[2, 3]] = (labels[[2, 3]] + 1) % model.CLASSES
    labels[[5, 21]] = -1
    return x, labels


def run(key, batch_size=4, norm="linf", logits_fn=logits_fn, **options):
    x, labels = batch()
    return attacks.autoattack(
        key, logits_fn, x, labels, norm=norm, batch_size=batch_size, **{"eps": EPS, **SMALL, **options}
    )


@functools.cache
def whole():
    """An uninterrupted run, and how its robust accuracy went."""
    seen = []
    return run(jax.random.key(0), on_progress=seen.append), seen


def same(one, other):
    np.testing.assert_array_equal(one.robust, other.robust)
    np.testing.assert_array_equal(one.adversarial, other.adversarial)
    np.testing.assert_array_equal(one.predictions, other.predictions)
    for name, record in one.per_attack.items():
        assert record.robust_accuracy == other.per_attack[name].robust_accuracy


@pytest.mark.long
def test_autoattack_returns_misclassified_images_within_the_radius_and_others_unchanged():
    (x, labels), (result, _) = batch(), whole()
    clean = (classes(x) == labels) & (labels >= 0)
    np.testing.assert_array_equal(result.clean, clean)
    assert not np.any(result.robust & ~clean)
    broken = clean & ~result.robust
    assert 4 <= broken.sum() < clean.sum()  # or the test would say little
    predictions = classes(result.adversarial)
    np.testing.assert_array_equal(result.predictions, predictions)
    assert np.all(predictions[broken] != labels[broken])
    np.testing.assert_array_equal(result.adversarial[~broken], x[~broken])
    assert np.all(model.lengths(result.adversarial - x, "linf") <= EPS + 1e-6)
    assert np.all((result.adversarial >= 0) & (result.adversarial <= 1))


def test_autoattack_accuracies_count_real_images_and_fall_from_attack_to_attack():
    (_, labels), (result, _) = batch(), whole()
    real = np.sum(labels >= 0)
    assert list(result.per_attack) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    accuracies = [record.robust_accuracy for record in result.per_attack.values()]
    assert result.clean_accuracy == result.clean.sum() / real == (real - 2) / real
    assert result.robust_accuracy == result.robust.sum() / real == accuracies[-1]
    assert result.clean_accuracy > accuracies[0] and accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[1] >= accuracies[2] > accuracies[3]  # each but FAB finds what others did not
    assert all(record.seconds > 0 for record in result.per_attack.values())
    assert f"robust {result.robust_accuracy:.1%} (after apgd-ce {accuracies[0]:.1%}, " in repr(result)
    assert "array" not in repr(result)


def test_autoattack_round_attacks_the_survivors_of_the_one_before():
    result, seen = whole()
    rounds = {"apgd-ce": 1, "apgd-t": 2, "fab-t": 2, "square": 3}
    assert list(dict.fromkeys((p.attack, p.round, p.rounds) for p in seen)) == [
        (name, i + 1, count) for name, count in rounds.items() for i in range(count)
    ]
    standing = result.clean.sum()
    for place, progress in enumerate(seen):
        first = place == 0 or (progress.attack, progress.round) != (seen[place - 1].attack, seen[place - 1].round)
        if first:
            assert progress.total == standing
        if progress.done == progress.total:
            standing = round(progress.robust_accuracy * np.sum(batch()[1] >= 0))
    assert standing == result.robust.sum()


def test_progress_passes_left_fall_to_zero():
    result, seen = whole()
    totals = [progress.passes + progress.passes_left for progress in seen]
    assert all(progress.passes_left >= 0 for progress in seen) and seen[-1].passes_left == 0
    assert all(b.passes > a.passes for a, b in itertools.pairwise(seen))
    assert totals[0] > totals[-1] == sum(r.forward_passes + r.backward_passes for r in result.per_attack.values())


def test_autoattack_counts_passes_through_the_model():
    result, seen = whole()
    records = result.per_attack
    rows = {name: 4 * sum(progress.attack == name for progress in seen) for name in records}  # padding included
    for name in ("apgd-ce", "apgd-t"):  # 6 steps, the start, and the count of what is broken
        assert (records[name].forward_passes, records[name].backward_passes) == (8 * rows[name], 7 * rows[name])
    assert (records["fab-t"].forward_passes, records["fab-t"].backward_passes) == (
        13 * rows["fab-t"],
        6 * rows["fab-t"],
    )
    assert records["square"].backward_passes == 0
    assert records["square"].forward_passes <= 12 * rows["square"]


@pytest.mark.long
def test_autoattack_does_not_depend_on_batches(key):
    """Two attacks are enough: each compiles once more."""
    some = {"attacks": ("apgd-ce", "square")}
    same(run(key, batch_size=16, smallest_batch=16, **some), run(key, **some))


class Interrupted(Exception):
    """Raised in the place of a kill."""


def test_autoattack_resumes_to_the_same_result(key, tmp_path):
    """Cut short after every third save, in each of the attacks, and continued from the file."""
    path, cuts, count = tmp_path / "state.npz", [], 0

    def save(state):
        nonlocal count
        np.savez(path, **state.to_arrays())
        count += 1
        if count % 3 == 0:
            cuts.append((state.attack, state.round, state.position))
            raise Interrupted

    result = None
    while result is None:
        state = None
        if path.exists():
            with np.load(path) as arrays:
                state = attacks.AutoAttackState.from_arrays(arrays)
        try:
            result = run(key, save=save, state=state)
        except Interrupted:
            pass
    assert {attack for attack, _, _ in cuts} >= {0, 1, 2, 3}
    assert any(attack == 3 and position for attack, _, position in cuts)
    same(result, whole()[0])


def test_groups_of_images_have_the_same_result_and_stop_when_that_is_enough(key):
    asked = []

    def enough(robust, count):
        asked.append((robust, count))
        return count >= 12

    (_, labels), (expected, _) = batch(), whole()
    result = run(key, should_stop=lambda robust, count: False, group_size=8)
    same(result, expected)
    first = run(key, should_stop=enough, group_size=8)
    assert len(first.robust) == len(first.adversarial) == len(first.predictions) == len(first.clean) == 16
    np.testing.assert_array_equal(first.robust, expected.robust[:16])
    np.testing.assert_array_equal(first.adversarial, expected.adversarial[:16])
    counts = [int(np.sum(labels[:stop] >= 0)) for stop in (8, 16)]
    assert asked == [(expected.robust[:stop].sum(), count) for stop, count in zip((8, 16), counts, strict=True)]
    assert first.robust_accuracy == asked[-1][0] / counts[1]
    assert first.clean_accuracy == expected.clean[:16].sum() / counts[1]
    accuracies = [record.robust_accuracy for record in first.per_attack.values()]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[-1] == first.robust_accuracy


def test_groups_resume_to_the_same_result(key):
    saved, stop = [], {"should_stop": lambda robust, count: count >= 12, "group_size": 8}
    expected = run(key, save=lambda state: saved.append(state.copy()), **stop)
    second = [state for state in saved if state.group == 1]
    for state in (saved[5], second[0], second[-1]):
        same(run(key, state=state, **stop), expected)
    with pytest.raises(UserError, match="has group_size 8, this run 22"):
        run(key, state=saved[0])


def test_autoattack_returns_the_result_of_a_finished_state(key):
    saved, seen = [], []
    run(key, save=lambda state: saved.append(state.copy()))
    same(run(key, state=saved[-1], on_progress=seen.append), whole()[0])
    assert not seen


def test_autoattack_rejects_a_state_of_another_run(key):
    saved = []
    run(key, attacks=("apgd-ce",), save=lambda state: saved.append(state.copy()))
    with pytest.raises(UserError, match="has eps 0.03, this run 0.01"):
        run(key, attacks=("apgd-ce",), eps=0.01, state=saved[0])
    with pytest.raises(UserError, match="has key"):
        run(jax.random.key(1), attacks=("apgd-ce",), state=saved[0])
    with pytest.raises(UserError, match="is of another model"):
        run(key, attacks=("apgd-ce",), state=saved[0], logits_fn=lambda x: -logits_fn(x))
    with pytest.raises(UserError, match="not a state of AutoAttack: settings"):
        attacks.AutoAttackState.from_arrays({"robust": np.ones(3)})


@pytest.mark.long
def test_autoattack_passes_weights_as_arguments_and_compiles_once(key):
    traced = []

    def scaled(scale, x):
        traced.append(1)
        return scale * logits_fn(x)

    def evaluate(scale):
        logits_fn = jax.tree_util.Partial(scaled, np.float32(scale))
        return run(key, attacks=("apgd-ce",), logits_fn=logits_fn)

    first = evaluate(1.0)
    again = len(traced)
    second = evaluate(-1.0)
    assert first.clean_accuracy > 0.5 > second.clean_accuracy
    # The shape of the logits, and the checks, which trace on purpose; but not the attack.
    assert len(traced) - again < again


@pytest.mark.long
def test_autoattack_splits_batches_over_devices(key):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def place(host_batch):
        assert all(isinstance(value, np.ndarray) and len(value) == 8 for value in host_batch.values())
        return jax.device_put(dict(host_batch), sharding)

    split = run(key, attacks=("apgd-ce",), batch_size=8, smallest_batch=8, place=place)
    alone = run(key, attacks=("apgd-ce",))
    np.testing.assert_array_equal(split.robust, alone.robust)
    np.testing.assert_allclose(split.adversarial, alone.adversarial, atol=1e-5)


def test_autoattack_at_radius_zero_keeps_the_clean_accuracy(key):
    result = run(key, eps=0.0)
    np.testing.assert_array_equal(result.robust, result.clean)
    np.testing.assert_array_equal(result.adversarial, batch()[0])


def test_autoattack_messages_name_reasons_to_doubt_the_accuracy():
    messages = whole()[0].messages
    assert len(messages) == 2
    assert "is exactly zero" in messages[0] and "the Square Attack lowered the robust accuracy" in messages[1]


@pytest.mark.parametrize(
    "norm, num_classes, rounds",
    [("linf", 10, [1, 9, 9, 10]), ("l2", 1000, [1, 9, 9, 10]), ("l1", 10, [5, 5, 9, 10]), ("linf", 5, [1, 4, 4, 10])],
)
def test_count_rounds_of_the_standard_version(norm, num_classes, rounds):
    """Restarts, targets, targets, and pieces of 500 queries."""
    counts = rounds_of(attacks.AUTOATTACK, norm=norm, num_classes=num_classes, num_targets=9, pieces=10)
    assert list(counts.values()) == rounds


@pytest.mark.parametrize("batch_size, sizes", [(64, (64, 32, 16, 8)), (20, (20, 10)), (6, (6,)), (1, (1,))])
def test_make_buckets_halves_the_batch_size(batch_size, sizes, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    buckets = make_buckets(batch_size=batch_size)
    assert buckets.sizes == sizes
    for count in range(1, 3 * batch_size):
        left, rows = count, 0
        while left > 0:
            rows += buckets.size(left)
            left -= min(left, buckets.size(left))
        assert rows - count < max(sizes[-1], 0.5 * count)  # little padding
    assert make_buckets(batch_size=64).size(33 + 64) == 64
    assert [make_buckets(batch_size=64).size(n) for n in (64, 63, 40, 33, 9, 1)] == [64, 64, 32, 32, 16, 8]


@pytest.mark.parametrize(
    "batch_size, devices, sizes",
    [(200, 8, (200,)), (48, 8, (48, 24)), (128, 8, (128, 64, 32, 16, 8)), (48, 6, (48, 24, 12)), (32, 16, (32, 16))],
)
def test_make_buckets_sizes_are_multiples_of_the_devices(batch_size, devices, sizes, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert make_buckets(batch_size=batch_size, multiple_of=devices).sizes == sizes


@pytest.mark.parametrize(
    "options, sizes",
    [
        ({}, (16, 8)),
        ({"multiple_of": 8}, (128, 64, 32, 16, 8)),
        ({"smallest_batch": 64}, (64,)),
        ({"batch_size": 12}, (12,)),
    ],
)
def test_make_buckets_have_at_most_16_rows_on_each_cpu(options, sizes):
    assert make_buckets(**{"batch_size": 256, **options}).sizes == sizes


def test_small_batches_are_compiled_for_long_attacks_only(monkeypatch):
    """One image among 8 rows wastes 7, which pays for a program of its own where each row takes long."""
    buckets = make_buckets(batch_size=16)
    assert [buckets.size(n, passes=5000) for n in (65, 16, 9, 8, 7, 4, 2, 1)] == [16, 16, 8, 8, 8, 4, 2, 1]
    assert [buckets.size(n, passes=200) for n in (65, 9, 5, 1)] == [16, 16, 8, 8]
    assert [buckets.size(n, passes=1800) for n in (2, 3, 4)] == [2, 8, 8], "two programs for 3"
    assert make_buckets(batch_size=16, multiple_of=2).size(3, passes=5000) == 4
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert make_buckets(batch_size=16).size(1, passes=5000) == 8


@pytest.mark.long
def test_autoattack_batch_sizes_are_multiples_of_the_devices(key):
    """24 is three times the 8 devices, 12 is no multiple of them: the rest of 22 images stays in a batch of 24."""
    sizes = []

    def place(host_batch):
        sizes.append(len(host_batch["image"]))
        return jax.tree.map(jnp.asarray, dict(host_batch))

    some = {"attacks": ("apgd-ce",), "num_steps": 1, "batch_size": 24}
    run(key, place=place, multiple_of=8, **some)
    assert set(sizes) == {24}
    with pytest.raises(UserError, match="batch_size 24 is not a multiple of multiple_of 16; use 16"):
        run(key, multiple_of=16, **some)


def test_autoattack_counts_nan_logits_as_wrong(key):
    """As in metrics.correct: the first NaN is the largest logit to top_k, which would be class 0."""
    x, labels = batch()
    x, labels = x[:6], np.where(np.arange(6) == 5, -1, 0)

    def some_nan(x):
        logits = jnp.zeros((x.shape[0], model.CLASSES)).at[:, 0].set(jnp.where(x[:, 0, 0, 2] > 0.5, jnp.inf, 1.0))
        return jnp.where(x[:, 0, 0, :1] > 0.5, logits.at[:, 3].set(jnp.nan).at[:, 0].set(jnp.nan), logits)

    x[:, 0, 0, 0] = [0.9, 0.9, 0.1, 0.1, 0.9, 0.9]
    expected = [False, False, True, True, False, False]
    buckets = make_buckets(batch_size=8)
    classes_of = rank(jax.tree_util.Partial(some_nan), x, buckets, count=2)
    np.testing.assert_array_equal(classes_of[:, 0], [-1, -1, 0, 0, -1, -1])
    again = attacks.reclassify(some_nan, x, x, labels, eps=EPS, norm="linf", buckets=buckets)
    np.testing.assert_array_equal(again.correct, expected)
    np.testing.assert_array_equal(again.correct_8bit, expected)
    options = {"eps": 0.0, "attacks": ("square",), "num_queries": 1, "batch_size": 8}
    result = attacks.autoattack(key, some_nan, x, labels, **options)
    np.testing.assert_array_equal(result.clean, expected)
    np.testing.assert_array_equal(result.robust, expected)


def test_autoattack_counts_nan_under_attack_as_broken(key):
    x, _ = batch()
    x = np.round(x[:4] * 255) / np.float32(255)

    def only_of_levels(x):
        off = jnp.max(jnp.abs(x * 255 - jnp.round(x * 255)), axis=(1, 2, 3)) > 0.01
        logits = jnp.zeros((x.shape[0], model.CLASSES)).at[:, 0].set(1.0)
        return jnp.where(off[:, None], jnp.nan, logits)

    options = {"attacks": ("apgd-ce",), "num_steps": 1, "batch_size": 4}
    result = attacks.autoattack(key, only_of_levels, x, np.zeros(4, np.int32), eps=EPS, **options)
    assert result.clean.all() and not result.robust.any()


@pytest.mark.long
def test_autoattack_accepts_legacy_keys_and_a_single_name(key):
    some = {"num_steps": 1, "attacks": ("apgd-ce",)}
    same(run(jax.random.PRNGKey(0), **some | {"attacks": "apgd-ce"}), run(key, **some))
    with pytest.raises(UserError, match=r"key must be a PRNG key such as jax.random.key\(0\); got int32"):
        run(0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eps": -0.1}, "eps must be finite and at least 0; got -0.1"),
        ({"norm": "l7"}, "unknown norm 'l7'; known: l1, l2, linf"),
        ({"attacks": ("pgd",)}, "unknown attack 'pgd'; known: apgd-ce, apgd-t, fab-t, square"),
        ({"num_queries": 0}, "num_queries must be at least 1; got 0: to skip an attack, use `attacks`"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"attacks": []}, "attacks must be one or more of apgd-ce, apgd-t, fab-t, square; got []"),
        ({"attacks": None}, "attacks must be one or more of apgd-ce, apgd-t, fab-t, square; got None"),
        ({"logits_fn": lambda x: np.asarray(logits_fn(np.asarray(x)))}, "logits_fn cannot be traced by JAX"),
        (
            {"logits_fn": lambda x: logits_fn(x)[:, :3]},
            "needs 4 classes, the model has 3; leave it out: attacks=('apgd-ce', 'fab-t', 'square')",
        ),
        ({"logits_fn": lambda x: logits_fn(x)[:, :1]}, "needs a model of at least 2 classes, this one has 1"),
        (
            {"logits_fn": lambda x: logits_fn(x)[:, :1], "attacks": ("fab-t",)},
            "needs a model of at least 2 classes, this one has 1",
        ),
    ],
)
def test_autoattack_rejects_invalid_options(key, options, message):
    with pytest.raises(UserError) as error:
        run(key, **options)
    assert message in str(error.value)


def test_autoattack_rejects_invalid_images_and_labels(key):
    x, labels = batch()
    with pytest.raises(UserError, match="images"):
        attacks.autoattack(key, logits_fn, x * 255, labels, eps=EPS)
    with pytest.raises(UserError, match="labels must be integers, one per image"):
        attacks.autoattack(key, logits_fn, x, labels[1:], eps=EPS)
    with pytest.raises(UserError, match="no image to attack: all 22 labels are -1"):
        attacks.autoattack(key, logits_fn, x, np.full(COUNT, -1), eps=EPS)
