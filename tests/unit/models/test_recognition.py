"""Recognition of the encoders that a state dict fits."""

import pytest
from small_encoders import SMALL, smallest_size

from arinv import models
from arinv.errors import UserError
from arinv.models.pytorch.files import TorchFile
from arinv.models.pytorch.names import encoder_entries
from arinv.models.pytorch.pickles import Tensor
from arinv.models.pytorch.recognition import recognize
from arinv.models.registry import Architecture


def file_of(encoder, options, *, prefix="", image_size=None, renamed=lambda name: name):
    """An open file with the names and shapes of an encoder."""
    entries = encoder_entries(encoder, image_size, options)[1]
    content = {prefix + renamed(entry.names[0]): Tensor(None, 0, entry.torch_shape, ()) for entry in entries}
    return TorchFile("a.pt", {"model": content, "epoch": 3}, None, {})


def structure(name):
    """What the rows of one class differ in, besides depths, widths and pixels."""
    module = models.build(name)
    return type(module), *(getattr(module, part, "") for part in ("block", "stem", "variant", "batch_norm"))


TRAINED = [name for name in models.ENCODERS if models.build(name).has_weights]


@pytest.mark.parametrize("name", {structure(name): name for name in TRAINED}.values())
@pytest.mark.long
def test_recognize_finds_every_encoder_and_its_options(name):
    options = {**SMALL[name], "num_classes": 5}
    size = smallest_size(models.build(name))
    size = 224 if name == "caffenet" else max(size, 64)
    fits = {fit.encoder: fit for fit in recognize(file_of(name, options, prefix="module.model.", image_size=size))}
    fit = fits[name]
    assert fit.num_classes == 5 and fit.state_dict.prefix == "module.model."
    assert models.build(name, num_classes=5, **fit.options) == models.build(name, **options)
    assert fit.image_size == (size if models.build(name).has_fixed_head else models.build(name).image_size)
    assert {structure(other) for other in fits} == {structure(name)}


@pytest.mark.long
def test_recognize_prefers_the_row_without_options():
    (fit,) = recognize(file_of("resnet34_imagenet", {}))
    assert (fit.encoder, dict(fit.options)) == ("resnet34_imagenet", {})
    deep = recognize(file_of("wrn34_10", {"width": 20}))
    assert [(fit.encoder, dict(fit.options)) for fit in deep] == [("wrn34_10", {"width": 20})]


def test_recognize_distinguishes_the_preact_resnets():
    for variant in ("rice", "wong"):
        options = {**SMALL["preact_resnet18"], "variant": variant}
        (fit,) = recognize(file_of("preact_resnet18", options))
        assert models.build("preact_resnet18", **fit.options).variant == variant


def test_recognize_reads_the_names_of_torchvisions_vgg16_bn():
    (fit,) = recognize(file_of("vgg16_bn", {**SMALL["vgg16_bn"], "head": "dense", "dense_width": 16}))
    assert fit.encoder == "vgg16_bn"
    assert (fit.options["head"], fit.options["normalization"]) == ("dense", "imagenet")


@pytest.mark.long
def test_recognize_reads_a_row_that_a_user_adds(monkeypatch):
    row = Architecture(models.ENCODERS["wrn28_10"].module, {"depth": 16, "width": 2})
    monkeypatch.setitem(models.ENCODERS, "mine", row)
    assert [fit.encoder for fit in recognize(file_of("mine", {}))] == ["mine"]


@pytest.mark.long
def test_recognize_rejects_other_networks():
    other = file_of("resnet18", SMALL["resnet18"], renamed=lambda name: name.replace("layer3", "stage3"))
    assert recognize(other) == []
    wider = file_of("resnet18", SMALL["resnet18"])
    wider.content["model"]["layer4.0.conv2.weight"] = Tensor(None, 0, (512, 512, 5, 5), ())
    assert recognize(wider) == []
    dense = {"features.conv0.weight": (64, 3, 7, 7), "features.norm0.bias": (64,), "classifier.weight": (10, 1024)}
    odd = {name: () for name in ("conv1.weight", "layer1.0.conv1.weight", "fc6.weight", "linear.weight", "fc.weight")}
    odd |= {"features.0.weight": (), "classifier.1.weight": (0, 0), "init_conv.weight": (0,), "logits.weight": (1,)}
    for shapes in (dense, odd):
        content = {name: Tensor(None, 0, shape, ()) for name, shape in shapes.items()}
        assert recognize(TorchFile("a.pt", content, None, {})) == []
    with pytest.raises(UserError, match="contains no weights"):
        recognize(TorchFile("a.pt", {"epoch": 3}, None, {}))
