"""Messages between the predictor and its workers, over a Unix socket.

It may not know the contents of the messages. Tensors never come this way; rings do, as descriptors.

The received part of a message stays with the channel until the rest is there, and the unsent part of a message goes
before the next one. So the channel stays in step after a receive that times out, and after a signal handler that raises
within a receive or a send.
"""

from __future__ import annotations

import array
import contextlib
import math
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

_LENGTH = struct.Struct("<QI")  # bytes of the message, descriptors with it
_MOST_DESCRIPTORS = 250
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MOST_DESCRIPTORS * struct.calcsize("i"))
_PIECE_BYTES = 1 << 20
_LONGEST_POLL_MS = 1 << 30
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC

_Piece = tuple[bytes, list[tuple[int, int, bytes]], int, Any]
"""As `socket.recvmsg` returns it: bytes, ancillary data, flags, address."""


class _Outgoing(NamedTuple):
    """A message that is being sent, with its length in front."""

    body: memoryview
    descriptors: tuple[int, ...]
    sent: list[int]  # bytes of each piece


class ChannelClosed(Exception):
    """The other end is gone."""


class Channel:
    """One end of a two-way channel. One thread receives; any number send.

    Parameters
    ----------
    connection : socket.socket
        A connected Unix stream socket; the channel closes it.
    encode, decode : callable
        ``encode(message)`` returns the bytes to send; ``decode(body)`` the message of received bytes.
    max_bytes : int, optional
        The size limit of a received message; by default none.
    """

    def __init__(
        self,
        connection: socket.socket,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        max_bytes: int = sys.maxsize,
    ) -> None:
        self._socket = connection
        self._encode = encode
        self._decode = decode
        self._max_bytes = max_bytes
        self._socket.setblocking(True)
        self._sending = threading.Lock()
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self._pieces: list[_Piece] = []  # of the message that is being received
        self._under_way: _Outgoing | None = None

    def send(self, message: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message, with copies of open descriptors. It waits while the other end's buffer is full.

        Raises
        ------
        ChannelClosed
            The other end is gone.
        """
        content = self._encode(message)
        body = memoryview(_LENGTH.pack(len(content), len(descriptors)) + content)
        try:
            with self._sending:
                self._send_rest()
                self._under_way = _Outgoing(body, descriptors, [])
                self._send_rest()
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def _send_rest(self) -> None:
        """Send the rest of the message under way, which a signal handler that raised may have left.

        A message of which nothing was sent is dropped: its descriptors may have been closed since.
        """
        message = self._under_way
        if message is None:
            return
        try:
            while (done := sum(message.sent)) < len(message.body):
                rest = message.body[done : done + _PIECE_BYTES]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", message.descriptors))]
                first = not done and message.descriptors
                # One step of the interpreter: a signal handler can raise only before it or after it.
                message.sent.extend(map(self._socket.sendmsg, ([rest],), (rights if first else [],)))
        finally:
            if not message.sent or sum(message.sent) == len(message.body):
                self._under_way = None

    def receive(self, timeout: float | None = None) -> tuple[Any, list[int]]:
        """Wait for the next message.

        Parameters
        ----------
        timeout : float, optional
            Seconds for the whole message; None waits for ever.

        Returns
        -------
        message : object
        descriptors : list of int
            The receiver owns them; no program that it starts inherits them.

        Raises
        ------
        ChannelClosed
            The other end is gone, perhaps within a message.
        TimeoutError
            No message was complete within `timeout` seconds. The next `receive` continues with the received part.
        OSError
            Not all descriptors arrived, because this process has too many open files. The message is lost, the channel
            continues.
        Exception
            Raised by `decode`; the message is lost, the channel continues.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pieces = self._pieces  # `close`, in another thread or in a signal handler, does not change this list
        got = sum(len(piece[0]) for piece in pieces)
        # The length by itself: a read beyond a message's end would drop the descriptors of the next one.
        while got < _LENGTH.size:
            got += self._read(pieces, _LENGTH.size - got, deadline)
        length, count = _LENGTH.unpack(b"".join(piece[0] for piece in pieces[: _LENGTH.size])[: _LENGTH.size])
        if length > self._max_bytes:
            self._socket.close()
            self._drop()
            raise ChannelClosed(f"the other end sent a message of {length} bytes; the limit is {self._max_bytes}")
        while got < _LENGTH.size + length:
            got += self._read(pieces, min(_LENGTH.size + length - got, _PIECE_BYTES), deadline)
        if self._pieces is not pieces:
            raise ChannelClosed("the channel was closed while a message was received")
        self._pieces = []
        descriptors = _descriptors(pieces)
        try:
            if len(descriptors) != count:
                raise OSError(
                    f"{count} descriptors were sent and {len(descriptors)} arrived: this process has too many open "
                    "files. Raise its limit (ulimit -n)."
                )
            return self._decode(b"".join(piece[0] for piece in pieces)[_LENGTH.size :]), descriptors
        except BaseException:
            _close_all(descriptors)
            raise

    def _read(self, pieces: list[_Piece], most: int, deadline: float) -> int:
        """Wait for bytes of the message under way and keep them; return their number, from 1 to `most`."""
        before = len(pieces)
        while len(pieces) == before:
            try:
                # One step of the interpreter: a signal handler can raise only before it or after it.
                pieces.extend(map(self._socket.recvmsg, (most,), (_ANCILLARY_BYTES,), (_FLAGS,)))
            except BlockingIOError:
                self._wait(deadline)
            except OSError as error:
                raise ChannelClosed(str(error)) from None
        if count := len(pieces[-1][0]):
            return count
        pieces.pop()
        what = "the channel ended within a message" if pieces else "end of the channel"
        self._drop()
        raise ChannelClosed(what)

    def _wait(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no message was complete in time")
        self._readable.poll(None if left == math.inf else min(math.ceil(left * 1000), _LONGEST_POLL_MS))

    def _drop(self) -> None:
        pieces, self._pieces = self._pieces, []
        _close_all(_descriptors(pieces))

    def fileno(self) -> int:
        """Return the descriptor, for `selectors`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end; the other end's `receive` raises `ChannelClosed`."""
        self._socket.close()
        self._drop()


def _descriptors(pieces: list[_Piece]) -> list[int]:
    """Return the descriptors that came with pieces of a message."""
    found: list[int] = []
    for _, ancillary, _, _ in pieces:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found += struct.unpack(f"{len(data) // struct.calcsize('i')}i", data)
    return found


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
