"""Detection of the processes of a run, message connections between them, and a relay to JAX's coordinator.

The processes are given by environment variables, or detected by JAX under SLURM, Open MPI, TPU pods and Kubernetes;
otherwise the process is alone.

Source: jax.distributed.initialize, section "Multi-controller JAX" of its documentation.
"""

import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from arinv.errors import UserError, first_line, unknown

MODES = ("auto", "on", "off")
_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_PORT, _DEVICES = "JAX_COORDINATOR_PORT", "JAX_LOCAL_DEVICE_IDS"
_DETECTION_SECONDS = 60  # timeout of the name of the first host
_SEND_SECONDS = 10.0  # timeout of sending, after which the other process counts as gone
_HOLD_SECONDS = 30.0  # before the relay passes on that the coordinator closed a connection
_CONNECT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run, as seen from one of them.

    Attributes:
      address: "host:port" of process 0.
      count: number of processes.
      index: number of this process.
      devices: numbers of this host's accelerators that belong to this process; None: all.
    """

    address: str
    count: int
    index: int
    devices: tuple[int, ...] | None


def find(mode: str, environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Returns the processes of the run, or None for a single process.

    Args:
      mode: "auto", "on" (raises for a single process) or "off".
      environment: environment variables.

    Raises:
      UserError: an unknown mode, inconsistent variables, or no processes detected with "on".
    """
    if mode not in MODES:
        raise unknown("--distributed", mode, MODES)
    if mode == "off":
        return None
    try:
        kind = None if all(environment.get(name) for name in (_ADDRESS, _COUNT, _INDEX)) else _detect(environment)
        cluster = _read(kind, environment)
    except UserError:
        raise
    except Exception as error:  # detection raises different errors on every cluster
        if mode == "on":
            raise UserError(
                f"--distributed=on, but detecting the processes of the cluster failed: {first_line(error, limit=200)}"
            ) from error
        print(
            f"arinv: runs alone, as detecting the processes of the cluster failed: {first_line(error, limit=200)}",
            file=sys.stderr,
            flush=True,
        )
        return None
    if cluster is None and mode == "on":
        raise UserError(
            f"--distributed=on, but no processes are configured: set {_ADDRESS}, {_COUNT} and {_INDEX}, or "
            "start under SLURM (srun), Open MPI, on a TPU pod or as a Kubernetes job"
        )
    return cluster if cluster and cluster.count > 1 else None


def _detect(environment: Mapping[str, str]) -> Any:
    """Returns JAX's class for the cluster that this process runs in, or None."""
    try:
        # The public function, jax.distributed.initialize, does not name missing processes, which needs this list.
        from jax._src.clusters import ClusterEnv
    except ImportError:
        return None
    for kind in ClusterEnv._cluster_types:
        if kind.opt_in_only_method:
            continue
        if kind.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in environment:
            continue  # a single pod, whose detection would warn about a missing package
        if kind.is_env_present():
            return kind
    return None


def _read(kind: Any, environment: Mapping[str, str]) -> Cluster | None:
    """Returns the processes given by variables, completed by those of the cluster; None without either."""
    address, count, index = environment.get(_ADDRESS), _number(environment, _COUNT), _number(environment, _INDEX)
    if kind is None and address is None and count is None and index is None:
        return None
    if kind is not None:
        count = kind.get_process_count() if count is None else count
        if count == 1:
            return Cluster(address or "", 1, 0, None)
        index = kind.get_process_id() if index is None else index
        address = address or kind.get_coordinator_address(
            timeout_secs=_DETECTION_SECONDS, override_coordinator_port=environment.get(_PORT)
        )
    values = {_ADDRESS: address, _COUNT: count, _INDEX: index}
    if missing := [name for name, value in values.items() if value is None]:
        raise UserError(
            f"{' and '.join(missing)} must be set beside {', '.join(n for n in values if n not in missing)}; "
            "--distributed=off runs alone"
        )
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(f"{_ADDRESS} must be host:port of process 0, such as 10.0.0.1:8476; got {address}")
    if not 0 <= index < count:
        raise UserError(f"{_INDEX} must be 0 to {_COUNT} - 1, which is {count - 1}; got {index}")
    return Cluster(address, count, index, _devices(kind, environment))


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    if not text.isdigit():
        raise UserError(f"{name} must be a whole number; got {text}")
    return int(text)


def _devices(kind: Any, environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Returns the accelerators of this process where several processes share a host; None: all."""
    if environment.get(_DEVICES):
        return tuple(int(number) for number in environment[_DEVICES].split(","))
    if kind is None or "Tpu" in kind.__name__ or _processes_on_host(environment) == 1:
        return None
    visible, local = environment.get("CUDA_VISIBLE_DEVICES"), kind.get_local_process_id()
    on_host, processes = _number(environment, "SLURM_GPUS_ON_NODE") or 0, _processes_on_host(environment)
    count = on_host if visible is None else len(visible.split(","))
    if local is None or visible is not None and (count == 1 or count < on_host):  # the launcher has assigned them
        return None
    if not processes or not count or environment.get("JAX_PLATFORMS") == "cpu":
        return (local,)
    if count % processes:
        raise UserError(
            f"{processes} processes cannot share the {count} GPUs of this host evenly; start one process a host, or "
            f"set {_DEVICES} of each"
        )
    share = count // processes
    return tuple(range(local * share, (local + 1) * share))


def _processes_on_host(environment: Mapping[str, str]) -> int:
    """Returns the number of processes that the launcher has started on this host; 0 where it is unknown."""
    if own := _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE"):  # also where SLURM has started Open MPI
        return own
    hosts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):  # such as 1(x4) or 8(x2),4
        if (match := re.fullmatch(r"\s*(\d+)(?:\(x(\d+)\))?\s*", part)) is None:
            return 0
        hosts += [int(match[1])] * int(match[2] or 1)
    return hosts[min(_number(environment, "SLURM_NODEID") or 0, len(hosts) - 1)]


class Connection:
    """A socket that carries messages.

    Attributes:
      name: name of the other process, for messages.
      last_received: time.monotonic() of the last data from it.
      has_finished: whether the other process announced its end.
      pending: messages received before the lifeline started.
    """

    def __init__(self, sock: socket.socket, name: str):
        """Stores a connected socket, which the connection owns from now on."""
        sock.settimeout(_SEND_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.name, self.last_received, self.has_finished = name, time.monotonic(), False
        self.pending: list[dict] = []
        self._socket, self._received, self._sending = sock, b"", threading.Lock()

    def fileno(self) -> int:
        """Returns the file descriptor, for selectors."""
        return self._socket.fileno()

    def send(self, **message: Any) -> bool:
        """Sends a message; returns False if the connection is broken."""
        try:
            with self._sending:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self, seconds: float | None = None) -> list[dict] | None:
        """Waits for data and returns the complete messages, or None at the end of the connection.

        Args:
          seconds: timeout in seconds; None where data are available.

        Raises:
          TimeoutError: no data in time.
        """
        try:
            if seconds is not None:
                self._socket.settimeout(seconds)
            data = self._socket.recv(65536)
        except TimeoutError:
            raise
        except OSError:
            return None
        finally:
            if seconds is not None:
                self._socket.settimeout(_SEND_SECONDS)
        if not data:
            return None
        self.last_received = time.monotonic()
        *lines, self._received = (self._received + data).split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:  # another protocol
            return None

    def is_open(self) -> bool:
        """Returns whether the other process keeps the connection open."""
        try:
            self._socket.settimeout(0)
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._socket.settimeout(_SEND_SECONDS)

    def has_ended(self) -> bool:
        """Discards received data and returns whether the other process has closed the connection."""
        try:
            return self.receive(0.02) is None
        except TimeoutError:
            return False

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def open_relay(address: str) -> str:
    """Returns a local address whose connections are forwarded to `address` while the process lives.

    JAX aborts a process, with a page of text, when its connection to the coordinator breaks; the relay delays that
    until the lifeline has ended the process with one line.

    Args:
      address: "host:port" of the coordinator, which need not listen yet.

    Returns:
      "host:port" of the relay.
    """
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server, address), name="relay", daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def _serve(server: socket.socket, address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        client = server.accept()[0]
        try:
            upstream = socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS)
        except OSError:
            client.close()  # JAX retries
            continue
        upstream.settimeout(None)
        for end in (client, upstream):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_forward, args=(client, upstream, 0.0), name="relay out", daemon=True).start()
        threading.Thread(target=_forward, args=(upstream, client, _HOLD_SECONDS), name="relay in", daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket, hold: float) -> None:
    """Forwards data until one end closes, and closes the other `hold` seconds later."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    time.sleep(hold)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
