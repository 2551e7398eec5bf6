"""Progressive GAN, BEGAN and the convolutional autoencoder: parameter counts, and their layers in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import models
from arinv.errors import UserError
from arinv.models.autoencoders.conv_ae import ConvDecoder, ConvEncoder, GaussianEncoder
from arinv.models.gans.began import BeganDiscriminator, BeganGenerator
from arinv.models.gans.progressive import (
    EqualizedConv,
    EqualizedDense,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    fade_images,
    grow,
    minibatch_deviation,
    pixel_norm,
)

SMALL = {"latent_size": 6, "base_width": 16, "max_width": 8}


def count(module, *shape):
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(shape)))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("size", "generator", "discriminator"),
    [
        (32, 20_719_628, 20_726_785),
        (64, 22_490_383, 22_498_049),
        (128, 22_933_394, 22_941_313),
        (256, 23_044_309, 23_052_353),
    ],
)
def test_progressive_gan_has_the_published_number_of_parameters(size, generator, discriminator):
    assert count(ProgressiveGenerator(size), 4, 512) == generator
    assert count(ProgressiveDiscriminator(size), 4, size, size, 3) == discriminator


@pytest.mark.parametrize(("latent", "number"), [(64, 19_369_287), (128, 19_893_575), (256, 20_942_151)])
def test_progressive_generator_of_rocks_by_latent_size(latent, number):
    assert count(ProgressiveGenerator(256, channels=1, latent_size=latent), 4, latent) == number


def test_began_has_the_published_number_of_parameters():
    assert count(BeganGenerator(), 2, 64) == 1_716_611
    assert count(BeganDiscriminator(), 2, 64, 64, 3) == 13_405_379


@pytest.mark.parametrize(
    ("size", "channels", "encoder", "decoder"),
    [
        (128, 3, 7_337_024, 7_339_843),
        (64, 3, 6_550_592, 6_550_339),
        (256, 1, 10_482_176, 10_497_281),
        (256, 3, 10_482_752, 10_497_859),
    ],
)
def test_conv_autoencoder_has_the_published_number_of_parameters(size, channels, encoder, decoder):
    assert count(ConvEncoder(), 2, size, size, channels) == encoder
    assert count(ConvDecoder(size, channels), 2, 256) == decoder


def test_encoder_of_an_autoencoder_with_gan_has_one_head_or_two():
    assert count(GaussianEncoder(), 2, 128, 128, 3) == 10_483_520
    assert count(GaussianEncoder(learned_variance=False), 2, 128, 128, 3) == 8_385_856


def test_pixel_norm_divides_by_the_root_mean_square(key):
    x = np.asarray(jax.random.normal(key, (2, 3, 3, 5)))
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(pixel_norm(jnp.asarray(x)), expected, rtol=1e-5)


def test_minibatch_deviation_groups_example_i_with_i_modulo_the_groups(key):
    x = np.asarray(jax.random.normal(key, (8, 2, 2, 3)))
    result = np.asarray(minibatch_deviation(jnp.asarray(x)))
    np.testing.assert_array_equal(result[..., :3], x)
    for i in range(8):
        group = x[[j for j in range(8) if j % 2 == i % 2]]
        expected = np.sqrt(group.var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(result[i, ..., 3], np.full((2, 2), expected), rtol=1e-5)
    with pytest.raises(UserError, match="batch of 6 .* groups of 4"):
        minibatch_deviation(jnp.zeros((6, 2, 2, 3)))


def convolve(x, params, *, gain=2**0.5):
    """The convolution of x [B, H, W, C] by a kernel of odd size, scaled by gain / sqrt(fan-in), with its bias."""
    kernel, side = np.asarray(params["kernel"]), len(params["kernel"]) // 2
    padded = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))  # [B, H, W, C, i, j]
    sums = np.einsum("bhwcij,ijco->bhwo", windows, kernel)
    return sums * (gain / math.sqrt(math.prod(kernel.shape[:3]))) + np.asarray(params["bias"])


def test_equalized_kernels_are_scaled_in_the_forward_pass(key):
    x = np.asarray(jax.random.normal(key, (2, 4, 4, 3)))
    conv = EqualizedConv(5)
    variables = conv.init(key, x)
    assert 0.8 < np.std(variables["params"]["kernel"]) < 1.2
    np.testing.assert_allclose(conv.apply(variables, x), convolve(x, variables["params"]), atol=1e-5)
    dense = EqualizedDense(4, gain=1.0)
    variables = dense.init(key, x[:, 0, 0])
    expected = x[:, 0, 0] @ np.asarray(variables["params"]["kernel"]) / math.sqrt(3)
    np.testing.assert_allclose(dense.apply(variables, x[:, 0, 0]), expected, rtol=1e-4, atol=1e-6)


def enlarge(x):
    return np.asarray(x).repeat(2, axis=1).repeat(2, axis=2)


def means(x):
    x = np.asarray(x)
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean(axis=(2, 4))


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def normalized(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-8)


def grown(network, inputs, larger_inputs):
    """A network of 8 px with its output, and that of 16 px that has grown from it.

    Returns:
      The output at 8 px, the parameters at 16 px, and a function of the fade that returns the output at 16 px with what
      each convolution returns.
    """
    small, large = network(8, **SMALL), network(16, **SMALL)
    before = jax.jit(small.init)(jax.random.key(1), inputs)
    after = grow(jax.jit(large.init)(jax.random.key(2), larger_inputs), before)

    @jax.jit
    def apply(fade):
        output, collections = large.apply(after, larger_inputs, fade, capture_intermediates=True)
        layers = {name: x for name, x in collections["intermediates"].items() if name != "__call__"}
        return output, {name: x["__call__"][0] for name, x in layers.items()}

    return small.apply(before, inputs), after["params"], apply


@pytest.mark.long
def test_generator_fades_from_the_enlarged_image_to_its_own(key):
    latents = jax.random.normal(key, (4, 6))
    images, params, apply = grown(ProgressiveGenerator, latents, latents)
    for fade in (0.0, 0.25, 1.0):
        output, features = apply(fade)
        last = normalized(leaky(np.asarray(features["conv16_1"])))
        new = (convolve(last, params["rgb16"], gain=1.0) + 1) / 2
        assert np.abs(new - enlarge(images)).max() > 1e-2
        np.testing.assert_allclose(output, (1 - fade) * enlarge(images) + fade * new, atol=1e-5)


@pytest.mark.long
def test_discriminator_fades_from_the_one_of_half_the_size(key):
    """The features that enter the blocks of 8 px, and at a fade of 0 the scores: those of the small network."""
    images = jax.random.uniform(key, (4, 16, 16, 3))
    scores, params, apply = grown(ProgressiveDiscriminator, means(images), images)
    before = leaky(convolve(2 * means(images) - 1, params["rgb8"]))
    new = leaky(convolve(2 * np.asarray(images) - 1, params["rgb16"]))
    new = leaky(convolve(new, params["conv16_0"]))
    new = leaky(means(convolve(new, params["conv16_1"])))
    assert np.abs(new - before).max() > 0.1
    for fade in (0.0, 0.25, 1.0):
        output, features = apply(fade)
        expected = convolve((1 - fade) * before + fade * new, params["conv8_0"])
        np.testing.assert_allclose(features["conv8_0"], expected, atol=1e-5)
        if fade == 0:
            np.testing.assert_allclose(output, scores, rtol=1e-4, atol=1e-6)


def test_images_fade_from_their_means(key):
    images = jax.random.uniform(key, (2, 8, 8, 3))
    for fade in (0.0, 0.25, 1.0):
        expected = (1 - fade) * enlarge(means(images)) + fade * np.asarray(images)
        np.testing.assert_allclose(fade_images(images, fade), expected, atol=1e-6)


def test_grow_rejects_networks_of_other_widths():
    zeros = np.zeros((3, 4))
    large = {"params": {"dense": {"kernel": zeros}, "rgb8": {"bias": zeros}}}
    merged = grow(large, {"params": {"dense": {"kernel": zeros + 1}}})
    assert merged["params"]["dense"]["kernel"].all() and not merged["params"]["rgb8"]["bias"].any()
    with pytest.raises(UserError, match="dense/kernel has the shape .3, 2., in the larger one .3, 4.; give both"):
        grow(large, {"params": {"dense": {"kernel": zeros[:, :2]}}})
    with pytest.raises(UserError, match="rgb4 of the smaller network is not in the larger one"):
        grow(large, {"params": {"rgb4": {"bias": zeros}}})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ProgressiveGenerator(12).init(jax.random.key(0), jnp.zeros((1, 512))), "got 12"),
        (lambda: ProgressiveGenerator(8).init(jax.random.key(0), jnp.zeros((1, 64))), "shape \\(1, 64\\)"),
        (lambda: BeganGenerator(48).init(jax.random.key(0), jnp.zeros((1, 64))), "got 48"),
        (lambda: ConvEncoder().init(jax.random.key(0), jnp.zeros((1, 96, 96, 3))), "96 px is not a multiple of 64"),
    ],
)
@pytest.mark.long
def test_networks_reject_other_sizes(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 8, 8, 3), 200, np.uint8), "uint8"),
        (np.full((2, 8, 8, 3), 200.0, np.float32), "got 200 to 200"),
        (np.zeros((2, 16, 16, 3), np.float32), "do not fit the weights of this Autoencoder"),
    ],
)
def test_autoencoders_refuse_other_images(key, images, message):
    network = models.build_autoencoder("conv", image_size=8, latent_size=4)
    variables = network.init(key, jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(UserError, match=message):
        network.apply(variables, images)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.build_gan("progressive", image_size=64.0), "image_size must be a whole number"),
        (lambda: models.build_autoencoder("conv", image_size=64.0), "image_size must be a whole number"),
        (lambda: models.build_autoencoder("aegan", image_size=8, learned_variance="no"), "must be true or false"),
        (lambda: models.build_autoencoder("aegan", image_size=8, base_width="a"), "base_width of 'aegan' must be a"),
        (
            lambda: models.build_autoencoder("aegan", image_size=32, base_width=8),
            "no feature at 32 px; take 16 or more",
        ),
        (lambda: models.build_gan("progressive", image_size=32, base_width=8), "no feature at 32 px; take 16 or more"),
    ],
)
def test_options_of_other_types_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
