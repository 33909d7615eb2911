"""The segment by name: opening and removing the POSIX shared-memory object of a ring.

It opens files and never maps them; the core removes them under a lock. It may not know the contents of a segment, nor
which users may use it (access.py). It uses `os.open`, because ``shm_open`` may block on a pipe and fixes the folder.
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
"""The folder in which the C library keeps POSIX shared memory on Linux."""

CREATION_SECONDS = 2.0
"""How long the creation of a segment may take. An older segment that is not initialized counts as abandoned."""

REPLIES_SUFFIX = ".replies"

_POLL_SECONDS = 0.002

_MAX_MEMFD_NAME_BYTES = 249  # Linux's limit (man 2 memfd_create)

# The file of that name may be a link to another place, a pipe without a writer, or a device that reacts to an open.
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

Identity: TypeAlias = "tuple[int, int]"
"""Device and inode. They distinguish a segment from another segment of the same name."""


def check_name(name: str) -> None:
    """Raise ValueError if this is no valid name of a ring."""
    segment_name(name)


def check_label(name: str) -> None:
    """Raise ValueError if this is no valid name of a ring or of one of its levels."""
    if not is_segment_label(name):
        segment_name(name)


def identity(descriptor: int) -> Identity:
    """Return the identity of a descriptor's segment."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def path_of(name: str) -> str:
    """Return the path of a ring's name, or of a name derived from it."""
    return f"{FOLDER}/{SEGMENT_PREFIX}{name}"


def identity_of(name: str) -> Identity | None:
    """Return the identity of the segment that has the ring's name now; None if there is none."""
    status = _status_of(name)
    return None if status is None else (status.st_dev, status.st_ino)


def _status_of(name: str) -> os.stat_result | None:
    """Return the status of the file that has the name, without following a link; None if there is none."""
    try:
        return os.lstat(path_of(name))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refused(f"ring {name!r}", error) from error


# ---- Opening -----------------------------------------------------------------------------------------


def open_existing(name: str, group: int | None = None) -> int | None:
    """Return a descriptor of the segment that has the ring's name, for using it; None if there is none.

    Parameters
    ----------
    name : str
    group : int, optional
        The group that shares the segment.

    Raises
    ------
    AccessRefused
        Users other than this one, or than the group's members, can open the segment.
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


def open_to_inspect(name: str) -> int | None:
    """Return a descriptor of the segment that has the ring's name, to inspect or remove it; None if there is none.

    Raises
    ------
    AccessRefused
        The segment belongs to another user, and this process does not run as root.
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
        refuse(status)  # before opening, since some devices react to an open
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
    """Refuse a descriptor from another process, unless `open_existing` or `open_nameless` could have returned it.

    The size of memory without a name must be sealed: a sender that can truncate the memory could kill this process by
    SIGBUS. A file in /dev/shm cannot be sealed; only its user or group can open and truncate it.

    Raises
    ------
    AccessRefused
    """
    access.check(descriptor, group, what)
    access.check_writable(descriptor, what)
    if os.fstat(descriptor).st_dev == _device_of_nameless() and not _core.segment_is_nameless(descriptor):
        raise AccessRefused(
            f"{what}: its memory is not sealed against shrinking (F_SEAL_SHRINK): its sender could truncate it, which "
            "would kill this process. Send a ring that Ring.create_nameless made."
        )


@functools.cache
def _device_of_nameless() -> int | None:
    """Return the device of all memory files; None if this machine supports none."""
    try:
        descriptor = _core.create_nameless_segment("ringfeed")
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def refused(what: str, error: OSError) -> RingFeedError:
    """Return the RingFeedError for an OSError that occurred while opening `what`."""
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
            f"{what}: {FOLDER} is full, or its number of files is at the limit. Remove files from it: "
            "ringfeed.clean() removes the rings of dead owners."
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return RingFeedError(
            f"{what}: there is no folder {FOLDER} here, where named rings are kept ({os.strerror(error.errno)}). Mount "
            f"one (mount -t tmpfs tmpfs {FOLDER}), or use a ring without a name: Ring.create_nameless."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return RingFeedError(
            f"{what}: user {access.user_name(os.geteuid())} has no permission in {FOLDER} ({os.strerror(error.errno)})."
            f" Give it its usual mode (chmod 1777 {FOLDER}), or use a ring without a name: Ring.create_nameless."
        )
    return RingFeedError(f"{what} could not be opened in {FOLDER}: {error.strerror or error}.")


def open_new(name: str) -> int:
    """Return a descriptor of a new, empty segment of mode 0600; replace a segment whose owner is dead.

    Raises
    ------
    RingExists
        A living process owns a ring of that name.
    AccessRefused
        Another user's file, or something that is no regular file, has that name.
    """
    deadline = time.monotonic() + 2 * CREATION_SECONDS
    while True:
        try:
            descriptor = os.open(path_of(name), _OPEN | os.O_CREAT | os.O_EXCL, access.PRIVATE_MODE)
        except FileExistsError:
            _remove_stale(name, give_up=time.monotonic() > deadline)
        except OSError as error:
            raise refused(f"ring {name!r}", error) from error
        else:
            os.fchmod(descriptor, access.PRIVATE_MODE)  # the umask may have removed bits
            return descriptor


def open_nameless(name: str) -> int:
    """Return a descriptor of a new, empty segment that is in no file system; `name` is for messages.

    Raises
    ------
    RingFeedError
        This machine supports no such memory, or no descriptor is left.
    """
    try:
        return _core.create_nameless_segment(f"ringfeed.{name}"[:_MAX_MEMFD_NAME_BYTES])
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise refused(f"ring {name!r}", error) from error
        raise RingFeedError(
            f"ring {name!r}: this machine supports no shared memory without a name (memfd_create: {error.strerror}). "
            "Give the ring a name: Ring.create."
        ) from error


def share(descriptor: int, group: int | None, name: str) -> None:
    """Share a new segment with a group, and close the descriptor if that is refused."""
    try:
        access.give_to_group(descriptor, group, f"ring {name!r}")
    except BaseException:
        os.close(descriptor)
        raise


# ---- Removing ----------------------------------------------------------------------------------------


def _remove_stale(name: str, give_up: bool) -> None:
    """Remove a segment without a living owner.

    Raises
    ------
    RingExists
        The segment's owner is alive, or `give_up` is true.
    """
    status = _status_of(name)
    if status is not None and (not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid()):
        access.refuse_status(status, None, f"ring {name!r}")
    descriptor = None if status is None else open_to_inspect(name)
    if descriptor is None:
        if give_up:
            raise RingExists(
                f"ring {name!r}: other processes create and remove this name all the time. Choose another name."
            )
        return
    try:
        in_creation = may_be_in_creation(descriptor)
        if _core.segment_is_owned(descriptor) or give_up:
            raise RingExists(f"ring {name!r} exists and its owner is alive. Attach to it, or choose another name.")
        if in_creation:
            time.sleep(_POLL_SECONDS)
            return
        # If several processes find the segment, one gets the lock that permits the removal. The others then
        # find another segment under the name. A creator that does not own the segment yet either sees this
        # lock (is_being_removed), or its owner lock is seen here.
        if _core.remove_segment(*identity(descriptor), path_of(name), spare_the_living=True) is None:
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(descriptor)


def may_be_in_creation(descriptor: int) -> bool:
    """Return whether a creator may be about to become the segment's owner.

    A creator becomes the owner before it sets the size. So callers check this before they check for an owner.
    """
    return is_young_and_empty(os.fstat(descriptor))


def is_young_and_empty(status: os.stat_result) -> bool:
    """Return whether a segment with this status may be in creation."""
    return stat.S_ISREG(status.st_mode) and status.st_size == 0 and time.time() - status.st_ctime < CREATION_SECONDS


def name_may_be_in_creation(name: str) -> bool:
    """Return whether the segment that has the name now may be in creation."""
    status = _status_of(name)
    return status is not None and is_young_and_empty(status)


def is_being_removed(name: str, descriptor: int) -> bool:
    """Return whether another creator is removing, or has removed, the segment that this process just created."""
    return _core.segment_removal_is_locked(descriptor) or identity_of(name) != identity(descriptor)


def remove(name: str, which: Identity) -> None:
    """Remove the ring's name if it still belongs to this segment."""
    deadline = time.monotonic() + CREATION_SECONDS
    with contextlib.suppress(PermissionError):  # another user's
        # Another process may hold the removal lock for microseconds. If that process is stopped meanwhile, it
        # removes the segment later, or leaves it to the next creator or to clean().
        while _core.remove_segment(*which, path_of(name), spare_the_living=False) is None:
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)


def replies_name(ring_name: str) -> str:
    """Return the name of a ring's reply pool."""
    return ring_name + REPLIES_SUFFIX


def remove_replies(ring_name: str, ring_inode: int) -> None:
    """Remove the reply pool of a ring that is being removed; the pool's creator may be alive."""
    name = replies_name(ring_name)
    try:
        descriptor = open_to_inspect(name)
    except AccessRefused:  # another user's, which this process never used
        return
    if descriptor is None:
        return
    try:
        contents = _core.inspect_segment(descriptor)[1]
        if contents is not None and contents[-1] == ring_inode:
            remove(name, identity(descriptor))
    finally:
        os.close(descriptor)


def belongs_to_living_ring(name: str, ring_inode: int) -> bool:
    """Return whether the ring of the reply pool `name` exists and is alive; the pool's creator may be dead."""
    ring_name = name.removesuffix(REPLIES_SUFFIX)
    try:
        descriptor = open_to_inspect(ring_name)
    except AccessRefused:  # shared with a group: this process cannot see whether its owner is alive
        which = identity_of(ring_name)
        return which is not None and which[1] == ring_inode
    if descriptor is None:
        return False
    try:
        return identity(descriptor)[1] == ring_inode and _core.segment_is_owned(descriptor)
    finally:
        os.close(descriptor)
