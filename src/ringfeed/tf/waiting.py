"""Waiting for records in TensorFlow's threads: with an eye on Ctrl-C, on a ring that is all held, and on the exit.

It may not know of datasets or tensors. No signal handler of Python's runs in these threads, nor in
the main thread while it is inside TensorFlow and waits for them; and a thread that is inside Python
when the interpreter ends takes the process down with it.
"""

from __future__ import annotations

import atexit
import gc
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from .._core import InterruptWatch

if TYPE_CHECKING:
    from ..ring import Ring

STALL_SECONDS = 5.0
"""A ring whose every slot is held for so long is worth a word."""

_ABANDONED_SECONDS = 1.0
_EXIT_SECONDS = 2.0
_QUIET_SECONDS = 0.03  # a thread that has just left comes back for the end of its turn


class StalledFeedWarning(RuntimeWarning):
    """Every slot of the ring is held by tensors that are alive, so that no record can come."""


class Wait:
    """One wait for a batch, over as many calls as it takes.

    Attributes
    ----------
    began : float
        ``time.monotonic()`` seconds.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._interrupts = InterruptWatch()
        self._handled = 0
        self._main_thread_was_at: tuple[int, int] | None = None
        self._stalled_since: float | None = None
        self._paused: float | None = None

    def pause(self) -> None:
        """Say that TensorFlow will come back for more, unless it has lost interest."""
        self._paused = time.monotonic()

    def was_abandoned(self) -> bool:
        """Tell whether TensorFlow did not come back at once: who comes now begins a wait of its own."""
        return self._paused is not None and time.monotonic() - self._paused > _ABANDONED_SECONDS

    def seconds_left(self, timeout: float | None) -> float | None:
        """Return how much is left of `timeout` seconds for the whole wait."""
        return None if timeout is None else max(0.0, self.began + timeout - time.monotonic())

    def is_interrupted(self) -> bool:
        """Tell whether Ctrl-C was pressed and the main thread can not handle it, being inside TensorFlow."""
        seen = self._interrupts.seen
        if seen == self._handled:
            return False
        frame = _main_thread_frame()
        now_at = _position(frame)
        if not _is_tensorflows(frame) or self._main_thread_was_at not in (None, now_at):
            # It runs Python, and so has run the handler: what comes of it is the program's affair.
            self._handled = seen
            self._main_thread_was_at = None
            return False
        if self._main_thread_was_at is None:
            self._main_thread_was_at = now_at
            return False
        return True

    def check_stall(self, ring: Ring, stats: dict[str, int]) -> None:
        """Say it when every slot is held by tensors: if the program waits for this feed, it waits for ever.

        Before that, let go of what is garbage: from Python 3.12 on, ``keras.Model.predict`` leaves its last batch in
        a circle of references (an exception, its traceback, the frame).
        """
        if stats["free"] or stats["claimed"] or stats["ready"]:
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = time.monotonic()
            gc.collect()
        elif time.monotonic() - self._stalled_since >= STALL_SECONDS:
            self._stalled_since = float("inf")  # once is enough
            warnings.warn(
                f"ring {ring.name!r}: a feed waits for records, but all {stats['slots']} slots are held by tensors or "
                "batches that are still alive. Drop them (`del batch` at the end of a loop's body), take smaller "
                "batches, or create the ring with more slots.",
                StalledFeedWarning,
                stacklevel=2,
            )


def _main_thread_frame() -> FrameType | None:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def _is_tensorflows(frame: FrameType | None) -> bool:
    """Tell whether a thread is inside TensorFlow, or in its Python; a sleep or a lock lets handlers run."""
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "tensorflow"


def _position(frame: FrameType | None) -> tuple[int, int]:
    return (0, 0) if frame is None else (id(frame), frame.f_lasti)


def main_thread_asks_for_an_element() -> bool:
    """Tell whether the main thread is inside ``next(iterator)``, rather than in a graph or in something else."""
    frame = _main_thread_frame()
    return frame is not None and frame.f_code.co_name == "iterator_get_next"


# ---- The end of the interpreter ----------------------------------------------------------------------

_inside: set[int] = set()  # threads of TensorFlow's that are in our code
_used = False
_ending = False


@contextmanager
def inside_python() -> Iterator[None]:
    """Mark a call by one of TensorFlow's threads, which the interpreter's end waits for."""
    global _used
    _used = True
    thread = threading.get_ident()
    _inside.add(thread)
    try:
        yield
    finally:
        _inside.discard(thread)


def is_ending() -> bool:
    """Tell whether the interpreter ends: every feed does, too."""
    return _ending


@atexit.register
def _wait_for_threads() -> None:
    """Let TensorFlow's threads learn that there is nothing more, before it is too late for them to be in Python."""
    global _ending
    _ending = True
    give_up = time.monotonic() + _EXIT_SECONDS
    quiet_since = time.monotonic()
    while _used and (now := time.monotonic()) < min(give_up, quiet_since + _QUIET_SECONDS):
        if _inside - {threading.get_ident()}:
            quiet_since = now
        time.sleep(0.002)
