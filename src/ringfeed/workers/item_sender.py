"""Sending items into the task rings, from threads beside the thread of the model.

Items come in shares, one ring and one thread per share. With a single share, any free worker takes the next item; with
one share per worker, each worker has its own items. It may not know workers, models or results.
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
from .item_errors import unsendable_error
from .items import EncodedItem, SpilledItem, SpillFile

_SLICE_SECONDS = 0.1

NOT_IN_FLIGHT = object()
"""`ItemSender.mark_done` returns this in place of an item that is done already, or was never sent."""


class ItemSender:
    """Threads that put items into rings until the items end or `stop` is called.

    Parameters
    ----------
    shares : list of iterator of (int, object)
        Index and item; each share goes to the ring at its position.
    rings : list of Ring
        As many as shares, with a field ``message`` of uint8.
    spill : SpillFile
        For items that are larger than that field.
    tag : int
        Combined with each index (by or) into the task's tag.
    window : int or None
        The most items that may be read and not yet passed by `advance_window`; for a single share. None is no limit.
    entered : int
        Number of items that were read before, and are still to be passed.

    Attributes
    ----------
    error : BaseException or None
        What ended a thread before its items ended.
    """

    def __init__(
        self,
        shares: list[Iterator[tuple[int, Any]]],
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
        self._entered = entered  # changed by the single sending thread that a window allows
        self._passed = 0  # changed by the thread of the model
        self._has_advanced = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._process = os.getpid()
        # Each thread changes these by single operations of a dict, which need no lock.
        self._in_flight: dict[int, Any] = {}
        self._spilled: dict[int, SpilledItem] = {}
        self._unsendable: list[PreprocessError] = []
        # In the caller's context: if an iterator of items calls the Predictor again, turns.py recognises this call.
        self._threads = [
            threading.Thread(
                target=contextvars.copy_context().run, args=(self._run, *pair), name="ringfeed-item-sender", daemon=True
            )
            for pair in zip(shares, rings, strict=True)
        ]

    # ---- for the thread of the model -----------------------------------------------------------------

    def start(self) -> None:
        """Begin to send. The caller calls `stop` afterwards, even if a signal handler raises within `start`."""
        for thread in self._threads:
            thread.start()

    @property
    def has_sent_all(self) -> bool:
        """Whether all shares have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def in_flight(self) -> int:
        """Number of items that were sent and are not done."""
        return len(self._in_flight)

    def mark_done(self, indices: list[int]) -> list[Any]:
        """Mark items as done. Returns each item, or `NOT_IN_FLIGHT` in its place."""
        pop = self._in_flight.pop
        items = [pop(index, NOT_IN_FLIGHT) for index in indices]
        if self._spilled:
            for index in indices:
                spilled = self._spilled.pop(index, None)
                if spilled is not None:
                    spilled.remove()
        return items

    def advance_window(self, count: int) -> None:
        """Let `count` more items in."""
        if self._window is not None and count:
            self._passed += count
            self._has_advanced.set()

    def take_unsendable(self) -> list[PreprocessError]:
        """Return, once, the errors of items that could not be sent to a worker."""
        with self._lock:
            errors, self._unsendable = self._unsendable, []
        return errors

    def stop(self) -> None:
        """Send no more, take back the tasks that no worker has taken, and forget the items in flight.

        In a forked child it does nothing: the parent sends.
        """
        if os.getpid() != self._process:
            return
        self._stopped.set()
        for thread in [thread for thread in self._threads if thread.ident is not None]:
            # A thread that waits in the user's iterator cannot be stopped; it ends after its item.
            thread.join(_SLICE_SECONDS * 2)
        for ring in self._rings:
            _drop_ready(ring)
        self.mark_done(list(self._in_flight))

    # ---- in the sending threads ----------------------------------------------------------------------

    def _run(self, share: Iterator[tuple[int, Any]], ring: Ring) -> None:
        # Each freed slot wakes this thread. As a batch thread it waits until a core is free and then sends many items,
        # instead of taking the core from a worker for one item (digits on 2 cores: 125 us of CPU each became 95).
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        try:
            room = ring.spec["message"].shape[0]
            while not self._stopped.is_set():
                if not self._enter_window():
                    return
                try:
                    index, item = next(share)
                except StopIteration:
                    return
                if os.getpid() != self._process:  # the iterator forked, and this is the child
                    return
                self._send(ring, room, index, item)
        except BaseException as error:  # also RingClosed, even of our own rings: items remain unsent
            self.error = error

    def _enter_window(self) -> bool:
        if self._window is None:
            return True
        while self._entered - self._passed >= self._window:
            self._has_advanced.clear()
            if self._entered - self._passed >= self._window:
                self._has_advanced.wait(_SLICE_SECONDS)
            if self._stopped.is_set():
                return False
        self._entered += 1
        return True

    def _send(self, ring: Ring, room: int, index: int, item: Any) -> None:
        spilled = None
        try:
            encoded = EncodedItem(item)
            if encoded.message_bytes > room:
                spilled = self._spill.add(encoded)
        except BaseException as error:  # this thread gets no Ctrl-C, so the item raised it
            if self._spill.closed:
                raise
            self._refuse(index, item, error)
            return
        # In flight before the ring has it: a fast worker may be done before the next line runs.
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


def _drop_ready(ring: Ring) -> None:
    """Take all published tasks, and drop them."""
    try:
        while True:
            ring.take(ring.slots, timeout=0).release()
    except (RingEmpty, RingFinished, RingClosed):
        pass
