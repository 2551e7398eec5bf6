"""What the encoders of a style transfer need of the sides of its pictures."""

import jax
import jax.numpy as jnp
import pytest
from small_encoders import SMALL

from arinv import models
from arinv.apps.style.levels import sides, without_head


@pytest.mark.parametrize("name", models.ENCODERS)
def test_an_encoder_runs_to_its_end_on_the_smallest_picture(name):
    module = without_head(models.build(name, **SMALL.get(name, {})))
    multiple, smallest = sides(module)
    assert smallest % multiple == 0
    images = jax.ShapeDtypeStruct((1, smallest, smallest + multiple, 3), jnp.float32)
    _, features = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)
    assert all(min(feature.shape) > 0 for feature in features.values())


def test_vgg16_bn_pools_once_more_behind_its_last_features():
    assert sides(models.build("vgg16_bn")) == (16, 32)
    assert sides(models.build("vgg16")) == (32, 32)
    assert sides(models.build("alexnet_small")) == (8, 8)
