"""Wait for records in TensorFlow's threads: answer Ctrl-C, and warn if every slot of the ring is held.

This file may not know datasets or tensors. Python runs no signal handler in these threads, nor in the main thread while
it is inside TensorFlow and waits for them.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from ... import stall
from ..._core import InterruptWatch, main_thread_runs
from ...stall import StalledRingWarning
from .dataset_steps import steps_that_hold_elements
from .iterator_watch import is_in_tensorflow

if TYPE_CHECKING:
    from ...ring import Ring

ROUND_SECONDS = 0.25
"""Seconds that a round of a feed may be idle, and so the longest time that deleting an iterator may take."""

STALL_SECONDS = stall.STALL_SECONDS
"""Seconds that every slot of a ring must be held before a warning."""

_ABANDONED_SECONDS = 1.0  # a wait that TensorFlow did not continue for this long is over
_DEAF_SECONDS = 0.05  # a main thread that runs no Python for this long cannot handle Ctrl-C


class StalledFeedWarning(StalledRingWarning):
    """Every slot of the ring is held by tensors that are alive, so no producer can write a record."""


class CtrlC:
    """Tells whether waiting threads must answer Ctrl-C, because the main thread is inside TensorFlow.

    If the main thread runs Python code, it runs its signal handlers itself, and the program decides what follows.
    """

    def __init__(self) -> None:
        self._asked: tuple[float, int] | None = None

    def must_be_answered(self) -> bool | None:
        """Tell whether a Ctrl-C must be answered; False if the main thread handles it, None to ask again later."""
        now, runs = time.monotonic(), main_thread_runs()
        if self._asked is None:
            self._asked = now, runs
        since, ran = self._asked
        # During a sleep or a wait for a lock outside TensorFlow, Python runs the handlers.
        if runs == ran and is_in_tensorflow(_main_thread_frame()):
            if now - since < _DEAF_SECONDS:
                return None
            self._asked = None
            return True
        self._asked = None
        return False


class Stall(stall.Stall):
    """Notices that every slot of a ring is held by tensors: a program that waits for this feed may wait for ever.

    Garbage is collected at once: from Python 3.12 on, ``keras.Model.predict`` leaves its last batch in a cycle of
    references (an exception, its traceback, the frame).
    """

    def __init__(self) -> None:
        super().__init__(StalledFeedWarning, lambda: STALL_SECONDS)

    def goes_on_at(self, name: str, slots: int, holders: Callable[[], list[str]] = list) -> None:
        """Record a stall of the ring `name`; `holders` finds the steps that hold elements of its datasets."""

        def say(_: float) -> str:
            steps = holders()
            here = f" Behind this one stands {', '.join(steps)}." if steps else ""
            return (
                f"ring {name!r}: a feed waits for records, but all {slots} slots are held by tensors or "
                "batches that are still alive. Delete them (`del batch` at the end of a loop's body), take smaller "
                "batches, or create the ring with more slots. Steps behind a dataset hold its elements, too: .shuffle, "
                f".cache, .batch, .window, .prefetch.{here} Give them copies (copy=True), or shuffle before the ring."
            )

        self.goes_on(say)


class Wait:
    """One wait for a batch, which may span several calls.

    Attributes
    ----------
    began : float
        Start of the wait, in seconds of ``time.monotonic()``.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._interrupts = InterruptWatch()
        self._handled = 0
        self._ctrl_c = CtrlC()
        self._stall = Stall()
        self._paused: float | None = None

    def pause(self) -> None:
        """Pause the wait until TensorFlow asks again, unless it does not need more elements."""
        self._paused = time.monotonic()

    def was_abandoned(self) -> bool:
        """Tell whether TensorFlow did not ask again soon, so that the next call begins a new wait."""
        return self._paused is not None and time.monotonic() - self._paused > _ABANDONED_SECONDS

    def seconds_left(self, timeout: float | None) -> float | None:
        """Return the seconds that are left of the whole wait's `timeout`."""
        return None if timeout is None else max(0.0, self.began + timeout - time.monotonic())

    def is_interrupted(self) -> bool:
        """Tell whether Ctrl-C was pressed and the main thread cannot handle it because it is inside TensorFlow."""
        seen = self._interrupts.seen
        if seen == self._handled:
            return False
        answer = self._ctrl_c.must_be_answered()
        if answer is False:
            self._handled = seen
        return answer is True

    def check_stall(self, ring: Ring, stats: dict[str, int]) -> None:
        """Record whether every slot is held."""
        if stats["free"] or stats["claimed"] or stats["ready"]:
            self._stall.over()
        else:
            self._stall.goes_on_at(ring.name, stats["slots"], lambda: steps_that_hold_elements(ring))


def _main_thread_frame() -> FrameType | None:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def main_thread_asks_for_an_element() -> bool:
    """Tell whether the main thread is inside ``next(iterator)``, and not in a graph or elsewhere."""
    frame = _main_thread_frame()
    while frame is not None and not is_in_tensorflow(frame):  # the calling thread may be the main thread
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "iterator_get_next"
