"""Failures of the directory of a run: damaged checkpoints, a full disk, deletion, a second run."""

import contextlib
import json
import logging
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from arinv import distributed, parallel
from arinv.errors import UserError
from arinv.experiment import checkpoint, lock, workdirs
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.output_files import write_atomically
from arinv.experiment.state import TrainState
from arinv.experiment.writer import Writer

ROOT = pathlib.Path(__file__).parents[2]


def make_state(step, size=1000):
    """A network of random numbers, which do not compress."""
    values = np.random.default_rng(step).random(size).astype(np.float32)
    place = parallel.replicated(parallel.make_mesh())
    state = TrainState(np.int32(step), {"net": {"params": {"a": values}}}, {"net": {"b": values[:10]}})
    return jax.device_put(state, place)


def save(directory, *steps):
    with Checkpoints(directory, ["net"]) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), data_state={"step": step}, description={"kind": "test"}, wait=True)


def restore(directory):
    state = make_state(0)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    with Checkpoints(directory, ["net"]) as checkpoints:
        restored, data_state, _ = checkpoints.restore(jax.eval_shape(lambda: state), shardings)
        checkpoints.save(make_state(9), data_state={"step": 9}, description={"kind": "test"}, wait=True)
        return int(restored.step), data_state


def damage(path):
    for file in path.rglob("*"):
        if file.is_file() and file.stat().st_size > 4:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    save(directory, 5, 9)
    return directory


@pytest.fixture
def saved(two_saved, tmp_path):
    """A copy of a directory with the checkpoints of steps 5 and 9."""
    subprocess.run(["cp", "-r", two_saved / "checkpoints", tmp_path], check=True)
    distributed._reported.clear()
    return tmp_path


@pytest.mark.parametrize("item", ["net", "optimizers", "data", ""])
def test_training_resumes_before_a_damaged_checkpoint(saved, item, capsys):
    damage(saved / "checkpoints" / "9" / item)
    assert restore(saved) == (5, {"step": 5})
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{saved}/checkpoints/9 cannot be read" in said and "using step 5 instead" in said
    # The damaged one is kept under another name, and does not keep its step from being saved again.
    names = {path.name for path in (saved / "checkpoints").iterdir()}
    assert names == {"5", "9", "9.damaged"}
    assert restore(saved)[0] == 9


def test_empty_checkpoint_counts_as_damaged(saved):
    subprocess.run(["rm", "-r", saved / "checkpoints" / "9"], check=True)
    (saved / "checkpoints" / "9").mkdir()
    assert restore(saved)[0] == 5


def test_evaluation_loads_the_checkpoint_before_a_damaged_one(saved, capsys):
    damage(saved / "checkpoints" / "9" / "net")
    abstract = {"net": {"params": {"a": jax.ShapeDtypeStruct((1000,), np.float32)}}}
    for _ in range(2):
        loaded = checkpoint.load_variables(saved, abstract)
    np.testing.assert_array_equal(loaded["net"]["params"]["a"], make_state(5).variables["net"]["params"]["a"])
    assert checkpoint.load_description(saved) == {"kind": "test"}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "using step 5 instead" in said
    assert (saved / "checkpoints" / "9").is_dir()


def test_error_names_newest_checkpoint_when_none_is_readable(saved):
    damage(saved / "checkpoints")
    with pytest.raises(UserError, match=r"checkpoints/9 cannot be read .*no earlier one can be read: delete") as error:
        restore(saved)
    assert "\n" not in str(error.value)


@contextlib.contextmanager
def small_disk(num_bytes):
    """Files can grow no further than that: what the kernel says of it is as unwelcome as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_is_one_line_and_keeps_saved_checkpoints(saved):
    with pytest.raises(UserError, match=r"cannot be written .*last good checkpoint is step 9; files saved") as error:
        with Checkpoints(saved, ["net"]) as checkpoints, small_disk(5000):
            checkpoints.save(make_state(12, 10_000), data_state={}, description={}, wait=True)
    assert "\n" not in str(error.value)
    assert restore(saved) == (9, {"step": 9})


def test_full_disk_of_a_background_save_is_reported_at_the_end(saved):
    with pytest.raises(UserError, match="cannot be written"):
        with small_disk(5000), Checkpoints(saved, ["net"]) as checkpoints:
            checkpoints.save(make_state(12, 10_000), data_state={}, description={})
    assert restore(saved)[0] == 9


def test_arrays_that_end_after_a_failed_save_print_nothing(saved, monkeypatch, caplog):
    hooked = []
    monkeypatch.setattr(sys, "unraisablehook", hooked.append)
    events = [types.SimpleNamespace(exc_value=RuntimeError(text)) for text in ("Event loop is closed", "another")]
    path = saved / "checkpoints" / "12.orbax-checkpoint-tmp"
    with contextlib.suppress(UserError), Checkpoints(saved, ["net"]) as checkpoints:
        with small_disk(5000):
            checkpoints.save(make_state(12, 10_000), data_state={}, description={}, wait=True)
    for event in events:  # of an array that is written after the first has failed
        sys.unraisablehook(event)
    assert hooked == events[1:]
    caplog.clear()
    for text in (f"Future exception was never retrieved\nfuture: ValueError('{path}')", "Future was never retrieved"):
        logging.getLogger("asyncio").error(text)
    assert caplog.messages == ["Future was never retrieved"]


def test_full_disk_keeps_the_old_file(tmp_path):
    write_atomically(tmp_path / "results.json", b"old")
    with pytest.raises(OSError), small_disk(1000):
        write_atomically(tmp_path / "results.json", bytes(2000))
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_bytes() == b"old"


def test_full_disk_of_the_log_is_one_line_and_resumes(tmp_path):
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be written: .*files saved earlier are complete"):
        with Writer(tmp_path) as writer:
            writer.scalars(1, {"loss": 1.0})
            with small_disk((tmp_path / "metrics.jsonl").stat().st_size + 7):
                writer.scalars(2, {"loss": 2.0})
    with Writer(tmp_path, resumed_step=1) as writer:
        writer.scalars(2, {"loss": 3.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 3.0)]


def test_deleted_workdir_is_one_line(tmp_path):
    config = ConfigDict({"task": "classifier"})
    run = tmp_path / "run"
    workdirs.write_config(config, run)
    with Writer(run) as writer, Checkpoints(run, ["net"]) as checkpoints:
        run.rename(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=r"run/metrics.jsonl has vanished"):
            writer.scalars(1, {"loss": 1.0})
        with pytest.raises(UserError, match=r"run/checkpoints has vanished"):
            checkpoints.save(make_state(1), data_state={}, description={})
        with pytest.raises(UserError, match=r"run has vanished"):
            workdirs.write_results(run, {})
    assert not run.exists()


def test_workdir_that_cannot_be_created_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="workdir .*file/run cannot be written: Not a directory"):
        with lock.hold(tmp_path / "file" / "run"):
            pass


def test_workdir_rejects_a_second_run_until_the_first_ends(tmp_path):
    with lock.hold(tmp_path / "run"):
        with pytest.raises(
            UserError, match=r"run is in use by another run: process \d+ on .*started.*another --workdir"
        ):
            with lock.hold(tmp_path / "run"):
                pass
    with lock.hold(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists(), "a run that wrote nothing leaves nothing"


HOLD = """
import pathlib, sys
from arinv.experiment import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_killed_run_releases_its_workdir(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        with lock.hold(tmp_path):
            pass
    process.kill()
    process.communicate()
    assert (tmp_path / ".lock").exists()
    with lock.hold(tmp_path):
        pass


@pytest.fixture
def from_elsewhere(tmp_path, monkeypatch):
    """The lock of a run on another machine, of whose kernel lock we learn nothing."""
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.6)
    about = {"host": "other", "pid": 7, "boot": "another", "started": "yesterday", "token": "x", "beats": 3}
    (tmp_path / ".lock").write_text(json.dumps(about))
    return about


def test_stale_lock_of_another_machine_is_replaced(from_elsewhere, tmp_path, capsys):
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["host"] != "other"
    assert "was locked by process 7 on other" in capsys.readouterr().err


def test_lock_that_is_released_during_the_wait_is_taken_again(from_elsewhere, tmp_path):
    def release():
        (tmp_path / ".lock").unlink()
        tmp_path.rmdir()  # as a run does that has written nothing

    timer = threading.Timer(0.1, release)
    timer.start()
    with lock.hold(tmp_path):
        timer.join()
        assert json.loads((tmp_path / ".lock").read_text())["host"] != "other"


def test_live_lock_of_another_machine_is_respected(from_elsewhere, tmp_path):
    dead = threading.Event()

    def beat():
        beats = 4
        while not dead.wait(0.02):
            (tmp_path / "next").write_text(json.dumps({**from_elsewhere, "beats": beats}))
            (tmp_path / "next").replace(tmp_path / ".lock")
            beats += 1

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 7 on other"):
            with lock.hold(tmp_path):
                pass
    finally:
        dead.set()
        thread.join()


def test_sigterm_after_the_last_step_stops_the_run():
    with pytest.raises(SystemExit) as stop, distributed.preemption_guard(0) as has_to_stop:
        assert not has_to_stop(1)
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
