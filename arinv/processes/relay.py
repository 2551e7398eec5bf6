"""A way to JAX's coordinator that does not break with it.

JAX ends a process with an abort and a page of text in the moment in which its connection to the coordinator breaks.
With this between them it notices some seconds later, when the lifeline has ended the process in its own words.
"""

import contextlib
import socket
import threading
import time

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
