"""A line of messages to another process: JSON objects, one a line, over TCP."""

import json
import socket
import threading
import time
from typing import Any

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
