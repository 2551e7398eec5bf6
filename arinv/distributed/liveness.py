"""Rendezvous of the processes of a run, detection of lost ones, and agreement on the step to stop at.

Every process has a connection to process 0 and a thread that serves it independently of the main thread. A killed
process closes its connection, and one on a failed machine becomes silent: the others exit with one line and an exit
code instead of waiting in a collective. SIGTERM on one process makes all stop after the same step.
"""

import contextlib
import multiprocessing
import os
import platform
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from arinv.distributed.cluster import Cluster, Connection
from arinv.errors import INTERRUPTED, LOST, TERMINATED, TemporaryError, UserError

AGAIN = "start again to resume from the last checkpoint"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_EXIT_SECONDS = 5.0  # for the others to exit before process 0, which runs JAX's coordinator
_VERDICT_SECONDS = 15.0  # for a broken collective to be recognized as a lost process
_HELLO_SECONDS = 5.0  # timeout of a first message
_RETRY_SECONDS = 0.2
_FIRST_NOTICE, _NOTICE_EVERY = 10.0, 30.0
_MAX_LISTED = 16  # of missing processes


class MissingProcesses(TemporaryError):
    """Some processes did not connect in time; a restart may find them."""


def _print_line(text: str) -> None:
    print(f"arinv: {text}", file=sys.stderr, flush=True)


def meet(
    cluster: Cluster, *, seconds: float, arguments: Sequence[str], report: Callable[[str], None] = _print_line
) -> dict[int, Connection]:
    """Connects to the other processes: process 0 to all others, the others to process 0.

    Args:
      cluster: the expected processes.
      seconds: timeout in seconds.
      arguments: arguments of the command line, which must be the same in all processes.
      report: function called with a line about the missing processes from time to time.

    Returns:
      Index -> connection.

    Raises:
      MissingProcesses: some did not connect in time.
      UserError: two processes have the same number or different command lines, or the port is in use.
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
        return _accept_all(cluster, hello, deadline, seconds, report)
    return {0: _connect(cluster, hello, deadline, seconds)}


def _accept_all(cluster: Cluster, hello: dict, deadline: float, seconds: float, report) -> dict[int, Connection]:
    """Accepts the connections of all other processes, then sends "go", or the reason for a failure."""
    connections: dict[int, Connection] = {}
    notice = time.monotonic() + _FIRST_NOTICE
    with _listen(cluster) as server:
        try:
            while len(connections) < cluster.count - 1:
                now = time.monotonic()
                if now > deadline:
                    raise MissingProcesses(_missing(cluster, connections, seconds))
                if now > notice:
                    notice = now + _NOTICE_EVERY
                    absent = _numbers(set(range(1, cluster.count)) - set(connections))
                    report(f"waiting for {absent} of {cluster.count}, {deadline - now:.0f} s more")
                _accept(server, cluster, hello, connections)
        except UserError as error:
            for connection in connections.values():
                connection.send(kind="refused", message=str(error), missing=isinstance(error, MissingProcesses))
                connection.close()
            raise
    for connection in connections.values():
        connection.send(kind="go")
    return connections


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


def _accept(server: socket.socket, cluster: Cluster, hello: dict, connections: dict[int, Connection]) -> None:
    """Accepts one process, if one connects within a second."""
    try:
        caller = Connection(server.accept()[0], "a caller")
    except TimeoutError:
        return
    try:
        messages = caller.receive(_HELLO_SECONDS)
    except TimeoutError:
        messages = None
    other = messages[0] if messages else None
    if not isinstance(other, dict) or "index" not in other:  # a port scan, or a process of an older run
        caller.close()
        return
    index = other["index"]
    caller.name = f"process {index} ({other['host']}, pid {other['pid']})"
    before, connections[index] = connections.get(index), caller
    if other["count"] != cluster.count:
        raise UserError(f"{caller.name} was configured for {other['count']} processes, process 0 for {cluster.count}")
    if before is not None and before.is_open():
        problem = f"two processes have the same number: {before.name} and {caller.name}"
        before.send(kind="refused", message=problem, missing=False)
        before.close()
        raise UserError(problem)
    if before is not None:
        before.close()
    if other["arguments"] != hello["arguments"]:
        first = sorted(set(other["arguments"]) ^ set(hello["arguments"])) or ["their order"]
        raise UserError(
            f"{caller.name} was started with other arguments than process 0: {', '.join(first)[:200]}; "
            "start all with one command line"
        )


def _missing(cluster: Cluster, connections: dict[int, Connection], seconds: float) -> str:
    absent = _numbers(set(range(1, cluster.count)) - set(connections))
    return (
        f"{absent} of {cluster.count} did not start within {seconds:.0f} s (process 0 waits on {platform.node()}, "
        f"{cluster.address}): start the same command on every host, or one process alone with --distributed=off"
    )


def _numbers(indices: set[int]) -> str:
    """Returns "process 3" or "processes 1, 2, 5"; long lists are abbreviated."""
    numbers = sorted(indices)
    text = ", ".join(str(index) for index in numbers[:_MAX_LISTED])
    more = f" and {len(numbers) - _MAX_LISTED} more" if len(numbers) > _MAX_LISTED else ""
    return f"process{'es' if len(numbers) > 1 else ''} {text}{more}"


def _connect(cluster: Cluster, hello: dict, deadline: float, seconds: float) -> Connection:
    """Connects to process 0, retrying until it listens, and waits for its reply."""
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
        reply = _await_reply(connection, deadline + seconds)
        if reply is not None and reply["kind"] == "go":
            return connection
        connection.close()
        if reply is not None:
            raise (MissingProcesses if reply["missing"] else UserError)(reply["message"])
        reason = "it closed the connection"
        time.sleep(_RETRY_SECONDS)
    raise MissingProcesses(
        f"process {cluster.index} of {cluster.count} could not reach process 0 at {cluster.address} within "
        f"{seconds:.0f} s ({reason}): start the same command on every host, or one process alone with --distributed=off"
    )


def _await_reply(connection: Connection, deadline: float) -> dict | None:
    """Returns the reply of process 0, or None if it closed the connection; its own timeout may end later."""
    while time.monotonic() < deadline:
        try:
            messages = connection.receive(_HELLO_SECONDS)
        except TimeoutError:
            continue
        if messages is None:
            return None
        if messages:
            reply, *connection.pending = messages
            return reply if isinstance(reply, dict) and reply.get("kind") in ("go", "refused") else None
    return None


class Lifeline:
    """The connections of one process, and the thread that serves them; constructed by the main thread.

    Args:
      index: number of this process.
      count: number of processes.
      connections: index -> connection: to all others in process 0, to process 0 in the others.
      lost_after: seconds without data after which a process counts as lost.
    """

    def __init__(self, index: int, count: int, connections: Mapping[int, Connection], *, lost_after: float):
        self.index, self.count = index, count
        self._connections, self._lost_after = dict(connections), lost_after
        self._changed = threading.Condition()
        self._exiting = threading.Lock()
        self._sequence = 0
        self._parts: dict[int, dict[int, Any]] = {}  # in process 0: sequence number of a gather -> values so far
        self._gathered: dict[int, list] = {}
        self._position: int | None = None  # the last step done, None outside of a training loop
        self._positions: dict[int, int | None] | None = None  # in process 0: the answers to "where", None before it
        self._is_agreeing = False
        self._stop_after: int | None = None
        self._finished = False
        self._wake, wake = socket.socketpair()
        wake.setblocking(False)
        self._wake_sender = wake
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._old_wake = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self.take_signals()
        self._thread = threading.Thread(target=self._run, name="lifeline", daemon=True)
        self._thread.start()

    def take_signals(self) -> None:
        """Makes SIGTERM and SIGINT wake up the thread, also after another library has installed handlers."""
        for number in _SIGNALS:
            signal.signal(number, _ignore)

    def gather(self, value: Any) -> list:
        """Returns the values of all processes, in order, once all have called; for the main thread.

        Args:
          value: a small plain JSON value.
        """
        with self._changed:
            sequence, self._sequence = self._sequence, self._sequence + 1
            if self.index == 0:
                self._add_part(sequence, 0, value)
            else:
                self._connections[0].send(kind="part", sequence=sequence, value=value)
            while sequence not in self._gathered:
                self._changed.wait(1.0)  # wakes up for signals
            return self._gathered.pop(sequence)

    def begin_loop(self, step: int) -> None:
        """Starts a training loop after `step`: from now on SIGTERM takes effect at the end of a step."""
        with self._changed:
            self._position = step

    def has_to_stop(self, step: int) -> bool:
        """Returns whether all processes stop after `step`; call it after every step."""
        with self._changed:
            while self._is_agreeing:
                self._changed.wait(1.0)
            self._position = step
            return self._stop_after is not None and step > self._stop_after

    def end_loop(self) -> bool:
        """Ends the training loop, and returns whether SIGTERM arrived during its last step."""
        with self._changed:
            while self._is_agreeing:
                self._changed.wait(1.0)
            self._position = None
            return self._stop_after is not None

    def fail(self, code: int, message: str) -> NoReturn:
        """Ends all processes with an exit code; process 0 prints the message. For the main thread."""
        self._end_all(code, message)
        time.sleep(_VERDICT_SECONDS)  # process 0 ends this process meanwhile
        self._end(code, message)

    def await_verdict(self) -> None:
        """Waits for the thread to detect a lost process, which ends this one."""
        time.sleep(_VERDICT_SECONDS)

    def finish(self) -> None:
        """Ends the lifeline: processes that exit from now on do not count as lost."""
        for connection in self._connections.values():
            connection.send(kind="finished")
        self._finished = True
        self._wake_sender.send(b"\0")
        self._thread.join()
        signal.set_wakeup_fd(self._old_wake)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for end in (*self._connections.values(), self._wake, self._wake_sender):
            end.close()

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:
            traceback.print_exception(error)
            self._end(1, f"the lifeline of process {self.index} failed; all processes stop")

    def _watch(self) -> None:
        """Serves the connections until the end of the run."""
        interval = min(5.0, self._lost_after / 4)
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ, None)
            for index, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, index)
                self._handle(index, connection.pending)
            last_turn = next_beat = time.monotonic()
            while not self._finished:
                for key, _ in selector.select(interval / 2):
                    if key.data is None:
                        self._handle_signals(self._wake.recv(64))
                    elif not self._serve(key.data):
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if now - last_turn > 4 * interval:  # this process itself was suspended
                    for connection in self._connections.values():
                        connection.last_received = now
                last_turn = now
                if now >= next_beat:
                    next_beat = now + interval
                    self._check_silence(now)

    def _check_silence(self, now: float) -> None:
        for index, connection in self._connections.items():
            if connection.has_finished:
                continue
            connection.send(kind="beat")
            if now - connection.last_received > self._lost_after:
                self._lose(index, f"has been silent for {now - connection.last_received:.0f} s")

    def _serve(self, index: int) -> bool:
        """Handles the messages of a connection; returns whether it is still open."""
        connection = self._connections[index]
        try:
            messages = connection.receive()
        except TimeoutError:
            return True
        if messages is None:
            if not connection.has_finished:
                self._lose(index, "is gone: it was killed, or its machine failed")
            return False
        self._handle(index, messages)
        return True

    def _lose(self, index: int, problem: str) -> None:
        if not self._finished:
            self._end(LOST, f"{self._connections[index].name} {problem}; all processes stop, {AGAIN}")

    def _handle(self, index: int, messages: list[dict]) -> None:
        for message in messages:
            match message["kind"]:
                case "part":
                    with self._changed:
                        self._add_part(message["sequence"], index, message["value"])
                case "gathered":
                    with self._changed:
                        self._gathered[message["sequence"]] = message["values"]
                        self._changed.notify_all()
                case "terminated":
                    self._ask_positions()
                case "where":
                    self._connections[0].send(kind="at", position=self._hold())
                case "at":
                    self._take_position(index, message["position"])
                case "stop_after":
                    self._settle(message["step"])
                case "failed":
                    self._end(message["code"], message["message"])
                case "stop":
                    self._end(message["code"], None)
                case "finished":
                    self._connections[index].has_finished = True

    def _add_part(self, sequence: int, index: int, value: Any) -> None:
        parts = self._parts.setdefault(sequence, {})
        parts[index] = value
        if len(parts) == self.count:
            values = [parts[i] for i in range(self.count)]
            del self._parts[sequence]
            self._gathered[sequence] = values
            self._send_all(kind="gathered", sequence=sequence, values=values)
            self._changed.notify_all()

    def _send_all(self, **message: Any) -> None:
        for connection in self._connections.values():
            connection.send(**message)

    def _handle_signals(self, numbers: bytes) -> None:
        if signal.SIGINT in numbers:
            self._end_all(INTERRUPTED, f"interrupted; {AGAIN}")
        if signal.SIGTERM not in numbers:
            return
        if self.index == 0:
            self._ask_positions()
        elif not self._connections[0].send(kind="terminated"):
            self._end(TERMINATED, f"stopped by SIGTERM; {AGAIN}")

    def _end_all(self, code: int, message: str) -> None:
        """Ends all processes through process 0."""
        if self.index == 0 or not self._connections[0].send(kind="failed", code=code, message=message):
            self._end(code, message)

    def _ask_positions(self) -> None:
        """Asks all processes for their step: all stop after the next step that none has passed."""
        if self._positions is None:
            self._positions = {}
            self._send_all(kind="where")
            self._take_position(0, self._hold())

    def _hold(self) -> int | None:
        """Makes the main thread wait for the agreement at the end of its step, and returns its last step."""
        with self._changed:
            self._is_agreeing = True
            return self._position

    def _take_position(self, index: int, position: int | None) -> None:
        self._positions[index] = position
        if len(self._positions) < self.count:
            return
        if None in self._positions.values():  # a process is not training, so there is no step to save after
            self._end(TERMINATED, f"stopped by SIGTERM; {AGAIN}")
        step = max(self._positions.values())
        self._send_all(kind="stop_after", step=step)
        self._settle(step)

    def _settle(self, step: int) -> None:
        with self._changed:
            self._stop_after, self._is_agreeing = step, False
            self._changed.notify_all()

    def _end(self, code: int, message: str | None) -> NoReturn:
        """Exits at once, independently of the main thread; process 0 first waits for the others to exit."""
        if not self._exiting.acquire(blocking=False):
            time.sleep(2 * _EXIT_SECONDS)  # the other thread is exiting
        if message:
            with contextlib.suppress(OSError, ValueError):  # closed by the reader
                os.write(sys.stderr.fileno() if sys.stderr else 2, f"\narinv: {message}\n".encode())
        if self.index == 0:
            self._send_all(kind="stop", code=code)
            deadline, others = time.monotonic() + _EXIT_SECONDS, list(self._connections.values())
            while others and time.monotonic() < deadline:
                others = [connection for connection in others if not connection.has_ended()]
        for child in multiprocessing.active_children():  # data workers
            child.kill()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, RuntimeError):
                pass  # closed by the reader
        os._exit(code)


def _ignore(*_: Any) -> None:
    """Handles a signal in the main thread; it wakes up the lifeline's thread separately."""
