"""LPIPS and the Gram loss against NumPy in float64 and, where installed, the package lpips."""

import importlib.util
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import metrics, models
from arinv.errors import UserError


def images(seed, shape=(3, 8, 6, 3)):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


MIXING = {"a": images(10, (3, 5)) - 0.5, "b": images(11, (3, 7)) - 0.5}


def features_fn(x):
    """Two spatial features after a ReLU, of which some positions are all zero, and a signed vector."""
    a = jax.nn.relu(x @ MIXING["a"] - 0.1)
    b = jax.nn.relu(x[:, ::2, ::2] @ MIXING["b"] - 0.1)
    return {"a": a, "b": b, "vector": x[:, 0, 0, :] - 0.5}


def numpy_features(x):
    x = np.asarray(x, np.float64)
    a = np.maximum(x @ MIXING["a"].astype(np.float64) - 0.1, 0)
    b = np.maximum(x[:, ::2, ::2] @ MIXING["b"].astype(np.float64) - 0.1, 0)
    return {"a": a, "b": b, "vector": x[:, None, None, 0, 0, :] - 0.5}


def numpy_lpips(x, y, layers, heads=None):
    total = 0
    for i, layer in enumerate(layers):
        f, g = (numpy_features(z)[layer] for z in (x, y))
        f, g = (z / (np.sqrt((z**2).sum(-1, keepdims=True)) + 1e-10) for z in (f, g))
        weights = np.ones(f.shape[-1]) if heads is None else heads[i]
        total = total + (((f - g) ** 2) @ weights).mean((1, 2))
    return total


@pytest.mark.parametrize("layers", [("a",), ("a", "b"), ("b", "vector")])
@pytest.mark.parametrize("weighted", [False, True])
def test_lpips_equals_numpy(layers, weighted):
    heads = None
    if weighted:
        heads = [images(20 + i, ({"a": 5, "b": 7, "vector": 3}[layer],)) for i, layer in enumerate(layers)]
    x, y = images(0), images(1)
    result = jax.jit(lambda x, y: metrics.lpips(features_fn, x, y, layers=layers, heads=heads))(x, y)
    assert result.shape == (3,) and result.dtype == jnp.float32
    assert np.all(numpy_features(x)["a"].sum(-1).min() == 0), "no position without any feature: nothing was tested"
    np.testing.assert_allclose(result, numpy_lpips(x, y, layers, heads), rtol=1e-5)


@pytest.mark.long
def test_lpips_of_equal_images_is_zero_with_finite_gradients():
    for metric in (
        lambda x, y: metrics.lpips(features_fn, x, y, layers=("a", "b")),
        lambda x, y: metrics.gram_loss(features_fn, x, y, layers=("a", "b")),
    ):
        x, y = images(0), images(1)
        np.testing.assert_array_equal(metric(x, x), 0.0)
        assert np.all(np.asarray(metric(x, y)) > 1e-4)
        gradient_of = jax.jit(jax.grad(lambda z, other, metric=metric: metric(z, other).sum()))
        for start, other in ((x, x), (x, y), (np.zeros_like(x), y), (np.zeros_like(x), np.zeros_like(x))):
            assert np.all(np.isfinite(gradient_of(start, other)))


@pytest.mark.long
def test_lpips_compares_bfloat16_features_in_float32():
    x, y = images(0), images(1)
    plain = metrics.lpips(features_fn, x, y, layers=("a", "b"))
    half = metrics.lpips(
        lambda x: jax.tree.map(lambda f: f.astype(jnp.bfloat16), features_fn(x)), x, y, layers=("a", "b")
    )
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, plain, rtol=0.05)


def test_gram_loss_equals_numpy_for_any_sizes():
    x, y = images(0), images(1, (3, 6, 10, 3))
    expected = 0
    for layer in ("a", "b"):
        grams, means = [], []
        for features in (numpy_features(x)[layer], numpy_features(y)[layer]):
            rows = features.reshape(3, -1, features.shape[-1])
            grams.append(np.stack([row.T @ row / row.size for row in rows]))
            means.append(rows.mean(1))
        expected += ((grams[0] - grams[1]) ** 2).mean((1, 2)) + ((means[0] - means[1]) ** 2).mean(1)
    result = metrics.gram_loss(features_fn, x, y, layers=("a", "b"))
    assert result.shape == (3,) and result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_gram_loss_ignores_positions():
    x = images(0)
    moved = x.reshape(3, -1, 3)[:, np.random.default_rng(0).permutation(48)].reshape(x.shape)
    np.testing.assert_allclose(metrics.gram_loss(features_fn, x, moved, layers=("a",)), 0, atol=1e-10)
    assert np.all(np.asarray(metrics.lpips(features_fn, x, moved, layers=("a",))) > 0.1)


def test_perceptual_metrics_reject_mistakes():
    x = images(0)
    with pytest.raises(UserError, match="unknown layer 'c'; known: a, b, vector"):
        metrics.lpips(features_fn, x, x, layers=("c",))
    with pytest.raises(UserError, match="unknown layer 'c'"):
        metrics.gram_loss(features_fn, x, x, layers=("c",))
    with pytest.raises(UserError, match=r"unknown layer \['a'\]; known: a, b, vector"):
        metrics.feature_vectors(features_fn, x, layer=["a"])
    for metric in (metrics.lpips, metrics.gram_loss):
        with pytest.raises(UserError, match=r'layers must be names in a tuple, such as \("vector",\); got \'vector\''):
            metric(features_fn, x, x, layers="vector")
    with pytest.raises(UserError, match=r"got shape \(3, 3\) for vector"):
        metrics.gram_loss(features_fn, x, x, layers=("vector",))
    with pytest.raises(UserError, match="1 head.s. for 2 layer"):
        metrics.lpips(features_fn, x, x, layers=("a", "b"), heads=[np.ones(5)])
    with pytest.raises(UserError, match=r"head of a must be .* \(5,\); got shape \(7,\)"):
        metrics.lpips(features_fn, x, x, layers=("a",), heads=[np.ones(7)])
    with pytest.raises(UserError, match="LPIPS needs at least one layer"):
        metrics.lpips(features_fn, x, x, layers=())
    for weight, message in ((-1.0, "0 or more; got negative"), (np.nan, "finite; got NaN")):
        with pytest.raises(UserError, match=f"the head of a must be {message}"):
            metrics.lpips(features_fn, x, x, layers=("a",), heads=[np.full(5, weight)])
    with pytest.raises(UserError, match=r"\(3, 8, 6, 3\) with images \(1, 8, 6, 3\)"):
        metrics.lpips(features_fn, x, x[:1], layers=("a",))
    with pytest.raises(UserError, match="cannot pair 3 images with 1"):
        metrics.gram_loss(features_fn, x, x[:1], layers=("a",))


@pytest.mark.parametrize(("name", "encoder"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_layers_exist_in_encoders(name, encoder):
    assert set(metrics.LPIPS_LAYERS[name]) <= set(models.build(encoder).feature_specs())
    assert set(metrics.GRAM_LAYERS) <= set(models.build("vgg19").feature_specs())


def test_load_lpips_heads_without_package_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*arinv\[lpips\]") as error:
        models.load_lpips_heads("alex")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="unknown variant of LPIPS 'squeeze'; known: alex, vgg"):
        models.load_lpips_heads("squeeze")


# Layers of torchvision's AlexNet and VGG-16: (input channels, output channels, kernel, stride, padding), "M" a pool.
_ALEXNET = [
    (3, 64, 11, 4, 2),
    "M",
    (64, 192, 5, 1, 2),
    "M",
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
]
_VGG16 = [
    (3, 64, 3, 1, 1), (64, 64, 3, 1, 1), "M", (64, 128, 3, 1, 1), (128, 128, 3, 1, 1), "M", (128, 256, 3, 1, 1),
    (256, 256, 3, 1, 1), (256, 256, 3, 1, 1), "M", (256, 512, 3, 1, 1), (512, 512, 3, 1, 1), (512, 512, 3, 1, 1), "M",
    (512, 512, 3, 1, 1), (512, 512, 3, 1, 1), (512, 512, 3, 1, 1),
]  # fmt: skip
_NAMES = {
    "alexnet": [f"conv{i}" for i in range(1, 6)],
    "vgg16": [f"conv{i}_{j}" for i, depth in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, depth + 1)],
}


@pytest.fixture(scope="module")
def lpips_package():
    """The package lpips over hand-built random networks in place of torchvision's, of which it asks for no more."""
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("needs the package lpips")

    def network(layers, pool):
        torch.manual_seed(0)
        modules = []
        for layer in layers:
            modules += [torch.nn.MaxPool2d(*pool)] if layer == "M" else [torch.nn.Conv2d(*layer), torch.nn.ReLU()]
        features = torch.nn.Sequential(*modules)
        for module in features:
            if isinstance(module, torch.nn.Conv2d):  # torch's own initialization lets the signal die
                torch.nn.init.kaiming_normal_(module.weight)
                torch.nn.init.normal_(module.bias, std=0.1)
        return lambda pretrained: types.SimpleNamespace(features=features)

    stub = types.ModuleType("torchvision")
    stub.models = types.SimpleNamespace(alexnet=network(_ALEXNET, (3, 2)), vgg16=network(_VGG16, (2, 2)))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setitem(sys.modules, "torchvision", stub)
        import lpips

        yield lpips
    for name in [name for name in sys.modules if name.split(".")[0] == "lpips"]:
        del sys.modules[name]


def our_backbone(encoder, network):
    """Our encoder's feature function with the weights of a torch network, its dense layers made small."""
    module = models.build(encoder, num_classes=2, dense_width=4)
    template = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    state = {k: v.detach().numpy() for k, v in network.named_parameters()}
    weights = [v for k, v in state.items() if k.endswith("weight")]
    biases = [v for k, v in state.items() if k.endswith("bias")]
    for name, kernel, bias in zip(_NAMES[encoder], weights, biases, strict=True):
        variables["params"][name] = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
    features_alone = module.clone(num_classes=0) if encoder == "alexnet" else module  # as metrics use it
    return lambda x: features_alone.apply(variables, x)[1]


def heads_of(reference):
    return [linear.model[1].weight.detach().numpy().ravel() for linear in reference.lins]


@pytest.mark.parametrize(
    ("name", "encoder", "size"), [("alex", "alexnet", 32), ("alex", "alexnet", 64), ("vgg", "vgg16", 32)]
)
def test_lpips_equals_package(lpips_package, name, encoder, size):
    import torch

    reference = lpips_package.LPIPS(net=name, pnet_rand=True, verbose=False)
    x, y = images(0, (2, size, size, 3)), images(1, (2, size, size, 3))
    x[1] = np.clip(y[1] + 0.1 * (x[1] - 0.5), 0, 1)  # a near pair beside a far one
    backbone, heads = our_backbone(encoder, reference.net), heads_of(reference)
    layers = metrics.LPIPS_LAYERS[name]
    result = jax.jit(lambda x, y: metrics.lpips(backbone, x, y, layers=layers, heads=heads))(x, y)
    tensors = [torch.from_numpy(z.transpose(0, 3, 1, 2).copy()) for z in (x, y)]
    with torch.no_grad():
        expected = reference(*tensors, normalize=True).numpy().ravel()
        reference.lpips = False
        baseline = reference(*tensors, normalize=True).numpy().ravel()
    assert expected[0] > 2 * expected[1] > 1e-3
    np.testing.assert_allclose(result, expected, rtol=1e-4)
    unweighted = jax.jit(lambda x, y: metrics.lpips(backbone, x, y, layers=layers))(x, y)
    np.testing.assert_allclose(unweighted, baseline, rtol=1e-4)


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_load_lpips_heads_equals_package(lpips_package, name):
    expected = heads_of(lpips_package.LPIPS(net=name, pnet_rand=True, verbose=False))
    heads = models.load_lpips_heads(name)
    assert len(heads) == len(expected) == 5
    for result, wanted in zip(heads, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
        assert result.dtype == np.float32 and result.min() >= 0


def test_gram_loss_sum_equals_gatys():
    x, y = (np.random.default_rng(seed).random((2, 6, 5, 3), dtype=np.float32) for seed in (0, 1))

    def features_fn(images):
        return {"a": images * 2.0, "b": images[:, ::2] + 1.0}

    expected = np.zeros(2)
    for layer in ("a", "b"):
        f, g = (np.asarray(features_fn(images)[layer], np.float64).reshape(2, -1, 3) for images in (x, y))
        difference = np.einsum("bni,bnj->bij", f, f) - np.einsum("bni,bnj->bij", g, g)
        expected += 0.5 * np.sum(difference**2, axis=(1, 2)) / (4 * 3**2 * f.shape[1] ** 2)
    result = metrics.gram_loss(features_fn, x, y, layers=("a", "b"), reduction="sum")
    np.testing.assert_allclose(result, expected, rtol=1e-4)
    with pytest.raises(UserError, match="unknown reduction of the Gram loss 'max'; known: mean, sum"):
        metrics.gram_loss(features_fn, x, y, layers=("a", "b"), reduction="max")
