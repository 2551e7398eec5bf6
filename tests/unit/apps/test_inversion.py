"""Inversion at other sizes than the trained one: exact sizes, padding, batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import models
from arinv.apps.inversion import enlarging
from arinv.errors import UserError
from arinv.ops import images as image_ops
from launch.benchmarks.random_weights import fill


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def identity(x):
    return {"same": x}


@pytest.fixture(scope="module")
def small():
    """alexnet_small without its head, its generator of conv5, and the weights of both."""
    encoder = models.build("alexnet_small", num_classes=0, width=2)
    options = {"encoder_options": {"width": 2}, "spectral_norm": False}
    generator = models.build_generator("alexnet_small", "conv5", **options)

    def init(images):
        (_, features), variables = encoder.init_with_output(jax.random.key(0), images)
        return {"encoder": variables, "generator": generator.init(jax.random.key(0), features["conv5"])}

    variables = fill(jax.eval_shape(init, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)))

    def functions(variables):
        return (
            lambda x: generator.apply(variables["generator"], x, train=False),
            lambda x: encoder.apply(variables["encoder"], x, train=False)[1],
        )

    return variables, functions


@pytest.mark.parametrize("name", ["alexnet", "alexnet_small", "caffenet", "resnet18", "vgg16", "wrn28_10"])
@pytest.mark.long
def test_encoder_without_head_has_the_spatial_features_at_every_size(name):
    options = {"vgg16": {"width": 8}, "wrn28_10": {"depth": 10, "width": 1}}
    whole = models.build(name, num_classes=3, **options.get(name, {}))
    headless = whole.clone(num_classes=0)
    size = 64 if whole.image_size > 32 else 32

    def shapes(module, side):
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        (_, features), variables = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x), images)
        return variables["params"], features

    params, features = shapes(whole, size)
    spatial = {n: features[n] for n, spec in whole.feature_specs().items() if not spec.is_vector}
    headless_params, headless_features = shapes(headless, size)
    assert headless_features == spatial and set(headless_params) < set(params)
    large = shapes(headless, 3 * size)[1]
    for n in spatial:
        assert large[n].shape[1] == whole.feature_specs()[n].side(3 * size)


def test_alexnet_without_head_lacks_conv5_of_small_images():
    module = models.build("alexnet", num_classes=0)
    for size, has_conv5 in ((31, False), (62, False), (63, True)):
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        features = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0][1], images)
        assert ("conv5" in features) == has_conv5 and "relu5" in features


@pytest.mark.parametrize(
    ("encoder", "layer", "size"), [("alexnet", "conv5", 64), ("alexnet", "conv1", 64), ("alexnet_small", "conv5", 32)]
)
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.long
def test_invert_scaled_returns_the_enlarged_size(encoder, layer, size, scale):
    module = models.build(encoder, num_classes=0)
    generator = models.build_generator(encoder, layer)

    def run(images):
        def features_fn(x):
            return module.init_with_output(jax.random.key(0), x)[0][1]

        def decode_fn(x):
            return generator.init_with_output(jax.random.key(0), x)[0]

        return enlarging.invert_scaled(decode_fn, features_fn, images, layer=layer, scale=scale)

    pair = jax.eval_shape(run, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    assert pair.targets.shape == pair.reconstructions.shape == (2, scale * size, scale * size, 3)


def test_enlarge_is_bilinear_and_invert_scaled_reduces_to_the_original_size():
    images = images_of(2, 4, 6, 3)
    np.testing.assert_array_equal(enlarging.enlarge(images, scale=1), images)
    enlarged = np.asarray(enlarging.enlarge(images, scale=3))
    np.testing.assert_allclose(enlarged[:, 1::3, 1::3], images, atol=1e-6)  # pixels have their centers in the middle
    between = (2 * images[:, :-1] + images[:, 1:]) / 3
    np.testing.assert_allclose(enlarged[:, 2:-1:3, 1::3], between, atol=1e-6)
    np.testing.assert_allclose(enlarged[:, 0, 1::3], images[:, 0], atol=1e-6)  # continued beyond the border

    call = {"layer": "same", "scale": 3}
    np.testing.assert_array_equal(enlarging.enlarge(images, scale=np.int64(3)), enlarged)
    pair = enlarging.invert_scaled(lambda x: x, identity, images, **call)
    np.testing.assert_array_equal(pair.targets, pair.reconstructions)
    back = enlarging.invert_scaled(lambda x: jnp.zeros_like(x) + 0.25, identity, images, compare="original", **call)
    np.testing.assert_array_equal(back.targets, images)
    np.testing.assert_allclose(back.reconstructions, 0.25, atol=1e-6)
    assert back.reconstructions.shape == images.shape


@pytest.mark.parametrize("edge", [0, 7, 40])
@pytest.mark.parametrize("size", [(321, 481), (1, 1), (500, 333), (64, 32)])
@pytest.mark.long
def test_invert_padded_by_an_identity_returns_the_images(size, edge):
    images, sizes = images_of(1, *size, 3), []

    def decode_fn(x):
        sizes.append(x.shape[1:3])
        return x

    reconstructions = enlarging.invert_padded(decode_fn, identity, images, layer="same", multiple=32, edge=edge)
    np.testing.assert_array_equal(reconstructions, images)
    assert sizes == [image_ops.padded_size(size, multiple=32, edge=edge)]
    for side, padded in zip(size, sizes[0], strict=True):
        assert padded % 32 == 0 and 0 <= padded - side - 2 * edge < 32


def test_pad_images_repeats_the_last_pixels_and_reflects_at_the_edge():
    images = np.arange(2 * 3 * 1, dtype=np.uint8).reshape(1, 2, 3, 1)
    padded = image_ops.pad_images(images, multiple=4)
    assert isinstance(padded, np.ndarray) and padded.dtype == np.uint8
    expected = [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    np.testing.assert_array_equal(padded[0, :, :, 0], expected)
    row = np.arange(3, dtype=np.float32).reshape(1, 1, 3, 1)
    np.testing.assert_array_equal(image_ops.pad_images(row, multiple=1, edge=2)[0, 0, :, 0], [2, 1, 0, 1, 2, 1, 0])
    for size in ((1, 1), (2, 5), (9, 3)):
        images = images_of(2, *size, 3)
        host, device = (image_ops.pad_images(x, multiple=8, edge=6) for x in (images, jnp.asarray(images)))
        np.testing.assert_array_equal(host, device)


def test_invert_padded_of_a_batch_equals_that_of_each_image(small):
    variables, functions = small
    images = images_of(3, 21, 13, 3)

    @jax.jit
    def run(variables, images):
        return enlarging.invert_padded(*functions(variables), images, layer="conv5", multiple=8, edge=3)

    together = run(variables, images)
    assert together.shape == images.shape and float(jnp.std(together)) > 0
    alone = jnp.concatenate([run(variables, images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_invert_padded_depends_on_the_padding_near_the_end_only(small):
    variables, functions = small
    images = images_of(1, 64, 64, 3)
    run = jax.jit(
        lambda variables, multiple: enlarging.invert_padded(
            *functions(variables), images, layer="conv5", multiple=multiple
        ),
        static_argnums=1,
    )
    plain, padded = run(variables, 64), run(variables, 96)
    np.testing.assert_allclose(plain[:, :8, :8], padded[:, :8, :8], atol=1e-5)
    assert float(jnp.max(jnp.abs(plain - padded))) > 1e-5, "the receptive field does not reach the padding"


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (lambda x: enlarging.invert(lambda f: f, identity, x, layer="conv9"), "unknown layer 'conv9'; known: same"),
        (lambda x: enlarging.invert(lambda f: f[:, 1:], identity, x, layer="same"), "8 x 8 px gives 7 x 8 px; pad"),
        (lambda x: enlarging.invert(lambda f: 2 * f - 1, identity, x, layer="same"), "returns must be in .*; got -"),
        (
            lambda x: enlarging.invert(lambda f: 255 * f, identity, x, layer="same"),
            r"in \[0, 1\]; got .*: divide by 255",
        ),
        (lambda x: enlarging.invert(lambda f: (f, 0), identity, x, layer="same"), "must be images .* got a tuple"),
        (
            lambda x: enlarging.invert(lambda f: f[:1], identity, x[[0, 0]], layer="same"),
            "must be 2 images, one for each",
        ),
        (lambda x: enlarging.invert_scaled(lambda f: f, identity, x, layer="same", scale=0), "scale .* got 0"),
        (lambda x: enlarging.invert_scaled(lambda f: f, identity, x, layer="same", scale=2.0), "whole number"),
        (lambda x: enlarging.enlarge(x, scale=True), "whole number of 1 or more; got True"),
        (lambda x: enlarging.enlarge(x, scale=np.float32(2)), "whole number of 1 or more; got .*2.0"),
        (
            lambda x: enlarging.invert_scaled(lambda f: f, identity, x, layer="same", scale=1, compare="both"),
            "known: enlarged, original",
        ),
        (lambda x: image_ops.pad_images(x, multiple=0), "multiple must be at least 1; got 0"),
        (lambda x: image_ops.pad_images(x, multiple=8, edge=-1), "edge must be at least 0; got -1"),
    ],
)
def test_inversion_rejects_wrong_arguments_in_one_line(call, shown):
    with pytest.raises(UserError, match=shown) as error:
        call(images_of(1, 8, 8, 3))
    assert "\n" not in str(error.value)
