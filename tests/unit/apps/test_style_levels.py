"""Sides of images that the encoders of a style transfer take."""

import jax
import jax.numpy as jnp
import pytest

from arinv import models
from arinv.apps.style.levels import sides

SMALL = {"vgg16": {"width": 8}, "vgg16_bn": {"width": 8}, "vgg19": {"width": 8}, "wrn28_10": {"width": 1}}


@pytest.mark.parametrize("name", models.ENCODERS)
@pytest.mark.long
def test_sides_are_large_enough_for_every_feature(name):
    module = models.build(name, num_classes=0, **SMALL.get(name, {}))
    multiple, smallest = sides(module)
    assert smallest % multiple == 0
    images = jax.ShapeDtypeStruct((1, smallest, smallest + multiple, 3), jnp.float32)
    _, features = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)
    assert all(min(feature.shape) > 0 for feature in features.values())


def test_sides_include_the_last_pooling_of_vgg16_bn():
    assert sides(models.build("vgg16_bn")) == (16, 32)
    assert sides(models.build("vgg16")) == (32, 32)
    assert sides(models.build("alexnet_small")) == (8, 8)
