"""The two halves of the denoiser: parameter counts, sizes, AlexNet's weights, synthesis and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import models
from arinv.apps.denoising import denoise
from arinv.errors import UserError
from arinv.experiment.trained import make_denoise_fn
from arinv.models.generators.wavelet import DecoderStep, EncoderStep, WaveletDecoder, mirror_decoder

KEY = jax.random.key(0)


def images_of(height, width):
    return jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)


def encoded(encoder, images):
    features, details = jax.eval_shape(lambda x: encoder.init_with_output(KEY, x)[0], images)
    return features["conv5"], details


def count(module, *inputs):
    params = jax.eval_shape(lambda *x: module.init(KEY, *x), *inputs)["params"]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("variant", "expected"), [("default", 2_574_778), ("table_a9", 2_574_865)])
def test_denoiser_parameter_counts(variant, expected):
    encoder, decoder = models.build_denoiser(variant=variant)
    assert count(encoder, images_of(224, 224)) == 2_469_696
    assert count(decoder, *encoded(encoder, images_of(224, 224))) == expected


@pytest.mark.parametrize("pad_side", ["official", "aligned"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160), (224, 224), (64, 1024)])
@pytest.mark.long
def test_decoder_returns_the_size_of_the_input(height, width, pad_side):
    encoder, decoder = models.build_denoiser(pad_side=pad_side, dtype=jnp.bfloat16)
    inputs = encoded(encoder, images_of(height, width))
    images = jax.eval_shape(lambda *x: decoder.init_with_output(KEY, *x)[0], *inputs)
    assert images.shape == (2, height, width, 3) and images.dtype == jnp.float32


def test_decoder_training_updates_statistics_and_singular_vectors():
    encoder, decoder = models.build_denoiser()
    inputs = encoded(encoder, images_of(64, 64))
    variables = jax.eval_shape(lambda *x: decoder.init(KEY, *x), *inputs)
    collections = [name for name in variables if name != "params"]
    images, changed = jax.eval_shape(
        lambda v, *x: decoder.apply(v, *x, train=True, mutable=collections), variables, *inputs
    )
    assert images.shape == (2, 64, 64, 3) and set(changed) == {"batch_stats", "spectral"}
    assert set(variables["spectral"]) == {name for name in variables["params"] if not name.startswith("bn")}


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 100), (0, 64)])
def test_encoder_rejects_sides_that_are_not_multiples_of_32(height, width):
    with pytest.raises(UserError, match=f"multiples of 32 from 64 up; got {height} x {width}"):
        encoded(models.build_denoiser().encoder, images_of(height, width))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "vgg16"}, "known: alexnet, alexnet_small"),
        ({"variant": "a9"}, "default, table_a9"),
        ({"encoder": "alexnet_small", "variant": "table_a9"}, "unknown variant .* known: default"),
        ({"pad_side": "right"}, "aligned, official"),
        ({"encoder": "alexnet_small", "pad_side": "aligned"}, "leave it 'official'"),
        ({"encoder_options": {"head": 1}}, "head_side"),
    ],
)
def test_build_denoiser_lists_the_allowed_names(options, message):
    with pytest.raises(UserError, match=message):
        models.build_denoiser(**options)


@pytest.mark.parametrize(("variant", "layers"), [("default", ["bn17"]), ("table_a9", ["bn17", "bn18"])])
@pytest.mark.long
def test_image_bias_changes_only_normalizations_of_three_channels(variant, layers):
    encoder, decoder = models.build_denoiser(variant=variant)

    @jax.jit
    def init(images):
        features, details = encoder.init_with_output(jax.random.key(0), images)[0]
        return decoder.clone(image_bias=2.0).init(jax.random.key(0), features["conv5"], details)

    variables = init(jnp.zeros((1, 64, 64, 3)))
    biases = {name: np.unique(p["bias"]).tolist() for name, p in variables["params"].items() if name.startswith("bn")}
    assert sorted(name for name in biases if biases[name] == [2.0]) == layers
    assert all(biases[name] == [0.0] for name in biases if name not in layers)


@pytest.fixture(scope="module")
def analyzed():
    """AlexNet's features of one image at 224 px, and the wavelet encoder's with the same weights."""
    options = {"normalization": "pm1"}
    alexnet = models.build("alexnet", num_classes=0, **options)
    images = jnp.asarray(np.random.default_rng(0).random((1, 224, 224, 3), np.float32))
    variables = jax.jit(alexnet.init)(KEY, images[:, :64, :64])
    variables["params"]["fc6"] = {"kernel": jnp.zeros((9, 4))}  # a classifier's checkpoint has more than it takes
    encoder = models.build_denoiser(encoder_options=options).encoder
    features = jax.jit(lambda v, x: alexnet.apply(v, x)[1])(variables, images)
    return features, *jax.jit(encoder.apply)(variables, images)


@pytest.mark.long
def test_wavelet_encoder_accepts_the_weights_of_alexnet(analyzed):
    alexnet, features, details = analyzed
    np.testing.assert_array_equal(features["relu1"], alexnet["relu1"])
    assert float(features["relu1"].max()) > 0.1
    assert not np.array_equal(features["conv1"], alexnet["conv1"])  # low bands, not maxima
    assert {name: features[name].shape[1] for name in features} == {
        "relu1": 55, "conv1": 27, "relu2": 27, "conv2": 13, "conv3": 13, "conv4": 13, "relu5": 13, "conv5": 6,
    }  # fmt: skip
    assert {name: [band.shape[1] for band in bands] for name, bands in details.items()} == {
        "conv1": [27] * 3, "conv2": [13] * 3, "conv5": [6] * 3,
    }  # fmt: skip


def step(kind, value, inputs, details, pad_side="official"):
    decoder = WaveletDecoder(pad_side=pad_side)
    return decoder.apply({}, inputs, details, DecoderStep(kind, value), "0", False, method=WaveletDecoder._step)


@pytest.mark.parametrize(("layer", "sides"), [("1", (55, 54)), ("2", (27, 26)), ("5", (13, 12))])
def test_synthesis_inverts_analysis_except_for_the_dropped_border(analyzed, layer, sides):
    _, features, details = analyzed
    whole, kept = sides
    before = np.asarray(features[f"relu{layer}"])
    after = np.asarray(step("synthesis", f"conv{layer}", features[f"conv{layer}"], details))
    assert before.shape[1] == whole and after.shape[1] == kept
    np.testing.assert_allclose(after, before[:, :kept, :kept], atol=1e-5 * before.max())


def test_aligned_padding_restores_positions_and_official_padding_shifts_them(analyzed):
    _, features, details = analyzed
    before, kept = np.asarray(features["relu2"]), slice(0, 26)
    unpooled = step("synthesis", "conv2", features["conv2"], details)
    padded = {side: np.asarray(step("pad", 1, unpooled, details, side)) for side in ("official", "aligned")}
    tolerance = 1e-5 * before.max()
    np.testing.assert_allclose(padded["aligned"][:, kept, kept], before[:, kept, kept], atol=tolerance)
    np.testing.assert_allclose(padded["official"][:, kept, 1:], before[:, kept, kept], atol=tolerance)
    for side, column in (("official", 0), ("aligned", 26)):  # reflected, without the edge itself
        np.testing.assert_array_equal(padded[side][:, :, column], padded[side][:, :, abs(column - 2)])
        np.testing.assert_array_equal(padded[side][:, 26], padded[side][:, 24])


WIDTH = 4


@pytest.fixture(scope="module")
def small():
    """A small AlexNet, the denoiser with its weights, and the variables of both halves."""
    options = {"width": WIDTH, "normalization": "pm1"}
    alexnet = models.build("alexnet_small", num_classes=0, **options)
    encoder, decoder = models.build_denoiser("alexnet_small", encoder_options=options)
    images = jnp.asarray(np.random.default_rng(0).random((1, 64, 96, 3), np.float32))

    @jax.jit
    def init(images):
        variables = alexnet.init(KEY, images)
        features, details = encoder.apply(variables, images)
        return variables, decoder.init(KEY, features["conv5"], details)

    return alexnet, encoder, decoder, init(images), images


def test_wavelet_encoder_accepts_the_weights_of_a_small_alexnet(small):
    alexnet, encoder, _, (variables, _), images = small
    features, details = jax.jit(encoder.apply)(variables, images)
    pooled = jax.jit(lambda v, x: alexnet.apply(v, x)[1])(variables, images)
    np.testing.assert_array_equal(pooled["conv1"], features["relu1"].reshape(1, 32, 2, 48, 2, WIDTH).max((2, 4)))
    for layer in ("conv1", "conv2", "conv5"):
        assert features[layer].shape == pooled[layer].shape == details[layer][0].shape
    assert features["conv5"].shape == (1, 8, 12, 4 * WIDTH)


@pytest.mark.parametrize("width", [3, 32])
def test_decoder_of_a_small_alexnet_returns_the_size_of_the_input(width):
    encoder, decoder = models.build_denoiser("alexnet_small", encoder_options={"width": width})
    inputs = encoded(encoder, images_of(64, 160))
    assert inputs[0].shape == (2, 8, 20, 4 * width)
    images = jax.eval_shape(lambda *x: decoder.init_with_output(KEY, *x)[0], *inputs)
    assert images.shape == (2, 64, 160, 3) and images.dtype == jnp.float32


def test_denoiser_on_a_small_alexnet_takes_images_of_any_size_and_grey_ones(small):
    _, encoder, decoder, variables, images = small
    denoise_fn = jax.tree_util.Partial(make_denoise_fn(encoder, decoder), variables)
    odd = np.asarray(images)[:, :50, :77]
    assert denoise(denoise_fn, odd).shape == odd.shape
    grey = images[..., :1]
    np.testing.assert_array_equal(denoise_fn(grey), denoise_fn(jnp.repeat(grey, 3, axis=-1)))


def test_gradients_reach_all_parameters_of_the_decoder_of_a_small_alexnet(small):
    _, encoder, decoder, (weights, variables), images = small
    features, details = encoder.apply(weights, images)

    @jax.jit
    def gradients(params):
        def loss(params):
            own, mutable = variables | {"params": params}, [name for name in variables if name != "params"]
            outputs, _ = decoder.apply(own, features["conv5"], details, train=True, mutable=mutable)
            return jnp.mean(jnp.square(outputs - images))

        return jax.grad(loss)(params)

    leaves = jax.tree_util.tree_leaves_with_path(gradients(variables["params"]))
    assert len(leaves) == 6 * 3 + 2  # a kernel, a scale and a bias of each, then "rgb"
    assert all(np.abs(leaf).max() > 0 for _, leaf in leaves), jax.tree.map(lambda x: float(np.abs(x).max()), leaves)


def test_mirror_decoder_has_a_synthesis_for_each_analysis():
    plan = (
        EncoderStep("conv1", 8, 3),
        EncoderStep("conv2", 16, 3, pools=True),
        EncoderStep("conv3", 24, 3, pools=True),
    )
    assert [tuple(step) for step in mirror_decoder(plan)] == [
        ("conv", 24), ("synthesis", "conv3"), ("conv", 16), ("synthesis", "conv2"), ("conv", 8), ("conv", 8),
    ]  # fmt: skip
