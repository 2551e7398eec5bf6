"""Training steps: the losses of the papers, the same steps on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv import models, parallel
from arinv.experiment.state import TrainState, apply_train
from arinv.train import classifier, gan, inverter, loop

KEY = jax.random.key(0)
SIZE, BATCH = 32, 16
ENCODER = models.build("alexnet_small", num_classes=5, width=4)
ATTACK = {"eps": 0.5, "norm": "l2", "num_steps": 2, "step_size": None, "random_start": True}
IMAGE = (jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32),)
FEATURE = jax.ShapeDtypeStruct((1, 4, 4, 16), jnp.float32)
WEIGHTS = {"pixel": 2e-3, "feature": 1e-2, "adversarial": 100.0, "discriminator": 1.0}


def make_batch(rows=BATCH, seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, rows).astype(np.int32)
    labels[-2:] = -1
    images = rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    return {"image": images, "label": labels, "mask": (labels >= 0).astype(np.float32)}


def classifier_case():
    optimizer = optax.sgd(0.1, momentum=0.9)
    step = classifier.make_train_step(ENCODER, optimizer, attack=ATTACK, augmentation={"flip": True, "crop_padding": 2})
    init = functools.partial(
        TrainState.create, networks={"classifier": (ENCODER, IMAGE)}, optimizers={"classifier": optimizer}
    )
    return step, init, ()


def inverter_case():
    generator = models.build_generator("alexnet_small", "conv5", encoder_options={"width": 4})
    discriminator = models.build_discriminator(image_size=SIZE)
    networks = {"generator": (generator, (FEATURE,)), "discriminator": (discriminator, (*IMAGE, FEATURE))}
    # SGD: Adam's first step is a sign, which turns rounding into whole steps.
    optimizers = {name: optax.sgd(1e-3) for name in networks}
    step = inverter.make_train_step(
        ENCODER, generator, discriminator, optimizers, layer="conv5", feature_layer="conv5", weights=WEIGHTS,
        augmentation={},
    )  # fmt: skip
    init = jax.jit(functools.partial(TrainState.create, networks=networks, optimizers=optimizers))
    return step, init, (jax.jit(ENCODER.init)(KEY, jnp.zeros((1, SIZE, SIZE, 3))),)


def gan_case(networks, size, fade_steps=0, **options):
    """Networks that grow are in the midst of their fade, and others have their balance in the state."""
    built = models.build_gan(networks, image_size=size, latent_size=4, **options)
    fade = (jax.ShapeDtypeStruct((), jnp.float32),) if built.grows else ()
    shapes = {
        "generator": (built.generator, (jax.ShapeDtypeStruct((1, 4), jnp.float32), *fade)),
        "discriminator": (built.discriminator, (jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32), *fade)),
    }
    optimizers = {name: optax.sgd(1e-2) for name in shapes}
    game = {"name": built.game, "penalty": 10.0, "drift": 1e-3, "ratio": 0.5, "rate": 0.1}
    step = gan.make_train_step(built, optimizers, game=game, fade_steps=fade_steps, augmentation={"flip": True})

    def init(key):
        state = TrainState.create(key, shapes, optimizers).start_average("generator")
        return state if built.grows else state.replace(extra={"balance": jnp.asarray(0.3)})

    return step, jax.jit(init), ()


SIZES = {"growing GAN": 8, "BEGAN": 16}
CASES = {
    "classifier": classifier_case,
    "inverter": inverter_case,
    "growing GAN": functools.partial(gan_case, "progressive", 8, fade_steps=4, base_width=16, max_width=8),
    "BEGAN": functools.partial(gan_case, "began", 16, width=4),
}


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
        state, metrics = run(state, make_batch(seed=i, size=SIZES.get(name, SIZE)))
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
        ("growing GAN", {"fsdp": 1}, 0.0),
        ("BEGAN", {"fsdp": 1}, 0.0),
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
    trees = (jax.device_get((x.variables, x.extra)) for x in (case_and_state(name)[1], state, other_state))
    for before, one, other in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 + share * np.max(np.abs(one - before)))


def test_robust_step_lowers_the_loss_it_is_trained_on():
    run, state = compiled_on("classifier")
    state, batch, losses = jax.tree.map(jnp.copy, state), make_batch(), []
    for _ in range(8):
        state, metrics = run(state, batch)
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
    run, state = compiled_on("inverter")
    stepped, _ = run(jax.tree.map(jnp.copy, state), make_batch())
    before, after = (x.variables["discriminator"] for x in (state, stepped))
    kernels = [np.asarray(x["params"]["joint0"]["kernel"], np.float64) for x in (before, after)]
    u = np.asarray(before["spectral"]["joint0"]["vectors"]["u"], np.float64)
    for kernel in (kernels[0], kernels[0], kernels[1]):  # the third is of the updated weights, by the generator's loss
        v = kernel @ u / np.linalg.norm(kernel @ u)
        u = v @ kernel / np.linalg.norm(v @ kernel)
    np.testing.assert_allclose(after["spectral"]["joint0"]["vectors"]["u"], u, atol=1e-5)


def test_inverter_losses_are_sums_over_images():
    """The pixel and feature terms against NumPy, from the step's own reconstruction."""
    run, state = compiled_on("inverter")
    batch, encoder_variables = make_batch(), case_and_state("inverter")[0][2][0]
    _, metrics = run(jax.tree.map(jnp.copy, state), batch)
    generator = models.build_generator("alexnet_small", "conv5", encoder_options={"width": 4})

    @jax.jit
    def reconstruct(images):
        features = ENCODER.apply(encoder_variables, images)[1]["conv5"]
        variables = state.variables["generator"]
        reconstructions, _ = apply_train(generator, variables["params"], variables, features, key=KEY)
        return reconstructions, features, ENCODER.apply(encoder_variables, reconstructions)[1]["conv5"]

    images = batch["image"].astype(np.float32) / 255
    reconstructions, features, reconstructed = map(np.asarray, reconstruct(images))
    is_real = batch["mask"] > 0
    pixel = 2e-3 * np.abs(reconstructions - images).sum(axis=(1, 2, 3))
    feature = 1e-2 * np.square(reconstructed - features).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(metrics["loss_pixel"][0], pixel[is_real].sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss_feature"][0], feature[is_real].sum(), rtol=1e-4)
