"""The ring by name: creating, attaching and removing it.

It may not know TensorFlow, nor how a segment is opened (segment.py). Claims, batches and everything
hot are in `_core`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from . import _core, segment
from . import page_locking as pinning
from ._core import Batch
from .arguments import check_int, check_timeout
from .errors import AccessRefused, LayoutMismatch, RingClosed, RingExists, RingFeedError, RingNotFound
from .machine.memory_options import MemoryOptionWarning, explain_refusal
from .record_spec import FieldsLike
from .ring_options import checked_options, made_up_name
from .sharing import access
from .sharing import descriptors as handing_over
from .sharing import server as ring_socket

MAX_PRIORITIES = 8


class Ring(_core.RingBase):
    """A lock-free ring of tensor slots in POSIX shared memory.

    Make one with `Ring.create` (the owner) or `Ring.attach` (any other process); as a context
    manager it closes at the end and, for the owner, removes the segment. A ring that its owner
    forgot is removed when the owner exits.

    Examples
    --------
    >>> with Ring.create("cams", {"image": ((224, 224, 3), "uint8")}, slots=256) as ring:
    ...     with ring.claim() as slot:
    ...         slot["image"][...] = 0
    ...     with ring.take(max_rows=64) as batch:
    ...         batch["image"].shape
    (1, 224, 224, 3)
    """

    memory: dict[str, str]
    """What the machine said to each memory option that was asked for: ``"granted"`` or why not."""

    _lower: tuple[Ring, ...] = ()

    _group: int | None = None

    _server: ring_socket.RingServer | None = None

    _path: str | None = None
    """Of the socket by which this handle was attached."""

    _finalizer: weakref.finalize[Any, Ring] | None = None

    def __init__(self, *arguments: object, **options: object) -> None:
        raise TypeError("use Ring.create to make a ring, or Ring.attach to open one that exists.")

    @classmethod
    def create(
        cls,
        name: str | None,
        fields: FieldsLike,
        slots: int = 256,
        *,
        participants: int = 512,
        redeliver: bool = True,
        max_deliveries: int | None = 2,
        huge_pages: bool = False,
        lock_memory: bool = False,
        numa_node: int | None = None,
        pin_memory: bool = False,
        priorities: int = 1,
        producers: int | None = None,
        group: str | int | None = None,
    ) -> Ring:
        """Create a ring and own it.

        Parameters
        ----------
        name : str or None
            By which others attach; None makes one up.
        fields : mapping of str to (shape, dtype)
            The record. Shapes are of one sample; dtypes are bool, (u)int8 to 64, float16, float32,
            float64, complex64 or bfloat16.
        slots : int
            At least so many. They are rounded up so that every field fills whole pages, and a batch may pass the ring's
            end in one piece, where that takes up to a third, or 1 MB, more memory. Otherwise there are exactly so many,
            and batches and claims end at the ring's end; `mirrored` tells.
        participants : int
            Most processes (attachments) at a time, up to 4095.
        redeliver : bool
            Rows that a dead taker held become READY again (else they are dropped and counted).
        max_deliveries : int or None
            How many takers may die or fail over a record, 2 by default and up to 255: then it is a dead letter, as
            `take` says, and no taker gets it any more. None: as many as come.
        huge_pages, lock_memory, numa_node
            Ask for 2 MiB pages, for memory that is never swapped, for the memory of one NUMA node.
            A refusal is a `MemoryOptionWarning` and stands in `memory`.
        pin_memory : bool
            Page-lock the memory for copies to a GPU, in this process alone; see `pin`. A refusal, likewise.
        priorities : int
            Levels of urgency, up to 8. Each is a ring of its own, of as many slots, so that what is urgent never waits
            for a slot behind what is not; see `levels`.
        producers : int, optional
            How many producers come: the last that leaves finishes the ring when so many have entered `producing`.
        group : str or int, optional
            Share the ring, and the answers of its engines, with the members of this group (name or number): mode 0660.
            They give the same group to `attach`. By default it is this user's alone: mode 0600.

        Raises
        ------
        RingExists
            A living process owns a ring of that name. (One whose owner is dead is replaced.)
        AccessRefused
            What has that name is another user's, or no file; or this user is no member of `group`.
        NoSpace
            /dev/shm is too small or too full.
        ValueError, TypeError
            A name, field or number that makes no ring.
        """
        if name is None:
            name = made_up_name("ring")
        options = checked_options(
            name, fields, slots, participants, redeliver, huge_pages, numa_node, producers, max_deliveries
        )
        priorities = check_int(priorities, f"ring {name!r}: priorities", 1, MAX_PRIORITIES)
        number = access.group_id(group, f"ring {name!r}")
        lower: list[Ring] = []
        try:
            # The first level comes last: who can attach to it finds the others.
            for level in range(1, priorities):
                lower.append(cls._create_level(_level_name(name, level), number, 0, *options))
            ring = cls._create_level(name, number, priorities, *options)
        except BaseException:
            for made in lower:
                made.__exit__(None, None, None)
            raise
        ring._lower = tuple(lower)
        return ring._ask_for_memory(huge_pages, lock_memory, numa_node, pin_memory)

    @classmethod
    def _create_level(cls, name: str, group: int | None, priorities: int, *options: Any) -> Ring:
        until = time.monotonic() + 2 * segment.MAKING_SECONDS
        while (ring := cls._create_unless_removed(name, group, *options, 0, priorities)) is None:
            if time.monotonic() > until:
                raise RingExists(
                    f"ring {name!r}: its name was taken away each time it was made. Look who removes what is in "
                    f"{segment.FOLDER}, or choose another name."
                )
        return ring

    @classmethod
    def _create_unless_removed(cls, name: str, group: int | None, *options: Any) -> Ring | None:
        """Create; None when another creator took our segment, before it was ours, for a dead one's."""
        descriptor = segment.open_new(name)
        identity = segment.identity(descriptor)
        ring = cls.__new__(cls)
        ring._group = group
        try:
            segment.share(descriptor, group, name)
            ring._create(name, descriptor, *options)
            if segment.removal_is_locked(name, ring.descriptor):
                ring.close()
                segment.remove(name, identity)
                return None
        except BaseException:
            segment.remove(name, identity)
            raise
        ring._finalizer = weakref.finalize(ring, _end_of_owner, name, identity, os.getpid())
        return ring

    @classmethod
    def create_nameless(
        cls,
        fields: FieldsLike,
        slots: int = 256,
        *,
        name: str | None = None,
        participants: int = 512,
        redeliver: bool = True,
        max_deliveries: int | None = 2,
        huge_pages: bool = False,
        lock_memory: bool = False,
        numa_node: int | None = None,
        pin_memory: bool = False,
        producers: int | None = None,
        group: str | int | None = None,
    ) -> Ring:
        """Create a ring that nobody finds by a name, and own it.

        It stands in no file system: neither the size of /dev/shm limits it nor does anything stay behind when this
        process is killed. Another process gets it over a Unix socket, by `send` and `receive`, or is started with its
        descriptor (``subprocess.Popen(..., pass_fds=[ring.descriptor])``) for `attach_descriptor`. A forked child has
        it open. It cannot be pickled, and `unlink` has nothing to do.

        Parameters
        ----------
        name : str, optional
            For messages alone; by default one is made up.
        fields, slots, participants, redeliver, max_deliveries, huge_pages, lock_memory, numa_node
            As for `create`.
        pin_memory, producers, group
            As for `create`.

        Raises
        ------
        NoSpace
            The machine, or a control group of this process, has too little memory left.
        AccessRefused
            This user is no member of `group`.
        RingFeedError
            The machine makes no such memory; or no descriptor is left.
        ValueError, TypeError
            As for `create`.
        """
        if name is None:
            name = made_up_name("nameless")
        options = checked_options(
            name, fields, slots, participants, redeliver, huge_pages, numa_node, producers, max_deliveries
        )
        ring = cls.__new__(cls)
        ring._group = access.group_id(group, f"ring {name!r}")
        descriptor = segment.open_nameless(name)
        segment.share(descriptor, ring._group, name)
        ring._create(name, descriptor, *options)
        return ring._ask_for_memory(huge_pages, lock_memory, numa_node, pin_memory)

    @classmethod
    def attach(
        cls,
        name: str | os.PathLike[str],
        *,
        timeout: float | None = 0.0,
        pin_memory: bool = False,
        group: str | int | None = None,
    ) -> Ring:
        """Open a ring that another process (or this one) created.

        Parameters
        ----------
        name : str or path
            As given to `create`. Or where its owner has called `serve`: a path, or a text that starts with ``/`` or
            ``./``.
        timeout : float, optional
            Seconds to wait until a living process has created the ring, or serves it; None waits for ever.
        pin_memory : bool
            As for `create`: of use where batches are copied to a GPU, not where they are made.
        group : str or int, optional
            The group with which its creator shares it, whose members are trusted. By default only a ring that is this
            user's alone is opened.

        Raises
        ------
        RingNotFound
            There is no ring of that name.
        RingClosed
            There is one, but its owner closed it or is dead.
        AccessRefused
            What has that name is another user's, or other users may open it, or it is no file.
        LayoutMismatch
            The segment is no ring, is damaged, or is of another layout version.
        """
        if isinstance(name, os.PathLike) or ring_socket.is_path(name):
            return cls._attach_by_path(ring_socket.checked_path(name), timeout, pin_memory, group)
        segment.check_name(name)
        number = access.group_id(group, f"ring {name!r}")
        wait_seconds = check_timeout(timeout, f"ring {name!r}: timeout")
        return cls._attach_by_name(name, wait_seconds, number)._ask_for_memory(pin_memory=pin_memory)

    @classmethod
    def _attach_by_path(cls, path: str, timeout: float | None, pin_memory: bool, group: str | int | None) -> Ring:
        number = access.group_id(group, f"socket {path!r}")
        until = time.monotonic() + check_timeout(timeout, f"socket {path!r}: timeout")
        offer = ring_socket.ask(path, until, number)
        left = list(offer.descriptors)
        try:
            if offer.group != number:
                raise AccessRefused(
                    f"socket {path!r}: the ring served there is of group {offer.group}, and group {number} was asked "
                    "for. Give the same group= to Ring.create and to Ring.attach."
                )
            ring = cls._attach_levels(offer.name, left, number)
        finally:
            handing_over.close_all(left)
        ring._path = path
        return ring._ask_for_memory(pin_memory=pin_memory)

    @classmethod
    def _attach_levels(cls, name: str, left: list[int], group: int | None) -> Ring:
        """Open a ring and its further levels by descriptors that were sent; those that it takes over leave the list."""
        rings: list[Ring] = []
        try:
            while left:
                level_name = name if not rings else _level_name(name, len(rings))
                rings.append(cls._attach_received(left.pop(0), level_name, group))
        except BaseException:
            for ring in rings:
                ring.close()
            raise
        rings[0]._lower = tuple(rings[1:])
        return rings[0]

    @classmethod
    def _attach_by_name(cls, name: str, wait_seconds: float, group: int | None) -> Ring:
        deadline = time.monotonic() + wait_seconds
        making_until = time.monotonic() + segment.MAKING_SECONDS
        gone: segment.Identity | None = None
        why_gone: RingClosed | None = None
        while True:
            found = segment.identity_of(name)
            if found != gone:
                try:
                    ring = cls._attach_if_initialized(name, group)
                    if ring is not None:
                        return ring
                except RingClosed as error:
                    # Its owner will not come back, but a new one may be about to replace it.
                    gone, why_gone = found, error
                except AccessRefused:
                    # Its owner may just not have come so far as to share it with the group.
                    if group is None or not segment.name_may_be_in_the_making(name):
                        raise
            now = time.monotonic()
            if now >= deadline:
                if found is None:
                    raise RingNotFound(f"no ring {name!r} exists. Create it first, or pass timeout= to wait for it.")
                if why_gone is not None and found == gone:
                    raise why_gone
                if now >= making_until:
                    raise RingNotFound(f"ring {name!r} was never finished: its creator died half way. Create it anew.")
            time.sleep(0.002)

    @classmethod
    def _attach_if_initialized(cls, name: str, group: int | None) -> Ring | None:
        descriptor = segment.open_existing(name, group)
        ring = cls.__new__(cls)
        ring._group = group
        if descriptor is None or not ring._attach(name, descriptor):
            return None
        levels = range(1, min(ring._user_data(), MAX_PRIORITIES))
        ring._lower = tuple(cls._attach_by_name(_level_name(name, level), 0.0, group) for level in levels)
        return ring

    @classmethod
    def attach_descriptor(
        cls, descriptor: int, name: str, *, pin_memory: bool = False, group: str | int | None = None
    ) -> Ring:
        """Open a ring by a descriptor that another process sent; it need not have its name any more.

        Parameters
        ----------
        descriptor : int
            A copy of the owner's `Ring.descriptor`; the ring takes it over.
        name : str
            For messages.
        pin_memory : bool
            As for `create`.
        group : str or int, optional
            As for `attach`.

        Raises
        ------
        AccessRefused
            As for `attach`; or it is memory whose size its sender could still change, or that cannot be written.
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
        return cls._attach_received(descriptor, name, number)._ask_for_memory(pin_memory=pin_memory)

    @classmethod
    def _attach_received(cls, descriptor: int, name: str, group: int | None) -> Ring:
        try:
            segment.check_label(name)
            segment.check_received(descriptor, group, f"ring {name!r}")
        except BaseException:
            os.close(descriptor)
            raise
        ring = cls.__new__(cls)
        ring._group = group
        if not ring._attach(name, descriptor):
            raise LayoutMismatch(f"ring {name!r} is not whole yet: send its descriptor once it is created.")
        return ring

    def serve(self, path: str | os.PathLike[str]) -> ring_socket.RingServer:
        """Give the ring to processes that connect to a Unix socket: there they `attach`, by its path.

        It needs no name in /dev/shm. With `create_nameless` nobody finds the ring in another way, nobody can cut its
        memory short, and nothing of it is left behind but the socket, which the next `serve` at the path replaces. A
        thread of this process answers; it gives the ring to this user's processes and, where it was created with
        `group`, to that group's, as the kernel tells who they are (SO_PEERCRED).

        Parameters
        ----------
        path : str or path
            Of up to 107 bytes, where nothing stands, in a folder in which others cannot remove it. The socket's mode is
            0600, or 0660 for a group.

        Returns
        -------
        RingServer
            Its `close` ends the serving, as a ``with`` block and `close` of the ring do.

        Raises
        ------
        RingExists
            Another process serves there, or what stands there is no socket of this user's.
        RingFeedError
            No socket can be made there; or this handle serves the ring already.
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

        def offer() -> ring_socket.Offer | None:
            ring = reference()
            with contextlib.suppress(RingClosed):  # by another thread, just now
                if ring is not None and not ring.closed:
                    return ring_socket.Offer(ring.name, ring.group, tuple(level.descriptor for level in ring.levels))
            return None

        self._server = ring_socket.RingServer(ring_socket.checked_path(path), self._group, offer)
        weakref.finalize(self, self._server.end)
        return self._server

    def send(self, sock: socket.socket) -> None:
        """Hand the ring to the process at the other end of a Unix socket, which calls `receive`.

        It works for rings with a name and without, also across containers that share no /dev/shm. This ring stays open;
        the receiver becomes a participant of its own.

        Parameters
        ----------
        sock : socket.socket
            A connected, blocking socket of the family AF_UNIX: ``socket.socketpair()``, for example. What it carries
            besides must not come between the two calls.

        Raises
        ------
        ValueError, TypeError
            Descriptors cannot travel over this socket.
        RingFeedError
            Other code of this process has closed the ring's descriptor, and nothing is left to open it by.
        OSError
            The other end is gone (BrokenPipeError), or the socket's timeout is over.

        Examples
        --------
        >>> import socket
        >>> ours, theirs = socket.socketpair()
        >>> ring = Ring.create_nameless({"x": ((), "int64")})
        >>> ring.send(ours)
        >>> received = Ring.receive(theirs)  # in another process, as a rule
        >>> received.put({"x": 7})
        >>> ring.take(1)["x"].tolist()
        [7]
        """
        handing_over.check_socket(sock, f"ring {self.name!r}")
        handing_over.send(sock, {"name": self.name}, [level.descriptor for level in self.levels])

    @classmethod
    def receive(cls, sock: socket.socket, *, pin_memory: bool = False, group: str | int | None = None) -> Ring:
        """Open the ring that another process hands over by `send`; waits for it as the socket does.

        Parameters
        ----------
        sock : socket.socket
            The other end of the socket that the ring is sent over. Its timeout (``sock.settimeout``) bounds the wait.
        pin_memory : bool
            As for `create`.
        group : str or int, optional
            As for `attach`.

        Raises
        ------
        RingFeedError
            The other end was closed, or no descriptor is left.
        LayoutMismatch
            Something else came, or as for `attach`.
        AccessRefused
            As for `attach_descriptor`.
        RingClosed
            As for `attach`.
        ValueError, TypeError
            Descriptors cannot travel over this socket.
        TimeoutError
            The socket's timeout is over.
        """
        handing_over.check_socket(sock, "Ring.receive")
        number = access.group_id(group, "Ring.receive")
        about, descriptors = handing_over.receive(sock, "Ring.receive")
        try:
            name = about.get("name")
            if not isinstance(name, str) or not descriptors:
                raise handing_over.not_a_ring("Ring.receive")
            ring = cls._attach_levels(name, descriptors, number)
        finally:
            handing_over.close_all(descriptors)
        return ring._ask_for_memory(pin_memory=pin_memory)

    def _ask_for_memory(
        self,
        huge_pages: bool = False,
        lock_memory: bool = False,
        numa_node: int | None = None,
        pin_memory: bool = False,
    ) -> Ring:
        self.memory = {}
        answers = {}
        if numa_node is not None:
            answers["numa_node"] = self._numa_errno()
        if huge_pages:
            answers["huge_pages"] = self._use_huge_pages()
        if lock_memory:
            answers["lock_memory"] = self._lock_memory()
        for option, refusal in answers.items():
            self.memory[option] = explain_refusal(option, refusal, self.segment_bytes) if refusal else "granted"
        if pin_memory:  # last: from then on the pages stay where they are
            self.pin()
        for option, answer in self.memory.items():
            if answer.startswith("refused"):
                warnings.warn(f"ring {self.name!r}: {option}: {answer}", MemoryOptionWarning, stacklevel=3)
        return self

    def pin(self) -> bool:
        """Page-lock the ring's memory, so that a GPU copies from it by DMA, at full speed and in the background.

        It is for the process that copies batches to a GPU, before it takes any. It ends with `unpin`, or
        by itself with the ring and its last batch; a forked child starts without it.

        Returns
        -------
        bool
            Whether it is page-locked; ``memory["pin_memory"]`` says why not. The ring works without it, too.

        Notes
        -----
        A copy in the background still reads the slots: release the batch, or drop the last tensor over
        it, when the copy is over. TensorFlow does that by itself. With PyTorch::

            tensor = torch.from_dlpack(batch.dlpack("image"))
            on_gpu = tensor.to("cuda", non_blocking=True)
            copied = torch.cuda.current_stream().record_event()
            copied.synchronize()
            del tensor
            batch.release()
        """
        try:
            way, refusal = _core.pin_ring(self, pinning.driver(), pinning.PORTABLE)
            self.memory["pin_memory"] = pinning.verdict(way, refusal, self.segment_bytes)
        except pinning.Unavailable as reason:
            self.memory["pin_memory"] = pinning.refused(reason)
        return self.pinned

    def unpin(self) -> None:
        """Undo one `pin`; with the last, the memory is no longer page-locked. No copy may be under way."""
        refusal = _core.unpin_ring(self)
        if refusal:
            warnings.warn(f"ring {self.name!r}: unpin: {pinning.kept(refusal)}", MemoryOptionWarning, stacklevel=2)
        if not self.pinned:
            self.memory.pop("pin_memory", None)

    @property
    def is_nameless(self) -> bool:
        """Whether `create_nameless` made the ring, so that others open it by its descriptor alone."""
        return self._has_no_name()

    @property
    def group(self) -> int | None:
        """The number of the group with which the ring is shared; None where it is one user's alone."""
        return self._group

    @property
    def levels(self) -> tuple[Ring, ...]:
        """The rings of each priority, the most urgent first: this one, and what `priorities` made beside it."""
        return (self, *self._lower)

    def take_urgent(
        self,
        max_rows: int,
        *,
        min_rows: int = 1,
        timeout: float | None = None,
        linger: float = 0.0,
        on_error: str = "give_back",
        while_waiting: Callable[[], object] | None = None,
    ) -> Batch:
        """Take from the most urgent of `levels` that has records; arguments, result and errors as for `take`.

        Raises
        ------
        RingFinished, ProducerFailed, RingClosed
            Of every level.
        """
        if not self._lower:
            return self.take(
                max_rows,
                min_rows=min_rows,
                timeout=timeout,
                linger=linger,
                on_error=on_error,
                while_waiting=while_waiting,
            )
        return _core.take_first(self.levels, max_rows, min_rows, timeout, linger, on_error, while_waiting)

    @property
    def pinned(self) -> bool:
        """Whether this handle has page-locked the memory for GPUs."""
        return _core.ring_is_pinned(self)

    def batches(
        self,
        max_rows: int,
        *,
        min_rows: int = 1,
        timeout: float | None = None,
        linger: float = 0.0,
        on_error: str = "give_back",
    ) -> Iterator[Batch]:
        """Take batches until the ring is finished.

        Each batch is released when the next is asked for, and the last with the end of the loop, also by ``break`` or
        ``return``; arrays that are kept keep its slots. An exception that ends the loop gives the batch back: the
        records are there again, for whoever takes next, as messages that nobody acknowledged.

        Parameters
        ----------
        max_rows, min_rows, timeout, linger, on_error
            As for `take`, for each batch.

        Returns
        -------
        iterator of Batch

        Notes
        -----
        Write ``for batch in ring.batches(...)``. An iterator that a variable keeps does not see by what a loop over it
        ends, and releases: there, begin the body with ``with batch:``, which always sees it.

        Raises
        ------
        RingEmpty, ProducerFailed, RingClosed
            As for `take`.
        """
        return _core.Batches(
            functools.partial(self.take, max_rows, min_rows=min_rows, timeout=timeout, linger=linger, on_error=on_error)
        )

    def close(self) -> None:
        """Close this handle; closing it twice does no harm.

        Threads that wait on it get `RingClosed`. Its place among the participants and its memory are given back at
        once where no batch or array of it is alive; those stay valid, and it is with the last of them. When the owner
        closes, the ring is closed for everyone.
        """
        if self._server is not None:
            self._server.close()
        super().close()
        for level in self._lower:
            level.close()

    def producing(self) -> _core.Producing:
        """Return a block around what a producer does: the ring is finished when the last such block has ended.

        An exception that ends the block goes on to the caller, and to the takers: when the ring is finished and they
        have taken what is in it, `take` raises `ProducerFailed` with the text of the first, and so does whatever takes
        for them: `batches`, `ringfeed.tf.dataset` (as an error of TensorFlow's), `fuse`. An `Engine` answers what
        it has, logs the text and ends.

        Returns
        -------
        Producing
            A context manager, for one block at a time; ``with`` gives the ring.

        Raises
        ------
        RingFinished
            By ``with``: the ring was finished before, perhaps by the last producer that left just now. Where
            producers come one after the other, or at their own pace, say how many come: ``Ring.create(...,
            producers=n)``. Then so many blocks must have been entered before the last that ends finishes the ring. If
            fewer come, takers wait.
        RingClosed
            By ``with``: the ring is closed.

        Notes
        -----
        Each process has blocks of its own, and so has each thread or asyncio task: one block inside another is no
        further producer. A forked child does not produce until it enters a block; its parent's stays its parent's.

        A producer that is killed has left. That is no error for takers: its claims show as ``reclaimed`` in `stats`,
        and its exit status to whoever started it. It is noticed within 100 ms by whoever waits for records. A stopped
        process is alive.

        `KeyboardInterrupt`, `GeneratorExit`, cancellation and ``sys.exit`` with an error go to the takers as any
        exception: what was to come is missing. ``sys.exit(0)`` just leaves, and so does a producer that is told by
        `RingFinished` or `RingClosed` that this ring has ended. `finish` may be called as ever, by anybody.

        A block covers every one of the `levels`. It ends with the block, also when the ring was closed in it.

        Examples
        --------
        >>> with Ring.create("numbers", {"x": ((), "int64")}) as ring:
        ...     with ring.producing():
        ...         for number in range(3):
        ...             ring.put({"x": number})
        ...     [batch["x"].tolist() for batch in ring.batches(max_rows=2)]
        [[0, 1], [2]]
        """
        return _core.Producing(self.levels)

    def finish(self) -> None:
        """Say that no more records come: takers drain what is there, then get `RingFinished`.

        Claims under way may still be published. Any participant may say it, for all producers.
        """
        for level in self.levels:
            super(Ring, level).finish()

    def unlink(self) -> None:
        """Remove the ring's name; whoever has it open goes on. Doing it twice does no harm, nor without a name."""
        for level in self._lower:
            level.unlink()
        if self._finalizer is not None:
            self._finalizer.detach()
        if not self.is_nameless:
            _remove(self.name, self._identity())

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_owner:
            self.unlink()  # first: who cleans up does not come between
        self.close()

    def __repr__(self) -> str:
        role = ("closed " if self.closed else "") + ("owner" if self.is_owner else "participant")
        return f"<Ring {self.name!r}, {role}, {self.slots} slots of {self.spec!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A ring travels to another process as its name.
        if self.is_nameless:
            path = self._path if self._server is None or self._server.closed else self._server.path
            if path is None:
                raise TypeError(
                    f"ring {self.name!r} has no name by which another process could find it. Serve it at a path "
                    "(Ring.serve), hand it over on a Unix socket (Ring.send here, Ring.receive there), or send its "
                    "descriptor and open it by Ring.attach_descriptor."
                )
            return _attach_by_name, (os.path.abspath(path), self._group)
        return _attach_by_name, (self.name, self._group)


def _level_name(name: str, level: int) -> str:
    return f"{name}.priority-{level}"


def _attach_by_name(name: str, group: int | None) -> Ring:
    return Ring.attach(name, group=group)


# ---- Ends -------------------------------------------------------------------------------


def _end_of_owner(name: str, identity: segment.Identity, process: int) -> None:
    if os.getpid() == process:  # not in a forked child
        _remove(name, identity)


def _remove(name: str, identity: segment.Identity) -> None:
    segment.remove(name, identity)  # not by the ring's descriptor: other code may have closed that
    segment.remove_replies(name, identity[1])


def close_quietly(ring: Ring) -> None:
    """Close and, for the owner, remove a ring; for ends of life where it may be closed already."""
    with contextlib.suppress(RingClosed):
        ring.__exit__(None, None, None)
