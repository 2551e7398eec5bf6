"""The DCGAN: shapes at every size, the prior of its latents, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import models
from arinv.errors import UserError
from arinv.models.gans import dcgan
from arinv.ops.latents import draw_latents


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.long
def test_generator_and_discriminator_fit_each_other(key, size):
    gan = models.build_gan("dcgan", image_size=size, width=2, latent_size=5)
    latents = gan.draw(key, 3)
    images, _ = jax.jit(gan.generator.init_with_output)(key, latents)
    logits, variables = jax.jit(gan.discriminator.init_with_output)(key, images)
    assert latents.shape == (3, 5) and images.shape == (3, size, size, 3) and logits.shape == (3,)
    assert 0 <= images.min() and images.max() <= 1 and images.dtype == logits.dtype == jnp.float32
    assert "bn0" not in variables["params"], "no normalization after the first convolution"


def test_parameters_of_the_published_width_at_64_px():
    """Of 100 latents: dense 100 x 4 x 4 x 512, then 512, 256, 128, 64 and 3 channels by 4 x 4 kernels."""
    gan = models.build_gan("dcgan", image_size=64, latent_size=100)
    shapes = jax.eval_shape(gan.generator.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 100), jnp.float32))
    kernels = 100 * 16 * 512 + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
    count = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    assert count == kernels + 3 + 2 * (512 + 256 + 128 + 64) == 3_576_707


@pytest.mark.parametrize(("size", "expected"), [(16, (4, 2)), (28, (7, 2)), (32, (4, 3)), (64, (4, 4)), (224, (7, 5))])
def test_base_side(size, expected):
    assert dcgan.base_side(size) == expected


def test_laws_of_the_latents(key):
    normal, uniform = (draw_latents(key, (50, 256), prior=prior) for prior in ("normal", "uniform"))
    assert np.abs(normal).max() > 3 and normal.std() == pytest.approx(1, abs=0.05)
    assert np.abs(uniform).max() <= 1 and uniform.std() == pytest.approx(3**-0.5, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": "dcgam"}, "unknown networks of a GAN 'dcgam'; known: began, dcgan"),
        ({"image_size": 227}, "no images of 227 px; set image_size to"),
        ({"image_size": 4}, "no images of 4 px"),
        ({"width": 0}, "width of 'dcgan'"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        models.build_gan(**{"networks": "dcgan", "image_size": 32, **options})
