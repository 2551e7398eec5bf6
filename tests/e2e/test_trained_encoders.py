"""Encoders that are trained with their generators: autoencoders of a layer."""

import contextlib

import jax
import numpy as np
import pytest
from configured import configure

import arinv
from arinv import distributed, main
from arinv.errors import UserError
from arinv.train import inverter as task
from configs import inverter


def config_of(untrained, arguments="train_encoder=True", **changes):
    shared = f"smoke=True,image_size=16,loss=pixel,encoder_checkpoint={untrained}/robust_encoder"
    config = inverter.get_config(f"{shared},{arguments}").stages.inverter
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def trained(untrained, tmp_path_factory):
    """A finished smoke run."""
    workdir = tmp_path_factory.mktemp("trained")
    main.run(config_of(untrained), workdir)
    return workdir


def test_encoder_moves_with_its_generator_and_is_loaded(untrained, trained):
    before, after = arinv.load(untrained / "robust_encoder"), arinv.load(trained)
    assert after.kind == "inverter" and after.parent.description == before.description
    shapes = [jax.tree.map(np.shape, network.variables) for network in (before, after.parent)]
    assert shapes[0] == shapes[1]
    weights = (network.variables["params"] for network in (before, after.parent))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), *weights)
    assert max(jax.tree.leaves(moved["conv1"])) > 0
    assert max(jax.tree.leaves(moved["fc8"])) == 0, "behind the inverted layer"
    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    features = after.parent.module.apply(after.parent.variables, images)[1][after.layer]
    expected = after.module.apply(after.variables, features, train=False)
    np.testing.assert_allclose(after.reconstruct(images), expected, atol=1e-5)


def test_trained_encoder_resumes_from_its_checkpoint(untrained, trained, tmp_path, monkeypatch):
    """Stopped by SIGTERM after the first of two steps."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(distributed, "preemption_guard", lambda _: contextlib.nullcontext(lambda done: done >= 1))
        main.run(config_of(untrained), tmp_path)
    first = arinv.load(tmp_path).fingerprint
    main.run(config_of(untrained), tmp_path)
    assert arinv.load(tmp_path).fingerprint == arinv.load(trained).fingerprint != first


def test_features_are_compared_by_the_encoder_as_it_was(untrained, tmp_path):
    """The encoder's own weights stay beside the copy that is trained."""
    main.run(config_of(untrained, **{"loss.feature": 1e-2}), tmp_path)
    before, after = arinv.load(untrained / "robust_encoder"), arinv.load(tmp_path)
    weights = (network.variables["params"]["conv1"]["kernel"] for network in (before, after.parent))
    assert np.ptp(np.subtract(*weights)) > 0


def test_encoders_without_weights_are_not_trained():
    config = configure(inverter, "smoke=True,encoder=hog,loss=euclidean,train_encoder=True").stages.inverter
    with pytest.raises(UserError, match="encoder.train must be False: encoder 'hog' has no weights"):
        task.check(config)


@pytest.fixture(scope="module")
def variational(untrained, tmp_path_factory):
    """A finished smoke run of a variational autoencoder that starts from random weights."""
    workdir = tmp_path_factory.mktemp("variational")
    changes = {"encoder.checkpoint": "", "encoder.start": "random", "encoder.options": {"width": 2}}
    main.run(config_of(untrained, "latent_size=5", **changes), workdir)
    return workdir


def test_variational_autoencoder_is_loaded_with_its_encoder_and_samples(variational):
    network = arinv.load(variational)
    assert (network.layer, network.latent_size, network.description["encoded_layer"]) == ("latent", 5, "conv5")
    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    latents = network.features_fn(images)["latent"]
    assert latents.shape == (2, 5)
    np.testing.assert_allclose(network.reconstruct(images), network.decode_fn(latents), atol=1e-5)
    samples = network.sample(jax.random.key(1), 3)
    expected = network.decode_fn(jax.random.normal(jax.random.key(1), (3, 5)))
    np.testing.assert_allclose(samples, expected, atol=1e-5)


def test_variational_autoencoder_is_a_comparator(untrained, variational, tmp_path):
    config = config_of(untrained, "latent_size=5")
    config.loss.update({"feature": 1.0, "comparator": str(variational), "feature_layer": "conv3"})
    config.num_steps = 1
    main.run(config, tmp_path / "own")
    config.loss.update({"comparator": str(untrained / "robust_encoder"), "feature_layer": "conv4"})
    task.check(config)
    before, after = arinv.load(untrained / "robust_encoder"), arinv.load(tmp_path / "own")
    start, end = before.variables["params"], after.parent.variables["params"]["encoder"]
    moved = np.abs(start["conv1"]["kernel"] - end["conv1"]["kernel"])
    assert 0 < moved.max() < 0.1, "it starts from the weights of the checkpoint"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder.train": False}, "encoder.latent_size=5 needs encoder.train=True"),
        ({"loss.divergence": 0.0}, "must both be above 0"),
        ({"encoder.start": "random"}, "an empty encoder.checkpoint"),
        ({"encoder.start": "random", "encoder.checkpoint": "", "encoder.layer": "fc6"}, "must be one of conv1"),
        (
            {"encoder.start": "random", "encoder.checkpoint": "", "loss.feature_layer": "fc7"},
            "loss.feature_layer='fc7' must be one of conv1",
        ),
        ({"loss.divergence": -1.0}, "must both be above 0"),
        ({"encoder.start": "zeros"}, "unknown encoder.start 'zeros'"),
    ],
)
def test_mistakes_of_variational_autoencoders_are_one_line(untrained, changes, message):
    with pytest.raises(UserError, match=message):
        task.check(config_of(untrained, "latent_size=5", **changes))
