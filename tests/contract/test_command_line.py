"""The command line: where configs are found, their own errors, overrides of every type, help, and URLs."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from configured import configure

from arinv import command_line, main
from arinv.errors import UserError
from arinv.experiment import references, workdirs
from configs import classifier, detector, evaluate, invert, quickstart, stylize

ROOT = pathlib.Path(__file__).parents[2]


def parse(*arguments):
    return command_line.parse(["arinv", *arguments])


def error_of(*arguments):
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        "--config={root}/configs/classifier.py",
        "--config configs/classifier.py",
        "-config classifier",
        "--config=classifier.py",
        "--config=configs/classifier",
        "--config=link.py",
    ],
)
def test_configs_are_found_from_another_folder(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.py").symlink_to(ROOT / "configs" / "classifier.py")
    flag, separator, value = config.format(root=ROOT).partition(" ")
    given = [flag, value] if separator else [flag]
    given[-1] += ":smoke=True,options=width:3"
    command = parse(*given, "--workdir", "runs/x", "--config.seed", "5", "--config.batch_size=-1")
    assert command.config.encoder.options.width == 3 and command.config.seed == 5 and command.config.batch_size == -1
    assert command.workdir == tmp_path / "runs" / "x" and not command.options["plan"]


def test_configs_are_found_where_the_package_is_installed(tmp_path):
    """In a directory with a package `configs` of its own."""
    shutil.copytree(ROOT / "arinv", tmp_path / "site" / "arinv")
    shutil.copytree(ROOT / "configs", tmp_path / "site" / "arinv" / "configs")
    (tmp_path / "own" / "configs").mkdir(parents=True)
    (tmp_path / "own" / "configs" / "__init__.py").write_text("raise RuntimeError")
    for name in ("quickstart", "configs/quickstart.py"):
        command = [sys.executable, "-P", "-m", "arinv", f"--config={name}:eps=2", "--workdir=x", "--config.no_field=1"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        done = subprocess.run(
            command, cwd=tmp_path / "own", env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and "unknown field --config.no_field; the config has dtype" in done.stderr


def test_wheel_contains_every_folder_of_configs():
    setuptools = pytest.importorskip("setuptools")

    packages = setuptools.find_packages(ROOT, include=["configs*"])
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.py")}
    assert {name.replace(".", "/") for name in packages} == folders


def test_a_colon_may_be_part_of_a_config_s_name(tmp_path):
    path = tmp_path / "at 10:30.py"
    path.write_text("from configs import classifier\nget_config = classifier.get_config\n")
    assert parse(f"--config={path}:eps=3", "--workdir=x").config.attack.eps == 3


def test_a_config_imports_modules_beside_it(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "module_beside_a_config.py").write_text("EPS = 3.0\n")
    path = tmp_path / "own" / "config.py"
    path.write_text(
        "import module_beside_a_config\nfrom configs import classifier\n"
        "def get_config(arg=None):\n    return classifier.get_config(f'eps={module_beside_a_config.EPS}')\n"
    )
    assert parse(f"--config={path}", "--workdir=x").config.attack.eps == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("def get_config(:", "own.py:1: SyntaxError"),
        ("\n\nimport no_such_module", "own.py:3: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config(arg=None):\n    return unknown_name", "own.py:2: NameError"),
        ("def get_config(arg=None):\n    raise KeyError", "own.py:2: KeyError: KeyError"),
        ("def get_config(arg=None):\n    return int('x\\ny')", "own.py:2: ValueError: invalid literal"),
        ("def get_config(arg=None):\n    raise SystemExit(3)", "own.py:2: SystemExit: 3"),
        ("def get_config(arg=None):\n    return None", "must return a ConfigDict with the field task"),
        ("def get_config():\n    return {}", "takes no arguments"),
        ("x = 1", "has no function get_config"),
        ("from configs import classifier\nget_config = classifier.get_config", "unknown config argument 'a'"),
    ],
)
def test_load_names_file_and_line_of_a_config_s_own_error(text, shown, tmp_path):
    (tmp_path / "own.py").write_text(text)
    assert shown in error_of(f"--config={tmp_path}/own.py:a=1", "--workdir=x")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (
            ["--config=quickstrat", "--workdir=x"],
            "quickstrat does not exist; known: .*Did you mean quickstart",
        ),
        (["--config={tmp}/none.py:a=1", "--workdir=x"], "config file .*/none.py does not exist"),
        (["--config={tmp}", "--workdir=x"], "is a folder"),
        (["--config={tmp}/file.txt", "--workdir=x"], "is not a config: name a Python file"),
        (["--config=", "--workdir=x"], "--config is empty"),
        (["--config=classifier", "--workdir="], "--workdir is empty"),
        (["--config=classifier", "--workdir=gs://bucket/x"], r"--workdir='gs://bucket/x' is a URL \(gs:\).*local"),
        (["--config=classifier", "--workdir=s3:/bucket"], "is a URL"),
        (["--config=classifier", "--workdir=file:///x"], "write the path alone"),
        (["--config=classifier", "--workdir=~no_such_user/x"], "is not a path"),
        (["--config=classifier", "--workdir"], "Missing value for flag --workdir"),
        (["--config=classifier"], "needs --config=.* and --workdir"),
        (["--confg=classifier", "--workdir=x"], "Unknown command line flag 'confg'. Did you mean: config"),
        (["--config=classifier", "--workdir=x", "more"], "unexpected argument 'more'"),
        (["--config=classifier", "--workdir=x", "--devices=2"], "are for --plan"),
        (["--config=classifier", "--plan", "--devices=x"], "--devices=x"),
        (
            ["--config=classifier", "--workdir=x", "--initialization_timeout=nan"],
            "--initialization_timeout=nan must be a finite number",
        ),
        (
            ["--config=classifier", "--workdir=x", "--heartbeat_timeout=inf"],
            "--heartbeat_timeout=inf must be a finite number",
        ),
        (["--flagfile={tmp}/none", "--workdir=x"], "none"),
    ],
)
def test_mistakes_in_flags_are_one_line(arguments, shown, tmp_path):
    (tmp_path / "file.txt").write_text("")
    message = error_of(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert re.search(shown, message), message


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        (
            "attack.epss=1",
            "--config.attack.epss; config.attack has eps, norm, .*Did you mean --config.attack.eps",
        ),
        ("encoder.options.depth=16", "config.encoder.options has width.*argument of the config file: options=NAME"),
        ("num-epochs=1", "Did you mean --config.num_epochs?"),
        ("epochs=1", "Did you mean --config.num_epochs?"),
        ("attack.eps.x=1", "--config.attack.eps is a value .*, not a group of fields"),
        (".eps=1", "unknown field --config..eps"),
        ("keys=1", "unknown field --config.keys"),
        ("images=cat.jpg", r"Arguments follow the file: --config=FILE:images=VALUE\.$"),
        ("=1", "unknown field --config.; the config has"),
        ("num_epochs=abc", "--config.num_epochs='abc' must be a number or a fraction such as 8/255"),
        ("num_epochs=nan", "must be a number"),
        ("num_epochs=1e999", "must be a number"),
        ("num_epochs=1/0", "must be a number"),
        ("batch_size=1.5", "--config.batch_size='1.5' must be a whole number"),
        ("batch_size=None", "must be a whole number"),
        ("batch_size=true", "must be a whole number"),
        ("batch_size=99999999999999999999", "must be a whole number"),
        ("seed", "--config.seed needs a value: --config.seed=0"),
        ("attack.random_start=maybe", "must be true or false"),
        ("attack=5", "must name one of its fields"),
        ("attack={'epss': 1}", "unknown field --config.attack.epss"),
        ("log.profile_steps={}", "must be values joined by commas"),
        ("optimizer.schedule={'name'", "must name one of its fields"),
        ("task=inverter", "--config.task cannot be changed"),
    ],
)
def test_wrong_overrides_are_one_line(override, shown):
    message = error_of(
        "--config=classifier:encoder=alexnet_small,options=width:4", "--workdir=x", f"--config.{override}"
    )
    assert re.search(shown, message), message


def test_an_override_of_a_stage_s_field_names_the_stages():
    message = error_of("--config=quickstart", "--workdir=x", "--config.num_epochs=1")
    assert "the config has dtype, mesh, order, seed, stages" in message
    assert "--config.stages.robust_encoder.num_epochs" in message
    assert "must be some of" in error_of("--config=quickstart", "--workdir=x", "--config.order=standard")


def test_override_with_a_pattern_sets_every_field_that_matches():
    config = quickstart.get_config().lock()
    command_line.override(config, "stages.*_encoder.num_epochs", "5")
    lengths = {name: stage.get("num_epochs") for name, stage in config.stages.items()}
    assert (lengths["standard_encoder"], lengths["robust_encoder"], lengths["robust_inverter"]) == (5.0, 5.0, 1.5)
    command_line.override(config, "stages.*.data.num_test", "7")
    assert {stage.data.num_test for stage in config.stages.values() if "batch_size" in stage} == {7}
    command_line.override(config, "stages.*_inverter.optimizer.generator.schedule.learning_rate", "0.01")
    schedules = [config.stages[f"{name}_inverter"].optimizer.discriminator.schedule for name in ("standard", "robust")]
    assert [schedule.learning_rate for schedule in schedules] == [0.04, 0.04]
    for field in ("stages.*_encodr.num_epochs", "stages.*.num_epoch", "*.num_epochs"):
        with pytest.raises(UserError, match=r"matches no field of the config; stages: zoo_images, standard_encoder, "):
            command_line.override(config, field, "5")
    with pytest.raises(UserError, match=r"--config.stages.\w+_encoder.num_epochs='x' must be a number"):
        command_line.override(config, "stages.*_encoder.num_epochs", "x")


def test_overrides_are_of_the_type_of_their_field():
    config = classifier.get_config("encoder=vgg16_bn,options=width:4").lock()
    for text in (
        "attack.eps=8/255", "attack.random_start=yes", "seed=7", "num_epochs=2", "data.name=folder:/a,b=c d",
        "log.profile_steps=3,5", "attack={'num_steps': 3, 'norm': 'linf'}", "data.classes=(1, 2)",
        "optimizer.schedule.epochs=[1, 2.5]",
    ):  # fmt: skip
        command_line.override(config, *text.split("=", 1))
    assert config.attack.to_dict() | {"step_size": 0.0} == {
        "eps": 8 / 255, "norm": "linf", "num_steps": 3, "step_size": 0.0, "random_start": True,
    }  # fmt: skip
    assert config.seed == 7 and config.num_epochs == 2.0 and isinstance(config.num_epochs, float)
    assert config.data.name == "folder:/a,b=c d" and config.data.classes == (1, 2)
    assert config.log.profile_steps == (3, 5) and config.optimizer.schedule.epochs == (1.0, 2.5)
    command = parse("--config=quickstart", "--workdir=x", "--config.seed", "3", "--config.order=standard_encoder")
    assert command.config.stages.report.task == "comparison" and command.config.order == ("standard_encoder",)
    assert command.config.stages.standard_encoder.seed == 3
    command = parse(
        "--config=classifier", "--workdir=x", "--config.attack.random_start", "--noconfig.optimizer.nesterov"
    )
    assert command.config.attack.random_start and not command.config.optimizer.nesterov


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull", "-help", "--helpshort"])
def test_help_lists_flags_configs_and_an_example(flag):
    text = command_line.information(["arinv", flag])
    for part in ("--config", "--workdir", "--plan", "example: python -m arinv --config=configs/quickstart.py"):
        assert part in text
    for name in ("quickstart", "classifier", "recipes/resnet18_cifar10"):
        assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in text.splitlines()), name
    assert "arguments" not in command_line.shipped(), "a part of configs is none"

    text = command_line.information(["arinv", "--config=quickstart", "-h"])
    assert "Arguments: those of configs/classifier.py" in text


def test_help_beside_a_config_shows_its_arguments():
    assert "Arguments: those of configs/classifier.py" in command_line.information(
        ["arinv", "--config=quickstart", "-h"]
    )
    assert command_line.information(["arinv", "--config=quickstart"]) is None


def test_help_and_version_need_no_jax_and_exit_with_0(tmp_path):
    code = (
        "import sys, arinv.__main__ as m\nm.console()\n"
        "assert not {'jax', 'numpy', 'orbax'} & set(sys.modules), 'imported'"
    )
    for flag, shown in (("--help", "flags:"), ("--version", "arinv 0")):
        done = subprocess.run(
            [sys.executable, "-c", code, flag], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "") and shown in done.stdout


def test_a_reader_that_is_gone_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "arinv", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_urls_in_a_config_are_refused_before_any_work(tmp_path):
    for config, shown in (
        (evaluate.get_config("checkpoint=gs://bucket/run"), "checkpoint='gs://bucket/run' is a URL"),
        (classifier.get_config("dataset=folder:s3://bucket/images"), "data.name='folder:s3://bucket/images' is a URL"),
        (
            configure(quickstart, " --config.stages.*.metric_networks.vgg16=https://host/vgg.pth"),
            "metric_networks.vgg16='https://host/vgg.pth'",
        ),
    ):
        with pytest.raises(UserError) as error:
            main.run(config, tmp_path / "run")
        assert shown in str(error.value) and not (tmp_path / "run").exists()
    report = quickstart.get_config().stages.report
    report.text = "https://example.org"
    references.check_local(report)


def test_an_order_that_names_no_stage_is_one_line(tmp_path):
    config = quickstart.get_config("smoke=True")
    config.order = ("standard_encodr",)
    with pytest.raises(UserError, match="unknown stage 'standard_encodr'; known: .*Did you mean 'standard_encoder'"):
        main.run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(28, "No space left on device", "/disk/x"), "/disk/x: No space left on device; files saved earlier"),
        (PermissionError(13, "Permission denied", "/run/x"), "/run/x: Permission denied"),
        (MemoryError(), "out of memory .*smaller batch"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"), "out of memory .*9 bytes"),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, shown, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(main, "plan", fail)
    command = parse("--config=classifier", f"--workdir={tmp_path}", "--plan")
    with pytest.raises(SystemExit) as stop:
        main.execute(command, [])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and re.search(shown, lines[0]), lines


def test_a_full_disk_behind_the_output_is_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "arinv", "--version"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "arinv: output: No space left on device\n")


def test_values_out_of_range_are_refused_before_any_work(tmp_path):
    config = classifier.get_config("smoke=True,image_size=9223372036854775807")
    with pytest.raises(UserError, match="data.image_size=9223372036854775807 must be 1 to 65536 px"):
        main.check(config, tmp_path / "run")
    config = stylize.get_config("smoke=True,inverters=stage:x,content=photos:coffee,style=photos:coffee")
    config.mix = ("a",)
    with pytest.raises(UserError, match="mix must hold weights"):
        main.check(config, tmp_path / "run")


@pytest.mark.parametrize("folder", ["images", "/images"])
def test_images_with_the_prefix_of_datasets_are_refused_before_any_work(folder, tmp_path):
    for config, name in (
        (invert.get_config(f"inverter=zoo:alexnet_small_l2_1,images=folder:{folder}"), "data.name"),
        (detector.get_config(f"encoder_checkpoint=zoo:alexnet_small_l2_1,anomalous=folder:{folder}"), "anomalous"),
    ):
        with pytest.raises(UserError, match=f"{name}='folder:{folder}' must be a path without folder:; write {folder}"):
            main.check(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("arg", "override", "shown"),
    [
        ("encoder=vgg16_bn,options=width:2", "optimizer.schedule.epochs=(1.0,)", "must be equally many"),
        ("encoder=vgg16_bn,options=width:2", "optimizer.schedule.factors=(0.1, -1.0, 1.0)", "must be 0 or more"),
        ("encoder=resnet18", "optimizer.schedule.factor=-1", "must be 0 or more"),
    ],
)
def test_a_wrong_schedule_is_refused_before_any_work(arg, override, shown, tmp_path):
    command = parse(f"--config=classifier:smoke=True,{arg}", f"--workdir={tmp_path}/run", f"--config.{override}")
    with pytest.raises(UserError, match=shown):
        main.check(command.config, command.workdir)


def test_a_stage_has_a_seed_a_dtype_and_a_mesh_of_its_own():
    config = configure(
        quickstart,
        "smoke=True --config.stages.standard_encoder.seed=7 --config.stages.standard_encoder.dtype=bfloat16 "
        "--config.stages.standard_encoder.mesh.fsdp=4 --config.seed=3",
    )
    others = [stage for name, stage in config.stages.items() if name != "standard_encoder" and "seed" in stage]
    own = config.stages.standard_encoder
    assert (own.seed, own.dtype, own.mesh.fsdp) == (7, "bfloat16", 4)
    assert others and all((stage.seed, stage.dtype, stage.mesh.fsdp) == (3, "float32", 1) for stage in others)


def test_the_test_attack_follows_the_training_attack():
    config = configure(classifier, "eps=0.5,norm=l2 --config.attack.eps=8/255 --config.attack.norm=linf")
    assert (config.test_attack.eps, config.test_attack.norm) == (8 / 255, "linf")
    own = configure(classifier, "eps=0.5 --config.test_attack.eps=1.0")
    assert (own.attack.eps, own.test_attack.eps) == (0.5, 1.0)


def test_smoke_runs_are_without_warm_ups():
    config = configure(classifier, "encoder=alexnet_small,dataset=cifar10,recipe=gairat,eps=1.0,smoke=True")
    assert (config.attack_warmup_epochs, config.recipe.geometry_from_epoch) == (0.0, 0.0)
    assert config.optimizer.schedule.get("warmup_epochs", 0.0) == 0.0


def test_numbers_of_numpy_in_a_config_are_plain():
    config = classifier.get_config("")
    config.data.classes = tuple(np.arange(3))
    assert workdirs.plain(config)["data"]["classes"] == [0, 1, 2]
    config.data.classes = (np.arange(3),)
    with pytest.raises(UserError, match="a config has a field of type ndarray"):
        workdirs.plain(config)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_command_runs_with_closed_streams(closed):
    result = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m arinv zoo {closed}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


def run_python(*arguments, **environment):
    command, variables = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["JAX_ENABLE_X64", "JAX_NUM_CPU_DEVICES"])
def test_environment_that_jax_does_not_take_is_one_line(name):
    done = run_python("-m", "arinv", "info", "x", **{name: "maybe"})
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert name.lower() in done.stderr.lower()


def test_help_needs_no_docstrings():
    done = run_python("-OO", "-m", "arinv", "--help")
    assert done.returncode == 0 and done.stdout.startswith("arinv ")


def test_a_package_that_is_not_installed_is_one_line():
    done = run_python("-S", "-m", "arinv", "info", "x")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "No module named" in done.stderr and "requirements.txt" in done.stderr
