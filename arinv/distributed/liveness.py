"""The lifeline between the processes of a run: who is alive, who has to stop, and short words among all of them.

Every process has a connection to process 0 and a thread that serves it, whatever the main thread is doing. A process
that is killed closes its connection, and one whose machine is gone falls silent: the others end with one line and an
exit code instead of waiting in a collective for ever. SIGTERM on one process becomes a step at which all of them stop.
"""

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
from arinv.errors import UserError

TERMINATED = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended, and schedulers restart on
LOST = os.EX_TEMPFAIL  # a process or a machine is gone; another start goes on from the last checkpoint
INTERRUPTED = 128 + signal.SIGINT

AGAIN = "start again to go on from the last checkpoint"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FAREWELL_SECONDS = 5.0  # for the others to be gone before process 0 takes JAX's coordinator with it
_VERDICT_SECONDS = 15.0  # for a broken collective to turn out as a lost process


class Lifeline:
    """The connections of one process. Its thread is started by the constructor, which the main thread must call.

    Args:
      index: of this process.
      count: number of processes.
      connections: by index; all others at process 0, process 0 elsewhere.
      lost_after: seconds of silence after which a process counts as lost.
    """

    def __init__(self, index: int, count: int, connections: Mapping[int, Connection], *, lost_after: float):
        self.index, self.count = index, count
        self._connections, self._lost_after = dict(connections), lost_after
        self._changed = threading.Condition()
        self._leaving = threading.Lock()
        self._sequence = 0
        self._parts: dict[int, dict[int, Any]] = {}  # at process 0: what has come of each gathering
        self._gathered: dict[int, list] = {}
        self._position: int | None = None  # the last step that was passed, None outside of a training loop
        self._positions: dict[int, int | None] | None = None  # at process 0: the answers, once somebody asked
        self._is_agreeing = False
        self._stop_after: int | None = None
        self._finished = False
        self._wake, wake = socket.socketpair()
        wake.setblocking(False)
        self._wake_sender = wake
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._old_wake = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self.take_signals()
        self._thread = threading.Thread(target=self._live, name="lifeline", daemon=True)
        self._thread.start()

    def take_signals(self) -> None:
        """Has SIGTERM and SIGINT wake up the thread, from now on or again after somebody else took them."""
        for number in _SIGNALS:
            signal.signal(number, _ignore)

    def gather(self, value: Any) -> list:
        """Returns the values of all processes, in order, once all have called. For the main thread.

        Args:
          value: small plain JSON.
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

    def enter(self, step: int) -> None:
        """Says that a training loop begins behind `step`, so that SIGTERM waits for a step to end."""
        with self._changed:
            self._position = step

    def has_to_stop(self, step: int) -> bool:
        """Returns whether all processes stop behind `step`. To be called behind every step."""
        with self._changed:
            while self._is_agreeing:
                self._changed.wait(1.0)
            self._position = step
            return self._stop_after is not None and step > self._stop_after

    def leave(self) -> bool:
        """Says that the training loop is over; returns whether SIGTERM came too late for a step to stop at."""
        with self._changed:
            while self._is_agreeing:
                self._changed.wait(1.0)
            self._position = None
            return self._stop_after is not None

    def fail(self, code: int, message: str) -> NoReturn:
        """Ends all processes with an exit code; process 0 alone says why. For the main thread."""
        self._end_all(code, message)
        time.sleep(_VERDICT_SECONDS)  # process 0 ends us meanwhile
        self._end(code, message)

    def await_verdict(self) -> None:
        """Waits a while for the thread to find out that a process is lost, which would end this one."""
        time.sleep(_VERDICT_SECONDS)

    def finish(self) -> None:
        """Ends the lifeline in peace: nobody is missed from now on."""
        for connection in self._connections.values():
            connection.send(kind="goodbye")
        self._finished = True
        self._wake_sender.send(b"\0")
        self._thread.join()
        signal.set_wakeup_fd(self._old_wake)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for end in (*self._connections.values(), self._wake, self._wake_sender):
            end.close()

    def _live(self) -> None:
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
                self._take(index, connection.early)
            last_turn = next_beat = time.monotonic()
            while not self._finished:
                for key, _ in selector.select(interval / 2):
                    if key.data is None:
                        self._take_signals(self._wake.recv(64))
                    elif not self._serve(key.data):
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if now - last_turn > 4 * interval:  # this process itself was asleep, and has heard nobody
                    for connection in self._connections.values():
                        connection.heard = now
                last_turn = now
                if now >= next_beat:
                    next_beat = now + interval
                    self._check_silence(now)

    def _check_silence(self, now: float) -> None:
        for index, connection in self._connections.items():
            if connection.said_goodbye:
                continue
            connection.send(kind="beat")
            if now - connection.heard > self._lost_after:
                self._lose(index, f"has been silent for {now - connection.heard:.0f} s")

    def _serve(self, index: int) -> bool:
        """Takes what a connection brings; returns whether it is still open."""
        connection = self._connections[index]
        try:
            messages = connection.receive()
        except TimeoutError:
            return True
        if messages is None:
            if not connection.said_goodbye:
                self._lose(index, "is gone: it was killed, or its machine failed")
            return False
        self._take(index, messages)
        return True

    def _lose(self, index: int, what: str) -> None:
        if not self._finished:
            self._end(LOST, f"{self._connections[index].name} {what}; all processes stop, {AGAIN}")

    def _take(self, index: int, messages: list[dict]) -> None:
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
                case "goodbye":
                    self._connections[index].said_goodbye = True

    def _add_part(self, sequence: int, index: int, value: Any) -> None:
        parts = self._parts.setdefault(sequence, {})
        parts[index] = value
        if len(parts) == self.count:
            values = [parts[i] for i in range(self.count)]
            del self._parts[sequence]
            self._gathered[sequence] = values
            self._tell_all(kind="gathered", sequence=sequence, values=values)
            self._changed.notify_all()

    def _tell_all(self, **message: Any) -> None:
        for connection in self._connections.values():
            connection.send(**message)

    def _take_signals(self, numbers: bytes) -> None:
        if signal.SIGINT in numbers:
            self._end_all(INTERRUPTED, f"interrupted; {AGAIN}")
        if signal.SIGTERM not in numbers:
            return
        if self.index == 0:
            self._ask_positions()
        elif not self._connections[0].send(kind="terminated"):
            self._end(TERMINATED, f"stopped by SIGTERM; {AGAIN}")

    def _end_all(self, code: int, message: str) -> None:
        """Ends this process by way of process 0, which ends all of them."""
        if self.index == 0 or not self._connections[0].send(kind="failed", code=code, message=message):
            self._end(code, message)

    def _ask_positions(self) -> None:
        """Asks everybody how far it is: all stop behind the first step that nobody has passed yet."""
        if self._positions is None:
            self._positions = {}
            self._tell_all(kind="where")
            self._take_position(0, self._hold())

    def _hold(self) -> int | None:
        """Makes the main thread wait at the end of its step for the agreement, and returns the last one it passed."""
        with self._changed:
            self._is_agreeing = True
            return self._position

    def _take_position(self, index: int, position: int | None) -> None:
        self._positions[index] = position
        if len(self._positions) < self.count:
            return
        if None in self._positions.values():  # somebody is not training: there is nothing that a step would save
            self._end(TERMINATED, f"stopped by SIGTERM; {AGAIN}")
        step = max(self._positions.values())
        self._tell_all(kind="stop_after", step=step)
        self._settle(step)

    def _settle(self, step: int) -> None:
        with self._changed:
            self._stop_after, self._is_agreeing = step, False
            self._changed.notify_all()

    def _end(self, code: int, message: str | None) -> NoReturn:
        """Ends this process now, whatever its main thread waits for; process 0 sees the others off first."""
        if not self._leaving.acquire(blocking=False):
            time.sleep(2 * _FAREWELL_SECONDS)  # the other thread is at it
        if message:
            os.write(sys.stderr.fileno() if sys.stderr else 2, f"\narinv: {message}\n".encode())
        if self.index == 0:
            self._tell_all(kind="stop", code=code)
            deadline, there = time.monotonic() + _FAREWELL_SECONDS, list(self._connections.values())
            while there and time.monotonic() < deadline:
                there = [connection for connection in there if not connection.has_ended()]
        for child in multiprocessing.active_children():  # workers that read ahead
            child.kill()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, RuntimeError):
                pass  # nobody reads it any more
        os._exit(code)


def _ignore(*_: Any) -> None:
    """Handles a signal in the main thread: the lifeline's thread has been woken up for it."""


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
