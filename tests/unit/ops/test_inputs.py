"""Checks of labels, logits, features, radii and other numbers, and their messages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import arinv
from arinv import attacks, data, metrics, models
from arinv.apps import denoising, restoration
from arinv.errors import RadiusWarning, UserError
from arinv.ops import inputs

KEY = jax.random.key(0)
IMAGES, LABELS = np.full((2, 12, 12, 3), 0.5, np.float32), np.array([0, 1])


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0.0, 1.0], "must be integers, one per image"),
        ([True, False], "must be integers, one per image .*bool"),
        (np.eye(2, dtype=np.int32), "take the argmax of one-hot labels"),
        ([0], r"one per image \(2,\)"),
        ([1, 3], "must be 0 to 2 for 3 classes; got 3: number them from 0"),
        ([0, -2], "classes from 0, or -1 for padding; got -2"),
        ("ab", "must be an array of numbers; got 'ab'"),
        ([[0], [1, 2]], "must be an array of numbers"),
    ],
)
def test_as_labels_names_the_mistake(labels, message):
    with pytest.raises(UserError, match=f"^labels .*{message}"):
        inputs.as_labels(labels, batch_size=2, num_classes=3)


def test_as_labels_accepts_any_integer_dtype():
    for dtype in (np.int8, np.uint8, np.int64):
        result = inputs.as_labels(np.array([0, 2], dtype), batch_size=2, num_classes=3)
        assert result.dtype == jnp.int32 and result.tolist() == [0, 2]
    assert inputs.as_labels([], batch_size=0).shape == (0,)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda z: (z, {}), r"got a tuple: where the model returns \(logits, features\), take .*\[0\]"),
        (lambda z: {"logits": z}, "got a dict: take one of 'logits'"),
        (lambda z: z[:, 0], r"must have shape \[B, K\], here \(2, K\); got \(2,\)"),
        (lambda z: z[0], r"got \(3,\)"),
        (lambda z: z[..., None], r"got \(2, 3, 1\)"),
        (lambda z: z[:1], r"got \(1, 3\)"),
        (lambda z: z.astype(jnp.int32), "must be floating point; got int32"),
        (lambda z: z[:, :1], "must be of 2 classes or more; got 1: write a single logit"),
        (lambda z: None, "got a NoneType"),
    ],
)
def test_checked_logits_fn_names_the_mistake(key, change, message):
    def logits_fn(x):
        return change(jnp.mean(x, axis=(1, 2)))

    images, labels = np.full((2, 4, 4, 3), 0.5, np.float32), np.array([0, 1])
    with pytest.raises(UserError, match=f"^what logits_fn returns .*{message}"):
        inputs.checked_logits_fn(logits_fn, batch_size=2)(images)
    for attack in (
        lambda: attacks.pgd(key, logits_fn, images, labels, eps=0.1, num_steps=1),
        lambda: attacks.square(key, logits_fn, images, labels, eps=0.1, num_queries=1),
    ):
        with pytest.raises(UserError, match="^what logits_fn returns"):
            attack()
    with pytest.raises(UserError):
        attacks.autoattack(key, logits_fn, images, labels, eps=0.1)


@pytest.mark.parametrize(
    "eps, message",
    [
        ("8/255", "must be an array of numbers; got '8/255'"),
        (None, "must be an array of numbers; got None"),
        (True, "must be a number, such as 8/255; got True"),
        (np.nan, "finite and at least 0; got nan"),
        (np.inf, "finite and at least 0; got inf"),
        (1e39, "finite and at least 0"),
        (-0.1, "finite and at least 0; got -0.1"),
        ([0.1, 0.2, 0.3], r"a number or one per example \(2,\); got shape \(3,\)"),
        ([[0.1], [0.2]], r"got shape \(2, 1\)"),
    ],
)
def test_as_radius_names_the_mistake(eps, message):
    with pytest.raises(UserError, match=f"^eps .*{message}"):
        inputs.as_radius(eps, batch_size=2)


def test_as_radius_warns_of_radius_that_reaches_every_image(key):
    images, labels = np.full((2, 4, 4, 3), 0.5, np.float32), np.array([0, 1])

    def attack(**options):
        trace = functools.partial(attacks.pgd, key, lambda x: jnp.mean(x, axis=(1, 2)), num_steps=1, **options)
        jax.eval_shape(trace, images, labels)

    with pytest.warns(RadiusWarning, match="^eps=8 in linf reaches every image in .*; did you mean 8/255?"):
        attack(eps=8, norm="linf")
    with pytest.warns(RadiusWarning, match="^eps=1 in linf reaches every image"):
        attack(eps=[0.1, 1.0], norm="linf")
    attack(eps=8, norm="l2")  # warnings are errors
    attack(eps=0.999, norm="linf")


@pytest.mark.parametrize("value", (0, -1, 2.0, "3", True, None, np.nan))
def test_check_count_rejects_other_values(value):
    with pytest.raises(UserError, match="^num_steps must be "):
        inputs.check_count(value, "num_steps")


@pytest.mark.parametrize("value", (-0.1, 1.1, np.nan, np.inf, "1", True, None, [0.5]))
def test_check_number_rejects_out_of_range(value):
    with pytest.raises(UserError, match="^alpha must be a finite number from 0 to 1; got "):
        inputs.check_number(value, "alpha", minimum=0.0, maximum=1.0)


def test_layer_features_names_the_mistake():
    images = jnp.zeros((2, 4, 4, 3))
    for features, message in (
        ((images, {"a": images}), r"got a tuple: .*take .*\[1\]"),
        ({"a": images}, "unknown layer 'b'; known: a"),
        ({"b": images[:1]}, r"feature 'b' must be \[B, ...\] of 2 images; got shape \(1, 4, 4, 3\)"),
    ):
        with pytest.raises(UserError, match=message):
            inputs.layer_features(lambda x, features=features: features, images, ("b",))


def test_check_images_checks_constants_inside_jit():
    constant = np.full((1, 2, 2, 3), 200.0, np.float32)
    for images in (constant, jnp.asarray(constant)):
        with pytest.raises(UserError, match="got 200 to 200"):
            jax.jit(lambda x, images=images: x + inputs.as_images(images))(constant)


def test_as_images_converts_lists_and_float64():
    for images in ([[[[0.5]]]], np.full((1, 1, 1, 1), 0.5)):
        result = inputs.as_images(images)
        assert result.dtype == jnp.float32 and result.shape == (1, 1, 1, 1)


def test_functions_that_jax_cannot_trace_are_named():
    images = jnp.zeros((2, 4, 4, 3))
    for function in (lambda x: jnp.asarray(np.asarray(x)[:, 0, 0]), lambda x: x[:, 0, 0] if x.max() > 0 else x):
        with pytest.raises(UserError, match="^logits_fn cannot be traced by JAX .*write it in jax.numpy"):
            jax.jit(inputs.checked_logits_fn(function, batch_size=2))(images)
    with pytest.raises(UserError, match="^features_fn must be a function of images .*got NoneType"):
        inputs.layer_features(None, images, ("a",))


def test_modules_without_their_variables_are_no_functions():
    module = models.build("alexnet_small", width=4)
    images = jnp.zeros((2, 32, 32, 3))
    with pytest.raises(
        UserError, match=r"^logits_fn must be a function .*; got AlexNetSmall: take .*apply\(variables, x"
    ):
        inputs.call(module, images, "logits_fn")
    bound = module.bind(jax.eval_shape(module.init, jax.random.key(0), images))
    inputs.check_callable(bound, "logits_fn")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (
            lambda flag: attacks.pgd(
                KEY, lambda x: x[:, 0, 0], IMAGES, LABELS, eps=0.1, num_steps=1, random_start=flag
            ),
            "random_start",
        ),
        (
            lambda flag: attacks.pgd(KEY, lambda x: x[:, 0, 0], IMAGES, LABELS, eps=0.1, num_steps=1, use_best=flag),
            "use_best",
        ),
        (lambda flag: attacks.fgsm(KEY, lambda x: x[:, 0, 0], IMAGES, LABELS, eps=0.1, project=flag), "project"),
        (
            lambda flag: attacks.apgd(KEY, lambda x: x[:, 0, 0], IMAGES, LABELS, eps=0.1, norm="l1", large_radii=flag),
            "large_radii",
        ),
        (
            lambda flag: attacks.apgd(
                KEY, lambda x: x[:, 0, 0], IMAGES, LABELS, eps=0.1, norm="l2", return_losses=flag
            ),
            "return_losses",
        ),
        (lambda flag: models.build_generator("alexnet_small", "conv5", spectral_norm=flag), "spectral_norm"),
        (lambda flag: models.build_generator("alexnet_small", "conv5", latent=flag), "latent"),
        (lambda flag: models.build_denoiser("alexnet_small", spectral_norm=flag), "spectral_norm"),
        (lambda flag: data.open_source("photos", renumber=flag), "renumber"),
    ],
)
def test_flags_are_true_or_false(call, name):
    for flag in ("False", 5, None):
        with pytest.raises(UserError, match=f"^{name} must be true or false; got {flag!r}$"):
            call(flag)


def test_check_callable_names_the_function_of_a_trained_network():
    network = arinv.Trained("classifier", None, {}, {})
    with pytest.raises(UserError, match="^features_fn must be a function; got Trained: take its features_fn$"):
        inputs.check_callable(network, "features_fn")


@pytest.mark.parametrize("values", (["a"], [[1], [1, 2]], [1j], None, np.array(["1"])))
def test_as_numbers_rejects_other_values(values):
    with pytest.raises(UserError, match="^scores must be "):
        inputs.as_numbers(values, "scores")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ma.masked_array([1.0, 2.0], mask=[0, 1]), "without a mask"),
        (np.array(["1", "2"]), "got <U1 of shape"),
        (np.zeros(2, "datetime64[s]"), "got datetime64"),
        (np.zeros(2, "timedelta64[s]"), "got timedelta64"),
        (np.zeros(2, complex), "got complex128"),
        (jnp.zeros(2, jnp.complex64), "got complex64"),
        (np.array([1, None], object), "got object"),
        (np.zeros(2, [("a", "f4")]), "must be an array of numbers"),
        (jax.random.key(0), "must be an array of numbers"),
        (None, "got None"),
    ],
)
@pytest.mark.parametrize("check", [inputs.as_array, inputs.as_floats, inputs.as_finite, inputs.as_numbers])
def test_arrays_of_anything_but_real_numbers_are_refused(check, value, message):
    with pytest.raises(UserError, match=message):
        check(value, "values")


def test_arrays_of_other_libraries_may_raise_any_error():
    class Tensor:
        def __array__(self, *arguments, **options):
            raise RuntimeError("call detach() first")

    with pytest.raises(UserError, match="values must be an array of numbers"):
        inputs.as_floats(Tensor(), "values")


def test_real_numbers_of_every_dtype_are_accepted():
    for dtype in (bool, np.int8, np.uint64, np.float16, np.float64, jnp.bfloat16, jnp.int4, jnp.float8_e4m3fn):
        assert inputs.as_floats(np.ones(2, dtype), "values").dtype == jnp.float32


def test_check_number_refuses_integers_beyond_every_float():
    with pytest.raises(UserError, match="count must be a finite number"):
        inputs.check_number(10**400, "count")


def test_lists_of_traced_numbers_are_arrays():
    doubled = jax.jit(lambda x: inputs.as_floats([x, 2 * x], "values"))(1.5)
    assert doubled.tolist() == [1.5, 3.0]
    assert jax.grad(lambda x: inputs.as_floats([x, x], "values").sum())(1.5) == 2.0


def test_functions_of_the_host_refuse_traced_numbers():
    with pytest.raises(UserError, match="runs on the host, outside of jit"):
        jax.jit(lambda scores: metrics.auroc(scores, np.array([0, 1])))(jnp.zeros(2))


def _linear(x):
    return x.sum((1, 2))


HOST = {
    "denoise": lambda x: denoising.denoise(lambda images: images, x),
    "autoattack": lambda x: attacks.autoattack(jax.random.key(0), _linear, x, LABELS, eps=0.1).adversarial,
    "labels": lambda x: attacks.margins(
        _linear, IMAGES, x[:, 0, 0, 0].astype(jnp.int32), attacks.make_buckets(batch_size=2)
    ),
    "inspect_model": lambda x: attacks.inspect_model(_linear, x, LABELS),
    "check_radius_zero": lambda x: attacks.check_radius_zero(jax.random.key(0), _linear, x, LABELS, norm="l2"),
    "margins": lambda x: attacks.margins(_linear, x, LABELS, attacks.make_buckets(batch_size=2)),
    "reclassify": lambda x: attacks.reclassify(
        _linear, IMAGES, x, LABELS, eps=0.1, norm="l2", buckets=attacks.make_buckets(batch_size=2)
    ),
    "mean_pairwise_distance": metrics.mean_pairwise_distance,
    "compare_pores": lambda x: restoration.compare_pores(x[..., 0], x[..., 0]),
    "rule": restoration.make_rule(statistic="brightness", threshold=0.5),
    "compare_attribute": lambda x: restoration.compare_attribute(x, x, lambda images: np.ones(len(images), bool)),
}


@pytest.mark.parametrize("name", HOST)
def test_functions_of_the_host_refuse_traced_images(name):
    with pytest.raises(UserError, match="must have values that can be read: .* runs on the host, outside of jit"):
        jax.jit(HOST[name])(IMAGES)


def test_methods_of_networks_refuse_traced_images():
    inverter = arinv.load("zoo:alexnet_small_l2_1")
    for function in (inverter.reconstruct, inverter.evaluate):
        with pytest.raises(UserError, match="images must have values that can be read"):
            jax.jit(function)(IMAGES)
