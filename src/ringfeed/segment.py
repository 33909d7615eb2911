"""The segment by name: opening and removing the POSIX shared-memory object of a ring.

It opens and never maps; the core removes, under a lock. It may not know what is in a segment, nor who may use it
(access.py). It opens by `os.open`, as ``shm_open`` neither promises not to wait at a pipe nor lets the folder be named.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import stat
import time
from collections.abc import Callable
from typing import TypeAlias

from . import _core
from .errors import AccessRefused, NoSpace, RingExists, RingFeedError
from .record_spec import SEGMENT_PREFIX, is_segment_label, segment_name
from .sharing import access

FOLDER = "/dev/shm"
"""Where the C library keeps POSIX shared memory on Linux."""

MAKING_SECONDS = 2.0
"""How long a segment may be half-made before it counts as left behind."""

REPLIES_SUFFIX = ".replies"

_MOST_LABEL = 249  # bytes of a memfd's name, as Linux has it

# What stands under a name may be a link to somewhere else, a pipe that nobody writes, a tape that rewinds.
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

Identity: TypeAlias = "tuple[int, int]"
"""Device and inode: what tells a segment from another one of the same name."""


def check_name(name: str) -> None:
    """Raise ValueError for what can not be a ring's name."""
    segment_name(name)


def check_label(name: str) -> None:
    """Raise ValueError for what can be the name neither of a ring nor of one of its levels."""
    if not is_segment_label(name):
        segment_name(name)


def identity(descriptor: int) -> Identity:
    """Return which segment a descriptor is of."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def path_of(name: str) -> str:
    """Return where a name stands in the file system: a ring's, or one that was made of it."""
    return f"{FOLDER}/{SEGMENT_PREFIX}{name}"


def identity_of(name: str) -> Identity | None:
    """Return which segment the ring's name means now; None when it means none."""
    status = _status_of(name)
    return None if status is None else (status.st_dev, status.st_ino)


def _status_of(name: str) -> os.stat_result | None:
    """Return what stands under a name, be it a link; None when nothing does."""
    try:
        return os.lstat(path_of(name))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refused(f"ring {name!r}", error) from error


# ---- Opening -----------------------------------------------------------------------------------------


def open_existing(name: str, group: int | None = None) -> int | None:
    """Return a descriptor of the segment that has the ring's name, to use it; None when there is none.

    Parameters
    ----------
    name : str
    group : int, optional
        With which other users it is shared.

    Raises
    ------
    AccessRefused
        It is not this user's alone or, with a group, not that group's alone.
    """
    what = f"ring {name!r}"
    descriptor = _open(name, lambda status: access.refuse_status(status, group, what))
    if descriptor is None:
        return None
    try:
        access.check(descriptor, group, what)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_to_look(name: str) -> int | None:
    """Return a descriptor of the segment that has the ring's name, to look at it or remove it; None when there is none.

    Raises
    ------
    AccessRefused
        It is another user's, and this process is not root's.
    """

    def refuse(status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode) or (os.geteuid() not in (0, status.st_uid)):
            access.refuse_status(status, None, f"ring {name!r}")

    descriptor = _open(name, refuse)
    if descriptor is None:
        return None
    try:
        refuse(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(name: str, refuse: Callable[[os.stat_result], None]) -> int | None:
    status = _status_of(name)
    if status is None:
        return None
    if not stat.S_ISREG(status.st_mode):
        refuse(status)  # unopened: opening a device does something to some
    try:
        return os.open(path_of(name), _OPEN)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.EISDIR):
            now = _status_of(name) or status
            refuse(now)
            raise access.denied(now, f"ring {name!r}") from None
        raise refused(f"ring {name!r}", error) from error


def check_received(descriptor: int, group: int | None, what: str) -> None:
    """Refuse a descriptor that another process sent, unless it is such as `open_existing` or `open_nameless` return.

    Memory without a name must have its size sealed: a sender that can still cut it short could end this process by
    SIGBUS. A file in /dev/shm cannot be sealed; only its own user, or group, can open and shorten it.
    """
    access.check(descriptor, group, what)
    access.check_writable(descriptor, what)
    if os.fstat(descriptor).st_dev == _device_of_nameless() and not _core.segment_is_nameless(descriptor):
        raise AccessRefused(
            f"{what}: its memory is not sealed against shrinking (F_SEAL_SHRINK): its sender could cut it short, which "
            "would kill this process. Send a ring that Ring.create_nameless made."
        )


@functools.cache
def _device_of_nameless() -> int | None:
    """Return the device on which all memory without a name stands; None where there is none."""
    try:
        descriptor = _core.create_nameless_segment("ringfeed")
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def refused(what: str, error: OSError) -> RingFeedError:
    """Return the error to raise when the machine does not let us open `what`."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return RingFeedError(
            f"{what}: no descriptor is left: this process may have {limit} open. Close some, or raise the limit "
            "(ulimit -n)."
        )
    if error.errno == errno.EROFS:
        return RingFeedError(
            f"{what}: {FOLDER} is read-only here. Mount it writable (mount -o remount,rw {FOLDER}); in a container, "
            "without ro or --read-only for it."
        )
    if error.errno == errno.ENOSPC:
        return NoSpace(
            f"{what}: {FOLDER} is full, or has as many files as it may. Remove what is left in it: "
            "ringfeed.clean() removes what dead owners left."
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return RingFeedError(
            f"{what}: there is no folder {FOLDER} here, where named rings stand ({os.strerror(error.errno)}). Mount "
            f"one (mount -t tmpfs tmpfs {FOLDER}), or use a ring without a name: Ring.create_nameless."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return RingFeedError(
            f"{what}: {FOLDER} does not let user {access.user_name(os.geteuid())} do that ({os.strerror(error.errno)})."
            f" Give it its usual mode (chmod 1777 {FOLDER}), or use a ring without a name: Ring.create_nameless."
        )
    return RingFeedError(f"{what} could not be opened in {FOLDER}: {error.strerror or error}.")


def open_new(name: str) -> int:
    """Return a descriptor of a new, empty segment of mode 0600; replace one that a dead owner left.

    Raises
    ------
    RingExists
        A living process owns a ring of that name.
    AccessRefused
        What has that name is another user's, or no file.
    """
    deadline = time.monotonic() + 2 * MAKING_SECONDS
    while True:
        try:
            descriptor = os.open(path_of(name), _OPEN | os.O_CREAT | os.O_EXCL, access.PRIVATE_MODE)
        except FileExistsError:
            _remove_stale(name, give_up=time.monotonic() > deadline)
        except OSError as error:
            raise refused(f"ring {name!r}", error) from error
        else:
            os.fchmod(descriptor, access.PRIVATE_MODE)  # whatever the umask left of it
            return descriptor


def open_nameless(name: str) -> int:
    """Return a descriptor of a new, empty segment that stands in no file system; `name` is for people.

    Raises
    ------
    RingFeedError
        The machine does not grant one.
    """
    try:
        return _core.create_nameless_segment(f"ringfeed.{name}"[:_MOST_LABEL])
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise refused(f"ring {name!r}", error) from error
        raise RingFeedError(
            f"ring {name!r}: this machine makes no shared memory without a name (memfd_create: {error.strerror}). "
            "Give the ring a name: Ring.create."
        ) from error


def share(descriptor: int, group: int | None, name: str) -> None:
    """Let the members of a group use a new segment; where that is refused, let go of it."""
    try:
        access.give_to_group(descriptor, group, f"ring {name!r}")
    except BaseException:
        os.close(descriptor)
        raise


# ---- Removing ----------------------------------------------------------------------------------------


def _remove_stale(name: str, give_up: bool) -> None:
    """Remove a segment without a living owner, or say that the name is taken."""
    status = _status_of(name)
    if status is not None and (not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid()):
        access.refuse_status(status, None, f"ring {name!r}")
    descriptor = None if status is None else open_to_look(name)
    if descriptor is None:
        if give_up:
            raise RingExists(f"ring {name!r}: others make and remove this name all the time. Choose another name.")
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
        # sees that right (removal_is_locked), or is seen here.
        if _core.remove_segment(*identity(descriptor), path_of(name), spare_the_living=True) is None:
            time.sleep(0.002)
    finally:
        os.close(descriptor)


def may_be_in_the_making(descriptor: int) -> bool:
    """Return whether a creator may just not have come so far as to own the segment.

    It owns it before it gives it a size: who asks for an owner asks this before.
    """
    return is_young_and_empty(os.fstat(descriptor))


def is_young_and_empty(status: os.stat_result) -> bool:
    """Return whether a segment of which this is known may be in the making."""
    return stat.S_ISREG(status.st_mode) and status.st_size == 0 and time.time() - status.st_ctime < MAKING_SECONDS


def name_may_be_in_the_making(name: str) -> bool:
    """Return whether what has the name now may be in the making."""
    status = _status_of(name)
    return status is not None and is_young_and_empty(status)


def removal_is_locked(name: str, descriptor: int) -> bool:
    """Return whether another creator removes, or has removed, the segment that we have just made."""
    return _core.segment_removal_is_locked(descriptor) or identity_of(name) != identity(descriptor)


def remove(name: str, which: Identity) -> None:
    """Remove the ring's name if it still means this very segment."""
    deadline = time.monotonic() + MAKING_SECONDS
    with contextlib.suppress(PermissionError):  # another user's
        # Who else has the right to remove it keeps that for microseconds, unless it is stopped there;
        # then it removes the segment itself, or leaves it to the next creator or to clean().
        while _core.remove_segment(*which, path_of(name), spare_the_living=False) is None:
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)


def replies_name(ring_name: str) -> str:
    """Return the name of the pool in which the requests of a ring are answered."""
    return ring_name + REPLIES_SUFFIX


def remove_replies(ring_name: str, ring_inode: int) -> None:
    """Remove the pool of a ring that goes; its maker may be alive."""
    name = replies_name(ring_name)
    try:
        descriptor = open_to_look(name)
    except AccessRefused:  # another user's: we never used it
        return
    if descriptor is None:
        return
    try:
        told = _core.inspect_segment(descriptor)[1]
        if told is not None and told[-1] == ring_inode:
            remove(name, identity(descriptor))
    finally:
        os.close(descriptor)


def serves_a_living_ring(name: str, ring_inode: int) -> bool:
    """Tell whether the ring whose pool has this name is there, and alive: the maker of the pool may be dead."""
    ring_name = name.removesuffix(REPLIES_SUFFIX)
    try:
        descriptor = open_to_look(ring_name)
    except AccessRefused:  # shared by its group: whether it is alive cannot be seen from here
        which = identity_of(ring_name)
        return which is not None and which[1] == ring_inode
    if descriptor is None:
        return False
    try:
        return identity(descriptor)[1] == ring_inode and _core.segment_is_owned(descriptor)
    finally:
        os.close(descriptor)
