"""One run in several processes: they meet, speak with one voice, stop together, and miss each other.

Everything here does the plain thing where a process is alone. It works beside JAX's own coordinator, on the host's
network and on CPUs: no array is involved, so nothing hangs in a collective.

Exit codes of the command, also of a process alone: 0 done, 2 a mistake (another start would end the same way), 75 a
process or a machine was lost, 143 stopped by SIGTERM; after the last two, start again.
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
from arinv.distributed.cluster import MODES, open_relay
from arinv.distributed.liveness import AGAIN, INTERRUPTED, LOST, TERMINATED, Lifeline, MissingProcesses, meet

__all__ = [
    "AGAIN",
    "INTERRUPTED",
    "LOST",
    "MODES",
    "TERMINATED",
    "MissingProcesses",
    "agree",
    "count",
    "crash",
    "fail",
    "finish",
    "first",
    "gather",
    "index",
    "start",
    "stoppable",
]

_lifeline: Lifeline | None = None


def start(
    mode: str = "auto", *, start_seconds: float = 300.0, lost_seconds: float = 60.0, arguments: Sequence[str] = ()
) -> None:
    """Joins the other processes of the run, where there are any. To be called before JAX looks at devices.

    Args:
      mode: "auto", "on" (being alone is a mistake) or "off".
      start_seconds: how long to wait for the others.
      lost_seconds: silence after which a process counts as lost.
      arguments: of the command line, which must be the same everywhere.

    Raises:
      MissingProcesses: names those that did not come in time.
      UserError: processes that do not fit together.
    """
    global _lifeline
    cluster = clusters.find(mode)
    if cluster is None:
        return
    connections = meet(cluster, seconds=start_seconds, arguments=arguments)
    _lifeline = Lifeline(cluster.index, cluster.count, connections, lost_after=lost_seconds)
    _bypass_proxies(cluster.address)
    jax.distributed.initialize(
        cluster.address if cluster.index == 0 else open_relay(cluster.address),
        cluster.count,
        cluster.index,
        list(cluster.devices) if cluster.devices is not None else None,
        cluster_detection_method="deactivate",
        initialization_timeout=max(60, int(start_seconds)),
        heartbeat_timeout_seconds=int(2 * lost_seconds) + 10,  # ours speaks first, and in one line
    )
    # JAX's notice of preemption has just taken SIGTERM over.
    _lifeline.take_signals()


def _bypass_proxies(address: str) -> None:
    """Keeps gRPC, which obeys http_proxy, from asking a proxy for the way to a neighbour."""
    known = next((os.environ[name] for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY") if os.environ.get(name)), "")
    host = address.rpartition(":")[0].strip("[]")
    os.environ["no_grpc_proxy"] = ",".join(filter(None, [known, host, "127.0.0.1"]))
    jax.config.update("jax_check_proxy_envs", False)


def count() -> int:
    """Returns the number of processes."""
    return _lifeline.count if _lifeline else 1


def index() -> int:
    """Returns the number of this process."""
    return _lifeline.index if _lifeline else 0


def gather(value: Any) -> list:
    """Returns the values of all processes, in order, once all of them have called.

    Args:
      value: small plain JSON.
    """
    return _lifeline.gather(value) if _lifeline else [value]


def first(value: Any) -> Any:
    """Returns process 0's value, once all processes have called.

    Args:
      value: small plain JSON.
    """
    return gather(value if index() == 0 else None)[0]


def agree(ok: bool) -> bool:
    """Returns whether all processes say yes, once all of them have called."""
    return all(gather(bool(ok)))


@contextlib.contextmanager
def stoppable(step: int) -> Iterator[Callable[[int], bool]]:
    """Turns SIGTERM on any process into a step at which all of them stop, for the time of a training loop.

    Args:
      step: the last one that is done.

    Yields:
      A function of the step just done, to be called behind every one: whether to stop here, the same everywhere.

    Raises:
      SystemExit: SIGTERM came during the last step, so that none was left to stop at.
    """
    if _lifeline is None:
        with _flag_of_sigterm() as is_set:
            yield lambda _: is_set()
            late = is_set()
    else:
        _lifeline.enter(step)
        try:
            yield _lifeline.has_to_stop
        finally:
            late = _lifeline.leave()
    if late:
        if index() == 0:
            print("stopped by SIGTERM behind the last step, saved; start again to go on", file=sys.stderr)
        raise SystemExit(TERMINATED)


@contextlib.contextmanager
def _flag_of_sigterm() -> Iterator[Callable[[], bool]]:
    received = []
    try:
        previous = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    except ValueError:  # not the main thread: somebody else handles signals
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)


def fail(code: int, message: str) -> NoReturn:
    """Ends the run, in all processes, with one line and an exit code."""
    if _lifeline is not None:
        _lifeline.fail(code, message)
    print(f"arinv: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def crash(error: Exception) -> NoReturn:
    """Ends the run, in all processes, for an exception that nobody expected.

    A collective that breaks because a process is gone raises one too: then that is what is told.

    Raises:
      Exception: the error, where the process is alone.
    """
    if _lifeline is None:
        raise error
    if isinstance(error, (jax.errors.JaxRuntimeError, TimeoutError)):
        _lifeline.await_verdict()
    traceback.print_exception(error)
    lines = str(error).strip().splitlines() or [""]
    _lifeline.fail(1, f"process {_lifeline.index} failed ({type(error).__name__}: {lines[0][:200]}); all stop")


def finish() -> None:
    """Waits for all processes to be done, and parts from them."""
    global _lifeline
    if _lifeline is not None:
        gather(None)
        jax.distributed.shutdown()
        _lifeline.finish()
        _lifeline = None
