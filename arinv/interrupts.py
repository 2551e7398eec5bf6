"""Ctrl-C at any moment: one line, exit code 130.

Python raises KeyboardInterrupt in the main thread only, between two of its instructions: too late while XLA compiles,
and for nothing where a callback of JAX swallows it. A thread of its own hears of the signal at once.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from typing import NoReturn

CODE = 128 + signal.SIGINT
_LINE_SECONDS = 1.0  # for the main thread to print the line behind its last bar of progress
_PATIENCE_SECONDS = 5.0  # then, for it to end by itself: to finish a save, and to release its lock

_lock = threading.RLock()  # a signal may come while the main thread reports the one before
_happened = _reported = False
_message = "arinv: interrupted\n"


def watch() -> None:
    """Ends the process on SIGINT, from now on; for the main thread of the command.

    Where the process was started with SIGINT ignored, as by nohup, it stays ignored.
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


def let_finish(message: str) -> None:
    """Gives the main thread a KeyboardInterrupt first, and some seconds to end by itself; a second SIGINT ends at once.

    Args:
      message: the line that is printed.
    """
    global _message
    _message = f"\narinv: interrupted; {message}\n"  # a bar of progress may stand before it
    if signal.getsignal(signal.SIGINT) is _ignore:
        signal.signal(signal.SIGINT, _raise)


def happened() -> bool:
    """Returns whether SIGINT has come."""
    return _happened


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
            receiver.settimeout(_PATIENCE_SECONDS)
            continue
        if count > 1 or (count and signal.getsignal(signal.SIGINT) is _ignore):
            _end()
        receiver.settimeout(_LINE_SECONDS if count else None)


def _end() -> NoReturn:
    report()
    for child in multiprocessing.active_children():  # workers that read ahead
        child.kill()
    os._exit(CODE)


def _ignore(*_: object) -> None:
    """Handles a signal in the main thread: the thread that listens has received it."""


def _raise(*_: object) -> NoReturn:
    global _happened
    _happened = True
    # What falls apart from here on is of no interest.
    sys.unraisablehook = _ignore
    threading.excepthook = _ignore
    signal.signal(signal.SIGINT, lambda *_: _end())
    raise KeyboardInterrupt
