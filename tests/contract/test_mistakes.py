"""A user's mistakes: one line, a non-zero exit code, nothing written."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from arinv import attacks, command_line, data, main
from arinv.data.source import Subset
from arinv.errors import UserError
from arinv.experiment import fields, workdirs
from arinv.experiment.run import Run
from arinv.tasks import TASKS
from arinv.train import classifier as task
from configs import (
    anomaly,
    classifier,
    denoise,
    denoising,
    detector,
    evaluate,
    high_resolution,
    invert,
    inverter,
    quickstart,
    score,
    style,
    stylize,
)
from configs.paper import generative_encoder_table2 as table2

ROOT = pathlib.Path(__file__).parents[2]


def run(config, workdir):
    with pytest.raises(UserError) as error:
        main.run(config, workdir)
    assert "\n" not in str(error.value)
    assert not workdir.exists() or not any(workdir.iterdir()), "nothing may be written"
    return str(error.value)


@pytest.mark.parametrize(
    ("arg", "changes", "message"),
    [
        (
            "encoder=resnet19",
            {},
            "unknown encoder 'resnet19'; known: alexnet, alexnet_small, caffenet, hog, lbp, preact",
        ),
        ("dataset=fotos", {}, "photos"),
        ("dataset=tfds:cifar11,data_dir=/nowhere", {}, "nowhere"),
        ("", {"batch_size": 12}, "batch_size 12"),
        ("dtype=float16", {}, "bfloat16"),
        ("norm=l7", {}, "l1, l2, linf"),
        ("norm=l1", {}, "attack 'pgd' takes norm l2, linf"),
        ("", {"attack.eps": -1.0}, "0 or more"),
        ("", {"attack.num_steps": 0}, "attack.num_steps must be at least 1; got 0"),
        ("", {"mesh.fsdp": 3}, "8 device"),
        ("", {"optimizer.name": "sdg"}, "sgd"),
        ("", {"optimizer.schedule.name": "steps"}, "step"),
        ("", {"optimizer.schedule.learning_rate": 0.0}, "positive"),
        ("", {"num_steps": 0, "num_epochs": 0.0}, "a run of 0 steps"),
        ("", {"num_epochs": -1.0}, "num_epochs=-1.0 must be 0 or more"),
        ("", {"optimizer.weight_decay": -1.0}, "weight_decay must be 0 (none) or more; got -1.0"),
        ("", {"optimizer.max_gradient_norm": -1.0}, "max_gradient_norm must be 0 (none) or more; got -1.0"),
        ("", {"seed": 2**32}, "seed=4294967296 must be 0 to 4294967295"),
        ("eps=1,recipe=trades", {"recipe.options.beta": -1.0}, "recipe.options.beta must be a finite number"),
        ("eps=1,recipe=n_fgsm", {"recipe.options.noise": -1.0}, "recipe.options.noise must be a finite number"),
        ("options=dropout:2", {}, "dropout of encoder 'alexnet_small' must be 0 (none) or more and below 1; got 2"),
        ("", {"optimizer.momentum": 2.0}, "momentum must be 0 or more and below 1; got 2.0"),
        ("", {"optimizer.schedule.warmup_epochs": -1.0}, "warmup_epochs must be 0 (none) or more; got -1.0"),
        ("", {"attack_warmup_epochs": -1.0}, "attack_warmup_epochs must be 0 or more; got -1"),
        ("", {"augmentation.crop_padding": -1}, "augmentation.crop_padding must be at least 0; got -1"),
        ("", {"augmentation.crop_padding": 300}, "augmentation.crop_padding must be a finite number from 0 to"),
        ("options=width:2000000", {}, "width of encoder 'alexnet_small' must be at most 1,000,000; got 2000000"),
        ("", {"data.num_train": 4}, "batch_size=8"),
        ("dataset=folder:/nowhere/images", {}, "/nowhere/images"),
        ("extra=npz:/nowhere/more.npz", {}, "/nowhere/more.npz"),
        ("", {"log.keep_checkpoints": 0}, "log.keep_checkpoints=0 must be 1 or more"),
        ("", {"log.num_images": 0}, "log.num_images=0 must be 1 or more"),
        ("", {"log.every_steps": -1}, "log.every_steps=-1 must be 1 or more"),
        ("", {"log.evaluate_every_epochs": 0.0}, "log.evaluate_every_epochs=0.0 must be above 0"),
        ("encoder=resnet18", {"optimizer.schedule.every_epochs": 0.0}, "every_epochs=0.0 must be above 0"),
        ("eps=1", {"num_steps": 0, "num_epochs": 1.0, "attack_warmup_epochs": 15.0}, "epochs=15 is beyond the end"),
    ],
)
def test_check_rejects_a_wrong_classifier_config(arg, changes, message, tmp_path):
    config = classifier.get_config(f"smoke=True,{arg}")
    for name, value in changes.items():
        config.update_from_flattened_dict({name: value})
    assert message in run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (quickstart, {"robust_evaluation.checkpoint": "stage:standard_evaluation"}, "'evaluate', which trains no netw"),
        (
            quickstart,
            {"robust_inverter.encoder.checkpoint": "stage:standard_inverter"},
            "trains an inverter; name a",
        ),
        (quickstart, {"robust_inverter.batch_size": 20_000}, "batch_size=20000 is more than the"),
        (quickstart, {"robust_inverter.loss.comparator": "runs/typo"}, "runs/typo"),
        (quickstart, {"robust_inverter.data.name": "folder:/nowhere"}, "/nowhere"),
        (
            quickstart,
            {
                "robust_evaluation.metrics": "robust_lpips",
                "robust_evaluation.metric_networks.encoder": "stage:standard_inverter",
            },
            "trains an inverter; name a stage that trains a classifier",
        ),
        (
            quickstart,
            {"robust_encoder.data.extra.name": "photos", "robust_encoder.data.extra.share": 2.0},
            "leaves one source empty",
        ),
        (table2, {"aegan.batch_size": 64_000}, "batch_size=64000 is more than the"),
        (anomaly, {"standard_evaluation.inverters.class0": "stage:gans/class0"}, "gans/class0 trains a gan; name a st"),
        (anomaly, {"standard_evaluation.inverters.class3": "stage:gans/class7"}, "stage:gans/class0, stage:gans/clas"),
        (anomaly, {"standard_evaluation.gans.class3": "stage:standard_inverters/class3"}, "trains an inverter; name"),
    ],
)
def test_check_rejects_what_only_a_later_stage_uses(config, changes, message, tmp_path):
    args = {quickstart: ",options=width:4", anomaly: ",adgan=true,classes=0+3,dataset=photos", table2: ""}[config]
    config = config.get_config(f"smoke=True{args}")
    for name, value in changes.items():
        config.update_from_flattened_dict({f"stages.{name}": value})
    assert message in run(config, tmp_path / "run")


def test_check_rejects_an_extra_that_later_stages_cannot_use(tmp_path):
    np.savez(tmp_path / "other.npz", image=np.zeros((8, 8, 8, 3), np.uint8), label=np.arange(500, 508))
    config = quickstart.get_config("smoke=True,options=width:4")
    config.stages.robust_encoder.data.extra.name = f"npz:{tmp_path}/other.npz"
    assert "has classes that photos lacks" in run(config, tmp_path / "run")
    np.savez(tmp_path / "few.npz", image=np.zeros((1, 8, 8, 3), np.uint8), label=[0])
    config.stages.robust_encoder.data.extra.update({"name": f"npz:{tmp_path}/few.npz", "share": 0.5})
    assert "is more than the 1 training examples" in run(config, tmp_path / "run")


def test_check_rejects_a_class_that_fills_no_batch(tmp_path):
    """The second one; the first has images enough."""
    for name, count in (("a", 40), ("b", 3)):
        for split in ("train", "test"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / "set" / split / name / f"{i}.png")
    config = anomaly.get_config(f"smoke=True,dataset=folder:{tmp_path}/set,classes=0+1")
    for name in ("standard", "robust"):
        config.stages[f"{name}_inverters"].data.num_train = 0
    assert "class 1: batch_size=8 is more than the 3 training examples" in run(config, tmp_path / "run")


def test_run_rejects_processes_that_jax_has_joined_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    message = run(classifier.get_config("smoke=True,options=width:4"), tmp_path / "run")
    assert message == "JAX runs in 4 processes, arinv in 1; start each of them with --distributed=on"


def test_check_rejects_a_wrong_layer_before_any_stage(tmp_path):
    assert "conv5" in run(inverter.get_config("smoke=True,layer=conv6"), tmp_path / "run")
    assert "table_a4" in run(_with(inverter.get_config("encoder=alexnet"), "encoder.generator", "a4"), tmp_path / "run")


@pytest.mark.parametrize(("encoder", "image_size"), [("alexnet", 100), ("resnet18", 36), ("vgg16", 50)])
def test_check_rejects_an_image_size_that_the_generator_does_not_return(encoder, image_size, tmp_path):
    config = inverter.get_config(f"smoke=True,encoder={encoder},image_size={image_size}")
    assert f"turns {image_size} px into" in run(config, tmp_path / "run")


def test_check_of_an_inverter_takes_the_options_of_the_encoder_that_a_stage_trains(tmp_path):
    config = inverter.get_config("smoke=True,encoder=resnet18,options=width:8+stem:imagenet,image_size=40")
    assert "turns 40 px into 64 px" in run(config, tmp_path / "run")
    main.check(
        inverter.get_config("smoke=True,encoder=resnet18,options=width:8+stem:imagenet,layer=conv1"), tmp_path / "run"
    )
    main.check(
        inverter.get_config("smoke=True,encoder=resnet18_imagenet,options=width:8+stem:cifar,image_size=40"),
        tmp_path / "run",
    )
    config = inverter.get_config("smoke=True")
    config.stages.inverter.encoder.name = "resnet18"
    assert "encoder is 'alexnet_small' there, 'resnet18' in the config" in run(config, tmp_path / "run")


@pytest.mark.parametrize("arg", ["", "image_size=64"])
def test_check_of_a_denoising_takes_test_images_of_another_size_than_the_training(arg, tmp_path):
    main.check(denoising.get_config(arg), tmp_path / "run")


def test_check_rejects_a_wrong_inverter_before_any_stage(tmp_path):
    for name, value, message in (
        ("optimizer.generator.schedule.name", "cosin", "cosine"),
        ("optimizer.generator.schedule.learning_rate", -1.0, "positive"),
        ("loss.pixel_order", 3, "loss.pixel_order=3 must be 1"),
    ):
        config = inverter.get_config("smoke=True")
        config.stages.inverter.update_from_flattened_dict({name: value})
        assert message in run(config, tmp_path / "run")


def test_check_rejects_a_missing_run_before_any_stage(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for config, message in (
        (anomaly.get_config(f"smoke=True,dataset=photos,standard_encoder={there}/typo"), "encoder.checkpoint='"),
        (
            style.get_config(f"smoke=True,standard_encoder={there},robust_encoder={tmp_path}/typo"),
            "encoder.checkpoint='",
        ),
        (high_resolution.get_config(f"smoke=True,standard_inverter={tmp_path}/typo"), "inverters.standard='"),
    ):
        text = run(config, tmp_path / "run")
        assert message in text and "typo' does not exist" in text and not (tmp_path / "run").exists()


def test_check_rejects_stages_of_different_image_sizes(tmp_path):
    for name in ("encoder", "inverter"):
        config = inverter.get_config("smoke=True,options=width:4")
        config.stages[name].data.image_size = 64
        assert "px, but data.image_size is" in run(config, tmp_path / "run")
    config.stages.inverter.encoder.allow_other_size = config.stages.evaluation.data.image_size == 32
    assert "stage:inverter is trained on images of 64 px" in run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "denoising:smoke=true,encoder=alexnet,standard_encoder=zoo:alexnet_small_standard",
            {},
            "is of another model",
        ),
        ("denoising:smoke=true,test=folder:{empty}", {}, "holds no image"),
        ("denoising:smoke=true,train=folder:{empty}", {}, "holds no image"),
        ("restoration:smoke=true", {"restoration.gan": "stage:nosuch"}, "unknown stage 'nosuch'; known: autoencoder"),
        ("restoration:smoke=true", {"restoration.gan": "stage:autoencoder"}, "stage:autoencoder trains an autoencoder"),
        ("restoration:smoke=true", {"size4.start": "stage:size8"}, "size4 reads stage:size8, which runs after it"),
        ("gan:smoke=true", {"size8.fade": True}, "data.image_size=8 continues 4 px"),
        ("volume:smoke=true", {"volume.methods": ("nosuch",)}, "unknown method of stage:restoration 'nosuch'"),
        ("paper/table7:smoke=true,standard_inverter=zoo:alexnet_small_standard/encoder", {}, "holds a classifier"),
        ("style:smoke=true,content=photos,style=photos,layers=fc6", {}, "fc6 has no positions"),
        ("autoencoder:smoke=true,options=base_width:32", None, "options=base_width:32 has no effect"),
        (
            "inverter:smoke=true,image_size=64",
            {"evaluation.checkpoint": "zoo:alexnet_small_l2_1"},
            "was trained on images of 32 px, but data.image_size is 64",
        ),
    ],
)
def test_mistakes_in_later_stages_are_found_before_the_first(name, changes, message, tmp_path):
    (tmp_path / "empty").mkdir()
    name = name.format(empty=tmp_path / "empty")
    if changes is None:
        with pytest.raises(UserError, match=message):
            command_line.load(name)
        return
    config = command_line.load(name)
    with config.unlocked():
        for field, value in changes.items():
            config.stages.update_from_flattened_dict({field: value})
    assert message in run(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*/checkpoints"))


@pytest.mark.parametrize(
    ("task", "config", "message"),
    [
        ("autoattack", "autoattack:checkpoint={0},image_size=48", "images of 32 px"),
        ("compare_inversion", "compare_inversion:standard_inverter={0},robust_inverter={0},image_size=48", "of 32 px"),
        ("high_resolution", "high_resolution:standard_inverter={0},robust_inverter={0},image_size=48", "of 32 px"),
        ("invert", "invert:robust_inverter={0},images=photos", "multiple 33 must be a multiple of"),
    ],
)
def test_check_inputs_rejects_a_finished_network_of_another_size(task, config, message, tmp_path):
    config = command_line.load(config.format("zoo:alexnet_small_l2_1"))
    if "stages" in config:
        config = next(stage for stage in config.stages.values() if stage.task == task)
    if task == "invert":
        config.multiple = 33
    with pytest.raises(UserError, match=message):
        TASKS[config.task].module.check_inputs(Run(config, tmp_path, tasks=TASKS))


def test_check_rejects_a_negative_number_of_images(tmp_path):
    config = evaluate.get_config("checkpoint=there")
    config.log.num_images = -1
    assert "num_images=-1 must be 0" in run(config, tmp_path / "run")


def _with(config, name, value):
    config.stages.inverter.update_from_flattened_dict({name: value})
    return config


def test_run_rejects_a_missing_checkpoint(tmp_path):
    assert "none' does not exist; name the workdir" in run(
        evaluate.get_config(f"checkpoint={tmp_path}/none"), tmp_path / "run"
    )
    assert "checkpoint is empty" in run(evaluate.get_config(), tmp_path / "run")


def fill(folder, *classes, count=20):
    """Writes images of these classes, of which the last one of the last class is damaged; "" for no class."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")
    return folder


def damage(path):
    path.write_bytes(path.read_bytes()[:900])


def test_run_rejects_folders_of_bad_images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    config = classifier.get_config(f"smoke=True,options=width:4,dataset=folder:{folder}")
    assert str(folder) in run(config, tmp_path / "run")
    damage(fill(folder, "a", "b") / "b" / "7.jpg")
    assert "7.jpg" in run(config, tmp_path / "run")


@pytest.mark.long
def test_run_skips_a_bad_image_and_reports_the_data(tmp_path, capsys):
    folder = fill(tmp_path / "images", "a", "b")
    damage(folder / "b" / "7.jpg")
    (folder / "b" / "notes.txt").write_text("x")
    config = classifier.get_config(f"smoke=True,options=width:4,on_bad_image=skip,dataset=folder:{folder}")
    config.data.num_train = 0
    main.run(config, tmp_path / "run")
    lines = capsys.readouterr().err
    assert "skipped 1 unreadable image" in lines and lines.count("left out .txt (1)") == 1
    message = "2 classes (a 16, b 15), 31 training and 8 test images of 32 px, normalization cifar10: mean 0.4914/"
    assert message in lines


@pytest.mark.parametrize(
    ("classes", "dataset", "message"),
    [
        (("",), "", "has one class, 'image': .*put the images of each class into a subfolder of its name"),
        (("Pets/cat", "Pets/dog"), "", "has one class, 'Pets': .*name folder:.*/images/Pets, whose subfolders are cat"),
        (("train/a", "test/a"), "", "has one class, 'a'"),
        (("a", "b"), ",classes=1", "has one class, 'b': .*omit classes="),
    ],
)
def test_run_rejects_a_classifier_of_one_class(classes, dataset, message, tmp_path):
    folder = fill(tmp_path / "images", *classes, count=5)
    config = classifier.get_config(f"smoke=True,options=width:4,dataset=folder:{folder}{dataset}")
    assert re.search(message, run(config, tmp_path / "run"))


def test_check_classes_rejects_classes_without_training_images(tmp_path):
    image = np.zeros((6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", image=image, label=[0, 0, 1, 1, 2, 2])
    source = data.open_source(f"npz:{tmp_path}/a.npz", split="all", image_size=8)
    config = classifier.get_config(f"dataset=npz:{tmp_path}/a.npz")
    task.check_classes(config, source, source)
    with pytest.raises(UserError, match="no training image of 1 of the classes in its test: 2;"):
        task.check_classes(config, Subset(source, [0, 1, 2, 3]), source)
    config.data.num_train = 4  # a short run may lack some
    task.check_classes(config, Subset(source, [0, 1, 2, 3]), source)


INSIDE = {
    "classifier": lambda folder: classifier.get_config(f"dataset=folder:{folder}"),
    "second source": lambda folder: classifier.get_config(f"extra=folder:{folder}"),
    "evaluation": lambda folder: evaluate.get_config(f"checkpoint=there,dataset=folder:{folder}"),
    "denoisers": lambda folder: denoising.get_config(f"test=folder:{folder}+photos").stages.evaluation,
    "invert": lambda folder: invert.get_config(f"images={folder},inverter=there"),
    "denoise": lambda folder: denoise.get_config(f"images={folder},denoiser=there"),
    "score": lambda folder: score.get_config(f"images={folder},detector=there"),
    "detector": lambda folder: detector.get_config(f"dataset=photos,anomalous={folder}"),
    "stylize": lambda folder: stylize.get_config(f"content={folder},style=photos:coffee"),
}


@pytest.mark.parametrize("task", INSIDE)
def test_check_rejects_a_workdir_in_a_folder_of_images(task, tmp_path):
    folder = tmp_path / "a+b"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    config = INSIDE[task](folder)
    for workdir in (folder, folder / "runs" / "1", tmp_path / "link" / "runs"):
        with pytest.raises(UserError, match="is in the folder of images .*another --workdir"):
            Run(config, workdir, tasks=TASKS).check_workdir()
    Run(config, tmp_path / "runs", tasks=TASKS).check_workdir()


def test_check_accepts_a_workdir_with_the_name_of_a_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run(classifier.get_config("dataset=photos"), tmp_path / "photos" / "run", tasks=TASKS).check_workdir()


@pytest.mark.long
def test_run_stops_at_a_non_finite_loss(tmp_path):
    config = classifier.get_config("smoke=True,options=width:4")
    config.optimizer.schedule.learning_rate = 1e30
    config.num_steps = 4
    with pytest.raises(UserError, match="non-finite at step . .*no checkpoint was saved yet.*learning rate"):
        main.run(config, tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.long
def test_run_stops_at_results_that_are_not_finite(tmp_path):
    config = classifier.get_config("smoke=True,options=width:4")
    config.optimizer.schedule.learning_rate, config.num_steps = 1e30, 1  # whose metrics are from before the update
    with pytest.raises(UserError, match="non-finite at step 1 .*the last checkpoint is step 1"):
        main.run(config, tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed=-1 must be 0 to 4294967295"),
        ({"data.num_train": -3}, r"data.num_train=-3 must be 0 \(all images\) or more"),
        ({"data.num_test": -3}, "data.num_test=-3 must be 0"),
        ({"data.test_split": "tets"}, "unknown data.test_split of photos 'tets'"),
        ({"num_steps": -7}, "num_steps=-7 must be 0"),
        ({"watch.num_steps": 0, "watch.action": "notice"}, "watch.num_steps must be a finite number of at least 1"),
        ({"watch.every_epochs": -1.0, "watch.action": "notice"}, "watch.every_epochs"),
    ],
)
def test_mistakes_of_a_training_are_found_before_any_work(changes, message):
    config = classifier.get_config("eps=1.0")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        task.check(config)


@pytest.mark.parametrize(
    "images", [np.full((1, 4, 4, 3), 255.0, np.float32), np.full((1, 4, 4, 3), np.nan, np.float32)]
)
def test_pgd_rejects_images_outside_0_1(images):
    with pytest.raises(UserError, match="images"):
        attacks.pgd(jax.random.key(0), lambda x: x[:, 0, 0, :], images, np.zeros(1, np.int32), eps=0.1, num_steps=1)


def command(*arguments, cwd=ROOT):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "arinv", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config={root}/configs/quickstart.py:encodr=alexnet", "--workdir={tmp}/x"], "Did you mean 'encoder'"),
        (["--config={root}/configs/quickstart.py", "--workdir={tmp}/x", "--config.seeed=1"], "seeed"),
        (["--config={root}/configs/classifier.py", "--workdir={tmp}/x", "--config.attack.eps=abc"], "such as 8/255"),
        (["--config={root}/configs/nothing.py", "--workdir={tmp}/x"], "nothing.py"),
        (["--config={root}/configs/quickstart.py"], "--workdir"),
        (["--config={root}/configs/classifier.py:encoder=vgg11", "--workdir={tmp}/x"], "unknown encoder 'vgg11'"),
        (
            ["--config={root}/configs/evaluate.py:checkpoint={tmp}/none", "--workdir={tmp}/x"],
            "none' does not exist; name the",
        ),
        (["--config={root}/configs/classifier.py:dataset=folder:{tmp}/none", "--workdir={tmp}/x"], "none"),
    ],
)
def test_command_prints_mistakes_in_one_line(arguments, message, tmp_path):
    done = command(*(a.format(root=ROOT, tmp=tmp_path) for a in arguments), cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode != 0
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert not list(tmp_path.iterdir())


def test_run_rejects_another_config_in_the_same_workdir(tmp_path):
    config = quickstart.get_config("smoke=True,options=width:4")
    workdirs.write_config(config.stages.robust_encoder, tmp_path / "robust_encoder")
    other = quickstart.get_config("smoke=True,options=width:4,eps=2.0")
    with pytest.raises(UserError, match=r"robust_encoder belongs to another config: attack.eps \(there 1.0, now 2.0\)"):
        main.run(other, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["robust_encoder"], "no stage may have started"


def test_attack_options_warn_once_about_a_radius_of_grey_levels(capsys):
    attack = {"eps": 8.0, "step_size": 0.0, "norm": "linf", "num_steps": 2}
    for _ in range(2):
        fields.attack_options(attack)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "warning: attack.eps=8 in linf reaches every image in [0, 1]: nothing can be robust there; did you mean 8/255?"
    ]
