"""Runs in several processes: rendezvous, small messages, a common step to stop at, and detection of lost processes.

All functions also work in a single process. They use sockets besides JAX's own coordinator and no arrays, so they do
not hang in a collective.

Exit codes of the command, also of a single process: 0 done, 2 invalid input (a restart would fail in the same way), 75
a process or a machine was lost, 143 stopped by SIGTERM; after the last two, start again.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import jax

from arinv.distributed import cluster as clusters
from arinv.distributed.cluster import open_relay
from arinv.distributed.liveness import AGAIN, Lifeline, MissingProcesses, meet
from arinv.errors import TERMINATED, first_line

__all__ = [
    "AGAIN",
    "MissingProcesses",
    "alone",
    "broadcast",
    "count",
    "crash",
    "fail",
    "finish",
    "gather",
    "index",
    "preemption_guard",
    "report",
    "start",
]

_lifeline: Lifeline | None = None
_is_alone = False  # see `alone`
_reported: set[str] = set()  # lines that `report` prints once


def start(
    mode: str = "auto",
    *,
    initialization_timeout: float = 300.0,
    heartbeat_timeout: float = 60.0,
    arguments: Sequence[str] = (),
) -> None:
    """Connects to the other processes of the run, if any; call it before JAX initializes devices.

    Args:
      mode: "auto", "on" (raises for a single process) or "off".
      initialization_timeout: seconds to wait for the other processes to connect.
      heartbeat_timeout: seconds without a message after which a process counts as lost.
      arguments: arguments of the command line, which must be the same in all processes.

    Raises:
      MissingProcesses: some did not connect in time.
      UserError: inconsistent processes.
    """
    global _lifeline
    cluster = clusters.find(mode)
    if cluster is None:
        return
    connections = meet(cluster, seconds=initialization_timeout, arguments=arguments)
    _lifeline = Lifeline(cluster.index, cluster.count, connections, lost_after=heartbeat_timeout)
    _bypass_proxies(cluster.address)
    jax.distributed.initialize(
        cluster.address if cluster.index == 0 else open_relay(cluster.address),
        cluster.count,
        cluster.index,
        list(cluster.devices) if cluster.devices is not None else None,
        cluster_detection_method="deactivate",
        initialization_timeout=max(60, int(initialization_timeout)),
        heartbeat_timeout_seconds=int(2 * heartbeat_timeout) + 10,  # ours is faster, and ends in one line
    )
    # JAX has just installed its own handler of SIGTERM.
    _lifeline.take_signals()


def _bypass_proxies(address: str) -> None:
    """Excludes the coordinator from http_proxy, which gRPC obeys."""
    exceptions = next(
        (os.environ[name] for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY") if os.environ.get(name)), ""
    )
    host = address.rpartition(":")[0].strip("[]")
    os.environ["no_grpc_proxy"] = ",".join(filter(None, [exceptions, host, "127.0.0.1"]))
    jax.config.update("jax_check_proxy_envs", False)


def count() -> int:
    """Returns the number of processes."""
    return _lifeline.count if _lifeline else 1


def index() -> int:
    """Returns the number of this process, from 0."""
    return _lifeline.index if _lifeline else 0


def gather(value: Any) -> list:
    """Returns the values of all processes, in order, once all of them have called.

    Args:
      value: a small plain JSON value.

    Returns:
      One value per process.
    """
    return _lifeline.gather(value) if _lifeline and not _is_alone else [value]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Runs functions that all processes call together on this process alone, without messages to the others."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def broadcast(value: Any) -> Any:
    """Returns process 0's value, once all processes have called.

    Args:
      value: a small plain JSON value.
    """
    return gather(value if index() == 0 else None)[0]


def report(line: str, *, once: bool = False) -> None:
    """Prints a line on stderr, on process 0 only.

    Args:
      line: the text.
      once: whether to skip a line that this process has printed with `once` before.
    """
    if index() or (once and line in _reported):
        return
    if once:
        _reported.add(line)
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def preemption_guard(step: int) -> Iterator[Callable[[int], bool]]:
    """Makes SIGTERM on any process stop all of them after the same step of a training loop.

    Args:
      step: number of the last step done.

    Yields:
      A function of the step just done, to be called after every step: whether to stop, the same in all processes.

    Raises:
      SystemExit: SIGTERM arrived during the last step of the loop.
    """
    if _lifeline is None:
        with _flag_of_sigterm() as is_set:
            yield lambda _: is_set()
            late = is_set()
    else:
        _lifeline.begin_loop(step)
        try:
            yield _lifeline.has_to_stop
        finally:
            late = _lifeline.end_loop()
    if late:
        if index() == 0:
            print("stopped by SIGTERM after the last step, saved; start again to resume", file=sys.stderr)
        raise SystemExit(TERMINATED)


@contextlib.contextmanager
def _flag_of_sigterm() -> Iterator[Callable[[], bool]]:
    received = []
    try:
        previous = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    except ValueError:  # not the main thread, which handles signals
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)


def fail(code: int, message: str) -> NoReturn:
    """Ends the run in all processes with one line and an exit code.

    Args:
      code: exit code.
      message: one line, printed to stderr.

    Raises:
      SystemExit: in a single process.
    """
    if _lifeline is not None:
        _lifeline.fail(code, message)
    print(f"arinv: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def crash(error: Exception) -> NoReturn:
    """Ends the run in all processes after an unexpected exception.

    The loss of a process also makes collectives raise: then the lost process is reported instead.

    Args:
      error: the exception.

    Raises:
      Exception: the error, in a single process.
    """
    if _lifeline is None:
        raise error
    if isinstance(error, (jax.errors.JaxRuntimeError, TimeoutError)):
        _lifeline.await_verdict()
    traceback.print_exception(error)
    reason = f"{type(error).__name__}: {first_line(error, limit=200)}"
    _lifeline.fail(1, f"process {_lifeline.index} failed ({reason}); all stop")


def finish() -> None:
    """Waits for all processes to finish, and disconnects from them."""
    global _lifeline
    if _lifeline is not None:
        gather(None)
        jax.distributed.shutdown()
        _lifeline.finish()
        _lifeline = None
