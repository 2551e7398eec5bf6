"""Every entry of the zoo loads, is what its card says, attacks and inverts; README's table is that of the cards."""

import ast
import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import arinv
from arinv import attacks, data, main, metrics, zoo
from arinv.command_line import load
from arinv.errors import UserError
from arinv.experiment import descriptions
from arinv.zoo import cards
from configs import arguments
from launch import zoo as maintenance

ROOT = pathlib.Path(__file__).parents[2]
TOLERANCE = 0.1  # dB, between versions of jaxlib and machines


ENCODERS = [name for name in zoo.names() if zoo.ENCODER in zoo.networks(name)]
GANS = [name for name in zoo.names() if "gan" in zoo.networks(name)]


@pytest.fixture(params=zoo.names())
def name(request):
    return request.param


@pytest.fixture(params=ENCODERS)
def encoder_name(request):
    return request.param


def test_files_are_small_enough_to_ship():
    maintenance.check_sizes()


def test_readme_has_the_table_of_the_cards():
    assert cards.markdown() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_card_text_has_every_network_and_its_command(name):
    text = cards.card_text(name)
    for network, row in cards.card(name)["networks"].items():
        assert f"\n{network} " in text and row["training"]["command"] in text
        if row["kind"] == "inverter":
            assert f"PSNR {row['measured']['psnr']:.2f} dB" in text


def test_measuring_again_changes_the_figures_of_a_card_and_nothing_else(encoder_name, tmp_path, monkeypatch):
    """The runs themselves are those of evaluate and autoattack."""
    name = encoder_name
    before, written, ran = cards.card(name), [], []
    attacked = before["networks"]["encoder"]["measured"]

    def run(config, workdir):
        ran.append(config)
        for stage in config.order:
            results = {"psnr": 1.0, "variants": {"psnr": "PSNR"}, "num_images": 50, "pgd_accuracy": 0.5}
            results |= {"attack": attacked["attack"] | {"num_steps": 20}, "setting": {}, "warnings": []}
            if stage == "autoattack":
                results |= {"clean_accuracy": 0.6, "autoattack_accuracy": 0.4, "autoattack_accuracy_95": [0.3, 0.5]}
                results["variants"] = {"autoattack_accuracy": "AutoAttack"}
            (workdir / stage).mkdir(parents=True)
            (workdir / stage / "results.json").write_text(json.dumps(results))

    monkeypatch.setattr(maintenance, "run", run)
    monkeypatch.setattr(maintenance, "photographs_psnr", lambda network: {"coffee": 2.0})
    monkeypatch.setattr(maintenance, "write_json", lambda path, card: written.append((path, card)))
    arguments = maintenance._arguments(["measure", name, "--images=50", f"--workdir={tmp_path}"])
    maintenance.measure(arguments)
    [(path, after)] = written
    assert path == zoo.FOLDER / name / zoo.CARD
    layers = [network for network in before["networks"] if network != "encoder"]
    assert after["networks"]["encoder"]["measured"]["autoattack_accuracy"] == 0.4
    assert {after["networks"][layer]["measured"]["photographs"]["coffee"] for layer in layers} == {2.0}
    for card in (before, after):
        for network in card["networks"].values():
            del network["measured"]
    assert after == before
    [config] = ran
    assert [*config.order] == [*layers, "autoattack"]
    for stage in config.stages.values():
        assert stage.data.num_test == 50 and stage.data.name == before["networks"]["encoder"]["training"]["data"]
        assert (stage.attack.eps, stage.attack.norm) == (attacked["attack"]["eps"], attacked["attack"]["norm"])


def test_configs_name_entries_of_the_zoo():
    for reference in arguments.ZOO.values():
        assert zoo.networks(reference.removeprefix(zoo.SCHEME)) == ("encoder", "conv1", "conv2", "conv5")


def test_package_contains_the_zoo():
    """Reads setup.py, since building a wheel needs setuptools and seconds."""
    call = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body[-1].value
    patterns = next(ast.literal_eval(word.value) for word in call.keywords if word.arg == "package_data")["arinv.zoo"]
    shipped = {path for pattern in patterns for path in zoo.FOLDER.glob(pattern)}
    files = {path for path in zoo.FOLDER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert shipped == files and len(files) > len(zoo.names())


def test_card_describes_the_files(name):
    card = cards.card(name)
    assert card["name"] == name and tuple(card["networks"]) == zoo.networks(name)
    for network, row in card["networks"].items():
        path = zoo.resolve(f"zoo:{name}/{network}")
        loaded = arinv.load(path)
        assert row["kind"] == loaded.kind == zoo.kind_of(network) and row["image_size"] == loaded.image_size
        assert row["weights"] == loaded.fingerprint and row["bytes"] == path.stat().st_size
        assert row["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(loaded.variables["params"]))
        assert row["training"]["flops"] > 0 and row["training"]["command"].startswith("python -m arinv --config=")
        assert row["measured"]["num_images"] > 0 and row["measured"]["setting"]["device"]


def test_steps_of_a_card_are_those_of_its_epochs(name):
    for row in cards.card(name)["networks"].values():
        training = row["training"]
        if training.get("stages", 1) == 1:
            steps = training["epochs"] * (training["num_train"] // training["batch_size"])
            assert steps == pytest.approx(training["steps"], rel=1e-3)


def test_accuracies_of_a_card_are_in_order(encoder_name):
    measured = cards.card(encoder_name)["networks"]["encoder"]["measured"]
    for metric in ("clean_accuracy", "autoattack_accuracy", "pgd_accuracy"):
        low, high = measured[f"{metric}_95"]
        assert low <= measured[metric] <= high
    assert measured["autoattack_accuracy"] <= measured["pgd_accuracy"] <= measured["clean_accuracy"]


@pytest.mark.long
def test_entry_is_attacked(encoder_name):
    encoder = arinv.load(f"zoo:{encoder_name}", kind="classifier")
    attack = cards.card(encoder_name)["networks"]["encoder"]["measured"]["attack"]
    source = data.open_source("photos", split="test", image_size=encoder.image_size, num_examples=64)
    images = np.stack([source[i]["image"] for i in range(64)]).astype(np.float32) / 255
    labels = np.argmax(encoder.logits_fn(images), axis=-1)  # of its own classes
    run = jax.jit(
        lambda logits_fn, x: attacks.pgd(jax.random.key(0), logits_fn, x, labels, num_steps=5, step_size=None, **attack)
    )
    adversarial = run(encoder.logits_fn, images)
    change = np.asarray(adversarial) - images
    norms = np.abs(change).max(axis=(1, 2, 3)) if attack["norm"] == "linf" else np.sqrt((change**2).sum(axis=(1, 2, 3)))
    assert norms.max() <= attack["eps"] * (1 + 1e-4)
    assert np.mean(np.argmax(encoder.logits_fn(adversarial), axis=-1) == labels) < 0.95


@pytest.mark.long
def test_entry_inverts_a_photograph(encoder_name):
    [image] = data.open_photographs("photos:chelsea", max_side=maintenance.MAX_SIDE)
    networks = cards.card(encoder_name)["networks"]
    for layer in zoo.networks(encoder_name)[1:]:
        expected = networks[layer]["measured"]["photographs"]["chelsea"]
        assert maintenance.photograph_psnr(arinv.load(f"zoo:{encoder_name}/{layer}"), image) > expected - TOLERANCE


@pytest.mark.parametrize("name", GANS)
@pytest.mark.long
def test_entry_of_a_gan_draws_images_and_restores_them(name):
    gan, networks = arinv.load(f"zoo:{name}"), cards.card(name)["networks"]
    samples = np.clip(gan.sample(jax.random.key(0), 16), 0, 1)
    assert samples.shape == (16, gan.image_size, gan.image_size, 3)
    assert 0.1 < samples.std() < 0.5 and samples.std(axis=0).mean() > 0.1  # images, of which no two are equal
    for network, row in networks.items():
        if row["kind"] == "autoencoder":
            autoencoder = arinv.load(f"zoo:{name}/{network}")
            assert (
                metrics.psnr(autoencoder.reconstruct(samples), samples).mean()
                > row["measured"]["psnr"]["autoencoder"] - 3
            )
            assert row["measured"]["psnr"]["generative_encoder"] > 10


@pytest.mark.parametrize(
    "config",
    [
        "anomaly:dataset=photos,standard_encoder=zoo:alexnet_small_standard,robust_encoder=zoo:alexnet_small_l2_1",
        "autoattack:checkpoint=zoo:alexnet_small_l2_1,norm=linf,eps=8/255",
        "denoising:standard_encoder=zoo:alexnet_small_standard,robust_encoder=zoo:alexnet_small_l2_1",
        "detector:dataset=photos,classes=3,encoder_checkpoint=zoo:alexnet_small_l2_1",
        "evaluate:checkpoint=zoo:alexnet_small_l2_1/conv2",
        "inverter:encoder_checkpoint=zoo:alexnet_small_l2_1",
        "invert:robust_inverter=zoo:alexnet_small_l2_1,images=photos",
        "restore:gan=zoo:progressive_automobile,autoencoder=zoo:progressive_automobile,operator=mask,images=photos",
        "style:content=photos:coffee",
        "style:robust_encoder=zoo:alexnet_small_l2_1/encoder",
    ],
)
def test_configs_accept_the_zoo(config, tmp_path):
    stages = main.check(load(config), tmp_path)
    trained = [folder.name for folder, stage in stages.items() if stage.task == "classifier"]
    assert trained == (["standard_encoder"] if config.startswith("style:robust") else [])
    trains_inverters = "style:robust" in config or config.partition(":")[0] in ("anomaly", "detector", "inverter")
    assert any(stage.task in ("inverter", "class_inverters") for stage in stages.values()) == trains_inverters


def test_functions_of_a_gan_and_an_autoencoder_name_wrong_inputs():
    gan = arinv.load("zoo:progressive_automobile", kind="gan")
    autoencoder = arinv.load("zoo:progressive_automobile/autoencoder_mask")
    for function, value, message in (
        (gan.decode_fn, {"latents": 1}, "inputs must be an array of numbers"),
        (gan.decode_fn, np.zeros((2, 512)) + 1j, "got complex128"),
        (gan.decode_fn, np.zeros((2, 7), np.float32), r"latents must be \[B, 512\]; got shape \(2, 7\)"),
        (autoencoder.decode_fn, np.zeros(256, np.float32), r"codes must be \[B, K\]; got \(256,\)"),
        (autoencoder.decode_fn, "codes", "inputs must be an array of numbers; got 'codes'"),
    ):
        with pytest.raises(UserError, match=message):
            function(value)


def test_entries_take_cifar10_with_and_without_names(encoder_name):
    """The published dataset names its classes; the copy that the entries were trained on numbers them."""
    description = arinv.load(f"zoo:{encoder_name}/encoder").description
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    named = data.SourceInfo("tfds:cifar10", "test", 10_000, 10, names, 32)
    numbered = dataclasses.replace(named, class_names=tuple(map(str, range(10))))
    for info in (named, numbered):
        assert descriptions.class_difference(description, info) == ""
        assert len(descriptions.shared_classes(description, info.class_names)) == 10
    assert descriptions.assumed_classes(description, named) == ""
    assert "numbers its classes, which are taken" in descriptions.assumed_classes(description, numbered)
    assert descriptions.shared_classes(description, ("cat", "cow")) == ["cat"]
    others = dataclasses.replace(named, class_names=names[::-1])
    assert "but the checkpoint was trained on" in descriptions.class_difference(description, others)
    fewer = dataclasses.replace(numbered, class_names=numbered.class_names[:9])
    assert "has 9 classes" in descriptions.class_difference(description, fewer)


def test_naming_classes_keeps_the_weights(tmp_path, monkeypatch):
    folder = tmp_path / "small"
    shutil.copytree(zoo.FOLDER / "alexnet_small_l2_1", folder)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    before = arinv.load("zoo:small/encoder")
    maintenance.name_classes("small", [f"class{i}" for i in range(10)])
    after = arinv.load("zoo:small/encoder")
    assert after.description["class_names"][3] == "class3" and after.fingerprint == before.fingerprint
    assert {**after.description, "class_names": 0} == {**before.description, "class_names": 0}
    with pytest.raises(UserError, match="2 names for the 10 classes"):
        maintenance.name_classes("small", ["a", "b"])


@pytest.mark.long
def test_training_of_a_card_is_read_from_a_finished_run(tmp_path):
    config = load("classifier:smoke=true,options=width:2,eps=0.5")
    main.run(config, tmp_path / "run")
    training = maintenance._training(tmp_path / "run")
    assert (training["task"], training["steps"], training["stages"]) == ("classifier", 2, 1)
    assert training["epochs"] > 0 and training["flops"] > 0
