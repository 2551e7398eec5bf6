"""Names and layouts in PyTorch's checkpoints, without PyTorch: round trips of every network, prefixes, mismatches."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from small_encoders import SMALL, smallest_size
from torch_streams import call, name, number, row, state, table, text, write_zip

from arinv import models
from arinv.apps.weights import import_torch
from arinv.errors import UserError
from arinv.experiment import loading
from arinv.experiment.run import Run
from arinv.models.encoders.base import NORMALIZATIONS, TorchLayer
from arinv.models.pytorch import names as layout
from arinv.models.pytorch.convert import (
    describe_torch,
    export_safetensors,
    load_torch,
    load_torch_denoiser,
    load_torch_generator,
)
from arinv.models.pytorch.files import TorchFile
from arinv.models.pytorch.names import (
    denoiser_entries,
    discriminator_entries,
    encoder_entries,
    generator_entries,
)
from arinv.models.pytorch.pickles import Tensor
from arinv.models.pytorch.weights import locate
from arinv.models.registry import Architecture
from configs import import_torch as import_torch_config

TINY = SMALL["wrn28_10"]


def random_variables(name, options, side):
    """Random arrays in the place of an encoder's variables, without running its initialization."""
    module = models.build(name, **options)
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
    rng = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: draw(rng, path[-1].key, leaf.shape), shapes)


def draw(rng, name, shape):
    """Random numbers, none below 0 for a variance."""
    numbers = rng.standard_normal(shape, np.float32)
    return np.abs(numbers) if name.rpartition(".")[2] in ("var", "running_var") else numbers


@pytest.mark.parametrize("name", [name for name in models.ENCODERS if models.build(name).has_weights])
@pytest.mark.long
def test_encoder_round_trip_keeps_variables(name, tmp_path):
    options = {**SMALL[name], "num_classes": 3}
    side = smallest_size(models.build(name, **options))
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
    "resnet50_imagenet": ({}, 267, ("layer1.0.downsample.0.weight", "layer4.2.bn3.running_var", "fc.bias")),
    "preact_resnet18": ({}, 90, ("layer1.0.bn1.weight", "layer2.0.shortcut.0.weight", "bn.weight", "linear.bias")),
    "wrn70_16_silu": ({}, 340, ("init_conv.weight", "layer.2.block.10.batchnorm_1.bias", "batchnorm.bias")),
    "wrn28_10": ({}, 130, ("block1.layer.0.bn1.weight", "block3.layer.3.conv2.weight", "bn1.bias")),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.long
def test_encoder_entries_have_the_names_of_published_files(name):
    options, count, some = KNOWN[name]
    names = [entry.names[0] for entry in encoder_entries(name, None, options)[1]]
    assert len(set(names)) == len(names) == count
    assert set(some) <= set(names)


def test_generator_and_discriminator_entries_have_the_released_names():
    names = [entry.names[0] for entry in generator_entries("alexnet", "conv5", {})]
    assert {"gen.0.weight_orig", "gen.0.weight_u", "gen.3.weight_v", "gen.34.running_var", "gen.36.bias"} <= set(names)
    assert len(names) == 13 * 3 + 12 * 4 + 1
    entries = discriminator_entries("alexnet", "conv5", None, {})
    shapes = {entry.names[0]: entry.torch_shape for entry in entries}
    assert shapes["features.12.weight_orig"] == (256, 256, 3, 3)
    assert shapes["classifier01.0.weight_orig"] == (1024, 9216) and shapes["classifier02.4.weight_v"] == (512,)


def test_to_ours_permutes_the_dense_kernel_by_channel():
    rng = np.random.default_rng(0)
    image, weight = rng.standard_normal((2, 2, 5)), rng.standard_normal((3, 20))
    layer = TorchLayer("fc6", ("a",), channels=5)
    entry = layout.Entry(("params", "fc6", "kernel"), (20, 3), ("a.weight",), layer, (20, 3))
    kernel = layout.to_ours(entry, weight)
    np.testing.assert_allclose(image.reshape(-1) @ kernel, weight @ image.transpose(2, 0, 1).reshape(-1))
    np.testing.assert_array_equal(layout.to_torch(entry, kernel), weight)


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (4, 4, 2, 5), (7, 5)])
@pytest.mark.parametrize("transposed", [False, True])
def test_to_ours_permutes_singular_vectors_with_their_kernel(shape, transposed):
    """The largest singular value u W v is the same in both layouts."""
    rng = np.random.default_rng(0)
    layer = TorchLayer("up", ("up",), transposed=transposed and len(shape) == 4)
    entry = layout.Entry(("params", "up", "kernel"), shape, ("up.weight_orig",), layer, shape)
    right = entry._replace(path=("spectral", "up", "vectors", "v"), shape=(np.prod(shape[:-1]),))
    kernel, v = rng.standard_normal(shape), rng.standard_normal(right.shape)
    weight, v_there = layout.to_torch(entry, kernel), layout.to_torch(right, v)
    assert weight.shape == entry.torch_shape
    rows = (weight.swapaxes(0, 1) if layer.transposed else weight).reshape(shape[-1], -1)
    np.testing.assert_allclose(rows @ v_there, v @ kernel.reshape(-1, shape[-1]))
    np.testing.assert_array_equal(layout.to_ours(right, v_there), v)
    np.testing.assert_array_equal(layout.to_ours(entry, weight), kernel)


@pytest.mark.long
def test_load_torch_reads_any_prefix_and_older_or_newer_names(tmp_path):
    """The same weights under names of robustness, and spectral normalization as a parametrisation."""
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
    state = {entry.names[-1]: draw(rng, entry.names[0], entry.torch_shape) for entry in entries}
    assert "gen.0.parametrizations.weight.original" in state
    safetensors.numpy.save_file(state, tmp_path / "c.safetensors")
    generator = load_torch_generator(tmp_path / "c.safetensors", "alexnet", "conv1", image_size=64)
    assert generator["spectral"]["rgb"]["vectors"]["u"].shape == (3,)


def test_load_torch_raises_one_line(tmp_path):
    variables, path = random_variables("wrn28_10", {"depth": 10, "width": 1}, 8), tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"params/fc/kernel: \(64, 10\) in the variables, \(64, 4\) in the"):
        export_safetensors(path, "wrn28_10", variables, depth=10, width=1, num_classes=4)
    with pytest.raises(UserError, match="none in the network"):
        export_safetensors(path, "wrn28_10", {**variables, "extra": {"a": np.zeros(1)}}, depth=10, width=1)
    with pytest.raises(UserError, match="cannot be written"):
        export_safetensors(tmp_path / "no" / "a", "wrn28_10", variables, depth=10, width=1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="after a dense layer"):
        load_torch_generator(path, "alexnet", "fc6")
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, path)
    with pytest.raises(UserError, match="missing in the file: conv1.weight.*and .* more; only in the file: a$"):
        load_torch(path, "wrn28_10", depth=10, width=1)


def test_load_torch_rejects_negative_variances(tmp_path):
    state = {entry.names[0]: np.zeros(entry.torch_shape, np.float32) for entry in small_entries()}
    name = next(name for name in state if name.endswith("running_var"))
    state[name][0] = -1e-3
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"negative variances in {name}"):
        load_torch(tmp_path / "a.safetensors", "wrn28_10", **TINY)


@pytest.mark.parametrize(("dtype", "value"), [("f4", np.nan), ("f4", -np.inf), ("f8", 1e39)])
def test_load_torch_rejects_weights_that_are_not_finite(dtype, value, tmp_path):
    entries = encoder_entries("wrn28_10", None, TINY)[1]
    state = {entry.names[0]: np.zeros(entry.torch_shape, dtype) for entry in entries}
    state["block2.layer.0.conv1.weight"][0, 0, 0, 0] = value
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="NaN or infinity in block2.layer.0.conv1.weight"):
        load_torch(tmp_path / "a.safetensors", "wrn28_10", **TINY)


def weights_at(*places):
    """An open file with a network's names at each of these places, a tensor of one number each."""
    state = {name: Tensor(None, 0, (), ()) for entry in small_entries() for name in entry.names[:1]}
    content = {place: dict(state) for place in places} | {"epoch": 3, "buffers": {"mean": Tensor(None, 0, (), ())}}
    return TorchFile("a.pt", content, None, {})


def small_entries():
    return encoder_entries("wrn28_10", None, TINY)[1]


def test_locate_reports_a_second_dictionary_that_fits():
    for places, taken in ((("best", "last"), "last"), (("state_dict_ema", "state_dict"), "state_dict")):
        file = weights_at(*places)
        file.content[taken]["conv1.weight"] = "this one"
        state_dict = locate(file, small_entries())
        assert state_dict.weights["conv1.weight"] == "this one"
        assert state_dict.others == tuple(place for place in places if place != taken)
    assert locate(weights_at("student"), small_entries()).others == ()
    with pytest.raises(UserError, match=r"equally well: student, teacher; save one .*torch.load.PATH.\['student'\]"):
        locate(weights_at("student", "teacher"), small_entries())


@pytest.mark.parametrize("arg", ["norm=L7", "eps=0.5,norm=L7"])
def test_import_rejects_an_unknown_norm_before_reading(arg):
    with pytest.raises(UserError, match="'L7'; known: l1, l2, linf"):
        import_torch.check(import_torch_config.get_config(f"path=a.pt,{arg}"))
    import_torch.check(import_torch_config.get_config("path=a.pt,eps=0.5,norm=l1"))


def weights(prefix="", dtype=np.float32, **others):
    """The arrays of a small wide ResNet by name, and others beside them."""
    rng = np.random.default_rng(0)
    arrays = {f"{prefix}{e.names[0]}": draw(rng, e.names[0], e.torch_shape).astype(dtype) for e in small_entries()}
    return arrays | {key.replace("/", "."): np.asarray(value) for key, value in others.items()}


def save(path, arrays, wrap=lambda stream: stream, **options):
    """Leaves a checkpoint of torch.save; `wrap` puts the pickle of the weights into that of the file."""
    stream, storages = state(arrays, **options)
    return write_zip(path, wrap(stream), storages=storages)


def load_tiny(path, **options):
    loaded = load_torch(path, "wrn28_10", **TINY, **options)
    np.testing.assert_array_equal(loaded["params"]["fc"]["bias"], np.float32(weights()["fc.bias"]))
    return loaded


NESTED = {
    "one": lambda stream: table(model=stream, epoch=number(3)),
    "two": lambda stream: table(state=table(model=stream, optimizer=table(state=table(a=number(1))))),
    "list": lambda stream: table(models=b"](" + stream + b"e"),
    "class of dictionaries": lambda stream: table(model=name("easydict", "EasyDict") + b")\x81" + stream[1:]),
}


@pytest.mark.parametrize("kind", NESTED)
def test_locate_finds_weights_in_dictionaries_of_dictionaries(kind, tmp_path):
    loaded = load_tiny(save(tmp_path / "a.pt", weights(), NESTED[kind]))
    expected = np.float32(weights()["conv1.weight"]).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded["params"]["conv1"]["kernel"], expected)


def test_locate_rejects_two_equal_networks_at_one_depth():
    file = weights_at("a", "b")
    file.content = {"student": {"model": file.content["a"]}, "teacher": {"model": file.content["b"]}}
    with pytest.raises(UserError, match=r"student/model, teacher/model; .*\['student'\]\['model'\]"):
        locate(file, small_entries())
    file.content = {"model": file.content["student"]["model"], "ema": file.content["teacher"]}
    state_dict = locate(file, small_entries())
    assert (state_dict.place, state_dict.others) == ("model", ("ema/model",))


@pytest.mark.parametrize("optimizer", [b"}", None])
def test_locate_names_a_whole_object(optimizer, tmp_path):
    stream, storages = state({"exp_avg": np.zeros(3, np.float32)})
    network = name("models.vgg", "VGG") + b")\x81" + table(training=number(1)) + b"b"
    path = write_zip(tmp_path / "a.pt", table(model=network, optimizer=optimizer or stream), storages=storages)
    with pytest.raises(UserError, match=r"model is an object of class models.vgg.VGG.*state_dict\(\)") as error:
        load_tiny(path)
    assert "\n" not in str(error.value)
    arguments = name("argparse", "Namespace") + b")\x81"
    path = write_zip(tmp_path / "b.pt", table(args=arguments, other=stream), storages=storages)
    with pytest.raises(UserError, match="missing in the file: conv1.weight"):  # arguments are no network
        load_tiny(path)


EXTRAS = {
    "n_averaged": {"prefix": "module.", "n_averaged": 3},
    "criterion": {"prefix": "model.", "criterion/weight": np.ones(10, np.float32)},
    "metrics": {"prefix": "model.", "val_acc/correct": 3, "train_metrics/f1/tp": 1, "top1/total": 1},
    "inside": {"loss_fn/weight": np.ones(10, np.float32), "accuracy/total": 5},
    "average": {"prefix": "model.", "ema/conv1/weight": np.ones(1, np.float32), "ema/num_updates": 3},
}


@pytest.mark.parametrize("kind", EXTRAS)
def test_load_torch_skips_listed_extras_and_reports_them(kind, tmp_path):
    lines, arrays = [], weights(**EXTRAS[kind])
    load_tiny(save(tmp_path / "a.pt", arrays), report=lines.append)
    assert len(lines) == 2 and f"from {len(small_entries())} tensors" in lines[0] and "parameters" in lines[0]
    assert all(key.replace("/", ".") in lines[1] for key in EXTRAS[kind] if key != "prefix")


def test_load_torch_rejects_unlisted_extras_unless_on_unknown_is_report(tmp_path):
    path = save(tmp_path / "a.pt", weights("model.", **{"adapter/weight": np.ones(2, np.float32)}))
    with pytest.raises(UserError, match="only in the file: adapter.weight; on_unknown=report skips these$"):
        load_tiny(path)
    lines = []
    load_tiny(path, on_unknown="report", report=lines.append)
    assert "adapter.weight" in lines[1]
    assert describe_torch(path, "wrn28_10", **TINY)["unread"] == ["adapter.weight"]
    with pytest.raises(UserError, match="on_unknown 'skip'; known: error, report"):
        load_tiny(path, on_unknown="skip")
    deeper = save(tmp_path / "b.pt", weights(**{"block1/layer/1/conv1/weight": np.ones(2, np.float32)}))
    with pytest.raises(UserError, match="only in the file: block1.layer.1.conv1.weight$"):
        load_tiny(deeper, on_unknown="report")


RONY = ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))  # of a file in RobustBench


@pytest.mark.parametrize(("dtype", "kind"), [(np.float16, "HalfStorage"), (np.float32, "FloatStorage")])
def test_normalization_is_compared_at_the_precision_of_its_type(dtype, kind, tmp_path):
    mean, std = (np.array(part, dtype).reshape(1, 3, 1, 1) for part in NORMALIZATIONS["imagenet"])
    path = save(tmp_path / "a.pt", weights(dtype=dtype, mu=mean, sigma=std), kind=kind)
    assert describe_torch(path, "wrn28_10", **TINY)["normalization"] == "imagenet"
    load_torch(path, "wrn28_10", **TINY, normalization="imagenet")
    with pytest.raises(UserError, match="normalization='cifar10'; pass normalization='imagenet'"):
        load_torch(path, "wrn28_10", **TINY, normalization="cifar10")


def test_load_torch_accepts_an_unnamed_normalization(tmp_path):
    mean, std = (np.array(part, np.float32).reshape(1, 3, 1, 1) for part in RONY)
    path = save(tmp_path / "a.pt", weights(mu=mean, sigma=std))
    carried = describe_torch(path, "wrn28_10", **TINY)["normalization"]
    assert carried == RONY
    load_torch(path, "wrn28_10", **TINY, normalization=carried)
    with pytest.raises(UserError, match=r"mean=0.491\+0.482\+0.447,std=0.247\+0.243\+0.262"):
        load_tiny(path)


def import_config(path, **arguments):
    text = ",".join(f"{key}={value}" for key, value in arguments.items())
    return import_torch_config.get_config(f"encoder=wrn28_10,options=depth:10+width:1,path={path},{text}")


def test_import_uses_depth_width_and_the_normalization_of_the_file(tmp_path, capsys):
    mean, std = (np.array(part, np.float32).reshape(1, 3, 1, 1) for part in RONY)
    path = save(tmp_path / "a.pt", weights(mu=mean, sigma=std))
    import_torch.run(Run(import_config(path), tmp_path / "out"))
    lines = capsys.readouterr().err
    count = len(small_entries())
    assert f"encoder 'wrn28_10' of 10 classes, 77,850 parameters, from {count} tensors" in lines
    assert "mean (0.491, 0.482, 0.447), standard deviation (0.247, 0.243, 0.262): as in the file" in lines
    encoder = loading.load(tmp_path / "out", kind="classifier")
    assert (encoder.module.depth, encoder.module.width, encoder.module.normalization) == (10, 1, RONY)


@pytest.mark.long
def test_import_infers_depth_and_width(tmp_path, capsys):
    path = save(tmp_path / "a.pt", weights())
    import_torch.run(Run(import_torch_config.get_config(f"encoder=wrn28_10,path={path}"), tmp_path / "out"))
    assert "a.pt: depth 10, width 1: as in the file" in capsys.readouterr().err
    module = loading.load(tmp_path / "out", kind="classifier").module
    assert (module.depth, module.width, module.normalization) == (10, 1, "none")


def test_import_names_the_encoder_that_the_file_has(tmp_path, monkeypatch):
    path = save(tmp_path / "a.pt", weights())
    for encoder, message in {
        "alexnet": "missing in the file.*; the file has the weights of encoder=wrn28_10,options=depth:10\\+width:1$",
        "wrn28_10_silu": "the file has the weights of encoder=wrn28_10,options=depth:10\\+width:1$",
    }.items():
        with pytest.raises(UserError, match=message):
            import_torch.run(Run(import_torch_config.get_config(f"encoder={encoder},path={path}"), tmp_path / "out"))
    row = Architecture(models.ENCODERS["wrn28_10"].module, {"depth": 10, "width": 1})
    monkeypatch.setitem(models.ENCODERS, "tiny", row)
    with pytest.raises(UserError, match="has the weights of tiny, not of wrn28_10: pass encoder=tiny$"):
        import_torch.run(Run(import_torch_config.get_config(f"encoder=wrn28_10,path={path}"), tmp_path / "out"))


def test_import_prints_the_assumed_normalization(tmp_path, capsys):
    path = save(tmp_path / "a.pt", weights())
    import_torch.run(Run(import_config(path), tmp_path / "a"))
    assert "none, mean (0.0, 0.0, 0.0), standard deviation (1.0, 1.0, 1.0): the encoder's" in capsys.readouterr().err
    import_torch.run(Run(import_config(path, mean="0.5+0.25+1/8", std="1+1+1"), tmp_path / "b"))
    assert "mean (0.5, 0.25, 0.125), standard deviation (1.0, 1.0, 1.0): as in the config" in capsys.readouterr().err
    for arguments in ({"mean": "0.5+0.5+0.5"}, {"mean": "a", "std": "b"}, {"depths": "1+b"}):
        with pytest.raises(ValueError, match="mean|depths"):
            import_config(path, **arguments)
    with pytest.raises(UserError, match="deviations above 0"):
        import_torch.check(import_config(path, mean="0+0+0", std="0+1+1"))
    with pytest.raises(UserError, match=r"that of pixels in \[0, 1\].*divide .* by 255"):
        import_torch.check(import_config(path, mean="123.7+116.3+103.5", std="58.4+57.1+57.4"))
    with pytest.raises(UserError, match="depths of encoder 'resnet18' must be 4 whole numbers"):
        models.build("resnet18", depths=(1, 2))


def denoiser_weights():
    """The released denoiser's arrays by name, as described in models/alexnet_skip.py there."""
    shapes = {"conv1_1": (64, 3, 11, 11), "conv2_1": (192, 64, 5, 5), "conv3_1": (384, 192, 3, 3)}
    shapes |= {"conv3_2": (256, 384, 3, 3), "conv3_3": (256, 256, 3, 3)}
    widths = {"7_1": (256, 256), "6_1": (256, 256), "5_1": (256, 256), "5_2": (256, 192), "4_1": (192, 128)}
    widths |= {"4_2": (128, 64), "3_1": (64, 64), "2": (64, 32), "2_1": (32, 32), "1": (32, 3)}
    arrays = {"normalize.new_mean": np.full((3, 1, 1), 0.5), "normalize.new_std": np.full((3, 1, 1), 0.5)}
    for key, shape in shapes.items():
        arrays |= {f"classifier.{key}.weight": np.zeros(shape), f"classifier.{key}.bias": np.zeros(shape[0])}
    for place in ("classifier.pool", "generator.unpool"):
        arrays |= {f"{place}{i}.{band}.weight": np.zeros((2, 1, 2, 2)) for i in (1, 2, 3) for band in ("LL", "HH")}
    for key, (inputs, outputs) in widths.items():
        kernel = np.arange(outputs * inputs * 9) % 7
        arrays[f"generator.conv{key}.weight_orig"] = kernel.reshape(outputs, inputs, 3, 3)
        arrays |= {
            f"generator.conv{key}.weight_u": np.ones(outputs),
            f"generator.conv{key}.weight_v": np.ones(inputs * 9),
        }
        parts = ("weight", "bias", "running_mean", "running_var")
        arrays |= {f"generator.bn{key}.{part}": np.full(outputs, i + 1) for i, part in enumerate(parts)}
        arrays[f"generator.bn{key}.num_batches_tracked"] = np.array(3)
    arrays |= {"generator.conv1_1.weight_orig": np.zeros((3, 3, 3, 3)), "generator.conv1_1.bias": np.arange(3)}
    arrays |= {"generator.conv1_1.weight_u": np.ones(3), "generator.conv1_1.weight_v": np.ones(27)}
    return {f"module.{key}": np.asarray(array, np.float32) for key, array in arrays.items()}


def test_load_torch_denoiser_reads_the_released_names(tmp_path):
    arrays = denoiser_weights()
    path = save(tmp_path / "a.pt", arrays, lambda stream: table(model=stream, discriminator=b"N"))
    halves, (encoder, decoder) = load_torch_denoiser(path), models.build_denoiser()
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    (features, details), expected = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x), images)
    shapes = {"encoder": expected}
    shapes["decoder"] = jax.eval_shape(lambda *x: decoder.init(jax.random.key(0), *x), features["conv5"], details)
    assert jax.tree.map(np.shape, halves) == jax.tree.map(np.shape, shapes)
    first, last = halves["decoder"]["params"]["conv0"]["kernel"], halves["decoder"]["params"]["rgb"]["bias"]
    np.testing.assert_array_equal(first, arrays["module.generator.conv7_1.weight_orig"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(last, [0, 1, 2])
    assert [float(halves["decoder"]["batch_stats"]["bn0"][part][0]) for part in ("mean", "var")] == [3, 4]
    with pytest.raises(UserError, match="variant='default'"):
        denoiser_entries("alexnet", {"variant": "table_a9"})


@pytest.mark.long
def test_import_of_a_denoiser_needs_its_encoder(tmp_path):
    rng = np.random.default_rng(0)
    options = {"num_classes": 2, "dense_width": 8, "head_side": 1}
    entries = encoder_entries("alexnet", 64, options)[1]
    arrays = {entry.names[0]: rng.standard_normal(entry.torch_shape, np.float32) for entry in entries}
    common = "encoder=alexnet,image_size=64,options=dense_width:8+head_side:1"
    save(tmp_path / "encoder.pt", arrays)
    config = import_torch_config.get_config(f"{common},normalization=pm1,path={tmp_path}/encoder.pt")
    import_torch.run(Run(config, tmp_path / "encoder"))
    both = denoiser_weights()
    config = import_torch_config.get_config(
        f"{common},denoiser=true,encoder_checkpoint={tmp_path}/encoder,path={tmp_path}/denoiser.pt"
    )
    import_torch.check(config)
    save(tmp_path / "denoiser.pt", both)
    with pytest.raises(UserError, match="other convolutions than the encoder in"):
        import_torch.run(Run(config, tmp_path / "denoiser"))
    places = {"conv1_1": 0, "conv2_1": 3, "conv3_1": 6, "conv3_2": 8, "conv3_3": 10}
    for key, place in places.items():
        both |= {f"module.classifier.{key}.{part}": arrays[f"features.{place}.{part}"] for part in ("weight", "bias")}
    save(tmp_path / "denoiser.pt", both)
    import_torch.run(Run(config, tmp_path / "denoiser"))
    trained = loading.load(tmp_path / "denoiser", kind="denoiser")
    assert trained.module.encoder.normalization == "pm1" and trained.module.decoder.pad_side == "official"
    np.testing.assert_array_equal(trained.variables["params"]["rgb"]["bias"], [0, 1, 2])


def test_load_torch_skips_entries_that_are_not_tensors(tmp_path):
    """Settings beside weights at the top of a file, and class numbers that would take forever to print."""
    doubled = b")" + b"".join(b"2\x86" for _ in range(200))
    stream, storages = state(weights())
    others = {"epoch": number(3), "args": name("argparse", "Namespace") + b")\x81", "class_to_idx": table(a=doubled)}
    stream = stream[:-1] + b"".join(text(key) + value for key, value in others.items()) + b"u"
    path, lines = write_zip(tmp_path / "a.pt", stream, storages=storages), []
    load_tiny(path, report=lines.append)
    assert "3 not read: args, class_to_idx, epoch" in lines[1]
    assert describe_torch(path, "wrn28_10", **TINY)["class_names"] == []


def test_load_torch_rejects_a_placeholder_as_weight(tmp_path):
    """A weight that only an unknown function could make is named as what it is."""
    arrays = weights()
    stream, storages = state({key: array for key, array in arrays.items() if key != "fc.bias"})
    placeholder = call(name("my", "rebuild"), row(text("a")))
    path = write_zip(tmp_path / "a.pt", stream[:-1] + text("fc.bias") + placeholder + b"u", storages=storages)
    with pytest.raises(UserError, match=r"not a tensor: fc.bias \(my.rebuild\)"):
        load_tiny(path)
