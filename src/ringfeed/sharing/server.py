"""Rings handed over a Unix socket: who listens there, who may ask, and the descriptors that go over.

It may not know rings: it sends descriptors with a name, and receives them. Both sides ask the kernel who the other one
is (SO_PEERCRED, man 7 unix); neither believes what it is told.
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
from . import access
from . import descriptors as handing_over

_ANSWER_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_MOST_PATH_BYTES = 107
_SO_PEERGROUPS = 59  # of linux/asm-generic/socket.h; Python has no name for it
_MOST_OPTION_BYTES = 1024  # as Python has it


@dataclass(frozen=True)
class Offer:
    """What goes over: the name of a ring, the group that shares it, and the descriptors of its levels."""

    name: str
    group: int | None
    descriptors: tuple[int, ...]


def is_path(name: Any) -> bool:
    """Tell whether a ring is given by the path of a socket: from the root, or from this folder as in ``./feed``."""
    return isinstance(name, str) and name.startswith(("/", "./"))


def checked_path(path: Any) -> str:
    """Return the path of a socket as text, or say what is wrong with it."""
    text = os.fsdecode(path)
    if not text or "\0" in text or len(os.fsencode(text)) > _MOST_PATH_BYTES:
        raise ValueError(
            f"socket {text!r:.120}: the path of a socket has 1 to {_MOST_PATH_BYTES} bytes. Give a shorter one, or one "
            "from the current folder on."
        )
    return text


# ---- Receiving ---------------------------------------------------------------------------------------


def ask(path: str, until: float, group: int | None) -> Offer:
    """Ask the process that serves at a path for its ring.

    Parameters
    ----------
    path : str
    until : float
        When to give up, as of `time.monotonic`.
    group : int, optional
        Any user may serve whose ring is shared with this group. By default this user alone.

    Raises
    ------
    RingNotFound
        Nobody serves there.
    AccessRefused
        Another user serves there, or whoever does refuses this one.
    """
    while True:
        try:
            with _connect(path) as connection:
                return _receive(connection, path, group)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            if time.monotonic() >= until:
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
                f"socket {path!r} may not be opened by user {access.user_name(os.geteuid())}. Its owner lets others in "
                "by Ring.serve on a ring that was created with group=."
            ) from None
        if isinstance(error, OSError) and error.errno in (errno.ENOTSOCK, errno.EPROTOTYPE, errno.ENOTDIR):
            raise RingNotFound(
                f"socket {path!r}: what stands there is no socket of a ring's ({error.strerror})."
            ) from None
        raise
    return connection


def _receive(connection: socket.socket, path: str, group: int | None) -> Offer:
    _, user, _ = _peer(connection)
    if group is None and user != os.geteuid():
        raise AccessRefused(
            f"socket {path!r}: user {access.user_name(user)} serves there; this process is user "
            f"{access.user_name(os.geteuid())}. Take no ring from another user; or share it by group= on both sides."
        )
    what = f"socket {path!r}"
    try:
        told, descriptors = handing_over.receive(connection, what)
    except TimeoutError:
        raise RingNotFound(f"{what}: user {access.user_name(user)} listens there and says nothing.") from None
    except ConnectionResetError:
        raise RingNotFound(f"{what}: its process ended just now.") from None
    try:
        return _offer(told, descriptors, what)
    except BaseException:
        handing_over.close_all(descriptors)
        raise


def _offer(told: dict[str, Any], descriptors: list[int], what: str) -> Offer:
    if told.get("refused") is True:
        raise AccessRefused(
            f"{what}: its process refuses user {access.user_name(os.geteuid())}: it gives its ring to its own user, or "
            "to the group that the ring was created for."
        )
    name, group = told.get("name"), told.get("group")
    if not isinstance(name, str) or not (group is None or isinstance(group, int)) or not descriptors:
        raise handing_over.not_a_ring(what)
    return Offer(name, group, tuple(descriptors))


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    """Return process, user and group of the other side, as the kernel noted them when it connected, or listened."""
    kept = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    process, user, group = struct.unpack("iII", kept)
    return process, user, group


# ---- Serving -----------------------------------------------------------------------------------------


class RingServer:
    """Gives a ring to whoever connects to a Unix socket, until it, or the ring, is closed.

    `Ring.serve` makes it. It is a context manager.

    Attributes
    ----------
    path : str
        Of the socket.
    """

    path: str

    def __init__(self, path: str, group: int | None, offer: Callable[[], Offer | None]) -> None:
        self.path = path
        listener = _listen(path, group)
        kept = os.lstat(path)
        self.end = weakref.finalize(self, _stop, listener, path, (kept.st_dev, kept.st_ino), os.getpid())
        thread = threading.Thread(
            target=_serve, args=(listener, group, offer), name=f"ringfeed-serve-{path}", daemon=True
        )
        thread.start()
        _servers.add(self)
        self._listener = listener

    @property
    def closed(self) -> bool:
        """Whether it gives the ring to nobody any more."""
        return not self.end.alive

    def close(self) -> None:
        """Serve nobody any more, and remove the socket; whoever has the ring goes on."""
        self.end()

    def __enter__(self) -> RingServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RingServer at {self.path!r}{', closed' if self.closed else ''}>"


_servers: weakref.WeakSet[RingServer] = weakref.WeakSet()


def _in_forked_child() -> None:
    """Let go of the parent's sockets: who connects to them wants the parent, and is told so when it is gone."""
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
            _remove_left_behind(path)
            listener.bind(path)
        # Until it listens nobody can connect: the mode is right before anyone can.
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
                f"socket {path!r}: it cannot be made there ({error.strerror}). Give a path in a folder of this user's."
            ) from None
        raise
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_left_behind(path: str) -> None:
    """Remove the socket of a process that is gone, or say that the path is taken."""
    status = os.lstat(path)
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise RingExists(f"socket {path!r}: {_what_stands(status)} stands there. Remove it, or give another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:  # its queue is full
            pass
        else:
            raise RingExists(f"socket {path!r}: another process serves there. Give another path.")


def _what_stands(status: os.stat_result) -> str:
    kind = "a file" if stat.S_ISREG(status.st_mode) else access.not_a_file(status.st_mode)
    return f"{kind} of user {access.user_name(status.st_uid)}"


def _serve(listener: socket.socket, group: int | None, offer: Callable[[], Offer | None]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(_PAUSE_SECONDS)  # who connects waits in the queue
                continue
            if error.errno == errno.ECONNABORTED:
                continue
            return  # it was closed
        with connection, contextlib.suppress(OSError):
            connection.setblocking(False)  # an answer is shorter than any socket's buffer
            offered = offer()
            if offered is None:
                return
            _answer(connection, group, offered)


def _answer(connection: socket.socket, group: int | None, offered: Offer) -> None:
    if not _may_have(connection, group):
        handing_over.send(connection, {"refused": True}, ())
        return
    handing_over.send(connection, {"name": offered.name, "group": offered.group}, offered.descriptors)


def _may_have(connection: socket.socket, group: int | None) -> bool:
    _, user, first_group = _peer(connection)
    if user == os.geteuid():
        return True
    if group is None:
        return False
    groups = array.array("I")
    with contextlib.suppress(OSError):  # more of them than fit (256), or a kernel before 4.13
        kept = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_OPTION_BYTES)
        groups.frombytes(kept[: len(kept) // groups.itemsize * groups.itemsize])
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
