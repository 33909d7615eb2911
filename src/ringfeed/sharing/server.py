"""Serving a ring over a Unix socket: the server, its check of the peer, and the client's request.

It may not know rings: it sends descriptors with a name, and receives them. Each side gets the identity of its peer from
the kernel (SO_PEERCRED, man 7 unix), and trusts no identity in a message.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import stat
import struct
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import AccessRefused, RingExists, RingFeedError, RingNotFound
from . import access, descriptors

_ANSWER_SECONDS = 10.0
_RETRY_SECONDS = 0.05
_MAX_PATH_BYTES = 107
_SO_PEERGROUPS = 59  # from linux/asm-generic/socket.h; Python has no name for it
_MAX_OPTION_BYTES = 1024  # Python's limit


@dataclass(frozen=True)
class Offer:
    """The name of a ring, the group that shares it, and the descriptors of its levels."""

    name: str
    group: int | None
    descriptors: tuple[int, ...]


def is_path(name: Any) -> bool:
    """Return whether this is the path of a socket: absolute, or relative to the working directory as in ``./feed``."""
    return isinstance(name, str) and name.startswith(("/", "./"))


def checked_path(path: Any) -> str:
    """Return the path of a socket as text; raise ValueError if it is too long, empty or has a NUL."""
    text = os.fsdecode(path)
    if not text or "\0" in text or len(os.fsencode(text)) > _MAX_PATH_BYTES:
        raise ValueError(
            f"socket {text!r:.120}: the path of a socket has 1 to {_MAX_PATH_BYTES} bytes. Give a shorter path, or "
            "one relative to the working directory."
        )
    return text


# ---- Receiving ---------------------------------------------------------------------------------------


def request(path: str, deadline: float, group: int | None) -> Offer:
    """Request the ring that a process serves at a path.

    Parameters
    ----------
    path : str
    deadline : float
        The time of `time.monotonic` at which to give up.
    group : int, optional
        Accept a ring of any user that is shared with this group. By default only this user's rings are accepted.

    Raises
    ------
    RingNotFound
        No process serves there.
    AccessRefused
        Another user serves there, or the server refuses this user.
    """
    while True:
        try:
            with _connect(path) as connection:
                return _receive(connection, path, group)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            if time.monotonic() >= deadline:
                raise RingNotFound(
                    f"socket {path!r}: no process serves a ring there ({error.strerror}). Call Ring.serve first, or "
                    "pass timeout= to wait for it."
                ) from None
        time.sleep(0.002)


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(path)
    except BaseException as error:
        connection.close()
        if isinstance(error, PermissionError):
            raise AccessRefused(
                f"socket {path!r} cannot be opened by user {access.user_name(os.geteuid())}. Its owner can give access "
                "by Ring.serve on a ring that was created with group=."
            ) from None
        if isinstance(error, OSError) and error.errno in (errno.ENOTSOCK, errno.EPROTOTYPE, errno.ENOTDIR):
            raise RingNotFound(
                f"socket {path!r}: there is something else than the socket of a ring ({error.strerror})."
            ) from None
        raise
    return connection


def _receive(connection: socket.socket, path: str, group: int | None) -> Offer:
    _, user, _ = _peer(connection)
    if group is None and user != os.geteuid():
        raise AccessRefused(
            f"socket {path!r}: user {access.user_name(user)} serves there; this process is user "
            f"{access.user_name(os.geteuid())}. Use a ring of this user, or share the ring by group= on both sides."
        )
    what = f"socket {path!r}"
    try:
        content, received = descriptors.receive(connection, what)
    except TimeoutError:
        raise RingNotFound(f"{what}: user {access.user_name(user)} listens there and does not answer.") from None
    except ConnectionResetError:
        raise RingNotFound(f"{what}: its process ended during the request.") from None
    try:
        return _offer(content, received, what)
    except BaseException:
        descriptors.close_all(received)
        raise


def _offer(content: dict[str, Any], received: list[int], what: str) -> Offer:
    if content.get("refused") is True:
        raise AccessRefused(
            f"{what}: its process refuses user {access.user_name(os.geteuid())}: it gives its ring to its own user, or "
            "to the group with which the ring was created."
        )
    name, group = content.get("name"), content.get("group")
    if not isinstance(name, str) or not (group is None or isinstance(group, int)) or not received:
        raise descriptors.not_a_ring(what)
    return Offer(name, group, tuple(received))


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    """Return process, user and group of the peer, as the kernel recorded them when the peer connected or listened."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    process, user, group = struct.unpack("iII", credentials)
    return process, user, group


# ---- Serving -----------------------------------------------------------------------------------------


class RingServer:
    """Gives a ring to each process that connects to a Unix socket, until the server or the ring is closed.

    `Ring.serve` returns it. It is a context manager.

    Attributes
    ----------
    path : str
        The path of the socket.
    """

    path: str

    def __init__(self, path: str, group: int | None, offer: Callable[[], Offer | None]) -> None:
        self.path = path
        listener = _listen(path, group)
        status = os.lstat(path)
        self.end = weakref.finalize(self, _stop, listener, path, (status.st_dev, status.st_ino), os.getpid())
        thread = threading.Thread(
            target=_serve, args=(listener, group, offer), name=f"ringfeed-serve-{path}", daemon=True
        )
        thread.start()
        _servers.add(self)
        self._listener = listener

    @property
    def closed(self) -> bool:
        """Whether the server has ended."""
        return not self.end.alive

    def close(self) -> None:
        """End the server and remove the socket. Processes that have the ring keep it."""
        self.end()

    def __enter__(self) -> RingServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RingServer at {self.path!r}{', closed' if self.closed else ''}>"


_servers: weakref.WeakSet[RingServer] = weakref.WeakSet()


def _in_forked_child() -> None:
    """Close the parent's sockets in the child: connections to them are for the parent."""
    for server in list(_servers):
        server.end.detach()
        server._listener.close()
    _servers.clear()


os.register_at_fork(after_in_child=_in_forked_child)


def _listen(path: str, group: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_abandoned(path)
            listener.bind(path)
        # No process can connect before `listen`, so the mode is right before the first connection.
        os.chmod(path, access.PRIVATE_MODE)
        if group is not None:
            os.chown(path, -1, group, follow_symlinks=False)
            os.chmod(path, access.GROUP_MODE)
        listener.listen()
    except OSError as error:
        listener.close()
        if isinstance(error, PermissionError) or error.errno in (
            errno.ENOENT,
            errno.ENOTDIR,
            errno.EROFS,
            errno.EADDRINUSE,
        ):
            raise RingFeedError(
                f"socket {path!r}: it cannot be created there ({error.strerror}). Give a path in a folder of this user."
            ) from None
        raise
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_abandoned(path: str) -> None:
    """Remove the socket of a process that has ended.

    Raises
    ------
    RingExists
        The path is taken by a living server, or by something else than a socket of this user.
    """
    status = os.lstat(path)
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise RingExists(f"socket {path!r}: {_description(status)} exists there. Remove it, or give another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:  # its queue is full, so it is alive
            pass
        else:
            raise RingExists(f"socket {path!r}: another process serves there. Give another path.")


def _description(status: os.stat_result) -> str:
    kind = "a file" if stat.S_ISREG(status.st_mode) else access.not_a_file(status.st_mode)
    return f"{kind} of user {access.user_name(status.st_uid)}"


def _serve(listener: socket.socket, group: int | None, offer: Callable[[], Offer | None]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(_RETRY_SECONDS)  # connections wait in the queue
                continue
            if error.errno == errno.ECONNABORTED:
                continue
            return  # the listener was closed
        with connection, contextlib.suppress(OSError):
            connection.setblocking(False)  # an answer is smaller than a socket's buffer
            offered = offer()
            if offered is None:
                return
            _answer(connection, group, offered)


def _answer(connection: socket.socket, group: int | None, offered: Offer) -> None:
    if not _has_access(connection, group):
        descriptors.send(connection, {"refused": True}, ())
        return
    descriptors.send(connection, {"name": offered.name, "group": offered.group}, offered.descriptors)


def _has_access(connection: socket.socket, group: int | None) -> bool:
    _, user, first_group = _peer(connection)
    if user == os.geteuid():
        return True
    if group is None:
        return False
    groups = array.array("I")
    with contextlib.suppress(OSError):  # more than 256 groups, or a kernel before 4.13
        peer_groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)
        groups.frombytes(peer_groups[: len(peer_groups) // groups.itemsize * groups.itemsize])
    return group == first_group or group in groups


def _stop(listener: socket.socket, path: str, which: tuple[int, int], process: int) -> None:
    if os.getpid() != process:
        return
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == which:
            os.unlink(path)
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
    listener.close()
