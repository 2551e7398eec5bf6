"""Names and layouts in PyTorch's checkpoints, without PyTorch: every network goes out and comes back the same."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from arinv import models
from arinv.errors import UserError
from arinv.models.convert import describe_torch, export_safetensors, load_torch, load_torch_generator
from arinv.models.pytorch import layout
from arinv.models.pytorch.file import TorchFile
from arinv.models.pytorch.names import Layer
from arinv.models.pytorch.networks import discriminator_entries, encoder_entries, generator_entries
from arinv.models.pytorch.objects import Tensor
from arinv.models.pytorch.weights import locate
from arinv.tasks import import_torch
from configs import import_torch as import_torch_config

SMALL = {
    "alexnet": {"dense_width": 8},
    "alexnet_small": {"width": 4},
    "caffenet": {"dense_width": 8},
    "resnet18": {"depths": (1, 1, 1, 1)},
    "vgg16": {"width": 8, "dense_width": 8},
    "vgg16_bn": {"width": 8},
    "vgg19": {"width": 8, "dense_width": 8},
    "wrn28_10": {"depth": 10, "width": 1},
}
TINY = SMALL["wrn28_10"]
SIDES = {"alexnet": 64, "caffenet": 64, "resnet18": 8, "vgg16": 32, "vgg16_bn": 32, "vgg19": 32}


def random_variables(name, options, side):
    """Random arrays in the place of an encoder's variables, without running its initialisation."""
    module = models.build(name, **options)
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


@pytest.mark.parametrize("name", models.ENCODERS)
def test_every_encoder_goes_out_and_comes_back(name, tmp_path):
    options, side = {**SMALL[name], "num_classes": 3}, SIDES.get(name, 32)
    variables = random_variables(name, options, side)
    path, classes = tmp_path / "model.safetensors", ["cat", "dog", "frog"]
    export_safetensors(path, name, variables, image_size=side, class_names=classes, **options)
    again = load_torch(path, name, image_size=side, **options)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables, again))
    described = describe_torch(path, name, image_size=side, **SMALL[name])
    assert (described["num_classes"], described["class_names"]) == (3, classes)
    assert described["normalization"] == models.build(name, **options).normalization


# From the files that their origins publish; layers without a number of batches.
KNOWN = {
    "alexnet": ({}, 16, ("features.0.weight", "features.10.bias", "classifier.1.weight", "classifier.6.bias")),
    "vgg16": ({}, 32, ("features.0.weight", "features.28.bias", "classifier.0.weight", "classifier.6.bias")),
    "vgg19": ({}, 38, ("features.0.weight", "features.34.bias", "classifier.0.weight", "classifier.6.bias")),
    "vgg16_bn": ({"head": "dense"}, 84, ("features.1.running_var", "features.40.weight", "features.41.bias")),
    "resnet18": ({}, 102, ("conv1.weight", "layer2.0.downsample.1.running_mean", "layer4.1.bn2.bias", "fc.weight")),
    "wrn28_10": ({}, 130, ("block1.layer.0.bn1.weight", "block3.layer.3.conv2.weight", "bn1.bias")),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_names_are_those_of_the_published_files(name):
    options, count, some = KNOWN[name]
    names = [entry.names[0] for entry in encoder_entries(name, None, options)[1]]
    assert len(set(names)) == len(names) == count
    assert set(some) <= set(names)


def test_names_of_the_released_generator_and_discriminator():
    names = [entry.names[0] for entry in generator_entries("alexnet", "conv5", {})]
    assert {"gen.0.weight_orig", "gen.0.weight_u", "gen.3.weight_v", "gen.34.running_var", "gen.36.bias"} <= set(names)
    assert len(names) == 13 * 3 + 12 * 4 + 1
    entries = discriminator_entries("alexnet", "conv5", None, {})
    shapes = {entry.names[0]: entry.torch_shape for entry in entries}
    assert shapes["features.12.weight_orig"] == (256, 256, 3, 3)
    assert shapes["classifier01.0.weight_orig"] == (1024, 9216) and shapes["classifier02.4.weight_v"] == (512,)


def test_a_dense_layer_reads_the_map_channel_by_channel():
    rng = np.random.default_rng(0)
    image, weight = rng.standard_normal((2, 2, 5)), rng.standard_normal((3, 20))
    layer = Layer("fc6", ("a",), channels=5)
    entry = layout.Entry(("params", "fc6", "kernel"), (20, 3), ("a.weight",), layer, (20, 3))
    kernel = layout.to_ours(entry, weight)
    np.testing.assert_allclose(image.reshape(-1) @ kernel, weight @ image.transpose(2, 0, 1).reshape(-1))
    np.testing.assert_array_equal(layout.to_torch(entry, kernel), weight)


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (4, 4, 2, 5), (7, 5)])
@pytest.mark.parametrize("transposed", [False, True])
def test_singular_vectors_go_with_their_kernel(shape, transposed):
    """The largest singular value u W v is the same in both layouts."""
    rng = np.random.default_rng(0)
    layer = Layer("up", ("up",), transposed=transposed and len(shape) == 4)
    entry = layout.Entry(("params", "up", "kernel"), shape, ("up.weight_orig",), layer, shape)
    right = entry._replace(path=("spectral", "up", "vectors", "v"), shape=(np.prod(shape[:-1]),))
    kernel, v = rng.standard_normal(shape), rng.standard_normal(right.shape)
    weight, v_there = layout.to_torch(entry, kernel), layout.to_torch(right, v)
    assert weight.shape == entry.torch_shape
    rows = (weight.swapaxes(0, 1) if layer.transposed else weight).reshape(shape[-1], -1)
    np.testing.assert_allclose(rows @ v_there, v @ kernel.reshape(-1, shape[-1]))
    np.testing.assert_array_equal(layout.to_ours(right, v_there), v)
    np.testing.assert_array_equal(layout.to_ours(entry, weight), kernel)


def test_any_prefix_and_older_or_newer_names(tmp_path):
    """The same weights under names of robustness, and spectral normalisation as a parametrisation."""
    variables = random_variables("resnet18", {"depths": (1, 1, 1, 1)}, 8)
    export_safetensors(tmp_path / "a.safetensors", "resnet18", variables, image_size=8, depths=(1, 1, 1, 1))
    state = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    renamed = {
        f"module.model.{n.replace('downsample', 'shortcut').replace('fc.', 'linear.')}": a for n, a in state.items()
    }
    renamed["module.attacker.model.conv1.weight"] = state["conv1.weight"]
    safetensors.numpy.save_file(renamed, tmp_path / "b.safetensors")
    again = load_torch(tmp_path / "b.safetensors", "resnet18", image_size=8, depths=(1, 1, 1, 1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables, again))

    rng = np.random.default_rng(0)
    entries = generator_entries("alexnet", "conv1", {"image_size": 64})
    state = {entry.names[-1]: rng.standard_normal(entry.torch_shape, np.float32) for entry in entries}
    assert "gen.0.parametrizations.weight.original" in state
    safetensors.numpy.save_file(state, tmp_path / "c.safetensors")
    generator = load_torch_generator(tmp_path / "c.safetensors", "alexnet", "conv1", image_size=64)
    assert generator["spectral"]["rgb"]["vectors"]["u"].shape == (3,)


def test_mistakes_are_one_line(tmp_path):
    variables, path = random_variables("wrn28_10", {"depth": 10, "width": 1}, 8), tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"params/fc/kernel: \(64, 10\) given, \(64, 4\) in the network"):
        export_safetensors(path, "wrn28_10", variables, depth=10, width=1, num_classes=4)
    with pytest.raises(UserError, match="none in the network"):
        export_safetensors(path, "wrn28_10", {**variables, "extra": {"a": np.zeros(1)}}, depth=10, width=1)
    with pytest.raises(UserError, match="cannot be written"):
        export_safetensors(tmp_path / "no" / "a", "wrn28_10", variables, depth=10, width=1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="behind a dense layer"):
        load_torch_generator(path, "alexnet", "fc6")
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, path)
    with pytest.raises(UserError, match="missing in the file: conv1.weight.*and .* more; only in the file: a$"):
        load_torch(path, "wrn28_10", depth=10, width=1)


@pytest.mark.parametrize(("dtype", "value"), [("f4", np.nan), ("f4", -np.inf), ("f8", 1e39)])
def test_weights_that_are_not_finite_are_refused(dtype, value, tmp_path):
    entries = encoder_entries("wrn28_10", None, TINY)[1]
    state = {entry.names[0]: np.zeros(entry.torch_shape, dtype) for entry in entries}
    state["block2.layer.0.conv1.weight"][0, 0, 0, 0] = value
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="NaN or infinity in block2.layer.0.conv1.weight"):
        load_torch(tmp_path / "a.safetensors", "wrn28_10", **TINY)


def weights_at(*places):
    """An open file with a network's names at each of these places, a tensor of one number each."""
    state = {name: Tensor(None, 0, (), ()) for entry in wanted_names() for name in entry.names[:1]}
    content = {place: dict(state) for place in places} | {"epoch": 3, "buffers": {"mean": Tensor(None, 0, (), ())}}
    return TorchFile("a.pt", content, None, {})


def wanted_names():
    return encoder_entries("wrn28_10", None, TINY)[1]


def test_a_second_dictionary_that_fits_is_told():
    for places, taken in ((("best", "last"), "last"), (("state_dict_ema", "state_dict"), "state_dict")):
        file = weights_at(*places)
        file.content[taken]["conv1.weight"] = "this one"
        found = locate(file, wanted_names())
        assert found.weights["conv1.weight"] == "this one"
        assert found.others == tuple(place for place in places if place != taken)
    assert locate(weights_at("student"), wanted_names()).others == ()
    with pytest.raises(UserError, match=r"alike: student, teacher; save the one .*torch.load.PATH.\['student'\]"):
        locate(weights_at("student", "teacher"), wanted_names())


@pytest.mark.parametrize("arg", ["norm=L7", "eps=0.5,norm=L7"])
def test_an_unknown_norm_is_refused_before_the_file_is_read(arg):
    with pytest.raises(UserError, match="'L7'; known: l1, l2, linf"):
        import_torch.validate(import_torch_config.get_config(f"path=a.pt,{arg}"))
    import_torch.validate(import_torch_config.get_config("path=a.pt,eps=0.5,norm=l1"))
