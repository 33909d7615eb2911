"""A ring and its priority levels: creating them, and attaching to them, by name and by descriptor.

Each priority level is a ring with a segment of its own. It may not know how descriptors travel (ring_handover.py), nor
how a segment's file is opened and removed (segment.py).
"""

from __future__ import annotations

import os
import time
import weakref
from typing import Any, TypeVar

from . import segment
from .errors import AccessRefused, LayoutMismatch, RingClosed, RingExists, RingNotFound
from .ring_memory import RingMemory

MAX_PRIORITIES = 8

_POLL_SECONDS = 0.002
"""The pause between two attempts to attach to a ring that is not there yet."""

_AnyRing = TypeVar("_AnyRing", bound="RingLevels")


class RingLevels(RingMemory):
    """The part of `Ring` that creates and attaches a ring together with its lower priority levels."""

    _lower: tuple[Any, ...] = ()
    """The rings of the lower priorities, in order. They are of this ring's class."""

    _group: int | None = None

    _finalizer: weakref.finalize[Any, RingLevels] | None = None
    """The owner's: it removes the ring's name when the owner exits."""

    # -- creating ----------------------------------------------------------------------------------

    @classmethod
    def _create_levels(
        cls: type[_AnyRing], name: str, group: int | None, priorities: int, options: tuple[Any, ...]
    ) -> _AnyRing:
        """Create the ring and its lower levels; `options` as `checked_options` returns them."""
        lower: list[_AnyRing] = []
        try:
            # The first level comes last: a process that can attach to it finds the other levels.
            for level in range(1, priorities):
                lower.append(cls._create_level(level_name(name, level), group, 0, options))
            ring = cls._create_level(name, group, priorities, options)
        except BaseException:
            for created in lower:
                created.unlink()
                created.close()
            raise
        ring._lower = tuple(lower)
        return ring

    @classmethod
    def _create_level(
        cls: type[_AnyRing], name: str, group: int | None, priorities: int, options: tuple[Any, ...]
    ) -> _AnyRing:
        deadline = time.monotonic() + 2 * segment.CREATION_SECONDS
        while (ring := cls._try_to_create(name, group, priorities, options)) is None:
            if time.monotonic() > deadline:
                raise RingExists(
                    f"ring {name!r}: another process removed the new segment at each attempt. Find the process that "
                    f"removes files in {segment.FOLDER}, or choose another name."
                )
        return ring

    @classmethod
    def _try_to_create(
        cls: type[_AnyRing], name: str, group: int | None, priorities: int, options: tuple[Any, ...]
    ) -> _AnyRing | None:
        """Create one level. None if another creator took the new segment for a dead owner's and removed it."""
        descriptor = segment.open_new(name)
        identity = segment.identity(descriptor)
        ring = cls.__new__(cls)
        ring._group = group
        try:
            segment.share(descriptor, group, name)
            unrelated_inode = 0  # a ring belongs to no other ring, as a reply pool does
            ring._create(name, descriptor, *(*options, unrelated_inode, priorities))
            if segment.is_being_removed(name, ring.descriptor):
                ring.close()
                segment.remove(name, identity)
                return None
        except BaseException:
            segment.remove(name, identity)
            raise
        ring._finalizer = weakref.finalize(ring, _remove_at_exit, name, identity, os.getpid())
        return ring

    @classmethod
    def _create_without_name(cls: type[_AnyRing], name: str, group: int | None, options: tuple[Any, ...]) -> _AnyRing:
        """Create a ring in a memory file; `name` is for messages."""
        ring = cls.__new__(cls)
        ring._group = group
        descriptor = segment.open_nameless(name)
        segment.share(descriptor, group, name)
        ring._create(name, descriptor, *options)
        return ring

    # -- attaching ---------------------------------------------------------------------------------

    @classmethod
    def _attach_by_name(cls: type[_AnyRing], name: str, wait_seconds: float, group: int | None) -> _AnyRing:
        """Attach to the ring that has the name, waiting for its creation."""
        deadline = time.monotonic() + wait_seconds
        created_until = time.monotonic() + segment.CREATION_SECONDS
        closed: segment.Identity | None = None
        why_closed: RingClosed | None = None
        while True:
            found = segment.identity_of(name)
            if found != closed:
                try:
                    ring = cls._attach_if_initialized(name, group)
                    if ring is not None:
                        return ring
                except RingClosed as error:
                    # Its owner does not come back, but a new owner may replace the segment.
                    closed, why_closed = found, error
                except AccessRefused:
                    # Its creator may be about to share the segment with the group.
                    if group is None or not segment.name_may_be_in_creation(name):
                        raise
            now = time.monotonic()
            if now >= deadline:
                if found is None:
                    raise RingNotFound(f"no ring {name!r} exists. Create it first, or pass timeout= to wait for it.")
                if why_closed is not None and found == closed:
                    raise why_closed
                if now >= created_until:
                    raise RingNotFound(
                        f"ring {name!r} was never initialized: its creator died during creation. Create it again."
                    )
            time.sleep(_POLL_SECONDS)

    @classmethod
    def _attach_if_initialized(cls: type[_AnyRing], name: str, group: int | None) -> _AnyRing | None:
        descriptor = segment.open_existing(name, group)
        ring = cls.__new__(cls)
        ring._group = group
        if descriptor is None or not ring._attach(name, descriptor):
            return None
        levels = range(1, min(ring._user_data(), MAX_PRIORITIES))
        ring._lower = tuple(cls._attach_by_name(level_name(name, level), 0.0, group) for level in levels)
        return ring

    @classmethod
    def _attach_received_levels(cls: type[_AnyRing], name: str, descriptors: list[int], group: int | None) -> _AnyRing:
        """Attach to a ring and its lower levels by received descriptors; the list keeps those that are not used."""
        rings: list[_AnyRing] = []
        try:
            while descriptors:
                name_of_level = name if not rings else level_name(name, len(rings))
                rings.append(cls._attach_received(descriptors.pop(0), name_of_level, group))
        except BaseException:
            for ring in rings:
                ring.close()
            raise
        rings[0]._lower = tuple(rings[1:])
        return rings[0]

    @classmethod
    def _attach_received(cls: type[_AnyRing], descriptor: int, name: str, group: int | None) -> _AnyRing:
        try:
            segment.check_label(name)
            segment.check_received(descriptor, group, f"ring {name!r}")
        except BaseException:
            os.close(descriptor)
            raise
        ring = cls.__new__(cls)
        ring._group = group
        if not ring._attach(name, descriptor):
            raise LayoutMismatch(f"ring {name!r} is not initialized yet. Send its descriptor after it is created.")
        return ring

    # -- levels ------------------------------------------------------------------------------------

    @property
    def group(self) -> int | None:
        """The number of the group with which the ring is shared; None if it belongs to one user alone."""
        return self._group

    @property
    def is_nameless(self) -> bool:
        """Whether `create_nameless` made the ring, so that other processes open it by its descriptor alone."""
        return self._has_no_name()

    def unlink(self) -> None:
        """Remove the ring's name; processes that have it open continue. It may be called twice, and without a name."""
        for level in self._lower:
            level.unlink()
        if self._finalizer is not None:
            self._finalizer.detach()
        if not self.is_nameless:
            _remove(self.name, self._identity())


def level_name(name: str, level: int) -> str:
    """Return the name of a lower level of the ring `name`."""
    return f"{name}.priority-{level}"


def _remove_at_exit(name: str, identity: segment.Identity, process: int) -> None:
    if os.getpid() == process:  # a forked child does not own the ring
        _remove(name, identity)


def _remove(name: str, identity: segment.Identity) -> None:
    segment.remove(name, identity)  # by name: other code of this process may have closed the ring's descriptor
    segment.remove_replies(name, identity[1])
