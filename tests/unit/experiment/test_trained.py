"""Trained networks in the public interface: functions, images of any size and number, errors in one line."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import arinv
from arinv import models
from arinv.errors import UserError
from arinv.experiment import descriptions, loading
from arinv.experiment.trained import Trained


def images(count, height=16, width=16):
    return np.random.default_rng(0).random((count, height, width, 3), np.float32)


@pytest.fixture(scope="module")
def inverter(untrained):
    return arinv.load(untrained / "robust_inverter")


def test_load_returns_the_inverter_with_its_encoder(inverter, untrained):
    assert inverter.kind == "inverter" and inverter.encoder.kind == "classifier"
    encoder = arinv.load(untrained / "robust_encoder")
    assert inverter.encoder.fingerprint == encoder.fingerprint != inverter.fingerprint
    assert encoder.encoder is encoder


@pytest.mark.long
def test_mistakes_with_a_loaded_network_are_one_line(inverter):
    with pytest.raises(UserError, match="images of 40 x 24 px do not fit the dense layers of this AlexNetSmall"):
        inverter.logits_fn(images(1, 40, 24))
    with pytest.raises(UserError, match="a trained classifier has no layer"):
        _ = inverter.encoder.layer
    assert len(repr(inverter)) < 200 and inverter.fingerprint in repr(inverter) and "conv5" in repr(inverter)


@pytest.mark.long
def test_functions_pass_their_weights_as_arguments(inverter):
    batch = images(2)

    @jax.jit
    def run(logits_fn, features_fn, decode_fn, x):
        features = features_fn(x)[inverter.layer]
        return logits_fn(x), features, decode_fn(features)

    logits, features, reconstructions = run(inverter.logits_fn, inverter.features_fn, inverter.decode_fn, batch)
    expected_logits, expected = inverter.encoder.module.apply(inverter.encoder.variables, batch, train=False)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features, expected[inverter.layer], rtol=1e-4, atol=1e-5)
    assert reconstructions.shape == batch.shape
    assert not jax.make_jaxpr(run)(inverter.logits_fn, inverter.features_fn, inverter.decode_fn, batch).consts


@pytest.mark.parametrize(("count", "height", "width"), [(1, 16, 16), (5, 16, 16), (3, 21, 40)])
@pytest.mark.long
def test_reconstruct_takes_any_number_and_size(inverter, count, height, width):
    batch = images(count, height, width)
    reconstructions = inverter.reconstruct(batch, batch_size=2)
    assert reconstructions.shape == batch.shape and reconstructions.dtype == np.float32
    assert 0 <= reconstructions.min() and reconstructions.max() <= 1
    one = inverter.reconstruct(batch[-1:])
    np.testing.assert_allclose(reconstructions[-1:], one, atol=1e-5)


@pytest.mark.long
def test_reconstruct_equals_decode_fn_of_the_features(inverter):
    batch = images(2)
    expected = inverter.decode_fn(inverter.features_fn(jnp.asarray(batch))[inverter.layer])
    np.testing.assert_allclose(inverter.reconstruct(batch), expected, atol=1e-5)


@pytest.mark.long
def test_evaluate_returns_a_number_for_each_image(inverter):
    batch, labels = images(3), np.array([0, 1, 0])
    results = inverter.evaluate(batch, labels, batch_size=2)
    assert set(results) == {"clean_accuracy", "psnr", "ssim", "mse"}
    assert all(values.shape == (3,) for values in results.values())
    predictions = np.argmax(inverter.logits_fn(batch), axis=-1)
    np.testing.assert_array_equal(results["clean_accuracy"], predictions == labels)
    assert "clean_accuracy" not in inverter.evaluate(batch)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: n.encoder.reconstruct(images(1)), "a trained classifier has no reconstruct; load .* an inverter"),
        (lambda n: n.encoder.evaluate(images(1)), "needs labels"),
        (lambda n: n.evaluate(images(2), [1]), r"labels must be integers, one per image \(2,\)"),
        (lambda n: n.evaluate(images(2), [0, -1]), "labels must be classes from 0; got -1"),
        (lambda n: arinv.load("zoo:alexnet_small_l2_1", kind=3), "kind=3 must be a kind of network"),
        (lambda n: n.reconstruct(images(1) * 255), r"\[0, 1\]"),
        (lambda n: n.reconstruct(images(1), batch_size=0), "batch_size"),
        (lambda n: n.denoise_fn, "a trained inverter has no denoise_fn"),
        (lambda n: arinv.load("nowhere"), "nowhere"),
    ],
)
def test_trained_reports_mistakes_in_one_line(inverter, call, message):
    with pytest.raises(UserError, match=message) as error:
        call(inverter)
    assert "\n" not in str(error.value)


def test_package_lists_its_public_names():
    assert {"load", "attacks", "losses", "metrics", "models", "data", "apps"} <= set(dir(arinv))
    assert arinv.attacks.pgd and arinv.models.build
    with pytest.raises(AttributeError, match="it has .*load"):
        arinv.nothing  # noqa: B018


def test_check_generator_rejects_images_that_are_no_multiple_of_the_stride():
    check = functools.partial(loading.check_generator, variant="default", image_size=200)
    check("resnet18_imagenet", "block2", options={})
    check("resnet18_imagenet", "block4", options={"stem": "cifar"})
    with pytest.raises(UserError, match="resnet18_imagenet block4 turns 200 px into 224 px; .* a multiple of 32"):
        check("resnet18_imagenet", "block4", options={})
    check("resnet18", "block4", options={})
    with pytest.raises(UserError, match="resnet18 block4 turns 200 px into 224 px"):
        check("resnet18", "block4", options={"stem": "imagenet"})


def test_no_images_give_no_results():
    network = arinv.load("zoo:alexnet_small_l2_1")
    images = np.zeros((0, 32, 32, 3), np.float32)
    assert network.reconstruct(images).shape == (0, 32, 32, 3)
    assert {name: x.shape for name, x in network.evaluate(images, []).items()} == dict.fromkeys(
        ("clean_accuracy", "psnr", "ssim", "mse"), (0,)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: arinv.load(None), "load needs a workdir or 'zoo:NAME'; got None"),
        (lambda: arinv.load("zoo:alexnet_small_l2_1", dtype="int32"), "dtype must be floating point"),
        (lambda: models.build("alexnet_small", dtype="foo"), "dtype must be floating point"),
        (lambda: models.build_gan("dcgan", image_size=32, dtype=None), "dtype must be floating point"),
        (lambda: models.build_gan("dcgan", image_size=32, latent_size=-3), "latent_size must be at least 0"),
        (lambda: models.build_autoencoder("conv", image_size=64, channels=2), "channels must be 1 or 3; got 2"),
        (lambda: models.build_generator("resnet18", "block4", image_size=0), "image_size must be at least 1"),
        (lambda: models.build_discriminator(image_size="32"), "image_size must be a whole number"),
        (
            lambda: models.build_discriminator(image_size=32, foo=1),
            "unknown option of the discriminator 'foo'",
        ),
        (lambda: models.build_discriminator(image_size=32, dropout=1.0), "dropout of the discriminator must be 0"),
        (
            lambda: arinv.load("zoo:alexnet_small_l2_1").decode_fn({"conv5": np.ones((2, 4, 4, 128), np.float32)}),
            r"inverts the array of one feature; got a dict: take that of its layer, such as features\[\"conv5\"\]",
        ),
        (
            lambda: arinv.load("zoo:alexnet_small_l2_1").decode_fn(np.ones((2, 3, 3, 7), np.float32)),
            r"inputs of shape \(2, 3, 3, 7\) do not fit the weights of this Generator",
        ),
        (lambda: models.build_gan("dcgan", image_size=32).draw(0, 2), "key must be a PRNG key"),
    ],
)
def test_mistakes_of_those_who_load_and_build_are_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unknown backend foo")])
def test_load_names_a_platform_without_devices(error, monkeypatch, untrained):
    monkeypatch.setattr(jax, "device_count", lambda: (_ for _ in ()).throw(error))
    with pytest.raises(UserError, match="no device of JAX_PLATFORMS='cpu'"):
        arinv.load(untrained / "robust_encoder")


def test_attack_difference_names_both_attacks_where_they_differ():
    trained = {"attack": {"eps": 1.0, "norm": "l2"}}
    line = descriptions.attack_difference(trained, eps=8 / 255, norm="linf")
    assert line == "the encoder was trained with l2 eps 1 and is attacked with linf eps 0.031373"
    assert "eps 0.5" in descriptions.attack_difference(trained, eps=0.5, norm="l2")
    for description, eps in [(trained, 1.0), (trained, 0.0), ({"attack": {"eps": 0.0, "norm": "l2"}}, 0.5), ({}, 0.5)]:
        assert descriptions.attack_difference(description, eps=eps, norm="l2") == ""


def test_networks_are_compared_by_identity():
    """Their weights are arrays, which have no truth value."""
    network = arinv.load("zoo:alexnet_small_l2_1/encoder")
    assert network in [network] and network != arinv.load("zoo:alexnet_small_l2_1/encoder") and hash(network)


def test_check_layer_requires_an_output_for_images_of_the_size():
    module = models.build("alexnet")
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    network = Trained("classifier", module, variables, {"encoder": "alexnet", "image_size": 224})
    network.check_layer("conv4", image_size=32)
    network.check_layer("fc6", image_size=96)  # its pool has one size of output
    with pytest.raises(UserError, match="^images of 32 x 32 px are too small for conv5; use larger ones"):
        network.check_layer(image_size=32)
    with pytest.raises(UserError, match="^AlexNet takes images of at least 63 x 63 px; got 32 x 32"):
        network.check_layer("fc6", image_size=32)
    with pytest.raises(UserError, match="^unknown layer of alexnet 'conv9'"):
        network.check_layer("conv9")
