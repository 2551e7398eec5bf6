"""`arinv info`: what it prints of files and workdirs, the command that it prints, and its exit codes."""

import shlex

import numpy as np
import pytest
import safetensors.numpy
from small_encoders import SMALL

from arinv import command_line, models
from arinv.apps.weights import import_torch, info
from arinv.errors import UserError
from arinv.experiment import loading
from arinv.experiment.run import Run
from arinv.models.encoders.base import NORMALIZATIONS
from arinv.models.pytorch.names import encoder_entries, generator_entries
from arinv.zoo import cards


def arrays(entries, prefix=""):
    rng = np.random.default_rng(0)
    arrays = {prefix + entry.names[0]: rng.standard_normal(entry.torch_shape, np.float32) for entry in entries}
    return {name: np.abs(x) if name.endswith("running_var") else x for name, x in arrays.items()}


@pytest.fixture
def robustness(tmp_path):
    """A file with the names and the normalization of MadryLab's robustness library."""
    mean, std = (np.asarray(numbers, np.float32).reshape(3, 1, 1) for numbers in NORMALIZATIONS["pm1"])
    weights = arrays(encoder_entries("resnet50", None, SMALL["resnet50"])[1])
    state = {"module.normalizer.new_mean": mean, "module.normalizer.new_std": std}
    for part in ("model.", "attacker.model."):
        state |= {f"module.{part}{name}": array.copy() for name, array in weights.items()}
    path = tmp_path / "a b.safetensors"
    safetensors.numpy.save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update({"fc.weight": state["fc.weight"].T.copy()}),
            r"fc.weight is \(\d+, \d+\) in the file",
        ),
        (
            lambda state: state.update({"conv1.weight": state["conv1.weight"].transpose(2, 3, 1, 0).copy()}),
            "conv1.weight is",
        ),
        (lambda state: state.pop("fc.bias"), "missing in the file: fc.bias"),
    ],
)
def test_info_explains_a_file_that_nearly_fits(tmp_path, change, message):
    state = arrays(encoder_entries("wrn28_10", None, SMALL["wrn28_10"])[1])
    change(state)
    safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"does not fit encoder 'wrn28_10'; .*{message}"):
        info.lines(tmp_path / "a.safetensors")


@pytest.mark.parametrize("reference", ["zoo:alexnet_small_l2_1", "zoo:alexnet_small_l2_1/conv5"])
def test_info_prints_the_card_of_the_zoo(reference):
    assert info.lines(reference)[0].startswith("zoo:alexnet_small_l2_1: alexnet_small, images of 32 px")


def test_zoo_prints_the_card_of_an_entry_for_each_of_its_networks():
    assert cards.card_text("alexnet_small_l2_1/encoder") == cards.card_text("alexnet_small_l2_1")
    with pytest.raises(UserError, match="unknown network of zoo:alexnet_small_l2_1 'conv9'"):
        cards.card_text("alexnet_small_l2_1/conv9")


def test_info_passes_on_that_its_reader_has_ended(monkeypatch):
    """As of `arinv info PATH | head -1`: the command ends without a message."""

    def write(*args, **options):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", write)
    with pytest.raises(BrokenPipeError):
        info.main(["zoo:alexnet_small_l2_1"])


@pytest.mark.long
def test_info_describes_a_file_and_its_command_imports_it(robustness, tmp_path):
    lines = info.lines(robustness)
    rows = dict(line.split(maxsplit=1) for line in lines if not line.startswith("not read"))
    assert rows["file"].endswith("a b.safetensors, safetensors")
    assert "'module.model.' (DataParallel and AttackerModel of MadryLab's robustness)" in rows["wrapped"]
    assert rows["encoder"].startswith("resnet50 with depths 1+1+1+1, width 8, ")
    assert rows["classes"] == "10"
    assert rows["normalization"].startswith("pm1, mean (0.5, 0.5, 0.5)")
    assert rows["normalization"].endswith(": in the file")
    command = command_line.parse(shlex.split(rows["import"])[2:])
    import_torch.check(command.config)
    import_torch.run(Run(command.config, tmp_path / "out"))
    network = loading.load(tmp_path / "out")
    assert network.module == models.build("resnet50", normalization="pm1", **SMALL["resnet50"])


def test_info_assumes_the_normalization_of_the_encoder(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(arrays(encoder_entries("wrn28_10_silu", None, SMALL["wrn28_10_silu"])[1]), path)
    text = "\n".join(info.lines(path))
    assert "cifar10_pixels, mean (0.4914, 0.4822, 0.4465), standard deviation (0.2471, 0.2435, 0.2616): assumed" in text
    assert "encoder=wrn28_10_silu,options=depth:10+width:1,path=" in text


def test_info_prints_a_command_that_skips_what_an_import_refuses(tmp_path):
    weights = arrays(encoder_entries("resnet18", None, SMALL["resnet18"])[1])
    for others, skipped in (({"adapter.weight": np.zeros(3)}, True), ({"model_ema.fc.bias": np.zeros(3)}, False)):
        path = tmp_path / "a.safetensors"
        safetensors.numpy.save_file({f"module.{name}": array for name, array in weights.items()} | others, path)
        *_, unread, command = info.lines(path)
        assert unread.endswith(f"1: {next(iter(others))}") and (",on_unknown=report,path=" in command) == skipped


@pytest.mark.long
def test_info_describes_a_generator(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(arrays(generator_entries("alexnet", "conv1", {}), "generator."), path)
    text = "\n".join(info.lines(path))
    assert "the generator of alexnet conv1, variant default" in text and "layer=conv1" in text


def test_info_describes_workdirs(untrained, capsys):
    assert info.main([str(untrained / "robust_encoder"), str(untrained / "robust_inverter")]) == 0
    encoder, inverter = capsys.readouterr().out.split("workdir")[1:]
    network = loading.load(untrained / "robust_inverter")
    assert "alexnet_small with width 2, 3 classes" in encoder and "l2, eps 1" in encoder
    assert "inverter" in inverter and "layer             conv5" in inverter
    assert network.fingerprint in inverter and network.encoder.fingerprint in encoder


def test_info_ends_with_1_and_a_line_for_each_path_that_it_cannot_describe(tmp_path, capsys):
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04cut")
    safetensors.numpy.save_file({"a.weight": np.zeros((2, 2), np.float32)}, tmp_path / "foreign.safetensors")
    names = ("text.pt", "cut.pt", "foreign.safetensors", "missing.pt", ".")
    assert info.main([str(tmp_path / name) for name in names]) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out and len(lines) == len(names) and all(line.startswith("arinv: ") for line in lines)
    assert "fits no network of arinv: its tensors are a.weight; encoders: alexnet, " in lines[2]
    assert info.main([]) == 2
    assert info.main(["--help"]) == 0
