"""The rings on this machine: listing them, and removing those of dead owners.

It may not know how to use a ring: it inspects segments and becomes a participant of none.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase

from . import _core, segment
from .errors import AccessRefused
from .record_spec import SEGMENT_PREFIX, RecordSpec, is_segment_label


@dataclass(frozen=True)
class SegmentInfo:
    """The state of a ring's segment in shared memory at one moment.

    Attributes
    ----------
    name : str
        The name of the ring.
    owner_alive : bool or None
        Whether a living process owns the segment. None if it belongs to another user and cannot be opened.
    bytes : int
        The memory that the segment uses.
    age_seconds : float
        The time since its creation.
    slots : int or None
        The number of slots. This and the following attributes are None if the segment is no ring, is not initialized,
        is damaged, has another layout version, or belongs to another user.
    spec : RecordSpec or None
        The fields of a record.
    creator_pid : int or None
        The owner's process id in its own PID namespace. For information only: another process may have it by now.
    participants : int or None
        The number of living processes (attachments), including the owner.
    ring_inode : int or None
        For a reply pool, the inode of the ring whose requests it answers. None for a ring.
    """

    name: str
    owner_alive: bool | None
    bytes: int
    age_seconds: float
    slots: int | None = None
    spec: RecordSpec | None = None
    creator_pid: int | None = None
    participants: int | None = None
    ring_inode: int | None = None


def list_segments(pattern: str = "*") -> list[SegmentInfo]:
    """List the rings that have a name on this machine, including those of dead owners.

    A ring whose name was removed is not listed, even while processes have it open. Listing changes nothing.

    Parameters
    ----------
    pattern : str
        A shell pattern for names, such as ``"cams-*"``.

    Returns
    -------
    list of SegmentInfo
        Sorted by name.

    Raises
    ------
    RingFeedError
        /dev/shm cannot be read, or no descriptor is left.
    """
    return [info for name in _names(pattern) if (info := _inspect_by_name(name)) is not None]


def clean(pattern: str = "*", *, dry_run: bool = False) -> list[SegmentInfo]:
    """Remove the segments of dead owners; never a segment whose owner is alive.

    `Ring.create` replaces the segment that a dead owner left under its name. `clean` is for names that no process
    creates again. A process that is still attached keeps the memory until it closes its ring; its waits raise
    `RingClosed`. Any number of processes may clean and create rings at the same time.

    Parameters
    ----------
    pattern : str
        A shell pattern for names.
    dry_run : bool
        Return the segments without removing them.

    Returns
    -------
    list of SegmentInfo
        The segments that this call removed.

    Raises
    ------
    RingFeedError
        /dev/shm cannot be read or is read-only, or no descriptor is left.

    Notes
    -----
    An owner is alive if it holds the owner's record lock on the segment; the kernel drops the lock with the process.
    So neither a reused process id nor another PID namespace causes a mistake. `clean` also keeps segments of other
    users (root removes those of all users), files that are no segments of RingFeed, and empty segments younger than
    two seconds, which may be in creation.
    """
    return [info for name in _names(pattern) if (info := _remove_if_dead(name, dry_run)) is not None]


def _names(pattern: str) -> list[str]:
    """Return the names of the rings in the folder that match."""
    found = []
    try:
        entries = os.scandir(segment.FOLDER)
    except OSError as error:
        raise segment.refused("the list of rings", error) from error
    with entries:
        for entry in entries:
            name = entry.name.removeprefix(SEGMENT_PREFIX)
            if name == entry.name or not fnmatchcase(name, pattern) or not entry.is_file(follow_symlinks=False):
                continue
            if is_segment_label(name):  # otherwise the file is no ring's
                found.append(name)
    return sorted(found)


def _inspect_by_name(name: str) -> SegmentInfo | None:
    """Return information about the segment that has the name now; None if there is none any more."""
    try:
        descriptor = segment.open_to_inspect(name)
    except AccessRefused:
        return _inspect_unopened(name)
    if descriptor is None:
        return None
    try:
        return _inspect(name, descriptor)[0]
    finally:
        os.close(descriptor)


def _inspect_unopened(name: str) -> SegmentInfo | None:
    """Return information about a segment that this user cannot open."""
    try:
        status = os.lstat(segment.path_of(name))
    except FileNotFoundError:
        return None
    return SegmentInfo(name, None, _held_bytes(status), _age_seconds(status))


def _inspect(name: str, descriptor: int) -> tuple[SegmentInfo, bool]:
    """Return information about an open segment, and whether RingFeed created it."""
    # The owner first: a creator becomes the owner before it writes anything.
    owner_alive = _core.segment_is_owned(descriptor)
    is_ours, contents = _core.inspect_segment(descriptor)
    status = os.fstat(descriptor)
    outside = name, owner_alive, _held_bytes(status), _age_seconds(status)
    if contents is None:
        return SegmentInfo(*outside), is_ours
    slots, fields, creator_pid, participants, ring_inode = contents
    try:
        spec = RecordSpec.of(fields)
    except (TypeError, ValueError):  # only a faulty peer writes such names or shapes
        return SegmentInfo(*outside), is_ours
    return SegmentInfo(*outside, slots, spec, creator_pid, participants, ring_inode or None), is_ours


def _remove_if_dead(name: str, dry_run: bool) -> SegmentInfo | None:
    try:
        descriptor = segment.open_to_inspect(name)
    except AccessRefused:
        return None
    if descriptor is None:
        return None
    try:
        info, is_ours = _inspect(name, descriptor)
        if info.owner_alive or not is_ours or segment.may_be_in_creation(descriptor):
            return None
        if info.ring_inode is not None and segment.belongs_to_living_ring(name, info.ring_inode):
            return None
        # The owner may have changed since the check; remove_segment checks again under the removal lock.
        if dry_run or _core.remove_segment(*segment.identity(descriptor), segment.path_of(name), spare_the_living=True):
            return info
        return None
    finally:
        os.close(descriptor)


def _held_bytes(status: os.stat_result) -> int:
    return status.st_blocks * 512


def _age_seconds(status: os.stat_result) -> float:
    # Writing through a mapping does not change the modification time.
    return max(time.time() - status.st_mtime, 0.0)
