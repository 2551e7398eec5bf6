"""The networks of torchvision itself, at full size with random weights: logits and layers within 1e-4 after import."""

import jax
import numpy as np
import pytest

from arinv import models
from arinv.models.encoders.base import NORMALIZATIONS
from arinv.models.pytorch.convert import load_torch

torch = pytest.importorskip("torch", reason="needs PyTorch")
torchvision = pytest.importorskip("torchvision", reason="needs torchvision", exc_type=ImportError)

BLOCKS = {f"block{i}": f"layer{i}" for i in range(1, 5)}
RELUS = {"conv1": "features.2", "conv2": "features.5", "conv3": "features.7", "conv4": "features.9"}
# ours -> torchvision's name, and our layers -> its modules
CASES = {
    "alexnet": ("alexnet", {**RELUS, "conv5": "features.12", "fc6": "classifier.2", "fc7": "classifier.5"}),
    "vgg16": ("vgg16", {"conv5_3": "features.29", "fc6": "classifier.1"}),
    "vgg19": ("vgg19", {"conv5_4": "features.35", "fc7": "classifier.4"}),
    "resnet18_imagenet": ("resnet18", {"relu1": "relu", "conv1": "maxpool", **BLOCKS}),
    "resnet34_imagenet": ("resnet34", BLOCKS),
    "resnet50_imagenet": ("resnet50", BLOCKS),
    "resnet101_imagenet": ("resnet101", BLOCKS),
    "wide_resnet50_2": ("wide_resnet50_2", BLOCKS),
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
@pytest.mark.parametrize("name", CASES)
def test_import_keeps_logits_and_layers(name, tmp_path):
    original, taps = CASES[name]
    model = randomize(getattr(torchvision.models, original)(weights=None))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    seen = {}
    modules = dict(model.named_modules())
    for layer, place in taps.items():
        modules[place].register_forward_hook(
            lambda _, inputs, output, layer=layer: seen.setdefault(layer, output.clone())
        )

    images = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
    mean, std = (np.asarray(numbers, np.float32) for numbers in NORMALIZATIONS["imagenet"])
    with torch.no_grad():
        expected = model(torch.from_numpy(((images - mean) / std).transpose(0, 3, 1, 2).copy())).numpy()
    variables = load_torch(tmp_path / "weights.pth", name)
    logits, features = jax.jit(models.build(name, num_classes=1000).apply)(variables, images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits / scale, expected / scale, rtol=0, atol=1e-4)
    for layer in taps:
        theirs = seen[layer].numpy()
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
        scale = np.abs(theirs).max()
        assert np.ptp(theirs) > 0.01 and scale < 1e4, layer
        np.testing.assert_allclose(features[layer] / scale, theirs / scale, rtol=0, atol=1e-4, err_msg=layer)
