"""The benchmarks build and count rightly, and the accelerator script chooses, stops and records rightly."""

import importlib
import json
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import command_line
from arinv.train.accelerators import peak_flops
from arinv.train.flops import count_flops
from configs import cifar10
from launch.benchmarks import NAMES, accelerator, batches, conv_rewrites, devices, measurement, pgd, runs
from launch.benchmarks import __main__ as benchmarks
from launch.benchmarks.__main__ import differences, report
from launch.benchmarks.devices import ROOT

CONV_NUMBERS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize(
    ("name", "multiplications", "first"),
    [("resnet18", 555_422_720, 32 * 32 * 27 * 64), ("alexnet", 714_188_480, 55 * 55 * 363 * 64)],
)
def test_pgd_step_does_the_work_that_is_documented(name, multiplications, first):
    """8 forwards, 7 image gradients, 1 training step, without the gradient of the images at its end."""
    step, init = pgd.make_step(name, "float32")
    state, case = jax.eval_shape(init, jax.random.key(0)), pgd.CASES[name]
    batch = batches.random_batch(2, case.size, case.num_classes)
    flops = count_flops(step, state, batch, jax.random.key(0))
    forward, first = 2 * 2 * multiplications, 2 * 2 * first
    assert flops == forward * (8 + 7 + 3) - first


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("argument", [0, 1])
def test_gradients_of_a_convolution_count_as_much_as_itself(stride, argument):
    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (stride,) * 2, "VALID", dimension_numbers=CONV_NUMBERS)

    x, w = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 4))
    forward = count_flops(convolve, x, w)
    assert forward == 2 * 2 * (7 if stride == 1 else 4) ** 2 * 9 * 3 * 4
    gradient = count_flops(jax.grad(lambda *a: jnp.sum(convolve(*a)), argument), x, w)
    assert gradient == forward


def test_loops_count_each_round_and_dead_code_nothing():
    def function(x):
        dead = x @ x @ x
        del dead
        return jax.lax.fori_loop(0, 5, lambda _, y: y @ y, x)

    assert count_flops(function, jnp.ones((4, 4))) == 5 * 2 * 4**3


def test_alternatives_count_as_the_cheapest():
    def function(x, is_rare):
        return jax.lax.cond(is_rare, lambda y: y @ y @ y, lambda y: y @ y, x)

    assert count_flops(function, jnp.ones((4, 4)), True) == 2 * 4**3


@pytest.mark.parametrize("name", NAMES)
def test_benchmarks_load_without_pytorch(name):
    benchmark = measurement.load(name)
    first = next(iter(benchmark.variants))
    assert benchmark.cases and first not in benchmark.optional


@pytest.mark.parametrize("case", ["avg_pool2/image_gradient_in_loop", "max_pool2/image_gradient"])
def test_rewritten_and_plain_cases_run(case):
    from arinv.ops import conv

    try:
        for rewritten in (True, False):
            prepared = conv_rewrites.prepare(case, measurement.Options(batch=1), rewritten=rewritten)
            prepared.run(2)
            assert prepared.facts["compile_seconds"] > 0
    finally:
        conv.set_rewrites(None)


def test_ratio_is_taken_round_by_round():
    found = {"ours": {"seconds": [1.0, 2.0, 4.0]}, "other": {"seconds": [2.0, 6.0, 4.0]}, "lost": {"error": "x"}}
    assert measurement.ratios(found) == {"other": {"median": 2.0, "min": 1.0, "max": 3.0}}


def test_report_names_other_work_and_failures():
    facts = {"seconds": [1.0], "images": 4, "compile_seconds": 1.0, "device": "cpu", "versions": {}}
    ours = measurement._with_rates({**facts, "parameters": {"a": 5}, "flops": 1000})
    other = measurement._with_rates({**facts, "parameters": {"a": 5}, "flops": 1010})
    assert differences({"ours": ours, "other": other}) == []
    assert len(differences({"ours": ours, "other": {**other, "flops": 1100, "parameters": {"a": 4}}})) == 2
    variants = {"ours": ours, "other": {"error": "Traceback\nValueError: no"}}
    lines, problems = report("name", {"name": {"variants": variants, "ratios": {}}}, "float32")
    assert problems == ["name: other failed: ValueError: no"]
    assert "4 (4 to 4) images/s" in lines[1]


def test_growth_is_measured_in_batches_and_sizes(monkeypatch):
    seen = []

    def measure(name, variants, options, *, cases, **_):
        seen.append((options.batch, options.size))
        images = options.batch or 4
        facts = {"seconds": [0.1 * images], "images": images, "compile_seconds": 1.0, "peak_bytes": images << 30}
        return {cases[0]: {"variants": {"arinv": measurement._with_rates(facts)}, "ratios": {}}}

    monkeypatch.setattr(measurement, "measure", measure)
    growth = measurement.measure_growth("ri", ("arinv",), measurement.Options(), repeats=1)
    assert seen == [(1, 0), (4, 0), (16, 0), (0, 128), (0, 224), (0, 320)]
    lines = benchmarks.report_growth("ri", growth)
    assert lines[0].split("  ")[1:] and lines[0].endswith("100 ms an image, 1 at once, peak 1.00 GiB")
    assert "ri, size 320 px, arinv" in lines[-1]
    assert measurement.measure_growth("input", ("arinv",), measurement.Options(), repeats=1) == {}


def test_peak_memory_is_that_of_the_work():
    devices.reset_peak()
    before = devices.peak_bytes()
    array = np.ones(64 << 20, np.uint8)
    assert devices.peak_bytes() - before > 60 << 20
    del array
    devices.reset_peak()
    assert devices.peak_bytes() < before + (32 << 20)


def test_peaks_are_of_the_device_and_dtype():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989.4e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 156e12
    assert peak_flops("NVIDIA L40S", "bfloat16") == 362e12
    assert peak_flops("Tesla V100-SXM2-16GB", "bfloat16") is None
    assert peak_flops("a CPU", "float32") is None


def fake_run(name, minutes, code):
    return runs.Run(name, minutes, "", lambda c: [c.python, "-c", code], lambda c: {"minutes_given": c.minutes})


def make(tmp_path, fakes, *, minutes=10.0, clock=None):
    lines = []

    def context(left):
        return runs.Context(sys.executable, tmp_path / "scratch", tmp_path / "out", left, "", False, lambda name: None)

    options = {"clock": clock} if clock else {}
    bad = accelerator.make_runs(
        fakes, context, minutes=minutes, folders=[tmp_path / "out"], environment={}, report=lines.append, **options
    )
    return bad, lines


def test_runs_go_shortest_first_and_not_again(tmp_path):
    fakes = [fake_run("long", 2, ""), fake_run("short", 1, "print('x')")]
    assert make(tmp_path, fakes) == ([], [
        "short: started, 10.0 minutes are left", "short: done", "long: started, 10.0 minutes are left", "long: done",
    ])  # fmt: skip
    record = json.loads((tmp_path / "out/short.json").read_text())
    assert record["run"] == "short" and record["command"][0] == "python" and record["minutes_given"] > 9
    assert make(tmp_path, fakes) == ([], ["short: has a record", "long: has a record"])


def test_a_run_that_does_not_fit_is_skipped(tmp_path):
    bad, lines = make(tmp_path, [fake_run("long", 30, ""), fake_run("short", 1, "")])
    assert bad == [] and "long: skipped, needs about 30 minutes and 10.0 are left" in lines
    assert not (tmp_path / "out/long.json").exists()


def test_failed_run_is_reported_and_the_others_are_made(tmp_path):
    fakes = [fake_run("broken", 1, "raise KeyError('lost')"), fake_run("good", 2, "")]
    bad, _ = make(tmp_path, fakes)
    assert bad == ["broken"]
    failed = json.loads((tmp_path / "out/broken.failed.json").read_text())
    assert failed["state"] == "failed" and failed["last_lines"][-1] == "KeyError: 'lost'"
    assert (tmp_path / "out/good.json").exists() and not (tmp_path / "out/broken.json").exists()
    bad, _ = make(tmp_path, [fake_run("broken", 1, "")])
    assert bad == [] and not (tmp_path / "out/broken.failed.json").exists()


def test_a_run_ended_by_the_limit_is_reported_and_keeps_its_results(tmp_path):
    code = "import time; print('begun', flush=True); time.sleep(60)"
    bad, lines = make(tmp_path, [fake_run("endless", 0.0, code)], minutes=2 / 60)
    assert bad == ["endless"] and "ended by the time limit" in lines[-1]
    failed = json.loads((tmp_path / "out/endless.failed.json").read_text())
    assert failed["state"] == "cut" and failed["last_lines"] == ["begun"] and "minutes_given" in failed


def test_only_missing_wheels_are_installed(tmp_path):
    wheels, target = tmp_path / "wheels", tmp_path / "target"
    wheels.mkdir()
    for name in ("surely_missing", "numpy"):
        with zipfile.ZipFile(wheels / f"{name}-9.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "")
            information = f"{name}-9.0.dist-info"
            wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n")
            wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{information}/RECORD", "")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this environment was made without pip")
    accelerator.install(wheels, target, sys.executable)
    assert (target / "surely_missing.py").exists() and not (target / "numpy.py").exists()


def test_cifar10_fills_the_time_and_resumes_as_planned(tmp_path):
    assert 1 <= runs.cifar10_epochs(20, 4000) < runs.cifar10_epochs(40, 4000) < runs.cifar10_epochs(40, 16000)
    assert runs.cifar10_epochs(1e6, 4000) == 150
    speed = {"benchmarks": {"pgd": {"resnet18": {"variants": {"arinv": {
        "images_per_second": {"median": 16000.0}}}}}}}  # fmt: skip
    context = runs.Context("python", tmp_path, tmp_path, 40.0, "/data", False, lambda name: speed)
    (run,) = (run for run in runs.RUNS if run.name == "cifar10_resnet18")
    command = run.command(context)
    config = next(part for part in command if part.startswith("--config=configs"))
    assert f"--config.stages.*_encoder.num_epochs={runs.cifar10_epochs(40, 16000)}" in command
    later = runs.Context("python", tmp_path, tmp_path, 5.0, "/data", False, lambda name: None)
    assert run.command(later) == command

    path, _, arguments = config.removeprefix("--config=").partition(":")
    assert (ROOT / path).exists()
    fields = cifar10.get_config(arguments)
    for part in command:
        if part.startswith("--config."):
            name, value = part.removeprefix("--config.").split("=")
            command_line.override(fields, name, value)
            assert float(value) > 0
    epochs = {name: stage.num_epochs for name, stage in fields.stages.items() if "num_epochs" in stage}
    assert epochs["robust_encoder"] == 150.0 and epochs["standard_gan_inverter"] == 90.0
    assert fields.stages.robust_gan_inverter.optimizer.discriminator.schedule.every_epochs == 30.0


@pytest.mark.parametrize("run", runs.RUNS, ids=lambda run: run.name)
def test_accelerator_tries_a_run_in_its_smallest_size(run, tmp_path):
    context = runs.Context("python", tmp_path, tmp_path, 5.0, "", True, lambda name: None, tiny=True)
    command = run.command(context)
    if "launch.benchmarks" in command:
        arguments = benchmarks._arguments(command[3:])
        assert (arguments.batch, arguments.repeats, arguments.tiny) == (2, 1, True)
    else:
        config = next(part.removeprefix("--config=") for part in command if part.startswith("--config="))
        path, _, options = config.partition(":")
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        stages = module.get_config(options).stages.values()
        assert {stage.num_steps for stage in stages if "num_steps" in stage} == {2}


def test_counting_leaves_what_is_compiled_after_it_as_it_is():
    from arinv.ops import conv

    def attack(x, w):
        def objective(x):
            return jnp.sum(conv.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=CONV_NUMBERS))

        return jax.lax.fori_loop(0, 3, lambda _, x: x + jax.grad(objective)(x), x)

    arguments = jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 2))
    expected = str(jax.make_jaxpr(attack)(*arguments))
    count_flops(attack, *arguments)
    assert str(jax.make_jaxpr(attack)(*arguments)) == expected
