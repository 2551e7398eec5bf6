"""Networks as files, and references to entries of the zoo wherever a workdir is accepted."""

import dataclasses
import json
import pathlib
import shlex

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from untrained import write_autoencoder, write_encoder, write_gan, write_inverter

import arinv
from arinv import command_line, zoo
from arinv.apps.weights import info
from arinv.errors import UserError
from arinv.experiment import exported, loading, workdirs
from arinv.zoo import cards
from launch import zoo as maintenance

NAME = "tiny_l2_0.5"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of an encoder and of inverters of two of its layers."""
    root = tmp_path_factory.mktemp("runs")
    write_encoder(root / "encoder", seed=0, eps=0.5)
    for layer in ("conv5", "conv1"):
        write_inverter(root / layer, root / "encoder", seed=1, layer=layer)
    return root


@pytest.fixture(scope="module")
def folder(runs, tmp_path_factory):
    """A zoo of one entry."""
    folder = tmp_path_factory.mktemp("zoo")
    maintenance.export_encoder(folder / NAME, runs / "encoder", [runs / "conv5", runs / "conv1"], half=True)
    return folder


@pytest.fixture(autouse=True)
def entries(folder, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", folder.resolve())


def one_line(pattern):
    return pytest.raises(UserError, match=pattern)


@pytest.mark.long
def test_reference_stands_for_the_deepest_inverter_or_the_encoder():
    inverter = arinv.load(f"zoo:{NAME}")
    assert (inverter.kind, inverter.layer) == ("inverter", "conv5")
    assert arinv.load(f"zoo:{NAME}", kind="classifier").fingerprint == inverter.encoder.fingerprint
    assert arinv.load(f"zoo:{NAME}/conv1").layer == "conv1"
    assert arinv.load(f"zoo:{NAME}/encoder").kind == "classifier"
    assert zoo.networks(NAME) == ("encoder", "conv1", "conv5")


def test_load_takes_paths_from_home_and_references_as_paths(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    place = f"~/{folder.name}/{NAME}"
    encoder = arinv.load(f"{place}/encoder.safetensors")
    assert encoder.kind == "classifier"
    for reference in (f"zoo:{NAME}/encoder", f"{place}/encoder.safetensors"):
        assert arinv.load(pathlib.Path(reference)).fingerprint == encoder.fingerprint
    for reference, message in (("~/none.safetensors", f"{folder.parent}/none.safetensors"), ("gs://x", "is a URL")):
        for function in (arinv.load, info.lines):
            with one_line(message):
                function(reference)


def test_exported_weights_are_the_runs_in_float16(runs):
    original, loaded = loading.load(runs / "conv5"), arinv.load(f"zoo:{NAME}")
    for mine, theirs in ((loaded, original), (loaded.encoder, original.encoder)):
        for value, expected in zip(jax.tree.leaves(mine.variables), jax.tree.leaves(theirs.variables), strict=True):
            exact = np.asarray(expected)
            exact = exact.astype(np.float16).astype(np.float32) if exact.ndim > 1 else exact
            np.testing.assert_array_equal(value, exact)
            assert value.dtype == np.float32
    assert loaded.description["encoder_weights"] == loaded.encoder.fingerprint != original.encoder.fingerprint


def test_references_between_workdirs_name_the_entry(tmp_path):
    place = workdirs.resolve(f"zoo:{NAME}/conv1", tmp_path)
    assert workdirs.relative(place, tmp_path) == f"zoo:{NAME}/conv1"
    assert workdirs.follow(f"zoo:{NAME}/conv1", tmp_path) == place
    assert workdirs.relative(workdirs.resolve(f"zoo:{NAME}", tmp_path), tmp_path) == f"zoo:{NAME}"
    workdirs.check_run(workdirs.resolve(f"zoo:{NAME}", tmp_path))


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("zoo:other", {}, f"unknown entry of the zoo 'other'; known: {NAME}"),
        (f"zoo:{NAME}/conv4", {}, "unknown network of zoo:.* 'conv4'; known: conv1, conv5, encoder"),
        (f"zoo:{NAME}", {"kind": "denoiser"}, "has no denoiser; it has encoder, conv1, conv5"),
        (f"zoo:{NAME}/conv1", {"kind": "classifier"}, "holds an inverter"),
        (f"zoo:{NAME}", {"image_size": 32}, "trained on images of 16 px, but data.image_size is 32"),
    ],
)
def test_load_reports_mistakes_in_one_line(reference, options, message):
    with pytest.raises(UserError, match=message) as error:
        arinv.load(reference, **options)
    assert "\n" not in str(error.value)


def damaged(path, change):
    content = bytearray(path.read_bytes())
    return bytes(change(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[: len(content) // 2], "may be cut short or damaged"),
        (lambda content: b"", "is empty"),
        (lambda content: content.replace(b'\\"conv5\\"', b'\\"conv1\\"'), "is of another model.*checkpoint.*model"),
        (lambda content: content.replace(b'"description"', b'"undescribed"'), "holds no trained network of arinv"),
    ],
)
def test_damaged_file_is_reported_in_one_line(tmp_path, folder, change, message):
    (tmp_path / "conv5.safetensors").write_bytes(damaged(folder / NAME / "conv5.safetensors", change))
    (tmp_path / "encoder.safetensors").write_bytes((folder / NAME / "encoder.safetensors").read_bytes())
    with pytest.raises(UserError, match=message) as error:
        arinv.load(tmp_path / "conv5.safetensors")
    assert "\n" not in str(error.value)


def test_file_can_be_copied_with_its_encoder(tmp_path, folder):
    for network in ("encoder", "conv5"):
        (tmp_path / f"{network}.safetensors").write_bytes((folder / NAME / f"{network}.safetensors").read_bytes())
    assert arinv.load(tmp_path / "conv5.safetensors").fingerprint == arinv.load(f"zoo:{NAME}").fingerprint


def test_inverter_of_other_weights_than_its_encoder_is_rejected(tmp_path, folder, runs):
    encoder = loading.load(runs / "encoder")
    exported.write(tmp_path / "encoder.safetensors", encoder.variables, encoder.description)
    (tmp_path / "conv5.safetensors").write_bytes((folder / NAME / "conv5.safetensors").read_bytes())
    with pytest.raises(UserError, match="was trained on an encoder of weights") as error:
        arinv.load(tmp_path / "conv5.safetensors")
    assert encoder.fingerprint in str(error.value)


def test_zoo_rejects_inverters_with_an_encoder_of_their_own(tmp_path, runs, monkeypatch):
    inverter = loading.load(runs / "conv5")
    own = dataclasses.replace(inverter, description={**inverter.description, "trained_encoder": True})
    monkeypatch.setattr(loading, "load", lambda place, kind="": own if kind == "inverter" else inverter.encoder)
    with pytest.raises(UserError, match="conv5 has an encoder of its own .*name inverters of a frozen encoder"):
        maintenance.export_encoder(tmp_path / "x", runs / "encoder", [runs / "conv5"], half=True)
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def generative(tmp_path_factory):
    """Workdirs of a GAN and of autoencoders of whole and of masked images."""
    root = tmp_path_factory.mktemp("generative")
    write_gan(root / "gan", seed=0)
    for name, operator in (("identity", {}), ("mask", {"share": 0.5}), ("mask_again", {"share": 0.3})):
        own = {"name": name.partition("_")[0], "options": operator}
        write_autoencoder(root / name, seed=1, operator=own, gan_workdir="../gan")
    return root


def test_gan_and_its_autoencoders_are_an_entry(tmp_path, generative, monkeypatch):
    folder = tmp_path / "generative"
    written = maintenance.export_gan(
        folder, generative / "gan", [generative / "mask", generative / "identity"], half=True
    )
    assert [*written] == ["gan", "autoencoder_mask", "autoencoder"]
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    assert zoo.networks("generative") == ("gan", "autoencoder", "autoencoder_mask")
    assert arinv.load("zoo:generative").kind == "gan"
    loaded = arinv.load("zoo:generative", kind="autoencoder")
    assert loaded.description["operator"]["name"] == "identity" and "gan_workdir" not in loaded.description
    assert arinv.load("zoo:generative/autoencoder_mask").description["operator"]["options"] == {"share": 0.5}
    original = loading.load(generative / "gan")
    for a, b in zip(jax.tree.leaves(original.variables), jax.tree.leaves(written["gan"].variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)
    with one_line("zoo:generative has no classifier; it has gan, autoencoder, autoencoder_mask"):
        arinv.load("zoo:generative", kind="classifier")


def test_zoo_rejects_two_autoencoders_of_an_operator_and_another_kind(tmp_path, generative):
    with one_line("two of .*mask.* have the operator mask; name one of each"):
        maintenance.export_gan(
            tmp_path / "x", generative / "gan", [generative / "mask", generative / "mask_again"], half=True
        )
    with one_line("holds a gan; name the workdir of an autoencoder"):
        maintenance.export_gan(tmp_path / "x", generative / "gan", [generative / "gan"], half=True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "an entry has an encoder .* or a GAN"),
        (["--encoder=a", "--gan=b"], "name one"),
        (["--encoder=a", "--autoencoders=b"], "b does not belong to this entry"),
        (["--gan=a", "--inverters=b"], "b does not belong to this entry"),
    ],
)
def test_zoo_add_takes_an_encoder_or_a_gan(flags, message):
    with one_line(message):
        maintenance.add(maintenance._arguments(["add", "x", *flags]))
    assert not (zoo.FOLDER / "x").exists()


def test_write_rejects_values_beyond_float16(tmp_path):
    with pytest.raises(UserError, match="params/kernel of .* beyond float16"):
        exported.write(tmp_path / "x.safetensors", {"params": {"kernel": np.full((2, 2), 1e6)}}, {}, half=True)
    assert not (tmp_path / "x.safetensors").exists()


def measured(**more):
    return {"attack": {"norm": "linf", "eps": 8 / 255}, "clean_accuracy": 0.75, **more}


def test_table_shows_the_cards(folder, monkeypatch, capsys):
    encoder = {"kind": "classifier", "encoder": "alexnet_small", "options": {"width": 2}, "bytes": 2**20}
    encoder["training"] = {"data": "tfds:cifar10", "attack": {"norm": "l2", "eps": 0.5}, "epochs": 12.0}
    encoder["training"]["recipe"] = {"name": "n_fgsm"}
    encoder["measured"] = measured(autoattack_accuracy=0.5, autoattack_accuracy_95=[0.468, 0.532])
    networks = {"conv5": {"kind": "inverter", "bytes": 2**19, "measured": {"psnr": 19.5}}, "encoder": encoder}
    (folder / NAME / "card.json").write_text(json.dumps({"networks": networks}))
    row = (
        f"| {NAME} | alexnet_small (width 2) | cifar10, l2 eps 0.5, 12 epochs of n_fgsm | 75.0% "
        "| 50.0% [46.8%, 53.2%], linf eps 8/255 | conv5 19.50 | 1.5 MB |"
    )
    assert row in cards.markdown().splitlines()
    assert cards.main([]) == 0
    text = capsys.readouterr().out
    assert NAME in text and "50.0% [46.8%, 53.2%]" in text
    with one_line("unknown entry"):
        cards.main(["nothing"])
    with one_line("takes no argument"):
        cards.main(["a", "b"])
    (folder / NAME / "card.json").write_text("{")
    with one_line("card.json is damaged"):
        cards.rows()
    (folder / NAME / "card.json").unlink()
    assert NAME not in cards.markdown()  # exported, not measured yet


@pytest.mark.parametrize(
    "arguments",
    [
        "--config=quickstart --config.stages.robust_encoder.optimizer.schedule.learning_rate=0.02",
        "--config=quickstart:encoder=resnet18,eps=8/255,norm=linf,recipe=trades --config.seed=3",
    ],
)
@pytest.mark.parametrize("stage", ["robust_encoder", "robust_inverter"])
def test_training_command_trains_the_same_again(arguments, stage):
    config = command_line.parse(["arinv", *arguments.split(), "--workdir=x"]).config.stages[stage]
    saved = ConfigDict(json.loads(json.dumps(workdirs.plain(config))))
    program, _, _, *words = shlex.split(maintenance.training_command([saved]))
    again = command_line.parse(["arinv", *words]).config
    again = again.stages.inverter if "inverter" in stage else again
    fields, expected = maintenance._fields(again), maintenance._fields(saved)
    fields.pop("encoder.checkpoint", None), expected.pop("encoder.checkpoint", None)
    assert fields == expected and program == "python"
    saved.new_field = 1
    with one_line("fields that no flag sets: new_field"):
        maintenance.training_command([saved])


@pytest.mark.parametrize("extra", ["", ",options=base_width:32+max_width:8,classes=1"])
def test_training_command_of_a_gan_has_the_flags_of_all_its_stages(extra):
    arguments = f"gan:dataset=cifar10,image_size=16{extra}"
    flags = ["--config.stages.*.num_steps=20", "--config.stages.size8.batch_size=4"]
    given = command_line.parse(["arinv", f"--config={arguments}", *flags, "--workdir=x"]).config
    saved = [ConfigDict(json.loads(json.dumps(workdirs.plain(given.stages[name])))) for name in given.order]
    _, _, _, *words = shlex.split(maintenance.training_command(saved))
    assert len(words) == 4 and set(flags) < set(words)
    again = command_line.parse(["arinv", *words]).config
    assert [*again.order] == [*given.order] == ["size4", "size8_fade", "size8", "size16_fade", "size16"]
    for name, config in zip(given.order, saved, strict=True):
        assert maintenance._fields(again.stages[name]) == maintenance._fields(config)


def test_training_command_of_an_autoencoder_names_its_operator():
    argument = "autoencoder:dataset=cifar10,classes=1,gan=runs/gan,operator=mask,operator_options=share:0.4"
    given = command_line.parse(["arinv", f"--config={argument}", "--config.num_epochs=3", "--workdir=x"]).config
    saved = ConfigDict(json.loads(json.dumps(workdirs.plain(given))))
    _, _, _, *words = shlex.split(maintenance.training_command([saved]))
    assert "gan=GAN" in words[0] and words[1:] == ["--config.num_epochs=3.0", "--workdir=WORKDIR"]
    assert maintenance._fields(command_line.parse(["arinv", *words]).config) == maintenance._fields(saved)


def test_training_command_of_an_aegan_has_its_options(monkeypatch):
    argument = "autoencoder:networks=aegan,dataset=cifar10,options=base_width:32+max_width:16"
    given = command_line.parse(["arinv", f"--config={argument}", "--workdir=x"]).config
    saved = ConfigDict(json.loads(json.dumps(workdirs.plain(given))))
    _, _, _, *words = shlex.split(maintenance.training_command([saved]))
    assert maintenance._fields(command_line.parse(["arinv", *words]).config) == maintenance._fields(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda description: description.pop("image_size"), "inverter in .* lacks image_size"),
        (lambda description: description.update(image_size="16"), "has image_size='16'"),
        (lambda description: description.update(image_size=0), "has image_size=0"),
        (lambda description: description.pop("variant"), "lacks variant"),
        (lambda description: description.pop("encoder_workdir"), "lacks encoder_workdir"),
        (lambda description: description.update(kind="foo"), "holds no trained network of arinv"),
    ],
)
def test_description_without_a_field_is_refused_in_one_line(tmp_path, folder, change, message):
    loaded = loading.load(folder / NAME / "conv5.safetensors")
    description = dict(loaded.description)
    change(description)
    exported.write(tmp_path / "x.safetensors", loaded.variables, description)
    with one_line(message):
        arinv.load(tmp_path / "x.safetensors")


def with_value(variables, name, value):
    return jax.tree_util.tree_map_with_path(
        lambda path, x: np.full_like(x, value) if jax.tree_util.keystr(path, simple=True, separator="/") == name else x,
        variables,
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("params/conv1/kernel", np.nan, "has NaN or infinity in params/conv1/kernel"),
        ("params/conv1/bias", -np.inf, "has NaN or infinity in params/conv1/bias"),
        ("params/x/var", -1.0, "has a negative variance in params/x/var"),
    ],
)
def test_weights_that_are_not_finite_are_refused(tmp_path, runs, name, value, message):
    encoder = loading.load(runs / "encoder")
    variables = {"params": {**encoder.variables["params"], "x": {"var": np.ones(2)}}}
    with one_line(message):
        exported.check_values(with_value(variables, name, value), tmp_path)


def test_file_with_nan_is_refused_where_it_is_loaded(tmp_path, runs):
    encoder = loading.load(runs / "encoder")
    spoiled = jax.tree.map(lambda x: x * np.nan, encoder.variables)
    exported.write(tmp_path / "e.safetensors", spoiled, encoder.description)
    with one_line("e.safetensors has NaN or infinity in params/"):
        arinv.load(tmp_path / "e.safetensors")
