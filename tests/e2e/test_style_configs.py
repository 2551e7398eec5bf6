"""Configs of style transfer: the deepest layer, shared fields, and the command of the docstring."""

import re

import pytest

from arinv import command_line, distributed, main
from arinv.errors import UserError
from configs import inverter, style, stylize


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
def test_style_trains_only_the_deepest_layer_with_the_loss(layers, deepest):
    config = style.get_config(f"layers={layers}")
    for name in ("standard", "robust"):
        stages = {layer: config.stages[f"{name}_{layer}_inverter"] for layer in layers.split("+")}
        assert [layer for layer, stage in stages.items() if stage.loss.adversarial] == [deepest]


@pytest.mark.parametrize("stage", ["stylization", "evaluation"])
def test_style_is_rejected_in_several_processes(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 2)
    config = style.get_config("smoke=True").stages[stage]
    with pytest.raises(UserError, match=f"task {config.task} runs in one process"):
        main.check(config, tmp_path / "run")


def test_style_takes_the_fields_of_stylize():
    config = style.get_config("content=a,style=b,eps=1")
    stylization, evaluation = config.stages.stylization, config.stages.evaluation
    alone = stylize.get_config("content=a,style=b,inverters=x")
    assert set(command_line.flat(alone)) - {"entries.stylized"} <= set(command_line.flat(stylization))
    assert (stylization.data.size, stylization.data.border, evaluation.data.image_size) == (224, 0, 224)
    assert (alone.data.size, alone.data.border) == (0, 16)


@pytest.mark.parametrize(
    ("arguments", "trains"),
    [
        ("content=a", ()),
        ("content=a,style=b,dtype=bfloat16,smoke=True", ()),
        ("content=a,loss=pixel", ("standard", "robust")),
        ("smoke=True", ("standard", "robust")),
        ("standard_encoder=zoo:x,content=a", ("robust",)),
        ("standard_encoder=zoo:x,robust_encoder=zoo:y/encoder", ("robust",)),
    ],
)
def test_style_trains_nothing_where_the_zoo_has_it(arguments, trains):
    config = style.get_config(arguments)
    for name in ("standard", "robust"):
        levels = config.stages.stylization.entries[name]
        assert (f"{name}_conv5_inverter" in config.order) == (name in trains)
        assert all(level.startswith("stage:" if name in trains else "zoo:") for level in levels) and len(levels) == 3
    fields = config.stages.stylization.data
    if not trains and "smoke" not in arguments:
        assert (fields.size, fields.border, fields.max_side) == (0, 16, 320)


def test_inverters_of_stylize_s_example_are_stages_of_style():
    assert "inverters=$LEVELS" in stylize.__doc__ and "--workdir=runs/style\n" in style.__doc__
    levels = re.search(r"LEVELS=(\S+)", stylize.__doc__)[1].split("+")
    assert len(levels) == 3
    assert {level.removeprefix("runs/style/") for level in levels} <= set(style.get_config("encoder=alexnet").order)
    assert "inverter" in inverter.get_config().order
