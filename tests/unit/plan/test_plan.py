"""Plans: against the step that training compiles, and their parts by hand."""

import functools
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import main
from arinv.data import published
from arinv.errors import UserError
from arinv.experiment import workdirs
from arinv.experiment.run import Run
from arinv.plan import cost, input_rate, plan
from arinv.tasks import TASKS
from arinv.train import accelerators, flops, loop, training
from configs import classifier, denoising, inverter
from configs.recipes import alexnet_imagenet

ROOT = pathlib.Path(__file__).parents[3]
TOLERANCE = 0.05


def plan_of(config, folder, *assumptions):
    stages = {folder: config}
    if "stages" in config:
        stages = {folder / name: config.stages[name] for name in config.order}
    return [*plan.plan_stages(stages, TASKS, *(assumptions or [plan.Assumptions()]))]


def small_config(**changes):
    config = classifier.get_config("smoke=True,options=width:32,eps=0.5")
    config.update_from_flattened_dict({"batch_size": 16, "data.num_train": 32, **changes})
    return config


class FirstCall(Exception):
    """Ends a training at its first call, with what that was compiled to."""


def really_compiled(config, workdir, monkeypatch):
    """Begins to train, and returns what the first call is compiled to."""
    make_call = loop.make_call

    def recording(*arguments, **options):
        def record(*given):
            raise FirstCall(make_call(*arguments, **options).lower(*given).compile())

        return record

    monkeypatch.setattr(loop, "make_call", recording)
    with pytest.raises(FirstCall) as result:
        main.run(config, workdir)
    return result.value.args[0]


@pytest.fixture(scope="module")
def data_parallel(tmp_path_factory):
    """The plan of a small robust training on eight devices."""
    (result,) = plan_of(small_config(), tmp_path_factory.mktemp("plan") / "run")
    return result


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The same with the parameters split over all devices, and two steps in a call."""
    config = small_config(**{"mesh.fsdp": 8, "steps_per_call": 2})
    (result,) = plan_of(config, tmp_path_factory.mktemp("plan") / "run")
    return result


@pytest.mark.long
def test_plan_is_of_the_step_that_training_compiles(data_parallel, tmp_path, monkeypatch):
    compiled = really_compiled(small_config(), tmp_path, monkeypatch)
    memory = compiled.memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    np.testing.assert_allclose(
        data_parallel["memory_per_device"]["total"], total + memory.temp_size_in_bytes, rtol=TOLERANCE
    )
    np.testing.assert_allclose(
        data_parallel["flops"]["xla_per_device"], compiled.cost_analysis()["flops"], rtol=TOLERANCE
    )
    result = cost.by_kind(cost.collectives(compiled.as_text(), 8))
    assert result == data_parallel["collectives_per_step"]


@pytest.mark.long
def test_flops_include_every_round_of_the_attack_on_any_mesh(data_parallel, sharded):
    """XLA counts the body of a loop once: a step has more operations than eight devices together in its count."""
    assert data_parallel["flops"]["per_step"] > 8 * data_parallel["flops"]["xla_per_device"]
    assert data_parallel["flops"]["per_image"] == sharded["flops"]["per_image"]


@pytest.mark.long
def test_memory_is_that_of_the_state_split_by_fsdp(data_parallel, sharded):
    whole, part = data_parallel["memory_per_device"], sharded["memory_per_device"]
    for name in ("parameters", "optimizer"):
        assert whole[name] / 8 < part[name] < whole[name] / 6  # biases stay whole
    for memory in (whole, part):
        parts = sum(memory[name] for name in ("parameters", "optimizer", "frozen", "batch", "temporary"))
        assert 0 < parts <= memory["total"] * 1.001 + 4096


@pytest.mark.long
def test_data_parallel_reduces_the_gradients_once_and_fsdp_gathers_the_weights(data_parallel, sharded):
    reduced = data_parallel["collectives_per_step"]
    assert set(reduced) == {"all-reduce"}
    parameters = data_parallel["memory_per_device"]["parameters"]
    assert parameters <= reduced["all-reduce"]["bytes"] < 1.01 * parameters
    gathered = sharded["collectives_per_step"]["all-gather"]["bytes"]
    assert 0.9 * parameters < gathered < 1.1 * parameters, "once a step, not at each round of the attack"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("argument", [0, 1])
def test_total_counts_convolutions_as_xla_does_and_padding_too(stride, argument):
    """A convolution and its two gradients; exactly, since there is nothing else."""

    def convolve(x, w, padding="VALID"):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (stride,) * 2, padding, dimension_numbers=numbers)

    x, w = jnp.ones((2, 7, 7, 3)), jnp.ones((3, 3, 3, 4))
    y, pull = jax.vjp(convolve, x, w)
    for function, arguments in ((convolve, (x, w)), (lambda y: pull(y)[argument], (y,))):
        expected = jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]
        assert flops.total(flops.operations(jax.make_jaxpr(function)(*arguments))) == expected
    padded = functools.partial(convolve, padding="SAME")
    expected = jax.jit(padded).lower(x, w).compile().cost_analysis()["flops"]
    assert flops.total(flops.operations(jax.make_jaxpr(padded)(x, w))) > expected


def test_total_counts_every_iteration_of_a_loop():
    def attack(x, w):
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ w), x)

    def unrolled(x, w):
        for _ in range(5):
            x = jnp.tanh(x @ w)
        return x

    arguments = jnp.ones((8, 256)), jnp.ones((256, 256))
    expected = jax.jit(unrolled).lower(*arguments).compile().cost_analysis()["flops"]
    result = flops.operations(jax.make_jaxpr(attack)(*arguments))
    np.testing.assert_allclose(flops.total(result), expected, rtol=0.01)
    (product,) = (operation for operation in result if operation.flops)
    assert product.size == 4 * (2 * 8 * 256 + 256 * 256) and product.rounds == 5


HLO = """HloModule jit_step, num_partitions=16

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %ag = bf16[16,8]{1,0} all-gather(%x), channel_id=1, replica_groups=[4,4]<=[16], dimensions={0}
  %rs = f32[2,8]{1,0} reduce-scatter(%y), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[4,8]) tuple(%i, %z)
}

%condition (p: (s32[], f32[4,8])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p0: f32[4,8]) -> f32[4,8] {
  %ar = (f32[10]{0}, /*index=1*/f32[20]{0}) all-reduce(%g, %h), replica_groups=[2,8]<=[8,2]T(1,0), to_apply=%add
  %start = (f32[5]{0}, f32[20]{0}) all-gather-start(%q), replica_groups={{0,4,8,12}}, dimensions={0}
  %done = f32[20]{0} all-gather-done(%start)
  %cp = f32[6]{0} collective-permute(%q), source_target_pairs={{0,1},{1,0}}
  %alone = f32[9]{0} all-reduce(%q), replica_groups={{0},{1}}, to_apply=%add
  %w = (s32[], f32[4,8]) while(%t0), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%w), index=1
}
"""


def test_collectives_reads_a_program():
    result = cost.collectives(HLO, 16)
    assert result == [
        ("all-reduce", 120, (0, 2, 4, 6, 8, 10, 12, 14), 1),
        ("all-gather", 80, (0, 4, 8, 12), 1),
        ("collective-permute", 24, (0, 1), 1),
        ("all-gather", 256, (0, 1, 2, 3), 7),
        ("reduce-scatter", 128, (0, 1), 7),
    ]
    assert [one.sent for one in result] == [2 * 120 * 7 / 8, 80 * 3 / 4, 24, 256 * 3 / 4, 128 / 2]
    assert cost.by_kind(result)["all-gather"] == {"count": 8, "bytes": 80 + 7 * 256, "bytes_sent": 60 + 7 * 192}


def test_bandwidth_is_that_of_the_links_of_a_group():
    h100, v5e = accelerators.accelerator("h100"), accelerators.accelerator("tpu_v5e")
    assert cost.bandwidth(range(8), h100) == 450e9
    assert cost.bandwidth(range(16), h100) == 8 * 50e9  # all eight of a node share its way out
    assert cost.bandwidth(range(0, 64, 8), h100) == 50e9  # one of each node
    assert cost.bandwidth(range(256), v5e) == 200e9
    assert cost.bandwidth(range(5000), accelerators.accelerator("tpu_v4")) is None


def test_compute_seconds_is_a_roofline():
    h100 = accelerators.accelerator("h100")
    large, small = flops.Operation(10**15, 3000, 2), flops.Operation(1000, 10**9 + 10**6)
    twice = [large._replace(size=5000), small._replace(size=10**9 + 2 * 10**6)]
    seconds = cost.compute_seconds(
        [large, small], twice, num_devices=10, accelerator=h100, dtype="bfloat16", utilization=0.5
    )
    expected = 2 * 10**14 / (0.5 * 989.4e12) + (10**9 + 10**5) / 3350e9  # the second one's weights are read whole
    np.testing.assert_allclose(seconds, expected, rtol=1e-6)
    gradients = cost.Collective("all-reduce", 10**9, tuple(range(8)), 3)
    np.testing.assert_allclose(cost.collective_seconds([gradients], h100), 3 * 2 * 7 / 8 * 1e9 / 450e9)


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("tfds:imagenet2012", "train", (1_281_167, 1000)),
        ("tfds:imagenet2012:5.1.0", "validation", (50_000, 1000)),
        ("tfds:cats_vs_dogs", "train[:80%]", (18_610, 2)),
        ("tfds:cats_vs_dogs", "train[80%:]", (4_652, 2)),
        ("tfds:cifar10", "train[-100:]", (100, 10)),
        ("photos", "train", (10_000, 10)),
        ("blobs", "train", (16 * 64 * 3, 3)),
        ("blobs", "test", (32, 3)),
        ("tfds:cifar10", "train[5]", None),
        ("tfds:mine", "train", None),
        ("folder:/images", "train", None),
    ],
)
def test_published_sizes(name, split, expected):
    info = published(name, split, image_size=32)
    assert (info and (info.num_examples, info.num_classes)) == expected


@pytest.mark.long
def test_plan_stages_needs_no_trained_network(tmp_path, capsys):
    config = inverter.get_config("smoke=True,options=width:4,loss=pixel")
    assumptions = plan.Assumptions(accelerators.accelerator("a100"), 0.2)
    result = plan_of(config, tmp_path, assumptions)
    assert [x["stage"] for x in result] == ["encoder", "inverter"]
    encoder, second = result
    assert second["memory_per_device"]["frozen"] > 0 and encoder["memory_per_device"]["frozen"] == 0
    assert encoder["run"]["steps"] == 2 and encoder["run"]["evaluation_steps"] == 1
    for stage in result:
        seconds = stage["seconds_per_step"]
        assert seconds["total"] == seconds["compute"] + seconds["collectives"] > 0
        assert stage["run"]["hours"] > 2 * seconds["total"] / 3600
    lines = [line for stage in result for line in plan.stage_lines(stage)]
    text = "\n".join([*lines, *plan.summary_lines(result, ["evaluation"])])
    assert "bottleneck" in text and "images/s a core here" in text
    assert "8 x A100 SXM 80 GB" in text and "not planned" in text and "device-hours" in text
    assert not list(tmp_path.iterdir())
    assert json.loads(json.dumps(result)) == result


@pytest.mark.long
def test_plan_stages_compiles_equal_steps_once(tmp_path, monkeypatch):
    """A denoiser too; steps that are the same are compiled once."""
    config = denoising.get_config("smoke=True")
    stages = {tmp_path / name: config.stages[name] for name in config.order}
    events = []

    def recording(stage, trainee, mesh):
        events.append(f"compiled {stage.title}")
        arguments = jax.eval_shape(lambda: trainee.init(jax.random.key(0)))  # it can be built
        assert arguments.variables
        return plan.Step(cost.Memory(*range(6)), [], [], 0.0, [], 0.0)

    monkeypatch.setattr(plan, "compile_step", recording)
    monkeypatch.setattr(input_rate, "_SECONDS", 0.01)
    plans = []
    for planned in plan.plan_stages(stages, TASKS, plan.Assumptions()):
        plans.append(planned)
        events.append(planned["stage"])
    assert [planned["task"] for planned in plans] == ["classifier"] * 2 + ["denoiser"] * 2
    assert events == [
        "compiled standard encoder", "standard_encoder", "compiled robust encoder", "robust_encoder",
        "compiled standard denoiser", "standard_denoiser", "robust_denoiser",
    ]  # fmt: skip
    assert plans[3]["memory_per_device"] == plans[2]["memory_per_device"]


def test_bottleneck_is_the_slowest_part():
    """AlexNet on eight H100s takes more images than a few cores decode."""
    config = alexnet_imagenet.get_config("")
    rate = input_rate.InputRate("stream", "JPEG", per_core=250.0, per_process=1000.0, workers=4, cores=16)
    seconds = {"compute": 0.004, "collectives": 0.001, "total": 0.005}
    result = input_rate.limits(rate, num_processes=2, batch_size=config.batch_size, seconds=seconds)
    assert result["images_per_second"] == 2000 and result["seconds"] == 256 / 2000
    assert result["cores_needed"] == pytest.approx(256 / 0.005 / 250)
    assert plan._with_input(seconds, 256 / 2000)[1] == "input"
    assert plan._with_input(seconds, 256 / 2000)[0]["step"] == 256 / 2000
    assert plan._with_input(seconds, 0.001)[1] == "compute" and plan._with_input(seconds, 0.001)[0]["step"] == 0.005
    assert plan._with_input({**seconds, "compute": 0.0005}, 0.001)[1] == "collectives"
    assert plan._with_input(None, 0.001) == (None, None)


@pytest.mark.parametrize(("arg", "num_examples", "path"), [("", 1_281_167, "stream"), ("image_size=32", 100, "memory")])
@pytest.mark.long
def test_measure_uses_the_path_of_training(arg, num_examples, path):
    result = input_rate.measure(alexnet_imagenet.get_config(arg), num_examples, seconds=0.05)
    assert result.path == path and result.per_core > 0 and result.per_process > 0
    config = alexnet_imagenet.get_config(arg)
    config.data.num_workers = 3
    workers = input_rate.measure(config, num_examples, seconds=0.05)
    assert workers.workers == (3 if path == "stream" else 0)
    if path == "stream":
        assert workers.per_process == pytest.approx(3 * workers.per_core)


def test_measure_counts_features_of_the_host():
    config, images = alexnet_imagenet.get_config("image_size=32"), []

    def host_features(images_u8):
        images.append(images_u8)
        return {"features": np.zeros(len(images_u8))}

    slow = input_rate.measure(config, 100, host_features=host_features, seconds=0.05)
    assert slow.per_process > 0 and len(images) > 2
    assert len({image.tobytes() for image in images[:3]}) == 3 and all(image.std() > 0 for image in images[:3])


def test_train_info_notes_what_is_unknown(tmp_path):
    config = small_config(**{"data.name": "folder:/nowhere", "data.num_train": 0, "num_steps": 0})
    info = training.published_info(config)
    notes = plan._data_notes(config, info)
    assert info.num_examples == 0 and any("set num_train" in note for note in notes)
    assert any("classes" in note for note in notes) and info.num_classes > 1
    config.data.num_train = 100
    assert plan._steps_per_epoch(config, training.published_info(config)) == 6
    config = classifier.get_config("dataset=imagenet2012,encoder=alexnet,classes=151-293")
    assert training.published_info(config).num_classes == 143
    assert (
        plan._steps_per_epoch(alexnet_imagenet.get_config(""), training.published_info(config))
        == 1_281_167 * 143 // 256_000
    )


@pytest.mark.long
def test_command_writes_a_plan_and_the_workdir_stays_usable(tmp_path):
    config = f"--config={ROOT}/configs/classifier.py:smoke=True,options=width:4,image_size=16"
    options = ["--config.batch_size=16", "--plan", "--devices=16", "--accelerator=tpu_v5e", f"--workdir={tmp_path}"]
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "arinv", config, *options],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "16 x TPU v5e" in done.stdout and "images/s" in done.stdout
    (result,) = json.loads((tmp_path / "plan.json").read_text())
    assert result["devices"] == 16 and result["mesh"] == {"data": 16, "fsdp": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    workdirs.check(classifier.get_config("smoke=True"), tmp_path)


def test_plan_reports_mistakes(tmp_path):
    with pytest.raises(UserError, match="unknown accelerator 'h1000'; known: .*Did you mean 'h100'"):
        next(main.plan(small_config(), None, accelerator="h1000"))
    with pytest.raises(UserError, match="batch_size 12"):
        next(main.plan(small_config(batch_size=12), None))
    with pytest.raises(UserError, match="no checkpoint in"):
        next(main.plan(inverter.get_config(f"smoke=True,encoder_checkpoint={tmp_path}/none"), None))


def test_name_of_matches_names_of_devices():
    for device, name in {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H200": "h200",
        "NVIDIA B200": "b200",
        "NVIDIA A100-SXM4-80GB": "a100",
        "TPU v4": "tpu_v4",
        "TPU v5 lite": "tpu_v5e",
        "TPU v5": "tpu_v5p",
        "TPU v6 lite": "tpu_v6e",
        "NVIDIA L4": None,
        "cpu": None,
    }.items():
        assert accelerators.name_of(device) == name
    assert all(a.peak("bfloat16") >= a.peak("float32") for a in accelerators.ACCELERATORS.values())
    assert math.isclose(accelerators.accelerator("tpu_v4").memory, 32 * 2**30)


def test_plan_of_a_dataset_of_unknown_size_accepts_every_schedule(tmp_path):
    arguments = f"dataset=folder:{tmp_path},encoder=alexnet_small,options=width:2,image_size=16"
    config = classifier.get_config(arguments)
    config.optimizer.schedule.update(name="step", every_epochs=0.5, factor=0.1)
    config.num_steps = 5
    assert any("the size of folder" in line for line in main.plan(config, None))


@pytest.mark.parametrize("changes", [{"mesh.fsdp": 8, "mesh.data": 1}, {"watch.action": "switch"}])
def test_plan_compiles_steps_that_differ_by_mesh_or_watch(changes):
    """Two such stages of one experiment have plans of their own."""
    stage, other = small_config(), small_config(**changes)
    setup = training.TrainSetup({}, {}, None, None, None, {})
    assert plan._step_key(stage, setup) != plan._step_key(other, setup)


def test_plan_of_features_from_the_host_has_them_in_the_batch(tmp_path):
    config = inverter.get_config("smoke=True,encoder=sift_skimage,image_size=64,loss=euclidean")
    stage = config.stages.inverter
    run = Run(stage, tmp_path, tasks=TASKS)
    info = training.published_info(stage)
    setup = run.task.module.build(run, run.task.plan_frozen(run), info, 4)
    _, batch, *_ = plan._arguments(stage, setup, run.mesh)
    rows = stage.batch_size
    assert {"features", "places", "keypoints"} <= set(batch)
    assert batch["features"].shape[0] == rows and batch["keypoints"].shape == (rows,)
    step = loop.make_call(setup.step_on(run.mesh), plan._arguments(stage, setup, run.mesh)[0], run.mesh)
    assert "callback" not in step.lower(*plan._arguments(stage, setup, run.mesh)).as_text()
