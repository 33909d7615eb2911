"""SIGTERM, as an orchestrator sends it: heard by the main thread while something runs in the foreground.

It may not know what runs, nor what ending it well means.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Any

STATUS = 128 + signal.SIGTERM
"""What a shell reports of a process that SIGTERM ended."""

_SLICE_SECONDS = 0.2  # in which the main thread hears a signal that did not wake it; see hear_within


def hear_within(seconds: float | None, wait: Callable[[float], Any]) -> bool:
    """Wait in slices, so that the main thread hears each signal soon.

    Python runs a handler between two instructions of the main thread. A signal that comes when that thread is about to
    fall asleep, or that the kernel gives to another thread, would be heard when the wait is over.

    Parameters
    ----------
    seconds : float or None
        None waits for ever.
    wait : callable
        ``wait(seconds)``; true when what it waits for is there.

    Returns
    -------
    bool
        False when `seconds` were over before.
    """
    until = math.inf if seconds is None else time.monotonic() + seconds
    while not wait(max(0.0, min(_SLICE_SECONDS, until - time.monotonic()))):
        if time.monotonic() >= until:
            return False
    return True


class Terminations:
    """Within its block the first SIGTERM is an event and the next one raises `SystemExit`.

    A handler of the program's own stays in place: it is not this one's to replace. Process 1 of a PID namespace hears
    SIGTERM, too, which the kernel drops where there is no handler. What was there before comes back at the block's end.
    In other threads than the main one nothing is heard.
    """

    def __init__(self) -> None:
        self._events: SimpleQueue[bool] = SimpleQueue()
        self._before: Any = None
        self._listens = self._waits_for_events = False
        self._heard = 0

    def __enter__(self) -> Terminations:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGTERM)
            self._listens = self._before in (signal.SIG_DFL, signal.SIG_IGN)
        if self._listens:
            signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard += 1
        if self._heard > 1 or not self._waits_for_events:
            raise SystemExit(STATUS)
        self._events.put(True)

    def end(self) -> None:
        """Say, from any thread, that what runs has ended."""
        self._events.put(False)

    def wait(self) -> bool:
        """Wait for SIGTERM (true) or the end (false). Before that SIGTERM raises `SystemExit` at once."""
        self._waits_for_events = True
        while True:
            with contextlib.suppress(Empty):
                return self._events.get(timeout=_SLICE_SECONDS)
