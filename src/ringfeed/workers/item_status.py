"""A page shared by a pool and its workers: the item of each worker, since when, and the items that timed out.

It may not know items, nor the limit of their time. A worker writes its own entry, the pool writes the list; each word
is written by one store.

    entry of a worker   tag + 1 of its item, CLOCK_MONOTONIC in ns when it began (0: the worker has no item); 64 bytes
    list                tags + 1 of items that timed out; 0 is a free place
"""

from __future__ import annotations

import mmap
import struct
import time

from ..machine import memory_files

_ENTRY_BYTES = 64
_MIN_PLACES = 64
_WORD = struct.Struct("Q")
_ENTRY = struct.Struct("QQ")


class ItemStatusPage:
    """The page, in its pool or in one of the workers.

    Parameters
    ----------
    descriptor : int
        Of the page's file; it is left open.
    workers : int
    """

    def __init__(self, descriptor: int, workers: int) -> None:
        self._list_start = workers * _ENTRY_BYTES
        self._places = max(_MIN_PLACES, 4 * workers)
        self._memory = mmap.mmap(descriptor, _size(workers))
        self._next_place = 0

    # ---- for a worker --------------------------------------------------------------------------------

    def begin(self, worker: int, tag: int) -> None:
        """Record that a worker begins an item now."""
        _ENTRY.pack_into(self._memory, worker * _ENTRY_BYTES, tag + 1, time.monotonic_ns())

    def end(self, worker: int) -> None:
        """Record that a worker has no item."""
        _ENTRY.pack_into(self._memory, worker * _ENTRY_BYTES, 0, 0)

    def has_timed_out(self, tag: int) -> bool:
        """Tell whether an item is in the list."""
        return self._place_of(tag) >= 0

    def clear_timed_out(self, tag: int) -> None:
        """Remove an item from the list: its failure was published."""
        place = self._place_of(tag)
        if place >= 0:
            _WORD.pack_into(self._memory, place, 0)

    def _place_of(self, tag: int) -> int:
        for number in range(self._places):
            place = self._list_start + number * _WORD.size
            if _WORD.unpack_from(self._memory, place)[0] == tag + 1:
                return place
        return -1

    # ---- for the pool --------------------------------------------------------------------------------

    def entry(self, worker: int) -> tuple[int, int] | None:
        """Return the item of a worker, as (tag, nanoseconds when it began)."""
        tag, began = _ENTRY.unpack_from(self._memory, worker * _ENTRY_BYTES)
        return (tag - 1, began) if began else None

    def add_timed_out(self, tag: int) -> None:
        """Put an item on the list. It replaces the oldest entry if the list is full."""
        place = self._list_start + self._next_place * _WORD.size
        self._next_place = (self._next_place + 1) % self._places
        _WORD.pack_into(self._memory, place, tag + 1)

    def close(self) -> None:
        """Unmap the page."""
        self._memory.close()


def _size(workers: int) -> int:
    return workers * _ENTRY_BYTES + max(_MIN_PLACES, 4 * workers) * _WORD.size


def make_file(workers: int) -> int:
    """Return the descriptor of a new page without a name: it disappears with its pool and the workers."""
    return memory_files.create("ringfeed-item-status", _size(workers))
