"""Networks of Caffe, in files that these tests write in protobuf's wire format."""

import dataclasses
import struct

import numpy as np
import pytest

import arinv
from arinv import main, models
from arinv.apps.weights import info
from arinv.errors import UserError
from arinv.models import caffe, convert
from arinv.models.generators import plans
from configs import import_torch

RNG = np.random.default_rng(0)
V1 = {"Convolution": 4, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18, "Deconvolution": 39}


def varint(value):
    parts = []
    while value > 0x7F:
        parts.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*parts, value])


def field(number, content):
    """A field of bytes, text or a whole number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array, *, old=False, double=False):
    """A blob with a shape, or of old files with four sides, those of a dense layer 1 x 1 x outputs x inputs."""
    numbers = field(8, array.astype("<f8").tobytes()) if double else field(5, array.astype("<f4").tobytes())
    if not old:
        return field(7, field(1, b"".join(map(varint, array.shape)))) + numbers
    sides = (*(1,) * (4 - array.ndim), *array.shape)
    return b"".join(field(i, side) for i, side in enumerate(sides, start=1)) + numbers


def network(layers, *, old=False):
    """A network of layers (name, type, arrays), in the new or the old generation of the format."""
    content = field(1, "net") + field(3, "data")
    for name, kind, *arrays in layers:
        blobs = [blob(array, old=old) for array in arrays]
        if old:
            parts = [field(2, "bottom"), *(field(6, x) for x in blobs), field(4, name), field(5, V1[kind])]
            content += field(2, b"".join(parts))
        else:
            parts = [field(1, name), field(2, kind), field(3, "bottom"), *(field(7, x) for x in blobs)]
            content += field(100, b"".join(parts)) + varint(9 << 3 | 5) + struct.pack("<f", 1.0)
    return content


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def caffenet():
    """The layers of a CaffeNet with 8 units in fc6 and fc7 and 3 classes."""
    shapes = {"conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3)}
    shapes |= {"conv4": (384, 192, 3, 3), "conv5": (256, 192, 3, 3)}
    shapes |= {"fc6": (8, 256), "fc7": (8, 8), "fc8": (3, 8)}
    layers = []
    for name, shape in shapes.items():
        layers.append((name, "Convolution" if len(shape) == 4 else "InnerProduct", normal(*shape), normal(shape[0])))
        if name == "conv1":
            layers += [("pool1", "Pooling"), ("norm1", "LRN")]
    return layers


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.long
def test_caffenet_is_read_with_its_first_channels_in_the_order_rgb(old, tmp_path):
    layers, path = caffenet(), tmp_path / "net.caffemodel"
    path.write_bytes(network(layers, old=old))
    weights = {name: arrays for name, _, *arrays in layers if arrays}
    variables = convert.load_torch(path, "caffenet", num_classes=3, dense_width=8, image_size=64)["params"]
    np.testing.assert_array_equal(variables["conv1"]["kernel"], weights["conv1"][0][:, ::-1].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(variables["conv2"]["kernel"], weights["conv2"][0].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(variables["fc7"]["kernel"], weights["fc7"][0].T)
    np.testing.assert_array_equal(variables["fc8"]["bias"], weights["fc8"][1])
    main.run(import_torch.get_config(f"encoder=caffenet,path={path},image_size=64"), tmp_path / "imported")
    imported = arinv.load(tmp_path / "imported")
    assert imported.description["options"] == {"dense_width": 8} and imported.module.normalization == "caffe"
    np.testing.assert_array_equal(imported.variables["params"]["fc6"]["kernel"], variables["fc6"]["kernel"])
    lines = "\n".join(info.lines(path))
    assert "Caffe" in lines and "caffenet with dense_width 8" in lines and "normalization  caffe" in lines


@pytest.mark.long
def test_generator_returns_rgb_of_the_numbers_that_caffe_returns_in_bgr(tmp_path, monkeypatch):
    """Against a plain loop over the layers, channels first, with few channels on a dense layer of 5 units."""
    plan, path = plans.PAPER_PLANS["caffenet", "fc6", "deepsim"], tmp_path / "generator.caffemodel"
    steps = tuple(step._replace(width=4 if step.kind == "up" else 7) for step in plan.steps)
    monkeypatch.setitem(plans.PAPER_PLANS, ("caffenet", "fc6", "deepsim"), dataclasses.replace(plan, steps=steps))
    options = {"image_size": 64, "variant": "deepsim", "encoder_options": {"dense_width": 5}}
    module = models.build_generator("caffenet", "fc6", **options)
    layers, channels = [], 5
    for i, step in enumerate((*module.plan.steps, module.plan.last)):
        if step.kind == "dense":
            outputs = step.width * step.stride**2
            layers.append((f"fc{i}", "InnerProduct", normal(outputs, channels), normal(outputs)))
        else:
            layers.append((f"up{i}", "Deconvolution", normal(channels, step.width, step.kernel, step.kernel)))
        channels = step.width
    path.write_bytes(network(layers))
    variables = convert.load_caffe_generator(path, "caffenet", "fc6", **options)
    expected = x = normal(2, 5)
    for step, (_, kind, weight, *bias) in zip((*module.plan.steps, module.plan.last), layers, strict=True):
        if kind == "InnerProduct":
            expected = expected @ weight.T + bias[0]
            expected = expected.reshape(2, -1, 4, 4) if step.stride == 4 else expected
        else:
            expected = deconvolve(expected, weight, step.stride)
        expected = expected if step == module.plan.last else np.where(expected > 0, expected, 0.3 * expected)
    expected = expected.transpose(0, 2, 3, 1)[..., ::-1]
    images = 255 * np.asarray(module.apply(variables, x, train=True)) - np.array([122.68, 116.67, 104.01])
    np.testing.assert_allclose(images, expected, atol=1e-4 * np.abs(expected).max())
    layers[-1] = (*layers[-1], np.ones(3, np.float32))
    path.write_bytes(network(layers))
    with pytest.raises(UserError, match="has a bias in layer up"):
        convert.load_caffe_generator(path, "caffenet", "fc6", **options)


def deconvolve(x, weight, stride):
    """Caffe's Deconvolution with padding 1, by a plain loop."""
    batch, _, height, width = x.shape
    size = weight.shape[2]
    full = np.zeros((batch, weight.shape[1], stride * (height - 1) + size, stride * (width - 1) + size))
    for i in range(height):
        for j in range(width):
            window = np.einsum("bc,cokl->bokl", x[:, :, i, j], weight)
            full[:, :, stride * i : stride * i + size, stride * j : stride * j + size] += window
    return full[:, :, 1:-1, 1:-1]


def test_mean_image_is_averaged_and_in_the_order_rgb(tmp_path):
    path = tmp_path / "mean.binaryproto"
    image = np.stack([np.full((4, 4), value) for value in (51.0, 102.0, 255.0)])
    for double in (False, True):
        path.write_bytes(blob(image[None], old=True, double=double))
        np.testing.assert_allclose(caffe.read_mean(path), (1.0, 0.4, 0.2), rtol=1e-6)
    assert any("mean=1+0.4+0.2,std=1/255+1/255+1/255" in line for line in info.lines(path))
    path.write_bytes(blob(np.zeros((2, 4, 4))))
    with pytest.raises(UserError, match=r"shape \(2, 4, 4\); expected one mean image"):
        caffe.read_mean(path)


SMALL = [("a", "InnerProduct", np.ones((2, 3)), np.ones(2))]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (network(SMALL)[:-9], "cut short or damaged"),
        (b"\xff" * 40, "more than 10 bytes"),
        (field(100, field(1, b"\xff\xfe") + field(7, blob(np.ones(2)))), "cut short or damaged"),
        (field(100, field(7, field(7, field(1, varint(3))) + field(5, b"\0" * 8))), r"shape \(3,\) has 2 numbers"),
        (field(100, field(7, field(7, field(1, varint(1 << 62))))), "has 0 numbers"),
        (field(1, "net"), "contains no weights"),
        (b"", "cut short or damaged"),
        (b"\x0b\x00", "wire type 3 is unknown"),
    ],
)
def test_damaged_files_are_one_line(content, shown, tmp_path):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(content)
    with pytest.raises(UserError, match=shown) as error:
        caffe.read_network(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_every_cut_of_a_file_is_refused(tmp_path):
    path, content = tmp_path / "x.caffemodel", network(SMALL, old=True)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            caffe.read_network(path)


def test_other_networks_are_one_line(tmp_path):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(network([("conv1", "Convolution", normal(4, 3, 3, 3)), ("n", "LRN"), ("p", "Pooling")]))
    with pytest.raises(UserError, match="normalizes before it pools"):
        convert.load_torch(path, "caffenet")
    path.write_bytes(network([*SMALL, *SMALL]))
    with pytest.raises(UserError, match="two layers are called a"):
        convert.load_torch(path, "caffenet")
    with pytest.raises(UserError, match="has 2 layers with weights, the network 12; in the file: a"):
        convert.load_caffe_generator(path, "caffenet", "conv5", variant="deepsim")
    with pytest.raises(UserError, match="no file .*missing.caffemodel"):
        convert.load_torch(tmp_path / "missing.caffemodel", "caffenet")
