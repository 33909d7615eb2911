"""Stops the demo on Ctrl-C or SIGTERM within two seconds and without leftovers. Imports no TensorFlow."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


class Stopping:
    """Remembers a requested stop, because TensorFlow may swallow or rename the KeyboardInterrupt that this raises."""

    def __init__(self) -> None:
        self.requested = False

    def at_once(self) -> None:
        """From now on, a stop ends the process at once: there is no clean-up, and imports may swallow exceptions."""
        _on_stop(_leave_at_once)

    def by_exception(self) -> None:
        """From now on, a stop raises KeyboardInterrupt."""
        _on_stop(self._interrupt)

    def not_any_more(self) -> None:
        """From now on, ignore stops, so that the clean-up runs to its end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def raise_if_requested(self) -> None:
        """Raise KeyboardInterrupt again if TensorFlow swallowed it."""
        if self.requested:
            raise KeyboardInterrupt

    def leave(self) -> NoReturn:
        """End the process after the clean-up, because TensorFlow's exit may hang after an interrupted predict."""
        print("Stopped.", flush=True)
        gc.collect()  # frees the semaphores of the closed queues
        os._exit(128 + signal.SIGINT)

    def _interrupt(self, _signal_number: int, _frame: FrameType | None) -> None:
        self.requested = True
        raise KeyboardInterrupt


def _on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def _leave_at_once(_signal_number: int, _frame: FrameType | None) -> None:
    os.write(sys.stdout.fileno(), b"Stopped.\n")
    os._exit(128 + signal.SIGINT)
