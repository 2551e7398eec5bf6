"""Workdirs of untrained networks, whose weights cost no compilation."""

import os

import jax
import jax.numpy as jnp

from arinv import models
from arinv.experiment import loading
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.state import AVERAGE, TrainState
from arinv.experiment.trained import AUTOENCODER, CLASSIFIER, GENERATOR
from launch.benchmarks.random_weights import fill


def write_encoder(workdir, *, seed, image_size=16, width=2, eps=0.0):
    """Writes the workdir of an alexnet_small's training."""
    options = {"width": width}
    module = models.build("alexnet_small", num_classes=3, **options)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), loading.image_struct(image_size))
    description = {
        "kind": CLASSIFIER,
        "encoder": "alexnet_small",
        "options": options,
        "num_classes": 3,
        "class_names": ["a", "b", "c"],
        "image_size": image_size,
        "attack": {"eps": eps, "norm": "l2"},
        "weights": CLASSIFIER,
    }
    _save(workdir, CLASSIFIER, fill(shapes, seed), description)
    return workdir


def write_inverter(workdir, encoder_workdir, *, seed, layer="conv5", image_size=16):
    """Writes the workdir of the training of an inverter of that encoder."""
    description = {
        "kind": "inverter",
        "encoder_workdir": os.path.relpath(encoder_workdir, workdir),
        "encoder": "alexnet_small",
        "layer": layer,
        "variant": "default",
        "image_size": image_size,
    }
    encoder = loading.load(encoder_workdir, kind="classifier")
    module = loading.build_generator(description, encoder, dtype=jnp.float32)
    features = loading.feature_structs(encoder.module, image_size)[layer]
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), features)
    _save(workdir, GENERATOR, fill(shapes, seed), description)
    return workdir


def write_shallow_inverter(workdir, *, seed, encoder="hog", image_size=16):
    """Writes the workdir of the training of an inverter of an encoder without weights."""
    description = {"kind": "inverter", "encoder_workdir": "", "encoder": encoder, "layer": encoder}
    description |= {"variant": "mirror", "image_size": image_size}
    own = loading.new_encoder(encoder, image_size=image_size)
    module = loading.build_generator(description, own, dtype=jnp.float32)
    features = loading.feature_structs(own.module, image_size)[encoder]
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), features)
    _save(workdir, GENERATOR, fill(shapes, seed), description)
    return workdir


def write_gan(workdir, *, seed, image_size=16):
    """Writes the workdir of a progressive GAN's training."""
    options = {"base_width": 16, "max_width": 8}
    spec = {"networks": "progressive", "latent_size": 6, "options": options}
    description = {"kind": "gan", "gan": spec, "image_size": image_size}
    module = models.build_gan("progressive", image_size=image_size, latent_size=6, **options).generator
    variables = jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, 6)))
    _save(workdir, AVERAGE, variables, description)
    return workdir


def write_autoencoder(workdir, *, seed, image_size=16, **facts):
    """Writes the workdir of an autoencoder's training."""
    spec = {"networks": "conv", "latent_size": 4}
    module = models.build_autoencoder("conv", image_size=image_size, latent_size=4)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), loading.image_struct(image_size))
    description = {"kind": AUTOENCODER, "autoencoder": spec, "image_size": image_size, **facts}
    _save(workdir, AUTOENCODER, fill(shapes, seed), description)
    return workdir


def write_aegan(workdir, *, seed, image_size=16):
    """Writes the workdir of an AEGAN's training."""
    options = {"base_width": 16, "max_width": 8, "learned_variance": False}
    spec = {"networks": "aegan", "latent_size": 6, "options": options}
    module = models.build_autoencoder("aegan", image_size=image_size, latent_size=6, **options)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), loading.image_struct(image_size))
    description = {"kind": AUTOENCODER, "autoencoder": spec, "image_size": image_size, "weights": AVERAGE}
    _save(workdir, AVERAGE, fill(shapes, seed), description)
    return workdir


def _save(workdir, name, variables, description):
    with Checkpoints(workdir, (name,), keep=1) as checkpoints:
        state = TrainState(jnp.zeros((), jnp.int32), {name: jax.tree.map(jnp.asarray, variables)}, {name: {}})
        checkpoints.save(state, data_state={}, description=description, wait=True)
