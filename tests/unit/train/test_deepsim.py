"""DeePSiM's loss: the pause of the discriminator, another comparator, and the preset."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv import command_line, data
from arinv.errors import UserError
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.plan import plan
from arinv.tasks import TASKS
from arinv.train import inverter
from configs import inverter as inverter_config
from configs.paper import deepsim_vae

KEY = jax.random.key(0)
WEIGHTS = {"pixel": 0.5, "feature": 2.0, "adversarial": 1.0, "discriminator": 1.0}


class Pixel(nn.Module):
    """One feature, a map of sums over channels times a factor."""

    factor: float

    def __call__(self, images, *, train=False):
        return None, {"a": self.factor * jnp.sum(images, axis=-1, keepdims=True)}


class Scale(nn.Module):
    """A generator or a discriminator with one weight."""

    images: bool

    @nn.compact
    def __call__(self, x, condition=None, *, train=False):
        weight = self.param("weight", nn.initializers.constant(0.5), ())
        return jnp.tile(weight * x, (1, 1, 1, 3)) if self.images else weight * jnp.mean(x, axis=(1, 2, 3))


def run(pause, comparator=None):
    generator, discriminator = Scale(images=True), Scale(images=False)
    image = jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.float32)
    networks = {
        "generator": (generator, (jax.ShapeDtypeStruct((1, 2, 2, 1), jnp.float32),)),
        "discriminator": (discriminator, (image,)),
    }
    optimizers = {name: optax.sgd(0.1) for name in networks}
    state = TrainState.create(KEY, networks, optimizers)
    step = inverter.make_train_step(
        Pixel(1.0), generator, discriminator, optimizers, layer="a", feature_layer="a", weights=WEIGHTS, pixel_order=2,
        pause=pause, comparator=comparator, augmentation={},
    )  # fmt: skip
    images = np.random.default_rng(0).random((3, 2, 2, 3), np.float32)
    batch = {"image": images, "label": np.zeros(3, np.int32), "mask": np.ones(3, np.float32)}
    new, metrics = jax.jit(step)(state, batch, KEY, {}, *([{}] if comparator else []))
    return images, state, new, {name: float(total / count) for name, (total, count) in metrics.items()}


@pytest.mark.parametrize(("pause", "is_updated"), [(0.0, True), (0.1, True), (100.0, False)])
def test_discriminator_pauses_while_its_loss_is_small(pause, is_updated):
    _, before, after, metrics = run(pause)
    weights = [float(state.variables["discriminator"]["params"]["weight"]) for state in (before, after)]
    assert (weights[0] != weights[1]) == is_updated
    assert before.variables["generator"]["params"]["weight"] != after.variables["generator"]["params"]["weight"]
    # About 2 log 2 and log 2: the ratio of 2 lies between 0.1 and 100.
    assert 0.1 < metrics["loss_discriminator"] / metrics["loss_adversarial"] < 100


def test_comparator_takes_the_encoders_place_in_the_feature_loss():
    images, _, _, own = run(0.0)
    *_, other = run(0.0, comparator=Pixel(3.0))
    sums = images.sum(-1, keepdims=True)
    reconstructions = np.tile(0.5 * sums, (1, 1, 1, 3))
    differences = ((reconstructions.sum(-1) - images.sum(-1)) ** 2).sum((1, 2)).mean()
    assert own["loss_feature"] == pytest.approx(2.0 * differences, rel=1e-4)
    assert other["loss_feature"] == pytest.approx(2.0 * 9 * differences, rel=1e-4)
    assert own["loss_pixel"] == other["loss_pixel"]


@pytest.mark.long
def test_comparator_of_a_stage_that_is_not_complete_has_the_shapes_of_its_weights(tmp_path):
    config = deepsim_vae.get_config("smoke=True,encoder=alexnet_small,options=width:4,image_size=32")
    stages = {tmp_path / name: config.stages[name] for name in config.order}
    run = Run(config.stages.unsupervised_random_vae, tmp_path / "unsupervised_random_vae", stages)
    info = data.SourceInfo("photos", "train", 16, 10, (), 32)
    comparator = inverter._comparator(run, info)
    assert comparator.module.width == 4 and comparator.module.num_classes == 0
    assert comparator.variables["params"]["conv1"]["kernel"].shape == (5, 5, 3, 4)
    run.config.loss.feature_layer = "fc6"
    with pytest.raises(UserError, match="unknown loss.feature_layer of stage:comparator 'fc6'; known: conv1, .*conv5"):
        inverter._comparator(run, info)


def test_preset_has_the_published_weights_for_images_between_0_and_1():
    config = inverter_config.get_config("encoder=caffenet,loss=deepsim,encoder_checkpoint=x").stages.inverter
    assert config.loss.pixel == pytest.approx(0.13005) and config.loss.pixel_order == 2
    assert (config.loss.feature, config.loss.adversarial, config.loss.pause) == (0.01, 100.0, 0.1)
    assert not config.loss.conditional and config.batch_size == 64
    for adam in config.optimizer.values():
        assert (adam.b1, adam.b2, adam.schedule.name, adam.schedule.learning_rate) == (0.9, 0.999, "constant", 2e-4)
    config.loss.pause = -1.0
    with pytest.raises(UserError, match="loss.pause=-1.0 must be 0"):
        inverter.check(config)


def test_plan_refuses_a_comparator_that_a_stage_imports(tmp_path):
    config = command_line.load("inverter:smoke=true")
    imported = command_line.load("import_torch:encoder=alexnet_small,path=weights.pth")
    stages = {tmp_path / name: config.stages[name] for name in config.order} | {tmp_path / "imported": imported}
    config.stages.inverter.loss.comparator = "stage:imported"
    with pytest.raises(UserError, match="import_torch' has no network before it has run"):
        list(plan.plan_stages(stages, TASKS, plan.Assumptions()))
