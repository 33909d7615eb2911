"""SIGTERM, as an orchestrator sends it: the main thread receives it while an engine runs in the foreground.

It may not know engines, nor how they end.
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
"""The exit status that a shell reports for a process that SIGTERM ended."""

_SLICE_SECONDS = 0.2
"""How long the main thread may take to run the handler of a signal that did not wake it; see `wait_in_slices`."""


def wait_in_slices(seconds: float | None, wait: Callable[[float], Any]) -> bool:
    """Wait in slices, so that the main thread runs signal handlers soon.

    Python runs a handler between two instructions of the main thread. A signal may arrive just before that thread goes
    to sleep, or the kernel may deliver it to another thread. Without slices the handler would run only after the wait.

    Parameters
    ----------
    seconds : float or None
        None waits without limit.
    wait : callable
        ``wait(seconds)`` returns whether the awaited event happened.

    Returns
    -------
    bool
        False if `seconds` passed first.
    """
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    _raise_lost_exit()
    while not wait(max(0.0, min(_SLICE_SECONDS, deadline - time.monotonic()))):
        _raise_lost_exit()
        if time.monotonic() >= deadline:
            return False
    return True


_blocks: list[Terminations] = []  # those of this process that have installed a handler


def _raise_lost_exit() -> None:
    """Raise the `SystemExit` of a second SIGTERM again if it was lost on its way, as in a destructor."""
    if threading.current_thread() is threading.main_thread():
        for block in _blocks:
            if block.is_repeated:
                block.is_repeated = False
                raise SystemExit(STATUS)


class Terminations:
    """A context manager: inside its block the first SIGTERM is an event, and the second raises `SystemExit`.

    A handler that the program has installed stays in place. Process 1 of a PID namespace receives SIGTERM, too, which
    the kernel drops without a handler. The end of the block restores the previous handler. Outside of the main thread
    the block has no effect.
    """

    def __init__(self) -> None:
        self._events: SimpleQueue[bool] = SimpleQueue()
        self._before: Any = None
        self._is_installed = self._waits_for_events = False
        self._received = 0
        self.is_repeated = False

    def __enter__(self) -> Terminations:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGTERM)
            self._is_installed = self._before in (signal.SIG_DFL, signal.SIG_IGN)
        if self._is_installed:
            signal.signal(signal.SIGTERM, self._handle)
            _blocks.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_installed:
            signal.signal(signal.SIGTERM, self._before)
            _blocks.remove(self)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        if self._received > 1 or not self._waits_for_events:
            self.is_repeated = True
            raise SystemExit(STATUS)
        self._events.put(True)

    def end(self) -> None:
        """End `wait`; any thread may call this."""
        self._events.put(False)

    def wait(self) -> bool:
        """Wait for SIGTERM (true) or `end` (false). Before this call, SIGTERM raises `SystemExit` at once."""
        self._waits_for_events = True
        while True:
            with contextlib.suppress(Empty):
                return self._events.get(timeout=_SLICE_SECONDS)
