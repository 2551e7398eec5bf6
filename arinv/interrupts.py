"""Handling of Ctrl-C at any moment: one line, exit code 130.

Python raises KeyboardInterrupt in the main thread only, between two of its instructions: late while XLA compiles, and
without effect where a callback of JAX catches it. A separate thread receives the signal at once.
"""

import contextlib
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
