"""The meeting of all processes before JAX starts: who is missing after a while is told by number.

Process 0 listens where JAX's coordinator will listen later; the others call it. The connections stay open as the
lifelines of the run.
"""

import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Sequence

from arinv.errors import UserError
from arinv.processes.cluster import Cluster
from arinv.processes.connection import Connection

_HELLO_SECONDS = 5.0
_RETRY_SECONDS = 0.2
_FIRST_NOTICE, _NOTICE_EVERY = 10.0, 30.0
_SHOWN = 16  # missing processes that are listed


class MissingProcesses(UserError):
    """Some processes were not there in time; another start may find them."""


def _say(text: str) -> None:
    print(f"arinv: {text}", file=sys.stderr, flush=True)


def meet(
    cluster: Cluster, *, seconds: float, arguments: Sequence[str], say: Callable[[str], None] = _say
) -> dict[int, Connection]:
    """Returns the connections to the other processes: to all of them at process 0, to process 0 elsewhere.

    Args:
      cluster: who there should be.
      seconds: how long to wait for them.
      arguments: of the command line, which must be the same everywhere.
      say: is told who is waited for.

    Raises:
      MissingProcesses: names those that did not come in time.
      UserError: two processes have one number, or another command line, or the port is taken.
    """
    deadline = time.monotonic() + seconds
    hello = {
        "index": cluster.index,
        "count": cluster.count,
        "host": platform.node(),
        "pid": os.getpid(),
        "arguments": list(arguments),
    }
    if cluster.index == 0:
        return _gather(cluster, hello, deadline, seconds, say)
    return {0: _call(cluster, hello, deadline, seconds)}


def _gather(cluster: Cluster, hello: dict, deadline: float, seconds: float, say) -> dict[int, Connection]:
    """Waits for the others and tells them to go, or why not."""
    here: dict[int, Connection] = {}
    notice = time.monotonic() + _FIRST_NOTICE
    with _listen(cluster) as server:
        try:
            while len(here) < cluster.count - 1:
                now = time.monotonic()
                if now > deadline:
                    raise MissingProcesses(_missing(cluster, here, seconds))
                if now > notice:
                    notice = now + _NOTICE_EVERY
                    absent = _numbers(set(range(1, cluster.count)) - set(here))
                    say(f"waiting for {absent} of {cluster.count}, {deadline - now:.0f} s more")
                _accept(server, cluster, hello, here)
        except UserError as error:
            for connection in here.values():
                connection.send(kind="refused", message=str(error), missing=isinstance(error, MissingProcesses))
                connection.close()
            raise
    for connection in here.values():
        connection.send(kind="go")
    return here


def _listen(cluster: Cluster) -> socket.socket:
    port = int(cluster.address.rpartition(":")[2])
    try:
        if socket.has_dualstack_ipv6():
            server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        else:
            server = socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of this machine ({error.strerror}): another run has it; "
            "set JAX_COORDINATOR_PORT, or another port in JAX_COORDINATOR_ADDRESS"
        ) from error
    server.settimeout(1.0)
    return server


def _accept(server: socket.socket, cluster: Cluster, hello: dict, here: dict[int, Connection]) -> None:
    """Takes one caller in, if one comes within a second."""
    try:
        caller = Connection(server.accept()[0], "a caller")
    except TimeoutError:
        return
    try:
        messages = caller.receive(_HELLO_SECONDS)
    except TimeoutError:
        messages = None
    theirs = messages[0] if messages else None
    if not isinstance(theirs, dict) or "index" not in theirs:  # a port scan, or what is left of an older run
        caller.close()
        return
    index = theirs["index"]
    caller.name = f"process {index} ({theirs['host']}, pid {theirs['pid']})"
    before, here[index] = here.get(index), caller
    if theirs["count"] != cluster.count:
        raise UserError(f"{caller.name} counts {theirs['count']} processes, process 0 counts {cluster.count}")
    if before is not None and before.is_open():
        problem = f"two processes have one number: {before.name} and {caller.name}"
        before.send(kind="refused", message=problem, missing=False)
        before.close()
        raise UserError(problem)
    if before is not None:
        before.close()
    if theirs["arguments"] != hello["arguments"]:
        first = sorted(set(theirs["arguments"]) ^ set(hello["arguments"])) or ["their order"]
        raise UserError(
            f"{caller.name} was started with other arguments than process 0: {', '.join(first)[:200]}; "
            "start all with one command line"
        )


def _missing(cluster: Cluster, here: dict[int, Connection], seconds: float) -> str:
    absent = _numbers(set(range(1, cluster.count)) - set(here))
    return (
        f"{absent} of {cluster.count} did not start within {seconds:.0f} s (process 0 waits on {platform.node()}, "
        f"{cluster.address}): start the same command on every host, or one process alone with --distributed=off"
    )


def _numbers(indices: set[int]) -> str:
    """Returns "process 3" or "processes 1, 2, 5"; long lists are cut."""
    chosen = sorted(indices)
    text = ", ".join(str(index) for index in chosen[:_SHOWN])
    more = f" and {len(chosen) - _SHOWN} more" if len(chosen) > _SHOWN else ""
    return f"process{'es' if len(chosen) > 1 else ''} {text}{more}"


def _call(cluster: Cluster, hello: dict, deadline: float, seconds: float) -> Connection:
    """Calls process 0 until it answers, and waits for its word."""
    host, _, port = cluster.address.rpartition(":")
    reason = "no answer"
    while time.monotonic() < deadline:
        try:
            sock = socket.create_connection((host.strip("[]"), int(port)), timeout=_HELLO_SECONDS)
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(_RETRY_SECONDS)
            continue
        connection = Connection(sock, f"process 0 ({cluster.address})")
        connection.send(**hello)
        word = _await_word(connection, deadline + seconds)
        if word is not None and word["kind"] == "go":
            return connection
        connection.close()
        if word is not None:
            raise (MissingProcesses if word["missing"] else UserError)(word["message"])
        reason = "it hung up"
        time.sleep(_RETRY_SECONDS)
    raise MissingProcesses(
        f"process {cluster.index} of {cluster.count} could not reach process 0 at {cluster.address} within "
        f"{seconds:.0f} s ({reason}): start the same command on every host, or one process alone with --distributed=off"
    )


def _await_word(connection: Connection, deadline: float) -> dict | None:
    """Returns what process 0 decided, None where it hung up; it has a time limit of its own, which may end later."""
    while time.monotonic() < deadline:
        try:
            messages = connection.receive(_HELLO_SECONDS)
        except TimeoutError:
            continue
        if messages is None:
            return None
        if messages:
            word, *connection.early = messages
            return word if isinstance(word, dict) and word.get("kind") in ("go", "refused") else None
    return None
