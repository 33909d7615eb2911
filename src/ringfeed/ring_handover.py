"""Handing a ring to other processes by descriptor: `Ring.serve`, `send`, `receive` and `attach_descriptor`.

It may not know how a ring is created, nor the format of the messages (sharing/descriptors.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from typing import TypeVar

from . import segment
from .arguments import check_int, check_timeout
from .errors import AccessRefused, RingClosed, RingFeedError
from .ring_levels import RingLevels
from .sharing import access, descriptors, server

_AnyRing = TypeVar("_AnyRing", bound="RingHandover")


class RingHandover(RingLevels):
    """The part of `Ring` that hands a ring, with or without a name, to other processes."""

    _server: server.RingServer | None = None

    _path: str | None = None
    """The path of the socket over which this handle was attached."""

    def serve(self, path: str | os.PathLike[str]) -> server.RingServer:
        """Give the ring to processes that connect to a Unix socket; they call `attach` with the socket's path.

        The ring needs no name in /dev/shm. A ring that `create_nameless` made cannot be found in another way, its
        memory cannot be truncated by others, and only the socket can remain after a crash. The next `serve` at the
        path replaces such a socket. A thread of this process answers the connections. It gives the ring to processes of
        this user and, if the ring was created with `group`, to that group's. The kernel identifies the peer
        (SO_PEERCRED).

        Parameters
        ----------
        path : str or path
            At most 107 bytes. Nothing may exist there, and other users must not be able to remove files from the
            folder. The socket's mode is 0600, or 0660 with a group.

        Returns
        -------
        RingServer
            Its `close` ends the serving; so do the end of a ``with`` block and `close` of the ring.

        Raises
        ------
        RingExists
            Another process serves there, or the path is taken by something that is no socket of this user.
        RingFeedError
            The socket cannot be created there; or this handle serves the ring already.
        RingClosed
            The ring is closed.

        Examples
        --------
        >>> ring = Ring.create_nameless({"x": ((), "int64")})
        >>> with ring.serve(path):
        ...     Ring.attach(path).put({"x": 1})
        """
        if self.closed:
            raise RingClosed(f"ring {self.name!r} is closed; serve it while it is open.")
        if self._server is not None and not self._server.closed:
            raise RingFeedError(
                f"ring {self.name!r} is served at {self._server.path!r} already. Close that server first."
            )
        reference = weakref.ref(self)

        def offer() -> server.Offer | None:
            ring = reference()
            with contextlib.suppress(RingClosed):  # another thread may close the ring at any moment
                if ring is not None and not ring.closed:
                    return server.Offer(ring.name, ring.group, ring._descriptors())
            return None

        self._server = server.RingServer(server.checked_path(path), self._group, offer)
        weakref.finalize(self, self._server.end)
        return self._server

    def send(self, sock: socket.socket) -> None:
        """Hand the ring to the process at the other end of a Unix socket, which calls `receive`.

        It works for rings with and without a name, and across containers that share no /dev/shm. This ring stays open;
        the receiver becomes a participant of its own.

        Parameters
        ----------
        sock : socket.socket
            A connected, blocking socket of the family AF_UNIX, such as one of ``socket.socketpair()``. Send nothing
            else over it between the two calls.

        Raises
        ------
        ValueError, TypeError
            Descriptors cannot be sent over this socket.
        RingFeedError
            Other code of this process has closed the ring's descriptor, and the ring has no name to open it again.
        OSError
            The other end is closed (BrokenPipeError), or the socket's timeout expired.

        Examples
        --------
        >>> import socket
        >>> ours, theirs = socket.socketpair()
        >>> ring = Ring.create_nameless({"x": ((), "int64")})
        >>> ring.send(ours)
        >>> received = Ring.receive(theirs)  # usually in another process
        >>> received.put({"x": 7})
        >>> ring.take(1)["x"].tolist()
        [7]
        """
        descriptors.check_socket(sock, f"ring {self.name!r}")
        descriptors.send(sock, {"name": self.name}, list(self._descriptors()))

    @classmethod
    def receive(
        cls: type[_AnyRing], sock: socket.socket, *, pin_memory: bool = False, group: str | int | None = None
    ) -> _AnyRing:
        """Open the ring that another process hands over by `send`, and wait for it.

        Parameters
        ----------
        sock : socket.socket
            The other end of the socket that the ring is sent over. Its timeout (``sock.settimeout``) limits the wait.
        pin_memory : bool
            As for `create`.
        group : str or int, optional
            As for `attach`.

        Returns
        -------
        Ring

        Raises
        ------
        RingFeedError
            The other end was closed, or this process has no descriptor left.
        LayoutMismatch
            The message was not sent by `send`, or as for `attach`.
        AccessRefused
            As for `attach_descriptor`.
        RingClosed
            As for `attach`.
        ValueError, TypeError
            Descriptors cannot be sent over this socket.
        TimeoutError
            The socket's timeout expired.
        """
        descriptors.check_socket(sock, "Ring.receive")
        number = access.group_id(group, "Ring.receive")
        content, received = descriptors.receive(sock, "Ring.receive")
        try:
            name = content.get("name")
            if not isinstance(name, str) or not received:
                raise descriptors.not_a_ring("Ring.receive")
            ring = cls._attach_received_levels(name, received, number)
        finally:
            descriptors.close_all(received)
        ring._request_memory_options(pin_memory=pin_memory)
        return ring

    @classmethod
    def attach_descriptor(
        cls: type[_AnyRing], descriptor: int, name: str, *, pin_memory: bool = False, group: str | int | None = None
    ) -> _AnyRing:
        """Open a ring by a descriptor that another process sent. The ring may have lost its name.

        Parameters
        ----------
        descriptor : int
            A copy of the owner's `Ring.descriptor`. The ring takes it over.
        name : str
            A name for messages.
        pin_memory : bool
            As for `create`.
        group : str or int, optional
            As for `attach`.

        Raises
        ------
        AccessRefused
            As for `attach`; or the sender could still change the size of the memory, or the memory is read-only.
        RingClosed, LayoutMismatch
            As for `attach`.
        """
        segment.check_name(name)
        what = f"ring {name!r}"
        descriptor = check_int(descriptor, f"{what}: descriptor", 0, 2**31 - 1)
        number = access.group_id(group, what)
        try:
            segment.identity(descriptor)
        except OSError as error:
            raise ValueError(
                f"{what}: descriptor {descriptor}: {error.strerror}. Send a copy of the owner's Ring.descriptor."
            ) from None
        ring = cls._attach_received(descriptor, name, number)
        ring._request_memory_options(pin_memory=pin_memory)
        return ring

    @classmethod
    def _attach_by_path(cls: type[_AnyRing], path: str, timeout: float | None, group: str | int | None) -> _AnyRing:
        """Attach to the ring that a process serves at a path, waiting for that process."""
        number = access.group_id(group, f"socket {path!r}")
        deadline = time.monotonic() + check_timeout(timeout, f"socket {path!r}: timeout")
        offer = server.request(path, deadline, number)
        received = list(offer.descriptors)
        try:
            if offer.group != number:
                raise AccessRefused(
                    f"socket {path!r}: its ring is shared with group {offer.group}, and group {number} was requested. "
                    "Give the same group= to Ring.create and to Ring.attach."
                )
            ring = cls._attach_received_levels(offer.name, received, number)
        finally:
            descriptors.close_all(received)
        ring._path = path
        return ring

    def _descriptors(self) -> tuple[int, ...]:
        return (self.descriptor, *(level.descriptor for level in self._lower))

    def _name_for_pickle(self) -> str:
        """Return the name or socket path by which another process attaches.

        Raises
        ------
        TypeError
            The ring has neither.
        """
        if not self.is_nameless:
            return self.name
        path = self._path if self._server is None or self._server.closed else self._server.path
        if path is None:
            raise TypeError(
                f"ring {self.name!r} has no name by which another process could find it. Serve it at a path "
                "(Ring.serve), hand it over on a Unix socket (Ring.send here, Ring.receive there), or send its "
                "descriptor and open it by Ring.attach_descriptor."
            )
        return os.path.abspath(path)
