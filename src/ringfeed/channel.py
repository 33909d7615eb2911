"""Messages between the predictor and its workers: set-up and orders, over a Unix socket.

It may not know what the messages say. Tensors never come this way; rings do, as descriptors.
"""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from typing import Any

_LENGTH = struct.Struct("<QI")  # bytes of the message, descriptors with it
_MOST_DESCRIPTORS = 250


class ChannelClosed(Exception):
    """The other end is gone."""


class Channel:
    """One end of a two-way channel.

    Parameters
    ----------
    connection : socket.socket
        A connected Unix stream socket; the channel closes it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()

    def send(self, message: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message, and copies of open descriptors with it.

        Raises
        ------
        ChannelClosed
            The other end is gone.
        """
        body = pickle.dumps(message, protocol=5)
        head = _LENGTH.pack(len(body), len(descriptors))
        try:
            with self._sending:
                if descriptors:
                    socket.send_fds(self._socket, [head], descriptors)
                else:
                    self._socket.sendall(head)
                self._socket.sendall(body)
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(self, timeout: float | None = None) -> tuple[Any, list[int]]:
        """Wait for the next message.

        Returns
        -------
        message : object
        descriptors : list of int
            Now the receiver's own.

        Raises
        ------
        ChannelClosed
            The other end is gone.
        TimeoutError
            Nothing came within `timeout` seconds.
        """
        self._socket.settimeout(timeout)
        try:
            head, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH.size, _MOST_DESCRIPTORS)
            head += self._receive_exactly(_LENGTH.size - len(head)) if head else b""
            if not head:
                raise ChannelClosed("end of the channel")
            body = self._receive_exactly(_LENGTH.unpack(head)[0])
        except TimeoutError:
            raise
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        finally:
            self._socket.settimeout(None)
        return pickle.loads(body), list(descriptors)

    def _receive_exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(min(count - len(parts), 1 << 20))
            if not part:
                raise ChannelClosed("the channel ended within a message")
            parts += part
        return bytes(parts)

    def fileno(self) -> int:
        """Return the descriptor, for `selectors`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end; the other end's `receive` raises `ChannelClosed`."""
        self._socket.close()
