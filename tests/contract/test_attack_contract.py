"""The contract of attacks: every row of the table, and an attack that a user adds, pass the same checks."""

import functools
import json
from typing import NamedTuple

import attacked_model as model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from arinv import attacks, main
from arinv.apps.evaluation import evaluate
from arinv.attacks.objectives import margin
from arinv.errors import UserError
from arinv.experiment.fields import attack_options
from configs import evaluate as evaluate_config

RANKED = model.ranked(model.images())
REAL = np.arange(model.SHAPE[0]) % 4 != 3
LABELS = np.where(REAL, RANKED[:, 0], -1).astype(np.int32)
RUNNERS_UP = RANKED[:, 1]


class Row(NamedTuple):
    """An attack under test, with options."""

    attack: str  # a key of attacks.ATTACKS
    norm: str
    options: dict
    random: bool = True  # depends on the key
    targeted: bool = False  # takes targets
    keys: bool = True  # takes a key for each row
    sharded: bool = False  # also run on eight devices, which compiles once more


ROWS = {
    "apgd-l1": Row("apgd", "l1", {"num_steps": 10, "large_radii": True}, sharded=True),
    "apgd-l2": Row("apgd", "l2", {"num_steps": 10}),
    "apgd-linf": Row("apgd", "linf", {"num_steps": 10, "loss": "dlr_targeted", "num_restarts": 2}, targeted=True),
    "fab-l1": Row("fab", "l1", {"num_steps": 10}, random=False, targeted=True),
    "fab-l2": Row("fab", "l2", {"num_steps": 10}, random=False, targeted=True),
    "fab-linf": Row("fab", "linf", {"num_steps": 10}, random=False, targeted=True, sharded=True),
    "fgsm-l2": Row("fgsm", "l2", {}, random=False, keys=False),
    "fgsm-linf": Row("fgsm", "linf", {"noise": 0.1}, keys=False),
    "pgd-l2": Row("pgd", "l2", {"num_steps": 10}, random=False, keys=False),
    "pgd-linf": Row("pgd", "linf", {"num_steps": 10, "random_start": True}, keys=False),
    "square-l1": Row("square", "l1", {"num_steps": 60}),
    "square-l2": Row("square", "l2", {"num_steps": 60}, sharded=True),
    "square-linf": Row("square", "linf", {"num_steps": 60}),
}


@functools.cache
def compiled(name):
    row = ROWS[name]

    def attack(key, x, labels, targets, eps):
        options = row.options | ({"targets": targets} if row.targeted else {})
        return attacks.make_attack(name=row.attack, eps=eps, norm=row.norm, **options)(key, model.logits_fn, x, labels)

    return jax.jit(attack)


def run(name, key, x, labels=LABELS, targets=RUNNERS_UP, eps=None):
    """The result as a NumPy array; one key is split into one for each row where the attack takes such."""
    eps = model.EPS[ROWS[name].norm] if eps is None else eps
    if ROWS[name].keys:
        key = key if key.shape else jax.random.split(key, len(x))
    else:
        key = key[0] if key.shape else key
    return np.asarray(compiled(name)(key, x, labels, targets, eps))


def check_result_stays_in_ball_and_box(name):
    x = model.images()
    result = run(name, jax.random.key(0), x)
    assert result.dtype == np.float32 and result.shape == x.shape
    assert np.all((result >= 0) & (result <= 1))
    moved = model.lengths(result.astype(np.float64) - x, ROWS[name].norm)
    assert np.all(moved <= model.EPS[ROWS[name].norm] + 1e-6)


def check_padding_is_unchanged(name):
    x = model.images()
    np.testing.assert_array_equal(run(name, jax.random.key(0), x)[~REAL], x[~REAL])


def check_margins_fall(name):
    x = model.images()
    result = run(name, jax.random.key(0), x)
    before, after = (model.margins(images, np.maximum(LABELS, 0))[REAL] for images in (x, result))
    assert np.all(after <= before)
    assert np.sum(after < 0) >= 2


def check_result_is_a_function_of_the_key(name):
    keys = (jax.random.key(seed) for seed in (0, 0, 1))
    first, again, other = (run(name, key, model.images()) for key in keys)
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) != ROWS[name].random


def check_eps_zero_returns_the_images(name):
    np.testing.assert_array_equal(run(name, jax.random.key(0), model.images(), eps=0.0), model.images())


def check_row_does_not_depend_on_its_place(name):
    keys, order = jax.random.split(jax.random.key(0), len(REAL)), np.arange(len(REAL))[::-1].copy()
    x = model.images()
    if not ROWS[name].keys and ROWS[name].random:
        return  # rows draw from one key, by their places
    straight = run(name, keys, x)
    turned = run(name, keys[order], x[order], LABELS[order], RUNNERS_UP[order])
    np.testing.assert_array_equal(turned, straight[order])


def check_new_values_do_not_compile_again(name):
    run(name, jax.random.key(0), model.images())
    compilations = compiled(name)._cache_size()
    first, second = (run(name, jax.random.key(0), model.images(seed=1), targets=RANKED[:, n], eps=0.2) for n in (1, 2))
    assert compiled(name)._cache_size() == compilations
    if name in ("apgd-linf", "fab-l2"):
        assert np.any(first != second)


CHECKS = (
    check_result_stays_in_ball_and_box,
    check_padding_is_unchanged,
    check_margins_fall,
    check_result_is_a_function_of_the_key,
    check_eps_zero_returns_the_images,
    check_row_does_not_depend_on_its_place,
    check_new_values_do_not_compile_again,
)
each_check = pytest.mark.parametrize("check", CHECKS, ids=[check.__name__.removeprefix("check_") for check in CHECKS])


@each_check
@pytest.mark.parametrize("name", sorted(ROWS))
def test_attack_keeps_the_contract(name, check):
    check(name)


def test_every_attack_and_norm_is_checked():
    pairs = {(name, norm) for name, row in attacks.ATTACKS.items() for norm in row.norms}
    assert {(row.attack, row.norm) for row in ROWS.values()} == pairs


def toy(key, logits_fn, images, labels, *, eps, norm):
    """Moves each pixel by eps along the sign of the gradient, where that lowers the margin."""

    def margins(x):
        return margin(logits_fn(x), jnp.maximum(labels, 0))

    gradient = jax.grad(lambda x: jnp.sum(margins(x)))(images)
    moved = jnp.clip(images - eps * jnp.sign(gradient), 0, 1)
    lower = (labels >= 0) & (margins(moved) < margins(images))
    return jnp.where(lower[:, None, None, None], moved, images)


def register(monkeypatch, function):
    monkeypatch.setitem(attacks.ATTACKS, "toy", attacks.Attack(function, norms=("linf",)))
    monkeypatch.setitem(ROWS, "toy", Row("toy", "linf", {}, random=False, keys=False))
    compiled.cache_clear()


@each_check
@pytest.mark.long
def test_added_attack_keeps_the_contract(check, monkeypatch):
    register(monkeypatch, toy)
    check("toy")


def outside_ball(key, logits_fn, images, labels, *, eps, norm):
    return toy(key, logits_fn, images, labels, eps=2 * eps, norm=norm)


def outside_box(key, logits_fn, images, labels, *, eps, norm):
    return jnp.where(labels[:, None, None, None] < 0, images, images + eps)


def moves_padding(key, logits_fn, images, labels, *, eps, norm):
    return toy(key, logits_fn, images, jnp.maximum(labels, 0), eps=eps, norm=norm)


def raises_margins(key, logits_fn, images, labels, *, eps, norm):
    return 2 * images - toy(key, logits_fn, images, labels, eps=eps, norm=norm)


def moves_at_radius_zero(key, logits_fn, images, labels, *, eps, norm):
    return toy(key, logits_fn, images, labels, eps=0.01 + 0 * eps, norm=norm)


def mixes_rows(key, logits_fn, images, labels, *, eps, norm):
    return jnp.where(labels[:, None, None, None] < 0, images, (1 - eps) * images + eps * images[:1])


@pytest.mark.parametrize(
    ("function", "check"),
    [
        (outside_ball, check_result_stays_in_ball_and_box),
        (outside_box, check_result_stays_in_ball_and_box),
        (moves_padding, check_padding_is_unchanged),
        (raises_margins, check_margins_fall),
        (moves_at_radius_zero, check_eps_zero_returns_the_images),
        (mixes_rows, check_row_does_not_depend_on_its_place),
    ],
)
def test_checks_can_fail(function, check, monkeypatch):
    register(monkeypatch, function)
    with pytest.raises(AssertionError):
        check("toy")


@pytest.mark.long
def test_evaluation_reports_the_accuracy_of_the_attack_of_its_config(untrained, monkeypatch, tmp_path):
    register(monkeypatch, toy)
    labels = np.array(list("abc") * 10)
    np.savez(tmp_path / "images.npz", image=np.full((30, 16, 16, 3), 99, np.uint8), label=labels)
    arguments = (
        f"smoke=True,attack=toy,norm=linf,eps=8/255,image_size=16,dataset=npz:{tmp_path}/images.npz,"
        f"checkpoint={untrained}/robust_encoder"
    )
    main.run(evaluate_config.get_config(arguments), tmp_path / "evaluation")
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert 0 <= results["toy_accuracy"] <= results["clean_accuracy"] <= 1
    assert "pgd_accuracy" not in results
    assert results["attack"] == {"name": "toy", "eps": 8 / 255, "norm": "linf"}


def test_evaluation_of_an_unknown_attack_lists_the_known():
    config = evaluate_config.get_config("attack=cw,eps=1.0,checkpoint=runs/x")
    with pytest.raises(UserError, match="unknown attack 'cw'; known: apgd, fab, fgsm, pgd, square"):
        evaluate.check(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cw"}, "unknown attack 'cw'; known: apgd, fab, fgsm, pgd, square"),
        ({"name": "pgd", "norm": "l1"}, "attack 'pgd' takes norm l2, linf; got 'l1', which apgd, fab, square and Auto"),
        ({"name": "apgd", "restarts": 2}, "unknown option of attack 'apgd' 'restarts'; known: .*num_restarts"),
    ],
)
def test_make_attack_names_what_is_allowed(options, message):
    with pytest.raises(UserError, match=message):
        attacks.make_attack(**{"eps": 0.1, "norm": "linf", **options})
    if "restarts" not in options:
        attack = {"eps": 0.1, "norm": "linf", "num_steps": 1, "step_size": 0.0, **options}
        with pytest.raises(UserError, match=message):
            attack_options(attack)


@pytest.mark.parametrize("name", ["pgd", "square"])
def test_make_attack_names_an_option_that_is_missing(name):
    with pytest.raises(UserError, match=f"^attack '{name}' needs the option num_steps$"):
        attacks.make_attack(name=name, eps=0.1, norm="linf")


def test_make_attack_leaves_out_shared_options_that_an_attack_lacks():
    shared = {"num_steps": 3, "step_size": None, "random_start": True}
    taken = {
        name: set(attacks.make_attack(name=name, eps=0.1, norm="linf", **shared).keywords) for name in attacks.ATTACKS
    }
    always = {"eps", "norm"}
    assert taken == {
        "apgd": always | {"num_steps"},
        "fab": always | {"num_steps"},
        "fgsm": always | {"step_size"},
        "pgd": always | set(shared),
        "square": always | {"num_steps"},
    }


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.sharded])
@pytest.mark.long
def test_attack_is_the_same_on_one_and_eight_devices(key, name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    x = model.images()
    eps = model.EPS[ROWS[name].norm]
    keys = jax.random.split(key, len(x))
    sharded = compiled(name)(*jax.device_put((keys, x, LABELS, RUNNERS_UP), sharding), eps)
    assert sharded.sharding.is_equivalent_to(sharding, sharded.ndim)
    np.testing.assert_allclose(sharded, run(name, key, x), atol=1e-5)


@pytest.mark.long
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
@pytest.mark.long
def test_attacks_move_where_the_gradient_is_undefined(key, norm, model_name):
    """At its start; without random starts too."""

    def logits_fn(x):
        value = 100 * jnp.mean(UNDEFINED[model_name](x), axis=(1, 2, 3))
        limit = 100 * jnp.mean(UNDEFINED[model_name](start), axis=(1, 2, 3)) + 1
        return jnp.stack([limit - value, value - limit], axis=1)

    start = jnp.asarray(np.full((1, 4, 4, 3), {"root": 0.0, "length": 0.5}[model_name], np.float32))
    labels, eps = np.array([0]), {"l2": 1.0, "linf": 0.1}[norm]
    for adversarial in (
        jax.jit(lambda x: attacks.pgd(key, logits_fn, x, labels, eps=eps, num_steps=10, norm=norm))(start),
        jax.jit(lambda x: attacks.apgd(key, logits_fn, x, labels, eps=eps, num_steps=10, norm=norm))(start),
    ):
        assert np.isfinite(adversarial).all() and np.argmax(logits_fn(adversarial), axis=1).tolist() == [1]
    step = attacks.fgsm(key, logits_fn, start, labels, eps=eps, norm=norm)
    assert np.isfinite(step).all() and np.any(step != start)


@pytest.mark.parametrize("norm", ("l2", "linf"))
def test_pgd_follows_gradients_of_any_length(key, norm):
    """The model is so confident that a gradient has a length of 1e-17."""

    def logits_fn(x):
        value = 100 * (jnp.mean(x, axis=(1, 2, 3)) - 0.5)
        return jnp.stack([value, -value], axis=1)

    x, eps = np.full((1, 8, 8, 3), 0.7, np.float32), {"l2": 2.9, "linf": 0.21}[norm]
    adversarial = jax.jit(lambda x: attacks.pgd(key, logits_fn, x, np.array([0]), eps=eps, num_steps=10, norm=norm))(x)
    assert np.argmax(logits_fn(adversarial), axis=1).tolist() == [1]


@pytest.mark.long
def test_attacks_reject_labels_that_the_model_does_not_have(key):
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
        with pytest.raises(UserError, match=r"(labels|targets) must be 0 to 4 for 5 classes; got 5"):
            call()


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_attacks_of_no_images_return_none(key, norm):
    options = {"apgd": {"num_steps": 2}, "fab": {"num_steps": 2}, "square": {"num_queries": 2}}
    options |= {} if norm == "l1" else {"pgd": {"num_steps": 1, "step_size": 0.1}}
    images = jnp.zeros((0, 8, 8, 3))
    for name, values in options.items():
        attack = getattr(attacks, name)
        shapes = jax.eval_shape(
            functools.partial(attack, logits_fn=lambda x: x[:, 0, :3, 0], eps=0.1, norm=norm, **values),
            key,
            images=images,
            labels=jnp.zeros(0, jnp.int32),
        )
        assert shapes.shape == images.shape, name


def test_attacks_clip_images_that_leave_the_range_by_rounding(key):
    x = model.images(4)
    x[0] = 1 + 1e-7
    labels = np.array([-1, 0, 1, 2])
    for adversarial in (
        attacks.pgd(key, model.logits_fn, x, labels, eps=0.0, num_steps=1),
        attacks.autoattack(key, model.logits_fn, x, labels, eps=0.1, num_steps=1, attacks="apgd-ce").adversarial,
    ):
        assert adversarial.max() <= 1
