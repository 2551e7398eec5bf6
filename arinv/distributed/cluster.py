"""Which processes belong to this run: told by environment variables, or found out from the cluster that started it.

JAX knows SLURM, Open MPI, TPU pods and Kubernetes; its detection is asked, and where it knows nothing the process is
alone. Source: jax.distributed.initialize, section "Multi-controller JAX" of its documentation.
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

from arinv.errors import UserError, unknown

MODES = ("auto", "on", "off")
_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_PORT, _DEVICES = "JAX_COORDINATOR_PORT", "JAX_LOCAL_DEVICE_IDS"
_DETECTION_SECONDS = 60  # in which the name of the first host must become known


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A process among others.

    Attributes:
      address: "host:port" of process 0.
      count: number of processes.
      index: of this one.
      devices: numbers of the local accelerators that are this process's; None for all.
      found_by: who told, for messages.
    """

    address: str
    count: int
    index: int
    devices: tuple[int, ...] | None
    found_by: str


def find(mode: str, environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Returns the processes that this one belongs to, None where it is alone.

    Args:
      mode: "auto", "on" (being alone is a mistake) or "off".
      environment: the variables of this process.

    Raises:
      UserError: an unknown mode, variables that contradict each other, or nothing found although mode is "on".
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
    except Exception as error:  # a cluster's metadata may fail in as many ways as there are clusters
        if mode == "on":
            raise UserError(f"--distributed=on, but the cluster does not tell its processes: {_line(error)}") from error
        print(
            f"arinv: runs alone, the cluster does not tell its processes: {_line(error)}", file=sys.stderr, flush=True
        )
        return None
    if cluster is None and mode == "on":
        raise UserError(
            f"--distributed=on, but nothing says which processes there are: set {_ADDRESS}, {_COUNT} and {_INDEX}, or "
            "start under SLURM (srun), Open MPI, on a TPU pod or as a Kubernetes job"
        )
    return cluster if cluster and cluster.count > 1 else None


def _detect(environment: Mapping[str, str]) -> Any:
    """Returns JAX's description of the cluster that this process runs in, or None."""
    try:
        # The public door, jax.distributed.initialize, cannot say who is missing, so we have to know who there is.
        from jax._src.clusters import ClusterEnv
    except ImportError:
        return None
    for kind in ClusterEnv._cluster_types:
        if kind.opt_in_only_method:
            continue
        if kind.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in environment:
            continue  # a pod of its own, whose detection would warn of a missing package
        if kind.is_env_present():
            return kind
    return None


def _read(kind: Any, environment: Mapping[str, str]) -> Cluster | None:
    """Returns what the variables say, and where they say nothing what the cluster says."""
    address, count, index = environment.get(_ADDRESS), _number(environment, _COUNT), _number(environment, _INDEX)
    if kind is None and address is None and count is None and index is None:
        return None
    if kind is not None:
        count = kind.get_process_count() if count is None else count
        if count == 1:
            return Cluster(address or "", 1, 0, None, kind.__name__)
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
        raise UserError(f"{_ADDRESS}={address} must be host:port of process 0, such as 10.0.0.1:8476")
    if not 0 <= index < count:
        raise UserError(f"{_INDEX}={index} must be from 0 to {_COUNT} - 1, which is {count - 1}")
    found_by = kind.__name__ if kind is not None else "the environment"
    return Cluster(address, count, index, _devices(kind, environment), found_by)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    if not text.isdigit():
        raise UserError(f"{name}={text} must be a whole number")
    return int(text)


def _devices(kind: Any, environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Returns the accelerators of this process where several processes of a host share them."""
    if environment.get(_DEVICES):
        return tuple(int(number) for number in environment[_DEVICES].split(","))
    if kind is None or "Tpu" in kind.__name__ or _is_alone_on_host(environment):
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "," not in visible:  # the launcher has handed out one each
        return None
    local = kind.get_local_process_id()
    return None if local is None else (local,)


def _is_alone_on_host(environment: Mapping[str, str]) -> bool:
    if tasks := environment.get("SLURM_STEP_TASKS_PER_NODE"):  # such as 1(x4) or 8(x2),4
        return all(re.fullmatch(r"1(\(x\d+\))?", part) for part in tasks.split(","))
    return environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


_SEND_SECONDS = 10.0  # a peer that takes nothing for so long is as good as gone


class Connection:
    """A socket that carries messages.

    Attributes:
      name: of the other end, for people.
      heard: time.monotonic() of its last sign of life.
      said_goodbye: whether the other end announced that it goes.
      early: messages that came before somebody listened for them.
    """

    def __init__(self, sock: socket.socket, name: str):
        """Takes over a connected socket."""
        sock.settimeout(_SEND_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.name, self.heard, self.said_goodbye = name, time.monotonic(), False
        self.early: list[dict] = []
        self._socket, self._received, self._sending = sock, b"", threading.Lock()

    def fileno(self) -> int:
        """Returns the descriptor, so that selectors take a connection."""
        return self._socket.fileno()

    def send(self, **message: Any) -> bool:
        """Sends a message; returns False where the other end takes none any more."""
        try:
            with self._sending:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self, seconds: float | None = None) -> list[dict] | None:
        """Waits for data and returns the messages that are complete, None at the end of the connection.

        Args:
          seconds: how long to wait; None where data are known to be there.

        Raises:
          TimeoutError: nothing came.
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
        self.heard = time.monotonic()
        *lines, self._received = (self._received + data).split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:  # somebody else's protocol
            return None

    def is_open(self) -> bool:
        """Returns whether the other end still holds the connection."""
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
        """Throws away what has come, and returns whether the other end is gone."""
        try:
            return self.receive(0.02) is None
        except TimeoutError:
            return False

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


_HOLD_SECONDS = 30.0
_CONNECT_SECONDS = 5.0


def open_relay(address: str) -> str:
    """Returns an address on this machine that leads to `address`, for as long as the process lives.

    Args:
      address: "host:port" of the coordinator, which need not listen yet.
    """
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server, address), name="relay", daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def _serve(server: socket.socket, address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        here = server.accept()[0]
        try:
            there = socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS)
        except OSError:
            here.close()  # the other end tries again
            continue
        there.settimeout(None)
        for end in (here, there):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_carry, args=(here, there, 0.0), name="relay out", daemon=True).start()
        threading.Thread(target=_carry, args=(there, here, _HOLD_SECONDS), name="relay in", daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket, hold: float) -> None:
    """Passes on what comes until one of the ends closes, and closes the other `hold` seconds later."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    time.sleep(hold)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
