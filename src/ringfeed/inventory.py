"""Which rings there are on this machine, and removing what dead owners left.

It may not know how to use a ring; it looks at segments from outside and joins none.
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
    """A ring's segment in shared memory, as it was at one moment.

    Attributes
    ----------
    name : str
        The ring's.
    owner_alive : bool or None
        Does a living process own it? None when it may not be opened: it is another user's.
    bytes : int
        Memory that it holds.
    age_seconds : float
        Since it was made.
    slots : int or None
        None, as all that follows, where the segment is no ring, is half made or damaged, is of another
        layout version, or is another user's.
    spec : RecordSpec or None
        The fields of a record.
    creator_pid : int or None
        The owner's process id, as its own PID namespace has it. For people: it may be of another
        process by now.
    participants : int or None
        Processes (attachments) that are alive, the owner's among them.
    ring_inode : int or None
        Of a pool of reply cells: the inode of the ring whose requests are answered there. None for a ring.
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
    """List the rings that have a name on this machine, the dead ones too.

    A ring whose name was removed is not listed, also while processes have it open. Looking changes
    nothing and joins nothing.

    Parameters
    ----------
    pattern : str
        Only rings whose name matches, as in a shell: ``"cams-*"``.

    Returns
    -------
    list of SegmentInfo
        By name.

    Raises
    ------
    RingFeedError
        /dev/shm can not be read, or no descriptor is left.
    """
    return [info for name in _names(pattern) if (info := _look_by_name(name)) is not None]


def clean(pattern: str = "*", *, dry_run: bool = False) -> list[SegmentInfo]:
    """Remove the segments that dead owners left; never one whose owner is alive.

    `Ring.create` replaces what a dead owner left of its name by itself. This is for names that nobody
    makes anew. A process that is still attached keeps the memory until it lets go, and gets
    `RingClosed` where it waits. Any number of processes may clean, and create rings, at once.

    Parameters
    ----------
    pattern : str
        Only rings whose name matches, as in a shell.
    dry_run : bool
        Only tell what would be removed.

    Returns
    -------
    list of SegmentInfo
        What was removed by this call.

    Raises
    ------
    RingFeedError
        /dev/shm can not be read or is read-only, or no descriptor is left.

    Notes
    -----
    Alive is who holds the owner's record lock on the segment, which the kernel drops with the process:
    neither a process id that is used again nor another PID namespace deceives it. Left alone are also
    segments of other users (root cleans everyone's), files that are no segments of RingFeed's, and
    empty segments younger than two seconds, which may be in the making.
    """
    return [info for name in _names(pattern) if (info := _remove_if_dead(name, dry_run)) is not None]


def _names(pattern: str) -> list[str]:
    """Return the names of rings that stand in the folder and match."""
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
            if is_segment_label(name):  # else no ring could be called so
                found.append(name)
    return sorted(found)


def _look_by_name(name: str) -> SegmentInfo | None:
    """Return what a name means now; None when it means nothing any more."""
    try:
        descriptor = segment.open_to_look(name)
    except AccessRefused:
        return _from_outside(name)
    if descriptor is None:
        return None
    try:
        return _look(name, descriptor)[0]
    finally:
        os.close(descriptor)


def _from_outside(name: str) -> SegmentInfo | None:
    """Return what is known of a segment that may not be opened."""
    try:
        status = os.lstat(segment.path_of(name))
    except FileNotFoundError:
        return None
    return SegmentInfo(name, None, _held_bytes(status), _age_seconds(status))


def _look(name: str, descriptor: int) -> tuple[SegmentInfo, bool]:
    """Return what a segment is, and whether RingFeed made it."""
    # The owner first: that of a ring in the making is there before anything else.
    owner_alive = _core.segment_is_owned(descriptor)
    is_ours, told = _core.inspect_segment(descriptor)
    status = os.fstat(descriptor)
    outside = name, owner_alive, _held_bytes(status), _age_seconds(status)
    if told is None:
        return SegmentInfo(*outside), is_ours
    slots, fields, creator_pid, participants, ring_inode = told
    try:
        spec = RecordSpec.of(fields)
    except (TypeError, ValueError):  # names or shapes that only a broken peer writes
        return SegmentInfo(*outside), is_ours
    return SegmentInfo(*outside, slots, spec, creator_pid, participants, ring_inode or None), is_ours


def _remove_if_dead(name: str, dry_run: bool) -> SegmentInfo | None:
    try:
        descriptor = segment.open_to_look(name)
    except AccessRefused:
        return None
    if descriptor is None:
        return None
    try:
        info, is_ours = _look(name, descriptor)
        if info.owner_alive or not is_ours or segment.may_be_in_the_making(descriptor):
            return None
        if info.ring_inode is not None and segment.serves_a_living_ring(name, info.ring_inode):
            return None
        # The look is old by now; the removal itself looks once more, under the lock that makes it last.
        if dry_run or _core.remove_segment(*segment.identity(descriptor), segment.path_of(name), spare_the_living=True):
            return info
        return None
    finally:
        os.close(descriptor)


def _held_bytes(status: os.stat_result) -> int:
    return status.st_blocks * 512


def _age_seconds(status: os.stat_result) -> float:
    # Writing through a mapping leaves the time alone.
    return max(time.time() - status.st_mtime, 0.0)
