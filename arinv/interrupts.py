"""Handling of Ctrl-C at any moment: one line, exit code 130; and of a terminal that is closed during a run.

Python raises KeyboardInterrupt in the main thread only, between two of its instructions: late while XLA compiles, and
without effect where a callback of JAX catches it. A separate thread receives the signal at once.
"""

import contextlib
import errno
import io
import multiprocessing
import os
import signal
import socket
import sys
import threading
from typing import NoReturn

from arinv.errors import INTERRUPTED

_LINE_SECONDS = 1.0  # for the main thread to print the line after its progress bar
_GRACE_SECONDS = 5.0  # then, for it to exit: to finish a save, and to release its lock

_lock = threading.RLock()  # a signal may come while the main thread reports the one before
_received = _reported = False
_message = "arinv: interrupted\n"


def install_handler() -> None:
    """Makes SIGINT end the process, from now on; call it from the main thread of the command.

    If the process was started with SIGINT ignored, as by nohup, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    try:
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        signal.signal(signal.SIGINT, _ignore)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    except (ValueError, OSError):  # not the main thread, or no descriptor left
        return
    threading.Thread(target=_listen, args=(receiver, sender), name="interrupts", daemon=True).start()


def allow_cleanup(message: str) -> None:
    """Makes SIGINT raise KeyboardInterrupt in the main thread, which then has some seconds to exit.

    A second SIGINT ends the process at once.

    Args:
      message: end of the line that is printed.
    """
    global _message
    _message = f"\narinv: interrupted; {message}\n"  # a progress bar may precede it
    if signal.getsignal(signal.SIGINT) is _ignore:
        signal.signal(signal.SIGINT, _raise)


def outlive_terminals() -> None:
    """Makes the process outlive the terminal that it was started in; call it from the main thread of the command.

    What is printed after the terminal was closed is discarded. SIGHUP, which the processes of a terminal get then, acts
    as SIGTERM does: a training saves first. If it is ignored, as by nohup, it stays ignored.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty():
            stream.flush()
            raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True))
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def leave_to_parent() -> None:
    """Makes a worker process ignore the signals that its whole process group gets; the process that started it ends it.

    Those are Ctrl-C, the end of a terminal, and SIGTERM of schedulers and of systemd. The process that started it may
    need its batches to get to the step after which all save.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(number, signal.SIG_IGN)


class _Terminal(io.FileIO):
    """A terminal as a file, which turns into the null device when it is closed."""

    def write(self, data: bytes) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def received() -> bool:
    """Returns whether SIGINT was received."""
    return _received


def report() -> None:
    """Prints the line, once."""
    global _reported
    with _lock:
        if not _reported:
            _reported = True
            with contextlib.suppress(OSError):
                os.write(2, _message.encode())


def _listen(receiver: socket.socket, _: socket.socket) -> None:
    count = 0
    while True:
        try:
            count += receiver.recv(64).count(signal.SIGINT)
        except TimeoutError:
            if _reported:
                _end()
            report()
            receiver.settimeout(_GRACE_SECONDS)
            continue
        if count > 1 or (count and signal.getsignal(signal.SIGINT) is _ignore):
            _end()
        receiver.settimeout(_LINE_SECONDS if count else None)


def _end() -> NoReturn:
    report()
    for child in multiprocessing.active_children():  # data workers
        child.kill()
    os._exit(INTERRUPTED)


def _ignore(*_: object) -> None:
    """Handles a signal in the main thread; the listening thread receives it separately."""


def _raise(*_: object) -> NoReturn:
    global _received
    _received = True
    # Later errors are consequences of the interrupt.
    sys.unraisablehook = _ignore
    threading.excepthook = _ignore
    signal.signal(signal.SIGINT, lambda *_: _end())
    raise KeyboardInterrupt
