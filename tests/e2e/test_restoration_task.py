"""The restoration task and the training of autoencoders: files, resuming, and mistakes in one line."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from prepared_tfds import prepare_faces
from untrained import write_aegan, write_autoencoder, write_gan

import arinv
from arinv import data, main, models
from arinv.apps.restoration import methods, restore_images
from arinv.apps.restoration import restoration as task
from arinv.errors import UserError
from arinv.experiment.cache import ResultCache
from arinv.experiment.output_files import read_arrays
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.ops.degradations import build_operator, image_keys
from arinv.tasks import TASKS
from arinv.train import autoencoder, gan, training
from configs import autoencoder as autoencoder_config
from configs import classifier, restoration, restore, tasks, truth_table, volume


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with an untrained GAN, autoencoder and AEGAN of 16 px."""
    folder = tmp_path_factory.mktemp("networks")
    write_gan(folder / "gan", seed=0)
    write_autoencoder(folder / "autoencoder", seed=1)
    write_aegan(folder / "aegan", seed=2)
    return folder


def config_of(networks, untrained, **changes):
    encoder = f"encoder={untrained}/robust_encoder,metric_encoder={untrained}/robust_encoder"
    arguments = f"gan={networks}/gan,autoencoder={networks}/autoencoder,aegan={networks}/aegan,{encoder}"
    config = restoration.get_config(f"smoke=True,image_size=16,operator=mask,{arguments}").stages.restoration
    config.batch_size = 8
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def restored(networks, untrained, tmp_path_factory):
    """A finished run of all methods."""
    workdir = tmp_path_factory.mktemp("restored")
    main.run(config_of(networks, untrained), workdir)
    return workdir


def test_restoration_writes_every_method(restored):
    results = json.loads((restored / "results.json").read_text())
    passes, searches = {"autoencoder", "aegan"}, {"invertgan", "generative_encoder", "features"}
    assert set(results["entries"]) == {"degraded"} | passes | searches
    for name, entry in results["entries"].items():
        assert 0 < entry["mse"] < 1 and entry["mse_pm1"] == pytest.approx(4 * entry["mse"])
        assert ("mean_steps" in entry) == (name in searches)
        assert np.isfinite(entry["ssim_uniform7"]) and np.isfinite(entry["detail"])
        assert (name == "degraded") == ("fid_alexnet_small_conv5_n8" not in entry)
    assert results["curve"]["steps"] == [0] and set(results["curve"]["mse"]) == searches
    assert "11-tap" in results["variants"]["ssim"] and "7x7 windows" in results["variants"]["ssim_uniform7"]
    with np.load(restored / "per_image.npz", allow_pickle=False) as arrays:
        assert arrays["generative_encoder/mse"].shape == (8,)
        invertgan = arrays["invertgan/mse"]
    with np.load(restored / "restored.npz", allow_pickle=False) as images:
        assert set(images) == {"image"} | passes | searches and images["aegan"].shape == (8, 16, 16, 3)
        error = np.square((images["aegan"].astype(float) - images["image"]) / 255).mean()
        assert error == pytest.approx(results["entries"]["aegan"]["mse"], abs=1e-3)
    with np.load(restored / "curves.npz", allow_pickle=False) as curves:
        assert results["curve"]["mse"]["invertgan"] == [pytest.approx(curves["invertgan"][0])]
        starts = {name: curve[0] for name, curve in curves.items()}
        assert curves["invertgan"].shape == (4,)
        # The last image of the search, before it is clipped to [0, 1], which cannot increase the error.
        assert invertgan.mean() <= curves["invertgan"][-1] + 1e-6
    assert len(set(starts.values())) == 1, "all methods start from the same latents"
    assert "| generative encoder |" in (restored / "table.md").read_text()
    for name in ("restored.png", "details.png", "curve.png", "report.html"):
        assert (restored / name).exists()


def test_features_of_grey_images_are_those_of_equal_channels(untrained):
    encoder = arinv.load(untrained / "robust_encoder")
    inverter = arinv.load(untrained / "robust_inverter")
    grey = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    features = encoder.features_fn(jnp.broadcast_to(grey, (2, 16, 16, 3)))
    for network, layer, own in (
        (encoder, "", "conv5"), (encoder, "conv2", "conv2"), (inverter, "", inverter.layer), (inverter, "fc6", "fc6"),
    ):  # fmt: skip
        encode = methods._encode_fn("features", {"features": network}, layer)
        np.testing.assert_allclose(encode(grey), features[own], rtol=1e-5, atol=1e-5)


def test_restoration_compares_the_features_of_a_layer(networks, untrained, restored, tmp_path):
    config = restoration.get_config(
        f"smoke=True,image_size=16,operator=mask,gan={networks}/gan,autoencoder={networks}/autoencoder,"
        f"encoder={untrained}/robust_encoder,layer=conv1"
    ).stages.restoration
    config.batch_size, config.methods = 8, ("features",)
    main.run(config, tmp_path / "conv1")
    conv1, conv5 = (read_arrays(place / "restored.npz")["features"] for place in (tmp_path / "conv1", restored))
    assert (conv1 != conv5).any()
    layers = [json.loads((place / "results.json").read_text())["layers"] for place in (tmp_path / "conv1", restored)]
    assert layers == [{"features": "conv1"}, {"features": "conv5"}]
    config.layer = "conv9"
    with pytest.raises(UserError, match="unknown layer of alexnet_small 'conv9'; known: conv1"):
        main.run(config, tmp_path / "conv9")
    stages = {"encoder": classifier.get_config("smoke=True,image_size=16"), "restoration": config}
    config.encoders = {"features": "stage:encoder"}
    with pytest.raises(UserError, match="conv9"):
        main.run(tasks.experiment(stages), tmp_path / "planned")
    config.encoders, config.methods = {}, ("invertgan",)
    with pytest.raises(UserError, match="layer='conv9' needs encoders"):
        main.run(config, tmp_path / "none")
    assert not any((tmp_path / name).exists() for name in ("conv9", "planned", "none"))
    for module in (restoration, restore):
        with pytest.raises(ValueError, match="layer=conv1 needs encoder="):
            module.get_config("layer=conv1")


def test_restoration_resumes_to_the_same_results(networks, untrained, restored, tmp_path, monkeypatch):
    save = ResultCache.save

    def killed(self, name, arrays):
        save(self, name, arrays)
        if "num_steps" in arrays:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResultCache, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        main.run(config_of(networks, untrained), tmp_path)
    monkeypatch.setattr(ResultCache, "save", save)
    main.run(config_of(networks, untrained), tmp_path)
    assert (tmp_path / "curves.npz").read_bytes() == (restored / "curves.npz").read_bytes()
    assert (tmp_path / "per_image.npz").read_bytes() == (restored / "per_image.npz").read_bytes()


def test_restoration_with_another_batch_size_repeats_no_method(networks, untrained, tmp_path, monkeypatch):
    """Killed when the first batch of 16 of the second method was finished, resumed with batches of 8."""
    config = config_of(networks, untrained, **{"data.num_test": 24, "batch_size": 16, "metric_encoder": ""})
    config.methods = ("autoencoder", "invertgan")
    main.run(config, tmp_path / "whole")
    save, build, sizes = ResultCache.save, methods.build, []

    def killed(self, name, arrays):
        save(self, name, arrays)
        if "num_steps" in arrays:
            raise KeyboardInterrupt

    def counted(*arguments, **options):
        restore = build(*arguments, **options)
        return lambda images, indices: sizes.append((len(images), indices[0])) or restore(images, indices)

    monkeypatch.setattr(ResultCache, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        main.run(config, tmp_path / "cut")
    monkeypatch.setattr(ResultCache, "save", save)
    monkeypatch.setattr(methods, "build", counted)
    config.batch_size = 8
    main.run(config, tmp_path / "cut")
    assert sizes == [(8, 16)]
    whole, cut = (read_arrays(tmp_path / name / "per_image.npz") for name in ("whole", "cut"))
    for name in whole:
        np.testing.assert_allclose(cut[name], whole[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("autoencoder", "dream")}, "unknown method 'dream'; known: aegan, autoencoder, "),
        ({"gan": ""}, "gan is empty"),
        ({"aegan": ""}, "aegan is empty"),
        ({"curve_steps": (-1,)}, "curve_steps"),
        ({"data.channels": 2}, "data.channels=2 must be 1"),
        ({"autoencoder": ""}, "autoencoder is empty"),
        ({"operator.name": "haze"}, "'haze'"),
        ({"operator.options": {"share": 2.0}}, "share"),
        (
            {"operator": {"name": "downsample", "options": {"factor": 5}}},
            "images of 16x16 px cannot be reduced 5 times",
        ),
        ({"solver.num_steps": 0}, "solver.num_steps"),
        ({"solver.penalty": -1.0}, "solver.penalty"),
    ],
)
def test_check_rejects_configs_in_one_line(networks, untrained, changes, message):
    config = config_of(networks, untrained)
    config.unlock()
    with pytest.raises(UserError, match=message):
        config.update_from_flattened_dict(changes)
        task.check(config)


def test_loaded_autoencoder_encodes_and_decodes(networks):
    trained = arinv.load(networks / "autoencoder")
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    codes = trained.encode_fn(images)
    assert codes.shape == (2, 4)
    expected = jax.jit(trained.module.apply)(trained.variables, images)
    np.testing.assert_allclose(trained.decode_fn(codes), expected, atol=1e-6)
    assert repr(trained).startswith("Trained('autoencoder', networks='conv', image_size=16")
    np.testing.assert_allclose(trained.reconstruct(images), expected, atol=1e-6)
    with pytest.raises(UserError, match="20 x 20 px: this autoencoder has images of 16 x 16"):
        trained.reconstruct(np.zeros((1, 20, 20, 3), np.float32))
    with pytest.raises(UserError, match="autoencoder has no classifier"):
        trained.features_fn  # noqa: B018


def test_autoencoder_step_trains_on_generated_and_degraded_images(networks, key):
    generator = arinv.load(networks / "gan")
    module = models.build_autoencoder("conv", image_size=16, latent_size=4)
    optimizer, operator = optax.sgd(1e-2), build_operator("mask")
    networks_of = {"autoencoder": (module, (jnp.zeros((1, 16, 16, 3)),))}
    state = jax.jit(lambda key: TrainState.create(key, networks_of, {"autoencoder": optimizer}))(key)
    apply = jax.jit(module.apply)
    step = autoencoder.make_train_step(
        module, optimizer, gan=generator.module, operator=operator, restoration=0.5, augmentation={}
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    batch = {"image": images, "label": np.zeros(3, np.int32), "mask": np.ones(3, np.float32)}
    new, metrics = jax.jit(step)(state, batch, key, generator.decode_fn)
    keys = jax.random.split(jax.random.fold_in(key, 0), 4)
    generated = np.clip(generator.decode_fn(generator.module.draw(keys[1], 3)), 0, 1)
    every = jnp.concatenate([images / np.float32(255), generated])
    degraded = operator.degrade(image_keys(keys[2], jnp.arange(6)), every)

    def error(inputs):
        return float(jnp.mean((apply(state.variables["autoencoder"], inputs) - every) ** 2))

    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    assert means["loss_reconstruction"] == pytest.approx(error(every), rel=1e-4)
    assert means["loss_restoration"] == pytest.approx(0.5 * error(degraded), rel=1e-4)
    assert int(new.step) == 1
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), new.variables, state.variables)
    assert max(jax.tree.leaves(moved)) > 0


def test_smoke_autoencoder_trains_without_a_gan(tmp_path):
    main.run(autoencoder_config.get_config("smoke=True,image_size=16,latent_size=4,operator=noise"), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert np.isfinite(results["psnr"]) and results["operator"]["formula"].startswith("x + 0.25 N(0, 1)")
    assert arinv.load(tmp_path).kind == "autoencoder"


def test_smoke_aegan_trains_and_is_an_autoencoder(tmp_path):
    arg = "smoke=True,networks=aegan,image_size=8,latent_size=4,options=base_width:16+max_width:8,operator=mask"
    main.run(autoencoder_config.get_config(arg), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert np.isfinite(results["psnr"]) and np.isfinite(results["psnr_restored"])
    trained = arinv.load(tmp_path, kind="autoencoder")
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    generated = trained.module.decoder.apply(
        {"params": trained.variables["params"]["decoder"]}, trained.encode_fn(images)
    )
    np.testing.assert_allclose(trained.reconstruct(images), np.clip(generated, 0, 1), atol=1e-5)
    with pytest.raises(ValueError, match="networks=aegan trains its own generator; leave out gan=x"):
        autoencoder_config.get_config("networks=aegan,gan=x")


def test_truth_table_of_a_finished_restoration_has_no_arguments_of_a_new_one():
    assert truth_table.get_config("restoration=runs/r,smoke=True,dtype=bfloat16").order == ("truth_table",)
    for argument in ("gan=runs/g", "dataset=photos"):
        shown = f"{argument.partition('=')[0]} has no effect: restoration=runs/r is finished; leave it out"
        with pytest.raises(ValueError, match=shown):
            truth_table.get_config(f"restoration=runs/r,{argument}")


def test_truth_table_counts_a_class_and_a_statistic(restored, untrained, tmp_path):
    """What a classifier says of restored images, and a rule."""
    with np.load(restored / "restored.npz", allow_pickle=False) as arrays:
        images = {name: arrays[name] / np.float32(255) for name in ("image", "generative_encoder", "invertgan")}
    classifier = arinv.load(untrained / "robust_encoder")
    classes = {name: np.asarray(classifier.logits_fn(array)).argmax(1) for name, array in images.items()}
    config = truth_table.get_config(f"restoration={restored},attribute={untrained}/robust_encoder").stages.truth_table
    config.label = int(classes["invertgan"][0])
    main.run(config, tmp_path / "classes")
    results = json.loads((tmp_path / "classes" / "results.json").read_text())
    first, second = (classes[name] == config.label for name in ("generative_encoder", "invertgan"))
    assert results["counts"] == {
        "neither": int((~first & ~second).sum()), "second": int((~first & second).sum()),
        "first": int((first & ~second).sum()), "both": int((first & second).sum()), "invalid": 0,
    }  # fmt: skip
    assert results["num_images"] == 8 and results["with_attribute"] == int((classes["image"] == config.label).sum())
    config = truth_table.get_config(f"restoration={restored},attribute=brightness").stages.truth_table
    errors = np.square(images["invertgan"] - images["image"]).mean((1, 2, 3))
    other = np.square(images["generative_encoder"] - images["image"]).mean((1, 2, 3))
    config.max_error, config.data.name = float(np.median(errors)), "cifar10"
    main.run(config, tmp_path / "rule")
    results = json.loads((tmp_path / "rule" / "results.json").read_text())
    assert results["setting"]["data"] == "photos", "that of the restoration"
    assert results["valid"] == int((np.maximum(errors, other) <= config.max_error).sum()) < results["num_images"] == 8
    assert "generative_encoder: yes" in (tmp_path / "rule" / "table.md").read_text()
    config.methods = ("invertgan", "dream")
    with pytest.raises(UserError, match="has no method 'dream'; it has: aegan, autoencoder, features"):
        main.run(config, tmp_path / "other")


def test_classifier_of_an_attribute_is_trained_on_a_window_of_faces(tmp_path):
    """Outside the published window the images are black, inside as bright as their number."""

    def face(index):
        image, buffer = Image.new("RGB", (178, 218)), io.BytesIO()
        image.paste((10 * index,) * 3, (25, 57, 153, 185))
        image.save(buffer, "PNG")
        return buffer.getvalue()

    prepare_faces(tmp_path / "tfds", "celeb_a", face, count=24, splits=("train", "test"))
    config = classifier.get_config(f"dataset=celeb_a,data_dir={tmp_path}/tfds,image_size=16,smoke=True")
    unlabeled = Run(config, tmp_path / "eyeglasses", TASKS)
    assert data.load_arrays(unlabeled.open_data("train"))["image"].min(axis=(1, 2, 3)).tolist() == [*range(0, 160, 10)]
    with pytest.raises(UserError, match="has one class.*by data.label, such as attributes/Eyeglasses"):
        main.run(config, tmp_path / "eyeglasses")
    config.data.label = "attributes/Eyeglasses"
    main.run(config, tmp_path / "eyeglasses")
    trained = arinv.load(tmp_path / "eyeglasses")
    assert trained.description["class_names"] == ["no Eyeglasses", "Eyeglasses"]


def test_volume_stacks_the_slices_of_a_restoration(restored, tmp_path):
    true = np.full((6, 8, 8, 1), 200, np.uint8)
    true[2:4, 2:4, 2:4] = 20
    invented = true.copy()
    invented[0, 6, 6] = 20
    folder = tmp_path / "restoration"
    folder.mkdir()
    np.savez(folder / "restored.npz", image=true, generative_encoder=true, invertgan=invented)
    (folder / "results.json").write_text("{}")
    config = volume.get_config("smoke=True").stages.volume
    config.restoration = str(folder)
    main.run(config, tmp_path / "volume")
    entries = json.loads((tmp_path / "volume" / "results.json").read_text())["entries"]
    assert entries["generative_encoder"]["porosity_error"] == entries["generative_encoder"]["invented"] == 0
    assert entries["invertgan"]["invented"] == entries["invertgan"]["invented_pores"] == 1
    assert entries["invertgan"]["porosity_error"] == pytest.approx(1 / 384)
    assert "synthetic" in (tmp_path / "volume" / "table.md").read_text()
    with Image.open(tmp_path / "volume" / "cuts.png") as sheet:
        assert sheet.width > 96 * 4
    config.restoration = str(restored)
    with pytest.raises(UserError, match="images in color; a volume is stacked from grey slices"):
        main.run(config, tmp_path / "color")


def test_networks_of_a_volume_have_one_channel(tmp_path):
    """The training steps are traced, not compiled."""
    config = volume.get_config("smoke=True,options=base_width:16+max_width:8,aegan=x")
    assert {config.stages[name].data.channels for name in config.order if name != "volume"} == {1}
    for name, build in (("size8_fade", gan.build), ("autoencoder", autoencoder.build)):
        run = Run(config.stages[name], tmp_path)
        setup = build(run, None, None, 2)
        state = jax.eval_shape(setup.init, jax.random.key(0))
        size = config.stages[name].data.image_size
        batch = {"image": jnp.zeros((4, size, size, 1), jnp.uint8), "mask": jnp.ones(4)}
        state, _ = jax.eval_shape(setup.train_step, state, batch, jax.random.key(0))
        assert int(state.step.size) == 1
    batches = training.make_batches(run, run.open_data("train"))
    assert next(batches)["image"].shape == (8, 8, 8, 1)


def test_restore_restores_images_of_a_user(networks, tmp_path):
    for i, size in enumerate(((20, 30), (40, 16))):
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3)).astype(np.uint8)
        (tmp_path / "mine").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "mine" / f"{i}.png")
    arguments = f"gan={networks}/gan,autoencoder={networks}/autoencoder,images={tmp_path}/mine"
    config = restore.get_config(f"smoke=True,operator=blur,operator_options=sigma:1.0+window:3,{arguments}")
    config.methods = ("autoencoder", "generative_encoder")
    main.run(config, tmp_path / "restored")
    results = json.loads((tmp_path / "restored" / "results.json").read_text())
    assert results["num_images"] == 2 and results["image_size"] == 16
    rows = (tmp_path / "restored" / "restorations.csv").read_text().splitlines()
    assert rows[0].startswith("image,psnr_degraded,ssim_degraded,psnr_autoencoder") and len(rows) == 3
    with Image.open(tmp_path / "restored" / "autoencoder" / "1.png") as image:
        restored = np.asarray(image)
    with Image.open(tmp_path / "restored" / "degraded" / "1.png") as image:
        degraded = np.asarray(image)
    trained = arinv.load(networks / "autoencoder")
    expected = trained.reconstruct(degraded[None] / np.float32(255))[0]
    assert np.abs(restored / 255 - expected).mean() < 0.02, "up to the rounding of the degraded image"
    assert (tmp_path / "restored" / "overview.png").exists()

    config.methods, config.degraded = ("autoencoder",), True
    main.run(config, tmp_path / "as_they_are")
    note = (tmp_path / "as_they_are" / "table.md").read_text().splitlines()[-1]
    assert note.endswith("at 16 px: degraded already, by blur.")


def test_networks_of_other_images_are_refused_before_the_run(networks, untrained, tmp_path):
    def check(config):
        module = restore_images if config.task == "restore" else task
        module.check_inputs(Run(config, tmp_path))

    write_gan(tmp_path / "large", seed=0, image_size=32)
    inputs = f"gan={tmp_path}/large,encoder={untrained}/robust_encoder,images=photos"
    with pytest.raises(UserError, match="trained on images of 16 px, but data.image_size is 32"):
        check(restore.get_config(f"smoke=True,{inputs}"))
    config = config_of(networks, untrained, latent_size=8)
    with pytest.raises(UserError, match="gan has latents of 6 numbers; name a GAN with 8"):
        check(config)
    config = config_of(networks, untrained)
    config.data.channels = 1
    with pytest.raises(UserError, match="is of images of 3 channels, data.channels is 1"):
        check(config)
    with pytest.raises(ValueError, match="encoder=zoo:x needs gan="):
        restore.get_config("aegan=runs/aegan,encoder=zoo:x,images=photos")


def test_encoders_of_another_size_are_used_where_the_config_allows_it(networks, untrained, tmp_path, capsys):
    write_gan(tmp_path / "large", seed=0, image_size=32)
    config = config_of(networks, untrained, methods=("features",), gan=f"{tmp_path}/large", autoencoder="", aegan="")
    config.data.image_size = 32
    with pytest.raises(UserError, match="of 16 px, but data.image_size is 32; .* or allow_other_size=True to compare"):
        main.run(config, tmp_path / "run")
    config.allow_other_size = True
    config.layer = "fc6"
    with pytest.raises(UserError, match="images of 32 x 32 px do not fit the dense layers"):
        main.run(config, tmp_path / "run")
    config.layer = ""
    main.run(config, tmp_path / "run")
    assert "features of images of 32 px: the encoder was trained at 16 px" in capsys.readouterr().err
    entry = json.loads((tmp_path / "run" / "results.json").read_text())["entries"]["features"]
    assert np.isfinite(entry["mse"]) and np.isfinite(entry["fid_alexnet_small_conv5_n8"])


def test_an_autoencoder_of_another_operator_is_reported(networks, untrained, capsys, tmp_path):
    config = config_of(networks, untrained, methods=("autoencoder",))
    write_autoencoder(tmp_path / "own", seed=1, operator={"name": "noise", "options": {"sigma": 0.1}})
    config.autoencoder = str(tmp_path / "own")
    methods.load(Run(config, tmp_path))
    expected = "the autoencoder was trained for the operator noise (sigma 0.1), images have mask"
    assert expected in capsys.readouterr().err


def test_a_reduced_picture_has_blocks_as_the_operator_makes_them():
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    blocks = np.repeat(np.repeat(picture, 4, axis=0), 4, axis=1)
    for image in (picture, blocks):
        np.testing.assert_array_equal(restore_images._prepare(image, 16, 3, 4), blocks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": 77}, "label=77 must be 0 to 2"),
        ({"attribute": "edge"}, "attribute=edge is not one of brightness, contrast, edges, and no checkpoint"),
        ({"attribute": "zoo:alexnet_small_l2_1"}, "trained on images of 32 px, the restored ones have 16 px"),
    ],
)
def test_the_classifier_of_a_truth_table_is_checked_first(untrained, tmp_path, restored, changes, message):
    config = truth_table.get_config(f"restoration={restored},attribute={untrained}/robust_encoder").stages.truth_table
    config.update(changes)
    with pytest.raises(UserError, match=message):
        TASKS["truth_table"].check_inputs(Run(config, tmp_path))


def test_mask_of_a_file_is_the_operator(tmp_path):
    mask = np.full((40, 60, 3), 255, np.uint8)
    mask[:20, 10:30] = 0  # the upper left quarter of the square in the center
    known = restore_images.known_pixels(mask, 8, "mask.png")
    expected = np.ones((8, 8, 1))
    expected[:4, :4] = 0
    np.testing.assert_array_equal(known, expected)
    for level, message in ((0, "hides the whole image"), (1, "hides the whole image"), (255, "hides nothing")):
        with pytest.raises(UserError, match=f"mask=mask.png {message}: .* levels {level} to {level}"):
            restore_images.known_pixels(np.full((40, 60, 3), level, np.uint8), 8, "mask.png")
    operator, images = restore_images.masking(known), jnp.full((2, 8, 8, 3), 0.5)
    np.testing.assert_array_equal(operator.project(None, images), np.broadcast_to(0.5 * expected, images.shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.name": ""}, "images is empty"),
        ({"degraded": True}, "degraded=true with operator=mask needs mask="),
        ({"limit": -1}, "limit must be 0"),
        ({"mask": "hole.png", "operator.name": "noise"}, "mask=hole.png needs operator=mask"),
        ({"methods": ()}, "methods is empty"),
    ],
)
def test_restore_rejects_configs_in_one_line(changes, message):
    config = restore.get_config("gan=x,autoencoder=y,operator=mask,images=photos")
    config.unlock()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        restore_images.check(config)


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        (truth_table, {"methods": ("invertgan", "invertgan")}, "must be two methods of the restoration"),
        (truth_table, {"attribute": ""}, "attribute is empty"),
        (truth_table, {"region": (0.0, 0.5, 1.0, 0.5)}, "region="),
        (truth_table, {"confidence": 2.0}, "confidence"),
        (truth_table, {"attribute": "edges", "confidence": 0.5}, "is that of a classifier, edges has none"),
        (truth_table, {"restoration": ""}, "restoration is empty"),
        (volume, {"axis": 0}, "axis=0 must be 1 or 2"),
        (volume, {"threshold": 128.0}, "threshold"),
        (volume, {"methods": ()}, "methods is empty"),
    ],
)
def test_analyses_of_restorations_reject_configs_in_one_line(module, changes, message):
    name = module.__name__.rpartition(".")[2]
    config = module.get_config("smoke=True").stages[name]
    config.unlock()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        TASKS[name].check(config)
