"""Networks: parameter counts of the papers, image sizes, spectral norm, and rejected options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_encoders import SMALL

from arinv import models
from arinv.errors import UserError
from arinv.models.encoders.base import normalize
from arinv.models.generators.mirror import Generator
from arinv.models.generators.plans import PAPER_PLANS, Plan, Step, shorten
from arinv.models.layers import Conv, ConvTranspose

KEY = jax.random.key(0)


def images_of(size, batch=2):
    return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)


def abstract(module, *inputs):
    return jax.eval_shape(lambda *x: module.init(KEY, *x), *inputs)


def count(variables):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


def features_of(encoder, size):
    return jax.eval_shape(lambda x: encoder.init_with_output(KEY, x)[0][1], images_of(size))


@pytest.mark.parametrize(
    ("name", "size", "classes", "expected"),
    [
        ("alexnet", 224, 1000, 61_100_840),
        ("caffenet", 227, 1000, 60_965_224),
        ("preact_resnet18", 32, 10, 11_172_170),
        ("resnet18", 32, 10, 11_173_962),
        ("resnet18_imagenet", 32, 1000, 11_689_512),
        ("resnet34_imagenet", 32, 1000, 21_797_672),
        ("resnet50", 32, 10, 23_520_842),
        ("resnet50_imagenet", 32, 1000, 25_557_032),
        ("resnet101_imagenet", 32, 1000, 44_549_160),
        ("vgg16", 224, 1000, 138_357_544),
        ("vgg16_bn", 64, 143, 14_796_495),
        ("vgg19", 224, 1000, 143_667_240),
        ("wide_resnet50_2", 32, 1000, 68_883_240),
        ("wrn28_10", 32, 10, 36_479_194),
        ("wrn34_10", 32, 10, 46_160_474),
        ("wrn70_16_silu", 32, 10, 266_796_506),
    ],
)
def test_encoder_parameter_counts(name, size, classes, expected):
    encoder = models.build(name, num_classes=classes)
    assert count(abstract(encoder, images_of(size))) == expected


def test_vgg16_parameters_up_to_conv5_1():
    """Counts the convolutions of the part that is inverted."""
    params = abstract(models.build("vgg16"), images_of(224))["params"]
    before = [params[name] for name in params if name.startswith("conv") and name <= "conv5_1"]
    assert len(before) == 11 and count({"params": before}) == 9_995_072


@pytest.mark.parametrize(
    ("encoder", "layer", "variant", "expected"),
    [
        ("alexnet", "conv5", "default", 4_753_370),
        ("alexnet", "conv5", "table_a4", 5_651_258),
        ("alexnet", "conv5", "interpolation", 3_208_570),
        ("alexnet", "conv2", "default", 1_320_442),
        ("alexnet", "conv1", "default", 209_578),
        ("resnet18", "block4", "default", 5_890_499),
        ("vgg16", "conv5_1", "default", 12_446_147),
        ("vgg16_bn", "conv5_1", "default", 12_446_147),
        ("wrn28_10", "block3", "default", 8_961_107),
    ],
)
@pytest.mark.long
def test_generator_parameter_counts(encoder, layer, variant, expected):
    size = models.build(encoder).image_size
    generator = models.build_generator(encoder, layer, variant=variant)
    assert count(abstract(generator, features_of(models.build(encoder), size)[layer])) == expected


@pytest.mark.parametrize(
    ("encoder", "layer", "variant", "feature", "expected", "side"),
    [
        ("hog", "hog", "default", (32, 32, 31), 20_504_035, 256),
        ("sift", "sift", "default", (64, 64, 133), 93_430_243, 256),
        ("lbp", "lbp", "default", (16, 16, 58), 20_796_003, 256),
        ("caffenet", "conv1", "dosovitskiy_brox", (27, 27, 96), 1_864_899, 216),
        ("caffenet", "conv2", "dosovitskiy_brox", (13, 13, 256), 2_848_067, 208),
        ("caffenet", "conv3", "dosovitskiy_brox", (13, 13, 384), 3_142_979, 208),
        ("caffenet", "conv4", "dosovitskiy_brox", (13, 13, 384), 3_142_979, 208),
        ("caffenet", "conv5", "dosovitskiy_brox", (6, 6, 256), 4_486_723, 192),
        ("caffenet", "fc6", "dosovitskiy_brox", (4096,), 53_060_419, 128),
        ("caffenet", "fc7", "dosovitskiy_brox", (4096,), 53_060_419, 128),
        ("caffenet", "fc8", "dosovitskiy_brox", (1000,), 40_379_203, 128),
        ("caffenet", "conv5", "deepsim", (6, 6, 256), 12_700_672, 227),
        ("caffenet", "fc6", "deepsim", (4096,), 56_096_256, 227),
        ("caffenet", "fc8", "deepsim", (1000,), 43_415_040, 227),
    ],
)
@pytest.mark.long
def test_earlier_generators_have_the_published_parameters_and_sides(encoder, layer, variant, feature, expected, side):
    plan = PAPER_PLANS[encoder, layer, variant]
    generator = Generator(plan, is_vector=len(feature) == 1, image_size=227 if plan.fit else 0)
    features = jax.ShapeDtypeStruct((2, *feature), jnp.float32)
    assert count(abstract(generator, features)) == expected
    images = {
        train: jax.eval_shape(lambda x, t=train: generator.init_with_output(KEY, x, train=t)[0], features)
        for train in (True, False)
    }
    assert images[True].shape == (2, side, side, 3)
    assert images[False].shape == (2, 227 if plan.fit else side, 227 if plan.fit else side, 3)


def test_dense_plans_lose_their_first_steps_for_smaller_images():
    for variant, sides in (("dosovitskiy_brox", {227: 128, 64: 64, 100: 128}), ("deepsim", {227: 256, 64: 64})):
        plan = PAPER_PLANS["caffenet", "fc6", variant]
        assert {size: 4 * shorten(plan, size).growth() for size in sides} == sides
    spatial = PAPER_PLANS["caffenet", "conv5", "dosovitskiy_brox"]
    assert shorten(spatial, 64) is spatial


def test_up_convolution_of_odd_kernels_inserts_zeros_right_and_below(key):
    x = jax.random.normal(key, (1, 3, 3, 2))
    layer = ConvTranspose(4, 2, size=5, spectral_norm=False)
    variables = layer.init(key, x, train=False)
    zeros = jnp.zeros((1, 6, 6, 2)).at[:, ::2, ::2].set(x)
    expected = jax.lax.conv_general_dilated(
        zeros, variables["params"]["kernel"], (1, 1), ((2, 2), (2, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer.apply(variables, x, train=False), expected, atol=1e-5)


def test_linear_output_begins_near_the_middle_and_is_clipped_in_evaluation_only(key):
    plan = Plan((Step("conv", 64, bias=True),), batch_norm=False, spectral_norm=False, slope=0.2, output="linear")
    generator, x = Generator(plan), jax.random.normal(key, (2, 4, 4, 32))
    variables = generator.init(key, x)
    images = generator.apply(variables, x)
    assert set(variables) == {"params"} and abs(float(images.mean()) - 0.5) < 0.05 and 0 < float(images.std()) < 0.3
    wild = generator.apply(variables, 100 * x, train=True)
    np.testing.assert_allclose(generator.apply(variables, 100 * x), jnp.clip(wild, 0, 1))
    assert float(wild.max()) > 1


def test_deepsim_discriminator_has_the_published_parameters():
    discriminator = models.build_discriminator(image_size=227, conditional=False, spectral_norm=False)
    assert count(abstract(discriminator, images_of(227))) == 1_147_714


def test_discriminator_parameter_count():
    discriminator = models.build_discriminator(image_size=224)
    variables = abstract(discriminator, images_of(224), jax.ShapeDtypeStruct((2, 6, 6, 256), jnp.float32))
    assert count(variables) == 11_372_353


@pytest.mark.parametrize("normalization", ["caffe", "imagenet"])
def test_features_of_a_new_caffenet_have_a_moderate_scale_whatever_that_of_pixels(normalization, key):
    images = jax.random.uniform(key, (8, 64, 64, 3))
    encoder = models.build("caffenet", num_classes=10, dense_width=256, normalization=normalization)
    (logits, features), _ = encoder.init_with_output(key, images)
    scales = {name: float(jnp.sqrt(jnp.mean(x**2))) for name, x in features.items()}
    assert 0.3 < scales["fc6"] < 10 and 0.3 < scales["fc7"] < 10, scales  # 60 with He initialization of Caffe's pixels
    assert jnp.std(logits) < 2


def test_alexnet_has_the_same_parameters_at_every_image_size():
    encoder = models.build("alexnet")
    sizes = [jax.tree.map(lambda x: x.shape, abstract(encoder, images_of(size))) for size in (64, 224, 448)]
    assert sizes[0] == sizes[1] == sizes[2]


def test_caffenet_features_have_one_size_at_224_and_at_227():
    encoder = models.build("caffenet")
    small, published = ({k: v.shape for k, v in features_of(encoder, size).items()} for size in (224, 227))
    assert small == published
    assert published["conv1"] == (2, 27, 27, 96) and published["conv2"] == (2, 13, 13, 256)
    assert published["conv5"] == (2, 6, 6, 256)


@pytest.mark.parametrize("name", ["resnet50", "resnet18_imagenet", "wrn28_10", "wrn28_10_silu", "preact_resnet18_silu"])
def test_residual_encoders_take_images_of_any_size(name):
    encoder = models.build(name, **SMALL[name])
    strides = {layer: spec.stages[-1].stride for layer, spec in encoder.feature_specs().items()}
    for size in (1, 45):
        assert {layer: x.shape[1] for layer, x in features_of(encoder, size).items()} == {
            layer: -(-size // stride) for layer, stride in strides.items()
        }


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_alexnet_generator_is_fully_convolutional(scale):
    size = 224 * scale
    feature = features_of(models.build("alexnet", num_classes=10), size)["conv5"]
    assert feature.shape[1] == 7 * scale - 1
    generator = models.build_generator("alexnet", "conv5")
    out = jax.eval_shape(lambda x: generator.init_with_output(KEY, x)[0], feature)
    assert out.shape == (2, size, size, 3)


@pytest.mark.long
def test_generator_trains_and_evaluates(key):
    features = jax.random.uniform(key, (4, 4, 4, 16))
    generator = models.build_generator("alexnet_small", "conv5", encoder_options={"width": 4})
    variables = jax.jit(generator.init)(key, features)
    apply = jax.jit(
        lambda v, train: generator.apply(v, features, train=train, mutable=["batch_stats", "spectral"]),
        static_argnums=1,
    )
    images, after = apply(variables, True)
    assert images.shape == (4, 32, 32, 3)
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), variables["batch_stats"], after["batch_stats"])
    assert all(jax.tree.leaves(changed))
    _, same = apply(variables, False)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves({k: variables[k] for k in same}), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layer", [Conv(8), ConvTranspose(8, 2)], ids=["conv", "transposed"])
@pytest.mark.long
def test_spectral_norm_brings_the_largest_singular_value_to_one(layer, key):
    x = jax.random.normal(key, (1, 4, 4, 6))
    variables = layer.init(key, x, train=False)
    for _ in range(10):
        _, state = layer.apply(variables, x, train=True, mutable=["spectral"])
        variables = {**variables, **state}
    kernel = np.asarray(variables["params"]["kernel"])
    matrix = kernel.reshape(-1, kernel.shape[-1])
    vectors = variables["spectral"]["vectors"]
    sigma = vectors["v"] @ matrix @ vectors["u"]
    np.testing.assert_allclose(sigma, np.linalg.svd(matrix, compute_uv=False)[0], rtol=0.02)
    doubled = {**variables, "params": {"kernel": 2 * kernel}}
    np.testing.assert_allclose(
        layer.apply(doubled, x, train=False), layer.apply(variables, x, train=False), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "classes", "smallest"),
    [
        ("alexnet", 10, 63),
        ("alexnet", 0, 31),
        ("alexnet_small", 10, 8),
        ("caffenet", 10, 39),
        ("caffenet", 0, 39),
        ("vgg16", 10, 32),
        ("vgg16_bn", 0, 32),
    ],
)
def test_encoder_rejects_images_below_the_smallest_side(name, classes, smallest):
    encoder = models.build(name, num_classes=classes)
    assert all(0 not in feature.shape for feature in features_of(encoder, smallest).values())
    for shape in ((1, smallest - 1, 64, 3), (1, 64, smallest - 1, 3)):
        with pytest.raises(UserError, match=f"at least {smallest} x {smallest} px; got {shape[1]} x {shape[2]}"):
            abstract(encoder, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("alexnet", {"num_classes": -1}),
        ("resnet18", {"num_classes": 2.5}),
        ("vgg16", {"width": 0}),
        ("alexnet_small", {"width": -4}),
        ("wrn28_10", {"depth": 0}),
        ("alexnet_small", {"dropout": 1}),
        ("alexnet_small", {"dropout": -0.5}),
        ("vgg16", {"dense_width": 0}),
        ("vgg16", {"batch_norm": "yes"}),
        ("wrn28_10", {"activation": 3}),
    ],
)
def test_build_rejects_impossible_numbers(name, options):
    ((option, value),) = options.items()
    with pytest.raises(UserError, match=f"{option} of encoder {name!r} must be .*got '?{value}"):
        models.build(name, **options)


def test_normalization_is_inside_the_encoder():
    grey = jnp.full((1, 2, 2, 3), 0.5)
    np.testing.assert_allclose(normalize(grey, "pm1"), 0.0, atol=1e-7)
    np.testing.assert_allclose(
        normalize(grey, "imagenet")[0, 0, 0], (0.5 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.build("resnet19"), "resnet18"),
        (lambda: models.build("alexnet", depth=3), "num_classes"),
        (lambda: models.build("vgg16", head="fc").init(KEY, jnp.zeros((1, 32, 32, 3))), "pooled"),
        (lambda: models.build("wrn28_10", depth=27).init(KEY, jnp.zeros((1, 32, 32, 3))), "28"),
        (lambda: models.build("resnet18", stem="7x7").init(KEY, jnp.zeros((1, 32, 32, 3))), "imagenet"),
        (lambda: models.build("resnet18", block="wide").init(KEY, jnp.zeros((1, 32, 32, 3))), "bottleneck"),
        (lambda: models.build("wrn28_10", activation="gelu").init(KEY, jnp.zeros((1, 32, 32, 3))), "silu"),
        (lambda: models.build("preact_resnet18", variant="he").init(KEY, jnp.zeros((1, 32, 32, 3))), "kuangliu"),
        (lambda: models.build_generator("alexnet", "conv6"), "conv5"),
        (lambda: models.build_generator("alexnet", "conv5", variant="table"), "table_a4"),
        (lambda: models.build_discriminator(image_size=16), "24"),
        (lambda: normalize(jnp.zeros((1, 1, 1, 3)), "imagnet"), "imagenet"),
    ],
)
def test_unknown_names_list_the_allowed_ones(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_encoder_rejects_images_of_another_range():
    encoder = models.build("alexnet_small", width=2)
    x = np.full((1, 8, 8, 3), 0.5, np.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    for images, message in (((255 * x).astype(np.uint8), "got uint8"), (255 * x, "divide by 255")):
        with pytest.raises(UserError, match=message):
            encoder.apply(variables, images)


def test_discriminator_rejects_images_and_features_that_do_not_fit(key):
    module, features = models.build_discriminator(image_size=32), jnp.ones((2, 2, 2, 4))
    shapes = jax.eval_shape(module.init, key, jnp.zeros((2, 32, 32, 3)), features)
    for arguments, message in (
        ((jnp.zeros((2, 18, 18, 3)), features), "images of 18x18 px are too small for this discriminator"),
        ((jnp.zeros((2, 32, 32, 3), jnp.uint8), features), "images must be floating point .*; got uint8"),
        ((jnp.zeros((2, 32, 32, 3)),), "needs the features of 2 images; got none"),
        ((jnp.zeros((2, 32, 32, 3)), features[:1]), "needs the features of 2 images; got 1"),
    ):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(module.apply, shapes, *arguments)


@pytest.mark.parametrize(("layer", "latent"), [("fc6", False), ("conv5", True)])
@pytest.mark.parametrize("image_size", [7, 36, 33])
def test_generators_of_vectors_reject_sizes_that_they_do_not_return(layer, latent, image_size):
    with pytest.raises(UserError, match=f"image_size of .* a multiple of .* px, .*; got {image_size}"):
        models.build_generator("alexnet_small", layer, image_size=image_size, latent=latent)


def test_discriminator_refuses_features_of_another_layer():
    discriminator = models.build_discriminator(image_size=32)
    images = jnp.zeros((2, 32, 32, 3))
    variables = discriminator.init(KEY, images, jnp.zeros((2, 4, 4, 8)))
    with pytest.raises(UserError, match="do not fit the weights of this Discriminator"):
        discriminator.apply(variables, images, jnp.zeros((2, 4, 4, 16)))


def test_networks_without_variables_are_refused():
    generator = models.build_generator("alexnet_small", "conv5")
    with pytest.raises(UserError, match="not those of this Generator; pass them as its `init` returns them"):
        generator.apply({}, jnp.zeros((1, 2, 2, 64)))


@pytest.mark.parametrize(
    "build",
    [
        lambda options: models.build_generator("alexnet_small", "conv5", **options),
        lambda options: models.build_denoiser(**options),
    ],
)
def test_encoder_options_are_given_by_name(build):
    with pytest.raises(UserError, match="encoder_options must be options of build by name"):
        build({"encoder_options": [4]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"width": 8},
            r"do not fit the weights of this AlexNetSmall, .*: conv1/kernel has shape \(.*, 4\), not \(.*, 8\)",
        ),
        ({"width": 4, "num_classes": 7}, r"do not fit the weights .*: fc8/kernel has shape \(.*, 10\), not \(.*, 7\)"),
    ],
)
def test_encoders_name_the_parameter_that_does_not_fit(options, message):
    variables = abstract(models.build("alexnet_small", width=4), images_of(32))
    encoder = models.build("alexnet_small", **options)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(encoder.apply, variables, images_of(32))


def test_encoders_refuse_parameters_without_their_collection():
    encoder = models.build("alexnet_small", width=4)
    params = abstract(encoder, images_of(32))["params"]
    with pytest.raises(UserError, match="the variables are not those of this AlexNetSmall; .* and not the parameters"):
        jax.eval_shape(encoder.apply, params, images_of(32))
