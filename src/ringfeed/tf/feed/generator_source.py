"""The iterations behind `from_generator`: take batches in TensorFlow's threads, as arrays over the ring's own memory.

This file may not know the native op, nor the steps behind the dataset. How it works:

TensorFlow borrows an array's memory without a copy if the array is contiguous, has the right dtype and is aligned to 64
bytes. Contiguous slots meet these conditions. The array holds the slots' lease, so the slots are free when TensorFlow
releases the array. It does so in two steps. A tensor that dies in one of TensorFlow's threads puts its array on a list.
The list is emptied after the next call into Python, and when an eager tensor dies. If the arrays of the last slots were
on that list while a generator only waited, it would wait for ever. So the generator creates and deletes an eager tensor
before it takes a batch, and repeatedly while every slot is held (`_wait_for_slots`).
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from ..._core import Batch
from ...ctrl_c import ctrl_c_raises
from ...errors import RingClosed, RingEmpty, RingFinished
from ...ring import Ring
from ...stall import minds_stalls
from ..tensors.elements import Element
from ..tensors.zero_copy import aligned_copy
from . import waiting
from .interpreter_exit import inside_python, is_ending
from .iterator_watch import IteratorWatch
from .options import FeedOptions
from .partial_batch import PartialBatch, complete_first, zeros
from .waiting import Wait, main_thread_asks_for_an_element

# Pauses between two checks of a ring whose every slot is held: in total about one time slice of the ring's own waits.
_PAUSES_SECONDS = (0.0002, 0.0005, 0.001, 0.002, *(0.005,) * 9)


class _Interrupted(Exception):
    """Ctrl-C was pressed while a feed waited."""


class GeneratorSource:
    """Takes batches for all iterators of one dataset, in TensorFlow's threads.

    Each attribute is read and replaced as a whole, so that threads need no lock; `_merging` protects the exception.

    Parameters
    ----------
    ring : Ring
        The ring, which is not kept alive.
    element : Element
        The element to return.
    options : FeedOptions
        The checked options.
    cut : bool
        As for `generator`.
    in_rounds : bool
        An iteration ends when it was idle for `waiting.ROUND_SECONDS`; `rounds` tells whether another may begin.
    keep : Ring, optional
        A ring to keep alive, as the attribute `ring`.
    """

    def __init__(
        self,
        ring: Ring,
        element: Element,
        options: FeedOptions,
        *,
        cut: bool,
        in_rounds: bool = False,
        keep: Ring | None = None,
    ) -> None:
        self._ring = weakref.ref(ring)
        self.ring = keep
        self._name = ring.name
        self._element = element
        self._options = options
        self._cut = cut
        self._in_rounds = in_rounds
        self._ended = False
        self._stops = False  # ends the data once
        self._wait: Wait | None = None  # the wait for the next batch, over all rounds
        self._partial: list[PartialBatch] = []
        self._merging = threading.Lock()  # protects `_partial`

    def __call__(self) -> Iterator[Any]:
        """Begin an iteration."""
        return _Iteration(self, None if self._in_rounds else IteratorWatch(self))

    def rounds(self) -> Iterator[bool]:
        """Begin an iteration over rounds: it yields True for each round until there are no more elements."""
        return _Rounds(self)

    def begin_round(self) -> bool:
        """Begin a round; raise StopIteration if there are no more elements."""
        with inside_python():
            if self._ended or self._stops or is_ending():
                self._stops = False
                raise StopIteration
            return True

    def next_element(self, watch: IteratorWatch | None) -> Any:
        """Return the next element; raise StopIteration at the end of the iteration."""
        with inside_python():
            if is_ending() or (watch is not None and watch.is_gone()):
                raise StopIteration
            ring = self._ring()
            if ring is None:
                raise RingClosed(
                    f"ring {self._name!r} was deleted before its dataset. Keep the ring until the last iteration."
                )
            try:
                exact = self._options.exact
                arrays = self._next_of(ring, watch) if exact is None else self._next_exact(ring, exact, watch)
            except RingFinished:
                self._ended = True
                raise StopIteration from None
            except _Interrupted:
                arrays = self._bring_back_to_python()
            return self._element.nest(dict(zip(self._element.fields, arrays, strict=True)))

    def _bring_back_to_python(self) -> list[npt.NDArray[Any]]:
        """End the wait, so that the main thread returns to Python and runs its handler of Ctrl-C.

        The wait must not end with an error: TensorFlow creates its exception in Python code, where the handler would
        already run, and the program would get a RuntimeError ("... REPLACED BY KeyboardInterrupt"). So
        ``next(iterator)`` gets an element that the program never sees, and a graph gets the end of the data.
        """
        if not ctrl_c_raises():
            raise InterruptedError(f"ring {self._name!r}: SIGINT ended a feed's wait for records.")
        if main_thread_asks_for_an_element():
            return zeros(self._element, self._options.exact or 0, self._cut)
        self._stops = True
        raise StopIteration

    def _next_of(self, ring: Ring, watch: IteratorWatch | None) -> list[npt.NDArray[Any]]:
        with self._take(ring, self._options.most, self._options.least, watch) as batch:
            return self._arrays_of(batch)

    def _arrays_of(self, batch: Batch) -> list[npt.NDArray[Any]]:
        arrays = self._element.arrays(batch, cut=self._cut)
        # TensorFlow and NumPy would make two copies of an array with gaps.
        return [aligned_copy(each) if self._options.copy or not each.flags.c_contiguous else each for each in arrays]

    def _next_exact(self, ring: Ring, rows: int, watch: IteratorWatch | None) -> list[npt.NDArray[Any]]:
        """Return exactly `rows` rows: one batch without a copy, or copies of several if records are not contiguous."""
        with self._merging:
            partial = self._partial.pop() if self._partial else PartialBatch(self._element, rows, self._cut)
        try:
            while partial.rows < rows:
                most = min(self._options.most, rows - partial.rows)
                with self._take(ring, most, most, watch) as batch:
                    if len(batch) == rows:
                        return self._arrays_of(batch)
                    partial.add(self._element.arrays(batch, cut=self._cut))
        except BaseException as end:
            # The next iteration continues with the partial batch. At the ring's end there may be no next iteration, so
            # the rows of all partial batches are merged.
            with self._merging:
                self._partial.append(partial)
                completed = complete_first(self._partial) if isinstance(end, RingFinished) else None
            if completed is None:
                raise
            partial = completed
        return partial.arrays

    def _take(self, ring: Ring, most: int, least: int, watch: IteratorWatch | None) -> Batch:
        """Take a batch; raise StopIteration if the round ends before a batch is ready."""
        timeout = self._options.timeout
        wait = self._wait
        if wait is None or wait.was_abandoned():
            wait = self._wait = Wait()
        round_ends = time.monotonic() + waiting.ROUND_SECONDS

        @minds_stalls
        def is_idle() -> bool:
            if is_ending() or (watch is not None and watch.is_gone()):
                return True
            if wait.is_interrupted():
                raise _Interrupted
            stats = _wait_for_slots(ring, wait.seconds_left(timeout))
            wait.check_stall(ring, stats)
            # If enough rows are ready, the ring itself waits for more, for at most `linger`.
            return self._in_rounds and stats["ready"] < least and time.monotonic() >= round_ends

        release_dropped_arrays()
        try:
            if timeout != 0 and ring.ready < least:
                _wait_for_slots(ring, wait.seconds_left(timeout))
            batch = ring.take(
                most,
                min_rows=least,
                timeout=wait.seconds_left(timeout),
                linger=self._options.linger,
                while_waiting=is_idle,
            )
        except RingEmpty:
            if wait.seconds_left(timeout) != 0:
                wait.pause()
                raise StopIteration from None
            self._wait = None
            raise RingEmpty(
                f"ring {self._name!r}: {ring.stats()['ready']} of {least} records ready after {timeout:g} s; the "
                "producers are slower than the feed, or tensors that are alive hold their slots. Wait longer "
                "(timeout=), add producers, or delete tensors sooner."
            ) from None
        except BaseException:
            self._wait = None
            raise
        self._wait = None
        return batch


class _Iteration:
    """An iteration over elements; it continues after an error, as the native op does."""

    def __init__(self, source: GeneratorSource, watch: IteratorWatch | None) -> None:
        self._source = source
        self._consumer = watch

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._source.next_element(self._consumer)


class _Rounds:
    def __init__(self, source: GeneratorSource) -> None:
        self._source = source

    def __iter__(self) -> Iterator[bool]:
        return self

    def __next__(self) -> bool:
        return self._source.begin_round()


def release_dropped_arrays() -> None:
    """Make TensorFlow empty its list of arrays that it no longer uses, as it does when an eager tensor dies."""
    tf.constant(0)  # an int32 tensor stays on the host, also with a GPU


def _wait_for_slots(ring: Ring, seconds: float | None) -> dict[str, int]:
    """Empty that list repeatedly while every slot is held, for 50 ms or `seconds`; return the ring's statistics."""
    release_dropped_arrays()
    stats = ring.stats()
    until = math.inf if seconds is None else time.monotonic() + seconds
    for pause in _PAUSES_SECONDS:
        if stats["free"] or stats["claimed"] or stats["ready"] or time.monotonic() + pause > until:
            break
        time.sleep(pause)
        release_dropped_arrays()
        stats = ring.stats()
    return stats
