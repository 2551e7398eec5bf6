"""Denoising of images of any size: padding, tiles without seams, one compilation, equality with the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import models
from arinv.apps.denoising import denoise
from arinv.errors import UserError
from arinv.experiment.trained import make_denoise_fn

TILES = {"multiple": 32, "tile": 128, "overlap": 64}


def identity(images):
    return images


def random_images(height, width, batch=1, seed=0):
    return np.random.default_rng(seed).random((batch, height, width, 3), np.float32)


@pytest.mark.parametrize("tiles", [{"tile": 0}, TILES, TILES | {"multiple": 64}, TILES | {"overlap": 0}])
@pytest.mark.parametrize(("height", "width"), [(321, 481), (1, 1), (40, 8000), (129, 64), (128, 160)])
def test_denoise_by_the_identity_returns_every_image_exactly(height, width, tiles):
    images = random_images(height, width)
    np.testing.assert_array_equal(denoise(identity, images, **tiles), images)


def test_denoise_takes_uint8_and_batches():
    images_u8 = np.random.default_rng(1).integers(0, 256, (3, 70, 200, 3), dtype=np.uint8)
    denoised = denoise(identity, images_u8, **TILES)
    assert denoised.dtype == np.float32
    np.testing.assert_allclose(denoised, images_u8 / 255.0, atol=1e-6)


def test_denoise_takes_unclipped_noise():
    images = 3 * random_images(65, 65) - 1
    np.testing.assert_array_equal(denoise(identity, images), images)


def wrong_at_the_border(images):
    """Wrong by 1 within 16 px of the border: the outer quarter of an overlap of 64."""
    inner = jnp.zeros(images.shape).at[:, 16:-16, 16:-16].set(1.0)
    return images + 1.0 - inner


def test_denoise_gives_the_border_of_a_tile_no_weight():
    images = random_images(320, 448)
    denoised = denoise(wrong_at_the_border, images, **TILES)
    np.testing.assert_allclose(denoised[:, 16:-16, 16:-16], images[:, 16:-16, 16:-16], atol=1e-6)
    np.testing.assert_allclose(denoised[:, :16], images[:, :16] + 1, atol=1e-6)  # except at the image's own border


def mean_of_the_tile(images):
    return jnp.broadcast_to(images.mean((1, 2, 3), keepdims=True), images.shape)


def test_denoise_blends_neighboring_tiles_gradually():
    ramp = np.broadcast_to(np.linspace(0, 1, 448, dtype=np.float32)[None, None, :, None], (1, 64, 448, 3))
    steps = np.diff(denoise(mean_of_the_tile, ramp, **TILES)[0, 0, :, 0])
    jump = 64 / 447  # between the means of neighbors, over half of the overlap
    assert steps.min() > -1e-6 and steps.max() < 1.05 * jump / 32
    assert steps.sum() > 0.6


def blur(images):
    kernel = jnp.ones((5, 5, 1, 1)) / 25
    channels = images.transpose(3, 0, 1, 2)[..., None]
    blurred = [jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
               for x in channels]  # fmt: skip
    return jnp.stack([x[..., 0] for x in blurred], axis=-1)


def test_denoise_in_tiles_equals_the_whole_image_for_a_small_receptive_field():
    images = random_images(250, 410)
    tiled, whole = denoise(blur, images, **TILES), denoise(blur, images)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    assert np.abs(whole - images).max() > 0.1


def test_denoise_compiles_one_tile_for_all_large_images():
    shapes = []

    def traced(images):
        shapes.append(images.shape)
        return images

    for height, width in ((300, 500), (129, 700), (200, 1000)):
        denoise(traced, random_images(height, width), **TILES)
    assert shapes == [(1, 128, 128, 3)]


def test_denoise_reports_progress_in_tiles():
    calls = []
    denoise(identity, random_images(128, 256), **TILES, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("images", "options", "shown"),
    [
        (np.zeros((64, 64, 3), np.float32), {}, "batch, height, width, channels"),
        (np.zeros((1, 0, 64, 3), np.float32), {}, "must be 1 px or more high and wide"),
        (np.zeros((1, 64, 64, 3), np.int32), {}, "must be uint8, or floating .*; got int32"),
        (np.zeros((1, 64, 64, 3), np.float32), {"tile": 100}, "tile=100 must be a multiple of 32 from 64 up"),
        (np.zeros((1, 64, 64, 3), np.float32), {"tile": 32}, "from 64 up"),
        (np.zeros((1, 64, 64, 3), np.float32), {"tile": 128, "overlap": 96}, "0 up to half of the tile, 64"),
        (np.zeros((1, 64, 64, 3), np.float32), {"multiple": 0}, "multiple must be at least 1; got 0"),
    ],
)
def test_denoise_rejects_wrong_images_and_sizes(images, options, shown):
    with pytest.raises(UserError, match=shown):
        denoise(identity, images, **options)


def test_denoise_rejects_a_function_that_changes_the_shape():
    with pytest.raises(UserError, match=r"denoise_fn returned \(1, 32, 64, 3\) for \(1, 64, 64, 3\)"):
        denoise(lambda images: images[:, ::2], random_images(64, 64))
    with pytest.raises(UserError, match="denoise_fn returned NaN or infinity"):
        denoise(lambda images: images / 0, random_images(64, 64))
    with pytest.raises(UserError, match="denoise_fn must be a function; got NoneType"):
        denoise(None, random_images(64, 64))


@pytest.fixture(scope="module")
def network():
    """An untrained denoiser, as jax.tree_util.Partial, whose weights preserve the variance of the signal."""
    encoder, decoder = models.build_denoiser(spectral_norm=False)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        return np.full(leaf.shape, kind in ("scale", "var"), np.float32)

    def init(images):
        (features, details), variables = encoder.init_with_output(jax.random.key(0), images)
        return variables, decoder.init(jax.random.key(0), features["conv5"], details)

    shapes = jax.eval_shape(init, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    return jax.tree_util.Partial(make_denoise_fn(encoder, decoder), variables)


@pytest.mark.long
def test_denoise_in_tiles_equals_the_whole_image_beyond_the_receptive_field(network):
    images = random_images(50, 690)
    whole = denoise(network, images)
    tiled = denoise(network, images, tile=640, overlap=320)  # two tiles, from 0 and from 64, changing at 352 +- 80
    alone = np.r_[0:272, 432:690]
    spread = whole.std()
    assert spread > 1e-3
    np.testing.assert_allclose(tiled[:, :, alone], whole[:, :, alone], atol=1e-3 * spread)
    second = denoise(network, images[:, :, 64:])  # whose left border has no weight in the tiled image
    assert np.abs(second[:, :, :32] - whole[:, :, 64:96]).max() > 0.1 * spread


def test_make_denoise_fn_returns_one_function_for_equal_networks():
    assert make_denoise_fn(*models.build_denoiser()) is make_denoise_fn(*models.build_denoiser())
    assert make_denoise_fn(*models.build_denoiser(pad_side="aligned")) is not make_denoise_fn(*models.build_denoiser())


def test_denoise_rejects_results_of_another_range_or_dtype():
    image = np.full((1, 64, 64, 3), 0.5, np.float32)
    with pytest.raises(UserError, match="what denoise_fn returns must be floating point .*; got uint8"):
        denoise(lambda x: (255 * x).astype(np.uint8), image)
    with pytest.raises(UserError, match="what denoise_fn returns must be in .*; got 127.5"):
        denoise(lambda x: 255 * x, image)
