"""Two processes with four devices each, over loopback, against one process with eight devices and with one.

One run is started in two processes, stopped by SIGTERM on one of them, resumed in one process, stopped again in the
middle of an epoch, and resumed in two processes to its end. kill_matrix.py covers more cases.
"""

import json
import signal
import subprocess

import jax
import numpy as np
import pytest
import short_run
from disturbed_runs import END_SECONDS, Run, arrays_of, last_step, log_of, saved_step, stopping_behind

from arinv import main
from arinv.experiment import loading
from configs import inverter
from launch.local_processes import ROOT

STEPS, EPOCH = 14, 6
CONFIG = f"num_steps={STEPS}"
# The order of sums over a batch depends on the number of devices; 14 steps amplify that little.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """The undisturbed run on one device."""
    workdir = tmp_path_factory.mktemp("one_device")
    Run(workdir, CONFIG, 1, 1).end()
    return workdir


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    """The undisturbed run on the eight devices of this process."""
    workdir = tmp_path_factory.mktemp("eight_devices")
    main.run(short_run.get_config(CONFIG), workdir)
    return workdir


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """The run in two processes, in one, and in two again."""
    workdir = tmp_path_factory.mktemp("disturbed")
    run = Run(workdir, CONFIG, 2, 4)
    run.wait_until(lambda: last_step(workdir) >= 2)
    run.all[1].send_signal(signal.SIGTERM)
    first = {"codes": run.wait(END_SECONDS), "said": [run.said(i) for i in range(2)]}
    first |= {"step": last_step(workdir), "saved": saved_step(workdir)}

    middle = EPOCH + 3
    with pytest.raises(SystemExit) as stop, stopping_behind(middle):
        main.run(short_run.get_config(CONFIG), workdir)
    assert stop.value.code == 143 and saved_step(workdir) == middle

    run = Run(workdir, CONFIG, 2, 4)
    return workdir, first, {"codes": run.wait(END_SECONDS), "said": [run.said(i) for i in range(2)]}


def test_sigterm_on_one_process_saves_on_all(disturbed):
    _, first, _ = disturbed
    assert first["codes"] == [143, 143], first["said"]
    step = first["step"]
    assert 2 <= step < EPOCH + 3, "too late for what follows"
    assert first["saved"] == step, "nothing may be lost"
    assert any(f"stopped by SIGTERM at step {step}, saved" in line for line in first["said"][0])


def test_process_0_alone_prints(disturbed):
    _, first, last = disturbed
    assert last["codes"] == [0, 0], last["said"]
    assert any("evaluation" in line for line in last["said"][0])
    assert first["said"][1] == last["said"][1] == []


def read(workdir):
    weights = loading.load(workdir / "encoder", kind="classifier").variables
    return log_of(workdir), weights, arrays_of(workdir)


@pytest.mark.parametrize("other", ["one_device", "eight_devices"])
def test_two_processes_equal_one(disturbed, other, request):
    """Losses of every step, weights, and every number of every test image; no step and no example twice or never."""
    mine, theirs = (read(workdir) for workdir in (disturbed[0], request.getfixturevalue(other)))
    assert [line["step"] for line in mine[0]] == [line["step"] for line in theirs[0]] == [*range(1, STEPS + 1), STEPS]
    for a, b in zip(mine[0], theirs[0], strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([a[name] for name in b], list(b.values()), rtol=TOLERANCE)
    for a, b in zip(jax.tree.leaves(mine[1]), jax.tree.leaves(theirs[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)
    assert mine[2].keys() == theirs[2].keys() == {"clean_accuracy", "cross_entropy", "pgd_accuracy"}
    for name, values in theirs[2].items():
        assert values.shape == (20,)
        np.testing.assert_allclose(mine[2][name], values, rtol=TOLERANCE, atol=TOLERANCE)


def test_results_count_all_devices(disturbed):
    results = json.loads((disturbed[0] / "evaluation" / "results.json").read_text())
    assert results["setting"]["device"].startswith("8 x cpu") and results["num_images"] == 20


def test_an_encoder_is_trained_on_in_two_processes(untrained, tmp_path):
    """Weights of an earlier run, and the same weights beside them, with which features are compared."""
    arguments = (
        f"smoke=True,image_size=16,train_encoder=True,loss=feature,encoder_checkpoint={untrained}/robust_encoder"
    )
    config = f"--config={ROOT}/configs/inverter.py:{arguments}"
    both = [ROOT / "launch" / "local", "-n", "2", "--devices", "4", config, f"--workdir={tmp_path / 'two'}"]
    done = subprocess.run(both, capture_output=True, text=True, timeout=END_SECONDS)
    assert done.returncode == 0, done.stdout
    main.run(inverter.get_config(arguments), tmp_path / "one")
    mine, theirs = (loading.load(tmp_path / name / "inverter").parent.variables for name in ("two", "one"))
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)
