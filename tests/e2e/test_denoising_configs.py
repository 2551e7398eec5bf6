"""Configs of denoising: the paper's recipe, trained encoders, and errors that are raised before any work."""

import json

import numpy as np
import pytest
from configured import configure
from PIL import Image

from arinv import main
from arinv.apps.denoising import bm3d, evaluate_denoising
from arinv.errors import UserError
from arinv.experiment.figures import center_window, evenly, short_names
from configs import denoise, denoising


def test_denoising_follows_the_paper_by_default():
    config = denoising.get_config()
    assert json.loads(config.to_json_best_effort())
    assert config.order == (
        "standard_encoder", "robust_encoder", "standard_denoiser", "robust_denoiser", "evaluation",
    )  # fmt: skip
    stage = config.stages.robust_denoiser
    assert (config.stages.standard_encoder.attack.eps, config.stages.robust_encoder.attack.eps) == (0.0, 3.0)
    assert (stage.loss.pixel, stage.loss.feature, stage.loss.adversarial) == (2e-6, 1e-2, 0.0)
    assert (stage.loss.pixel_order, stage.num_epochs, stage.batch_size, stage.data.image_size) == (1, 90.0, 128, 224)
    optimizer = stage.optimizer.generator
    assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.schedule.learning_rate) == ("adam", 0.0, 0.9, 3e-4)
    assert stage.noise.to_dict() == {"sigma": 50 / 255, "protocol": "clipped"}
    assert stage.decoder.to_dict() == {"variant": "default", "pad_side": "official", "image_bias": 0.0}
    assert stage.data.resize == "squash" and not stage.augmentation
    assert not denoise.get_config().noise.sigma  # no noise is added to images of a user


def test_denoising_loss_of_the_official_script_and_windows():
    config = denoising.get_config("loss=official_script,window=128,train=folder:x").stages.standard_denoiser
    weights = {name: config.loss[name] for name in ("pixel", "feature", "adversarial", "discriminator", "pixel_order")}
    assert weights == {"pixel": 2e-3, "feature": 1e-2, "adversarial": 100.0, "discriminator": 100.0, "pixel_order": 2}
    assert config.augmentation.window == 128 and config.data.resize == "crop" and config.data.name == "folder:x"


def test_denoising_uses_trained_encoders():
    config = denoising.get_config("standard_encoder=runs/a,robust_encoder=runs/b")
    assert config.order == ("standard_denoiser", "robust_denoiser", "evaluation")
    assert config.stages.standard_denoiser.encoder.checkpoint == "runs/a"
    assert config.stages.evaluation.metric_networks.encoder == "runs/b"


def test_denoisers_are_evaluated_on_images_of_another_size_than_they_are_trained_on(tmp_path):
    stages = main.check(denoising.get_config(), tmp_path)
    sizes = [stage.data.image_size for stage in stages.values() if stage.task != "classifier"]
    assert sizes == [224, 224, 256]


def test_denoising_takes_the_encoder_of_the_zoo_unless_one_is_named():
    zoo = "robust_encoder=zoo:alexnet_small_l2_1"
    stages = denoising.get_config(zoo).stages
    assert stages.standard_encoder.encoder.name == stages.robust_denoiser.encoder.name == "alexnet_small"
    assert stages.robust_denoiser.data.image_size == 64  # the least of a denoiser; the encoders' is 32
    assert denoising.get_config("encoder=alexnet_small").stages.standard_encoder.attack.eps == 0.0
    assert denoising.get_config(f"encoder=alexnet,{zoo}").stages.robust_denoiser.encoder.name == "alexnet"
    assert denoising.get_config("robust_encoder=runs/zoo").stages.robust_denoiser.encoder.name == "alexnet"


@pytest.mark.parametrize(
    ("arg", "shown"),
    [
        ("encoder=vgg16", "unknown encoder of a denoiser 'vgg16'; known: alexnet, alexnet_small"),
        ("window=100", "augmentation.window=100 must be a multiple of 32 from 64 up"),
        ("window=256", "augmentation.window=256 is more than data.image_size=224"),
        ("--config.stages.*_denoiser.data.image_size=225", "data.image_size=225 must be a multiple of 32"),
        ("--config.stages.*.noise.sigma=50", "fifty grey levels are 50/255"),
        ("--config.stages.*.noise.protocol=clip", "clipped, unclipped"),
        ("--config.stages.*_denoiser.decoder.pad_side=left", "aligned, official"),
        ("--config.stages.*_denoiser.decoder.variant=a9", "default, table_a9"),
        ("encoder=alexnet_small --config.stages.*_denoiser.decoder.image_bias=2.0", "alexnet_small's: leave it 0"),
        ("metrics=psnr+fid", "unknown metric of denoised images 'fid'; known: "),
        ("metrics=lpips_alex", "needs a trained alexnet"),
        ("test=folder:/nowhere/cbsd68", "/nowhere/cbsd68 does not exist"),
        ("test=", "name a folder of clean images"),
        ("--config.stages.evaluation.data.num_images=-1", "0 .all. or more"),
        ("--config.stages.evaluation.bm3d=perhaps", "unknown bm3d 'perhaps'; known: auto, no, yes"),
        ("--config.stages.evaluation.tiles.tile=100", "tile=100"),
        ("--config.stages.evaluation.tiles.multiple=16", "multiple=16 must be a multiple of 32 px"),
        ("test=cbsd68", "unknown dataset 'cbsd68'; known: .*folder:PATH"),
        ("train=/my/photographs", "unknown dataset '/my/photographs'"),
        ("train=folder:/nowhere/photographs", "/nowhere/photographs' does not exist"),
    ],
)
def test_denoising_raises_before_training(arg, shown, tmp_path):
    with pytest.raises(UserError, match=shown) as error:
        main.run(configure(denoising, f" {arg}"), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_denoising_lists_known_losses():
    with pytest.raises(
        ValueError, match="known: pixel, feature, gan, pixel_balanced, euclidean, deepsim, deepsim_raw, official_script"
    ):
        denoising.get_config("loss=l2")


def test_bm3d_raises_if_required_but_not_installed(monkeypatch):
    monkeypatch.setattr(bm3d, "is_installed", lambda: False)
    with pytest.raises(UserError, match="pip install bm3d"):
        bm3d.find("yes")
    assert bm3d.find("auto") is None and "skipped" in bm3d.notice("auto")
    assert bm3d.find("no") is None and not bm3d.notice("no")


def test_open_sets_opens_each_dataset_once():
    config = denoising.get_config("test=photos+photos").stages.evaluation
    config.data.num_images, config.data.image_size = 3, 64
    (photos,) = evaluate_denoising.open_sets(config)
    assert photos.name == "photos" and photos.names == ("00000", "00001", "00002")
    assert photos.read(2).shape == (64, 64, 3)
    fields = denoising.get_config("test=imagenet2012+folder:x+cats_vs_dogs").stages.evaluation.data
    assert fields.name == "tfds:imagenet2012+folder:x+tfds:cats_vs_dogs"
    assert tuple(fields.splits) == ("validation", "test", "train[80%:]")


def test_open_sets_distinguishes_folders_of_one_name(tmp_path):
    for place, count in (("a", 1), ("b", 4)):
        (tmp_path / place / "set").mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((2, 3, 3), i, np.uint8)).save(tmp_path / place / "set" / f"{i}.png")
    names = [f"folder:{tmp_path}/{place}/set" for place in ("a", "b")]
    config = denoising.get_config(f"test={'+'.join(names)}").stages.evaluation
    config.data.num_images = 2
    first, second = evaluate_denoising.open_sets(config)
    assert (first.name, second.name) == tuple(names)
    assert first.names == ("0.png",) and second.names == ("0.png", "2.png")
    np.testing.assert_array_equal(second.read(1), np.full((2, 3, 3), 2))


def test_center_window_pads_small_images_with_white():
    image = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    np.testing.assert_array_equal(center_window(image, 4), image[1:5])
    window = center_window(image[:2, :2], 4)
    np.testing.assert_array_equal(window[1:3, 1:3], image[:2, :2])
    assert (window[0] == 255).all() and (window[:, 3] == 255).all()
    assert evenly(3, 10) == [0, 3, 6] and evenly(5, 2) == [0, 1]
    assert short_names(["a/b.c.png", "00000", "x" * 30 + ".jpg"]) == ("b.c", "00000", "..." + "x" * 15)
