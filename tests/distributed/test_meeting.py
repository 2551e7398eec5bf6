"""Detection and rendezvous of processes, messages between them, common stops and lost processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent import futures

import pytest
from jax._src import clusters

from arinv.distributed import cluster, liveness
from arinv.distributed.cluster import Cluster
from arinv.errors import UserError
from launch.local_processes import ROOT, free_port

GIVEN = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """Removes the variables of a cluster that the tests may run on."""
    for name in os.environ:
        if name.startswith(
            ("SLURM_", "OMPI_", "JAX_COORDINATOR", "JAX_NUM_PROC", "JAX_PROCESS", "KUBERNETES_", "TPU_")
        ):
            monkeypatch.delenv(name)


def test_find_returns_none_for_a_single_process():
    assert cluster.find("auto", {}) is None
    assert cluster.find("off", GIVEN) is None
    assert cluster.find("on", GIVEN | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None


def test_find_reads_variables():
    assert cluster.find("auto", GIVEN) == Cluster("10.0.0.1:8476", 4, 2, None)
    assert cluster.find("on", GIVEN | {"JAX_LOCAL_DEVICE_IDS": "1,3"}).devices == (1, 3)


SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[03-06]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}

TWO_A_NODE = {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("changes", "address", "devices"),
    [
        ({}, "node03:61517", None),
        ({"JAX_COORDINATOR_PORT": "99"}, "node03:99", None),
        (TWO_A_NODE, "node03:61517", (1,)),
        (TWO_A_NODE | {"CUDA_VISIBLE_DEVICES": "5"}, "node03:61517", None),
        (TWO_A_NODE | {"CUDA_VISIBLE_DEVICES": ""}, "node03:61517", None),
        (TWO_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, "node03:61517", (2, 3)),
        (TWO_A_NODE | {"CUDA_VISIBLE_DEVICES": "4,5", "SLURM_GPUS_ON_NODE": "4"}, "node03:61517", None),
        (TWO_A_NODE | {"SLURM_GPUS_ON_NODE": "8"}, "node03:61517", (4, 5, 6, 7)),
        (TWO_A_NODE | {"SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_NODEID": "1"}, "node03:61517", None),
        (TWO_A_NODE | {"SLURM_STEP_TASKS_PER_NODE": "2(x2", "SLURM_GPUS_ON_NODE": "8"}, "node03:61517", (1,)),
        (TWO_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1,2", "JAX_PLATFORMS": "cpu"}, "node03:61517", (1,)),
        (TWO_A_NODE | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "SLURM_GPUS_ON_NODE": "8"}, "node03:61517", (2, 3)),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.9:1"}, "10.0.0.9:1", None),
    ],
)
def test_find_reads_slurm(changes, address, devices, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for name, value in (SLURM | changes).items():
        monkeypatch.setenv(name, value)
    results = cluster.find("auto", os.environ)
    assert (results.address, results.count, results.index, results.devices) == (address, 4, 1, devices)


def test_processes_that_cannot_share_the_gpus_of_a_host_are_refused(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for name, value in (SLURM | TWO_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1,2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="2 processes cannot share the 3 GPUs of this host evenly"):
        cluster.find("auto", os.environ)


def test_find_returns_none_for_one_task_of_slurm(monkeypatch):
    for name, value in (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    assert cluster.find("on", os.environ) is None


@pytest.mark.parametrize(
    ("mode", "variables", "message"),
    [
        ("yes", {}, "auto, off, on"),
        ("on", {}, "set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or start under SLURM"),
        ("auto", {"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES and JAX_PROCESS_ID must be set beside"),
        ("auto", GIVEN | {"JAX_PROCESS_ID": "4"}, "must be 0 to JAX_NUM_PROCESSES - 1, which is 3; got 4"),
        ("auto", GIVEN | {"JAX_PROCESS_ID": "x"}, "whole number"),
        ("auto", GIVEN | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "host:port"),
    ],
)
def test_find_rejects_inconsistent_variables(mode, variables, message):
    with pytest.raises(UserError, match=message) as error:
        cluster.find(mode, variables)
    assert "\n" not in str(error.value)


def test_find_reports_failed_detection(monkeypatch, capsys):
    class Broken(clusters.ClusterEnv):
        @classmethod
        def is_env_present(cls):
            raise RuntimeError("no metadata")

    monkeypatch.setattr(clusters.ClusterEnv, "_cluster_types", [Broken])
    assert cluster.find("auto", {}) is None
    assert (
        capsys.readouterr().err == "arinv: runs alone, as detecting the processes of the cluster failed: no metadata\n"
    )
    with pytest.raises(UserError, match="no metadata"):
        cluster.find("on", {})


def meet(address, count, *indices, seconds=20.0, arguments=None):
    """Returns the results of several processes of one rendezvous, or their exceptions."""

    def call(index):
        own = Cluster(address, count, index, None)
        try:
            return liveness.meet(
                own, seconds=seconds, arguments=(arguments or {}).get(index, ["a"]), report=lines.append
            )
        except UserError as error:
            return error

    lines = []
    with futures.ThreadPoolExecutor() as pool:
        return list(pool.map(call, indices))


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


def test_meet_connects_all_processes(address):
    results = meet(address, 4, 3, 1, 0, 2)
    try:
        assert [sorted(connections) for connections in results] == [[0], [0], [1, 2, 3], [0]]
        assert f"pid {os.getpid()}" in results[2][1].name
        results[1][0].send(kind="x", value=5)
        assert results[2][1].receive(5.0) == [{"kind": "x", "value": 5}]
        # JAX's coordinator uses the port while the connections stay open.
        with socket.create_server(("", int(address.rpartition(":")[2])), family=socket.AF_INET6, dualstack_ipv6=True):
            pass
    finally:
        for connection in [connection for connections in results for connection in connections.values()]:
            connection.close()


def test_meet_names_missing_processes_everywhere(address):
    results = meet(address, 5, 0, 3, seconds=1.2)
    for error in results:
        assert isinstance(error, liveness.MissingProcesses)
        assert "processes 1, 2, 4 of 5 did not start within 1 s" in str(error) and "--distributed=off" in str(error)


def test_meet_names_missing_process_0(address):
    (error,) = meet(address, 2, 1, seconds=0.5)
    assert isinstance(error, liveness.MissingProcesses)
    assert f"process 1 of 2 could not reach process 0 at {address} within" in str(error)


def test_meet_rejects_inconsistent_processes(address):
    errors = meet(address, 2, 0, 1, arguments={1: ["b"]})
    assert all("other arguments than process 0: a, b" in str(error) for error in errors)
    errors = meet(address, 3, 0, 1, 1)
    assert any("two processes have the same number: process 1" in str(error) for error in errors)


def test_meet_ignores_other_connections(address):
    host, port = address.split(":")
    with futures.ThreadPoolExecutor() as pool:
        both = pool.submit(meet, address, 2, 0, 1)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                break
            time.sleep(0.01)
        results = both.result()
    assert [sorted(connections) for connections in results] == [[1], [0]]
    for connection in [connection for connections in results for connection in connections.values()]:
        connection.close()


def test_meet_names_port_in_use():
    with socket.create_server(("", 0)) as server:
        (error,) = meet(f"127.0.0.1:{server.getsockname()[1]}", 2, 0)
    assert "cannot listen on port" in str(error) and "JAX_COORDINATOR_PORT" in str(error)


SCENARIO = """
import sys, time
from arinv import distributed
from arinv.errors import TERMINATED
distributed.start("on", heartbeat_timeout=float(sys.argv[2]))
index, count = distributed.index(), distributed.count()
print("here", flush=True)
assert distributed.gather(index * 10) == [0, 10, 20][:count] and distributed.broadcast("x" * index) == ""
if sys.argv[1] == "fail":
    if index == 1:
        distributed.fail(2, "no such thing")
    distributed.gather(None)
elif sys.argv[1] == "crash":
    if index == 1:
        try:
            1 / 0
        except ZeroDivisionError as error:
            distributed.crash(error)
    distributed.gather(None)
elif sys.argv[1] == "finish":
    distributed.finish()
elif sys.argv[1] == "wait":
    distributed.gather(sys.stdin.read())
elif sys.argv[1] == "train":
    try:
        with distributed.preemption_guard(0) as has_to_stop:
            for step in range(1, 100_000):
                time.sleep(0.001 * (1 + index))  # the others are ahead
                if step % 10 == 0:
                    distributed.gather(None)  # a collective, for which the slowest is waited
                if has_to_stop(step):
                    print("stopped at", step, flush=True)
                    raise SystemExit(TERMINATED)
    except SystemExit:
        distributed.finish()
        raise
"""


class Run:
    """Some processes in a scenario."""

    def __init__(self, scenario, count=2, heartbeat_timeout=30.0):
        variables = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(count)}
        variables |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", SCENARIO, scenario, str(heartbeat_timeout)]
        environments = [{**os.environ, **variables, "JAX_PROCESS_ID": str(i)} for i in range(count)]
        self.all = [subprocess.Popen(command, env=environment, **pipes) for environment in environments]

    def wait_until_here(self):
        for process in self.all:
            assert process.stdout.readline() == "here\n", process.stderr.read()
        time.sleep(0.3)

    def end(self, seconds):
        """Returns exit codes, stdout and stderr of the processes, which must all exit in time."""
        deadline = time.monotonic() + seconds
        try:
            said = [process.communicate(timeout=max(0.1, deadline - time.monotonic())) for process in self.all]
        finally:
            for process in self.all:
                process.kill()
        return [process.returncode for process in self.all], *([out[i].strip() for out in said] for i in (0, 1))


def test_finish_prints_no_line():
    codes, _, errors = Run("finish").end(60)
    assert codes == [0, 0] and errors == ["", ""]


def test_fail_of_one_process_ends_all_with_one_line():
    codes, _, errors = Run("fail", 3).end(60)
    assert codes == [2, 2, 2] and errors == ["arinv: no such thing", "", ""]


def test_crash_of_one_process_ends_all_with_its_traceback():
    codes, _, errors = Run("crash").end(60)
    assert codes == [1, 1] and "ZeroDivisionError" in errors[1]
    assert errors[0] == "arinv: process 1 failed (ZeroDivisionError: division by zero); all stop"


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_process_ends_the_others_with_one_line(victim):
    run = Run("wait")
    run.wait_until_here()
    run.all[victim].kill()
    codes, _, errors = run.end(10)
    assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, 75)
    line = errors[1 - victim]
    assert line.startswith(f"arinv: process {victim} (") and "is gone: it was killed" in line and "\n" not in line


def test_silent_process_counts_as_lost():
    run = Run("wait", heartbeat_timeout=4.0)
    run.wait_until_here()
    run.all[1].send_signal(signal.SIGSTOP)
    started = time.monotonic()
    run.all[0].wait(15)
    assert 3.0 < time.monotonic() - started < 12.0
    run.all[1].kill()
    codes, _, errors = run.end(20)
    assert codes[0] == 75 and "process 1 (" in errors[0] and "has been silent for" in errors[0]


def test_sigterm_outside_of_training_ends_all():
    run = Run("wait")
    run.wait_until_here()
    run.all[1].send_signal(signal.SIGTERM)
    codes, _, errors = run.end(10)
    assert codes == [143, 143] and errors[0].startswith("arinv: stopped by SIGTERM; start again")


@pytest.mark.parametrize(("count", "victim"), [(2, 0), (3, 2)])
def test_sigterm_on_one_process_stops_all_after_the_same_step(count, victim):
    run = Run("train", count)
    run.wait_until_here()
    run.all[victim].send_signal(signal.SIGTERM)
    codes, outputs, errors = run.end(20)
    assert codes == [143] * count, errors
    assert len(set(outputs)) == 1 and outputs[0].startswith("stopped at")


def test_sigint_ends_all_processes():
    run = Run("wait")
    run.wait_until_here()
    run.all[1].send_signal(signal.SIGINT)
    codes, _, errors = run.end(10)
    assert codes == [130, 130] and errors[0].startswith("arinv: interrupted")
