"""The segment by name: opening and removing the POSIX shared-memory object of a ring.

`posix_ipc` opens it and never maps it; the core removes it, under a lock. It may not know what is in
a segment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import time
from typing import TypeAlias

import posix_ipc

from . import _core
from .errors import NoSpace, RingExists, RingFeedError
from .record_spec import segment_name

MAKING_SECONDS = 2.0
"""How long a segment may be half-made before it counts as left behind."""

REPLIES_SUFFIX = ".replies"

Identity: TypeAlias = "tuple[int, int]"
"""Device and inode: what tells a segment from another one of the same name."""


def check_name(name: str) -> None:
    """Raise ValueError for what can not be a ring's name."""
    segment_name(name)


def identity(descriptor: int) -> Identity:
    """Return which segment a descriptor is of."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def path_of(name: str) -> str:
    """Return where the ring's name stands in the file system."""
    return f"/dev/shm{segment_name(name)}"


def identity_of(name: str) -> Identity | None:
    """Return which segment the ring's name means now; None when it means none.

    Opens nothing: a descriptor can not be closed while this process has the same segment open.
    """
    try:
        status = os.stat(path_of(name))
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class NotOurs(RingFeedError):
    """The segment belongs to another user."""


def open_existing(name: str) -> int | None:
    """Return a descriptor of the segment that has the ring's name; None when there is none."""
    which = identity_of(name)
    if which is None:
        return None
    # One that can not be closed yet is as good as a new one, which could not be closed either.
    spare = _core.borrow_segment(*which)
    if spare >= 0:
        return spare
    try:
        return int(posix_ipc.SharedMemory(segment_name(name)).fd)
    except posix_ipc.ExistentialError:
        return None
    except posix_ipc.PermissionsError:
        raise NotOurs(
            f"ring {name!r} belongs to another user; rings are private to one (mode 0600). Choose another name."
        ) from None
    except OSError as error:
        raise refused(f"ring {name!r}", error) from error


def refused(what: str, error: OSError) -> RingFeedError:
    """Return the error to raise when the machine does not let us open `what`."""
    said = error.strerror or str(error)  # of what posix_ipc raises, it gives some a text and no number
    if error.errno in (errno.EMFILE, errno.ENFILE) or "files open" in said or "open files" in said:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return RingFeedError(
            f"{what}: no descriptor is left: this process may have {limit} open. Close some, or raise the limit "
            "(ulimit -n)."
        )
    if error.errno == errno.EROFS:
        return RingFeedError(
            f"{what}: /dev/shm is read-only here. Mount it writable (mount -o remount,rw /dev/shm); in a container, "
            "without ro or --read-only for it."
        )
    if error.errno == errno.ENOSPC:
        return NoSpace(
            f"{what}: /dev/shm is full, or has as many files as it may. Remove what is left in it: "
            "ringfeed.clean() removes what dead owners left."
        )
    return RingFeedError(f"{what} could not be opened in /dev/shm: {said}.")


def open_new(name: str) -> int:
    """Return a descriptor of a new, empty segment; replace one that a dead owner left.

    Raises
    ------
    RingExists
        A living process owns a ring of that name.
    """
    shm_name = segment_name(name)
    deadline = time.monotonic() + 2 * MAKING_SECONDS
    while True:
        try:
            return int(posix_ipc.SharedMemory(shm_name, flags=posix_ipc.O_CREX, mode=0o600, size=0).fd)
        except posix_ipc.ExistentialError:
            pass
        except posix_ipc.PermissionsError as error:
            raise RingFeedError(f"ring {name!r}: /dev/shm does not let this user create it: {error}.") from None
        except OSError as error:
            raise refused(f"ring {name!r}", error) from error
        _remove_stale(name, give_up=time.monotonic() > deadline)


def _remove_stale(name: str, give_up: bool) -> None:
    """Remove a segment without a living owner, or say that the name is taken."""
    descriptor = open_existing(name)
    if descriptor is None:
        return
    try:
        in_the_making = may_be_in_the_making(descriptor)
        if _core.segment_is_owned(descriptor) or give_up:
            raise RingExists(f"ring {name!r} exists and its owner is alive. Attach to it, or choose another name.")
        if in_the_making:
            time.sleep(0.002)
            return
        # Of several processes that find it, one has the right to remove it; the others find that the
        # name means another segment by now. A creator that had not come so far as to own it either
        # sees that right (is_condemned), or is seen here.
        if _core.remove_segment(descriptor, path_of(name), spare_the_living=True) is None:
            time.sleep(0.002)
    finally:
        _core.discard_segment(descriptor)


def may_be_in_the_making(descriptor: int) -> bool:
    """Return whether a creator may just not have come so far as to own the segment.

    It owns it before it gives it a size: who asks for an owner asks this before.
    """
    status = os.fstat(descriptor)
    return status.st_size == 0 and time.time() - status.st_ctime < MAKING_SECONDS


def is_condemned(name: str, descriptor: int) -> bool:
    """Return whether another creator removes, or has removed, the segment that we have just made."""
    return _core.segment_is_condemned(descriptor) or identity_of(name) != identity(descriptor)


def remove(name: str, descriptor: int) -> None:
    """Remove the ring's name if it still means the segment of the descriptor."""
    deadline = time.monotonic() + MAKING_SECONDS
    with contextlib.suppress(PermissionError):  # another user's
        # Who else has the right to remove it keeps that for microseconds, unless it is stopped there;
        # then it removes the segment itself, or leaves it to the next creator or to clean().
        while _core.remove_segment(descriptor, path_of(name), spare_the_living=False) is None:
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)


def replies_name(ring_name: str) -> str:
    """Return the name of the pool in which the requests of a ring are answered."""
    return ring_name + REPLIES_SUFFIX


def remove_replies(ring_name: str, ring_inode: int) -> None:
    """Remove the pool of a ring that goes; its maker may be alive."""
    name = replies_name(ring_name)
    descriptor = open_existing(name)
    if descriptor is None:
        return
    try:
        told = _core.look_at_segment(descriptor)[1]
        if told is not None and told[-1] == ring_inode:
            remove(name, descriptor)
    finally:
        _core.discard_segment(descriptor)


def serves_a_living_ring(name: str, ring_inode: int) -> bool:
    """Tell whether the ring whose pool has this name is there, and alive: the maker of the pool may be dead."""
    ring_name = name.removesuffix(REPLIES_SUFFIX)
    descriptor = open_existing(ring_name)
    if descriptor is None:
        return False
    try:
        return identity(descriptor)[1] == ring_inode and _core.segment_is_owned(descriptor)
    finally:
        _core.discard_segment(descriptor)


def unlink_if(name: str, which: Identity) -> None:
    """Remove the ring's name if it still means this very segment, of which no descriptor is left."""
    descriptor = open_existing(name)
    if descriptor is None:
        return
    try:
        if identity(descriptor) == which:
            remove(name, descriptor)
    finally:
        _core.discard_segment(descriptor)
