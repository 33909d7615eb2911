"""The ring by name: creating, attaching and removing its shared-memory segment.

It may not know TensorFlow. Claims, batches and everything hot are in `_core`; `posix_ipc` opens
and unlinks the segment and never maps it.
"""

from __future__ import annotations

import errno
import os
import time
import warnings
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import posix_ipc

from . import _core
from ._core import Batch
from .errors import NoSpace, RingClosed, RingExists, RingFeedError, RingFinished, RingNotFound
from .record_spec import FieldsLike, RecordSpec, segment_name

_MAKING_SECONDS = 2.0
"""How long a segment may be half-made before it counts as left behind."""


class MemoryOptionWarning(RuntimeWarning):
    """The machine refused a memory option; the ring works without it."""


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

    _finalizer: weakref.finalize[[str, int, int], Ring] | None

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

        Raises
        ------
        RingExists
            A living process owns a ring of that name. (One whose owner is dead is replaced.)
        NoSpace
            /dev/shm is too small or too full.
        ValueError, TypeError
            A name, field or number that makes no ring.
        """
        spec = RecordSpec(fields)
        if not isinstance(slots, int) or slots < 1:
            raise ValueError(f"slots {slots!r}: a ring needs a whole number of at least 1.")
        if not 1 <= participants <= 4095:
            raise ValueError(f"participants {participants!r}: give 1 to 4095.")
        if numa_node is not None and not 0 <= numa_node < 1024:
            raise ValueError(f"numa_node {numa_node!r}: give the number of a node, 0 to 1023.")
        if name is None:
            name = f"ring-{os.getpid()}-{os.urandom(6).hex()}"
        descriptor = _open_new(name)
        inode = _identity(descriptor)
        ring = cls.__new__(cls)
        try:
            ring._create(name, descriptor, spec, slots, participants, redeliver, huge_pages, numa_node)
        except BaseException:
            _unlink_if(name, *inode)
            raise
        ring._finalizer = weakref.finalize(ring, _end_of_owner, name, *inode, os.getpid())
        ring.memory = {}
        ring._ask_for_memory(huge_pages, lock_memory, numa_node)
        return ring

    @classmethod
    def attach(cls, name: str, *, timeout: float = 0.0) -> Ring:
        """Open a ring that another process (or this one) created.

        Parameters
        ----------
        name : str
            As given to `create`.
        timeout : float
            Seconds to wait for the ring to be created.

        Raises
        ------
        RingNotFound
            There is no ring of that name.
        RingClosed
            There is one, but its owner closed it or is dead.
        LayoutMismatch
            The segment is no ring, is damaged, or is of another layout version.
        """
        shm_name = segment_name(name)
        deadline = time.monotonic() + timeout
        making_until = time.monotonic() + _MAKING_SECONDS
        while True:
            ring = cls.__new__(cls)
            missing = False
            try:
                descriptor = posix_ipc.SharedMemory(shm_name).fd
            except posix_ipc.ExistentialError:
                missing = True
            except posix_ipc.PermissionsError:
                raise RingFeedError(f"ring {name!r} belongs to another user; rings are private to one (mode 0600).") from None
            if not missing and ring._attach(name, descriptor):
                ring._finalizer = None
                ring.memory = {}
                return ring
            now = time.monotonic()
            if missing and now >= deadline:
                raise RingNotFound(f"no ring {name!r} exists. Create it first, or pass timeout= to wait for it.")
            if not missing and now >= max(deadline, making_until):
                raise RingNotFound(f"ring {name!r} was never finished: its creator died half way. Create it anew.")
            time.sleep(0.002)

    def _ask_for_memory(self, huge_pages: bool, lock_memory: bool, numa_node: int | None) -> None:
        answers = {}
        if numa_node is not None:
            answers["numa_node"] = self._numa_errno()
        if huge_pages:
            answers["huge_pages"] = self._use_huge_pages()
        if lock_memory:
            answers["lock_memory"] = self._lock_memory()
        for option, refusal in answers.items():
            self.memory[option] = _explain_refusal(option, refusal, self.segment_bytes) if refusal else "granted"
            if refusal:
                warnings.warn(f"ring {self.name!r}: {option}: {self.memory[option]}", MemoryOptionWarning, stacklevel=3)

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

    def unlink(self) -> None:
        """Remove the ring's name; whoever has it open goes on. Doing it twice does no harm."""
        if self._finalizer is not None:
            _, _, arguments, _ = self._finalizer.peek() or (None, None, None, None)
            if arguments is not None:
                self._finalizer.detach()
                _unlink_if(*arguments[:3])
            return
        try:
            posix_ipc.unlink_shared_memory(segment_name(self.name))
        except posix_ipc.ExistentialError:
            pass

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
        role = "owner" if self.is_owner else "closed" if self.closed else "attached"
        return f"<Ring {self.name!r}, {role}, {self.slots} slots of {self.spec!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A ring travels to another process as its name.
        return _attach_by_name, (self.name,)


def _attach_by_name(name: str) -> Ring:
    return Ring.attach(name)


# ---- Segments ----------------------------------------------------------------------------------------


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _open_new(name: str) -> int:
    """Open a new, empty segment; replace one that a dead owner left."""
    shm_name = segment_name(name)
    deadline = time.monotonic() + 2 * _MAKING_SECONDS
    while True:
        try:
            return int(posix_ipc.SharedMemory(shm_name, flags=posix_ipc.O_CREX, mode=0o600, size=0).fd)
        except posix_ipc.ExistentialError:
            pass
        except posix_ipc.PermissionsError as error:
            raise RingFeedError(f"ring {name!r}: /dev/shm does not let this user create it: {error}.") from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise NoSpace(f"ring {name!r}: /dev/shm is full ({error}).") from None
            raise
        _remove_stale(name, give_up=time.monotonic() > deadline)


def _remove_stale(name: str, give_up: bool) -> None:
    """Remove a segment without a living owner, or say that the name is taken."""
    try:
        descriptor = posix_ipc.SharedMemory(segment_name(name)).fd
    except posix_ipc.ExistentialError:
        return
    except posix_ipc.PermissionsError:
        raise RingExists(f"ring {name!r} exists and belongs to another user. Choose another name.") from None
    try:
        if _core.segment_is_owned(descriptor) or give_up:
            raise RingExists(f"ring {name!r} exists and its owner is alive. Attach to it, or choose another name.")
        if os.fstat(descriptor).st_size == 0 and time.time() - os.fstat(descriptor).st_ctime < _MAKING_SECONDS:
            time.sleep(0.002)  # it may just be in the making: its creator locks it first of all
            return
        # Of several processes that find it, the one with this lock removes it; the others find
        # that the name means another segment by now.
        if not _core.condemn_segment(descriptor):
            time.sleep(0.002)
            return
        _unlink_if(name, *_identity(descriptor))
    finally:
        _core.discard_segment(descriptor)


def _unlink_if(name: str, device: int, inode: int) -> None:
    """Unlink the ring's segment if the name still means this very one."""
    shm_name = segment_name(name)
    try:
        descriptor = posix_ipc.SharedMemory(shm_name).fd
    except (posix_ipc.ExistentialError, posix_ipc.PermissionsError):
        return
    try:
        if _identity(descriptor) == (device, inode):
            posix_ipc.unlink_shared_memory(shm_name)
    except posix_ipc.ExistentialError:
        pass
    finally:
        _core.discard_segment(descriptor)


def _end_of_owner(name: str, device: int, inode: int, process: int) -> None:
    if os.getpid() == process:  # not in a forked child
        _unlink_if(name, device, inode)


def _explain_refusal(option: str, refusal: int, needed_bytes: int) -> str:
    said = os.strerror(refusal)
    if option == "lock_memory":
        return f"refused ({said}): {needed_bytes} bytes pass the limit of locked memory. Raise it with ulimit -l or CAP_IPC_LOCK."
    if option == "huge_pages":
        return f"refused ({said}): set /sys/kernel/mm/transparent_hugepage/shmem_enabled to 'advise' or 'always'."
    return f"refused ({said}): the machine has no such NUMA node, or does not let this process bind to it."


def close_quietly(ring: Ring) -> None:
    """Close and, for the owner, remove a ring; for ends of life where it may be closed already."""
    try:
        ring.__exit__(None, None, None)
    except RingClosed:
        pass
