"""Training steps: the losses of the papers, and equal steps on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv import models, parallel
from arinv.errors import UserError
from arinv.experiment.state import TrainState, apply_train
from arinv.train import classifier, inverter, loop
from arinv.train.optimizers import make_optimizer, make_schedule

KEY = jax.random.key(0)
SIZE, BATCH = 32, 16
ENCODER = models.build("alexnet_small", num_classes=5, width=4)
ATTACK = {"eps": 0.5, "norm": "l2", "num_steps": 2, "step_size": None, "random_start": True}
IMAGE = (jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32),)
FEATURE = jax.ShapeDtypeStruct((1, 4, 4, 16), jnp.float32)
WEIGHTS = {"pixel": 2e-3, "feature": 1e-2, "adversarial": 100.0, "discriminator": 1.0}


def make_batch(rows=BATCH, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, rows).astype(np.int32)
    labels[-2:] = -1
    images = rng.integers(0, 256, (rows, SIZE, SIZE, 3), dtype=np.uint8)
    return {"image": images, "label": labels, "mask": (labels >= 0).astype(np.float32)}


def classifier_case(attack=ATTACK):
    optimizer = optax.sgd(0.1, momentum=0.9)
    step = classifier.make_train_step(ENCODER, optimizer, attack=attack, augmentation={"flip": True, "crop_padding": 2})
    init = functools.partial(
        TrainState.create, networks={"classifier": (ENCODER, IMAGE)}, optimizers={"classifier": optimizer}
    )
    return step, init, ()


def inverter_case(with_discriminator=True, weights=WEIGHTS):
    generator = models.build_generator("alexnet_small", "conv5", encoder_options={"width": 4})
    discriminator = models.build_discriminator(image_size=SIZE) if with_discriminator else None
    networks = {"generator": (generator, (FEATURE,))}
    if with_discriminator:
        networks["discriminator"] = (discriminator, (*IMAGE, FEATURE))
    # SGD: Adam's first step is a sign, which turns rounding into whole steps.
    optimizers = {name: optax.sgd(1e-3) for name in networks}
    step = inverter.make_train_step(
        ENCODER, generator, discriminator, optimizers, layer="conv5", feature_layer="conv5", weights=weights,
        augmentation={},
    )  # fmt: skip
    init = jax.jit(functools.partial(TrainState.create, networks=networks, optimizers=optimizers))
    return step, init, (ENCODER.init(KEY, jnp.zeros((1, SIZE, SIZE, 3))),)


CASES = {"classifier": classifier_case, "inverter": inverter_case}


@functools.cache
def case_and_state(name):
    """A case, and the state it begins with, in the host's memory."""
    case = CASES[name]()
    return case, jax.device_get(case[1](KEY))


@functools.cache
def compiled_on(name, **layout):
    """Returns (run, state): a case's step compiled for a mesh, and its first state placed there."""
    mesh = parallel.make_mesh(**layout) if layout else one_device_mesh()
    (step, _, frozen), state = case_and_state(name)
    state = jax.device_put(state, parallel.state_shardings(state, mesh))
    call = loop.make_call(loop.gather_first(step, state.opt_states, mesh), state, mesh)
    key, frozen = jax.device_put((KEY, frozen), parallel.replicated(mesh))

    def run(state, batch):
        return call(state, parallel.place_batch(batch, mesh), key, *frozen)

    run.cache_size = call._cache_size
    return run, state


def run_steps(name, num_steps=2, **layout):
    """Returns the state and the metrics after some steps on a mesh, compiled once."""
    run, state = compiled_on(name, **layout)
    state = jax.tree.map(jnp.copy, state)  # the step takes its memory
    for i in range(num_steps):
        state, metrics = run(state, make_batch(seed=i))
    assert run.cache_size() == 1
    return state, jax.device_get(metrics)


def one_device_mesh():
    return jax.make_mesh(
        (1, 1), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:1]
    )


@pytest.mark.parametrize(
    ("name", "layout", "share"),
    [
        ("classifier", {"fsdp": 1}, 0.0),
        ("classifier", {"fsdp": 8}, 0.0),
        ("inverter", {"fsdp": 4}, 0.03),  # two copies, each split over four devices
    ],
)
def test_steps_on_eight_devices_equal_those_on_one(name, layout, share):
    """Data parallel and FSDP, float32.

    `share` of a leaf's largest update may be rounding: the sign of the pixel loss and a discriminator's weight of 100
    enlarge it, by how much depends on the processor.
    """
    state, metrics = run_steps(name)
    other_state, other_metrics = run_steps(name, **layout)
    split = [x for x in jax.tree.leaves(other_state.variables) if not x.sharding.is_fully_replicated]
    assert bool(split) == (layout["fsdp"] > 1), "FSDP must split something"
    for metric, (total, count) in metrics.items():
        np.testing.assert_allclose(other_metrics[metric][0], total, rtol=1e-4, err_msg=metric)
        assert other_metrics[metric][1] == count
    trees = (jax.device_get(x.variables) for x in (case_and_state(name)[1], state, other_state))
    for before, one, other in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 + share * np.max(np.abs(one - before)))


def test_robust_step_lowers_the_loss_it_is_trained_on():
    step, init, _ = classifier_case()
    step, state, batch = jax.jit(step), init(KEY), make_batch()
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch, KEY)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert int(state.step) == 8
    assert losses[-1] < losses[0]


def test_inverter_terms_add_up_without_padding():
    run, state = compiled_on("inverter")
    batch = make_batch()
    _, metrics = run(jax.tree.map(jnp.copy, state), batch)
    total = sum(metrics[f"loss_{name}"][0] for name in ("pixel", "feature", "adversarial"))
    np.testing.assert_allclose(metrics["loss"][0], total, rtol=1e-6)
    assert metrics["loss"][1] == BATCH - 2
    # An untrained discriminator is undecided: 100 ln 2 and 2 ln 2 per image.
    np.testing.assert_allclose(metrics["loss_adversarial"][0] / (BATCH - 2), 100 * np.log(2), rtol=0.05)
    np.testing.assert_allclose(metrics["loss_discriminator"][0] / (BATCH - 2), 2 * np.log(2), rtol=0.05)
    changed = {**batch, "image": batch["image"].copy()}
    changed["image"][-1] = 255 - changed["image"][-1]
    _, other = run(jax.tree.map(jnp.copy, state), changed)
    assert abs(float(other["loss_pixel"][0] - metrics["loss_pixel"][0])) < 0.05 * float(metrics["loss_pixel"][0])


def test_discriminator_runs_power_iteration_in_each_forward_pass():
    """As the released code: three power iterations a step, two of them in the discriminator's own update."""
    (step, _, frozen), state = case_and_state("inverter")
    stepped, _ = jax.jit(step)(state, make_batch(), KEY, *frozen)
    before, after = (x.variables["discriminator"] for x in (state, stepped))
    kernels = [np.asarray(x["params"]["joint0"]["kernel"], np.float64) for x in (before, after)]
    u = np.asarray(before["spectral"]["joint0"]["vectors"]["u"], np.float64)
    for kernel in (kernels[0], kernels[0], kernels[1]):  # the third is of the updated weights, by the generator's loss
        v = kernel @ u / np.linalg.norm(kernel @ u)
        u = v @ kernel / np.linalg.norm(v @ kernel)
    np.testing.assert_allclose(after["spectral"]["joint0"]["vectors"]["u"], u, atol=1e-5)


def test_inverter_losses_are_sums_over_images():
    """The pixel and feature terms against NumPy, from the step's own reconstruction."""
    step, init, frozen = inverter_case(with_discriminator=False)
    state, batch = init(KEY), make_batch()
    _, metrics = jax.jit(step)(state, batch, KEY, *frozen)
    generator = models.build_generator("alexnet_small", "conv5", encoder_options={"width": 4})
    images = batch["image"].astype(np.float32) / 255
    features = ENCODER.apply(frozen[0], images)[1]["conv5"]
    rebuilt, _ = apply_train(
        generator, state.variables["generator"]["params"], state.variables["generator"], features, key=KEY
    )
    real = batch["mask"] > 0
    pixel = 2e-3 * np.abs(np.asarray(rebuilt) - images).sum(axis=(1, 2, 3))
    again = ENCODER.apply(frozen[0], rebuilt)[1]["conv5"]
    feature = 1e-2 * np.square(np.asarray(again) - np.asarray(features)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(metrics["loss_pixel"][0], pixel[real].sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss_feature"][0], feature[real].sum(), rtol=1e-4)


def test_state_shardings_split_large_arrays_only():
    mesh = parallel.make_mesh(fsdp=8)
    shardings = parallel.state_shardings(
        {"kernel": jax.ShapeDtypeStruct((64, 128), jnp.float32), "bias": jax.ShapeDtypeStruct((128,), jnp.float32)},
        mesh,
    )
    assert not shardings["kernel"].is_fully_replicated
    assert shardings["bias"].is_fully_replicated


@pytest.mark.parametrize("layout", [{"data": 3}, {"fsdp": 3}, {"fsdp": 0}, {"data": 2, "fsdp": 2}])
def test_make_mesh_rejects_sizes_that_do_not_fit(layout):
    with pytest.raises(UserError, match="8 device"):
        parallel.make_mesh(**layout)


def test_check_batch_size_rejects_a_batch_that_devices_do_not_divide():
    with pytest.raises(UserError, match="batch_size 12 .* use 8"):
        parallel.check_batch_size(12, parallel.make_mesh())


def test_make_schedule_returns_step_and_cosine_rates():
    step = make_schedule(
        {"name": "step", "learning_rate": 0.1, "every_epochs": 30.0, "factor": 0.1}, num_steps=900, steps_per_epoch=10
    )
    np.testing.assert_allclose([step(0), step(299), step(301), step(601)], [0.1, 0.1, 0.01, 0.001], rtol=1e-5)
    warm = make_schedule(
        {"name": "cosine", "learning_rate": 1.0, "warmup_epochs": 1.0}, num_steps=100, steps_per_epoch=10
    )
    np.testing.assert_allclose([warm(0), warm(5), warm(10), warm(100)], [0.0, 0.5, 1.0, 0.0], atol=1e-6)


def test_make_schedule_ignores_options_of_other_names_and_rejects_unknown_ones():
    left_over = {"name": "cosine", "learning_rate": 1.0, "every_epochs": 30.0, "factor": 0.1}
    assert make_schedule(left_over, num_steps=10, steps_per_epoch=1)(5) == pytest.approx(0.5)
    with pytest.raises(UserError, match="'step' needs every_epochs"):
        make_schedule({"name": "step", "learning_rate": 1.0}, num_steps=10, steps_per_epoch=1)
    with pytest.raises(UserError, match="unknown option of 'adam' 'beta'; known: b1, b2, weight_decay"):
        spec = {"name": "adam", "beta": 0.5, "schedule": {"name": "constant", "learning_rate": 0.5}}
        make_optimizer(spec, num_steps=2, steps_per_epoch=1)


def test_sgd_adds_weight_decay_before_momentum():
    """Two steps of SGD as torch.optim.SGD defines them, by hand."""
    spec = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1, "schedule": {"name": "constant", "learning_rate": 0.5}}
    optimizer = make_optimizer(spec, num_steps=2, steps_per_epoch=1)
    weight, state, velocity, expected = jnp.ones(()), None, 0.0, 1.0
    state = optimizer.init(weight)
    for gradient in (0.3, -0.2):
        updates, state = optimizer.update(jnp.asarray(gradient), state, weight)
        weight = optax.apply_updates(weight, updates)
        velocity = 0.9 * velocity + gradient + 0.1 * expected
        expected -= 0.5 * velocity
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_apply_gradients_rejects_gradients_of_another_shape():
    optimizer, params = optax.sgd(0.1), {"a": jnp.ones(2)}
    state = TrainState(jnp.zeros((), jnp.int32), {"net": {"params": params}}, {"net": optimizer.init(params)})
    stepped = state.apply_gradients("net", params, {}, optimizer)
    np.testing.assert_allclose(stepped.variables["net"]["params"]["a"], 0.9)
    with pytest.raises(AssertionError):
        state.apply_gradients("net", {"a": jnp.ones(1)}, {}, optimizer)
