"""Recipes of robust training, the watch on catastrophic overfitting, averages and mixed sources."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv import data, main, models, tasks
from arinv.errors import UserError
from arinv.experiment import loading
from arinv.experiment.state import AVERAGE, TrainState
from arinv.experiment.trained import CLASSIFIER
from arinv.train import classifier, overfitting, robust
from arinv.train.optimizers import make_schedule
from configs import classifier as classifier_config
from configs.recipes import alexnet_imagenet, resnet18_cifar10, vgg16_imagenet143, wrn28_10_cifar10

KEY = jax.random.key(0)
SIZE = 16
ENCODER = models.build("alexnet_small", num_classes=10, width=4)
STRUCT = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)


@pytest.fixture(scope="module")
def photos():
    return data.load_arrays(data.open_source("photos", image_size=SIZE, num_examples=256))


def make_state(encoder, optimizer, extras):
    create = jax.jit(
        lambda key: extras.extend(TrainState.create(key, {CLASSIFIER: (encoder, (STRUCT,))}, {CLASSIFIER: optimizer}))
    )
    return create(KEY)


def batch_of(arrays, i, rows):
    first = i * rows % len(arrays["label"])
    batch = {name: arrays[name][first : first + rows] for name in ("image", "label")}
    return {**batch, "mask": np.ones(rows, np.float32)}


def train(photos, recipe, *, eps, steps, rows=32, encoder=ENCODER, optimizer=None, **extras):
    """Returns the last state and the metrics of each step."""
    optimizer = optimizer or optax.adam(3e-3)
    extras = classifier.StepOptions(**extras)
    attack = {"eps": eps, "norm": "linf", "num_steps": 3, "step_size": None, "random_start": False}
    step = classifier.make_train_step(
        encoder, optimizer, attack=attack, augmentation={}, recipe=recipe, geometry_from_step=1, extras=extras
    )
    step, state, history = jax.jit(step), make_state(encoder, optimizer, extras), []
    for i in range(steps):
        state, metrics = step(state, batch_of(photos, i, rows), KEY)
        history.append({name: (float(total), float(count)) for name, (total, count) in metrics.items()})
    assert step._cache_size() == 1
    return state, history


@pytest.mark.parametrize("name", sorted(robust.RECIPES))
def test_every_recipe_trains(name, photos):
    one_batch = {key: value[:32] for key, value in photos.items()}
    _, history = train(one_batch, robust.make_recipe(name, num_steps=3), eps=1 / 255, steps=40)
    first, last = (np.mean([h["loss"][0] / h["loss"][1] for h in part]) for part in (history[:3], history[-3:]))
    assert np.isfinite(last) and last < 0.9 * first


def test_gairat_before_geometry_is_cross_entropy(photos):
    recipe = robust.make_recipe("gairat", num_steps=3)
    batch = batch_of(photos, 0, 8)
    logits = (jax.random.normal(KEY, (8, 10)),)
    kappa = jnp.arange(8.0) % 4
    before, after = (recipe.loss(logits, batch["label"], batch["mask"], kappa, active) for active in (False, True))
    np.testing.assert_allclose(before, robust.standard_loss(logits, batch["label"], None, None, None), rtol=1e-6)
    assert np.abs(before - after).max() > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: robust.make_recipe("mart", num_steps=3), "trades"),
        (lambda: robust.make_recipe("pgd", num_steps=3, beta=6.0), "has no option 'beta'"),
        (lambda: robust.make_recipe("gairat", num_steps=3, weighting="flat"), "sigmoid"),
    ],
)
def test_make_recipe_rejects_unknown_names_and_options(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_watch_detects_overfitting_of_fgsm_but_not_of_pgd(photos):
    """FGSM without random start and a large step, against PGD of a small radius."""
    watch = overfitting.Watch(every_steps=8)
    encoder, adam = models.build("alexnet_small", num_classes=10, width=8), optax.adam(2e-3)
    options = {"steps": 168, "encoder": encoder, "optimizer": adam, "watch": watch}
    fgsm = robust.make_recipe("fgsm", num_steps=1, noise=0.0, step_factor=1.0)
    _, history = train(photos, fgsm, eps=32 / 255, **options)
    assert all(h[overfitting.NOTICE][1] == (i % 8 == 7) for i, h in enumerate(history))
    assert sum(h[overfitting.NOTICE][0] for h in history[120:]) >= 3
    options["steps"] = 48
    _, history = train(photos, robust.make_recipe("pgd", num_steps=3), eps=2 / 255, **options)
    assert sum(h[overfitting.NOTICE][0] for h in history) == 0


def test_the_copy_is_restored_or_renewed(photos):
    """Checked by itself: healthy, the copy follows; overfitted, the copy comes back and PGD is on."""
    extras = classifier.StepOptions(watch=overfitting.Watch(every_steps=1, num_steps=2, threshold=0.0, switch=True))
    state = make_state(ENCODER, optax.adam(1e-3), extras)
    assert not overfitting.snapshot_of(state).switched
    moved = {**state.variables[CLASSIFIER]}
    moved["params"] = jax.tree.map(lambda x: x + 1, moved["params"])
    after = state.replace(variables={**state.variables, CLASSIFIER: moved})
    restore = jax.jit(lambda x, overfitted: overfitting._restore_copy(x, CLASSIFIER, overfitted))
    healthy = restore(after, False)
    snapshot = overfitting.snapshot_of(healthy)
    same = jax.tree.map(np.array_equal, snapshot.variables["params"], moved["params"])
    assert all(jax.tree.leaves(same)) and not snapshot.switched
    back = restore(after, True)
    original = state.variables[CLASSIFIER]["params"]
    same = jax.tree.map(np.array_equal, back.variables[CLASSIFIER]["params"], original)
    assert all(jax.tree.leaves(same)) and overfitting.snapshot_of(back).switched


def test_train_step_switches_to_pgd(photos):
    extras = {"watch": overfitting.Watch(every_steps=4, threshold=-2.0, switch=True)}  # fires at the first look
    fgsm = robust.make_recipe("fgsm", num_steps=1, noise=0.0)
    state, history = train(photos, fgsm, eps=8 / 255, steps=4, ema_decay=0.9, **extras)
    assert history[3][overfitting.NOTICE] == (1.0, 1.0) and overfitting.snapshot_of(state).switched
    restored, mean = (jax.tree.leaves(state.variables[name]) for name in (CLASSIFIER, AVERAGE))
    assert all((a == b).all() for a, b in zip(restored, mean, strict=True)), "the average is without what was undone"


def test_average_follows_the_weights(photos):
    state, _ = train(photos, robust.make_recipe("pgd", num_steps=3), eps=0.0, steps=3, ema_decay=0.9)
    trained, mean = (jax.tree.leaves(state.variables[name]["params"]) for name in (CLASSIFIER, AVERAGE))
    gaps = [float(np.abs(a - b).max()) for a, b in zip(trained, mean, strict=True)]
    assert 0 < max(gaps) < 0.1
    start = state.replace(step=jnp.zeros((), jnp.int32))
    copied = jax.jit(lambda x: x.update_average(CLASSIFIER, 0.9))(start).variables[AVERAGE]
    for a, b in zip(jax.tree.leaves(copied["params"]), trained, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_smoke_run_with_everything(tmp_path):
    """A run by config: average, watch with switch, renumbered classes, a second source; and its checkpoint."""
    arrays = {"image": np.zeros((32, 16, 16, 3), np.uint8), "label": np.arange(32) % 3}
    np.savez(tmp_path / "extra.npz", **arrays)
    arg = "smoke=True,options=width:4,image_size=16,eps=8/255,norm=linf,recipe=n_fgsm"
    config = classifier_config.get_config(f"{arg},classes=1+3-5,extra=npz:{tmp_path}/extra.npz")
    config.watch.action, config.ema_decay = "switch", 0.9
    main.run(config, tmp_path / "run")
    encoder = loading.load(tmp_path / "run", kind="classifier")
    assert encoder.description["weights"] == "average" and encoder.description["num_classes"] == 4
    logits, _ = encoder.module.apply(encoder.variables, jnp.zeros((1, 16, 16, 3)))
    assert logits.shape == (1, 4)


RECIPE_CONFIGS = {
    "resnet18_cifar10": (resnet18_cifar10, "encoder=alexnet_small,options=width:4,image_size=16,recipe=trades"),
    "vgg16_imagenet143": (vgg16_imagenet143, "image_size=32,classes=1-4"),
    "wrn28_10_cifar10": (wrn28_10_cifar10, "image_size=16"),
}


SLOW = ("vgg16_imagenet143", "wrn28_10_cifar10")  # up to a minute of compilation


@pytest.mark.parametrize("name", ["resnet18_cifar10", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_smoke_run_of_the_named_recipes(name, tmp_path):
    module, arg = RECIPE_CONFIGS[name]
    main.run(module.get_config(f"smoke=True,dataset=photos,{arg}"), tmp_path)
    assert (tmp_path / "results.json").exists()


def test_recipe_configs_have_the_papers_numbers(tmp_path):
    config = alexnet_imagenet.get_config("")
    assert (config.attack.eps, config.attack.step_size, config.attack.num_steps) == (3.0, 0.5, 7)
    assert (config.num_epochs, config.batch_size, config.data.name) == (90.0, 256, "tfds:imagenet2012")
    config = vgg16_imagenet143.get_config("")
    assert config.data.classes == tuple(range(151, 294)) and config.attack.norm == "linf"
    assert (config.attack.eps, config.attack.step_size, config.attack.num_steps) == (0.01, 0.007, 10)
    (tmp_path / "x.npz").touch()  # is looked for before anything is trained
    config = wrn28_10_cifar10.get_config(f"extra=npz:{tmp_path}/x.npz")
    assert config.recipe.to_dict() == {
        "name": "gair_rst", "options": {"beta": 6.0, "offset": 3.0}, "geometry_from_epoch": 100.0,
    }  # fmt: skip
    assert config.data.extra.to_dict() == {"name": f"npz:{tmp_path}/x.npz", "share": 0.5} and config.optimizer.nesterov
    assert resnet18_cifar10.get_config("").attack.eps == 1.0
    for recipe in (alexnet_imagenet, vgg16_imagenet143):
        assert recipe.get_config("").data.resize == "crop_7_8" and recipe.get_config("").data.resized_crop
    gairat = wrn28_10_cifar10.get_config("recipe=gairat")
    assert (gairat.num_epochs, gairat.batch_size, gairat.optimizer.weight_decay) == (120.0, 128, 2e-4)
    assert gairat.recipe.to_dict() == {
        "name": "gairat", "options": {"weighting": "tanh", "offset": -1.0}, "geometry_from_epoch": 60.0,
    }  # fmt: skip
    rate = make_schedule(gairat.optimizer.schedule.to_dict(), num_steps=1200, steps_per_epoch=10)
    rates = [float(rate(10 * epoch + 5)) for epoch in (0, 59, 60, 89, 90, 109, 110, 119)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0005, 0.0005], rtol=1e-5)
    assert not gairat.optimizer.nesterov and gairat.reference.name == "gairat"
    tasks.TASKS["classifier"].check(config)
