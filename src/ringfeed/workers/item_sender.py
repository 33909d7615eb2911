"""Laying items into the task rings, from threads beside the model's.

It may not know workers, models or results. Items are shared out in parts, one ring and one thread a
part: with a single part whoever is free takes the next item; with one part a worker, each worker has
its own share.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections.abc import Iterator
from typing import Any

from ..errors import PreprocessError, RingClosed, RingEmpty, RingFinished, RingFull
from ..ring import Ring
from .items import EncodedItem, SpilledItem, SpillFile
from .pool import unsendable_error

_SLICE_SECONDS = 0.1

NOT_IN_FLIGHT = object()
"""What `Feeder.done` returns in the place of an item that is done already, or was never fed."""


class Feeder:
    """Threads that lay items into rings until they end or are stopped.

    Parameters
    ----------
    parts : list of iterator of (int, object)
        Index and item; each part goes to the ring at its place.
    rings : list of Ring
        As many as parts, with a field ``message`` of uint8.
    spill : SpillFile
        For items that are larger than that field.
    tag : int
        Combined with each index (by or) into the task's tag.
    window : int or None
        Most items read and not yet acknowledged by `slide`, of a single part; None for no limit of its own.
    entered : int
        How many items have been read before, and are still to be acknowledged.
    """

    def __init__(
        self,
        parts: list[Iterator[tuple[int, Any]]],
        rings: list[Ring],
        spill: SpillFile,
        tag: int,
        window: int | None = None,
        entered: int = 0,
    ) -> None:
        self.error: BaseException | None = None
        self._rings = rings
        self._spill = spill
        self._tag = tag
        self._window = window
        self._entered = entered  # changed by the one thread that feeds where there is a window
        self._slid = 0  # changed by the model's thread
        self._has_slid = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._process = os.getpid()
        # Each thread changes these by single operations of a dict, which need no lock.
        self._in_flight: dict[int, Any] = {}
        self._spilled: dict[int, SpilledItem] = {}
        self._unsendable: list[PreprocessError] = []
        # In the caller's context: what its items ask for there, they ask on behalf of this very call (turns.py).
        self._threads = [
            threading.Thread(
                target=contextvars.copy_context().run, args=(self._feed, *pair), name="ringfeed-feeder", daemon=True
            )
            for pair in zip(parts, rings, strict=True)
        ]

    # ---- for the model's thread ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to feed. Whoever calls it calls `stop` afterwards, also if a signal handler raises within it."""
        for thread in self._threads:
            thread.start()

    @property
    def fed_all(self) -> bool:
        """Whether all parts have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def in_flight(self) -> int:
        """Number of items fed and not done."""
        return len(self._in_flight)

    def done(self, indices: list[int]) -> list[Any]:
        """Take note that items are done. Returns each, or `NOT_IN_FLIGHT` in its place."""
        pop = self._in_flight.pop
        items = [pop(index, NOT_IN_FLIGHT) for index in indices]
        if self._spilled:
            for index in indices:
                spilled = self._spilled.pop(index, None)
                if spilled is not None:
                    spilled.remove()
        return items

    def slide(self, count: int) -> None:
        """Let `count` more items in."""
        if self._window is not None and count:
            self._slid += count
            self._has_slid.set()

    def unsendable(self) -> list[PreprocessError]:
        """Return, once, the errors of items that could not be sent to a worker."""
        with self._lock:
            errors, self._unsendable = self._unsendable, []
        return errors

    def stop(self) -> None:
        """Feed no more, take back what no worker has taken, and forget what is in flight.

        In a forked child it does nothing: it is its parent that feeds.
        """
        if os.getpid() != self._process:
            return
        self._stopped.set()
        for thread in [thread for thread in self._threads if thread.ident is not None]:
            # One that waits in the user's own iterator can not be stopped; it ends after its item.
            thread.join(_SLICE_SECONDS * 2)
        for ring in self._rings:
            _empty(ring)
        self.done(list(self._in_flight))

    # ---- in the threads ------------------------------------------------------------------------------

    def _feed(self, part: Iterator[tuple[int, Any]], ring: Ring) -> None:
        # Each freed slot wakes this thread. As a batch thread it waits for a core to be free and then lays in many
        # items, instead of taking the core from a worker for one (digits on 2 cores: 125 us of CPU each became 95).
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        try:
            room = ring.spec["message"].shape[0]
            while not self._stopped.is_set():
                if not self._enter_window():
                    return
                try:
                    index, item = next(part)
                except StopIteration:
                    return
                if os.getpid() != self._process:  # the iterator forked, and this is the child
                    return
                self._send(ring, room, index, item)
        except BaseException as error:  # also RingClosed, be it of our rings: items are left that nobody fed
            self.error = error

    def _enter_window(self) -> bool:
        if self._window is None:
            return True
        while self._entered - self._slid >= self._window:
            self._has_slid.clear()
            if self._entered - self._slid >= self._window:
                self._has_slid.wait(_SLICE_SECONDS)
            if self._stopped.is_set():
                return False
        self._entered += 1
        return True

    def _send(self, ring: Ring, room: int, index: int, item: Any) -> None:
        spilled = None
        try:
            encoded = EncodedItem(item)
            if encoded.message_bytes > room:
                spilled = self._spill.lay(encoded)
        except BaseException as error:  # this thread gets no Ctrl-C: whatever it is, the item raised it
            if self._spill.closed:
                raise
            self._refuse(index, item, error)
            return
        # In flight before the ring has it: a fast worker may be done before we are here again.
        if spilled is not None:
            self._spilled[index] = spilled
        self._in_flight[index] = item
        while not self._stopped.is_set():
            try:
                slot = ring.claim(timeout=_SLICE_SECONDS)
            except RingFull:
                continue
            with slot:
                (spilled or encoded).write(slot["message"])
                slot.tag = self._tag | index
            return

    def _refuse(self, index: int, item: Any, error: BaseException) -> None:
        refusal = unsendable_error(error, index, item)
        with self._lock:
            self._unsendable.append(refusal)


def _empty(ring: Ring) -> None:
    """Take everything that lies ready, and drop it."""
    try:
        while True:
            ring.take(ring.slots, timeout=0).release()
    except (RingEmpty, RingFinished, RingClosed):
        pass
