"""Checkpoints of PyTorch's own networks: equal logits and features after import, and after export again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import models
from arinv.errors import UserError
from arinv.models.encoders.base import NORMALIZATIONS
from arinv.models.generators.plans import PAPER_PLANS
from arinv.models.pytorch.convert import describe_torch, load_torch, load_torch_discriminator, load_torch_generator

torch = pytest.importorskip("torch", reason="needs PyTorch, to make checkpoints and to compare with")

import safetensors.torch  # noqa: E402  imports PyTorch, as does the next
import torch_originals as originals  # noqa: E402

IMAGENET, CIFAR10 = NORMALIZATIONS["imagenet"], NORMALIZATIONS["cifar10"]
SMALL_ALEXNET = {"num_classes": 7, "dense_width": 16}
SMALL_VGG = {"num_classes": 7, "width": 8, "dense_width": 16}
SMALL_RESNET = {"num_classes": 7, "depths": (1, 2, 1, 1)}
SMALL_WRN = {"num_classes": 7, "depth": 10, "width": 2}
THIN = {"num_classes": 7, "depths": (1, 2, 1, 1), "width": 8}
ROBUSTNESS, TORCHVISION = {"shortcut": "shortcut", "last": "linear"}, {"shortcut": "downsample", "last": "fc"}


def vgg(depths, *, batch_norm=False, pooled=False):
    return originals.VGG(depths, 7, width=8, dense_width=16, batch_norm=batch_norm, pooled=pooled)


def resnet(shortcut, last):
    return originals.ResNet(SMALL_RESNET["depths"], 7, shortcut=shortcut, last=last)


def thin(network, *arguments, **options):
    """Makers of a network with the depths, width and classes of THIN, as it is read and as it is written."""
    return [functools.partial(network, THIN["depths"], *arguments, **options)] * 2


# name -> (encoder, options, side of the images, model, model with the names that we write)
CASES = {
    "alexnet of torchvision": (
        *("alexnet", SMALL_ALEXNET, 128),
        *[functools.partial(originals.AlexNet, 7, 16, last_apart=False)] * 2,
    ),
    "alexnet of robustness": (
        *("alexnet", SMALL_ALEXNET, 128),
        *(functools.partial(originals.AlexNet, 7, 16, last_apart=last_apart) for last_apart in (True, False)),
    ),
    "vgg16": ("vgg16", SMALL_VGG, 64, *[functools.partial(vgg, (2, 2, 3, 3, 3))] * 2),
    "vgg19": ("vgg19", SMALL_VGG, 32, *[functools.partial(vgg, (2, 2, 4, 4, 4))] * 2),
    "vgg16_bn of torchvision": (
        *("vgg16_bn", {**SMALL_VGG, "head": "dense", "normalization": "imagenet"}, 32),
        *[functools.partial(vgg, (2, 2, 3, 3, 3), batch_norm=True)] * 2,
    ),
    "vgg16_bn of Adv-BNN": (
        *("vgg16_bn", SMALL_VGG, 32),
        *[functools.partial(vgg, (2, 2, 3, 3, 3), batch_norm=True, pooled=True)] * 2,
    ),
    "resnet18 of robustness": (
        *("resnet18", SMALL_RESNET, 16),
        *(functools.partial(resnet, *names) for names in (("shortcut", "linear"), ("downsample", "fc"))),
    ),
    "resnet18 of torchvision": (
        *("resnet18_imagenet", THIN, 64),
        *thin(originals.ResNet, 7, **TORCHVISION, width=8, large=True),
    ),
    "resnet50 of torchvision": (
        *("resnet50_imagenet", THIN, 64),
        *thin(originals.ResNet, 7, **TORCHVISION, width=8, factor=1, large=True),
    ),
    "wide_resnet50_2 of torchvision": (
        *("wide_resnet50_2", THIN, 45),
        *thin(originals.ResNet, 7, **TORCHVISION, width=8, factor=2, large=True),
    ),
    "resnet50 of robustness": (
        *("resnet50", THIN, 16),
        *(
            functools.partial(originals.ResNet, THIN["depths"], 7, **names, width=8, factor=1)
            for names in (ROBUSTNESS, TORCHVISION)
        ),
    ),
    "preact_resnet18 of Rice et al.": (
        *("preact_resnet18", THIN, 16),
        *thin(originals.PreActResNet, 8, 7, activated=True, last_norm=True),
    ),
    "preact_resnet18 of Wong et al.": (
        *("preact_resnet18", {**THIN, "variant": "wong"}, 16),
        *thin(originals.PreActResNet, 8, 7, activated=False, last_norm=False),
    ),
    "preact_resnet18 of kuangliu": (
        *("preact_resnet18", {**THIN, "variant": "kuangliu"}, 16),
        *thin(originals.PreActResNet, 8, 7, activated=True, last_norm=False),
    ),
    "preact_resnet18 of DeepMind": ("preact_resnet18_silu", THIN, 16, *thin(originals.DeepMindPreActResNet, 8, 7)),
    "wrn70_16 of DeepMind": (
        *("wrn70_16_silu", SMALL_WRN, 16),
        *[functools.partial(originals.DeepMindWideResNet, 10, 2, 7)] * 2,
    ),
    "wrn28_10 of RobustBench": ("wrn28_10", SMALL_WRN, 16, *[functools.partial(originals.WideResNet, 10, 2, 7)] * 2),
}


def nchw(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def nhwc(tensor):
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def random_images(side):
    return np.random.default_rng(0).random((2, side, side, 3), np.float32)


@functools.cache
def applied(encoder, options):
    """The compiled encoder of hashable options, shared by the cases."""
    return jax.jit(models.build(encoder, **dict(options)).apply)


def compare(model, variables, encoder, options, side):
    """Asserts that logits and all features of both are the same."""
    images = random_images(side)
    module = models.build(encoder, **options)
    mean, std = (np.asarray(numbers, np.float32) for numbers in NORMALIZATIONS[module.normalization])
    with torch.no_grad():
        expected, taps = model(nchw((images - mean) / std))
    logits, features = applied(encoder, tuple(sorted(options.items())))(variables, jnp.asarray(images))
    assert set(features) == set(taps)
    assert np.ptp(expected.numpy()) > 0.1
    np.testing.assert_allclose(logits, nhwc(expected), rtol=0, atol=1e-4)
    for name, feature in features.items():
        assert np.ptp(feature) > 0.01, name
        np.testing.assert_allclose(feature, nhwc(taps[name]), rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_encoder_round_trip_keeps_logits_and_features(name, tmp_path):
    encoder, options, side, make, make_written = CASES[name]
    model = originals.randomize(make())
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    variables = load_torch(tmp_path / "weights.pth", encoder, **options)
    compare(model, variables, encoder, options, side)

    models.convert.export_safetensors(tmp_path / "model.safetensors", encoder, variables, **options)
    state, written = safetensors.torch.load_file(tmp_path / "model.safetensors"), make_written()
    missing, unexpected = written.load_state_dict(state, strict=False)
    assert not unexpected and all(part.startswith("sub_block1.") for part in missing)
    compare(written.eval(), variables, encoder, options, side)
    again = load_torch(tmp_path / "model.safetensors", encoder, **options)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables, again))


def save_robustness(path, model, normalization, **kwargs):
    wrapped = originals.AttackerModel(model, *normalization)
    parallel = torch.nn.Sequential()
    parallel.module = wrapped
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
    optimizer.zero_grad()
    sum(p.sum() for p in parallel.parameters()).backward()
    parallel.eval()
    state = {name: tensor.clone() for name, tensor in parallel.state_dict().items()}
    optimizer.step()
    content = {"model": state, "optimizer": optimizer.state_dict(), "schedule": None, "epoch": 90, "amp": None}
    torch.save(content, path, **kwargs)
    parallel.load_state_dict(state)
    return wrapped


@pytest.mark.parametrize("zipped", [True, False])
def test_load_torch_reads_a_robustness_checkpoint_with_its_second_copy(zipped, tmp_path):
    path = tmp_path / "checkpoint.pt.best"
    model = originals.randomize(resnet("shortcut", "linear"))
    save_robustness(path, model, CIFAR10, _use_new_zipfile_serialization=zipped)
    compare(model, load_torch(path, "resnet18", **SMALL_RESNET), "resnet18", SMALL_RESNET, 16)
    described = describe_torch(path, "resnet18", **SMALL_RESNET)
    assert (described["num_classes"], described["normalization"]) == (7, "cifar10")
    assert "module.attacker.model.conv1.weight" in described["unread"]
    with pytest.raises(UserError, match=r"normalization='imagenet'; pass normalization='cifar10'") as error:
        load_torch(path, "resnet18", **SMALL_RESNET, normalization="imagenet")
    assert "\n" not in str(error.value)


def test_describe_torch_returns_the_numbers_of_an_unnamed_normalization(tmp_path):
    model = originals.randomize(resnet("shortcut", "linear"))
    save_robustness(tmp_path / "a.pt", model, ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)))
    with pytest.raises(UserError, match=r"mean \[0.1, 0.2, 0.3\].*mean=0.1\+0.2\+0.3,std=1\+1\+1"):
        load_torch(tmp_path / "a.pt", "resnet18", **SMALL_RESNET)


def test_load_torch_shows_both_sides_of_a_mismatch(tmp_path):
    state = originals.AlexNet(9, 16, last_apart=False).state_dict()
    state["features.3.bias"] = torch.zeros(5)
    state["surplus.weight"] = state.pop("classifier.4.weight")
    state["classifier.4.bias"] = 3
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError) as error:
        load_torch(tmp_path / "a.pth", "alexnet", **SMALL_ALEXNET)
    message = str(error.value)
    for part in (
        *("missing in the file: classifier.4.weight", "only in the file: surplus.weight"),
        *(
            "features.3.bias is (5,) in the file, (192,) in the network",
            "classifier.6.weight is (9, 16) in the file, (7, 16) in the network",
        ),
        "not a tensor: classifier.4.bias (int)",
    ):
        assert part in message
    assert "\n" not in message and len(message) < 1000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_load_torch_converts_float_types_to_float32(dtype, tmp_path):
    state = {name: tensor.to(dtype) for name, tensor in originals.WideResNet(10, 1, 7).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pt")
    variables = load_torch(tmp_path / "a.pt", "wrn28_10", depth=10, width=1, num_classes=7)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert (variables["params"]["fc"]["bias"] == state["fc.bias"].float().numpy()).all()


def test_load_torch_rejects_integers(tmp_path):
    state = originals.WideResNet(10, 1, 7).state_dict()
    state["fc.bias"] = torch.arange(7)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match="fc.bias in int64"):
        load_torch(tmp_path / "a.pt", "wrn28_10", depth=10, width=1, num_classes=7)


def test_load_torch_rejects_a_pickled_network(tmp_path):
    torch.save(originals.WideResNet(10, 1, 7), tmp_path / "a.pt")
    with pytest.raises(UserError, match="torch_originals.WideResNet.*state_dict"):
        load_torch(tmp_path / "a.pt", "wrn28_10", depth=10, width=1, num_classes=7)


def warmed_up(network, *inputs):
    """Returns the output after some training forwards, which bring the singular vectors near the truth."""
    with torch.no_grad():
        network.train()
        for _ in range(5):
            network(*inputs)
        return network.eval()(*inputs)


def save_autoencoder(path, generator):
    encoder = originals.AlexNet(7, 16, last_apart=True)
    autoencoder = originals.Autoencoder(encoder, generator, *IMAGENET)
    state = {f"module.{name}": tensor for name, tensor in autoencoder.state_dict().items()}
    torch.save({"model": state, "discriminator": None}, path)


@pytest.mark.parametrize(("layer", "variant"), [("conv5", "default"), ("conv5", "interpolation"), ("conv1", "default")])
def test_generator_round_trip_keeps_images(layer, variant, tmp_path):
    plan, options = PAPER_PLANS["alexnet", layer, variant].steps, {"image_size": 64, "variant": variant}
    channels, side = {"conv5": (256, 1), "conv1": (64, 7)}[layer]
    generator = originals.randomize(originals.Generator(plan, channels))
    features = np.random.default_rng(0).random((2, side, side, channels), np.float32)
    expected = nhwc(warmed_up(generator, nchw(features)))
    save_autoencoder(tmp_path / "a.pt", generator)
    variables = load_torch_generator(tmp_path / "a.pt", "alexnet", layer, **options)
    images = jax.jit(models.build_generator("alexnet", layer, **options).apply)(variables, features)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-4)

    write = models.convert.export_generator_safetensors
    write(tmp_path / "a.safetensors", "alexnet", layer, variables, **options)
    written = originals.Generator(plan, channels)
    written.load_state_dict(safetensors.torch.load_file(tmp_path / "a.safetensors"))
    with torch.no_grad():
        np.testing.assert_allclose(nhwc(written.eval()(nchw(features))), expected, rtol=0, atol=1e-5)


def test_load_torch_discriminator_keeps_logits(tmp_path):
    options = {"encoder": "alexnet_small", "encoder_options": {"width": 4}, "image_size": 32}
    images, features = random_images(32), np.random.default_rng(1).random((2, 4, 4, 16), np.float32)
    discriminator = originals.randomize(originals.Discriminator(256))
    expected = warmed_up(discriminator, nchw(images), nchw(features)).numpy()
    state = {f"module.{name}": tensor for name, tensor in discriminator.state_dict().items()}
    torch.save(
        {"model": {"module.generator.gen.0.weight_orig": torch.zeros(1)}, "discriminator": state}, tmp_path / "a"
    )
    variables = load_torch_discriminator(tmp_path / "a", **options)
    logits = jax.jit(models.build_discriminator(image_size=32).apply)(variables, images, features)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
