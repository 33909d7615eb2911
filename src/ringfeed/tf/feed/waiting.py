"""Waiting for records in TensorFlow's threads: with an eye on Ctrl-C, on a ring that is all held, and on the exit.

It may not know of datasets or tensors. No signal handler of Python's runs in these threads, nor in
the main thread while it is inside TensorFlow and waits for them; and a thread that is inside Python
when the interpreter ends takes the process down with it.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from ... import stall
from ..._core import InterruptWatch, main_thread_runs, stop_feeds
from ...stall import StalledRingWarning
from .dataset_steps import holders, is_in_tensorflow

if TYPE_CHECKING:
    from ...ring import Ring

ROUND_SECONDS = 0.25
"""How long a feed's turn may be idle, and so how long dropping an iterator may take."""

STALL_SECONDS = stall.STALL_SECONDS
"""A ring whose every slot is held for so long is worth a word."""

_ABANDONED_SECONDS = 1.0
_DEAF_SECONDS = 0.05  # a main thread that runs no Python for so long does not hear Ctrl-C
_EXIT_SECONDS = 2.0
_QUIET_SECONDS = 0.03  # a thread that has just left comes back for the end of its turn


class StalledFeedWarning(StalledRingWarning):
    """Every slot of the ring is held by tensors that are alive, so that no record can come."""


class CtrlC:
    """Tells whether Ctrl-C must be answered by threads that wait, because the main thread is inside TensorFlow.

    Between two instructions of Python's it runs its handlers itself; what comes of it is the program's affair then.
    """

    def __init__(self) -> None:
        self._asked: tuple[float, int] | None = None

    def look(self) -> bool | None:
        """Return what is known of a Ctrl-C that came: True, it must; False, it was seen to; None, ask again."""
        now, runs = time.monotonic(), main_thread_runs()
        if self._asked is None:
            self._asked = now, runs
        since, ran = self._asked
        # A sleep or a lock lets handlers run.
        if runs == ran and is_in_tensorflow(_main_thread_frame()):
            if now - since < _DEAF_SECONDS:
                return None
            self._asked = None
            return True
        self._asked = None
        return False


class Stall(stall.Stall):
    """Notices that every slot of a ring is held by tensors: if the program waits for this feed, it waits for ever.

    Garbage is collected at once: from Python 3.12 on, ``keras.Model.predict`` leaves its last batch in a circle of
    references (an exception, its traceback, the frame).
    """

    def __init__(self) -> None:
        super().__init__(StalledFeedWarning, lambda: STALL_SECONDS)

    def goes_on_at(self, name: str, slots: int, holders: Callable[[], list[str]] = list) -> None:
        """Take note of it, on a ring of that name. `holders` finds the steps behind its datasets that hold elements."""

        def say(_: float) -> str:
            steps = holders()
            here = f" Behind this one stands {', '.join(steps)}." if steps else ""
            return (
                f"ring {name!r}: a feed waits for records, but all {slots} slots are held by tensors or "
                "batches that are still alive. Drop them (`del batch` at the end of a loop's body), take smaller "
                "batches, or create the ring with more slots. Steps behind a dataset hold its elements, too: .shuffle, "
                f".cache, .batch, .window, .prefetch.{here} Give them copies (copy=True), or shuffle before the ring."
            )

        self.goes_on(say)


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
        self._ctrl_c = CtrlC()
        self._stall = Stall()
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
        """Tell whether Ctrl-C was pressed and the main thread cannot handle it, being inside TensorFlow."""
        seen = self._interrupts.seen
        if seen == self._handled:
            return False
        answer = self._ctrl_c.look()
        if answer is False:
            self._handled = seen
        return answer is True

    def check_stall(self, ring: Ring, stats: dict[str, int]) -> None:
        """Take note whether every slot is held."""
        if stats["free"] or stats["claimed"] or stats["ready"]:
            self._stall.over()
        else:
            self._stall.goes_on_at(ring.name, stats["slots"], lambda: holders(ring))


def _main_thread_frame() -> FrameType | None:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def main_thread_asks_for_an_element() -> bool:
    """Tell whether the main thread is inside ``next(iterator)``, rather than in a graph or in something else."""
    frame = _main_thread_frame()
    while frame is not None and not is_in_tensorflow(frame):  # this may be the main thread
        frame = frame.f_back
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
    while (asking := stop_feeds()) or _used:
        now = time.monotonic()
        if now >= min(give_up, quiet_since + _QUIET_SECONDS):
            return
        if asking or _inside - {threading.get_ident()}:
            quiet_since = now
        time.sleep(0.002)
