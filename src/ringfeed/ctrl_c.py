"""Ctrl-C that must not get lost.

Python raises KeyboardInterrupt wherever the main thread is. If that is in a destructor, or in a library that catches
everything (as happens while TensorFlow traces a function), the exception is dropped, and a wait that follows goes on as
if nobody had asked. It may not know who waits, nor for what.
"""

from __future__ import annotations

import signal
import threading

from ._core import InterruptWatch


def ctrl_c_raises() -> bool:
    """Tell whether Python's handler of Ctrl-C is the one that raises KeyboardInterrupt."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


class LostInterrupts:
    """Raises a KeyboardInterrupt again that came while we ran and did not reach us.

    In threads that are not the main one, and where the program has a handler of its own, it does nothing.
    """

    def __init__(self) -> None:
        raises_here = threading.current_thread() is threading.main_thread() and ctrl_c_raises()
        self._watch = InterruptWatch() if raises_here else None
        self._known = 0

    def forget(self) -> None:
        """Take note that other code ran, whose affair it is what becomes of a Ctrl-C."""
        if self._watch is not None:
            self._known = self._watch.seen

    def check(self) -> None:
        """Raise what was lost.

        Raises
        ------
        KeyboardInterrupt
            One came since the last look, and was not raised, or not as far as here.
        """
        if self._watch is None or self._watch.seen == self._known:
            return
        for _ in range(100):
            pass  # if it came just now, it is raised here
        self.forget()
        if ctrl_c_raises():
            raise KeyboardInterrupt
