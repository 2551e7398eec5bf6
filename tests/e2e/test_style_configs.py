"""The configs of style transfer: which layer is the deepest, what they accept, and the command that is shown."""

import re

import pytest

from configs import inverter, style, stylize


def known(config):
    with pytest.raises(ValueError, match="known:") as error:
        config.get_config("no_such_argument=1")
    return set(re.search(r"known: ([\w, ]+)\.", str(error.value))[1].split(", "))


@pytest.mark.parametrize(
    ("layers", "deepest"),
    [
        ("conv1+conv2+conv5", "conv5"),
        ("conv2+conv5+conv1", "conv5"),
        ("conv5+conv2+conv1", "conv5"),
        ("block1+block4", "block4"),
        ("conv1_1+conv3_1+conv5_1", "conv5_1"),
        ("conv9+conv10", "conv10"),
        ("conv1+relu5+conv5", "relu5"),
        ("conv1", "conv1"),
    ],
)
def test_the_deepest_layer_alone_is_trained_with_the_loss_in_whatever_order_they_come(layers, deepest):
    config = style.get_config(f"layers={layers}")
    for name in ("standard", "robust"):
        stages = {layer: config.stages[f"{name}_{layer}_inverter"] for layer in layers.split("+")}
        assert [layer for layer, stage in stages.items() if stage.loss.adversarial] == [deepest]


def test_style_accepts_what_its_docstring_says():
    left_out = {"layer", "checkpoint", "other_size", "test_eps", "metrics", "alexnet_weights", "vgg16_weights"}
    shown = "but layer, checkpoint, other_size, test_eps, metrics, alexnet_weights and vgg16_weights"
    assert shown in " ".join(style.__doc__.split())
    assert known(style) == known(inverter) - left_out | known(stylize) - {"levels", "evaluate"} | {
        "layers",
        "shallow_pixel",
    }
    evaluation = style.get_config("metric_encoder=a,vgg19_weights=b").stages.evaluation
    assert (evaluation.metric_networks.encoder, evaluation.metric_networks.vgg19) == ("a", "b")


def test_the_levels_of_the_command_are_stages_that_style_leaves():
    assert "levels=$LEVELS" in stylize.__doc__ and "--workdir=runs/style\n" in style.__doc__
    levels = re.search(r"LEVELS=(\S+)", stylize.__doc__)[1].split("+")
    assert len(levels) == 3
    assert {level.removeprefix("runs/style/") for level in levels} <= set(style.get_config("encoder=alexnet").order)
    assert "inverter" in inverter.get_config().order
