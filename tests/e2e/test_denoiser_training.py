"""The training step of a denoiser: losses against NumPy, new noise at every step, and the discriminator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv import models
from arinv.experiment.state import TrainState, apply_train
from arinv.models.generators.wavelet import DecoderStep, WaveletDecoder
from arinv.ops import pooling
from arinv.ops.degradations import add_gaussian_noise
from arinv.ops.wavelets import haar_analysis
from arinv.train import denoiser

KEY = jax.random.key(0)
SIZE, BATCH = 32, 4
NOISE = {"sigma": 50 / 255, "protocol": "clipped"}
WEIGHTS = {"pixel": 2e-3, "feature": 1e-2, "adversarial": 0.0, "discriminator": 1.0}
FROZEN = {"scale": jnp.asarray(2.0)}
DECODER = WaveletDecoder((DecoderStep("synthesis", "conv5"), DecoderStep("conv", 8)))  # small to compile


class HaarEncoder:
    """The transform itself in the place of the wavelet encoder."""

    def apply(self, variables, images):
        low, details = haar_analysis(variables["scale"] * images)
        return {"conv5": low}, {"conv5": details}


class Comparator:
    """Means over 8 x 8 pixels in the place of a classifier's features."""

    def apply(self, variables, images, *, train):
        return None, {"conv5": variables["scale"] * pooling.avg_pool(images, 8, 8)}


def make_batch():
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 1, 1, 3)) * np.ones((1, SIZE, SIZE, 1))
    mask = np.ones(BATCH, np.float32)
    mask[-1] = 0
    return {"image": images.astype(np.uint8), "label": np.where(mask > 0, 0, -1).astype(np.int32), "mask": mask}


def make_step(discriminator=None, weights=WEIGHTS, **options):
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    features, details = jax.eval_shape(HaarEncoder().apply, FROZEN, image)
    parts = {"generator": (DECODER, (features["conv5"], details))}
    if discriminator:
        parts["discriminator"] = (discriminator, (image, jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)))
    optimizers = {name: optax.adam(3e-3, b1=0.0, b2=0.9) for name in parts}
    step = denoiser.make_train_step(
        HaarEncoder(), DECODER, Comparator(), discriminator, optimizers, noise=NOISE, feature_layer="conv5",
        weights=weights, augmentation={}, **options,
    )  # fmt: skip
    return step, functools.partial(TrainState.create, networks=parts, optimizers=optimizers)


@pytest.fixture(scope="module")
def trained():
    """The jitted step, the state at step 0, and the state and metrics after one step."""
    step, init = make_step()
    state, step = jax.jit(init)(KEY), jax.jit(step)
    return step, state, step(state, make_batch(), KEY, FROZEN)


def test_train_step_sums_losses_against_clean_images(trained):
    _, state, (after, metrics) = trained
    batch = make_batch()
    clean = batch["image"].astype(np.float32) / 255
    noise_key = jax.random.split(jax.random.fold_in(KEY, 0), 5)[1]

    @jax.jit
    def denoise(variables):
        features, details = HaarEncoder().apply(FROZEN, add_gaussian_noise(noise_key, jnp.asarray(clean), **NOISE))
        return apply_train(
            DECODER, variables["params"], variables, features["conv5"], details, key=KEY
        )[0]  # fmt: skip

    images, real = np.asarray(denoise(state.variables["generator"])), batch["mask"] > 0
    means = [2 * x.reshape(BATCH, 4, 8, 4, 8, 3).mean((2, 4)) for x in (images, clean)]
    pixel = 2e-3 * np.abs(images - clean).sum((1, 2, 3))[real].sum()
    feature = 1e-2 * np.square(means[0] - means[1]).sum((1, 2, 3))[real].sum()
    np.testing.assert_allclose(metrics["loss_pixel"][0], pixel, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss_feature"][0], feature, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"][0], pixel + feature, rtol=1e-4)
    assert metrics["loss"][1] == BATCH - 1 and int(after.step) == 1


def test_train_step_draws_new_noise_that_depends_on_the_step_only(trained):
    step, state, (_, first) = trained
    batch = make_batch()
    later = step(state.replace(step=state.step + 1), batch, KEY, FROZEN)[1]
    assert float(first["psnr"][0]) != float(later["psnr"][0])
    again = step(state.replace(step=jnp.ones((), jnp.int32)), batch, KEY, FROZEN)[1]
    assert float(again["psnr"][0]) == float(later["psnr"][0])


def test_train_step_learns_to_denoise_one_batch(trained):
    step, state, (_, first) = trained
    for _ in range(100):
        state, metrics = step(state, make_batch(), KEY, FROZEN)
    assert float(metrics["psnr"][0]) > 1.2 * float(first["psnr"][0])
    assert float(metrics["loss"][0]) < 0.5 * float(first["loss"][0])


def test_train_step_runs_with_discriminator_and_squared_loss():
    weights = {"pixel": 2e-3, "feature": 1e-2, "adversarial": 100.0, "discriminator": 100.0}
    step, init = make_step(models.build_discriminator(image_size=SIZE), weights, pixel_order=2)
    state = jax.eval_shape(init, KEY)
    after, metrics = jax.eval_shape(step, state, make_batch(), KEY, FROZEN)
    assert set(metrics) == {"loss", "psnr", "loss_pixel", "loss_feature", "loss_adversarial", "loss_discriminator"}
    assert jax.tree.structure(after) == jax.tree.structure(state)
