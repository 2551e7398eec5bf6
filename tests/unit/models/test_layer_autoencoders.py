"""Variational autoencoders of an encoder's layer: latents, samples, and the terms of their training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv import losses, models
from arinv.errors import UserError
from arinv.experiment.state import TrainState
from arinv.train import inverter

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).random((3, 4, 4, 3), np.float32)


class Pool(models.Encoder):
    """Means of 2 x 2 pixels as the only feature."""

    image_size, default_layer, style_layers = 4, "a", ("a",)

    @nn.compact
    def __call__(self, images, *, train=False):
        return images[:, 0, 0, :0], {"a": images.reshape(-1, 2, 2, 2, 2, 3).mean((2, 4))}

    def feature_specs(self):
        return {"a": models.FeatureSpec((models.Stage(2, 3),))}


class Decoder(nn.Module):
    """A dense layer to images."""

    @nn.compact
    def __call__(self, latents, *, train=False):
        return nn.Dense(48)(latents).reshape(-1, 4, 4, 3)


@pytest.fixture(scope="module")
def network():
    """A variational autoencoder of two latents with its variables, the deviations 2 and 1/2."""
    module = models.VariationalAutoencoder(models.variational_encoder(Pool(), "a", latent_size=2), Decoder())
    variables = jax.jit(module.init)(KEY, IMAGES)
    variables["params"]["encoder"]["log_variance"]["bias"] = 2 * jnp.log(jnp.array([2.0, 0.5]))
    return module, variables


@pytest.mark.long
def test_latent_is_the_mean_and_one_more_feature(network):
    module, variables = network
    assert module.encoder.feature_specs()["latent"].is_vector and "a" in module.encoder.feature_specs()
    own = {"params": variables["params"]["encoder"]}
    _, features = module.encoder.apply(own, IMAGES)
    mean = variables["params"]["encoder"]["mean"]
    expected = np.asarray(features["a"]).reshape(3, -1) @ np.asarray(mean["kernel"]) + np.asarray(mean["bias"])
    np.testing.assert_allclose(features["latent"], expected, atol=1e-6)
    decoded = module.generator.apply({"params": variables["params"]["generator"]}, features["latent"])
    np.testing.assert_allclose(module.apply(variables, IMAGES), decoded, atol=1e-6)


def test_training_decodes_samples_of_the_distribution(network):
    module, variables = network
    identity = module.clone(generator=Echo())
    own = {"params": {"encoder": variables["params"]["encoder"]}}
    many = np.repeat(IMAGES[:1], 4000, axis=0)
    samples, latents = identity.apply(own, many, train=True, rngs={"dropout": KEY})
    np.testing.assert_allclose(samples.mean(0), latents.mean[0], atol=0.1)
    np.testing.assert_allclose(samples.std(0), [2.0, 0.5], rtol=0.05)


class Echo(nn.Module):
    """The latents in the place of images."""

    def __call__(self, latents, *, train=False):
        return latents


def test_update_adds_the_divergence_and_its_gradient(network):
    module, variables = network
    optimizers = {"generator": optax.sgd(0.1)}
    opt_states = {"generator": optimizers["generator"].init(variables["params"])}
    state = TrainState(jnp.zeros((), jnp.int32), {"generator": variables}, opt_states)
    batch = {"image": IMAGES, "mask": np.array([1.0, 1.0, 0.0], np.float32)}

    def step_of(divergence):
        weights = {"pixel": 1e-9, "feature": 0.0, "adversarial": 0.0, "discriminator": 1.0, "divergence": divergence}
        step = inverter.make_train_step(
            Pool(), module.generator, None, optimizers, layer="a", feature_layer="a", weights=weights, augmentation={},
            autoencoder=module,
        )  # fmt: skip
        return jax.jit(step)(state, batch, KEY, {})

    new, metrics = step_of(0.5)
    latents = module.encoder.apply({"params": variables["params"]["encoder"]}, IMAGES[:2], method="gaussian")
    expected = 0.5 * losses.gaussian_divergence(*latents).mean()
    total, count = metrics["loss_divergence"]
    assert count == 2 and float(total / count) == pytest.approx(float(expected), rel=1e-5)
    moved = new.variables["generator"]["params"]["encoder"]["log_variance"]["bias"]
    start = np.asarray(variables["params"]["encoder"]["log_variance"]["bias"])
    # The gradient of (variance - log variance - 1) / 2, weight 0.5, rate 0.1.
    np.testing.assert_allclose(moved, start - 0.1 * 0.5 * (np.exp(start) - 1) / 2, rtol=1e-4)


def test_gaussian_divergence_is_that_of_normal_distributions():
    values = losses.gaussian_divergence([[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [np.log(4.0), 0.0]])
    np.testing.assert_allclose(values, [0.5, (4 - 1 - np.log(4)) / 2], rtol=1e-6)


def test_generator_of_latents_has_dense_layers_and_the_images_size():
    shapes = {}
    for variant in ("default", "deepsim"):
        generator = models.build_generator("caffenet", "conv5", image_size=64, variant=variant, latent=True)
        shapes[variant] = jax.eval_shape(lambda x, g=generator: g.init_with_output(KEY, x)[0], jnp.zeros((1, 5))).shape
    assert set(shapes.values()) == {(1, 64, 64, 3)}


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="unknown layer of the encoder 'b'; known: a"):
        models.variational_encoder(Pool(), "b")
    with pytest.raises(UserError, match="latent_size"):
        models.variational_encoder(Pool(), "a", latent_size=0)
