"""The networks of torchvision and RobustBench themselves, with random weights: logits and layers within 1e-4."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from arinv import models
from arinv.models.encoders.base import mean_std
from arinv.models.pytorch.convert import load_torch

torch = pytest.importorskip("torch", reason="needs PyTorch")

RELUS = {"conv1": "features.2", "conv2": "features.5", "conv3": "features.7", "conv4": "features.9"}
STAGES = {f"block{i}": f"layer{i}" for i in range(1, 5)}
GROUPS = {f"block{i}": f"block{i}" for i in range(1, 4)}
DEEPMIND = {f"block{i + 1}": f"layer.{i}" for i in range(3)}


def torchvision(name):
    """Returns a network of torchvision."""
    library = pytest.importorskip("torchvision", reason="needs torchvision", exc_type=ImportError)
    return getattr(library.models, name)(weights=None)


def robustbench(module):
    """Returns a module of RobustBench's architectures, without the package, which needs many others."""
    package = importlib.util.find_spec("robustbench")
    if package is None:
        pytest.skip("needs robustbench")
    path = Path(package.origin).parent / "model_zoo" / "architectures" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"robustbench_{module}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def wide(**options):
    return robustbench("wide_resnet").WideResNet(**options)


def deepmind(name, **options):
    """Returns a network that normalizes the pixels itself."""
    module = robustbench("dm_wide_resnet")
    return getattr(module, name)(activation_fn=module.Swish, **options)


def preact(block, **options):
    module = robustbench("resnet")
    return module.PreActResNet(getattr(module, block), [2, 2, 2, 2], **options)


class Case(NamedTuple):
    """Their network, the names of our layers in it, and options of ours."""

    make: Callable
    taps: dict[str, str]
    options: dict = {}


CASES = {
    "alexnet": Case(
        lambda: torchvision("alexnet"), {**RELUS, "conv5": "features.12", "fc6": "classifier.2", "fc7": "classifier.5"}
    ),
    "vgg16": Case(lambda: torchvision("vgg16"), {"conv5_3": "features.29", "fc6": "classifier.1"}),
    "vgg19": Case(lambda: torchvision("vgg19"), {"conv5_4": "features.35", "fc7": "classifier.4"}),
    "resnet18_imagenet": Case(lambda: torchvision("resnet18"), {"relu1": "relu", "conv1": "maxpool", **STAGES}),
    "resnet34_imagenet": Case(lambda: torchvision("resnet34"), STAGES),
    "resnet50_imagenet": Case(lambda: torchvision("resnet50"), STAGES),
    "resnet101_imagenet": Case(lambda: torchvision("resnet101"), STAGES),
    "wide_resnet50_2": Case(lambda: torchvision("wide_resnet50_2"), STAGES),
    "resnet18": Case(lambda: robustbench("resnet").ResNet18(), STAGES),
    "resnet50": Case(lambda: robustbench("resnet").ResNet50(), STAGES),
    "wrn28_10": Case(lambda: wide(depth=28, widen_factor=10), GROUPS),
    "wrn34_10": Case(lambda: wide(depth=34, widen_factor=10, sub_block1=True), GROUPS),
    "wrn28_10_silu": Case(lambda: deepmind("DMWideResNet", depth=28, width=10), DEEPMIND),
    "wrn70_16_silu": Case(lambda: deepmind("DMWideResNet", depth=70, width=16), DEEPMIND),
    "preact_resnet18": Case(lambda: preact("PreActBlockV2", bn_before_fc=True, out_shortcut=True), STAGES),
    "preact_resnet18 wong": Case(lambda: preact("PreActBlock"), STAGES, {"variant": "wong"}),
    "preact_resnet18 kuangliu": Case(lambda: preact("PreActBlockV2"), STAGES, {"variant": "kuangliu"}),
    "preact_resnet18_silu": Case(
        lambda: deepmind("DMPreActResNet", depth=18), {f"block{i + 1}": f"layer_{i}" for i in range(4)}
    ),
}


def randomize(model):
    """Gives biases, scales and statistics other values than 0 and 1, which keep the scale of the signal."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.4), (module.running_var, 0.8), (module.bias, -0.1)):
                tensor.data.uniform_(low, low + 0.3, generator=generator)
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_import_keeps_logits_and_layers(case, tmp_path):
    name = case.split()[0]
    make, taps, options = CASES[case]
    model = randomize(make())
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    seen = {}
    modules = dict(model.named_modules())
    for layer, place in taps.items():
        modules[place].register_forward_hook(
            lambda _, inputs, output, layer=layer: seen.setdefault(layer, output.clone())
        )

    ours = models.build(name, **options)
    images = np.random.default_rng(0).random((1, ours.image_size, ours.image_size, 3), np.float32)
    outside = "none" if hasattr(model, "mean") else ours.normalization
    mean, std = (np.asarray(numbers, np.float32) for numbers in mean_std(outside))
    with torch.no_grad():
        expected = model(torch.from_numpy(((images - mean) / std).transpose(0, 3, 1, 2).copy())).numpy()
    variables = load_torch(tmp_path / "weights.pth", name, **options)
    logits, features = jax.jit(ours.apply)(variables, images)
    scale = np.abs(expected).max()
    assert np.ptp(expected) > 0.1 * scale
    np.testing.assert_allclose(logits / scale, expected / scale, rtol=0, atol=1e-4)
    for layer in taps:
        theirs = seen[layer].numpy()
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
        scale = np.abs(theirs).max()
        assert np.ptp(theirs) > 0.01 and scale < 1e4, layer
        np.testing.assert_allclose(features[layer] / scale, theirs / scale, rtol=0, atol=1e-4, err_msg=layer)
