"""Messages over a Unix socket that carry the descriptors of a ring, and its name.

It may not know what a ring is. One message is a head (magic, bytes of the body, number of descriptors), with which the
descriptors travel, and a body in JSON.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from ..errors import LayoutMismatch, RingFeedError

_HEAD = struct.Struct("<8sIH")
_MAGIC = b"RINGSENT"
_MAX_BODY_BYTES = 65_536
_MAX_DESCRIPTORS = 64
_KINDS = {socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM}


def check_socket(sock: socket.socket, what: str) -> None:
    """Raise TypeError or ValueError if descriptors cannot be sent over the socket."""
    if not isinstance(sock, socket.socket):
        raise TypeError(
            f"{what}: a socket is needed, not {type(sock).__name__}. For a multiprocessing connection: "
            "socket.socket(fileno=os.dup(connection.fileno()))."
        )
    if sock.fileno() < 0:
        raise ValueError(f"{what}: the socket is closed. Open another one: socket.socketpair().")
    if sock.family != socket.AF_UNIX or sock.type not in _KINDS:
        kind = f"{getattr(sock.family, 'name', sock.family)}, {getattr(sock.type, 'name', sock.type)}"
        raise ValueError(
            f"{what}: memory can be handed over on a Unix socket only, and this one is {kind}. Use "
            "socket.socketpair(), or socket.AF_UNIX; machines cannot share rings."
        )
    if sock.gettimeout() == 0:
        raise ValueError(
            f"{what}: the socket is non-blocking, and a message could be split. Call setblocking(True) or "
            "settimeout(seconds); in a program with an event loop, do so in a thread of its own."
        )


def send(sock: socket.socket, content: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Send a dict of JSON values, and copies of descriptors."""
    body = json.dumps(content).encode()
    message = _HEAD.pack(_MAGIC, len(body), len(descriptors)) + body
    sent = socket.send_fds(sock, [message], descriptors) if descriptors else sock.send(message)
    if sent < len(message):  # only on a stream socket
        sock.sendall(message[sent:])


def receive(sock: socket.socket, what: str) -> tuple[dict[str, Any], list[int]]:
    """Return the content of a message, and its descriptors, which the caller owns.

    Raises
    ------
    LayoutMismatch
        The other end sent something else.
    RingFeedError
        The other end was closed, or this process has no descriptor left.
    """
    descriptors: list[int] = []
    try:
        first = _read(
            sock, _HEAD.size if sock.type == socket.SOCK_STREAM else _HEAD.size + _MAX_BODY_BYTES, descriptors
        )
        while sock.type == socket.SOCK_STREAM and 0 < len(first) < _HEAD.size:
            more = _read(sock, _HEAD.size - len(first), descriptors)
            if not more:
                break
            first += more
        if not first:
            raise RingFeedError(f"{what}: the other end of the socket was closed before it sent a ring.")
        head, body = first[: _HEAD.size], first[_HEAD.size :]
        magic, length, count = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0, 0)
        if magic != _MAGIC or length > _MAX_BODY_BYTES or count > _MAX_DESCRIPTORS:
            raise not_a_ring(what)
        while len(body) < length and (more := _read(sock, length - len(body), descriptors)):
            body += more
        if len(body) != length:
            raise RingFeedError(f"{what}: the other end of the socket was closed in the middle of a message.")
        if len(descriptors) != count:
            raise RingFeedError(
                f"{what}: {count} descriptors were sent and {len(descriptors)} arrived: this process has too many open "
                "files. Close some, or raise its limit (ulimit -n)."
            )
        content = _parsed(body)
        if content is None:
            raise not_a_ring(what)
        return content, descriptors
    except BaseException:
        close_all(descriptors)
        raise


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def not_a_ring(what: str) -> LayoutMismatch:
    """Return the error for a message that no ring sent."""
    return LayoutMismatch(
        f"{what}: the message on the socket was not sent by a ring of this version of RingFeed. Run the same version "
        "in every process."
    )


def _read(sock: socket.socket, most: int, descriptors: list[int]) -> bytes:
    numbers = array.array("i")
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * numbers.itemsize)
    data, ancillary, _, _ = sock.recvmsg(most, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    descriptors.extend(numbers)
    return data


def close_all(descriptors: list[int]) -> None:
    """Close the descriptors that are left, and empty the list."""
    while descriptors:
        os.close(descriptors.pop())
