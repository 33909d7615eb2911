"""A page that a pool and its workers share: which item each worker is at and since when, and which were given up.

It may not know what an item is, nor who decides that one took too long. A worker writes its own line, the pool writes
the list; each word is written whole, by one store.

    line of a worker    tag + 1 of its item, CLOCK_MONOTONIC in ns when it began (0: it is at none); 64 bytes
    list                tags + 1 of items that were given up; 0 is a free place
"""

from __future__ import annotations

import mmap
import struct
import time

from ..machine import memory_files

_LINE_BYTES = 64
_LEAST_PLACES = 64
_WORD = struct.Struct("Q")
_LINE = struct.Struct("QQ")


class ItemBoard:
    """The page, as its pool or one of the workers has it.

    Parameters
    ----------
    descriptor : int
        Of the page's file; it is left open.
    workers : int
    """

    def __init__(self, descriptor: int, workers: int) -> None:
        self._list_start = workers * _LINE_BYTES
        self._places = max(_LEAST_PLACES, 4 * workers)
        self._memory = mmap.mmap(descriptor, _size(workers))
        self._next_place = 0

    # ---- for a worker --------------------------------------------------------------------------------

    def begin(self, worker: int, tag: int) -> None:
        """Say that a worker begins an item now."""
        _LINE.pack_into(self._memory, worker * _LINE_BYTES, tag + 1, time.monotonic_ns())

    def end(self, worker: int) -> None:
        """Say that a worker is at no item."""
        _LINE.pack_into(self._memory, worker * _LINE_BYTES, 0, 0)

    def was_given_up(self, tag: int) -> bool:
        """Tell whether an item is in the list."""
        return self._place_of(tag) >= 0

    def forget(self, tag: int) -> None:
        """Take an item off the list: its failure was told."""
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

    def line(self, worker: int) -> tuple[int, int] | None:
        """Return the item that a worker is at, as (tag, nanoseconds when it began)."""
        tag, began = _LINE.unpack_from(self._memory, worker * _LINE_BYTES)
        return (tag - 1, began) if began else None

    def give_up(self, tag: int) -> None:
        """Put an item on the list. The oldest entry goes where the list is full."""
        place = self._list_start + self._next_place * _WORD.size
        self._next_place = (self._next_place + 1) % self._places
        _WORD.pack_into(self._memory, place, tag + 1)

    def close(self) -> None:
        """Let go of the page."""
        self._memory.close()


def _size(workers: int) -> int:
    return workers * _LINE_BYTES + max(_LEAST_PLACES, 4 * workers) * _WORD.size


def make_file(workers: int) -> int:
    """Return the descriptor of a new page, without a name: it goes with its pool and the workers."""
    return memory_files.create("ringfeed-item-board", _size(workers))
