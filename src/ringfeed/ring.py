"""The ring by name: creating, attaching and removing it.

It may not know TensorFlow, nor how a segment is opened (segment.py). Claims, batches and everything
hot are in `_core`.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from . import _core, pinning, segment
from ._core import Batch
from .arguments import seconds, whole
from .errors import LayoutMismatch, RingClosed, RingFinished, RingNotFound
from .memory_options import MemoryOptionWarning, explain_refusal
from .record_spec import FieldsLike, RecordSpec

MAX_SLOTS = 2**24
MAX_PARTICIPANTS = 4095
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

    _finalizer: weakref.finalize[[str, int, int], Ring] | None = None

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
        huge_pages: bool = False,
        lock_memory: bool = False,
        numa_node: int | None = None,
        pin_memory: bool = False,
        priorities: int = 1,
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
            At least so many; rounded up so that every field fills whole pages.
        participants : int
            Most processes (attachments) at a time, up to 4095.
        redeliver : bool
            Rows that a dead taker held become READY again (else they are dropped and counted).
        huge_pages, lock_memory, numa_node
            Ask for 2 MiB pages, for memory that is never swapped, for the memory of one NUMA node.
            A refusal is a `MemoryOptionWarning` and stands in `memory`.
        pin_memory : bool
            Page-lock the memory for copies to a GPU, in this process alone; see `pin`. A refusal, likewise.
        priorities : int
            Levels of urgency, up to 8. Each is a ring of its own, of as many slots, so that what is urgent never waits
            for a slot behind what is not; see `levels`.

        Raises
        ------
        RingExists
            A living process owns a ring of that name. (One whose owner is dead is replaced.)
        NoSpace
            /dev/shm is too small or too full.
        ValueError, TypeError
            A name, field or number that makes no ring.
        """
        if name is None:
            name = f"ring-{os.getpid()}-{os.urandom(6).hex()}"
        segment.check_name(name)
        try:
            spec = RecordSpec(fields)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"ring {name!r}: {error}") from None
        slots = whole(slots, f"ring {name!r}: slots", 1, MAX_SLOTS)
        participants = whole(participants, f"ring {name!r}: participants", 1, MAX_PARTICIPANTS)
        if numa_node is not None:
            numa_node = whole(numa_node, f"ring {name!r}: numa_node", 0, 1023)
        priorities = whole(priorities, f"ring {name!r}: priorities", 1, MAX_PRIORITIES)
        options = (spec, slots, participants, bool(redeliver), bool(huge_pages), numa_node)
        lower: list[Ring] = []
        try:
            # The first level comes last: who can attach to it finds the others.
            for level in range(1, priorities):
                lower.append(cls._create_level(_level_name(name, level), 0, *options))
            ring = cls._create_level(name, priorities, *options)
        except BaseException:
            for made in lower:
                made.__exit__(None, None, None)
            raise
        ring._lower = tuple(lower)
        return ring._ask_for_memory(huge_pages, lock_memory, numa_node, pin_memory)

    @classmethod
    def _create_level(cls, name: str, priorities: int, *options: Any) -> Ring:
        while (ring := cls._create_unless_condemned(name, *options, 0, priorities)) is None:
            pass
        return ring

    @classmethod
    def _create_unless_condemned(cls, name: str, *options: Any) -> Ring | None:
        """Create; None when another creator took our segment, before it was ours, for a dead one's."""
        descriptor = segment.open_new(name)
        identity = segment.identity(descriptor)
        ring = cls.__new__(cls)
        try:
            ring._create(name, descriptor, *options)
            if segment.is_condemned(name, ring.descriptor):
                ring.close()
                segment.remove(name, ring.descriptor)
                return None
        except BaseException:
            segment.unlink_if(name, identity)
            raise
        ring._finalizer = weakref.finalize(ring, _end_of_owner, name, ring.descriptor, os.getpid())
        return ring

    @classmethod
    def attach(cls, name: str, *, timeout: float | None = 0.0, pin_memory: bool = False) -> Ring:
        """Open a ring that another process (or this one) created.

        Parameters
        ----------
        name : str
            As given to `create`.
        timeout : float, optional
            Seconds to wait until a living process has created the ring; None waits for ever.
        pin_memory : bool
            As for `create`: of use where batches are copied to a GPU, not where they are made.

        Raises
        ------
        RingNotFound
            There is no ring of that name.
        RingClosed
            There is one, but its owner closed it or is dead.
        LayoutMismatch
            The segment is no ring, is damaged, or is of another layout version.
        """
        segment.check_name(name)
        deadline = time.monotonic() + seconds(timeout, f"ring {name!r}: timeout")
        making_until = time.monotonic() + segment.MAKING_SECONDS
        gone: segment.Identity | None = None
        why_gone: RingClosed | None = None
        while True:
            found = segment.identity_of(name)
            if found != gone:
                try:
                    ring = cls._attach_ifwhole(name)
                    if ring is not None:
                        return ring._ask_for_memory(pin_memory=pin_memory)
                except RingClosed as error:
                    # Its owner will not come back, but a new one may be about to replace it.
                    gone, why_gone = found, error
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
    def _attach_ifwhole(cls, name: str) -> Ring | None:
        descriptor = segment.open_existing(name)
        ring = cls.__new__(cls)
        if descriptor is None or not ring._attach(name, descriptor):
            return None
        ring._lower = tuple(cls.attach(_level_name(name, level)) for level in range(1, ring._note()))
        return ring

    @classmethod
    def attach_descriptor(cls, descriptor: int, name: str, *, pin_memory: bool = False) -> Ring:
        """Open a ring by a descriptor that another process sent; it need not have its name any more.

        Parameters
        ----------
        descriptor : int
            A copy of the owner's `Ring.descriptor`; the ring takes it over.
        name : str
            For messages.
        pin_memory : bool
            As for `create`.

        Raises
        ------
        RingClosed, LayoutMismatch
            As for `attach`.
        """
        segment.check_name(name)
        descriptor = whole(descriptor, f"ring {name!r}: descriptor", 0, 2**31 - 1)
        try:
            segment.identity(descriptor)
        except OSError as error:
            raise ValueError(
                f"ring {name!r}: descriptor {descriptor}: {error.strerror}. Send a copy of the owner's Ring.descriptor."
            ) from None
        ring = cls.__new__(cls)
        if not ring._attach(name, descriptor):
            raise LayoutMismatch(f"ring {name!r} is not whole yet: send its descriptor once it is created.")
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
        while_waiting: Callable[[], object] | None = None,
    ) -> Batch:
        """Take from the most urgent of `levels` that has records; arguments, result and errors as for `take`.

        Raises
        ------
        RingFinished, RingClosed
            Of every level.
        """
        if not self._lower:
            return self.take(max_rows, min_rows=min_rows, timeout=timeout, linger=linger, while_waiting=while_waiting)
        return _core.take_first(self.levels, max_rows, min_rows, timeout, linger, while_waiting)

    @property
    def pinned(self) -> bool:
        """Whether this handle has page-locked the memory for GPUs."""
        return _core.ring_is_pinned(self)

    def batches(
        self, max_rows: int, *, min_rows: int = 1, timeout: float | None = None, linger: float = 0.0
    ) -> Iterator[Batch]:
        """Take batches until the ring is finished.

        Each batch is released when the next is asked for; arrays that are kept keep its slots.

        Parameters
        ----------
        max_rows, min_rows, timeout, linger
            As for `take`, for each batch.

        Yields
        ------
        Batch

        Raises
        ------
        RingEmpty, RingClosed
            As for `take`.
        """
        while True:
            try:
                batch = self.take(max_rows, min_rows=min_rows, timeout=timeout, linger=linger)
            except RingFinished:
                return
            try:
                yield batch
            finally:
                batch.release()
                del batch

    def close(self) -> None:
        """Close this handle; closing it twice does no harm.

        Threads that wait on it get `RingClosed`. Batches and arrays that are alive stay valid: the memory goes with the
        last of them. When the owner closes, the ring is closed for everyone.
        """
        super().close()
        for level in self._lower:
            level.close()

    def finish(self) -> None:
        """Say that no more records come: takers drain what is there, then get `RingFinished`.

        Claims under way may still be published. Any participant may say it, for all producers.
        """
        for level in self.levels:
            super(Ring, level).finish()

    def unlink(self) -> None:
        """Remove the ring's name; whoever has it open goes on. Doing it twice does no harm."""
        for level in self._lower:
            level.unlink()
        if self._finalizer is not None:
            self._finalizer.detach()
        _remove(self.name, self.descriptor)

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owner = self.is_owner
        self.close()
        if owner:
            self.unlink()

    def __repr__(self) -> str:
        role = ("closed " if self.closed else "") + ("owner" if self.is_owner else "participant")
        return f"<Ring {self.name!r}, {role}, {self.slots} slots of {self.spec!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A ring travels to another process as its name.
        return _attach_by_name, (self.name,)


def _level_name(name: str, level: int) -> str:
    return f"{name}.priority-{level}"


def _attach_by_name(name: str) -> Ring:
    return Ring.attach(name)


# ---- Ends -------------------------------------------------------------------------------


def _end_of_owner(name: str, descriptor: int, process: int) -> None:
    # The handle goes after this, and its descriptor with it.
    if os.getpid() == process:  # not in a forked child
        _remove(name, descriptor)


def _remove(name: str, descriptor: int) -> None:
    segment.remove(name, descriptor)
    segment.remove_replies(name, segment.identity(descriptor)[1])


def close_quietly(ring: Ring) -> None:
    """Close and, for the owner, remove a ring; for ends of life where it may be closed already."""
    with contextlib.suppress(RingClosed):
        ring.__exit__(None, None, None)
