"""The training step of a GAN: what it changes, that it is a game, its plan."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv import models
from arinv.experiment.state import TrainState
from arinv.plan import plan
from arinv.tasks import TASKS
from arinv.train import class_inverters, gan
from configs import anomaly

pytestmark = pytest.mark.long  # whole steps are compiled


@pytest.fixture(scope="module")
def game():
    """A small GAN with its state and its compiled step."""
    networks = models.build_gan("dcgan", image_size=8, width=4, latent_size=4)
    shapes = {
        "generator": (networks.generator, (jax.ShapeDtypeStruct((1, 4), jnp.float32),)),
        "discriminator": (networks.discriminator, (jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32),)),
    }
    optimizers = {name: optax.adam(2e-3, b1=0.5) for name in shapes}
    state = TrainState.create(jax.random.key(0), shapes, optimizers).start_average("generator")
    options = {"game": {"name": "logistic"}, "ema_decay": 0.0, "augmentation": {}}
    return networks, state, jax.jit(gan.make_train_step(networks, optimizers, **options))


def batch_of(value):
    images = jnp.full((8, 8, 8, 3), value, jnp.float32)
    return {"image": images, "label": jnp.zeros(8, jnp.int32), "mask": jnp.ones(8, jnp.float32)}


def test_step_trains_both_networks(game):
    _, state, step = game
    after, metrics = step(state, batch_of(0.9), jax.random.key(1))
    assert int(after.step) == 1
    for name in ("generator", "discriminator"):
        changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.variables[name], after.variables[name])
        assert jax.tree.reduce(lambda a, b: a or b, changed["params"]), name
    for total, count in metrics.values():
        assert count == 8 and np.isfinite(total)


def test_generator_follows_the_images(game):
    networks, state, step = game
    for _ in range(60):
        state, metrics = step(state, batch_of(0.9), jax.random.key(1))
    latents = networks.draw(jax.random.key(2), 16)
    images = networks.generator.apply(state.variables["generator"], latents, train=False)
    assert images.mean() > 0.65, "from 0.5 towards 0.9"


def test_plan_covers_the_gan_of_each_class(tmp_path):
    config = anomaly.get_config("dataset=photos,classes=0+3,adgan=True,smoke=True").stages.gans
    stages = class_inverters.split(tmp_path / "gans", config)
    assert [stage.task for stage in stages.values()] == ["gan", "gan"]
    (planned, _) = plan.plan_stages(stages, TASKS, plan.Assumptions())
    assert planned["task"] == "gan" and planned["flops"]["per_step"] > 0 and planned["run"]["steps"] == 2
