"""A ring's descriptors over a Unix socket, with what is needed to name it.

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
_MOST_BODY_BYTES = 65_536
_MOST_DESCRIPTORS = 64
_KINDS = {socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM}


def check_socket(sock: socket.socket, what: str) -> None:
    """Raise TypeError or ValueError for what descriptors can not travel over."""
    if not isinstance(sock, socket.socket):
        raise TypeError(
            f"{what}: a socket is needed, not {type(sock).__name__}. Of a multiprocessing connection: "
            "socket.socket(fileno=os.dup(connection.fileno()))."
        )
    if sock.fileno() < 0:
        raise ValueError(f"{what}: the socket is closed. Open another one: socket.socketpair().")
    if sock.family != socket.AF_UNIX or sock.type not in _KINDS:
        kind = f"{getattr(sock.family, 'name', sock.family)}, {getattr(sock.type, 'name', sock.type)}"
        raise ValueError(
            f"{what}: memory can be handed over on a Unix socket only, and this one is {kind}. Use "
            "socket.socketpair(), or socket.AF_UNIX; between machines rings can not be shared."
        )
    if sock.gettimeout() == 0:
        raise ValueError(
            f"{what}: the socket does not block, and a message could be cut in two. Call setblocking(True) or "
            "settimeout(seconds), in a thread of its own where an event loop runs."
        )


def send(sock: socket.socket, about: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Send a dict that JSON can say, and copies of descriptors."""
    body = json.dumps(about).encode()
    message = _HEAD.pack(_MAGIC, len(body), len(descriptors)) + body
    sent = socket.send_fds(sock, [message], descriptors) if descriptors else sock.send(message)
    if sent < len(message):  # of a stream alone
        sock.sendall(message[sent:])


def receive(sock: socket.socket, what: str) -> tuple[dict[str, Any], list[int]]:
    """Return what was sent, and the descriptors, which are the caller's now.

    Raises
    ------
    LayoutMismatch
        The other end sent something else.
    RingFeedError
        It is gone, or no descriptor is left for what it sent.
    """
    descriptors: list[int] = []
    try:
        first = _read(
            sock, _HEAD.size if sock.type == socket.SOCK_STREAM else _HEAD.size + _MOST_BODY_BYTES, descriptors
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
        if magic != _MAGIC or length > _MOST_BODY_BYTES or count > _MOST_DESCRIPTORS:
            raise not_a_ring(what)
        while len(body) < length and (more := _read(sock, length - len(body), descriptors)):
            body += more
        if len(body) != length:
            raise RingFeedError(f"{what}: the other end of the socket was closed within a message.")
        if len(descriptors) != count:
            raise RingFeedError(
                f"{what}: {count} descriptors were sent and {len(descriptors)} arrived: this process has too many open "
                "files. Close some, or raise its limit (ulimit -n)."
            )
        about = _parsed(body)
        if about is None:
            raise not_a_ring(what)
        return about, descriptors
    except BaseException:
        close_all(descriptors)
        raise


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        about = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) else None


def not_a_ring(what: str) -> LayoutMismatch:
    """Return the error for a message that says something else."""
    return LayoutMismatch(
        f"{what}: what came over the socket was not sent by a ring of this version of RingFeed. Run the same version "
        "in every process."
    )


def _read(sock: socket.socket, most: int, descriptors: list[int]) -> bytes:
    numbers = array.array("i")
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * numbers.itemsize)
    data, ancillary, _, _ = sock.recvmsg(most, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    descriptors.extend(numbers)
    return data


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that nobody took."""
    while descriptors:
        os.close(descriptors.pop())
