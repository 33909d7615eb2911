"""The part of a feed that TensorFlow calls: taking the next batch, turn by turn, and knowing when to stop.

It may not know of datasets; feed.py says what a turn is for.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .._core import Batch
from ..ctrl_c import ctrl_c_raises
from ..errors import RingClosed, RingEmpty, RingFinished
from ..ring import Ring
from . import waiting
from .elements import Element
from .waiting import Wait, inside_python, is_ending, main_thread_asks_for_an_element


@dataclass(frozen=True)
class Plan:
    """What was asked of a dataset, checked.

    Attributes
    ----------
    most, least : int
        Rows of an element.
    linger : float
        Seconds.
    timeout : float or None
        Seconds.
    prefetch : int
        Batches.
    exact : int or None
        Rows of every element, where all are to have the same.
    """

    most: int
    least: int
    linger: float
    timeout: float | None
    prefetch: int
    exact: int | None

    @classmethod
    def of(
        cls,
        ring: Ring,
        batch_size: int,
        min_rows: int,
        linger: float,
        timeout: float | None,
        prefetch: int,
        drop_remainder: bool,
    ) -> Plan:
        """Check what was asked, as `dataset` describes it.

        Raises
        ------
        ValueError, TypeError
            It makes no sense, or not with this ring.
        """
        batch_size, min_rows = whole("batch_size", batch_size, 1), whole("min_rows", min_rows, 1)
        prefetch = whole("prefetch", prefetch, 0)
        most = min(batch_size, (ring.slots + 1) // 2)
        if batch_size > ring.slots:
            raise ValueError(
                f"batch_size {batch_size}: ring {ring.name!r} has only {ring.slots} slots, and an element is at most "
                f"half of them. Create it with slots={(prefetch + 2) * batch_size}, or ask for batches of up to {most}."
            )
        if min_rows > most and not drop_remainder:
            raise ValueError(
                f"min_rows {min_rows}: an element of this dataset has at most {most} rows (batch_size {batch_size}, "
                f"half of the {ring.slots} slots of ring {ring.name!r}). Ask for fewer, or add slots."
            )
        timeout = None if timeout is None else seconds("timeout", timeout)
        exact = batch_size if drop_remainder else None
        return cls(most, min_rows, seconds("linger", linger), timeout, prefetch, exact)


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number of at least `least`; ValueError or TypeError name what is not one."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if is_whole and value >= least:
        return int(value)
    raise (ValueError if is_whole else TypeError)(f"{name} {value!r}: give a whole number of at least {least}.")


def seconds(name: str, value: Any) -> float:
    """Return seconds of at least 0; ValueError or TypeError name what is none."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if is_number and value >= 0:
        return float(value)
    raise (ValueError if is_number else TypeError)(f"{name} {value!r}: give seconds of at least 0.")


class _Interrupted(Exception):
    """Ctrl-C came while a feed waited."""


class Feed:
    """What TensorFlow calls, in threads of its own, for all iterators of one dataset.

    Its attributes are read and replaced whole, so that threads do not need a lock.
    """

    def __init__(self, ring: Ring, element: Element, plan: Plan) -> None:
        self._ring = weakref.ref(ring)
        self._name = ring.name
        self._element = element
        self._plan = plan
        self._ended = False
        self._stops = False  # once
        self._wait: Wait | None = None  # while no batch comes, over all turns
        self._gathered: list[_Gathered] = []

    def goes_on(self) -> Any:
        """Add the op that begins a turn, or ends the dataset."""
        return tf.ensure_shape(tf.numpy_function(self._goes_on, [], tf.bool), ())

    def next_tensors(self, element: Element) -> list[Any]:
        """Add the op that gives the next element's tensors, or ends the turn."""
        specs = list(element.specs(None, cut=False).values())
        tensors = tf.py_function(self._next_batch, [], [spec.dtype for spec in specs])
        for tensor, spec in zip(tensors, specs, strict=True):
            tensor.set_shape(spec.shape)
        return list(tensors)

    # -- called by TensorFlow's threads --

    def _goes_on(self) -> bool:
        with inside_python():
            if self._ended or self._stops or is_ending():
                self._stops = False
                raise StopIteration
            return True

    def _next_batch(self) -> list[Any]:
        """Return the tensors of the next batch, or end the turn."""
        with inside_python():
            if is_ending():
                raise StopIteration
            ring = self._ring()
            if ring is None:
                raise RingClosed(
                    f"ring {self._name!r}: it was dropped before its dataset. Keep it until the last iteration."
                )
            try:
                exact = self._plan.exact
                return self._next_of(ring) if exact is None else self._next_whole(ring, exact)
            except RingFinished:
                self._ended = True
                raise StopIteration from None
            except _Interrupted:
                return self._bring_back_to_python()

    def _bring_back_to_python(self) -> list[Any]:
        """End the wait so that the main thread runs its handler of Ctrl-C, which it does as soon as it can.

        An error would not do: TensorFlow makes its exception with Python code, in which the handler then runs
        already, and what comes out is a RuntimeError ("... REPLACED BY KeyboardInterrupt"). So
        ``next(iterator)`` gets an element that no one will see, and a graph gets the end of the data.
        """
        if not ctrl_c_raises():
            raise InterruptedError(f"ring {self._name!r}: SIGINT ended a feed's wait for records.")
        if main_thread_asks_for_an_element():
            return self._element.nothing(self._plan.exact or 0)
        self._stops = True
        raise StopIteration

    def _next_of(self, ring: Ring) -> list[Any]:
        batch = self._take(ring, self._plan.most, self._plan.least)
        if batch is None:
            raise StopIteration
        with batch:
            return self._element.hand_over(batch)

    def _next_whole(self, ring: Ring, rows: int) -> list[Any]:
        """Return exactly `rows` rows: a batch as it is, or, where records lie apart, copies of several."""
        try:
            gathered = self._gathered.pop()
        except IndexError:
            gathered = _Gathered(self._element)
        while True:
            most = min(self._plan.most, rows - gathered.rows)
            batch = self._take(ring, most, most)
            if batch is None:
                self._gathered.append(gathered)
                raise StopIteration
            with batch:
                if len(batch) == rows:
                    return self._element.hand_over(batch)
                gathered.add(batch)
            if gathered.rows == rows:
                return gathered.tensors()

    def _take(self, ring: Ring, most: int, least: int) -> Batch | None:
        """Take a batch; None when the turn is over before one came."""
        timeout = self._plan.timeout
        wait = self._wait
        if wait is None or wait.was_abandoned():
            wait = self._wait = Wait()
        turn_ends = time.monotonic() + waiting.TURN_SECONDS

        def is_idle() -> bool:
            if is_ending():
                return True
            if wait.is_interrupted():
                raise _Interrupted
            stats = ring.stats()
            wait.check_stall(ring, stats)
            # Where enough is ready, the ring waits for more of it, as `linger` says.
            return stats["ready"] < least and time.monotonic() >= turn_ends

        try:
            batch = ring.take(
                most,
                min_rows=least,
                timeout=wait.seconds_left(timeout),
                linger=self._plan.linger,
                while_waiting=is_idle,
            )
        except RingEmpty:
            if wait.seconds_left(timeout) != 0:
                wait.pause()
                return None
            self._wait = None
            raise RingEmpty(
                f"ring {self._name!r}: {ring.stats()['ready']} of {least} records ready after {timeout:g} s; the "
                "producers are slower than the feed, or tensors that are alive hold their slots. Wait longer "
                "(timeout=), add producers, or drop tensors sooner."
            ) from None
        except BaseException:
            self._wait = None
            raise
        self._wait = None
        return batch


class _Gathered:
    """Rows of several batches, copied."""

    def __init__(self, element: Element) -> None:
        self.rows = 0
        self._element = element
        self._parts: list[list[npt.NDArray[Any]]] = [[] for _ in element.fields]

    def add(self, batch: Batch) -> None:
        for part, rows in zip(self._parts, self._element.arrays(batch), strict=True):
            part.append(rows.copy())
        self.rows += len(batch)

    def tensors(self) -> list[Any]:
        return [tf.constant(np.concatenate(part)) for part in self._parts]
