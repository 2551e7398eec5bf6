"""Encoders with inverters as training leaves them, with random weights: for style transfers that are not looked at."""

import jax
import jax.numpy as jnp

from arinv import models
from arinv.experiment import loading
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.state import TrainState
from arinv.experiment.trained import CLASSIFIER, GENERATOR


def save(workdir, name, variables, description):
    with Checkpoints(workdir, (name,), keep=1) as checkpoints:
        state = TrainState(jnp.zeros((), jnp.int32), {name: variables}, {name: {}})
        checkpoints.save(state, data_state={}, description=description, wait=True)


def make(root, *, name, layers, seed, width=4, image_size=32):
    """Leaves an alexnet_small in root/NAME_encoder and its inverters in root/NAME_LAYER; returns the latter."""
    encoder = models.build("alexnet_small", num_classes=10, width=width)
    variables = jax.jit(encoder.init)(jax.random.key(seed), jnp.zeros((1, image_size, image_size, 3)))
    attack = {"eps": 1.0 if name == "robust" else 0.0, "norm": "l2"}
    description = {
        "kind": CLASSIFIER, "encoder": "alexnet_small", "options": {"width": width}, "num_classes": 10,
        "class_names": [], "image_size": image_size, "attack": attack,
    }  # fmt: skip
    save(root / f"{name}_encoder", CLASSIFIER, variables, description)
    loaded = loading.load(root / f"{name}_encoder", kind="classifier")
    for layer in layers:
        description = {
            "kind": "inverter", "encoder_workdir": f"../{name}_encoder", "encoder": "alexnet_small", "layer": layer,
            "variant": "default", "image_size": image_size,
        }  # fmt: skip
        generator = loading.build_generator(description, loaded, dtype=jnp.float32)
        features = loading.feature_structs(loaded.module, image_size)[layer]
        weights = jax.jit(generator.init)(jax.random.key(seed + 1), jnp.zeros(features.shape))
        save(root / f"{name}_{layer}", GENERATOR, weights, description)
    return "+".join(str(root / f"{name}_{layer}") for layer in layers)
