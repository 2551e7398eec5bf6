"""Every config's smoke run, the swap of the encoder, and the arguments behind a config's name."""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import quick_compilation
import safetensors.numpy
from ml_collections import ConfigDict
from PIL import Image

from arinv import data, main, tasks
from arinv.errors import UserError
from arinv.experiment import descriptions, loading, workdirs
from arinv.experiment import run as experiment_run
from arinv.experiment.run import Run
from arinv.train import training
from configs import arguments
from configs import tasks as task_configs

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ("classifier", "inverter", "evaluate", "quickstart", "cifar10")


def get_config(name, arg):
    return importlib.import_module(f"configs.{name}").get_config(arg)


def stages_of(config):
    return [config.stages[name] for name in config.order] if "stages" in config else [config]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("encoder", ["alexnet_small", "resnet18", "alexnet"])
def test_configs_are_plain_data_and_follow_the_encoder(name, encoder):
    config = get_config(name, f"encoder={encoder}")
    assert json.loads(config.to_json_best_effort())
    for stage in stages_of(config):
        if stage.task in ("comparison", "invert"):
            continue
        assert stage.data.image_size == {"alexnet": 224}.get(encoder, 32)
        if stage.task == "inverter":
            assert stage.encoder.layer == {"resnet18": "block4"}.get(encoder, "conv5")
        if stage.task != "evaluate":
            tasks.TASKS[stage.task].check(stage)


def test_the_paper_s_recipes_are_the_defaults():
    config = get_config("inverter", "encoder=resnet18,dataset=cifar10,eps=1.5")
    encoder, inverter = config.stages.encoder, config.stages.inverter
    assert (encoder.num_epochs, encoder.batch_size) == (150.0, 128)
    assert encoder.optimizer.schedule.to_dict() == {
        "name": "step", "learning_rate": 0.1, "every_epochs": 50.0, "factor": 0.1, "warmup_epochs": 0.0,
    }  # fmt: skip
    assert (encoder.attack.eps, encoder.attack.num_steps, encoder.data.name) == (1.5, 7, "tfds:cifar10")
    generator = inverter.optimizer.generator
    assert (generator.b1, generator.b2, generator.schedule.learning_rate) == (0.0, 0.9, 3e-4)
    assert inverter.loss.pixel == 2e-6 and inverter.loss.feature == 1e-2
    assert inverter.optimizer.discriminator.schedule.learning_rate == 1.2e-3


EXPERIMENTS = (
    "anomaly", "cifar10", "compare_inversion", "denoising", "detector", "high_resolution", "inverter", "robustness",
    "style",
)  # fmt: skip
ATTACKS = {
    "alexnet": ("pgd", 3.0, "l2", 7, 0.5),
    "resnet18": ("pgd", 1.0, "l2", 7, 0.0),
    "vgg16_bn": ("pgd", 0.01, "linf", 10, 0.007),
    "wrn28_10": ("gair_rst", 0.031, "linf", 10, 0.007),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("encoder", ATTACKS)
def test_an_encoder_s_recipe_follows_it_into_every_experiment(name, encoder):
    eps = ",eps=-1" if name == "inverter" else ""  # where 0, standard training, is the default
    config = get_config(name, f"encoder={encoder}{eps}")
    (stage,) = [stage for stage in stages_of(config) if stage.task == "classifier" and stage.attack.eps > 0]
    attack = stage.attack
    assert (stage.recipe.name, attack.eps, attack.norm, attack.num_steps, attack.step_size) == ATTACKS[encoder]
    own = get_config("classifier", f"encoder={encoder},eps=-1")
    for field in ("num_epochs", "batch_size", "optimizer", "augmentation", "recipe", "reference"):
        assert workdirs.plain(stage)[field] == workdirs.plain(own)[field]
    windows = encoder in ("alexnet", "vgg16_bn")
    assert stage.data.resize == ("crop_7_8" if windows else "squash") and bool(stage.data.resized_crop) == windows
    for other in stages_of(config):
        if other.task == "inverter":
            assert other.data.resize == "squash" and not other.data.resized_crop
        if other.task in ("evaluate", "autoattack") and other.attack.eps > 0:
            assert (other.attack.eps, other.attack.norm) == (attack.eps, attack.norm)


def test_the_step_grows_with_the_radius_and_the_norm_is_the_recipe_s():
    attack = get_config("denoising", "eps=2").stages.robust_encoder.attack
    assert (attack.eps, attack.step_size) == (2.0, pytest.approx(2 / 6))
    config = get_config("classifier", "encoder=alexnet,eps=3")
    config.attack.eps = 0.5  # as --config.attack.eps=0.5
    assert config.attack.step_size == pytest.approx(0.5 / 6)
    config.attack.num_steps = 10
    assert config.attack.step_size == 0.0, "2.5 eps / 10: the recipe's step is for its number of steps"
    assert config.test_attack.num_steps == 10
    attack = get_config("classifier", "encoder=alexnet,norm=linf,eps=8/255").attack
    assert attack.step_size == 0.0, "2.5 eps / 7: the recipe's step is for its norm"
    with pytest.raises(ValueError, match="norm=linf needs eps=: 3, the radius of the encoder's recipe, is l2"):
        get_config("denoising", "norm=linf")
    assert get_config("inverter", "encoder=vgg16_bn,eps=-1").stages.evaluation.attack.step_size == 0.007


@pytest.mark.parametrize(
    ("encoder", "recipe", "attack", "schedule"),
    [
        *((name, "pgd", (3.0, "l2", 7, 0.5, False), (90.0, 256, 0.1, 1e-4))
          for name in ("resnet18_imagenet", "resnet101_imagenet", "wide_resnet50_2")),
        ("resnet50", "pgd", (1.0, "l2", 7, 0.0, False), (150.0, 128, 0.1, 5e-4)),
        ("preact_resnet18", "pgd", (8 / 255, "linf", 10, 2 / 255, True), (200.0, 128, 0.1, 5e-4)),
        ("wrn34_10", "trades", (0.031, "linf", 10, 0.007, False), (76.0, 128, 0.1, 2e-4)),
        ("wrn70_16_silu", "pgd", (1.0, "l2", 7, 0.0, False), (30.0, 128, 0.02, 5e-4)),
    ],
)  # fmt: skip
def test_encoders_of_public_weights_are_trained_by_their_origins_recipes(encoder, recipe, attack, schedule):
    config = get_config("classifier", f"encoder={encoder},eps=-1")
    own = config.attack
    assert (own.eps, own.norm, own.num_steps, own.step_size, own.random_start) == attack
    optimizer = config.optimizer
    assert schedule == (
        config.num_epochs, config.batch_size, optimizer.schedule.learning_rate, optimizer.weight_decay
    )  # fmt: skip
    assert config.recipe.name == recipe and bool(config.data.resized_crop) == (config.data.image_size == 224)
    assert tasks.TASKS["classifier"].module.recipe_differences(config) == {}


def test_departures_are_what_differs_from_the_published_recipe():
    recipe_differences = tasks.TASKS["classifier"].module.recipe_differences
    assert recipe_differences(get_config("classifier", "encoder=resnet18,eps=2.5")) == {}
    assert recipe_differences(get_config("classifier", "encoder=wrn28_10,eps=-1")) == {}
    assert recipe_differences(get_config("quickstart", "").stages.robust_encoder) == {}
    assert recipe_differences(get_config("classifier", "encoder=alexnet")) == {
        "optimizer.schedule.learning_rate": [0.01, 0.1]
    }
    config = get_config("classifier", "encoder=resnet18,eps=0.3,recipe=trades,options=width:8")
    config.attack.step_size, config.num_epochs = 0.1, 10.0
    config.augmentation.flip, config.data.resize = False, "crop"
    assert recipe_differences(config) == {
        "attack.eps": [0.3, 1.0],
        "attack.step_size": [0.1, 0.0],
        "recipe.name": ["trades", "pgd"],
        "recipe.options.beta": [6.0, None],
        "num_epochs": [10.0, 150.0],
        "augmentation.flip": [False, True],
        "data.resize": ["crop", "squash"],
        "encoder.options.width": [8, None],
    }
    standard = get_config("classifier", "encoder=wrn28_10,recipe=trades")
    standard.attack.step_size = 1.0
    assert recipe_differences(standard) == {}, "nothing is attacked in standard training"


def test_classifiers_of_imagenet_are_trained_on_windows_of_originals(tmp_path):
    """Sharp ones, and evaluated without squashing."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(20):
            pixels = np.zeros((90, 200, 3), np.uint8)
            pixels[:, ::2] = 255  # gone in a squashed image
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    arg = f"encoder=vgg16_bn,dataset=folder:{tmp_path},image_size=64,smoke=True"
    config = get_config("classifier", arg)
    batches = training.make_batches(Run(config, tmp_path), experiment_run.open_source(config, "train"))
    batch = next(batches)
    assert batch["image"].shape == (8, 64, 64, 3)
    test = experiment_run.open_source(config, "test")[0]["image"].astype(float)
    squashed = experiment_run.open_source(get_config("inverter", arg).stages.inverter, "train")[0]["image"].astype(
        float
    )
    assert test.std() > 2 * squashed.std() and batch["image"].astype(float).std() > 2 * squashed.std()
    config.data.resized_crop.scale = (0.5, 0.1)
    with pytest.raises(UserError, match="data.resized_crop.scale=.0.5, 0.1. must be scale or ratio with two positive"):
        tasks.TASKS["classifier"].check(config)


def test_an_evaluation_brings_images_to_size_as_its_network_s_training_did():
    config = get_config("evaluate", "checkpoint=x")
    assert descriptions.resize_of(config, {"resize": "crop_7_8"}) == "crop_7_8"
    assert descriptions.resize_of(config, {}) == "squash", "imported before this was recorded"
    config.data.resize = "crop"
    assert descriptions.resize_of(config, {"resize": "crop_7_8"}) == "crop"
    assert get_config("import_torch", "encoder=alexnet").resize == "crop_7_8"


def test_one_seed_at_the_top_holds_for_all_stages():
    config = get_config("quickstart", None)
    config.seed = 5
    assert {stage.seed for stage in stages_of(config) if "seed" in stage} == {5}


def test_arguments_are_typed_and_fractions_are_understood():
    assert arguments.parse("eps=1,eps=2", eps=0.0).eps == 2  # as of flags, the last counts
    args = arguments.parse("eps=8/255,smoke=true,epochs=2", eps=0.0, smoke=False, epochs=1, name="x")
    assert args.eps == 8 / 255 and args.smoke is True and args.epochs == 2 and args.name == "x"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/a,b/c.pth", "/a,b/c.pth"),
        ("/a b (1), c/d=e:f.pth", "/a b (1), c/d=e:f.pth"),
        ("/a,,b", "/a,,b"),
        ('/\u00fc \u4e2d/it\'s "x"', '/\u00fc \u4e2d/it\'s "x"'),
        ("'/a,b=c,smoke=False'", "/a,b=c,smoke=False"),
        ('"it\'s"', "it's"),
        ("'a", "'a"),
        ("", ""),
    ],
)
def test_arguments_take_any_path(text, value):
    args = arguments.parse(f"path={text},smoke=true", path="x", smoke=False)
    assert args.path == value and args.smoke is True
    assert arguments.parse(f"smoke=true,path={text}", path="x", smoke=False).path == value


def test_the_papers_colors_keep_their_hue():
    """MadryLab's ColorJitter has brightness, contrast and saturation only."""
    for name in ("alexnet", "resnet18", "vgg16"):
        augmentation = get_config("classifier", f"encoder={name}").augmentation
        assert augmentation.color_jitter > 0 and not augmentation.get("hue", 0)


def test_a_loss_that_is_named_twice_is_trained_once():
    assert get_config("cifar10", "losses=pixel+pixel+").order == get_config("cifar10", "losses=pixel").order


def test_options_of_an_encoder_are_numbers_and_words():
    config = get_config("classifier", "encoder=alexnet,options=dense_width:512+dropout:0.1+normalization:none")
    assert config.encoder.options.to_dict() == {"dense_width": 512, "dropout": 0.1, "normalization": "none"}
    assert get_config("classifier", "options=eps:3,eps=1").encoder.options.to_dict() == {"eps": 3}


def test_what_follows_the_length_of_a_training_goes_along_with_it():
    config = get_config("cifar10", "eps=1.0,recipe=gair_rst")
    encoder, other = config.stages.robust_encoder, config.stages.standard_encoder
    assert (encoder.num_epochs, encoder.attack_warmup_epochs, encoder.recipe.geometry_from_epoch) == (30.0, 15.0, 15.0)
    config.update_from_flattened_dict({"stages.robust_encoder.num_epochs": 8.0})
    assert (encoder.attack_warmup_epochs, encoder.recipe.geometry_from_epoch) == (4.0, 4.0)
    assert (other.num_epochs, other.attack_warmup_epochs) == (30.0, 15.0)
    config.update_from_flattened_dict({"stages.robust_encoder.attack_warmup_epochs": 1.0})
    assert (encoder.num_epochs, encoder.attack_warmup_epochs) == (8.0, 1.0)
    assert workdirs.plain(encoder)["attack_warmup_epochs"] == 1.0
    assert workdirs.plain(encoder)["recipe"]["geometry_from_epoch"] == 4.0


@pytest.mark.parametrize(
    ("arg", "shown"),
    [
        ("encodr=alexnet", "unknown config argument 'encodr'; known: .*Did you mean 'encoder'"),
        ("eps=abc", "a number or a fraction"),
        ("eps=1/0", "a number or a fraction"),
        ("eps=-2", "0 or more"),
        ("image_size=1.5", "a whole number"),
        ("smoke=perhaps", "true or false"),
        ("encoder", "needs a value"),
        ("options=dense_width", "name:value pairs"),
        ("classes=5-3", "classes='5-3' must be labels"),
        ("classes=5-", "classes='5-' must be labels"),
        ("eps=nan", "a number or a fraction"),
        ("eps=1e999", "a number or a fraction"),
        ("image_size=99999999999999999999", "a whole number"),
        ("dataset=photos,smoke", "'smoke' needs a value: smoke="),
        ("smoke=True,b/c.png", "'b/c.png' is not a config argument; arguments are name=value"),
        ("dataset=folder:/a,b=c/d", "unknown config argument 'b'.*quote that: dataset='...'"),
    ],
)
def test_wrong_arguments_are_one_line(arg, shown):
    with pytest.raises(ValueError, match=shown) as error:
        get_config("classifier", arg)
    assert "\n" not in str(error.value)


def test_the_generator_of_an_inverter_is_an_argument():
    inverter = get_config("inverter", "encoder=caffenet,layer=fc6,loss=deepsim,generator=deepsim").stages.inverter
    assert inverter.encoder.generator == "deepsim"
    shallow = get_config("inverter", "encoder=hog,loss=euclidean,generator=mirror").stages.inverter
    assert shallow.encoder.generator == "mirror"


def test_an_unknown_loss_lists_the_known():
    with pytest.raises(ValueError, match="pixel, feature, gan"):
        task_configs.loss("l3")


def test_choices_are_known_ones_each_once():
    assert arguments.choices("layers", "b+a++b", ("a", "b", "c")) == ["b", "a"]
    for text, shown in (("a+d", "unknown layer 'd'; known: a, b$"), ("+", "layers is empty; name some of a, b$")):
        with pytest.raises(ValueError, match=shown):
            arguments.choices("layers", text, ("a", "b"))


def smoke(name, arg, workdir) -> ConfigDict:
    config = get_config(name, f"smoke=True,{arg}")
    main.run(config, workdir)
    return config


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """A finished smoke run of the quickstart."""
    workdir = tmp_path_factory.mktemp("quickstart")
    metrics = "psnr+ssim+normalized_error+mse+robust_lpips+gram+fid"
    return smoke("quickstart", f"options=width:4,metrics={metrics}", workdir), workdir


def test_smoke_quickstart_leaves_a_report(quickstart):
    config, workdir = quickstart
    report = workdir / "report"
    metrics = json.loads((report / "metrics.json").read_text())
    for entry in ("standard", "robust"):
        for name in ("clean_accuracy", "pgd_accuracy", "psnr", "ssim", "normalized_error"):
            assert np.isfinite(metrics[entry][name]), name
        assert metrics[entry]["variants"]["psnr"]
        for name in ("mse", "robust_lpips_alexnet_small", "gram_alexnet_small", "fid_alexnet_small_conv5_n8"):
            assert np.isfinite(metrics[entry][name]) and metrics[entry]["variants"][name], name
    table = (report / "table.md").read_text()
    assert "| standard |" in table and "| robust |" in table
    with Image.open(report / "reconstructions.png") as image:
        assert image.size[0] > image.size[1] > 100
    page = (report / "report.html").read_text()
    assert page.count("data:image/png") == 3 and "through the networks just trained" in page
    for stage in ("zoo_images", "images"):
        assert (workdir / stage / "report.html").exists() and len(list((workdir / stage / "robust").glob("*.png"))) == 2
    with np.load(workdir / "robust_evaluation" / "per_image.npz", allow_pickle=False) as arrays:
        assert arrays["psnr"].shape == (config.stages.robust_evaluation.data.num_test,)
    results = json.loads((workdir / "robust_encoder" / "results.json").read_text())
    assert results["recipe"]["name"] == "quickstart" and results["recipe_differences"]["num_steps"] == [2, 0]
    lines = (workdir / "robust_encoder" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2
    assert list((workdir / "robust_inverter" / "images").glob("*.png"))


def test_a_complete_run_is_skipped(quickstart, capsys):
    config, workdir = quickstart
    before = (workdir / "report" / "metrics.json").stat().st_mtime_ns
    main.run(config, workdir)
    assert (workdir / "report" / "metrics.json").stat().st_mtime_ns == before
    assert capsys.readouterr().err.count("is complete") == len(config.order)


def test_smoke_evaluate(quickstart, tmp_path):
    """The evaluation of a classifier alone, and of an inverter from elsewhere."""
    _, workdir = quickstart
    smoke("evaluate", f"checkpoint={workdir}/robust_encoder,eps=8/255,norm=linf", tmp_path / "a")
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["attack"]["norm"] == "linf" and "psnr" not in results
    smoke("evaluate", f"checkpoint={workdir}/robust_inverter", tmp_path / "b")
    assert "psnr" in json.loads((tmp_path / "b" / "results.json").read_text())


def test_an_inverter_is_evaluated_on_images_of_other_classes(untrained, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "own").mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(tmp_path / "own" / f"{i}.png")
    arg = f"smoke=True,eps=1,image_size=16,dataset=folder:{tmp_path}/own"
    config = get_config("evaluate", f"{arg},checkpoint={untrained}/robust_inverter")
    config.data.test_split = "all"
    main.run(config, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["num_images"] == 4 and np.isfinite(results["psnr"]) and results["attack"] is None
    assert "clean_accuracy" not in results and "accuracies are not" in capsys.readouterr().err
    with pytest.raises(UserError, match="evaluate it on data with the same classes"):
        main.run(get_config("evaluate", f"{arg},checkpoint={untrained}/robust_encoder"), tmp_path / "encoder")


def test_a_generator_is_not_paired_with_another_encoder(quickstart, tmp_path):
    config, workdir = quickstart
    for name in ("standard_encoder", "robust_inverter"):
        shutil.copytree(workdir / name, tmp_path / name.replace("standard", "robust"))
    arg = f"smoke=True,checkpoint={tmp_path}/robust_inverter"
    with pytest.raises(UserError, match="robust_inverter was trained on an encoder of weights"):
        main.run(get_config("evaluate", arg), tmp_path / "evaluation")
    (tmp_path / "robust_inverter" / "results.json").unlink()  # nor gone on with
    with pytest.raises(UserError, match="robust_inverter was trained on an encoder of weights"):
        main.run(config.stages.robust_inverter, tmp_path / "robust_inverter")


def test_an_encoder_is_not_made_anew_beside_its_complete_inverter(quickstart, tmp_path):
    config, workdir = quickstart
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "robust_encoder")
    with pytest.raises(UserError, match="robust_encoder has to run, but .* is complete: delete .* too"):
        main.run(config, tmp_path / "run")


def test_an_evaluation_at_another_size_is_refused(quickstart, tmp_path):
    _, workdir = quickstart
    with pytest.raises(UserError, match="trained on images of 32 px, but data.image_size is 40"):
        main.run(get_config("evaluate", f"smoke=True,image_size=40,checkpoint={workdir}/robust_encoder"), tmp_path)
    arg = f"smoke=True,options=width:4,image_size=64,encoder_checkpoint={workdir}/robust_encoder"
    with pytest.raises(
        UserError, match="trained on images of 32 px, but data.image_size is 64; .*allow_other_size=True"
    ):
        main.run(get_config("inverter", arg), tmp_path / "inverter")
    assert not (tmp_path / "inverter").exists()
    with pytest.raises(UserError, match="was trained on images of 32 px and does not take 64 px"):
        config = get_config("inverter", arg)
        config.stages.inverter.encoder.allow_other_size = True
        main.run(config, tmp_path / "inverter")


def test_smoke_export_to_pytorch_and_import_again(quickstart, tmp_path):
    """What goes out comes back to the same results, also without names of classes; an inverter's generator goes out."""
    _, workdir = quickstart
    smoke("export_torch", f"checkpoint={workdir}/robust_encoder", tmp_path / "out")
    tensors = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["fc8.weight"].ndim == 2
    safetensors.numpy.save_file(tensors, tmp_path / "bare.safetensors")
    smoke("import_torch", f"encoder=alexnet_small,options=width:4,path={tmp_path}/bare.safetensors", tmp_path / "in")
    assert json.loads((tmp_path / "in" / "results.json").read_text())["description"]["class_names"] == []
    results = [tmp_path / "a", tmp_path / "b"]
    for encoder, path in zip((workdir / "robust_encoder", tmp_path / "in"), results, strict=True):
        smoke("evaluate", f"checkpoint={encoder}", path)
    before, after = (json.loads((path / "results.json").read_text()) for path in results)
    assert before["cross_entropy"] == after["cross_entropy"]
    smoke("export_torch", f"checkpoint={workdir}/robust_inverter", tmp_path / "generator")
    path = f"path={tmp_path}/generator/model.safetensors,layer=conv5,encoder_checkpoint={tmp_path}/in"
    smoke("import_torch", f"encoder=alexnet_small,{path}", tmp_path / "inverter")
    names = ("robust_inverter", tmp_path / "inverter")
    before, after = (loading.load(workdir / name, kind="inverter").variables for name in names)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))


def test_an_encoder_of_unknown_classes_is_evaluated_on_as_many():
    info = data.open_source("photos", split="test", num_examples=8).info
    encoder = SimpleNamespace(description={"class_names": [], "num_classes": 3})
    with pytest.raises(UserError, match=f"has {info.num_classes} classes, but the checkpoint was trained on 3"):
        descriptions.check_classes(encoder.description, info)
    encoder.description["num_classes"] = info.num_classes
    descriptions.check_classes(encoder.description, info)
    encoder.description["class_names"] = ["cat", *info.class_names[1:]]
    with pytest.raises(UserError, match="was trained on .'cat'"):
        descriptions.check_classes(encoder.description, info)


def test_smoke_inverter_with_another_encoder_by_the_command(tmp_path):
    config = f"--config={ROOT}/configs/inverter.py:encoder=resnet18,options=width:8,eps=0.5,smoke=True"
    environment = {**os.environ, "XLA_FLAGS": quick_compilation.FLAGS}
    command = [sys.executable, "-m", "arinv", config, f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "evaluation" / "reconstructions.png").exists()


def test_smoke_classifier_on_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    smoke("classifier", f"dataset=folder:{tmp_path}/images,options=width:4", tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 <= results["correct"] <= 1


def test_smoke_cifar10(data_dir, tmp_path):
    smoke("cifar10", f"options=width:4,losses=pixel,data_dir={data_dir}/tfds", tmp_path)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert set(metrics) == {"standard pixel", "robust pixel"}
