"""The contract of encoders: every row of the table, and an encoder that a user adds, pass the same checks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_encoders import SMALL, smallest_size

from arinv import models
from arinv.errors import UserError
from arinv.experiment.state import TrainState
from arinv.models import Encoder, FeatureSpec, Stage, TorchLayer
from arinv.models.registry import Architecture
from arinv.train import classifier
from configs import encoders as config_facts

CLASSES = 7
# Rows that differ in their depths, widths and pixels alone are one network at the options of SMALL.
DISTINCT = sorted({models.build(name, normalization="none", **SMALL[name]): name for name in models.ENCODERS}.values())


class Toy(Encoder):
    """Two convolutions that halve the image, and a dense layer on the mean of the second."""

    image_size = 16
    smallest_side = 4
    default_layer = "conv2"
    style_layers = ("conv2", "conv1")

    @nn.compact
    def __call__(self, images, *, train=False):
        features, x = {}, self.normalize(images)
        for name, width in (("conv1", 4), ("conv2", 8)):
            x = features[name] = nn.relu(nn.Conv(width, (2, 2), strides=2, padding="VALID", name=name)(x))
        if not self.num_classes:
            return jnp.zeros((len(x), 0)), features
        return nn.Dense(self.num_classes, name="fc")(jnp.mean(x, axis=(1, 2))), features

    def feature_specs(self):
        stages = (Stage(1, 4), Stage(2, 4), Stage(4, 8))
        return {"conv1": FeatureSpec(stages[:2]), "conv2": FeatureSpec(stages)}


TOY = Architecture(Toy, {"normalization": "pm1"})


@pytest.fixture
def toy(monkeypatch):
    """The name of an encoder that one row registers."""
    monkeypatch.setitem(models.ENCODERS, "toy", TOY)
    return "toy"


def classes_of(name):
    """Number of classes of a test's encoder: those without weights have none."""
    return CLASSES if models.build(name).has_weights else 0


def structs_of(module, size, *, count=2):
    """Shapes of the logits and features of some images."""
    images = jax.ShapeDtypeStruct((count, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)


def check_logits_and_features(name):
    module = models.build(name, num_classes=classes_of(name), **SMALL.get(name, {}))
    logits, features = structs_of(module, module.image_size)
    assert logits.shape == (2, classes_of(name)) and logits.dtype == jnp.float32
    specs = module.feature_specs()
    assert set(specs) == set(features)
    for layer, spec in specs.items():
        side = spec.side(module.image_size)
        shape = features[layer].shape
        assert len(shape) == 2 if spec.is_vector else shape == (2, side, side, spec.stages[-1].width), layer


def check_no_images(name):
    module = models.build(name, num_classes=classes_of(name), **SMALL.get(name, {}))
    (logits, features), (_, two) = (structs_of(module, module.image_size, count=count) for count in (0, 2))
    assert logits.shape == (0, classes_of(name))
    assert {layer: x.shape for layer, x in features.items()} == {layer: (0, *x.shape[1:]) for layer, x in two.items()}


def check_features_without_head(name):
    module = models.build(name, num_classes=0, **SMALL.get(name, {}))
    for size in (module.image_size, 2 * module.image_size):
        logits, features = structs_of(module, size)
        assert logits.shape == (2, 0)
        assert set(features) == {layer for layer, spec in module.feature_specs().items() if not spec.is_vector}


def check_head_fits_other_sizes(name):
    module = models.build(name, num_classes=classes_of(name), **SMALL.get(name, {}))
    shapes = [
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
        for size in (module.image_size, 2 * module.image_size)
    ]
    assert (shapes[0] == shapes[1]) != module.has_fixed_head


def check_smallest_side(name):
    for num_classes in (0, classes_of(name)):
        module = models.build(name, num_classes=num_classes, **SMALL.get(name, {}))
        side = module.smallest_side
        assert all(0 not in feature.shape for feature in structs_of(module, side)[1].values())
        if side > 1:
            with pytest.raises(UserError, match=f"at least {side} x {side} px; got {side - 1} x {side - 1}"):
                structs_of(module, side - 1)


def check_named_layers(name):
    module = models.build(name)
    specs = module.feature_specs()
    assert not specs[module.default_layer].is_vector
    strides = [specs[layer].stages[-1].stride for layer in module.style_layers if not specs[layer].is_vector]
    assert len(strides) == len(module.style_layers)
    assert strides == sorted(set(strides), reverse=True)


def check_generators_return_the_image_size(name):
    options = SMALL.get(name, {})
    module = models.build(name, **options)
    size = module.image_size
    for layer, feature in structs_of(module, size)[1].items():
        for variant in ("default", "nearest"):
            generator = models.build_generator(name, layer, variant=variant, encoder_options=options)
            images = jax.eval_shape(lambda x, g=generator: g.init_with_output(jax.random.key(0), x)[0], feature)
            assert images.shape == (2, size, size, 3) and images.dtype == jnp.float32, (layer, variant)
        assert all(
            step.stride == 1 for step in generator.plan.steps if step.kind == "up"
        )  # which draws no checkerboard


CHECKS = (
    check_logits_and_features,
    check_no_images,
    check_features_without_head,
    check_head_fits_other_sizes,
    check_smallest_side,
    check_named_layers,
    check_generators_return_the_image_size,
)
each_check = pytest.mark.parametrize("check", CHECKS, ids=[check.__name__.removeprefix("check_") for check in CHECKS])


@each_check
@pytest.mark.parametrize("name", sorted(models.ENCODERS))
def test_encoder_keeps_the_contract(name, check):
    if name in DISTINCT or check is not check_generators_return_the_image_size:
        check(name)


@each_check
def test_added_encoder_keeps_the_contract(toy, check):
    check(toy)


class WrongWidth(Toy):
    def feature_specs(self):
        return {"conv1": FeatureSpec((Stage(1, 4), Stage(2, 4))), "conv2": FeatureSpec((Stage(1, 4), Stage(4, 9)))}


class WrongWayBack(Toy):
    def feature_specs(self):
        stages = (Stage(2, 4), Stage(4, 8))  # the full resolution is missing
        return {"conv1": FeatureSpec(stages[:1]), "conv2": FeatureSpec(stages)}


class WrongSmallestSide(Toy):
    smallest_side = 3


class WrongHead(Toy):
    has_fixed_head = True


class WrongLayer(Toy):
    style_layers = ("conv1", "conv2")


class AlwaysWithHead(Toy):
    @nn.compact
    def __call__(self, images, *, train=False):
        logits, features = Toy(num_classes=CLASSES, name="toy")(images)
        return logits, features


@pytest.mark.parametrize(
    ("module", "check"),
    [
        (WrongWidth, check_logits_and_features),
        (AlwaysWithHead, check_features_without_head),
        (WrongHead, check_head_fits_other_sizes),
        (WrongSmallestSide, check_smallest_side),
        (WrongLayer, check_named_layers),
        (WrongWayBack, check_generators_return_the_image_size),
    ],
)
def test_checks_can_fail(module, check, monkeypatch):
    monkeypatch.setitem(models.ENCODERS, "wrong", Architecture(module, {}))
    with pytest.raises(AssertionError):
        check("wrong")


@pytest.mark.parametrize("name", [name for name in DISTINCT if models.build(name).has_weights])
@pytest.mark.long
def test_encoder_has_finite_gradients_and_independent_rows(name):
    module = models.build(name, num_classes=CLASSES, **SMALL.get(name, {}))
    size = smallest_size(module)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))
    images = jax.random.uniform(jax.random.key(0), (2, size, size, 3))

    @jax.jit
    def run(images):
        def loss(x):
            logits = module.apply(variables, x)[0]
            return jnp.sum(logits**2), logits

        return jax.value_and_grad(loss, has_aux=True)(images)

    (_, logits), gradient = run(images)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    (_, alone), _ = run(jnp.concatenate([images[:1], images[:1]]))
    np.testing.assert_allclose(alone[0], logits[0], rtol=1e-4, atol=1e-5)
    assert run._cache_size() == 1


@pytest.mark.parametrize("name", ["hog", "lbp"])
def test_encoder_without_weights_has_no_classes(name):
    assert jax.eval_shape(models.build(name).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))) == {}
    with pytest.raises(UserError, match=f"encoder '{name}' has no weights, so it has no classes"):
        models.build(name, num_classes=CLASSES)


@pytest.mark.long
def test_added_encoder_trains(toy, key):
    module, optimizer = models.build(toy, num_classes=CLASSES), optax.sgd(0.1)
    assert module.normalization == "pm1"
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    attack = {"eps": 0.0, "norm": "l2", "num_steps": 1, "step_size": None}
    step = classifier.make_train_step(module, optimizer, attack=attack, augmentation={})
    before = TrainState.create(key, {"classifier": (module, (images,))}, {"classifier": optimizer})
    batch = {"image": np.full((2, 16, 16, 3), 99, np.uint8), "label": np.array([0, 1]), "mask": np.ones(2, np.float32)}
    after, metrics = jax.jit(step)(before, batch, key)
    assert np.isfinite(metrics["loss"][0])
    kernels = (s.variables["classifier"]["params"]["conv1"]["kernel"] for s in (before, after))
    assert np.any(np.not_equal(*kernels))


def test_added_encoder_without_pytorch_names_is_not_written(toy, tmp_path):
    with pytest.raises(UserError, match="encoder 'toy' has no names in PyTorch; define Toy.torch_layers"):
        models.convert.export_safetensors(tmp_path / "toy.safetensors", toy, {}, normalization="none")


class NamedToy(Toy):
    def torch_layers(self):
        return tuple(TorchLayer(name, (name,)) for name in ("conv1", "conv2", "fc"))


def test_added_encoder_with_pytorch_names_is_read_as_written(monkeypatch, key, tmp_path):
    monkeypatch.setitem(models.ENCODERS, "toy", Architecture(NamedToy, {}))
    module, path = models.build("toy", num_classes=CLASSES), tmp_path / "toy.safetensors"
    variables = module.init(key, jnp.zeros((1, 16, 16, 3)))
    models.convert.export_safetensors(path, "toy", variables, num_classes=CLASSES)
    again = models.convert.load_torch(path, "toy", num_classes=CLASSES)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_configs_state_the_same_facts_as_the_classes():
    assert set(config_facts.FACTS) == set(models.ENCODERS)
    for name in models.ENCODERS:
        module = models.build(name)
        assert config_facts.layer(name) == module.default_layer, name
        assert config_facts.image_size(name) == module.image_size, name
        assert config_facts.style_layers(name) == module.style_layers, name
        assert config_facts.has_weights(name) == module.has_weights, name
        smaller = models.build(name, **config_facts.smoke_options(name))
        assert all(getattr(smaller, option) <= getattr(module, option) for option in config_facts.smoke_options(name))
