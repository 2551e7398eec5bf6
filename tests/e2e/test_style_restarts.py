"""Restarts of a stylization and of its evaluation after changes of inverters or images, with stubs for both."""

import shutil
import types

import numpy as np
import pytest
import untrained
from PIL import Image

from arinv import main
from arinv.apps.style import evaluate_style, levels
from arinv.errors import UserError
from configs import stylize

FOLDERS = {"content": "ab", "style": "x", "content_labels": "ab", "style_labels": "x"}


class Cut(Exception):
    """Stands for a kill."""


def draw(path, values):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.resize(np.uint8(values), (16, 16))).save(path)


def train(folder, seed):
    shutil.rmtree(folder / "inverter", ignore_errors=True)
    untrained.write_inverter(folder / "inverter", folder / "encoder", seed=seed, layer="conv1")


@pytest.fixture
def config(tmp_path):
    """A stylization of two contents in one style, with label maps, of files in tmp_path."""
    untrained.write_encoder(tmp_path / "encoder", seed=0)
    train(tmp_path, 1)
    for folder, names in FOLDERS.items():
        for name in names:
            draw(tmp_path / folder / f"{name}.png", [1, 2])
    arguments = ",".join(f"{folder}={tmp_path / folder}" for folder in ("content", "style"))
    config = stylize.get_config(f"inverters={tmp_path / 'inverter'},evaluate=True,{arguments}")
    config.stages.stylization.data.border = 0
    for name in ("content_labels", "style_labels"):
        config.stages.stylization.data[name] = str(tmp_path / name)
    return config


@pytest.fixture
def pairs(monkeypatch):
    """The list of stylized pairs; their images are flat."""
    pairs = []

    def make(self, batch):
        pairs.extend(batch.items)
        return [np.full((16, 16, 3), len(pairs), np.uint8) for _ in batch.items]

    monkeypatch.setattr(levels.PairStylizer, "make", make)
    return pairs


def run_again(config, workdir):
    (workdir / "results.json").unlink()
    main.run(config, workdir)


@pytest.mark.parametrize("changed", ["inverter", *FOLDERS])
def test_stylize_restarts_after_a_change(config, pairs, tmp_path, changed):
    workdir = tmp_path / "run"
    main.run(config.stages.stylization, workdir)
    run_again(config.stages.stylization, workdir)
    assert pairs == [(0, 0), (1, 0)]  # once
    if changed == "inverter":
        train(tmp_path, 2)
    else:
        draw(next((tmp_path / changed).iterdir()), [2, 1, 2, 2])
    run_again(config.stages.stylization, workdir)
    assert pairs == 2 * [(0, 0), (1, 0)]
    assert {np.asarray(Image.open(path)).max() for path in (workdir / "images").rglob("*.png")} == {4}


class Measurement:
    """Stands for the metrics of a content."""

    def __init__(self, network, content, style, batch_size):
        self.content, self.style, self.weights = content, style, network.weights

    def of_content(self, index):
        return {"gram": [0.0], "ssim": [1.0]}

    def of_images(self, index, images):
        Measurement.measured.append(index)
        if Measurement.measured == [0, 1]:
            raise Cut
        return {"gram": [float(image.mean()) for image in images], "ssim": [0.5]}


@pytest.mark.parametrize("changed", ["nothing", "weights", "image", "style"])
def test_evaluation_restarts_after_a_change(config, pairs, tmp_path, monkeypatch, changed):
    network = types.SimpleNamespace(name="net", weights="abc", style_layers=("conv1",), origin="given")
    monkeypatch.setattr(evaluate_style, "_load_network", lambda *_: network)
    monkeypatch.setattr(evaluate_style, "_Measurement", Measurement)
    monkeypatch.setattr(Measurement, "measured", [], raising=False)
    with pytest.raises(Cut):
        main.run(config, tmp_path / "run")
    folder = tmp_path / "run" / "stylization" / "images" / "stylized"
    if changed == "weights":
        network.weights = "def"
    elif changed == "image":
        draw(folder / "a" / "x.png", [9])
    elif changed == "style":
        draw(tmp_path / "style" / "x.png", [9])
        with pytest.raises(UserError, match="stylization is complete, but its inputs have changed"):
            main.run(config, tmp_path / "run")
        return
    main.run(config, tmp_path / "run")
    assert Measurement.measured == [0, 1] + ([1] if changed == "nothing" else [0, 1])
    assert pairs == [(0, 0), (1, 0)] and not (tmp_path / "run" / "evaluation" / "parts").exists()
