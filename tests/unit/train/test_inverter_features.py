"""Training of inverters from features that come with the batch, and against reduced images."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv import data, models
from arinv.errors import UserError
from arinv.experiment import loading
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.models.generators.mirror import Generator
from arinv.models.generators.plans import Plan, Step
from arinv.train import inverter
from configs import inverter as inverter_config

KEY = jax.random.key(0)
UP = Step("up", 3, 2, 5, bias=True)
PLAN = Plan((), UP, batch_norm=False, spectral_norm=False, slope=0.2, output="linear", fit="enlarge")
WEIGHTS = {"pixel": 1.0, "feature": 0.0, "adversarial": 0.0, "discriminator": 1.0}
ENCODER = models.build("hog")


def make_step(**options):
    generator = Generator(PLAN, image_size=32)
    optimizers = {"generator": optax.sgd(1e-3)}
    features = jax.ShapeDtypeStruct((1, 4, 4, 31), jnp.float32)
    step = inverter.make_train_step(
        ENCODER, generator, None, optimizers, layer="hog", feature_layer="hog", weights=WEIGHTS, pixel_order=2,
        augmentation={}, side=loading.training_side(generator, features), **options,
    )  # fmt: skip
    return jax.jit(step), TrainState.create(KEY, {"generator": (generator, (features,))}, optimizers)


@pytest.mark.long
def test_features_of_the_batch_are_inverted_instead_of_the_encoders():
    step, state = make_step()
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    batch = {"image": images, "mask": np.ones(2, np.float32)}
    own, metrics = step(state, batch, KEY, {})
    features = ENCODER.apply({}, images / np.float32(255))[1]["hog"]
    given, _ = step(state, {**batch, "features": features}, KEY, {})
    other, _ = step(state, {**batch, "features": 0 * features}, KEY, {})
    kernels = [s.variables["generator"]["params"]["rgb"]["kernel"] for s in (state, own, given, other)]
    np.testing.assert_allclose(kernels[1], kernels[2], atol=1e-6)
    np.testing.assert_array_equal(kernels[3], kernels[0])  # features of 0 have no gradient
    assert np.abs(kernels[1] - kernels[0]).max() > 1e-4
    # The sum of squared differences over the reduced images, of 8 px.
    assert 0 < float(metrics["loss"][0]) < 2 * 8 * 8 * 3


@pytest.mark.long
def test_sparse_features_of_the_batch_are_those_that_the_encoder_computes():
    encoder = models.build("sift_skimage")
    rng = np.random.default_rng(0)
    images = np.kron(rng.integers(0, 256, (2, 8, 8, 3), np.uint8), np.ones((1, 4, 4, 1), np.uint8))
    batch = {"image": images, "mask": np.ones(2, np.float32)}
    (extended,) = data.ExtendedBatches([batch], encoder.host_features)
    features = inverter._given_features(extended)
    expected = encoder.apply({}, images / np.float32(255))[1]["sift"]
    assert features.any() and features.shape == (2, 8, 8, 133)
    np.testing.assert_array_equal(features, expected)
    evaluate = inverter.make_eval_step(encoder, Means(), layer="sift")
    results = evaluate({}, extended, {})
    np.testing.assert_array_equal(results["keypoints"], extended["keypoints"])
    assert results["keypoints"].max() > 0


def test_first_octave_is_an_option_of_the_encoder_that_a_checkpoint_records():
    arguments = "smoke=True,encoder=sift_skimage,image_size=64,loss=euclidean,options=first_octave:-1"
    stage = inverter_config.get_config(arguments).stages.inverter
    inverter.check(stage)
    encoder = inverter.initial_encoder(Run(stage, pathlib.Path("x")))
    assert encoder.module.first_octave == -1
    assert inverter._describe(stage, encoder)["encoder_options"] == {"first_octave": -1}
    stage.encoder.options.first_octave = 2
    with pytest.raises(UserError, match="first_octave must be 0 or -1; got 2"):
        inverter.check(stage)


class Means(nn.Module):
    """A generator without weights: the mean of the features in every pixel."""

    def __call__(self, features, *, train=False):
        return jnp.broadcast_to(features.mean(axis=(1, 2, 3), keepdims=True), (len(features), 32, 32, 3))


def test_images_are_enlarged_in_evaluation():
    generator = Generator(PLAN, image_size=32)
    variables = generator.init(KEY, jnp.ones((1, 4, 4, 31)))
    evaluate = inverter.make_eval_step(ENCODER, generator, layer="hog")
    batch = {"image": np.zeros((2, 32, 32, 3), np.uint8), "mask": np.ones(2, np.float32)}
    assert jax.eval_shape(evaluate, variables, batch, {})["reconstruction"].shape == (2, 32, 32, 3)


@pytest.mark.long
def test_encoder_without_weights_has_no_logits():
    network = loading.new_encoder("hog", image_size=32)
    assert network.features_fn(jnp.zeros((1, 32, 32, 3)))["hog"].shape == (1, 4, 4, 31)
    with pytest.raises(UserError, match="encoder 'hog' has no classes"):
        _ = network.logits_fn
    with pytest.raises(UserError, match="encoder 'alexnet' has weights"):
        loading.new_encoder("alexnet", image_size=32)
