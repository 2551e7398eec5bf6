"""Runs that are killed and started again end in the same results and log; SIGTERM saves first."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import quick_compilation
from disturbed_runs import stopping_behind

import arinv
from arinv import main
from arinv.experiment import run
from arinv.train import training
from configs import classifier

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"--config={ROOT}/configs/classifier.py:smoke=True,options=width:4,eps=0.5"


GROWING = "gan.py:smoke=True,image_size=8,options=base_width:8+max_width:4,latent_size=4"


def start(workdir, num_steps=40, *, config="", fields="config", flags=()):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": quick_compilation.FLAGS}
    values = {"num_steps": num_steps, "log.checkpoint_every_steps": 4, "log.every_steps": 4}
    options = [f"--{fields}.{name}={value}" for name, value in values.items()]
    config = f"--config={ROOT}/configs/{config}" if config else CONFIG
    return subprocess.Popen(
        [sys.executable, "-m", "arinv", config, f"--workdir={workdir}", *options, *flags],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def last_step(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def wait_for_step(process, workdir, step):
    deadline = time.monotonic() + 120
    while last_step(workdir) < step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    process = start(workdir)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return workdir


def metrics(workdir):
    """The lines of the log but for the speed, which is another each time."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("speed/")} for line in lines]


def assert_same(workdir, uninterrupted):
    assert (workdir / "results.json").read_bytes() == (uninterrupted / "results.json").read_bytes()
    assert metrics(workdir) == metrics(uninterrupted)


def test_killed_run_resumes_to_the_same_bytes(tmp_path, uninterrupted):
    for step in (4, 16, 28):
        process = start(tmp_path)
        wait_for_step(process, tmp_path, step)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = start(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "classifier: evaluation: " in output  # its progress
    assert_same(tmp_path, uninterrupted)


def test_sigterm_saves_and_exits_with_143(tmp_path, uninterrupted):
    process = start(tmp_path)
    wait_for_step(process, tmp_path, 8)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "saved; start again" in output
    process = start(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert_same(tmp_path, uninterrupted)


def test_stops_between_lines_of_the_log_change_no_line(tmp_path):
    """A line covers all steps since the one before, those before a stop as well."""
    config = classifier.get_config("smoke=True,options=width:4,eps=0.5")
    config.num_steps, config.log.every_steps, config.log.checkpoint_every_steps = 20, 6, 9
    main.run(config, tmp_path / "uninterrupted")
    for step in (2, 4, 5, 10, 17):  # twice in one line, and on both sides of a checkpoint
        with pytest.raises(SystemExit) as stop, stopping_behind(step):
            main.run(config, tmp_path / "stopped")
        assert stop.value.code == 143
    main.run(config, tmp_path / "stopped")
    assert_same(tmp_path / "stopped", tmp_path / "uninterrupted")


def test_stops_at_evaluations_change_no_line(tmp_path, monkeypatch):
    """The state is saved before an evaluation, which a run that was stopped or killed meanwhile repeats."""
    config = classifier.get_config("smoke=True,options=width:4,eps=0.5")
    config.num_steps, config.log.every_steps, config.log.checkpoint_every_steps = 12, 5, 100
    config.log.evaluate_every_epochs = 4 / (config.data.num_train // config.batch_size)
    main.run(config, tmp_path / "uninterrupted")
    evaluated = [line["step"] for line in metrics(tmp_path / "uninterrupted") if "test/loss" in line]
    assert evaluated == [4, 8, 12]
    with pytest.raises(SystemExit), stopping_behind(4):  # before the evaluation that is due
        main.run(config, tmp_path / "stopped")
    assert not any("test/loss" in line for line in metrics(tmp_path / "stopped"))
    evaluate_batches, killed = training.evaluate_batches, []

    def cut(*args, **options):
        """Stands for a kill in the middle of an evaluation."""
        killed.append(args)
        if len(killed) == 2:
            raise KeyboardInterrupt
        return evaluate_batches(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "evaluate_batches", cut)
        main.run(config, tmp_path / "stopped")
    for _ in range(2):  # after the last evaluation
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(run.Run, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            main.run(config, tmp_path / "stopped")
    main.run(config, tmp_path / "stopped")
    assert_same(tmp_path / "stopped", tmp_path / "uninterrupted")


def test_growing_gan_that_is_killed_in_its_fade_resumes_to_the_same_bytes(tmp_path):
    """The weights of all networks, and the log."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = {"config": GROWING, "fields": "config.stages.*", "flags": ["--config.order=('size4','size8_fade')"]}
    process = start(cut, **options)
    wait_for_step(process, cut / "size8_fade", 8)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (cut / "size8_fade" / "results.json").exists()
    for workdir in (cut, whole):
        process = start(workdir, **options)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    for stage in ("size4", "size8_fade"):
        assert_same(cut / stage, whole / stage)
        assert arinv.load(cut / stage).fingerprint == arinv.load(whole / stage).fingerprint
