"""The class `Ring`: creating, attaching and removing a ring, and its public methods outside of the hot path.

It may not know TensorFlow, nor how a segment is opened (segment.py). Its bases do the work: ring_handover.py sends
rings over sockets, ring_levels.py creates and attaches them, ring_memory.py requests their memory options. Claims,
batches and the hot path are in `_core`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from . import _core, segment
from ._core import Batch
from .arguments import check_int, check_timeout
from .errors import RingClosed
from .record_spec import FieldsLike
from .ring_handover import RingHandover
from .ring_levels import MAX_PRIORITIES
from .ring_options import checked_options, made_up_name
from .sharing import access
from .sharing.server import checked_path, is_path


class Ring(RingHandover):
    """A lock-free ring of tensor slots in POSIX shared memory.

    `Ring.create` makes a ring and owns it; any other process calls `Ring.attach`. As a context manager a ring is closed
    at the end, and the owner's is removed. A ring is also removed when its owner exits without closing it.

    Examples
    --------
    >>> with Ring.create("cams", {"image": ((224, 224, 3), "uint8")}, slots=256) as ring:
    ...     with ring.claim() as slot:
    ...         slot["image"][...] = 0
    ...     with ring.take(max_rows=64) as batch:
    ...         batch["image"].shape
    (1, 224, 224, 3)
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        raise TypeError("use Ring.create to make a ring, or Ring.attach to open one that exists.")

    # -- creating ----------------------------------------------------------------------------------

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
            The name by which other processes attach. None generates one.
        fields : mapping of str to (shape, dtype)
            The record. A shape is that of one sample; dtypes are bool, (u)int8 to 64, float16, float32, float64,
            complex64 and bfloat16.
        slots : int
            The least number of slots. It is rounded up so that every field fills whole pages and a batch may cross the
            ring's end in one piece, if that costs at most a third more memory, or 1 MB. Otherwise the ring has exactly
            `slots`, and batches and claims stop at the ring's end; `mirrored` tells which.
        participants : int
            The most processes (attachments) at a time, up to 4095.
        redeliver : bool
            Make the rows of a taker that died READY again. Otherwise they are dropped and counted.
        max_deliveries : int or None
            How many takers may die or fail over one record, up to 255. Then the record is a dead letter, which no taker
            gets; see `take`. None sets no limit.
        huge_pages, lock_memory, numa_node
            Request 2 MiB pages, memory that is never swapped, or the memory of one NUMA node. A refusal is a
            `MemoryOptionWarning`; `memory` keeps the reason.
        pin_memory : bool
            Page-lock the memory for copies to a GPU, in this process alone; see `pin`. A refusal is reported likewise.
        priorities : int
            Levels of priority, up to 8. Each is a ring of its own with as many slots, so that an urgent record never
            waits for a slot behind others; see `levels`.
        producers : int, optional
            The number of producers. The ring is finished when this many have entered `producing` and the last of them
            has left.
        group : str or int, optional
            Share the ring and its replies with this group (name or number): mode 0660. Members give the same group to
            `attach`. By default the ring belongs to this user alone: mode 0600.

        Raises
        ------
        RingExists
            A living process owns a ring of that name. (A ring whose owner is dead is replaced.)
        AccessRefused
            Another user's file, or something that is no file, has that name; or this user is no member of `group`.
        NoSpace
            /dev/shm is too small or too full.
        ValueError, TypeError
            A name, field or number is not valid for a ring.
        """
        if name is None:
            name = made_up_name("ring")
        options = checked_options(
            name, fields, slots, participants, redeliver, huge_pages, numa_node, producers, max_deliveries
        )
        priorities = check_int(priorities, f"ring {name!r}: priorities", 1, MAX_PRIORITIES)
        ring = cls._create_levels(name, access.group_id(group, f"ring {name!r}"), priorities, options)
        ring._request_memory_options(huge_pages, lock_memory, numa_node, pin_memory)
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
        """Create a ring that no process finds by a name, and own it.

        It is in no file system: the size of /dev/shm does not limit it, and nothing remains when this process is
        killed. Hand it to another process over a Unix socket (`serve`, or `send` and `receive`), or start a process
        with its descriptor (``subprocess.Popen(..., pass_fds=[ring.descriptor])``), which calls `attach_descriptor`. A
        forked child has it open. It cannot be pickled unless it is served, and `unlink` has no effect.

        Parameters
        ----------
        name : str, optional
            A name for messages; by default one is generated.
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
            The machine does not support such memory; or this process has no descriptor left.
        ValueError, TypeError
            As for `create`.
        """
        if name is None:
            name = made_up_name("nameless")
        options = checked_options(
            name, fields, slots, participants, redeliver, huge_pages, numa_node, producers, max_deliveries
        )
        ring = cls._create_without_name(name, access.group_id(group, f"ring {name!r}"), options)
        ring._request_memory_options(huge_pages, lock_memory, numa_node, pin_memory)
        return ring

    # -- attaching ---------------------------------------------------------------------------------

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
            The name given to `create`. Or the path given to `serve`: a path object, or a string that starts with ``/``
            or ``./``.
        timeout : float, optional
            Seconds to wait until a living process has created or serves the ring. None waits without limit.
        pin_memory : bool
            As for `create`. Use it in processes that copy batches to a GPU.
        group : str or int, optional
            The group with which the creator shares the ring; its members are trusted. By default only a ring that
            belongs to this user alone is opened.

        Raises
        ------
        RingNotFound
            There is no ring of that name.
        RingClosed
            The ring's owner closed it or died.
        AccessRefused
            The file of that name is another user's, other users may open it, or it is no regular file.
        LayoutMismatch
            The segment is no ring, is damaged, or has another layout version.
        """
        if isinstance(name, os.PathLike) or is_path(name):
            ring = cls._attach_by_path(checked_path(name), timeout, group)
        else:
            segment.check_name(name)
            number = access.group_id(group, f"ring {name!r}")
            ring = cls._attach_by_name(name, check_timeout(timeout, f"ring {name!r}: timeout"), number)
        ring._request_memory_options(pin_memory=pin_memory)
        return ring

    # -- taking ------------------------------------------------------------------------------------

    @property
    def levels(self) -> tuple[Ring, ...]:
        """The rings of all priorities, most urgent first: this ring, then those that `priorities` created beside it."""
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
            Every level has ended.
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

        Asking for the next batch releases the one before. The end of the loop, also by ``break`` or ``return``,
        releases the last. Arrays that the program keeps also keep their slots. An exception that ends the loop gives
        the batch back: another taker gets its records, as a message queue redelivers unacknowledged messages.

        Parameters
        ----------
        max_rows, min_rows, timeout, on_error
            As for `take`, for each batch.
        linger : float
            As for `take`. 0 by default, unlike an engine's: a loop that takes what is ready gets larger batches by
            itself while it is busy.

        Returns
        -------
        iterator of Batch

        Notes
        -----
        Write ``for batch in ring.batches(...)``. An iterator in a variable outlives the loop, so it cannot see an
        exception that ends the loop, and releases the batch. In that case begin the body with ``with batch:``, which
        always sees the exception.

        Raises
        ------
        RingEmpty, ProducerFailed, RingClosed
            As for `take`.
        """
        return _core.Batches(
            functools.partial(self.take, max_rows, min_rows=min_rows, timeout=timeout, linger=linger, on_error=on_error)
        )

    # -- producing ---------------------------------------------------------------------------------

    def producing(self) -> _core.Producing:
        """Return a context manager for a producer: the ring is finished when the last producer has left its block.

        An exception that ends the block goes on to the caller, and also to the takers. When the ring is finished and
        the takers have taken its last record, `take` raises `ProducerFailed` with the text of the first such exception.
        So do `batches`, `ringfeed.tf.dataset` (as an error of TensorFlow) and `ringfeed.tf.fuse`. An `Engine` answers
        its requests, logs the text and ends.

        Returns
        -------
        Producing
            A context manager for one block at a time; ``with`` returns the ring.

        Raises
        ------
        RingFinished
            By ``with``: the ring is finished already, perhaps because the last producer left just now. If producers
            start one after the other, tell the ring their number: ``Ring.create(..., producers=n)``. Then the ring is
            finished only when n producers have entered a block and the last has left. If fewer start, takers wait.
        RingClosed
            By ``with``: the ring is closed.

        Notes
        -----
        Each process, thread and asyncio task enters blocks of its own; a block inside another block counts as the same
        producer. A forked child is no producer until it enters a block; the parent's block remains the parent's.

        A producer that is killed has left. Takers see no error: `stats` counts its claims as ``reclaimed``, and its
        parent process sees the exit status. A process that waits for records notices the death within 100 ms. A stopped
        process is alive.

        `KeyboardInterrupt`, `GeneratorExit`, a cancellation and ``sys.exit`` with an error go to the takers like any
        exception, because records are missing. ``sys.exit(0)`` only leaves the block. So does a producer that
        `RingFinished` or `RingClosed` of this ring ends. Any process may call `finish` at any time.

        A block covers all `levels`. It ends normally if the ring was closed inside it.

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
        """Declare that no more records come: takers take the remaining records, then get `RingFinished`.

        Claims that are open may still be published. Any participant may call it, for all producers.
        """
        for level in self.levels:
            super(Ring, level).finish()

    # -- ending ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close this handle. It may be called twice.

        Threads that wait on the handle get `RingClosed`. Batches and arrays that are alive stay valid, and the handle
        keeps its memory and its place among the participants until the last of them is gone. When the owner closes, the
        ring is closed for every process.
        """
        if self._server is not None:
            self._server.close()
        super().close()
        for level in self._lower:
            level.close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_owner:
            self.unlink()  # before closing, so that no cleaner removes the name in between
        self.close()

    def __repr__(self) -> str:
        role = ("closed " if self.closed else "") + ("owner" if self.is_owner else "participant")
        return f"<Ring {self.name!r}, {role}, {self.slots} slots of {self.spec!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (self._name_for_pickle(), self._group)


def _attach(name: str, group: int | None) -> Ring:
    return Ring.attach(name, group=group)


def close_quietly(ring: Ring) -> None:
    """Close a ring, and remove it if this process owns it; another thread may have closed it already."""
    with contextlib.suppress(RingClosed):
        ring.__exit__(None, None, None)
